//! The dynamic loader's configuration: a `conf.d` file and a cache in which the driver comes first.

use std::ffi::OsStr;
use std::path::Path;

use super::container::Container;
use super::driver_dir::DriverDir;
use crate::ldso::{CacheOutcome, FirstDir, How, Lib, Update, updated_cache};
use crate::plan::{Place, Plan};
use crate::sys::mount::{Detached, Restrict};
use crate::sys::root::Node;

const CONF_DIR: &str = "/etc/ld.so.conf.d";
const CONF: &str = "00-nvoci.conf";
const CACHE: &str = "/etc/ld.so.cache";

/// How the loader was told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Told {
    /// `merged`, `rebuilt` with the reason, or why there is no cache.
    pub(super) how: String,
    /// What could not be done.
    pub(super) warnings: Vec<String>,
}

/// Makes `libcuda.so.1` resolve to the driver directory.
pub(super) fn configure(container: &Container, dir: &DriverDir, plan: &Plan) -> Told {
    let first = first_dirs(dir, plan);
    if first.is_empty() {
        return Told { how: "no libraries".to_owned(), ..Told::default() };
    }
    let mut told = Told::default();
    if let Err(e) = write_conf(container, &first) {
        told.warnings.push(format!(
            "{CONF_DIR}/{CONF} was not written ({e}): an `ldconfig` run in the container forgets the driver"
        ));
    }
    let outcome = updated_cache(container.root(), &Update { first: &first, conf_name: CONF });
    told.how = describe(&outcome);
    told.warnings.extend(outcome.warnings);
    if let Some(bytes) = outcome.bytes {
        if let Err(e) = place_cache(container, dir, &bytes) {
            told.warnings.push(format!(
                "{CACHE} could not be placed ({e}): set LD_LIBRARY_PATH={}",
                dir.path.join(Place::Lib64.dir()).display()
            ));
        }
    }
    told
}

fn describe(outcome: &CacheOutcome) -> String {
    match &outcome.how {
        How::Merged => "merged".to_owned(),
        How::Rebuilt { reason } => format!("rebuilt: {reason}"),
        How::None { reason } => format!("none: {reason}"),
    }
}

fn first_dirs(dir: &DriverDir, plan: &Plan) -> Vec<FirstDir> {
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
            dirs.push(FirstDir { path: dir.path.join(below), libs });
        }
    }
    dirs
}

fn lib(name: &str, place: Place) -> Lib {
    Lib { soname: name.to_owned(), file: name.to_owned(), is_64: place == Place::Lib64 }
}

fn write_conf(container: &Container, first: &[FirstDir]) -> std::io::Result<()> {
    let dir = container.own_dir(Path::new(CONF_DIR))?;
    let mut text = String::from("# Written by nvoci when the container was created: the NVIDIA driver of the host.\n");
    for d in first {
        text.push_str(&d.path.to_string_lossy());
        text.push('\n');
    }
    write_if_changed(&dir, OsStr::new(CONF), text.as_bytes())
}

fn place_cache(container: &Container, dir: &DriverDir, bytes: &[u8]) -> std::io::Result<()> {
    let written = container
        .own_dir(Path::new("/etc"))
        .and_then(|etc| write_if_changed(&etc, OsStr::new("ld.so.cache"), bytes));
    let Err(why) = written else { return Ok(()) };
    // A volume, or a file system that cannot be written to: a file of ours over the image's.
    let etc = container.root().resolve("/etc")?;
    match etc.child("ld.so.cache") {
        Ok(there) if there.is_file() => {
            let ours = dir.write("ld.so.cache", bytes)?;
            Detached::bind(&ours, Restrict::DATA)?.attach(&etc, OsStr::new("ld.so.cache"))?;
            Ok(())
        }
        _ => Err(why),
    }
}

/// A restarted container has the right file already.
fn write_if_changed(dir: &Node, name: &OsStr, bytes: &[u8]) -> std::io::Result<()> {
    if let Ok(there) = dir.child(name) {
        if there.is_file()
            && u64::try_from(there.stat().st_size).is_ok_and(|n| n == bytes.len() as u64)
            && there.read(bytes.len() as u64).is_ok_and(|old| old == bytes)
        {
            return Ok(());
        }
    }
    dir.write_file(name, 0o644, bytes)
}
