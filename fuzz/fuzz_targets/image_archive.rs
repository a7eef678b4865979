#![no_main]

#[path = "../properties/count.rs"]
mod count;
#[path = "../properties/image_archive.rs"]
mod property;
#[path = "../properties/report.rs"]
mod report;
#[path = "../properties/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(init: report::at_exit(world::clean), |input: &[u8]| property::check(input));
