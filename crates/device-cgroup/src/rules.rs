//! Device rules, such as `c 195:0 rw`, and the eBPF program that enforces them.

use core::fmt;
use std::collections::{BTreeMap, HashSet};

/// The device types of a rule.
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

/// The access of a device rule: reading, writing, making the node.
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
    /// All access.
    pub const RWM: Self = Self {
        read: true,
        write: true,
        mknod: true,
    };

    /// No access.
    pub const NONE: Self = Self {
        read: false,
        write: false,
        mknod: false,
    };

    /// Reading and writing.
    pub const RW: Self = Self {
        mknod: false,
        ..Self::RWM
    };

    /// Parses letters among `r`, `w` and `m`; `None` for any other letter.
    pub fn parse(letters: &str) -> Option<Self> {
        let mut access = Self::NONE;
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
    pub(super) fn bits(self) -> u8 {
        u8::from(self.mknod) | u8::from(self.read) << 1 | u8::from(self.write) << 2
    }

    fn from_bits(bits: u8) -> Self {
        Self {
            mknod: bits & 1 != 0,
            read: bits & 2 != 0,
            write: bits & 4 != 0,
        }
    }

    /// Whether it includes all of `other`.
    pub const fn contains(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write) && (self.mknod || !other.mknod)
    }

    /// Whether it includes any of `other`.
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
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DeviceRule {
    /// Allowed or denied.
    pub allow: bool,
    /// The device types.
    pub kind: RuleKind,
    /// Major number; `None` for any.
    pub major: Option<u32>,
    /// Minor number; `None` for any.
    pub minor: Option<u32>,
    /// The kinds of access.
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

    /// Whether it matches every access that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        (self.kind == RuleKind::All || self.kind == other.kind)
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
            && self.access.contains(other.access)
    }

    /// Whether it matches any access that `other` matches.
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

/// The form of v1's `devices.allow`.
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

/// Devices that every runtime allows besides the spec's own rules (OCI runtime-spec, "Default
/// Devices"). runc and crun also allow making any node, which is useless without the right to open
/// it. 10:200 (`/dev/net/tun`) is left out, since only some versions allow it and the specification
/// does not.
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
    pub(super) op: u8,
    /// Low half destination register, high half source register (little-endian layout).
    pub(super) regs: u8,
    pub(super) off: i16,
    pub(super) imm: i32,
}

/// The devices that a list of rules allows under every runtime.
///
/// The runtimes read one list differently, and a hook cannot find out which of them made the
/// container:
///
/// | | runc (libcontainer's device emulator) | crun (`bpf_program_append_dev`) |
/// |---|---|---|
/// | a rule of type `a` | all devices, whatever its numbers and access; forgets all rules before | the devices that it names |
/// | several rules match | after an `a` denial: any allowance; after an `a` allowance: any denial | the last one |
/// | a rule is revoked | by one of the same type and numbers only; refuses to start if a wildcard covers it | by any later match |
///
/// This is the intersection of both. A denial also applies to a request for more than it denies
/// (`w` to `rw`), which either runtime's program lets through.
#[derive(Debug, Default)]
struct Decision {
    /// The first to decide: runc's denials after an `a` allowance.
    denials: BTreeMap<(RuleKind, Option<u32>, Option<u32>), u8>,
    /// Whether runc allows devices that no rule names.
    allow_unnamed: bool,
    /// The rules since the last one for every device. The last match decides.
    rules: Vec<DeviceRule>,
    /// The decision if nothing matches.
    allow_by_default: bool,
}

impl Decision {
    fn of(rules: &[DeviceRule]) -> Self {
        let mut decision = Self::default();
        for rule in rules {
            decision.apply(rule);
        }
        decision
    }

    fn apply(&mut self, rule: &DeviceRule) {
        let bits = rule.access.bits();
        if rule.kind == RuleKind::All {
            let everything = rule.major.is_none() && rule.minor.is_none() && bits == Access::RWM.bits();
            self.denials.clear();
            self.allow_unnamed = rule.allow;
            if everything || !rule.allow {
                self.rules.clear();
                self.allow_by_default = rule.allow;
            } else {
                self.rules.push(*rule);
            }
            return;
        }
        if self.allow_unnamed {
            let denied = self
                .denials
                .entry((rule.kind, rule.major, rule.minor))
                .or_default();
            *denied = if rule.allow {
                *denied & !bits
            } else {
                *denied | bits
            };
        }
        self.rules.push(*rule);
    }

