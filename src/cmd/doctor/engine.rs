//! `nvoci doctor engine`.

use std::process::ExitCode;

use super::output::{Output, Prints, html_flag, json_flag};
use crate::cmd::cli::{Command, Page, Words, argument};
use crate::cmd::load_config;
use crate::doctor::engine;
use crate::doctor::html::Link;
use crate::engine::Engine;
use crate::error::Result;

#[derive(Default)]
pub(super) struct Options {
    output: Output,
    engine: Option<Engine>,
}

impl Prints for Options {
    fn output(&mut self) -> &mut Output {
        &mut self.output
    }
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci doctor engine",
        summary: "compare a running engine's configuration with its files",
        about: &[
            "Compares what a running engine has loaded with its files as they are now: runtimes, hooks, \
                  CDI, what must be restarted, snap, rootless, another context, two toolkits at once, GPUs \
                  that the next daemon-reload would take away. Without a name, all engines of this host. A \
                  daemon is queried over its socket; no program is executed.",
        ],
        arguments: &[
            argument("[ENGINE]", "docker, podman, containerd or crio").values(&[
                "docker",
                "podman",
                "containerd",
                "crio",
            ]),
        ],
        ..Page::EMPTY
    },
    flags: &[json_flag(), html_flag()],
    words: Words::One(|o, name| {
        let name = name.to_string_lossy();
        o.engine = Some(Engine::from_name(&name).ok_or_else(|| format!("there is no engine `{name}`"))?);
        Ok(())
    }),
    ..Command::of(run)
};

fn run(Options { output, engine }: Options) -> Result<ExitCode> {
    // A broken policy is a finding of `doctor host`.
    let config = load_config(None).unwrap_or_default();
    output.show_one(&engine::report(engine, &config), Link::Engine)
}
