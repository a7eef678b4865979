# shellcheck shell=bash
# The cluster of this host: its control plane, and what the cases ask of it. Sourced by `inside`.

export KUBECONFIG=/etc/kubernetes/admin
K=/etc/kubernetes LOGS=$NVOCI_RESULTS/logs/cluster-$containerd
uuid() { printf 'GPU-5eed000%d-6d09-4804-74aa-d9624af686c0' "$1"; }

# keep NAME COMMAND...: starts it again when it ends. The schedulers give up on an API server that is slow to start.
keep() {
  while :; do
    "${@:2}" >>"$LOGS-$1.log" 2>&1 </dev/null || true
    sleep 1
  done &
}

start_control_plane() {
  openssl genrsa -out $K/sa.key 2048 2>/dev/null
  openssl rsa -in $K/sa.key -pubout -out $K/sa.pub 2>/dev/null
  echo 'token,admin,1,system:masters' >$K/tokens
  cat >$KUBECONFIG <<'Y'
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: token}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
Y
  keep etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
  keep apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=127.0.0.1 --secure-port=6443 --cert-dir=$K/cert --service-cluster-ip-range=10.0.0.0/24 \
    --service-account-key-file=$K/sa.pub --service-account-signing-key-file=$K/sa.key --service-account-issuer=https://cluster.local --token-auth-file=$K/tokens \
    --authorization-mode=RBAC --endpoint-reconciler-type=none --allow-privileged=true --kubelet-preferred-address-types=InternalIP
  keep scheduler kube-scheduler --kubeconfig=$KUBECONFIG --leader-elect=false --kube-api-qps=500 --kube-api-burst=500
  keep controllers kube-controller-manager --kubeconfig=$KUBECONFIG --leader-elect=false --kube-api-qps=500 --kube-api-burst=500 --service-account-private-key-file=$K/sa.key \
    --root-ca-file=$K/cert/apiserver.crt
}

# until_ WORD SECONDS COMMAND...: waits; a fault of the case if it never succeeds.
until_() {
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >"$CASE_DIR/until" 2>&1 </dev/null; do
    [ $SECONDS -lt $end ] || { fail "$what: not in time: $(tail -n 2 "$CASE_DIR/until" | tr '\n' ' ' | cut -c1-300)"; return 1; }
    sleep 0.3
  done
}

k() { timeout 30 kubectl "$@" </dev/null; }
# get OBJECT... PATH: one value by JSONPath.
get() { k get "${@:1:$#-1}" -o "jsonpath=${!#}" 2>/dev/null || true; }
is() { [ "$(get "${@:2}")" = "$1" ]; }
# apply FILE: kubectl takes a comma in a path for the next path.
apply() { cp "$1" /scratch/applied.yaml && must 30 apply kubectl apply -f /scratch/applied.yaml || true; }
phase() { get pod "$1" '{.status.phase}'; }

# quick FILE: a manifest that waits less than it is shipped to.
quick() { sed 's/minReadySeconds: 30/minReadySeconds: 2/; s/periodSeconds: 60/periodSeconds: 5/' "$1" >"$CASE_DIR/quick.yaml" && apply "$CASE_DIR/quick.yaml"; }

# A pod of the probe. Words of the form KEY=VALUE: env.NAME, class, gpus (of the device plugin), annotation.KEY; then the pod is created.
pod() {
  local name=$1 word edit='.'
  shift
  for word; do
    case $word in
      env.*) edit+=" | .spec.containers[0].env += [{name: \"$(cut -d= -f1 <<<"${word#env.}")\", value: \"${word#*=}\"}]" ;;
      class=*) edit+=" | .spec.runtimeClassName = \"${word#*=}\"" ;;
      gpus=*) edit+=" | .spec.containers[0].resources.limits = {\"nvidia.com/gpu\": \"${word#*=}\"}" ;;
      annotation:*) word=${word#annotation:} && edit+=" | .metadata.annotations += {\"${word%%=*}\": \"${word#*=}\"}" ;;
    esac
  done
  # shellcheck disable=SC2086
  jq -n --arg name "$name" '{apiVersion: "v1", kind: "Pod", metadata: {name: $name},
    spec: {restartPolicy: "Never", terminationGracePeriodSeconds: 0, enableServiceLinks: false, automountServiceAccountToken: false,
      containers: [{name: "c", image: "docker.io/local/slim:1", imagePullPolicy: "Never", command: (["/usr/bin/probe"] + $ARGS.positional + ["--hold", "900"])}]}} | '"$edit" \
    --args -- $QUESTIONS >"$CASE_DIR/$name.json"
  apply "$CASE_DIR/$name.json"
}

