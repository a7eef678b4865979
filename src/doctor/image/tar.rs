//! A tar stream, header by header, in bounded memory.
//!
//! A general reader takes names of any length; here an extended header may not be larger than [`MAX_EXTENDED`]. Facts:
//! POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; the GNU tar manual, "Basic Tar Format".

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::process::ChildStdout;

const BLOCK: usize = 512;
/// Bytes of one extended header; a path has at most 4,096.
const MAX_EXTENDED: u64 = 1 << 20;

/// Something that is read from front to back, of which parts may be passed over.
pub trait Forward: Read {
    /// Passes over `n` bytes.
    fn skip(&mut self, n: u64) -> io::Result<()>
    where
        Self: Sized,
    {
        let skipped = io::copy(&mut self.by_ref().take(n), &mut io::sink())?;
        if skipped < n {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl<R: Forward> Forward for &mut R {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        (**self).skip(n)
    }
}

impl Forward for BufReader<File> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        self.seek_relative(i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?)
    }
}

impl Forward for BufReader<ChildStdout> {}

impl Forward for &[u8] {}

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file, whose bytes follow.
    File,
    /// A second name of an earlier file.
    HardLink,
    /// Devices, pipes and what is not known.
    Other,
    /// A symbolic link.
    SymbolicLink,
}

/// One entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// The path as written.
    pub path: Vec<u8>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Bytes that follow.
    pub size: u64,
}

/// A tar stream.
#[derive(Debug)]
pub struct Tar<R> {
    source: R,
    /// Bytes of the current entry that were not read, and its padding.
    left: u64,
    padding: u64,
}

impl<R: Forward> Tar<R> {
    /// A stream that begins at a header.
    pub fn new(source: R) -> Self {
        Self {
            source,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// `InvalidData` when this is no tar stream, `UnexpectedEof` when it is cut off.
    pub fn advance(&mut self) -> io::Result<Option<Header>> {
        let (mut path, mut link, mut size) = (None, None, None);
        loop {
            let skip = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
            if skip > 0 {
                self.source.skip(skip)?;
            }
            let mut block = [0; BLOCK];
            if !read_block(&mut self.source, &mut block)? || block == [0; BLOCK] {
                return Ok(None);
            }
            check_sum(&block)?;
            let own_size = number(&block[124..136])?;
            self.left = own_size;
            match block[156] {
                b'L' => path = Some(until_nul(&self.extended()?).to_vec()),
                b'K' => link = Some(until_nul(&self.extended()?).to_vec()),
                b'x' => {
                    for (key, value) in Records(&self.extended()?) {
                        match key {
                            b"path" => path = Some(value.to_vec()),
                            b"linkpath" => link = Some(value.to_vec()),
                            b"size" => size = decimal(value),
                            _ => {}
                        }
                    }
                }
                // Defaults for all entries: nothing that is of interest here.
                b'g' => drop(self.extended()?),
                flag => {
                    let kind = kind(flag);
                    // Only files have bytes, whatever the size of another says.
                    let size = if kind == Kind::File {
                        size.unwrap_or(own_size)
                    } else {
                        own_size
                    };
                    self.set_left(size)?;
                    return Ok(Some(Header {
                        path: path.unwrap_or_else(|| name(&block)),
                        link: link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
                        kind,
                        size,
                    }));
                }
            }
        }
    }

    /// The bytes of the current entry.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    fn set_left(&mut self, size: u64) -> io::Result<()> {
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .filter(|n| i64::try_from(*n).is_ok())
            .ok_or_else(|| bad("an entry's size"))?;
        self.left = size;
        self.padding = padded - size;
        Ok(())
    }

    /// Reads an extended header.
    fn extended(&mut self) -> io::Result<Vec<u8>> {
        let size = self.left;
        if size > MAX_EXTENDED {
            return Err(bad("an extended header's size"));
        }
        self.set_left(size)?;
        let mut bytes = Vec::new();
        self.data().read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}

/// The bytes of an entry.
#[derive(Debug)]
pub struct Data<'a, R>(&'a mut Tar<R>);

impl<R: Forward> Read for Data<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.0.left).map_or(buf.len(), |left| left.min(buf.len()));
        let n = self.0.source.read(&mut buf[..most])?;
        self.0.left -= n as u64;
        Ok(n)
    }
}

impl<R: Forward> Forward for Data<'_, R> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        if n > self.0.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.source.skip(n)?;
        self.0.left -= n;
        Ok(())
    }
}

