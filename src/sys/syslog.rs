//! The system's log: systemd's journal by its native protocol, or a syslog daemon behind
//! `/dev/log`.
//!
//! The socket is connected before the process is confined. Afterwards an entry is one `write`,
//! which the filter on system calls allows. The descriptor never blocks: if the daemon's queue is
//! full, the entry is dropped.
//!
//! Sources: systemd's `docs/JOURNAL_NATIVE_PROTOCOL.md` (a field is `NAME=text\n`, or `NAME\n`, the
//! length as 64-bit little endian, the bytes, `\n`), RFC 3164 section 4.1 (`<PRIORITY>TAG: text`).
//! The time is left out: the daemon adds it, and the host's time zone is not known here.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::owned;
use super::root::{Node, split};
use crate::error::Line;

/// The journal's socket (systemd-journald.service(8)) and that of a syslog daemon (syslog(3)).
const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";

/// `LOG_WARNING` and `LOG_DAEMON` (syslog(3)).
const WARNING: u8 = 4;
const DAEMON: u8 = 3;

/// The name of this program in the log.
const IDENTIFIER: &str = "nvoci";
/// The most links that lead to a socket; `/dev/log` of systemd is one.
const MAX_LINKS: usize = 4;
/// The longest value of a field, in bytes.
const MAX_VALUE: usize = 4096;

/// A warning in the log.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The text for a person.
    pub message: &'a str,
    /// Further fields of the journal, such as `NVOCI_CODE`. Names have only `A-Z`, `0-9` and `_`.
    pub fields: &'a [(&'static str, &'a str)],
}

/// A connection to the daemon that keeps the system's log.
#[derive(Debug)]
pub struct SystemLog {
    socket: OwnedFd,
    form: Form,
}

/// The protocol of a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Journal,
    Syslog,
}

impl SystemLog {
    /// Connects to the journal, or without one to the syslog daemon; `None` if the host has neither
    /// or a socket is not root's.
    pub fn connect() -> Option<Self> {
        Self::connect_at(Path::new(JOURNAL), Path::new(SYSLOG))
    }

    fn connect_at(journal: &Path, syslog: &Path) -> Option<Self> {
        [(journal, Form::Journal), (syslog, Form::Syslog)]
            .into_iter()
            .find_map(|(path, form)| {
                let socket = connect(path)?;
                Some(Self { socket, form })
            })
    }

    /// Sends an entry.
    ///
    /// # Errors
    /// `EAGAIN` if the daemon's queue is full, `ECONNREFUSED` if it has ended.
    pub fn send(&self, entry: &Entry<'_>) -> io::Result<()> {
        let datagram = match self.form {
            Form::Journal => journal(entry),
            Form::Syslog => syslog(entry),
        };
        rustix::io::write(&self.socket, &datagram)?;
        Ok(())
    }
}

/// Connects to the socket at `path`, if only root can have made it. The connection is made by the
/// inode's descriptor, so the socket is the one that was checked.
fn connect(path: &Path) -> Option<OwnedFd> {
    // Most hosts have one of the two: a proof of its directories takes ten system calls more.
    rustix::fs::lstat(path).ok()?;
    let node = find(path)?;
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    let fd = rustix::fd::AsFd::as_fd(&node).as_raw_fd();
    socket.connect(format!("/proc/self/fd/{fd}")).ok()?;
    Some(socket.into())
}

/// The socket at `path`. It, each link to it and every directory on the way belong to root. Its
/// mode lets everybody write, as it must.
fn find(path: &Path) -> Option<Node> {
    let mut path: PathBuf = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let (dir, name) = split(&path).ok()?;
        let node = owned::find(dir).ok()??.child(name).ok()?;
        if !owned::trusted_users().contains(&node.stat().st_uid) {
            return None;
        }
        if !node.is_symlink() {
            return (node.kind() == FileType::Socket).then_some(node);
        }
        path = dir.join(node.read_link().ok()?);
    }
    None
}

/// An entry in the journal's native form. Each value has its length before it, so no value can end
/// its field or begin another.
fn journal(entry: &Entry<'_>) -> Vec<u8> {
    let mut out = format!("PRIORITY={WARNING}\nSYSLOG_FACILITY={DAEMON}\nSYSLOG_IDENTIFIER={IDENTIFIER}\n")
        .into_bytes();
    let message = [("MESSAGE", entry.message)];
    for (name, value) in message.iter().chain(entry.fields) {
        let value = plain(value);
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    }
    out
}

/// An entry as a syslog daemon reads it from its local socket.
fn syslog(entry: &Entry<'_>) -> Vec<u8> {
    let priority = DAEMON * 8 + WARNING;
    let pid = std::process::id();
    format!("<{priority}>{IDENTIFIER}[{pid}]: {}", plain(entry.message)).into_bytes()
}

/// A value without control characters, of bounded length: `journalctl` and `cat` print it as it is.
fn plain(value: &str) -> String {
    let mut text = Line(value).to_string();
    cut(&mut text, MAX_VALUE);
    text
}

