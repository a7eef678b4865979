//! The attacker chooses the container's cgroup, its device rules or its name, or pauses it. The
//! device rules of a cgroup that is not the container's own must not change.

use std::process::Command;

use super::prelude::*;
use crate::caller;
use crate::case::Direct;
use crate::expect::Cgroup;
use crate::probe::Answers;

const STAGES: &[Way] = &[Way::Prestart, Way::CreateRuntime, Way::CreateContainer];
const STAGES_AND_ENTRY: &[Way] = &[
    Way::Prestart,
    Way::CreateRuntime,
    Way::CreateContainer,
    Way::Entry,
];
/// Only crun leaves a container in its caller's cgroup.
const WITH_CRUN: fn(Cgroup, Runtime) -> bool = |_, runtime| matches!(runtime, Runtime::Crun);
/// Filters are programs on cgroup v2.
const ON_V2: fn(Cgroup, Runtime) -> bool = |cgroup, _| matches!(cgroup, Cgroup::V2);

const VICTIM: &str = "/sys/fs/cgroup/victim";
const LOG: &str = "/var/log/nvoci-hostile.log";
const LOGS: &str = "log-file = \"/var/log/nvoci-hostile.log\"\nlog-level = \"trace\"";

fn victims_cgroup(scene: &Scene<'_>) -> &'static str {
    match scene.host.cgroup {
        Cgroup::V1 => "/sys/fs/cgroup/devices/victim",
        Cgroup::V2 => VICTIM,
    }
}

/// A container whose cgroup lets it open /dev/fuse and no GPU.
fn victim(scene: &mut Scene<'_>) -> io::Result<()> {
    let mut spec = scene.bundle.read()?;
    spec.as_object_mut().map(|spec| spec.shift_remove("hooks"));
    program(&mut spec, &["/bin/sleep", "60"]);
    spec["root"] = json!({"path": scene.bundle.root(), "readonly": true});
    spec["linux"]["cgroupsPath"] = json!("/victim");
    spec["linux"]["resources"]["devices"] = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
    ]);
    let bundle = scene.bundle.path.join("victim");
    fs::create_dir(&bundle)?;
    fs::write(bundle.join("config.json"), spec.to_string())?;
    scene.container(&bundle, "victim")
}

/// The victim opens what it opened before, and no GPU.
fn victim_is_as_before(after: &mut After<'_, '_>, cgroup: &str) -> io::Result<()> {
    let probe = "/world/probe/probe-static --dev /dev/fuse --dev /dev/nvidia0 --dev /dev/nvidiactl";
    let script = format!("echo 0 >{cgroup}/cgroup.procs && exec {probe}");
    let answers = Answers::new(after.run("victim", 8, &["sh", "-c", &script])?.out);
    after.must(
        answers.opens("dev /dev/fuse"),
        "the victim's device rules are others now: /dev/fuse does not open",
    );
    for node in ["dev /dev/nvidia0", "dev /dev/nvidiactl"] {
        let holds = answers.has(node, &["refused"]);
        after.must(holds, format!("the victim's device rules are others now: {node}"));
    }
    Ok(())
}

