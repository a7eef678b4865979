//! Finds the lines of a Dockerfile that keep the image from computing on a GPU.
//!
//! nvoci builds and pulls nothing. For example, `RUN apt-get install nvidia-driver-535` gets the
//! finding `dockerfile.driver`.

mod checks;
mod conda;
mod environment;
mod ignore;
mod install;
mod model;
pub(super) mod parse;
mod project;
mod requirements;
mod wheels;

use std::collections::BTreeMap;

pub use requirements::Context;

use super::check::checks;
use super::{Finding, Report, Severity};
use crate::compat::forward::Package;
use crate::compat::{Class, Cuda, Outcome, Platform, Sm, Target, Version, judge, toolkit, torch};
use crate::error::Result;
use crate::sys::budget::{Budget, Exceeded};

checks! {
    GONE = 7501, "dockerfile.base-gone", "The base image can no longer be pulled.";
    BROKEN = 7502, "dockerfile.broken", "The file is not a Dockerfile.";
    DRIVER = 7503, "dockerfile.driver", "The driver is installed in the image.";
    TOOLKIT = 7504, "dockerfile.toolkit", "The NVIDIA Container Toolkit is installed in the image.";
    CPU = 7505, "dockerfile.cpu-build", "A build for the CPU is installed in an image for GPUs.";
    TWO_CUDAS = 7506, "dockerfile.two-cudas", "Base image and framework are of two major versions of CUDA.";
    CONDA = 7507, "dockerfile.conda-path", "A conda environment is made and not used: it is not on the path.";
    LIBRARY_PATH = 7508, "dockerfile.library-path", "The loader's path holds stubs or compatibility libraries.";
    COPIED = 7509, "dockerfile.driver-copied", "Libraries of the driver are copied into the image.";
    MUSL = 7510, "dockerfile.musl", "The image uses musl: CUDA needs glibc.";
    REQUEST = 7511, "dockerfile.request", "The image's NVIDIA variables keep the GPU or CUDA away.";
    BUILD_TIME = 7512, "dockerfile.build-time", "A GPU is used while the image is built.";
    TARGET = 7513, "dockerfile.target", "The image's software does not run on the target driver or GPU.";
    INDEX = 7514, "dockerfile.index", "An extra index of PyTorch has older releases than PyPI, so pip installs PyPI's build.";
    MISSING = 7515, "dockerfile.missing-library", "A framework needs libraries of CUDA that the image does not have.";
    TWICE = 7516, "dockerfile.two-builds", "Two builds of one framework are installed into one directory.";
    REQUIREMENTS = 7517, "dockerfile.requirements", "A file that pip installs from is not in the build context, or cannot be read, so it is not judged.";
    UNJUDGED = 7518, "dockerfile.not-judged", "The base image, or a command that installs packages, is not judged.";
}

/// The largest file that is read, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// The machine that the image is to run on, as far as the caller names it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The driver's version.
    pub driver: Option<Version>,
    /// Whether it is a Windows driver (WSL2).
    pub windows: bool,
    /// The GPU's architecture.
    pub sm: Option<Sm>,
    /// The GPU's product line.
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

/// Checks the text of a Dockerfile; `name` is for the title, `args` are the `--build-arg`s, and
/// `context` has the files that pip installs from.
///
/// # Errors
/// [`crate::error::Code::TooLarge`] if it needs more than `budget`.
pub fn report(
    name: &str,
    text: &str,
    args: &BTreeMap<String, String>,
    wanted: Wanted,
    context: &Context,
    budget: &Budget,
) -> Result<Report> {
    examine(name, text, args, wanted, context, budget)
        .map_err(|exceeded| exceeded.of(format!("Dockerfile {name}")))
}

/// Whether the image of a Dockerfile is meant for GPUs: by its base, a framework or a variable.
pub(super) fn uses_gpus(
    text: &str,
    args: &BTreeMap<String, String>,
    context: &Context,
    budget: &Budget,
) -> Result<bool, Exceeded> {
    let Ok(instructions) = parse::parse(text) else {
        return Ok(false);
    };
    let model = model::build(instructions, args, context, budget)?;
    Ok(model.last().is_some_and(model::Stage::uses_cuda))
}

fn examine(
    name: &str,
    text: &str,
    args: &BTreeMap<String, String>,
    wanted: Wanted,
    context: &Context,
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
    let model = model::build(instructions, args, context, budget)?;
    let Some(last) = model.last() else {
        report.add(
            Finding::new(&BROKEN, Severity::Fail, name, "it has no `FROM`").fix("name the base image first"),
        );
        return Ok(report);
    };
    let source = last.base().line.to_string();
    report.fact(
        "base",
        format!("{}:{}", last.base().name, last.base().tag),
        &source,
    );
    if let Some(cuda) = last.base().cuda() {
        report.fact("base's CUDA", cuda.to_string(), source);
    }
    for i in last.installs().filter(|i| i.kind == wheels::Kind::Framework) {
        budget.step()?;
        let build = match i.cuda {
            Some(cuda) => format!("for CUDA {cuda}"),
            None if i.cpu.is_some() => "for the CPU".to_owned(),
            None => "build unknown".to_owned(),
        };
        report.fact(i.what.clone(), build, i.line.to_string());
    }
    checks::run(&model, &mut report, budget)?;
    for (file, line) in last.unread() {
        budget.step()?;
        let cause = "pip installs what it lists, and it is not in the build context or cannot be read: its packages are not judged";
        report.add(
            Finding::new(&REQUIREMENTS, Severity::Info, file, cause)
                .fix("name the context: `--context DIR`")
                .evidence(line.to_string()),
        );
    }
    unjudged(last, &mut report, budget)?;
    if let Some(target) = wanted.target() {
        judged(&model, last, &target, &mut report, budget)?;
    }
    Ok(report)
}

