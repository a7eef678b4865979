//! The attacker is another user of the host, uid 1000, or a container that has the host's /tmp as a
//! volume: he puts links, directories and sockets where nvoci searches for the driver's files and
//! its daemons' sockets, and a container of his reaches what nvoci binds.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::prelude::*;
use crate::caller;

/// The attacker, and another user.
const USER: u32 = 1000;
const OTHER: u32 = 1001;
/// The user of a daemon.
const DAEMON: u32 = 990;

const MPS: &str = "/tmp/nvidia-mps";
const DAEMONS: &str = "/run/nvidia-persistenced";
const SOCKET: &str = "/run/nvidia-persistenced/socket";
const DOCKER: &str = "/run/docker.sock";
const VICTIM: &str = "/home/victim";

/// The container's program. It reports the sockets that it reaches, the files that it can write,
/// and nvoci's warnings.
const TELLER: &str = r#"use Socket;
sub search { my ($dir, $depth) = @_;
  opendir my $d, $dir or return;
  for (sort readdir $d) { next if /^\.\.?$/; my $at = "$dir/$_";
    if (-S $at) { socket my $s, AF_UNIX, SOCK_STREAM, 0; chdir $dir; connect($s, pack_sockaddr_un($_)) or $!{ECONNREFUSED} or next; print "reached $at\n" }
    elsif (-d $at && !-l $at && $depth < 4) { search($at, $depth + 1) } } }
