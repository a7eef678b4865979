//! Links in the rootfs to the driver directory, made only where a name is free.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::container::{Container, OwnDirs};
use super::driver_dir::DriverDir;
use crate::plan::{LinkAt, RootfsLink};
use crate::sys::mount::{Detached, Restrict};
use crate::sys::root::split;

/// Makes the links. Returns a warning for each name that is taken.
pub(super) fn make_links(container: &Container, dir: &DriverDir, links: &[RootfsLink]) -> Vec<String> {
    let mut warnings = Vec::new();
    let lib_dir = library_dir(container);
    let mut dirs = container.own_dirs();
    for link in links {
        let at = match &link.at {
            LinkAt::Path(path) => path.clone(),
            LinkAt::LibDir(below) => match &lib_dir {
                Some(lib) => lib.join(below),
                None => continue,
            },
        };
        let there = |path: &PathBuf| container.root().resolve(path).is_ok();
        if link.elsewhere.as_ref().is_some_and(there) {
            continue;
        }
        // The target is a path of the container and need not exist in our namespace.
        let target = dir.path.join(&link.to);
        match make(&mut dirs, &at, &target) {
            Ok(Made::Link | Made::Same) => {}
            Ok(Made::Taken) if link.cover => {
                if let Err(e) = cover(container, dir, &at, &link.to) {
                    warnings.push(format!(
                        "{} is the image's own file, not the driver's, and could not be covered: {e}",
                        at.display()
                    ));
                }
            }
            Ok(Made::Taken) => warnings.push(format!(
                "{} is the image's own file, not the driver's",
                at.display()
            )),
            Err(e) => warnings.push(format!("no link at {}: {e}", at.display())),
        }
    }
    warnings
}

enum Made {
    Link,
    Same,
    Taken,
}

fn make(dirs: &mut OwnDirs<'_>, at: &Path, target: &Path) -> std::io::Result<Made> {
    let (dir, name) = split(at)?;
    let parent = dirs.get(dir)?;
    match parent.symlink_new(name, target) {
        Ok(()) => Ok(Made::Link),
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
            let there = parent.child(name)?;
            let same = there.is_symlink() && there.read_link()? == target;
            Ok(if same { Made::Same } else { Made::Taken })
        }
        Err(e) => Err(e),
    }
}

/// Binds a driver file over a regular file of the image, or over the file in the same directory
/// that links lead to, as in `libcuda.so.1 -> libcuda.so.470.57.02`.
fn cover(container: &Container, dir: &DriverDir, at: &Path, file: &Path) -> std::io::Result<()> {
    const MAX_LINKS: usize = 4;
    let (parent, name) = split(at)?;
    let parent = container.own_dir(parent)?;
    let mut name = name.to_owned();
    for _ in 0..MAX_LINKS {
        let there = parent.child(&name)?;
        if !there.is_symlink() {
            break;
        }
        name = there.read_link()?.into_os_string();
    }
    if !parent.child(&name)?.is_file() {
        return Err(Errno::EXIST.into());
    }
    let (below, file) = split(file)?;
    let mut ours = dir.dir(below)?.child(file)?;
    if ours.is_symlink() {
        ours = dir.dir(below)?.child(ours.read_link()?.as_os_str())?;
    }
    Detached::bind(&ours, Restrict::FILE)?.attach(&parent, &name)?;
    Ok(())
}

/// The 64-bit library directory of the image's distribution: Debian's multiarch directory if it
/// exists, else `/usr/lib64`, else `/usr/lib`.
fn library_dir(container: &Container) -> Option<PathBuf> {
    const MULTIARCH: &str = if cfg!(target_arch = "aarch64") {
        "/usr/lib/aarch64-linux-gnu"
    } else {
        "/usr/lib/x86_64-linux-gnu"
    };
    [MULTIARCH, "/usr/lib64", "/usr/lib"]
        .iter()
        .find(|p| container.root().resolve(p).is_ok_and(|n| n.is_dir()))
        .map(PathBuf::from)
}
