//! Decides whether an image's software runs on the target, and the smallest change that makes it
//! run.

use std::collections::BTreeMap;

use super::checks::{ARCHITECTURE, CPU_ONLY, RUNS};
use super::environments::{Environment, Kind};
use super::fatbin::{Codes, Fatbins};
use super::frameworks::Framework;
use super::{Gpu, Target};
use crate::compat::forward::Package;
use crate::compat::{Cuda, Outcome, Sm, ptx, torch};
use crate::doctor::{Finding, Severity};
use crate::preflight::build::Build;

/// CUDA's text of the error with which programs end.
const TOO_OLD: &str = "error 35, \"CUDA driver version is insufficient for CUDA runtime version\"";

/// A part of the image that needs a CUDA version.
#[derive(Clone, Debug)]
pub struct Need<'a> {
    /// Its name: `PyTorch 2.0.1+cu118`.
    pub name: String,
    /// Its path.
    pub subject: String,
    /// The CUDA version that it needs.
    pub cuda: Cuda,
    /// The text that proves the version.
    pub evidence: String,
    /// The framework, if it is one.
    pub framework: Option<(&'a Framework, &'a Environment)>,
    /// Whether the image is useless without it.
    pub vital: bool,
}

/// Judges how `need` runs with the driver.
pub fn runs(need: &Need<'_>, target: &Target, package: Option<&Package>) -> Finding {
    let new = |severity, cause: String| {
        Finding::new(&RUNS, severity, &need.subject, cause)
            .evidence(&need.evidence)
            .evidence(target.describe())
    };
    let Some((outcome, compat_target)) = target.judge(need.cuda, package) else {
        return new(
            Severity::Info,
            format!(
                "{} needs CUDA {}; whether it runs is unknown without a driver",
                need.name, need.cuda
            ),
        )
        .fix("name a driver with `--driver VERSION`");
    };
    let driver = target.describe();
    match outcome {
        Outcome::Native => new(
            Severity::Ok,
            format!("{} (CUDA {}) runs natively on {driver}", need.name, need.cuda),
        ),
        Outcome::MinorVersion { native } => new(
            Severity::Ok,
            format!(
                "{} (CUDA {}) runs on {driver} by minor-version compatibility: PTX newer than CUDA {native} cannot be compiled",
                need.name, need.cuda
            ),
        ),
        Outcome::Forward { package: version } => {
            let runs = format!(
                "{} (CUDA {}) runs on {driver} by forward compatibility, with the image's libraries of driver {version}",
                need.name, need.cuda
            );
            // With `cuda-compat = "auto"` the hook puts them first.
            new(Severity::Ok, runs)
        }
        Outcome::Unknown(why) => new(
            Severity::Info,
            format!("{} (CUDA {}): {why}", need.name, need.cuda),
        ),
        Outcome::Impossible(change) => {
            let severity = if need.vital {
                Severity::Fail
            } else {
                Severity::Warn
            };
            let finding = new(
                severity,
                format!(
                    "{} needs CUDA {}, but this is {driver}: {TOO_OLD}",
                    need.name, need.cuda
                ),
            );
            let wheel = need
                .framework
                .filter(|(f, _)| f.package == "torch")
                .and_then(|(f, _)| {
                    let release = f.version.parse().ok()?;
                    torch::wheel_for(release, &compat_target).filter(|wheel| wheel.release == release)
                });
            match wheel {
                Some(wheel) => finding.fix(wheel.pip()).evidence(format!("or: {change}")),
                None => finding.fix(change.to_string()),
            }
        }
    }
}

/// How a framework's device code supports a GPU.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Service {
    /// Machine code.
    Machine,
    /// PTX that the driver compiles.
    Ptx,
    /// Some of its code was not read, and the rest does not support the GPU.
    Unknown,
    /// Its toolkit dropped the GPU; this is the last one with code for it.
    Ended(Cuda),
    /// No code.
    None,
}

/// Judges a framework's code for the GPUs; `None` if it is unknown. The worst supported GPU counts.
pub fn architecture(framework: &Framework, target: &Target) -> Option<Finding> {
    let gpus = target.gpus.iter().filter_map(|gpu| Some((gpu, gpu.sm?)));
    let served = gpus.filter_map(|(gpu, sm)| Some((service(framework, target, sm)?, gpu, sm)));
    let (service, gpu, sm) = served.max_by_key(|(service, ..)| *service)?;
    Some(shown(framework, target, (gpu, sm), service))
}

/// How the code supports a GPU. Kernels for single architectures are common, so one container or
/// one declared architecture suffices.
fn service(framework: &Framework, target: &Target, sm: Sm) -> Option<Service> {
    let built = match framework.build {
        Build::Cuda(cuda) => cuda,
        _ => None,
    };
    let ended = built.and_then(|cuda| sm.ended_before(cuda)).map(Service::Ended);
    let found = match &framework.code {
        Some(code) => of_code(code, framework, target, sm),
        None if !framework.declared.is_empty() => of_list(framework, target, sm, built),
        None => match of_wheel(framework, built, sm) {
            Some(found) => found,
            // The toolkit alone decides nothing else.
            None => return ended,
        },
    };
    Some(match (found, ended) {
        (Service::None, Some(ended)) => ended,
        (found, _) => found,
    })
}