search($_, 0) for "/tmp/nvidia-mps", "/usr/local/nvidia/run", "/usr/local/nvidia/share", "/usr/local/nvidia/site", "/run";
for ("/tmp/nvidia-mps", "/tmp/nvidia-mps/canary", "/usr/local/nvidia/run/nvidia-mps") { next unless -d; if (open my $f, ">", "$_/pwned") { print "wrote $_\n" } }
if (open my $f, "<", "/usr/local/nvidia/.nvoci.json") { local $/; my $t = <$f>; print "warned $1\n" while $t =~ /"((?:[^"\\]|\\.)*(?:\[NVOCI-4[0-9]*\]|CAP_SYS_ADMIN)(?:[^"\\]|\\.)*)"/g }
print "done\n";
"#;

/// A container that reports what it reaches.
const REPORTS: Case = Case {
    trick: |image| image.file("tell.pl", TELLER),
    request: edited(|spec| program(spec, &["/usr/bin/perl", "/tell.pl"])),
    ways: &[Way::CreateRuntime, Way::CreateContainer, Way::Entry],
    expect: Expect::always(Started),
    check: |after| is_harmless(after, None),
    ..Case::HARMLESS
};

/// The container's report has nothing of the host's, and the record a warning with these words.
fn is_harmless(after: &mut After<'_, '_>, warning: Option<&str>) -> io::Result<()> {
    is_harmless_but(after, warning, "\n")
}

/// The same, but for sockets with `granted` in their path.
fn is_harmless_but(after: &mut After<'_, '_>, warning: Option<&str>, granted: &str) -> io::Result<()> {
    let is_tried = after.line("done").is_some();
    after.proves(is_tried, "nothing was tried");
    let wrote = after.line("wrote").map(str::to_owned);
    let text = format!("a directory of the host could be written to: {wrote:?}");
    after.must(wrote.is_none(), text);
    let mut reached = after.output().lines().filter(|line| line.starts_with("reached"));
    let foreign = reached.find(|line| !line.contains(granted));
    let text = format!("another socket of the host was reached: {foreign:?}");
    after.must(foreign.is_none(), text);
    if let Some(words) = warning {
        let mut lines = after.output().lines();
        let warned = lines.any(|line| line.starts_with("warned ") && line.contains(words));
        after.must(warned, format!("nothing says that {words} was left out, and why"));
    }
    specification_is_closed(after)
}

/// The container reached the daemon's own socket, and no other.
fn is_given(after: &mut After<'_, '_>, daemon: &str) -> io::Result<()> {
    let at = format!("/usr/local/nvidia/run/{daemon}");
    let reached = after.line(&format!("reached {at}")).is_some();
    after.proves(reached, format!("the daemon's socket is not there: {at}"));
    is_harmless_but(after, None, daemon)
}

/// The specification with every file names nothing by a link, and nothing that others can replace;
/// nor does the list that other tools mount.
fn specification_is_closed(after: &mut After<'_, '_>) -> io::Result<()> {
    for mode in [None, Some("management"), Some("gds")] {
        let name = format!("static-{}", mode.unwrap_or("usual"));
        let mut command = vec!["nvoci", "cdi", "generate", "--static", "--format", "json"];
        command.extend(mode.iter().flat_map(|mode| ["--mode", mode]));
        let printed = after.run(&name, 20, &command)?;
        after.has_no_control(&name, &printed.err);
        if printed.status != 0 {
            continue;
        }
        for path in host_paths(&printed.out)? {
            if let Some(why) = is_open(Path::new(&path))? {
                after.must(false, format!("the static specification names {why}: {path}"));
            }
        }
    }
    caller::link_container_cli("nvoci")?;
    let list = after.run("ipcs", 20, &["nvidia-container-cli", "list", "--ipcs"])?;
    after.has_no_control("the list", &list.err);
    for path in list.out.lines() {
        let holds = is_real(Path::new(path))?;
        after.must(holds, format!("nvidia-container-cli lists a link, {path}"));
    }
    Ok(())
}

/// The host paths of a specification's mounts.
fn host_paths(specification: &str) -> io::Result<BTreeSet<String>> {
    let spec: Value = serde_json::from_str(specification)?;
    let devices = spec["devices"].as_array().into_iter().flatten();
    let all = devices.chain([&spec]);
    let mounts = all.flat_map(|part| part["containerEdits"]["mounts"].as_array().into_iter().flatten());
    let paths = mounts.filter_map(|mount| mount["hostPath"].as_str());
    Ok(paths.map(str::to_owned).collect())
}

/// No component of a path of the host is a link.
#[expect(clippy::disallowed_methods, reason = "no path of a container")]
fn is_real(path: &Path) -> io::Result<bool> {
    Ok(fs::canonicalize(path)? == path)
}

/// Why another user than root decides what is at a path.
fn is_open(path: &Path) -> io::Result<Option<&'static str>> {
    if !is_real(path)? || path == Path::new("/") {
        return Ok(Some("a link"));
    }
    for at in path.ancestors().filter(|at| at.parent().is_some()) {
        if at.metadata()?.uid() != 0 {
            return Ok(Some("what belongs to another user"));
        }
    }
    for directory in path.ancestors().skip(1) {
        if directory.metadata()?.mode() & 0o022 != 0 {
            return Ok(Some("something in a directory where others can put entries"));
        }
    }
    Ok(has_socket(path)?.then_some("a directory with a socket"))
}

