//! Expands file name patterns like `/etc/ld.so.conf.d/*.conf` as glob(3) does, inside a root and
//! within a budget.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::current::Time;
use inroot::root::Root;

/// The most directories that are listed for all patterns of one configuration.
const MAX_LISTED: usize = 32;
/// The most names in one of them.
const MAX_NAMES: usize = 4096;
/// The most matches of one pattern.
const MAX_MATCHES: usize = 1024;
/// The longest pattern, in bytes: no path is longer.
const MAX_PATTERN: usize = libc::PATH_MAX as usize;
/// The most paths from the patterns of one configuration, missing ones included.
const MAX_PATHS: usize = 1 << 14;
/// The most comparisons of a name's byte with a pattern's element, for all patterns of one
/// configuration.
const MAX_WORK: usize = 1 << 22;

/// The remaining budget for patterns. It depends on the input alone, so two runs find the same
/// files.
#[derive(Debug)]
pub struct Allowance {
    listings: usize,
    paths: usize,
    work: usize,
    spent: bool,
    newest: Time,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            listings: MAX_LISTED,
            paths: MAX_PATHS,
            work: MAX_WORK,
            spent: false,
            newest: Time::default(),
        }
    }
}

impl Allowance {
    /// Whether something was left out because the budget was spent.
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    /// The newest modification time of the listed directories.
    pub fn newest(&self) -> Time {
        self.newest
    }

    /// Takes `amount` from `rest`; `false` if less is left.
    fn take(rest: &mut usize, amount: usize, spent: &mut bool) -> bool {
        let after = rest.checked_sub(amount);
        *spent |= after.is_none();
        *rest = after.unwrap_or(0);
        after.is_some()
    }
}

/// The paths that match an absolute pattern, in byte order. Components after the last wildcard need
/// not exist.
pub fn expand(root: &Root, pattern: &Path, left: &mut Allowance) -> Vec<PathBuf> {
    let bytes = pattern.as_os_str().as_bytes();
    if bytes.len() > MAX_PATTERN || !Allowance::take(&mut left.paths, 1, &mut left.spent) {
        left.spent = true;
        return Vec::new();
    }
    let mut found = vec![PathBuf::from("/")];
    for part in bytes.split(|&b| b == b'/').filter(|part| !part.is_empty()) {
        if !part.iter().any(|b| b"*?[\\".contains(b)) {
            for path in &mut found {
                path.push(OsStr::from_bytes(part));
            }
            continue;
        }
        let compiled = Pattern::new(part);
        let mut next = Vec::new();
        for dir in &found {
            next.extend(matching(root, dir, &compiled, left));
        }
        next.truncate(MAX_MATCHES);
        found = next;
    }
    let room = left.paths;
    if !Allowance::take(&mut left.paths, found.len(), &mut left.spent) {
        found.truncate(room);
    }
    found
}

/// The names in `dir` that match, in byte order.
fn matching(root: &Root, dir: &Path, pattern: &Pattern, left: &mut Allowance) -> Vec<PathBuf> {
    if !Allowance::take(&mut left.listings, 1, &mut left.spent) {
        return Vec::new();
    }
    let mut names = Vec::new();
    let listed = root.resolve(dir).and_then(|node| {
        left.newest.note(node.stat());
        let work = &mut left.work;
        node.visit(MAX_NAMES, |name, _| {
            if pattern.matches(name.to_bytes(), work) {
                names.push(dir.join(OsStr::from_bytes(name.to_bytes())));
            }
        })
    });
    left.spent |= left.work == 0 || listed.is_err_and(|e| e.raw_os_error() == Some(libc::EFBIG));
    names.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    names
}

/// Whether a name matches a pattern of `*`, `?`, `[...]` and `\`. Only a literal dot matches a
/// leading dot.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    Pattern::new(pattern).matches(name, &mut MAX_WORK.clone())
}

