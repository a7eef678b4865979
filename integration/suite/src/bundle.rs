//! A bundle: an overlay over an image of the cache, and a definition.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use crate::host::WORLD;
use crate::image::remove;
use crate::way::Runtime;

/// Where bundles are.
pub(crate) const BUNDLES: &str = "/scratch/bundles";

/// A bundle with its rootfs mounted.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The container's name.
    pub(crate) container: String,
    pub(crate) path: PathBuf,
}

impl Bundle {
    /// Makes the `number`th bundle. `layer` is a directory that is laid over the image.
    pub(crate) fn make(number: u32, layer: Option<&str>) -> io::Result<Self> {
        let path = PathBuf::from(format!("{BUNDLES}/s{number}"));
        fs::create_dir_all(&path)?;
        for directory in ["rootfs", "upper", "work"] {
            fs::create_dir(path.join(directory))?;
        }
        let layer = layer.map(|layer| format!("{layer}:")).unwrap_or_default();
        let options = format!(
            "lowerdir={layer}{WORLD}/images/bookworm,upperdir={0}/upper,workdir={0}/work",
            path.display()
        );
        let options = CString::new(options)?;
        mount(
            "overlay",
            path.join("rootfs"),
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )?;
        let container = format!("hs{number}");
        Ok(Self { container, path })
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// The layer over the image, as `docker diff` would find it.
    pub(crate) fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    /// The path of config.json.
    pub(crate) fn definition(&self) -> String {
        self.path.join("config.json").to_string_lossy().into_owned()
    }

    pub(crate) fn read(&self) -> io::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.definition())?)?)
    }

    pub(crate) fn write(&self, definition: &Value) -> io::Result<()> {
        fs::write(self.path.join("config.json"), serde_json::to_vec(definition)?)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for place in ["rootfs", "small"] {
            // A case may have unmounted it. The comparison of mount tables finds one that stays.
            let _ = unmount(self.path.join(place), UnmountFlags::DETACH);
        }
        let _ = remove(&self.path);
    }
}

/// The specification that a runtime writes, once for each.
pub(crate) fn specification(runtime: Runtime) -> io::Result<Value> {
    // runsc takes runc's.
    let program = if runtime == Runtime::Runsc {
        Runtime::Runc
    } else {
        runtime
    };
    let directory = PathBuf::from(format!("{BUNDLES}/spec-of-{}", program.name()));
    let file = directory.join("config.json");
    if !file.exists() {
        fs::create_dir_all(&directory)?;
        let mut spec = Command::new(program.name());
        let spec = spec.arg("spec").current_dir(&directory).stdin(Stdio::null());
        if !spec.status()?.success() {
            return Err(io::Error::other(format!("{} spec failed", program.name())));
        }
    }
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}
