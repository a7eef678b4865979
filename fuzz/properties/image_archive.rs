//! `nvoci doctor image FILE` up to its verdict: any bytes as an archive, and archives that are
//! built from an input.
//!
//! | form (bits 0 and 1 of the first byte) | content |
//! |---|---|
//! | 0 | the file itself |
//! | 1 | part 0 the image's configuration, then files of its layers (`PATH`, a line end, the content, or `PATH -> TARGET`); `---` begins a layer; in the form of `docker save` |
//! | 2 | the same as an OCI image layout |
//! | 3 | the input as a layer, with correct checksums in its headers |
//!
//! Bits 2 and 3 choose the compression of layers. The second byte chooses the host of the verdict.

use std::fs;
use std::io::Write as _;

use nvoci::cmd::fuzzing;
use nvoci::compat::Platform;
use nvoci::doctor::Severity;
use nvoci::doctor::image::{Gpu, Target};
use serde_json::json;

use crate::count::reached;
use crate::world::{self, check_error, check_text};

const CONFIG: &[u8] =
    br#"{"architecture":"amd64","config":{"Env":["CUDA_VERSION=12.4.1","NVIDIA_VISIBLE_DEVICES=all"]}}"#;

/// Holds for every input.
pub(crate) fn check(input: &[u8]) {
    let Some((&[form, way], rest)) = input.split_first_chunk::<2>() else {
        return;
    };
    reached("run");
    let file = world::dir().join("image.tar");
    fs::write(&file, archive(form, rest)).expect("an archive");
    match fuzzing::doctor_image(file.as_os_str(), &target(way)) {
        Ok(report) => {
            reached("accepted");
            reached(match report.verdict() {
                Severity::Fail => "verdict fail",
                Severity::Warn => "verdict warn",
                _ => "verdict ok",
            });
            check_text(&report.to_text(false));
            let shown = report.to_json();
            assert!(shown.is_object());
        }
        Err(e) => check_error(&e),
    }
}

fn target(way: u8) -> Target {
    let drivers = ["580.95.05", "535.183.01", "470.256.02", ""];
    let gpus = [
        vec!["sm_90"],
        vec!["RTX 3070"],
        vec!["sm_52", "sm_120"],
        Vec::new(),
    ];
    Target {
        driver: drivers[usize::from(way & 3)].parse().ok(),
        platform: if way & 16 == 0 {
            Platform::Linux
        } else {
            Platform::Windows
        },
        gpus: gpus[usize::from(way >> 2 & 3)]
            .iter()
            .filter_map(|name| Gpu::named(name))
            .collect(),
    }
}

fn archive(form: u8, rest: &[u8]) -> Vec<u8> {
    if form.is_multiple_of(4) {
        return rest.to_vec();
    }
    let pack = |layer: Vec<u8>| match form >> 2 & 3 {
        1 => gzip(&layer),
        2 => zstd(&layer),
        _ => layer,
    };
    let mut config = CONFIG;
    let layers: Vec<Vec<u8>> = if form & 3 == 3 {
        vec![pack(with_checksums(rest.to_vec()))]
    } else {
        let parts = world::parts(rest);
        config = world::part(&parts, 0, CONFIG);
        let files = parts.get(1..).unwrap_or_default();
        files
            .split(|part| *part == b"---")
            .map(|files| pack(layer(files)))
            .collect()
    };
    let name = |n: usize| format!("blobs/sha256/{n}");
    let mut out = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        entry(&mut out, name(n).as_bytes(), b'0', b"", layer);
    }
    entry(&mut out, b"blobs/sha256/c", b'0', b"", config);
    if form & 3 == 2 {
        let digests: Vec<_> = (0..layers.len())
            .map(|n| json!({"digest": format!("sha256:{n}")}))
            .collect();
        let manifest = json!({"config": {"digest": "sha256:c"}, "layers": digests}).to_string();
        entry(&mut out, b"blobs/sha256/m", b'0', b"", manifest.as_bytes());
        let index =
            json!({"manifests": [{"digest": "sha256:m", "platform": {"architecture": "amd64"}}]}).to_string();
        entry(&mut out, b"index.json", b'0', b"", index.as_bytes());
        entry(
            &mut out,
            b"oci-layout",
            b'0',
            b"",
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        );
    } else {
        let names: Vec<String> = (0..layers.len()).map(name).collect();
        let manifest =
            json!([{"Config": "blobs/sha256/c", "RepoTags": ["x:1"], "Layers": names}]).to_string();
        entry(&mut out, b"manifest.json", b'0', b"", manifest.as_bytes());
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// A tar archive of the parts' files.
fn layer(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let (title, content) = world::titled(part);
        match title.windows(4).position(|w| w == b" -> ") {
            Some(at) => entry(&mut out, &title[..at], b'2', &title[at + 4..], b""),
            None if title.ends_with(b"/") => entry(&mut out, title, b'5', b"", b""),
            None => entry(&mut out, title, b'0', b"", content),
        }
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn entry(out: &mut Vec<u8>, name: &[u8], kind: u8, link: &[u8], content: &[u8]) {
    if name.len() > 100 || link.len() > 100 {
        for (long, kind) in [(name, b'L'), (link, b'K')] {
            if long.len() > 100 {
                entry(out, b"././@LongLink", kind, b"", &[long, b"\0"].concat());
            }
        }
    }
    let mut header = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(100)];
        header[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, name);
    put(100, b"0000755\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(156, &[kind]);
    put(157, link);
    put(257, b"ustar\x0000");
    out.extend(with_checksums(header));
    out.extend(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Gives each header block its correct checksum.
fn with_checksums(mut tar: Vec<u8>) -> Vec<u8> {
    for block in tar.chunks_exact_mut(512).filter(|b| &b[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let _ = out.write_all(bytes);
    out.finish().unwrap_or_default()
}

/// One frame of uncompressed blocks.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = [0x28, 0xb5, 0x2f, 0xfd, 0x80, 0x58].to_vec();
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend(size(bytes).to_le_bytes());
    let mut blocks = bytes.chunks(4096).peekable();
    while let Some(block) = blocks.next() {
        let header = u32::from(blocks.peek().is_none()) | size(block) << 3;
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(block);
    }
    out
}
