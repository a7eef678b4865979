//! `nvoci plan`: prints what a container would get, and why; changes nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::cli::{Command, Page, Words, argument, flag};
use super::inject;
use crate::cdi::Registry;
use crate::cdi::registry::Trust;
use crate::config::Config;
use crate::error::{Escaped, Result};
use crate::host::{Host, Locations, Roots};
use crate::plan::{Forward, LinkAt, Plan, plan};
use crate::request::{self, Chosen, DeviceRequest, EntryPoint, Inputs, Request};
use crate::sys::budget::Budget;
use crate::vocabulary::or_empty;

#[derive(Default)]
pub(super) struct Options {
    json: bool,
    privileged: bool,
    config: Option<PathBuf>,
    bundle: Option<PathBuf>,
    env: Vec<(String, String)>,
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci plan",
        summary: "show what a bundle, or a set of variables, would get and why",
        usage: &[
            "nvoci plan [OPTIONS] BUNDLE",
            "nvoci plan [OPTIONS] NAME=VALUE...",
        ],
        about: &["Shows what a container would get, and why. Changes nothing."],
        arguments: &[
            argument("BUNDLE", "a directory with an OCI config.json"),
            argument(
                "NAME=VALUE...",
                "the container's variables, such as NVIDIA_VISIBLE_DEVICES=0 and \
                       NVIDIA_DRIVER_CAPABILITIES=compute,graphics",
            ),
        ],
        exit: &[
            ("0", "the request can be met, or there is none"),
            (
                "other",
                "that of the error with which the container would be refused",
            ),
        ],
        ..Page::EMPTY
    },
    flags: &[
        flag("json", "print one JSON document, with stable keys").switch(|o| o.json = true),
        flag("privileged", "plan as if the container had CAP_SYS_ADMIN").switch(|o| o.privileged = true),
        flag("config", "use another configuration").path("FILE", |o, file| o.config = Some(file)),
    ],
    words: Words::Many(|o, word| {
        match word.to_str().and_then(|w| w.split_once('=')) {
            Some((name, value)) => o.env.push((name.to_owned(), value.to_owned())),
            None if o.bundle.is_none() => o.bundle = Some(word.into()),
            None => return Err("more than one bundle was given".to_owned()),
        }
        Ok(())
    }),
    ..Command::of(|options| run(&options))
};

fn run(options: &Options) -> Result<ExitCode> {
    match (options.bundle.is_some(), options.env.is_empty()) {
        (false, true) => return Err(COMMAND.usage_error("neither a bundle nor variables were given")),
        (true, false) => return Err(COMMAND.usage_error("either a bundle or variables, not both")),
        _ => {}
    }
    let config = super::load_config(options.config.as_deref())?;
    super::print(&shown(options, &config, &super::locations(&config))?)?;
    Ok(ExitCode::SUCCESS)
}

/// The command's output, on a host at `locations`.
fn shown(options: &Options, config: &Config, locations: &Locations) -> Result<String> {
    let request = if let Some(path) = &options.bundle {
        let (_, spec) = inject::open_bundle(path, None, config, &Budget::default())?;
        let request = inject::with_inputs(&spec, EntryPoint::Hook, |inputs| request::parse(inputs, config))?;
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
            entry: EntryPoint::Hook,
        };
        request::parse(&inputs, config)?
    };
    if request.is_empty() {
        return Ok(if options.json {
            format!("{}\n", json!({"gpu": false, "notes": request.notes}))
        } else {
            let why = if request.notes.is_empty() {
                "This container requests no GPU and gets nothing."
            } else {
                "This container gets nothing. Its request has no effect:"
            };
            lines(why, "note: ", &request.notes)
        });
    }
    let named = cdi_devices(&request, config)?;
    if matches!(request.devices, DeviceRequest::Nothing | DeviceRequest::Void) {
        return Ok(if options.json {
            let all = json!({"gpu": true, "cdiDevices": cdi_json(&named), "warnings": request.notes});
            format!("{all:#}\n")
        } else {
            cdi_text(&named) + &lines("", "warning: ", &request.notes)
        });
    }
    let roots = Roots::open(locations)?;
    let host = Host::discover(&roots, locations)?;
    let plan = plan(&request, &host, config)?;
    Ok(if options.json {
        let mut all = to_json(&plan);
        if !named.is_empty() {
            all["cdiDevices"] = cdi_json(&named);
        }
        format!("{all:#}\n")
    } else {
        let named = cdi_text(&named);
        let gap = if named.is_empty() { "" } else { "\n" };
        named + gap + &to_text(&plan)
    })
}

