//! `nvoci runtime`: an OCI runtime that is runc or crun, except that `create` and `run` edit config.json first.
//!
//! Every other command is handed on untouched, and at once: containerd calls its runtime for each `state`, `kill` and
//! `exec`. The environment, the descriptors and the arguments that the low-level runtime gets are the caller's.
//!
//! A failure is one line on standard error and, since containerd, Docker and Podman look there, in the file that
//! `--log` names, in the form that `--log-format` names. The exit status is then 1 as runc's is, the runtime was not
//! started, and config.json is as it was.

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
use crate::sys::process;

/// What the vendor's names of this program say about how a request is met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flavor {
    /// As configured.
    Configured,
    /// `nvidia-container-runtime.cdi`: every request names a CDI device.
    Cdi,
    /// `nvidia-container-runtime.legacy`: no request does.
    Legacy,
}

impl Flavor {
    /// The flavor that a program name, with or without its directory, asks for.
    pub fn of(name: &OsStr) -> Self {
        match name.as_encoded_bytes() {
            n if n.ends_with(b"-runtime.cdi") => Self::Cdi,
            n if n.ends_with(b"-runtime.legacy") => Self::Legacy,
            _ => Self::Configured,
        }
    }
}

/// What this entry point needs from the rest of the program.
pub trait Wiring {
    /// The root-owned configuration.
    fn config(&self) -> Result<Config>;

    /// Edits the spec of a container that is about to be made. After an error nothing is written.
    fn modify(&self, config: &Config, make: &Make<'_>, spec: &mut Spec) -> Result<()>;

    /// Keeps a failure where `nvoci doctor` finds it.
    fn record(&self, target: Option<&Target>, error: &Error);
}

/// The container that is about to be made.
#[derive(Debug)]
pub struct Make<'a> {
    /// What the name that we were called by says.
    pub flavor: Flavor,
    /// What the command line says.
    pub target: &'a Target,
    /// Its bundle.
    pub bundle: &'a Bundle,
    /// What the command may spend on its definition and on CDI specifications.
    pub budget: &'a Budget,
}

/// Acts as the OCI runtime `name` with the words `args`. Returns only on failure.
pub fn run(name: &OsStr, args: &[OsString], wiring: &impl Wiring) -> ExitCode {
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

/// Finds the low-level runtime and edits the spec if there is one to edit. The runtime comes first, so that a spec is
/// edited only if the container is then made.
fn prepare(flavor: Flavor, line: &CommandLine, wiring: &impl Wiring) -> Result<PathBuf> {
    let target = line.target.as_ref().map_err(Clone::clone)?;
    // A broken configuration file must not keep `kill` and `delete` from working, nor containers that
    // have nothing to do with GPUs from starting.
    let (config, broken) = match wiring.config() {
        Ok(config) => (config, None),
        Err(e) => (Config::default(), Some(e)),
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

/// Becomes the low-level runtime; returns why not.
///
/// SIGPIPE, which Rust's runtime ignores, is set to its default again, and the umask to the caller's: a container inherits it.
/// Nothing else of the process is changed.
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

    /// Adds one hook, unless told to fail.
    struct Fake {
        fail: bool,
        recorded: RefCell<Vec<String>>,
    }

    impl Wiring for Fake {
        fn config(&self) -> Result<Config> {
            let mut config = Config::default();
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
    fn the_file_that_crun_is_told_to_read_is_the_one_edited() {
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
    fn a_refused_container_leaves_its_spec_and_says_why_in_the_log() {
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
