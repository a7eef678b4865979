#!/usr/bin/env bash
# Runs a command on a simulated GPU host: an engine root with a driver in it, NVIDIA's procfs and device nodes, its own
# mount, pid, network, UTS, IPC and cgroup namespaces. Nothing is written outside; everything is gone when the command ends.
#
#   simhost.sh [--root bookworm|sid] [--cgroup v1|v2] [--driver 535|550|none] [--layout flat|current|usrlocal]
#              [--gpus N] [--minors "1 0"] [--module VERSION] [--results DIR] [--] COMMAND...
#
# --module gives the kernel module another version than the libraries have.
# Inside: /integration is this directory, /hooks the project's hooks.d files, /world the cache (read-only), /results is DIR, /scratch a tmpfs; /usr/bin/nvoci is
# $NVOCI_BIN, with the names of the hook that engines look for, and /usr/bin/nvoci-suite is $NVOCI_SUITE if it is set. The kernel has no driver of these device numbers, so opening
# a node says ENXIO when the device cgroup lets it pass and EPERM when not; the probe calls the first "nodriver".
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

inside() {
  local root=$1 cgroup=$2 driver=$3 layout=$4 gpus=$5 minors=$6 module=$7 results=$8 sim=$WORLD/sim lower
  shift 8

  mount -t tmpfs -o mode=755,size=75% tmpfs "$sim"
  mkdir "$sim"/{upper,work,root,fake,scratch}
  lower=$WORLD/roots/$root
  [ "$driver" = none ] || lower=$WORLD/layers/$driver-$layout:$lower
  mount -t overlay -o "lowerdir=$lower,upperdir=$sim/upper,workdir=$sim/work" overlay "$sim/root"
  cd "$sim/root"

  mount -t proc -o nosuid,nodev,noexec proc proc
  mount -t sysfs -o nosuid,nodev,noexec sysfs sys
  mount_cgroups "$cgroup" sys/fs/cgroup
  make_dev dev
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
  mount -t tmpfs -o nosuid,nodev tmpfs tmp
  # The kernel lets a user namespace mount a procfs only where an unobstructed one is in sight, and ours will be obstructed.
  mkdir -m 700 run/simhost run/simhost/proc
  mount -t proc -o nosuid,nodev,noexec proc run/simhost/proc
  # Engines keep their images on a file system of their own: overlay cannot lie on overlay's upper directory.
  for d in var/lib/docker var/lib/containerd var/lib/containers scratch; do
    mkdir -p "$d"
    mount -t tmpfs -o mode=755 tmpfs "$d"
  done

  if [ "$driver" != none ]; then
    FAKE=$WORLD/sim/fake
    . "$here/fake-driver.sh"
    fake_driver "${module:-$(<"$WORLD/drivers/$driver/version")}" "$driver" "$gpus" "$minors"
    chroot . ldconfig
  fi
  mkdir -p integration world results hooks
  mount --bind -o ro "$here/.." integration
  if [ -d "$here/../../hooks" ]; then mount --bind -o ro "$here/../../hooks" hooks; fi
  mount --bind -o ro "$WORLD" world
  if [ -n "$results" ]; then mount --bind "$results" results; fi
  if [ -n "$NVOCI_BIN" ]; then
    install -m 755 "$NVOCI_BIN" usr/bin/nvoci
    ln -sf nvoci usr/bin/nvidia-container-runtime-hook
    ln -sf nvoci usr/bin/nvidia-container-toolkit
    ln -sf nvoci usr/bin/nvoci-runtime
  fi
  if [ -n "${NVOCI_SUITE:-}" ]; then install -m 755 "$NVOCI_SUITE" usr/bin/nvoci-suite; fi
  hostname simhost
  chroot . ip link set lo up
  mkdir -p oldroot
  pivot_root . oldroot
  umount -l /oldroot
  rmdir /oldroot
  cd /
  # As under systemd: a mount that a hook makes in the wrong place spreads, and the tests see it.
  mount --make-rshared /
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    CI="${CI:-}" SIM_ROOT="$root" SIM_CGROUP="$cgroup" SIM_DRIVER="$driver" SIM_LAYOUT="$layout" SIM_GPUS="$gpus" \
    NVOCI_RESULTS=/results NVOCI_SIM=1 "$@"
}

