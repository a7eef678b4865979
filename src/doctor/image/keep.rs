//! What of an archive is kept: a few kinds of files by name, of large libraries their headers alone.
//!
//! What is kept has its place and size in a sparse file, so that whoever reads it later cannot tell.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::fatbin::{CONTAINER_HEADER, ENTRY_HEADER, Entry, container};
use super::tar::Forward;
use super::walk::is_driver_library;
use crate::ldso::section::{u16_at, u32_at, u64_at};

/// How much of a file is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    /// Its headers, dynamic section, notes, section table, and the headers of its fat binaries.
    Headers,
    /// Nothing: it is of no interest.
    Nothing,
    /// That it is there, and its size.
    Size,
    /// All of it, up to so many bytes.
    Whole(u64),
}

const TEXT: Keep = Keep::Whole(1 << 20);

/// How much is kept of the file at `path` (without a leading slash).
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
        b"ld.so.cache" => Keep::Whole(32 << 20),
        b"libc.so.6" => Keep::Whole(16 << 20),
        // It has the list of architectures among its constants.
        b"libtorch_python.so" => Keep::Whole(128 << 20),
        b"libonnxruntime_providers_cuda.so" => Keep::Headers,
        b"libtorch_cpu.so" | b"libtorch_hip.so" | b"nvcc" => Keep::Size,
        _ if ends("etc/ld.so.conf.d/") || name.ends_with(b".path") && ends("etc/") => TEXT,
        _ if ends("conda-meta/") => Keep::Size,
        _ if starts("libtorch_cuda") || starts("libcuda.so") => Keep::Headers,
        _ if starts("_C.") && ends("vllm/") => Keep::Headers,
        _ if starts("ld-linux") || starts("ld-musl") || starts("libc-2.") => Keep::Whole(16 << 20),
        _ if starts("libcudart.so.") || starts("libcublas.so.") || starts("libcudnn.so.") => Keep::Size,
        _ if starts("libbitsandbytes_") || is_driver_library(name) => Keep::Size,
        _ if starts("python") && ends("bin/") => Keep::Size,
        _ => Keep::Nothing,
    }
}

/// Bytes at the front and at the end of a library that are kept.
const END: u64 = 1 << 20;
/// Bytes of a dynamic section or of notes.
const MAX_SEGMENT: u64 = 1 << 20;
const MAX_SEGMENTS: usize = 128;
const BUFFER: usize = 256 << 10;

/// Writes what is kept of a file of `size` bytes to `out`, at its place.
///
/// # Errors
/// Of the source, or `InvalidData` when a file that is kept whole is larger than it may be.
pub fn store(source: &mut impl Forward, size: u64, keep: Keep, out: &File) -> io::Result<()> {
    match keep {
        Keep::Nothing => return Ok(()),
        Keep::Whole(max) if size <= max => {
            let mut at = 0;
            let mut buffer = vec![0; BUFFER];
            while at < size {
                let n = source.read(&mut buffer)?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                out.write_all_at(&buffer[..n], at)?;
                at += n as u64;
            }
            return Ok(());
        }
        Keep::Headers => Headers::new(source, size, out).run()?,
        Keep::Size | Keep::Whole(_) => {}
    }
    if size > 0 {
        let mut last = [0];
        if out.read_at(&mut last, size - 1)? == 0 {
            out.write_all_at(&[0], size - 1)?;
        }
    }
    Ok(())
}

/// A library on its way past.
struct Headers<'a, S> {
    source: &'a mut S,
    size: u64,
    out: &'a File,
    /// The bytes from `at` on.
    buffer: Vec<u8>,
    at: u64,
    /// What is kept besides the headers of fat binaries.
    ranges: Vec<(u64, u64)>,
}

impl<'a, S: Forward> Headers<'a, S> {
    fn new(source: &'a mut S, size: u64, out: &'a File) -> Self {
        Self {
            source,
            size,
            out,
            buffer: Vec::with_capacity(BUFFER),
            at: 0,
            ranges: vec![(0, END), (size.saturating_sub(END), size)],
        }
    }

    fn run(&mut self) -> io::Result<()> {
        const PT_DYNAMIC: u32 = 2;
        const PT_NOTE: u32 = 4;
        let head = self.ahead(4096)?;
        let table = u64_at(head, 32)
            .and_then(|at| usize::try_from(at).ok())
            .unwrap_or(64);
        let count = u16_at(head, 56).map_or(0, usize::from).min(MAX_SEGMENTS);
        let segments: Vec<(u64, u64)> = (0..count)
            .filter_map(|i| {
                let h = head.get(table.checked_add(56 * i)?..)?;
                let kind = u32_at(h, 0)?;
                let (start, size) = (u64_at(h, 8)?, u64_at(h, 32)?.min(MAX_SEGMENT));
                matches!(kind, PT_DYNAMIC | PT_NOTE).then(|| (start, start.saturating_add(size)))
            })
            .collect();
        self.ranges.extend(segments);
        while self.find_container()? {
            self.container()?;
        }
        Ok(())
    }

    /// Goes to the next container; `false` at the end.
    fn find_container(&mut self) -> io::Result<bool> {
        loop {
            if self.ahead(BUFFER)?.len() < CONTAINER_HEADER {
                self.pass(self.size - self.at)?;
                return Ok(false);
            }
            // Containers are aligned in the file.
            let start = usize::try_from(self.at.next_multiple_of(8) - self.at).unwrap_or(0);
            let end = self.buffer.len() - CONTAINER_HEADER;
            let found = (start..=end)
                .step_by(8)
                .find(|i| container(&self.buffer[*i..]).is_some());
            match found {
                Some(i) => {
                    self.pass(i as u64)?;
                    return Ok(true);
                }
                None => self
                    .pass((start + (end.saturating_sub(start) / 8 + 1) * 8).min(self.buffer.len()) as u64)?,
            }
        }
    }

