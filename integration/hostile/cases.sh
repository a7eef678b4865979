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
t_08_two_steps() { trick() { mkdir -p "$R/$compat/libcuda.so.1"; ln -s $canary/nvidia "$R/$compat/libcuda.so.1/lib64"; }; EXPECT=gpu; }
t_08_through_own() { trick() { link_abs etc/ld.so.conf.d /usr/local/nvidia/lib64; link_abs usr/lib/nvoci /usr/local/nvidia; link_abs opt /usr/local/nvidia; }; EXPECT=gpu BITE=''; }
volume_jq() { echo ".mounts += [{destination: \"$1\", type: \"bind\", source: \"$canary/volume\", options: [\"rbind\", \"rw\"]}]"; }
# The loader's configuration is read wherever it lies.
t_10_confd_volume() { JQ=$(volume_jq /etc/ld.so.conf.d); EXPECT=gpu TOUCHES='(OPEN|READ|OPEN,READ) /canary/volume by .*'; }
t_10_etc_volume() { JQ=$(volume_jq /etc); EXPECT=gpu; }
t_10_local_volume() { JQ=$(volume_jq /usr/local); EXPECT=gpu; }

# An image's environment reaches a hook only where an old runc starts it without one of its own.
bare_hooks='if .hooks then .hooks |= map_values(map(del(.env))) else . end'
preload() { cp /world/hostile/evil.so "$R/evil.so"; }
t_11_preload() { JQ=$bare_hooks ENVS=(NVIDIA_VISIBLE_DEVICES=0 LD_PRELOAD=/proc/self/cwd/evil.so LD_AUDIT=/proc/self/cwd/evil.so LD_LIBRARY_PATH=/proc/self/cwd GCONV_PATH=/proc/self/cwd); trick() { preload; }; WAYS=createContainer EXPECT=any; }
t_11_tunables() { JQ=$bare_hooks ENVS=(NVIDIA_VISIBLE_DEVICES=0 GLIBC_TUNABLES=glibc.malloc.check=3 LOCPATH=/proc/self/cwd LANG=evil "LD_PRELOAD=/evil.so"); trick() { preload; }; WAYS=createContainer EXPECT=any BITE=''; }
t_12_config_path() {
  local c=/proc/self/cwd/evil.toml
  JQ=$bare_hooks ENVS=(NVIDIA_VISIBLE_DEVICES=0 NVIDIA_CTK_CONFIG_FILE_PATH=$c XDG_CONFIG_HOME=/proc/self/cwd NVOCI_CONFIG=$c NVOCI_LOG=$c HOME=/proc/self/cwd TMPDIR=/proc/self/cwd RUST_LOG=trace RUST_BACKTRACE=full "PATH=/proc/self/cwd:/usr/sbin:/usr/bin:/sbin:/bin")
  trick() { printf 'log-file = "%s/log"\nlog-level = "trace"\n' $canary >"$R/evil.toml"; printf '#!/bin/sh\n>%s/path\n' $canary >"$R/modprobe"; chmod 755 "$R/modprobe"; }
  WAYS=createContainer EXPECT=gpu
}

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

closed='accept-envvar-unprivileged = false'
t_14_all() { devices all; POLICY=$closed EXPECT=nogpu BITE='a GPU'; }
t_14_index() { devices 0; POLICY=$closed EXPECT=nogpu BITE='a GPU'; }
t_14_none() { devices none; POLICY=$closed EXPECT=nogpu BITE=''; }
t_14_void() { devices void; EXPECT=nogpu BITE=''; }
t_14_empty() { devices ''; EXPECT=nogpu BITE=''; }
t_14_legacy_image() { ENVS=(CUDA_VERSION=12.4.1 NVIDIA_REQUIRE_CUDA=cuda'>'=12.0); POLICY=$closed WAYS=$requests EXPECT=nogpu BITE=''; }

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

