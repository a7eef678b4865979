//! A registration or its removal, and the report on it.

use std::path::{Path, PathBuf};

use crate::error::Escaped;
use crate::sys::root::Root;

use super::diff;
use super::model::{Engine, Settings};
use super::place::Session;

/// One registration or its removal.
#[derive(Debug)]
pub struct Job {
    /// The engine.
    pub engine: Engine,
    /// The registration.
    pub settings: Settings,
    /// The root directory of all paths.
    pub root: Root,
    /// The facts of the machine and its user.
    pub session: Session,
    /// A file to edit in place of the usual one.
    pub config: Option<PathBuf>,
    /// For containerd, the file that gets the runtime and that the main file imports.
    pub drop_in: Option<PathBuf>,
    /// The CDI specification to write; `None` if it is unknown or not wanted.
    pub spec: Option<String>,
    /// Show the changes and write nothing.
    pub dry_run: bool,
}

/// The outcome of a job.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// nvoci is registered now.
    Registered,
    /// nvoci was registered before, and nothing was written.
    AlreadyRegistered,
    /// The registration was removed.
    Removed,
    /// There was no registration, and nothing was written.
    NotRegistered,
}

impl Outcome {
    /// The outcome as text.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::AlreadyRegistered => "already registered",
            Self::Removed => "removed",
            Self::NotRegistered => "not registered",
        }
    }

    /// Whether a file was (or would be) written.
    pub const fn changed(self) -> bool {
        matches!(self, Self::Registered | Self::Removed)
    }
}

/// The report on a job, for people and for `--json`.
#[derive(Clone, Debug)]
pub struct Report {
    /// The outcome.
    pub outcome: Outcome,
    /// The files concerned.
    pub files: Vec<PathBuf>,
    /// The new texts of the engine's files, in the order in which they are written.
    pub results: Vec<String>,
    /// The unified diff of all files.
    pub diff: String,
    /// One line for each value that was set.
    pub changes: Vec<String>,
    /// The paths of the keys that were set, which decide on the restart.
    pub keys: Vec<Vec<String>>,
    /// Copies of the old files.
    pub backups: Vec<PathBuf>,
    /// The validation of the result.
    pub checked: Option<Checked>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl Report {
    pub(super) fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            files: Vec::new(),
            results: Vec::new(),
            diff: String::new(),
            changes: Vec::new(),
            keys: Vec::new(),
            backups: Vec::new(),
            checked: None,
            warnings: Vec::new(),
        }
    }

    pub(super) fn add_file(&mut self, path: &Path, before: Option<&str>, after: Option<&str>) {
        self.files.push(path.to_owned());
        // A line break in the name would add a line to the diff.
        let name = Escaped(&path.display().to_string()).to_string();
        self.diff += &diff::unified(&name, before, after);
    }
}

/// The validation of a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Checked {
    /// The engine accepted it; the command.
    By(String),
    /// The engine could not be queried, for this reason.
    Not(String),
}
