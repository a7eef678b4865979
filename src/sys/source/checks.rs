//! The checks of attributes, and their errors.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use super::sockets::{MAX_SEARCHED, search};
use super::uses::Rule;
use super::{Dir, Walk, known_users, name_of, shown};
use crate::error::{Code, Error, Result};
use crate::sys::owned::{self, OTHERS_WRITE};
use crate::sys::root::Node;

impl Walk<'_> {
    /// Checks owner and mode of an entry that is not a directory.
    pub(super) fn check(&self, dir: &Dir, stat: &Stat, real: &Path) -> Result<()> {
        self.check_user(dir, stat.st_uid, real)?;
        if stat.st_mode & OTHERS_WRITE != 0 {
            return Err(self.writable(real, stat));
        }
        Ok(())
    }

    /// The overflow user may be any user, so it proves nothing in a directory where everybody can
    /// make entries.
    pub(super) fn check_user(&self, dir: &Dir, user: u32, real: &Path) -> Result<()> {
        let known = if dir.firm {
            owned::trusted_users()
        } else {
            known_users()
        };
        if known.contains(&user) || self.also == Some(user) {
            return Ok(());
        }
        Err(self.foreign(real, user))
    }

    pub(super) fn check_type(&self, real: &Path, stat: &Stat, rule: &Rule) -> Result<()> {
        if rule.types.contains(&FileType::from_raw_mode(stat.st_mode)) {
            return Ok(());
        }
        Err(self.wrong_type(real, stat, rule.expected))
    }

    pub(super) fn check_no_sockets(&self, real: &Path, node: &Node) -> Result<()> {
        let mut left = MAX_SEARCHED;
        match search(node, &mut left, 0) {
            Ok(None) => Ok(()),
            Ok(Some(socket)) => {
                let why = format!(
                    "it holds the socket {}, and a read-only mount does not stop a container from connecting",
                    socket.display()
                );
                let e = Error::new(Code::UnsafePath, self.shown(real), why);
                Err(e.fix("name the files that containers need instead of the directory"))
            }
            Err(e) => Err(Error::io(Code::UnsafePath, self.shown(real), &e)
                .fix("name a smaller directory, or its files: the whole of it is searched for sockets")),
        }
    }

    pub(super) fn wrong_type(&self, real: &Path, stat: &Stat, expected: &str) -> Error {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let why = format!("expected {expected}, found {}", name_of(kind));
        let fix = format!("remove it, or put {expected} there; a link is not followed");
        Error::new(Code::UnsafePath, self.shown(real), why).fix(fix)
    }

    pub(super) fn writable(&self, real: &Path, stat: &Stat) -> Error {
        let mode = stat.st_mode & 0o7777;
        self.refused(real, format!("mode {mode:04o} lets others write to it"))
    }

    pub(super) fn foreign(&self, real: &Path, user: u32) -> Error {
        self.refused(real, format!("it belongs to user {user}, not to root"))
    }

    pub(super) fn refused(&self, real: &Path, why: String) -> Error {
        Error::new(Code::UnsafeOwner, self.shown(real), why)
    }

    pub(super) fn missing(&self, real: &Path, e: &io::Error) -> Error {
        Error::io(Code::NoLibraries, self.shown(real), e)
    }

    pub(super) fn on_host(&self, real: &Path) -> PathBuf {
        self.at.join(real.strip_prefix("/").unwrap_or(real))
    }

    pub(super) fn shown(&self, real: &Path) -> String {
        shown(&self.on_host(real))
    }
}
