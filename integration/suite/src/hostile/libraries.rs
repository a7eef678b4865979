//! The attacker makes an image or a volume whose libcuda is another driver's, on a host that
//! refuses what cannot compute, and wants it to start.

use std::path::Path;

use super::prelude::*;

/// The libcuda of a driver that the host does not have.
fn old_driver(directory: &Path) -> io::Result<()> {
    let at = directory.display();
    run_shell(&format!(
        "mkdir -p {at} && cp \"$(find /world/drivers/*/tree -name 'libcuda.so.5*' | head -n 1)\" {at}/libcuda.so.470.256.02 && ln -s libcuda.so.470.256.02 {at}/libcuda.so.1"
    ))
}

/// It is in the image's /data/lib.
fn in_data(image: &mut Image) -> io::Result<()> {
    old_driver(&image.at("data/lib"))
}

const ENFORCE: &str = "preflight = \"enforce\"";
const FIRST: &str = "NVIDIA_VISIBLE_DEVICES=0";
const USUAL: &str = "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64";
const DATA_FIRST: &str = "LD_LIBRARY_PATH=/data/lib:/usr/local/nvidia/lib64";

/// The container cannot compute.
const ENFORCED: Case = Case {
    policy: ENFORCE,
    trick: in_data,
    ways: &[Way::CreateRuntime],
    expect: Expect::always(Refused(3006)),
    check: |after| {
        let changed = after.image.at("opt/nvidia").exists();
        after.must(!changed, "the image was changed before it was refused");
        Ok(())
    },
    ..Case::HARMLESS
};
/// The container computes, so it starts.
const COMPUTES: Case = Case {
    expect: Expect::always(Gpu),
    check: |_| Ok(()),
    ..ENFORCED
};

