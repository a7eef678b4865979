# shellcheck shell=bash disable=SC2034,SC2154  # what a case sets is read by `inside`
# The attacker is another user of the host, uid 1000, or a container that has the host's /tmp as a volume: he puts links, directories and
# sockets where nvoci looks for the driver's files and its daemons' sockets, and a container of his reaches what nvoci binds.
injected='createRuntime createContainer entry'

# The container reports the sockets that it reaches, the files that it can write, and nvoci's
# warnings.
teller() {
  cat >"$R/tell.pl" <<'E2'
use Socket;
sub look { my ($dir, $depth) = @_;
  opendir my $d, $dir or return;
  for (sort readdir $d) { next if /^\.\.?$/; my $at = "$dir/$_";
    if (-S $at) { socket my $s, AF_UNIX, SOCK_STREAM, 0; chdir $dir; connect($s, pack_sockaddr_un($_)) or $!{ECONNREFUSED} or next; print "reached $at\n" }
    elsif (-d $at && !-l $at && $depth < 4) { look($at, $depth + 1) } } }
look($_, 0) for "/tmp/nvidia-mps", "/usr/local/nvidia/run", "/usr/local/nvidia/share", "/usr/local/nvidia/site", "/run";
for ("/tmp/nvidia-mps", "/tmp/nvidia-mps/canary", "/usr/local/nvidia/run/nvidia-mps") { next unless -d; if (open my $f, ">", "$_/pwned") { print "wrote $_\n" } }
if (open my $f, "<", "/usr/local/nvidia/.nvoci.json") { local $/; my $t = <$f>; print "warned $1\n" while $t =~ /"((?:[^"\\]|\\.)*(?:\[NVOCI-4[0-9]*\]|CAP_SYS_ADMIN)(?:[^"\\]|\\.)*)"/g }
print "told\n";
E2
}
sources() { WAYS=$injected EXPECT=started JQ='.process.args = ["/usr/bin/perl", "/tell.pl"]'; }
put_socket() { mkdir -p "$(dirname "$1")"; perl -MSocket -e 'socket S, AF_UNIX, SOCK_STREAM, 0; chdir $ARGV[0]; unlink $ARGV[1]; bind S, pack_sockaddr_un($ARGV[1]) or die $!; chmod 0777, $ARGV[1]' "$(dirname "$1")" "$(basename "$1")"; }
unplant() {
  umount -l /run/nvidia-persistenced/socket 2>/dev/null || true
  rm -rf /tmp/nvidia-mps /run/nvidia-persistenced /run/nvidia-fabricmanager /run/docker.sock /run/udev /run/site /home/victim /srv/u
}
# told [WARNING]: the container's report is harmless, and the record has a warning for each part
# that was left out.
told() {
  has "$CASE_DIR/start.out" '^told' 'nothing was tried'
  ! grep -q '^wrote' "$CASE_DIR/start.out" || fail "a directory of the host could be written to: $(grep -m 1 '^wrote' "$CASE_DIR/start.out")"
  ! grep -q '^reached' "$CASE_DIR/start.out" || fail "another socket of the host was reached: $(grep -m 1 '^reached' "$CASE_DIR/start.out")"
  [ -z "${1:-}" ] || grep -qE "^warned .*$1" "$CASE_DIR/start.out" || fail "nothing says that it was left out, and why"
  stated
  unplant
}
# The specification with every file names nothing by a link, and nothing that others can replace; nor does the list that other tools mount.
stated() {
  local mode path at
  for mode in '' management gds; do
    nvoci cdi generate --static ${mode:+--mode $mode} --format json >"$CASE_DIR/static$mode.json" 2>"$CASE_DIR/static$mode.err" </dev/null || continue
    jq -r '[.containerEdits, .devices[].containerEdits] | .[].mounts[]?.hostPath' "$CASE_DIR/static$mode.json" >"$CASE_DIR/paths"
    while IFS= read -r path; do
      [ "$(realpath "$path")" = "$path" ] && [ "$path" != / ] || fail "the static specification names a link, $path"
      at=$path
      while [ "$at" != / ]; do
        [ "$(stat -c %u "$at")" = 0 ] || fail "the static specification names what belongs to another user, $at"
        at=$(dirname "$at")
        case $(stat -c %A "$at") in ????????w* | ?????w*) fail "the static specification names something in $at, where others can put entries" ;; esac
      done
      [ ! -d "$path" ] || [ -z "$(find "$path" -type s 2>/dev/null)" ] || fail "the static specification names a directory with a socket, $path"
    done <"$CASE_DIR/paths"
  done
  ln -sf nvoci /usr/bin/nvidia-container-cli
  nvidia-container-cli list --ipcs >"$CASE_DIR/ipcs" 2>"$CASE_DIR/ipcs.err" </dev/null || true
  while IFS= read -r path; do [ "$(realpath "$path")" = "$path" ] || fail "nvidia-container-cli lists a link, $path"; done <"$CASE_DIR/ipcs"
  no_control "$CASE_DIR"/static*.err "$CASE_DIR/ipcs.err"
}
others='another socket of the host was reached'
wrote='a directory of the host could be written to'

