//! Reading `ld.so.cache`.
//!
//! Layout (glibc's `dl-cache.h`; little-endian here):
//!
//! | part | bytes |
//! |---|---|
//! | old header, optional: `ld.so-1.7.0`, pad, u32 count; then count × {i32 flags, u32 key, u32 value} | 16 + 12 n |
//! | new header at the next multiple of 8: `glibc-ld.so.cache1.1`, u32 count, u32 string bytes, u8 byte order, 3 pad, u32 extension offset, 12 unused | 48 |
//! | entries {i32 flags, u32 soname, u32 path, u32 unused, u64 hwcap} | 24 n |
//! | strings, NUL-terminated; offsets count from the new header (old format: from the end of the entries) | |
//! | extensions (glibc 2.33 and later): u32 magic, u32 count, count × {u32 tag, u32 flags, u32 offset, u32 size} | |
//!
//! An image controls its cache, so parsing checks every offset once, and iteration cannot fail.

use core::fmt;
use std::ffi::CStr;

/// The largest cache file that is read.
pub const MAX_BYTES: u64 = 16 << 20;
/// The most entries of a cache.
pub const MAX_ENTRIES: usize = 1 << 17;
/// The most entries of one name that are read on either side of a match; real caches have a few.
const MAX_SAME: usize = 1024;
/// The longest soname or path.
const MAX_STRING: usize = 4096;

pub(crate) const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
pub(crate) const NEW_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
pub(crate) const HEADER: usize = 48;
pub(crate) const ENTRY: usize = 24;
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
pub(crate) const LITTLE_ENDIAN: u8 = 2;
pub(crate) const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
pub(crate) const TAG_GENERATOR: u32 = 0;
pub(crate) const TAG_HWCAPS: u32 = 1;
/// In an entry's hwcap: the low 32 bits are an index into the glibc-hwcaps names, the 10 bits above
/// them the ISA level.
pub(crate) const HWCAP_EXTENSION: u64 = 1 << 62;

/// The reason why a loader could not read the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Broken(pub &'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

/// A parsed cache.
#[derive(Clone, Debug)]
pub struct Cache<'a> {
    /// From the start of the format's header on: string offsets count from here (new format).
    body: &'a [u8],
    entries: &'a [u8],
    width: usize,
    /// The base of string offsets.
    strings: &'a [u8],
    hwcaps: Vec<&'a [u8]>,
    generator: Option<&'a [u8]>,
    has_old: bool,
}

/// One library in a cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// The name that programs open.
    pub soname: &'a [u8],
    /// The library's path.
    pub path: &'a [u8],
    /// Type and ABI; see [`super::abi`].
    pub flags: u32,
    /// 0, the old hardware bits, or an index into [`Cache::hwcaps`] marked by bit 62.
    pub hwcap: u64,
}

impl Entry<'_> {
    /// The index into [`Cache::hwcaps`] of an entry from a `glibc-hwcaps` directory.
    pub fn hwcaps_index(&self) -> Option<usize> {
        hwcaps_index(self.hwcap)
    }

    /// The soname as text; bytes that are not UTF-8 become U+FFFD.
    pub fn soname_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.soname)
    }

    /// The path as the operating system takes it.
    pub fn os_path(&self) -> &std::path::Path {
        use std::os::unix::ffi::OsStrExt as _;
        std::path::Path::new(std::ffi::OsStr::from_bytes(self.path))
    }
}

impl<'a> Cache<'a> {
    /// Checks and indexes a cache file's bytes, in the new format, the old one, or both (then it
    /// reads the new one).
    ///
    /// # Errors
    /// [`Broken`] with the reason, for a file that the loader could not read safely either.
    pub fn parse(file: &'a [u8]) -> Result<Self, Broken> {
        Self::new_format(file, 0, false)
            .or_else(|why| {
                if !file.starts_with(OLD_MAGIC) {
                    return Err(why);
                }
                let count = word(file, 12).ok_or("the header is cut off")?;
                let end = (count as usize)
                    .checked_mul(OLD_ENTRY)
                    .and_then(|n| n.checked_add(OLD_HEADER))
                    .filter(|&end| end <= file.len())
                    .ok_or("it counts more entries than it holds")?;
                // The new header's alignment is 8, or 4 if a 32-bit program wrote it.
                [end.next_multiple_of(8), end.next_multiple_of(4)]
                    .into_iter()
                    .find_map(|at| Self::new_format(file, at, true).ok())
                    .map_or_else(|| Self::old_format(file, end), Ok)
            })
            .map_err(Broken)
    }

