//! Completions for bash, zsh and fish.
//!
//! The script finds the command of the typed words, then offers its flags, subcommands and
//! arguments, or a flag's values.

use super::Entry;
use super::help::value_of;
use super::{Doc, Table};

/// bash: no descriptions.
pub(in crate::cmd) fn bash(all: &[Entry]) -> String {
    let program = program(all);
    let mut values = String::new();
    let mut words = String::new();
    for entry in all {
        let name = named(program, entry);
        let patterns = |doc: &Doc| -> Vec<String> { names(doc).map(|n| format!("'{name} {n}'")).collect() };
        let (listed, free): (Vec<&Doc>, Vec<&Doc>) = shown(entry.table)
            .filter(|d| takes_value(d))
            .partition(|d| !d.values.is_empty());
        for doc in listed {
            let (patterns, words) = (patterns(doc).join(" | "), doc.values.join(" "));
            values += &format!("    {patterns}) words='{words}' ;;\n");
        }
        // Without an offer, readline completes file names.
        let free: Vec<String> = free.into_iter().flat_map(patterns).collect();
        if !free.is_empty() {
            values += &format!("    {}) words= ;;\n", free.join(" | "));
        }
        let flags = shown(entry.table).flat_map(names);
        let all: Vec<String> = offered(entry)
            .map(|(word, _)| word.to_owned())
            .chain(flags)
            .collect();
        words += &format!("      '{name}') words='{}' ;;\n", all.join(" "));
    }
    format!(
        "# nvoci(1) completion, made by `nvoci texts bash`\n\
         {ident}() {{\n\
         \x20 local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} at={program} i words\n\
         \x20 COMPREPLY=()\n\
         \x20 for ((i = 1; i < COMP_CWORD; i++)); do\n\
         \x20   case \"$at ${{COMP_WORDS[i]}}\" in\n\
         \x20     {}) at=\"$at ${{COMP_WORDS[i]}}\" ;;\n\
         \x20     *) break ;;\n\
         \x20   esac\n\
         \x20 done\n\
         \x20 # readline splits --flag=value in three.\n\
         \x20 if [ \"$cur\" = = ]; then cur=; elif [ \"$prev\" = = ]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi\n\
         \x20 case \"$at $prev\" in\n\
         {values}\
         \x20   *)\n\
         \x20     case $at in\n\
         {words}\
         \x20     esac\n\
         \x20     ;;\n\
         \x20 esac\n\
         \x20 COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n\
         }}\n\
         complete -o default -F {ident} {program}\n",
        paths(all, "'", " | "),
        ident = format_args!("_{}", program.replace('-', "_")),
    )
}

/// zsh.
pub(in crate::cmd) fn zsh(all: &[Entry]) -> String {
    let program = program(all);
    let mut cases = String::new();
    for entry in all {
        cases += &format!("  '{}')\n", named(program, entry));
        if !entry.below.is_empty() {
            let rows = entry.below.iter().map(|t| t.page());
            let rows: Vec<String> = rows
                .map(|p| quoted(&format!("{}:{}", p.word(), p.summary.replace(':', "\\:"))))
                .collect();
            cases += &format!(
                "    commands=({})\n    if (( CURRENT == 2 )); then _describe command commands; fi\n",
                rows.join(" ")
            );
        }
        let mut specs = Vec::new();
        for doc in shown(entry.table) {
            let value = value_of(doc);
            let action = match (value.is_empty(), doc.values.is_empty()) {
                (true, _) => String::new(),
                (false, true) => format!(":{}:_files", plain(&value)),
                (false, false) => format!(":{}:({})", plain(doc.long), doc.values.join(" ")),
            };
            let many = if doc.repeatable { "*" } else { "" };
            let help = plain(doc.help).replace('[', "\\[").replace(']', "\\]");
            specs.extend(names(doc).map(|name| quoted(&format!("{many}{name}[{help}]{action}"))));
        }
        for argument in entry
            .table
            .page()
            .arguments
            .iter()
            .filter(|a| !a.values.is_empty())
        {
            specs.push(quoted(&format!(
                "*:{}:({})",
                plain(argument.name),
                argument.values.join(" ")
            )));
        }
        if entry.table.page().arguments.iter().all(|a| a.values.is_empty()) {
            specs.push("'*:file:_files'".to_owned());
        }
        cases += &format!("    _arguments {}\n    ;;\n", specs.join(" \\\n      "));
    }
    format!(
        "#compdef {program}\n\
         # nvoci(1) completion, made by `nvoci texts zsh`\n\
         local at={program}\n\
         local -a commands\n\
         while (( CURRENT > 2 )); do\n\
         \x20 case \"$at $words[2]\" in\n\
         \x20   {}) at=\"$at $words[2]\"; shift words; (( CURRENT -= 1 )) ;;\n\
         \x20   *) break ;;\n\
         \x20 esac\n\
         done\n\
         case $at in\n{cases}esac\n",
        paths(all, "'", "|"),
    )
}

