//! A Dockerfile as stages: what each is built on, its variables, and what is installed in it.

use std::collections::BTreeMap;

use super::install::{self, Install};
use super::parse::{Instruction, expand, words};
use crate::compat::{Cuda, image};

/// What a stage begins with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Base {
    /// The image's name without registry `docker.io` and without tag: `nvidia/cuda`.
    pub(super) name: String,
    /// `11.8.0-base-ubuntu22.04`; empty without one.
    pub(super) tag: String,
    /// Whether it is named by digest.
    pub(super) pinned: bool,
    /// The line of its `FROM`, number and text.
    pub(super) line: (usize, String),
}

impl Base {
    fn parse(image: &str, line: (usize, &str)) -> Self {
        let (image, pinned) = image.split_once('@').map_or((image, false), |(i, _)| (i, true));
        let image = image
            .strip_prefix("docker.io/")
            .or_else(|| image.strip_prefix("index.docker.io/"))
            .unwrap_or(image);
        // A colon before the last slash is a port's.
        let (name, tag) = match image.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (image, ""),
        };
        Self {
            name: name.to_owned(),
            tag: tag.to_owned(),
            pinned,
            line: (line.0, line.1.to_owned()),
        }
    }

    /// Whether it is one of NVIDIA's CUDA images.
    pub(super) fn is_cuda(&self) -> bool {
        matches!(
            self.name.as_str(),
            "nvidia/cuda" | "nvcr.io/nvidia/cuda" | "nvidia/cudagl" | "nvidia/cuda-arm64"
        )
    }

    /// The CUDA version its name tells: of `nvidia/cuda:12.4.1-…`, and of `…:2.1.0-cuda12.1-cudnn8-runtime`.
    pub(super) fn cuda(&self) -> Option<Cuda> {
        if self.is_cuda() {
            return image::cuda_of(&self.tag);
        }
        self.tag
            .split('-')
            .find_map(|p| p.strip_prefix("cuda")?.parse().ok())
    }

    /// Whether it is of musl.
    pub(super) fn is_musl(&self) -> bool {
        self.name == "alpine"
            || self.name.ends_with("/alpine")
            || self.tag.split('-').any(|p| p.starts_with("alpine"))
    }
}

/// One stage.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage {
    /// The image at the bottom of it, through other stages.
    pub(super) base: Base,
    /// Its environment, that of the stage below included, without the image's.
    pub(super) env: BTreeMap<String, (String, usize)>,
    /// What is installed, that of the stage below included.
    pub(super) installs: Vec<Install>,
    name: String,
    args: BTreeMap<String, String>,
    shell: Vec<String>,
    starts: Vec<String>,
}

impl Stage {
    /// All variables that its instructions may use.
    fn variables(&self) -> BTreeMap<String, String> {
        let mut all = self.args.clone();
        all.extend(self.env.iter().map(|(k, (v, _))| (k.clone(), v.clone())));
        all
    }

    /// An environment variable's value and line.
    pub(super) fn variable(&self, name: &str) -> Option<(&str, usize)> {
        self.env.get(name).map(|(v, l)| (v.as_str(), *l))
    }

    /// Whether commands are run in a conda environment, by `SHELL`, `ENTRYPOINT` or `CMD`.
    pub(super) fn runs_in_conda(&self) -> bool {
        let texts = || self.shell.iter().chain(&self.starts);
        texts().any(|t| {
            ["conda", "mamba"].iter().any(|c| t.contains(c)) || t.contains("/envs/") || t.contains("activate")
        })
    }

    /// Whether anything in it uses CUDA: its image, a framework, or a variable.
    pub(super) fn uses_cuda(&self) -> bool {
        self.base.is_cuda()
            || self.base.cuda().is_some()
            || self.env.keys().any(|k| k.starts_with("NVIDIA_"))
            || self.installs.iter().any(|i| i.cuda.is_some())
    }
}

/// The stages of a file, the last one last; with each instruction the place of its stage.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) stages: Vec<Stage>,
    /// Instructions of stages with their text expanded.
    pub(super) steps: Vec<Step>,
}

/// One instruction of a stage.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) instruction: Instruction,
    /// Its text with variables replaced.
    pub(super) text: String,
}

/// Builds the stages; `build_args` stand before the defaults of `ARG`.
pub(super) fn build(instructions: Vec<Instruction>, build_args: &BTreeMap<String, String>) -> Model {
    let mut model = Model::default();
    let mut global: BTreeMap<String, String> = BTreeMap::new();
    for instruction in instructions {
        let known = model
            .stages
            .last()
            .map_or_else(|| global.clone(), Stage::variables);
        let text = match instruction.keyword.as_str() {
            "FROM" => expand(&instruction.text, &global),
            _ => expand(&instruction.text, &known),
        };
        if instruction.keyword == "FROM" {
            let stage = from(&text, instruction.line_of("\0"), &model.stages);
            model.stages.push(stage);
        }
        match (instruction.keyword.as_str(), model.stages.last_mut()) {
            ("ARG", mut stage) => {
                for word in words(&text) {
                    let (name, default) = word
                        .split_once('=')
                        .map_or((word.as_str(), None), |(n, v)| (n, Some(v)));
                    let given = build_args.get(name).cloned();
                    let value = given.or_else(|| default.map(ToOwned::to_owned));
                    match stage.as_deref_mut() {
                        // An `ARG` of a stage without a value takes that of before the first stage.
                        Some(stage) => {
                            let value = value.or_else(|| global.get(name).cloned());
                            stage.args.insert(name.to_owned(), value.unwrap_or_default());
                        }
                        None => {
                            global.insert(name.to_owned(), value.unwrap_or_default());
                        }
                    }
                }
            }
            ("ENV", Some(stage)) => {
                for (name, value) in pairs(&text) {
                    let (line, _) = instruction.line_of(&name);
                    stage.env.insert(name, (value, line));
                }
            }
            ("SHELL", Some(stage)) => stage.shell = vec![text.clone()],
            ("ENTRYPOINT" | "CMD", Some(stage)) => stage.starts.push(text.clone()),
            ("RUN", Some(stage)) => stage.installs.extend(install::of(&instruction, &text)),
            _ => {}
        }
        model.steps.push(Step { instruction, text });
    }
    model
}

fn from(text: &str, line: (usize, &str), stages: &[Stage]) -> Stage {
    let mut parts = text.split_whitespace().filter(|w| !w.starts_with("--"));
    let image = parts.next().unwrap_or_default();
    let name = match (parts.next(), parts.next()) {
        (Some(word), Some(name)) if word.eq_ignore_ascii_case("as") => name.to_ascii_lowercase(),
        _ => String::new(),
    };
    let below = stages
        .iter()
        .rev()
        .find(|s| !s.name.is_empty() && s.name.eq_ignore_ascii_case(image));
    match below {
        Some(below) => Stage {
            name,
            args: BTreeMap::new(),
            ..below.clone()
        },
        None => Stage {
            base: Base::parse(image, line),
            name,
            ..Stage::default()
        },
    }
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
