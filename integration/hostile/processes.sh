# shellcheck shell=bash
# Cases 60 to 64 of `engines`: other users' processes, nvoci's own path, two runs at once, a missing
# program, the umask. The attacker is a local user (1000), or root in a container. Sourced by
# engines; TOOL is the tested program.
U=/scratch/u
state=${state:-/var/lib/nvoci/install}

# A static program that takes any arguments and waits: 129 bytes.
impostor() { # FILE OWNER
  mkdir -p "$(dirname "$1")"
  base64 -d >"$1" <<<'f0VMRgIBAQAAAAAAAAAAAAIAPgABAAAAeABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAABAAAAAAAAAAEAAAAFAAAAAAAAAAAAAAAAAEAAAAAAAAAAQAAAAAAAgQAAAAAAAACBAAAAAAAAAAAQAAAAAAAAuCIAAAAPBev3'
  chmod 755 "$1"
  chown "$2:$2" "$1"
}
pids=()
# started COMMAND...: in the background until the case ends, once it has become the last program.
started() { "$@" >/dev/null 2>&1 </dev/null & pids+=($!); sleep 0.3; kill -0 $! 2>/dev/null || fail "the process of the case has ended: $*"; }
as_user() { exec setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
end_processes() { local p; for p in "${pids[@]}"; do kill -9 "$p" 2>/dev/null || true; wait "$p" 2>/dev/null || true; done; pids=(); }

tree() { find /etc /var/lib/nvoci /usr/share/containers /opt -xdev \( -type f -exec sha256sum {} + \) -o -printf '%p %y %m %U %l\n' 2>/dev/null | sort; }
fresh_host() {
  rm -rf /etc/docker /etc/containers/containers.conf.d /etc/containerd /etc/crio /var/lib/nvoci /etc/cdi /usr/share/containers/oci $U /opt/real /tmp/evil* /etc/sudoers.d /run/nvoci
  mkdir -p /etc/docker /etc/containerd /etc/crio/crio.conf.d /etc/containers/containers.conf.d $U
  chown 1000:1000 $U
  echo '{"debug": false}' >/etc/docker/daemon.json
  echo 'version = 2' >/etc/containerd/config.toml
  ln -sf nvoci /usr/bin/nvoci-runtime
}
coded() { # NAME CODE
  [ "$(grep -vc '^nvoci: warning' "$CASE_DIR/$1.err")" = 1 ] && grep -qE "^nvoci: .*\[NVOCI-$2\]\$" "$CASE_DIR/$1.err" || fail "$1: not one line with $2: $(head -c 300 "$CASE_DIR/$1.err")"
}
# refused CODE COMMAND...: in one line, and nothing is changed.
refused() {
  local code=$1
  shift
  tree >"$CASE_DIR/before"
  ! run 40 refused "$@" || fail "the host was changed: done: $*"
  tree >"$CASE_DIR/after"
  cmp -s "$CASE_DIR/before" "$CASE_DIR/after" || fail "the host was changed: $(diff "$CASE_DIR/before" "$CASE_DIR/after" | grep '^[<>]' | head -n 3 | tr '\n' '|')"
  coded refused "$code"
}
registered() { # ENGINE FILE OPTION...: install does it there
  local engine=$1 f=$2
  shift 2
  must 40 install "$TOOL" install "$engine" "$@" || true
  grep -q nvoci-runtime "$f" 2>/dev/null || fail "$f does not name the runtime"
  [ ! -d /etc/sudoers.d ] || fail "the host was changed: $(ls /etc/sudoers.d)"
  [ -z "$(ls -d /tmp/evil* 2>/dev/null)" ] || fail "the host was changed: $(ls -d /tmp/evil*)"
}
daemon_json=/etc/docker/daemon.json

# 60: other users' processes.
a60_user_config() { impostor $U/dockerd 1000; started as_user $U/dockerd --config-file=/etc/sudoers.d/zz; registered docker $daemon_json; }
a60_user_flags() {
  impostor $U/dockerd 1000
  started as_user $U/dockerd --validate=false -H unix:///tmp/evil.sock --group=1000 --data-root /tmp/evil-root --exec-root /tmp/evil-exec --pidfile /tmp/evil.pid --iptables=false --ip6tables=false --bridge=none
  registered docker $daemon_json
}
a60_user_flags_apart() { impostor $U/dockerd 1000; started as_user $U/dockerd --config-file /etc/sudoers.d/zz --pidfile /tmp/evil.pid; registered docker $daemon_json; }
a60_user_containerd() { impostor $U/containerd 1000; started as_user $U/containerd -c /etc/sudoers.d/zz; registered containerd /etc/containerd/config.toml; }
a60_user_own_directory() { impostor $U/dockerd 1000; started as_user $U/dockerd --config-file=/etc/docker/other.json; registered docker $daemon_json; [ ! -e /etc/docker/other.json ] || fail "a user chose the file"; }
a60_user_in_the_way() { impostor $U/dockerd 1000; started as_user $U/dockerd --default-runtime=x --add-runtime=a=/b --no-such-flag; registered docker $daemon_json --set-as-default; }
a60_user_uninstall() { registered docker $daemon_json; impostor $U/dockerd 1000; started as_user $U/dockerd --config-file=/etc/sudoers.d/zz; must 40 uninstall "$TOOL" uninstall docker || true; [ "$(cat $daemon_json)" = '{"debug": false}' ] || fail "not as before"; }
a60_name_only() { started as_user bash -c 'printf dockerd >/proc/self/comm; read -r _ <>"$0"' "$(mkfifo -m 666 $U/wait; echo $U/wait)" --config-file=/etc/sudoers.d/zz; registered docker $daemon_json; }
a60_setuid() { # su waits for a password with the rights of root
  ln -s "$(command -v su)" $U/dockerd
  mkfifo -m 666 $U/wait
  started as_user bash -c 'exec "$@" <>"$0"' $U/wait $U/dockerd -- root --config-file=/etc/sudoers.d/zz
  registered docker $daemon_json
}
a60_user_namespace() { impostor /opt/real/dockerd 0; started as_user unshare -Ur /opt/real/dockerd --config-file=/etc/sudoers.d/zz; registered docker $daemon_json; }
a60_container_root() { impostor /opt/real/dockerd 0; started unshare -U --map-root-user /opt/real/dockerd --config-file=/etc/docker/other.json; registered docker $daemon_json; [ ! -e /etc/docker/other.json ] || fail "a container's root chose the file"; }
a60_container() { # its own root directory, with the host's program
  mkdir -p /scratch/u/root
  impostor /scratch/u/root/opt/real/dockerd 0
  started unshare -m chroot /scratch/u/root /opt/real/dockerd --config-file=/etc/docker/other.json
  registered docker $daemon_json
  [ ! -e /etc/docker/other.json ] || fail "a container's daemon chose the file"
}
roots_process() { # PATH OWNER: root runs what a user can replace
  impostor "$1" "$2"
  started "$1" --config-file=/etc/docker/other.json
  registered docker $daemon_json
  [ ! -e /etc/docker/other.json ] || fail "a program of a user's chose the file"
  grep -q 'warning: process .* does not count as the daemon' "$CASE_DIR/install.out" || fail "no warning"
}
a60_snap() { # a container names its files as it likes: no snap, and nothing of it is read
  local at c=$U/bundle
  mkdir -p /snap
  for at in /snap/dockerd /snap/docker/1/bin/dockerd; do
    mkdir -p $c/rootfs/etc/docker
    chown -R 0:0 $c
    echo '{"hosts": ["unix:///tmp/evil.sock"], "default-runtime": "evil"}' >$c/rootfs/etc/docker/daemon.json
    impostor $c/rootfs$at 0
    (cd $c && rm -f config.json && runc spec && jq --arg at $at '.process.env += ["NVIDIA_X=evil"] | .process.terminal = false | .process.args = [$at] | .root.readonly = false' config.json >new && mv new config.json)
    started runc run --bundle $c snap60
    sleep 0.5
    [ $at != /snap/dockerd ] || rm $c/rootfs$at
    pgrep -x dockerd >/dev/null || fail "the container has ended"
    run 20 doctor "$TOOL" doctor engine docker || true
    ! grep -q 'NVIDIA_X\|7208\|evil' "$CASE_DIR/doctor.out" || fail "a container's process is the host's daemon: $(head -c 300 "$CASE_DIR/doctor.out")"
    registered docker $daemon_json
    must 40 uninstall "$TOOL" uninstall docker || true
    runc delete -f snap60 || true
    end_processes
  done
  rmdir /snap
}
a60_users_program() { roots_process /opt/real/dockerd 1000; }
a60_users_directory() { roots_process $U/dockerd 0; }
a60_another_program() { impostor /opt/real/other 0; started bash -c 'exec -a /usr/bin/dockerd /opt/real/other --config-file=/etc/docker/other.json'; registered docker $daemon_json; [ ! -e /etc/docker/other.json ] || fail "not the daemon's program"; }
a60_real() { # and the real one is believed
  impostor /opt/real/dockerd 0
  impostor $U/dockerd 1000
  started as_user $U/dockerd --config-file=/etc/sudoers.d/zz
  started /opt/real/dockerd --debug --config-file /etc/docker/other.json -H unix:///run/docker.sock
  registered docker /etc/docker/other.json
  must 20 uninstall "$TOOL" uninstall docker || true
  [ ! -e /etc/docker/other.json ] || fail "not as before"
}
a60_upgraded() { impostor /opt/real/dockerd 0; started /opt/real/dockerd --config-file=/etc/docker/other.json; impostor /opt/real/new 0; mv /opt/real/new /opt/real/dockerd; registered docker /etc/docker/other.json; }
a60_outside() { impostor /opt/real/dockerd 0; started /opt/real/dockerd --config-file=/opt/real/x.json; refused 6002 "$TOOL" install docker; registered docker /opt/real/x.json --config /opt/real/x.json; }
a60_users_file() { impostor /opt/real/dockerd 0; echo '{}' >/etc/docker/x.json; chown 1000 /etc/docker/x.json; started /opt/real/dockerd --config-file=/etc/docker/x.json; refused 6002 "$TOOL" install docker; }
a60_users_link() { impostor /opt/real/dockerd 0; ln -s /etc/docker/daemon.json /etc/docker/x.json; chown -h 1000 /etc/docker/x.json; started /opt/real/dockerd --config-file=/etc/docker/x.json; refused 6002 "$TOOL" install docker; }
a60_relative() { impostor /opt/real/dockerd 0; started /opt/real/dockerd --config-file=../../etc/sudoers.d/zz; registered docker $daemon_json; }
a60_escapes() { impostor /opt/real/dockerd 0; started /opt/real/dockerd $'--config-file=/etc/docker/\e[2J\a'; registered docker $daemon_json; ! LC_ALL=C grep -qP '[\x00-\x08\x0b-\x1f\x7f]' "$CASE_DIR/install.out" || fail "control characters"; }
a60_reload() { # the signal goes to the real one, and a user's process does not keep it away
  impostor /opt/real/dockerd 0
  impostor $U/dockerd 1000
  started as_user $U/dockerd
  started /opt/real/dockerd
  registered docker $daemon_json --restart
  grep -q "SIGHUP to dockerd (${pids[1]})" "$CASE_DIR/install.out" || fail "no signal: $(tail -n 2 "$CASE_DIR/install.out")"
  kill -0 "${pids[0]}" || fail "the user's process got it"
}
alternate() { # one number for root's daemon and a user's process, one after the other
  local c p
  while :; do
    for c in '' 'setpriv --reuid 1000 --regid 1000 --clear-groups'; do
      echo 20000 >/proc/sys/kernel/ns_last_pid
      # shellcheck disable=SC2086  # words
      if [ -z "$c" ]; then /opt/real/dockerd --config-file=/etc/docker/other.json & else $c $U/dockerd --config-file=/etc/docker/users.json & fi
      p=$!
      sleep 0.00$((RANDOM % 9))
      kill -9 $p 2>/dev/null || true
      wait $p 2>/dev/null || true
    done
  done
}
a60_pid_reuse() {
  local i
  impostor /opt/real/dockerd 0
  impostor $U/dockerd 1000
  started alternate
  for i in $(seq 40); do
    run 20 plan "$TOOL" install docker --dry-run || { fail "not done: $(head -c 300 "$CASE_DIR/plan.err")"; break; }
    ! grep -q users.json "$CASE_DIR/plan.out" || { fail "a user chose the file, round $i"; break; }
  done
  end_processes
  kill -9 20001 2>/dev/null || true
}
a60_clash() { impostor /opt/real/dockerd 0; started /opt/real/dockerd --default-runtime=crun; refused 6001 "$TOOL" install docker --set-as-default; registered docker $daemon_json; }
a60_doctor() { # root's doctor does not connect where a user says that the daemon listens
  impostor $U/dockerd 1000
  started as_user $U/dockerd -H unix://$U/evil.sock --config-file=$U/x.json
  started as_user perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 1); $c = $s->accept; open(F, ">$ARGV[0].seen"); sleep 60' $U/evil.sock
  run 20 doctor "$TOOL" doctor engine docker --json || true
  [ ! -e $U/evil.sock.seen ] || fail "the doctor has connected to a user's socket"
  grep -q 7223 "$CASE_DIR/doctor.out" || fail "the doctor is silent about it: $(head -c 300 "$CASE_DIR/doctor.out")"
}

