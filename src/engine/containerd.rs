//! containerd's config.toml: a runtime of the CRI plugin, such as `runtimes.nvidia`, for
//! configuration versions 1 to 4.
//!
//! nvoci edits the file that decides on the CRI plugin, and adds no drop-in unless a
//! person names one (`sources::with_drop_in`). containerd before 2.0
//! replaces a plugin's whole table by that of a later import, so a drop-in would copy the user's
//! CRI settings and hide later changes to them. With version 1 imports are not merged at all, and
//! containerd 2.3 refuses a drop-in of a higher version than the main file.

use serde_json::{Map, Value, json};

use crate::error::{Code, Error, Result};

use super::edit::{Edit, Editor, Format, lookup};
use super::model::{Settings, Take};

const RUNC_V2: &str = "io.containerd.runc.v2";
const ANNOTATIONS: &str = "container_annotations";
const LINUX_V1: &str = "io.containerd.runtime.v1.linux";

/// The name of the CRI plugin's runtime table for the `version` of a file.
pub(super) fn plugin(version: i64) -> &'static str {
    match version {
        ..=1 => "cri",
        2 => "io.containerd.grpc.v1.cri",
        3.. => "io.containerd.cri.v1.runtime",
    }
}

/// The configuration version of a parsed file: 1 without `version`, `None` for an empty file.
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

/// Whether a parsed file has the CRI plugin's table that holds runtimes.
pub(super) fn has_cri(file: &Value) -> bool {
    version(file).is_some_and(|v| lookup(file, &["plugins", plugin(v)]).is_some())
}

/// Plans the registration in `current`, the text of the file that decides.
///
/// `seen` is the effective `containerd` table if other files contribute to it.
///
/// # Errors
/// [`Code::Engine`] if the file is not valid, or sets its default runtime in the form of containerd
/// before 1.3.
pub fn plan(file: &str, current: Option<&str>, seen: Option<&Value>, s: &Settings) -> Result<Edit> {
    let mut e = Editor::open(file, Format::Toml, current.unwrap_or_default())?;
    let desired = Desired::decide(file, e.value(), seen, s)?;
    desired.apply(&mut e, s)?;
    Ok(e.finish(desired.warnings))
}

/// The registration's contents of the file, decided from its present contents.
struct Desired {
    /// The version for a file that has none: containerd reads version 2 from 1.3 on.
    version: Option<i64>,
    /// The name of the CRI plugin's runtime table.
    plugin: &'static str,
    enable_cdi: bool,
    default: bool,
    /// The file must also define runc.
    runc: bool,
    runtime: Runtime,
    warnings: Vec<String>,
}

/// The change of the runtime's entry.
enum Runtime {
    /// The whole entry is new.
    Added(Value),
    /// These keys of the user's entry change.
    Repaired {
        runtime_type: Option<&'static str>,
        /// The option that holds the OCI runtime's path.
        binary: &'static str,
        annotations: Option<Value>,
    },
}

impl Desired {
    fn decide(file: &str, value: &Value, seen: Option<&Value>, s: &Settings) -> Result<Self> {
        let known = version(value);
        let plugin = plugin(known.unwrap_or(2));
        let here = lookup(value, &["plugins", plugin, "containerd"]);
        let table = seen.or(here).unwrap_or(&Value::Null);
        let legacy_default = has_legacy_default(table);
        if s.set_as_default && legacy_default {
            return Err(Error::new(
                Code::Engine,
                file,
                format!("[plugins.{plugin}.containerd.default_runtime] overrides default_runtime_name"),
            )
            .fix("move it to containerd.runtimes and name it in default_runtime_name"));
        }
        let entry = here.and_then(|t| t.get("runtimes")?.get(&s.name));
        let warnings = [newer_version(file, known), disabled_plugin(file, value)];
        Ok(Self {
            version: known.is_none().then_some(2),
            plugin,
            enable_cdi: s.cdi,
            default: s.set_as_default,
            runc: !legacy_default && hides_runc(table, &s.name),
            runtime: match entry {
                Some(entry) => Runtime::repaired(entry, s),
                None => Runtime::Added(new_entry(base(table, &s.name), s)),
            },
            warnings: warnings.into_iter().flatten().collect(),
        })
    }

