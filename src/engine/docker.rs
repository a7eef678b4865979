//! dockerd's daemon.json: `runtimes`, `default-runtime`, `features.cdi`.

use serde_json::{Value, json};

use crate::error::{Code, Error, Result};

use super::edit::{Edit, Editor, Format};
use super::model::{Settings, Take};

/// Plans the registration. `current` is the file's text, `None` if there is no file.
///
/// An existing runtime of the name keeps its other keys (`runtimeArgs`), and other features stay;
/// the toolkit drops them (`facts/toolkit-features.md` 12, quirk 6).
///
/// # Errors
/// [`Code::Engine`] if the file is not valid.
pub fn plan(file: &str, current: Option<&str>, s: &Settings) -> Result<Edit> {
    if s.name == "runc" || s.name.starts_with("io.containerd.") {
        return Err(Error::new(
            Code::Engine,
            format!("runtime name {}", s.name),
            "dockerd reserves it for its own runtimes",
        )
        .fix("choose another --runtime-name"));
    }
    let mut e = Editor::open(file, Format::Json, current.unwrap_or_default())?;
    let entry = ["runtimes", s.name.as_str()];
    let path = ["runtimes", s.name.as_str(), "path"];
    if e.get(&path).is_some_and(Value::is_string) {
        e.set(&path, &json!(s.runtime_path))?;
    } else {
        e.set(&entry, &json!({"path": s.runtime_path}))?;
    }
    if s.set_as_default {
        e.set(&["default-runtime"], &json!(s.name))?;
    }
    if s.cdi {
        e.set(&["features", "cdi"], &json!(true))?;
    }
    Ok(e.finish(Vec::new()))
}

/// Removes a registration that is in no record: the runtime, if it is ours.
pub(super) fn forget(e: &mut Editor, take: &Take<'_>) -> Result<()> {
    let ours = e.get(&["runtimes", take.name, "path"]) == Some(&json!(take.runtime_path));
    if ours {
        e.remove(&["runtimes", take.name], 1)?;
    }
    Ok(())
}

/// Removes a default whose runtime is gone, with which dockerd would not start.
pub(super) fn tidy(e: &mut Editor, name: &str) -> Result<Option<String>> {
    let dangling = e.get(&["default-runtime"]) == Some(&json!(name)) && e.get(&["runtimes", name]).is_none();
    if !dangling {
        return Ok(None);
    }
    e.remove(&["default-runtime"], 1)?;
    Ok(Some(format!(
        "default-runtime named `{name}`, which is gone; it is `runc` again"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_name_is_refused() {
        let s = Settings {
            name: "runc".into(),
            ..Settings::default()
        };
        assert!(plan("f", None, &s).is_err());
    }

    #[test]
    fn the_toolkits_entry_is_taken_over_and_its_arguments_stay() {
        let before = r#"{"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}"#;
        let edit = plan("f", Some(before), &Settings::default()).unwrap();
        assert_eq!(
            edit.text,
            r#"{"runtimes": {"nvidia": {"args": [], "path": "/usr/bin/nvoci-runtime"}}}"#
        );
        assert_eq!(
            edit.changes[0].before.as_deref(),
            Some("\"nvidia-container-runtime\"")
        );
    }

    /// toolkit-features 12, quirk 6: the toolkit's `--cdi.enabled` dropped every other feature.
    #[test]
    fn quirk_06_other_features_stay() {
        let before = r#"{"features": {"buildkit": false}}"#;
        let s = Settings {
            cdi: true,
            ..Settings::default()
        };
        let edit = plan("f", Some(before), &s).unwrap();
        assert!(
            edit.text
                .contains(r#""features": {"buildkit": false, "cdi": true}"#),
            "{}",
            edit.text
        );
    }
}
