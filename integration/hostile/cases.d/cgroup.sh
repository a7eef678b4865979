# shellcheck shell=bash disable=SC2034  # what a case sets is read by `inside`
# The attacker chooses the container's cgroup, its device rules or its name, or pauses it. The
# device rules of a cgroup that is not the container's own must not change.

# A victim whose cgroup lets it open /dev/fuse and no GPU. VICTIM is the cgroup.
victim() {
  VICTIM=/sys/fs/cgroup
  [ "$SIM_CGROUP" = v2 ] || VICTIM+=/devices
  VICTIM+=/victim
  mkdir "$BUNDLE/victim"
  jq --arg root "$R" 'del(.hooks) | .process.args = ["/bin/sleep", "60"] | .root = {path: $root, readonly: true} | .linux.cgroupsPath = "/victim"
    | .linux.resources.devices = [{allow: false, access: "rwm"}, {allow: true, type: "c", major: 10, minor: 229, access: "rwm"}]' \
    "$BUNDLE/config.json" >"$BUNDLE/victim/config.json"
  "$runtime" run --detach --bundle "$BUNDLE/victim" victim >"$CASE_DIR/victim.log" 2>&1 </dev/null || fail "no victim: $(tail -n 1 "$CASE_DIR/victim.log")"
}
# victim_has DEVICE ANSWER: whether a process in the victim's cgroup can open a node of the host.
victim_has() { has "$CASE_DIR/victim.out" "dev $1 $2" "the victim's device rules are others now" "$1 "; }
# The answers are read once, and the victim ends.
victim_ends() {
  bash -c 'echo 0 >"$0/cgroup.procs" && exec /world/probe/probe-static --dev /dev/fuse --dev /dev/nvidia0 --dev /dev/nvidiactl' "$VICTIM" >"$CASE_DIR/victim.out" 2>&1 </dev/null || true
  "$runtime" delete --force victim >/dev/null 2>&1 </dev/null || true
}
# in_cgroup DIR: starts the runtime there, which leaves its container there: `podman run
# --cgroups=disabled`, an option that only crun has.
in_cgroup() {
  printf '#!/bin/sh\necho 0 >%s/cgroup.procs && exec "$@"\n' "$1" >/scratch/in-cgroup
  chmod 755 /scratch/in-cgroup
  command=(/scratch/in-cgroup "${command[@]}" --cgroup-manager=disabled)
}
with_crun() { [ "${runtime:-}" = crun ] || WAYS=''; }
any_stage='createRuntime createContainer prestart'

t_70_callers_cgroup() {
  WAYS=$any_stage EXPECT=refused BITE=''
  with_crun
  trick() { victim; in_cgroup "$VICTIM"; }
  check() { victim_ends; victim_has /dev/fuse "$allowed"; victim_has /dev/nvidia0 refused; victim_has /dev/nvidiactl refused; }
}
t_70_callers_cgroup_below() {
  WAYS=$any_stage EXPECT=refused BITE=''
  with_crun
  trick() { victim; mkdir "$VICTIM/caller"; in_cgroup "$VICTIM/caller"; }
  check() { victim_ends; victim_has /dev/fuse "$allowed"; victim_has /dev/nvidia0 refused; rmdir "$VICTIM/caller" 2>/dev/null || true; }
}
t_70_open_cgroup() {
  WAYS=$any_stage EXPECT=started BITE='' POLICY='log-file = "/var/log/nvoci-70.log"' TOUCHES='[A-Z,-]+ /var/log/nvoci-70.log by (nvoci|process-[0-9]+)'
  with_crun
  trick() { rm -f /var/log/nvoci-70.log; mkdir -p /sys/fs/cgroup/open; in_cgroup /sys/fs/cgroup/open; }
  check() {
    # Whatever opened before opens now: no rules have come into being there.
    local d
    for d in 'dev /dev/nvidia0' 'mknod 195:0' 'mknod 195:1'; do has "$CASE_DIR/start.out" "$d $allowed" "the caller's cgroup has rules now" "${d#* }"; done
    grep -q 'cgroup is not its own' /var/log/nvoci-70.log || fail "no warning in the record"
    rm -f /var/log/nvoci-70.log
    rmdir /sys/fs/cgroup/open 2>/dev/null || true
  }
}

