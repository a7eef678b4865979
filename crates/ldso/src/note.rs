//! Finds notes of an ELF file by the name of their section.
//!
//! The file may be an image's: tables are bounded and read with `pread`. Source: the System V ABI,
//! "Sections" and "Note Section".

use super::elf::ReadAt;
use super::section::{read, sections, u32_at};

/// The most bytes of a note section.
const MAX_NOTE: u64 = 64 << 10;

const SHT_NOTE: u32 = 7;

/// The descriptor of the first note of `owner` in the section `section`; `None` if there is none,
/// or the file is not a 64-bit little-endian ELF.
pub fn find<R: ReadAt + ?Sized>(file: &R, section: &str, owner: &str) -> Option<Vec<u8>> {
    let note = sections(file)?
        .into_iter()
        .find(|s| s.kind == SHT_NOTE && s.name == section.as_bytes())?;
    let bytes = read(file, note.offset, note.size.min(MAX_NOTE))?;
    let align = usize::try_from(note.align.clamp(4, 8)).ok()?;
    descriptor(&bytes, align, owner)
}

fn descriptor(bytes: &[u8], align: usize, owner: &str) -> Option<Vec<u8>> {
    let name_size = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let size = usize::try_from(u32_at(bytes, 4)?).ok()?;
    let name = bytes.get(12..12_usize.checked_add(name_size)?)?;
    if name.strip_suffix(b"\0").unwrap_or(name) != owner.as_bytes() {
        return None;
    }
    let start = (12 + name_size).next_multiple_of(align);
    bytes.get(start..start.checked_add(size)?).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::elf_with_note;

    #[test]
    fn a_note_is_found_by_section_and_owner() {
        let file = elf_with_note(".note.x", "NVIDIA Corporation", "{}");
        let found = |section, owner| find(file.as_slice(), section, owner);
        assert_eq!(
            found(".note.x", "NVIDIA Corporation").as_deref(),
            Some(&b"{}"[..])
        );
        assert_eq!(found(".note.x", "GNU"), None);
        assert_eq!(found(".note.y", "NVIDIA Corporation"), None);
    }

    #[test]
    fn broken_files_have_none() {
        let good = elf_with_note(".note.x", "o", "text");
        for cut in 0..good.len() {
            find(&good[..cut], ".note.x", "o");
        }
        let mut bad = good.clone();
        bad[0x28..0x30].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(find(bad.as_slice(), ".note.x", "o"), None);
        let mut bad = good;
        bad[0x3c..0x3e].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(find(bad.as_slice(), ".note.x", "o"), None);
    }
}
