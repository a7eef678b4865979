//! Frames, messages and pods that nobody may believe.

#![allow(clippy::unwrap_used, clippy::unnecessary_wraps, reason = "a test")]

use std::collections::BTreeSet;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use nvoci_nri::decide::{Allocation, Policy, Refusal, Rules, decide};
use nvoci_nri::kubelet;
use nvoci_nri::messages::Create;
use nvoci_nri::options::{Command, Options, parse};
use nvoci_nri::proto::{Fields, push_bytes, push_number};
use nvoci_nri::session::Session;
use nvoci_nri::status::Status;
use nvoci_nri::trunk;
use nvoci_nri::ttrpc::{self, Inbox};
use proptest::prelude::*;

const GPU: &str = "GPU-1";

fn rules(policy: Policy) -> Rules {
    Rules {
        policy,
        management: BTreeSet::from(["gpu-operator".to_owned()]),
    }
}

fn allocated() -> Result<Allocation, String> {
    Ok(Allocation {
        ids: BTreeSet::from([GPU.to_owned()]),
        names: BTreeSet::new(),
    })
}

fn annotated<'a>(key: &'a str, value: &'a str) -> Create<'a> {
    Create {
        container: "c",
        namespace: "default",
        pod_annotations: vec![(key, value)],
        ..Create::default()
    }
}

fn cdi(policy: Policy, create: &Create<'_>) -> Result<Vec<String>, Refusal> {
    decide(&rules(policy), create, allocated).map(|answer| answer.adjustment.cdi)
}

#[test]
fn the_most_specific_annotation_wins() {
    let mut create = annotated("nvidia.cdi.k8s.io", "nvidia.com/gpu=0");
    assert_eq!(cdi(Policy::Off, &create).unwrap(), ["nvidia.com/gpu=0"]);
    create
        .pod_annotations
        .push(("nvidia.cdi.k8s.io/pod", "nvidia.com/gpu=1"));
    assert_eq!(cdi(Policy::Off, &create).unwrap(), ["nvidia.com/gpu=1"]);
    create.pod_annotations.push((
        "nvidia.cdi.k8s.io/container.c",
        "nvidia.com/gpu=2, nvidia.com/gpu=2",
    ));
    assert_eq!(cdi(Policy::Off, &create).unwrap(), ["nvidia.com/gpu=2"]);
}

#[test]
fn management_devices_are_for_configured_namespaces() {
    for policy in [Policy::Off, Policy::Allocated] {
        let mut create = annotated(
            "nvidia.cdi.k8s.io/pod",
            "nvidia.com/gpu=GPU-1,management.nvidia.com/gpu=all",
        );
        let answer = decide(&rules(policy), &create, allocated).unwrap();
        assert!(answer.adjustment.cdi.is_empty() && answer.note.is_some());
        create.namespace = "gpu-operator";
        assert_eq!(cdi(policy, &create).unwrap().len(), 2);
    }
}

#[test]
fn the_policy_refuses_what_was_not_allocated() {
    let name = "nvidia.cdi.k8s.io/pod";
    assert!(cdi(Policy::Allocated, &annotated(name, "nvidia.com/gpu=GPU-1")).is_ok());
    for hostile in ["all", "0", "GPU-2", "GPU-1::2", "GPU-1,nvidia.com/gpu=all"] {
        let value = format!("nvidia.com/gpu={hostile}");
        let refusal = cdi(Policy::Allocated, &annotated(name, &value)).unwrap_err();
        assert!(
            matches!(refusal, Refusal::NotAllocated(_)),
            "{hostile}: {refusal}"
        );
    }
    let engine = Create {
        annotations: vec![("cdi.k8s.io/x", "nvidia.com/gpu=all")],
        ..Create::default()
    };
    assert!(matches!(
        cdi(Policy::Allocated, &engine),
        Err(Refusal::NotAllocated(_))
    ));
    for path in [
        "/var/run/nvidia-container-devices/all",
        "/run/nvidia-container-devices/GPU-2",
        "/var/run//nvidia-container-devices/GPU-2",
        "/var/./run/x/../nvidia-container-devices/GPU-2/",
        "/var/run/nvidia-container-devices/GPU-2/GPU-1",
    ] {
        let create = Create {
            mounts: vec![path],
            ..Create::default()
        };
        assert!(
            matches!(cdi(Policy::Allocated, &create), Err(Refusal::NotAllocated(_))),
            "{path}"
        );
    }
}

/// The table of codes is generated from the other crate's code, which lacks these refusals.
#[test]
fn every_refusal_has_its_row_in_the_table_of_codes() {
    let table =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/error-codes.md")).unwrap();
    let text = String::new;
    for (refusal, code) in [
        (Refusal::NotAllocated(text()), "NVOCI-8001"),
        (Refusal::Unreadable(text()), "NVOCI-8002"),
        (Refusal::Malformed(text()), "NVOCI-8003"),
    ] {
        assert!(refusal.to_string().ends_with(&format!("[{code}]")), "{refusal}");
        assert!(table.contains(&format!("\n| {code} | ")), "{code}");
    }
}

