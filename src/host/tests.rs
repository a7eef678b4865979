//! Discovery on recorded and invented hosts.

use std::path::Path;

use proptest::prelude::*;

use super::kept::Kept;
use super::testhost::TestHost;
use super::{Bits, ConfigKind, FileKind, Host, Locations, NodeKind, Platform, Roots};
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
    assert_eq!(
        (kernel.version.to_string().as_str(), kernel.open),
        ("580.159.04", true)
    );
    assert_eq!(host.modify_device_files, Some(true));

    let gpu = &host.gpus[0];
    assert_eq!(
        (host.gpus.len(), gpu.index, gpu.minor, gpu.excluded),
        (1, 0, 0, false)
    );
    assert_eq!(gpu.uuid, "GPU-fff409e8-6d09-4804-74aa-d9624af686c0".parse().ok());
    assert_eq!(gpu.name, "NVIDIA H100 80GB HBM3");
    assert_eq!(gpu.pci.to_string(), "0000:00:06.0");
    assert!(gpu.mig_devices.is_empty());
    assert_eq!((host.caps.mig_config, host.caps.mig_monitor), (Some(1), Some(2)));
    assert_eq!(host.caps.fabric_imex_mgmt, Some(4323));

    // The files that the vendor's own generator mounts from this host, each once.
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

    // Without nodes in /dev the kernel's devices are still listed.
    let uvm = host.node(NodeKind::Uvm).unwrap();
    assert_eq!((uvm.number.major, uvm.number.minor, uvm.present), (238, 0, false));
    // Only root may open a capability node: 0400 instead of the others' 0666.
    assert_eq!(host.node(NodeKind::Cap(1)).unwrap().mode, 0o400);
    assert_eq!(host.node(NodeKind::Gpu(0)).unwrap().mode, 0o666);
}

/// The two required libraries, and one that both need.
const CORE: &[(&str, &str)] = &[
    ("libcuda", "libcuda.so.1"),
    ("libnvidia-ml", "libnvidia-ml.so.1"),
    ("libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1"),
];

/// Debian's packages: every version in a directory of its own, `/usr/lib/<triple>/<soname>` an
/// alternative.
fn debian(kernel: &str) -> TestHost {
    let host = TestHost::bare();
    let lib = "/usr/lib/x86_64-linux-gnu";
    host.module(kernel, 1);
    host.driver(&format!("{lib}/nvidia/current"), "535.247.01", CORE);
    host.driver(&format!("{lib}/nvidia/tesla-470"), "470.256.02", CORE);
    let mut cached = Vec::new();
    for (_, soname) in CORE {
        let alternative = format!("/etc/alternatives/glx--{soname}-x86_64-linux-gnu");
        host.link(&format!("{lib}/{soname}"), &alternative);
        host.link(&alternative, &format!("{lib}/nvidia/current/{soname}"));
        cached.push((*soname, format!("{lib}/{soname}")));
    }
    let cached: Vec<(&str, &str)> = cached.iter().map(|(s, p)| (*s, p.as_str())).collect();
    host.cache(&cached);
    host.library("usr/lib/nvidia/current/nvidia-smi", None, 64);
    host.link(
        "etc/alternatives/nvidia--nvidia-smi",
        "/usr/lib/nvidia/current/nvidia-smi",
    );
    host.link("usr/bin/nvidia-smi", "/etc/alternatives/nvidia--nvidia-smi");
    host
}

#[test]
fn debian_takes_the_alternative_that_the_kernel_module_is_of() {
    let host = debian("535.247.01").discover();
    host.check_versions().unwrap();
    assert_eq!(host.files.iter().filter(|f| f.name.contains("470")).count(), 0);
    let cuda = host
        .files
        .iter()
        .find(|f| f.name == "libcuda.so.535.247.01")
        .unwrap();
    assert_eq!(
        cuda.path,
        Path::new("/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.535.247.01")
    );
    // For the native layout: the path by which the host's own programs find it.
    assert_eq!(cuda.dir_hint(), Path::new("/usr/lib/x86_64-linux-gnu"));
    assert_eq!(
        path_of(&host, "nvidia-smi"),
        Some(Path::new("/usr/lib/nvidia/current/nvidia-smi"))
    );
}

