//! A Dockerfile as stages: the base of each, its variables, and its installed packages.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use super::ignore::Ignore;
use super::install::{self, Install, Settings};
use super::parse::{Instruction, Line, TEXT, expand, words};
use super::requirements::{Brought, Context, Finder, MAX_PATH, normalized};
use super::wheels::Indices;
use crate::compat::{Cuda, image};
use crate::sys::budget::{Budget, Exceeded};

/// The base image of a stage.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Base {
    /// The image's name without registry `docker.io` and without tag: `nvidia/cuda`.
    pub(super) name: String,
    /// `11.8.0-base-ubuntu22.04`; empty without one.
    pub(super) tag: String,
    /// Whether it has a digest.
    pub(super) pinned: bool,
    /// Whether it is for aarch64: by its `FROM --platform`, or as an image for Jetsons.
    pub(super) is_arm: bool,
    /// The line of its `FROM`.
    pub(super) line: Line,
}

impl Base {
    fn parse(image: &str, line: Line) -> Self {
        let (image, pinned) = image.split_once('@').map_or((image, false), |(i, _)| (i, true));
        let image = image
            .strip_prefix("docker.io/")
            .or_else(|| image.strip_prefix("index.docker.io/"))
            .unwrap_or(image);
        // A colon before the last slash separates a port.
        let (name, tag) = match image.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (image, ""),
        };
        Self {
            name: name.to_owned(),
            tag: tag.to_owned(),
            pinned,
            is_arm: name.starts_with("nvcr.io/nvidia/l4t-") || name.starts_with("dustynv/"),
            line,
        }
    }

    /// Whether it has PyTorch, for GPUs of any vendor.
    fn has_torch(&self) -> bool {
        matches!(self.name.rsplit('/').next(), Some("pytorch" | "l4t-pytorch")) && self.name.contains('/')
    }

    /// Whether it is not known what it has.
    pub(super) fn is_unknown(&self) -> bool {
        const OTHERS: [&str; 7] = [
            "busybox",
            "intel/",
            "ollama/",
            "rocm/",
            "scratch",
            "tensorflow/",
            "node",
        ];
        let plain =
            self.is_plain() || self.is_musl() || OTHERS.iter().any(|name| self.name.starts_with(name));
        !self.is_for_gpus() && !plain && !self.name.is_empty()
    }

    /// The tables' data about it, if it is a GPU image.
    pub(super) fn known(&self) -> Option<image::Known> {
        image::of(&self.name, &self.tag)
    }

    /// Whether it is one of NVIDIA's CUDA images.
    pub(super) fn is_cuda(&self) -> bool {
        self.known().is_some_and(|known| known.kind == image::Kind::Cuda)
    }

    /// The CUDA version in its name: of `nvidia/cuda:12.4.1-…`, and of
    /// `…:2.1.0-cuda12.1-cudnn8-runtime`.
    pub(super) fn cuda(&self) -> Option<Cuda> {
        self.known().and_then(|known| known.cuda).or_else(|| {
            self.tag
                .split('-')
                .find_map(|p| p.strip_prefix("cuda")?.parse().ok())
        })
    }

    /// Whether it is for GPUs.
    pub(super) fn is_for_gpus(&self) -> bool {
        self.known().is_some() || self.cuda().is_some()
    }

    /// Whether it certainly has no CUDA: a distribution, or only Python.
    pub(super) fn is_plain(&self) -> bool {
        const PLAIN: [&str; 14] = [
            "almalinux",
            "amazonlinux",
            "archlinux",
            "condaforge/miniforge3",
            "continuumio/anaconda3",
            "continuumio/miniconda3",
            "debian",
            "fedora",
            "mambaorg/micromamba",
            "opensuse/leap",
            "python",
            "redhat/ubi9",
            "rockylinux",
            "ubuntu",
        ];
        let name = self.name.strip_prefix("library/").unwrap_or(&self.name);
        PLAIN.contains(&name)
    }

    /// Whether it uses musl.
    pub(super) fn is_musl(&self) -> bool {
        self.name == "alpine"
            || self.name.ends_with("/alpine")
            || self.tag.split('-').any(|p| p.starts_with("alpine"))
    }
}

