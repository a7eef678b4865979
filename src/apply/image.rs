//! What is read of an image: by a child that can do nothing else ([`crate::sys::reader`]), beside the work of this process.
//!
//! ```text
//!  parent                                      child, without rights
//!  ──────                                      ─────────────────────
//!  Image::open ──────────────────────────────► enter the container's mount namespace, give up all rights
//!  open and clone the driver's files           look at the place of the driver directory
//!  enter the container's mount namespace
//!  Image::answers ◄───────────────────────────
//!  attach the driver directory                 what the caller wants to know first (preflight)
//!  Image::driver_is_at ──────────────────────► CUDA compatibility libraries, missing libraries
//!  bind the driver's files                     the loader's configuration; extend or rebuild its cache for a driver
//!  Image::hear, seen, loader ◄──────────────── directory at its first candidate (again, if it is at another)
//! ```
//!
//! Neither waits for the other where it can go on: to wake a process takes as long as to bind ten files. But this process
//! touches nothing of the image before the child has, whose end by a file system that never answers is no harm.
//!
//! What the child says is believed no more than the image itself: it becomes a warning, the target of a link, or the
//! content of a file in that image.

use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::container::Container;
pub use super::cuda_compat::text;
use super::cuda_compat::{self, Preferred};
use super::loader::{first_dirs, updated};
use super::texts::lacking;
use crate::error::{Code, Error, Result};
use crate::ldso::{CacheOutcome, Change, How, Warnings, cache_place};
use crate::plan::Plan;
use crate::sys::ns::MountNs;
use crate::sys::reader::{Port, Reader};
use crate::sys::root::Root;

/// The image of a container, read by a child.
#[derive(Debug)]
pub struct Image {
    reader: Reader,
    /// Where the driver directory is elsewhere than the child has to think at first.
    moved: bool,
}

/// What an image has that the plan depends on.
#[derive(Debug)]
pub(super) struct Seen {
    /// Its CUDA compatibility libraries.
    pub(super) preferred: Preferred,
    /// For each of the plan's texts, whether a library is missing that it is about.
    pub(super) lacking: Vec<bool>,
}

impl Image {
    /// Starts to read the image at `rootfs` for `plan`, in the mount namespace `namespace` or else the caller's. [`Self::answers`]
    /// comes first of all, then what `first` says in the child.
    ///
    /// # Errors
    /// [`Code::System`] when there can be no child. That there is no such rootfs is heard as [`Code::Image`]: whoever opens
    /// it too has the better words.
    pub fn open(
        rootfs: &Path,
        namespace: Option<&MountNs>,
        plan: &Plan,
        first: impl FnOnce(&Root, &mut Port) -> io::Result<()>,
    ) -> Result<Self> {
        Self::read(rootfs, namespace, |root, port| {
            let _ = likely_dir(plan).map(|dir| root.resolve(dir));
            port.say(&[])?;
            first(root, port)?;
            look(root, plan, port)
        })
    }

    /// Waits until the image's file system has answered to a look at the place of the driver directory.
    ///
    /// # Errors
    /// As of [`Self::hear`].
    pub fn answers(&mut self) -> Result<()> {
        self.hear().map(drop)
    }

    /// Starts a child that reads the image at `rootfs` as `work` says.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn read(
        rootfs: &Path,
        namespace: Option<&MountNs>,
        work: impl FnOnce(&Root, &mut Port) -> io::Result<()>,
    ) -> Result<Self> {
        let open = || {
            namespace.map_or(Ok(()), MountNs::enter)?;
            Container::open_root(rootfs).map_err(io::Error::other)
        };
        let reader = Reader::start(open, work).map_err(|e| {
            Error::io(Code::System, "a process to read the image with", &e)
                .fix("see the cause; a limit on processes (`--pids-limit`) must leave room for one")
        })?;
        Ok(Self { reader, moved: false })
    }

    /// What the child says next.
    ///
    /// # Errors
    /// [`Code::Image`] when it says nothing in time, or ends.
    pub fn hear(&mut self) -> Result<Vec<Vec<u8>>> {
        self.reader.hear().map_err(|e| unreadable(&e))
    }

    /// What the plan depends on.
    pub(super) fn seen(&mut self) -> Result<Seen> {
        let mut parts = self.hear()?.into_iter();
        let lacking = parts.next().unwrap_or_default();
        let preferred = Preferred::from_parts(parts).ok_or_else(|| unreadable(&odd()))?;
        Ok(Seen {
            preferred,
            lacking: lacking.into_iter().map(|b| b != 0).collect(),
        })
    }

    /// Tells the child where the driver directory is, in the container, and nothing more.
    pub(super) fn driver_is_at(&mut self, path: &Path, plan: &Plan) -> Result<()> {
        self.moved = likely_dir(plan) != Some(path);
        if self.moved {
            let said = self.reader.say(&[path.as_os_str().as_bytes()]);
            said.map_err(|e| unreadable(&e))?;
        }
        self.reader.say_no_more();
        Ok(())
    }

    /// The loader's new cache.
    pub(super) fn loader(&mut self) -> Result<CacheOutcome> {
        if self.moved {
            self.hear()?;
        }
        outcome_of(self.hear()?.into_iter()).ok_or_else(|| unreadable(&odd()))
    }

    /// What a scan found that was asked for by [`say_scan`].
    pub(super) fn scan(&mut self) -> Result<Scanned> {
        let said = self.hear()?.into_iter();
        scanned_of(said).ok_or_else(|| unreadable(&odd()))
    }
}

