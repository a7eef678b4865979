//! The dynamic loader's configuration: a `conf.d` file, and a cache that lists the driver first.

use std::ffi::OsStr;
use std::path::Path;

use super::container::Container;
use super::driver_dir::DriverDir;
use crate::ldso::{CacheOutcome, FirstDir, How, Lib, Update, updated_cache};
use crate::plan::{Place, Plan};
use crate::sys::mount::{Detached, Restrict};
use crate::sys::root::{Node, Root, split};

const CONF_DIR: &str = "/etc/ld.so.conf.d";
const CONF: &str = "00-nvoci.conf";

/// `e_machine` values of elf.h.
const EM_386: u16 = 3;
const EM_ARM: u16 = 40;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// The result of a change of the loader's configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct LoaderUpdate {
    /// `merged`, `rebuilt` with the reason, or the reason for no cache.
    pub(super) how: String,
    /// The parts that failed.
    pub(super) warnings: Vec<String>,
}

/// The loader's new configuration, computed before anything of the image changes. A library
/// directory or `conf.d` that is newer than the cache would be a reason to rebuild it.
#[derive(Debug)]
pub(super) struct Loader {
    pub(super) first: Vec<FirstDir>,
    /// The child's result; `None` if the plan has no libraries.
    pub(super) outcome: Option<CacheOutcome>,
}

/// Computes the cache of an image in which `first` come first.
pub(super) fn updated(root: &Root, first: &[FirstDir]) -> CacheOutcome {
    updated_cache(root, &cache_update(first))
}

/// The update of a loader's cache in which `first` come first.
pub fn cache_update(first: &[FirstDir]) -> Update<'_> {
    Update {
        first,
        conf_name: CONF,
        libraries: "the driver's libraries",
        on_musl: "CUDA's libraries need glibc and will not load",
    }
}

impl Loader {
    /// Makes `libcuda.so.1` resolve to the driver directory. It runs last, so that the cache is
    /// newer than the directories that it lists and the next start of this container finds it
    /// current.
    pub(super) fn write(self, container: &Container, dir: &DriverDir) -> LoaderUpdate {
        let Some(outcome) = self.outcome else {
            return LoaderUpdate {
                how: "no libraries".to_owned(),
                ..LoaderUpdate::default()
            };
        };
        let mut update = LoaderUpdate {
            how: describe(&outcome),
            ..LoaderUpdate::default()
        };
        update.warnings.extend(outcome.warnings);
        if outcome.how == How::None {
            return update;
        }
        if let Err(e) = write_conf(container, &self.first) {
            update.warnings.push(format!(
                "{CONF_DIR}/{CONF} was not written ({e}): an `ldconfig` run in the container forgets the driver"
            ));
        }
        if let Err(e) = place(container, dir, Path::new(outcome.target), &outcome.bytes) {
            update.warnings.push(format!(
                "{} could not be placed ({e}): set LD_LIBRARY_PATH={}",
                outcome.target,
                dir.path.join(Place::Lib64.dir()).display()
            ));
        }
        update
    }
}

fn describe(outcome: &CacheOutcome) -> String {
    match &outcome.how {
        How::Merged => "merged".to_owned(),
        How::Rebuilt { reason } => format!("rebuilt: {reason}"),
        How::MuslPath => "musl path file".to_owned(),
        How::None => "none: the image has no dynamic loader".to_owned(),
    }
}

/// The directories that come first in the cache, for a driver directory at `dir`.
pub(super) fn first_dirs(dir: &Path, plan: &Plan) -> Vec<FirstDir> {
    let mut dirs = Vec::new();
    for place in [Place::Lib64, Place::Lib32] {
        let below = Path::new(place.dir());
        let mut libs = Vec::new();
        for file in plan.files.iter().filter(|f| f.place == place) {
            let soname = file.soname.as_ref().unwrap_or(&file.name);
            libs.push(lib(soname, place));
        }
        for link in plan.links.iter().filter(|l| l.at.parent() == Some(below)) {
            if let Some(name) = link.at.file_name().and_then(OsStr::to_str) {
                libs.push(lib(name, place));
            }
        }
        if !libs.is_empty() {
            dirs.push(FirstDir {
                path: dir.join(below),
                libs,
            });
        }
    }
    dirs
}

fn lib(name: &str, place: Place) -> Lib {
    let is_64 = place == Place::Lib64;
    let machine = match (cfg!(target_arch = "aarch64"), is_64) {
        (false, true) => EM_X86_64,
        (false, false) => EM_386,
        (true, true) => EM_AARCH64,
        (true, false) => EM_ARM,
    };
    Lib {
        soname: name.to_owned(),
        file: name.to_owned(),
        is_64,
        machine,
    }
}

fn write_conf(container: &Container, first: &[FirstDir]) -> std::io::Result<()> {
    let dir = container.own_dir(Path::new(CONF_DIR))?;
    let mut text =
        String::from("# Written by nvoci when the container was created: the NVIDIA driver of the host.\n");
    for d in first {
        text.push_str(&d.path.to_string_lossy());
        text.push('\n');
    }
    write_if_changed(&dir, OsStr::new(CONF), text.as_bytes())
}

pub(super) fn place(container: &Container, dir: &DriverDir, at: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let (parent, name) = split(at)?;
    let written = container
        .own_dir(parent)
        .and_then(|d| write_if_changed(&d, name, bytes));
    let Err(why) = written else { return Ok(()) };
    // A volume or a read-only file system: bind a file of ours over the image's.
    let parent = container.root().resolve(parent)?;
    match parent.child(name) {
        Ok(there) if there.is_file() => {
            let ours = dir.written(&name.to_string_lossy(), bytes)?;
            Detached::bind(&ours, Restrict::DATA)?.attach(&parent, name)?;
            Ok(())
        }
        _ => Err(why),
    }
}

/// Writes a file unless it has this content already, as in a restarted container.
pub(super) fn write_if_changed(dir: &Node, name: &OsStr, bytes: &[u8]) -> std::io::Result<()> {
    if let Ok(there) = dir.child(name)
        && there.is_file()
        && u64::try_from(there.stat().st_size).is_ok_and(|n| n == bytes.len() as u64)
        && there.read(bytes.len() as u64).is_ok_and(|old| old == bytes)
    {
        return Ok(());
    }
    dir.write_file(name, 0o644, bytes)
}
