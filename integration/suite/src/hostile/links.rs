//! The attacker made the image: its directories and files are links that lead out of it.

use super::prelude::*;

/// The watcher's own proof runs this case too.
pub(crate) const LINK_OUT: Case = Case {
    id: "01_nvidia",
    why: "the driver directory is a link to a directory of the host",
    trick: |image| image.link("usr/local/nvidia", "/canary/nvidia"),
    expect: UNLESS_CRUN_MOUNTS,
    bites: CHANGES_THE_HOST,
    ..Case::HARMLESS
};

pub(crate) const ABSOLUTE: Class = Class {
    number: 1,
    attack: "`/usr/lib`, `/usr/local`, `/usr/local/nvidia` is an absolute link out",
    decision: "resolved inside the root, or the next place",
    also: &[],
    cases: &[
        Case {
            id: "01_usr_lib",
            has_loader: false,
            why: "`/usr/lib` is a link to a directory of the host",
            policy: NATIVE,
            trick: |image| image.link("usr/lib", "/canary/lib"),
            expect: UNLESS_CRUN_MOUNTS,
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "01_usr_local",
            why: "`/usr/local` is a link to a directory of the host",
            trick: |image| image.link("usr/local", "/canary"),
            expect: UNLESS_CRUN_MOUNTS,
            bites: CHANGES_THE_HOST,
            bites_also: &[Way::Rootless, Way::Cdi, Way::GvisorNvproxy],
            ..Case::HARMLESS
        },
        LINK_OUT,
    ],
};

pub(crate) const RELATIVE: Class = Class {
    number: 2,
    attack: "relative links that climb out",
    decision: "clamped at the root",
    also: &[],
    cases: &[
        Case {
            id: "02_libdir",
            has_loader: false,
            why: "the library directory is a link that climbs above the image's root",
            policy: NATIVE,
            trick: |image| image.link(LIBRARIES, "../../../../../../../../canary/lib"),
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "02_usr_local",
            why: "`/usr/local` is a link that climbs above the image's root",
            trick: |image| image.link("usr/local", "../../../../../../../../canary"),
            expect: UNLESS_CRUN_MOUNTS,
            bites: CHANGES_THE_HOST,
            bites_also: &[Way::Rootless],
            ..Case::HARMLESS
        },
    ],
};

/// runc 1.1 follows the link; our hook for the loader cache does not.
const ETC_BY_CDI: Expect =
    Expect::always(Gpu).except(&[(NEWER_BY_CDI, RuntimeRefuses), (by(&[Way::Cdi]), Refused(4003))]);

pub(crate) const MAGIC: Class = Class {
    number: 3,
    attack: "links through `/proc/self/root`, `/proc/self/cwd`, `/proc/1/root`",
    decision: "magic links refused",
    also: &[],
    cases: &[
        Case {
            id: "03_etc_self",
            has_loader: false,
            why: "`/etc` is a link through the root of the process that resolves it",
            trick: |image| image.link("etc", "/proc/self/root/canary"),
            expect: Expect::always(Gpu).except(&[
                (NEWER_BY_CDI, RuntimeRefuses),
                (by(&[Way::Cdi]), Refused(4003)),
                (by(&[Way::Gvisor]), RuntimeRefuses),
            ]),
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "03_etc_cwd",
            has_loader: false,
            why: "`/etc` is a link through the working directory of the process that resolves it",
            trick: |image| image.link("etc", "/proc/self/cwd/../../../../../../canary"),
            expect: ETC_BY_CDI,
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "03_local_init",
            why: "`/usr/local` is a link through the root of process 1",
            trick: |image| image.link("usr/local", "/proc/1/root/canary"),
            expect: UNLESS_NEWER_MOUNTS,
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
    ],
};

pub(crate) const LIBRARY: Class = Class {
    number: 4,
    attack: "the library's place is a link to a host file, dangling, or a loop",
    decision: "replaced or left, never followed",
    also: &[],
    cases: &[
        Case {
            id: "04_host_file",
            why: "`libcuda.so.1` is a link to a file of the host",
            policy: NATIVE,
            trick: |image| image.link(LIBCUDA, "/canary/secret"),
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "04_dangling",
            why: "`libcuda.so.1` is a link to a file of the host that would be made",
            policy: NATIVE,
            trick: |image| image.link(LIBCUDA, "/canary/lib/new"),
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "04_loop",
            why: "`libcuda.so.1` is a link to itself",
            policy: NATIVE,
            trick: |image| image.link(LIBCUDA, "libcuda.so.1"),
            bites: FAILS,
            ..Case::HARMLESS
        },
    ],
};
