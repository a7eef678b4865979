# shellcheck shell=bash
# Docker and Podman of the root at hand. Sourced inside a simulated host.

docker_config() {
  cat >/etc/docker/daemon.json <<'J'
{"storage-driver": "overlay2", "iptables": false, "ip6tables": false, "bridge": "none", "exec-opts": ["native.cgroupdriver=cgroupfs"]}
J
}
start_docker() {
  dockerd >"$NVOCI_RESULTS/logs/packages-dockerd-$SIM_ROOT.log" 2>&1 </dev/null &
  for _ in $(seq 150); do if timeout 5 docker version >/dev/null 2>&1 </dev/null; then break; fi; sleep 0.2; done
}
start_podman() { # RUNTIME
  cat >/scratch/containers.conf <<'C'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
C
  mkdir -p /scratch/no-hooks
  export CONTAINERS_CONF=/scratch/containers.conf STORAGE_DRIVER=overlay
  PODMAN=(podman --runtime "$1")
}
stop_engines() {
  local pid
  pid=$(cat /run/docker.pid 2>/dev/null || true)
  [ -z "$pid" ] || { kill "$pid"; for _ in $(seq 50); do [ -d "/proc/$pid" ] || break; sleep 0.1; done; }
}

# hold: one container of Docker's and one of Podman's, started through nvoci's runtime, that run on. dockerd reloads its file.
hold() {
  local gpu=(--network=none -e NVIDIA_VISIBLE_DEVICES=0)
  cp /etc/docker/daemon.json "$CASE_DIR/registered"
  kill -HUP "$(cat /run/docker.pid)"
  for _ in $(seq 50); do if timeout 5 docker info 2>/dev/null </dev/null | grep -q 'Runtimes:.* nvidia'; then break; fi; sleep 0.1; done
  must 60 docker docker run -d --name held --runtime=nvidia "${gpu[@]}" "$(image slim)" /usr/bin/probe --hold 300 || true
  must 60 podman podman --runtime "$(readlink -f "$(command -v nvoci)")-runtime" run -d --name held --cap-add MKNOD "${gpu[@]}" "$(image slim)" /usr/bin/probe --hold 300 || true
}
held() {
  local engine
  for engine in docker podman; do
    must 20 "exec-$engine" $engine exec held /usr/bin/probe --hold 0 || true
  done
}
release() {
  local engine
  for engine in docker podman; do
    must 20 "stop-$engine" $engine kill held || true
    must 20 "remove-$engine" $engine rm -f held || true
  done
}
