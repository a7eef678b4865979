//! The quick part of `doctor image`, for every container that requests a GPU, during its creation.
//!
//! It reads a few files at known paths, all bounded, walks no directory tree and parses no
//! library's code. A fault that needs more is not found. For example, a `libcuda` of another driver
//! in `LD_LIBRARY_PATH` is found, one below `/opt` outside that variable is not.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

pub mod build;
pub mod libcuda;
mod search;
mod target;
pub mod text;
mod verdict;

pub use target::{Gpu, Target};
pub use verdict::{Hidden, Verdict, refuse};

use self::build::{Build, MAX_TEXT, tensorflow_of, torch_of};
use self::libcuda::{Hiding, Kind, Libcuda, Search, hides_the_driver};
use crate::compat::forward::{DEFAULT_DIR, Note, Package};
use crate::compat::{Class, Cuda, Outcome, Platform, Version};
use crate::config::Preflight;
use crate::findings::check::checks;
use crate::findings::{Check, Finding, Severity};
use crate::ldso::{ElfInfo, LoaderEnv};
use crate::sys::root::Root;

checks! {
    DRIVER = 7701, "preflight.driver", "The driver is too old for the container's CUDA.";
    CPU_ONLY = 7702, "preflight.cpu-only", "The container requested a GPU, but its framework was installed without GPU code.";
    STUB = 7703, "preflight.stub", "The loader finds a stub of libcuda before the driver's library.";
    BAKED = 7704, "preflight.baked-driver", "The loader finds a libcuda that was baked into the image before the driver's.";
    COMPAT = 7705, "preflight.compat", "The image's CUDA compatibility libraries come before a driver that they do not fit.";
    UNFINISHED = 7706, "preflight.unfinished", "The image has too many files for the check at a start, so it is not judged.";
    pub(crate) PARTITIONED = 7707, "preflight.partitioned", "The container requested a partitioned GPU and none of its MIG devices.";
}

/// The check with this number.
pub fn check_of(number: u16) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.number == number)
}

/// The time that the check may take. Processor time is the limit for an image of many files; on a
/// loaded machine it is reached no sooner. Time on the clock bounds what a slow disk adds.
#[derive(Clone, Copy, Debug)]
struct Patience {
    processor: Duration,
    clock: Duration,
}

impl Patience {
    /// `enforce` waits for the verdict, since a start without one is refused.
    const fn of(policy: Preflight) -> Self {
        match policy {
            Preflight::Enforce => Self {
                processor: Duration::from_millis(500),
                clock: Duration::from_secs(5),
            },
            _ => Self {
                processor: Duration::from_millis(3),
                clock: Duration::from_millis(50),
            },
        }
    }
}

/// The end of a check's time.
struct Until {
    processor: Duration,
    clock: Instant,
}