pub(crate) const CALLERS: Class = Class {
    number: 70,
    attack: "a container that its engine left in the cgroup of its caller",
    decision: "the cgroup's device rules stay; started with a warning where they let the GPUs be opened, else refused",
    also: &["systemd:70 podman"],
    cases: &[
        Case {
            id: "70_callers_cgroup",
            why: "crun leaves the container in another container's cgroup",
            host: victim,
            callers_cgroup: Some(VICTIM),
            ways: STAGES,
            only: WITH_CRUN,
            expect: Expect::always(Refused(5201)),
            check: |after| victim_is_as_before(after, VICTIM),
            ..Case::HARMLESS
        },
        Case {
            id: "70_callers_cgroup_below",
            why: "crun leaves the container in a cgroup below another container's",
            host: victim,
            callers_cgroup: Some("/sys/fs/cgroup/victim/caller"),
            ways: STAGES,
            only: WITH_CRUN,
            expect: Expect::always(Refused(5201)),
            check: |after| victim_is_as_before(after, VICTIM),
            ..Case::HARMLESS
        },
        Case {
            id: "70_open_cgroup",
            why: "crun leaves the container in a cgroup without rules, where every GPU opens",
            policy: LOGS,
            host: |scene| scene.absent(LOG),
            callers_cgroup: Some("/sys/fs/cgroup/open"),
            ways: STAGES,
            only: WITH_CRUN,
            expect: Expect::always(Started),
            check: |after| {
                for question in ["dev /dev/nvidia0", "mknod 195:0", "mknod 195:1"] {
                    let opens = after.answers.opens(question);
                    after.must(opens, format!("the caller's cgroup has rules now: {question}"));
                }
                let log = fs::read_to_string(LOG)?;
                let warns = log.contains("cgroup is not its own");
                after.must(warns, "no warning in the record");
                Ok(())
            },
            touches: &[Touch::anything(LOG).by("nvoci")],
            ..Case::HARMLESS
        },
        Case {
            id: "70_cli",
            why: "nvidia-container-cli is called for a process in another container's cgroup",
            host: victim,
            ways: &[Way::CreateRuntime],
            check: |after| {
                let cgroup = victims_cgroup(after.scene);
                let root = after.scene.bundle.path.join("cli");
                let root = root.to_string_lossy().into_owned();
                after.scene.tmpfs(&root, "mode=755")?;
                for directory in ["dev", "proc", "etc", "usr"] {
                    fs::create_dir(format!("{root}/{directory}"))?;
                }
                let process = "echo 0 >$0/cgroup.procs && exec unshare -m --propagation private sleep 60";
                let mut shell = Command::new("bash");
                let pid = after.scene.start(shell.args(["-c", process, cgroup]))?;
                std::thread::sleep(std::time::Duration::from_millis(300));
                caller::link_container_cli("nvoci")?;
                let configure = [
                    "nvidia-container-cli",
                    "configure",
                    "--pid",
                    &pid.to_string(),
                    "--device",
                    "0",
                    "--compute",
                    "--utility",
                    &root,
                ];
                let cli = after.run("cli", 20, &configure)?;
                after.must(cli.status != 0, "it changed somebody else's rules");
                let coded = cli.err.contains("NVOCI-5201");
                after.must(coded, format!("no NVOCI-5201: {}", cli.err));
                after.scene.end();
                victim_is_as_before(after, cgroup)
            },
            ..Case::HARMLESS
        },
        Case {
            id: "70_own_with_empty",
            why: "the container's own cgroup has empty ones below it, as sysbox makes them",
            host: |scene| scene.cgroup("/sys/fs/cgroup/own/below/deeper"),
            request: edited(|spec| spec["linux"]["cgroupsPath"] = json!("/own")),
            ways: STAGES,
            // v1 refuses a denial of everything there.
            only: ON_V2,
            ..Case::HARMLESS
        },
    ],
};

pub(crate) const SHARED: Class = Class {
    number: 71,
    attack: "a container in the cgroup of another, or in one above it",
    decision: "refused",
    also: &[],
    cases: &[
        Case {
            id: "71_shared_cgroup",
            why: "the runtime has put the container's rules on another's cgroup; no GPU may come with them",
            host: victim,
            request: edited(|spec| spec["linux"]["cgroupsPath"] = json!("/victim")),
            ways: STAGES,
            // runc 1.3 refuses by itself.
            only: |cgroup, runtime| matches!(cgroup, Cgroup::V1) || !matches!(runtime, Runtime::Runc),
            expect: Expect::always(Refused(5201)),
            ..Case::HARMLESS
        },
        Case {
            id: "71_cgroup_below",
            why: "the container's cgroup is the parent of another container's",
            host: |scene| {
                let below = "/sys/fs/cgroup/above/victim";
                scene.cgroup(below)?;
                victim(scene)?;
                let processes = fs::read_to_string(format!("{VICTIM}/cgroup.procs"))?;
                fs::write(format!("{below}/cgroup.procs"), processes)
            },
            request: edited(|spec| spec["linux"]["cgroupsPath"] = json!("/above")),
            ways: STAGES,
            only: WITH_CRUN,
            expect: Expect::always(Refused(5201)),
            ..Case::HARMLESS
        },
    ],
};

