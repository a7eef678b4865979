//! Proofs of an earlier process that still hold.
//!
//! A directory that root alone can change has the entries that it had, as long as its inode has not
//! changed: the kernel updates the time of the last change with every name that is added, removed
//! or replaced, and no call sets it. So a later process proves the directories again, compares
//! their times, and then takes the links and the entries in them from the record.
//!
//! | part of a record | checked when it is read |
//! |---|---|
//! | a directory | owner, mode and kind as always; inode; the time, if a name in it matters |
//! | a name that was missing in `/run`, whose time changes often | it is still missing |
//! | a link | by its directory's time |
//! | an entry whose inode is bound later | by its directory's time; owner, mode and kind of the clone |
//! | any other entry | inode and time |
//!
//! The caller takes a record only from a file that root alone can have written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Dir, Trace, Walk, below};

/// Directories in which unrelated entries come and go.
const BUSY: &[&str] = &["/run"];

/// Seconds for which a changed inode may change again without a new time; FAT's times are the
/// coarsest.
const GRAIN: i64 = 2;

/// The most paths of each kind that are recorded.
const MAX_PATHS: usize = 1024;

/// An inode, and the time of its last change.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// That of an inode with these attributes.
    // The kernel's types of them differ between architectures.
    #[allow(clippy::unnecessary_cast, trivial_numeric_casts, clippy::cast_possible_wrap)]
    pub fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Whether a later change certainly has another time; `now` is in seconds since 1970.
    pub fn lasts(&self, now: i64) -> bool {
        self.changed.0 > 0 && self.changed.0 + GRAIN < now
    }
}

/// The attributes of an entry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Entry {
    stamp: Stamp,
    mode: u32,
    uid: u32,
    size: i64,
}

/// The record; see the module.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Recorded {
    /// Directories by paths without links, parents first, and whether their entries matter.
    dirs: Vec<(PathBuf, Stamp, bool)>,
    missing: Vec<PathBuf>,
    links: BTreeMap<PathBuf, PathBuf>,
    /// Entries that are bound later.
    bound: BTreeMap<PathBuf, Entry>,
    others: Vec<(PathBuf, Stamp)>,
    /// Attributes to which those of an entry are added.
    #[serde(skip)]
    pattern: Option<Stat>,
}

impl Recorded {
    pub(super) fn link(&self, real: &Path) -> Option<&PathBuf> {
        self.links.get(real)
    }

    pub(super) fn entry(&self, real: &Path) -> Option<Stat> {
        let (entry, mut stat) = (self.bound.get(real)?, self.pattern?);
        stat.st_dev = entry.stamp.dev;
        stat.st_ino = entry.stamp.ino;
        stat.st_mode = entry.mode;
        stat.st_uid = entry.uid;
        stat.st_size = entry.size;
        Some(stat)
    }
}

impl Walk<'_> {
    /// Adds a directory of which all entries matter.
    pub fn keep_listed(&self, path: &Path) {
        match self.trace(path) {
            Trace::Dir(_) => self.proved.borrow_mut().listed.push(path.to_owned()),
            Trace::Missing => {}
            _ => self.keep_nothing(),
        }
    }

    /// Results depend on more than this walk proves, so no record is made.
    pub fn keep_nothing(&self) {
        self.proved.borrow_mut().is_partial = true;
    }

    /// A record of the proofs, for a process that binds the files `is_bound` accepts. `None` if a
    /// path was not proved, or if an inode has changed so recently that its next change may have
    /// the same time. `now` is in seconds since 1970.
    pub fn record(&self, now: i64, is_bound: impl Fn(&Path) -> bool) -> Option<Recorded> {
        let listed = self.proved.borrow().listed.clone();
        let listed: Option<Vec<PathBuf>> = listed
            .iter()
            .map(|path| Some(self.known(path)?.path.clone()))
            .collect();
        let proved = self.proved.borrow();
        if proved.is_partial {
            return None;
        }
        let is_busy = |path: &&PathBuf| {
            let dir = path.parent().and_then(Path::to_str);
            dir.is_some_and(|dir| BUSY.contains(&dir))
        };
        let (missing, gone): (Vec<&PathBuf>, Vec<&PathBuf>) = proved.missing.iter().partition(is_busy);
        let named = proved.links.keys().chain(proved.others.keys()).map(Path::new);
        let named = named.chain(gone.into_iter().map(PathBuf::as_path));
        let mut watched: BTreeSet<PathBuf> =
            named.filter_map(|path| Some(path.parent()?.to_owned())).collect();
        watched.extend(listed?);

        let mut dirs: BTreeMap<&Path, &Dir> = BTreeMap::new();
        for (_, dir) in &proved.dirs {
            if dir.held.is_some() {
                return None;
            }
            dirs.insert(&dir.path, dir);
        }
        let mut record = Recorded::default();
        // A parent's path comes before its children's.
        for (path, dir) in dirs {
            let is_watched = watched.remove(path);
            if is_watched && !dir.stamp.lasts(now) {
                return None;
            }
            record.dirs.push((path.to_owned(), dir.stamp, is_watched));
        }
        record.missing = missing.into_iter().cloned().collect();
        record.links = proved
            .links
            .iter()
            .map(|(at, to)| (at.into(), to.clone()))
            .collect();
        for (path, stat) in &proved.others {
            let (path, stamp) = (PathBuf::from(path), Stamp::of(stat));
            if !is_bound(&path) {
                if !stamp.lasts(now) {
                    return None;
                }
                record.others.push((path, stamp));
                continue;
            }
            let (mode, uid, size) = (stat.st_mode, stat.st_uid, stat.st_size);
            record.bound.insert(
                path,
                Entry {
                    stamp,
                    mode,
                    uid,
                    size,
                },
            );
        }
        let lengths = [
            record.dirs.len(),
            record.missing.len(),
            record.links.len(),
            record.bound.len(),
            record.others.len(),
        ];
        // Something was proved in a directory that was not.
        let is_whole = watched.is_empty() && lengths.iter().all(|n| *n <= MAX_PATHS);
        is_whole.then_some(record)
    }

    /// Proves the directories of `record` again and returns whether it still holds. If it does,
    /// [`Walk::bind`] takes links and entries from it.
    pub fn restore(&self, record: Recorded) -> bool {
        let holds = self.holds(&record);
        if let Some(pattern) = holds {
            self.proved.borrow_mut().recorded = Recorded {
                pattern: Some(pattern),
                ..record
            };
        }
        holds.is_some()
    }

    /// The root's attributes, if the record holds.
    fn holds(&self, record: &Recorded) -> Option<Stat> {
        for (path, stamp, is_watched) in &record.dirs {
            let dir = self.dir(path, &mut 0).ok()?;
            let is_same = if *is_watched {
                dir.stamp == *stamp
            } else {
                dir.id == (stamp.dev, stamp.ino)
            };
            if !is_same || dir.held.is_some() || dir.path != *path {
                return None;
            }
        }
        let stat = |path: &Path| rustix::fs::statat(self.root, below(path), AtFlags::SYMLINK_NOFOLLOW);
        let gone = |path: &PathBuf| stat(path).is_err_and(|e| e == Errno::NOENT);
        let same = |(path, stamp): &(PathBuf, Stamp)| stat(path).is_ok_and(|now| Stamp::of(&now) == *stamp);
        if !record.missing.iter().all(gone) || !record.others.iter().all(same) {
            return None;
        }
        rustix::fs::fstat(self.root).ok()
    }
}
