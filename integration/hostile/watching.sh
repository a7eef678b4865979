# shellcheck shell=bash
# What happens to the host while something runs, seen by fanotify (watch.c). Before and after are compared as well, but a file that is only
# read leaves no trace, and one that is made and removed leaves none that cannot be wiped away. Sourced, after lib.sh.
#
#   watch_begin TREE    from here on; everything in TREE, and every change of the host's own file system, /dev and /tmp
#   watch_end [ALLOWED] to here; what does not match ALLOWED (a regular expression for whole lines) is a fault of the case
WATCH=${WATCH:-/world/hostile/watch}
touched='the host was touched'

watch_begin() {
  local line=''
  # What runs out of the watcher's sight is not proved: a watcher that cannot be had is a fault.
  coproc WATCHING { exec "$WATCH" --tree "$1" --changes / --changes /dev --changes /tmp --except "$1" --except /plainroot 2>&1; }
  watching=("${WATCHING[0]}" "${WATCHING[1]}" "$WATCHING_PID")
  read -r -t 10 -u "${watching[0]}" line || true
  [[ $line == watching\ * ]] || fail "the host is not watched: ${line:-no answer}"
}

watch_end() {
  local seen=$CASE_DIR/touched status=0
  exec {watching[1]}>&-
  timeout 10 cat <&"${watching[0]}" >"$seen.all" || fail "the watcher does not end"
  exec {watching[0]}<&-
  wait "${watching[2]}" 2>/dev/null || status=$?
  [ $status = 0 ] || fail "the host is not watched: exit $status: $(head -n 1 "$seen.all")"
  if [ -n "${1:-}" ]; then grep -vxE -- "$1" "$seen.all" >"$seen" || true; else mv "$seen.all" "$seen"; fi
  [ ! -s "$seen" ] || fail "$touched: $(sort -u "$seen" | head -n 8 | tr '\n' '|')"
}
