//! The policy of the host's administrator.
//!
//! nvoci reads `/etc/nvoci/config.toml`. If that is missing, it reads
//! `/etc/nvidia-container-runtime/config.toml`; without both, the defaults hold. The environment
//! never names the file. The file and every directory above it must belong to root alone. Each
//! value has an [`Origin`], which `nvoci config` prints.

mod choice;
mod extra;
mod value;
mod vendor;

use core::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use toml_edit::{Document, Item, Table};

use crate::capabilities::Capabilities;
use crate::error::{Code, Error, IoContext, Result};
use crate::sys::owned;

pub use choice::{Allowance, Choice};
pub use extra::{Extra, ExtraFile};
pub use value::{CudaCompat, Kind, Layout, LogLevel, Mode, Preflight};

use value::{Bad, Value};

/// Our own configuration file.
pub const PATH: &str = "/etc/nvoci/config.toml";

/// The vendor's configuration file, read if ours is missing.
pub const VENDOR_PATH: &str = "/etc/nvidia-container-runtime/config.toml";

/// The largest configuration file that is read, in bytes.
const MAX_SIZE: u64 = 256 * 1024;

/// The source of a value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The default of nvoci.
    Default,
    /// This key of the configuration file.
    File(String),
    /// The container itself.
    Container {
        /// The variable or annotation.
        name: String,
        /// Its possible author, by a stable name.
        by: &'static str,
    },
}

/// A value and its source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Its source.
    pub origin: Origin,
}

impl<T> Deref for Setting<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The program whose keys a configuration file has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// Our own.
    Nvoci,
    /// The NVIDIA Container Toolkit's.
    Nvidia,
}

impl Dialect {
    /// A stable name, for records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nvoci => "nvoci",
            Self::Nvidia => "nvidia",
        }
    }
}

/// A key of the vendor's file that has no effect in nvoci.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ignored {
    /// The key, with dots.
    pub key: String,
    /// Why it has no effect.
    pub why: &'static str,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $key:literal;)*) => {
        /// The effective configuration.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $field: Setting<$type>,)*
            /// The site's additions to GPU containers.
            pub extra: Vec<Extra>,
            /// The file that was read, if any.
            pub file: Option<(PathBuf, Dialect)>,
            /// Keys of the vendor's file that have no effect, and why.
            pub ignored: Vec<Ignored>,
            /// Likely mistakes that do no harm: unknown keys.
            pub warnings: Vec<String>,
        }

        /// Each key with its documentation, for docs/configuration.md.
        #[cfg(test)]
        const DOCUMENTATION: &[(&str, &str)] = &[$(($key, concat!($($doc),+)),)*];

        impl Default for Config {
            fn default() -> Self {
                Self {
                    $($field: Setting { value: $default, origin: Origin::Default },)*
                    extra: Vec::new(),
                    file: None,
                    ignored: Vec::new(),
                    warnings: Vec::new(),
                }
            }
        }

        impl Config {
            /// Sets our key `key` from the key `from` of the file; `None` if there is no such key.
            fn set(&mut self, key: &str, item: &Item, from: &str) -> Option<Result<(), Bad>> {
                match key {
                    $($key => Some(<$type as Value>::read(item).map(|value| {
                        self.$field = Setting { value, origin: Origin::File(from.to_owned()) };
                    })),)*
                    _ => None,
                }
            }

            /// Every setting: its key in our file, its value, and its source.
            pub fn settings(&self) -> Vec<(&'static str, Json, &Origin)> {
                vec![$(($key, Value::json(&self.$field.value), &self.$field.origin),)*]
            }
        }
    };
}

