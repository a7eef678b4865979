//! Warnings about an image: a bounded number of bounded lines.

use std::fmt;

use inroot::text::Escaped;

/// The most lines that are kept; an image can cause one for each file.
const MAX: usize = 64;

/// Collected warnings.
#[derive(Debug, Default)]
pub struct Warnings {
    lines: Vec<String>,
    more: usize,
}

impl Warnings {
    /// Adds a line. It may quote an image, so it is escaped.
    pub fn add(&mut self, line: fmt::Arguments<'_>) {
        if self.lines.len() < MAX {
            self.lines.push(Escaped(&line.to_string()).to_string());
        } else {
            self.more += 1;
        }
    }

    /// The lines; the last one counts those that were dropped.
    pub fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("{} more warnings", self.more));
        }
        self.lines
    }
}