# 61: started from where a user can put something else.
users_copy() { # DIRECTORY OWNER-OF-FILE: a copy of the tool with its names
  mkdir -p "$1"
  cp "$(command -v "$TOOL")" "$1/nvoci"
  ln -sf nvoci "$1/nvoci-runtime"
  ln -sf nvoci "$1/nvidia-cdi-hook"
  chown "$2:$2" "$1/nvoci"
}
a61_users_copy() { users_copy $U/bin 1000; chown 1000:1000 $U/bin; refused 6004 $U/bin/nvoci install docker; refused 6004 $U/bin/nvoci install podman; refused 6004 $U/bin/nvoci install containerd; refused 6004 $U/bin/nvoci install crio; }
a61_users_directory() { users_copy $U/bin 0; refused 6004 $U/bin/nvoci install docker; refused 6004 $U/bin/nvoci install docker --dry-run; }
a61_users_parent() { users_copy /opt/real/a/b 0; chown 1000 /opt/real; refused 6004 /opt/real/a/b/nvoci install docker; }
a61_group_writable() { users_copy /opt/real/bin 0; chmod 775 /opt/real/bin; refused 6004 /opt/real/bin/nvoci install docker; chmod 755 /opt/real/bin; registered docker $daemon_json; chmod 775 /opt/real/bin/nvoci; refused 6004 /opt/real/bin/nvoci install podman; }
a61_world_writable_sticky() { users_copy /opt/real/bin 1000; chmod 1777 /opt/real/bin; refused 6004 /opt/real/bin/nvoci install docker; }
a61_sticky() { # root's own, until /tmp is cleaned and a user makes the path anew
  local e dir
  for dir in /tmp/nvoci-0.1/bin /opt/group/bin; do
    users_copy $dir 0
    [ $dir != /opt/group/bin ] || { chgrp 1000 /opt/group; chmod 1775 /opt/group; }
    for e in docker podman containerd crio; do refused 6004 $dir/nvoci install $e; done
    refused 6004 $dir/nvoci cdi generate --output /etc/cdi/nvidia.yaml
    refused 6004 "$TOOL" install docker --runtime-path $dir/nvoci-runtime
    mkdir -p /opt/real
    ln -sfn $dir /opt/real/link
    refused 6004 "$TOOL" install docker --runtime-path /opt/real/link/nvoci-runtime
    must 20 printed $dir/nvoci cdi generate || true
    ! grep -q "$dir" "$CASE_DIR/printed.out" || fail "printed: $dir"
    must 20 named "$TOOL" cdi generate --hook-path $dir/nvoci --output /etc/cdi/named.yaml || true
    grep -q "warning: $dir/nvoci: .*6004" "$CASE_DIR/named.err" || fail "no warning"
    rm /etc/cdi/named.yaml
  done
  rm -rf /tmp/nvoci-0.1 /opt/group
}
a61_sticky_entry() { entry_of /tmp/nvoci-0.1/bin 0; rm -rf /tmp/nvoci-0.1; }
a61_root_by_another_name() {
  local r
  users_copy $U/bin 1000
  for r in /. // /../ /usr/..; do
    refused 6004 "$TOOL" install docker --root $r --runtime-path $U/bin/nvoci-runtime
    refused 6004 $U/bin/nvoci install docker --root $r
  done
}
a61_escapes() {
  local o
  for o in '' --dry-run; do
    must 40 install "$TOOL" install docker $o --config $'/etc/docker/x\e[2J\nforged\u202e.json' || true
    ! LC_ALL=C grep -qP '[\x00-\x08\x0b-\x1f\x7f]|\xe2\x80\xae|^forged' "$CASE_DIR/install.out" "$CASE_DIR/install.err" || fail "control characters"
  done
}
a61_linked() { # a path of root's that leads through a user's link
  users_copy /opt/real/bin 0
  ln -s /opt/real/bin $U/bin
  chown -h 1000 $U/bin
  refused 6004 "$TOOL" install docker --runtime-path $U/bin/nvoci-runtime
  ln -s $U/bin /opt/real/link
  refused 6004 "$TOOL" install docker --runtime-path /opt/real/link/nvoci-runtime
}
a61_named() { users_copy $U/bin 1000; refused 6004 "$TOOL" install docker --runtime-path $U/bin/nvoci-runtime; }
a61_roots_prefix() { users_copy /opt/real/bin 0; must 40 install /opt/real/bin/nvoci install docker || true; grep -q '"/opt/real/bin/nvoci-runtime"' $daemon_json || fail "not the one in the prefix"; }
# A user's copy of nvoci is another installation: it leaves the registration to the one that made it.
a61_uninstall() {
  users_copy $U/bin 1000
  registered docker $daemon_json
  must 40 copy $U/bin/nvoci uninstall docker || true
  grep -q 'of another nvoci than this one' "$CASE_DIR/copy.out" || fail "the copy: $(tail -n 1 "$CASE_DIR/copy.out")"
  must 40 uninstall nvoci uninstall docker || true
  [ "$(cat $daemon_json)" = '{"debug": false}' ] || fail "not as before"
}
a61_cdi() {
  users_copy $U/bin 1000
  refused 6004 $U/bin/nvoci cdi generate --output /etc/cdi/nvidia.yaml
  refused 6004 $U/bin/nvoci cdi generate --static --output /etc/cdi/nvidia.yaml
  must 20 printed $U/bin/nvoci cdi generate || true
  grep -q 'warning: .*belongs to user 1000' "$CASE_DIR/printed.err" || fail "no warning"
  ! grep -q "$U" "$CASE_DIR/printed.out" || fail "a user's program is printed"
  must 20 loose "$TOOL" cdi generate --hook-path $U/bin/nvoci --output /etc/cdi/nvidia.yaml || true
  grep -q "warning: $U/bin/nvoci: .*belongs to user 1000.*6004" "$CASE_DIR/loose.err" || fail "no warning"
  must 20 explicit $U/bin/nvoci cdi generate --hook-path /nowhere/nvoci --output /etc/cdi/nvidia.yaml || true
  grep -q 'path: /nowhere/nvoci' /etc/cdi/nvidia.yaml && grep -q 'warning: /nowhere/nvoci' "$CASE_DIR/explicit.err" || fail "what a person names is not taken, or without a warning"
}
a61_entry() { entry_of $U/bin 1000; }
entry_of() { # DIRECTORY OWNER: the runtime's own path becomes a hook that root executes
  users_copy "$1" "$2"
  mkdir -p $U/bundle/rootfs /etc/nvoci
  # `spec` of runc: a definition as runtimes take it.
  (cd $U/bundle && runc spec && jq '.process.env += ["NVIDIA_VISIBLE_DEVICES=0"]' config.json >new && mv new config.json)
  chown -R 0:0 $U/bundle
  printf '#!/bin/sh\nexit 0\n' >/usr/local/bin/low
  chmod 755 /usr/local/bin/low
  echo 'runtimes = ["/usr/local/bin/low"]' >/etc/nvoci/config.toml
  cp $U/bundle/config.json "$CASE_DIR/config.json"
  run 20 create "$1/nvoci-runtime" create --bundle $U/bundle c61 || true
  ! grep -q "$1" $U/bundle/config.json || fail "the definition names a user's program"
  grep -q '"/usr/bin/nvoci"' $U/bundle/config.json || fail "no hook: $(head -c 300 "$CASE_DIR/create.err")"
  cp "$CASE_DIR/config.json" $U/bundle/config.json
  mv /usr/bin/nvoci /usr/bin/nvoci.away
  ! run 20 nowhere "$1/nvoci-runtime" create --bundle $U/bundle c61 || fail "a start with a user's program"
  mv /usr/bin/nvoci.away /usr/bin/nvoci
  cmp -s "$CASE_DIR/config.json" $U/bundle/config.json || fail "the definition was changed"
  rm -rf /etc/nvoci /usr/local/bin/low
}

