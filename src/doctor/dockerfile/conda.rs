//! The packages that `conda`, `mamba` and `micromamba` install.
//!
//! conda-forge has builds of a framework for CUDA and for the CPU. conda takes the one for CUDA if
//! it detects a driver, and the build of an image detects none: `conda install pytorch` installs
//! the build for the CPU without a word. `CONDA_OVERRIDE_CUDA=12.6` stands for a driver; a build
//! string (`pytorch=*=*cuda*`) makes the choice explicit. Sources: conda-forge.org/docs/user/cuda,
//! "Installing CUDA packages without a GPU"; github.com/mamba-org/micromamba-docker/issues/620.

use crate::compat::Cuda;
use crate::doctor::conda_build::{self, Built};

/// A package of conda, as far as it concerns the GPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Package<'a> {
    pub(super) name: &'a str,
    pub(super) build: Build,
}

/// The build that conda takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Build {
    /// For the CPU, as the file demands.
    Cpu,
    /// For this version of CUDA.
    Cuda(Cuda),
    /// Libraries of CUDA, of some version.
    Libraries,
    /// For the CPU, since conda detects no driver.
    Undetected,
}

/// Frameworks that conda-forge builds for CUDA and for the CPU.
const FRAMEWORKS: [&str; 4] = ["jaxlib", "libtorch", "pytorch", "tensorflow"];
/// Base images whose conda has conda-forge as its only channel.
const FORGE: [&str; 2] = ["condaforge/miniforge3", "condaforge/mambaforge"];
/// Options that take the next word.
const VALUED: [&str; 9] = [
    "-c",
    "--channel",
    "-f",
    "--file",
    "-n",
    "--name",
    "-p",
    "--prefix",
    "--repodata-fn",
];
/// Whether a command of conda installs packages.
pub(super) fn installs(words: &[&str]) -> bool {
    words.iter().any(|word| VERBS.contains(word))
}

const VERBS: [&str; 5] = ["create", "install", "update", "upgrade", "add"];

/// The packages of one command's `words`, without the program. `base` is the base image's name,
/// `override_cuda` whether `CONDA_OVERRIDE_CUDA` is set.
pub(super) fn packages<'a>(words: &[&'a str], base: &str, override_cuda: bool) -> Vec<Package<'a>> {
    if !installs(words) {
        return Vec::new();
    }
    let mut specs = Vec::new();
    let mut channels = Vec::new();
    let mut option = None;
    for &word in words {
        match option.take() {
            Some("-c" | "--channel") => channels.push(word),
            Some(_) => {}
            None if VALUED.contains(&word) => option = Some(word),
            None => match word.strip_prefix("--channel=") {
                Some(channel) => channels.push(channel),
                None if word.starts_with('-') => {}
                None => specs.push(Spec::of(word)),
            },
        }
    }
    let forge = FORGE.contains(&base) || channels.contains(&"conda-forge");
    // The pytorch channel's builds for CUDA need no driver to be installed.
    let other = channels.contains(&"pytorch") || specs.iter().any(|spec| spec.name == "pytorch-cuda");
    let undetected = |spec: &Spec<'_>| match spec.channel {
        Some(channel) => channel == "conda-forge",
        None => forge && !other,
    };
    let judged = specs.iter().filter_map(|spec| {
        let build = spec.build().or_else(|| {
            let chosen = !override_cuda && FRAMEWORKS.contains(&spec.name) && undetected(spec);
            (chosen && spec.text.is_none()).then_some(Build::Undetected)
        })?;
        Some(Package {
            name: spec.name,
            build,
        })
    });
    judged.collect()
}

/// A package specification: `conda-forge::pytorch=2.7=*cuda126*`, `pytorch[build=*cpu*]`.
#[derive(Clone, Copy, Debug)]
struct Spec<'a> {
    channel: Option<&'a str>,
    name: &'a str,
    version: &'a str,
    /// The build string.
    text: Option<&'a str>,
}

