# shellcheck shell=bash
# The chart with `nri.enabled` and the policy `allocated`: pods without a RuntimeClass, what was not allocated, restarts. containerd 1.7
# takes no CDI devices from a plugin, so there the plugin sets the variable for nvoci's runtime. Sourced by `inside`.
runtime=()
[ "$containerd" != 1.7 ] || runtime=(class=nvidia)

case_begin "$at: NRI, the chart's plugin"
quick /integration/chart/golden/nri.yaml
k delete pod -n nvoci nvoci-test >/dev/null 2>&1 || true
rolled_out nvoci 100
k logs -n nvoci daemonset/nvoci -c nri >"$CASE_DIR/log" 2>&1 || true
grep -q 'registered with containerd' "$CASE_DIR/log" || fail "the plugin: $(tail -n 2 "$CASE_DIR/log" | tr '\n' '|')"
plugin envvar
ok
case_begin "$at: NRI, allocated devices${runtime:+ (RuntimeClass)}"
two_pods nri "${runtime[@]}"
gone nri-1 nri-2 nri-3
pod both gpus=2 "${runtime[@]}" annotation:nvidia.cdi.k8s.io/container.c="nvidia.com/gpu=$(uuid 0),nvidia.com/gpu=$(uuid 1)"
runs both host_libraries both_gpus
gone both
ok
case_begin "$at: NRI, what was not allocated"
pod named "${runtime[@]}" annotation:nvidia.cdi.k8s.io/pod="nvidia.com/gpu=$(uuid 0)"
pod engine "${runtime[@]}" annotation:cdi.k8s.io/mine="nvidia.com/gpu=$(uuid 0)"
pod variable class=nvidia env.NVIDIA_VISIBLE_DEVICES="$(uuid 0)"
pod image class=nvidia env.NVIDIA_VISIBLE_DEVICES=all
pod list "${runtime[@]}" annotation:nvidia.cdi.k8s.io="evil.example/x=0"
pod plain
refused named NVOCI-8001
refused list NVOCI-8003
runs variable no_gpu
runs image no_gpu
runs plain no_gpu
# A pod's own annotation reaches no container's definition, so it names nothing.
runs engine no_gpu
gone named engine variable image list plain
ok
case_begin "$at: NRI, containerd and the kubelet are restarted"
for unit in containerd kubelet; do
  must 60 "restart-$unit" systemctl restart $unit || true
  until_ 'the plugin is registered' 60 nri_healthy || true
  until_ "the node, after $unit" 60 is True node n1 '{.status.conditions[?(@.type=="Ready")].status}' || true
  until_ 'the node has 2 GPUs' 60 is 2 node n1 '{.status.allocatable.nvidia\.com/gpu}' || true
  pod "after-$unit" gpus=1 "${runtime[@]}"
  pod "taker-$unit" "${runtime[@]}" annotation:nvidia.cdi.k8s.io/pod="nvidia.com/gpu=$(uuid 0),nvidia.com/gpu=$(uuid 1)"
  runs "after-$unit" host_libraries
  refused "taker-$unit" NVOCI-8001
  gone "after-$unit" "taker-$unit"
done
ok
case_begin "$at: NRI, the plugin's container ends, and comes again"
pid=$(pgrep -x nvoci-nri)
kill -KILL "$pid"
pod meanwhile
runs meanwhile no_gpu
until_ 'another process' 60 bash -c "p=\$(pgrep -x nvoci-nri) && [ \$p != $pid ]" || true
until_ 'the plugin is registered' 60 nri_healthy || true
pod again gpus=1 "${runtime[@]}"
runs again host_libraries
gone meanwhile again
ok
case_begin "$at: NRI, policy off: an annotation is enough"
k get daemonset -n nvoci nvoci -o json | jq '.spec.template.spec.containers[1].args |= map(if . == "allocated" then "off" else . end)' >"$CASE_DIR/off.json"
apply "$CASE_DIR/off.json"
rolled_out nvoci 100
pod named "${runtime[@]}" annotation:nvidia.cdi.k8s.io/pod="nvidia.com/gpu=$(uuid 0)"
runs named host_libraries
# By CDI the control nodes are those of the specification.
one_gpu 0 1
gone named
ok
