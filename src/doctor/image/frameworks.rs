//! The frameworks of a Python environment: version, CUDA build, and the GPUs their code is for.
//!
//! A table names each framework and how its build is read. Facts: files of the wheels themselves (see
//! `src/compat/data/sources.tsv` for what was looked at).

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::Files;
use super::fatbin::Fatbins;
use super::load::Load;
use super::packages::{Package, Site};
use super::search::{MAX_TEXT as MAX_LIST, search};
use crate::compat::{Cuda, Version, libraries};
use crate::ldso::elf::{self, ElfInfo};
use crate::ldso::section::sections;
use crate::preflight::build::{Build, MAX_TEXT, is_arch, of_local, of_tag, tensorflow_of, torch_of};
use crate::preflight::text::{after_key, assignment, quoted};

/// Libraries of one directory that are looked at.
const MAX_LIBRARIES: usize = 4096;
/// Bytes of constants in which PyTorch's list of architectures is looked for.
const MAX_RODATA: u64 = 64 << 20;
/// How PyTorch's list of architectures begins, as a text of its own.
pub(super) const ARCH_LIST: &[u8] = b"\0sm_";
/// Bytes of that list.
pub(super) const MAX_ARCH_LIST: usize = MAX_LIST;

/// One installed framework.
#[derive(Clone, Debug)]
pub struct Framework {
    /// As people call it: `PyTorch`.
    pub name: &'static str,
    /// As pip calls it: `torch`.
    pub package: &'static str,
    /// The directory of its code.
    pub path: PathBuf,
    /// Its version, with the local part if there is one: `2.0.1+cu118`.
    pub version: String,
    /// What it was built for.
    pub build: Build,
    /// Where that was read.
    pub evidence: String,
    /// The device code of its main libraries; `None` where it brings none that is judged.
    pub code: Option<Fatbins>,
    /// The architectures that it says it was built for: `sm_86`, `compute_90`.
    pub declared: Vec<String>,
    /// The newest glibc that it needs, by its wheel's tag.
    pub glibc: Option<(u32, u32)>,
    /// The libraries of CUDA that it loads.
    pub loads: Vec<Load>,
    /// Whether it loads them from pip's packages itself, wherever the loader searches.
    pub loads_beside: bool,
}

/// A framework that is looked for.
struct Known {
    name: &'static str,
    package: &'static str,
    /// The directory in `site-packages`.
    dir: &'static str,
    read: fn(&Look<'_>) -> Option<Said>,
    /// Libraries with its device code, by directory below its own and beginnings of names.
    code: &'static [(&'static str, &'static [&'static str])],
    /// Libraries whose needed libraries it needs; they may be absent.
    needs: &'static [&'static str],
    /// The first one that is there opens libraries by name; its run path counts.
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

/// What reading a framework's files gave.
struct Said {
    version: String,
    build: Build,
    evidence: String,
    declared: Vec<String>,
    /// The major version of cuDNN that it was built with.
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

/// Packages that may use CUDA, and of which nothing is judged.
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

/// The packages of an environment that are not judged, with their versions.
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

/// Programs that use CUDA without Python: the file that tells of one, and its name; what is judged of one is what its
/// library needs, and its device code.
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

/// What a native library of the image belongs to.
#[derive(Debug)]
pub enum Native {
    /// It is judged like a framework.
    Judged(Box<Framework>),
    /// Nothing is judged of it.
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
    // Such programs come with libraries of their own beside it.
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

/// The headers of a library, with needed libraries; `None` where not all of them are kept.
fn info(files: &Files<'_>, path: &Path) -> Option<ElfInfo> {
    let info = elf::read(&files.library(path)?).ok()?;
    // An archive's file has zeros where nothing was kept.
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
        .filter(|known| site.has_dir(known.dir))
        .filter_map(|known| {
            let look = Look {
                files,
                site,
                conda,
                dir: site.path.join(known.dir),
            };
            let said = (known.read)(&look)?;
            let code = look.code(known.code, &said.build);
            let (loads, opener) = look.loads(known, &said);
            Some(Framework {
                name: known.name,
                package: known.package,
                version: said.version,
                build: said.build,
                evidence: said.evidence,
                code,
                declared: said.declared,
                glibc: look.glibc(known.package),
                loads,
                // Without its run path it is not known where it searches.
                loads_beside: known.loads_beside || !known.opens.is_empty() && !opener,
                path: look.dir,
            })
        })
        .collect()
}

struct Look<'a> {
    files: &'a Files<'a>,
    site: &'a Site,
    /// The packages of the conda prefix that the environment is of.
    conda: Option<&'a Site>,
    /// The framework's directory.
    dir: PathBuf,
}

impl Look<'_> {
    fn text(&self, file: &str) -> Option<String> {
        self.files.read_text(self.dir.join(file), MAX_TEXT)
    }

