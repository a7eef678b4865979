//! Findings, reports, and the verdict of a report.

use core::fmt;

use serde_json::{Value, json};

use super::Check;
use crate::error::{Escaped, shown};

/// The severity of a finding.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Checked and right; shown so that a reader sees the check.
    Ok,
    /// Nothing is wrong, or the check was not possible.
    Info,
    /// Works, at least until something changes.
    Warn,
    /// Cannot work.
    Fail,
}

impl Severity {
    /// The name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// The result of one check. Its texts may come from an image, so they are escaped when shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The check.
    pub check: &'static Check,
    /// Its severity.
    pub severity: Severity,
    /// The thing at fault: `host`, `docker`, `/opt/conda/lib/python3.10/site-packages/torch`.
    pub subject: String,
    /// The problem and its cause, one sentence; for `Ok` the observed fact.
    pub cause: String,
    /// The one command or edit that helps; empty if none is needed.
    pub fix: String,
    /// Lines of evidence: `/proc/driver/nvidia/version: 580.159.04`.
    pub evidence: Vec<String>,
}

impl Finding {
    /// A finding without evidence or fix yet.
    pub fn new(
        check: &'static Check,
        severity: Severity,
        subject: impl Into<String>,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            check,
            severity,
            subject: as_shown(subject),
            cause: as_shown(cause),
            fix: String::new(),
            evidence: Vec::new(),
        }
    }

    /// Sets the fix.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = as_shown(fix);
        self
    }

    /// Adds a line of evidence.
    #[must_use]
    pub fn evidence(mut self, line: impl Into<String>) -> Self {
        self.evidence.push(as_shown(line));
        self
    }
}

/// Cuts a text to the length that is shown, since an image's texts may be of any length.
fn as_shown(text: impl Into<String>) -> String {
    let mut text = text.into();
    let end = shown(&text).len();
    if end < text.len() {
        text.truncate(end);
        text.shrink_to_fit();
    }
    text
}

/// One line, as an error is shown.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Escaped(&self.subject), Escaped(&self.cause))?;
        if !self.fix.is_empty() {
            write!(f, "; fix: {}", Escaped(&self.fix))?;
        }
        write!(f, " [{}]", self.check)
    }
}

/// A fact about the subject of a report. Several may have one name: an image with two PyTorches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fact {
    /// The name: `driver`.
    pub name: String,
    /// The value: `580.159.04`.
    pub value: String,
    /// The file, variable or program that it was read from: `/proc/driver/nvidia/version`.
    pub source: String,
}

/// The findings about one subject.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// The subject: `host`, `image nvidia/cuda:11.8.0-base-ubuntu22.04`.
    pub title: String,
    /// Facts about it.
    pub facts: Vec<Fact>,
    /// The findings.
    pub findings: Vec<Finding>,
    /// The number of findings and facts beyond the report's limit.
    pub omitted: usize,
}

/// The most findings, and the most facts, of one report.
const MOST: usize = 1000;

impl Report {
    /// An empty report on `title`.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    /// Adds a fact, and the file, variable or program that it was read from.
    pub fn fact(&mut self, name: impl Into<String>, value: impl Into<String>, source: impl Into<String>) {
        if self.facts.len() < MOST {
            self.facts.push(Fact {
                name: as_shown(name),
                value: as_shown(value),
                source: as_shown(source),
            });
        } else {
            self.omitted += 1;
        }
    }

    /// Adds a finding. Beyond the limit the worst findings stay.
    pub fn add(&mut self, finding: Finding) {
        if self.findings.len() < MOST {
            return self.findings.push(finding);
        }
        self.omitted += 1;
        let milder = self.findings.iter().rposition(|f| f.severity < finding.severity);
        if let Some(place) = milder {
            self.findings.remove(place);
            self.findings.push(finding);
        }
    }

    /// The report with the facts and findings of `other` after its own.
    #[must_use]
    pub fn joined(mut self, other: Self) -> Self {
        self.facts.extend(other.facts);
        self.findings.extend(other.findings);
        self.omitted += other.omitted;
        self
    }

