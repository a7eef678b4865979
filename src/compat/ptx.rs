//! Maps a PTX version to the drivers that can compile it.

use super::Cuda;
use super::table::rows;

const PTX: &str = include_str!("data/ptx.tsv");

/// The first CUDA whose driver compiles PTX `major.minor`, the version in a fat binary's entry.
pub fn cuda_of(major: u32, minor: u32) -> Option<Cuda> {
    // The table writes a PTX version like a CUDA version: two numbers.
    let wanted = Cuda { major, minor };
    rows(PTX)
        .find(|[isa, ..]: &[_; 3]| isa.parse() == Ok(wanted))
        .and_then(|[_, cuda, _]| cuda.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::table::check;

    #[test]
    fn every_row_is_understood() {
        check(PTX, |[isa, cuda, _]: [_; 3]| {
            Some((isa.parse::<Cuda>().ok()?, cuda.parse::<Cuda>().ok()?))
        });
    }

    #[test]
    fn versions_are_of_a_toolkit() {
        let cuda = |a, b| cuda_of(a, b).map(|c| c.to_string());
        assert_eq!(cuda(7, 8).as_deref(), Some("11.8"));
        assert_eq!(cuda(8, 5).as_deref(), Some("12.5"));
        assert_eq!(cuda(99, 0), None);
    }
}
