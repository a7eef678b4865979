# shellcheck shell=bash
# Shared by the scripts for machines with a real GPU: the paths of the carried programs, verdicts,
# an image of the machine itself without its driver, bundles. Sourced after $top is set, inside a
# mount namespace of its own (see own_namespace).
nvoci=${NVOCI_BIN:-$top/target/x86_64-unknown-linux-musl/release/nvoci}
[ -x "$nvoci" ] || nvoci=$top/.carry/bin/nvoci
RUNC=${RUNC:-$top/.carry/bin/runc} CRUN=${CRUN:-$top/.carry/bin/crun}
export LD_LIBRARY_PATH=$top/.carry/lib
passed=0 failed=0 skipped=0
ok() { passed=$((passed + 1)); echo "ok    $*"; }
bad() { failed=$((failed + 1)); echo "FAIL  $*"; }
skip() { skipped=$((skipped + 1)); echo "skip  $*"; }
finish() { echo "$passed passed, $failed failed, $skipped skipped"; [ "$failed" = 0 ]; exit; }

# own_namespace SCRIPT ARGUMENT...: the script again in a mount namespace of its own: whatever happens, the machine's mounts stay.
own_namespace() {
  [ "${NVOCI_GPU_NS:-}" = 1 ] || NVOCI_GPU_NS=1 exec unshare -m --propagation private bash "$@"
}

# make_image: $work with the image's root in $work/root and nvoci where an installed one would be: the hook's path must be
# root's and must not change.
make_image() {
  work=$(mktemp -d)
  mount -t tmpfs -o mode=755 tmpfs "$work"
  mkdir "$work"/{up,wk,root,state}
  cp "$nvoci" "$work/nvoci"
  # This machine's root file system without mounts, so without the driver.
  mount -t overlay -o "lowerdir=/,upperdir=$work/up,workdir=$work/wk" overlay "$work/root" || { bad "overlay of /"; finish; }
  # Where the driver is in the root file system itself, it is taken out of the image.
  [ ! -e "$work/root/usr/local/nvidia/lib64" ] || rm -rf "$work/root/usr/local/nvidia"
}

bundle() { # STAGE ENV... : a bundle in $work/b whose container runs the words of $program (JSON); $binds are SOURCE:TARGET
  local stage=$1; shift
  rm -rf "$work/b"; mkdir "$work/b"
  (cd "$work/b" && "$RUNC" spec)
  python3 - "$work" "$stage" "$@" <<'PY'
import json, os, sys
work, stage, env = sys.argv[1], sys.argv[2], sys.argv[3:]
path = work + "/b/config.json"
spec = json.load(open(path))
spec["process"]["terminal"] = False
spec["process"]["args"] = json.loads(os.environ["program"])
spec["process"]["env"] = ["PATH=/usr/local/nvidia/bin:" + os.environ["PATH"], "HOME=/root"] + env
spec["process"]["rlimits"] = []
spec["root"] = {"path": work + "/root", "readonly": False}
spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "network"]
for bind in os.environ.get("binds", "").split():
    source, target = bind.split(":")
    spec["mounts"] = [m for m in spec["mounts"] if m["destination"] != target]
    spec["mounts"].append({"destination": target, "source": source, "type": "bind", "options": ["rbind"]})
if stage != "none":
    spec["hooks"] = {stage: [{"path": work + "/nvoci", "args": ["nvoci", "hook", stage],
                              "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]}
json.dump(spec, open(path, "w"))
PY
}

run() { # RUNTIME NAME: runs the bundle; output in $work/out and $work/err
  local runtime=$1 name=$2
  timeout 120 "$runtime" --root "$work/state" run -b "$work/b" "$name" >"$work/out" 2>"$work/err" </dev/null
}