#[test]
fn a_cache_with_two_names_of_a_library_is_checked() {
    let host = TestHost::bare();
    host.module("535.247.01", 1);
    host.driver("/usr/lib", "535.247.01", CORE);
    host.link("usr/lib/libcuda.so.9", "libcuda.so.535.247.01");
    host.cache(&[
        ("libnvidia-ml.so.1", "/usr/lib/libnvidia-ml.so.1"),
        ("libcuda.so.9", "/usr/lib/libcuda.so.9"),
        ("libcuda.so.1", "/usr/lib/libcuda.so.1"),
    ]);
    let host = host.discover();
    for (name, wanted) in [("libcuda", "libcuda.so.1"), ("libnvidia-ml", "libnvidia-ml.so.1")] {
        let file = host
            .files
            .iter()
            .find(|f| f.name == format!("{name}.so.535.247.01"));
        assert!(matches!(
            &file.unwrap().kind,
            FileKind::Library { soname: Some(soname), bits: Bits::B64, .. } if soname == wanted
        ));
    }
}

#[test]
fn of_two_installed_versions_the_kernel_modules_is_taken_even_if_the_cache_names_the_other() {
    let host = debian("470.256.02").discover();
    host.check_versions().unwrap();
    assert_eq!(libraries(&host).len(), 3);
    assert_eq!(
        path_of(&host, "libcuda.so.470.256.02"),
        Some(Path::new(
            "/usr/lib/x86_64-linux-gnu/nvidia/tesla-470/libcuda.so.470.256.02"
        ))
    );
}

#[test]
fn another_version_than_the_kernel_modules_is_refused_with_both_named() {
    let e = debian("550.54.14").discover().check_versions().unwrap_err();
    assert_eq!(e.code(), Code::VersionMismatch);
    let text = e.to_string();
    assert!(
        text.contains("550.54.14") && text.contains("535.247.01"),
        "{text}"
    );
}

#[test]
fn a_plug_in_that_no_cache_names_is_found_beside_the_libraries() {
    let host = debian("535.247.01");
    let dir = "usr/lib/x86_64-linux-gnu/nvidia/current";
    host.library(
        &format!("{dir}/libnvidia-nvvm70.so.4"),
        Some("libnvidia-nvvm70.so.4"),
        64,
    );
    host.library(&format!("{dir}/libnvidia-container.so.1.17.4"), None, 64);
    host.library(&format!("{dir}/libnvidia-other.so.1"), None, 64);
    let host = host.discover();
    assert!(path_of(&host, "libnvidia-nvvm70.so.4").is_some());
    assert_eq!(libraries(&host).len(), 4, "{:?}", libraries(&host));
}

#[test]
fn libraries_of_both_word_sizes_and_vdpau_are_distinguished() {
    let host = TestHost::bare();
    host.module("550.54.14", 1);
    host.driver("usr/lib64", "550.54.14", CORE);
    host.library("usr/lib/libcuda.so.550.54.14", Some("libcuda.so.1"), 32);
    host.library(
        "usr/lib64/vdpau/libvdpau_nvidia.so.550.54.14",
        Some("libvdpau_nvidia.so.1"),
        64,
    );
    host.file("usr/lib64/libnvidia-broken.so.550.54.14", "not ELF at all");
    let host = host.discover();
    let kinds: Vec<_> = host
        .files
        .iter()
        .filter(|f| f.name.starts_with("libcuda") || f.name.starts_with("libvdpau"))
        .map(|f| f.kind.clone())
        .collect();
    let library = |soname: &str, bits, subdir: Option<&str>| FileKind::Library {
        soname: Some(soname.to_owned()),
        bits,
        subdir: subdir.map(str::to_owned),
    };
    assert_eq!(
        kinds,
        [
            library("libcuda.so.1", Bits::B64, None),
            library("libcuda.so.1", Bits::B32, None),
            library("libvdpau_nvidia.so.1", Bits::B64, Some("vdpau")),
        ]
    );
    assert!(
        host.warnings.iter().any(|w| w.contains("libnvidia-broken")),
        "{:?}",
        host.warnings
    );
    assert!(path_of(&host, "libnvidia-broken.so.550.54.14").is_none());
}

