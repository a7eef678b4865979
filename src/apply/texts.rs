//! Small generated files of the driver directory, such as EGL's list of vendors.

use std::path::Path;

use super::driver_dir::DriverDir;
use crate::ldso::{LoaderEnv, resolve};
use crate::plan::Text;
use crate::sys::root::{Root, split};

/// Writes the files. All are optional: a failure becomes a warning.
pub(super) fn write(dir: &DriverDir, texts: &[Text], lacking: &[bool]) -> Vec<String> {
    let failed = |at: &Path, e: &std::io::Error| format!("{}: {e}", dir.path.join(at).display());
    let written = |text: &Text, lacking: bool| {
        let content = match &text.without {
            Some(without) if lacking => &without.text,
            _ => &text.text,
        };
        let (parent, name) = split(&text.at)?;
        let (dir, bytes) = (dir.dir(parent)?, content.as_bytes());
        match dir.create_file(name, 0o444, bytes) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => dir.write_file(name, 0o444, bytes),
            created => created,
        }
    };
    let lacking = lacking.iter().copied().chain(std::iter::repeat(false));
    texts
        .iter()
        .zip(lacking)
        .filter_map(|(text, lacking)| written(text, lacking).err().map(|e| failed(&text.at, &e)))
        .collect()
}

/// For each text, whether the container's own loader misses a library that the text names. The
/// loader's configuration does not have the driver yet.
pub(super) fn lacking(root: &Root, texts: &[Text]) -> impl Iterator<Item = bool> {
    let missing = |soname: &&str| resolve(root, soname, &LoaderEnv::default()).is_none();
    texts.iter().map(move |text| {
        text.without
            .as_ref()
            .is_some_and(|w| w.libraries.iter().any(missing))
    })
}
