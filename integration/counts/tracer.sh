# shellcheck shell=bash
# Sourced: make_counts builds the tracer, counts.c, in the world's cache. $here is this directory.
build_counts() {
  mkdir -p "$WORLD/counts"
  printf '#include <sys/syscall.h>\n' | gcc -E -dM - | sed -n 's/^#define SYS_\([a-z0-9_]*\) .*/{ SYS_\1, "\1" },/p' | sort >"$WORLD/counts/names.h"
  gcc -O2 -Wall -Wextra -static -I"$WORLD/counts" -o "$WORLD/counts/counts" "$here/counts.c"
}
make_counts() {
  need gcc gcc
  lock_world
  piece counts "$(key_of build_counts) $(sha256sum <"$here/counts.c")" build_counts
  exec 9>&-
}
