//! Adds libraries to a cache, such as the driver's, without reading the image's libraries again.

use std::collections::BTreeSet;

use super::cache::{Cache, ENTRY, HEADER};
pub use super::write::Addition;
use super::write::{extensions, header};

/// The room that [`merge`] needs before a cache, in bytes.
pub fn room(additions: &[Addition]) -> usize {
    ENTRY * additions.len()
}

/// The room after a cache that saves [`merge`] a second, larger copy of it in most cases.
pub fn room_behind(additions: &[Addition]) -> usize {
    /// Names of `glibc-hwcaps` directories and the section that lists them.
    const SECTIONS: usize = 1024;
    let texts = additions.iter().map(|a| a.soname.len() + a.path.len() + 2);
    texts.sum::<usize>() + SECTIONS
}

/// Inserts `additions` into the cache that follows [`room`] for them in `file`; they come first
/// among entries of their soname and ABI. It drops entries directly in one of `replaced`
/// (directories without a trailing slash), and entries of the same soname and ABI from
/// hardware-specific directories, which the loader would prefer.
///
/// Entries move towards the front, and the strings, most of the file, stay in place: reading a
/// large cache takes less time than allocating pages for a second copy. Strings that exist are not
/// added again, so a restarted container keeps its cache.
///
/// # Errors
/// The reason why the cache cannot be extended: it is broken, has an old or mixed format, has
/// strings outside its string table, or its order would hide the additions from the loader.
pub fn merge(mut file: Vec<u8>, additions: &[Addition], replaced: &[&[u8]]) -> Result<Vec<u8>, String> {
    let cache = file.get(room(additions)..).unwrap_or_default();
    let cache = Cache::parse(cache).map_err(|e| e.to_string())?;
    Edit::of(&cache, additions, replaced)
        .and_then(|edit| edit.apply(&mut file))
        .ok_or("its format cannot be extended")?;
    if found_first(&file, additions) {
        Ok(file)
    } else {
        Err("its names are not in the loader's order".to_owned())
    }
}

/// Whether the loader finds the additions before all other entries of their names.
fn found_first(file: &[u8], additions: &[Addition]) -> bool {
    let Some(cache) = Cache::of_own(file) else {
        return false;
    };
    additions.iter().all(|wanted| {
        let found = cache.find(&wanted.soname).find(|e| e.flags == wanted.flags);
        // If a soname is added twice, the first counts.
        found.is_some_and(|found| additions.iter().any(|a| a.path == found.path))
    })
}

/// The planned changes of a cache.
struct Edit {
    /// The present numbers of entries and of string bytes.
    entries: usize,
    strings: usize,
    /// The entries to drop.
    dropped: BTreeSet<usize>,
    /// The entries to insert, in order, each with the entry that follows it.
    inserts: Vec<(usize, Insert)>,
    /// The strings to append.
    added: Vec<u8>,
    /// The hwcaps names, by their offsets in the strings.
    hwcaps: Vec<usize>,
}

struct Insert {
    flags: u32,
    /// The offsets of soname and path in the strings.
    texts: [usize; 2],
}

impl Edit {
    fn of(cache: &Cache<'_>, additions: &[Addition], replaced: &[&[u8]]) -> Option<Self> {
        if !cache.is_plain() {
            return None;
        }
        let (raw, strings) = cache.raw();
        if strings.last().is_some_and(|&last| last != 0) {
            return None;
        }
        let mut dropped = dropped_dirs(cache, replaced);
        // Each with the present offsets of its soname and path.
        let mut places: Vec<(usize, &Addition, [Option<usize>; 2])> = Vec::with_capacity(additions.len());
        for addition in additions {
            let mut range = cache.range(&addition.soname);
            let at = range
                .clone()
                .find(|&i| cache.entry(i).flags <= addition.flags)
                .unwrap_or(range.end);
            let entries = || range.clone().map(|i| cache.entry(i));
            let soname = entries().map(|e| e.soname).find(|s| *s == addition.soname);
            let path = entries().map(|e| e.path).find(|p| *p == addition.path);
            let known = [soname, path].map(|text| cache.place_of(text?));
            places.push((at, addition, known));
            dropped.extend(range.by_ref().filter(|&i| {
                let entry = cache.entry(i);
                entry.soname == addition.soname && entry.flags == addition.flags && entry.hwcap != 0
            }));
        }
        // Stable: additions at one place keep their order if their names are equal.
        places.sort_by(|(i, a, _), (j, b, _)| {
            let names = super::order::compare(&b.soname, &a.soname);
            i.cmp(j).then(names).then(b.flags.cmp(&a.flags))
        });
        let mut added = Vec::new();
        let mut place = |text: &[u8], known: Option<usize>| {
            known.unwrap_or_else(|| {
                let at = strings.len() + added.len();
                added.extend_from_slice(text);
                added.push(0);
                at
            })
        };
        let inserts = places.into_iter().map(|(at, addition, [soname, path])| {
            let insert = Insert {
                flags: addition.flags,
                texts: [place(&addition.soname, soname), place(&addition.path, path)],
            };
            (at, insert)
        });
        let inserts = inserts.collect();
        let hwcaps = cache.hwcaps().iter();
        let hwcaps = hwcaps.map(|name| place(name, cache.place_of(name))).collect();
        Some(Self {
            entries: raw.len() / ENTRY,
            strings: strings.len(),
            dropped,
            inserts,
            added,
            hwcaps,
        })
    }