#[test]
fn a_variable_gives_only_what_was_allocated() {
    let with = |visible| Create {
        visible,
        ..Create::default()
    };
    let answer = |create: &Create<'_>| decide(&rules(Policy::Allocated), create, allocated);
    assert_eq!(
        answer(&with(vec![GPU])).unwrap().adjustment.cdi,
        ["nvidia.com/gpu=GPU-1"]
    );
    for hostile in [
        "all",
        "0",
        "GPU-1,GPU-2",
        "GPU-1,",
        "=GPU-1",
        "evil.com/x=GPU-1",
        "management.nvidia.com/gpu=GPU-1",
    ] {
        let changed = answer(&with(vec![hostile])).unwrap().adjustment;
        assert_eq!(
            (changed.visible.as_deref(), changed.cdi.len()),
            (Some("void"), 0),
            "{hostile}"
        );
    }
    assert!(
        answer(&with(vec!["void", "all"])).is_err(),
        "the engine replaces one entry only"
    );
    let own_runtime = Create {
        handler: "nvidia",
        ..with(vec![GPU])
    };
    assert!(answer(&own_runtime).unwrap().adjustment.cdi.is_empty());
    assert!(
        decide(&rules(Policy::Off), &with(vec!["all"]), allocated)
            .unwrap()
            .adjustment
            .cdi
            .is_empty()
    );
}

/// The hook and the runtime give every GPU to an old image with `CUDA_VERSION` alone.
#[test]
fn an_old_image_is_a_request_for_all() {
    let message = |env: &str| create_message("a", "b", env);
    let (old, empty) = (message("CUDA_VERSION=12.0"), message("CUDA_VERSION="));
    let create = Create::read(&old).unwrap();
    let changed = decide(&rules(Policy::Allocated), &create, allocated).unwrap();
    assert_eq!(changed.adjustment.visible.as_deref(), Some("void"));
    let silent = decide(&rules(Policy::Allocated), &create, || Err(String::new()));
    assert!(matches!(silent, Err(Refusal::Unreadable(_))));
    let named = Create {
        visible: vec![GPU],
        ..Create::read(&old).unwrap()
    };
    let changed = decide(&rules(Policy::Allocated), &named, allocated).unwrap();
    assert_eq!(changed.adjustment.visible, None);
    let create = Create::read(&empty).unwrap();
    assert!(decide(&rules(Policy::Allocated), &create, || Err(String::new())).is_ok());
}

/// Other resources of the vendor have ids that could be the index of a GPU.
#[test]
fn only_gpus_of_an_allocation_count() {
    let part = |number, bytes: &[u8]| {
        let mut message = Vec::new();
        push_bytes(&mut message, number, bytes);
        message
    };
    let device = |name: &str, id: &str| part(2, &[part(1, name.as_bytes()), part(2, id.as_bytes())].concat());
    let container = [
        part(1, b"c"),
        device("nvidia.com/rdma_shared_device_a", "1"),
        device("nvidia.com/gpu", GPU),
        device("nvidia.com/gpu.shared", "GPU-2::3"),
        device("nvidia.com/gpu", "1d2e3f4a-0000-1111-2222-333344445555"),
    ];
    let pod = [part(1, b"p"), part(2, b"n"), part(3, &container.concat())];
    let found = kubelet::find(&part(1, &pod.concat()), "n", "p", "c").unwrap();
    let orin = "1d2e3f4a-0000-1111-2222-333344445555";
    assert_eq!(found.ids.into_iter().collect::<Vec<_>>(), [orin, GPU, "GPU-2"]);
}

/// With `mode = "cdi"` a runtime reads a word without a kind as a device of the default kind.
#[test]
fn a_word_without_a_kind_is_checked() {
    for (value, fine) in [
        ("all", false),
        ("0", false),
        ("GPU-1", true),
        ("vendor.com/nic=0", true),
    ] {
        let create = Create {
            annotations: vec![("cdi.k8s.io/x", value)],
            ..Create::default()
        };
        assert_eq!(cdi(Policy::Allocated, &create).is_ok(), fine, "{value}");
    }
}

#[test]
fn a_container_without_a_gpu_needs_no_kubelet() {
    let create = Create {
        visible: vec!["void", ""],
        mounts: vec!["/etc/hosts"],
        ..Create::default()
    };
    assert!(decide(&rules(Policy::Allocated), &create, || Err("called".to_owned())).is_ok());
    let refusal = decide(
        &rules(Policy::Allocated),
        &annotated("nvidia.cdi.k8s.io", "nvidia.com/gpu=0"),
        || Err(String::new()),
    );
    assert!(matches!(refusal, Err(Refusal::Unreadable(_))));
}

#[test]
fn a_silent_kubelet_costs_no_more_than_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let begin = Instant::now();
    let result = kubelet::allocation(&socket, ("n", "p", "c"), begin + Duration::from_millis(40));
    assert_eq!(result.unwrap_err(), "no answer in time");
    assert!(
        begin.elapsed() < Duration::from_millis(200),
        "{:?}",
        begin.elapsed()
    );
    assert!(kubelet::allocation(Path::new("/nonexistent"), ("n", "p", "c"), begin).is_err());
}