#[test]
fn configured_directories_come_before_known_ones() {
    let host = TestHost::bare();
    host.module("550.54.14", 1);
    host.driver("srv/driver/lib", "550.54.14", CORE);
    host.driver("usr/lib64", "550.54.14", CORE);
    let loc = Locations {
        library_dirs: vec!["/srv/driver/lib".into()],
        ..host.locations()
    };
    let found = Host::discover(&host.roots(), &loc).unwrap();
    assert_eq!(
        path_of(&found, "libcuda.so.550.54.14"),
        Some(Path::new("/srv/driver/lib/libcuda.so.550.54.14"))
    );
}

/// toolkit-features 12, quirk 24: the vendor's toolkit took the platform from `/` for every driver
/// root.
#[test]
fn quirk_24_the_driver_container_s_root_is_a_root_like_any_other() {
    let machine = TestHost::bare();
    machine.module("550.54.14", 2);
    // The machine's own loader cache leads to another driver and must not be read.
    machine.driver("usr/lib64", "535.1.1", CORE);
    let base = "run/nvidia/driver";
    machine.driver(&format!("{base}/usr/lib/x86_64-linux-gnu"), "550.54.14", CORE);
    // Absolute, as the driver container sees it.
    machine.library(&format!("{base}/opt/smi/nvidia-smi"), None, 64);
    machine.link(&format!("{base}/usr/bin/nvidia-smi"), "/opt/smi/nvidia-smi");
    machine.file(&format!("{base}/dev/nvidiactl"), "");
    machine.file(&format!("{base}/lib/firmware/nvidia/550.54.14/gsp_ga10x.bin"), "");
    let loc = Locations {
        driver_root: machine.path().join(base),
        dev_root: None,
        ..machine.locations()
    };
    let roots = Roots::open(&loc).unwrap();
    assert_eq!(roots.dev_path, machine.path().join(base).join("dev"));
    let host = Host::discover(&roots, &loc).unwrap();
    host.check_versions().unwrap();
    assert_eq!(
        path_of(&host, "libcuda.so.550.54.14"),
        Some(Path::new("/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14"))
    );
    assert_eq!(
        path_of(&host, "nvidia-smi"),
        Some(Path::new("/opt/smi/nvidia-smi"))
    );
    assert!(path_of(&host, "gsp_ga10x.bin").is_some());
    // A regular file is not a device, whatever its name.
    assert!(!host.node(NodeKind::Ctl).unwrap().present);
}

#[test]
fn a_dev_root_is_a_directory_of_nodes_or_has_one() {
    let machine = TestHost::bare();
    for (dir, wanted) in [("", "dev"), ("dev", "dev"), ("proc", "proc")] {
        let loc = Locations {
            dev_root: Some(machine.path().join(dir)),
            ..machine.locations()
        };
        assert_eq!(Roots::open(&loc).unwrap().dev_path, machine.path().join(wanted));
    }
    let loc = Locations {
        driver_root: "/nowhere/driver".into(),
        ..machine.locations()
    };
    assert_eq!(Roots::open(&loc).unwrap_err().code(), Code::NoDriver);
}

#[test]
fn no_driver_and_half_a_driver_are_facts_with_a_reason() {
    let nothing = TestHost::bare();
    let host = nothing.discover();
    assert_eq!(
        host,
        Host {
            platform: Platform::None,
            ..Host::default()
        }
    );
    assert_eq!(host.check_versions().unwrap_err().code(), Code::NoDriver);

    let module = TestHost::bare();
    module.module("550.54.14", 1);
    let host = module.discover();
    assert_eq!((host.platform, host.gpus.len()), (Platform::Native, 1));
    assert_eq!(host.check_versions().unwrap_err().code(), Code::NoLibraries);

    let libraries = TestHost::bare();
    libraries.driver("usr/lib64", "550.54.14", CORE);
    let host = libraries.discover();
    assert_eq!(host.user_version, "550.54.14".parse().ok());
    let e = host.check_versions().unwrap_err();
    assert_eq!(e.code(), Code::NoDriver);
    assert!(e.to_string().contains("550.54.14"), "{e}");
}

