//! Runs each check on a test container with the fault, and on one without it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustix::io::Errno;

use super::inspect::{Library, Mapped, Seat, State, Unit, libraries};
use super::*;
use crate::containers::Container;
use crate::doctor::Check;
use crate::host::{DeviceNode, Gpu, KernelModule, Majors, NodeKind};
use crate::vocabulary::{DeviceNumber, PciAddress};

const VERSION: &str = "550.120";

fn host() -> Host {
    let node = |kind, path: &str, major, minor| DeviceNode {
        kind,
        path: path.into(),
        number: DeviceNumber { major, minor },
        mode: 0o666,
        uid: 0,
        gid: 0,
        present: true,
        links: Vec::new(),
    };
    Host {
        kernel: Some(KernelModule {
            version: VERSION.parse().unwrap(),
            open: true,
        }),
        gpus: vec![Gpu {
            index: 0,
            minor: 0,
            uuid: "GPU-00000000-0000-0000-0000-000000000001".parse().ok(),
            pci: PciAddress::default(),
            name: "A100".to_owned(),
            excluded: false,
            mig_devices: Vec::new(),
        }],
        majors: Majors(vec![("nvidia".to_owned(), 195), ("nvidia-uvm".to_owned(), 508)]),
        nodes: vec![
            node(NodeKind::Ctl, "/dev/nvidiactl", 195, 255),
            node(NodeKind::Gpu(0), "/dev/nvidia0", 195, 0),
            node(NodeKind::Uvm, "/dev/nvidia-uvm", 508, 0),
        ],
        ..Host::default()
    }
}

/// A container without faults.
fn seen() -> Seen {
    let nodes = host().nodes.into_iter().map(|n| Seat {
        kind: n.kind,
        path: n.path,
        number: n.number,
        state: State::Opens,
        granted: true,
    });
    Seen {
        grant: Err("none".to_owned()),
        container: Container {
            id: "3f2a".repeat(16),
            engine: Some("docker"),
            cgroup: "/system.slice/docker-3f2a.scope".to_owned(),
            pid: 77,
            gpus: [0].into(),
            driver_dir: Some("/usr/local/nvidia".into()),
            driver: Some(VERSION.to_owned()),
            record: Some(serde_json::json!({ "driver": VERSION, "warnings": [] })),
            processes: Vec::new(),
        },
        env: Some(BTreeMap::from([(
            "NVIDIA_VISIBLE_DEVICES".to_owned(),
            "all".to_owned(),
        )])),
        nodes: nodes.collect(),
        paused: false,
        unopened: None,
        libcuda: Some(Library {
            path: "/usr/local/nvidia/lib64/libcuda.so.1".into(),
            real: Some(format!("libcuda.so.{VERSION}").into()),
            via: "cache".to_owned(),
        }),
        mapped: vec![mapped(
            &format!("/usr/local/nvidia/lib64/libcuda.so.{VERSION}"),
            false,
        )],
        unit: None,
    }
}

fn mapped(path: &str, deleted: bool) -> Mapped {
    Mapped {
        pid: 78,
        command: "python".to_owned(),
        path: path.into(),
        deleted,
    }
}

fn worst(seen: &Seen, check: &Check) -> Option<Severity> {
    let report = report(seen, &host());
    report
        .findings
        .iter()
        .filter(|f| f.check == check)
        .map(|f| f.severity)
        .max()
}

fn with_state(at: usize, state: State) -> Seen {
    let mut seen = seen();
    seen.nodes[at].state = state;
    seen
}

fn with_var(name: &str, value: &str) -> Seen {
    let mut seen = seen();
    seen.env
        .as_mut()
        .unwrap()
        .insert(name.to_owned(), value.to_owned());
    seen
}

#[test]
fn a_healthy_container_is_well() {
    let report = report(&seen(), &host());
    assert_eq!(report.verdict(), Severity::Ok, "{}", report.to_text(false));
}

#[test]
fn uvm_is_named_when_it_is_missing() {
    let seen = with_state(2, State::Absent);
    let report = report(&seen, &host());
    let found: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Fail)
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].check == &UVM && found[0].cause.contains("/dev/nvidia-uvm"));
    assert!(found[0].fix.contains("--device"));
    let mut bare = host();
    bare.nodes.pop();
    let mut none = seen;
    none.nodes.pop();
    let report = super::report(&none, &bare);
    let found = report.findings.iter().find(|f| f.check == &UVM).unwrap();
    assert!(found.fix.contains("nvidia-modprobe"), "{found:?}");
}