    /// The worst severity of all findings: `Fail`, `Warn` or `Ok`.
    pub fn verdict(&self) -> Severity {
        match self.findings.iter().map(|f| f.severity).max() {
            Some(worst @ (Severity::Fail | Severity::Warn)) => worst,
            _ => Severity::Ok,
        }
    }

    /// The process exit status: 0, 1 with warnings, 2 with failures.
    pub fn status(&self) -> u8 {
        match self.verdict() {
            Severity::Fail => 2,
            Severity::Warn => 1,
            Severity::Ok | Severity::Info => 0,
        }
    }

    /// The report as JSON. Later versions may add keys but remove none.
    pub fn to_json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|f| {
                json!({
                    "code": f.check.to_string(), "name": f.check.name, "severity": f.severity.name(),
                    "subject": Escaped(&f.subject).to_string(), "cause": Escaped(&f.cause).to_string(),
                    "fix": Escaped(&f.fix).to_string(),
                    "evidence": f.evidence.iter().map(|e| Escaped(e).to_string()).collect::<Vec<_>>(),
                })
            })
            .collect();
        let facts: Vec<Value> = self
            .facts
            .iter()
            .map(|f| {
                json!({
                    "name": Escaped(&f.name).to_string(), "value": Escaped(&f.value).to_string(),
                    "source": Escaped(&f.source).to_string(),
                })
            })
            .collect();
        let mut all = json!({ "title": Escaped(&self.title).to_string(), "verdict": self.verdict().name(), "facts": facts, "findings": findings });
        if let (Some(map), 1..) = (all.as_object_mut(), self.omitted) {
            map.insert("omitted".to_owned(), self.omitted.into());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: Check = Check {
        number: 7199,
        name: "test.check",
        summary: "A test.",
    };

    #[test]
    fn the_worst_finding_is_the_verdict() {
        let mut report = Report::new("host");
        assert_eq!((report.verdict(), report.status()), (Severity::Ok, 0));
        for (severity, verdict, status) in [
            (Severity::Info, Severity::Ok, 0),
            (Severity::Warn, Severity::Warn, 1),
            (Severity::Fail, Severity::Fail, 2),
            (Severity::Ok, Severity::Fail, 2),
        ] {
            report.add(Finding::new(&CHECK, severity, "x", "y"));
            assert_eq!((report.verdict(), report.status()), (verdict, status));
        }
    }

    #[test]
    fn a_report_of_any_length_is_bounded_and_keeps_the_worst() {
        let mut report = Report::new("x");
        for _ in 0..3 * MOST {
            report.add(Finding::new(&CHECK, Severity::Info, "x".repeat(10_000), "y"));
            report.fact("x", "y".repeat(10_000), "z".repeat(10_000));
        }
        report.add(Finding::new(&CHECK, Severity::Fail, "the worst", "y"));
        assert_eq!(report.verdict(), Severity::Fail);
        assert_eq!((report.findings.len(), report.facts.len()), (MOST, MOST));
        assert_eq!(report.omitted, 4 * MOST + 1);
        assert!(report.to_text(false).contains("the worst"));
        assert_eq!(report.to_json()["omitted"], 4 * MOST + 1);
        crate::schema::Schema::read("doctor.json").assert_valid(&report.to_json());
        // The part that is cut off is not shown.
        assert!(report.findings[0].subject.len() < 700);
        assert!(report.to_text(false).contains(&format!("{}…", "x".repeat(600))));
    }

    #[test]
    fn an_images_text_is_escaped() {
        let mut report = Report::new("image");
        report.add(
            Finding::new(&CHECK, Severity::Fail, "a\u{1b}[2J", "b\n")
                .fix("c")
                .evidence("d\r"),
        );
        let text = format!("{}{}", report.to_json(), report.to_text(true));
        // Our own colours begin with ESC [ and end with m; the image's are escaped.
        assert!(!text.contains("\u{1b}[2J") && !text.contains('\r'), "{text}");
        assert_eq!(report.to_json()["findings"][0]["code"], "NVOCI-7199");
    }
}
