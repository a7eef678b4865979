//! Finds accesses to the driver that a security module denied: in the kernel's log, and in the
//! audit daemon's, which takes the records instead while it runs.
//!
//! The kernel makes the lines: security/apparmor/audit.c and file.c, security/selinux/avc.c,
//! security/lsm_audit.c. A process with CAP_AUDIT_WRITE, as in Docker's containers, writes records
//! of other types, which are not read.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{DENIED, Finding, Inputs, Severity};
use crate::error::Code;
use crate::sys::kmsg;

/// Where auditd writes (auditd.conf(5), `log_file`).
const AUDIT_LOG: &str = "var/log/audit/audit.log";
/// The bytes of its end that are read.
const MAX_TAIL: u64 = 4 << 20;
/// Older denials may be of a policy that has been changed since.
const RECENT: u64 = 24 * 3600;
/// Different denials that are counted, and that are shown of each module.
const MAX_DENIALS: usize = 256;
const MAX_SHOWN: usize = 8;

/// A module that denies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Module {
    AppArmor,
    SeLinux,
}

/// A denied access, as the log names it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Denial<'a> {
    module: Module,
    /// The profile, or the type of the process.
    subject: &'a str,
    /// The operation or the permissions.
    access: &'a str,
    /// The path, the name of the file, or empty.
    object: &'a str,
}

/// Denials with the number of each.
#[derive(Debug, Default)]
struct Denials(Vec<(Module, String, usize)>);

impl Denials {
    /// Counts a line of a log if it is a recent denial that concerns nvoci or the driver.
    fn count(&mut self, line: &str, now: u64) {
        let Some(denial) = parse(line).filter(Denial::concerns_us) else {
            return;
        };
        if time_of(line).is_some_and(|time| time.saturating_add(RECENT) < now) {
            return;
        }
        let text = denial.to_string();
        let same =
            |(module, known, _): &&mut (Module, String, usize)| *module == denial.module && *known == text;
        if let Some((_, _, count)) = self.0.iter_mut().find(same) {
            *count += 1;
        } else if self.0.len() < MAX_DENIALS {
            self.0.push((denial.module, text, 1));
        }
    }

    fn finding(&self, module: Module) -> Option<Finding> {
        let of_module: Vec<String> = self
            .0
            .iter()
            .filter(|(of, ..)| *of == module)
            .map(|(_, text, count)| match count {
                1 => text.clone(),
                _ => format!("{text}, {count} times"),
            })
            .collect();
        let (first, others) = of_module.split_first()?;
        let (name, fix) = match module {
            Module::AppArmor => (
                "AppArmor",
                "allow it in that profile and load it with `apparmor_parser -r FILE`; `apparmor_parser -r -C FILE` only logs",
            ),
            Module::SeLinux => ("SELinux", Code::Selinux.default_fix()),
        };
        let cause = format!("denied in the last day: {first}");
        let mut finding = Finding::new(&DENIED, Severity::Warn, name, cause).fix(fix);
        for other in others.iter().take(MAX_SHOWN) {
            finding = finding.evidence(other);
        }
        if let Some(more) = others.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
            finding = finding.evidence(format!("{more} more"));
        }
        Some(finding)
    }
}

impl Denial<'_> {
    fn concerns_us(&self) -> bool {
        let is_ours = self.module == Module::AppArmor && self.subject.split("//").next() == Some("nvoci");
        let is_drivers = ["/nvidia", "/dev/dxg"].iter().any(|part| self.object.contains(part))
            // SELinux names a file without its directory, unless it was opened by its path.
            || (self.module == Module::SeLinux && self.object.starts_with("nvidia"));
        is_ours || is_drivers
    }
}

impl std::fmt::Display for Denial<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.access, self.subject)?;
        if !self.object.is_empty() {
            write!(f, " on {}", self.object)?;
        }
        Ok(())
    }
}

/// The value of `key=value` or `key="value"` in a line.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.match_indices(key).find_map(|(at, _)| {
        let begins = at == 0 || line.as_bytes().get(at - 1) == Some(&b' ');
        let rest = line.get(at + key.len()..)?.strip_prefix('=').filter(|_| begins)?;
        match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => rest.split([' ', '\n']).next(),
        }
    })
}

/// When the kernel made the record: `audit(SECONDS.MILLISECONDS:SERIAL)`.
fn time_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("audit(")?;
    rest.split('.').next()?.parse().ok()
}

/// The rest of a record of type AVC: a line of auditd's log, or of the kernel's.
fn avc(line: &str) -> Option<&str> {
    let named = line.strip_prefix("node=").and_then(|rest| rest.split_once(' '));
    let line = named.map_or(line, |(_, rest)| rest);
    line.strip_prefix("type=AVC ")
        .or_else(|| line.split_once(';')?.1.strip_prefix("audit: type=1400 "))
}

