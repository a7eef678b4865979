//! Reads and swaps an engine's files, and keeps the record of the edits, such as
//! /var/lib/nvoci/install/docker.json.
//!
//! A temporary file in the same directory, with the old one's mode and owner, replaces a file once
//! it is on the disk; a symbolic link stays and its target is replaced. All paths are resolved
//! below a [`Root`], so `--root` works on an image's directory in the same way.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use serde_json::{Value, json};

use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::root::{Node, Root};

use super::edit::Change;
use super::model::{Engine, HOOK, SPEC};

/// The largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// The suffix of a file's copy.
pub(super) const BACKUP: &str = ".nvoci-backup";
/// The files that nvoci owns as a whole.
const WHOLE: [&str; 2] = [SPEC, HOOK];

/// A file and its text.
#[derive(Debug)]
pub struct Stored {
    /// Its absolute path below the root, symbolic links resolved.
    pub path: PathBuf,
    /// Its text; `None` if there is no such file.
    pub text: Option<String>,
    /// Mode, owner and group for its successor.
    attributes: (u32, u32, u32),
    /// Whether users other than root may write to it.
    pub loose: bool,
}

/// Reads the file at `path` and follows symbolic links.
///
/// # Errors
/// [`Code::Engine`] if it is not a readable text file, [`Code::UnsafeOwner`] if a link to it is
/// another user's.
pub fn load(root: &Root, path: &Path) -> Result<Stored> {
    let path = follow(root, path)?;
    let shown = path.display().to_string();
    let node = match root.resolve(&path) {
        Ok(node) => node,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let own = (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            );
            return Ok(Stored {
                path,
                text: None,
                attributes: (0o644, own.0, own.1),
                loose: false,
            });
        }
        Err(e) => return Err(Error::io(Code::Engine, shown, &e)),
    };
    let bytes = node.read(MAX_FILE).context(Code::Engine, || shown.clone())?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = e
            .as_bytes()
            .iter()
            .take(e.utf8_error().valid_up_to())
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        Error::new(Code::Engine, shown, format!("line {line}: not UTF-8 text"))
    })?;
    let stat = node.stat();
    Ok(Stored {
        path,
        text: Some(text),
        attributes: (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid),
        loose: stat.st_uid != 0 || stat.st_mode & 0o022 != 0,
    })
}

/// The directory that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new("/"))
}

/// The users whose files are trusted: root, the caller, and the owner of the root directory.
fn trusted(root: &Root) -> [u32; 3] {
    let own = rustix::process::geteuid().as_raw();
    [0, own, rustix::fs::fstat(root).map_or(own, |stat| stat.st_uid)]
}

/// Refuses a symbolic link of another user on the way to `path`, since that user chooses its
/// target.
fn refuse_foreign_links(root: &Root, path: &Path) -> Result<()> {
    let trusted = trusted(root);
    for part in path.ancestors() {
        let Ok(node) = root.resolve_nofollow(part) else {
            continue;
        };
        if node.is_symlink() && !trusted.contains(&node.stat().st_uid) {
            return Err(Error::new(
                Code::UnsafeOwner,
                part.display().to_string(),
                format!("a symbolic link of user {}", node.stat().st_uid),
            )
            .fix("replace the link by the file, or by a link that root owns"));
        }
    }
    Ok(())
}

/// The text of the backup of `stored`; `None` if it is gone.
///
/// # Errors
/// [`Code::Engine`] or [`Code::UnsafeOwner`] if it is a link, has a second name, or belongs to
/// another user: its content would become the engine's.
pub fn backup(root: &Root, path: &Path, stored: &Stored) -> Result<Option<String>> {
    let shown = || path.display().to_string();
    refuse_foreign_links(root, parent(path))?;
    let node = match root.resolve_nofollow(path) {
        Ok(node) => node,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(Code::Engine, shown(), &e)),
    };
    let stat = node.stat();
    if !node.is_file() || stat.st_nlink != 1 {
        return Err(Error::new(Code::Engine, shown(), "not a file of its own"));
    }
    if stat.st_uid != stored.attributes.1 {
        let why = format!("it belongs to user {}", stat.st_uid);
        return Err(Error::new(Code::UnsafeOwner, shown(), why));
    }
    let bytes = node.read(MAX_FILE).context(Code::Engine, shown)?;
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| Error::new(Code::Engine, shown(), "not UTF-8 text"))
}

