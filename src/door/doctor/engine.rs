//! `nvoci doctor engine`.

use std::process::ExitCode;

use lexopt::Arg;

use super::{next, show, usage};
use crate::doctor::engine;
use crate::door::{load_config, print};
use crate::engine::Engine;
use crate::error::Result;

const HELP: &str = "\
Usage: nvoci doctor engine [docker|podman|containerd|crio] [--json]

Compares what a running engine knows with what its files say now: runtimes, hooks, CDI, what must be
restarted, snap, rootless, another context, two toolkits at once, GPUs that the next daemon-reload
would take away. Without a name all engines that are here. A daemon is asked over its socket; no
program is executed.

  --json   as one JSON document
  --help   this text
";

/// Runs the area on the arguments after its name.
pub(super) fn run(mut args: lexopt::Parser) -> Result<ExitCode> {
    let (mut as_json, mut engine) = (false, None);
    while let Some(arg) = next(&mut args)? {
        match arg {
            Arg::Long("json") => as_json = true,
            Arg::Long("help") | Arg::Short('h') => {
                print(HELP)?;
                return Ok(ExitCode::SUCCESS);
            }
            Arg::Value(name) if engine.is_none() => {
                let name = name.to_string_lossy();
                engine = Some(
                    Engine::from_name(&name).ok_or_else(|| usage(format!("there is no engine `{name}`")))?,
                );
            }
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    // A broken policy is a finding of the host's.
    let config = load_config(None).unwrap_or_default();
    show(&engine::report(engine, &config), as_json)
}
