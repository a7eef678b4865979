//! UUIDs of GPUs and MIG devices.

use core::fmt;
use core::str::FromStr;

use super::{Malformed, decimal, strip_prefix_ignore_case};

/// Characters of a UUID: 32 digits and four dashes.
const LEN: u8 = 36;

/// A UUID without its prefix.
///
/// The form is that of RFC 9562: 8-4-4-4-12 hexadecimal digits. NVIDIA prints lower case.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Uuid(u128);

impl Uuid {
    /// From its 128 bits, the first digit highest.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            bits >> 96,
            bits >> 80 & 0xffff,
            bits >> 64 & 0xffff,
            bits >> 48 & 0xffff,
            bits & 0xffff_ffff_ffff
        )
    }
}

impl FromStr for Uuid {
    type Err = Malformed;

    /// Parses all 36 characters, in any case.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let start: UuidStart = text.parse()?;
        (start.len == LEN).then_some(start.uuid).ok_or(Malformed)
    }
}

/// The beginning of a UUID, which identifies a device if no other UUID begins with it.
///
/// CUDA and nvidia-container-cli accept it in place of a whole one (CUDA Programming Guide,
/// `CUDA_VISIBLE_DEVICES`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct UuidStart {
    /// The given digits, then zeros.
    uuid: Uuid,
    /// Given characters, dashes included; from 1 to [`LEN`].
    len: u8,
}

impl UuidStart {
    /// Whether `uuid` begins with it.
    pub fn is_of(self, uuid: Uuid) -> bool {
        let dashes = match self.len {
            0..=8 => 0,
            9..=13 => 1,
            14..=18 => 2,
            19..=23 => 3,
            _ => 4,
        };
        let unknown = (u128::BITS / 4).saturating_sub(u32::from(self.len - dashes)) * 4;
        // Without a digit all 128 bits are unknown; no parser accepts that.
        matches!((uuid.0 ^ self.uuid.0).checked_shr(unknown), Some(0))
    }
}

impl From<Uuid> for UuidStart {
    fn from(uuid: Uuid) -> Self {
        Self { uuid, len: LEN }
    }
}

impl fmt::Display for UuidStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.uuid.to_string();
        f.write_str(whole.get(..usize::from(self.len)).unwrap_or(&whole))
    }
}

impl FromStr for UuidStart {
    type Err = Malformed;

    /// Parses 1 to 36 characters: hexadecimal digits in any case, with dashes at a UUID's
    /// positions.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let len = u8::try_from(text.len()).map_err(|_| Malformed)?;
        if !(1..=LEN).contains(&len) {
            return Err(Malformed);
        }
        let (mut bits, mut digits) = (0_u128, 0);
        for (at, byte) in text.bytes().enumerate() {
            match (at, char::from(byte).to_digit(16)) {
                (8 | 13 | 18 | 23, None) if byte == b'-' => {}
                (8 | 13 | 18 | 23, _) | (_, None) => return Err(Malformed),
                (_, Some(digit)) => {
                    bits = bits << 4 | u128::from(digit);
                    digits += 1;
                }
            }
        }
        Ok(Self {
            uuid: Uuid(bits << (u128::BITS - 4 * digits)),
            len,
        })
    }
}

/// The UUID of a GPU: `GPU-` and a UUID (`nvmlDeviceGetUUID` in nvml.h, "GPU UUID" of
/// `/proc/driver/nvidia/gpus/*/information`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GpuUuid(pub Uuid);

impl GpuUuid {
    /// `GPU-` and the first eight digits, with which a person can distinguish GPUs.
    pub fn short(self) -> String {
        format!("GPU-{:08x}", self.0.0 >> 96)
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU-{}", self.0)
    }
}

impl FromStr for GpuUuid {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let uuid = strip_prefix_ignore_case(text, "GPU-").ok_or(Malformed)?;
        uuid.parse().map(Self)
    }
}

/// NVML's name of a MIG device (Multi-Instance GPU User Guide, "CUDA Device Enumeration").
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MigUuid {
    /// `MIG-GPU-<uuid>/<GPU instance>/<compute instance>`: drivers before 470.
    Instance {
        /// The GPU.
        gpu: GpuUuid,
        /// The GPU instance id.
        gi: u32,
        /// The compute instance id.
        ci: u32,
    },
    /// `MIG-<uuid>`: a UUID of its own.
    Own(Uuid),
}

impl fmt::Display for MigUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance { gpu, gi, ci } => write!(f, "MIG-{gpu}/{gi}/{ci}"),
            Self::Own(uuid) => write!(f, "MIG-{uuid}"),
        }
    }
}

impl FromStr for MigUuid {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let rest = strip_prefix_ignore_case(text, "MIG-").ok_or(Malformed)?;
        let mut parts = rest.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(own), None, ..) => own.parse().map(Self::Own),
            (Some(gpu), Some(gi), Some(ci), None) => Ok(Self::Instance {
                gpu: gpu.parse()?,
                gi: decimal(gi).ok_or(Malformed)?,
                ci: decimal(ci).ok_or(Malformed)?,
            }),
            _ => Err(Malformed),
        }
    }
}

