//! The edits of a [`Spec`]. An edit replaces the entry of the same identity (a variable's name, a
//! device's path, a hook's path and arguments), so a second call changes nothing. The spec counts
//! as changed only if its content changed.

use serde_json::{Map, Value, json};

use super::spec::{Spec, hook};
use super::types::{DeviceRule, DeviceSpec, Hook, HookSpec, Mount, Stage};
use crate::error::{Code, Error, Result};

impl Spec {
    /// Sets an environment variable. It replaces the first entry of that name and removes the
    /// others. A spec without a process has no environment and stays as it is.
    ///
    /// # Errors
    /// [`Code::Bundle`], as for every edit, if a field on the way has the wrong type.
    pub fn set_env(&mut self, key: &str, value: &str) -> Result<()> {
        if self.has_process() {
            let entry = Value::String(format!("{key}={value}"));
            let same = |v: &Value| {
                let name = v.as_str().and_then(|s| s.split_once('='));
                name.is_some_and(|(k, _)| k == key)
            };
            self.put(&["process", "env"], entry, same)?;
        }
        Ok(())
    }

    /// Adds a supplementary group id, as an id in the container. A spec without a process stays as
    /// it is.
    pub fn add_additional_gid(&mut self, gid: u32) -> Result<()> {
        if self.has_process() && !self.process_user().additional_gids.contains(&gid) {
            self.put(&["process", "user", "additionalGids"], gid.into(), |_| false)?;
        }
        Ok(())
    }

    /// Adds a device node, or replaces the one with the same path.
    pub fn add_device(&mut self, device: &DeviceSpec) -> Result<()> {
        let path = clean(&device.path);
        let same = |v: &Value| v.get("path").and_then(Value::as_str).map(clean) == Some(path.clone());
        self.put(&["linux", "devices"], device_value(device), same)
    }

    /// Adds a device rule unless the rules, taken in order, already allow everything that `rule`
    /// allows.
    ///
    /// It adds nothing if an earlier rule allows all of it and no later one denies any of it.
    pub fn allow_device(&mut self, rule: &DeviceRule) -> Result<()> {
        let rules = self.device_rules();
        let decisive = rules
            .iter()
            .rev()
            .find(|r| if r.allow { r.covers(rule) } else { r.overlaps(rule) });
        if decisive.is_some_and(|r| r.allow) {
            return Ok(());
        }
        self.put(&["linux", "resources", "devices"], rule_value(rule), |_| false)
    }

    /// Adds a mount after all others, and removes those with the same destination.
    pub fn add_mount(&mut self, mount: &Mount) -> Result<()> {
        let destination = clean(&mount.destination);
        let same =
            |v: &Value| v.get("destination").and_then(Value::as_str).map(clean) == Some(destination.clone());
        let entry = mount_value(mount);
        let list = self.list_mut(&["mounts"])?;
        let mut others = list.iter().filter(|v| same(v));
        if others.next() == Some(&entry) && others.next().is_none() {
            return Ok(());
        }
        list.retain(|v| !same(v));
        list.push(entry);
        self.changed = true;
        Ok(())
    }

    /// Sorts the mounts by the depth of their destinations and keeps the order within a depth, so
    /// that no mount covers an earlier one below it.
    pub fn sort_mounts(&mut self) {
        let depth = |v: &Value| {
            let destination = v.get("destination").and_then(Value::as_str);
            destination.map_or(0, |d| clean(d).len())
        };
        if let Some(Value::Array(list)) = self.value.get_mut("mounts")
            && !list.is_sorted_by_key(depth)
        {
            list.sort_by_key(depth);
            self.changed = true;
        }
    }

    /// Adds a hook to a stage, or replaces the one with the same path and arguments.
    pub fn add_hook(&mut self, stage: Stage, spec: &HookSpec) -> Result<()> {
        let new = spec.hook();
        let same = |v: &Value| hook(v).is_some_and(|h| h.path == new.path && h.args == new.args);
        self.put(&["hooks", stage.key()], hook_value(new), same)
    }

