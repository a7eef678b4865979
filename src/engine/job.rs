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
    /// What is registered.
    pub settings: Settings,
    /// All paths are below it.
    pub root: Root,
    /// Whose machine it is.
    pub session: Session,
    /// The file to edit in place of the usual one.
    pub config: Option<PathBuf>,
    /// Of containerd, the file that gets the runtime and that the main file imports.
    pub drop_in: Option<PathBuf>,
    /// The CDI specification that is to be there; none where it is not known or not wanted.
    pub spec: Option<String>,
    /// Change nothing.
    pub dry_run: bool,
}

/// What a job came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Nvoci is registered now.
    Registered,
    /// It was, and nothing was written.
    AlreadyRegistered,
    /// The registration is taken back.
    Removed,
    /// There was none, and nothing was written.
    NotRegistered,
}

impl Outcome {
    /// The words for it.
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

/// What was done, for people and for `--json`.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it came to.
    pub outcome: Outcome,
    /// The files concerned.
    pub files: Vec<PathBuf>,
    /// The engine's files as they are to be, in the order in which they are written.
    pub results: Vec<String>,
    /// The unified diff of all files.
    pub diff: String,
    /// One line a value that was set.
    pub changes: Vec<String>,
    /// The paths of the keys that were set, for what must be restarted.
    pub keys: Vec<Vec<String>>,
    /// Copies of the files as they were.
    pub backups: Vec<PathBuf>,
    /// How the result was validated.
    pub checked: Option<Checked>,
    /// What the user should know.
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
        // A line break in the name would be a line of the diff.
        let name = Escaped(&path.display().to_string()).to_string();
        self.diff += &diff::unified(&name, before, after);
    }
}

/// How a configuration was validated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Checked {
    /// The engine took it; by which command.
    By(String),
    /// It could not be asked; why.
    Not(String),
}
