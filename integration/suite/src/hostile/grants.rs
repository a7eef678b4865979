//! The attacker forges what would prove a grant: records and nodes in a container, mounts, and the
//! devices of a specification.

use super::prelude::*;

/// A file system of the user's.
const SMALL: &str = "/scratch/small";

/// It has a copy of an injection's record, in `directory`.
fn forged(scene: &mut Scene<'_>, directory: &str, driver: &str) -> io::Result<()> {
    fs::create_dir_all(format!("{SMALL}/{directory}"))?;
    fs::create_dir_all(format!("{SMALL}/lib64"))?;
    let record = json!({
        "version": "0.1.0",
        "driver": "550.120",
        "driverDir": driver,
        "devices": ["/dev/nvidia0", "/dev/nvidia1"],
        "gpus": [],
        "warnings": [],
    });
    scene.file(&format!("{SMALL}/{directory}/.nvoci.json"), record.to_string())
}
fn forged_tmpfs(scene: &mut Scene<'_>, driver: &str) -> io::Result<()> {
    scene.tmpfs(SMALL, "mode=0755")?;
    forged(scene, ".", driver)
}
fn small_at(spec: &mut Value, place: &str) {
    bind(spec, place, SMALL, &["rbind", "ro"]);
}
/// The second GPU's node, bound by the user.
fn bound_node(spec: &mut Value) {
    bind(spec, "/dev/nvidia1", "/dev/nvidia1", &["bind", "rw"]);
}

/// `doctor container --fix` gives a running container no GPU `minor`, and reports why.
fn fix_gives_nothing(after: &mut After<'_, '_>, mut spec: Value, minor: &str) -> io::Result<()> {
    program(&mut spec, &["/bin/sleep", "60"]);
    after.scene.bundle.write(&spec)?;
    let (bundle, name) = (
        after.scene.bundle.path.clone(),
        after.scene.bundle.container.clone(),
    );
    after.scene.container(&bundle, &name)?;
    let pid = after.scene.process_of(&name)?;
    let command = ["nvoci", "doctor", "container", &pid, "--fix"];
    let fix = after.run("fix", 20, &command)?.out;
    let number = format!("195:{minor}");
    let mut lines = fix.lines();
    let gives = lines.any(|line| line.contains("will do: ") && line.contains(&number));
    after.must(!gives, format!("--fix gives a GPU nobody granted: {number}"));
    let reports = fix.contains("proves nothing");
    let text = format!("--fix does not say why it does nothing: {fix}");
    after.must(reports, text);
    Ok(())
}

pub(crate) const RECORDS: Class = Class {
    number: 67,
    attack: "a forged record on a volume and a bound node, then `doctor container --fix`",
    decision: "only the host's grant counts",
    also: &[
        "src/doctor/container/granted.rs::a_grant_counts_for_its_own_container",
        "src/apply/grant.rs::others_may_not_enter_the_directory",
    ],
    cases: &[
        Case {
            id: "67_reused",
            why: "the same container starts once more without nvoci, with the namespace number of the first",
            ways: REQUESTS,
            check: |after| {
                let mut spec = after.definition()?;
                spec.as_object_mut().map(|spec| spec.shift_remove("hooks"));
                bind(&mut spec, "/dev/nvidia0", "/dev/nvidia0", &["bind", "rw"]);
                let denial = json!({"allow": false, "type": "c", "major": 195, "access": "rwm"});
                push(&mut spec["linux"]["resources"]["devices"], denial);
                spec["process"]["env"] = json!(["A=b"]);
                fix_gives_nothing(after, spec, "0")
            },
            ..Case::HARMLESS
        },
        Case {
            id: "67_no_grant",
            why: "the container requests nothing, and has a forged record and a node",
            host: |scene| forged_tmpfs(scene, "/usr/local/nvidia"),
            request: Request {
                env: &["A=b"],
                edit: |spec| {
                    bound_node(spec);
                    small_at(spec, "/usr/local/nvidia");
                },
            },
            ways: &[Way::CreateRuntime],
            expect: Expect::always(NoGpu),
            check: |after| {
                let spec = after.definition()?;
                fix_gives_nothing(after, spec, "1")
            },
            ..Case::HARMLESS
        },
        Case {
            id: "67_other_grant",
            why: "the container has the first GPU, and a forged record with the second one's node",
            host: |scene| forged_tmpfs(scene, "/opt/nvidia"),
            request: edited(|spec| {
                bound_node(spec);
                small_at(spec, "/opt/nvidia");
            }),
            ways: &[Way::CreateRuntime, Way::CreateContainer],
            check: |after| {
                let spec = after.definition()?;
                fix_gives_nothing(after, spec, "1")
            },
            ..Case::HARMLESS
        },
    ],
};

/// The driver itself is there, at the next candidate.
const NEXT: Case = Case {
    questions: &[Question::present("/opt/nvidia/lib64/libcuda.so.1")],
    ways: USERS_REQUESTS,
    ..Case::HARMLESS
};

