//! Finds the CUDA software of an image, and judges whether it runs on a host.
//!
//! nvoci executes nothing of the image. It walks every path inside the image's root, bounds every
//! read, and parses only a few forms of text and ELF headers. All readers share one [`Budget`]; a
//! report counts only if [`Budget::check`] succeeds after it. For example, an image with PyTorch
//! 2.6+cu124 on driver 470 gets the finding `image.runs`.
//!
//! | module | content |
//! |---|---|
//! | `source`, `config` | the image's source and configuration |
//! | `archive`, `document`, `unpack`, `layer`, `tar`, `keep`, `scratch` | archives, and the parts of them that are kept |
//! | `walk`, `environments`, `packages` | the search for software |
//! | `frameworks`, `search`, `fatbin`, `toolkit` | the versions and builds of software |
//! | `load`, `loading`, `missing`, `pairs` | whether parts find one another and fit |
//! | `verdict`, `checks` | whether they run on the host |

pub mod archive;
mod checks;
pub mod config;
mod document;
pub mod environments;
pub mod fatbin;
pub mod frameworks;
pub mod keep;
pub mod layer;
mod load;
mod loading;
mod missing;
pub mod packages;
mod pairs;
pub mod scratch;
mod search;
pub mod source;
pub mod tar;
pub mod toolkit;
mod unpack;
pub mod verdict;
pub mod walk;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

pub use checks::CHECKS;
pub use source::Image;

use self::checks::{
    BAKED, CAPABILITIES, COMPAT, EMPTY, ENVIRONMENT, INCOMPLETE, LIBC, NO_CONFIG, PLATFORM, REQUIRE,
    SHADOWED, STUB, UNJUDGED,
};
use self::environments::{Environment, Kind};
use self::fatbin::Fatbins;
use self::frameworks::{Framework, Native};
use self::loading::Loader;
use self::scratch::{Library, Scratch};
use self::toolkit::Toolkit;
use self::verdict::Need;
use self::walk::Found;
use super::{Check, Finding, Report, Severity};
use crate::compat::forward::{Note, Package};
use crate::compat::{Class, Platform};
use crate::ldso::{Flavor, LoaderEnv, flavor};
use crate::plan::Place;
use crate::preflight::build::Build;
use crate::preflight::compat_first;
use crate::preflight::libcuda::{self, Hiding, Libcuda, Search, version_in_name};
pub use crate::preflight::{Gpu, Target};
use crate::request::{Facts, Requirement};
use crate::sys::budget::Budget;
use crate::sys::root::{Node, Root};

/// The most programs without Python that are judged.
const MAX_NATIVES: usize = 64;
/// The most lines of evidence in one finding.
const MAX_EVIDENCE: usize = 8;
/// Frameworks whose CPU builds are often installed on purpose.
const OFTEN_CPU: [&str; 3] = ["onnxruntime", "bitsandbytes", "llama-cpp-python"];

/// Receives the progress of a long scan.
pub trait Progress {
    /// Called after this many more directories were read.
    fn directories(&mut self, _count: usize) {}

    /// Called after this many more entries of a layer were read.
    fn entries(&mut self, _count: usize) {}
}

/// The parts of a configuration, the checks that need them, and what these do not find without.
const UNKNOWN: &[(&str, &[Check], &str)] = &[
    (
        "PATH",
        &[ENVIRONMENT],
        "whether `python` starts the environment of the frameworks",
    ),
    (
        "LD_LIBRARY_PATH",
        &[STUB, COMPAT, checks::MISSING],
        "whether a stub or compatibility libraries come before the driver's, and which libraries it adds",
    ),
    ("PYTHONPATH", &[SHADOWED], "whether a copy there hides another"),
    (
        "NVIDIA_VISIBLE_DEVICES and NVIDIA_DRIVER_CAPABILITIES",
        &[CAPABILITIES],
        "whether the image keeps CUDA away",
    ),
    ("NVIDIA_REQUIRE_*", &[REQUIRE], "whether its conditions are met"),
    (
        "the architecture",
        &[PLATFORM],
        "whether it is for the GPU's host",
    ),
];

