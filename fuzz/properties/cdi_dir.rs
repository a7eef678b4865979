//! `nvoci cdi list`, `check` and `transform` on directories of specifications, each of whose
//! devices a container gets.
//!
//! Each part is a file: its name (with `2/` before it in the second directory), a line end, its
//! content. With an odd first byte the content is lines of [`document`].

use std::fs;
use std::path::{Path, PathBuf};

use nvoci::cdi::check::Engine;
use nvoci::cdi::read::{Format, parse};
use nvoci::cdi::registry::{Standing, Trust};
use nvoci::cdi::transform::Side;
use nvoci::cdi::{Registry, Valid, edit, emit};
use nvoci::cmd::fuzzing;
use nvoci::cmd::runtime::Flavor;
use nvoci::config::Config;
use nvoci::oci::Spec;
use nvoci::request::CdiName;
use nvoci::sys::budget::Budget;
use serde_json::{Map, Value, json};

use crate::count::reached;
use crate::world::{self, check_error, check_text};

/// The most files of one input, and the most devices that a container gets.
const MAX: usize = 8;

/// Holds for every input. The second byte chooses the output.
pub(crate) fn check(input: &[u8]) {
    let Some((&[form, way], rest)) = input.split_first_chunk::<2>() else {
        return;
    };
    reached("run");
    let base = world::fresh("specs");
    let dirs = [base.join("1"), base.join("2")];
    for dir in &dirs {
        fs::create_dir(dir).expect("a directory");
    }
    let mut files = Vec::new();
    for (number, part) in world::parts(rest).into_iter().take(MAX).enumerate() {
        let (title, content) = world::titled(part);
        let (dir, title) = match title.strip_prefix(b"2/") {
            Some(rest) => (&dirs[1], rest),
            None => (&dirs[0], title),
        };
        let name: String = title
            .iter()
            .filter(|b| b.is_ascii_alphanumeric())
            .take(9)
            .map(|b| char::from(*b))
            .collect();
        let json = form & 1 == 1 || title.ends_with(b".json");
        let path = dir.join(format!("{name}{number}.{}", if json { "json" } else { "yaml" }));
        let content = if form & 1 == 1 {
            document(&String::from_utf8_lossy(content))
        } else {
            content.to_vec()
        };
        fs::write(&path, content).expect("a specification");
        files.push(path);
    }

    let engines = [
        ("podman", "4.3.1"),
        ("dockerd", "28.5.2"),
        ("containerd", "1.7.13"),
    ];
    let engines: Vec<Engine> = engines.iter().filter_map(|(p, v)| Engine::of(p, v)).collect();
    let shown = fuzzing::cdi(&dirs, way & 1 == 1, &engines);
    if way & 1 == 1 {
        for text in [&shown.list, &shown.check] {
            let _: Value = serde_json::from_str(text).expect("--json is JSON");
        }
    } else {
        check_text(&shown.list);
        check_text(&shown.check);
    }
    for file in &files {
        transform(file, way);
    }
    give(&dirs);
}

fn transform(file: &Path, way: u8) {
    let side = if way & 2 == 0 { Side::Host } else { Side::Container };
    let to = if way & 4 == 0 { "/run/driver" } else { "" };
    match fuzzing::cdi_transform(file, Path::new("/usr"), Path::new(to), side) {
        Ok(Some(spec)) => {
            reached("accepted");
            let Ok(valid) = Valid::of(spec) else { return };
            for (text, format) in [
                (emit::yaml(&valid), Format::Yaml),
                (emit::json(&valid), Format::Json),
            ] {
                match parse(text.as_bytes(), format, "again", &Budget::default()) {
                    Ok(again) => assert_eq!(again, *valid.spec(), "{text}"),
                    // A longer root can make a path too long.
                    Err(e) => check_error(&e),
                }
            }
        }
        Ok(None) => {}
        Err(e) => check_error(&e),
    }
}

