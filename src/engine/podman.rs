//! Podman: a drop-in of containers.conf with the runtime, and the hooks.d file.

use serde_json::{Value, json};

use crate::error::Result;

use super::edit::{Edit, Editor, Format};
use super::model::{Settings, Take, header};

/// Plans the drop-in of containers.conf.
///
/// # Errors
/// [`Code::Engine`](crate::error::Code::Engine) if an existing drop-in is not valid.
pub fn plan(file: &str, current: Option<&str>, s: &Settings) -> Result<Edit> {
    let start = current.map_or_else(|| header("podman"), str::to_owned);
    let mut e = Editor::open(file, Format::Toml, &start)?;
    if s.set_as_default {
        e.set(&["engine", "runtime"], &json!(s.name))?;
    }
    e.set(&["engine", "runtimes", &s.name], &json!([s.runtime_path]))?;
    Ok(e.finish(Vec::new()))
}

/// The hooks.d file (format 1.0.0): nvoci's hook for every container, which does nothing without a
/// request for a GPU.
///
/// The stage is `createRuntime`, since a `createContainer` hook may be unable to read the bundle of
/// a container with a user namespace, and under crun it is. The environment is not empty, since
/// runc before 1.3 would pass the image's.
pub fn hook(binary: &str) -> String {
    let hook = json!({
        "version": "1.0.0",
        "hook": {
            "path": binary,
            "args": ["nvoci", "hook", "createRuntime"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        },
        "when": {"always": true},
        "stages": ["createRuntime"]
    });
    format!("{hook:#}\n")
}

/// Removes a registration that is in no record.
pub(super) fn forget(e: &mut Editor, take: &Take<'_>) -> Result<()> {
    let path = ["engine", "runtimes", take.name];
    let first = e.get(&path).and_then(|r| r.get(0));
    if first == Some(&json!(take.runtime_path)) {
        e.remove(&path, 1)?;
    }
    Ok(())
}

/// Removes a default whose runtime is gone, with which every `podman run` would fail.
pub(super) fn tidy(e: &mut Editor, name: &str) -> Result<Option<String>> {
    let default = ["engine", "runtime"];
    let there = e.get(&["engine", "runtimes", name]).is_some();
    if there || e.get(&default).and_then(Value::as_str) != Some(name) {
        return Ok(None);
    }
    e.remove(&default, 1)?;
    Ok(Some(format!("engine.runtime named `{name}`, which is gone")))
}
