//! Imports between the rooms of `src/` (its top-level modules) point downward only, and no two
//! modules of a room import each other.
//!
//! The test reads `use` declarations and paths that begin with `crate`, `self` or `super`.
//! Comments, strings and test code do not count. A name that a parent module re-exports counts as
//! its own.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The rooms, lowest first. A room imports only rooms of the rows above its own. The libraries in
/// `crates/` are below them all: cargo lets none of them import nvoci.
const ORDER: &[&[&str]] = &[
    &["budget", "capabilities", "cdi_name", "vocabulary"],
    &["error"],
    &["sys"],
    &["compat", "config", "containers", "findings", "oci"],
    &["engine", "host", "request"],
    &["plan", "preflight"],
    &["apply", "cdi"],
    &["doctor"],
    &["cmd"],
];

/// Parts of a room that must not import a room below it, though other parts do: the way to a
/// container.
const NEVER: &[(&str, &str)] = &[
    ("cmd::hook", "doctor"),
    ("cmd::inject", "doctor"),
    ("cmd::runtime", "doctor"),
];

/// An import: its module, line and path.
struct Import {
    by: Vec<String>,
    line: usize,
    path: Vec<String>,
}

#[test]
fn rooms_import_rooms_below_them_only() {
    let mut wrong = Vec::new();
    let level = |room: &str| ORDER.iter().position(|row| row.contains(&room));
    let tree = Tree::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path());
    for room in tree.modules.iter().filter(|m| m.len() == 1) {
        if level(&room[0]).is_none() {
            wrong.push(format!("src/{}: it has no row in ORDER", room[0]));
        }
    }
    let mut crossings = 0;
    for import in &tree.imports {
        let (Some(from), Some(to)) = (import.by.first(), import.path.first()) else {
            continue;
        };
        let Some(target) = level(to).filter(|_| from != to) else {
            continue;
        };
        crossings += 1;
        let by = import.by.join("::");
        let never = NEVER
            .iter()
            .any(|(part, room)| (by == *part || by.starts_with(&format!("{part}::"))) && room == to);
        if never || level(from).is_some_and(|own| own <= target) {
            wrong.push(format!(
                "{by}, line {}: it imports {}, which is not below it",
                import.line,
                import.path.join("::")
            ));
        }
    }
    assert!(crossings > 500, "only {crossings} imports were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_modules_import_each_other() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in [
        "src",
        "crates/device-cgroup/src",
        "crates/inroot/src",
        "crates/ldso/src",
    ] {
        let circles = Tree::read(&top.join(dir)).circles();
        assert!(circles.is_empty(), "{dir}: {circles:?}");
    }
}

/// The tables of docs/how-it-works.md name a file and one of its functions or types in each row.
#[test]
fn the_documented_paths_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(top.join("docs/how-it-works.md")).unwrap();
    let mut stops = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, number, place, ..] = cells[..] else {
            continue;
        };
        let (Ok(number), Some((file, name))) = (number.parse::<usize>(), place.split_once("`, `")) else {
            continue;
        };
        let (file, name) = (file.trim_matches('`'), name.trim_matches('`'));
        let code = std::fs::read_to_string(top.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let defined = ["fn ", "struct "].iter().any(|kind| {
            let definition = format!("{kind}{name}");
            let mut behind = code
                .match_indices(&definition)
                .map(|(at, _)| &code[at + definition.len()..]);
            behind.any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        });
        assert!(defined, "{file} has no {name}");
        stops.push(number);
    }
    // Two paths, each of at most ten stops.
    let starts = stops.iter().filter(|n| **n == 1).count();
    assert!(starts == 2 && stops.iter().all(|n| *n <= 10), "{stops:?}");
}

#[test]
fn imports_are_read() {
    let text = r##"
//! use crate::doc;
use crate::{a::{self, b as c}, d}; /* crate::block */
use super::e::*;
const S: &str = "crate::text \" crate::more"; const R: &str = r#"crate::raw"#; const C: char = '"';
fn f<'a>(x: &'a crate::g::H) -> $crate::i { self::j::k() } // crate::line
mod inner { use super::l; }
#[cfg(test)]
use crate::only_a_test;
#[cfg(test)]
#[allow(x)]
mod tests { use crate::tested; fn g() {} }
#[cfg(test)]
mod elsewhere;
pub(in crate::m) fn z() {}
"##;
    let file = File::read(text, &["x".to_owned(), "y".to_owned()]);
    let found: Vec<String> = file.imports.iter().map(|i| i.path.join("::")).collect();
    assert_eq!(
        found,
        [
            "a",
            "a::b",
            "d",
            "x::e::*",
            "g::H",
            "i",
            "x::y::j::k",
            "x::y::l",
            "m"
        ]
    );
    assert_eq!(file.of_tests, ["elsewhere"]);
}

