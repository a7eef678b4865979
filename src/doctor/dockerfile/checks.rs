//! The checks on a Dockerfile.

use std::collections::HashSet;

use super::install::{Install, shell_commands};
use super::model::{Model, Stage, Step};
use super::parse::Line;
use super::wheels::{Kind, Reason};
use super::{
    BUILD_TIME, CONDA, COPIED, CPU, DRIVER, Finding, GONE, INDEX, LIBRARY_PATH, MISSING, MUSL, REQUEST,
    Report, Severity, TARGET, TOOLKIT, TWICE, TWO_CUDAS,
};
use crate::compat::torch::{self, Release};
use crate::compat::{Cuda, Sm, Target, image};
use crate::sys::budget::{Budget, Exceeded};

/// Runs all checks except those that need a target.
pub(super) fn run(model: &Model, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    let Some(last) = model.last() else {
        return Ok(());
    };
    bases(model, report);
    packages(last, report, budget)?;
    cpu_builds(last, report, budget)?;
    if last.uses_cuda() {
        musl(last, report);
    }
    two_cudas(last, report, budget)?;
    indices(last, report);
    onnxruntimes(last, report);
    missing_libraries(last, report, budget)?;
    conda(last, model, report, budget)?;
    library_path(last, report);
    request(last, report);
    let places = last.places();
    for step in &model.steps {
        // A builder stage links against libraries that the image does not get.
        if step.stage.is_some_and(|place| places.contains(&place)) {
            copied(step, report, budget)?;
            loader_files(step, report, budget)?;
        }
        build_time(step, report, budget)?;
    }
    Ok(())
}

fn at(finding: Finding, line: &Line) -> Finding {
    finding.evidence(line.to_string())
}

fn step_at(finding: Finding, step: &Step, needle: &str, budget: &Budget) -> Result<Finding, Exceeded> {
    Ok(at(finding, &step.instruction.line_of(needle, budget)?))
}

fn bases(model: &Model, report: &mut Report) {
    let mut seen = HashSet::new();
    for base in model.bases().filter(|b| b.is_cuda()) {
        if !seen.insert(base.line.number) {
            continue;
        }
        let tag = if base.tag.is_empty() { "latest" } else { &base.tag };
        let subject = format!("{}:{tag}", base.name);
        let gone = image::gone(tag).filter(|_| !base.pinned);
        report.add(match gone {
            Some(why) => at(
                Finding::new(&GONE, Severity::Fail, subject, why)
                    .fix("name a tag that exists, with CUDA version and distribution: nvidia/cuda:12.6.3-base-ubuntu24.04"),
                &base.line,
            ),
            None => Finding::new(&GONE, Severity::Ok, subject, "no problem with this tag is known"),
        });
    }
}

fn packages(stage: Stage<'_>, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    let mut seen = HashSet::new();
    for i in stage.own_installs() {
        budget.step()?;
        if !seen.insert((i.kind, i.what.as_str(), i.line.number)) {
            continue;
        }
        let finding = match i.kind {
            Kind::Driver => Finding::new(
                &DRIVER,
                Severity::Fail,
                i.what.clone(),
                "it brings the driver's libraries into the image, where they hide the host's: \
                 \"driver/library version mismatch\" on every host with another driver",
            )
            .fix("leave it out: the driver comes from the host; for the toolkit alone install cuda-toolkit-X-Y"),
            Kind::ContainerToolkit => Finding::new(
                &TOOLKIT,
                Severity::Warn,
                i.what.clone(),
                "it belongs on the host and does nothing in an image, except in one that starts containers itself",
            )
            .fix("leave it out"),
            Kind::CondaEnvironment | Kind::Framework | Kind::Libraries | Kind::Removed => continue,
        };
        report.add(at(finding, &i.line));
    }
    Ok(())
}

