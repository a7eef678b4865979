//! Finds the daemons of this host, such as `dockerd`, in `/proc`. No other module decides which
//! process is a daemon.
//!
//! A user can give a process any name and command line, run a copy of any program, and be user 0 of
//! a user namespace. So a process counts only by facts that a user cannot choose:
//!
//! | file | condition | refuses |
//! |---|---|---|
//! | `status`: real, effective, saved and file system uid | all 0, or all the caller's own | a user's process, a setuid program |
//! | `ns/user` | the caller's (for uid 0) | user 0 of a container |
//! | `exe` | the inode at a path of root-owned components, with the daemon's name, not setuid | a copy, another program under that name |
//! | `root` | the caller's root directory | a daemon in a container, which serves another host |
//!
//! All files are read below one descriptor of `/proc/PID`: once the process has ended the kernel
//! answers `ESRCH` there, even if its number is in use again. User and program are read again after
//! the command line.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use procfs_core::ProcessCGroup;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::root::{Node, Root};
use super::{owned, procfs};

/// The highest process number of any kernel (`PID_MAX_LIMIT` of linux/threads.h).
const MAX_PROCESSES: usize = 1 << 22;
/// The most bytes of a command line or an environment that are read; the kernel's own limit is
/// larger.
const MAX_TEXT: u64 = 1 << 20;
/// The most bytes of a process's name (proc(5)).
const MAX_NAME: usize = 15;
const SETUID_OR_SETGID: u32 = 0o6000;
const DELETED: &[u8] = b" (deleted)";

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    /// Its process id.
    pub pid: i32,
    /// Its user: 0 or the caller.
    pub uid: u32,
    /// Its program; empty if the caller may not read the link.
    pub exe: PathBuf,
    /// Its arguments without its own name; none if `exe` is empty, since they prove nothing then.
    pub args: Vec<Vec<u8>>,
    dir: Root,
}

/// A process with a daemon's name that does not meet the conditions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Its process id.
    pub pid: i32,
    /// Its real user.
    pub uid: u32,
    /// The condition that it does not meet.
    pub fault: Fault,
    /// The reason, as part of a sentence: `it runs as user 1000`.
    pub why: String,
}

/// The condition that a process does not meet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It belongs to another user, or to user 0 of another user namespace.
    User,
    /// User 0 of this host runs the right program in another root directory: in a container.
    Root,
    /// As [`Fault::Root`], with the program and the service of the host's snap package.
    Snap,
    /// User 0 of this host runs another program, or one that other users could replace.
    Program,
}

/// The processes of one name.
#[derive(Debug, Default)]
pub struct Scan {
    /// Processes that meet all conditions.
    pub daemons: Vec<Daemon>,
    /// Processes that do not.
    pub refused: Vec<Refused>,
}

/// Finds the daemons called `name`.
pub fn find(name: &str) -> Scan {
    let found = Caller::own().and_then(|caller| caller.find(name));
    // Without a procfs no daemon counts as running.
    found.unwrap_or_default()
}

/// The caller's side of each comparison.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The procfs.
    pub(crate) proc: Root,
    /// The inode of the caller's root directory.
    pub(crate) root: (u64, u64),
    /// The caller.
    pub(crate) uid: u32,
}

/// The user and program of a process.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Identity {
    uid: u32,
    exe: PathBuf,
}

impl Caller {
    fn own() -> io::Result<Self> {
        Ok(Self {
            proc: Root::open("/proc")?,
            root: Root::open("/")?.resolve("/")?.id(),
            uid: rustix::process::geteuid().as_raw(),
        })
    }

    /// As [`find`], in another procfs than the caller's.
    pub(crate) fn of(proc: &Root) -> io::Result<Self> {
        Ok(Self {
            proc: proc.try_clone()?,
            ..Self::own()?
        })
    }

