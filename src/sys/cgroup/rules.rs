//! Device rules, and the eBPF program that decides by them.

use core::fmt;
use std::collections::BTreeMap;

/// Which device types a rule is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RuleKind {
    /// Character and block devices.
    All,
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

impl RuleKind {
    /// The letter that specs use.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::All => "a",
            Self::Char => "c",
            Self::Block => "b",
        }
    }
}

/// What a device rule is about: any of reading, writing and making the node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Access {
    /// Opening for reading.
    pub read: bool,
    /// Opening for writing.
    pub write: bool,
    /// `mknod`.
    pub mknod: bool,
}

impl Access {
    /// Everything.
    pub const RWM: Self = Self {
        read: true,
        write: true,
        mknod: true,
    };

    /// Reading and writing.
    pub const RW: Self = Self {
        mknod: false,
        ..Self::RWM
    };

    /// Reads letters among `r`, `w` and `m`. `None` for any other letter.
    pub fn parse(letters: &str) -> Option<Self> {
        let mut access = Self {
            read: false,
            write: false,
            mknod: false,
        };
        for c in letters.chars() {
            match c {
                'r' => access.read = true,
                'w' => access.write = true,
                'm' => access.mknod = true,
                _ => return None,
            }
        }
        Some(access)
    }

    /// The kernel's bits: `BPF_DEVCG_ACC_MKNOD` 1, `_READ` 2, `_WRITE` 4 (linux/bpf.h).
    fn bits(self) -> u8 {
        u8::from(self.mknod) | u8::from(self.read) << 1 | u8::from(self.write) << 2
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write) && (self.mknod || !other.mknod)
    }

    /// Whether anything of `other` is in it.
    pub const fn overlaps(self, other: Self) -> bool {
        (self.read && other.read) || (self.write && other.write) || (self.mknod && other.mknod)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (on, letter) in [(self.read, "r"), (self.write, "w"), (self.mknod, "m")] {
            if on {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// A device cgroup rule (`linux.resources.devices`). A later rule overrides an earlier one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceRule {
    /// Allowed or denied.
    pub allow: bool,
    /// Which types.
    pub kind: RuleKind,
    /// Major number; any where absent.
    pub major: Option<u32>,
    /// Minor number; any where absent.
    pub minor: Option<u32>,
    /// Which kinds of access.
    pub access: Access,
}

impl DeviceRule {
    /// A rule that allows one device.
    pub const fn allow(kind: RuleKind, major: u32, minor: u32, access: Access) -> Self {
        Self {
            allow: true,
            kind,
            major: Some(major),
            minor: Some(minor),
            access,
        }
    }

    /// Whether it speaks of every access that `other` speaks of.
    pub fn covers(&self, other: &Self) -> bool {
        (self.kind == RuleKind::All || self.kind == other.kind)
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
            && self.access.contains(other.access)
    }

    /// Whether it speaks of any access that `other` speaks of.
    pub fn overlaps(&self, other: &Self) -> bool {
        fn meet(a: Option<u32>, b: Option<u32>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        (self.kind == RuleKind::All || other.kind == RuleKind::All || self.kind == other.kind)
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
            && self.access.overlaps(other.access)
    }
}

/// The form that v1's `devices.allow` takes.
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(
            f,
            "{} {}:{} {}",
            self.kind.letter(),
            number(self.major),
            number(self.minor),
            self.access
        )
    }
}

const MKNOD: Access = Access {
    read: false,
    write: false,
    mknod: true,
};

const fn default_char(major: u32, minor: Option<u32>) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: RuleKind::Char,
        major: Some(major),
        minor,
        access: Access::RWM,
    }
}

/// What every runtime allows beyond the spec's own rules (OCI runtime-spec, "Default Devices"; runc and
/// crun also allow making any node, which is of no use without being allowed to open it). Left out on
/// purpose: 10:200 (`/dev/net/tun`), which some versions allow and the specification does not.
pub(super) const RUNTIME_DEFAULTS: &[DeviceRule] = &[
    DeviceRule {
        allow: true,
        kind: RuleKind::Char,
        major: None,
        minor: None,
        access: MKNOD,
    },
    DeviceRule {
        allow: true,
        kind: RuleKind::Block,
        major: None,
        minor: None,
        access: MKNOD,
    },
    default_char(1, Some(3)),
    default_char(1, Some(5)),
    default_char(1, Some(7)),
    default_char(1, Some(8)),
    default_char(1, Some(9)),
    default_char(5, Some(0)),
    default_char(5, Some(1)),
    default_char(5, Some(2)),
    default_char(136, None),
];

