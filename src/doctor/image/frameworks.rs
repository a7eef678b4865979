//! The frameworks of a Python environment: version, CUDA build, and the GPUs that their code
//! supports.
//!
//! A table has each framework and the function that reads its build. Facts: files of the wheels
//! (`src/compat/data/sources.tsv` lists the inspected ones).

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::Files;
use super::fatbin::Fatbins;
use super::load::Load;
use super::packages::{Package, Site};
use super::search::{MAX_TEXT as MAX_LIST, search};
use crate::compat::{Cuda, Version, image, libraries, torch as torch_wheels};
use crate::doctor::conda_build::{self, Built};
use crate::ldso::elf::{self, ElfInfo};
use crate::ldso::section::sections;
use crate::preflight::build::{Build, MAX_TEXT, is_arch, of_local, of_tag, tensorflow_of, torch_of};
use crate::preflight::text::{after_key, assignment, quoted};

/// The most libraries of one directory that are read.
const MAX_LIBRARIES: usize = 4096;
/// The bytes of constants that are searched for PyTorch's list of architectures.
const MAX_RODATA: u64 = 64 << 20;
/// The beginning of PyTorch's list of architectures, as a string of its own.
pub(super) const ARCH_LIST: &[u8] = b"\0sm_";
/// The longest such list, in bytes.
pub(super) const MAX_ARCH_LIST: usize = MAX_LIST;

/// One installed framework.
#[derive(Clone, Debug)]
pub struct Framework {
    /// Its usual name: `PyTorch`.
    pub name: &'static str,
    /// Its name in pip: `torch`.
    pub package: &'static str,
    /// The directory of its code.
    pub path: PathBuf,
    /// Its version, with the local part if it has one: `2.0.1+cu118`.
    pub version: String,
    /// Its target: CPU, CUDA or ROCm.
    pub build: Build,
    /// The file and text that prove the build.
    pub evidence: String,
    /// The device code of its main libraries; `None` if it has none that is judged.
    pub code: Option<Fatbins>,
    /// The architectures in its own list: `sm_86`, `compute_90`.
    pub declared: Vec<String>,
    /// The newest glibc that it needs, by its wheel's tag.
    pub glibc: Option<(u32, u32)>,
    /// The libraries of CUDA that it loads.
    pub loads: Vec<Load>,
    /// Whether it loads them from pip's packages itself, independent of the loader.
    pub loads_beside: bool,
}

/// A framework that nvoci can recognize.
struct Known {
    name: &'static str,
    package: &'static str,
    /// The directory in `site-packages`.
    dir: &'static str,
    read: fn(&Candidate<'_>) -> Option<Details>,
    /// The libraries with its device code: directories below its own, and prefixes of names.
    code: &'static [(&'static str, &'static [&'static str])],
    /// Libraries whose dependencies it has; they may be absent.
    needs: &'static [&'static str],
    /// The libraries of which the first existing one opens others by name; its run path counts.
    opens: &'static [&'static str],
    /// Whether it loads pip's packages of CUDA itself.
    loads_beside: bool,
}

impl Known {
    const NONE: Self = Self {
        name: "",
        package: "",
        dir: "",
        read: |_| None,
        code: &[],
        needs: &[],
        opens: &[],
        loads_beside: false,
    };
}

/// The build of a framework, read from its files.
struct Details {
    version: String,
    build: Build,
    evidence: String,
    declared: Vec<String>,
    /// The major version of cuDNN in its build.
    cudnn: Option<u32>,
}

