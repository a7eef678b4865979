//! A specification as plain data. Names of fields and their meaning: CDI's SPEC.md, `specs-go/config.go`.

use super::version::Version;

/// A specification: devices of one kind.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CdiSpec {
    /// The version that the file declares.
    pub version: Version,
    /// `vendor/class`.
    pub kind: String,
    /// Notes for other programs.
    pub annotations: Vec<(String, String)>,
    /// The devices.
    pub devices: Vec<Device>,
    /// What every container gets that asks for one of the devices.
    pub edits: Edits,
}

/// A device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Device {
    /// Its name within the kind.
    pub name: String,
    /// Notes for other programs.
    pub annotations: Vec<(String, String)>,
    /// What a container gets that asks for it.
    pub edits: Edits,
}

/// Changes of a container's definition.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Edits {
    /// `K=V`.
    pub env: Vec<String>,
    /// Device nodes.
    pub device_nodes: Vec<DeviceNode>,
    /// Network interfaces that are moved into the container: host's name, container's name.
    pub net_devices: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// OCI hooks.
    pub hooks: Vec<Hook>,
    /// Intel's cache and bandwidth allocation.
    pub intel_rdt: Option<IntelRdt>,
    /// Supplementary groups of the container's process.
    pub additional_gids: Vec<u32>,
}

impl Edits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `other` has and this lacks.
    pub fn merge(&mut self, other: &Self) {
        fn add<T: Clone + PartialEq>(to: &mut Vec<T>, from: &[T]) {
            for item in from {
                if !to.contains(item) {
                    to.push(item.clone());
                }
            }
        }
        add(&mut self.env, &other.env);
        add(&mut self.device_nodes, &other.device_nodes);
        add(&mut self.net_devices, &other.net_devices);
        add(&mut self.mounts, &other.mounts);
        add(&mut self.hooks, &other.hooks);
        add(&mut self.additional_gids, &other.additional_gids);
        if other.intel_rdt.is_some() {
            self.intel_rdt.clone_from(&other.intel_rdt);
        }
    }
}

/// A device node. What is `None` the engine takes from the host's node when the container is made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the host; `None`: the same path.
    pub host_path: Option<String>,
    /// `b`, `c`, `u` or `p`.
    pub typ: Option<String>,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// What the device cgroup allows: letters of `rwm`, or `none`.
    pub permissions: Option<String>,
    /// Owner in the container.
    pub uid: Option<u32>,
    /// Group in the container.
    pub gid: Option<u32>,
}

impl DeviceNode {
    /// Where the node is on the host.
    pub fn on_host(&self) -> &str {
        self.host_path.as_deref().unwrap_or(&self.path)
    }
}

/// A mount.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mount {
    /// What.
    pub host_path: String,
    /// Where.
    pub container_path: String,
    /// The options, in order.
    pub options: Vec<String>,
    /// The file system type.
    pub typ: Option<String>,
}

/// An OCI hook.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hook {
    /// The stage: `createContainer` and so on.
    pub stage: String,
    /// The program, absolute.
    pub path: String,
    /// Its arguments, argv[0] first.
    pub args: Vec<String>,
    /// Its environment as `K=V`.
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    pub timeout: Option<u32>,
}

/// Intel's cache and bandwidth allocation; nothing here looks into it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct IntelRdt {
    /// The class of service.
    pub clos_id: Option<String>,
    /// The cache schema.
    pub l3_cache_schema: Option<String>,
    /// The bandwidth schema.
    pub mem_bw_schema: Option<String>,
    /// Lines of the schemata file.
    pub schemata: Vec<String>,
    /// Whether a monitoring group is made.
    pub enable_monitoring: Option<bool>,
    /// Until 1.0: cache monitoring.
    pub enable_cmt: Option<bool>,
    /// Until 1.0: bandwidth monitoring.
    pub enable_mbm: Option<bool>,
}
