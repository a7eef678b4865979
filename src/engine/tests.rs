//! Properties of every edit of a configuration file, and of this module's imports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::edit::{Edit, Editor, Format, Undone, lookup};
use super::{Settings, containerd};
use crate::error::Code;

/// Lines of a TOML file; `N` becomes a different number in each.
const TOML: [&str; 24] = [
    "",
    "# comment N",
    "kN = 1",
    "kN = 'x' # comment",
    "\"q.N\" = [1, 2]",
    "'l.N' = 1979-05-27",
    "dN.a = 1",
    "d.N = 1",
    "iN = {}",
    "iN = {a=1}",
    "iN = { a = 1}",
    "iN = { a = 1, b.c = { d = 2 }, e = 3, b.f = 4 }",
    "sN = \"\"\"\nx # no comment\n[no.table]\n\"\"\"",
    "aN = [\n  1, # comment\n  2,\n]",
    "[tN]",
    "[tN] # comment",
    "[runtimes]",
    "[runtimes.rN]",
    "[ runtimes . rN ]",
    "[plugins.'x.y'.tN]",
    "[plugins.\"x.y\".tN]",
    "[plugins.z.tN]",
    "[[listN]]",
    "[[list]]",
];
const TOML_PATHS: [&[&str]; 12] = [
    &["version"],
    &["runtimes", "nvidia"],
    &["runtimes", "r5", "path"],
    &["runtimes", "nvidia", "options", "BinaryName"],
    &["plugins", "x.y", "nvidia"],
    &["plugins", "x.y", "t3", "new"],
    &["plugins", "new"],
    &["i1", "new"],
    &["i2", "b", "new"],
    &["d1", "a"],
    &["k2"],
    &["t4", "new", "newer"],
];

/// Members of a JSON file, as above.
const JSON: [&str; 12] = [
    "\"kN\":1e3",
    "\"kN\": null",
    "\"k\\u004e\" : \"}\\\"{\"",
    "\"runtimes\": {}",
    "\"runtimes\": {\"a\":{\"path\": \"/a\"}}",
    "\"runtimes\": {\n\t\t\"a\": [\n1 ,2]\n\t}",
    "\"features\" :{\"cdi\":false,\"cdi\" : 1}",
    "\"dup\": 1,\"dup\": {\"x\":2}",
    "\"a\": {\"b\": {\"c\": [[[]]]}}",
    "\"default-runtime\": \"runc\"",
    "\"\": -0.0",
    "\"log-opts\":{\"max-size\":\"10m\",\r\n \"x\":[{}]}",
];
const JSON_PATHS: [&[&str]; 6] = [
    &["default-runtime"],
    &["runtimes", "nvidia"],
    &["runtimes", "a", "path"],
    &["features", "cdi"],
    &["dup", "x"],
    &["a", "b", "new", "newer"],
];

fn toml_text() -> impl Strategy<Value = String> {
    let line = (prop::sample::select(&TOML[..]), "|  |\t", "\n|\n|\n|\r\n");
    let lines = prop::collection::vec(line, 0..14);
    (lines, any::<bool>(), any::<bool>()).prop_map(|(lines, bom, ended)| {
        let mut text = String::new();
        for (n, (line, indent, end)) in lines.iter().enumerate() {
            text += &format!("{indent}{}{end}", line.replace('N', &n.to_string()));
        }
        if !ended {
            text.truncate(text.trim_end().len());
        }
        let bom = if bom { "\u{feff}" } else { "" };
        bom.to_owned() + &text
    })
}

fn json_text() -> impl Strategy<Value = String> {
    let members = prop::collection::vec(prop::sample::select(&JSON[..]), 0..6);
    let space = "|| |\n|\n  |\n\t|\r\n    ";
    (members, space, "|\n|\r\n| |", any::<bool>()).prop_map(|(members, space, end, bom)| {
        let members: Vec<String> = members
            .iter()
            .enumerate()
            .map(|(n, m)| format!("{space}{}", m.replace('N', &n.to_string())))
            .collect();
        let last = if members.is_empty() { "" } else { end.as_str() };
        let bom = if bom { "\u{feff}" } else { "" };
        format!("{bom}{{{}{last}}}{end}", members.join(","))
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!("nvidia"),
        json!(true),
        json!(["cdi.k8s.io/*", "a'b\"c"]),
        json!({"path": "/usr/bin/nvoci-runtime"}),
        json!({"runtime_type": "x", "options": {"BinaryName": "/b", "a.b": [1]}}),
    ])
}

