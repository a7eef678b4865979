//! Generates parts of the documentation from the code, such as the table of error codes. A test
//! fails if a part is stale; `NVOCI_BLESS=1 cargo test documents` writes the parts.

use std::fmt::Write as _;

use crate::config;
use crate::doctor::all_checks;
use crate::error::Code;

/// Checks that a file's part between `<!-- made: NAME -->` and `<!-- end -->` is `text`.
fn part(file: &str, name: &str, text: &str) {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let whole = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- made: {name} -->\n"), "<!-- end -->");
    let from = whole
        .find(&begin)
        .unwrap_or_else(|| panic!("{file} has no part {name}"))
        + begin.len();
    let to = from + whole[from..].find(end).unwrap();
    if std::env::var_os("NVOCI_BLESS").is_some() {
        std::fs::write(&path, format!("{}{text}{}", &whole[..from], &whole[to..])).unwrap();
    } else {
        assert_eq!(
            &whole[from..to],
            text,
            "{file}: NVOCI_BLESS=1 cargo test documents"
        );
    }
}

/// A cell of a table; it may hold no bar.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn error_codes() {
    let mut text = "| code | exit | meaning | fix |\n|---|---|---|---|\n".to_owned();
    for code in Code::ALL {
        // A warning, and what only a pod's events hold: no program exits with them.
        let exits = code.number() < 8000 && *code != Code::MemoryLimit;
        let status = if exits {
            code.class().status().to_string()
        } else {
            "-".to_owned()
        };
        let _ = writeln!(
            text,
            "| {code} | {status} | {} | {} |",
            cell(code.summary().trim()),
            cell(code.default_fix())
        );
    }
    part("docs/error-codes.md", "codes", &text);
}

#[test]
fn checks_of_the_doctor() {
    let mut text = "| code | name | meaning |\n|---|---|---|\n".to_owned();
    for check in all_checks() {
        let _ = writeln!(text, "| {check} | {} | {} |", check.name, cell(check.summary));
    }
    part("docs/error-codes.md", "checks", &text);
}

#[test]
fn configuration_keys() {
    let mut text = "| key | default | meaning |\n|---|---|---|\n".to_owned();
    for [key, default, what] in config::rows() {
        let _ = writeln!(text, "| `{key}` | `{default}` | {} |", cell(&what));
    }
    part("docs/configuration.md", "keys", &text);
}

#[test]
fn keys_of_the_vendor() {
    let mut text = "| key of the toolkit | here |\n|---|---|\n".to_owned();
    for (key, effect) in config::vendor_rows() {
        let _ = writeln!(text, "| `{key}` | {} |", cell(&effect));
    }
    part("docs/migration.md", "keys", &text);
}
