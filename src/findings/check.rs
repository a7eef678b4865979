//! The doctor's checks, each with a number that never changes meaning.

use core::fmt;

/// One check. Each area has a table of them, from which the reference of codes is generated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Check {
    /// The number behind `NVOCI-`: 71xx host, 72xx engine, 73xx image, 74xx container, 75xx
    /// Dockerfile, 76xx Compose, 77xx preflight, 78xx explain.
    pub number: u16,
    /// A short name for people and scripts: `host.version-mismatch`.
    pub name: &'static str,
    /// The problem that it reports, one sentence.
    pub summary: &'static str,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVOCI-{}", self.number)
    }
}

/// Makes the table of an area, `CHECKS`, and a constant for each of its checks:
/// `NAME = number, "name", "summary";`.
macro_rules! checks {
    ($($vis:vis $id:ident = $number:literal, $name:literal, $summary:literal;)*) => {
        $($vis const $id: $crate::findings::Check =
            $crate::findings::Check { number: $number, name: $name, summary: $summary };)*

        /// The checks of this area.
        pub const CHECKS: &[$crate::findings::Check] = &[$($id),*];
    };
}
pub(crate) use checks;
