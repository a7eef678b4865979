//! The command line of `nvoci cdi generate`, and the variables that may stand for it.
//!
//! Names, aliases and variables are those of `nvidia-ctk cdi generate` 1.20
//! (`facts/toolkit-features.md` 1.3), with more of nvoci's own.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::cdi::explicit::Mode;
use crate::cdi::generate::{CHMOD, Explicit, Naming};
use crate::cdi::read::Format;
use crate::cmd::cli::{Command, Page, flag};
use crate::cmd::variables;
use crate::host::tegra;

/// The options of the command.
#[derive(Default)]
pub(super) struct Generate {
    pub(super) output: Option<PathBuf>,
    pub(super) format: Option<Format>,
    pub(super) explicit: bool,
    pub(super) mode: Option<Mode>,
    /// The host must be WSL2.
    pub(super) only_wsl: bool,
    /// Mode csv alone.
    pub(super) csv: tegra::Choice,
    pub(super) naming: Vec<Naming>,
    pub(super) no_all: bool,
    pub(super) vendor: Option<String>,
    pub(super) class: Option<String>,
    pub(super) driver_root: Option<PathBuf>,
    pub(super) dev_root: Option<PathBuf>,
    pub(super) library_dirs: Vec<PathBuf>,
    pub(super) hook_path: Option<String>,
    pub(super) additional_gids: bool,
    pub(super) create_nodes: bool,
    pub(super) config: Option<PathBuf>,
    /// Empty for all.
    pub(super) ids: Vec<String>,
    pub(super) only_explicit: Explicit,
}

