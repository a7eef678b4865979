//! `nvoci doctor dockerfile`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use lexopt::{Arg, ValueExt as _};

use super::{next, read_text, show, usage};
use crate::compat::driver;
use crate::compat::gpu::Product;
use crate::doctor::dockerfile::{MAX_SIZE, Wanted, report};
use crate::door::print;
use crate::error::{Error, Result};
use crate::sys::budget::Budget;

const HELP: &str = "\
Usage: nvoci doctor dockerfile FILE [--build-arg NAME=VALUE]... [--driver VERSION] [--wsl] [--gpu GPU] [--json]

Reads a Dockerfile (`-`: standard input) and says what will keep the image from computing on a GPU. Nothing is built
or pulled.

  --build-arg  a value for an ARG, as for `docker build`
  --driver     judge against this driver: 535.183.01
  --wsl        the driver is the one of Windows
  --gpu        judge against this GPU: sm_86, 8.6, or its name
  --json       as one JSON document
  --help       this text

Exit status: 0 all is well, 1 warnings, 2 something cannot work.
";

/// Runs the area on the arguments after its name.
pub(super) fn run(mut args: lexopt::Parser) -> Result<ExitCode> {
    let (mut file, mut as_json, mut wanted) = (None, false, Wanted::default());
    let mut build_args = BTreeMap::new();
    let text = |value: std::ffi::OsString| value.string().map_err(|e| usage(e.to_string()));
    while let Some(arg) = next(&mut args)? {
        match arg {
            Arg::Long("json") => as_json = true,
            Arg::Long("wsl") => wanted.windows = true,
            Arg::Long("help") | Arg::Short('h') => {
                print(HELP)?;
                return Ok(ExitCode::SUCCESS);
            }
            Arg::Long("build-arg") => {
                let pair = text(args.value().map_err(|e| usage(e.to_string()))?)?;
                let (name, value) = pair
                    .split_once('=')
                    .ok_or_else(|| usage(format!("--build-arg `{pair}` is not NAME=VALUE")))?;
                build_args.insert(name.to_owned(), value.to_owned());
            }
            Arg::Long("driver") => {
                let version = text(args.value().map_err(|e| usage(e.to_string()))?)?;
                let parsed = driver::version(&version);
                wanted.driver = Some(parsed.ok_or_else(|| not("--driver", &version, "a driver's version"))?);
            }
            Arg::Long("gpu") => {
                let gpu = text(args.value().map_err(|e| usage(e.to_string()))?)?;
                let product: Product = gpu
                    .parse()
                    .map_err(|_| not("--gpu", &gpu, "a GPU that nvoci knows"))?;
                (wanted.sm, wanted.class) = (Some(product.sm), product.class);
            }
            Arg::Value(name) if file.is_none() => file = Some(name),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    let file = file.ok_or_else(|| usage("which Dockerfile?"))?;
    if wanted.driver.is_none() && (wanted.sm.is_some() || wanted.windows) {
        return Err(usage("--gpu and --wsl need --driver"));
    }
    let (name, text) = read_text(&file, MAX_SIZE)?;
    let report = report(&name, &text, &build_args, wanted, &Budget::default())?;
    show(&report, as_json)
}

fn not(option: &str, value: &str, what: &str) -> Error {
    usage(format!("{option} `{value}` is not {what}"))
}
