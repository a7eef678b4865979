//! The text of `--help`.

use super::{Doc, HELP, Page, Table};

/// The longest line, so that a terminal of usual width does not wrap it.
pub(super) const WIDTH: usize = 80;

/// A longer name gets a line of its own.
const COLUMN: usize = 22;

/// The output of `--help`.
pub(in crate::cmd) fn help(table: &dyn Table) -> String {
    let page = table.page();
    let mut out = String::new();
    for (usage, label) in usage(table)
        .iter()
        .zip(["Usage: "].into_iter().chain(std::iter::repeat("       ")))
    {
        wrap(&mut out, label, 7 + page.name.len() + 1, &pieces(usage));
    }
    for paragraph in page.about {
        out.push('\n');
        wrap(&mut out, "", 0, &words(paragraph));
    }
    let arguments = page.arguments.iter().filter(|a| !a.help.is_empty());
    terms(
        &mut out,
        "Arguments",
        arguments.map(|a| (a.name.to_owned(), a.help.to_owned())),
    );
    for group in table.commands() {
        let pages = group.commands.iter().map(|c| c.page()).filter(|p| !p.hidden);
        terms(
            &mut out,
            group.heading,
            pages.map(|p| (p.word().to_owned(), p.summary.to_owned())),
        );
    }
    for (heading, flags) in groups(table) {
        terms(&mut out, heading, flags.iter().map(|d| (term(d), explanation(d))));
    }
    let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    for (heading, paragraphs) in page.sections {
        out.push_str(&format!("\n{heading}\n"));
        for paragraph in *paragraphs {
            wrap(&mut out, "  ", 2, &words(paragraph));
        }
    }
    if !page.examples.is_empty() {
        out.push_str("\nExamples\n");
    }
    for (line, effect) in page.examples {
        wrap(&mut out, "  ", 4, &words(line));
        wrap(&mut out, "      ", 6, &words(effect));
    }
    terms(&mut out, "Exit status", page.exit.iter().map(pair));
    out
}

/// Usage lines, each with the command's name.
pub(in crate::cmd) fn usage(table: &dyn Table) -> Vec<String> {
    let page = table.page();
    if !page.usage.is_empty() {
        return page.usage.iter().map(|line| (*line).to_owned()).collect();
    }
    let mut line = page.name.to_owned();
    if !table.commands().is_empty() {
        line += " COMMAND";
    }
    if table.flags().iter().any(|d| !d.hidden && d.long != HELP.long) {
        line += " [OPTIONS]";
    }
    for argument in page.arguments {
        line = format!("{line} {}", argument.name);
    }
    vec![line]
}

/// The flags that are not hidden, by heading, in the table's order.
pub(in crate::cmd) fn groups(table: &dyn Table) -> Vec<(&'static str, Vec<&Doc>)> {
    let mut all: Vec<(&'static str, Vec<&Doc>)> = Vec::new();
    for doc in table.flags().into_iter().filter(|d| !d.hidden) {
        let heading = if doc.group.is_empty() {
            "Options"
        } else {
            doc.group
        };
        match all.iter_mut().find(|(name, _)| *name == heading) {
            Some((_, flags)) => flags.push(doc),
            None => all.push((heading, vec![doc])),
        }
    }
    all
}

/// A flag in a list: `-r, --root DIR`.
pub(in crate::cmd) fn term(doc: &Doc) -> String {
    let mut text = doc.short.map(|c| format!("-{c}")).unwrap_or_default();
    if !doc.long.is_empty() {
        let comma = if text.is_empty() { "" } else { ", " };
        text = format!("{text}{comma}--{}", doc.long);
    }
    let value = value_of(doc);
    if value.is_empty() {
        text
    } else {
        format!("{text} {value}")
    }
}

/// The name of a flag's value, or all its values.
pub(in crate::cmd) fn value_of(doc: &Doc) -> String {
    if doc.value.is_empty() {
        doc.values.join("|")
    } else {
        doc.value.to_owned()
    }
}

/// All sentences about a flag.
pub(in crate::cmd) fn explanation(doc: &Doc) -> String {
    let mut text = doc.help.to_owned();
    if doc.repeatable {
        text += "; may be repeated";
    }
    if !doc.more.is_empty() {
        text = format!("{text}. {}", doc.more);
    }
    text
}

/// Names in a column, each with its text beside it.
fn terms(out: &mut String, heading: &str, rows: impl Iterator<Item = (String, String)>) {
    let rows: Vec<(String, String)> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let widths = rows.iter().map(|(name, _)| name.chars().count());
    let column = widths.filter(|w| *w <= COLUMN).max().unwrap_or(4) + 4;
    out.push_str(&format!("\n{heading}\n"));
    for (name, text) in rows {
        if name.chars().count() + 4 > column {
            out.push_str(&format!("  {name}\n"));
            wrap(out, &" ".repeat(column), column, &words(&text));
        } else {
            wrap(out, &format!("  {name:<0$}", column - 2), column, &words(&text));
        }
    }
}

/// Puts words into lines of [`WIDTH`]: the first after `start`, the others indented.
fn wrap(out: &mut String, start: &str, indent: usize, words: &[&str]) {
    let mut line = start.to_owned();
    let mut empty = true;
    for word in words {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

/// A text's words; a command between backticks stays on one line.
fn words(text: &str) -> Vec<&str> {
    split(text, |quoted, c| if c == '`' { !quoted } else { quoted })
}

/// The parts of a usage line; `[--config FILE]` is one.
fn pieces(usage: &str) -> Vec<&str> {
    split(usage, |inside, c| match c {
        '[' => true,
        ']' => false,
        _ => inside,
    })
}

/// Splits at spaces, except at those that `inside` marks.
fn split(text: &str, inside: impl Fn(bool, char) -> bool) -> Vec<&str> {
    let mut within = false;
    let parts = text.split(move |c| {
        within = inside(within, c);
        c == ' ' && !within
    });
    parts.filter(|part| !part.is_empty()).collect()
}

impl Page {
    /// The texts that may have flags.
    #[cfg(test)]
    pub(super) fn texts(&self) -> Vec<&'static str> {
        let mut all = vec![self.summary];
        all.extend(self.usage);
        all.extend(self.about);
        all.extend(self.arguments.iter().flat_map(|a| [a.name, a.help]));
        all.extend(self.sections.iter().flat_map(|(_, paragraphs)| *paragraphs));
        all.extend(self.examples.iter().chain(self.exit).flat_map(|(a, b)| [*a, *b]));
        all
    }
}
