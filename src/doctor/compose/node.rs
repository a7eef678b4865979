//! A place in a Compose file: its value, and how one got there.

use crate::cdi::tree::Tree;
use crate::doctor::Finding;

/// A value with its path.
#[derive(Clone)]
pub(super) struct Node<'a> {
    tree: &'a Tree,
    path: Vec<&'a str>,
    text: &'a str,
}

impl<'a> Node<'a> {
    /// The whole document; `text` is what it was read from.
    pub(super) fn root(tree: &'a Tree, text: &'a str) -> Self {
        Self {
            tree,
            path: Vec::new(),
            text,
        }
    }

    fn at(&self, key: &'a str, tree: &'a Tree) -> Self {
        let mut path = self.path.clone();
        path.push(key);
        Self { tree, path, ..*self }
    }

    /// What a mapping has under `key`, itself or by a merge key (`<<`).
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let (name, tree) = find(self.tree, key)?;
        (!tree.is_null()).then(|| self.at(name, tree))
    }

    /// Several keys deep.
    pub(super) fn path(&self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self.clone(), |node, key| node.get(key))
    }

    /// The entries of a mapping, merged ones left out.
    pub(super) fn entries(&self) -> Vec<(&'a str, Self)> {
        match self.tree {
            Tree::Map(entries) => entries
                .iter()
                .filter(|(key, _)| key != "<<")
                .map(|(key, tree)| (key.as_str(), self.at(key, tree)))
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
                    text: self.text,
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

    /// `finding` with this place as its evidence.
    pub(super) fn seen(&self, finding: Finding) -> Finding {
        let path = self.path.join(".");
        finding.evidence(match self.line() {
            Some(line) => format!("line {line}: {path}"),
            None => path,
        })
    }

    /// `finding` with the place of `key` as its evidence, else with this one.
    pub(super) fn seen_at(&self, key: &str, finding: Finding) -> Finding {
        match self.get(key) {
            Some(node) => node.seen(finding),
            None => self.seen(finding),
        }
    }

    /// The line of its key: the keys of the path are looked for one below the other, each indented further. `None` where
    /// the file is written in another way (flow style, merge keys).
    fn line(&self) -> Option<usize> {
        let mut lines = self.text.lines().enumerate();
        let mut indent = None;
        let mut found = None;
        for key in &self.path {
            let (number, at) = lines.by_ref().find_map(|(number, line)| {
                let bare = line.trim_start_matches([' ', '-']);
                let at = line.len() - bare.len();
                let name = bare.trim_start_matches(['"', '\'']).strip_prefix(key)?;
                let name = name.trim_start_matches(['"', '\'']);
                (indent.is_none_or(|i| at > i) && name.trim_start().starts_with(':'))
                    .then_some((number + 1, at))
            })?;
            indent = Some(at);
            found = Some(number);
        }
        found
    }
}

/// The entry of a mapping; those of merge keys come after its own.
fn find<'a>(tree: &'a Tree, key: &str) -> Option<(&'a str, &'a Tree)> {
    let Tree::Map(entries) = tree else { return None };
    let own = entries.iter().find(|(k, _)| k == key);
    own.map(|(k, t)| (k.as_str(), t)).or_else(|| {
        let merged = entries.iter().filter(|(k, _)| k == "<<");
        merged.into_iter().find_map(|(_, t)| match t {
            Tree::List(all) => all.iter().find_map(|t| find(t, key)),
            t => find(t, key),
        })
    })
}
