//! The attacker made the image, and guesses where its user mounts a volume. A link there leads the
//! volume over a tmpfs of the container, or over its rootfs, and another link leads what an
//! injection writes to the volume.

use std::os::unix::fs::{PermissionsExt, chown};

use super::prelude::*;
use crate::caller;
use crate::case::Hook;
use crate::expect::Cgroup;

const STAGES_AND_ENTRY: &[Way] = &[
    Way::Prestart,
    Way::CreateRuntime,
    Way::CreateContainer,
    Way::Entry,
];
const VOLUME: &str = "/canary/volume";
/// A tmpfs of the host.
const SHARE: &str = "/scratch/share/tmp";

fn tmpfs(spec: &mut Value, place: &str) {
    let mount = json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]});
    push(&mut spec["mounts"], mount);
}

/// A tmpfs at `place`, and after it a volume at /mnt/data, which the image has as a link.
fn over(spec: &mut Value, place: &str, source: &str) {
    tmpfs(spec, place);
    bind(spec, "/mnt/data", source, &["rbind", "rw"]);
}

/// The loader's own configuration must be nothing that the volume has.
fn lead_over(image: &mut Image, place: &str) -> io::Result<()> {
    image.link("mnt/data", place)?;
    image.link("etc", place)
}

/// A tmpfs of the host as the volume: the file system's type does not decide.
fn host_tmpfs(scene: &mut Scene<'_>) -> io::Result<()> {
    scene.tmpfs(SHARE, "")?;
    fs::write(format!("{SHARE}/ld.so.cache"), "untouched\n")
}

/// The host's tmpfs has its one file, as it was.
fn is_kept(after: &mut After<'_, '_>) -> io::Result<()> {
    let entries = fs::read_dir(SHARE)?.collect::<io::Result<Vec<_>>>()?;
    let names: Vec<_> = entries.iter().map(fs::DirEntry::file_name).collect();
    let is_same =
        names == ["ld.so.cache"] && fs::read_to_string(format!("{SHARE}/ld.so.cache"))? == "untouched\n";
    after.must(is_same, format!("the host's tmpfs was changed: {names:?}"));
    Ok(())
}

const OVER: Case = Case {
    ways: STAGES_AND_ENTRY,
    touches: &[Touch::reads(VOLUME).and_below()],
    ..Case::HARMLESS
};
const OVER_TMPFS: Case = Case {
    host: host_tmpfs,
    check: is_kept,
    ..OVER
};
/// A hook of a CDI specification alone. With a whole specification the runtime itself would make
/// the places of its mounts on the volume.
const SMALL_HOOK: Case = Case {
    trick: |image| {
        caller::link_cdi_hook()?;
        lead_over(image, "/run")?;
        fs::set_permissions(VOLUME, fs::Permissions::from_mode(0o700))
    },
    ways: &[Way::CreateContainer],
    expect: Expect::always(Started),
    ..OVER
};
fn small_hook(spec: &mut Value, words: &[&str]) {
    over(spec, "/run", VOLUME);
    let mut arguments = vec!["nvidia-cdi-hook"];
    arguments.extend(words);
    spec["hooks"] = json!({"createContainer": [{"path": "/usr/bin/nvidia-cdi-hook", "args": arguments}]});
}

