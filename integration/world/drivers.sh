#!/usr/bin/env bash
# NVIDIA's own user-space libraries, as Debian's non-free packages them: $WORLD/drivers/{535,550}.
#   tree/         the packages' files, unpacked, never installed
#   alternatives  the script by which Debian links them into the library directory (layout.sh reads its list)
#   version       the full version
set -euo pipefail
. "$(dirname "$0")/common.sh"

# OptiX is left out: one file is a third of the whole download, and tests only need to handle that
# files are missing.
driver_packages="libcuda1 libcudadebugger1 libnvidia-ml1 nvidia-smi libnvidia-ptxjitcompiler1 libnvidia-nvvm4 libnvcuvid1
  libnvidia-encode1 libnvidia-opticalflow1 libnvidia-cfg1 nvidia-opencl-icd nvidia-opencl-common nvidia-cuda-mps nvidia-persistenced
  libegl-nvidia0 libglx-nvidia0 libgles-nvidia1 libgles-nvidia2 libnvidia-eglcore libnvidia-glcore libnvidia-glvkspirv
  libnvidia-rtcore libnvidia-allocator1 libnvidia-api1 libnvidia-ngx1 libnvidia-fbc1 libnvidia-egl-gbm1 libnvidia-egl-wayland1
  libnvidia-pkcs11-openssl3 nvidia-egl-common nvidia-egl-icd nvidia-vulkan-icd nvidia-vulkan-common nvidia-vdpau-driver
  nvidia-modprobe nvidia-kernel-support nvidia-alternative"

build_driver() {
  local branch=$1 suite=$2 dir=$WORLD/drivers/$1 control version
  shift 2
  rm -rf "$dir"
  unpack "$suite" "$dir/tree" "$@"
  rm -rf "$dir"/tree/usr/share/{doc,man,bug,lintian,applications}
  # Debian 12 still ships some files below /lib; a host with a merged /usr has them in /usr/lib.
  if [ -d "$dir/tree/lib" ]; then cp -a "$dir/tree/lib/." "$dir/tree/usr/lib/"; rm -r "$dir/tree/lib"; fi
  control=$(mktemp -d)
  dpkg -e "$(find "$WORLD/debs/$suite" -name 'nvidia-alternative_*.deb' | sort | tail -n 1)" "$control"
  mv "$control/postinst" "$dir/alternatives"
  rm -r "$control"
  version=$(basename "$(find "$dir/tree" -name 'libcuda.so.*.*')")
  version=${version#libcuda.so.}
  case $version in "$branch".*) ;; *) echo "$suite has driver $version, not $branch"; return 1 ;; esac
  # The GSP firmware is 70 MB a file; where it lies is all that matters here.
  mkdir -p "$dir/tree/usr/lib/firmware/nvidia/$version"
  for f in gsp_ga10x.bin gsp_tu10x.bin; do head -c 4096 /dev/zero >"$dir/tree/usr/lib/firmware/nvidia/$version/$f"; done
  printf '%s\n' "$version" >"$dir/version"
  printf '%s\n' "$@" >"$dir/packages"
}

lock_world
piece apt "$(key_of build_apt)" build_apt
# shellcheck disable=SC2086  # lists of words
{
  piece drivers/535 "$(key_of build_driver unpack) $driver_packages" build_driver 535 bookworm $driver_packages
  piece drivers/550 "$(key_of build_driver unpack) $driver_packages" build_driver 550 trixie $driver_packages libnvidia-gpucomp
}