#[test]
fn a_node_that_does_not_open_has_a_reason() {
    for (errno, check) in [
        (Errno::PERM, &NODE),
        (Errno::ACCESS, &PERMISSION),
        (Errno::NXIO, &DEAD),
        (Errno::TIMEDOUT, &DEAD),
        (Errno::IO, &DEAD),
    ] {
        let seen = with_state(1, State::Fails(errno));
        assert_eq!(worst(&seen, check), Some(Severity::Fail), "{errno}");
    }
    assert_eq!(worst(&with_state(1, State::Wrong), &DEAD), Some(Severity::Fail));
    assert_eq!(
        worst(&with_state(0, State::Absent), &MISSING),
        Some(Severity::Fail)
    );
    assert_eq!(worst(&seen(), &NODE), Some(Severity::Ok));
}

#[test]
fn without_a_gpu_the_request_is_the_reason() {
    let without = |requested: Option<&str>| {
        let mut seen = seen();
        seen.nodes.iter_mut().for_each(|n| n.state = State::Absent);
        seen.container.gpus.clear();
        seen.env = Some(BTreeMap::new());
        if let Some(value) = requested {
            seen.env
                .as_mut()
                .unwrap()
                .insert("NVIDIA_VISIBLE_DEVICES".to_owned(), value.to_owned());
        }
        let report = report(&seen, &host());
        let found = report.findings.iter().find(|f| f.check == &NO_GPU).unwrap();
        (found.cause.clone(), found.fix.clone())
    };
    assert!(without(None).1.contains("--gpus all"));
    assert!(without(Some("void")).0.contains("requests none"));
    assert!(without(Some("0")).1.contains("doctor engine"));
}

#[test]
fn libcuda_must_be_the_hosts() {
    let with = |path: &str, real: &str| {
        let mut seen = seen();
        seen.libcuda = Some(Library {
            path: path.into(),
            real: Some(real.into()),
            via: "LD_LIBRARY_PATH".to_owned(),
        });
        worst(&seen, &LIBCUDA)
    };
    let stub = "/usr/local/cuda/lib64/stubs/libcuda.so.1";
    assert_eq!(with(stub, "libcuda.so"), Some(Severity::Fail));
    assert_eq!(
        with("/usr/lib/libcuda.so.1", "libcuda.so.470.1.2"),
        Some(Severity::Fail)
    );
    assert_eq!(
        with("/usr/local/cuda/compat/libcuda.so.1", "libcuda.so.575.1"),
        Some(Severity::Info)
    );
    // The vendor's toolkit binds it into the image's library directory.
    assert_eq!(
        with("/usr/lib/libcuda.so.1", "libcuda.so.550.120"),
        Some(Severity::Ok)
    );
    let mut none = seen();
    none.libcuda = None;
    assert_eq!(worst(&none, &LIBCUDA), Some(Severity::Fail));
    let mut utility = with_var("NVIDIA_DRIVER_CAPABILITIES", "utility");
    utility.libcuda = None;
    assert_eq!(worst(&utility, &LIBCUDA), None);
    assert_eq!(worst(&utility, &CAPABILITIES), Some(Severity::Warn));
    assert_eq!(
        worst(
            &with_var("NVIDIA_DRIVER_CAPABILITIES", "utility,compute"),
            &CAPABILITIES
        ),
        None
    );
}

#[test]
fn an_upgrade_underneath_is_seen_in_records_and_mappings() {
    let mut old = seen();
    old.container.driver = Some("550.90".to_owned());
    assert_eq!(worst(&old, &CHANGED), Some(Severity::Fail));
    old.mapped = vec![mapped("/usr/local/nvidia/lib64/libcuda.so.550.90", true)];
    assert_eq!(worst(&old, &MAPPED), Some(Severity::Fail));
    assert_eq!(worst(&old, &DELETED), Some(Severity::Warn));
    let well = seen();
    assert_eq!(worst(&well, &MAPPED), Some(Severity::Ok));
    assert_eq!((worst(&well, &DELETED), worst(&well, &CHANGED)), (None, None));
}

#[test]
fn cuda_visible_devices_is_compared_with_the_gpus() {
    for (value, severity) in [
        ("0", None),
        ("GPU-00000000-0000", None),
        ("", Some(Severity::Fail)),
        ("-1", Some(Severity::Fail)),
        ("1", Some(Severity::Fail)),
        ("0,1", Some(Severity::Warn)),
        ("GPU-ffff", Some(Severity::Fail)),
        ("MIG-1", None),
    ] {
        assert_eq!(
            worst(&with_var("CUDA_VISIBLE_DEVICES", value), &VISIBLE),
            severity,
            "{value}"
        );
    }
    assert_eq!(
        worst(&with_state(1, State::Absent), &VISIBLE),
        Some(Severity::Warn)
    );
}

