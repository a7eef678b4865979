//! The data types of the views of a [`Spec`](super::Spec) and of its edits.

pub use crate::sys::cgroup::{Access, DeviceRule, RuleKind};

/// The stage at which a hook runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Stage {
    /// Deprecated; in the runtime's namespaces, before createRuntime.
    Prestart,
    /// In the runtime's namespaces.
    CreateRuntime,
    /// In the container's namespaces, before the root is changed.
    CreateContainer,
    /// In the container, before its program is started.
    StartContainer,
    /// In the runtime's namespaces, after the program is started.
    Poststart,
    /// In the runtime's namespaces, after the container is deleted.
    Poststop,
}

impl Stage {
    /// Every stage, in the order in which they run.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// The key under `hooks`.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// A hook entry of the spec.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hook {
    /// The program, absolute.
    pub path: String,
    /// Its arguments, `argv[0]` first; empty if the entry has none.
    pub args: Vec<String>,
    /// Its environment as `K=V`. If it is empty the runtime chooses one, possibly the image's.
    pub env: Vec<String>,
    /// Seconds after which the runtime kills it.
    pub timeout: Option<i64>,
}

/// A hook entry to write. It always has an environment, since an old runc gives a hook without one
/// the *image's*.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HookSpec {
    hook: Hook,
}

impl HookSpec {
    /// A hook that runs `path` with `args` (`argv[0]` first) and the environment variable `key`.
    pub fn new(path: impl Into<String>, args: Vec<String>, key: &str, value: &str) -> Self {
        Self {
            hook: Hook {
                path: path.into(),
                args,
                env: vec![format!("{key}={value}")],
                timeout: None,
            },
        }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.hook.env.push(format!("{key}={value}"));
        self
    }

    /// Sets the time after which the runtime kills the hook, in seconds.
    #[must_use]
    pub fn timeout(mut self, seconds: u32) -> Self {
        self.hook.timeout = Some(seconds.into());
        self
    }

    /// The entry.
    pub fn hook(&self) -> &Hook {
        &self.hook
    }
}

/// A mount entry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mount {
    /// Path in the container.
    pub destination: String,
    /// A host path for a bind mount, else a name.
    pub source: Option<String>,
    /// The file system type.
    pub typ: Option<String>,
    /// The options, in order.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether it binds a host path.
    pub fn is_bind(&self) -> bool {
        self.typ.as_deref() == Some("bind") || self.options.iter().any(|o| o == "bind" || o == "rbind")
    }
}

/// The type of a device node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

impl DeviceKind {
    /// The letter that specs use.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Char => "c",
            Self::Block => "b",
        }
    }
}

/// A device node that the runtime makes (`linux.devices`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceSpec {
    /// Path in the container.
    pub path: String,
    /// Its type.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits; `None` for the runtime's default.
    pub file_mode: Option<u32>,
    /// Owner, as an id in the container.
    pub uid: Option<u32>,
    /// Group, as an id in the container.
    pub gid: Option<u32>,
}

impl From<DeviceKind> for RuleKind {
    fn from(kind: DeviceKind) -> Self {
        match kind {
            DeviceKind::Char => Self::Char,
            DeviceKind::Block => Self::Block,
        }
    }
}

/// The user and groups of the container's process.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct User {
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container.
    pub gid: u32,
    /// Supplementary group ids in the container.
    pub additional_gids: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_cover_and_overlap() {
        let gpu = DeviceRule::allow(RuleKind::Char, 195, 0, Access::RW);
        let all = DeviceRule {
            allow: true,
            kind: RuleKind::All,
            major: None,
            minor: None,
            access: Access::RWM,
        };
        assert!(all.covers(&gpu) && !gpu.covers(&all) && gpu.overlaps(&all));
        let other = DeviceRule {
            minor: Some(1),
            ..gpu
        };
        assert!(!other.covers(&gpu) && !other.overlaps(&gpu));
        let make = DeviceRule {
            access: Access {
                read: false,
                write: false,
                mknod: true,
            },
            ..gpu
        };
        assert!(!make.covers(&gpu) && !make.overlaps(&gpu));
        assert_eq!(Access::parse("mr").unwrap().to_string(), "rm");
        assert_eq!(Access::parse("rx"), None);
    }
}
