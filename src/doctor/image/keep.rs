//! Decides which parts of an archive's files are kept: some files whole, large libraries' headers
//! only.
//!
//! Kept parts are at their offsets in a sparse file of the original size, so readers need no
//! special case. For example, of `libtorch_cuda.so` (1 GB) the ELF and fat binary headers are kept.

use std::io;

use super::fatbin::{CONTAINER_HEADER, ENTRY_HEADER, Entry, MAX_HEADERS, container};
use super::frameworks::{ARCH_LIST, MAX_ARCH_LIST};
use super::pairs::{ONNXRUNTIME, PAIRED};
use super::scratch::Out;
use super::tar::Forward;
use super::walk::is_driver_library;
use crate::compat::libraries;
use crate::ldso::section::{u16_at, u32_at, u64_at};

/// The part of a file that is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    /// [`Keep::Headers`] without fat binaries, and the list of architectures among its constants.
    ArchList,
    /// [`Keep::Headers`] without fat binaries.
    Dynamic,
    /// Its headers, dynamic section, notes, section table, and the headers of its fat binaries.
    Headers,
    /// Nothing.
    Nothing,
    /// Its size only.
    Size,
    /// All of it, up to this many bytes.
    Whole(u64),
}

/// Readers take no longer text.
const TEXT: Keep = Keep::Whole(64 << 10);

/// The part that is kept of the file at `path` (without a leading slash).
pub fn of(path: &[u8]) -> Keep {
    let slash = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let (dir, name) = path.split_at(slash);
    let ends = |end: &str| dir.ends_with(end.as_bytes());
    let starts = |start: &str| name.starts_with(start.as_bytes());
    match name {
        b"version.py"
        | b"_version.py"
        | b"build_info.py"
        | b"build_and_package_info.py"
        | b"pyvenv.cfg"
        | b"version.json"
        | b"os-release"
        | b"alpine-release"
        | b"ld.so.conf" => TEXT,
        b"WHEEL" if ends(".dist-info/") => TEXT,
        b"ld.so.cache" | b"libc.so.6" => Keep::Whole(16 << 20),
        b"libtorch_python.so" => Keep::ArchList,
        b"libonnxruntime_providers_cuda.so" | b"libggml-cuda.so" => Keep::Headers,
        b"libtensorflow_framework.so.2" | b"libtensorflow_cc.so.2" | b"xla_cuda_plugin.so" => Keep::Dynamic,
        b"__init__.py" if ends("paddle/version/") => TEXT,
        b"METADATA" if is_paired(dir) => TEXT,
        b"RECORD" if is_record_of(dir, b"onnxruntime") => TEXT,
        b"libtorch_cpu.so" | b"libtorch_hip.so" | b"nvcc" | b"tritonserver" => Keep::Size,
        _ if ends("etc/ld.so.conf.d/") || name.ends_with(b".path") && ends("etc/") => TEXT,
        _ if ends("conda-meta/") => Keep::Size,
        b"status" if ends("var/lib/dpkg/") => Keep::Whole(16 << 20),
        _ if starts("libtorch_cuda") || starts("libcuda.so") => Keep::Headers,
        _ if starts("_C.") && ends("vllm/") => Keep::Headers,
        _ if starts("ld-linux") || starts("ld-musl") || starts("libc-2.") => Keep::Whole(16 << 20),
        _ if is_cuda(name) || starts("libnvinfer.so.") || starts("libctranslate2.so.") => Keep::Size,
        _ if starts(ONNXRUNTIME) || starts("libbitsandbytes_") || is_driver_library(name) => Keep::Size,
        _ if starts("python") && ends("bin/") => Keep::Size,
        _ => Keep::Nothing,
    }
}

/// Whether it is one of CUDA's libraries that are searched by name.
fn is_cuda(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(libraries::is_cuda)
}

/// Whether a directory is a package's record whose requirements are read.
fn is_paired(dir: &[u8]) -> bool {
    PAIRED
        .iter()
        .any(|(known, _)| is_record_of(dir, [known.as_bytes(), b"-"].concat().as_slice()))
}

