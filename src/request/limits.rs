//! Bounds on a container's texts, and the form in which messages quote them.

use crate::error::{Code, Error, Result};

/// The longest value of a variable or annotation that is read, in bytes.
pub(super) const MAX_TEXT: usize = 64 * 1024;

/// The most entries of one list.
pub(super) const MAX_ITEMS: usize = 1024;

/// The most notes that a request keeps, so that an image cannot fill the memory.
const MAX_NOTES: usize = 32;

/// The longest quotation of a bad value in an error, in characters.
const EXCERPT: usize = 48;

/// Refuses a value of `name` that is too long or contains anything but printable ASCII and blanks.
pub(super) fn text(name: &str, value: &str) -> Result<()> {
    if value.len() > MAX_TEXT {
        let why = format!("{} bytes long; at most {MAX_TEXT} are read", value.len());
        return Err(Error::new(Code::Malformed, excerpt(name), why));
    }
    match value.chars().find(|c| !matches!(c, ' '..='~' | '\t')) {
        None => Ok(()),
        Some(odd) => {
            let why = format!(
                "`{}` holds the character {}",
                excerpt(value),
                odd.escape_default()
            );
            Err(Error::new(Code::Malformed, excerpt(name), why))
        }
    }
}

/// Refuses a list of `name` whose entry number `count` is beyond the bound.
pub(super) fn count(name: &str, count: usize) -> Result<()> {
    if count <= MAX_ITEMS {
        return Ok(());
    }
    let why = format!("it lists more than {MAX_ITEMS} entries");
    Err(Error::new(Code::Malformed, excerpt(name), why))
}

/// The entries of a comma-separated list, trimmed, without empty ones, bounded in length, number
/// and characters.
pub(super) fn list<'a>(name: &str, value: &'a str) -> Result<Vec<&'a str>> {
    text(name, value)?;
    let mut items = Vec::new();
    for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        items.push(item);
        count(name, items.len())?;
    }
    Ok(items)
}

/// Adds a note if there is room; only then is its text made.
pub(super) fn note(notes: &mut Vec<String>, text: impl FnOnce() -> String) {
    if notes.len() < MAX_NOTES {
        notes.push(text());
    }
}

/// The beginning of a value, without characters that a terminal would interpret.
pub(super) fn excerpt(value: &str) -> String {
    let mut short = String::new();
    for (i, c) in value.chars().enumerate() {
        if i == EXCERPT {
            short.push('…');
            break;
        }
        match c {
            ' '..='~' => short.push(c),
            _ => short.extend(c.escape_default()),
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!(text("V", &"a".repeat(MAX_TEXT)).is_ok());
        assert!(text("V", &"a".repeat(MAX_TEXT + 1)).is_err());
        assert_eq!(list("V", " a, ,b,,").unwrap(), ["a", "b"]);
        assert!(list("V", &"a,".repeat(MAX_ITEMS)).is_ok());
        assert!(list("V", &"a,".repeat(MAX_ITEMS + 1)).is_err());
        for odd in ["a\nb", "a\0b", "\u{1b}[31m", "\u{202e}", "é"] {
            let line = text("V", odd).unwrap_err().to_string();
            assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line}");
        }
    }

    #[test]
    fn excerpts_are_short_and_plain() {
        let long = excerpt(&"\u{1b}".repeat(10_000));
        assert!(long.chars().count() < 400 && !long.contains('\u{1b}'));
    }
}
