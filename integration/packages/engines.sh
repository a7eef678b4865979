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