    /// Keeps the headers of the container that starts here.
    fn container(&mut self) -> io::Result<()> {
        let end = self.header(CONTAINER_HEADER, container)?;
        let mut end = end
            .unwrap_or(0)
            .saturating_add(self.at)
            .saturating_add(CONTAINER_HEADER as u64);
        if end > self.size {
            // Not what it seems.
            end = self.at + CONTAINER_HEADER as u64;
        }
        self.pass(CONTAINER_HEADER as u64)?;
        while self.at.saturating_add(ENTRY_HEADER as u64) <= end {
            let entry = self.header(ENTRY_HEADER, |head| Entry::parse(head).map(|e| e.size))?;
            match entry {
                Some(size) if size <= end - self.at => self.pass(size)?,
                _ => break,
            }
        }
        self.pass(end - self.at)
    }

    /// Keeps the next `n` bytes and hands them to `f`.
    fn header<T>(&mut self, n: usize, f: impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
        let at = self.at;
        let out = self.out;
        let head = self.ahead(n)?;
        let Some(head) = head.get(..n) else {
            return Ok(None);
        };
        out.write_all_at(head, at)?;
        Ok(f(head))
    }

    /// At least `n` bytes from here on; fewer at the end of the file.
    fn ahead(&mut self, n: usize) -> io::Result<&[u8]> {
        while self.buffer.len() < n {
            let left = self.size - self.at - self.buffer.len() as u64;
            if left == 0 {
                break;
            }
            let have = self.buffer.len();
            let more = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            self.buffer.resize(have + more, 0);
            let got = self.source.read(&mut self.buffer[have..])?;
            self.buffer.truncate(have + got);
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(&self.buffer)
    }

    /// Goes on by `n` bytes and writes those that are kept.
    fn pass(&mut self, mut n: u64) -> io::Result<()> {
        while n > 0 {
            if self.buffer.is_empty() {
                // Up to the next range nothing is looked at.
                let next = self
                    .ranges
                    .iter()
                    .filter(|r| r.1 > self.at)
                    .map(|r| r.0.saturating_sub(self.at));
                let free = next.min().unwrap_or(u64::MAX).min(n);
                if free > 0 {
                    self.source.skip(free)?;
                    self.at += free;
                    n -= free;
                    continue;
                }
                self.ahead(1)?;
            }
            let step = usize::try_from(n).map_or(self.buffer.len(), |n| n.min(self.buffer.len()));
            if step == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let to = self.at + step as u64;
            for (start, end) in &self.ranges {
                let (from, until) = ((*start).max(self.at), (*end).min(to));
                if from < until {
                    let offset = |place: u64| usize::try_from(place - self.at).unwrap_or(0);
                    self.out
                        .write_all_at(&self.buffer[offset(from)..offset(until)], from)?;
                }
            }
            self.buffer.drain(..step);
            self.at = to;
            n -= step as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::image::fatbin::{Fatbins, tests::library};

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

    fn stored(bytes: &[u8], keep: Keep) -> File {
        let out = tempfile::tempfile().unwrap();
        store(&mut &*bytes, bytes.len() as u64, keep, &out).unwrap();
        out
    }

    /// A large library with code in the middle: what is kept reads like the whole.
    #[test]
    fn headers_alone_tell_the_same() {
        use crate::ldso::section::tests::elf_with;
        let small = library();
        let section = crate::ldso::section::sections(small.as_slice())
            .unwrap()
            .into_iter()
            .find(|s| s.name == b".nv_fatbin")
            .unwrap();
        let at = usize::try_from(section.offset).unwrap();
        let code = small[at..at + usize::try_from(section.size).unwrap()].to_vec();
        let mut zeros = vec![0_u8; 3 << 20];
        // Something that only looks like a container.
        zeros[1024..1032].copy_from_slice(&code[..8]);
        zeros[1032..1040].copy_from_slice(&u64::MAX.to_le_bytes());
        let filler: Vec<u8> = (0..3_u32 << 20).map(|i| (i % 251) as u8).collect();
        let large = elf_with(&[(".text", zeros), (".nv_fatbin", code), (".data", filler)]);
        let out = stored(&large, Keep::Headers);
        let whole = Fatbins::read(large.as_slice());
        assert_eq!(whole.total(), 2);
        assert_eq!(Fatbins::read(&out), whole);
        let meta = out.metadata().unwrap();
        assert_eq!(meta.len(), large.len() as u64);
        let mut middle = [1; 64];
        out.read_at(&mut middle, 5 << 20).unwrap();
        assert_eq!(middle, [0; 64], "the rest is not kept");
    }

    #[test]
    fn size_and_whole() {
        let out = stored(&[5; 5000], Keep::Size);
        assert_eq!(out.metadata().unwrap().len(), 5000);
        let out = stored(&[5; 5000], Keep::Whole(5000));
        let mut last = [0; 2];
        assert_eq!(out.read_at(&mut last, 4999).unwrap(), 1);
        assert_eq!(last[0], 5);
        // Too large to be kept: its size is.
        let out = stored(&[5; 5000], Keep::Whole(4999));
        assert_eq!((out.read_at(&mut last, 0).unwrap(), last), (2, [0, 0]));
    }
}