/// By the table of PyTorch's wheels, for a tree without their libraries. Other builds have other
/// versions.
fn of_wheel(framework: &Framework, built: Option<Cuda>, sm: Sm) -> Option<Service> {
    let public = framework.version.split('+').next()?;
    let numeric = public.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if framework.package != "torch" || !numeric || sm.is_tegra() {
        return None;
    }
    let release = framework.version.parse().ok()?;
    let wheel = torch::builds(release)
        .into_iter()
        .find(|b| Some(b.cuda) == built)?;
    if wheel.archs.is_empty() {
        None
    } else if wheel.archs.iter().any(|arch| arch.runs_on(sm)) {
        Some(Service::Machine)
    } else if wheel.ptx.is_some_and(|ptx| ptx.compiles_for(sm)) {
        Some(Service::Ptx)
    } else {
        Some(Service::None)
    }
}

/// The finding about the image's own CUDA without code for a GPU.
pub fn toolkit(cuda: Cuda, subject: &str, evidence: &str, target: &Target, vital: bool) -> Option<Finding> {
    let mut gpus = target.gpus.iter();
    let (gpu, last) = gpus.find_map(|gpu| Some((gpu, gpu.sm?.ended_before(cuda)?)))?;
    let severity = if vital { Severity::Fail } else { Severity::Warn };
    let cause = format!("the image's CUDA {cuda} has no code for {gpu}; the last one is {last}");
    Some(
        Finding::new(&ARCHITECTURE, severity, subject, cause)
            .fix(format!("use an image of CUDA {last} or older"))
            .evidence(evidence),
    )
}

/// By the fat binaries of its libraries.
fn of_code(code: &Fatbins, framework: &Framework, target: &Target, sm: Sm) -> Service {
    let native = target.native().map(|native| native.cuda);
    let compiles = |version: (u16, u16)| {
        ptx::cuda_of(version.0.into(), version.1.into()).is_some_and(|cuda| native.is_some_and(|n| cuda <= n))
    };
    let declared: Vec<Sm> = framework.declared.iter().filter_map(|a| a.parse().ok()).collect();
    let as_declared = |number: u32| {
        let plain = Sm::new(number);
        // A fat binary has no suffix; the list may.
        let of_number = |sm: &&Sm| sm.number() == number;
        if declared.contains(&plain) {
            return plain;
        }
        declared.iter().find(of_number).copied().unwrap_or(plain)
    };
    let machine = |codes: &Codes| codes.cubins.iter().any(|a| as_declared(*a).runs_on(sm));
    let ptx = |codes: &Codes| {
        let mut all = codes.ptx.iter();
        all.any(|(arch, version)| Sm::new(*arch).compiles_for(sm) && compiles(*version))
    };
    if code.count(machine) > 0 {
        Service::Machine
    } else if code.count(ptx) > 0 {
        Service::Ptx
    } else if code.partial {
        Service::Unknown
    } else {
        Service::None
    }
}

/// By the architectures of its own list.
fn of_list(framework: &Framework, target: &Target, sm: Sm, built: Option<Cuda>) -> Service {
    let native = target.native().map(|native| native.cuda);
    // The toolkit of the framework's build compiled the PTX.
    let compiles = built.zip(native).is_some_and(|(built, native)| built <= native);
    let each = framework.declared.iter().filter_map(|text| {
        let code: Sm = text.parse().ok()?;
        // TensorFlow's `compute_80` is machine code and PTX (its configure.py); PyTorch's is PTX
        // alone.
        let machine = framework.package == "tensorflow" || !text.starts_with("compute_");
        Some(if machine && code.runs_on(sm) {
            Service::Machine
        } else if text.starts_with("compute_") && compiles && code.compiles_for(sm) {
            Service::Ptx
        } else {
            Service::None
        })
    });
    each.min().unwrap_or(Service::None)
}

/// Makes the finding.
fn shown(framework: &Framework, target: &Target, (gpu, sm): (&Gpu, Sm), service: Service) -> Finding {
    let name = format!("{} {}", framework.name, framework.version);
    let evidence = match &framework.code {
        Some(code) => listing(code),
        None if framework.declared.is_empty() => framework.evidence.clone(),
        None => format!("built for {}", framework.declared.join(" ")),
    };
    let (severity, cause) = match service {
        Service::Machine => (Severity::Ok, format!("{name} has machine code for {gpu}")),
        Service::Ptx => (
            Severity::Ok,
            format!("{name} has PTX that the driver compiles for {gpu}"),
        ),
        Service::Unknown => (
            Severity::Info,
            format!(
                "{name}: whether it has code for {gpu} is unknown, as not all of its libraries could be read"
            ),
        ),
        Service::Ended(last) => (
            Severity::Fail,
            format!(
                "{name} is built with a CUDA that has no code for {gpu}; the last one is {last}: error 209, \"no kernel image is available for execution on the device\""
            ),
        ),
        Service::None => (
            Severity::Fail,
            format!(
                "{name} has no code for {gpu}: error 209, \"no kernel image is available for execution on the device\""
            ),
        ),
    };
    let finding = Finding::new(
        &ARCHITECTURE,
        severity,
        framework.path.display().to_string(),
        cause,
    )
    .evidence(evidence);
    match severity {
        Severity::Fail | Severity::Warn => finding.fix(better_build(framework, target, sm)),
        Severity::Info | Severity::Ok => finding,
    }
}