#[test]
fn lengths_are_checked_before_use() {
    let frame = |number: u32, length: u32| [number.to_be_bytes(), length.to_be_bytes()].concat();
    assert!(trunk::read_frame(&mut Cursor::new(frame(1, u32::MAX)), |_, _| Ok(())).is_err());
    let mut inbox = Inbox::default();
    assert!(inbox.push(&[0xff; 10], |_| Ok(())).is_err());
    // The length of a field may be larger than the message.
    let broken: Result<Vec<_>, _> = Fields::of(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]).collect();
    assert!(broken.is_err());
}

fn options(policy: &str) -> Options {
    match parse(["--policy".into(), policy.into()], |_| None).unwrap() {
        Command::Run(options) => Options {
            kubelet: "/nonexistent".into(),
            ..options
        },
        Command::Print(_) => unreachable!(),
    }
}

/// A stream that returns fixed bytes and takes all that is written.
struct Fixed<'a>(&'a [u8]);

impl Read for Fixed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Fixed<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn create_message(key: &str, value: &str, env: &str) -> Vec<u8> {
    let (mut pair, mut pod, mut container, mut all) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    push_bytes(&mut pair, 1, key.as_bytes());
    push_bytes(&mut pair, 2, value.as_bytes());
    push_bytes(&mut pod, 6, &pair);
    push_bytes(&mut container, 3, b"c");
    push_bytes(&mut container, 8, env.as_bytes());
    push_bytes(&mut all, 1, &pod);
    push_bytes(&mut all, 2, &container);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_kubelets_answer(bytes: Vec<u8>) {
        let _ = kubelet::call(Fixed(&bytes));
        let _ = kubelet::find(&bytes, "n", "p", "c");
    }

    #[test]
    fn any_bytes_are_a_stream(bytes: Vec<u8>, step in 1usize..20) {
        let mut inbox = Inbox::default();
        let (mut whole, mut broken) = (0, false);
        for piece in bytes.chunks(step) {
            broken |= inbox.push(piece, |m| { whole += 10 + m.body.len(); Ok(()) }).is_err();
            if broken { break }
        }
        prop_assert!(broken || whole + inbox.waiting() == bytes.len());
    }

    #[test]
    fn every_request_is_answered(
        method in "Configure|Synchronize|CreateContainer|Shutdown|StateChange|[A-Za-z]{0,9}",
        payload: Vec<u8>, policy in "off|allocated",
    ) {
        let (options, status) = (options(&policy), Status::default());
        let mut out = Vec::new();
        let mut session = Session { out: &mut out, options: &options, status: &status, environment_only: false };
        let mut inbox = Inbox::default();
        let request = ttrpc::request(7, "nri.pkg.api.v1alpha1.Plugin", &method, &payload);
        inbox.push(&request, |message| session.answer(&message)).unwrap();
        let mut answers = Inbox::default();
        let mut streams = Vec::new();
        let mut reader = Cursor::new(out);
        trunk::read_frame(&mut reader, |number, piece| {
            assert_eq!(number, trunk::PLUGIN);
            answers.push(piece, |m| { streams.push((m.stream, m.kind)); Ok(()) })
        }).unwrap();
        prop_assert_eq!(streams, vec![(7, ttrpc::RESPONSE)]);
    }

    #[test]
    fn no_pod_gets_what_was_not_allocated(
        key in "nvidia.cdi.k8s.io(/pod|/container.c)?|cdi.k8s.io/[a-z]|\\PC*",
        value in "(nvidia.com/gpu=(GPU-1|all|0|GPU-2|\\PC)|management.nvidia.com/gpu=all|,| |\\PC){0,4}",
        env in "NVIDIA_VISIBLE_DEVICES=(GPU-1|all|,|0|void|\\PC){0,3}",
    ) {
        let message = create_message(&key, &value, &env);
        let create = Create::read(&message).unwrap();
        if let Ok(answer) = decide(&rules(Policy::Allocated), &create, allocated) {
            prop_assert!(answer.adjustment.cdi.iter().all(|name| name == "nvidia.com/gpu=GPU-1"), "{:?}", answer);
            let seen = answer.adjustment.visible.as_deref().unwrap_or(env.split_once('=').unwrap().1);
            let granted = seen.split(',').all(|id| ["", "void", "none", GPU].contains(&id.trim()));
            prop_assert!(granted, "{seen:?} {answer:?}");
        }
        if let Err(refusal) = decide(&rules(Policy::Off), &create, allocated) {
            let line = refusal.to_string();
            prop_assert!(!line.contains(char::is_control) && line.ends_with(']'), "{line:?}");
        }
    }

    #[test]
    fn numbers_survive(number: u64, field in 1u32..1000) {
        let mut out = Vec::new();
        push_number(&mut out, field, number);
        let (found, value) = Fields::of(&out).next().unwrap().unwrap();
        prop_assert_eq!((found, value.number()), (u64::from(field), Ok(number)));
    }
}
