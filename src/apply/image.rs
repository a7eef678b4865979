//! What is read of an image: by a child that can do nothing else ([`crate::sys::reader`]), beside the work of this process.
//!
//! ```text
//!  parent                                      child, without rights
//!  ──────                                      ─────────────────────
//!  Image::open ──────────────────────────────► enter the container's mount namespace, give up all rights
//!  open and clone the driver's files           look at the place of the driver directory
//!  enter the container's mount namespace
//!  Image::answers ◄─────────────────────────── Message::Ready
//!  attach the driver directory                 preflight: Message::Findings
//!  Image::driver_is_at ──────────────────────► CUDA compatibility libraries, missing libraries
//!  bind the driver's files                     Message::Seen; the loader's configuration; extend or rebuild its cache for a driver
//!  Image::findings, seen, loader ◄──────────── directory at its first candidate: Message::Cache (again, if it is at another)
//! ```
//!
//! Neither waits for the other where it can go on: to wake a process takes as long as to bind ten files. But this process
//! touches nothing of the image before the child has, whose end by a file system that never answers is no harm.
//!
//! The parent trusts the child's messages no more than the image itself ([`super::message`] checks them): a value of one
//! becomes a warning, the target of a link, or the content of a file in that image.

use std::io;
use std::path::{Path, PathBuf};

use super::container::Container;
use super::cuda_compat::{self, Found};
use super::loader::{first_dirs, updated};
use super::message::{Message, PreflightFinding, Refused, Scanned, Seen};
use super::texts::lacking;
use crate::error::{Code, Error, Result};
use crate::ldso::CacheOutcome;
use crate::plan::Plan;
use crate::sys::ns::MountNs;
use crate::sys::reader::{MAX_MESSAGE, Port, Reader};
use crate::sys::root::Root;

/// The longest message but a cache or a scan, in bytes.
const SHORT: usize = 1 << 20;

/// The image of a container, read by a child.
#[derive(Debug)]
pub struct Image {
    reader: Reader,
    /// Where the driver directory is elsewhere than the child has to think at first.
    moved: bool,
}

impl Image {
    /// Starts to read the image at `rootfs` for `plan`, in the mount namespace `namespace` or else the caller's. The child's
    /// messages are due in this order: [`Self::answers`], [`Self::findings`] (what `preflight` returns in the child),
    /// [`Self::seen`], [`Self::loader`].
    ///
    /// # Errors
    /// [`Code::System`] when there can be no child. If there is no such rootfs, [`Self::answers`] fails with [`Code::Image`]:
    /// whoever opens it too has the better words.
    pub fn open(
        rootfs: &Path,
        namespace: Option<&MountNs>,
        plan: &Plan,
        preflight: impl FnOnce(&Root) -> Vec<PreflightFinding>,
    ) -> Result<Self> {
        Self::read(rootfs, namespace, |root, port| {
            let _ = likely_dir(plan).map(|dir| root.resolve(dir));
            Message::Ready.send(port)?;
            Message::Findings(preflight(root)).send(port)?;
            answer(root, plan, port)
        })
    }

    /// Starts a child that reads the image at `rootfs` and sends what `work` sends.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub(super) fn read(
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

    /// The next message, of at most `max` bytes.
    ///
    /// # Errors
    /// [`Code::Image`] when none comes in time, the child ends, or a check of [`super::message`] refuses it;
    /// [`Code::TooLarge`] when the child was killed for what it uses.
    fn next(&mut self, max: usize) -> Result<Message> {
        let bytes = self.reader.recv(max).map_err(|e| unreadable(&e))?;
        Message::receive(&bytes).map_err(|e| unreadable(&e.into()))
    }

    /// Waits until the image's file system has answered to a look at the place of the driver directory.
    ///
    /// # Errors
    /// As of [`Code::Image`]: no answer in time, or a message that is refused.
    pub fn answers(&mut self) -> Result<()> {
        match self.next(SHORT)? {
            Message::Ready => Ok(()),
            _ => Err(out_of_turn()),
        }
    }

    /// What the preflight found.
    ///
    /// # Errors
    /// As [`Self::answers`].
    pub fn findings(&mut self) -> Result<Vec<PreflightFinding>> {
        match self.next(SHORT)? {
            Message::Findings(findings) => Ok(findings),
            _ => Err(out_of_turn()),
        }
    }

    /// What the plan depends on.
    pub(super) fn seen(&mut self) -> Result<Seen> {
        match self.next(SHORT)? {
            Message::Seen(seen) => Ok(seen),
            _ => Err(out_of_turn()),
        }
    }

    /// Sends the child where the driver directory is, in the container, and nothing more.
    pub(super) fn driver_is_at(&mut self, path: &Path, plan: &Plan) -> Result<()> {
        self.moved = likely_dir(plan) != Some(path);
        if self.moved {
            let sent = Message::DriverDir(path.to_owned()).send(self.reader.port());
            sent.map_err(|e| unreadable(&e))?;
        }
        self.reader.close();
        Ok(())
    }

    /// The loader's new cache.
    pub(super) fn loader(&mut self) -> Result<CacheOutcome> {
        if self.moved {
            self.cache()?;
        }
        self.cache()
    }

    fn cache(&mut self) -> Result<CacheOutcome> {
        match self.next(MAX_MESSAGE)? {
            Message::Cache(outcome) => Ok(outcome),
            _ => Err(out_of_turn()),
        }
    }

    /// What a scan found.
    pub(super) fn scan(&mut self) -> Result<Scanned> {
        match self.next(MAX_MESSAGE)? {
            Message::Scanned(scanned) => Ok(scanned),
            _ => Err(out_of_turn()),
        }
    }

    /// The CUDA compatibility libraries of a CDI hook.
    pub(super) fn cuda_compat(&mut self) -> Result<Found> {
        match self.next(SHORT)? {
            Message::CudaCompat(found) => Ok(found),
            _ => Err(out_of_turn()),
        }
    }
}

/// The child's part of [`Image::open`], after the preflight.
fn answer(root: &Root, plan: &Plan, port: &mut Port) -> io::Result<()> {
    let seen = Seen {
        preferred: cuda_compat::look_for(root, plan),
        lacking: lacking(root, &plan.texts).collect(),
    };
    let seen = Message::Seen(seen);
    seen.send(port)?;
    let plan = match &seen {
        Message::Seen(seen) => seen.preferred.plan(plan),
        _ => return Ok(()),
    };
    let send = |port: &mut Port, dir: &Path| Message::Cache(cache_for(root, dir, &plan)).send(port);
    // Without a candidate there is none to be wrong about, but always a first answer.
    send(port, likely_dir(&plan).unwrap_or_else(|| Path::new("/")))?;
    match port.recv_if_any(SHORT)?.as_deref().map(Message::receive) {
        Some(Ok(Message::DriverDir(dir))) => send(port, &dir),
        Some(Ok(_)) => Err(Refused::OutOfTurn.into()),
        Some(Err(e)) => Err(e.into()),
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

fn out_of_turn() -> Error {
    unreadable(&Refused::OutOfTurn.into())
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