/// The target of the symbolic links at `path`.
///
/// # Errors
/// [`Code::UnsafeOwner`] for a link of another user's, [`Code::Engine`] for too many.
pub(crate) fn follow(root: &Root, path: &Path) -> Result<PathBuf> {
    let mut path = Path::new("/").join(path);
    for _ in 0..40 {
        refuse_foreign_links(root, &path)?;
        match root.read_link(&path) {
            Ok(target) => path = parent(&path).join(target),
            Err(_) => return Ok(without_climbing(root, path)),
        }
    }
    Err(Error::new(
        Code::Engine,
        path.display().to_string(),
        "too many symbolic links",
    ))
}

/// The same path without `..`, which a relative link may have and a record may not.
fn without_climbing(root: &Root, path: PathBuf) -> PathBuf {
    let Some(name) = path
        .file_name()
        .filter(|_| path.components().any(|c| c == Component::ParentDir))
    else {
        return path;
    };
    let dir = || -> io::Result<PathBuf> {
        let dir = root.resolve(parent(&path))?.path()?;
        let below = dir.strip_prefix(root.path()?).map(Path::to_owned);
        below.map_err(|_| rustix::io::Errno::XDEV.into())
    };
    match dir() {
        Ok(dir) => Path::new("/").join(dir).join(name),
        // A path that does not exist is refused when the file is made.
        Err(_) => path,
    }
}

/// A file's successor on the disk, not yet in its place. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    dir: Node,
    temporary: OsString,
    name: OsString,
    /// The temporary file, below the root.
    pub path: PathBuf,
}

impl Staged {
    /// Moves the successor into the file's place.
    ///
    /// # Errors
    /// [`Code::Engine`]; the file is then unchanged.
    pub fn commit(self) -> Result<()> {
        let fd = self.dir.as_fd();
        rustix::fs::renameat(fd, &self.temporary, fd, &self.name)
            .map_err(io::Error::from)
            .context(Code::Engine, || self.path.display().to_string())?;
        sync_dir(&self.dir);
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit the name is gone.
        let _ = rustix::fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty());
    }
}

/// Writes `text` beside `stored`, with its mode and owner. The directory must exist.
///
/// # Errors
/// [`Code::Engine`].
pub fn stage(root: &Root, stored: &Stored, text: &str) -> Result<Staged> {
    stage_as(root, &stored.path, stored.attributes, text)
        .context(Code::Engine, || stored.path.display().to_string())
}

fn stage_as(root: &Root, path: &Path, (mode, uid, gid): (u32, u32, u32), text: &str) -> io::Result<Staged> {
    let (dir, name) = root.parent_of(path)?;
    for attempt in 0..16_u32 {
        // The suffix keeps it out of `*.toml`, `*.conf` and `*.json` drop-in directories.
        let temporary = OsString::from(format!(".nvoci-{}-{attempt}.tmp", std::process::id()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&dir, &temporary, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::EXIST) => continue,
            Err(e) => return Err(e.into()),
        };
        let staged = Staged {
            path: path.with_file_name(&temporary),
            dir,
            temporary,
            name,
        };
        let mut file = std::fs::File::from(fd);
        file.write_all(text.as_bytes())?;
        let stat = rustix::fs::fstat(&file)?;
        if (stat.st_uid, stat.st_gid) != (uid, gid) {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        file.sync_all()?;
        return Ok(staged);
    }
    Err(rustix::io::Errno::EXIST.into())
}

/// Writes a file of ours at once, with the attributes of `like`.
///
/// # Errors
/// [`Code::Engine`].
pub fn write_beside(root: &Root, path: &Path, like: &Stored, text: &str) -> Result<()> {
    stage_as(root, path, like.attributes, text)
        .context(Code::Engine, || path.display().to_string())?
        .commit()
}

/// Removes a file; a missing one is no error.
///
/// # Errors
/// [`Code::Engine`].
pub fn remove(root: &Root, path: &Path) -> Result<()> {
    let removed = root.parent_of(path).and_then(|(dir, name)| {
        rustix::fs::unlinkat(&dir, &name, AtFlags::empty())?;
        sync_dir(&dir);
        Ok(())
    });
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(Code::Engine, path.display().to_string(), &e))
        }
        _ => Ok(()),
    }
}