const KNOWN: &[Known] = &[
    Known {
        name: "PyTorch",
        package: "torch",
        dir: "torch",
        read: torch,
        // Up to 1.13 the code was split in two.
        code: &[(
            "lib",
            &["libtorch_cuda.so", "libtorch_cuda_cu.so", "libtorch_cuda_cpp.so"],
        )],
        needs: &["lib/libtorch_cuda.so", "lib/libc10_cuda.so"],
        loads_beside: true,
        ..Known::NONE
    },
    Known {
        name: "TensorFlow",
        package: "tensorflow",
        dir: "tensorflow",
        read: tensorflow,
        opens: &["libtensorflow_framework.so.2", "libtensorflow_cc.so.2"],
        ..Known::NONE
    },
    Known {
        name: "JAX",
        package: "jax",
        dir: "jaxlib",
        read: jax,
        loads_beside: true,
        ..Known::NONE
    },
    Known {
        name: "CuPy",
        package: "cupy",
        dir: "cupy",
        read: cupy,
        ..Known::NONE
    },
    Known {
        name: "ONNX Runtime",
        package: "onnxruntime",
        dir: "onnxruntime",
        read: onnxruntime,
        code: &[("capi", &["libonnxruntime_providers_cuda.so"])],
        needs: &["capi/libonnxruntime_providers_cuda.so"],
        ..Known::NONE
    },
    Known {
        name: "vLLM",
        package: "vllm",
        dir: "vllm",
        read: vllm,
        code: &[("", &["_C."])],
        ..Known::NONE
    },
    Known {
        name: "bitsandbytes",
        package: "bitsandbytes",
        dir: "bitsandbytes",
        read: bitsandbytes,
        ..Known::NONE
    },
    Known {
        name: "CTranslate2",
        package: "ctranslate2",
        dir: "ctranslate2",
        read: ctranslate2,
        ..Known::NONE
    },
    Known {
        name: "PaddlePaddle",
        package: "paddle",
        dir: "paddle",
        read: paddle,
        loads_beside: true,
        ..Known::NONE
    },
    Known {
        name: "DALI",
        package: "nvidia-dali",
        dir: "nvidia",
        read: dali,
        ..Known::NONE
    },
    Known {
        name: "llama-cpp-python",
        package: "llama-cpp-python",
        dir: "llama_cpp",
        read: llama_cpp,
        code: &[("lib", &["libggml-cuda.so"])],
        needs: &["lib/libggml-cuda.so"],
        ..Known::NONE
    },
];

/// Packages that may use CUDA and that nvoci cannot judge.
const UNJUDGED: &[&str] = &[
    "apex",
    "catboost",
    "cuda_python",
    "cudf",
    "cuml",
    "deepspeed",
    "dgl",
    "faiss",
    "faiss_gpu",
    "lightgbm",
    "mxnet",
    "numba",
    "numba_cuda",
    "pycuda",
    "taichi",
    "tensorrt",
    "tensorrt_llm",
    "triton",
    "warp_lang",
    "xgboost",
];

/// The packages of an environment that nvoci cannot judge, with their versions.
pub fn unjudged(site: &Site) -> Vec<String> {
    let of_torch = site.has_dir("torch");
    site.packages
        .iter()
        .filter(|p| {
            // `cudf_cu12`, `mxnet_cu112`
            let name = p.name.rsplit_once("_cu").map_or(p.name.as_str(), |(name, tag)| {
                if tag.bytes().all(|b| b.is_ascii_digit()) {
                    name
                } else {
                    &p.name
                }
            });
            // Triton is a part of PyTorch.
            UNJUDGED.binary_search(&name).is_ok() && !(of_torch && name == "triton")
        })
        .map(|p| format!("{} {}", p.name, p.version))
        .collect()
}

/// Programs that use CUDA without Python: the file that identifies one, and its name. A program is
/// judged by its library's dependencies and device code.
const NATIVE: &[(&str, &str, Option<&str>)] = &[
    ("libctranslate2.so.", "CTranslate2", None),
    ("libggml-cuda.so", "llama.cpp (ggml)", Some("ggml")),
    ("libnvinfer.so.", "TensorRT", None),
    (
        "libonnxruntime_providers_cuda.so",
        "ONNX Runtime",
        Some("onnxruntime"),
    ),
    ("libtensorflow_cc.so.", "TensorFlow", None),
    ("libtorch_cuda.so", "LibTorch", Some("libtorch")),
    ("tritonserver", "Triton Inference Server", None),
];

