//! Compares installed versions with published vulnerabilities. `src/doctor/data/advisories.tsv` has
//! one row for each, with its source and the date of reading.

use std::collections::BTreeMap;

use super::{Finding, Severity, VULNERABLE};
use crate::compat::Version;
use crate::doctor::packages::{Package, Packages};

const TABLE: &str = include_str!("../data/advisories.tsv");

/// Names under which distributions and vendors package one program.
const SAME: [(&str, &str); 3] = [
    ("containerd.io", "containerd"),
    ("nvidia-container-toolkit-base", "nvidia-container-toolkit"),
    ("nvidia-container-runtime", "nvidia-container-toolkit"),
];

#[derive(Debug)]
struct Advisory {
    package: &'static str,
    fixed: Vec<Version>,
    cves: &'static str,
    source: &'static str,
}

fn table() -> impl Iterator<Item = Advisory> {
    TABLE.lines().filter(|l| !l.starts_with('#')).filter_map(|line| {
        let mut fields = line.split('\t');
        let (package, fixed, cves, source) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let fixed: Vec<Version> = fixed.split(' ').filter_map(|v| v.parse().ok()).collect();
        (!fixed.is_empty()).then_some(Advisory {
            package,
            fixed,
            cves,
            source,
        })
    })
}

impl Advisory {
    /// Whether the version is below the fix of its own branch, or of the highest branch if its own
    /// has none.
    fn hits(&self, version: Version) -> bool {
        let branch = |v: &&Version| (v.major(), v.minor()) == (version.major(), version.minor());
        let fix = self.fixed.iter().find(branch).or_else(|| self.fixed.iter().max());
        fix.is_some_and(|fix| version < *fix)
    }

    /// The first fixed version that an installed one can be updated to.
    fn update(&self, version: Version) -> Option<Version> {
        self.fixed.iter().copied().filter(|f| *f > version).min()
    }
}

pub(super) fn findings(packages: &Packages) -> Vec<Finding> {
    let table: Vec<Advisory> = table().collect();
    let mut found = BTreeMap::new();
    for package in packages.iter() {
        if let Some((name, finding)) = judge(package, &table) {
            found.entry(name).or_insert(finding);
        }
    }
    found.into_values().collect()
}

fn judge(package: &Package, table: &[Advisory]) -> Option<(&'static str, Finding)> {
    let same = SAME.iter().find(|(name, _)| *name == package.name);
    let name = same.map_or(&*package.name, |(_, name)| name);
    let version: Version = package.upstream().parse().ok()?;
    let hits: Vec<&Advisory> = table
        .iter()
        .filter(|a| a.package == name && a.hits(version))
        .collect();
    // One version that has all fixes.
    let update = hits.iter().filter_map(|a| a.update(version)).max()?;
    let cves: Vec<&str> = hits.iter().map(|a| a.cves).collect();
    let named = format!("{} {}", package.name, package.version);
    let finding = if package.patched_by_distribution() {
        Finding::new(
            &VULNERABLE,
            Severity::Info,
            named,
            format!("upstream fixed {} in later versions; the distribution may have brought the fixes into this one", cves.join(" ")),
        )
        .fix("see the distribution's security tracker for these numbers")
    } else {
        Finding::new(
            &VULNERABLE,
            Severity::Warn,
            named,
            format!("it has {}", cves.join(" ")),
        )
        .fix(format!("update it to {update} or later"))
    };
    let package = hits.first()?.package;
    Some((
        package,
        hits.iter()
            .fold(finding, |f, a| f.evidence(format!("{}: {}", a.cves, a.source))),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
        }
    }

    #[test]
    fn every_row_is_whole() {
        let rows = TABLE.lines().filter(|l| !l.starts_with('#')).count();
        assert_eq!(table().count(), rows);
        for line in TABLE.lines().filter(|l| !l.starts_with('#')) {
            assert_eq!(line.split('\t').count(), 5, "{line}");
            assert!(line.split('\t').next_back().unwrap().starts_with("20"), "{line}");
        }
    }

    #[test]
    fn a_version_is_judged_in_its_own_branch() {
        let rows: Vec<Advisory> = table().collect();
        let severity =
            |name: &str, version: &str| judge(&package(name, version), &rows).map(|(_, f)| f.severity);
        assert_eq!(severity("runc", "1.3.3-1"), Some(Severity::Warn));
        assert_eq!(severity("runc", "1.3.6-1"), None);
        assert_eq!(severity("runc", "1.5.0-1"), None);
        assert_eq!(severity("runc", "1.1.5+ds1-1+deb12u1"), Some(Severity::Info));
        assert_eq!(severity("containerd.io", "1.7.27-1"), Some(Severity::Warn));
        assert_eq!(
            severity("nvidia-container-toolkit-base", "1.17.8-1"),
            Some(Severity::Warn)
        );
        assert_eq!(severity("nvidia-container-toolkit", "1.20.0-1"), None);
        assert_eq!(severity("podman", "1.0"), None);
        let (_, old) = judge(&package("nvidia-container-toolkit", "1.16.1-1"), &rows).unwrap();
        assert!(
            old.fix.contains("1.19.1") && old.cause.contains("CVE-2024-0132"),
            "{old:?}"
        );
    }
}