/// A MIG device: a compute instance of a GPU instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MigDevice {
    /// The position on its GPU, in the order of GPU and compute instance ids.
    pub index: u32,
    /// The GPU instance id.
    pub gi: u32,
    /// The compute instance id.
    pub ci: u32,
    /// The minor number of the GPU instance's capability node.
    pub gi_minor: u32,
    /// The minor number of the compute instance's capability node.
    pub ci_minor: u32,
    /// NVML's name, if NVML was queried; the kernel module does not have it.
    pub uuid: Option<MigUuid>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "1c2d3e4f-0123-4567-89ab-cdef01234567";
    const BITS: u128 = 0x1c2d_3e4f_0123_4567_89ab_cdef_0123_4567;

    #[test]
    fn each_form_is_read_and_printed() {
        let (uuid, gpu) = (Uuid(BITS), GpuUuid(Uuid(BITS)));
        assert_eq!(uuid.to_string(), TEXT);
        assert_eq!(gpu.to_string(), format!("GPU-{TEXT}"));
        assert_eq!(gpu.short(), "GPU-1c2d3e4f");
        for text in [TEXT.to_owned(), TEXT.to_uppercase()] {
            assert_eq!(text.parse(), Ok(uuid));
            assert_eq!(format!("GPU-{text}").parse(), Ok(gpu));
            assert_eq!(format!("gpu-{text}").parse(), Ok(gpu));
            assert_eq!(format!("MIG-{text}").parse(), Ok(MigUuid::Own(uuid)));
            let old = MigUuid::Instance { gpu, gi: 7, ci: 0 };
            assert_eq!(format!("MIG-GPU-{text}/7/0").parse(), Ok(old));
            assert_eq!(old.to_string(), format!("MIG-GPU-{TEXT}/7/0"));
        }
        for bits in [0, 1, u128::MAX, 1 << 127] {
            assert_eq!(Uuid(bits).to_string().parse(), Ok(Uuid(bits)));
        }
    }

    #[test]
    fn nothing_else_is_a_uuid() {
        let digits = "1c2d3e4f012345678 9abcdef01234567".replace(' ', "");
        let no_dash = TEXT.replacen('-', "0", 1);
        let moved = "1c2d3e4-f0123-4567-89ab-cdef01234567";
        let (longer, shorter) = (format!("{TEXT}8"), &TEXT[..35]);
        let huge = "a".repeat(1 << 16);
        let unknown = "????????-????-????-????-????????????";
        let strange = [
            "+c2d3e4f-0123-4567-89ab-cdef01234567",
            "-c2d3e4f-0123-4567-89ab-cdef01234567",
            " c2d3e4f-0123-4567-89ab-cdef01234567",
            "1c2d3e4f-0123-4567-89ab-cdef0123456\n",
            "1c2d3e4f-0123-4567-89ab-cdef0123456\u{661}",
            "\u{ff11}c2d3e4-0123-4567-89ab-cdef01234567",
            "1c2d3e4f_0123_4567_89ab_cdef01234567",
            "gc2d3e4f-0123-4567-89ab-cdef01234567",
            "{1c2d3e4f-0123-4567-89ab-cdef0123456}",
        ];
        let bad = [
            &*digits, &no_dash, moved, &longer, shorter, &huge, unknown, "", "-", "GPU-", TEXT,
        ];
        for text in bad.into_iter().chain(strange) {
            assert!(text == TEXT || text.parse::<Uuid>().is_err(), "{text:.50?}");
            assert_eq!(text.parse::<GpuUuid>(), Err(Malformed), "{text:.50?}");
            assert_eq!(text.parse::<MigUuid>(), Err(Malformed), "{text:.50?}");
            if text != TEXT {
                assert_eq!(
                    format!("GPU-{text}").parse::<GpuUuid>(),
                    Err(Malformed),
                    "{text:.50?}"
                );
                assert_eq!(
                    format!("MIG-{text}").parse::<MigUuid>(),
                    Err(Malformed),
                    "{text:.50?}"
                );
            }
        }
        for text in [
            "/1",
            "/1/",
            "//1",
            "/1/0/0",
            "/+1/0",
            "/1/ 0",
            "/1/4294967296",
            "/1/\u{660}",
            "/-1/0",
        ] {
            assert_eq!(
                format!("MIG-GPU-{TEXT}{text}").parse::<MigUuid>(),
                Err(Malformed),
                "{text}"
            );
        }
        for text in [
            format!("MIG-{TEXT}/1/0"),
            format!("MIG-GPU-{TEXT}"),
            format!("MIG-MIG-{TEXT}"),
        ] {
            assert_eq!(text.parse::<MigUuid>(), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn every_beginning_is_of_its_uuid_and_of_no_other() {
        let whole = Uuid(BITS);
        for len in 1..=TEXT.len() {
            let start: UuidStart = TEXT[..len].to_uppercase().parse().unwrap();
            assert_eq!(start.to_string(), &TEXT[..len]);
            assert_eq!(start.to_string().parse(), Ok(start));
            assert!(start.is_of(whole), "{start}");
            // UUIDs that differ in one bit of the text's digits.
            for bit in 0..128 {
                let other = Uuid(BITS ^ 1 << bit);
                assert_eq!(
                    start.is_of(other),
                    other.to_string().starts_with(&TEXT[..len]),
                    "{start} {bit}"
                );
            }
        }
        for text in [
            "",
            "-",
            "1c2d3e4f0",
            "1c2d-",
            "x",
            "+1",
            " 1",
            "1 ",
            "\u{661}",
            &format!("{TEXT}0"),
        ] {
            assert_eq!(text.parse::<UuidStart>(), Err(Malformed), "{text:?}");
        }
    }
}