    /// Every entry, in the file's order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = Entry<'a>> + ExactSizeIterator + '_ {
        (0..self.len()).map(|i| self.entry(i))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len() / self.width
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Cache::len`].
    pub fn entry(&self, index: usize) -> Entry<'a> {
        let raw = &self.entries[index * self.width..][..self.width];
        let at = |at| word(raw, at).unwrap_or(0);
        Entry {
            flags: at(0),
            soname: self.string(at(4)),
            path: self.string(at(8)),
            hwcap: hwcap_of(raw),
        }
    }

    /// A cache that this program has just made, so it checks nothing and skips the extensions.
    pub(crate) fn of_own(file: &'a [u8]) -> Option<Self> {
        let entries = file.get(HEADER..)?.get(..word(file, 20)? as usize * ENTRY)?;
        Some(Self {
            body: file,
            entries,
            width: ENTRY,
            strings: file,
            hwcaps: Vec::new(),
            generator: None,
            has_old: false,
        })
    }

    /// The entries of `soname`, best first, found by binary search as the loader does.
    pub fn find(&self, soname: &[u8]) -> impl Iterator<Item = Entry<'a>> + '_ {
        let range = self.range(soname);
        range.map(|i| self.entry(i))
    }

    /// The places of `soname`'s entries, or an empty range at its place. It searches in the steps
    /// of the loader's (glibc's `search_cache`), so the result is the loader's even if the names
    /// are not sorted.
    pub(crate) fn range(&self, soname: &[u8]) -> std::ops::Range<usize> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let compared = |i| super::order::compare(self.soname_on(i), soname);
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high - 1) / 2;
            match compared(middle) {
                Greater => low = middle + 1,
                Less => high = middle,
                Equal => {
                    // A hostile cache may have more entries of one name; the rest is ignored.
                    let equal = |&i: &usize| compared(i) == Equal;
                    let before = (0..middle).rev().take(MAX_SAME).take_while(equal);
                    let after = (middle + 1..self.len()).take(MAX_SAME).take_while(equal);
                    return middle - before.count()..middle + 1 + after.count();
                }
            }
        }
        low..low
    }

    /// The entries whose path begins with `start`, without reading every path to its end.
    pub(crate) fn with_path_start<'c>(&'c self, start: &'c [u8]) -> impl Iterator<Item = usize> + 'c {
        let entries = self.entries.chunks_exact(self.width).enumerate();
        entries.filter_map(move |(i, raw)| {
            let path = self.strings.get(word(raw, 8)? as usize..)?;
            path.starts_with(start).then_some(i)
        })
    }

    /// The strings from the soname of the entry at `index` on: finding each name's end costs more
    /// than comparing names.
    fn soname_on(&self, index: usize) -> &'a [u8] {
        let at = word(self.entries, index * self.width + 4).unwrap_or(u32::MAX);
        self.strings.get(at as usize..).unwrap_or_default()
    }

    /// The `glibc-hwcaps` subdirectory names that entries refer to.
    pub fn hwcaps(&self) -> &[&'a [u8]] {
        &self.hwcaps
    }

    /// The program that wrote the cache, by its own name.
    pub fn generator(&self) -> Option<&'a [u8]> {
        self.generator
    }

    /// Whether it has the new format alone, which merging requires.
    pub(crate) fn is_plain(&self) -> bool {
        self.width == ENTRY && !self.has_old
    }

    /// The raw entries and strings of a plain cache.
    pub(crate) fn raw(&self) -> (&'a [u8], &'a [u8]) {
        let start = HEADER + self.entries.len();
        let size = word(self.body, 24).map_or(0, |n| n as usize);
        let end = start.saturating_add(size).min(self.body.len());
        (self.entries, self.body.get(start..end).unwrap_or_default())
    }

    /// The offset in its strings of `text`, a name or path from this plain cache; `None` for any
    /// other text.
    pub(crate) fn place_of(&self, text: &[u8]) -> Option<usize> {
        let (_, strings) = self.raw();
        let at = text.as_ptr().addr().checked_sub(strings.as_ptr().addr())?;
        (at < strings.len()).then_some(at)
    }

    fn new_format(file: &'a [u8], at: usize, has_old: bool) -> Result<Self, &'static str> {
        let body = file.get(at..).unwrap_or_default();
        if !body.starts_with(NEW_MAGIC) {
            return Err("it is not a loader cache");
        }
        if body.len() < HEADER {
            return Err("the header is cut off");
        }
        if !matches!(body[28] & 3, 0 | LITTLE_ENDIAN) {
            return Err("it is of the other byte order");
        }
        let count = word(body, 20).unwrap_or(0) as usize;
        let entries = count
            .checked_mul(ENTRY)
            .and_then(|n| body.get(HEADER..)?.get(..n))
            .filter(|_| count <= MAX_ENTRIES)
            .ok_or("it counts more entries than it holds")?;
        let mut cache = Self {
            body,
            entries,
            width: ENTRY,
            strings: body,
            hwcaps: Vec::new(),
            generator: None,
            has_old,
        };
        cache.check_strings(HEADER + entries.len())?;
        cache.extensions(file)?;
        let known = cache.hwcaps.len();
        let unknown = |raw: &[u8]| hwcaps_index(hwcap_of(raw)).is_some_and(|i| i >= known);
        if entries.chunks_exact(ENTRY).any(unknown) {
            return Err("an entry names an unknown hwcaps directory");
        }
        Ok(cache)
    }

    fn old_format(file: &'a [u8], end: usize) -> Result<Self, &'static str> {
        let entries = &file[OLD_HEADER..end];
        if entries.len() / OLD_ENTRY > MAX_ENTRIES {
            return Err("it has too many entries");
        }
        let cache = Self {
            body: file,
            entries,
            width: OLD_ENTRY,
            strings: &file[end..],
            hwcaps: Vec::new(),
            generator: None,
            has_old: true,
        };
        cache.check_strings(0)?;
        Ok(cache)
    }

    /// Checks that every string starts at or after `from`, ends inside the file, and is not too
    /// long.
    fn check_strings(&self, from: usize) -> Result<(), &'static str> {
        let table = self.strings.get(from..).unwrap_or_default();
        let last = table.iter().rposition(|&b| b == 0).map_or(0, |i| from + i + 1);
        for raw in self.entries.chunks_exact(self.width) {
            for at in [4, 8] {
                let start = word(raw, at).map_or(usize::MAX, |n| n as usize);
                if start < from || start >= last {
                    return Err("a string lies outside the file");
                }
            }
        }
        // Strings share their ends, so checking the longest ones covers all. If one ends close to
        // the longest possible end of the one before, those between need no check.
        let mut rest = &table[..last.saturating_sub(from)];
        while !rest.is_empty() {
            let window = &rest[..rest.len().min(MAX_STRING + 1)];
            let end = window.iter().rposition(|&b| b == 0);
            rest = &rest[end.ok_or("a string is too long")? + 1..];
        }
        Ok(())
    }

    /// Reads the extension sections, if any. Their offsets count from the file's start.
    fn extensions(&mut self, file: &'a [u8]) -> Result<(), &'static str> {
        const BROKEN: &str = "the extension section is broken";
        const MAX_SECTIONS: usize = 64;
        let offset = word(self.body, 32).unwrap_or(0) as usize;
        if offset == 0 {
            return Ok(());
        }
        let directory = file.get(offset..).ok_or(BROKEN)?;
        let count = word(directory, 4).ok_or(BROKEN)? as usize;
        if word(directory, 0) != Some(EXTENSION_MAGIC) || count > MAX_SECTIONS {
            return Err(BROKEN);
        }
        for section in directory.get(8..8 + 16 * count).ok_or(BROKEN)?.chunks_exact(16) {
            let field = |at| word(section, at).unwrap_or(0);
            let start = field(8) as usize;
            let data = start
                .checked_add(field(12) as usize)
                .and_then(|end| file.get(start..end))
                .ok_or(BROKEN)?;
            match field(0) {
                TAG_GENERATOR => self.generator = Some(data),
                TAG_HWCAPS => {
                    self.hwcaps = data
                        .chunks_exact(4)
                        .take(1024)
                        .map(|raw| {
                            let at = word(raw, 0).unwrap_or(u32::MAX) as usize;
                            let rest = self.strings.get(at..).ok_or(BROKEN)?;
                            let end = rest.iter().take(MAX_STRING).position(|&b| b == 0);
                            Ok(&rest[..end.ok_or(BROKEN)?])
                        })
                        .collect::<Result<_, &'static str>>()?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A string whose offset was checked.
    fn string(&self, at: u32) -> &'a [u8] {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        CStr::from_bytes_until_nul(rest).map_or(b"", CStr::to_bytes)
    }
}

fn hwcaps_index(hwcap: u64) -> Option<usize> {
    let mark = (hwcap >> 32) & !0x3ff;
    (mark == HWCAP_EXTENSION >> 32).then(|| usize::try_from(hwcap & 0xffff_ffff).unwrap_or(usize::MAX))
}

/// The hwcap of a raw entry; the old format has none.
fn hwcap_of(raw: &[u8]) -> u64 {
    let half = |at| u64::from(word(raw, at).unwrap_or(0));
    half(16) | half(20) << 32
}

/// The little-endian 32-bit word at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}