/// The modules below one directory, and their imports.
struct Tree {
    modules: BTreeSet<Vec<String>>,
    imports: Vec<Import>,
}

impl Tree {
    fn read(dir: &Path) -> Self {
        let mut tree = Self {
            modules: BTreeSet::new(),
            imports: Vec::new(),
        };
        tree.file(&dir.join("lib.rs"), dir, &[]);
        assert!(!tree.modules.is_empty(), "{}: no module was found", dir.display());
        tree
    }

    /// Reads one file, and the files of its modules, which are below `dir`.
    fn file(&mut self, file: &Path, dir: &Path, module: &[String]) {
        let text = std::fs::read_to_string(file).unwrap();
        let read = File::read(&text, module);
        self.imports.extend(read.imports);
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        let names: BTreeSet<String> = entries
            .filter_map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let name = name.strip_suffix(".rs").unwrap_or(&name);
                (!matches!(name, "lib" | "main" | "mod")).then(|| name.to_owned())
            })
            .collect();
        for name in names.into_iter().filter(|name| !read.of_tests.contains(name)) {
            let below = dir.join(&name);
            let files = [dir.join(format!("{name}.rs")), below.join("mod.rs")];
            let Some(file) = files.iter().find(|file| file.exists()) else {
                continue;
            };
            let child = [module, &[name]].concat();
            if self.modules.insert(child.clone()) {
                self.file(file, &below, &child);
            }
        }
    }

    /// The sets of modules that can reach each other. A module reaches its imports and its
    /// submodules. A submodule that imports from its parent makes no circle.
    fn circles(&self) -> Vec<Vec<String>> {
        let mut arrows: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
        let known = |path: &[String]| self.modules.get(path).map(Vec::as_slice);
        for module in &self.modules {
            if let Some(parent) = known(&module[..module.len() - 1]) {
                arrows.entry(parent).or_default().insert(module);
            }
        }
        for import in &self.imports {
            let by = (1..=import.by.len()).rev().find_map(|n| known(&import.by[..n]));
            let of = (1..=import.path.len())
                .rev()
                .find_map(|n| known(&import.path[..n]));
            if let (Some(by), Some(of)) = (by, of)
                && !by.starts_with(of)
            {
                arrows.entry(by).or_default().insert(of);
            }
        }
        let reach = |from: &[String]| {
            let mut seen = BTreeSet::new();
            let mut todo = vec![from.to_vec()];
            while let Some(at) = todo.pop() {
                for next in arrows.get(at.as_slice()).into_iter().flatten() {
                    if seen.insert(next.to_vec()) {
                        todo.push(next.to_vec());
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> =
            self.modules.iter().map(|m| (m, reach(m))).collect();
        let circles: BTreeSet<Vec<String>> = reached
            .iter()
            .filter(|(module, all)| all.contains(**module))
            .map(|(module, all)| {
                let back = |other: &&Vec<String>| reached[other].contains(*module);
                all.iter().filter(back).map(|m| m.join("::")).collect()
            })
            .collect();
        circles.into_iter().collect()
    }
}

/// The imports of one file.
struct File {
    imports: Vec<Import>,
    /// Its modules in other files that are compiled only for tests.
    of_tests: Vec<String>,
}

impl File {
    fn read(text: &str, module: &[String]) -> Self {
        let mut file = Self {
            imports: Vec::new(),
            of_tests: Vec::new(),
        };
        let tokens = tokens(text);
        let word = |i: usize| tokens.get(i).map_or("", |(_, word)| word.as_str());
        // The module that each open brace began, if any.
        let mut braces: Vec<Option<String>> = Vec::new();
        let mut i = 0;
        while i < tokens.len() {
            if (0..7).all(|n| word(i + n) == ["#", "[", "cfg", "(", "test", ")", "]"][n]) {
                i = file.skip_item(&word, i + 7, tokens.len());
                continue;
            }
            let mut here = module.to_vec();
            here.extend(braces.iter().flatten().cloned());
            match word(i) {
                "{" => {
                    let names_module = i >= 2 && word(i - 2) == "mod";
                    braces.push(names_module.then(|| word(i - 1).to_owned()));
                }
                "}" => {
                    braces.pop();
                }
                "use" => {
                    let mut paths = Vec::new();
                    let end = tree_of(&word, i + 1, &[], &mut paths);
                    let line = tokens[i].0;
                    file.imports
                        .extend(paths.iter().filter_map(|p| import(&here, p, line)));
                    i = end;
                    continue;
                }
                "crate" | "self" | "super" if word(i + 1) == "::" => {
                    let mut path = vec![word(i).to_owned()];
                    let line = tokens[i].0;
                    while word(i + 1) == "::" && is_word(word(i + 2)) {
                        path.push(word(i + 2).to_owned());
                        i += 2;
                    }
                    file.imports.extend(import(&here, &path, line));
                }
                _ => {}
            }
            i += 1;
        }
        file
    }

    /// The index behind the item that begins at `i`.
    fn skip_item<'w>(&mut self, word: &impl Fn(usize) -> &'w str, mut i: usize, end: usize) -> usize {
        let mut depth = 0_usize;
        while i < end {
            match word(i) {
                "mod" if depth == 0 && word(i + 2) == ";" => self.of_tests.push(word(i + 1).to_owned()),
                ";" if depth == 0 => return i + 1,
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 && word(i) == "}" {
                        return i + 1;
                    }
                }
                _ => {}
            }
            i += 1;
        }
        end
    }
}

/// Reads the use tree at `i`, below `prefix`; returns the index behind it.
fn tree_of<'w>(
    word: &impl Fn(usize) -> &'w str,
    mut i: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match word(i) {
            "{" => {
                i += 1;
                while !matches!(word(i), "}" | "") {
                    i = tree_of(word, i, &path, paths);
                    i += usize::from(word(i) == ",");
                }
                return i + 1;
            }
            "::" => i += 1,
            "self" if !path.is_empty() => i += 1,
            "as" => i += 2,
            name if is_word(name) || name == "*" => {
                path.push(name.to_owned());
                i += 1;
            }
            // The path of a list's end is the list's.
            _ => {
                paths.push(path);
                return i;
            }
        }
    }
}

