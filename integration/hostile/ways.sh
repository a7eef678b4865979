# shellcheck shell=bash
# Callers besides a privileged runtime: a user's own, and CDI, where the runtime does the mounts and our small hooks the rest. Sourced by `inside`.
#
#   rootless, rootless-entry   runc or crun in a user namespace of uid 1500 with its sub-ids, as rootless Podman has it
#   cdi                       the static specification applied to the bundle, as an engine does it: its hooks are `nvidia-cdi-hook`
#   gvisor                    the same under runsc, which does the mounts and makes the nodes; runsc of 2024-07 calls no createContainer hook
#   gvisor-nvproxy            runsc calls `nvidia-container-cli configure` itself

# Cases about the file system, the environment or the opened paths: they are the same for these
# callers.
ROOTLESS='^(07|13|17|45|48|68|90|91)_'
CDI='^07_'

# The image as a user's engine has it: its files are the user's.
prepare_rootless() {
  [ ! -e /scratch/as-user ] || return 0
  useradd -M -d /home/u -u 1500 u 2>/dev/null || true
  grep -q ^u: /etc/subuid || { echo u:100000:65536 >>/etc/subuid; echo u:100000:65536 >>/etc/subgid; }
  install -d -o 1500 -g 1500 -m 700 /home/u /run/user/1500
  cp -a /world/images/bookworm /scratch/users-image
  chown -hR 1500:1500 /scratch/users-image
  chmod 755 /scratch /scratch/bundles
  cat >/scratch/as-user <<'E3'
#!/bin/sh
cd /
exec setpriv --reuid 1500 --regid 1500 --init-groups env -i HOME=/home/u USER=u XDG_RUNTIME_DIR=/run/user/1500 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
  unshare --user --mount --map-root-user --map-auto -- "$@"
E3
  chmod 755 /scratch/as-user
}
# The device cgroup is not a user's to set, nor are the host's sysfs and cgroups a user's to mount.
rootless_jq='del(.linux.cgroupsPath, .linux.resources) | .mounts |= map(select(.type != "cgroup"))'
# What the trick made is the user's as well, and there are no devices in what a user mounts. An escape would have the user's rights: the canary is the user's.
give_to_user() {
  [ ! -d /plainroot ] || chown -hR 1500:1500 /plainroot
  find "$BUNDLE/upper" -uid 0 -exec chown -h 1500:1500 {} +
  chown 1500:1500 "$BUNDLE" "$BUNDLE/config.json"
  [ ! -d "$BUNDLE/rootfs/usr" ] || mount -o remount,bind,nodev "$BUNDLE/rootfs" 2>/dev/null || true
  chown -hR 1500:1500 $canary
}

prepare_cdi() {
  [ ! -e /scratch/cdi.json ] || return 0
  ln -sf nvoci /usr/bin/nvidia-cdi-hook
  nvoci cdi generate --static --format json >/scratch/cdi.json
}
# cdi_jq: the edits of GPU 0, as an engine makes them by the specification.
cdi_jq() {
  cat <<E3
$(</scratch/cdi.json) as \$cdi | [\$cdi.containerEdits, (\$cdi.devices[] | select(.name == "0") | .containerEdits)] as \$edits
| .process.env += [\$edits[].env[]?]
| .mounts += [\$edits[].mounts[]? | {destination: .containerPath, source: .hostPath, type: "bind", options}]
| .linux.devices += [\$edits[].deviceNodes[]? | {type: "c", path, major, minor: (.minor // 0), fileMode, uid: 0, gid: 0}]
| .linux.resources.devices += [\$edits[].deviceNodes[]? | {allow: true, type: "c", major, minor: (.minor // 0), access: .permissions}]
| reduce (\$edits[].hooks[]?) as \$hook (.; .hooks[\$hook.hookName] += [\$hook | del(.hookName)])
E3
}
# It looks for a hook of this name, and does not run it.
# shellcheck disable=SC2034  # `inside` reads it
nvproxy_jq='.hooks = {prestart: [{path: "/usr/bin/nvidia-container-runtime-hook", args: ["nvidia-container-runtime-hook", "prestart"]}]}'
