#!/usr/bin/env bash
# Builds what plays Windows into $WORLD/wsl: dxg-host, and stand-ins for libdxcore.so and the loader stub.
set -euo pipefail
. "$(dirname "$0")/../world/common.sh"
source=$(cd "$(dirname "$0")" && pwd)

build_wsl() {
  mkdir -p "$WORLD/wsl"
  gcc -O2 -Wall -Wextra -static -o "$WORLD/wsl/dxg-host" "$source/dxg-host.c"
  gcc -O2 -Wall -Wextra -shared -fPIC -Wl,-soname,libdxcore.so -o "$WORLD/wsl/libdxcore.so" "$source/dxcore.c"
  gcc -O2 -Wall -Wextra -shared -fPIC -DSTUB -Wl,-soname,libcuda.so.1 -o "$WORLD/wsl/libcuda.so.1" "$source/dxcore.c"
  gcc -O2 -Wall -Wextra -DCHAIN -o "$WORLD/wsl/chain" "$source/dxcore.c"
}

need gcc gcc
lock_world
piece wsl "$(key_of build_wsl) $(cat "$source"/*.[ch] | sha256sum)" build_wsl