/// Sets `value`; `None` if the edit is refused.
fn set(format: Format, text: &str, path: &[&str], value: &Value) -> Option<Edit> {
    let mut e = Editor::open("f", format, text).ok()?;
    e.set(path, value).ok()?;
    Some(e.finish(Vec::new()))
}

/// Checks an edit of `text`; `None` if the text is not valid or the edit is refused.
fn check(format: Format, text: &str, path: &[&str], value: &Value) -> Option<()> {
    let before = Editor::open("f", format, text).ok()?;
    let edit = set(format, text, path, value)?;
    let after = Editor::open("f", format, &edit.text).unwrap();

    // The new value is there, and every other value is the old one.
    assert_eq!(after.get(path), Some(value), "{}", edit.text);
    let others = |e: &Editor| {
        let mut flat = BTreeMap::new();
        flatten(e.value(), &mut Vec::new(), &mut flat);
        flat.retain(|p, _| {
            !p.iter()
                .map(String::as_str)
                .take(path.len())
                .eq(path.iter().copied())
        });
        flat
    };
    assert_eq!(others(&after), others(&before), "{}", edit.text);

    // Each byte is in its place, except for the replaced value.
    let replaced = edit
        .changes
        .first()
        .and_then(|c| c.before.clone())
        .unwrap_or_default();
    let head = text
        .bytes()
        .zip(edit.text.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let rest = text.len().min(edit.text.len()) - head;
    let same_end = text.bytes().rev().zip(edit.text.bytes().rev());
    let tail = same_end.take(rest).take_while(|(a, b)| a == b).count();
    assert!(head + tail + replaced.len() >= text.len(), "{}", edit.text);

    // A second edit does nothing.
    let again = set(format, &edit.text, path, value).unwrap();
    assert_eq!(
        (again.text.as_str(), again.changes.len()),
        (edit.text.as_str(), 0)
    );

    let mut e = after;
    for change in edit.changes.iter().rev() {
        assert_eq!(e.undo(change).unwrap(), Undone::Reverted, "{}", edit.text);
    }
    assert_eq!(e.text(), text, "{}", edit.text);
    Some(())
}

/// Every value that is not a table, by its keys.
fn flatten(value: &Value, path: &mut Vec<String>, into: &mut BTreeMap<Vec<String>, Value>) {
    let Some(map) = value.as_object() else {
        into.insert(path.clone(), value.clone());
        return;
    };
    for (key, inner) in map {
        path.push(key.clone());
        flatten(inner, path, into);
        path.pop();
    }
}

proptest! {
    #[test]
    fn an_edit_of_toml_changes_nothing_else(
        text in toml_text(), path in prop::sample::select(&TOML_PATHS[..]), value in any_value(),
    ) {
        let _ = check(Format::Toml, &text, path, &value);
    }

    #[test]
    fn an_edit_of_json_changes_nothing_else(
        text in json_text(), path in prop::sample::select(&JSON_PATHS[..]), value in any_value(),
    ) {
        let _ = check(Format::Json, &text, path, &value);
    }
}

/// Most of the generated files are valid, and most edits are possible.
#[test]
fn the_generated_files_are_edited() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let value = json!({"path": "/p"});
    let mut edited = (0, 0);
    for i in 0..400 {
        let text = toml_text().new_tree(&mut runner).unwrap().current();
        let path = TOML_PATHS[i % TOML_PATHS.len()];
        edited.0 += usize::from(check(Format::Toml, &text, path, &value).is_some());
        let text = json_text().new_tree(&mut runner).unwrap().current();
        let path = JSON_PATHS[i % JSON_PATHS.len()];
        edited.1 += usize::from(check(Format::Json, &text, path, &value).is_some());
    }
    assert!(edited.0 > 100 && edited.1 > 200, "{edited:?}");
}