fn parse(line: &str) -> Option<Denial<'_>> {
    let line = avc(line)?;
    if value(line, "apparmor") == Some("DENIED") {
        return Some(Denial {
            module: Module::AppArmor,
            subject: value(line, "profile")?,
            access: value(line, "operation")?,
            object: value(line, "name").unwrap_or_default(),
        });
    }
    let (_, rest) = line.split_once("avc:  denied  { ")?;
    let (access, rest) = rest.split_once(" }")?;
    // A permissive domain's access was logged and happened.
    if value(rest, "permissive") == Some("1") {
        return None;
    }
    let object = value(rest, "path").or_else(|| value(rest, "name"));
    Some(Denial {
        module: Module::SeLinux,
        subject: value(rest, "scontext")?.split(':').nth(2)?,
        access,
        object: object.unwrap_or_default(),
    })
}

pub(super) fn findings(inputs: &Inputs<'_>) -> Vec<Finding> {
    let mut denials = Denials::default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    if let Ok(log) = inputs.roots.dev.resolve("kmsg") {
        let _ = kmsg::read(&log, |record| {
            denials.count(&String::from_utf8_lossy(record), now);
        });
    }
    for line in audit_log(inputs).unwrap_or_default().lines() {
        denials.count(line, now);
    }
    let modules = [Module::AppArmor, Module::SeLinux];
    modules.into_iter().filter_map(|m| denials.finding(m)).collect()
}

/// The end of the audit daemon's log.
fn audit_log(inputs: &Inputs<'_>) -> std::io::Result<String> {
    let mut file = inputs.system.resolve(AUDIT_LOG)?.open_read()?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL)))?;
    let mut tail = Vec::new();
    file.take(MAX_TAIL).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_796_032_842;
    /// Lines of Linux 6.12 (docker-default, nvoci's profile) and of Debian's SELinux policy.
    const DEVICE: &str = r#"type=AVC msg=audit(1796032800.790:2): apparmor="DENIED" operation="open" class="file" profile="docker-default" name="/dev/nvidia0" pid=863 comm="probe" requested_mask="wr" denied_mask="wr" fsuid=0 ouid=0"#;
    const EXEC: &str = r#"6,339,5140900,-;audit: type=1400 audit(1796032800.003:5): apparmor="DENIED" operation="exec" class="file" profile="nvoci" name="/usr/bin/busybox" pid=9 comm="nvoci""#;
    const SELINUX: &str = r#"type=AVC msg=audit(1796032801.1:7): avc:  denied  { read write } for  pid=1 comm="bash" name="nvidia0" dev="tmpfs" ino=9 scontext=system_u:system_r:container_t:s0:c1,c2 tcontext=system_u:object_r:xserver_misc_device_t:s0 tclass=chr_file permissive=0"#;

    fn counted(lines: &[&str]) -> Denials {
        let mut denials = Denials::default();
        for line in lines {
            denials.count(line, NOW);
        }
        denials
    }

    #[test]
    fn denials_of_the_driver_and_of_nvoci_are_found() {
        let denials = counted(&[DEVICE, SELINUX, DEVICE, EXEC]);
        let apparmor = denials.finding(Module::AppArmor).unwrap();
        assert_eq!(
            apparmor.cause,
            "denied in the last day: open to docker-default on /dev/nvidia0, 2 times"
        );
        assert_eq!(apparmor.evidence, ["exec to nvoci on /usr/bin/busybox"]);
        let selinux = denials.finding(Module::SeLinux).unwrap();
        assert_eq!(
            selinux.cause,
            "denied in the last day: read write to container_t on nvidia0"
        );
    }

    #[test]
    fn other_lines_are_not_counted() {
        let old = DEVICE.replace("1796032800", "1795032800");
        let allowed = DEVICE.replace("DENIED", "ALLOWED");
        let permissive = SELINUX.replace("permissive=0", "permissive=1");
        let others = DEVICE.replace("/dev/nvidia0", "/dev/sda");
        let cut = DEVICE.split_at(90).0;
        let named = r#"type=AVC apparmor="DENIED" comm="profile=nvoci" operation="open""#;
        // What a container can have the kernel log.
        let users = DEVICE.replace("type=AVC msg=", "type=USER_AVC msg='type=AVC ");
        let users_kernel = EXEC.replace("type=1400", "type=1107 msg='audit: type=1400");
        for line in [
            "",
            "audit(",
            &old,
            &allowed,
            &permissive,
            &others,
            cut,
            named,
            &users,
            &users_kernel,
        ] {
            assert!(counted(&[line]).0.is_empty(), "{line}");
        }
    }

    #[test]
    fn a_flood_is_bounded() {
        let lines: Vec<String> = (0..10_000)
            .map(|n| EXEC.replace("busybox", &n.to_string()))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let denials = counted(&lines);
        assert_eq!(denials.0.len(), MAX_DENIALS);
        let finding = denials.finding(Module::AppArmor).unwrap();
        assert_eq!(finding.evidence.len(), MAX_SHOWN + 1);
    }
}