conf() { local text=$1; CONF=$text; trick() { printf "$CONF" >"$R/etc/ld.so.conf"; }; EXPECT=gpu BITE=''; }
t_18_zero() { conf 'include /dev/zero\n'; BITE=$hang; trick() { printf "$CONF" >"$R/etc/ld.so.conf"; mknod "$R/etc/zero" c 1 5; echo 'include /etc/zero' >>"$R/etc/ld.so.conf"; }; }
t_18_self() { conf 'include /etc/ld.so.conf\ninclude ld.so.conf\n'; BITE=$hang; }
t_18_kcore() { conf 'include /proc/kcore\ninclude /proc/kmsg\ninclude /sys/kernel/debug/*\n'; }
t_18_lines() { trick() { yes /usr/lib/a | head -n 1000000 >"$R/etc/ld.so.conf"; }; EXPECT=gpu BITE=''; }
t_18_glob() { conf 'include /*/*/*/*/*/*\ninclude /usr/**/[a-z]*[a-z]*[a-z]*[a-z]*[a-z]*z\n'; }
t_18_fifo() { trick() { fresh etc/ld.so.conf; mkfifo "$R/etc/ld.so.conf"; }; EXPECT=gpu BITE=$hang; }
t_18_sparse() { trick() { truncate -s 4G "$R/etc/ld.so.conf"; }; EXPECT=gpu BITE=''; }
t_18_names() { trick() { mkdir -p "$R/etc/ld.so.conf.d"; (cd "$R/etc/ld.so.conf.d" && seq -f 'f%g.conf' 20000 | xargs touch); }; EXPECT=gpu BITE=''; }

cache() { EXPECT=gpu BITE=''; }
t_19_count() { cache; BITE=$hang; trick() { perl -e 'print "glibc-ld.so.cache1.1", pack("V V", 0xffffffff, 0xffffffff), "\0" x 400' >"$R/etc/ld.so.cache"; }; }
t_19_offsets() { cache; trick() { perl -e 'print "glibc-ld.so.cache1.1", pack("V V C x3 V x12", 4, 16, 2, 0xfffffff0), pack("V V V V Q", 0x303, 0xfffffff0, 0x7fffffff, 0, 1 << 63) x 4, "a" x 16' >"$R/etc/ld.so.cache"; }; }
t_19_huge() { cache; trick() { truncate -s 2G "$R/etc/ld.so.cache"; }; }
t_19_text() { cache; trick() { yes | head -c 100000 >"$R/etc/ld.so.cache"; }; }
elf() { EXPECT=gpu BITE=''; }
t_20_sections() { elf; BITE=$hang; trick() { mkdir -p "$R/$compat"; perl -e 'print "\x7fELF\2\1\1", "\0" x 9, pack("v v V Q Q Q V v v v v v v", 3, 62, 1, 0, 64, 64, 0, 64, 56, 65535, 64, 0, 0), "\0" x 32, pack("Q", 1 << 62), "\0" x 64' | tee "$R/$compat/libcuda.so.1" >"$R/$lib/libcuda.so.535.1"; }; }
t_20_odd() { elf; trick() { local n; for n in 1 17 63; do head -c $n "$R/bin/sh" >"$R/$lib/libnvidia-ml.so.$n"; done; perl -e 'print "\x7fELF\2\2\1", "\xff" x 4000' >"$R/$lib/libcuda.so.1"; truncate -s 8G "$R/$lib/libnvidia-x.so.1"; fresh etc/ld.so.cache; }; }

release() { EXPECT=gpu BITE=''; }
t_21_fifo() { release; BITE=$hang; trick() { fresh etc/os-release; mkfifo "$R/etc/os-release"; }; }
t_21_sparse() { release; trick() { fresh etc/os-release; truncate -s 10G "$R/etc/os-release"; fresh etc/debian_version; mkdir "$R/etc/debian_version"; fresh etc/alpine-release; ln -s /proc/kmsg "$R/etc/alpine-release"; }; }

