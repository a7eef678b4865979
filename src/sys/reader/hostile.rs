//! Runs an attacker's code as the reading child and lists everything that it can reach, for each
//! measure that a kernel or an outer container may lack.

use std::ffi::{CStr, CString};
use std::io;
use std::path::{Path, PathBuf};

use libc::c_long;
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::super::ns::MountNs;
use super::super::root::reopen;
use super::super::seccomp::in_child;
use super::*;

/// Attempts that succeeded: `secret 3 ..` for a file of the host that was read.
type Leaks = Vec<String>;

/// `O_TRUNC` of asm-generic/fcntl.h.
const EMPTY: OFlags = OFlags::from_bits_retain(0o1000);

/// The most descriptors that are tried. A test process holds more than a hook.
const MAX_FD: c_long = if option_env!("NVOCI_TEST_EMULATED").is_some() {
    64
} else {
    512
};

/// A mount namespace with a tmpfs at `rootfs` as a container's root, with device nodes in it and in
/// a volume.
struct World {
    dir: tempfile::TempDir,
    host: MountNs,
    container: MountNs,
}

impl World {
    /// `None` if the caller may not make it.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().ok()?;
        let host = MountNs::own().ok()?;
        // SAFETY: changes only this process's file-system context, which ends with the test.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.ok()?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).ok()?;
        let at = |path: &str| dir.path().join(path);
        std::fs::write(at("secret"), "of the host").ok()?;
        for place in ["rootfs", "rootfs/volume"] {
            std::fs::create_dir(at(place)).ok()?;
            mount(c"image", at(place), c"tmpfs", MountFlags::empty(), None).ok()?;
            for (name, number) in [("null", makedev(1, 3)), ("gpu", makedev(195, 0))] {
                let node = at(place).join(name);
                mknodat(
                    CWD,
                    node,
                    FileType::CharacterDevice,
                    Mode::from_raw_mode(0o666),
                    number,
                )
                .ok()?;
            }
            std::fs::write(at(place).join("inside"), "of the image").ok()?;
            std::fs::create_dir_all(at(place).join("deep/below")).ok()?;
        }
        std::fs::create_dir(at("rootfs/proc")).ok()?;
        mount(c"proc", at("rootfs/proc"), c"proc", MountFlags::empty(), None).ok()?;
        std::os::unix::fs::symlink("/volume/../volume/inside", at("rootfs/deep/link")).ok()?;
        let container = MountNs::own().ok()?;
        Some(Self { dir, host, container })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).unwrap()
}

fn open(dir: c_long, path: &CStr, flags: OFlags) -> c_long {
    // SAFETY: a C string that lives for the call.
    unsafe { libc::syscall(libc::SYS_openat, dir, path.as_ptr(), flags.bits(), 0o600) }
}

/// Tries to reach the host's file through each descriptor and root directory.
fn ways_out(secret: &Path, leaks: &mut Leaks) {
    let cwd = c_long::from(libc::AT_FDCWD);
    let below_root = secret.strip_prefix("/").unwrap();
    for fd in (0..MAX_FD).chain([cwd]) {
        for climbs in 0..12 {
            let up = "../".repeat(climbs);
            for path in [Path::new(&up).join("secret"), Path::new(&up).join(below_root)] {
                if open(fd, &c(&path), OFlags::RDONLY) >= 0 {
                    leaks.push(format!("secret {fd} {}", path.display()));
                }
            }
        }
    }
    for prefix in [
        "",
        "/proc/self/root",
        "/proc/self/cwd",
        "/proc/1/root",
        "/0",
        "/1",
        "/2",
    ] {
        let path = Path::new(&format!("{prefix}/")).join(below_root);
        if open(cwd, &c(&path), OFlags::RDONLY) >= 0 {
            leaks.push(format!("secret {}", path.display()));
        }
    }
    // The container's own procfs is part of the image.
    for process in ["self", "1", &std::os::unix::process::parent_id().to_string()] {
        for link in ["root", "cwd"] {
            let path = Path::new("proc").join(process).join(link).join(below_root);
            for fd in 0..MAX_FD {
                if open(fd, &c(&path), OFlags::RDONLY) >= 0 {
                    leaks.push(format!("secret {fd} {}", path.display()));
                }
            }
        }
    }
    for fd in 0..MAX_FD {
        for up in ["..", "../..", "volume/../..", "deep/../../.."] {
            let path = Path::new("/").join(fd.to_string()).join(up).join(below_root);
            if open(cwd, &c(&path), OFlags::RDONLY) >= 0 {
                leaks.push(format!("secret {}", path.display()));
            }
        }
    }
}

