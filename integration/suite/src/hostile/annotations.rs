//! The attacker wrote annotations: of a pod, or of an image that Podman 4 copies them from.
//! Variables are not accepted, so a GPU comes by an annotation alone.

use super::prelude::*;

/// Where the kubelet keeps a pod's files.
const POD: &str = "/var/lib/kubelet/pods/4811a2ec-9576-4426-a2d3-299dc1ced75f";
const KUBELETS: &str = "io.kubernetes.cri-o.Annotations";
const MINE: &str = "cdi.k8s.io/mine";
const EVERYTHING: (&str, &str) = (MINE, "nvidia.com/gpu=all");
const FIRST: (&str, &str) = ("cdi.k8s.io/n", "nvidia.com/gpu=0");
const PLUGINS: (&str, &str) = ("cdi.k8s.io/nvidia-device-plugin_1", "nvidia.com/gpu=0");
const CONTAINERD: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "container"),
    ("io.kubernetes.cri.sandbox-id", "0"),
];
const PODMAN: (&str, &str) = ("io.container.manager", "libpod");

fn annotate(spec: &mut Value, pairs: &[(&str, &str)]) {
    for (key, value) in pairs {
        spec["annotations"][*key] = json!(value);
    }
}

/// The annotations of CRI-O for a container, with those that the kubelet gave.
fn crio(spec: &mut Value, given: &[(&str, &str)]) {
    let mut kubelets = json!({"io.kubernetes.container.hash": "f2390c24"});
    for (key, value) in given {
        kubelets[*key] = json!(value);
    }
    let pairs = [
        ("io.container.manager", "cri-o"),
        ("io.kubernetes.cri-o.ContainerType", "container"),
        ("io.kubernetes.pod.name", "gpu"),
        (KUBELETS, &kubelets.to_string()),
    ];
    annotate(spec, &pairs);
}

/// The kubelet's mount for a container of a pod.
fn in_pod(spec: &mut Value) {
    let hosts = format!("{POD}/etc-hosts");
    let mount = json!({"destination": "/etc/hosts", "type": "bind", "source": hosts, "options": ["rbind", "rprivate"]});
    push(&mut spec["mounts"], mount);
}

/// The kubelet's files, and a specification of another kind whose device is the second GPU.
fn with_kind(scene: &mut Scene<'_>, kind: &str) -> io::Result<()> {
    with_kubelet(scene)?;
    let edits = json!({"deviceNodes": [{"path": "/dev/nvidia1"}]});
    let specification =
        json!({"cdiVersion": "0.5.0", "kind": kind, "devices": [{"name": "all", "containerEdits": edits}]});
    scene.file("/etc/cdi/kind.json", specification.to_string())
}

fn with_kubelet(scene: &mut Scene<'_>) -> io::Result<()> {
    scene.file(&format!("{POD}/etc-hosts"), "")
}

/// There is no other request than the annotation.
const fn alone(edit: fn(&mut Value)) -> Request {
    Request { env: &["A=b"], edit }
}

/// The annotation must give nothing.
const GIVES_NOTHING: Case = Case {
    policy: CLOSED,
    host: with_kubelet,
    ways: &[Way::CreateRuntime, Way::Entry],
    expect: Expect::always(NoGpu),
    bites: Bite::Guilty(Kind::ForeignGpu),
    ..Case::HARMLESS
};
/// The container has the first GPU, and the annotation must not give another.
const GIVES_NO_OTHER: Case = Case {
    ways: &[Way::Entry],
    ..Case::HARMLESS
};

pub(crate) const IMAGES_CDI: Class = Class {
    number: 29,
    attack: "CDI annotations that come with an image",
    decision: "no request at the hook; by policy at the runtime",
    also: &[],
    cases: &[
        Case {
            id: "29_annotation",
            why: "a CDI annotation requests all GPUs at the hook, which no engine wrote it for",
            policy: "",
            request: alone(|spec| annotate(spec, &[("cdi.k8s.io/image", "nvidia.com/gpu=all")])),
            ways: &[Way::CreateRuntime],
            ..GIVES_NOTHING
        },
        Case {
            id: "29_policy",
            why: "a CDI annotation requests all GPUs, and the policy accepts no prefix",
            policy: "annotation-prefixes = []",
            request: alone(|spec| annotate(spec, &[("cdi.k8s.io/image", "nvidia.com/gpu=all")])),
            bites: Bite::Nothing,
            ..GIVES_NOTHING
        },
    ],
};