# The runtimes themselves refuse most of these; called directly, the hook is alone with them.
direct() { WAYS=direct; STATE='{"ociVersion":"1.0.2","id":"direct","status":"creating","pid":0,"bundle":"'$BUNDLES/direct'"}'; }
t_22_dev() { direct; trick() { link_abs dev $canary/lib; }; EXPECT=refused; }
t_22_dev_climbing() { direct; trick() { link_abs dev ../../../../../../canary/lib; }; EXPECT=any BITE=''; }
t_22_node() { direct; trick() { fresh dev; mkdir "$R/dev"; ln -s $canary/secret "$R/dev/nvidia0"; }; EXPECT=refused BITE=''; }
t_23_proc() { direct; trick() { mkdir "$R/canary"; link_abs proc $canary/lib; }; EXPECT=any; }
t_23_fake() { direct; trick() { mkdir -p "$R/proc/driver/nvidia"; ln -s $canary/lib/params "$R/proc/driver/nvidia/params"; ln -s $canary "$R/proc/driver/nvidia/gpus"; }; EXPECT=any BITE=''; }
t_24_run() { trick() { link_abs run $canary/lib; local d; for d in usr/local/nvidia opt/nvidia usr/lib/nvoci; do fresh $d; echo taken >"$R/$d"; done; mkdir -p $canary/lib/nvoci; }; EXPECT=any WAYS='createRuntime createContainer'; BITE='refused without a code'; }
t_24_run_nvoci() { trick() { mkdir -p "$R/run/nvoci"; ln -s $canary/secret "$R/run/nvoci/record"; ln -s $canary/lib "$R/run/nvoci/errors"; }; EXPECT=gpu; }
t_25_link() { direct; JQ='.root.path = "elsewhere"'; trick() { ln -s $canary "$BUNDLE/elsewhere"; }; EXPECT=refused; }
t_25_host() { direct; JQ='.root.path = "/"'; EXPECT=refused BITE=''; }
t_25_climbing() { direct; JQ='.root.path = "../../../.."'; EXPECT=refused BITE=''; }
t_25_empty() { direct; JQ='.root.path = ""'; EXPECT=refused BITE=''; }
t_25_none() { direct; JQ='del(.root)'; EXPECT=refused BITE='refused without a code'; }
t_25_slash() { direct; JQ='.root.path = "elsewhere/"'; trick() { ln -s $canary "$BUNDLE/elsewhere"; }; EXPECT=refused; }
t_26_slash() { trick() { link_abs usr/local/nvidia $canary/nvidia/; link_abs etc/ld.so.conf.d $canary/ld.so.conf.d/.; }; EXPECT=gpu; }
t_26_dots() { trick() { link_abs usr/local/./nvidia /../canary//./nvidia/.; }; EXPECT=gpu; }

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
t_29_annotation() { ENVS=(A=b); JQ='.annotations = {"cdi.k8s.io/image": "nvidia.com/gpu=all"}'; WAYS=createRuntime EXPECT=nogpu BITE='a GPU'; }
t_29_policy() { ENVS=(A=b); JQ='.annotations = {"cdi.k8s.io/image": "nvidia.com/gpu=all"}'; POLICY='annotation-prefixes = []'; WAYS=$requests EXPECT=nogpu BITE=''; }

# full BYTES INODES: the container's layer is a file system with no room.
full() {
  umount "$R"
  mkdir "$BUNDLE/small"
  mount -t tmpfs -o "$1" tmpfs "$BUNDLE/small"
  mkdir "$BUNDLE/small"/{upper,work}
  cp /world/probe/probe-static "$BUNDLE/small/upper/probe"
  mount -t overlay -o "lowerdir=/world/images/bookworm,upperdir=$BUNDLE/small/upper,workdir=$BUNDLE/small/work" overlay "$R"
  # The runtime's own files and directories exist.
  mkdir -p "$R"/{dev,proc,sys,run}
  dd if=/dev/zero of="$BUNDLE/small/fill" bs=4k 2>/dev/null || true
  local i=0
  while : 2>/dev/null >"$BUNDLE/small/i$i"; do i=$((i + 1)); [ $i -lt 3000 ] || break; done
}
t_30_space() { trick() { full size=1536k; }; EXPECT=gpu BITE='refused without a code'; }
t_30_inodes() { trick() { full size=16m,nr_inodes=60; }; EXPECT=gpu BITE='refused without a code'; }
t_30_readonly() { JQ='.root.readonly = true'; WAYS=createContainer EXPECT=gpu BITE=''; }
t_31_propagation() { JQ='.linux.rootfsPropagation = "shared" | .mounts += [{destination: "/vol", type: "bind", source: "/scratch/shared", options: ["rbind", "rshared"]}]'; trick() { mkdir -p /scratch/shared; }; WAYS=$stages EXPECT=gpu BITE=''; }
foreign() { local f; f=$(find "$BUNDLE/upper" -mindepth 1 -uid 0 ! -name probe -newer "$BUNDLE/config.json" ! -type d 2>/dev/null | head -n 3); [ -z "$f" ] || fail "files that the container's root does not own: $f"; }
t_32_userns() { JQ='.linux.namespaces += [{type: "user"}] | .linux.uidMappings = [{containerID: 0, hostID: 100000, size: 65536}] | .linux.gidMappings = .linux.uidMappings'; WAYS=createRuntime EXPECT=started BITE=''; check() { foreign; }; trick() { chown 100000:100000 "$R" "$R/etc"; mkdir -p "$R/usr/local"; chown 100000:100000 "$R/usr/local"; }; }
t_35_names() {
  trick() { perl -e 'chdir $ARGV[0] or die; for (1 .. 20000) { open F, ">", "libevil$_" . ("x" x 200) } for ("evil\nname", "evil\xff\xfe", "evil\e[2J") { open F, ">", $_ }' "$R/usr/lib"; }
  EXPECT=gpu BITE='refused without a code'
}
limited() { COARSE=1 HOOK=/usr/bin/limited; LIMITS=$1; trick() { printf '#!/bin/sh\n%s\nexec %s "$@"\n' "$LIMITS" "$REAL" >/usr/bin/limited; chmod 755 /usr/bin/limited; }; WAYS='createRuntime createContainer' EXPECT=any BITE=''; }
t_36_files() { limited 'ulimit -n 20'; }
t_36_memory() { limited 'ulimit -v 20000'; }
t_36_size() { limited 'ulimit -f 0'; BITE='refused without a code'; }
t_36_processes() { limited 'ulimit -u 1'; }
t_36_closed() { limited 'exec >&- 2>&-'; EXPECT=gpu; }
t_37_inherited() { limited 'exec 7</canary 8>>/canary/ld.so.cache 9</canary/nvidia; cd /canary'; EXPECT=gpu TOUCHES='OPEN /canary(/ld.so.cache|/nvidia)? by .*'; }
t_42_log() { POLICY='log-file = "/tmp/nvoci.log"'; trick() { ln -sf $canary/secret /tmp/nvoci.log; }; WAYS=createRuntime EXPECT=gpu; }
t_42_log_dir() { POLICY='log-file = "/var/log/evil/nvoci.log"'; trick() { install -d -o 1000 /var/log/evil; ln -sf $canary/secret /var/log/evil/nvoci.log; }; WAYS=createRuntime EXPECT=gpu; }
t_41_spec_owner() { spec_of 1000 644; EXPECT=refused; BITE=$changed; }
t_41_spec_mode() { spec_of 0 666; EXPECT=refused BITE=''; }
spec_of() {
  OWNER=$1 MODE=$2
  ENVS=(NVIDIA_VISIBLE_DEVICES=evil.com/dev=a) POLICY='accept-cdi-kinds = ["evil.com/dev"]' WAYS=entry
  trick() {
    mkdir -p /etc/cdi
    printf '#!/bin/sh\n>%s/hooked\n' $canary >/tmp/evil && chmod 755 /tmp/evil
    printf 'cdiVersion: "0.5.0"\nkind: evil.com/dev\ndevices:\n- name: a\n  containerEdits:\n    hooks:\n    - hookName: createContainer\n      path: /tmp/evil\n      args: [evil]\n' >/etc/cdi/evil.yaml
    chown "$OWNER" /etc/cdi/evil.yaml; chmod "$MODE" /etc/cdi/evil.yaml
    ! nvoci cdi check >"$CASE_DIR/cdi-check" 2>&1 || fail "cdi check has no finding"
  }
}
# The output of `cdi check`, `list` and `transform` for a directory that another user filled. A link
# is followed, as engines do.
t_41_directory() {
  # A process that ends before the watcher reads its name has none; only nvoci runs here.
  WAYS=look BITE='' TOUCHES='(OPEN|READ|OPEN,READ) /canary/secret by (nvoci|process-[0-9]+)'
  trick() {
    mkdir "$R/cdi"
    ln -s $canary/secret "$R/cdi/link.yaml"
    mkfifo "$R/cdi/fifo.yaml"
    mknod "$R/cdi/zero.yaml" c 1 5
    mkdir "$R/cdi/directory.json"
    truncate -s 2G "$R/cdi/sparse.yaml"
    many '[' 100000 >"$R/cdi/deep.json"
    many '[' 100000 >"$R/cdi/deep.yaml"
    printf 'cdiVersion: "0.5.0"\nkind: "evil.com/\\e[2J"\ndevices: []\n' >"$R/cdi/escape.yaml"
    printf '\xff\xfe\e]0;evil\a' >"$R/cdi/text.yaml"
    printf '{}' >"$R/cdi/"$'name\e[2J\n.json'
  }
}
t_41_bomb() {
  ENVS=(NVIDIA_VISIBLE_DEVICES=evil.com/dev=a) POLICY='accept-cdi-kinds = ["evil.com/dev"]' WAYS=entry EXPECT=refused BITE=''
  trick() { mkdir -p /etc/cdi; { echo 'a0: &a0 [x,x,x,x,x,x,x,x]'; for i in {1..30}; do echo "a$i: &a$i [$(printf "*a$((i - 1)),%.0s" {1..8})x]"; done; } >/etc/cdi/evil.yaml; }
}
t_44_hardlink() { JQ=".root.path = \"/plainroot\""; trick() { plain_root; ln -f $canary/ld.so.cache "$R/etc/ld.so.cache"; }; WAYS=createRuntime EXPECT=gpu TOUCHES='ATTRIB /canary/ld.so.cache by .*'; } # it has a name less
# plain_root: instead of an overlay, a directory on the canary's own file system.
plain_root() { umount "$R"; rm -rf /plainroot; cp -a /world/images/slim /plainroot; R=/plainroot; cp /world/probe/probe-static $R/probe; }
t_45_layer() { EXPECT=gpu BITE='left in the image layer'; check() { find "$BUNDLE/upper" -mindepth 1 ! -name probe -printf '%y %s %P -> %l\n' | sort -k 3 >"$CASE_DIR/layer"; clean_layer; }; }
t_46_double() {
  JQ='(.hooks // {} | to_entries[0].value // []) as $h | if ($h | length) == 0 then . else .hooks = {prestart: ($h + $h), createRuntime: $h, createContainer: ($h | map(.args[-1] = "createContainer"))} end | .process.args = ["/bin/cat", "/proc/self/mountinfo"]'
  WAYS=$requests EXPECT=started BITE='mounted twice'
  check() { local d; grep -q ' /usr/local/nvidia ' "$CASE_DIR/start.out" || fail "nothing was injected"; d=$(awk '$5 ~ "nvidia" { print $5 }' "$CASE_DIR/start.out" | sort | uniq -d | head -n 3); [ -z "$d" ] || fail "mounted twice: $d"; }
}
t_47_owner() { WAYS=$requests EXPECT=refused BITE='the container started'; trick() { for f in $HOST_CUDA; do chown 1000 "$f"; done; }; }
t_47_mode() { WAYS=$requests EXPECT=refused BITE='the container started'; trick() { for f in $HOST_CUDA; do chmod 666 "$f"; done; }; }
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
