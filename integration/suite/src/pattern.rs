//! The pattern of `--only` and `--way`: a small regular expression with `^`, `$`, `.`, `*`, `|`,
//! `[0-9]` and groups. It is matched by backtracking, so it is for short names.

/// A parsed pattern.
#[derive(Debug)]
pub(crate) struct Pattern(Vec<Branch>);

/// A sequence of parts. One of a pattern's branches must match.
type Branch = Vec<(Part, bool)>;

#[derive(Debug)]
enum Part {
    Any,
    Begin,
    Class(Vec<(char, char)>),
    End,
    Group(Pattern),
    One(char),
}

impl Pattern {
    /// Parses a pattern. `None`: a bracket without its end, a `*` without a part, or another sign
    /// of regular expressions.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.chars().peekable();
        let pattern = Self::alternatives(&mut rest)?;
        rest.next().is_none().then_some(pattern)
    }

    fn alternatives(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Self> {
        let mut branches = vec![Branch::new()];
        while let Some(&next) = rest.peek() {
            if next == ')' {
                break;
            }
            rest.next();
            let part = match next {
                '|' => {
                    branches.push(Branch::new());
                    continue;
                }
                '*' => {
                    branches.last_mut()?.last_mut()?.1 = true;
                    continue;
                }
                '.' => Part::Any,
                '^' => Part::Begin,
                '$' => Part::End,
                '[' => Part::Class(Self::class(rest)?),
                '(' => {
                    let group = Self::alternatives(rest)?;
                    (rest.next()? == ')').then_some(Part::Group(group))?
                }
                // Other signs of regular expressions are not literal letters.
                '+' | '?' | '{' | '\\' => return None,
                other => Part::One(other),
            };
            branches.last_mut()?.push((part, false));
        }
        Some(Self(branches))
    }

    fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Vec<(char, char)>> {
        let mut ranges = Vec::new();
        loop {
            match rest.next()? {
                ']' => return Some(ranges),
                first if rest.peek() == Some(&'-') => {
                    rest.next();
                    ranges.push((first, rest.next()?));
                }
                one => ranges.push((one, one)),
            }
        }
    }

    /// Whether some part of `text` matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        (0..=text.len()).any(|at| !self.ends(&text, at).is_empty())
    }

    /// Where a match that begins at `at` can end.
    fn ends(&self, text: &[char], at: usize) -> Vec<usize> {
        let mut all = Vec::new();
        for branch in &self.0 {
            let mut places = vec![at];
            for (part, repeated) in branch {
                places = part.follow(text, places, *repeated);
            }
            all.extend(places);
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Part {
    fn follow(&self, text: &[char], places: Vec<usize>, repeated: bool) -> Vec<usize> {
        if !repeated {
            return places.into_iter().flat_map(|at| self.next(text, at)).collect();
        }
        let mut all = places.clone();
        let mut fresh = places;
        while let Some(at) = fresh.pop() {
            for next in self.next(text, at) {
                if !all.contains(&next) {
                    all.push(next);
                    fresh.push(next);
                }
            }
        }
        all
    }

    fn next(&self, text: &[char], at: usize) -> Vec<usize> {
        let here = text.get(at).copied();
        let fits = match self {
            Self::Any => here.is_some(),
            Self::Begin => return if at == 0 { vec![at] } else { Vec::new() },
            Self::Class(ranges) => {
                here.is_some_and(|c| ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)))
            }
            Self::End => return if at == text.len() { vec![at] } else { Vec::new() },
            Self::Group(pattern) => return pattern.ends(text, at),
            Self::One(one) => here == Some(*one),
        };
        if fits { vec![at + 1] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_select_names() {
        let fits = |pattern, text| Pattern::parse(pattern).is_some_and(|p| p.matches(text));
        for (pattern, text) in [
            ("", "01_nvidia"),
            ("^01_", "01_nvidia"),
            ("nvidia$", "01_nvidia"),
            ("^0[0-6]_|^10", "06_dir"),
            ("^(08|1[0-3])_", "12_config"),
            ("01.*fifo|watch", "watch open"),
            ("_(usr_)*local$", "01_usr_local"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("^1_", "01_nvidia"),
            ("^0[0-6]_", "07_link"),
            ("^(08|1[0-3])_", "14_all"),
            ("nvidi$", "01_nvidia"),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
        for broken in ["(a", "a)", "[a", "*a", "a+", "a?", "a{2}", "\\d"] {
            assert!(Pattern::parse(broken).is_none(), "{broken}");
        }
    }
}
