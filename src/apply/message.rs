//! The messages between the process that reads an image and its parent.
//!
//! The child parses untrusted bytes, so the parent validates each message as if an attacker had
//! sent it. It bounds the length before it parses, the lists while it parses, and checks each value
//! before it builds a [`Message`]. For example, a link's name must be one component. [`Wire`] is
//! the form in the pipe; it borrows from the received bytes.

use core::fmt;
use core::marker::PhantomData;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::cuda_compat::{Found, MAX_LIBRARIES, Preferred};
use crate::error::Line;
use crate::findings::{Finding, Severity};
use crate::ldso::{CacheOutcome, Change, How, Warnings, cache_place};
use crate::preflight::{self, Hidden, Verdict};
use crate::sys::reader::{Port, parse};

/// The facts of an image that the plan depends on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    /// Its CUDA compatibility libraries.
    pub(super) preferred: Preferred,
    /// For each of the plan's texts, whether the image misses a library that the text names.
    pub(super) lacking: Vec<bool>,
}

/// A scan with its consequences.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Scanned {
    /// Directories that the image's configuration does not name yet.
    pub(super) dirs: Vec<PathBuf>,
    /// Links to make and to remove.
    pub(super) changes: Vec<Change>,
    /// The cache.
    pub(super) outcome: CacheOutcome,
}

/// The most findings of a preflight.
const MAX_FINDINGS: usize = 256;
/// The most texts of a plan; real ones have three.
const MAX_TEXTS: usize = 64;
/// The most lines of warnings; [`Warnings`] keeps fewer.
const MAX_WARNINGS: usize = 1024;
/// The most places of the driver directory on which a finding depends.
const MAX_PLACES: usize = 1024;
/// The most directories that a CDI hook names.
const MAX_DIRS: usize = 4096;
/// The most links that a scan adds or removes.
const MAX_CHANGES: usize = 1 << 16;

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Message {
    /// The image's file system answers.
    Ready,
    /// The preflight's verdict.
    Verdict(Verdict),
    /// The facts that the plan depends on.
    Seen(Seen),
    /// The loader's new cache.
    Cache(CacheOutcome),
    /// The result of a scan.
    Scanned(Scanned),
    /// The CUDA compatibility libraries for a CDI hook.
    CudaCompat(Found),
    /// From the parent: the driver directory's path.
    DriverDir(PathBuf),
}

/// The reason for refusing a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// The bytes do not parse.
    Form,
    /// A name is empty, `.`, `..` or has a slash or a NUL.
    Name,
    /// A path is relative, too long or has a NUL.
    Path,
    /// A file is not the loader's cache or path file.
    CachePlace,
    /// A finding is of a check that preflight does not have.
    Check,
    /// A library's name is not a library's.
    LibraryName,
    /// The message is not the one that is due.
    OutOfTurn,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "the reader's message is malformed or too long",
            Self::Name => "a name in the reader's message is not a file name",
            Self::Path => "a path in the reader's message is not absolute",
            Self::CachePlace => "the reader's message is for a file that is not the loader's cache",
            Self::Check => "a finding in the reader's message is of no check of preflight",
            Self::LibraryName => "a name in the reader's message is not a library's",
            Self::OutOfTurn => "the reader's message is not the one that is due",
        })
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::new(io::ErrorKind::InvalidData, refused.to_string())
    }
}

impl Message {
    /// Writes the message to the other process.
    ///
    /// # Errors
    /// Those of writing to the pipe.
    pub(super) fn send(&self, port: &mut Port) -> io::Result<()> {
        port.send(&Wire::of(self))
    }

    /// Parses and validates a received message.
    pub(super) fn receive(bytes: &[u8]) -> Result<Self, Refused> {
        let wire: Wire<'_> = parse(bytes).map_err(|_| Refused::Form)?;
        wire.check()
    }
}

/// A message in the pipe.
#[derive(Debug, Deserialize, Serialize)]
enum Wire<'m> {
    Ready,
    Verdict {
        #[serde(borrow)]
        certain: List<WireFinding<'m>, MAX_FINDINGS>,
        hidden: Option<WireHidden<'m>>,
    },
    Seen {
        preferred: WirePreferred<'m>,
        lacking: List<bool, MAX_TEXTS>,
    },
    Cache(WireCache<'m>),
    Scanned {
        dirs: List<Bytes<'m>, MAX_DIRS>,
        changes: List<WireChange<'m>, MAX_CHANGES>,
        cache: WireCache<'m>,
    },
    CudaCompat(WireFound<'m>),
    DriverDir(Bytes<'m>),
}

#[derive(Debug, Deserialize, Serialize)]
struct WireFinding<'m> {
    /// The check's number.
    check: u16,
    is_failure: bool,
    subject: &'m str,
    cause: &'m str,
    fix: &'m str,
}

#[derive(Debug, Deserialize, Serialize)]
struct WireHidden<'m> {
    #[serde(borrow)]
    finding: WireFinding<'m>,
    unless: List<Bytes<'m>, MAX_PLACES>,
}

