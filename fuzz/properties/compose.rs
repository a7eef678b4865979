//! `nvoci doctor compose` on any text; with an odd first byte, on those of its lines that form a
//! Compose file.

use nvoci::cmd::fuzzing;
use nvoci::doctor::Report;

use crate::count::reached;
use crate::world::{check_error, check_text, repaired};

/// Holds for every input.
pub(crate) fn check(input: &[u8]) {
    let Some((&form, text)) = input.split_first() else {
        return;
    };
    reached("run");
    let mut text = String::from_utf8_lossy(text).into_owned();
    if form & 1 == 1 {
        text = repaired(&text, |lines| {
            fuzzing::doctor_compose(&lines.join("\n")).is_ok_and(|report| !is_broken(&report))
        })
        .join("\n");
    }
    let report = match fuzzing::doctor_compose(&text) {
        Ok(report) => report,
        Err(e) => return check_error(&e),
    };
    check_text(&report.to_text(false));
    let shown = report.to_json();
    if !is_broken(&report) {
        reached("accepted");
        if shown["findings"].as_array().is_some_and(|all| !all.is_empty()) {
            reached("finding");
        }
    }
}

fn is_broken(report: &Report) -> bool {
    report.findings.iter().any(|f| f.check.name == "compose.broken")
}
