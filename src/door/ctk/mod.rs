//! `nvidia-ctk`: the command line of the NVIDIA Container Toolkit, for scripts and tools that call it.

mod config;
mod system;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};

use super::install::{self, Verb};
use super::{cdi, cdi_hook, print};
use crate::error::{Code, Error, Result};

const HELP: &str = "\
Usage: nvidia-ctk [--debug] [--quiet] COMMAND

  runtime configure   register nvoci with docker, containerd or crio
  cdi                 generate, list, transform
  config              the NVIDIA Container Toolkit's config.toml: show, set keys
  system              create-device-nodes, create-dev-char-symlinks
  hook                the hooks of CDI specifications

nvoci answers to this name so that what calls it keeps working; `nvoci --help` has its own commands.
";

const RUNTIME_HELP: &str = "\
Usage: nvidia-ctk runtime configure [OPTIONS]

  --runtime=docker|containerd|crio   (docker)
  --config=FILE                      in place of the engine's usual file
  --nvidia-runtime-name=NAME         (nvidia)
  --nvidia-runtime-path=FILE         absolute; by default nvoci's own
  --nvidia-set-as-default, --set-as-default
  --cdi.enabled
  --dry-run                          show the change and make none

Accepted without effect: --config-mode=config-file, --config-source, --executable-path, --drop-in-config.
";

/// Options of `runtime configure` that take a value which changes nothing here.
const ACCEPTED: &[&str] = &[
    "config-source",
    "executable-path",
    "drop-in-config",
    "nvidia-runtime-hook-path",
];

/// Runs the command line after the program's name.
pub fn run(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    loop {
        let word = args.next();
        match word.as_deref().and_then(OsStr::to_str) {
            Some("--debug" | "-d" | "--quiet") => {}
            Some("hook") => return cdi_hook::run(args),
            Some("cdi") => return cdi::run(args),
            Some("config") => return config::run(args),
            Some("runtime") => return runtime(args),
            Some("system") => return system::run(args),
            Some("--help" | "-h" | "help" | "h") | None => {
                print(HELP)?;
                return Ok(ExitCode::SUCCESS);
            }
            Some("--version" | "-v") => {
                print(&format!(
                    "NVIDIA Container Toolkit CLI version {}\n",
                    env!("CARGO_PKG_VERSION")
                ))?;
                return Ok(ExitCode::SUCCESS);
            }
            Some(other) => return Err(usage(format!("there is no command `{other}`"))),
        }
    }
}

/// `runtime configure`: the same as `nvoci install`, whose options it becomes.
fn runtime(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    match args.next().as_deref().and_then(OsStr::to_str) {
        Some("configure") => {}
        Some("--help" | "-h") | None => {
            print(RUNTIME_HELP)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => return Err(usage(format!("`runtime` has no command `{other}`"))),
    }
    if let Some(options) = installation(args)? {
        return install::run(Verb::Install, options.into_iter());
    }
    print(RUNTIME_HELP)?;
    Ok(ExitCode::SUCCESS)
}

/// The arguments of `nvoci install`; `None` when help was asked for.
fn installation(args: impl Iterator<Item = OsString>) -> Result<Option<Vec<OsString>>> {
    let mut parser = Parser::from_args(args);
    let mut engine = "docker".to_owned();
    let mut options: Vec<OsString> = Vec::new();
    let bad = |e: lexopt::Error| usage(e.to_string());
    while let Some(arg) = parser.next().map_err(bad)? {
        let name = match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long(name) => name.to_owned(),
            other => return Err(bad(other.unexpected())),
        };
        let mut value = || parser.value().and_then(ValueExt::string).map_err(bad);
        match name.as_str() {
            "runtime" => engine = value()?,
            "config" => options.extend(["--config".into(), value()?.into()]),
            "nvidia-runtime-name" => options.extend(["--runtime-name".into(), value()?.into()]),
            "nvidia-runtime-path" | "runtime-path" => {
                let path = value()?;
                // The vendor's own default, a bare name, is ours.
                if path != "nvidia-container-runtime" {
                    options.extend(["--runtime-path".into(), path.into()]);
                }
            }
            "nvidia-set-as-default" | "set-as-default" => flag("--set-as-default", &mut parser, &mut options),
            "cdi.enabled" | "cdi.enable" | "enable-cdi" => flag("--cdi", &mut parser, &mut options),
            "dry-run" => flag("--dry-run", &mut parser, &mut options),
            "config-mode" => match value()?.as_str() {
                "" | "config-file" | "config" => {}
                mode => {
                    return Err(usage(format!("--config-mode={mode} is not supported"))
                        .fix("a hooks directory gets nvoci's file by `nvoci install podman`"));
                }
            },
            other if ACCEPTED.contains(&other) => drop(value()?),
            other => return Err(usage(format!("there is no option --{other}"))),
        }
    }
    if !matches!(engine.as_str(), "docker" | "containerd" | "crio") {
        return Err(usage(format!(
            "--runtime takes docker, containerd or crio, not `{engine}`"
        )));
    }
    options.push(engine.into());
    Ok(Some(options))
}

/// A flag, which Go's programs also take as `--flag=false`.
fn flag(ours: &str, parser: &mut Parser, options: &mut Vec<OsString>) {
    if parser.optional_value().is_none_or(|v| v != "false") {
        options.push(ours.into());
    }
}

pub(super) fn usage(why: impl Into<String>) -> Error {
    Error::new(Code::Usage, "nvidia-ctk", why).fix("see `nvidia-ctk --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(line: &str) -> Result<String> {
        let options = installation(line.split_whitespace().map(OsString::from))?.unwrap_or_default();
        Ok(options
            .iter()
            .map(|o| o.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn runtime_configure_becomes_install() {
        for (theirs, ours) in [
            ("", "docker"),
            ("--runtime=docker --set-as-default", "--set-as-default docker"),
            (
                "--runtime=containerd --cdi.enabled --dry-run",
                "--cdi --dry-run containerd",
            ),
            (
                "--runtime crio --config /etc/crio/x.conf",
                "--config /etc/crio/x.conf crio",
            ),
            (
                "--nvidia-runtime-path=nvidia-container-runtime --set-as-default=false",
                "docker",
            ),
            (
                "--nvidia-runtime-path=/opt/x --nvidia-runtime-name=gpu",
                "--runtime-path /opt/x --runtime-name gpu docker",
            ),
            (
                "--config-source=command --executable-path=/usr/bin/containerd",
                "docker",
            ),
        ] {
            assert_eq!(installed(theirs).unwrap(), ours, "{theirs}");
        }
        for bad in ["--runtime=podman", "--config-mode=oci-hook", "--bogus", "word"] {
            assert!(installed(bad).is_err(), "{bad}");
        }
    }
}