fn cpu_builds(stage: Stage<'_>, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    let uses_cuda = stage.uses_cuda();
    // Another command may install JAX's plugin for CUDA.
    let jax = stage
        .installs()
        .any(|i| i.what.starts_with("jax") && i.cuda.is_some())
        || stage
            .base()
            .known()
            .is_some_and(|known| known.kind == image::Kind::Ngc);
    for i in stage.installs() {
        budget.step()?;
        let Some(reason) = i.cpu else { continue };
        // Nothing states that the image is for a GPU, and conda chose the build by itself.
        let severity = match (uses_cuda, reason) {
            (true, _) => Severity::Fail,
            (false, Reason::Undetected) => Severity::Info,
            (false, _) => continue,
        };
        let fix = match (i.what.as_str(), reason) {
            ("jax" | "jaxlib", _) if jax => continue,
            ("jax" | "jaxlib", _) => "pip install \"jax[cuda12]\"".to_owned(),
            ("paddlepaddle", _) => "pip install paddlepaddle-gpu".to_owned(),
            (_, Reason::Undetected) => format!(
                "add `ARG CONDA_OVERRIDE_CUDA={}` before the RUN",
                stage
                    .base()
                    .cuda()
                    .map_or_else(|| "12.6".to_owned(), |cuda| cuda.to_string())
            ),
            (_, Reason::Driverless) => "name the backend: `--torch-backend=cu126`".to_owned(),
            (_, Reason::Compiled) => {
                "CMAKE_ARGS=-DGGML_CUDA=on pip install …, in an image with the compiler (nvidia/cuda:…-devel-…)".to_owned()
            }
            (_, Reason::Arm) => {
                "on a server take --index-url https://download.pytorch.org/whl/cu126, on a Jetson the wheel of NVIDIA for its JetPack"
                    .to_owned()
            }
            _ => cuda_build(stage),
        };
        report.add(at(
            Finding::new(&CPU, severity, i.what.clone(), cause(reason)).fix(fix),
            &i.line,
        ));
    }
    Ok(())
}

/// Why a build computes on the CPU.
fn cause(reason: Reason) -> &'static str {
    match reason {
        Reason::Amd => "the build for AMD's GPUs is installed: it never uses one of NVIDIA's",
        Reason::Arm => "PyPI's wheel for aarch64 is for the CPU: it never uses a GPU, and prints no warning",
        Reason::Chosen => "the build for the CPU is installed: it never uses a GPU, and prints no warning",
        Reason::Compiled => {
            "pip compiles it for the CPU, since no option of CMake turns CUDA on: it never uses a GPU"
        }
        Reason::Driverless => {
            "uv detects no driver while the image is built, and installs the build for the CPU: it never uses a GPU"
        }
        Reason::Intel => "the build for Intel's GPUs is installed: it never uses one of NVIDIA's",
        Reason::Undetected => {
            "conda detects no driver while the image is built, and installs the build for the CPU: it never uses a GPU"
        }
    }
}

/// The command that installs PyTorch for the image's CUDA.
fn cuda_build(stage: Stage<'_>) -> String {
    stage.base().cuda().map_or_else(
        || {
            "install the CUDA build: `pip install torch --index-url https://download.pytorch.org/whl/cu126`"
                .to_owned()
        },
        |cuda| format!("install the build for CUDA {cuda} or older of that major version"),
    )
}

/// Checks for an extra index, beside PyPI, that has only older releases.
fn indices(stage: Stage<'_>, report: &mut Report) {
    for i in stage.installs() {
        let Some(tag) = &i.outbid else { continue };
        report.add(at(
            Finding::new(
                &INDEX,
                Severity::Warn,
                i.what.clone(),
                format!("--extra-index-url adds {tag} to PyPI, and pip takes the newest release of both: that is PyPI's, for another CUDA"),
            )
            .fix(format!("--index-url https://download.pytorch.org/whl/{tag}, or a version that it has")),
            &i.line,
        ));
    }
}

