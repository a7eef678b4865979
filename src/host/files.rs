//! Finds the driver's other files: binaries, firmware, configuration, sockets, X modules.
//!
//! Each has a name and fixed directories, such as `nvidia-smi` in `/usr/bin`; `PATH` and other
//! variables are not read.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::libs::{Facts, Located, facts, private};
use super::{Bits, ConfigKind, DriverFile, FileKind, Host, Locations, Parts, Roots, manifest};
use crate::compat::Version;
use crate::sys::root::{Node, Root};
use crate::sys::source::{Trace, Use, Walk};

const BINARIES: &[&str] = &[
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
    "nv-fabricmanager",
    "nvidia-xconfig",
];

/// Limit for a script that is read for the path of its program, in bytes.
const MAX_WRAPPER: u64 = 4096;
/// Paths of one script that are tried.
const MAX_WRAPPED: usize = 4;

/// Searched after the `bin` beside the driver's own libraries.
const BIN_DIRS: &[&str] = &[
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/bin",
    "/sbin",
    "/run/current-system/sw/bin",
    "/opt/bin",
];

/// Parents of each reader's directory (see [`ConfigKind::dir`]), searched after the one beside the
/// driver's own libraries.
const CONFIG_BASES: &[&str] = &[
    "/etc",
    "/usr/local/share",
    "/usr/share",
    "/run/opengl-driver/share",
];

#[cfg(target_arch = "x86_64")]
const VULKAN_ICD_ARCH: &str = "nvidia_icd.x86_64.json";
#[cfg(target_arch = "aarch64")]
const VULKAN_ICD_ARCH: &str = "nvidia_icd.aarch64.json";

/// The configuration files by kind; `{version}` stands for the driver's version.
const CONFIGS: &[(ConfigKind, &[&str])] = &[
    (ConfigKind::EglVendor, &["10_nvidia.json"]),
    (
        ConfigKind::EglExternalPlatform,
        &[
            "09_nvidia_wayland2.json",
            "10_nvidia_wayland.json",
            "15_nvidia_gbm.json",
            "20_nvidia_xcb.json",
            "20_nvidia_xlib.json",
        ],
    ),
    (
        ConfigKind::VulkanIcd,
        &[
            "nvidia_icd.json",
            VULKAN_ICD_ARCH,
            "nvidia_icd.i686.json",
            "nvidia_layers.json",
        ],
    ),
    (ConfigKind::VulkanImplicitLayer, &["nvidia_layers.json"]),
    (ConfigKind::OpenClIcd, &["nvidia.icd"]),
    (ConfigKind::OptixData, &["nvoptix.bin"]),
    (
        ConfigKind::ApplicationProfiles,
        &[
            "nvidia-application-profiles-{version}-rc",
            "nvidia-application-profiles-{version}-key-documentation",
        ],
    ),
    (
        ConfigKind::XorgConf,
        &["10-nvidia.conf", "nvidia-drm-outputclass.conf"],
    ),
    (ConfigKind::Cufile, &["cufile.json"]),
];

/// The kinds that compute programs need.
const COMPUTING: &[ConfigKind] = &[ConfigKind::OpenClIcd, ConfigKind::Cufile];

/// Services whose sockets containers use: name and path below `/run`.
const SOCKETS: &[(&str, &str)] = &[
    ("nvidia-persistenced", "nvidia-persistenced/socket"),
    ("nvidia-fabricmanager", "nvidia-fabricmanager/socket"),
];

/// The service whose pipes are in [`Locations::mps_dir`].
pub const MPS: &str = "nvidia-mps";

/// udev's database, in which GPUDirect Storage finds the devices of file systems.
pub const UDEV_DATA: &str = "/run/udev/data";

/// Directories below a library directory or `/usr/lib{,64}` with modules of the X server.
const XORG_DIRS: &[&str] = &[
    "nvidia/xorg",
    "xorg/modules/drivers",
    "xorg/modules/extensions",
    "xorg/modules/updates/drivers",
    "xorg/modules/updates/extensions",
];

