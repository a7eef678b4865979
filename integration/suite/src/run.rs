//! A run: the selected trials, one after the other, and their verdicts. The watcher and the states
//! see the whole host, so two trials at once would be seen as one.

use std::io;
use std::path::Path;

use crate::case::{Bite, Case, Class};
use crate::convict;
use crate::expect::Cgroup;
use crate::host::Host;
use crate::hostile::CLASSES;
use crate::pattern::Pattern;
use crate::report::Report;
use crate::trial::{Tool, Trial};
use crate::way::{Extent, Runtime, Way, selected};

pub(crate) const WATCHER: &str = "/world/hostile/watch";

/// What a run selects.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) runtimes: Vec<Runtime>,
    pub(crate) only: Pattern,
    pub(crate) way: Option<Pattern>,
    pub(crate) extent: Extent,
    /// The host's version of cgroups.
    pub(crate) cgroup: Cgroup,
    /// The naive hook too, which each case must find guilty.
    pub(crate) bites: bool,
    /// The naive hook alone.
    pub(crate) bites_only: bool,
    /// One case of each class, by one way.
    pub(crate) first: bool,
}

/// A line of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Row {
    /// nvoci with a runtime, by a way.
    Case(&'static Case, Runtime, Way),
    /// The naive hook. The place is named if it is not the usual one.
    Bite(&'static Case, Way, bool),
    /// A hook that leaves no trace, and the event that the watcher must report.
    Peek(&'static str, &'static str),
    /// A hook that does nothing: the harmless image has no GPU.
    Idle,
    /// nvoci without a watcher: nothing is proved.
    Unwatched,
}

/// What a hook that leaves no trace does, and the event.
const PEEKS: [(&str, &str); 8] = [
    ("open", "OPEN"),
    ("read", "READ"),
    ("list", "READ"),
    ("make", "CREATE"),
    ("move", "MOVE-FROM"),
    ("write", "WRITE"),
    ("rights", "ATTRIB"),
    ("elsewhere", "CREATE"),
];

impl Selection {
    /// The rows of this run, in order.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        if !self.bites_only {
            for runtime in &self.runtimes {
                rows.extend(self.cases_of(*runtime));
            }
        }
        if self.bites {
            rows.extend(self.bites());
        }
        rows
    }

    fn cases_of(&self, runtime: Runtime) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let mut last_class = None;
        for (class, case) in self.cases() {
            if self.first && last_class == Some(class.number) {
                continue;
            }
            if !(case.only)(self.cgroup, runtime) {
                continue;
            }
            let ways = selected(case.ways, class.number, runtime, self.extent);
            let kept = ways.into_iter().filter(|way| {
                let pattern = self.way.as_ref();
                pattern.is_none_or(|pattern| pattern.matches(way.name()))
            });
            let most = if self.first { 1 } else { usize::MAX };
            let before = rows.len();
            rows.extend(kept.take(most).map(|way| Row::Case(case, runtime, way)));
            if rows.len() > before {
                last_class = Some(class.number);
            }
        }
        rows
    }

    fn cases(&self) -> impl Iterator<Item = (&'static Class, &'static Case)> {
        let all = CLASSES
            .iter()
            .flat_map(|class| class.cases.iter().map(move |case| (*class, case)));
        all.filter(|(_, case)| self.only.matches(case.id))
    }

    fn bites(&self) -> Vec<Row> {
        let gvisor = self.runtimes.first() == Some(&Runtime::Runsc);
        let mut rows = Vec::new();
        if !gvisor {
            for (_, case) in self.cases().filter(|(_, case)| case.bites != Bite::Nothing) {
                let usual = [Way::Direct, Way::CreateContainer];
                let way = usual.into_iter().find(|way| case.ways.contains(way));
                let way = way.unwrap_or(Way::CreateRuntime);
                rows.push(Row::Bite(case, way, false));
            }
        }
        for (_, case) in self.cases() {
            let also = case.bites_also.iter().filter(|way| way.is_gvisor() == gvisor);
            rows.extend(also.map(|way| Row::Bite(case, *way, true)));
        }
        if !gvisor && self.only.matches("watch") {
            rows.extend(PEEKS.map(|(what, event)| Row::Peek(what, event)));
            rows.extend([Row::Unwatched, Row::Idle]);
        }
        rows
    }
}

impl Row {
    /// The name in `cases.tsv`.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Case(case, runtime, way) => format!("{} {} {}", case.id, runtime.name(), way.name()),
            Self::Bite(case, _, false) => format!("bites {}", case.id),
            Self::Bite(case, way, true) => format!("bites {} {}", case.id, way.name()),
            Self::Peek(what, _) => format!("watch {what}"),
            Self::Idle => "watch no hook".to_owned(),
            Self::Unwatched => "watch nothing".to_owned(),
        }
    }
}

/// Runs everything on this host. The results go to `directory`.
pub(crate) fn run(selection: &Selection, report: &Report) -> io::Result<()> {
    let host = Host::discover()?;
    let runtime = selection.runtimes.first().copied().unwrap_or(Runtime::Runc);
    for (number, row) in (0..).zip(selection.rows()) {
        let begun = report.begin(row.name())?;
        let faults = match row {
            Row::Case(case, runtime, way) => {
                let trial = Trial {
                    limit: case.limit,
                    ..trial(&host, case, runtime, way, number, &begun.evidence)
                };
                trial.faults()
            }
            row => convict::faults(&host, &row, runtime, number, &begun.evidence)?,
        };
        begun.end(&faults)?;
    }
    Ok(())
}

/// A trial of nvoci.
pub(crate) fn trial<'a>(
    host: &'a Host,
    case: &'static Case,
    runtime: Runtime,
    way: Way,
    number: u32,
    evidence: &'a Path,
) -> Trial<'a> {
    Trial {
        host,
        case,
        runtime,
        way,
        tool: Tool::Nvoci,
        watcher: WATCHER,
        limit: case.limit,
        number,
        evidence,
    }
}
