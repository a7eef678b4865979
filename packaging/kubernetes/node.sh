# node.sh install|remove: puts nvoci on the node, or takes it off again; then stays, since a
# DaemonSet's pod must not end. A fault never ends it: it is written to the log, the pod is not
# Ready, and the work is tried again.
#   NVOCI_ENGINE   auto (default), containerd, crio, rancher (k3s and RKE2); `none` registers nothing
#   NVOCI_RESTART  yes (default): restart the engine when its configuration was changed. Its containers go on running.
#   NVOCI_PREFIX   where on the node: /opt/nvoci (default)
#   NVOCI_CONFIG   a file that becomes the node's /etc/nvoci/config.toml; empty or missing: none
#   NVOCI_JITTER   seconds: begin at a random time within them (default 0)
#   NVOCI_RETRY    seconds between two tries (default 300; of a removal 20)
#   NVOCI_REPAIR   seconds after which a registration that was lost is made again (default 3600)
#   NVOCI_WAIT     yes (default): stay. Otherwise end, with status 1 for a fault
# node.sh nri ARGUMENT...: runs the image's nvoci-nri.
# node.sh startup|ready|live: the probes of that pod. One line says why a probe fails.
set -u
. "${0%/*}/host.sh"
prefix=${NVOCI_PREFIX:-/opt/nvoci} nvoci=${NVOCI_PREFIX:-/opt/nvoci}/bin/nvoci
next=$prefix.new
restart=--restart
[ "${NVOCI_RESTART:-yes}" = yes ] || restart=
# k3s and RKE2 register the runtime of this path when they start.
RANCHER=/usr/local/nvidia/toolkit/nvidia-container-runtime
# It is there from a restart of k3s or RKE2 until the runtime is registered.
RESTARTED=$prefix/lib/nvoci/restarted

# The engine that serves this node's kubelet.
find_engine() {
  engine=${NVOCI_ENGINE:-auto}
  case $engine in
    containerd | crio | none | rancher) return 0 ;;
    auto) ;;
    *) refuse "NVOCI_ENGINE: $engine is not auto, containerd, crio, rancher or none; fix: correct it [NVOCI-1001]" || return 1 ;;
  esac
  if [ -S "$HOST/run/k3s/containerd/containerd.sock" ]; then engine=rancher
  elif [ -S "$HOST/run/crio/crio.sock" ]; then engine=crio
  elif [ -S "$HOST/run/containerd/containerd.sock" ] || [ -S "$HOST/var/snap/microk8s/common/run/containerd.sock" ]; then engine=containerd
  else refuse 'node: no socket of containerd, CRI-O, k3s or microk8s in /run; fix: start the engine, or name it by NVOCI_ENGINE [NVOCI-6002]'
  fi
}

# Copies the image's files beside the installed ones.
copy() {
  # An absolute link of the node, such as /opt -> /data/opt, leads into this container instead.
  [ -d "$HOST$next" ] || { refuse "$prefix: it is behind an absolute symbolic link; fix: set the prefix to the link's target [NVOCI-6001]" || return 1; }
  /busybox cp -a /nvoci/. "$HOST$next/" || { refuse "$next: cannot be written; fix: free space there, or set another prefix [NVOCI-6001]" || return 1; }
  on_node test -x "$next/install.sh" || refuse "$prefix: the node does not see what is written there; fix: set another prefix [NVOCI-6001]"
}

# The installed program tries the new one on the node before anything is replaced. One that cannot judge
# is replaced: it does not run, or does not know the command.
rehearse() {
  new=$next/root/usr/bin/nvoci
  try 'the new program' "$new" --version >/dev/null || return 1
  if on_node test -x "$nvoci" && ! /busybox cmp -s /nvoci/root/usr/bin/nvoci "$HOST$nvoci"; then
    try upgrade "$nvoci" upgrade --probe --dry-run "$new" && return 0
    case $(/busybox grep -o '\[NVOCI-[0-9]*\]' "$STATE/out" | /busybox tail -n 1) in '' | '[NVOCI-1001]') ;; *) return 1 ;; esac
  fi
}