/// One eBPF instruction (linux/bpf.h, `struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Insn {
    op: u8,
    /// Low half destination register, high half source register (little-endian layout).
    regs: u8,
    off: i16,
    imm: i32,
}

/// The rules' end state as the v1 controller would hold it: a default, and exceptions to it.
#[derive(Debug, Default)]
struct State {
    allow_by_default: bool,
    exceptions: BTreeMap<(RuleKind, Option<u32>, Option<u32>), u8>,
}

impl State {
    fn after(rules: &[DeviceRule]) -> Self {
        let mut s = Self::default();
        for r in rules {
            let everything = r.kind == RuleKind::All && r.major.is_none() && r.minor.is_none();
            if everything && r.access.bits() == Access::RWM.bits() {
                s = Self {
                    allow_by_default: r.allow,
                    exceptions: BTreeMap::new(),
                };
                continue;
            }
            let kinds: &[RuleKind] = if r.kind == RuleKind::All {
                &[RuleKind::Block, RuleKind::Char]
            } else {
                core::slice::from_ref(&r.kind)
            };
            for kind in kinds {
                let key = (*kind, r.major, r.minor);
                if r.allow == s.allow_by_default {
                    // Takes back an exception, if there is one.
                    if let Some(bits) = s.exceptions.get_mut(&key) {
                        *bits &= !r.access.bits();
                    }
                } else {
                    *s.exceptions.entry(key).or_default() |= r.access.bits();
                }
            }
        }
        s.exceptions.retain(|_, bits| *bits != 0);
        s
    }
}