/// The kernel's facts that decide where firmware is.
#[derive(Debug, Default)]
pub(super) struct Firmware {
    /// The administrator's directory.
    custom: Option<PathBuf>,
    /// The kernel's release, if it is a file name.
    release: Option<String>,
}

impl Firmware {
    /// Reads them, if `parts` has firmware.
    pub(super) fn of(roots: &Roots, parts: Parts) -> Self {
        if parts == Parts::Version {
            return Self::default();
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        let path = |sys: &Root| {
            sys.read_kernel("module/firmware_class/parameters/path", 4096)
                .ok()
        };
        let custom = roots.sys.as_ref().and_then(path).map(text);
        let release = roots.proc.read_kernel("sys/kernel/osrelease", 256).ok().map(text);
        Self {
            custom: custom.filter(|path| path.starts_with('/')).map(PathBuf::from),
            release: release.filter(|release| !release.is_empty() && !release.contains('/')),
        }
    }
}

/// Fills in the files of `parts` that the loader does not find as libraries. `wanted` selects
/// programs by name.
pub(super) fn find(
    roots: &Roots,
    firmware: &Firmware,
    host: &mut Host,
    parts: Parts,
    wanted: &dyn Fn(&str) -> bool,
) {
    let Some(mut finder) = Finder::new(roots, host) else {
        return;
    };
    finder.binaries(wanted);
    finder.firmware(firmware);
    finder.configs(parts);
    if parts == Parts::All {
        finder.xorg();
    }
}

/// Fills in the sockets and directories of daemons, which come and go.
pub(super) fn find_live(roots: &Roots, loc: &Locations, host: &mut Host) {
    let Some(mut finder) = Finder::new(roots, host) else {
        return;
    };
    finder.sockets();
    finder.directories(loc);
}

/// The resolved directories of the libraries that were found, 64-bit before 32-bit.
fn lib_dirs(host: &Host) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for wanted in [Bits::B64, Bits::B32] {
        for file in &host.files {
            if let FileKind::Library {
                bits, subdir: None, ..
            } = &file.kind
                && *bits == wanted
                && let Some(dir) = file.path.parent()
                && !dirs.iter().any(|d| d == dir)
            {
                dirs.push(dir.to_owned());
            }
        }
    }
    dirs
}

struct Finder<'a> {
    root: &'a Root,
    walk: Walk<'a>,
    base: PathBuf,
    version: Version,
    lib_dirs: Vec<PathBuf>,
    host: &'a mut Host,
}

impl<'a> Finder<'a> {
    /// `None` without a library or a kernel module: then there is no driver to which the files
    /// could belong.
    fn new(roots: &'a Roots, host: &'a mut Host) -> Option<Self> {
        let version = host
            .user_version
            .or_else(|| host.kernel.as_ref().map(|k| k.version))?;
        Some(Self {
            root: &roots.driver,
            walk: roots.walk(),
            base: roots.driver.path().ok()?,
            version,
            lib_dirs: lib_dirs(host),
            host,
        })
    }
}