/// Checks for onnxruntime and onnxruntime-gpu, which share a directory.
fn onnxruntimes(stage: Stage<'_>, report: &mut Report) {
    let named = |name: &str| stage.installs().filter(|i| i.what == name).last();
    if let (Some(cpu), Some(_)) = (named("onnxruntime"), named("onnxruntime-gpu"))
        && !stage.installs().any(|i| i.kind == Kind::Removed)
    {
        report.add(at(
            Finding::new(
                &TWICE,
                Severity::Warn,
                "onnxruntime",
                "onnxruntime and onnxruntime-gpu are both installed, into one directory: the last one wins, and may be the one for the CPU",
            )
            .fix("install onnxruntime-gpu alone; `pip uninstall -y onnxruntime` before it where another package requires it"),
            &cpu.line,
        ));
    }
}

/// The image's CUDA libraries, for frameworks that bring none.
struct Libraries {
    cuda: Option<Cuda>,
    /// Whether it has cuBLAS and the others, not only the runtime.
    whole: bool,
    cudnn: Option<u32>,
}

impl Libraries {
    /// By the image's name; `None` if the name does not decide, or if other parts may bring them.
    fn of(stage: Stage<'_>) -> Option<Self> {
        let brings = |i: &Install| i.kind == Kind::Libraries || i.torch.is_some() || i.what == "torch";
        if stage.copies_cuda() || stage.installs().any(brings) {
            return None;
        }
        let base = stage.base();
        // No CUDA library loads there.
        if base.is_musl() {
            return None;
        }
        if base.is_plain() {
            return Some(Self {
                cuda: None,
                whole: false,
                cudnn: None,
            });
        }
        if !base.is_cuda() {
            return None;
        }
        let is = |word: &str| base.tag.split('-').any(|part| part == word);
        Some(Self {
            cuda: Some(base.cuda()?),
            whole: is("runtime") || is("devel"),
            cudnn: image::cudnn_of(&base.tag),
        })
    }
}

/// Checks for frameworks that open CUDA's libraries, in an image without them.
fn missing_libraries(stage: Stage<'_>, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    let Some(has) = Libraries::of(stage) else {
        return Ok(());
    };
    for i in stage.installs() {
        budget.step()?;
        let Some((cuda, cudnn)) = i.needs else { continue };
        // The others also run on the CPU.
        if i.cuda.is_none() && !stage.uses_cuda() {
            continue;
        }
        let cause = match &has {
            Libraries { cuda: None, .. } => "the image has none of CUDA's libraries".to_owned(),
            // Two major versions are a finding of their own.
            Libraries { cuda: Some(own), .. } if own.major != cuda.major && cudnn.is_none() => continue,
            Libraries { cuda: Some(own), .. } if own.major != cuda.major => {
                format!(
                    "it needs the libraries of CUDA {}, but the image has those of {}",
                    cuda.major, own.major
                )
            }
            Libraries { whole: false, .. } => {
                "the base image has only the CUDA runtime, without cuBLAS, NVRTC and cuDNN".to_owned()
            }
            Libraries { cudnn: own, .. } => match (cudnn, own) {
                (None, _) => continue,
                (Some(cudnn), Some(own)) if *own == cudnn => continue,
                (Some(cudnn), Some(own)) => format!("it needs cuDNN {cudnn}, and the image has cuDNN {own}"),
                (Some(cudnn), None) => format!("it needs cuDNN {cudnn}, and the image has none"),
            },
        };
        let (effect, fix) = match cudnn {
            Some(cudnn) => (
                "it computes on the CPU, or fails where it first uses the GPU",
                format!(
                    "take a base image of CUDA {} with cuDNN {cudnn} (nvidia/cuda:…-cudnn-runtime-…), or `pip install nvidia-cudnn-cu{}` and the others with their directories in LD_LIBRARY_PATH",
                    cuda.major, cuda.major
                ),
            ),
            None => (
                "it fails where it first compiles a kernel",
                format!(
                    "take a base image of CUDA {} (nvidia/cuda:…-runtime-…)",
                    cuda.major
                ),
            ),
        };
        report.add(at(
            Finding::new(
                &MISSING,
                Severity::Warn,
                i.what.clone(),
                format!("{cause}: {effect}"),
            )
            .fix(fix),
            &i.line,
        ));
    }
    Ok(())
}