    /// The rules in the order in which a program tries them: the first match decides.
    fn first_match(&self) -> Vec<DeviceRule> {
        let denials = self
            .denials
            .iter()
            .map(|((kind, major, minor), bits)| DeviceRule {
                allow: false,
                kind: *kind,
                major: *major,
                minor: *minor,
                access: Access::from_bits(*bits),
            });
        let mut seen = HashSet::new();
        denials
            .chain(self.rules.iter().rev().copied())
            .filter(|rule| rule.access.bits() != 0 && seen.insert(*rule))
            .collect()
    }
}

/// The program that allows `ours`, and those of the container's rules `spec` and of the runtimes'
/// defaults that every runtime allows. It denies devices that no rule names.
pub(super) fn program(spec: &[DeviceRule], ours: &[DeviceRule]) -> Vec<Insn> {
    const fn insn(op: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
        Insn {
            op,
            regs: dst | src << 4,
            off,
            imm,
        }
    }
    // Opcodes: class | size or operation | source, as linux/bpf_common.h and linux/bpf.h define
    // them.
    const LOAD_WORD: u8 = 0x61;
    const AND32_IMM: u8 = 0x54;
    const RSH32_IMM: u8 = 0x74;
    const MOV32_REG: u8 = 0xbc;
    const MOV64_IMM: u8 = 0xb7;
    const JNE_IMM: u8 = 0x55;
    const JNE_REG: u8 = 0x5d;
    const JEQ_IMM: u8 = 0x15;
    const EXIT: u8 = 0x95;
    // Offsets in struct bpf_cgroup_dev_ctx: access_type (access << 16 | type), major and minor.
    const ACCESS_TYPE: i16 = 0;
    const MAJOR: i16 = 4;
    const MINOR: i16 = 8;

    let theirs = Decision::of(&[spec, RUNTIME_DEFAULTS].concat());
    // Each rule loads the values that it compares. If values stayed in registers between rules, the
    // kernel's verifier would check every path through them, which takes longer than the rest of a
    // load.
    let mut code = Vec::new();
    for rule in ours.iter().copied().chain(theirs.first_match()) {
        let mut block = Vec::new();
        let kind = match rule.kind {
            RuleKind::Block => Some(1),
            RuleKind::Char => Some(2),
            RuleKind::All => None,
        };
        if let Some(number) = kind {
            block.push(insn(LOAD_WORD, 2, 1, ACCESS_TYPE, 0));
            block.push(insn(AND32_IMM, 2, 0, 0, 0xffff));
            block.push(insn(JNE_IMM, 2, 0, 0, number));
        }
        let bits = rule.access.bits();
        if bits != Access::RWM.bits() {
            block.push(insn(LOAD_WORD, 2, 1, ACCESS_TYPE, 0));
            block.push(insn(RSH32_IMM, 2, 0, 0, 16));
            block.push(insn(MOV32_REG, 3, 2, 0, 0));
            block.push(insn(AND32_IMM, 3, 0, 0, i32::from(bits)));
            if rule.allow {
                // Allowed only if every requested access is allowed.
                block.push(insn(JNE_REG, 3, 2, 0, 0));
            } else {
                // Denied as soon as one requested access is denied.
                block.push(insn(JEQ_IMM, 3, 0, 0, 0));
            }
        }
        for (field, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(n) = number {
                block.push(insn(LOAD_WORD, 2, 1, field, 0));
                block.push(insn(JNE_IMM, 2, 0, 0, n.cast_signed()));
            }
        }
        block.push(insn(MOV64_IMM, 0, 0, 0, i32::from(rule.allow)));
        block.push(insn(EXIT, 0, 0, 0, 0));
        let len = block.len();
        for (i, b) in block.iter_mut().enumerate() {
            if matches!(b.op, JNE_IMM | JNE_REG | JEQ_IMM) {
                // Jumps to the instruction after this block, which has at most 18 instructions.
                b.off = i16::try_from(len - i - 1).unwrap_or(i16::MAX);
            }
        }
        code.extend(block);
    }
    code.push(insn(MOV64_IMM, 0, 0, 0, i32::from(theirs.allow_by_default)));
    code.push(insn(EXIT, 0, 0, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(code: &[Insn], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        crate::program::run(code, [access << 16 | kind, major, minor]).unwrap()
    }

    const DENY_ALL: DeviceRule = DeviceRule {
        allow: false,
        kind: RuleKind::All,
        major: None,
        minor: None,
        access: Access::RWM,
    };
    const ALLOW_ALL: DeviceRule = DeviceRule {
        allow: true,
        ..DENY_ALL
    };
    const GPU: DeviceRule = DeviceRule::allow(RuleKind::Char, 195, 0, Access::RW);

    /// A character device rule by its v1 text, `+` or `-` first.
    fn rule(text: &str) -> DeviceRule {
        let (sign, text) = text.split_at(1);
        let mut words = text.split([' ', ':']);
        let kind = match words.next().unwrap() {
            "a" => RuleKind::All,
            "b" => RuleKind::Block,
            _ => RuleKind::Char,
        };
        let mut number = || words.next().unwrap().parse().ok();
        DeviceRule {
            allow: sign == "+",
            kind,
            major: number(),
            minor: number(),
            access: Access::parse(words.next().unwrap()).unwrap(),
        }
    }

    fn rules(texts: &[&str]) -> Vec<DeviceRule> {
        texts.iter().map(|text| rule(text)).collect()
    }

    #[test]
    fn ours_and_the_defaults_are_allowed_and_nothing_else() {
        let p = program(&[DENY_ALL], &[GPU]);
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
    fn a_later_rule_overrides_an_earlier_one() {
        let no_write = ["+a *:* rwm", "-c 10:* w"];
        let p = program(&rules(&no_write), &[]);
        assert!(run(&p, 2, 10, 7, 2) && run(&p, 1, 8, 0, 6));
        assert!(!run(&p, 2, 10, 7, 4) && !run(&p, 2, 10, 7, 6));
        // A later rule revokes an earlier exception.
        let again = [&no_write[..], &["+c 10:* w"]].concat();
        assert!(run(&program(&rules(&again), &[]), 2, 10, 7, 4));
        assert!(run(&program(&[], &[]), 2, 1, 3, 2));
        // Our grants come after all of these.
        let p = program(&rules(&["+a *:* rwm", "-c 195:* rwm"]), &[GPU]);
        assert!(run(&p, 2, 195, 0, 6) && !run(&p, 2, 195, 1, 2));
    }

    /// Where the runtimes read a list differently, the stricter reading counts.
    #[test]
    fn a_hole_in_a_wildcard_stays_a_hole() {
        for (list, device, access) in [
            // crun's: the last match.
            (
                &["-a *:* rwm", "+c 195:* rwm", "-c 195:1 rwm"][..],
                (2, 195, 1),
                6,
            ),
            (&["-a *:* rwm", "+c *:* rwm", "-c 195:* rwm"], (2, 195, 1), 2),
            (&["-a *:* rwm", "+c 195:1 rwm", "-c 195:* rwm"], (2, 195, 1), 2),
            (&["-a *:* rwm", "+c 195:* rw", "-c 195:1 w"], (2, 195, 1), 6),
            (&["-a *:* rwm", "+a 195:* rwm", "-c 195:1 rwm"], (2, 195, 1), 6),
            // runc's: a denial stays under a wider allowance, and `a` is everything.
            (&["+a *:* rwm", "-c 195:1 rwm", "+c 195:* rwm"], (2, 195, 1), 6),
            (&["-a *:* rwm", "+c 10:* rwm", "-a 195:* rwm"], (2, 10, 7), 2),
        ] {
            let p = program(&rules(list), &[GPU]);
            assert!(!run(&p, device.0, device.1, device.2, access), "{list:?}");
        }
    }

    /// The decision of crun's program: the defaults, then the rules from the last to the first
    /// (libcrun's `create_dev_bpf` and `bpf_program_append_dev`).
    fn crun(list: &[DeviceRule], kind: RuleKind, major: u32, minor: u32, bits: u8) -> bool {
        let matches = |r: &&DeviceRule| {
            (r.kind == RuleKind::All || r.kind == kind)
                && r.major.is_none_or(|m| m == major)
                && r.minor.is_none_or(|m| m == minor)
                && bits & r.access.bits() == bits
        };
        let mut in_order = RUNTIME_DEFAULTS.iter().chain(list.iter().rev());
        in_order.find(matches).is_some_and(|r| r.allow)
    }

    /// The decision of runc's program (libcontainer's `devices.Emulator` and `deviceFilter`);
    /// `None` if runc refuses to start.
    fn runc(list: &[DeviceRule], kind: RuleKind, major: u32, minor: u32, bits: u8) -> Option<bool> {
        let mut default = false;
        let mut exceptions = BTreeMap::<_, u8>::new();
        for r in list.iter().chain(RUNTIME_DEFAULTS) {
            if r.kind == RuleKind::All {
                default = r.allow;
                exceptions.clear();
                continue;
            }
            let key = (r.kind, r.major, r.minor);
            if r.allow != default {
                *exceptions.entry(key).or_default() |= r.access.bits();
                continue;
            }
            for wider in [
                (r.kind, None, r.minor),
                (r.kind, r.major, None),
                (r.kind, None, None),
            ] {
                if wider != key && exceptions.get(&wider).is_some_and(|b| b & r.access.bits() != 0) {
                    return None;
                }
            }
            *exceptions.entry(key).or_default() &= !r.access.bits();
        }
        let excepted = exceptions.iter().any(|((k, ma, mi), b)| {
            *k == kind
                && *b != 0
                && ma.is_none_or(|m| m == major)
                && mi.is_none_or(|m| m == minor)
                && bits & b == bits
        });
        Some(default != excepted)
    }

    /// Every request of a small world in which rules overlap.
    fn requests() -> impl Iterator<Item = (RuleKind, u32, u32, u8)> {
        let kinds = [RuleKind::Block, RuleKind::Char].into_iter();
        kinds.flat_map(|kind| {
            [1, 10, 195].into_iter().flat_map(move |major| {
                [0, 1, 3]
                    .into_iter()
                    .flat_map(move |minor| (1..8).map(move |bits| (kind, major, minor, bits)))
            })
        })
    }

    fn any_rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop_oneof![
            1 => Just(RuleKind::All),
            2 => Just(RuleKind::Block),
            6 => Just(RuleKind::Char),
        ];
        let major = prop_oneof![Just(None), Just(Some(1)), Just(Some(10)), Just(Some(195))];
        let minor = prop_oneof![Just(None), Just(Some(0)), Just(Some(1)), Just(Some(3))];
        let access = prop_oneof![3 => Just(7_u8), 2 => 0..8_u8].prop_map(Access::from_bits);
        (any::<bool>(), kind, major, minor, access).prop_map(|(allow, kind, major, minor, access)| {
            DeviceRule {
                allow,
                kind,
                major,
                minor,
                access,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// For any rules, the program allows only our grants and devices that both runtimes allow.
        #[test]
        fn never_wider_than_a_runtimes_own_program(list in prop::collection::vec(any_rule(), 0..9)) {
            let p = program(&list, &[GPU]);
            for (kind, major, minor, bits) in requests() {
                let number = if kind == RuleKind::Block { 1 } else { 2 };
                let granted = (kind, major, minor) == (RuleKind::Char, 195, 0) && bits & 6 == bits;
                let theirs = crun(&list, kind, major, minor, bits)
                    && runc(&list, kind, major, minor, bits).unwrap_or(true);
                let got = run(&p, number, major, minor, bits.into());
                prop_assert!(!got || granted || theirs, "{kind:?} {major}:{minor} {bits} of {list:?}");
                prop_assert!(got || !granted);
            }
        }

        /// Engines' lists deny everything and allow some devices, or allow everything. For these
        /// the program decides as crun's.
        #[test]
        fn an_engines_list_is_kept_exactly(mut list in prop::collection::vec(any_rule(), 0..9), all: bool) {
            for r in &mut list {
                r.allow = true;
            }
            list.insert(0, if all { ALLOW_ALL } else { DENY_ALL });
            let p = program(&list, &[]);
            for (kind, major, minor, bits) in requests() {
                let number = if kind == RuleKind::Block { 1 } else { 2 };
                prop_assert_eq!(
                    run(&p, number, major, minor, bits.into()),
                    crun(&list, kind, major, minor, bits)
                );
            }
        }
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