settings! {
    /// The directory that holds the driver's user-space files.
    driver_root: PathBuf = PathBuf::from("/"), "driver-root";
    /// The directory whose `dev` holds the device nodes; by default the driver root.
    dev_root: Option<PathBuf> = None, "dev-root";
    /// The loader's cache in the driver root.
    ldcache: PathBuf = PathBuf::from("/etc/ld.so.cache"), "ldcache";
    /// Directories in the driver root that are searched for libraries before the known ones.
    library_dirs: Vec<PathBuf> = Vec::new(), "library-dirs";
    /// Where driver files appear in a container: `private`, in a directory of their own; `native`,
    /// in the directories of its distribution.
    layout: Layout = Layout::Private, "layout";
    /// Places in a container for the driver directory; the first free one is taken. Never empty.
    driver_dirs: Vec<PathBuf> = ["/usr/local/nvidia", "/opt/nvidia", "/usr/lib/nvoci"].map(PathBuf::from).into(), "driver-dirs";
    /// Whether missing kernel modules are loaded and missing device nodes made.
    load_kmods: bool = true, "load-kmods";
    /// Whether missing nodes of IMEX channels are made.
    create_imex_channels: bool = true, "create-imex-channels";
    /// Whether the hook leaves the device cgroup alone. Device rules of the container's definition,
    /// which the runtime and CDI write, remain.
    no_cgroups: bool = false, "no-cgroups";
    /// Whether an unprivileged container may request GPUs by variables.
    accept_envvar_unprivileged: bool = true, "accept-envvar-unprivileged";
    /// Whether an unprivileged container may request GDS, MOFED, GDRCopy, NVSwitch and IMEX by
    /// variables.
    accept_gated_unprivileged: bool = false, "accept-gated-unprivileged";
    /// CDI kinds (`vendor/class`), besides `nvidia.com/gpu`, that containers may request by
    /// variables and annotations under the same rules as GPUs.
    accept_cdi_kinds: Vec<Kind> = Vec::new(), "accept-cdi-kinds";
    /// CDI kinds that only privileged containers (CAP_SYS_ADMIN, no user namespace of their own)
    /// may request.
    accept_cdi_kinds_privileged: Vec<Kind> = vec![Kind::management()], "accept-cdi-kinds-privileged";
    /// Whether a container can request GPUs by mounts of `/dev/null`.
    accept_volume_mounts: bool = false, "accept-volume-mounts";
    /// Prefixes of the annotations that hold CDI device names.
    annotation_prefixes: Vec<String> = vec!["cdi.k8s.io/".to_owned()], "annotation-prefixes";
    /// Variables of Docker Swarm's generic resources; if one is set, it replaces
    /// `NVIDIA_VISIBLE_DEVICES`.
    swarm_resource: Vec<String> = Vec::new(), "swarm-resource";
    /// The driver capabilities that containers may have.
    supported_driver_capabilities: Capabilities = Capabilities::ALL, "supported-driver-capabilities";
    /// Whether `NVIDIA_REQUIRE_*` is ignored.
    disable_require: bool = false, "disable-require";
    /// Whether IMEX channels are never given.
    ignore_imex_channel_requests: bool = false, "ignore-imex-channel-requests";
    /// Whether a container's user joins the groups of device nodes that are not open to everybody.
    additional_gids: bool = true, "additional-gids";
    /// Whether containers get the sockets of persistenced, fabric manager and MPS.
    ipc_sockets: bool = true, "ipc-sockets";
    /// The directory of the MPS daemon's pipes, in the driver root. Containers get it only if no
    /// user but its owner can write to it.
    mps_dir: PathBuf = PathBuf::from("/tmp/nvidia-mps"), "mps-dir";
    /// The numeric id of the user who owns `mps-dir`, if it is not root: every container with
    /// `compute` is connected to that user's daemon.
    mps_user: Option<u32> = None, "mps-user";
    /// What happens if the preflight check finds that a container cannot compute: `off`, no check;
    /// `warn`, a warning; `enforce`, the container does not start.
    preflight: Preflight = Preflight::Warn, "preflight";
    /// Whether a finding of the preflight check is sent to the system's journal, or without a
    /// journal to syslog.
    warn_journal: bool = true, "warn-journal";
    /// Whether the worst finding is also written to the container's standard error, once, while it
    /// starts.
    warn_stderr: bool = false, "warn-stderr";
    /// Whether an image's newer CUDA compatibility libraries are used: `auto`, if driver and GPU
    /// allow it; `off`, never.
    cuda_compat: CudaCompat = CudaCompat::Auto, "cuda-compat";
    /// The settings that a container may choose by a variable `NVOCI_<KEY>` or an annotation
    /// `nvoci.dev/<key>`: `key=value`, or `key` for every value.
    container_settings: Vec<Allowance> = Allowance::narrowing(), "container-settings";
    /// How device names are read: `auto`, as devices of this host, and `vendor/class=name` as CDI;
    /// `cdi`, always as names in CDI specifications; `csv`, as devices of a Jetson.
    mode: Mode = Mode::Auto, "mode";
    /// Low-level runtimes by name or absolute path, in order of preference. Never empty.
    runtimes: Vec<String> = ["runc", "crun"].map(String::from).into(), "runtimes";
    /// Directories in which runtimes without a path are searched.
    runtime_paths: Vec<PathBuf> = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from).into(), "runtime-paths";
    /// Directories of CDI specifications; a later one has priority.
    cdi_spec_dirs: Vec<PathBuf> = ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).into(), "cdi-spec-dirs";
    /// The CDI kind of device names without one.
    default_kind: Kind = Kind::default(), "default-kind";
    /// Directory of the CSV files that describe a Jetson's driver.
    csv_dir: PathBuf = PathBuf::from("/etc/nvidia-container-runtime/host-files-for-container.d"), "csv-dir";
    /// The log file; if not set, nothing is logged.
    log_file: Option<PathBuf> = None, "log-file";
    /// The least severe level that is logged: `off`, `error`, `warn`, `info`, `debug` or `trace`.
    log_level: LogLevel = LogLevel::Info, "log-level";
}

