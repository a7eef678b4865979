//! `doctor explain` on real error texts: how often it names the right cause, and that no input makes it fail.
//!
//! `corpus/explain.txt` is split into two halves by a hash of each text. Rules are developed on the first half; of the
//! second half only the score is looked at.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;

use nvoci::doctor::explain::explain;

const CORPUS: &str = include_str!("corpus/explain.txt");

/// A text and what must be found in it.
struct Case<'a> {
    kind: &'a str,
    /// The entries that are right; empty where the text is not about a GPU.
    entries: Vec<&'a str>,
    severity: &'a str,
    text: &'a str,
}

impl Case<'_> {
    fn half(&self) -> usize {
        // FNV-1a: the same on every machine and in every version of Rust.
        let hash = self.text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        usize::from(hash & 1 == 1)
    }

    fn score(&self) -> Score {
        let report = explain(self.text).report;
        let first = &report.findings[0];
        let unknown = first.check.name == "explain.unknown";
        let severity = first.severity.name() == self.severity;
        match (self.entries.is_empty(), unknown) {
            (true, true) => Score::Right { severity },
            (false, true) => Score::Unknown,
            (false, false) if self.entries.contains(&first.subject.as_str()) => Score::Right { severity },
            _ => Score::Wrong(first.subject.clone()),
        }
    }
}

enum Score {
    Right { severity: bool },
    Wrong(String),
    Unknown,
}

fn cases() -> impl Iterator<Item = Case<'static>> {
    CORPUS.split("\n\n").filter_map(|block| {
        let (head, text) = block.trim_end().strip_prefix("@ ")?.split_once('\n')?;
        let [kind, entries, severity, url] = head.split(" | ").collect::<Vec<_>>().try_into().unwrap();
        assert!(url.starts_with("https://"), "{head}");
        Some(Case {
            kind,
            entries: entries.split('/').filter(|e| *e != "-").collect(),
            severity,
            text,
        })
    })
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    right: usize,
    wrong: usize,
    unknown: usize,
    /// Right, and the severity of the finding too.
    severity: usize,
}

#[test]
fn real_texts() {
    let show = std::env::var_os("NVOCI_EXPLAIN_FAILURES").is_some();
    let mut counts: [BTreeMap<&str, Count>; 2] = Default::default();
    for case in cases() {
        let half = case.half();
        let score = case.score();
        let count = [case.kind, "ALL", if case.entries.is_empty() { "NOT GPU" } else { "GPU" }];
        for kind in count {
            let count = counts[half].entry(kind).or_default();
            match &score {
                Score::Right { severity } => {
                    count.right += 1;
                    count.severity += usize::from(*severity);
                }
                Score::Wrong(_) => count.wrong += 1,
                Score::Unknown => count.unknown += 1,
            }
        }
        // Failures of the second half are never shown.
        if show && half == 0 {
            let what = match &score {
                Score::Right { severity: true } => continue,
                Score::Right { severity: false } => "severity".to_owned(),
                Score::Wrong(subject) => format!("wrong: {subject}"),
                Score::Unknown => "unknown".to_owned(),
            };
            println!("{what} (want {}):\n{}\n", case.entries.join("/"), case.text);
        }
    }
    for (half, counts) in counts.iter().enumerate() {
        for (kind, c) in counts {
            println!(
                "half {half} {kind:10} right {:3} wrong {:3} unknown {:3} severity {:3}",
                c.right, c.wrong, c.unknown, c.severity
            );
        }
    }
}