# `nvidia-container-cli configure` for a process in the victim's cgroup, as LXC, ctr and others call
# it.
t_70_cli() {
  WAYS=createRuntime EXPECT=gpu BITE=''
  trick() { victim; }
  check() {
    local pid root=$BUNDLE/cli
    mkdir "$root"
    mount -t tmpfs -o mode=755 tmpfs "$root"
    mkdir "$root"/{dev,proc,etc,usr}
    bash -c 'echo 0 >"$0/cgroup.procs" && exec unshare -m --propagation private sleep 60' "$VICTIM" </dev/null >/dev/null 2>&1 &
    pid=$!
    sleep 0.3
    ln -sf nvoci /usr/bin/nvidia-container-cli
    ! run 20 cli nvidia-container-cli configure --pid "$pid" --device 0 --compute --utility "$root" || fail "it changed somebody else's rules"
    grep -qE 'NVOCI-5201' "$CASE_DIR/cli.err" || fail "no NVOCI-5201: $(tail -n 1 "$CASE_DIR/cli.err" | cut -c1-200)"
    kill "$pid" 2>/dev/null || true
    umount -l "$root"
    victim_ends
    victim_has /dev/fuse "$allowed"
    victim_has /dev/nvidia0 refused
  }
}

# A container's own cgroup may have empty ones below it, as sysbox makes them.
t_70_own_with_empty() {
  WAYS=$any_stage EXPECT=gpu BITE='' JQ='.linux.cgroupsPath = "/own"'
  # v1 refuses a denial of everything there.
  [ "${SIM_CGROUP:-v2}" = v2 ] || WAYS=''
  trick() { mkdir -p /sys/fs/cgroup/own/below/deeper; }
  check() { find /sys/fs/cgroup -depth -type d -path '*/own*' -exec rmdir {} + 2>/dev/null || true; }
}

# Two containers in one cgroup. The runtime has put the second one's rules there by itself, and ends both with the second;
# no GPU may come with them.
t_71_shared_cgroup() {
  WAYS=$any_stage EXPECT=refused BITE='' JQ='.linux.cgroupsPath = "/victim"'
  # runc 1.3 refuses by itself.
  [ "${runtime:-}" != runc ] || [ "${SIM_CGROUP:-v2}" = v1 ] || WAYS=''
  trick() { victim; }
  check() { "$runtime" delete --force victim >/dev/null 2>&1 </dev/null || true; }
}
t_71_cgroup_below() {
  WAYS=$any_stage EXPECT=refused BITE=''
  with_crun
  # The container's cgroup is the parent of the victim's.
  JQ='.linux.cgroupsPath = "/above"'
  trick() {
    victim
    mkdir -p /sys/fs/cgroup/above/victim
    cat "$VICTIM/cgroup.procs" >/sys/fs/cgroup/above/victim/cgroup.procs
    VICTIM=/sys/fs/cgroup/above/victim
  }
  check() { victim_ends; rmdir "$VICTIM" /sys/fs/cgroup/above /sys/fs/cgroup/victim 2>/dev/null || true; }
}

