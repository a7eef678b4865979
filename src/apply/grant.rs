//! The devices that nvoci gave a container, recorded on the host. A file in the container proves
//! nothing, since the container's processes and volumes can write it.
//!
//! A grant is a file in a directory that only root may enter, named by the container's mount
//! namespace (`4026532801.json`). The kernel reuses the number of a namespace that is gone, so a
//! grant also holds the time: every process of a later namespace began after it. A new grant with
//! the same number replaces the file; `nvoci doctor container` removes those of namespaces that are
//! gone.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::oci::Spec;
use crate::plan::Device;
use crate::sys::root::Node;
use crate::vocabulary::DeviceNumber;

use super::record;

/// The directory of grants.
pub const GRANTS_DIR: &str = "/run/nvoci/grants";

/// The directory of grants, opened before the host's `/run` is out of reach.
#[derive(Debug)]
pub struct Grants {
    dir: Node,
}

impl Grants {
    /// Opens the directory below `run`, and makes it if it is missing.
    ///
    /// # Errors
    /// If it cannot be made (a user's engine), or others may enter it.
    pub fn below(run: &Node) -> io::Result<Self> {
        record::own_dir(run, "grants", 0o700).map(|dir| Self { dir })
    }

    /// Writes the grant of the container in this mount namespace.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn keep(&self, grant: &Grant) -> io::Result<()> {
        let name = file_name(grant.namespace.1);
        self.dir
            .write_file(&name, 0o600, grant.to_json().to_string().as_bytes())
    }
}

/// The file name for a mount namespace's inode number.
pub fn file_name(inode: u64) -> OsString {
    format!("{inode}.json").into()
}

/// The devices of one container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The engine's id of the container.
    pub container: String,
    /// Device and inode of the mount namespace.
    pub namespace: (u64, u64),
    /// `linux.cgroupsPath` of its definition.
    pub cgroup: Option<String>,
    /// The driver directory in the container.
    pub driver_dir: String,
    /// Path in the container and number of each node.
    pub devices: Vec<(PathBuf, DeviceNumber)>,
    /// When the grant was made, as time since the host's boot.
    pub time: Duration,
}

impl Grant {
    /// A grant of `devices`, made now.
    pub fn new(container: &str, namespace: (u64, u64), spec: Option<&Spec>, devices: &[Device]) -> Self {
        Self {
            container: container.to_owned(),
            namespace,
            cgroup: spec.and_then(Spec::cgroups_path).map(str::to_owned),
            driver_dir: String::new(),
            devices: devices.iter().map(|d| (d.path.clone(), d.number)).collect(),
            time: since_boot(),
        }
    }

    fn to_json(&self) -> Value {
        let devices = self.devices.iter();
        json!({
            "container": self.container,
            "namespace": [self.namespace.0, self.namespace.1],
            "cgroup": self.cgroup,
            "driverDir": self.driver_dir,
            "devices": devices.map(|(path, number)| json!([path, number.major, number.minor])).collect::<Vec<_>>(),
            "milliseconds": u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Parses the text that [`Grants::keep`] wrote.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let device = |d: &Value| {
            let (major, minor) = (number(&d[1])?, number(&d[2])?);
            Some((d[0].as_str()?.into(), DeviceNumber { major, minor }))
        };
        let devices = value["devices"].as_array()?;
        Some(Self {
            container: text("container")?,
            namespace: (value["namespace"][0].as_u64()?, value["namespace"][1].as_u64()?),
            cgroup: text("cgroup"),
            driver_dir: text("driverDir")?,
            devices: devices.iter().map(device).collect::<Option<_>>()?,
            time: Duration::from_millis(value["milliseconds"].as_u64()?),
        })
    }
}

/// The time since the host's boot, on the clock of processes' start times.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_grant_is_read_back() {
        let grant = Grant {
            container: "a\"b\n".to_owned(),
            namespace: (4, 4_026_532_001),
            cgroup: Some("system.slice:docker:abc".to_owned()),
            driver_dir: "/usr/local/nvidia".to_owned(),
            devices: vec![("/dev/nvidia0".into(), DeviceNumber { major: 195, minor: 0 })],
            time: Duration::from_millis(81_234),
        };
        let text = grant.to_json().to_string();
        assert_eq!(Grant::parse(text.as_bytes()), Some(grant));
        for cut in [0, 1, text.len() / 2, text.len() - 1] {
            assert_eq!(Grant::parse(&text.as_bytes()[..cut]), None);
        }
        assert_eq!(Grant::parse(b"{}"), None);
        assert_eq!(Grant::parse(text.replace("195", "4294967491").as_bytes()), None);
    }

    #[test]
    fn others_may_not_enter_the_directory() {
        use std::os::unix::fs::PermissionsExt as _;
        let run = tempfile::tempdir().unwrap();
        let node = crate::sys::root::Root::open(run.path())
            .unwrap()
            .resolve("/")
            .unwrap();
        let grants = Grants::below(&node).unwrap();
        let at = run.path().join("grants");
        let mode = || std::fs::metadata(&at).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        grants.keep(&Grant::new("c", (4, 7), None, &[])).unwrap();
        assert!(at.join("7.json").is_file());
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Grants::below(&node).is_err());
        std::fs::remove_dir_all(&at).unwrap();
        std::os::unix::fs::symlink("/tmp", &at).unwrap();
        assert!(Grants::below(&node).is_err());
    }
}
