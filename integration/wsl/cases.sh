# shellcheck shell=bash disable=SC2034  # variables are for those who source this
# What must be true of a WSL2 container. Sourced after lib.sh and matrix/bundle.sh, on a machine that `host` has made.

DRIVERS=/usr/lib/wsl/drivers
hash_of() { /world/probe/probe --hash "$1" | awk '/^hash/ { print $3 }'; }

# windows LINE...: sets the state of Windows. nvidia PACKAGE [WDDM] and intel are its lines.
windows() { printf '%s\n' "$@" >"$WINDOWS"; }
nvidia() { echo "adapter 10de 2684 ${2:-3100} 32.0.15.6636 C:\\Windows\\System32\\DriverStore\\FileRepository\\$1"; }
intel() { echo "adapter 8086 a780 3100 - C:\\Windows\\System32\\DriverStore\\FileRepository\\$INTEL"; }
usual() { windows "$(intel)" "$(nvidia "$NEW")"; }

# The chain of real programs (stub, libdxcore, device, package), then the probe, in one process.
CHAIN='.mounts += [{destination: "/dev/chain", type: "bind", source: "/world/wsl/chain", options: ["bind", "ro"]}] | .process.args[0] = "/dev/chain"'
QUESTIONS="--lib libcuda.so.1 --lib libnvidia-ml.so.1 --dev /dev/dxg --mknod 10:$MINOR --mknod 10:229 --mknod 1:3 --hash /usr/bin/nvidia-smi \
--hash $DRIVERS/$NEW/libcuda.so.1.1 --hash $DRIVERS/$NEW/nvcubins.bin --hash $DRIVERS/$NEW/nvcuda64.dll --hash $DRIVERS/$NEXT/libcuda.so.1.1 \
--hash $DRIVERS/$STALE/libcuda.so.1.1 --hash $DRIVERS/$INTEL/igd12umd64.dll --hash /usr/lib/wsl/lib/libdxcore.so"

stubs() { # the driver directory's stubs answer to the names that programs ask for, and are the host's
  has "$(out)" "lib libcuda.so.1 ok (/usr/local/nvidia/lib64|/dev/\.nvoci/lib64|/usr/lib/wsl/lib)/libcuda\.so\.1 $(hash_of /usr/lib/wsl/lib/libcuda.so.1)" "libcuda is not the stub" libcuda
  has "$(out)" "lib libnvidia-ml.so.1 ok .*/libnvidia-ml\.so\.1 $(hash_of /usr/lib/wsl/lib/libnvidia-ml.so.1)" "libnvidia-ml is not the host's" libnvidia-ml
}
wsl_lib() { has "$(out)" "hash /usr/lib/wsl/lib/libdxcore.so $(hash_of /usr/lib/wsl/lib/libdxcore.so)" "/usr/lib/wsl/lib does not lead to the stubs" /usr/lib/wsl/lib; }
smi() { has "$(out)" "hash /usr/bin/nvidia-smi $(hash_of /usr/lib/wsl/lib/nvidia-smi)" "no nvidia-smi" /usr/bin/nvidia-smi; }
chain_to() { has "$(out)" "driver $DRIVERS/$1/libcuda.so.1.1" "the stub does not reach the driver" driver; }
package_is() { # PACKAGE: it is there as a whole, and no other of NVIDIA's or anybody's
  local p f
  for f in libcuda.so.1.1 nvcubins.bin nvcuda64.dll; do
    [ "$1" != "$NEW" ] || has "$(out)" "hash $DRIVERS/$NEW/$f $(hash_of "$DRIVERS/$NEW/$f")" "the package lacks $f" "$DRIVERS/$NEW/$f"
  done
  for p in "$NEW" "$NEXT" "$STALE"; do
    if [ "$p" = "$1" ]; then has "$(out)" "hash $DRIVERS/$p/libcuda.so.1.1 $(hash_of "$DRIVERS/$p/libcuda.so.1.1")" "the package is missing" "$DRIVERS/$p/"
    else has "$(out)" "hash $DRIVERS/$p/libcuda.so.1.1 errno-2" "a package that is not the driver's" "$DRIVERS/$p/"; fi
  done
  has "$(out)" "hash $DRIVERS/$INTEL/igd12umd64.dll errno-2" "another vendor's package" "$DRIVERS/$INTEL"
}
device() {
  can_mknod
  has "$(out)" "dev /dev/dxg ${opens:=nodriver}" "/dev/dxg does not open" /dev/dxg
  has "$(out)" "mknod 10:$MINOR $opens" "the device is refused by its number" "10:$MINOR"
  has "$(out)" 'mknod 10:229 refused' "the container's own device rules are gone" '10:229'
}
covered() { has "$(out)" "record .*$NEW of the image is covered.*" "the record does not say what was covered" record; }
chain_new() { chain_to "$NEW"; }
seen() { has "$(out)" "dev /dev/dxg ${opens:=nodriver}" "/dev/dxg does not open" /dev/dxg; }
whole() { stubs; smi; wsl_lib; chain_to "$NEW"; package_is "$NEW"; device; }
whole_but_smi() { stubs; wsl_lib; chain_to "$NEW"; package_is "$NEW"; device; }
whole_next() { stubs; chain_to "$NEXT"; package_is "$NEXT"; device; }
# The layer keeps the directory that packages are in, and no package's name.
eval "$(declare -f clean_layer | sed '1s/clean_layer/clean_any_layer/')"
clean_layer() {
  clean_any_layer
  ! grep -qE 'usr/lib/wsl/drivers/' "$CASE_DIR/layer" || fail "left in the image layer: a package's name"
}
nothing() {
  can_mknod
  has "$(out)" 'dev /dev/dxg absent' "/dev/dxg without a request" /dev/dxg
  has "$(out)" "mknod 10:$MINOR refused" "the device opens without a request" "10:$MINOR"
  has "$(out)" "hash $DRIVERS/$NEW/libcuda.so.1.1 errno-2" "a package without a request" "$DRIVERS/$NEW"
}