    pub(crate) fn find(&self, name: &str) -> io::Result<Scan> {
        let mut pids: Vec<i32> = Vec::new();
        self.proc.resolve("/")?.visit(MAX_PROCESSES, |entry, _| {
            pids.extend(entry.to_str().ok().and_then(|n| n.parse::<i32>().ok()));
        })?;
        let mut scan = Scan::default();
        for pid in pids {
            // A process that has ended meanwhile is not a daemon.
            match self.examine(pid, name) {
                Ok(Some(Ok(daemon))) => scan.daemons.push(daemon),
                Ok(Some(Err(refused))) => scan.refused.push(refused),
                Ok(None) | Err(_) => {}
            }
        }
        Ok(scan)
    }

    /// Examines one process; `None` if it has another name.
    fn examine(&self, pid: i32, name: &str) -> io::Result<Option<Result<Daemon, Refused>>> {
        let dir = Root::from_fd(self.proc.resolve(pid.to_string())?.into_fd());
        let comm = dir.read("comm", 64)?;
        let short = name.get(..MAX_NAME).unwrap_or(name).as_bytes();
        let named = comm.strip_suffix(b"\n").unwrap_or(&comm) == short;
        if !named && program(&dir).is_none_or(|(path, _)| path.file_name() != Some(OsStr::new(name))) {
            return Ok(None);
        }
        let identity = match self.identify(&dir, name)? {
            Ok(identity) => identity,
            Err((uid, fault, why)) => {
                return Ok(Some(Err(Refused { pid, uid, fault, why })));
            }
        };
        let known = !identity.exe.as_os_str().is_empty();
        let line = if known {
            dir.read("cmdline", MAX_TEXT)?
        } else {
            Vec::new()
        };
        // If the process has executed another program meanwhile, the command line is not this
        // one's.
        if self.identify(&dir, name)?.ok().as_ref() != Some(&identity) {
            return Err(Errno::SRCH.into());
        }
        let mut args: Vec<Vec<u8>> = line.split(|b| *b == 0).map(<[u8]>::to_vec).skip(1).collect();
        // Each argument ends in a zero, so the last piece follows the last zero.
        args.pop();
        Ok(Some(Ok(Daemon {
            pid,
            uid: identity.uid,
            exe: identity.exe,
            args,
            dir,
        })))
    }

    /// The process's identity, or its user, the fault and the reason.
    fn identify(&self, dir: &Root, name: &str) -> io::Result<Result<Identity, (u32, Fault, String)>> {
        let Some([uid, others @ ..]) = uids(&dir.read("status", MAX_TEXT)?) else {
            return Err(Errno::INVAL.into());
        };
        if (uid != 0 && uid != self.uid) || others != [uid; 3] {
            return Ok(Err((uid, Fault::User, format!("it runs as user {uid}"))));
        }
        let namespace = |at: &Root, path: &str| at.read_link(path);
        let visible = namespace(dir, "ns/user");
        if matches!(&visible, Err(e) if e.kind() == io::ErrorKind::PermissionDenied) {
            if self.uid == 0 {
                let why = "this nvoci may not read the link to its program".to_owned();
                return Ok(Err((uid, Fault::Program, why)));
            }
            // An ordinary user may read no more of a process of root's.
            return Ok(Ok(Identity {
                uid,
                exe: PathBuf::new(),
            }));
        }
        if uid == 0 && visible? != namespace(&self.proc, "self/ns/user")? {
            let why = "it is in another user namespace: a container's root".to_owned();
            return Ok(Err((uid, Fault::User, why)));
        }
        let (exe, in_place) = program(dir).ok_or(Errno::NOENT)?;
        let fault = if uid == 0 { Fault::Program } else { Fault::User };
        if exe.file_name() != Some(OsStr::new(name)) {
            return Ok(Err((uid, fault, format!("its program is {}", exe.display()))));
        }
        let inode = || open(dir, "exe", OFlags::empty());
        if open(dir, "root/.", OFlags::DIRECTORY)?.id() != self.root {
            let snap = uid == 0
                && in_place
                && is_snaps(&exe, name)
                && inode().is_ok_and(|inode| prove(&exe, true, &inode).is_ok())
                && in_service(&dir.read("cgroup", MAX_TEXT).unwrap_or_default(), name);
            return Ok(Err(if snap {
                (uid, Fault::Snap, exe.display().to_string())
            } else {
                let why = "it has another root directory: a container's".to_owned();
                let fault = if uid == 0 { Fault::Root } else { Fault::User };
                (uid, fault, why)
            }));
        }
        if let Err(why) = prove(&exe, in_place, &inode()?) {
            return Ok(Err((uid, fault, why)));
        }
        Ok(Ok(Identity { uid, exe }))
    }
}

