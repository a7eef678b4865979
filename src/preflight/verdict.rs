//! The result of the check at a start.

use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};
use crate::findings::{Finding, Severity};

/// The findings in an image. One of them depends on the place of the driver directory, which the
/// process that reads the image does not decide.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Those that hold anywhere.
    pub certain: Vec<Finding>,
    /// The libcuda that the loader finds before the driver's.
    pub hidden: Option<Hidden>,
}

/// A finding that does not hold if the driver directory is at one of some paths.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hidden {
    /// The finding.
    pub finding: Finding,
    /// The paths.
    pub unless: Vec<PathBuf>,
}

impl Verdict {
    /// The findings, the worst first. `may_be_at` is whether the driver directory is at a path, or
    /// may still come there; a finding that this would refute is left out.
    pub fn findings(&self, may_be_at: impl Fn(&Path) -> bool) -> Vec<Finding> {
        let stands = |hidden: &&Hidden| !hidden.unless.iter().any(|dir| may_be_at(dir));
        let hidden = self.hidden.as_ref().filter(stands).map(|hidden| &hidden.finding);
        let mut all: Vec<Finding> = hidden.into_iter().chain(&self.certain).cloned().collect();
        all.sort_by_key(|finding| core::cmp::Reverse(finding.severity));
        all
    }
}

/// Refuses a container that cannot compute, for `preflight = "enforce"`. `findings` has the worst
/// first.
///
/// # Errors
/// [`Code::Preflight`] with the worst finding. A container that may work is not refused.
pub fn refuse(findings: &[Finding]) -> Result<()> {
    match findings.first() {
        Some(worst) if worst.severity == Severity::Fail => {
            Err(Error::new(Code::Preflight, &worst.subject, &worst.cause).fix(&worst.fix))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::check_of;

    #[test]
    fn a_finding_stands_unless_the_driver_is_where_it_would_not() {
        let finding =
            |number, severity| Finding::new(check_of(number).unwrap(), severity, "subject", "cause");
        let mut verdict = Verdict {
            certain: vec![finding(7706, Severity::Warn)],
            hidden: Some(Hidden {
                finding: finding(7704, Severity::Fail),
                unless: vec![PathBuf::from("/usr/local/nvidia")],
            }),
        };
        let at = |verdict: &Verdict, place: &str| -> Vec<u16> {
            let found = verdict.findings(|dir| dir == Path::new(place));
            let refused = refuse(&found).is_err();
            assert_eq!(refused, found.iter().any(|f| f.severity == Severity::Fail));
            found.iter().map(|f| f.check.number).collect()
        };
        assert_eq!(at(&verdict, "/opt/nvidia"), [7704, 7706]);
        assert_eq!(at(&verdict, "/usr/local/nvidia"), [7706]);
        verdict.certain.clear();
        assert_eq!(at(&verdict, "/usr/local/nvidia"), [0; 0]);
    }
}
