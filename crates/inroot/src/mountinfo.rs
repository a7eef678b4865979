//! The mounts of a mount namespace, from the kernel's list (proc(5), `/proc/PID/mountinfo`).
//!
//! An image's links decide where a runtime's mounts end up, so a path does not identify the mount
//! there. A tmpfs's device number does: a bind of the host's tmpfs has the device number of the
//! host's own mount.
//!
//! Reading a list fails with the kernel's error, or with `EFBIG` if it exceeds 64 MiB.

use std::borrow::Cow;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::root::own_fds;

/// The most bytes of a list; a mount takes about 150.
const MAX: usize = 64 << 20;

/// The mounts of one namespace.
#[derive(Clone, Debug)]
pub struct MountTable(Vec<u8>);

/// The fields of a line.
struct Line<'a> {
    id: u64,
    /// `major:minor`.
    device: &'a [u8],
    /// The mounted directory of the file system.
    root: &'a [u8],
    /// The mount point, with the kernel's escapes.
    at: &'a [u8],
    kind: &'a [u8],
}

impl MountTable {
    /// The mounts of this process's namespace.
    pub fn own() -> io::Result<Self> {
        Self::of(c"../../self/mountinfo")
    }

    /// The mounts of process 1's namespace.
    pub fn of_first_process() -> io::Result<Self> {
        Self::of(c"../../1/mountinfo")
    }

    fn of(path: &std::ffi::CStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(own_fds()?, path, flags, Mode::empty())?;
        let mut text = Vec::with_capacity(32 << 10);
        std::fs::File::from(file)
            .take(MAX as u64 + 1)
            .read_to_end(&mut text)?;
        if text.len() > MAX {
            return Err(Errno::FBIG.into());
        }
        Ok(Self(text))
    }

    /// The tmpfs mounts that were made for the container at `rootfs`: whole ones that are mounted
    /// nowhere else, neither here nor on the host.
    pub fn made_for(&self, rootfs: &Path, host: Option<&Self>) -> Vec<u64> {
        let (inside, outside): (Vec<Line<'_>>, Vec<Line<'_>>) = self
            .lines()
            .chain(host.into_iter().flat_map(Self::lines))
            .filter(|line| line.kind == b"tmpfs" || line.kind == b"devtmpfs")
            .partition(|line| path_of(line.at).starts_with(rootfs));
        let own = |line: &Line<'_>| {
            line.kind == b"tmpfs"
                && line.root == b"/"
                && !outside.iter().any(|other| other.device == line.device)
        };
        inside
            .iter()
            .filter(|line| own(line))
            .map(|line| line.id)
            .collect()
    }

    /// Whether the mount `top` at `rootfs` covers a mount with other content. A runtime first binds
    /// a rootfs to itself, so a mount over that is a volume that a link of the image led there.
    pub fn is_covered(&self, rootfs: &Path, top: u64) -> bool {
        let Some(top) = self.lines().find(|line| line.id == top) else {
            return true;
        };
        path_of(top.at) == rootfs
            && self
                .lines()
                .any(|line| line.at == top.at && (line.device, line.root) != (top.device, top.root))
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.0.split(|b| *b == b'\n').filter_map(parse)
    }
}

/// Parses `36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw`.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = fields.nth(1)?;
    let (root, at) = (fields.next()?, fields.next()?);
    fields.find(|field| *field == b"-")?;
    Some(Line {
        id,
        device,
        root,
        at,
        kind: fields.next()?,
    })
}

