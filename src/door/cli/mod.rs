//! One table per command: its parser, its `--help`, its part of the man page and its completions come from it.
//!
//! A row pairs a flag's names and texts with the function that stores its value, so a name stands in one place and the
//! parser cannot disagree with the help:
//!
//! ```ignore
//! pub(super) static COMMAND: Command<Options> = Command {
//!     page: Page { name: "nvoci list", summary: "what this host has", ..Page::EMPTY },
//!     flags: &[flag("json", "print one JSON document").switch(|o| o.json = true)],
//!     ..Command::of(run)
//! };
//! ```
//!
//! Tables are static data: a start builds nothing and reads only the rows of the command that runs.

mod help;
mod suggest;
#[cfg(test)]
mod tests;
pub(super) mod texts;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::vec::IntoIter;

use lexopt::{Arg, Parser, ValueExt};

use super::print;
use crate::error::{Code, Error, Result};
pub(super) use help::help;

/// A command's texts.
#[derive(Clone, Copy)]
pub(super) struct Page {
    /// All its words: `nvoci cdi list`.
    pub(super) name: &'static str,
    /// One line for the help of the command above and for completions.
    pub(super) summary: &'static str,
    /// Usage lines; empty: made of the name, the flags and the arguments.
    pub(super) usage: &'static [&'static str],
    /// Paragraphs after the usage.
    pub(super) about: &'static [&'static str],
    /// The arguments that are not flags.
    pub(super) arguments: &'static [Argument],
    /// Further sections: a heading and paragraphs.
    pub(super) sections: &'static [(&'static str, &'static [&'static str])],
    /// A command line, and its effect.
    pub(super) examples: &'static [(&'static str, &'static str)],
    /// Exit statuses and their meaning; empty: those of every command.
    pub(super) exit: &'static [(&'static str, &'static str)],
    /// Whether help, man page and completions leave the command out.
    pub(super) hidden: bool,
}

impl Page {
    pub(super) const EMPTY: Self = Self {
        name: "",
        summary: "",
        usage: &[],
        about: &[],
        arguments: &[],
        sections: &[],
        examples: &[],
        exit: &[],
        hidden: false,
    };

    /// The last word of the name, which chooses the command.
    fn word(&self) -> &'static str {
        self.name.rsplit(' ').next().unwrap_or_default()
    }

    /// The command line cannot be understood.
    pub(super) fn usage_error(&self, why: impl Into<String>) -> Error {
        Error::new(Code::Usage, self.name, why).fix(format!("see `{} --help`", self.name))
    }

    /// `error`, whose fix names the nearest of the `known` words.
    fn suggesting(
        &self,
        error: Error,
        dashes: &str,
        word: &str,
        known: impl Iterator<Item = &'static str>,
    ) -> Error {
        match suggest::nearest(word, known) {
            Some(near) => error.fix(format!(
                "did you mean `{dashes}{near}`? `{} --help` lists all",
                self.name
            )),
            None => error,
        }
    }
}

/// An argument that is not a flag.
#[derive(Clone, Copy)]
pub(super) struct Argument {
    /// As in a usage line: `IMAGE`, `[ENGINE]`, `DIR...`.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// Words for completions, where there are only so many.
    pub(super) values: &'static [&'static str],
}

/// A flag's names and texts.
#[derive(Clone, Copy)]
pub(super) struct Doc {
    /// Without the dashes; empty: it has a short name only.
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    /// Other long names, as the vendor's tools spell it.
    pub(super) aliases: &'static [&'static str],
    /// The name of its value; empty: it takes none, or one of `values`.
    pub(super) value: &'static str,
    /// All its values, where there are only so many.
    pub(super) values: &'static [&'static str],
    /// One line, without a full stop.
    pub(super) help: &'static str,
    /// Sentences that follow the line in help and man page.
    pub(super) more: &'static str,
    /// The heading that it is listed under; empty: `Options`.
    pub(super) group: &'static str,
    pub(super) repeatable: bool,
    /// Whether help, man page and completions leave it out.
    pub(super) hidden: bool,
    /// The variable that stands for it where the command line does not have it.
    pub(super) variable: &'static str,
}

