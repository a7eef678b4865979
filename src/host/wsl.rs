//! WSL2: Windows has the driver, and Linux sees three parts of it.
//!
//! | part | path | origin |
//! |---|---|---|
//! | the device | `/dev/dxg` | Microsoft's kernel; lists the adapters and the driver of each |
//! | loader stubs, `libdxcore.so` | `/usr/lib/wsl/lib` | copied together when the virtual machine starts |
//! | the driver proper | `/usr/lib/wsl/drivers/<package>` | Windows' driver store: packages of every vendor, old ones too |
//!
//! A stub reads the package's name from the device and loads the driver from that path, so only the
//! device's answer counts. A `libdxcore.so` on another machine, an old package or a Linux driver in
//! the distribution proves nothing. If the device does not understand the query, nvoci takes the
//! newest packages.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::{Bits, DriverFile, FileKind, Host, Locations, Roots};
use crate::compat::Version;
use crate::error::{Code, Error, Result};
use crate::ldso::cache::{self, Cache};
use crate::sys::dxg::{self, Dxg};
use crate::sys::root::{Node, Root};

/// The directory of everything that Windows lends.
const WSL_DIR: &str = "/usr/lib/wsl";
/// The directory of the loader stubs.
pub const LIB_DIR: &str = "/usr/lib/wsl/lib";
/// Windows' driver store.
const STORE_DIR: &str = "/usr/lib/wsl/drivers";
/// The real driver, which only a package of NVIDIA's has.
const DRIVER: &str = "libcuda.so.1.1";
/// The copy of the stub in the driver's package.
const STUB_IN_STORE: &str = "libcuda_loader.so";
/// The stubs that every other library needs.
const STUBS: [&str; 2] = ["libcuda.so.1", "libdxcore.so"];

/// NVIDIA's PCI vendor number.
const NVIDIA: u32 = 0x10de;
/// The first driver model with CUDA in WSL2, as the vendor's own library has it.
const MIN_WDDM: u32 = 2700;

/// The most entries of the stubs' directory; a machine has about 30.
const MAX_STUBS: usize = 1024;
/// The most packages of the driver store; a machine has a few thousand.
const MAX_PACKAGES: usize = 65_536;
/// The most packages that are taken if the device does not name one.
const MAX_GUESSES: usize = 4;

/// The adapters and driver that Windows lends this machine.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wsl {
    /// The adapters of every vendor, in the device's order; empty if the device could not be
    /// queried.
    pub adapters: Vec<Adapter>,
    /// The driver packages of NVIDIA's adapters from the driver root, each once. Containers need
    /// them at these paths.
    pub stores: Vec<PathBuf>,
    /// Whether [`Wsl::stores`] was guessed, since the device could not be queried.
    pub guessed: bool,
    /// Whether Docker Desktop serves this distribution; its engine runs in another one.
    pub docker_desktop: bool,
    /// The reason why no container can have a GPU.
    pub fault: Option<Fault>,
}

/// A graphics or compute adapter of Windows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Adapter {
    /// PCI vendor and device number, if Windows reports them.
    pub ids: Option<(u32, u32)>,
    /// The version of its driver model: 2700 for WDDM 2.7.
    pub wddm: Option<u32>,
    /// Its driver's version as Windows' Device Manager shows it.
    pub driver: Option<[u16; 4]>,
    /// Its driver package, from the driver root.
    pub store: Option<PathBuf>,
    /// Whether it is NVIDIA's, by its vendor number, or else by the driver in its package.
    pub nvidia: bool,
}

impl Adapter {
    /// NVIDIA's own version number: 566.36 is the end of Windows' 32.0.15.6636.
    pub fn nvidia_version(&self) -> Option<Version> {
        let [_, _, third, fourth] = self.driver?;
        let digits = u32::from(third % 10) * 10_000 + u32::from(fourth);
        (self.nvidia && fourth < 10_000 && digits >= 10_000)
            .then(|| Version::of_release(digits / 100, digits % 100))
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const VENDORS: &[(u32, &str)] = &[
            (NVIDIA, "NVIDIA"),
            (0x1002, "AMD"),
            (0x1414, "Microsoft"),
            (0x8086, "Intel"),
        ];
        match self.ids {
            Some((vendor, device)) => {
                let name = VENDORS.iter().find(|(v, _)| *v == vendor).map(|(_, name)| *name);
                write!(
                    f,
                    "{} {vendor:04x}:{device:04x}",
                    name.unwrap_or("another vendor's")
                )
            }
            None if self.nvidia => f.write_str("NVIDIA"),
            None => match self.store.as_deref().and_then(Path::file_name) {
                Some(package) => write!(f, "unknown ({})", package.to_string_lossy()),
                None => f.write_str("unknown"),
            },
        }
    }
}

