//! The program of a v2 cgroup, with an interpreter, so that its decisions can be tested without a
//! kernel or rights.

use super::rules::{self, Access, DeviceRule, Insn, RuleKind};

/// The program that [`super::OwnCgroup::allow`] attaches to a v2 cgroup.
///
/// ```
/// use device_cgroup::{Access, DeviceRule, Program, RuleKind};
///
/// let deny_all = DeviceRule {
///     allow: false,
///     kind: RuleKind::All,
///     major: None,
///     minor: None,
///     access: Access::RWM,
/// };
/// let gpu = DeviceRule::allow(RuleKind::Char, 195, 0, Access::RW);
/// let program = Program::new(&[deny_all], &[gpu]);
/// assert_eq!(program.allows(RuleKind::Char, 195, 0, Access::RW), Some(true));
/// assert_eq!(program.allows(RuleKind::Char, 195, 1, Access::RW), Some(false));
/// // `/dev/null` is one of the default devices of the OCI runtime specification.
/// assert_eq!(program.allows(RuleKind::Char, 1, 3, Access::RWM), Some(true));
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program(Vec<Insn>);

impl Program {
    /// The program that allows `ours`, and those of the container's rules `spec` and of the
    /// runtimes' default devices that every runtime allows. It allows no other device.
    pub fn new(spec: &[DeviceRule], ours: &[DeviceRule]) -> Self {
        Self(rules::program(spec, ours))
    }

    /// Whether it lets a process open (or make) a device; for [`RuleKind::All`], both a character
    /// and a block device of that number. `None` if the kernel would refuse the program.
    pub fn allows(&self, kind: RuleKind, major: u32, minor: u32, access: Access) -> Option<bool> {
        // BPF_DEVCG_DEV_BLOCK and BPF_DEVCG_DEV_CHAR of linux/bpf.h.
        let kinds: &[u32] = match kind {
            RuleKind::All => &[1, 2],
            RuleKind::Block => &[1],
            RuleKind::Char => &[2],
        };
        let access = u32::from(access.bits()) << 16;
        kinds.iter().try_fold(true, |all, kind| {
            Some(all & run(&self.0, [access | kind, major, minor])?)
        })
    }

    /// The number of its instructions; the kernel accepts at most 4096 from an unprivileged
    /// process.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no instruction, which never happens.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Runs a program as the kernel would, for the instructions of [`rules::program`], on a `struct
/// bpf_cgroup_dev_ctx`. `None` for another instruction, or a jump out of the program.
pub(super) fn run(code: &[Insn], context: [u32; 3]) -> Option<bool> {
    let mut r = [0_u64; 11];
    let mut pc = 0_usize;
    // Jumps only lead forward, so the loop ends.
    loop {
        let i = code.get(pc)?;
        let (dst, src) = (usize::from(i.regs & 15), usize::from(i.regs >> 4));
        let other = *r.get(src)?;
        let own = r.get_mut(dst)?;
        let imm64 = i64::from(i.imm).cast_unsigned();
        let jump = match i.op {
            0x61 => {
                *own = u64::from(*context.get(usize::try_from(i.off).ok()? / 4)?);
                false
            }
            0x54 => {
                *own &= u64::from(i.imm.cast_unsigned());
                false
            }
            0x74 => {
                *own = own.checked_shr(i.imm.cast_unsigned())?;
                false
            }
            0xbc => {
                *own = other & 0xffff_ffff;
                false
            }
            0xb7 => {
                *own = imm64;
                false
            }
            0x55 => *own != imm64,
            0x5d => *own != other,
            0x15 => *own == imm64,
            0x95 => return Some(r[0] != 0),
            _ => return None,
        };
        pc += 1;
        if jump {
            pc += usize::try_from(i.off).ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_program_decides_nothing() {
        let insn = |op, off| Insn {
            op,
            regs: 0,
            off,
            imm: 0,
        };
        for code in [
            &[][..],
            &[insn(0xff, 0)],
            &[insn(0xb7, 0)],
            &[insn(0x15, 7), insn(0x95, 0)],
            &[insn(0x15, -1), insn(0x95, 0)],
            &[insn(0x61, 12), insn(0x95, 0)],
        ] {
            assert_eq!(run(code, [0; 3]), None, "{code:?}");
        }
        assert_eq!(run(&[insn(0x95, 0)], [0; 3]), Some(false));
    }
}
