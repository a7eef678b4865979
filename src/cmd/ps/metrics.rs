//! `nvoci ps --prometheus`: the text format of Prometheus, for the node exporter's textfile
//! collector.
//!
//! Names and labels are only ever added; SPECIFICATION.md lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::containers::GpuUsers;
use crate::doctor::Report;
use crate::doctor::last::Last;
use crate::findings::Severity;
use crate::host::Gpu;
use crate::vocabulary::or_empty;

/// The answer as metrics.
pub(super) fn text(holders: &GpuUsers, gpus: &[Gpu]) -> String {
    let mut out = String::new();
    let mut family = |name: &str, help: &str, rows: &[(String, usize)]| {
        out += &gauge(
            name,
            help,
            rows.iter().map(|(labels, value)| (labels.as_str(), value)),
        );
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

/// One family of the format.
fn gauge<'a, V: std::fmt::Display>(
    name: &str,
    help: &str,
    rows: impl Iterator<Item = (&'a str, V)>,
) -> String {
    let mut out = format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
    for (labels, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name}{labels} {value}");
    }
    out
}

/// The versions, the records of refusals and warnings, and the doctor's verdict on this host.
pub(super) fn health(driver: &str, last: &Last, report: Option<&Report>) -> String {
    let info = format!(
        "{{version=\"{}\",driver=\"{}\"}}",
        env!("CARGO_PKG_VERSION"),
        label(driver)
    );
    let mut out = gauge(
        "nvoci_info",
        "The versions of nvoci and of the driver.",
        [(info.as_str(), 1)].into_iter(),
    );
    let refusals = last.refusals.iter().map(|r| {
        let code = r.record["code"].as_str().unwrap_or_default();
        (label(code), r.time)
    });
    let warnings = last.warnings.iter().flatten().flat_map(|w| {
        let codes: BTreeSet<String> = w.findings().iter().map(|f| f.check.to_string()).collect();
        codes.into_iter().map(|code| (code, w.time))
    });
    out += &by_code(
        ("refusals", "refusal"),
        "Refused containers on record.",
        &count(refusals),
    );
    out += &by_code(
        ("warnings", "warning"),
        "Containers on record that started with a warning.",
        &count(warnings),
    );
    let Some(report) = report else {
        return out;
    };
    let mut findings: BTreeMap<String, usize> = BTreeMap::new();
    let shown = report.findings.iter().filter(|f| f.severity >= Severity::Warn);
    for finding in shown {
        let labels = format!(
            "{{check=\"{}\",severity=\"{}\"}}",
            finding.check,
            finding.severity.name()
        );
        *findings.entry(labels).or_default() += 1;
    }
    out += &gauge(
        "nvoci_doctor_findings",
        "Findings of `nvoci doctor host` that are warnings or failures.",
        findings.iter().map(|(labels, n)| (labels.as_str(), n)),
    );
    out + &gauge(
        "nvoci_doctor_status",
        "The verdict of `nvoci doctor host`: 0 well, 1 warnings, 2 failures.",
        [("", report.status())].into_iter(),
    )
}

/// By code: the number of records, and the newest one's time.
type Counts = BTreeMap<String, (usize, u64)>;

fn count(records: impl Iterator<Item = (String, u64)>) -> Counts {
    let mut counts = Counts::new();
    for (code, time) in records {
        let (number, newest) = counts.entry(code).or_default();
        *number += 1;
        *newest = time.max(*newest);
    }
    counts
}

fn by_code((many, one): (&str, &str), help: &str, counts: &Counts) -> String {
    let rows: Vec<(String, (usize, u64))> = counts
        .iter()
        .map(|(code, n)| (format!("{{code=\"{code}\"}}"), *n))
        .collect();
    let numbers = rows.iter().map(|(labels, (number, _))| (labels.as_str(), number));
    let times = rows.iter().map(|(labels, (_, time))| (labels.as_str(), time));
    gauge(&format!("nvoci_{many}"), help, numbers)
        + &gauge(
            &format!("nvoci_last_{one}_timestamp_seconds"),
            "The time of the newest one.",
            times,
        )
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
    use crate::doctor::last::Refusal;
    use crate::findings::Finding;
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
        assert_shape(&text);
    }

    #[test]
    fn records_are_counted_by_code() {
        let refusal = |code: &str, time| Refusal {
            record: serde_json::json!({"code": code, "time": time}),
            time,
        };
        let last = Last {
            refusals: vec![
                refusal("NVOCI-3001", 9),
                refusal("NVOCI-3001", 7),
                refusal("a\"b\nc", 1),
            ],
            warnings: Err("not root".to_owned()),
        };
        let mut report = Report::new("host");
        let text = health("580.95", &last, Some(&report));
        assert!(text.contains("nvoci_refusals{code=\"NVOCI-3001\"} 2\n"), "{text}");
        let newest = "nvoci_last_refusal_timestamp_seconds{code=\"NVOCI-3001\"} 9\n";
        assert!(text.contains(newest), "{text}");
        assert!(text.contains("driver=\"580.95\"} 1\n"), "{text}");
        assert!(text.contains("nvoci_doctor_status 0\n"), "{text}");
        assert_shape(&text);
        let check = crate::doctor::host::CHECKS.first().unwrap();
        for severity in [Severity::Fail, Severity::Fail, Severity::Ok] {
            report.add(Finding::new(check, severity, "a", "b"));
        }
        let text = health("", &last, Some(&report));
        let line = format!("nvoci_doctor_findings{{check=\"{check}\",severity=\"fail\"}} 2\n");
        assert!(
            text.contains(&line) && !text.contains("severity=\"ok\""),
            "{text}"
        );
        assert!(text.contains("nvoci_doctor_status 2\n"), "{text}");
        assert!(!health("", &last, None).contains("doctor"));
    }

    fn assert_shape(text: &str) {
        for line in text.lines() {
            let shape = line.starts_with("# ")
                || (line.starts_with("nvoci_")
                    && line.rsplit(' ').next().is_some_and(|v| v.parse::<u32>().is_ok()));
            assert!(shape, "{line}");
        }
    }
}
