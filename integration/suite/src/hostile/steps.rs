//! The attacker made the image, and counts on nvoci's own steps: a mount or a file of one step
//! leads a later step out.

use super::prelude::*;

pub(crate) const TWO_STEPS: Class = Class {
    number: 8,
    attack: "two steps: a first mount that turns a later path into an escape",
    decision: "every place is held before anything is attached",
    also: &[],
    cases: &[
        Case {
            id: "08_two_steps",
            why: "a CUDA compat library is a directory with a link out, for a tool that mounts it",
            trick: |image| image.link("usr/local/cuda/compat/libcuda.so.1/lib64", "/canary/nvidia"),
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "08_through_own",
            why: "links of the image lead through the driver directory, which nvoci mounts",
            trick: |image| {
                image.link("etc/ld.so.conf.d", "/usr/local/nvidia/lib64")?;
                image.link("usr/lib/nvoci", "/usr/local/nvidia")?;
                image.link("opt", "/usr/local/nvidia")
            },
            ..Case::HARMLESS
        },
    ],
};

pub(crate) const RUN: Class = Class {
    number: 24,
    attack: "`/run` is a link out; `/run/nvoci` made by the image",
    decision: "what is kept is kept on the host",
    also: &[],
    cases: &[
        Case {
            id: "24_run",
            why: "every place for the driver directory is taken, and `/run` is a link out",
            trick: |image| {
                image.link("run", "/canary/lib")?;
                for place in ["usr/local/nvidia", "opt/nvidia", "usr/lib/nvoci"] {
                    image.file(place, "taken\n")?;
                }
                fs::create_dir_all("/canary/lib/nvoci")
            },
            ways: &[
                Way::CreateRuntime,
                Way::CreateContainer,
                Way::Rootless,
                Way::Cdi,
                Way::Gvisor,
                Way::GvisorNvproxy,
            ],
            expect: Expect::always(Gpu).except(&[
                (NEWER_BY_CDI, RuntimeRefuses),
                (by(&[Way::GvisorNvproxy]), Refused(5002)),
            ]),
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "24_run_nvoci",
            why: "the image has nvoci's own directory, with links to the host in it",
            trick: |image| {
                image.link("run/nvoci/record", "/canary/secret")?;
                image.link("run/nvoci/errors", "/canary/lib")
            },
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
    ],
};

pub(crate) const DOTS: Class = Class {
    number: 26,
    attack: "trailing slashes, dots, doubled slashes in links and paths",
    decision: "as without them",
    also: &[],
    cases: &[
        Case {
            id: "26_slash",
            why: "links to the host end in a slash, or in a dot",
            trick: |image| {
                image.link("usr/local/nvidia", "/canary/nvidia/")?;
                image.link("etc/ld.so.conf.d", "/canary/ld.so.conf.d/.")
            },
            expect: UNLESS_CRUN_MOUNTS,
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "26_dots",
            why: "a link to the host has dots and doubled slashes",
            trick: |image| image.link("usr/local/./nvidia", "/../canary//./nvidia/."),
            expect: UNLESS_CRUN_MOUNTS,
            bites: CHANGES_THE_HOST,
            bites_also: &[Way::Rootless, Way::Cdi],
            ..Case::HARMLESS
        },
    ],
};