/// How a flag's value is taken, and where it goes. A refusal is the reason only: the parser names flag and command.
enum Take<T> {
    /// Separated by commas.
    List(fn(&mut T, &str) -> Result<(), String>),
    Path(fn(&mut T, PathBuf)),
    /// Prints a text in place of running the command.
    Shows(&'static str),
    Switch(fn(&mut T)),
    Text(fn(&mut T, String) -> Result<(), String>),
    /// `--flag`, or as Go's programs take it `--flag=false`.
    Toggle(fn(&mut T, bool)),
    Value(fn(&mut T, OsString) -> Result<(), String>),
}

/// A row of a command's table.
pub(super) struct Flag<T> {
    doc: Doc,
    take: Take<T>,
}

/// A row's texts, to be extended and closed by the kind of value that it takes.
pub(super) const fn flag(long: &'static str, help: &'static str) -> Doc {
    Doc {
        long,
        short: None,
        aliases: &[],
        value: "",
        values: &[],
        help,
        more: "",
        group: "",
        repeatable: false,
        hidden: false,
        variable: "",
    }
}

impl Doc {
    pub(super) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    pub(super) const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// All values that it takes.
    pub(super) const fn values(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }

    pub(super) const fn more(mut self, more: &'static str) -> Self {
        self.more = more;
        self
    }

    pub(super) const fn group(mut self, group: &'static str) -> Self {
        self.group = group;
        self
    }

    pub(super) const fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    pub(super) const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    pub(super) const fn variable(mut self, variable: &'static str) -> Self {
        self.variable = variable;
        self
    }

    const fn taking<T>(mut self, value: &'static str, take: Take<T>) -> Flag<T> {
        self.value = value;
        Flag { doc: self, take }
    }

    /// Takes a list, separated by commas: `store` gets its items.
    pub(super) const fn list<T>(
        self,
        value: &'static str,
        store: fn(&mut T, &str) -> Result<(), String>,
    ) -> Flag<T> {
        self.repeatable().taking(value, Take::List(store))
    }

    /// Takes a path.
    pub(super) const fn path<T>(self, value: &'static str, store: fn(&mut T, PathBuf)) -> Flag<T> {
        self.taking(value, Take::Path(store))
    }

    /// Prints `text` in place of running the command.
    pub(super) const fn shows<T>(self, text: &'static str) -> Flag<T> {
        self.taking("", Take::Shows(text))
    }

    /// Takes no value.
    pub(super) const fn switch<T>(self, store: fn(&mut T)) -> Flag<T> {
        self.taking("", Take::Switch(store))
    }

    /// Takes UTF-8 text.
    pub(super) const fn text<T>(
        self,
        value: &'static str,
        store: fn(&mut T, String) -> Result<(), String>,
    ) -> Flag<T> {
        self.taking(value, Take::Text(store))
    }

    /// Takes no value, or as Go's programs do `--flag=false`.
    pub(super) const fn toggle<T>(self, store: fn(&mut T, bool)) -> Flag<T> {
        self.taking("", Take::Toggle(store))
    }

    /// Takes any bytes.
    pub(super) const fn value<T>(
        self,
        value: &'static str,
        store: fn(&mut T, OsString) -> Result<(), String>,
    ) -> Flag<T> {
        self.taking(value, Take::Value(store))
    }

    fn has_name(&self, name: &str) -> bool {
        (self.long == name || self.aliases.contains(&name)) && !name.is_empty()
    }

    /// With its dashes, the long name if it has one.
    fn shown(&self) -> String {
        match self.short {
            Some(short) if self.long.is_empty() => format!("-{short}"),
            _ => format!("--{}", self.long),
        }
    }
}

/// `--help` of every command.
pub(super) const HELP: Doc = flag("help", "print this text").short('h');

/// How the arguments that are not flags are taken.
pub(super) enum Words<T> {
    Many(fn(&mut T, OsString) -> Result<(), String>),
    None,
    /// At most one.
    One(fn(&mut T, OsString) -> Result<(), String>),
}

/// Commands under one heading.
pub(super) struct Group {
    pub(super) heading: &'static str,
    pub(super) commands: &'static [&'static dyn Table],
}

/// A command: its texts, its flags, and what runs on the values that they stored in a `T`.
pub(super) struct Command<T: 'static> {
    pub(super) page: Page,
    /// Its subcommands. A first argument that is no flag names one.
    pub(super) commands: &'static [Group],
    pub(super) flags: &'static [Flag<T>],
    pub(super) words: Words<T>,
    /// Go's flag package takes one dash for a long name.
    pub(super) one_dash: bool,
    /// Reads the variables that rows name.
    pub(super) variables: fn(&str) -> Option<String>,
    pub(super) start: fn() -> T,
    pub(super) run: fn(T) -> Result<ExitCode>,
}