/// fish.
pub(in crate::cmd) fn fish(all: &[Entry]) -> String {
    let program = program(all);
    let at = format!("__{}_at", program.replace('-', "_"));
    let mut out = format!(
        "# nvoci(1) completion, made by `nvoci texts fish`\n\
         function {at}\n\
         \x20   set -l at {program}\n\
         \x20   for word in (commandline -opc)[2..-1]\n\
         \x20       contains -- \"$at $word\" {}; or break\n\
         \x20       set at \"$at $word\"\n\
         \x20   end\n\
         \x20   test \"$at\" = \"$argv\"\n\
         end\n",
        paths(all, "'", " ")
    );
    for entry in all {
        let start = format!("complete -c {program} -n '{at} {}'", named(program, entry));
        if !entry.below.is_empty() {
            out += &format!("{start} -f\n");
        }
        for (word, help) in offered(entry) {
            out += &format!("{start} -a {word} -d {}\n", fish_quoted(help));
        }
        for doc in shown(entry.table) {
            let mut line = start.clone();
            if let Some(short) = doc.short {
                line += &format!(" -s {short}");
            }
            if !doc.long.is_empty() {
                line += &format!(" -l {}", doc.long);
            }
            if takes_value(doc) {
                line += " -r";
            }
            if !doc.values.is_empty() {
                line += &format!(" -f -a '{}'", doc.values.join(" "));
            }
            out += &format!("{line} -d {}\n", fish_quoted(doc.help));
        }
    }
    out
}

/// The program's name: that of the first command.
fn program(all: &[Entry]) -> &'static str {
    all.first().map_or("nvoci", |entry| entry.table.page().name)
}

/// A command's words below `program`: `nvidia-ctk cdi` is a command of nvoci's too.
fn named(program: &str, entry: &Entry) -> String {
    let name = entry.table.page().name;
    name.split_once(' ')
        .map_or_else(|| program.to_owned(), |(_, words)| format!("{program} {words}"))
}

/// The flags that are not hidden.
fn shown(table: &'static dyn Table) -> impl Iterator<Item = &'static Doc> {
    table.flags().into_iter().filter(|d| !d.hidden)
}

/// A flag's names with dashes.
fn names(doc: &Doc) -> impl Iterator<Item = String> + use<> {
    let long = (!doc.long.is_empty()).then(|| format!("--{}", doc.long));
    doc.short.map(|c| format!("-{c}")).into_iter().chain(long)
}

fn takes_value(doc: &Doc) -> bool {
    !value_of(doc).is_empty()
}

/// The words that may follow a command: subcommands and values of arguments, with their texts.
fn offered(entry: &Entry) -> impl Iterator<Item = (&'static str, &'static str)> {
    let commands = entry.below.iter().map(|t| (t.page().word(), t.page().summary));
    let arguments = entry.table.page().arguments.iter();
    commands.chain(arguments.flat_map(|a| a.values.iter().map(|v| (*v, a.help))))
}

/// The names of all commands but the first, quoted.
fn paths(all: &[Entry], quote: &str, between: &str) -> String {
    let names = all
        .iter()
        .skip(1)
        .map(|e| format!("{quote}{}{quote}", named(program(all), e)));
    names.collect::<Vec<_>>().join(between)
}

/// A text without colons, which would end a field of zsh's.
fn plain(text: &str) -> String {
    text.replace(':', "\\:")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
