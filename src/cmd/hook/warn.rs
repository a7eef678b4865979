//! Delivers a container's warning to the places where a person sees it.
//!
//! | place | opened | a hostile or broken one |
//! |---|---|---|
//! | `log-file` | with the configuration | its lines are escaped |
//! | the journal, or syslog | before the process is confined | is not used, or loses the entry |
//! | the container's standard error, with `warn-stderr` | before the process is confined | is not used, or loses the line |
//! | `/run/nvoci/warnings` | by the descriptor of `/run/nvoci` | is not written |
//!
//! The hook's own standard error has the lines too, but runc and crun discard it when a hook
//! succeeds. No place can fail or delay the start: each is a few non-blocking system calls.

use crate::apply::{Warning, Warnings};
use crate::config::{Config, Preflight};
use crate::error::{Escaped, shown};
use crate::oci::Spec;
use crate::sys::process;
use crate::sys::root::Node;
use crate::sys::stderr::{self, StderrPipe};
use crate::sys::syslog::{Entry, SystemLog};

/// Annotations with the image's name: CRI-O's (`pkg/annotations`), and those of containerd's CRI
/// plugin (`pkg/cri/annotations`). Other engines write none. CRI-O's comes first: under CRI-O a
/// pod's author can write containerd's key, but not CRI-O's.
const IMAGE_NAMES: [&str; 2] = ["io.kubernetes.cri-o.ImageName", "io.kubernetes.cri.image-name"];

/// The places that a confined process can no longer open.
#[derive(Debug, Default)]
pub(super) struct Sinks {
    system_log: Option<SystemLog>,
    stderr: Option<StderrPipe>,
}

/// The places that the configuration and the container want.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    journal: bool,
    stderr: bool,
}

impl Wanted {
    /// None for a container that preflight does not check. `config` has the container's own
    /// settings.
    pub(super) fn of(config: &Config, policy: Preflight, spec: &Spec) -> Self {
        let checked = policy != Preflight::Off;
        Self {
            journal: checked && *config.warn_journal,
            stderr: checked && *config.warn_stderr && !spec.has_terminal(),
        }
    }
}

impl Sinks {
    /// Opens them; `process` finds the process that becomes the container's.
    pub(super) fn open(wanted: Wanted, process: impl FnOnce() -> Option<i32>) -> Self {
        Self {
            system_log: wanted.journal.then(SystemLog::connect).flatten(),
            stderr: wanted.stderr.then(|| stderr::pipe_of(process()?)).flatten(),
        }
    }

    /// Delivers the warning; `run` is nvoci's directory below the host's `/run`.
    pub(super) fn deliver(&self, warning: &Warning, run: Option<&Node>) {
        for finding in warning.findings() {
            let line = warning.line(finding);
            log::warn!("{line}");
            if let Some(log) = &self.system_log {
                let code = finding.check.to_string();
                let sent = log.send(&Entry {
                    message: &line,
                    fields: &fields(warning, &code),
                });
                if let Err(e) = sent {
                    log::debug!("{}: the system's log: {e}", Escaped(&warning.container));
                }
            }
        }
        if let (Some(pipe), Some(worst)) = (&self.stderr, warning.findings().first()) {
            pipe.write_line(&format!("nvoci: warning: {worst}"));
        }
        let Some(run) = run else { return };
        // What is kept on the host is root's, not the container's root's.
        let _ = process::make_files_as(0, 0);
        if let Err(e) = Warnings::below(run).and_then(|warnings| warnings.keep(warning)) {
            log::warn!("{}: its warning cannot be kept: {e}", Escaped(&warning.container));
        }
    }
}

/// The fields of a journal entry, with the names that Docker's and Podman's log drivers use.
fn fields<'a>(warning: &'a Warning, code: &'a str) -> Vec<(&'static str, &'a str)> {
    let mut fields = vec![
        ("NVOCI_CODE", code),
        ("CONTAINER_ID", warning.short_id()),
        ("CONTAINER_ID_FULL", &warning.container),
    ];
    fields.extend(warning.image.as_deref().map(|image| ("IMAGE_NAME", image)));
    fields
}

/// The image's name, if the engine wrote it into the definition.
pub(super) fn image_name(spec: &Spec) -> Option<String> {
    let annotations = spec.annotations();
    IMAGE_NAMES.iter().find_map(|name| {
        let (_, value) = annotations.iter().rev().find(|(key, _)| key == name)?;
        Some(shown(value).to_owned()).filter(|value| !value.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::warning::tests::warning;

    #[test]
    fn the_image_is_the_engines_word() {
        let of = |annotations: serde_json::Value| {
            let text = serde_json::json!({ "annotations": annotations }).to_string();
            image_name(&Spec::parse(text.as_bytes()).unwrap())
        };
        let cri = "io.kubernetes.cri.image-name";
        let crio = "io.kubernetes.cri-o.ImageName";
        assert_eq!(of(serde_json::json!({})), None);
        assert_eq!(of(serde_json::json!({ cri: "" })), None);
        assert_eq!(of(serde_json::json!({ cri: "a:1" })), Some("a:1".to_owned()));
        assert_eq!(
            of(serde_json::json!({ cri: "forged:1", crio: "a:1" })),
            Some("a:1".to_owned())
        );
        // A longer name would make a file that no reader accepts.
        assert!(of(serde_json::json!({ cri: "a".repeat(1 << 20) })).is_some_and(|name| name.len() < 4096));
        assert_eq!(
            of(serde_json::json!({ crio: "b\nPRIORITY=0" })),
            Some("b\nPRIORITY=0".to_owned())
        );
    }

    #[test]
    fn fields_of_the_journal() {
        let mut warning = warning("3f2a3f2a3f2a3f2a");
        let names = |warning: &Warning| -> Vec<&str> {
            fields(warning, "NVOCI-7702")
                .iter()
                .map(|(name, _)| *name)
                .collect()
        };
        assert_eq!(
            names(&warning),
            ["NVOCI_CODE", "CONTAINER_ID", "CONTAINER_ID_FULL"]
        );
        assert_eq!(fields(&warning, "x")[1].1, "3f2a3f2a3f2a");
        warning.image = Some("a".to_owned());
        assert_eq!(names(&warning).last(), Some(&"IMAGE_NAME"));
    }
}
