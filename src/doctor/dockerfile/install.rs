//! Finds the packages that a `RUN` installs: `pip install torch` is PyTorch for the newest CUDA.

use super::conda::{self, Build};
use super::parse::{Instruction, Line, TEXT, commands};
use super::requirements::{Finder, Word};
use crate::compat::torch::{self, Release};
use crate::compat::{Cuda, Version, image};
use crate::sys::budget::{Budget, Exceeded};
use crate::vocabulary::decimal;

/// The kind of a package.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Kind {
    /// A conda environment other than the base one.
    CondaEnvironment,
    /// The NVIDIA Container Toolkit.
    ContainerToolkit,
    /// The driver, or a part of it.
    Driver,
    /// A framework: PyTorch, TensorFlow, or conda's CUDA packages.
    Framework,
    /// CUDA libraries that frameworks need from the image.
    Libraries,
    /// An uninstalled package.
    Removed,
}

/// One installed package or environment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Install {
    pub(super) kind: Kind,
    /// `torch`, `nvidia-driver-535`, the environment's name
    pub(super) what: String,
    /// The CUDA version of its build.
    pub(super) cuda: Option<Cuda>,
    /// Whether it is a build for the CPU.
    pub(super) cpu: bool,
    /// Whether that is because conda detects no driver while the image is built.
    pub(super) undetected: bool,
    /// The release, for PyTorch.
    pub(super) torch: Option<Release>,
    /// The CUDA version and the cuDNN major version that it needs from the image.
    pub(super) needs: Option<(Cuda, u32)>,
    /// The build of an extra index that pip ignores for PyPI's newer release.
    pub(super) outbid: Option<String>,
    /// The line of the instruction.
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
            undetected: false,
            torch: None,
            needs: None,
            outbid: None,
            line: instruction.line_of(what, budget)?,
        })
    }
}

/// Package managers and their words for an installation.
const MANAGERS: &[(&str, &[&str])] = &[
    ("apt", &["install"]),
    ("apt-get", &["install"]),
    ("aptitude", &["install"]),
    ("apk", &["add"]),
    ("dnf", &["install"]),
    ("microdnf", &["install"]),
    ("pacman", &[]),
    ("tdnf", &["install"]),
    ("yum", &["install"]),
    ("zypper", &["install", "in"]),
];

/// The settings of a stage that pip, uv and conda read.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// The base image's name.
    pub(super) base: String,
    /// The main index of pip or uv.
    pub(super) main: Option<String>,
    /// An index beside the main one.
    pub(super) extra: Option<String>,
    /// Whether `CONDA_OVERRIDE_CUDA` stands for a driver.
    pub(super) override_cuda: bool,
}

impl Settings {
    /// The variables of the main index; the first one that is set counts.
    pub(super) const MAIN: [&str; 3] = ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"];
    pub(super) const EXTRA: [&str; 2] = ["PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL"];
    pub(super) const OVERRIDE_CUDA: &str = "CONDA_OVERRIDE_CUDA";
}

/// What one `RUN` installs.
#[derive(Debug, Default)]
pub(super) struct Installed {
    pub(super) installs: Vec<Install>,
    /// Files that pip installs from and that were not found, with their lines.
    pub(super) unread: Vec<(String, Line)>,
}

