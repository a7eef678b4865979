//! Missing or inaccessible device nodes, and the driver's messages in the kernel's log.

use super::Signals;
use crate::doctor::explain::text::{Text, is_word};

/// The most nodes that are examined: a log repeats them.
const TRIES: usize = 2000;

/// Prefixes of NVIDIA's nodes, and whether they are a Jetson's.
const NODES: &[(&str, &str)] = &[
    ("/dev/nvidia", "node"),
    ("/dev/nvhost", "tegra"),
    ("/dev/nvmap", "tegra"),
    ("/dev/dxg", "node"),
    ("/dev/dri/", "dri"),
];

/// Texts behind the name of a node that could not be opened.
const ERRORS: &[(&str, &str)] = &[
    ("no such file", "missing"),
    ("does not exist", "missing"),
    ("not found", "missing"),
    ("permission denied", "denied"),
    ("operation not permitted", "denied"),
    ("no such device", "gone"),
    ("input/output error", "gone"),
];

/// Adds the nodes, GPUs and Xids of the text.
pub(super) fn find(text: &Text, signals: &mut Signals) {
    for (prefix, kind) in NODES {
        for (at, _) in text.flat().match_indices(prefix).take(TRIES) {
            let rest = text.after(at, 120);
            let name = rest
                .split(|c: char| !is_word(c) && !matches!(c, '/' | '-'))
                .next()
                .unwrap_or_default();
            let after = rest.get(name.len()..).unwrap_or_default();
            let near = after.get(..60).unwrap_or(after);
            // Text behind another node belongs to that node.
            let near = near.split("/dev/").next().unwrap_or_default();
            let error = ERRORS
                .iter()
                .find(|(words, _)| near.contains(words))
                .map(|(_, state)| *state);
            let state = error.or_else(|| {
                near.trim_start_matches(['\'', '"', ' '])
                    .starts_with("failed")
                    .then_some("gone")
            });
            if let Some(state) = state {
                let slots = vec![("node", text.kept(at..at + name.len()).to_owned())];
                signals.add(format!("{kind}:{state}"), at..at + name.len(), slots);
            }
        }
    }
    xids(text, signals);
    absent(text, signals);
}

/// Texts behind a missing GPU.
const ABSENT: &[&str] = &[
    "not available",
    "unavailable",
    "not found",
    "not detected",
    "not recognized",
    "not visible",
    "required",
    "could not be found",
    "was found",
    "were found",
    "found",
    "detected",
    "available",
    "on this machine",
    "on this system",
];

/// `CUDA unavailable`, `no NVIDIA GPU detected`, `could not find any GPU`.
fn absent(text: &Text, signals: &mut Signals) {
    for name in ["gpu", "cuda", "nvidia device"] {
        for (at, _) in text.flat().match_indices(name).take(TRIES) {
            let lead = text.before(at, 40);
            let is_part = lead.ends_with(|c: char| is_word(c) || matches!(c, '-' | '/' | '.'));
            let rest = text.after(at + name.len(), 40);
            let rest = rest.trim_start_matches("s ").trim_start();
            let rest = ["devices ", "device ", "support ", "was ", "were ", "is ", "are "]
                .iter()
                .fold(rest, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
            // `no GPU found` is an error by its `no`, `GPU not found` by its end.
            let lead = lead.trim_end_matches(' ');
            let lead = ["nvidia", "cuda", "compatible", "usable", "supported"]
                .iter()
                .fold(lead, |lead, word| {
                    lead.strip_suffix(word)
                        .map_or(lead, |l| l.trim_end_matches([' ', '-']))
                });
            let none = [" no", " any", " without", "without a", ":no"]
                .iter()
                .any(|n| lead.ends_with(n))
                || lead == "no";
            let absent = ABSENT.iter().position(|words| rest.starts_with(words));
            if !is_part && absent.is_some_and(|i| i < 8 || none) {
                signals.add("gpu:absent", at..at + name.len(), Vec::new());
            }
        }
    }
}

/// `NVRM: Xid (PCI:0000:44:00): 79, …`: the driver's own error numbers.
fn xids(text: &Text, signals: &mut Signals) {
    for (at, found) in text.flat().match_indices("xid").take(TRIES) {
        let rest = text.after(at + found.len(), 48);
        let rest = match rest.split_once("): ") {
            Some((place, after)) if place.trim_start().starts_with('(') => after,
            _ => rest.trim_start_matches([' ', ':', '=']),
        };
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        // It follows from another, which the text names too: `45, … caused by previous Xid 149`.
        let until = text.after(at + found.len(), 160).split_once(found);
        if until.is_some_and(|(line, _)| line.ends_with("caused by previous ")) {
            continue;
        }
        let number = rest.get(..digits).unwrap_or_default();
        if (1..=3).contains(&number.len()) {
            let family = match number {
                "8" | "13" | "31" | "32" | "43" | "45" | "68" | "69" => "application",
                "48" | "63" | "64" | "92" | "94" | "95" | "140" | "171" | "172" => "memory",
                "74" | "136" | "137" | "144" | "145" | "149" | "150" => "nvlink",
                "61" | "62" | "109" | "119" | "120" => "firmware",
                "79" => "lost",
                _ => "other",
            };
            signals.add(
                format!("xid:{family}"),
                at..at + found.len(),
                vec![("xid", number.to_owned())],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_xids() {
        for (text, expected) in [
            (
                "stat failed: /dev/nvidiactl: no such file or directory",
                &["node:missing"][..],
            ),
            ("open /dev/nvidia0: Operation not permitted", &["node:denied"]),
            ("Opening channel /dev/nvhost-nvdec failed", &["tegra:gone"]),
            (
                "failed to open /dev/dri/renderD129: Permission denied",
                &["dri:denied"],
            ),
            ("crw-rw-rw- 1 root root 195, 0 /dev/nvidia0", &[]),
            (
                "NVRM: Xid (PCI:0000:44:00): 79, GPU has fallen off the bus",
                &["xid:lost"],
            ),
            ("Xid 31", &["xid:application"]),
            (
                "NVRM: Xid (PCI:0000:dc:00): 45, pid=18, name=python3, Ch 00000001 caused by previous Xid 149",
                &["xid:nvlink"],
            ),
            ("taxid: x", &[]),
            (
                "AssertionError: CUDA unavailable, invalid device 0 requested",
                &["gpu:absent"],
            ),
            ("Could not find any GPU on this machine", &["gpu:absent"]),
            ("no NVIDIA GPU detected", &["gpu:absent"]),
            ("Num GPUs Available: 1", &[]),
            ("2 GPUs found", &[]),
            ("GPU 0 detected", &[]),
        ] {
            let mut signals = Signals::default();
            find(&Text::new(text), &mut signals);
            let keys: Vec<_> = signals.found.into_iter().map(|s| s.key).collect();
            assert_eq!(keys, expected, "{text}");
        }
    }
}
