//! Fat binaries: which GPUs a library's device code supports, read from its headers alone.
//!
//! A section holds one container for each compiled source file; a container holds the same code for
//! several architectures. The loader picks one entry of each container. So a GPU is supported only
//! if every container has an entry for it, and the union over the file decides nothing.
//!
//! Payloads may be compressed, headers never are. Facts: struct names in RWTH-ACS/cricket
//! `cpu/cpu-elf2.c`; offsets checked against `cuobjdump` 13.4 on files of CUDA 11.8 to 13.2.

use std::collections::{BTreeMap, BTreeSet};

use crate::ldso::elf::ReadAt;
use crate::ldso::section::{sections, u16_at, u32_at, u64_at};
use crate::sys::budget::Budget;

/// Sections of linked device code, and of relocatable device code.
const SECTIONS: [&[u8]; 2] = [b".nv_fatbin", b"__nv_relfatbin"];
/// A container's first eight bytes: magic, version 1, header of 16 bytes.
const MAGIC: u64 = 0x0010_0001_ba55_ed50;
/// The size of a container's header, in bytes.
pub(super) const CONTAINER_HEADER: usize = 16;
/// The bytes of an entry's header that are read; the header may be longer.
pub(super) const ENTRY_HEADER: usize = 0x20;
const PTX: u16 = 1;
const CUBIN: u16 = 2;

/// The most headers of one file that are read; `libtorch_cuda.so` has about ten thousand.
pub(super) const MAX_HEADERS: usize = 1 << 18;
/// The most different sets of architectures that are counted in one file.
const MAX_SETS: usize = 256;
/// The most entries of one kind in a container; compilers make one for each of a dozen
/// architectures.
const MAX_CODES: usize = 64;
/// Bytes of one read: small containers' headers are close together.
const WINDOW: usize = 4096;

/// The architectures of one container.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Codes {
    /// Architectures with machine code: 86 for sm_86. The suffixes a and f are not in the header.
    pub cubins: BTreeSet<u32>,
    /// Architectures with PTX, each with the PTX version (major, minor).
    pub ptx: BTreeSet<(u32, (u16, u16))>,
}

/// The device code of one file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Fatbins {
    /// The number of containers with each set of architectures.
    pub sets: BTreeMap<Codes, usize>,
    /// Some parts were malformed or beyond a bound, so the sets are incomplete.
    pub partial: bool,
}

impl Fatbins {
    /// Reads the device code of an open file; empty if it has none.
    pub fn read<R: ReadAt + ?Sized>(file: &R, budget: &Budget) -> Self {
        let mut found = Self::default();
        let mut reader = Reader {
            file,
            budget,
            left: MAX_HEADERS,
            at: 0,
            window: Vec::new(),
        };
        for section in sections(file).unwrap_or_default() {
            if SECTIONS.contains(&section.name.as_slice()) {
                let end = section.offset.saturating_add(section.size);
                found.section(&mut reader, section.offset, end);
            }
        }
        found
    }

    /// Adds another file's containers.
    pub fn join(&mut self, other: Self) {
        for (codes, n) in other.sets {
            *self.sets.entry(codes).or_insert(0) += n;
        }
        self.partial |= other.partial;
    }

    /// The number of containers that are not empty.
    pub fn total(&self) -> usize {
        self.sets.values().sum()
    }

    /// The number of containers for which `runs` is true.
    pub fn count(&self, runs: impl Fn(&Codes) -> bool) -> usize {
        let good = self.sets.iter().filter(|(codes, _)| runs(codes));
        good.map(|(_, n)| n).sum()
    }

    /// The number of containers with machine code for each architecture, in order.
    pub fn architectures(&self) -> BTreeMap<u32, usize> {
        let mut all = BTreeMap::new();
        for (codes, n) in &self.sets {
            for arch in &codes.cubins {
                *all.entry(*arch).or_insert(0) += n;
            }
        }
        all
    }

    fn section<R: ReadAt + ?Sized>(&mut self, reader: &mut Reader<'_, R>, mut at: u64, end: u64) {
        while at.saturating_add(CONTAINER_HEADER as u64) <= end {
            let Some(head) = reader.header::<CONTAINER_HEADER>(at) else {
                self.partial = true;
                return;
            };
            let Some(size) = container(&head) else {
                if head[..8] == [0; 8] {
                    // Skips padding between containers.
                    at += 8;
                    continue;
                }
                self.partial = true;
                return;
            };
            let first = at + CONTAINER_HEADER as u64;
            let Some(next) = first.checked_add(size).filter(|next| *next <= end) else {
                self.partial = true;
                return;
            };
            let codes = self.entries(reader, first, next);
            if !(codes.cubins.is_empty() && codes.ptx.is_empty()) {
                self.count_in(codes, reader.budget);
            }
            at = next;
        }
    }

