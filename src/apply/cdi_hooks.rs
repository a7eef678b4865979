//! The work of the vendor's CDI hooks, done by descriptors inside the rootfs. Nothing is executed.
//!
//! The runtime calls each hook in a process of its own, after it has mounted the driver's files.
//! For example, `update-ldcache --folder /usr/lib64` writes a `conf.d` file and a new cache. If a
//! hook's work fails it warns, since the container may still work. It fails only where the image
//! would lead it outside the rootfs.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::container::Container;
use super::cuda_compat::{self, Found};
use super::driver_dir::{Attached, DriverDir};
use super::image::Image;
use super::message::Message;
use super::message::Scanned;
use super::{loader, procfs};
use crate::compat::forward::HostDriver;
use crate::error::{Code, Error, IoContext as _, Result, counted};
use crate::ldso::{self, CacheOutcome, Change, FirstDir, Flavor, How, Links, Run, Update, Warnings};
use crate::plan::forbid_node_making;
use crate::sys::budget::Budget;
use crate::sys::mount::{Restrict, seal};
use crate::sys::reader::Port;
use crate::sys::root::{Root, own_fds, split};

const CONF: &str = "/etc/ld.so.conf";
const CONF_DIR: &str = "/etc/ld.so.conf.d";
/// Sorts before the distribution's own files.
const CONF_NAME: &str = "00-nvcr-nvoci.conf";
/// Sorts before [`CONF_NAME`].
const COMPAT_NAME: &str = "00-compat-nvoci.conf";

/// Place of a small tmpfs of ours, for files that cannot be written into the image.
const SCRATCH: &str = "/run/nvoci-cdi";

/// A hook with its arguments.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CdiHook {
    /// Makes links: (target, path of the link).
    CreateSymlinks(Vec<(PathBuf, PathBuf)>),
    /// Adds directories to the loader's configuration and cache.
    UpdateLdcache(Vec<PathBuf>),
    /// Sets permission bits of directories.
    Chmod {
        /// The bits.
        mode: u32,
        /// Paths in the container.
        paths: Vec<PathBuf>,
    },
    /// Puts the image's CUDA compatibility libraries first if they suit this driver.
    EnableCudaCompat {
        /// The host's driver version.
        driver: Option<String>,
        /// The host's CUDA version.
        cuda: Option<String>,
        /// The libraries' directory in the image.
        dir: PathBuf,
    },
    /// Covers `/proc/driver/nvidia/params`, so that no program of the container makes device nodes.
    DisableDeviceNodeModification,
    /// Writes the application profile that names the container's GPUs for EGL and Vulkan.
    UpdateApplicationProfile,
}

impl CdiHook {
    /// Starts the child that reads the image at `rootfs` for this hook; `None` if the hook reads
    /// nothing of it.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn read(&self, rootfs: &Path) -> Result<Option<Image>> {
        match self {
            Self::UpdateLdcache(dirs) => {
                let work = |root: &Root, port: &mut Port| Message::Scanned(scan(root, dirs)).send(port);
                Image::read(rootfs, None, work).map(Some)
            }
            Self::EnableCudaCompat { driver, cuda, dir } => Image::read(rootfs, None, |root, port| {
                let host = HostDriver {
                    driver: driver.as_deref().and_then(|d| d.parse().ok()),
                    cuda: cuda.as_deref().and_then(|c| c.parse().ok()),
                };
                Message::CudaCompat(cuda_compat::find(root, dir, host)).send(port)
            })
            .map(Some),
            _ => Ok(None),
        }
    }
}

