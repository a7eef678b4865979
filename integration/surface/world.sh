#!/usr/bin/env bash
# What the surface suite needs besides the common world, below $WORLD/surface:
#   gl-bookworm gl-trixie   layers for images: Debian's loaders of Vulkan, EGL and OpenCL, without X11's libraries
#   x11-bookworm x11-trixie those libraries, which NVIDIA's GLX is linked with
#   trixie                  a small image of Debian 13: glibc, busybox, a 32-bit glibc
#   i386                    NVIDIA's 32-bit libraries, as Debian's non-free packages them for driver 550
#   compat                  layers with CUDA compatibility libraries: made here, the note of each says for which branches
#   needed                  which NVIDIA library is linked with which, read from the files
#   nvml                    nvoci-nvml and two libraries in NVML's place
#   tools                   the programs that look around in a container
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../world/common.sh"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$WORLD/surface

loaders="libvulkan1 libegl1 libglvnd0 libgles2 libopengl0 libglx0 libgl1 ocl-icd-libopencl1"
x11="libx11-6 libxext6 libxcb1 libxau6 libxdmcp6"
driver32="libcuda1 libnvidia-ml1 libnvidia-ptxjitcompiler1 libglx-nvidia0 libegl-nvidia0 libnvidia-glcore libnvidia-eglcore
  libnvidia-glvkspirv libnvidia-gpucomp libnvidia-allocator1 libnvcuvid1 libnvidia-encode1"

build_gl() { # SUITE
  # shellcheck disable=SC2086  # lists of words
  {
    rm -rf "$dir/gl-$1" "$dir/x11-$1"
    unpack "$1" "$dir/gl-$1" $loaders
    unpack "$1" "$dir/x11-$1" $x11 $([ "$1" = trixie ] || echo libbsd0 libmd0)
  }
  rm -rf "$dir"/{gl,x11}-"$1"/usr/share/{doc,man,lintian,bug}
}

# i386_apt TOOL...: the private apt for the other word size.
i386_apt() {
  local tool=$1
  shift
  mkdir -p "$dir/apt-i386/lists/partial" "$dir/apt-i386/cache/archives/partial"
  : >"$dir/apt-i386/status"
  "$tool" -o Dir::Etc::sourcelist="$WORLD/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
    -o Dir::Etc::preferences=/dev/null -o Dir::State::lists="$dir/apt-i386/lists" -o Dir::State::status="$dir/apt-i386/status" \
    -o Dir::Cache="$dir/apt-i386/cache" -o APT::Architecture=i386 -o APT::Architectures=i386 \
    -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}

build_i386() {
  rm -rf "$dir"/{i386,libc-i386,debs-i386}
  mkdir -p "$dir"/{i386,libc-i386,debs-i386}
  i386_apt apt-get update -qq -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
  # shellcheck disable=SC2086
  (cd "$dir/debs-i386" && i386_apt apt-get download -qq $(printf '%s/trixie ' $driver32 libc6))
  for deb in "$dir"/debs-i386/*.deb; do
    case $deb in */libc6_*) dpkg -x "$deb" "$dir/libc-i386" ;; *) dpkg -x "$deb" "$dir/i386" ;; esac
  done
  rm -rf "$dir/debs-i386" "$dir"/{i386,libc-i386}/usr/share
}

build_trixie() {
  local d=$dir/trixie a
  rm -rf "$d" "$dir/parts-trixie"
  unpack trixie "$dir/parts-trixie" libc6 busybox-static
  mkdir -p "$d"/{etc/ld.so.conf.d,tmp,proc,sys,dev,run,var,root} "$d"/usr/{bin,sbin,lib,lib64}
  for a in bin sbin lib lib64; do ln -s "usr/$a" "$d/$a"; done
  cp -a "$dir/parts-trixie/usr/lib/x86_64-linux-gnu" "$d/usr/lib/"
  cp -a "$dir"/libc-i386/usr/lib/i386-linux-gnu "$d/usr/lib/"
  ln -s x86_64-linux-gnu/ld-linux-x86-64.so.2 "$d/usr/lib64/ld-linux-x86-64.so.2" 2>/dev/null
  ln -sf ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$d/usr/lib64/ld-linux-x86-64.so.2"
  ln -sf i386-linux-gnu/ld-linux.so.2 "$d/usr/lib/ld-linux.so.2"
  cp "$dir/parts-trixie/usr/bin/busybox" "$d/usr/bin/busybox"
  for a in sh cat ls sleep true echo grep sed sort find env readlink basename head cut; do ln -s busybox "$d/usr/bin/$a"; done
  cp "$WORLD/probe/probe" "$d/usr/bin/probe"
  printf 'ID=debian\nVERSION_ID=13\n' >"$d/etc/os-release"
  echo 13.0 >"$d/etc/debian_version"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$d/etc/passwd"
  echo 'include /etc/ld.so.conf.d/*.conf' >"$d/etc/ld.so.conf"
  printf '/usr/lib/i386-linux-gnu\n/usr/lib/x86_64-linux-gnu\n' >"$d/etc/ld.so.conf.d/multiarch.conf"
  ldconfig -r "$d"
}

