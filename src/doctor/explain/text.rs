//! Prepares a pasted text for the search: one line, lower case, without the wrapping of terminals
//! and engines.

use std::ops::Range;

/// The bytes of a text that are searched; people paste at most a screen or two.
pub(super) const MAX: usize = 256 << 10;

/// The text in two forms with equal offsets: as written, and in lower case.
#[derive(Debug)]
pub(super) struct Text {
    kept: String,
    flat: String,
    words: Words,
}

impl Text {
    /// Only the last [`MAX`] bytes count: a log ends with the error.
    pub(super) fn new(text: &str) -> Self {
        let mut start = text.len().saturating_sub(MAX);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        let kept = one_line(text.get(start..).unwrap_or_default());
        // ASCII only, so that offsets stay equal.
        let flat = kept.to_ascii_lowercase();
        let words = Words::of(&flat);
        Self { kept, flat, words }
    }

    /// The text in lower case, with white space as single spaces.
    pub(super) fn flat(&self) -> &str {
        &self.flat
    }

    /// At most `most` bytes before `at`.
    pub(super) fn before(&self, at: usize, most: usize) -> &str {
        let start = ceil(&self.flat, at.saturating_sub(most));
        self.flat.get(start..at).unwrap_or_default()
    }

    /// At most `most` bytes from `at` on.
    pub(super) fn after(&self, at: usize, most: usize) -> &str {
        let end = floor(&self.flat, at.saturating_add(most));
        self.flat.get(at..end).unwrap_or_default()
    }

    /// A part of the text as written.
    pub(super) fn kept(&self, range: Range<usize>) -> &str {
        self.kept.get(range).unwrap_or_default()
    }

    /// The words around a match, for a reader: whole words, at most about 160 bytes.
    pub(super) fn excerpt(&self, range: &Range<usize>) -> &str {
        let end = range.end.min(range.start + 120).max(range.start);
        let start = self.flat.get(..floor(&self.flat, range.start.saturating_sub(40)));
        let start = match start {
            Some("") | None => 0,
            Some(s) => self
                .flat
                .get(s.len()..range.start)
                .and_then(|t| t.find(' '))
                .map_or(range.start, |i| s.len() + i + 1),
        };
        let rest = self.flat.get(floor(&self.flat, end)..).unwrap_or_default();
        let end = floor(&self.flat, end) + rest.find(' ').unwrap_or(rest.len()).min(80);
        self.kept(start..floor(&self.flat, end)).trim()
    }

    /// Whether the text has each whole word of `pattern`. Words at the pattern's ends may be parts
    /// of words.
    pub(super) fn may_hold(&self, pattern: &str) -> bool {
        let inner = |c: char| !is_word(c);
        let (Some(first), Some(last)) = (pattern.find(inner), pattern.rfind(inner)) else {
            return true;
        };
        pattern
            .get(first..last)
            .unwrap_or_default()
            .split(inner)
            .filter(|w| !w.is_empty())
            .all(|w| self.words.may_hold(w))
    }
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// Whether a character belongs to a word.
pub(super) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The words that a text may have, one bit for each hash.
#[derive(Debug)]
struct Words(Vec<u64>);

impl Words {
    const BITS: u64 = 1 << 17;

    fn of(flat: &str) -> Self {
        let mut words = vec![0; usize::try_from(Self::BITS / 64).unwrap_or_default()];
        for word in flat.split(|c| !is_word(c)) {
            let (at, bit) = Self::place(word);
            if let Some(slot) = words.get_mut(at) {
                *slot |= bit;
            }
        }
        Self(words)
    }

    fn may_hold(&self, word: &str) -> bool {
        let (at, bit) = Self::place(word);
        self.0.get(at).is_some_and(|slot| slot & bit != 0)
    }

    fn place(word: &str) -> (usize, u64) {
        let hash = word.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        let bit = (hash ^ (hash >> 32)) % Self::BITS;
        (usize::try_from(bit / 64).unwrap_or_default(), 1 << (bit % 64))
    }
}

/// The text with single spaces, without colors, typographic quotes, frames, and escaped quotes and
/// line ends.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let space = |out: &mut String| {
        if !out.is_empty() && !out.ends_with(' ') {
            out.push(' ');
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                // ESC [ … final byte.
                if chars.next_if_eq(&'[').is_some() {
                    for c in chars.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&c) {
                            break;
                        }
                    }
                }
            }
            '\u{2018}' | '\u{2019}' | '\u{b4}' => out.push('\''),
            '\u{201c}' | '\u{201d}' => out.push('"'),
            '\\' => escaped(&mut chars, &mut out, space),
            // Frames around tracebacks.
            '\u{2500}'..='\u{257f}' | '\u{2771}' => space(&mut out),
            c if c.is_whitespace() || c.is_control() => space(&mut out),
            c => out.push(c),
        }
    }
    out.truncate(out.trim_end().len());
    // rsyslog writes a line end as its octal number.
    if out.contains("#012") {
        out = out.replace("#012", " ");
    }
    out
}

/// Unescapes errors that are quoted in errors, any number of times: `\\\"` is a quote and `\\\\n` a
/// line end.
fn escaped(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    out: &mut String,
    space: impl Fn(&mut String),
) {
    let mut count = 1;
    while chars.next_if_eq(&'\\').is_some() {
        count += 1;
    }
    match chars.peek() {
        Some('"' | '\'') => {}
        Some('n' | 't' | 'r') => {
            let letter = chars.next().unwrap_or('n');
            match chars.peek() {
                // It begins a word: a Windows path.
                Some(c) if c.is_ascii_lowercase() && count < 2 => {
                    out.push('\\');
                    out.push(letter);
                }
                _ => space(out),
            }
        }
        _ => out.extend(std::iter::repeat_n('\\', count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_any_text() {
        for (text, flat) in [
            ("  a \n\n b\t", "a b"),
            ("\u{1b}[31mRed\u{1b}[0m", "red"),
            ("\u{1b}[", ""),
            (
                r#"caused \\\"error\\\\n\\\"\": unknown"#,
                r#"caused "error "": unknown"#,
            ),
            (r"c:\new\temp", r"c:\new\temp"),
            (r"line\nNext", "line next"),
            ("but#012NVRM: this", "but nvrm: this"),
            ("│ error │", "error"),
            ("\u{2018}x\u{2019}", "'x'"),
        ] {
            assert_eq!(Text::new(text).flat(), flat, "{text}");
        }
    }

    #[test]
    fn places_are_the_same_in_both() {
        let text = Text::new("ÄÖÜ: Undefined Symbol ﬁ ncclCommRegister");
        let at = text.flat().find("ncclcomm").unwrap();
        assert_eq!(text.kept(at..at + 16), "ncclCommRegister");
        assert_eq!(text.before(at, 4), "ﬁ ");
        assert_eq!(text.after(at, 4), "nccl");
        assert!(text.excerpt(&(at..at + 3)).ends_with("ncclCommRegister"));
        assert_eq!(Text::new("").excerpt(&(0..0)), "");
    }

    #[test]
    fn words_at_the_ends_of_a_pattern_may_be_parts() {
        let text = Text::new("torch not compiled with cuda enabled");
        assert!(text.may_hold("rch not compiled wi"));
        assert!(!text.may_hold("rch not compile wi"));
        assert!(text.may_hold("anything"));
    }
}