/// The reason why no container can have a GPU.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The first generation of WSL, which has no kernel of its own and no devices.
    Wsl1,
    /// A kernel of WSL2 without the device.
    NoDevice,
    /// The device does not open, for this reason.
    Closed(String),
    /// The device cgroup of this process denies the device, as for a hook at `createContainer`.
    Denied,
    /// The device lists no adapter.
    NoAdapter,
    /// None of the adapters is NVIDIA's.
    OtherVendors,
    /// The driver on Windows is from before CUDA in WSL2.
    TooOld(u32),
    /// Windows reports no package for an adapter's driver.
    NoStore,
    /// The package that Windows names does not exist: it was replaced while the machine ran.
    StoreGone(PathBuf),
    /// The package holds no Linux driver.
    StoreWithoutDriver(PathBuf),
    /// No package has a driver, and the device could not be queried for this reason.
    NothingFound(String),
    /// A stub that every library needs is missing.
    NoStub(&'static str),
}

impl Wsl {
    /// NVIDIA's adapters.
    pub fn nvidia(&self) -> impl Iterator<Item = &Adapter> {
        self.adapters.iter().filter(|a| a.nvidia)
    }

    /// The version of NVIDIA's driver on Windows, such as 566.36, if Windows reports it.
    pub fn version(&self) -> Option<Version> {
        self.nvidia().find_map(Adapter::nvidia_version)
    }

    /// Checks that a container can have a GPU.
    ///
    /// # Errors
    /// [`Code::Wsl`], with the command for Windows.
    pub fn check(&self) -> Result<()> {
        match &self.fault {
            None => Ok(()),
            Some(fault) => Err(self.error(fault)),
        }
    }

    fn error(&self, fault: &Fault) -> Error {
        const UPDATE: &str = "install a current NVIDIA driver on Windows (never a Linux driver in WSL), then run `wsl --shutdown` in PowerShell";
        const SHUTDOWN: &str = "run `wsl --shutdown` in PowerShell and start the distribution again";
        const DEVICE: &str = "run `wsl --update` and `wsl --shutdown` in PowerShell, and remove `gpuSupport=false` from .wslconfig on Windows";
        let (why, fix) = match fault {
            Fault::Wsl1 => (
                "this distribution runs under WSL1, which has no GPU and no containers".to_owned(),
                "run `wsl --set-version DISTRIBUTION 2` in PowerShell; `wsl -l -v` shows the names",
            ),
            Fault::NoDevice => ("this is WSL2, but there is no /dev/dxg".to_owned(), DEVICE),
            Fault::Closed(why) => (format!("/dev/dxg does not open: {why}"), DEVICE),
            Fault::Denied => (
                "the device cgroup denies /dev/dxg to this process".to_owned(),
                "let the runtime call the hook at createRuntime: at createContainer it has the container's device rules",
            ),
            Fault::NoAdapter => (
                "/dev/dxg works, but Windows lends no graphics adapter at all".to_owned(),
                "enable the GPU in Windows' Device Manager, install its current driver, then run `wsl --shutdown` in PowerShell",
            ),
            Fault::OtherVendors => (
                format!("Windows lends {}, but no adapter of NVIDIA", list(&self.adapters)),
                "if the machine has an NVIDIA GPU, enable it in Windows' device manager and install NVIDIA's driver there, then run `wsl --shutdown` in PowerShell; else start the container without a GPU",
            ),
            Fault::TooOld(wddm) => (
                format!(
                    "NVIDIA's driver on Windows is of WDDM {}.{}, and CUDA in WSL2 needs {}.{}",
                    wddm / 1000,
                    wddm % 1000 / 100,
                    MIN_WDDM / 1000,
                    MIN_WDDM % 1000 / 100
                ),
                UPDATE,
            ),
            Fault::NoStore => (
                "Windows reports no driver package for NVIDIA's adapter".to_owned(),
                UPDATE,
            ),
            Fault::StoreGone(path) => (
                format!(
                    "Windows names the driver package {}, which is not there: the driver was replaced while WSL was running",
                    path.display()
                ),
                SHUTDOWN,
            ),
            Fault::StoreWithoutDriver(path) => (
                format!("the driver package {} has no {DRIVER}", path.display()),
                UPDATE,
            ),
            Fault::NothingFound(why) => (
                format!("/dev/dxg could not be queried ({why}), and no package in {STORE_DIR} has {DRIVER}"),
                UPDATE,
            ),
            Fault::NoStub(name) => (
                format!("{LIB_DIR}/{name} is missing"),
                "run `wsl --update` and `wsl --shutdown` in PowerShell; the files of this directory come from Windows, packages of the distribution do not bring them",
            ),
        };
        Error::new(Code::Wsl, "NVIDIA driver on WSL", why).fix(fix)
    }
}

