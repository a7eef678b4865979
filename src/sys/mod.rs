//! What needs the kernel's newer or unsafe interfaces: in-root paths, the mount API, namespaces,
//! cgroup devices, capabilities. The only module with `unsafe`.

pub mod budget;
pub mod cgroup;
pub mod daemon;
pub mod dxg;
mod handle;
pub mod lock;
pub mod mount;
pub mod mountinfo;
pub mod ns;
pub mod owned;
pub mod probe;
pub mod process;
pub mod procfs;
pub mod program;
pub mod reader;
pub mod root;
pub mod scratch;
mod seccomp;
pub mod source;
pub mod systemd;
