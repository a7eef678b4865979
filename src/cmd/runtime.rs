//! `nvoci runtime`: runs runc or crun as it is, except that `create` and `run` edit config.json
//! first.
//!
//! It executes every other command unchanged and at once: containerd calls its runtime for each
//! `state`, `kill` and `exec`. The low-level runtime gets the caller's environment, descriptors and
//! arguments.
//!
//! A failure is one line on standard error. containerd, Docker and Podman read the file of `--log`,
//! so the line also goes there, in the form of `--log-format`. Then the exit status is 1 as runc's
//! is, the runtime was not started, and config.json is unchanged.

pub mod argv;
mod find;
mod log;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

pub use argv::{CommandLine, Target};
pub(super) use log::rfc3339;

use super::inject::open_bundle;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::oci::{Bundle, Spec};
use crate::sys::budget::Budget;
use crate::sys::{held, process};

/// The meaning of device names, by the vendor's names of this program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flavor {
    /// As configured.
    Configured,
    /// `nvidia-container-runtime.cdi`: every requested name is a CDI device.
    Cdi,
    /// `nvidia-container-runtime.legacy`: no requested name is one.
    Legacy,
}

impl Flavor {
    /// The flavor of a program name, with or without its directory.
    pub fn of(name: &OsStr) -> Self {
        match name.as_encoded_bytes() {
            n if n.ends_with(b"-runtime.cdi") => Self::Cdi,
            n if n.ends_with(b"-runtime.legacy") => Self::Legacy,
            _ => Self::Configured,
        }
    }
}

/// The rest of the program, as this entry point uses it.
pub trait Wiring {
    /// The root-owned configuration.
    fn config(&self) -> Result<Box<Config>>;

    /// Edits the spec of a container that will be created. After an error nothing is written.
    fn modify(&self, config: &Config, make: &Make<'_>, spec: &mut Spec) -> Result<()>;

    /// Records a failure for `nvoci doctor --last`.
    fn record(&self, target: Option<&Target>, error: &Error);
}

/// The container that will be created.
#[derive(Debug)]
pub struct Make<'a> {
    /// The flavor, by this program's name.
    pub flavor: Flavor,
    /// The command line's data.
    pub target: &'a Target,
    /// Its bundle.
    pub bundle: &'a Bundle,
    /// The budget for its definition and for CDI specifications.
    pub budget: &'a Budget,
}

/// Runs as the OCI runtime `name` with the words `args`. Returns only on failure.
pub fn run(name: &OsStr, args: &[OsString], wiring: &impl Wiring) -> ExitCode {
    // The low-level runtime inherits none of them: all are close-on-exec.
    held::gather();
    let line = CommandLine::parse(args);
    let error = match prepare(Flavor::of(name), &line, wiring) {
        Ok(runtime) => exec(&runtime, args),
        Err(error) => error,
    };
    let target = line.target.as_ref().ok().and_then(Option::as_ref);
    wiring.record(target, &error);
    log::report(&error, &line);
    ExitCode::FAILURE
}

/// Finds the low-level runtime, then edits the spec. A spec is so edited only if there is a runtime
/// to create the container.
fn prepare(flavor: Flavor, line: &CommandLine, wiring: &impl Wiring) -> Result<PathBuf> {
    let target = line.target.as_ref().map_err(Clone::clone)?;
    // A broken configuration file must not stop `kill` and `delete`, nor containers without GPUs.
    let (config, broken) = match wiring.config() {
        Ok(config) => (config, None),
        Err(e) => (super::default_config(), Some(e)),
    };
    let runtime = find::runtime(&config.runtimes.value, &config.runtime_paths.value)?;
    if let Some(target) = target {
        let budget = Budget::default();
        let (bundle, mut spec) = open_bundle(&target.bundle, target.config.as_deref(), &config, &budget)?;
        let make = Make {
            flavor,
            target,
            bundle: &bundle,
            budget: &budget,
        };
        wiring.modify(&config, &make, &mut spec)?;
        if let Some(broken) = broken
            && spec.is_changed()
        {
            return Err(broken);
        }
        bundle.write(&spec)?;
    }
    Ok(runtime)
}