impl Until {
    fn now_and(patience: Patience) -> Self {
        Self {
            processor: processor_time() + patience.processor,
            clock: Instant::now() + patience.clock,
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.clock || processor_time() > self.processor
    }
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The minor versions of Python 3 whose directories are searched.
const PYTHONS: core::ops::RangeInclusive<u32> = 6..=15;
/// The usual prefixes of environments, besides those in the container's variables.
const PREFIXES: [&str; 6] = [
    "/opt/conda",
    "/opt/venv",
    "/venv",
    "/app/.venv",
    "/usr/local",
    "/usr",
];
/// The most prefixes that are taken from variables.
const MAX_PREFIXES: usize = 8;
/// The most entries of a directory of compatibility libraries.
const MAX_COMPAT: usize = 64;
/// The largest `version.json` of a toolkit, in bytes.
const MAX_VERSION: u64 = 64 << 10;

/// A container during its creation.
#[derive(Debug)]
pub struct Container<'a> {
    /// Its files.
    pub root: &'a Root,
    /// Its variables.
    pub env: &'a [(String, String)],
    /// The working directory of its program.
    pub cwd: &'a Path,
    /// Its program, as in the definition.
    pub program: Option<&'a str>,
    /// The paths at which nvoci may attach the driver directory. It may do so at the same time.
    pub driver_dirs: &'a [PathBuf],
    /// The directory of the libraries below the driver directory.
    pub library_dir: &'a Path,
}

impl Container<'_> {
    fn var(&self, name: &str) -> Option<&str> {
        let found = self.env.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The path of its program, for `$ORIGIN`.
    fn program(&self) -> Option<PathBuf> {
        let name = self.program.filter(|name| !name.is_empty())?;
        let in_path = || {
            let dirs = self.var("PATH")?.split(':').take(MAX_PREFIXES);
            dirs.map(|dir| self.cwd.join(dir).join(name))
                .find(|path| self.root.exists(path))
        };
        let path = if name.contains('/') {
            self.cwd.join(name)
        } else {
            in_path()?
        };
        // The loader takes the directory of the file itself, not of a link to it.
        let real = self.root.resolve(&path).ok()?.path().ok()?;
        let top = self.root.path().ok()?;
        Some(Path::new("/").join(real.strip_prefix(top).ok()?))
    }

    /// The parameters of its loader.
    fn loader_env(&self, library_path: &str) -> LoaderEnv {
        let requester = || Some((self.program()?, ElfInfo::default()));
        LoaderEnv {
            library_path: Some(library_path.as_bytes().to_vec()),
            cwd: Some(self.cwd.to_owned()),
            requester: library_path.contains("ORIGIN").then(requester).flatten(),
            ..LoaderEnv::default()
        }
    }
}

/// The reasons why the container cannot compute, the worst first. An image that cannot be checked
/// in the time that `policy` allows is one of them: otherwise its author could hide the others.
pub fn check(container: &Container<'_>, target: &Target, policy: Preflight) -> Verdict {
    check_in(container, target, policy, Patience::of(policy))
}

fn check_in(container: &Container<'_>, target: &Target, policy: Preflight, patience: Patience) -> Verdict {
    let until = Until::now_and(patience);
    let (hiding, searched) = hiding(container, &until);
    let (frameworks, finished) = frameworks(container, &until);
    let mut certain: Vec<Finding> = Vec::new();
    certain.extend((!searched).then(|| unfinished(policy, &LIBRARIES)));
    certain.extend((!finished).then(|| unfinished(policy, &FRAMEWORKS)));
    certain.extend(driver(container, target, &frameworks));
    certain.extend(cpu_only(&frameworks));
    Verdict {
        certain,
        hidden: hiding.and_then(|hiding| hidden(&hiding, target)),
    }
}

/// A part of the check, for the finding that it did not end.
struct Part {
    subject: &'static str,
    cause: &'static str,
    fix: &'static str,
}

const FRAMEWORKS: Part = Part {
    subject: "the image",
    cause: "it has too many files for the check at a start: the frameworks in it are not judged",
    fix: "run `nvoci doctor image` on it; fewer directories in the container's PATH make the check shorter",
};

const LIBRARIES: Part = Part {
    subject: "LD_LIBRARY_PATH",
    cause: "it has too many directories for the check at a start: the libcuda that the loader takes is not judged",
    fix: "take directories out of LD_LIBRARY_PATH",
};

fn unfinished(policy: Preflight, part: &Part) -> Finding {
    let severity = match policy {
        Preflight::Enforce => Severity::Fail,
        _ => Severity::Warn,
    };
    Finding::new(&UNFINISHED, severity, part.subject, part.cause).fix(part.fix)
}

/// Finds the libcuda that the loader takes instead of the driver's, and whether the search ended.
fn hiding(container: &Container<'_>, until: &Until) -> (Option<Hiding>, bool) {
    let Some(path) = container.var("LD_LIBRARY_PATH") else {
        return (None, true);
    };
    let env = container.loader_env(path);
    let places = (container.driver_dirs, container.library_dir);
    match hides_the_driver(container.root, &env, "libcuda.so.1", places, || until.is_over()) {
        Search::Nothing => (None, true),
        Search::Hidden(hiding) => (Some(hiding), true),
        Search::Unfinished => (None, false),
    }
}

/// Judges the libcuda that the loader takes; `None` if it works.
fn hidden(hiding: &Hiding, target: &Target) -> Option<Hidden> {
    let Hiding { libcuda, unless, .. } = hiding;
    let (check, severity, cause) = match libcuda.kind {
        Kind::Broken => (
            &STUB,
            Severity::Fail,
            "a file that is no library is found before the driver's library: the loader fails with \"file too short\" or \"invalid ELF header\""
                .to_owned(),
        ),
        // WSL2's own loader stubs, by a volume of `/usr/lib/wsl`, do load the driver.
        Kind::Stub if target.platform == Platform::Windows && libcuda.path.starts_with(crate::host::wsl::LIB_DIR) => return None,
        Kind::Stub => (
            &STUB,
            Severity::Fail,
            "a stub is found before the driver's library: error 34, \"CUDA driver is a stub library\""
                .to_owned(),
        ),
        // For example, a volume with the host's own driver.
        Kind::Driver if libcuda.is_of(target.driver) => return None,
        Kind::Driver => (
            &BAKED,
            Severity::Fail,
            format!(
                "libcuda of driver {} in the image is found before the host's",
                libcuda.version.as_deref().unwrap_or("of unknown version")
            ),
        ),
        Kind::Compat => {
            let (severity, cause) = compat_first(libcuda, target)?;
            (&COMPAT, severity, cause)
        }
    };
    Some(Hidden {
        finding: Finding::new(check, severity, libcuda.path.display().to_string(), cause).fix(hiding.fix()),
        unless: unless.clone(),
    })
}

/// A framework's version file.
struct Installed {
    name: &'static str,
    path: PathBuf,
    version: String,
    build: Build,
}

/// The most entries of a library directory that are listed. In a larger one each Python is tried by
/// name.
const MAX_LISTED: usize = 4096;

/// The frameworks in the container, and whether all places were searched.
fn frameworks(container: &Container<'_>, until: &Until) -> (Vec<Installed>, bool) {
    let root = container.root;
    let mut all = Vec::new();
    for prefix in prefixes(container) {
        if until.is_over() {
            return (all, false);
        }
        // Most of them are missing, and one listing shows which.
        let there = match root.read_dir(prefix.join("lib"), MAX_LISTED) {
            Ok(entries) => Some(entries),
            Err(e) if e.raw_os_error() == Some(libc::EFBIG) => None,
            Err(_) => continue,
        };
        let is_there = |python: &String| {
            let mut names = there.iter().flatten().map(|entry| &entry.name);
            there.is_none() || names.any(|name| name == python.as_str())
        };
        let sites = PYTHONS
            .rev()
            .map(|n| format!("python3.{n}"))
            .chain((prefix == Path::new("/usr")).then(|| "python3".to_owned()))
            .filter(is_there)
            .flat_map(|python| ["site-packages", "dist-packages"].map(|dir| format!("{python}/{dir}")));
        for site in sites {
            if until.is_over() {
                return (all, false);
            }
            // Looked up from the root: below `lib` a link may lead elsewhere.
            let site = prefix.join("lib").join(site);
            all.extend(of_site(root, &site));
        }
    }
    (all, true)
}

fn of_site(root: &Root, site: &Path) -> Vec<Installed> {
    let mut all = Vec::new();
    let torch = site.join("torch/version.py");
    if let Ok(text) = root.read_text(&torch, MAX_TEXT)
        && let Some((version, build)) = torch_of(&text)
    {
        all.push(Installed {
            name: "PyTorch",
            path: torch,
            version,
            build,
        });
    }
    let tensorflow = site.join("tensorflow/python/platform/build_info.py");
    if let Ok(text) = root.read_text(&tensorflow, MAX_TEXT) {
        all.push(Installed {
            name: "TensorFlow",
            path: tensorflow,
            version: String::new(),
            build: tensorflow_of(&text).0,
        });
    }
    all
}

/// The possible prefixes of Python environments, in the container's order.
fn prefixes(container: &Container<'_>) -> Vec<PathBuf> {
    let named = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(|name| container.var(name))
        .map(PathBuf::from);
    let path = container.var("PATH").unwrap_or_default();
    let of_path = path
        .split(':')
        .filter_map(|dir| Some(Path::new(dir.strip_suffix("/bin")?).to_owned()));
    let user = container.var("HOME").map(|home| Path::new(home).join(".local"));
    let mut all: Vec<PathBuf> = Vec::new();
    let variables = named.chain(user).chain(of_path).filter(|p| p.is_absolute());
    for prefix in variables.take(MAX_PREFIXES).chain(PREFIXES.map(PathBuf::from)) {
        if !all.contains(&prefix) {
            all.push(prefix);
        }
    }
    all
}

fn cpu_only(frameworks: &[Installed]) -> Option<Finding> {
    if frameworks.iter().any(|f| matches!(f.build, Build::Cuda(_))) {
        return None;
    }
    let found = frameworks.iter().find(|f| f.build == Build::Cpu)?;
    Some(
        Finding::new(
            &CPU_ONLY,
            Severity::Fail,
            found.path.display().to_string(),
            format!(
                "the container requested a GPU, but its {} {}is a CPU-only build",
                found.name,
                spaced(&found.version)
            ),
        )
        .fix(format!(
            "install a CUDA build of {}; `nvoci doctor image` names it",
            found.name
        )),
    )
}

fn spaced(version: &str) -> String {
    if version.is_empty() {
        String::new()
    } else {
        format!("{version} ")
    }
}

/// Checks whether the driver is too old for the image, with compatibility libraries.
fn driver(container: &Container<'_>, target: &Target, frameworks: &[Installed]) -> Option<Finding> {
    let framework = frameworks.iter().find_map(|f| match f.build {
        Build::Cuda(Some(cuda)) => Some((
            f.path.display().to_string(),
            format!("{} {}", f.name, f.version),
            cuda,
        )),
        _ => None,
    });
    let needs = framework.into_iter().chain(toolkit(container));
    for (subject, name, cuda) in needs {
        let Some((Outcome::Impossible(_), _)) = target.judge(cuda, None) else {
            continue;
        };
        // Rare, so reading a directory is acceptable.
        let package = compat_package(container.root);
        if let Some((Outcome::Impossible(change), _)) = target.judge(cuda, package.as_ref()) {
            let cause = format!(
                "{} needs CUDA {cuda}, but this is {}: error 35, \"CUDA driver version is insufficient for CUDA runtime version\"",
                name.trim_end(),
                target.describe()
            );
            return Some(Finding::new(&DRIVER, Severity::Fail, subject, cause).fix(change.to_string()));
        }
    }
    None
}

/// The CUDA release of the image.
fn toolkit(container: &Container<'_>) -> Option<(String, String, Cuda)> {
    const FILE: &str = "/usr/local/cuda/version.json";
    if let Some(version) = container.var("CUDA_VERSION")
        && let Ok(cuda) = version.parse()
    {
        return Some((format!("CUDA_VERSION={version}"), "the image".to_owned(), cuda));
    }
    let bytes = container.root.read(FILE, MAX_VERSION).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let cuda = json["cuda"]["version"].as_str()?.parse().ok()?;
    Some((FILE.to_owned(), "the image".to_owned(), cuda))
}

fn compat_package(root: &Root) -> Option<Package> {
    let entries = root.read_dir(DEFAULT_DIR, MAX_COMPAT).ok()?;
    let found = entries
        .iter()
        .filter_map(|e| {
            Libcuda::at(root, &Path::new(DEFAULT_DIR).join(&e.name)).filter(|_| is_libcuda(&e.name))
        })
        .find(|l| l.version.is_some())?;
    Some(Package {
        version: found.version?.parse().ok()?,
        note: found.note.as_deref().and_then(Note::parse),
    })
}

fn is_libcuda(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"libcuda.so.")
}

