//! Explains an error text: pasted output, numbers and names of CUDA's and NVML's errors, our own
//! codes.
//!
//! - [`text`] joins the text into one line.
//! - [`signals`] extracts errors in the syntax of the programs that print them: `cuda:35`.
//! - [`entries`] and [`pattern`] select the entries whose patterns and signals are in the text.
//! - The entries are ranked: errors, then consequences, general entries, harmless lines, and
//!   families, which name the component that failed and nothing more.

mod entries;
mod pattern;
mod signals;
mod text;

use entries::{Entry, Rank};
use pattern::{Found, fill};
use signals::{Named, Signals};
use text::Text;

use super::check::checks;
use super::{Finding, Report, Severity, all_checks};
use crate::compat::errors::{self, Known};
use crate::error::Code;

checks! {
    KNOWN = 7801, "explain.known", "A known error, with one of its causes.";
    UNKNOWN = 7802, "explain.unknown", "The text matches no known error.";
    UNSEEN = 7803, "explain.host", "The host could not be checked.";
}

/// The source of a number's meaning.
const TABLES: &str = "nvoci's tables of CUDA's and NVML's errors and its own codes";

/// The most causes that are shown; the likeliest come first.
const MAX_CAUSES: usize = 6;

/// The explanation of a text.
#[derive(Debug)]
pub struct Explanation {
    /// Its causes, or a finding that there is no entry.
    pub report: Report,
    /// The areas of the doctor with more checks, the most useful first: `engine docker`.
    pub areas: Vec<&'static str>,
}

/// Explains a text. Only its last [`text::MAX`] bytes count: a log ends with the error.
pub fn explain(text: &str) -> Explanation {
    let is_whole = text.len() <= text::MAX;
    let (text, signals) = read(text);
    let mut report = Report::new("explain");
    let mut areas: Vec<&'static str> = Vec::new();
    for named in signals.named() {
        if let Some(fact) = what(*named) {
            report.fact(name(*named), fact, TABLES);
        }
    }
    let ranked = ranked(&text, &signals);
    let shown = ranked.get(..MAX_CAUSES).unwrap_or(&ranked);
    let without_entry: Vec<Finding> = signals
        .named()
        .iter()
        .filter(|named| !shown.iter().any(|(entry, _)| entry.names(&named.key())))
        .filter_map(|named| by_code(*named))
        .collect();
    let has_cause = shown.first().is_some_and(|(entry, _)| entry.rank == Rank::Cause);
    // An error that has a number but no entry comes before its consequences.
    let (before, after) = if has_cause {
        (Vec::new(), without_entry)
    } else {
        (without_entry, Vec::new())
    };
    for finding in before {
        report.add(finding);
    }
    for (entry, found) in shown {
        // A general entry adds nothing beside a specific one.
        if matches!(entry.rank, Rank::Family | Rank::General) && !report.findings.is_empty() {
            continue;
        }
        for area in &entry.run {
            if !areas.contains(area) {
                areas.push(area);
            }
        }
        report.add(finding(entry, found, &text));
    }
    for finding in after {
        report.add(finding);
    }
    if report.findings.is_empty() {
        report.add(
            Finding::new(
                &UNKNOWN,
                Severity::Warn,
                "text",
                if is_whole {
                    "nvoci found no known error in it"
                } else {
                    "nvoci found no known error in its last 256 KiB, and reads no more"
                },
            )
            .fix("paste the line with the error itself, or run `nvoci doctor` and `nvoci doctor --last`"),
        );
    }
    Explanation { report, areas }
}

/// The text and its signals. If no specific entry matches it, words that a terminal broke at its
/// right margin are joined, and it is read again.
fn read(text: &str) -> (Text, Signals) {
    let of = |text: &str| {
        let text = Text::new(text);
        let signals = Signals::of(&text);
        (text, signals)
    };
    let best = |(text, signals): &(Text, Signals)| {
        ranked(text, signals)
            .first()
            .map_or(Rank::Family, |(entry, _)| entry.rank)
    };
    let as_written = of(text);
    let rank = best(&as_written);
    if rank <= Rank::General
        && let Some(joined) = text::rejoined(text).map(|joined| of(&joined))
        && best(&joined) > rank
    {
        return joined;
    }
    as_written
}

