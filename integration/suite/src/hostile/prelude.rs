//! Names for every file of cases: `use super::prelude::*`.

pub(crate) use std::fs;
pub(crate) use std::io;

pub(crate) use serde_json::{Value, json};

pub(crate) use crate::case::{Bite, CHANGES_THE_HOST, Case, Class, FAILS, HANGS, Request};
pub(crate) use crate::definition::{push, push_once};
pub(crate) use crate::expect::Outcome::{Gpu, NoGpu, Refused, RuntimeRefuses};
pub(crate) use crate::expect::{Expect, Root, Where, by};
pub(crate) use crate::fault::Kind;
pub(crate) use crate::host::Host;
pub(crate) use crate::host::watch::Touch;
pub(crate) use crate::image::{Image, PLAIN_ROOT, remove};
pub(crate) use crate::probe::Question;
pub(crate) use crate::way::{BUT_CDI, Runtime, Way};

/// The layout where the driver's files are placed in the image's own directories.
pub(crate) const NATIVE: &str = "layout = \"native\"";
/// The policy that does not accept variables.
pub(crate) const CLOSED: &str = "accept-envvar-unprivileged = false";
pub(crate) const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
pub(crate) const LIBCUDA: &str = "usr/lib/x86_64-linux-gnu/libcuda.so.1";
pub(crate) const LOADER_CACHE: &str = "etc/ld.so.cache";
pub(crate) const CACHE_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";

pub(crate) const RUNC: Where = Where {
    runtimes: &[Runtime::Runc],
    ..Where::ANYWHERE
};
/// crun makes the places of a specification's mounts, and refuses a link on the way to one.
pub(crate) const CRUN_BY_CDI: Where = Where {
    runtimes: &[Runtime::Crun],
    ways: &[Way::Cdi],
    ..Where::ANYWHERE
};
/// runc 1.3 and crun make the places of a specification's mounts by `openat2`.
pub(crate) const NEWER_BY_CDI: Where = Where {
    roots: &[Root::Sid],
    ways: &[Way::Cdi],
    ..Where::ANYWHERE
};
pub(crate) const UNLESS_NEWER_MOUNTS: Expect = Expect::always(Gpu).except(&[(NEWER_BY_CDI, RuntimeRefuses)]);
pub(crate) const UNLESS_CRUN_MOUNTS: Expect = Expect::always(Gpu).except(&[(CRUN_BY_CDI, RuntimeRefuses)]);

/// The container requests the first GPU, and its definition is edited.
pub(crate) const fn edited(edit: fn(&mut Value)) -> Request {
    Request {
        edit,
        ..Request::FIRST_GPU
    }
}

/// A user namespace of the container's own, and CAP_SYS_ADMIN over it.
pub(crate) fn own_user_namespace(spec: &mut Value) {
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
