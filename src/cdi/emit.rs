//! Writes a specification: the same bytes for the same data.

use serde_json::{Map, Value, json};

use super::types::{CdiSpec, Device, DeviceNode, Edits, Hook, IntelRdt, Mount};
use super::validate::Valid;

/// As YAML, beginning with `---`.
pub fn yaml(spec: &Valid) -> String {
    let mut out = String::from("---\n");
    if let Value::Object(map) = value(spec.spec()) {
        yaml_map(&mut out, &map, 0, false);
    }
    out
}

/// As one line of JSON.
pub fn json(spec: &Valid) -> String {
    format!("{}\n", value(spec.spec()))
}

/// The document. The order of keys is that of the specification's own structures.
fn value(spec: &CdiSpec) -> Value {
    let mut map = Map::new();
    map.insert("cdiVersion".into(), spec.version.to_string().into());
    map.insert("kind".into(), spec.kind.as_str().into());
    pairs(&mut map, &spec.annotations);
    let devices: Vec<Value> = spec.devices.iter().map(device).collect();
    map.insert("devices".into(), devices.into());
    if !spec.edits.is_empty() {
        map.insert("containerEdits".into(), edits(&spec.edits));
    }
    map.into()
}

fn device(device: &Device) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), device.name.as_str().into());
    pairs(&mut map, &device.annotations);
    map.insert("containerEdits".into(), edits(&device.edits));
    map.into()
}

fn edits(edits: &Edits) -> Value {
    let mut map = Map::new();
    list(&mut map, "env", &edits.env, |e| e.as_str().into());
    list(&mut map, "deviceNodes", &edits.device_nodes, node);
    list(
        &mut map,
        "netDevices",
        &edits.net_devices,
        |(host, name)| json!({"hostInterfaceName": host, "name": name}),
    );
    list(&mut map, "hooks", &edits.hooks, hook);
    list(&mut map, "mounts", &edits.mounts, mount);
    if let Some(r) = &edits.intel_rdt {
        map.insert("intelRdt".into(), rdt(r));
    }
    list(&mut map, "additionalGids", &edits.additional_gids, |g| {
        (*g).into()
    });
    map.into()
}

fn node(node: &DeviceNode) -> Value {
    let mut map = Map::new();
    map.insert("path".into(), node.path.as_str().into());
    text(&mut map, "hostPath", node.host_path.as_deref());
    text(&mut map, "type", node.typ.as_deref());
    number(&mut map, "major", node.major);
    number(&mut map, "minor", node.minor);
    number(&mut map, "fileMode", node.file_mode);
    text(&mut map, "permissions", node.permissions.as_deref());
    number(&mut map, "uid", node.uid);
    number(&mut map, "gid", node.gid);
    map.into()
}

fn mount(mount: &Mount) -> Value {
    let mut map = Map::new();
    map.insert("hostPath".into(), mount.host_path.as_str().into());
    map.insert("containerPath".into(), mount.container_path.as_str().into());
    list(&mut map, "options", &mount.options, |o| o.as_str().into());
    text(&mut map, "type", mount.typ.as_deref());
    map.into()
}

fn hook(hook: &Hook) -> Value {
    let mut map = Map::new();
    map.insert("hookName".into(), hook.stage.as_str().into());
    map.insert("path".into(), hook.path.as_str().into());
    list(&mut map, "args", &hook.args, |a| a.as_str().into());
    list(&mut map, "env", &hook.env, |e| e.as_str().into());
    number(&mut map, "timeout", hook.timeout);
    map.into()
}

fn rdt(rdt: &IntelRdt) -> Value {
    let mut map = Map::new();
    text(&mut map, "closID", rdt.clos_id.as_deref());
    text(&mut map, "l3CacheSchema", rdt.l3_cache_schema.as_deref());
    text(&mut map, "memBwSchema", rdt.mem_bw_schema.as_deref());
    list(&mut map, "schemata", &rdt.schemata, |s| s.as_str().into());
    for (key, flag) in [
        ("enableMonitoring", rdt.enable_monitoring),
        ("enableCMT", rdt.enable_cmt),
        ("enableMBM", rdt.enable_mbm),
    ] {
        if let Some(flag) = flag {
            map.insert(key.into(), flag.into());
        }
    }
    map.into()
}

fn pairs(map: &mut Map<String, Value>, annotations: &[(String, String)]) {
    if !annotations.is_empty() {
        let inner: Map<String, Value> = annotations
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().into()))
            .collect();
        map.insert("annotations".into(), inner.into());
    }
}

fn list<T>(map: &mut Map<String, Value>, key: &str, items: &[T], one: impl Fn(&T) -> Value) {
    if !items.is_empty() {
        map.insert(key.into(), items.iter().map(one).collect::<Vec<_>>().into());
    }
}

fn text(map: &mut Map<String, Value>, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        map.insert(key.into(), value.into());
    }
}

fn number(map: &mut Map<String, Value>, key: &str, value: Option<u32>) {
    if let Some(value) = value {
        map.insert(key.into(), value.into());
    }
}

fn yaml_map(out: &mut String, map: &Map<String, Value>, depth: usize, mut on_line: bool) {
    for (key, value) in map {
        if !on_line {
            indent(out, depth);
        }
        on_line = false;
        out.push_str(&scalar(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                yaml_map(out, inner, depth + 1, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                for item in items {
                    indent(out, depth);
                    out.push_str("- ");
                    match item {
                        Value::Object(inner) if !inner.is_empty() => yaml_map(out, inner, depth + 1, true),
                        other => yaml_leaf(out, other),
                    }
                }
            }
            other => {
                out.push(' ');
                yaml_leaf(out, other);
            }
        }
    }
}

fn yaml_leaf(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => out.push_str(&scalar(text)),
        // JSON's numbers, literals and empty collections are YAML's.
        other => out.push_str(&other.to_string()),
    }
    out.push('\n');
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

/// Without quotes where no reader, of YAML 1.1 or 1.2, can take it for anything but this text.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 10] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-=:+,".contains(c);
    let safe = begins
        && text.chars().all(plain)
        && !text.ends_with(':')
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if safe {
        text.to_owned()
    } else {
        // A JSON string is a double-quoted YAML one.
        Value::from(text).to_string()
    }
}
