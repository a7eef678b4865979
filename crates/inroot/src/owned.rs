//! Finds files that only root can have written.
//!
//! Configuration decides on the contents of containers. So a file such as /etc/nvoci/config.toml is
//! read only if no other user can have made it, or any directory or symbolic link on the way to it.

use core::fmt;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::root::{Node, read_proc};
use super::text::Escaped;

/// `Result` with this module's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a path is not proved.
#[derive(Debug)]
pub enum Error {
    /// An error at this component.
    Io(PathBuf, io::Error),
    /// A user other than root can have made or changed this component, for this reason.
    Untrusted(PathBuf, String),
}

impl Error {
    /// The component.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io(path, _) | Self::Untrusted(path, _) => path,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, cause) => write!(f, "{}: {cause}", Escaped(&path.to_string_lossy())),
            Self::Untrusted(path, why) => write!(f, "{}: {why}", Escaped(&path.to_string_lossy())),
        }
    }
}

impl std::error::Error for Error {}

/// The time for which the path must keep its meaning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Term {
    /// While it is in use.
    Now,
    /// As long as a file names it.
    Lasting,
    /// Only until it is found: the links alone decide where that is.
    Search,
}

/// The most symbolic links that are followed, as in the kernel.
pub const MAX_LINKS: usize = 40;

/// The mode bit of a directory whose entries only their owners may remove.
pub const STICKY: u32 = 0o1000;
/// The mode bits by which group and others may write.
pub const OTHERS_WRITE: u32 = 0o022;

/// Finds `path`, an absolute path of the host, component by component; `None` if it does not exist.
///
/// Every directory, link and the last component must belong to root or to this process's user, and
/// not be writable by group or others. A directory with the sticky bit may be writable: in it
/// nobody else can replace root's entries.
///
/// In a user namespace the host's root appears as the overflow user, who then counts as root: a
/// process there has no rights that the file could extend.
///
/// # Errors
/// [`Error::Untrusted`] with the component.
pub fn find(path: &Path) -> Result<Option<Node>> {
    walk(path, trusted_users(), Term::Now)
}

/// As [`find`], for a path that a file names for later use. Root's entries in `/tmp` may be cleaned
/// away, and then any user can make them. So no directory on the way [lets others add
/// entries](keeps), and none is on FUSE, whose server chooses owner and content of its files.
///
/// # Errors
/// [`Error::Untrusted`] with the component.
pub fn find_lasting(path: &Path) -> Result<Option<Node>> {
    walk(path, trusted_users(), Term::Lasting)
}

/// As [`find`], for a path that the caller chose and others may share, such as one below `/tmp`.
/// Only the symbolic links on the way must belong to root or to this process's user: a link's owner
/// chooses its target.
///
/// # Errors
/// [`Error::Untrusted`] with the link.
pub fn find_by_own_links(path: &Path) -> Result<Option<Node>> {
    walk(path, trusted_users(), Term::Search)
}

/// Whether root's sticky directory of mode `mode` reserves the name of a removed entry for root.
/// Only one store does, whose group is a package manager's builders.
pub fn keeps(path: &Path, mode: u32) -> bool {
    mode & OTHERS_WRITE == 0 || (path == Path::new("/nix/store") && mode & 0o002 == 0)
}

/// Checks one inode from another lookup; `path` is its name for errors.
///
/// # Errors
/// [`Error::Untrusted`].
pub fn check(node: &Node, path: &Path) -> Result<()> {
    check_by(node, path, trusted_users(), Term::Now)
}

fn walk(path: &Path, users: &[u32], term: Term) -> Result<Option<Node>> {
    let failed = |e: io::Error| Error::Io(path.to_owned(), e);
    let root = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Node::from_fd(rustix::fs::open("/", flags, Mode::empty())?)
    };
    let mut todo = components(path);
    // The directories from the root to here, with their names.
    let mut trail = vec![(OsString::from("/"), root().map_err(failed)?)];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let here = shown(&trail, &name);
        let Some((_, dir)) = trail.last() else {
            return Ok(None);
        };
        check_by(dir, here.parent().unwrap_or(&here), users, term)?;
        let node = match dir.child(&name) {
            Ok(node) => node,
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::NOTDIR)) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(e)),
        };
        if !node.is_symlink() {
            if term != Term::Search && node.id().0 != dir.id().0 && is_users_fuse(&node) {
                return Err(Error::Untrusted(here, USERS_FUSE.to_owned()));
            }
            trail.push((name, node));
            continue;
        }
        check_by(&node, &here, users, term)?;
        links += 1;
        if links > MAX_LINKS {
            return Err(failed(Errno::LOOP.into()));
        }
        let target = node.read_link().map_err(|e| Error::Io(here, e))?;
        if target.is_absolute() {
            trail.truncate(1);
        }
        todo.extend(components(&target));
    }
    let Some((_, node)) = trail.pop() else {
        return Ok(None);
    };
    check_by(&node, path, users, term)?;
    Ok(Some(node))
}

