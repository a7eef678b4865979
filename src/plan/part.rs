//! A module's contribution to the plan, such as one GPU with its nodes. Only [`super::plan`] joins
//! parts.

use super::{Device, DriverFile, GpuRef, Link, Place, RootfsLink, Text, Tree, Unusable};

/// A part of a [`super::Plan`], whose fields it has.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) gpus: Vec<GpuRef>,
    pub(super) devices: Vec<Device>,
    pub(super) files: Vec<DriverFile>,
    pub(super) links: Vec<Link>,
    pub(super) texts: Vec<Text>,
    pub(super) trees: Vec<Tree>,
    pub(super) rootfs_links: Vec<RootfsLink>,
    pub(super) env: Vec<(String, String)>,
    pub(super) warnings: Vec<String>,
    pub(super) unusable: Vec<Unusable>,
}

impl Part {
    /// A part that is one warning.
    pub(super) fn warning(text: impl Into<String>) -> Self {
        Self {
            warnings: vec![text.into()],
            ..Self::default()
        }
    }

    /// Joins `other` to this part: the first node and link of a path stay, and the last value of a
    /// variable.
    pub(super) fn add(&mut self, other: Self) {
        let Self {
            gpus,
            devices,
            files,
            links,
            texts,
            trees,
            rootfs_links,
            env,
            warnings,
            unusable,
        } = other;
        self.gpus.extend(gpus);
        for device in devices {
            self.add_device(device);
        }
        self.files.extend(files);
        for link in links {
            self.add_link(link);
        }
        self.texts.extend(texts);
        self.trees.extend(trees);
        self.rootfs_links.extend(rootfs_links);
        for (name, value) in env {
            self.env.retain(|(n, _)| *n != name);
            self.env.push((name, value));
        }
        self.warnings.extend(warnings);
        self.unusable.extend(unusable);
    }

    /// Adds a node, if there is none at its path.
    pub(super) fn add_device(&mut self, device: Device) {
        if !self.devices.iter().any(|d| d.path == device.path) {
            self.devices.push(device);
        }
    }

    /// Adds a link, if there is none at its path. If two libraries share a stem
    /// (libnvidia-nvvm.so.4 and its versioned twin), the first keeps the name.
    pub(super) fn add_link(&mut self, link: Link) {
        if !self.links.iter().any(|l| l.at == link.at) {
            self.links.push(link);
        }
    }

    /// The number of files with a path of their own in the container; each is in a numbered
    /// directory.
    pub(super) fn site_files(&self) -> usize {
        self.files.iter().filter(|f| f.place == Place::Site).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::DeviceNumber;

    fn device(path: &str, minor: u32) -> Device {
        Device {
            path: path.into(),
            number: DeviceNumber { major: 195, minor },
            mode: 0o666,
            uid: 0,
            gid: 0,
            reason: minor.to_string(),
        }
    }

    #[test]
    fn the_first_node_and_link_of_a_path_and_the_last_value_of_a_variable() {
        let part = |number: u32| Part {
            devices: vec![
                device("/dev/nvidia0", number),
                device(&format!("/dev/x{number}"), 9),
            ],
            links: vec![Link {
                at: "lib64/a.so".into(),
                target: number.to_string().into(),
            }],
            env: vec![
                ("A".to_owned(), number.to_string()),
                (format!("B{number}"), String::new()),
            ],
            warnings: vec![number.to_string()],
            ..Part::default()
        };
        let mut all = part(0);
        all.add(part(1));
        all.add(Part::warning("w"));
        let devices: Vec<_> = all
            .devices
            .iter()
            .map(|d| (d.path.to_str().unwrap(), d.number.minor))
            .collect();
        assert_eq!(devices, [("/dev/nvidia0", 0), ("/dev/x0", 9), ("/dev/x1", 9)]);
        assert_eq!(all.links.len(), 1);
        assert_eq!(all.links[0].target.to_str(), Some("0"));
        let env: Vec<_> = all.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(env, [("B0", ""), ("A", "1"), ("B1", "")]);
        assert_eq!(all.warnings, ["0", "1", "w"]);
    }
}
