//! The vendor's `config.toml` (NVIDIA Container Toolkit 1.20). Each key is honoured, or ignored for
//! a stated reason. For example, `disable-require` is our key of the same name, and
//! `nvidia-container-cli.no-pivot` has no effect, since nvoci never changes its root.

use toml_edit::{Array, Item, Table, Value as Toml};

use super::value::{Bad, one_of};
use super::{Config, Ignored};

/// The effect of one of the vendor's keys.
#[derive(Clone, Copy)]
enum Effect {
    /// The same as our key.
    Is(&'static str),
    /// Like our key, but an empty string leaves the default.
    IsUnlessEmpty(&'static str),
    /// If true, our key is false.
    TurnsOff(&'static str),
    /// Our key `log-file`, if the value is a path.
    LogFile,
    /// Our key `cuda-compat`.
    CudaCompat,
    /// If true, our key `cuda-compat` is off.
    NoCudaCompat,
    /// A list of names, each with an effect of its own.
    Names(&'static [(&'static str, Self)]),
    /// No effect, for this reason.
    Nothing(&'static str),
}

use Effect::{CudaCompat, Is, IsUnlessEmpty, LogFile, Names, NoCudaCompat, Nothing, TurnsOff};

const NO_CLI: &str = "nvoci does the work itself and starts no nvidia-container-cli";
const NO_LDCONFIG: &str = "nvoci writes the loader's cache itself and executes no ldconfig";
const ONE_HOOK: &str = "nvoci's one hook always does this, and only where it is needed";
const ONE_BINARY: &str = "nvoci is one binary and calls itself";

/// Every key of the toolkit's file. `nvidia-container-cli.debug` comes before
/// `nvidia-container-runtime.debug`, which wins.
const KEYS: &[(&str, Effect)] = &[
    ("disable-require", Is("disable-require")),
    ("swarm-resource", Is("swarm-resource")),
    (
        "accept-nvidia-visible-devices-envvar-when-unprivileged",
        Is("accept-envvar-unprivileged"),
    ),
    (
        "accept-nvidia-visible-devices-as-volume-mounts",
        Is("accept-volume-mounts"),
    ),
    (
        "supported-driver-capabilities",
        Is("supported-driver-capabilities"),
    ),
    ("nvidia-container-cli.root", IsUnlessEmpty("driver-root")),
    ("nvidia-container-cli.path", Nothing(NO_CLI)),
    ("nvidia-container-cli.environment", Nothing(NO_CLI)),
    ("nvidia-container-cli.debug", LogFile),
    ("nvidia-container-cli.ldcache", IsUnlessEmpty("ldcache")),
    ("nvidia-container-cli.load-kmods", Is("load-kmods")),
    (
        "nvidia-container-cli.no-pivot",
        Nothing("nvoci never changes its root"),
    ),
    ("nvidia-container-cli.no-cgroups", Is("no-cgroups")),
    (
        "nvidia-container-cli.user",
        Nothing("nvoci loads no driver library, so there is nothing to run as another user"),
    ),
    ("nvidia-container-cli.ldconfig", Nothing(NO_LDCONFIG)),
    ("nvidia-container-runtime.debug", LogFile),
    ("nvidia-container-runtime.log-level", Is("log-level")),
    ("nvidia-container-runtime.runtimes", Is("runtimes")),
    ("nvidia-container-runtime.mode", Is("mode")),
    (
        "nvidia-container-runtime.modes.cdi.spec-dirs",
        Is("cdi-spec-dirs"),
    ),
    (
        "nvidia-container-runtime.modes.cdi.default-kind",
        Is("default-kind"),
    ),
    (
        "nvidia-container-runtime.modes.cdi.annotation-prefixes",
        Is("annotation-prefixes"),
    ),
    (
        "nvidia-container-runtime.modes.csv.mount-spec-path",
        Is("csv-dir"),
    ),
    (
        "nvidia-container-runtime.modes.csv.compat-container-root",
        Nothing("nvoci finds the image's compatibility libraries by their ELF note"),
    ),
    (
        "nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags",
        Names(FLAGS),
    ),
    (
        "nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks",
        Names(HOOKS),
    ),
    (
        "nvidia-container-runtime.modes.legacy.cuda-compat-mode",
        CudaCompat,
    ),
    ("nvidia-container-runtime-hook.path", Nothing(ONE_BINARY)),
    (
        "nvidia-container-runtime-hook.skip-mode-detection",
        Nothing("nvoci's hook does the same in every mode"),
    ),
    ("nvidia-ctk.path", Nothing(ONE_BINARY)),
    (
        "features.allow-cuda-compat-libs-from-container",
        Nothing("nvoci never mounts a file of the image (CVE-2025-23359)"),
    ),
    ("features.allow-ldconfig-from-container", Nothing(NO_LDCONFIG)),
    (
        "features.allow-unknown-oci-spec-fields",
        Nothing("nvoci always keeps unknown fields"),
    ),
    ("features.disable-cuda-compat-lib-hook", NoCudaCompat),
    (
        "features.disable-imex-channel-creation",
        TurnsOff("create-imex-channels"),
    ),
    (
        "features.ignore-imex-channel-requests",
        Is("ignore-imex-channel-requests"),
    ),
    (
        "features.no-additional-gids-for-device-nodes",
        TurnsOff("additional-gids"),
    ),
];

const NO_SANDBOXUTILS: &str = "nvoci never uses libnvidia-sandboxutils";

const FLAGS: &[(&str, Effect)] = &[
    (
        "enable-explicit-driver-libraries",
        Nothing(
            "an image's own libGL, libEGL and libOpenCL are right for it: the host's may need a newer C library",
        ),
    ),
    ("disable-nvsandboxutils", Nothing(NO_SANDBOXUTILS)),
    ("disable-nvsandbox-utils", Nothing(NO_SANDBOXUTILS)),
    (
        "enable-coherent-annotations",
        Nothing("nvoci writes no such annotations into a container's definition"),
    ),
    (
        "disable-multiple-csv-devices",
        Nothing("nvoci finds a Jetson's devices itself"),
    ),
    ("no-additional-gids-for-device-nodes", TurnsOff("additional-gids")),
    ("disable-ipc-discoverer", TurnsOff("ipc-sockets")),
];

const HOOKS: &[(&str, Effect)] = &[
    ("enable-cuda-compat", NoCudaCompat),
    ("create-symlinks", Nothing(ONE_HOOK)),
    ("update-ldcache", Nothing(ONE_HOOK)),
    ("disable-device-node-modification", Nothing(ONE_HOOK)),
    ("update-application-profile", Nothing(ONE_HOOK)),
    ("chmod", Nothing("nvoci changes no modes")),
    ("all", Nothing(ONE_HOOK)),
];

/// The rows of the table in docs/migration.md: a key and its effect.
#[cfg(test)]
pub(crate) fn rows() -> Vec<(String, String)> {
    fn text(effect: Effect) -> String {
        let same = |ours: &str| format!("`{ours}`");
        match effect {
            Is("mode") => "`mode`; `legacy` and `jit-cdi` are read as `auto`".to_owned(),
            Is(ours) => same(ours),
            IsUnlessEmpty(ours) => format!("{}; an empty string leaves the default", same(ours)),
            TurnsOff(ours) => format!("{} `= false`, where it is true", same(ours)),
            LogFile => "`log-file`, unless it is `/dev/null`".to_owned(),
            CudaCompat => "`cuda-compat`: `off` for `disabled` and the empty string, else `auto`".to_owned(),
            NoCudaCompat => "`cuda-compat = \"off\"`, where it is true".to_owned(),
            Names(_) => "a list; each name counts:".to_owned(),
            Nothing(why) => format!("no effect: {why}"),
        }
    }
    let mut rows = Vec::new();
    for &(key, effect) in KEYS {
        rows.push((key.to_owned(), text(effect)));
        if let Names(names) = effect {
            rows.extend(names.iter().map(|&(name, e)| (format!("… {name}"), text(e))));
        }
    }
    rows
}

/// Whether a document has one of the vendor's tables or keys.
pub(super) fn is_vendors(document: &Table) -> bool {
    let config = Config::default();
    let settings = config.settings();
    let own = |key: &str| key == "extra" || settings.iter().any(|(ours, ..)| *ours == key);
    let theirs = |key: &str| {
        KEYS.iter()
            .any(|(theirs, _)| theirs.split('.').next() == Some(key))
    };
    document.iter().any(|(key, _)| theirs(key) && !own(key))
}

/// Reads the vendor's document into `config`.
pub(super) fn read(document: &Table, config: &mut Config) -> Result<(), (String, Bad)> {
    for &(key, effect) in KEYS {
        if let Some(item) = lookup(document, key) {
            apply(config, key, item, effect).map_err(|bad| (key.to_owned(), bad))?;
        }
    }
    unknown(document, "", 0, config);
    Ok(())
}

fn apply(config: &mut Config, key: &str, item: &Item, effect: Effect) -> Result<(), Bad> {
    match effect {
        IsUnlessEmpty(_) if item.as_str() == Some("") => Ok(()),
        Is(ours) | IsUnlessEmpty(ours) => set(config, ours, item, key),
        TurnsOff(ours) => match item.as_bool() {
            Some(true) => set(config, ours, &false.into(), key),
            Some(false) => Ok(()),
            None => Err(Bad::item(item, "true or false")),
        },
        LogFile if matches!(item.as_str(), Some("" | "/dev/null")) => Ok(()),
        LogFile => set(config, "log-file", item, key),
        CudaCompat => match item.as_str() {
            // As the vendor's hook does: an empty value disables the libraries.
            Some("disabled" | "") => set(config, "cuda-compat", &"off".into(), key),
            Some("ldconfig" | "mount" | "hook") => set(config, "cuda-compat", &"auto".into(), key),
            _ => Err(Bad::item(
                item,
                one_of(&["ldconfig", "mount", "hook", "disabled"]),
            )),
        },
        NoCudaCompat => match item.as_bool() {
            Some(true) => set(config, "cuda-compat", &"off".into(), key),
            Some(false) => Ok(()),
            None => Err(Bad::item(item, "true or false")),
        },
        Names(effects) => names(config, key, item, effects),
        Nothing(why) => {
            config.ignored.push(Ignored {
                key: key.to_owned(),
                why,
            });
            Ok(())
        }
    }
}

/// Sets each flag that the list names.
fn names(config: &mut Config, key: &str, item: &Item, effects: &[(&str, Effect)]) -> Result<(), Bad> {
    let empty = Array::new();
    let list = match item {
        Item::Value(Toml::Array(list)) => list,
        _ if item.as_str() == Some("") => &empty,
        _ => return Err(Bad::item(item, "a list of names")),
    };
    for name in list {
        let name = name.as_str().ok_or_else(|| Bad::item(item, "a list of names"))?;
        let place = format!("{key}: {name}");
        match effects.iter().find(|(known, _)| *known == name) {
            Some(&(_, effect)) => apply(config, &place, &true.into(), effect)?,
            None => config.unknown(&place),
        }
    }
    Ok(())
}

/// Sets our key from the vendor's.
fn set(config: &mut Config, ours: &str, item: &Item, key: &str) -> Result<(), Bad> {
    let read = config.set(ours, item, key);
    read.unwrap_or_else(|| Err(Bad::new(format!("an effect on `{ours}`"), "a setting of nvoci")))
}

/// The item at a dotted key.
fn lookup<'a>(document: &'a Table, key: &str) -> Option<&'a Item> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let mut item = document.get(first)?;
    for part in rest.into_iter().flat_map(|rest| rest.split('.')) {
        item = item.as_table_like()?.get(part)?;
    }
    Some(item)
}

/// Warns of keys that the toolkit does not define.
fn unknown(table: &dyn toml_edit::TableLike, prefix: &str, depth: usize, config: &mut Config) {
    for (key, item) in table.iter() {
        let path = format!("{prefix}{key}");
        let below = format!("{path}.");
        if KEYS.iter().any(|(known, _)| *known == path) {
            continue;
        }
        match item.as_table_like() {
            Some(inner) if depth < 4 && KEYS.iter().any(|(known, _)| known.starts_with(&below)) => {
                unknown(inner, &below, depth + 1, config);
            }
            _ => config.unknown(&path),
        }
    }
}
