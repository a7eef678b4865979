//! Finds the packages that a `RUN` installs: `pip install torch` is PyTorch for the newest CUDA.

use super::conda::{self, Build};
use super::environment;
use super::parse::{Instruction, Line, TEXT, commands};
use super::project::{self, Listed, Project};
use super::requirements::{Finder, Word};
use super::wheels::{Index, Indices, Kind, Reason, framework};
use crate::compat::Cuda;
use crate::compat::torch::Release;
use crate::sys::budget::{Budget, Exceeded};

/// One installed package or environment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Install {
    pub(super) kind: Kind,
    /// `torch`, `nvidia-driver-535`, the environment's name
    pub(super) what: String,
    /// The CUDA version of its build.
    pub(super) cuda: Option<Cuda>,
    /// Why it never uses a GPU, if it is such a build.
    pub(super) cpu: Option<Reason>,
    /// The release, for PyTorch.
    pub(super) torch: Option<Release>,
    /// The CUDA version, and the cuDNN major version if any, that it needs from the image.
    pub(super) needs: Option<(Cuda, Option<u32>)>,
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
            cpu: None,
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
    /// The base image's tag.
    pub(super) tag: String,
    /// Whether the base image has PyTorch.
    pub(super) has_torch: bool,
    /// Whether the image is for aarch64.
    pub(super) is_arm: bool,
    pub(super) pip: Indices,
    pub(super) uv: Indices,
    /// uv's backend for PyTorch: `cu128`, `auto`.
    pub(super) backend: Option<String>,
    /// The options of CMake for packages that pip compiles.
    pub(super) cmake: String,
    /// Whether `CONDA_OVERRIDE_CUDA` stands for a driver.
    pub(super) override_cuda: bool,
    /// Whether `MAMBA_ROOT_PREFIX` is set.
    pub(super) has_root_prefix: bool,
}

impl Settings {
    /// The variables of the main index; the first one that is set counts.
    pub(super) const PIP_MAIN: [&str; 1] = ["PIP_INDEX_URL"];
    pub(super) const PIP_EXTRA: [&str; 1] = ["PIP_EXTRA_INDEX_URL"];
    pub(super) const UV_MAIN: [&str; 2] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL"];
    pub(super) const UV_EXTRA: [&str; 2] = ["UV_INDEX", "UV_EXTRA_INDEX_URL"];
    pub(super) const UV_BACKEND: &str = "UV_TORCH_BACKEND";
    pub(super) const CMAKE: &str = "CMAKE_ARGS";
    pub(super) const OVERRIDE_CUDA: &str = "CONDA_OVERRIDE_CUDA";
    pub(super) const ROOT_PREFIX: &str = "MAMBA_ROOT_PREFIX";

    /// Whether the base image's PyTorch satisfies a requirement, so that pip installs none.
    fn satisfies(&self, word: &str) -> bool {
        let Some(rest) = word.strip_prefix("torch").filter(|_| self.has_torch) else {
            return false;
        };
        let own = self.tag.split('-').next().unwrap_or_default();
        match rest.strip_prefix("==").or_else(|| rest.strip_prefix(">=")) {
            None => rest.is_empty(),
            Some(version) if rest.starts_with("==") => own == version,
            Some(version) => match (own.parse::<Release>(), version.parse::<Release>()) {
                (Ok(own), Ok(from)) => !version.contains(',') && own >= from,
                _ => false,
            },
        }
    }
}

/// What one `RUN` installs.
#[derive(Debug, Default)]
pub(super) struct Installed {
    pub(super) installs: Vec<Install>,
    /// Files that pip installs from and that were not found, with their lines.
    pub(super) unread: Vec<(String, Line)>,
    /// Commands whose packages are not judged, with their lines.
    pub(super) unjudged: Vec<(String, Line)>,
}