# runs NAME CHECK...: the pod runs, and what its probe found passes the checks.
runs() {
  local name=$1 check
  shift
  if until_ "pod $name" 60 has_log "$name"; then
    k logs "$name" >"$(out)"
    for check; do $check; done
  else
    k describe pod "$name" >"$CASE_DIR/describe-$name" 2>&1 || true
    fail "$name: $(grep -E 'Warning' "$CASE_DIR/describe-$name" | tail -n 1 | cut -c1-300)"
  fi
}
has_log() { k logs "$1" | grep -q '^mknod 1:3'; }

# refused NAME WORDS: the pod never starts, and one of its events has the words.
refused() {
  until_ "an event of $1 with \`$2\`" 60 has_event "pod/$1" "$2" || { k get events >"$CASE_DIR/events" 2>&1; return 0; }
  [ -z "$(get pod "$1" '{.status.containerStatuses[0].state.running}')" ] || fail "$1 runs"
}
has_event() { k get events -A -o json | jq -e --arg o "${1#*/}" --arg w "$2" 'any(.items[]; (.involvedObject.name | startswith($o)) and (.message | contains($w)))'; }

# gone NAME...: deletes pods, and waits.
gone() { must 60 gone kubectl delete pod "$@" --wait --grace-period=0 --force || true; }

gpu_0() { host_libraries; first_gpu_only; }
gpu_1() { host_libraries; one_gpu 1 0; }

# rolled_out NAME SECONDS
rolled_out() { must "$2" rollout kubectl rollout status -n nvoci "daemonset/$1" || fail "$(k describe pod -n nvoci | grep -E 'Warning' | tail -n 2 | tr '\n' '|' | cut -c1-400)"; }
node_pod() { k get pod -n nvoci -l app.kubernetes.io/name=nvoci --field-selector=status.phase=Running --sort-by=.metadata.creationTimestamp -o 'jsonpath={.items[-1:].metadata.name}'; }
# upgrade TAG: as `helm upgrade --set image.tag`.
upgrade() { must 30 "upgrade-$1" kubectl set image -n nvoci daemonset/nvoci node="registry.example/nvoci:$1" || true; }
sum_installed() { sha256sum </opt/nvoci/bin/nvoci; }
started_at() { get pod "$1" '{.status.containerStatuses[0].state.running.startedAt} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}'; }
engine_pid() { systemctl show -p MainPID --value containerd; }

# plugin STRATEGY: the device plugin's stand-in, with another strategy.
plugin() {
  [ -z "${PLUGIN:-}" ] || { kill "$PLUGIN" && wait "$PLUGIN"; } 2>/dev/null || true
  in_python cluster/device-plugin.py /scratch/node/var/lib/kubelet/device-plugins "$1" "$(uuid 0)" "$(uuid 1)" >"$LOGS-device-plugin-$1.log" 2>&1 </dev/null &
  PLUGIN=$!
  until_ "device plugin $1" 20 grep -q '^registered' "$LOGS-device-plugin-$1.log" || true
  until_ 'the node has 2 GPUs' 40 is 2 node n1 '{.status.allocatable.nvidia\.com/gpu}' || true
}
# The python that one of the roots has, on a tree with the node's root in /scratch/node.
client=/world/roots/bookworm-more
in_python() { exec chroot $client env PYTHONPATH=/world/cri/venv/lib/python3.11/site-packages python3 "/integration/$1" "${@:2}"; }
nri_healthy() { k exec -n nvoci "$(node_pod)" -c nri -- /busybox wget -q -O - http://127.0.0.1:9401/healthz | grep -q '^registered'; }