/// One stage: the effects of its own instructions, without its base.
#[derive(Debug, Default)]
struct Own {
    /// The image below it, through other stages.
    base: Rc<Base>,
    /// The position of the stage that it is built on; always before its own.
    below: Option<usize>,
    env: BTreeMap<String, (String, usize)>,
    installs: Vec<Install>,
    /// The positions of stages whose Python packages it copies; always before its own.
    copied: BTreeSet<usize>,
    /// Whether it copies CUDA libraries.
    copies_cuda: bool,
    args: BTreeMap<String, String>,
    shell: Option<String>,
    starts: Vec<String>,
    workdir: Option<String>,
    /// Files that come from the build context.
    brought: Vec<Brought>,
    /// Files that pip installs from and that were not found, with their lines.
    unread: Vec<(String, Line)>,
    /// Commands whose packages are not judged, with their lines.
    unjudged: Vec<(String, Line)>,
}

/// A stage with all stages below it.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    stages: &'a [Own],
    at: usize,
}

impl<'a> Stage<'a> {
    /// The stage itself and the stages below it, downwards.
    fn chain(self) -> impl Iterator<Item = &'a Own> {
        let own = |at: usize| self.stages.get(at);
        core::iter::successors(own(self.at), move |stage| own(stage.below?))
    }

    /// The image below it.
    pub(super) fn base(self) -> &'a Base {
        &self.stages[self.at].base
    }

    /// The installed packages, the lowest stage's first, with those that are copied from other
    /// stages.
    pub(super) fn installs(self) -> impl Iterator<Item = &'a Install> {
        let mut reached = BTreeSet::new();
        let mut next = vec![self.at];
        while let Some(at) = next.pop() {
            if let Some(own) = self.stages.get(at)
                && reached.insert(at)
            {
                next.extend(own.below);
                next.extend(&own.copied);
            }
        }
        reached.into_iter().flat_map(|at| &self.stages[at].installs)
    }

    /// The packages that its instructions, and those of the stages below, install.
    pub(super) fn own_installs(self) -> impl Iterator<Item = &'a Install> {
        let mut chain: Vec<&Own> = self.chain().collect();
        chain.reverse();
        chain.into_iter().flat_map(|stage| &stage.installs)
    }

    /// Whether it copies CUDA libraries.
    pub(super) fn copies_cuda(self) -> bool {
        self.chain().any(|stage| stage.copies_cuda)
    }

    /// The working directory, as far as it is known.
    pub(super) fn workdir(self) -> &'a str {
        self.chain()
            .find_map(|stage| stage.workdir.as_deref())
            .unwrap_or("/")
    }

    /// The files that come from the build context, the last first.
    pub(super) fn brought(self) -> impl Iterator<Item = &'a Brought> {
        self.chain().flat_map(|stage| stage.brought.iter().rev())
    }

    /// Files that pip installs from and that were not found, with their lines.
    pub(super) fn unread(self) -> impl Iterator<Item = &'a (String, Line)> {
        self.chain().flat_map(|stage| &stage.unread)
    }

    /// Commands whose packages are not judged, with their lines.
    pub(super) fn unjudged(self) -> impl Iterator<Item = &'a (String, Line)> {
        self.chain().flat_map(|stage| &stage.unjudged)
    }

    /// The positions of the stage and of the stages below it.
    pub(super) fn places(self) -> HashSet<usize> {
        let below = |at: &usize| self.stages.get(*at)?.below;
        core::iter::successors(Some(self.at), below).collect()
    }

    /// The value and line of an environment variable, without the base image's.
    pub(super) fn variable(self, name: &str) -> Option<(&'a str, usize)> {
        let (value, line) = self.chain().find_map(|stage| stage.env.get(name))?;
        Some((value.as_str(), *line))
    }

    /// The value of a variable in its instructions.
    pub(super) fn value(self, name: &str, budget: &Budget) -> Result<Option<&'a str>, Exceeded> {
        for stage in self.chain() {
            budget.step()?;
            if let Some((value, _)) = stage.env.get(name) {
                return Ok(Some(value));
            }
        }
        Ok(self.stages[self.at].args.get(name).map(String::as_str))
    }

    /// Whether `SHELL`, `ENTRYPOINT` or `CMD` run commands in a conda environment.
    pub(super) fn runs_in_conda(self) -> bool {
        self.shells().any(|t| {
            ["conda", "mamba"].iter().any(|c| t.contains(c)) || t.contains("/envs/") || t.contains("activate")
        })
    }

    /// The texts of `SHELL`, `ENTRYPOINT` and `CMD`.
    fn shells(self) -> impl Iterator<Item = &'a String> {
        let shell = self.chain().find_map(|stage| stage.shell.as_ref());
        shell
            .into_iter()
            .chain(self.chain().flat_map(|stage| &stage.starts))
    }

    /// Whether the container starts with a shell that reads the startup files of a login, and one
    /// that reads those of an interactive shell.
    pub(super) fn startup_files(self) -> (bool, bool) {
        let has = |options: &[&str]| {
            self.shells().any(|text| {
                let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                text.contains("sh") && words.any(|word| options.contains(&word))
            })
        };
        (
            has(&["--login", "-l", "-lc", "-ilc", "-lic"]),
            has(&["-i", "-ic", "-ilc", "-lic"]),
        )
    }

    /// Whether its image, a framework or a variable uses CUDA.
    pub(super) fn uses_cuda(self) -> bool {
        self.computes()
            || self
                .chain()
                .flat_map(|stage| stage.env.keys())
                .any(|k| k.starts_with("NVIDIA_"))
    }

    /// Whether its image or a framework computes with CUDA.
    pub(super) fn computes(self) -> bool {
        self.base().is_for_gpus() || self.installs().any(|i| i.cuda.is_some())
    }
}

