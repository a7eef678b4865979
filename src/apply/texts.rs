//! Small files of the driver directory whose content the plan says.

use std::path::Path;

use super::container::Container;
use super::driver_dir::DriverDir;
use crate::ldso::{LoaderEnv, resolve};
use crate::plan::Text;
use crate::sys::root::split;

/// Writes them. All are optional: what goes wrong is returned as a warning.
pub(super) fn write(container: &Container, dir: &DriverDir, texts: &[Text]) -> Vec<String> {
    let failed = |at: &Path, e: &std::io::Error| format!("{}: {e}", dir.path.join(at).display());
    let written = |text: &Text| {
        let content = match &text.without {
            Some(without) if lacks(container, without.libraries) => &without.text,
            _ => &text.text,
        };
        let (parent, name) = split(&text.at)?;
        dir.dir(parent)?.write_file(name, 0o444, content.as_bytes())
    };
    texts
        .iter()
        .filter_map(|text| written(text).err().map(|e| failed(&text.at, &e)))
        .collect()
}

/// Whether the container's own loader, which knows nothing of the driver yet, misses one of `libraries`.
fn lacks(container: &Container, libraries: &[&str]) -> bool {
    let env = LoaderEnv::default();
    libraries
        .iter()
        .any(|soname| resolve(container.root(), soname, &env).is_none())
}
