//! Writes `ld.so.cache` byte for byte as glibc's ldconfig does, except for the generator's name.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::cache::{
    ENTRY, EXTENSION_MAGIC, HEADER, HWCAP_EXTENSION, LITTLE_ENDIAN, NEW_MAGIC, TAG_GENERATOR, TAG_HWCAPS,
};
use super::order;

/// The generator section: the name of [`inroot::label`] and this crate's version.
pub fn generator() -> String {
    format!("{} ldconfig {}", inroot::label(), env!("CARGO_PKG_VERSION"))
}

/// A library that comes before the image's own of the same name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Addition {
    /// The name that programs open.
    pub soname: Vec<u8>,
    /// The library's path.
    pub path: Vec<u8>,
    /// Type and ABI.
    pub flags: u32,
}

/// A library to be written, its texts in a [`Builder`]'s store.
#[derive(Clone, Copy, Debug)]
struct Record {
    soname: Span,
    path: Span,
    flags: u32,
    /// Index into the builder's hwcaps names.
    hwcaps: Option<u32>,
    isa_level: u32,
}

/// A part of the text store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Span {
    start: u32,
    len: u32,
}

/// Collects libraries in search order, then writes the cache.
#[derive(Debug, Default)]
pub struct Builder {
    text: Vec<u8>,
    records: Vec<Record>,
    hwcaps: Vec<Vec<u8>>,
}

impl Builder {
    /// The number of libraries.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has no library.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds `dir/file` under `soname`, after all earlier additions. `hwcaps` is the name below
    /// `glibc-hwcaps` with the library's ISA level.
    pub fn add(&mut self, dir: &[u8], file: &[u8], soname: &[u8], flags: u32, hwcaps: Option<(&[u8], u32)>) {
        let start = self.text.len();
        self.text.extend_from_slice(dir);
        self.text.push(b'/');
        self.text.extend_from_slice(file);
        let path = self.span_from(start);
        // A path nearly always ends with its soname, whose text is then stored already.
        let soname = if soname == file {
            Span {
                start: path.start + path.len - len32(soname),
                len: len32(soname),
            }
        } else {
            let start = self.text.len();
            self.text.extend_from_slice(soname);
            self.span_from(start)
        };
        let record = Record {
            soname,
            path,
            flags,
            hwcaps: hwcaps.map(|(name, _)| self.hwcaps_index(name)),
            isa_level: hwcaps.map_or(0, |(_, level)| level),
        };
        self.records.push(record);
    }

    /// Drops hardware-specific entries of `preferred` sonames and ABIs, which the loader would
    /// prefer to the first entry.
    pub fn prefer(&mut self, preferred: &[Addition]) {
        let records = std::mem::take(&mut self.records);
        let (text, beaten) = (&self.text, |record: &Record, soname: &[u8]| {
            record.hwcaps.is_some()
                && preferred
                    .iter()
                    .any(|p| p.soname == soname && p.flags == record.flags)
        });
        let kept = records.into_iter().filter(|record| {
            let soname = &text[record.soname.start as usize..][..record.soname.len as usize];
            !beaten(record, soname)
        });
        self.records = kept.collect();
    }

    /// Writes the cache file.
    pub fn encode(mut self) -> Vec<u8> {
        self.sort_hwcaps();
        self.sort_records();
        let start = HEADER + ENTRY * self.records.len();
        let strings = Strings::lay_out(&self);
        let mut out = Vec::with_capacity(start + strings.bytes.len() + 256);
        header(&mut out, self.records.len(), strings.bytes.len());
        let base = u32::try_from(start).unwrap_or(u32::MAX);
        for (i, record) in self.records.iter().enumerate() {
            put(&mut out, record.flags);
            put(&mut out, base + strings.offsets[2 * i]);
            put(&mut out, base + strings.offsets[2 * i + 1]);
            put(&mut out, 0);
            let hwcap = record.hwcaps.map_or(0, |index| {
                HWCAP_EXTENSION | u64::from(record.isa_level & 0x3ff) << 32 | u64::from(index)
            });
            out.extend(hwcap.to_le_bytes());
        }
        out.extend_from_slice(&strings.bytes);
        let names = &strings.offsets[2 * self.records.len()..];
        let names: Vec<u32> = names.iter().map(|offset| base + offset).collect();
        extensions(&mut out, &names);
        out
    }

    fn span_from(&self, start: usize) -> Span {
        Span {
            start: u32::try_from(start).unwrap_or(u32::MAX),
            len: len32(&self.text[start..]),
        }
    }

    fn get(&self, span: Span) -> &[u8] {
        &self.text[span.start as usize..][..span.len as usize]
    }