/// Makes the directory at `dir`. Returns the directories that were missing, the outermost first.
///
/// # Errors
/// [`Code::Engine`].
pub fn make_dir(root: &Root, dir: &Path, mode: u32) -> Result<Vec<PathBuf>> {
    let mut missing: Vec<PathBuf> = dir
        .ancestors()
        .take_while(|d| !root.exists(d))
        .map(Path::to_owned)
        .collect();
    missing.reverse();
    if !missing.is_empty() {
        root.mkdir_all(dir, mode)
            .context(Code::Engine, || dir.display().to_string())?;
    }
    Ok(missing)
}

/// Removes the empty ones of the directories, the innermost first.
pub fn remove_dirs(root: &Root, dirs: &[PathBuf]) {
    for dir in dirs.iter().rev() {
        if let Ok((parent, name)) = root.parent_of(dir) {
            let _ = rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR);
        }
    }
}

fn sync_dir(dir: &Node) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(fd) = rustix::fs::openat(dir, c".", flags, Mode::empty()) {
        let _ = rustix::fs::fsync(fd);
    }
}

/// The record of the edits of one engine's files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// One entry a file.
    pub files: Vec<FileRecord>,
}

/// The record of the edits of one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileRecord {
    /// The file, below the root.
    pub path: PathBuf,
    /// Whether nvoci made the file.
    pub created: bool,
    /// Whether nvoci owns it as a whole (a hooks.d file).
    pub whole: bool,
    /// Directories that nvoci made for it, the outermost first.
    pub dirs: Vec<PathBuf>,
    /// The copy of the old file.
    pub backup: Option<PathBuf>,
    /// Fingerprint of nvoci's last text; `None` if the backup is no longer its exact predecessor.
    pub written: Option<String>,
    /// The registered runtime names.
    pub names: Vec<String>,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

impl FileRecord {
    /// Whether an installation can have made this entry; an impossible one is refused.
    fn is_possible(&self, state: &Path) -> bool {
        let plain = |p: &Path| {
            p.is_absolute()
                && p.components()
                    .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
        };
        let name = self.path.file_name().unwrap_or_default();
        let mut copy = name.to_owned();
        copy.push(BACKUP);
        plain(&self.path)
            && (!self.whole || WHOLE.iter().any(|w| Path::new(w).file_name() == Some(name)))
            && self
                .dirs
                .iter()
                .all(|d| plain(d) && parent(&self.path).starts_with(d))
            && self
                .backup
                .as_ref()
                .is_none_or(|b| *b == self.path.with_file_name(&copy) || *b == state.join(&copy))
    }

    /// Adds later changes; the first old value of a key is the one to restore.
    pub fn merge(&mut self, later: Vec<Change>) {
        for change in later {
            match self.changes.iter_mut().find(|c| c.path == change.path) {
                Some(known) => known.after = change.after,
                None => self.changes.push(change),
            }
        }
    }
}

impl Record {
    /// Reads an engine's record, or an empty one if there is none.
    ///
    /// # Errors
    /// [`Code::Engine`] if it cannot be read or parsed, [`Code::UnsafeOwner`] if another user can
    /// have written it, since it lists files to remove.
    pub fn load(root: &Root, state: &Path, engine: Engine) -> Result<Self> {
        let path = record_path(state, engine);
        let failed = |e: &io::Error| Error::io(Code::Engine, path.display().to_string(), e);
        let aside = "move the file away; `nvoci uninstall` then removes the entries that it recognises";
        refuse_foreign_links(root, &path)?;
        let node = match root.resolve_nofollow(&path) {
            Ok(node) => node,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(failed(&e)),
        };
        let stat = node.stat();
        if !trusted(root).contains(&stat.st_uid) || stat.st_mode & 0o022 != 0 {
            let why = format!(
                "user {} can have written it: mode {:04o}",
                stat.st_uid,
                stat.st_mode & 0o7777
            );
            return Err(Error::new(Code::UnsafeOwner, path.display().to_string(), why).fix(aside));
        }
        let bytes = node.read(MAX_FILE).map_err(|e| failed(&e))?;
        serde_json::from_slice(&bytes)
            .ok()
            .and_then(|v| Self::from_value(&v))
            .filter(|record| record.files.iter().all(|f| f.is_possible(state)))
            .ok_or_else(|| {
                Error::new(Code::Engine, path.display().to_string(), "not a record of nvoci").fix(aside)
            })
    }

