//! The edits of a [`Spec`]. Each one replaces what has its identity (an env name, a device path, a hook's path and
//! arguments), so that doing it twice is doing it once, and marks the spec as changed only if it changed.

use serde_json::{Map, Value, json};

use super::spec::{Spec, hook};
use super::types::{Access, DeviceRule, DeviceSpec, Hook, HookSpec, Mount, Stage};
use crate::error::{Code, Error, Result};

impl Spec {
    /// Sets an environment variable. The first entry of that name is replaced, others of that name are removed.
    /// A spec without a process has no environment and stays as it is.
    ///
    /// # Errors
    /// [`Code::Bundle`], as for every edit, when the place to edit is of the wrong type.
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

    /// Adds a supplementary group id, as an id in the container. A spec without a process stays as it is.
    pub fn add_additional_gid(&mut self, gid: u32) -> Result<()> {
        if self.has_process() && !self.process_user().additional_gids.contains(&gid) {
            self.put(&["process", "user", "additionalGids"], gid.into(), |_| false)?;
        }
        Ok(())
    }

    /// Adds a device node; one with the same path is replaced.
    pub fn add_device(&mut self, device: &DeviceSpec) -> Result<()> {
        let path = clean(&device.path);
        let same = |v: &Value| v.get("path").and_then(Value::as_str).map(clean) == Some(path.clone());
        self.put(&["linux", "devices"], device_value(device), same)
    }

    /// Makes sure that the device rules, taken in order, allow what `rule` allows.
    ///
    /// Does nothing where an earlier rule allows it and no later one denies any of it; otherwise the rule goes last.
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

    /// Adds a mount, after all others; those with the same destination are removed.
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

    /// Adds a hook to a stage; one with the same path and arguments is replaced.
    pub fn add_hook(&mut self, stage: Stage, spec: &HookSpec) -> Result<()> {
        let new = spec.hook();
        let same = |v: &Value| hook(v).is_some_and(|h| h.path == new.path && h.args == new.args);
        self.put(&["hooks", stage.key()], hook_value(new), same)
    }

    /// Removes the hooks of a stage for which `which` is true. Entries that are no hooks stay.
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

    /// Puts `entry` in the place of the first element of a list that is the `same`, removing others; else at the end.
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

    /// The list at `keys`; what is missing or `null` on the way is made.
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

/// A path without `.`, `//` and a trailing slash, to compare two of them.
fn clean(path: &str) -> Vec<String> {
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
    if r.access != Access::RWM || r.allow {
        v.insert("access".into(), r.access.to_string().into());
    }
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
