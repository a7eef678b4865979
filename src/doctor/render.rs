//! A report for people.

use core::fmt::Write as _;
use std::io::IsTerminal as _;

use super::{Finding, Report, Severity};
use crate::error::Escaped;

const RESET: &str = "\u{1b}[0m";

const fn colour(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "\u{1b}[32m",
        Severity::Info => "\u{1b}[36m",
        Severity::Warn => "\u{1b}[33m",
        Severity::Fail => "\u{1b}[1;31m",
    }
}

/// Whether standard output should have colors: it is a terminal, and `NO_COLOR`
/// (<https://no-color.org>) is not set.
pub(crate) fn wants_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

impl Report {
    /// The report as text: facts, findings with the worst first, and the verdict as the last line.
    pub fn to_text(&self, colours: bool) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}", Escaped(&self.title));
        let width = self
            .facts
            .iter()
            .map(|fact| fact.name.chars().count())
            .max()
            .unwrap_or(0);
        for fact in &self.facts {
            // The width counts characters of the name as it is, so the escaped name is padded.
            let name = Escaped(&fact.name).to_string();
            let _ = writeln!(out, "  {name:width$}  {}", Escaped(&fact.value));
        }
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|f| core::cmp::Reverse(f.severity));
        for finding in findings {
            finding.write(&mut out, colours);
        }
        if self.omitted > 0 {
            let _ = writeln!(out, "({} more, not shown)", self.omitted);
        }
        let verdict = self.verdict();
        let _ = writeln!(
            out,
            "{}",
            paint(verdict, &format!("verdict: {}", verdict.name()), colours)
        );
        out
    }
}

impl Finding {
    fn write(&self, out: &mut String, colours: bool) {
        let mark = paint(self.severity, &format!("{:<4}", self.severity.name()), colours);
        let code = if self.severity == Severity::Ok {
            String::new()
        } else {
            format!(" [{}]", self.check)
        };
        let _ = writeln!(
            out,
            "{mark} {}: {}{code}",
            Escaped(&self.subject),
            Escaped(&self.cause)
        );
        if !self.fix.is_empty() {
            let _ = writeln!(out, "     fix: {}", Escaped(&self.fix));
        }
        if self.severity > Severity::Ok {
            for line in &self.evidence {
                let _ = writeln!(out, "     - {}", Escaped(line));
            }
        }
    }
}

fn paint(severity: Severity, text: &str, colours: bool) -> String {
    if colours {
        format!("{}{text}{RESET}", colour(severity))
    } else {
        text.to_owned()
    }
}
