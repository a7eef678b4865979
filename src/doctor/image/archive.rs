//! Images in archives: what `docker save` writes, and OCI image layouts, as a directory or in a tar.
//!
//! An archive is read once, from front to back, since it may be a pipe: which blob is a layer is seen by its first bytes,
//! and which layers the image has is known at the end. Facts: "OCI Image Layout", "OCI Image Manifest" and "Image Index";
//! `manifest.json` of Docker's image specification 1.2.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use serde_json::Value;

use super::config::ImageConfig;
use super::layer::{Layer, Scratch, merge};
use super::tar::{Forward, Kind, Tar};
use super::{Image, Progress};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::root::Root;

/// The largest manifest or configuration.
const MAX_JSON: u64 = 16 << 20;
/// Blobs of one archive.
const MAX_BLOBS: usize = 4096;
/// Manifests that lead to one another.
const MAX_INDEXES: usize = 4;
/// The first bytes of a blob, by which it is known: the magic of tar ends at 263.
const HEAD: usize = 512;
const BUFFER: usize = 256 << 10;

/// What was read of an archive, by the names in it.
#[derive(Default)]
struct Blobs {
    json: HashMap<String, Value>,
    layers: HashMap<String, Layer>,
    /// Second names of layers.
    links: HashMap<String, String>,
    notes: Vec<String>,
}

/// Reads an archive: what `docker save` or `podman save` wrote, or a layout in a tar.
pub fn read(source: impl Forward, title: &str, progress: &mut dyn Progress) -> Result<Image> {
    let what = || format!("image {title}");
    let mut scratch = Scratch::new().context(Code::System, || "a directory for what is looked at")?;
    let mut blobs = Blobs::default();
    let mut tar = Tar::new(source);
    while let Some(header) = tar.advance().context(Code::File, what)? {
        let name = String::from_utf8_lossy(&header.path)
            .trim_start_matches("./")
            .to_owned();
        match header.kind {
            Kind::File if blobs.json.len() + blobs.layers.len() < MAX_BLOBS => {
                let mut data = tar.data();
                blobs
                    .add(name, header.size, &mut data, &mut scratch, progress)
                    .context(Code::File, what)?;
            }
            Kind::SymbolicLink => {
                let target = String::from_utf8_lossy(&header.link).into_owned();
                blobs.links.insert(name, target);
            }
            _ => {}
        }
    }
    blobs.image(title, scratch)
}

/// Reads an image layout in a directory.
pub fn layout(root: &Root, title: &str, progress: &mut dyn Progress) -> Result<Image> {
    let what = || format!("image {title}");
    let mut scratch = Scratch::new().context(Code::System, || "a directory for what is looked at")?;
    let mut blobs = Blobs::default();
    let mut wanted = vec!["index.json".to_owned()];
    while let Some(name) = wanted.pop() {
        if blobs.json.contains_key(&name) || blobs.layers.contains_key(&name) {
            continue;
        }
        let node = root
            .resolve(&name)
            .context(Code::File, || format!("{title}/{name}"))?;
        let size = u64::try_from(node.stat().st_size).unwrap_or(0);
        let file = node
            .open_read()
            .context(Code::File, || format!("{title}/{name}"))?;
        let mut data = BufReader::with_capacity(BUFFER, file);
        blobs
            .add(name.clone(), size, &mut data, &mut scratch, progress)
            .context(Code::File, || format!("{title}/{name}"))?;
        if let Some(json) = blobs.json.get(&name) {
            wanted.extend(references(json));
        }
        if blobs.json.len() + blobs.layers.len() > MAX_BLOBS {
            return Err(Error::new(Code::File, what(), "too many blobs"));
        }
    }
    blobs.image(title, scratch)
}

/// The blobs that a manifest or an index leads to: of an index one manifest alone.
fn references(json: &Value) -> Vec<String> {
    let mut all: Vec<String> = chosen(json).into_iter().collect();
    let layers = json["layers"].as_array().into_iter().flatten();
    all.extend(
        std::iter::once(&json["config"])
            .chain(layers)
            .filter_map(|d| blob_name(d["digest"].as_str()?)),
    );
    all
}

