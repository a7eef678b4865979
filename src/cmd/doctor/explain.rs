//! `nvoci doctor explain`.

use std::process::ExitCode;

use super::output::{Output, Prints, html_flag, json_flag};
use super::read_text;
use crate::cmd::cli::{Command, Page, Words, argument, flag};
use crate::doctor::Report;
use crate::doctor::explain::{explain, unseen};
use crate::doctor::html::{Link, Section};
use crate::error::Result;

/// The longest log that is taken from standard input, in bytes.
const MAX_LOG: u64 = 16 << 20;

#[derive(Default)]
pub(super) struct Options {
    output: Output,
    no_host: bool,
    words: Vec<String>,
}

impl Prints for Options {
    fn output(&mut self) -> &mut Output {
        &mut self.output
    }
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci doctor explain",
        summary: "explain an error: `nvoci doctor explain \"Error 803\"`",
        usage: &[
            "nvoci doctor explain [OPTIONS] TEXT...",
            "nvoci doctor explain [OPTIONS] -",
        ],
        about: &[
            "Explains an error: the likeliest cause first, how it differs from the others, and the \
                  fix. If the host may be the cause, checks it too.",
        ],
        arguments: &[
            argument(
                "TEXT...",
                "the error as it was printed, any number of lines; or a number (803), a name \
                       (cudaErrorInsufficientDriver, NVML 18) or one of nvoci's own codes (NVOCI-2003)",
            ),
            argument("-", "the text is on standard input"),
        ],
        exit: &[
            ("0", "the text is harmless"),
            ("1", "it is a warning or unknown, or this host has warnings"),
            ("2", "it is an error, or this host has a failure"),
        ],
        ..Page::EMPTY
    },
    flags: &[
        flag("no-host", "do not check this host: the error is of another host").switch(|o| o.no_host = true),
        json_flag(),
        html_flag(),
    ],
    words: Words::Many(|o, word| {
        o.words.push(word.to_string_lossy().into_owned());
        Ok(())
    }),
    ..Command::of(|options| run(&options))
};

fn run(options: &Options) -> Result<ExitCode> {
    let (output, with_host) = (&options.output, !options.no_host);
    let text = match options.words.as_slice() {
        [] => return Err(COMMAND.usage_error("no text was given; `-` reads standard input")),
        [only] if only == "-" => read_text(only.as_ref(), MAX_LOG)?.1,
        words => words.join(" "),
    };
    let explained = explain(&text);
    let mut report = explained.report;
    let with_host = with_host && explained.areas.contains(&"host");
    let others: Vec<String> = explained
        .areas
        .iter()
        .filter(|area| !with_host || **area != "host")
        .map(|area| command(area))
        .collect();
    if !others.is_empty() {
        report.fact("look further", others.join("; "), "the entries that match");
    }
    let explained = Section {
        report: &report,
        link: explained.areas.iter().find_map(|area| Link::of_area(area)),
    };
    if !with_host {
        return output.show(&[explained]);
    }
    // The explanation comes first, even before a failing host.
    let host = Section {
        report: &host_report(),
        link: Some(Link::Host),
    };
    output.show(&[explained, host])
}

/// The command that checks an area.
fn command(area: &str) -> String {
    let subject = match area {
        "image" => " IMAGE",
        "container" => " ID",
        "dockerfile" | "compose" => " FILE",
        _ => "",
    };
    format!("nvoci doctor {area}{subject}")
}

/// The findings about this host, or that it could not be checked.
fn host_report() -> Report {
    super::host::check().unwrap_or_else(|e| {
        let mut report = Report::new("host");
        report.add(unseen(e.why()).fix(e.fix_text()));
        report
    })
}
