//! Tables as text: one row a line, tabs between fields, `#` begins a comment.
//!
//! Each lookup scans a table from the start: the largest has under a hundred rows, and most
//! processes do one lookup or none.

/// The rows of a table with `N` fields each. Rows with other lengths are left out; a test of each
/// table rules them out.
pub(super) fn rows<const N: usize>(text: &'static str) -> impl Iterator<Item = [&'static str; N]> {
    lines(text).filter_map(fields)
}

/// The rows of a table as text.
pub(super) fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'))
}

/// The fields of a row, if there are `N`.
pub(super) fn fields<const N: usize>(line: &'static str) -> Option<[&'static str; N]> {
    let mut all = [""; N];
    let mut parts = line.split('\t');
    for field in &mut all {
        *field = parts.next()?;
    }
    parts.next().is_none().then_some(all)
}

/// The value of a field; `-` means that there is none, or that it is unknown.
pub(super) fn known(field: &'static str) -> Option<&'static str> {
    (field != "-").then_some(field)
}

const SOURCES: &str = include_str!("data/sources.tsv");

/// The source of a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Source {
    /// `doc`: an official document; `2nd`: another's copy of one; `seen`: an inspected file.
    pub mark: &'static str,
    /// The date of reading.
    pub read: &'static str,
    /// The document or file.
    pub text: &'static str,
}

impl Source {
    /// The source with the key `key`.
    pub fn of(key: &str) -> Option<Self> {
        rows::<4>(SOURCES)
            .find(|[k, ..]| *k == key)
            .map(|[_, mark, read, text]| Self { mark, read, text })
    }
}

/// Checks that `parse` accepts every line of a table, and that the last field is a source.
#[cfg(test)]
pub(super) fn check<const N: usize, T>(text: &'static str, parse: impl Fn([&'static str; N]) -> Option<T>) {
    let mut count = 0;
    for line in lines(text) {
        let row = fields::<N>(line).unwrap_or_else(|| panic!("not {N} fields: {line:?}"));
        assert!(
            Source::of(row[N - 1]).is_some(),
            "the source is not known: {line:?}"
        );
        assert!(row.iter().all(|f| !f.is_empty() && f.trim() == *f), "{line:?}");
        assert!(parse(row).is_some(), "not understood: {line:?}");
        count += 1;
    }
    assert!(count > 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_whole() {
        for line in lines(SOURCES) {
            let [key, mark, read, text] = fields(line).unwrap_or_else(|| panic!("{line:?}"));
            assert!(["doc", "2nd", "seen", "inf"].contains(&mark), "{line:?}");
            assert!(read.len() == 10 && read.starts_with("20"), "{line:?}");
            assert!(!text.is_empty() && Source::of(key).is_some());
            assert_eq!(rows::<4>(SOURCES).filter(|[k, ..]| *k == key).count(), 1, "{key}");
        }
    }
}