/// The stages of a file in order, and each instruction with the position of its stage.
#[derive(Debug, Default)]
pub(super) struct Model {
    stages: Vec<Own>,
    /// The positions of stages by lower-case name; if a name occurs twice, the later one counts.
    names: HashMap<String, usize>,
    /// The instructions of stages, with their text expanded.
    pub(super) steps: Vec<Step>,
}

/// One instruction of a stage.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) instruction: Instruction,
    /// Its text with variables replaced.
    pub(super) text: String,
    /// The position of its stage; none before the first `FROM`.
    pub(super) stage: Option<usize>,
}

impl Model {
    /// The stage that becomes the image.
    pub(super) fn last(&self) -> Option<Stage<'_>> {
        let at = self.stages.len().checked_sub(1)?;
        Some(Stage {
            stages: &self.stages,
            at,
        })
    }

    /// The base image of each stage.
    pub(super) fn bases(&self) -> impl Iterator<Item = &Base> {
        self.stages.iter().map(|stage| stage.base.as_ref())
    }

    /// The position of the stage in `COPY --from=`, by name or number.
    fn place(&self, name: &str) -> Option<usize> {
        let by_name = self.names.get(&name.to_ascii_lowercase()).copied();
        by_name.or_else(|| name.parse().ok().filter(|at| *at < self.stages.len()))
    }

    /// Records what `COPY` adds to the last stage.
    fn copy(&mut self, text: &str, budget: &Budget) -> Result<(), Exceeded> {
        let all = copied(text);
        let Some(from) = all.iter().find_map(|w| w.strip_prefix("--from=")) else {
            return Ok(());
        };
        let sources: Vec<&String> = all.iter().filter(|w| !w.starts_with("--")).collect();
        let Some((_, sources)) = sources.split_last() else {
            return Ok(());
        };
        let place = self.place(from).filter(|at| at + 1 < self.stages.len());
        let mut packages = sources.iter().any(|source| has_packages(source));
        if let Some(place) = place.filter(|_| !packages) {
            // `/app` of a stage that makes `/app/.venv`.
            let names: Vec<String> = sources
                .iter()
                .map(|source| source.trim_end_matches('/'))
                .filter(|source| source.starts_with('/'))
                .flat_map(|source| [".venv", "venv", "env"].map(|name| format!("{source}/{name}")))
                .collect();
            // Steps are in the order of their stages.
            let first = self.steps.partition_point(|step| step.stage < Some(place));
            let steps = self.steps.iter().skip(first);
            for step in steps.take_while(|step| step.stage == Some(place)) {
                budget.scan(step.text.len() * names.len())?;
                packages |= names.iter().any(|name| step.text.contains(name));
            }
        }
        let Some(last) = self.stages.last_mut() else {
            return Ok(());
        };
        let of_cuda = |s: &&&String| ["cuda", "cudnn", "cublas"].iter().any(|word| s.contains(word));
        last.copies_cuda |= sources.iter().any(|s| of_cuda(&s)) || is_whole(sources);
        if let Some(place) = place.filter(|_| packages) {
            last.copied.insert(place);
        }
        Ok(())
    }

    /// Adds the stage of `FROM text`.
    fn push(&mut self, text: &str, line: Line) {
        let mut parts = text.split_whitespace().filter(|w| !w.starts_with("--"));
        let image = parts.next().unwrap_or_default();
        let name = match (parts.next(), parts.next()) {
            (Some(word), Some(name)) if word.eq_ignore_ascii_case("as") => name.to_ascii_lowercase(),
            _ => String::new(),
        };
        let below = self.names.get(&image.to_ascii_lowercase()).copied();
        let base = if let Some(below) = below.and_then(|at| self.stages.get(at)) {
            Rc::clone(&below.base)
        } else {
            let mut base = Base::parse(image, line);
            let mut flags = text.split_whitespace().take_while(|w| w.starts_with("--"));
            base.is_arm |=
                flags.any(|w| w.starts_with("--platform=") && (w.contains("arm64") || w.contains("aarch64")));
            Rc::new(base)
        };
        if !name.is_empty() {
            self.names.insert(name, self.stages.len());
        }
        self.stages.push(Own {
            base,
            below,
            ..Own::default()
        });
    }
}

