# shellcheck shell=bash
# A containerd of our own on a socket of its own, and a CRI client. Sourced after common.sh; writes /etc/containerd/config.toml.

version=$(containerd --version | grep -o ' v\?[0-9]*\.[0-9]*' | tr -d ' v' | head -n 1)
socket=/scratch/containerd.sock
export CONTAINERD_ADDRESS=$socket
# shellcheck disable=SC2034  # used by those who source this
plugin='' local_import=()
mkdir -p /etc/containerd /etc/nvoci /scratch/cri-log

# Without CAP_SYS_RESOURCE no process may lower its OOM score: restrict_oom_score_adj.
if [ "${version%%.*}" = 1 ]; then
  plugin=io.containerd.grpc.v1.cri
  cat >/etc/containerd/config.toml <<'T'
version = 2
root = "/var/lib/containerd"
state = "/scratch/state"
[grpc]
  address = "/scratch/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]   # somebody's own
  sandbox_image = "docker.io/local/pause:1"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/scratch/cni"
    conf_dir = "/scratch/cni"
T
else
  # shellcheck disable=SC2034
  plugin=io.containerd.cri.v1.runtime
  local_import=(--local)
  cat >/etc/containerd/config.toml <<'T'
version = 3
root = "/var/lib/containerd"
state = "/scratch/state"
[grpc]
  address = "/scratch/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "docker.io/local/pause:1"
[plugins."io.containerd.cri.v1.runtime"]   # somebody's own
  restrict_oom_score_adj = true
  enable_cdi = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/scratch/cni"]
    conf_dir = "/scratch/cni"
T
fi

# A network plugin that makes no network and reports success.
mkdir -p /scratch/cni
echo '{"cniVersion": "1.0.0", "name": "nothing", "plugins": [{"type": "none"}]}' >/scratch/cni/nothing.conflist
cat >/scratch/cni/none <<'N'
#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" != VERSION ] || { echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}'; exit; }
[ "$CNI_COMMAND" != ADD ] ||
  echo "{\"cniVersion\": \"1.0.0\", \"interfaces\": [{\"name\": \"$CNI_IFNAME\", \"sandbox\": \"$CNI_NETNS\"}], \"ips\": [{\"address\": \"10.0.0.2/24\", \"interface\": 0}]}"
N
chmod 755 /scratch/cni/none
ln -sf none /scratch/cni/loopback

# load_images NAME...: into the namespaces of ctr and of the CRI.
load_images() {
  local ns i
  for ns in default k8s.io; do
    for i in "$@"; do
      # The archives carry Docker's short names.
      must 90 "load-$ns-$i" ctr -n $ns image import "${local_import[@]}" "/world/archives/$i.tar" || true
      ctr -n $ns image tag --force "local/$i:1" "docker.io/local/$i:1" >/dev/null 2>&1 </dev/null || true
    done
  done
}

# The CRI client runs with the python that one of the roots has.
client=/world/roots/bookworm-more
mount --bind /scratch $client/scratch
mount --bind /integration $client/integration
mount --rbind /world $client/world
cat >/usr/local/bin/cri <<C
#!/bin/sh
exec chroot $client env PYTHONPATH=/world/cri:/world/cri/venv/lib/python3.11/site-packages python3 /integration/runtime/cri.py "$socket" "\$@"
C
chmod 755 /usr/local/bin/cri
