//! The entries of `entries/*.txt`: texts that people paste, with cause and fix.

use std::io::Read as _;
use std::sync::LazyLock;

use flate2::read::DeflateDecoder;

use super::Severity;
use super::pattern::{Found, Pattern};
use super::signals::Signals;
use super::text::Text;

/// `entries/*.txt`, which `build.rs` compresses: they are a twentieth of the program otherwise.
const ENTRIES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/entries.deflate"));

/// The prefixes of signals; any other word in a `match` is text.
const KEYS: &[&str] = &[
    "about:",
    "cli:",
    "component:",
    "cuda:",
    "dri:",
    "gpu:",
    "lib:",
    "libc:",
    "link:",
    "node:",
    "nvml:",
    "program:",
    "short:",
    "status:",
    "symbol:",
    "tegra:",
    "xid:",
];

/// The weight of a signal against text, in bytes.
const SIGNAL: usize = 40;

/// How near an entry's text is to the cause.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Rank {
    /// Only the component that failed is known.
    Family,
    /// A program prints it although nothing is wrong.
    Harmless,
    /// Nothing more specific is known about such texts.
    General,
    /// It follows from another error, which is usually in the same paste.
    Consequence,
    /// It is the error itself.
    #[default]
    Cause,
}

/// One cause of one or more texts.
#[derive(Default)]
pub(super) struct Entry {
    /// `insufficient-driver-too-old`
    pub(super) name: &'static str,
    /// The symptoms of the collection that it explains: `P11`.
    pub(super) pains: Vec<&'static str>,
    matches: Vec<Alternative>,
    not: Vec<Alternative>,
    pub(super) rank: Rank,
    severity: Option<Severity>,
    /// The cause.
    pub(super) cause: &'static str,
    /// How this cause differs from others with the same text; may be empty.
    pub(super) distinguish: &'static str,
    /// The fix.
    pub(super) fix: &'static str,
    /// The areas of the doctor that check it: `engine docker`.
    pub(super) run: Vec<&'static str>,
    /// The reports that have it.
    pub(super) sources: Vec<&'static str>,
}

fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let mut text = String::new();
        // A test compares it with the files.
        let _ = DeflateDecoder::new(ENTRIES).read_to_string(&mut text);
        text
    });
    &TEXT
}

/// All entries in the order of the files.
pub(super) fn all() -> impl Iterator<Item = &'static Entry> {
    static ALL: LazyLock<Vec<Entry>> = LazyLock::new(|| text().split("\n\n").filter_map(entry).collect());
    ALL.iter()
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
            "match" => found.matches.push(Alternative::new(value)),
            "not" => found.not.push(Alternative::new(value)),
            "rank" => {
                found.rank = match value {
                    "consequence" => Rank::Consequence,
                    "family" => Rank::Family,
                    "general" => Rank::General,
                    "harmless" => Rank::Harmless,
                    _ => return None,
                }
            }
            "severity" => {
                found.severity = Some(match value {
                    "info" => Severity::Info,
                    "warn" => Severity::Warn,
                    _ => return None,
                });
            }
            "cause" => found.cause = value,
            "distinguish" => found.distinguish = value,
            "fix" => found.fix = value,
            "run" => found.run = value.split("; ").collect(),
            "source" => found.sources = value.split(' ').collect(),
            _ => return None,
        }
    }
    (!found.name.is_empty()).then_some(found)
}

impl Entry {
    /// The entry's best match in the text: the alternative with the greatest weight.
    pub(super) fn matched(&self, text: &Text, signals: &Signals) -> Option<Found> {
        let mut all: Vec<Found> = self
            .matches
            .iter()
            .filter_map(|m| m.matched(text, signals))
            .collect();
        // The first of equal ones. Any alternative may fill slots.
        let best = (0..all.len())
            .rev()
            .max_by_key(|i| all.get(*i).map_or(0, |f| f.weight))?;
        let mut found = all.swap_remove(best);
        found.slots.extend(all.into_iter().flat_map(|f| f.slots));
        let excluded = self.not.iter().any(|m| m.matched(text, signals).is_some());
        (!excluded).then_some(found)
    }