/// A scan with all that follows from it.
#[derive(Debug)]
pub(super) struct Scanned {
    /// Directories that the image's configuration does not name yet.
    pub(super) dirs: Vec<PathBuf>,
    /// Links to make and to remove.
    pub(super) changes: Vec<Change>,
    /// The cache.
    pub(super) outcome: CacheOutcome,
}

/// The child's part of [`Image::scan`].
pub(super) fn say_scan(port: &mut Port, scanned: &Scanned) -> io::Result<()> {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let counts = [count(scanned.dirs.len()), count(scanned.changes.len())];
    let mut parts: Vec<&[u8]> = vec![&counts[0]];
    parts.extend(scanned.dirs.iter().map(|dir| dir.as_os_str().as_bytes()));
    parts.push(&counts[1]);
    parts.extend(scanned.changes.iter().flat_map(Change::parts));
    say_outcome(port, parts, &scanned.outcome)
}

/// The child's part of [`Image::open`].
fn look(root: &Root, plan: &Plan, port: &mut Port) -> io::Result<()> {
    let preferred = cuda_compat::look_for(root, plan);
    let lacking: Vec<u8> = lacking(root, &plan.texts).map(u8::from).collect();
    let mut parts: Vec<&[u8]> = vec![&lacking];
    parts.extend(preferred.parts());
    port.say(&parts)?;
    let plan = preferred.plan(plan);
    let say = |port: &mut Port, dir: &Path| say_outcome(port, Vec::new(), &cache_for(root, dir, &plan));
    // Without a candidate there is none to be wrong about, but always a first answer.
    say(port, likely_dir(&plan).unwrap_or_else(|| Path::new("/")))?;
    match port.hear_if_any()?.and_then(|mut said| said.pop()) {
        Some(dir) => say(port, &path(dir)),
        None => Ok(()),
    }
}

/// The loader's new cache for a driver directory `dir`.
fn cache_for(root: &Root, dir: &Path, plan: &Plan) -> CacheOutcome {
    updated(root, &first_dirs(dir, plan))
}

/// What the child reads of an image and what follows for the cache, without a child: for the fuzz targets.
#[doc(hidden)]
pub fn cache_of(root: &Root, plan: &Plan) -> CacheOutcome {
    let plan = cuda_compat::look_for(root, plan).plan(plan).into_owned();
    let _ = lacking(root, &plan.texts).count();
    cache_for(root, likely_dir(&plan).unwrap_or_else(|| Path::new("/")), &plan)
}

/// Where the driver directory will be in nearly all images.
pub fn likely_dir(plan: &Plan) -> Option<&Path> {
    plan.driver_dirs.first().map(PathBuf::as_path)
}

fn say_outcome<'p>(port: &mut Port, mut parts: Vec<&'p [u8]>, outcome: &'p CacheOutcome) -> io::Result<()> {
    let (how, reason) = match &outcome.how {
        How::Merged => ("merged", ""),
        How::Rebuilt { reason } => ("rebuilt", reason.as_str()),
        How::MuslPath => ("musl", ""),
        How::None => ("none", ""),
    };
    parts.extend([
        how.as_bytes(),
        reason.as_bytes(),
        outcome.target.as_bytes(),
        &outcome.bytes,
    ]);
    parts.extend(outcome.warnings.iter().map(String::as_bytes));
    port.say(&parts)
}

fn scanned_of(mut parts: impl Iterator<Item = Vec<u8>>) -> Option<Scanned> {
    let count = |raw: Vec<u8>| Some(u32::from_le_bytes(raw.try_into().ok()?));
    let mut dirs = Vec::new();
    for _ in 0..count(parts.next()?)? {
        dirs.push(path(parts.next()?));
    }
    let mut changes = Vec::new();
    for _ in 0..count(parts.next()?)? {
        changes.push(Change::from_parts([parts.next()?, parts.next()?, parts.next()?])?);
    }
    let outcome = outcome_of(parts)?;
    Some(Scanned {
        dirs,
        changes,
        outcome,
    })
}

