//! What a `RUN` installs.

use super::parse::{Instruction, Line, commands};
use crate::compat::Cuda;
use crate::compat::torch::{self, Release};
use crate::sys::budget::{Budget, Exceeded};
use crate::vocabulary::decimal;

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Kind {
    /// A conda environment other than the base one.
    CondaEnvironment,
    /// The NVIDIA Container Toolkit.
    ContainerToolkit,
    /// The driver, or a part of it.
    Driver,
    /// A framework: PyTorch, TensorFlow, or the CUDA packages of conda.
    Framework,
}

/// One thing that is installed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Install {
    pub(super) kind: Kind,
    /// `torch`, `nvidia-driver-535`, the environment's name
    pub(super) what: String,
    /// The CUDA version it is built for.
    pub(super) cuda: Option<Cuda>,
    /// Whether it is a build for the CPU.
    pub(super) cpu: bool,
    /// Of PyTorch the release.
    pub(super) torch: Option<Release>,
    /// Where.
    pub(super) line: Line,
}

impl Install {
    fn new(kind: Kind, what: &str, instruction: &Instruction, budget: &Budget) -> Result<Self, Exceeded> {
        budget.entry()?;
        budget.keep((size_of::<Self>() + what.len()) as u64)?;
        Ok(Self {
            kind,
            what: what.to_owned(),
            cuda: None,
            cpu: false,
            torch: None,
            line: instruction.line_of(what, budget)?,
        })
    }
}

/// Managers of packages and the words that make them install.
const MANAGERS: &[(&str, &[&str])] = &[
    ("apt", &["install"]),
    ("apt-get", &["install"]),
    ("aptitude", &["install"]),
    ("apk", &["add"]),
    ("dnf", &["install"]),
    ("microdnf", &["install"]),
    ("tdnf", &["install"]),
    ("yum", &["install"]),
    ("zypper", &["install", "in"]),
];

/// What `instruction` installs; `text` is its text with variables replaced.
pub(super) fn of(instruction: &Instruction, text: &str, budget: &Budget) -> Result<Vec<Install>, Exceeded> {
    let mut found = Vec::new();
    for command in shell_commands(text) {
        let words: Vec<&str> = program(&command);
        let Some((name, rest)) = words.split_first() else {
            continue;
        };
        let name = name.rsplit('/').next().unwrap_or(name);
        let new = |kind, what: &str| Install::new(kind, what, instruction, budget);
        if let Some((_, verbs)) = MANAGERS.iter().find(|(m, _)| *m == name) {
            if rest.iter().any(|w| verbs.contains(w)) {
                for word in rest {
                    if let Some(kind) = system_package(word) {
                        found.push(new(kind, word)?);
                    }
                }
            }
        } else if let Some(rest) = pip(name, rest) {
            let builds = index(rest);
            for word in rest {
                if let Some((what, cuda, cpu, torch)) = framework(word, builds) {
                    found.push(Install {
                        cuda,
                        cpu,
                        torch,
                        ..new(Kind::Framework, what)?
                    });
                }
            }
        } else if matches!(name, "conda" | "mamba" | "micromamba") {
            for (what, cuda) in rest.iter().filter_map(|w| conda_package(w)) {
                found.push(Install {
                    cuda,
                    cpu: cuda.is_none(),
                    ..new(Kind::Framework, what)?
                });
            }
            let made = environment(rest).filter(|_| rest.contains(&"create"));
            if let Some(what) = made {
                found.push(new(Kind::CondaEnvironment, what)?);
            }
        }
    }
    Ok(found)
}

/// The commands of a `RUN`, whose text is a shell's or a JSON array.
pub(super) fn shell_commands(text: &str) -> Vec<Vec<String>> {
    let mut text = text;
    // `--mount=type=cache,…`
    while let Some(rest) = text.strip_prefix("--") {
        text = rest
            .split_once(char::is_whitespace)
            .map_or("", |(_, rest)| rest.trim_start());
    }
    if text.starts_with('[')
        && let Ok(words) = serde_json::from_str::<Vec<String>>(text)
    {
        // Of `["sh", "-c", "…"]` the last word is a shell text.
        return match words.as_slice() {
            [_, flag, script] if flag.starts_with('-') && flag.contains('c') => commands(script),
            _ => vec![words],
        };
    }
    commands(text)
}

/// The command without what stands before the program: `sudo`, `env`, assignments.
fn program(command: &[String]) -> Vec<&str> {
    command
        .iter()
        .map(String::as_str)
        .skip_while(|w| {
            matches!(*w, "sudo" | "env" | "time" | "exec" | "then" | "do" | "-E") || w.contains('=')
        })
        .collect()
}

