//! One table per command: its parser, its `--help`, its part of the man page and its completions
//! come from it.
//!
//! A row pairs a flag's names and texts with the function that stores its value, so a name stands
//! in one place and the parser cannot disagree with the help:
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

pub(super) mod complete;
pub(super) mod help;
mod parse;
mod suggest;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::vec::IntoIter;

use self::parse::Next;
use crate::error::{Code, Error, Result};
pub(super) use help::help;
pub(super) use parse::{NO_SUCH_COMMAND, switched};

/// A command's texts.
#[derive(Clone, Copy)]
pub(super) struct Page {
    /// All its words: `nvoci cdi list`.
    pub(super) name: &'static str,
    /// One line for the help of the command above and for completions.
    pub(super) summary: &'static str,
    /// Usage lines; empty: made of the name, the flags and the arguments.
    pub(super) usage: &'static [&'static str],
    /// Paragraphs below the usage.
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

    /// The last word of the name, by which a person selects the command.
    pub(super) fn word(&self) -> &'static str {
        self.name.rsplit(' ').next().unwrap_or_default()
    }

    /// The error of a wrong command line.
    pub(super) fn usage_error(&self, why: impl Into<String>) -> Error {
        Error::new(Code::Usage, self.name, why).fix(format!("see `{} --help`", self.name))
    }
}

/// An argument that is not a flag.
#[derive(Clone, Copy)]
pub(super) struct Argument {
    /// The name in a usage line: `IMAGE`, `[ENGINE]`, `DIR...`.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// All its values, if they are limited; for completions.
    pub(super) values: &'static [&'static str],
}

pub(super) const fn argument(name: &'static str, help: &'static str) -> Argument {
    Argument {
        name,
        help,
        values: &[],
    }
}

impl Argument {
    pub(super) const fn values(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }
}

/// A flag's names and texts.
#[derive(Clone, Copy)]
pub(super) struct Doc {
    /// Without the dashes; empty: it has a short name only.
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    /// Other long names, in the vendor's spelling.
    pub(super) aliases: &'static [&'static str],
    /// The name of its value; empty if it has no value or one of `values`.
    pub(super) value: &'static str,
    /// All its values, if they are limited.
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
    /// The variable that replaces the flag if the command line does not have it.
    pub(super) variable: &'static str,
}

/// How a flag's value is parsed and stored. A refusal is only the reason: the parser names flag and
/// command.
enum Take<T> {
    /// Separated by commas.
    List(fn(&mut T, &str) -> Result<(), String>),
    Path(fn(&mut T, PathBuf)),
    /// Prints a text, and does not run the command.
    Shows(&'static str),
    Switch(fn(&mut T)),
    Text(fn(&mut T, String) -> Result<(), String>),
    /// `--flag`, or in Go's syntax `--flag=false`.
    Toggle(fn(&mut T, bool)),
    Value(fn(&mut T, OsString) -> Result<(), String>),
}

/// A row of a command's table.
pub(super) struct Flag<T> {
    doc: Doc,
    take: Take<T>,
}

/// A row's texts; a method for the kind of value completes them to a [`Flag`].
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

    /// Sets all its values.
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

    /// A comma-separated list; `store` gets its items.
    pub(super) const fn list<T>(
        self,
        value: &'static str,
        store: fn(&mut T, &str) -> Result<(), String>,
    ) -> Flag<T> {
        self.repeatable().taking(value, Take::List(store))
    }

    /// A path.
    pub(super) const fn path<T>(self, value: &'static str, store: fn(&mut T, PathBuf)) -> Flag<T> {
        self.taking(value, Take::Path(store))
    }

    /// Prints `text`, and does not run the command.
    pub(super) const fn shows<T>(self, text: &'static str) -> Flag<T> {
        self.taking("", Take::Shows(text))
    }

    /// No value.
    pub(super) const fn switch<T>(self, store: fn(&mut T)) -> Flag<T> {
        self.taking("", Take::Switch(store))
    }

    /// UTF-8 text.
    pub(super) const fn text<T>(
        self,
        value: &'static str,
        store: fn(&mut T, String) -> Result<(), String>,
    ) -> Flag<T> {
        self.taking(value, Take::Text(store))
    }

    /// No value, or in Go's syntax `--flag=false`.
    pub(super) const fn toggle<T>(self, store: fn(&mut T, bool)) -> Flag<T> {
        self.taking("", Take::Toggle(store))
    }

    /// Any bytes.
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

/// How the arguments that are not flags are parsed.
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

/// A command: its texts, its flags, and a function that runs on their values in a `T`.
pub(super) struct Command<T: 'static> {
    pub(super) page: Page,
    /// Its subcommands. A first argument that is no flag names one.
    pub(super) commands: &'static [Group],
    pub(super) flags: &'static [Flag<T>],
    pub(super) words: Words<T>,
    /// Go's flag package accepts one dash before a long name.
    pub(super) one_dash: bool,
    /// Reads the variables of rows.
    pub(super) variables: fn(&str) -> Option<String>,
    pub(super) start: fn() -> T,
    pub(super) run: fn(T) -> Result<ExitCode>,
}

impl<T: Default> Command<T> {
    /// A command without texts and flags, as a base for others.
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

    /// The values of flags and arguments; `None` if a text was printed instead.
    ///
    /// # Errors
    /// [`Code::Usage`].
    pub(super) fn parse(&self, args: impl IntoIterator<Item = OsString>) -> Result<Option<T>> {
        self.parse_with(args.into_iter().collect(), &self.variables)
    }