fn list(adapters: &[Adapter]) -> String {
    const MAX: usize = 8;
    let mut names: Vec<String> = adapters.iter().take(MAX).map(ToString::to_string).collect();
    if adapters.len() > MAX {
        names.push("others".to_owned());
    }
    names.join(", ")
}

/// Fills in WSL's facts; on any other machine it does nothing.
pub(super) fn find(roots: &Roots, loc: &Locations, host: &mut Host) {
    let node = roots.dev.resolve_nofollow("dxg").ok().filter(Dxg::is);
    let kernel = || generation(roots);
    let answer = match node.as_ref().map(Dxg::open) {
        Some(Ok(device)) => query(&device),
        // Files and modules deny with EACCES, and only a device cgroup with EPERM.
        Some(Err(e)) if e.raw_os_error() == Some(Errno::PERM.raw_os_error()) && kernel().is_some() => {
            Answer::Fault(Fault::Denied)
        }
        // Any machine can have a node without a driver; on WSL it is the fault.
        Some(Err(e)) if kernel().is_some() => Answer::Fault(Fault::Closed(plain(&e))),
        Some(Err(_)) => return,
        None => match kernel() {
            Some(Generation::One) => Answer::Fault(Fault::Wsl1),
            Some(Generation::Two) => Answer::Fault(Fault::NoDevice),
            None => return,
        },
    };
    settle(roots, loc, host, answer);
}

/// The device's answer.
enum Answer {
    Adapters(Vec<Adapter>),
    /// It exists but does not speak this protocol, for this reason.
    Unknown(String),
    Fault(Fault),
}

fn query(device: &Dxg) -> Answer {
    match device.adapters() {
        Ok(adapters) => Answer::Adapters(adapters.iter().map(describe).collect()),
        Err(e) => Answer::Unknown(plain(&e)),
    }
}

/// A query that Windows refuses leaves the fact unknown.
fn describe(adapter: &dxg::Adapter<'_>) -> Adapter {
    let ids = adapter.device_ids().ok();
    let foreign = ids.is_some_and(|(vendor, _)| vendor != NVIDIA);
    // The kernel logs each query that Windows refuses, so only NVIDIA's adapters get all of them.
    Adapter {
        ids,
        wddm: adapter.wddm().ok(),
        driver: if foreign {
            None
        } else {
            adapter.driver_version().ok()
        },
        store: adapter.store_path().ok().and_then(|path| store_here(&path)),
        nvidia: !foreign && ids.is_some(),
    }
}

/// The mounted path of a folder in Windows' driver store, as libdxcore computes it. `None` for a
/// path that is not in the store or would lead out of it.
fn store_here(windows: &str) -> Option<PathBuf> {
    const IN_STORE: &str = "\\filerepository\\";
    let at = windows.to_ascii_lowercase().find(IN_STORE)?;
    let rest = windows.get(at + IN_STORE.len()..)?.replace('\\', "/");
    let rest = Path::new(rest.trim_end_matches('/'));
    let plain = |c: Component<'_>| matches!(c, Component::Normal(name) if !name.is_empty());
    let inside = rest.components().next().is_some() && rest.components().all(plain);
    (inside && !rest.as_os_str().as_encoded_bytes().contains(&0)).then(|| Path::new(STORE_DIR).join(rest))
}

