//! Tests of whole requests; the parts have tests of their own.

use proptest::prelude::*;

use super::*;
use crate::compat::Cuda;
use crate::config::{Dialect, Mode, Origin, Setting};
use crate::vocabulary::{GpuUuid, MigDevice, MigUuid, PciAddress, Uuid};

/// Owned inputs of a request.
struct Case {
    env: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
    mounts: Vec<(&'static str, &'static str)>,
    privileged: bool,
    entry: EntryPoint,
    config: Config,
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn env(env: &[(&str, &str)]) -> Case {
    Case {
        env: pairs(env),
        annotations: Vec::new(),
        mounts: Vec::new(),
        privileged: false,
        entry: EntryPoint::Runtime,
        config: Config::default(),
    }
}

fn devices(value: &str) -> Case {
    env(&[("NVIDIA_VISIBLE_DEVICES", value)])
}

fn mounts(mounts: &[(&'static str, &'static str)]) -> Case {
    Case {
        mounts: mounts.to_vec(),
        ..env(&[]).config("accept-volume-mounts = true")
    }
}

fn annotations(annotations: &[(&str, &str)]) -> Case {
    Case {
        annotations: pairs(annotations),
        ..env(&[])
    }
}

impl Case {
    fn config(self, text: &str) -> Self {
        let config = Config::parse(text, std::path::Path::new("test"), Dialect::Nvoci).unwrap();
        Self { config, ..self }
    }

    fn privileged(self) -> Self {
        Self {
            privileged: true,
            ..self
        }
    }