pub(crate) const PODS: Class = Class {
    number: 65,
    attack: "a pod's annotations under CRI-O and containerd: all GPUs, another vendor's kind, the management kind, IMEX channels, forged values and markers",
    decision: "only what the kubelet gave is the engine's word; all else counts as a variable",
    also: &[
        "src/request/tests.rs::under_crio_only_what_the_kubelet_gave_is_the_engines_word",
        "src/request/tests.rs::gated_features_pass_one_gate",
    ],
    cases: &[
        Case {
            id: "65_pod",
            why: "a pod's annotation under CRI-O requests all GPUs",
            request: alone(|spec| {
                crio(spec, &[]);
                annotate(spec, &[EVERYTHING]);
                in_pod(spec);
            }),
            ..GIVES_NOTHING
        },
        Case {
            id: "65_pod_as_containerd",
            why: "a pod's annotations under CRI-O have containerd's markers",
            request: alone(|spec| {
                crio(spec, &[]);
                annotate(spec, &CONTAINERD);
                annotate(spec, &[EVERYTHING]);
                in_pod(spec);
            }),
            ..GIVES_NOTHING
        },
        Case {
            id: "65_other_value",
            why: "a pod's annotation has the name of one that the kubelet gave, with another value",
            request: alone(|spec| {
                crio(spec, &[(MINE, "nvidia.com/gpu=7")]);
                annotate(spec, &[EVERYTHING]);
                in_pod(spec);
            }),
            ..GIVES_NOTHING
        },
        Case {
            id: "65_not_json",
            why: "a pod's annotation takes the place of the kubelet's list, and is no JSON",
            request: alone(|spec| {
                crio(spec, &[]);
                annotate(spec, &[(KUBELETS, "[[[[[["), EVERYTHING]);
                in_pod(spec);
            }),
            ..GIVES_NOTHING
        },
        Case {
            id: "65_sandbox",
            why: "in the sandbox CRI-O writes the pod's annotations over its own",
            request: alone(|spec| {
                crio(spec, &[EVERYTHING]);
                annotate(spec, &[EVERYTHING]);
            }),
            ..GIVES_NOTHING
        },
        Case {
            id: "65_plugin",
            why: "the device plugin gave the first GPU, and the pod requests all",
            policy: CLOSED,
            host: with_kubelet,
            request: alone(|spec| {
                crio(spec, &[PLUGINS]);
                annotate(spec, &[PLUGINS, EVERYTHING]);
                in_pod(spec);
            }),
            ..GIVES_NO_OTHER
        },
        Case {
            id: "65_vendor",
            why: "a pod's annotation names another vendor's kind, which has the second GPU",
            host: |host| with_kind(host, "evil.com/dev"),
            request: edited(|spec| {
                crio(spec, &[(MINE, "evil.com/dev=all")]);
                annotate(spec, &[(MINE, "evil.com/dev=all"), FIRST]);
                in_pod(spec);
            }),
            ..GIVES_NO_OTHER
        },
        Case {
            id: "65_management",
            why: "a pod's annotation names the management kind, which has the second GPU",
            host: |host| with_kind(host, "management.nvidia.com/gpu"),
            request: edited(|spec| {
                annotate(spec, &CONTAINERD);
                annotate(spec, &[(MINE, "management.nvidia.com/gpu=all"), FIRST]);
                in_pod(spec);
            }),
            ..GIVES_NO_OTHER
        },
        Case {
            id: "65_imex",
            why: "a pod's annotation names an IMEX channel; this host has none, so a grant would fail",
            host: with_kubelet,
            request: edited(|spec| {
                crio(spec, &[]);
                annotate(spec, &[("cdi.k8s.io/i", "nvidia.com/imex-channel=0"), FIRST]);
                in_pod(spec);
            }),
            ..GIVES_NO_OTHER
        },
    ],
};

pub(crate) const IMAGES: Class = Class {
    number: 66,
    attack: "an image's annotations under Podman, and markers of other engines in them",
    decision: "count as variables; other kinds never",
    also: &[
        "src/request/tests.rs::markers_that_an_image_can_write_prove_no_engine",
        "src/request/tests.rs::kinds_that_only_a_specification_explains",
    ],
    cases: &[
        Case {
            id: "66_image",
            why: "an image's annotation under Podman requests all GPUs",
            request: alone(|spec| annotate(spec, &[PODMAN, EVERYTHING])),
            ..GIVES_NOTHING
        },
        Case {
            id: "66_image_as_crio",
            why: "an image has the markers of CRI-O and containerd, and a forged list of the kubelet's",
            request: alone(|spec| {
                crio(spec, &[EVERYTHING]);
                annotate(spec, &CONTAINERD);
                annotate(spec, &[EVERYTHING]);
            }),
            ..GIVES_NOTHING
        },
        Case {
            id: "66_image_as_containerd",
            why: "an image has containerd's markers, and an empty one in the place of Podman's",
            request: alone(|spec| {
                annotate(spec, &[("io.container.manager", "")]);
                annotate(spec, &CONTAINERD);
                annotate(spec, &[EVERYTHING]);
            }),
            ..GIVES_NOTHING
        },
        Case {
            id: "66_no_engine",
            why: "an annotation requests all GPUs, and no engine has left a marker",
            request: alone(|spec| annotate(spec, &[EVERYTHING])),
            ..GIVES_NOTHING
        },
        Case {
            id: "66_image_vendor",
            why: "an image's annotation names another vendor's kind, which has the second GPU",
            host: |host| with_kind(host, "evil.com/dev"),
            request: edited(|spec| annotate(spec, &[PODMAN, (MINE, "evil.com/dev=all"), FIRST])),
            ..GIVES_NO_OTHER
        },
        Case {
            id: "66_image_class",
            why: "an image's annotation names another class of NVIDIA's, which has the second GPU",
            host: |host| with_kind(host, "nvidia.com/dev"),
            request: edited(|spec| annotate(spec, &[(MINE, "nvidia.com/dev=all"), FIRST])),
            ..GIVES_NO_OTHER
        },
        Case {
            id: "66_imex_gds",
            why: "an image's annotation names gated features, which this host lacks",
            request: edited(|spec| {
                let gated = "nvidia.com/imex-channel=0,nvidia.com/gds=all,nvidia.com/mofed=all";
                annotate(spec, &[("cdi.k8s.io/i", gated), FIRST]);
            }),
            ..GIVES_NO_OTHER
        },
    ],
};