pub(crate) const PLACES: Class = Class {
    number: 68,
    attack: "a volume with a record where the driver directory belongs",
    decision: "the next candidate, with a warning",
    also: &[],
    cases: &[
        Case {
            id: "68_tmpfs",
            why: "a tmpfs with a record is where the driver directory belongs",
            host: |scene| forged_tmpfs(scene, "/usr/local/nvidia"),
            request: edited(|spec| small_at(spec, "/usr/local/nvidia")),
            ways: BUT_CDI,
            ..NEXT
        },
        Case {
            id: "68_directory",
            why: "a directory with a record is mounted where the driver directory belongs",
            host: |scene| {
                scene.directory(SMALL)?;
                forged(scene, ".", "/usr/local/nvidia")?;
                scene.bind(SMALL, SMALL)
            },
            request: edited(|spec| small_at(spec, "/usr/local/nvidia")),
            ways: BUT_CDI,
            ..NEXT
        },
        Case {
            id: "68_through_link",
            why: "a tmpfs with a record is mounted through a link to the driver directory",
            host: |scene| forged_tmpfs(scene, "/x/nvidia"),
            trick: |image| {
                image.link("x", "/usr/local")?;
                fs::create_dir_all(image.at("usr/local/nvidia"))
            },
            request: edited(|spec| small_at(spec, "/x/nvidia")),
            ..NEXT
        },
        Case {
            id: "68_last_resort",
            why: "a tmpfs with a record is at the driver directory's last resort but one",
            policy: "driver-dirs = [\"/run/nvoci\"]",
            host: |scene| forged_tmpfs(scene, "/run/nvoci"),
            request: edited(|spec| small_at(spec, "/run/nvoci")),
            questions: &[Question::present("/dev/.nvoci/lib64/libcuda.so.1")],
            ..NEXT
        },
        Case {
            id: "68_parent",
            why: "a tmpfs with a record is above the driver directory",
            host: |scene| {
                scene.tmpfs(SMALL, "mode=0755")?;
                forged(scene, "nvidia", "/usr/local")
            },
            request: edited(|spec| small_at(spec, "/usr/local")),
            ..NEXT
        },
    ],
};

/// The hook of nvoci's CDI specification, where the engine has given the first GPU.
fn by_cdi(spec: &mut Value) {
    push(&mut spec["linux"]["devices"], node(0));
    let rule = json!({"allow": true, "type": "c", "major": 195, "minor": 0, "access": "rwm"});
    push(&mut spec["linux"]["resources"]["devices"], rule);
    let arguments = ["nvoci", "hook", "--cdi", "--devices-in-spec", "createRuntime"];
    let path = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
    let hook = json!({"path": "/usr/bin/nvoci", "args": arguments, "env": path});
    spec["hooks"] = json!({"createRuntime": [hook]});
}
fn node(minor: u32) -> Value {
    let path = format!("/dev/nvidia{minor}");
    json!({"path": path, "type": "c", "major": 195, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0})
}
/// The container prints nvoci's record: granted devices are in the plan, with their DRM nodes and
/// their entry in /proc.
fn shows(spec: &mut Value) {
    program(spec, &["/bin/cat", "/usr/local/nvidia/.nvoci.json"]);
}

const VOID: &[&str] = &["NVIDIA_VISIBLE_DEVICES=void"];
const GRANTED: Case = Case {
    ways: &[Way::CreateRuntime],
    expect: Expect::always(Started),
    check: |after| {
        let record: Value = serde_json::from_str(after.output())?;
        let gpus = record["gpus"].as_array().into_iter().flatten();
        let minors: Vec<&Value> = gpus.map(|gpu| &gpu["minor"]).collect();
        let is_first = minors == [&json!(0)];
        after.must(is_first, format!("GPUs that count as granted: {minors:?}"));
        Ok(())
    },
    ..Case::HARMLESS
};

pub(crate) const NODES: Class = Class {
    number: 69,
    attack: "at the CDI entry point a volume of another GPU's node, or a node that no rule allows",
    decision: "not granted",
    also: &["src/cmd/inject.rs::a_node_is_granted_by_the_definition_and_its_rules"],
    cases: &[
        Case {
            id: "69_bind",
            why: "the second GPU's node is a volume at its own place",
            request: Request {
                env: VOID,
                edit: |spec| {
                    by_cdi(spec);
                    shows(spec);
                    bound_node(spec);
                },
            },
            ..GRANTED
        },
        Case {
            id: "69_bind_elsewhere",
            why: "the second GPU's node is a volume at another place",
            request: Request {
                env: VOID,
                edit: |spec| {
                    by_cdi(spec);
                    shows(spec);
                    bind(spec, "/vol", "/dev/nvidia1", &["rbind"]);
                },
            },
            ..GRANTED
        },
        Case {
            id: "69_opens",
            why: "the second GPU's node is a volume, and must not open",
            request: Request {
                env: VOID,
                edit: |spec| {
                    by_cdi(spec);
                    bound_node(spec);
                },
            },
            expect: Expect::always(Gpu),
            check: |_| Ok(()),
            ..GRANTED
        },
        Case {
            id: "69_denied",
            why: "the definition has the second GPU's node, and no rule allows it",
            request: Request {
                env: VOID,
                edit: |spec| {
                    by_cdi(spec);
                    shows(spec);
                    push(&mut spec["linux"]["devices"], node(1));
                },
            },
            ..GRANTED
        },
    ],
};