/// The program of a native library.
#[derive(Debug)]
pub enum Native {
    /// nvoci judges it like a framework.
    Judged(Box<Framework>),
    /// nvoci cannot judge it.
    Unjudged(&'static str),
}

/// Reads a file that [`super::walk::is_native`] names.
pub fn native(files: &Files<'_>, path: &Path) -> Option<Native> {
    let file = path.file_name()?.to_str()?;
    let (_, name, package) = NATIVE.iter().find(|(begin, ..)| file.starts_with(begin))?;
    let Some(package) = package else {
        return Some(Native::Unjudged(name));
    };
    let Some(info) = info(files, path) else {
        return Some(Native::Unjudged(name));
    };
    let cuda = cudart(&info).map(|major| Cuda { major, minor: 0 });
    let mut load = Load::needed(path, &info);
    // Such programs have their own libraries beside it.
    load.also_beside();
    Some(Native::Judged(Box::new(Framework {
        name,
        package,
        path: path.to_owned(),
        version: "(unknown version)".to_owned(),
        build: Build::Cuda(cuda),
        evidence: path.display().to_string(),
        code: files
            .fatbins(path)
            .map(|(_, code)| code)
            .filter(|code| code.total() > 0),
        declared: Vec::new(),
        glibc: None,
        loads: vec![load],
        loads_beside: false,
    })))
}

/// The headers of a library with its dependencies; `None` if some of them are not kept.
fn info(files: &Files<'_>, path: &Path) -> Option<ElfInfo> {
    let info = elf::read(&files.library(path)?).ok()?;
    // A file from an archive has zeros in the parts that were not kept.
    let whole = info
        .needed
        .iter()
        .chain(&info.runpath)
        .chain(&info.rpath)
        .all(|text| !text.is_empty());
    whole.then_some(info)
}

/// The frameworks of an environment.
pub fn find(files: &Files<'_>, site: &Site, conda: Option<&Site>) -> Vec<Framework> {
    KNOWN
        .iter()
        .filter(|known| {
            let by_conda = |conda| has_conda_record(conda, known);
            site.has_dir(known.dir) || has_record(site, known) || conda.is_some_and(by_conda)
        })
        .filter_map(|known| {
            let candidate = Candidate {
                files,
                site,
                conda,
                dir: site.path.join(known.dir),
            };
            let details = (known.read)(&candidate)?;
            let code = candidate.code(known.code, &details.build);
            let (loads, opener) = candidate.loads(known, &details);
            Some(Framework {
                name: known.name,
                package: known.package,
                version: details.version,
                build: details.build,
                evidence: details.evidence,
                code,
                declared: details.declared,
                glibc: candidate.glibc(known.package),
                loads,
                // Without the run path, the search path of its libraries is unknown.
                loads_beside: known.loads_beside || !known.opens.is_empty() && !opener,
                path: candidate.dir,
            })
        })
        .collect()
}

/// Whether a tree has only the record of a framework, since its files were left out.
fn has_record(site: &Site, known: &Known) -> bool {
    const RECORDS: [&str; 9] = [
        "ctranslate2",
        "jaxlib",
        "llama_cpp_python",
        "onnxruntime",
        "onnxruntime_gpu",
        "tensorflow",
        "tensorflow_cpu",
        "torch",
        "vllm",
    ];
    let begin = known.package.replace('-', "_");
    let of_cupy = || site.packages.iter().any(|p| p.name.starts_with("cupy_cuda"));
    RECORDS
        .iter()
        .any(|name| name.starts_with(begin.as_str()) && site.package(name).is_some())
        || known.package == "cupy" && of_cupy()
}

/// Whether conda's records have a framework that a tree has no files of.
fn has_conda_record(conda: &Site, known: &Known) -> bool {
    const NAMES: [(&str, &str); 4] = [
        ("torch", "pytorch"),
        ("tensorflow", "tensorflow_base"),
        ("jax", "jaxlib"),
        ("cupy", "cupy"),
    ];
    NAMES
        .iter()
        .any(|(package, name)| *package == known.package && conda.package(name).is_some())
}

struct Candidate<'a> {
    files: &'a Files<'a>,
    site: &'a Site,
    /// The conda packages of the environment's prefix.
    conda: Option<&'a Site>,
    /// The framework's directory.
    dir: PathBuf,
}