fn check_by(node: &Node, path: &Path, users: &[u32], term: Term) -> Result<()> {
    let stat = node.stat();
    let lasting = term == Term::Lasting;
    if term == Term::Search && !node.is_symlink() {
        return Ok(());
    }
    // A user's FUSE reports any owner.
    let why = if term == Term::Search && is_users_fuse(node) {
        USERS_FUSE.to_owned()
    } else if !users.contains(&stat.st_uid) {
        format!("it belongs to user {}, not to root", stat.st_uid)
    } else if lasting && node.is_dir() && stat.st_mode & STICKY != 0 && !keeps(path, stat.st_mode) {
        format!(
            "mode {:04o} lets others replace it once it is removed",
            stat.st_mode & 0o7777
        )
    } else if lasting && may_be_fuse(node) {
        "it is on a FUSE file system, whose server chooses each file's owner and content".to_owned()
    } else if node.is_symlink() || (node.is_dir() && stat.st_mode & STICKY != 0) {
        // A link has no mode of its own.
        return Ok(());
    } else if stat.st_mode & OTHERS_WRITE != 0 {
        format!("mode {:04o} lets others write to it", stat.st_mode & 0o7777)
    } else {
        return Ok(());
    };
    Err(Error::Untrusted(path.to_owned(), why))
}

/// Whether a user's program may serve the inode: such a mount can report any owner and fail any
/// call.
pub fn may_be_fuse(node: &Node) -> bool {
    /// linux/magic.h.
    const FUSE_SUPER_MAGIC: rustix::fs::FsWord = 0x6573_5546;
    !rustix::fs::fstatfs(node.as_fd()).is_ok_and(|fs| fs.f_type != FUSE_SUPER_MAGIC)
}

/// The reason text for [`is_users_fuse`].
pub const USERS_FUSE: &str = "a user's file system is mounted on it, which can report any owner and mode";

/// Whether a user other than root has mounted a FUSE there. fusermount(1) allows it on the user's
/// own files, also in root's directories such as /home. It is checked only where a device number
/// shows a mount.
pub fn is_users_fuse(node: &Node) -> bool {
    if !may_be_fuse(node) {
        return false;
    }
    let Ok(id) = node.mount_id() else {
        return true;
    };
    // Users with a name here, so without the overflow user.
    let users = trusted_users().get(..2).unwrap_or_default();
    !mount_of(id).is_ok_and(|about| about.is_some_and(|about| is_theirs(&about, users)))
}

/// Whether one of `users` has made a mount with the mountinfo fields `about`: `TYPE SOURCE
/// OPTIONS`. The FUSE of a virtual machine (virtiofs) has another type.
fn is_theirs(about: &str, users: &[u32]) -> bool {
    let mut fields = about.split(' ');
    let kind = fields.next().unwrap_or_default();
    let options = fields.nth(1).unwrap_or_default();
    let user = options
        .split(',')
        .find_map(|option| option.strip_prefix("user_id="));
    !kind.starts_with("fuse") || user.is_some_and(|user| user.parse().is_ok_and(|user| users.contains(&user)))
}

fn mount_of(id: u64) -> io::Result<Option<String>> {
    const MAX: u64 = 16 << 20;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let list = rustix::fs::open("/proc/thread-self/mountinfo", flags, Mode::empty())?;
    let mut text = Vec::new();
    std::fs::File::from(list).take(MAX).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let of_it = |line: &&str| line.split(' ').next().and_then(|n| n.parse().ok()) == Some(id);
    let about = text.lines().find(of_it).and_then(|line| line.split_once(" - "));
    Ok(about.map(|(_, about)| about.to_owned()))
}

/// The components of a path, last first.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    names.collect()
}

fn shown(trail: &[(OsString, Node)], name: &OsStr) -> PathBuf {
    trail
        .iter()
        .map(|(name, _)| name.as_os_str())
        .chain([name])
        .collect()
}

/// The users who count as root, in this order: user 0, this process's own, who gains no rights by
/// it, and in a user namespace the overflow user.
///
/// Computed once: the process does not change its user namespace, and every file needs the list.
pub fn trusted_users() -> &'static [u32] {
    static USERS: OnceLock<Vec<u32>> = OnceLock::new();
    USERS.get_or_init(find_trusted_users)
}