/// The installations of `instruction`; `text` is its text with variables replaced.
pub(super) fn of(
    instruction: &Instruction,
    text: &str,
    settings: &Settings,
    files: &Finder<'_>,
    budget: &Budget,
) -> Result<Installed, Exceeded> {
    let mut found = Vec::new();
    let mut unread = Vec::new();
    for command in shell_commands(text) {
        let words: Vec<&str> = program(&command);
        let Some((name, rest)) = words.split_first() else {
            continue;
        };
        let name = name.rsplit('/').next().unwrap_or(name);
        let new = |kind, what: &str| Install::new(kind, what, instruction, budget);
        if let Some((_, verbs)) = MANAGERS.iter().find(|(m, _)| *m == name) {
            let installs = match name {
                // `-S`, `-Syu`; `-Ss` and `-Si` only search.
                "pacman" => rest
                    .iter()
                    .any(|w| w.starts_with("-S") && !w.contains(['s', 'i', 'c', 'l', 'g']) || *w == "--sync"),
                _ => rest.iter().any(|w| verbs.contains(w)),
            };
            for word in rest.iter().filter(|_| installs) {
                if let Some(kind) = system_package(name, word) {
                    found.push(new(kind, word)?);
                }
            }
        } else if rest.contains(&"uninstall") {
            for word in rest.iter().filter(|w| **w == "onnxruntime") {
                found.push(new(Kind::Removed, word)?);
            }
        } else if let Some(what) = installer(&words) {
            found.push(new(Kind::Driver, what)?);
        } else if let Some(rest) = pip(name, rest) {
            let (all, missing) = files.spliced(rest)?;
            for file in missing {
                budget.keep((TEXT + file.len()) as u64)?;
                let line = instruction.line_of(&file, budget)?;
                unread.push((file, line));
            }
            let rest: Vec<&str> = all.iter().map(|word| word.text.as_str()).collect();
            let index = Index::of(&rest, settings, name == "uv");
            let mut after_option = false;
            for Word { text: word, line } in &all {
                // `-r` and `-c` take a file, `-i` takes an index.
                if core::mem::replace(&mut after_option, takes_value(word)) {
                    continue;
                }
                // pip's names are the same in any case (PEP 503).
                if let Some(wheel) = framework(&word.to_ascii_lowercase(), &index) {
                    let plain = match line {
                        None => new(wheel.kind, wheel.what)?,
                        Some(line) => Install {
                            line: line.clone(),
                            ..new(wheel.kind, wheel.what)?
                        },
                    };
                    found.push(Install {
                        cuda: wheel.cuda,
                        cpu: wheel.cpu,
                        torch: wheel.torch,
                        needs: wheel.needs,
                        outbid: wheel.outbid,
                        ..plain
                    });
                }
            }
        } else if matches!(name, "conda" | "mamba" | "micromamba") {
            // An empty value stands for no driver.
            let assigned = command.iter().find_map(|word| {
                let (name, value) = word.split_once('=')?;
                (name == Settings::OVERRIDE_CUDA).then_some(!value.is_empty())
            });
            let override_cuda = assigned.unwrap_or(settings.override_cuda);
            for package in conda::packages(rest, &settings.base, override_cuda) {
                let (kind, cuda) = match package.build {
                    Build::Libraries => (Kind::Libraries, None),
                    Build::Cuda(cuda) => (Kind::Framework, Some(cuda)),
                    Build::Cpu | Build::Undetected => (Kind::Framework, None),
                };
                found.push(Install {
                    cuda,
                    cpu: matches!(package.build, Build::Cpu | Build::Undetected),
                    undetected: package.build == Build::Undetected,
                    ..new(kind, package.name)?
                });
            }
            let made = environment(rest).filter(|_| rest.contains(&"create"));
            if let Some(what) = made {
                found.push(new(Kind::CondaEnvironment, what)?);
            }
        }
    }
    Ok(Installed {
        installs: found,
        unread,
    })
}

/// The commands of a `RUN`, which is a shell text or a JSON array.
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
        // The last word of `["sh", "-c", "…"]` is a shell text.
        return match words.as_slice() {
            [_, flag, script] if flag.starts_with('-') && flag.contains('c') => commands(script),
            _ => vec![words],
        };
    }
    commands(text)
}

/// The command without `sudo`, `env` and assignments before the program.
fn program(command: &[String]) -> Vec<&str> {
    command
        .iter()
        .map(String::as_str)
        .skip_while(|w| {
            matches!(*w, "sudo" | "env" | "time" | "exec" | "then" | "do" | "-E") || w.contains('=')
        })
        .collect()
}

/// The driver's packages by package manager; dpkg's have a rule of their own. Sources: Arch's
/// nvidia-utils, RPM Fusion's and CUDA's repositories for dnf and zypper.
const DRIVERS: &[(&str, &[&str])] = &[
    ("pacman", &["nvidia", "lib32-nvidia", "opencl-nvidia"]),
    (
        "dnf yum microdnf tdnf",
        &["xorg-x11-drv-nvidia", "dkms-nvidia", "nvidia-persistenced"],
    ),
    (
        "zypper",
        &[
            "nvidia-compute",
            "nvidia-gl",
            "nvidia-video",
            "nvidia-gfx",
            "x11-video-nvidia",
        ],
    ),
    ("apk", &["nvidia"]),
];

