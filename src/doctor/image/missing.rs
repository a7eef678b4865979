//! Findings about libraries that a framework does not find.

use std::collections::BTreeSet;

use super::checks::MISSING;
use super::environments::Environment;
use super::frameworks::Framework;
use super::loading::{Loader, Place};
use crate::compat::libraries;
use crate::doctor::{Finding, Severity};
use crate::preflight::build::Build;

/// A library that the loader does not find.
struct Missing {
    soname: String,
    vital: bool,
    by: String,
    place: Place,
}

/// The finding about libraries that a framework does not find; `None` if it finds all.
pub(super) fn of_framework(
    framework: &Framework,
    environment: &Environment,
    loader: &Loader<'_>,
) -> Option<Finding> {
    let mut all: Vec<Missing> = Vec::new();
    let mut found = 0;
    for load in &framework.loads {
        for wanted in &load.wants {
            if all.iter().any(|m| m.soname == wanted.soname) {
                continue;
            }
            let place = loader.find(load, &wanted.soname, environment);
            let loads_itself = framework.loads_beside && matches!(place, Place::Beside(_));
            if place == Place::Found || loads_itself {
                found += 1;
            } else {
                all.push(Missing {
                    soname: wanted.soname.clone(),
                    vital: wanted.vital,
                    by: load.by.display().to_string(),
                    place,
                });
            }
        }
    }
    let torch = environment
        .frameworks
        .iter()
        .any(|f| f.package == "torch" && matches!(f.build, Build::Cuda(_)));
    let badness = |m: &&Missing| severity(m, environment, loader, torch);
    let first = all.iter().rev().max_by_key(badness)?;
    // PyTorch's wheels have all of them. If all are missing in a tree, it is a part of an image.
    let worst = if framework.package == "torch" && found == 0 && loader.library_path.is_none() {
        Severity::Info
    } else {
        badness(&first)
    };
    let mut finding = Finding::new(
        &MISSING,
        worst,
        framework.path.display().to_string(),
        format!(
            "{} {} {}; {}",
            framework.name,
            framework.version,
            cause(first, &all),
            effect(framework, first, torch)
        ),
    )
    .fix(fix(framework, first, &all));
    for missing in all.iter().take(super::MAX_EVIDENCE) {
        finding = finding.evidence(format!("{}: {}", missing.by, evidence(missing)));
    }
    Some(finding)
}

fn severity(missing: &Missing, environment: &Environment, loader: &Loader<'_>, torch: bool) -> Severity {
    let found = match missing.place {
        Place::Found => Severity::Ok,
        // `import torch` loads them into the process.
        Place::Beside(_) if torch => Severity::Info,
        // The container's variables are unknown.
        Place::Elsewhere(_) if loader.library_path.is_none() => Severity::Info,
        Place::Beside(_) | Place::Elsewhere(_) => Severity::Warn,
        Place::Nowhere | Place::Other(_) => Severity::Fail,
    };
    if missing.vital && environment.on_path != Some(false) {
        found
    } else {
        found.min(Severity::Warn)
    }
}

fn cause(first: &Missing, all: &[Missing]) -> String {
    let more = match all.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let why = match &first.place {
        Place::Other(name) => format!("the image has {name} instead"),
        Place::Beside(dir) | Place::Elsewhere(dir) => {
            format!("it is in {}, where the loader does not search", dir.display())
        }
        Place::Nowhere | Place::Found => "the image does not have it".to_owned(),
    };
    format!("does not find {}{more}: {why}", first.soname)
}

/// The effect on the framework.
fn effect(framework: &Framework, first: &Missing, torch: bool) -> &'static str {
    match (framework.package, &first.place) {
        (_, Place::Beside(_)) if torch => "it is found only after `import torch`",
        ("onnxruntime" | "tensorflow" | "jax", _) => {
            "it computes on the CPU, and only a line of its log reports that"
        }
        ("torch", _) => "`import torch` fails",
        _ if !first.vital => "some operations fail",
        _ => "it fails where it first uses the GPU",
    }
}

fn fix(framework: &Framework, first: &Missing, all: &[Missing]) -> String {
    let dirs: BTreeSet<String> = all
        .iter()
        .filter_map(|m| match &m.place {
            Place::Beside(dir) | Place::Elsewhere(dir) => Some(dir.display().to_string()),
            _ => None,
        })
        .collect();
    if matches!(first.place, Place::Beside(_) | Place::Elsewhere(_)) {
        let dirs: Vec<String> = dirs.into_iter().collect();
        return format!("add `ENV LD_LIBRARY_PATH={}` to the Dockerfile", dirs.join(":"));
    }
    let cuda = match framework.build {
        Build::Cuda(Some(cuda)) => cuda.major,
        _ => 12,
    };
    let version = framework.version.split('+').next().unwrap_or_default();
    match framework.package {
        "tensorflow" if cuda >= 12 => return format!("`pip install \"tensorflow[and-cuda]=={version}\"`"),
        "jax" => return format!("`pip install \"jax[cuda{cuda}]=={version}\"`"),
        _ => {}
    }
    let absent = all
        .iter()
        .filter(|m| matches!(m.place, Place::Nowhere | Place::Other(_)));
    let packages: BTreeSet<String> = absent
        .filter_map(|m| {
            let package = libraries::pip(&m.soname, cuda)?;
            // cuDNN and others are not numbered like CUDA.
            let version = m.soname.strip_prefix("libcudnn.so.").filter(|v| !v.contains('.'));
            Some(version.map_or_else(|| package.clone(), |v| format!("\"{package}=={v}.*\"")))
        })
        .collect();
    let packages: Vec<String> = packages.into_iter().collect();
    let path = if framework.loads_beside {
        ""
    } else {
        ", with the directories nvidia/*/lib in LD_LIBRARY_PATH"
    };
    format!(
        "`pip install {}`{path}; or use a base image of CUDA {cuda} with it (nvidia/cuda:…-cudnn-runtime-…)",
        packages.join(" ")
    )
}

fn evidence(missing: &Missing) -> String {
    match &missing.place {
        Place::Found => missing.soname.clone(),
        Place::Beside(dir) | Place::Elsewhere(dir) => format!("{} is in {}", missing.soname, dir.display()),
        Place::Other(name) => format!("{} not found, {name} is there", missing.soname),
        Place::Nowhere => format!("{} not found", missing.soname),
    }
}

/// The finding about an older library of `LD_LIBRARY_PATH` before the one that pip's packages need.
pub(super) fn older_first(environment: &Environment, loader: &Loader<'_>) -> Option<Finding> {
    let uses = environment
        .frameworks
        .iter()
        .find(|f| matches!(f.build, Build::Cuda(_)) && f.loads_beside)?;
    let older = loader.older_first(environment)?;
    let why = if older.soname.starts_with("libnvJitLink") {
        "undefined symbol: __nvJitLinkComplete"
    } else {
        "the parts of cuDNN are of two versions"
    };
    Some(
        Finding::new(
            &MISSING,
            Severity::Warn,
            older.dir.join(older.soname).display().to_string(),
            format!(
                "LD_LIBRARY_PATH puts {} of version {} before version {}, which {} {} needs: {why}",
                older.soname, older.version, older.wanted, uses.name, uses.version
            ),
        )
        .fix(format!("take {} out of LD_LIBRARY_PATH", older.dir.display())),
    )
}
