//! `nvoci doctor image`.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lexopt::Arg;

use super::{next, show, usage};
use crate::compat::{Platform, driver};
use crate::doctor::image::{self, Gpu, Image, Progress, Target};
use crate::door::{load_config, locations, print};
use crate::error::Result;
use crate::host::{Host, Roots};
use crate::sys::budget::{Budget, Limits};

const HELP: &str = "\
Usage: nvoci doctor image IMAGE [--driver VERSION] [--gpu GPU]... [--platform linux|windows] [--json]

Says what of CUDA is in an image, and whether it runs: natively, with limits, or not at all, and then the smallest
change that makes it run. Nothing of the image is executed.

  IMAGE              the directory of a root file system or of an OCI image layout; an archive of `docker save`,
                     `podman save` or an OCI layout; or an image of docker or podman by its name, with `docker:` or
                     `podman:` before it where both might have it

Judged by this host, or by what is named:
  --driver VERSION   the driver, such as 535.183.01
  --gpu GPU          an architecture (sm_90, 9.0) or a product (\"RTX 3070\"); may be repeated
  --platform NAME    `windows` (or --wsl) when the driver is one of Windows, for WSL2

  --json             as one JSON document
  --help             this text
";

/// What is on the command line.
#[derive(Default)]
struct Options {
    what: Option<OsString>,
    driver: Option<String>,
    gpus: Vec<Gpu>,
    platform: Option<Platform>,
    as_json: bool,
}

/// Runs the area on the arguments after its name.
pub(super) fn run(args: lexopt::Parser) -> Result<ExitCode> {
    let Some(options) = parse(args)? else {
        print(HELP)?;
        return Ok(ExitCode::SUCCESS);
    };
    let Some(what) = &options.what else {
        return Err(usage("which image?"));
    };
    let target = target(&options)?;
    let mut progress = Terminal::new();
    let budget = Budget::new(Limits::ARCHIVE);
    let image = Image::open(what, &budget, &mut progress)?;
    let report = image::report(&image, &target, &budget, &mut progress);
    let checked = budget.check();
    checked.map_err(|e| e.of(format!("image {}", what.to_string_lossy())))?;
    drop(progress);
    show(&report, options.as_json)
}

fn parse(mut args: lexopt::Parser) -> Result<Option<Options>> {
    let mut options = Options::default();
    loop {
        let long = match next(&mut args)? {
            None => return Ok(Some(options)),
            Some(Arg::Long("help") | Arg::Short('h')) => return Ok(None),
            Some(Arg::Long("json")) => {
                options.as_json = true;
                continue;
            }
            Some(Arg::Long("wsl")) => {
                options.platform = Some(Platform::Windows);
                continue;
            }
            Some(Arg::Long(name @ ("driver" | "gpu" | "platform"))) => name.to_owned(),
            Some(Arg::Value(what)) if options.what.is_none() => {
                options.what = Some(what);
                continue;
            }
            Some(other) => return Err(usage(other.unexpected().to_string())),
        };
        let value = args.value().map_err(|e| usage(e.to_string()))?;
        let value = value.to_string_lossy().into_owned();
        match (long.as_str(), value.as_str()) {
            ("driver", _) => options.driver = Some(value),
            ("gpu", name) => options.gpus.push(Gpu::named(name).ok_or_else(|| {
                usage(format!(
                    "`{name}` is no GPU in the tables: name its architecture, such as sm_90"
                ))
            })?),
            (_, "linux") => options.platform = Some(Platform::Linux),
            (_, "windows") => options.platform = Some(Platform::Windows),
            (_, other) => {
                return Err(usage(format!("`{other}` is no platform: it is linux or windows")));
            }
        }
    }
}

/// What was named, and the rest from this host.
fn target(options: &Options) -> Result<Target> {
    let mut target = if options.driver.is_some() {
        Target {
            driver: None,
            platform: Platform::Linux,
            gpus: Vec::new(),
        }
    } else {
        let locations = locations(&load_config(None)?);
        let roots = Roots::open(&locations)?;
        Target::of_host(&Host::discover(&roots, &locations)?, &roots)
    };
    if let Some(text) = &options.driver {
        let version = driver::version(text);
        target.driver = Some(version.ok_or_else(|| usage(format!("`{text}` is no driver version")))?);
    }
    if !options.gpus.is_empty() {
        target.gpus.clone_from(&options.gpus);
    }
    if let Some(platform) = options.platform {
        target.platform = platform;
    }
    Ok(target)
}

/// One line on a terminal that is written over, once a scan takes long.
struct Terminal {
    shown: bool,
    last: Instant,
}

impl Terminal {
    const EVERY: Duration = Duration::from_millis(500);

    fn new() -> Self {
        Self {
            shown: false,
            last: Instant::now(),
        }
    }

    fn show(&mut self, line: std::fmt::Arguments<'_>) {
        let mut out = std::io::stderr();
        if self.last.elapsed() > Self::EVERY && out.is_terminal() {
            // Nobody may be looking, and that is no reason to fail.
            let _ = write!(out, "\r\u{1b}[K{line}");
            self.last = Instant::now();
            self.shown = true;
        }
    }
}

impl Progress for Terminal {
    fn directories(&mut self, count: usize) {
        self.show(format_args!("{count} directories"));
    }

    fn entries(&mut self, count: usize) {
        self.show(format_args!("layer: {count} files"));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}