/// The fault of compatibility libraries that come first; `None` if they fit.
pub fn compat_first(hiding: &Libcuda, target: &Target) -> Option<(Severity, String)> {
    let version = hiding.version.as_deref()?;
    let driver = target.driver?;
    let package = Package {
        version: version.parse().ok()?,
        note: hiding.note.as_deref().and_then(Note::parse),
    };
    if target.platform == Platform::Windows {
        return Some((
            Severity::Fail,
            format!(
                "CUDA compatibility libraries of driver {version} come first, but WSL2 has no forward compatibility"
            ),
        ));
    }
    if target
        .gpus
        .iter()
        .any(|g| g.class.is_some_and(|c| !Class::allows_forward(c)))
    {
        return Some((
            Severity::Fail,
            format!(
                "CUDA compatibility libraries of driver {version} come first: error 804, \"forward compatibility was attempted on non supported HW\""
            ),
        ));
    }
    if package.version <= driver {
        return Some((
            Severity::Fail,
            format!(
                "CUDA compatibility libraries of driver {version} come before the newer driver {driver}: error 803"
            ),
        ));
    }
    let branches = package
        .note
        .as_ref()
        .map(|n| n.branches.as_slice())
        .unwrap_or_default();
    if !branches.is_empty() && !branches.contains(&driver.major()) {
        return Some((
            Severity::Fail,
            format!(
                "CUDA compatibility libraries of driver {version} come first, but do not work with branch {}: error 803",
                driver.major()
            ),
        ));
    }
    None
}

