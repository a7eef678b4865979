//! The builds of wheels in pip's and uv's arguments: `torch==2.1.0+cu118`, `jax[cuda12]`.
//!
//! Facts: download.pytorch.org/whl; docs.astral.sh/uv/guides/integration/pytorch (`auto` takes the
//! index for the CPU if it detects no driver); github.com/pytorch/pytorch, issues
//! 160162 and 168065 (PyPI's wheels for aarch64 are for the CPU, 2.10 and older at least);
//! github.com/abetlen/llama-cpp-python ("Supported Backends").

use crate::compat::torch::{self, Release};
use crate::compat::{Cuda, Version, image};
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

/// Why a build never uses one of NVIDIA's GPUs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Reason {
    /// It is for AMD's GPUs.
    Amd,
    /// PyPI's wheel for aarch64 is for the CPU.
    Arm,
    /// The file demands the build for the CPU.
    Chosen,
    /// pip compiles it, and nothing turns CUDA on.
    Compiled,
    /// uv detects no driver while the image is built.
    Driverless,
    /// It is for Intel's GPUs.
    Intel,
    /// conda detects no driver while the image is built.
    Undetected,
}

/// The last release of PyTorch whose wheel on PyPI for aarch64 is known to be for the CPU.
const LAST_CPU_AARCH64: Release = Release { major: 2, minor: 10 };

/// The build in one of PyTorch's indices: `cu118`, `cpu`, `rocm6.2`.
pub(super) fn tag_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("download.pytorch.org/whl")?;
    rest.trim_end_matches("/torch_stable.html")
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .filter(|tag| is_tag(tag))
}

fn is_tag(tag: &str) -> bool {
    tag == "cpu" || ["cu", "rocm", "xpu"].iter().any(|begin| tag.starts_with(begin))
}

/// The indices that one program reads from its variables.
#[derive(Debug, Default)]
pub(super) struct Indices {
    /// The index in place of PyPI.
    pub(super) main: Option<String>,
    /// An index beside it.
    pub(super) extra: Option<String>,
}

/// The circumstances of an installation that decide a build.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Index<'a> {
    /// PyTorch's index, or uv's backend, that replaces PyPI: `cu118`, `cpu`, `auto`.
    main: Option<&'a str>,
    /// One of PyTorch's indices in addition to PyPI.
    extra: Option<&'a str>,
    /// Whether another index than PyPI and PyTorch's comes first.
    is_foreign: bool,
    /// Whether the image is for aarch64.
    pub(super) is_arm: bool,
    /// Whether the command or the stage turns CUDA on for packages that pip compiles.
    pub(super) compiles_cuda: bool,
}

impl<'a> Index<'a> {
    /// By the arguments and variables of pip, or of uv with its `backend`.
    pub(super) fn of(words: &[&'a str], set: &'a Indices, backend: Option<&'a str>, is_uv: bool) -> Self {
        let mut index = Self {
            main: set.main.as_deref().and_then(tag_of),
            is_foreign: set.main.as_deref().is_some_and(is_foreign),
            ..Self::default()
        };
        index.add(set.extra.as_deref().and_then(tag_of), true, is_uv);
        if is_uv && let Some(backend) = backend {
            index.main = Some(backend);
        }
        let mut before = "";
        for word in words {
            let option = core::mem::replace(&mut before, word);
            let (option, value) = match word.split_once('=') {
                Some((option, value)) if option.starts_with("--") => (option, value),
                _ => (option, *word),
            };
            if option == "--torch-backend" && is_uv {
                index.main = Some(value);
            }
            if matches!(option, "-i" | "--index-url" | "--index" | "--default-index") && is_foreign(value) {
                index.is_foreign = true;
            }
            index.add(tag_of(word), option == "--extra-index-url", is_uv);
        }
        index
    }

    fn add(&mut self, tag: Option<&'a str>, is_extra: bool, is_uv: bool) {
        // uv takes a package from the first index that has it, and tries extra ones first.
        match tag {
            Some(tag) if is_extra && !is_uv => self.extra = Some(tag),
            Some(tag) => self.main = Some(tag),
            None => {}
        }
    }

    /// With the index that a project names for a package.
    pub(super) fn with(mut self, url: Option<&'a str>) -> Self {
        if let Some(url) = url {
            self.main = tag_of(url);
            self.is_foreign |= self.main.is_none() && is_foreign(url);
        }
        self
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
            // The tables have no builds for other vendors' GPUs.
            (None, false, tag) if !tag.starts_with("cu") => Ok(None),
            (None, false, _) => Err(tag),
        }
    }
}

/// Whether an index has other builds than PyPI and PyTorch's indices.
fn is_foreign(url: &str) -> bool {
    [
        "jetson",
        "developer.download.nvidia.com",
        "pypi.nvidia.com",
        "pypi.ngc.nvidia.com",
    ]
    .iter()
    .any(|part| url.contains(part))
}

/// A wheel in pip's arguments.
#[derive(Debug)]
pub(super) struct Wheel<'a> {
    pub(super) kind: Kind,
    pub(super) what: &'a str,
    pub(super) cuda: Option<Cuda>,
    pub(super) cpu: Option<Reason>,
    pub(super) torch: Option<Release>,
    pub(super) needs: Option<(Cuda, Option<u32>)>,
    pub(super) outbid: Option<String>,
}

