//! The hostile cases, by what the attacker controls. A class is a row of SECURITY.md's table.
//! CONTRIBUTING.md has a walk through a new case.

mod annotations;
mod environment;
mod files;
mod links;
mod loader;
mod others;
mod places;
mod prelude;
mod steps;
mod volumes;

use crate::case::{Bite, Case, Class};
pub(crate) use links::LINK_OUT;

/// Every class, by number.
pub(crate) const CLASSES: &[&Class] = &[
    &CONTROL,
    &links::ABSOLUTE,
    &links::RELATIVE,
    &links::MAGIC,
    &links::LIBRARY,
    &places::TYPES,
    &places::DIRECTORIES,
    &steps::TWO_STEPS,
    &volumes::VOLUMES,
    &environment::PRELOAD,
    &environment::CONFIGURED,
    &environment::POLICY,
    &loader::CONFIGURATION,
    &loader::CACHE,
    &files::ELF,
    &files::RELEASE,
    &steps::RUN,
    &steps::DOTS,
    &annotations::IMAGES_CDI,
    &files::FULL,
    &volumes::PROPAGATION,
    &files::NAMES,
    &others::SPECIFICATIONS,
    &others::LOG,
    &files::HARD_LINK,
    &others::DRIVER,
    &volumes::SHARED_ETC,
    &volumes::SHARED_NODE,
    &volumes::SHARED_FILES,
    &volumes::SHARED_PROCFS,
    &annotations::PODS,
    &annotations::IMAGES,
    &loader::PATTERNS,
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
