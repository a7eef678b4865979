//! Finds the known word that is nearest to a mistyped one: `instal` gives `install`.

/// A longer word is no typing error.
const MAX: usize = 64;

/// The nearest of `known`, if at most a third of its letters differ.
pub(super) fn nearest(word: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let near = known
        .filter(|candidate| !candidate.is_empty())
        .filter_map(|candidate| {
            let edits = distance(word, candidate)?;
            (edits <= (candidate.len().max(word.len()) / 3).max(1)).then_some((edits, candidate))
        });
    near.min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// The Damerau-Levenshtein distance (optimal string alignment); `None` for words past [`MAX`]
/// characters.
fn distance(a: &str, b: &str) -> Option<usize> {
    if a.len() > MAX || b.len() > MAX {
        return None;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Row i of the table of distances, and the two rows above it.
    let mut above = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let mut edits = (last[j] + usize::from(a[i] != b[j]))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                let swapped: &[usize] = &above;
                edits = edits.min(swapped[j - 1] + 1);
            }
            row.push(edits);
        }
        above = std::mem::replace(&mut last, row);
    }
    last.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insertions_deletions_and_swaps_are_one_edit() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "ab", 2),
            ("install", "instal", 1),
            ("isntall", "install", 1),
            ("cdi", "cid", 1),
            ("list", "ps", 3),
            ("ü", "u", 1),
        ] {
            assert_eq!(distance(a, b), Some(edits), "{a} {b}");
            assert_eq!(distance(b, a), Some(edits), "{b} {a}");
        }
        assert_eq!(distance(&"a".repeat(65), "a"), None);
    }

    #[test]
    fn a_word_that_is_far_from_all_has_no_suggestion() {
        let known = ["list", "plan", "install", "uninstall"];
        for (word, near) in [
            ("instal", Some("install")),
            ("unistall", Some("uninstall")),
            ("lsit", Some("list")),
            ("frobnicate", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), near, "{word}");
        }
    }
}