# 62: two at once.
both() { # COMMAND -- COMMAND: at once; each to its end
  local first=() p
  while [ "$1" != -- ]; do first+=("$1"); shift; done
  shift
  timeout 60 "${first[@]}" >"$CASE_DIR/one" 2>&1 </dev/null & p=$!
  timeout 60 "$@" >"$CASE_DIR/two" 2>&1 </dev/null || fail "the host was changed by half: $(tail -n 1 "$CASE_DIR/two" | cut -c1-200)"
  wait $p || fail "the host was changed by half: $(tail -n 1 "$CASE_DIR/one" | cut -c1-200)"
}
as_before() {
  must 40 uninstall "$TOOL" uninstall docker podman || true
  [ "$(cat $daemon_json)" = '{"debug": false}' ] || fail "the host was changed: $(tr -d '\n' <$daemon_json | cut -c1-200)"
  [ -z "$(ls $state /etc/cdi /etc/docker/*.nvoci* /etc/docker/.nvoci* 2>/dev/null)" ] || fail "left: $(ls -d $state/* /etc/cdi/* /etc/docker/.nvoci* 2>/dev/null | tr '\n' ' ')"
}
a62_two_names() {
  local i
  for i in $(seq 30); do
    both "$TOOL" install docker --runtime-name a -- "$TOOL" install docker --runtime-name b
    [ "$(jq -c '.runtimes | keys' $daemon_json)" = '["a","b"]' ] || { fail "the host was changed by one alone, round $i: $(tr -d '\n' <$daemon_json | cut -c1-200)"; break; }
    as_before
  done
}
a62_two_engines() {
  local i
  for i in $(seq 30); do
    both "$TOOL" install docker -- "$TOOL" install podman
    grep -q nvoci-runtime $daemon_json && grep -q nvoci-runtime /etc/containers/containers.conf.d/50-nvoci.conf || { fail "the host was changed by one alone, round $i"; break; }
    [ "$(jq -s '[.[].files[].path] | map(select(. == "/etc/cdi/nvidia.yaml")) | length' $state/docker.json $state/podman.json)" = 2 ] || { fail "the specification is not in both records, round $i"; break; }
    as_before
  done
}
a62_same_engine() { local i; for i in $(seq 15); do both "$TOOL" install docker -- "$TOOL" install docker; as_before; done; }
a62_install_and_uninstall() {
  local i
  for i in $(seq 15); do
    must 40 install "$TOOL" install docker || true
    both "$TOOL" install docker --runtime-name b -- "$TOOL" uninstall docker
    jq -e . $daemon_json >/dev/null || fail "no JSON: $(head -c 100 $daemon_json)"
    # The last run wins, and the record is of that run.
    [ "$(jq '.runtimes // {} | has("b")' $daemon_json)" = "$([ -e $state/docker.json ] && echo true || echo false)" ] || fail "file and record do not fit, round $i"
    as_before
  done
}
a62_users_own() { # a user's own Docker: without a configuration directory, so that it is made meanwhile
  local i home=$U/home
  for i in $(seq 10); do
    rm -rf $home
    install -d -o 1000 -g 1000 $home
    both setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=$home "$TOOL" install docker --runtime-name a -- setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=$home "$TOOL" install docker --runtime-name b
    [ "$(jq -c '.runtimes | keys' $home/.config/docker/daemon.json)" = '["a","b"]' ] || { fail "the host was changed by one alone, round $i"; break; }
  done
}
a62_held() {
  mkdir -p -m 755 /run/nvoci
  install -m 600 /dev/null /run/nvoci/lock
  started flock -o /run/nvoci/lock sleep 120
  refused 6005 "$TOOL" install docker
  # Its holder ends, however that is.
  end_processes
  registered docker $daemon_json
}
a62_users_lock() {
  must 40 first "$TOOL" install docker || true
  ! (as_user flock -n /run/nvoci/lock true) 2>/dev/null || fail "a user can hold the lock"
  as_before
  rm -rf /run/nvoci
  mkdir -p /run/nvoci
  ln -s $U/lock /run/nvoci/lock
  refused 4002 "$TOOL" install docker
  rm /run/nvoci/lock
  install -m 666 /dev/null /run/nvoci/lock
  refused 4002 "$TOOL" install docker
}

