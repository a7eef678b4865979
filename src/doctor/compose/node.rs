//! A node of a Compose file: its value and its path.

use std::collections::HashMap;

use crate::cdi::tree::Tree;
use crate::doctor::Finding;
use crate::error::shown;

/// The lines that have a key; indexed once for all findings.
pub(super) struct Lines<'a>(HashMap<&'a str, Vec<Place>>);

/// The position of a key.
#[derive(Clone, Copy)]
struct Place {
    /// From 1 on.
    line: usize,
    indent: usize,
}

impl<'a> Lines<'a> {
    /// Indexes the keys of `text`.
    pub(super) fn of(text: &'a str) -> Self {
        let mut all: HashMap<&str, Vec<Place>> = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let bare = line.trim_start_matches([' ', '-']);
            let Some((key, _)) = bare.split_once(':') else {
                continue;
            };
            let key = key.trim_end().trim_matches(['"', '\'']);
            all.entry(key).or_default().push(Place {
                line: number + 1,
                indent: line.len() - bare.len(),
            });
        }
        Self(all)
    }

    /// The first line behind `after` with a key that is indented further.
    fn next(&self, key: &str, after: Option<Place>) -> Option<Place> {
        /// The most keys of one name that are checked, for files with endless repetition.
        const MOST: usize = 256;
        let all = self.0.get(key)?;
        let (line, indent) = after.map_or((0, None), |place| (place.line, Some(place.indent)));
        let behind = all.partition_point(|place| place.line <= line);
        let mut candidates = all[behind..].iter().take(MOST);
        candidates
            .find(|place| indent.is_none_or(|i| place.indent > i))
            .copied()
    }
}

/// A value with its path.
#[derive(Clone)]
pub(super) struct Node<'a> {
    tree: &'a Tree,
    path: Vec<&'a str>,
    lines: &'a Lines<'a>,
}

impl<'a> Node<'a> {
    /// The whole document; `lines` are those of its text.
    pub(super) fn root(tree: &'a Tree, lines: &'a Lines<'a>) -> Self {
        Self {
            tree,
            path: Vec::new(),
            lines,
        }
    }

    fn at(&self, key: &'a str, tree: &'a Tree) -> Self {
        let mut path = self.path.clone();
        path.push(key);
        Self { tree, path, ..*self }
    }

    /// A mapping's value of `key`, own or by a merge key (`<<`).
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let Tree::Map(map) = self.tree else { return None };
        let (name, tree) = map.all().find(|(name, _)| &**name == key)?;
        (!tree.is_null()).then(|| self.at(name, tree))
    }

    /// The value below several keys.
    pub(super) fn path(&self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self.clone(), |node, key| node.get(key))
    }

    /// The entries of a mapping, without merged ones.
    pub(super) fn entries(&self) -> Vec<(&'a str, Self)> {
        match self.tree {
            Tree::Map(map) => map
                .own
                .iter()
                .filter(|(key, _)| &**key != "<<")
                .map(|(key, tree)| (&**key, self.at(key, tree)))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Vec<Self> {
        match self.tree {
            Tree::List(items) => items
                .iter()
                .map(|tree| Self {
                    tree,
                    path: self.path.clone(),
                    lines: self.lines,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// A scalar.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self.tree {
            Tree::Plain(text) | Tree::Text(text) => Some(text),
            _ => None,
        }
    }

    /// `finding` with this node as its evidence.
    pub(super) fn seen(&self, finding: Finding) -> Finding {
        let keys: Vec<&str> = self.path.iter().map(|key| shown(key)).collect();
        let path = keys.join(".");
        finding.evidence(match self.line() {
            Some(line) => format!("line {line}: {path}"),
            None => path,
        })
    }

    /// `finding` with the line of `key` as its evidence, else with this node.
    pub(super) fn seen_at(&self, key: &str, finding: Finding) -> Finding {
        match self.get(key) {
            Some(node) => node.seen(finding),
            None => self.seen(finding),
        }
    }

    /// The line of its key: each key of the path is searched below the one before, with more
    /// indentation. `None` if the file has another style (flow style, merge keys).
    fn line(&self) -> Option<usize> {
        let mut found = None;
        for key in &self.path {
            found = Some(self.lines.next(key, found)?);
        }
        found.map(|place| place.line)
    }
}
