//! The command line of `nvoci cdi generate`, and the variables that may stand for it.
//!
//! Names, other names and variables are those of `nvidia-ctk cdi generate` 1.20 (`facts/toolkit-features.md` 1.3), and ours.

use std::path::PathBuf;

use lexopt::Arg;

use super::{path, text, unexpected, usage};
use crate::cdi::explicit::Mode;
use crate::cdi::generate::{CHMOD, Explicit, Naming};
use crate::cdi::read::Format;
use crate::error::Result;

/// What is to be generated.
#[derive(Default)]
pub(super) struct Generate {
    pub(super) output: Option<PathBuf>,
    pub(super) format: Option<Format>,
    pub(super) explicit: bool,
    pub(super) mode: Option<Mode>,
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
    /// Empty: all.
    pub(super) ids: Vec<String>,
    pub(super) only_explicit: Explicit,
}

/// Options that take a value, their other names, and the vendor's variable for each. A list is split at commas.
const VALUES: [(&str, &[&str], &str); 15] = [
    ("output", &[], "NVIDIA_CTK_CDI_OUTPUT_FILE_PATH"),
    ("format", &[], "NVIDIA_CTK_CDI_GENERATE_OUTPUT_FORMAT"),
    ("mode", &["discovery-mode"], "NVIDIA_CTK_CDI_GENERATE_MODE"),
    ("dev-root", &[], "NVIDIA_CTK_DEV_ROOT"),
    ("driver-root", &[], "NVIDIA_CTK_DRIVER_ROOT"),
    (
        "device-name-strategy",
        &[],
        "NVIDIA_CTK_CDI_GENERATE_DEVICE_NAME_STRATEGIES",
    ),
    (
        "library-search-path",
        &[],
        "NVIDIA_CTK_CDI_GENERATE_LIBRARY_SEARCH_PATHS",
    ),
    (
        "config-search-path",
        &[],
        "NVIDIA_CTK_CDI_GENERATE_CONFIG_SEARCH_PATHS",
    ),
    (
        "hook-path",
        &["nvidia-cdi-hook-path", "nvidia-ctk-path"],
        "NVIDIA_CTK_CDI_HOOK_PATH",
    ),
    ("ldconfig-path", &[], "NVIDIA_CTK_CDI_GENERATE_LDCONFIG_PATH"),
    ("vendor", &["cdi-vendor"], "NVIDIA_CTK_CDI_GENERATE_VENDOR"),
    ("class", &["cdi-class"], "NVIDIA_CTK_CDI_GENERATE_CLASS"),
    (
        "disable-hook",
        &["disable-hooks"],
        "NVIDIA_CTK_CDI_GENERATE_DISABLED_HOOKS",
    ),
    (
        "enable-hook",
        &["enable-hooks"],
        "NVIDIA_CTK_CDI_GENERATE_ENABLED_HOOKS",
    ),
    (
        "feature-flag",
        &["feature-flags"],
        "NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS",
    ),
];

const DEVICE_ID: (&str, &[&str], &str) = (
    "device-id",
    &["device-ids", "device", "devices"],
    "NVIDIA_CTK_CDI_GENERATE_DEVICE_IDS",
);
const NO_ALL: (&str, &str) = ("no-all-device", "NVIDIA_CTK_CDI_GENERATE_NO_ALL_DEVICE");

/// The hooks of the static form.
const HOOKS: [&str; 6] = [
    CHMOD,
    "create-symlinks",
    "disable-device-node-modification",
    "enable-cuda-compat",
    "update-application-profile",
    "update-ldcache",
];

/// Flags that change nothing here: `libnvidia-sandboxutils` is not asked, groups are joined where `--additional-gids` says so.
const NO_EFFECT: [&str; 3] = [
    "disable-nvsandboxutils",
    "disable-nvsandbox-utils",
    "no-additional-gids-for-device-nodes",
];

/// Reads the command line, and for what it does not say the variables. `None` when help was asked for.
pub(super) fn parse(
    parser: &mut lexopt::Parser,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Generate>> {
    let mut g = Generate::default();
    let mut said = Vec::new();
    while let Some(arg) = parser.next().map_err(|e| usage(&e.to_string()))? {
        let name = match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("static") => {
                g.explicit = true;
                continue;
            }
            Arg::Long("additional-gids") => {
                g.additional_gids = true;
                continue;
            }
            Arg::Long("create-nodes") => {
                g.create_nodes = true;
                continue;
            }
            Arg::Long("config") => {
                g.config = Some(path(parser)?);
                continue;
            }
            Arg::Long(name) if name == NO_ALL.0 => {
                said.push(NO_ALL.0);
                g.no_all = parser.optional_value().is_none_or(|v| v != "false");
                continue;
            }
            Arg::Long(name) => {
                let named =
                    |(main, others, _): &(&str, &[&str], &str)| *main == name || others.contains(&name);
                match options().find(named) {
                    Some((name, ..)) => name,
                    None => return Err(unexpected(&arg)),
                }
            }
            other => return Err(unexpected(&other)),
        };
        let value = text(parser)?;
        g.set(name, &value, true)?;
        said.push(name);
    }
    for (name, _, alias) in options().filter(|(name, ..)| !said.contains(name)) {
        if let Some(value) = variable(alias).filter(|v| !v.is_empty()) {
            g.set(name, &value, false)?;
        }
    }
    if !said.contains(&NO_ALL.0) {
        g.no_all = variable(NO_ALL.1).is_some_and(|v| matches!(v.as_str(), "true" | "1"));
    }
    if g.ids.iter().any(|id| id == "all") {
        g.ids.clear();
    }
    Ok(Some(g))
}

