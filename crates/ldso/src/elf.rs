//! Reads a shared object's headers for the facts that the loader and ldconfig need, such as its
//! soname.
//!
//! An image controls the file: every offset is checked, and every count and string is bounded. Only
//! the needed parts are read, with `pread`, since a mapping would fault if the file shrank.
//! Sources: the System V ABI's ELF chapters, and the Linux extensions to the gABI for the GNU
//! property note.

use std::fs::File;
use std::io;

/// The most program headers that are read; real libraries have about a dozen.
const MAX_PROGRAM_HEADERS: usize = 128;
/// The most bytes of the dynamic section that are read: 4,096 entries.
const MAX_DYNAMIC: usize = 64 * 1024;
/// The longest soname, path list or needed name, in bytes.
const MAX_STRING: usize = 4096;
/// Nearly every string is shorter than this.
const SHORT_STRING: usize = 128;
/// The most `DT_NEEDED` entries that are kept.
const MAX_NEEDED: usize = 1024;
/// The most bytes of GNU properties that are read.
const MAX_PROPERTIES: usize = 1024;
/// The most segments of GNU properties; a library has one.
const MAX_PROPERTY_SEGMENTS: usize = 4;
/// One read of this size holds the headers of nearly every library.
const HEAD: usize = 1024;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_GNU_PROPERTY: u32 = 0x6474_e553;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const NT_GNU_PROPERTY_TYPE_0: u32 = 5;
const X86_ISA_1_NEEDED: u32 = 0xc000_8002;

/// A source of bytes at offsets.
pub trait ReadAt {
    /// Reads at `offset`; returns fewer bytes than `buf` holds only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let n = buf.len().min(self.len() - start);
        buf[..n].copy_from_slice(&self[start..start + n]);
        Ok(n)
    }
}

/// The facts of one shared object for a cache entry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// Whether it is a 64-bit object.
    pub is_64: bool,
    /// `e_machine`.
    pub machine: u16,
    /// `e_flags`.
    pub flags: u32,
    /// `DT_SONAME`.
    pub soname: Option<Vec<u8>>,
    /// The x86 ISA level that the object's GNU property requires, in ldconfig's numbers: 0 for none
    /// or the baseline, 2 for x86-64-v3.
    pub isa_level: u32,
}

/// The facts of one shared object, and the names by which it finds others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ElfInfo {
    /// Its own facts.
    pub identity: Identity,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<Vec<u8>>,
    /// `DT_RPATH`.
    pub rpath: Option<Vec<u8>>,
    /// `DT_RUNPATH`.
    pub runpath: Option<Vec<u8>>,
}

/// The reason why a file is not a library.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bad {
    /// A linker script, an empty file, or another text that is usual among libraries.
    Script,
    /// Not an ELF file.
    NotElf,
    /// An ELF file that is broken, has too large tables, or is not a shared object.
    Broken,
}

/// Reads the identity of a well-formed little-endian shared object.
///
/// # Errors
/// [`Bad`] with the reason, for any other file.
pub fn identify<R: ReadAt + ?Sized>(file: &R) -> Result<Identity, Bad> {
    parse(file, |image, dynamic| identity(image, dynamic))
}

/// Reads the identity of a well-formed little-endian shared object, and the names by which it finds
/// others.
///
/// # Errors
/// [`Bad`] with the reason, for any other file.
pub fn read<R: ReadAt + ?Sized>(file: &R) -> Result<ElfInfo, Bad> {
    parse(file, |image, dynamic| {
        Ok(ElfInfo {
            identity: identity(image, dynamic)?,
            needed: dynamic
                .strings(DT_NEEDED)
                .take(MAX_NEEDED)
                .collect::<Result<_, _>>()?,
            rpath: dynamic.first_string(DT_RPATH)?,
            runpath: dynamic.first_string(DT_RUNPATH)?,
        })
    })
}

fn identity<R: ReadAt + ?Sized>(image: &Image<'_, R>, dynamic: &Dynamic<'_, R>) -> Result<Identity, Bad> {
    Ok(Identity {
        is_64: image.is_64,
        machine: image.machine,
        flags: image.flags,
        soname: dynamic.first_string(DT_SONAME)?,
        isa_level: image.isa_level(),
    })
}

/// Parses the headers and the dynamic section, and calls `facts` with them.
fn parse<R: ReadAt + ?Sized, T>(
    file: &R,
    facts: impl FnOnce(&Image<'_, R>, &Dynamic<'_, R>) -> Result<T, Bad>,
) -> Result<T, Bad> {
    let mut head = [0; HEAD];
    let got = file.read_at(&mut head, 0).map_err(|_| Bad::Broken)?;
    let head = head.get(..got).unwrap_or_default();
    check_magic(head)?;
    let mut space = [0; MAX_PROGRAM_HEADERS * 56];
    let image = Image::parse(file, head, &mut space).ok_or(Bad::Broken)?;
    let size = image.dynamic_size().ok_or(Bad::Broken)?;
    // Hardly any library has more than 64 entries.
    let (mut few, mut many) = ([0; 1024], Vec::new());
    let space = if let Some(space) = few.get_mut(..size) {
        space
    } else {
        many.resize(size, 0);
        &mut many[..]
    };
    facts(&image, &image.dynamic(space).ok_or(Bad::Broken)?)
}

