//! The file of a conda environment: `environment.yml` with channels, conda's and pip's packages.
//!
//! Facts: docs.conda.io, "Creating an environment file manually"; mamba and micromamba read the
//! same form.

use super::requirements::Finder;
use crate::cdi::tree::{Tree, Unreadable};
use crate::sys::budget::{Budget, Exceeded};

/// The contents of a file.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// As arguments of conda: the channels and the specifications.
    pub(super) conda: Vec<String>,
    /// As arguments of pip.
    pub(super) pip: Vec<String>,
}

/// The file that a command of conda names.
pub(super) fn named<'a>(words: &[&'a str]) -> Option<&'a str> {
    words.iter().enumerate().find_map(|(at, word)| match *word {
        "-f" | "--file" => words.get(at + 1).copied(),
        word => word
            .strip_prefix("--file=")
            .or_else(|| word.strip_prefix("-f").filter(|file| !file.is_empty())),
    })
}

/// Reads the file `name` of the image; `None` if the context does not have it, or it is no
/// environment.
pub(super) fn read(name: &str, files: &Finder<'_>, budget: &Budget) -> Result<Option<Environment>, Exceeded> {
    let Some((_, text)) = files.text(name)? else {
        return Ok(None);
    };
    if !name.ends_with(".yml") && !name.ends_with(".yaml") {
        let mut all = Environment::default();
        let specs = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with(['#', '@']));
        for spec in specs {
            budget.keep((size_of::<String>() + spec.len()) as u64)?;
            all.conda.push(spec.to_owned());
        }
        return Ok(Some(all));
    }
    match Tree::yaml(&text, budget) {
        Ok(tree) => Ok(Environment::of(&tree)),
        Err(Unreadable::Exceeded(exceeded)) => Err(exceeded),
        Err(Unreadable::Broken(_)) => Ok(None),
    }
}

impl Environment {
    fn of(tree: &Tree) -> Option<Self> {
        let mut all = Self::default();
        for channel in items(member(tree, "channels")) {
            all.conda.extend(["-c".to_owned(), text(channel)?.to_owned()]);
        }
        let dependencies = member(tree, "dependencies")?;
        for item in items(Some(dependencies)) {
            if let Some(spec) = text(item) {
                all.conda.push(spec.to_owned());
            } else {
                let lines = items(member(item, "pip")).iter().filter_map(text);
                // An option and its value share a line; a requirement may have spaces.
                all.pip.extend(lines.flat_map(|line| {
                    if line.starts_with('-') {
                        line.split_whitespace().map(str::to_owned).collect()
                    } else {
                        Vec::from_iter(super::requirements::requirement(line))
                    }
                }));
            }
        }
        Some(all)
    }
}

fn member<'a>(tree: &'a Tree, key: &str) -> Option<&'a Tree> {
    let Tree::Map(map) = tree else { return None };
    map.all().find(|(name, _)| &**name == key).map(|(_, tree)| tree)
}

fn items(tree: Option<&Tree>) -> &[Tree] {
    match tree {
        Some(Tree::List(items)) => items,
        _ => &[],
    }
}

fn text(tree: &Tree) -> Option<&str> {
    match tree {
        Tree::Plain(text) | Tree::Text(text) => Some(text),
        _ => None,
    }
}
