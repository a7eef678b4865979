# shellcheck shell=bash
# Builds the tools of the hostile and fault suites into $WORLD/hostile. Sourced, after world/common.sh.
hostile_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build_hostile() {
  mkdir -p "$WORLD/hostile"
  gcc -O2 -Wall -Wextra -shared -fPIC -o "$WORLD/hostile/evil.so" "$hostile_here/evil.c"
  gcc -O2 -Wall -Wextra -static -o "$WORLD/hostile/race" "$hostile_here/race.c"
  gcc -O2 -Wall -Wextra -static -o "$WORLD/hostile/watch" "$hostile_here/watch.c"
  gcc -O2 -Wall -Wextra -static -o "$WORLD/hostile/faults" "$hostile_here/../faults/faults.c"
}
mkdir -p "$WORLD/stamps"
need gcc gcc
lock_world
piece hostile "$(key_of build_hostile) $(cat "$hostile_here"/*.c "$hostile_here/../faults/faults.c" | sha256sum)" build_hostile
exec 9>&-