#[test]
fn eight_gpus_with_mig_in_bus_order() {
    let host = TestHost::bare();
    host.module("550.54.14", 0);
    // Minors run against the bus order; bus 20 (hex) comes after 3; the domain counts first.
    let places = [
        "0001:01:00.0",
        "0000:20:00.0",
        "0000:03:00.0",
        "0000:0b:00.0",
        "0000:0a:00.0",
    ];
    for (minor, pci) in (0..).zip(places) {
        host.file(
            &format!("proc/driver/nvidia/gpus/{pci}/information"),
            format!("Model: \t\t NVIDIA A100\nGPU UUID: \t GPU-{minor:08}-0000-0000-0000-000000000000\nDevice Minor: \t {minor}\n"),
        );
    }
    host.file(
        "proc/driver/nvidia/gpus/0000:01:00.0/information",
        "Model: \t\t Bad\nGPU UUID: \t GPU-11111111-0000-0000-0000-000000000000\nDevice Minor: \t 5\nGPU Excluded:\t Yes\n",
    );
    host.file(
        "proc/driver/nvidia/gpus/0000:02:00.0/information",
        "Model: \t\t Unused\nGPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: \t 6\n",
    );
    let caps = "proc/driver/nvidia/capabilities/gpu2/mig";
    for (path, minor) in [
        ("gi10/access", 90),
        ("gi10/ci0/access", 91),
        ("gi2/access", 21),
        ("gi2/ci1/access", 23),
        ("gi2/ci0/access", 22),
        // A GPU instance without a compute instance is not a MIG device.
        ("gi3/access", 30),
        // Nor is a compute instance whose capability has no number.
        ("gi4/access", 40),
    ] {
        host.file(
            &format!("{caps}/{path}"),
            format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"),
        );
    }
    host.file(&format!("{caps}/gi4/ci0/access"), "nothing to see\n");

    let found = host.discover();
    let order: Vec<(u32, u32, String)> = found
        .gpus
        .iter()
        .map(|g| (g.index, g.minor, g.pci.to_string()))
        .collect();
    let wanted = [
        (0, 6, "0000:02:00.0"),
        (1, 2, "0000:03:00.0"),
        (2, 4, "0000:0a:00.0"),
        (3, 3, "0000:0b:00.0"),
        (4, 1, "0000:20:00.0"),
        (5, 0, "0001:01:00.0"),
        (6, 5, "0000:01:00.0"),
    ];
    assert_eq!(order, wanted.map(|(i, m, p)| (i, m, p.to_owned())));
    assert!(found.gpus[6].excluded && found.usable_gpus().count() == 6);
    assert_eq!(found.gpus[0].uuid, None);

    let mig: Vec<_> = found.gpus[1]
        .mig_devices
        .iter()
        .map(|m| (m.index, m.gi, m.ci, m.gi_minor, m.ci_minor))
        .collect();
    assert_eq!(mig, [(0, 2, 0, 21, 22), (1, 2, 1, 21, 23), (2, 10, 0, 90, 91)]);
    assert!(
        found.warnings.iter().any(|w| w.contains("gi4/ci0")),
        "{:?}",
        found.warnings
    );
    let cap = found.node(NodeKind::Cap(91)).unwrap();
    assert_eq!((cap.number.major, cap.mode, cap.present), (511, 0o444, false));
    // An excluded GPU has no node.
    assert!(found.node(NodeKind::Gpu(5)).is_none());
}

