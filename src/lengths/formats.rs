//! Each binary format of the loader, and each text format, with its length fields at their
//! extremes.

use std::path::Path;

use super::{Field, each, each_filler, each_number};
use crate::cdi::read::{Format, parse};
use crate::config::{Config, Dialect};
use crate::ldso::cache::Cache;
use crate::ldso::elf::{identify, read};
use crate::ldso::merge::{Addition, merge, room};
use crate::ldso::write::Builder;
use crate::ldso::{conf, note, section};
use crate::sys::budget::Budget;

/// Bytes of the ELF header, of a program header and of a section header.
const HEADER: usize = 64;
const PROGRAM: usize = 56;
const SECTION: usize = 64;

/// A shared object with three segments, a property note, a dynamic section, and a note's section.
fn elf() -> (Vec<u8>, Vec<Field>) {
    let le = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let programs = HEADER;
    let property = programs + 3 * PROGRAM;
    let dynamic = property + 32;
    let strings = dynamic + 5 * 16;
    let note = strings + 32;
    let sections = note + 32;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(le(&[0, programs as u64, sections as u64]));
    file.extend([0; 4]);
    for half in [64_u16, 56, 3, 64, 3, 1] {
        file.extend(half.to_le_bytes());
    }
    let end = (sections + 3 * SECTION) as u64;
    for (kind, at, size) in [
        (1_u32, 0, end),
        (2, dynamic as u64, 80),
        (0x6474_e553, property as u64, 32),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend([4, 0, 0, 0]);
        file.extend(le(&[at, at, at, size, size, 8]));
    }
    for word in [4_u32, 16, 5] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"GNU\0");
    for word in [0xc000_8002_u32, 4, 2, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(le(&[5, strings as u64, 14, 1, 1, 1, 29, 1, 0, 0]));
    file.extend(b"\0.note\0libx.so.1\0");
    file.resize(note, 0);
    for word in [2_u32, 4, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"N\0\0\0text");
    file.resize(sections, 0);
    for (name, kind, at, size) in [(0_u32, 0_u32, 0, 0), (0, 3, strings, 32), (1, 7, note, 20)] {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(le(&[0, 0, at as u64, size, 0, 4, 0]));
        file.resize(file.len().next_multiple_of(8), 0);
    }
    let mut fields = vec![
        Field(32, 8),
        Field(40, 8),
        Field(54, 2),
        Field(56, 2),
        Field(58, 2),
        Field(60, 2),
        Field(62, 2),
    ];
    for program in (0..3).map(|i| programs + i * PROGRAM) {
        fields.extend([8, 16, 32, 48].map(|at| Field(program + at, 8)));
    }
    fields.extend([0, 4, 20].map(|at| Field(property + at, 4)));
    fields.extend([8, 24, 40, 56].map(|at| Field(dynamic + at, 8)));
    fields.extend([0, 4].map(|at| Field(note + at, 4)));
    for section in [1, 2].map(|i| sections + i * SECTION) {
        fields.push(Field(section, 4));
        fields.extend([24, 32, 48].map(|at| Field(section + at, 8)));
    }
    (file, fields)
}

#[test]
fn elf_files() {
    let (good, fields) = elf();
    let info = read(good.as_slice()).unwrap();
    assert_eq!(info.identity.isa_level, 1);
    assert_eq!(info.identity.soname.as_deref(), Some(&b".note"[..]));
    assert_eq!((info.needed.len(), info.runpath.is_some()), (1, true));
    assert_eq!(
        note::find(good.as_slice(), ".note", "N").as_deref(),
        Some(&b"text"[..])
    );
    each(&good, &fields, 5 << 20, |file| {
        let _ = read(file);
    });
    each(&good, &fields, 512 << 10, |file| {
        let _ = identify(file);
        let _ = note::find(file, ".note", "N");
        let _ = section::sections(file);
    });
}

