//! The build of a framework in the build string of its conda package.

use crate::compat::{Cuda, torch};

/// The devices that a build computes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Built {
    /// The CPU alone.
    Cpu,
    /// GPUs, with this release of CUDA.
    Cuda(Cuda),
}

/// Parses `cpu_generic_py311h8ca351a_0`, `py3.10_cuda12.1_cudnn8.9.2_0`, `cuda126_py312h1_200`, or
/// a pattern of one, `*cuda126*`; `None` if it names neither.
pub(super) fn parse(text: &str) -> Option<Built> {
    if text.contains("cpu") {
        return Some(Built::Cpu);
    }
    let number = text.split("cuda").nth(1)?;
    let end = number
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(number.len());
    let number = number.get(..end)?;
    let cuda = if number.contains('.') {
        let mut parts = number.splitn(3, '.');
        format!("{}.{}", parts.next()?, parts.next()?).parse().ok()
    } else {
        torch::cuda_of_tag(&format!("cu{number}"))
    };
    cuda.map(Built::Cuda)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_strings() {
        let cuda = |major, minor| Some(Built::Cuda(Cuda { major, minor }));
        for (text, built) in [
            ("py3.10_cuda12.1_cudnn8.9.2_0", cuda(12, 1)),
            ("cuda120_py311h9c5ba8a_300", cuda(12, 0)),
            ("*cuda118*", cuda(11, 8)),
            ("cpu_generic_py311h8ca351a_0", Some(Built::Cpu)),
            ("py3.10_cpu_0", Some(Built::Cpu)),
            ("py310h1_0", None),
            ("cuda", None),
            ("", None),
        ] {
            assert_eq!(parse(text), built, "{text}");
        }
    }
}