/// Whether `exe` is in the host's mount of the snap package, such as
/// `/snap/docker/2893/bin/dockerd`.
fn is_snaps(exe: &Path, name: &str) -> bool {
    let mut parts = exe.strip_prefix("/snap/docker").unwrap_or(Path::new("")).iter();
    let revision = parts.next().and_then(OsStr::to_str).unwrap_or_default();
    let number = revision.strip_prefix('x').unwrap_or(revision);
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    digits && parts.eq([OsStr::new("bin"), OsStr::new(name)])
}

/// Whether a process is in the snap's own service. The path starts at the top: a container's cgroup
/// is below another.
fn in_service(cgroups: &[u8], name: &str) -> bool {
    let unit = format!("/system.slice/snap.docker.{name}.service");
    let is_systemds = |c: &ProcessCGroup| c.controllers.iter().all(|c| c == "name=systemd");
    procfs::cgroups(cgroups).any(|c| is_systemds(&c) && c.pathname == unit)
}

/// Proves that the running inode is the program at that path, and that only root can have put it
/// there.
fn prove(exe: &Path, in_place: bool, inode: &Node) -> Result<(), String> {
    let shown = exe.display();
    let stat = inode.stat();
    if inode.kind() != FileType::RegularFile
        || stat.st_mode & SETUID_OR_SETGID != 0
        || owned::may_be_fuse(inode)
    {
        return Err(format!("its program {shown} is no plain program"));
    }
    owned::check(inode, exe).map_err(|e| format!("its program {shown}: {}", e.why()))?;
    // An upgrade replaces the file and leaves the process with the old one.
    let at = if in_place {
        exe
    } else {
        exe.parent().unwrap_or(exe)
    };
    match owned::find(at) {
        Ok(Some(found)) if !in_place || found.id() == inode.id() => Ok(()),
        Ok(_) => Err(format!("its program is not the {shown} of this host")),
        Err(e) => Err(format!("its program {shown}: {}: {}", e.what(), e.why())),
    }
}

/// The program's path in the kernel's form, and whether the file is still there.
fn program(dir: &Root) -> Option<(PathBuf, bool)> {
    let path = dir.read_link("exe").ok()?;
    match path.as_os_str().as_bytes().strip_suffix(DELETED) {
        Some(path) => Some((PathBuf::from(OsStr::from_bytes(path)), false)),
        None => Some((path, true)),
    }
}

/// Opens the inode behind one of the kernel's magic links without a path lookup.
fn open(dir: &Root, link: &str, flags: OFlags) -> io::Result<Node> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    Node::from_fd(rustix::fs::openat(dir.as_fd(), link, flags, Mode::empty())?)
}

/// Real, effective, saved and file system uid. The kernel escapes a line break in the process's
/// name (proc(5)).
fn uids(status: &[u8]) -> Option<[u32; 4]> {
    let status = procfs::status(status)?;
    Some([status.ruid, status.euid, status.suid, status.fuid])
}

impl Daemon {
    /// The text of a file of its `/proc/PID`; empty if it cannot be read.
    pub fn text(&self, name: &str) -> String {
        self.dir.read_text(name, MAX_TEXT).unwrap_or_default()
    }

