//! The attacker wrote the image: its settings for nvoci, the kinds of devices that it requests, and
//! its own program where the driver's belongs.

use super::prelude::*;

/// The image chooses settings by `NVOCI_<KEY>` and `nvoci.dev/<key>`.
const CHOOSES: Case = Case {
    ways: REQUESTS,
    ..Case::HARMLESS
};
const EVERY_KEY: &str = "preflight = \"enforce\"\ncontainer-settings = [\"cuda-compat\", \"ipc-sockets\", \"layout\", \"no-cgroups\", \"preflight\", \"warn-stderr\"]";

/// The MPS daemon's directory is root's, and the container lists the driver directory.
const LISTS: Case = Case {
    host: |scene| {
        scene.directory_of("/tmp/nvidia-mps", 0, 0o755)?;
        scene.file("/tmp/nvidia-mps/control", "")
    },
    request: edited(lists),
    expect: Expect::always(Started),
    check: |after| {
        lists_driver(after);
        let has = after.output().contains("nvidia-mps");
        after.must(!has, "the image gave itself the daemon's pipes");
        Ok(())
    },
    ..CHOOSES
};
fn lists(spec: &mut Value) {
    program(spec, &["/bin/ls", "-R", "/usr/local/nvidia"]);
}
fn lists_driver(after: &mut After<'_, '_>) {
    let has = after.output().contains("libcuda.so.1");
    after.proves(has, "no driver: nothing is proved");
}

/// An image whose framework has no CUDA.
fn cpu_only(image: &mut Image) -> io::Result<()> {
    let version = "opt/conda/lib/python3.10/site-packages/torch/version.py";
    image.file(version, "__version__ = '2.0.1'\ncuda = None\n")
}
const CANNOT_COMPUTE: Case = Case {
    trick: cpu_only,
    expect: Expect::always(Refused(3006)),
    ..CHOOSES
};

/// Whether the driver's libcuda is in the image's own directory.
fn is_native(after: &After<'_, '_>) -> bool {
    after.image.at(LIBCUDA).symlink_metadata().is_ok()
}

pub(crate) const SETTINGS: Class = Class {
    number: 87,
    attack: "an image's variables and annotations choose settings: more than the host gives, no preflight where it is enforced, a layout, 90 kB",
    decision: "only what gives less, and what `container-settings` lists; an enforced check never",
    also: &[
        "src/request/settings.rs::nobody_widens",
        "src/request/settings.rs::enforce_is_a_floor",
    ],
    cases: &[
        Case {
            id: "87_cgroups",
            why: "the image wants device rules that the administrator turned off",
            policy: "no-cgroups = true",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=0", "NVOCI_NO_CGROUPS=false"]),
            ways: &[Way::CreateRuntime],
            expect: Expect::always(NoGpu),
            ..CHOOSES
        },
        Case {
            id: "87_sockets",
            why: "the image wants the daemons' sockets that the administrator turned off",
            policy: "ipc-sockets = false",
            request: Request {
                env: &["NVIDIA_VISIBLE_DEVICES=0", "NVOCI_IPC_SOCKETS=true"],
                edit: |spec| {
                    lists(spec);
                    spec["annotations"]["nvoci.dev/ipc-sockets"] = json!("true");
                    spec["annotations"]["io.container.manager"] = json!("libpod");
                },
            },
            ..LISTS
        },
        Case {
            id: "87_sockets_given",
            why: "nothing is forbidden and nothing chosen, so the pipes are there",
            check: |after| {
                let has = after.output().contains("nvidia-mps");
                after.proves(has, "no pipes: nothing is proved");
                Ok(())
            },
            ..LISTS
        },
        Case {
            id: "87_sockets_less",
            why: "the image wants less than the host gives",
            request: Request {
                env: &["NVIDIA_VISIBLE_DEVICES=0", "NVOCI_IPC_SOCKETS=false"],
                edit: lists,
            },
            ..LISTS
        },
        Case {
            id: "87_enforce",
            why: "the image turns off a check that the administrator enforces",
            policy: "preflight = \"enforce\"",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=0", "NVOCI_PREFLIGHT=off"]),
            ..CANNOT_COMPUTE
        },
        Case {
            id: "87_enforce_listed",
            why: "the image turns off an enforced check, where it may choose every setting",
            policy: EVERY_KEY,
            request: Request {
                env: &["NVIDIA_VISIBLE_DEVICES=0", "NVOCI_PREFLIGHT=off"],
                edit: |spec| spec["annotations"]["nvoci.dev/preflight"] = json!("warn"),
            },
            ..CANNOT_COMPUTE
        },
        Case {
            id: "87_stricter",
            why: "the image enforces a check that the administrator does not",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=0", "NVOCI_PREFLIGHT=enforce"]),
            ..CANNOT_COMPUTE
        },
        Case {
            id: "87_layout",
            why: "the image chooses its layout, which is not listed",
            request: Request {
                env: &["NVIDIA_VISIBLE_DEVICES=0", "NVOCI_LAYOUT=native"],
                edit: |spec| spec["annotations"]["nvoci.dev/layout"] = json!("native"),
            },
            check: |after| {
                let native = is_native(after);
                after.must(!native, "the image chose its layout");
                Ok(())
            },
            ..CHOOSES
        },
        Case {
            id: "87_layout_listed",
            why: "the image chooses its layout, which is listed",
            policy: "container-settings = [\"layout=native\"]",
            request: Request {
                env: &["NVIDIA_VISIBLE_DEVICES=0", "NVOCI_LAYOUT=native"],
                edit: |spec| spec["annotations"]["nvoci.dev/layout"] = json!("native"),
            },
            check: |after| {
                let native = is_native(after);
                after.proves(native, "what is listed was not chosen");
                Ok(())
            },
            ..CHOOSES
        },
        Case {
            id: "87_words",
            why: "settings have escapes, names of settings that are the host's alone, and 90 kB",
            request: Request {
                env: &[
                    "NVIDIA_VISIBLE_DEVICES=0",
                    "NVOCI_LAYOUT=\x1b[31m",
                    "NVOCI_DRIVER_ROOT=/tmp",
                    "NVOCI_MODE=cdi",
                ],
                edit: |spec| variable(spec, "NVOCI_PREFLIGHT", &"o".repeat(90_000)),
            },
            ..CHOOSES
        },
    ],
};