    /// Removes the hooks of a stage for which `which` is true. Malformed entries stay.
    pub fn remove_hooks(&mut self, stage: Stage, which: impl Fn(&Hook) -> bool) {
        let list = self.value.get_mut("hooks").and_then(|h| h.get_mut(stage.key()));
        if let Some(Value::Array(list)) = list {
            let before = list.len();
            list.retain(|v| !hook(v).is_some_and(|h| which(&h)));
            self.changed |= list.len() != before;
        }
    }

    fn has_process(&self) -> bool {
        matches!(self.value.get("process"), Some(Value::Object(_)))
    }

    /// Replaces the first element for which `same` is true and removes later ones, or appends
    /// `entry`.
    fn put(&mut self, keys: &[&str], entry: Value, same: impl Fn(&Value) -> bool) -> Result<()> {
        let list = self.list_mut(keys)?;
        let Some(first) = list.iter().position(&same) else {
            list.push(entry);
            self.changed = true;
            return Ok(());
        };
        let before = list.len();
        let mut index = 0;
        list.retain(|v| {
            index += 1;
            index <= first + 1 || !same(v)
        });
        if list.len() != before || list.get(first) != Some(&entry) {
            if let Some(place) = list.get_mut(first) {
                *place = entry;
            }
            self.changed = true;
        }
        Ok(())
    }

    /// The list at `keys`. Missing or `null` values on the way are made.
    fn list_mut(&mut self, keys: &[&str]) -> Result<&mut Vec<Value>> {
        let wrong = || {
            let path = keys.join(".");
            Error::new(
                Code::Bundle,
                "config.json",
                format!("{path} is of the wrong type"),
            )
        };
        let (end, objects) = keys.split_last().ok_or_else(wrong)?;
        let mut map = &mut self.value;
        for key in objects {
            map = match slot(map, key, || Value::Object(Map::new())) {
                Value::Object(inner) => inner,
                _ => return Err(wrong()),
            };
        }
        match slot(map, end, || Value::Array(Vec::new())) {
            Value::Array(list) => Ok(list),
            _ => Err(wrong()),
        }
    }
}

fn slot<'a>(map: &'a mut Map<String, Value>, key: &str, empty: impl FnOnce() -> Value) -> &'a mut Value {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = empty();
    }
    value
}

/// The components of a path without `.`, `//` and a trailing slash, for comparison.
pub(crate) fn clean(path: &str) -> Vec<String> {
    let parts = path.split('/').filter(|p| !p.is_empty() && *p != ".");
    parts.map(str::to_owned).collect()
}

fn device_value(d: &DeviceSpec) -> Value {
    let mut v = json!({ "path": d.path, "type": d.kind.letter(), "major": d.major, "minor": d.minor });
    for (key, id) in [("fileMode", d.file_mode), ("uid", d.uid), ("gid", d.gid)] {
        if let (Some(id), Some(map)) = (id, v.as_object_mut()) {
            map.insert(key.into(), id.into());
        }
    }
    v
}

fn rule_value(r: &DeviceRule) -> Value {
    let mut v = Map::new();
    v.insert("allow".into(), r.allow.into());
    v.insert("type".into(), r.kind.letter().into());
    for (key, id) in [("major", r.major), ("minor", r.minor)] {
        if let Some(id) = id {
            v.insert(key.into(), id.into());
        }
    }
    v.insert("access".into(), r.access.to_string().into());
    Value::Object(v)
}

fn mount_value(m: &Mount) -> Value {
    let mut v = Map::new();
    v.insert("destination".into(), m.destination.as_str().into());
    for (key, text) in [("type", &m.typ), ("source", &m.source)] {
        if let Some(text) = text {
            v.insert(key.into(), text.as_str().into());
        }
    }
    if !m.options.is_empty() {
        v.insert("options".into(), m.options.clone().into());
    }
    Value::Object(v)
}

