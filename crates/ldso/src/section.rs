//! Reads the sections of an ELF file with their names, such as `.nv_fatbin`.
//!
//! The file may be an image's: tables are bounded and read with `pread`. Source: the System V ABI,
//! "Sections".

use super::elf::ReadAt;

/// The most section headers that are read; libraries have about forty.
const MAX_SECTIONS: u64 = 256;
/// The most bytes of section names.
const MAX_NAMES: u64 = 64 << 10;

/// One section of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section {
    /// Its name: `.nv_fatbin`.
    pub name: Vec<u8>,
    /// `sh_type`.
    pub kind: u32,
    /// Its file offset.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
    /// `sh_addralign`.
    pub align: u64,
}

/// All sections; `None` if the file is not a 64-bit little-endian ELF, or its tables are too large
/// or broken.
pub fn sections<R: ReadAt + ?Sized>(file: &R) -> Option<Vec<Section>> {
    let head = read(file, 0, 64)?;
    // ELFCLASS64, ELFDATA2LSB.
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = u64_at(&head, 0x28)?;
    let size = u64::from(u16_at(&head, 0x3a)?);
    let count = u64::from(u16_at(&head, 0x3c)?);
    let names = u64::from(u16_at(&head, 0x3e)?);
    if !(64..=256).contains(&size) || count > MAX_SECTIONS || names >= count {
        return None;
    }
    let headers = read(file, table, size * count)?;
    let header = |i: u64| {
        let start = usize::try_from(i * size).ok()?;
        headers.get(start..start + 64)
    };
    let names = header(names)?;
    let names = read(file, u64_at(names, 24)?, u64_at(names, 32)?.min(MAX_NAMES))?;
    let parse = |h: &[u8]| {
        let name = names.get(usize::try_from(u32_at(h, 0)?).ok()?..)?;
        Some(Section {
            name: name.split(|b| *b == 0).next()?.to_vec(),
            kind: u32_at(h, 4)?,
            offset: u64_at(h, 24)?,
            size: u64_at(h, 32)?,
            align: u64_at(h, 48)?,
        })
    };
    Some((0..count).filter_map(header).filter_map(parse).collect())
}

/// `size` bytes from `at`; `None` if the file has fewer.
pub fn read<R: ReadAt + ?Sized>(file: &R, at: u64, size: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    fill(file, at, &mut bytes)?;
    Some(bytes)
}

/// Fills `bytes` from `at` on; `None` if the file ends before.
pub fn fill<R: ReadAt + ?Sized>(file: &R, at: u64, bytes: &mut [u8]) -> Option<()> {
    let mut done = 0;
    while done < bytes.len() {
        let n = file
            .read_at(&mut bytes[done..], at.checked_add(done as u64)?)
            .ok()?;
        if n == 0 {
            return None;
        }
        done += n;
    }
    Some(())
}

/// The little-endian number of 16 bits at byte `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The little-endian number of 32 bits at byte `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The little-endian number of 64 bits at byte `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::elf_with;

    #[test]
    fn names_and_places() {
        let file = elf_with(&[(".a", vec![1; 3]), (".nv_fatbin", vec![2; 5])]);
        let found = sections(file.as_slice()).unwrap();
        let fatbin = found.iter().find(|s| s.name == b".nv_fatbin").unwrap();
        assert_eq!(read(file.as_slice(), fatbin.offset, fatbin.size).unwrap(), [2; 5]);
        assert_eq!(sections(&b"\x7fELF"[..]), None);
    }
}
