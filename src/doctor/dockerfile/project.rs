//! Commands that install the packages of a project: `uv sync`, `poetry install`, `pip install .`.
//!
//! A lock file names the build of PyTorch that Linux gets. Without one, `pyproject.toml` names the
//! index. Of a lock only PyTorch is judged: it lists the packages of all extras and groups, and
//! the command chooses among them. Facts: docs.astral.sh/uv/concepts/projects/sync and
//! docs.astral.sh/uv/guides/integration/pytorch; python-poetry.org/docs/dependency-specification.

use std::rc::Rc;

use toml_edit::{Document, Item};

use super::parse::Line;
use super::requirements::{Finder, Word, is_for_linux, lines};
use super::wheels::tag_of;
use crate::sys::budget::Exceeded;

/// A program with projects: its words for an installation, and the files that name the packages,
/// the first one that the image has.
struct Manager {
    program: &'static str,
    verbs: &'static [&'static str],
    files: &'static [&'static str],
}

const MANAGERS: &[Manager] = &[
    Manager {
        program: "uv",
        verbs: &["sync"],
        files: &["uv.lock", "pyproject.toml"],
    },
    Manager {
        program: "poetry",
        verbs: &["install", "sync", "update"],
        files: &["poetry.lock"],
    },
    Manager {
        program: "pdm",
        verbs: &["install", "sync"],
        files: &["pdm.lock"],
    },
    Manager {
        program: "pipenv",
        verbs: &["install", "sync"],
        files: &[],
    },
    Manager {
        program: "pixi",
        verbs: &["install"],
        files: &[],
    },
    Manager {
        program: "conda-lock",
        verbs: &["install"],
        files: &[],
    },
    Manager {
        program: "rye",
        verbs: &["sync"],
        files: &[],
    },
];

/// The lines of a `pyproject.toml` in which a package's own line is searched.
const MAX_LINES: usize = 512;

/// The packages of a project.
#[derive(Debug)]
pub(super) enum Project {
    /// They are known as far as they are judged.
    Known(Vec<Listed>),
    /// They are not judged; this command or file has them.
    Unjudged(String),
}

/// A package of a project.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) word: Word,
    /// The index that the project names for it.
    pub(super) index: Option<String>,
}

/// The packages that the command `name` with `rest` installs for a project; `None` if it is no such
/// command.
pub(super) fn of(name: &str, rest: &[&str], files: &Finder<'_>) -> Result<Option<Project>, Exceeded> {
    let verb = rest.iter().find(|word| !word.starts_with('-'));
    let Some(manager) = MANAGERS
        .iter()
        .find(|m| m.program == name && verb.is_some_and(|verb| m.verbs.contains(verb)))
    else {
        return Ok(None);
    };
    let unjudged = Project::Unjudged(format!("{name} {}", verb.unwrap_or(&"")));
    for file in manager.files {
        let Some((origin, text)) = files.text(file)? else {
            continue;
        };
        let listed = if file.ends_with(".lock") {
            locked(&origin, &text)
        } else {
            files.charge_tree(&text)?;
            declared(&origin, &text)
        };
        return Ok(Some(listed.map_or(unjudged, Project::Known)));
    }
    Ok(Some(unjudged))
}

/// The packages of the project in the directory `dir` of the image, which pip installs; `None` if
/// its `pyproject.toml` does not name them.
pub(super) fn of_directory(dir: &str, files: &Finder<'_>) -> Result<Option<Vec<Listed>>, Exceeded> {
    let Some((origin, text)) = files.text(&format!("{dir}/pyproject.toml"))? else {
        return Ok(None);
    };
    files.charge_tree(&text)?;
    // pip does not read the indices of uv.
    let listed = declared(&origin, &text).map(|mut all| {
        for listed in &mut all {
            listed.index = None;
        }
        all
    });
    Ok(listed)
}

/// A package of a lock.
#[derive(Default)]
struct Locked<'a> {
    name: &'a str,
    version: &'a str,
    index: &'a str,
    /// Whether some of its markers are for Linux; `None` without markers.
    for_linux: Option<bool>,
    number: usize,
}

/// The build of PyTorch in a lock of uv, poetry or pdm; `None` if there are several, of which an
/// extra or a marker chooses.
fn locked(origin: &Rc<str>, text: &str) -> Option<Vec<Listed>> {
    let mut all: Vec<Locked<'_>> = Vec::new();
    let mut in_markers = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line == "[[package]]" {
            in_markers = false;
            all.push(Locked {
                number: at + 1,
                ..Locked::default()
            });
            continue;
        }
        let Some(last) = all.last_mut().filter(|p| p.name.is_empty() || p.name == "torch") else {
            continue;
        };
        let value = |key: &str| {
            let rest = line.strip_prefix(key)?.trim_start().strip_prefix('=')?;
            Some(rest.trim().trim_matches('"'))
        };
        if let Some(name) = value("name") {
            // `[package.source]` has a `name` too.
            last.name = if last.name.is_empty() { name } else { last.name };
        } else if let Some(version) = value("version").filter(|_| last.version.is_empty()) {
            last.version = version;
            last.number = at + 1;
        } else if let Some(url) = value("url").filter(|url| url.starts_with("http")) {
            last.index = url;
        } else if let Some(source) = value("source") {
            last.index = source.split('"').nth(1).unwrap_or_default();
        } else if line.starts_with("resolution-markers") || in_markers {
            in_markers = !line.contains(']');
            for marker in line.split('"').skip(1).step_by(2) {
                *last.for_linux.get_or_insert(false) |= is_for_linux(marker);
            }
        }
    }
    let torch = all
        .iter()
        .filter(|p| p.name == "torch" && p.for_linux != Some(false));
    let mut listed: Vec<Listed> = Vec::new();
    for package in torch {
        let local = match tag_of(package.index) {
            Some(tag) if !package.version.contains('+') => format!("+{tag}"),
            _ => String::new(),
        };
        let word = format!("torch=={}{local}", package.version);
        if listed.iter().any(|other| other.word.text != word) {
            return None;
        }
        listed.push(Listed {
            word: Word {
                line: Some(Line::of_file(origin, package.number, &word)),
                text: word,
            },
            index: None,
        });
    }
    listed.truncate(1);
    Some(listed)
}

