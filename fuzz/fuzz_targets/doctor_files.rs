//! Fuzzes Dockerfiles, Compose files and pasted errors, which any user may write.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use nvoci::compat::Sm;
use nvoci::doctor::dockerfile::Wanted;
use nvoci::doctor::explain;
use nvoci::cmd::fuzzing;

#[path = "../properties/count.rs"]
mod count;
#[path = "../properties/report.rs"]
mod report;

fuzz_target!(init: report::at_exit(|| ()), |text: &str| {
    count::reached("run");
    let wanted = Wanted {
        driver: "470.256.02".parse().ok(),
        sm: Some(Sm::new(86)),
        ..Wanted::default()
    };
    let _ = fuzzing::doctor_dockerfile(text, &BTreeMap::new(), wanted).map(|r| r.to_text(false));
    let _ = fuzzing::doctor_compose(text).map(|r| r.to_text(false));
    let _ = explain::explain(text).report.to_json();
    count::reached("accepted");
});
