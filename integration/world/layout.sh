#!/usr/bin/env bash
# layout.sh DRIVER LAYOUT DEST: lay a driver out below DEST the way hosts have it.
#   flat      everything in /usr/lib/x86_64-linux-gnu and /usr/bin, as NVIDIA's own installer does on Debian and Ubuntu
#   current   Debian: files in /usr/lib/x86_64-linux-gnu/nvidia/current, found through the links of its alternatives
#   usrlocal  /usr/local/nvidia/{lib64,bin}, named by no loader configuration, as on container-optimised systems
# Files are hard links to the cache: cheap, and never to be written to.
set -euo pipefail
. "$(dirname "$0")/common.sh"
driver=$WORLD/drivers/$1 layout=$2 dest=$3 triplet=x86_64-linux-gnu
version=$(<"$driver/version")

mkdir -p "$dest"
cp -al "$driver/tree/." "$dest/"
current=$dest/usr/lib/$triplet/nvidia/current

# link TARGET NAME SOURCE: one alternative, if its source exists (paths are the host's).
link() {
  [ -e "$dest$3" ] || [ -L "$dest$3" ] || return 0
  mkdir -p "$dest$(dirname "$1")" "$dest/etc/alternatives"
  ln -sfn "$3" "$dest/etc/alternatives/$2"
  ln -sfn "/etc/alternatives/$2" "$dest$1"
}

# Debian's own list of links, read out of the package's script: `add_slave TARGET NAME SOURCE` and
# `add_multiarch_slave DIR SUBDIR FILE SOURCEDIR SOURCESUBDIR`, each alone on its line.
link_alternatives() {
  local line
  while read -r line; do
    eval "set -- $line"
    case $1 in
      add_slave) link "$2" "nvidia--$3" "$4" ;;
      add_multiarch_slave) link "$2/$triplet/$3$4" "nvidia--$4-$triplet" "$5/$triplet/$6$4" ;;
    esac
  done < <(sed -n 's/^[[:space:]]*\$(\(add_slave [^)]*\|add_multiarch_slave [^)]*\))$/\1/p' "$driver/alternatives")
  # glx-alternative-nvidia's part: the one library of ours which goes through both sets of links
  link "/usr/lib/$triplet/libnvidia-cfg.so.1" "glx--libnvidia-cfg.so.1-$triplet" "/usr/lib/$triplet/nvidia/libnvidia-cfg.so.1"
}

# gather LIBDIR BINDIR: take the files out of Debian's private directories.
gather() {
  local lib=$dest$1 bin=$dest$2
  mkdir -p "$lib" "$bin"
  mv "$current" "$dest/gathered"
  rmdir "$dest/usr/lib/$triplet/nvidia"
  find "$dest/gathered" -mindepth 1 -maxdepth 1 -exec mv -t "$lib" {} +
  rmdir "$dest/gathered"
  for f in "$dest"/usr/lib/nvidia/current/*; do
    if [ -f "$f" ] && [ -x "$f" ]; then mv "$f" "$bin/"; fi
  done
  rm -rf "$dest/usr/lib/nvidia"
  if [ -e "$lib/libvdpau_nvidia.so.$version" ]; then
    mkdir -p "$lib/vdpau"
    mv "$lib"/libvdpau_nvidia.so* "$lib/vdpau/"
  fi
  if [ -e "$lib/libnvidia-allocator.so.$version" ]; then
    mkdir -p "$lib/gbm"
    ln -sfn "../libnvidia-allocator.so.$version" "$lib/gbm/nvidia-drm_gbm.so"
    rm -f "$lib/nvidia-drm_gbm.so"
  fi
  if [ "$1" != "/usr/lib/$triplet" ]; then
    find "$dest/usr/lib/$triplet" -maxdepth 1 \( -type f -o -type l \) -name '*.so*' -exec mv -t "$lib" {} +
    find "$dest/usr/bin" -mindepth 1 -exec mv -t "$bin" {} +
    ldconfig -n "$lib"
  fi
}

case $layout in
  flat) gather "/usr/lib/$triplet" /usr/bin ;;
  usrlocal) gather /usr/local/nvidia/lib64 /usr/local/nvidia/bin ;;
  current) link_alternatives ;;
  *) die "no such layout: $layout (flat, current, usrlocal)" ;;
esac
