//! A container's definition: its views, and edits that must keep all other content.

use std::path::Path;

use nvoci::config::Config;
use nvoci::oci::{Access, DeviceKind, DeviceRule, DeviceSpec, HookSpec, Mount, RuleKind, Spec, Stage};
use nvoci::request::{EntryPoint, Inputs, MountView, parse, wants_gpu_fast};

use crate::count::reached;

/// Holds for every input.
pub(crate) fn check(document: &[u8]) {
    reached("run");
    let Ok(spec) = Spec::parse(document) else { return };
    reached("accepted");
    read(&spec);
    let mut edited = spec.clone();
    if edit(&mut edited).is_ok() {
        // A second edit changes nothing, and the written text parses and has all other content.
        let text = edited.to_bytes();
        let mut again = Spec::parse(&text).expect("the written text can be read");
        assert_eq!(again.value(), edited.value());
        edit(&mut again).expect("an edit can be repeated");
        assert_eq!(again.to_bytes(), text);
        assert!(!again.is_changed());
        for (key, value) in spec.value() {
            if !matches!(key.as_str(), "process" | "linux" | "mounts" | "hooks") {
                assert_eq!(edited.value().get(key), Some(value));
            }
        }
    }
}

fn read(spec: &Spec) {
    if let Ok(path) = spec.root_path(Path::new("/bundle")) {
        assert!(
            path.is_absolute() && path.components().count() > 1,
            "{}",
            path.display()
        );
    }
    let (env, annotations, mounts) = (spec.env(), spec.annotations(), spec.mounts());
    let mounts: Vec<MountView<'_>> = mounts
        .iter()
        .map(|m| MountView {
            source: m.source.as_deref().unwrap_or(""),
            destination: &m.destination,
        })
        .collect();
    let config = Config::default();
    for entry in [EntryPoint::Hook, EntryPoint::Runtime, EntryPoint::Cdi] {
        let inputs = Inputs {
            env: &env,
            annotations: &annotations,
            mounts: &mounts,
            privileged: spec.is_privileged(),
            entry,
        };
        match parse(&inputs, &config) {
            // `wants_gpu_fast` returns false only if there is no request.
            Ok(request) => assert!(request.is_empty() || wants_gpu_fast(&inputs, &config)),
            Err(e) => assert!(!e.to_string().contains(|c: char| c.is_control())),
        }
    }
    let _ = (
        spec.linux_devices(),
        spec.device_rules(),
        spec.hooks(Stage::Prestart),
        spec.has_user_namespace(),
    );
    let _ = (spec.mount_label(), spec.cgroups_path(), spec.process_user());
}

fn edit(spec: &mut Spec) -> nvoci::error::Result<()> {
    spec.set_env("NVIDIA_VISIBLE_DEVICES", "void")?;
    spec.add_additional_gid(44)?;
    spec.add_device(&DeviceSpec {
        path: "/dev/nvidia0".to_owned(),
        kind: DeviceKind::Char,
        major: 195,
        minor: 0,
        file_mode: Some(0o666),
        uid: None,
        gid: None,
    })?;
    spec.allow_device(&DeviceRule::allow(RuleKind::Char, 195, 0, Access::RW))?;
    spec.add_mount(&Mount {
        destination: "/usr/y".to_owned(),
        source: Some("/usr/x".to_owned()),
        typ: Some("bind".to_owned()),
        options: vec!["rbind".to_owned(), "ro".to_owned()],
    })?;
    let args = ["nvoci", "hook", "createContainer"].map(str::to_owned).into();
    spec.add_hook(
        Stage::CreateContainer,
        &HookSpec::new("/usr/bin/nvoci", args, "PATH", "/usr/bin"),
    )?;
    Ok(())
}
