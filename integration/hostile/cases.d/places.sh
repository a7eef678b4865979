# shellcheck shell=bash disable=SC2034  # what a case sets is read by `inside`
# The attacker made the image, and knows where its user mounts a volume. A link there leads the volume over a tmpfs of the container, or over its
# rootfs, and another link leads what an injection writes to the volume.

# over_jq PLACE SOURCE: a tmpfs at PLACE, and after it a volume at /mnt/data, which the image has as a link.
over_jq() { echo ".mounts += [{destination: \"$1\", type: \"tmpfs\", source: \"tmpfs\", options: [\"mode=755\"]}, {destination: \"/mnt/data\", type: \"bind\", source: \"$2\", options: [\"rbind\", \"rw\"]}]"; }
# The loader's own configuration must be nothing that the volume has.
lead_over() { link_abs mnt/data "$1"; link_abs etc "$1"; }
entries='prestart createRuntime createContainer entry'
over() { JQ=$(over_jq "$1" $canary/volume) WAYS=$entries EXPECT=gpu BITE='' TOUCHES='(OPEN|READ|OPEN,READ) /canary/volume(/.*)? by .*'; }
t_80_shm() { over /dev/shm; JQ=$(volume_jq /mnt/data); trick() { lead_over /dev/shm; }; }
t_80_run() { over /run; trick() { lead_over /run; }; }
t_80_tmp() { over /tmp; trick() { lead_over /tmp; }; }
t_80_user() { over /run; EXPECT=started; JQ+=' | .process.user = {uid: 1000, gid: 1000}'; trick() { lead_over /run; }; }

# The vendor's hooks, one each; with a whole specification the runtime itself would make the places of its mounts on the volume.
cdi_hook() { # OPTION...
  over /run
  local hook='{path: "/usr/bin/nvidia-cdi-hook", args: ($words | split(" "))}'
  JQ+=" | \"nvidia-cdi-hook $*\" as \$words | .hooks = {createContainer: [$hook]}" WAYS=createContainer EXPECT=started
  trick() { ln -sf nvoci /usr/bin/nvidia-cdi-hook; lead_over /run; chmod 700 $canary/volume; }
}
t_80_hook_cache() { cdi_hook update-ldcache --folder /usr/lib; }
t_80_hook_links() { cdi_hook create-symlinks --link libcuda.so.1::/etc/libcuda.so; }
t_80_hook_chmod() { cdi_hook chmod --mode 777 --path /etc; }
t_80_hook_profile() { cdi_hook update-application-profile; }