impl<'a> Wheel<'a> {
    /// One whose build is not known.
    fn plain(what: &'a str) -> Self {
        Self {
            kind: Kind::Framework,
            what,
            cuda: None,
            cpu: None,
            torch: None,
            needs: None,
            outbid: None,
        }
    }
}

/// The wheel of one requirement in lower case; `None` if it does not concern the GPU.
pub(super) fn framework<'a>(word: &'a str, index: &Index<'_>) -> Option<Wheel<'a>> {
    let end = word
        .find(['=', '<', '>', '~', '!', '[', ';', '@', ' '])
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
    let plain = Wheel::plain(name);
    let needs = || {
        let (cuda, cudnn) = pinned_or_newest.then(|| image::wheel(name, number)).flatten()?;
        Some((cuda, Some(cudnn)))
    };
    // `name @ URL` is the file at the URL.
    let is_file = rest.contains('@') && !rest.contains("git+");
    Some(match name {
        "torch" if is_file => torch_of_file(name, rest),
        "torch" => torch_of(name, version, index),
        _ if is_file => return None,
        "tensorflow-cpu" | "tensorflow_cpu" | "paddlepaddle" => Wheel {
            cpu: Some(Reason::Chosen),
            ..plain
        },
        "llama-cpp-python" | "llama_cpp_python" => Wheel {
            cpu: (!index.compiles_cuda).then_some(Reason::Compiled),
            ..plain
        },
        "tensorflow" if extras.contains("and-cuda") => Wheel {
            cuda: needs().map(|(cuda, _)| cuda),
            ..plain
        },
        "tensorflow" | "ctranslate2" | "faster-whisper" | "faster_whisper" => Wheel {
            needs: needs(),
            ..plain
        },
        "onnxruntime-gpu" | "onnxruntime_gpu" => Wheel {
            what: "onnxruntime-gpu",
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
            // CuPy compiles its kernels with the image's NVRTC; the extra `ctk` brings one.
            let compiles = name.starts_with("cupy") && !extras.contains("ctk");
            Wheel {
                cuda: Some(cuda),
                needs: compiles.then_some((cuda, None)),
                ..plain
            }
        }
    })
}

/// `torch==2.1.0+cu118`, or the build that the indices have.
fn torch_of<'a>(what: &'a str, version: Option<&str>, index: &Index<'_>) -> Wheel<'a> {
    let local = version.and_then(|v| v.split_once('+')).map(|(_, l)| l);
    let release: Option<Release> = version.and_then(|v| v.parse().ok());
    let build = match local {
        Some(local) => Ok(Some(local)),
        None => index.build(release),
    };
    let outbid = build.err().map(str::to_owned);
    let build = build.unwrap_or_default();
    let on_pypi = release
        .filter(|_| !index.is_arm && !index.is_foreign)
        .and_then(torch::on_pypi);
    Wheel {
        cuda: match build {
            Some(tag) => torch::cuda_of_tag(tag),
            None => on_pypi.map(|b| b.cuda),
        },
        cpu: match build {
            Some(tag) => reason(tag),
            None => (index.is_arm && !index.is_foreign && release.is_some_and(|r| r <= LAST_CPU_AARCH64))
                .then_some(Reason::Arm),
        },
        torch: release,
        outbid,
        ..Wheel::plain(what)
    }
}

/// `torch @ https://download.pytorch.org/whl/cu118/torch-2.1.0%2Bcu118-cp310-….whl`
fn torch_of_file<'a>(what: &'a str, rest: &str) -> Wheel<'a> {
    let tag = rest.split(['/', '-']).find_map(|part| {
        let (_, local) = part.split_once("%2b").or_else(|| part.split_once('+'))?;
        Some(local)
    });
    Wheel {
        cuda: tag.and_then(torch::cuda_of_tag),
        cpu: tag.and_then(reason),
        ..Wheel::plain(what)
    }
}

/// Why the build of a tag never uses one of NVIDIA's GPUs.
fn reason(tag: &str) -> Option<Reason> {
    match tag {
        "cpu" => Some(Reason::Chosen),
        "auto" => Some(Reason::Driverless),
        _ if tag.starts_with("rocm") => Some(Reason::Amd),
        _ if tag.starts_with("xpu") => Some(Reason::Intel),
        _ => None,
    }
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
        // Since 0.4.26 the GPU's part is a plugin; before, the local version named it.
        "jaxlib" => {
            let local = version.and_then(|v| v.split_once('+')).map(|(_, local)| local);
            (
                local.and_then(|l| major(l.strip_prefix("cuda")?)),
                local.is_none(),
            )
        }
        name => {
            let plugin = ["jax-cuda", "jax_cuda"]
                .iter()
                .find_map(|p| name.strip_prefix(p))?;
            (major(plugin), false)
        }
    };
    Some(Wheel {
        cuda,
        cpu: cpu.then_some(Reason::Chosen),
        ..plain
    })
}