mps() { sources; ENVS+=(NVIDIA_DRIVER_CAPABILITIES=compute,utility); BITE=$wrote; check() { told nvidia-mps; }; }
as_user() { setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
t_50_root() { mps; BITE=$changed; trick() { teller; as_user ln -s / /tmp/nvidia-mps; }; }
t_50_directory() { mps; trick() { teller; install -d -o 1000 -m 777 /tmp/nvidia-mps; }; }
t_50_others_directory() { mps; trick() { teller; install -d -o 1001 -m 777 /home/victim; as_user ln -s /home/victim /tmp/nvidia-mps; }; }
t_50_roots_link() { mps; trick() { teller; install -d -m 755 /home/victim; ln -s /home/victim /tmp/nvidia-mps; }; }
# As root's MPS daemon makes it, and a user has put a socket of his there.
t_50_open() { mps; trick() { teller; mkdir -m 777 /tmp/nvidia-mps; chmod 777 /tmp/nvidia-mps; put_socket /tmp/nvidia-mps/control; chown 1000 /tmp/nvidia-mps/control; }; }
t_50_sticky() { mps; trick() { teller; mkdir /tmp/nvidia-mps; chmod 1777 /tmp/nvidia-mps; put_socket /tmp/nvidia-mps/evil; }; }
t_50_group() { mps; trick() { teller; mkdir /tmp/nvidia-mps; chgrp 1000 /tmp/nvidia-mps; chmod 775 /tmp/nvidia-mps; }; }
t_50_socket() { mps; BITE=''; trick() { teller; put_socket /tmp/nvidia-mps; }; }
t_50_fifo() { mps; BITE=''; trick() { teller; as_user mkfifo /tmp/nvidia-mps; }; }
# A directory and a link, one after the other, for as long as the container starts.
t_50_race() {
  mps
  BITE='' TOUCHES='[A-Z,-]+ /tmp/nvidia-mps(\.d)? by perl'
  trick() {
    teller
    setpriv --reuid 1000 --regid 1000 --clear-groups perl -e 'select undef, undef, undef, 0.5; mkdir "/tmp/nvidia-mps.d"; for (1 .. 400000) { rename "/tmp/nvidia-mps.d", "/tmp/nvidia-mps"; rename "/tmp/nvidia-mps", "/tmp/nvidia-mps.d"; symlink "/", "/tmp/nvidia-mps"; unlink "/tmp/nvidia-mps" }' >/dev/null 2>&1 </dev/null &
    racer=$!
  }
  check() {
    kill $racer 2>/dev/null || true
    wait $racer 2>/dev/null || true
    rm -rf /tmp/nvidia-mps.d
    told
  }
}
# The administrator named the user: his directory is given, and no link of his.
users_mps='mps-dir = "/srv/u/mps"
mps-user = 1000'
t_50_configured() {
  mps
  POLICY=$users_mps BITE=''
  trick() { teller; install -d -o 1000 -m 755 /srv/u /srv/u/mps; put_socket /srv/u/mps/control; chown 1000 /srv/u/mps/control; }
  check() { has "$CASE_DIR/start.out" '^reached /usr/local/nvidia/run/nvidia-mps/control' "the configured user's daemon is not there"; sed -i '/^reached.*nvidia-mps/d' "$CASE_DIR/start.out"; told; }
}
t_50_configured_link() { mps; POLICY=$users_mps BITE=''; trick() { teller; install -d -o 1000 -m 755 /srv/u; put_socket /run/docker.sock; as_user ln -s /run /srv/u/mps; }; check() { told /srv/u/mps; }; }
t_50_configured_parent() { mps; POLICY='mps-dir = "/srv/u/x/mps"
mps-user = 1000'; BITE=''; trick() { teller; install -d -o 1000 -m 755 /srv/u; install -d -o 1000 -m 755 /home/victim /home/victim/mps; as_user ln -s /home/victim /srv/u/x; }; check() { told /srv/u/x; }; }
t_50_configured_other() { mps; POLICY=$users_mps BITE=''; trick() { teller; install -d -o 1001 -m 755 /srv/u/mps; }; check() { told /srv/u/mps; }; }

daemon() { sources; BITE=$others; check() { told "nvidia-$1"; }; }
persistenced() { daemon persistenced; check() { told nvidia-persistenced; }; }
its=/run/nvidia-persistenced
t_51_link() { persistenced; trick() { teller; put_socket /run/docker.sock; install -d -o 990 $its; ln -s /run/docker.sock $its/socket; chown -h 990 $its/socket; }; }
t_51_relative_link() { persistenced; trick() { teller; put_socket /run/docker.sock; mkdir $its; ln -s ../docker.sock $its/socket; }; }
t_51_link_of_directory() { persistenced; trick() { teller; put_socket /home/victim/socket; ln -s /home/victim $its; }; }
t_51_hard_link() { persistenced; trick() { teller; put_socket /run/docker.sock; mkdir $its; ln /run/docker.sock $its/socket; }; }
t_51_mounted() { persistenced; trick() { teller; put_socket /run/docker.sock; mkdir $its; : >$its/socket; mount --bind /run/docker.sock $its/socket; }; check() { umount $its/socket; told nvidia-persistenced; }; }
t_51_not_its_own() { persistenced; trick() { teller; put_socket $its/socket; chown 990 $its; }; }
t_51_writable() { persistenced; trick() { teller; put_socket $its/socket; chmod 777 $its; }; }
t_51_sticky() { persistenced; trick() { teller; put_socket $its/socket; chmod 1777 $its; }; }
t_51_fabricmanager() { sources; BITE=$others; trick() { teller; put_socket /run/docker.sock; mkdir /run/nvidia-fabricmanager; ln -s /run/docker.sock /run/nvidia-fabricmanager/socket; }; check() { told nvidia-fabricmanager; }; }
# The daemon as it is, root's or with a user of its own, is given.
given() { has "$CASE_DIR/start.out" '^reached /usr/local/nvidia/run/nvidia-persistenced' "the daemon's socket is not there"; sed -i '/^reached.*nvidia-persistenced/d' "$CASE_DIR/start.out"; told; }
t_51_roots() { persistenced; BITE=''; trick() { teller; put_socket $its/socket; }; check() { given; }; }
t_51_users() { persistenced; BITE=''; trick() { teller; put_socket $its/socket; chown 990 $its $its/socket; }; check() { given; }; }

# No mount stops a container with this right; a warning reports it.
t_92_remounts() { sources; JQ+=' | .process.capabilities |= map_values(. + ["CAP_SYS_ADMIN"])'; BITE=''; trick() { teller; }; check() { told CAP_SYS_ADMIN; }; }

# Where the host keeps libcuda, every copy of it.
host_dirs() { local f; for f in $HOST_CUDA; do dirname "$f"; done | sort -u; }
driver() { WAYS=$requests EXPECT=refused BITE='the container started'; }
t_52_directory() { driver; trick() { local d; for d in $(host_dirs); do chown 1000 "$d"; done; }; check() { local d; for d in $(host_dirs); do chown 0 "$d"; done; }; }
t_52_directory_mode() { driver; trick() { local d; for d in $(host_dirs); do chmod 777 "$d"; done; }; undo() { local d; for d in $(host_dirs); do chmod 755 "$d"; done; }; }
t_52_far_above() { driver; trick() { chmod 777 /usr; }; undo() { chmod 755 /usr; }; }
links_of_cuda() { local f; for f in $HOST_CUDA; do find "$(dirname "$f")" -maxdepth 1 -type l -name 'libcuda.so*'; done; }
t_52_link_owner() { driver; trick() { local f; for f in $(links_of_cuda); do chown -h 1000 "$f"; done; }; undo() { local f; for f in $(links_of_cuda); do chown -h 0 "$f"; done; }; }
# The administrator's directory is below a user's, who can put another in its place.
t_52_library_dirs() {
  driver
  POLICY='ldcache = "/none"
library-dirs = ["/srv/u/lib"]'
  BITE=''
  trick() { local f; mkdir -p /srv/u/lib; for f in $HOST_CUDA; do cp -a "$(dirname "$f")"/libcuda.so* "$(dirname "$f")"/libnvidia-ml.so* /srv/u/lib; done; chown 1000 /srv/u; }
  check() { unplant; }
}
t_52_extra() { sources; WAYS='createRuntime createContainer' POLICY='[[extra]]
files = ["/run/site"]'; BITE=''; trick() { teller; put_socket /run/site/a/b/socket; }; check() { told /run/site; }; }

gds() { sources; ENVS+=(NVIDIA_GDS=enabled); POLICY='accept-gated-unprivileged = true'; BITE=$others; }
t_53_control() { gds; trick() { teller; mkdir -p /run/udev/data; echo x >/run/udev/data/b259:0; put_socket /run/udev/control; }; check() { told; }; }
t_53_deeper() { gds; trick() { teller; put_socket /run/udev/data/a/control; }; check() { told 'holds the socket'; }; }
t_53_link() { gds; BITE=''; trick() { teller; put_socket /run/site/control; mkdir /run/udev; ln -s /run/site /run/udev/data; }; check() { told 'holds the socket'; }; }

# All of it at once, for commands that write a specification; `stated` checks it.
t_54_static() {
  sources
  WAYS=createRuntime BITE=''
  trick() {
    teller
    as_user ln -s / /tmp/nvidia-mps
    put_socket /run/docker.sock
    mkdir -p $its /run/udev/data
    ln -s /run/docker.sock $its/socket
    put_socket /run/udev/control
  }
  check() { told; [ -s "$CASE_DIR/static.json" ] || fail "no static specification: $(tail -n 1 "$CASE_DIR/static.err")"; grep -q 'NVOCI-400' "$CASE_DIR/static.err" || fail 'nothing is said of what was left out'; }
}
# A root-owned file in /tmp may be removed, and another user may take its name. So a name there is
# no source for a file that is read later.
t_54_later() { sources; WAYS=createRuntime BITE=''; POLICY='ipc-sockets = false'; trick() { teller; mkdir -m 755 /tmp/nvidia-mps; install -d -o 990 $its; put_socket $its/socket; chown 990 $its/socket; }; check() { told; }; }

# fuse_of_user PLACE FILE MODE: the user's FUSE on a directory with FILE in it, or on FILE itself,
# as fusermount makes it with `allow_other`. It reports root as the owner of all its files.
fuse_of_user() {
  cat >"$CASE_DIR/serve" <<'E2'
# From linux/fuse.h: the replies to INIT, LOOKUP, GETATTR, OPEN, READ and OPENDIR. 1 is its root, 2
# the only file in it.
my $is_tree = shift;
alarm 60;
open my $fuse, '+<&=', shift or die;
sub attr { my $is_dir = $is_tree && $_[0] == 1; pack 'Q6 L10', $_[0], $is_dir ? 4096 : 5, (0) x 7, $is_dir ? 040755 : 0100644, 1, 0, 0, 0, 4096, 0 }
while (sysread $fuse, my $request, 1 << 18) {
    my ($length, $call, $unique, $node) = unpack 'L L Q Q', $request;
    next if $call == 2;
    my $is_file = substr($request, 40) =~ /^file\0/;
    my $answer = $call == 26 ? pack('L16', 7, 31, 0, 0, 0, 4096, (0) x 10)
      : $call == 1 && $is_file ? pack('Q4 L2', 2, 0, 0, 0, 0, 0) . attr(2)
      : $call == 3 ? pack('Q L2', 0, 0, 0) . attr($node)
      : $call == 14 || $call == 27 ? pack('Q L2', 1, 0, 0)
      : $call == 15 ? (unpack('Q', substr $request, 48, 8) ? '' : "evil\n") : undef;
    syswrite $fuse, pack('L l Q', 16 + length($answer // ''), defined $answer ? 0 : -2, $unique) . ($answer // '');
}
E2
  local fd
  exec {fd}<>/dev/fuse
  mount -i -t fuse -o fd=$fd,rootmode=$3,user_id=1000,group_id=1000,allow_other users "$1"
  # By its text: the user may not enter a directory of results that `mktemp -d` made.
  as_user perl -e "$(cat "$CASE_DIR/serve")" $(($3 == 40755)) $fd >/dev/null 2>&1 </dev/null &
  server=$!
  exec {fd}>&-
  grep -qx evil "$2" || fail 'the user serves no file'
}
fuse() { # PLACE FILE
  sources
  WAYS='createRuntime createContainer' BITE='' POLICY="[[extra]]
files = [\"$2\"]"
  eval "check() { served $1; }"
}
served() { # PLACE
  stated
  ! grep -q "\"$1" "$CASE_DIR/static.json" || fail "the static specification names what a user serves"
  umount -l "$1"
  kill $server 2>/dev/null || true
  told "$1: a user.s file system"
}
t_83_home() { fuse /home/victim /home/victim/file; trick() { teller; install -d -o 1000 -m 755 /home/victim; fuse_of_user /home/victim /home/victim/file 40755; }; }
t_83_file() { fuse /run/site/file /run/site/file; trick() { teller; mkdir -p /run/site; : >/run/site/file; chown 1000 /run/site/file; fuse_of_user /run/site/file /run/site/file 100644; }; }
# Root's own driver root in `/tmp`: the files are removed after a time, and another user can take
# the names.
t_84_driver_root() {
  sources
  WAYS=createRuntime BITE='' POLICY='driver-root = "/tmp/driver"'
  trick() {
    teller
    local f
    mkdir -p /tmp/driver/etc
    cp /etc/ld.so.cache /tmp/driver/etc
    ln -s usr/lib /tmp/driver/lib
    for f in $HOST_CUDA; do f=$(dirname "$f"); mkdir -p "/tmp/driver$f"; cp -a "$f"/libcuda.so* "$f"/libnvidia-ml.so* "/tmp/driver$f"; done
  }
  check() { told; grep -q 'NVOCI-4002' "$CASE_DIR/static.err" || fail 'nothing is said of why nothing is named'; rm -rf /tmp/driver; }
}