    fn apply(&self, e: &mut Editor, s: &Settings) -> Result<()> {
        if let Some(version) = self.version {
            e.set(&["version"], &json!(version))?;
        }
        let cri = ["plugins", self.plugin];
        let set = |e: &mut Editor, below: &[&str], value: &Value| e.set(&[&cri, below].concat(), value);
        if self.enable_cdi {
            set(e, &["enable_cdi"], &json!(true))?;
        }
        if self.default {
            set(e, &["containerd", "default_runtime_name"], &json!(s.name))?;
        }
        if self.runc {
            let entry = json!({"runtime_type": RUNC_V2});
            set(e, &["containerd", "runtimes", "runc"], &entry)?;
        }
        let ours = ["containerd", "runtimes", s.name.as_str()];
        match &self.runtime {
            Runtime::Added(entry) => set(e, &ours, entry),
            Runtime::Repaired {
                runtime_type,
                binary,
                annotations,
            } => {
                if let Some(kind) = runtime_type {
                    set(e, &[&ours[..], &["runtime_type"]].concat(), &json!(kind))?;
                }
                let binary = [&ours[..], &["options", binary]].concat();
                set(e, &binary, &json!(s.runtime_path))?;
                match annotations {
                    Some(list) => set(e, &[&ours[..], &[ANNOTATIONS]].concat(), list),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Runtime {
    fn repaired(entry: &Value, s: &Settings) -> Self {
        let kind = text(entry, "runtime_type");
        let passed = entry.get(ANNOTATIONS);
        let wanted = with_patterns(passed, &s.annotations);
        Self::Repaired {
            runtime_type: kind.is_empty().then_some(RUNC_V2),
            binary: binary(kind),
            annotations: (passed != Some(&wanted)).then_some(wanted),
        }
    }
}

/// The text at `key`, or an empty one.
fn text<'a>(table: &'a Value, key: &str) -> &'a str {
    table.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Whether the default runtime is defined in the form of containerd before 1.3.
fn has_legacy_default(table: &Value) -> bool {
    let kind = lookup(table, &["default_runtime", "runtime_type"]);
    kind.is_some_and(|kind| kind != "")
}

/// Whether an entry `name` removes the built-in runc, which containerd still needs.
///
/// Before 2.0 the first runtime of a file replaces the built-in table with runc. The CRI plugin
/// then fails, because its default runtime is missing.
fn hides_runc(table: &Value, name: &str) -> bool {
    let runtimes = table.get("runtimes").and_then(Value::as_object);
    let default = text(table, "default_runtime_name");
    runtimes.is_none_or(Map::is_empty)
        && name != "runc"
        && (default.is_empty() || default == "runc" || default == name)
}

fn newer_version(file: &str, version: Option<i64>) -> Option<String> {
    let version = version.filter(|v| *v > 4)?;
    Some(format!(
        "{file}: version {version} is newer than this nvoci supports; treated as version 4"
    ))
}

fn disabled_plugin(file: &str, value: &Value) -> Option<String> {
    let names = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];
    let disabled = value.get("disabled_plugins")?.as_array()?;
    disabled
        .iter()
        .any(|p| p.as_str().is_some_and(|p| names.contains(&p)))
        .then(|| format!("{file}: disabled_plugins turns the CRI plugin off; Kubernetes will not see the runtime until it is on"))
}

/// The runtime whose options ours copies: the default, `runc` or `crun`, if runc's shim runs it.
fn base<'a>(table: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    let default = table.get("default_runtime_name").and_then(Value::as_str);
    default
        .filter(|d| *d != name && !d.starts_with("nvidia"))
        .into_iter()
        .chain(["runc", "crun"])
        .filter_map(|n| lookup(table, &["runtimes", n])?.as_object())
        .chain(table.get("default_runtime").and_then(Value::as_object))
        .find(|r| {
            let kind = r.get("runtime_type").and_then(Value::as_str).unwrap_or_default();
            matches!(kind, "" | RUNC_V2 | "io.containerd.runc.v1" | LINUX_V1)
        })
}

/// Adds missing `patterns` to the list. Without the list the CRI plugin keeps a container's
/// annotations to itself; with it those of a device plugin or a kubelet reach the runtime, but
/// never a pod's own.
fn with_patterns(list: Option<&Value>, patterns: &[String]) -> Value {
    let mut list = list.and_then(Value::as_array).cloned().unwrap_or_default();
    for pattern in patterns {
        if !list.iter().any(|p| p == pattern) {
            list.push(json!(pattern));
        }
    }
    Value::Array(list)
}

/// The new runtime: a copy of `base` with our binary.
fn new_entry(base: Option<&Map<String, Value>>, s: &Settings) -> Value {
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

/// The option that holds the OCI runtime's path.
fn binary(kind: &str) -> &'static str {
    if kind == LINUX_V1 { "Runtime" } else { "BinaryName" }
}

/// Removes a registration that is in no record.
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

/// Removes a default whose runtime is gone, with which the CRI plugin would not start.
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

    /// toolkit-features 12, quirk 7: a drop-in for version 1 that containerd does not read.
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
    fn a_disabled_cri_plugin_is_a_warning() {
        let (edit, _) = registered("disabled_plugins = [\"cri\"]\n", &Settings::default());
        assert_eq!(edit.warnings.len(), 1);
    }
}
