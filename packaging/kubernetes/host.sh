# shellcheck shell=sh
# host.sh: what node.sh and toolkit.sh share. Run by busybox' sh, the only shell in the image; the
# node's root is mounted at /host, and its programs run in the node's own namespaces.

STATE=${NVOCI_STATE:-/run/nvoci}
HOST=${HOST_ROOT_MOUNT:-/host}
CONFIG=/etc/nvoci/config.toml
# The first line of a configuration file that this image wrote, and may replace and remove.
MARK='# Written by the container of nvoci on this node, which replaces and removes it.'
/busybox mkdir -p "$STATE"

on_node() { /busybox nsenter -t 1 -m -u -i -n -p -- "$@"; }

# refuse LINE: writes the reason for the log and for the readiness probe; false.
refuse() {
  printf '%s\n' "$1" >"$STATE/why"
  printf 'nvoci: %s\n' "$1" >&2
  return 1
}

# try WHAT COMMAND...: a command of the node. Its output goes to the log; if it fails, the last line is the reason.
try() {
  what=$1
  shift
  status=0
  on_node "$@" >"$STATE/out" 2>&1 </dev/null || status=$?
  /busybox cat "$STATE/out"
  [ "$status" != 0 ] || return 0
  line=$(/busybox grep '\[NVOCI-' "$STATE/out" | /busybox tail -n 1)
  [ -n "$line" ] || line="$(/busybox tail -n 1 "$STATE/out") (exit $status); fix: run it on the node, and read its output [NVOCI-5001]"
  refuse "$what: ${line#nvoci: }"
}

# platform PREFIX: refuses a node on which nothing can be installed, before anything is written there.
platform() {
  if [ "$(/busybox readlink /proc/1/ns/mnt)" = "$(/busybox readlink /proc/self/ns/mnt)" ]; then
    refuse 'pod: process 1 is not the node'\''s; fix: set hostPID: true in the pod, and privileged: true in the container [NVOCI-5001]' || return 1
  fi
  id=$(/busybox sed -n 's/^ID=//p' "$HOST/etc/os-release" 2>/dev/null | /busybox tr -d '"')
  case $id in
    talos) refuse 'node: Talos has no shell, and only system extensions change its root file system; fix: use its NVIDIA system extensions, and keep nvoci off this node by a node selector [NVOCI-6001]' || return 1 ;;
    bottlerocket) refuse 'node: Bottlerocket'\''s root file system is read-only, and only its API changes containerd; fix: use its NVIDIA variant, which has a toolkit, and keep nvoci off this node by a node selector [NVOCI-6001]' || return 1 ;;
  esac
  on_node /bin/sh -c : 2>/dev/null ||
    { refuse 'node: there is no /bin/sh; fix: install nvoci in the image of the node, and keep the DaemonSet off it by a node selector [NVOCI-6001]' || return 1; }
  # shellcheck disable=SC2016  # the node's shell expands it
  on_node /bin/sh -c 'mkdir -p "$1" && printf "#!/bin/sh\n" >"$1/probe" && chmod 755 "$1/probe" && "$1/probe"; s=$?; rm -f "$1/probe"; exit $s' sh "$1" >"$STATE/out" 2>&1 ||
    refuse "$1: programs cannot be written and executed there ($(/busybox tail -n 1 "$STATE/out")); fix: set the prefix to a directory of a writable file system without noexec, such as /var/lib/nvoci [NVOCI-6001]"
}

# is_marked: whether the node's configuration file is this image's.
is_marked() {
  # shellcheck disable=SC2016
  [ "$(on_node /bin/sh -c 'IFS= read -r line <"$1" && printf %s "$line"' sh "$CONFIG" 2>/dev/null)" = "$MARK" ]
}

# put_config FILE NVOCI: validates FILE by the node's program NVOCI, and makes it the node's configuration.
put_config() {
  # shellcheck disable=SC2016
  { printf '%s\n' "$MARK"; /busybox cat "$1"; } |
    on_node /bin/sh -c 'umask 022 && mkdir -p "${1%/*}" && cat >"$1.new"' sh "$CONFIG" || { refuse "$CONFIG: cannot be written; fix: make /etc writable on the node [NVOCI-6001]" || return 1; }
  if ! try configuration "$2" config --config "$CONFIG.new" >/dev/null; then
    on_node rm -f "$CONFIG.new"
    return 1
  fi
  on_node mv -f "$CONFIG.new" "$CONFIG"
}

drop_config() { ! is_marked || on_node rm -f "$CONFIG"; }
