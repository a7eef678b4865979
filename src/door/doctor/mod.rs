//! `nvoci doctor`: which area looks, and how its report is shown.
//!
//! Each area is a module with its own options and `run`; what they share (usage errors, showing a report) is here.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::process::ExitCode;

use lexopt::Arg;

use crate::doctor::Report;
use crate::doctor::render::wants_colour;
use crate::error::{Code, Error, IoContext as _, Result};

mod compose;
mod container;
mod dockerfile;
mod engine;
mod explain;
mod host;
mod image;
mod last;

const HELP: &str = "\
Usage: nvoci doctor [AREA] [OPTIONS]

Names the broken link of the chain from the driver to the framework, its cause, and the one fix. Only reads.

Areas
  host                  driver, device nodes, kernel (the default)
  engine [NAME]         what running engines know against what their files say
  container ID [--fix]  what a running container can really open and load
  image IMAGE           what of CUDA is in an image, and whether it runs here or elsewhere
  dockerfile, compose   a file: what in it will keep a container from its GPU
  explain TEXT          what an error means: `nvoci doctor explain \"Error 803\"`

  --last [N]            the last refusals on this host: why a container did not start
  --json                as one JSON document: verdict and findings, with stable keys
  --help                this text; after an area, its own

Exit status: 0 all is well, 1 warnings, 2 something cannot work.
";

/// An area by its name, and what runs on the arguments after it.
type Area = (&'static str, fn(lexopt::Parser) -> Result<ExitCode>);

const AREAS: &[Area] = &[
    ("compose", compose::run),
    ("dockerfile", dockerfile::run),
    ("explain", explain::run),
    ("container", container::run),
    ("engine", engine::run),
    ("host", host::run),
    ("image", image::run),
];

/// Runs the command on the arguments after `doctor`.
///
/// # Errors
/// [`Code::Usage`] for an unknown area or option. What an area finds is no error, but its exit status.
pub fn run(args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let args: Vec<OsString> = args.collect();
    let first = args.first().map(|a| a.to_string_lossy().into_owned());
    match first.as_deref() {
        Some("--help" | "-h") => {
            super::print(HELP)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(name) if !name.starts_with('-') => {
            let (_, area) = AREAS
                .iter()
                .find(|(area, _)| *area == name)
                .ok_or_else(|| usage(format!("there is no area `{name}`")))?;
            area(lexopt::Parser::from_args(args.into_iter().skip(1)))
        }
        Some("--last") => last::run(lexopt::Parser::from_args(args)),
        _ => host::run(lexopt::Parser::from_args(args)),
    }
}

fn usage(why: impl Into<String>) -> Error {
    Error::new(Code::Usage, "nvoci doctor", why).fix("see `nvoci doctor --help`")
}

/// The next argument of an area, with a usage error for what cannot be parsed.
fn next(parser: &mut lexopt::Parser) -> Result<Option<Arg<'_>>> {
    parser.next().map_err(|e| usage(e.to_string()))
}

/// A text that a person names, `-` for standard input, and its name for the report.
fn read_text(file: &OsStr, max: u64) -> Result<(String, String)> {
    let name = file.to_string_lossy().into_owned();
    let mut bytes = Vec::new();
    let read = if name == "-" {
        std::io::stdin().take(max + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|f| f.take(max + 1).read_to_end(&mut bytes))
    };
    read.context(Code::File, || name.clone())?;
    if bytes.len() as u64 > max {
        return Err(Error::new(
            Code::File,
            name,
            format!("it is larger than {max} bytes"),
        ));
    }
    Ok((name, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Shows a report; the exit status is its verdict.
fn show(report: &Report, as_json: bool) -> Result<ExitCode> {
    if as_json {
        super::print(&format!("{:#}\n", report.to_json()))?;
    } else {
        super::print(&report.to_text(wants_colour()))?;
    }
    Ok(ExitCode::from(report.status()))
}
