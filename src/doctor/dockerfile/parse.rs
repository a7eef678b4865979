//! Parses a Dockerfile into instructions with their lines.
//!
//! Facts: <https://docs.docker.com/reference/dockerfile/>: comments and the directives before the
//! first instruction, continuation lines, here-documents. It is no builder: syntax that it does not
//! parse remains as text.

use core::cell::RefCell;
use core::fmt;
use std::collections::HashMap;
use std::rc::Rc;

use crate::error::shown;
use crate::sys::budget::{Budget, Exceeded};

/// The most instructions that are read.
const MAX_INSTRUCTIONS: usize = 10_000;
/// The longest text after variables are replaced, in bytes.
const MAX_EXPANDED: usize = 64 << 10;

/// A line of the file; findings share its text.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Line {
    /// From 1 on.
    pub(super) number: usize,
    text: Rc<str>,
    /// A file of the build context; `None` for the Dockerfile.
    file: Option<Rc<str>>,
}

impl Line {
    /// A line of a file of the build context.
    pub(super) fn of_file(file: &Rc<str>, number: usize, text: &str) -> Self {
        Self {
            number,
            text: Rc::from(text),
            file: Some(Rc::clone(file)),
        }
    }
}

/// As evidence.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}, ", shown(file))?;
        }
        write!(f, "line {}: {}", self.number, shown(self.text.trim()))
    }
}

/// One instruction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Instruction {
    /// `FROM`
    pub(super) keyword: String,
    /// The arguments, lines joined; here-documents follow after a line break.
    pub(super) text: String,
    /// Its lines.
    pub(super) lines: Vec<Line>,
    /// The lines of needles that were already searched.
    found: RefCell<HashMap<String, usize>>,
}

impl Instruction {
    /// The line with `needle` at the beginning of a word, else the first line.
    pub(super) fn line_of(&self, needle: &str, budget: &Budget) -> Result<Line, Exceeded> {
        let known = self.found.borrow().get(needle).copied();
        if let Some(at) = known {
            return Ok(self.line(at));
        }
        let at = self.search(needle, budget)?;
        budget.keep((TEXT + needle.len()) as u64)?;
        self.found.borrow_mut().insert(needle.to_owned(), at);
        Ok(self.line(at))
    }

    /// The first line.
    pub(super) fn first_line(&self) -> Line {
        self.line(0)
    }

    fn line(&self, at: usize) -> Line {
        self.lines.get(at).cloned().unwrap_or_default()
    }

    fn search(&self, needle: &str, budget: &Budget) -> Result<usize, Exceeded> {
        for (at, Line { text, .. }) in self.lines.iter().enumerate() {
            budget.scan(text.len())?;
            let mut places = text.match_indices(needle);
            if places.any(|(at, _)| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric())) {
                return Ok(at);
            }
        }
        Ok(0)
    }
}

/// Parses a file.
pub(super) fn parse(text: &str) -> Result<Vec<Instruction>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape(text);
    let mut lines = text.lines().enumerate().map(|(i, l)| (i + 1, l));
    let mut all = Vec::new();
    while let Some((number, line)) = lines.next() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if all.len() == MAX_INSTRUCTIONS {
            return Err(format!("it has more than {MAX_INSTRUCTIONS} instructions"));
        }
        let new = |number, line: &str| Line {
            number,
            text: Rc::from(line),
            file: None,
        };
        let mut own = vec![new(number, line)];
        let mut joined = String::new();
        let mut last = trimmed;
        // The escape character continues a line; comments and empty lines in between do not count.
        while let Some(part) = last.strip_suffix(escape) {
            joined.push_str(part);
            let Some((number, line)) = lines.by_ref().find(|(_, l)| {
                let l = l.trim();
                !l.is_empty() && !l.starts_with('#')
            }) else {
                last = "";
                break;
            };
            own.push(new(number, line));
            last = line.trim();
            joined.push(' ');
        }
        joined.push_str(last);
        let (keyword, rest) = joined
            .split_once(char::is_whitespace)
            .unwrap_or((joined.as_str(), ""));
        let keyword = keyword.to_ascii_uppercase();
        let mut rest = rest.trim().to_owned();
        if ["RUN", "COPY", "ADD"].contains(&keyword.as_str()) {
            for (end, tabs) in here_documents(&rest) {
                for (number, line) in lines.by_ref() {
                    own.push(new(number, line));
                    let bare = if tabs { line.trim_start_matches('\t') } else { line };
                    if bare == end {
                        break;
                    }
                    rest.push('\n');
                    rest.push_str(line);
                }
            }
        }
        all.push(Instruction {
            keyword,
            text: rest,
            lines: own,
            found: RefCell::default(),
        });
    }
    Ok(all)
}