    /// Writes the record, or removes it if it is empty.
    ///
    /// # Errors
    /// [`Code::Engine`].
    pub fn save(&self, root: &Root, state: &Path, engine: Engine) -> Result<()> {
        let path = record_path(state, engine);
        if self.files.is_empty() {
            remove(root, &path)?;
            let ours = [state.parent().unwrap_or(state).to_owned(), state.to_owned()];
            remove_dirs(root, &ours);
            return Ok(());
        }
        make_dir(root, state, 0o755)?;
        let own = (
            0o600,
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        stage_as(root, &path, own, &format!("{:#}\n", self.to_value()))
            .context(Code::Engine, || path.display().to_string())?
            .commit()
    }

    /// The entry of a file.
    pub fn file(&self, path: &Path) -> Option<&FileRecord> {
        self.files.iter().find(|f| f.path == path)
    }

    /// Replaces or adds the entry of a file.
    pub fn put(&mut self, file: FileRecord) {
        match self.files.iter_mut().find(|f| f.path == file.path) {
            Some(known) => *known = file,
            None => self.files.push(file),
        }
    }

    fn to_value(&self) -> Value {
        let text = |p: &PathBuf| json!(p.to_string_lossy());
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|f| {
                let changes: Vec<Value> = f
                    .changes
                    .iter()
                    .map(|c| json!({"path": c.path, "before": c.before, "after": c.after, "existed": c.existed, "header": c.header}))
                    .collect();
                json!({
                    "path": text(&f.path), "created": f.created, "whole": f.whole,
                    "dirs": f.dirs.iter().map(text).collect::<Vec<_>>(),
                    "backup": f.backup.as_ref().map(text), "written": f.written, "names": f.names,
                    "changes": changes,
                })
            })
            .collect();
        json!({"version": 1, "files": files})
    }

    fn from_value(value: &Value) -> Option<Self> {
        let strings = |v: &Value| -> Option<Vec<String>> {
            v.as_array()?
                .iter()
                .map(|s| s.as_str().map(str::to_owned))
                .collect()
        };
        if value.get("version")? != 1 {
            return None;
        }
        let files = value
            .get("files")?
            .as_array()?
            .iter()
            .map(|f| {
                let changes = f.get("changes")?.as_array()?.iter().map(|c| {
                    Some(Change {
                        path: strings(c.get("path")?)?,
                        before: c.get("before")?.as_str().map(str::to_owned),
                        after: c.get("after")?.clone(),
                        existed: usize::try_from(c.get("existed")?.as_u64()?).ok()?,
                        header: c.get("header")?.as_bool()?,
                    })
                });
                Some(FileRecord {
                    path: f.get("path")?.as_str()?.into(),
                    created: f.get("created")?.as_bool()?,
                    whole: f.get("whole")?.as_bool()?,
                    dirs: strings(f.get("dirs")?)?.into_iter().map(PathBuf::from).collect(),
                    backup: f.get("backup")?.as_str().map(PathBuf::from),
                    written: f.get("written")?.as_str().map(str::to_owned),
                    names: strings(f.get("names")?)?,
                    changes: changes.collect::<Option<_>>()?,
                })
            })
            .collect::<Option<_>>()?;
        Some(Self { files })
    }
}

fn record_path(state: &Path, engine: Engine) -> PathBuf {
    state.join(format!("{}.json", engine.name()))
}

/// A fingerprint that distinguishes an edited file from the written one: length and FNV-1a. It
/// guards against accidents, not against root.
pub fn fingerprint(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}-{hash:016x}", text.len())
}