/// The program for these rules, in the meaning of cgroup v1's device controller: rules apply in order,
/// and what no rule speaks of is denied.
pub(super) fn program(rules: &[DeviceRule]) -> Vec<Insn> {
    const fn insn(op: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
        Insn {
            op,
            regs: dst | src << 4,
            off,
            imm,
        }
    }
    // Opcodes: class | size or operation | source, as linux/bpf_common.h and linux/bpf.h define them.
    const LOAD_WORD: u8 = 0x61;
    const AND32_IMM: u8 = 0x54;
    const RSH32_IMM: u8 = 0x74;
    const MOV32_REG: u8 = 0xbc;
    const MOV64_IMM: u8 = 0xb7;
    const JNE_IMM: u8 = 0x55;
    const JNE_REG: u8 = 0x5d;
    const JEQ_IMM: u8 = 0x15;
    const EXIT: u8 = 0x95;
    // Where struct bpf_cgroup_dev_ctx has access_type (access << 16 | type), major and minor.
    const ACCESS_TYPE: i16 = 0;
    const MAJOR: i16 = 4;
    const MINOR: i16 = 8;

    let state = State::after(rules);
    // Each rule loads what it compares: if values lived on from rule to rule, the kernel's verifier would follow every way through them anew, which
    // takes it longer than all the rest of a load.
    let mut code = Vec::new();
    for ((kind, major, minor), bits) in &state.exceptions {
        let mut block = Vec::new();
        let kind = match kind {
            RuleKind::Block => Some(1),
            RuleKind::Char => Some(2),
            RuleKind::All => None,
        };
        if let Some(number) = kind {
            block.push(insn(LOAD_WORD, 2, 1, ACCESS_TYPE, 0));
            block.push(insn(AND32_IMM, 2, 0, 0, 0xffff));
            block.push(insn(JNE_IMM, 2, 0, 0, number));
        }
        if *bits != Access::RWM.bits() {
            block.push(insn(LOAD_WORD, 2, 1, ACCESS_TYPE, 0));
            block.push(insn(RSH32_IMM, 2, 0, 0, 16));
            block.push(insn(MOV32_REG, 3, 2, 0, 0));
            block.push(insn(AND32_IMM, 3, 0, 0, i32::from(*bits)));
            if state.allow_by_default {
                // Denied as soon as one of the accesses asked for is denied.
                block.push(insn(JEQ_IMM, 3, 0, 0, 0));
            } else {
                // Allowed only if every access asked for is allowed.
                block.push(insn(JNE_REG, 3, 2, 0, 0));
            }
        }
        for (field, number) in [(MAJOR, major), (MINOR, minor)] {
            if let Some(n) = number {
                block.push(insn(LOAD_WORD, 2, 1, field, 0));
                block.push(insn(JNE_IMM, 2, 0, 0, n.cast_signed()));
            }
        }
        block.push(insn(MOV64_IMM, 0, 0, 0, i32::from(!state.allow_by_default)));
        block.push(insn(EXIT, 0, 0, 0, 0));
        let len = block.len();
        for (i, b) in block.iter_mut().enumerate() {
            if matches!(b.op, JNE_IMM | JNE_REG | JEQ_IMM) {
                // To the instruction after this block; blocks have at most a dozen and a half instructions.
                b.off = i16::try_from(len - i - 1).unwrap_or(i16::MAX);
            }
        }
        code.extend(block);
    }
    code.push(insn(MOV64_IMM, 0, 0, 0, i32::from(state.allow_by_default)));
    code.push(insn(EXIT, 0, 0, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would, for the few instructions that `program` uses.
    fn run(code: &[Insn], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let ctx = [access << 16 | kind, major, minor];
        let mut r = [0_u64; 8];
        let mut pc = 0;
        loop {
            let i = code[pc];
            let (dst, src) = (usize::from(i.regs & 15), usize::from(i.regs >> 4));
            let imm64 = i64::from(i.imm).cast_unsigned();
            let mut jump = false;
            match i.op {
                0x61 => r[dst] = u64::from(ctx[usize::try_from(i.off).unwrap() / 4]),
                0x54 => r[dst] &= u64::from(i.imm.cast_unsigned()),
                0x74 => r[dst] >>= i.imm,
                0xbc => r[dst] = r[src] & 0xffff_ffff,
                0xb7 => r[dst] = imm64,
                0x55 => jump = r[dst] != imm64,
                0x5d => jump = r[dst] != r[src],
                0x15 => jump = r[dst] == imm64,
                0x95 => return r[0] != 0,
                op => panic!("opcode {op:#x}"),
            }
            pc += 1;
            if jump {
                pc += usize::try_from(i.off).unwrap();
            }
        }
    }

    const DENY_ALL: DeviceRule = DeviceRule {
        allow: false,
        kind: RuleKind::All,
        major: None,
        minor: None,
        access: Access::RWM,
    };

    #[test]
    fn ours_and_the_defaults_are_allowed_and_nothing_else() {
        let rules = [
            &[DENY_ALL],
            RUNTIME_DEFAULTS,
            &[DeviceRule::allow(RuleKind::Char, 195, 0, Access::RW)],
        ]
        .concat();
        let p = program(&rules);
        for (kind, major, minor, access, want) in [
            (2, 195, 0, 6, true),
            (2, 195, 0, 2, true),
            (2, 195, 0, 7, false), // making and using in one request was not allowed
            (2, 195, 1, 2, false),
            (1, 195, 0, 2, false),
            (2, 195, 1, 1, true), // mknod of anything
            (2, 1, 3, 7, true),
            (2, 136, 42, 6, true),
            (2, 10, 200, 2, false),
            (1, 8, 0, 2, false),
        ] {
            assert_eq!(
                run(&p, kind, major, minor, access),
                want,
                "{kind} {major}:{minor} {access}"
            );
        }
    }

    #[test]
    fn order_counts_as_in_v1() {
        let allow = DeviceRule {
            allow: true,
            ..DENY_ALL
        };
        let no_write = DeviceRule {
            allow: false,
            kind: RuleKind::Char,
            major: Some(10),
            minor: None,
            access: Access::parse("w").unwrap(),
        };
        let p = program(&[DENY_ALL, allow, no_write]);
        assert!(run(&p, 2, 10, 7, 2) && run(&p, 1, 8, 0, 6));
        assert!(!run(&p, 2, 10, 7, 4) && !run(&p, 2, 10, 7, 6));
        // A later rule takes an earlier exception back.
        let again = DeviceRule {
            allow: true,
            ..no_write
        };
        assert!(run(&program(&[DENY_ALL, allow, no_write, again]), 2, 10, 7, 4));
        // Minor numbers above i32::MAX compare as the 32-bit number they are.
        assert!(!run(&program(&[]), 2, 1, 3, 2));
    }

    #[test]
    fn v1_text() {
        assert_eq!(
            DeviceRule::allow(RuleKind::Char, 195, 255, Access::RW).to_string(),
            "c 195:255 rw"
        );
        assert_eq!(DENY_ALL.to_string(), "a *:* rwm");
    }
}
