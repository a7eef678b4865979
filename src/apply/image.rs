//! Reads an image through a child without rights ([`crate::sys::reader`]), in parallel with the
//! parent.
//!
//! ```text
//!  parent                                      child
//!  ──────                                      ─────
//!  Image::open ──────────────────────────────► enter the container's namespace, drop all rights
//!  open and clone the driver's files           look up the place of the driver directory
//!  enter the container's mount namespace
//!  wait_ready ◄─────────────────────────────── Message::Ready
//!  attach the driver directory                 preflight: Message::Verdict
//!  send_driver_dir ──────────────────────────► find CUDA compatibility and missing libraries
//!  bind the driver's files                     Message::Seen; then extend or rebuild the cache
//!  recv_verdict, recv_seen, recv_cache ◄────── for the likely driver directory: Message::Cache
//!                                              (again if the driver directory is elsewhere)
//! ```
//!
//! Each side waits only for a message that it needs: waking a process takes as long as binding ten
//! files. The parent touches nothing of the image before the child has, so a file system that never
//! answers stops only the child.
//!
//! The parent trusts the child's messages no more than the image itself (`message.rs`
//! validates them). A value of one becomes a warning, the target of a link, or the content of a
//! file in that image.

use std::io;
use std::path::{Path, PathBuf};

use super::container::Container;
use super::cuda_compat::{self, Found};
use super::loader::{first_dirs, updated};
use super::message::{Message, Refused, Scanned, Seen};
use super::texts::lacking;
use crate::error::{Code, Error, Result};
use crate::ldso::CacheOutcome;
use crate::plan::Plan;
use crate::preflight::Verdict;
use crate::sys::ns::MountNs;
use crate::sys::reader::{MAX_MESSAGE, Port, Reader};
use crate::sys::root::Root;
use crate::vocabulary::LAST_RESORTS;

/// The longest message that is not a cache or a scan, in bytes.
const SHORT: usize = 1 << 20;

/// An image that a child reads.
#[derive(Debug)]
pub struct Image {
    reader: Reader,
    /// The driver directory is not at the child's first candidate.
    moved: bool,
}

impl Image {
    /// Starts to read the image at `rootfs` for `plan`, in the mount namespace `namespace` or the
    /// caller's own. The messages are due in this order: [`Self::wait_ready`],
    /// [`Self::recv_verdict`] (the result of `preflight`, which runs in the child),
    /// `recv_seen`, `recv_cache`.
    ///
    /// # Errors
    /// [`Code::System`] if no child can be started. A rootfs that is missing makes
    /// [`Self::wait_ready`] fail with [`Code::Image`]; [`Container::open_root`] reports its reason.
    pub fn open(
        rootfs: &Path,
        namespace: Option<&MountNs>,
        plan: &Plan,
        preflight: impl FnOnce(&Root) -> Verdict,
    ) -> Result<Self> {
        Self::read(rootfs, namespace, |root, port| {
            let _ = likely_dir(plan).map(|dir| root.resolve(dir));
            Message::Ready.send(port)?;
            Message::Verdict(preflight(root)).send(port)?;
            send_answers(root, plan, port)
        })
    }