/// `head`, and a line for each text.
fn lines(head: &str, label: &str, texts: &[String]) -> String {
    let head = if head.is_empty() {
        String::new()
    } else {
        format!("{head}\n")
    };
    texts.iter().fold(head, |mut all, text| {
        // Writing to a String cannot fail.
        let _ = writeln!(all, "{label}{}", Escaped(text));
        all
    })
}

/// The devices of CDI specifications that the request names, each with the file that defines it.
///
/// # Errors
/// As of the runtime: a device that no specification defines.
fn cdi_devices(request: &Request, config: &Config) -> Result<Vec<(String, PathBuf)>> {
    if request.cdi.is_empty() {
        return Ok(Vec::new());
    }
    let registry = Registry::load(&config.cdi_spec_dirs, Trust::Root, &Budget::default());
    let found = |name| Some((ToString::to_string(name), registry.find(name)?.0.path.clone()));
    let named: Vec<_> = request.cdi.iter().filter_map(found).collect();
    if named.len() < request.cdi.len() {
        let missing: Vec<_> = request
            .cdi
            .iter()
            .filter(|name| registry.find(name).is_none())
            .collect();
        return Err(registry.unresolvable(&missing, &config.cdi_spec_dirs));
    }
    Ok(named)
}

fn cdi_text(named: &[(String, PathBuf)]) -> String {
    let rows: Vec<String> = named
        .iter()
        .map(|(name, file)| format!("  {name:<34} {}", file.display()))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    lines("CDI devices, which an engine or nvoci-runtime adds", "", &rows)
}

fn cdi_json(named: &[(String, PathBuf)]) -> Value {
    named
        .iter()
        .map(|(name, file)| json!({"name": name, "file": file.to_string_lossy()}))
        .collect()
}

/// The output of `nvoci plan` for a bundle, on a host at `locations`.
pub(super) fn of_bundle(bundle: &Path, json: bool, config: &Config, locations: &Locations) -> Result<String> {
    let options = Options {
        json,
        bundle: Some(bundle.to_owned()),
        ..Options::default()
    };
    shown(&options, config, locations)
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
        plan.driver_text()
    );
    for g in &plan.gpus {
        let _ = write!(out, "GPU {}: {}", g.index, Escaped(&g.name));
        let _ = match g.pci {
            None => writeln!(out),
            Some(pci) => writeln!(out, " ({}, {pci})", or_empty(g.uuid)),
        };
    }
    if !plan.settings.is_empty() {
        let _ = writeln!(out, "\nSettings of this container");
    }
    for s in &plan.settings {
        let setting = format!("{} = {}", s.choice().key(), s.choice().value());
        let _ = writeln!(out, "  {setting:<34} {} ({})", Escaped(s.name()), s.by().name());
    }
    let _ = writeln!(out, "\nDevice nodes");
    for d in &plan.devices {
        let number = d.number.to_string();
        let _ = writeln!(out, "  {:<34} {number:<9} {}", d.path.display(), d.reason);
    }
    if !plan.files.is_empty() || !plan.texts.is_empty() {
        let _ = writeln!(out, "\nFiles");
    }
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
    if !plan.rootfs_links.is_empty() {
        let _ = writeln!(out, "\nLinks in the image, where the name is free");
    }
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
            "\nVariables (runtime entry and CDI; a hook comes too late for them)"
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
    let mut all = json!({
        "gpu": true,
        "driver": plan.driver_text(),
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
    });
    if !plan.settings.is_empty() {
        let one = |s: &Chosen| json!({"key": s.choice().key(), "value": s.choice().value(), "name": s.name(), "by": s.by().name()});
        all["settings"] = plan.settings.iter().map(one).collect();
    }
    all
}

#[cfg(test)]
mod tests;
