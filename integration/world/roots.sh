#!/usr/bin/env bash
# Engine roots: whole Debian file systems in which real engines of one generation run.
#   bookworm  docker 20.10, containerd 1.6, runc 1.1, crun 1.8, podman 4.3
#   trixie    docker 26, podman 5.4 (only the packages suite asks for it)
#   sid       docker 28, containerd 2.1, runc 1.3, crun 1.28, podman 5.8
set -euo pipefail
. "$(dirname "$0")/common.sh"

common_packages=systemd,systemd-sysv,dbus,docker.io,containerd,runc,crun,podman,uidmap,iproute2,iptables,procps,busybox-static,jq,ca-certificates

build_root() {
  local suite=$1 more=$2 root=$WORLD/roots/$1
  debian_tree "$suite" "$root" --include="$common_packages,$more"
  : >"$root/etc/machine-id"
  mkdir -p "$root"/{integration,world,results,scratch}
}

need mmdebstrap mmdebstrap
lock_world
for suite in "${@:-bookworm sid}"; do
  # shellcheck disable=SC2086  # the default is two words on purpose
  for s in $suite; do
    case $s in
      bookworm) more=golang-github-containers-image ;;
      sid | trixie) more=docker-cli,golang-github-containers-image ;;
      *) die "no such engine root: $s (bookworm, trixie, sid)" ;;
    esac
    piece "roots/$s" "$(key_of debian_tree build_root) $common_packages,$more" build_root "$s" "$more"
  done
done