pub(super) static GENERATE: Command<Generate> = Command {
    page: Page {
        name: "nvoci cdi generate",
        summary: "write the specification of this host",
        about: &[
            "Writes the CDI specification of this host.",
            "The specification names devices and one hook, which finds the driver when a container starts: it \
             stays right over driver updates, and may be there before the driver is.",
            "Every option of the NVIDIA Container Toolkit may come from its variable instead: \
             NVIDIA_CTK_CDI_OUTPUT_FILE_PATH and so on.",
        ],
        ..Page::EMPTY
    },
    flags: &[
        flag(
            "output",
            "write to FILE (.yaml or .json) instead of standard output",
        )
        .more("It is readable by all, and replaced at once.")
        .variable("NVIDIA_CTK_CDI_OUTPUT_FILE_PATH")
        .value("FILE", |g, file| {
            g.output = Some(absolute(&file)?);
            Ok(())
        }),
        flag(
            "format",
            "the format (default: that of the file's name, else yaml)",
        )
        .values(&["yaml", "json"])
        .variable("NVIDIA_CTK_CDI_GENERATE_OUTPUT_FORMAT")
        .text("", |g, word| {
            g.format = Some(match word.to_ascii_lowercase().as_str() {
                "yaml" => Format::Yaml,
                "json" => Format::Json,
                other => return Err(format!("`{other}` is neither yaml nor json")),
            });
            Ok(())
        }),
        flag("static", "name every driver file, for gVisor, toolbx and Kata")
            .more("Right for one driver version.")
            .switch(|g| g.explicit = true),
        flag(
            "mode",
            "auto, csv, management, gds, mofed, gdrcopy, nvswitch or imex",
        )
        .values(&[
            "auto",
            "csv",
            "management",
            "gds",
            "mofed",
            "gdrcopy",
            "nvswitch",
            "imex",
        ])
        .more("All but auto are static.")
        .aliases(&["discovery-mode"])
        .variable("NVIDIA_CTK_CDI_GENERATE_MODE")
        .text("MODE", |g, word| {
            g.only_wsl = word.eq_ignore_ascii_case("wsl");
            g.mode = mode_of(&word)?;
            Ok(())
        }),
        flag(
            "device-name-strategy",
            "how devices are named (default index and uuid)",
        )
        .values(&["index", "uuid", "type-index"])
        .variable("NVIDIA_CTK_CDI_GENERATE_DEVICE_NAME_STRATEGIES")
        .list("", |g, word| {
            g.naming.push(match word {
                "index" => Naming::Index,
                "uuid" => Naming::Uuid,
                "type-index" => Naming::TypeIndex,
                other => return Err(format!("`{other}` is not index, uuid or type-index")),
            });
            Ok(())
        }),
        flag("device-id", "only this device: index, GPU:MIG or UUID")
            .more("`none` is a device that gives nothing.")
            .aliases(&["device-ids", "device", "devices"])
            .variable("NVIDIA_CTK_CDI_GENERATE_DEVICE_IDS")
            .list("ID", |g, id| {
                g.ids.push(id.to_owned());
                Ok(())
            }),
        flag("no-all-device", "leave the device `all` out")
            .variable("NVIDIA_CTK_CDI_GENERATE_NO_ALL_DEVICE")
            .toggle(|g, on| g.no_all = on),
        flag("vendor", "the devices' vendor (default nvidia.com)")
            .aliases(&["cdi-vendor"])
            .variable("NVIDIA_CTK_CDI_GENERATE_VENDOR")
            .text("VENDOR", |g, vendor| {
                g.vendor = Some(vendor);
                Ok(())
            }),
        flag("class", "the devices' class (default gpu)")
            .aliases(&["cdi-class"])
            .variable("NVIDIA_CTK_CDI_GENERATE_CLASS")
            .text("CLASS", |g, class| {
                g.class = Some(class);
                Ok(())
            }),
        flag("driver-root", "the driver's root directory")
            .variable("NVIDIA_CTK_DRIVER_ROOT")
            .value("DIR", |g, dir| {
                g.driver_root = Some(absolute(&dir)?);
                Ok(())
            }),
        flag("dev-root", "the root directory of the device nodes")
            .variable("NVIDIA_CTK_DEV_ROOT")
            .value("DIR", |g, dir| {
                g.dev_root = Some(absolute(&dir)?);
                Ok(())
            }),
        flag(
            "hook-path",
            "the hook (default /usr/bin/nvoci; with --static /usr/bin/nvidia-cdi-hook)",
        )
        .aliases(&["nvidia-cdi-hook-path", "nvidia-ctk-path"])
        .variable("NVIDIA_CTK_CDI_HOOK_PATH")
        .text("FILE", |g, file| {
            if !file.starts_with('/') {
                return Err(format!("`{file}` is not an absolute path"));
            }
            g.hook_path = Some(file);
            Ok(())
        }),
        flag(
            "additional-gids",
            "add containers to the groups of nodes that not everybody may open",
        )
        .more("Needs CDI 0.7.0.")
        .switch(|g| {
            g.additional_gids = true;
        }),
        flag(
            "create-nodes",
            "first load the driver's modules and make its missing device nodes",
        )
        .switch(|g| {
            g.create_nodes = true;
        }),
        flag("config", "use another configuration")
            .variable("NVIDIA_CTK_CONFIG")
            .value("FILE", |g, file| {
                g.config = Some(absolute(&file)?);
                Ok(())
            }),
        // A path may hold a comma (toolkit-features 12, quirk 5).
        flag("library-search-path", "find the driver's libraries there first")
            .repeatable()
            .variable("NVIDIA_CTK_CDI_GENERATE_LIBRARY_SEARCH_PATHS")
            .value("DIR", |g, dir| {
                g.library_dirs.push(absolute(&dir)?);
                Ok(())
            }),
        flag("config-search-path", "accepted without effect")
            .hidden()
            .variable("NVIDIA_CTK_CDI_GENERATE_CONFIG_SEARCH_PATHS")
            .text("DIR", |_, _| {
                warn("--config-search-path has no effect: the driver's own places are searched");
                Ok(())
            }),
        flag("csv.file", "with mode csv: read this list")
            .more("Default: devices.csv, drivers.csv and l4t.csv of the configured directory.")
            .group(CSV)
            .variable("NVIDIA_CTK_CDI_GENERATE_CSV_FILES")
            .list("FILE", |g, file| {
                g.csv.files.push(absolute(file.as_ref())?);
                Ok(())
            }),
        flag(
            "csv.ignore-pattern",
            "leave links out whose path fits, or with **/ whose name fits",
        )
        .group(CSV)
        .variable("NVIDIA_CTK_CDI_GENERATE_CSV_IGNORE_PATTERNS")
        .list("PATTERN", |g, pattern| {
            g.csv.ignored.push(pattern.to_owned());
            Ok(())
        }),
        flag(
            "csv.compat-container-root",
            "where images have CUDA's compatibility libraries (default on Orin: /usr/local/cuda/compat_orin)",
        )
        .group(CSV)
        .variable("NVIDIA_CTK_CDI_GENERATE_CSV_CONTAINER_COMPAT_ROOT")
        .text("DIR", |g, dir| {
            g.only_explicit.csv_compat = Some(dir).filter(|dir| !dir.is_empty());
            Ok(())
        }),
        flag("disable-hook", "leave a hook out")
            .aliases(&["disable-hooks"])
            .group(STATIC)
            .variable("NVIDIA_CTK_CDI_GENERATE_DISABLED_HOOKS")
            .list("NAME|all", |g, name| g.set_hook(name, false)),
        flag("enable-hook", "add a hook")
            .aliases(&["enable-hooks"])
            .group(STATIC)
            .variable("NVIDIA_CTK_CDI_GENERATE_ENABLED_HOOKS")
            .list("NAME", |g, name| g.set_hook(name, true)),
        flag("ldconfig-path", "the container's ldconfig")
            .group(STATIC)
            .variable("NVIDIA_CTK_CDI_GENERATE_LDCONFIG_PATH")
            .text("FILE", |g, file| {
                g.explicit = true;
                g.only_explicit.ldconfig = Some(file);
                Ok(())
            }),
        flag(
            "feature-flag",
            "`disable-ipc-discoverer` leaves the daemons' sockets out",
        )
        .more("`disable-multiple-csv-devices` makes one device in mode csv.")
        .aliases(&["feature-flags"])
        .group(STATIC)
        .variable("NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS")
        .list("FLAG", |g, flag| {
            g.set_feature(flag);
            Ok(())
        }),
    ],
    variables: variables::of,
    ..Command::of(|mut flags: Generate| {
        flags.settle();
        super::generate(&flags)
    })
};