    fn hwcaps_index(&mut self, name: &[u8]) -> u32 {
        let index = self
            .hwcaps
            .iter()
            .position(|known| known == name)
            .unwrap_or_else(|| {
                self.hwcaps.push(name.to_vec());
                self.hwcaps.len() - 1
            });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Sorts the used hwcaps names by bytes, as the cache lists them.
    fn sort_hwcaps(&mut self) {
        let used: BTreeSet<u32> = self.records.iter().filter_map(|r| r.hwcaps).collect();
        let mut sorted: Vec<_> = used.iter().map(|&i| self.hwcaps[i as usize].clone()).collect();
        sorted.sort_unstable();
        let place = |index: u32| {
            let name = &self.hwcaps[index as usize];
            sorted
                .binary_search(name)
                .map_or(index, |i| u32::try_from(i).unwrap_or(index))
        };
        for record in &mut self.records {
            record.hwcaps = record.hwcaps.map(place);
        }
        self.hwcaps = sorted;
    }

    /// Sorts for the loader: names descending, flags descending, hwcaps entries first and by name,
    /// then in the order of addition.
    fn sort_records(&mut self) {
        struct Sortable {
            head: u128,
            key: Span,
            place: u32,
        }
        let mut keys = Vec::with_capacity(self.text.len());
        let mut order: Vec<Sortable> = Vec::with_capacity(self.records.len());
        for (place, record) in (0..).zip(&self.records) {
            let start = keys.len();
            order::key(self.get(record.soname), &mut keys);
            let key = &keys[start..];
            order.push(Sortable {
                head: head(key.iter()),
                key: Span {
                    start: u32::try_from(start).unwrap_or(u32::MAX),
                    len: len32(key),
                },
                place,
            });
        }
        let full = |s: &Sortable| &keys[s.key.start as usize..][..s.key.len as usize];
        let group = |s: &Sortable| {
            let record = &self.records[s.place as usize];
            (
                std::cmp::Reverse(record.flags),
                record.hwcaps.is_none(),
                record.hwcaps,
                s.place,
            )
        };
        order.sort_unstable_by(|a, b| {
            b.head
                .cmp(&a.head)
                .then_with(|| full(b).cmp(full(a)))
                .then_with(|| group(a).cmp(&group(b)))
        });
        self.records = order.iter().map(|s| self.records[s.place as usize]).collect();
    }
}

/// The string table in glibc's layout: sorted by the texts' ends, so that a text shares the bytes
/// of a longer one that ends with it.
struct Strings {
    bytes: Vec<u8>,
    /// The offsets of soname and path of each record, then of the hwcaps names.
    offsets: Vec<u32>,
}

impl Strings {
    fn lay_out(builder: &Builder) -> Self {
        struct Item<'a> {
            head: u128,
            text: &'a [u8],
            owner: u32,
        }
        let spans = builder.records.iter().flat_map(|r| [r.soname, r.path]);
        let texts = spans
            .map(|span| builder.get(span))
            .chain(builder.hwcaps.iter().map(Vec::as_slice));
        let mut items: Vec<Item<'_>> = (0..)
            .zip(texts)
            .map(|(owner, text)| Item {
                head: head(text.iter().rev()),
                text,
                owner,
            })
            .collect();
        items.sort_unstable_by(|a, b| b.head.cmp(&a.head).then_with(|| compare_ends(a.text, b.text)));
        let mut bytes: Vec<u8> = Vec::with_capacity(builder.text.len());
        let mut offsets = vec![0; items.len()];
        let mut previous: &[u8] = b"";
        let mut at = 0;
        for item in &items {
            if !bytes.is_empty() && previous.ends_with(item.text) {
                at += previous.len() - item.text.len();
            } else {
                at = bytes.len();
                bytes.extend_from_slice(item.text);
                bytes.push(0);
            }
            offsets[item.owner as usize] = u32::try_from(at).unwrap_or(u32::MAX);
            previous = item.text;
        }
        Self { bytes, offsets }
    }
}

/// Compares backwards: greater bytes first, a longer text before its own end.
fn compare_ends(a: &[u8], b: &[u8]) -> Ordering {
    b.iter().rev().cmp(a.iter().rev())
}

/// The first 16 bytes as a number, so that most comparisons are one.
fn head<'a>(bytes: impl Iterator<Item = &'a u8>) -> u128 {
    let mut value = 0;
    let mut shift: u32 = 120;
    for &byte in bytes.take(16) {
        value |= u128::from(byte) << shift;
        shift = shift.saturating_sub(8);
    }
    value
}

/// Writes the header; the extension section follows the strings at the next multiple of 4.
pub(crate) fn header(out: &mut Vec<u8>, entries: usize, strings: usize) {
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    out.extend_from_slice(NEW_MAGIC);
    put(out, size(entries));
    put(out, size(strings));
    put(out, u32::from(LITTLE_ENDIAN));
    put(
        out,
        size((HEADER + ENTRY * entries + strings).next_multiple_of(4)),
    );
    out.resize(HEADER, 0);
}

/// Appends the extension section: the generator, and the offsets of the hwcaps names if there are
/// any.
pub(crate) fn extensions(out: &mut Vec<u8>, hwcaps: &[u32]) {
    out.resize(out.len().next_multiple_of(4), 0);
    let sections = 1 + u32::from(!hwcaps.is_empty());
    let start = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let names_at = start + 8 + 16 * sections;
    let names_len = 4 * u32::try_from(hwcaps.len()).unwrap_or(u32::MAX);
    put(out, EXTENSION_MAGIC);
    put(out, sections);
    let generator = generator();
    let mut section = |tag, at, len| {
        for word in [tag, 0, at, len] {
            put(out, word);
        }
    };
    section(TAG_GENERATOR, names_at + names_len, len32(generator.as_bytes()));
    if !hwcaps.is_empty() {
        section(TAG_HWCAPS, names_at, names_len);
    }
    for &name in hwcaps {
        put(out, name);
    }
    out.extend_from_slice(generator.as_bytes());
}

pub(crate) fn put(out: &mut Vec<u8>, word: u32) {
    out.extend_from_slice(&word.to_le_bytes());
}

/// A length, which the limits on names and counts keep far below 4 GiB.
fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