/// The escape character of the directive `# escape=`. Only comments of the same form may precede
/// it.
fn escape(text: &str) -> char {
    text.lines()
        .map_while(|l| l.trim().strip_prefix('#')?.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("escape"))
        .and_then(|(_, value)| value.trim().chars().next())
        .unwrap_or('\\')
}

/// The end markers of the here-documents in `text`, and whether leading tabs are dropped.
fn here_documents(text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("<<") {
        let rest = &text[at + 2..];
        // `<<<` is a here-string.
        if rest.starts_with('<') || text[..at].ends_with('<') {
            continue;
        }
        let (rest, tabs) = rest.strip_prefix('-').map_or((rest, false), |r| (r, true));
        let end: String = rest
            .trim_start_matches(['"', '\''])
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        // `1 << 2` is arithmetic.
        if end.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && found.len() < 16 {
            found.push((end, tabs));
        }
    }
    found
}

/// The approximate memory of a text besides its bytes: its entry in a map or a list.
pub(super) const TEXT: usize = 96;

/// Replaces `$name`, `${name}`, `${name:-default}` and `${name:+other}`. A name without a value in
/// `value_of` stays as it is.
pub(in crate::doctor) fn expand<'v>(
    text: &str,
    value_of: impl Fn(&str) -> Result<Option<&'v str>, Exceeded>,
    budget: &Budget,
) -> Result<String, Exceeded> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, default, length) = if let Some(braced) = after.strip_prefix('{') {
            let Some(end) = braced.find('}') else {
                rest = &rest[at..];
                break;
            };
            let (name, default) = split_default(&braced[..end]);
            (name, default, end + 3)
        } else {
            let end = after
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(after.len());
            (&after[..end], None, end + 1)
        };
        budget.step()?;
        let known = value_of(name)?;
        match (known.filter(|v| !v.is_empty()), default) {
            (Some(_), Some(('+', other))) | (None, Some(('-', other))) => out.push_str(other),
            (None, Some(_)) => {}
            (Some(value), _) => out.push_str(value),
            (None, None) if known.is_some() => {}
            (None, None) => out.push_str(&rest[at..at + length]),
        }
        rest = &rest[at + length..];
        if out.len() > MAX_EXPANDED {
            // `clear` would keep the memory.
            out = String::new();
            rest = text;
            break;
        }
    }
    out.push_str(rest);
    out.shrink_to_fit();
    budget.keep((TEXT + out.len()) as u64)?;
    Ok(out)
}

/// `name`; for `name:-default` also the sign and the default.
fn split_default(text: &str) -> (&str, Option<(char, &str)>) {
    for (sign, with) in [('-', ":-"), ('+', ":+"), ('-', "-"), ('+', "+")] {
        if let Some((name, default)) = text.split_once(with) {
            return (name, Some((sign, default)));
        }
    }
    (text, None)
}

/// The state inside a shell text: in quotes, or in a substitution (`$(…)`), which belongs to its
/// word.
#[derive(Default)]
struct Shell {
    quote: Option<char>,
    depth: usize,
    dollar: bool,
}

/// The kind of a character in a shell text.
enum Kind {
    /// Part of a word.
    Text,
    /// A quote, which is not part of its word.
    Quote,
    /// A backslash: the next character is text.
    Escape,
    /// A character that may end a word or a command.
    Free,
}

impl Shell {
    fn next(&mut self, c: char) -> Kind {
        let dollar = core::mem::replace(&mut self.dollar, c == '$');
        match (self.quote, c) {
            (None | Some('"'), '\\') => Kind::Escape,
            (Some(q), c) if q == c => {
                self.quote = None;
                Kind::Quote
            }
            (Some('\''), _) => Kind::Text,
            (_, '(') if dollar || self.depth > 0 => {
                self.depth += 1;
                Kind::Text
            }
            (_, ')') if self.depth > 0 => {
                self.depth -= 1;
                Kind::Text
            }
            (None, '"' | '\'') => {
                self.quote = Some(c);
                Kind::Quote
            }
            (Some(_), _) => Kind::Text,
            (None, _) if self.depth > 0 => Kind::Text,
            (None, _) => Kind::Free,
        }
    }
}

