//! Small ELF files for tests, of this crate and of its users (feature `fixtures`).
#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "for tests")]

use crate::abi::EM_X86_64;

/// A shared object for x86-64 of headers and a dynamic section only: its soname, and more entries
/// by tag.
pub fn elf64(soname: &str, more: &[(u64, &str)]) -> Vec<u8> {
    const DYNAMIC: u64 = 64 + 2 * 56;
    let mut strings = vec![0];
    let mut entries = Vec::new();
    for (tag, text) in std::iter::once((14, soname)).chain(more.iter().copied()) {
        entries.push((tag, strings.len() as u64));
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
    }
    let table = DYNAMIC + 16 * (entries.len() as u64 + 2);
    entries.push((5, 0x1000 + table));
    entries.push((0, 0));
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    for half in [3, EM_X86_64] {
        out.extend(half.to_le_bytes());
    }
    out.extend(1_u32.to_le_bytes());
    for word in [0, 64, 0_u64] {
        out.extend(word.to_le_bytes());
    }
    out.extend(0_u32.to_le_bytes());
    for half in [64, 56, 2, 0, 0, 0_u16] {
        out.extend(half.to_le_bytes());
    }
    let end = table + strings.len() as u64;
    // Loaded 0x1000 above its file offset, so that addresses are not offsets.
    for (kind, offset, size) in [(1_u32, 0, end), (2, DYNAMIC, table - DYNAMIC)] {
        out.extend(kind.to_le_bytes());
        out.extend(4_u32.to_le_bytes());
        for word in [offset, 0x1000 + offset, 0x1000 + offset, size, size, 8] {
            out.extend(word.to_le_bytes());
        }
    }
    for (tag, value) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    out.extend(strings);
    out
}

/// A file with these sections, and one with their names.
pub fn elf_with(contents: &[(&str, Vec<u8>)]) -> Vec<u8> {
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

/// A file with two sections: the names and one note.
pub fn elf_with_note(section: &str, owner: &str, text: &str) -> Vec<u8> {
    let names = format!("\0{section}\0");
    let mut note = Vec::new();
    for n in [owner.len() + 1, text.len(), 0] {
        note.extend(u32::try_from(n).unwrap().to_le_bytes());
    }
    note.extend(owner.as_bytes());
    note.push(0);
    note.resize(note.len().next_multiple_of(4), 0);
    note.extend(text.as_bytes());
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let names_at = file.len();
    file.extend(names.as_bytes());
    let note_at = file.len();
    file.extend(&note);
    let table = file.len() as u64;
    for (name, kind, at, size) in [(0_u32, 3_u32, names_at, names.len()), (1, 7, note_at, note.len())] {
        let mut h = vec![0; 64];
        h[..4].copy_from_slice(&name.to_le_bytes());
        h[4..8].copy_from_slice(&kind.to_le_bytes());
        h[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        h[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        h[48..56].copy_from_slice(&4_u64.to_le_bytes());
        file.extend(h);
    }
    file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    for (at, value) in [(0x3a, 64_u16), (0x3c, 2), (0x3e, 0)] {
        file[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    file
}
