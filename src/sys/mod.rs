//! Access to the kernel's newer or unsafe interfaces: mounts, namespaces, device cgroups,
//! capabilities, `/proc`. The only module of `src/` with `unsafe`. Every file of the host that is
//! bound comes from [`source`].

pub mod daemon;
pub mod dxg;
pub mod kmsg;
pub mod lock;
pub mod ns;
#[cfg(test)]
pub(crate) mod peak;
pub mod probe;
pub mod process;
pub mod procfs;
pub mod program;
pub mod reader;
pub mod scratch;
mod seccomp;
pub mod selinux;
pub mod source;
pub mod stderr;
pub mod syslog;
pub mod systemd;
pub mod terminal;

pub use crate::budget;
pub use device_cgroup as cgroup;
pub use inroot::{held, mount, mountinfo, root};

/// [`inroot::owned`] with errors that have a code.
pub mod owned {
    use std::path::Path;

    pub use inroot::owned::OTHERS_WRITE;
    pub(super) use inroot::owned::{
        MAX_LINKS, STICKY, USERS_FUSE, is_users_fuse, keeps, may_be_fuse, trusted_users,
    };

    use super::root::Node;
    use crate::error::Result;

    /// [`inroot::owned::find`].
    pub fn find(path: &Path) -> Result<Option<Node>> {
        Ok(inroot::owned::find(path)?)
    }

    /// [`inroot::owned::find_lasting`].
    pub fn find_lasting(path: &Path) -> Result<Option<Node>> {
        Ok(inroot::owned::find_lasting(path)?)
    }

    /// [`inroot::owned::find_by_own_links`].
    pub fn find_by_own_links(path: &Path) -> Result<Option<Node>> {
        Ok(inroot::owned::find_by_own_links(path)?)
    }

    /// [`inroot::owned::check`].
    pub fn check(node: &Node, path: &Path) -> Result<()> {
        Ok(inroot::owned::check(node, path)?)
    }
}
