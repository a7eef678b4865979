//! `nvidia-ctk config`: prints the toolkit's config.toml, or sets keys. Comments and order stay.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use toml_edit::{Array, DocumentMut, Item, Table, value};

use crate::cmd::cli::{Command, Page, Words, argument, flag, switched};
use crate::cmd::{is_taken, print};
use crate::config::{Config, Dialect, VENDOR_PATH};
use crate::engine::store;
use crate::engine::toml::{MAX_MEMORY, memory_of};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::owned::OTHERS_WRITE;
use crate::sys::root::{Node, Root};

#[derive(Default)]
pub(super) struct Options {
    file: Option<PathBuf>,
    sets: Vec<String>,
    separator: Option<String>,
    output: Option<PathBuf>,
    in_place: bool,
    default: bool,
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvidia-ctk config",
        summary: "show the NVIDIA Container Toolkit's config.toml, or set keys",
        about: &[
            "Shows /etc/nvidia-container-runtime/config.toml (or the defaults where it is missing) with \
                  keys set. Nothing is written without --in-place or --output. `nvoci config` shows the keys \
                  that have an effect.",
        ],
        arguments: &[argument("[default]", "the defaults, whatever the file says").values(&["default"])],
        ..Page::EMPTY
    },
    flags: &[
        flag("config", "the file")
            .short('c')
            .aliases(&["config-file"])
            .path("FILE", |o: &mut Options, file| o.file = Some(file)),
        flag(
            "set",
            "set a key; `,` separates settings, and `:` the items of a list",
        )
        .more("`features.NAME=nil` takes a feature out.")
        .repeatable()
        .text("KEY[=VALUE]", |o, set| {
            o.sets.push(set);
            Ok(())
        }),
        flag(
            "set-list-separator",
            "what separates the items of a list (default `:`)",
        )
        .text("TEXT", |o, text| {
            if text.is_empty() {
                return Err("it is empty".to_owned());
            }
            o.separator = Some(text);
            Ok(())
        }),
        flag("in-place", "write the file itself")
            .short('i')
            .switch(|o| o.in_place = true),
        flag("output", "write another file")
            .short('o')
            .path("FILE", |o, file| o.output = Some(file)),
    ],
    words: Words::One(|o, word| {
        let known = ["default", "create-default", "generate-default"];
        if !known.iter().any(|name| word == *name) {
            return Err(format!("there is no command `{}`", word.display()));
        }
        o.default = true;
        Ok(())
    }),
    ..Command::of(run)
};

/// The largest file that is read, in bytes.
const MAX: u64 = 256 << 10;
/// The most parts of a key; the longest known one has four.
const MAX_PARTS: usize = 8;

/// Keys whose values are lists.
const LISTS: &[&str] = &[
    "nvidia-container-cli.environment",
    "nvidia-container-runtime.modes.cdi.annotation-prefixes",
    "nvidia-container-runtime.modes.cdi.spec-dirs",
    "nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks",
    "nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags",
    "nvidia-container-runtime.runtimes",
];

/// Keys that are true or false, besides the features.
const SWITCHES: &[&str] = &[
    "accept-nvidia-visible-devices-as-volume-mounts",
    "accept-nvidia-visible-devices-envvar-when-unprivileged",
    "disable-require",
    "nvidia-container-cli.load-kmods",
    "nvidia-container-cli.no-cgroups",
    "nvidia-container-cli.no-pivot",
    "nvidia-container-runtime-hook.skip-mode-detection",
];

/// The table whose keys are true, false or missing.
const FEATURES: &str = "features.";

fn is_switch(key: &str) -> bool {
    key.starts_with(FEATURES) || SWITCHES.contains(&key)
}

/// One `KEY[=VALUE]` of `--set`.
#[derive(Debug, Eq, PartialEq)]
struct Setting {
    key: String,
    new: New,
}

/// The new value of a key.
#[derive(Debug, Eq, PartialEq)]
enum New {
    /// The key alone was named.
    True,
    Text(String),
    Items(Vec<String>),
}

