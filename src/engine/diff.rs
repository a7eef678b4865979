//! A unified diff of two texts, as `diff -u` prints it.
//!
//! The table of `middle` has a fixed bound, so time and output are the same on each machine. The
//! crate similar takes 22 s for two files of 1 MiB that repeat ten lines, unless it has a deadline.

use std::fmt::Write as _;

/// Lines of unchanged text around a change.
const CONTEXT: usize = 3;

/// The unified diff from `before` (`None`: no such file) to `after` (`None`: removed); empty if
/// they are equal.
///
/// Edits are few and local, so it strips the common head and tail and matches the rest line by
/// line. A changed middle of some thousand lines is shown as replaced.
pub fn unified(file: &str, before: Option<&str>, after: Option<&str>) -> String {
    if before == after {
        return String::new();
    }
    let a = lines(before.unwrap_or_default());
    let b = lines(after.unwrap_or_default());
    let ops = operations(&a, &b);
    let name = |side: &str, there: bool| {
        if there {
            format!("{side}{file}")
        } else {
            "/dev/null".to_owned()
        }
    };
    let mut out = format!(
        "--- {}\n+++ {}\n",
        name("a", before.is_some()),
        name("b", after.is_some())
    );
    let mut i = 0;
    while let Some(first) = ops.iter().skip(i).position(|o| o.0 != ' ').map(|p| p + i) {
        let start = first.saturating_sub(CONTEXT);
        let mut end = first;
        let mut quiet = 0;
        while let Some(op) = ops.get(end) {
            quiet = if op.0 == ' ' { quiet + 1 } else { 0 };
            if quiet > 2 * CONTEXT {
                break;
            }
            end += 1;
        }
        let end = if quiet > CONTEXT {
            end - (quiet - CONTEXT) + usize::from(quiet > 2 * CONTEXT)
        } else {
            end
        };
        hunk(&mut out, &ops, start, end);
        i = end;
    }
    out
}

/// `' '`, `'-'` or `'+'`, and the line with its line feed.
type Op<'a> = (char, &'a str);

fn hunk(out: &mut String, ops: &[Op<'_>], start: usize, end: usize) {
    let count = |upto: &[Op<'_>], not: char| upto.iter().filter(|o| o.0 != not).count();
    let (before, part) = (
        ops.get(..start).unwrap_or_default(),
        ops.get(start..end).unwrap_or_default(),
    );
    let (old, new) = (count(part, '+'), count(part, '-'));
    let old_start = count(before, '+') + usize::from(old > 0);
    let new_start = count(before, '-') + usize::from(new > 0);
    let _ = writeln!(out, "@@ -{old_start},{old} +{new_start},{new} @@");
    for (sign, line) in part {
        let _ = write!(out, "{sign}{}", line.trim_end_matches('\n').replace('\r', "\\r"));
        out.push_str(if line.ends_with('\n') {
            "\n"
        } else {
            "\n\\ No newline at end of file\n"
        });
    }
}

fn operations<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Op<'a>> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a_rest, b_rest) = (
        a.get(head..).unwrap_or_default(),
        b.get(head..).unwrap_or_default(),
    );
    let tail = a_rest
        .iter()
        .rev()
        .zip(b_rest.iter().rev())
        .take_while(|(x, y)| x == y)
        .count();
    let a_mid = a_rest.get(..a_rest.len() - tail).unwrap_or_default();
    let b_mid = b_rest.get(..b_rest.len() - tail).unwrap_or_default();
    let mut ops: Vec<Op<'a>> = a.iter().take(head).map(|l| (' ', *l)).collect();
    middle(a_mid, b_mid, &mut ops);
    ops.extend(a_rest.iter().skip(a_mid.len()).map(|l| (' ', *l)));
    ops
}

/// Appends the operations of the longest common subsequence, by the textbook's table.
fn middle<'a>(old: &[&'a str], new: &[&'a str], ops: &mut Vec<Op<'a>>) {
    const MAX_CELLS: usize = 4_000_000;
    let width = new.len() + 1;
    if old.len().saturating_mul(width) > MAX_CELLS {
        ops.extend(old.iter().map(|l| ('-', *l)).chain(new.iter().map(|l| ('+', *l))));
        return;
    }
    let mut table = vec![0_u32; (old.len() + 1) * width];
    let common = |table: &[u32], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, from) in old.iter().enumerate().rev() {
        for (j, to) in new.iter().enumerate().rev() {
            let best = if from == to {
                common(&table, i + 1, j + 1) + 1
            } else {
                common(&table, i + 1, j).max(common(&table, i, j + 1))
            };
            if let Some(slot) = table.get_mut(i * width + j) {
                *slot = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.get(i), new.get(j)) {
            (Some(from), Some(to)) if from == to => {
                ops.push((' ', from));
                i += 1;
                j += 1;
            }
            (Some(from), to) if to.is_none() || common(&table, i + 1, j) >= common(&table, i, j + 1) => {
                ops.push(('-', from));
                i += 1;
            }
            (_, Some(to)) => {
                ops.push(('+', to));
                j += 1;
            }
            _ => return,
        }
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_diff() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let after = "1\n2\n3\n4\nx\n5\n6\n7\n8\n9";
        assert_eq!(
            unified("/f", Some(before), Some(after)),
            "--- a/f\n+++ b/f\n@@ -2,8 +2,9 @@\n 2\n 3\n 4\n+x\n 5\n 6\n 7\n 8\n-9\n+9\n\\ No newline at end of file\n"
        );
        assert_eq!(unified("/f", Some(before), Some(before)), "");
        assert_eq!(
            unified("/f", None, Some("a\n")),
            "--- /dev/null\n+++ b/f\n@@ -0,0 +1,1 @@\n+a\n"
        );
    }

    #[test]
    fn large_texts_without_a_common_line_are_shown_as_replaced() {
        let text = |side: &str, kinds: usize| -> String {
            (0..100_000)
                .map(|n| format!("{side} {:08}\n", n % kinds))
                .collect()
        };
        for kinds in [10, 100_000] {
            let (before, after) = (text("old", kinds), text("new", kinds));
            let diff = unified("/f", Some(&before), Some(&after));
            assert!(before.len() > 1 << 20 && diff.lines().count() == 200_003);
        }
    }

    #[test]
    fn far_changes_are_two_hunks() {
        let before = (0..40).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        let after = before
            .replace("\n5\n", "\nfive\n")
            .replace("\n30\n", "\nthirty\n");
        let diff = unified("/f", Some(&before), Some(&after));
        assert_eq!(diff.matches("@@ -").count(), 2, "{diff}");
        assert!(
            diff.contains("@@ -3,7 +3,7 @@") && diff.contains("@@ -28,7 +28,7 @@"),
            "{diff}"
        );
    }
}