impl Candidate<'_> {
    /// The build in the name of conda's package.
    fn of_conda(&self, name: &str) -> Option<Build> {
        match conda_build::parse(&self.conda?.package(name)?.build)? {
            Built::Cpu => Some(Build::Cpu),
            Built::Cuda(cuda) => Some(Build::Cuda(Some(cuda))),
        }
    }

    /// The build of PyPI's wheel, if the tree has only its record.
    fn recorded(&self, package: &str, version: &str) -> Build {
        let public = version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let by_pip = self.site.package(&package.replace('-', "_")).is_some();
        if self.exists("") || !public || !by_pip {
            return Build::Unknown;
        }
        let cuda = match package {
            "torch" => version
                .parse()
                .ok()
                .and_then(torch_wheels::on_pypi)
                .map(|b| b.cuda),
            _ => image::wheel(package, version.parse().ok()).map(|(cuda, _)| cuda),
        };
        cuda.map_or(Build::Unknown, |cuda| Build::Cuda(Some(cuda)))
    }

    fn text(&self, file: &str) -> Option<String> {
        self.files.read_text(self.dir.join(file), MAX_TEXT)
    }

    fn exists(&self, file: &str) -> bool {
        self.files.exists(self.dir.join(file))
    }

    fn evidence(&self, file: &str, proof: impl std::fmt::Display) -> String {
        format!("{}: {proof}", self.dir.join(file).display())
    }

    /// The first installed package with one of these names in pip or conda.
    fn package(&self, names: &[&str]) -> Option<&Package> {
        let conda = self.conda.into_iter();
        std::iter::once(self.site)
            .chain(conda)
            .find_map(|site| names.iter().find_map(|name| site.package(name)))
    }

    /// The files of a directory below the framework's.
    fn files(&self, below: &str) -> Vec<String> {
        let mut names = Vec::new();
        self.files.visit(self.dir.join(below), MAX_LIBRARIES, |name, _| {
            names.extend(name.to_str().ok().map(str::to_owned));
        });
        names.sort();
        names
    }

    fn code(&self, libraries: &[(&str, &[&str])], build: &Build) -> Option<Fatbins> {
        if libraries.is_empty() || !matches!(build, Build::Cuda(_)) {
            return None;
        }
        let mut all = Fatbins::default();
        let mut seen = HashSet::new();
        for (below, names) in libraries {
            for file in self.files(below) {
                if names.iter().any(|name| file.starts_with(name)) {
                    let path = self.dir.join(below).join(file);
                    // A second name of a file is not counted again.
                    if let Some((id, found)) = self.files.fatbins(&path)
                        && seen.insert(id)
                    {
                        all.join(found);
                    }
                }
            }
        }
        (all.total() > 0).then_some(all)
    }

    /// The libraries that the framework loads, and whether the run path of their opener is known.
    fn loads(&self, known: &Known, details: &Details) -> (Vec<Load>, bool) {
        let Build::Cuda(cuda) = &details.build else {
            return (Vec::new(), false);
        };
        let at = |file: &&str| {
            let path = self.dir.join(file);
            info(self.files, &path).map(|info| (path, info))
        };
        let needs = known.needs.iter().filter_map(at);
        let mut all: Vec<Load> = needs.map(|(path, info)| Load::needed(&path, &info)).collect();
        let opener = known.opens.iter().find_map(at);
        let read = opener.is_some();
        // A table stands for the needs of a library that the tree does not have.
        let by_table = known.needs.is_empty() || !self.exists("");
        if let (Some(cuda), Some(version), true) = (cuda, numeric(&details.version), by_table) {
            let wants = libraries::opened(known.package, version, cuda.major, details.cudnn);
            all.push(match opener {
                Some((path, info)) => Load::opened(&path, Some(&info), wants),
                None => Load::opened(&self.dir, None, wants),
            });
        }
        (all, read)
    }

    /// The glibc of the wheel's tag, `manylinux_2_28`.
    fn glibc(&self, package: &str) -> Option<(u32, u32)> {
        let names = [package.to_owned(), format!("{package}_gpu")];
        let found = self
            .site
            .packages
            .iter()
            .find(|p| names.contains(&p.name) && p.build.is_empty())?;
        let record = format!("{package}-{}.dist-info/WHEEL", found.version);
        let text = self.files.read_text(self.site.path.join(record), MAX_TEXT)?;
        text.lines()
            .filter_map(|line| line.strip_prefix("Tag:"))
            .filter_map(|tag| {
                let (_, rest) = tag.split_once("manylinux_")?;
                let mut numbers = rest.split('_');
                Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
            })
            // The oldest of several tags suffices.
            .min()
    }
}