/// Where a layout has the blob of a digest: `sha256:…` is in `blobs/sha256/…`.
fn blob_name(digest: &str) -> Option<String> {
    let (algorithm, hex) = digest.split_once(':')?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    (plain(algorithm) && plain(hex)).then(|| format!("blobs/{algorithm}/{hex}"))
}

/// Of an index the manifest for this machine, else the first that is for any.
fn chosen(index: &Value) -> Option<String> {
    let native = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let manifests = index["manifests"].as_array()?;
    let architecture = |m: &&Value| {
        m["platform"]["architecture"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let found = manifests
        .iter()
        .find(|m| architecture(m) == native)
        // Attestations are manifests for `unknown`.
        .or_else(|| manifests.iter().find(|m| architecture(m) != "unknown"))?;
    blob_name(found["digest"].as_str()?)
}

impl Blobs {
    /// Takes one blob, if it is a layer or JSON.
    fn add(
        &mut self,
        name: String,
        size: u64,
        data: &mut impl Forward,
        scratch: &mut Scratch,
        progress: &mut dyn Progress,
    ) -> io::Result<()> {
        let mut head = Vec::with_capacity(HEAD);
        data.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
        let first = head.iter().find(|b| !b.is_ascii_whitespace()).copied();
        let is_tar = head.get(257..262) == Some(b"ustar");
        let is_json = matches!(first, Some(b'{' | b'[')) && size <= MAX_JSON && !is_tar;
        let is_gzip = head.starts_with(&[0x1f, 0x8b]);
        let is_zstd = head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        let mut source = Prefixed {
            head: &head,
            rest: data,
        };
        if is_json {
            let mut bytes = Vec::new();
            source.read_to_end(&mut bytes)?;
            if let Ok(json) = serde_json::from_slice(&bytes) {
                self.json.insert(name, json);
            }
            return Ok(());
        }
        let layer = if is_tar {
            Layer::read(source, scratch, progress)
        } else if is_gzip {
            Layer::read(Unpacked(MultiGzDecoder::new(source)), scratch, progress)
        } else if is_zstd {
            Layer::read(Unpacked(Zstd::new(source)), scratch, progress)
        } else {
            if head.len() >= HEAD && head.iter().all(|b| *b == 0) {
                // A tar with nothing in it.
                self.layers.insert(name, Layer::default());
            }
            return Ok(());
        };
        match layer {
            Ok(layer) => {
                self.layers.insert(name, layer);
            }
            // Not of this image, perhaps; if it is, that is said then.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                self.notes.push(format!("{name}: {e}"));
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// The image that these blobs are.
    fn image(mut self, title: &str, scratch: Scratch) -> Result<Image> {
        let what = || format!("image {title}");
        let unknown = || {
            Error::new(
                Code::File,
                what(),
                "neither an OCI image layout nor what `docker save` writes",
            )
        };
        let (config, layers) = self.docker().or_else(|| self.oci()).ok_or_else(unknown)?;
        let config = self.json.get(&config).map(ImageConfig::of);
        let mut notes = std::mem::take(&mut self.notes);
        let mut found = Vec::new();
        for name in layers {
            match self.layer(&name) {
                Some(layer) => found.push(layer),
                None => notes.push(format!("layer {name} is missing or cannot be read")),
            }
        }
        let root = merge(&found, &scratch).context(Code::File, what)?;
        Ok(Image {
            title: title.to_owned(),
            root,
            config,
            notes,
            _scratch: Some(scratch),
        })
    }

    /// Configuration and layers as `docker save` names them; of several images the first.
    fn docker(&self) -> Option<(String, Vec<String>)> {
        let image = self.json.get("manifest.json")?.as_array()?.first()?;
        let layers = image["Layers"].as_array()?;
        let names = layers.iter().filter_map(|l| l.as_str().map(str::to_owned));
        Some((image["Config"].as_str()?.to_owned(), names.collect()))
    }

    fn oci(&self) -> Option<(String, Vec<String>)> {
        let mut manifest = self.json.get("index.json")?;
        for _ in 0..MAX_INDEXES {
            if manifest["manifests"].is_array() {
                manifest = self.json.get(&chosen(manifest)?)?;
            }
        }
        let digest = |d: &Value| blob_name(d["digest"].as_str()?);
        let layers = manifest["layers"].as_array()?.iter().filter_map(digest);
        Some((digest(&manifest["config"])?, layers.collect()))
    }

    /// A layer by a name that `docker save` uses: older versions link equal layers to one another.
    fn layer(&self, name: &str) -> Option<&Layer> {
        self.layers.get(name).or_else(|| {
            let target = self.links.get(name)?;
            let (dir, _) = name.rsplit_once('/').unwrap_or_default();
            let path = match target.strip_prefix("../") {
                Some(rest) => rest.to_owned(),
                None => format!("{dir}/{target}"),
            };
            self.layers.get(&path)
        })
    }
}

/// A source whose first bytes were read already.
struct Prefixed<'a, R> {
    head: &'a [u8],
    rest: &'a mut R,
}

impl<R: Forward> Read for Prefixed<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.head.is_empty() {
            return self.rest.read(buf);
        }
        self.head.read(buf)
    }
}

impl<R: Forward> Forward for Prefixed<'_, R> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let own = usize::try_from(n).map_or(self.head.len(), |n| n.min(self.head.len()));
        self.head = &self.head[own..];
        self.rest.skip(n - own as u64)
    }
}