#[test]
fn loader_caches() {
    let mut builder = Builder::default();
    for name in [&b"libb.so.2"[..], b"liba.so.1"] {
        builder.add(b"/usr/lib", name, name, 0x303, None);
        builder.add(b"/usr/lib/glibc-hwcaps/v3", name, name, 0x303, Some((b"v3", 2)));
    }
    let good = builder.encode();
    let cache = Cache::parse(&good).unwrap();
    assert_eq!((cache.len(), cache.hwcaps().len()), (4, 1));
    let word = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap()) as usize;
    let extension = word(32);
    let mut fields = vec![Field(20, 4), Field(24, 4), Field(32, 4)];
    for entry in [0, 1, 2, 3].map(|i| 48 + 24 * i) {
        fields.extend([Field(entry + 4, 4), Field(entry + 8, 4), Field(entry + 16, 8)]);
    }
    fields.push(Field(extension + 4, 4));
    for section in (0..word(extension + 4)).map(|i| extension + 8 + 16 * i) {
        fields.extend([8, 12].map(|at| Field(section + at, 4)));
    }
    let additions = [Addition {
        soname: b"libcuda.so.1".to_vec(),
        path: b"/usr/local/nvidia/lib64/libcuda.so.1".to_vec(),
        flags: 0x303,
    }];
    // Merging makes one new file beside the old one.
    each(&good, &fields, 64 << 20, |file| {
        if let Ok(cache) = Cache::parse(file) {
            let _ = cache
                .entries()
                .map(|e| e.path.len() + e.soname.len())
                .sum::<usize>();
            let _ = cache.find(b"liba.so.1").count();
        }
        let _ = merge(
            [&vec![0; room(&additions)], file].concat(),
            &additions,
            &[b"/usr/lib"],
        );
    });
    // The old format, before the new one or alone.
    let mut old = b"ld.so-1.7.0\0".to_vec();
    old.extend(1_u32.to_le_bytes());
    for word in [3_u32, 0, 10] {
        old.extend(word.to_le_bytes());
    }
    let fields = [Field(12, 4), Field(20, 4), Field(24, 4)];
    for tail in [b"libc.so.6\0/lib/libc.so.6\0".as_slice(), &good] {
        let both = [&old, tail].concat();
        each(&both, &fields, 1 << 20, |file| {
            if let Ok(cache) = Cache::parse(file) {
                let _ = cache.entries().count();
            }
        });
    }
}

#[test]
fn specifications_and_configuration() {
    const MOST: usize = 128 << 20;
    let json = r#"{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{"name":"0","containerEdits":{"deviceNodes":[
        {"path":"/dev/x","major":@,"minor":@,"fileMode":@,"uid":@}]}}],"containerEdits":{"hooks":[{"hookName":"createContainer",
        "path":"/x","timeout":@}]}}"#;
    let json_spec = |text: &str| drop(parse(text.as_bytes(), Format::Json, "x", &Budget::default()));
    each_number(json, MOST, json_spec);
    each_filler(&json.replace('@', "1"), MOST, json_spec);
    let yaml = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n- name: a\n  containerEdits:\n    deviceNodes:\n    \
        - {path: /dev/x, major: @, minor: @, fileMode: @, uid: @}\n";
    let yaml_spec = |text: &str| drop(parse(text.as_bytes(), Format::Yaml, "x", &Budget::default()));
    each_number(yaml, MOST, yaml_spec);
    each_filler(&yaml.replace('@', "1"), MOST, yaml_spec);
    // A configuration file above 1 MiB is not read.
    for toml in ["accept-env = @\n", "no-cgroups = @\n", "[x]\ny = @\n"] {
        each_number(toml, MOST, |text| {
            for dialect in [Dialect::Nvoci, Dialect::Nvidia] {
                let _ = Config::parse(text, Path::new("x"), dialect);
            }
        });
    }
    each_filler("include /etc/*\n/lib\nhwcap 1 x\n", MOST, |text| {
        let _ = conf::lines(text.as_bytes()).count();
    });
}