fn torch(candidate: &Candidate<'_>) -> Option<Details> {
    let text = candidate.text("version.py").unwrap_or_default();
    let (version, build, evidence) = if let Some((version, build)) = torch_of(&text) {
        let cuda = assignment(&text, "cuda").flatten().unwrap_or("None");
        let proof = format!("__version__ = {version}, cuda = {cuda}");
        (version, build, candidate.evidence("version.py", proof))
    } else {
        let version = candidate
            .package(&["torch", "pytorch", "torch_cpu"])?
            .version
            .clone();
        let build = of_local(&version).unwrap_or_else(|| {
            // Only a GPU build has this library.
            if candidate.exists("lib/libtorch_cuda.so") {
                Build::Cuda(None)
            } else if candidate.exists("lib/libtorch_cpu.so") {
                Build::Cpu
            } else if let Some(build) = candidate.of_conda("pytorch") {
                build
            } else {
                candidate.recorded("torch", &version)
            }
        });
        let proof = format!("version {version}, by its package");
        (version, build, candidate.evidence("", proof))
    };
    let declared = match build {
        Build::Cuda(_) => arch_list(candidate).unwrap_or_default(),
        _ => Vec::new(),
    };
    Some(Details {
        version,
        build,
        evidence,
        declared,
        cudnn: None,
    })
}

/// The list of `torch.cuda.get_arch_list()`, a string among the constants of `libtorch_python.so`.
fn arch_list(candidate: &Candidate<'_>) -> Option<Vec<String>> {
    let file = candidate
        .files
        .library(&candidate.dir.join("lib/libtorch_python.so"))?;
    let rodata = sections(&file)?.into_iter().find(|s| s.name == b".rodata")?;
    let size = rodata.size.min(MAX_RODATA);
    search(
        &file,
        rodata.offset,
        size,
        ARCH_LIST,
        candidate.files.budget,
        |rest| {
            let end = rest.iter().position(|b| *b == 0)?;
            let text = format!("sm_{}", std::str::from_utf8(&rest[..end]).ok()?);
            let all: Vec<String> = text.split(' ').map(str::to_owned).collect();
            (all.len() > 1 && all.iter().all(|a| is_arch(a))).then_some(all)
        },
    )
}

fn tensorflow(candidate: &Candidate<'_>) -> Option<Details> {
    const INFO: &str = "python/platform/build_info.py";
    let record = candidate.package(&["tensorflow", "tensorflow_gpu", "tensorflow_cpu", "tf_nightly"]);
    let text = candidate.text(INFO);
    if record.is_none() && text.is_none() {
        return None;
    }
    let text = text.unwrap_or_default();
    let (mut build, declared) = tensorflow_of(&text);
    let mut cudnn = after_key(&text, "cudnn_version").and_then(quoted).and_then(major);
    if let Some(record) = record.filter(|_| build == Build::Unknown) {
        build = candidate.recorded("tensorflow", &record.version);
        if build != Build::Unknown {
            cudnn = image::wheel("tensorflow", record.version.parse().ok()).map(|(_, cudnn)| cudnn);
        }
    }
    if let Some(of_conda) = candidate
        .of_conda("tensorflow_base")
        .filter(|_| build == Build::Unknown)
    {
        build = of_conda;
    }
    if build == Build::Unknown && record.is_some_and(|p| p.name == "tensorflow_cpu") {
        build = Build::Cpu;
    }
    let proof = match &build {
        Build::Cuda(Some(cuda)) => format!("cuda_version {cuda}"),
        Build::Cpu => "is_cuda_build False".to_owned(),
        _ => "no cuda_version".to_owned(),
    };
    Some(Details {
        version: record
            .map_or("(unknown version)", |p| p.version.as_str())
            .to_owned(),
        build,
        evidence: candidate.evidence(INFO, proof),
        declared,
        cudnn,
    })
}