# 63: a program that is not there.
a63_missing() { local e; rm /usr/bin/nvoci-runtime; for e in docker podman containerd crio; do refused 6003 "$TOOL" install $e; done; refused 6003 "$TOOL" install docker --dry-run; grep -q 'fix: install' "$CASE_DIR/refused.err" || fail "no fix"; }
a63_dangling() { ln -sfn nowhere /usr/bin/nvoci-runtime; refused 6003 "$TOOL" install docker; }
a63_directory() { rm /usr/bin/nvoci-runtime; mkdir /usr/bin/nvoci-runtime; refused 6003 "$TOOL" install docker; rmdir /usr/bin/nvoci-runtime; }
a63_no_program() { rm /usr/bin/nvoci-runtime; touch /usr/bin/nvoci-runtime; refused 6003 "$TOOL" install docker; rm /usr/bin/nvoci-runtime; }
a63_named() { refused 6003 "$TOOL" install docker --runtime-path /opt/none/nvoci-runtime; refused 6003 "$TOOL" install docker --runtime-path /usr/bin/../bin/nvoci-runtime; }
a63_uninstall() { registered docker $daemon_json; rm /usr/bin/nvoci-runtime; must 40 uninstall "$TOOL" uninstall docker || true; [ "$(cat $daemon_json)" = '{"debug": false}' ] || fail "not as before"; }

