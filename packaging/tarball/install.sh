#!/bin/sh
# Puts nvoci into a prefix, and takes it away again. For systems without its packages.
#
#   ./install.sh [--prefix DIR] [--take-names] [--no-probe]     DIR is /usr/local unless given
#   ./install.sh --uninstall [--prefix DIR]        or DIR/lib/nvoci/uninstall
#
# A name that engines look up (nvidia-container-runtime-hook and the like) is linked in DIR/bin only where no program of
# that name is on PATH; --take-names links all of them, and where DIR/bin stands before /usr/bin on PATH they win over the vendor's.
# An installed version tries the new one first (`nvoci upgrade --probe`), unless --no-probe is given.
# No engine is changed: `nvoci install ENGINE` does that. No file that this script did not make is overwritten or removed.
# Every directory on the way to DIR must belong to root and be writable by root alone: engines execute what lies there as root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=/usr/local take= uninstall= probe=1
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
    --prefix=*) prefix=${1#*=} ;;
    --take-names) take=1 ;;
    --no-probe) probe= ;;
    --uninstall) uninstall=1 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "install.sh: unknown option $1; see --help" >&2; exit 2 ;;
  esac
  shift
done
case $prefix in /*) ;; *) echo "install.sh: --prefix takes an absolute path" >&2; exit 2 ;; esac
[ "$(id -u)" = 0 ] || { echo 'install.sh: needs root' >&2; exit 1; }
manifest=$prefix/lib/nvoci/manifest
umask 022

# proven PATH: every part of it that exists, and every link on the way, belongs to root, and nobody else may write to it: not
# to /tmp either, where anybody makes the path anew once it is cleaned away. Nor is any on FUSE, where a user says whose it is.
proven() ( # PATH LINKS
  path=$1 links=${2:-0} at=
  [ "$links" -lt 40 ] || { echo "install.sh: $path: too many links" >&2; exit 1; }
  set -f
  IFS=/
  # shellcheck disable=SC2086  # its parts
  set -- '' $path
  for part; do
    [ -n "$part" ] || [ -z "$at" ] || continue
    [ "$part" != .. ] || { echo "install.sh: $path: \`..\` in it" >&2; exit 1; }
    [ -z "$part" ] || at=$at/$part
    here=${at:-/}
    [ -e "$here" ] || [ -L "$here" ] || exit 0
    [ "$(stat -c %u "$here")" = 0 ] || { echo "install.sh: $here belongs to user $(stat -c %u "$here"), who could replace what engines execute as root; nothing was done" >&2; exit 1; }
    [ -L "$here" ] || case $(stat -f -c %t "$here" || echo none) in
      65735546 | none) echo "install.sh: $here may be on FUSE, where a user says who owns it; nothing was done" >&2; exit 1 ;;
    esac
    if [ -L "$here" ]; then
      to=$(readlink "$here")
      case $to in /*) ;; *) to=${at%/*}/$to ;; esac
      # Links of distributions climb (`lib64 -> ../lib`), so the rest of the path counts from their
      # target.
      case /$to/ in */../*) to=$(readlink -f "$here") ;; esac
      proven "$to" $((links + 1)) || exit 1
    else
      mode=$(stat -c %a "$here")
      [ $((0$mode & 022)) = 0 ] ||
        { echo "install.sh: $here has mode $mode: others could replace what engines execute as root; nothing was done" >&2; exit 1; }
    fi
  done
)
# proven_dir DIR: the same, once for each directory of a run: a package has hundreds of files in few directories.
seen=
proven_dir() {
  case $seen in *"|$1|"*) return 0 ;; esac
  proven "$1" || return 1
  seen="$seen|$1|"
}
proven "$prefix" || exit 1
proven "$manifest" || exit 1
# removable KIND PATH: whether a manifest may name the path: one in the prefix, or one that this
# script makes elsewhere.
removable() {
  case $2 in *..*) return 1 ;; esac
  case $1:$2 in
    file:"$prefix"/* | dir:"$prefix" | dir:"$prefix"/*) ;;
    file:/etc/systemd/system/nvoci-cdi-refresh.service | file:/etc/systemd/system/nvoci-cdi-refresh.path) ;;
    file:/etc/udev/rules.d/99-nvoci.rules | file:/etc/nvoci/cdi-refresh.env | dir:/etc/nvoci) ;;
    # Above the prefix, only if empty.
    dir:/*) case $prefix in "$2"/*) ;; *) return 1 ;; esac ;;
    *) return 1 ;;
  esac
  proven_dir "${2%/*}/"
}
take_away() { # KIND PATH
  removable "$1" "$2" || { echo "install.sh: $2 stays: it is not nvoci's, whatever $manifest says" >&2; return 0; }
  case $1 in
    file) rm -f "$2" ;;
    dir) rmdir "$2" 2>/dev/null || true ;;
  esac
}

systemd() { [ -d /run/systemd/system ] && systemctl "$@" >/dev/null 2>&1 || true; }

if [ -n "$uninstall" ]; then
  [ -e "$manifest" ] || { echo "install.sh: nothing of nvoci's in $prefix (no $manifest)" >&2; exit 1; }
  proven "$prefix/bin/nvoci" && proven "$prefix/lib/nvoci/clean" || exit 1
  # A killed upgrade's program may not be able to revert anything.
  [ ! -x "$prefix/lib/nvoci/upgrade/old" ] || mv -f "$prefix/lib/nvoci/upgrade/old" "$prefix/bin/nvoci"
  "$prefix/lib/nvoci/clean" unused || exit 1
  "$prefix/bin/nvoci" uninstall docker podman containerd crio || echo 'nvoci: an engine still names nvoci; see above' >&2
  "$prefix/lib/nvoci/clean" hooks
  systemd disable --now nvoci-cdi-refresh.path nvoci-cdi-refresh.service
  "$prefix/lib/nvoci/clean" run
  "$prefix/lib/nvoci/clean" state
  # Backwards, so that a directory's content goes before it. A directory with other files stays.
  list=$(sort -r "$manifest")
  rm -rf "$prefix/lib/nvoci/upgrade" # a killed upgrade's
  rm -f "$manifest"
  printf '%s\n' "$list" | while read -r kind path; do take_away "$kind" "$path"; done
  systemd daemon-reload
  echo "nvoci is gone from $prefix"
  exit 0
fi

new=$(mktemp)
# However this ends, the list has all files that were made.
keep() {
  if [ -s "$new" ] && [ -d "${manifest%/*}" ]; then
    { cat "$new"; cat "$manifest" 2>/dev/null || true; } | sort -u >"$manifest.new"
    mv -f "$manifest.new" "$manifest"
  fi
  rm -f "$new"
}
trap keep EXIT
say() { printf '%s\n' "$1" >>"$new"; }
ours() { [ -e "$manifest" ] && grep -qxF "$1 $2" "$manifest"; }
make_dir() { # DIR: and those above it, each noted if it was not there (or we made it before)
  [ "$1" != / ] || return 0
  if [ -d "$1" ]; then
    if ours dir "$1"; then
      say "dir $1"
      make_dir "$(dirname "$1")"
    fi
    return 0
  fi
  make_dir "$(dirname "$1")"
  mkdir "$1"
  chmod 755 "$1"
  say "dir $1"
}
free() { # PATH: nothing is there, or it is ours; and nobody else can put something else there
  proven_dir "${1%/*}/" || exit 1
  { [ ! -e "$1" ] && [ ! -L "$1" ]; } || ours file "$1" ||
    { echo "install.sh: $1 is there and is not nvoci's; nothing was overwritten" >&2; exit 1; }
}
put() { # MODE FILE PATH: under a new name first, so that a running program is never written into
  free "$3"
  make_dir "${3%/*}"
  sed "s|/usr/bin/nvoci|$prefix/bin/nvoci|g; s|/usr/share/nvoci|$prefix/share/nvoci|g; s|/usr/lib/nvoci|$prefix/lib/nvoci|g" "$2" >"$3.new"
  chmod "$1" "$3.new"
  mv -f "$3.new" "$3"
  say "file $3"
}
put_as_is() { free "$3"; make_dir "${3%/*}"; cp "$2" "$3.new"; chmod "$1" "$3.new"; mv -f "$3.new" "$3"; say "file $3"; }
link() { free "$2"; make_dir "${2%/*}"; rm -f "$2"; ln -s "$1" "$2"; say "file $2"; }

# The installed program judges the new one, which replaces it only if it serves the GPUs too. One that cannot judge is replaced:
# it does not run, or does not know the command. After a killed upgrade the old program judges, and takes its place again.
judge=$prefix/bin/nvoci stage=$prefix/lib/nvoci/upgrade
if [ -n "$probe" ] && ours file "$judge" && { [ -e "$stage" ] || ! cmp -s "$here/root/usr/bin/nvoci" "$judge"; }; then
  [ ! -x "$stage/old" ] || judge=$stage/old
  proven "$judge" || exit 1
  if line=$("$judge" upgrade --probe "$here/root/usr/bin/nvoci" 2>&1); then
    echo "$line"
  else
    status=$?
    [ -z "$line" ] || echo "$line" >&2
    case $status:$line in
      *'[NVOCI-1001]') ;;
      # A judge that a signal stopped is not broken.
      *'[NVOCI-'*']' | 129:* | 13[017]:* | 143:*) echo 'install.sh: nothing was changed; --no-probe installs it anyway' >&2; exit 1 ;;
    esac
    echo "install.sh: $judge cannot try the new program, which is installed without" >&2
  fi
fi
# The program is decided on.
rm -rf "$stage"

make_dir "$prefix/lib/nvoci"
put_as_is 755 "$here/root/usr/bin/nvoci" "$prefix/bin/nvoci"
link nvoci "$prefix/bin/nvoci-runtime"
if [ -f "$here/root/usr/bin/nvoci-nri" ]; then put_as_is 755 "$here/root/usr/bin/nvoci-nri" "$prefix/bin/nvoci-nri"; fi
put 755 "$here/root/usr/lib/nvoci/clean" "$prefix/lib/nvoci/clean"
put_as_is 644 "$here/root/usr/lib/nvoci/names" "$prefix/lib/nvoci/names"
if [ -f "$here/root/usr/lib/nvoci/nvoci-nvml" ]; then put_as_is 755 "$here/root/usr/lib/nvoci/nvoci-nvml" "$prefix/lib/nvoci/nvoci-nvml"; fi
(cd "$here/root/usr" && find share -type f) | while read -r file; do
  case $file in *.json) put 644 "$here/root/usr/$file" "$prefix/$file" ;; *) put_as_is 644 "$here/root/usr/$file" "$prefix/$file" ;; esac
done
for name in $(sed 's/#.*//; s/[[:space:]].*//; /^$/d' "$here/root/usr/lib/nvoci/names"); do
  at=$(command -v "$name" || true)
  if [ -n "$take" ] || [ -z "$at" ] || ours file "$at"; then
    link nvoci "$prefix/bin/$name"
  else
    echo "$name stays $at (--take-names links it in $prefix/bin)"
  fi