/// Whether a directory is a package's record whose name begins with `begin`.
fn is_record_of(dir: &[u8], begin: &[u8]) -> bool {
    let record = dir.strip_suffix(b"/").unwrap_or(dir);
    let record = record.rsplit(|b| *b == b'/').next().unwrap_or_default();
    record.ends_with(b".dist-info") && record.starts_with(begin)
}

/// The bytes at the start and the end of a library that are kept.
const END: u64 = 1 << 20;
/// The longest dynamic section or notes that are kept, in bytes.
const MAX_SEGMENT: u64 = 1 << 20;
const MAX_SEGMENTS: usize = 128;
/// The most matches of a list of architectures; PyTorch has one.
const MAX_LISTS: usize = 16;
const BUFFER: usize = 256 << 10;

/// Writes the kept parts of a file of `size` bytes to `out`, at their offsets.
///
/// # Errors
/// Those of the source and of the budget; `UnexpectedEof` if the source is shorter than `size`.
pub fn store(source: &mut impl Forward, size: u64, keep: Keep, out: &mut Out<'_>) -> io::Result<()> {
    match keep {
        Keep::Whole(max) if size <= max => whole(source, size, out)?,
        Keep::ArchList => Passing::new(source, size, out).arch_list()?,
        Keep::Dynamic => Passing::new(source, size, out).dynamic()?,
        Keep::Headers => Passing::new(source, size, out).headers()?,
        Keep::Nothing | Keep::Size | Keep::Whole(_) => {}
    }
    out.sized(size)
}

