//! Images in archives: output of `docker save`, and OCI image layouts, as a directory or in a tar.
//!
//! An archive may be a pipe, so nvoci reads it once, front to back. The first bytes of a blob show
//! whether it is a layer; the list of the image's layers may come last. Facts: "OCI Image Layout",
//! "OCI Image Manifest" and "Image Index"; `manifest.json` of Docker's image specification 1.2.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::document::{Document, Pointers};
use super::layer::{Layer, LeftOut, merge};
use super::scratch::Scratch;
use super::tar::{Forward, Kind, Tar};
use super::unpack::{Packed, Unpacked, Zstd};
use super::{Image, Progress};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::budget::Budget;
use crate::sys::root::{Node, Root};

/// The most blobs of one archive.
const MAX_BLOBS: usize = 4096;
/// The most manifests that refer to one another in a chain.
const MAX_INDEXES: usize = 4;
/// The most layers of one image; engines make at most 127.
const MAX_LAYERS: usize = 1024;
/// The most unreadable blobs that are named.
const MAX_NOTES: usize = 8;
/// The first bytes of a blob that decide its type: the magic of tar ends at 263.
const HEAD: usize = 512;
const BUFFER: usize = 256 << 10;
/// The memory of a blob besides its contents, in bytes.
const BLOB: usize = 256;

/// The blobs read from an archive, by their names in it.
struct Blobs<'b> {
    budget: &'b Budget,
    scratch: Scratch,
    documents: HashMap<String, Document>,
    layers: HashMap<String, Layer>,
    /// Links to layers.
    links: HashMap<String, String>,
    /// The number of unreadable blobs; the first ones have their reasons.
    broken: usize,
    notes: Vec<String>,
}

/// Reads an archive: output of `docker save` or `podman save`, or a layout in a tar.
pub fn read(
    source: impl Forward,
    title: &str,
    budget: &Budget,
    progress: &mut dyn Progress,
) -> Result<Image> {
    let what = || format!("image {title}");
    let mut blobs = Blobs::new(budget)?;
    let mut tar = Tar::new(source, budget);
    while let Some(header) = tar.advance().context(Code::File, what)? {
        let name = String::from_utf8_lossy(&header.path)
            .trim_start_matches("./")
            .to_owned();
        match header.kind {
            Kind::File if blobs.count() >= MAX_BLOBS => {
                return Err(Error::new(Code::TooLarge, what(), "too many blobs"));
            }
            Kind::File => {
                let mut data = tar.data();
                blobs
                    .add(name, header.size, &mut data, progress)
                    .context(Code::File, what)?;
            }
            Kind::SymbolicLink => {
                let target = String::from_utf8_lossy(&header.link).into_owned();
                blobs
                    .charge(name.len() + target.len())
                    .context(Code::File, what)?;
                blobs.links.insert(name, target);
            }
            _ => {}
        }
    }
    blobs.image(title)
}

/// Reads an image layout in a directory.
pub fn layout(root: &Root, title: &str, budget: &Budget, progress: &mut dyn Progress) -> Result<Image> {
    let mut blobs = Blobs::new(budget)?;
    let mut allowed = HashSet::new();
    let mut wanted = vec!["index.json".to_owned()];
    while let Some(name) = wanted.pop() {
        if blobs.documents.contains_key(&name) || blobs.layers.contains_key(&name) {
            continue;
        }
        let what = || format!("{title}/{name}");
        if blobs.count() > MAX_BLOBS {
            return Err(Error::new(Code::TooLarge, what(), "too many blobs"));
        }
        let node = root.resolve(&name).context(Code::File, what)?;
        let size = u64::try_from(node.stat().st_size).unwrap_or(0);
        let file = node.open_read().context(Code::File, what)?;
        // Several names of one file are charged once.
        if allowed.insert(node.id()) {
            budget.allow(allocated(&node));
        }
        let mut data = BufReader::with_capacity(BUFFER, file);
        blobs
            .add(name.clone(), size, &mut data, progress)
            .context(Code::File, what)?;
        if let Some(document) = blobs.documents.get(&name) {
            for name in document.references() {
                blobs.charge(name.len()).context(Code::File, what)?;
                wanted.push(name.clone());
            }
        } else if !blobs.layers.contains_key(&name) {
            // An unreadable blob is not read again.
            blobs.layers.insert(name.clone(), Layer::broken());
        }
    }
    blobs.image(title)
}