impl Finder<'_> {
    /// The directory `name` beside each library directory that only the driver uses.
    fn beside(&self, name: &str) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for dir in self.lib_dirs.iter().filter(|d| private(d)) {
            if let Some(parent) = dir.parent() {
                let dir = parent.join(name);
                if !dirs.contains(&dir) {
                    dirs.push(dir);
                }
            }
        }
        dirs
    }

    /// The directories of `paths` that exist, each once, with a descriptor unless root alone can
    /// change them.
    fn open_dirs(&self, paths: impl IntoIterator<Item = PathBuf>) -> Vec<(PathBuf, Option<Node>)> {
        let mut dirs = Vec::new();
        let mut ids = HashSet::new();
        for path in paths {
            let (id, node) = match self.walk.trace(&path) {
                Trace::Dir(id) => (id, None),
                Trace::Entry(_) | Trace::Missing => continue,
                Trace::Unproved => match self.root.resolve(&path) {
                    Ok(node) if node.is_dir() => (node.id(), Some(node)),
                    _ => continue,
                },
            };
            if ids.insert(id) {
                dirs.push((path, node));
            }
        }
        dirs
    }

    /// The file that `name` in a directory leads to.
    fn lookup(&self, dir: &Path, held: Option<&Node>, name: &str) -> Option<(PathBuf, Located)> {
        let path = dir.join(name);
        let located = match (self.walk.trace(&path), held) {
            (Trace::Entry(traced), None) => Located::Proved(traced),
            (Trace::Missing, _) => return None,
            (_, Some(node)) => {
                let child = node.child(name).ok()?;
                Located::Open(if child.is_symlink() {
                    self.root.resolve(&path).ok()?
                } else {
                    child
                })
            }
            (_, None) => Located::Open(self.root.resolve(&path).ok()?),
        };
        Some((located.path(&self.base)?, located))
    }

    fn push(&mut self, kind: FileKind, name: &str, path: PathBuf, found: PathBuf) {
        self.host.files.push(DriverFile {
            kind,
            name: name.to_owned(),
            path,
            found,
            text: None,
        });
    }

    /// Finds the programs. A script of such a name is a wrapper whose interpreter and target are
    /// not in a container, so the program that it executes is taken if no directory has another.
    fn binaries(&mut self, wanted: &dyn Fn(&str) -> bool) {
        let beside = self.beside("bin");
        let dirs = self.open_dirs(beside.into_iter().chain(BIN_DIRS.iter().map(PathBuf::from)));
        for name in BINARIES.iter().filter(|name| wanted(name)) {
            let mut wrapper = None;
            let mut program = None;
            for (dir, node) in &dirs {
                let Some((path, file)) = self.lookup(dir, node.as_ref(), name) else {
                    continue;
                };
                if self.is_program(&file) {
                    program = Some((path, dir.join(name)));
                    break;
                }
                wrapper.get_or_insert((path, file));
            }
            if program.is_none()
                && let Some((path, script)) = wrapper
            {
                program = self.wrapped(&script, name);
                if program.is_none() {
                    self.host
                        .warn(format!("{}: not an ELF program, left out", path.display()));
                }
            }
            if let Some((path, found)) = program {
                self.push(FileKind::Binary, name, path, found);
            }
        }
    }

    fn is_program(&self, file: &Located) -> bool {
        file.is_file() && file.open(&self.walk).is_ok_and(is_elf)
    }

    /// The program `name` that a short script calls by an absolute path: its resolved path, and
    /// that path. A script that users other than root could have written is not read.
    fn wrapped(&self, script: &Located, name: &str) -> Option<(PathBuf, PathBuf)> {
        let Located::Proved(_) = script else {
            return None;
        };
        let text = script.read(&self.walk, MAX_WRAPPER).ok()?;
        let text = String::from_utf8_lossy(&text);
        let words = text
            .split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';' | '=' | ':' | '(' | ')' | '`'))
            .map(Path::new);
        let named = words.filter(|path| path.is_absolute() && path.ends_with(name));
        named.take(MAX_WRAPPED).find_map(|path| {
            let (real, file) = self.lookup(path.parent()?, None, name)?;
            self.is_program(&file).then(|| (real, path.to_owned()))
        })
    }

    /// Searches the kernel's own path for firmware, and the driver's directory.
    fn firmware(&mut self, Firmware { custom, release }: &Firmware) {
        let version = self.version;
        let mut bases = Vec::new();
        bases.extend(custom.clone());
        bases.extend(self.beside("firmware"));
        for above in ["/lib/firmware/updates", "/lib/firmware"] {
            bases.extend(release.as_ref().map(|release| Path::new(above).join(release)));
            bases.push(above.into());
        }

        for base in bases {
            let dir = base.join("nvidia").join(version.to_string());
            if matches!(self.walk.trace(&dir), Trace::Missing) {
                continue;
            }
            self.walk.keep_listed(&dir);
            let Ok(entries) = self.root.read_dir(&dir, 256) else {
                continue;
            };
            let mut names: Vec<String> = entries
                .iter()
                .filter_map(|e| e.name.to_str())
                .filter(|n| n.strip_suffix(".bin").is_some_and(|n| n.starts_with("gsp")))
                .map(str::to_owned)
                .collect();
            names.sort_unstable();
            let before = self.host.files.len();
            for name in names {
                if let Some((path, file)) = self.lookup(&dir, None, &name)
                    && file.is_file()
                {
                    self.push(FileKind::Firmware, &name, path, dir.join(&name));
                }
            }
            if self.host.files.len() > before {
                return;
            }
        }
    }

    /// Takes each file's first match; a driver that keeps its files together comes first.
    fn configs(&mut self, parts: Parts) {
        let version = self.version.to_string();
        let own = self.beside("share").into_iter().chain(self.beside(""));
        let bases = self.open_dirs(own.chain(CONFIG_BASES.iter().map(PathBuf::from)));
        let wanted = |kind| parts == Parts::All || COMPUTING.contains(kind);
        for (kind, names) in CONFIGS.iter().filter(|(kind, _)| wanted(kind)) {
            let mut missing: Vec<String> = names.iter().map(|n| n.replace("{version}", &version)).collect();
            for (base, _) in &bases {
                let dir = base.join(kind.dir());
                let Some((_, node)) = self.open_dirs([dir.clone()]).pop() else {
                    continue;
                };
                missing.retain(|name| match self.lookup(&dir, node.as_ref(), name) {
                    Some((path, file)) if file.is_file() => {
                        let text = manifest::rewritten(*kind, |max| file.read(&self.walk, max));
                        // Its content goes into containers, so nobody but root may have written it.
                        if text.is_some()
                            && let Err(e) = self.walk.find(&dir.join(name.as_str()), Use::File)
                        {
                            self.host.warn(e.to_string());
                            return false;
                        }
                        self.push(FileKind::Config(*kind), name, path, dir.join(name));
                        if let Some(added) = self.host.files.last_mut() {
                            added.text = text;
                        }
                        false
                    }
                    _ => true,
                });
            }
        }
    }

    fn xorg(&mut self) {
        let version = self.version;
        let names = [
            "nvidia_drv.so".to_owned(),
            format!("libglxserver_nvidia.so.{version}"),
        ];
        let bases = self
            .lib_dirs
            .iter()
            .cloned()
            .chain(["/usr/lib".into(), "/usr/lib64".into()]);
        let dirs: Vec<PathBuf> = bases
            .flat_map(|b| XORG_DIRS.iter().map(move |d| b.join(d)))
            .collect();
        let dirs = self.open_dirs(dirs);
        for name in names {
            let hit = dirs.iter().find_map(|(dir, node)| {
                self.lookup(dir, node.as_ref(), &name)
                    .filter(|(_, f)| f.is_file())
                    .map(|(path, file)| (dir, path, file))
            });
            if let Some((dir, path, file)) = hit
                && let Ok(file) = file.open(&self.walk)
                && let Some(Facts { bits, soname }) = facts(&file)
            {
                let kind = FileKind::Library {
                    soname,
                    bits,
                    subdir: Some("xorg".to_owned()),
                };
                self.push(kind, &name, path, dir.join(&name));
            }
        }
    }

    /// Takes any entry with the name of a socket; [`Walk::bind`] checks it later.
    fn sockets(&mut self) {
        for (name, rest) in SOCKETS {
            let there = ["/run", "/var/run"]
                .iter()
                .map(|run| Path::new(run).join(rest))
                .find(|path| self.root.has_entry(path));
            if let Some(path) = there {
                self.push(FileKind::Socket, name, path.clone(), path);
            }
        }
    }

    /// Takes only udev's database: the directory above it has the socket by which udevd receives
    /// commands.
    fn directories(&mut self, loc: &Locations) {
        let pipes = FileKind::Pipes(loc.mps_user);
        for (kind, name, path) in [
            (pipes, MPS, loc.mps_dir.as_path()),
            (FileKind::Directory, "udev", Path::new(UDEV_DATA)),
        ] {
            if self.root.has_entry(path) {
                self.push(kind, name, path.to_owned(), path.to_owned());
            }
        }
    }
}

fn is_elf(mut file: File) -> bool {
    let mut magic = [0; 4];
    file.read_exact(&mut magic).is_ok_and(|()| magic == *b"\x7fELF")
}