    /// Starts a child that reads the image at `rootfs`; `work` sends its messages.
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
            Error::io(Code::System, "the child process that reads the image", &e)
                .fix("raise the limit on processes (`--pids-limit`): one more must fit")
        })?;
        Ok(Self { reader, moved: false })
    }

    /// Receives the next message, of at most `max` bytes.
    ///
    /// # Errors
    /// [`Code::Image`] if none comes in time, the child ends, or [`super::message`] refuses it;
    /// [`Code::TooLarge`] if the kernel killed the child at its limit of processor time or memory.
    fn recv(&mut self, max: usize) -> Result<Message> {
        let bytes = self.reader.recv(max).map_err(|e| unreadable(&e))?;
        Message::receive(&bytes).map_err(|e| unreadable(&e.into()))
    }

    /// Waits until the image's file system has answered a lookup of the driver directory's place.
    ///
    /// # Errors
    /// [`Code::Image`] and [`Code::TooLarge`], as for every message of the child.
    pub fn wait_ready(&mut self) -> Result<()> {
        match self.recv(SHORT)? {
            Message::Ready => Ok(()),
            _ => Err(out_of_turn()),
        }
    }

    /// Receives the preflight's verdict.
    ///
    /// # Errors
    /// As [`Self::wait_ready`].
    pub fn recv_verdict(&mut self) -> Result<Verdict> {
        match self.recv(SHORT)? {
            Message::Verdict(verdict) => Ok(verdict),
            _ => Err(out_of_turn()),
        }
    }

    /// Receives the facts that the plan depends on.
    pub(super) fn recv_seen(&mut self) -> Result<Seen> {
        match self.recv(SHORT)? {
            Message::Seen(seen) => Ok(seen),
            _ => Err(out_of_turn()),
        }
    }

    /// Sends the driver directory's path in the container, if it is not the likely one. The last
    /// message to the child.
    pub(super) fn send_driver_dir(&mut self, path: &Path, plan: &Plan) -> Result<()> {
        self.moved = likely_dir(plan) != Some(path);
        if self.moved {
            let sent = Message::DriverDir(path.to_owned()).send(self.reader.port());
            sent.map_err(|e| unreadable(&e))?;
        }
        self.reader.close();
        Ok(())
    }

    /// Receives the loader's new cache.
    pub(super) fn recv_cache(&mut self) -> Result<CacheOutcome> {
        if self.moved {
            self.next_cache()?;
        }
        self.next_cache()
    }

    fn next_cache(&mut self) -> Result<CacheOutcome> {
        match self.recv(MAX_MESSAGE)? {
            Message::Cache(outcome) => Ok(outcome),
            _ => Err(out_of_turn()),
        }
    }

    /// Receives a scan.
    pub(super) fn recv_scan(&mut self) -> Result<Scanned> {
        match self.recv(MAX_MESSAGE)? {
            Message::Scanned(scanned) => Ok(scanned),
            _ => Err(out_of_turn()),
        }
    }

    /// Receives the CUDA compatibility libraries for a CDI hook.
    pub(super) fn recv_cuda_compat(&mut self) -> Result<Found> {
        match self.recv(SHORT)? {
            Message::CudaCompat(found) => Ok(found),
            _ => Err(out_of_turn()),
        }
    }
}

/// The child's work for [`Image::open`], after the preflight.
fn send_answers(root: &Root, plan: &Plan, port: &mut Port) -> io::Result<()> {
    let seen = Seen {
        preferred: cuda_compat::find_preferred(root, plan),
        lacking: lacking(root, &plan.texts).collect(),
    };
    let seen = Message::Seen(seen);
    seen.send(port)?;
    let plan = match &seen {
        Message::Seen(seen) => seen.preferred.plan(plan),
        _ => return Ok(()),
    };
    let send = |port: &mut Port, dir: &Path| Message::Cache(cache_for(root, dir, &plan)).send(port);
    // Without a candidate the parent always sends the directory, but it expects a first answer.
    send(port, likely_dir(&plan).unwrap_or_else(|| Path::new("/")))?;
    match port.recv_if_any(SHORT)?.as_deref().map(Message::receive) {
        Some(Ok(Message::DriverDir(dir))) => send(port, &dir),
        Some(Ok(_)) => Err(Refused::OutOfTurn.into()),
        Some(Err(e)) => Err(e.into()),
        None => Ok(()),
    }
}

/// Computes the loader's new cache for a driver directory `dir`.
fn cache_for(root: &Root, dir: &Path, plan: &Plan) -> CacheOutcome {
    updated(root, &first_dirs(dir, plan))
}

/// Does the child's work in this process, for the fuzz targets.
#[doc(hidden)]
pub fn cache_of(root: &Root, plan: &Plan) -> CacheOutcome {
    let plan = cuda_compat::find_preferred(root, plan).plan(plan).into_owned();
    let _ = lacking(root, &plan.texts).count();
    cache_for(root, likely_dir(&plan).unwrap_or_else(|| Path::new("/")), &plan)
}

/// All paths at which the driver directory may come.
pub fn possible_dirs(plan: &Plan) -> Vec<PathBuf> {
    let resorts = LAST_RESORTS.iter().map(PathBuf::from);
    plan.driver_dirs.iter().cloned().chain(resorts).collect()
}

/// The driver directory's place in nearly all images.
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
            "a file system of the container did not answer in time",
        ),
        io::ErrorKind::FileTooLarge => Error::new(
            Code::TooLarge,
            WHAT,
            "reading them takes more processor time or memory than they may",
        ),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
            Error::new(Code::Image, WHAT, "the child process that reads them ended early")
        }
        _ => Error::io(Code::Image, WHAT, e),
    }
}