/// The bytes of a file on disk; a hole is no input.
pub(super) fn allocated(node: &Node) -> u64 {
    const UNIT: u64 = 512;
    u64::try_from(node.stat().st_blocks)
        .unwrap_or(0)
        .saturating_mul(UNIT)
}

impl<'b> Blobs<'b> {
    fn new(budget: &'b Budget) -> Result<Self> {
        let scratch = Scratch::new().context(Code::System, || "a directory for the files of the image")?;
        Ok(Self {
            budget,
            scratch,
            documents: HashMap::new(),
            layers: HashMap::new(),
            links: HashMap::new(),
            broken: 0,
            notes: Vec::new(),
        })
    }

    fn count(&self) -> usize {
        self.documents.len() + self.layers.len()
    }

    fn charge(&self, bytes: usize) -> io::Result<()> {
        Ok(self.budget.keep((BLOB + bytes) as u64)?)
    }

    /// Adds a blob, if it is a layer or JSON. One function for all sources: it is 20 kB.
    fn add(
        &mut self,
        name: String,
        size: u64,
        data: &mut dyn Forward,
        progress: &mut dyn Progress,
    ) -> io::Result<()> {
        let mut head = Vec::with_capacity(HEAD);
        Read::take(&mut *data, HEAD as u64).read_to_end(&mut head)?;
        let first = head.iter().find(|b| !b.is_ascii_whitespace()).copied();
        let is_tar = head.get(257..262) == Some(b"ustar");
        let is_gzip = head.starts_with(&[0x1f, 0x8b]);
        let is_zstd = head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        let mut source = Prefixed {
            head: &head,
            rest: data,
        };
        if matches!(first, Some(b'{' | b'[')) && !is_tar {
            if let Some(document) = Document::read(&mut source, size, self.budget)? {
                self.charge(name.len())?;
                self.documents.insert(name, document);
            }
            return Ok(());
        }
        let (scratch, budget) = (&mut self.scratch, self.budget);
        let layer = if is_tar {
            Layer::read(source, scratch, budget, progress)
        } else if is_gzip {
            let unpacked = MultiGzDecoder::new(Packed::new(source, budget));
            Layer::read(Unpacked::new(unpacked, budget), scratch, budget, progress)
        } else if is_zstd {
            let unpacked = Zstd::new(Packed::new(source, budget), budget);
            Layer::read(Unpacked::new(unpacked, budget), scratch, budget, progress)
        } else if head.len() >= HEAD && head.iter().all(|b| *b == 0) {
            // An empty tar.
            Ok(Layer::default())
        } else {
            return Ok(());
        };
        // A decompressor may have replaced the budget's error by its own.
        self.budget.check()?;
        match layer {
            Ok(layer) => {
                self.charge(name.len())?;
                self.layers.insert(name, layer);
            }
            // The blob may belong to another image. If this image needs it, `image` reports it.
            Err(e) if is_malformed(&e) => {
                self.broken += 1;
                if self.notes.len() < MAX_NOTES {
                    self.notes.push(format!("{name}: {e}"));
                }
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Makes the image of these blobs.
    fn image(mut self, title: &str) -> Result<Image> {
        let what = || format!("image {title}");
        let too_large = |name: &str| {
            let why = "a document of more than 4 MiB, or of too many values";
            Error::new(Code::TooLarge, format!("{}: {name}", what()), why)
        };
        for name in ["manifest.json", "index.json"] {
            if matches!(self.documents.get(name), Some(Document::TooLarge)) {
                return Err(too_large(name));
            }
        }
        let unknown = || {
            Error::new(
                Code::File,
                what(),
                "neither an OCI image layout nor what `docker save` writes",
            )
        };
        let pointers = self.docker().or_else(|| self.oci()).ok_or_else(unknown)?;
        if pointers.layers.len() > MAX_LAYERS {
            let why = format!("it has more than {MAX_LAYERS} layers");
            return Err(Error::new(Code::TooLarge, what(), why));
        }
        let config = match self.documents.get(&pointers.config) {
            Some(Document::Config(config)) => Some(config.clone()),
            Some(Document::TooLarge) => return Err(too_large(&pointers.config)),
            _ => None,
        };
        let mut notes = std::mem::take(&mut self.notes);
        if self.broken > notes.len() {
            notes.push(format!("{} blobs cannot be read", self.broken));
        }
        let (mut found, mut missing) = (Vec::new(), 0_usize);
        for name in &pointers.layers {
            match self.layer(name) {
                Some(layer) => found.push(layer),
                None if missing >= MAX_NOTES => missing += 1,
                None => {
                    missing += 1;
                    notes.push(format!("layer {name} is missing or cannot be read"));
                }
            }
        }
        if missing > MAX_NOTES {
            notes.push(format!("{missing} layers are missing or cannot be read"));
        }
        let (root, places) = merge(&found, &self.scratch, self.budget).context(Code::File, what)?;
        let mut left_out = LeftOut::default();
        for layer in found {
            left_out.join(&layer.left_out);
        }
        left_out.join(&places);
        notes.extend(left_out.note());
        Ok(Image {
            title: title.to_owned(),
            root,
            config,
            notes,
            scratch: Some(self.scratch),
        })
    }

    /// Configuration and layers by the names of `docker save`; of several images, those of the
    /// first.
    fn docker(&self) -> Option<Pointers> {
        match self.documents.get("manifest.json")? {
            Document::Saved(pointers) => Some(pointers.clone()),
            _ => None,
        }
    }

    fn oci(&self) -> Option<Pointers> {
        let mut document = self.documents.get("index.json")?;
        for _ in 0..MAX_INDEXES {
            if let Document::Index(manifest) = document {
                document = self.documents.get(manifest.as_ref()?)?;
            }
        }
        match document {
            Document::Manifest(pointers) => Some(pointers.clone()),
            _ => None,
        }
    }

    /// A layer by its name in `docker save`; older versions replace equal layers by links.
    fn layer(&self, name: &str) -> Option<&Layer> {
        let found = self.layers.get(name).or_else(|| {
            let target = self.links.get(name)?;
            let (dir, _) = name.rsplit_once('/').unwrap_or_default();
            let path = match target.strip_prefix("../") {
                Some(rest) => rest.to_owned(),
                None => format!("{dir}/{target}"),
            };
            self.layers.get(&path)
        });
        found.filter(|layer| !layer.is_broken())
    }
}

/// Whether the blob is at fault; flate2 reports `InvalidInput` for a malformed stream.
fn is_malformed(e: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(e.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// A source whose first bytes were already read.
struct Prefixed<'a> {
    head: &'a [u8],
    rest: &'a mut dyn Forward,
}

impl Read for Prefixed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.head.is_empty() {
            return self.rest.read(buf);
        }
        self.head.read(buf)
    }
}

impl Forward for Prefixed<'_> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let own = usize::try_from(n).map_or(self.head.len(), |n| n.min(self.head.len()));
        self.head = &self.head[own..];
        self.rest.skip(n - own as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::image::Silent;
    use crate::doctor::image::tar::tests::{archive, entry};
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use serde_json::json;
    use std::io::Write as _;

    const SITE: &str = "opt/v/lib/python3.10/site-packages";

    fn layers() -> [Vec<u8>; 2] {
        let version = format!("{SITE}/torch/version.py");
        [
            archive(&[
                entry("etc/os-release", b'0', "", b"ID=debian\n"),
                entry(&version, b'0', "", b"__version__ = 'old'\n"),
            ]),
            archive(&[entry(&version, b'0', "", b"__version__ = 'new'\n")]),
        ]
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    /// One frame of uncompressed blocks, with a skippable frame before and after it.
    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0], &b"abc"[..]].concat();
        let mut out = [0x28, 0xb5, 0x2f, 0xfd, 0x80, 0x58].to_vec();
        out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        let blocks = bytes.chunks(4096).collect::<Vec<_>>();
        for (i, block) in blocks.iter().enumerate() {
            let last = u32::from(i + 1 == blocks.len());
            let header = last | u32::try_from(block.len()).unwrap() << 3;
            out.extend(&header.to_le_bytes()[..3]);
            out.extend(*block);
        }
        [out, skipped.clone(), skipped].concat()
    }

