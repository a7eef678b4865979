//! containerd's config.toml: a runtime of the CRI plugin, for configuration versions 1 to 4.
//!
//! The file that already has the last word on the CRI plugin is edited in place; there is no drop-in
//! of our own. containerd before 2.0 replaces a plugin's whole table by that of a later import, so a
//! drop-in would have to carry a copy of the user's CRI settings and hide every later change to
//! them; with version 1 imports are not merged at all (the toolkit's drop-in there has no effect),
//! and containerd 2.3 refuses a drop-in of a higher version than the main file. Editing in place is right for all of them.

use serde_json::{Map, Value, json};

use crate::error::{Code, Error, Result};

use super::edit::{Edit, Editor, Format, lookup};
use super::{Settings, Take, toml};

const RUNC_V2: &str = "io.containerd.runc.v2";
const ANNOTATIONS: &str = "container_annotations";
const LINUX_V1: &str = "io.containerd.runtime.v1.linux";

/// The name of the CRI plugin's runtime table for the `version` of a file.
fn plugin(version: i64) -> &'static str {
    match version {
        ..=1 => "cri",
        2 => "io.containerd.grpc.v1.cri",
        3.. => "io.containerd.cri.v1.runtime",
    }
}

/// The configuration version of a parsed file: one without `version` is 1, one without anything is new.
pub(crate) fn version(file: &Value) -> Option<i64> {
    match file.get("version").and_then(Value::as_i64) {
        Some(0) => Some(1),
        Some(v) => Some(v),
        None if file.as_object().is_none_or(Map::is_empty) => None,
        None => Some(1),
    }
}

/// The CRI plugin's `containerd` table of a parsed file.
pub(crate) fn cri(file: &Value) -> Option<&Value> {
    let v = version(file)?;
    lookup(file, &["plugins", plugin(v), "containerd"])
}

/// Whether a parsed file says anything about the CRI plugin that holds runtimes.
pub(super) fn has_cri(file: &Value) -> bool {
    version(file).is_some_and(|v| lookup(file, &["plugins", plugin(v)]).is_some())
}

/// Plans the registration in `current`, the text of the file that has the last word.
///
/// `seen` is the `containerd` table that takes effect today where other files contribute to it.
///
/// # Errors
/// [`Code::Engine`] when the file is not valid, or its default runtime is set in the way of before 1.3.
pub fn plan(file: &str, current: Option<&str>, seen: Option<&Value>, s: &Settings) -> Result<Edit> {
    let mut e = Editor::open(file, Format::Toml, current.unwrap_or_default())?;
    let mut warnings = Vec::new();
    let version = if let Some(known) = version(e.value()) {
        known
    } else {
        // Version 2 is read by every containerd from 1.3 on.
        e.set(&["version"], &json!(2))?;
        2
    };
    if version > 4 {
        warnings.push(format!(
            "{file}: version {version} is newer than what is known here; treated as version 4"
        ));
    }
    let plugin = plugin(version);
    let here = cri(e.value()).cloned();
    let table = seen.or(here.as_ref()).unwrap_or(&Value::Null);

    let none = table
        .get("runtimes")
        .and_then(Value::as_object)
        .is_none_or(Map::is_empty);
    let base = base(table, &s.name);
    let legacy_default = table
        .get("default_runtime")
        .is_some_and(|d| d.get("runtime_type").is_some_and(|t| t != ""));
    if s.set_as_default && legacy_default {
        return Err(Error::new(
            Code::Engine,
            file,
            format!("[plugins.{plugin}.containerd.default_runtime] overrides default_runtime_name"),
        )
        .fix("move it to containerd.runtimes and name it in default_runtime_name"));
    }

    let root = ["plugins", plugin, "containerd"];
    let runtimes = ["plugins", plugin, "containerd", "runtimes"];
    let join = |base: &[&'static str], rest: &[&str]| -> Vec<String> {
        base.iter().chain(rest).map(|k| (*k).to_owned()).collect()
    };
    let mut set = |path: Vec<String>, value: &Value| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        e.set(&path, value)
    };
    if s.cdi {
        set(
            vec!["plugins".into(), plugin.into(), "enable_cdi".into()],
            &json!(true),
        )?;
    }
    if s.set_as_default {
        set(join(&root, &["default_runtime_name"]), &json!(s.name))?;
    }
    if none && s.name != "runc" && !legacy_default {
        // Before 2.0 the first runtime that a file names replaces the built-in table, runc with it,
        // and the CRI plugin then fails for want of its default runtime.
        let name = table
            .get("default_runtime_name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if name.is_empty() || name == "runc" || name == s.name {
            set(join(&runtimes, &["runc"]), &json!({"runtime_type": RUNC_V2}))?;
        }
    }
    let existing = here
        .as_ref()
        .and_then(|t| t.get("runtimes")?.get(&s.name))
        .cloned();
    match existing {
        Some(entry) => {
            let kind = entry
                .get("runtime_type")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if kind.is_empty() {
                set(join(&runtimes, &[&s.name, "runtime_type"]), &json!(RUNC_V2))?;
            }
            set(
                join(&runtimes, &[&s.name, "options", binary(kind)]),
                &json!(s.runtime_path),
            )?;
            let passed = entry.get(ANNOTATIONS);
            let wanted = with_patterns(passed, &s.annotations);
            if passed != Some(&wanted) {
                set(join(&runtimes, &[&s.name, ANNOTATIONS]), &wanted)?;
            }
        }
        None => set(join(&runtimes, &[&s.name]), &entry(base, s))?,
    }
    let disabled = e.get(&["disabled_plugins"]).and_then(Value::as_array);
    let names = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];
    if disabled.is_some_and(|d| d.iter().any(|p| p.as_str().is_some_and(|p| names.contains(&p)))) {
        warnings.push(format!(
            "{file}: disabled_plugins turns the CRI plugin off; Kubernetes will not see the runtime until it is on"
        ));
    }
    Ok(e.finish(warnings))
}

