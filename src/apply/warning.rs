//! The warning of a container that starts although preflight found a fault in it.
//!
//! A record in the container is read by nobody, so the hook delivers this value on the host
//! (`cmd/hook/warn.rs`). It keeps a copy in a directory that only root may enter, a file for each
//! container: `/run/nvoci/warnings/3f2a….json`. As with a grant, the mount namespace and the time
//! identify the container, since its id is only a name. `nvoci doctor container` removes the files
//! of containers that are gone, and the directory keeps at most 256 files.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::record;
use crate::error::{Escaped, shown};
use crate::findings::{Finding, Severity};
use crate::preflight;
use crate::sys::root::Node;
use crate::sys::syslog::cut;

/// The directory of warnings.
pub const WARNINGS_DIR: &str = "/run/nvoci/warnings";

/// The most files that are kept. The oldest quarter goes at once, so that few starts remove files.
const MAX_KEPT: usize = 256;
/// The most files that are listed. In a directory with more, nothing is written.
const MAX_LISTED: usize = 4 * MAX_KEPT;
/// The most findings of one warning; preflight makes fewer.
const MAX_FINDINGS: usize = 8;
/// The longest line, in bytes.
const MAX_LINE: usize = 2048;

/// A container that starts with findings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// The engine's id of the container.
    pub container: String,
    /// The image's name, if the engine gave it.
    pub image: Option<String>,
    /// Device and inode of the mount namespace.
    pub namespace: (u64, u64),
    /// The container's first process, if the hook runs outside of the container.
    pub pid: Option<i32>,
    /// Seconds since 1970.
    pub time: u64,
    /// The time since the host's boot; `None` in a time namespace, which has another clock.
    pub since_boot: Option<Duration>,
    /// The findings, the worst first. Never empty.
    pub(crate) findings: Vec<Finding>,
}

impl Warning {
    /// The warning about the container `id`, now; `None` without findings.
    pub fn new(id: &str, namespace: (u64, u64), mut findings: Vec<Finding>) -> Option<Self> {
        findings.truncate(MAX_FINDINGS);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (!findings.is_empty()).then(|| Self {
            container: shown(id).to_owned(),
            image: None,
            namespace,
            pid: None,
            time: now.as_secs(),
            since_boot: None,
            findings,
        })
    }

    /// The findings, the worst first.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The first finding for which the container cannot compute on its GPU.
    pub fn failure(&self) -> Option<&Finding> {
        self.findings.iter().find(|f| f.severity == Severity::Fail)
    }

    /// The beginning of the id, as engines show it.
    pub fn short_id(&self) -> &str {
        let end = self.container.char_indices().nth(12);
        let end = end.map_or(self.container.len(), |(at, _)| at);
        self.container.get(..end).unwrap_or_default()
    }

    /// A finding with its container, on one line of at most 2048 bytes.
    pub fn line(&self, finding: &Finding) -> String {
        let image = self.image.iter().map(|name| format!(" of {}", Escaped(name)));
        let image: String = image.collect();
        bounded(format!(
            "container {}{image}: {finding}",
            Escaped(self.short_id())
        ))
    }

    /// The text that [`Self::parse`] reads.
    fn to_json(&self) -> Value {
        let finding = |f: &Finding| {
            json!({
                "code": f.check.to_string(), "severity": f.severity.name(),
                "what": f.subject, "why": f.cause, "fix": f.fix,
            })
        };
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        json!({
            "container": self.container,
            "image": self.image,
            "namespace": [self.namespace.0, self.namespace.1],
            "pid": self.pid,
            "time": self.time,
            "milliseconds": self.since_boot.map(milliseconds),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }

    /// Parses a kept warning. Findings of checks that this version does not have are left out.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let finding = |f: &Value| {
            let text = |key: &str| f[key].as_str().unwrap_or_default();
            let number = text("code").strip_prefix("NVOCI-")?.parse().ok()?;
            let severity = match text("severity") {
                "fail" => Severity::Fail,
                _ => Severity::Warn,
            };
            let check = preflight::check_of(number)?;
            Some(Finding::new(check, severity, text("what"), text("why")).fix(text("fix")))
        };
        let findings = value["findings"].as_array()?;
        let findings: Vec<Finding> = findings.iter().take(MAX_FINDINGS).filter_map(finding).collect();
        (!findings.is_empty()).then_some(Self {
            container: shown(value["container"].as_str()?).to_owned(),
            image: value["image"].as_str().map(|name| shown(name).to_owned()),
            namespace: (value["namespace"][0].as_u64()?, value["namespace"][1].as_u64()?),
            pid: value["pid"].as_i64().and_then(|pid| pid.try_into().ok()),
            time: value["time"].as_u64()?,
            since_boot: value["milliseconds"].as_u64().map(Duration::from_millis),
            findings,
        })
    }
}

/// A line of at most [`MAX_LINE`] bytes; a longer one ends in `…`.
fn bounded(mut line: String) -> String {
    if line.len() > MAX_LINE {
        cut(&mut line, MAX_LINE - '…'.len_utf8());
        line.push('…');
    }
    line
}

/// The directory of warnings.
#[derive(Debug)]
pub struct Warnings {
    dir: Node,
}

