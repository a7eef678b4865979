//! `nvoci texts`: prints the man page and the completions, for `packaging/stage`.

pub(super) mod man;

use std::process::ExitCode;

use super::cli::{Command, Page, Words, argument, complete, entries, flag};
use crate::cmd::print;

#[derive(Default)]
pub(in crate::cmd) struct Options {
    kind: Option<String>,
    date: String,
}

pub(in crate::cmd) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci texts",
        summary: "print nvoci(1) or a shell's completions",
        arguments: &[argument("man|bash|zsh|fish", "").values(&["man", "bash", "zsh", "fish"])],
        hidden: true,
        ..Page::EMPTY
    },
    flags: &[
        flag("date", "the man page's date: 2026-01-31").text("DATE", |o: &mut Options, date| {
            if date.is_empty() || !date.chars().all(|c| c.is_ascii_digit() || c == '-') {
                return Err(format!("`{date}` is no date"));
            }
            o.date = date;
            Ok(())
        }),
    ],
    words: Words::One(|o, kind| {
        o.kind = kind.into_string().ok();
        Ok(())
    }),
    ..Command::of(|options: Options| {
        let all = entries(&crate::cmd::COMMAND);
        let text = match options.kind.as_deref() {
            Some("bash") => complete::bash(&all),
            Some("fish") => complete::fish(&all),
            Some("man") => man::page(&all, &options.date),
            Some("zsh") => complete::zsh(&all),
            _ => return Err(COMMAND.usage_error("name one: man, bash, zsh or fish")),
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
};