#[derive(Debug, Deserialize, Serialize)]
enum WirePreferred<'m> {
    Nothing,
    Refused(&'m str),
    Use {
        #[serde(borrow)]
        dir: Bytes<'m>,
        names: List<Bytes<'m>, MAX_LIBRARIES>,
    },
}

#[derive(Debug, Deserialize, Serialize)]
enum WireFound<'m> {
    Nothing,
    Unsuited(&'m str),
    #[serde(borrow)]
    Use(Bytes<'m>),
}

#[derive(Debug, Deserialize, Serialize)]
struct WireCache<'m> {
    how: WireHow<'m>,
    #[serde(borrow)]
    target: Bytes<'m>,
    bytes: Bytes<'m>,
    warnings: List<&'m str, MAX_WARNINGS>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum WireHow<'m> {
    Merged,
    Rebuilt(&'m str),
    MuslPath,
    None,
}

#[derive(Debug, Deserialize, Serialize)]
struct WireChange<'m> {
    #[serde(borrow)]
    dir: Bytes<'m>,
    name: Bytes<'m>,
    target: Option<Bytes<'m>>,
}

impl<'m> Wire<'m> {
    fn of(message: &'m Message) -> Self {
        match message {
            Message::Ready => Self::Ready,
            Message::Verdict(Verdict { certain, hidden }) => Self::Verdict {
                certain: certain.iter().map(WireFinding::of).collect(),
                hidden: hidden.as_ref().map(|Hidden { finding, unless }| WireHidden {
                    finding: WireFinding::of(finding),
                    unless: unless.iter().map(Bytes::of).collect(),
                }),
            },
            Message::Seen(seen) => Self::Seen {
                preferred: WirePreferred::of(&seen.preferred),
                lacking: seen.lacking.iter().copied().collect(),
            },
            Message::Cache(cache) => Self::Cache(WireCache::of(cache)),
            Message::Scanned(scanned) => Self::Scanned {
                dirs: scanned.dirs.iter().map(Bytes::of).collect(),
                changes: scanned.changes.iter().map(WireChange::of).collect(),
                cache: WireCache::of(&scanned.outcome),
            },
            Message::CudaCompat(found) => Self::CudaCompat(match found {
                Found::Nothing => WireFound::Nothing,
                Found::Unsuited(why) => WireFound::Unsuited(why),
                Found::Use(dir) => WireFound::Use(Bytes::of(dir)),
            }),
            Message::DriverDir(dir) => Self::DriverDir(Bytes::of(dir)),
        }
    }

    fn check(self) -> Result<Message, Refused> {
        Ok(match self {
            Self::Ready => Message::Ready,
            Self::Verdict { certain, hidden } => Message::Verdict(Verdict {
                certain: certain
                    .0
                    .iter()
                    .map(WireFinding::check)
                    .collect::<Result<_, _>>()?,
                hidden: hidden.map(WireHidden::check).transpose()?,
            }),
            Self::Seen { preferred, lacking } => Message::Seen(Seen {
                preferred: preferred.check()?,
                lacking: lacking.0,
            }),
            Self::Cache(cache) => Message::Cache(cache.check()?),
            Self::Scanned { dirs, changes, cache } => Message::Scanned(Scanned {
                dirs: dirs.0.into_iter().map(absolute_path).collect::<Result<_, _>>()?,
                changes: changes
                    .0
                    .iter()
                    .map(WireChange::check)
                    .collect::<Result<_, _>>()?,
                outcome: cache.check()?,
            }),
            Self::CudaCompat(found) => Message::CudaCompat(match found {
                WireFound::Nothing => Found::Nothing,
                WireFound::Unsuited(why) => Found::Unsuited(one_line(why)),
                WireFound::Use(dir) => Found::Use(absolute_path(dir)?),
            }),
            Self::DriverDir(dir) => Message::DriverDir(absolute_path(dir)?),
        })
    }
}

impl<'m> WireFinding<'m> {
    fn of(finding: &'m Finding) -> Self {
        Self {
            check: finding.check.number,
            is_failure: finding.severity == Severity::Fail,
            subject: &finding.subject,
            cause: &finding.cause,
            fix: &finding.fix,
        }
    }

    fn check(&self) -> Result<Finding, Refused> {
        let check = preflight::check_of(self.check).ok_or(Refused::Check)?;
        let severity = if self.is_failure {
            Severity::Fail
        } else {
            Severity::Warn
        };
        let finding = Finding::new(check, severity, one_line(self.subject), one_line(self.cause));
        Ok(finding.fix(one_line(self.fix)))
    }
}

impl WireHidden<'_> {
    fn check(self) -> Result<Hidden, Refused> {
        Ok(Hidden {
            finding: self.finding.check()?,
            unless: self
                .unless
                .0
                .into_iter()
                .map(absolute_path)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl<'m> WirePreferred<'m> {
    fn of(preferred: &'m Preferred) -> Self {
        match preferred {
            Preferred::Nothing => Self::Nothing,
            Preferred::Refused(why) => Self::Refused(why),
            Preferred::Use { dir, names } => Self::Use {
                dir: Bytes::of(dir),
                names: names.iter().map(Bytes::of).collect(),
            },
        }
    }

    fn check(self) -> Result<Preferred, Refused> {
        Ok(match self {
            Self::Nothing => Preferred::Nothing,
            Self::Refused(why) => Preferred::Refused(one_line(why)),
            Self::Use { dir, names } => Preferred::Use {
                dir: absolute_path(dir)?,
                names: names.0.into_iter().map(library_name).collect::<Result<_, _>>()?,
            },
        })
    }
}

impl<'m> WireCache<'m> {
    fn of(outcome: &'m CacheOutcome) -> Self {
        Self {
            how: match &outcome.how {
                How::Merged => WireHow::Merged,
                How::Rebuilt { reason } => WireHow::Rebuilt(reason),
                How::MuslPath => WireHow::MuslPath,
                How::None => WireHow::None,
            },
            target: Bytes::of(outcome.target),
            bytes: Bytes(&outcome.bytes),
            warnings: outcome.warnings.iter().map(String::as_str).collect(),
        }
    }

    fn check(&self) -> Result<CacheOutcome, Refused> {
        let mut warnings = Warnings::default();
        for line in &self.warnings.0 {
            warnings.add(format_args!("{line}"));
        }
        Ok(CacheOutcome {
            how: match self.how {
                WireHow::Merged => How::Merged,
                WireHow::Rebuilt(reason) => How::Rebuilt {
                    reason: one_line(reason),
                },
                WireHow::MuslPath => How::MuslPath,
                WireHow::None => How::None,
            },
            target: cache_place(self.target.0).ok_or(Refused::CachePlace)?,
            bytes: self.bytes.0.to_vec(),
            warnings: warnings.into_lines(),
        })
    }
}

impl<'m> WireChange<'m> {
    fn of(change: &'m Change) -> Self {
        Self {
            dir: Bytes::of(&change.dir),
            name: Bytes::of(&change.name),
            target: change.target.as_ref().map(Bytes::of),
        }
    }

    fn check(&self) -> Result<Change, Refused> {
        Ok(Change {
            dir: absolute_path(self.dir)?,
            name: file_name(self.name)?,
            target: self.target.map(file_name).transpose()?,
        })
    }
}

/// One component, so that a link is made or removed in its own directory only.
fn file_name(name: Bytes<'_>) -> Result<OsString, Refused> {
    let special = matches!(name.0, b"" | b"." | b"..");
    if special || name.0.iter().any(|b| matches!(b, b'/' | 0)) {
        return Err(Refused::Name);
    }
    Ok(OsStr::from_bytes(name.0).to_owned())
}

/// A path from the container's root. It is resolved in that root, so a `..` cannot leave it.
fn absolute_path(path: Bytes<'_>) -> Result<PathBuf, Refused> {
    if path.0.first() != Some(&b'/') || path.0.contains(&0) || path.0.len() >= libc::PATH_MAX as usize {
        return Err(Refused::Path);
    }
    Ok(PathBuf::from(OsStr::from_bytes(path.0)))
}

/// A file name that may be linked to as a library.
fn library_name(name: Bytes<'_>) -> Result<OsString, Refused> {
    let name = file_name(name).map_err(|_| Refused::LibraryName)?;
    if !name.as_bytes().starts_with(b"lib") {
        return Err(Refused::LibraryName);
    }
    Ok(name)
}

/// One line of bounded length without control characters.
fn one_line(text: &str) -> String {
    Line(text).to_string()
}

/// A byte string, borrowed.
#[derive(Clone, Copy, Debug)]
struct Bytes<'m>(&'m [u8]);

impl<'m> Bytes<'m> {
    fn of(text: &'m (impl AsRef<OsStr> + ?Sized)) -> Self {
        Self(text.as_ref().as_bytes())
    }
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

impl<'de: 'm, 'm> Deserialize<'de> for Bytes<'m> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(from).map(Self)
    }
}

/// A list of at most `MAX` elements. The parser fails at the first one more, whatever length the
/// message announces.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> FromIterator<T> for List<T, MAX> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().take(MAX).collect())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Elements<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(element) = from.next_element()? {
                    if all.len() >= MAX {
                        return Err(A::Error::custom("too many elements"));
                    }
                    all.push(element);
                }
                Ok(List(all))
            }
        }

        from.deserialize_seq(Elements(PhantomData))
    }
}

#[cfg(test)]
mod tests;
