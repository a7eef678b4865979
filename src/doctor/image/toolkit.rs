//! The NVIDIA CUDA image that this one is built on, and its release: `base`, `runtime`, `devel`,
//! with or without cuDNN.
//!
//! The images set variables with their release; without an image configuration, files decide.
//! Facts: the Dockerfiles of nvidia/cuda 11.8.0 and 12.4.1.

use std::path::{Path, PathBuf};

use super::Files;
use super::config::ImageConfig;
use super::walk::Found;
use crate::compat::Cuda;

/// `version.json` of a toolkit.
const MAX_VERSION: u64 = 64 << 10;
/// The most entries of a directory that are read.
const MAX_ENTRIES: usize = 1 << 16;

/// The flavor of NVIDIA's image, as in its tag.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Flavor {
    /// No CUDA toolkit; frameworks may bring their own.
    #[default]
    None,
    /// Only the CUDA runtime.
    Base,
    /// The libraries as well.
    Runtime,
    /// Compiler and headers as well.
    Devel,
}

/// The image's own CUDA.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Toolkit {
    /// The flavor that it resembles.
    pub flavor: Flavor,
    /// Whether it has cuDNN.
    pub cudnn: bool,
    /// The release.
    pub cuda: Option<Cuda>,
    /// The file or variable that names the release.
    pub evidence: String,
}

impl Toolkit {
    /// The name as in a tag: `runtime-cudnn`.
    pub fn name(&self) -> String {
        let flavor = match self.flavor {
            Flavor::None => return "none".to_owned(),
            Flavor::Base => "base",
            Flavor::Runtime => "runtime",
            Flavor::Devel => "devel",
        };
        let cudnn = if self.cudnn { "-cudnn" } else { "" };
        format!("{flavor}{cudnn}")
    }

    /// Reads the configuration, then the files.
    pub fn find(files: &Files<'_>, config: Option<&ImageConfig>, found: &Found) -> Self {
        let libraries = Libraries::of(files, found);
        let var = |name: &str| config.and_then(|c| c.var(name));
        let flavor = if var("NV_CUDA_CUDART_DEV_VERSION").is_some() || libraries.nvcc {
            Flavor::Devel
        } else if var("NV_CUDA_LIB_VERSION").is_some() || libraries.cublas {
            Flavor::Runtime
        } else if var("NV_CUDA_CUDART_VERSION").is_some() || libraries.cudart.is_some() {
            Flavor::Base
        } else {
            Flavor::None
        };
        let (cuda, evidence) = release(files, var("CUDA_VERSION"), &libraries, flavor);
        Self {
            flavor,
            cudnn: var("NV_CUDNN_VERSION").is_some() || libraries.cudnn,
            cuda,
            evidence,
        }
    }
}

fn release(
    files: &Files<'_>,
    variable: Option<&str>,
    libraries: &Libraries,
    flavor: Flavor,
) -> (Option<Cuda>, String) {
    const FILE: &str = "/usr/local/cuda/version.json";
    if let Some(version) = variable
        && let Ok(cuda) = version.parse()
    {
        return (Some(cuda), format!("CUDA_VERSION={version}"));
    }
    if let Some(text) = files.read_text(FILE, MAX_VERSION)
        && let Ok(json) = serde_json::from_str::<serde_json::Value>(&text)
        && let Some(version) = json["cuda"]["version"].as_str()
        && let Ok(cuda) = version.parse()
    {
        return (Some(cuda), format!("{FILE}: {version}"));
    }
    match &libraries.cudart {
        Some((path, cuda)) if flavor != Flavor::None => (*cuda, path.display().to_string()),
        _ => (None, String::new()),
    }
}

/// The toolkit's libraries by which the flavors differ.
#[derive(Debug, Default)]
struct Libraries {
    /// The runtime outside of Python environments, and its release.
    cudart: Option<(PathBuf, Option<Cuda>)>,
    cublas: bool,
    cudnn: bool,
    nvcc: bool,
}

