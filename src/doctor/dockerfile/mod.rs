//! A Dockerfile: what in it will keep the image from computing on a GPU. Nothing is built or pulled.

mod checks;
mod install;
mod model;
pub(super) mod parse;

use std::collections::BTreeMap;

use super::check::checks;
use super::{Finding, Report, Severity};
use crate::compat::{Class, Cuda, Outcome, Platform, Sm, Target, Version, judge, torch};
use crate::error::Result;
use crate::sys::budget::{Budget, Exceeded};

checks! {
    GONE = 7501, "dockerfile.base-gone", "The base image cannot be pulled any more.";
    BROKEN = 7502, "dockerfile.broken", "The file is not a Dockerfile.";
    DRIVER = 7503, "dockerfile.driver", "The driver is installed in the image.";
    TOOLKIT = 7504, "dockerfile.toolkit", "The NVIDIA Container Toolkit is installed in the image.";
    CPU = 7505, "dockerfile.cpu-build", "A build for the CPU is installed in an image for GPUs.";
    TWO_CUDAS = 7506, "dockerfile.two-cudas", "Base image and framework are of two major versions of CUDA.";
    CONDA = 7507, "dockerfile.conda-path", "A conda environment is made and not used: it is not on the path.";
    LIBRARY_PATH = 7508, "dockerfile.library-path", "The loader's path holds stubs or compatibility libraries.";
    COPIED = 7509, "dockerfile.driver-copied", "Libraries of the driver are copied into the image.";
    MUSL = 7510, "dockerfile.musl", "The image is of musl: CUDA needs glibc.";
    REQUEST = 7511, "dockerfile.request", "The image's NVIDIA variables keep the GPU or CUDA away.";
    BUILD_TIME = 7512, "dockerfile.build-time", "A GPU is used while the image is built.";
    TARGET = 7513, "dockerfile.target", "What the image brings does not run on the driver or GPU it is meant for.";
}

/// The largest file that is read, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// What the image is to run on, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The driver's version.
    pub driver: Option<Version>,
    /// Whether it is a Windows driver (WSL2).
    pub windows: bool,
    /// The GPU's architecture.
    pub sm: Option<Sm>,
    /// What the GPU is sold as.
    pub class: Option<Class>,
}

impl Wanted {
    fn target(self) -> Option<Target> {
        Some(Target {
            driver: self.driver?,
            platform: if self.windows {
                Platform::Windows
            } else {
                Platform::Linux
            },
            sm: self.sm,
            class: self.class,
        })
    }
}

/// Looks at the text of a Dockerfile; `name` is for the title, `args` are the `--build-arg`s.
///
/// # Errors
/// [`crate::error::Code::TooLarge`] when it needs more than `budget`.
pub fn report(
    name: &str,
    text: &str,
    args: &BTreeMap<String, String>,
    wanted: Wanted,
    budget: &Budget,
) -> Result<Report> {
    examine(name, text, args, wanted, budget).map_err(|exceeded| exceeded.of(format!("Dockerfile {name}")))
}

fn examine(
    name: &str,
    text: &str,
    args: &BTreeMap<String, String>,
    wanted: Wanted,
    budget: &Budget,
) -> Result<Report, Exceeded> {
    let mut report = Report::new(format!("dockerfile {name}"));
    let instructions = match parse::parse(text) {
        Ok(all) => all,
        Err(why) => {
            report.add(Finding::new(&BROKEN, Severity::Fail, name, why));
            return Ok(report);
        }
    };
    let model = model::build(instructions, args, budget)?;
    let Some(last) = model.last() else {
        report.add(
            Finding::new(&BROKEN, Severity::Fail, name, "it has no `FROM`").fix("name the base image first"),
        );
        return Ok(report);
    };
    report.fact("base", format!("{}:{}", last.base().name, last.base().tag));
    if let Some(cuda) = last.base().cuda() {
        report.fact("base's CUDA", cuda.to_string());
    }
    for i in last.installs().filter(|i| i.kind == install::Kind::Framework) {
        budget.step()?;
        let build = match i.cuda {
            Some(cuda) => format!("for CUDA {cuda}"),
            None if i.cpu => "for the CPU".to_owned(),
            None => "build not known".to_owned(),
        };
        report.fact(i.what.clone(), build);
    }
    checks::run(&model, &mut report, budget)?;
    if let Some(target) = wanted.target() {
        judged(last, &target, &mut report, budget)?;
    }
    Ok(report)
}

/// Whether what the last stage brings runs on the target.
fn judged(
    stage: model::Stage<'_>,
    target: &Target,
    report: &mut Report,
    budget: &Budget,
) -> Result<(), Exceeded> {
    let base = stage.base();
    if let Some(cuda) = base.cuda() {
        let subject = format!("the base image {}", base.name);
        report.add(verdict(&subject, cuda, target).evidence(base.line.to_string()));
    }
    for i in stage.installs() {
        budget.step()?;
        let Some(cuda) = i.cuda else { continue };
        let mut finding = verdict(&i.what, cuda, target);
        if let Some(release) = i.torch {
            if let Some(other) = checks::architecture(release, cuda, target) {
                finding = other;
            } else if finding.severity == Severity::Fail
                && let Some(build) = torch::wheel_for(release, target)
            {
                finding.fix.push_str(&format!("; here `{}`", build.pip()));
            }
        }
        report.add(finding.evidence(i.line.to_string()));
    }
    Ok(())
}

fn verdict(subject: &str, cuda: Cuda, target: &Target) -> Finding {
    let driver = target.driver;
    let (severity, cause, fix) = match judge(cuda, target, None) {
        Outcome::Native => (
            Severity::Ok,
            format!("CUDA {cuda} runs natively on driver {driver}"),
            String::new(),
        ),
        Outcome::MinorVersion { native } => (
            Severity::Warn,
            format!(
                "CUDA {cuda} runs on driver {driver} (CUDA {native}) only by minor-version compatibility: \
                 PTX of the newer toolkit and its new calls do not work"
            ),
            format!("use a build for CUDA {native} or older, or a driver that speaks {cuda}"),
        ),
        // The image's own compatibility package is not known before it is built.
        Outcome::Impossible(change) => (
            Severity::Fail,
            format!("CUDA {cuda} does not run on driver {driver}: \"CUDA driver version is insufficient\""),
            change.to_string(),
        ),
        Outcome::Unknown(why) => (Severity::Info, why, String::new()),
        Outcome::Forward { package } => (
            Severity::Ok,
            format!("CUDA {cuda} runs on driver {driver} with the libraries of {package}"),
            String::new(),
        ),
    };
    Finding::new(&TARGET, severity, subject, cause).fix(fix)
}

#[cfg(test)]
mod tests;
