//! The specification that names every file, for consumers that cannot run nvoci's hook: gVisor,
//! toolbx, Kata's guest. Its hooks have the names and arguments of the vendor's. It fits one driver
//! version.
//!
//! Its contents and their order are those of `nvidia-ctk cdi generate` 1.20.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::csv;
use super::generate::{
    CHMOD, Explicit, Numbers, Options, VOID, control_nodes, depth_first, edits_of, entry, finish,
    gpu_devices, wsl_device,
};
use super::types::{CdiSpec, Device, Edits, Hook, Mount};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::host::tegra::{self, EntryKind};
use crate::host::{Bits, ConfigKind, DriverFile, FileKind, Host, NodeKind, Platform, Roots};
use crate::plan::{catalogue, is_required};
use crate::sys::root::Root;
use crate::sys::source::{Source, Use, Walk};
use crate::vocabulary::or_empty;

/// The purpose of a specification.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// GPUs, one device each.
    Gpus,
    /// The devices of a Jetson's CSV files.
    Csv,
    /// Every node of the driver as one device: for containers that manage the driver.
    Management,
    /// GPUDirect Storage.
    Gds,
    /// InfiniBand verbs.
    Mofed,
    /// GDRCopy.
    Gdrcopy,
    /// NVSwitch.
    Nvswitch,
    /// IMEX channels, one device each.
    Imex,
}

/// Programs that the vendor's tool leaves out.
const NOT_EXPLICIT: [&str; 1] = ["nv-fabricmanager"];

/// The specification of `mode` with every file.
///
/// Omits a file that it may not name, and returns the reason.
///
/// # Errors
/// [`Code::NoDriver`] and its like for a mode that needs a driver; [`Code::DeviceNode`] if there
/// would be no device; [`Code::UnsafeOwner`] and [`Code::UnsafePath`] for a library that every
/// container needs.
pub fn explicit(host: &Host, roots: &Roots, options: &Options, mode: Mode) -> Result<(CdiSpec, Vec<String>)> {
    let mut spec = CdiSpec {
        kind: options.kind.clone(),
        ..CdiSpec::default()
    };
    let maker = Maker {
        host,
        roots,
        walk: roots.walk(),
        warnings: RefCell::default(),
        hook_path: &options.hook_path,
        choice: &options.explicit,
    };
    match mode {
        Mode::Gpus if host.platform == Platform::Wsl2 => {
            wsl_device(&mut spec, host, roots, Numbers::Now);
            maker.wsl_files(&mut spec.edits)?;
        }
        Mode::Gpus => {
            host.check_versions()?;
            gpu_devices(&mut spec, host, roots, options, Numbers::Now);
            for device in &mut spec.devices {
                maker.passable(&mut device.edits);
            }
            spec.edits.device_nodes = control_nodes(host, roots, Numbers::Now);
            maker.driver_files(&mut spec.edits, mode)?;
        }
        Mode::Csv => {
            let outcome = csv::devices(&mut spec, host, roots, options)?;
            maker.warnings.borrow_mut().extend(outcome.warning);
            maker.csv_files(&mut spec.edits, outcome.mixed)?;
        }
        Mode::Management => {
            host.check_versions()?;
            all_of(&mut spec, host, roots, options, NodeKind::is_drivers_own);
            maker.driver_files(&mut spec.edits, mode)?;
        }
        Mode::Gds => {
            all_of(&mut spec, host, roots, options, |k| {
                matches!(k, NodeKind::NvidiaFs(_))
            });
            if let Some(device) = spec.devices.first_mut() {
                maker.storage_files(&mut device.edits)?;
            }
        }
        Mode::Mofed => all_of(&mut spec, host, roots, options, |k| {
            matches!(k, NodeKind::Uverbs(_) | NodeKind::RdmaCm)
        }),
        Mode::Gdrcopy => all_of(&mut spec, host, roots, options, |k| matches!(k, NodeKind::Gdrdrv)),
        Mode::Nvswitch => all_of(&mut spec, host, roots, options, |k| {
            matches!(k, NodeKind::NvSwitchCtl | NodeKind::NvSwitch(_))
        }),
        Mode::Imex => imex(&mut spec, host, roots, options),
    }
    if spec.devices.is_empty() {
        return Err(Error::new(
            Code::DeviceNode,
            format!("CDI specification {}", spec.kind),
            "this host has no device node that could be in it",
        ));
    }
    if mode == Mode::Gpus {
        maker.extra(&mut spec.edits, options)?;
    }
    spec.edits.env.push(VOID.to_owned());
    Ok((finish(spec), maker.warnings.into_inner()))
}