/// Runs a hook in the container's mount namespace. `image` is the result of [`CdiHook::read`]
/// there. Returns warnings.
///
/// # Errors
/// [`Code::UnsafePath`] if a link or special file of the image is on the way and must not be
/// followed; [`Code::TooLarge`] if `budget` is spent.
pub fn run(
    hook: &CdiHook,
    container: &Container,
    image: Option<Image>,
    budget: &Budget,
) -> Result<Vec<String>> {
    match hook {
        CdiHook::CreateSymlinks(links) => {
            let made = |l| afford(budget, "the links").and_then(|()| link(container, l));
            links.iter().filter_map(|l| made(l).transpose()).collect()
        }
        CdiHook::UpdateLdcache(_) => update_ldcache(container, image, budget),
        CdiHook::Chmod { mode, paths } => {
            let set = |p| afford(budget, "the paths").map(|()| chmod(container, p, *mode));
            paths.iter().filter_map(|p| set(p).transpose()).collect()
        }
        CdiHook::EnableCudaCompat { .. } => enable_cuda_compat(container, image),
        CdiHook::DisableDeviceNodeModification => disable_node_modification(container),
        CdiHook::UpdateApplicationProfile => application_profile(container),
    }
}

/// Charges `budget` for one path. A path can cost 2 ms if the image has long links on the way.
///
/// # Errors
/// [`Code::TooLarge`] if the hook has used its processor time.
fn afford(budget: &Budget, what: &str) -> Result<()> {
    /// The clock is read for each 16th path.
    const COST: usize = 64 << 10;
    budget
        .scan(COST)
        .map_err(|e| e.of(format!("{what} of a CDI hook")))
}

/// An error if the image's content is unsafe, else a warning.
fn error_or_warning(what: &str, e: &std::io::Error) -> Result<String> {
    match e.raw_os_error() {
        Some(libc::ELOOP | libc::EXDEV) => Err(Error::new(
            Code::UnsafePath,
            what,
            "a symbolic link or a special file of the image is in the way",
        )),
        Some(libc::EROFS) => Ok(format!(
            "{what}: it is read-only or on a volume, and was left as it is"
        )),
        _ => Ok(format!("{what}: {e}")),
    }
}

fn link(container: &Container, (target, at): &(PathBuf, PathBuf)) -> Result<Option<String>> {
    let make = || -> std::io::Result<()> {
        let (dir, name) = split(at)?;
        let dir = container.own_dir(dir)?;
        match dir.child(name) {
            Ok(there) if there.is_symlink() && there.read_link()? == *target => Ok(()),
            _ => dir.symlink(name, target),
        }
    };
    match make() {
        Ok(()) => Ok(None),
        Err(e) => error_or_warning(&format!("link {} in the container", at.display()), &e).map(Some),
    }
}

/// Writes a whole file; returns a warning with the reason if it cannot.
fn write(container: &Container, at: &Path, bytes: &[u8], mode: u32) -> Result<Option<String>> {
    let make = || -> std::io::Result<()> {
        let (dir, name) = split(at)?;
        let dir = container.own_dir(dir)?;
        if mode == 0o644 {
            loader::write_if_changed(&dir, name, bytes)
        } else {
            dir.write_file(name, mode, bytes)
        }
    };
    match make() {
        Ok(()) => Ok(None),
        Err(e) => error_or_warning(&format!("{} in the container", at.display()), &e).map(Some),
    }
}

fn enable_cuda_compat(container: &Container, image: Option<Image>) -> Result<Vec<String>> {
    let found = image.map(|mut image| image.recv_cuda_compat()).transpose()?;
    match found {
        None | Some(Found::Nothing) => Ok(Vec::new()),
        Some(Found::Unsuited(why)) => Ok(vec![why]),
        Some(Found::Use(dir)) => {
            let at = Path::new(CONF_DIR).join(COMPAT_NAME);
            // The directory's name must not add lines.
            let dir = dir.as_os_str().as_bytes().iter().copied();
            let mut line: Vec<u8> = dir.filter(|b| !b.is_ascii_control()).collect();
            line.push(b'\n');
            Ok(write(container, &at, &line, 0o644)?.into_iter().collect())
        }
    }
}