/// A specification of a kind on the host gives the second GPU. `edits` are those of every device.
fn with_kind(scene: &mut Scene<'_>, kind: &str, edits: &Value) -> io::Result<()> {
    let node = json!({"deviceNodes": [{"path": "/dev/nvidia1"}]});
    let devices = json!([{"name": "all", "containerEdits": node}]);
    let specification =
        json!({"cdiVersion": "0.5.0", "kind": kind, "containerEdits": edits, "devices": devices});
    scene.file("/etc/cdi/kind.json", specification.to_string())
}
fn management(scene: &mut Scene<'_>) -> io::Result<()> {
    with_kind(scene, "management.nvidia.com/gpu", &json!({}))
}
fn privileged(spec: &mut Value) {
    capability(spec, "CAP_SYS_ADMIN");
}

/// The container requests the kind of the management containers.
const MANAGES: Case = Case {
    host: management,
    request: variables(ALL),
    ways: &[Way::Entry],
    expect: Expect::always(Refused(3004)),
    ..Case::HARMLESS
};
const ALL: &[&str] = &["NVIDIA_VISIBLE_DEVICES=management.nvidia.com/gpu=all"];
const BY_ADMIN: Request = Request {
    env: ALL,
    edit: privileged,
};

/// A kind that is listed, beside a GPU of the host: the hook reads the variable that names both
/// once more, and brings the driver.
const BESIDE: Case = Case {
    policy: "accept-cdi-kinds = [\"nvidia.com/pgpu\"]",
    request: variables(&["NVIDIA_VISIBLE_DEVICES=0,nvidia.com/pgpu=all"]),
    expect: Expect::always(Started),
    questions: &[Question::present("/usr/local/nvidia/lib64/libcuda.so.1")],
    ..MANAGES
};

pub(crate) const KINDS: Class = Class {
    number: 88,
    attack: "a variable names the management kind, in an unprivileged container or with CAP_SYS_ADMIN in a user namespace of its own",
    decision: "refused; a privileged container has it",
    also: &["src/request/tests.rs::kinds_of_privileged_containers"],
    cases: &[
        Case {
            id: "88_unprivileged",
            why: "an unprivileged container requests the management kind",
            ..MANAGES
        },
        Case {
            id: "88_mixed",
            why: "an unprivileged container requests a GPU and the management kind",
            request: variables(&["NVIDIA_VISIBLE_DEVICES=0,management.nvidia.com/gpu=all"]),
            ..MANAGES
        },
        Case {
            id: "88_users_own_admin",
            why: "CAP_SYS_ADMIN over a user namespace of the container's own is no privilege",
            request: Request {
                env: ALL,
                edit: own_user_namespace,
            },
            ..MANAGES
        },
        Case {
            id: "88_other_kind",
            why: "a privileged container requests another vendor's kind",
            host: |scene| with_kind(scene, "evil.com/dev", &json!({})),
            request: Request {
                env: &["NVIDIA_VISIBLE_DEVICES=evil.com/dev=all"],
                edit: privileged,
            },
            ..MANAGES
        },
        Case {
            id: "88_turned_off",
            why: "a privileged container requests a kind that the administrator turned off",
            policy: "accept-cdi-kinds-privileged = []",
            request: BY_ADMIN,
            ..MANAGES
        },
        Case {
            id: "88_beside",
            why: "a container requests a GPU and a kind that is listed, and needs the driver too",
            host: |scene| with_kind(scene, "nvidia.com/pgpu", &json!({})),
            ..BESIDE
        },
        Case {
            id: "88_beside_void",
            why: "the same, where the kind's specification sets the variable to void",
            host: |scene| {
                let void = json!({"env": ["NVIDIA_VISIBLE_DEVICES=void"]});
                with_kind(scene, "nvidia.com/pgpu", &void)
            },
            ..BESIDE
        },
        Case {
            id: "88_privileged",
            why: "the administrator's container has the specification's devices",
            request: BY_ADMIN,
            expect: Expect::always(Started),
            check: |after| {
                let opens = after.answers.opens("dev /dev/nvidia1");
                after.proves(opens, "the management device does not open");
                Ok(())
            },
            ..MANAGES
        },
        Case {
            id: "88_no_specification",
            why: "a privileged container requests the management kind, and the host has none",
            host: |_| Ok(()),
            request: BY_ADMIN,
            expect: Expect::always(Refused(1105)),
            check: |after| {
                let names = after.messages.contains("nvoci cdi generate --mode=management");
                after.must(names, "the fix names no command");
                Ok(())
            },
            ..MANAGES
        },
    ],
};