pub(crate) const COVERS: Class = Class {
    number: 80,
    attack: "an image's link leads a volume over a tmpfs of the container, or over its rootfs, and another link the loader's files to it",
    decision: "the volume is a volume: covered in the container alone; over the rootfs, refused",
    also: &[
        "crates/inroot/src/mountinfo.rs::only_a_tmpfs_that_nobody_else_has_is_the_containers",
        "crates/inroot/src/mountinfo.rs::a_volume_over_the_rootfs",
    ],
    cases: &[
        Case {
            id: "80_shm",
            has_loader: false,
            why: "a link leads a volume over /dev/shm",
            trick: |image| lead_over(image, "/dev/shm"),
            request: edited(|spec| bind(spec, "/mnt/data", VOLUME, &["rbind", "rw"])),
            ..OVER
        },
        Case {
            id: "80_run",
            has_loader: false,
            why: "a link leads a volume over a tmpfs at /run",
            trick: |image| lead_over(image, "/run"),
            request: edited(|spec| over(spec, "/run", VOLUME)),
            ..OVER
        },
        Case {
            id: "80_tmp",
            has_loader: false,
            why: "a link leads a volume over a tmpfs at /tmp",
            trick: |image| lead_over(image, "/tmp"),
            request: edited(|spec| over(spec, "/tmp", VOLUME)),
            ..OVER
        },
        Case {
            id: "80_user",
            why: "a link leads a volume over a tmpfs at /run, for a user of the container",
            trick: |image| lead_over(image, "/run"),
            request: edited(|spec| {
                over(spec, "/run", VOLUME);
                spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            }),
            expect: Expect::always(Started),
            questions: &[HAS_DRIVER],
            ..OVER
        },
        Case {
            id: "80_hook_cache",
            why: "the small hook for the loader cache writes where the volume is",
            request: edited(|spec| small_hook(spec, &["update-ldcache", "--folder", "/usr/lib"])),
            ..SMALL_HOOK
        },
        Case {
            id: "80_hook_links",
            why: "the small hook for links writes where the volume is",
            request: edited(|spec| {
                let link = "libcuda.so.1::/etc/libcuda.so";
                small_hook(spec, &["create-symlinks", "--link", link]);
            }),
            ..SMALL_HOOK
        },
        Case {
            id: "80_hook_chmod",
            why: "the small hook for modes is called for the volume",
            request: edited(|spec| small_hook(spec, &["chmod", "--mode", "777", "--path", "/etc"])),
            ..SMALL_HOOK
        },
        Case {
            id: "80_hook_profile",
            why: "the small hook for application profiles writes where the volume is",
            request: edited(|spec| small_hook(spec, &["update-application-profile"])),
            ..SMALL_HOOK
        },
        Case {
            id: "80_tmpfs",
            why: "a link leads a tmpfs of the host over a tmpfs at /run",
            trick: |image| lead_over(image, "/run"),
            request: edited(|spec| over(spec, "/run", SHARE)),
            ..OVER_TMPFS
        },
        Case {
            id: "80_hidden",
            why: "the link is hidden by a later mount, so the volume's destination leads nowhere",
            trick: |image| lead_over(image, "/run"),
            request: edited(|spec| {
                over(spec, "/run", SHARE);
                let mount = json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"});
                push(&mut spec["mounts"], mount);
            }),
            ..OVER_TMPFS
        },
        Case {
            id: "80_same",
            why: "a tmpfs of the host is mounted over the container's own, without a link",
            trick: |image| image.link("etc", "/run"),
            request: edited(|spec| {
                tmpfs(spec, "/run");
                bind(spec, "/run", SHARE, &["rbind", "rw"]);
            }),
            ..OVER_TMPFS
        },
        Case {
            id: "80_root",
            why: "a link leads a volume over the rootfs, and the volume has a small image",
            trick: |image| {
                image.link("mnt/data", "/")?;
                let busybox = "cp -r /world/images/busybox/. /canary/volume && mkdir -p /canary/volume/proc /canary/volume/sys /canary/volume/dev";
                run_shell(busybox)
            },
            request: edited(|spec| {
                let mount = json!({"destination": "/mnt/data", "type": "bind", "source": VOLUME, "options": ["rbind", "rw"]});
                if let Some(mounts) = spec["mounts"].as_array_mut() {
                    mounts.insert(0, mount);
                }
            }),
            ways: &[Way::CreateRuntime, Way::CreateContainer],
            // runc refuses a link to the root directory itself.
            expect: Expect::always(Refused(4001)).except(&[(RUNC, RuntimeRefuses)]),
            touches: &[Touch::anything(VOLUME).and_below()],
            ..OVER
        },
    ],
};

/// The bundle of another caller, a directory beside whose rootfs a user writes.
const BESIDE: &str = "/scratch/beside";
const BESIDE_ROOT: &str = "/scratch/beside/rootfs";
const BESIDE_DEFINITION: &str = "/scratch/beside/config.json";
/// A caller's own hook. Its errors are where those of nvoci's hook are.
const CALLER: &str = r#"#!/bin/bash
state=$(cat)
pid=$(jq .pid <<<"$state")
nvidia-container-cli configure --pid="$pid" --device=0 --compute --utility /scratch/beside/rootfs 2>/scratch/cli.err && exit
mkdir -p /run/nvoci/errors
cp /scratch/cli.err "/run/nvoci/errors/$(jq -r .id <<<"$state").json"
exit 1
"#;
/// The same for a caller that leaves the cgroup alone.
const CALLER_WITHOUT_CGROUPS: &str = r#"#!/bin/bash
state=$(cat)
pid=$(jq .pid <<<"$state")
nvidia-container-cli configure --pid="$pid" --device=0 --compute --utility --no-cgroups /scratch/beside/rootfs 2>/scratch/cli.err && exit
mkdir -p /run/nvoci/errors
cp /scratch/cli.err "/run/nvoci/errors/$(jq -r .id <<<"$state").json"
exit 1
"#;
/// A definition that allows every device.
const FORGED: &str = r#"{"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/"},"root":{"path":"rootfs"},"mounts":[{"destination":"/dev","type":"tmpfs"}],"linux":{"resources":{"devices":[{"allow":true,"access":"rwm"}]}}}"#;
const ON_V1: Where = Where {
    cgroups: &[Cgroup::V1],
    ..Where::ANYWHERE
};

