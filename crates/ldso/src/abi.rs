//! Constants of glibc's loader and ldconfig for each architecture, such as
//! `/lib64/ld-linux-x86-64.so.2`.

/// `e_machine` values from the ELF specification: 32-bit x86.
pub const EM_386: u16 = 3;
/// 32-bit ARM.
pub const EM_ARM: u16 = 40;
/// x86-64 (and x32, which is its 32-bit class).
pub const EM_X86_64: u16 = 62;
/// 64-bit ARM.
pub const EM_AARCH64: u16 = 183;

/// The type bits that every entry of a glibc 2 library has in the cache.
pub const FLAG_LIBC6: u32 = 3;
/// The bits of a cache entry's flags that give its ABI.
pub const FLAG_ABI_MASK: u32 = 0xff00;

/// An architecture for whose images this crate can write a cache.
#[derive(Debug)]
pub struct Arch {
    /// `e_machine` of its native libraries.
    pub machine: u16,
    /// Cache flags of its native libraries.
    pub flags: u32,
    /// The path of glibc's loader in programs.
    pub loader: &'static str,
    /// The path of musl's loader in programs, and the file with its search path.
    pub musl: (&'static str, &'static str),
    /// Debian's multiarch triplet.
    pub triplet: &'static str,
    /// The directories that an unpatched glibc's ldconfig always scans, in its order.
    pub system_dirs: &'static [&'static str],
    /// The directories that Debian's ldconfig always scans, in its order (seen with `ldconfig -v -f
    /// /dev/null`).
    pub debian_dirs: &'static [&'static str],
    /// The `glibc-hwcaps` subdirectories of its loader, best first.
    pub hwcaps: &'static [&'static str],
}

/// Every supported architecture.
pub static ARCHES: &[Arch] = &[
    Arch {
        machine: EM_X86_64,
        flags: 0x0303,
        loader: "/lib64/ld-linux-x86-64.so.2",
        musl: ("/lib/ld-musl-x86_64.so.1", "/etc/ld-musl-x86_64.path"),
        triplet: "x86_64-linux-gnu",
        system_dirs: &[
            "/lib",
            "/lib64",
            "/libx32",
            "/usr/lib",
            "/usr/lib64",
            "/usr/libx32",
        ],
        debian_dirs: &[
            "/lib/x86_64-linux-gnu",
            "/usr/lib/x86_64-linux-gnu",
            "/lib",
            "/usr/lib",
        ],
        hwcaps: &["x86-64-v4", "x86-64-v3", "x86-64-v2"],
    },
    Arch {
        machine: EM_AARCH64,
        flags: 0x0a03,
        loader: "/lib/ld-linux-aarch64.so.1",
        musl: ("/lib/ld-musl-aarch64.so.1", "/etc/ld-musl-aarch64.path"),
        triplet: "aarch64-linux-gnu",
        system_dirs: &[
            "/lib",
            "/lib64",
            "/libilp32",
            "/usr/lib",
            "/usr/lib64",
            "/usr/libilp32",
        ],
        debian_dirs: &[
            "/lib/aarch64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/lib",
            "/usr/lib",
        ],
        hwcaps: &[],
    },
];

impl Arch {
    /// The architecture for which this program was built.
    pub fn native() -> &'static Self {
        let index = usize::from(cfg!(target_arch = "aarch64"));
        &ARCHES[index]
    }

    /// The cache flags that this architecture's ldconfig gives a library of `machine`; `None` for a
    /// machine that it refuses.
    pub fn flags_of(&self, machine: u16, is_64: bool, e_flags: u32) -> Option<u32> {
        const HARD_FLOAT: u32 = 0x400;
        const SOFT_FLOAT: u32 = 0x200;
        match (self.machine, machine, is_64) {
            (EM_X86_64, EM_X86_64, true) => Some(0x0303),
            (EM_X86_64, EM_X86_64, false) => Some(0x0803),
            (EM_AARCH64, EM_AARCH64, true) => Some(0x0a03),
            (EM_AARCH64, EM_ARM, false) if e_flags & HARD_FLOAT != 0 => Some(0x0903),
            (EM_AARCH64, EM_ARM, false) if e_flags & SOFT_FLOAT != 0 => Some(0x0b03),
            (EM_X86_64, EM_386, false) | (EM_AARCH64, EM_ARM, false) => Some(FLAG_LIBC6),
            _ => None,
        }
    }
}

/// The text that `ldconfig -p` prints for a type of library, by its bits in the flags.
pub fn type_name(flags: u32) -> &'static str {
    match flags & 0xff {
        FLAG_LIBC6 => "libc6",
        _ => "unknown or unsupported flag",
    }
}

/// The text that `ldconfig -p` prints for an ABI; empty for the architecture-neutral one.
pub fn abi_name(flags: u32) -> Option<&'static str> {
    Some(match flags & FLAG_ABI_MASK {
        0 => "",
        0x0100 | 0x0400 | 0x0500 | 0x0700 => "64bit",
        0x0200 => "IA-64",
        0x0300 => "x86-64",
        0x0600 => "N32",
        0x0800 => "x32",
        0x0900 => "hard-float",
        0x0a00 => "AArch64",
        0x0b00 | 0x0f00 => "soft-float",
        0x0c00 => "nan2008",
        0x0d00 => "N32,nan2008",
        0x0e00 => "64bit,nan2008",
        0x1000 => "double-float",
        _ => return None,
    })
}

/// Whether ldconfig reads a file of this name: a library or a loader.
pub fn is_dso_name(name: &[u8]) -> bool {
    (name.starts_with(b"lib") || name.starts_with(b"ld-") || name.starts_with(b"ld64.so."))
        && contains(name, b".so")
        || name.starts_with(b"ld.so.")
}

/// Whether `text` contains `part`.
pub fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_libraries() {
        for yes in [
            "libc.so.6",
            "libz.so",
            "ld-linux-x86-64.so.2",
            "ld.so.1",
            "ld64.so.2",
        ] {
            assert!(is_dso_name(yes.as_bytes()), "{yes}");
        }
        for no in ["libc.a", "foo.so", "ldconfig", "ld-foo", "xlibc.so"] {
            assert!(!is_dso_name(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn a_foreign_machine_has_no_flags() {
        let x86 = &ARCHES[0];
        assert_eq!(x86.flags_of(EM_386, false, 0), Some(3));
        assert_eq!(x86.flags_of(EM_386, true, 0), None);
        assert_eq!(x86.flags_of(EM_AARCH64, true, 0), None);
    }
}
