//! `nvoci doctor dockerfile` on any text, checked for several hosts. The first byte chooses the
//! host.

use std::collections::BTreeMap;

use nvoci::cmd::fuzzing;
use nvoci::compat::{Class, Sm};
use nvoci::doctor::dockerfile::Wanted;

use crate::count::reached;
use crate::world::{check_error, check_text};

/// Holds for every input.
pub(crate) fn check(input: &[u8]) {
    let Some((&form, text)) = input.split_first() else {
        return;
    };
    reached("run");
    let wanted = Wanted {
        driver: ["470.256.02", "550.54.15", "580.95.05", ""][usize::from(form & 3)]
            .parse()
            .ok(),
        sm: [Some(Sm::new(86)), Some(Sm::new(120)), Some(Sm::new(52)), None][usize::from(form >> 2 & 3)],
        class: (form & 16 != 0).then_some(Class::GeForce),
        windows: form & 32 != 0,
    };
    let mut args = BTreeMap::new();
    if form & 64 != 0 {
        args.insert("V".to_owned(), "11.8.0".to_owned());
    }
    let report = match fuzzing::doctor_dockerfile(&String::from_utf8_lossy(text), &args, wanted) {
        Ok(report) => report,
        Err(e) => return check_error(&e),
    };
    check_text(&report.to_text(false));
    let shown = report.to_json();
    // A text without a base image is refused; `title` alone does not show it.
    if !report
        .findings
        .iter()
        .any(|f| f.check.name == "dockerfile.broken")
    {
        reached("accepted");
    }
    if shown["findings"].as_array().is_some_and(|all| !all.is_empty()) {
        reached("finding");
    }
}
