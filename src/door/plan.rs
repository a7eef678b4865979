//! `nvoci plan`: what a container would get, and why, without changing anything.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::Arg;
use serde_json::{Value, json};

use super::inject;
use crate::config::Config;
use crate::error::{Code, Error, Escaped, Result};
use crate::host::{Host, Locations, Roots};
use crate::plan::{Forward, LinkAt, Plan, plan};
use crate::request::{self, Door, Inputs};
use crate::vocabulary::or_empty;

/// `nvoci plan --help`.
pub const HELP: &str = "\
Shows what a container would get, and why. Changes nothing.

Usage: nvoci plan [--json] [--config FILE] BUNDLE
       nvoci plan [--json] [--config FILE] [--privileged] NAME=VALUE...

  BUNDLE        a directory with an OCI config.json
  NAME=VALUE    the container's variables, e.g. NVIDIA_VISIBLE_DEVICES=0
                NVIDIA_DRIVER_CAPABILITIES=compute,graphics
  --privileged  as if the container had CAP_SYS_ADMIN
  --json        machine-readable, with stable keys

Exit status: 0 the request can be met (or there is none); otherwise the one of the error that the
container would be refused with.
";

struct Options {
    json: bool,
    privileged: bool,
    config: Option<PathBuf>,
    bundle: Option<PathBuf>,
    env: Vec<(String, String)>,
}

/// Runs the command.
pub fn run(args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let Some(options) = parse(args)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let config = super::load_config(options.config.as_deref())?;
    super::print(&shown(&options, &config, &super::locations(&config))?)?;
    Ok(ExitCode::SUCCESS)
}

/// What the command prints, on a host at `locations`.
fn shown(options: &Options, config: &Config, locations: &Locations) -> Result<String> {
    let request = if let Some(path) = &options.bundle {
        let (_, spec) = inject::open_bundle(path, None, config)?;
        let request = inject::with_inputs(&spec, Door::Hook, |inputs| request::parse(inputs, config))?;
        if !request.is_empty() {
            spec.whole()?;
        }
        request
    } else {
        let privileged = options.privileged;
        let inputs = Inputs {
            env: &options.env,
            annotations: &[],
            mounts: &[],
            privileged,
            door: Door::Hook,
        };
        request::parse(&inputs, config)?
    };
    if request.is_empty() {
        return Ok(if options.json {
            format!("{}\n", json!({"gpu": false, "notes": request.notes}))
        } else {
            let notes = request.notes.iter();
            let notes: String = notes.map(|n| format!("note: {}\n", Escaped(n))).collect();
            format!("This container asks for no GPU and gets nothing.\n{notes}")
        });
    }
    let roots = Roots::open(locations)?;
    let host = Host::discover(&roots, locations)?;
    let plan = plan(&request, &host, config)?;
    Ok(if options.json {
        format!("{:#}\n", to_json(&plan))
    } else {
        to_text(&plan)
    })
}

/// What `nvoci plan` prints for a bundle, on a host at `locations`.
pub(super) fn of_bundle(bundle: &Path, json: bool, config: &Config, locations: &Locations) -> Result<String> {
    let options = Options {
        json,
        privileged: false,
        config: None,
        bundle: Some(bundle.to_owned()),
        env: Vec::new(),
    };
    shown(&options, config, locations)
}

fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Options>> {
    let usage = |why: String| Error::new(Code::Usage, "nvoci plan", why).fix("see `nvoci plan --help`");
    let mut options = Options {
        json: false,
        privileged: false,
        config: None,
        bundle: None,
        env: Vec::new(),
    };
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(|e| usage(e.to_string()))? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => {
                super::print(HELP)?;
                return Ok(None);
            }
            Arg::Long("json") => options.json = true,
            Arg::Long("privileged") => options.privileged = true,
            Arg::Long("config") => {
                options.config = Some(parser.value().map_err(|e| usage(e.to_string()))?.into());
            }
            Arg::Value(word) => match word.to_str().and_then(|w| w.split_once('=')) {
                Some((name, value)) => options.env.push((name.to_owned(), value.to_owned())),
                None if options.bundle.is_none() => options.bundle = Some(word.into()),
                None => return Err(usage("more than one bundle was given".to_owned())),
            },
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    if options.bundle.is_none() && options.env.is_empty() {
        return Err(usage("neither a bundle nor variables were given".to_owned()));
    }
    if options.bundle.is_some() && !options.env.is_empty() {
        return Err(usage("either a bundle or variables, not both".to_owned()));
    }
    Ok(Some(options))
}

