# shellcheck shell=bash
# One container under an engine, and the conditions that it must meet. Sourced after lib.sh and
# matrix/bundle.sh; ENGINE is the command.

# load IMAGE...: from the cache.
load() { local i; for i in "$@"; do must 60 "load-$i" "${ENGINE[@]}" load -i "/world/archives/$i.tar" || true; done; }

image() { echo "local/$1:1"; }

# engine_diff NAME: the container's layer, once from the engine, once from the disk.
engine_diff() {
  local upper
  must 20 diff "${ENGINE[@]}" diff "$1" || return 0
  upper=$("${ENGINE[@]}" inspect -f '{{.GraphDriver.Data.UpperDir}}' "$1" </dev/null)
  find "$upper" -mindepth 1 -printf '%y %s %P -> %l\n' | sort -k 3 >"$CASE_DIR/layer"
  ! grep -q '^D ' "$CASE_DIR/diff.out" || fail "deleted from the image: $(grep '^D ' "$CASE_DIR/diff.out" | tr '\n' '|')"
  # Podman puts a mount point of its own there; it stands in `podman diff` of any container.
  sed -i '/ run\/\.containerenv /d; / etc\/\(hosts\|hostname\|resolv.conf\|mtab\) /d' "$CASE_DIR/layer"
  clean_layer
}

# Killed first: the probe does not listen for a polite request, and Podman would wait ten seconds for it.
remove() { run 10 kill "${ENGINE[@]}" kill "$1" || true; run 30 "rm" "${ENGINE[@]}" rm -f "$1" || fail "cannot remove $1: $(tail -n 2 "$CASE_DIR/rm.err")"; }

# engine_case NAME IMAGE CHECKS RUN-OPTION...: run the probe in a new container to its end.
engine_case() {
  local name=$1 image=$2 checks=$3 check
  shift 3
  case_begin "$name"
  mount_table >"$CASE_DIR/mounts.before"
  # shellcheck disable=SC2086  # questions are words
  if must 60 run "${ENGINE[@]}" run --name probe --network=none "$@" "$(image "$image")" /usr/bin/probe $QUESTIONS; then
    for check in probe_finished $checks; do "$check"; done
    engine_diff probe
  fi
  remove probe
  same_mounts "$CASE_DIR/mounts.before"
  ok
}

# ask NAME CONTAINER: runs the probe again in a running container.
ask() {
  # shellcheck disable=SC2086
  must 30 "$1" "${ENGINE[@]}" exec "$2" /usr/bin/probe $QUESTIONS || return 1
  cp "$CASE_DIR/$1.out" "$(out)"
}

both_gpus() {
  local d
  for d in nvidia0 nvidia1 nvidiactl nvidia-uvm; do has "$(out)" "dev /dev/$d $allowed" "/dev/$d does not open" "/dev/$d "; done
  has "$(out)" 'mknod 10:229 refused' "the container's own device rules are gone" '10:229'
}

# refused_case NAME WORDS RUN-OPTION...: the container must not start; the engine's user must read why, with the code.
refused_case() {
  local name=$1 words=$2
  shift 2
  case_begin "$name"
  mount_table >"$CASE_DIR/mounts.before"
  ! run 60 run "${ENGINE[@]}" run --name probe --network=none "$@" "$(image slim)" /usr/bin/probe --hold 0 || fail "the container started"
  grep -q "$words" "$CASE_DIR/run.err" || fail "no word of '$words' but: $(head -c 400 "$CASE_DIR/run.err")"
  grep -qE 'NVOCI-[A-Z0-9-]+' "$CASE_DIR/run.err" || fail "no NVOCI code in: $(head -c 400 "$CASE_DIR/run.err")"
  remove probe
  same_mounts "$CASE_DIR/mounts.before"
  ok
}

# lasting_case NAME RUN-OPTION...: a container over its life: exec, a restart, and an image
# committed from it, unless NO_COMMIT is set.
lasting_case() {
  local name=$1 step
  shift
  case_begin "$name"
  mount_table >"$CASE_DIR/mounts.before"
  if must 60 start "${ENGINE[@]}" run -d --name probe --network=none "$@" "$(image slim)" /usr/bin/probe --hold 300; then
    for step in first "${STEPS[@]}"; do
      case $step in
        restart) must 30 restart "${ENGINE[@]}" restart -t 0 probe || true ;;
        update) must 30 update "${ENGINE[@]}" update --cpu-shares 512 probe || true ;;
      esac
      if ask "after-$step" probe; then host_libraries; first_gpu_only; fi
    done
    engine_diff probe
    if [ -n "${NO_COMMIT:-}" ]; then
      remove probe
      same_mounts "$CASE_DIR/mounts.before"
      ok
      return
    fi
    must 60 commit "${ENGINE[@]}" commit probe local/again:1 || true
    remove probe
    # shellcheck disable=SC2086
    if must 60 run "${ENGINE[@]}" run --name probe --network=none "$@" local/again:1 /usr/bin/probe $QUESTIONS; then host_libraries; first_gpu_only; fi
    # A committed image keeps nothing of the driver: started without a request it must be as empty as any other.
    remove probe
    # shellcheck disable=SC2086
    if must 60 run "${ENGINE[@]}" run --name probe --network=none "${UNASKED[@]}" local/again:1 /usr/bin/probe $QUESTIONS; then no_gpu; fi
  fi
  remove probe
  run 30 rmi "${ENGINE[@]}" rmi -f local/again:1 || true
  same_mounts "$CASE_DIR/mounts.before"
  ok
}

# In a user namespace no process can make nodes, and no device filter applies to a user's container.
# So the test checks only the nodes that exist.
user_first_gpu_only() {
  local d
  for d in nvidia0 nvidiactl nvidia-uvm nvidia-uvm-tools; do has "$(out)" "dev /dev/$d $allowed" "/dev/$d does not open" "/dev/$d "; done
  has "$(out)" 'dev /dev/nvidia1 absent' "a GPU nobody asked for" '/dev/nvidia1'
}

# one_gpu MINE OTHER: by CDI. The control nodes are in every specification, nvidia-modeset too, as in the vendor's.
one_gpu() {
  local d
  can_mknod
  for d in "nvidia$1" nvidiactl nvidia-uvm nvidia-uvm-tools; do has "$(out)" "dev /dev/$d $allowed" "/dev/$d does not open" "/dev/$d "; done
  has "$(out)" "dev /dev/nvidia$2 absent" "a GPU nobody asked for" "/dev/nvidia$2"
  has "$(out)" "mknod 195:$2 refused" "a GPU nobody asked for opens by its number" "195:$2"
  has "$(out)" 'mknod 10:229 refused' "the container's own device rules are gone" '10:229'
}