fn two_cudas(stage: Stage<'_>, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    let Some(base) = stage.base().cuda() else {
        return Ok(());
    };
    // `pip install -e .` and `pip install .` install the same.
    let mut seen = HashSet::new();
    for i in stage.installs() {
        budget.step()?;
        let Some(cuda) = i.cuda.filter(|c| c.major != base.major) else {
            continue;
        };
        if !seen.insert((i.what.as_str(), cuda.major, cuda.minor)) {
            continue;
        }
        report.add(at(
            Finding::new(
                &TWO_CUDAS,
                Severity::Warn,
                i.what.clone(),
                format!("it brings CUDA {cuda} of its own into an image of CUDA {base}: the driver must do for both"),
            )
            .fix(format!(
                "take a base image of CUDA {}.x, or a plain distribution image: the framework brings what it needs",
                cuda.major
            )),
            &i.line,
        ));
    }
    Ok(())
}

fn conda(stage: Stage<'_>, model: &Model, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    let path = stage.variable("PATH").map_or("", |(p, _)| p);
    // `ENV PATH=/opt/conda/envs/NAME/bin`, and micromamba made NAME below the home directory.
    let missed = |what: &str| {
        let home = what.strip_prefix("~/micromamba/envs/");
        home.is_some_and(|name| path.contains(&format!("/opt/conda/envs/{name}/")))
    };
    // The plain program, as its own site offers it, has no configuration.
    let is_plain = model
        .steps
        .iter()
        .any(|s| s.text.contains("micro.mamba.pm") || s.text.contains("micromamba-releases"));
    for i in stage.installs().filter(|i| i.kind == Kind::CondaEnvironment) {
        budget.scan(path.len())?;
        if is_plain && missed(&i.what) {
            report.add(at(
                Finding::new(
                    &CONDA,
                    Severity::Warn,
                    i.what.clone(),
                    "micromamba has no root prefix and makes the environment below the home directory, not in /opt/conda, which PATH names",
                )
                .fix("ENV MAMBA_ROOT_PREFIX=/opt/conda before the RUN"),
                &i.line,
            ));
        }
    }
    if path.contains("/envs/") || stage.variable("CONDA_DEFAULT_ENV").is_some() || stage.runs_in_conda() {
        return Ok(());
    }
    let activate = model
        .steps
        .iter()
        .find(|s| s.instruction.keyword == "RUN" && s.text.contains("activate"));
    // A startup file that activates it counts, if the container's shell reads that file.
    let (login, interactive) = stage.startup_files();
    let reads = |text: &str| {
        let of_login = ["/.profile", ".bash_profile", ".bash_login", "/etc/profile"];
        (login && of_login.iter().any(|file| text.contains(file)))
            || (interactive
                && [".bashrc", "/etc/bash.bashrc"]
                    .iter()
                    .any(|file| text.contains(file)))
    };
    if activate.is_some_and(|step| reads(&step.text)) {
        return Ok(());
    }
    for i in stage.installs().filter(|i| i.kind == Kind::CondaEnvironment) {
        budget.scan(path.len())?;
        if i.what.starts_with('/') && path.contains(&i.what) {
            continue;
        }
        let mut finding = Finding::new(
            &CONDA,
            Severity::Warn,
            i.what.clone(),
            "the environment is made, but the container starts with the base one and does not find its packages",
        )
        .fix("ENV PATH=/opt/conda/envs/NAME/bin:$PATH, or ENTRYPOINT [\"conda\", \"run\", \"--no-capture-output\", \"-n\", \"NAME\"]");
        finding = at(finding, &i.line);
        if let Some(step) = activate {
            finding = step_at(finding, step, "activate", budget)?
                .evidence("`activate` has an effect only within its RUN");
        }
        report.add(finding);
    }
    Ok(())
}

/// Why a directory must not be on a loader path, if there is a reason.
fn bad_directory(path: &str) -> Option<(Severity, &'static str)> {
    path.split([':', ' ']).find_map(|dir| {
        let dir = dir.trim_end_matches('/');
        if dir.ends_with("/stubs") {
            Some((
                Severity::Fail,
                "it holds the toolkit's stubs: the loader finds a libcuda whose calls all fail (error 34)",
            ))
        } else if dir.ends_with("/compat") {
            Some((
                Severity::Warn,
                "it holds the compatibility libcuda for every host: wrong on GeForce (error 804) and on newer drivers (803)",
            ))
        } else {
            None
        }
    })
}

