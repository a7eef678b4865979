//! The JSON of an image archive: index, manifest, configuration. nvoci keeps only the keys it uses.

use std::io::{self, Read};

use serde_json::Value;

use super::config::ImageConfig;
use crate::sys::budget::Budget;

/// The largest document, in bytes; registries accept no larger manifests.
const MAX_BYTES: u64 = 4 << 20;
/// The most values in one document; a configuration has some hundred.
const MAX_VALUES: u64 = 1 << 18;
/// The memory of a value during parsing, in bytes.
const VALUE: u64 = 128;

/// The blobs of a manifest, by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Pointers {
    pub(super) config: String,
    /// The lowest first.
    pub(super) layers: Vec<String>,
}

/// The type and content of a document.
#[derive(Debug)]
pub(super) enum Document {
    /// A configuration, or any other JSON.
    Config(ImageConfig),
    /// An index, with its manifest for this machine.
    Index(Option<String>),
    Manifest(Pointers),
    /// `manifest.json` of `docker save`, with its first image.
    Saved(Pointers),
    /// Too large to parse. Attestations may be that large; it matters only if the image needs it.
    TooLarge,
}

impl Document {
    /// Reads a document of `size` bytes; `None` if it is no JSON.
    pub(super) fn read(source: &mut impl Read, size: u64, budget: &Budget) -> io::Result<Option<Self>> {
        if size > MAX_BYTES {
            return Ok(Some(Self::TooLarge));
        }
        budget.keep(size)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        source.take(size).read_to_end(&mut bytes)?;
        let values = count_values(&bytes);
        if values > MAX_VALUES {
            budget.release(size);
            return Ok(Some(Self::TooLarge));
        }
        let needs = values * VALUE + size;
        budget.keep(needs)?;
        let document = serde_json::from_slice(&bytes).ok().map(|json| Self::of(&json));
        budget.release(needs + size);
        if let Some(document) = &document {
            budget.keep(document.bytes())?;
        }
        budget.check()?;
        Ok(document)
    }

    fn of(json: &Value) -> Self {
        let saved = json.as_array().and_then(|images| saved(images.first()?));
        if let Some(pointers) = saved {
            Self::Saved(pointers)
        } else if json["manifests"].is_array() {
            Self::Index(chosen(json))
        } else if let Some(pointers) = manifest(json) {
            Self::Manifest(pointers)
        } else {
            Self::Config(ImageConfig::of(json))
        }
    }

    /// The blobs that a manifest or an index refers to; of an index only one manifest.
    pub(super) fn references(&self) -> impl Iterator<Item = &String> {
        let (one, more) = match self {
            Self::Index(manifest) => (manifest.as_ref(), None),
            Self::Manifest(p) | Self::Saved(p) => (Some(&p.config), Some(&p.layers)),
            Self::Config(_) | Self::TooLarge => (None, None),
        };
        one.into_iter().chain(more.into_iter().flatten())
    }

    /// The approximate memory of the kept parts.
    fn bytes(&self) -> u64 {
        const EACH: usize = 64;
        let of = |text: &String| EACH + text.len();
        let texts = self.references().map(of).sum::<usize>();
        let config = match self {
            Self::Config(config) => {
                let pairs = config.env.iter().chain(&config.labels);
                pairs.map(|(name, value)| of(name) + of(value)).sum::<usize>()
                    + config.command.iter().map(of).sum::<usize>()
            }
            _ => 0,
        };
        (EACH + texts + config) as u64
    }
}

/// An upper bound of a document's number of values.
fn count_values(json: &[u8]) -> u64 {
    let (mut count, mut quoted, mut escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b':' | b'[' | b'{' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

/// Parses one image of `docker save`.
fn saved(image: &Value) -> Option<Pointers> {
    let layers = image["Layers"].as_array()?.iter();
    Some(Pointers {
        config: image["Config"].as_str()?.to_owned(),
        layers: layers.filter_map(|l| l.as_str().map(str::to_owned)).collect(),
    })
}

fn manifest(json: &Value) -> Option<Pointers> {
    let digest = |d: &Value| blob_name(d["digest"].as_str()?);
    Some(Pointers {
        layers: json["layers"].as_array()?.iter().filter_map(digest).collect(),
        config: digest(&json["config"])?,
    })
}

/// The path of a blob in a layout: `sha256:…` is in `blobs/sha256/…`.
fn blob_name(digest: &str) -> Option<String> {
    const MAX: usize = 255;
    let (algorithm, hex) = digest.split_once(':')?;
    let plain =
        |text: &str| (1..=MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
    (plain(algorithm) && plain(hex)).then(|| format!("blobs/{algorithm}/{hex}"))
}

/// The index's manifest for this machine, else the first that is for any machine.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &[u8], budget: &Budget) -> Option<Document> {
        Document::read(&mut &*json, json.len() as u64, budget).unwrap()
    }

    #[test]
    fn documents_keep_little_and_return_the_rest_of_the_budget() {
        let limits = crate::sys::budget::Limits {
            kept: 1 << 20,
            ..crate::sys::budget::Limits::DEFAULT
        };
        let budget = Budget::new(limits);
        let layers: Vec<String> = (0..9).map(|i| format!(r#"{{"digest":"sha256:{i}"}}"#)).collect();
        let text = format!(
            r#"{{"config":{{"digest":"sha256:c"}},"layers":[{}],"annotations":{{"a":"{}"}}}}"#,
            layers.join(","),
            ",".repeat(10_000)
        );
        for _ in 0..500 {
            let Some(Document::Manifest(found)) = read(text.as_bytes(), &budget) else {
                panic!("no manifest");
            };
            assert_eq!((found.config.as_str(), found.layers.len()), ("blobs/sha256/c", 9));
        }
    }

    #[test]
    fn large_dense_deep_and_broken_documents() {
        let budget = Budget::default();
        let large = vec![b' '; 11 << 20];
        assert!(matches!(read(&large, &budget), Some(Document::TooLarge)));
        let dense = [b"[".to_vec(), b"0,".repeat(1 << 20), b"0]".to_vec()].concat();
        assert!(matches!(read(&dense, &budget), Some(Document::TooLarge)));
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert!(read(&deep, &budget).is_none());
        for text in ["[", "{}x", "\"", "", "[\"\\"] {
            assert!(read(text.as_bytes(), &budget).is_none(), "{text}");
        }
        assert!(matches!(read(b"{}", &budget), Some(Document::Config(_))));
        // Its claimed size is larger than its content.
        assert!(
            Document::read(&mut &b"{"[..], 4 << 20, &budget)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn commas_in_texts_are_no_values() {
        assert_eq!(count_values(br#"{"a,[{:\",":["b","c"]}"#), 5);
    }
}