fn system_package(manager: &str, word: &str) -> Option<Kind> {
    let name = word.trim_start_matches('@').split(['=', ':', '/']).next()?;
    let begins = |all: &[&str]| all.iter().any(|p| name.starts_with(p));
    if begins(&["nvidia-container", "libnvidia-container", "nvidia-docker"]) {
        return Some(Kind::ContainerToolkit);
    }
    if begins(&[
        "libcudnn",
        "cudnn",
        "libcublas",
        "cuda-libraries",
        "cuda-toolkit",
        "cuda-runtime",
        "nvidia-cudnn",
        "nvidia-cuda-toolkit",
    ]) {
        return Some(Kind::Libraries);
    }
    let of_manager = DRIVERS
        .iter()
        .filter(|(managers, _)| managers.split(' ').any(|m| m == manager))
        .any(|(_, names)| begins(names));
    // `cuda` and `cuda-12-4` contain the driver; `cuda-toolkit-12-4` and `cuda-libraries-12-4` do
    // not. Source: the package managers' table of the CUDA installation guide for Linux, "Meta
    // Packages".
    let meta = manager != "pacman"
        && (name == "cuda"
            || name
                .strip_prefix("cuda-")
                .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit())));
    let driver = meta
        || of_manager
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

/// The driver's installer, or the toolkit's if it also installs the driver.
fn installer<'a>(words: &[&'a str]) -> Option<&'a str> {
    let at = words.iter().take(3).position(|w| w.ends_with(".run"))?;
    let file = words.get(at)?;
    let name = file.rsplit('/').next().unwrap_or(file);
    // A command that runs it, not one that downloads it.
    let runs = at == 0 || matches!(words.first()?.rsplit('/').next()?, "sh" | "bash" | "dash" | ".");
    let of_driver =
        name.starts_with("NVIDIA-Linux-") && !words.contains(&"-x") && !words.contains(&"--extract-only");
    let has = |word: &str| words.contains(&word);
    // With no other option, `--silent` installs everything.
    let of_toolkit = name.starts_with("cuda_")
        && (has("--driver") || has("--silent") && !has("--toolkit") && !has("--samples"));
    (runs && (of_driver || of_toolkit)).then_some(*file)
}

/// The arguments of pip in any of its forms.
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

/// Whether an option of pip takes the next word.
fn takes_value(word: &str) -> bool {
    matches!(
        word,
        "-r" | "--requirement"
            | "-c"
            | "--constraint"
            | "-i"
            | "--index-url"
            | "--extra-index-url"
            | "-f"
            | "--find-links"
            | "-t"
            | "--target"
            | "--index"
            | "--default-index"
    )
}

/// The build in one of PyTorch's indices: `cu118`, `cpu`.
fn tag_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("download.pytorch.org/whl")?;
    rest.trim_end_matches("/torch_stable.html")
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .filter(|tag| *tag == "cpu" || tag.starts_with("cu"))
}

/// The builds of PyTorch's indices in pip's options: `cu118`, `cpu`.
#[derive(Clone, Copy, Debug, Default)]
struct Index<'a> {
    /// The index that replaces PyPI.
    main: Option<&'a str>,
    /// An index in addition to PyPI.
    extra: Option<&'a str>,
}

impl<'a> Index<'a> {
    fn of(words: &[&'a str], settings: &'a Settings, is_uv: bool) -> Self {
        let mut index = Self {
            main: settings.main.as_deref().and_then(tag_of),
            extra: settings.extra.as_deref().and_then(tag_of),
        };
        for (at, word) in words.iter().enumerate() {
            let Some(tag) = tag_of(word) else { continue };
            let before = at
                .checked_sub(1)
                .and_then(|at| words.get(at))
                .copied()
                .unwrap_or_default();
            let is_extra = word.starts_with("--extra-index-url") || before == "--extra-index-url";
            // uv takes a package from the first index that has it, and tries extra ones first.
            if is_extra && !is_uv {
                index.extra = Some(tag);
            } else {
                index.main = Some(tag);
            }
        }
        index
    }

    /// The build that pip installs for a release of PyTorch. The error is the build of an extra
    /// index that pip ignores for PyPI's newer release.
    fn build(self, release: Option<Release>) -> Result<Option<&'a str>, &'a str> {
        let Some(tag) = self.main.or(self.extra) else {
            return Ok(None);
        };
        let known = match release {
            // `2.1.0+cu118` sorts after `2.1.0`.
            Some(release) => {
                let all = torch::builds(release);
                all.is_empty() || all.iter().any(|b| b.tag == tag)
            }
            None => torch::has_newest(tag),
        };
        match (self.main, known, tag) {
            (Some(main), ..) => Ok(Some(main)),
            // The index for the CPU has every release.
            (None, _, "cpu") | (None, true, _) => Ok(Some(tag)),
            (None, false, _) => Err(tag),
        }
    }
}

/// A wheel in pip's arguments.
struct Wheel<'a> {
    kind: Kind,
    what: &'a str,
    cuda: Option<Cuda>,
    cpu: bool,
    torch: Option<Release>,
    needs: Option<(Cuda, u32)>,
    outbid: Option<String>,
}