/// The target of a plan: its driver, and the GPUs by name.
pub fn target(driver: Option<Version>, wsl: bool, gpus: impl Iterator<Item = String>) -> Target {
    use crate::compat::gpu;
    Target {
        driver,
        platform: if wsl { Platform::Windows } else { Platform::Linux },
        gpus: gpus
            .map(|name| Gpu {
                sm: gpu::sm_of_name(&name),
                class: gpu::class_of_name(&name),
                name,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container<'a>(root: &'a Root, env: &'a [(String, String)]) -> Container<'a> {
        Container {
            root,
            env,
            cwd: Path::new("/"),
            program: None,
            driver_dirs: &[],
            library_dir: Path::new("lib64"),
        }
    }

    fn check_root(files: &[(&str, &str)], env: &[(&str, &str)], driver: &str) -> Vec<u16> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let container = container(&root, &env);
        let gpu = "NVIDIA GeForce RTX 3070".to_owned();
        let target = target(driver.parse().ok(), false, std::iter::once(gpu));
        // A loaded machine takes longer than a start may.
        let patience = Patience {
            processor: Duration::from_secs(60),
            clock: Duration::from_secs(600),
        };
        let found = check_in(&container, &target, Preflight::Warn, patience).findings(|_| false);
        found.iter().map(|f| f.check.number).collect()
    }

    const CONDA: &str = "opt/conda/lib/python3.10/site-packages/torch/version.py";
    const CU117: &str = "__version__ = '2.0.1+cu117'\ncuda = '11.7'\n";
    const CU121: &str = "__version__ = '2.1.2+cu121'\ncuda: Optional[str] = '12.1'\n";
    const CPU: &str = "__version__ = '2.0.1'\ncuda = None\n";

    /// Microsoft's command line for WSL2 mounts `/usr/lib/wsl`, whose stub loads the real driver.
    #[test]
    fn the_stub_of_wsl2_is_one_only_on_linux() {
        let stub = |at: &str, wsl| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join(at).join("libcuda.so.1");
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "not empty").unwrap();
            let root = Root::open(dir.path()).unwrap();
            let hiding = Hiding {
                libcuda: Libcuda::at(&root, &Path::new("/").join(at).join("libcuda.so.1")).unwrap(),
                entry: format!("/{at}"),
                unless: Vec::new(),
            };
            assert_eq!(hiding.libcuda.kind, Kind::Stub);
            let target = target("560.35.03".parse().ok(), wsl, std::iter::empty());
            hidden(&hiding, &target).is_some()
        };
        assert!(!stub("usr/lib/wsl/lib", true) && stub("usr/lib/wsl/lib", false));
        assert!(stub("usr/lib/wsl2", true) && stub("opt/stubs", true));
    }

    /// An image's author could otherwise hide a CPU build behind directories of many files.
    #[test]
    fn an_image_that_is_not_checked_in_time_is_a_finding() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let container = container(&root, &[]);
        let target = target("560.35.03".parse().ok(), false, std::iter::empty());
        let none = Patience {
            processor: Duration::ZERO,
            clock: Duration::from_secs(600),
        };
        for (policy, severity) in [
            (Preflight::Warn, Severity::Warn),
            (Preflight::Enforce, Severity::Fail),
        ] {
            let found = check_in(&container, &target, policy, none).findings(|_| false);
            let found: Vec<_> = found.iter().map(|f| (f.check.number, f.severity)).collect();
            assert_eq!(found, [(7706, severity)]);
        }
    }

    #[test]
    fn frameworks_and_drivers() {
        assert_eq!(check_root(&[(CONDA, CU117)], &[], "470.256.02"), [0; 0]);
        assert_eq!(check_root(&[(CONDA, CU121)], &[], "470.256.02"), [7701]);
        assert_eq!(check_root(&[(CONDA, CU117)], &[], "352.55"), [7701]);
        assert_eq!(check_root(&[(CONDA, CPU)], &[], "560.35.03"), [7702]);
        // One GPU build suffices.
        let venv = "venv/lib/python3.12/site-packages/torch/version.py";
        assert_eq!(
            check_root(&[(CONDA, CPU), (venv, CU117)], &[], "560.35.03"),
            [0; 0]
        );
        assert_eq!(check_root(&[], &[], "352.55"), [0; 0]);
    }

    #[test]
    fn variables_lead_to_environments_and_toolkits() {
        let own = "srv/env/lib/python3.9/site-packages/torch/version.py";
        assert_eq!(check_root(&[(own, CPU)], &[], "560.35.03"), [0; 0]);
        for env in [
            ("VIRTUAL_ENV", "/srv/env"),
            ("PATH", "/usr/bin:/srv/env/bin"),
            ("CONDA_PREFIX", "/srv/env"),
        ] {
            assert_eq!(check_root(&[(own, CPU)], &[env], "560.35.03"), [7702]);
        }
        assert_eq!(
            check_root(&[], &[("CUDA_VERSION", "12.4.1")], "470.256.02"),
            [7701]
        );
        assert_eq!(
            check_root(&[], &[("CUDA_VERSION", "11.8.0")], "470.256.02"),
            [0; 0]
        );
        let version = r#"{"cuda":{"version":"12.4.1"}}"#;
        assert_eq!(
            check_root(&[("usr/local/cuda/version.json", version)], &[], "470.256.02"),
            [7701]
        );
    }
}
