//! The devices of mode csv: those of a Jetson, which CSV files describe instead of the driver.
//!
//! | host | devices |
//! |---|---|
//! | one GPU, or several that are no Jetson's | one, index 0: every `dev` entry of the files |
//! | Thor, or an Orin with a card | one a GPU: the integrated one (0) by the files, the others by the driver |
//!
//! Source: `nvidia-ctk cdi generate --mode=csv` 1.20 (`facts/toolkit-features.md` 5.9).

use std::collections::BTreeSet;
use std::path::Path;

use super::generate::{NONE, Naming, Numbers, Options, depth_first, edits_of, gpu_nodes, named};
use super::types::{CdiSpec, Edits};
use crate::error::{Code, Error, Result};
use crate::host::tegra::EntryKind;
use crate::host::{DeviceNode as HostNode, Gpu, Host, NodeKind, Platform, Roots};
use crate::vocabulary::or_empty;

/// The node of a Thor's display, which its files do not name.
pub const DISPLAY: &str = "/dev/nvidia2";

/// The directory of CUDA's compatibility libraries in an Orin's images.
pub(super) const ORIN_COMPAT: &str = "/usr/local/cuda/compat_orin";

/// Whether each GPU has its device, and the reason if not.
pub(super) struct Outcome {
    /// Whether there is a device for each GPU.
    pub(super) mixed: bool,
    pub(super) warning: Option<String>,
}

/// Adds the devices.
///
/// # Errors
/// [`Code::UnknownDevice`] for an identifier of no device.
pub(super) fn devices(spec: &mut CdiSpec, host: &Host, roots: &Roots, options: &Options) -> Result<Outcome> {
    let entries = entries(host);
    let integrated = host.usable_gpus().find(|gpu| is_integrated(gpu));
    let discrete: Vec<&Gpu> = host.usable_gpus().filter(|gpu| !is_integrated(gpu)).collect();
    // An Orin's own GPU is not among the driver's.
    let jetson = integrated.is_some() || host.platform == Platform::Tegra;
    let several = !options.explicit.csv_single && discrete.len() + usize::from(jetson) > 1;
    let mixed = several && jetson;
    let mut rows = vec![Row::integrated(
        integrated,
        &entries,
        if mixed { &discrete } else { &[] },
        host,
    )];
    if mixed {
        let numbered = (1..).zip(&discrete);
        rows.extend(numbered.map(|(index, gpu)| Row::discrete(index, gpu, &entries, host)));
    }
    if let Some(id) = options
        .ids
        .iter()
        .find(|id| *id != NONE && !rows.iter().any(|r| r.is(id)))
    {
        let why = "in mode csv this host has no such device";
        return Err(Error::new(Code::UnknownDevice, format!("device {id}"), why));
    }
    let mut all = Edits::default();
    let mut devices = Vec::new();
    let wanted = |row: &Row<'_>| options.ids.is_empty() || options.ids.iter().any(|id| row.is(id));
    for row in rows.into_iter().filter(wanted) {
        let names = row.names(&options.naming, mixed);
        let edits = edits_of(row.nodes, roots, options, Numbers::Now);
        if !edits.is_empty() {
            all.merge(&edits);
            devices.extend(names.map(|name| (name, edits.clone())));
        }
    }
    all.device_nodes
        .sort_by(|a, b| depth_first(&a.path).cmp(&depth_first(&b.path)));
    spec.devices = named(devices, all, options);
    let why = "mode csv: none of the GPUs is an integrated one, so the specification has one device with the nodes of the \
               CSV files";
    Ok(Outcome {
        mixed,
        warning: (several && !mixed).then(|| why.to_owned()),
    })
}

/// The nodes that the files name and the host has.
fn entries(host: &Host) -> Vec<&HostNode> {
    let entries = host.tegra.iter().flat_map(|t| &t.entries);
    let devices = entries.filter(|e| e.kind == EntryKind::Device);
    devices.filter_map(|e| node_at(host, &e.at)).collect()
}

fn node_at<'h>(host: &'h Host, path: &Path) -> Option<&'h HostNode> {
    host.nodes.iter().find(|n| n.present && n.path == path)
}

/// A Thor's GPU is a PCI device with a place of its own; an Orin's has its driver's name.
fn is_integrated(gpu: &Gpu) -> bool {
    gpu.name.contains("(nvgpu)") || gpu.name.contains("NVIDIA Thor")
}

/// A device of the specification.
struct Row<'h> {
    index: u32,
    gpu: Option<&'h Gpu>,
    nodes: Vec<&'h HostNode>,
}