fn devices_and_writes(root: &Root, leaks: &mut Leaks) {
    for name in ["null", "gpu", "volume/null", "volume/gpu"] {
        let Ok(node) = root.resolve(name) else {
            leaks.push(format!("{name} is not found"));
            continue;
        };
        for flags in [OFlags::RDONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::NONBLOCK] {
            let direct = open(c_long::from(root.as_fd().as_raw_fd()), &c(Path::new(name)), flags);
            let again = reopen(node.as_fd(), flags).err().and_then(|e| e.raw_os_error());
            // A node of a number without a driver gives ENXIO only if the kernel did open it.
            if direct >= 0 || !matches!(again, Some(libc::EACCES | libc::EPERM)) {
                leaks.push(format!("device {name} {again:?}"));
            }
        }
    }
    let writing = [
        OFlags::WRONLY,
        OFlags::RDWR,
        OFlags::WRONLY | EMPTY,
        OFlags::WRONLY | OFlags::APPEND,
    ];
    for name in ["inside", "volume/inside", "new", "volume/new"] {
        for flags in writing {
            let fd = open(
                c_long::from(root.as_fd().as_raw_fd()),
                &c(Path::new(name)),
                flags | OFlags::CREATE,
            );
            if fd >= 0 {
                leaks.push(format!("write {name} {flags:?}"));
            }
        }
    }
}