configure() {
  if [ ! -s "${NVOCI_CONFIG:-}" ]; then
    drop_config
  elif on_node test -e "$CONFIG" && ! is_marked; then
    refuse "$CONFIG: an administrator of the node made it; fix: remove it, or give the pod no configuration [NVOCI-1103]"
  else
    put_config "$NVOCI_CONFIG" "$next/root/usr/bin/nvoci"
  fi
}

# rancher_configs: the files that k3s and RKE2 generate for containerd: those of the processes that run, since the
# data directory is the administrator's choice, else the usual ones.
rancher_configs() {
  found=
  for process in /proc/[0-9]*; do
    line=
    # The shell leaves out the zeros between the arguments.
    { read -r line || :; } 2>/dev/null <"$process/cmdline"
    case $line in *containerd*/agent/etc/containerd/config.toml*) ;; *) continue ;; esac
    file=$(/busybox tr '\0' '\n' <"$process/cmdline" 2>/dev/null | rancher_config)
    # A user can start a process of any name, and so can a container's root.
    if [ -n "$file" ] && /busybox grep -qE '^Uid:[[:space:]]+0[[:space:]]+0[[:space:]]+0[[:space:]]+0$' "$process/status" 2>/dev/null &&
      [ "$(/busybox readlink "$process/ns/mnt")" = "$(/busybox readlink /proc/1/ns/mnt)" ]; then
      found=yes
      echo "$file"
    fi
  done
  [ -z "$found" ] || return 0
  for file in /var/lib/rancher/k3s/agent/etc/containerd/config.toml /var/lib/rancher/rke2/agent/etc/containerd/config.toml; do
    echo "$file"
  done
}

# rancher_config: the file that a containerd's arguments name, one a line.
rancher_config() {
  read -r program
  [ "${program##*/}" = containerd ] || return 0
  while read -r argument; do
    case $argument in
      -c | --config) read -r file ;;
      -c=* | --config=*) file=${argument#*=} ;;
      *) continue ;;
    esac
    case $file in /*/agent/etc/containerd/config.toml) echo "$file" ;; esac
    return 0
  done
}

register_rancher() {
  # shellcheck disable=SC2016
  try "$RANCHER" /bin/sh -c '
    [ ! -e "$2" ] || [ "$(readlink -f "$2")" = "$(readlink -f "$1")" ] ||
      { echo "it is another toolkit'\''s; fix: remove that toolkit from the node [NVOCI-6001]"; exit 1; }
    for dir in /usr/local/nvidia "${2%/*}"; do
      [ -d "$dir" ] || { mkdir "$dir" && echo "$dir" >>"$3"; } || exit 1
    done
    ln -sfn "$1" "$2"' sh "$prefix/bin/nvidia-container-runtime" "$RANCHER" "$prefix/lib/nvoci/rancher" || return 1
  if is_registered; then on_node rm -f "$RESTARTED"; return 0; fi
  # A restart that changed nothing is not repeated: it takes the API server with it.
  if on_node test -e "$RESTARTED"; then
    refuse "k3s or RKE2: its generated configuration has no runtime with $RANCHER, also after a restart; fix: read its log, and remove a template of containerd's that has no runtimes; to restart it again, remove $RESTARTED on the node [NVOCI-6001]" || return 1
  fi
  [ -n "$restart" ] || { refuse 'k3s or RKE2: it registers the runtime when it starts; fix: restart its service on the node [NVOCI-7205]' || return 1; }
  for unit in k3s k3s-agent rke2-server rke2-agent; do
    on_node systemctl --quiet is-active "$unit" || continue
    try "$unit" systemctl restart "$unit" && try "$unit" touch "$RESTARTED" || return 1
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
      if is_registered; then on_node rm -f "$RESTARTED"; return 0; fi
      /busybox sleep 5
    done
  done
  refuse "k3s or RKE2: its generated configuration has no runtime with $RANCHER; fix: restart its service on the node, and read its log [NVOCI-6001]"
}

# is_registered: whether the engine's files name this installation.
is_registered() {
  case $engine in
    none) return 0 ;;
    rancher)
      # Read on the node: an absolute link there, such as /var/lib/rancher -> /data, leads elsewhere from here.
      rancher_configs | while read -r file; do on_node cat "$file" </dev/null; done 2>/dev/null | /busybox grep -qF "\"$RANCHER\""
      ;;
    *)
      # A CDI specification that would be written anew is no reason: only a line that adds the runtime.
      change=$(on_node "$nvoci" install "$engine" --dry-run 2>/dev/null </dev/null) || return 1
      ! printf '%s\n' "$change" | /busybox grep -q '^+.*/nvoci-runtime'
      ;;
  esac
}