/// Checks that the file begins as an ELF file does.
fn check_magic(head: &[u8]) -> Result<(), Bad> {
    if head.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let start = &head[..head.len().min(512)];
    let script = [&b"GROUP"[..], b"GNU ld script", b"INPUT"];
    let known = head.is_empty() || script.iter().any(|s| super::abi::contains(start, s));
    Err(if known { Bad::Script } else { Bad::NotElf })
}

/// The program headers, and the file for further reads.
struct Image<'a, R: ?Sized> {
    file: &'a R,
    /// The first bytes of the file, already read.
    head: &'a [u8],
    is_64: bool,
    machine: u16,
    flags: u32,
    /// The program headers in the file's form.
    table: &'a [u8],
    entry_size: usize,
}

#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
    align: u64,
}

impl<'a, R: ReadAt + ?Sized> Image<'a, R> {
    fn parse(file: &'a R, head: &'a [u8], space: &'a mut [u8]) -> Option<Self> {
        const ET_DYN: u16 = 3;
        const LITTLE_ENDIAN: u8 = 1;
        if *head.get(5)? != LITTLE_ENDIAN {
            return None;
        }
        let is_64 = match head.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        if u16_at(head, 16)? != ET_DYN {
            return None;
        }
        let (table_at, flags_at, entry_size) = if is_64 {
            (u64_at(head, 32)?, 48, 56)
        } else {
            (u64::from(u32_at(head, 28)?), 36, 32)
        };
        let count = usize::from(u16_at(head, flags_at + 8)?);
        if usize::from(u16_at(head, flags_at + 6)?) != entry_size || count > MAX_PROGRAM_HEADERS {
            return None;
        }
        let size = count * entry_size;
        let table = bytes(file, head, table_at, space.get_mut(..size)?)?;
        Some(Self {
            file,
            head,
            is_64,
            machine: u16_at(head, 18)?,
            flags: u32_at(head, flags_at)?,
            table: (table.len() == size).then_some(table)?,
            entry_size,
        })
    }

    fn segments(&self) -> impl DoubleEndedIterator<Item = Segment> + '_ {
        let is_64 = self.is_64;
        self.table
            .chunks_exact(self.entry_size)
            .filter_map(move |raw| Segment::parse(raw, is_64))
    }

    /// The x86 ISA level in the GNU property note: the number of the highest level bit, so 0 is the
    /// baseline. glibc reads a note only if its alignment is that of the class.
    fn isa_level(&self) -> u32 {
        let align = if self.is_64 { 8 } else { 4 };
        self.segments()
            .filter(|s| s.kind == PT_GNU_PROPERTY && s.align == align)
            .take(MAX_PROPERTY_SEGMENTS)
            .find_map(|s| {
                let mut space = [0; MAX_PROPERTIES];
                let len = usize::try_from(s.size).map_or(MAX_PROPERTIES, |n| n.min(MAX_PROPERTIES));
                let notes = bytes(self.file, self.head, s.offset, &mut space[..len])?;
                isa_in_notes(notes, usize::try_from(align).ok()?)
            })
            .unwrap_or(0)
    }

    fn dynamic_segment(&self) -> Option<Segment> {
        self.segments().rfind(|s| s.kind == PT_DYNAMIC)
    }

    /// The bytes of the dynamic section that are read. `None` without one: then the file is not a
    /// library.
    fn dynamic_size(&self) -> Option<usize> {
        let size = self.dynamic_segment()?.size;
        Some(usize::try_from(size).map_or(MAX_DYNAMIC, |n| n.min(MAX_DYNAMIC)))
    }

    /// The dynamic section, read into `space`.
    fn dynamic<'s>(&'s self, space: &'s mut [u8]) -> Option<Dynamic<'s, R>> {
        let raw = bytes(self.file, self.head, self.dynamic_segment()?.offset, space)?;
        let mut dynamic = Dynamic {
            image: self,
            raw,
            strings: 0,
        };
        let (_, address) = dynamic.entries().find(|(tag, _)| *tag == DT_STRTAB)?;
        dynamic.strings = self.file_offset(address);
        Some(dynamic)
    }

    /// The file offset of an address; an address outside every segment counts as an offset.
    fn file_offset(&self, address: u64) -> u64 {
        self.segments()
            .filter(|s| s.kind == PT_LOAD && address >= s.address)
            .find(|s| address - s.address < s.size)
            .map_or(address, |s| (address - s.address).wrapping_add(s.offset))
    }

    /// The NUL-terminated string at `offset`; `None` if it is longer than [`MAX_STRING`].
    fn string(&self, offset: u64) -> Option<Vec<u8>> {
        let mut space = [0; MAX_STRING];
        for size in [SHORT_STRING, MAX_STRING] {
            let text = bytes(self.file, self.head, offset, &mut space[..size])?;
            if let Some(end) = text.iter().position(|&b| b == 0) {
                return Some(text[..end].to_vec());
            }
        }
        None
    }
}

