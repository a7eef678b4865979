//! A specification as plain data. Names of fields and their meaning: CDI's SPEC.md,
//! `specs-go/config.go`.
//!
//! Only this module names the fields of the format. The reader and the writer take the names and
//! their order from it, by serde ([decision 033](../../docs/decisions/033-cdi-serde.md)).

use serde::{Deserialize, Serialize};

use super::version::Version;

/// A specification: devices of one kind.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct CdiSpec {
    /// The version that the file declares.
    #[serde(rename = "cdiVersion")]
    pub version: Version,
    /// `vendor/class`.
    pub kind: String,
    /// Notes for other programs.
    #[serde(with = "pairs", skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<(String, String)>,
    /// The devices.
    pub devices: Vec<Device>,
    /// The edits for every container that requests one of the devices.
    #[serde(rename = "containerEdits", skip_serializing_if = "Edits::is_empty")]
    pub edits: Edits,
}

/// A device.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Device {
    /// Its name within the kind.
    pub name: String,
    /// Notes for other programs.
    #[serde(with = "pairs", skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<(String, String)>,
    /// The edits for a container that requests it.
    #[serde(rename = "containerEdits")]
    pub edits: Edits,
}

/// Changes of a container's definition.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edits {
    /// `K=V`.
    pub env: Vec<String>,
    /// Device nodes.
    pub device_nodes: Vec<DeviceNode>,
    /// Network interfaces that are moved into the container.
    pub net_devices: Vec<NetDevice>,
    /// OCI hooks.
    pub hooks: Vec<Hook>,
    /// Mounts.
    pub mounts: Vec<Mount>,
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

    /// Adds the items of `other` that this lacks.
    pub fn merge(&mut self, other: &Self) {
        fn add_missing<T: Clone + PartialEq>(to: &mut Vec<T>, from: &[T]) {
            for item in from {
                if !to.contains(item) {
                    to.push(item.clone());
                }
            }
        }
        add_missing(&mut self.env, &other.env);
        add_missing(&mut self.device_nodes, &other.device_nodes);
        add_missing(&mut self.net_devices, &other.net_devices);
        add_missing(&mut self.mounts, &other.mounts);
        add_missing(&mut self.hooks, &other.hooks);
        add_missing(&mut self.additional_gids, &other.additional_gids);
        if other.intel_rdt.is_some() {
            self.intel_rdt.clone_from(&other.intel_rdt);
        }
    }
}

/// A device node. The engine takes each `None` from the host's node when it makes the container.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the host; `None`: the same path.
    pub host_path: Option<String>,
    /// `b`, `c`, `u` or `p`.
    #[serde(rename = "type")]
    pub typ: Option<String>,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// The access that the device cgroup allows: letters of `rwm`, or `none`.
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

/// A network interface that is moved into the container.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetDevice {
    /// Its name on the host.
    pub host_interface_name: String,
    /// Its name in the container.
    pub name: String,
}

/// A mount.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The source.
    pub host_path: String,
    /// The destination.
    pub container_path: String,
    /// The options, in order.
    pub options: Vec<String>,
    /// The file system type.
    #[serde(rename = "type")]
    pub typ: Option<String>,
}

/// An OCI hook.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hook {
    /// The stage: `createContainer` and so on.
    #[serde(rename = "hookName")]
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

/// Intel's cache and bandwidth allocation. nvoci only validates and copies it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IntelRdt {
    /// The class of service.
    #[serde(rename = "closID")]
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
    #[serde(rename = "enableCMT")]
    pub enable_cmt: Option<bool>,
    /// Until 1.0: bandwidth monitoring.
    #[serde(rename = "enableMBM")]
    pub enable_mbm: Option<bool>,
}

/// Annotations: a mapping in a file, and pairs in memory, since their order is kept.
mod pairs {
    use core::fmt;

    use serde::de::{Deserializer, MapAccess, Visitor};
    use serde::ser::Serializer;

    type Pairs = Vec<(String, String)>;

    pub(super) fn serialize<S: Serializer>(pairs: &Pairs, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(pairs.iter().map(|(key, value)| (key, value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Pairs, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of text to text")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        d.deserialize_map(InOrder)
    }
}