#[test]
fn nodes_are_believed_only_with_the_drivers_number() {
    let host = TestHost::bare();
    host.module("550.54.14", 2);
    if !host.device("nvidia0", 195, 0, 0o660) {
        return;
    }
    host.device("nvidia1", 1, 3, 0o666);
    host.device("nvidiactl", 195, 255, 0o666);
    host.device("nvidia-uvm", 508, 0, 0o666);
    host.link("dev/nvidia-uvm-tools", "nvidia-uvm");
    host.device("dri/card1", 226, 1, 0o660);
    host.device("dri/renderD128", 226, 128, 0o666);
    host.link("dev/dri/by-path/pci-0000:01:00.0-render", "../renderD128");
    for name in ["card1", "renderD128", "card1-DP-1"] {
        host.file(
            &format!("sys/devices/pci0000:00/0000:01:00.0/drm/{name}/uevent"),
            "",
        );
    }
    host.link(
        "sys/bus/pci/devices/0000:01:00.0",
        "../../../devices/pci0000:00/0000:01:00.0",
    );

    let found = host.discover();
    let gpu = found.node(NodeKind::Gpu(0)).unwrap();
    assert_eq!(
        (gpu.present, gpu.mode, gpu.number.major, gpu.number.minor),
        (true, 0o660, 195, 0)
    );
    assert!(!found.node(NodeKind::Gpu(1)).unwrap().present);
    assert!(found.node(NodeKind::Uvm).unwrap().present);
    assert!(!found.node(NodeKind::UvmTools).unwrap().present);
    assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
    let pci = "0000:01:00.0".parse().unwrap();
    let render = found.node(NodeKind::Dri { pci, render: true }).unwrap();
    assert_eq!(render.path, Path::new("/dev/dri/renderD128"));
    assert_eq!(
        render.links,
        [Path::new("/dev/dri/by-path/pci-0000:01:00.0-render")]
    );
    assert!(found.node(NodeKind::Dri { pci, render: false }).is_some());
}

#[test]
fn fabric_and_add_on_drivers() {
    let host = TestHost::recorded("h100-580");
    if !host.device("nvidia-nvswitchctl", 239, 255, 0o666) {
        return;
    }
    for n in 0..4 {
        host.device(&format!("nvidia-nvswitch{n}"), 239, n, 0o666);
    }
    for n in [0, 7, 2047] {
        host.device(&format!("nvidia-caps-imex-channels/channel{n}"), 242, n, 0o666);
    }
    host.device("infiniband/uverbs0", 231, 192, 0o666);
    host.device("infiniband/uverbs1", 244, 0, 0o666);
    host.device("infiniband/rdma_cm", 10, 58, 0o666);
    let found = host.discover();
    let count = |test: fn(NodeKind) -> bool| found.nodes.iter().filter(|n| n.present && test(n.kind)).count();
    assert_eq!(
        count(|k| matches!(k, NodeKind::NvSwitch(_) | NodeKind::NvSwitchCtl)),
        5
    );
    assert_eq!(count(|k| matches!(k, NodeKind::ImexChannel(0 | 7 | 2047))), 3);
    assert_eq!(count(|k| matches!(k, NodeKind::Uverbs(_) | NodeKind::RdmaCm)), 3);
    assert_eq!(found.warnings, Vec::<String>::new());
}

#[test]
fn sockets_are_sockets_and_wrappers_no_programs() {
    let host = debian("535.247.01");
    std::fs::create_dir_all(host.path().join("run/nvidia-persistenced")).unwrap();
    let path = host.path().join("run/nvidia-persistenced/socket");
    let _listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    host.file("run/nvidia-fabricmanager/socket", "a plain file");
    host.file("usr/bin/nvidia-debugdump", "#!/bin/sh\nexec /opt/real \"$@\"\n");
    let found = host.discover();
    let sockets: Vec<_> = found
        .files
        .iter()
        .filter(|f| f.kind == FileKind::Socket)
        .collect();
    assert_eq!(sockets.len(), 2);
    let roots = host.roots();
    let found_at = |n: usize| roots.walk().find(&sockets[n].found, sockets[n].wanted());
    found_at(0).unwrap();
    let e = found_at(1).unwrap_err();
    assert!(
        e.to_string().contains("expected a socket, found a regular file"),
        "{e}"
    );
    assert_eq!(sockets[0].name, "nvidia-persistenced");
    assert_eq!(sockets[0].path, Path::new("/run/nvidia-persistenced/socket"));
    assert!(path_of(&found, "nvidia-debugdump").is_none());
    assert!(found.warnings.iter().any(|w| w.contains("nvidia-debugdump")));
}