/// JAX has its GPU code in a plugin, whose name has the major release of CUDA. The lower bound is
/// the first release of that major.
fn jax(candidate: &Candidate<'_>) -> Option<Details> {
    let version = candidate.package(&["jaxlib", "jax"])?.version.clone();
    let plugin = [13, 12].into_iter().find_map(|major| {
        let names = [format!("jax_cuda{major}_plugin"), format!("jax_cuda{major}_pjrt")];
        let package = candidate.package(&[names[0].as_str(), names[1].as_str()])?;
        Some((major, package))
    });
    let (build, proof) = match plugin {
        Some((major, package)) => (
            Build::Cuda(Some(Cuda {
                major,
                minor: u32::from(major == 12),
            })),
            format!("{} {}", package.name, package.version),
        ),
        // Until 0.4.26 the GPU build was a jaxlib of its own.
        None => match version.split_once("+cuda") {
            None if matches!(candidate.of_conda("jaxlib"), Some(Build::Cuda(_))) => (
                candidate.of_conda("jaxlib").unwrap_or(Build::Unknown),
                format!("jaxlib {version}, by conda's record"),
            ),
            Some((_, cuda)) => {
                let major = cuda.get(..2).and_then(|m| m.parse().ok());
                let cuda = major.map(|major| Cuda { major, minor: 0 });
                (Build::Cuda(cuda), format!("jaxlib {version}"))
            }
            None => (
                Build::Cpu,
                format!("jaxlib {version} without jax-cuda12-plugin or jax-cuda13-plugin"),
            ),
        },
    };
    Some(Details {
        version,
        build,
        evidence: format!("{}: {proof}", candidate.site.path.display()),
        declared: Vec::new(),
        cudnn: None,
    })
}

/// The names of CuPy's wheels have the CUDA major (from 11 on) or release (before).
fn cupy(candidate: &Candidate<'_>) -> Option<Details> {
    let mut packages = candidate.site.packages.iter();
    let wheel = packages.find_map(|p| {
        let tag = p.name.strip_prefix("cupy_cuda")?;
        let cuda = match tag.strip_suffix('x') {
            Some(major) => Cuda {
                major: major.parse().ok()?,
                minor: 0,
            },
            None => of_tag(&format!("cu{tag}"))?,
        };
        Some((p, cuda))
    });
    // Builds from source or of conda do not name a release.
    let (package, build) = match wheel {
        Some((package, cuda)) => (package, Build::Cuda(Some(cuda))),
        None => (candidate.package(&["cupy"])?, Build::Cuda(None)),
    };
    let proof = format!("{} {}", package.name, package.version);
    let version = package.version.clone();
    Some(Details {
        version,
        build,
        evidence: format!("{}: {proof}", candidate.site.path.display()),
        declared: Vec::new(),
        cudnn: None,
    })
}