done
if [ -d /etc/systemd/system ]; then
  put 644 "$here/root/usr/lib/systemd/system/nvoci-cdi-refresh.service" /etc/systemd/system/nvoci-cdi-refresh.service
  put 644 "$here/root/usr/lib/systemd/system/nvoci-cdi-refresh.path" /etc/systemd/system/nvoci-cdi-refresh.path
fi
if [ -d /etc/udev/rules.d ]; then put 644 "$here/root/usr/lib/udev/rules.d/99-nvoci.rules" /etc/udev/rules.d/99-nvoci.rules; fi
# A user may have edited it, so an existing file stays.
env=/etc/nvoci/cdi-refresh.env
if ours file "$env"; then
  make_dir "${env%/*}"
  say "file $env"
elif [ ! -e "$env" ]; then
  put_as_is 644 "$here/root$env" "$env"
fi
put_as_is 755 "$here/install.sh" "$prefix/lib/nvoci/install.sh"
sed "s|@PREFIX@|$prefix|g" >"$prefix/lib/nvoci/uninstall.new" <<'U'
#!/bin/sh
exec /bin/sh "@PREFIX@/lib/nvoci/install.sh" --uninstall --prefix "@PREFIX@"
U
chmod 755 "$prefix/lib/nvoci/uninstall.new"
mv -f "$prefix/lib/nvoci/uninstall.new" "$prefix/lib/nvoci/uninstall"
say "file $prefix/lib/nvoci/uninstall"
# Removes files of an older version that this one does not have.
if [ -e "$manifest" ]; then
  sort -r "$manifest" | while read -r kind path; do
    grep -qxF "$kind $path" "$new" || take_away "$kind" "$path"
  done
fi
rm -f "$manifest"
systemd daemon-reload
systemd enable --now nvoci-cdi-refresh.service nvoci-cdi-refresh.path
if [ ! -d /run/systemd/system ] && [ "$(readlink -f "$(command -v nvidia-cdi-hook || true)" || true)" = "$prefix/bin/nvoci" ]; then
  "$prefix/bin/nvoci" cdi generate --output /run/cdi/nvidia.yaml || true
fi
echo "nvoci is in $prefix/bin; no engine was changed: nvoci install docker|podman|containerd|crio does that."
echo "To take it away: $prefix/lib/nvoci/uninstall"