/// The matching entries: the nearest to the cause first, then by weight, then in the file's order.
fn ranked(text: &Text, signals: &Signals) -> Vec<(&'static Entry, Found)> {
    let mut matched: Vec<(&Entry, Found)> = entries::all()
        .filter_map(|e| e.matched(text, signals).map(|f| (e, f)))
        .collect();
    matched.sort_by(|(a, f), (b, g)| b.rank.cmp(&a.rank).then(g.weight.cmp(&f.weight)));
    matched
}

fn finding(entry: &Entry, found: &Found, text: &Text) -> Finding {
    let mut finding = Finding::new(
        &KNOWN,
        entry.severity(),
        entry.name,
        fill(entry.cause, &found.slots),
    )
    .fix(fill(entry.fix, &found.slots));
    if !entry.distinguish.is_empty() {
        finding = finding.evidence(format!("to distinguish: {}", entry.distinguish));
    }
    if !found.at.is_empty() {
        finding = finding.evidence(format!("in the text: {}", text.excerpt(&found.at)));
    }
    if !entry.pains.is_empty() {
        finding = finding.evidence(format!("known as: {}", entry.pains.join(", ")));
    }
    for source in &entry.sources {
        finding = finding.evidence(format!("met in: {source}"));
    }
    finding
}

/// The finding that the host could not be read.
pub fn unseen(why: impl Into<String>) -> Finding {
    Finding::new(&UNSEEN, Severity::Info, "host", why)
}

fn name(named: Named) -> String {
    match named {
        Named::Cuda(number) => format!("CUDA error {number}"),
        Named::Nvml(number) => format!("NVML error {number}"),
        Named::Own(number) => format!("NVOCI-{number}"),
    }
}

fn known(named: Named) -> Option<Known> {
    match named {
        Named::Cuda(number) => errors::cuda().find(|k| k.number == number),
        Named::Nvml(number) => errors::nvml().find(|k| k.number == number),
        Named::Own(_) => None,
    }
}

/// The tables' description of an error.
fn what(named: Named) -> Option<String> {
    if let Named::Own(number) = named {
        return own(number).map(|(_, summary, _)| summary);
    }
    let prefix = if matches!(named, Named::Nvml(_)) {
        "NVML_ERROR_"
    } else {
        ""
    };
    known(named).map(|known| {
        let names: Vec<String> = known
            .names
            .iter()
            .flatten()
            .map(|n| format!("{prefix}{n}"))
            .collect();
        format!("{}: {}", names.join(", "), known.meaning)
    })
}

/// Severity, summary and fix of one of our codes.
fn own(number: u16) -> Option<(Severity, String, String)> {
    if let Some(code) = Code::ALL.iter().find(|c| c.number() == number) {
        return Some((
            Severity::Fail,
            code.summary().trim().to_owned(),
            code.default_fix().to_owned(),
        ));
    }
    all_checks().find(|c| c.number == number).map(|check| {
        let fix = format!("its finding names the fix; the check is `{}`", check.name);
        // The severity is in the finding, which the text does not include.
        (Severity::Info, check.summary.to_owned(), fix)
    })
}

fn by_code(named: Named) -> Option<Finding> {
    if let Named::Own(number) = named {
        return own(number)
            .map(|(severity, summary, fix)| Finding::new(&KNOWN, severity, name(named), summary).fix(fix));
    }
    known(named).map(|known| {
        let place = known.in_container.map_or_else(String::new, |c| format!(": {c}"));
        Finding::new(
            &KNOWN,
            Severity::Fail,
            name(named),
            format!("{}{place}", known.meaning),
        )
    })
}

#[cfg(test)]
mod tests;