#[test]
fn a_reload_is_foreseen_and_what_it_took_can_be_given_back() {
    let unit = |text: &str| Unit {
        name: "docker-3f2a.scope".to_owned(),
        text: text.to_owned(),
    };
    let all = "DevicePolicy=strict\nDeviceAllow=/dev/char/195:255 rw\nDeviceAllow=/dev/char/195:0 rw\nDeviceAllow=/dev/char/508:0 rw\n";
    for (text, severity) in [
        (all, Severity::Ok),
        (
            "DevicePolicy=strict\nDeviceAllow=char-nvidia rw\nDeviceAllow=char-nvidia-uvm rw\n",
            Severity::Ok,
        ),
        ("Description=a scope\n", Severity::Ok),
        (
            "DevicePolicy=strict\nDeviceAllow=/dev/char/195:255 rw\nDeviceAllow=char-* m\n",
            Severity::Warn,
        ),
    ] {
        let mut seen = seen();
        seen.unit = Some(unit(text));
        assert_eq!(worst(&seen, &RELOAD), Some(severity), "{text}");
        assert_eq!(Repair::plan(&seen), None);
    }
    let mut lost = with_state(1, State::Fails(Errno::PERM));
    lost.unit = Some(unit("DevicePolicy=strict\n"));
    let repair = Repair::plan(&lost).unwrap();
    assert_eq!(
        repair.devices,
        [(
            PathBuf::from("/dev/nvidia0"),
            DeviceNumber { major: 195, minor: 0 }
        )]
    );
    assert_eq!(
        repair.describe(),
        [
            "systemctl set-property --runtime docker-3f2a.scope DeviceAllow='/dev/char/195:0 rw'  (/dev/nvidia0)"
        ]
    );
    let report = report(&lost, &host());
    let found = report.findings.iter().find(|f| f.check == &NODE).unwrap();
    assert!(
        found.cause.contains("daemon-reload") && found.fix.contains("3f2a3f2a3f2a --fix"),
        "{found:?}"
    );
    // A node that the container made itself was not given to it.
    lost.nodes[1].granted = false;
    assert_eq!(Repair::plan(&lost), None);
    lost.grant = Err("the grant is an earlier container's".to_owned());
    let refusal = refused(&lost).unwrap();
    assert!(refusal.cause.contains("earlier container's") && !refusal.fix.is_empty());
    assert_eq!(refused(&seen()), None);
}

#[test]
fn mappings_are_read_as_the_kernel_writes_them() {
    let maps = "7f00-7f01 r-xp 00000000 00:1f 12 /usr/lib/a dir/libcuda.so.1 (deleted)\n\
                7f01-7f02 r--p 00000000 00:1f 12 /usr/lib/a dir/libcuda.so.1 (deleted)\n\
                7f02-7f03 rw-p 00000000 00:00 0 \n\
                7f03-7f04 r-xp 00000000 00:1f 13 /usr/lib/libnvidia-ml.so.550.120\n\
                7f04-7f05 r-xp 00000000 00:1f 14 /usr/lib/libc.so.6\n\
                7f05-7f06 rw-p 00000000 00:00 0                          [anon:/tmp/libcuda.so.1]\n";
    assert_eq!(
        libraries(
            &[
                &b"7e00-7f00 r-xp 00000000 00:1f 11 /\xff/lib\xff.so\n"[..],
                maps.as_bytes()
            ]
            .concat()
        ),
        [
            (PathBuf::from("/usr/lib/a dir/libcuda.so.1"), true),
            (PathBuf::from("/usr/lib/libnvidia-ml.so.550.120"), false)
        ]
    );
}

#[test]
fn unread_parts_are_reported() {
    let mut seen = seen();
    assert_eq!(worst(&seen, &UNREAD), None);
    seen.env = None;
    seen.unopened = Some("no".to_owned());
    assert_eq!(worst(&seen, &UNREAD), Some(Severity::Info));
    seen.container.record = Some(serde_json::json!({ "warnings": ["odd"] }));
    assert_eq!(worst(&seen, &WARNING), Some(Severity::Info));
    assert_eq!(none("x", "no").status(), 2);
}

#[test]
fn a_paused_container_is_reported_as_paused_not_as_a_hang() {
    let mut seen = seen();
    assert_eq!(worst(&seen, &PAUSED), None);
    seen.paused = true;
    for seat in &mut seen.nodes {
        seat.state = State::Untried;
    }
    assert_eq!(worst(&seen, &PAUSED), Some(Severity::Warn));
    assert_eq!(worst(&seen, &DEAD), None);
    let report = report(&seen, &host());
    assert!(format!("{report:?}").contains("docker unpause 3f2a3f2a3f2a"));
}