/// The runtime whose options ours gets: the default, `runc` or `crun`, if runc's shim runs it.
fn base<'a>(table: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    let default = table.get("default_runtime_name").and_then(Value::as_str);
    default
        .filter(|d| *d != name && !d.starts_with("nvidia"))
        .into_iter()
        .chain(["runc", "crun"])
        .filter_map(|n| toml::table(table, &["runtimes", n]))
        .chain(toml::table(table, &["default_runtime"]))
        .find(|r| {
            let kind = r.get("runtime_type").and_then(Value::as_str).unwrap_or_default();
            matches!(kind, "" | RUNC_V2 | "io.containerd.runc.v1" | LINUX_V1)
        })
}

/// The list with what it lacks of `patterns`. Without it a container's annotations end at the CRI plugin; with it those
/// that a device plugin or a kubelet sets, never a pod's own, reach the runtime.
fn with_patterns(list: Option<&Value>, patterns: &[String]) -> Value {
    let mut list = list.and_then(Value::as_array).cloned().unwrap_or_default();
    for pattern in patterns {
        if !list.iter().any(|p| p == pattern) {
            list.push(json!(pattern));
        }
    }
    Value::Array(list)
}

/// The new runtime: a copy of `base` with our binary in it.
fn entry(base: Option<&Map<String, Value>>, s: &Settings) -> Value {
    let mut entry = base.cloned().unwrap_or_default();
    let kind = match entry.get("runtime_type").and_then(Value::as_str) {
        Some(kind) if !kind.is_empty() => kind.to_owned(),
        _ => RUNC_V2.to_owned(),
    };
    entry.insert("runtime_type".to_owned(), json!(kind));
    let passed = with_patterns(entry.get(ANNOTATIONS), &s.annotations);
    if passed.as_array().is_some_and(|p| !p.is_empty()) {
        entry.insert(ANNOTATIONS.to_owned(), passed);
    }
    let mut options = match entry.shift_remove("options") {
        Some(Value::Object(options)) => options,
        _ => Map::new(),
    };
    options.insert(binary(&kind).to_owned(), json!(s.runtime_path));
    entry.insert("options".to_owned(), Value::Object(options));
    Value::Object(entry)
}

/// The option that names the OCI runtime's binary.
fn binary(kind: &str) -> &'static str {
    if kind == LINUX_V1 { "Runtime" } else { "BinaryName" }
}

/// Takes a registration back that no record tells about.
pub(super) fn forget(e: &mut Editor, take: &Take<'_>) -> Result<()> {
    let Some(version) = version(e.value()) else {
        return Ok(());
    };
    let path = ["plugins", plugin(version), "containerd", "runtimes", take.name];
    let entry = e.get(&path);
    let ours = ["BinaryName", "Runtime"]
        .iter()
        .any(|k| entry.and_then(|r| r.get("options")?.get(k)) == Some(&json!(take.runtime_path)));
    if ours {
        e.remove(&path, 4)?;
    }
    Ok(())
}