mount_cgroups() { # v1|v2 DIR
  local c
  if [ "$1" = v2 ]; then
    mount -t cgroup2 cgroup2 "$2"
    # A real host has its init in a group of its own too; a group with members may not hand controllers down.
    mkdir "$2/init.scope"
    echo $$ >"$2/init.scope/cgroup.procs"
    return
  fi
  mount -t tmpfs -o mode=755 tmpfs "$2"
  for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
    mkdir "$2/$c"
    mount -t cgroup -o "nosuid,nodev,noexec,$c" cgroup "$2/$c"
  done
  mkdir "$2/systemd" "$2/unified"
  mount -t cgroup -o nosuid,nodev,noexec,none,name=systemd cgroup "$2/systemd"
  mount -t cgroup2 cgroup2 "$2/unified"
}

make_dev() {
  local n
  mount -t tmpfs -o mode=755,nosuid tmpfs "$1"
  for n in null zero full random urandom tty; do cp -a "/dev/$n" "$1/"; done
  mknod -m 666 "$1/fuse" c 10 229
  mkdir "$1"/{pts,shm,mqueue}
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$1/pts"
  ln -s pts/ptmx "$1/ptmx"
  ln -s /proc/self/fd "$1/fd"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$1/shm"
  mount -t mqueue mqueue "$1/mqueue"
}

. "$here/common.sh"
exec 9>&- # the cache's lock file is of no use to what runs here, and every daemon would hold it open

if [ "${1:-}" = --inside ]; then
  shift
  inside "$@"
fi

root=bookworm cgroup=v1 driver=535 layout=flat gpus=2 minors='' module='' results=''
while [ $# -gt 0 ]; do
  case $1 in
    --root) root=$2 ;; --cgroup) cgroup=$2 ;; --driver) driver=$2 ;; --layout) layout=$2 ;;
    --gpus) gpus=$2 ;; --minors) minors=$2 ;; --module) module=$2 ;; --results) results=$2 ;;
    --) shift; break ;;
    --*) die "simhost: unknown option $1" ;;
    *) break ;;
  esac
  shift 2
done
[ $# -gt 0 ] || die "simhost: no command"
[ -d "$WORLD/roots/$root" ] || die "simhost: no root $root; run integration/world/make"
export NVOCI_BIN=${NVOCI_BIN-$here/../../target/x86_64-unknown-linux-musl/release/nvoci}
[ -z "$NVOCI_BIN" ] || [ -x "$NVOCI_BIN" ] || die "simhost: no nvoci at $NVOCI_BIN (cargo build --release, or set NVOCI_BIN)"
mkdir -p "$WORLD/sim"

# A group of our own in every hierarchy. As the root of a cgroup namespace it appears as the
# machine's root inside. Cgroups that engines leave in it are removed below.
group=nvoci-sim-$$
hierarchies() { find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d; }
sweep() {
  local h
  for h in $(hierarchies); do
    [ ! -d "$h/$group" ] || find "$h/$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}
trap sweep EXIT
join() {
  local h
  for h in $(hierarchies); do
    [ -e "$h/cgroup.procs" ] || continue
    mkdir "$h/$group"
    if [ -e "$h/cpuset.cpus" ]; then
      cat "$h/cpuset.cpus" >"$h/$group/cpuset.cpus"
      cat "$h/cpuset.mems" >"$h/$group/cpuset.mems"
    fi
    echo "$BASHPID" >"$h/$group/cgroup.procs"
  done
}
status=0
(
  join
  exec unshare -m -p -f -n -u -i -C --kill-child --propagation private bash "$here/simhost.sh" --inside \
    "$root" "$cgroup" "$driver" "$layout" "$gpus" "$minors" "$module" "$results" "$@"
) || status=$?
exit $status
