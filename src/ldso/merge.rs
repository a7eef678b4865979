//! Adding libraries to a cache without looking at the image's libraries again.

use std::collections::BTreeSet;

use super::cache::{Cache, ENTRY, HEADER};
use super::write::{extensions, header, put};

/// A library that comes before the image's own of the same name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Addition {
    /// What programs ask for.
    pub soname: Vec<u8>,
    /// Where it is.
    pub path: Vec<u8>,
    /// Type and ABI.
    pub flags: u32,
}

/// Writes `cache` anew with `additions` first among entries of their soname and ABI. Leaves out
/// entries directly in one of `replaced` (directories without a trailing slash), and those of the same
/// soname and ABI from hardware-specific directories, which the loader would prefer.
///
/// `None` when the cache is not one that can be extended: an old or mixed format, unsorted, or
/// with strings outside its string table.
pub fn merge(cache: &Cache<'_>, additions: &[Addition], replaced: &[&[u8]]) -> Option<Vec<u8>> {
    if !cache.is_plain() || !cache.is_sorted() {
        return None;
    }
    let (raw, strings) = cache.raw();
    let strings_from = HEADER + raw.len();
    if strings.last().is_some_and(|&last| last != 0) {
        return None;
    }
    let mut dropped = dropped_dirs(cache, replaced);
    let mut inserts: Vec<(usize, &Addition)> = Vec::with_capacity(additions.len());
    for addition in additions {
        let mut range = cache.range(&addition.soname);
        let at = range
            .clone()
            .find(|&i| cache.entry(i).flags <= addition.flags)
            .unwrap_or(range.end);
        inserts.push((at, addition));
        dropped.extend(range.by_ref().filter(|&i| {
            let entry = cache.entry(i);
            entry.soname == addition.soname && entry.flags == addition.flags && entry.hwcap != 0
        }));
    }
    // Stable: additions of one place stay in their order if their names are equal.
    inserts.sort_by(|(i, a), (j, b)| {
        let names = super::order::compare(&b.soname, &a.soname);
        i.cmp(j).then(names).then(b.flags.cmp(&a.flags))
    });

    let count = cache.len() - dropped.len() + inserts.len();
    let start = HEADER + ENTRY * count;
    let added: usize = additions.iter().map(|a| a.soname.len() + a.path.len() + 2).sum();
    let names: usize = cache.hwcaps().iter().map(|name| name.len() + 1).sum();
    let mut out = Vec::with_capacity(start + strings.len() + added + names + 256);
    header(&mut out, count, strings.len() + added + names);
    let mut new_strings = Vec::with_capacity(added + names);
    let mut store = |text: &[u8]| {
        let at = start + strings.len() + new_strings.len();
        new_strings.extend_from_slice(text);
        new_strings.push(0);
        u32::try_from(at).ok()
    };
    let mut pending = inserts.into_iter().peekable();
    for i in 0..=cache.len() {
        while let Some((_, addition)) = pending.next_if(|(at, _)| *at == i) {
            put(&mut out, addition.flags);
            for text in [&addition.soname, &addition.path] {
                put(&mut out, store(text)?);
            }
            out.extend_from_slice(&[0; 12]);
        }
        let Some(entry) = raw.get(i * ENTRY..).and_then(|rest| rest.get(..ENTRY)) else {
            break;
        };
        if dropped.contains(&i) {
            continue;
        }
        out.extend_from_slice(&entry[..4]);
        for at in [4, 8] {
            let old = u32::from_le_bytes(entry[at..at + 4].try_into().ok()?) as usize;
            let offset = old
                .checked_sub(strings_from)
                .filter(|&offset| offset < strings.len())?;
            put(&mut out, u32::try_from(start + offset).ok()?);
        }
        out.extend_from_slice(&entry[12..]);
    }
    let hwcaps = cache
        .hwcaps()
        .iter()
        .map(|name| store(name))
        .collect::<Option<Vec<_>>>()?;
    out.extend_from_slice(strings);
    out.extend_from_slice(&new_strings);
    extensions(&mut out, &hwcaps);
    Some(out)
}

/// The entries that lie directly in one of the directories.
fn dropped_dirs(cache: &Cache<'_>, dirs: &[&[u8]]) -> BTreeSet<usize> {
    let inside = |path: &[u8]| {
        dirs.iter().any(|dir| {
            let rest = path.strip_prefix(*dir).and_then(|rest| rest.strip_prefix(b"/"));
            rest.is_some_and(|name| !name.contains(&b'/'))
        })
    };
    cache
        .entries()
        .enumerate()
        .filter(|(_, entry)| inside(entry.path))
        .map(|(i, _)| i)
        .collect()
}
