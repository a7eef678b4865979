# shellcheck shell=bash disable=SC2034  # what a case sets is read by `inside`
# The hostile cases, one function each: t_NUMBER_VARIANT. Number and decision stand in `catalogue`. A case sets some of
#   ENVS=(NAME=VALUE…)  the container's variables        trick() { … }   changes the image's file system, in $R
#   JQ                  an edit of config.json           check() { … }   more that must hold after the container has ended
#                                                           undo() { … }    takes back what the trick did to the host
#   POLICY              /etc/nvoci/config.toml           ASK             more questions for the probe
#   EXPECT  gpu | nogpu | refused | started | any        WAYS            where: stages, `entry` (the runtime entry), `direct`
#   BITE    words of the fault that the naive hook must be found guilty of; empty: it has no such part
#   LIMIT   milliseconds                                 STATE           direct: the document on standard input
#   TOUCHES what the case itself has the host's canary opened for, as the watcher says it: a regular expression for whole lines
stages='prestart createRuntime createContainer'
requests='createRuntime entry'

for cases in "$(dirname "${BASH_SOURCE[0]}")"/cases.d/*.sh; do
  [ ! -e "$cases" ] || . "$cases"
done

fresh() { rm -rf --one-file-system "${R:?}/$1"; mkdir -p "$(dirname "$R/$1")"; }
link_abs() { fresh "$1"; ln -s "$2" "$R/$1"; }
lib=usr/lib/x86_64-linux-gnu
native='layout = "native"'
changed='the host was changed'
hang='took'

compat=usr/local/cuda/compat
secret_out() { ! grep -qx "hash [^ ]* $SECRET" "$CASE_DIR/start.out" || fail "a file of the host came into the container"; }
t_07_link() { trick() { link_abs $compat/libcuda.so.999 $canary/secret; }; ASK="--hash /$lib/libcuda.so.999 --hash /usr/local/nvidia/lib64/libcuda.so.999"; check() { secret_out; }; EXPECT=gpu BITE='came into the container'; }
t_07_root() { trick() { link_abs $compat/libcuda.so.999 /; }; ASK='--hash /usr/local/nvidia/canary/secret'; check() { secret_out; }; EXPECT=gpu BITE='came into the container'; }
t_07_many() { trick() { mkdir -p "$R/$compat"; (cd "$R/$compat" && seq -f 'libcuda.so.%g' 10000 | xargs touch); }; EXPECT=gpu BITE=$hang; }
volume_jq() { echo ".mounts += [{destination: \"$1\", type: \"bind\", source: \"$canary/volume\", options: [\"rbind\", \"rw\"]}]"; }

devices() { ENVS=("NVIDIA_VISIBLE_DEVICES=$1"); WAYS=$requests EXPECT=refused; }
many() { head -c "$2" /dev/zero | tr '\0' "$1"; }
t_13_climbing() { devices '-caps/../../canary/secret'; ASK='--hash /dev/secret'; BITE='came into the container'; check() { secret_out; }; }
t_13_long() { devices "$(many 0 100000)"; BITE='the container started'; }
t_13_commas() { devices "$(many , 100000)"; EXPECT=any BITE=''; check() { gpu_absent; }; }
t_13_numbers() { devices "$(seq -s, 0 20000)"; BITE=''; }
t_13_newline() { devices $'0\nNVIDIA_VISIBLE_DEVICES=all'; BITE=''; }
t_13_control() { devices $'0\e[2J\a,7'; BITE=''; check() { no_control "$CASE_DIR/said"; }; }
t_13_semicolon() { devices 'nvidia.com/gpu=all;touch /canary/x'; BITE=''; }
t_13_other_vendor() { devices evil.com/dev=full; JQ='.linux.resources.devices += [{allow: false, type: "c", major: 1, minor: 7, access: "rwm"}]'; EXPECT=refused BITE='the container started'; }
t_13_management() { devices management.nvidia.com/gpu=all; BITE=''; }
t_13_huge_index() { devices 4294967296; BITE='the container started'; }
t_13_negative() { devices -1; BITE='the container started'; }

require() { ENVS=(NVIDIA_VISIBLE_DEVICES=0 "$@"); WAYS=$requests; }
t_15_command() { require "NVIDIA_REQUIRE_CUDA=cuda>=a[\$(>$canary/required)0]"; EXPECT=any; }
t_15_nested() { require "NVIDIA_REQUIRE_CUDA=$(many '(' 50000)a+$(many ')' 50000)+"; EXPECT=any BITE=''; check() { short_words; }; }
t_15_many() { local i e=(); for i in {1..2000}; do e+=("NVIDIA_REQUIRE_X$i=cuda>=1"); done; require "${e[@]}"; EXPECT=any BITE=''; check() { short_words; }; }
t_15_versions() { require "NVIDIA_REQUIRE_CUDA=cuda>=$(many 9 4000).$(many 9 4000)"; EXPECT=refused BITE=''; check() { short_words; }; }

gated() { ENVS=(NVIDIA_VISIBLE_DEVICES=0 "$@"); WAYS=$requests; }
cap_absent() { has "$CASE_DIR/start.out" 'dev /dev/nvidia-caps/nvidia-cap1 absent' 'a MIG right nobody gave' /dev/nvidia-caps; }
t_16_features() { gated NVIDIA_GDS=enabled NVIDIA_MOFED=enabled NVIDIA_NVSWITCH=enabled NVIDIA_GDRCOPY=enabled; EXPECT=gpu BITE=''; ASK='--mknod 240:0 --dev /dev/nvidia-fs0'; check() { has "$CASE_DIR/start.out" 'dev /dev/nvidia-fs0 absent' 'a gated device nobody gave'; }; }
t_16_mig() { gated NVIDIA_MIG_CONFIG_DEVICES=all; ASK='--dev /dev/nvidia-caps/nvidia-cap1'; EXPECT=gpu BITE=''; check() { cap_absent; }; }
t_16_imex() { gated NVIDIA_IMEX_CHANNELS=0,-1,4294967296; EXPECT=any BITE=''; ASK='--dev /dev/nvidia-caps-imex-channels/channel0'; check() { ! grep -q 'imex-channels/channel0 \(ok\|nodriver\)' "$CASE_DIR/start.out" || fail 'an IMEX channel nobody gave'; }; }
t_17_words() { gated "NVIDIA_DRIVER_CAPABILITIES=compute;touch $canary/capable"; EXPECT=refused; }
t_17_option() { gated NVIDIA_DRIVER_CAPABILITIES=all,--root=/x; EXPECT=refused BITE=''; }
t_17_long() { gated "NVIDIA_DRIVER_CAPABILITIES=compute,$(many u 90000)"; EXPECT=refused BITE=''; check() { short_words; }; }

# The runtimes themselves refuse most of these; called directly, the hook is alone with them.
direct() { WAYS=direct; STATE='{"ociVersion":"1.0.2","id":"direct","status":"creating","pid":0,"bundle":"'$BUNDLES/direct'"}'; }
t_22_dev() { direct; trick() { link_abs dev $canary/lib; }; EXPECT=refused; }
t_22_dev_climbing() { direct; trick() { link_abs dev ../../../../../../canary/lib; }; EXPECT=any BITE=''; }
t_22_node() { direct; trick() { fresh dev; mkdir "$R/dev"; ln -s $canary/secret "$R/dev/nvidia0"; }; EXPECT=refused BITE=''; }
t_23_proc() { direct; trick() { mkdir "$R/canary"; link_abs proc $canary/lib; }; EXPECT=any; }
t_23_fake() { direct; trick() { mkdir -p "$R/proc/driver/nvidia"; ln -s $canary/lib/params "$R/proc/driver/nvidia/params"; ln -s $canary "$R/proc/driver/nvidia/gpus"; }; EXPECT=any BITE=''; }
t_25_link() { direct; JQ='.root.path = "elsewhere"'; trick() { ln -s $canary "$BUNDLE/elsewhere"; }; EXPECT=refused; }
t_25_host() { direct; JQ='.root.path = "/"'; EXPECT=refused BITE=''; }
t_25_climbing() { direct; JQ='.root.path = "../../../.."'; EXPECT=refused BITE=''; }
t_25_empty() { direct; JQ='.root.path = ""'; EXPECT=refused BITE=''; }
t_25_none() { direct; JQ='del(.root)'; EXPECT=refused BITE='refused without a code'; }
t_25_slash() { direct; JQ='.root.path = "elsewhere/"'; trick() { ln -s $canary "$BUNDLE/elsewhere"; }; EXPECT=refused; }

state() { direct; STATE=$1; EXPECT=refused BITE='refused without a code'; }
own() { echo '"ociVersion":"1.0.2","id":"x","bundle":"'$BUNDLES/direct'"'; }
t_27_pid_one() { state "{$(own),\"pid\":1}"; DIRECT=prestart; BITE='the container started'; }
t_27_pid_zero() { state "{$(own),\"pid\":0}"; DIRECT=prestart; }
t_27_pid_gone() { state "{$(own),\"pid\":4194303}"; DIRECT=prestart; }
t_27_pid_negative() { state "{$(own),\"pid\":-5}"; DIRECT=prestart; }
t_27_pid_huge() { state "{$(own),\"pid\":99999999999999999999}"; DIRECT=prestart; }
t_27_empty() { state ''; }
t_27_utf8() { state $'{"bundle":"\xff\xfe"}'; }
t_27_twice() { state "{$(own),\"bundle\":\"/x\"}"; }
t_27_no_bundle() { state '{"id":"x"}'; }
t_27_root() { state '{"id":"x","bundle":"/nonexistent","root":"/"}'; }
t_27_roots_link() { state '{"id":"x","bundle":"/nonexistent","root":"/scratch/root"}'; trick() { ln -sfn $canary /scratch/root; }; undo() { rm -f /scratch/root; }; }
t_27_large() { state "{$(own),\"annotations\":{\"a\":\"$(many a 5000000)\"}}"; BITE='the container started'; }
t_27_own_namespace() { state "{$(own),\"pid\":\$\$}"; DIRECT=prestart; BITE=''; }
t_28_huge() { direct; trick() { truncate -s 500M "$BUNDLE/config.json"; }; EXPECT=refused BITE='refused without a code'; }
t_28_deep() { direct; trick() { { printf '{"a":'; many '[' 10000; many ']' 10000; printf '}'; } >"$BUNDLE/config.json"; }; EXPECT=refused BITE='refused without a code'; }
t_28_fifo() { direct; trick() { rm "$BUNDLE/config.json"; mkfifo "$BUNDLE/config.json"; }; EXPECT=refused BITE=$hang; }
t_28_nulls() { JQ='.linux.intelRdt = null | .annotations = null | .process.capabilities.bounding += ["CAP_FROM_THE_FUTURE"] | .unknown = {deep: [1e400]}'; direct; JQ+=' | .hooks = null | .linux.devices = null'; EXPECT=any BITE=''; }
t_28_wrong_types() { direct; JQ='.process.env = [1, null, {}] | .mounts = {} | .linux = [] | .annotations = 7'; EXPECT=any BITE=''; }

foreign() { local f; f=$(find "$BUNDLE/upper" -mindepth 1 -uid 0 ! -name probe -newer "$BUNDLE/config.json" ! -type d 2>/dev/null | head -n 3); [ -z "$f" ] || fail "files that the container's root does not own: $f"; }
t_32_userns() { JQ='.linux.namespaces += [{type: "user"}] | .linux.uidMappings = [{containerID: 0, hostID: 100000, size: 65536}] | .linux.gidMappings = .linux.uidMappings'; WAYS=createRuntime EXPECT=started BITE=''; check() { foreign; }; trick() { chown 100000:100000 "$R" "$R/etc"; mkdir -p "$R/usr/local"; chown 100000:100000 "$R/usr/local"; }; }
limited() { COARSE=1 HOOK=/usr/bin/limited; LIMITS=$1; trick() { printf '#!/bin/sh\n%s\nexec %s "$@"\n' "$LIMITS" "$REAL" >/usr/bin/limited; chmod 755 /usr/bin/limited; }; WAYS='createRuntime createContainer' EXPECT=any BITE=''; }
t_36_files() { limited 'ulimit -n 20'; }
t_36_memory() { limited 'ulimit -v 20000'; }
t_36_size() { limited 'ulimit -f 0'; BITE='refused without a code'; }
t_36_processes() { limited 'ulimit -u 1'; }
t_36_closed() { limited 'exec >&- 2>&-'; EXPECT=gpu; }
t_37_inherited() { limited 'exec 7</canary 8>>/canary/ld.so.cache 9</canary/nvidia; cd /canary'; EXPECT=gpu TOUCHES='OPEN /canary(/ld.so.cache|/nvidia)? by .*'; }
# plain_root: instead of an overlay, a directory on the canary's own file system.
plain_root() { umount "$R"; rm -rf /plainroot; cp -a /world/images/slim /plainroot; R=/plainroot; cp /world/probe/probe-static $R/probe; }
t_45_layer() { EXPECT=gpu BITE='left in the image layer'; check() { find "$BUNDLE/upper" -mindepth 1 ! -name probe -printf '%y %s %P -> %l\n' | sort -k 3 >"$CASE_DIR/layer"; clean_layer; }; }
t_46_double() {
  JQ='(.hooks // {} | to_entries[0].value // []) as $h | if ($h | length) == 0 then . else .hooks = {prestart: ($h + $h), createRuntime: $h, createContainer: ($h | map(.args[-1] = "createContainer"))} end | .process.args = ["/bin/cat", "/proc/self/mountinfo"]'
  WAYS=$requests EXPECT=started BITE='mounted twice'
  check() { local d; grep -q ' /usr/local/nvidia ' "$CASE_DIR/start.out" || fail "nothing was injected"; d=$(awk '$5 ~ "nvidia" { print $5 }' "$CASE_DIR/start.out" | sort | uniq -d | head -n 3); [ -z "$d" ] || fail "mounted twice: $d"; }
}
t_48_words() { direct; ENVS=($'NVIDIA_VISIBLE_DEVICES=7\e]0;evil\a\e[2J%n' $'NVIDIA_REQUIRE_X=\e[1m'); EXPECT=refused BITE='control characters'; check() { no_control "$CASE_DIR/said" "$CASE_DIR/plan.out" "$CASE_DIR/plan.err"; }; }

# Isolation: the container has GPU 0 and reaches for GPU 1, which a host has too.
t_90_mknod() { EXPECT=gpu BITE=''; }
t_90_procfs() { EXPECT=gpu BITE=''; ASK='--hash /proc/driver/nvidia/gpus/0000:07:00.0/information'; check() { has "$CASE_DIR/start.out" 'hash /proc/driver/nvidia/gpus/0000:07:00.0/information errno-2' "the other GPU is in sight" /proc; }; }
t_90_twice_named() { ENVS=(NVIDIA_VISIBLE_DEVICES=all NVIDIA_VISIBLE_DEVICES=0); EXPECT=gpu WAYS=$requests BITE=''; }
t_90_annotation() { JQ='.annotations = {"cdi.k8s.io/x": "nvidia.com/gpu=1", "nvidia.cdi.k8s.io/x": "nvidia.com/gpu=1"}'; WAYS=createRuntime EXPECT=gpu BITE='a GPU nobody asked for'; }
t_90_volume_list() { JQ='.mounts += [{destination: "/var/run/nvidia-container-devices/1", type: "bind", source: "/dev/null", options: ["bind"]}]'; WAYS=$requests EXPECT=gpu BITE=''; }
t_90_other_vendor() { ENVS=(NVIDIA_VISIBLE_DEVICES=0,other.com/gpu=nvidia1); WAYS=$requests EXPECT=refused BITE='the container started'; }
t_90_image_node() { trick() { mkdir -p "$R/dev"; rm -f "$R/dev/nvidia1"; mknod -m 666 "$R/dev/nvidia1" c 195 1; mknod -m 666 "$R/other" c 195 1; }; ASK='--dev /other'; EXPECT=gpu BITE=''; check() { has "$CASE_DIR/start.out" 'dev /other (refused|errno-13)' "a node of the image opens" /other; }; }
t_90_second_injection() { JQ='(.hooks // {} | to_entries[0].value // []) as $h | if ($h | length) == 0 then . else .hooks.createRuntime = (.hooks.createRuntime + $h) end'; WAYS=createRuntime EXPECT=gpu BITE=''; }
readonly_jq='.process.args = ["/bin/sh", "-c", "for f in /usr/local/nvidia/lib64/libcuda.so.1 /usr/local/nvidia/bin/nvidia-smi /usr/local/nvidia/.nvoci.json; do [ -e $f ] || echo missing $f; (echo evil >>$f) 2>/dev/null && echo wrote $f; rm -f $f 2>/dev/null && echo removed $f; done; (>/usr/local/nvidia/new) 2>/dev/null && echo made; mount -o remount,rw /usr/local/nvidia 2>/dev/null && echo remounted; mount -o remount,bind,rw /usr/local/nvidia/lib64/libcuda.so.1 2>/dev/null && echo remounted; echo tried"]'
tried() { has "$CASE_DIR/start.out" tried "nothing was tried"; ! grep -vx tried "$CASE_DIR/start.out" || fail "the driver could be changed: $(head -n 2 "$CASE_DIR/start.out" | tr '\n' '|')"; }
t_91_written_to() { JQ=$readonly_jq EXPECT=started BITE='could be changed'; check() { tried; }; }
t_91_written_by_user() { JQ="$readonly_jq"' | .process.user = {uid: 1000, gid: 1000}'; EXPECT=started WAYS=$requests BITE=''; check() { tried; }; }
