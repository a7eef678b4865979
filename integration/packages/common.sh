# shellcheck shell=bash
# The files that a package may change, and that it must restore. Sourced after lib.sh.

# everything: each file of the system with its kind, mode, owner, size and target, the content of all in /etc, and dpkg's alternatives
# and diversions. What package managers and daemons write for themselves is left out.
everything() {
  find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /results -o -path /scratch -o -path /world -o -path /var/log \
    -o -path /var/cache -o -path /var/lib/rpm -o -path /root -o -path /var/lib/docker -o -path /var/lib/containers -o -path /var/lib/containerd \
    -o -path /opt/containerd -o -path /var/lib/dpkg/info -o -path /var/lib/dpkg/updates -o -path /var/lib/dpkg/triggers -o -name 'status*' -path '/var/lib/dpkg/*' \
    -o -name 'lock*' -path '/var/lib/dpkg/*' -o -name 'diversions*' -path '/var/lib/dpkg/*' \) -prune \
    -o \( -type d -printf '%y %m %U:%G %p\n' \) -o \( ! -type d -printf '%y %m %U:%G %s %p -> %l\n' \) | grep -vE ' /etc/(docker/key\.json|cni(/.*)?|resolv\.conf) ' | sort
  find /etc -xdev -type f ! -name key.json ! -path '/etc/cni/*' -exec sha256sum {} + | sort -k 2
  dpkg-divert --list 2>/dev/null | sort
  find /run/cdi /run/nvoci 2>/dev/null || true
}

# same_as BEFORE WHAT
same_as() {
  everything >"$CASE_DIR/after"
  cmp -s "$1" "$CASE_DIR/after" || fail "$2: $(diff "$1" "$CASE_DIR/after" | grep '^[<>]' | head -n 6 | tr '\n' '|')"
}

NAMES=$(sed 's/#.*//; s/[[:space:]].*//; /^$/d' /results/packages/standin/names 2>/dev/null || true)

# answered_by nvoci|vendor [NAME...]: checks the link that an engine follows, and the program's
# output.
answered_by() {
  local who=$1 name at
  shift
  for name in ${*:-$NAMES}; do
    at=$(readlink -f "/usr/bin/$name")
    case $who in
      nvoci) [ "$at" = /usr/bin/nvoci ] || fail "$name is $at, not nvoci" ;;
      vendor)
        [ "$at" = "/usr/lib/nvoci/aside/$name" ] || fail "$name is $at, not the vendor's"
        grep -q "^echo \"vendor $name " "/usr/bin/$name" || fail "$name is not the vendor's program"
        ;;
    esac
  done
}