/// Builds the stages; `build_args` override the defaults of `ARG`.
pub(super) fn build(
    instructions: Vec<Instruction>,
    build_args: &BTreeMap<String, String>,
    context: &Context,
    budget: &Budget,
) -> Result<Model, Exceeded> {
    let ignore = context.ignore_file(budget)?;
    let ignore = ignore.map(|text| Ignore::parse(&text)).unwrap_or_default();
    let mut model = Model::default();
    let mut global: BTreeMap<String, String> = BTreeMap::new();
    for instruction in instructions {
        let stage = model.last().filter(|_| instruction.keyword != "FROM");
        let value_of = |name: &str| match stage {
            Some(stage) => stage.value(name, budget),
            None => Ok(global.get(name).map(String::as_str)),
        };
        let text = expand(&instruction.text, value_of, budget)?;
        let installed = match stage.filter(|_| instruction.keyword == "RUN") {
            Some(stage) => {
                let finder = Finder::new(
                    (context, &ignore),
                    &text,
                    stage.workdir(),
                    stage.brought(),
                    budget,
                )?;
                install::of(&instruction, &text, &settings(stage, budget)?, &finder, budget)?
            }
            None => install::Installed::default(),
        };
        let workdir = stage.map_or("/", Stage::workdir).to_owned();
        if instruction.keyword == "FROM" {
            model.push(&text, instruction.first_line());
        }
        match (instruction.keyword.as_str(), model.stages.last_mut()) {
            ("ARG", mut stage) => {
                for word in words(&text) {
                    let (name, default) = word
                        .split_once('=')
                        .map_or((word.as_str(), None), |(n, v)| (n, Some(v)));
                    let given = build_args.get(name).cloned();
                    let value = given.or_else(|| default.map(ToOwned::to_owned));
                    // An `ARG` without a value inside a stage takes the value from before the first
                    // stage.
                    let value = value.or_else(|| global.get(name).filter(|_| stage.is_some()).cloned());
                    let value = value.unwrap_or_default();
                    budget.keep((2 * TEXT + name.len() + value.len()) as u64)?;
                    let args = stage.as_deref_mut().map_or(&mut global, |stage| &mut stage.args);
                    args.insert(name.to_owned(), value);
                }
            }
            ("ENV", Some(stage)) => {
                for (mut name, mut value) in pairs(&text) {
                    name.shrink_to_fit();
                    value.shrink_to_fit();
                    budget.keep((2 * TEXT + name.len() + value.len()) as u64)?;
                    let line = instruction.line_of(&name, budget)?.number;
                    stage.env.insert(name, (value, line));
                }
            }
            ("SHELL", Some(stage)) => stage.shell = Some(text.clone()),
            ("ENTRYPOINT" | "CMD", Some(stage)) => stage.starts.push(text.clone()),
            ("WORKDIR", Some(stage)) => {
                let path = normalized(&workdir, text.trim());
                // The kernel takes no longer path.
                if path.len() < MAX_PATH {
                    budget.keep((TEXT + path.len()) as u64)?;
                    stage.workdir = Some(path);
                }
            }
            (keyword @ ("ADD" | "COPY"), Some(stage)) => {
                if let Some(brought) = Brought::by_copy(&copied(&text), &workdir) {
                    budget.keep(brought.memory() as u64)?;
                    stage.brought.push(brought);
                }
                if keyword == "COPY" {
                    model.copy(&text, budget)?;
                }
            }
            ("RUN", Some(stage)) => {
                stage.installs.extend(installed.installs);
                stage.unread.extend(installed.unread);
                stage.unjudged.extend(installed.unjudged);
            }
            _ => {}
        }
        let stage = model.stages.len().checked_sub(1);
        model.steps.push(Step {
            instruction,
            text,
            stage,
        });
    }
    Ok(model)
}

