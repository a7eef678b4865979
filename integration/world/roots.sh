#!/usr/bin/env bash
# Engine roots: whole Debian file systems in which real engines of one generation run.
#   bookworm  docker 20.10, containerd 1.6, runc 1.1, crun 1.8, podman 4.3
#   trixie    docker 26, podman 5.4 (only the packages suite asks for it)
#   bullseye      docker 20.10.5, containerd 1.4, runc 1.0-rc93, crun 0.17, podman 3.0 (only integration/compatibility)
#   experimental  sid with runc 1.4 and podman 6.1 of Debian's experimental (only integration/compatibility)
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

# bullseye is the last suite whose default has programs beside /usr, which simhost.sh does not expect.
build_bullseye() {
  debian_tree bullseye "$WORLD/roots/bullseye" --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include="$common_packages,golang-github-containers-common"
  : >"$WORLD/roots/bullseye/etc/machine-id"
  mkdir -p "$WORLD/roots/bullseye"/{integration,world,results,scratch}
}

build_experimental() {
  local root=$WORLD/roots/experimental
  awk -v d="$root/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount -l
  rm -rf --one-file-system "$root"
  cp -a "$WORLD/roots/sid" "$root"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  echo "deb $(mirror) experimental main" >"$root/etc/apt/sources.list.d/experimental.list"
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  chroot "$root" apt-get -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none update -qq
  chroot "$root" apt-get install -qq -y --no-install-recommends -t experimental runc podman
  rm -f "$root/usr/sbin/policy-rc.d"
  : >"$root/etc/machine-id"
}

need mmdebstrap mmdebstrap
lock_world
for suite in "${@:-bookworm sid}"; do
  # shellcheck disable=SC2086  # the default is two words on purpose
  for s in $suite; do
    case $s in
      experimental) # after sid
        piece roots/experimental "$(key_of build_experimental) $(sha256sum <"$WORLD/stamps/roots/sid")" build_experimental
        continue ;;
      bullseye)
        piece roots/bullseye "$(key_of debian_tree build_bullseye) $common_packages" build_bullseye
        continue ;;
      bookworm) more=golang-github-containers-image ;;
      sid | trixie) more=docker-cli,golang-github-containers-image ;;
      *) die "no such engine root: $s (bullseye, bookworm, trixie, sid, experimental)" ;;
    esac
    piece "roots/$s" "$(key_of debian_tree build_root) $common_packages,$more" build_root "$s" "$more"
  done
done