/// Cloud images keep the driver in a directory of its own and put a script into /usr/bin.
#[test]
fn the_program_that_a_wrapper_executes_is_found() {
    let real = "opt/vendor/tools/nvidia-smi";
    let found = |script: &str| {
        let host = debian("535.247.01");
        for at in ["usr/bin/nvidia-smi", "etc/alternatives/nvidia--nvidia-smi"] {
            let _ = std::fs::remove_file(host.path().join(at));
        }
        host.library(real, None, 64);
        host.file("opt/vendor/tools/nvidia-smi-plus", "x");
        host.file("usr/bin/nvidia-smi", script);
        let found = host.discover();
        let warned = found.warnings.iter().any(|w| w.contains("nvidia-smi"));
        let path = path_of(&found, "nvidia-smi").map(Path::to_path_buf);
        assert_eq!(path.is_none(), warned, "{script}: {:?}", found.warnings);
        path
    };
    let want = Some(Path::new("/").join(real));
    for script in [
        "#!/bin/sh\nexec /opt/vendor/tools/nvidia-smi \"$@\"\n",
        "#!/bin/bash\nLD_LIBRARY_PATH=/x:/y '/opt/vendor/tools/nvidia-smi' $@",
        "#!/bin/sh\n/usr/bin/nvidia-smi; /gone/nvidia-smi || $(/opt/vendor/tools/nvidia-smi)\n",
    ] {
        assert_eq!(found(script), want, "{script}");
    }
    let long = format!(
        "#!/bin/sh\n{}\nexec /opt/vendor/tools/nvidia-smi\n",
        "#".repeat(5000)
    );
    let many = format!("{}/opt/vendor/tools/nvidia-smi", "/gone/nvidia-smi ".repeat(9));
    for script in [
        "#!/bin/sh\nexec tools/nvidia-smi\n",
        "#!/bin/sh\nexec /opt/vendor/tools/nvidia-smi-plus\n",
        "#!/bin/sh\nexec /usr/bin/nvidia-smi\n",
        &long,
        &many,
        "",
    ] {
        assert_eq!(found(script), None, "{script:.60}");
    }
}

/// toolkit-features 12, quirk 9: the vendor's toolkit searched for the directory of the MPS daemon
/// as a file.
#[test]
fn quirk_09_the_directory_of_mps_is_found() {
    let host = debian("535.247.01");
    assert!(path_of(&host.discover(), "nvidia-mps").is_none());
    std::fs::create_dir_all(host.path().join("tmp/nvidia-mps")).unwrap();
    assert_eq!(
        path_of(&host.discover(), "nvidia-mps").unwrap(),
        Path::new("/tmp/nvidia-mps")
    );
}

/// Every file that is read holds noise, is far too large, or has another type.
#[test]
fn garbage_everywhere_ends_in_warnings() {
    let noise: Vec<u8> = (0..70_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[1])
        .collect();
    let inputs: [&[u8]; 7] = [
        b"",
        b"\n\n\0\n",
        b"NVRM version:\nGPU UUID: \xff\xfe\nDevice Minor: 99999999999999999999\nDeviceFileMinor: -1\n",
        b"Character devices:\n195\n 4294967296 nvidia\n-1 nvidia-uvm\n195 nvidia \n",
        b"glibc-ld.so.cache1.1\xff\xff\xff\xff\xff\xff\xff\xff",
        b"NVRM version: x 1.2.3.4.5 ... 99999999999999999999999.1 .5. 5.",
        &noise,
    ];
    for input in inputs {
        let host = TestHost::bare();
        for path in [
            "proc/driver/nvidia/version",
            "proc/driver/nvidia/params",
            "proc/devices",
            "proc/driver/nvidia/gpus/0000:01:00.0/information",
            "proc/driver/nvidia/gpus/not-an-address/information",
            "proc/driver/nvidia/capabilities/mig/config",
            "proc/driver/nvidia/capabilities/gpu0/mig/gi0/ci0/access",
            "etc/ld.so.cache",
            "usr/lib64/libcuda.so.550.54.14",
            "usr/lib64/libnvidia-ml.so.550.54.14",
            "dev/nvidia-caps-imex-channels/channelX",
        ] {
            host.file(path, input);
        }
        let found = host.discover();
        assert!(found.kernel.is_none() && found.gpus.is_empty(), "{input:?}");
        assert!(found.warnings.len() <= 64);
        assert!(found.check_versions().is_err());
    }
}

