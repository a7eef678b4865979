#!/usr/bin/env bash
# Container root file systems, as plain trees below $WORLD/images. Each has the probe at /usr/bin/probe.
#   bookworm    Debian minbase
#   slim        glibc + busybox in Debian's layout: small, so that variants of it cost nothing
#   stale       slim with another driver's libraries baked in, first in its ld.so.cache
#   zerobyte    slim with the empty libcuda and libnvidia-ml that an image gets when it was built under a bind-mounting toolkit
#   noconfd     slim without /etc/ld.so.conf.d, without ld.so.cache
#   distroless  libc6 alone: no shell, no loader configuration
#   fedora      glibc in /usr/lib64, known only through the directories which Fedora's own ldconfig takes for granted
#   musl        musl's loader, busybox, the static probe
#   busybox     one static binary
set -euo pipefail
. "$(dirname "$0")/common.sh"
img=$WORLD/images

# account_files DIR ID: the files that every image has.
account_files() {
  mkdir -p "$1"/{etc,tmp,usr/bin,proc,sys,dev,run,var,root}
  chmod 1777 "$1/tmp"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
  echo 'root:x:0:' >"$1/etc/group"
  printf 'ID=%s\nNAME="%s (nvoci test image)"\n' "$2" "$2" >"$1/etc/os-release"
}

merged_usr() { # DIR LIBDIR...
  local dir=$1 d
  shift
  for d in bin sbin "$@"; do mkdir -p "$dir/usr/$d"; ln -s "usr/$d" "$dir/$d"; done
}

add_busybox() {
  local dir=$1 applet
  cp "$WORLD/parts/busybox/bin/busybox" "$dir/usr/bin/busybox" 2>/dev/null || cp "$WORLD/parts/busybox/usr/bin/busybox" "$dir/usr/bin/busybox"
  for applet in sh cat ls sleep true echo mount id env touch find; do ln -s busybox "$dir/usr/bin/$applet"; done
}

# libc6 of Debian 12, its /lib moved under /usr as in every system with a merged /usr.
build_parts() {
  rm -rf "$WORLD/parts"
  unpack bookworm "$WORLD/parts/libc6" libc6
  unpack bookworm "$WORLD/parts/busybox" busybox-static
  unpack bookworm "$WORLD/parts/musl" musl
}

