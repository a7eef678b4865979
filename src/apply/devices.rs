//! Device nodes in the container's `/dev`.

use std::path::Path;

use rustix::fs::FileType;

use super::container::Container;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::plan::Device;
use crate::sys::held::close_together;
use crate::sys::mount::{Detached, Placed};
use crate::sys::root::{Node, split};

/// Binds each node to its path. A correct node that the engine made stays.
pub(super) fn bind_nodes(container: &Container, devices: Vec<(Device, Option<Detached>)>) -> Result<()> {
    let mut dirs = container.own_dirs();
    let mut done = Vec::new();
    for (device, tree) in devices {
        let what = || format!("device node {} in the container", device.path.display());
        let (dir, name) = split(&device.path).context(Code::DeviceNode, what)?;
        let Some(tree) = tree else {
            if is_there(container, &device)? {
                continue;
            }
            dirs.get(dir).map_err(|e| refuse(&device, dir, &e))?;
            let why = "the container's definition has it, but the runtime has made no such node";
            return Err(
                Error::new(Code::DeviceNode, what(), why).fix("remove the container's mount over /dev")
            );
        };
        let parent = match dirs.get(dir) {
            Ok(parent) => parent,
            Err(_) if is_there(container, &device)? => continue,
            Err(e) => return Err(refuse(&device, dir, &e)),
        };
        match Placed::make(parent, name) {
            Ok(place) => done.extend(place.attach(tree).context(Code::Mount, what)?),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                if is_there(container, &device)? {
                    continue;
                }
                check_placeholder(
                    container,
                    &parent.child(name).context(Code::DeviceNode, what)?,
                    &device,
                )?;
                tree.attach(parent, name).context(Code::Mount, what)?;
            }
            Err(e) => return Err(refuse(&device, dir, &e)),
        }
    }
    close_together(done);
    Ok(())
}

fn is_there(container: &Container, device: &Device) -> Result<bool> {
    match container.root().resolve_nofollow(&device.path) {
        Ok(n) => Ok(n.kind() == FileType::CharacterDevice && n.rdev() == device.number),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(refuse(device, &device.path, &e)),
    }
}

/// Checks that a node may be bound over `node`: an empty file, or a device of another number on the
/// runtime's own `/dev`. Engines cache a CDI device's number, and a reloaded driver may have a new
/// one.
fn check_placeholder(container: &Container, node: &Node, device: &Device) -> Result<()> {
    let empty = node.kind() == FileType::RegularFile && node.stat().st_size == 0;
    let stale = node.kind() == FileType::CharacterDevice && container.on_tmpfs(node).unwrap_or(false);
    if empty || stale {
        return Ok(());
    }
    Err(Error::new(
        Code::UnsafePath,
        format!("device node {} in the container", device.path.display()),
        "the image has another file of that name",
    ))
}

fn refuse(device: &Device, at: &Path, e: &std::io::Error) -> Error {
    let what = format!("device node {} in the container", device.path.display());
    match e.raw_os_error() {
        Some(libc::EROFS) => Error::new(
            Code::DeviceNode,
            what,
            format!(
                "{} is a volume without that node, and volumes are never written to",
                at.display()
            ),
        )
        .fix("remove the container's mount over /dev, or make the node in that volume"),
        Some(libc::ELOOP | libc::EXDEV | libc::ENOTDIR) => Error::new(
            Code::UnsafePath,
            what,
            format!("{} is not a plain directory of the image", at.display()),
        ),
        _ => Error::io(Code::DeviceNode, what, e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Mounts;
    use crate::vocabulary::DeviceNumber;

    /// A definition that has a device whose node is covered, or was never made.
    #[test]
    fn a_node_that_the_runtime_was_to_make_is_not_made_up() {
        let rootfs = tempfile::tempdir().unwrap();
        std::fs::create_dir(rootfs.path().join("dev")).unwrap();
        let container = Container::open(rootfs.path(), Mounts::default()).unwrap();
        let device = Device {
            path: "/dev/nvidia0".into(),
            number: DeviceNumber { major: 195, minor: 0 },
            mode: 0o666,
            uid: 0,
            gid: 0,
            reason: String::new(),
        };
        let refused = bind_nodes(&container, vec![(device, None)]).unwrap_err();
        assert_eq!(refused.code(), Code::DeviceNode);
        assert!(refused.to_string().contains("made no such node"), "{refused}");
        assert!(
            std::fs::read_dir(rootfs.path().join("dev"))
                .unwrap()
                .next()
                .is_none()
        );
    }
}