/// The architectures of a library, with the number of containers for those that are not in all.
pub fn listing(code: &Fatbins) -> String {
    let total = code.total();
    let mut text = String::from("machine code for");
    for (arch, n) in code.architectures() {
        text.push_str(&format!(" {}", Sm::new(arch)));
        if n < total {
            text.push_str(&format!(" ({n} of {total})"));
        }
    }
    let mut with_ptx: BTreeMap<u32, usize> = BTreeMap::new();
    for (codes, n) in &code.sets {
        for (arch, _) in &codes.ptx {
            *with_ptx.entry(*arch).or_insert(0) += n;
        }
    }
    for (arch, n) in with_ptx {
        text.push_str(&format!("; PTX for compute_{arch} ({n} of {total})"));
    }
    text
}

fn better_build(framework: &Framework, target: &Target, sm: Sm) -> String {
    let compat_target = target
        .each()
        .into_iter()
        .filter_map(|(_, compat_target)| compat_target)
        .find(|compat_target| compat_target.sm == Some(sm));
    let wheel = (framework.package == "torch")
        .then(|| framework.version.parse().ok())
        .flatten()
        .zip(compat_target)
        .and_then(|(release, compat_target)| torch::wheel_for(release, &compat_target));
    if let Some(wheel) = wheel {
        return wheel.pip();
    }
    match sm.architecture() {
        Some(a) => match (a.first, a.last) {
            (Some(first), None) => format!(
                "use a build of {} for CUDA {first} or newer that lists {sm}",
                framework.name
            ),
            (Some(first), Some(last)) => {
                format!(
                    "use a build of {} for CUDA {first} to {last} that lists {sm}",
                    framework.name
                )
            }
            _ => format!("use a build of {} that lists {sm}", framework.name),
        },
        None => format!("use a build of {} that lists {sm}", framework.name),
    }
}

/// A build without GPU code.
pub fn cpu_only(framework: &Framework, environment: &Environment, target: &Target, vital: bool) -> Finding {
    let severity = if vital { Severity::Fail } else { Severity::Warn };
    let name = format!("{} {}", framework.name, framework.version);
    let (what, fix) = match framework.build {
        Build::Rocm => ("built for AMD GPUs", cuda_build(framework, environment, target)),
        _ => ("a CPU-only build", cuda_build(framework, environment, target)),
    };
    let cause = match framework.package {
        "torch" => format!("{name} is {what}: `torch.cuda.is_available()` is False on any host"),
        _ => format!("{name} is {what}: it computes on the CPU on any host"),
    };
    Finding::new(&CPU_ONLY, severity, framework.path.display().to_string(), cause)
        .fix(fix)
        .evidence(&framework.evidence)
}

/// The command that installs the framework with GPU code.
fn cuda_build(framework: &Framework, environment: &Environment, target: &Target) -> String {
    let version = framework.version.split('+').next().unwrap_or_default();
    match framework.package {
        "torch" => {
            let release = framework.version.parse().ok();
            let compat_target = target
                .each()
                .into_iter()
                .find_map(|(_, compat_target)| compat_target);
            let wheel = release.and_then(|release| match compat_target {
                Some(compat_target) => torch::wheel_for(release, &compat_target),
                None => torch::on_pypi(release),
            });
            let conda = environment.kind == Kind::Conda && environment.package("pytorch").is_some();
            match wheel {
                Some(wheel) if conda => format!(
                    "conda install pytorch={} pytorch-cuda={} -c pytorch -c nvidia",
                    wheel.release, wheel.cuda
                ),
                Some(wheel) => wheel.pip(),
                None => {
                    "install a CUDA build of PyTorch: https://pytorch.org/get-started/locally/".to_owned()
                }
            }
        }
        "tensorflow" => format!("pip install \"tensorflow[and-cuda]=={version}\""),
        "jax" => {
            let major = target
                .native()
                .map_or(12, |n| if n.cuda.major >= 13 { 13 } else { 12 });
            format!("pip install \"jax[cuda{major}]=={version}\"")
        }
        "onnxruntime" => "pip uninstall onnxruntime, then pip install onnxruntime-gpu".to_owned(),
        "paddle" => format!("pip uninstall paddlepaddle, then pip install paddlepaddle-gpu=={version}"),
        "llama-cpp-python" => {
            "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir llama-cpp-python"
                .to_owned()
        }
        other => format!("install a CUDA build of {other}"),
    }
}