impl Warnings {
    /// Opens the directory below `run`, and makes it if it is missing.
    ///
    /// # Errors
    /// If it cannot be made (a user's engine), or others may enter it.
    pub fn below(run: &Node) -> io::Result<Self> {
        record::own_dir(run, "warnings", 0o700).map(|dir| Self { dir })
    }

    /// Writes the container's warning.
    ///
    /// # Errors
    /// `EFBIG` if the directory has far more files than nvoci keeps; those of writing the file.
    pub fn keep(&self, warning: &Warning) -> io::Result<()> {
        let mut count = 0;
        self.dir.visit(MAX_LISTED, |_, _| count += 1)?;
        if count >= MAX_KEPT {
            let entries = self.dir.read_dir(MAX_LISTED)?;
            record::remove_oldest(&self.dir, &entries, count - MAX_KEPT * 3 / 4);
        }
        // Two runtimes may use one id, and a file's name has fewer characters than an id.
        let name = format!(
            "{}-{}.json",
            record::file_name(&warning.container),
            warning.namespace.1
        );
        let text = warning.to_json().to_string();
        self.dir.write_file(OsStr::new(&name), 0o600, text.as_bytes())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sys::root::Root;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    pub(crate) fn warning(id: &str) -> Warning {
        let cpu = preflight::check_of(7702).unwrap();
        let compat = preflight::check_of(7705).unwrap();
        let findings = vec![
            Finding::new(cpu, Severity::Fail, "/opt/torch", "a CPU-only build").fix("install a CUDA build"),
            Finding::new(compat, Severity::Warn, "/usr/local/cuda/compat", "too old"),
        ];
        Warning::new(id, (4, 4_026_532_001), findings).unwrap()
    }

    fn dir() -> (tempfile::TempDir, Node) {
        let run = tempfile::tempdir().unwrap();
        let node = Root::open(run.path()).unwrap().resolve("/").unwrap();
        (run, node)
    }

    #[test]
    fn a_kept_warning_is_read_back() {
        let warning = Warning {
            image: Some("evil\nimage\u{1b}[2J".to_owned()),
            pid: Some(77),
            since_boot: Some(Duration::from_millis(81_234)),
            ..warning("a\"b\n")
        };
        let text = warning.to_json().to_string();
        assert_eq!(Warning::parse(text.as_bytes()), Some(warning));
        for cut in [0, 1, text.len() / 2, text.len() - 1] {
            assert_eq!(Warning::parse(&text.as_bytes()[..cut]), None);
        }
        for other in ["{}", "[]", "null", &text.replace("NVOCI-770", "NVOCI-990")] {
            assert_eq!(Warning::parse(other.as_bytes()), None, "{other}");
        }
        assert_eq!(Warning::new("x", (1, 2), Vec::new()), None);
    }

    #[test]
    fn a_line_is_one_line_of_bounded_length() {
        let mut warning = warning("3f2a3f2a3f2a3f2a3f2a");
        let finding = warning.findings[0].clone();
        assert_eq!(
            warning.line(&finding),
            "container 3f2a3f2a3f2a: /opt/torch: a CPU-only build; fix: install a CUDA build [NVOCI-7702]"
        );
        warning.image = Some(format!("x\n\u{1b}[2J\u{202e}{}", "é".repeat(100_000)));
        warning.findings[0].cause = "ü".repeat(600);
        let line = warning.line(&warning.findings[0]);
        assert!(
            line.starts_with("container 3f2a3f2a3f2a of x\\n\\u{1b}[2J\\u{202e}éé"),
            "{line}"
        );
        assert!(line.len() <= MAX_LINE && line.ends_with('…') && !line.contains(['\n', '\u{1b}']));
        assert_eq!(
            Warning {
                container: "é".repeat(30),
                ..warning
            }
            .short_id()
            .chars()
            .count(),
            12
        );
    }

    #[test]
    fn the_directory_is_roots_alone_and_bounded() {
        let (run, node) = dir();
        let at = run.path().join("warnings");
        let warnings = Warnings::below(&node).unwrap();
        for i in 0..10_000 {
            warnings.keep(&warning(&format!("c{i}"))).unwrap();
        }
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&at), mode(&at.join("c9999-4026532001.json"))),
            (0o700, 0o600)
        );
        let left = std::fs::read_dir(&at).unwrap().count();
        assert!((MAX_KEPT / 2..=MAX_KEPT).contains(&left), "{left}");
        // The newest stay, and nothing leaves the directory.
        assert!((9_900..10_000).all(|i| at.join(format!("c{i}-4026532001.json")).exists()));
        warnings.keep(&warning("../../escape")).unwrap();
        assert!(at.join("______escape-4026532001.json").is_file());

        // A directory that is full of other files gets no more.
        for i in 0..MAX_LISTED {
            std::fs::write(at.join(format!("f{i}")), "").unwrap();
        }
        assert_eq!(
            warnings.keep(&warning("late")).unwrap_err().raw_os_error(),
            Some(libc::EFBIG)
        );
        assert!(!at.join("late-4026532001.json").exists());

        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Warnings::below(&node).is_err());
        std::fs::remove_dir_all(&at).unwrap();
        symlink("/tmp", &at).unwrap();
        assert!(Warnings::below(&node).is_err());
        std::fs::remove_file(&at).unwrap();
        std::fs::write(&at, "").unwrap();
        assert!(Warnings::below(&node).is_err());
    }
}
