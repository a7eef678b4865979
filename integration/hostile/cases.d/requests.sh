# shellcheck shell=bash disable=SC2034,SC2154  # what a case sets is read by `inside`, which has the rest
# Who asks, and what the host holds: annotations that an author wrote, records and mounts in a container that prove nothing.

# What CRI-O and the kubelet write for a container of a pod, with the pod's own annotation PAIRS beside it (tests/definitions/crio-1.36.json).
pods=/var/lib/kubelet/pods/4811a2ec-9576-4426-a2d3-299dc1ced75f
crio() { # PAIRS-THAT-THE-KUBELET-GAVE
  jq -n --argjson given "{$1}" '{"io.container.manager": "cri-o", "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.pod.name": "gpu",
    "io.kubernetes.cri-o.Annotations": ({"io.kubernetes.container.hash": "f2390c24"} + $given | tojson)}'
}
containerd='{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "0"}'
annotated() { local a; printf '.annotations = ({}'; for a in "$@"; do printf ' + %s' "$a"; done; echo ')'; } # OBJECT...
in_pod() { # OBJECT...
  echo "$(annotated "$@") | .mounts += [{destination: \"/etc/hosts\", type: \"bind\", source: \"$pods/etc-hosts\", options: [\"rbind\", \"rprivate\"]}]"
}
kubelets() { mkdir -p $pods; : >$pods/etc-hosts; }
everything='{"cdi.k8s.io/mine": "nvidia.com/gpu=all"}'
first='{"cdi.k8s.io/n": "nvidia.com/gpu=0"}'
# Nothing else asks, and variables are not accepted.
asks_alone() { ENVS=(A=b) POLICY='accept-envvar-unprivileged = false' WAYS=$requests EXPECT=nogpu BITE='a GPU'; trick() { kubelets; }; }
t_65_pod() { asks_alone; JQ=$(in_pod "$(crio '')" "$everything"); }
t_65_pod_as_containerd() { asks_alone; JQ=$(in_pod "$(crio '')" "$containerd" "$everything"); }
t_65_other_value() { asks_alone; JQ=$(in_pod "$(crio '"cdi.k8s.io/mine": "nvidia.com/gpu=7"')" "$everything"); }
t_65_not_json() { asks_alone; JQ=$(in_pod "$(crio '')" '{"io.kubernetes.cri-o.Annotations": "[[[[[["}' "$everything"); }
# In the sandbox CRI-O writes the pod's annotations over its own.
t_65_sandbox() { asks_alone; JQ=$(annotated "$(crio "${everything:1:-1}")" "$everything"); }
# What a device plugin gave is given, and no more.
t_65_plugin() { asks_alone; JQ=$(in_pod "$(crio '"cdi.k8s.io/nvidia-device-plugin_1": "nvidia.com/gpu=0"')" '{"cdi.k8s.io/nvidia-device-plugin_1": "nvidia.com/gpu=0"}' "$everything"); WAYS=entry EXPECT=gpu BITE=''; }
# An image's annotations under Podman, which adds its own marker only where the image has none.
t_66_image() { asks_alone; JQ=$(annotated '{"io.container.manager": "libpod"}' "$everything"); }
t_66_image_as_crio() { asks_alone; JQ=$(annotated "$(crio "${everything:1:-1}")" "$containerd" "$everything"); }
t_66_image_as_containerd() { asks_alone; JQ=$(annotated '{"io.container.manager": ""}' "$containerd" "$everything"); }
t_66_no_engine() { asks_alone; JQ=$(annotated "$everything"); }