/// The rows of docs/configuration.md: a key, its default, its meaning.
#[cfg(test)]
pub(crate) fn rows() -> Vec<[String; 3]> {
    let config = Config::default();
    let row = |&(key, text): &(&str, &str)| {
        let settings = config.settings();
        let default = settings
            .iter()
            .find(|(k, ..)| *k == key)
            .map(|(_, value, _)| value.to_string());
        [
            key.to_owned(),
            default.unwrap_or_default(),
            text.trim().to_owned(),
        ]
    };
    DOCUMENTATION.iter().map(row).collect()
}

/// The rows of the table in docs/migration.md: the vendor's keys.
#[cfg(test)]
pub(crate) fn vendor_rows() -> Vec<(String, String)> {
    vendor::rows()
}

impl Config {
    /// Reads the host's configuration.
    pub fn load() -> Result<Self> {
        for (path, dialect) in [(PATH, Dialect::Nvoci), (VENDOR_PATH, Dialect::Nvidia)] {
            if let Some(text) = read(Path::new(path))? {
                return Self::parse(&text, Path::new(path), dialect);
            }
        }
        Ok(Self::default())
    }

    /// Reads the file that the command line names. Its keys decide whether it is ours or the
    /// vendor's.
    pub fn load_file(path: &Path) -> Result<Self> {
        let text = read(path)?.ok_or_else(|| {
            Error::new(Code::Config, path.display().to_string(), "there is no such file")
                .fix("name an existing file")
        })?;
        let document = document(&text, path)?;
        let dialect = if vendor::is_vendors(&document) {
            Dialect::Nvidia
        } else {
            Dialect::Nvoci
        };
        Self::of(&document, path, dialect)
    }

    /// Parses a configuration; `path` is for messages.
    ///
    /// # Errors
    /// [`Code::Config`], naming the file, the key, its value and the expected value.
    pub fn parse(text: &str, path: &Path, dialect: Dialect) -> Result<Self> {
        Self::of(&*document(text, path)?, path, dialect)
    }

    fn of(document: &Table, path: &Path, dialect: Dialect) -> Result<Self> {
        let mut config = Self {
            file: Some((path.to_owned(), dialect)),
            ..Self::default()
        };
        let read = match dialect {
            Dialect::Nvoci => config.read_own(document),
            Dialect::Nvidia => vendor::read(document, &mut config),
        };
        read.and_then(|()| config.check()).map_err(|(key, bad)| {
            let what = format!("{}: key `{key}`", path.display());
            Error::new(
                Code::Config,
                what,
                format!("got {}, expected {}", bad.got, bad.expected),
            )
        })?;
        Ok(config)
    }

    /// The directory whose `dev` holds the device nodes.
    pub fn dev_root(&self) -> &Path {
        self.dev_root.as_deref().unwrap_or(&self.driver_root)
    }