/// The installations of `instruction`; `text` is its text with variables replaced.
pub(super) fn of(
    instruction: &Instruction,
    text: &str,
    settings: &Settings,
    files: &Finder<'_>,
    budget: &Budget,
) -> Result<Installed, Exceeded> {
    let mut run = Run {
        instruction,
        text,
        settings,
        files,
        budget,
        found: Installed::default(),
    };
    for command in shell_commands(text) {
        let words: Vec<&str> = program(&command);
        let Some((name, rest)) = words.split_first() else {
            continue;
        };
        let name = name.rsplit('/').next().unwrap_or(name);
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
                    run.add(kind, word)?;
                }
            }
        } else if matches!(name, "cd" | "pushd") {
            if let [dir] = rest {
                files.enter(dir)?;
            }
        } else if rest.contains(&"uninstall") {
            for word in rest.iter().filter(|w| **w == "onnxruntime") {
                run.add(Kind::Removed, word)?;
            }
        } else if let Some(what) = installer(&words) {
            run.add(Kind::Driver, what)?;
        } else if let Some(rest) = pip(name, rest) {
            let (all, missing) = files.spliced(rest)?;
            run.unread(missing)?;
            run.wheels(&all, name == "uv")?;
        } else if let Some(project) = project::of(name, rest, files)? {
            match project {
                Project::Known(all) => run.listed(&all, name == "uv")?,
                Project::Unjudged(command) => run.unjudged(&command, &command)?,
            }
        } else if matches!(name, "conda" | "mamba" | "micromamba") {
            // An empty value stands for no driver.
            let assigned = command.iter().find_map(|word| {
                let (name, value) = word.split_once('=')?;
                (name == Settings::OVERRIDE_CUDA).then_some(!value.is_empty())
            });
            let at_home = name == "micromamba" && !run.has_root_prefix(rest);
            run.conda(rest, assigned.unwrap_or(settings.override_cuda), at_home)?;
        }
    }
    Ok(run.found)
}

/// One `RUN` while its commands are read.
struct Run<'a> {
    instruction: &'a Instruction,
    /// Its text with variables replaced.
    text: &'a str,
    settings: &'a Settings,
    files: &'a Finder<'a>,
    budget: &'a Budget,
    found: Installed,
}