/// The rootfs is mounted in a directory of `owner`, for which nvidia-container-cli is called.
fn beside(scene: &mut Scene<'_>, owner: u32) -> io::Result<()> {
    caller::link_container_cli("nvoci")?;
    scene.directory(BESIDE_ROOT)?;
    scene.bind(BESIDE_ROOT, scene.bundle.root())?;
    chown(BESIDE, Some(owner), None)
}

const BY_CLI: Case = Case {
    hook: Hook::Script(CALLER),
    request: edited(|spec| spec["root"]["path"] = json!(BESIDE_ROOT)),
    ways: &[Way::CreateRuntime],
    // Without a definition, the other rules are unknown on cgroup v2.
    expect: Expect::always(Refused(5003)).except(&[(ON_V1, Gpu)]),
    questions: &[Question::number("10:229", &["refused"])],
    ..Case::HARMLESS
};

pub(crate) const BESIDES: Class = Class {
    number: 81,
    attack: "another user's `config.json` beside the rootfs that `nvidia-container-cli` is called for",
    decision: "no definition: its rules and mounts count for nothing",
    also: &["crates/inroot/src/owned.rs::files_that_others_could_have_written_are_refused"],
    cases: &[
        Case {
            id: "81_owner",
            why: "another user's definition allows every device, in that user's directory",
            host: |scene| {
                beside(scene, 1500)?;
                scene.file(BESIDE_DEFINITION, FORGED)?;
                chown(BESIDE_DEFINITION, Some(1500), None)
            },
            ..BY_CLI
        },
        Case {
            id: "81_directory",
            why: "root's definition is in another user's directory",
            host: |scene| {
                beside(scene, 1500)?;
                scene.file(BESIDE_DEFINITION, FORGED)
            },
            ..BY_CLI
        },
        Case {
            id: "81_sticky",
            why: "root's definition is in a directory where everybody may make entries",
            host: |scene| {
                beside(scene, 0)?;
                scene.file(BESIDE_DEFINITION, FORGED)?;
                scene.mode(BESIDE, 0o1777)
            },
            ..BY_CLI
        },
        Case {
            id: "81_link",
            why: "the definition is root's link to another user's",
            host: |scene| {
                beside(scene, 0)?;
                scene.file("/scratch/forged.json", FORGED)?;
                chown("/scratch/forged.json", Some(1500), None)?;
                scene.link(BESIDE_DEFINITION, "/scratch/forged.json")
            },
            ..BY_CLI
        },
        Case {
            id: "81_true",
            why: "the definition is root's own, and counts",
            host: |scene| {
                beside(scene, 0)?;
                scene.copy(BESIDE_DEFINITION, &scene.bundle.definition())
            },
            expect: Expect::always(Gpu),
            ..BY_CLI
        },
    ],
};

const BY_CLI_ALONE: Case = Case {
    hook: Hook::Script(CALLER_WITHOUT_CGROUPS),
    host: |scene| {
        host_tmpfs(scene)?;
        beside(scene, 0)
    },
    ways: &[Way::CreateRuntime],
    expect: Expect::always(Started),
    check: |after| {
        let is_there = after.answers.has("dev /dev/nvidia0", &["refused"]);
        after.proves(is_there, "the command made no node");
        is_kept(after)
    },
    ..Case::HARMLESS
};

pub(crate) const HOSTS_TMPFS: Class = Class {
    number: 82,
    attack: "a tmpfs of the host's at `/run`, or where a link there leads, and a caller of `nvidia-container-cli` without a definition",
    decision: "nothing is written to it",
    also: &["crates/inroot/src/mountinfo.rs::the_hosts_list_counts_where_the_callers_lacks_it"],
    cases: &[
        Case {
            id: "82_link",
            why: "links lead /run and /etc to a tmpfs of the host",
            trick: |image| {
                image.link("run", "/vol")?;
                image.link("etc", "/vol")
            },
            request: edited(|spec| {
                bind(spec, "/vol", SHARE, &["rbind", "rw"]);
                spec["root"]["path"] = json!(BESIDE_ROOT);
            }),
            ..BY_CLI_ALONE
        },
        Case {
            id: "82_place",
            why: "a tmpfs of the host is at /run, and a link leads /etc there",
            trick: |image| image.link("etc", "/run"),
            request: edited(|spec| {
                bind(spec, "/run", SHARE, &["rbind", "rw"]);
                spec["root"]["path"] = json!(BESIDE_ROOT);
            }),
            ..BY_CLI_ALONE
        },
    ],
};