impl<T: Default> Command<T> {
    /// A command without texts and flags, to be extended.
    pub(super) const fn of(run: fn(T) -> Result<ExitCode>) -> Self {
        Self {
            page: Page::EMPTY,
            commands: &[],
            flags: &[],
            words: Words::None,
            one_dash: false,
            variables: |_| None,
            start: T::default,
            run,
        }
    }
}

impl<T> Command<T> {
    /// [`Page::usage_error`] of this command.
    pub(super) fn usage_error(&self, why: impl Into<String>) -> Error {
        self.page.usage_error(why)
    }

    /// The values of the flags and arguments; `None` where a text was printed in place.
    ///
    /// # Errors
    /// [`Code::Usage`].
    pub(super) fn parse(&self, args: impl IntoIterator<Item = OsString>) -> Result<Option<T>> {
        self.parse_with(args, self.variables)
    }

    /// [`Command::parse`], with other variables.
    pub(super) fn parse_with(
        &self,
        args: impl IntoIterator<Item = OsString>,
        variables: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<T>> {
        let bad = |e: lexopt::Error| self.usage_error(e.to_string());
        let args = args
            .into_iter()
            .map(|arg| if self.one_dash { two_dashes(arg) } else { arg });
        let mut parser = Parser::from_args(args);
        let mut values = (self.start)();
        let (mut words, mut given) = (0, Vec::new());
        while let Some(arg) = parser.next().map_err(bad)? {
            let found = match &arg {
                Arg::Long(name) => self.flags.iter().find(|f| f.doc.has_name(name)),
                Arg::Short(short) => self.flags.iter().find(|f| f.doc.short == Some(*short)),
                Arg::Value(_) => None,
            };
            let flag = match (found, arg) {
                (Some(flag), _) => flag,
                (None, Arg::Long("help") | Arg::Short('h')) => {
                    print(&help(self))?;
                    return Ok(None);
                }
                (None, Arg::Value(word)) => {
                    words += 1;
                    self.take_word(&mut values, word, words)?;
                    continue;
                }
                (None, other) => return Err(self.no_such_option(&other)),
            };
            let why = |why: String| self.usage_error(format!("{}: {why}", flag.doc.shown()));
            match flag.take {
                Take::List(store) => {
                    let text = parser.value().and_then(ValueExt::string).map_err(bad)?;
                    items(&text)
                        .try_for_each(|item| store(&mut values, item))
                        .map_err(why)?;
                }
                Take::Path(store) => store(&mut values, parser.value().map_err(bad)?.into()),
                Take::Shows(text) => {
                    print(text)?;
                    return Ok(None);
                }
                Take::Switch(store) => store(&mut values),
                Take::Text(store) => {
                    let text = parser.value().and_then(ValueExt::string).map_err(bad)?;
                    store(&mut values, text).map_err(why)?;
                }
                Take::Toggle(store) => {
                    store(&mut values, parser.optional_value().is_none_or(|v| v != "false"));
                }
                Take::Value(store) => store(&mut values, parser.value().map_err(bad)?).map_err(why)?,
            }
            if !flag.doc.variable.is_empty() {
                given.push(flag.doc.variable);
            }
        }
        for flag in self.flags {
            let name = flag.doc.variable;
            if !name.is_empty()
                && !given.contains(&name)
                && let Some(text) = variables(name).filter(|v| !v.is_empty())
            {
                flag.take_variable(&mut values, &text)
                    .map_err(|why| self.usage_error(format!("{name}: {why}")))?;
            }
        }
        Ok(Some(values))
    }

    fn take_word(&self, values: &mut T, word: OsString, count: usize) -> Result<()> {
        match self.words {
            Words::Many(store) => store(values, word).map_err(|why| self.usage_error(why)),
            Words::One(store) if count == 1 => store(values, word).map_err(|why| self.usage_error(why)),
            _ => Err(self.usage_error(format!("unexpected argument `{}`", word.display()))),
        }
    }

    fn no_such_option(&self, arg: &Arg<'_>) -> Error {
        let error = |shown: &str| self.usage_error(format!("there is no option `{shown}`"));
        match arg {
            Arg::Long(name) => {
                let known = self.docs().filter(|d| !d.hidden).map(|d| d.long);
                self.page
                    .suggesting(error(&format!("--{name}")), "--", name, known)
            }
            Arg::Short(short) => error(&format!("-{short}")),
            Arg::Value(word) => error(&word.to_string_lossy()),
        }
    }

    /// The flags' texts, `--help` last.
    fn docs(&self) -> impl Iterator<Item = &Doc> {
        self.flags.iter().map(|f| &f.doc).chain([&HELP])
    }

    /// The subcommand that a first argument names; `None` where the command itself is meant.
    fn subcommand(&self, word: Option<&OsString>) -> Result<Option<&'static dyn Table>> {
        let Some(word) = word.map(|w| w.to_string_lossy()) else {
            return Ok(None);
        };
        if self.commands.is_empty() || word.starts_with('-') {
            return Ok(None);
        }
        let all = || self.commands.iter().flat_map(|group| group.commands);
        if let Some(table) = all().find(|table| table.page().word() == word) {
            return Ok(Some(*table));
        }
        let known = all().map(|table| table.page()).filter(|page| !page.hidden);
        let what = format!("`{} {word}`", self.page.name);
        let error = Error::new(Code::Usage, what, "there is no such command");
        let error = error.fix(format!("see `{} --help`", self.page.name));
        Err(self.page.suggesting(error, "", &word, known.map(Page::word)))
    }
}

