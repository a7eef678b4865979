//! Reads a tar stream, header by header, in bounded memory.
//!
//! General readers accept names of any length; here an extended header has at most [`MAX_EXTENDED`]
//! bytes. Facts: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; the GNU
//! tar manual, "Basic Tar Format" and "Storing Sparse Files". As in Go's `archive/tar`, which
//! engines use, the type decides which entries have data.

use std::fs::File;
use std::io::{self, BufReader, Read};

use crate::sys::budget::Budget;

const BLOCK: usize = 512;
/// The largest extended header, in bytes; a path has at most 4,096.
const MAX_EXTENDED: u64 = 1 << 20;
/// The bytes of a name that are read: one more than the longest path.
const MAX_NAME: usize = 4097;

/// A forward reader that can skip parts.
pub trait Forward: Read {
    /// Skips `n` bytes.
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let skipped = io::copy(&mut Read::take(&mut *self, n), &mut io::sink())?;
        if skipped < n {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl<R: Forward + ?Sized> Forward for &mut R {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        (**self).skip(n)
    }
}

impl Forward for BufReader<File> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        // An offset beyond any file's is also beyond the end of this one.
        let past = |_| io::Error::from(io::ErrorKind::UnexpectedEof);
        self.seek_relative(i64::try_from(n).map_err(past)?)
            .map_err(|e| match e.kind() {
                io::ErrorKind::InvalidInput => io::ErrorKind::UnexpectedEof.into(),
                _ => e,
            })
    }
}

impl Forward for &[u8] {}

/// The type of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A device node or a FIFO.
    Device,
    /// A directory.
    Directory,
    /// A regular file, whose bytes follow.
    File,
    /// A hard link to an earlier file.
    HardLink,
    /// An unknown type.
    Other,
    /// A sparse file (GNU), of which only parts follow.
    Sparse,
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
    /// Its type.
    pub kind: Kind,
    /// The number of bytes that follow.
    pub size: u64,
}

/// The extended headers' values for the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Extended {
    fn pax(&mut self, records: &[u8]) {
        for (key, value) in Records(records) {
            match key {
                b"path" => self.path = Some(short(value)),
                b"linkpath" => self.link = Some(short(value)),
                b"size" => self.size = decimal(value),
                b"GNU.sparse.name" => {
                    self.path = Some(short(value));
                    self.sparse = true;
                }
                key => self.sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
    }
}

/// A tar stream.
#[derive(Debug)]
pub struct Tar<'b, R> {
    source: R,
    budget: &'b Budget,
    /// The unread bytes of the current entry, and its padding.
    left: u64,
    padding: u64,
}

impl<'b, R: Forward> Tar<'b, R> {
    /// A stream that is at a header.
    pub fn new(source: R, budget: &'b Budget) -> Self {
        Self {
            source,
            budget,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// `InvalidData` if this is no tar stream, `UnexpectedEof` if it is truncated.
    pub fn advance(&mut self) -> io::Result<Option<Header>> {
        let mut extended = Extended::default();
        loop {
            let skip = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
            if skip > 0 {
                self.source.skip(skip)?;
            }
            self.budget.entry()?;
            let mut block = [0; BLOCK];
            if !read_block(&mut self.source, &mut block)? || block == [0; BLOCK] {
                return Ok(None);
            }
            check_sum(&block)?;
            self.set_left(number(&block[124..136])?)?;
            match block[156] {
                b'L' => extended.path = Some(short(until_nul(&self.extended()?))),
                b'K' => extended.link = Some(short(until_nul(&self.extended()?))),
                b'x' => extended.pax(&self.extended()?),
                // Defaults for all entries; none of their keys is used.
                b'g' => {}
                flag => return self.entry(&block, flag, extended).map(Some),
            }
        }
    }

    /// The bytes of the current entry.
    pub fn data(&mut self) -> Data<'_, 'b, R> {
        Data(self)
    }

    /// Parses the entry of this header; `left` is its claimed size.
    fn entry(&mut self, block: &[u8; BLOCK], flag: u8, extended: Extended) -> io::Result<Header> {
        let kind = match kind(flag) {
            Kind::File if extended.sparse => Kind::Sparse,
            kind => kind,
        };
        let size = match kind {
            Kind::File | Kind::Other | Kind::Sparse => extended.size.unwrap_or(self.left),
            Kind::Device | Kind::Directory | Kind::HardLink | Kind::SymbolicLink => 0,
        };
        self.set_left(size)?;
        // The map of GNU's old form continues in blocks before the data.
        let mut more = flag == b'S' && block[482] != 0;
        while more {
            self.budget.step()?;
            let mut map = [0; BLOCK];
            if !read_block(&mut self.source, &mut map)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            more = map[504] != 0;
        }
        Ok(Header {
            path: extended.path.unwrap_or_else(|| name(block)),
            link: extended
                .link
                .unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
            kind,
            size,
        })
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
pub struct Data<'a, 'b, R>(&'a mut Tar<'b, R>);

impl<R: Forward> Read for Data<'_, '_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.0.left).map_or(buf.len(), |left| left.min(buf.len()));
        let n = self.0.source.read(&mut buf[..most])?;
        self.0.left -= n as u64;
        Ok(n)
    }
}

impl<R: Forward> Forward for Data<'_, '_, R> {
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
        b'3' | b'4' | b'6' => Kind::Device,
        b'5' => Kind::Directory,
        b'S' => Kind::Sparse,
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
    let claimed = number(&block[148..156])?;
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b }))
        .sum();
    (sum == claimed)
        .then_some(())
        .ok_or_else(|| bad("a header's checksum"))
}