impl Libraries {
    fn of(files: &Files<'_>, found: &Found) -> Self {
        let system = |path: &&PathBuf| {
            let conda = found.conda.iter().any(|prefix| path.starts_with(prefix));
            !conda && !found.venvs.iter().any(|prefix| path.starts_with(prefix))
        };
        // The longest name has the whole version: libcudart.so.11.8.89.
        let cudart = found
            .runtimes
            .iter()
            .filter(system)
            .max_by_key(|path| path.as_os_str().len());
        let Some(cudart) = cudart else {
            return Self::default();
        };
        let mut libraries = Self {
            cudart: Some((cudart.clone(), cudart_release(cudart))),
            nvcc: files.exists("/usr/local/cuda/bin/nvcc") || files.exists("/usr/bin/nvcc"),
            ..Self::default()
        };
        let beside = cudart.parent().unwrap_or(Path::new("/"));
        let dirs = [
            beside,
            Path::new("/usr/lib/x86_64-linux-gnu"),
            Path::new("/usr/lib/aarch64-linux-gnu"),
            Path::new("/usr/lib64"),
        ];
        for dir in dirs {
            files.visit(dir, MAX_ENTRIES, |name, _| {
                libraries.cublas |= name.to_bytes().starts_with(b"libcublas.so.");
                libraries.cudnn |= name.to_bytes().starts_with(b"libcudnn.so.");
            });
        }
        libraries
    }
}

/// The release in a runtime's name: 12.4 of `libcudart.so.12.4.127`; 11.0 may be any 11.x.
pub fn cudart_release(path: &Path) -> Option<Cuda> {
    let (_, version) = path.file_name()?.to_str()?.split_once(".so.")?;
    (version.split('.').count() == 3)
        .then(|| version.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::image::{Silent, walk::walk};
    use crate::sys::budget::Budget;
    use crate::sys::root::Root;

    fn toolkit(files: &[&str], env: &[(&str, &str)]) -> Toolkit {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, r#"{"cuda":{"version":"12.4.1"}}"#).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let config = ImageConfig {
            env: env
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            ..ImageConfig::default()
        };
        let config = (!env.is_empty()).then_some(config);
        let budget = Budget::default();
        let files = Files::new(&root, None, &budget);
        Toolkit::find(&files, config.as_ref(), &walk(&root, &budget, &mut Silent))
    }

    #[test]
    fn by_files() {
        const CUDART: &str = "usr/local/cuda-11.8/targets/x86_64-linux/lib/libcudart.so.11.8.89";
        const CUBLAS: &str = "usr/local/cuda-11.8/targets/x86_64-linux/lib/libcublas.so.11";
        let cuda = |major, minor| Some(Cuda { major, minor });
        let base = toolkit(&[CUDART], &[]);
        assert_eq!((base.name().as_str(), base.cuda), ("base", cuda(11, 8)));
        let runtime = toolkit(&[CUDART, CUBLAS, "usr/lib/x86_64-linux-gnu/libcudnn.so.8"], &[]);
        assert_eq!(runtime.name(), "runtime-cudnn");
        let devel = toolkit(
            &[
                CUDART,
                CUBLAS,
                "usr/local/cuda/bin/nvcc",
                "usr/local/cuda/version.json",
            ],
            &[],
        );
        assert_eq!((devel.name().as_str(), devel.cuda), ("devel", cuda(12, 4)));
        // conda's CUDA is no toolkit of the image.
        let conda = toolkit(
            &["opt/conda/conda-meta/x", "opt/conda/lib/libcudart.so.11.8.89"],
            &[],
        );
        assert_eq!((conda.name().as_str(), conda.cuda), ("none", None));
    }

    #[test]
    fn by_variables() {
        let env = [
            ("CUDA_VERSION", "11.8.0"),
            ("NV_CUDA_CUDART_VERSION", "11.8.89-1"),
            ("NV_CUDA_LIB_VERSION", "11.8.0-1"),
            ("NV_CUDNN_VERSION", "8.9.6.50"),
        ];
        let found = toolkit(&[], &env);
        assert_eq!(found.name(), "runtime-cudnn");
        assert_eq!(found.evidence, "CUDA_VERSION=11.8.0");
        assert_eq!(toolkit(&[], &env[..2]).name(), "base");
    }
}