copy_libc() { # DIR LIBDIR: the shared objects alone
  mkdir -p "$1/usr/$2" "$1/usr/lib64"
  cp -a "$WORLD"/parts/libc6/lib/x86_64-linux-gnu/*.so* "$1/usr/$2/"
  [ "$2" = lib64 ] || ln -s ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$1/usr/lib64/ld-linux-x86-64.so.2"
}

build_bookworm() {
  debian_tree bookworm "$img/bookworm"
  rm -rf "$img"/bookworm/var/lib/apt/lists/* "$img"/bookworm/var/cache/apt/*.bin "$img"/bookworm/dev/*
  cp "$WORLD/probe/probe" "$img/bookworm/usr/bin/probe"
}

build_slim() {
  rm -rf "$img/slim"
  merged_usr "$img/slim" lib lib64
  account_files "$img/slim" debian
  copy_libc "$img/slim" lib/x86_64-linux-gnu
  echo 12.0 >"$img/slim/etc/debian_version"
  add_busybox "$img/slim"
  cp "$WORLD/probe/probe" "$img/slim/usr/bin/"
  mkdir -p "$img/slim/etc/ld.so.conf.d"
  echo 'include /etc/ld.so.conf.d/*.conf' >"$img/slim/etc/ld.so.conf"
  printf '/usr/local/lib/x86_64-linux-gnu\n/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n' >"$img/slim/etc/ld.so.conf.d/x86_64-linux-gnu.conf"
  ldconfig -r "$img/slim"
}

slim_variant() { rm -rf "${img:?}/$1"; cp -a "$img/slim" "$img/$1"; }

# fake_lib DEST SONAME: a library which loads, and is not the host's.
fake_lib() {
  echo 'int nvoci_test_stale(void) { return 470; }' | gcc -shared -fPIC -nostdlib -Wl,-soname,"$2" -x c - -o "$1/${2%.1}.470.00.00"
  ln -sf "${2%.1}.470.00.00" "$1/$2"
}

build_stale() {
  local lib=$img/stale/usr/lib/x86_64-linux-gnu
  slim_variant stale
  fake_lib "$lib" libcuda.so.1
  fake_lib "$lib" libnvidia-ml.so.1
  ldconfig -r "$img/stale"
}

build_zerobyte() {
  local lib=$img/zerobyte/usr/lib/x86_64-linux-gnu name
  slim_variant zerobyte
  for name in libcuda libnvidia-ml; do
    : >"$lib/$name.so.535.261.03"
    ln -s "$name.so.535.261.03" "$lib/$name.so.1"
  done
  : >"$img/zerobyte/usr/bin/nvidia-smi"
}

build_noconfd() {
  slim_variant noconfd
  rm -rf "$img"/noconfd/etc/ld.so*
}

build_distroless() {
  rm -rf "$img/distroless"
  merged_usr "$img/distroless" lib lib64
  account_files "$img/distroless" debian
  copy_libc "$img/distroless" lib/x86_64-linux-gnu
  echo 12.0 >"$img/distroless/etc/debian_version"
  cp "$WORLD/probe/probe" "$img/distroless/usr/bin/"
}

# Fedora's ldconfig scans /lib64 and /usr/lib64 by default. Debian's needs arguments, of which the
# image keeps no trace. Debian's ld.so (used here) does not search lib64, so the image only works as
# long as its cache is complete.
build_fedora() {
  rm -rf "$img/fedora"
  merged_usr "$img/fedora" lib lib64
  account_files "$img/fedora" fedora
  copy_libc "$img/fedora" lib64
  add_busybox "$img/fedora"
  cp "$WORLD/probe/probe" "$img/fedora/usr/bin/"
  mkdir -p "$img/fedora/etc/ld.so.conf.d"
  echo 'include ld.so.conf.d/*.conf' >"$img/fedora/etc/ld.so.conf"
  ldconfig -r "$img/fedora" /usr/lib64
}

build_musl() {
  rm -rf "$img/musl"
  mkdir -p "$img/musl"/{bin,lib,usr/lib,sbin}
  account_files "$img/musl" alpine
  echo 3.19.0 >"$img/musl/etc/alpine-release"
  cp "$(find "$WORLD/parts/musl" -name libc.so -type f)" "$img/musl/lib/ld-musl-x86_64.so.1"
  ln -s ld-musl-x86_64.so.1 "$img/musl/lib/libc.musl-x86_64.so.1"
  add_busybox "$img/musl"
  ln -s ../usr/bin/busybox "$img/musl/bin/sh"
  cp "$WORLD/probe/probe-static" "$img/musl/usr/bin/probe"
}

build_busybox() {
  rm -rf "$img/busybox"
  account_files "$img/busybox" busybox
  add_busybox "$img/busybox"
  mkdir -p "$img/busybox/bin"
  ln -s ../usr/bin/busybox "$img/busybox/bin/sh"
  cp "$WORLD/probe/probe-static" "$img/busybox/usr/bin/probe"
}

need mmdebstrap mmdebstrap
need gcc gcc
bash "$WORLD_SRC/../probe/build.sh"
lock_world
piece apt "$(key_of build_apt)" build_apt
piece parts "$(key_of build_parts)" build_parts
key="$(key_of merged_usr account_files copy_libc add_busybox fake_lib slim_variant build_slim) $(<"$WORLD/stamps/probe")"
for i in bookworm slim stale zerobyte noconfd distroless fedora musl busybox; do
  piece "images/$i" "$i $(key_of "build_$i") $([ $i = bookworm ] || echo "$key")" "build_$i"
done
# The probe changes more often than Debian does; the one large image gets the new one without being made again.
cmp -s "$WORLD/probe/probe" "$img/bookworm/usr/bin/probe" || cp "$WORLD/probe/probe" "$img/bookworm/usr/bin/probe"

# The same as archives that engines load, named local/NAME:1.
build_archive() {
  mkdir -p "$WORLD/archives"
  python3 "$WORLD_SRC/mkimg.py" "$WORLD/archives/$1.tar" "local/$1:1" "$img/$1"
}
for i in bookworm slim stale zerobyte noconfd distroless fedora musl busybox; do
  piece "archives/$i" "$(sha256sum <"$WORLD_SRC/mkimg.py") $(<"$WORLD/stamps/images/$i") $(<"$WORLD/stamps/probe")" build_archive "$i"
done
