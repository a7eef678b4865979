//! Patterns of texts: literal pieces and choices of them (`{one|two}`) with gaps (`*`) and slots
//! (`<name>`) between them. A phrase of [`SAME`] in a literal stands for all of its group.

use std::ops::Range;

use super::text::{self, Hash, Text, is_word};

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
    /// A literal, or the literals of a choice.
    OneOf(Vec<&'static str>),
    Slot(&'static str),
}

/// The pieces of a pattern; a `<` that begins no slot and a `{` that begins no choice are literal.
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
        if let Some((choice, after)) = choice(rest) {
            pieces.push(Piece::OneOf(choice));
            rest = after;
            continue;
        }
        let begins = |at: usize| {
            rest.get(at..)
                .is_some_and(|r| r.starts_with('*') || slot(r).is_some() || choice(r).is_some())
        };
        let end = rest
            .char_indices()
            .skip(1)
            .find(|(at, _)| begins(*at))
            .map_or(rest.len(), |(at, _)| at);
        let (literal, after) = rest.split_at(end);
        pieces.push(Piece::OneOf(vec![literal]));
        rest = after;
    }
    pieces
}

fn slot(text: &'static str) -> Option<(&'static str, &'static str)> {
    let (name, rest) = text.strip_prefix('<')?.split_once('>')?;
    let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase());
    named.then_some((name, rest))
}

/// The literals of a choice at the beginning of `text`, and the rest.
fn choice(text: &'static str) -> Option<(Vec<&'static str>, &'static str)> {
    let (inner, rest) = text.strip_prefix('{')?.split_once('}')?;
    let choice: Vec<&str> = inner.split('|').collect();
    // An empty one, which comes last, makes the others optional.
    (choice.len() > 1).then_some((choice, rest))
}

/// Phrases that programs use for the same, one group a line. None is a part of another group's.
const SAME: &[&[&str]] = &[
    &[
        "failed to",
        "could not",
        "couldn't",
        "unable to",
        "cannot",
        "can't",
        "can not",
        "not able to",
    ],
    &[
        "not found",
        "was not found",
        "is not found",
        "could not be found",
        "cannot be found",
        "can't be found",
    ],
    &[
        "not available",
        "is not available",
        "unavailable",
        "is unavailable",
        "isn't available",
    ],
    &[
        "not supported",
        "is not supported",
        "unsupported",
        "isn't supported",
    ],
    &["not installed", "is not installed", "isn't installed"],
    &["initialize", "initialise"],
    &["initialized", "initialised"],
    &["initialization", "initialisation"],
];

/// The pieces with every phrase of a group replaced by a choice of the group.
fn widened(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut out = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match piece {
            Piece::OneOf(texts) => match texts.as_slice() {
                [literal] => widen_literal(literal, &mut out),
                _ => out.push(Piece::OneOf(widen_choice(texts))),
            },
            other => out.push(other),
        }
    }
    out
}

fn widen_literal(literal: &'static str, out: &mut Vec<Piece>) {
    let mut rest = literal;
    while let Some((at, phrase, group)) = phrase_in(rest) {
        let (before, after) = (rest.get(..at).unwrap_or_default(), rest.get(at + phrase.len()..));
        if !before.is_empty() {
            out.push(Piece::OneOf(vec![before]));
        }
        out.push(Piece::OneOf(group.to_vec()));
        rest = after.unwrap_or_default();
    }
    if !rest.is_empty() {
        out.push(Piece::OneOf(vec![rest]));
    }
}

/// The first phrase of a group in a literal, the longest at that place, as whole words.
fn phrase_in(literal: &'static str) -> Option<(usize, &'static str, &'static [&'static str])> {
    let whole = |at: usize, phrase: &str| {
        let before = literal.get(..at).unwrap_or_default();
        let after = literal.get(at + phrase.len()..).unwrap_or_default();
        !before.ends_with(is_word) && !after.starts_with(is_word)
    };
    let found = SAME.iter().flat_map(|group| {
        group.iter().filter_map(move |phrase| {
            let at = literal.find(phrase).filter(|at| whole(*at, phrase))?;
            Some((at, *phrase, *group))
        })
    });
    found.min_by_key(|(at, phrase, _)| (*at, usize::MAX - phrase.len()))
}