#[cfg(test)]
mod tests {
    use super::super::model::STATE_DIR;
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_link_stays_and_mode_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("etc/real")).unwrap();
        std::fs::write(dir.path().join("etc/real/c"), "old").unwrap();
        std::fs::set_permissions(
            dir.path().join("etc/real/c"),
            std::fs::Permissions::from_mode(0o640),
        )
        .unwrap();
        symlink("/etc/real/c", dir.path().join("etc/c")).unwrap();
        let stored = load(&root, Path::new("/etc/c")).unwrap();
        assert_eq!(stored.path, Path::new("/etc/real/c"));
        drop(stage(&root, &stored, "dropped").unwrap());
        stage(&root, &stored, "new").unwrap().commit().unwrap();
        assert!(dir.path().join("etc/c").is_symlink());
        symlink("../etc/real/c", dir.path().join("etc/d")).unwrap();
        for climbing in ["/etc/d", "/etc/real/../real/../d", "/etc/real/../real/c"] {
            assert_eq!(
                load(&root, Path::new(climbing)).unwrap().path,
                Path::new("/etc/real/c")
            );
        }
        let meta = std::fs::metadata(dir.path().join("etc/real/c")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
        assert_eq!(std::fs::read(dir.path().join("etc/real/c")).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path().join("etc/real")).unwrap().count(), 1);
    }

    #[test]
    fn a_record_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let state = Path::new(STATE_DIR);
        let mut record = Record::default();
        record.put(FileRecord {
            path: "/etc/x".into(),
            created: true,
            dirs: vec!["/etc".into()],
            written: Some(fingerprint("abc")),
            names: vec!["nvidia".into()],
            changes: vec![Change {
                path: vec!["a".into(), "b.c".into()],
                before: Some("\"x\"".into()),
                after: json!({"k": 1}),
                existed: 2,
                header: true,
            }],
            ..FileRecord::default()
        });
        record.save(&root, state, Engine::Docker).unwrap();
        assert_eq!(Record::load(&root, state, Engine::Docker).unwrap(), record);
        Record::default().save(&root, state, Engine::Docker).unwrap();
        assert_eq!(
            Record::load(&root, state, Engine::Docker).unwrap(),
            Record::default()
        );
    }

    #[test]
    fn files_of_other_users_are_refused() {
        use std::os::unix::fs::{chown, lchown};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name.trim_start_matches('/'));
        let root = Root::open(dir.path()).unwrap();
        let state = Path::new(STATE_DIR);
        std::fs::create_dir_all(at("etc")).unwrap();
        for file in ["etc/c", "etc/c.nvoci-backup", "secret"] {
            std::fs::write(at(file), file).unwrap();
        }
        let stored = load(&root, Path::new("/etc/c")).unwrap();
        let copy = Path::new("/etc/c.nvoci-backup");
        let text = backup(&root, copy, &stored).unwrap();
        assert_eq!(text.as_deref(), Some("etc/c.nvoci-backup"));
        std::fs::hard_link(at("secret"), at("etc/linked")).unwrap();
        symlink("/secret", at("etc/link")).unwrap();
        for path in ["/etc/linked", "/etc/link", "/etc"] {
            assert!(backup(&root, Path::new(path), &stored).is_err(), "{path}");
        }
        assert!(backup(&root, Path::new("/etc/none"), &stored).unwrap().is_none());

        let good = FileRecord {
            path: "/etc/c".into(),
            dirs: vec!["/etc".into()],
            backup: Some(copy.to_owned()),
            ..FileRecord::default()
        };
        let mut bad: Vec<FileRecord> = Vec::new();
        for path in ["etc/c", "/etc/../secret"] {
            bad.push(FileRecord {
                path: path.into(),
                ..good.clone()
            });
        }
        bad.push(FileRecord {
            whole: true,
            ..good.clone()
        });
        bad.push(FileRecord {
            dirs: vec!["/var".into()],
            ..good.clone()
        });
        bad.push(FileRecord {
            backup: Some("/secret".into()),
            ..good.clone()
        });
        for file in bad {
            let record = Record { files: vec![file] };
            record.save(&root, state, Engine::Docker).unwrap();
            let e = Record::load(&root, state, Engine::Docker).unwrap_err();
            assert_eq!(e.code(), Code::Engine, "{record:?}");
        }
        let record = Record { files: vec![good] };
        record.save(&root, state, Engine::Docker).unwrap();
        assert_eq!(Record::load(&root, state, Engine::Docker).unwrap(), record);

        let path = at("var/lib/nvoci/install/docker.json");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let e = Record::load(&root, state, Engine::Docker).unwrap_err();
        assert_eq!(e.code(), Code::UnsafeOwner);
        // Only root can change a file's owner.
        if rustix::process::geteuid().is_root() {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(1000), Some(1000)).unwrap();
            assert!(Record::load(&root, state, Engine::Docker).is_err());
            chown(at("etc/c.nvoci-backup"), Some(1000), Some(1000)).unwrap();
            assert!(backup(&root, copy, &stored).is_err());
            assert_eq!(
                load(&root, Path::new("/etc/link")).unwrap().path,
                Path::new("/secret")
            );
            lchown(at("etc/link"), Some(1000), Some(1000)).unwrap();
            let e = load(&root, Path::new("/etc/link")).unwrap_err();
            assert_eq!(e.code(), Code::UnsafeOwner);
        }
    }

    #[test]
    fn no_text_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("c"), b"a\n\xff").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let e = load(&root, Path::new("c")).unwrap_err();
        assert!(e.why().starts_with("line 2"), "{e}");
    }
}
