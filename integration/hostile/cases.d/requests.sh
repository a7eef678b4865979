# shellcheck shell=bash disable=SC2034,SC2154  # what a case sets is read by `inside`, which has the rest
# What the host holds: records and mounts in a container that prove nothing, and kinds that the container may not request.

# other_kind KIND: its specification on the host gives GPU 1. The container requests GPU 0 by an
# accepted variable.
other_kind() { # KIND
  KIND=$1 WAYS=entry EXPECT=gpu BITE=''
  trick() {
    mkdir -p /etc/cdi
    printf '{"cdiVersion": "0.5.0", "kind": "%s", "devices": [{"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia1"}]}}]}\n' "$KIND" >/etc/cdi/kind.json
  }
}
# forged PATH: a user's file system with a copy of an injection's record is a volume at PATH.
forged() { # PATH
  mkdir -p "$BUNDLE/small/lib64"
  [ -z "${TMPFS:-}" ] || mount -t tmpfs -o mode=0755 nvoci "$BUNDLE/small"
  printf '{"version": "0.1.0", "driver": "550.120", "driverDir": "%s", "devices": ["/dev/nvidia0", "/dev/nvidia1"], "gpus": [], "warnings": []}\n' "$1" >"$BUNDLE/small/.nvoci.json"
  [ -n "${TMPFS:-}" ] || mount --bind "$BUNDLE/small" "$BUNDLE/small"
  jq --arg at "$1" --arg from "$BUNDLE/small" '.mounts += [{destination: $at, type: "bind", source: $from, options: ["rbind", "ro"]}]' "$BUNDLE/config.json" >"$BUNDLE/config.new"
  mv "$BUNDLE/config.new" "$BUNDLE/config.json"
}
# Checks the output of `doctor container --fix` for a running container whose GPU MINOR does not
# open.
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
# Granted devices are in the plan, with their DRM nodes and their entry in /proc.
granted_by_cdi() {
  ENVS=(NVIDIA_VISIBLE_DEVICES=void) WAYS=createRuntime EXPECT=started BITE=''
  check() { [ "$(jq -c '[.gpus[].minor]' "$CASE_DIR/start.out")" = '[0]' ] || fail "GPUs that count as granted: $(jq -c '[.gpus[].minor]' "$CASE_DIR/start.out")"; }
}
t_69_bind() { granted_by_cdi; JQ="$by_cdi | $shows | $bound1"; }
t_69_bind_elsewhere() { granted_by_cdi; JQ="$by_cdi | $shows | .mounts += [{destination: \"/vol\", type: \"bind\", source: \"/dev/nvidia1\", options: [\"rbind\"]}]"; }
t_69_opens() { ENVS=(NVIDIA_VISIBLE_DEVICES=void) WAYS=createRuntime EXPECT=gpu BITE=''; JQ="$by_cdi | $bound1"; }
t_69_denied() { granted_by_cdi; JQ="$by_cdi | $shows | .linux.devices += [{path: \"/dev/nvidia1\", type: \"c\", major: 195, minor: 1, fileMode: 438, uid: 0, gid: 0}]"; }
# CAP_SYS_ADMIN over a user namespace of the container's own is no right over the host.

# A container's own settings: an image can write `NVOCI_<KEY>` and `nvoci.dev/<key>`.
chooses() { ENVS=(NVIDIA_VISIBLE_DEVICES=0 "$@"); WAYS=$requests EXPECT=gpu BITE=''; } # NAME=VALUE...
every_key='container-settings = ["cuda-compat", "ipc-sockets", "layout", "no-cgroups", "preflight", "warn-stderr"]'
lists='.process.args = ["/bin/ls", "-R", "/usr/local/nvidia"]'
roots_mps() { install -d -m 755 /tmp/nvidia-mps; : >/tmp/nvidia-mps/control; }
cpu_only() { mkdir -p "$R/opt/conda/lib/python3.10/site-packages/torch"; printf "__version__ = '2.0.1'\ncuda = None\n" >"$R/opt/conda/lib/python3.10/site-packages/torch/version.py"; }
t_87_cgroups() { chooses NVOCI_NO_CGROUPS=false; POLICY='no-cgroups = true' WAYS=createRuntime EXPECT=nogpu; }
t_87_sockets() {
  chooses NVOCI_IPC_SOCKETS=true
  POLICY='ipc-sockets = false' EXPECT=started JQ="$lists | .annotations = {\"nvoci.dev/ipc-sockets\": \"true\", \"io.container.manager\": \"libpod\"}"
  trick() { roots_mps; }
  check() { ! grep -q nvidia-mps "$CASE_DIR/start.out" || fail "the image gave itself the daemon's pipes"; }
  undo() { rm -rf /tmp/nvidia-mps; }
}
# The same host and image where nothing is forbidden and nothing chosen, and where the image wants less.
t_87_sockets_given() { t_87_sockets; ENVS=(NVIDIA_VISIBLE_DEVICES=0) POLICY='' JQ=$lists; check() { grep -q nvidia-mps "$CASE_DIR/start.out" || fail "no pipes: nothing is proved"; }; }
t_87_sockets_less() { t_87_sockets; ENVS=(NVIDIA_VISIBLE_DEVICES=0 NVOCI_IPC_SOCKETS=false) POLICY='' JQ=$lists; }
t_87_enforce() { chooses NVOCI_PREFLIGHT=off; POLICY='preflight = "enforce"' EXPECT=refused; trick() { cpu_only; }; }
t_87_enforce_listed() { t_87_enforce; POLICY+=$'\n'$every_key; JQ='.annotations = {"nvoci.dev/preflight": "warn"}'; }
t_87_stricter() { chooses NVOCI_PREFLIGHT=enforce; EXPECT=refused; trick() { cpu_only; }; }
t_87_layout() {
  chooses NVOCI_LAYOUT=native
  JQ='.annotations = {"nvoci.dev/layout": "native"}'
  check() { [ ! -e "$R/$lib/libcuda.so.1" ] && [ ! -L "$R/$lib/libcuda.so.1" ] || fail "the image chose its layout"; }
}
t_87_layout_listed() { t_87_layout; POLICY='container-settings = ["layout=native"]'; check() { [ -L "$R/$lib/libcuda.so.1" ] || fail "what is listed was not chosen"; }; }
t_87_words() { chooses "NVOCI_LAYOUT=$(printf '\033')[31m" NVOCI_DRIVER_ROOT=/tmp NVOCI_MODE=cdi "NVOCI_PREFLIGHT=$(many o 90000)"; check() { short_words; no_control "$CASE_DIR/said"; }; }

