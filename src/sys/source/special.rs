//! Sources that are not files of the driver: device nodes, sockets, the directory of MPS's pipes.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat};

use super::{Source, Take, Use, Walk, below, shown};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::mount::HostPlace;
use crate::sys::owned::{self, OTHERS_WRITE};
use crate::sys::root::{DeviceNumber, Node, split};

impl Walk<'_> {
    /// A device node is identified by its number.
    pub(super) fn device(&self, path: &Path, number: DeviceNumber, take: Take<'_>) -> Result<Source> {
        let what = || format!("device node {}", self.shown(path));
        let is_it = |stat: &Stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && DeviceNumber::from_raw(stat.st_rdev) == number
        };
        let other = || {
            let why = format!("it is not the character device {number}");
            Error::new(Code::DeviceNode, what(), why)
        };
        let name = below(path);
        // A path of one component needs no resolution.
        if name.components().count() == 1 && name.file_name().is_some() {
            let Take(code, take) = take;
            let stat = || rustix::fs::statat(self.root, name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = match take(HostPlace::Path(self.root.as_fd(), name)) {
                Ok(Some(stat)) => stat,
                Ok(None) => stat().map_err(io::Error::from).context(Code::DeviceNode, what)?,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                    return Err(Error::io(Code::DeviceNode, what(), &e));
                }
                Err(e) => return Err(Error::io(code, what(), &e)),
            };
            if !is_it(&stat) {
                return Err(other());
            }
            return Ok(self.source(stat, path, true));
        }
        let node = self.root.resolve_nofollow(path).context(Code::DeviceNode, what)?;
        if !is_it(node.stat()) {
            return Err(other());
        }
        self.taken(HostPlace::Node(&node), node.stat(), path, true, take)
    }

    /// A socket must belong to its directory's owner: root, or the daemon that root made the
    /// directory for. A hard link to another daemon's socket, or a mount of one, is refused.
    pub(super) fn socket(&self, path: &Path, take: Take<'_>) -> Result<Source> {
        let (at, name) = split(path).context(Code::System, || shown(path))?;
        let (above, own) = split(at).context(Code::System, || shown(path))?;
        let above = self.dir(above, &mut 0)?;
        let real = above.path.join(own);
        let dir = self.child(&above, own, &real)?;
        if !above.firm {
            return Err(self.refused(
                &above.path,
                "users other than root can put entries there".to_owned(),
            ));
        }
        if !dir.is_dir() {
            return Err(self.wrong_type(&real, dir.stat(), "a directory"));
        }
        if dir.stat().st_mode & OTHERS_WRITE != 0 {
            return Err(self.writable(&real, dir.stat()));
        }
        let real = real.join(name);
        let node = dir.child(name).map_err(|e| self.missing(&real, &e))?;
        let rule = Use::Socket.rule();
        self.check_type(&real, node.stat(), &rule)?;
        let (user, owner) = (node.stat().st_uid, dir.stat().st_uid);
        let roots = owned::trusted_users();
        let of_root = roots.contains(&owner);
        if user != owner && !(of_root && roots.contains(&user)) {
            let why = format!("it belongs to user {user}, and its directory to user {owner}");
            return Err(self.refused(&real, why));
        }
        let mount = |node: &Node| node.mount_id().context(Code::System, || self.shown(&real));
        if node.stat().st_nlink != 1 || mount(&node)? != mount(&dir)? {
            let why = "it is another socket, linked or mounted there".to_owned();
            return Err(self
                .refused(&real, why)
                .fix("restart the daemon, so that it makes a socket of its own"));
        }
        let lasting = above.lasting && of_root;
        self.taken(HostPlace::Node(&node), node.stat(), &real, lasting, take)
    }

    /// MPS's directory holds sockets, and a program connects to any of the right name, so only the
    /// owner may make one.
    pub(super) fn pipes(&self, path: &Path, wanted: Use, take: Take<'_>) -> Result<Source> {
        let (at, name) = split(path).context(Code::System, || shown(path))?;
        let above = self.dir(at, &mut 0)?;
        let real = above.path.join(name);
        let node = self.child(&above, name, &real)?;
        let rule = wanted.rule();
        self.check_type(&real, node.stat(), &rule)?;
        if let Err(e) = self.check_user(&above, node.stat().st_uid, &real) {
            return Err(e.fix(format!(
                "if this user's MPS daemon is meant for containers, set `mps-dir` and `mps-user = {}` in /etc/nvoci/config.toml",
                node.stat().st_uid
            )));
        }
        if node.stat().st_mode & OTHERS_WRITE != 0 {
            let fix = format!(
                "`chmod 0755 {}`: the daemon and its clients of all users go on working",
                self.shown(&real)
            );
            return Err(self.writable(&real, node.stat()).fix(fix));
        }
        let of_root = owned::trusted_users().contains(&node.stat().st_uid);
        let lasting = above.lasting && of_root;
        self.taken(HostPlace::Node(&node), node.stat(), &real, lasting, take)
    }
}
