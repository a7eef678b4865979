//! GPU images: their contents by name and tag, and the tags that are no longer published.

use super::table::{known, rows};
use super::torch::Release;
use super::{Cuda, Sm, Version};

const GONE: &str = include_str!("data/images.tsv");
const REPOSITORIES: &str = include_str!("data/repositories.tsv");
const TAGS: &str = include_str!("data/tags.tsv");
const WHEELS: &str = include_str!("data/wheels.tsv");

/// The meaning of a repository's tags.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `nvidia/cuda`: the CUDA release.
    Cuda,
    /// Only that the image is for GPUs.
    Gpu,
    /// NVIDIA's frameworks: the month.
    Ngc,
    /// The release of PyTorch and CUDA's.
    PyTorch,
    /// The release of RAPIDS and CUDA's.
    Rapids,
    /// The release of TensorFlow.
    TensorFlow,
}

/// An image's contents by its name and tag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Known {
    /// The meaning of its tag.
    pub kind: Kind,
    /// The CUDA version in it.
    pub cuda: Option<Cuda>,
    /// The release of PyTorch in it.
    pub torch: Option<Release>,
    /// The oldest GPU that its software supports.
    pub oldest: Option<Sm>,
    /// Whether it has CUDA's compatibility libraries.
    pub compat: bool,
}

fn kind(text: &str) -> Option<Kind> {
    Some(match text {
        "cuda" => Kind::Cuda,
        "gpu" => Kind::Gpu,
        "ngc" => Kind::Ngc,
        "pytorch" => Kind::PyTorch,
        "rapids" => Kind::Rapids,
        "tensorflow" => Kind::TensorFlow,
        _ => return None,
    })
}

/// The contents of `name:tag`, if it is a GPU image; `name` is without `docker.io`.
pub fn of(name: &str, tag: &str) -> Option<Known> {
    let [_, text, compat, _] =
        rows(REPOSITORIES).find(|[known, ..]: &[_; 4]| match known.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == *known,
        })?;
    let kind = kind(text)?;
    let mut parts = tag.split('-');
    let release: Option<Version> = parts.next().and_then(|first| first.parse().ok());
    let has = |word: &str| tag.split('-').any(|part| part == word);
    // `…-cuda12.1-…`
    let named = || {
        tag.split('-')
            .find_map(|part| part.strip_prefix("cuda")?.parse().ok())
    };
    let cuda = match kind {
        Kind::Cuda => cuda_of(tag),
        Kind::Gpu => None,
        // An SDK for clients needs no GPU.
        Kind::Ngc if has("sdk") => return None,
        Kind::Ngc => by_release("ngc", release),
        Kind::PyTorch | Kind::Rapids => named(),
        Kind::TensorFlow if has("gpu") => by_release("tensorflow", release),
        Kind::TensorFlow => return None,
    };
    let since = |text: &str| {
        release
            .zip(text.parse().ok())
            .is_some_and(|(own, from)| own >= from)
    };
    let oldest = match kind {
        Kind::Rapids if since("24.02") => Some(Sm::new(70)),
        Kind::Rapids => Some(Sm::new(60)),
        _ => None,
    };
    Some(Known {
        kind,
        cuda,
        torch: (kind == Kind::PyTorch)
            .then(|| tag.split('-').next()?.parse().ok())
            .flatten(),
        oldest,
        compat: compat == "yes",
    })
}

/// The CUDA version of the last row of `series` that is not newer than `release`.
fn by_release(series: &str, release: Option<Version>) -> Option<Cuda> {
    let release = release?;
    let [_, _, cuda, _] = rows(TAGS)
        .filter(|[name, from, ..]: &[_; 4]| {
            *name == series && from.parse().is_ok_and(|from: Version| release >= from)
        })
        .last()?;
    known(cuda)?.parse().ok()
}

