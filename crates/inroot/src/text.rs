//! Shows text that another user chose as one line for a person.

use core::fmt;

/// The most characters of a text that [`Escaped`] shows.
const MAX_SHOWN: usize = 600;

/// The beginning of a text that [`Escaped`] shows; the rest need not be kept.
pub fn shown(text: &str) -> &str {
    let end = text.char_indices().nth(MAX_SHOWN + 1);
    end.map_or(text, |(at, _)| text.get(..at).unwrap_or(text))
}

/// Shows text that may come from an image: control characters are escaped and the length is
/// bounded.
#[derive(Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        one_line(self.0, MAX_SHOWN, f)
    }
}

/// Shows a finished line of a log with parts of any origin: as [`Escaped`], of up to 16,384
/// characters.
#[derive(Debug)]
pub struct Line<'a>(pub &'a str);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        one_line(self.0, 16_384, f)
    }
}

/// Escapes characters that end a line, move the cursor, or change the order of others on a
/// terminal.
fn one_line(text: &str, max: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, c) in text.chars().enumerate() {
        if i == max {
            return f.write_str("…");
        }
        let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}') {
            write!(f, "{}", c.escape_default())?;
        } else {
            fmt::Write::write_char(f, c)?;
        }
    }
    Ok(())
}