/// The heading of the flags of mode csv.
const CSV: &str = "Lists of a Jetson's driver files, without effect in other modes";

/// The heading of the flags that make the specification static.
const STATIC: &str = "Hooks and mounts of the static form, which these imply";

/// The hooks of the static form.
const HOOKS: [&str; 6] = [
    CHMOD,
    "create-symlinks",
    "disable-device-node-modification",
    "enable-cuda-compat",
    "update-application-profile",
    "update-ldcache",
];

/// Flags without effect: nvoci never loads `libnvidia-sandboxutils`, and joins groups only with
/// `--additional-gids`.
const NO_EFFECT: [&str; 3] = [
    "disable-nvsandboxutils",
    "disable-nvsandbox-utils",
    "no-additional-gids-for-device-nodes",
];

impl Generate {
    /// Turns `all` into no selection.
    fn settle(&mut self) {
        if self.ids.iter().any(|id| id == "all") {
            self.ids.clear();
        }
    }

    fn set_hook(&mut self, name: &str, on: bool) -> Result<(), String> {
        if on && name == "all" {
            return Err("enabling all hooks is not supported".to_owned());
        }
        if name != "all" && !HOOKS.contains(&name) {
            warn(&format!(
                "there is no hook `{name}`; there are {}",
                HOOKS.join(", ")
            ));
        }
        let list = if on {
            &mut self.only_explicit.enabled_hooks
        } else {
            &mut self.only_explicit.disabled_hooks
        };
        list.push(name.to_owned());
        self.explicit = true;
        Ok(())
    }

    fn set_feature(&mut self, flag: &str) {
        if flag == "disable-ipc-discoverer" {
            self.explicit = true;
            self.only_explicit.no_sockets = true;
        } else if flag == "disable-multiple-csv-devices" {
            self.only_explicit.csv_single = true;
        } else if !NO_EFFECT.contains(&flag) {
            warn(&format!("the feature flag `{flag}` has no effect"));
        }
    }
}

fn warn(text: &str) {
    crate::cmd::inject::warn(&[text.to_owned()]);
}

pub(super) fn absolute(value: &OsStr) -> Result<PathBuf, String> {
    std::path::absolute(value).map_err(|e| format!("`{}`: {e}", value.display()))
}