fn give(dirs: &[PathBuf]) {
    let registry = Registry::load(dirs, Trust::Root, &Budget::default());
    let devices = registry.devices();
    if devices.values().any(|s| matches!(s, Standing::Conflict(_))) {
        reached("conflict");
    }
    let good = devices.iter().filter(|(_, s)| matches!(s, Standing::Good(_)));
    let names: Vec<CdiName> = good
        .filter_map(|(name, _)| CdiName::parse(name))
        .take(MAX)
        .collect();
    if names.is_empty() {
        return;
    }
    reached("device found");
    let edits = edit::edits_of(&registry, &names, dirs).expect("a listed device is available");
    let base = br#"{"ociVersion":"1.0.2","process":{"env":["A=0"],"user":{"uid":7,"gid":7}},"root":{"path":"r"},"linux":{}}"#;
    let mut spec = Spec::parse(base).expect("a definition");
    match edit::apply(&edits, &mut spec) {
        Ok(()) => {
            reached("device given");
            let text = spec.to_bytes();
            let mut again = Spec::parse(&text).expect("the written text can be read");
            assert_eq!(again.value(), spec.value());
            edit::apply(&edits, &mut again).expect("a device that was given can be given again");
            assert_eq!(
                String::from_utf8_lossy(&again.to_bytes()),
                String::from_utf8_lossy(&text)
            );
        }
        Err(e) => check_error(&e),
    }
    runtime(dirs, &names);
}

/// Gives the devices through the runtime entry point, to a container that names them.
fn runtime(dirs: &[PathBuf], names: &[CdiName]) {
    let mut config = Config::default();
    config.load_kmods.value = false;
    config.cdi_spec_dirs.value = dirs.to_vec();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let document = json!({
        "ociVersion": "1.0.2", "root": {"path": "r"}, "linux": {},
        "process": {"env": ["A=0"], "args": ["sh"], "cwd": "/"},
        "annotations": {"cdi.k8s.io/fuzz": names.join(",")},
    });
    let mut spec = Spec::parse(document.to_string().as_bytes()).expect("a definition");
    match fuzzing::runtime(Flavor::Configured, &config, &world::host(), &mut spec) {
        Ok(()) if spec.is_changed() => reached("runtime gave it"),
        Ok(()) => {}
        Err(e) => check_error(&e),
    }
}

/// A specification from lines: `vVERSION`, `kKIND`, `dNAME` a device, to which the next lines
/// belong: `eNAME=VALUE`, `nPATH MAJOR MINOR`, `mSOURCE TARGET`, `hSTAGE PATH ARGS…`, `gGID`;
/// `aKEY=VALUE` an annotation; `jJSON` any edit.
fn document(lines: &str) -> Vec<u8> {
    let mut spec = json!({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu"});
    let mut devices: Vec<(String, Map<String, Value>)> = Vec::new();
    let mut common = Map::new();
    for line in lines.split('\n') {
        let (kind, rest) = line.split_at_checked(1).unwrap_or(("", ""));
        let words: Vec<&str> = rest.split(' ').collect();
        let word = |n: usize| words.get(n).copied().unwrap_or_default();
        let (list, value) = match kind {
            "v" => {
                spec["cdiVersion"] = json!(rest);
                continue;
            }
            "k" => {
                spec["kind"] = json!(rest);
                continue;
            }
            "d" => {
                devices.push((rest.to_owned(), Map::new()));
                continue;
            }
            "a" => {
                let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
                spec["annotations"][key] = json!(value);
                continue;
            }
            "e" => ("env", json!(rest)),
            "n" => {
                let mut node = json!({"path": word(0)});
                for (at, key) in [(1, "major"), (2, "minor"), (3, "uid"), (4, "fileMode")] {
                    if let Ok(number) = word(at).parse::<i64>() {
                        node[key] = json!(number);
                        node["type"] = json!("c");
                    }
                }
                ("deviceNodes", node)
            }
            "m" => (
                "mounts",
                json!({"hostPath": word(0), "containerPath": word(1), "options": words.get(2..)}),
            ),
            "h" => (
                "hooks",
                json!({"hookName": word(0), "path": word(1), "args": words.get(2..)}),
            ),
            "g" => ("additionalGids", json!(rest.parse::<u64>().unwrap_or(5))),
            "j" => match rest
                .split_once(' ')
                .and_then(|(k, v)| Some((k, serde_json::from_str(v).ok()?)))
            {
                Some((key, value)) => {
                    let edits = devices.last_mut().map_or(&mut common, |(_, edits)| edits);
                    edits.insert(key.to_owned(), value);
                    continue;
                }
                None => continue,
            },
            _ => continue,
        };
        let edits = devices.last_mut().map_or(&mut common, |(_, edits)| edits);
        if let Some(list) = edits.entry(list).or_insert_with(|| json!([])).as_array_mut() {
            list.push(value);
        }
    }
    spec["devices"] = devices
        .into_iter()
        .map(|(name, edits)| json!({"name": name, "containerEdits": edits}))
        .collect();
    if !common.is_empty() {
        spec["containerEdits"] = Value::Object(common);
    }
    spec.to_string().into_bytes()
}