# other_kind KIND: its specification on the host gives GPU 1, the container asks for GPU 0 by a variable that is accepted.
other_kind() { # KIND
  KIND=$1 WAYS=entry EXPECT=gpu BITE=''
  trick() {
    kubelets
    mkdir -p /etc/cdi
    printf '{"cdiVersion": "0.5.0", "kind": "%s", "devices": [{"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia1"}]}}]}\n' "$KIND" >/etc/cdi/kind.json
  }
}
t_65_vendor() { other_kind evil.com/dev; JQ=$(in_pod "$(crio '"cdi.k8s.io/mine": "evil.com/dev=all"')" '{"cdi.k8s.io/mine": "evil.com/dev=all"}' "$first"); }
t_65_management() { other_kind management.nvidia.com/gpu; JQ=$(in_pod "$containerd" '{"cdi.k8s.io/mine": "management.nvidia.com/gpu=all"}' "$first"); }
t_66_image_vendor() { other_kind evil.com/dev; JQ=$(annotated '{"io.container.manager": "libpod", "cdi.k8s.io/mine": "evil.com/dev=all"}' "$first"); }
t_66_image_class() { other_kind nvidia.com/dev; JQ=$(annotated '{"cdi.k8s.io/mine": "nvidia.com/dev=all"}' "$first"); }
# This host has no such channel, so a request that is granted fails.
t_65_imex() { JQ=$(in_pod "$(crio '')" '{"cdi.k8s.io/i": "nvidia.com/imex-channel=0"}' "$first"); trick() { kubelets; }; WAYS=entry EXPECT=gpu BITE=''; }
t_66_imex_gds() { JQ=$(annotated '{"cdi.k8s.io/i": "nvidia.com/imex-channel=0,nvidia.com/gds=all,nvidia.com/mofed=all"}' "$first"); WAYS=entry EXPECT=gpu BITE=''; }

# forged PATH: a file system of a user's, with a record that says what an injection says, is a volume at PATH.
forged() { # PATH
  mkdir -p "$BUNDLE/small/lib64"
  [ -z "${TMPFS:-}" ] || mount -t tmpfs -o mode=0755 nvoci "$BUNDLE/small"
  printf '{"version": "0.1.0", "driver": "550.120", "driverDir": "%s", "devices": ["/dev/nvidia0", "/dev/nvidia1"], "gpus": [], "warnings": []}\n' "$1" >"$BUNDLE/small/.nvoci.json"
  [ -n "${TMPFS:-}" ] || mount --bind "$BUNDLE/small" "$BUNDLE/small"
  jq --arg at "$1" --arg from "$BUNDLE/small" '.mounts += [{destination: $at, type: "bind", source: $from, options: ["rbind", "ro"]}]' "$BUNDLE/config.json" >"$BUNDLE/config.new"
  mv "$BUNDLE/config.new" "$BUNDLE/config.json"
}
# A container that stays, and what `doctor container --fix` says of it: its GPU MINOR does not open.
fixed() { # MINOR
  jq '.process.args = ["/bin/sleep", "60"]' "$BUNDLE/config.json" >"$BUNDLE/config.new"
  mv "$BUNDLE/config.new" "$BUNDLE/config.json"
  run 8 stays "$runtime" run --detach --bundle "$BUNDLE" "$ID" || { fail "does not stay: $(tail -n 1 "$CASE_DIR/stays.err" | cut -c1-300)"; return; }
  run 8 state "$runtime" state "$ID" || true
  run 20 fix nvoci doctor container "$(jq .pid "$CASE_DIR/state.out")" --fix || true
  timeout 20 "$runtime" delete --force "$ID" >/dev/null 2>&1 </dev/null || true
  ! grep -q 'will do: .*195:'"$1" "$CASE_DIR/fix.out" || fail "--fix gives a GPU nobody granted: $(grep -m 1 'will do' "$CASE_DIR/fix.out")"
  grep -q 'proves nothing' "$CASE_DIR/fix.out" || fail "--fix does not say why it does nothing: $(tail -n 3 "$CASE_DIR/fix.out" | cut -c1-300)"
}
bound1='.mounts += [{destination: "/dev/nvidia1", type: "bind", source: "/dev/nvidia1", options: ["bind", "rw"]}]'
# The kernel gives a namespace the number of one that is gone: the same container without nvoci, once more.
t_67_reused() {
  WAYS=$requests EXPECT=gpu BITE=''
  check() {
    jq "del(.hooks) | ${bound1//nvidia1/nvidia0} | .linux.resources.devices += [{allow: false, type: \"c\", major: 195, access: \"rwm\"}] | .process.env = [\"A=b\"]" "$CASE_DIR/config.json" >"$BUNDLE/config.json"
    fixed 0
  }
}
t_67_no_grant() { ENVS=(A=b) JQ=$bound1; WAYS=createRuntime EXPECT=nogpu BITE=''; TMPFS=1; trick() { forged /usr/local/nvidia; }; check() { fixed 1; }; }
t_67_other_grant() { JQ=$bound1; WAYS='createRuntime createContainer' EXPECT=gpu BITE=''; TMPFS=1; trick() { forged /opt/nvidia; }; check() { fixed 1; }; }