fn rules(spec: &mut Value, rules: &Value) {
    spec["linux"]["resources"]["devices"] = rules.clone();
}
const RULES: Case = Case {
    ways: STAGES,
    ..Case::HARMLESS
};
const OF_CRUN: Case = Case {
    only: WITH_CRUN,
    ..RULES
};

pub(crate) const DENIALS: Class = Class {
    number: 72,
    attack: "device rules that runc and crun read differently, or that neither takes",
    decision: "what both allow, and the GPUs that were granted",
    also: &[
        "crates/device-cgroup/src/rules.rs::never_wider_than_a_runtimes_own_program",
        "src/oci/spec.rs::a_rule_that_runtimes_read_differently_grants_nothing",
    ],
    cases: &[
        Case {
            id: "72_hole",
            why: "all GPUs are allowed, but for the second",
            request: edited(|spec| {
                rules(
                    spec,
                    &json!([
                        {"allow": false, "type": "a", "access": "rwm"},
                        {"allow": true, "type": "c", "major": 195, "access": "rwm"},
                        {"allow": false, "type": "c", "major": 195, "minor": 1, "access": "rwm"},
                    ]),
                );
            }),
            ..OF_CRUN
        },
        Case {
            id: "72_hole_in_all",
            why: "all character devices are allowed, but for GPUs",
            request: edited(|spec| {
                rules(
                    spec,
                    &json!([
                        {"allow": false, "type": "a", "access": "rwm"},
                        {"allow": true, "type": "c", "access": "rwm"},
                        {"allow": false, "type": "c", "major": 195, "access": "rwm"},
                    ]),
                );
            }),
            ..OF_CRUN
        },
        Case {
            id: "72_wider_denial",
            why: "the second GPU is allowed, and then all GPUs are denied",
            request: edited(|spec| {
                rules(
                    spec,
                    &json!([
                        {"allow": false, "type": "a", "access": "rwm"},
                        {"allow": true, "type": "c", "major": 195, "minor": 1, "access": "rwm"},
                        {"allow": false, "type": "c", "major": 195, "access": "rwm"},
                    ]),
                );
            }),
            ..OF_CRUN
        },
        Case {
            id: "72_no_access",
            why: "a rule for all GPUs has no access",
            request: edited(|spec| {
                rules(
                    spec,
                    &json!([
                        {"allow": false, "type": "a", "access": "rwm"},
                        {"allow": true, "type": "c", "major": 195},
                    ]),
                );
            }),
            ..OF_CRUN
        },
        Case {
            id: "72_all_types",
            why: "a denial of all types names a number; runc takes it for all devices",
            request: edited(|spec| {
                rules(
                    spec,
                    &json!([
                        {"allow": false, "type": "a", "access": "rwm"},
                        {"allow": true, "type": "c", "major": 10, "access": "rwm"},
                        {"allow": false, "type": "a", "major": 195, "access": "rwm"},
                    ]),
                );
            }),
            questions: &[Question::number("10:229", &["refused"])],
            ..RULES
        },
        Case {
            id: "72_sticky_denial",
            why: "a denial is followed by a wider rule; runc keeps it, crun's last match would not",
            request: edited(|spec| {
                rules(
                    spec,
                    &json!([
                        {"allow": true, "type": "a", "access": "rwm"},
                        {"allow": false, "type": "c", "major": 195, "minor": 1, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 195, "access": "rwm"},
                    ]),
                );
            }),
            expect: Expect::always(Started),
            check: |after| {
                let first = after.answers.opens("mknod 195:0");
                after.proves(first, "the requested GPU is refused");
                let other = after.answers.has("mknod 195:1", &["unmade errno-1"]);
                after.must(other, "a GPU that runc refuses");
                Ok(())
            },
            ..RULES
        },
    ],
};