impl<'h> Row<'h> {
    /// The files' nodes without those of the other GPUs, and the display's node.
    fn integrated(gpu: Option<&'h Gpu>, entries: &[&'h HostNode], discrete: &[&Gpu], host: &'h Host) -> Self {
        let of_others = |node: &HostNode| discrete.iter().any(|g| node.kind == NodeKind::Gpu(g.minor));
        let mut nodes: Vec<&HostNode> = entries.iter().copied().filter(|n| !of_others(n)).collect();
        if !discrete.is_empty() {
            let display = node_at(host, Path::new(DISPLAY)).filter(|n| !of_others(n));
            nodes.extend(display.filter(|d| !entries.iter().any(|n| n.path == d.path)));
        }
        Self { index: 0, gpu, nodes }
    }

    /// The driver's nodes, and the files' nodes that belong to no GPU.
    fn discrete(index: u32, gpu: &'h Gpu, entries: &[&'h HostNode], host: &'h Host) -> Self {
        const CONTROL: [NodeKind; 4] = [
            NodeKind::Modeset,
            NodeKind::Uvm,
            NodeKind::UvmTools,
            NodeKind::Ctl,
        ];
        let mut nodes = gpu_nodes(host, gpu);
        nodes.extend(
            CONTROL
                .iter()
                .filter_map(|kind| host.node(*kind).filter(|n| n.present)),
        );
        let mut seen: BTreeSet<&Path> = nodes.iter().map(|n| n.path.as_path()).collect();
        let others = entries.iter().filter(|n| !names_a_gpu(&n.path));
        nodes.extend(others.filter(|n| seen.insert(&n.path)));
        Self {
            index,
            gpu: Some(gpu),
            nodes,
        }
    }

    fn is(&self, id: &str) -> bool {
        let uuid = self.gpu.and_then(|gpu| gpu.uuid);
        id == self.index.to_string() || uuid.is_some_and(|uuid| id == uuid.to_string())
    }

    /// Alone it has no UUID that the files could name.
    fn names(&self, naming: &[Naming], mixed: bool) -> impl Iterator<Item = String> + use<> {
        let of = |naming: &Naming| match naming {
            Naming::Index => self.index.to_string(),
            Naming::TypeIndex => format!("gpu{}", self.index),
            Naming::Uuid if mixed => self.gpu.map(|gpu| or_empty(gpu.uuid)).unwrap_or_default(),
            Naming::Uuid => String::new(),
        };
        naming.iter().map(of).collect::<Vec<_>>().into_iter()
    }
}

