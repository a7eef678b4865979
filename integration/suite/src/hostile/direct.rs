//! The attacker writes what a runtime would refuse: the hook is called without one, so that it is
//! alone with its documents.

use std::os::unix::fs::symlink;

use super::prelude::*;
use crate::case::Direct;

const DIRECT: Case = Case {
    ways: &[Way::Direct],
    ..Case::HARMLESS
};

pub(crate) const DEV: Class = Class {
    number: 22,
    attack: "`/dev` is a link out; a link where a node belongs",
    decision: "refused",
    also: &[],
    cases: &[
        Case {
            id: "22_dev",
            why: "/dev is a link to a directory of the host",
            trick: |image| image.link("dev", "/canary/lib"),
            expect: Expect::always(Refused(4003)),
            bites: CHANGES_THE_HOST,
            ..DIRECT
        },
        Case {
            id: "22_dev_climbing",
            why: "/dev is a link that climbs to a directory of the host",
            trick: |image| image.link("dev", "../../../../../../canary/lib"),
            expect: Expect::always(Refused(4003)),
            ..DIRECT
        },
        Case {
            id: "22_node",
            why: "a link to a secret of the host lies where the GPU's node belongs",
            trick: |image| {
                image.directory("dev")?;
                image.link("dev/nvidia0", "/canary/secret")
            },
            expect: Expect::always(Refused(4003)),
            ..DIRECT
        },
    ],
};

pub(crate) const PROCFS: Class = Class {
    number: 23,
    attack: "`/proc` of the rootfs is a link, or a directory with forged files",
    decision: "never trusted: the driver is the host's",
    also: &[],
    cases: &[
        Case {
            id: "23_proc",
            why: "/proc is a link to a directory of the host",
            trick: |image| {
                image.directory("canary")?;
                image.link("proc", "/canary/lib")
            },
            bites: CHANGES_THE_HOST,
            ..DIRECT
        },
        Case {
            id: "23_fake",
            why: "/proc has forged files of a driver, which are links to the host",
            trick: |image| {
                image.link("proc/driver/nvidia/params", "/canary/lib/params")?;
                image.link("proc/driver/nvidia/gpus", "/canary")
            },
            ..DIRECT
        },
    ],
};

/// `root.path` leads elsewhere.
const ROOT_PATH: Case = Case {
    expect: Expect::always(Refused(4001)),
    ..DIRECT
};
/// The bundle has a link to the host.
fn elsewhere(scene: &mut Scene<'_>) -> io::Result<()> {
    symlink("/canary", scene.bundle.path.join("elsewhere"))
}

pub(crate) const ROOTS: Class = Class {
    number: 25,
    attack: "`root.path`: a link, `/`, `..`, empty, missing, with a slash",
    decision: "refused",
    also: &[],
    cases: &[
        Case {
            id: "25_link",
            why: "root.path is a link to a directory of the host",
            host: elsewhere,
            request: edited(|spec| spec["root"]["path"] = json!("elsewhere")),
            bites: CHANGES_THE_HOST,
            ..ROOT_PATH
        },
        Case {
            id: "25_host",
            why: "root.path is the host's own root",
            request: edited(|spec| spec["root"]["path"] = json!("/")),
            ..ROOT_PATH
        },
        Case {
            id: "25_climbing",
            why: "root.path climbs to the host's own root",
            request: edited(|spec| spec["root"]["path"] = json!("../../../..")),
            ..ROOT_PATH
        },
        Case {
            id: "25_empty",
            why: "root.path is empty, which is the bundle itself",
            request: edited(|spec| spec["root"]["path"] = json!("")),
            ..ROOT_PATH
        },
        Case {
            id: "25_none",
            why: "the definition names no root",
            request: edited(|spec| {
                spec.as_object_mut().map(|spec| spec.shift_remove("root"));
            }),
            expect: Expect::always(Refused(1102)),
            bites: FAILS,
            ..ROOT_PATH
        },
        Case {
            id: "25_slash",
            why: "root.path is a link to a directory of the host, with a slash at its end",
            host: elsewhere,
            request: edited(|spec| spec["root"]["path"] = json!("elsewhere/")),
            bites: CHANGES_THE_HOST,
            ..ROOT_PATH
        },
    ],
};

/// The number of a process of the host.
const OWN_PROCESS: &str = "/scratch/pid";

