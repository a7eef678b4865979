//! `nvidia-ctk runtime configure`: `nvoci install` under the vendor's options.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::config::write;
use crate::cmd::cli::{Command, Page, Table as _, flag};
use crate::cmd::inject::{warn, write_line};
use crate::cmd::{install, installation, print};
use crate::error::{Code, Error, Escaped, IoContext as _, Result};
use crate::sys::program::Program;

pub(super) static COMMAND: Command<Configure> = Command {
    page: Page {
        name: "nvidia-ctk runtime configure",
        summary: "the same as `nvoci install`",
        about: &[
            "Registers nvoci with an engine, as `nvoci install` does. With --dry-run the resulting file is printed, and \
             nothing else.",
        ],
        ..Page::EMPTY
    },
    flags: &[
        flag("runtime", "the engine (default docker)")
            .values(&["docker", "containerd", "crio"])
            .text("", |o: &mut Configure, engine| {
                if !matches!(engine.as_str(), "docker" | "containerd" | "crio") {
                    return Err(format!("`{engine}` is not docker, containerd or crio"));
                }
                o.engine = engine;
                Ok(())
            }),
        flag("config", "edit this file in place of the engine's usual one").path("FILE", |o, file| {
            o.options.extend(["--config".into(), file.into()]);
        }),
        flag(
            "drop-in-config",
            "write the runtime to FILE; containerd's main file then imports its directory",
        )
        .path("FILE", |o, file| o.drop_in = Some(file)),
        flag("nvidia-runtime-name", "the runtime's name (default nvidia)").text("NAME", |o, name| {
            o.options.extend(["--runtime-name".into(), name.into()]);
            Ok(())
        }),
        flag(
            "nvidia-runtime-path",
            "the runtime's path (default nvoci's own); for docker a name that it looks up",
        )
        .aliases(&["runtime-path"])
        .text("FILE", |o, path| {
            // The vendor's default, a bare name, is nvoci's default too.
            if path != "nvidia-container-runtime" {
                o.options.extend(["--runtime-path".into(), path.into()]);
            }
            Ok(())
        }),
        flag("nvidia-set-as-default", "make it the engine's default runtime")
            .aliases(&["set-as-default"])
            .toggle(|o, on| o.set(on, "--set-as-default")),
        flag("cdi.enabled", "turn the engine's CDI support on")
            .aliases(&["cdi.enable", "enable-cdi"])
            .toggle(|o, on| o.set(on, "--cdi")),
        flag("dry-run", "print the resulting file and write nothing").toggle(|o, on| o.dry_run = on),
        flag(
            "config-mode",
            "`config-file`, or `oci-hook`: write a hooks directory's file instead",
        )
        .values(&["config-file", "oci-hook"])
        .text("MODE", |o, mode| {
            o.hook = match mode.as_str() {
                "" | "config-file" | "config" => false,
                "oci-hook" | "hook" => true,
                _ => return Err(format!("`{mode}` is neither config-file nor oci-hook")),
            };
            Ok(())
        }),
        flag("oci-hook-path", "with --config-mode=oci-hook: write FILE instead of standard output")
            .path("FILE", |o, file| o.hook_file = Some(file)),
        flag("nvidia-runtime-hook-path", "with --config-mode=oci-hook: the hook (default nvoci's own)")
            .path("FILE", |o, file| o.hook_path = Some(file)),
        flag(
            "config-source",
            "`file`, or `command`: the engine's program must be there, and takes part in the check of the result",
        )
        .list("SOURCE", |o, source| {
            o.sources.push(match source {
                "command" => Source::Command,
                "file" => Source::File,
                other => return Err(format!("`{other}` is neither command nor file")),
            });
            Ok(())
        }),
        flag("executable-path", "with --config-source=command: the engine's program")
            .path("FILE", |o, file| o.executable = Some(file)),
    ],
    ..Command::of(run)
};

/// The sources of the present configuration in the vendor's program. nvoci reads files with their
/// imports, and the engine's program validates the result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    Command,
    File,
}

pub(super) struct Configure {
    engine: String,
    /// Options of `nvoci install`.
    options: Vec<OsString>,
    drop_in: Option<PathBuf>,
    dry_run: bool,
    hook: bool,
    hook_file: Option<PathBuf>,
    hook_path: Option<PathBuf>,
    sources: Vec<Source>,
    executable: Option<PathBuf>,
}