fn onnxruntime(candidate: &Candidate<'_>) -> Option<Details> {
    const INFO: &str = "capi/build_and_package_info.py";
    const PROVIDER: &str = "capi/libonnxruntime_providers_cuda.so";
    let version = candidate
        .package(&["onnxruntime_gpu", "onnxruntime"])?
        .version
        .clone();
    let text = candidate.text(INFO).unwrap_or_default();
    let release = assignment(&text, "cuda_version").flatten();
    let of_cpu = assignment(&text, "package_name").flatten() == Some("onnxruntime");
    let mut cudnn = None;
    let (build, evidence) = match release {
        Some(cuda) => (
            Build::Cuda(cuda.parse().ok()),
            candidate.evidence(INFO, format_args!("cuda_version = {cuda}")),
        ),
        // The CPU build's installation leaves the other build's provider in place.
        None if !of_cpu && candidate.exists(PROVIDER) => {
            let major = cudart_of(candidate, PROVIDER);
            (
                Build::Cuda(major.map(|major| Cuda { major, minor: 0 })),
                candidate.evidence(PROVIDER, "the CUDA provider is there"),
            )
        }
        None if of_cpu => (Build::Cpu, candidate.evidence(INFO, "package_name = onnxruntime")),
        None if !candidate.exists("") && candidate.site.package("onnxruntime_gpu").is_some() => {
            cudnn = image::wheel("onnxruntime-gpu", version.parse().ok()).map(|(_, cudnn)| cudnn);
            (
                candidate.recorded("onnxruntime-gpu", &version),
                candidate.evidence("", format_args!("onnxruntime-gpu {version}, by its record")),
            )
        }
        None => (
            Build::Cpu,
            candidate.evidence("capi", "no libonnxruntime_providers_cuda.so"),
        ),
    };
    Some(Details {
        version,
        build,
        evidence,
        declared: Vec::new(),
        cudnn,
    })
}

fn vllm(candidate: &Candidate<'_>) -> Option<Details> {
    let record = candidate.package(&["vllm"])?;
    let text = candidate.text("_version.py").unwrap_or_default();
    let version = assignment(&text, "__version__")
        .flatten()
        .unwrap_or(&record.version)
        .to_owned();
    let library = candidate.files("").into_iter().find(|f| f.starts_with("_C."));
    let build = match &library {
        Some(file) => of_local(&version)
            .unwrap_or_else(|| Build::Cuda(cudart_of(candidate, file).map(|major| Cuda { major, minor: 0 }))),
        None => of_local(&version).unwrap_or(Build::Unknown),
    };
    let evidence = match library {
        Some(file) => candidate.evidence(&file, format_args!("version {version}")),
        None => candidate.evidence("", format_args!("version {version}, no library of kernels")),
    };
    Some(Details {
        version,
        build,
        evidence,
        declared: Vec::new(),
        cudnn: None,
    })
}

/// It has one library for each CUDA release; PyTorch's release selects one.
fn bitsandbytes(candidate: &Candidate<'_>) -> Option<Details> {
    let version = candidate.package(&["bitsandbytes"])?.version.clone();
    let releases: BTreeSet<Cuda> = candidate
        .files("")
        .iter()
        .filter_map(|file| {
            let tag = file.strip_prefix("libbitsandbytes_cuda")?.strip_suffix(".so")?;
            of_tag(&format!("cu{tag}"))
        })
        .collect();
    let beside = candidate.site.path.join("torch/version.py");
    let beside = candidate.files.read_text(beside, MAX_TEXT).unwrap_or_default();
    let torch: Option<Cuda> = assignment(&beside, "cuda").flatten().and_then(|c| c.parse().ok());
    let build = match torch {
        _ if releases.is_empty() => Build::Cpu,
        Some(cuda) if releases.contains(&cuda) => Build::Cuda(Some(cuda)),
        _ => Build::Unknown,
    };
    let proof: Vec<String> = releases.iter().map(ToString::to_string).collect();
    Some(Details {
        version,
        build,
        evidence: candidate.evidence("", format_args!("libraries for CUDA {}", proof.join(", "))),
        declared: Vec::new(),
        cudnn: None,
    })
}