/// The CUDA version and cuDNN major version that a wheel needs from the image; without a version,
/// those of the newest release.
pub fn wheel(package: &str, version: Option<Version>) -> Option<(Cuda, u32)> {
    let [_, _, cuda, cudnn, _] = rows(WHEELS)
        .filter(|[name, from, ..]: &[_; 5]| {
            let from: Option<Version> = from.parse().ok();
            *name == package && version.is_none_or(|version| from.is_some_and(|from| version >= from))
        })
        .last()?;
    Some((cuda.parse().ok()?, cudnn.parse().ok()?))
}

/// The major version of cuDNN in an image of `nvidia/cuda`: 8 for `cudnn8`, 9 for a plain `cudnn`.
pub fn cudnn_of(tag: &str) -> Option<u32> {
    let text = tag.split('-').find_map(|part| part.strip_prefix("cudnn"))?;
    if text.is_empty() {
        Some(9)
    } else {
        text.parse().ok()
    }
}

/// Why a tag of `nvidia/cuda` can no longer be pulled; `None` if no reason is known.
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
    fn every_row_is_understood() {
        check(REPOSITORIES, |[_, text, compat, _]: [_; 4]| {
            kind(text).filter(|_| ["yes", "-"].contains(&compat))
        });
        check(TAGS, |[_, from, cuda, _]: [_; 4]| {
            from.parse::<Version>().ok()?;
            known(cuda)
                .is_none_or(|cuda| cuda.parse::<Cuda>().is_ok())
                .then_some(())
        });
        check(WHEELS, |[_, from, cuda, cudnn, _]: [_; 5]| {
            from.parse::<Version>().ok()?;
            Some((cuda.parse::<Cuda>().ok()?, cudnn.parse::<u32>().ok()?))
        });
    }

    #[test]
    fn names_and_tags() {
        let cuda = |name: &str, tag: &str| of(name, tag).and_then(|k| k.cuda).map(|c| c.to_string());
        for (name, tag, found) in [
            ("nvidia/cuda", "12.4.1-base-ubuntu22.04", Some("12.4")),
            ("nvcr.io/nvidia/pytorch", "24.05-py3", Some("12.4")),
            ("nvcr.io/nvidia/tritonserver", "23.10-py3-min", Some("12.2")),
            ("nvcr.io/nvidia/tritonserver", "23.10-py3-sdk", None),
            ("nvcr.io/nvidia/pytorch", "27.01-py3", None),
            ("pytorch/pytorch", "2.3.0-cuda12.1-cudnn8-devel", Some("12.1")),
            ("pytorch/pytorch", "latest", None),
            ("tensorflow/tensorflow", "2.11.0-gpu-jupyter", Some("11.2")),
            ("tensorflow/tensorflow", "2.11.0", None),
            ("tensorflow/tensorflow", "latest-gpu", None),
            ("rapidsai/base", "24.10-cuda12.5-py3.11", Some("12.5")),
            ("nvcr.io/nvidia/doca/doca_telemetry", "1.16", None),
        ] {
            assert_eq!(cuda(name, tag).as_deref(), found, "{name}:{tag}");
        }
        assert!(of("nvcr.io/nim/meta/llama3", "1.0").is_some());
        assert!(of("nvcr.io/nvidia/distroless/go", "v3").is_none());
        assert_eq!(
            of("rapidsai/base", "23.12-cuda12.0-py3.10").unwrap().oldest,
            Some(Sm::new(60))
        );
        let needs = |package: &str, version: &str| {
            wheel(package, version.parse().ok()).map(|(cuda, cudnn)| format!("{cuda}/{cudnn}"))
        };
        assert_eq!(needs("onnxruntime-gpu", "1.18.1").as_deref(), Some("11.8/8"));
        assert_eq!(needs("onnxruntime-gpu", "").as_deref(), Some("12.2/9"));
        assert_eq!(needs("tensorflow", "1.15"), None);
        assert_eq!(
            ["12.4.1-cudnn-runtime", "11.8.0-cudnn8-devel", "12.4.1-base"].map(cudnn_of),
            [Some(9), Some(8), None]
        );
    }

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