/// Discards progress events.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {}

/// An image's files and the budget of its readers.
#[derive(Debug)]
pub struct Files<'a> {
    root: &'a Root,
    /// The storage of an archive's files.
    scratch: Option<&'a Scratch>,
    budget: &'a Budget,
    /// The device code of libraries that were read, by device and inode number.
    scanned: RefCell<HashMap<(u64, u64), Fatbins>>,
}

impl<'a> Files<'a> {
    /// The files below `root`.
    pub fn new(root: &'a Root, scratch: Option<&'a Scratch>, budget: &'a Budget) -> Self {
        Self {
            root,
            scratch,
            budget,
            scanned: RefCell::default(),
        }
    }

    /// Finds a file. Chained links with long targets can make that slow.
    fn resolve(&self, path: impl AsRef<Path>) -> Option<Node> {
        self.budget.check().ok()?;
        self.root.resolve(path).ok()
    }

    /// Whether `path` exists.
    fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.resolve(path).is_some()
    }

    /// Reads a text of at most `max` bytes.
    fn read_text(&self, path: impl AsRef<Path>, max: u64) -> Option<String> {
        let bytes = self.resolve(path)?.read(max).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Passes at most `max` names of a directory to `f`, as long as the budget lasts.
    fn visit(&self, path: impl AsRef<Path>, max: usize, mut f: impl FnMut(&CStr, FileType)) {
        if let Some(node) = self.resolve(path) {
            let _ = node.visit(max, |name, kind| {
                if self.budget.entry().is_ok() {
                    f(name, kind);
                }
            });
        }
    }

    /// Opens a library.
    fn library(&self, path: &Path) -> Option<Library<'a>> {
        Library::open(&self.resolve(path)?, self.scratch).ok()
    }

    /// The device code of a library; read once, even if the library has several names.
    fn fatbins(&self, path: &Path) -> Option<((u64, u64), Fatbins)> {
        let node = self.resolve(path)?;
        let id = node.id();
        if let Some(known) = self.scanned.borrow().get(&id) {
            return Some((id, known.clone()));
        }
        let found = Fatbins::read(&Library::open(&node, self.scratch).ok()?, self.budget);
        self.scanned.borrow_mut().insert(id, found.clone());
        Some((id, found))
    }
}

/// The software that was found in an image.
struct Contents<'a> {
    image: &'a Image,
    files: &'a Files<'a>,
    found: Found,
    toolkit: Toolkit,
    environments: Vec<Environment>,
    libcudas: Vec<Libcuda>,
    flavor: Flavor,
    /// Programs and packages that may use CUDA and that nvoci cannot judge.
    unjudged: BTreeSet<String>,
}

/// Finds an image's software and judges it for `target`.
///
/// The report is complete only if the budget is not exceeded; see [`Budget::check`].
pub fn report(image: &Image, target: &Target, budget: &Budget, progress: &mut dyn Progress) -> Report {
    let files = &image.files(budget);
    let found = walk::walk(&image.root, budget, progress);
    let config = image.config.as_ref();
    let mut environments = environments::find(files, config, &found);
    let mut unjudged: BTreeSet<String> = environments
        .iter()
        .flat_map(|e| frameworks::unjudged(&e.site))
        .collect();
    for path in found.natives.iter().take(MAX_NATIVES) {
        match frameworks::native(files, path) {
            Some(Native::Judged(framework)) => environments.push(environments::native(*framework)),
            Some(Native::Unjudged(name)) => {
                unjudged.insert(format!("{name} ({})", path.display()));
            }
            None => {}
        }
    }
    let contents = Contents {
        toolkit: Toolkit::find(files, config, &found),
        environments,
        unjudged,
        libcudas: found
            .libcuda
            .iter()
            .take_while(|_| budget.check().is_ok())
            .filter_map(|path| Libcuda::at(&image.root, path))
            .collect(),
        flavor: flavor(&image.root),
        found,
        files,
        image,
    };
    let mut report = Report::new(format!("image {}", image.title));
    contents.facts(&mut report, target);
    contents.versions(&mut report, target);
    contents.devices(&mut report, target);
    contents.loader(&mut report, target);
    contents.variables(&mut report, target);
    contents.python(&mut report);
    contents.libraries(&mut report, target);
    contents.platform(&mut report, target);
    contents.libc(&mut report);
    contents.configuration(&mut report);
    contents.limits(&mut report);
    report
}

