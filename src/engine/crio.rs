//! CRI-O: a drop-in of our own, `99-nvoci.conf`, which CRI-O merges key by key. The main file never
//! changes.

use serde_json::{Map, Value, json};

use crate::error::Result;

use super::edit::{Edit, Editor, Format, lookup};
use super::model::{Settings, Take, header};

/// Plans the drop-in. `seen` are the parsed files that CRI-O reads, the main one first; later ones
/// take precedence.
///
/// # Errors
/// [`Code::Engine`](crate::error::Code::Engine) if an existing drop-in is not valid.
pub fn plan(file: &str, current: Option<&str>, seen: &[Value], s: &Settings) -> Result<Edit> {
    let start = current.map_or_else(|| header("crio"), str::to_owned);
    let mut e = Editor::open(file, Format::Toml, &start)?;
    if s.set_as_default {
        e.set(&["crio", "runtime", "default_runtime"], &json!(s.name))?;
    }
    let base = base(seen, &s.name);
    let path = ["crio", "runtime", "runtimes", s.name.as_str()];
    if e.get(&path).is_some() {
        let binary = ["crio", "runtime", "runtimes", &s.name, "runtime_path"];
        e.set(&binary, &json!(s.runtime_path))?;
    } else {
        let mut entry: Map<String, Value> = Map::new();
        entry.insert("runtime_path".to_owned(), json!(s.runtime_path));
        entry.insert("runtime_type".to_owned(), json!("oci"));
        // The other keys (monitor_path, monitor_cgroup, runtime_root, allowed_annotations, ...) are
        // copied from the base.
        let not_ours = |k: &str| !matches!(k, "runtime_path" | "runtime_type" | "inherit_default_runtime");
        entry.extend(
            base.into_iter()
                .flatten()
                .filter(|(k, _)| not_ours(k))
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        e.set(&path, &Value::Object(entry))?;
    }
    Ok(e.finish(Vec::new()))
}

/// The table of the default runtime, else of runc or crun, if conmon runs it.
fn base<'a>(seen: &'a [Value], name: &str) -> Option<&'a Map<String, Value>> {
    let find = |path: &[&str]| seen.iter().rev().find_map(|f| lookup(f, path));
    let default = find(&["crio", "runtime", "default_runtime"]).and_then(Value::as_str);
    default
        .filter(|d| *d != name && !d.starts_with("nvidia"))
        .into_iter()
        .chain(["runc", "crun"])
        .filter_map(|n| find(&["crio", "runtime", "runtimes", n])?.as_object())
        .find(|r| {
            matches!(
                r.get("runtime_type").and_then(Value::as_str),
                None | Some("" | "oci")
            )
        })
}

/// Removes a registration that is in no record.
pub(super) fn forget(e: &mut Editor, take: &Take<'_>) -> Result<()> {
    let path = ["crio", "runtime", "runtimes", take.name];
    if e.get(&path).and_then(|r| r.get("runtime_path")) == Some(&json!(take.runtime_path)) {
        e.remove(&path, 1)?;
    }
    Ok(())
}

/// Removes a default whose runtime is gone, with which CRI-O would not start.
pub(super) fn tidy(e: &mut Editor, name: &str) -> Result<Option<String>> {
    let default = ["crio", "runtime", "default_runtime"];
    if e.get(&default) != Some(&json!(name)) || e.get(&["crio", "runtime", "runtimes", name]).is_some() {
        return Ok(None);
    }
    e.remove(&default, 1)?;
    Ok(Some(format!("default_runtime named `{name}`, which is gone")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(edit: &Edit) -> Value {
        Editor::open("f", Format::Toml, &edit.text)
            .unwrap()
            .value()
            .clone()
    }

    #[test]
    fn the_base_is_copied() {
        let main = json!({"crio": {"runtime": {"default_runtime": "crun", "runtimes": {"crun": {
            "runtime_path": "/usr/bin/crun", "monitor_path": "/usr/libexec/crio/conmon", "runtime_root": "/run/crun",
            "allowed_annotations": ["io.containers.trace-syscall"]}}}}});
        let edit = plan("f", None, &[main], &Settings::default()).unwrap();
        assert_eq!(
            value(&edit)["crio"]["runtime"]["runtimes"]["nvidia"],
            json!({"allowed_annotations": ["io.containers.trace-syscall"],
                "monitor_path": "/usr/libexec/crio/conmon", "runtime_path": "/usr/bin/nvoci-runtime",
                "runtime_root": "/run/crun", "runtime_type": "oci"})
        );
    }

    #[test]
    fn a_later_file_wins_and_a_vm_is_no_base() {
        let one = json!({"crio": {"runtime": {"default_runtime": "kata", "runtimes": {
            "kata": {"runtime_type": "vm", "runtime_path": "/k"}, "runc": {"monitor_path": "/one"}}}}});
        let two = json!({"crio": {"runtime": {"runtimes": {"runc": {"monitor_path": "/two"}}}}});
        let edit = plan("f", None, &[one, two], &Settings::default()).unwrap();
        assert_eq!(
            value(&edit)["crio"]["runtime"]["runtimes"]["nvidia"]["monitor_path"],
            "/two"
        );
    }
}