impl<'a> Spec<'a> {
    fn of(word: &'a str) -> Self {
        let (channel, rest) = match word.split_once("::") {
            Some((channel, rest)) => (Some(channel), rest),
            None => (None, word),
        };
        let end = rest
            .find(['=', '<', '>', '!', '~', '[', ' '])
            .unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        if let Some(members) = rest.strip_prefix('[') {
            let member = |key: &str| {
                let mut all = members.trim_end_matches(']').split(',');
                all.find_map(|m| Some(m.trim().strip_prefix(key)?.trim_matches(['\'', '"'])))
            };
            return Self {
                channel,
                name,
                version: member("version=").unwrap_or_default(),
                text: member("build="),
            };
        }
        // `=2.7=build` and `==2.7=build`; `>=2.7` has no build.
        let version = rest.trim_start_matches(['=', '<', '>', '!', '~', ' ']);
        let (version, text) = match version.split_once('=') {
            Some((version, text)) => (version, Some(text)),
            None => (version, None),
        };
        Self {
            channel,
            name,
            version,
            text,
        }
    }

    /// The build that the specification itself names.
    fn build(self) -> Option<Build> {
        match self.name {
            "cpuonly" | "pytorch-cpu" | "tensorflow-cpu" => return Some(Build::Cpu),
            "cudatoolkit" | "pytorch-cuda" | "cuda-version" => {
                return self.version.trim_end_matches(".*").parse().ok().map(Build::Cuda);
            }
            name if name.starts_with("cudnn") => return Some(Build::Libraries),
            name if FRAMEWORKS.contains(&name) => {}
            _ => return None,
        }
        match conda_build::parse(self.text?)? {
            Built::Cpu => Some(Build::Cpu),
            Built::Cuda(cuda) => Some(Build::Cuda(cuda)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages_of(command: &str) -> Vec<Package<'_>> {
        let words: Vec<&str> = command.split(' ').collect();
        packages(&words, "condaforge/miniforge3", false)
    }

    fn cuda(major: u32, minor: u32) -> Build {
        Build::Cuda(Cuda { major, minor })
    }

    #[test]
    fn a_build_of_an_image_detects_no_driver() {
        let undetected = [Package {
            name: "pytorch",
            build: Build::Undetected,
        }];
        for command in [
            "install -y pytorch",
            "install -y python=3.12 pytorch numpy",
            "create -n ml pytorch=2.7",
            "install conda-forge::pytorch>=2.5",
            "update pytorch",
        ] {
            assert_eq!(packages_of(command), undetected, "{command}");
        }
        // The channel is not known, or its builds for CUDA need no driver.
        for command in [
            "install -y pytorch -c pytorch",
            "list pytorch",
            "install -n pytorch numpy",
            "install --channel=pytorch pytorch",
            "install pytorch::pytorch",
            "search pytorch",
        ] {
            assert_eq!(packages_of(command), [], "{command}");
        }
        let words = ["install", "pytorch"];
        assert_eq!(packages(&words, "continuumio/miniconda3", false), []);
        assert_eq!(packages(&words, "condaforge/miniforge3", true), []);
        assert_eq!(
            packages(
                &["install", "-c", "conda-forge", "pytorch"],
                "mambaorg/micromamba",
                false
            ),
            undetected
        );
    }

    #[test]
    fn build_strings() {
        for (spec, build) in [
            ("pytorch=2.7=*cuda126*", cuda(12, 6)),
            ("pytorch=*=cuda118*", cuda(11, 8)),
            ("pytorch==2.1.0=py3.10_cuda11.8_cudnn8.7.0_0", cuda(11, 8)),
            ("pytorch[version='>=2.1',build='*cuda12.4*']", cuda(12, 4)),
            ("pytorch=2.1=cpu*", Build::Cpu),
            ("conda-forge::pytorch[build=cpu_*]", Build::Cpu),
            ("pytorch-cuda=12.1", cuda(12, 1)),
            ("cudatoolkit=11.8.*", cuda(11, 8)),
            ("cpuonly", Build::Cpu),
            ("cudnn=8.9", Build::Libraries),
        ] {
            let words = ["install", spec];
            let found = packages(&words, "x", false);
            assert_eq!(
                found.iter().map(|p| p.build).collect::<Vec<_>>(),
                [build],
                "{spec}"
            );
        }
        // A build for some CUDA: nothing is known of its version.
        assert_eq!(packages_of("install pytorch=*=*cuda*"), []);
        for odd in [
            "",
            "=",
            "pytorch[",
            "pytorch[build=",
            "::",
            "pytorch=2=cuda1.",
            "pytorch===",
        ] {
            let _ = packages(&["install", odd], "x", false);
        }
    }
}
