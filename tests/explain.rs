//! `doctor explain` on real error texts: how often it names the right cause, and that no input
//! makes it fail.
//!
//! A hash splits `corpus/explain.txt` into two halves. Rules are developed on the first half; the
//! second half only gives a score.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;

use nvoci::doctor::explain::explain;

const CORPUS: &str = include_str!("corpus/explain.txt");

/// A text and the expected entries.
struct Case<'a> {
    kind: &'a str,
    /// The right entries; empty if the text is not about a GPU.
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
    /// The number of right ones whose finding has the right severity too.
    severity: usize,
}

#[test]
fn real_texts() {
    let show = std::env::var_os("NVOCI_EXPLAIN_FAILURES").is_some();
    let mut counts: [BTreeMap<&str, Count>; 2] = Default::default();
    for case in cases() {
        let half = case.half();
        let score = case.score();
        let about = if case.entries.is_empty() { "NOT GPU" } else { "GPU" };
        for kind in [case.kind, "ALL", about] {
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
        let all = counts["ALL"];
        let texts = all.right + all.wrong + all.unknown;
        assert!(texts >= 130, "half {half} has {texts} texts");
        assert!(all.right * 100 >= texts * 95, "half {half}: {all:?}");
        assert!(all.severity * 100 >= texts * 95, "half {half}: {all:?}");
        assert_eq!(counts["NOT GPU"].wrong, 0, "half {half}");
    }
}

/// The text as engines, terminals and logs print it. Each form must have the text's explanation.
fn wrapped(text: &str) -> [String; 6] {
    let quoted = text.replace('"', "\\\"").replace('\n', "\\n");
    let words: Vec<&str> = text.split(' ').collect();
    let narrow: Vec<String> = words.chunks(7).map(|words| words.join(" ")).collect();
    [
        format!(
            "docker: Error response from daemon: OCI runtime create failed: runc create failed: {text}: unknown.\n"
        ),
        format!(
            "container init caused \\\"error running hook: exit status 1, stdout: , stderr: {quoted}\\\\n\\\"\": unknown"
        ),
        text.lines()
            .map(|line| format!("app-1  | 2024-05-01T10:00:00Z {line}\n"))
            .collect(),
        text.to_uppercase(),
        narrow.join("\r\n    "),
        format!(
            "Traceback (most recent call last):\n  File \"/app/main.py\", line 100, in <module>\n    main()\n{text}\n"
        ),
    ]
}

#[test]
fn wrappers_change_nothing() {
    let first = |text: &str| explain(text).report.findings[0].subject.clone();
    let mut changed = 0;
    let mut all = 0;
    for case in cases() {
        let plain = first(case.text);
        for text in wrapped(case.text) {
            all += 1;
            let now = first(&text);
            if now != plain {
                changed += 1;
                println!("{plain} -> {now}: {text}");
            }
        }
    }
    assert!(changed * 100 <= all, "{changed} of {all}");
}

/// What terminals, logs, engines, web pages and mails add to a text without changing its meaning.
const PRINTERS: &[fn(&str) -> String] = &[
    |text| lines(text, |line| format!("\u{1b}[1;31m{line}\u{1b}[0m")),
    |text| lines(text, |line| format!("\\u001b[31m{line}\\u001b[0m")),
    |text| lines(text, |line| format!("2025-06-01T10:11:12.123456789Z {line}")),
    |text| lines(text, |line| format!("[2025-06-01 10:11:12,123] {line}")),
    |text| lines(text, |line| format!("my-app-1  | {line}")),
    |text| lines(text, |line| format!("[pod/trainer-0/main] {line}")),
    |text| {
        lines(text, |line| {
            format!("Nov 30 05:10:12 node01 dockerd[1234]: {line}")
        })
    },
    |text| lines(text, |line| format!("> {line}")),
    |text| lines(text, |line| format!("\t    {line}   ")),
    |text| serde_json::json!({ "log": text, "stream": "stderr" }).to_string(),
    |text| {
        let error = serde_json::json!(text).to_string();
        format!("time=\"2025-06-01T10:11:12Z\" level=error msg={error} error=\"exit status 1\"")
    },
    |text| text.replace('\n', "\r\n"),
    |text| text.replace('\n', " "),
    |text| text.replace(' ', "\u{a0}"),
    |text| text.replace('"', "\u{201d}").replace('\'', "\u{2019}"),
    |text| {
        text.replace('&', "&amp;")
            .replace('"', "&quot;")
            .replace('<', "&lt;")
    },
];

fn lines(text: &str, of: impl Fn(&str) -> String) -> String {
    text.lines().map(of).collect::<Vec<_>>().join("\n")
}

/// A printer makes each line an entry of a log, and words of two entries do not belong together, so
/// texts of several lines are left out. Of the others one in fifty may lose its verdict: a printer
/// of other spaces and quotes breaks some messages of other languages.
#[test]
fn printers_change_few_verdicts() {
    const SAMPLES: usize = 600;
    let first = |text: &str| explain(text).report.findings[0].subject.clone();
    let texts: Vec<&str> = cases()
        .map(|case| case.text)
        .filter(|t| t.lines().count() == 1)
        .collect();
    let mut state = 7;
    let mut changed = Vec::new();
    for _ in 0..SAMPLES {
        let text = texts[next(&mut state) % texts.len()];
        let printers = 1 + next(&mut state) % 3;
        let printed = (0..printers).fold(text.to_owned(), |text, _| {
            PRINTERS[next(&mut state) % PRINTERS.len()](&text)
        });
        if first(&printed) != first(text) {
            changed.push(printed);
        }
    }
    assert!(
        changed.len() * 50 <= SAMPLES,
        "{} of {SAMPLES}: {changed:#?}",
        changed.len()
    );
}

/// The next number of a pseudorandom sequence (splitmix64).
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    usize::try_from((z ^ (z >> 31)) >> 33).unwrap()
}