# Kinds of privileged containers: management.nvidia.com/gpu is on the host and gives GPU 1.
manages() { # VALUE [KIND]
  other_kind "${2:-management.nvidia.com/gpu}"
  ENVS=(NVIDIA_VISIBLE_DEVICES="$1") EXPECT=refused
}
admin='.process.capabilities |= map_values(. + ["CAP_SYS_ADMIN"] | unique)'
t_88_unprivileged() { manages management.nvidia.com/gpu=all; }
t_88_mixed() { manages 0,management.nvidia.com/gpu=all; }
t_88_users_own_admin() {
  manages management.nvidia.com/gpu=all
  JQ=".linux.namespaces += [{type: \"user\"}] | .linux.uidMappings = [{containerID: 0, hostID: 100000, size: 65536}] | .linux.gidMappings = .linux.uidMappings | $admin"
}
t_88_other_kind() { manages evil.com/dev=all evil.com/dev; JQ=$admin; }
t_88_turned_off() { manages management.nvidia.com/gpu=all; JQ=$admin POLICY='accept-cdi-kinds-privileged = []'; }
# A kind that is listed, beside a GPU of the host: the variable that names both is read once more by the hook, which brings the driver.
t_88_beside() { manages 0,nvidia.com/pgpu=all nvidia.com/pgpu; POLICY='accept-cdi-kinds = ["nvidia.com/pgpu"]'; with_driver /usr/local/nvidia; EXPECT=started; }
# The same, where the specification sets the variable to `void`, as the ones that nvoci and the vendor write do.
t_88_beside_void() {
  t_88_beside
  trick() {
    mkdir -p /etc/cdi
    printf '{"cdiVersion": "0.5.0", "kind": "%s", "containerEdits": {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}, "devices": [{"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia1"}]}}]}\n' "$KIND" >/etc/cdi/kind.json
  }
}
# The administrator's container gets the specification's devices, as with the vendor's runtime.
t_88_privileged() { manages management.nvidia.com/gpu=all; JQ=$admin EXPECT=started; check() { has "$CASE_DIR/start.out" "dev /dev/nvidia1 $allowed" "the management device does not open" '/dev/nvidia1'; }; }
t_88_no_specification() {
  manages management.nvidia.com/gpu=all
  JQ=$admin
  trick() { :; }
  check() { grep -q 'nvoci cdi generate --mode=management' "$CASE_DIR/said" || fail "the fix names no command: $(tail -n 1 "$CASE_DIR/said" | cut -c1-300)"; }
}

# An image's own program where the driver's belongs: a script for another machine, or a trap.
smi=usr/bin/nvidia-smi
programs() { WAYS=$requests EXPECT=gpu BITE='' ENVS=(NVIDIA_VISIBLE_DEVICES=0 NVIDIA_DRIVER_CAPABILITIES=all); }
t_89_script() {
  programs
  ASK="--hash /$smi --hash /usr/local/nvidia/bin/nvidia-smi"
  trick() { fresh $smi; printf '#!/bin/sh\nexec /opt/cloud/nvidia-smi "$@"\n' >"$R/$smi"; chmod 755 "$R/$smi"; }
  check() {
    [ "$(awk '/^hash/ { print $3 }' "$CASE_DIR/start.out" | sort -u | wc -l)" = 1 ] || fail "the container's nvidia-smi is the image's: $(grep ^hash "$CASE_DIR/start.out" | tr '\n' '|')"
    grep -q /opt/cloud "$R/$smi" || fail "the image's own file was changed"
  }
}
t_89_script_native() { t_89_script; POLICY=$native; }
t_89_link() { programs; trick() { link_abs $smi $canary/nvidia-smi; }; }
t_89_relative() { programs; trick() { link_abs $smi ../../../../canary/nvidia-smi; }; }
t_89_fifo() { programs; trick() { fresh $smi; mkfifo "$R/$smi"; }; }
t_89_directory() { programs; trick() { fresh $smi; mkdir "$R/$smi"; }; }
t_89_bin() { programs; EXPECT=any; trick() { mv "$R/usr/bin" "$R/usr/own"; link_abs usr/bin $canary/bin; }; }
t_89_hardlink() { programs; JQ='.root.path = "/plainroot"' WAYS=createRuntime; trick() { plain_root; ln -f $canary/nvidia-smi "/plainroot/$smi"; }; TOUCHES='ATTRIB /canary/nvidia-smi by .*'; }
