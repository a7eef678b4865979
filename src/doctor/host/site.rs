//! Checks the administrator's files: the policy, CDI specifications, a second toolkit.

use std::path::Path;

use super::{CDI, CONFIG, Finding, Inputs, NOT_IN_EFFECT, Severity, TWO_TOOLKITS};
use crate::cdi::check;
use crate::config::Config;
use crate::sys::budget::Budget;

/// Programs of the vendor's toolkit, including names that nvoci's package also has.
const VENDOR_PROGRAMS: [&str; 7] = [
    "nvidia-container-runtime-hook",
    "nvidia-container-runtime",
    "nvidia-container-toolkit",
    "nvidia-container-cli",
    "nvidia-cdi-hook",
    "nvidia-ctk",
    "nvidia-container-runtime.cdi",
];
/// The directory of packages' programs.
const BIN: &str = "usr/bin";
const HOOKS: [&str; 2] = ["usr/share/containers/oci/hooks.d", "etc/containers/oci/hooks.d"];

pub(super) fn findings(inputs: &Inputs<'_>) -> Vec<Finding> {
    let mut found = config(inputs);
    found.extend(cdi(inputs));
    found.extend(two_toolkits(inputs));
    found
}

fn config(inputs: &Inputs<'_>) -> Vec<Finding> {
    let config = match inputs.config {
        Ok(config) => config,
        Err(e) => {
            return vec![
                Finding::new(
                    &CONFIG,
                    Severity::Fail,
                    "configuration",
                    format!("{}: {}", e.what(), e.why()),
                )
                .fix(e.fix_text()),
            ];
        }
    };
    let mut found: Vec<Finding> = config
        .warnings
        .iter()
        .map(|w| Finding::new(&NOT_IN_EFFECT, Severity::Warn, "configuration", w.clone()))
        .collect();
    found.extend(config.ignored.iter().map(|i| {
        let key = format!("key `{}`", i.key);
        Finding::new(&NOT_IN_EFFECT, Severity::Info, key, i.why)
    }));
    found
}

/// Only on the live host: specifications name its paths.
fn cdi(inputs: &Inputs<'_>) -> Vec<Finding> {
    let defaults = Config::default();
    let dirs = inputs
        .config
        .as_ref()
        .unwrap_or(&defaults)
        .cdi_spec_dirs
        .value
        .clone();
    let all = check::check(&dirs, &[], &Budget::default());
    if all.is_empty() {
        let any = dirs
            .iter()
            .any(|d| std::fs::read_dir(d).is_ok_and(|mut e| e.next().is_some()));
        return if any {
            vec![Finding::new(
                &CDI,
                Severity::Ok,
                "CDI",
                "the specifications are fresh",
            )]
        } else {
            Vec::new()
        };
    }
    all.into_iter()
        .map(|f| {
            let severity = match f.severity {
                check::Severity::Note => Severity::Info,
                check::Severity::Warning => Severity::Warn,
                check::Severity::Error => Severity::Fail,
            };
            let finding = Finding::new(&CDI, severity, f.path.display().to_string(), f.text);
            if severity > Severity::Info {
                finding.fix("write it again (`nvoci cdi generate`, `nvidia-ctk cdi generate`, or the vendor's own tool), or remove it")
            } else {
                finding
            }
        })
        .collect()
}

/// Whether a program is nvoci, by the file at the end of its links.
fn is_ours(inputs: &Inputs<'_>, program: &str) -> Option<bool> {
    let node = inputs.system.resolve(Path::new(BIN).join(program)).ok()?;
    let real = node.path().ok()?;
    Some(
        real.file_name()
            .is_some_and(|n| n == "nvoci" || n == "nvoci.real"),
    )
}

fn two_toolkits(inputs: &Inputs<'_>) -> Option<Finding> {
    let theirs: Vec<&str> = VENDOR_PROGRAMS
        .into_iter()
        .filter(|p| is_ours(inputs, p) == Some(false))
        .collect();
    let ours: Vec<&str> = VENDOR_PROGRAMS
        .into_iter()
        .filter(|p| is_ours(inputs, p) == Some(true))
        .collect();
    let hook = |name: &str| {
        HOOKS
            .iter()
            .map(|d| Path::new(d).join(name))
            .find(|p| inputs.system.exists(p))
    };
    let their_hook = hook("oci-nvidia-hook.json");
    let our_hook = hook("oci-nvoci.json");
    if let (Some(theirs), Some(ours)) = (&their_hook, &our_hook) {
        return Some(
            Finding::new(
                &TWO_TOOLKITS,
                Severity::Warn,
                "hooks.d",
                "both toolkits' hooks are installed: each container is injected twice, and the vendor's writes into the image layer",
            )
            .fix(format!("remove /{}", theirs.display()))
            .evidence(format!("/{}", theirs.display()))
            .evidence(format!("/{}", ours.display())),
        );
    }
    if theirs.is_empty() {
        return None;
    }
    let (severity, text) = if ours.is_empty() {
        (
            Severity::Info,
            "the vendor's toolkit is installed under its own names; nvoci is used where it is registered under its own",
        )
    } else {
        (
            Severity::Warn,
            "some of the vendor's names lead to nvoci and others to the vendor's toolkit: which one an engine runs depends on the name it uses",
        )
    };
    let mut finding = Finding::new(&TWO_TOOLKITS, severity, "toolkits", text);
    if severity == Severity::Warn {
        finding = finding.fix("remove the vendor's packages (nvidia-container-toolkit, libnvidia-container-tools), or nvoci's links");
    }
    finding = finding.evidence(format!("the vendor's: {}", theirs.join(", ")));
    if !ours.is_empty() {
        finding = finding.evidence(format!("nvoci's: {}", ours.join(", ")));
    }
    Some(finding)
}