fn system_package(word: &str) -> Option<Kind> {
    let name = word.split(['=', ':', '/']).next()?;
    let begins = |all: &[&str]| all.iter().any(|p| name.starts_with(p));
    if begins(&["nvidia-container", "libnvidia-container", "nvidia-docker"]) {
        return Some(Kind::ContainerToolkit);
    }
    // `cuda` and `cuda-12-4` bring the driver; `cuda-toolkit-12-4` and `cuda-libraries-12-4` do not.
    // Source: the package managers' table of the CUDA installation guide for Linux, "Meta Packages".
    let meta = name == "cuda"
        || name
            .strip_prefix("cuda-")
            .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()));
    let driver = meta
        || begins(&[
            "nvidia-driver",
            "nvidia-utils",
            "nvidia-kernel",
            "nvidia-dkms",
            "nvidia-open",
            "nvidia-headless",
            "nvidia-compute-utils",
            "libnvidia-",
            "libcuda1",
            "cuda-drivers",
            "xserver-xorg-video-nvidia",
            "kmod-nvidia",
            "akmod-nvidia",
        ]);
    driver.then_some(Kind::Driver)
}

/// The arguments of pip, however it is called.
fn pip<'a, 'b>(name: &str, rest: &'a [&'b str]) -> Option<&'a [&'b str]> {
    let rest = match (name, rest) {
        (n, rest) if n == "pip" || n.strip_prefix("pip").is_some_and(|v| v.starts_with(['2', '3'])) => rest,
        (n, ["-m", "pip", rest @ ..]) if n.starts_with("python") => rest,
        ("uv", ["pip", rest @ ..]) => rest,
        ("conda" | "mamba", ["run", rest @ ..]) => &rest[rest.iter().position(|w| *w == "pip")? + 1..],
        _ => return None,
    };
    rest.contains(&"install").then_some(rest)
}

/// Which builds the index that pip is given holds: `cu118`, `cpu`.
fn index<'a>(words: &[&'a str]) -> Option<&'a str> {
    words
        .iter()
        .filter(|w| w.contains("download.pytorch.org/whl"))
        .find_map(|w| {
            w.trim_end_matches("/torch_stable.html")
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .filter(|t| *t == "cpu" || t.starts_with("cu"))
        })
}

type Framework<'a> = (&'a str, Option<Cuda>, bool, Option<Release>);

fn framework<'a>(word: &'a str, index: Option<&str>) -> Option<Framework<'a>> {
    let end = word
        .find(['=', '<', '>', '~', '!', '[', ';'])
        .unwrap_or(word.len());
    let (name, rest) = word.split_at(end);
    match name {
        "torch" => {
            let version = rest.strip_prefix("==");
            let local = version.and_then(|v| v.split_once('+')).map(|(_, l)| l);
            let release: Option<Release> = version.and_then(|v| v.parse().ok());
            let build = local.or(index);
            let cuda = match build {
                Some(tag) => torch::cuda_of_tag(tag),
                None => release.and_then(torch::on_pypi).map(|b| b.cuda),
            };
            Some((name, cuda, build == Some("cpu"), release))
        }
        "tensorflow-cpu" | "tensorflow_cpu" => Some((name, None, true, None)),
        _ => {
            let of_cupy = name.strip_prefix("cupy-cuda").and_then(|v| {
                // `cupy-cuda12x`, `cupy-cuda118`
                v.strip_suffix('x')
                    .and_then(decimal)
                    .map(|major| Cuda { major, minor: 0 })
                    .or_else(|| torch::cuda_of_tag(&format!("cu{v}")))
            });
            of_cupy.map(|cuda| (name, Some(cuda), false, None))
        }
    }
}

/// Packages of conda that say which CUDA it is; `None` for the one that says that it is none.
fn conda_package(word: &str) -> Option<(&str, Option<Cuda>)> {
    let word = word.rsplit("::").next().unwrap_or(word);
    let end = word.find(['=', '<', '>', ' ']).unwrap_or(word.len());
    let (name, version) = word.split_at(end);
    match name {
        "cpuonly" => Some((name, None)),
        "cudatoolkit" | "pytorch-cuda" | "cuda-version" => Some((
            name,
            Some(version.trim_start_matches(['=', '<', '>', ' ']).parse().ok()?),
        )),
        _ => None,
    }
}

/// The name or prefix that `conda create` and `conda env create` make.
fn environment<'a>(words: &[&'a str]) -> Option<&'a str> {
    words
        .iter()
        .enumerate()
        .find_map(|(at, word)| {
            if matches!(*word, "-n" | "--name" | "-p" | "--prefix") {
                return words.get(at + 1).copied();
            }
            word.strip_prefix("--name=")
                .or_else(|| word.strip_prefix("--prefix="))
        })
        .filter(|name| *name != "base")
        .or_else(|| words.contains(&"env").then_some("env"))
}