/// The packages that a `pyproject.toml` names; `None` if something else names them, or chooses an
/// index of PyTorch.
fn declared(origin: &Rc<str>, text: &str) -> Option<Vec<Listed>> {
    let document = Document::parse(text).ok()?;
    let project = document.get("project")?;
    let dynamic = project.get("dynamic").and_then(Item::as_array);
    if dynamic.is_some_and(|all| all.iter().any(|v| v.as_str() == Some("dependencies"))) {
        return None;
    }
    let uv = document.get("tool").and_then(|tool| tool.get("uv"));
    let source = uv.and_then(|uv| uv.get("sources")?.get("torch"));
    let indices = uv
        .and_then(|uv| uv.get("index"))
        .and_then(Item::as_array_of_tables);
    let mut all = indices.into_iter().flat_map(|all| all.iter());
    let mut index = None;
    if let Some(source) = source {
        // A list has a marker or an extra for each index.
        let name = source.as_table_like()?.get("index")?.as_str()?;
        let table = all.find(|t| t.get("name").and_then(Item::as_str) == Some(name))?;
        index = Some(table.get("url")?.as_str()?.to_owned());
    }
    let dependencies = project.get("dependencies").and_then(Item::as_array);
    let numbered = lines(text);
    let mut listed = Vec::new();
    for text in dependencies.into_iter().flat_map(|all| all.iter()) {
        let Some(text) = text.as_str().and_then(super::requirements::requirement) else {
            continue;
        };
        let is_torch = text
            .strip_prefix("torch")
            .is_some_and(|rest| !rest.starts_with(char::is_alphabetic));
        let name = text.split(['=', '<', '>', '~', '[']).next().unwrap_or(&text);
        // The lines of a long file are not searched for each of many packages.
        let mut near = numbered.iter().take(MAX_LINES);
        let number = near
            .find(|(_, line)| line.contains(name))
            .map_or(1, |(number, _)| *number);
        listed.push(Listed {
            index: index.clone().filter(|_| is_torch),
            word: Word {
                line: Some(Line::of_file(origin, number, &text)),
                text,
            },
        });
    }
    Some(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(listed: Option<Vec<Listed>>) -> Option<Vec<String>> {
        listed.map(|all| all.into_iter().map(|l| l.word.text).collect())
    }

    #[test]
    fn a_lock_has_one_build_for_linux() {
        let origin: Rc<str> = Rc::from("uv.lock");
        let of = |text: &str| words(locked(&origin, text));
        let package = |version: &str, rest: &str| {
            format!("[[package]]\nname = \"torch\"\nversion = \"{version}\"\n{rest}\n")
        };
        let cpu = "source = { registry = \"https://download.pytorch.org/whl/cpu\" }";
        let darwin = format!("{cpu}\nresolution-markers = [\n    \"sys_platform == 'darwin'\",\n]");
        let one = |text: &str| Some(vec![text.to_owned()]);
        assert_eq!(of(&package("2.7.1", "")), one("torch==2.7.1"));
        assert_eq!(of(&package("2.7.1+cpu", cpu)), one("torch==2.7.1+cpu"));
        assert_eq!(of(&package("2.7.1", cpu)), one("torch==2.7.1+cpu"));
        let two = package("2.7.1", &darwin) + &package("2.7.1+cu128", "");
        assert_eq!(of(&two), one("torch==2.7.1+cu128"));
        let extras = package("2.7.1+cpu", cpu) + &package("2.7.1+cu128", "");
        assert_eq!(of(&extras), None);
        assert_eq!(
            of("[[package]]\nname = \"torchvision\"\nversion = \"1\"\n"),
            Some(vec![])
        );
        let poetry = package(
            "2.1.2",
            "[package.source]\ntype = \"legacy\"\nurl = \"https://download.pytorch.org/whl/cu118\"\nreference = \"x\"",
        );
        assert_eq!(of(&poetry), one("torch==2.1.2+cu118"));
    }

    #[test]
    fn a_project_names_its_index() {
        let origin: Rc<str> = Rc::from("pyproject.toml");
        let of = |text: &str| {
            declared(&origin, text).map(|all| {
                all.into_iter()
                    .map(|l| (l.word.text, l.index))
                    .collect::<Vec<_>>()
            })
        };
        let project = "[project]\ndependencies = [\"torch>=2.6\", \"numpy ; sys_platform == 'win32'\"]\n";
        let index = "[[tool.uv.index]]\nname = \"c\"\nurl = \"https://x/whl/cpu\"\n";
        assert_eq!(of(project), Some(vec![("torch>=2.6".to_owned(), None)]));
        let sources = format!("{project}{index}[tool.uv.sources]\ntorch = {{ index = \"c\" }}\n");
        assert_eq!(
            of(&sources),
            Some(vec![(
                "torch>=2.6".to_owned(),
                Some("https://x/whl/cpu".to_owned())
            )])
        );
        let list =
            format!("{project}{index}[tool.uv.sources]\ntorch = [{{ index = \"c\", marker = \"x\" }}]\n");
        assert_eq!(of(&list), None);
        assert_eq!(of("[project]\ndynamic = [\"dependencies\"]\n"), None);
        assert_eq!(of("[tool.poetry]\n"), None);
        assert_eq!(of("="), None);
    }
}
