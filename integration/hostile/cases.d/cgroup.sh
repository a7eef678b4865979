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

# filter DIR DEFAULT MAJOR...: attaches a device program to a cgroup, as systemd and security agents
# do. It answers DEFAULT (0 or 1), and the opposite for these majors.
prepare_filter() {
  cat >/scratch/filter <<'E3'
#!/usr/bin/perl
use strict;
my ($dir, $default, @majors) = @ARGV;
my $bpf = `uname -m` =~ /x86_64/ ? 321 : 280;
my $insn = sub { pack 'CCsl', @_ };
my $code = $insn->(0x61, 0x12, 4, 0);
my $left = @majors + 1;
$code .= $insn->(0x15, 2, $left--, $_) for @majors;
$code .= $insn->(0xb7, 0, 0, $_) . $insn->(0x95, 0, 0, 0) for $default, 1 - $default;
my $license = "GPL\0";
my $load = pack 'LLQQ', 15, length($code) / 8, unpack('Q', pack 'p', $code), unpack('Q', pack 'p', $license);
my $program = syscall $bpf, 5, $load, length $load;
$program >= 0 or die "load: $!";
opendir my $cgroup, $dir or die "$dir: $!";
my $attach = pack 'LLLL', fileno($cgroup), $program, 6, 2;
syscall($bpf, 8, $attach, length $attach) == 0 or die "attach: $!";
E3
}
filter() { prepare_filter; perl /scratch/filter "$@" || fail "no filter"; }
only_v2() { [ "${SIM_CGROUP:-v2}" = v2 ] || WAYS=''; }
locked_undo() { rmdir /sys/fs/cgroup/locked/* /sys/fs/cgroup/locked 2>/dev/null || true; }

# A filter of a cgroup above, as of a slice with DevicePolicy=closed, is not the container's to change.
t_93_closed_above() {
  WAYS="$any_stage entry" EXPECT=refused BITE='' JQ='.linux.cgroupsPath = "/locked/own"'
  # crun refuses the nodes of a definition by itself.
  [ "${runtime:-}" != crun ] || WAYS=$any_stage
  only_v2
  trick() { mkdir -p /sys/fs/cgroup/locked; filter /sys/fs/cgroup/locked 0 1 5 136; }
  check() { grep -qE 'NVOCI-5201|"code":"?5201' "$CASE_DIR/said" || fail "no NVOCI-5201: $(tail -n 1 "$CASE_DIR/said" | cut -c1-200)"; }
  undo() { locked_undo; }
}
# Not a false refusal: the filter has no part in GPUs.
t_93_other_above() {
  WAYS="$any_stage entry" EXPECT=gpu BITE='' JQ='.linux.cgroupsPath = "/locked/own"'
  only_v2
  trick() { mkdir -p /sys/fs/cgroup/locked; filter /sys/fs/cgroup/locked 1 10; }
  undo() { locked_undo; }
}
# A user's container stays in its caller's cgroup.
t_93_closed_user() {
  WAYS='rootless rootless-entry createRuntime' EXPECT=refused BITE=''
  with_crun
  only_v2
  trick() { mkdir -p /sys/fs/cgroup/locked; filter /sys/fs/cgroup/locked 0 1 5 136; in_cgroup /sys/fs/cgroup/locked; }
  undo() { locked_undo; }
}
# An earlier hook's filter of the container's own cgroup stays.
t_94_other_hooks_filter() {
  WAYS='prestart createRuntime' EXPECT=gpu BITE='' ASK='--mknod 10:229'
  only_v2
  JQ='.linux.resources.devices += [{allow: true, type: "c", major: 10, minor: 229, access: "rwm"}] | .hooks |= map_values([{path: "/usr/bin/filter-hook", args: ["filter-hook"]}] + .)'
  trick() {
    prepare_filter
    cat >/usr/bin/filter-hook <<'E3'
#!/bin/bash
pid=$(grep -oE '"pid" *: *[0-9]+' | grep -oE '[0-9]+$')
exec perl /scratch/filter "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")" 1 10
E3
    chmod 755 /usr/bin/filter-hook
  }
  check() { has "$CASE_DIR/start.out" 'mknod 10:229 (refused|unmade errno-1)' "the other hook's filter is gone" 10:229; }
  undo() { rm -f /usr/bin/filter-hook; }
}