    /// Changes the file for which this was planned.
    fn apply(self, file: &mut Vec<u8>) -> Option<()> {
        let room = ENTRY * self.inserts.len();
        let count = self.entries + self.inserts.len() - self.dropped.len();
        let old = HEADER + ENTRY * self.entries;
        let new = HEADER + ENTRY * count;
        let mut moved = Moved {
            file,
            next: 0,
            from: HEADER + room,
            to: HEADER,
            old,
            new,
            strings: self.strings,
        };
        let offset = |at: usize| u32::try_from(new + at).ok();
        let mut dropped = self.dropped.iter().copied().peekable();
        for (place, insert) in &self.inserts {
            while let Some(at) = dropped.next_if(|at| at < place) {
                moved.run(at)?;
                moved.next = at + 1;
            }
            moved.run(*place)?;
            let [soname, path] = insert.texts;
            moved.entry([insert.flags, offset(soname)?, offset(path)?])?;
        }
        for at in dropped {
            moved.run(at)?;
            moved.next = at + 1;
        }
        moved.run(self.entries)?;

        let strings = room + old;
        if strings != new {
            file.copy_within(strings..strings + self.strings, new);
        }
        // The extension section is written again.
        file.truncate(new + self.strings);
        let mut start = Vec::with_capacity(HEADER);
        header(&mut start, count, self.strings + self.added.len());
        file.get_mut(..HEADER)?.copy_from_slice(&start);
        let hwcaps = self.hwcaps.into_iter().map(offset).collect::<Option<Vec<_>>>()?;
        file.extend_from_slice(&self.added);
        extensions(file, &hwcaps);
        Some(())
    }
}

/// The remaining entries on their way to their new places.
struct Moved<'a> {
    file: &'a mut [u8],
    /// The first entry that has not been moved.
    next: usize,
    /// The start of the old entries, and the place of the next one.
    from: usize,
    to: usize,
    /// The old and new start of the strings, and their length.
    old: usize,
    new: usize,
    strings: usize,
}

impl Moved<'_> {
    /// Moves the entries before `end`, and their offsets.
    fn run(&mut self, end: usize) -> Option<()> {
        let len = ENTRY * end.checked_sub(self.next)?;
        let from = self.from + ENTRY * self.next;
        self.next = end;
        if from != self.to {
            self.file.copy_within(from..from + len, self.to);
        }
        let moved = self.file.get_mut(self.to..self.to + len)?;
        self.to += len;
        for entry in moved.chunks_exact_mut(ENTRY) {
            for at in [4, 8] {
                let word: &mut [u8; 4] = entry.get_mut(at..at + 4)?.try_into().ok()?;
                let offset = (u32::from_le_bytes(*word) as usize)
                    .checked_sub(self.old)
                    .filter(|&offset| offset < self.strings)?;
                *word = u32::try_from(self.new + offset).ok()?.to_le_bytes();
            }
        }
        Some(())
    }

    /// Writes a new entry.
    fn entry(&mut self, words: [u32; 3]) -> Option<()> {
        let entry = self.file.get_mut(self.to..self.to + ENTRY)?;
        self.to += ENTRY;
        entry.fill(0);
        for (to, word) in entry.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
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