/// The settings of all `--set`, separated by commas. In a list, a piece that is no setting is one
/// more item, so `runtimes=crun,runc` works, which the toolkit refuses.
fn settings(sets: &[String], separator: &str) -> Vec<Setting> {
    let mut all: Vec<Setting> = Vec::new();
    let split = |text: &str| -> Vec<String> {
        let items = text.split(separator).filter(|item| !item.is_empty());
        items.map(str::to_owned).collect()
    };
    for set in sets {
        let mut of_this = 0;
        for piece in set.split(',').filter(|piece| !piece.is_empty()) {
            let last = if of_this > 0 { all.last_mut() } else { None };
            let new = match (piece.split_once('='), last) {
                (
                    None,
                    Some(Setting {
                        new: New::Items(items),
                        ..
                    }),
                ) if !is_switch(piece) => {
                    items.extend(split(piece));
                    continue;
                }
                (None, _) => (piece, New::True),
                (Some((key, value)), _) if LISTS.contains(&key) => (key, New::Items(split(value))),
                (Some((key, value)), _) => (key, New::Text(value.to_owned())),
            };
            of_this += 1;
            all.push(Setting {
                key: new.0.to_owned(),
                new: new.1,
            });
        }
    }
    all
}

/// The defaults of the toolkit's keys that have an effect here.
const DEFAULT: &str = "\
# Keys of the NVIDIA Container Toolkit, as nvoci reads them; nvoci's own file is /etc/nvoci/config.toml.
disable-require = false
supported-driver-capabilities = \"compat32,compute,display,graphics,ngx,utility,video\"
#swarm-resource = \"DOCKER_RESOURCE_GPU\"
#accept-nvidia-visible-devices-envvar-when-unprivileged = true
#accept-nvidia-visible-devices-as-volume-mounts = false

[nvidia-container-cli]
load-kmods = true
#ldcache = \"/etc/ld.so.cache\"
#no-cgroups = false
#root = \"/run/nvidia/driver\"

