//! Messages of `nvidia-container-cli`, `CLASS error: DETAIL`, and missing programs of NVIDIA.

use super::Signals;
use crate::doctor::explain::text::Text;

/// The most messages that are examined: an engine repeats them.
const TRIES: usize = 200;

/// Its classes of errors.
const CLASSES: &[&str] = &[
    "initialization",
    "requirement",
    "mount",
    "device",
    "ldcache",
    "container",
    "detection",
    "permission",
    "input",
    "configuration",
];

/// Programs, and the package that each belongs to.
const PROGRAMS: &[(&str, &str)] = &[
    ("nvidia-container-cli", "toolkit"),
    ("nvidia-container-runtime-hook", "toolkit"),
    ("nvidia-container-toolkit", "toolkit"),
    ("nvidia-ctk", "toolkit"),
    ("nvidia-cdi-hook", "toolkit"),
    ("nvidia-docker", "toolkit"),
    ("nvidia-smi", "smi"),
    ("nvidia-cuda-mps-control", "mps"),
    ("nvcc", "compiler"),
];

/// Texts behind the name of a missing program.
const MISSING: &[&str] = &[
    ": executable file not found",
    ": command not found",
    ": not found",
    ": no such file",
    " not found",
    " command not found",
    " is not installed",
    " does not exist",
];

/// Texts before the name of a missing program.
const NOT_FOUND: &[&str] = &[
    "command not found:",
    "command not found: ",
    "missing tool",
    "unable to find",
    "cannot find",
    "could not find",
];

/// Adds the missing programs.
fn programs(text: &Text, signals: &mut Signals) {
    for (name, owner) in PROGRAMS {
        for (at, _) in text.flat().match_indices(name).take(TRIES) {
            let after = text.after(at + name.len(), 40);
            let after = after.trim_start_matches(['"', '\'', '`']);
            let before = text.before(at, 40).trim_end_matches([' ', '"', '\'', '`']);
            if MISSING.iter().any(|m| after.starts_with(m)) || NOT_FOUND.iter().any(|n| before.ends_with(n)) {
                signals.add(
                    format!("program:{owner}"),
                    at..at + name.len(),
                    vec![("program", (*name).to_owned())],
                );
            }
        }
    }
}

/// Adds the class and the detail of each message, and the missing programs.
pub(super) fn find(text: &Text, signals: &mut Signals) {
    programs(text, signals);
    let at = ["nvidia-container-cli", "libnvidia-container", "nvc_container"];
    for name in at {
        for (at, _) in text.flat().match_indices(name).take(TRIES) {
            let Some((start, class)) = class(text, at) else {
                continue;
            };
            let from = start + class.len() + " error: ".len();
            let detail = text.after(from, 160);
            let end = [": unknown", "\"", "'", " nvidia-container", " error response"]
                .iter()
                .filter_map(|stop| detail.find(stop))
                .min()
                .unwrap_or(detail.len());
            let detail = text
                .kept(from..from + end)
                .trim_end_matches(['.', ' ', ':'])
                .to_owned();
            signals.add(
                format!("cli:{class}"),
                start..from + end,
                vec![("detail", detail)],
            );
        }
    }
}

/// The class of the message that begins with the program's name at `at`.
fn class(text: &Text, at: usize) -> Option<(usize, &'static str)> {
    let rest = text.after(at, 64);
    let (_, message) = rest.split_once(": ")?;
    let class = CLASSES.iter().find(|c| {
        message
            .strip_prefix(**c)
            .is_some_and(|m| m.starts_with(" error: "))
    })?;
    Some((at + rest.len() - message.len(), class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_details() {
        let text = Text::new(
            "stderr: nvidia-container-cli.real: mount error: stat failed: /x: no such file\\n\": unknown",
        );
        let mut signals = Signals::default();
        find(&text, &mut signals);
        let signal = signals.get("cli:mount").unwrap();
        assert_eq!(
            signal.slots,
            [("detail", "stat failed: /x: no such file".to_owned())]
        );
        find(&Text::new("nvidia-container-cli: fine"), &mut signals);
        assert_eq!(signals.found.len(), 1);
    }
}