# is_loaded: whether the running engine has read the files that it has now.
is_loaded() {
  case $engine in none | rancher) return 0 ;; esac
  ! on_node "$nvoci" doctor engine "$engine" --json 2>/dev/null </dev/null | /busybox grep -q '"NVOCI-7205"'
}

# is_installed: whether this image's files are there, all of them. A pod that is restarted ends sooner.
is_installed() {
  /busybox cmp -s /nvoci/root/usr/bin/nvoci "$HOST$nvoci" && /busybox cmp -s /nvoci/install.sh "$HOST$prefix/lib/nvoci/install.sh" || return 1
  # shellcheck disable=SC2016
  on_node /bin/sh -c 'while read -r kind path; do [ -e "$path" ] || [ -L "$path" ] || exit 1; done <"$1"' sh "$prefix/lib/nvoci/manifest" 2>/dev/null
}

put_files() { is_installed || try install "$next/install.sh" --prefix "$prefix"; }

install_node() {
  on_node rm -rf "$next" 2>/dev/null
  find_engine && platform "$next" && copy && rehearse && configure && put_files
  result=$?
  on_node rm -rf "$next" 2>/dev/null
  [ $result = 0 ] || return 1
  case $engine in
    none) ;;
    rancher) register_rancher ;;
    # shellcheck disable=SC2086  # an option or nothing
    *) try register "$nvoci" install "$engine" $restart ;;
  esac
}

# unused: whether no running container was started through the installed program. Without it, or with the runtime out of its
# configuration, an engine can neither execute commands in them nor stop them. A program that does not run keeps nothing.
unused() {
  on_node test -x "$nvoci" || return 0
  try remove "$nvoci" uninstall --if-unused && return 0
  why=$(/busybox cat "$STATE/why")
  case $why in
    *'[NVOCI-6006]') refuse "${why%%; fix:*}; fix: delete the pods of the RuntimeClass on this node, and take the runtime out as the engine's default if it is that; it is removed then [NVOCI-6006]" ;;
    *) return 0 ;;
  esac
}

remove_node() {
  find_engine && unused || return 1
  drop_config
  on_node rm -f "$RESTARTED"
  if [ "$(on_node readlink "$RANCHER" 2>/dev/null)" = "$prefix/bin/nvidia-container-runtime" ]; then
    on_node rm -f "$RANCHER"
    # The directories that register_rancher made, the inner one first.
    # shellcheck disable=SC2016
    on_node /bin/sh -c '[ ! -e "$1" ] || { sort -r "$1" | while read -r dir; do rmdir "$dir"; done; rm -f "$1"; }' sh "$prefix/lib/nvoci/rancher" 2>/dev/null || true
  fi
  on_node test -x "$nvoci" || return 0
  case $engine in
    none | rancher) ;;
    # shellcheck disable=SC2086
    *) try unregister "$nvoci" uninstall "$engine" $restart || return 1 ;;
  esac
  # One may have started in between.
  unused || return 1
  try remove "$prefix/lib/nvoci/uninstall"
}