/// One device `all` with the wanted nodes.
fn all_of(spec: &mut CdiSpec, host: &Host, roots: &Roots, options: &Options, wanted: fn(NodeKind) -> bool) {
    let nodes: Vec<_> = host
        .nodes
        .iter()
        .filter(|n| n.present && wanted(n.kind))
        .collect();
    if !nodes.is_empty() {
        spec.devices.push(Device {
            name: "all".to_owned(),
            edits: edits_of(nodes, roots, options, Numbers::Now),
            ..Device::default()
        });
    }
}

fn imex(spec: &mut CdiSpec, host: &Host, roots: &Roots, options: &Options) {
    let mut all = Edits::default();
    for node in host.nodes.iter().filter(|n| n.present) {
        if let NodeKind::ImexChannel(channel) = node.kind {
            let named = |id: &String| id.trim_start_matches("channel") == channel.to_string();
            if !options.ids.is_empty() && !options.ids.iter().any(named) {
                continue;
            }
            let mut edits = Edits::default();
            edits.device_nodes.push(entry(node, roots, Numbers::AtStart));
            all.merge(&edits);
            spec.devices.push(Device {
                name: channel.to_string(),
                edits,
                ..Device::default()
            });
        }
    }
    spec.devices.sort_by(|a, b| a.name.cmp(&b.name));
    if options.all && !all.is_empty() {
        spec.devices.push(Device {
            name: "all".to_owned(),
            edits: all,
            ..Device::default()
        });
    }
}

/// Options of a mount, and of a socket's, as the vendor's tool writes them.
const READ_ONLY: [&str; 5] = ["ro", "nosuid", "nodev", "rbind", "rprivate"];
const SOCKET: [&str; 5] = ["nosuid", "nodev", "rbind", "rprivate", "noexec"];

struct Maker<'a> {
    host: &'a Host,
    roots: &'a Roots,
    walk: Walk<'a>,
    warnings: RefCell<Vec<String>>,
    hook_path: &'a str,
    choice: &'a Explicit,
}