/// Shortens a text to at most `max` bytes of whole characters.
pub fn cut(text: &mut String, max: usize) {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::net::UnixListener;

    /// The fields of a datagram, as journald reads them.
    fn fields(datagram: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut rest = datagram;
        let mut found = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'\n').unwrap();
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            if let Some(at) = line.iter().position(|b| *b == b'=') {
                found.push((text(&line[..at]), text(&line[at + 1..])));
                rest = after;
            } else {
                let (length, after) = after.split_at(8);
                let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
                found.push((text(line), text(&after[..length])));
                assert_eq!(after[length], b'\n');
                rest = &after[length + 1..];
            }
        }
        found
    }

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn socket(&self, name: &str) -> UnixDatagram {
            UnixDatagram::bind(self.path(name)).unwrap()
        }

        fn connect(&self) -> Option<SystemLog> {
            SystemLog::connect_at(&self.path("journal"), &self.path("log"))
        }
    }

    fn received(socket: &UnixDatagram) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 16];
        let n = socket.recv(&mut buffer).unwrap();
        buffer[..n].to_vec()
    }

    const ENTRY: Entry<'_> = Entry {
        message: "a container",
        fields: &[("NVOCI_CODE", "NVOCI-7702")],
    };

    #[test]
    fn no_value_makes_a_field_of_its_own() {
        let dir = Dir::new();
        let socket = dir.socket("journal");
        let evil = "x\nPRIORITY=0\n_UID=0\nMESSAGE\n\u{1b}[2J\u{202e}\0";
        let entry = Entry {
            message: evil,
            fields: &[("NVOCI_CODE", "NVOCI-7702"), ("IMAGE_NAME", evil)],
        };
        dir.connect().unwrap().send(&entry).unwrap();
        let found = fields(&received(&socket));
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let own = [
            "PRIORITY",
            "SYSLOG_FACILITY",
            "SYSLOG_IDENTIFIER",
            "MESSAGE",
            "NVOCI_CODE",
            "IMAGE_NAME",
        ];
        assert_eq!(names, own);
        assert_eq!(
            (found[0].1.as_str(), found[2].1.as_str(), found[4].1.as_str()),
            ("4", "nvoci", "NVOCI-7702")
        );
        for at in [3, 5] {
            assert!(
                found[at].1.starts_with("x\\nPRIORITY=0\\n_UID=0"),
                "{}",
                found[at].1
            );
            assert!(!found[at].1.chars().any(|c| c.is_control() || c == '\u{202e}'));
        }
        // Of any length it is one datagram.
        let long = "é\n".repeat(1 << 20);
        let entry = Entry {
            message: &long,
            fields: &[("IMAGE_NAME", &long)],
        };
        dir.connect().unwrap().send(&entry).unwrap();
        assert!(received(&socket).len() < 3 * MAX_VALUE);
    }

    #[test]
    fn syslog_is_for_hosts_without_a_journal() {
        let dir = Dir::new();
        let socket = dir.socket("real");
        assert!(dir.connect().is_none());
        // systemd's `/dev/log` is a link of root's.
        symlink("real", dir.path("log")).unwrap();
        let log = dir.connect().unwrap();
        assert_eq!(log.form, Form::Syslog);
        log.send(&Entry {
            message: "a\n<0>kernel: forged",
            fields: &[],
        })
        .unwrap();
        let text = String::from_utf8(received(&socket)).unwrap();
        let pid = std::process::id();
        assert_eq!(text, format!("<28>nvoci[{pid}]: a\\n<0>kernel: forged"));
        let journal = dir.socket("journal");
        assert_eq!(dir.connect().unwrap().form, Form::Journal);
        // Its daemon has ended.
        drop(journal);
        assert_eq!(dir.connect().unwrap().form, Form::Syslog);
    }

    #[test]
    fn a_full_queue_delays_nobody() {
        let dir = Dir::new();
        let socket = dir.socket("journal");
        let log = dir.connect().unwrap();
        let began = std::time::Instant::now();
        let sent = (0..10_000).filter(|_| log.send(&ENTRY).is_ok()).count();
        assert!((1..10_000).contains(&sent), "{sent}");
        assert!(began.elapsed().as_secs() < 5);
        assert_eq!(log.send(&ENTRY).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(socket);
        log.send(&ENTRY).unwrap_err();
    }

    #[test]
    fn a_socket_that_is_not_roots_is_not_used() {
        let dir = Dir::new();
        let _socket = dir.socket("journal");
        assert!(dir.connect().is_some());
        if rustix::process::geteuid().is_root() {
            chown(dir.path("journal"), Some(1000), None).unwrap();
            assert!(dir.connect().is_none());
            chown(dir.path("journal"), Some(0), None).unwrap();
            // A user's link to it, and a directory that a user can write to.
            symlink("journal", dir.path("log")).unwrap();
            rustix::fs::chownat(
                rustix::fs::CWD,
                dir.path("log"),
                Some(rustix::fs::Uid::from_raw(1000)),
                None,
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .unwrap();
            assert!(SystemLog::connect_at(Path::new("/nonexistent"), &dir.path("log")).is_none());
            chown(dir.0.path(), Some(1000), None).unwrap();
            assert!(dir.connect().is_none());
            chown(dir.0.path(), Some(0), None).unwrap();
        }
        std::fs::remove_file(dir.path("journal")).unwrap();
        for other in ["file", "dir", "stream", "loop"] {
            let at = dir.path("journal");
            let kept = match other {
                "file" => std::fs::write(&at, "").map(|()| None),
                "dir" => std::fs::create_dir(&at).map(|()| None),
                "stream" => UnixListener::bind(&at).map(Some),
                _ => symlink("journal", &at).map(|()| None),
            }
            .unwrap();
            assert!(
                SystemLog::connect_at(&at, Path::new("/nonexistent")).is_none(),
                "{other}"
            );
            drop(kept);
            let _ = std::fs::remove_file(&at);
            let _ = std::fs::remove_dir(&at);
        }
    }
}