/// `nvml` and `wsl` are the modes that `auto` detects.
fn mode_of(word: &str) -> Result<Option<Mode>, String> {
    Ok(Some(match word.to_ascii_lowercase().as_str() {
        "auto" | "nvml" | "wsl" => return Ok(None),
        "csv" => Mode::Csv,
        "management" => Mode::Management,
        "gds" => Mode::Gds,
        "mofed" => Mode::Mofed,
        "gdrcopy" => Mode::Gdrcopy,
        "nvswitch" => Mode::Nvswitch,
        "imex" => Mode::Imex,
        other => return Err(format!("`{other}` is not a mode")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn read(line: &str, variables: &[(&str, &str)]) -> crate::error::Result<Generate> {
        let find = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_owned())
        };
        let parsed = GENERATE.parse_with(line.split_whitespace().map(OsString::from).collect(), &find)?;
        let mut flags = parsed.unwrap();
        flags.settle();
        Ok(flags)
    }

    #[test]
    fn the_vendors_names_are_taken() {
        let g = read(
            "--output=/x.json --format JSON --device-ids 0,1 --device GPU-x --cdi-vendor v.com --cdi-class cc \
             --nvidia-ctk-path /usr/bin/nvidia-ctk --library-search-path /a,b --library-search-path /c --no-all-device",
            &[],
        )
        .unwrap();
        assert_eq!(g.ids, ["0", "1", "GPU-x"]);
        assert_eq!(
            (g.vendor.as_deref(), g.class.as_deref()),
            (Some("v.com"), Some("cc"))
        );
        assert_eq!(g.hook_path.as_deref(), Some("/usr/bin/nvidia-ctk"));
        assert_eq!(g.library_dirs, [PathBuf::from("/a,b"), PathBuf::from("/c")]);
        assert!(g.no_all && g.format == Some(Format::Json) && !g.explicit);
        assert!(read("--device all --device 0", &[]).unwrap().ids.is_empty());
    }

    #[test]
    fn a_variable_stands_for_an_option_that_is_not_given() {
        let all = [
            ("NVIDIA_CTK_CDI_OUTPUT_FILE_PATH", "/from/variable.yaml"),
            ("NVIDIA_CTK_CDI_GENERATE_DEVICE_IDS", "0,GPU-1"),
            ("NVIDIA_CTK_CDI_GENERATE_NO_ALL_DEVICE", "true"),
            (
                "NVIDIA_CTK_CDI_GENERATE_DISABLED_HOOKS",
                "chmod,enable-cuda-compat",
            ),
            ("NVIDIA_CTK_CDI_GENERATE_VENDOR", ""),
        ];
        let g = read("", &all).unwrap();
        assert_eq!(g.output, Some(PathBuf::from("/from/variable.yaml")));
        assert_eq!(g.ids, ["0", "GPU-1"]);
        assert!(g.no_all && g.explicit && g.vendor.is_none());
        assert_eq!(g.only_explicit.disabled_hooks, ["chmod", "enable-cuda-compat"]);
        let g = read("--output /given.yaml --no-all-device=false --device-id 1", &all).unwrap();
        assert_eq!(g.output, Some(PathBuf::from("/given.yaml")));
        assert_eq!(g.ids, ["1"]);
        assert!(!g.no_all);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "--enable-hook all",
            "--format toml",
            "--mode vfio",
            "--csv.file",
            "--device-name-strategy pci",
            "--hook-path nvidia-cdi-hook",
            "--frobnicate",
            "--output",
            "word",
        ] {
            assert!(read(line, &[]).is_err(), "{line}");
        }
    }

    #[test]
    fn hooks_are_chosen_as_the_vendors_tool_does() {
        let has = |line: &str| {
            let g = read(line, &[]).unwrap();
            HOOKS.map(|h| g.only_explicit.has_hook(h))
        };
        assert_eq!(has(""), [false, true, true, true, true, true]);
        assert_eq!(has("--enable-hook chmod"), [true; 6]);
        assert_eq!(
            has("--disable-hooks update-ldcache,create-symlinks"),
            [false, false, true, true, true, false]
        );
        assert_eq!(
            has("--disable-hook all --enable-hook update-ldcache"),
            [false, false, false, false, false, true]
        );
    }
}
