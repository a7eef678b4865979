# shellcheck shell=bash disable=SC2034  # what a case sets is read by `inside`
# The attacker makes an image or a volume whose libcuda is another driver's, on a host that refuses what cannot compute, and wants it to start.
usual=usr/local/nvidia
usual_env=LD_LIBRARY_PATH=/$usual/lib:/$usual/lib64
old_driver() { # DIRECTORY: the libcuda of a driver that the host does not have
  mkdir -p "$1"
  cp "$(find /world/drivers/*/tree -name 'libcuda.so.5*' | head -n 1)" "$1/libcuda.so.470.256.02"
  ln -s libcuda.so.470.256.02 "$1/libcuda.so.1"
}
enforced() { ENVS=(NVIDIA_VISIBLE_DEVICES=0 "$@"); POLICY='preflight = "enforce"' WAYS=createRuntime EXPECT=refused BITE=''; } # NAME=VALUE...
untouched() { [ ! -e "$R/opt/nvidia" ] || fail "the image was changed before it was refused"; }
t_94_usual_place() { enforced $usual_env; WAYS=$requests; trick() { old_driver "$R/$usual/lib64"; }; check() { untouched; }; }
t_94_usual_volume() {
  enforced $usual_env
  JQ=".mounts += [{destination: \"/$usual\", type: \"bind\", source: \"/scratch/old\", options: [\"rbind\", \"ro\"]}]"
  trick() { old_driver /scratch/old/lib64; }
  check() { untouched; }
  undo() { rm -rf /scratch/old; }
}
# The volume has no driver, so the driver directory moves, and the next entry is the image's.
t_94_moved() {
  enforced "LD_LIBRARY_PATH=/$usual/lib64:/data/lib"
  JQ=".mounts += [{destination: \"/$usual\", type: \"bind\", source: \"/scratch/empty\", options: [\"rbind\", \"ro\"]}]"
  trick() { mkdir -p /scratch/empty; old_driver "$R/data/lib"; }
  undo() { rm -rf /scratch/empty; }
}
baked() { enforced "LD_LIBRARY_PATH=$1" "${@:2}"; trick() { old_driver "$R/data/lib"; }; } # PATH [NAME=VALUE...]
t_94_first_entry() { baked "/$usual/lib:/data/lib:/$usual/lib64"; }
t_94_parents() { baked "/$usual/../../../data/lib:/$usual/lib64"; }
t_94_working_directory() { baked "/none::/$usual/lib64"; JQ='.process.cwd = "/data/lib"'; }
t_94_relative() { baked "lib;/$usual/lib64"; JQ='.process.cwd = "/data"'; }
t_94_origin() { baked "\$ORIGIN/../../../../data/lib:/$usual/lib64"; }
t_94_many() { baked "$(printf '/none/%s:' {1..300})/data/lib:/$usual/lib64"; }
t_94_processor() { enforced "LD_LIBRARY_PATH=/data/lib:/$usual/lib64"; trick() { old_driver "$R/data/lib/glibc-hwcaps/x86-64-v2"; }; }
t_94_broken() { enforced "LD_LIBRARY_PATH=/data/lib:/$usual/lib64"; trick() { mkdir -p "$R/data/lib"; : >"$R/data/lib/libcuda.so.1"; }; }
t_94_video() { baked "/data/lib:/$usual/lib64" NVIDIA_DRIVER_CAPABILITIES=video; }
# What works starts: the driver directory comes first, in all its spellings; nothing there has a driver; a second hook finds the first one's.
t_94_driver_first() { baked "/$usual/lib:/$usual/lib64:/data/lib"; EXPECT=gpu; }
t_94_driver_spelled() { baked "//usr/local/./nvidia/lib/../lib64/:/data/lib"; EXPECT=gpu; }
t_94_driver_linked() { baked "/driver:/data/lib"; EXPECT=gpu; trick() { old_driver "$R/data/lib"; ln -s /$usual/lib64 "$R/driver"; }; }
t_94_elsewhere() { enforced $usual_env; EXPECT=gpu; trick() { mkdir -p "$R/$usual/lib64"; : >"$R/$usual/lib64/other"; }; }
t_94_twice() { t_90_second_injection; ENVS+=("$usual_env"); POLICY='preflight = "enforce"'; }
# The hook of nvoci's runtime, in a definition that requests nothing: `crun --config FILE` leads to it.
t_95_another_definition() {
  ENVS=(A=b) WAYS=createRuntime EXPECT=refused BITE=''
  JQ='.hooks |= map_values(map(.args = ["nvoci", "hook", "--devices-in-spec", .args[-1]]))'
}
