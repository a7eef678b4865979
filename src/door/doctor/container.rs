//! `nvoci doctor container`.

use std::process::ExitCode;

use lexopt::Arg;

use super::{next, show, usage};
use crate::containers::driver_places;
use crate::doctor::container::{self, Found, Repair, Seen};
use crate::door::{load_config, locations, print};
use crate::error::{Escaped, Result};
use crate::host::{Host, Roots};

const HELP: &str = "\
Usage: nvoci doctor container ID|NAME|PID [--fix] [--json]

Looks into a running container from outside: which of its GPU nodes open with its own rights in its
own cgroup, which libcuda the loader takes and which one processes have in use, whether the host's
driver changed underneath, whether the next `systemctl daemon-reload` takes the GPU away. Nothing of
the container is executed. `nvoci doctor image /proc/PID/root` looks at its frameworks.

  --fix    gives back access to nodes that a daemon-reload took; shows first what it does. Only nodes
           that nvoci gave the container, as /run/nvoci/grants of this host says, whatever is inside
           the container; it lasts as long as the container.
  --json   as one JSON document
  --help   this text
";

/// Runs the area on the arguments after its name.
pub(super) fn run(mut args: lexopt::Parser) -> Result<ExitCode> {
    let (mut as_json, mut fix, mut name) = (false, false, None);
    while let Some(arg) = next(&mut args)? {
        match arg {
            Arg::Long("json") => as_json = true,
            Arg::Long("fix") => fix = true,
            Arg::Long("help") | Arg::Short('h') => {
                print(HELP)?;
                return Ok(ExitCode::SUCCESS);
            }
            Arg::Value(value) if name.is_none() => name = Some(value.to_string_lossy().into_owned()),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    let name = name.ok_or_else(|| usage("which container?"))?;
    let config = load_config(None).unwrap_or_default();
    let found = match container::find(&name, &driver_places(&config.driver_dirs)) {
        Found::One(container) => *container,
        Found::None(why) => return show(&container::none(&name, &why), as_json),
    };
    let locations = locations(&config);
    let host = Host::discover(&Roots::open(&locations)?, &locations)?;
    let seen = Seen::look(found.clone(), &host);
    let Some(repair) = Repair::plan(&seen).filter(|_| fix) else {
        let mut report = container::report(&seen, &host);
        if fix && let Some(refused) = container::refused(&seen) {
            report.add(refused);
        }
        return show(&report, as_json);
    };
    if !as_json {
        for line in repair.describe() {
            print(&format!("will do: {}\n", Escaped(&line)))?;
        }
    }
    let outcome = container::fixed(&repair, repair.apply());
    let mut report = container::report(&Seen::look(found, &host), &host);
    report.add(outcome);
    show(&report, as_json)
}