fn widen_choice(texts: Vec<&'static str>) -> Vec<&'static str> {
    let mut all = texts;
    for group in SAME {
        if all.iter().any(|t| group.contains(t)) {
            let more: Vec<_> = group.iter().filter(|p| !all.contains(p)).collect();
            // Before the empty one, which comes last.
            let end = all.iter().position(|t| t.is_empty()).unwrap_or(all.len());
            all.splice(end..end, more.into_iter().copied());
        }
    }
    all
}

/// A pattern, parsed.
pub(super) struct Pattern {
    pieces: Vec<Piece>,
    weight: usize,
    /// Its longest literal, which the text must have.
    anchor: &'static str,
    /// The whole words of its literals.
    words: Vec<Hash>,
}

impl Pattern {
    pub(super) fn new(pattern: &'static str) -> Self {
        let pieces = pieces(pattern);
        // The shortest of a choice, so that a choice of many words is no better than one of them.
        let weight = choices(&pieces)
            .filter_map(|texts| texts.iter().map(|t| t.len()).min())
            .sum();
        let pieces = widened(pieces);
        let literals: Vec<&'static str> = choices(&pieces)
            .filter_map(|texts| match texts.as_slice() {
                [literal] => Some(*literal),
                _ => None,
            })
            .collect();
        Self {
            anchor: literals
                .iter()
                .max_by_key(|l| l.len())
                .copied()
                .unwrap_or_default(),
            words: literals.iter().flat_map(|l| text::hashed(l)).collect(),
            pieces,
            weight,
        }
    }

    /// Its last match in `text`; it begins with a literal or a choice.
    pub(super) fn find(&self, text: &Text) -> Option<Found> {
        let Some((Piece::OneOf(first), rest)) = self.pieces.split_first() else {
            return None;
        };
        if !text.may_hold_hashed(&self.words) || !text.flat().contains(self.anchor) {
            return None;
        }
        first.iter().find_map(|first| {
            text.flat()
                .rmatch_indices(first)
                .take(TRIES)
                .find_map(|(start, _)| {
                    follow(text, start + first.len(), rest).map(|(end, slots)| (start..end, slots))
                })
                .map(|(at, slots)| Found {
                    at,
                    slots,
                    weight: self.weight,
                })
        })
    }
}

fn choices(pieces: &[Piece]) -> impl Iterator<Item = &Vec<&'static str>> {
    pieces.iter().filter_map(|p| match p {
        Piece::OneOf(texts) => Some(texts),
        _ => None,
    })
}

/// The nearest of `texts` within `reach` bytes from `at` on: its distance and length.
fn nearest(text: &Text, at: usize, reach: usize, texts: &[&'static str]) -> Option<(usize, usize)> {
    texts
        .iter()
        .filter_map(|t| Some((text.after(at, reach + t.len()).find(t)?, t.len())))
        .min()
}

/// Matches the pieces one after the other from `at` on.
fn follow(text: &Text, mut at: usize, pieces: &[Piece]) -> Option<(usize, Vec<Slot>)> {
    let mut slots = Vec::new();
    let mut pieces = pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        match (piece, pieces.peek()) {
            (Piece::OneOf(texts), _) => {
                at += texts
                    .iter()
                    .find(|t| text.after(at, t.len()).starts_with(**t))
                    .map(|t| t.len())?;
            }
            (Piece::Gap, Some(Piece::OneOf(texts))) => at += nearest(text, at, GAP, texts)?.0,
            (Piece::Gap, _) => {}
            (Piece::Slot(name), next) => {
                let window = text.after(at, SLOT);
                let end = match next {
                    Some(Piece::OneOf(texts)) => nearest(text, at, SLOT, texts)?.0,
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
        Pattern::new(pattern).find(&Text::new(text))
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
    fn choices() {
        let weight = |text, pattern| found(text, pattern).map(|f| f.weight);
        assert_eq!(weight("no cudnn here", "no {cuda|cudnn} here"), Some(3 + 4 + 5));
        assert_eq!(weight("no cuda here", "no {cuda|cudnn} here"), Some(3 + 4 + 5));
        assert_eq!(weight("no cublas here", "no {cuda|cudnn} here"), None);
        assert!(found("unable to load x", "{cannot|unable to} load").is_some());
        assert!(found("it cannot ever load x", "{cannot|unable to}*{load|open}").is_some());
        assert_eq!(
            found("requires torch==2.1, but", "requires <name>{==|>=}<want>, but").map(|f| f.slots),
            Some(vec![("name", "torch".to_owned()), ("want", "2.1".to_owned())])
        );
        assert!(found("no cuda here", "no {cuda |}here").is_some());
        assert!(found("no here", "no {cuda |}here").is_some());
        // Braces without a choice are literal.
        assert!(found("a {b} c", "a {b} c").is_some());
        assert!(found("a {} c", "a {} c").is_some());
    }

    #[test]
    fn phrases_of_one_meaning() {
        for (text, pattern) in [
            ("could not open /dev/x", "failed to open"),
            ("we are unable to load it", "cannot load"),
            ("libx was not found", "libx not found"),
            ("codec unsupported here", "codec not supported"),
            ("can't find or load x", "{cannot|failed to}*{load|open}"),
            ("initialisation of nvml", "initialization of nvml"),
        ] {
            assert!(found(text, pattern).is_some(), "{text}: {pattern}");
        }
        assert!(found("cannotation load", "cannot load").is_none());
        // The weight is that of the pattern as written.
        assert_eq!(found("can't open", "unable to open").map(|f| f.weight), Some(14));
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
