//! `nvidia-ctk`: the command line of the NVIDIA Container Toolkit, for scripts and tools that call
//! it.

mod config;
mod configure;
mod system;

use std::ffi::OsString;
use std::process::ExitCode;
use std::vec::IntoIter;

use super::cli::{
    Command, Failed, Foreign, Group, Page, Table, Words, argument, complete, entries, flag, help, switched,
};
use super::{cdi, cdi_hook, print};
use crate::error::Result;

pub(super) static COMMAND: Command<()> = Command {
    page: Page {
        name: "nvidia-ctk",
        summary: "nvoci, called by the name of the NVIDIA Container Toolkit's program",
        usage: &["nvidia-ctk [--debug[=BOOL]] [--quiet[=BOOL]] [--config FILE] COMMAND"],
        about: &[
            "nvoci answers to this name so that scripts and tools that call it keep working; `nvoci --help` \
                  lists its own commands.",
        ],
        ..Page::EMPTY
    },
    commands: &[Group {
        heading: "Commands",
        commands: &[
            &RUNTIME,
            &cdi::COMMAND,
            &config::COMMAND,
            &system::COMMAND,
            &HOOK,
            &INFO,
            &COMPLETION,
        ],
    }],
    flags: &[
        flag("debug", "accepted without effect")
            .short('d')
            .toggle(|(), _| {}),
        flag("quiet", "accepted without effect").toggle(|(), _| {}),
        flag("config", "the configuration that `cdi` uses").text("FILE", |(), _| Ok(())),
        flag("version", "print the version").short('v').shows(concat!(
            "NVIDIA Container Toolkit CLI version ",
            super::toolkit_version!(),
            "\ncommit: nvoci-",
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
        commands: &[&configure::COMMAND],
    }],
    ..Command::of(|()| show_help(&RUNTIME))
};

static INFO: Command<()> = Command {
    page: Page {
        name: "nvidia-ctk info",
        summary: "print this text",
        hidden: true,
        ..Page::EMPTY
    },
    ..Command::of(|()| show_help(&INFO))
};

static COMPLETION: Command<Option<String>> = Command {
    page: Page {
        name: "nvidia-ctk completion",
        summary: "print a shell's completions",
        arguments: &[argument("bash|zsh|fish", "").values(&["bash", "zsh", "fish"])],
        ..Page::EMPTY
    },
    words: Words::One(|shell, word| {
        *shell = word.into_string().ok();
        Ok(())
    }),
    ..Command::of(|shell| {
        let all = entries(&COMMAND);
        print(&match shell.as_deref() {
            Some("bash") => complete::bash(&all),
            Some("fish") => complete::fish(&all),
            Some("zsh") => complete::zsh(&all),
            _ => return Err(COMPLETION.usage_error("name one: bash, zsh or fish")),
        })?;
        Ok(ExitCode::SUCCESS)
    })
};

/// Runs the command line after the program's name.
///
/// `--debug` and `--quiet`, before or after a command's name, set the log level of the vendor's
/// program. `--config` is for `cdi` alone, which has an option of that name.
pub(super) fn run(args: IntoIter<OsString>) -> Result<ExitCode, Failed> {
    let (config, mut args) = globals(args)?;
    if args.first().is_some_and(|word| word == "h") {
        return Ok(show_help(&COMMAND)?);
    }
    if let (Some(config), [cdi, command, ..]) = (config, args.as_slice())
        && cdi == "cdi"
        && (command == "generate" || command == "list")
    {
        args.splice(2..2, ["--config".into(), config]);
    }
    COMMAND.start(args.into_iter())
}

/// The value of `--config` before the command, and the words without options of the whole program.
fn globals(mut args: IntoIter<OsString>) -> Result<(Option<OsString>, Vec<OsString>)> {
    let mut config = None;
    let mut words: Vec<OsString> = Vec::new();
    while let Some(word) = args.next() {
        let Some(text) = word.to_str() else {
            words.push(word);
            continue;
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        // `-d` may be another option after a command's name, and a hook reads its own.
        let before = words.is_empty();
        let hook = words.first().is_some_and(|word| word == "hook");
        match name {
            "--debug" | "--quiet" if !hook => {
                let on = value.map_or(Ok(true), switched);
                on.map_err(|why| COMMAND.usage_error(format!("{name}: {why}")))?;
            }
            "-d" if before => {}
            "--config" if before => {
                let missing = || COMMAND.usage_error("missing argument for option '--config'");
                let next = value.map(OsString::from).or_else(|| args.next());
                config = Some(next.ok_or_else(missing)?);
            }
            _ => words.push(word),
        }
    }
    Ok((config, words))
}

fn show_help(table: &dyn Table) -> Result<ExitCode> {
    print(&help(table))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Result<(Option<String>, String)> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let (config, words) = globals(args.into_iter())?;
        let words: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
        Ok((config.map(|c| c.to_string_lossy().into_owned()), words.join(" ")))
    }

    #[test]
    fn options_of_the_whole_program_stand_before_a_command_or_after_it() {
        for (line, config, words) in [
            ("--debug=true cdi list", None, "cdi list"),
            ("--debug -d --quiet=false cdi list --debug=0", None, "cdi list"),
            ("--config /x --debug cdi list", Some("/x"), "cdi list"),
            ("--config=/x config", Some("/x"), "config"),
            ("config --config /x", None, "config --config /x"),
            (
                "hook --debug=true update-ldcache",
                None,
                "hook --debug=true update-ldcache",
            ),
            ("--frobnicate cdi", None, "--frobnicate cdi"),
        ] {
            assert_eq!(
                split(line).unwrap(),
                (config.map(str::to_owned), words.to_owned()),
                "{line}"
            );
        }
        assert!(split("--config").is_err());
        assert!(split("--debug=maybe cdi list").is_err());
    }
}