fn has_socket(path: &Path) -> io::Result<bool> {
    if !path.is_dir() {
        return Ok(false);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_socket() || kind.is_dir() && has_socket(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A link of a user's.
fn users_link(scene: &mut Scene<'_>, path: &str, target: &str) -> io::Result<()> {
    scene.link(path, target)?;
    std::os::unix::fs::lchown(path, Some(USER), Some(USER))
}

/// A user's directory of pipes must be left out.
const PIPES: Case = Case {
    request: Request {
        env: &[
            "NVIDIA_VISIBLE_DEVICES=0",
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        ],
        ..REPORTS.request
    },
    check: |after| is_harmless(after, Some("nvidia-mps")),
    ..REPORTS
};
/// The administrator named the user: his directory is given, and no link of his.
const USERS_MPS: &str = "mps-dir = \"/srv/u/mps\"\nmps-user = 1000";

pub(crate) const MPS_PIPES: Class = Class {
    number: 50,
    attack: "`/tmp/nvidia-mps` is another user's: a link to `/`, a directory, one that others can write to, one after the other",
    decision: "left out, with a warning; a user's own only where `mps-dir` and `mps-user` name it; nothing is bound writable",
    also: &["src/sys/source.rs::the_pipes_are_in_a_directory_that_its_owner_alone_writes_to"],
    cases: &[
        Case {
            id: "50_root",
            why: "the pipes' directory is a user's link to the root directory",
            host: |scene| users_link(scene, MPS, "/"),
            bites: CHANGES_THE_HOST,
            ..PIPES
        },
        Case {
            id: "50_directory",
            why: "the pipes' directory is a user's",
            host: |scene| scene.directory_of(MPS, USER, 0o777),
            bites: CHECK,
            ..PIPES
        },
        Case {
            id: "50_others_directory",
            why: "the pipes' directory is a user's link to another user's directory",
            host: |scene| {
                scene.directory_of(VICTIM, OTHER, 0o777)?;
                users_link(scene, MPS, VICTIM)
            },
            bites: CHECK,
            ..PIPES
        },
        Case {
            id: "50_roots_link",
            why: "the pipes' directory is root's link to a directory of root's",
            host: |scene| {
                scene.directory(VICTIM)?;
                scene.link(MPS, VICTIM)
            },
            bites: CHECK,
            ..PIPES
        },
        Case {
            id: "50_open",
            why: "the pipes' directory is root's, as its daemon makes it, and has a user's socket",
            host: |scene| {
                scene.directory_of(MPS, 0, 0o777)?;
                scene.socket("/tmp/nvidia-mps/control")?;
                chown("/tmp/nvidia-mps/control", Some(USER), None)
            },
            bites: CHECK,
            ..PIPES
        },
        Case {
            id: "50_sticky",
            why: "everybody may put a socket into the pipes' directory",
            host: |scene| {
                scene.directory_of(MPS, 0, 0o1777)?;
                scene.socket("/tmp/nvidia-mps/evil")
            },
            bites: CHECK,
            ..PIPES
        },
        Case {
            id: "50_group",
            why: "a group may write to the pipes' directory",
            host: |scene| {
                scene.directory_of(MPS, 0, 0o775)?;
                chown(MPS, None, Some(USER))
            },
            bites: CHECK,
            ..PIPES
        },
        Case {
            id: "50_socket",
            why: "a socket is in the place of the pipes' directory",
            host: |scene| scene.socket(MPS),
            ..PIPES
        },
        Case {
            id: "50_fifo",
            why: "a user's FIFO is in the place of the pipes' directory",
            host: |scene| {
                scene.fifo(MPS)?;
                chown(MPS, Some(USER), Some(USER))
            },
            ..PIPES
        },
        Case {
            id: "50_race",
            why: "the pipes' directory is a user's directory and a link, for as long as the container starts",
            host: |scene| {
                let exchange = "select undef, undef, undef, 0.5; mkdir '/tmp/nvidia-mps.d'; for (1 .. 400000) { rename '/tmp/nvidia-mps.d', '/tmp/nvidia-mps'; rename '/tmp/nvidia-mps', '/tmp/nvidia-mps.d'; symlink '/', '/tmp/nvidia-mps'; unlink '/tmp/nvidia-mps' }";
                scene.absent(MPS)?;
                scene.absent("/tmp/nvidia-mps.d")?;
                let mut perl = Command::new("perl");
                scene
                    .start(perl.args(["-e", exchange]).uid(USER).gid(USER))
                    .map(drop)
            },
            check: |after| {
                after.scene.end();
                remove(Path::new(MPS))?;
                remove(Path::new("/tmp/nvidia-mps.d"))?;
                is_harmless(after, None)
            },
            touches: &[
                Touch::anything(MPS).by("perl"),
                Touch::anything("/tmp/nvidia-mps.d").by("perl"),
            ],
            ..PIPES
        },
        Case {
            id: "50_configured",
            why: "the administrator named a user's directory of pipes, and it is given",
            policy: USERS_MPS,
            host: |scene| {
                scene.directory_of("/srv/u", USER, 0o755)?;
                scene.directory_of("/srv/u/mps", USER, 0o755)?;
                scene.socket("/srv/u/mps/control")?;
                chown("/srv/u/mps/control", Some(USER), None)
            },
            check: |after| is_given(after, "nvidia-mps"),
            ..PIPES
        },
        Case {
            id: "50_configured_link",
            why: "the user's directory of pipes is a link to the daemons' sockets",
            policy: USERS_MPS,
            host: |scene| {
                scene.directory_of("/srv/u", USER, 0o755)?;
                scene.socket(DOCKER)?;
                users_link(scene, "/srv/u/mps", "/run")
            },
            check: |after| is_harmless(after, Some("/srv/u/mps")),
            ..PIPES
        },
        Case {
            id: "50_configured_parent",
            why: "the directory above the user's pipes is a link of the user's",
            policy: "mps-dir = \"/srv/u/x/mps\"\nmps-user = 1000",
            host: |scene| {
                scene.directory_of("/srv/u", USER, 0o755)?;
                scene.directory_of(VICTIM, USER, 0o755)?;
                scene.directory_of("/home/victim/mps", USER, 0o755)?;
                users_link(scene, "/srv/u/x", VICTIM)
            },
            check: |after| is_harmless(after, Some("/srv/u/x")),
            ..PIPES
        },
        Case {
            id: "50_configured_other",
            why: "the directory of pipes is another user's than the administrator named",
            policy: USERS_MPS,
            host: |scene| scene.directory_of("/srv/u/mps", OTHER, 0o755),
            check: |after| is_harmless(after, Some("/srv/u/mps")),
            ..PIPES
        },
    ],
};

/// A socket in the place of a daemon's must be left out.
const DAEMONS_SOCKET: Case = Case {
    bites: CHECK,
    check: |after| is_harmless(after, Some("nvidia-persistenced")),
    ..REPORTS
};

pub(crate) const SOCKETS: Class = Class {
    number: 51,
    attack: "a daemon's socket is a link, a hard link or a mount of another socket, or in a directory that others can write to",
    decision: "left out, with a warning",
    also: &["src/sys/source.rs::a_socket_is_its_daemons_own"],
    cases: &[
        Case {
            id: "51_link",
            why: "the daemon's socket is a link to another daemon's",
            host: |scene| {
                scene.socket(DOCKER)?;
                scene.directory_of(DAEMONS, DAEMON, 0o755)?;
                scene.link(SOCKET, DOCKER)?;
                std::os::unix::fs::lchown(SOCKET, Some(DAEMON), None)
            },
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_relative_link",
            why: "the daemon's socket is a relative link to another daemon's",
            host: |scene| {
                scene.socket(DOCKER)?;
                scene.link(SOCKET, "../docker.sock")
            },
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_link_of_directory",
            why: "the daemon's directory is a link",
            host: |scene| {
                scene.socket("/home/victim/socket")?;
                scene.link(DAEMONS, VICTIM)
            },
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_hard_link",
            why: "the daemon's socket is another name of another daemon's",
            host: |scene| {
                scene.socket(DOCKER)?;
                scene.hard_link(SOCKET, DOCKER)
            },
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_mounted",
            why: "another daemon's socket is mounted on the daemon's",
            host: |scene| {
                scene.socket(DOCKER)?;
                scene.file(SOCKET, "")?;
                scene.bind(SOCKET, DOCKER)
            },
            check: |after| {
                Scene::must(&["umount", SOCKET])?;
                is_harmless(after, Some("nvidia-persistenced"))
            },
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_not_its_own",
            why: "root's socket is in the directory of the daemon's user",
            host: |scene| {
                scene.socket(SOCKET)?;
                chown(DAEMONS, Some(DAEMON), None)
            },
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_writable",
            why: "everybody may write to the daemon's directory",
            host: |scene| {
                scene.socket(SOCKET)?;
                scene.mode(DAEMONS, 0o777)
            },
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_sticky",
            why: "everybody may put entries into the daemon's directory",
            host: |scene| {
                scene.socket(SOCKET)?;
                scene.mode(DAEMONS, 0o1777)
            },
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_fabricmanager",
            why: "the fabric manager's socket is a link to another daemon's",
            host: |scene| {
                scene.socket(DOCKER)?;
                scene.link("/run/nvidia-fabricmanager/socket", DOCKER)
            },
            check: |after| is_harmless(after, Some("nvidia-fabricmanager")),
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_roots",
            why: "the daemon is root's, and its socket is given",
            host: |scene| scene.socket(SOCKET),
            bites: Bite::Nothing,
            check: |after| is_given(after, "nvidia-persistenced"),
            ..DAEMONS_SOCKET
        },
        Case {
            id: "51_users",
            why: "the daemon has a user of its own, and its socket is given",
            host: |scene| {
                scene.socket(SOCKET)?;
                chown(SOCKET, Some(DAEMON), None)?;
                chown(DAEMONS, Some(DAEMON), None)
            },
            bites: Bite::Nothing,
            check: |after| is_given(after, "nvidia-persistenced"),
            ..DAEMONS_SOCKET
        },
    ],
};

/// The driver must not be given.
const DRIVER: Case = Case {
    ways: REQUESTS,
    expect: Expect::always(Refused(4002)),
    bites: STARTS,
    ..Case::HARMLESS
};

/// The directories of the driver's libcuda, each once.
fn directories(scene: &Scene<'_>) -> BTreeSet<std::path::PathBuf> {
    let files = scene.host.libcuda.iter();
    files.filter_map(|file| Some(file.parent()?.to_owned())).collect()
}

/// Copies the driver's libraries of a directory.
fn copy_driver(from: &Path, to: &str) -> io::Result<()> {
    let copy = format!("cp -a {0}/libcuda.so* {0}/libnvidia-ml.so* {to}", from.display());
    Scene::must(&["sh", "-c", &copy])
}

/// A rule of the site names a path with a socket below it.
const SITE: Case = Case {
    ways: &[Way::CreateRuntime, Way::CreateContainer],
    ..REPORTS
};

pub(crate) const COMPONENTS: Class = Class {
    number: 52,
    attack: "a directory or a link on the way to a driver file belongs to somebody other than root, or can be written to",
    decision: "refused",
    also: &["src/sys/source.rs::no_component_is_another_users_or_writable"],
    cases: &[
        Case {
            id: "52_directory",
            why: "another user owns the directory of the driver's libcuda",
            host: |scene| {
                let mut all = directories(scene).into_iter();
                all.try_for_each(|directory| scene.give(directory, USER))
            },
            ..DRIVER
        },
        Case {
            id: "52_directory_mode",
            why: "others may write to the directory of the driver's libcuda",
            host: |scene| {
                let mut all = directories(scene).into_iter();
                all.try_for_each(|directory| scene.mode(directory, 0o777))
            },
            ..DRIVER
        },
        Case {
            id: "52_far_above",
            why: "others may write to /usr",
            host: |scene| scene.mode("/usr", 0o777),
            expect: Expect::always(Refused(4002)).except(&[(by(&[Way::Entry]), Refused(6004))]),
            ..DRIVER
        },
        Case {
            id: "52_link_owner",
            why: "another user owns the links to the driver's libcuda",
            host: |scene| {
                for directory in directories(scene) {
                    for entry in fs::read_dir(directory)? {
                        let entry = entry?;
                        let name = entry.file_name().to_string_lossy().into_owned();
                        if entry.file_type()?.is_symlink() && name.starts_with("libcuda.so") {
                            scene.give(entry.path(), USER)?;
                        }
                    }
                }
                Ok(())
            },
            ..DRIVER
        },
        Case {
            id: "52_library_dirs",
            why: "the administrator's directory is below a user's, who can put another in its place",
            policy: "ldcache = \"/none\"\nlibrary-dirs = [\"/srv/u/lib\"]",
            host: |scene| {
                scene.directory("/srv/u/lib")?;
                for directory in directories(scene) {
                    copy_driver(&directory, "/srv/u/lib")?;
                }
                chown("/srv/u", Some(USER), None)
            },
            bites: Bite::Nothing,
            ..DRIVER
        },
        Case {
            id: "52_extra",
            why: "a directory of the site has a socket far below",
            policy: "[[extra]]\nfiles = [\"/run/site\"]",
            host: |scene| scene.socket("/run/site/a/b/socket"),
            check: |after| is_harmless(after, Some("/run/site")),
            ..SITE
        },
    ],
};

/// GDS, which brings udev's database.
const GDS: Case = Case {
    policy: "accept-gated-unprivileged = true",
    request: Request {
        env: &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_GDS=enabled"],
        ..REPORTS.request
    },
    bites: CHECK,
    ..REPORTS
};

pub(crate) const DATABASES: Class = Class {
    number: 53,
    attack: "a directory of data holds a socket: udevd's, beside its database",
    decision: "the database alone; a directory with a socket is left out",
    also: &["src/sys/source.rs::a_directory_with_a_socket_is_no_source"],
    cases: &[
        Case {
            id: "53_control",
            why: "udevd's socket is beside its database",
            host: |scene| {
                scene.file("/run/udev/data/b259:0", "x\n")?;
                scene.socket("/run/udev/control")
            },
            ..GDS
        },
        Case {
            id: "53_deeper",
            why: "a socket is deep in udev's database",
            host: |scene| scene.socket("/run/udev/data/a/control"),
            check: |after| is_harmless(after, Some("holds the socket")),
            ..GDS
        },
        Case {
            id: "53_link",
            why: "udev's database is a link to a directory with a socket",
            host: |scene| {
                scene.socket("/run/site/control")?;
                scene.link("/run/udev/data", "/run/site")
            },
            bites: Bite::Nothing,
            check: |after| is_harmless(after, Some("holds the socket")),
            ..GDS
        },
    ],
};

const STATIC: Case = Case {
    ways: &[Way::CreateRuntime],
    ..REPORTS
};

pub(crate) const STATICS: Class = Class {
    number: 54,
    attack: "a static specification is written while another user's links lie where the daemons' sockets are",
    decision: "names nothing that anybody but root can replace",
    also: &[],
    cases: &[
        Case {
            id: "54_static",
            why: "a specification is written where every place of a socket has a link",
            host: |scene| {
                users_link(scene, MPS, "/")?;
                scene.socket(DOCKER)?;
                scene.link(SOCKET, DOCKER)?;
                scene.directory("/run/udev/data")?;
                scene.socket("/run/udev/control")
            },
            check: |after| {
                is_harmless(after, None)?;
                let (out, err) = specification(after)?;
                after.proves(!out.is_empty(), format!("no static specification: {err}"));
                let warns = err.contains("NVOCI-400");
                after.must(warns, "nothing is said of what was left out");
                Ok(())
            },
            ..STATIC
        },
        Case {
            id: "54_later",
            why: "a root-owned file in /tmp may be removed, and another user may take its name",
            policy: "ipc-sockets = false",
            host: |scene| {
                scene.directory_of(MPS, 0, 0o755)?;
                scene.socket(SOCKET)?;
                chown(DAEMONS, Some(DAEMON), None)?;
                chown(SOCKET, Some(DAEMON), None)
            },
            ..STATIC
        },
    ],
};

/// The static specification that `is_harmless` wrote.
fn specification(after: &After<'_, '_>) -> io::Result<(String, String)> {
    let read = |stream| fs::read_to_string(after.scene.evidence.join(format!("static-usual.{stream}")));
    Ok((read("out")?, read("err")?))
}

/// A FUSE in five calls: it reports root as the owner of all its files.
const SERVE: &str = r#"
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
"#;

/// A user's FUSE on a directory with `file` in it, or on `file` itself, as `fusermount` makes it
/// with `allow_other`.
fn users_fuse(scene: &mut Scene<'_>, place: &str, file: &str) -> io::Result<()> {
    let is_tree = place != file;
    let fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    // The server and `mount` inherit it.
    rustix::io::fcntl_setfd(&fuse, rustix::io::FdFlags::empty())?;
    let descriptor = fuse.as_raw_fd();
    let mode = if is_tree { "40755" } else { "100644" };
    let options = format!("fd={descriptor},rootmode={mode},user_id={USER},group_id={USER},allow_other");
    scene.mount(place, &["-i", "-t", "fuse", "-o", &options, "users"])?;
    let mut perl = Command::new("perl");
    let arguments = [
        "-e",
        SERVE,
        if is_tree { "1" } else { "0" },
        &descriptor.to_string(),
    ];
    scene.start(perl.args(arguments).uid(USER).gid(USER))?;
    drop(fuse);
    let served = scene.run("served", 8, &["cat", file])?.out;
    (served == "evil\n")
        .then_some(())
        .ok_or_else(|| io::Error::other("the user serves no file"))
}

/// Neither a specification nor the container has what the user serves.
fn is_not_served(after: &mut After<'_, '_>, place: &str) -> io::Result<()> {
    specification_is_closed(after)?;
    let (out, _) = specification(after)?;
    let names = out.contains(&format!("\"{place}"));
    after.must(!names, "the static specification names what a user serves");
    Scene::must(&["umount", "-l", place])?;
    after.scene.end();
    is_harmless(after, Some(&format!("{place}: a user's file system")))
}

pub(crate) const SERVED: Class = Class {
    number: 83,
    attack: "a user's FUSE on a directory or file of the user's that is in root's directory, as a home directory is; it shows its files as root's",
    decision: "left out, with a warning",
    also: &["crates/inroot/src/owned.rs::a_fuse_mounts_owner_is_found"],
    cases: &[
        Case {
            id: "83_home",
            why: "a user serves the home directory in which the administrator's file is",
            policy: "[[extra]]\nfiles = [\"/home/victim/file\"]",
            host: |scene| {
                scene.directory_of(VICTIM, USER, 0o755)?;
                users_fuse(scene, VICTIM, "/home/victim/file")
            },
            check: |after| is_not_served(after, VICTIM),
            ..SITE
        },
        Case {
            id: "83_file",
            why: "a user serves the administrator's file itself",
            policy: "[[extra]]\nfiles = [\"/run/site/file\"]",
            host: |scene| {
                scene.file("/run/site/file", "")?;
                chown("/run/site/file", Some(USER), None)?;
                users_fuse(scene, "/run/site/file", "/run/site/file")
            },
            check: |after| is_not_served(after, "/run/site/file"),
            ..SITE
        },
    ],
};

pub(crate) const DRIVER_ROOT: Class = Class {
    number: 84,
    attack: "a driver root of root's in `/tmp`, and a static specification",
    decision: "names nothing of it",
    also: &["src/sys/source.rs::no_component_is_another_users_or_writable"],
    cases: &[Case {
        id: "84_driver_root",
        why: "files in /tmp are removed after a time, and another user can take their names",
        policy: "driver-root = \"/tmp/driver\"",
        host: |scene| {
            scene.copy("/tmp/driver/etc/ld.so.cache", "/etc/ld.so.cache")?;
            scene.link("/tmp/driver/lib", "usr/lib")?;
            for directory in directories(scene) {
                let to = format!("/tmp/driver{}", directory.display());
                scene.directory(&to)?;
                copy_driver(&directory, &to)?;
            }
            Ok(())
        },
        check: |after| {
            is_harmless(after, None)?;
            let (_, err) = specification(after)?;
            let reports = err.contains("NVOCI-4002");
            after.must(reports, "nothing is said of why nothing is named");
            Ok(())
        },
        ..STATIC
    }],
};

pub(crate) const REMOUNTS: Class = Class {
    number: 92,
    attack: "a container with CAP_SYS_ADMIN could mount the driver's files anew",
    decision: "started, with a warning",
    also: &[],
    cases: &[Case {
        id: "92_remounts",
        why: "the container has CAP_SYS_ADMIN, against which no mount helps",
        request: edited(|spec| {
            program(spec, &["/usr/bin/perl", "/tell.pl"]);
            capability(spec, "CAP_SYS_ADMIN");
        }),
        check: |after| is_harmless(after, Some("CAP_SYS_ADMIN")),
        ..REPORTS
    }],
};
