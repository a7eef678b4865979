//! The parser of all tables, on top of lexopt.

use std::ffi::OsString;
use std::vec::IntoIter;

use lexopt::{Arg, Parser};

use super::{Given, Kind, Page, Table, Target, help, suggest};
use crate::cmd::print;
use crate::error::{Code, Error, Result};

/// Stores the values of `args` in `target`, and those of `variables` for absent flags. Returns
/// false if a text was printed instead.
pub(super) fn parse(
    table: &dyn Table,
    target: &mut dyn Target,
    mut args: Vec<OsString>,
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<bool> {
    let page = table.page();
    let bad = |e: lexopt::Error| page.usage_error(e.to_string());
    if table.one_dash() {
        args = args.into_iter().map(two_dashes).collect();
    }
    let mut parser = Parser::from_args(args);
    let mut given = Vec::new();
    while let Some(arg) = parser.next().map_err(bad)? {
        let found = match &arg {
            Arg::Long(name) => find(target, |doc| doc.has_name(name)),
            Arg::Short(short) => find(target, |doc| doc.short == Some(*short)),
            Arg::Value(_) => None,
        };
        let (index, shown, kind) = match (found, arg) {
            (Some(found), _) => found,
            (None, Arg::Long("help") | Arg::Short('h')) => {
                print(&help(table))?;
                return Ok(false);
            }
            (None, Arg::Value(word)) => {
                target.store_word(word).map_err(|why| page.usage_error(why))?;
                continue;
            }
            (None, other) => return Err(no_such_option(table, &other)),
        };
        let value = match kind {
            Kind::Nothing => Given::On(true),
            Kind::Optional => {
                let on = match parser.optional_value() {
                    Some(value) => switched(&utf8(value).map_err(|why| page.usage_error(why))?),
                    None => Ok(true),
                };
                Given::On(on.map_err(|why| page.usage_error(format!("{shown}: {why}")))?)
            }
            Kind::Shows(text) => {
                print(text)?;
                return Ok(false);
            }
            Kind::Value => Given::Value(parser.value().map_err(bad)?),
        };
        let stored = target.store(index, value);
        stored.map_err(|why| page.usage_error(format!("{shown}: {why}")))?;
        given.push(index);
    }
    for index in 0.. {
        let Some((doc, kind)) = target.row(index) else {
            break;
        };
        let (name, repeatable) = (doc.variable, doc.repeatable);
        if name.is_empty() || given.contains(&index) {
            continue;
        }
        let Some(text) = variables(name).filter(|text| !text.is_empty()) else {
            continue;
        };
        let stored = match kind {
            Kind::Optional => switched(&text).and_then(|on| target.store(index, Given::On(on))),
            // A variable's comma separates values, so no value can have one.
            Kind::Value if repeatable => {
                items(&text).try_for_each(|item| target.store(index, Given::Value(item.into())))
            }
            Kind::Value => target.store(index, Given::Value(text.into())),
            Kind::Nothing | Kind::Shows(_) => Ok(()),
        };
        stored.map_err(|why| page.usage_error(format!("{name}: {why}")))?;
    }
    Ok(true)
}

/// The row that `is_right` selects: its number, its name with dashes, and the form of its value.
fn find(target: &dyn Target, is_right: impl Fn(&super::Doc) -> bool) -> Option<(usize, String, Kind)> {
    for index in 0.. {
        let (doc, kind) = target.row(index)?;
        if is_right(doc) {
            return Some((index, doc.shown(), kind));
        }
    }
    None
}

fn no_such_option(table: &dyn Table, arg: &Arg<'_>) -> Error {
    let page = table.page();
    let error = |shown: &str| page.usage_error(format!("there is no option `{shown}`"));
    match arg {
        Arg::Long(name) => {
            let docs = table.flags();
            let known = docs.iter().filter(|d| !d.hidden).map(|d| d.long);
            suggesting(page, error(&format!("--{name}")), "--", name, known)
        }
        Arg::Short(short) => error(&format!("-{short}")),
        Arg::Value(word) => error(&word.to_string_lossy()),
    }
}

/// Adds a fix to `error` that names the nearest of the `known` words.
fn suggesting(
    page: &Page,
    error: Error,
    dashes: &str,
    word: &str,
    known: impl Iterator<Item = &'static str>,
) -> Error {
    match suggest::nearest(word, known) {
        Some(near) => error.fix(format!(
            "did you mean `{dashes}{near}`? `{} --help` lists all",
            page.name
        )),
        None => error,
    }
}

/// The reason of an error about an unknown command.
pub(in crate::cmd) const NO_SUCH_COMMAND: &str = "there is no such command";

/// The command to run, and its arguments.
pub(super) enum Next {
    /// A text was printed instead.
    Done,
    /// The command itself.
    Own(IntoIter<OsString>),
    Subcommand(&'static dyn Table, IntoIter<OsString>),
}

/// Reads the first argument. If it is no flag, it names a subcommand of a command that has them.
pub(super) fn dispatch(table: &dyn Table, mut args: IntoIter<OsString>) -> Result<Next> {
    let word = match args.as_slice().first().map(|word| word.to_string_lossy()) {
        Some(word) if !table.commands().is_empty() && !word.starts_with('-') => word.into_owned(),
        _ => return Ok(Next::Own(args)),
    };
    args.next();
    if word == "help" {
        print(&help(table))?;
        return Ok(Next::Done);
    }
    let all = || table.commands().iter().flat_map(|group| group.commands);
    if let Some(table) = all().find(|table| table.page().word() == word) {
        return Ok(Next::Subcommand(*table, args));
    }
    let page = table.page();
    let what = format!("`{} {word}`", page.name);
    let error = Error::new(Code::Usage, what, NO_SUCH_COMMAND);
    let error = error.fix(format!("see `{} --help`", page.name));
    let known = all().map(|table| table.page()).filter(|page| !page.hidden);
    Err(suggesting(page, error, "", &word, known.map(Page::word)))
}

/// The items of a list.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The value of a switch in Go's syntax.
pub(in crate::cmd) fn switched(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("`{other}` is neither true nor false")),
    }
}

pub(super) fn utf8(value: OsString) -> Result<String, String> {
    value
        .into_string()
        .map_err(|value| format!("`{}` is not UTF-8", value.display()))
}

/// `-config` as `--config`.
fn two_dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(s) if s.starts_with('-') && !s.starts_with("--") && s.len() > 2 => format!("-{s}").into(),
        _ => arg,
    }
}
