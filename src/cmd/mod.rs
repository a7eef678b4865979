//! The commands: one module each. They connect the other rooms and have no logic of their own.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::vec::IntoIter;

use serde_json::json;

use self::cli::{Command, Failed, Foreign, Group, Page, Table as _, flag};
use crate::config::Config;
use crate::error::{Class, Code, Error, IoContext as _, Result};
use crate::host::Locations;
use crate::oci::Spec;
use crate::request::{EntryPoint, wants_gpu_fast};
use crate::sys::process;
use crate::sys::program::Program;
use crate::sys::root::Node;

pub mod cdi;
pub mod cdi_hook;
mod cli;
pub mod config;
pub mod container_cli;
pub mod ctk;
pub mod doctor;
#[doc(hidden)]
pub mod fuzzing;
pub mod hook;
mod inject;
pub mod install;
pub mod ldconfig;
pub mod list;
mod log;
mod mig;
pub mod plan;
pub mod ps;
mod reload;
pub mod runtime;
mod texts;
mod upgrade;
mod variables;
mod wiring;

/// `nvoci`.
static COMMAND: Command<()> = Command {
    page: Page {
        name: "nvoci",
        summary: "give OCI containers the host's NVIDIA GPUs",
        about: &[
            "nvoci gives OCI containers the host's NVIDIA GPUs.",
            "`nvoci COMMAND --help` explains each command.",
        ],
        sections: &[
            (
                "Other names",
                &[
                    "The same program answers to nvidia-container-runtime-hook, nvidia-container-toolkit, \
                   nvidia-container-runtime (.cdi, .legacy), nvidia-cdi-hook, nvidia-container-cli, nvidia-ctk \
                   and nvoci-runtime when called by these names.",
                ],
            ),
            (
                "Errors",
                &[
                    "Errors are one line on standard error: what: why; fix: what to do [NVOCI-code].",
                    "With --json a command that fails also prints one JSON object on standard output: \
                     {\"error\": {code, status, what, why, fix, line}}.",
                ],
            ),
        ],
        ..Page::EMPTY
    },
    commands: &[
        Group {
            heading: "For people",
            commands: &[
                &list::COMMAND,
                &plan::COMMAND,
                &cdi::COMMAND,
                &doctor::COMMAND,
                &ps::COMMAND,
                &config::COMMAND,
                &install::INSTALL,
                &install::UNINSTALL,
                &upgrade::COMMAND,
                &ldconfig::COMMAND,
            ],
        },
        Group {
            heading: "For engines",
            commands: &[&hook::COMMAND, &RUNTIME, &cdi_hook::COMMAND],
        },
        Group {
            heading: "For packages",
            commands: &[&VERSION_COMMAND, &texts::COMMAND],
        },
    ],
    flags: &[flag("version", "print the version").short('V').shows(VERSION)],
    ..Command::of(|()| {
        print(&cli::help(&COMMAND))?;
        Ok(ExitCode::SUCCESS)
    })
};

/// `nvoci version`, for `nvoci --version`.
static VERSION_COMMAND: Command<()> = Command {
    page: Page {
        name: "nvoci version",
        summary: "print the version",
        hidden: true,
        ..Page::EMPTY
    },
    ..Command::of(|()| {
        print(VERSION)?;
        Ok(ExitCode::SUCCESS)
    })
};

/// The release of the vendor's toolkit and library whose command lines nvoci has. Callers read it
/// before they use an option.
macro_rules! toolkit_version {
    () => {
        "1.20.0"
    };
}
use toolkit_version;

/// The output of `--version`.
const VERSION: &str = concat!("nvoci ", env!("CARGO_PKG_VERSION"), "\n");

static RUNTIME: Foreign = Foreign {
    page: Page {
        name: "nvoci runtime",
        summary: "run as an OCI runtime in front of runc or crun",
        usage: &["nvoci runtime [RUNC'S ARGUMENTS]"],
        about: &[
            "Takes runc's command line. On create and run it edits config.json of the bundle; everything \
                  else goes to runc or crun as it is. Engines start it as nvoci-runtime, whose `--help` is \
                  the low-level runtime's own.",
        ],
        ..Page::EMPTY
    },
    run: |args| match args.as_slice() {
        [help] if help == "--help" || help == "-h" => {
            print(&cli::help(&RUNTIME))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Ok(runtime("nvoci-runtime", args)),
    },
};

/// Runs the entry point of `args`, which begin with the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::set_umask();
    inroot::set_label("nvoci");
    let mut args = args.into_iter().collect::<Vec<OsString>>().into_iter();
    let name = args.next().unwrap_or_default();
    let name = Path::new(&name)
        .file_name()
        .unwrap_or(OsStr::new("nvoci"))
        .to_string_lossy()
        .into_owned();
    // Packages that wrap a program rename the original to NAME.real.
    let name = name.strip_suffix(".real").unwrap_or(&name).to_owned();
    match by_name(&name, args) {
        Ok(code) => code,
        Err(Failed { error, as_json }) => {
            let status = status(&name, &error);
            inject::write_line(&error.to_string());
            if as_json {
                // The line on standard error is the message if standard output cannot be written.
                let _ = print(&format!("{:#}\n", json!({ "error": error.to_json(status) })));
            }
            ExitCode::from(status)
        }
    }
}

