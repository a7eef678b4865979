# node.sh install|remove: puts nvoci on the node whose root is mounted at /host, or takes it off again; then waits, since a
# DaemonSet's pod must not end. Needs privileged and hostPID: the node's own programs do the work, in the node's namespaces.
# Run by busybox' sh, the only shell in the image.
#   NVOCI_ENGINE   containerd (default) or crio; `none` registers nothing
#   NVOCI_RESTART  yes (default): restart the engine when its configuration was changed. Its containers go on running.
#   NVOCI_PREFIX   where on the node: /opt/nvoci (default)
#   NVOCI_WAIT     yes (default): wait for ever
set -eu
engine=${NVOCI_ENGINE:-containerd} prefix=${NVOCI_PREFIX:-/opt/nvoci}
restart=--restart
[ "${NVOCI_RESTART:-yes}" = yes ] || restart=
on_node() { /busybox nsenter -t 1 -m -u -i -n -p -- "$@"; }

case ${1:-} in
  install)
    # Not into the final directory: install.sh keeps a list of the files that it makes, and removes
    # only those.
    new=$prefix.new
    rm -rf "/host$new"
    /busybox cp -a /nvoci "/host$new"
    on_node "$new/install.sh" --prefix "$prefix"
    rm -rf "/host$new"
    # shellcheck disable=SC2086  # an option or nothing
    [ "$engine" = none ] || on_node "$prefix/bin/nvoci" install "$engine" $restart
    ;;
  remove)
    if [ -x "/host$prefix/bin/nvoci" ]; then
      # shellcheck disable=SC2086
      [ "$engine" = none ] || on_node "$prefix/bin/nvoci" uninstall "$engine" $restart
      on_node "$prefix/lib/nvoci/uninstall"
    fi
    ;;
  *) echo 'node.sh: install or remove?' >&2; exit 2 ;;
esac
echo "nvoci: $1 done"
[ "${NVOCI_WAIT:-yes}" = yes ] || exit 0
trap 'exit 0' TERM INT
while :; do /busybox sleep 3600 & wait $!; done