    /// Its root directory.
    ///
    /// # Errors
    /// If the process has ended or belongs to another user.
    pub fn root(&self) -> io::Result<Root> {
        Ok(Root::from_fd(
            open(&self.dir, "root/.", OFlags::DIRECTORY)?.into_fd(),
        ))
    }

    /// Its working directory, as the kernel names it.
    ///
    /// # Errors
    /// If the process has ended or belongs to another user.
    pub fn working_directory(&self) -> io::Result<PathBuf> {
        self.dir.read_link("cwd")
    }

    /// Time since its start.
    pub fn age(&self) -> Option<Duration> {
        let ticks = procfs::stat(&self.dir.read("stat", MAX_TEXT).ok()?)?.starttime;
        let uptime = Root::open("/proc").ok()?.read("uptime", 64).ok()?;
        let uptime = procfs::uptime(&uptime)?.uptime_duration().as_secs();
        Some(Duration::from_secs(
            uptime.saturating_sub(ticks / rustix::param::clock_ticks_per_second()),
        ))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `ESRCH` if the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_raw(self.pid).ok_or(Errno::SRCH)?;
        let handle: Option<OwnedFd> = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Some(fd),
            // Before Linux 5.3.
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(e) => return Err(e.into()),
        };
        // The process still lives, so the number was its own when the handle was made.
        self.dir.read("stat", MAX_TEXT)?;
        match handle {
            Some(handle) => pidfd_send_signal(handle, signal)?,
            None => rustix::process::kill_process(pid, signal)?,
        }
        Ok(())
    }
}

