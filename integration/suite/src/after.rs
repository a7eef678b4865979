//! What a case checks after its container has ended.

use std::fs;
use std::io;

use serde_json::Value;

use crate::fault::{Fault, Kind, shortened};
use crate::image::Image;
use crate::probe::Answers;
use crate::scene::{Output, Scene};

/// A container that has ended as expected: started, or refused by nvoci.
#[derive(Debug)]
pub(crate) struct After<'a, 's> {
    pub(crate) scene: &'a mut Scene<'s>,
    pub(crate) image: &'a Image,
    /// The container's standard output.
    pub(crate) answers: Answers,
    /// What nvoci and the runtime printed, and nvoci's record of the error.
    pub(crate) messages: String,
    pub(crate) faults: Vec<Fault>,
}

impl After<'_, '_> {
    /// Something that the attacker must not reach.
    pub(crate) fn must(&mut self, holds: bool, else_text: impl Into<String>) {
        self.fault_unless(holds, Kind::Check, else_text);
    }

    /// Something without which the case shows nothing.
    pub(crate) fn proves(&mut self, holds: bool, else_text: impl Into<String>) {
        self.fault_unless(holds, Kind::Decision, else_text);
    }

    fn fault_unless(&mut self, holds: bool, kind: Kind, text: impl Into<String>) {
        if !holds {
            let text = text.into();
            self.faults.push(Fault::new(kind, shortened(&text, 300)));
        }
    }

    /// The container's standard output.
    pub(crate) fn output(&self) -> &str {
        self.answers.text()
    }

    /// The first line of the container's output that begins with `start`.
    pub(crate) fn line(&self, start: &str) -> Option<&str> {
        self.output().lines().find(|line| line.starts_with(start))
    }

    /// The definition as the case made it. nvoci's runtime edits the bundle's own.
    pub(crate) fn definition(&self) -> io::Result<Value> {
        let bytes = fs::read(self.scene.evidence.join("config.json"))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Runs a command of a case, within so many seconds.
    pub(crate) fn run(&self, name: &str, seconds: u64, command: &[&str]) -> io::Result<Output> {
        self.scene.run(name, seconds, command)
    }

    /// A text that people read has no control characters.
    pub(crate) fn has_no_control(&mut self, name: &str, text: &str) {
        let holds = !text.bytes().any(crate::commands::is_control);
        self.fault_unless(holds, Kind::Words, format!("control characters in {name}"));
    }
}
