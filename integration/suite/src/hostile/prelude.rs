//! Names for every file of cases: `use super::prelude::*`.

pub(crate) use std::fs;
pub(crate) use std::io;

pub(crate) use serde_json::{Value, json};

pub(crate) use crate::after::After;
pub(crate) use crate::case::{Bite, CHANGES_THE_HOST, Case, Class, FAILS, HANGS, Request};
pub(crate) use crate::definition::{push, push_once};
pub(crate) use crate::expect::Outcome::{Gpu, NoGpu, Refused, RefusedEither, RuntimeRefuses, Started};
pub(crate) use crate::expect::{Expect, Root, Where, by};
pub(crate) use crate::fault::Kind;
pub(crate) use crate::host::watch::Touch;
pub(crate) use crate::image::{Image, PLAIN_ROOT, remove};
pub(crate) use crate::probe::Question;
use crate::process::{run_silently, words};
pub(crate) use crate::scene::Scene;
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

/// A request by variables, at the hook and at the runtime entry.
pub(crate) const REQUESTS: &[Way] = &[Way::CreateRuntime, Way::Entry];
/// The same, and by a user's runtime.
pub(crate) const USERS_REQUESTS: &[Way] = &[Way::CreateRuntime, Way::Entry, Way::RootlessEntry];

/// The naive hook starts the container.
pub(crate) const STARTS: Bite = Bite::Guilty(Kind::Started);
/// The naive hook gives a file of the host to the container.
pub(crate) const GETS_A_SECRET: Bite = Bite::Guilty(Kind::Secret);
/// The case's own check finds the naive hook guilty.
pub(crate) const CHECK: Bite = Bite::Guilty(Kind::Check);

/// The container's variables.
pub(crate) const fn variables(env: &'static [&'static str]) -> Request {
    Request { env, edit: |_| () }
}

/// There is no variable but those of the edit.
pub(crate) const fn request(edit: fn(&mut Value)) -> Request {
    Request { env: &[], edit }
}

/// One more variable.
pub(crate) fn variable(spec: &mut Value, name: &str, value: &str) {
    push(&mut spec["process"]["env"], json!(format!("{name}={value}")));
}

/// Another program than the probe. What it prints is for the case's check.
pub(crate) fn program(spec: &mut Value, words: &[&str]) {
    spec["process"]["args"] = json!(words);
}

/// Runs a line of shell that must succeed.
pub(crate) fn run_shell(line: &str) -> io::Result<()> {
    let command = words(&["sh", "-c", line]);
    let ended = run_silently(&command, std::time::Duration::from_secs(60))?;
    let text = || io::Error::other(format!("{line}: exit status {}", ended.status));
    (ended.status == 0).then_some(()).ok_or_else(text)
}

/// A bind mount.
pub(crate) fn bind(spec: &mut Value, destination: &str, source: &str, options: &[&str]) {
    let mount = json!({"destination": destination, "type": "bind", "source": source, "options": options});
    push(&mut spec["mounts"], mount);
}

/// The hooks of the first stage that has some.
pub(crate) fn first_hooks(spec: &Value) -> Vec<Value> {
    let stages = spec["hooks"].as_object();
    let first = stages.and_then(|stages| stages.values().next()?.as_array());
    first.cloned().unwrap_or_default()
}

/// The hooks are called once more, at `createRuntime`.
pub(crate) fn hook_twice(spec: &mut Value) {
    for hook in first_hooks(spec) {
        push(&mut spec["hooks"]["createRuntime"], hook);
    }
}

/// Maps the ids of a user namespace.
pub(crate) fn shifted_ids(spec: &mut Value) {
    for map in ["uidMappings", "gidMappings"] {
        spec["linux"][map] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    }
}

/// Adds a capability to every set.
pub(crate) fn capability(spec: &mut Value, name: &str) {
    let sets = spec["process"]["capabilities"].as_object_mut();
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        push_once(set, name);
    }
}

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
    shifted_ids(spec);
    capability(spec, "CAP_SYS_ADMIN");
}