fn framework<'a>(word: &'a str, index: &Index<'_>) -> Option<Wheel<'a>> {
    let end = word
        .find(['=', '<', '>', '~', '!', '[', ';'])
        .unwrap_or(word.len());
    let (name, rest) = word.split_at(end);
    let extras = rest
        .strip_prefix('[')
        .and_then(|r| r.split_once(']'))
        .map_or("", |(e, _)| e);
    let version = word.split_once("==").map(|(_, v)| v.trim_end_matches(".*"));
    let number: Option<Version> = version.and_then(|v| v.split(['+', ';', ',']).next()?.parse().ok());
    // A range such as `>=2.10,<2.11` names neither a release nor the newest one.
    let bounded = ["<", "~=", "!=", "==="].iter().any(|sign| rest.contains(sign));
    let pinned_or_newest = !bounded && (version.is_none() || number.is_some());
    let plain = Wheel {
        kind: Kind::Framework,
        what: name,
        cuda: None,
        cpu: false,
        torch: None,
        needs: None,
        outbid: None,
    };
    let needs = || pinned_or_newest.then(|| image::wheel(name, number)).flatten();
    Some(match name {
        "torch" => {
            let local = version.and_then(|v| v.split_once('+')).map(|(_, l)| l);
            let release: Option<Release> = version.and_then(|v| v.parse().ok());
            let build = match local {
                Some(local) => Ok(Some(local)),
                None => index.build(release),
            };
            let outbid = build.err().map(str::to_owned);
            let build = build.unwrap_or_default();
            let cuda = match build {
                Some(tag) => torch::cuda_of_tag(tag),
                None => release.and_then(torch::on_pypi).map(|b| b.cuda),
            };
            Wheel {
                cuda,
                cpu: build == Some("cpu"),
                torch: release,
                outbid,
                ..plain
            }
        }
        "tensorflow-cpu" | "tensorflow_cpu" | "paddlepaddle" => Wheel { cpu: true, ..plain },
        "tensorflow" if extras.contains("and-cuda") => Wheel {
            cuda: needs().map(|(cuda, _)| cuda),
            ..plain
        },
        "tensorflow" | "ctranslate2" | "faster-whisper" => Wheel {
            needs: needs(),
            ..plain
        },
        "onnxruntime-gpu" => Wheel {
            cuda: needs().map(|(cuda, _)| cuda),
            needs: needs().filter(|_| !extras.contains("cudnn")),
            ..plain
        },
        "onnxruntime" => plain,
        _ if name.starts_with("jax") => jax(plain, extras, version)?,
        _ if name.starts_with("nvidia-") && name.contains("-cu1") => Wheel {
            kind: Kind::Libraries,
            ..plain
        },
        _ => {
            let cuda = cuda_of_name(name)?;
            Wheel {
                cuda: Some(cuda),
                ..plain
            }
        }
    })
}

/// The CUDA in the names of CuPy's and MXNet's wheels: `cupy-cuda12x`, `cupy-cuda118`,
/// `mxnet-cu112`.
fn cuda_of_name(name: &str) -> Option<Cuda> {
    let tag = name
        .strip_prefix("cupy-cuda")
        .or_else(|| name.strip_prefix("mxnet-cu"))?;
    let major = tag.strip_suffix('x').and_then(decimal);
    major
        .map(|major| Cuda { major, minor: 0 })
        .or_else(|| torch::cuda_of_tag(&format!("cu{tag}")))
}

/// `jax[cuda12]`, `jax-cuda12-plugin`, `jaxlib==0.4.13+cuda11.cudnn86`. JAX without any of these is
/// for the CPU.
fn jax<'a>(plain: Wheel<'a>, extras: &str, version: Option<&str>) -> Option<Wheel<'a>> {
    let major = |text: &str| {
        let major = text.get(..2)?.parse().ok()?;
        Some(Cuda { major, minor: 0 })
    };
    let named = extras.split(',').find_map(|e| e.trim().strip_prefix("cuda"));
    let (cuda, cpu) = match plain.what {
        "jax" => (named.and_then(major), named.is_none() && !extras.contains("tpu")),
        "jaxlib" => (version.and_then(|v| major(v.split_once("+cuda")?.1)), false),
        name => {
            let plugin = ["jax-cuda", "jax_cuda"]
                .iter()
                .find_map(|p| name.strip_prefix(p))?;
            (major(plugin), false)
        }
    };
    Some(Wheel { cuda, cpu, ..plain })
}

/// The name or prefix of `conda create` and `conda env create`.
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