fn find_trusted_users() -> Vec<u32> {
    const IDENTITY: [&str; 3] = ["0", "0", "4294967295"];
    const OVERFLOW: u32 = 65534;
    let own = rustix::process::geteuid().as_raw();
    let map = read_proc("/proc/thread-self/uid_map", 64 * 1024).unwrap_or_default();
    if map.split_whitespace().eq(IDENTITY) || map.is_empty() {
        return vec![0, own];
    }
    let overflow = read_proc("/proc/sys/kernel/overflowuid", 64);
    vec![
        0,
        own,
        overflow
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(OVERFLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_mounts_owner_is_found() {
        for (about, roots) in [
            ("fuse /dev/fuse rw,user_id=1000,group_id=1000,allow_other", false),
            ("fuse.sshfs u@h:/ rw,user_id=0,group_id=0,allow_other", true),
            ("fuse.x user_id=0 rw,user_id=10", false),
            ("fuseblk /dev/sda1 rw", false),
            ("virtiofs drivers rw", true),
        ] {
            assert_eq!(is_theirs(about, &[0, 0]), roots, "{about}");
        }
    }

    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn me() -> Vec<u32> {
        vec![0, rustix::process::geteuid().as_raw()]
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        mode(&dir.path().join("etc"), 0o755);
        fs::write(dir.path().join("etc/conf"), "x").unwrap();
        mode(&dir.path().join("etc/conf"), 0o644);
        dir
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_of_root_below_directories_of_root() {
        let dir = tree();
        let found = walk(&dir.path().join("etc/conf"), &me(), Term::Now)
            .unwrap()
            .unwrap();
        assert_eq!(found.read(8).unwrap(), b"x");
        assert!(
            walk(&dir.path().join("etc/none"), &me(), Term::Now)
                .unwrap()
                .is_none()
        );
        assert!(
            walk(&dir.path().join("none/conf"), &me(), Term::Now)
                .unwrap()
                .is_none()
        );
        assert!(
            walk(&dir.path().join("etc/conf/x"), &me(), Term::Now)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn links_are_followed_where_root_made_them() {
        let dir = tree();
        symlink("etc", dir.path().join("static")).unwrap();
        symlink("../static/conf", dir.path().join("etc/link")).unwrap();
        symlink(dir.path().join("static/link"), dir.path().join("abs")).unwrap();
        let found = walk(&dir.path().join("abs"), &me(), Term::Now).unwrap().unwrap();
        assert_eq!(found.read(8).unwrap(), b"x");
        symlink("loop", dir.path().join("loop")).unwrap();
        let e = walk(&dir.path().join("loop"), &me(), Term::Now).unwrap_err();
        assert!(
            matches!(&e, Error::Io(_, e) if e.raw_os_error() == Some(libc::ELOOP)),
            "{e}"
        );
    }

    #[test]
    fn files_that_others_could_have_written_are_refused() {
        let dir = tree();
        let file = dir.path().join("etc/conf");
        let refused = |needle: &str| {
            let e = walk(&file, &me(), Term::Now).unwrap_err();
            assert!(matches!(e, Error::Untrusted(..)), "{e}");
            assert!(e.to_string().contains(needle), "{e}");
        };
        mode(&file, 0o664);
        refused("0664");
        mode(&file, 0o644);
        mode(&dir.path().join("etc"), 0o777);
        refused("0777");
        mode(&dir.path().join("etc"), 0o1777);
        assert!(walk(&file, &me(), Term::Now).unwrap().is_some());
        // Root's own file, until it is removed.
        let e = walk(&file, &me(), Term::Lasting).unwrap_err();
        assert!(e.to_string().contains("once it is removed"), "{e}");
        let e = walk(&file, &[4_000_000_000], Term::Now).unwrap_err();
        assert!(matches!(e, Error::Untrusted(..)), "{e}");
    }

    #[test]
    fn a_name_lasts_where_nobody_else_can_take_it() {
        let nix = Path::new("/nix/store");
        for (path, mode, kept) in [
            (Path::new("/opt"), 0o40755, true),
            (Path::new("/tmp"), 0o41777, false),
            (Path::new("/opt/group"), 0o41775, false),
            (nix, 0o41775, true),
            (nix, 0o41777, false),
        ] {
            assert_eq!(keeps(path, mode), kept, "{} {mode:o}", path.display());
        }
        let usual = Path::new("/usr/bin");
        assert!(walk(usual, &me(), Term::Lasting).unwrap().is_some());
    }
}
