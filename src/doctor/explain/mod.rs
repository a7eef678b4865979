//! What an error means: the texts that people paste, the numbers and names of CUDA's and NVML's errors, and our own.

mod codes;
mod entries;

use codes::Named;

use super::check::checks;
use super::{Finding, Report, Severity, all_checks};
use crate::compat::errors::Known;
use crate::error::Code;

checks! {
    KNOWN = 7801, "explain.known", "An error that is known, with one of its causes.";
    UNKNOWN = 7802, "explain.unknown", "The text matches no error that is known.";
    UNSEEN = 7803, "explain.host", "The host could not be looked at.";
}

/// Bytes of a text that are looked at; what is pasted is at most a screen or two.
const MAX_TEXT: usize = 256 << 10;
/// Causes that are shown; the likeliest come first.
const MAX_CAUSES: usize = 6;

/// What a text means.
#[derive(Debug)]
pub struct Explanation {
    /// Its causes, or that it is not known.
    pub report: Report,
    /// The areas of the doctor that can look further, the most useful first: `engine docker`.
    pub areas: Vec<&'static str>,
}

/// Explains a text. Only its last [`MAX_TEXT`] bytes count: a log ends with the error.
pub fn explain(text: &str) -> Explanation {
    let text = normal(text);
    let mut report = Report::new("explain");
    let named = codes::find(&text);
    let keys: Vec<String> = named.iter().map(Named::key).collect();
    let mut areas: Vec<&'static str> = Vec::new();
    for named in &named {
        if let Some(fact) = what(named) {
            report.fact(name(named), fact);
        }
    }
    let matched = entries::all().filter_map(|e| e.matched(&text, &keys).map(|m| (e, m)));
    let mut explained: Vec<String> = Vec::new();
    for (entry, pattern) in matched.take(MAX_CAUSES) {
        explained.extend(keys.iter().filter(|k| entry.names(k)).cloned());
        for area in &entry.run {
            if !areas.contains(area) {
                areas.push(area);
            }
        }
        let mut finding = Finding::new(&KNOWN, Severity::Info, entry.name, entry.cause).fix(entry.fix);
        if !entry.tell.is_empty() {
            finding = finding.evidence(format!("to tell: {}", entry.tell));
        }
        finding = finding.evidence(format!("known as: {pattern} ({})", entry.pains.join(", ")));
        for source in &entry.sources {
            finding = finding.evidence(format!("met in: {source}"));
        }
        report.add(finding);
    }
    for named in named.iter().filter(|n| !explained.contains(&n.key())) {
        if let Some(finding) = by_code(named) {
            report.add(finding);
        }
    }
    if report.findings.is_empty() {
        report.add(
            Finding::new(
                &UNKNOWN,
                Severity::Warn,
                "text",
                "nothing in it is an error that nvoci knows",
            )
            .fix("paste the line with the error itself, or run `nvoci doctor` and `nvoci doctor --last`"),
        );
    }
    Explanation { report, areas }
}

/// The finding that says that the host could not be looked at.
pub fn unseen(why: impl Into<String>) -> Finding {
    Finding::new(&UNSEEN, Severity::Info, "host", why)
}

fn name(named: &Named) -> String {
    match named {
        Named::Cuda(known) => format!("CUDA error {}", known.number),
        Named::Nvml(known) => format!("NVML error {}", known.number),
        Named::Own(number) => format!("NVOCI-{number}"),
    }
}

/// What the tables say of an error.
fn what(named: &Named) -> Option<String> {
    let of = |known: &Known, prefix: &str| {
        let names: Vec<String> = known
            .names
            .iter()
            .flatten()
            .map(|n| format!("{prefix}{n}"))
            .collect();
        format!("{}: {}", names.join(", "), known.meaning)
    };
    match named {
        Named::Cuda(known) => Some(of(known, "")),
        Named::Nvml(known) => Some(of(known, "NVML_ERROR_")),
        Named::Own(number) => own(*number).map(|(summary, _)| summary),
    }
}

/// Summary and fix of one of our own codes.
fn own(number: u16) -> Option<(String, String)> {
    if let Some(code) = Code::ALL.iter().find(|c| c.number() == number) {
        return Some((code.summary().trim().to_owned(), code.default_fix().to_owned()));
    }
    all_checks().find(|c| c.number == number).map(|check| {
        let fix = format!("its finding says what to do; the check is `{}`", check.name);
        (check.summary.to_owned(), fix)
    })
}

fn by_code(named: &Named) -> Option<Finding> {
    let finding = |cause: String| Finding::new(&KNOWN, Severity::Info, name(named), cause);
    match named {
        Named::Cuda(known) | Named::Nvml(known) => Some(finding(
            known
                .in_container
                .map_or_else(|| known.meaning.to_owned(), ToOwned::to_owned),
        )),
        Named::Own(number) => own(*number).map(|(summary, fix)| finding(summary).fix(fix)),
    }
}

/// The text in small letters, its spaces as one, without colours and typographic quotes.
fn normal(text: &str) -> String {
    let mut start = text.len().saturating_sub(MAX_TEXT);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let mut out = String::with_capacity(text.len() - start);
    let mut chars = text[start..].chars().peekable();
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
            '\\' if chars.peek() == Some(&'"') => {}
            c if c.is_whitespace() || c.is_control() => {
                if !out.is_empty() && !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            c => out.extend(c.to_lowercase()),
        }
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests;
