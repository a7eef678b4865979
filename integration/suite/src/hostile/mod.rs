//! The hostile cases, by what the attacker controls. A class is a row of SECURITY.md's table.
//! CONTRIBUTING.md has a walk through a new case.

mod links;
mod places;

use crate::case::{Bite, Case, Class};
pub(crate) use links::LINK_OUT;

/// The layout where the driver's files are placed in the image's own directories.
const NATIVE: &str = "layout = \"native\"";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LIBCUDA: &str = "usr/lib/x86_64-linux-gnu/libcuda.so.1";

/// Every class, by number.
pub(crate) const CLASSES: &[&Class] = &[
    &CONTROL,
    &links::ABSOLUTE,
    &links::RELATIVE,
    &links::MAGIC,
    &links::LIBRARY,
    &places::TYPES,
    &places::DIRECTORIES,
];

/// Nothing is a trick: what every case has if its trick does not work.
pub(crate) const HARMLESS: Case = Case {
    id: "00_harmless",
    why: "an image without a trick, where the naive hook does its job",
    bites: Bite::Passes,
    ..Case::HARMLESS
};

const CONTROL: Class = Class {
    number: 0,
    attack: "none",
    decision: "the container has the first GPU",
    also: &[],
    cases: &[HARMLESS],
};
