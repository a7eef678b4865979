//! `nvoci doctor compose`.

use std::process::ExitCode;

use super::output::{html_flag, json_flag};
use super::{STATUS, Subject, context_of, read_text};
use crate::cmd::cli::{Command, Page, Words, argument};
use crate::cmd::print;
use crate::doctor::Severity;
use crate::doctor::compose::{MAX_SIZE, STANZA, report};
use crate::doctor::html::Link;
use crate::error::Result;
use crate::sys::budget::Budget;

pub(super) static COMMAND: Command<Subject> = Command {
    page: Page {
        name: "nvoci doctor compose",
        summary: "find in a Compose file what keeps a service from its GPU",
        about: &[
            "Reads a Compose file and reports whether its services get the GPUs that they are meant to \
                  have; where one does not, a stanza that does is printed.",
            "Of a service with `build:` the Dockerfile is read, if it is below the file's directory.",
        ],
        arguments: &[argument("FILE", "the Compose file; `-` is standard input")],
        exit: STATUS,
        ..Page::EMPTY
    },
    flags: &[json_flag(), html_flag()],
    words: Words::One(|o, name| {
        o.name = Some(name);
        Ok(())
    }),
    ..Command::of(run)
};

fn run(Subject { name, output }: Subject) -> Result<ExitCode> {
    let file = name.ok_or_else(|| COMMAND.usage_error("no Compose file was named"))?;
    let context = context_of(&file);
    let (name, text) = read_text(&file, MAX_SIZE)?;
    let report = report(&name, &text, &context, &Budget::default())?;
    let status = output.show_one(&report, Link::Container)?;
    if !output.json && report.verdict() > Severity::Ok {
        print(&format!("\nA stanza that gives a service all GPUs:\n\n{STANZA}"))?;
    }
    Ok(status)
}
