//! Reads the target of a framework's build from its version file.

use super::text::{after_key, assignment, list, quoted};
use crate::compat::Cuda;

/// The largest version file, in bytes; TensorFlow's is the largest with a few kB.
pub const MAX_TEXT: u64 = 64 << 10;

/// The target of a framework's build.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Build {
    /// No GPU code at all.
    Cpu,
    /// CUDA, with its release if the file names it.
    Cuda(Option<Cuda>),
    /// AMD's ROCm.
    Rocm,
    /// The file names no target.
    Unknown,
}

/// The CUDA release of a tag: `cu118` is 11.8, `cu130` is 13.0.
pub fn of_tag(tag: &str) -> Option<Cuda> {
    let digits = tag.strip_prefix("cu")?;
    let (major, minor) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
    Some(Cuda {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// The build in a local version: `2.0.1+cu118`, `2.0.1+cpu`.
pub fn of_local(version: &str) -> Option<Build> {
    let (_, local) = version.split_once('+')?;
    match local {
        l if l.starts_with("cpu") => Some(Build::Cpu),
        l if l.starts_with("rocm") => Some(Build::Rocm),
        l => of_tag(l.split('.').next()?).map(|cuda| Build::Cuda(Some(cuda))),
    }
}

/// Version and build in PyTorch's `version.py`.
pub fn torch_of(text: &str) -> Option<(String, Build)> {
    let version = assignment(text, "__version__").flatten()?;
    let build = match (assignment(text, "cuda"), assignment(text, "hip")) {
        (Some(Some(cuda)), _) => Build::Cuda(cuda.parse().ok()),
        (_, Some(Some(_))) => Build::Rocm,
        (Some(None), _) => Build::Cpu,
        (None, _) => of_local(version).unwrap_or(Build::Unknown),
    };
    Some((version.to_owned(), build))
}

/// Build and architectures in TensorFlow's `build_info.py`.
pub fn tensorflow_of(text: &str) -> (Build, Vec<String>) {
    let cuda = after_key(text, "cuda_version").and_then(quoted);
    let is_cuda = after_key(text, "is_cuda_build").map(|t| t.starts_with("True"));
    let build = match (is_cuda, cuda) {
        (Some(false), _) => Build::Cpu,
        (_, Some(cuda)) => Build::Cuda(cuda.parse().ok()),
        (Some(true), None) => Build::Cuda(None),
        (None, None) => Build::Unknown,
    };
    let declared = after_key(text, "cuda_compute_capabilities").map(list);
    let declared = declared.unwrap_or_default().into_iter().filter(|a| is_arch(a));
    (build, declared.map(str::to_owned).collect())
}

/// `sm_90a`, `compute_90`.
pub fn is_arch(text: &str) -> bool {
    let number = text.strip_prefix("sm_").or_else(|| text.strip_prefix("compute_"));
    number.is_some_and(|n| {
        let n = n.strip_suffix(['a', 'f']).unwrap_or(n);
        (2..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit())
    })
}
