//! `nvoci plan`: what a container would get, and why, without changing anything.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::Arg;
use serde_json::{Value, json};

use super::inject;
use crate::error::{Code, Error, Escaped, Result};
use crate::host::{Host, Roots};
use crate::oci::Bundle;
use crate::plan::{LinkAt, Plan, plan};
use crate::request::{self, Door, Inputs};

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
    let request = if let Some(path) = &options.bundle {
        let (_, spec) = Bundle::open(path)?;
        inject::with_inputs(&spec, Door::Hook, |inputs| request::parse(inputs, &config))?
    } else {
        let privileged = options.privileged;
        let inputs = Inputs {
            env: &options.env,
            annotations: &[],
            mounts: &[],
            privileged,
            door: Door::Hook,
        };
        request::parse(&inputs, &config)?
    };
    if request.is_empty() {
        if options.json {
            println!("{}", json!({"gpu": false, "notes": request.notes}));
        } else {
            println!("This container asks for no GPU and gets nothing.");
            for note in &request.notes {
                println!("note: {}", Escaped(note));
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let locations = super::locations(&config);
    let roots = Roots::open(&locations)?;
    let host = Host::discover(&roots, &locations)?;
    let plan = plan(&request, &host, &config)?;
    if options.json {
        println!("{:#}", to_json(&plan));
    } else {
        print!("{}", to_text(&plan));
    }
    Ok(ExitCode::SUCCESS)
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
                print!("{HELP}");
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
        let _ = if g.pci.is_empty() {
            writeln!(out)
        } else {
            writeln!(out, " ({}, {})", g.uuid, g.pci)
        };
    }
    let _ = writeln!(out, "\nDevice nodes");
    for d in &plan.devices {
        let number = format!("{}:{}", d.major, d.minor);
        let _ = writeln!(out, "  {:<34} {number:<9} {}", d.path.display(), d.reason);
    }
    let _ = writeln!(out, "\nFiles");
    for f in &plan.files {
        let at = f.dir().join(&f.name).display().to_string();
        let _ = writeln!(out, "  {at:<52} {:<28} {}", f.reason, f.source.display());
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
        let _ = writeln!(out, "  {at:<52} {dir}/{}", l.to.display());
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
            "index": g.index, "minor": g.minor, "uuid": g.uuid, "pci": g.pci, "name": g.name,
        })).collect::<Vec<_>>(),
        "devices": plan.devices.iter().map(|d| json!({
            "path": d.path, "major": d.major, "minor": d.minor, "reason": d.reason,
        })).collect::<Vec<_>>(),
        "files": plan.files.iter().map(|f| json!({
            "source": f.source, "place": f.dir(), "name": f.name, "soname": f.soname,
            "required": f.required, "reason": f.reason,
        })).collect::<Vec<_>>(),
        "directories": plan.trees.iter().map(|t| json!({
            "source": t.source, "at": t.at, "reason": t.reason,
        })).collect::<Vec<_>>(),
        "links": plan.links.iter().map(|l| json!({"at": l.at, "target": l.target})).collect::<Vec<_>>(),
        "rootfsLinks": plan.rootfs_links.iter().map(|l| json!({
            "at": match &l.at { LinkAt::Path(p) | LinkAt::LibDir(p) => p },
            "inLibraryDirectory": matches!(l.at, LinkAt::LibDir(_)),
            "to": l.to,
        })).collect::<Vec<_>>(),
        "visiblePci": plan.visible_pci,
        "warnings": plan.warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::host::testhost::TestHost;

    /// What a container with these variables gets on the recorded H100 host, as `nvoci plan --json` prints
    /// it, beside a file that a person has read. `NVOCI_BLESS=1 cargo test` writes the files anew.
    fn golden(name: &str, env: &[(&str, &str)]) {
        let host = TestHost::recorded("h100-580");
        let nodes = [
            ("nvidia0", 195, 0),
            ("nvidiactl", 195, 255),
            ("nvidia-uvm", 238, 0),
            ("nvidia-uvm-tools", 238, 1),
        ];
        if !nodes
            .iter()
            .all(|(node, major, minor)| host.device(node, *major, *minor, 0o666))
        {
            return;
        }
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let inputs = Inputs {
            env: &env,
            annotations: &[],
            mounts: &[],
            privileged: false,
            door: Door::Hook,
        };
        let config = Config::default();
        let request = request::parse(&inputs, &config).unwrap();
        let shown = match plan(&request, &host.discover(), &config) {
            Ok(plan) => format!("{:#}\n", to_json(&plan)),
            Err(e) => format!("nvoci: {e}\n"),
        };
        let path = format!("{}/tests/golden/plan/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("NVOCI_BLESS").is_some() {
            std::fs::write(&path, &shown).unwrap();
        }
        assert_eq!(
            shown,
            std::fs::read_to_string(&path).unwrap_or_default(),
            "{path}"
        );
    }

    #[test]
    fn plans_on_the_recorded_host() {
        golden("default.json", &[("NVIDIA_VISIBLE_DEVICES", "all")]);
        golden(
            "utility.json",
            &[
                ("NVIDIA_VISIBLE_DEVICES", "0"),
                ("NVIDIA_DRIVER_CAPABILITIES", "utility"),
            ],
        );
        golden(
            "all.json",
            &[
                ("NVIDIA_VISIBLE_DEVICES", "all"),
                ("NVIDIA_DRIVER_CAPABILITIES", "all"),
            ],
        );
        golden("none.json", &[("NVIDIA_VISIBLE_DEVICES", "none")]);
        golden("unknown.txt", &[("NVIDIA_VISIBLE_DEVICES", "0,3")]);
        golden(
            "too-new.txt",
            &[
                ("NVIDIA_VISIBLE_DEVICES", "0"),
                ("NVIDIA_REQUIRE_CUDA", "cuda>=14.0"),
            ],
        );
    }
}
