#!/usr/bin/env bash
# Builds the probe into $WORLD/probe: `probe` (dynamic, glibc of Debian 12, so any glibc image runs it) and `probe-static`.
set -euo pipefail
. "$(dirname "$0")/../world/common.sh"
source=$(cd "$(dirname "$0")" && pwd)/probe.c

build_probe() {
  mkdir -p "$WORLD/probe"
  gcc -O2 -Wall -Wextra -o "$WORLD/probe/probe" "$source"
  gcc -O2 -Wall -Wextra -DPROBE_STATIC -static -o "$WORLD/probe/probe-static" "$source"
}

need gcc gcc
lock_world
piece probe "$(key_of build_probe) $(sha256sum <"$source")" build_probe