/// The dynamic section.
struct Dynamic<'a, R: ?Sized> {
    image: &'a Image<'a, R>,
    /// The entries in the file's form.
    raw: &'a [u8],
    /// The file offset of the string table.
    strings: u64,
}

impl<R: ReadAt + ?Sized> Dynamic<'_, R> {
    /// The tags and values up to the end mark.
    fn entries(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let is_64 = self.image.is_64;
        let width = if is_64 { 16 } else { 8 };
        self.raw.chunks_exact(width).map_while(move |raw| {
            let (tag, value) = if is_64 {
                (u64_at(raw, 0)?, u64_at(raw, 8)?)
            } else {
                (u64::from(u32_at(raw, 0)?), u64::from(u32_at(raw, 4)?))
            };
            (tag != 0).then_some((tag, value))
        })
    }

    /// The strings of all entries with a tag.
    fn strings(&self, wanted: u64) -> impl Iterator<Item = Result<Vec<u8>, Bad>> + '_ {
        let values = self.entries().filter(move |(tag, _)| *tag == wanted);
        values.map(|(_, value)| {
            let offset = self.strings.checked_add(value);
            offset
                .and_then(|offset| self.image.string(offset))
                .ok_or(Bad::Broken)
        })
    }

    fn first_string(&self, wanted: u64) -> Result<Option<Vec<u8>>, Bad> {
        self.strings(wanted).next().transpose()
    }
}

/// The bytes at `offset` as far as `space` and the file reach, from the head that was read already
/// if it has them all.
fn bytes<'s, R: ReadAt + ?Sized>(
    file: &R,
    head: &'s [u8],
    offset: u64,
    space: &'s mut [u8],
) -> Option<&'s [u8]> {
    let start = usize::try_from(offset).ok()?;
    if let Some(part) = head.get(start..start.checked_add(space.len())?) {
        return Some(part);
    }
    let mut got = 0;
    while got < space.len() {
        match file.read_at(&mut space[got..], offset.checked_add(got as u64)?) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    space.get(..got)
}

impl Segment {
    fn parse(raw: &[u8], is_64: bool) -> Option<Self> {
        Some(if is_64 {
            Self {
                kind: u32_at(raw, 0)?,
                offset: u64_at(raw, 8)?,
                address: u64_at(raw, 16)?,
                size: u64_at(raw, 32)?,
                align: u64_at(raw, 48)?,
            }
        } else {
            Self {
                kind: u32_at(raw, 0)?,
                offset: u32_at(raw, 4)?.into(),
                address: u32_at(raw, 8)?.into(),
                size: u32_at(raw, 16)?.into(),
                align: u32_at(raw, 28)?.into(),
            }
        })
    }
}

/// The ISA level in the first property note of a `PT_GNU_PROPERTY` segment.
fn isa_in_notes(mut notes: &[u8], align: usize) -> Option<u32> {
    loop {
        let name_size = usize::try_from(u32_at(notes, 0)?).ok()?;
        let desc_size = usize::try_from(u32_at(notes, 4)?).ok()?;
        let kind = u32_at(notes, 8)?;
        let desc_at = 12_usize.checked_add(name_size)?.checked_next_multiple_of(align)?;
        let end = desc_at.checked_add(desc_size)?;
        if kind == NT_GNU_PROPERTY_TYPE_0 && name_size == 4 && notes.get(12..16)? == b"GNU\0" {
            return isa_in_properties(notes.get(desc_at..end)?, align);
        }
        notes = notes.get(end.checked_next_multiple_of(align)?..)?;
    }
}

fn isa_in_properties(mut desc: &[u8], align: usize) -> Option<u32> {
    let mut last = 0;
    loop {
        let kind = u32_at(desc, 0)?;
        let size = usize::try_from(u32_at(desc, 4)?).ok()?;
        // Properties are in ascending order, or the note is broken.
        if kind < last {
            return None;
        }
        last = kind;
        let data = desc.get(8..8_usize.checked_add(size)?)?;
        if kind == X86_ISA_1_NEEDED && size == 4 {
            return Some(u32_at(data, 0)?.checked_ilog2().unwrap_or(0));
        }
        desc = desc.get(8_usize.checked_add(size)?.checked_next_multiple_of(align)?..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}