/// The import of a path in the module `here`, from the crate's root on; `None` for another crate's.
fn import(here: &[String], path: &[String], line: usize) -> Option<Import> {
    let mut rest = path;
    let mut full = match rest.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => here.to_vec(),
        _ => return None,
    };
    while let Some(first) = rest.first() {
        match first.as_str() {
            "crate" | "self" => {}
            "super" => {
                full.pop();
            }
            _ => break,
        }
        rest = &rest[1..];
    }
    full.extend(rest.iter().cloned());
    (!rest.is_empty()).then(|| Import {
        by: here.to_vec(),
        line,
        path: full,
    })
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// The words, `::`s and other characters of a Rust text, each with its line; without comments,
/// strings and characters.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let find = |from: usize, end: &str| {
        let end: Vec<char> = end.chars().collect();
        let found = (from..chars.len()).find(|&i| chars[i..].starts_with(&end));
        found.map_or(chars.len(), |i| i + end.len())
    };
    let mut tokens = Vec::new();
    let (mut i, mut line, mut counted) = (0, 1, 0);
    while i < chars.len() {
        line += chars[counted..i].iter().filter(|c| **c == '\n').count();
        counted = i;
        let start = i;
        match (at(i), at(i + 1)) {
            ('/', '/') => i = find(i, "\n"),
            ('/', '*') => i = find(i + 2, "*/"),
            ('r', '"' | '#') if at(i + 1) == '"' || matches!(at(i + 2), '"' | '#') => {
                let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
                i = find(i + 2 + hashes, &format!("\"{}", "#".repeat(hashes)));
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += 1 + usize::from(at(i) == '\\');
                }
                i += 1;
            }
            // A character, not a lifetime.
            ('\'', '\\') => i = find(i + 3, "'"),
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (':', ':') => {
                tokens.push((line, "::".to_owned()));
                i += 2;
            }
            (c, _) if c.is_alphanumeric() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                tokens.push((line, chars[start..i].iter().collect()));
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push((line, c.to_string()));
                }
                i += 1;
            }
        }
    }
    tokens
}