    fn and(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn run(&self) -> Result<Request> {
        let mounts: Vec<_> = self
            .mounts
            .iter()
            .map(|&(source, destination)| MountView { source, destination })
            .collect();
        let inputs = Inputs {
            env: &self.env,
            annotations: &self.annotations,
            mounts: &mounts,
            privileged: self.privileged,
            entry: self.entry,
        };
        let result = parse(&inputs, &self.config);
        let empty = result.as_ref().is_ok_and(|r| r.is_empty() && r.notes.is_empty());
        assert!(
            empty || wants_gpu_fast(&inputs, &self.config),
            "the fast test missed a request"
        );
        result
    }

    fn ok(&self) -> Request {
        self.run().unwrap()
    }

    fn code(&self) -> Code {
        let e = self.run().unwrap_err();
        assert!(e.to_string().len() < 700, "{e}");
        e.code()
    }
}

fn list(items: &[Selector]) -> DeviceRequest {
    DeviceRequest::List(items.to_vec())
}

#[test]
fn device_values() {
    use DeviceRequest::{All, NoneDevices, Nothing, Void};
    use Selector::Index;
    for (value, want) in [
        ("all", All),
        (" ALL ", All),
        ("none", NoneDevices),
        ("void", Void),
        ("0,void", Void),
        ("", Nothing),
        (" , ,", Nothing),
        ("0", list(&[Index(0)])),
        (" 2 , 0 ", list(&[Index(2), Index(0)])),
        ("0-3", list(&[Selector::Range(0, 3)])),
        ("all,none", All),
        ("none,all", NoneDevices),
        ("0,all", All),
        ("nvidia.com/gpu=1,runtime.nvidia.com/gpu=all", All),
        ("nvidia.com/gpu=1", list(&[Index(1)])),
    ] {
        assert_eq!(devices(value).ok().devices, want, "{value:?}");
    }
    assert_eq!(env(&[]).ok().devices, Nothing);
    assert!(env(&[("PATH", "/bin")]).ok().is_empty());
}

#[test]
fn the_last_of_two_equal_names_counts() {
    let case = env(&[
        ("NVIDIA_VISIBLE_DEVICES", "all"),
        ("NVIDIA_VISIBLE_DEVICES", "void"),
    ]);
    assert_eq!(case.ok().devices, DeviceRequest::Void);
}

/// toolkit-features 12, quirk 1: in legacy mode a feature beside the GPU removed the GPU.
#[test]
fn quirk_01_a_feature_is_given_beside_the_gpu() {
    for mode in ["legacy", "auto"] {
        for feature in ["GDS", "MOFED", "GDRCOPY", "NVSWITCH"] {
            let case = devices("0")
                .privileged()
                .and(&format!("NVIDIA_{feature}"), "enabled");
            let request = case.config(&format!("mode = \"{mode}\"")).ok();
            assert_eq!(request.devices, list(&[Selector::Index(0)]), "{feature}");
            let g = request.gated;
            assert!(g.gds || g.mofed || g.gdrcopy || g.nvswitch, "{feature}");
        }
    }
}

/// toolkit-features 12, quirk 2: `0,0` gave no GPU at all.
#[test]
fn quirk_02_repeated_ids_are_one_device() {
    assert_eq!(devices("0,0").ok().devices, list(&[Selector::Index(0)]));
    assert_eq!(devices("0, 0,,0").ok().devices, list(&[Selector::Index(0)]));
}

/// toolkit-features 12, quirk 3.
#[test]
fn quirk_03_none_never_means_all() {
    let csv = devices("none").config("mode = \"csv\"");
    assert_eq!(csv.ok().devices, DeviceRequest::NoneDevices);
    let imex = devices("0").privileged().and("NVIDIA_IMEX_CHANNELS", "none");
    assert_eq!(imex.ok().imex, ImexRequest::Nothing);
}

/// toolkit-features 12, quirk 10: the vendor's default mode ignores capabilities, requirements and
/// MIG rights.
#[test]
fn quirk_10_capabilities_requirements_and_mig_rights_count_at_every_entry_point() {
    for entry in [EntryPoint::Hook, EntryPoint::Runtime, EntryPoint::Cdi] {
        let case = Case {
            entry,
            ..devices("0")
                .privileged()
                .and("NVIDIA_DRIVER_CAPABILITIES", "utility")
                .and("NVIDIA_REQUIRE_CUDA", "cuda>=99.0")
                .and("NVIDIA_MIG_CONFIG_DEVICES", "all")
        };
        let request = case.ok();
        assert_eq!(request.capabilities, Capabilities::UTILITY);
        assert!(request.mig_config && !request.mig_monitor);
        let facts = Facts {
            cuda: Some(Cuda { major: 12, minor: 4 }),
            ..Facts::default()
        };
        let e = evaluate_all(&request.requirements, &facts).unwrap_err();
        assert_eq!(e.code(), Code::Requirement);
    }
}

/// toolkit-features 12, quirk 17.
#[test]
fn quirk_17_a_space_in_the_capabilities_hides_nothing() {
    let case = devices("0").and("NVIDIA_DRIVER_CAPABILITIES", "compute, graphics");
    assert_eq!(
        case.ok().capabilities,
        Capabilities::COMPUTE | Capabilities::GRAPHICS
    );
}

/// toolkit-features 12, quirk 19: `…-devicesX` counted as the directory.
#[test]
fn quirk_19_the_directory_of_volume_mounts_is_matched_whole() {
    let case = mounts(&[("/dev/null", "/var/run/nvidia-container-devicesX/0")]);
    assert!(case.ok().is_empty());
}

#[test]
fn capabilities() {
    let with = |value: &str| devices("0").and("NVIDIA_DRIVER_CAPABILITIES", value);
    assert_eq!(devices("0").ok().capabilities, Capabilities::DEFAULT);
    assert_eq!(with("").ok().capabilities, Capabilities::DEFAULT);
    assert_eq!(with(" ,").ok().capabilities, Capabilities::DEFAULT);
    assert_eq!(with("all").ok().capabilities, Capabilities::ALL);
    assert_eq!(with("compute,all").ok().capabilities, Capabilities::ALL);
    assert_eq!(with("Video").ok().capabilities, Capabilities::VIDEO);
    let some = "supported-driver-capabilities = \"compute,video\"";
    assert_eq!(
        with("all").config(some).ok().capabilities,
        Capabilities::COMPUTE | Capabilities::VIDEO
    );
    assert_eq!(devices("0").config(some).ok().capabilities, Capabilities::COMPUTE);
    assert_eq!(with("graphics").config(some).code(), Code::Capability);
    // Security case 17, and a typo.
    for bad in ["all,--root=/x", "comput", "none", "compute graphics"] {
        assert_eq!(with(bad).code(), Code::Capability, "{bad}");
    }
    // A container without a request cannot fail.
    assert!(env(&[("NVIDIA_DRIVER_CAPABILITIES", "comput")]).ok().is_empty());
}

#[test]
fn legacy_images() {
    let legacy = env(&[("CUDA_VERSION", "9.0.176")]).ok();
    assert_eq!(legacy.devices, DeviceRequest::All);
    assert_eq!(legacy.provenance, Provenance::LegacyImage);
    assert_eq!(legacy.capabilities, Capabilities::ALL);
    assert_eq!(legacy.requirements[0].to_string(), "cuda>=9.0");
    let modern = env(&[("CUDA_VERSION", "12.4.1"), ("NVIDIA_REQUIRE_CUDA", "cuda>=12.4")]);
    assert!(modern.ok().is_empty());
    let empty = env(&[("CUDA_VERSION", "9.0"), ("NVIDIA_VISIBLE_DEVICES", "")]);
    assert!(empty.ok().is_empty());
    let odd = env(&[("CUDA_VERSION", "foo")]).ok();
    assert!(odd.requirements.is_empty() && odd.notes.len() == 1);
}

#[test]
fn requirements() {
    let case = || {
        devices("0")
            .and("NVIDIA_REQUIRE_CUDA", "cuda>=12.0")
            .and("NVIDIA_REQUIRE_DRIVER", "driver>=450")
            .and("NVIDIA_REQUIRE_JETPACK", "csv-mounts=all")
            .and("NVIDIA_REQUIRE_JETPACK_HOST_MOUNTS", "base-only")
    };
    let request = case().ok();
    let shown: Vec<String> = request.requirements.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["cuda>=12.0", "driver>=450"]);
    assert!(request.jetpack_all);
    for yes in ["1", "true", "T"] {
        assert!(
            case()
                .and("NVIDIA_DISABLE_REQUIRE", yes)
                .ok()
                .requirements
                .is_empty()
        );
    }
    for no in ["0", "false", "yes", ""] {
        assert_eq!(
            case().and("NVIDIA_DISABLE_REQUIRE", no).ok().requirements.len(),
            2
        );
    }
    assert!(
        case()
            .config("disable-require = true")
            .ok()
            .requirements
            .is_empty()
    );
    let broken = devices("0").and("NVIDIA_REQUIRE_CUDA", "cuda");
    assert_eq!(broken.code(), Code::Malformed);
    assert!(
        broken
            .and("NVIDIA_DISABLE_REQUIRE", "1")
            .ok()
            .requirements
            .is_empty()
    );
}

/// Security cases 14 and 16.
#[test]
fn an_untrusted_request_gives_nothing_and_leaves_a_note() {
    const STRICT: &str = "accept-envvar-unprivileged = false";
    for value in ["all", "0", "GPU-00", "../../etc", "example.com/nic=1"] {
        let request = devices(value).config(STRICT).ok();
        assert!(request.is_empty(), "{value}");
        assert!(
            request.notes[0].contains("NVIDIA_VISIBLE_DEVICES"),
            "{:?}",
            request.notes
        );
    }
    for value in ["", "void"] {
        let request = devices(value).config(STRICT).ok();
        assert!(request.is_empty() && request.notes.is_empty(), "{value}");
    }
    assert!(devices("none").config(STRICT).ok().is_empty());
    assert!(env(&[("CUDA_VERSION", "9.0")]).config(STRICT).ok().is_empty());
    let swarm = env(&[("DOCKER_RESOURCE_GPU", "0")]);
    let swarm = swarm.config("accept-envvar-unprivileged = false\nswarm-resource = \"DOCKER_RESOURCE_GPU\"");
    assert!(swarm.ok().is_empty());
    assert_eq!(
        devices("all").config(STRICT).privileged().ok().devices,
        DeviceRequest::All
    );
}

#[test]
fn gated_features_need_a_right() {
    let wish = || {
        devices("0")
            .and("NVIDIA_GDS", "enabled")
            .and("NVIDIA_MOFED", "enabled")
            .and("NVIDIA_GDRCOPY", "disabled")
            .and("NVIDIA_NVSWITCH", "1")
            .and("NVIDIA_IMEX_CHANNELS", "3,1,3")
    };
    let refused = wish().ok();
    assert_eq!(refused.gated, Gated::default());
    assert_eq!(refused.imex, ImexRequest::Nothing);
    assert_eq!(refused.notes.len(), 4, "{:?}", refused.notes);
    for granted in [
        wish().privileged(),
        wish().config("accept-gated-unprivileged = true"),
    ] {
        let granted = granted.ok();
        assert!(granted.gated.gds && granted.gated.mofed);
        assert!(!granted.gated.gdrcopy && !granted.gated.nvswitch);
        assert_eq!(granted.imex, ImexRequest::Channels(vec![1, 3]));
    }
    let never = wish()
        .config("ignore-imex-channel-requests = true")
        .privileged()
        .ok();
    assert_eq!(never.imex, ImexRequest::Nothing);
}

#[test]
fn imex_channels_are_checked() {
    let with = |value: &str| devices("0").privileged().and("NVIDIA_IMEX_CHANNELS", value);
    assert_eq!(with("all").ok().imex, ImexRequest::All);
    assert_eq!(with("channel7").ok().imex, ImexRequest::Channels(vec![7]));
    assert_eq!(with("1048575").ok().imex, ImexRequest::Channels(vec![1_048_575]));
    for none in ["", "none", "void", ","] {
        assert_eq!(with(none).ok().imex, ImexRequest::Nothing, "{none}");
    }
    for bad in ["bogus", "-1", "4294967296", "1048576", "1,x", "0-3"] {
        assert_eq!(with(bad).code(), Code::Malformed, "{bad}");
        let unprivileged = devices("0").and("NVIDIA_IMEX_CHANNELS", bad).ok();
        assert_eq!(
            (unprivileged.imex, unprivileged.notes.len()),
            (ImexRequest::Nothing, 1)
        );
    }
}

#[test]
fn rights_over_mig_need_privilege() {
    for name in ["NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES"] {
        for value in ["all", "0", "../../x"] {
            let without = devices("all").and(name, value).ok();
            assert!(!without.mig_config && !without.mig_monitor);
            assert!(without.notes[0].contains("CAP_SYS_ADMIN"), "{:?}", without.notes);
        }
        let request = devices("all").privileged().and(name, "all").ok();
        assert!(request.mig_config != request.mig_monitor);
        assert_eq!(devices("all").privileged().and(name, "0").code(), Code::Malformed);
        assert_eq!(
            devices("0:1").privileged().and(name, "all").code(),
            Code::Malformed
        );
        assert!(env(&[(name, "all")]).ok().is_empty());
    }
}

/// A device plugin's word for volume mounts, where these do not count or are missing.
#[test]
fn the_directory_of_volume_mounts_is_no_device() {
    let refusal = |config: &str| {
        let case = devices("/var/run/nvidia-container-devices").config(config);
        let refused = case.run().unwrap_err();
        assert_eq!(refused.code(), Code::Malformed);
        refused.to_string()
    };
    assert!(refusal("").contains("set `accept-volume-mounts = true`"));
    assert!(refusal("accept-volume-mounts = true").contains("none is mounted there"));
    // A refused variable does not stop the container.
    let off = devices("/var/run/nvidia-container-devices")
        .config("accept-volume-mounts = true\naccept-envvar-unprivileged = false");
    assert!(off.ok().is_empty());
}

#[test]
fn volume_mounts() {
    let case = mounts(&[
        ("/dev/null", "/var/run/nvidia-container-devices/1"),
        ("/dev/./null", "/var/run//nvidia-container-devices/GPU-00"),
        (
            "/dev/null",
            "/var/run/nvidia-container-devices/MIG-GPU-00000000/1/0",
        ),
        ("/dev/null", "/var/run/nvidia-container-devices/imex/2"),
        (
            "/dev/null",
            "/var/run/nvidia-container-devices/cdi/nvidia.com/gpu/3",
        ),
        (
            "/dev/null",
            "/var/run/nvidia-container-devices/cdi/nvidia.com/gds=all",
        ),
        (
            "/dev/null",
            "/var/run/nvidia-container-devices/cdi/example.com/nic=eth0",
        ),
        ("/dev/zero", "/var/run/nvidia-container-devices/7"),
        (
            "/dev/null",
            "/var/run/nvidia-container-devices/../nvidia-container-devices/8",
        ),
        ("/dev/null", "/var/run/nvidia-container-devices"),
    ])
    .and("NVIDIA_VISIBLE_DEVICES", "all");
    let request = case.ok();
    assert_eq!(request.provenance, Provenance::VolumeMount);
    let shown = match &request.devices {
        DeviceRequest::List(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(shown, ["1", "GPU-00", "MIG-GPU-00000000/1/0", "3"]);
    assert_eq!(request.imex, ImexRequest::Channels(vec![2]));
    assert!(
        request.gated.gds,
        "requested by the engine's side, so no privilege is needed"
    );
    assert_eq!(request.cdi, [CdiName::parse("example.com/nic=eth0").unwrap()]);
    // Off by default; the error explains the device plugin's word in the variable.
    let off = Case {
        config: Config::default(),
        ..case
    };
    assert_eq!(off.ok().devices, DeviceRequest::All);
    // IMEX by mount goes with GPUs by variable.
    let mixed = mounts(&[("/dev/null", "/var/run/nvidia-container-devices/imex/all")])
        .and("NVIDIA_VISIBLE_DEVICES", "0");
    assert_eq!(
        (mixed.ok().imex, mixed.ok().provenance),
        (ImexRequest::All, Provenance::Env)
    );
}

#[test]
fn annotations_by_prefix() {
    let request = annotations(&[
        ("cdi.k8s.io/b", " nvidia.com/gpu=1 , nvidia.com/gpu=gpu2"),
        (
            "cdi.k8s.io/a",
            "nvidia.com/gpu=0,nvidia.com/gpu=made-up,unqualified",
        ),
        ("other/c", "nvidia.com/gpu=9"),
        ("io.kubernetes.cri.container-type", "container"),
    ]);
    let request = Case {
        mounts: vec![KUBELETS],
        ..request
    }
    .and("NVIDIA_VISIBLE_DEVICES", "void")
    .ok();
    assert_eq!(request.provenance, Provenance::Annotation);
    assert_eq!(
        request.devices,
        list(&[Selector::Index(0), Selector::Index(1), Selector::Index(2)])
    );
    assert_eq!(request.cdi, [CdiName::parse("nvidia.com/gpu=made-up").unwrap()]);
    assert_eq!(request.notes.len(), 1);
    // A hook ignores annotations: engines that run hooks give them another meaning.
    let hook = Case {
        entry: EntryPoint::Hook,
        ..annotations(&[("cdi.k8s.io/a", "nvidia.com/gpu=0")])
    };
    assert!(hook.ok().is_empty());
    let broken = annotations(&[("cdi.k8s.io/a", "nvidia.com/g=0")]);
    assert_eq!(broken.code(), Code::Malformed);
}

#[test]
fn another_vendors_device_leaves_the_variable_its_meaning() {
    let nic = CdiName::parse("vendor.com/nic=0").unwrap();
    let with = |variable: Option<&str>| {
        let case = in_pod(&[("cdi.k8s.io/a", "vendor.com/nic=0")]);
        let case = case.config("accept-cdi-kinds = [\"vendor.com/nic\"]");
        variable
            .into_iter()
            .fold(case, |case, value| case.and("NVIDIA_VISIBLE_DEVICES", value))
            .ok()
    };
    let both = with(Some("0"));
    assert_eq!(both.devices, list(&[Selector::Index(0)]));
    assert_eq!(both.cdi, [nic.clone()]);
    for alone in [None, Some("void"), Some("")] {
        let request = with(alone);
        assert_eq!(request.cdi, [nic.clone()], "{alone:?}");
        assert_eq!(request.provenance, Provenance::AuthorAnnotation, "{alone:?}");
        assert!(matches!(
            request.devices,
            DeviceRequest::Nothing | DeviceRequest::Void
        ));
    }
}

#[test]
fn a_word_that_overrides_the_list_is_noted() {
    for (value, notes) in [
        ("0,void", 1),
        ("0,none", 1),
        ("none,all", 1),
        ("all,none", 0),
        ("0,all", 0),
        ("none,none", 0),
        ("void", 0),
    ] {
        assert_eq!(devices(value).ok().notes.len(), notes, "{value}");
    }
}

/// The kubelet's mount in each container of a pod.
const KUBELETS: (&str, &str) = (
    "/var/lib/kubelet/pods/4811a2ec-9576-4426-a2d3-299dc1ced75f/etc-hosts",
    "/etc/hosts",
);
const CLOSED: &str = "accept-envvar-unprivileged = false";
const ALL: (&str, &str) = ("cdi.k8s.io/a", "nvidia.com/gpu=all");

fn in_pod(list: &[(&str, &str)]) -> Case {
    Case {
        mounts: vec![KUBELETS],
        ..annotations(list)
    }
}

#[test]
fn markers_that_an_image_can_write_prove_no_engine() {
    let given = r#"{"cdi.k8s.io/a":"nvidia.com/gpu=all"}"#;
    let crio = [
        ALL,
        ("io.container.manager", "cri-o"),
        ("io.kubernetes.cri-o.ContainerType", "container"),
        ("io.kubernetes.cri-o.Annotations", given),
    ];
    let containerd = [ALL, ("io.kubernetes.cri.container-type", "container")];
    let podman = [ALL, ("io.container.manager", "libpod")];
    // Podman copies an image's annotations, and adds its own marker only where there is none.
    for markers in [
        &podman[..],
        &crio,
        &containerd,
        &[ALL],
        &[ALL, ("io.container.manager", "")],
    ] {
        let case = annotations(markers).config(CLOSED);
        let request = case.ok();
        assert!(request.is_empty() && request.notes.len() == 1, "{request:?}");
        assert!(
            request.notes[0].contains("counts as a variable"),
            "{:?}",
            request.notes
        );
        // It counts as a variable, so it is granted where variables are.
        let open = annotations(markers).ok();
        assert_eq!(open.devices, DeviceRequest::All);
        assert_eq!(open.provenance, Provenance::AuthorAnnotation);
        let privileged = annotations(markers).config(CLOSED).privileged();
        assert_eq!(privileged.ok().devices, DeviceRequest::All);
    }
    // No image can have the kubelet's mount.
    for markers in [&crio[..], &containerd] {
        let request = in_pod(markers).config(CLOSED).ok();
        assert_eq!(request.devices, DeviceRequest::All);
        assert_eq!(request.provenance, Provenance::Annotation);
    }
    // The row with the least trust decides.
    for more in [
        ("io.container.manager", "libpod"),
        ("io.kubernetes.cri-o.ContainerType", "sandbox"),
        ("io.kubernetes.cri.container-type", "sandbox"),
        ("io.kubernetes.cri-o.Annotations", "{}"),
        ("io.kubernetes.cri-o.Annotations", "nonsense"),
        (
            "io.kubernetes.cri-o.Annotations",
            r#"{"cdi.k8s.io/a":"nvidia.com/gpu=0"}"#,
        ),
        (
            "io.kubernetes.cri-o.Annotations",
            r#"{"cdi.k8s.io/a":["nvidia.com/gpu=all"]}"#,
        ),
    ] {
        for markers in [&crio[..], &containerd] {
            let case = in_pod(&[markers, &[more]].concat()).config(CLOSED);
            assert!(case.ok().is_empty(), "{more:?}");
        }
    }
    for source in [
        "/x/pods/../4811a2ec-9576-4426-a2d3-299dc1ced75f/etc-hosts",
        "pods/4811a2ec-9576-4426-a2d3-299dc1ced75f/etc-hosts",
        "/pods/4811a2ec-9576-4426-a2d3-299dc1ced75f/volumes/etc-hosts",
        "/pods/podname/etc-hosts",
        "/run/containers/storage/overlay-containers/0/userdata/hosts",
    ] {
        let mut case = annotations(&crio).config(CLOSED);
        case.mounts = vec![(source, "/etc/hosts")];
        assert!(case.ok().is_empty(), "{source}");
    }
}

#[test]
fn under_crio_only_what_the_kubelet_gave_is_the_engines_word() {
    let text = include_bytes!("../../tests/definitions/crio-1.36.json");
    let recorded = |edit: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut spec: serde_json::Value = serde_json::from_slice(text).unwrap();
        edit(spec["annotations"].as_object_mut().unwrap());
        let spec = crate::oci::Spec::parse(spec.to_string().as_bytes()).unwrap();
        let mounts = spec.mounts();
        let mounts: Vec<_> = mounts
            .iter()
            .map(|m| MountView {
                source: m.source.as_deref().unwrap_or(""),
                destination: &m.destination,
            })
            .collect();
        let inputs = Inputs {
            env: &[],
            annotations: &spec.annotations(),
            mounts: &mounts,
            privileged: spec.is_privileged(),
            entry: EntryPoint::Runtime,
        };
        let config = Config::parse(CLOSED, std::path::Path::new("test"), Dialect::Nvoci).unwrap();
        parse(&inputs, &config).unwrap()
    };
    let set = |key: &str, value: &str| {
        let (key, value) = (key.to_owned(), value.to_owned());
        move |a: &mut serde_json::Map<String, serde_json::Value>| {
            a.insert(key.clone(), value.clone().into());
        }
    };
    let plugin = ("cdi.k8s.io/nvidia-device-plugin_1", "nvidia.com/gpu=1");
    // CRI-O writes a pod's annotations first, so its own values of these keys replace the pod's.
    for (key, value) in [ALL, ("io.kubernetes.cri.container-type", "container"), plugin] {
        assert!(recorded(&set(key, value)).is_empty());
    }
    assert!(
        recorded(&|a| {
            set(ALL.0, ALL.1)(a);
            set("io.kubernetes.cri.container-type", "container")(a);
        })
        .is_empty()
    );
    let given = recorded(&|a| {
        set(plugin.0, plugin.1)(a);
        set(ALL.0, ALL.1)(a);
        let key = "io.kubernetes.cri-o.Annotations";
        let mut own: serde_json::Value = serde_json::from_str(a[key].as_str().unwrap()).unwrap();
        own[plugin.0] = plugin.1.into();
        set(key, &own.to_string())(a);
    });
    assert_eq!(given.devices, list(&[Selector::Index(1)]));
    assert_eq!(given.provenance, Provenance::Annotation);
    assert_eq!(given.notes.len(), 1, "{:?}", given.notes);
}

#[test]
fn kinds_that_only_a_specification_explains() {
    let containerd = ("io.kubernetes.cri.container-type", "container");
    let names = |request: &Request| request.cdi.iter().map(ToString::to_string).collect::<Vec<_>>();
    let listed = "accept-cdi-kinds = [\"example.com/nic\", \"management.nvidia.com/gpu\"]";
    for value in ["example.com/nic=eth0", "management.nvidia.com/gpu=all"] {
        let annotation = ("cdi.k8s.io/a", value);
        for case in [annotations(&[annotation]), in_pod(&[annotation, containerd])] {
            let request = case.ok();
            assert!(request.is_empty() && request.notes.len() == 1, "{request:?}");
            assert!(request.notes[0].contains("accept-cdi-kinds"));
            let privileged = names(&case.privileged().ok());
            assert_eq!(
                privileged.is_empty(),
                !value.starts_with("management."),
                "{privileged:?}"
            );
        }
        assert_eq!(names(&annotations(&[annotation]).config(listed).ok()), [value]);
        let closed = format!("{CLOSED}\n{listed}");
        assert!(annotations(&[annotation]).config(&closed).ok().is_empty());
        assert_eq!(devices(value).code(), Code::Malformed);
        assert_eq!(names(&devices(value).config(listed).ok()), [value]);
        assert!(devices(value).config(&closed).ok().is_empty());
        let mixed = devices(&format!("0,{value}")).config(listed).ok();
        assert_eq!(
            (names(&mixed).len(), mixed.devices),
            (1, list(&[Selector::Index(0)]))
        );
    }
    assert_eq!(
        devices("example.com/nic=eth0").privileged().code(),
        Code::Malformed
    );
    // Only the device plugin may name its own specifications.
    let plugins = ("cdi.k8s.io/a", "k8s.device-plugin.nvidia.com/gpu=GPU-0");
    assert_eq!(names(&in_pod(&[plugins, containerd]).ok()), [plugins.1]);
    assert!(annotations(&[plugins]).ok().is_empty());
    assert!(
        annotations(&[("cdi.k8s.io/a", "nvidia.com/gpu=made-up")])
            .ok()
            .is_empty()
    );
    // With `mode = "cdi"`, words have the configured kind; no other kind is accepted with it.
    let cdi = "mode = \"cdi\"\ndefault-kind = \"management.nvidia.com/gpu\"";
    assert_eq!(
        names(&devices("all").config(cdi).ok()),
        ["management.nvidia.com/gpu=all"]
    );
    assert_eq!(
        devices("example.com/nic=eth0").config(cdi).code(),
        Code::Malformed
    );
}

#[test]
fn gated_features_pass_one_gate() {
    let gpu = ("cdi.k8s.io/a", "nvidia.com/gpu=0");
    for class in ["gds", "mofed", "gdrcopy", "nvswitch", "imex-channel"] {
        let value = format!(
            "nvidia.com/{class}={}",
            if class == "imex-channel" { "0" } else { "all" }
        );
        let feature = ("cdi.k8s.io/b", value.as_str());
        let none = (ImexRequest::Nothing, Gated::default());
        let got = |case: &Case| {
            let request = case.ok();
            assert!(!request.is_empty());
            (request.imex, request.gated)
        };
        assert_eq!(got(&annotations(&[gpu, feature])), none, "{class}");
        assert_ne!(got(&annotations(&[gpu, feature]).privileged()), none, "{class}");
        let open = "accept-gated-unprivileged = true";
        assert_ne!(got(&annotations(&[gpu, feature]).config(open)), none, "{class}");
        let engine = ("io.kubernetes.cri.container-type", "container");
        assert_ne!(got(&in_pod(&[gpu, feature, engine])), none, "{class}");
        // With `mode = "cdi"` the registry would resolve it.
        let cdi = annotations(&[gpu, feature]).config("mode = \"cdi\"").ok();
        assert_eq!(cdi.cdi.len(), 1, "{class}");
        // The variable for GPUs is gated too.
        assert_eq!(devices(&format!("0,{value}")).code(), Code::Malformed, "{class}");
    }
}

#[test]
fn cdi_mode_takes_words_as_names() {
    let case = devices("gpu7,nvidia.com/gpu=all,runtime.nvidia.com/gpu=1").config("mode = \"cdi\"");
    assert_eq!(*case.config.mode, Mode::Cdi);
    let request = case.ok();
    let names: Vec<String> = request.cdi.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["nvidia.com/gpu=all", "nvidia.com/gpu=gpu7"]);
    assert_eq!(request.devices, list(&[Selector::Index(1)]));
    assert_eq!(
        devices("void").config("mode = \"cdi\"").ok().devices,
        DeviceRequest::Void
    );
}

#[test]
fn the_cdi_entry_point_has_its_devices_already() {
    let case = Case {
        entry: EntryPoint::Cdi,
        ..devices("void")
    };
    let request = case.ok();
    assert_eq!(request.devices, DeviceRequest::NoneDevices);
    assert_eq!(request.provenance, Provenance::Cdi);
    assert_eq!(request.capabilities, Capabilities::ALL);
    let case = Case {
        entry: EntryPoint::Cdi,
        ..devices("void").and("NVIDIA_DRIVER_CAPABILITIES", "compute")
    };
    assert_eq!(case.ok().capabilities, Capabilities::COMPUTE);
}

#[test]
fn swarm_resources_replace_the_variable() {
    let case = devices("all")
        .and("DOCKER_RESOURCE_B", "2")
        .and("DOCKER_RESOURCE_GPU", "0,1")
        .config("swarm-resource = \"DOCKER_RESOURCE_GPU, DOCKER_RESOURCE_B\"");
    let request = case.ok();
    assert_eq!(request.provenance, Provenance::Swarm);
    assert_eq!(request.devices, list(&[0, 1, 2].map(Selector::Index)));
    let empty = devices("all")
        .and("DOCKER_RESOURCE_GPU", "")
        .config("swarm-resource = \"DOCKER_RESOURCE_GPU\"");
    assert!(empty.ok().is_empty());
}

/// Security case 13.
#[test]
fn hostile_device_lists_are_refused() {
    for bad in [
        &"0".repeat(1 << 20),
        &",".repeat(100_000),
        &"0,".repeat(1025),
        "0\0",
        "0\n1",
        "../../etc",
        "nvidia.com/gpu=all;reboot",
        "management.nvidia.com/gpu=all",
        "example.com/gpu=0",
        "nvidia.com/gpu=",
        "0x1",
        "GPU-zz",
        "٣",
    ] {
        assert_eq!(devices(bad).code(), Code::Malformed, "{bad:.40}");
    }
}

/// The vendor's hook of 1.20.1 sets such a limit; nvoci does not, and must leave a note.
#[test]
fn a_memory_limit_is_no_silent_one() {
    for name in ["NVIDIA_GPU_MEMORY_REQUEST", "NVIDIA_GPU_MEMORY_LIMIT"] {
        let request = devices("0").and(name, "4096").ok();
        assert!(
            request
                .notes
                .iter()
                .any(|n| n.contains(name) && n.contains("[NVOCI-3007]"))
        );
        let by_kind =
            devices("k8s.gpu.nvidia.com/claim=a").config("accept-cdi-kinds = [\"k8s.gpu.nvidia.com/claim\"]");
        assert_eq!(by_kind.and(name, "x").ok().notes.len(), 1);
        assert!(devices("void").and(name, "1").ok().notes.is_empty());
        assert!(devices("0").and(name, " ").ok().notes.is_empty());
    }
}

#[test]
fn kinds_of_privileged_containers() {
    let management = "management.nvidia.com/gpu=all";
    let names = |case: Case| case.ok().cdi.iter().map(ToString::to_string).collect::<Vec<_>>();
    let refused = |case: Case| case.run().unwrap_err().to_string();
    assert_eq!(names(devices(management).privileged()), [management]);
    assert_eq!(
        names(devices(management).privileged().config("mode = \"cdi\"")),
        [management]
    );
    let line = refused(devices(management));
    assert!(
        line.contains("CAP_SYS_ADMIN") && line.contains("--privileged"),
        "{line}"
    );
    // The two lists are independent.
    let other = "accept-cdi-kinds = [\"nvidia.com/pgpu\"]";
    assert_eq!(
        names(devices(management).privileged().config(other)),
        [management]
    );
    assert_eq!(
        names(devices("nvidia.com/pgpu=0").config(other)),
        ["nvidia.com/pgpu=0"]
    );
    assert!(refused(devices(management).config(other)).contains("NVOCI-3004"));
    let none = "accept-cdi-kinds-privileged = []";
    assert!(refused(devices(management).privileged().config(none)).contains("accept-cdi-kinds"));
    // A refused part refuses the whole variable, and `void` is nothing.
    assert!(refused(devices(&format!("0,{management}"))).contains("NVOCI-3004"));
    assert!(
        devices(&format!("void,{management}"))
            .privileged()
            .ok()
            .is_empty()
    );
    for similar in ["management.nvidia.com/gpus=all", "xmanagement.nvidia.com/gpu=all"] {
        assert!(
            refused(devices(similar).privileged()).contains("NVOCI-3004"),
            "{similar}"
        );
    }
}

#[test]
fn many_strange_variables_leave_few_notes() {
    let mut case = devices("0");
    for i in 0..900 {
        case = case.and(&format!("NVIDIA_REQUIRE_{i}"), "a=1 b=2 c=3 d=4");
    }
    assert!(case.ok().notes.len() < 100);
    for i in 0..200 {
        case = case.and(&format!("NVIDIA_REQUIRE_X{i}"), "a=1");
    }
    assert_eq!(case.code(), Code::Malformed);
}

fn gpus(count: u32) -> Vec<(Option<GpuUuid>, PciAddress)> {
    (0..count)
        .map(|i| {
            (
                format!("GPU-{i:08x}-0000-0000-0000-000000000000").parse().ok(),
                format!("0000:{i:02x}:00.0").parse().unwrap(),
            )
        })
        .collect()
}

fn views<'a>(gpus: &[(Option<GpuUuid>, PciAddress)], mig: &'a [MigDevice]) -> Vec<GpuView<'a>> {
    let one = |(i, (uuid, pci)): (usize, &(Option<GpuUuid>, PciAddress))| GpuView {
        index: u32::try_from(i).unwrap(),
        uuid: *uuid,
        pci: *pci,
        mig: if i == 1 { mig } else { &[] },
    };
    gpus.iter().enumerate().map(one).collect()
}

