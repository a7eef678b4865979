//! Reads a kernel module's `.modinfo` section: NUL-terminated `key=value` texts (modinfo(8)).

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// The most sections of a module; NVIDIA's have about a hundred.
const MAX_SECTIONS: u16 = 8192;
const MAX_NAMES: u64 = 1 << 20;
const MAX_MODINFO: u64 = 1 << 20;

/// The value of `key` in an uncompressed 64-bit little-endian module.
pub(super) fn value(file: &File, key: &str) -> Option<String> {
    let header = part(file, 0, 64)?;
    // ELF-64 object file format: e_shoff at 0x28, e_shentsize, e_shnum and e_shstrndx from 0x3a on.
    if header.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size) = (u64_at(&header, 0x28)?, u16_at(&header, 0x3a)?);
    let (count, names) = (u16_at(&header, 0x3c)?, u16_at(&header, 0x3e)?);
    if size != 64 || count > MAX_SECTIONS || names >= count {
        return None;
    }
    let sections = part(file, table, u64::from(count) * 64)?;
    let names = section(file, &sections, usize::from(names), MAX_NAMES)?;
    let at = (0..usize::from(count)).find(|&i| {
        let name = u32_at(&sections, i * 64).and_then(|at| names.get(usize::try_from(at).ok()?..));
        name.is_some_and(|n| n.starts_with(b".modinfo\0"))
    })?;
    let info = section(file, &sections, at, MAX_MODINFO)?;
    let text = info
        .split(|b| *b == 0)
        .find_map(|entry| entry.strip_prefix(key.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// `sh_offset` and `sh_size` are at 0x18 and 0x20 of a section's header.
fn section(file: &File, sections: &[u8], index: usize, max: u64) -> Option<Vec<u8>> {
    let at = index * 64;
    let size = u64_at(sections, at + 0x20)?;
    (size <= max).then(|| part(file, u64_at(sections, at + 0x18)?, size))?
}

fn part(file: &File, at: u64, size: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A module with only a `.modinfo` section.
#[cfg(test)]
pub(super) fn module(info: &[u8]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(64, 0);
    let info_at = out.len();
    out.extend(info);
    let names_at = out.len();
    out.extend(NAMES);
    let table = out.len();
    for (name, at, size) in [
        (0_u32, 0, 0),
        (1, info_at, info.len()),
        (10, names_at, NAMES.len()),
    ] {
        let mut header = [0_u8; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        out.extend(header);
    }
    out[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
    for (at, value) in [(0x3a, 64_u16), (0x3c, 3), (0x3e, 2)] {
        out[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_module_has_a_version_and_a_broken_one_has_none() {
        let whole = module(b"license=NVIDIA\0version=580.159.04\0srcversion=X\0");
        let version_in = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            value(&file, "version")
        };
        assert_eq!(version_in(&whole).as_deref(), Some("580.159.04"));
        for len in 0..whole.len() {
            assert_eq!(version_in(&whole[..len]), None, "{len}");
        }
        let mut odd = whole;
        odd[0x3c] = 0xff;
        odd[0x3d] = 0xff;
        assert_eq!(version_in(&odd), None);
    }
}