/// Fills in the host's files from the device's answer and the packages on disk.
fn settle(roots: &Roots, loc: &Locations, host: &mut Host, answer: Answer) {
    let mut wsl = Wsl {
        docker_desktop: roots.driver.exists("mnt/wsl/docker-desktop"),
        ..Wsl::default()
    };
    match answer {
        Answer::Fault(fault) => wsl.fault = Some(fault),
        Answer::Adapters(adapters) => {
            wsl.adapters = adapters;
            wsl.fault = take_stores(&roots.driver, &mut wsl, host).err();
        }
        Answer::Unknown(why) => {
            wsl.stores = guess_stores(&roots.driver);
            wsl.guessed = true;
            match wsl.stores.first() {
                Some(first) => host.warn(format!(
                    "/dev/dxg could not be queried for the driver ({why}); the newest package is taken: {}",
                    first.display()
                )),
                None => wsl.fault = Some(Fault::NothingFound(why)),
            }
        }
    }
    if wsl.fault.is_none() {
        wsl.fault = take_stubs(&roots.driver, &wsl, host).err();
    }
    if wsl.fault.is_none() {
        warn_of_strangers(roots, loc, host);
    }
    host.wsl = Some(wsl);
}

/// Takes the packages of NVIDIA's adapters. A broken one is no fault as long as another is whole.
fn take_stores(root: &Root, wsl: &mut Wsl, host: &mut Host) -> Result<(), Fault> {
    if wsl.adapters.is_empty() {
        return Err(Fault::NoAdapter);
    }
    let mut faults = Vec::new();
    for adapter in &mut wsl.adapters {
        let has_driver = adapter
            .store
            .as_deref()
            .is_some_and(|store| root.exists(store.join(DRIVER)));
        // It is not documented whether Windows reports vendor numbers; a driver in the package is
        // proof enough.
        adapter.nvidia |= has_driver && adapter.ids.is_none();
        if !adapter.nvidia {
            continue;
        }
        match (&adapter.store, adapter.wddm) {
            (_, Some(wddm)) if wddm < MIN_WDDM => faults.push(Fault::TooOld(wddm)),
            (None, _) => faults.push(Fault::NoStore),
            (Some(store), _) if has_driver => {
                // Adapters of one kind share a package.
                if !wsl.stores.contains(store) {
                    wsl.stores.push(store.clone());
                }
            }
            (Some(store), _) if root.exists(store) => {
                faults.push(Fault::StoreWithoutDriver(store.clone()));
            }
            (Some(store), _) => faults.push(Fault::StoreGone(store.clone())),
        }
    }
    if wsl.nvidia().next().is_none() {
        return Err(Fault::OtherVendors);
    }
    if wsl.stores.is_empty() {
        return Err(faults.into_iter().next().unwrap_or(Fault::NoStore));
    }
    for fault in faults {
        host.warn(format!("an adapter is left out: {}", wsl.error(&fault).why()));
    }
    Ok(())
}

/// The packages that hold NVIDIA's driver, newest first.
fn guess_stores(root: &Root) -> Vec<PathBuf> {
    let Ok(packages) = root.resolve(STORE_DIR) else {
        return Vec::new();
    };
    let (mut likely, mut others) = (Vec::new(), Vec::new());
    let listed = packages.visit(MAX_PACKAGES, |name, _| {
        let name = name.to_bytes();
        // The name proves nothing, but opening every package takes long.
        let list = if name.starts_with(b"nv") {
            &mut likely
        } else {
            &mut others
        };
        list.push(name.to_vec());
    });
    if listed.is_err() {
        return Vec::new();
    }
    let with_driver = |names: Vec<Vec<u8>>| {
        let mut found: Vec<(i64, PathBuf)> = names
            .iter()
            .filter_map(|name| {
                use std::os::unix::ffi::OsStrExt as _;
                let name = OsStr::from_bytes(name);
                let driver = packages.child(name).ok()?.child(DRIVER).ok()?;
                driver
                    .is_file()
                    .then(|| (driver.stat().st_mtime, Path::new(STORE_DIR).join(name)))
            })
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(MAX_GUESSES);
        found.into_iter().map(|(_, path)| path).collect::<Vec<_>>()
    };
    let found = with_driver(likely);
    if found.is_empty() {
        with_driver(others)
    } else {
        found
    }
}

