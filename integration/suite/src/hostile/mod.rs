//! The hostile cases, by what the attacker controls. A class is a row of SECURITY.md's table.
//! CONTRIBUTING.md has a walk through a new case.

mod annotations;
mod environment;
mod files;
mod links;
mod loader;
mod others;
mod places;
mod steps;
mod volumes;

use serde_json::{Value, json};

use crate::case::{Bite, Case, Class, Request};
use crate::definition::{push, push_once};
use crate::expect::Outcome::{Gpu, RuntimeRefuses};
use crate::expect::{Expect, Root, Where};
use crate::way::{Runtime, Way};
pub(crate) use links::LINK_OUT;

/// The layout where the driver's files are placed in the image's own directories.
const NATIVE: &str = "layout = \"native\"";
/// The policy that does not accept variables.
const CLOSED: &str = "accept-envvar-unprivileged = false";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LIBCUDA: &str = "usr/lib/x86_64-linux-gnu/libcuda.so.1";
const LOADER_CACHE: &str = "etc/ld.so.cache";
const CACHE_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";

const RUNC: Where = Where {
    runtimes: &[Runtime::Runc],
    ..Where::ANYWHERE
};
/// crun makes the places of a specification's mounts, and refuses a link on the way to one.
const CRUN_BY_CDI: Where = Where {
    runtimes: &[Runtime::Crun],
    ways: &[Way::Cdi],
    ..Where::ANYWHERE
};
/// runc 1.3 and crun make the places of a specification's mounts by `openat2`.
const NEWER_BY_CDI: Where = Where {
    roots: &[Root::Sid],
    ways: &[Way::Cdi],
    ..Where::ANYWHERE
};
const UNLESS_NEWER_MOUNTS: Expect = Expect::always(Gpu).except(&[(NEWER_BY_CDI, RuntimeRefuses)]);
const UNLESS_CRUN_MOUNTS: Expect = Expect::always(Gpu).except(&[(CRUN_BY_CDI, RuntimeRefuses)]);

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

/// The container requests the first GPU, and its definition is edited.
const fn edited(edit: fn(&mut Value)) -> Request {
    Request {
        edit,
        ..Request::FIRST_GPU
    }
}

/// A user namespace of the container's own, and CAP_SYS_ADMIN over it.
fn own_user_namespace(spec: &mut Value) {
    push(&mut spec["linux"]["namespaces"], json!({"type": "user"}));
    for map in ["uidMappings", "gidMappings"] {
        spec["linux"][map] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    }
    for set in spec["process"]["capabilities"]
        .as_object_mut()
        .into_iter()
        .flat_map(|sets| sets.values_mut())
    {
        push_once(set, "CAP_SYS_ADMIN");
    }
}
