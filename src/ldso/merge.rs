//! Adding libraries to a cache without looking at the image's libraries again.

use std::collections::{BTreeSet, btree_set};
use std::iter::Peekable;

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
    let mut kept = Kept {
        raw,
        next: 0,
        dropped: dropped.into_iter().peekable(),
        strings_from,
        strings_len: strings.len(),
        strings_to: start,
    };
    for (at, addition) in inserts {
        kept.copy_to(at, &mut out)?;
        put(&mut out, addition.flags);
        for text in [&addition.soname, &addition.path] {
            put(&mut out, store(text)?);
        }
        out.extend_from_slice(&[0; 12]);
    }
    kept.copy_to(cache.len(), &mut out)?;
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

/// The entries that stay, on their way into the new file.
struct Kept<'a> {
    raw: &'a [u8],
    /// The next entry to copy.
    next: usize,
    dropped: Peekable<btree_set::IntoIter<usize>>,
    /// Where the strings began, how long they are, and where they will begin.
    strings_from: usize,
    strings_len: usize,
    strings_to: usize,
}

impl Kept<'_> {
    /// Copies the entries before `end`, without those that are dropped.
    fn copy_to(&mut self, end: usize, out: &mut Vec<u8>) -> Option<()> {
        while let Some(at) = self.dropped.next_if(|&at| at < end) {
            self.copy_run(at, out)?;
            self.next = at + 1;
        }
        self.copy_run(end, out)
    }

    /// Copies a run of entries as it is, then moves their offsets: most of a merge's time goes here.
    fn copy_run(&mut self, end: usize, out: &mut Vec<u8>) -> Option<()> {
        let begin = out.len();
        out.extend_from_slice(self.raw.get(self.next * ENTRY..end * ENTRY)?);
        self.next = end;
        for entry in out[begin..].chunks_exact_mut(ENTRY) {
            for at in [4, 8] {
                let word: &mut [u8; 4] = entry.get_mut(at..at + 4)?.try_into().ok()?;
                let offset = (u32::from_le_bytes(*word) as usize)
                    .checked_sub(self.strings_from)
                    .filter(|&offset| offset < self.strings_len)?;
                *word = u32::try_from(self.strings_to + offset).ok()?.to_le_bytes();
            }
        }
        Some(())
    }
}

/// The entries that lie directly in one of the directories.
fn dropped_dirs(cache: &Cache<'_>, dirs: &[&[u8]]) -> BTreeSet<usize> {
    let inside = |dir: &[u8]| {
        let start = [dir, b"/"].concat();
        let found = cache.with_path_start(&start);
        let direct = found.filter(|&i| !cache.entry(i).path[start.len()..].contains(&b'/'));
        direct.collect::<Vec<_>>()
    };
    dirs.iter().flat_map(|dir| inside(dir)).collect()
}