fn outcome_of(mut parts: impl Iterator<Item = Vec<u8>>) -> Option<CacheOutcome> {
    let (how, reason) = (parts.next()?, text(parts.next()?));
    let how = match how.as_slice() {
        b"merged" => How::Merged,
        b"rebuilt" => How::Rebuilt { reason },
        b"musl" => How::MuslPath,
        b"none" => How::None,
        _ => return None,
    };
    Some(CacheOutcome {
        how,
        // A place that is known, not one that is said.
        target: cache_place(&parts.next()?)?,
        bytes: parts.next()?,
        warnings: {
            // As few and as plain as the child should have made them.
            let mut warnings = Warnings::default();
            parts.for_each(|part| warnings.add(format_args!("{}", text(part))));
            warnings.into_lines()
        },
    })
}

fn path(part: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(part))
}

fn odd() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "what was said about it makes no sense",
    )
}

fn unreadable(e: &io::Error) -> Error {
    const WHAT: &str = "the image's files";
    match e.kind() {
        io::ErrorKind::TimedOut => Error::new(
            Code::Image,
            WHAT,
            "a file system of the container does not answer",
        ),
        io::ErrorKind::FileTooLarge => Error::new(
            Code::TooLarge,
            WHAT,
            "reading them takes more processor time or memory than they may",
        ),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Error::new(
            Code::Image,
            WHAT,
            "the process that reads them came to an early end",
        ),
        _ => Error::io(Code::Image, WHAT, e),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use proptest::prelude::*;

    use super::*;
    use crate::ldso::CACHE;

    fn parts_of(said: Vec<&[u8]>) -> Vec<Vec<u8>> {
        said.into_iter().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn compatibility_libraries_are_names_in_one_directory() {
        let all = [
            Preferred::Nothing,
            Preferred::Refused("too new".to_owned()),
            Preferred::Use {
                dir: PathBuf::from("/usr/local/cuda/compat"),
                names: vec![
                    OsString::from("libcuda.so.1"),
                    OsString::from("libnvidia-nvvm.so.4"),
                ],
            },
        ];
        for preferred in all {
            assert_eq!(
                Preferred::from_parts(parts_of(preferred.parts()).into_iter()),
                Some(preferred)
            );
        }
        for broken in [
            &[b"use".as_slice(), b"relative", b"libcuda.so.1"] as &[&[u8]],
            &[b"use", b"/x", b"../libcuda.so.1"],
            &[b"use", b"/x", b"lib/../../etc/passwd"],
            &[b"use", b"/x", b"passwd"],
            &[b"refused"],
            &[b"other"],
            &[],
        ] {
            assert_eq!(Preferred::from_parts(parts_of(broken.to_vec()).into_iter()), None);
        }
    }

    #[test]
    fn a_cache_is_for_a_loaders_place_alone() {
        let said = |place: &[u8]| parts_of(vec![b"merged", b"", place, b"bytes", b"odd\x1b[2J"]);
        let outcome = outcome_of(said(CACHE.as_bytes()).into_iter()).unwrap();
        assert_eq!((outcome.how, outcome.target), (How::Merged, CACHE));
        assert!(!outcome.warnings[0].contains('\x1b'));
        for place in [b"/etc/passwd".as_slice(), b"/etc/ld.so.cache/", b""] {
            assert!(outcome_of(said(place).into_iter()).is_none());
        }
        let many = said(CACHE.as_bytes())
            .into_iter()
            .chain(std::iter::repeat_n(b"x".to_vec(), 9_000));
        assert!(outcome_of(many).unwrap().warnings.len() < 100);
    }

    #[test]
    fn links_stay_in_their_directory() {
        let dir = b"/usr/lib".as_slice();
        for (name, target) in [
            (b"../x".as_slice(), b"libx.so.1.0".as_slice()),
            (b"libx.so.1", b"/etc/passwd"),
            (b"libx.so.1", b".."),
            (b"", b"libx.so.1.0"),
            (b".", b""),
        ] {
            assert_eq!(
                Change::from_parts([dir.to_vec(), name.to_vec(), target.to_vec()]),
                None
            );
        }
        let change = Change::from_parts([dir.to_vec(), b"libx.so.1".to_vec(), Vec::new()]).unwrap();
        assert_eq!(change.target, None);
        assert_eq!(
            Change::from_parts(change.parts().map(<[u8]>::to_vec)),
            Some(change)
        );
    }

    proptest! {
        /// Whatever a child says is an answer or none.
        #[test]
        fn nonsense_is_no_answer(
            said in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..12),
                    prop::sample::select(vec![b"use".to_vec(), b"merged".to_vec(), CACHE.as_bytes().to_vec(), vec![1, 0, 0, 0], Vec::new()]),
                ],
                0..12,
            )
        ) {
            let _ = Preferred::from_parts(said.clone().into_iter());
            let _ = outcome_of(said.clone().into_iter());
            let _ = scanned_of(said.into_iter());
        }
    }
}
