//! The SELinux policy that the kernel has loaded, and the accesses it would deny.
//!
//! A policy grants a process, by its label such as `system_u:system_r:container_t:s0:c1,c2`, some
//! permissions of a class (`chr_file`: `open`, `read` ...) on a file, by its label. The kernel
//! answers for any two labels, so a container that would be denied its GPU is found before its
//! start.
//!
//! Sources: security/selinux/selinuxfs.c of Linux (`access`, `class/`, `booleans/`), selinux(8).

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;

use rustix::fs::OFlags;

use super::root::{Root, reopen};

/// selinuxfs, below the root of sysfs.
const SELINUXFS: &str = "fs/selinux";
/// The longest label that is passed on, in bytes. The kernel takes a page for a whole question.
const MAX_LABEL: usize = 1024;
/// Limit for a file of selinuxfs, in bytes. The kernel's answers and numbers are shorter.
const MAX_TEXT: u64 = 256;
/// `AVD_FLAGS_PERMISSIVE` of security/selinux/include/security.h: the kernel only logs the denials
/// of this process's type.
const PERMISSIVE: u32 = 1;

/// A class of the kernel, and the permissions that a program needs on its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    class: &'static str,
    permissions: &'static [&'static str],
}

/// CUDA opens a GPU's node for reading and writing, maps it, and calls ioctl.
pub const DEVICE: Use = Use {
    class: "chr_file",
    permissions: &["getattr", "open", "read", "write", "ioctl", "map"],
};

/// A policy that the kernel enforces.
#[derive(Debug)]
pub struct Policy {
    fs: Root,
}

impl Policy {
    /// The policy of the machine whose sysfs is `sys`. `None` without SELinux, or if it only logs.
    pub fn enforcing(sys: &Root) -> Option<Self> {
        let fs = sys.subroot(SELINUXFS).ok()?;
        let enforces = fs.read_text("enforce", MAX_TEXT).ok()?.trim() == "1";
        enforces.then_some(Self { fs })
    }

    /// The permissions of `wanted` that the policy denies a process labelled `process` on a file
    /// labelled `file`.
    ///
    /// # Errors
    /// `EINVAL` for a label that the policy does not define, `EACCES` if the caller may not query.
    pub fn denied(&self, process: &str, file: &str, wanted: Use) -> io::Result<Vec<&'static str>> {
        let class = format!("class/{}", wanted.class);
        let index = self.number(&format!("{class}/index"))?;
        let answer = self.answer(&question(process, file, index)?)?;
        let mut denied = Vec::new();
        for permission in wanted.permissions {
            // A kernel or a policy without this permission does not check it.
            let Ok(number) = self.number(&format!("{class}/perms/{permission}")) else {
                continue;
            };
            if !answer.allows(number) {
                denied.push(*permission);
            }
        }
        Ok(denied)
    }

    /// Whether a boolean of the policy is on; `None` where the policy has no such boolean.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        // The file holds the present and the pending value.
        let values = self.fs.read_text(format!("booleans/{name}"), MAX_TEXT).ok()?;
        Some(values.starts_with('1'))
    }

    fn number(&self, path: &str) -> io::Result<u32> {
        let text = self.fs.read_text(path, MAX_TEXT)?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// The kernel keeps the answer with the descriptor, so each question opens the file anew.
    fn answer(&self, question: &str) -> io::Result<Answer> {
        let node = self.fs.resolve("access")?;
        let mut access = std::fs::File::from(reopen(node.as_fd(), OFlags::RDWR)?);
        access.write_all(question.as_bytes())?;
        let mut answer = String::new();
        access.take(MAX_TEXT).read_to_string(&mut answer)?;
        Answer::parse(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The text that `access` takes: both labels and the number of the class, separated by a space.
///
/// # Errors
/// `InvalidInput` for a label that would be read as two words, or that is too long.
fn question(process: &str, file: &str, class: u32) -> io::Result<String> {
    let is_label = |l: &str| !l.is_empty() && l.len() <= MAX_LABEL && l.bytes().all(|b| b.is_ascii_graphic());
    if !is_label(process) || !is_label(file) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(format!("{process} {file} {class}"))
}

/// The text of `access`: permissions that are allowed, decided, audited when allowed, audited when
/// denied (all hexadecimal), a sequence number, and flags (hexadecimal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    allowed: u32,
    flags: u32,
}

impl Answer {
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.trim_matches(['\0', '\n', ' ']).split(' ').collect();
        let [allowed, _, _, _, _, flags] = words.as_slice() else {
            return None;
        };
        let hexadecimal = |word| u32::from_str_radix(word, 16).ok();
        Some(Self {
            allowed: hexadecimal(allowed)?,
            flags: hexadecimal(flags)?,
        })
    }

    /// Whether the permission with this number is allowed. The kernel counts from 1.
    fn allows(self, number: u32) -> bool {
        let bit = number.checked_sub(1).and_then(|n| 1_u32.checked_shl(n));
        self.flags & PERMISSIVE != 0 || bit.is_none_or(|bit| self.allowed & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_kernel() {
        // Linux 6.12, container_t on a node of xserver_misc_device_t.
        let denied = Answer::parse("10 ffffffff 0 ffffffff 6 0").unwrap();
        assert!(denied.allows(5) && !denied.allows(1) && !denied.allows(17));
        let permissive = Answer::parse("0 ffffffff 0 ffffffff 6 1\0").unwrap();
        assert!(permissive.allows(1) && permissive.allows(32));
        for broken in ["", "0", "0 0 0 0 0", "x ffffffff 0 ffffffff 6 0", "0 0 0 0 0 0 0"] {
            assert_eq!(Answer::parse(broken), None, "{broken:?}");
        }
        // A number that is no bit denies nothing.
        assert!(denied.allows(0) && denied.allows(33) && denied.allows(u32::MAX));
    }

    #[test]
    fn a_question_is_three_words() {
        let text = question("u:r:t:s0:c1,c2", "u:object_r:d:s0", 7).unwrap();
        assert_eq!(text, "u:r:t:s0:c1,c2 u:object_r:d:s0 7");
        for label in ["", "a b", "a\nb", "a\0", "\u{e4}", &"x".repeat(MAX_LABEL + 1)] {
            assert!(question(label, "a", 1).is_err(), "{label:?}");
            assert!(question("a", label, 1).is_err(), "{label:?}");
        }
    }

    #[test]
    fn only_a_policy_that_enforces_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(Policy::enforcing(&root).is_none());
        let fs = dir.path().join(SELINUXFS);
        std::fs::create_dir_all(fs.join("booleans")).unwrap();
        std::fs::write(fs.join("enforce"), "0").unwrap();
        assert!(Policy::enforcing(&root).is_none());
        std::fs::write(fs.join("enforce"), "1").unwrap();
        std::fs::write(fs.join("booleans/on"), "1 1").unwrap();
        std::fs::write(fs.join("booleans/off"), "0 1").unwrap();
        let policy = Policy::enforcing(&root).unwrap();
        let booleans = ["on", "off", "absent"].map(|name| policy.boolean(name));
        assert_eq!(booleans, [Some(true), Some(false), None]);
        // A kernel without the files gives an error, and no verdict.
        assert!(policy.denied("a", "b", DEVICE).is_err());
    }
}