const MIG: [MigDevice; 2] = [
    MigDevice {
        index: 0,
        gi: 7,
        ci: 0,
        gi_minor: 0,
        ci_minor: 0,
        uuid: Some(MigUuid::Own(Uuid::from_bits(0xaaaa_aaaa << 96))),
    },
    MigDevice {
        index: 1,
        gi: 8,
        ci: 0,
        gi_minor: 0,
        ci_minor: 0,
        uuid: Some(MigUuid::Own(Uuid::from_bits(0xaaaa_aaab << 96))),
    },
];

fn chosen(value: &str, gpus: &[GpuView<'_>]) -> Result<Vec<(usize, Option<usize>)>> {
    let request = devices(value).ok().devices;
    Ok(select(&request, gpus)?
        .into_iter()
        .map(|s| (s.gpu, s.mig))
        .collect())
}

#[test]
fn selection() {
    let gpus = gpus(4);
    let gpus = views(&gpus, &MIG);
    for (value, want) in [
        ("3,0", vec![(0, None), (3, None)]),
        ("1-2,2-3", vec![(1, None), (2, None), (3, None)]),
        ("GPU-00000002,2,0000:02:00.0", vec![(2, None)]),
        ("00000000:03:00.0", vec![(3, None)]),
        ("1:1", vec![(1, Some(1))]),
        ("MIG-aaaaaaab", vec![(1, Some(1))]),
        ("MIG-GPU-00000001/7/0,1:0", vec![(1, Some(0))]),
        (
            "all",
            vec![
                (0, None),
                (1, None),
                (1, Some(0)),
                (1, Some(1)),
                (2, None),
                (3, None),
            ],
        ),
        ("none", vec![]),
        ("void", vec![]),
    ] {
        assert_eq!(chosen(value, &gpus).unwrap(), want, "{value}");
    }
    assert!(needs_mig_uuids(&devices("0,MIG-aa").ok().devices));
    assert!(!needs_mig_uuids(
        &devices("1:0,MIG-GPU-00000001/7/0").ok().devices
    ));
}

#[test]
fn an_unknown_device_error_lists_the_devices() {
    let gpus = gpus(4);
    let gpus = views(&gpus, &MIG);
    for value in [
        "4",
        "0-4",
        "0-4294967295",
        "GPU-ff",
        "0000:ff:00.0",
        "1:2",
        "0:0",
        "MIG-bb",
        "MIG-GPU-00000001/9/0",
    ] {
        let e = chosen(value, &gpus).unwrap_err();
        assert_eq!(e.code(), Code::UnknownDevice, "{value}");
        let line = e.to_string();
        assert!(line.contains("0 (GPU-00000000, 0000:00:00.0)"), "{line}");
        assert!(line.contains("MIG 1:0 to 1:1"), "{line}");
    }
    let e = chosen("0", &[]).unwrap_err();
    assert!(e.to_string().contains("no GPU"), "{e}");
}

#[test]
fn an_ambiguous_uuid_names_the_candidates() {
    let gpus = gpus(4);
    let gpus = views(&gpus, &MIG);
    for (value, candidate) in [("GPU-0000000", "GPU-00000003"), ("MIG-aa", "MIG-aaaaaaab")] {
        let line = chosen(value, &gpus).unwrap_err().to_string();
        assert!(
            line.contains(candidate) && line.contains("more of the UUID"),
            "{line}"
        );
    }
}

#[test]
fn a_mig_uuid_that_the_driver_did_not_report() {
    let mig = [MigDevice { uuid: None, ..MIG[0] }];
    let gpus = gpus(2);
    let line = chosen("MIG-aa", &views(&gpus, &mig)).unwrap_err().to_string();
    assert!(line.contains("0:1"), "{line}");
}

fn selector() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..8u32).prop_map(|i| i.to_string()),
        (0..8u32, 0..4u32).prop_map(|(a, n)| format!("{a}-{}", (a + n).min(7))),
        (0..8u32).prop_map(|i| format!("GPU-{i:08x}")),
        (0..8u32).prop_map(|i| format!("{i:02X}:00.0")),
        (0..2u32).prop_map(|i| format!("1:{i}")),
    ]
}