fn library_path(stage: Stage<'_>, report: &mut Report) {
    for name in ["LD_LIBRARY_PATH", "LD_PRELOAD"] {
        let Some((value, line)) = stage.variable(name) else {
            continue;
        };
        if let Some((severity, why)) = bad_directory(value) {
            report.add(
                Finding::new(&LIBRARY_PATH, severity, name, why)
                    .fix("take the directory out; for linking the variable is LIBRARY_PATH")
                    .evidence(format!("line {line}: {name}={value}")),
            );
        }
    }
}

/// Checks the loader configuration that a `RUN` writes, and its directories for ldconfig.
fn loader_files(step: &Step, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    let needle = ["ld.so.conf", "ldconfig"]
        .into_iter()
        .find(|w| step.text.contains(w));
    let Some(needle) = needle.filter(|_| step.instruction.keyword == "RUN") else {
        return Ok(());
    };
    let removes = |c: &[String]| {
        matches!(
            c.first().map(String::as_str),
            Some("rm" | "ls" | "test" | "[" | "mv")
        )
    };
    let commands = shell_commands(&step.text);
    for word in commands.iter().filter(|c| !removes(c)).flatten() {
        if let Some((severity, why)) = bad_directory(word) {
            let finding = Finding::new(&LIBRARY_PATH, severity, "the loader's configuration", why)
                .fix("leave the directory out");
            report.add(step_at(finding, step, needle, budget)?);
            break;
        }
    }
    Ok(())
}

fn is_driver_library(word: &str) -> bool {
    let name = word.trim_end_matches(',').rsplit('/').next().unwrap_or_default();
    let library = name == "libcuda.so"
        || [
            "libcuda.so.",
            "libcuda.so*",
            "libcuda*",
            "libnvidia-ml",
            "libnvidia-ptxjit",
            "libnvidia-*",
            "libcuda.*",
        ]
        .iter()
        .any(|p| name.starts_with(p));
    library && !word.contains("/stubs/")
}

fn copied(step: &Step, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    let commands = match step.instruction.keyword.as_str() {
        "COPY" | "ADD" => vec![step.text.split_whitespace().map(ToOwned::to_owned).collect()],
        "RUN" => shell_commands(&step.text)
            .into_iter()
            .filter(|c: &Vec<String>| {
                c.iter()
                    .any(|w| matches!(w.rsplit('/').next(), Some("cp" | "ln" | "mv" | "install")))
            })
            .collect(),
        _ => return Ok(()),
    };
    for command in commands {
        budget.step()?;
        // `ln -s …/stubs/libcuda.so …/stubs/libcuda.so.1` is for linking, and the link stays in its
        // directory.
        let Some(word) = command.iter().find(|w| is_driver_library(w)) else {
            continue;
        };
        let from_stubs = command.iter().any(|w| w.contains("/stubs/"));
        let cause = if from_stubs {
            "the loader finds the toolkit's stub: it hides the host's libcuda (error 34)"
        } else {
            "it is of one driver version, and hides the host's of another version"
        };
        let finding = Finding::new(&COPIED, Severity::Fail, word.clone(), cause)
            .fix("leave it out: the driver's libraries come from the host when the container starts");
        let name = word.rsplit('/').next().unwrap_or(word);
        report.add(step_at(finding, step, name, budget)?);
    }
    Ok(())
}

fn musl(stage: Stage<'_>, report: &mut Report) {
    let base = stage.base();
    if base.is_musl() {
        let subject = format!("{}:{}", base.name, base.tag);
        report.add(at(
            Finding::new(
                &MUSL,
                Severity::Fail,
                subject,
                "it uses musl, and the driver's libraries need glibc: they do not load",
            )
            .fix("use an image with glibc: debian, ubuntu, or nvidia/cuda"),
            &base.line,
        ));
    }
}

