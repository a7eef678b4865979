# shellcheck shell=bash
# A simulated driver: the files of a host with NVIDIA GPUs in /proc and /dev. Sourced by simulated
# hosts and by guests.

# fake_driver VERSION BRANCH GPUS MINORS, in a root directory: /proc/driver/nvidia, /proc/devices and the nodes, as the drivers have
# them (their shape is a recorded host's). $FAKE is a directory for the files that are bound there. UVM_MAJOR and CAPS_MAJOR: other
# numbers, since those are dynamic.
fake_driver() {
  local version=$1 branch=$2 gpus=$3 p=proc/driver/nvidia i minor bus uuid uvm=${UVM_MAJOR:-238} caps=${CAPS_MAJOR:-241}
  local -a minors
  read -ra minors <<<"$4"
  mount -t tmpfs -o mode=555 tmpfs proc/driver
  mkdir -p "$p"/{gpus,capabilities/mig,patches,warnings} proc/driver/nvidia-caps
  if [ "$branch" = 535 ]; then
    printf 'NVRM version: NVIDIA UNIX x86_64 Kernel Module  %s  Thu Jul 31 18:09:17 UTC 2025\n' "$version"
  else
    printf 'NVRM version: NVIDIA UNIX Open Kernel Module for %s  %s  Release Build  (builder@)  Thu Apr 10 12:02:09 UTC 2025\n' "$(uname -m)" "$version"
  fi >"$p/version"
  echo 'GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)' >>"$p/version"
  cat >"$p/params" <<-'EOF'
	ResmanDebugLevel: 4294967295
	RmLogonRC: 1
	ModifyDeviceFiles: 1
	DeviceFileUID: 0
	DeviceFileGID: 0
	DeviceFileMode: 438
	InitializeSystemMemoryAllocations: 1
	EnableMSI: 1
	MemoryPoolSize: 0
	RegisterPCIDriver: 1
	EnableGpuFirmware: 18
	RegistryDwords: ""
	RegistryDwordsPerDevice: ""
	RmMsg: ""
	GpuBlacklist: ""
	TemporaryFilePath: ""
	ExcludedGpus: ""
	EOF
  echo 'Binary: ""' >"$p/registry"
  printf 'DeviceFileMinor: 1\nDeviceFileMode: 256\nDeviceFileModify: 1\n' >"$p/capabilities/mig/config"
  printf 'DeviceFileMinor: 2\nDeviceFileMode: 292\nDeviceFileModify: 1\n' >"$p/capabilities/mig/monitor"
  printf 'config 1\nmonitor 2\ngpu0/gi0/access 3\ngpu0/gi0/ci0/access 4\n' >proc/driver/nvidia-caps/mig-minors
  for ((i = 0; i < gpus; i++)); do
    minor=${minors[i]:-$i}
    bus=$(printf '0000:%02x:00.0' $((6 + i)))
    uuid=$(printf 'GPU-%08x-6d09-4804-74aa-d9624af686c0' $((0x5eed0000 + i)))
    mkdir "$p/gpus/$bus"
    printf '%s\n' $'Model: \t\t NVIDIA H100 80GB HBM3' $'IRQ:   \t\t '$((41 + i)) $'GPU UUID: \t '"$uuid" $'Video BIOS: \t 96.00.cf.00.01' \
      $'Bus Type: \t PCIe' $'DMA Size: \t 52 bits' $'DMA Mask: \t 0xfffffffffffff' $'Bus Location: \t '"$bus" $'Device Minor: \t '"$minor" \
      $'GPU Firmware: \t '"$version" $'GPU Excluded:\t No' >"$p/gpus/$bus/information"
    echo 'Binary: ""' >"$p/gpus/$bus/registry"
    mknod -m 666 "dev/nvidia$minor" c 195 "$minor"
  done
  mknod -m 666 dev/nvidiactl c 195 255
  mknod -m 666 dev/nvidia-modeset c 195 254
  mknod -m 666 dev/nvidia-uvm c "$uvm" 0
  mknod -m 666 dev/nvidia-uvm-tools c "$uvm" 1
  mkdir dev/nvidia-caps
  mknod -m 400 dev/nvidia-caps/nvidia-cap1 c "$caps" 1
  mknod -m 444 dev/nvidia-caps/nvidia-cap2 c "$caps" 2

  # These majors are free on this kernel, or the simulation would be a lie.
  ! grep -qE "^ *(195|$uvm|$caps) " proc/devices || { echo "this kernel uses one of the majors 195, $uvm, $caps" >&2; exit 1; }
  awk '/^Block/ { exit } NF == 2 { print }' proc/devices |
    { cat; printf '195 nvidia\n195 nvidiactl\n%d nvidia-uvm\n%d nvidia-caps\n' "$uvm" "$caps"; } | grep -v '^Char' | sort -s -n >"$FAKE/chars"
  { echo 'Character devices:'; sed 's/^ *\([0-9]*\) /\1 /' "$FAKE/chars" | awk '{ printf "%3d %s\n", $1, $2 }'
    echo; sed -n '/^Block/,$p' proc/devices; } >"$FAKE/devices"
  mount --bind -o ro "$FAKE/devices" proc/devices
  if [ -e proc/modules ]; then # a kernel without modules has none, and nowhere to put one
    { printf 'nvidia_uvm 1830912 0 - Live 0x0000000000000000 (O)\nnvidia 14299136 1 nvidia_uvm, Live 0x0000000000000000 (O)\n'; cat proc/modules; } >"$FAKE/modules"
    mount --bind -o ro "$FAKE/modules" proc/modules
  fi
}