proptest! {
    /// Any text of a request parses, or fails with an error.
    #[test]
    fn nothing_panics(
        env in prop::collection::vec(("(NVIDIA_[A-Z_]{1,20}|CUDA_VERSION)", ".{0,60}"), 0..8),
        value in "[-0-9a-zA-Z,:./= ]{0,80}",
        capabilities in "[a-z, ]{0,30}",
        require in "[a-z0-9<>=!., ]{0,60}",
        privileged: bool,
        cdi: bool,
    ) {
        let mut case = Case { env, ..devices(&value) };
        case = case
            .and("NVIDIA_VISIBLE_DEVICES", &value)
            .and("NVIDIA_DRIVER_CAPABILITIES", &capabilities)
            .and("NVIDIA_REQUIRE_CUDA", &require)
            .and("NVIDIA_IMEX_CHANNELS", &value);
        case.privileged = privileged;
        if cdi {
            case.config.mode = Setting { value: Mode::Cdi, origin: Origin::Default };
        }
        case.annotations = vec![("cdi.k8s.io/a".to_owned(), value)];
        if let Ok(request) = case.run() {
            let gpus = gpus(3);
            let _ = select(&request.devices, &views(&gpus, &MIG));
            let _ = evaluate_all(&request.requirements, &Facts::default());
        }
    }

    /// Neither repeats nor order change a selection. It is sorted, with each device once.
    #[test]
    fn a_selection_is_a_set(
        (items, shuffled) in prop::collection::vec(selector(), 1..12)
            .prop_flat_map(|items| (Just(items.clone()), Just(items).prop_shuffle())),
    ) {
        let gpus = gpus(8);
        let gpus = views(&gpus, &MIG);
        let once = chosen(&items.join(","), &gpus).unwrap();
        let mut again = shuffled;
        again.extend(items);
        prop_assert_eq!(&chosen(&again.join(" , "), &gpus).unwrap(), &once);
        prop_assert!(once.is_sorted_by(|a, b| a < b));
    }

    /// A request for two lists selects the union of both.
    #[test]
    fn a_selection_is_a_union(a in selector(), b in selector()) {
        let gpus = gpus(8);
        let gpus = views(&gpus, &MIG);
        let mut both = [chosen(&a, &gpus).unwrap(), chosen(&b, &gpus).unwrap()].concat();
        both.sort_unstable();
        both.dedup();
        prop_assert_eq!(chosen(&format!("{a},{b}"), &gpus).unwrap(), both);
    }
}
