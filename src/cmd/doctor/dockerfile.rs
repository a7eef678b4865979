//! `nvoci doctor dockerfile`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{Output, Prints, html_flag, json_flag};
use super::{STATUS, Subject, context_of, read_text};
use crate::cmd::cli::{Command, Page, Words, argument, flag};
use crate::compat::driver;
use crate::compat::gpu::Product;
use crate::doctor::dockerfile::{Context, MAX_SIZE, Wanted, report};
use crate::doctor::html::Link;
use crate::error::Result;
use crate::sys::budget::Budget;

#[derive(Default)]
pub(super) struct Options {
    file: Subject,
    wanted: Wanted,
    build_args: BTreeMap<String, String>,
    context: Option<PathBuf>,
}

impl Prints for Options {
    fn output(&mut self) -> &mut Output {
        &mut self.file.output
    }
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci doctor dockerfile",
        summary: "find in a Dockerfile what keeps the image from its GPU",
        about: &[
            "Reads a Dockerfile and reports what will keep the image from computing on a GPU. Nothing is \
                  built or pulled.",
        ],
        arguments: &[argument("FILE", "the Dockerfile; `-` is standard input")],
        exit: STATUS,
        ..Page::EMPTY
    },
    flags: &[
        flag("build-arg", "a value for an ARG, as for `docker build`")
            .repeatable()
            .text("NAME=VALUE", |o, pair| {
                let (name, value) = pair
                    .split_once('=')
                    .ok_or_else(|| format!("`{pair}` is not NAME=VALUE"))?;
                o.build_args.insert(name.to_owned(), value.to_owned());
                Ok(())
            }),
        flag(
            "context",
            "the build context (default: the directory of the Dockerfile)",
        )
        .more("Files that `pip install -r` reads are judged if they are in it.")
        .path("DIR", |o, dir| o.context = Some(dir)),
        flag("driver", "judge against this driver: 535.183.01").text("VERSION", |o, version| {
            let parsed = driver::version(&version);
            o.wanted.driver = Some(parsed.ok_or_else(|| format!("`{version}` is no driver version"))?);
            Ok(())
        }),
        flag("wsl", "the driver is the one of Windows").switch(|o| o.wanted.windows = true),
        flag("gpu", "judge against this GPU: sm_86, 8.6, or its name").text("GPU", |o, gpu| {
            let product: Result<Product, _> = gpu.parse();
            let product = product.map_err(|_| {
                format!("`{gpu}` is no GPU in the tables: name its architecture, such as sm_90")
            })?;
            (o.wanted.sm, o.wanted.class) = (Some(product.sm), product.class);
            Ok(())
        }),
        json_flag(),
        html_flag(),
    ],
    words: Words::One(|o, name| {
        o.file.name = Some(name);
        Ok(())
    }),
    ..Command::of(run)
};

fn run(options: Options) -> Result<ExitCode> {
    let Options {
        file,
        wanted,
        build_args,
        context,
    } = options;
    let name = file
        .name
        .ok_or_else(|| COMMAND.usage_error("no Dockerfile was named"))?;
    if wanted.driver.is_none() && (wanted.sm.is_some() || wanted.windows) {
        return Err(COMMAND.usage_error("--gpu and --wsl need --driver"));
    }
    let context = context
        .map_or_else(|| context_of(&name), |dir| Context::at(&dir))
        .of_dockerfile(Path::new(&name));
    let (name, text) = read_text(&name, MAX_SIZE)?;
    let report = report(&name, &text, &build_args, wanted, &context, &Budget::default())?;
    file.output.show_one(&report, Link::Image)
}
