//! `nvoci doctor container`.

use std::process::ExitCode;

use super::output::{Output, Prints, html_flag, json_flag};
use crate::cmd::cli::{Command, Page, Words, argument, flag};
use crate::cmd::{load_config, locations, print};
use crate::containers::driver_places;
use crate::doctor::container::{self, Found, Repair, Seen};
use crate::doctor::html::Link;
use crate::error::{Escaped, Result};
use crate::host::{Host, Roots};

#[derive(Default)]
pub(super) struct Options {
    output: Output,
    fix: bool,
    name: Option<String>,
}

impl Prints for Options {
    fn output(&mut self) -> &mut Output {
        &mut self.output
    }
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci doctor container",
        summary: "show what a running container can really open and load",
        about: &[
            "Inspects a running container from outside: which of its GPU nodes open with its own rights in \
             its own cgroup, which libcuda the loader takes and which one processes have in use, whether the \
             host's driver changed underneath, whether the next `systemctl daemon-reload` takes the GPU away.",
            "Nothing of the container is executed. `nvoci doctor image /proc/PID/root` inspects its \
             frameworks.",
        ],
        arguments: &[argument("ID|NAME|PID", "the container, or one of its processes")],
        ..Page::EMPTY
    },
    flags: &[
        flag("fix", "restore access to nodes that a daemon-reload took")
            .more(
                "Prints what it does first. Only nodes that nvoci gave the container, according to \
             /run/nvoci/grants of this host, whatever is inside the container; it lasts as long as the \
             container.",
            )
            .switch(|o| o.fix = true),
        json_flag(),
        html_flag(),
    ],
    words: Words::One(|o, name| {
        o.name = Some(name.to_string_lossy().into_owned());
        Ok(())
    }),
    ..Command::of(run)
};

fn run(options: Options) -> Result<ExitCode> {
    let Options { output, fix, name } = options;
    let show = |report| output.show_one(&report, Link::Container);
    let name = name.ok_or_else(|| COMMAND.usage_error("no container was named"))?;
    let config = load_config(None).unwrap_or_default();
    let found = match container::find(&name, &driver_places(&config.driver_dirs)) {
        Found::One(container) => *container,
        Found::None(why) => return show(container::none(&name, &why)),
    };
    let locations = locations(&config);
    let host = Host::discover(&Roots::open(&locations)?, &locations)?;
    let seen = Seen::inspect(found.clone(), &host);
    let Some(repair) = Repair::plan(&seen).filter(|_| fix) else {
        let mut report = container::report(&seen, &host);
        if fix && let Some(refused) = container::refused(&seen) {
            report.add(refused);
        }
        return show(report);
    };
    if !output.json {
        for line in repair.describe() {
            print(&format!("will do: {}\n", Escaped(&line)))?;
        }
    }
    let outcome = container::fixed(&repair, repair.apply());
    let mut report = container::report(&Seen::inspect(found, &host), &host);
    report.add(outcome);
    show(report)
}
