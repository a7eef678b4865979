//! `docs/migration.md` against the facts about toolkit 1.20.1 and against nvoci: each name has a
//! row, each row has an existing test or a reason, and each row that can be run is run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Bench, SPEC};

const GUIDE: &str = "docs/migration.md";
const FACTS: &str = "docs/facts/toolkit-features.md";
/// The shortest acceptable reason.
const SHORTEST_REASON: usize = 20;

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The rows of the table after the line `<!-- NAME -->`, without its header.
fn table<'t>(guide: &'t str, name: &str) -> Vec<Vec<&'t str>> {
    let (_, rest) = guide
        .split_once(&format!("<!-- {name} -->\n"))
        .unwrap_or_else(|| panic!("{GUIDE} has no table {name}"));
    let (table, _) = rest.split_once("<!-- end -->").unwrap();
    table.lines().skip(2).map(cells).collect()
}

fn cells(row: &str) -> Vec<&str> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|');
    row.split(" | ").map(str::trim).collect()
}

/// The texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The tables of a section of the facts, such as `1.3`: the cells of each row.
fn facts<'t>(facts: &'t str, section: &str) -> Vec<Vec<&'t str>> {
    let (_, rest) = facts.split_once(&format!("\n## {section} ")).unwrap();
    let section = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    let rows = section.lines().filter(|line| line.starts_with('|'));
    rows.skip(2).map(cells).collect()
}

/// The faults of the guide.
fn faults(guide: &str, known: &str) -> Vec<String> {
    let mut faults = rows_without_a_test(guide);
    faults.extend(missing_keys(guide, known));
    faults.extend(missing_names(guide, known));
    faults
}

fn rows_without_a_test(guide: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for row in table(guide, "made: keys") {
        let [key, effect] = row.as_slice() else {
            faults.push(format!("{row:?}: two columns"));
            continue;
        };
        // The test of a key with an effect is `each_key_has_the_effect_of_its_row`.
        let reason = effect.strip_prefix("no effect:").map(str::trim);
        if effect.is_empty() || reason.is_some_and(|reason| reason.len() < SHORTEST_REASON) {
            faults.push(format!("{key}: no effect, and no reason"));
        }
    }
    for name in ["rows: variables", "rows: programs"] {
        for row in table(guide, name) {
            match row.as_slice() {
                [_, _, shown] => faults.extend(unshown(shown).map(|why| format!("{}: {why}", row[0]))),
                _ => faults.push(format!("{row:?}: three columns")),
            }
        }
    }
    for row in table(guide, "run: commands") {
        match row.as_slice() {
            [_, status, _, "this row"] if status.parse::<i32>().is_ok() => {}
            [_, "-", _, shown] => faults.extend(unshown(shown).map(|why| format!("{}: {why}", row[0]))),
            _ => faults.push(format!("{row:?}: a status and `this row`, or `-` and a test")),
        }
    }
    faults
}

/// Why a last column names no test.
fn unshown(shown: &str) -> Option<String> {
    if let Some(reason) = shown.strip_prefix("no test:") {
        let short = reason.trim().len() < SHORTEST_REASON;
        return short.then(|| "no test, and no reason".to_owned());
    }
    let mut tests = quoted(shown).peekable();
    if tests.peek().is_none() {
        return Some(format!("`{shown}` names no test"));
    }
    tests.find_map(|test| (!exists(test)).then(|| format!("there is no test {test}")))
}

/// Whether a test exists: `file::function`, or `file: words of its case`.
fn exists(test: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if let Some((file, name)) = test.split_once("::") {
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            return false;
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let starts = format!("fn {name}(");
        let at = lines.iter().position(|line| line.starts_with(&starts));
        // Attributes and an `ignore` may stand between.
        return at.is_some_and(|at| lines[at.saturating_sub(3)..at].contains(&"#[test]"));
    }
    test.split_once(": ").is_some_and(|(file, words)| {
        file.starts_with("integration/")
            && fs::read_to_string(root.join(file)).is_ok_and(|text| text.contains(words))
    })
}

