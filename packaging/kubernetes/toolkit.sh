#!/busybox sh
# nvidia-toolkit, nvidia-ctk-installer: the contract of the container that NVIDIA's GPU operator runs
# on each node for the container toolkit, with its options and variables. nvoci is put into
# ROOT/toolkit, registered with the engine of the node, and taken out of it again at SIGTERM.
# The work on the engine is done by `nvoci install` in the node's namespaces, so the pod needs
# hostPID and privileged, as the operator gives it.
set -u
# Called by a link in /bin.
. "$(/busybox dirname "$(/busybox readlink -f "$0")")/host.sh"
usage='see docs/kubernetes.md, "In place of the operator'\''s toolkit"'

# wrong WHAT WHY: a wrong option or variable. The vendor's program exits with 1 too.
wrong() { refuse "nvidia-toolkit: $1: $2; fix: ${3:-$usage} [NVOCI-1001]"; exit 1; }

# pick DEFAULT VARIABLE...: the value of the first variable that is set.
pick() {
  default=$1
  shift
  for variable; do
    eval "value=\${$variable:-}"
    # shellcheck disable=SC2154  # set by eval
    [ -z "$value" ] || { printf %s "$value"; return; }
  done
  printf %s "$default"
}

root=$(pick /usr/local/nvidia TOOLKIT_INSTALL_DIR ROOT)
engine=$(pick docker RUNTIME)
config=$(pick '' RUNTIME_CONFIG CONTAINERD_CONFIG DOCKER_CONFIG)
drop_in=$(pick '' RUNTIME_DROP_IN_CONFIG)
drop_in_host=$(pick '' RUNTIME_DROP_IN_CONFIG_HOST_PATH)
sources=$(pick command,file RUNTIME_CONFIG_SOURCES RUNTIME_CONFIG_SOURCE)
restart_mode=$(pick systemd RUNTIME_RESTART_MODE)
name=$(pick nvidia NVIDIA_RUNTIME_NAME CONTAINERD_RUNTIME_CLASS DOCKER_RUNTIME_NAME)
default=$(pick true NVIDIA_RUNTIME_SET_AS_DEFAULT CONTAINERD_SET_AS_DEFAULT DOCKER_SET_AS_DEFAULT)
as_default=$default
cdi=$(pick false CDI_ENABLED ENABLE_CDI)
cdi_in_runtime=$(pick '' RUNTIME_ENABLE_CDI)
cdi_kind=$(pick management.nvidia.com/gpu CDI_KIND)
cdi_dir=$(pick /var/run/cdi CDI_OUTPUT_DIR)
nodes=$(pick control CREATE_DEVICE_NODES)
driver_root=$(pick /run/nvidia/driver NVIDIA_DRIVER_ROOT DRIVER_ROOT)
dev_root=$(pick '' NVIDIA_DEV_ROOT DEV_ROOT)
crio_mode=$(pick config CRIO_CONFIG_MODE)
no_runtime=$(pick false NO_RUNTIME_CONFIG)
no_daemon=$(pick false NO_DAEMON)
pid_file=$(pick /run/nvidia/toolkit/toolkit.pid TOOLKIT_PID_FILE PID_FILE)
nri=$(pick false ENABLE_NRI_PLUGIN)
nri_index=$(pick 10 NRI_PLUGIN_INDEX)
nri_socket=$(pick /var/run/nri/nri.sock NRI_SOCKET)
nri_namespace=$(pick '' NRI_NAMESPACE)
nri_namespaces=$(pick '' NRI_MANAGEMENT_CDI_DEVICE_NAMESPACES)
mode=$(pick '' NVIDIA_CONTAINER_RUNTIME_MODE)
default_kind=$(pick '' NVIDIA_CONTAINER_RUNTIME_MODES_CDI_DEFAULT_KIND)
prefixes=$(pick '' NVIDIA_CONTAINER_RUNTIME_MODES_CDI_ANNOTATION_PREFIXES)
debug=$(pick '' NVIDIA_CONTAINER_RUNTIME_DEBUG NVIDIA_CONTAINER_CLI_DEBUG)
log_level=$(pick '' NVIDIA_CONTAINER_RUNTIME_LOG_LEVEL)
runtimes=$(pick '' NVIDIA_CONTAINER_RUNTIME_RUNTIMES)
by_env=$(pick true ACCEPT_NVIDIA_VISIBLE_DEVICES_ENVVAR_WHEN_UNPRIVILEGED)
by_mounts=$(pick false ACCEPT_NVIDIA_VISIBLE_DEVICES_AS_VOLUME_MOUNTS)

