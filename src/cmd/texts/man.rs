//! nvoci(1), in the macros of man(7).

use crate::cmd::cli::help::{explanation, groups, term, usage};
use crate::cmd::cli::{Doc, Entry, Table, entries};
use crate::cmd::{VERSION, container_cli, ctk};

/// Files that nvoci reads and writes.
const FILES: &[(&str, &str)] = &[
    (
        "/etc/nvoci/config.toml",
        "the policy; `nvoci config` shows it, with the defaults",
    ),
    (
        "/etc/nvidia-container-runtime/config.toml",
        "read where the first is missing",
    ),
    (
        "/etc/nvoci/cdi-refresh.env",
        "options of nvoci-cdi-refresh.service",
    ),
    ("/run/cdi/nvidia.yaml", "the CDI specification"),
    ("/run/nvoci/errors/", "why containers were refused"),
    (
        "/run/nvoci/warnings/",
        "containers that started and cannot compute on their GPU",
    ),
    (
        "/run/nvoci/gpus",
        "the GPUs that the kernel module reports; written again where it is missing",
    ),
    (
        "/run/nvoci/driver*",
        "the driver's files that a start found; written again where it is missing",
    ),
    (
        "/var/lib/nvoci/install/",
        "the changes of `nvoci install`, so that they can be reverted",
    ),
    (
        "/usr/share/nvoci/hooks.d/oci-nvoci.json",
        "for a hooks directory of Podman or CRI-O",
    ),
];

/// Exit statuses of every command, by class of error.
const EXIT: &[(&str, &str)] = &[
    ("0", "success"),
    (
        "1",
        "a check found something (doctor, cdi check, ldconfig --which)",
    ),
    ("2", "the command line is wrong"),
    ("10", "input (state, bundle, configuration) is broken"),
    ("11", "the host lacks something, or contradicts itself"),
    ("12", "the container requests something that cannot be given"),
    ("13", "refused for safety"),
    ("14", "the kernel or the file system reports an error"),
    (
        "15",
        "an engine's configuration or nvoci's own installation could not be changed",
    ),
];

/// The page, with this date in its footer.
pub(in crate::cmd) fn page(all: &[Entry], date: &str) -> String {
    let mut out = format!(".TH NVOCI 1 \"{date}\" \"{}\"\n", VERSION.trim_end());
    // The vendor's program also has commands of nvoci.
    let mut vendor = entries(&ctk::COMMAND);
    vendor.retain(|entry| entry.table.page().name.starts_with(ctk::COMMAND.page.name));
    for (index, entry) in all.iter().chain(&vendor).enumerate() {
        if index == 0 {
            let page = entry.table.page();
            out += &format!(
                ".SH NAME\n{} \\- {}\n.SH SYNOPSIS\n",
                page.name,
                roff(page.summary)
            );
            synopsis(&mut out, entry.table);
            out += ".SH DESCRIPTION\n";
        } else {
            out += &format!(".SH {}\n", roff(&entry.table.page().name.to_uppercase()));
            synopsis(&mut out, entry.table);
            if !entry.table.page().about.is_empty() {
                out += ".PP\n";
            }
        }
        command(&mut out, entry.table);
    }
    out += ".SH CALLED AS NVIDIA\\-CONTAINER\\-CLI\n.nf\n";
    let lines = container_cli::HELP
        .lines()
        .map(|line| format!("{}\n", roff(line)));
    out += &lines.collect::<String>();
    out += ".fi\n";
    out += ".SH EXIT STATUS\n";
    rows(&mut out, EXIT);
    out += ".SH FILES\n";
    rows(&mut out, FILES);
    out += ".SH SEE ALSO\n.BR nvoci\\-alternatives (1)\n";
    out
}

fn synopsis(out: &mut String, table: &dyn Table) {
    let lines: Vec<String> = usage(table)
        .iter()
        .map(|line| format!(".B {}\n", roff(line)))
        .collect();
    *out += &lines.join(".br\n");
}

/// All of a command except its name and usage.
fn command(out: &mut String, table: &dyn Table) {
    let page = table.page();
    let paragraphs: Vec<String> = page.about.iter().map(|text| roff(text) + "\n").collect();
    *out += &paragraphs.join(".PP\n");
    rows(
        out,
        page.arguments
            .iter()
            .map(|a| (a.name, a.help))
            .collect::<Vec<_>>()
            .as_slice(),
    );
    for group in table.commands() {
        let pages = group.commands.iter().map(|c| c.page()).filter(|p| !p.hidden);
        let shown: Vec<(&str, &str)> = pages.map(|p| (p.word(), p.summary)).collect();
        if !shown.is_empty() {
            *out += &format!(".SS {}\n", roff(group.heading));
            rows(out, &shown);
        }
    }
    for (heading, flags) in groups(table) {
        *out += &format!(".SS {}\n", roff(heading));
        for doc in flags {
            *out += &format!(".TP\n.B {}\n{}\n", roff(&term(doc)), roff(&details(doc)));
        }
    }
    for (heading, texts) in page.sections {
        *out += &format!(".SS {}\n", roff(heading));
        let paragraphs: Vec<String> = texts.iter().map(|text| roff(text) + "\n").collect();
        *out += &paragraphs.join(".PP\n");
    }
    for (heading, pairs) in [("Examples", page.examples), ("Exit status", page.exit)] {
        if !pairs.is_empty() {
            *out += &format!(".SS {heading}\n");
            rows(out, pairs);
        }
    }
}

/// The help about a flag, its other names and its variable.
fn details(doc: &Doc) -> String {
    let mut text = explanation(doc);
    if !text.ends_with('.') {
        text.push('.');
    }
    if !doc.aliases.is_empty() {
        text += &format!(" Also --{}.", doc.aliases.join(", --"));
    }
    if !doc.variable.is_empty() {
        text += &format!(" Variable: {}.", doc.variable);
    }
    text
}

fn rows(out: &mut String, rows: &[(&str, &str)]) {
    for (name, text) in rows {
        *out += &format!(".TP\n.B {}\n{}\n", roff(name), roff(text));
    }
}

/// Escapes a text for the formatter: no line becomes a request, no character an escape.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) {
        format!("\\&{escaped}")
    } else {
        escaped
    }
}