fn hook_value(h: &Hook) -> Value {
    let mut v = json!({ "path": h.path, "args": h.args, "env": h.env });
    if let (Some(seconds), Some(map)) = (h.timeout, v.as_object_mut()) {
        map.insert("timeout".into(), seconds.into());
    }
    v
}

#[cfg(test)]
mod tests {
    use super::super::types::{Access, DeviceKind, RuleKind};
    use super::*;
    use proptest::prelude::*;

    fn spec(text: &str) -> Spec {
        Spec::parse(text.as_bytes()).unwrap()
    }

    fn text(s: &Spec) -> String {
        String::from_utf8(s.to_bytes()).unwrap()
    }

    fn gpu() -> DeviceSpec {
        DeviceSpec {
            path: "/dev/nvidia0".into(),
            kind: DeviceKind::Char,
            major: 195,
            minor: 0,
            file_mode: Some(0o666),
            uid: None,
            gid: Some(0),
        }
    }

    fn gpu_rule() -> DeviceRule {
        DeviceRule::allow(RuleKind::Char, 195, 0, Access::RW)
    }

    fn our_hook() -> HookSpec {
        HookSpec::new(
            "/usr/bin/nvoci",
            vec!["nvoci".into(), "hook".into()],
            "PATH",
            "/usr/bin",
        )
        .timeout(30)
    }

    fn our_mount() -> Mount {
        Mount {
            destination: "/usr/local/nvidia".into(),
            source: Some("/run/x".into()),
            typ: Some("bind".into()),
            options: vec!["ro".into()],
        }
    }

    fn edit_all(s: &mut Spec) {
        s.set_env("NVIDIA_VISIBLE_DEVICES", "void").unwrap();
        s.add_additional_gid(44).unwrap();
        s.add_device(&gpu()).unwrap();
        s.allow_device(&gpu_rule()).unwrap();
        s.add_mount(&our_mount()).unwrap();
        s.add_hook(Stage::CreateContainer, &our_hook()).unwrap();
    }

    #[test]
    fn editing_twice_is_editing_once() {
        for start in [
            "{}",
            r#"{"process":{"user":null},"linux":null,"hooks":null}"#,
            RUNC,
            RUNC_ROOTLESS,
            CRUN,
        ] {
            let mut s = spec(start);
            edit_all(&mut s);
            assert!(s.is_changed());
            let once = text(&s);
            let mut again = spec(&once);
            edit_all(&mut again);
            assert!(!again.is_changed(), "{start}");
            assert_eq!(text(&again), once);
        }
    }

