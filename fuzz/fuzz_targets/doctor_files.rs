//! Dockerfiles, Compose files and pasted errors, which are anybody's.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use nvoci::compat::Sm;
use nvoci::doctor::dockerfile::Wanted;
use nvoci::doctor::{compose, dockerfile, explain};
use nvoci::sys::budget::Budget;

fuzz_target!(|text: &str| {
    let wanted = Wanted {
        driver: "470.256.02".parse().ok(),
        sm: Some(Sm::new(86)),
        ..Wanted::default()
    };
    let _ = dockerfile::report("f", text, &BTreeMap::new(), wanted, &Budget::default()).map(|r| r.to_text(false));
    let _ = compose::report("f", text, &Budget::default()).map(|r| r.to_text(false));
    let _ = explain::explain(text).report.to_json();
});