#[test]
fn the_number_of_examined_gpus_is_bounded() {
    let host = TestHost::bare();
    host.module("550.54.14", 1);
    for n in 0..300 {
        host.file(
            &format!("proc/driver/nvidia/gpus/{n:04x}:00:00.0/information"),
            "",
        );
    }
    let found = host.discover();
    assert!(found.gpus.is_empty() && !found.warnings.is_empty());
}

/// The text of GPU 1 of a host, and the cache after the run.
fn discover_with(host: &TestHost, kept: &str) -> (String, Option<String>) {
    let mut kept = Kept::parse(kept);
    let found = Host::begin(&host.roots(), &mut kept);
    (found.gpus[0].name.clone(), kept.to_text())
}

#[test]
fn a_gpus_text_is_valid_until_the_module_takes_the_gpu_again() {
    let host = TestHost::bare();
    host.module("550.54.14", 2);
    let set_text = |name: &str, uuid: &str| {
        host.file(
            "proc/driver/nvidia/gpus/0000:01:00.0/information",
            format!("Model: \t\t {name}\nGPU UUID: \t GPU-{uuid}\nDevice Minor: \t 0\n"),
        );
    };
    let (known, unknown) = (
        "11111111-0000-0000-0000-000000000000",
        "????????-????-????-????-????????????",
    );
    // Without sysfs's inode nothing is cached.
    set_text("A", known);
    assert_eq!(discover_with(&host, ""), ("A".to_owned(), None));
    let bound = "sys/bus/pci/drivers/nvidia/0000:01:00.0";
    host.link(bound, "../device");

    // Nor is a text without a UUID.
    set_text("A", unknown);
    assert_eq!(discover_with(&host, ""), ("A".to_owned(), None));
    set_text("A", known);
    let kept = discover_with(&host, "").1.unwrap();
    assert!(kept.contains("0000:01:00.0 ") && !kept.contains("0000:02:00.0 "));

    set_text("B", known);
    assert_eq!(discover_with(&host, &kept), ("A".to_owned(), None));
    for nonsense in ["x", "0000:01:00.0 1 1.1 9999\n", "\n\n"] {
        assert_eq!(discover_with(&host, nonsense).0, "B");
        // A later addition keeps the first text.
        assert_eq!(discover_with(&host, &format!("{kept}{nonsense}")).0, "A");
    }

    // A cached text that describes no GPU is read again, once.
    let broken = kept.replace("Device Minor", "Device Major");
    let (name, mended) = discover_with(&host, &broken);
    assert_eq!(
        (name.as_str(), mended.unwrap().matches("Device").count()),
        ("B", 1)
    );

    // Another inode of that name, while the old one still has its number.
    let at = host.path().join(bound);
    std::fs::rename(&at, host.path().join("sys/old")).unwrap();
    host.link(bound, "../device");
    let (name, again) = discover_with(&host, &kept);
    let again = again.unwrap();
    assert_eq!(name, "B");
    // The old inode's text is gone.
    assert_eq!(again.matches("Device Minor").count(), 1);
    assert_eq!(discover_with(&host, &again), ("B".to_owned(), None));
}

proptest! {
    #[test]
    fn any_text_may_have_been_kept(text in "([0-9a-z:. ]{0,8}[0-9]{0,3}\n?){0,6}") {
        let _ = Kept::parse(&text).to_text();
    }
}