/// Keys and feature flags of the facts that have no row.
fn missing_keys(guide: &str, known: &str) -> Vec<String> {
    let rows = table(guide, "made: keys");
    let have: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    let mut keys = Vec::new();
    for row in facts(known, "2.2") {
        let mut section = "";
        for name in quoted(row[0]) {
            if let Some(rest) = name.strip_prefix('.') {
                keys.push(format!("{section}.{rest}"));
            } else {
                section = name.rsplit_once('.').map_or("", |(section, _)| section);
                keys.push(name.to_owned());
            }
        }
    }
    keys.extend(
        facts(known, "2.3")
            .iter()
            .map(|row| format!("features.{}", row[0].trim_matches('`'))),
    );
    assert!(keys.len() > 35, "{keys:?}");
    let missing = keys.into_iter().filter(|key| !have.contains(key.as_str()));
    missing.map(|key| format!("no row for the key {key}")).collect()
}

/// Options, variables and hooks of the facts that no row names.
fn missing_names(guide: &str, known: &str) -> Vec<String> {
    let rows = |name| table(guide, name).into_iter();
    let commands: Vec<&str> = rows("run: commands").map(|row| row[0]).collect();
    let variables: Vec<&str> = rows("rows: variables").flat_map(|row| quoted(row[0])).collect();
    let words: BTreeSet<&str> = commands
        .iter()
        .flat_map(|cell| quoted(cell))
        .flat_map(str::split_whitespace)
        .map(|word| word.split_once('=').map_or(word, |(name, _)| name))
        .collect();
    let mut faults = Vec::new();
    for section in ["1.3", "1.4", "1.5"] {
        for row in facts(known, section) {
            for name in row.iter().flat_map(|cell| quoted(cell)) {
                let found = if name.starts_with("--") || section == "1.5" {
                    words.contains(name)
                } else if name.starts_with("NVIDIA_CTK_CDI_") || name.starts_with("NVIDIA_CTK_D") {
                    variables.contains(&"NVIDIA_CTK_*")
                } else if section == "1.4" {
                    let has = |line: &str, word| line.split_whitespace().any(|w| w == word);
                    let mut lines = commands.iter().flat_map(|cell| quoted(cell));
                    lines.any(|line| name.split_whitespace().all(|word| has(line, word)))
                } else {
                    // A default value.
                    true
                };
                if !found {
                    faults.push(format!("no row names {name}"));
                }
            }
        }
    }
    faults
}

