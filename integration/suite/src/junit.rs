//! `cases.tsv`, which every suite writes, as JUnit's XML.

/// The document of rows `VERDICT\tNAME\tMILLISECONDS\tMESSAGE`.
pub(crate) fn document(results: &str) -> String {
    let rows: Vec<Vec<&str>> = results.lines().map(|row| row.split('\t').collect()).collect();
    let count = |verdict: &str| rows.iter().filter(|row| row.first() == Some(&verdict)).count();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    text.push_str(&format!(
        "<testsuite name=\"nvoci\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">\n",
        rows.len(),
        count("fail"),
        count("skip")
    ));
    for row in &rows {
        let column = |number: usize| escaped(row.get(number).copied().unwrap_or_default());
        let milliseconds: u64 = column(2).parse().unwrap_or_default();
        let seconds = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
        text.push_str(&format!("<testcase name=\"{}\" time=\"{seconds}\">", column(1)));
        match row.first() {
            Some(&"fail") => text.push_str(&format!("<failure message=\"{}\"/>", column(3))),
            Some(&"skip") => text.push_str(&format!("<skipped message=\"{}\"/>", column(3))),
            _ => {}
        }
        text.push_str("</testcase>\n");
    }
    text.push_str("</testsuite>\n");
    text
}

/// XML 1.0 has no control characters, not even escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_test_case() {
        let rows = "pass\t01_a runc\t1250\t\nfail\tb\t7\tsaid '<x>' & \"y\"\x1b[2J\nskip\tc\t0\tno crun\n";
        let document = document(rows);
        for part in [
            "tests=\"3\" failures=\"1\" skipped=\"1\"",
            "<testcase name=\"01_a runc\" time=\"1.250\"></testcase>",
            "<failure message=\"said '&lt;x&gt;' &amp; &quot;y&quot;\u{fffd}[2J\"/>",
            "<skipped message=\"no crun\"/>",
        ] {
            assert!(document.contains(part), "{part}: {document}");
        }
        assert!(!document.contains('\x1b'));
    }
}