const SMI: &str = "usr/bin/nvidia-smi";
const SCRIPT: &str = "#!/bin/sh\nexec /opt/cloud/nvidia-smi \"$@\"\n";
/// A container that needs every program of the driver.
const PROGRAMS: Case = Case {
    request: variables(&["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=all"]),
    ways: REQUESTS,
    ..Case::HARMLESS
};
/// The image has a script in the place of the program.
const SCRIPTED: Case = Case {
    trick: |image| image.file(SMI, SCRIPT),
    questions: &[
        Question::present("/usr/bin/nvidia-smi"),
        Question::present("/usr/local/nvidia/bin/nvidia-smi"),
    ],
    check: |after| {
        let [own, driver] = ["/usr/bin/nvidia-smi", "/usr/local/nvidia/bin/nvidia-smi"]
            .map(|path| after.answers.got(&format!("hash {path}")));
        after.must(
            own == driver,
            format!("the container's nvidia-smi is the image's: {own}, not {driver}"),
        );
        let is_kept = fs::read_to_string(after.image.at(SMI))? == SCRIPT;
        after.must(is_kept, "the image's own file was changed");
        Ok(())
    },
    ..PROGRAMS
};

pub(crate) const SMIS: Class = Class {
    number: 89,
    attack: "`/usr/bin/nvidia-smi` of the image is a script, a link out, a FIFO, a directory, a hard link to a host file",
    decision: "covered in the container alone, or left",
    also: &[],
    cases: &[
        Case {
            id: "89_script",
            why: "the image's nvidia-smi is a script for another machine",
            ..SCRIPTED
        },
        Case {
            id: "89_script_native",
            why: "the image's nvidia-smi is a script, in the native layout",
            policy: NATIVE,
            ..SCRIPTED
        },
        Case {
            id: "89_link",
            why: "the image's nvidia-smi is a link to a file of the host",
            trick: |image| image.link(SMI, "/canary/nvidia-smi"),
            ..PROGRAMS
        },
        Case {
            id: "89_relative",
            why: "the image's nvidia-smi is a link that climbs to a file of the host",
            trick: |image| image.link(SMI, "../../../../canary/nvidia-smi"),
            ..PROGRAMS
        },
        Case {
            id: "89_fifo",
            why: "the image's nvidia-smi is a FIFO",
            trick: |image| image.fifo(SMI),
            ..PROGRAMS
        },
        Case {
            id: "89_directory",
            why: "the image's nvidia-smi is a directory",
            trick: |image| image.directory(SMI),
            ..PROGRAMS
        },
        Case {
            id: "89_bin",
            why: "/usr/bin is a link to a directory of the host",
            trick: |image| {
                // An overlay does not rename a directory of a lower layer.
                let [bin, own] = ["usr/bin", "usr/own"].map(|path| image.at(path));
                run_shell(&format!("mv {} {}", bin.display(), own.display()))?;
                image.link("usr/bin", "/canary/bin")
            },
            ..PROGRAMS
        },
        Case {
            id: "89_hardlink",
            why: "the image's nvidia-smi is another name of a file of the host",
            trick: |image| {
                image.move_to_plain_root()?;
                image.hard_link(SMI, "/canary/nvidia-smi")
            },
            request: Request {
                env: &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=all"],
                edit: |spec| spec["root"]["path"] = json!(PLAIN_ROOT),
            },
            ways: &[Way::CreateRuntime],
            touches: &[Touch::attributes("/canary/nvidia-smi")],
            ..PROGRAMS
        },
    ],
};