#[test]
fn nesting_is_refused_before_it_takes_the_stack() {
    let dotted = |n: usize| vec!["a"; n].join(".");
    for (format, text, code) in [
        (Format::Json, "[".repeat(500_000), Code::TooLarge),
        (
            Format::Json,
            format!("{{\"a\":{}", "[".repeat(20_000)),
            Code::Engine,
        ),
        (Format::Json, "{\"a\":".repeat(20_000), Code::Engine),
        (Format::Toml, format!("a = {}", "[".repeat(20_000)), Code::Engine),
        (
            Format::Toml,
            format!("a = {}", "{a=".repeat(10_000)),
            Code::Engine,
        ),
        (Format::Toml, format!("{} = 1\n", dotted(10_000)), Code::Engine),
        (Format::Toml, format!("[{}]\n", dotted(10_000)), Code::Engine),
        (Format::Toml, format!("{} = 1\n", dotted(500_000)), Code::TooLarge),
    ] {
        let e = Editor::open("f", format, &text).unwrap_err();
        assert_eq!(e.code(), code, "{}", &text[..20]);
    }
    // The deepest path that TOML's parser accepts.
    let deep = format!("[{}]\nx = 1\n", dotted(79));
    let mut e = Editor::open("f", Format::Toml, &deep).unwrap();
    let mut path = vec!["a"; 79];
    path.push("y");
    e.set(&path, &json!(2)).unwrap();
    assert_eq!(lookup(e.value(), &path), Some(&json!(2)));
}

/// A registration parses the file some twenty times, whatever its contents.
#[test]
fn a_large_file_is_registered_with_and_given_back() {
    let mut text = String::from("version = 2\n");
    let runtimes = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes";
    for i in 0..3000 {
        text += &format!("[{runtimes}.r{i}]\nruntime_type = \"x\" # {i}\n");
    }
    text += &format!("[{runtimes}.runc.options]\n");
    for i in 0..3000 {
        text += &format!("\"a.{i}\" = true\n");
    }
    assert!(text.len() > 256 << 10);
    let settings = Settings {
        set_as_default: true,
        cdi: true,
        ..Settings::default()
    };
    let started = cpu_seconds();
    let edit = containerd::plan("f", Some(&text), None, &settings).unwrap();
    assert_eq!(edit.changes.len(), 3);
    let mut e = Editor::open("f", Format::Toml, &edit.text).unwrap();
    for change in edit.changes.iter().rev() {
        assert_eq!(e.undo(change).unwrap(), Undone::Reverted);
    }
    assert_eq!(e.text(), text);
    // 4 s in a debug build.
    assert!(cpu_seconds() - started < 30);
}

/// This thread's own time, since the machine may be busy.
pub(super) fn cpu_seconds() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .tv_sec()
}

/// Imports of this module's files run downward only: no file imports one that imports it.
#[test]
fn no_module_imports_one_that_imports_it() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let mut todo = vec![(dir, None::<String>)];
    while let Some((dir, module)) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let name = module.clone().unwrap_or_else(|| stem.clone());
            if path.is_dir() {
                todo.push((path, Some(name)));
            } else if name != "mod" && stem != "tests" {
                let text = std::fs::read_to_string(path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                *texts.entry(name).or_default() += code;
            }
        }
    }
    let names: BTreeSet<String> = texts.keys().cloned().collect();
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in &texts {
        let found = imports.entry(name.clone()).or_default();
        for after in text.split("super::").chain(text.split("crate::engine::")).skip(1) {
            let (list, end) = after.strip_prefix('{').map_or((after, None), |l| (l, Some('}')));
            let list = list
                .split(|c: char| Some(c) == end || end.is_none() && !is_word(c))
                .next();
            let words = list.unwrap_or_default().split(|c: char| !is_word(c));
            found.extend(
                words
                    .filter(|w| *w != name && names.contains(*w))
                    .map(str::to_owned),
            );
        }
    }
    assert!(imports["register"].contains("store") && imports["edit"].contains("toml"));
    while let Some(free) = imports.iter().find(|(_, i)| i.is_empty()).map(|(n, _)| n.clone()) {
        imports.remove(&free);
        for others in imports.values_mut() {
            others.remove(&free);
        }
    }
    assert!(imports.is_empty(), "a circle: {imports:#?}");
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
