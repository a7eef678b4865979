//! The attacker writes the variables and annotations by which a container requests devices and
//! features.

use super::prelude::*;

/// A variable requests devices that nobody may have.
const DEVICES: Case = Case {
    ways: USERS_REQUESTS,
    expect: Expect::always(Refused(3004)),
    ..Case::HARMLESS
};
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";

pub(crate) const LISTS: Class = Class {
    number: 13,
    attack: "device lists: 100 kB, commas, newlines, `../`, other vendors, management, negative, 2^32",
    decision: "refused; never part of a path",
    also: &[],
    cases: &[
        Case {
            id: "13_climbing",
            why: "a device's name climbs from /dev to a secret of the host",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=-caps/../../canary/secret"]),
            questions: &[Question::contents("/dev/secret")],
            bites: GETS_A_SECRET,
            ..DEVICES
        },
        Case {
            id: "13_long",
            why: "a device's name has 100,000 characters",
            request: request(|spec| variable(spec, VISIBLE, &"0".repeat(100_000))),
            bites: STARTS,
            ..DEVICES
        },
        Case {
            id: "13_commas",
            why: "a list has 100,000 commas and no device",
            request: request(|spec| variable(spec, VISIBLE, &",".repeat(100_000))),
            ..DEVICES
        },
        Case {
            id: "13_numbers",
            why: "a list has 20,001 devices",
            request: request(|spec| {
                let numbers: Vec<String> = (0..=20_000).map(|number| number.to_string()).collect();
                variable(spec, VISIBLE, &numbers.join(","));
            }),
            ..DEVICES
        },
        Case {
            id: "13_newline",
            why: "a value has a line feed, and another request in its second line",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=0\nNVIDIA_VISIBLE_DEVICES=all"]),
            ..DEVICES
        },
        Case {
            id: "13_control",
            why: "a value clears the screen of whoever reads the error",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=0\x1b[2J\x07,7"]),
            ..DEVICES
        },
        Case {
            id: "13_semicolon",
            why: "a value is two commands for a shell",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=all;touch /canary/x"]),
            ..DEVICES
        },
        Case {
            id: "13_other_vendor",
            why: "a device of another vendor is named, which a naive tool takes for a node of /dev",
            request: Request {
                env: &["NVIDIA_VISIBLE_DEVICES=evil.com/dev=full"],
                edit: |spec| {
                    let full = json!({"allow": false, "type": "c", "major": 1, "minor": 7, "access": "rwm"});
                    push(&mut spec["linux"]["resources"]["devices"], full);
                },
            },
            bites: STARTS,
            ..DEVICES
        },
        Case {
            id: "13_management",
            why: "the kind of the management containers is requested",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=management.nvidia.com/gpu=all"]),
            ..DEVICES
        },
        Case {
            id: "13_huge_index",
            why: "an index is 2^32, which is 0 in 32 bits",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=4294967296"]),
            bites: STARTS,
            ..DEVICES
        },
        Case {
            id: "13_negative",
            why: "an index is negative, as in an option",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=-1"]),
            bites: STARTS,
            ..DEVICES
        },
    ],
};

/// The first GPU, and more that the container may not have.
const MORE: Case = Case {
    ways: REQUESTS,
    ..Case::HARMLESS
};
const REQUIRES: Case = Case {
    expect: Expect::always(Refused(3004)),
    ..MORE
};

pub(crate) const REQUIREMENTS: Class = Class {
    number: 15,
    attack: "requirements: shell words, 50,000 parentheses, 2,000 of them, 4,000 digits",
    decision: "linear, short words",
    also: &[],
    cases: &[
        Case {
            id: "15_command",
            why: "a requirement is an expression in which a shell runs a command",
            request: variables(&[
                "NVIDIA_VISIBLE_DEVICES=0",
                "NVIDIA_REQUIRE_CUDA=cuda>=a[$(>/canary/required)0]",
            ]),
            bites: CHANGES_THE_HOST,
            ..REQUIRES
        },
        Case {
            id: "15_nested",
            why: "a requirement has 50,000 parentheses",
            request: edited(|spec| {
                let (open, close) = ("(".repeat(50_000), ")".repeat(50_000));
                variable(spec, "NVIDIA_REQUIRE_CUDA", &format!("{open}a+{close}+"));
            }),
            ..REQUIRES
        },
        Case {
            id: "15_many",
            why: "there are 2,000 requirements",
            request: edited(|spec| {
                let names = (1..=2000).map(|number| format!("NVIDIA_REQUIRE_X{number}"));
                names.for_each(|name| variable(spec, &name, "cuda>=1"));
            }),
            ..REQUIRES
        },
        Case {
            id: "15_versions",
            why: "a requirement's version has two numbers of 4,000 digits",
            request: edited(|spec| {
                let digits = "9".repeat(4000);
                variable(spec, "NVIDIA_REQUIRE_CUDA", &format!("cuda>={digits}.{digits}"));
            }),
            ..REQUIRES
        },
    ],
};

pub(crate) const GATED: Class = Class {
    number: 16,
    attack: "GDS, MOFED, NVSwitch, GDRCopy, MIG rights, IMEX channels without privilege",
    decision: "left out with a note, or refused",
    also: &[],
    cases: &[
        Case {
            id: "16_features",
            why: "variables enable features that only a privileged container may have",
            request: variables(&[
                "NVIDIA_VISIBLE_DEVICES=0",
                "NVIDIA_GDS=enabled",
                "NVIDIA_MOFED=enabled",
                "NVIDIA_NVSWITCH=enabled",
                "NVIDIA_GDRCOPY=enabled",
            ]),
            questions: &[
                Question::number("240:0", &["refused"]),
                Question::device("/dev/nvidia-fs0", &["absent"]),
            ],
            ..MORE
        },
        Case {
            id: "16_mig",
            why: "a variable requests the right to configure MIG",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_MIG_CONFIG_DEVICES=all"]),
            questions: &[Question::device("/dev/nvidia-caps/nvidia-cap1", &["absent"])],
            ..MORE
        },
        Case {
            id: "16_imex",
            why: "a variable requests IMEX channels: the first, a negative one, and 2^32",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_IMEX_CHANNELS=0,-1,4294967296"]),
            questions: &[Question::device(
                "/dev/nvidia-caps-imex-channels/channel0",
                &["absent"],
            )],
            ..MORE
        },
    ],
};

/// The capabilities are none.
const CAPABILITIES: Case = Case {
    ways: USERS_REQUESTS,
    expect: Expect::always(Refused(3002)),
    ..Case::HARMLESS
};

pub(crate) const WORDS: Class = Class {
    number: 17,
    attack: "`NVIDIA_DRIVER_CAPABILITIES` with options, commands, 90 kB",
    decision: "only known words",
    also: &[],
    cases: &[
        Case {
            id: "17_words",
            why: "a capability is followed by a command for a shell",
            request: variables(&[
                "NVIDIA_VISIBLE_DEVICES=0",
                "NVIDIA_DRIVER_CAPABILITIES=compute;touch /canary/capable",
            ]),
            bites: CHANGES_THE_HOST,
            ..CAPABILITIES
        },
        Case {
            id: "17_option",
            why: "a capability is an option for a program",
            request: variables(&[
                "NVIDIA_VISIBLE_DEVICES=0",
                "NVIDIA_DRIVER_CAPABILITIES=all,--root=/x",
            ]),
            ..CAPABILITIES
        },
        Case {
            id: "17_long",
            why: "a capability has 90,000 characters",
            request: edited(|spec| {
                let long = "u".repeat(90_000);
                variable(spec, "NVIDIA_DRIVER_CAPABILITIES", &format!("compute,{long}"));
            }),
            expect: Expect::always(Refused(3004)),
            ..CAPABILITIES
        },
    ],
};

pub(crate) const ESCAPES: Class = Class {
    number: 48,
    attack: "terminal escapes in values",
    decision: "escaped wherever they are said",
    also: &[],
    cases: &[Case {
        id: "48_words",
        why: "variables have escapes that set a terminal's title, and clear it",
        request: variables(&[
            "NVIDIA_VISIBLE_DEVICES=7\x1b]0;evil\x07\x1b[2J%n",
            "NVIDIA_REQUIRE_X=\x1b[1m",
        ]),
        ways: &[Way::Direct, Way::RootlessDirect],
        expect: Expect::always(Refused(3004)),
        bites: Bite::Guilty(Kind::Words),
        ..Case::HARMLESS
    }],
};

/// The container has GPU 0, and reaches for GPU 1, which the host has too.
const REACHES: Case = Case {
    ways: BUT_CDI,
    ..Case::HARMLESS
};

pub(crate) const ISOLATION: Class = Class {
    number: 90,
    attack: "a container that has one GPU reaches for another: by `mknod`, procfs, a second request, a node in the image",
    decision: "the other GPU does not open, and is not in sight",
    also: &[],
    cases: &[
        Case {
            id: "90_mknod",
            why: "the container makes the node of the other GPU",
            ..REACHES
        },
        Case {
            id: "90_procfs",
            why: "the container reads the other GPU's information",
            questions: &[Question::missing(
                "/proc/driver/nvidia/gpus/0000:07:00.0/information",
            )],
            ..REACHES
        },
        Case {
            id: "90_twice_named",
            why: "the variable is there twice; the last one counts, as in a process",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=0"]),
            ways: USERS_REQUESTS,
            ..REACHES
        },
        Case {
            id: "90_annotation",
            why: "annotations name the other GPU at the hook, which no engine wrote them for",
            request: edited(|spec| {
                for prefix in ["cdi.k8s.io/x", "nvidia.cdi.k8s.io/x"] {
                    spec["annotations"][prefix] = json!("nvidia.com/gpu=1");
                }
            }),
            ways: &[Way::CreateRuntime, Way::Rootless],
            bites: Bite::Guilty(Kind::ForeignGpu),
            ..REACHES
        },
        Case {
            id: "90_volume_list",
            why: "a mount in the device plugin's list names the other GPU",
            request: edited(|spec| {
                let at = "/var/run/nvidia-container-devices/1";
                bind(spec, at, "/dev/null", &["bind"]);
            }),
            ways: USERS_REQUESTS,
            ..REACHES
        },
        Case {
            id: "90_other_vendor",
            why: "a device of another vendor has the name of the other GPU's node",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=0,other.com/gpu=nvidia1"]),
            ways: USERS_REQUESTS,
            expect: Expect::always(Refused(3004)),
            bites: STARTS,
            ..REACHES
        },
        Case {
            id: "90_image_node",
            why: "the image has nodes of the other GPU, in /dev and elsewhere",
            trick: |image| {
                image.character_device("dev/nvidia1", 195, 1)?;
                image.character_device("other", 195, 1)
            },
            questions: &[Question::device("/other", &["refused", "errno-13"])],
            ..REACHES
        },
        Case {
            id: "90_second_injection",
            why: "the definition has the hook twice",
            request: edited(hook_twice),
            ways: &[Way::CreateRuntime, Way::Rootless],
            ..REACHES
        },
    ],
};
