//! The attacker wrote the image's environment. It reaches a hook only where an old runc starts the
//! hook without an environment of its own.

use super::prelude::*;

/// The hook has no environment of its own.
fn bare_hooks(spec: &mut Value) {
    for hooks in spec["hooks"]
        .as_object_mut()
        .into_iter()
        .flat_map(|stages| stages.values_mut())
    {
        for hook in hooks.as_array_mut().into_iter().flatten() {
            hook.as_object_mut().map(|hook| hook.shift_remove("env"));
        }
    }
}

const LATE: &[Way] = &[
    Way::CreateContainer,
    Way::Rootless,
    Way::Cdi,
    Way::Gvisor,
    Way::GvisorNvproxy,
];

pub(crate) const PRELOAD: Class = Class {
    number: 11,
    attack: "`LD_PRELOAD`, `LD_AUDIT`, `GLIBC_TUNABLES` of the image with an old runc",
    decision: "a static program",
    also: &[],
    cases: &[
        Case {
            id: "11_preload",
            why: "the image's variables name a library that the loader would load into the hook",
            trick: |image| image.copy("evil.so", "/world/hostile/evil.so"),
            request: Request {
                env: &[
                    "NVIDIA_VISIBLE_DEVICES=0",
                    "LD_PRELOAD=/proc/self/cwd/evil.so",
                    "LD_AUDIT=/proc/self/cwd/evil.so",
                    "LD_LIBRARY_PATH=/proc/self/cwd",
                    "GCONV_PATH=/proc/self/cwd",
                ],
                edit: bare_hooks,
            },
            ways: LATE,
            bites: CHANGES_THE_HOST,
            ..Case::HARMLESS
        },
        Case {
            id: "11_tunables",
            why: "the image's variables tune glibc, and name its locale",
            trick: |image| image.copy("evil.so", "/world/hostile/evil.so"),
            request: Request {
                env: &[
                    "NVIDIA_VISIBLE_DEVICES=0",
                    "GLIBC_TUNABLES=glibc.malloc.check=3",
                    "LOCPATH=/proc/self/cwd",
                    "LANG=evil",
                    "LD_PRELOAD=/evil.so",
                ],
                edit: bare_hooks,
            },
            ways: LATE,
            ..Case::HARMLESS
        },
    ],
};

pub(crate) const CONFIGURED: Class = Class {
    number: 12,
    attack: "configuration, log, `PATH`, `HOME` by the image's environment",
    decision: "never read",
    also: &[],
    cases: &[Case {
        id: "12_config_path",
        why: "the image's variables name a configuration, a log and a directory of programs",
        trick: |image| {
            use std::os::unix::fs::PermissionsExt;
            let policy = "log-file = \"/canary/log\"\nlog-level = \"trace\"\n";
            image.file("evil.toml", policy)?;
            image.file("modprobe", "#!/bin/sh\n>/canary/path\n")?;
            fs::set_permissions(image.at("modprobe"), fs::Permissions::from_mode(0o755))
        },
        request: Request {
            env: &[
                "NVIDIA_VISIBLE_DEVICES=0",
                "NVIDIA_CTK_CONFIG_FILE_PATH=/proc/self/cwd/evil.toml",
                "XDG_CONFIG_HOME=/proc/self/cwd",
                "NVOCI_CONFIG=/proc/self/cwd/evil.toml",
                "NVOCI_LOG=/proc/self/cwd/evil.toml",
                "HOME=/proc/self/cwd",
                "TMPDIR=/proc/self/cwd",
                "RUST_LOG=trace",
                "RUST_BACKTRACE=full",
                "PATH=/proc/self/cwd:/usr/sbin:/usr/bin:/sbin:/bin",
            ],
            edit: bare_hooks,
        },
        ways: LATE,
        bites: CHANGES_THE_HOST,
        ..Case::HARMLESS
    }],
};

/// Variables request devices of a host whose policy does not accept them.
const NOT_ACCEPTED: Case = Case {
    policy: CLOSED,
    ways: REQUESTS,
    expect: Expect::always(NoGpu),
    ..Case::HARMLESS
};
const GETS_A_GPU: Bite = Bite::Guilty(Kind::ForeignGpu);

pub(crate) const POLICY: Class = Class {
    number: 14,
    attack: "`all`, an index, `none`, `void`, nothing, and the policy is off",
    decision: "no GPU",
    also: &[],
    cases: &[
        Case {
            id: "14_all",
            why: "a variable requests all GPUs, and the policy does not accept variables",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=all"]),
            bites: GETS_A_GPU,
            ..NOT_ACCEPTED
        },
        Case {
            id: "14_index",
            why: "a variable requests a GPU, and the policy does not accept variables",
            bites: GETS_A_GPU,
            ..NOT_ACCEPTED
        },
        Case {
            id: "14_none",
            why: "a variable requests none, and the policy does not accept variables",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=none"]),
            ..NOT_ACCEPTED
        },
        Case {
            id: "14_void",
            why: "a variable requests void, and the policy accepts variables",
            policy: "",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=void"]),
            ..NOT_ACCEPTED
        },
        Case {
            id: "14_empty",
            why: "a variable is empty, and the policy accepts variables",
            policy: "",
            request: variables(&["NVIDIA_VISIBLE_DEVICES="]),
            ..NOT_ACCEPTED
        },
        Case {
            id: "14_legacy_image",
            why: "an old CUDA image requests all GPUs by its CUDA version alone",
            request: variables(&["CUDA_VERSION=12.4.1", "NVIDIA_REQUIRE_CUDA=cuda>=12.0"]),
            ..NOT_ACCEPTED
        },
        Case {
            id: "14_users_own_admin",
            why: "CAP_SYS_ADMIN over a user namespace of the container's own is no right over the host",
            trick: |image| image.give_to_shifted_root(),
            request: Request {
                env: &["NVIDIA_VISIBLE_DEVICES=all"],
                edit: own_user_namespace,
            },
            ways: &[Way::CreateRuntime],
            ..NOT_ACCEPTED
        },
    ],
};