    /// The effective configuration as `nvoci config --json` shows it.
    pub fn to_json(&self) -> Json {
        let origin = |origin: &Origin| match origin {
            Origin::Default => json!({ "kind": "default" }),
            Origin::File(key) => json!({ "kind": "file", "key": key }),
            Origin::Container { name, by } => json!({ "kind": "container", "name": name, "by": by }),
        };
        let settings: serde_json::Map<String, Json> = self
            .settings()
            .into_iter()
            .map(|(key, value, from)| (key.to_owned(), json!({ "value": value, "origin": origin(from) })))
            .collect();
        let ignored = self.ignored.iter().map(|i| json!({ "key": i.key, "why": i.why }));
        json!({
            "file": self.file.as_ref().map(|(path, _)| path.display().to_string()),
            "dialect": self.file.as_ref().map(|(_, dialect)| dialect.name()),
            "settings": settings,
            "extra": self.extra.iter().map(Extra::json).collect::<Vec<_>>(),
            "ignored": ignored.collect::<Vec<_>>(),
            "warnings": self.warnings,
        })
    }

    fn read_own(&mut self, document: &Table) -> Result<(), (String, Bad)> {
        for (key, item) in document {
            if key == "extra" {
                self.extra = extra::read(item)?;
                continue;
            }
            match self.set(key, item, key) {
                Some(Ok(())) => {}
                Some(Err(bad)) => return Err((key.to_owned(), bad)),
                None => self.unknown(key),
            }
        }
        Ok(())
    }

    fn unknown(&mut self, key: &str) {
        self.warnings
            .push(format!("unknown key `{}` has no effect", key.escape_debug()));
    }

    /// Checks relations between values, and lists as a whole.
    fn check(&self) -> Result<(), (String, Bad)> {
        nonempty(&self.driver_dirs, "driver-dirs")?;
        nonempty(&self.runtimes, "runtimes")?;
        let each = |setting: &Setting<Vec<String>>, key, good: fn(&str) -> bool, expected| {
            let bad = setting.iter().find(|text| !good(text));
            bad.map_or(Ok(()), |text| {
                Err(wrong(&setting.origin, key, format!("{text:?}"), expected))
            })
        };
        let prefix = |text: &str| !text.is_empty();
        let runtime =
            |text: &str| text.starts_with('/') || !(text.contains('/') || matches!(text, "" | "." | ".."));
        each(
            &self.annotation_prefixes,
            "annotation-prefixes",
            prefix,
            "a prefix such as \"cdi.k8s.io/\"",
        )?;
        each(
            &self.runtimes,
            "runtimes",
            runtime,
            "a program name or an absolute path",
        )?;
        // nvoci mounts over the driver directory, so it must not be a top-level directory of the
        // container.
        let shallow = self.driver_dirs.iter().find(|dir| dir.components().count() < 3);
        shallow.map_or(Ok(()), |dir| {
            let expected = "a directory at least two levels below /";
            Err(wrong(
                &self.driver_dirs.origin,
                "driver-dirs",
                format!("{:?}", dir.display().to_string()),
                expected,
            ))
        })
    }
}

fn nonempty<T>(setting: &Setting<Vec<T>>, key: &str) -> Result<(), (String, Bad)> {
    if setting.is_empty() {
        return Err(wrong(
            &setting.origin,
            key,
            "an empty list".to_owned(),
            "at least one entry",
        ));
    }
    Ok(())
}

/// A value that its type accepts and that is wrong all the same.
fn wrong(origin: &Origin, key: &str, got: String, expected: &str) -> (String, Bad) {
    let key = match origin {
        Origin::File(key) => key,
        Origin::Default | Origin::Container { .. } => key,
    };
    (key.to_owned(), Bad::new(got, expected))
}

/// The text of a configuration file that only root can write; `None` if there is none.
fn read(path: &Path) -> Result<Option<String>> {
    let what = || format!("configuration file {}", path.display());
    let Some(node) = owned::find(path)? else {
        return Ok(None);
    };
    if !node.is_file() {
        return Err(Error::new(Code::Config, what(), "not a regular file"));
    }
    let bytes = node.read(MAX_SIZE).context(Code::Config, what)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::new(Code::Config, what(), "not UTF-8 text"))?;
    Ok(Some(text))
}

fn document<'t>(text: &'t str, path: &Path) -> Result<Document<&'t str>> {
    Document::parse(text).map_err(|e: toml_edit::TomlError| {
        let line = e.span().map_or(1, |span| {
            let before = text.get(..span.start).unwrap_or(text);
            before.matches('\n').count() + 1
        });
        let what = format!("{}: line {line}", path.display());
        Error::new(Code::Config, what, e.message().replace('\n', ", "))
    })
}

#[cfg(test)]
mod tests;
