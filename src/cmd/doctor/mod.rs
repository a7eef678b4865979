//! `nvoci doctor`: runs an area's checks and shows the report.
//!
//! Each area is a module with its own table and `run`. Shared parts (reading a file, showing a
//! report) are here.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;

use self::output::{Output, Prints, html_flag, json_flag};
use crate::cmd::cli::{Command, Group, Page, Words, argument, flag};
use crate::doctor::dockerfile::Context;
use crate::error::{Code, Error, Result};

mod compose;
mod container;
mod dockerfile;
mod engine;
mod explain;
pub(in crate::cmd) mod host;
mod image;
mod last;
mod output;

#[derive(Default)]
pub(super) struct Options {
    output: Output,
    last: bool,
    count: Option<NonZeroUsize>,
}

impl Prints for Options {
    fn output(&mut self) -> &mut Output {
        &mut self.output
    }
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci doctor",
        summary: "find the broken link of the chain, its cause, and the one fix",
        usage: &[
            "nvoci doctor [AREA] [OPTIONS]",
            "nvoci doctor --last [N] [--json]",
        ],
        about: &[
            "Names the broken link of the chain from the driver to the framework, its cause, and the one \
                  fix. Only reads. `nvoci doctor AREA --help` explains each area.",
        ],
        arguments: &[argument("N", "so many refusals and warnings (default 1)")],
        exit: STATUS,
        ..Page::EMPTY
    },
    commands: &[Group {
        heading: "Areas",
        commands: &[
            &host::COMMAND,
            &engine::COMMAND,
            &container::COMMAND,
            &image::COMMAND,
            &dockerfile::COMMAND,
            &compose::COMMAND,
            &explain::COMMAND,
        ],
    }],
    flags: &[
        flag(
            "last",
            "the last refusals and warnings on this host: why a container did not start, or runs on the CPU",
        )
        .switch(|o| o.last = true),
        json_flag(),
        html_flag(),
    ],
    words: Words::One(|o, number| {
        let number = number.to_string_lossy();
        let count = number.parse();
        o.count = Some(count.map_err(|_| format!("`{number}` is not a number of 1 or more"))?);
        Ok(())
    }),
    ..Command::of(run)
};

/// The exit statuses of a report.
const STATUS: &[(&str, &str)] = &[
    ("0", "all is well"),
    ("1", "warnings"),
    ("2", "something cannot work"),
];

fn run(Options { output, last, count }: Options) -> Result<ExitCode> {
    match count {
        _ if last && output.html.is_some() => {
            Err(COMMAND.usage_error("--html goes with a report, not with --last"))
        }
        count if last => last::run(count.unwrap_or(last::DEFAULT), output.json),
        Some(_) => Err(COMMAND.usage_error("a number goes with --last")),
        None => host::run(&output),
    }
}

/// The arguments of an area that reads one file.
#[derive(Default)]
struct Subject {
    name: Option<OsString>,
    output: Output,
}

impl Prints for Subject {
    fn output(&mut self) -> &mut Output {
        &mut self.output
    }
}

/// The directory of a Dockerfile or a Compose file, where their other files are. Standard input has
/// none.
fn context_of(file: &OsStr) -> Context {
    match Path::new(file).parent() {
        _ if file == "-" => Context::default(),
        Some(dir) if !dir.as_os_str().is_empty() => Context::at(dir),
        _ => Context::at(Path::new(".")),
    }
}

/// The text of a file, or of standard input for `-`, and its name for the report.
fn read_text(file: &OsStr, max: u64) -> Result<(String, String)> {
    let name = file.to_string_lossy().into_owned();
    let mut bytes = Vec::new();
    let read = if name == "-" {
        std::io::stdin().take(max + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|f| f.take(max + 1).read_to_end(&mut bytes))
    };
    read.map_err(|e| Error::io(Code::File, name.clone(), &e).fix("name a file that can be read, or `-`"))?;
    if bytes.len() as u64 > max {
        return Err(Error::new(
            Code::File,
            name,
            format!("it is larger than {max} bytes"),
        ));
    }
    Ok((name, String::from_utf8_lossy(&bytes).into_owned()))
}