/// Computes the changes of the loader's configuration for `dirs`. Reads only.
fn scan(root: &Root, dirs: &[PathBuf]) -> Scanned {
    let mut notes = Warnings::default();
    let arch = match ldso::flavor(root) {
        Flavor::Glibc(arch) => arch,
        Flavor::None | Flavor::Musl(_) => {
            let first = dirs.iter().map(|path| FirstDir {
                path: path.clone(),
                libs: Vec::new(),
            });
            let first: Vec<_> = first.collect();
            let update = Update {
                conf_name: CONF_NAME,
                ..loader::cache_update(&first)
            };
            return Scanned {
                dirs: Vec::new(),
                changes: Vec::new(),
                outcome: ldso::updated_cache(root, &update),
            };
        }
    };
    let known = ldso::dirs::collect(root, arch, &[], &[], Some(Path::new(CONF)), &mut notes);
    let new: Vec<PathBuf> = dirs
        .iter()
        .filter(|dir| {
            let id = root.resolve(dir).ok().map(|n| n.id());
            id.is_some() && !known.dirs.iter().any(|d| Some(d.node.id()) == id)
        })
        .cloned()
        .collect();
    drop(known);
    // These directories come first even if no include line names them.
    let run = Run {
        dirs: new.clone(),
        conf: Some(PathBuf::from(CONF)),
        links: Links::Record,
    };
    let (bytes, changes) = ldso::scan_root(root, &run, &mut notes);
    Scanned {
        dirs: new,
        changes,
        outcome: CacheOutcome {
            bytes,
            target: ldso::CACHE,
            how: How::Rebuilt {
                reason: "a CDI hook names directories".to_owned(),
            },
            warnings: notes.into_lines(),
        },
    }
}

fn update_ldcache(container: &Container, image: Option<Image>, budget: &Budget) -> Result<Vec<String>> {
    let Some(mut image) = image else {
        return Ok(Vec::new());
    };
    let Scanned {
        dirs,
        changes,
        outcome,
    } = image.recv_scan()?;
    let mut warnings = outcome.warnings;
    if outcome.how == How::None {
        return Ok(Vec::new());
    }
    if !dirs.is_empty() {
        let lines: Vec<String> = dirs.iter().map(|d| format!("{}\n", d.display())).collect();
        let at = Path::new(CONF_DIR).join(CONF_NAME);
        warnings.extend(write(container, &at, lines.concat().as_bytes(), 0o644)?);
        if container.root().resolve(CONF).is_err() {
            let text = format!("include {CONF_DIR}/*.conf\n");
            warnings.extend(write(container, Path::new(CONF), text.as_bytes(), 0o644)?);
        }
    }
    warnings.extend(make_links(container, &changes, budget));
    let (target, bytes) = (Path::new(outcome.target), outcome.bytes);
    let Some(refused) = write(container, target, &bytes, 0o644)? else {
        return Ok(warnings);
    };
    let covered = scratch(container, &mut warnings).and_then(|dir| {
        let done = loader::place(container, &dir, target, &bytes)
            .context(Code::Mount, || target.display().to_string());
        done.and_then(|()| seal(&dir.top, Restrict::FILE).context(Code::Mount, || SCRATCH))
    });
    if covered.is_err() {
        warnings.push(refused);
    }
    Ok(warnings)
}

/// Makes the scan's links in directories that are the container's own. New links come first, so
/// that the target of a stale one exists by the time it is checked.
fn make_links(container: &Container, changes: &[Change], budget: &Budget) -> Vec<String> {
    let (new, stale): (Vec<&Change>, Vec<&Change>) =
        changes.iter().partition(|change| change.target.is_some());
    let made = |change: &Change| {
        let root = container.root();
        let make = || {
            let dir = root.resolve(&change.dir)?;
            if !container.owns(&dir)? {
                return Err(rustix::io::Errno::ROFS.into());
            }
            change.make(root, &dir)
        };
        let at = change.dir.join(&change.name);
        make()
            .err()
            .map(|e: std::io::Error| format!("link {} in the container: {e}", at.display()))
    };
    let mut warnings = Warnings::default();
    for (at, change) in new.iter().chain(&stale).enumerate() {
        if let Err(e) = afford(budget, "the links") {
            let left = changes.len() - at;
            warnings.add(format_args!(
                "{} left out: {}",
                counted(left, "link in the container was", "links in the container were"),
                e.why()
            ));
            break;
        }
        // A stale link that stays does no new harm.
        if let Some(why) = made(change).filter(|_| change.target.is_some()) {
            warnings.add(format_args!("{why}"));
        }
    }
    warnings.into_lines()
}