/// A damaged text: cut, doubled, shuffled, with bytes of any kind in it.
fn mutated(texts: &[&str], state: &mut u64) -> String {
    const BYTES: &[&str] = &[
        "\u{0}",
        "\u{1b}[",
        "\\",
        "\\n",
        "\"",
        "\u{e4}",
        "\u{1f600}",
        "*",
        "<",
        ">",
        "(",
        ")",
        ": ",
        "\n",
        "#012",
        "&&",
        "99999",
        "-1",
        ".so",
        "lib",
        "cuda",
        "xid",
        "/dev/nvidia",
        "\u{130}",
        "\u{fb01}",
        "\u{2502}",
        "%",
        "error ",
    ];
    let mut chars: Vec<char> = texts[next(state) % texts.len()].chars().collect();
    for _ in 0..=next(state) % 8 {
        let at = next(state) % (chars.len() + 1);
        let end = (at + next(state) % 40).min(chars.len());
        match next(state) % 6 {
            0 => drop(chars.drain(at..end)),
            1 => drop(chars.splice(at..at, BYTES[next(state) % BYTES.len()].chars())),
            2 => drop(chars.splice(at..at, chars[at..end].to_vec())),
            3 => chars.truncate(at),
            4 => chars.rotate_left(at),
            _ => drop(chars.splice(at..at, texts[next(state) % texts.len()].chars())),
        }
    }
    chars.into_iter().collect()
}

#[test]
fn damaged_texts_are_explained_too() {
    let texts: Vec<&str> = cases().map(|c| c.text).collect();
    let mut state = 22;
    for _ in 0..1000 {
        let text = mutated(&texts, &mut state);
        let begin = std::time::Instant::now();
        let explained = explain(&text);
        assert!(begin.elapsed().as_secs() < 1, "slow: {text}");
        let findings = &explained.report.findings;
        assert!(!findings.is_empty() && findings.len() <= 80, "{text}");
        // The shown part of the text is bounded, and valid in JSON.
        assert!(findings.iter().all(|f| f.cause.len() < 2000), "{text}");
        assert!(explained.report.to_json().to_string().len() < 100_000, "{text}");
        let _ = explained.report.to_text(false);
    }
}
