//! Golden plans: the output of `nvoci plan --json` on recorded and test hosts, compared with files
//! that a person has read. `NVOCI_BLESS=1 cargo test` writes the files again.

use super::*;
use crate::config::{Config, Dialect, Preflight};
use crate::host::Locations;
use crate::host::testhost::TestHost;

/// A host with device nodes; `None` if this process may not make nodes.
fn with_nodes(host: TestHost, nodes: &[(&str, u32, u32, u32)]) -> Option<TestHost> {
    nodes
        .iter()
        .all(|(node, major, minor, mode)| host.device(node, *major, *minor, *mode))
        .then_some(host)
}

/// If the first word of `env` is `+privileged`, the container has CAP_SYS_ADMIN.
fn golden(host: &TestHost, name: &str, env: &[(&str, &str)]) {
    golden_at(host, "", name, env);
}

/// With the driver in a directory of the host.
fn golden_at(host: &TestHost, driver: &str, name: &str, env: &[(&str, &str)]) {
    golden_with(host, driver, &Config::default(), name, env);
}

fn golden_with(host: &TestHost, driver: &str, config: &Config, name: &str, env: &[(&str, &str)]) {
    let privileged = env.first().is_some_and(|(k, _)| *k == "+privileged");
    let env: Vec<(String, String)> = env
        .iter()
        .filter(|(k, _)| !k.starts_with('+'))
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let inputs = Inputs {
        env: &env,
        annotations: &[],
        mounts: &[],
        privileged,
        entry: EntryPoint::Hook,
    };
    let request = request::parse(&inputs, config).unwrap();
    let locations = Locations {
        driver_root: host.path().join(driver),
        site_devices: config.extra.iter().flat_map(|e| e.devices.clone()).collect(),
        ..host.locations()
    };
    let roots = Roots::open(&locations).unwrap();
    let found = Host::discover(&roots, &locations).unwrap();
    let shown = match plan(&request, &found, config) {
        // A test host is in another directory each time.
        Ok(plan) => format!("{:#}\n", to_json(&plan)).replace(&*host.path().to_string_lossy(), ""),
        Err(e) => format!("nvoci: {e}\n"),
    };
    let path = format!("{}/tests/golden/plan/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("NVOCI_BLESS").is_some() {
        std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, &shown).unwrap();
    }
    assert_eq!(
        shown,
        std::fs::read_to_string(&path).unwrap_or_default(),
        "{path}"
    );
}

const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
const CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES";
const CHANNELS: &str = "NVIDIA_IMEX_CHANNELS";
const PRIVILEGED: (&str, &str) = ("+privileged", "");

#[test]
fn plans_on_the_recorded_host() {
    let nodes = [
        ("nvidia0", 195, 0, 0o666),
        ("nvidiactl", 195, 255, 0o666),
        ("nvidia-uvm", 238, 0, 0o666),
        ("nvidia-uvm-tools", 238, 1, 0o666),
    ];
    let Some(host) = with_nodes(TestHost::recorded("h100-580"), &nodes) else {
        return;
    };
    golden(&host, "default.json", &[(VISIBLE, "all")]);
    golden(
        &host,
        "utility.json",
        &[(VISIBLE, "0"), (CAPABILITIES, "utility")],
    );
    golden(&host, "all.json", &[(VISIBLE, "all"), (CAPABILITIES, "all")]);
    golden(&host, "none.json", &[(VISIBLE, "none")]);
    golden(&host, "unknown.txt", &[(VISIBLE, "0,3")]);
    golden(
        &host,
        "too-new.txt",
        &[(VISIBLE, "0"), ("NVIDIA_REQUIRE_CUDA", "cuda>=14.0")],
    );
}

/// libcuda and NVML only, for plans about nodes.
const SMALL: &[(&str, &str)] = &[("libcuda", "libcuda.so.1"), ("libnvidia-ml", "libnvidia-ml.so.1")];