fn whole(source: &mut impl Forward, size: u64, out: &mut Out<'_>) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(size).map_or(BUFFER, |size| size.min(BUFFER))];
    let mut at = 0;
    while at < size {
        let n = usize::try_from(size - at).map_or(BUFFER, |left| left.min(buffer.len()));
        // In whole buffers, so that no block is written twice.
        source.read_exact(&mut buffer[..n])?;
        out.write(&buffer[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// A library that is streamed once.
struct Passing<'a, 'b, S> {
    source: &'a mut S,
    size: u64,
    out: &'a mut Out<'b>,
    /// The bytes of `buffer` from `begin` on have the offsets from `at` on.
    buffer: Vec<u8>,
    begin: usize,
    at: u64,
    /// The offsets that are kept: sorted and disjoint.
    ranges: Vec<(u64, u64)>,
}

impl<'a, 'b, S: Forward> Passing<'a, 'b, S> {
    fn new(source: &'a mut S, size: u64, out: &'a mut Out<'b>) -> Self {
        Self {
            source,
            size,
            out,
            buffer: Vec::new(),
            begin: 0,
            at: 0,
            ranges: Vec::new(),
        }
    }

    /// Adds the ranges of the ELF tables.
    fn tables(&mut self) -> io::Result<()> {
        const PT_DYNAMIC: u32 = 2;
        const PT_NOTE: u32 = 4;
        let mut ranges = vec![(0, END), (self.size.saturating_sub(END), self.size)];
        let head = self.ahead(4096)?;
        let table = u64_at(head, 32)
            .and_then(|at| usize::try_from(at).ok())
            .unwrap_or(64);
        let count = u16_at(head, 56).map_or(0, usize::from).min(MAX_SEGMENTS);
        ranges.extend((0..count).filter_map(|i| {
            let h = head.get(table.checked_add(56 * i)?..)?;
            let kind = u32_at(h, 0)?;
            let (start, size) = (u64_at(h, 8)?, u64_at(h, 32)?.min(MAX_SEGMENT));
            matches!(kind, PT_DYNAMIC | PT_NOTE).then(|| (start, start.saturating_add(size)))
        }));
        ranges.sort_unstable();
        for (start, end) in ranges {
            match self.ranges.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => self.ranges.push((start, end)),
            }
        }
        Ok(())
    }

    fn dynamic(mut self) -> io::Result<()> {
        self.tables()?;
        self.pass(self.size - self.at)
    }

    fn headers(mut self) -> io::Result<()> {
        self.tables()?;
        while self.out.extents() < MAX_HEADERS && self.find_container()? {
            self.container()?;
        }
        self.pass(self.size - self.at)
    }

    fn arch_list(mut self) -> io::Result<()> {
        const DIGITS: usize = 2;
        let most = ARCH_LIST.len() + DIGITS;
        let starts =
            |w: &[u8]| w.starts_with(ARCH_LIST) && w[ARCH_LIST.len()..].iter().all(u8::is_ascii_digit);
        self.tables()?;
        for _ in 0..MAX_LISTS {
            let found = loop {
                let ahead = self.ahead(BUFFER)?;
                if ahead.len() < most {
                    break false;
                }
                let place = ahead.windows(most).position(starts);
                let passed = place.unwrap_or(ahead.len() - most + 1);
                self.pass(passed as u64)?;
                self.out.budget().check()?;
                if place.is_some() {
                    break true;
                }
            };
            if !found {
                break;
            }
            let at = self.at;
            let ahead = self.ahead(MAX_ARCH_LIST)?;
            let text = ahead[..ahead.len().min(MAX_ARCH_LIST)].to_vec();
            self.out.write(&text, at)?;
            self.pass(most as u64)?;
        }
        self.pass(self.size - self.at)
    }

    /// Advances to the next container; `false` at the end.
    fn find_container(&mut self) -> io::Result<bool> {
        loop {
            // Containers are aligned in the file.
            let start = usize::try_from(self.at.next_multiple_of(8) - self.at).unwrap_or(0);
            let ahead = self.ahead(BUFFER)?;
            let places = ahead.len().saturating_sub(CONTAINER_HEADER - 1);
            if start >= places {
                return Ok(false);
            }
            let found = (start..places)
                .step_by(8)
                .find(|i| container(&ahead[*i..]).is_some());
            let next = start + (places - start).next_multiple_of(8);
            let passed = found.unwrap_or(next.min(ahead.len()));
            self.pass(passed as u64)?;
            self.out.budget().step()?;
            if found.is_some() {
                return Ok(true);
            }
        }
    }

    /// Keeps the headers of the container at the current offset.
    fn container(&mut self) -> io::Result<()> {
        let size = self.header(CONTAINER_HEADER, container)?.unwrap_or(0);
        self.pass(CONTAINER_HEADER as u64)?;
        let mut end = self.at.saturating_add(size);
        if end > self.size {
            // It only has the magic of a container.
            end = self.at;
        }
        while self.at.saturating_add(ENTRY_HEADER as u64) <= end && self.out.extents() < MAX_HEADERS {
            let entry = self.header(ENTRY_HEADER, |head| Entry::parse(head).map(|e| e.size))?;
            match entry {
                Some(size) if size <= end - self.at => self.pass(size)?,
                _ => break,
            }
        }
        self.pass(end - self.at)
    }

    /// Keeps the next `n` bytes and passes them to `f`.
    fn header<T>(&mut self, n: usize, f: impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
        self.out.budget().entry()?;
        let at = self.at;
        let mut bytes = [0; ENTRY_HEADER];
        match (self.ahead(n)?.get(..n), bytes.get_mut(..n)) {
            (Some(head), Some(bytes)) => bytes.copy_from_slice(head),
            _ => return Ok(None),
        }
        self.out.extent(&bytes[..n], at)?;
        Ok(f(&bytes[..n]))
    }

    /// At least `n` bytes from the current offset; fewer at the end of the file.
    fn ahead(&mut self, n: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.begin < n {
            self.buffer.drain(..self.begin);
            self.begin = 0;
        }
        while self.buffer.len() - self.begin < n {
            let have = self.buffer.len();
            let left = self.size - self.at - have as u64;
            if left == 0 {
                break;
            }
            let more = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            self.buffer.resize(have + more, 0);
            let got = self.source.read(&mut self.buffer[have..])?;
            self.buffer.truncate(have + got);
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(&self.buffer[self.begin..])
    }

    /// Advances by `n` bytes and writes the kept ones.
    fn pass(&mut self, mut n: u64) -> io::Result<()> {
        while n > 0 {
            if self.begin == self.buffer.len() {
                // No range begins before the next one.
                let next = self.ranges.iter().find(|r| r.1 > self.at);
                let free = next.map_or(n, |r| r.0.saturating_sub(self.at).min(n));
                if free > 0 {
                    self.source.skip(free)?;
                    self.at += free;
                    n -= free;
                    continue;
                }
                self.ahead(1)?;
            }
            let ahead = self.buffer.len() - self.begin;
            let step = usize::try_from(n).map_or(ahead, |n| n.min(ahead));
            if step == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let bytes = &self.buffer[self.begin..self.begin + step];
            let to = self.at + step as u64;
            for (start, end) in &self.ranges {
                let (from, until) = ((*start).max(self.at), (*end).min(to));
                if from < until {
                    let offset = |place: u64| usize::try_from(place - self.at).unwrap_or(0);
                    self.out.write(&bytes[offset(from)..offset(until)], from)?;
                }
            }
            self.begin += step;
            self.at = to;
            n -= step as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Library;
    use super::*;
    use crate::doctor::image::fatbin::{
        Fatbins,
        tests::{container_of, entry, library},
    };
    use crate::ldso::elf::ReadAt as _;
    use crate::sys::budget::Budget;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn by_name() {
        for (path, keep) in [
            ("opt/conda/lib/python3.10/site-packages/torch/version.py", TEXT),
            ("usr/lib/libtorch_cuda.so", Keep::Headers),
            ("etc/ld.so.conf.d/nvidia.conf", TEXT),
            ("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.14", Keep::Size),
            ("usr/bin/python3.10", Keep::Size),
            ("usr/bin/bash", Keep::Nothing),
            ("opt/conda/conda-meta/cudatoolkit-11.8.0-0.json", Keep::Size),
        ] {
            assert_eq!(of(path.as_bytes()), keep, "{path}");
        }
    }

    fn with<T>(bytes: &[u8], keep: Keep, f: impl FnOnce(Library<'_>, u64) -> T) -> T {
        let budget = Budget::default();
        let file = tempfile::tempfile().unwrap();
        let meta = file.try_clone().unwrap();
        let mut out = Out::new(0, file, &budget);
        store(&mut &*bytes, bytes.len() as u64, keep, &mut out).unwrap();
        let meta = meta.metadata().unwrap();
        assert_eq!(meta.len(), bytes.len() as u64);
        let mut extents = Vec::new();
        f(out.into_library(&mut extents), meta.blocks() * 512)
    }

    /// A large library with code in the middle: readers get the same from the kept parts.
    #[test]
    fn headers_alone_read_like_the_whole() {
        use crate::ldso::fixtures::elf_with;
        let budget = Budget::default();
        let small = library();
        let section = ldso::section::sections(small.as_slice())
            .unwrap()
            .into_iter()
            .find(|s| s.name == b".nv_fatbin")
            .unwrap();
        let at = usize::try_from(section.offset).unwrap();
        let code = small[at..at + usize::try_from(section.size).unwrap()].to_vec();
        let mut zeros = vec![0_u8; 3 << 20];
        // A false match of a container's magic.
        zeros[1024..1032].copy_from_slice(&code[..8]);
        zeros[1032..1040].copy_from_slice(&u64::MAX.to_le_bytes());
        let filler: Vec<u8> = (0..3_u32 << 20).map(|i| (i % 251) as u8).collect();
        let large = elf_with(&[(".text", zeros), (".nv_fatbin", code), (".data", filler)]);
        let whole = Fatbins::read(large.as_slice(), &budget);
        assert_eq!(whole.total(), 2);
        with(&large, Keep::Headers, |kept, allocated| {
            assert_eq!(Fatbins::read(&kept, &budget), whole);
            let mut middle = [1; 64];
            kept.read_at(&mut middle, 5 << 20).unwrap();
            assert_eq!(middle, [0; 64], "the rest is not kept");
            assert!(allocated < 3 << 20, "{allocated}");
        });
    }

    /// Headers in every 4 KiB of 12 MiB need no block each.
    #[test]
    fn headers_that_lie_apart_are_kept_in_little() {
        use crate::ldso::fixtures::elf_with;
        let budget = Budget::default();
        let one = container_of(&[entry(2, 80, (1, 7), 4096)]);
        let large = elf_with(&[(".nv_fatbin", one.repeat((12 << 20) / one.len()))]);
        let whole = Fatbins::read(large.as_slice(), &budget);
        with(&large, Keep::Headers, |kept, allocated| {
            assert_eq!(Fatbins::read(&kept, &budget), whole);
            assert!(allocated < 3 << 20, "{allocated}");
        });
    }

    #[test]
    fn lengths_of_a_library_at_their_ends() {
        let good = library();
        let at = good
            .windows(8)
            .position(|w| w[..4] == [0x50, 0xed, 0x55, 0xba])
            .unwrap();
        // Program headers, section headers, and the fat binary's own lengths.
        for place in [0x20, 0x28, 0x36, 0x38, 0x3a, 0x3c, 0x3e, at + 8, at + 20, at + 24] {
            for value in [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, i64::MAX as u64] {
                for len in [2, 4, 8] {
                    let mut bad = good.clone();
                    bad[place..place + len].copy_from_slice(&value.to_le_bytes()[..len]);
                    for keep in [Keep::Headers, Keep::ArchList] {
                        with(&bad, keep, |kept, _| Fatbins::read(&kept, &Budget::default()));
                    }
                }
            }
        }
    }

    #[test]
    fn the_list_of_architectures_is_kept() {
        use crate::ldso::fixtures::elf_with;
        let mut rodata = vec![b'r'; 12 << 20];
        let place = 6 << 20;
        rodata[place - 1..place + 14].copy_from_slice(b"\0sm_50 sm_60\0rr");
        let large = elf_with(&[(".text", vec![0x90; 2 << 20]), (".rodata", rodata)]);
        with(&large, Keep::ArchList, |kept, allocated| {
            let found = large.windows(5).position(|w| w == b"sm_50").unwrap();
            let mut text = [0; 12];
            kept.read_at(&mut text, found as u64).unwrap();
            assert_eq!(&text, b"sm_50 sm_60\0");
            assert!(allocated < 3 << 20, "{allocated}");
        });
    }

    #[test]
    fn size_and_whole() {
        let read = |kept: &Library<'_>, at: u64| {
            let mut last = [0; 2];
            let n = kept.read_at(&mut last, at).unwrap();
            (n, last)
        };
        with(&[5; 5000], Keep::Size, |_, allocated| assert_eq!(allocated, 0));
        with(&[5; 5000], Keep::Whole(5000), |kept, _| {
            assert_eq!(read(&kept, 4999), (1, [5, 0]));
        });
        // Too large to keep, so only the size is kept.
        with(&[5; 5000], Keep::Whole(4999), |kept, _| {
            assert_eq!(read(&kept, 0), (2, [0, 0]));
        });
        // Zeros are holes.
        let mut zeros = vec![0; 11 << 20];
        zeros[5 << 20] = 7;
        with(&zeros, Keep::Whole(16 << 20), |kept, allocated| {
            assert_eq!(read(&kept, 5 << 20), (2, [7, 0]));
            assert!(allocated <= 64 << 10, "{allocated}");
        });
    }

    #[test]
    fn a_source_that_is_too_short_is_an_error() {
        for keep in [Keep::Headers, Keep::ArchList, Keep::Whole(1 << 20)] {
            let budget = Budget::default();
            let mut out = Out::new(0, tempfile::tempfile().unwrap(), &budget);
            let error = store(&mut &b"short"[..], 1000, keep, &mut out).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{keep:?}");
        }
    }
}