/// A tmpfs of ours in the container.
fn scratch(container: &Container, notes: &mut Vec<String>) -> Result<DriverDir> {
    match DriverDir::attach(container, &[PathBuf::from(SCRATCH)], None, None, notes)? {
        Attached::New(dir) => Ok(dir),
        Attached::AlreadyThere(path) => Err(Error::new(
            Code::Mount,
            path.display().to_string(),
            "an earlier hook has mounted it",
        )),
    }
}

/// Changes directories of the container's own only; the vendor's hook is for directories.
fn chmod(container: &Container, path: &Path, mode: u32) -> Option<String> {
    let change = || -> std::io::Result<()> {
        let node = container.root().resolve(path)?;
        if !node.is_dir() || !container.owns(&node)? {
            return Err(rustix::io::Errno::ROFS.into());
        }
        if node.stat().st_mode & 0o7777 == mode {
            return Ok(());
        }
        let name = node.as_fd().as_raw_fd().to_string();
        rustix::fs::chmodat(
            own_fds()?,
            name,
            rustix::fs::Mode::from_raw_mode(mode),
            rustix::fs::AtFlags::empty(),
        )?;
        Ok(())
    };
    match change() {
        Ok(()) => None,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
        Err(e) => Some(format!("mode of {} in the container: {e}", path.display())),
    }
}

fn disable_node_modification(container: &Container) -> Result<Vec<String>> {
    const PARAMS: &str = "/proc/driver/nvidia/params";
    const MAX: u64 = 64 << 10;
    let mut warnings = Vec::new();
    let host = Root::open("/").context(Code::System, || "open /")?;
    let Ok(params) = host.read(PARAMS, MAX) else {
        return Ok(warnings);
    };
    let changed = forbid_node_making(&params);
    let proc = procfs::procfs(container);
    if changed == params || proc.is_err() {
        return Ok(warnings);
    }
    let dir = match scratch(container, &mut warnings) {
        Ok(dir) => dir,
        Err(e) => return Ok(vec![e.to_string()]),
    };
    if let Err(e) = procfs::cover_params(container, &dir, &changed) {
        warnings.push(format!("{PARAMS} could not be covered: {e}"));
    }
    seal(&dir.top, Restrict::FILE).context(Code::Mount, || SCRATCH)?;
    Ok(warnings)
}

/// The driver's profile format has a hexadecimal literal, so the text is not quite JSON.
fn application_profile(container: &Container) -> Result<Vec<String>> {
    const DIR: &str = "/etc/nvidia/nvidia-application-profiles-rc.d";
    const NAME: &str = "10-container.conf";
    const MAX: usize = 65_536;
    let Ok(dev) = container.root().resolve("/dev") else {
        return Ok(Vec::new());
    };
    let mut mask = 0_u64;
    for entry in dev.read_dir(MAX).unwrap_or_default() {
        if let Some(minor) = gpu_minor(&dev, &entry.name).filter(|m| *m < 64) {
            mask |= 1 << minor;
        }
    }
    if mask == 0 {
        return Ok(Vec::new());
    }
    let text = format!(
        "{{\"profiles\":[{{\"name\":\"_container_\",\"settings\":[\"EGLVisibleDGPUDevices\",{mask:#x}]}}],\
         \"rules\":[{{\"pattern\":[],\"profile\":\"_container_\"}}]}}\n"
    );
    let at = Path::new(DIR).join(NAME);
    Ok(write(container, &at, text.as_bytes(), 0o444)?
        .into_iter()
        .collect())
}

