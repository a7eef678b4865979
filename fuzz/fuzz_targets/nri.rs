#![no_main]

#[path = "../properties/count.rs"]
mod count;
#[path = "../properties/nri.rs"]
mod property;
#[path = "../properties/report.rs"]
mod report;

libfuzzer_sys::fuzz_target!(init: report::at_exit(|| ()), |input: &[u8]| property::check(input));