/// What comes out of a decompressor: all of it must be read.
struct Unpacked<R>(R);

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Read> Forward for Unpacked<R> {}

/// Zstandard frames, one after the other, and between them frames to be skipped, as `zstd:chunked` layers have them.
struct Zstd<R> {
    source: BufReader<R>,
    decoder: FrameDecoder,
    /// Whether a frame was begun.
    running: bool,
}

impl<R: Read> Zstd<R> {
    fn new(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(BUFFER, source),
            decoder: FrameDecoder::new(),
            running: false,
        }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bad = |e: FrameDecoderError| io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {e}"));
        loop {
            if self.running {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    let some = BlockDecodingStrategy::UptoBlocks(1);
                    self.decoder.decode_blocks(&mut self.source, some).map_err(bad)?;
                }
                let n = self.decoder.read(buf)?;
                if n > 0 || buf.is_empty() {
                    return Ok(n);
                }
                self.running = false;
            }
            if self.source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => self.running = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(e) => return Err(bad(e)),
            }
        }
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

    /// One frame of blocks that are not compressed, and one that is to be skipped, before and after.
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
            check(&read(docker_save(pack).as_slice(), "x", &mut Silent).unwrap());
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
        check(&read(archive(&tar).as_slice(), "x", &mut Silent).unwrap());
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        for (name, data) in &files {
            std::fs::write(dir.path().join(name), data).unwrap();
        }
        check(&layout(&Root::open(dir.path()).unwrap(), "x", &mut Silent).unwrap());
    }

    #[test]
    fn broken_archives_are_errors_or_notes() {
        let good = docker_save(gzip);
        for cut in (0..good.len()).step_by(97) {
            let _ = read(&good[..cut], "x", &mut Silent);
        }
        let e = read(
            archive(&[entry("a", b'0', "", b"{}")]).as_slice(),
            "x",
            &mut Silent,
        )
        .unwrap_err();
        assert_eq!(e.code(), Code::File);
        let broken = docker_save(|bytes| gzip(&bytes[..700]));
        let image = read(broken.as_slice(), "x", &mut Silent).unwrap();
        assert!(
            image.notes.iter().any(|n| n.contains("1/layer.tar")),
            "{:?}",
            image.notes
        );
    }
}
