//! The faults that a case can be found guilty of.

use std::fmt;

/// What kind of fault it is. A case names the kind that it catches in the naive hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The case's own check found something.
    Check,
    /// The container starts, is refused, or fails in the runtime, where something else is expected.
    Decision,
    /// It takes longer than its limit.
    Hang,
    /// A file, time, owner or mount of the host is another one.
    HostChanged,
    /// A process opened, read or changed a file of the host, and no trace was left.
    HostTouched,
    /// A container has another device that was not granted.
    ForeignDevice,
    /// A container has a GPU that was not granted.
    ForeignGpu,
    /// The image's layer has something else than an injection leaves.
    Layer,
    /// A process, a cgroup, or a file in memory stays on the host.
    LeftBehind,
    /// A container has a mount that is no part of the request.
    Mount,
    /// Mounts are left behind.
    MountsLeft,
    /// The hook failed, and no error code was printed.
    NoCode,
    /// The watcher did not run, so nothing is proved.
    NotWatched,
    /// The contents of a file of the host came into the container.
    Secret,
    /// The container started, and must not.
    Started,
    /// An output has control characters, is long, or has contents of a file of the host.
    Words,
    /// The suite itself failed.
    Suite,
}

/// A fault with its evidence in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl Fault {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The first `limit` characters of a text.
pub(crate) fn shortened(text: &str, limit: usize) -> &str {
    match text.char_indices().nth(limit) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}