#[cfg(test)]
impl Daemon {
    /// A daemon that does not run, with these arguments.
    pub(crate) fn made_up(uid: u32, args: &[&str]) -> Self {
        Self {
            pid: 1,
            uid,
            exe: "/usr/bin/dockerd".into(),
            args: args.iter().map(|a| a.as_bytes().to_vec()).collect(),
            dir: Root::open("/").unwrap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    const NAME: &str = "dockerd";

    /// A `status` with another line for the users.
    fn status(uids: &str) -> String {
        procfs::recorded::STATUS.replace("Uid:\t0\t0\t0\t0", uids)
    }

    /// A recorded `/proc` with one process, and the files that it refers to.
    struct Recorded(tempfile::TempDir);

    impl Recorded {
        fn new() -> Self {
            let recorded = Self(tempfile::tempdir().unwrap());
            for dir in ["proc/self/ns", "proc/77/ns", "bin", "root"] {
                fs::create_dir_all(recorded.at(dir)).unwrap();
            }
            recorded.file("bin/dockerd", "program");
            recorded.mode("bin/dockerd", 0o755);
            recorded.link("proc/self/ns/user", "user:[1]");
            recorded.link("proc/77/ns/user", "user:[1]");
            recorded.file("proc/77/comm", "dockerd\n");
            let me = Self::me();
            recorded.uids([me; 4]);
            recorded.file(
                "proc/77/cmdline",
                "dockerd\0--config-file=/etc/docker/x.json\0--debug\0",
            );
            recorded.exe("bin/dockerd");
            recorded.link("proc/77/root", recorded.at("root").to_str().unwrap());
            recorded
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn file(&self, path: &str, text: &str) {
            fs::write(self.at(path), text).unwrap();
        }

        fn mode(&self, path: &str, mode: u32) {
            fs::set_permissions(self.at(path), Permissions::from_mode(mode)).unwrap();
        }

        fn link(&self, path: &str, target: &str) {
            let _ = fs::remove_file(self.at(path));
            symlink(target, self.at(path)).unwrap();
        }

        fn exe(&self, path: &str) {
            self.link("proc/77/exe", self.at(path).to_str().unwrap());
        }

        fn uids(&self, [r, e, s, f]: [u32; 4]) {
            self.file("proc/77/status", &status(&format!("Uid:\t{r}\t{e}\t{s}\t{f}")));
        }

        fn me() -> u32 {
            rustix::process::geteuid().as_raw()
        }

        fn scan(&self) -> Scan {
            let caller = Caller {
                proc: Root::open(self.at("proc")).unwrap(),
                root: Root::open(self.at("root")).unwrap().resolve("/").unwrap().id(),
                uid: Self::me(),
            };
            caller.find(NAME).unwrap()
        }

        fn refused(&self) -> String {
            let scan = self.scan();
            assert!(scan.daemons.is_empty(), "{scan:?}");
            scan.refused.first().expect("refused").why.clone()
        }
    }

    #[test]
    fn a_program_of_roots_counts() {
        let scan = Recorded::new().scan();
        let daemon = scan.daemons.first().unwrap();
        assert_eq!((daemon.pid, scan.refused.len()), (77, 0));
        assert_eq!(
            daemon.args,
            [&b"--config-file=/etc/docker/x.json"[..], b"--debug"]
        );
    }

    #[test]
    fn another_users_process_does_not() {
        let me = Recorded::me();
        let other = me + 1000;
        for uids in [
            [other; 4],
            [other, me, me, me],
            [me, other, me, me],
            [me, me, other, me],
            [me, me, me, other],
        ] {
            let recorded = Recorded::new();
            recorded.uids(uids);
            assert!(recorded.refused().starts_with("it runs as user"), "{uids:?}");
        }
    }

    #[test]
    fn a_name_is_not_a_program() {
        let recorded = Recorded::new();
        recorded.file("bin/sleep", "");
        recorded.mode("bin/sleep", 0o755);
        recorded.exe("bin/sleep");
        assert!(recorded.refused().contains("bin/sleep"));
        // A program that changed its name is found by its inode's name.
        let recorded = Recorded::new();
        recorded.file("proc/77/comm", "innocent\n");
        assert_eq!(recorded.scan().daemons.len(), 1);
        // A process that matches neither by name nor by program is skipped.
        recorded.file("bin/other", "");
        recorded.exe("bin/other");
        assert!(recorded.scan().refused.is_empty());
    }

    #[test]
    fn a_program_that_others_can_change_does_not_count() {
        for mode in [0o757, 0o775, 0o4755, 0o2755] {
            let recorded = Recorded::new();
            recorded.mode("bin/dockerd", mode);
            recorded.refused();
        }
        let recorded = Recorded::new();
        recorded.mode("bin", 0o777);
        assert!(recorded.refused().contains("lets others write"));
        let recorded = Recorded::new();
        if Recorded::me() == 0 {
            chown(recorded.at("bin/dockerd"), Some(1000), Some(1000)).unwrap();
            assert!(recorded.refused().contains("belongs to user 1000"));
            let recorded = Recorded::new();
            chown(recorded.at("bin"), Some(1000), Some(1000)).unwrap();
            assert!(recorded.refused().contains("belongs to user 1000"));
        }
        // Another inode has its path, and the kernel reports no deletion: the process is in another
        // mount namespace.
        let recorded = Recorded::new();
        fs::create_dir(recorded.at("elsewhere")).unwrap();
        recorded.link("proc/77/exe", "/nowhere/bin/dockerd");
        assert!(recorded.scan().daemons.is_empty());
    }

    #[test]
    fn a_containers_root_is_not_the_hosts() {
        let recorded = Recorded::new();
        recorded.link("proc/77/ns/user", "user:[2]");
        if Recorded::me() == 0 {
            assert!(recorded.refused().contains("user namespace"));
        }
        let recorded = Recorded::new();
        fs::create_dir(recorded.at("other")).unwrap();
        recorded.link("proc/77/root", recorded.at("other").to_str().unwrap());
        assert!(recorded.refused().contains("root directory"));
        assert!(recorded.scan().refused.iter().all(|r| r.fault != Fault::Program));
        // A container chooses its files' names and its mounts.
        for exe in ["/snap/dockerd (deleted)", "/snap/docker/1/bin/dockerd"] {
            recorded.link("proc/77/exe", exe);
            fs::write(
                recorded.at("proc/77/cgroup"),
                "0::/system.slice/snap.docker.dockerd.service\n",
            )
            .unwrap();
            // The recorded procfs's link has no target.
            assert!(recorded.scan().daemons.is_empty());
        }
    }

    #[test]
    fn the_snaps_daemon_is_identified_by_its_path_and_its_service() {
        for (path, right) in [
            ("/snap/docker/2893/bin/dockerd", true),
            ("/snap/docker/x1/bin/dockerd", true),
            ("/snap/dockerd", false),
            ("/snap/docker/bin/dockerd", false),
            ("/snap/docker/x/bin/dockerd", false),
            ("/snap/docker/1/usr/bin/dockerd", false),
            ("/snap/docker/1/bin/dockerd/dockerd", false),
            ("/snap/docker/1/bin/sh", false),
            ("/snap/other/1/bin/dockerd", false),
            ("/snapdocker/1/bin/dockerd", false),
        ] {
            assert_eq!(is_snaps(Path::new(path), NAME), right, "{path}");
        }
        for (cgroup, right) in [
            ("0::/system.slice/snap.docker.dockerd.service", true),
            (
                "3:cpu:/x\n1:name=systemd:/system.slice/snap.docker.dockerd.service",
                true,
            ),
            ("1:cpu:/system.slice/snap.docker.dockerd.service", false),
            (
                "0::/system.slice/docker-1.scope/system.slice/snap.docker.dockerd.service",
                false,
            ),
            ("0::/system.slice/snap.docker.dockerd.service/x", false),
            ("0::/../system.slice/snap.docker.dockerd.service", false),
            ("", false),
        ] {
            assert_eq!(in_service(cgroup.as_bytes(), NAME), right, "{cgroup}");
        }
    }

    #[test]
    fn processes_that_are_cut_short_or_strange_are_passed_over() {
        for gone in ["comm", "status", "exe", "root", "cmdline"] {
            let recorded = Recorded::new();
            fs::remove_file(recorded.at(&format!("proc/77/{gone}"))).unwrap();
            assert!(recorded.scan().daemons.is_empty(), "{gone}");
        }
        let me = Recorded::me();
        let right = format!("Uid:\t{me}\t{me}\t{me}\t{me}");
        let recorded = Recorded::new();
        recorded.file("proc/77/status", &status(&right));
        assert_eq!(recorded.scan().daemons.len(), 1);
        for line in ["", "Uid:\t0", "Uid:\t-1\t0\t0\t0", "Name:\tUid:\t0\t0\t0\t0"] {
            let recorded = Recorded::new();
            recorded.file("proc/77/status", &status(line));
            assert!(recorded.scan().daemons.is_empty(), "{line}");
        }
        let recorded = Recorded::new();
        recorded.file("proc/77/status", &format!("{right}\n"));
        assert!(recorded.scan().daemons.is_empty());
    }

    #[test]
    fn a_signal_goes_to_the_process_that_was_examined_only() {
        let sleep = |seconds: &str| std::process::Command::new("sleep").arg(seconds).spawn().unwrap();
        let mut child = sleep("30");
        let of = |pid: u32| Daemon {
            pid: i32::try_from(pid).unwrap(),
            dir: Root::open(format!("/proc/{pid}")).unwrap(),
            ..Daemon::made_up(0, &[])
        };
        let daemon = of(child.id());
        assert!(daemon.age().is_some_and(|age| age < Duration::from_secs(600)));
        daemon.signal(Signal::TERM).unwrap();
        child.wait().unwrap();
        // Its number may be another process's.
        let mut other = sleep("30");
        let stale = Daemon {
            pid: i32::try_from(other.id()).unwrap(),
            ..daemon
        };
        let e = stale.signal(Signal::KILL).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ESRCH));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