/// The settings in a stage's variables.
fn settings(stage: Stage<'_>, budget: &Budget) -> Result<Settings, Exceeded> {
    let first = |names: &[&str]| {
        for name in names {
            if let Some(value) = stage.value(name, budget)? {
                return Ok(Some(value.to_owned()));
            }
        }
        Ok(None)
    };
    let base = stage.base();
    Ok(Settings {
        base: base.name.clone(),
        tag: base.tag.clone(),
        has_torch: base.has_torch(),
        is_arm: base.is_arm,
        override_cuda: stage
            .value(Settings::OVERRIDE_CUDA, budget)?
            .is_some_and(|value| !value.is_empty()),
        has_root_prefix: stage.value(Settings::ROOT_PREFIX, budget)?.is_some(),
        pip: Indices {
            main: first(&Settings::PIP_MAIN)?,
            extra: first(&Settings::PIP_EXTRA)?,
        },
        uv: Indices {
            main: first(&Settings::UV_MAIN)?,
            extra: first(&Settings::UV_EXTRA)?,
        },
        backend: first(&[Settings::UV_BACKEND])?,
        cmake: first(&[Settings::CMAKE])?.unwrap_or_default(),
    })
}

/// The words of `COPY`, whose paths may be a JSON array.
fn copied(text: &str) -> Vec<String> {
    let Some(at) = text.find('[') else {
        return words(text);
    };
    let mut all = words(&text[..at]);
    match serde_json::from_str::<Vec<String>>(text[at..].trim()) {
        Ok(paths) => all.extend(paths),
        Err(_) => all = words(text),
    }
    all
}

/// Whether a whole file system is copied.
fn is_whole(sources: &[&String]) -> bool {
    sources.iter().any(|source| source.as_str() == "/")
}

/// Whether a directory has Python packages, or an environment with them.
fn has_packages(source: &str) -> bool {
    const PARTS: [&str; 8] = [
        "site-packages",
        "dist-packages",
        "venv",
        "conda",
        "miniforge",
        "/envs/",
        "/.local",
        "/usr/lib/python3",
    ];
    let path = source.trim_end_matches('/');
    matches!(
        path,
        "" | "/usr" | "/usr/local" | "/usr/local/lib" | "/install" | "/opt" | "/opt/env"
    ) || path.starts_with("/usr/local/lib/python3")
        || PARTS.iter().any(|part| path.contains(part))
}

/// The pairs of `ENV`: `A=1 B="2 3"`, or the old `A the rest`.
fn pairs(text: &str) -> Vec<(String, String)> {
    let all = words(text);
    if all.first().is_some_and(|w| !w.contains('=')) {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return vec![(name.to_owned(), value.trim().to_owned())];
    }
    all.iter()
        .filter_map(|w| w.split_once('='))
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect()
}
