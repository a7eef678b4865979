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
    /// The offsets at which an entry of a log begins.
    entries: Vec<usize>,
}

impl Text {
    /// Only the last [`MAX`] bytes count: a log ends with the error.
    pub(super) fn new(text: &str) -> Self {
        let start = ceil(text, text.len().saturating_sub(MAX));
        let (kept, entries) = one_line(text.get(start..).unwrap_or_default());
        // ASCII only, so that offsets stay equal.
        let flat = kept.to_ascii_lowercase();
        let words = Words::of(&flat);
        Self {
            kept,
            flat,
            words,
            entries,
        }
    }

    /// The start of the log's entry at `at`, and the start of the next one.
    pub(super) fn entry(&self, at: usize) -> Range<usize> {
        let next = self.entries.partition_point(|start| *start <= at);
        let start = next.checked_sub(1).and_then(|i| self.entries.get(i));
        let end = self.entries.get(next).copied();
        start.copied().unwrap_or_default()..end.unwrap_or(self.flat.len())
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
        inner_words(pattern).all(|w| self.words.may_hold(w))
    }

    /// Whether the text may have all of these words, given by their hashes.
    pub(super) fn may_hold_hashed(&self, words: &[Hash]) -> bool {
        words.iter().all(|word| self.words.may_hold_hashed(*word))
    }
}

/// The words of `pattern` that are no parts of words: all but those at its ends.
fn inner_words(pattern: &str) -> impl Iterator<Item = &str> {
    let inner = |c: char| !is_word(c);
    let inside = pattern.find(inner).zip(pattern.rfind(inner));
    let inside = inside.and_then(|(first, last)| pattern.get(first..last));
    inside.unwrap_or_default().split(inner).filter(|w| !w.is_empty())
}

/// The hashes of a pattern's whole words.
pub(super) fn hashed(pattern: &str) -> impl Iterator<Item = Hash> {
    inner_words(pattern).map(Words::place)
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

/// The place of a word's bit in [`Words`].
pub(super) type Hash = (usize, u64);

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
        self.may_hold_hashed(Self::place(word))
    }

    fn may_hold_hashed(&self, (at, bit): Hash) -> bool {
        self.0.get(at).is_some_and(|slot| slot & bit != 0)
    }

    fn place(word: &str) -> Hash {
        let hash = word.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        let bit = (hash ^ (hash >> 32)) % Self::BITS;
        (usize::try_from(bit / 64).unwrap_or_default(), 1 << (bit % 64))
    }
}

/// The text with the lines joined that a terminal broke in the middle of a word: each line of the
/// greatest width, at least [`WIDTH`], continues in the next.
pub(super) fn rejoined(text: &str) -> Option<String> {
    let text = text.get(ceil(text, text.len().saturating_sub(MAX))..)?;
    let width = |line: &str| line.trim_end_matches('\r').chars().count();
    let widest = text.lines().map(width).max().filter(|w| *w >= WIDTH)?;
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        out.push_str(line.trim_end_matches('\r'));
        if width(line) < widest {
            out.push('\n');
        }
    }
    Some(out)
}

/// The width of the narrowest terminal.
const WIDTH: usize = 40;

/// The text with single spaces, without colors, log prefixes, typographic quotes, frames, and with
/// escaped characters and line ends unescaped; and the offsets at which a line with a log's prefix
/// begins.
fn one_line(text: &str) -> (String, Vec<usize>) {
    let text = plain(text);
    let mut out = String::with_capacity(text.len());
    let mut entries = Vec::new();
    for line in text.split('\n') {
        space(&mut out);
        let line = line.trim_start();
        let rest = unprefixed(line);
        if rest.len() < line.len() || line.starts_with('[') {
            entries.push(out.len());
        }
        let mut chars = rest.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' => escaped(&mut chars, &mut out),
                c => push(c, &mut out),
            }
        }
    }
    out.truncate(out.trim_end().len());
    (out, entries)
}

fn space(out: &mut String) {
    if !out.is_empty() && !out.ends_with(' ') {
        out.push(' ');
    }
}