impl Maker<'_> {
    fn driver_files(&self, edits: &mut Edits, mode: Mode) -> Result<()> {
        let graphics = mode == Mode::Gpus;
        for file in &self.host.files {
            let left_out = file.kind == FileKind::Socket && self.choice.no_sockets;
            if let (Some((at, options)), false) = (place(file, graphics), left_out) {
                self.file(edits, file, &at, options)?;
            }
        }
        sort(&mut edits.mounts);
        if let Some(dir) = self.libcuda_dir() {
            edits
                .env
                .push(format!("NVIDIA_CTK_LIBCUDA_DIR={}", dir.display()));
        }
        if graphics {
            self.links(edits, &self.graphics_links());
        }
        self.links(edits, &self.library_links());
        let version = format!("--host-driver-version={}", or_empty(self.host.user_version));
        self.hook(edits, &["enable-cuda-compat", &version]);
        self.ldcache(edits);
        // A container that manages the driver makes its nodes, so it has no such hook.
        if graphics {
            self.hook(edits, &["disable-device-node-modification"]);
            self.hook(edits, &["update-application-profile"]);
        }
        Ok(())
    }

    /// Each file of the CSV files at its own path, and their links.
    fn csv_files(&self, edits: &mut Edits, mixed: bool) -> Result<()> {
        let host = Root::open("/").context(Code::System, || "open /")?;
        let on_host = Walk::new(&host, Path::new("/"));
        let entries = self.host.tegra.iter().flat_map(|t| &t.entries);
        let mut libraries = Vec::new();
        let mut links = Vec::new();
        for entry in entries {
            match &entry.kind {
                EntryKind::Device => {}
                EntryKind::Library(path) => {
                    let found = self.walk.find(path, Use::File);
                    self.optional(edits, path, found, path);
                    libraries.extend(self.host.files.iter().filter(|f| f.path == *path));
                    if entry.at != *path {
                        links.extend(self.chain(&entry.at));
                    }
                }
                EntryKind::Place { found: path, .. } => {
                    let found = on_host.find(path, Use::Site);
                    self.optional(edits, &entry.at, found, &entry.at);
                }
                EntryKind::Link(_) => links.extend(self.chain(&entry.at)),
            }
        }
        let release = Path::new("/etc/nv_tegra_release");
        if host.exists(release) {
            let found = on_host.find(release, Use::Site);
            self.optional(edits, release, found, release);
        }
        sort(&mut edits.mounts);
        edits.mounts.dedup();
        let named = libraries.into_iter().map(|file| (file, file.soname())).collect();
        links.extend(self.links_beside(named));
        let mut seen = BTreeSet::new();
        links.retain(|link| seen.insert(link.clone()));
        self.links(edits, &links);
        self.csv_compat(edits, mixed);
        self.ldcache(edits);
        Ok(())
    }

    /// The options of `enable-cuda-compat`. An Orin's images have the libraries elsewhere, and of
    /// its driver the CUDA version counts.
    fn csv_compat(&self, edits: &mut Edits, mixed: bool) {
        let driver = self
            .host
            .driver_version()
            .map(|v| format!("--host-driver-version={v}"));
        let cuda = self
            .host
            .cuda()
            .map(|known| format!("--host-cuda-version={}", known.cuda));
        let version = if mixed { driver.or(cuda) } else { cuda.or(driver) };
        let orin = tegra::is_orin(self.roots).then_some(csv::ORIN_COMPAT);
        let dir = self.choice.csv_compat.as_deref().or(orin);
        let dir = dir.map(|dir| format!("--cuda-compat-container-root={dir}"));
        if let Some(version) = version {
            let words: Vec<&str> = ["enable-cuda-compat", &version]
                .into_iter()
                .chain(dir.as_deref())
                .collect();
            self.hook(edits, &words);
        }
    }

    /// The links from `path` to a file, one a step.
    fn chain(&self, path: &Path) -> Vec<String> {
        const MAX_STEPS: usize = 16;
        let mut links = Vec::new();
        let mut at = path.to_owned();
        for _ in 0..MAX_STEPS {
            let Ok(target) = self.roots.driver.read_link(&at) else {
                break;
            };
            links.push(format!("{}::{}", target.display(), at.display()));
            let dir = at.parent().unwrap_or_else(|| Path::new("/"));
            at = tegra::lexical(&dir.join(target));
        }
        links
    }

    /// Adds a mount, or a warning if the specification may not name it.
    fn optional(&self, edits: &mut Edits, name: &Path, found: Result<Source>, at: &Path) {
        match found.and_then(|source| mount(&source, at, &READ_ONLY)) {
            Ok(mount) => edits.mounts.push(mount),
            Err(e) => {
                let text = format!("{} was left out: {e}", name.display());
                self.warnings.borrow_mut().push(text);
            }
        }
    }

    /// The driver store keeps its place. Programs search for `nvidia-smi` elsewhere.
    fn wsl_files(&self, edits: &mut Edits) -> Result<()> {
        for file in &self.host.files {
            self.file(edits, file, &file.path, &READ_ONLY)?;
        }
        // The stub libcuda opens the package at the host's own path.
        for store in self.host.wsl.iter().flat_map(|w| &w.stores) {
            let source = self.walk.find(store, Use::Package)?;
            edits.mounts.push(mount(&source, store, &READ_ONLY)?);
        }
        sort(&mut edits.mounts);
        let smi = self.host.files.iter().find(|f| f.name == "nvidia-smi");
        if let Some(smi) = smi {
            let link = format!("{}::/usr/bin/nvidia-smi", smi.path.display());
            self.links(edits, &[link]);
        }
        self.ldcache(edits);
        Ok(())
    }

    /// The site's additions for all capabilities, since this specification has every file.
    fn extra(&self, edits: &mut Edits, options: &Options) -> Result<()> {
        let host = Root::open("/").context(Code::System, || "open /")?;
        let walk = Walk::new(&host, Path::new("/"));
        for extra in &options.extra {
            for file in &extra.files {
                let source = walk.find(&file.source, Use::Site)?;
                edits.mounts.push(mount(&source, &file.target, &READ_ONLY)?);
            }
            let named = |n: &&crate::host::DeviceNode| n.present && extra.devices.contains(&n.path);
            let nodes = self.host.nodes.iter().filter(named).collect();
            edits.merge(&edits_of(nodes, self.roots, options, Numbers::Now));
            edits
                .env
                .extend(extra.env.iter().map(|(k, v)| format!("{k}={v}")));
        }
        Ok(())
    }

    fn storage_files(&self, edits: &mut Edits) -> Result<()> {
        for file in &self.host.files {
            let wanted = match &file.kind {
                FileKind::Config(ConfigKind::Cufile) => Path::new("/etc/cufile.json"),
                FileKind::Directory => file.path.as_path(),
                _ => continue,
            };
            self.file(edits, file, wanted, &READ_ONLY)?;
        }
        sort(&mut edits.mounts);
        Ok(())
    }

    /// Adds a mount of a driver file, or a warning if the specification may not name it.
    fn file(&self, edits: &mut Edits, file: &DriverFile, at: &Path, options: &[&str]) -> Result<()> {
        let found = self.walk.find(&file.found, file.wanted());
        match found.and_then(|source| mount(&source, at, options)) {
            Ok(mount) => edits.mounts.push(mount),
            Err(e) if is_required(&file.name) => return Err(e),
            Err(e) => self
                .warnings
                .borrow_mut()
                .push(format!("{} was left out: {e}", file.name)),
        }
        Ok(())
    }

    fn hook(&self, edits: &mut Edits, words: &[&str]) {
        if words.first().is_some_and(|name| !self.choice.has_hook(name)) {
            return;
        }
        let name = Path::new(self.hook_path).file_name().and_then(OsStr::to_str);
        // The vendor's other program has the hooks as a subcommand.
        let program: &[&str] = match name {
            Some("nvidia-ctk") => &["nvidia-ctk", "hook"],
            Some("nvoci") => &["nvoci", "cdi-hook"],
            _ => &["nvidia-cdi-hook"],
        };
        edits.hooks.push(Hook {
            stage: "createContainer".to_owned(),
            path: self.hook_path.to_owned(),
            args: program.iter().chain(words).map(ToString::to_string).collect(),
            env: vec!["NVIDIA_CTK_DEBUG=false".to_owned()],
            timeout: None,
        });
    }

    /// Adds the hook that makes links, each `TARGET::LINK`. A link that the hook cannot parse would
    /// keep every container from starting, so it is omitted.
    fn links(&self, edits: &mut Edits, links: &[String]) {
        let is_plain = |link: &&String| {
            let odd = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
            link.matches("::").count() == 1 && !link.contains(":::") && !link.contains(odd)
        };
        let (plain, odd): (Vec<&String>, Vec<&String>) = links.iter().partition(is_plain);
        let left_out = odd
            .iter()
            .map(|link| format!("link {link:?} was left out: a hook cannot be given it"));
        self.warnings.borrow_mut().extend(left_out);
        if !plain.is_empty() {
            let mut words = vec!["create-symlinks"];
            words.extend(plain.iter().flat_map(|l| ["--link", l.as_str()]));
            self.hook(edits, &words);
        }
    }

    /// Makes the directories of a device's nodes passable, since a runtime may make them for root
    /// alone. The vendor's tool did so until 1.18.
    fn passable(&self, edits: &mut Edits) {
        let has = |dir: &&str| edits.device_nodes.iter().any(|n| n.path.starts_with(*dir));
        let dirs: Vec<&str> = ["/dev/dri/", "/dev/nvidia-caps/"]
            .into_iter()
            .filter(has)
            .collect();
        if !dirs.is_empty() {
            let mut words = vec![CHMOD, "--mode", "755"];
            words.extend(dirs.iter().flat_map(|d| ["--path", d.trim_end_matches('/')]));
            self.hook(edits, &words);
        }
    }

    /// The directories of the libraries, in the order of their mounts.
    fn ldcache(&self, edits: &mut Edits) {
        let mut dirs: Vec<String> = Vec::new();
        for mount in &edits.mounts {
            let path = Path::new(&mount.container_path);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let library = name.starts_with("lib") && (name.ends_with(".so") || name.contains(".so."));
            let dir = path
                .parent()
                .unwrap_or_else(|| Path::new("/"))
                .display()
                .to_string();
            // No program may find the modules of the X server by name.
            let library = library && !dir.contains("/xorg");
            if library && !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        if !dirs.is_empty() {
            let mut words = vec!["update-ldcache"];
            if let Some(ldconfig) = &self.choice.ldconfig {
                words.extend(["--ldconfig-path", ldconfig]);
            }
            words.extend(dirs.iter().flat_map(|d| ["--folder", d.as_str()]));
            self.hook(edits, &words);
        }
    }

    fn libraries(&self) -> impl Iterator<Item = (&DriverFile, Option<&str>, Option<&str>)> {
        self.host.files.iter().filter_map(|file| match &file.kind {
            FileKind::Library {
                soname,
                bits: Bits::B64,
                subdir,
            } if catalogue::library(&file.name).is_some() => {
                Some((file, soname.as_deref(), subdir.as_deref()))
            }
            _ => None,
        })
    }

    fn libcuda_dir(&self) -> Option<PathBuf> {
        let (file, ..) = self
            .libraries()
            .find(|(f, ..)| f.name.starts_with("libcuda.so."))?;
        file.path.parent().map(Path::to_path_buf)
    }

    /// The links by which programs find graphics libraries in a directory or by a name of its own.
    fn graphics_links(&self) -> Vec<String> {
        let mut links = Vec::new();
        for (stem, target, at) in [
            (
                "libnvidia-allocator.so.",
                Some("../libnvidia-allocator.so.1"),
                "gbm/nvidia-drm_gbm.so",
            ),
            (
                "libnvidia-vulkan-producer.so.",
                None,
                "libnvidia-vulkan-producer.so",
            ),
            ("libglxserver_nvidia.so.", None, "libglxserver_nvidia.so"),
        ] {
            if let Some((file, ..)) = self.libraries().find(|(f, ..)| f.name.starts_with(stem)) {
                let dir = file.path.parent().unwrap_or_else(|| Path::new("/"));
                let target = target.unwrap_or(&file.name);
                links.push(format!("{target}::{}", dir.join(at).display()));
            }
        }
        links
    }

    /// The links beside the libraries: by soname, and without a version if the host has that link.
    fn library_links(&self) -> Vec<String> {
        let files = self.libraries().filter(|(.., subdir)| *subdir != Some("xorg"));
        self.links_beside(files.map(|(file, soname, _)| (file, soname)).collect())
    }

    fn links_beside(&self, mut files: Vec<(&DriverFile, Option<&str>)>) -> Vec<String> {
        const FIXED: [(&str, Option<&str>, &str); 3] = [
            ("libcuda.so.", Some("libcuda.so.1"), "libcuda.so"),
            ("libGLX_nvidia.so.", None, "libGLX_indirect.so.0"),
            (
                "libnvidia-opticalflow.so.",
                Some("libnvidia-opticalflow.so.1"),
                "libnvidia-opticalflow.so",
            ),
        ];
        let mut links: Vec<String> = Vec::new();
        files.sort_by_key(|(f, _)| &f.path);
        for (file, soname) in files {
            let dir = file.path.parent().unwrap_or_else(|| Path::new("/"));
            let mut add = |target: &str, name: &str| {
                let link = format!("{target}::{}", dir.join(name).display());
                if !links.contains(&link) {
                    links.push(link);
                }
            };
            for (stem, target, name) in FIXED {
                if file.name.starts_with(stem) {
                    add(target.unwrap_or(&file.name), name);
                }
            }
            let soname = soname
                .filter(|s| !s.is_empty() && !s.contains('/'))
                .unwrap_or(&file.name);
            if soname != file.name {
                add(&file.name, soname);
            }
            if let Some((stem, _)) = file.name.split_once(".so.") {
                let plain = format!("{stem}.so");
                if plain != soname && self.roots.driver.read_link(dir.join(&plain)).is_ok() {
                    add(soname, &plain);
                }
            }
        }
        links
    }
}