    /// toolkit-features 12, quirk 4.
    #[test]
    fn quirk_04_env_is_replaced_never_duplicated() {
        let mut s = spec(r#"{"process":{"env":["A=1","B","A=2","AB=3",null,"B=4"]}}"#);
        s.set_env("A", "x=y").unwrap();
        s.set_env("B", "").unwrap();
        s.set_env("C", "new").unwrap();
        assert_eq!(
            text(&s),
            r#"{"process":{"env":["A=x=y","B","AB=3",null,"B=","C=new"]}}"#
        );
        let mut none = spec("{}");
        none.set_env("A", "1").unwrap();
        none.add_additional_gid(1).unwrap();
        assert!(!none.is_changed());
        assert_eq!(text(&none), "{}");
    }

    #[test]
    fn a_device_is_replaced_by_path() {
        let mut s = spec(
            r#"{"linux":{"devices":[{"path":"/dev//nvidia0/","type":"c","major":1},{"path":"/dev/fuse"},{"path":"/dev/nvidia0"}]}}"#,
        );
        s.add_device(&gpu()).unwrap();
        assert_eq!(
            text(&s),
            r#"{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0,"fileMode":438,"gid":0},{"path":"/dev/fuse"}]}}"#
        );
    }

    #[test]
    fn a_device_is_allowed_by_the_rule_that_decides() {
        let allowed = |rules: &str| {
            let mut s = spec(&format!(r#"{{"linux":{{"resources":{{"devices":{rules}}}}}}}"#));
            s.allow_device(&gpu_rule()).unwrap();
            s.device_rules().len()
        };
        // It is appended after a denial, whatever rules come before.
        assert_eq!(allowed(r#"[{"allow":false,"access":"rwm"}]"#), 2);
        assert_eq!(
            allowed(r#"[{"allow":true,"type":"c","major":195,"minor":0,"access":"rw"},{"allow":false}]"#),
            3
        );
        assert_eq!(
            allowed(r#"[{"allow":true,"type":"c","major":195,"minor":0,"access":"r"}]"#),
            2
        );
        assert_eq!(allowed("null"), 1);
        // Already allowed.
        assert_eq!(allowed(r#"[{"allow":true,"access":"rwm"}]"#), 1);
        assert_eq!(
            allowed(
                r#"[{"allow":false},{"allow":true,"type":"c","major":195,"minor":-1,"access":"rwm"},{"allow":false,"type":"c","major":10,"access":"rwm"}]"#
            ),
            3
        );
    }

    #[test]
    fn a_mount_goes_last_and_once() {
        let mut s = spec(
            r#"{"mounts":[{"destination":"/usr/local/nvidia/","source":"/a"},{"destination":"/usr/local"},{"destination":"/usr/local/nvidia"}]}"#,
        );
        s.add_mount(&our_mount()).unwrap();
        assert_eq!(
            text(&s),
            r#"{"mounts":[{"destination":"/usr/local"},{"destination":"/usr/local/nvidia","type":"bind","source":"/run/x","options":["ro"]}]}"#
        );
    }

    #[test]
    fn hooks_are_added_and_removed_by_identity() {
        let mut s = spec(
            r#"{"hooks":{"prestart":[{"path":"/usr/bin/nvidia-container-runtime-hook","x":1},{"path":"/other"},7],
               "createContainer":[{"path":"/usr/bin/nvoci","args":["nvoci","hook"]},{"path":"/usr/bin/nvoci","args":["other"]}]}}"#,
        );
        s.remove_hooks(Stage::Prestart, |h| {
            h.path.ends_with("/nvidia-container-runtime-hook")
        });
        s.remove_hooks(Stage::Poststart, |_| true);
        s.add_hook(Stage::CreateContainer, &our_hook()).unwrap();
        assert_eq!(
            text(&s),
            r#"{"hooks":{"prestart":[{"path":"/other"},7],"createContainer":[{"path":"/usr/bin/nvoci","args":["nvoci","hook"],"env":["PATH=/usr/bin"],"timeout":30},{"path":"/usr/bin/nvoci","args":["other"]}]}}"#
        );
    }

    #[test]
    fn a_place_of_the_wrong_type_is_an_error_and_no_change() {
        let mut s = spec(r#"{"linux":7,"hooks":{"createContainer":{}},"mounts":"x","process":{"env":{}}}"#);
        let before = text(&s);
        let errors = [
            s.add_device(&gpu()),
            s.allow_device(&gpu_rule()),
            s.add_mount(&our_mount()),
            s.add_hook(Stage::CreateContainer, &our_hook()),
            s.set_env("A", "1"),
        ];
        assert!(
            errors
                .iter()
                .all(|e| e.as_ref().is_err_and(|e| e.code() == Code::Bundle))
        );
        assert!(!s.is_changed());
        assert_eq!(text(&s), before);
    }

    const RUNC: &str = include_str!("../../tests/specs/runc.json");
    const RUNC_ROOTLESS: &str = include_str!("../../tests/specs/runc-rootless.json");
    const CRUN: &str = include_str!("../../tests/specs/crun.json");

    /// The fields that `edit_all` may change.
    const EDITED: [&[&str]; 6] = [
        &["process", "env"],
        &["process", "user", "additionalGids"],
        &["linux", "devices"],
        &["linux", "resources", "devices"],
        &["mounts"],
        &["hooks", "createContainer"],
    ];

    /// Removes the value at `keys`.
    fn cut(value: &mut Value, keys: &[&str]) {
        if let (Some((last, parents)), Some(root)) = (keys.split_last(), value.as_object_mut()) {
            let parent = parents
                .iter()
                .try_fold(root, |m, k| m.get_mut(*k).and_then(Value::as_object_mut));
            if let Some(parent) = parent {
                parent.shift_remove(*last);
            }
        }
    }

    fn without_edited(s: &Spec) -> String {
        let mut value = Value::Object(s.value().clone());
        for keys in EDITED {
            cut(&mut value, keys);
        }
        // A parent that only the edits needed may stay.
        for keys in [
            &["process", "user"][..],
            &["linux", "resources"],
            &["linux"],
            &["hooks"],
        ] {
            let empty = keys.iter().try_fold(&value, |v, k| v.get(k)) == Some(&json!({}));
            if empty {
                cut(&mut value, keys);
            }
        }
        value.to_string()
    }

    #[test]
    fn runtimes_documents_survive_but_for_the_edited_fields() {
        for start in [RUNC, RUNC_ROOTLESS, CRUN] {
            let before = spec(start);
            let mut after = before.clone();
            edit_all(&mut after);
            assert_eq!(without_edited(&after), without_edited(&before));
            assert_eq!(
                serde_json::from_slice::<Value>(&before.to_bytes()).unwrap(),
                serde_json::from_str::<Value>(start).unwrap()
            );
        }
    }

    /// JSON text, written without serde_json.
    fn json_text() -> impl Strategy<Value = String> {
        let number = "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?(e[+-][0-9]{1,4})?";
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            number,
            any::<String>().prop_map(|s| Value::String(s).to_string()),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(|v| format!("[{}]", v.join(","))),
                members(inner).prop_map(|m| format!("{{{m}}}")),
            ]
        })
    }

    /// Object members with names that no runtime defines, in any order.
    fn members(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        prop::collection::hash_map("x[a-zA-Z é$\u{1F600}-\u{1F64F}]{0,8}", value, 0..5).prop_map(|m| {
            let list: Vec<String> = m
                .into_iter()
                .map(|(k, v)| format!("{}:{v}", Value::String(k)))
                .collect();
            list.join(",")
        })
    }

    fn join(parts: &[String]) -> String {
        let parts: Vec<&str> = parts
            .iter()
            .map(String::as_str)
            .filter(|p| !p.is_empty())
            .collect();
        parts.join(",")
    }

    fn spec_text() -> impl Strategy<Value = String> {
        let extra = || members(json_text());
        let env = prop::collection::vec("[A-C](=[a-z]{0,3})?", 0..5);
        (
            env,
            json_text(),
            (extra(), extra(), extra(), extra()),
            any::<bool>(),
        )
            .prop_map(|(env, any, (top, process, linux, user), lists)| {
                let env: Vec<String> = env.into_iter().map(|e| Value::String(e).to_string()).collect();
                let list = |key: &str| {
                    if lists {
                        format!("\"{key}\":[{any}]")
                    } else {
                        String::new()
                    }
                };
                let user = format!("\"user\":{{{}}}", join(&[user, list("additionalGids")]));
                let process = join(&[format!("\"env\":[{}]", env.join(",")), process, user]);
                let linux = join(&[list("devices"), linux]);
                let parts = [
                    format!("\"process\":{{{process}}}"),
                    top,
                    format!("\"linux\":{{{linux}}}"),
                    list("mounts"),
                    format!("\"annotations\":{any}"),
                ];
                format!("{{{}}}", join(&parts))
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 200 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_spec_survives_but_for_the_edited_fields(start in spec_text()) {
            let before = spec(&start);
            prop_assert_eq!(text(&before), start);
            let mut after = before.clone();
            edit_all(&mut after);
            prop_assert_eq!(without_edited(&after), without_edited(&before));
            let mut again = spec(&text(&after));
            edit_all(&mut again);
            prop_assert!(!again.is_changed());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(mut s) = Spec::parse(&bytes) {
                edit_all(&mut s);
            }
            let _ = super::super::State::read(&bytes[..]);
        }
    }
}