    /// [`Command::parse`], with other variables.
    pub(super) fn parse_with(
        &self,
        args: Vec<OsString>,
        variables: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<T>> {
        let mut filling = Filling {
            command: self,
            values: (self.start)(),
            words: 0,
        };
        let complete = parse::parse(self, &mut filling, args, variables)?;
        Ok(complete.then_some(filling.values))
    }

    /// The flags' texts, `--help` last.
    fn docs(&self) -> impl Iterator<Item = &Doc> {
        self.flags.iter().map(|f| &f.doc).chain([&HELP])
    }
}

/// A command's values while its arguments are parsed.
struct Filling<'a, T: 'static> {
    command: &'a Command<T>,
    values: T,
    words: usize,
}

/// The part of the parser that depends on a command's type; the rest is compiled once.
trait Target {
    /// The texts of a row, and the form of its value.
    fn row(&self, index: usize) -> Option<(&Doc, Kind)>;

    /// Stores the value of a row. A refusal is the reason.
    fn store(&mut self, index: usize, given: Given) -> Result<(), String>;

    /// Stores an argument that is not a flag.
    fn store_word(&mut self, word: OsString) -> Result<(), String>;
}

/// The form of a flag's value.
enum Kind {
    Nothing,
    Optional,
    Shows(&'static str),
    Value,
}

/// The given value.
enum Given {
    On(bool),
    Value(OsString),
}

impl<T> Target for Filling<'_, T> {
    fn row(&self, index: usize) -> Option<(&Doc, Kind)> {
        let flag = self.command.flags.get(index)?;
        let kind = match flag.take {
            Take::List(_) | Take::Path(_) | Take::Text(_) | Take::Value(_) => Kind::Value,
            Take::Shows(text) => Kind::Shows(text),
            Take::Switch(_) => Kind::Nothing,
            Take::Toggle(_) => Kind::Optional,
        };
        Some((&flag.doc, kind))
    }

    fn store(&mut self, index: usize, given: Given) -> Result<(), String> {
        let values = &mut self.values;
        match (self.command.flags.get(index).map(|flag| &flag.take), given) {
            (Some(Take::List(store)), Given::Value(value)) => {
                parse::items(&parse::utf8(value)?).try_for_each(|item| store(values, item))?;
            }
            (Some(Take::Path(store)), Given::Value(value)) => store(values, value.into()),
            (Some(Take::Switch(store)), Given::On(true)) => store(values),
            (Some(Take::Text(store)), Given::Value(value)) => store(values, parse::utf8(value)?)?,
            (Some(Take::Toggle(store)), Given::On(on)) => store(values, on),
            (Some(Take::Value(store)), Given::Value(value)) => store(values, value)?,
            _ => {}
        }
        Ok(())
    }

    fn store_word(&mut self, word: OsString) -> Result<(), String> {
        self.words += 1;
        match self.command.words {
            Words::Many(store) => store(&mut self.values, word),
            Words::One(store) if self.words == 1 => store(&mut self.values, word),
            _ => Err(format!("unexpected argument `{}`", word.display())),
        }
    }
}

/// A command that failed, and whether its error is printed as JSON too.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) as_json: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            as_json: false,
        }
    }
}

/// Whether a command line has `--json`, also if the rest of it cannot be parsed.
fn wants_json(args: &[OsString]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--json")
}

/// The common interface of all commands' tables.
pub(super) trait Table: Sync {
    fn page(&self) -> &Page;

    /// `--help` is the last.
    fn flags(&self) -> Vec<&Doc>;

    fn commands(&self) -> &'static [Group];

    /// Whether one dash begins a long name.
    fn one_dash(&self) -> bool {
        false
    }

    /// Runs the command on the arguments after its name.
    fn start(&self, args: IntoIter<OsString>) -> Result<ExitCode, Failed>;

    /// Whether the flags and arguments are accepted; runs nothing.
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

    fn one_dash(&self) -> bool {
        self.one_dash
    }

    fn start(&self, args: IntoIter<OsString>) -> Result<ExitCode, Failed> {
        let as_json = wants_json(args.as_slice());
        let next = parse::dispatch(self, args).map_err(|error| Failed { error, as_json })?;
        match next {
            Next::Done => Ok(ExitCode::SUCCESS),
            Next::Own(args) => {
                let as_json = as_json && self.flags.iter().any(|flag| flag.doc.long == "json");
                let values = self.parse(args);
                let done = values.and_then(|values| values.map_or(Ok(ExitCode::SUCCESS), self.run));
                done.map_err(|error| Failed { error, as_json })
            }
            Next::Subcommand(table, args) => table.start(args),
        }
    }

    #[cfg(test)]
    fn check(&self, args: &[String]) -> Result<()> {
        self.parse(args.iter().map(OsString::from)).map(drop)
    }
}

/// A command with a parser of its own, for another program's arguments.
pub(super) struct Foreign {
    pub(super) page: Page,
    pub(super) run: fn(IntoIter<OsString>) -> Result<ExitCode, Failed>,
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

    fn start(&self, args: IntoIter<OsString>) -> Result<ExitCode, Failed> {
        (self.run)(args)
    }

    #[cfg(test)]
    fn check(&self, _: &[String]) -> Result<()> {
        Ok(())
    }
}

/// A command, and the commands below it.
pub(super) struct Entry {
    pub(super) table: &'static dyn Table,
    /// Its subcommands that are not hidden.
    pub(super) below: Vec<&'static dyn Table>,
}

/// `table` and all commands below it that are not hidden, each before its subcommands.
pub(super) fn entries(table: &'static dyn Table) -> Vec<Entry> {
    let all = table.commands().iter().flat_map(|group| group.commands).copied();
    let below: Vec<&dyn Table> = all.filter(|t| !t.page().hidden).collect();
    let deeper: Vec<Entry> = below.iter().flat_map(|t| entries(*t)).collect();
    let mut entries = vec![Entry { table, below }];
    entries.extend(deeper);
    entries
}