# A device that the runtime's own program denies stays denied.
rules() { JQ=".linux.resources.devices = [$1]" EXPECT=gpu BITE='' WAYS=$any_stage; }
deny_all='{allow: false, type: "a", access: "rwm"}'
t_72_hole() { rules "$deny_all, {allow: true, type: \"c\", major: 195, access: \"rwm\"}, {allow: false, type: \"c\", major: 195, minor: 1, access: \"rwm\"}"; with_crun; }
t_72_hole_in_all() { rules "$deny_all, {allow: true, type: \"c\", access: \"rwm\"}, {allow: false, type: \"c\", major: 195, access: \"rwm\"}"; with_crun; }
t_72_wider_denial() { rules "$deny_all, {allow: true, type: \"c\", major: 195, minor: 1, access: \"rwm\"}, {allow: false, type: \"c\", major: 195, access: \"rwm\"}"; with_crun; }
t_72_no_access() { rules "$deny_all, {allow: true, type: \"c\", major: 195}"; with_crun; }
t_72_all_types() {
  # runc takes any denial of type `a` for all devices.
  rules "$deny_all, {allow: true, type: \"c\", major: 10, access: \"rwm\"}, {allow: false, type: \"a\", major: 195, access: \"rwm\"}"
  ASK='--mknod 10:229'
  check() { has "$CASE_DIR/start.out" 'mknod 10:229 refused' "wider than the runtime's own rules" 10:229; }
}
t_72_sticky_denial() {
  # runc keeps the denial; crun's last match would open it again.
  rules '{allow: true, type: "a", access: "rwm"}, {allow: false, type: "c", major: 195, minor: 1, access: "rwm"}, {allow: true, type: "c", major: 195, access: "rwm"}'
  EXPECT=started
  check() { has "$CASE_DIR/start.out" "mknod 195:0 $allowed" "the requested GPU is refused" 195:0; has "$CASE_DIR/start.out" 'mknod 195:1 unmade errno-1' "a GPU that runc refuses" 195:1; }
}

# 73 needs systemd: ./systemd.

t_74_name() {
  direct
  ENVS=(NVIDIA_VISIBLE_DEVICES=7) EXPECT=refused BITE='' POLICY=$'log-file = "/var/log/nvoci-74.log"\nlog-level = "trace"' TOUCHES='[A-Z,-]+ /var/log/nvoci-74.log by (nvoci|process-[0-9]+)'
  STATE='{"ociVersion":"1.0.2","id":"direct\n[ERROR nvoci] forged\r\u001b[2J\u009b\u202e\u2028","status":"creating","pid":0,"bundle":"'$BUNDLES/direct'"}'
  trick() { rm -f /var/log/nvoci-74.log; }
  check() {
    no_control "$CASE_DIR/said" /var/log/nvoci-74.log
    [ -s /var/log/nvoci-74.log ] || fail "nothing was logged"
    ! LC_ALL=C grep -qP '\xe2\x80[\xa8\xae]|\xc2[\x80-\x9f]' /var/log/nvoci-74.log || fail "characters in the log that move others"
    ! grep -q '^\[ERROR nvoci\] forged' /var/log/nvoci-74.log || fail "a forged line in the log"
    rm -f /var/log/nvoci-74.log
  }
}
t_74_paused() {
  WAYS=createRuntime EXPECT=gpu BITE=''
  check() {
    local start end
    jq '.process.args = ["/bin/sleep", "60"]' "$CASE_DIR/config.json" >"$BUNDLE/config.json"
    "$runtime" run --detach --bundle "$BUNDLE" paused >"$CASE_DIR/paused.log" 2>&1 </dev/null || fail "no container to pause"
    "$runtime" pause paused >>"$CASE_DIR/paused.log" 2>&1 </dev/null || fail "it cannot be paused: $(tail -n 1 "$CASE_DIR/paused.log")"
    "$runtime" state paused >"$CASE_DIR/paused.json" </dev/null
    start=$(now_ms)
    run 60 doctor nvoci doctor container "$(jq .pid "$CASE_DIR/paused.json")" || true
    end=$(now_ms)
    "$runtime" resume paused >>"$CASE_DIR/paused.log" 2>&1 </dev/null || true
    "$runtime" delete --force paused >/dev/null 2>&1 </dev/null || true
    [ $((end - start)) -lt 8000 ] || fail "the doctor took $((end - start)) ms for a paused container"
    grep -q 'is paused' "$CASE_DIR/doctor.out" || fail "not said to be paused: $(head -n 3 "$CASE_DIR/doctor.out" | tr '\n' '|')"
    ! grep -q hangs "$CASE_DIR/doctor.out" || fail "the driver is said to hang"
  }
}