/// One element of a pattern.
#[derive(Debug)]
enum Element {
    Any,
    Byte(u8),
    /// A bracket expression: one bit for each byte that it matches.
    Set([u64; 4]),
    Star,
}

impl Element {
    /// Whether it matches `byte`; never called for a star.
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Any => true,
            Self::Byte(own) => *own == byte,
            Self::Set(set) => set[usize::from(byte / 64)] & (1 << (byte % 64)) != 0,
            Self::Star => false,
        }
    }
}

/// A pattern of `*`, `?`, `[...]` and `\` for one name.
#[derive(Debug)]
struct Pattern {
    elements: Vec<Element>,
    /// The shortest name that matches.
    shortest: usize,
    /// Whether it begins with a literal dot.
    hidden: bool,
}

impl Pattern {
    /// Compiles a pattern in one pass: it reads text after an open bracket once, whether the
    /// bracket closes or not.
    fn new(text: &[u8]) -> Self {
        let mut elements = Vec::new();
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            at += 1;
            elements.push(match byte {
                b'*' if matches!(elements.last(), Some(Element::Star)) => continue,
                b'*' => Element::Star,
                b'?' => Element::Any,
                b'[' => match set(text, at) {
                    Some((set, end)) => {
                        at = end;
                        Element::Set(set)
                    }
                    None => Element::Byte(b'['),
                },
                b'\\' => {
                    at += 1;
                    // A trailing backslash: no name matches.
                    text.get(at - 1)
                        .map_or(Element::Set([0; 4]), |&b| Element::Byte(b))
                }
                _ => Element::Byte(byte),
            });
        }
        let stars = elements.iter().filter(|e| matches!(e, Element::Star)).count();
        Self {
            shortest: elements.len() - stars,
            hidden: text.first() == Some(&b'.'),
            elements,
        }
    }

    /// Whether `name` matches. Only a literal dot matches a leading dot. Without remaining `work`
    /// nothing matches.
    fn matches(&self, name: &[u8], work: &mut usize) -> bool {
        if name.first() == Some(&b'.') && !self.hidden || name.len() < self.shortest {
            return false;
        }
        let (mut p, mut n) = (0, 0);
        // The place from which a star takes one more byte; one such place is enough.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            if *work == 0 {
                return false;
            }
            *work -= 1;
            match (self.elements.get(p), name.get(n)) {
                (Some(Element::Star), _) => {
                    p += 1;
                    retry = Some((p, n));
                    continue;
                }
                (Some(element), Some(&byte)) if element.takes(byte) => {
                    (p, n) = (p + 1, n + 1);
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            match retry {
                Some((star, from)) if from < name.len() => {
                    (p, n) = (star, from + 1);
                    retry = Some((p, n));
                }
                _ => return false,
            }
        }
    }
}

