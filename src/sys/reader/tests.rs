use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::seccomp::in_child;
use super::*;
use crate::sys::held;
use crate::sys::root::Node;

/// A root with a file, a link out of it, and a file beside it.
fn world() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("rootfs");
    std::fs::create_dir(&top).unwrap();
    std::fs::write(top.join("inside"), "of the image").unwrap();
    std::fs::write(dir.path().join("secret"), "of the host").unwrap();
    symlink("../secret", top.join("climbs")).unwrap();
    symlink(dir.path().join("secret"), top.join("leads")).unwrap();
    let root = Root::open(&top).unwrap();
    (dir, root)
}

/// Whether a child that does `work` sends `expected`, also without `openat2`. It runs in a process
/// of its own, since a hook starts only one child.
fn child_sends(work: impl Fn(&Root, &mut Port) -> io::Result<()>, expected: &[&str]) -> bool {
    child_sends_without(&[], &work, expected) && child_sends_without(&[libc::SYS_openat2], &work, expected)
}

fn child_sends_without(
    calls: &[libc::c_long],
    work: impl FnOnce(&Root, &mut Port) -> io::Result<()>,
    expected: &[&str],
) -> bool {
    let (_dir, root) = world();
    in_child(|| {
        rustix::thread::set_no_new_privs(true).is_ok()
            && seccomp::refuse(calls).is_ok()
            && Reader::start(|| root.try_clone(), work)
                .and_then(|mut reader| reader.recv(MAX_MESSAGE))
                .is_ok_and(|message| {
                    let sent: io::Result<Vec<&str>> = parse(&message);
                    let same = sent.as_ref().is_ok_and(|sent| sent == expected);
                    if !same {
                        eprintln!("sent {sent:?}");
                    }
                    same
                })
    })
}

fn outcome<T>(result: &io::Result<T>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(_) => "refused",
    }
}

#[test]
fn it_reads_files_below_its_root() {
    let work = |root: &Root, port: &mut Port| {
        let inside = root.read("/inside", 100)?;
        let listed = root.read_dir("/", 10)?.len().to_string();
        // A root within the root is an error if the walk there cannot be confined.
        let _ = root.subroot("/")?.read("inside", 100);
        port.send(&vec![String::from_utf8_lossy(&inside).as_ref(), &listed])
    };
    assert!(child_sends(work, &["of the image", "3"]));
}

#[test]
fn it_reads_nothing_else() {
    let work = |root: &Root, port: &mut Port| {
        let found =
            ["climbs", "leads", "/proc/self/root/secret", "../secret"].map(|path| root.read(path, 100));
        let host = ["/etc/passwd", "/proc/self/maps", "/proc/1/environ"].map(std::fs::read);
        let all: Vec<&str> = found
            .iter()
            .map(outcome)
            .chain(host.iter().map(outcome))
            .collect();
        port.send(&vec![all.join(" ")])
    };
    assert!(child_sends(
        work,
        &["refused refused refused refused refused refused refused"]
    ));
}

#[test]
fn it_changes_nothing_and_starts_nothing() {
    let work = |root: &Root, port: &mut Port| {
        let top = root.resolve("/")?;
        let inside = root.resolve("/inside")?;
        let tried = [
            top.write_file(std::ffi::OsStr::new("new"), 0o644, b"x"),
            top.mkdir(std::ffi::OsStr::new("new"), 0o755).map(drop),
            top.symlink_new(std::ffi::OsStr::new("new"), Path::new("x")),
            top.unlink(std::ffi::OsStr::new("inside")),
            super::super::root::reopen(inside.as_fd(), rustix::fs::OFlags::WRONLY).map(drop),
            super::super::root::reopen(
                inside.as_fd(),
                rustix::fs::OFlags::RDWR | rustix::fs::OFlags::TRUNC,
            )
            .map(drop),
            std::os::unix::net::UnixDatagram::unbound().map(drop),
            std::process::Command::new("/inside").status().map(drop),
            rustix::process::chroot(c".").map_err(io::Error::from),
        ];
        let all: Vec<&str> = tried.iter().map(outcome).collect();
        port.send(&vec![all.join(" ")])
    };
    assert!(child_sends(work, &[["refused"; 9].join(" ").as_str()]));
}

#[test]
fn messages_of_any_size_arrive_whole() {
    let (_dir, root) = world();
    assert!(in_child(|| {
        let answer = || -> io::Result<Vec<String>> {
            let mut reader = Reader::start(
                || root.try_clone(),
                |_, port| {
                    let received = port.recv(100)?;
                    let mut parts: Vec<String> = parse(&received)?;
                    parts.push("7".repeat(3 << 20));
                    port.send(&parts)
                },
            )?;
            reader.port().send(&vec!["one", "", "three"])?;
            parse(&reader.recv(MAX_MESSAGE)?)
        };
        answer().is_ok_and(|sent| sent[..3] == ["one", "", "three"] && sent[3].len() == 3 << 20)
    }));
}

#[test]
fn an_end_is_no_answer_and_no_wait_is_for_ever() {
    let (_dir, root) = world();
    let kind = |work: fn(&Root, &mut Port) -> io::Result<()>| {
        let root = &root;
        move |expected: io::ErrorKind| {
            in_child(|| {
                let Ok(mut reader) = Reader::start(|| root.try_clone(), work) else {
                    return false;
                };
                reader.recv(100).is_err_and(|e| e.kind() == expected)
            })
        }
    };
    assert!(kind(|_, _| Ok(()))(io::ErrorKind::UnexpectedEof));
    assert!(kind(|_, port| port.to.as_mut().unwrap().write_all(&[1, 2, 3]))(
        io::ErrorKind::UnexpectedEof
    ));
    for length in [101_u32, 1 << 31, u32::MAX] {
        assert!(in_child(|| {
            let Ok(mut reader) = Reader::start(
                || root.try_clone(),
                |_, port| port.to.as_mut().unwrap().write_all(&length.to_le_bytes()),
            ) else {
                return false;
            };
            reader
                .recv(100)
                .is_err_and(|e| e.kind() == io::ErrorKind::InvalidData)
        }));
    }
    assert!(kind(|_, port| port.recv(100).map(drop))(io::ErrorKind::TimedOut));
}

/// The lookups before the child closes everything by number are gathered; what is gathered must not
/// be closed a second time, when a later lookup has the number.
#[test]
fn a_lookup_that_is_held_stays_open() {
    let work = |root: &Root, port: &mut Port| {
        let held: Vec<Node> = (0..4)
            .map(|_| root.resolve("inside"))
            .collect::<io::Result<_>>()?;
        for _ in 0..200 {
            drop(root.resolve("inside")?);
        }
        let same = |node: &Node| rustix::fs::fstat(node).is_ok_and(|now| now.st_ino == node.stat().st_ino);
        let all = held.iter().all(same);
        port.send(&vec![if all { "open" } else { "closed" }])
    };
    let (_dir, root) = world();
    for calls in [&[][..], &[libc::SYS_openat2]] {
        assert!(in_child(|| {
            held::gather();
            rustix::thread::set_no_new_privs(true).is_ok()
                && seccomp::refuse(calls).is_ok()
                && Reader::start(|| root.try_clone(), work)
                    .and_then(|mut reader| reader.recv(MAX_MESSAGE))
                    .is_ok_and(|message| parse::<Vec<&str>>(&message).is_ok_and(|sent| sent == ["open"]))
        }));
    }
}