share=/scratch/share
# Removes mounts that an earlier case leaked.
fresh_share() {
  awk -v at="$share/" 'index($5, at) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r -n 1 umount -l 2>/dev/null || true
  rm -rf $share
  mkdir -p $share
}
# A tmpfs of the host as the volume: the file system's type does not decide.
host_tmpfs() { fresh_share; mkdir -p $share/tmp; mount -t tmpfs host $share/tmp; echo untouched >$share/tmp/ld.so.cache; }
host_tmpfs_kept() {
  local found
  found=$(find $share/tmp -mindepth 1 -printf '%P ' -exec cat {} \; 2>/dev/null | tr -cd '[:print:]')
  [ "$found" = 'ld.so.cache untouched' ] || fail "$changed: ${found:0:200}"
  umount -l $share/tmp
}
over_tmpfs() { over "$1"; JQ=$(over_jq "$1" $share/tmp); check() { host_tmpfs_kept; }; }
t_80_tmpfs() { over_tmpfs /run; trick() { host_tmpfs; lead_over /run; }; }
# The link is hidden by a later mount, so the volume's destination leads nowhere any more.
t_80_hidden() { over_tmpfs /run; JQ+=' | .mounts += [{destination: "/mnt", type: "tmpfs", source: "tmpfs"}]'; trick() { host_tmpfs; lead_over /run; }; }
t_80_same() { over_tmpfs /run; JQ=${JQ//\/mnt\/data/\/run}; trick() { host_tmpfs; link_abs etc /run; }; }
# With crun; runc refuses a link to / itself.
t_80_root() {
  JQ=".mounts = [{destination: \"/mnt/data\", type: \"bind\", source: \"$canary/volume\", options: [\"rbind\", \"rw\"]}] + .mounts" WAYS='createRuntime createContainer' EXPECT=any BITE=''
  TOUCHES='.* /canary/volume(/.*)? by .*'
  trick() { link_abs mnt/data /; cp -r /world/images/busybox/. $canary/volume; mkdir -p $canary/volume/{proc,sys,dev}; }
}

# The caller of nvidia-container-cli, a hook of its own; errors are where those of our hook are. `beside`: another directory's rootfs.
beside=/scratch/beside
cli_hook() { # OPTION...
  HOOK=/scratch/cli-hook WAYS=createRuntime BITE=''
  JQ+=" | .root.path = \"$beside/rootfs\""
  CLI_OPTIONS=$*
}
write_cli_hook() {
  ln -sf nvoci /usr/bin/nvidia-container-cli
  cat >$HOOK <<E3
#!/bin/bash
state=\$(cat)
nvidia-container-cli configure --pid="\$(jq .pid <<<"\$state")" --device=0 --compute --utility $CLI_OPTIONS $beside/rootfs 2>/scratch/cli.err && exit
mkdir -p /run/nvoci/errors
cp /scratch/cli.err "/run/nvoci/errors/\$(jq -r .id <<<"\$state").json"
exit 1
E3
  chmod 755 $HOOK
}
users_bundle() { # OWNER
  write_cli_hook
  umount -l $beside/rootfs 2>/dev/null || true
  rm -rf --one-file-system $beside
  mkdir -p $beside/rootfs
  mount --bind "$R" $beside/rootfs
  chown "$1" $beside
}
forged='{"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/"},"root":{"path":"rootfs"},"mounts":[{"destination":"/dev","type":"tmpfs"}],"linux":{"resources":{"devices":[{"allow":true,"access":"rwm"}]}}}'
all_refused() { ! grep -qE "^mknod 10:229 $allowed" "$CASE_DIR/start.out" || fail 'every device is allowed'; umount -l $beside/rootfs; }
forged_case() {
  cli_hook
  ASK='--mknod 10:229'
  # Without a definition, the other rules are unknown on cgroup v2.
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then EXPECT=refused; else EXPECT=started; fi
  check() { all_refused; }
}
t_81_owner() { forged_case; trick() { users_bundle 1500; echo "$forged" >$beside/config.json; chown 1500 $beside/config.json; }; }
t_81_directory() { forged_case; trick() { users_bundle 1500; echo "$forged" >$beside/config.json; }; }
t_81_sticky() { forged_case; trick() { users_bundle 0; echo "$forged" >$beside/config.json; chmod 1777 $beside; }; }
t_81_link() { forged_case; trick() { users_bundle 0; echo "$forged" >/scratch/forged.json; chown 1500 /scratch/forged.json; ln -s /scratch/forged.json $beside/config.json; }; }
t_81_true() { forged_case; EXPECT=started; trick() { users_bundle 0; cp "$BUNDLE/config.json" $beside/; }; }

bound_case() { JQ=".mounts += [{destination: \"$1\", type: \"bind\", source: \"$share/tmp\", options: [\"rbind\", \"rw\"]}]"; cli_hook --no-cgroups; EXPECT=started; check() { host_tmpfs_kept; umount -l $beside/rootfs; }; }
t_82_link() { bound_case /vol; trick() { host_tmpfs; users_bundle 0; link_abs run /vol; link_abs etc /vol; }; }
t_82_place() { bound_case /run; trick() { host_tmpfs; users_bundle 0; link_abs etc /run; }; }