impl Run<'_> {
    fn add(&mut self, kind: Kind, what: &str) -> Result<(), Exceeded> {
        let install = Install::new(kind, what, self.instruction, self.budget)?;
        self.found.installs.push(install);
        Ok(())
    }

    /// Names files that were not found.
    fn unread(&mut self, missing: Vec<String>) -> Result<(), Exceeded> {
        for file in missing {
            self.budget.keep((TEXT + file.len()) as u64)?;
            let line = self.instruction.line_of(&file, self.budget)?;
            self.found.unread.push((file, line));
        }
        Ok(())
    }

    /// Names a command that is not judged; its line has `needle`.
    fn unjudged(&mut self, command: &str, needle: &str) -> Result<(), Exceeded> {
        self.budget.keep((TEXT + command.len()) as u64)?;
        let line = self.instruction.line_of(needle, self.budget)?;
        self.found.unjudged.push((command.to_owned(), line));
        Ok(())
    }

    /// The indices and options that `words` and the stage's variables set.
    fn index<'b>(&'b self, words: &[&'b str], is_uv: bool) -> Index<'b> {
        const CUDA: [&str; 5] = [
            "ggml_cuda=",
            "llama_cuda=",
            "cublas=",
            "llama-cpp-python/whl/cu",
            "llama-cpp-python/releases/download",
        ];
        let set = if is_uv {
            &self.settings.uv
        } else {
            &self.settings.pip
        };
        let text = self.text.to_ascii_lowercase();
        let cmake = self.settings.cmake.to_ascii_lowercase();
        let lists = |word: &&str| CUDA.iter().any(|part| word.contains(part));
        let mut index = Index::of(words, set, self.settings.backend.as_deref(), is_uv);
        index.is_arm = self.settings.is_arm;
        index.compiles_cuda = lists(&text.as_str()) || lists(&cmake.as_str()) || words.iter().any(lists);
        index
    }

    /// pip's arguments, with the lines of its files.
    fn wheels(&mut self, all: &[Word], is_uv: bool) -> Result<(), Exceeded> {
        const ANEW: [&str; 6] = [
            "-U",
            "--upgrade",
            "--force-reinstall",
            "--ignore-installed",
            "-I",
            "--reinstall",
        ];
        let words: Vec<&str> = all.iter().map(|word| word.text.as_str()).collect();
        self.budget.scan(self.text.len())?;
        let keeps = !words.iter().any(|word| ANEW.contains(word)) && (!is_uv || words.contains(&"--system"));
        let mut wheels = Vec::new();
        let mut projects = Vec::new();
        let index = self.index(&words, is_uv);
        let mut after_option = "";
        for (word, text) in all.iter().zip(&words) {
            let option = core::mem::take(&mut after_option);
            if takes_value(text) {
                after_option = text;
            }
            // `-r` and `-c` take a file, `-i` takes an index, `-e` takes a project.
            if takes_value(option) || word.line.is_none() && *text == "install" {
                continue;
            }
            let bare = text.strip_prefix("file:").unwrap_or(text);
            if is_project(bare) {
                projects.push(bare.to_owned());
                continue;
            }
            // pip's names are the same in any case (PEP 503).
            let lower = text.to_ascii_lowercase();
            if keeps && self.settings.satisfies(&lower) {
                continue;
            }
            wheels.extend(self.install(&lower, word.line.as_ref(), &index)?);
        }
        self.found.installs.append(&mut wheels);
        for project in projects {
            let dir = project.split('[').next().unwrap_or_default();
            let with_extras = project.contains('[');
            match project::of_directory(dir, self.files)?.filter(|_| !with_extras) {
                Some(all) => self.listed(&all, is_uv)?,
                None => self.unjudged(&format!("pip install {project}"), &project)?,
            }
        }
        Ok(())
    }

    /// The packages of a project.
    fn listed(&mut self, all: &[Listed], is_uv: bool) -> Result<(), Exceeded> {
        let mut wheels = Vec::new();
        let index = self.index(&[], is_uv);
        for Listed { word, index: own } in all {
            let lower = word.text.to_ascii_lowercase();
            wheels.extend(self.install(&lower, word.line.as_ref(), &index.with(own.as_deref()))?);
        }
        self.found.installs.append(&mut wheels);
        Ok(())
    }

    /// The installation of one requirement in lower case.
    fn install(
        &self,
        word: &str,
        line: Option<&Line>,
        index: &Index<'_>,
    ) -> Result<Option<Install>, Exceeded> {
        let Some(wheel) = framework(word, index) else {
            return Ok(None);
        };
        let mut install = Install::new(wheel.kind, wheel.what, self.instruction, self.budget)?;
        if let Some(line) = line {
            install.line = line.clone();
        }
        Ok(Some(Install {
            cuda: wheel.cuda,
            cpu: wheel.cpu,
            torch: wheel.torch,
            needs: wheel.needs,
            outbid: wheel.outbid,
            ..install
        }))
    }

    /// Whether a root prefix is set for a command of micromamba; the images of mambaorg set one.
    fn has_root_prefix(&self, words: &[&str]) -> bool {
        let option = |w: &&str| matches!(*w, "-r" | "--root-prefix") || w.starts_with("--root-prefix=");
        self.settings.base.contains("micromamba")
            || self.settings.has_root_prefix
            || self.text.contains(Settings::ROOT_PREFIX)
            || words.iter().any(option)
    }

    /// The arguments of conda, with those of its file. Without a root prefix, micromamba makes
    /// environments below the home directory.
    fn conda(&mut self, words: &[&str], override_cuda: bool, at_home: bool) -> Result<(), Exceeded> {
        let creates = words.contains(&"create");
        if let Some(file) = environment::named(words).filter(|_| conda::installs(words)) {
            match environment::read(file, self.files, self.budget)? {
                Some(environment) => {
                    let mut all = vec!["install"];
                    all.extend(environment.conda.iter().map(String::as_str));
                    self.conda_packages(&all, override_cuda)?;
                    let pip: Vec<&str> = environment.pip.iter().map(String::as_str).collect();
                    let (all, missing) = self.files.spliced(&pip)?;
                    self.unread(missing)?;
                    self.wheels(&all, false)?;
                }
                None => self.unjudged(file, file)?,
            }
        }
        self.conda_packages(words, override_cuda)?;
        if let Some(what) = environment(words).filter(|_| creates) {
            if at_home && !what.contains('/') {
                self.add(Kind::CondaEnvironment, &format!("~/micromamba/envs/{what}"))?;
            } else {
                self.add(Kind::CondaEnvironment, what)?;
            }
        }
        Ok(())
    }

    fn conda_packages(&mut self, words: &[&str], override_cuda: bool) -> Result<(), Exceeded> {
        for package in conda::packages(words, &self.settings.base, override_cuda) {
            let (kind, cuda, cpu) = match package.build {
                Build::Libraries => (Kind::Libraries, None, None),
                Build::Cuda(cuda) => (Kind::Framework, Some(cuda), None),
                Build::Cpu => (Kind::Framework, None, Some(Reason::Chosen)),
                Build::Undetected => (Kind::Framework, None, Some(Reason::Undetected)),
            };
            let install = Install::new(kind, package.name, self.instruction, self.budget)?;
            self.found.installs.push(Install { cuda, cpu, ..install });
        }
        Ok(())
    }
}

/// Whether an argument of pip is the directory of a project: `.`, `./app[gpu]`.
fn is_project(word: &str) -> bool {
    let path = word.split('[').next().unwrap_or_default();
    let is_file = [".whl", ".gz", ".zip"].iter().any(|end| path.ends_with(end));
    !is_file && (path == "." || path.starts_with("./") || path.starts_with('/') || path.starts_with("../"))
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
        ("uv", ["add", rest @ ..]) => return Some(rest),
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
            | "--torch-backend"
            | "--platform"
            | "--python"
            | "-p"
            | "--prefix"
            | "--root"
            | "--cache-dir"
            | "--config-settings"
            | "--trusted-host"
    )
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