# compat_layer NAME VERSION NOTE: /usr/local/cuda/compat with a libcuda of its own, which loads and
# has a note with its branches.
compat_layer() {
  local lib=$dir/compat/$1/usr/local/cuda-12.9/compat
  mkdir -p "$lib"
  ln -s cuda-12.9 "$dir/compat/$1/usr/local/cuda"
  cat >"$lib/compat.S" <<ASM
.section .note.cuda.fwd_compatibility, "a", @note
.align 4
.long 2f-1f, 4f-3f, 1
1: .asciz "NVIDIA Corporation"
2: .align 4
3: .ascii "$(sed 's/"/\\"/g' <<<"$3")"
4: .align 4
.section .note.GNU-stack, "", @progbits
ASM
  [ -n "$3" ] || printf '.section .note.GNU-stack, "", @progbits\n' >"$lib/compat.S"
  echo 'int nvoci_test_compat(void) { return 575; }' >"$lib/compat.c"
  gcc -shared -fPIC -nostdlib -Wl,-soname,libcuda.so.1 -o "$lib/libcuda.so.$2" "$lib/compat.c" "$lib/compat.S"
  gcc -shared -fPIC -nostdlib -Wl,-soname,libnvidia-ptxjitcompiler.so.1 -o "$lib/libnvidia-ptxjitcompiler.so.$2" "$lib/compat.c"
  rm "$lib"/compat.[cS]
  ln -s "libcuda.so.$2" "$lib/libcuda.so.1"
  ln -s libcuda.so.1 "$lib/libcuda.so"
  ln -s "libnvidia-ptxjitcompiler.so.$2" "$lib/libnvidia-ptxjitcompiler.so.1"
}

build_compat() {
  rm -rf "$dir/compat"
  compat_layer fits 575.57.08 '{"format":1,"CUDA version":"12.9","driver":[535,550,560,565,570,575],"device":[1]}'
  compat_layer other 575.57.08 '{"format":1,"CUDA version":"12.9","driver":[560,565,570,575],"device":[1]}'
  compat_layer same-major 550.999.01 '{"format":1,"CUDA version":"12.4","driver":[535,550],"device":[1]}'
  compat_layer older 520.61.05 ''
}

# The dependencies of the driver's libraries on one another: lines `BITS FILE SONAME`, and each file
# once without a soname.
build_needed() {
  local bits tree f name
  for bits in 64 32; do
    if [ $bits = 64 ]; then tree=$WORLD/drivers/550/tree; else tree=$dir/i386; fi
    find "$tree/usr/lib" -type f -name 'lib*.so.550.*' ! -name 'libvdpau*' | sort | while read -r f; do
      name=${f##*/}
      echo "$bits $name "
      readelf -dW "$f" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | { grep -E '^lib(nvidia-|cuda|nvcuvid|nvoptix)' || true; } | sed "s/^/$bits $name /"
    done
  done >"$dir/needed"
  grep -q . "$dir/needed"
}

build_tools() {
  rm -rf "$dir/tools"
  mkdir -p "$dir/tools/surface"
  gcc -O1 -o "$dir/tools/surface/surface" "$here/../gpu/surface.c" -ldl
  cp "$here/deps" "$dir/tools/surface/deps"
}

# nvoci-nvml, and libraries in NVML's place: one answers if its caller is user nobody, one crashes.
build_nvml() {
  rm -rf "$dir/nvml"
  mkdir -p "$dir/nvml"
  gcc -O2 -Wall -Wextra -o "$dir/nvml/nvoci-nvml" "$here/../../nvml/nvoci-nvml.c" -ldl
  gcc -O1 -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o "$dir/nvml/answers.so" "$here/nvml.c"
  gcc -O1 -shared -fPIC -DCRASH -Wl,-soname,libnvidia-ml.so.1 -o "$dir/nvml/crashes.so" "$here/nvml.c"
}

need gcc gcc
need readelf binutils
mkdir -p "$dir" "$WORLD/stamps/surface"
lock_world
piece apt "$(key_of build_apt)" build_apt
for s in bookworm trixie; do piece "surface/gl-$s" "$(key_of build_gl unpack) $loaders $x11" build_gl "$s"; done
piece surface/i386 "$(key_of build_i386 i386_apt) $driver32" build_i386
piece surface/trixie "$(key_of build_trixie) $(<"$WORLD/stamps/surface/i386") $(<"$WORLD/stamps/probe")" build_trixie
piece surface/compat "$(key_of build_compat compat_layer)" build_compat
piece surface/needed "$(key_of build_needed) $(<"$WORLD/stamps/surface/i386") $(<"$WORLD/stamps/drivers/550")" build_needed
piece surface/tools "$(key_of build_tools) $(cat "$here/deps" "$here/../gpu/surface.c" | sha256sum)" build_tools
piece surface/nvml "$(key_of build_nvml) $(cat "$here/nvml.c" "$here/../../nvml/nvoci-nvml.c" | sha256sum)" build_nvml
