//! The attacker is another user of the host, who owns or may write a file that nvoci reads.

use std::os::unix::fs::{PermissionsExt, chown};

use super::prelude::*;

const USER: u32 = 1000;
const EVIL_SPEC: &str = "/etc/cdi/evil.yaml";

/// A specification whose hook is another user's program. `nvoci cdi check` must report it.
fn others_specification(scene: &mut Scene<'_>, owner: u32, mode: u32) -> io::Result<()> {
    scene.program("/tmp/evil", "#!/bin/sh\n>/canary/hooked\n")?;
    let lines = [
        "cdiVersion: \"0.5.0\"",
        "kind: evil.com/dev",
        "devices:",
        "- name: a",
        "  containerEdits:",
        "    hooks:",
        "    - hookName: createContainer",
        "      path: /tmp/evil",
        "      args: [evil]\n",
    ];
    scene.file(EVIL_SPEC, lines.join("\n"))?;
    chown(EVIL_SPEC, Some(owner), None)?;
    fs::set_permissions(EVIL_SPEC, fs::Permissions::from_mode(mode))?;
    let check = scene.run("check", 8, &["nvoci", "cdi", "check"])?;
    (check.status != 0)
        .then_some(())
        .ok_or_else(|| io::Error::other("cdi check has no finding"))
}

/// Lists of lists of lists, without an end.
fn alias_bomb(scene: &mut Scene<'_>) -> io::Result<()> {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..=30 {
        let below = format!("*a{},", level - 1).repeat(8);
        bomb.push_str(&format!("a{level}: &a{level} [{below}x]\n"));
    }
    scene.file(EVIL_SPEC, bomb)
}

/// The container requests a device of the specification.
const EVIL_DEVICE: Case = Case {
    policy: "accept-cdi-kinds = [\"evil.com/dev\"]",
    request: Request {
        env: &["NVIDIA_VISIBLE_DEVICES=evil.com/dev=a"],
        edit: |_| (),
    },
    ways: &[Way::Entry],
    expect: Expect::always(Refused(1105)),
    ..Case::HARMLESS
};

pub(crate) const SPECIFICATIONS: Class = Class {
    number: 41,
    attack: "CDI specification of another user, writable by others, an alias bomb; a directory of FIFOs, devices, 2 GB, escapes",
    decision: "refused, and a finding of `cdi check`",
    also: &["tests/fuzz_corpus.rs::cdi"],
    cases: &[
        Case {
            id: "41_spec_owner",
            why: "another user owns a CDI specification, which has a hook",
            host: |scene| others_specification(scene, USER, 0o644),
            bites: CHANGES_THE_HOST,
            ..EVIL_DEVICE
        },
        Case {
            id: "41_spec_mode",
            why: "others may write a CDI specification, which has a hook",
            host: |scene| others_specification(scene, 0, 0o666),
            ..EVIL_DEVICE
        },
        Case {
            id: "41_directory",
            why: "a directory of specifications has links, FIFOs, devices, 2 GB, and escapes in names",
            trick: |image| {
                image.link("cdi/link.yaml", "/canary/secret")?;
                image.fifo("cdi/fifo.yaml")?;
                image.character_device("cdi/zero.yaml", 1, 5)?;
                image.directory("cdi/directory.json")?;
                image.grow("cdi/sparse.yaml", 2 << 30)?;
                image.file("cdi/deep.json", "[".repeat(100_000))?;
                image.file("cdi/deep.yaml", "[".repeat(100_000))?;
                let escape = "cdiVersion: \"0.5.0\"\nkind: \"evil.com/\\e[2J\"\ndevices: []\n";
                image.file("cdi/escape.yaml", escape)?;
                image.file("cdi/text.yaml", b"\xff\xfe\x1b]0;evil\x07")?;
                image.file("cdi/name\x1b[2J\n.json", "{}")
            },
            ways: &[Way::Commands],
            // The commands follow a link in it, as engines do, and print nothing of the file.
            touches: &[Touch::reads("/canary/secret").by("nvoci")],
            ..Case::HARMLESS
        },
        Case {
            id: "41_bomb",
            why: "a CDI specification grows to 8^30 items by its aliases",
            host: alias_bomb,
            ..EVIL_DEVICE
        },
    ],
};

pub(crate) const LOG: Class = Class {
    number: 42,
    attack: "the log file is a link planted in `/tmp` or a user's directory",
    decision: "not written",
    also: &[],
    cases: &[
        Case {
            id: "42_log",
            why: "the log file's name in `/tmp` is a link to a file of the host",
            policy: "log-file = \"/tmp/nvoci.log\"",
            host: |scene| scene.link("/tmp/nvoci.log", "/canary/secret"),
            ways: &[Way::CreateRuntime],
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "42_log_dir",
            why: "the log file is in another user's directory, and is a link to a file of the host",
            policy: "log-file = \"/var/log/evil/nvoci.log\"",
            host: |scene| {
                scene.directory_of("/var/log/evil", USER, 0o755)?;
                scene.link("/var/log/evil/nvoci.log", "/canary/secret")
            },
            ways: &[Way::CreateRuntime],
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
    ],
};

/// The driver must not be given.
const NO_DRIVER: Case = Case {
    ways: &[Way::CreateRuntime, Way::Entry],
    expect: Expect::always(Refused(4002)),
    bites: Bite::Guilty(Kind::Started),
    ..Case::HARMLESS
};

pub(crate) const DRIVER: Class = Class {
    number: 47,
    attack: "a driver file that somebody other than root owns or may write",
    decision: "refused",
    also: &[],
    cases: &[
        Case {
            id: "47_owner",
            why: "another user owns the driver's libcuda",
            host: |scene| {
                let mut files = scene.host.libcuda.iter();
                files.try_for_each(|file| scene.give(file, USER))
            },
            ..NO_DRIVER
        },
        Case {
            id: "47_mode",
            why: "others may write the driver's libcuda",
            host: |scene| {
                let mut files = scene.host.libcuda.iter();
                files.try_for_each(|file| scene.mode(file, 0o666))
            },
            ..NO_DRIVER
        },
    ],
};