    /// Counts one container.
    fn count_in(&mut self, codes: Codes, budget: &Budget) {
        const EACH: usize = 64;
        if let Some(n) = self.sets.get_mut(&codes) {
            *n += 1;
            return;
        }
        let size = (codes.cubins.len() + codes.ptx.len() + 2) * EACH;
        if self.sets.len() < MAX_SETS && budget.keep(size as u64).is_ok() {
            self.sets.insert(codes, 1);
        } else {
            self.partial = true;
        }
    }

    fn entries<R: ReadAt + ?Sized>(&mut self, reader: &mut Reader<'_, R>, mut at: u64, end: u64) -> Codes {
        let mut codes = Codes::default();
        while at.saturating_add(ENTRY_HEADER as u64) <= end {
            let head = reader.header::<ENTRY_HEADER>(at);
            let Some(entry) = head.and_then(|head| Entry::parse(&head)) else {
                self.partial = true;
                break;
            };
            match entry.kind {
                PTX if codes.ptx.len() < MAX_CODES => {
                    codes.ptx.insert((entry.arch, entry.version));
                }
                CUBIN if codes.cubins.len() < MAX_CODES => {
                    codes.cubins.insert(entry.arch);
                }
                PTX | CUBIN => self.partial = true,
                _ => {}
            }
            match at.checked_add(entry.size) {
                Some(next) if next <= end => at = next,
                _ => {
                    self.partial = true;
                    break;
                }
            }
        }
        codes
    }
}

/// Reads headers one after the other.
struct Reader<'a, R: ?Sized> {
    file: &'a R,
    budget: &'a Budget,
    /// The number of headers that may still be read.
    left: usize,
    /// The bytes from `at` on.
    window: Vec<u8>,
    at: u64,
}

impl<R: ReadAt + ?Sized> Reader<'_, R> {
    /// The header at `at`; `None` at the end of the file or of the bound.
    fn header<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        self.left = self.left.checked_sub(1)?;
        self.budget.entry().ok()?;
        if let Some(found) = self.within(at) {
            return Some(found);
        }
        self.window.resize(WINDOW, 0);
        let mut filled = 0;
        while filled < N {
            let place = at.checked_add(filled as u64)?;
            match self.file.read_at(&mut self.window[filled..], place) {
                Ok(n) if n > 0 => filled += n,
                _ => break,
            }
        }
        self.window.truncate(filled);
        self.at = at;
        self.within(at)
    }

    fn within<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let start = usize::try_from(at.checked_sub(self.at)?).ok()?;
        self.window.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}

/// The payload's size if this is a container's header.
pub(super) fn container(head: &[u8]) -> Option<u64> {
    (u64_at(head, 0)? == MAGIC).then(|| u64_at(head, 8))?
}

/// An entry's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    kind: u16,
    arch: u32,
    /// The language version of PTX, major first.
    version: (u16, u16),
    /// Header and payload together, in bytes; never 0.
    pub(super) size: u64,
}