/// Takes the loader stubs as libraries of the driver.
fn take_stubs(root: &Root, wsl: &Wsl, host: &mut Host) -> Result<(), Fault> {
    let Some(base) = root.path().ok() else {
        return Err(Fault::NoStub(STUBS[0]));
    };
    let Ok(dir) = root.resolve(LIB_DIR) else {
        return Err(Fault::NoStub(STUBS[0]));
    };
    let mut names: Vec<String> = dir
        .read_dir(MAX_STUBS)
        .unwrap_or_default()
        .into_iter()
        .filter(|e| e.kind != FileType::Directory)
        .filter_map(|e| e.name.into_string().ok())
        .filter(|name| is_library(name))
        .collect();
    names.sort_unstable();
    let mut take = |kind: FileKind, name: &str, dir: &Path| {
        let node = root.resolve(dir.join(name)).ok().filter(Node::is_file);
        let real = node.and_then(|node| super::libs::below(&base, &node.path().ok()?));
        if let Some(path) = real {
            host.files.push(DriverFile {
                kind,
                name: name.to_owned(),
                path,
                found: dir.join(name),
                text: None,
            });
            return true;
        }
        false
    };
    let dir = Path::new(LIB_DIR);
    let mut taken = Vec::new();
    for name in &names {
        // Programs open them by these names: some have the soname of another file beside them.
        let kind = FileKind::Library {
            soname: None,
            bits: Bits::B64,
            subdir: None,
        };
        if take(kind, name, dir) {
            taken.push(name.as_str());
        }
    }
    let dirs = core::iter::once(dir).chain(wsl.stores.iter().map(PathBuf::as_path));
    for dir in dirs {
        if take(FileKind::Binary, "nvidia-smi", dir) {
            break;
        }
    }
    if let Some(missing) = STUBS.iter().find(|s| !taken.contains(*s)) {
        host.files.clear();
        return Err(Fault::NoStub(missing));
    }
    if let Some(store) = wsl.stores.first()
        && out_of_step(root, store)
    {
        host.warn(format!(
            "{LIB_DIR} and {} are of different drivers: Windows replaced its driver while WSL was running; run `wsl --shutdown` in PowerShell, or CUDA may crash",
            store.display()
        ));
    }
    Ok(())
}

/// Whether the stub in use differs from the one in the driver's package. Only sizes are compared,
/// since reading the files crosses the virtual machine's boundary.
fn out_of_step(root: &Root, store: &Path) -> bool {
    let size = |path: PathBuf| root.resolve(path).ok().map(|node| node.stat().st_size);
    let used = size(Path::new(LIB_DIR).join(STUBS[0]));
    let own = size(store.join(STUB_IN_STORE));
    own.is_some() && own != used
}

fn is_library(name: &str) -> bool {
    let rest = name.rsplit_once(".so").map(|(_, rest)| rest);
    name.starts_with("lib") && rest.is_some_and(|r| r.is_empty() || r.starts_with('.'))
}

/// Warns of a Linux driver in the distribution, which does not reach containers but breaks CUDA
/// outside them.
fn warn_of_strangers(roots: &Roots, loc: &Locations, host: &mut Host) {
    let Some(bytes) = super::read_optional(&roots.driver, &loc.ldcache, cache::MAX_BYTES, host) else {
        return;
    };
    let Ok(cache) = Cache::parse(&bytes) else { return };
    let stranger = cache.entries().find(|e| {
        matches!(e.soname_text().as_ref(), "libcuda.so.1" | "libnvidia-ml.so.1")
            && !e.os_path().starts_with(WSL_DIR)
    });
    if let Some(entry) = stranger {
        host.warn(format!(
            "{} belongs to a Linux driver installed in this distribution; it is not used, and should be removed (`apt purge 'libnvidia-*' 'nvidia-driver-*'`): on WSL2 the driver is Windows' own",
            entry.os_path().display()
        ));
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Generation {
    One,
    Two,
}

/// The WSL generation from the kernel's release: the first is called `4.4.0-19041-Microsoft`, the
/// second has `microsoft` in small letters (`5.15.153.1-microsoft-standard-WSL2`).
fn generation(roots: &Roots) -> Option<Generation> {
    let release = roots.proc.read_text("sys/kernel/osrelease", 256).ok()?;
    let release = release.trim();
    if release.ends_with("-Microsoft") {
        Some(Generation::One)
    } else if release.contains("microsoft") || release.contains("WSL2") {
        Some(Generation::Two)
    } else {
        None
    }
}

/// The cause without Rust's "(os error N)".
fn plain(e: &std::io::Error) -> String {
    Error::io(Code::Wsl, "", e).why().to_owned()
}

#[cfg(test)]
mod tests;