/// A data-centre machine of `gpus` GPUs with the fabric's device numbers.
fn server(gpus: u32) -> Option<TestHost> {
    let host = TestHost::bare();
    host.module("580.95.05", gpus);
    host.driver("usr/lib64", "580.95.05", SMALL);
    host.file(
        "proc/devices",
        "Character devices:\n195 nvidia\n195 nvidiactl\n226 drm\n234 nvidia-nvswitch\n235 nvidia-nvlink\n\
         236 nvidia-caps-imex-channels\n237 nvidia-caps\n510 nvidia-uvm\n\nBlock devices:\n259 blkext\n",
    );
    let mut nodes = vec![
        ("nvidiactl".to_owned(), 195, 255),
        ("nvidia-uvm".to_owned(), 510, 0),
        ("nvidia-uvm-tools".to_owned(), 510, 1),
    ];
    nodes.extend((0..gpus).map(|n| (format!("nvidia{n}"), 195, n)));
    let nodes: Vec<_> = nodes
        .iter()
        .map(|(n, a, b)| (n.as_str(), *a, *b, 0o666))
        .collect();
    with_nodes(host, &nodes)
}

/// The minor of a GPU in MIG mode, and its GPU instances with their compute instances.
type Layout<'a> = (u32, &'a [(u32, &'a [u32])]);

#[test]
fn eight_gpus_with_mixed_mig_layouts() {
    let Some(host) = server(8) else { return };
    let caps = "proc/driver/nvidia/capabilities";
    let access = |path: &str, minor: u32| {
        host.file(
            &format!("{caps}/{path}"),
            format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"),
        );
    };
    access("mig/config", 1);
    access("mig/monitor", 2);
    // In the driver's order: GPU instance and compute instance, one after the other. GPU 1: seven
    // of one slice. GPU 2: a GPU instance with two compute instances and another with one. GPU 5:
    // MIG mode without any instance.
    let layouts: &[Layout<'_>] = &[
        (
            1,
            &[
                (7, &[0]),
                (8, &[0]),
                (9, &[0]),
                (10, &[0]),
                (11, &[0]),
                (12, &[0]),
                (13, &[0]),
            ],
        ),
        (2, &[(1, &[0, 1]), (2, &[0])]),
        (5, &[]),
    ];
    for (gpu, instances) in layouts {
        std::fs::create_dir_all(host.path().join(format!("{caps}/gpu{gpu}/mig"))).unwrap();
        for (gi, compute) in *instances {
            let minor = 3 + gpu * 135 + gi * 9;
            access(&format!("gpu{gpu}/mig/gi{gi}/access"), minor);
            for ci in *compute {
                access(&format!("gpu{gpu}/mig/gi{gi}/ci{ci}/access"), minor + 1 + ci);
            }
        }
    }
    let mut minors = vec![1, 2];
    for (gpu, instances) in layouts {
        for (gi, compute) in *instances {
            let minor = 3 + gpu * 135 + gi * 9;
            minors.push(minor);
            minors.extend(compute.iter().map(|ci| minor + 1 + ci));
        }
    }
    // The last instance of GPU 1 has no node of its compute instance.
    let missing = 3 + 135 + 13 * 9 + 1;
    for minor in minors.iter().filter(|m| **m != missing) {
        assert!(host.device(&format!("nvidia-caps/nvidia-cap{minor}"), 237, *minor, 0o444));
    }
    golden(&host, "mig/one.json", &[(VISIBLE, "1:0")]);
    golden(&host, "mig/two-on-two-gpus.json", &[(VISIBLE, "1:3,2:1")]);
    golden(&host, "mig/whole-gpu.json", &[(VISIBLE, "0")]);
    golden(
        &host,
        "mig/old-form.json",
        &[(VISIBLE, "MIG-GPU-00000002-0000-0000-0000-000000000000/1/1")],
    );
    golden(&host, "mig/no-such.txt", &[(VISIBLE, "1:7")]);
    // A whole MIG device or an error, never a part of one.
    golden(&host, "mig/node-missing.txt", &[(VISIBLE, "1:6")]);
    golden(&host, "mig/all.txt", &[(VISIBLE, "all")]);
    golden(
        &host,
        "mig/by-uuid.txt",
        &[(VISIBLE, "MIG-3d2f7a52-9b1e-5a5c-8a8e-0d9f6f0c1c11")],
    );
    // CUDA finds no device on a partitioned GPU without one of its MIG devices.
    golden(&host, "mig/partitioned.json", &[(VISIBLE, "0,2")]);
    golden(
        &host,
        "mig/partitioned-utility.json",
        &[(VISIBLE, "2"), (CAPABILITIES, "utility")],
    );
    let mut enforced = Config::default();
    enforced.preflight.value = Preflight::Enforce;
    for (name, devices) in [("partitioned.txt", "2"), ("partitioned-one.json", "2,2:1")] {
        golden_with(
            &host,
            "",
            &enforced,
            &format!("mig/{name}"),
            &[(VISIBLE, devices)],
        );
    }
    golden(
        &host,
        "mig/monitor.json",
        &[
            PRIVILEGED,
            (VISIBLE, "0"),
            ("NVIDIA_MIG_MONITOR_DEVICES", "all"),
            ("NVIDIA_MIG_CONFIG_DEVICES", "all"),
        ],
    );
    golden(
        &host,
        "mig/monitor-unprivileged.json",
        &[
            (VISIBLE, "0"),
            ("NVIDIA_MIG_MONITOR_DEVICES", "all"),
            ("NVIDIA_MIG_CONFIG_DEVICES", "all"),
        ],
    );
}

#[test]
fn an_nvswitch_machine() {
    use std::os::unix::net::UnixListener;
    let Some(host) = server(8) else { return };
    for n in 0..4 {
        assert!(host.device(&format!("nvidia-nvswitch{n}"), 234, n, 0o666));
    }
    assert!(host.device("nvidia-nvswitchctl", 234, 255, 0o666));
    assert!(host.device("nvidia-nvlink", 235, 0, 0o666));
    let socket = host.path().join("run/nvidia-fabricmanager/socket");
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let _listening = UnixListener::bind(&socket).unwrap();
    host.library("usr/bin/nv-fabricmanager", None, 64);
    golden(&host, "nvswitch/plain.json", &[(VISIBLE, "0,7")]);
    golden(
        &host,
        "nvswitch/enabled.json",
        &[PRIVILEGED, (VISIBLE, "0,7"), ("NVIDIA_NVSWITCH", "enabled")],
    );
    golden(
        &host,
        "nvswitch/unprivileged.json",
        &[(VISIBLE, "0,7"), ("NVIDIA_NVSWITCH", "enabled")],
    );
}

#[test]
fn imex_channels() {
    let Some(host) = server(1) else { return };
    for n in [0, 1, 2047] {
        assert!(host.device(&format!("nvidia-caps-imex-channels/channel{n}"), 236, n, 0o666));
    }
    for name in ["nvidia-imex", "nvidia-imex-ctl"] {
        host.library(&format!("usr/bin/{name}"), None, 64);
    }
    golden(
        &host,
        "imex/two.json",
        &[PRIVILEGED, (VISIBLE, "0"), (CHANNELS, "0,2047")],
    );
    golden(
        &host,
        "imex/all.json",
        &[PRIVILEGED, (VISIBLE, "0"), (CHANNELS, "all")],
    );
    golden(
        &host,
        "imex/none.json",
        &[PRIVILEGED, (VISIBLE, "0"), (CHANNELS, "none")],
    );
    golden(
        &host,
        "imex/missing.txt",
        &[PRIVILEGED, (VISIBLE, "0"), (CHANNELS, "5")],
    );
    golden(
        &host,
        "imex/unprivileged.json",
        &[(VISIBLE, "0"), (CHANNELS, "0")],
    );
}

#[test]
fn storage_and_network() {
    let Some(host) = server(1) else { return };
    host.file(
        "proc/devices",
        "Character devices:\n195 nvidia\n231 infiniband_verbs\n237 nvidia-caps\n500 gdrdrv\n501 nvidia-fs\n510 nvidia-uvm\n\n\
         Block devices:\n",
    );
    let nodes = [
        ("nvidia-fs0", 501, 0, 0o666),
        ("nvidia-fs1", 501, 1, 0o666),
        ("gdrdrv", 500, 0, 0o666),
        ("infiniband/uverbs0", 231, 192, 0o666),
        ("infiniband/rdma_cm", 10, 58, 0o666),
    ];
    let Some(host) = with_nodes(host, &nodes) else {
        return;
    };
    host.file("etc/cufile.json", "{}");
    host.file("run/udev/data/b259:0", "");
    golden(
        &host,
        "storage/gds.json",
        &[PRIVILEGED, (VISIBLE, "0"), ("NVIDIA_GDS", "enabled")],
    );
    golden(
        &host,
        "storage/mofed-gdrcopy.json",
        &[
            PRIVILEGED,
            (VISIBLE, "0"),
            ("NVIDIA_MOFED", "enabled"),
            ("NVIDIA_GDRCOPY", "enabled"),
        ],
    );
    golden(
        &host,
        "storage/unprivileged.json",
        &[(VISIBLE, "0"), ("NVIDIA_GDS", "enabled")],
    );
}

/// The libraries of a whole driver: stem and soname.
const WHOLE: &[(&str, &str)] = &[
    ("libcuda", "libcuda.so.1"),
    ("libnvidia-ml", "libnvidia-ml.so.1"),
    ("libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1"),
    ("libnvidia-opencl", "libnvidia-opencl.so.1"),
    ("libnvcuvid", "libnvcuvid.so.1"),
    ("libnvidia-encode", "libnvidia-encode.so.1"),
    ("libnvidia-allocator", "libnvidia-allocator.so.1"),
    ("libnvidia-ngx", "libnvidia-ngx.so.1"),
    ("libnvoptix", "libnvoptix.so.1"),
    ("libEGL_nvidia", "libEGL_nvidia.so.0"),
    ("libGLX_nvidia", "libGLX_nvidia.so.0"),
    ("libnvidia-glcore", "libnvidia-glcore.so.535.183.01"),
    ("libnvidia-tls", "libnvidia-tls.so.535.183.01"),
    (
        "libnvidia-vulkan-producer",
        "libnvidia-vulkan-producer.so.535.183.01",
    ),
];

#[allow(clippy::too_many_lines)] // a whole machine
#[test]
fn a_workstation_with_a_display_and_32_bit_programs() {
    let version = "535.183.01";
    let host = TestHost::bare();
    host.module(version, 2);
    host.driver("usr/lib/x86_64-linux-gnu", version, WHOLE);
    host.library(
        &format!("usr/lib/x86_64-linux-gnu/vdpau/libvdpau_nvidia.so.{version}"),
        Some("libvdpau_nvidia.so.1"),
        64,
    );
    host.library(
        "usr/lib/x86_64-linux-gnu/libnvidia-egl-gbm.so.1.1.0",
        Some("libnvidia-egl-gbm.so.1"),
        64,
    );
    for (stem, soname) in &WHOLE[..12] {
        host.library(
            &format!("usr/lib/i386-linux-gnu/{stem}.so.{version}"),
            Some(soname),
            32,
        );
    }
    host.library("usr/lib/xorg/modules/drivers/nvidia_drv.so", None, 64);
    host.library(
        &format!("usr/lib/xorg/modules/extensions/libglxserver_nvidia.so.{version}"),
        None,
        64,
    );
    for name in [
        "nvidia-smi",
        "nvidia-xconfig",
        "nvidia-persistenced",
        "nvidia-settings",
    ] {
        host.library(&format!("usr/bin/{name}"), None, 64);
    }
    host.file("usr/share/nvidia/nvoptix.bin", "weights");
    host.file(
        &format!("usr/share/nvidia/nvidia-application-profiles-{version}-rc"),
        "{}",
    );
    host.file("usr/share/X11/xorg.conf.d/10-nvidia.conf", "Section\n");
    host.file(
        "usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        r#"{"file_format_version":"1.0.0","ICD":{"library_path":"libEGL_nvidia.so.0"}}"#,
    );
    // Fedora's package has a path, and a file for each word size.
    for (arch, dir) in [
        ("x86_64", "/usr/lib/x86_64-linux-gnu"),
        ("i686", "/usr/lib/i386-linux-gnu"),
    ] {
        host.file(
            &format!("usr/share/vulkan/icd.d/nvidia_icd.{arch}.json"),
            format!(r#"{{"file_format_version":"1.0.0","ICD":{{"library_path":"{dir}/libGLX_nvidia.so.0","api_version":"1.3.242"}}}}"#),
        );
    }
    for (gpu, bus) in [(0, 1), (1, 2)] {
        for name in [format!("card{gpu}"), format!("renderD{}", 128 + gpu)] {
            std::fs::create_dir_all(
                host.path()
                    .join(format!("sys/bus/pci/devices/0000:0{bus}:00.0/drm/{name}")),
            )
            .unwrap();
        }
        for (name, kind, minor, mode) in [
            (format!("card{gpu}"), "card", gpu, 0o660),
            (format!("renderD{}", 128 + gpu), "render", 128 + gpu, 0o666),
        ] {
            if !host.device(&format!("dri/{name}"), 226, minor, mode) {
                return;
            }
            host.link(
                &format!("dev/dri/by-path/pci-0000:0{bus}:00.0-{kind}"),
                &format!("../{name}"),
            );
        }
    }
    std::fs::create_dir_all(host.path().join("sys/module/nvidia_modeset")).unwrap();
    host.file("sys/module/nvidia_modeset/initstate", "live\n");
    let nodes = [
        ("nvidia0", 195, 0, 0o666),
        ("nvidia1", 195, 1, 0o666),
        ("nvidiactl", 195, 255, 0o666),
        ("nvidia-modeset", 195, 254, 0o666),
        ("nvidia-uvm", 508, 0, 0o666),
        ("nvidia-uvm-tools", 508, 1, 0o666),
    ];
    let Some(host) = with_nodes(host, &nodes) else {
        return;
    };
    golden(
        &host,
        "workstation/all.json",
        &[(VISIBLE, "all"), (CAPABILITIES, "all")],
    );
    golden(
        &host,
        "workstation/graphics-of-one.json",
        &[(VISIBLE, "1"), (CAPABILITIES, "graphics")],
    );
    golden(
        &host,
        "workstation/video.json",
        &[(VISIBLE, "0"), (CAPABILITIES, "video")],
    );
}

#[test]
fn debians_own_layout() {
    let version = "550.163.01";
    let host = TestHost::bare();
    host.module(version, 1);
    let lib = "usr/lib/x86_64-linux-gnu";
    let current = format!("{lib}/nvidia/current");
    host.driver(&current, version, &WHOLE[..8]);
    host.library(
        &format!("{current}/libvdpau_nvidia.so.{version}"),
        Some("libvdpau_nvidia.so.1"),
        64,
    );
    // A library with the version in its soname is not switched, and stays with the distribution's.
    host.library(
        &format!("{lib}/libnvidia-glcore.so.{version}"),
        Some(&format!("libnvidia-glcore.so.{version}")),
        64,
    );
    let mut cache = Vec::new();
    for (_, soname) in &WHOLE[..8] {
        host.link(
            &format!("etc/alternatives/nvidia--{soname}"),
            &format!("/{current}/{soname}"),
        );
        host.link(
            &format!("{lib}/{soname}"),
            &format!("/etc/alternatives/nvidia--{soname}"),
        );
        cache.push(((*soname).to_owned(), format!("/{lib}/{soname}")));
    }
    cache.push((
        format!("libnvidia-glcore.so.{version}"),
        format!("/{lib}/libnvidia-glcore.so.{version}"),
    ));
    host.cache(
        &cache
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect::<Vec<_>>(),
    );
    host.library("usr/lib/nvidia/current/nvidia-smi", None, 64);
    host.link(
        "etc/alternatives/nvidia--nvidia-smi",
        "/usr/lib/nvidia/current/nvidia-smi",
    );
    host.link("usr/bin/nvidia-smi", "/etc/alternatives/nvidia--nvidia-smi");
    host.file("etc/OpenCL/vendors/nvidia.icd", "libnvidia-opencl.so.1\n");
    let nodes = [
        ("nvidia0", 195, 0, 0o666),
        ("nvidiactl", 195, 255, 0o666),
        ("nvidia-uvm", 508, 0, 0o666),
    ];
    let Some(host) = with_nodes(host, &nodes) else {
        return;
    };
    golden(
        &host,
        "debian/all.json",
        &[(VISIBLE, "all"), (CAPABILITIES, "all")],
    );
}

#[test]
fn a_driver_container() {
    let version = "570.172.08";
    let host = TestHost::bare();
    host.module(version, 1);
    let driver = "run/nvidia/driver";
    host.driver(&format!("{driver}/usr/lib/x86_64-linux-gnu"), version, WHOLE);
    host.library(&format!("{driver}/usr/bin/nvidia-smi"), None, 64);
    host.file(
        &format!("{driver}/lib/firmware/nvidia/{version}/gsp_ga10x.bin"),
        "",
    );
    let nodes = [
        ("nvidia0", 195, 0, 0o666),
        ("nvidiactl", 195, 255, 0o666),
        ("nvidia-uvm", 508, 0, 0o666),
    ];
    let Some(host) = with_nodes(host, &nodes) else {
        return;
    };
    golden_at(
        &host,
        driver,
        "driver-container/all.json",
        &[(VISIBLE, "all"), (CAPABILITIES, "all")],
    );
}

/// JetPack's own files: most of their lines name files of other boards.
#[test]
fn a_jetson() {
    let host = TestHost::bare();
    let csv = "etc/nvidia-container-runtime/host-files-for-container.d";
    let lib = "usr/lib/aarch64-linux-gnu/tegra";
    host.file("etc/nv_tegra_release", "# R35 (release), REVISION: 4.1\n");
    host.file(
        &format!("{csv}/devices.csv"),
        "dev, /dev/nvhost-ctrl\ndev, /dev/nvmap\ndev,/dev/dri/card*\ndev, /dev/nvidia2\n",
    );
    host.file(
        &format!("{csv}/drivers.csv"),
        format!(
            "lib, /{lib}/libcuda.so.1.1\nsym, /{lib}/libcuda.so\nsym, /usr/lib/aarch64-linux-gnu/libcuda.so\n\
             lib, /{lib}/libnvrm_gpu.so\nlib, /{lib}/libother-board.so\nlib, /etc/vulkan/icd.d/nvidia_icd.json\n\
             dir, /usr/share/glvnd/egl_vendor.d\ndir, /usr/src/not_here\nnonsense\nlib, ../../etc/shadow\n"
        ),
    );
    host.file(&format!("{csv}/cudnn.csv"), "lib, /usr/lib/libcudnn.so.8\n");
    host.library(&format!("{lib}/libcuda.so.1.1"), Some("libcuda.so.1"), 64);
    host.library(&format!("{lib}/libnvrm_gpu.so"), None, 64);
    host.library("usr/lib/libcudnn.so.8", Some("libcudnn.so.8"), 64);
    host.link(&format!("{lib}/libcuda.so"), "libcuda.so.1.1");
    host.link("usr/lib/aarch64-linux-gnu/libcuda.so", "tegra/libcuda.so");
    host.file(&format!("{lib}/nvidia_icd.json"), "{}");
    host.link(
        "etc/vulkan/icd.d/nvidia_icd.json",
        &format!("/{lib}/nvidia_icd.json"),
    );
    host.file("usr/share/glvnd/egl_vendor.d/10_nvidia.json", "{}");
    let nodes = [
        ("nvhost-ctrl", 505, 1, 0o660),
        ("nvmap", 10, 120, 0o660),
        ("dri/card0", 226, 0, 0o660),
    ];
    let Some(host) = with_nodes(host, &nodes) else {
        return;
    };
    golden(&host, "jetson/default.json", &[(VISIBLE, "all")]);
    golden(
        &host,
        "jetson/all-files.json",
        &[(VISIBLE, "0"), ("NVIDIA_REQUIRE_JETPACK", "csv-mounts=all")],
    );
    golden(&host, "jetson/no-such.txt", &[(VISIBLE, "1")]);
    golden(&host, "jetson/none.json", &[(VISIBLE, "none")]);
}

/// The list is an Orin's of JetPack 6, from NVIDIA/nvidia-container-toolkit
/// (testdata/lookup/rootfs-orin).
#[test]
fn an_orin_brings_the_nodes_of_its_list() {
    let list = include_str!("../../../tests/hosts/orin/devices.csv");
    let csv = "etc/nvidia-container-runtime/host-files-for-container.d";
    let library = "usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1";
    let host = TestHost::bare();
    host.file("etc/nv_tegra_release", "# R36 (release), REVISION: 4.0\n");
    host.file(&format!("{csv}/devices.csv"), list);
    host.file(&format!("{csv}/drivers.csv"), format!("lib, /{library}\n"));
    host.library(library, Some("libcuda.so.1"), 64);
    // Every node of the list but the second display, and two for its patterns.
    let named = list.lines().filter_map(|line| line.strip_prefix("dev, /dev/"));
    let mut wanted: Vec<&str> = named
        .filter(|node| !node.contains('*') && *node != "fb1")
        .chain(["dri/card0", "dri/renderD128"])
        .collect();
    for (minor, node) in (10..).zip(&wanted) {
        let (major, minor) = match *node {
            "nvidia0" => (195, 0),
            "nvidiactl" => (195, 255),
            "nvidia-modeset" => (195, 254),
            _ => (505, minor),
        };
        if !host.device(node, major, minor, 0o660) {
            return;
        }
    }
    let options = Options {
        json: true,
        env: vec![
            (VISIBLE.to_owned(), "all".to_owned()),
            (CAPABILITIES.to_owned(), "all".to_owned()),
        ],
        ..Options::default()
    };
    let locations = Locations {
        driver_root: host.path().to_owned(),
        ..host.locations()
    };
    let plan = shown(&options, &Config::default(), &locations).unwrap();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let path = |device: &Value| device["path"].as_str().unwrap().to_owned();
    let devices: Vec<String> = plan["devices"].as_array().unwrap().iter().map(path).collect();
    let mut planned: Vec<&str> = devices
        .iter()
        .map(|path| path.rsplit_once("/dev/").unwrap().1)
        .collect();
    planned.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(planned, wanted);
}

#[test]
fn what_a_site_adds() {
    let Some(host) = server(1) else { return };
    assert!(host.device("site0", 240, 0, 0o660));
    let config = r#"
        [[extra]]
        capability = "compute"
        files = ["/opt/site/libprobe.so", { source = "/opt/site/a.conf", target = "/etc/a.conf" }]
        devices = ["/dev/site0", "/dev/site1"]
        env = { SITE_PROBE = "1" }
        [[extra]]
        capability = ["graphics"]
        files = ["/opt/site/not-for-compute"]
    "#;
    let config = Config::parse(config, Path::new("/etc/nvoci/config.toml"), Dialect::Nvoci).unwrap();
    golden_with(&host, "", &config, "extra/compute.json", &[(VISIBLE, "0")]);
    golden_with(
        &host,
        "",
        &config,
        "extra/utility.json",
        &[(VISIBLE, "0"), (CAPABILITIES, "utility")],
    );
}

#[test]
fn a_containers_own_settings_are_followed_and_shown() {
    let Some(host) = server(1) else { return };
    host.file("tmp/nvidia-mps/control", "");
    let config = "container-settings = [\"layout=native\", \"ipc-sockets=false\", \"cuda-compat=off\"]";
    let config = Config::parse(config, Path::new("/etc/nvoci/config.toml"), Dialect::Nvoci).unwrap();
    let locations = Locations {
        driver_root: host.path().to_owned(),
        ..host.locations()
    };
    let with = |json, own: &[(&str, &str)]| {
        let env = own.iter().chain(&[(VISIBLE, "0")]);
        let options = Options {
            json,
            env: env.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Options::default()
        };
        shown(&options, &config, &locations).unwrap()
    };
    let json = |own: &[(&str, &str)]| serde_json::from_str::<Value>(&with(true, own)).unwrap();
    let in_libraries = |plan: &Value| {
        let links = plan["rootfsLinks"].as_array().unwrap();
        links
            .iter()
            .any(|link| link["inLibraryDirectory"] == true && link["at"] == "libcuda.so.1")
    };
    let plain = json(&[]);
    assert!(plain.get("settings").is_none() && !in_libraries(&plain));
    assert!(plain.to_string().contains("nvidia-mps") && plain["cudaCompat"] == "allowed");

    let own = json(&[
        ("NVOCI_LAYOUT", "native"),
        ("NVOCI_IPC_SOCKETS", "false"),
        ("NVOCI_CUDA_COMPAT", "off"),
        ("NVOCI_PREFLIGHT", "off"),
    ]);
    assert!(in_libraries(&own) && own["cudaCompat"] == "off");
    assert!(!own.to_string().contains("nvidia-mps"));
    assert_eq!(
        own["settings"],
        json!([
            {"key": "cuda-compat", "value": "off", "name": "NVOCI_CUDA_COMPAT", "by": "env"},
            {"key": "ipc-sockets", "value": "false", "name": "NVOCI_IPC_SOCKETS", "by": "env"},
            {"key": "layout", "value": "native", "name": "NVOCI_LAYOUT", "by": "env"},
        ])
    );
    assert!(own["warnings"].to_string().contains("NVOCI_PREFLIGHT=off"));
    let text = with(false, &[("NVOCI_LAYOUT", "native")]);
    let line = text.lines().find(|line| line.contains("NVOCI_LAYOUT")).unwrap();
    assert!(
        line.contains("layout = native") && line.ends_with("(env)"),
        "{line}"
    );
    assert!(!with(false, &[]).contains("Settings of this container"));
}

#[test]
fn devices_of_specifications_are_resolved_as_by_the_runtime() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::Builder::new().tempdir().unwrap();
    let spec = r#"{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[
        {"name":"0","containerEdits":{"env":["A=1"]}}]}"#;
    std::fs::write(dir.path().join("nvidia.json"), spec).unwrap();
    let mut config = Config::default();
    config.mode.value = crate::config::Mode::Cdi;
    config.cdi_spec_dirs.value = vec![dir.path().to_owned()];
    let host = TestHost::recorded("h100-580");
    let plan = |device: &str, json| {
        let options = Options {
            json,
            env: vec![(VISIBLE.to_owned(), device.to_owned())],
            ..Options::default()
        };
        shown(&options, &config, &host.locations())
    };
    let text = plan("nvidia.com/gpu=0", false).unwrap();
    let file = dir.path().join("nvidia.json").display().to_string();
    assert_eq!(
        text,
        format!(
            "CDI devices, which an engine or nvoci-runtime adds\n  nvidia.com/gpu=0                   {file}\n"
        )
    );
    let json: Value = serde_json::from_str(&plan("0", true).unwrap()).unwrap();
    assert_eq!(
        json,
        json!({"gpu": true, "cdiDevices": [{"name": "nvidia.com/gpu=0", "file": file}], "warnings": []})
    );
    let missing = plan("nvidia.com/gpu=7", false).unwrap_err();
    assert_eq!(missing.code(), crate::error::Code::Cdi);
    assert!(missing.to_string().contains("gpu=7"), "{missing}");
}

#[test]
fn a_request_without_effect_is_not_called_none() {
    let config = Config::parse(
        "accept-envvar-unprivileged = false",
        Path::new("c"),
        Dialect::Nvoci,
    )
    .unwrap();
    let options = Options {
        env: vec![(VISIBLE.to_owned(), "0".to_owned())],
        ..Options::default()
    };
    let host = TestHost::recorded("h100-580");
    let text = shown(&options, &config, &host.locations()).unwrap();
    assert!(
        text.starts_with("This container gets nothing. Its request has no effect:\nnote: "),
        "{text}"
    );
}