# ready_node: whether the next GPU pod of this node will start: the image's version is installed, the
# engine has loaded a configuration that names it, and nvoci plans all GPUs of the node.
ready_node() {
  find_engine || return 1
  theirs=$(on_node "$nvoci" --version 2>/dev/null </dev/null) || { refuse "$nvoci: it does not run on the node; fix: delete this pod, which installs it again [NVOCI-6003]" || return 1; }
  [ "$theirs" = "$(/nvoci/root/usr/bin/nvoci --version)" ] || { refuse "$nvoci: it is $theirs and not this image's version; fix: delete this pod [NVOCI-6003]" || return 1; }
  is_registered || { refuse "$engine: its files do not name $prefix/bin/nvoci-runtime any more; fix: find the program that changed them, then delete this pod [NVOCI-7201]" || return 1; }
  is_loaded || { refuse "$engine: it has not read its present files; fix: \`systemctl restart $engine\` on the node, or set the chart's value \`restart\` to true [NVOCI-7205]" || return 1; }
  try plan "$nvoci" plan NVIDIA_VISIBLE_DEVICES=all >/dev/null
}

now() { /busybox date +%s; }
nap() { /busybox sleep "$1" & wait $!; }
state() { printf '%s\n' "$1" >"$STATE/state.new" && /busybox mv "$STATE/state.new" "$STATE/state"; }

work() { # install|remove: until it succeeds, or once
  while :; do
    now >"$STATE/beat"
    if "${1}_node"; then state done; echo "nvoci: $1 done"; return 0; fi
    state refused
    [ "${NVOCI_WAIT:-yes}" = yes ] || exit 1
    # The next try leaves the reason in its place until it has a result.
    if [ "$1" = remove ]; then nap "${NVOCI_RETRY:-20}"; else nap "${NVOCI_RETRY:-300}"; fi
  done
}

verb=${1:-}
case $verb in
  install | remove) ;;
  # A refusal is an end of the start: a restart of the pod would not change it.
  startup)
    read -r now_is <"$STATE/state" 2>/dev/null && [ "$now_is" != working ] && exit 0
    echo 'nvoci: the work on the node is not finished' && exit 1
    ;;
  ready)
    read -r now_is <"$STATE/state" 2>/dev/null || now_is=working
    if [ "$now_is" = refused ]; then /busybox cat "$STATE/why"; exit 1; fi
    [ "$now_is" = done ] || { echo 'nvoci: the work on the node is not finished'; exit 1; }
    [ "${2:-install}" = install ] || exit 0
    # A state of its own: the reason must not replace that of the work.
    STATE=$STATE/probe
    /busybox mkdir -p "$STATE"
    ready_node 2>/dev/null || { /busybox cat "$STATE/why"; exit 1; }
    exit 0
    ;;
  live)
    read -r beat <"$STATE/beat" 2>/dev/null || exit 1
    [ $(($(now) - beat)) -lt $((${NVOCI_RETRY:-300} + 600)) ] || { echo 'nvoci: the work on the node hangs'; exit 1; }
    exit 0
    ;;
  # A container of its own in the pod, with the arguments of nvoci-nri.
  nri)
    shift
    trap 'exit 0' TERM INT
    [ ! -x /nvoci/root/usr/bin/nvoci-nri ] || exec /nvoci/root/usr/bin/nvoci-nri "$@"
    refuse 'nri: this image has no nvoci-nri; fix: set nri.enabled=false, or use an image that has it [NVOCI-6003]' || true
    while :; do nap 3600; done
    ;;
  *) echo 'node.sh: install, remove, startup, ready or live? [NVOCI-1001]' >&2; exit 2 ;;
esac
trap 'exit 0' TERM INT
state working
now >"$STATE/beat"
if [ "${NVOCI_JITTER:-0}" -gt 0 ]; then nap $((RANDOM % NVOCI_JITTER)); fi
work "$verb"
[ "${NVOCI_WAIT:-yes}" = yes ] || exit 0
made=$(now)
while :; do
  nap 60
  now >"$STATE/beat"
  # Two programs that take the engine from each other must not restart it again and again.
  if [ "$verb" = install ] && [ $(($(now) - made)) -gt "${NVOCI_REPAIR:-3600}" ] && ! is_registered; then
    echo "nvoci: $engine: the registration is gone, and is made again" >&2
    state working
    work install
    made=$(now)
  fi
done