fn kind(flag: u8) -> Kind {
    match flag {
        b'0' | b'7' | 0 => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::SymbolicLink,
        b'5' => Kind::Directory,
        _ => Kind::Other,
    }
}

fn read_block(source: &mut impl Read, block: &mut [u8; BLOCK]) -> io::Result<bool> {
    let mut got = 0;
    while got < BLOCK {
        match source.read(&mut block[got..]) {
            Ok(0) if got == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

fn check_sum(block: &[u8; BLOCK]) -> io::Result<()> {
    let said = number(&block[148..156])?;
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b }))
        .sum();
    (sum == said)
        .then_some(())
        .ok_or_else(|| bad("a header's checksum"))
}

/// Octal digits, or binary where the first bit is set (GNU).
fn number(field: &[u8]) -> io::Result<u64> {
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        let low = &field[field.len() - 8..];
        if field[1..field.len() - 8].iter().any(|b| *b != 0) || field[0] != 0x80 {
            return Err(bad("a number"));
        }
        return Ok(low.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    }
    let digits = field
        .iter()
        .skip_while(|b| **b == b' ')
        .take_while(|b| !matches!(b, 0 | b' '));
    digits.copied().try_fold(0_u64, |n, b| match b {
        b'0'..=b'7' => Ok(n << 3 | u64::from(b - b'0')),
        _ => Err(bad("a number")),
    })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

fn name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    // Where GNU's own format has other fields, its magic differs.
    if &block[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// The records of a pax header: `27 path=usr/lib/libcuda.so\n`.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let blank = self.0.iter().position(|b| *b == b' ')?;
        let length = usize::try_from(decimal(&self.0[..blank])?).ok()?;
        let record = self.0.get(blank + 1..length)?.strip_suffix(b"\n")?;
        self.0 = &self.0[length..];
        let equals = record.iter().position(|b| *b == b'=')?;
        Some((&record[..equals], &record[equals + 1..]))
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not a tar archive: {what} is wrong"),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn entry(path: &str, flag: u8, link: &str, data: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        if path.len() > 100 {
            let mut long = entry("././@LongLink", b'L', "", path.as_bytes());
            long.extend(entry(&path[..100], flag, link, data));
            return long;
        }
        block[..path.len()].copy_from_slice(path.as_bytes());
        block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        block[156] = flag;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block.extend(data);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }

    pub(in super::super) fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = entries.concat();
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    #[test]
    fn entries_links_and_long_names() {
        let long = "a/".repeat(80) + "file";
        let pax = "22 path=named/by/pax!\n";
        let bytes = archive(&[
            entry("usr/", b'5', "", b""),
            entry("usr/a", b'0', "", b"hello"),
            entry("usr/b", b'2', "/usr/a", b""),
            entry("usr/c", b'1', "usr/a", b""),
            entry(&long, b'0', "", &[7; 600]),
            entry("pax", b'x', "", pax.as_bytes()),
            entry("short", b'0', "", b"x"),
        ]);
        let mut tar = Tar::new(bytes.as_slice());
        let mut all = Vec::new();
        while let Some(header) = tar.advance().unwrap() {
            let mut data = Vec::new();
            if header.path == b"usr/a" {
                tar.data().read_to_end(&mut data).unwrap();
                assert_eq!(data, b"hello");
            }
            all.push((String::from_utf8(header.path).unwrap(), header.kind, header.size));
        }
        let names: Vec<_> = all.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["usr/", "usr/a", "usr/b", "usr/c", &long, "named/by/pax!"]);
        assert_eq!(all[2].1, Kind::SymbolicLink);
        assert_eq!(all[4].2, 600);
    }

    #[test]
    fn cut_off_and_forged_streams_are_errors() {
        let good = archive(&[entry("a", b'0', "", &[1; 1000])]);
        let mut tar = Tar::new(&good[..700]);
        tar.advance().unwrap();
        assert!(tar.advance().is_err());
        assert!(Tar::new(&[b'x'; 1024][..]).advance().is_err());
        // An extended header that claims more than it may.
        let mut huge = entry("x", b'L', "", b"");
        huge[124..135].copy_from_slice(b"77777777777");
        huge[148..156].fill(b' ');
        let sum: u32 = huge.iter().map(|b| u32::from(*b)).sum();
        huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(Tar::new(huge.as_slice()).advance().is_err());
    }
}
