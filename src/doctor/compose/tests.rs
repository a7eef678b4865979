use super::*;

fn found(text: &str) -> Vec<(u16, usize)> {
    let report = report("compose.yaml", text, &Context::default(), &Budget::default()).unwrap();
    let all = report.findings.iter().filter(|f| f.severity > Severity::Info);
    all.map(|f| {
        let line = f
            .evidence
            .first()
            .and_then(|e| e.strip_prefix("line ")?.split(':').next()?.parse().ok());
        (f.check.number, line.unwrap_or(0))
    })
    .collect()
}

/// A service with `devices` as its reservation.
fn reserved(device: &str) -> String {
    format!(
        "services:\n  app:\n    image: nvidia/cuda:12.4.1-base-ubuntu22.04\n    deploy:\n      resources:\n        \
         reservations:\n          devices:\n            - {device}\n"
    )
}

#[test]
fn a_sound_file_has_nothing() {
    assert_eq!(
        found(&STANZA.replace(
            "NAME:",
            "app:\n    image: pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime"
        )),
        []
    );
    let flow = format!("services:\n  app:\n    image: x\n    {FLOW}\n  db:\n    image: postgres:16\n");
    assert_eq!(found(&flow), []);
    let report = report("f", &flow, &Context::default(), &Budget::default()).unwrap();
    assert!(
        report
            .facts
            .iter()
            .any(|f| f.name == "with a GPU" && f.value == "1"),
        "{:?}",
        report.facts
    );
    for request in [
        "    gpus: all\n",
        "    gpus:\n      - driver: nvidia\n        count: 2\n",
        "    devices:\n      - nvidia.com/gpu=all\n",
        "    runtime: nvidia\n    environment:\n      - NVIDIA_VISIBLE_DEVICES=all\n",
        "    runtime: nvidia\n    environment:\n      NVIDIA_VISIBLE_DEVICES: all\n",
    ] {
        let text = format!("services:\n  app:\n    image: app:1-gpu\n{request}");
        assert_eq!(found(&text), [], "{request}");
    }
}

#[test]
fn broken_files() {
    for text in ["", "a: [", "services:\n", "version: '3'\n", "[]", "services: 3"] {
        assert_eq!(found(text).first().map(|f| f.0), Some(7602), "{text:?}");
    }
    // Aliases do not fill the memory.
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 0..8 {
        let (from, to) = (char::from(b'a' + i), char::from(b'b' + i));
        bomb.push_str(&format!(
            "{to}: &{to} [{}]\n",
            vec![format!("*{from}"); 10].join(",")
        ));
    }
    assert_eq!(found(&bomb), [(7602, 0)]);
}

#[test]
fn reservations() {
    for (device, checks) in [
        ("{driver: nvidia, count: 1, capabilities: [gpu]}", &[][..]),
        ("{driver: nvidia, count: all, capabilities: [gpu, utility]}", &[]),
        ("{capabilities: [gpu]}", &[]),
        ("{driver: cdi, device_ids: [\"nvidia.com/gpu=all\"]}", &[]),
        ("{driver: nvidia, count: \"${N:-1}\", capabilities: [gpu]}", &[]),
        ("{driver: nvidia, count: 1}", &[7601]),
        ("{driver: nvidia, count: 1, capabilities: [compute]}", &[]),
        ("{driver: nvidia, count: 1, capabilities: [tpu]}", &[7601]),
        (
            "{driver: nvidia, count: 1, device_ids: ['0'], capabilities: [gpu]}",
            &[7603],
        ),
        ("{driver: gpu, count: 1, capabilities: [gpu]}", &[7604]),
        (
            "{driver: nvidia, device_ids: [\"nvidia.com/gpu=0\"], capabilities: [gpu]}",
            &[7604],
        ),
        ("{driver: cdi, device_ids: ['0']}", &[7604]),
        ("{driver: nvidia, count: 0, capabilities: [gpu]}", &[7611]),
        ("{driver: nvidia, count: many, capabilities: [gpu]}", &[7611]),
    ] {
        let numbers: Vec<u16> = found(&reserved(device)).iter().map(|f| f.0).collect();
        assert_eq!(numbers, checks, "{device}");
    }
}