fn request(stage: Stage<'_>, report: &mut Report) {
    if let Some((value, line)) = stage.variable("NVIDIA_VISIBLE_DEVICES")
        && matches!(value.trim(), "" | "none" | "void")
        && stage.uses_cuda()
    {
        report.add(
            Finding::new(
                &REQUEST,
                Severity::Warn,
                "NVIDIA_VISIBLE_DEVICES",
                "the image requests no GPU; it gets one only if the engine overrides the variable",
            )
            .fix("ENV NVIDIA_VISIBLE_DEVICES=all, or leave it to the engine")
            .evidence(format!("line {line}: {value:?}")),
        );
    }
    if let Some((value, line)) = stage.variable("CUDA_VISIBLE_DEVICES")
        && matches!(value.trim(), "" | "-1" | "none" | "NoDevFiles")
        && stage.computes()
    {
        report.add(
            Finding::new(
                &REQUEST,
                Severity::Warn,
                "CUDA_VISIBLE_DEVICES",
                "it names no GPU: CUDA sees none (error 100)",
            )
            .fix("leave the variable out")
            .evidence(format!("line {line}: {value:?}")),
        );
    }
    if let Some((value, line)) = stage.variable("NVIDIA_DRIVER_CAPABILITIES") {
        let has = |c: &str| value.split(',').any(|v| v.trim() == c);
        // An image that only draws or decodes needs no `compute`.
        let other = !stage.computes() && ["graphics", "display", "video"].into_iter().any(has);
        // Empty is the default, compute and utility.
        if !value.trim().is_empty() && !has("compute") && !has("all") && !other {
            report.add(
                Finding::new(
                    &REQUEST,
                    Severity::Fail,
                    "NVIDIA_DRIVER_CAPABILITIES",
                    "it has no `compute`: nvidia-smi works and CUDA does not",
                )
                .fix("ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility")
                .evidence(format!("line {line}: {value}")),
            );
        }
    }
    if stage.installs().any(|i| i.cuda.is_some())
        && !stage.base().is_cuda()
        && stage.base().cuda().is_none()
        && stage.variable("NVIDIA_VISIBLE_DEVICES").is_none()
    {
        report.add(
            Finding::new(
                &REQUEST,
                Severity::Info,
                "NVIDIA_VISIBLE_DEVICES",
                "the image does not request a GPU itself, as nvidia/cuda does: it gets one by `--gpus` or CDI, \
                 not by `--runtime=nvidia` alone",
            )
            .fix("ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
        );
    }
}

/// Uses of a GPU: whole words of a command, or text of a script.
const USES: &[&str] = &[
    "torch.cuda.is_available",
    "torch.cuda.get_device",
    "cuda.device_count",
    "list_physical_devices",
    // vLLM loads the model.
    "LLM(",
];

fn build_time(step: &Step, report: &mut Report, budget: &Budget) -> Result<(), Exceeded> {
    if step.instruction.keyword != "RUN" {
        return Ok(());
    }
    for command in shell_commands(&step.text) {
        budget.step()?;
        let program = command
            .first()
            .map(|p| p.rsplit('/').next().unwrap_or(p).to_owned());
        let used = match program.as_deref() {
            Some("nvidia-smi") => Some("nvidia-smi"),
            Some(p) if p.starts_with("python") => USES
                .iter()
                .copied()
                .find(|u| command.iter().any(|w| w.contains(u))),
            _ => None,
        };
        if let Some(used) = used {
            // The author of `nvidia-smi || true` expects it to fail.
            let tolerated = step.text.split_once(used).is_some_and(|(_, rest)| {
                rest.split(['\n', ';', '&'])
                    .next()
                    .is_some_and(|c| c.contains("||"))
            });
            let finding = Finding::new(
                &BUILD_TIME,
                if tolerated { Severity::Info } else { Severity::Warn },
                used,
                "there is no GPU and no driver while an image is built, whatever the host has",
            )
            .fix("do it when the container starts; for compiling set TORCH_CUDA_ARCH_LIST (or CMAKE_CUDA_ARCHITECTURES) instead of detecting the GPU");
            report.add(step_at(finding, step, used, budget)?);
        }
    }
    Ok(())
}

/// Checks the architectures of the image's own kernels, by its compilers' options.
pub(super) fn compiled(model: &Model, sm: Sm, budget: &Budget) -> Result<Option<Finding>, Exceeded> {
    const VARIABLES: [&str; 2] = ["TORCH_CUDA_ARCH_LIST", "CUDAARCHS"];
    const OPTION: &str = "CMAKE_CUDA_ARCHITECTURES=";
    let Some(last) = model.last() else {
        return Ok(None);
    };
    for name in VARIABLES {
        if let Some(value) = last.value(name, budget)?
            && !has_code(value, sm)
        {
            let line = last
                .variable(name)
                .map_or(String::new(), |(_, line)| format!("line {line}: "));
            return Ok(Some(no_code(name, sm).evidence(format!("{line}{name}={value}"))));
        }
    }
    for step in model
        .steps
        .iter()
        .filter(|step| step.instruction.keyword == "RUN")
    {
        budget.scan(step.text.len())?;
        let Some((_, rest)) = step.text.split_once(OPTION) else {
            continue;
        };
        let rest = rest.trim_start_matches(['"', '\'']);
        let end = rest.find([' ', '"', '\'', '\n']).unwrap_or(rest.len());
        if !has_code(&rest[..end], sm) {
            let finding = no_code("CMAKE_CUDA_ARCHITECTURES", sm);
            return step_at(finding, step, OPTION, budget).map(Some);
        }
    }
    Ok(None)
}

/// Whether a list of architectures has code for a GPU: `7.0 8.6+PTX`, `80-real;90-virtual`. An
/// entry that cannot be parsed counts as code for it.
fn has_code(list: &str, sm: Sm) -> bool {
    let words = list.split([' ', ';', ',']).filter(|word| !word.is_empty());
    let mut listed = 0;
    for word in words {
        let word = word.to_ascii_lowercase();
        let with_ptx = word
            .strip_suffix("+ptx")
            .or_else(|| word.strip_suffix("-virtual"));
        let plain = word.strip_suffix("-real").unwrap_or(&word);
        // CMake's numbers without a suffix mean both.
        let ptx = with_ptx.is_some() || plain == word && word.bytes().all(|b| b.is_ascii_digit());
        let Ok(code) = with_ptx.unwrap_or(plain).parse::<Sm>() else {
            return true;
        };
        if code.runs_on(sm) || ptx && code.compiles_for(sm) {
            return true;
        }
        listed += 1;
    }
    listed == 0
}

fn no_code(name: &str, sm: Sm) -> Finding {
    Finding::new(
        &TARGET,
        Severity::Warn,
        name,
        format!(
            "kernels that are compiled in the image have no code for {sm}: \"no kernel image is available\""
        ),
    )
    .fix(format!(
        "add {}.{} to it, or PTX of the last one",
        sm.number() / 10,
        sm.number() % 10
    ))
}

/// The finding about a build of PyTorch without code for the target's GPU; `None` if it has code or
/// if that is unknown.
pub(super) fn architecture(release: Release, cuda: Cuda, target: &Target) -> Option<Finding> {
    let gpu = target.sm?;
    let build = torch::builds(release).into_iter().find(|b| b.cuda == cuda)?;
    let runs = build.archs.iter().any(|sm| sm.runs_on(gpu)) || build.ptx.is_some_and(|p| p.compiles_for(gpu));
    if runs || build.archs.is_empty() {
        return None;
    }
    let archs: Vec<String> = build.archs.iter().map(ToString::to_string).collect();
    let fix = torch::wheel_for(release, target).map_or_else(
        || "no build for this GPU and driver is known".to_owned(),
        |b| b.pip(),
    );
    Some(
        Finding::new(
            &TARGET,
            Severity::Fail,
            "torch",
            format!(
                "PyTorch {release} for CUDA {cuda} has no code for {gpu}: \"no kernel image is available\" (it has {})",
                archs.join(" ")
            ),
        )
        .fix(fix),
    )
}
