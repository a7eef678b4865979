//! Texts for people: log lines, and foreign text in a form that is safe to show.

use std::io::Write as _;

/// The most characters of one foreign text in a message.
const SHOWN: usize = 128;

/// Foreign text without control characters, cut at [`SHOWN`] characters.
pub fn shown(text: &str) -> String {
    let mut line: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push('…');
    }
    line
}

/// Writes one line to standard error. A closed or full standard error is no reason to stop.
pub fn log(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "nvoci-nri: {line}");
}