/// The words of a line, without quotes.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut word: Option<String> = None;
    let mut shell = Shell::default();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match shell.next(c) {
            Kind::Quote => {
                word.get_or_insert_default();
            }
            Kind::Escape => word.get_or_insert_default().extend(chars.next()),
            Kind::Free if c.is_whitespace() => all.extend(word.take()),
            Kind::Free | Kind::Text => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    all
}

/// The commands of a shell text as words, one for each `&&`, `||`, `;`, `|`, `&`, parenthesis and
/// line.
pub(super) fn commands(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut start = 0;
    let mut shell = Shell::default();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match shell.next(c) {
            Kind::Escape => {
                chars.next();
            }
            Kind::Free if matches!(c, '&' | '|' | ';' | '\n' | '(' | ')') => {
                all.push(words(&text[start..at]));
                start = at + 1;
            }
            Kind::Free | Kind::Quote | Kind::Text => {}
        }
    }
    all.push(words(&text[start..]));
    all.retain(|w| !w.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keywords(text: &str) -> Vec<(usize, String, String)> {
        parse(text)
            .unwrap()
            .into_iter()
            .map(|i| (i.lines[0].number, i.keyword, i.text))
            .collect()
    }

    fn one(line: usize, keyword: &str, text: &str) -> (usize, String, String) {
        (line, keyword.to_owned(), text.to_owned())
    }

    #[test]
    fn lines_go_on() {
        let text = "\u{feff}# syntax=docker/dockerfile:1\r\n\r\nfrom  a AS b\r\nRUN x \\\r\n  # no\r\n\r\n  && y\r\n";
        assert_eq!(
            keywords(text),
            [one(3, "FROM", "a AS b"), one(4, "RUN", "x  && y")]
        );
        assert_eq!(keywords("RUN a \\"), [one(1, "RUN", "a")]);
        assert_eq!(
            keywords("# escape=`\nRUN a `\n b\nRUN c\\\nRUN d"),
            [one(2, "RUN", "a  b"), one(4, "RUN", "c\\"), one(5, "RUN", "d")]
        );
    }

    #[test]
    fn here_documents_are_part() {
        let text = "RUN <<EOF\npip install torch\nFROM x\nEOF\nCOPY <<-'A' <<B /x\n1\n\tA\n2\nB\nUSER u";
        assert_eq!(
            keywords(text),
            [
                one(1, "RUN", "<<EOF\npip install torch\nFROM x"),
                one(5, "COPY", "<<-'A' <<B /x\n1\n2"),
                one(10, "USER", "u")
            ]
        );
        // Neither starts a here-document.
        assert_eq!(keywords("RUN echo $((1 << 2)) <<< EOF\nUSER u").len(), 2);
        assert_eq!(keywords("RUN <<EOF\nnever ends").len(), 1);
    }

    #[test]
    fn variables() {
        let known = |name: &str| {
            let all = [("A", "1"), ("E", "")];
            Ok(all.into_iter().find(|(k, _)| *k == name).map(|(_, v)| v))
        };
        let expand = |text: &str| expand(text, known, &Budget::default()).unwrap();
        for (text, expanded) in [
            ("x$A-${A}y", "x1-1y"),
            ("${B:-2}${A:-2}${A:+3}${B:+3}", "213"),
            ("$B ${B}", "$B ${B}"),
            ("${E}${E:-4}", "4"),
            ("$", "$"),
            ("${A", "${A"),
            ("cu$", "cu$"),
        ] {
            assert_eq!(expand(text), expanded, "{text}");
        }
    }

    #[test]
    fn shell_words() {
        let all = commands("a 'b && c' && (d \"e;f\" | g\\ h) ; i\nj");
        let expected: &[&[&str]] = &[&["a", "b && c"], &["d", "e;f"], &["g h"], &["i"], &["j"]];
        assert_eq!(all, expected);
        let all = commands("a x/$(b c | d (e))/y f; g \"$(h ; i)\" 'j $(k' l");
        let expected: &[&[&str]] = &[
            &["a", "x/$(b c | d (e))/y", "f"],
            &["g", "$(h ; i)", "j $(k", "l"],
        ];
        assert_eq!(all, expected);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,200}") {
            for i in parse(&text).unwrap() {
                commands(&expand(&i.text, |_| Ok(None), &Budget::default()).unwrap());
            }
        }

        #[test]
        fn nothing_panics_on_similar_texts(text in "(FROM |RUN |# escape=|[$<>{}:+'\"A\\\\ \n-]|<<EOF|EOF){0,40}") {
            for i in parse(&text).unwrap() {
                commands(&expand(&i.text, |_| Ok(None), &Budget::default()).unwrap());
            }
        }
    }
}
