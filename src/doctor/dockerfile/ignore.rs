//! `.dockerignore`: the paths of the build context that no `COPY` takes.
//!
//! Facts: <https://docs.docker.com/build/concepts/context/#dockerignore-files>. The last rule that
//! matches a path or a directory above it counts; `!` takes a path back in.

/// One rule.
#[derive(Debug)]
struct Rule {
    parts: Vec<String>,
    /// Whether it takes paths back in.
    keeps: bool,
}

/// The rules of one context.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
}

/// The most rules, and parts of one rule, that are read.
const MAX: usize = 256;

impl Ignore {
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.trim_start_matches('\u{feff}').lines();
        let rules = lines
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let rules = rules.take(MAX).map(|line| {
            let (keeps, path) = line
                .strip_prefix('!')
                .map_or((false, line), |path| (true, path.trim()));
            let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
            Rule {
                parts: parts.take(MAX).map(str::to_owned).collect(),
                keeps,
            }
        });
        Self {
            rules: rules.collect(),
        }
    }

    /// Whether no `COPY` takes `path`, which is absolute in the context and normalized.
    pub(super) fn hides(&self, path: &str) -> bool {
        let path: Vec<&str> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .take(MAX)
            .collect();
        let last = self.rules.iter().rev().find(|rule| rule.matches(&path));
        last.is_some_and(|rule| !rule.keeps)
    }

    /// The work of one question, as bytes.
    pub(super) fn work(&self, path: &str) -> usize {
        let parts: usize = self.rules.iter().map(|rule| rule.parts.len() + 1).sum();
        parts.saturating_mul(path.len() + 1)
    }
}

impl Rule {
    /// Whether it matches the path, or a directory above it.
    fn matches(&self, path: &[&str]) -> bool {
        // The positions in the path at which the next part of the rule may begin.
        let mut at = vec![false; path.len() + 1];
        if let Some(first) = at.first_mut() {
            *first = true;
        }
        for part in &self.parts {
            let mut next = vec![false; path.len() + 1];
            for (place, open) in at.iter().enumerate() {
                if !open {
                    continue;
                }
                if part == "**" {
                    next.iter_mut().skip(place).for_each(|open| *open = true);
                } else if path.get(place).is_some_and(|name| glob(part, name))
                    && let Some(open) = next.get_mut(place + 1)
                {
                    *open = true;
                }
            }
            at = next;
        }
        !self.parts.is_empty() && at.iter().any(|open| *open)
    }
}

/// Whether a name matches a pattern with `*` and `?`.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last star, and the position in the name behind the text that it stands for.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || name.get(n) == Some(c) => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, end)) = star else { return false };
                star = Some((at, end + 1));
                p = at + 1;
                n = end + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_dockers() {
        let hidden = |rules: &str, path: &str| Ignore::parse(rules).hides(path);
        for (rules, path) in [
            ("*.txt", "/requirements.txt"),
            ("# no\n\ndocs", "/docs/a/b.txt"),
            ("/docs/", "/docs/a"),
            ("**/*.lock", "/a/b/uv.lock"),
            ("**/*.lock", "/uv.lock"),
            ("*", "/a/b"),
            ("!a.txt\n*.txt", "/a.txt"),
            ("a/**", "/a/b/c"),
            ("r?q*.t*t", "/req-gpu.txt"),
        ] {
            assert!(hidden(rules, path), "{rules} {path}");
        }
        for (rules, path) in [
            ("", "/a"),
            ("*.txt", "/sub/requirements.txt"),
            ("*\n!requirements.txt", "/requirements.txt"),
            ("*\n!docker", "/docker/requirements.txt"),
            ("doc", "/docs"),
            ("a/b", "/a"),
        ] {
            assert!(!hidden(rules, path), "{rules} {path}");
        }
        // A pattern with many stars ends soon.
        let text = format!("{}b", "*a".repeat(5000));
        assert!(!hidden(&text, &format!("/{}", "a".repeat(4000))));
    }
}
