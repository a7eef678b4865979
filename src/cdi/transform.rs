//! Moves a specification to another root, for a driver container whose root has another path for
//! the engine.

use std::path::{Path, PathBuf};

use super::types::{CdiSpec, Edits};

/// The side whose paths are changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Side {
    /// Paths of the host.
    #[default]
    Host,
    /// Paths of the container.
    Container,
}

/// Replaces `from` by `to` if a path begins with it, by whole components.
/// [`Valid`](super::validate::Valid) raises the version: a host path that differs needs 0.5.0.
pub fn root(spec: &mut CdiSpec, from: &Path, to: &Path, side: Side) {
    let all = spec
        .devices
        .iter_mut()
        .map(|d| &mut d.edits)
        .chain([&mut spec.edits]);
    for edits in all {
        change(edits, side, &|text: &mut String| moved(text, from, to));
    }
}

fn change(edits: &mut Edits, side: Side, move_path: &dyn Fn(&mut String)) {
    for node in &mut edits.device_nodes {
        if side == Side::Container {
            move_path(&mut node.path);
            continue;
        }
        let mut on_host = node.on_host().to_owned();
        move_path(&mut on_host);
        node.host_path = (on_host != node.path).then_some(on_host);
    }
    for mount in &mut edits.mounts {
        move_path(match side {
            Side::Host => &mut mount.host_path,
            Side::Container => &mut mount.container_path,
        });
    }
    for hook in &mut edits.hooks {
        // A startContainer hook is a program of the container. The arguments of a createContainer
        // hook are the container's paths.
        let inside = hook.stage == "startContainer";
        let words_inside = inside || hook.stage == "createContainer";
        if inside == (side == Side::Container) {
            move_path(&mut hook.path);
        }
        if words_inside == (side == Side::Container) {
            for word in &mut hook.args {
                match word.split_once("::") {
                    Some((a, b)) => {
                        let (mut a, mut b) = (a.to_owned(), b.to_owned());
                        move_path(&mut a);
                        move_path(&mut b);
                        *word = format!("{a}::{b}");
                    }
                    None => move_path(word),
                }
            }
        }
    }
}

fn moved(text: &mut String, from: &Path, to: &Path) {
    if let Ok(rest) = Path::new(text.as_str()).strip_prefix(from) {
        let new: PathBuf = if to.as_os_str().is_empty() {
            Path::new("/").join(rest)
        } else if rest.as_os_str().is_empty() {
            to.to_owned()
        } else {
            to.join(rest)
        };
        *text = new.display().to_string();
    }
}