    fn config() -> Vec<u8> {
        json!({ "architecture": "amd64", "config": { "Env": ["CUDA_VERSION=11.8.0"] } })
            .to_string()
            .into_bytes()
    }

    fn docker_save(pack: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let [lower, upper] = layers();
        let manifest =
            json!([{ "Config": "abc.json", "RepoTags": ["x:1"], "Layers": ["1/layer.tar", "2/layer.tar"] }]);
        archive(&[
            entry("2/layer.tar", b'0', "", &pack(&upper)),
            entry("abc.json", b'0', "", &config()),
            entry("1/layer.tar", b'0', "", &pack(&lower)),
            entry("manifest.json", b'0', "", manifest.to_string().as_bytes()),
        ])
    }

    fn check(image: &Image) {
        let version = format!("{SITE}/torch/version.py");
        assert_eq!(image.notes, [""; 0]);
        assert_eq!(image.root.read(version, 99).unwrap(), b"__version__ = 'new'\n");
        assert_eq!(image.root.read("etc/os-release", 99).unwrap(), b"ID=debian\n");
        let config = image.config.as_ref().unwrap();
        assert_eq!(config.var("CUDA_VERSION"), Some("11.8.0"));
    }

    #[test]
    fn docker_saves_in_every_packing() {
        for pack in [<[u8]>::to_vec, gzip, zstd] {
            check(&read(docker_save(pack).as_slice(), "x", &Budget::default(), &mut Silent).unwrap());
        }
    }

