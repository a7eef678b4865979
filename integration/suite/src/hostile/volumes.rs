//! The attacker shares a volume with the host or with other containers. What is written to it, or
//! mounted on it, would appear there.

use std::path::Path;
use std::time::Duration;

use super::prelude::*;
use crate::process::{run_silently, words};

/// The volume that other containers write to.
fn others_volume(spec: &mut Value, destination: &str) {
    let mount = json!({"destination": destination, "type": "bind", "source": "/canary/volume", "options": ["rbind", "rw"]});
    push(&mut spec["mounts"], mount);
}

pub(crate) const VOLUMES: Class = Class {
    number: 10,
    attack: "`ld.so.conf.d`, `/etc`, `/usr/local` is a volume that others write",
    decision: "never written to; a cache is bound over",
    also: &[],
    cases: &[
        Case {
            id: "10_confd_volume",
            why: "the loader's configuration directory is a volume; it is read wherever it lies",
            request: edited(|spec| others_volume(spec, "/etc/ld.so.conf.d")),
            bites: CHANGES_THE_HOST,
            touches: &[Touch::reads("/canary/volume")],
            ..Case::HARMLESS
        },
        Case {
            id: "10_etc_volume",
            has_loader: false,
            why: "`/etc` is a volume that others write",
            request: edited(|spec| others_volume(spec, "/etc")),
            ways: BUT_CDI,
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "10_local_volume",
            why: "`/usr/local` is a volume that others write",
            request: edited(|spec| others_volume(spec, "/usr/local")),
            ways: BUT_CDI,
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
    ],
};

const LIBCUDAS_PLACE: &str = "/usr/lib/x86_64-linux-gnu/libcuda.so.1";
const SHARE: &str = "/scratch/share";

/// A volume of `SHARE` at a destination. Engines set the propagation of the root for one that is
/// shared, or it has no peers.
fn shared(spec: &mut Value, destination: &str, name: &str, options: &[&str]) {
    spec["linux"]["rootfsPropagation"] = json!("rshared");
    let mut all = vec!["rbind"];
    all.extend(options);
    let source = format!("{SHARE}/{name}");
    let mount = json!({"destination": destination, "type": "bind", "source": source, "options": all});
    push(&mut spec["mounts"], mount);
}

/// An empty directory for volumes. Mounts that an earlier case leaked are removed.
fn fresh_share() -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let leaked: Vec<&str> = places
        .filter(|place| place.starts_with("/scratch/share/"))
        .collect();
    for place in leaked.into_iter().rev() {
        let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
    }
    remove(Path::new(SHARE))?;
    fs::create_dir_all(SHARE)
}

fn share_file(name: &str, contents: &str) -> io::Result<()> {
    fresh_share()?;
    fs::write(format!("{SHARE}/{name}"), contents)
}

/// The volume has the image's own `/etc`.
fn share_etc(image: &mut Image) -> io::Result<()> {
    fresh_share()?;
    copy_tree("-a", &image.at("etc").to_string_lossy(), &format!("{SHARE}/etc"))
}

fn copy_tree(option: &str, from: &str, to: &str) -> io::Result<()> {
    let ended = run_silently(&words(&["cp", option, from, to]), Duration::from_secs(20))?;
    (ended.status == 0)
        .then_some(())
        .ok_or(io::ErrorKind::Other.into())
}

/// The hook's own stages, and the commands that read the file system.
const STAGES: &[Way] = &[
    Way::Prestart,
    Way::CreateRuntime,
    Way::CreateContainer,
    Way::Commands,
];
const SHARED: Case = Case {
    ways: STAGES,
    ..Case::HARMLESS
};

pub(crate) const PROPAGATION: Class = Class {
    number: 31,
    attack: "shared propagation",
    decision: "nothing appears on the host",
    also: &[],
    cases: &[Case {
        id: "31_propagation",
        why: "the container's root and a volume are shared with the host",
        trick: |_| fs::create_dir_all("/scratch/shared"),
        request: edited(|spec| {
            spec["linux"]["rootfsPropagation"] = json!("shared");
            let mount = json!({"destination": "/vol", "type": "bind", "source": "/scratch/shared", "options": ["rbind", "rshared"]});
            push(&mut spec["mounts"], mount);
        }),
        ways: &[
            Way::Prestart,
            Way::CreateRuntime,
            Way::CreateContainer,
            Way::Commands,
            Way::Cdi,
        ],
        ..Case::HARMLESS
    }],
};

