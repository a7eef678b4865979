//! The hostile cases, by what the attacker controls. A class is a row of SECURITY.md's table.
//! CONTRIBUTING.md has a walk through a new case.

mod annotations;
mod calls;
mod cgroups;
mod compat;
mod covers;
mod direct;
mod environment;
mod files;
mod grants;
mod libraries;
mod links;
mod loader;
mod others;
mod places;
mod prelude;
mod requests;
mod settings;
mod sources;
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
    &compat::COMPAT,
    &steps::TWO_STEPS,
    &volumes::VOLUMES,
    &environment::PRELOAD,
    &environment::CONFIGURED,
    &requests::LISTS,
    &environment::POLICY,
    &requests::REQUIREMENTS,
    &requests::GATED,
    &requests::WORDS,
    &loader::CONFIGURATION,
    &loader::CACHE,
    &files::ELF,
    &files::RELEASE,
    &direct::DEV,
    &direct::PROCFS,
    &steps::RUN,
    &direct::ROOTS,
    &steps::DOTS,
    &direct::STATES,
    &direct::DEFINITIONS,
    &annotations::IMAGES_CDI,
    &files::FULL,
    &volumes::PROPAGATION,
    &calls::USER_NAMESPACES,
    &files::NAMES,
    &calls::LIMITS,
    &calls::DESCRIPTORS,
    &others::SPECIFICATIONS,
    &others::LOG,
    &files::HARD_LINK,
    &calls::LAYER,
    &calls::DOUBLE,
    &others::DRIVER,
    &requests::ESCAPES,
    &sources::MPS_PIPES,
    &sources::SOCKETS,
    &sources::COMPONENTS,
    &sources::DATABASES,
    &sources::STATICS,
    &volumes::SHARED_ETC,
    &volumes::SHARED_NODE,
    &volumes::SHARED_FILES,
    &volumes::SHARED_PROCFS,
    &annotations::PODS,
    &annotations::IMAGES,
    &grants::RECORDS,
    &grants::PLACES,
    &grants::NODES,
    &cgroups::CALLERS,
    &cgroups::SHARED,
    &cgroups::DENIALS,
    &cgroups::NAMES,
    &loader::PATTERNS,
    &direct::SIZES,
    &covers::COVERS,
    &covers::BESIDES,
    &covers::HOSTS_TMPFS,
    &sources::SERVED,
    &sources::DRIVER_ROOT,
    &settings::SETTINGS,
    &settings::KINDS,
    &settings::SMIS,
    &requests::ISOLATION,
    &calls::WRITES,
    &sources::REMOUNTS,
    &cgroups::ABOVE,
    &libraries::LIBCUDAS,
    &libraries::OTHER_DEFINITION,
    &cgroups::FILTERS,
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
