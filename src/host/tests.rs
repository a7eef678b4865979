//! Discovery on recorded and made-up hosts.

use std::path::Path;

use super::testhost::TestHost;
use super::{Bits, ConfigKind, FileKind, Host, Locations, NodeKind, PciAddress, Platform, Roots};
use crate::error::Code;

fn libraries(host: &Host) -> Vec<&str> {
    host.files
        .iter()
        .filter(|f| matches!(f.kind, FileKind::Library { .. }))
        .map(|f| f.name.as_str())
        .collect()
}

fn path_of<'h>(host: &'h Host, name: &str) -> Option<&'h Path> {
    host.files
        .iter()
        .find(|f| f.name == name)
        .map(|f| f.path.as_path())
}

#[test]
fn h100_with_its_driver_in_usr_local() {
    let host = TestHost::recorded("h100-580").discover();
    assert_eq!(host.warnings, Vec::<String>::new());
    assert_eq!(host.platform, Platform::Native);
    host.check_versions().unwrap();
    let kernel = host.kernel.as_ref().unwrap();
    assert_eq!((kernel.version.as_str(), kernel.open), ("580.159.04", true));
    assert_eq!(host.modify_device_files, Some(true));

    let gpu = &host.gpus[0];
    assert_eq!(
        (host.gpus.len(), gpu.index, gpu.minor, gpu.excluded),
        (1, 0, 0, false)
    );
    assert_eq!(gpu.uuid, "GPU-fff409e8-6d09-4804-74aa-d9624af686c0");
    assert_eq!(gpu.name, "NVIDIA H100 80GB HBM3");
    assert_eq!(gpu.pci.to_string(), "0000:00:06.0");
    assert!(gpu.mig_devices.is_empty());
    assert_eq!((host.caps.mig_config, host.caps.mig_monitor), (Some(1), Some(2)));
    assert_eq!(host.caps.fabric_imex_mgmt, Some(4323));

    // What the vendor's own generator mounts from this host, and nothing twice.
    let mut names = libraries(&host);
    names.sort_unstable();
    assert_eq!(names.len(), 26, "{names:?}");
    assert_eq!(
        path_of(&host, "libcuda.so.580.159.04"),
        Some(Path::new("/usr/local/nvidia/lib64/libcuda.so.580.159.04"))
    );
    let cuda = host
        .files
        .iter()
        .find(|f| f.name.starts_with("libcuda.so"))
        .unwrap();
    let FileKind::Library { soname, bits, subdir } = &cuda.kind else {
        panic!("{cuda:?}");
    };
    assert_eq!(
        (soname.as_deref(), *bits, subdir.as_deref()),
        (Some("libcuda.so.1"), Bits::B64, None)
    );
    for name in [
        "nvidia-smi",
        "nvidia-debugdump",
        "nvidia-persistenced",
        "nvidia-cuda-mps-server",
    ] {
        assert!(path_of(&host, name).is_some(), "{name}");
    }
    assert_eq!(
        path_of(&host, "gsp_ga10x.bin"),
        Some(Path::new(
            "/usr/local/nvidia/firmware/nvidia/580.159.04/gsp_ga10x.bin"
        ))
    );
    let configs: Vec<_> = host
        .files
        .iter()
        .filter_map(|f| match f.kind {
            FileKind::Config(kind) => Some(kind),
            _ => None,
        })
        .collect();
    assert_eq!(
        configs,
        [
            ConfigKind::EglVendor,
            ConfigKind::VulkanIcd,
            ConfigKind::VulkanImplicitLayer
        ]
    );

    // Without nodes in /dev, the kernel's devices are known all the same.
    let uvm = host.node(NodeKind::Uvm).unwrap();
    assert_eq!((uvm.major, uvm.minor, uvm.present), (238, 0, false));
    // A capability node is closed to all but root: 0400, not the 0666 of the others.
    assert_eq!(host.node(NodeKind::Cap(1)).unwrap().mode, 0o400);
    assert_eq!(host.node(NodeKind::Gpu(0)).unwrap().mode, 0o666);
}