/// Tries calls that would change its bounds, other processes or its place.
fn calls(leaks: &mut Leaks) {
    let parent = std::os::unix::process::parent_id();
    let parent = c_long::from(parent);
    let set = [u64::MAX; 16];
    let here = set.as_ptr() as c_long;
    let zeros = [0_u64; 32];
    let none = zeros.as_ptr() as c_long;
    let dot = c".".as_ptr() as c_long;
    let ignore = [1_u64, 0, 0, 0];
    let ignored = ignore.as_ptr() as c_long;
    let tried: &[(&str, c_long, [c_long; 6])] = &[
        ("sigaction", libc::SYS_rt_sigaction, [14, ignored, 0, 8, 0, 0]),
        ("sigprocmask", libc::SYS_rt_sigprocmask, [0, here, 0, 8, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        ("alarm", libc::SYS_alarm, [0; 6]),
        ("setitimer", libc::SYS_setitimer, [0, none, 0, 0, 0, 0]),
        ("timer_delete", libc::SYS_timer_delete, [0; 6]),
        ("timer_settime", libc::SYS_timer_settime, [0, 0, none, 0, 0, 0]),
        ("prlimit", libc::SYS_prlimit64, [0, 0, 0, none, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        ("fork", libc::SYS_fork, [0; 6]),
        #[cfg(target_arch = "x86_64")]
        ("vfork", libc::SYS_vfork, [0; 6]),
        ("clone", libc::SYS_clone, [17, 0, 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [none, 64, 0, 0, 0, 0]),
        ("execve", libc::SYS_execve, [dot, none, none, 0, 0, 0]),
        ("execveat", libc::SYS_execveat, [0, dot, none, none, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [16, parent, 0, 0, 0, 0]),
        ("kill", libc::SYS_kill, [parent, 0, 0, 0, 0, 0]),
        ("kill all", libc::SYS_kill, [-1, 0, 0, 0, 0, 0]),
        ("tkill", libc::SYS_tkill, [parent, 0, 0, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0]),
        ("sigqueue", libc::SYS_rt_sigqueueinfo, [parent, 0, none, 0, 0, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0, 0, 0]),
        (
            "vm_readv",
            libc::SYS_process_vm_readv,
            [parent, none, 0, none, 0, 0],
        ),
        ("socket", libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        ("socketpair", libc::SYS_socketpair, [1, 1, 0, here, 0, 0]),
        ("chroot", libc::SYS_chroot, [dot, 0, 0, 0, 0, 0]),
        ("chdir", libc::SYS_chdir, [dot, 0, 0, 0, 0, 0]),
        ("mkdirat", libc::SYS_mkdirat, [0, dot, 0o700, 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [0; 6]),
        ("setns", libc::SYS_setns, [0; 6]),
        ("mount", libc::SYS_mount, [dot, dot, dot, 0, 0, 0]),
        ("umount", libc::SYS_umount2, [dot, 2, 0, 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [3, none, 0x1000, 0, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [3, none, 3, none, 0x44, 0]),
        (
            "mount_setattr",
            libc::SYS_mount_setattr,
            [3, none, 0x1000, none, 32, 0],
        ),
        ("handle", libc::SYS_open_by_handle_at, [3, none, 0, 0, 0, 0]),
        ("mknodat", libc::SYS_mknodat, [3, dot, 0o020_666, 0x103, 0, 0]),
        ("capset", libc::SYS_capset, [none, none, 0, 0, 0, 0]),
        ("setresuid", libc::SYS_setresuid, [-1, -1, -1, 0, 0, 0]),
        ("prctl", libc::SYS_prctl, [4, 1, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, none, 8, 0, 0, 0]),
        ("io_uring", libc::SYS_io_uring_setup, [1, none, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        ("memfd", libc::SYS_memfd_create, [dot, 0, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0, 0]),
        ("ioctl", libc::SYS_ioctl, [0, 0x5421, none, 0, 0, 0]),
        ("dup", libc::SYS_dup, [0; 6]),
        ("inotify", libc::SYS_inotify_init1, [0; 6]),
        ("fchmod", libc::SYS_fchmod, [3, 0o777, 0, 0, 0, 0]),
        ("fchown", libc::SYS_fchown, [3, 0, 0, 0, 0, 0]),
    ];
    for &(name, number, [a, b, c, d, e, f]) in tried {
        // SAFETY: with these arguments each call reads at most the live buffers above, or fails.
        let r = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        let errno = io::Error::last_os_error().raw_os_error();
        if r != -1 || errno != Some(libc::EPERM) {
            leaks.push(format!("{name} {r} {errno:?}"));
        }
    }
}

/// The leaks to a hostile child that is refused the calls `without`.
fn leaks(without: &[c_long], outside: bool) -> Option<Vec<String>> {
    let (from, mut to) = io::pipe().unwrap();
    let ended = in_child(|| {
        let Some(world) = World::new() else { return false };
        let secret = world.path("secret");
        let rootfs = world.path("rootfs");
        if outside {
            world.host.enter().unwrap();
        }
        // A hook opens its procfs in the namespace in which it was started; another test has done
        // so in another one.
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let own = rustix::fs::open("/proc/self/fd", flags, Mode::empty()).unwrap();
        use_as_own_fds(&own).unwrap();
        let start = || -> io::Result<Vec<String>> {
            rustix::thread::set_no_new_privs(true)?;
            seccomp::refuse(without)?;
            let open = || {
                if outside {
                    world.container.enter()?;
                }
                Root::open(&rootfs)
            };
            let mut reader = Reader::start(open, |root, port| {
                let mut leaks = Leaks::new();
                // It can still do its work.
                if root.read("deep/link", 100).ok().as_deref() != Some(b"of the image") {
                    leaks.push("nothing is read".to_owned());
                }
                ways_out(&secret, &mut leaks);
                devices_and_writes(root, &mut leaks);
                calls(&mut leaks);
                port.send(&leaks)
            })?;
            parse(&reader.recv(MAX_MESSAGE)?)
        };
        let found = start().unwrap_or_else(|e| vec![format!("no answer: {e}")]);
        for line in found {
            to.write_all(line.as_bytes()).unwrap();
            to.write_all(b"\n").unwrap();
        }
        true
    });
    drop(to);
    let mut text = String::new();
    File::from(OwnedFd::from(from)).read_to_string(&mut text).unwrap();
    if !ended && text.is_empty() {
        eprintln!("SKIPPED: no right to make a mount namespace and device nodes");
        return None;
    }
    Some(text.lines().map(str::to_owned).collect())
}

/// Whether this kernel has a call that the tests otherwise refuse to the child.
fn kernel_has(call: c_long) -> bool {
    // SAFETY: with these arguments the calls of these tests fail and do nothing.
    let r = unsafe { libc::syscall(call, -1_i64, 0_i64, 0_i64, 0_i64, 0_i64) };
    let errno = io::Error::last_os_error().raw_os_error();
    r != -1 || !matches!(errno, Some(libc::ENOSYS | libc::EOPNOTSUPP))
}

/// Kernels before 5.12: the file system forbids nothing, so the child can make empty files and open
/// device nodes that everybody may.
fn needs_mount_setattr(leak: &str) -> bool {
    ["device ", "write new ", "write volume/new "]
        .iter()
        .any(|known| leak.starts_with(known))
}

#[test]
fn nothing_leads_out_and_nothing_is_changed() {
    let restricts_mounts = kernel_has(libc::SYS_mount_setattr);
    for outside in [false, true] {
        for without in [
            &[] as &[c_long],
            &[libc::SYS_landlock_create_ruleset],
            &[libc::SYS_openat2],
            &[libc::SYS_openat2, libc::SYS_landlock_create_ruleset],
            &[libc::SYS_close_range, libc::SYS_timer_create],
        ] {
            if let Some(mut found) = leaks(without, outside) {
                found.retain(|leak| restricts_mounts || !needs_mount_setattr(leak));
                assert_eq!(
                    found,
                    Vec::<String>::new(),
                    "without {without:?}, outside: {outside}"
                );
            }
        }
    }
}

/// Kernels before 5.12 and 5.2. Without `open_tree` (5.2) only Landlock keeps the child from the
/// host's procfs.
#[test]
fn without_newer_calls_for_mounts_less_is_in_force() {
    let has_landlock = kernel_has(libc::SYS_landlock_create_ruleset);
    for without in [
        &[libc::SYS_mount_setattr] as &[c_long],
        &[
            libc::SYS_mount_setattr,
            libc::SYS_landlock_create_ruleset,
            libc::SYS_openat2,
        ],
        &[libc::SYS_open_tree],
    ] {
        if *without == [libc::SYS_open_tree] && !has_landlock {
            continue;
        }
        if let Some(found) = leaks(without, false) {
            let others: Vec<_> = found.iter().filter(|leak| !needs_mount_setattr(leak)).collect();
            assert_eq!(others, Vec::<&String>::new(), "without {without:?}");
        }
    }
    let Some(found) = leaks(&[libc::SYS_open_tree, libc::SYS_landlock_create_ruleset], false) else {
        return;
    };
    // The test can find leaks.
    assert!(found.iter().any(|leak| leak.starts_with("secret ")), "{found:?}");
}

/// Whether a child that does `work` is ended in time.
fn ends(work: impl Fn(&Root, &mut Port) -> io::Result<()>, without: &[c_long]) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    assert!(in_child(|| {
        let began = Instant::now();
        rustix::thread::set_no_new_privs(true).is_ok()
            && seccomp::refuse(without).is_ok()
            && Reader::start(|| root.try_clone(), work)
                .and_then(|mut reader| reader.recv(100))
                // The kernel counts processor time by ticks, so that limit may come first.
                .is_err_and(|e| matches!(e.raw_os_error(), Some(libc::ETIMEDOUT | libc::EFBIG)))
            && began.elapsed() < Duration::from_millis(900 + 1000 * u64::from(PATIENCE))
    }));
}

/// The child waits or computes, and has tried to block its signals.
#[test]
fn no_code_outlives_its_time() {
    let waits = |_: &Root, port: &mut Port| {
        calls(&mut Leaks::new());
        port.recv(100).map(drop)
    };
    let calculates = |_: &Root, _: &mut Port| {
        calls(&mut Leaks::new());
        loop {
            std::hint::spin_loop();
        }
    };
    for without in [&[] as &[c_long], &[libc::SYS_timer_create]] {
        ends(waits, without);
        ends(calculates, without);
    }
}
