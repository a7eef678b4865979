# shellcheck shell=bash disable=SC2034  # what a case sets is read by `inside`
# The attacker shares a volume with the host (`rshared`; Kubernetes' `Bidirectional`): a mount made on it would appear on the host, in every
# other container that has the volume, and stay. `inside` compares the host's mount table.
share=/scratch/share
# share_jq DESTINATION NAME OPTION...: a volume of $share/NAME. Engines set the propagation of the root for such a volume, or it has no peers.
share_jq() {
  local options
  options=$(printf ', "%s"' rbind "${@:3}")
  echo ".linux.rootfsPropagation = \"rshared\" | .mounts += [{destination: \"$1\", type: \"bind\", source: \"$share/$2\", options: [${options#, }]}]"
}
# Removes mounts that an earlier case leaked.
fresh_share() {
  awk -v at="$share/" 'index($5, at) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r -n 1 umount -l 2>/dev/null || true
  rm -rf $share
  mkdir -p $share
}
shared_etc() { fresh_share; cp -a "$R/etc" $share/etc; }
# A name with nothing in it yet is a place for a file volume.
place_of() { mkdir -p "$R/$(dirname "$1")"; [ -e "$R/$1" ] || : >"$R/$1"; }

t_55_etc() { JQ=$(share_jq /etc etc rshared); trick() { shared_etc; }; EXPECT=gpu BITE=''; }
t_55_etc_ro() { JQ=$(share_jq /etc etc ro rshared); trick() { shared_etc; }; EXPECT=gpu BITE=''; }
# A file that is shared, in a volume that is not.
t_55_nested() { JQ="$(share_jq /etc etc rprivate) | $(share_jq /etc/ld.so.cache cache ro rshared)"; trick() { shared_etc; cp "$R/etc/ld.so.cache" $share/cache; }; EXPECT=gpu BITE=''; }
t_56_file() { JQ=$(share_jq /dev/nvidia0 node rshared); trick() { fresh_share; : >$share/node; }; EXPECT=gpu BITE=''; }
t_57_library() { POLICY=$native; JQ=$(share_jq /$lib/libcuda.so.1 cuda rshared); trick() { fresh_share; echo stub >$share/cuda; place_of $lib/libcuda.so.1; }; EXPECT=gpu BITE=''; }
t_57_program() { JQ=$(share_jq /usr/bin/nvidia-smi smi rshared); trick() { fresh_share; echo own >$share/smi; place_of usr/bin/nvidia-smi; }; EXPECT=gpu BITE=''; }
# The mounts of CDI are the runtime's own, but for the one that our small hook makes.
t_57_cache() { JQ=$(share_jq /etc/ld.so.cache cache rshared); WAYS="$stages cdi"; trick() { fresh_share; cp "$R/etc/ld.so.cache" $share/cache; }; EXPECT=gpu BITE=''; }
# runc makes no mount below /proc; crun does.
t_58_procfs() { JQ=$(share_jq /proc/driver/nvidia nvidia rshared); trick() { fresh_share; cp -rL /proc/driver/nvidia $share/nvidia 2>/dev/null; chmod -R u+w $share/nvidia; }; BITE=''; }