pub(crate) const NAMES: Class = Class {
    number: 74,
    attack: "line feeds and escapes in a container's id; a paused container",
    decision: "escaped in the log; the doctor reports it at once",
    also: &["src/cmd/log.rs::a_line_stays_a_line"],
    cases: &[
        Case {
            id: "74_name",
            why: "the container's name has a forged line of the log, and characters that move others",
            policy: LOGS,
            host: |scene| scene.absent(LOG),
            request: variables(&["NVIDIA_VISIBLE_DEVICES=7"]),
            direct: Direct {
                state: |bundle| {
                    let id = r"direct\n[ERROR nvoci] forged\r\u001b[2J\u009b\u202e\u2028";
                    let head = format!(r#"{{"ociVersion":"1.0.2","id":"{id}","status":"creating","pid":0"#);
                    format!(r#"{head},"bundle":"{bundle}"}}"#).into_bytes()
                },
                ..Direct::CREATE_CONTAINER
            },
            ways: &[Way::Direct],
            expect: Expect::always(Refused(3001)),
            check: |after| {
                let log = fs::read_to_string(LOG)?;
                after.proves(!log.is_empty(), "nothing was logged");
                after.has_no_control("the log", &log);
                let moves = |c: char| matches!(c, '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{202e}');
                after.must(!log.contains(moves), "characters in the log that move others");
                let forged = log.lines().any(|line| line.starts_with("[ERROR nvoci] forged"));
                after.must(!forged, "a forged line in the log");
                Ok(())
            },
            touches: &[Touch::anything(LOG).by("nvoci")],
            ..Case::HARMLESS
        },
        Case {
            id: "74_paused",
            why: "the doctor examines a container that is paused",
            ways: &[Way::CreateRuntime],
            check: |after| {
                let runtime = after.scene.runtime.name();
                let mut spec = after.definition()?;
                program(&mut spec, &["/bin/sleep", "60"]);
                after.scene.bundle.write(&spec)?;
                let bundle = after.scene.bundle.path.clone();
                after.scene.container(&bundle, "paused")?;
                let paused = after.run("pause", 8, &[runtime, "pause", "paused"])?;
                after.proves(paused.status == 0, format!("it cannot be paused: {}", paused.err));
                let pid = after.scene.process_of("paused")?;
                let doctor = after.run("doctor", 60, &["nvoci", "doctor", "container", &pid])?;
                after.run("resume", 8, &[runtime, "resume", "paused"])?;
                let milliseconds = doctor.milliseconds;
                after.must(milliseconds < 8000, format!("the doctor took {milliseconds} ms"));
                let reports = doctor.out.contains("is paused");
                after.must(reports, format!("not said to be paused: {}", doctor.out));
                after.must(!doctor.out.contains("hangs"), "the driver is said to hang");
                Ok(())
            },
            ..Case::HARMLESS
        },
    ],
};

/// Attaches a device program to a cgroup, as systemd and security agents do: `filter CGROUP ANSWER
/// MAJOR...`. It answers so (0 or 1), and the opposite for these majors.
const FILTER: &str = r#"#!/usr/bin/perl
use strict;
my ($dir, $default, @majors) = @ARGV;
my $bpf = `uname -m` =~ /x86_64/ ? 321 : 280;
my $insn = sub { pack 'CCsl', @_ };
my $code = $insn->(0x61, 0x12, 4, 0);
my $left = @majors + 1;
$code .= $insn->(0x15, 2, $left--, $_) for @majors;
$code .= $insn->(0xb7, 0, 0, $_) . $insn->(0x95, 0, 0, 0) for $default, 1 - $default;
my $license = "GPL\0";
my $load = pack 'LLQQ', 15, length($code) / 8, unpack('Q', pack 'p', $code), unpack('Q', pack 'p', $license);
my $program = syscall $bpf, 5, $load, length $load;
$program >= 0 or die "load: $!";
opendir my $cgroup, $dir or die "$dir: $!";
my $attach = pack 'LLLL', fileno($cgroup), $program, 6, 2;
syscall($bpf, 8, $attach, length $attach) == 0 or die "attach: $!";
"#;
const LOCKED: &str = "/sys/fs/cgroup/locked";

/// A cgroup with a filter.
fn locked(scene: &mut Scene<'_>, rule: &[&str]) -> io::Result<()> {
    scene.cgroup(LOCKED)?;
    scene.program("/scratch/filter", FILTER)?;
    let mut filter = vec!["perl", "/scratch/filter", LOCKED];
    filter.extend(rule);
    Scene::must(&filter)
}
/// It refuses everything but memory devices, terminals and pseudoterminals.
fn closed(scene: &mut Scene<'_>) -> io::Result<()> {
    locked(scene, &["0", "1", "5", "136"])
}
/// crun refuses the nodes of a definition by itself.
const CRUN_BY_ENTRY: Where = Where {
    runtimes: &[Runtime::Crun],
    ways: &[Way::Entry],
    ..Where::ANYWHERE
};

pub(crate) const ABOVE: Class = Class {
    number: 93,
    attack: "a device filter of a cgroup above the container's refuses the GPU (`DevicePolicy=closed` of a slice, of a user's slice)",
    decision: "refused with a code, instead of a container that cannot open its GPU; a filter that allows the GPU stops nothing",
    also: &["src/cmd/hook/devices.rs::a_refused_node_stops_a_container_that_needs_it"],
    cases: &[
        Case {
            id: "93_closed_above",
            why: "a cgroup above the container's has a filter that refuses GPUs",
            host: closed,
            request: edited(|spec| spec["linux"]["cgroupsPath"] = json!("/locked/own")),
            ways: STAGES_AND_ENTRY,
            only: ON_V2,
            expect: Expect::always(Refused(5201)).except(&[(CRUN_BY_ENTRY, RuntimeRefuses)]),
            ..Case::HARMLESS
        },
        Case {
            id: "93_other_above",
            why: "a cgroup above the container's has a filter that has no part in GPUs",
            host: |scene| locked(scene, &["1", "10"]),
            request: edited(|spec| spec["linux"]["cgroupsPath"] = json!("/locked/own")),
            ways: STAGES_AND_ENTRY,
            only: ON_V2,
            ..Case::HARMLESS
        },
        Case {
            id: "93_closed_user",
            why: "a user's container stays in its caller's cgroup, whose filter refuses GPUs",
            host: closed,
            callers_cgroup: Some(LOCKED),
            ways: &[Way::CreateRuntime, Way::Rootless, Way::RootlessEntry],
            only: |cgroup, runtime| matches!((cgroup, runtime), (Cgroup::V2, Runtime::Crun)),
            expect: Expect::always(Refused(5201)),
            ..Case::HARMLESS
        },
    ],
};

pub(crate) const FILTERS: Class = Class {
    number: 96,
    attack: "another hook's or an agent's device filter at the container's own cgroup",
    decision: "stays: only the runtime's program and systemd's are replaced",
    also: &["crates/device-cgroup/src/bpf.rs::the_runtimes_and_systemds_programs_are_replaced"],
    cases: &[Case {
        id: "96_other_hooks_filter",
        why: "a hook before nvoci's attaches a filter that refuses /dev/fuse",
        host: |scene| {
            scene.program("/scratch/filter", FILTER)?;
            let hook = "#!/bin/bash
pid=$(grep -oE '\"pid\" *: *[0-9]+' | grep -oE '[0-9]+$')
exec perl /scratch/filter \"/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$pid/cgroup)\" 1 10
";
            scene.program("/scratch/filter-hook", hook)
        },
        request: edited(|spec| {
            let fuse = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"});
            push(&mut spec["linux"]["resources"]["devices"], fuse);
            let stages = spec["hooks"].as_object_mut().into_iter();
            for hooks in stages.flat_map(|stages| stages.values_mut()) {
                if let Some(hooks) = hooks.as_array_mut() {
                    hooks.insert(
                        0,
                        json!({"path": "/scratch/filter-hook", "args": ["filter-hook"]}),
                    );
                }
            }
        }),
        ways: &[Way::Prestart, Way::CreateRuntime],
        only: ON_V2,
        questions: &[Question::number("10:229", &["refused", "unmade errno-1"])],
        ..Case::HARMLESS
    }],
};
