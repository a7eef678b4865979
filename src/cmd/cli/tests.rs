//! Rules for every table: the program's and the vendor's.

use super::*;
use crate::cmd::texts::man;
use crate::cmd::{COMMAND, ctk};

fn all() -> Vec<&'static dyn Table> {
    let roots: [&dyn Table; 2] = [&COMMAND, &ctk::COMMAND];
    let all = roots.into_iter().flat_map(entries).map(|entry| entry.table);
    all.chain([&crate::cmd::texts::COMMAND as &dyn Table]).collect()
}

/// The flags of a command with all names and dashes.
fn typed(table: &dyn Table) -> Vec<String> {
    let mut names = Vec::new();
    for doc in table.flags() {
        let long = doc.aliases.iter().chain([&doc.long]).filter(|n| !n.is_empty());
        names.extend(long.map(|n| format!("--{n}")));
        names.extend(doc.short.map(|c| format!("-{c}")));
    }
    names
}

#[test]
fn a_name_stands_for_one_flag() {
    for table in all() {
        let mut names = typed(table);
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{}: {names:?}", table.page().name);
        for doc in table.flags() {
            let named = !doc.long.is_empty() || doc.short.is_some();
            assert!(
                named && !doc.help.is_empty() && !doc.help.ends_with('.'),
                "{}",
                doc.shown()
            );
            assert!(doc.more.is_empty() || doc.more.ends_with('.'), "{}", doc.shown());
        }
    }
}

#[test]
fn a_command_has_a_name_below_its_parent_and_a_summary() {
    for entry in [&COMMAND as &dyn Table, &ctk::COMMAND]
        .into_iter()
        .flat_map(entries)
    {
        let page = entry.table.page();
        assert!(
            !page.summary.is_empty() && !page.summary.ends_with('.'),
            "{}",
            page.name
        );
        for usage in help::usage(entry.table) {
            assert!(usage.starts_with("nv"), "{usage}");
        }
        let mut words: Vec<&str> = entry.below.iter().map(|t| t.page().word()).collect();
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count, "{}: {words:?}", page.name);
    }
}

#[test]
fn help_fits_a_terminal() {
    for table in all() {
        for line in help(table).lines() {
            let name = table.page().name;
            assert!(line.chars().count() <= help::WIDTH, "{name}: {line}");
            assert_eq!(line.trim_end(), line, "{name}");
        }
    }
    for line in crate::cmd::container_cli::HELP.lines() {
        assert!(line.chars().count() <= help::WIDTH, "{line}");
    }
}

/// Each `--name` in a text is a flag of that command, of one that the text names before it, or the
/// vendor's.
#[test]
fn texts_name_flags_that_exist() {
    let everywhere: Vec<String> = all().into_iter().flat_map(typed).collect();
    for table in all() {
        // Another program's arguments, which are in no table.
        let own = typed(table);
        if own.is_empty() {
            continue;
        }
        let details = table.flags().into_iter().flat_map(|d| [d.help, d.more]);
        for text in table.page().texts().into_iter().chain(details) {
            let elsewhere = text.contains("nvoci ") || table.page().name == "nvoci";
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.'));
            for word in words
                .map(|w| w.trim_end_matches('.'))
                .filter(|w| w.starts_with("--") && w.len() > 2)
            {
                let known = if elsewhere { &everywhere } else { &own };
                assert!(
                    known.iter().any(|n| n == word),
                    "{}: {word}: {text}",
                    table.page().name
                );
            }
        }
    }
}

#[test]
fn listed_values_are_the_ones_that_are_taken() {
    for table in all() {
        for doc in table.flags().into_iter().filter(|d| !d.values.is_empty()) {
            let with = |value: &str| table.check(&[format!("{}={value}", doc.shown())]);
            for value in doc.values {
                with(value).unwrap();
            }
            assert!(with("no-such-value").is_err(), "{}", doc.shown());
        }
    }
}

#[test]
fn examples_are_command_lines() {
    let mut count = 0;
    for table in all() {
        for (line, _) in table.page().examples {
            let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
            let (mut at, mut rest): (&dyn Table, &[String]) = (&COMMAND, &words);
            while let Some((first, others)) = rest.split_first() {
                let mut below = at.commands().iter().flat_map(|group| group.commands);
                let Some(next) = below.find(|t| t.page().word() == first) else {
                    break;
                };
                (at, rest) = (*next, others);
            }
            assert!(
                line.starts_with(table.page().name) && at.page().name != "nvoci",
                "{line}"
            );
            at.check(rest).unwrap();
            count += 1;
        }
    }
    assert!(count > 3);
}

/// `tests/schema.rs` validates the output of the commands of that table.
#[test]
fn every_command_with_json_has_a_schema() {
    let table = include_str!("../../../docs/schema/README.md");
    let mut count = 0;
    for Entry { table: command, .. } in entries(&COMMAND) {
        if command.flags().iter().any(|doc| doc.long == "json") {
            let name = command.page().name;
            assert!(table.contains(&format!("| `{name} --json` | [")), "{name}");
            count += 1;
        }
    }
    assert!(count > 10);
}

#[test]
fn a_mistyped_name_is_answered_with_the_nearest() {
    let error = |line: &str| {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        COMMAND.start(args.into_iter()).unwrap_err().error.to_string()
    };
    assert_eq!(
        error("instal docker"),
        "`nvoci instal`: there is no such command; fix: did you mean `install`? `nvoci --help` lists all [NVOCI-1001]"
    );
    for (line, near) in [
        ("doctor imgae x", "did you mean `image`?"),
        ("cdi generate --ouptut x", "did you mean `--output`?"),
        ("cdi gen --output x", "see `nvoci cdi --help`"),
        ("list --frobnicate", "see `nvoci list --help`"),
        ("list -x", "there is no option `-x`"),
        ("list word", "unexpected argument `word`"),
        ("list --json=1", "unexpected argument for option"),
        ("plan --config", "missing argument"),
        // Hidden commands and flags are not suggested.
        ("text", "see `nvoci --help`"),
        ("hook --device prestart", "see `nvoci hook --help`"),
    ] {
        assert!(error(line).contains(near), "{line}: {}", error(line));
    }
    let long = "x".repeat(100_000);
    assert!(error(&long).contains("there is no such command"));
}

#[test]
fn the_texts_name_every_command_and_flag() {
    let entries = entries(&COMMAND);
    let man = man::page(&entries, "2026-01-31");
    // No text becomes a request of the formatter.
    for line in man.lines().filter(|line| line.starts_with(['.', '\''])) {
        let request = line.split(' ').next().unwrap();
        let known = [
            ".TH", ".SH", ".SS", ".TP", ".B", ".BR", ".PP", ".br", ".nf", ".fi",
        ];
        assert!(known.contains(&request), "{line}");
    }
    for (kind, script) in [
        ("bash", complete::bash(&entries)),
        ("zsh", complete::zsh(&entries)),
        ("fish", complete::fish(&entries)),
        ("man", man),
    ] {
        for entry in &entries {
            let page = entry.table.page();
            let name = page.name.to_uppercase().replace('-', "\\-");
            assert!(
                script.contains(page.name) || script.contains(&name),
                "{kind}: {name}"
            );
            for doc in entry.table.flags().into_iter().filter(|d| !d.hidden) {
                let long = doc.long.replace('-', "\\-");
                assert!(
                    script.contains(doc.long) || script.contains(&long),
                    "{kind}: {}",
                    doc.shown()
                );
            }
        }
    }
}