#[test]
fn each_name_of_the_toolkit_has_a_row_and_each_row_a_test() {
    let faults = faults(&read(GUIDE), &read(FACTS));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The test above can fail.
#[test]
fn a_row_without_a_test_is_a_fault() {
    let (guide, known) = (read(GUIDE), read(FACTS));
    let shown = "`src/request/tests.rs::imex_channels_are_checked`";
    let key = "| `disable-require` | `disable-require` |\n";
    for (from, to, fault) in [
        (shown, "", "names no test"),
        (shown, "soon", "names no test"),
        (shown, "`src/request/tests.rs::no_such_test`", "there is no test"),
        // A function that is no test.
        (
            shown,
            "`src/request/select.rs::needs_mig_uuids`",
            "there is no test",
        ),
        (
            shown,
            "`src/none.rs::imex_channels_are_checked`",
            "there is no test",
        ),
        (
            shown,
            "`integration/callers/inside: no such words`",
            "there is no test",
        ),
        (shown, "no test:", "no reason"),
        (shown, "no test: later", "no reason"),
        (" | 0 | the same | this row |", " | 0 | the same | |", "this row"),
        (
            "| - | the same | `",
            "| - | the same | this row | `",
            "columns|this row",
        ),
        (key, "", "no row for the key disable-require"),
        (key, "| `disable-require` | no effect: |\n", "no reason"),
        (" --relative-to=container", "", "no row names --relative-to"),
        (
            "--csv.ignore-pattern",
            "--other",
            "no row names --csv.ignore-pattern",
        ),
        (
            "apply-cuda-memory-limits",
            "other",
            "no row names apply-cuda-memory-limits",
        ),
        ("`NVIDIA_CTK_*`", "some", "no row names NVIDIA_CTK_"),
    ] {
        let changed = guide.replace(from, to);
        assert_ne!(changed, guide, "{from} is not in the guide");
        let found = faults(&changed, &known);
        let named = |f: &String| fault.split('|').any(|part| f.contains(part));
        assert!(found.iter().any(named), "{from} -> {to}: {found:?}");
    }
    // A name that a later toolkit brings.
    let newer = known.replace("| `create-symlinks` |", "| `brand-new-hook` |");
    assert!(
        faults(&guide, &newer)
            .iter()
            .any(|f| f.contains("brand-new-hook"))
    );
    let newer = known.replace("| `swarm-resource` |", "| `brand-new-key` |");
    assert!(faults(&guide, &newer).iter().any(|f| f.contains("brand-new-key")));
    let fine = guide.replace(shown, "no test: the kernel of this machine has no such module");
    assert_eq!(faults(&fine, &known), Vec::<String>::new());
}

/// Values that a key may have, by the types of the facts.
const VALUES: &[&str] = &[
    "true",
    "false",
    "\"/opt/x\"",
    "\"debug\"",
    "\"A\"",
    "\"csv\"",
    "\"compute\"",
    "\"example.com/gpu\"",
    "\"disabled\"",
    "[\"/opt/x\"]",
    "[\"x.y/\"]",
];

/// Each key is written into a file, and `nvoci config` prints its effect.
#[test]
fn each_key_has_the_effect_of_its_row() {
    let bench = Bench::new();
    let shown = |text: &str| {
        bench.file("v.toml", text);
        bench.run("nvoci config --config @/v.toml")
    };
    let mut list = "";
    for row in table(&read(GUIDE), "made: keys") {
        let name = row[0].trim_matches('`');
        let inert = row[1].starts_with("no effect:");
        let (key, values) = match name.strip_prefix("… ") {
            Some(item) => (list, vec![format!("[\"{item}\"]")]),
            None => (name, VALUES.iter().map(|v| (*v).to_owned()).collect()),
        };
        if row[1] == "a list; each name counts:" {
            list = name;
            continue;
        }
        let does = |value: &String| {
            let ran = shown(&format!("{key} = {value}\n"));
            let without = format!("# no effect: {key}");
            let from = format!("# from {key}");
            let refused = ran.out.contains("# warning: ");
            let same = ran
                .out
                .lines()
                .any(|l| l.ends_with("# set") && l.starts_with(&format!("{key} = ")));
            ran.status == 0
                && !refused
                && if inert {
                    ran.out.contains(&without)
                } else {
                    ran.out.contains(&from) || same
                }
        };
        assert!(
            values.iter().any(does),
            "{name}: {}",
            shown(&format!("{key} = {}\n", values[0])).out
        );
    }
    // An unknown name has no effect that could be mistaken for a key's.
    let ran = shown("nvidia-container-cli.brand-new = true\n");
    assert!(!ran.out.contains("# from "), "{}", ran.out);
}

/// Each row of the table of commands with a numeric status: the command exits with it here.
#[test]
fn the_commands_exit_with_the_status_of_their_rows() {
    let mut ran = 0;
    for row in table(&read(GUIDE), "run: commands") {
        let Ok(status) = row[1].parse::<i32>() else {
            continue;
        };
        for command in quoted(row[0]) {
            let bench = Bench::new();
            bench.file("x.csv", "dev, /dev/null\n");
            bench.file("x.yaml", &SPEC.replace("KIND", "cd"));
            bench.file("config.toml", "disable-require = false\n");
            let line = command.replace("DIR", "@").replace("\\|", "|");
            bench.run(&line).exits(status);
            ran += 1;
        }
    }
    assert!(ran > 40, "only {ran} commands were run");
}