impl Contents<'_> {
    fn var(&self, name: &str) -> Option<&str> {
        self.image.config.as_ref()?.var(name)
    }

    fn frameworks(&self) -> impl Iterator<Item = (&Environment, &Framework)> {
        self.environments
            .iter()
            .flat_map(|e| e.frameworks.iter().map(move |f| (e, f)))
    }

    fn uses_cuda(&self) -> bool {
        let cuda = |(_, f): (&Environment, &Framework)| matches!(f.build, Build::Cuda(_));
        self.toolkit.flavor != toolkit::Flavor::None
            || self.frameworks().any(cuda)
            || self.environments.iter().any(|e| e.runtime().is_some())
    }

    fn facts(&self, report: &mut Report, target: &Target) {
        report.fact("judged for", target.describe(), "the options, else this host");
        for gpu in &target.gpus {
            let sm = gpu
                .sm
                .map_or("unknown architecture".to_owned(), |sm| sm.to_string());
            report.fact(
                "GPU",
                format!("{} ({sm})", gpu.name),
                "the options, else this host",
            );
        }
        let cuda = self
            .toolkit
            .cuda
            .map(|cuda| format!(" {cuda}"))
            .unwrap_or_default();
        report.fact(
            "CUDA image",
            format!("{}{cuda}", self.toolkit.name()),
            match self.toolkit.evidence.as_str() {
                "" => "the image's files and variables",
                evidence => evidence,
            },
        );
        let libc = match (self.flavor, environments::glibc(self.files)) {
            (Flavor::Glibc(_), Some((major, minor))) => format!("glibc {major}.{minor}"),
            (Flavor::Glibc(_), None) => "glibc".to_owned(),
            (Flavor::Musl(_), _) => "musl".to_owned(),
            (Flavor::None, _) => "none".to_owned(),
        };
        report.fact("C library", libc, "the program interpreters and libc.so.6");
        for name in [
            "NVIDIA_VISIBLE_DEVICES",
            "NVIDIA_DRIVER_CAPABILITIES",
            "NVIDIA_REQUIRE_CUDA",
            "LD_LIBRARY_PATH",
        ] {
            if let Some(value) = self.var(name) {
                report.fact(name, value, "the image's configuration");
            }
        }
        for environment in &self.environments {
            let runtime = environment.runtime().map(|(_, package)| package);
            for framework in &environment.frameworks {
                let mut text = format!("{} {}", framework.version, build_name(&framework.build));
                if !framework.declared.is_empty() {
                    text.push_str(&format!(", {}", framework.declared.join(" ")));
                }
                text.push_str(&format!(", in {}", framework.path.display()));
                report.fact(framework.name, text, &framework.evidence);
            }
            if let Some(runtime) = runtime {
                report.fact(
                    "CUDA runtime",
                    format!("{runtime}, in {}", environment.prefix.display()),
                    format!("the packages of {}", environment.site.path.display()),
                );
            }
        }
    }

    /// Compares CUDA versions with the driver.
    fn versions(&self, report: &mut Report, target: &Target) {
        let package = self.package();
        let mut needs: Vec<Need<'_>> = Vec::new();
        for (environment, framework) in self.frameworks() {
            if let Build::Cuda(Some(cuda)) = framework.build {
                needs.push(Need {
                    name: format!("{} {}", framework.name, framework.version),
                    subject: framework.path.display().to_string(),
                    cuda,
                    evidence: framework.evidence.clone(),
                    framework: Some((framework, environment)),
                    vital: environment.on_path != Some(false),
                });
            }
        }
        let vital = needs.is_empty();
        for environment in &self.environments {
            let judged = environment
                .frameworks
                .iter()
                .any(|f| matches!(f.build, Build::Cuda(Some(_))));
            if let Some((cuda, evidence)) = environment.runtime()
                && !judged
            {
                needs.push(Need {
                    name: evidence.clone(),
                    subject: environment.prefix.display().to_string(),
                    cuda,
                    evidence,
                    framework: None,
                    vital,
                });
            }
        }
        if let Some(cuda) = self.toolkit.cuda {
            needs.push(Need {
                name: format!("the image's CUDA toolkit ({})", self.toolkit.name()),
                subject: "CUDA toolkit".to_owned(),
                cuda,
                evidence: self.toolkit.evidence.clone(),
                framework: None,
                vital,
            });
        }
        for need in &needs {
            report.add(verdict::runs(need, target, package.as_ref()));
        }
        for (_, framework) in self.frameworks() {
            if framework.build == Build::Cuda(None) || framework.build == Build::Unknown {
                report.add(
                    Finding::new(
                        &checks::RUNS,
                        Severity::Info,
                        framework.path.display().to_string(),
                        format!(
                            "{} {} does not name the CUDA that it was built for: unknown",
                            framework.name, framework.version
                        ),
                    )
                    .evidence(&framework.evidence),
                );
            }
        }
        if !self.unjudged.is_empty() {
            let names: Vec<&str> = self
                .unjudged
                .iter()
                .take(MAX_EVIDENCE)
                .map(String::as_str)
                .collect();
            let more = match self.unjudged.len() - names.len() {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            let cause = format!("may use CUDA, and is not judged: {}{more}", names.join(", "));
            report.add(Finding::new(&UNJUDGED, Severity::Info, "image", cause));
        } else if !self.uses_cuda() && self.frameworks().next().is_none() {
            report.add(Finding::new(
                &EMPTY,
                Severity::Info,
                "image",
                "nvoci found no CUDA runtime and no framework that it can judge; other programs are not judged",
            ));
        }
    }

    /// The compatibility package of the image.
    fn package(&self) -> Option<Package> {
        let compat = self
            .libcudas
            .iter()
            .filter(|l| l.kind == libcuda::Kind::Compat)
            .max_by_key(|l| l.version.as_ref().map(String::len))?;
        Some(Package {
            version: compat.version.as_deref()?.parse().ok()?,
            note: compat.note.as_deref().and_then(Note::parse),
        })
    }

    fn hides(&self, soname: &str) -> Option<Hiding> {
        let env = LoaderEnv {
            library_path: Some(self.var("LD_LIBRARY_PATH")?.as_bytes().to_vec()),
            ..LoaderEnv::default()
        };
        let root = &self.image.root;
        let dirs = [PathBuf::from(libcuda::DRIVER_DIR)];
        let places = (&dirs[..], Path::new(Place::Lib64.dir()));
        // A place that has content is not the driver directory's.
        let is_free = |dir: &PathBuf| match root.resolve_nofollow(dir) {
            Ok(node) => node.is_dir() && node.is_empty_dir().unwrap_or(false),
            Err(_) => true,
        };
        match libcuda::hides_the_driver(root, &env, soname, places, || false) {
            Search::Hidden(hiding) if !hiding.unless.iter().any(is_free) => Some(hiding),
            _ => None,
        }
    }

    /// Compares the frameworks' device code with the GPUs.
    fn devices(&self, report: &mut Report, target: &Target) {
        let vital = !self.frameworks().any(|(_, f)| matches!(f.build, Build::Cuda(_)));
        if let Some(cuda) = self.toolkit.cuda
            && let Some(finding) =
                verdict::toolkit(cuda, "CUDA toolkit", &self.toolkit.evidence, target, vital)
        {
            report.add(finding);
        }
        let cuda = self
            .frameworks()
            .any(|(_, f)| matches!(f.build, Build::Cuda(_)) && f.package != "bitsandbytes");
        for (environment, framework) in self.frameworks() {
            match framework.build {
                // The record of the other build has the details.
                Build::Cpu
                    if pairs::onnxruntimes(environment, self.files).is_some()
                        && framework.package == "onnxruntime" => {}
                Build::Cpu | Build::Rocm => {
                    let vital = !cuda
                        && environment.on_path != Some(false)
                        && !OFTEN_CPU.contains(&framework.package);
                    report.add(verdict::cpu_only(framework, environment, target, vital));
                }
                Build::Cuda(_) => {
                    if let Some(finding) = verdict::architecture(framework, target) {
                        report.add(finding);
                    }
                }
                Build::Unknown => {}
            }
        }
    }

    /// Finds the libcuda that a program would load.
    fn loader(&self, report: &mut Report, target: &Target) {
        for soname in ["libcuda.so.1", "libcuda.so"] {
            let Some(hiding) = self.hides(soname) else {
                continue;
            };
            let severity = if soname == "libcuda.so.1" {
                Severity::Fail
            } else {
                Severity::Warn
            };
            let fix = hiding.fix();
            let hiding = hiding.libcuda;
            let path = hiding.path.display().to_string();
            let evidence = format!(
                "LD_LIBRARY_PATH={}",
                self.var("LD_LIBRARY_PATH").unwrap_or_default()
            );
            let finding = match hiding.kind {
                libcuda::Kind::Stub | libcuda::Kind::Broken => Finding::new(
                    &STUB,
                    severity,
                    path,
                    format!(
                        "a stub is found as {soname} before the driver's library: error 34, \"CUDA driver is a stub library\""
                    ),
                ),
                libcuda::Kind::Compat => match compat_first(&hiding, target) {
                    Some((severity, cause)) => Finding::new(&COMPAT, severity, path, cause),
                    None => continue,
                },
                libcuda::Kind::Driver => Finding::new(
                    &BAKED,
                    severity,
                    path,
                    format!(
                        "libcuda of driver {} in the image is found before the host's: error 803 where the versions differ",
                        hiding.version.as_deref().unwrap_or("of unknown version")
                    ),
                ),
            };
            report.add(finding.fix(fix).evidence(evidence));
            break;
        }
        self.baked(report, target);
    }

    /// Finds libraries of a driver in the image.
    fn baked(&self, report: &mut Report, target: &Target) {
        let of_driver = self
            .libcudas
            .iter()
            .filter(|l| l.kind == libcuda::Kind::Driver)
            .map(|l| l.path.as_path());
        let compat_dirs: BTreeSet<&Path> = self
            .libcudas
            .iter()
            .filter(|l| l.kind == libcuda::Kind::Compat)
            .filter_map(|l| l.path.parent())
            .collect();
        let others = self
            .found
            .driver_libraries
            .iter()
            .map(PathBuf::as_path)
            .filter(|path| {
                path.parent()
                    .is_some_and(|dir| !compat_dirs.contains(dir) && !dir.ends_with("stubs"))
            });
        let all: BTreeSet<&Path> = of_driver.chain(others).collect();
        let empty = |path: &&Path| {
            self.files
                .resolve(path)
                .is_some_and(|n| n.is_file() && n.stat().st_size == 0)
        };
        let left: Vec<&Path> = all.iter().copied().filter(|p| empty(p)).collect();
        let versions: BTreeSet<&str> = all
            .iter()
            .filter(|p| !left.contains(p))
            .filter_map(|p| version_in_name(p))
            .collect();
        if let Some(first) = left.first() {
            report.add(
                Finding::new(
                    &BAKED,
                    Severity::Warn,
                    first.display().to_string(),
                    format!(
                        "{} empty driver libraries in the image, left behind by another container tool",
                        left.len()
                    ),
                )
                .fix("build the image without a GPU runtime, or `rm -f` them in it"),
            );
        }
        let host = target.driver.map(|d| d.to_string());
        let differing: Vec<&str> = versions
            .iter()
            .copied()
            .filter(|v| target.platform == Platform::Windows || host.as_deref() != Some(*v))
            .collect();
        if differing.is_empty() {
            self.recorded(report, host.as_deref());
            return;
        }
        let mut finding = Finding::new(
            &BAKED,
            Severity::Warn,
            "driver libraries",
            format!(
                "libraries of driver {} are baked into the image; nvoci puts the host's first, other tools may not (\"Driver/library version mismatch\")",
                differing.join(", ")
            ),
        )
        .fix("take the driver's packages (libnvidia-*, nvidia-utils-*, nvidia-driver-*) out of the image");
        for path in all.iter().filter(|p| !left.contains(p)).take(MAX_EVIDENCE) {
            finding = finding.evidence(path.display().to_string());
        }
        report.add(finding);
    }

    /// Finds a driver's packages by the distribution's records.
    fn recorded(&self, report: &mut Report, host: Option<&str>) {
        const DRIVER: [&str; 6] = [
            "libcuda1",
            "libnvidia-compute-",
            "libnvidia-ml1",
            "nvidia-driver-libs",
            "nvidia-utils",
            "nvidia-libcuda",
        ];
        let packages = crate::doctor::packages::Packages::read(&self.image.root);
        let of_driver = packages.iter().filter(|p| {
            let name = p.name.split(':').next().unwrap_or_default();
            DRIVER.iter().any(|driver| name.starts_with(driver)) && Some(p.upstream()) != host
        });
        let found: Vec<String> = of_driver
            .take(MAX_EVIDENCE)
            .map(|p| format!("{} {}", p.name, p.version))
            .collect();
        let Some(first) = found.first() else { return };
        let cause = format!(
            "{first} of a driver is installed in the image; nvoci puts the host's libraries first, other tools may not (\"Driver/library version mismatch\")"
        );
        let finding = Finding::new(&BAKED, Severity::Warn, "driver packages", cause).fix(
            "take the driver's packages (libnvidia-*, nvidia-utils-*, nvidia-driver-*) out of the image",
        );
        report.add(found.into_iter().fold(finding, Finding::evidence));
    }

    /// Checks the variables `NVIDIA_*`.
    fn variables(&self, report: &mut Report, target: &Target) {
        self.requirements(report, target);
        if let Some(capabilities) = self.var("NVIDIA_DRIVER_CAPABILITIES") {
            let mut words = capabilities.split(',').map(str::trim).peekable();
            let set = words.peek().is_some_and(|w| !w.is_empty());
            if set && !words.any(|w| matches!(w, "compute" | "all")) && self.uses_cuda() {
                report.add(
                    Finding::new(
                        &CAPABILITIES,
                        Severity::Fail,
                        "NVIDIA_DRIVER_CAPABILITIES",
                        format!("`{capabilities}` lacks compute: libcuda is not given, `nvidia-smi` works and CUDA does not"),
                    )
                    .fix("set NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
                );
            }
        }
        if let Some(devices @ ("" | "-1" | "none" | "NoDevFiles")) = self.var("CUDA_VISIBLE_DEVICES")
            && self.uses_cuda()
        {
            report.add(
                Finding::new(
                    &CAPABILITIES,
                    Severity::Warn,
                    "CUDA_VISIBLE_DEVICES",
                    format!("the image sets `{devices}`, which names no GPU: CUDA sees none (error 100)"),
                )
                .fix("leave the variable out"),
            );
        }
        if let Some(devices @ ("none" | "void")) = self.var("NVIDIA_VISIBLE_DEVICES") {
            report.add(
                Finding::new(
                    &CAPABILITIES,
                    Severity::Warn,
                    "NVIDIA_VISIBLE_DEVICES",
                    format!(
                        "the image sets `{devices}`: its containers get no GPU unless an option requests one"
                    ),
                )
                .fix("start it with `--gpus all`, or set NVIDIA_VISIBLE_DEVICES=all"),
            );
        }
    }

    fn requirements(&self, report: &mut Report, target: &Target) {
        let Some(config) = &self.image.config else {
            return;
        };
        if matches!(config.var("NVIDIA_DISABLE_REQUIRE"), Some("1" | "true")) {
            return;
        }
        let facts = Facts {
            cuda: target.native().map(|n| n.cuda),
            // The conditions are about Linux drivers. Of a Windows driver only the CUDA version can
            // be compared.
            driver: target.driver.filter(|_| target.platform == Platform::Linux),
            arch: None,
            brand: None,
        };
        let mut notes = Vec::new();
        let names = config
            .env
            .iter()
            .filter(|(name, _)| name.starts_with("NVIDIA_REQUIRE_"));
        for (name, value) in names.take(64) {
            let met = Requirement::parse(name, value, &mut notes).and_then(|r| r.evaluate(&facts));
            if target.driver.is_none() {
                continue;
            }
            report.add(match met {
                Ok(unknown) if unknown.is_empty() => {
                    Finding::new(&REQUIRE, Severity::Ok, name, "the conditions are met")
                }
                Ok(unknown) => {
                    Finding::new(&REQUIRE, Severity::Ok, name, "no condition is known to be unmet")
                        .evidence(unknown.join("; "))
                }
                Err(e) => Finding::new(&REQUIRE, Severity::Fail, name, e.why()).fix(e.fix_text()),
            });
        }
    }

    fn python(&self, report: &mut Report) {
        let active = self
            .environments
            .iter()
            .any(|e| e.on_path == Some(true) && !e.frameworks.is_empty());
        let aside = self
            .environments
            .iter()
            .filter(|e| e.on_path == Some(false) && !e.frameworks.is_empty());
        for environment in aside.filter(|_| !active) {
            let prefix = environment.prefix.display().to_string();
            let command = self
                .image
                .config
                .as_ref()
                .map(|c| c.command.join(" "))
                .unwrap_or_default();
            // The started program may set its own path.
            let named =
                command.contains(&prefix) || command.contains("conda") || command.contains("activate");
            if named {
                continue;
            }
            let names: Vec<&str> = environment.frameworks.iter().map(|f| f.name).collect();
            let kind = match environment.kind {
                Kind::Conda => "conda environment",
                Kind::Venv => "virtual environment",
                Kind::Native | Kind::Path | Kind::System | Kind::User => "Python",
            };
            report.add(
                Finding::new(
                    &ENVIRONMENT,
                    Severity::Warn,
                    &prefix,
                    format!(
                        "{} is in a {kind} that is not on PATH: `python` of the image does not find it",
                        names.join(", ")
                    ),
                )
                .fix(format!("add `ENV PATH={prefix}/bin:$PATH` to the Dockerfile"))
                .evidence(format!("PATH={}", self.var("PATH").unwrap_or("(not set)"))),
            );
        }
        for pair in environments::shadowed(&self.environments) {
            report.add(
                Finding::new(
                    &SHADOWED,
                    Severity::Warn,
                    pair.first.0.display().to_string(),
                    format!(
                        "{} {} hides {} in {}",
                        pair.package,
                        pair.first.1,
                        pair.second.1,
                        pair.second.0.display()
                    ),
                )
                .fix(format!("`pip uninstall {}` until one is left", pair.package)),
            );
        }
    }

    /// Checks the libraries that frameworks load, and whether packages fit one another.
    fn libraries(&self, report: &mut Report, target: &Target) {
        // JetPack 4, the platform of these images, mounts the host's CUDA into containers.
        let by_host = target
            .gpus
            .iter()
            .filter_map(|gpu| gpu.sm)
            .any(|sm| sm.is_tegra() && sm.number() <= 72);
        let loader = Loader::new(self.files, self.image.config.as_ref(), &self.found);
        for (environment, framework) in self.frameworks() {
            if self.files.budget.check().is_err() {
                return;
            }
            if let Some(mut finding) = missing::of_framework(framework, environment, &loader) {
                if by_host {
                    finding.severity = Severity::Info;
                }
                report.add(finding);
            }
        }
        for environment in &self.environments {
            pairs::check(environment, self.files, |finding| report.add(finding));
            if let Some(finding) = pairs::onnxruntimes(environment, self.files) {
                report.add(finding);
            }
            if let Some(finding) = missing::older_first(environment, &loader) {
                report.add(finding);
            }
        }
    }

    /// Checks the processor architecture of the image.
    fn platform(&self, report: &mut Report, target: &Target) {
        let Some(config) = &self.image.config else {
            return;
        };
        let soc = target.gpus.iter().find(|gpu| gpu.class == Some(Class::Soc));
        if let Some(gpu) = soc
            && config.architecture == "amd64"
        {
            report.add(
                Finding::new(
                    &PLATFORM,
                    Severity::Fail,
                    "image",
                    format!("the image is for amd64, and {gpu} is in an arm64 system: \"exec format error\""),
                )
                .fix("pull or build it for arm64: `docker buildx build --platform linux/arm64`")
                .evidence("architecture: amd64"),
            );
        }
    }

    fn libc(&self, report: &mut Report) {
        if matches!(self.flavor, Flavor::Musl(_)) && self.uses_cuda() {
            report.add(
                Finding::new(
                    &LIBC,
                    Severity::Fail,
                    "C library",
                    "the image is of musl libc (Alpine): CUDA's libraries need glibc and do not load",
                )
                .fix("build on a glibc distribution, such as debian:bookworm-slim or nvidia/cuda"),
            );
        }
        let Some(has) = environments::glibc(self.files) else {
            return;
        };
        for (_, framework) in self.frameworks() {
            if let Some(needs) = framework.glibc.filter(|needs| *needs > has) {
                report.add(
                    Finding::new(
                        &LIBC,
                        Severity::Fail,
                        framework.path.display().to_string(),
                        format!(
                            "{} {} needs glibc {}.{}, the image has {}.{}: \"version `GLIBC_{}.{}' not found\"",
                            framework.name, framework.version, needs.0, needs.1, has.0, has.1, needs.0, needs.1
                        ),
                    )
                    .fix("build on a newer distribution, or use an older release of the framework"),
                );
            }
        }
    }

    /// Names what a directory does not have, and the verdicts that need it.
    fn configuration(&self, report: &mut Report) {
        if self.image.config.is_some() {
            return;
        }
        let verdicts = UNKNOWN.iter().map(|(variable, checks, verdict)| {
            let checks: Vec<String> = checks.iter().map(ToString::to_string).collect();
            format!("without {variable}: {verdict} ({})", checks.join(", "))
        });
        let cause = "its configuration is unknown, since a directory has none: the verdicts that need its \
                     variables, command or architecture are not given";
        let finding = Finding::new(&NO_CONFIG, Severity::Info, "image", cause).fix(
            "name the image to the engine, `docker:REF` or `podman:REF`, or an archive of `docker save`",
        );
        report.add(verdicts.fold(finding, Finding::evidence));
    }

    fn limits(&self, report: &mut Report) {
        let walked = Some(&self.found.incomplete).filter(|why| !why.is_empty());
        for why in self.image.notes.iter().chain(walked) {
            report.add(Finding::new(&INCOMPLETE, Severity::Info, "image", why));
        }
    }
}

fn build_name(build: &Build) -> String {
    match build {
        Build::Cpu => "CPU-only".to_owned(),
        Build::Cuda(Some(cuda)) => format!("CUDA {cuda}"),
        Build::Cuda(None) => "CUDA, release unknown".to_owned(),
        Build::Rocm => "ROCm".to_owned(),
        Build::Unknown => "build unknown".to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests;
