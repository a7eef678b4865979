//! Patterns of texts: literal pieces with gaps (`*`) and slots (`<name>`) between them.

use std::ops::Range;

use super::text::Text;

/// The longest text that a `*` matches, in bytes.
const GAP: usize = 300;
/// The longest text that a slot matches, in bytes.
const SLOT: usize = 100;
/// The most places at which a pattern is tried, from the end of the text.
const TRIES: usize = 1000;

/// The text of a slot in a pattern or signal, in its original case.
pub(super) type Slot = (&'static str, String);

/// A match of a pattern.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Found {
    /// Its place in the text.
    pub(super) at: Range<usize>,
    /// The texts of its slots.
    pub(super) slots: Vec<Slot>,
    /// Its literal bytes, by which matches are ranked.
    pub(super) weight: usize,
}

enum Piece {
    Gap,
    Literal(&'static str),
    Slot(&'static str),
}

/// The pieces of a pattern; a `<` that begins no slot is literal.
fn pieces(pattern: &'static str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('*') {
            pieces.push(Piece::Gap);
            rest = after;
            continue;
        }
        if let Some((name, after)) = slot(rest) {
            pieces.push(Piece::Slot(name));
            rest = after;
            continue;
        }
        let end = rest
            .char_indices()
            .skip(1)
            .find(|(at, c)| *c == '*' || rest.get(*at..).and_then(slot).is_some())
            .map_or(rest.len(), |(at, _)| at);
        let (literal, after) = rest.split_at(end);
        pieces.push(Piece::Literal(literal));
        rest = after;
    }
    pieces
}

fn slot(text: &'static str) -> Option<(&'static str, &'static str)> {
    let (name, rest) = text.strip_prefix('<')?.split_once('>')?;
    let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase());
    named.then_some((name, rest))
}

/// Finds `pattern` in `text`; it begins with a literal.
pub(super) fn find(text: &Text, pattern: &'static str) -> Option<Found> {
    let pieces = pieces(pattern);
    let (Some(Piece::Literal(first)), rest) = (pieces.first(), pieces.get(1..).unwrap_or_default()) else {
        return None;
    };
    let literals = || {
        pieces.iter().filter_map(|p| match p {
            Piece::Literal(text) => Some(*text),
            _ => None,
        })
    };
    if !literals().all(|l| text.may_hold(l)) {
        return None;
    }
    let weight = literals().map(str::len).sum();
    text.flat()
        .rmatch_indices(first)
        .take(TRIES)
        .find_map(|(start, _)| {
            follow(text, start + first.len(), rest).map(|(end, slots)| (start..end, slots))
        })
        .map(|(at, slots)| Found { at, slots, weight })
}

/// Matches the pieces one after the other from `at` on.
fn follow(text: &Text, mut at: usize, pieces: &[Piece]) -> Option<(usize, Vec<Slot>)> {
    let mut slots = Vec::new();
    let mut pieces = pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        match (piece, pieces.peek()) {
            (Piece::Literal(literal), _) => {
                at = text
                    .after(at, literal.len())
                    .starts_with(literal)
                    .then_some(at + literal.len())?;
            }
            (Piece::Gap, Some(Piece::Literal(literal))) => {
                at += text.after(at, GAP + literal.len()).find(literal)?;
            }
            (Piece::Gap, _) => {}
            (Piece::Slot(name), next) => {
                let window = text.after(at, SLOT);
                let end = match next {
                    Some(Piece::Literal(literal)) => text.after(at, SLOT + literal.len()).find(literal)?,
                    _ => window
                        .find([' ', ',', ')', '"', '\'', ';', ']'])
                        .unwrap_or(window.len()),
                };
                let value = text.kept(at..at + end);
                if value.trim().is_empty() || value.trim().contains(' ') {
                    return None;
                }
                slots.push((*name, value.trim().to_owned()));
                at += end;
            }
        }
    }
    Some((at, slots))
}

/// Fills the `<name|words>` of `text` with the slot's value, or with the words if it has none.
pub(super) fn fill(text: &str, slots: &[Slot]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        let filled = after.split_once('>').and_then(|(inner, after)| {
            let (name, words) = inner.split_once('|')?;
            let value = slots.iter().find(|(n, _)| *n == name).map_or(words, |(_, v)| v);
            Some((value, after))
        });
        out.push_str(filled.map_or("<", |(value, _)| value));
        rest = filled.map_or(after, |(_, after)| after);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, pattern: &'static str) -> Option<Found> {
        find(&Text::new(text), pattern)
    }

    #[test]
    fn gaps() {
        assert!(found("a foo 1.2 bar b", "foo * bar").is_some());
        assert!(found("foo foo bar", "foo bar").is_some());
        assert!(found("bar foo", "foo*bar").is_none());
        assert!(found(&format!("foo{}bar", "x".repeat(400)), "foo*bar").is_none());
        assert!(found(&format!("foo{}foo-bar", "ä".repeat(400)), "foo*bar").is_some());
        assert!(found("anything", "*").is_none());
    }

    #[test]
    fn slots() {
        let slots = |text, pattern| found(text, pattern).map(|f| f.slots);
        let is = |name, value: &str| Some(vec![(name, value.to_owned())]);
        assert_eq!(
            slots("Got Compute 8.6, please", "got compute <have>, please"),
            is("have", "8.6")
        );
        assert_eq!(
            slots("got compute 8.6 please", "got compute <have>"),
            is("have", "8.6")
        );
        assert_eq!(slots("symbol: X_Y", "symbol: <symbol>"), is("symbol", "X_Y"));
        assert_eq!(
            slots("got compute a b, please", "got compute <have>, please"),
            None
        );
        assert_eq!(slots("a < b > c", "a < b > c"), Some(Vec::new()));
    }

    #[test]
    fn filled() {
        let slots = [("lib", "libcuda.so.1".to_owned())];
        assert_eq!(
            fill("<lib|a library> is missing", &slots),
            "libcuda.so.1 is missing"
        );
        assert_eq!(fill("<lib|a library> is missing", &[]), "a library is missing");
        assert_eq!(fill("a < b, <x> and <", &slots), "a < b, <x> and <");
    }
}
