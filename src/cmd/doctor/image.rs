//! `nvoci doctor image`.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::STATUS;
use super::output::{Output, Prints, html_flag, json_flag};
use crate::cmd::cli::{Command, Page, Words, argument, flag};
use crate::cmd::{load_config, locations};
use crate::compat::{Platform, Version, driver};
use crate::doctor::html::Link;
use crate::doctor::image::{self, Gpu, Image, Progress, Target};
use crate::error::Result;
use crate::host::{Host, Roots};
use crate::sys::budget::{Budget, Limits};

/// The command line.
#[derive(Default)]
pub(super) struct Options {
    image: Option<OsString>,
    driver: Option<Version>,
    gpus: Vec<Gpu>,
    platform: Option<Platform>,
    output: Output,
}

impl Prints for Options {
    fn output(&mut self) -> &mut Output {
        &mut self.output
    }
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci doctor image",
        summary: "find an image's CUDA, and whether it runs here or elsewhere",
        about: &[
            "Reports what of CUDA is in an image, and whether it runs: natively, with limits, or not at \
                  all, and then the smallest change that makes it run. Nothing of the image is executed.",
        ],
        arguments: &[argument(
            "IMAGE",
            "the directory of a root file system or of an OCI image layout; an archive of \
                   `docker save`, `podman save` or an OCI layout; or an image of docker or podman by its name, \
                   with `docker:` or `podman:` before it where both might have it",
        )],
        exit: STATUS,
        ..Page::EMPTY
    },
    flags: &[
        flag("driver", "the driver, such as 535.183.01")
            .group(TARGET)
            .text("VERSION", |o, text| {
                let version = driver::version(&text);
                o.driver = Some(version.ok_or_else(|| format!("`{text}` is no driver version"))?);
                Ok(())
            }),
        flag("gpu", "an architecture (sm_90, 9.0) or a product (\"RTX 3070\")")
            .repeatable()
            .group(TARGET)
            .text("GPU", |o, name| {
                let gpu = Gpu::named(&name);
                o.gpus.push(gpu.ok_or_else(|| {
                    format!("`{name}` is no GPU in the tables: name its architecture, such as sm_90")
                })?);
                Ok(())
            }),
        flag("platform", "the driver's platform; `windows` is WSL2")
            .values(&["linux", "windows"])
            .group(TARGET)
            .text("", |o, name| {
                o.platform = Some(match name.as_str() {
                    "linux" => Platform::Linux,
                    "windows" => Platform::Windows,
                    other => return Err(format!("`{other}` is no platform: it is linux or windows")),
                });
                Ok(())
            }),
        flag("wsl", "the same as --platform windows")
            .group(TARGET)
            .switch(|o| o.platform = Some(Platform::Windows)),
        json_flag(),
        html_flag(),
    ],
    words: Words::One(|o, image| {
        o.image = Some(image);
        Ok(())
    }),
    ..Command::of(|options| run(&options))
};

/// The heading of the flags that select another host.
const TARGET: &str = "Judge by another host than this one";

fn run(options: &Options) -> Result<ExitCode> {
    let Some(what) = &options.image else {
        return Err(COMMAND.usage_error("no image was named"));
    };
    let target = target(options)?;
    let mut progress = Terminal::new();
    let budget = Budget::new(Limits::ARCHIVE);
    let image = Image::open(what, &budget, &mut progress)?;
    let report = image::report(&image, &target, &budget, &mut progress);
    let checked = budget.check();
    checked.map_err(|e| e.of(format!("image {}", what.to_string_lossy())))?;
    drop(progress);
    options.output.show_one(&report, Link::Image)
}

/// The named target; unnamed parts are this host's.
fn target(options: &Options) -> Result<Target> {
    let mut target = if options.driver.is_some() {
        Target {
            driver: None,
            platform: Platform::Linux,
            gpus: Vec::new(),
        }
    } else {
        let locations = locations(&*load_config(None)?);
        let roots = Roots::open(&locations)?;
        Target::of_host(&Host::discover(&roots, &locations)?, &roots)
    };
    if options.driver.is_some() {
        target.driver.clone_from(&options.driver);
    }
    if !options.gpus.is_empty() {
        target.gpus.clone_from(&options.gpus);
    }
    if let Some(platform) = options.platform {
        target.platform = platform;
    }
    Ok(target)
}

/// One line on a terminal that is overwritten; shown if a scan takes long.
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
            // If the reader is gone, the scan still continues.
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
