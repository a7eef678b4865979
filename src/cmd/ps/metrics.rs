//! `nvoci ps --prometheus`: the text format of Prometheus, for the node exporter's textfile
//! collector.
//!
//! Names and labels are only ever added; SPECIFICATION.md lists them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::containers::GpuUsers;
use crate::host::Gpu;
use crate::vocabulary::or_empty;

/// The answer as metrics.
pub(super) fn text(holders: &GpuUsers, gpus: &[Gpu]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut family = |name: &str, help: &str, rows: &[(String, usize)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let info = |g: &Gpu| {
        let labels = [
            ("minor", g.minor.to_string()),
            ("uuid", or_empty(g.uuid)),
            ("name", g.name.clone()),
        ];
        let more: String = labels
            .iter()
            .map(|(k, v)| format!(",{k}=\"{}\"", label(v)))
            .collect();
        (format!("{{gpu=\"{}\"{more}}}", g.index), 1)
    };
    family(
        "nvoci_gpu_info",
        "A GPU of this host.",
        &gpus.iter().map(info).collect::<Vec<_>>(),
    );
    let per_gpu = |holds: &dyn Fn(u32) -> usize| -> Vec<(String, usize)> {
        let row = |g: &Gpu| (format!("{{gpu=\"{}\"}}", g.index), holds(g.minor));
        gpus.iter().map(row).collect()
    };
    let containers = |minor| {
        holders
            .containers
            .iter()
            .filter(|c| c.gpus.contains(&minor))
            .count()
    };
    family(
        "nvoci_gpu_containers",
        "Running containers that were given the GPU.",
        &per_gpu(&containers),
    );
    let processes = |minor| {
        let all = holders
            .containers
            .iter()
            .flat_map(|c| &c.processes)
            .chain(&holders.host);
        all.filter(|p| p.gpus.contains(&minor)).count()
    };
    family(
        "nvoci_gpu_processes",
        "Processes that have the GPU open at this moment.",
        &per_gpu(&processes),
    );
    let mut rows: Vec<(String, usize)> = holders
        .containers
        .iter()
        .map(|c| {
            let engine = c.engine.unwrap_or("");
            let held = indices(&c.gpus, gpus);
            (
                format!(
                    "{{container=\"{}\",engine=\"{engine}\",gpus=\"{held}\"}}",
                    label(&c.id)
                ),
                c.gpus.len(),
            )
        })
        .collect();
    // A user can give a cgroup the id of another container, and one line twice makes the collector
    // drop the whole file.
    rows.sort();
    rows.dedup_by(|a, b| a.0 == b.0);
    family(
        "nvoci_container_gpus",
        "GPUs that a running container was given.",
        &rows,
    );
    family(
        "nvoci_unreadable_processes",
        "Processes of other users that could not be looked at.",
        &[(String::new(), holders.unreadable)],
    );
    out
}

/// A label's value: backslash, quote and newline are escaped; a container's id comes from its
/// cgroup's name.
fn label(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '"' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

/// Indices of GPUs, with commas; a GPU that the host does not have is left out.
fn indices(minors: &BTreeSet<u32>, gpus: &[Gpu]) -> String {
    let known = minors.iter().filter_map(|m| gpus.iter().find(|g| g.minor == *m));
    known.map(|g| g.index.to_string()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::{Container, Process};
    use crate::host::testhost::TestHost;

    #[test]
    fn every_line_is_one_of_the_format() {
        let gpus = TestHost::recorded("h100-580").discover().gpus;
        let process = Process {
            pid: 78,
            command: "python".to_owned(),
            gpus: BTreeSet::from([gpus[0].minor]),
        };
        let container = Container {
            id: "a\"b\\c\nd\u{1b}".to_owned(),
            engine: Some("docker"),
            cgroup: String::new(),
            pid: 77,
            gpus: BTreeSet::from([gpus[0].minor]),
            driver_dir: None,
            driver: None,
            record: None,
            processes: vec![process],
        };
        // Another one that calls itself so.
        let copied = Container {
            pid: 78,
            processes: Vec::new(),
            ..container.clone()
        };
        let holders = GpuUsers {
            containers: vec![container, copied],
            host: Vec::new(),
            unreadable: 2,
        };
        let text = text(&holders, &gpus);
        assert!(text.contains("nvoci_gpu_containers{gpu=\"0\"} 2\n"), "{text}");
        assert_eq!(text.matches("nvoci_container_gpus{").count(), 1, "{text}");
        assert!(text.contains("nvoci_gpu_processes{gpu=\"0\"} 1\n"), "{text}");
        assert!(
            text.contains(
                "nvoci_container_gpus{container=\"a\\\"b\\\\c\\nd?\",engine=\"docker\",gpus=\"0\"} 1\n"
            ),
            "{text}"
        );
        assert!(text.contains("nvoci_unreadable_processes 2\n"), "{text}");
        for line in text.lines() {
            let shape = line.starts_with("# ")
                || (line.starts_with("nvoci_")
                    && line.rsplit(' ').next().is_some_and(|v| v.parse::<u32>().is_ok()));
            assert!(shape, "{line}");
        }
    }
}