fn to_text(plan: &Plan) -> String {
    let mut out = String::new();
    let dir = plan
        .driver_dirs
        .first()
        .map_or_else(String::new, |d| d.display().to_string());
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "Driver {}, in the container at {dir} if that is free",
        plan.driver_version
    );
    for g in &plan.gpus {
        let _ = write!(out, "GPU {}: {}", g.index, Escaped(&g.name));
        let _ = match g.pci {
            None => writeln!(out),
            Some(pci) => writeln!(out, " ({}, {pci})", or_empty(g.uuid)),
        };
    }
    let _ = writeln!(out, "\nDevice nodes");
    for d in &plan.devices {
        let number = d.number.to_string();
        let _ = writeln!(out, "  {:<34} {number:<9} {}", d.path.display(), d.reason);
    }
    let _ = writeln!(out, "\nFiles");
    for f in &plan.files {
        let at = f.dir().join(&f.name).display().to_string();
        let _ = writeln!(out, "  {at:<52} {:<28} {}", f.reason, f.source.display());
    }
    for t in &plan.texts {
        let _ = writeln!(out, "  {:<52} {}", t.at.display(), t.reason);
    }
    if !plan.trees.is_empty() {
        let _ = writeln!(out, "\nDirectories at the same path as on the host");
    }
    for t in &plan.trees {
        let _ = writeln!(out, "  {:<52} {}", t.at.display(), t.reason);
    }
    let _ = writeln!(out, "\nLinks in the image, where the name is free");
    for l in &plan.rootfs_links {
        let at = match &l.at {
            LinkAt::Path(p) => p.display().to_string(),
            LinkAt::LibDir(p) => format!("(library directory)/{}", p.display()),
        };
        let _ = writeln!(out, "  {at:<52} {}", Path::new(&dir).join(&l.to).display());
    }
    if !plan.env.is_empty() {
        let _ = writeln!(
            out,
            "\nVariables (runtime door and CDI; a hook comes too late for them)"
        );
    }
    for (name, value) in &plan.env {
        let _ = writeln!(out, "  {name}={}", Escaped(value));
    }
    for w in &plan.warnings {
        let _ = writeln!(out, "\nwarning: {}", Escaped(w));
    }
    out
}

fn to_json(plan: &Plan) -> Value {
    json!({
        "gpu": true,
        "driver": plan.driver_version,
        "driverDirs": plan.driver_dirs,
        "gpus": plan.gpus.iter().map(|g| json!({
            "index": g.index, "minor": g.minor, "uuid": or_empty(g.uuid), "pci": or_empty(g.pci), "name": g.name,
        })).collect::<Vec<_>>(),
        "devices": plan.devices.iter().map(|d| json!({
            "path": d.path, "major": d.number.major, "minor": d.number.minor, "reason": d.reason,
        })).collect::<Vec<_>>(),
        "files": plan.files.iter().map(|f| json!({
            "source": f.source, "place": f.dir(), "name": f.name, "soname": f.soname,
            "required": f.required, "reason": f.reason,
        })).collect::<Vec<_>>(),
        "texts": plan.texts.iter().map(|t| json!({
            "at": t.at, "text": t.text, "reason": t.reason,
            "without": t.without.as_ref().map(|w| json!({"libraries": w.libraries, "text": w.text})),
        })).collect::<Vec<_>>(),
        "directories": plan.trees.iter().map(|t| json!({
            "source": t.source, "at": t.at, "reason": t.reason,
        })).collect::<Vec<_>>(),
        "links": plan.links.iter().map(|l| json!({"at": l.at, "target": l.target})).collect::<Vec<_>>(),
        "rootfsLinks": plan.rootfs_links.iter().map(|l| json!({
            "at": match &l.at { LinkAt::Path(p) | LinkAt::LibDir(p) => p },
            "inLibraryDirectory": matches!(l.at, LinkAt::LibDir(_)),
            "to": l.to, "elsewhere": l.elsewhere,
        })).collect::<Vec<_>>(),
        "env": plan.env.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<serde_json::Map<_, _>>(),
        "cudaCompat": match &plan.forward {
            Forward::Allowed => json!("allowed"),
            Forward::Off => json!("off"),
            Forward::Refused(why) => json!({"refused": why}),
        },
        "visiblePci": plan.visible_pci.as_ref().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "warnings": plan.warnings,
    })
}

#[cfg(test)]
mod tests;