/// Executes the low-level runtime; returns the reason of a failure.
///
/// It resets SIGPIPE, which Rust's runtime ignores, and the umask to the caller's: a container
/// inherits them. The process is otherwise unchanged.
fn exec(runtime: &Path, args: &[OsString]) -> Error {
    process::restore_umask();
    let cause: io::Error = Command::new(runtime).args(args).exec();
    Error::io(
        Code::Runtime,
        format!("low-level runtime {}", runtime.display()),
        &cause,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{HookSpec, Stage};
    use std::cell::RefCell;

    /// Adds one hook, or fails on request.
    struct Fake {
        fail: bool,
        recorded: RefCell<Vec<String>>,
    }

    impl Wiring for Fake {
        fn config(&self) -> Result<Box<Config>> {
            let mut config = Box::<Config>::default();
            config.runtimes.value = vec!["/bin/sh".into()];
            Ok(config)
        }

        fn modify(&self, _: &Config, make: &Make<'_>, spec: &mut Spec) -> Result<()> {
            assert!(make.bundle.path().is_absolute() && make.target.id == "c1");
            spec.set_env("NVIDIA_VISIBLE_DEVICES", "void")?;
            if self.fail {
                return Err(Error::new(Code::UnknownDevice, "GPU 7", "no such device"));
            }
            spec.remove_hooks(Stage::Prestart, |h| {
                h.path.ends_with("/nvidia-container-runtime-hook")
            });
            let hook = HookSpec::new(
                "/usr/bin/nvoci",
                vec!["nvoci".into(), "hook".into()],
                "PATH",
                "/bin",
            );
            spec.add_hook(Stage::CreateContainer, &hook)
        }

        fn record(&self, target: Option<&Target>, error: &Error) {
            let id = target.map_or_else(String::new, |t| t.id.clone());
            self.recorded.borrow_mut().push(format!("{id}: {error}"));
        }
    }

    fn fake(fail: bool) -> Fake {
        Fake {
            fail,
            recorded: RefCell::default(),
        }
    }

    fn bundle(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        dir
    }

    fn words(dir: &Path, line: &str) -> Vec<OsString> {
        let bundle = dir.display().to_string();
        line.split_whitespace()
            .map(|w| w.replace('@', &bundle).into())
            .collect()
    }

    fn config(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("config.json")).unwrap()
    }

    fn call(dir: &Path, line: &str) -> Result<PathBuf> {
        let line = CommandLine::parse(&words(dir, line));
        prepare(Flavor::Configured, &line, &fake(false))
    }

    const PLAIN: &str = r#"{"process":{"env":["A=1"]},"new":[0.10]}"#;

    #[test]
    fn a_container_that_is_made_gets_one_hook_however_often() {
        let dir = bundle(
            r#"{"hooks":{"prestart":[{"path":"/usr/bin/nvidia-container-runtime-hook","args":["x","prestart"]}]}}"#,
        );
        call(dir.path(), "create --bundle @ c1").unwrap();
        let once = config(dir.path());
        assert_eq!(
            once,
            r#"{"hooks":{"prestart":[],"createContainer":[{"path":"/usr/bin/nvoci","args":["nvoci","hook"],"env":["PATH=/bin"]}]}}"#
        );
        call(dir.path(), "run -b @ c1").unwrap();
        assert_eq!(config(dir.path()), once);
    }

    #[test]
    fn other_commands_leave_the_spec_alone() {
        let dir = bundle(PLAIN);
        for line in [
            "start create",
            "state c1",
            "restore --bundle @ c1",
            "--version",
            "create --help",
        ] {
            assert_eq!(call(dir.path(), line).unwrap(), Path::new("/bin/sh"));
        }
        assert_eq!(config(dir.path()), PLAIN);
    }

    #[test]
    fn the_file_of_cruns_config_option_is_edited() {
        let dir = bundle(PLAIN);
        std::fs::write(dir.path().join("other.json"), PLAIN).unwrap();
        call(dir.path(), "run --config @/other.json --bundle @ c1").unwrap();
        assert_eq!(config(dir.path()), PLAIN);
        assert!(
            std::fs::read_to_string(dir.path().join("other.json"))
                .unwrap()
                .contains("nvoci")
        );
    }

    #[test]
    fn a_refused_container_leaves_its_spec_and_logs_the_reason() {
        let dir = bundle(PLAIN);
        let wiring = fake(true);
        for format in ["json", "text"] {
            let args = words(
                dir.path(),
                &format!("--log @/log --log-format {format} create --bundle @ c1"),
            );
            assert_eq!(
                run(OsStr::new("nvoci-runtime"), &args, &wiring),
                ExitCode::FAILURE
            );
        }
        assert_eq!(config(dir.path()), PLAIN);
        assert_eq!(wiring.recorded.borrow().len(), 2);
        assert!(wiring.recorded.borrow()[0].starts_with("c1: GPU 7: no such device; fix: "));

        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let (json, text) = log.trim_end().split_once('\n').unwrap();
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["level"], "error");
        assert!(
            json["msg"]
                .as_str()
                .unwrap()
                .starts_with("nvoci: GPU 7: no such device")
        );
        assert!(text.starts_with("time=\"20") && text.contains("Z\" level=error msg=\"nvoci: GPU 7"));
    }

    #[test]
    fn names_choose_the_flavor() {
        for (name, flavor) in [
            ("/usr/bin/nvidia-container-runtime.cdi", Flavor::Cdi),
            ("nvidia-container-runtime.legacy", Flavor::Legacy),
            ("nvidia-container-runtime", Flavor::Configured),
            ("nvoci", Flavor::Configured),
        ] {
            assert_eq!(Flavor::of(OsStr::new(name)), flavor);
        }
    }
}