pub(crate) const SHARED_ETC: Class = Class {
    number: 55,
    attack: "a volume at `/etc`, or at the cache in it, that is shared with the host",
    decision: "a cache is bound over it, and stays in the container",
    also: &["crates/inroot/src/mount.rs::both_apis"],
    cases: &[
        Case {
            id: "55_etc",
            why: "`/etc` is a volume that is shared with the host",
            trick: share_etc,
            request: edited(|spec| shared(spec, "/etc", "etc", &["rshared"])),
            ..SHARED
        },
        Case {
            id: "55_etc_ro",
            why: "`/etc` is a read-only volume that is shared with the host",
            trick: share_etc,
            request: edited(|spec| shared(spec, "/etc", "etc", &["ro", "rshared"])),
            ..SHARED
        },
        Case {
            id: "55_nested",
            why: "the loader cache is a shared file in a volume that is private",
            trick: |image| {
                share_etc(image)?;
                fs::copy(image.at(LOADER_CACHE), format!("{SHARE}/cache")).map(drop)
            },
            request: edited(|spec| {
                shared(spec, "/etc", "etc", &["rprivate"]);
                shared(spec, "/etc/ld.so.cache", "cache", &["ro", "rshared"]);
            }),
            ..SHARED
        },
    ],
};

pub(crate) const SHARED_NODE: Class = Class {
    number: 56,
    attack: "a file that is shared with the host, at the place of a GPU's node",
    decision: "bound over it, in the container alone",
    also: &[],
    cases: &[Case {
        id: "56_file",
        why: "the place of the GPU's node is a file that is shared with the host",
        trick: |_| share_file("node", ""),
        request: edited(|spec| shared(spec, "/dev/nvidia0", "node", &["rshared"])),
        ..SHARED
    }],
};

pub(crate) const SHARED_FILES: Class = Class {
    number: 57,
    attack: "files that are shared with the host, at a library's, a program's or the cache's place",
    decision: "covered in the container alone",
    also: &[],
    cases: &[
        Case {
            id: "57_library",
            why: "`libcuda.so.1` is a file that is shared with the host",
            policy: NATIVE,
            trick: |image| {
                share_file("cuda", "stub\n")?;
                image.place(LIBCUDA)
            },
            request: edited(|spec| shared(spec, LIBCUDAS_PLACE, "cuda", &["rshared"])),
            ..SHARED
        },
        Case {
            id: "57_program",
            why: "`nvidia-smi` is a file that is shared with the host",
            trick: |image| {
                share_file("smi", "own\n")?;
                image.place("usr/bin/nvidia-smi")
            },
            request: edited(|spec| shared(spec, "/usr/bin/nvidia-smi", "smi", &["rshared"])),
            ..SHARED
        },
        Case {
            id: "57_cache",
            why: "the loader cache is a file that is shared with the host, with our small hook too",
            trick: |image| {
                fresh_share()?;
                fs::copy(image.at(LOADER_CACHE), format!("{SHARE}/cache")).map(drop)
            },
            request: edited(|spec| shared(spec, "/etc/ld.so.cache", "cache", &["rshared"])),
            ways: &[Way::Prestart, Way::CreateRuntime, Way::CreateContainer, Way::Cdi],
            ..SHARED
        },
    ],
};

pub(crate) const SHARED_PROCFS: Class = Class {
    number: 58,
    attack: "`/proc/driver/nvidia` is a volume that is shared with the host",
    decision: "covered in the container alone",
    also: &[],
    cases: &[Case {
        id: "58_procfs",
        why: "`/proc/driver/nvidia` is a volume that is shared with the host; runc mounts nothing there",
        trick: |_| {
            fresh_share()?;
            copy_tree("-rL", "/proc/driver/nvidia", &format!("{SHARE}/nvidia"))
        },
        // A procfs of this kernel has no `driver/nvidia`, so the host's `driver` is mounted first.
        request: edited(|spec| {
            let driver = json!({"destination": "/proc/driver", "type": "bind", "source": "/proc/driver", "options": ["rbind", "ro", "rprivate"]});
            push(&mut spec["mounts"], driver);
            shared(spec, "/proc/driver/nvidia", "nvidia", &["rshared"]);
        }),
        expect: Expect::always(Gpu).except(&[(RUNC, RuntimeRefuses)]),
        questions: &[
            Question::present("/proc/driver/nvidia/gpus/0000:06:00.0/information"),
            Question::missing("/proc/driver/nvidia/gpus/0000:07:00.0/information"),
        ],
        ..SHARED
    }],
};
