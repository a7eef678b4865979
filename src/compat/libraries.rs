//! CUDA's libraries: the package of each, and those that frameworks open by name.

use super::Version;
use super::table::rows;
use super::torch::Release;

const LIBRARIES: &str = include_str!("data/libraries.tsv");
const OPENED: &str = include_str!("data/opened.tsv");
const PAIRS: &str = include_str!("data/pairs.tsv");

/// The name of a library without its version: `libcublas` of `libcublas.so.12`.
fn stem(name: &str) -> Option<&str> {
    name.split_once(".so").map(|(stem, _)| stem)
}

/// Whether it is one of CUDA's libraries in an image. The driver's libraries come from the host.
pub fn is_cuda(name: &str) -> bool {
    // A quick test that excludes most names.
    let may_be = ["libcu", "libnv", "libnccl"]
        .iter()
        .any(|begin| name.starts_with(begin));
    may_be && stem(name).is_some_and(|stem| rows(LIBRARIES).any(|[known, ..]: [_; 4]| known == stem))
}

/// The pip package of a library, for a CUDA major version.
pub fn pip(name: &str, cuda: u32) -> Option<String> {
    let stem = stem(name)?;
    let [_, old, new, _] = rows(LIBRARIES).find(|[known, ..]: &[_; 4]| *known == stem)?;
    Some(if cuda >= 13 {
        new.to_owned()
    } else {
        old.replace('*', &cuda.to_string())
    })
}

/// A library that a framework opens by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Opened {
    /// `libcublas.so.12`
    pub soname: String,
    /// Whether the framework fails as a whole without it; else some operations fail.
    pub vital: bool,
}

/// The libraries that a framework opens by name; `cudnn` is the major version of its build.
pub fn opened(package: &str, version: Version, cuda: u32, cudnn: Option<u32>) -> Vec<Opened> {
    let row = rows(OPENED).find(|[name, from, major, ..]: &[_; 5]| {
        *name == package
            && major.parse() == Ok(cuda)
            && from.parse().is_ok_and(|from: Version| version >= from)
    });
    let names = row.map_or("", |[_, _, _, names, _]| names);
    let one = |word: &str| {
        let bare = word.trim_start_matches('?');
        let soname = match (bare.strip_suffix('*'), cudnn) {
            (Some(begin), Some(cudnn)) => format!("{begin}{cudnn}"),
            (Some(_), None) => return None,
            (None, _) => bare.to_owned(),
        };
        Some(Opened {
            soname,
            vital: bare == word,
        })
    };
    names
        .split(' ')
        .filter(|word| !word.is_empty())
        .filter_map(one)
        .collect()
}

/// The release of PyTorch that a release of a package is compiled for.
pub fn torch_of(package: &str, release: Release) -> Option<Release> {
    rows(PAIRS)
        .find(|[name, own, ..]: &[_; 4]| *name == package && own.parse() == Ok(release))
        .and_then(|[_, _, torch, _]| torch.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::table::check;

    #[test]
    fn every_row_is_understood() {
        check(LIBRARIES, |[name, old, new, _]: [_; 4]| {
            (name.starts_with("lib") && old.ends_with("-cu*") && new.starts_with("nvidia-")).then_some(())
        });
        check(OPENED, |[_, from, cuda, names, _]: [_; 5]| {
            from.parse::<Version>().ok()?;
            cuda.parse::<u32>().ok()?;
            names
                .split(' ')
                .all(|n| is_cuda(n.trim_start_matches('?')))
                .then_some(())
        });
        check(PAIRS, |[_, own, torch, _]: [_; 4]| {
            Some((own.parse::<Release>().ok()?, torch.parse::<Release>().ok()?))
        });
    }

    #[test]
    fn names_and_packages() {
        for (name, cuda, package) in [
            ("libcublasLt.so.12", 12, Some("nvidia-cublas-cu12")),
            ("libcudnn.so.9", 13, Some("nvidia-cudnn-cu13")),
            ("libcublas.so.13", 13, Some("nvidia-cublas")),
            ("libcuda.so.1", 12, None),
            ("libcudart-d0da41ae.so.11.0", 11, None),
            ("libc.so.6", 12, None),
        ] {
            assert_eq!(pip(name, cuda).as_deref(), package, "{name}");
            assert_eq!(is_cuda(name), package.is_some(), "{name}");
        }
    }

    #[test]
    fn opened_libraries() {
        let names = |package: &str, version: &str, cuda, cudnn| {
            let all = opened(package, version.parse().unwrap(), cuda, cudnn);
            all.into_iter().map(|o| o.soname).collect::<Vec<_>>()
        };
        assert_eq!(
            names("ctranslate2", "4.4.0", 12, None),
            ["libcublas.so.12", "libcudnn.so.8"]
        );
        assert_eq!(
            names("ctranslate2", "4.5.0", 12, None),
            ["libcublas.so.12", "libcudnn.so.9"]
        );
        assert!(names("tensorflow", "2.15.0", 12, Some(8)).contains(&"libcudnn.so.8".to_owned()));
        assert!(names("tensorflow", "1.15.0", 10, Some(7)).is_empty());
        assert_eq!(
            torch_of("torchvision", "0.19".parse().unwrap())
                .unwrap()
                .to_string(),
            "2.4"
        );
    }
}