/// Adds a character: typographic quotes as typed ones, white space and frames as one space.
fn push(c: char, out: &mut String) {
    match c {
        '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{b4}' | '\u{ff07}' => out.push('\''),
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{ab}' | '\u{bb}' | '\u{ff02}' => out.push('"'),
        '\u{2010}'..='\u{2015}' | '\u{2212}' => out.push('-'),
        // Characters without width, which web pages insert.
        '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}' => {}
        // Frames around tracebacks.
        '\u{2500}'..='\u{257f}' | '\u{2771}' => space(out),
        c if c.is_whitespace() || c.is_control() => space(out),
        c => out.push(c),
    }
}

/// The beginnings of colors as logs and terminals print them.
const COLORS: &[&str] = &[
    r"\u001b[", r"\u001B[", r"\x1b[", r"\x1B[", r"\033[", r"\e[", "#033[", "^[[", "ESC[", "\u{9b}",
];

/// Characters as HTML writes them.
const ENTITIES: &[(&str, &str)] = &[
    ("&quot;", "\""),
    ("&#34;", "\""),
    ("&#39;", "'"),
    ("&#x27;", "'"),
    ("&apos;", "'"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&nbsp;", " "),
    ("&amp;", "&"),
];

/// The C library's and the shell's messages in other languages, and the English ones.
const LANGUAGES: &str = include_str!("languages.tsv");

/// The text with the system's messages in English.
fn english(text: &mut String) {
    for line in LANGUAGES.lines().filter(|l| !l.starts_with('#')) {
        if let Some((english, others)) = line.split_once('\t') {
            for other in others.split('|').filter(|o| !o.is_empty()) {
                if text.contains(other) {
                    *text = text.replace(other, english);
                }
            }
        }
    }
}

/// The text without colors, with the characters of HTML, and with the system's messages in English.
fn plain(text: &str) -> String {
    // rsyslog writes a line end as its octal number.
    let mut text = text.replace("#012", "\n");
    for color in COLORS {
        if text.contains(color) {
            text = text.replace(color, "\u{1b}[");
        }
    }
    for (written, meant) in ENTITIES {
        if text.contains(written) {
            text = text.replace(written, meant);
        }
    }
    english(&mut text);
    if !text.contains('\u{1b}') {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
        } else if chars.next_if_eq(&'[').is_some() {
            // ESC [ … final byte.
            for c in chars.by_ref() {
                if ('\u{40}'..='\u{7e}').contains(&c) {
                    break;
                }
            }
        } else if chars.next_if_eq(&']').is_some() {
            // A title or link: ESC ] … BEL, or ESC ] … ESC \.
            while let Some(c) = chars.next_if(|c| *c != '\n') {
                if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
    }
    out
}

/// A line without the prefixes of logs: the service of Compose, the pod of kubectl, the time, the
/// quoting of a mail.
fn unprefixed(line: &str) -> &str {
    let mut rest = line.trim_start();
    // A log of a log has several.
    for _ in 0..4 {
        let before = rest;
        rest = rest.trim_start_matches("> ").trim_start();
        if let Some((name, after)) = rest.split_once(" | ") {
            // `app-1  | `: one word and spaces.
            let name = name.trim_end();
            let is_service = name.len() <= 64 && name.chars().all(|c| is_word(c) || matches!(c, '-' | '.'));
            // Of a table, whose cells are data, the first cell is empty or a number.
            if is_service && name.starts_with(|c: char| c.is_ascii_alphabetic()) {
                rest = after.trim_start();
            }
        }
        if let Some(after) = rest.strip_prefix("[pod/").and_then(|r| r.split_once("] ")) {
            rest = after.1;
        }
        rest = without_time(rest).trim_start();
        if rest.len() == before.len() {
            break;
        }
    }
    rest
}

/// The text behind a time: `2024-05-01T10:00:00.123Z `, `[2024/05/01 10:00:00] `.
fn without_time(line: &str) -> &str {
    let inner = line.strip_prefix('[').unwrap_or(line);
    let date = inner.get(..10).unwrap_or_default().as_bytes();
    let is_date = date.len() == 10
        && date.iter().enumerate().all(|(i, b)| match i {
            4 | 7 => matches!(b, b'-' | b'/'),
            _ => b.is_ascii_digit(),
        });
    let Some(time) = inner.get(10..).filter(|t| is_date && t.starts_with(['T', ' '])) else {
        return line;
    };
    let end = time
        .char_indices()
        .skip(1)
        .find(|(_, c)| !c.is_ascii_digit() && !matches!(c, ':' | '.' | ',' | '+' | '-' | 'Z'))
        .map_or(time.len(), |(at, _)| at);
    // A date alone is text.
    if end < 6 {
        return line;
    }
    let after = time.get(end..).unwrap_or_default();
    after.strip_prefix(']').unwrap_or(after)
}

/// Unescapes errors that are quoted in errors, any number of times: `\\\"` is a quote, `\\\\n` a
/// line end, and `\u0027` the character of that number.
fn escaped(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    let mut count = 1;
    while chars.next_if_eq(&'\\').is_some() {
        count += 1;
    }
    match chars.peek() {
        Some('"' | '\'' | '/' | '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}') => {}
        Some('u') => {
            let digits: String = chars.clone().skip(1).take(4).collect();
            let number = u32::from_str_radix(&digits, 16)
                .ok()
                .filter(|_| digits.len() == 4);
            if let Some(c) = number.and_then(char::from_u32) {
                chars.nth(4);
                push(c, out);
            } else {
                out.extend(std::iter::repeat_n('\\', count));
            }
        }
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
            ("for \\\u{201d}nvidia\\\u{201d} is", "for \"nvidia\" is"),
            ("but#012NVRM: this", "but nvrm: this"),
            ("│ error │", "error"),
            ("\u{2018}x\u{2019}", "'x'"),
            ("app-1  | 2024-05-01T10:00:00.1Z a\napp-1  | b", "a b"),
            ("[pod/x/y] [2024/05/01 10:00:00] a", "a"),
            ("> > quoted", "quoted"),
            ("| 0 | cell |", "| 0 | cell |"),
            ("2024-05-01 is a date", "2024-05-01 is a date"),
            (r"\u001b[31mred\u001b[0m \u0027x\u0027", "red 'x'"),
            ("#033[0;33mred", "red"),
            ("ESC[1;36mred", "red"),
            (
                "x: libcuda.so.1: 无法打开共享对象文件: 没有那个文件或目录",
                "x: libcuda.so.1: cannot open shared object file: no such file or directory",
            ),
            (
                "bash: nvcc: Kommando nicht gefunden.",
                "bash: nvcc: command not found.",
            ),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("&quot;a&quot; &lt;b&gt;", "\"a\" <b>"),
            (r#"{"msg":"https:\/\/x"}"#, r#"{"msg":"https://x"}"#),
            ("zero\u{200b}width", "zerowidth"),
            (r"c:\users\uvw", r"c:\users\uvw"),
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
    fn entries_of_a_log() {
        let text = Text::new("plain\nwrapped\n[a] one\n2024-05-01T10:00:00Z two\nmore");
        let entry = |word: &str| {
            let range = text.entry(text.flat().find(word).unwrap());
            text.kept(range).trim_end().to_owned()
        };
        assert_eq!(entry("wrapped"), "plain wrapped");
        assert_eq!(entry("one"), "[a] one");
        assert_eq!(entry("more"), "two more");
    }

    #[test]
    fn words_broken_at_the_margin() {
        let width = "x".repeat(WIDTH - 4);
        let broken = format!("{width}misma\r\ntch\nshort");
        assert_eq!(rejoined(&broken), Some(format!("{width}mismatch\nshort\n")));
        assert_eq!(rejoined("short\nlines"), None);
        let long = "ß".repeat(MAX);
        assert!(rejoined(&long).is_some_and(|t| t.len() <= MAX));
    }

    #[test]
    fn words_at_the_ends_of_a_pattern_may_be_parts() {
        let text = Text::new("torch not compiled with cuda enabled");
        assert!(text.may_hold("rch not compiled wi"));
        assert!(!text.may_hold("rch not compile wi"));
        assert!(text.may_hold("anything"));
    }
}
