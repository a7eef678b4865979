//! The sections of an ELF file, by name.
//!
//! The file may be an image's: tables are bounded and read with `pread`. Facts: the System V ABI, "Sections".

use super::elf::ReadAt;

/// Section headers that are looked at; libraries have about forty.
const MAX_SECTIONS: u64 = 256;
/// Bytes of section names.
const MAX_NAMES: u64 = 64 << 10;

/// One section of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section {
    /// Its name: `.nv_fatbin`.
    pub name: Vec<u8>,
    /// `sh_type`.
    pub kind: u32,
    /// Where it starts in the file.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
    /// `sh_addralign`.
    pub align: u64,
}

/// All sections; `None` of a file that is no 64-bit little-endian ELF, or whose tables are too large or broken.
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

/// `size` bytes from `at`; `None` where the file has fewer.
pub(crate) fn read<R: ReadAt + ?Sized>(file: &R, at: u64, size: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    fill(file, at, &mut bytes)?;
    Some(bytes)
}

/// Fills `bytes` from `at` on; `None` where the file ends before.
pub(crate) fn fill<R: ReadAt + ?Sized>(file: &R, at: u64, bytes: &mut [u8]) -> Option<()> {
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

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with these sections, and one with their names.
    pub(crate) fn elf_with(contents: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut names = vec![0];
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut headers = vec![0; 64];
        let mut add = |file: &mut Vec<u8>, name: usize, kind: u32, bytes: &[u8]| {
            file.resize(file.len().next_multiple_of(8), 0);
            let mut h = vec![0; 64];
            h[..4].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
            h[4..8].copy_from_slice(&kind.to_le_bytes());
            h[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
            h[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            h[48..56].copy_from_slice(&8_u64.to_le_bytes());
            headers.extend(h);
            file.extend(bytes);
        };
        for (name, bytes) in contents {
            add(&mut file, names.len(), 1, bytes);
            names.extend(name.as_bytes());
            names.push(0);
        }
        add(&mut file, 0, 3, &names);
        let table = file.len() as u64;
        file.extend(headers);
        file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        let count = u16::try_from(contents.len() + 2).unwrap();
        for (at, value) in [(0x3a, 64_u16), (0x3c, count), (0x3e, count - 1)] {
            file[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        file
    }

    #[test]
    fn names_and_places() {
        let file = elf_with(&[(".a", vec![1; 3]), (".nv_fatbin", vec![2; 5])]);
        let found = sections(file.as_slice()).unwrap();
        let fatbin = found.iter().find(|s| s.name == b".nv_fatbin").unwrap();
        assert_eq!(read(file.as_slice(), fatbin.offset, fatbin.size).unwrap(), [2; 5]);
        assert_eq!(sections(&b"\x7fELF"[..]), None);
    }
}
