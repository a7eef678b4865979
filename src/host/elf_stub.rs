//! Private until `ldso` is merged.
use super::Bits;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

pub(super) fn cache(b: &[u8]) -> Vec<(String, String)> {
    let Some(at) = b.windows(20).position(|w| w == b"glibc-ld.so.cache1.1") else {
        return Vec::new();
    };
    let b = &b[at..];
    let u = |o: usize| {
        b.get(o..o + 4)
            .map(|v| u32::from_le_bytes([v[0], v[1], v[2], v[3]]))
    };
    let s = |o: u32| {
        let t = b.get(o as usize..)?;
        Some(String::from_utf8_lossy(&t[..t.iter().position(|c| *c == 0)?]).into_owned())
    };
    let n = u(20).unwrap_or(0) as usize;
    (0..n.min(b.len() / 24))
        .filter_map(|i| {
            let o = 48 + i * 24;
            Some((s(u(o + 4)?)?, s(u(o + 8)?)?))
        })
        .collect()
}

pub(super) fn read(f: &File) -> Option<(Bits, Option<String>)> {
    let mut h = [0_u8; 4096];
    let n = f.read_at(&mut h, 0).ok()?;
    let h = &h[..n];
    if h.get(..4)? != b"\x7fELF" {
        return None;
    }
    if h[4] == 1 {
        return Some((Bits::B32, None));
    }
    let u64_ = |b: &[u8], o: usize| Some(u64::from_le_bytes(b.get(o..o + 8)?.try_into().ok()?));
    let phoff = usize::try_from(u64_(h, 32)?).ok()?;
    let num = usize::from(u16::from_le_bytes([h[56], h[57]]));
    let mut loads = Vec::new();
    let mut dynamic = None;
    for i in 0..num {
        let o = phoff + i * 56;
        let kind = u32::from_le_bytes(h.get(o..o + 4)?.try_into().ok()?);
        let (off, va, sz) = (u64_(h, o + 8)?, u64_(h, o + 16)?, u64_(h, o + 32)?);
        if kind == 1 {
            loads.push((off, va, sz));
        } else if kind == 2 {
            dynamic = Some((off, sz));
        }
    }
    let (off, sz) = dynamic?;
    let mut d = vec![0; usize::try_from(sz.min(65536)).ok()?];
    let n = f.read_at(&mut d, off).ok()?;
    let (mut strtab, mut soname) = (None, None);
    for e in d[..n].chunks_exact(16) {
        match u64_(e, 0)? {
            5 => strtab = u64_(e, 8),
            14 => soname = u64_(e, 8),
            _ => {}
        }
    }
    let Some(soname) = soname else {
        return Some((Bits::B64, None));
    };
    let va = strtab?;
    let at = loads
        .iter()
        .find(|(_, v, s)| (*v..v + s).contains(&va))
        .map(|(o, v, _)| va - v + o)?;
    let mut name = [0; 256];
    let n = f.read_at(&mut name, at + soname).ok()?;
    let end = name[..n].iter().position(|c| *c == 0)?;
    Some((
        Bits::B64,
        Some(String::from_utf8_lossy(&name[..end]).into_owned()),
    ))
}
