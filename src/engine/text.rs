//! Positions in a text and splices, for the edits of both JSON and TOML.

use std::ops::Range;

/// A syntax error in the present file.
#[derive(Clone, Debug)]
pub(super) struct Syntax {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

/// `"\r\n"` if the text uses it, else `"\n"`.
pub(super) fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// The white space that the line around byte `at` starts with.
pub(super) fn line_indent(text: &str, at: usize) -> &str {
    let start = line_start(text, at);
    let line = text.get(start..).unwrap_or_default();
    let width = line.len() - line.trim_start_matches([' ', '\t']).len();
    line.get(..width).unwrap_or_default()
}

/// The first byte of the line around byte `at`.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|t| t.rfind('\n')).map_or(0, |i| i + 1)
}

/// The byte after the line around byte `at`.
pub(super) fn line_end(text: &str, at: usize) -> usize {
    text.get(at..)
        .and_then(|t| t.find('\n'))
        .map_or(text.len(), |i| at + i + 1)
}

/// The text with the bytes at `at` replaced.
pub(super) fn splice(text: &str, at: Range<usize>, with: &str) -> String {
    let mut out = text.to_owned();
    out.replace_range(at, with);
    out
}

/// The text without the bytes of `cuts`, which may contain each other.
pub(super) fn without(text: &str, mut cuts: Vec<Range<usize>>) -> String {
    cuts.sort_by_key(|cut| cut.start);
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for cut in cuts {
        out.push_str(text.get(copied..cut.start).unwrap_or_default());
        copied = copied.max(cut.end);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    out
}
