//! Rows of SECURITY.md's table for `integration/hostile/table`.

use crate::case::{Bite, Class};
use crate::hostile::CLASSES;

/// `NUMBER|ATTACK|DECISION|TESTS|fooled`, the last word where the naive hook is fooled.
pub(crate) fn rows() -> Vec<String> {
    let rows = CLASSES.iter().filter(|class| class.number != 0);
    rows.map(|class| row(class)).collect()
}

fn row(class: &Class) -> String {
    let bites = class.cases.iter().any(|case| case.bites != Bite::Nothing);
    // `stuck` calls the naive hook itself.
    let elsewhere = class.also.iter().any(|test| test.starts_with("stuck:"));
    let fooled = if bites || elsewhere { "fooled" } else { "" };
    let mut tests = vec![format!("{:02}_", class.number)];
    tests.extend(class.also.iter().map(|test| (*test).to_owned()));
    format!(
        "{}|{}|{}|{}|{fooled}",
        class.number,
        class.attack,
        class.decision,
        tests.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_is_once_in_its_class() {
        let mut all = Vec::new();
        for class in CLASSES {
            for case in class.cases {
                let number = format!("{:02}_", class.number);
                assert!(
                    case.id.starts_with(&number),
                    "{} in class {}",
                    case.id,
                    class.number
                );
                assert!(case.why.len() > 20 && !case.ways.is_empty(), "{}", case.id);
                assert!(!all.contains(&case.id), "{} is there twice", case.id);
                all.push(case.id);
            }
        }
        assert!(CLASSES.windows(2).all(|two| two[0].number < two[1].number));
    }

    #[test]
    fn a_row_has_its_tests() {
        let rows = rows();
        assert!(rows[0].starts_with("1|`/usr/lib`"), "{}", rows[0]);
        assert!(rows[0].ends_with("|01_|fooled"), "{}", rows[0]);
    }
}
