//! Runs each check on a test host with the fault, and on one without it.

use super::super::Check;
use super::*;
use crate::host::testhost::TestHost;
use crate::sys::procfs::recorded::STATUS;

const LIBRARIES: &[(&str, &str)] = &[("libcuda", "libcuda.so.1"), ("libnvidia-ml", "libnvidia-ml.so.1")];

/// A host with a driver and no fault that files can show.
fn healthy() -> TestHost {
    let host = TestHost::bare();
    host.module("550.120", 1);
    host.driver("usr/lib64", "550.120", LIBRARIES);
    host.file("proc/sys/kernel/osrelease", "6.1.0\n");
    host.file("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    host.file("var/lib/dpkg/status", "Package: bash\nVersion: 5\n\n");
    pci(&host, "0000:01:00.0", "0x030200", Some("nvidia"));
    host
}

fn pci(host: &TestHost, address: &str, class: &str, driver: Option<&str>) {
    let dir = format!("sys/bus/pci/devices/{address}");
    for (name, text) in [("vendor", "0x10de"), ("class", class), ("device", "0x2330")] {
        host.file(&format!("{dir}/{name}"), format!("{text}\n"));
    }
    if let Some(driver) = driver {
        host.link(
            &format!("{dir}/driver"),
            &format!("../../../bus/pci/drivers/{driver}"),
        );
    }
}

fn examine(host: &TestHost) -> Report {
    with_config(host, Ok(Config::default()))
}

fn with_config(host: &TestHost, config: Result<Config>) -> Report {
    believing(host, config, |_| ())
}

/// A report whose record of GPUs has a `change`.
fn believing(host: &TestHost, config: Result<Config>, change: impl FnOnce(&mut Vec<Gpu>)) -> Report {
    let found = host.discover();
    let mut believed = found.gpus.clone();
    change(&mut believed);
    let config = config.map(|mut c| {
        c.cdi_spec_dirs.value = vec![host.path().join("etc/cdi")];
        c
    });
    report(&Inputs {
        roots: &host.roots(),
        host: &found,
        believed: &believed,
        config: &config,
        system: &Root::open(host.path()).unwrap(),
    })
}

/// The worst finding of a check; `None` if it has none.
fn worst(report: &Report, check: &Check) -> Option<Severity> {
    let of_check = report.findings.iter().filter(|f| f.check == check);
    of_check.map(|f| f.severity).max()
}

fn nodes(host: &TestHost) -> bool {
    host.device("nvidiactl", 195, 255, 0o666)
        && host.device("nvidia0", 195, 0, 0o666)
        && host.device("nvidia-uvm", 508, 0, 0o666)
}

#[test]
fn a_healthy_host_is_well() {
    let host = healthy();
    if !nodes(&host) {
        return;
    }
    let report = examine(&host);
    assert_eq!(report.verdict(), Severity::Ok, "{}", report.to_text(false));
    assert!(report.findings.iter().all(|f| f.severity <= Severity::Info));
}

#[test]
fn the_driver_of_a_gpu_is_named() {
    for (driver, word) in [
        (Some("nouveau"), "nouveau"),
        (Some("vfio-pci"), "set aside"),
        (None, "no driver is bound"),
    ] {
        let host = TestHost::bare();
        pci(&host, "0000:01:00.0", "0x030000", driver);
        let report = examine(&host);
        let found = report.findings.iter().find(|f| f.check == &BUS).unwrap();
        assert_eq!(found.severity, Severity::Fail);
        assert!(found.cause.contains(word), "{found:?}");
    }
    // If another GPU works, it is no failure.
    let host = healthy();
    pci(&host, "0000:02:00.0", "0x030000", Some("vfio-pci"));
    assert_eq!(worst(&examine(&host), &BUS), Some(Severity::Warn));
    pci(&host, "0000:03:00.0", "0x030000", None);
    let report = examine(&host);
    let untaken = report
        .findings
        .iter()
        .find(|f| f.subject == "GPU 0000:03:00.0")
        .unwrap();
    assert!(untaken.cause.ends_with("did not bind to it") && untaken.fix.contains("dmesg"));
    for (id, word) in [
        ("0x2901", "needs the open module"),
        ("0x1b80", ""),
        ("0x102d", "end with the branch 470"),
    ] {
        host.file("sys/bus/pci/devices/0000:03:00.0/device", id);
        assert!(examine(&host).to_text(false).contains(word), "{id}");
    }
    assert_eq!(worst(&examine(&healthy()), &BUS), Some(Severity::Ok));
}

#[test]
fn without_a_gpu_a_virtual_machine_is_named() {
    let host = TestHost::bare();
    host.file("sys/bus/pci/devices/0000:00:01.0/vendor", "0x8086\n");
    assert!(examine(&host).to_text(false).contains("slot"));
    host.file("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor sse\n");
    assert!(examine(&host).to_text(false).contains("virtual machine"));
}

#[test]
fn the_module_on_disk_decides_the_cause_of_a_mismatch() {
    let host = TestHost::bare();
    host.module("550.120", 1);
    host.driver("usr/lib64", "550.127", LIBRARIES);
    host.file("proc/sys/kernel/osrelease", "6.1.0\n");
    host.file(
        "lib/modules/6.1.0/modules.dep",
        "kernel/a.ko:\nupdates/dkms/nvidia.ko:\n",
    );
    host.file(
        "lib/modules/6.1.0/updates/dkms/nvidia.ko",
        modinfo::module(b"version=550.127\0"),
    );
    host.file(
        "var/log/dpkg.log",
        "2026-11-20 06:12:33 upgrade libnvidia-compute-550:amd64 550.120 550.127\n2026-11-20 06:13:00 upgrade bash 1 2\n",
    );
    let report = examine(&host);
    let found = report.findings.iter().find(|f| f.check == &DRIVER).unwrap();
    assert!(
        found.severity == Severity::Fail && found.fix.starts_with("reboot"),
        "{found:?}"
    );
    assert!(found.evidence.iter().any(|e| e.contains("06:12:33")), "{found:?}");
    assert!(
        found.evidence.iter().any(|e| e.contains("nvidia.ko: 550.127")),
        "{found:?}"
    );
}

#[test]
fn the_next_boot_is_foreseen() {
    let host = healthy();
    host.file("lib/modules/6.1.0/modules.dep", "updates/dkms/nvidia.ko.zst:\n");
    host.file("lib/modules/6.1.0/updates/dkms/nvidia.ko.zst", "compressed");
    host.file("var/lib/dkms/nvidia/550.127/6.1.0/x86_64/log", "");
    host.file("var/lib/dkms/nvidia/560.1/6.9.0/x86_64/log", "");
    let report = examine(&host);
    assert_eq!(
        worst(&report, &PENDING),
        Some(Severity::Warn),
        "{}",
        report.to_text(false)
    );
    std::fs::rename(
        host.path().join("var/lib/dkms/nvidia/550.127"),
        host.path().join("var/lib/dkms/nvidia/550.120"),
    )
    .unwrap();
    assert_eq!(worst(&examine(&host), &PENDING), None);
}

#[test]
fn libraries_of_several_versions_are_named() {
    let host = healthy();
    assert_eq!(worst(&examine(&host), &SEVERAL), None);
    host.library("usr/lib64/libnvidia-ml.so.535.1.2", Some("libnvidia-ml.so.1"), 64);
    let report = examine(&host);
    assert_eq!(worst(&report, &SEVERAL), Some(Severity::Warn));
    assert!(report.to_text(false).contains("535.1.2"));
}

#[test]
fn nodes_that_are_missing_or_wrong_or_closed() {
    let host = healthy();
    let report = examine(&host);
    assert_eq!(worst(&report, &NODES), Some(Severity::Fail));
    assert_eq!(worst(&report, &UVM), Some(Severity::Warn));
    if !(host.device("nvidiactl", 195, 255, 0o660) && host.device("nvidia0", 7, 0, 0o666)) {
        return;
    }
    let report = examine(&host);
    let found = report.findings.iter().find(|f| f.check == &NODES).unwrap();
    assert!(found.fix.starts_with("remove the wrong nodes"), "{found:?}");
    assert_eq!(worst(&report, &PERMISSIONS), Some(Severity::Warn));
}

#[test]
fn uvm_is_worse_where_the_hook_may_not_help() {
    let host = healthy();
    let mut config = Config::default();
    config.load_kmods.value = false;
    assert_eq!(worst(&with_config(&host, Ok(config)), &UVM), Some(Severity::Fail));
}

#[test]
fn selinux_secure_boot_and_a_container_around() {
    let host = healthy();
    host.file("sys/fs/selinux/enforce", "1");
    assert_eq!(worst(&examine(&host), &SELINUX), Some(Severity::Warn));
    host.file("sys/fs/selinux/booleans/container_use_devices", "1 1");
    assert_eq!(worst(&examine(&host), &SELINUX), Some(Severity::Ok));
    host.file("sys/fs/selinux/enforce", "0");
    assert_eq!(worst(&examine(&host), &SELINUX), None);

    assert_eq!(worst(&examine(&host), &NESTED), None);
    host.file("run/systemd/container", "lxc\n");
    assert!(worst(&examine(&host), &NESTED).is_some());

    let host = TestHost::bare();
    pci(&host, "0000:01:00.0", "0x030000", None);
    host.file("proc/sys/kernel/osrelease", "6.1.0\n");
    host.file("lib/modules/6.1.0/modules.dep", "updates/dkms/nvidia.ko:\n");
    let efi = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    host.file(efi, [6, 0, 0, 0, 0]);
    assert_eq!(worst(&examine(&host), &SECURE_BOOT), None);
    host.file(efi, [6, 0, 0, 0, 1]);
    assert_eq!(worst(&examine(&host), &SECURE_BOOT), Some(Severity::Fail));
}

#[test]
fn a_machine_with_nvswitches_needs_its_fabric_manager() {
    let host = healthy();
    assert_eq!(worst(&examine(&host), &FABRIC), None);
    pci(&host, "0000:05:00.0", "0x068000", None);
    let report = examine(&host);
    assert_eq!(worst(&report, &FABRIC), Some(Severity::Fail));
    assert!(report.to_text(false).contains("error 802"));
    // A switch does not count as a GPU.
    assert_eq!(worst(&report, &BUS), Some(Severity::Ok));
    // Any user can give a process that name.
    host.file("proc/42/comm", "nv-fabricmanage\n");
    host.file(
        "proc/42/status",
        STATUS.replace("Uid:\t0\t0\t0\t0", "Uid:\t1000\t1000\t1000\t1000"),
    );
    assert_eq!(worst(&examine(&host), &FABRIC), Some(Severity::Fail));
    // A process of root in a container.
    host.file("proc/42/status", STATUS);
    host.link("proc/self/ns/user", "user:[1]");
    host.link("proc/42/ns/user", "user:[1]");
    host.link("proc/42/exe", "/usr/bin/nv-fabricmanager");
    host.link("proc/42/root", "/proc");
    assert_eq!(worst(&examine(&host), &FABRIC), Some(Severity::Ok));
    host.file(
        "var/lib/dpkg/status",
        "Package: nvidia-fabricmanager-550\nStatus: install ok installed\nVersion: 550.90.07-1\n\n",
    );
    assert_eq!(worst(&examine(&host), &FABRIC), Some(Severity::Fail));
}

#[test]
fn files_that_no_container_gets_are_named() {
    let host = healthy();
    host.file("run/docker.sock", "");
    host.link("run/nvidia-persistenced/socket", "../docker.sock");
    host.link("tmp/nvidia-mps", "/");
    let report = examine(&host);
    let text = format!("{report:?}");
    for left_out in [
        "no container gets nvidia-persistenced",
        "no container gets nvidia-mps",
    ] {
        assert!(text.contains(left_out), "{text}");
    }
    assert!(
        !text.contains("the socket of nvidia-persistenced exists"),
        "{text}"
    );
}

#[test]
fn cgroup_layouts() {
    let host = healthy();
    assert_eq!(worst(&examine(&host), &CGROUPS), None);
    std::fs::remove_file(host.path().join("sys/fs/cgroup/cgroup.controllers")).unwrap();
    assert_eq!(worst(&examine(&host), &CGROUPS), Some(Severity::Warn));
    host.file("sys/fs/cgroup/devices/cgroup.procs", "");
    assert_eq!(worst(&examine(&host), &CGROUPS), None);
    host.file("sys/fs/cgroup/unified/cgroup.controllers", "");
    assert_eq!(worst(&examine(&host), &CGROUPS), Some(Severity::Info));
}

#[test]
fn a_broken_policy_is_a_finding_and_idle_keys_are_named() {
    let host = healthy();
    let broken = Config::parse("layout = 7", "/c".as_ref(), crate::config::Dialect::Nvoci);
    let report = with_config(&host, broken);
    assert_eq!(worst(&report, &CONFIG), Some(Severity::Fail));
    // The other checks ran all the same.
    assert_eq!(worst(&report, &BUS), Some(Severity::Ok));
    let odd = Config::parse("no-such-key = 1\n", "/c".as_ref(), crate::config::Dialect::Nvoci);
    assert_eq!(
        worst(&with_config(&host, odd), &NOT_IN_EFFECT),
        Some(Severity::Warn)
    );
}

#[test]
fn a_stale_specification_is_found() {
    let host = healthy();
    let spec = |node: &str| {
        format!(
            "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: {node}\n"
        )
    };
    host.file("etc/cdi/a.yaml", spec("/dev/no-such-node"));
    assert_eq!(worst(&examine(&host), &CDI), Some(Severity::Fail));
    host.file("etc/cdi/a.yaml", spec("/dev/null"));
    // The test's directory does not belong to root alone, but the node is right.
    let report = examine(&host);
    assert!(!report.findings.iter().any(|f| f.cause.contains("/dev/null")));
}

#[test]
fn two_toolkits_are_distinguished() {
    let host = healthy();
    host.file("usr/bin/nvidia-ctk", "");
    assert_eq!(worst(&examine(&host), &TWO_TOOLKITS), Some(Severity::Info));
    host.file("usr/bin/nvoci", "");
    host.link("usr/bin/nvidia-cdi-hook", "nvoci");
    assert_eq!(worst(&examine(&host), &TWO_TOOLKITS), Some(Severity::Warn));
    std::fs::remove_file(host.path().join("usr/bin/nvidia-ctk")).unwrap();
    assert_eq!(worst(&examine(&host), &TWO_TOOLKITS), None);
    for name in ["oci-nvidia-hook.json", "oci-nvoci.json"] {
        host.file(&format!("usr/share/containers/oci/hooks.d/{name}"), "{}");
    }
    assert_eq!(worst(&examine(&host), &TWO_TOOLKITS), Some(Severity::Warn));
}

#[test]
fn a_mount_leak_is_counted() {
    let host = healthy();
    let line = "9 8 0:1 / /usr/lib/libnvidia-allocator.so.1 rw - ext4 /dev/sda rw\n";
    host.file("proc/1/mountinfo", line.repeat(7));
    assert_eq!(worst(&examine(&host), &LEAK), None);
    host.file("proc/1/mountinfo", line.repeat(8));
    assert_eq!(worst(&examine(&host), &LEAK), Some(Severity::Warn));
}

#[test]
fn wsl_is_reported_link_by_link() {
    let host = TestHost::bare();
    host.file(
        "proc/sys/kernel/osrelease",
        "5.15.153.1-microsoft-standard-WSL2\n",
    );
    host.file(
        "proc/version",
        "Linux version 5.15.153.1-microsoft-standard-WSL2\n",
    );
    let report = examine(&host);
    let links: Vec<(&str, Severity)> = report
        .findings
        .iter()
        .filter(|f| f.check == &WSL)
        .map(|f| (&*f.subject, f.severity))
        .collect();
    assert_eq!(links, [("WSL2", Severity::Ok), ("/dev/dxg", Severity::Fail)]);
    host.file(
        "var/lib/dpkg/status",
        "Package: libnvidia-compute-550\nStatus: install ok installed\nVersion: 550.1\n\n",
    );
    assert_eq!(worst(&examine(&host), &LINUX_DRIVER), Some(Severity::Warn));
}

#[test]
fn vulnerable_packages_and_unknown_managers() {
    let host = healthy();
    assert_eq!(worst(&examine(&host), &VULNERABLE), None);
    host.file(
        "var/lib/dpkg/status",
        "Package: nvidia-container-toolkit\nStatus: install ok installed\nVersion: 1.16.1-1\n\n",
    );
    assert_eq!(worst(&examine(&host), &VULNERABLE), Some(Severity::Warn));
    std::fs::remove_file(host.path().join("var/lib/dpkg/status")).unwrap();
    let unread = |report: &Report| {
        report
            .findings
            .iter()
            .any(|f| f.check == &UNREAD && f.subject == "packages")
    };
    assert!(unread(&examine(&host)));
    assert!(!unread(&examine(&healthy())));
}

#[test]
fn a_recorded_h100_host() {
    let host = TestHost::recorded("h100-580");
    let report = examine(&host);
    assert_eq!(
        worst(&report, &DRIVER),
        Some(Severity::Ok),
        "{}",
        report.to_text(false)
    );
    assert!(
        report
            .facts
            .iter()
            .any(|f| f.name == "driver" && f.value == "580.159.04")
    );
    assert_eq!(worst(&report, &FABRIC), None);
    // Its nodes were not recorded. Nodes of unused capabilities are no fault.
    let nodes = report.findings.iter().find(|f| f.check == &NODES).unwrap();
    assert!(
        !nodes.evidence.iter().any(|e| e.contains("nvidia-cap")),
        "{nodes:?}"
    );
}

#[test]
fn the_record_of_a_gpu_equals_its_module() {
    let host = healthy();
    let found = |change: fn(&mut Vec<Gpu>)| worst(&believing(&host, Ok(Config::default()), change), &KEPT);
    assert_eq!(found(|_| ()), None);
    assert_eq!(found(|gpus| gpus[0].minor = 7), Some(Severity::Fail));
    assert_eq!(found(Vec::clear), Some(Severity::Fail));
}
