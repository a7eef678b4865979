//! The images `nvidia/cuda`.

use super::Cuda;
use super::table::rows;

const GONE: &str = include_str!("data/images.tsv");

/// Why a tag of `nvidia/cuda` cannot be pulled any more; `None` when nothing is known against it.
pub fn gone(tag: &str) -> Option<&'static str> {
    rows(GONE)
        .find(|[begins, ..]: &[_; 3]| {
            tag.strip_prefix(begins)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
        .map(|[_, why, _]| why)
}

/// The CUDA version of a tag, `11.8` of `11.8.0-cudnn8-devel-ubuntu22.04`.
pub fn cuda_of(tag: &str) -> Option<Cuda> {
    tag.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::table::check;

    #[test]
    fn tags_that_are_gone() {
        check(GONE, |row: [_; 3]| Some(row));
        for tag in [
            "latest",
            "10.2-cudnn7-devel-ubuntu18.04",
            "11.2.1-base",
            "11.0-base-ubuntu20.04",
        ] {
            assert!(gone(tag).is_some(), "{tag}");
        }
        for tag in [
            "11.0.3-base-ubuntu20.04",
            "12.4.1-base-ubuntu22.04",
            "11.2.2-base",
            "9.0x",
        ] {
            assert_eq!(gone(tag), None, "{tag}");
        }
        assert_eq!(
            cuda_of("11.8.0-base-ubuntu22.04"),
            Some(Cuda { major: 11, minor: 8 })
        );
        assert_eq!(cuda_of("latest"), None);
    }
}