/// Octal digits, or binary if the first bit is set (GNU). No number is negative.
fn number(field: &[u8]) -> io::Result<u64> {
    let wrong = || bad("a number");
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        const SIGN: u8 = 0x40;
        if first & SIGN != 0 {
            return Err(wrong());
        }
        return rest.iter().try_fold(u64::from(first & !0x80), |n, b| {
            let shifted = n.checked_mul(256).ok_or_else(wrong)?;
            Ok(shifted | u64::from(*b))
        });
    }
    let digits = field
        .iter()
        .skip_while(|b| **b == b' ')
        .take_while(|b| !matches!(b, 0 | b' '));
    digits.copied().try_fold(0_u64, |n, b| match b {
        b'0'..=b'7' => Ok(n << 3 | u64::from(b - b'0')),
        _ => Err(wrong()),
    })
}

/// A copy of a name, cut off beyond the longest path.
fn short(name: &[u8]) -> Vec<u8> {
    name[..name.len().min(MAX_NAME)].to_vec()
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
    // GNU's own format has other fields here, and another magic.
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
        let budget = Budget::default();
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
        let mut tar = Tar::new(bytes.as_slice(), &budget);
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
        let budget = Budget::default();
        let good = archive(&[entry("a", b'0', "", &[1; 1000])]);
        let mut tar = Tar::new(&good[..700], &budget);
        tar.advance().unwrap();
        assert!(tar.advance().is_err());
        assert!(Tar::new(&[b'x'; 1024][..], &budget).advance().is_err());
        // An extended header beyond the bound.
        let mut huge = entry("x", b'L', "", b"");
        huge[124..135].copy_from_slice(b"77777777777");
        huge[148..156].fill(b' ');
        let sum: u32 = huge.iter().map(|b| u32::from(*b)).sum();
        huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(Tar::new(huge.as_slice(), &budget).advance().is_err());
    }

    /// Sets a field of a header, and its checksum.
    fn with(mut header: Vec<u8>, at: usize, field: &[u8]) -> Vec<u8> {
        header[at..at + field.len()].copy_from_slice(field);
        header[148..156].fill(b' ');
        let sum: u32 = header[..BLOCK].iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    #[test]
    fn numbers_of_every_form() {
        let good: [(&[u8], u64); 6] = [
            (b"", 0),
            (b"0000644\0", 0o644),
            (b"  17 ", 0o17),
            (&[0x80, 0, 0, 0, 0, 0, 0, 5], 5),
            (
                &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                i64::MAX as u64,
            ),
            (&[0x81, 0, 0, 0, 0, 0, 0, 0], 1 << 56),
        ];
        for (field, value) in good {
            assert_eq!(number(field).unwrap(), value, "{field:?}");
        }
        let wrong: [&[u8]; 4] = [
            &[0xff; 8],
            &[0xff; 12],
            &[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            b"89",
        ];
        for field in wrong {
            assert!(number(field).is_err(), "{field:?}");
        }
    }

    /// Every numeric field at its limits, in octal and in binary form.
    #[test]
    fn each_field_at_its_ends_is_an_entry_or_an_error() {
        let budget = Budget::default();
        for (at, len) in [
            (100, 8),
            (108, 8),
            (116, 8),
            (124, 12),
            (136, 12),
            (148, 8),
            (329, 8),
            (337, 8),
        ] {
            let mut one = vec![0; len];
            one[len - 1] = 1;
            let binary = |first: u8, rest: u8| [vec![first], vec![rest; len - 1]].concat();
            let mut most = vec![b'7'; len];
            for field in [
                vec![0; len],
                one,
                std::mem::take(&mut most),
                binary(0x80, 0),
                binary(0x80, 0xff),
                binary(0x80, 0x7f),
                binary(0xbf, 0xff),
                binary(0xff, 0xff),
                binary(0xff, 0xfe),
                binary(b' ', b' '),
            ] {
                for flag in [b'0', b'5', b'L', b'x', b'g', b'S', b'Z'] {
                    let mut bytes = with(entry("a", flag, "", &[b'1'; 600]), at, &field);
                    if at == 148 {
                        bytes[148..156].copy_from_slice(&field);
                    }
                    let bytes = archive(&[bytes, entry("b", b'0', "", b"")]);
                    let mut tar = Tar::new(bytes.as_slice(), &budget);
                    while let Ok(Some(_)) = tar.advance() {}
                }
            }
        }
    }

    #[test]
    fn lengths_of_pax_records_at_their_ends() {
        for records in [
            "0 path=a\n",
            "1 path=a\n",
            "2 path=a\n",
            " path=a\n",
            "18446744073709551615 path=a\n",
            "18446744073709551616 path=a\n",
            "9999999999 path=a\n",
            "-9 path=a\n",
        ] {
            assert_eq!(Records(records.as_bytes()).count(), 0, "{records}");
        }
        assert_eq!(Records(b"9 path=a\n").count(), 1);
        let budget = Budget::default();
        for size in ["0", "9223372036854775807", "18446744073709551615", "-1", "x"] {
            let text = format!("size={size}\n");
            let record = format!("{} {text}", text.len() + 3);
            let bytes = archive(&[
                entry("x", b'x', "", record.as_bytes()),
                entry("a", b'0', "", b"data"),
            ]);
            let mut tar = Tar::new(bytes.as_slice(), &budget);
            while let Ok(Some(_)) = tar.advance() {}
        }
    }

    #[test]
    fn sparse_files_are_passed_over_whatever_their_form() {
        let mut old = with(entry("old", b'S', "", &[1; 512]), 482, &[1]);
        let mut map = vec![0; BLOCK];
        map[504] = 1;
        old.splice(BLOCK..BLOCK, [map, vec![0; BLOCK]].concat());
        let records = |text: &str| {
            let text = format!(" {text}\n");
            format!("{}{text}", text.len() + 2)
        };
        let name = records("GNU.sparse.name=usr/lib/real");
        let budget = Budget::default();
        let bytes = archive(&[
            old,
            entry("x", b'x', "", name.as_bytes()),
            entry("GNUSparseFile.0/real", b'0', "", &[2; 700]),
            entry("x", b'x', "", records("GNU.sparse.map=0,99").as_bytes()),
            entry("third", b'0', "", &[3; 1]),
            entry("last", b'0', "", b"x"),
        ]);
        let mut tar = Tar::new(bytes.as_slice(), &budget);
        let mut all = Vec::new();
        while let Some(header) = tar.advance().unwrap() {
            all.push((String::from_utf8(header.path).unwrap(), header.kind));
        }
        let want = [
            ("old", Kind::Sparse),
            ("usr/lib/real", Kind::Sparse),
            ("third", Kind::Sparse),
            ("last", Kind::File),
        ];
        assert_eq!(all, want.map(|(name, kind)| (name.to_owned(), kind)));
    }

    /// A directory with a claimed size has no data, as in engines; it hides no entry behind it.
    #[test]
    fn only_files_have_data() {
        let budget = Budget::default();
        for flag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
            let claims = with(entry("d", flag, "", b""), 124, b"00000001000\0");
            let bytes = archive(&[claims, entry("behind", b'0', "", b"")]);
            let mut tar = Tar::new(bytes.as_slice(), &budget);
            tar.advance().unwrap();
            assert_eq!(tar.advance().unwrap().unwrap().path, b"behind");
        }
    }

    #[test]
    fn entries_are_counted_with_their_extended_headers() {
        let limits = crate::sys::budget::Limits {
            entries: 10,
            ..crate::sys::budget::Limits::DEFAULT
        };
        let budget = Budget::new(limits);
        let bytes = entry("g", b'x', "", b"9 path=a\n").repeat(20);
        let error = Tar::new(bytes.as_slice(), &budget).advance().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