#[test]
fn evidence_has_its_line() {
    let text = "\
services:
  db:
    image: postgres
  app:
    image: nvidia/cuda:12.4.1-base-ubuntu22.04
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: 1
              device_ids: ['0']
              capabilities: [gpu]
";
    assert_eq!(found(text), [(7603, 11)]);
}

#[test]
fn services_without_a_gpu() {
    let of = |service: &str| found(&format!("services:\n  app:\n{service}"));
    assert_eq!(
        of("    image: nvidia/cuda:12.4.1-base-ubuntu22.04\n"),
        [(7606, 2)]
    );
    assert_eq!(of("    image: tensorflow/tensorflow:2.15.0-gpu\n"), [(7606, 2)]);
    assert_eq!(
        of("    image: app\n    environment: [NVIDIA_VISIBLE_DEVICES=all]\n"),
        [(7606, 2)]
    );
    assert_eq!(
        of("    image: app\n    environment: [NVIDIA_VISIBLE_DEVICES=void]\n"),
        []
    );
    assert_eq!(of("    image: postgres:16\n"), []);
    assert_eq!(of("    image: tensorflow/tensorflow:2.15.0\n"), []);
}

#[test]
fn the_runtime_needs_a_variable() {
    let of = |service: &str| found(&format!("services:\n  app:\n    runtime: nvidia\n{service}"));
    assert_eq!(of("    image: app\n"), [(7605, 3)]);
    assert_eq!(
        of("    image: app\n    environment:\n      NVIDIA_VISIBLE_DEVICES: 0\n"),
        []
    );
    assert_eq!(of("    image: nvidia/cuda:12.4.1-base-ubuntu22.04\n"), []);
}

#[test]
fn stanzas_in_the_wrong_place() {
    for place in [
        "    devices:\n      - {driver: nvidia, count: 1, capabilities: [gpu]}\n",
        "    resources: {reservations: {devices: [{capabilities: [gpu]}]}}\n",
        "    deploy: {reservations: {devices: [{capabilities: [gpu]}]}}\n",
        "    deploy: {resources: {limits: {devices: [{capabilities: [gpu]}]}}}\n",
    ] {
        let numbers: Vec<u16> = found(&format!("services:\n  app:\n    image: app\n{place}"))
            .iter()
            .map(|f| f.0)
            .collect();
        assert_eq!(numbers, [7607], "{place}");
    }
    assert_eq!(
        found("services:\n  app:\n    image: app\n    devices: [/dev/fuse]\n"),
        []
    );
}

#[test]
fn images_that_are_gone() {
    let of = |image: &str| found(&format!("services:\n  app:\n    image: {image}\n    gpus: all\n"));
    assert_eq!(of("nvidia/cuda"), [(7609, 3)]);
    assert_eq!(of("docker.io/nvidia/cuda:10.2-base"), [(7609, 3)]);
    assert_eq!(of("nvidia/cuda:${TAG:-latest}"), [(7609, 3)]);
    assert_eq!(of("nvidia/cuda:12.4.1-base-ubuntu22.04"), []);
}

#[test]
fn variables_of_a_service() {
    let of = |variable: &str| {
        found(&format!(
            "services:\n  app:\n    image: app\n    gpus: all\n    environment:\n      {variable}\n"
        ))
    };
    assert_eq!(of("NVIDIA_DRIVER_CAPABILITIES: utility"), [(7610, 5)]);
    assert_eq!(of("NVIDIA_VISIBLE_DEVICES: none"), [(7610, 5)]);
    assert_eq!(of("CUDA_VISIBLE_DEVICES: \"\""), [(7610, 5)]);
    assert_eq!(of("NVIDIA_DRIVER_CAPABILITIES: all"), []);
    assert_eq!(of("CUDA_VISIBLE_DEVICES: 0"), []);
}

