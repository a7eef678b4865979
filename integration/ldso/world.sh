# shellcheck shell=bash
# The roots that ldconfig is compared on. Sourced by run and bench.

WORLD=${NVOCI_WORLD:-/var/cache/nvoci-world}
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# binary PROFILE: the program under test, built if there is none; NVOCI names another.
binary() {
  local target=$REPO/target/x86_64-unknown-linux-musl
  if [ -z "${NVOCI:-}" ]; then
    NVOCI=$target/$1/nvoci
    [ -x "$NVOCI" ] ||
      (cd "$REPO" && cargo build --quiet --profile "${2:-dev}" --target x86_64-unknown-linux-musl --bin nvoci) || exit 1
  fi
}

# minbase NAME SUITE [ARGUMENT...]: a minimal Debian, made once; false when it cannot be made.
minbase() {
  local root=$WORLD/ldso-$1 suite=$2
  shift 2
  [ -x "$root/sbin/ldconfig" ] && return
  mkdir -p "$WORLD"
  (
    flock 9
    [ -x "$root/sbin/ldconfig" ] && exit
    # mmdebstrap mounts /proc, /sys and /dev in there: what a killed one left must not be entered.
    rm -rf --one-file-system "$root" "$root.new" || exit
    # The archive alone: point releases are enough, and the security mirror is not always in step.
    # And a mirror that stands still has an index whose time is over.
    mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' "$@" "$suite" "$root.new" \
      "deb http://deb.debian.org/debian $suite main" >"$root.log" 2>&1 </dev/null || exit
    mv "$root.new" "$root"
  ) 9>"$WORLD/ldso.lock"
}

# stack LOWER: a scratch copy of a root in $SCRATCH, of which nothing stays; its path in $ROOT.
stack() {
  ROOT=$SCRATCH/$((++STACKED))
  mkdir -p "$ROOT" "$SCRATCH/rw/$STACKED"/{upper,work}
  mount -t overlay -o "lowerdir=$1,upperdir=$SCRATCH/rw/$STACKED/upper,workdir=$SCRATCH/rw/$STACKED/work" \
    overlay "$ROOT"
}

scratch() {
  SCRATCH=$(mktemp -d /tmp/nvoci-ldso.XXXXXX) STACKED=0
  # An overlay cannot lie on an overlay.
  mount -t tmpfs tmpfs "$SCRATCH"
  trap unscratch EXIT
}

unscratch() {
  local i
  for ((i = STACKED; i > 0; i--)); do umount "$SCRATCH/$i"; done
  umount "$SCRATCH"
  rmdir "$SCRATCH"
}