    #[test]
    fn oci_layouts_as_directory_and_tar() {
        let [lower, upper] = layers();
        let manifest = json!({
            "config": { "digest": "sha256:c" },
            "layers": [{ "digest": "sha256:1" }, { "digest": "sha256:2" }],
        });
        let index = json!({ "manifests": [
            { "digest": "sha256:a", "platform": { "architecture": "unknown" } },
            { "digest": "sha256:b", "platform": { "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" } } },
        ] });
        let files = [
            ("blobs/sha256/1", gzip(&lower)),
            ("blobs/sha256/2", upper),
            ("blobs/sha256/a", b"{}".to_vec()),
            ("blobs/sha256/b", manifest.to_string().into_bytes()),
            ("blobs/sha256/c", config()),
            ("index.json", index.to_string().into_bytes()),
        ];
        let tar: Vec<Vec<u8>> = files
            .iter()
            .map(|(name, data)| entry(name, b'0', "", data))
            .collect();
        check(&read(archive(&tar).as_slice(), "x", &Budget::default(), &mut Silent).unwrap());
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        for (name, data) in &files {
            std::fs::write(dir.path().join(name), data).unwrap();
        }
        check(
            &layout(
                &Root::open(dir.path()).unwrap(),
                "x",
                &Budget::default(),
                &mut Silent,
            )
            .unwrap(),
        );
    }

    #[test]
    fn broken_archives_are_errors_or_notes() {
        let good = docker_save(gzip);
        for cut in (0..good.len()).step_by(97) {
            let _ = read(&good[..cut], "x", &Budget::default(), &mut Silent);
        }
        let e = read(
            archive(&[entry("a", b'0', "", b"{}")]).as_slice(),
            "x",
            &Budget::default(),
            &mut Silent,
        )
        .unwrap_err();
        assert_eq!(e.code(), Code::File);
        let broken = docker_save(|bytes| gzip(&bytes[..700]));
        let image = read(broken.as_slice(), "x", &Budget::default(), &mut Silent).unwrap();
        assert!(
            image.notes.iter().any(|n| n.contains("1/layer.tar")),
            "{:?}",
            image.notes
        );
    }
}