#[test]
fn merge_keys_and_old_versions() {
    let text = "\
version: '2.4'
x-gpu: &gpu
  deploy:
    resources:
      reservations:
        devices:
          - driver: nvidia
            count: 1
services:
  app:
    <<: *gpu
    image: app
";
    assert_eq!(found(text), [(7601, 0)]);
    let fixed = text.replace("count: 1", "capabilities: [gpu]");
    let report = report("f", &fixed, &Context::default(), &Budget::default()).unwrap();
    assert_eq!(report.status(), 0);
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.check.number == 7608 && f.severity == Severity::Info)
    );
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "(services:|app:|deploy:|devices:|image:|gpus:|environment:|- |\n|  |\\{|\\}|\\[|\\]|&a |\\*a|<<: |nvidia|: |,|'|\"|#|ä){0,60}") {
        report("f", &text, &Context::default(), &Budget::default()).unwrap();
    }
}

#[test]
fn corpus() {
    use crate::doctor::image::tests::{Case, assess};
    let of = |case: &Case<'_>| {
        let (body, files) = case.files();
        let (_dir, context) = Context::with(&files);
        report("compose.yaml", body, &context, &Budget::default()).unwrap()
    };
    for (text, gaps, scored) in CORPORA {
        assess(text, gaps, scored, of);
    }
}

/// The corpora, with the known gaps of each one's first half, and the right cases of its second
/// half, which no rule was written with.
const CORPORA: [(&str, usize, usize); 3] = [
    (include_str!("corpus.txt"), 0, 9),
    (include_str!("public.txt"), 0, 23),
    (include_str!("fresh.txt"), 0, 9),
];

/// No text panics or takes long.
#[test]
fn mutated_files() {
    use crate::doctor::image::tests::{Case, Random, cases};
    let cases: Vec<Case<'_>> = CORPORA.iter().flat_map(|(text, ..)| cases(text)).collect();
    let mut random = Random::new(22);
    for at in 0..2000 {
        let (body, files) = cases[at % cases.len()].files();
        let text = random.mutated(body.as_bytes());
        let (dir, context) = Context::with(&files);
        for (name, text) in files {
            std::fs::write(dir.path().join(name), random.mutated(text.as_bytes())).unwrap();
        }
        let text = String::from_utf8_lossy(&text);
        let start = std::time::Instant::now();
        report("compose.yaml", &text, &context, &Budget::default())
            .unwrap()
            .to_text(false);
        assert!(start.elapsed().as_secs() < 1, "{text}");
    }
}

/// The Dockerfile that a service builds decides whether it is meant for a GPU.
#[test]
fn the_dockerfile_of_a_service_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("Dockerfile", "FROM nvidia/cuda:12.6.3-base-ubuntu24.04\n");
    write("web/Dockerfile", "FROM nginx:1.29\n");
    write(
        "ml/gpu.Dockerfile",
        "ARG BASE=debian:13\nFROM $BASE\nCOPY requirements.txt .\nRUN pip install -r requirements.txt\n",
    );
    write("ml/requirements.txt", "torch==2.7.1\n");
    let context = Context::at(dir.path());
    let judged = |service: &str| {
        let text = format!("services:\n  app:\n{service}");
        let report = report("compose.yaml", &text, &context, &Budget::default()).unwrap();
        report.findings.iter().map(|f| f.check.number).collect::<Vec<_>>()
    };
    for gpu in [
        "    build: .\n",
        "    build: ./\n    image: my/app\n",
        "    build: {context: ml, dockerfile: gpu.Dockerfile}\n",
        "    build: {dockerfile_inline: 'FROM pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime'}\n",
        "    build: {context: ./web/.}\n    image: nvidia/cuda:12.6.3-base-ubuntu24.04\n",
        "    build: {context: ml, dockerfile: gpu.Dockerfile, args: [BASE=nvidia/cuda:12.6.3-base-ubuntu24.04]}\n",
    ] {
        assert_eq!(judged(gpu), [7606], "{gpu}");
        assert_eq!(judged(&format!("{gpu}    {FLOW}\n")), [7601], "{gpu}");
    }
    for other in [
        "    build: web\n",
        "    build: nowhere\n",
        "    build: ../elsewhere\n",
        "    build: https://example.org/x.git\n",
        "    build: {context: ., target: docs}\n",
    ] {
        assert_eq!(judged(other), Vec::<u16>::new(), "{other}");
    }
}