[nvidia-container-runtime]
#debug = \"/var/log/nvidia-container-runtime.log\"
log-level = \"info\"
mode = \"auto\"
runtimes = [\"runc\", \"crun\"]

[nvidia-container-runtime.modes.cdi]
annotation-prefixes = [\"cdi.k8s.io/\"]
default-kind = \"nvidia.com/gpu\"
spec-dirs = [\"/etc/cdi\", \"/var/run/cdi\"]

[nvidia-container-runtime.modes.csv]
mount-spec-path = \"/etc/nvidia-container-runtime/host-files-for-container.d\"

[nvidia-container-runtime.modes.legacy]
cuda-compat-mode = \"ldconfig\"
";

/// Runs the command.
///
/// # Errors
/// [`Code::Usage`] for an unknown key, [`Code::Config`] for a value that it cannot have. The file
/// is then unchanged.
fn run(options: Options) -> Result<ExitCode> {
    let Options {
        file,
        sets,
        separator,
        output,
        in_place,
        default,
    } = options;
    let file = file.unwrap_or_else(|| PathBuf::from(VENDOR_PATH));
    let file = std::path::absolute(file).context(Code::Usage, || "--config")?;
    let text = if default { DEFAULT.to_owned() } else { read(&file)? };
    let text = with(
        &text,
        &settings(&sets, separator.as_deref().unwrap_or(":")),
        &file,
    )?;
    match (in_place, output) {
        (true, _) => write(&file, &text)?,
        (false, Some(output)) => {
            write(
                &std::path::absolute(output).context(Code::Usage, || "--output")?,
                &text,
            )?;
        }
        (false, None) => print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<String> {
    let what = || file.display().to_string();
    let root = Root::open("/").context(Code::Config, what)?;
    match root.read_text(file, MAX) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(DEFAULT.to_owned()),
        read => read.context(Code::Config, what),
    }
}

/// Replaces a file and keeps its mode. A link of root's stays. A link of another user's is refused,
/// since root would write to a place that the user chooses.
pub(super) fn write(file: &Path, text: &str) -> Result<()> {
    let what = || file.display().to_string();
    let root = Root::open("/").context(Code::Config, what)?;
    let file = &store::follow(&root, file)?;
    if let Some(dir) = file.parent() {
        root.mkdir_all(dir, 0o755).context(Code::Config, what)?;
    }
    let (dir, name) = root.parent_of(file).context(Code::Config, what)?;
    if is_taken(&dir, &name) {
        let why = "it exists and is no regular file";
        let fix = "name another file; without the option the text goes to standard output";
        return Err(Error::new(Code::Config, what(), why).fix(fix));
    }
    let old = dir
        .child(&name)
        .ok()
        .filter(Node::is_file)
        .map(|node| *node.stat());
    let own = rustix::process::geteuid().as_raw();
    let kept = old.filter(|old| old.st_uid == own && old.st_mode & OTHERS_WRITE == 0);
    let mode = kept.map_or(0o644, |old| old.st_mode & 0o777);
    dir.write_file_durably(&name, mode, text.as_bytes())
        .context(Code::Config, what)
}

/// Sets keys in `text`; the result must be a valid configuration.
fn with(text: &str, sets: &[Setting], file: &Path) -> Result<String> {
    let broken = |e: toml_edit::TomlError| {
        Error::new(Code::Config, file.display().to_string(), e.message().to_owned())
    };
    if memory_of(text) > MAX_MEMORY {
        let why = "it has too many keys and values";
        return Err(Error::new(Code::TooLarge, file.display().to_string(), why));
    }
    let mut document: DocumentMut = text.parse().map_err(broken)?;
    // Each unknown key is one warning; unknown keys of the file stay.
    let known = Config::parse(text, file, Dialect::Nvidia)?.warnings.len();
    for Setting { key, new } in sets {
        let item = match new {
            New::True => value(true),
            New::Text(text) if is_switch(key) => {
                if text == "nil" && key.starts_with(FEATURES) {
                    remove(&mut document, key);
                    continue;
                }
                let on = switched(text).map_err(|why| COMMAND.usage_error(format!("--set {key}: {why}")))?;
                value(on)
            }
            New::Text(text) => value(text),
            New::Items(items) => value(items.iter().collect::<Array>()),
        };
        place(&mut document, key, item)?;
        let parsed = Config::parse(&document.to_string(), file, Dialect::Nvidia)?;
        // A list may have names of a newer toolkit.
        if parsed.warnings.len() > known && !LISTS.contains(&key.as_str()) {
            return Err(COMMAND.usage_error(format!("--set {key}: there is no such key")));
        }
    }
    Ok(document.to_string())
}

/// Removes a dotted key if it exists.
fn remove(document: &mut DocumentMut, key: &str) {
    let mut table: &mut Table = document.as_table_mut();
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match table.get_mut(part).and_then(Item::as_table_mut) {
            Some(below) => table = below,
            None => return,
        }
    }
    table.remove(last);
}

/// Sets a dotted key to `item`, and makes the tables on the way.
fn place(document: &mut DocumentMut, key: &str, item: Item) -> Result<()> {
    let mut table: &mut Table = document.as_table_mut();
    let mut parts: Vec<&str> = key.split('.').collect();
    // A document of many levels could not be printed.
    if parts.len() > MAX_PARTS {
        return Err(COMMAND.usage_error(format!("--set: a key has at most {MAX_PARTS} parts")));
    }
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let below = table.entry(part).or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        table = below
            .as_table_mut()
            .ok_or_else(|| COMMAND.usage_error(format!("--set {key}: `{part}` is not a table")))?;
    }
    match table.get_mut(last) {
        // The comments around a value belong to it.
        Some(Item::Value(old)) => {
            if let Item::Value(mut new) = item {
                *new.decor_mut() = old.decor().clone();
                *old = new;
            }
        }
        _ => drop(table.insert(last, item)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, sets: &[&str]) -> Result<String> {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        with(text, &settings(&sets, ":"), Path::new("/x"))
    }

    #[test]
    fn keys_are_set_and_the_rest_stays() {
        let text = "# mine\ndisable-require = false # why\n\n[nvidia-container-cli]\nload-kmods = true\n";
        let new = set(
            text,
            &[
                "disable-require",
                "nvidia-container-cli.root=/run/nvidia/driver",
                "nvidia-container-runtime.runtimes=crun:runc",
            ],
        )
        .unwrap();
        assert!(new.starts_with("# mine\ndisable-require = true # why\n"), "{new}");
        assert!(
            new.contains("load-kmods = true\nroot = \"/run/nvidia/driver\""),
            "{new}"
        );
        assert!(
            new.contains("[nvidia-container-runtime]\nruntimes = [\"crun\", \"runc\"]"),
            "{new}"
        );
        assert_eq!(set(text, &[]).unwrap(), text);
    }

    #[test]
    fn the_defaults_are_the_defaults() {
        let parsed = Config::parse(DEFAULT, Path::new("/x"), Dialect::Nvidia).unwrap();
        assert!(
            parsed.warnings.is_empty() && parsed.ignored.is_empty(),
            "{parsed:?}"
        );
        let theirs: Vec<_> = parsed
            .settings()
            .into_iter()
            .map(|(key, value, _)| (key, value))
            .collect();
        let ours: Vec<_> = Config::default()
            .settings()
            .into_iter()
            .map(|(key, value, _)| (key, value))
            .collect();
        assert_eq!(theirs, ours);
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_refused() {
        for bad in [
            "c=1",
            &format!("{}x=1", "a.".repeat(60_000)),
            "nvidia-container-cli.bogus=1",
            "disable-require=maybe",
            "disable-require=yes",
            "disable-require=nil",
            "features.no-such-feature=true",
            "features.ignore-imex-channel-requests=yes",
            "disable-require.x=1",
            "nvidia-container-runtime.mode=x",
        ] {
            assert!(set("disable-require = false\n", &[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_switch_takes_what_go_takes() {
        for word in ["True", "1", "T", "t", "TRUE", "true"] {
            let new = set("", &[&format!("disable-require={word}")]).unwrap();
            assert_eq!(new, "disable-require = true\n", "{word}");
        }
        for word in ["False", "0", "f"] {
            let new = set("", &[&format!("nvidia-container-cli.load-kmods={word}")]).unwrap();
            assert!(new.contains("load-kmods = false"), "{new}");
        }
    }

    #[test]
    fn nil_takes_a_feature_out() {
        let text = "[features]\nignore-imex-channel-requests = true\nallow-ldconfig-from-container = false\n";
        let new = set(text, &["features.ignore-imex-channel-requests=nil"]).unwrap();
        assert_eq!(new, "[features]\nallow-ldconfig-from-container = false\n");
        assert_eq!(
            set("", &["features.ignore-imex-channel-requests=nil"]).unwrap(),
            ""
        );
    }

    #[test]
    fn a_comma_separates_settings_and_a_separator_the_items_of_a_list() {
        const RUNTIMES: &str = "nvidia-container-runtime.runtimes";
        let both = set("", &["disable-require=1,nvidia-container-cli.root=/d,"]).unwrap();
        assert!(both.contains("disable-require = true\n"), "{both}");
        assert!(both.contains("root = \"/d\""), "{both}");
        for (line, separator) in [("crun:runc", ":"), ("crun;runc", ";"), ("crun,runc", ":")] {
            let sets = [format!("{RUNTIMES}={line}")];
            let new = with("", &settings(&sets, separator), Path::new("/x")).unwrap();
            assert!(new.contains("runtimes = [\"crun\", \"runc\"]"), "{line}: {new}");
        }
        let sets = [format!("{RUNTIMES}=/opt/a:b/crun,disable-require")];
        let new = with("", &settings(&sets, ";"), Path::new("/x")).unwrap();
        assert!(new.contains("runtimes = [\"/opt/a:b/crun\"]"), "{new}");
        assert!(new.contains("disable-require = true"), "{new}");
    }

    #[test]
    fn names_of_newer_hooks_are_kept() {
        const HOOKS: &str = "nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks";
        let new = set("", &[&format!("{HOOKS}=chmod:newname")]).unwrap();
        assert!(
            new.contains("nvcdi-disable-hooks = [\"chmod\", \"newname\"]"),
            "{new}"
        );
    }

    #[test]
    fn a_file_keeps_its_mode_and_its_link_and_another_users_link_is_refused() {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/config.toml"), "").unwrap();
        fs::set_permissions(at("real/config.toml"), Permissions::from_mode(0o600)).unwrap();
        symlink("real/config.toml", at("config.toml")).unwrap();
        write(&at("config.toml"), "# new\n").unwrap();
        assert!(fs::symlink_metadata(at("config.toml")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(at("real/config.toml")).unwrap(), "# new\n");
        assert_eq!(
            fs::metadata(at("real/config.toml")).unwrap().mode() & 0o777,
            0o600
        );
        write(&at("fresh/config.toml"), "").unwrap();
        assert_eq!(
            fs::metadata(at("fresh/config.toml")).unwrap().mode() & 0o777,
            0o644
        );
        if rustix::process::geteuid().is_root() {
            symlink("real", at("link")).unwrap();
            lchown(at("link"), Some(1000), Some(1000)).unwrap();
            assert_eq!(write(&at("link/x"), "").unwrap_err().code(), Code::UnsafeOwner);
            assert_eq!(
                write(&at("link/new/x"), "").unwrap_err().code(),
                Code::UnsafeOwner
            );
            assert_eq!(fs::read_dir(at("real")).unwrap().count(), 1);
        }
    }
}
