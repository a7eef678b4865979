# shellcheck shell=bash
# Shared by the suites of the runtime's entry point. Sourced inside a simulated host.
. /integration/lib.sh
. /integration/matrix/bundle.sh
. /integration/engines/engine.sh

# The names that a package puts on PATH.
for n in nvoci-runtime nvidia-container-runtime nvidia-container-runtime.cdi nvidia-container-runtime.legacy; do ln -sf nvoci "/usr/bin/$n"; done

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until timeout 5 "$@" >/dev/null 2>&1 </dev/null; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

# The two lines that name a daemon in a log and stop it.
daemon_start() { # NAME LOG COMMAND...
  local log=$2
  shift 2
  "$@" >>"$log" 2>&1 </dev/null &
  DAEMON=$!
}

daemon_stop() {
  kill "$DAEMON" 2>/dev/null || true
  wait "$DAEMON" 2>/dev/null || true
}

# start_docker: starts it with /etc/docker/daemon.json.
start_docker() {
  rm -f /var/run/docker.pid
  daemon_start dockerd "$NVOCI_RESULTS/logs/dockerd-$SIM_ROOT-$SIM_CGROUP.log" dockerd
  wait_for 40 docker version || { case_begin "dockerd $SIM_ROOT"; fail "dockerd does not answer"; ok; }
}

# config_of ID: the config.json that an engine wrote for a running container.
config_of() {
  local dir
  for dir in /run /var/run/docker /var/lib/containers /home/u/.local/share/containers /scratch; do
    [ -d "$dir" ] || continue
    find "$dir" -path "*/$1*/config.json" -not -path '/run/simhost/*' 2>/dev/null || true
  done | sed -n 1p
}

# one_injection CONTAINER: the driver directory is mounted once, each node is there once, and the definition names one hook.
one_injection() {
  local config n id
  must 20 mountinfo "${ENGINE[@]}" exec "$1" cat /proc/self/mountinfo || return 0
  n=$(awk '$5 == "/usr/local/nvidia"' "$CASE_DIR/mountinfo.out" | wc -l)
  [ "$n" = 1 ] || fail "/usr/local/nvidia is mounted $n times"
  n=$(awk '$5 == "/dev/nvidia0"' "$CASE_DIR/mountinfo.out" | wc -l)
  [ "$n" -le 1 ] || fail "/dev/nvidia0 is mounted $n times"
  id=$("${ENGINE[@]}" inspect -f '{{.Id}}' "$1" </dev/null)
  config=$(config_of "$id")
  [ -n "$config" ] || { fail "no config.json of $id"; return 0; }
  cp "$config" "$CASE_DIR/config.json"
  n=$(jq '[.hooks // {} | .[][] | select(.path | test("nvoci|nvidia-container"))] | length' "$config")
  [ "$n" = 1 ] || fail "$n hooks of ours in config.json"
  n=$(jq '[.linux.devices[]? | select(.path == "/dev/nvidia0")] | length' "$config")
  [ "$n" = 1 ] || fail "/dev/nvidia0 stands $n times in config.json"
}

# once_case NAME RUN-OPTION...: a container that runs, and got everything once.
once_case() {
  local name=$1
  shift
  case_begin "$name"
  mount_table >"$CASE_DIR/mounts.before"
  if must 60 start "${ENGINE[@]}" run -d --name probe --network=none "$@" "$(image slim)" /usr/bin/probe --hold 300; then
    one_injection probe
    if ask probe-once probe; then host_libraries; first_gpu_only; fi
  fi
  remove probe
  same_mounts "$CASE_DIR/mounts.before"
  ok
}