/// `/dev/nvidia` and a number.
fn names_a_gpu(path: &Path) -> bool {
    let number = path.to_str().and_then(|path| path.strip_prefix("/dev/nvidia"));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdi::explicit::{Mode, explicit};
    use crate::cdi::generate::Explicit;
    use crate::host::testhost::TestHost;
    use crate::host::{Locations, tegra};

    const LISTS: &str = "etc/nvidia-container-runtime/host-files-for-container.d";

    /// A Thor with a card, or with `name` another board with GPUs at bus 1 and 3; `None` where this
    /// process may not make device nodes.
    fn board(name: &str) -> Option<TestHost> {
        board_of(&[(1, 0, name), (3, 1, "RTX Pro 6000")])
    }

    /// A board with GPUs at these buses, of these minor numbers and names.
    fn board_of(gpus: &[(u8, u8, &str)]) -> Option<TestHost> {
        let host = TestHost::bare();
        host.module("580.95.05", 0);
        for (bus, minor, name) in gpus {
            host.file(
                &format!("proc/driver/nvidia/gpus/0000:0{bus}:00.0/information"),
                format!(
                    "Model: \t\t {name}\nGPU UUID: \t GPU-0000000{minor}-0000-0000-0000-000000000000\n\
                     Bus Location: \t 0000:0{bus}:00.0\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
                ),
            );
        }
        host.file(
            &format!("{LISTS}/devices.csv"),
            "dev, /dev/nvidia0\ndev, /dev/nvidia1\ndev, /dev/nvidiactl\ndev, /dev/nvmap\n",
        );
        let nodes = [
            ("nvidia0", 195, 0),
            ("nvidia1", 195, 1),
            ("nvidia2", 195, 2),
            ("nvidiactl", 195, 255),
            ("nvmap", 10, 60),
        ];
        let made = nodes
            .iter()
            .all(|(name, major, minor)| host.device(name, *major, *minor, 0o666));
        made.then_some(host)
    }

    fn locations(host: &TestHost) -> Locations {
        Locations {
            csv: Some(tegra::Choice::default()),
            site_devices: vec![DISPLAY.into()],
            ..host.locations()
        }
    }

    fn made(host: &TestHost, options: &Options) -> Result<(CdiSpec, Vec<String>)> {
        let roots = Roots::open(&locations(host))?;
        let seen = Host::discover(&roots, &locations(host))?;
        explicit(&seen, &roots, options, Mode::Csv)
    }

    fn options(naming: &[Naming]) -> Options {
        Options {
            kind: "nvidia.com/gpu".to_owned(),
            naming: naming.to_vec(),
            all: true,
            hook_path: "/usr/bin/nvidia-cdi-hook".to_owned(),
            additional_gids: false,
            ids: Vec::new(),
            explicit: Explicit::default(),
            extra: Vec::new(),
        }
    }

    /// `0: /dev/nvidia0 /dev/nvmap`
    fn shown(spec: &CdiSpec) -> Vec<String> {
        let row = |d: &crate::cdi::Device| {
            let nodes: Vec<&str> = d.edits.device_nodes.iter().map(|n| n.path.as_str()).collect();
            format!("{}: {}", d.name, nodes.join(" "))
        };
        spec.devices.iter().map(row).collect()
    }

    #[test]
    fn a_thor_and_its_card_are_two_devices() {
        let Some(host) = board("NVIDIA Thor") else { return };
        let (spec, _) = made(&host, &options(&[Naming::Index])).unwrap();
        assert_eq!(
            shown(&spec),
            [
                "0: /dev/nvidia0 /dev/nvidia2 /dev/nvidiactl /dev/nvmap",
                "1: /dev/nvidia1 /dev/nvidiactl /dev/nvmap",
                "all: /dev/nvidia0 /dev/nvidia1 /dev/nvidia2 /dev/nvidiactl /dev/nvmap"
            ]
        );
        let compat = spec
            .edits
            .hooks
            .iter()
            .find(|h| h.args[1] == "enable-cuda-compat")
            .unwrap();
        assert_eq!(compat.args[2..], ["--host-driver-version=580.95.05"]);
        let mut one = options(&[Naming::Uuid]);
        one.ids = vec!["GPU-00000001-0000-0000-0000-000000000000".to_owned()];
        let (spec, _) = made(&host, &one).unwrap();
        assert_eq!(
            shown(&spec),
            [
                "GPU-00000001-0000-0000-0000-000000000000: /dev/nvidia1 /dev/nvidiactl /dev/nvmap",
                "all: /dev/nvidia1 /dev/nvidiactl /dev/nvmap"
            ]
        );
        one.ids = vec!["2".to_owned()];
        assert_eq!(made(&host, &one).unwrap_err().code(), Code::UnknownDevice);
    }

    #[test]
    fn an_orins_own_gpu_comes_before_its_card() {
        let Some(host) = board_of(&[(3, 1, "RTX Pro 6000")]) else {
            return;
        };
        host.file("etc/nv_tegra_release", "# R36\n");
        let (spec, _) = made(&host, &options(&[Naming::TypeIndex])).unwrap();
        let names: Vec<&str> = spec.devices.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["gpu0", "gpu1", "all"]);
        let nodes = shown(&spec);
        assert!(
            !nodes[0].contains("/dev/nvidia1") && nodes[0].contains("/dev/nvmap"),
            "{nodes:?}"
        );
        assert!(
            nodes[1].contains("/dev/nvidia1") && nodes[1].contains("/dev/nvmap"),
            "{nodes:?}"
        );
        // Alone it is one device.
        let Some(host) = board_of(&[]) else { return };
        host.file("etc/nv_tegra_release", "# R36\n");
        let (spec, warnings) = made(&host, &options(&[Naming::Index])).unwrap();
        assert_eq!(spec.devices.len(), 2, "{warnings:?}");
    }

    #[test]
    fn gpus_of_no_jetson_are_one_device_and_a_warning() {
        let everything = "/dev/nvidia0 /dev/nvidia1 /dev/nvidiactl /dev/nvmap";
        for (name, single, warned) in [("NVIDIA A100", false, true), ("NVIDIA Thor", true, false)] {
            let Some(host) = board(name) else { return };
            let mut options = options(&[Naming::Index, Naming::Uuid]);
            options.explicit.csv_single = single;
            let (spec, warnings) = made(&host, &options).unwrap();
            assert_eq!(
                shown(&spec),
                [format!("0: {everything}"), format!("all: {everything}")]
            );
            assert_eq!(
                warnings.iter().any(|w| w.contains("integrated")),
                warned,
                "{warnings:?}"
            );
        }
    }

    #[test]
    fn an_orins_images_have_their_compatibility_libraries_elsewhere() {
        let Some(host) = board("NVIDIA A100") else { return };
        host.file(
            "sys/firmware/devicetree/base/compatible",
            "nvidia,p3737-0000\0nvidia,tegra234\0",
        );
        let words = |options: &Options| {
            let (spec, _) = made(&host, options).unwrap();
            let hook = spec
                .edits
                .hooks
                .iter()
                .find(|h| h.args[1] == "enable-cuda-compat")
                .unwrap();
            hook.args[2..].to_vec()
        };
        let mut options = options(&[Naming::Index]);
        assert_eq!(
            words(&options)[1..],
            ["--cuda-compat-container-root=/usr/local/cuda/compat_orin"]
        );
        assert!(
            words(&options)[0].starts_with("--host-cuda-version=13."),
            "{:?}",
            words(&options)
        );
        options.explicit.csv_compat = Some("/opt/compat".to_owned());
        assert_eq!(words(&options)[1..], ["--cuda-compat-container-root=/opt/compat"]);
    }
}