/// Drops a default that names a runtime which is no longer there: the CRI plugin would not start.
pub(super) fn tidy(e: &mut Editor, name: &str) -> Result<Option<String>> {
    let Some(version) = version(e.value()) else {
        return Ok(None);
    };
    let root = ["plugins", plugin(version), "containerd"];
    let table = e.get(&root);
    let named = table.and_then(|t| t.get("default_runtime_name")) == Some(&json!(name));
    if !named || table.and_then(|t| t.get("runtimes")?.get(name)).is_some() {
        return Ok(None);
    }
    e.remove(
        &["plugins", plugin(version), "containerd", "default_runtime_name"],
        3,
    )?;
    Ok(Some(format!(
        "default_runtime_name named `{name}`, which is gone; it is `runc` again"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(text: &str, s: &Settings) -> (Edit, Value) {
        let edit = plan("f", Some(text), None, s).unwrap();
        let value = Editor::open("f", Format::Toml, &edit.text)
            .unwrap()
            .value()
            .clone();
        (edit, value)
    }

    #[test]
    fn runc_is_written_out_where_naming_a_runtime_would_remove_it() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/b\"\n";
        let (_, v) = registered(text, &Settings::default());
        let runtimes = &cri(&v).unwrap()["runtimes"];
        assert_eq!(runtimes["runc"]["runtime_type"], RUNC_V2);
        assert_eq!(
            runtimes["nvidia"]["options"]["BinaryName"],
            "/usr/bin/nvoci-runtime"
        );
    }

    #[test]
    fn options_come_from_a_runtime_that_runcs_shim_runs() {
        let text = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'kata'\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]\nruntime_type = 'io.containerd.kata.v2'\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun]\nruntime_type = 'io.containerd.runc.v2'\nsnapshotter = 'x'\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun.options]\nBinaryName = '/usr/bin/crun'\nSystemdCgroup = true\n";
        let (_, v) = registered(text, &Settings::default());
        assert_eq!(
            cri(&v).unwrap()["runtimes"]["nvidia"],
            json!({"runtime_type": RUNC_V2, "snapshotter": "x", "container_annotations": ["cdi.k8s.io/*"],
                "options": {"BinaryName": "/usr/bin/nvoci-runtime", "SystemdCgroup": true}})
        );
    }

    /// toolkit-features 12, quirk 7: a drop-in for version 1 that nothing reads.
    #[test]
    fn quirk_07_version_1_is_edited_where_containerd_reads_it() {
        let s = Settings {
            set_as_default: true,
            cdi: true,
            ..Settings::default()
        };
        let (_, v) = registered("[plugins.cri]\nsandbox_image = \"x\"\n", &s);
        assert!(v.get("version").is_none());
        assert_eq!(
            v["plugins"]["cri"]["containerd"]["default_runtime_name"],
            "nvidia"
        );
        assert_eq!(v["plugins"]["cri"]["enable_cdi"], true);
        assert_eq!(v["plugins"]["cri"]["sandbox_image"], "x");
    }

    #[test]
    fn an_existing_runtime_is_repaired_not_replaced() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\nprivileged_without_host_devices = true\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia.options]\nBinaryName = \"/usr/bin/nvidia-container-runtime\" # theirs\n";
        let (edit, v) = registered(text, &Settings::default());
        let nvidia = &cri(&v).unwrap()["runtimes"]["nvidia"];
        assert_eq!(nvidia["runtime_type"], RUNC_V2);
        assert_eq!(nvidia["privileged_without_host_devices"], true);
        assert!(
            edit.text
                .contains("BinaryName = \"/usr/bin/nvoci-runtime\" # theirs")
        );
    }

    #[test]
    fn annotations_reach_the_runtime_and_those_that_did_stay() {
        let base = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\n";
        let s = Settings::default();
        for (own, wanted) in [
            ("", json!(["cdi.k8s.io/*"])),
            ("container_annotations = []\n", json!(["cdi.k8s.io/*"])),
            (
                "container_annotations = [\"a/*\"]\n",
                json!(["a/*", "cdi.k8s.io/*"]),
            ),
            (
                "container_annotations = [\"cdi.k8s.io/*\", \"a/*\"]\n",
                json!(["cdi.k8s.io/*", "a/*"]),
            ),
        ] {
            let (_, v) = registered(&format!("{base}{own}"), &s);
            assert_eq!(
                cri(&v).unwrap()["runtimes"]["nvidia"][ANNOTATIONS],
                wanted,
                "{own}"
            );
        }
        let none = Settings {
            annotations: Vec::new(),
            ..s
        };
        let (edit, v) = registered("", &none);
        assert!(
            cri(&v).unwrap()["runtimes"]["nvidia"].get(ANNOTATIONS).is_none(),
            "{}",
            edit.text
        );
    }

    #[test]
    fn a_file_of_comments_alone_gets_a_version() {
        let (edit, _) = registered("# nothing yet\n", &Settings::default());
        assert!(
            edit.text.starts_with("version = 2\n# nothing yet\n"),
            "{}",
            edit.text
        );
    }

    #[test]
    fn a_disabled_cri_plugin_is_said() {
        let (edit, _) = registered("disabled_plugins = [\"cri\"]\n", &Settings::default());
        assert_eq!(edit.warnings.len(), 1);
    }
}