impl Entry {
    /// `None` if it cannot be an entry.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        const MAX_ARCH: u32 = 999;
        let header = u64::from(u32_at(head, 4)?);
        let arch = u32_at(head, 0x1c)?;
        if header < ENTRY_HEADER as u64 || arch > MAX_ARCH {
            return None;
        }
        Some(Self {
            kind: u16_at(head, 0)?,
            arch,
            version: (u16_at(head, 0x1a)?, u16_at(head, 0x18)?),
            size: header.checked_add(u64_at(head, 8)?)?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ldso::fixtures::elf_with;
    use crate::lengths::{Field, each};

    pub(in super::super) fn entry(kind: u16, arch: u32, version: (u16, u16), payload: usize) -> Vec<u8> {
        let mut e = vec![0; 64];
        e[..2].copy_from_slice(&kind.to_le_bytes());
        e[4..8].copy_from_slice(&64_u32.to_le_bytes());
        e[8..16].copy_from_slice(&(payload as u64).to_le_bytes());
        e[0x18..0x1a].copy_from_slice(&version.1.to_le_bytes());
        e[0x1a..0x1c].copy_from_slice(&version.0.to_le_bytes());
        e[0x1c..0x20].copy_from_slice(&arch.to_le_bytes());
        e.resize(64 + payload, 0xcc);
        e
    }

    pub(in super::super) fn container_of(entries: &[Vec<u8>]) -> Vec<u8> {
        let payload = entries.concat();
        let mut c = MAGIC.to_le_bytes().to_vec();
        c.extend((payload.len() as u64).to_le_bytes());
        c.extend(payload);
        c
    }

    /// Two containers for sm_80 and sm_86, one of them with PTX for compute_86, and one for sm_80
    /// alone.
    pub(in super::super) fn library() -> Vec<u8> {
        let both = container_of(&[
            entry(CUBIN, 80, (1, 7), 40),
            entry(CUBIN, 86, (1, 7), 8),
            entry(PTX, 86, (7, 8), 16),
        ]);
        let one = container_of(&[entry(CUBIN, 80, (1, 7), 24)]);
        elf_with(&[
            (".text", vec![0x90; 32]),
            (".nv_fatbin", [both, vec![0; 8], one].concat()),
        ])
    }

    #[test]
    fn container_by_container() {
        let found = Fatbins::read(library().as_slice(), &Budget::default());
        assert_eq!((found.total(), found.partial), (2, false));
        assert_eq!(found.architectures(), BTreeMap::from([(80, 2), (86, 1)]));
        assert_eq!(found.count(|c| c.cubins.contains(&86)), 1);
        assert_eq!(found.count(|c| c.ptx.contains(&(86, (7, 8)))), 1);
    }

    #[test]
    fn broken_files_end_the_reading() {
        let good = library();
        for cut in 0..good.len() {
            Fatbins::read(&good[..cut], &Budget::default());
        }
        let at = good.windows(8).position(|w| w == MAGIC.to_le_bytes()).unwrap();
        for (offset, bytes) in [
            (8, u64::MAX.to_le_bytes()),
            (24, u64::MAX.to_le_bytes()),
            (16, [0; 8]),
        ] {
            let mut bad = good.clone();
            bad[at + offset..at + offset + 8].copy_from_slice(&bytes);
            assert!(
                Fatbins::read(bad.as_slice(), &Budget::default()).partial,
                "{offset}"
            );
        }
        assert_eq!(
            Fatbins::read(&b"no ELF"[..], &Budget::default()),
            Fatbins::default()
        );
    }

    /// Each length at its limits, and a section of more than 10 MiB with a header in every 64
    /// bytes.
    #[test]
    fn lengths_at_their_ends_and_a_large_section() {
        let good = library();
        let at = good.windows(8).position(|w| w == MAGIC.to_le_bytes()).unwrap();
        for place in [at + 8, at + 16 + 4, at + 16 + 8, 0x28, 0x3a, 0x3c, 0x3e] {
            for value in [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, i64::MAX as u64] {
                for len in [2, 4, 8] {
                    let mut bad = good.clone();
                    bad[place..place + len].copy_from_slice(&value.to_le_bytes()[..len]);
                    Fatbins::read(bad.as_slice(), &Budget::default());
                }
            }
        }
        let many = entry(CUBIN, 80, (1, 7), 0).repeat((11 << 20) / 64);
        let large = elf_with(&[(".nv_fatbin", container_of(&[many]))]);
        let budget = Budget::default();
        assert_eq!(Fatbins::read(large.as_slice(), &budget).total(), 1);
        let limits = crate::sys::budget::Limits {
            entries: 1000,
            ..crate::sys::budget::Limits::DEFAULT
        };
        let budget = Budget::new(limits);
        assert!(Fatbins::read(large.as_slice(), &budget).partial);
        budget.check().unwrap_err();
    }

    #[test]
    fn sizes_at_their_extremes() {
        let good = library();
        let magic = MAGIC.to_le_bytes();
        let containers = (0..good.len() - 8).filter(|&at| good[at..at + 8] == magic);
        let mut fields = Vec::new();
        for at in containers.take(2) {
            fields.push(Field(at + 8, 8));
            // The first entry: the header's size, the payload's.
            fields.extend([Field(at + 16 + 4, 4), Field(at + 16 + 8, 8)]);
        }
        // The section headers' table.
        fields.extend([Field(0x28, 8), Field(0x3c, 2)]);
        assert_eq!(fields.len(), 8);
        each(&good, &fields, 256 << 10, |file| {
            Fatbins::read(file, &Budget::default());
        });
    }
}