/// CTranslate2's version decides the major release of CUDA.
fn ctranslate2(candidate: &Candidate<'_>) -> Option<Details> {
    let version = candidate.package(&["ctranslate2"])?.version.clone();
    let number = numeric(&version)?;
    let known = |major: &u32| !libraries::opened("ctranslate2", number, *major, None).is_empty();
    let cuda = [13, 12, 11].into_iter().find(known);
    Some(Details {
        evidence: candidate.evidence("", format_args!("version {version}")),
        build: Build::Cuda(cuda.map(|major| Cuda { major, minor: 0 })),
        version,
        declared: Vec::new(),
        cudnn: None,
    })
}

fn paddle(candidate: &Candidate<'_>) -> Option<Details> {
    const INFO: &str = "version/__init__.py";
    let record = candidate.package(&["paddlepaddle_gpu", "paddlepaddle"])?;
    let text = candidate.text(INFO).unwrap_or_default();
    let value = |name| assignment(&text, name).flatten();
    let build = match value("cuda_version") {
        Some("False") => Build::Cpu,
        Some(cuda) => Build::Cuda(cuda.parse().ok()),
        None if record.name == "paddlepaddle_gpu" => Build::Cuda(None),
        None => Build::Unknown,
    };
    Some(Details {
        version: record.version.clone(),
        evidence: candidate.evidence(
            INFO,
            format_args!("cuda_version = {}", value("cuda_version").unwrap_or("(none)")),
        ),
        build,
        declared: Vec::new(),
        cudnn: value("cudnn_version").and_then(major),
    })
}

/// The names of DALI's wheels have the CUDA release; the wheels contain CUDA.
fn dali(candidate: &Candidate<'_>) -> Option<Details> {
    let mut packages = candidate.site.packages.iter();
    let (package, cuda) = packages.find_map(|p| {
        let tag = p.name.strip_prefix("nvidia_dali_cuda")?;
        Some((p, of_tag(&format!("cu{tag}"))))
    })?;
    Some(Details {
        version: package.version.clone(),
        build: Build::Cuda(cuda),
        evidence: format!(
            "{}: {} {}",
            candidate.site.path.display(),
            package.name,
            package.version
        ),
        declared: Vec::new(),
        cudnn: None,
    })
}

/// pip compiles it at installation, for the CPU unless CMake has the option for CUDA.
fn llama_cpp(candidate: &Candidate<'_>) -> Option<Details> {
    const CUDA: &str = "lib/libggml-cuda.so";
    let version = candidate.package(&["llama_cpp_python"])?.version.clone();
    let (build, evidence) = if candidate.exists(CUDA) {
        let cuda = cudart_of(candidate, CUDA).map(|major| Cuda { major, minor: 0 });
        (Build::Cuda(cuda), candidate.evidence(CUDA, "it is there"))
    } else if candidate
        .files("lib")
        .iter()
        .any(|name| name.starts_with("libggml"))
    {
        (Build::Cpu, candidate.evidence("lib", "no libggml-cuda.so"))
    } else {
        (Build::Unknown, candidate.evidence("lib", "no libggml"))
    };
    Some(Details {
        version,
        build,
        evidence,
        declared: Vec::new(),
        cudnn: None,
    })
}

/// The first number of a version: 8 of `8.9.6`.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// The numbers at the beginning of a version: 2.15.0 of `2.15.0rc1+nv`.
fn numeric(version: &str) -> Option<Version> {
    let end = version
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(version.len());
    let mut parts: Vec<&str> = version[..end]
        .split('.')
        .filter(|part| !part.is_empty())
        .collect();
    parts.truncate(4);
    parts.join(".").parse().ok()
}

/// The major release of the CUDA runtime that a library needs: 12 of `libcudart.so.12`.
fn cudart_of(candidate: &Candidate<'_>, file: &str) -> Option<u32> {
    let path = candidate.dir.join(file);
    cudart(&elf::read(&candidate.files.library(&path)?).ok()?)
}

fn cudart(info: &ElfInfo) -> Option<u32> {
    info.needed.iter().find_map(|name| {
        let name = std::str::from_utf8(name).ok()?;
        let version = name
            .strip_prefix("libcudart.so.")
            .or_else(|| name.strip_prefix("libcublasLt.so."))?;
        version.split('.').next()?.parse().ok()
    })
}
