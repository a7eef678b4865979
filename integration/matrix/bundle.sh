# shellcheck shell=bash
# OCI bundles for plain runtimes, and what must be true in and around a container. Sourced inside a simulated host, after lib.sh.
#
# HOOK is the hook's command (default /usr/bin/nvoci; empty: no hook at all), HOOK_ARGS what stands before the stage in its arguments.

HOOK=${HOOK-/usr/bin/nvoci}
HOOK_ARGS=${HOOK_ARGS:-nvoci hook}
BUNDLES=/scratch/bundles
mkdir -p "$BUNDLES"

# The host's driver: its version, and the content of the two libraries that every container loads.
if [ "${SIM_DRIVER:-none}" != none ]; then
  VERSION=$(</world/drivers/"$SIM_DRIVER"/version)
  host_hash() { /world/probe/probe-static --hash "$(find "/world/drivers/$SIM_DRIVER/tree" -name "$1.$VERSION")" | awk '/^hash/ { print $3 }'; }
  CUDA_HASH=$(host_hash libcuda.so) ML_HASH=$(host_hash libnvidia-ml.so)
fi

# make_bundle RUNTIME STAGE IMAGE [ENV=VALUE]...: makes $BUNDLE. The file system is an overlay on the cached image, so that the
# layer a container leaves behind lies open afterwards, as it would for `docker diff`.
# The caller may set PROBE (its arguments), JQ (a further edit of config.json), SEALED (the file system itself is read-only), LAYER
# (directories, with colons between them, that are laid over the image).
make_bundle() {
  local runtime=$1 stage=$2 image=$3 spec=$BUNDLES/spec-$1.json
  shift 3
  local image_dir=/world/images/$image
  [ -d "$image_dir" ] || image_dir=/world/surface/$image
  BUNDLE=$BUNDLES/$RANDOM$RANDOM
  mkdir -p "$BUNDLE"/{rootfs,upper,work}
  mount -t overlay -o "${SEALED:+ro,}lowerdir=${LAYER:+$LAYER:}$image_dir,upperdir=$BUNDLE/upper,workdir=$BUNDLE/work" overlay "$BUNDLE/rootfs"
  if [ ! -e "$spec" ]; then (cd "$BUNDLES" && rm -f config.json && "$runtime" spec && mv config.json "$spec"); fi
  jq --arg stage "$stage" --arg hook "$HOOK" --arg args "$HOOK_ARGS $stage" --arg probe "${PROBE:-}" --arg id "${BUNDLE##*/}" '
    .process.terminal = false
    | .process.args = ["/usr/bin/probe"] + ($probe | split(" "))
    | .process.env = ["PATH=/usr/local/bin:/usr/bin:/bin"] + $ARGS.positional
    | .process.capabilities |= map_values(. + ["CAP_MKNOD"] | unique)
    | .root = {path: "rootfs", readonly: false}
    | .linux.cgroupsPath = "/nvoci-test-\($id)"
    | .linux.resources.devices = [{allow: false, access: "rwm"}]
    | if $hook == "" then . else .hooks = {($stage): [{path: $hook, args: ($args | split(" ")), env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]} end
    | '"${JQ:-.}" "$spec" --args "$@" >"$BUNDLE/config.json"
  cp "$BUNDLE/config.json" "$CASE_DIR/"
}

# The container's layer, as a list.
layer() { find "$BUNDLE/upper" -mindepth 1 -printf '%y %s %P -> %l\n' | sort -k 3; }

# drop_bundle: unmounts, and keeps the list of the files that the container left in its layer.
drop_bundle() {
  umount "$BUNDLE/rootfs"
  layer >"$CASE_DIR/layer"
  rm -rf --one-file-system "$BUNDLE"
}

# run_container RUNTIME: run $BUNDLE to its end; the probe's lines are in $CASE_DIR/run.out.  RUN_LIMIT: seconds.
run_container() {
  local id=${BUNDLE##*/} left
  local status=0
  must "${RUN_LIMIT:-20}" run "$1" run --bundle "$BUNDLE" "c$id" || status=1
  "$1" delete --force "c$id" >/dev/null 2>&1 </dev/null || true
  left=$(find /sys/fs/cgroup -depth -type d -name "nvoci-test-$id")
  [ -z "$left" ] || fail "cgroup left behind: $left"
  return $status
}

# The files that a container's layer may keep: an empty directory, the loader's own files (glibc has
# two, musl one), and links to the driver directory. That is /usr/local/nvidia, or the next one if a
# volume has that path.
clean_layer() {
  local bad
  bad=$(awk '
    $1 == "d" { next }
    $1 == "f" && ($3 == "etc/ld.so.conf.d/00-nvoci.conf" || $3 == "etc/ld.so.cache" || $3 == "etc/ld-musl-x86_64.path") && $2 > 0 { next }
    $1 == "l" && $5 ~ "^(/|(\\.\\./)+)(usr/local|opt)/nvidia/" { next }
    { print }' "$CASE_DIR/layer")
  [ -z "$bad" ] || fail "left in the image layer: $(head -n 4 <<<"$bad" | tr '\n' '|')"
  if grep -qE ' (usr/local|opt)/nvidia/' "$CASE_DIR/layer"; then fail "driver directory written into the image layer"; fi
}

out() { echo "$CASE_DIR/run.out"; }
allowed='(ok|nodriver)'

# The probe's questions in every container.
QUESTIONS="--lib libcuda.so.1 --lib libnvidia-ml.so.1 --dev /dev/nvidia0 --dev /dev/nvidia1 --dev /dev/nvidiactl --dev /dev/nvidia-uvm \
--dev /dev/nvidia-uvm-tools --mknod 195:0 --mknod 195:1 --mknod 195:254 --mknod 10:229 --mknod 1:3"

probe_finished() { has "$(out)" 'probe done' "the probe did not finish"; }
can_mknod() { has "$(out)" 'mknod 1:3 ok' "a container cannot make nodes at all, nothing is proved" '1:3'; }

host_libraries() {
  has "$(out)" "lib libcuda.so.1 ok .*/libcuda\.so\.$VERSION $CUDA_HASH" "libcuda is not the host's" 'libcuda'
  has "$(out)" "lib libnvidia-ml.so.1 ok .*/libnvidia-ml\.so\.$VERSION $ML_HASH" "libnvidia-ml is not the host's" 'libnvidia-ml'
}

# The request is the first of two GPUs: its nodes open. The other's nodes are absent, and the
# container cannot make them.
first_gpu_only() {
  local d
  can_mknod
  for d in nvidia0 nvidiactl nvidia-uvm nvidia-uvm-tools; do has "$(out)" "dev /dev/$d $allowed" "/dev/$d does not open" "/dev/$d "; done
  has "$(out)" "mknod 195:0 $allowed" "the requested GPU is refused by its number" '195:0'
  has "$(out)" 'dev /dev/nvidia1 absent' "a GPU nobody asked for" '/dev/nvidia1'
  has "$(out)" 'mknod 195:1 refused' "a GPU nobody asked for opens by its number" '195:1'
  has "$(out)" 'mknod 195:254 refused' "nvidia-modeset opens without the display capability" '195:254'
  has "$(out)" 'mknod 10:229 refused' "the container's own device rules are gone" '10:229'
}

no_gpu() {
  local d n
  can_mknod
  for d in libcuda.so.1 libnvidia-ml.so.1; do has "$(out)" "lib $d (missing .*|unsupported)" "$d without a request" "$d"; done
  for d in nvidia0 nvidia1 nvidiactl nvidia-uvm; do has "$(out)" "dev /dev/$d absent" "/dev/$d without a request" "/dev/$d"; done
  for n in 195:0 195:1 195:254 10:229; do has "$(out)" "mknod $n refused" "$n opens without a request" "$n"; done
}

# A restarted container has the same files, and its layer does not grow.
started_again() { # RUNTIME CHECK...
  local runtime=$1 check
  shift
  layer >"$CASE_DIR/layer.first"
  run_container "$runtime" || return 0
  for check; do "$check"; done
  layer | diff "$CASE_DIR/layer.first" - >"$CASE_DIR/layer.diff" || fail "started again its layer is another: $(head -n 4 "$CASE_DIR/layer.diff" | tr '\n' '|')"
}

# container_case NAME RUNTIME STAGE IMAGE CHECKS ENV...: one container, start to finish; with AGAIN set, twice.
container_case() {
  local name=$1 runtime=$2 stage=$3 image=$4 checks=$5 check
  shift 5
  case_begin "$name"
  mount_table >"$CASE_DIR/mounts.before"
  PROBE=${PROBE:-$QUESTIONS} make_bundle "$runtime" "$stage" "$image" "$@"
  if run_container "$runtime"; then
    for check in probe_finished $checks; do "$check"; done
    # shellcheck disable=SC2086  # they are words
    [ -z "${AGAIN:-}" ] || started_again "$runtime" probe_finished $checks
  fi
  drop_bundle
  clean_layer
  same_mounts "$CASE_DIR/mounts.before"
  ok
}

# refused NAME RUNTIME STAGE WORDS ENV...: the container must not start, and one line must have the
# reason with its code.
refused() {
  local name=$1 runtime=$2 stage=$3 words=$4
  shift 4
  case_begin "$name"
  mount_table >"$CASE_DIR/mounts.before"
  PROBE=$QUESTIONS make_bundle "$runtime" "$stage" slim "$@"
  if run_container "$runtime"; then
    fail "the container started"
  else
    # shellcheck disable=SC2034  # lib.sh's: that the runtime failed is what was wanted
    CASE_FAULTS=()
  fi
  # crun discards a hook's output, but the record has the message.
  cat "$CASE_DIR/run.err" /run/nvoci/errors/c"${BUNDLE##*/}"* >"$CASE_DIR/said" 2>/dev/null || true
  grep -qE "$words" "$CASE_DIR/said" || fail "no word of '$words' but: $(head -c 300 "$CASE_DIR/said")"
  grep -qE 'NVOCI-[A-Z0-9-]+' "$CASE_DIR/said" || fail "no NVOCI code in: $(head -c 300 "$CASE_DIR/said")"
  drop_bundle
  clean_layer
  same_mounts "$CASE_DIR/mounts.before"
  ok
}
