//! The entries of `entries.txt`: texts that people paste, and what they mean.

const ENTRIES: &str = include_str!("entries.txt");

/// What a `*` in a pattern may stand for, in bytes.
const GAP: usize = 300;

/// One cause of one or more texts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Entry {
    /// `insufficient-driver-too-old`
    pub(super) name: &'static str,
    /// The symptoms of the collection it answers: `P11`.
    pub(super) pains: Vec<&'static str>,
    matches: Vec<&'static str>,
    /// What it is.
    pub(super) cause: &'static str,
    /// How to tell it from other causes of the same text; may be empty.
    pub(super) tell: &'static str,
    /// What to do.
    pub(super) fix: &'static str,
    /// The areas of the doctor that look at it: `engine docker`.
    pub(super) run: Vec<&'static str>,
    /// Where it was met.
    pub(super) sources: Vec<&'static str>,
}

/// All entries in the order of the file.
pub(super) fn all() -> impl Iterator<Item = Entry> {
    ENTRIES.split("\n\n").filter_map(entry)
}

fn entry(block: &'static str) -> Option<Entry> {
    let mut found = Entry::default();
    for line in block.lines().filter(|l| !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            found.name = name.strip_suffix(']')?;
            continue;
        }
        let (key, value) = line.split_once(": ")?;
        match key {
            "pain" => found.pains = value.split(' ').collect(),
            "match" => found.matches.push(value),
            "cause" => found.cause = value,
            "tell" => found.tell = value,
            "fix" => found.fix = value,
            "run" => found.run = value.split("; ").collect(),
            "source" => found.sources = value.split(' ').collect(),
            _ => return None,
        }
    }
    (!found.name.is_empty()).then_some(found)
}

impl Entry {
    /// The pattern that is in `text` (as [`super::normal`] makes it), or names an error of `codes`.
    pub(super) fn matched(&self, text: &str, codes: &[String]) -> Option<&'static str> {
        self.matches
            .iter()
            .copied()
            .find(|m| codes.iter().any(|c| c == m) || contains(text, m))
    }

    /// Whether a pattern names the error: `cuda:35`.
    pub(super) fn names(&self, code: &str) -> bool {
        self.matches.contains(&code)
    }
}

/// Whether `pattern` is somewhere in `text`.
fn contains(text: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*').filter(|p| !p.is_empty());
    let Some(first) = pieces.next() else {
        return false;
    };
    let rest: Vec<&str> = pieces.collect();
    text.match_indices(first)
        .any(|(at, _)| follows(text, at + first.len(), &rest))
}

/// Whether the pieces come one after the other, none further than [`GAP`] from the one before.
fn follows(text: &str, mut at: usize, pieces: &[&str]) -> bool {
    pieces.iter().all(|piece| {
        let mut end = text.len().min(at + GAP + piece.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        match text.get(at..end).and_then(|t| t.find(piece)) {
            Some(found) => {
                at += found + piece.len();
                true
            }
            None => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_entry_is_whole() {
        let blocks = ENTRIES
            .split("\n\n")
            .filter(|b| b.lines().any(|l| !l.starts_with('#')));
        let mut names = HashSet::new();
        for block in blocks {
            let entry = entry(block).unwrap_or_else(|| panic!("not understood: {block}"));
            let whole = !entry.pains.is_empty()
                && !entry.matches.is_empty()
                && !entry.cause.is_empty()
                && !entry.fix.is_empty()
                && !entry.run.is_empty()
                && entry.sources.iter().all(|s| s.starts_with("https://"));
            assert!(whole && !entry.sources.is_empty(), "{block}");
            assert!(names.insert(entry.name), "{} twice", entry.name);
            for m in &entry.matches {
                assert_eq!(m.trim().to_lowercase(), **m, "{m}");
                assert!(m.split('*').any(|p| p.len() >= 6), "says too little: {m}");
            }
            for run in &entry.run {
                let area = run.split(' ').next().unwrap_or_default();
                let areas = [
                    "host",
                    "engine",
                    "image",
                    "container",
                    "dockerfile",
                    "compose",
                    "--last",
                ];
                assert!(areas.contains(&area), "{run}");
            }
        }
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn patterns() {
        assert!(contains("a foo 1.2 bar b", "foo * bar"));
        assert!(contains("foo foo bar", "foo bar"));
        assert!(!contains("bar foo", "foo*bar"));
        assert!(!contains(&format!("foo{}bar", "x".repeat(400)), "foo*bar"));
        assert!(contains(&format!("foo{}foo-bar", "ä".repeat(400)), "foo*bar"));
        assert!(!contains("anything", "*"));
    }
}