/// A mount in a specification. A later reader follows its path again, so the path must be lasting.
fn mount(source: &Source, at: &Path, options: &[&str]) -> Result<Mount> {
    Ok(Mount {
        host_path: source.lasting()?.display().to_string(),
        container_path: at.display().to_string(),
        options: options.iter().map(ToString::to_string).collect(),
        typ: None,
    })
}

fn sort(mounts: &mut [Mount]) {
    mounts.sort_by(|a, b| depth_first(&a.container_path).cmp(&depth_first(&b.container_path)));
}

/// A file's path in the container and its mount options; `None` for a file that is omitted.
fn place(file: &DriverFile, graphics: bool) -> Option<(PathBuf, &'static [&'static str])> {
    let at = match &file.kind {
        FileKind::Library { bits, subdir, .. } => {
            catalogue::library(&file.name)?;
            let drawing_only = subdir.as_deref() == Some("xorg") || file.name.starts_with("libnvidia-egl-");
            if *bits == Bits::B32 || (drawing_only && !graphics) {
                return None;
            }
            file.path.clone()
        }
        FileKind::Binary => {
            let drawing_only = file.name == "nvidia-xconfig";
            if NOT_EXPLICIT.contains(&file.name.as_str()) || (drawing_only && !graphics) {
                return None;
            }
            file.dir_hint().join(&file.name)
        }
        FileKind::Firmware => file.path.clone(),
        FileKind::Config(kind) if graphics => match kind {
            ConfigKind::VulkanIcd | ConfigKind::VulkanImplicitLayer | ConfigKind::OpenClIcd => {
                Path::new("/etc").join(kind.dir()).join(&file.name)
            }
            ConfigKind::Cufile => return None,
            _ => Path::new("/usr/share").join(kind.dir()).join(&file.name),
        },
        FileKind::Socket => return Some((file.path.clone(), &SOCKET)),
        _ => return None,
    };
    Some((at, &READ_ONLY))
}
