//! `nvidia-ctk`: the command line of the NVIDIA Container Toolkit, for scripts and tools that call it.

mod config;
mod system;

use std::ffi::OsString;
use std::process::ExitCode;
use std::vec::IntoIter;

use super::cli::{Command, Foreign, Group, Page, Table, flag, help};
use super::{cdi, cdi_hook, install, print};
use crate::error::Result;

pub(super) static COMMAND: Command<()> = Command {
    page: Page {
        name: "nvidia-ctk",
        summary: "nvoci, called by the name of the NVIDIA Container Toolkit's program",
        usage: &["nvidia-ctk [--debug] [--quiet] COMMAND"],
        about: &[
            "nvoci answers to this name so that scripts and tools that call it keep working; `nvoci --help` \
                  lists its own commands.",
        ],
        ..Page::EMPTY
    },
    commands: &[Group {
        heading: "Commands",
        commands: &[&RUNTIME, &cdi::COMMAND, &config::COMMAND, &system::COMMAND, &HOOK],
    }],
    flags: &[
        flag("debug", "accepted without effect")
            .short('d')
            .switch(|()| {}),
        flag("quiet", "accepted without effect").switch(|()| {}),
        flag("version", "print the version").short('v').shows(concat!(
            "NVIDIA Container Toolkit CLI version ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        )),
    ],
    ..Command::of(|()| show_help(&COMMAND))
};

static HOOK: Foreign = Foreign {
    page: Page {
        name: "nvidia-ctk hook",
        summary: "run as the hooks of CDI specifications",
        ..Page::EMPTY
    },
    run: |args| cdi_hook::COMMAND.start(args),
};

static RUNTIME: Command<()> = Command {
    page: Page {
        name: "nvidia-ctk runtime",
        summary: "register nvoci with docker, containerd or crio",
        ..Page::EMPTY
    },
    commands: &[Group {
        heading: "Commands",
        commands: &[&CONFIGURE],
    }],
    ..Command::of(|()| show_help(&RUNTIME))
};

static CONFIGURE: Command<Configure> = Command {
    page: Page {
        name: "nvidia-ctk runtime configure",
        summary: "the same as `nvoci install`",
        about: &["Registers nvoci with an engine, as `nvoci install` does."],
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
        flag("nvidia-runtime-name", "the runtime's name (default nvidia)").text("NAME", |o, name| {
            o.options.extend(["--runtime-name".into(), name.into()]);
            Ok(())
        }),
        flag(
            "nvidia-runtime-path",
            "the runtime's absolute path (default nvoci's own)",
        )
        .aliases(&["runtime-path"])
        .text("FILE", |o, path| {
            // The vendor's own default, a bare name, is ours.
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
        flag("dry-run", "show the change and make none").toggle(|o, on| o.set(on, "--dry-run")),
        flag("config-mode", "`config-file` alone is supported").text("MODE", |_, mode| match mode.as_str() {
            "" | "config-file" | "config" => Ok(()),
            _ => Err(format!(
                "`{mode}` is not supported; `nvoci install podman` writes a hooks directory's file"
            )),
        }),
        flag("config-source", "accepted without effect").text("SOURCE", |_, _| Ok(())),
        flag("executable-path", "accepted without effect").text("FILE", |_, _| Ok(())),
        flag("drop-in-config", "accepted without effect").text("FILE", |_, _| Ok(())),
        flag("nvidia-runtime-hook-path", "accepted without effect").text("FILE", |_, _| Ok(())),
    ],
    ..Command::of(|asked| install::INSTALL.start(asked.into_args().into_iter()))
};

/// The arguments of `nvoci install`.
struct Configure {
    engine: String,
    options: Vec<OsString>,
}

impl Default for Configure {
    fn default() -> Self {
        Self {
            engine: "docker".to_owned(),
            options: Vec::new(),
        }
    }
}

impl Configure {
    fn set(&mut self, on: bool, ours: &str) {
        if on {
            self.options.push(ours.into());
        }
    }

    fn into_args(self) -> Vec<OsString> {
        let mut args = self.options;
        args.push(self.engine.into());
        args
    }
}

/// Runs the command line after the program's name.
pub(super) fn run(mut args: IntoIter<OsString>) -> Result<ExitCode> {
    let before = |word: &OsString| ["--debug", "-d", "--quiet"].iter().any(|option| word == option);
    while args.as_slice().first().is_some_and(before) {
        args.next();
    }
    if args.as_slice().first().is_some_and(|word| word == "h") {
        return show_help(&COMMAND);
    }
    COMMAND.start(args)
}

fn show_help(table: &dyn Table) -> Result<ExitCode> {
    print(&help(table))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(line: &str) -> Result<String> {
        let asked = CONFIGURE.parse(line.split_whitespace().map(OsString::from))?;
        let options = asked.unwrap_or_default().into_args();
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
