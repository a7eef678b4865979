# shellcheck shell=bash
# Shared by everything below integration/world: where the cache is, how a piece is stamped, how Debian packages are fetched.
# Sourced, never run.

WORLD=${NVOCI_WORLD:-/var/cache/nvoci-world}
# shellcheck disable=SC2034  # used by those who source this
WORLD_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

say() { printf 'world: %s\n' "$*" >&2; }
die() { printf 'world: %s\n' "$*" >&2; exit 1; }

# The Debian archive that this machine's own apt uses, since no other may be reachable; Debian's own where it uses none (Ubuntu).
mirror() {
  local uri
  uri=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs: *//p' | grep -m1 '/debian/*$') ||
    uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\/debian\/*\) .*/\2/p' | grep -m1 .) ||
    uri=http://deb.debian.org/debian
  printf '%s\n' "${uri%/}"
}

# need PROGRAM PACKAGE: installs a missing tool on the machine itself; never a part of NVIDIA's
# driver.
need() {
  command -v "$1" >/dev/null && return
  say "installing $2"
  apt-get install -qq -y --no-install-recommends "$2" >>"$WORLD/log/apt" 2>&1 </dev/null ||
    { apt-get update -qq >>"$WORLD/log/apt" 2>&1 </dev/null; apt-get install -qq -y --no-install-recommends "$2" >>"$WORLD/log/apt" 2>&1 </dev/null; } ||
    die "cannot install $2 (see $WORLD/log/apt)"
}

# piece NAME KEY BUILDER [ARG...]: run BUILDER unless NAME was finished with the same KEY before.
# The stamp is written last, so a build that was cut off is simply done again.
piece() {
  local name=$1 key=$2 start=$SECONDS stamp=$WORLD/stamps/$1 failed
  shift 2
  [ -e "$stamp" ] && [ "$(<"$stamp")" = "$key" ] && return
  rm -f "$stamp"
  say "$name: building"
  # Not `(...) || die`: bash forgets `set -e` on the left of `||`, and a half-built piece would count as built.
  set +e
  (set -e; "$@") >"$WORLD/log/${name//\//-}" 2>&1 </dev/null
  failed=$?
  set -e
  [ $failed = 0 ] || { tail -n 20 "$WORLD/log/${name//\//-}" >&2; die "$name failed"; }
  printf '%s' "$key" >"$stamp"
  say "$name: $((SECONDS - start)) s"
}

# The key of a piece: the text of the functions that make it (plus whatever else is given).
key_of() { declare -f "$@" | sha256sum | cut -c1-16; }

# A private apt: its own lists and cache, several suites at once. Nothing it does touches the machine's packages.
# APT_HOME: other lists than the world's.
world_apt() {
  local tool=$1 etc=${APT_HOME:-$WORLD/apt}
  shift
  "$tool" -o Dir::Etc::sourcelist="$etc/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o Dir::Etc::preferences=/dev/null \
    -o Dir::State::lists="$etc/lists" -o Dir::State::status="$etc/status" -o Dir::Cache="$etc/cache" \
    -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}

build_apt() {
  local suite etc=$WORLD/apt
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || apt-get install -qq -y --no-install-recommends debian-archive-keyring
  rm -rf "$etc"
  mkdir -p "$etc/lists/partial" "$etc/cache/archives/partial"
  : >"$etc/status"
  for suite in bookworm trixie; do
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main contrib non-free\n' "$(mirror)" "$suite"
  done >"$etc/sources.list"
  world_apt apt-get update -qq -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
}

# unpack SUITE DEST PACKAGE...: download packages and lay their files out below DEST, without installing them.
unpack() {
  local suite=$1 dest=$2 debs p
  shift 2
  debs=$WORLD/debs/$suite
  mkdir -p "$debs" "$dest"
  (cd "$debs" && world_apt apt-get download -qq "${@/%//$suite}")
  for p in "$@"; do dpkg -x "$(find "$debs" -name "${p}_*.deb" | sort | tail -n 1)" "$dest"; done
}

# debian_tree SUITE DEST MMDEBSTRAP-ARGUMENT...: a trimmed Debian tree. It needs no manuals, and a
# crash only costs a rebuild.
debian_tree() {
  local suite=$1 dest=$2
  shift 2
  # A build that was killed leaves its own /proc and /dev mounted there; deleting through those would be a disaster.
  awk -v d="$dest/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount -l
  rm -rf --one-file-system "$dest"
  timeout -k 5 300 mmdebstrap --mode=root --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    "$@" "$suite" "$dest" "$(mirror)"
}

# grown_root SUITE NAME PACKAGE...: a copy of an engine root with more packages in it.
grown_root() {
  local suite=$1 root=$WORLD/roots/$2
  shift 2
  awk -v d="$root/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount -l
  rm -rf --one-file-system "$root"
  cp -a "$WORLD/roots/$suite" "$root"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  # No service starts while packages are installed.
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  chroot "$root" apt-get -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none update -qq
  chroot "$root" apt-get install -qq -y --no-install-recommends "$@"
  rm -f "$root/usr/sbin/policy-rc.d"
  : >"$root/etc/machine-id"
}

mkdir -p "$WORLD"/stamps/{roots,images,archives,drivers,layers} "$WORLD"/{log,roots,images,drivers,layers,debs}
# Two sessions may share the cache: one builds, the other waits and then finds everything made.
exec 9>"$WORLD/lock"
lock_world() { flock 9; }