    /// Whether an alternative is the error: `cuda:35`.
    pub(super) fn names(&self, code: &str) -> bool {
        // In an alternative with `&&`, the error comes first.
        self.matches
            .iter()
            .any(|of| matches!(of.conditions.first(), Some(Condition::Signal(key)) if *key == code))
    }

    /// The severity of the error.
    pub(super) fn severity(&self) -> Severity {
        let by_rank = if self.rank == Rank::Harmless {
            Severity::Ok
        } else {
            Severity::Fail
        };
        self.severity.unwrap_or(by_rank)
    }
}

/// Conditions that must all hold: signals or texts, with `&&` between them.
struct Alternative {
    conditions: Vec<Condition>,
    #[cfg(test)]
    written: &'static str,
}

enum Condition {
    Signal(&'static str),
    Text(Pattern),
}

impl Alternative {
    fn new(written: &'static str) -> Self {
        let condition = |c: &'static str| {
            if KEYS.iter().any(|k| c.starts_with(k)) {
                Condition::Signal(c)
            } else {
                Condition::Text(Pattern::new(c))
            }
        };
        Self {
            conditions: written.split(" && ").map(condition).collect(),
            #[cfg(test)]
            written,
        }
    }

    fn matched(&self, text: &Text, signals: &Signals) -> Option<Found> {
        let mut all: Option<Found> = None;
        for condition in &self.conditions {
            let found = match condition {
                Condition::Text(pattern) => pattern.find(text)?,
                Condition::Signal(key) => {
                    let signal = signals.get(key)?;
                    Found {
                        at: signal.at.clone(),
                        slots: signal.slots.clone(),
                        weight: match key.split(':').next() {
                            Some("about") => 0,
                            Some("component" | "status") => 1,
                            _ => SIGNAL,
                        },
                    }
                }
            };
            match &mut all {
                Some(all) => {
                    all.weight += found.weight;
                    all.slots.extend(found.slots);
                }
                None => all = Some(found),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_file_is_in_the_program() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/doctor/explain/entries");
        let mut files = 0;
        for file in std::fs::read_dir(dir).unwrap() {
            files += std::fs::read_to_string(file.unwrap().path()).unwrap().len() + 1;
        }
        assert_eq!(text().len(), files, "build.rs lacks a file");
    }

    #[test]
    fn every_entry_is_whole() {
        let blocks = text()
            .split("\n\n")
            .filter(|b| b.lines().any(|l| !l.starts_with('#')));
        let mut names = HashSet::new();
        for block in blocks {
            let entry = entry(block).unwrap_or_else(|| panic!("not understood: {block}"));
            let whole = !entry.matches.is_empty()
                && !entry.cause.is_empty()
                && (entry.rank == Rank::Harmless || (!entry.fix.is_empty() && !entry.run.is_empty()))
                && entry.sources.iter().all(|s| s.starts_with("https://"));
            assert!(whole && !entry.sources.is_empty(), "{block}");
            assert!(names.insert(entry.name), "{} twice", entry.name);
            for m in entry.matches.iter().chain(&entry.not).map(|a| a.written) {
                assert_eq!(m.trim().to_lowercase(), m, "{m}");
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
    fn alternatives() {
        let text = Text::new("nvidia: libcudnn.so.8: cannot open shared object file");
        let signals = Signals::of(&text);
        let found = |m| Alternative::new(m).matched(&text, &signals);
        assert!(found("lib:cuda && about:gpu && cannot open").is_some());
        assert!(found("lib:cuda && lib:libcuda").is_none());
        assert_eq!(
            found("lib:cuda").unwrap().slots,
            [("lib", "libcudnn.so.8".to_owned())]
        );
    }
}