fn options() -> impl Iterator<Item = (&'static str, &'static [&'static str], &'static str)> {
    VALUES.into_iter().chain([DEVICE_ID])
}

impl Generate {
    /// Takes a value that the command line has `said`, or a variable holds.
    fn set(&mut self, name: &str, value: &str, said: bool) -> Result<()> {
        let list = || value.split(',').map(str::trim).filter(|w| !w.is_empty());
        match name {
            "output" => self.output = Some(absolute(value)?),
            "format" => self.format = Some(format_of(value)?),
            "mode" => self.mode = mode_of(value)?,
            "dev-root" => self.dev_root = Some(absolute(value)?),
            "driver-root" => self.driver_root = Some(absolute(value)?),
            "device-name-strategy" => {
                for word in list() {
                    self.naming.push(naming_of(word)?);
                }
            }
            // A path may hold a comma (toolkit-features 12, quirk 5); a variable holds several.
            "library-search-path" if said => self.library_dirs.push(absolute(value)?),
            "library-search-path" => {
                for dir in list() {
                    self.library_dirs.push(absolute(dir)?);
                }
            }
            "config-search-path" => {
                warn("--config-search-path has no effect: the driver's own places are searched");
            }
            "hook-path" => {
                if !value.starts_with('/') {
                    return Err(usage("--hook-path must be absolute"));
                }
                self.hook_path = Some(value.to_owned());
            }
            "ldconfig-path" => {
                self.explicit = true;
                self.only_explicit.ldconfig = Some(value.to_owned());
            }
            "vendor" => self.vendor = Some(value.to_owned()),
            "class" => self.class = Some(value.to_owned()),
            "disable-hook" => self.hooks(list(), false)?,
            "enable-hook" => self.hooks(list(), true)?,
            "feature-flag" => list().for_each(|flag| self.feature(flag)),
            _ => self.ids.extend(list().map(str::to_owned)),
        }
        Ok(())
    }

    fn hooks<'a>(&mut self, names: impl Iterator<Item = &'a str>, on: bool) -> Result<()> {
        for name in names {
            if on && name == "all" {
                return Err(usage("enabling all hooks is not supported"));
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
        }
        Ok(())
    }

    fn feature(&mut self, flag: &str) {
        if flag == "disable-ipc-discoverer" {
            self.explicit = true;
            self.only_explicit.no_sockets = true;
        } else if !NO_EFFECT.contains(&flag) {
            warn(&format!("the feature flag `{flag}` has no effect"));
        }
    }
}

fn warn(text: &str) {
    crate::door::inject::warn(&[text.to_owned()]);
}

fn absolute(value: &str) -> Result<PathBuf> {
    std::path::absolute(value).map_err(|e| usage(&format!("`{value}`: {e}")))
}

fn format_of(word: &str) -> Result<Format> {
    match word.to_ascii_lowercase().as_str() {
        "yaml" => Ok(Format::Yaml),
        "json" => Ok(Format::Json),
        other => Err(usage(&format!("`{other}` is neither yaml nor json"))),
    }
}

fn naming_of(word: &str) -> Result<Naming> {
    match word {
        "index" => Ok(Naming::Index),
        "uuid" => Ok(Naming::Uuid),
        "type-index" => Ok(Naming::TypeIndex),
        other => Err(usage(&format!("`{other}` is not index, uuid or type-index"))),
    }
}

/// `nvml` and `wsl` are what `auto` finds by itself.
fn mode_of(word: &str) -> Result<Option<Mode>> {
    Ok(Some(match word.to_ascii_lowercase().as_str() {
        "auto" | "nvml" | "wsl" => return Ok(None),
        "management" => Mode::Management,
        "gds" => Mode::Gds,
        "mofed" => Mode::Mofed,
        "gdrcopy" => Mode::Gdrcopy,
        "nvswitch" => Mode::Nvswitch,
        "imex" => Mode::Imex,
        other => return Err(usage(&format!("`{other}` is not a mode"))),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, variables: &[(&str, &str)]) -> Result<Generate> {
        let mut parser = lexopt::Parser::from_args(line.split_whitespace());
        let find = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_owned())
        };
        parse(&mut parser, find).map(Option::unwrap)
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