impl Default for Configure {
    fn default() -> Self {
        Self {
            engine: "docker".to_owned(),
            options: Vec::new(),
            drop_in: None,
            dry_run: false,
            hook: false,
            hook_file: None,
            hook_path: None,
            sources: Vec::new(),
            executable: None,
        }
    }
}

impl Configure {
    fn set(&mut self, on: bool, ours: &str) {
        if on {
            self.options.push(ours.into());
        }
    }

    /// The arguments of `nvoci install`.
    fn into_args(self) -> Vec<OsString> {
        let mut args = self.options;
        if let Some(file) = self.drop_in {
            args.extend(["--drop-in".into(), file.into()]);
        }
        if self.dry_run {
            args.push("--dry-run".into());
        }
        args.push(self.engine.into());
        args
    }

    /// Checks that the sources are available.
    fn check_sources(&self) -> Result<()> {
        if self.engine == "docker"
            || !self.sources.contains(&Source::Command)
            || self.sources.contains(&Source::File)
        {
            return Ok(());
        }
        match &self.executable {
            Some(path) => Program::prove(path).map(drop),
            None if Program::find(&self.engine).is_some() => Ok(()),
            None => {
                let why = "it is not installed where only root can write, so it cannot be the configuration's source";
                Err(Error::new(Code::NoProgram, self.engine.as_str(), why)
                    .fix("use `--config-source=file`, or name the program: `--executable-path FILE`"))
            }
        }
    }
}

fn run(options: Configure) -> Result<ExitCode> {
    if options.hook {
        return write_hook(&options);
    }
    options.check_sources()?;
    let dry_run = options.dry_run;
    let args = options.into_args().into_iter();
    if !dry_run {
        return install::INSTALL.start(args).map_err(|failed| failed.error);
    }
    for result in install::results(args)? {
        for warning in result.warnings {
            write_line(&format!("warning: {}", Escaped(&warning)));
        }
        for text in result.texts {
            print(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the hook for every container, as older CRI-O set-ups have it.
fn write_hook(options: &Configure) -> Result<ExitCode> {
    const NAME: &str = "nvidia-container-runtime-hook";
    let path = options.hook_path.clone().unwrap_or_else(|| installation(NAME));
    let absolute = std::path::absolute(&path).context(Code::Usage, || "--nvidia-runtime-hook-path")?;
    warn(&["the hook mode is for old set-ups: engines take CDI devices, or the runtime".to_owned()]);
    if let Err(e) = Program::prove(&absolute) {
        warn(&[format!(
            "{}: {}; root executes it for every container",
            absolute.display(),
            e.why()
        )]);
    }
    let text = hook_of(&absolute);
    if let (Some(file), false) = (&options.hook_file, options.dry_run) {
        write(
            &std::path::absolute(file).context(Code::Usage, || "--oci-hook-path")?,
            &text,
        )?;
    } else {
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A hooks directory's file, format 1.0.0. runc before 1.3 gives a hook without an environment the
/// image's.
fn hook_of(path: &Path) -> String {
    let hook = json!({
        "version": "1.0.0",
        "hook": {
            "path": path.display().to_string(),
            "args": ["nvidia-container-runtime-hook", "prestart"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        },
        "when": {"always": true, "commands": [".*"]},
        "stages": ["prestart"]
    });
    format!("{hook:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Configure> {
        let options = COMMAND.parse(line.split_whitespace().map(OsString::from))?;
        Ok(options.unwrap_or_default())
    }

    fn installed(line: &str) -> Result<String> {
        let options = parsed(line)?.into_args();
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
                "--runtime containerd --drop-in-config /etc/containerd/conf.d/99-nvidia.toml",
                "--drop-in /etc/containerd/conf.d/99-nvidia.toml containerd",
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
                "--config-source=command,file --executable-path=/usr/bin/containerd",
                "docker",
            ),
        ] {
            assert_eq!(installed(theirs).unwrap(), ours, "{theirs}");
        }
        for bad in [
            "--runtime=podman",
            "--config-mode=bogus",
            "--config-source=bogus",
            "--set-as-default=maybe",
            "--bogus",
            "word",
        ] {
            assert!(installed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_that_is_not_there_is_no_source() {
        let refused = |line: &str| parsed(line).unwrap().check_sources().is_err();
        assert!(refused(
            "--runtime=containerd --config-source=command --executable-path=/nonexistent"
        ));
        assert!(!refused(
            "--runtime=containerd --config-source=command,file --executable-path=/nonexistent"
        ));
        assert!(!refused("--runtime=docker --config-source=command"));
    }
}