/// The bracket expression whose `[` is before `start`: the bytes that it matches, and the index
/// after it; `None` if it never closes (then `[` is literal).
fn set(text: &[u8], start: usize) -> Option<([u64; 4], usize)> {
    let negated = matches!(text.get(start), Some(b'!' | b'^'));
    let first = start + usize::from(negated);
    // A `]` that comes first is literal, and no other can be inside.
    let end = first + 1 + text.get(first + 1..)?.iter().position(|&b| b == b']')?;
    let mut bits = [0_u64; 4];
    let mut at = first;
    while at < end {
        let low = text[at];
        let range = text.get(at + 1..end).and_then(|rest| match rest {
            [b'-', high, ..] => Some(*high),
            _ => None,
        });
        let high = range.unwrap_or(low);
        at += if range.is_some() { 3 } else { 1 };
        for byte in low..=high {
            bits[usize::from(byte / 64)] |= 1 << (byte % 64);
        }
    }
    Some((if negated { bits.map(|b| !b) } else { bits }, end + 1))
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
            ("[]-a]x", "_x", true),
            ("[]-a]x", "bx", false),
            ("[--]x", "-x", true),
            ("[a-]x", "-x", true),
            ("[a-]x", "bx", false),
            ("[!]x", "[!]x", true),
            ("[]", "[]", true),
            ("[", "[", true),
            ("a\\", "a", false),
            ("a\\", "a\\", false),
            ("**a***b", "xaxb", true),
            ("[[[a]", "[", true),
        ] {
            assert_eq!(
                Pattern::new(pattern.as_bytes()).matches(name.as_bytes(), &mut 1000),
                wanted,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn work_is_bounded_by_the_budget_whatever_the_pattern() {
        let name = b"a".repeat(255);
        for part in ["*a", "*[", "[", "*[a-", "*[!b]", "*?", "*\\a"] {
            let mut pattern = part.repeat(15_000).into_bytes();
            pattern.push(b'b');
            let mut work = MAX_WORK;
            assert!(!Pattern::new(&pattern).matches(&name, &mut work));
            assert!(MAX_WORK - work < 100_000, "{part}: {work}");
        }
        let mut work = 10;
        assert!(!Pattern::new(b"*b").matches(&name, &mut work) && work == 0);
    }

    /// An earlier matcher, which follows glob(3) directly.
    #[allow(clippy::indexing_slicing, reason = "a test")]
    fn reference(p: &[u8], n: &[u8]) -> bool {
        let Some(&first) = p.first() else {
            return n.is_empty();
        };
        let rest = &p[1..];
        match first {
            b'*' => reference(rest, n) || !n.is_empty() && reference(p, &n[1..]),
            _ if n.is_empty() => false,
            b'?' => reference(rest, &n[1..]),
            b'[' => {
                let negated = matches!(rest.first(), Some(b'!' | b'^'));
                let (mut at, mut hit) = (usize::from(negated), false);
                let start = at;
                loop {
                    let Some(&low) = rest.get(at) else {
                        return n[0] == b'[' && reference(rest, &n[1..]);
                    };
                    if low == b']' && at > start {
                        return hit != negated && reference(&rest[at + 1..], &n[1..]);
                    }
                    match (rest.get(at + 1), rest.get(at + 2)) {
                        (Some(b'-'), Some(&high)) if high != b']' => {
                            hit |= (low..=high).contains(&n[0]);
                            at += 3;
                        }
                        _ => {
                            hit |= low == n[0];
                            at += 1;
                        }
                    }
                }
            }
            b'\\' => rest.first() == Some(&n[0]) && reference(&rest[1..], &n[1..]),
            _ => first == n[0] && reference(rest, &n[1..]),
        }
    }

    proptest::proptest! {
        #[test]
        fn a_compiled_pattern_matches_as_before(pattern in "[]ab*?!^\\[\\\\-]{0,9}", name in "[]ab!^\\[-]{0,5}") {
            let mut work = MAX_WORK;
            proptest::prop_assert_eq!(
                Pattern::new(pattern.as_bytes()).matches(name.as_bytes(), &mut work),
                reference(pattern.as_bytes(), name.as_bytes())
            );
        }
    }

    #[test]
    fn patterns_longer_than_a_path_and_too_many_of_them_spend_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut budget = Allowance::default();
        assert!(expand(&root, Path::new(&format!("/{}", "a".repeat(5000))), &mut budget).is_empty());
        assert!(budget.is_spent());
        let mut budget = Allowance::default();
        let found = (0..MAX_PATHS).map(|_| expand(&root, Path::new("/a"), &mut budget).len());
        assert_eq!(found.sum::<usize>(), MAX_PATHS / 2);
        assert!(budget.is_spent());
    }

    #[test]
    fn wildcards_in_many_directories_spend_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..40 {
            std::fs::create_dir_all(dir.path().join(format!("a/{i}"))).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let mut budget = Allowance::default();
        expand(&root, Path::new("/*/*/*/*"), &mut budget);
        assert!(budget.is_spent());
    }
}
