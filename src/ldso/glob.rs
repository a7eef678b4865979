//! File name patterns as glob(3) expands them, inside a root and within a budget.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::current::Time;
use crate::sys::root::Root;

/// Directories that may be listed for all patterns of one configuration.
const MAX_LISTED: usize = 32;
/// Names in one of them.
const MAX_NAMES: usize = 4096;
/// Matches of one pattern.
const MAX_MATCHES: usize = 1024;

/// What may still be spent on patterns.
#[derive(Debug)]
pub struct Budget {
    listings: usize,
    spent: bool,
    newest: Time,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            listings: MAX_LISTED,
            spent: false,
            newest: Time::default(),
        }
    }
}

impl Budget {
    /// Whether something was left out for lack of budget.
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    /// When the newest of the listed directories was changed.
    pub fn newest(&self) -> Time {
        self.newest
    }
}

/// The paths that match an absolute pattern, in byte order. What follows the last wildcard need not exist.
pub fn expand(root: &Root, pattern: &Path, budget: &mut Budget) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.as_os_str().as_bytes().split(|&b| b == b'/') {
        if part.is_empty() {
            continue;
        }
        if !part.iter().any(|b| b"*?[\\".contains(b)) {
            for path in &mut found {
                path.push(OsStr::from_bytes(part));
            }
            continue;
        }
        let mut next = Vec::new();
        for dir in &found {
            next.extend(matching(root, dir, part, budget));
        }
        next.truncate(MAX_MATCHES);
        found = next;
    }
    found
}

/// The names in `dir` that match, in byte order.
fn matching(root: &Root, dir: &Path, pattern: &[u8], budget: &mut Budget) -> Vec<PathBuf> {
    let Some(left) = budget.listings.checked_sub(1) else {
        budget.spent = true;
        return Vec::new();
    };
    budget.listings = left;
    let mut names = Vec::new();
    let listed = root.resolve(dir).and_then(|node| {
        budget.newest.note(node.stat());
        node.visit(MAX_NAMES, |name, _| {
            let name = name.to_bytes();
            if matches(pattern, name) {
                names.push(dir.join(OsStr::from_bytes(name)));
            }
        })
    });
    budget.spent |= listed.is_err_and(|e| e.raw_os_error() == Some(libc::EFBIG));
    names.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    names
}

/// Whether a name matches a pattern of `*`, `?`, `[...]` and `\`. A leading dot must be spelled out.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    let (mut p, mut n) = (pattern, name);
    // Where to go on when a star has to take one byte more; one such place is enough.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(rest) = p.strip_prefix(b"*") {
            p = rest;
            retry = Some((p, n));
            continue;
        }
        if let Some((&byte, after)) = n.split_first()
            && let Some(rest) = one(p, byte)
        {
            (p, n) = (rest, after);
            continue;
        }
        if p.is_empty() && n.is_empty() {
            return true;
        }
        match retry {
            Some((star, from)) if !from.is_empty() => {
                (p, n) = (star, &from[1..]);
                retry = Some((p, n));
            }
            _ => return false,
        }
    }
}

/// What is left of a pattern after its first element took `byte`; `None` if it does not take it.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (&first, rest) = pattern.split_first()?;
    match first {
        b'?' => Some(rest),
        b'[' => match set(rest, byte) {
            Some((after, hit)) => hit.then_some(after),
            None => (byte == b'[').then_some(rest),
        },
        b'\\' => {
            let (&literal, rest) = rest.split_first()?;
            (literal == byte).then_some(rest)
        }
        _ => (first == byte).then_some(rest),
    }
}

/// A bracket expression after its `[`: what follows it, and whether it takes `byte`; `None` if it
/// never closes (then `[` is itself).
fn set(text: &[u8], byte: u8) -> Option<(&[u8], bool)> {
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let start = at;
    let mut hit = false;
    loop {
        let low = *text.get(at)?;
        if low == b']' && at > start {
            return Some((&text[at + 1..], hit != negated));
        }
        match (text.get(at + 1), text.get(at + 2)) {
            (Some(b'-'), Some(&high)) if high != b']' => {
                hit |= (low..=high).contains(&byte);
                at += 3;
            }
            _ => {
                hit |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, wanted) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".a.conf", false),
            (".*.conf", ".a.conf", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[ab", "[ab", true),
            ("\\*x", "*x", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("*", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                wanted,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_hostile_pattern_is_linear_enough() {
        let pattern = b"*a".repeat(2000);
        assert!(!matches(&pattern, &b"a".repeat(1999)));
    }

    #[test]
    fn wildcards_in_many_directories_spend_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..40 {
            std::fs::create_dir_all(dir.path().join(format!("a/{i}"))).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let mut budget = Budget::default();
        expand(&root, Path::new("/*/*/*/*"), &mut budget);
        assert!(budget.is_spent());
    }
}
