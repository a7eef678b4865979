//! The typed part of the hostile suite.
//!
//! ```text
//! nvoci-suite run [OPTIONS] RUNTIME...      inside a simulated host: every case, and its verdict
//! nvoci-suite --count [OPTIONS] RUNTIME...  how many verdicts that has
//! nvoci-suite --list [OPTIONS] RUNTIME...   their names, and why each case is there
//! nvoci-suite --table                       rows for `integration/hostile/table`
//! nvoci-suite --junit                       `cases.tsv` on its input as JUnit's XML
//! ```
//!
//! Options: `--only PATTERN` selects cases, `--way PATTERN` ways, `--bites` adds the naive hook,
//! which each case must find guilty, `--bites-only` runs nothing else, `--first` takes one case of
//! each class by one way, `--long` each way with
//! each runtime, `--keep` keeps the evidence of passed cases too, `--cgroup v1|v2` is the host's
//! version of cgroups (`SIM_CGROUP` is the default).

mod after;
mod bundle;
mod caller;
mod case;
mod commands;
mod convict;
mod definition;
mod expect;
mod fault;
mod host;
mod hostile;
mod image;
mod judge;
mod junit;
mod pattern;
mod probe;
mod process;
mod promise;
mod report;
mod run;
mod scene;
mod table;
mod trial;
mod way;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::expect::Cgroup;
use crate::pattern::Pattern;
use crate::report::{Report, line};
use crate::run::{Row, Selection};
use crate::way::{Extent, Runtime};

const USAGE: &str = "usage: nvoci-suite run|--count|--list|--table|--junit [--only PATTERN] [--way PATTERN] [--bites] \
                     [--bites-only] [--first] [--long] [--keep] RUNTIME...";

/// What the suite is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Count,
    Junit,
    List,
    Run,
    Table,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((verb, selection, keep)) = parse(&words) else {
        let _ = writeln!(io::stderr(), "{USAGE}");
        return ExitCode::from(2);
    };
    match execute(verb, &selection, keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(io::stderr(), "nvoci-suite: {e}");
            ExitCode::FAILURE
        }
    }
}

fn execute(verb: Verb, selection: &Selection, keep: bool) -> io::Result<()> {
    match verb {
        Verb::Count => line(&selection.rows().len().to_string()),
        Verb::Junit => {
            let results = io::read_to_string(io::stdin())?;
            write!(io::stdout(), "{}", junit::document(&results))
        }
        Verb::List => {
            for row in selection.rows() {
                let why = if let Row::Case(case, ..) | Row::Bite(case, ..) = row {
                    case.why
                } else {
                    ""
                };
                line(&format!("{}\t{why}", row.name()))?;
            }
            Ok(())
        }
        Verb::Run => {
            let directory = std::env::var_os("NVOCI_RESULTS").ok_or_else(|| {
                io::Error::other("NVOCI_RESULTS is not set; fix: run it by integration/hostile/run")
            })?;
            run::run(selection, &Report::new(directory.into(), keep))
        }
        Verb::Table => table::rows().into_iter().try_for_each(|row| line(&row)),
    }
}

fn parse(words: &[String]) -> Option<(Verb, Selection, bool)> {
    let mut words = words.iter().map(String::as_str);
    let verb = match words.next()? {
        "--count" => Verb::Count,
        "--junit" => Verb::Junit,
        "--list" => Verb::List,
        "--table" => Verb::Table,
        "run" => Verb::Run,
        _ => return None,
    };
    let mut selection = Selection {
        runtimes: Vec::new(),
        only: Pattern::parse("")?,
        way: None,
        extent: Extent::Sample,
        bites: false,
        bites_only: false,
        first: false,
        cgroup: cgroup(&std::env::var("SIM_CGROUP").unwrap_or_default()),
    };
    let (mut keep, mut long) = (false, false);
    while let Some(word) = words.next() {
        match word {
            "--bites" => selection.bites = true,
            "--bites-only" => selection.bites_only = true,
            "--cgroup" => selection.cgroup = cgroup(words.next()?),
            "--first" => selection.first = true,
            "--keep" => keep = true,
            "--long" => long = true,
            "--only" => selection.only = Pattern::parse(words.next()?)?,
            // A way is matched as a whole.
            "--way" => selection.way = Some(Pattern::parse(&format!("^({})$", words.next()?))?),
            runtime => selection.runtimes.push(Runtime::parse(runtime)?),
        }
    }
    selection.extent = match (long, selection.bites) {
        (true, _) => Extent::Full,
        (false, true) => Extent::Stages,
        (false, false) => Extent::Sample,
    };
    let needs_none = matches!(verb, Verb::Junit | Verb::Table);
    (needs_none || !selection.runtimes.is_empty()).then_some((verb, selection, keep))
}

/// The version of cgroups by the option of `simhost.sh`, whose default is v1 too.
fn cgroup(version: &str) -> Cgroup {
    if version == "v2" { Cgroup::V2 } else { Cgroup::V1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (_, selection, _) = parse(&words).unwrap();
        selection.rows().iter().map(Row::name).collect()
    }

    #[test]
    fn options_select_rows() {
        assert_eq!(
            names("--list --only ^01_nvidia$ runc"),
            ["01_nvidia runc createContainer"]
        );
        let way = names("--list --only ^01_nvidia$ --way cdi|create.* crun");
        let all = [
            "01_nvidia crun createRuntime",
            "01_nvidia crun createContainer",
            "01_nvidia crun cdi",
        ];
        assert_eq!(way, all);
        let bites = names("--list --bites --bites-only --only ^01_usr_local$ runc");
        assert_eq!(
            bites,
            [
                "bites 01_usr_local",
                "bites 01_usr_local rootless",
                "bites 01_usr_local cdi"
            ]
        );
        assert_eq!(names("--list --bites --only ^watch runc").len(), 10);
        let gvisor = names("--list --bites --bites-only --only ^0 runsc");
        assert_eq!(gvisor, ["bites 01_usr_local gvisor-nvproxy"]);
    }

    #[test]
    fn unknown_words_are_refused() {
        for line in [
            "",
            "walk runc",
            "run",
            "run --only",
            "run --only ( runc",
            "run youki",
            "--count --no runc",
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert!(parse(&words).is_none(), "{line}");
        }
    }
}