/// The state is broken, or lies.
const STATE: Case = Case {
    expect: Expect::always(Refused(1101)),
    bites: FAILS,
    ..DIRECT
};
const fn stated(state: fn(&str) -> Vec<u8>) -> Direct {
    Direct {
        state,
        stage: "createContainer",
    }
}
/// At this stage, the hook enters the process that the state names.
const fn at_prestart(state: fn(&str) -> Vec<u8>) -> Direct {
    Direct {
        state,
        stage: "prestart",
    }
}
/// A state of the bundle, and one more member.
fn own(bundle: &str, more: &str) -> Vec<u8> {
    format!(r#"{{"ociVersion":"1.0.2","id":"x","bundle":"{bundle}",{more}}}"#).into_bytes()
}

pub(crate) const STATES: Class = Class {
    number: 27,
    attack: "state: pid 0, 1, gone, negative, huge; empty; not UTF-8; a key twice; 5 MB; the caller's own namespace",
    decision: "refused in one line",
    also: &["tests/hook.rs::broken_states"],
    cases: &[
        Case {
            id: "27_pid_one",
            why: "the state's process is the host's first",
            direct: at_prestart(|bundle| own(bundle, r#""pid":1"#)),
            bites: STARTS,
            expect: Expect::always(Refused(4004)),
            ..STATE
        },
        Case {
            id: "27_pid_zero",
            why: "the state's process is 0",
            direct: at_prestart(|bundle| own(bundle, r#""pid":0"#)),
            expect: Expect::always(Refused(4004)),
            ..STATE
        },
        Case {
            id: "27_pid_gone",
            why: "the state's process has ended",
            direct: at_prestart(|bundle| own(bundle, r#""pid":4194303"#)),
            expect: Expect::always(Refused(4004)),
            ..STATE
        },
        Case {
            id: "27_pid_negative",
            why: "the state's process is a group",
            direct: at_prestart(|bundle| own(bundle, r#""pid":-5"#)),
            expect: Expect::always(Refused(4004)),
            ..STATE
        },
        Case {
            id: "27_pid_huge",
            why: "the state's process is a number of 20 digits",
            direct: at_prestart(|bundle| own(bundle, r#""pid":99999999999999999999"#)),
            ..STATE
        },
        Case {
            id: "27_empty",
            why: "the hook's input is empty",
            direct: stated(|_| Vec::new()),
            ..STATE
        },
        Case {
            id: "27_utf8",
            why: "the state's bundle is not UTF-8",
            direct: stated(|_| b"{\"bundle\":\"\xff\xfe\"}".to_vec()),
            ..STATE
        },
        Case {
            id: "27_twice",
            why: "the state has two bundles",
            direct: stated(|bundle| own(bundle, r#""bundle":"/x""#)),
            ..STATE
        },
        Case {
            id: "27_no_bundle",
            why: "the state has no bundle",
            direct: stated(|_| br#"{"id":"x"}"#.to_vec()),
            ..STATE
        },
        Case {
            id: "27_root",
            why: "the state has no bundle that exists, and the host's own root",
            direct: stated(|_| br#"{"id":"x","bundle":"/nonexistent","root":"/"}"#.to_vec()),
            expect: Expect::always(Refused(1102)),
            ..STATE
        },
        Case {
            id: "27_roots_link",
            why: "the state has no bundle that exists, and a root that is a link to the host",
            host: |scene| scene.link("/scratch/root", "/canary"),
            direct: stated(|_| br#"{"id":"x","bundle":"/nonexistent","root":"/scratch/root"}"#.to_vec()),
            expect: Expect::always(Refused(1102)),
            ..STATE
        },
        Case {
            id: "27_large",
            why: "the state has 5 MB, in an annotation",
            direct: stated(|bundle| {
                let long = "a".repeat(5_000_000);
                own(bundle, &format!(r#""annotations":{{"a":"{long}"}}"#))
            }),
            bites: STARTS,
            ..STATE
        },
        Case {
            id: "27_own_namespace",
            why: "the state's process is in the caller's own mount namespace",
            host: |scene| {
                let pid = scene.start(std::process::Command::new("sleep").arg("60"))?;
                scene.file(OWN_PROCESS, pid.to_string())
            },
            direct: at_prestart(|bundle| {
                let pid = fs::read_to_string(OWN_PROCESS).unwrap_or_default();
                own(bundle, &format!(r#""pid":{pid}"#))
            }),
            bites: Bite::Nothing,
            expect: Expect::always(Refused(4004)),
            ..STATE
        },
    ],
};

/// The definition is no definition.
const DEFINITION: Case = Case {
    expect: Expect::always(Refused(1102)),
    bites: FAILS,
    ..DIRECT
};

pub(crate) const DEFINITIONS: Class = Class {
    number: 28,
    attack: "config.json: 500 MB, 10,000 deep, FIFO, nulls, wrong types, the unknown",
    decision: "refused, or read and kept",
    also: &["tests/fuzz_corpus.rs::spec"],
    cases: &[
        Case {
            id: "28_huge",
            why: "config.json has 500 MB of nothing",
            host: |scene| {
                let mut open = fs::OpenOptions::new();
                let file = open.write(true).open(scene.bundle.definition())?;
                file.set_len(500 << 20)
            },
            ..DEFINITION
        },
        Case {
            id: "28_deep",
            why: "config.json is 10,000 lists deep",
            host: |scene| {
                let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
                fs::write(scene.bundle.definition(), format!("{{\"a\":{open}{close}}}"))
            },
            ..DEFINITION
        },
        Case {
            id: "28_fifo",
            why: "config.json is a FIFO that nobody writes to",
            host: |scene| scene.fifo(&scene.bundle.definition()),
            bites: HANGS,
            ..DEFINITION
        },
        Case {
            id: "28_nulls",
            why: "config.json has nulls in the place of lists, and what no version has",
            request: edited(|spec| {
                spec["linux"]["intelRdt"] = Value::Null;
                spec["annotations"] = Value::Null;
                let bounding = &mut spec["process"]["capabilities"]["bounding"];
                push(bounding, json!("CAP_FROM_THE_FUTURE"));
                spec["unknown"] = json!({"deep": [f64::MAX]});
                spec["hooks"] = Value::Null;
                spec["linux"]["devices"] = Value::Null;
            }),
            expect: Expect::always(Gpu),
            bites: Bite::Nothing,
            ..DEFINITION
        },
        Case {
            id: "28_wrong_types",
            why: "members of config.json have other types",
            request: edited(|spec| {
                spec["process"]["env"] = json!([1, null, {}]);
                spec["mounts"] = json!({});
                spec["linux"] = json!([]);
                spec["annotations"] = json!(7);
            }),
            expect: Expect::always(NoGpu),
            bites: Bite::Nothing,
            ..DEFINITION
        },
    ],
};

/// Writes 60 MB of one item into config.json.
fn filled(scene: &Scene<'_>, item: &str) -> io::Result<()> {
    let path = scene.bundle.definition();
    let text = fs::read_to_string(&path)?;
    let items = item.repeat(60_000_000 / item.len());
    let rest = text.trim_start().trim_start_matches('{');
    fs::write(&path, format!("{{\"x\":[{items}0],{rest}"))
}

const LARGE: Case = Case {
    expect: Expect::always(Refused(1107)),
    ..DIRECT
};

pub(crate) const SIZES: Class = Class {
    number: 79,
    attack: "config.json of 60 MB",
    decision: "with a request refused in bounded memory, without one left alone",
    also: &["src/oci/digest.rs::kept_texts_are_bounded_and_skipped_ones_are_free"],
    cases: &[
        Case {
            id: "79_numbers",
            why: "config.json has 60 MB of numbers",
            host: |scene| filled(scene, "0,"),
            ..LARGE
        },
        Case {
            id: "79_lists",
            why: "config.json has 60 MB of empty lists",
            host: |scene| filled(scene, "[],"),
            ..LARGE
        },
        Case {
            id: "79_objects",
            why: "config.json has 60 MB of objects in lists in objects",
            host: |scene| filled(scene, "{\"\":[{}]},"),
            ..LARGE
        },
        Case {
            id: "79_texts",
            why: "config.json has 60 MB of empty texts",
            host: |scene| filled(scene, "\"\","),
            ..LARGE
        },
        Case {
            id: "79_no_request",
            why: "config.json has 60 MB, and requests nothing",
            host: |scene| filled(scene, "[],"),
            request: variables(&["A=b"]),
            expect: Expect::always(NoGpu),
            ..LARGE
        },
    ],
};