# The driver itself is there, at the next candidate.
with_driver() {
  EXPECT=gpu BITE='' ASK="--hash $1/lib64/libcuda.so.1"
  check() { grep -qE '^hash [^ ]*/libcuda.so.1 [0-9a-f]{16}' "$CASE_DIR/start.out" || fail "no driver: $(grep ^hash "$CASE_DIR/start.out")"; }
}
t_68_tmpfs() { TMPFS=1; trick() { forged /usr/local/nvidia; }; with_driver /opt/nvidia; }
t_68_directory() { TMPFS=''; trick() { forged /usr/local/nvidia; }; with_driver /opt/nvidia; }
t_68_through_link() { TMPFS=1; trick() { link_abs x /usr/local; mkdir -p "$R/usr/local/nvidia"; forged /x/nvidia; }; WAYS=$requests; with_driver /opt/nvidia; }
t_68_last_resort() { TMPFS=1 POLICY='driver-dirs = ["/run/nvoci"]'; trick() { forged /run/nvoci; }; WAYS=$requests; with_driver /dev/.nvoci; }
t_68_parent() { TMPFS=1; trick() { forged /usr/local; mkdir "$BUNDLE/small/nvidia"; mv "$BUNDLE/small/.nvoci.json" "$BUNDLE/small/nvidia"; }; WAYS=$requests; with_driver /opt/nvidia; }

# The hook of our CDI specification, where the engine has given GPU 0.
by_cdi='.linux.devices += [{path: "/dev/nvidia0", type: "c", major: 195, minor: 0, fileMode: 438, uid: 0, gid: 0}]
  | .linux.resources.devices += [{allow: true, type: "c", major: 195, minor: 0, access: "rwm"}]
  | .hooks = {createRuntime: [{path: "/usr/bin/nvoci", args: ["nvoci", "hook", "--cdi", "--devices-in-spec", "createRuntime"], env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]}'
shows='.process.args = ["/bin/cat", "/usr/local/nvidia/.nvoci.json"]'
# What counts as granted is in the plan, and brings its DRM nodes and its entry in /proc.
granted_by_cdi() {
  ENVS=(NVIDIA_VISIBLE_DEVICES=void) WAYS=createRuntime EXPECT=started BITE=''
  check() { [ "$(jq -c '[.gpus[].minor]' "$CASE_DIR/start.out")" = '[0]' ] || fail "GPUs that count as granted: $(jq -c '[.gpus[].minor]' "$CASE_DIR/start.out")"; }
}
t_69_bind() { granted_by_cdi; JQ="$by_cdi | $shows | $bound1"; }
t_69_bind_elsewhere() { granted_by_cdi; JQ="$by_cdi | $shows | .mounts += [{destination: \"/vol\", type: \"bind\", source: \"/dev/nvidia1\", options: [\"rbind\"]}]"; }
t_69_opens() { ENVS=(NVIDIA_VISIBLE_DEVICES=void) WAYS=createRuntime EXPECT=gpu BITE=''; JQ="$by_cdi | $bound1"; }
t_69_denied() { granted_by_cdi; JQ="$by_cdi | $shows | .linux.devices += [{path: \"/dev/nvidia1\", type: \"c\", major: 195, minor: 1, fileMode: 438, uid: 0, gid: 0}]"; }
# CAP_SYS_ADMIN over a user namespace of the container's own is no right over the host.
t_14_users_own_admin() {
  devices all
  JQ='.linux.namespaces += [{type: "user"}] | .linux.uidMappings = [{containerID: 0, hostID: 100000, size: 65536}] | .linux.gidMappings = .linux.uidMappings
    | .process.capabilities |= map_values(. + ["CAP_SYS_ADMIN"] | unique)'
  POLICY=$closed EXPECT=nogpu WAYS=createRuntime BITE=''
  trick() { chown 100000:100000 "$R" "$R/etc"; mkdir -p "$R/usr/local"; chown 100000:100000 "$R/usr/local"; }
}