    fn exists(&self, file: &str) -> bool {
        self.files.exists(self.dir.join(file))
    }

    fn evidence(&self, file: &str, says: impl std::fmt::Display) -> String {
        format!("{}: {says}", self.dir.join(file).display())
    }

    /// The first installed package of these names, as pip or conda know it.
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
                    // Another name of a file is not more code.
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

    /// What the framework loads, and whether the run path of the library that opens others is known.
    fn loads(&self, known: &Known, said: &Said) -> (Vec<Load>, bool) {
        let Build::Cuda(cuda) = &said.build else {
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
        if let (Some(cuda), Some(version)) = (cuda, numeric(&said.version)) {
            let wants = libraries::opened(known.package, version, cuda.major, said.cudnn);
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
            // Of several tags the oldest is enough.
            .min()
    }
}

fn torch(look: &Look<'_>) -> Option<Said> {
    let text = look.text("version.py").unwrap_or_default();
    let (version, build, evidence) = if let Some((version, build)) = torch_of(&text) {
        let cuda = assignment(&text, "cuda").flatten().unwrap_or("None");
        let says = format!("__version__ = {version}, cuda = {cuda}");
        (version, build, look.evidence("version.py", says))
    } else {
        let version = look.package(&["torch", "pytorch", "torch_cpu"])?.version.clone();
        let build = of_local(&version).unwrap_or_else(|| {
            // The library that has the GPU code is there or not.
            if look.exists("lib/libtorch_cuda.so") {
                Build::Cuda(None)
            } else if look.exists("lib/libtorch_cpu.so") {
                Build::Cpu
            } else {
                Build::Unknown
            }
        });
        let says = format!("version {version}, by its package");
        (version, build, look.evidence("", says))
    };
    let declared = match build {
        Build::Cuda(_) => arch_list(look).unwrap_or_default(),
        _ => Vec::new(),
    };
    Some(Said {
        version,
        build,
        evidence,
        declared,
        cudnn: None,
    })
}

/// What `torch.cuda.get_arch_list()` says: a string among the constants of `libtorch_python.so`.
fn arch_list(look: &Look<'_>) -> Option<Vec<String>> {
    let file = look.files.library(&look.dir.join("lib/libtorch_python.so"))?;
    let rodata = sections(&file)?.into_iter().find(|s| s.name == b".rodata")?;
    let size = rodata.size.min(MAX_RODATA);
    search(&file, rodata.offset, size, ARCH_LIST, look.files.budget, |rest| {
        let end = rest.iter().position(|b| *b == 0)?;
        let text = format!("sm_{}", std::str::from_utf8(&rest[..end]).ok()?);
        let all: Vec<String> = text.split(' ').map(str::to_owned).collect();
        (all.len() > 1 && all.iter().all(|a| is_arch(a))).then_some(all)
    })
}

fn tensorflow(look: &Look<'_>) -> Option<Said> {
    const INFO: &str = "python/platform/build_info.py";
    let record = look.package(&["tensorflow", "tensorflow_gpu", "tensorflow_cpu", "tf_nightly"]);
    let text = look.text(INFO);
    if record.is_none() && text.is_none() {
        return None;
    }
    let text = text.unwrap_or_default();
    let (mut build, declared) = tensorflow_of(&text);
    let cudnn = after_key(&text, "cudnn_version").and_then(quoted).and_then(major);
    if build == Build::Unknown && record.is_some_and(|p| p.name == "tensorflow_cpu") {
        build = Build::Cpu;
    }
    let says = match &build {
        Build::Cuda(Some(cuda)) => format!("cuda_version {cuda}"),
        Build::Cpu => "is_cuda_build False".to_owned(),
        _ => "no cuda_version".to_owned(),
    };
    Some(Said {
        version: record
            .map_or("(unknown version)", |p| p.version.as_str())
            .to_owned(),
        build,
        evidence: look.evidence(INFO, says),
        declared,
        cudnn,
    })
}

/// JAX has its GPU code in a plugin, whose name says the major release of CUDA. The plugin's lower bound is the first
/// release of that major.
fn jax(look: &Look<'_>) -> Option<Said> {
    let version = look.package(&["jaxlib", "jax"])?.version.clone();
    let plugin = [13, 12].into_iter().find_map(|major| {
        let names = [format!("jax_cuda{major}_plugin"), format!("jax_cuda{major}_pjrt")];
        let package = look.package(&[names[0].as_str(), names[1].as_str()])?;
        Some((major, package))
    });
    let (build, says) = match plugin {
        Some((major, package)) => (
            Build::Cuda(Some(Cuda {
                major,
                minor: u32::from(major == 12),
            })),
            format!("{} {}", package.name, package.version),
        ),
        // Until 0.4.26 the GPU build was a jaxlib of its own.
        None => match version.split_once("+cuda") {
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
    Some(Said {
        version,
        build,
        evidence: format!("{}: {says}", look.site.path.display()),
        declared: Vec::new(),
        cudnn: None,
    })
}

/// CuPy's wheels have the CUDA major (from 11 on) or release (before) in their name.
fn cupy(look: &Look<'_>) -> Option<Said> {
    let mut packages = look.site.packages.iter();
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
    // Built from source, or of conda, it does not say.
    let (package, build) = match wheel {
        Some((package, cuda)) => (package, Build::Cuda(Some(cuda))),
        None => (look.package(&["cupy"])?, Build::Cuda(None)),
    };
    let says = format!("{} {}", package.name, package.version);
    let version = package.version.clone();
    Some(Said {
        version,
        build,
        evidence: format!("{}: {says}", look.site.path.display()),
        declared: Vec::new(),
        cudnn: None,
    })
}

fn onnxruntime(look: &Look<'_>) -> Option<Said> {
    const INFO: &str = "capi/build_and_package_info.py";
    const PROVIDER: &str = "capi/libonnxruntime_providers_cuda.so";
    let version = look.package(&["onnxruntime_gpu", "onnxruntime"])?.version.clone();
    let text = look.text(INFO).unwrap_or_default();
    let said = assignment(&text, "cuda_version").flatten();
    let of_cpu = assignment(&text, "package_name").flatten() == Some("onnxruntime");
    let (build, evidence) = match said {
        Some(cuda) => (
            Build::Cuda(cuda.parse().ok()),
            look.evidence(INFO, format_args!("cuda_version = {cuda}")),
        ),
        // The other build's provider stays where it was.
        None if !of_cpu && look.exists(PROVIDER) => {
            let major = cudart_of(look, PROVIDER);
            (
                Build::Cuda(major.map(|major| Cuda { major, minor: 0 })),
                look.evidence(PROVIDER, "the CUDA provider is there"),
            )
        }
        None if of_cpu => (Build::Cpu, look.evidence(INFO, "package_name = onnxruntime")),
        None => (
            Build::Cpu,
            look.evidence("capi", "no libonnxruntime_providers_cuda.so"),
        ),
    };
    Some(Said {
        version,
        build,
        evidence,
        declared: Vec::new(),
        cudnn: None,
    })
}

fn vllm(look: &Look<'_>) -> Option<Said> {
    let record = look.package(&["vllm"])?;
    let text = look.text("_version.py").unwrap_or_default();
    let version = assignment(&text, "__version__")
        .flatten()
        .unwrap_or(&record.version)
        .to_owned();
    let library = look.files("").into_iter().find(|f| f.starts_with("_C."));
    let build = match &library {
        Some(file) => of_local(&version)
            .unwrap_or_else(|| Build::Cuda(cudart_of(look, file).map(|major| Cuda { major, minor: 0 }))),
        None => of_local(&version).unwrap_or(Build::Unknown),
    };
    let evidence = match library {
        Some(file) => look.evidence(&file, format_args!("version {version}")),
        None => look.evidence("", format_args!("version {version}, no library of kernels")),
    };
    Some(Said {
        version,
        build,
        evidence,
        declared: Vec::new(),
        cudnn: None,
    })
}

/// One library for each CUDA release; PyTorch's own release decides which one is taken.
fn bitsandbytes(look: &Look<'_>) -> Option<Said> {
    let version = look.package(&["bitsandbytes"])?.version.clone();
    let releases: BTreeSet<Cuda> = look
        .files("")
        .iter()
        .filter_map(|file| {
            let tag = file.strip_prefix("libbitsandbytes_cuda")?.strip_suffix(".so")?;
            of_tag(&format!("cu{tag}"))
        })
        .collect();
    let beside = look.site.path.join("torch/version.py");
    let beside = look.files.read_text(beside, MAX_TEXT).unwrap_or_default();
    let torch: Option<Cuda> = assignment(&beside, "cuda").flatten().and_then(|c| c.parse().ok());
    let build = match torch {
        _ if releases.is_empty() => Build::Cpu,
        Some(cuda) if releases.contains(&cuda) => Build::Cuda(Some(cuda)),
        _ => Build::Unknown,
    };
    let says: Vec<String> = releases.iter().map(ToString::to_string).collect();
    Some(Said {
        version,
        build,
        evidence: look.evidence("", format_args!("libraries for CUDA {}", says.join(", "))),
        declared: Vec::new(),
        cudnn: None,
    })
}

/// CTranslate2's wheels are for one major release of CUDA, which their version decides.
fn ctranslate2(look: &Look<'_>) -> Option<Said> {
    let version = look.package(&["ctranslate2"])?.version.clone();
    let number = numeric(&version)?;
    let known = |major: &u32| !libraries::opened("ctranslate2", number, *major, None).is_empty();
    let cuda = [13, 12, 11].into_iter().find(known);
    Some(Said {
        evidence: look.evidence("", format_args!("version {version}")),
        build: Build::Cuda(cuda.map(|major| Cuda { major, minor: 0 })),
        version,
        declared: Vec::new(),
        cudnn: None,
    })
}

fn paddle(look: &Look<'_>) -> Option<Said> {
    const INFO: &str = "version/__init__.py";
    let record = look.package(&["paddlepaddle_gpu", "paddlepaddle"])?;
    let text = look.text(INFO).unwrap_or_default();
    let said = |name| assignment(&text, name).flatten();
    let build = match said("cuda_version") {
        Some("False") => Build::Cpu,
        Some(cuda) => Build::Cuda(cuda.parse().ok()),
        None if record.name == "paddlepaddle_gpu" => Build::Cuda(None),
        None => Build::Unknown,
    };
    Some(Said {
        version: record.version.clone(),
        evidence: look.evidence(
            INFO,
            format_args!("cuda_version = {}", said("cuda_version").unwrap_or("(none)")),
        ),
        build,
        declared: Vec::new(),
        cudnn: said("cudnn_version").and_then(major),
    })
}

/// DALI's wheels have the CUDA release in their name, and CUDA in themselves.
fn dali(look: &Look<'_>) -> Option<Said> {
    let mut packages = look.site.packages.iter();
    let (package, cuda) = packages.find_map(|p| {
        let tag = p.name.strip_prefix("nvidia_dali_cuda")?;
        Some((p, of_tag(&format!("cu{tag}"))))
    })?;
    Some(Said {
        version: package.version.clone(),
        build: Build::Cuda(cuda),
        evidence: format!(
            "{}: {} {}",
            look.site.path.display(),
            package.name,
            package.version
        ),
        declared: Vec::new(),
        cudnn: None,
    })
}

/// Its wheel on PyPI is built where it is installed, for the CPU unless CMake was asked for CUDA.
fn llama_cpp(look: &Look<'_>) -> Option<Said> {
    const CUDA: &str = "lib/libggml-cuda.so";
    let version = look.package(&["llama_cpp_python"])?.version.clone();
    let (build, evidence) = if look.exists(CUDA) {
        let cuda = cudart_of(look, CUDA).map(|major| Cuda { major, minor: 0 });
        (Build::Cuda(cuda), look.evidence(CUDA, "it is there"))
    } else if look.files("lib").iter().any(|name| name.starts_with("libggml")) {
        (Build::Cpu, look.evidence("lib", "no libggml-cuda.so"))
    } else {
        (Build::Unknown, look.evidence("lib", "no libggml"))
    };
    Some(Said {
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

/// The numbers that a version begins with: 2.15.0 of `2.15.0rc1+nv`.
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
fn cudart_of(look: &Look<'_>, file: &str) -> Option<u32> {
    let path = look.dir.join(file);
    cudart(&elf::read(&look.files.library(&path)?).ok()?)
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