pub(crate) const LIBCUDAS: Class = Class {
    number: 94,
    attack: "a libcuda of another driver where the loader finds it first, at the driver's usual place in the image or in a volume too; `NVIDIA_DRIVER_CAPABILITIES=video`; with `preflight = \"enforce\"`",
    decision: "refused before a change of the image, whatever `LD_LIBRARY_PATH` is; what computes starts",
    also: &[
        "src/preflight/libcuda.rs::a_library_at_the_usual_place_hides_the_driver_elsewhere",
        "src/preflight/libcuda.rs::only_the_drivers_own_library_directory_comes_before_another",
        "src/preflight/libcuda.rs::every_place_in_which_the_loader_searches",
    ],
    cases: &[
        Case {
            id: "94_usual_place",
            why: "the image has another driver's libcuda at the driver's usual place",
            trick: |image| old_driver(&image.at("usr/local/nvidia/lib64")),
            request: variables(&[FIRST, USUAL]),
            ways: REQUESTS,
            ..ENFORCED
        },
        Case {
            id: "94_usual_volume",
            why: "a volume has another driver's libcuda at the driver's usual place",
            host: |scene| {
                scene.directory("/scratch/old")?;
                old_driver(Path::new("/scratch/old/lib64"))
            },
            trick: |_| Ok(()),
            request: Request {
                env: &[FIRST, USUAL],
                edit: |spec| bind(spec, "/usr/local/nvidia", "/scratch/old", &["rbind", "ro"]),
            },
            ..ENFORCED
        },
        Case {
            id: "94_moved",
            why: "an empty volume moves the driver directory, and the next entry is the image's",
            host: |scene| scene.directory("/scratch/empty"),
            request: Request {
                env: &[FIRST, "LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/data/lib"],
                edit: |spec| bind(spec, "/usr/local/nvidia", "/scratch/empty", &["rbind", "ro"]),
            },
            ..ENFORCED
        },
        Case {
            id: "94_first_entry",
            why: "the image's directory is between two of the driver's",
            request: variables(&[
                FIRST,
                "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/data/lib:/usr/local/nvidia/lib64",
            ]),
            ..ENFORCED
        },
        Case {
            id: "94_parents",
            why: "an entry climbs from the driver's directory to the image's",
            request: variables(&[
                FIRST,
                "LD_LIBRARY_PATH=/usr/local/nvidia/../../../data/lib:/usr/local/nvidia/lib64",
            ]),
            ..ENFORCED
        },
        Case {
            id: "94_working_directory",
            why: "an empty entry is the working directory, which has another libcuda",
            request: Request {
                env: &[FIRST, "LD_LIBRARY_PATH=/none::/usr/local/nvidia/lib64"],
                edit: |spec| spec["process"]["cwd"] = json!("/data/lib"),
            },
            ..ENFORCED
        },
        Case {
            id: "94_relative",
            why: "a relative entry, with a semicolon after it, leads to another libcuda",
            request: Request {
                env: &[FIRST, "LD_LIBRARY_PATH=lib;/usr/local/nvidia/lib64"],
                edit: |spec| spec["process"]["cwd"] = json!("/data"),
            },
            ..ENFORCED
        },
        Case {
            id: "94_origin",
            why: "an entry begins at the program's own directory",
            request: variables(&[
                FIRST,
                "LD_LIBRARY_PATH=$ORIGIN/../../../../data/lib:/usr/local/nvidia/lib64",
            ]),
            ..ENFORCED
        },
        Case {
            id: "94_many",
            why: "300 entries that are not there come before the image's",
            request: edited(|spec| {
                let none: String = (1..=300).map(|number| format!("/none/{number}:")).collect();
                let path = format!("{none}/data/lib:/usr/local/nvidia/lib64");
                variable(spec, "LD_LIBRARY_PATH", &path);
            }),
            ..ENFORCED
        },
        Case {
            id: "94_processor",
            why: "the libcuda is in a directory for newer processors, which the loader searches first",
            trick: |image| old_driver(&image.at("data/lib/glibc-hwcaps/x86-64-v2")),
            request: variables(&[FIRST, DATA_FIRST]),
            ..ENFORCED
        },
        Case {
            id: "94_broken",
            why: "the libcuda that the loader finds first is empty",
            trick: |image| image.file("data/lib/libcuda.so.1", ""),
            request: variables(&[FIRST, DATA_FIRST]),
            ..ENFORCED
        },
        Case {
            id: "94_video",
            why: "the container requests video alone, which needs libcuda too",
            request: variables(&[FIRST, DATA_FIRST, "NVIDIA_DRIVER_CAPABILITIES=video"]),
            ..ENFORCED
        },
        Case {
            id: "94_driver_first",
            why: "the driver directory comes first",
            request: variables(&[
                FIRST,
                "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64:/data/lib",
            ]),
            ..COMPUTES
        },
        Case {
            id: "94_driver_spelled",
            why: "the driver directory comes first, with dots and doubled slashes",
            request: variables(&[
                FIRST,
                "LD_LIBRARY_PATH=//usr/local/./nvidia/lib/../lib64/:/data/lib",
            ]),
            ..COMPUTES
        },
        Case {
            id: "94_driver_linked",
            why: "a link to the driver directory comes first",
            trick: |image| {
                in_data(image)?;
                image.link("driver", "/usr/local/nvidia/lib64")
            },
            request: variables(&[FIRST, "LD_LIBRARY_PATH=/driver:/data/lib"]),
            ..COMPUTES
        },
        Case {
            id: "94_elsewhere",
            why: "the image has a file at the driver's usual place, and no driver there",
            trick: |image| image.file("usr/local/nvidia/lib64/other", ""),
            request: variables(&[FIRST, USUAL]),
            ..COMPUTES
        },
        Case {
            id: "94_twice",
            why: "a second hook finds the first one's driver",
            trick: |_| Ok(()),
            request: Request {
                env: &[FIRST, USUAL],
                edit: hook_twice,
            },
            ..COMPUTES
        },
    ],
};

pub(crate) const OTHER_DEFINITION: Class = Class {
    number: 95,
    attack: "the hook of nvoci's runtime reads another definition than the runtime edited (`crun --config`)",
    decision: "refused, instead of nodes without a driver",
    also: &["tests/hook.rs::a_definition_that_the_runtime_did_not_edit"],
    cases: &[Case {
        id: "95_another_definition",
        why: "the hook of nvoci's runtime is in a definition that requests nothing",
        request: Request {
            env: &["A=b"],
            edit: |spec| {
                let stages = spec["hooks"].as_object_mut().into_iter();
                for (stage, hooks) in stages.flatten() {
                    for hook in hooks.as_array_mut().into_iter().flatten() {
                        hook["args"] = json!(["nvoci", "hook", "--devices-in-spec", stage]);
                    }
                }
            },
        },
        ways: &[Way::CreateRuntime],
        expect: Expect::always(Refused(1102)),
        ..Case::HARMLESS
    }],
};