/// The exit status of an error, by the program's name.
///
/// The vendor's programs exit with 1. Those with Go's flag package exit with 2 for a wrong command
/// line, and `nvidia-ctk` with 3 for an unknown command.
fn status(name: &str, e: &Error) -> u8 {
    let usage = e.code().class() == Class::Usage;
    match name {
        "nvidia-ctk" if usage && e.why() == cli::NO_SUCH_COMMAND => 3,
        "nvidia-cdi-hook" | "nvidia-ctk" => 1,
        _ if name.starts_with("nvidia-") && !usage => 1,
        _ => e.code().class().status(),
    }
}

/// Selects the command line's syntax by the program's name. The name never decides privilege.
fn by_name(name: &str, args: IntoIter<OsString>) -> Result<ExitCode, Failed> {
    match name {
        "nvidia-container-runtime-hook" | "nvidia-container-toolkit" => hook::COMMAND.start(args),
        "nvidia-cdi-hook" => cdi_hook::COMMAND.start(args),
        "nvidia-ctk" => ctk::run(args),
        "nvidia-container-cli" => Ok(container_cli::run(args)?),
        "nvoci-runtime"
        | "nvidia-container-runtime"
        | "nvidia-container-runtime.cdi"
        | "nvidia-container-runtime.legacy" => Ok(runtime(name, args)),
        _ => COMMAND.start(args),
    }
}

/// The runtime reports its own failures, in the file that engines read.
fn runtime(name: &str, args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    runtime::run(OsStr::new(name), &args, &wiring::Injection)
}

/// Whether a new file `name` would replace a device, a FIFO, a socket, a directory, or a link of
/// root's or of the caller's. `--output /dev/null` would take the node away from the whole host. A
/// link of another user is replaced, and never followed.
fn is_taken(dir: &Node, name: &OsStr) -> bool {
    let own = rustix::process::geteuid().as_raw();
    dir.child(name).is_ok_and(|there| {
        !there.is_file() && (!there.is_symlink() || [0, own].contains(&there.stat().st_uid))
    })
}

/// Writes `text` to standard output.
///
/// # Errors
/// If it cannot be written whole, as to a full file system. A reader that closes the pipe (`|
/// head`) causes no error.
fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

/// [`print`] for content that is not text.
fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    // Flushed here: the flush at exit would lose an error.
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context(Code::System, || "write to standard output"),
    }
}

/// The program `name` of this installation: beside this program if nvoci-runtime is there too (a
/// tarball's prefix), else in the packages' directory. root executes the result later, so it is
/// proved.
///
/// # Errors
/// Those of [`Program::prove`]; the message names the path.
fn installed(name: &str) -> Result<Program> {
    Program::prove(&installation(name))
}

/// The packages' directory of programs.
const PACKAGED: &str = "/usr/bin";

/// The path that [`installed`] proves.
fn installation(name: &str) -> PathBuf {
    let here = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_path_buf))
        .filter(|dir| dir.join("nvoci-runtime").exists())
        .unwrap_or_else(|| Path::new(PACKAGED).to_path_buf());
    here.join(name)
}

/// The driver's paths in the configuration.
fn locations(config: &Config) -> Locations {
    Locations {
        driver_root: config.driver_root.value.clone(),
        dev_root: config.dev_root.value.clone(),
        library_dirs: config.library_dirs.value.clone(),
        ldcache: config.ldcache.value.clone(),
        mps_dir: config.mps_dir.value.clone(),
        mps_user: *config.mps_user,
        csv_dir: config.csv_dir.value.clone(),
        site_devices: config.extra.iter().flat_map(|e| e.devices.clone()).collect(),
        ..Locations::default()
    }
}

/// The configuration for a container that may not request a GPU.
///
/// A broken file must not stop containers without GPUs. It is an error only if the built-in policy
/// finds a request.
fn config_for(loaded: Result<Box<Config>>, spec: &Spec, entry: EntryPoint) -> Result<Option<Box<Config>>> {
    match loaded {
        Ok(config) => Ok(Some(config)),
        Err(e) => {
            let defaults = Config::default();
            let wants = inject::with_inputs(spec, entry, |i| wants_gpu_fast(i, &defaults));
            if wants { Err(e) } else { Ok(None) }
        }
    }
}

/// The host's configuration, or the file that the command line names.
///
/// It is half a page, so a value that moved from step to step would be a frame of several pages,
/// each of which the kernel makes, and copies after a fork.
#[inline(never)]
fn load_config(named: Option<&Path>) -> Result<Box<Config>> {
    named.map_or_else(Config::load, Config::load_file).map(Box::new)
}

/// The configuration of a host without a file.
#[inline(never)]
fn default_config() -> Box<Config> {
    Box::default()
}