fn gpu_minor(dev: &crate::sys::root::Node, name: &OsString) -> Option<u32> {
    let digits = OsStr::to_str(name)?.strip_prefix("nvidia")?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let node = dev.child(name).ok()?;
    (node.kind() == FileType::CharacterDevice).then(|| node.rdev().minor)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::Duration;

    use super::*;
    use crate::apply::Mounts;
    use crate::compat::forward::DEFAULT_DIR;
    use crate::ldso::fixtures::elf_with_note;
    use crate::sys::budget::Limits;

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["etc", "usr/lib", "dev"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        dir
    }

    fn run_in(root: &tempfile::TempDir, hook: &CdiHook) -> Vec<String> {
        let container = Container::open(root.path(), Mounts::default()).unwrap();
        run(
            hook,
            &container,
            hook.read(root.path()).unwrap(),
            &Budget::default(),
        )
        .unwrap()
    }

    fn links(pairs: &[(&str, &str)]) -> CdiHook {
        CdiHook::CreateSymlinks(pairs.iter().map(|(t, l)| (t.into(), l.into())).collect())
    }

    #[test]
    fn links_are_made_inside_and_replace_files() {
        let root = root();
        let at = |p: &str| root.path().join(p);
        fs::write(at("usr/lib/libcuda.so.1"), "stale").unwrap();
        fs::create_dir(at("usr/lib/taken")).unwrap();
        // A consumer that resolves these from the host's view would leave the root.
        symlink("/etc", at("absolute")).unwrap();
        symlink("../../../../../../etc", at("climbing")).unwrap();
        let warnings = run_in(
            &root,
            &links(&[
                ("libcuda.so.580", "/usr/lib/libcuda.so.1"),
                ("a", "/new/dir/a"),
                ("b", "/absolute/nvoci-b"),
                ("c", "/climbing/nvoci-c"),
                ("d", "/usr/lib/taken"),
            ]),
        );
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let link = |p: &str| fs::read_link(at(p)).unwrap().display().to_string();
        assert_eq!(link("usr/lib/libcuda.so.1"), "libcuda.so.580");
        assert_eq!(link("new/dir/a"), "a");
        assert_eq!(link("etc/nvoci-b"), "b");
        assert_eq!(link("etc/nvoci-c"), "c");
        assert!(!Path::new("/etc/nvoci-b").exists() && at("usr/lib/taken").is_dir());
        assert!(run_in(&root, &links(&[("a", "/new/dir/a")])).is_empty());
    }

    #[test]
    fn a_scans_links_end_with_the_budget() {
        let root = root();
        let container = Container::open(root.path(), Mounts::default()).unwrap();
        let change = |i: u32| Change {
            dir: PathBuf::from("/usr/lib"),
            name: OsString::from(format!("lib{i}.so.1")),
            target: Some(OsString::from("lib.so")),
        };
        let changes: Vec<Change> = (0..100).map(change).collect();
        let made = || fs::read_dir(root.path().join("usr/lib")).unwrap().count();
        let spent = Budget::new(Limits {
            cpu: Duration::ZERO,
            ..Limits::DEFAULT
        });
        let warnings = make_links(&container, &changes, &spent);
        assert!(
            warnings[0].contains("links in the container were left out"),
            "{warnings:?}"
        );
        assert!(made() < 20, "{}", made());
        assert!(make_links(&container, &changes, &Budget::default()).is_empty());
        assert_eq!(made(), 100);
    }

    #[test]
    fn modes_are_set_on_directories_only() {
        let root = root();
        let at = |p: &str| root.path().join(p);
        fs::write(at("usr/file"), "").unwrap();
        fs::set_permissions(at("dev"), fs::Permissions::from_mode(0o700)).unwrap();
        let paths = ["/dev", "/usr/file", "/no/such"].map(PathBuf::from).to_vec();
        let before = fs::metadata(at("usr/file")).unwrap().permissions().mode();
        let warnings = run_in(&root, &CdiHook::Chmod { mode: 0o755, paths });
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let mode = |p: &str| fs::metadata(at(p)).unwrap().permissions().mode();
        assert_eq!((mode("dev") & 0o7777, mode("usr/file")), (0o755, before));
    }

    #[test]
    fn compatibility_libraries_are_named_where_they_really_are() {
        let root = root();
        let at = |p: &str| root.path().join(p);
        fs::create_dir_all(at("usr/local/cuda-12.9/compat")).unwrap();
        symlink("/usr/local/cuda-12.9", at("usr/local/cuda")).unwrap();
        let note = "{\"CUDA version\":\"12.9\",\"driver\":[535]}\0";
        let elf = elf_with_note(".note.cuda.fwd_compatibility", "NVIDIA Corporation", note);
        fs::write(at("usr/local/cuda-12.9/compat/libcuda.so.575.57.08"), elf).unwrap();
        let hook = |driver: &str| CdiHook::EnableCudaCompat {
            driver: Some(driver.to_owned()),
            cuda: None,
            dir: PathBuf::from(DEFAULT_DIR),
        };
        let conf = at("etc/ld.so.conf.d/00-compat-nvoci.conf");
        assert!(run_in(&root, &hook("580.65.06")).is_empty() && !conf.exists());
        assert!(run_in(&root, &hook("535.104.05")).is_empty());
        assert_eq!(fs::read_to_string(conf).unwrap(), "/usr/local/cuda-12.9/compat\n");
    }

    /// toolkit-features 12, quirk 13: each call of the vendor's hook left a file in ld.so.conf.d
    /// and a directory in /run.
    #[test]
    fn quirk_13_a_second_call_leaves_nothing_more() {
        let root = root();
        let at = |p: &str| root.path().join(p);
        fs::create_dir_all(at("opt/driver")).unwrap();
        fs::create_dir_all(at("lib64")).unwrap();
        fs::write(
            at("lib64/ld-linux-x86-64.so.2"),
            elf_with_note(".note.x", "x", "x"),
        )
        .unwrap();
        let all = || {
            let mut found: Vec<PathBuf> = Vec::new();
            let mut dirs = vec![root.path().to_owned()];
            while let Some(dir) = dirs.pop() {
                for entry in fs::read_dir(dir).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        dirs.push(path.clone());
                    }
                    found.push(path);
                }
            }
            found.sort();
            found
        };
        let hook = CdiHook::UpdateLdcache(vec!["/opt/driver".into()]);
        run_in(&root, &hook);
        let once = all();
        assert!(once.iter().any(|p| p.ends_with("etc/ld.so.cache")), "{once:?}");
        run_in(&root, &hook);
        assert_eq!(all(), once);
        assert!(!at("run").exists());
    }

    #[test]
    fn the_profile_names_the_gpus_that_are_there() {
        use rustix::fs::{CWD, Mode, makedev, mknodat};
        let root = root();
        let conf = root
            .path()
            .join("etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf");
        assert!(run_in(&root, &CdiHook::UpdateApplicationProfile).is_empty() && !conf.exists());
        for (name, minor) in [("nvidia0", 0), ("nvidia3", 3), ("nvidiactl", 255)] {
            let at = root.path().join("dev").join(name);
            let made = mknodat(
                CWD,
                &at,
                FileType::CharacterDevice,
                Mode::RUSR,
                makedev(195, minor),
            );
            if made.is_err() {
                eprintln!("SKIPPED: making device nodes needs CAP_MKNOD");
                return;
            }
        }
        fs::write(root.path().join("dev/nvidia7"), "no device").unwrap();
        assert!(run_in(&root, &CdiHook::UpdateApplicationProfile).is_empty());
        let text = fs::read_to_string(conf).unwrap();
        assert!(text.contains("[\"EGLVisibleDGPUDevices\",0x9]"), "{text}");
    }
}