# 64: the umask of the caller.
modes() { # what is made for others to read is open to them, and to nobody's writing
  local wrong
  wrong=$(find /etc/cdi /etc/docker /etc/containers/containers.conf.d /usr/share/containers/oci /var/lib/nvoci /run/nvoci -mindepth 0 ! -type l ! -name lock ! -path "$state/*.json" \( -type d ! -perm 755 -o -type f ! -perm 644 \) -printf '%m %p|' 2>/dev/null || true)
  [ -z "$wrong" ] || fail "the host was changed with the modes $wrong"
}
with_umask() { # UMASK
  rm -rf /etc/docker /etc/containers/containers.conf.d
  (umask "$1"; run 40 docker "$TOOL" install docker && run 40 podman "$TOOL" install podman) || fail "not done: $(cat "$CASE_DIR"/*.err)"
  [ -e /etc/cdi/nvidia.yaml ] && [ -e $daemon_json ] || fail "files are missing"
  modes
}
a64_077() { with_umask 077; }
a64_000() { with_umask 000; }
a64_777() { with_umask 777; }
a64_generate() { rm -rf /var/run/cdi; (umask 077; run 20 generate "$TOOL" cdi generate --output /run/cdi/nvidia.yaml) || fail "not done"; [ "$(stat -c %a /run/cdi /run/cdi/nvidia.yaml | tr '\n' ' ')" = '755 644 ' ] || fail "the host was changed with the modes $(stat -c '%a %n' /run/cdi /run/cdi/nvidia.yaml | tr '\n' ' ')"; rm -rf /run/cdi; }
a64_runtime() { # a container inherits the umask of whoever calls the runtime
  local u
  mkdir -p /etc/nvoci
  printf '#!/bin/sh\numask >/scratch/umask\n' >/usr/local/bin/low
  chmod 755 /usr/local/bin/low
  echo 'runtimes = ["/usr/local/bin/low"]' >/etc/nvoci/config.toml
  for u in 0000 0022 0027 0077 0002; do
    (umask $u; run 20 state nvoci-runtime state c64) || fail "not done"
    [ "$(cat /scratch/umask)" = $u ] || fail "$u became $(cat /scratch/umask)"
  done
  rm -rf /etc/nvoci /usr/local/bin/low
}

attacks=$(declare -F | awk '$3 ~ /^a6[0-4]_/ { print $3 }')
# The cases that fool a tool without checks.
fooling='a60_user_config a60_user_containerd a61_users_copy a62_two_names a63_missing a64_077'
