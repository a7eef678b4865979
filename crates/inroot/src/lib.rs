//! Works on paths that another user controls: lookups that stay below a directory, proofs that only
//! root can have chosen an inode, and mounts by descriptor. For example,
//! `Root::open("/srv/rootfs")?.resolve("etc/passwd")` never leaves `/srv/rootfs`, whatever links
//! are in it.
//!
//! | module | contents |
//! |---|---|
//! | [`root`] | lookups by descriptor that never leave a directory |
//! | [`owned`] | files that only root can have written |
//! | [`mount`] | mounts that are made detached and attached to an inode |
//! | [`mountinfo`] | the mounts of a namespace, from the kernel's list |
//! | [`text`] | names of such a tree, shown on one line |
//! | [`held`] | descriptors that are closed in few calls |
//! | [`handle`] | the same inode through another mount |

mod device;
#[allow(unsafe_code)]
pub mod handle;
#[allow(unsafe_code)]
pub mod held;
mod label;
#[allow(unsafe_code)]
pub mod mount;
pub mod mountinfo;
pub mod owned;
#[allow(unsafe_code)]
pub mod root;
pub mod text;

pub use label::{label, set_label};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