/// A path without the kernel's escapes: a backslash and three octal digits.
fn path_of(field: &[u8]) -> Cow<'_, Path> {
    let path = |bytes: &[u8]| Path::new(std::ffi::OsStr::from_bytes(bytes)).to_owned();
    if !field.contains(&b'\\') {
        return Cow::Borrowed(Path::new(std::ffi::OsStr::from_bytes(field)));
    }
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let code = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if byte == b'\\' => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => bytes.push(byte),
        }
    }
    Cow::Owned(path(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> MountTable {
        MountTable(lines.join("\n").into_bytes())
    }

    const HOST: [&str; 4] = [
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw",
        "23 22 0:5 / /dev rw - devtmpfs udev rw",
        "24 22 0:40 / /tmp rw shared:9 - tmpfs tmpfs rw",
        "30 22 0:50 / /c/root\\040fs rw - overlay overlay rw",
    ];

    fn made(inside: &[&str]) -> Vec<u64> {
        table(&[&HOST, inside].concat()).made_for(Path::new("/c/root fs"), None)
    }

    #[test]
    fn only_a_tmpfs_that_nobody_else_has_is_the_containers() {
        let at = |id: u64, device: &str, root: &str, place: &str, kind: &str| {
            format!("{id} 30 {device} {root} /c/root\\040fs{place} rw - {kind} x rw")
        };
        assert_eq!(made(&[&at(31, "0:60", "/", "/dev", "tmpfs")]), [31]);
        for (device, root, kind) in [
            ("8:1", "/srv/data", "ext4"),
            ("0:40", "/", "tmpfs"),
            ("0:40", "/vol", "tmpfs"),
            ("0:61", "/vol", "tmpfs"),
            ("0:5", "/", "devtmpfs"),
        ] {
            let mounts = [
                at(31, "0:60", "/", "/dev", "tmpfs"),
                at(32, device, root, "/dev", kind),
            ];
            assert_eq!(made(&[&mounts[0], &mounts[1]]), [31], "{device} {root} {kind}");
        }
        // A part of the container's own tmpfs may be bound in it, as for a masked file.
        let masked = at(32, "0:60", "/null", "/proc/kcore", "tmpfs");
        assert_eq!(made(&[&at(31, "0:60", "/", "/dev", "tmpfs"), &masked]), [31]);
        // The container beside it has a longer name.
        assert!(made(&["31 30 0:60 / /c/root\\040fs2/dev rw - tmpfs x rw"]).is_empty());
    }

    #[test]
    fn the_hosts_list_counts_where_the_callers_lacks_it() {
        let own = table(&["31 30 0:40 / /c/rootfs/dev rw - tmpfs x rw", "garbage", ""]);
        let rootfs = Path::new("/c/rootfs");
        assert_eq!(own.made_for(rootfs, None), [31]);
        assert!(own.made_for(rootfs, Some(&table(&HOST))).is_empty());
        // Process 1 may be in the same namespace.
        assert!(own.made_for(rootfs, Some(&own)).contains(&31));
    }

    #[test]
    fn a_volume_over_the_rootfs() {
        let rootfs = Path::new("/c/root fs");
        let itself = "31 30 0:50 / /c/root\\040fs rw - overlay overlay rw";
        let volume = "32 31 8:1 /srv /c/root\\040fs rw - ext4 /dev/sda1 rw";
        let again = "33 32 8:1 /srv /c/root\\040fs rw - ext4 /dev/sda1 rw";
        let covered = |lines: &[&str], top| table(&[&HOST, lines].concat()).is_covered(rootfs, top);
        assert!(!covered(&[itself], 31));
        assert!(covered(&[itself, volume], 32));
        assert!(covered(&[itself, volume, again], 33));
        // A mount that is not in the list is not proved.
        assert!(covered(&[itself], 99));
        // A rootfs without a mount on it.
        assert!(!table(&HOST).is_covered(Path::new("/srv"), 22));
    }

    #[test]
    fn escapes() {
        for (field, path) in [
            (r"/a\040b", "/a b"),
            (r"/a\134", r"/a\"),
            (r"/a\9", r"/a\9"),
            ("/a\\", "/a\\"),
        ] {
            assert_eq!(path_of(field.as_bytes()), Path::new(path), "{field}");
        }
        assert!(MountTable::own().unwrap().lines().count() > 0);
    }
}