impl<T> Flag<T> {
    fn take_variable(&self, values: &mut T, text: &str) -> Result<(), String> {
        match self.take {
            Take::List(store) => items(text).try_for_each(|item| store(values, item)),
            Take::Path(store) => {
                store(values, text.into());
                Ok(())
            }
            Take::Shows(_) | Take::Switch(_) => Ok(()),
            Take::Text(store) => store(values, text.to_owned()),
            Take::Toggle(store) => {
                store(values, matches!(text, "true" | "1"));
                Ok(())
            }
            // A variable holds several, so a comma cannot be part of one.
            Take::Value(store) if self.doc.repeatable => {
                items(text).try_for_each(|item| store(values, item.into()))
            }
            Take::Value(store) => store(values, text.into()),
        }
    }
}

/// What the tables of all commands have in common.
pub(super) trait Table: Sync {
    fn page(&self) -> &Page;

    /// `--help` is the last.
    fn flags(&self) -> Vec<&Doc>;

    fn commands(&self) -> &'static [Group];

    /// Runs the command on the arguments after its name.
    fn start(&self, args: IntoIter<OsString>) -> Result<ExitCode>;

    /// Whether the flags and arguments are accepted; nothing is run.
    #[cfg(test)]
    fn check(&self, args: &[String]) -> Result<()>;
}

impl<T> Table for Command<T> {
    fn page(&self) -> &Page {
        &self.page
    }

    fn flags(&self) -> Vec<&Doc> {
        self.docs().collect()
    }

    fn commands(&self) -> &'static [Group] {
        self.commands
    }

    fn start(&self, mut args: IntoIter<OsString>) -> Result<ExitCode> {
        let first = args.as_slice().first();
        if !self.commands.is_empty() && first.is_some_and(|word| word == "help") {
            print(&help(self))?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(table) = self.subcommand(first)? {
            args.next();
            return table.start(args);
        }
        self.parse(args)?.map_or(Ok(ExitCode::SUCCESS), self.run)
    }

    #[cfg(test)]
    fn check(&self, args: &[String]) -> Result<()> {
        self.parse(args.iter().map(OsString::from)).map(drop)
    }
}

/// A command that parses its arguments by itself: those of another program.
pub(super) struct Foreign {
    pub(super) page: Page,
    pub(super) run: fn(IntoIter<OsString>) -> Result<ExitCode>,
}

impl Table for Foreign {
    fn page(&self) -> &Page {
        &self.page
    }

    fn flags(&self) -> Vec<&Doc> {
        Vec::new()
    }

    fn commands(&self) -> &'static [Group] {
        &[]
    }

    fn start(&self, args: IntoIter<OsString>) -> Result<ExitCode> {
        (self.run)(args)
    }

    #[cfg(test)]
    fn check(&self, _: &[String]) -> Result<()> {
        Ok(())
    }
}

/// The items of a list.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// `-config` as `--config`.
fn two_dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(s) if s.starts_with('-') && !s.starts_with("--") && s.len() > 2 => format!("-{s}").into(),
        _ => arg,
    }
}
