# shellcheck shell=bash
# 200 pods at once, of three kinds one after the other: plain runc, the RuntimeClass, and NRI by annotation. Sourced by `inside`.
count=${MANY:-200}

case_begin "$at: many: the chart's plugin, policy off"
quick /integration/chart/golden/nri.yaml
k delete pod -n nvoci nvoci-test >/dev/null 2>&1 || true
k get daemonset -n nvoci nvoci -o json | jq '.spec.template.spec.containers[1].args |= map(if . == "allocated" then "off" else . end)' >"$CASE_DIR/off.json"
apply "$CASE_DIR/off.json"
rolled_out nvoci 200
ok

# many KIND EDIT CHECK: one Deployment. CHECK is a pattern that each container's log must have.
many() {
  local kind=$1 edit=$2 check=$3 began ended log=$LOGS-containerd.log from
  case_begin "$at: many: $count pods, $kind"
  # shellcheck disable=SC2086
  jq -n --arg kind "$kind" --argjson count "$count" '{apiVersion: "apps/v1", kind: "Deployment", metadata: {name: $kind}, spec: {replicas: $count,
    selector: {matchLabels: {kind: $kind}}, template: {metadata: {labels: {kind: $kind}}, spec: {terminationGracePeriodSeconds: 0, enableServiceLinks: false,
      automountServiceAccountToken: false, containers: [{name: "c", image: "docker.io/local/slim:1", imagePullPolicy: "Never",
        command: (["/usr/bin/probe"] + $ARGS.positional + ["--hold", "9000"])}]}}}} | '"$edit" --args -- $QUESTIONS >"$CASE_DIR/deployment.json"
  from=$(wc -c <"$log")
  began=$(now_ms)
  apply "$CASE_DIR/deployment.json"
  until_ 'all are available' 900 is "$count" deployment "$kind" '{.status.availableReplicas}' || true
  ended=$(now_ms)
  k get pods -l kind="$kind" -o json >"$CASE_DIR/pods.json" || true
  [ "$(jq '[.items[].status.containerStatuses[0].restartCount] | add' "$CASE_DIR/pods.json")" = 0 ] || fail 'a container was started again'
  k get events -o json | jq -r --arg kind "$kind-" '.items[] | select(.type == "Warning" and (.involvedObject.name | startswith($kind)) and .reason != "MissingClusterDNS") | .reason + ": " + .message' |
    sort | uniq -c | sort -rn >"$CASE_DIR/warnings"
  [ ! -s "$CASE_DIR/warnings" ] || fail "warnings: $(head -n 3 "$CASE_DIR/warnings" | tr '\n' '|' | cut -c1-300)"
  grep -lE "$check" /var/log/pods/default_"$kind"-*/c/0.log >"$CASE_DIR/good" || true
  [ "$(wc -l <"$CASE_DIR/good")" = "$count" ] || fail "$(wc -l <"$CASE_DIR/good") of $count have \`$check\` in their logs"
  tail -c +"$from" "$log" | start_times "$kind" $((ended - began)) | tee "$CASE_DIR/times" >>"$NVOCI_RESULTS/many.txt"
  cat "$CASE_DIR/times"
  must 60 delete kubectl delete deployment "$kind" --wait || true
  until_ 'all are gone' 600 bash -c "[ -z \"\$(kubectl get pods -l kind=$kind -o name)\" ]" || true
  ok
}

# start_times KIND MS: the time of each StartContainer in containerd's log, which makes the container and starts it.
start_times() {
  awk -F'"' '$4 == "StartContainer for \\" {
      split(substr($2, 12), t, ":")
      at = t[1] * 3600 + t[2] * 60 + t[3]
      if ($6 == " returns successfully") { if ($5 in began) print (at - began[$5] + (at < began[$5] ? 86400 : 0)) * 1000 } else began[$5] = at
    }' | sort -n | awk -v kind="$1" -v ms="$2" '{ t[NR] = $1 }
    END { printf "%s: %d starts, all available after %.1f s; StartContainer p50 %.0f ms, p95 %.0f ms, max %.0f ms\n", kind, NR, ms / 1000, t[int(NR / 2) + 1], t[int(NR * 0.95) + 1], t[NR] }'
}

many plain . '^.* mknod 1:3'
many class '.spec.template.spec.runtimeClassName = "nvidia" | .spec.template.spec.containers[0].env = [{name: "NVIDIA_VISIBLE_DEVICES", value: "0"}]' 'dev /dev/nvidia0 (ok|nodriver)'
many nri '.spec.template.metadata.annotations = {"nvidia.cdi.k8s.io/pod": "nvidia.com/gpu=0"}' 'dev /dev/nvidia0 (ok|nodriver)'
many plain-again . '^.* mknod 1:3'