# Options win over variables. A switch takes its value after `=` only, as in Go.
while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
    --version | -v) exec /nvoci/root/usr/bin/nvoci --version ;;
    --*=*) value=${option#*=} option=${option%%=*} ;;
    --set-as-default | --enable-cdi-in-runtime | --cdi-enabled | --enable-cdi | --no-runtime-config | --no-daemon | -n | --enable-nri-plugin | \
      --accept-nvidia-visible-devices-envvar-when-unprivileged | --accept-nvidia-visible-devices-as-volume-mounts) value=true ;;
    -*) [ $# -gt 0 ] || wrong "$option" 'no such option, or its value is missing'; value=$1; shift ;;
    # Older operators give the directory as an argument.
    /*) value=$option option=--root ;;
    *) wrong "$option" 'an unexpected argument' ;;
  esac
  case $option in
    --toolkit-install-dir | --root) root=$value ;;
    --runtime | -r) engine=$value ;;
    --config) config=$value ;;
    --drop-in-config) drop_in=$value ;;
    --drop-in-config-host-path) drop_in_host=$value ;;
    --config-source | --config-sources) sources=$value ;;
    --restart-mode) restart_mode=$value ;;
    --runtime-name) name=$value ;;
    --set-as-default) as_default=$value ;;
    --enable-cdi-in-runtime) cdi_in_runtime=$value ;;
    --cdi-enabled | --enable-cdi) cdi=$value ;;
    --cdi-kind) cdi_kind=$value ;;
    --cdi-output-dir) cdi_dir=$value ;;
    --create-device-nodes) nodes=$value ;;
    --driver-root) driver_root=$value ;;
    --dev-root) dev_root=$value ;;
    --config-mode) crio_mode=$value ;;
    --no-runtime-config) no_runtime=$value ;;
    --no-daemon | -n) no_daemon=$value ;;
    --pid-file) pid_file=$value ;;
    --enable-nri-plugin) nri=$value ;;
    --nri-plugin-index) nri_index=$value ;;
    --nri-socket) nri_socket=$value ;;
    --nri-namespace) nri_namespace=$value ;;
    --nri-management-cdi-device-namespaces) nri_namespaces=$value ;;
    --nvidia-container-runtime.mode) mode=$value ;;
    --nvidia-container-runtime.modes.cdi.default-kind) default_kind=$value ;;
    --nvidia-container-runtime.modes.cdi.annotation-prefixes) prefixes=$value ;;
    --nvidia-container-runtime.debug | --nvidia-container-cli.debug) debug=$value ;;
    --nvidia-container-runtime.log-level) log_level=$value ;;
    --nvidia-container-runtime.runtimes) runtimes=$value ;;
    --accept-nvidia-visible-devices-envvar-when-unprivileged) by_env=$value ;;
    --accept-nvidia-visible-devices-as-volume-mounts) by_mounts=$value ;;
    # nvoci finds the daemon by itself, works in the node's root, and has one set of files.
    --socket | --host-root | --host-root-mount | --driver-root-ctr-path | --dev-root-ctr-path | --toolkit-source-root | --toolkit-package-type | \
      --executable-path | --hooks-dir | --hook-filename) ;;
    *) wrong "$option" 'no such option' ;;
  esac
done

# yes NAME VALUE: the value of a switch, in Go's spellings.
yes() {
  case $2 in
    1 | t | T | true | TRUE | True) return 0 ;;
    0 | f | F | false | FALSE | False) return 1 ;;
    *) wrong "$1" "\`$2\` is neither true nor false" ;;
  esac
}
# plain NAME VALUE: a text that a TOML string holds as it is.
plain() { case $2 in *[\"\\]* | *'
'*) wrong "$1" 'it has a quotation mark, a backslash or a line break' ;; esac; }
path() { case $2 in /*) plain "$1" "$2" ;; *) wrong "$1" "\`$2\` is not an absolute path" ;; esac; }

case $engine in docker | containerd | crio) ;; *) wrong RUNTIME "\`$engine\` is not docker, containerd or crio" ;; esac
case $restart_mode in signal | systemd | none) ;; *) wrong RUNTIME_RESTART_MODE "\`$restart_mode\` is not signal, systemd or none" ;; esac
case $nodes in control | none | '') ;; *) wrong CREATE_DEVICE_NODES "\`$nodes\` is neither control nor none" ;; esac
IFS=,
for source in $sources; do
  case $source in command | file | file=/*) ;; *) wrong RUNTIME_CONFIG_SOURCE "\`$source\` is neither command nor file" ;; esac
done
unset IFS
case $crio_mode in
  config) ;;
  hook) [ "$engine" != crio ] || wrong CRIO_CONFIG_MODE 'nvoci installs no hooks directory for every container' 'set `cdi.enabled=true` in the operator, or CRIO_CONFIG_MODE=config in `toolkit.env`' ;;
  *) wrong CRIO_CONFIG_MODE "\`$crio_mode\` is neither config nor hook" ;;
esac
plugin=/nvoci/root/usr/bin/nvoci-nri
if yes ENABLE_NRI_PLUGIN "$nri"; then
  [ -x $plugin ] || wrong ENABLE_NRI_PLUGIN 'this image has no nvoci-nri' 'use an image that has it, or set `cdi.nriPluginEnabled=false` in the operator'
  [ -n "$nri_namespace" ] || wrong NRI_NAMESPACE 'it is not set, and ENABLE_NRI_PLUGIN is'
  path NRI_SOCKET "$nri_socket"
  [ -S "$nri_socket" ] || wrong NRI_SOCKET "$nri_socket is no socket in this container" 'mount its directory from the node, and turn NRI on in the engine'
  nri=true
else
  nri=false
fi
[ "${pid_file##*/}" = toolkit.pid ] || wrong TOOLKIT_PID_FILE "\`$pid_file\`: its name is not toolkit.pid"
path ROOT "$root" && path NVIDIA_DRIVER_ROOT "$driver_root" && path CDI_OUTPUT_DIR "$cdi_dir" && path TOOLKIT_PID_FILE "$pid_file"
[ -z "$dev_root" ] || path NVIDIA_DEV_ROOT "$dev_root"
[ -z "$config" ] || path RUNTIME_CONFIG "$config"
[ -z "$drop_in" ] || path RUNTIME_DROP_IN_CONFIG "$drop_in"
for text in "$mode" "$default_kind" "$prefixes" "$debug" "$log_level" "$runtimes"; do plain 'a setting of the runtime' "$text"; done
case $cdi_kind in ?*/?*) ;; *) wrong CDI_KIND "\`$cdi_kind\` is not VENDOR/CLASS" ;; esac
# Each switch becomes `true` or `false`, or the option of `nvoci install` that it stands for.
yes ACCEPT_NVIDIA_VISIBLE_DEVICES_ENVVAR_WHEN_UNPRIVILEGED "$by_env" && by_env=true || by_env=false
yes ACCEPT_NVIDIA_VISIBLE_DEVICES_AS_VOLUME_MOUNTS "$by_mounts" && by_mounts=true || by_mounts=false
yes NVIDIA_RUNTIME_SET_AS_DEFAULT "$as_default" && as_default=--set-as-default || as_default=
yes CDI_ENABLED "$cdi" && cdi=true || cdi=false
yes RUNTIME_ENABLE_CDI "${cdi_in_runtime:-$cdi}" && cdi_in_runtime=--cdi || cdi_in_runtime=
yes NO_RUNTIME_CONFIG "$no_runtime" && no_runtime=true || no_runtime=false
yes NO_DAEMON "$no_daemon" && no_daemon=true || no_daemon=false
restart=--restart
[ "$restart_mode" != none ] || restart=

# on_host FILE: where FILE of this container is on the node: both mount tables name the file system
# and the directory that a volume comes from. A file of no volume has the same path there.
on_host() {
  # shellcheck disable=SC2016  # awk's
  found=$(/busybox awk -v path="$1" '
    function below(dir, file) { return dir == "/" || file == dir || index(file, dir "/") == 1 }
    function rest(dir, file) { return dir == "/" ? file : substr(file, length(dir) + 1) }
    FNR == NR { if (below($5, path) && length($5) >= length(at)) { at = $5; device = $3; inside = ($4 == "/" ? "" : $4) rest($5, path) } next }
    $3 == device && below($4, inside) && length($4) >= length(best) { best = $4; host = ($5 == "/" ? "" : $5) rest($4, inside) }
    END { if (at == "/" || host == "") print path; else print host }' /proc/self/mountinfo /proc/1/mountinfo)
  printf %s "$found"
}

# same_dir A B: whether A here and B on the node are one directory.
same_dir() {
  # shellcheck disable=SC2016
  [ "$(/busybox stat -L -c %d:%i "$1" 2>/dev/null)" = "$(on_node /bin/sh -c 'stat -L -c %d:%i "$1"' sh "$2" 2>/dev/null)" ]
}

to=$root/toolkit

# The files of ROOT/toolkit. Each one is replaced by a rename, so the engine finds a whole program at
# any time; then files of another toolkit are removed.
NAMES='nvidia-container-runtime nvidia-container-runtime.cdi nvidia-container-runtime.legacy nvidia-container-runtime-hook nvidia-container-toolkit nvidia-container-cli nvidia-ctk nvidia-cdi-hook nvoci-runtime'
put_files() {
  from=/nvoci/root/usr
  umask 022
  /busybox mkdir -p "$to" || return 1
  for file in bin/nvoci lib/nvoci/nvoci-nvml; do
    [ -e "$from/$file" ] || continue
    /busybox cp "$from/$file" "$to/.new" && /busybox chmod 755 "$to/.new" && /busybox mv -f "$to/.new" "$to/${file##*/}" || return 1
  done
  for link in $NAMES; do
    /busybox rm -f "$to/.new" && /busybox ln -s nvoci "$to/.new" && /busybox mv -f "$to/.new" "$to/$link" || return 1
  done
  for file in "$to"/* "$to"/.[!.]*; do
    case " nvoci nvoci-nvml $NAMES " in *" ${file##*/} "*) ;; *) /busybox rm -rf "$file" ;; esac
  done
}

# The settings as nvoci's configuration. A file of the node's administrator stays, and wins.
configure() {
  if on_node test -e "$CONFIG" && ! is_marked; then
    echo "nvidia-toolkit: warning: $CONFIG is the administrator's and stays; the settings of this container have no effect" >&2
    return 0
  fi
  list() { printf '"%s"' "$1" | /busybox sed 's/,/", "/g'; }
  {
    printf 'driver-root = "%s"\n' "$driver_root"
    [ -z "$dev_root" ] || printf 'dev-root = "%s"\n' "$dev_root"
    printf 'accept-envvar-unprivileged = %s\naccept-volume-mounts = %s\n' "$by_env" "$by_mounts"
    [ -z "$mode" ] || printf 'mode = "%s"\n' "$mode"
    [ -z "$default_kind" ] || printf 'default-kind = "%s"\n' "$default_kind"
    [ -z "$prefixes" ] || printf 'annotation-prefixes = [%s]\n' "$(list "$prefixes")"
    [ -z "$log_level" ] || printf 'log-level = "%s"\n' "$log_level"
    [ -z "$runtimes" ] || printf 'runtimes = [%s]\n' "$(list "$runtimes")"
    case $debug in /*) printf 'log-file = "%s"\n' "$debug" ;; esac
  } >"$STATE/config.toml"
  put_config "$STATE/config.toml" "$to/nvoci"
}

# The devices of management pods. A GPU that is not there yet stops nothing.
management() {
  [ "$cdi" = true ] || return 0
  dev=${dev_root:-$driver_root}
  if [ "$nodes" = control ]; then
    on_node "$to/nvidia-ctk" system create-device-nodes --control-devices --dev-root="$dev" </dev/null ||
      echo 'nvidia-toolkit: warning: the control nodes were not made; see the line above' >&2
  fi
  file=$(on_host "$cdi_dir")/${cdi_kind%%/*}-${cdi_kind#*/}.yaml
  try 'management devices' "$to/nvoci" cdi generate --mode=management --vendor="${cdi_kind%%/*}" --class="${cdi_kind#*/}" \
    --driver-root="$driver_root" --dev-root="$dev" --hook-path="$to/nvidia-cdi-hook" --output="$file"
}

# engine_options: the arguments of `nvoci install` and `nvoci uninstall` that name the files.
engine_options() {
  set --
  case $engine in
    containerd)
      [ -z "$config" ] || set -- "$@" --config "$(on_host "$config")"
      [ -z "$drop_in_host$drop_in" ] || set -- "$@" --drop-in "${drop_in_host:-$(on_host "$drop_in")}"
      ;;
    crio) [ -z "$drop_in_host$drop_in" ] || set -- "$@" --drop-in "${drop_in_host:-$(on_host "$drop_in")}" ;;
    docker)
      [ -z "$config" ] || set -- "$@" --config "$(on_host "$config")"
      [ -z "$drop_in" ] || echo 'nvidia-toolkit: warning: RUNTIME_DROP_IN_CONFIG has no effect for docker' >&2
      ;;
  esac
  [ $# = 0 ] || printf '%s\n' "$@"
}

# The runtime NAME, and the vendor's two variants of it. The last one restarts the engine.
register() {
  IFS='
'
  # shellcheck disable=SC2046  # one argument a line
  set -- $(engine_options)
  unset IFS
  # shellcheck disable=SC2086  # options or nothing
  try "$engine" "$to/nvoci" install "$engine" "$@" --runtime-name nvidia-cdi --runtime-path "$to/nvidia-container-runtime.cdi" $cdi_in_runtime &&
    try "$engine" "$to/nvoci" install "$engine" "$@" --runtime-name nvidia-legacy --runtime-path "$to/nvidia-container-runtime.legacy" $cdi_in_runtime &&
    try "$engine" "$to/nvoci" install "$engine" "$@" --runtime-name "$name" --runtime-path "$to/nvidia-container-runtime" $as_default $cdi_in_runtime $restart &&
    is_read
}

# is_read: whether the engine that was to be restarted has read its files.
is_read() {
  [ -n "$restart" ] && [ "$engine" != docker ] || return 0
  ! on_node "$to/nvoci" doctor engine "$engine" --json 2>/dev/null </dev/null | /busybox grep -q '"NVOCI-7205"' ||
    refuse "$engine: it has not read its present files; fix: \`systemctl restart $engine\` on the node [NVOCI-7205]"
}

unregister() {
  IFS='
'
  # shellcheck disable=SC2046
  set -- $(engine_options)
  unset IFS
  # shellcheck disable=SC2086
  try "$engine" "$to/nvoci" uninstall "$engine" "$@" --runtime-name "$name" --runtime-path "$to/nvidia-container-runtime" $restart
}

# take_pid_file: refuses a second instance. The vendor's program empties the first one's file.
take_pid_file() {
  other=
  [ ! -e "$pid_file" ] || read -r other <"$pid_file"
  case $other in
    '' | *[!0-9]*) ;;
    "$$") ;;
    *)
      if /busybox grep -qE 'nvidia-toolkit|nvidia-ctk-installer|toolkit\.sh' "/proc/$other/cmdline" 2>/dev/null; then
        refuse "$pid_file: process $other is another instance; fix: end it, or wait until it has ended [NVOCI-6005]" || return 1
      fi
      ;;
  esac
  /busybox mkdir -p "${pid_file%/*}" && echo $$ >"$pid_file.new" && /busybox mv -f "$pid_file.new" "$pid_file" ||
    refuse "$pid_file: cannot be written; fix: give the pod its directory as a volume [NVOCI-5001]"
}

stop() { # STATUS
  /busybox rm -f "$pid_file"
  exit "$1"
}
give_back() {
  trap '' TERM INT HUP QUIT
  echo 'nvidia-toolkit: a signal: the engine is given back'
  [ -z "${plugin_pid:-}" ] || kill "$plugin_pid" 2>/dev/null
  [ "$no_runtime" = true ] || unregister || stop 1
  stop 0
}

take_pid_file || exit 1
# Before the engine is changed there is nothing to give back.
trap 'stop 0' TERM INT HUP QUIT
platform "$to/.probe" || stop 1
/busybox rm -rf "$to/.probe"
put_files || { refuse "$to: cannot be written; fix: free space, or make the volume writable [NVOCI-6001]"; stop 1; }
same_dir "$to" "$to" || { refuse "$to: the node has another directory there; fix: mount the node's $root at the same path [NVOCI-6001]"; stop 1; }
configure && management || stop 1
# A signal in the midst of the engine's change is answered when the change is whole.
ended=
trap 'ended=yes' TERM INT HUP QUIT
# With the plugin the engine's files stay as they are.
if [ "$nri" = true ]; then no_runtime=true; fi
if [ "$no_runtime" = false ]; then register || stop 1; fi
[ "$no_daemon" = false ] || stop 0
trap give_back TERM INT HUP QUIT
[ -z "$ended" ] || give_back
if [ "$nri" = true ]; then
  set -- --nri-socket "$nri_socket" --nri-plugin-index "$nri_index" --nri-namespace "$nri_namespace"
  [ -z "$nri_namespaces" ] || set -- "$@" --nri-management-cdi-device-namespaces "$nri_namespaces"
  $plugin "$@" &
  plugin_pid=$!
fi
echo 'nvidia-toolkit: the node is set up; waiting for a signal'
# The plugin reconnects by itself, so its end is a fault: the kubelet starts this container again.
[ "$nri" = false ] || { wait $plugin_pid; refuse 'nvidia-toolkit: nvoci-nri has ended; fix: read its last line above [NVOCI-5001]'; stop 1; }
while :; do /busybox sleep 3600 & wait $!; done