/// Names what is not judged: an unknown base image, and commands of other installers.
fn unjudged(stage: model::Stage<'_>, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    let base = stage.base();
    if base.is_unknown() {
        let cause = "the base image is not known: its packages, libraries and variables are not judged";
        report.add(
            Finding::new(&UNJUDGED, Severity::Info, base.name.clone(), cause)
                .fix("build the image, and check it: `nvoci doctor image`")
                .evidence(base.line.to_string()),
        );
    }
    for (command, line) in stage.unjudged() {
        budget.step()?;
        let cause = "it installs packages that are not judged: what names them is not in the build context, cannot be read, or leaves a choice";
        report.add(
            Finding::new(&UNJUDGED, Severity::Info, command, cause)
                .fix("build the image, and check it: `nvoci doctor image`")
                .evidence(line.to_string()),
        );
    }
    Ok(())
}

/// Judges whether the last stage runs on the target.
fn judged(
    model: &model::Model,
    stage: model::Stage<'_>,
    target: &Target,
    report: &mut Report,
    budget: &Budget,
) -> Result<(), Exceeded> {
    let base = stage.base();
    let known = base.known();
    let package = base
        .cuda()
        // The GPU's product line decides whether they work.
        .filter(|_| target.class.is_some() && known.is_some_and(|known| known.compat))
        .and_then(package);
    if let Some(cuda) = base.cuda() {
        let subject = format!("the base image {}", base.name);
        let release = known.and_then(|known| known.torch);
        let oldest = known.and_then(|known| known.oldest);
        let finding = release
            .and_then(|release| checks::architecture(release, cuda, target))
            .or_else(|| too_old(&subject, oldest, cuda, target).map(|f| milder(f, stage)))
            .unwrap_or_else(|| verdict(&subject, cuda, target, package.as_ref()));
        report.add(finding.evidence(base.line.to_string()));
    }
    if let Some(sm) = target.sm
        && let Some(finding) = checks::compiled(model, sm, budget)?
    {
        report.add(finding);
    }
    for i in stage.installs() {
        budget.step()?;
        let Some(cuda) = i.cuda else { continue };
        let mut finding = verdict(&i.what, cuda, target, package.as_ref());
        if let Some(release) = i.torch {
            if let Some(other) = checks::architecture(release, cuda, target) {
                finding = other;
            } else if finding.severity == Severity::Fail
                && let Some(build) = torch::wheel_for(release, target)
            {
                finding.fix.push_str(&format!("; here `{}`", build.pip()));
            }
        }
        if i.torch.is_none()
            && let Some(other) = too_old(&i.what, None, cuda, target)
        {
            finding = other;
        }
        report.add(finding.evidence(i.line.to_string()));
    }
    Ok(())
}

/// The compatibility libraries of an image of `cuda`.
fn package(cuda: Cuda) -> Option<Package> {
    Some(Package {
        version: toolkit::driver_for(cuda, Platform::Linux)?,
        note: None,
    })
}

/// Lowers a base image's finding: its CUDA does not matter to frameworks with their own.
fn milder(mut finding: Finding, stage: model::Stage<'_>) -> Finding {
    if stage.installs().any(|i| i.cuda.is_some()) {
        finding.severity = Severity::Warn;
    }
    finding
}

/// The finding about a GPU that is older than the software supports.
fn too_old(subject: &str, oldest: Option<Sm>, cuda: Cuda, target: &Target) -> Option<Finding> {
    let sm = target.sm?;
    let why = match (oldest, sm.ended_before(cuda)) {
        (Some(oldest), _) if sm.number() < oldest.number() => {
            format!("its software supports {oldest} and newer, and the GPU is {sm}")
        }
        (_, Some(last)) => format!("CUDA {cuda} has no code for {sm}; the last one is {last}"),
        _ => return None,
    };
    Some(
        Finding::new(
            &TARGET,
            Severity::Fail,
            subject,
            format!("{why}: \"no kernel image is available\""),
        )
        .fix("use an older release that supports this GPU"),
    )
}

fn verdict(subject: &str, cuda: Cuda, target: &Target, package: Option<&Package>) -> Finding {
    let driver = target.driver;
    let (severity, cause, fix) = match judge(cuda, target, package) {
        Outcome::Native => (
            Severity::Ok,
            format!("CUDA {cuda} runs natively on driver {driver}"),
            String::new(),
        ),
        Outcome::MinorVersion { native } => (
            Severity::Ok,
            format!(
                "CUDA {cuda} runs on driver {driver} by minor-version compatibility: PTX newer than CUDA {native} \
                 cannot be compiled"
            ),
            String::new(),
        ),
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
