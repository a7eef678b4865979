//! Which devices are asked for, by which way, and whether that way is trusted.

use std::collections::{BTreeSet, HashSet};

use crate::config::{Config, Mode};
use crate::error::{Code, Error, Result};

use super::limits::{self, excerpt};
use super::selector::number;
use super::variables::Variables;
use super::{CdiName, DeviceRequest, Door, Gated, ImexRequest, Inputs, Provenance, Selector};

const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// The kind whose devices are this host's, whatever specifications say.
const AUTOMATIC: &str = "runtime.nvidia.com/gpu";

const VOLUMES: &str = "/var/run/nvidia-container-devices";

/// IMEX channel numbers are below this (a device minor has 20 bits).
const IMEX_CHANNELS: u32 = 1 << 20;

/// The annotation by which Podman marks its containers. Podman copies the image's annotations into the
/// container's, so there they deserve no more trust than the image's variables.
const MANAGER: (&str, &str) = ("io.container.manager", "libpod");

/// The answer.
pub(super) struct Asked {
    pub(super) devices: DeviceRequest,
    pub(super) cdi: Vec<CdiName>,
    pub(super) imex: ImexRequest,
    pub(super) gated: Gated,
    pub(super) provenance: Provenance,
}

/// Whether anything looks like a request; see [`super::wants_gpu_fast`].
pub(super) fn any(inputs: &Inputs<'_>, config: &Config) -> bool {
    let by_env = inputs.env.iter().any(|(name, value)| match name.as_str() {
        VISIBLE => !matches!(value.as_str(), "" | "void"),
        "CUDA_VERSION" => !value.is_empty(),
        _ => config.swarm_resource.contains(name),
    });
    by_env
        || (*config.accept_volume_mounts && inputs.mounts.iter().any(|m| m.source.contains("null")))
        || (inputs.door == Door::Runtime && annotations(inputs, config).next().is_some())
}

/// Reads the first source that asks for something: mounts, then annotations, then variables.
pub(super) fn asked(
    inputs: &Inputs<'_>,
    variables: &Variables<'_>,
    config: &Config,
    notes: &mut Vec<String>,
) -> Result<Asked> {
    if inputs.door == Door::Cdi {
        return Ok(Asked::plain(DeviceRequest::NoneDevices, Provenance::Cdi));
    }
    let mut listed = Listed::default();
    if *config.accept_volume_mounts {
        listed.mounts(inputs, config)?;
        if listed.asks() {
            return listed.finish(Provenance::VolumeMount, config);
        }
    }
    let env_trusted = inputs.privileged || *config.accept_envvar_unprivileged;
    if inputs.door == Door::Runtime {
        let from_image = inputs
            .annotations
            .iter()
            .any(|(k, v)| (k.as_str(), v.as_str()) == MANAGER);
        if !from_image || env_trusted {
            listed.annotations(inputs, config, notes)?;
        } else if annotations(inputs, config).next().is_some() {
            notes.push(
                "ignored the CDI annotations: with Podman an image can set them, the container is \
                 unprivileged and `accept-envvar-unprivileged` is off"
                    .to_owned(),
            );
        }
        if listed.asks() {
            return listed.finish(Provenance::Annotation, config);
        }
    }
    let wish = Wish::of(variables, config);
    if !wish.is_void() && !env_trusted {
        notes.push(format!(
            "ignored {}: the container is unprivileged and `accept-envvar-unprivileged` is off",
            excerpt(wish.name())
        ));
        return Ok(Asked::plain(DeviceRequest::Nothing, wish.provenance));
    }
    for (name, value) in &wish.values {
        for item in limits::list(name, value)? {
            listed.word(name, item)?;
        }
    }
    listed.finish(wish.provenance, config)
}

/// Reads one IMEX channel, `7` or `channel7`.
pub(super) fn imex_channel(name: &str, text: &str) -> Result<u32> {
    let digits = text.strip_prefix("channel").unwrap_or(text);
    number(digits)
        .filter(|&channel| channel < IMEX_CHANNELS)
        .ok_or_else(|| {
            let why = format!(
                "`{}` is not an IMEX channel: a number below {IMEX_CHANNELS}",
                excerpt(text)
            );
            Error::new(Code::Malformed, name, why)
        })
}

/// Sorts channels and drops repeats.
pub(super) fn imex_channels(channels: Vec<u32>) -> ImexRequest {
    let unique: BTreeSet<u32> = channels.into_iter().collect();
    if unique.is_empty() {
        return ImexRequest::Nothing;
    }
    ImexRequest::Channels(unique.into_iter().collect())
}

/// What the variables ask for.
struct Wish<'a> {
    values: Vec<(&'a str, &'a str)>,
    provenance: Provenance,
}

impl<'a> Wish<'a> {
    fn of(variables: &Variables<'a>, config: &'a Config) -> Self {
        let set = |name: &'a String| Some((name.as_str(), variables.get(name)?));
        let swarm: Vec<_> = config.swarm_resource.iter().filter_map(set).collect();
        if !swarm.is_empty() {
            return Self {
                values: swarm,
                provenance: Provenance::Swarm,
            };
        }
        let (value, provenance) = match variables.get(VISIBLE) {
            Some(value) => (Some((VISIBLE, value)), Provenance::Env),
            None if variables.is_legacy_image() => (Some(("CUDA_VERSION", "all")), Provenance::LegacyImage),
            None => (None, Provenance::Env),
        };
        Self {
            values: value.into_iter().collect(),
            provenance,
        }
    }

    fn name(&self) -> &str {
        self.values.first().map_or(VISIBLE, |(name, _)| name)
    }

    /// Whether nothing is asked for, as far as can be told without reading much.
    fn is_void(&self) -> bool {
        let mut values = self.values.iter().map(|(_, value)| value.trim());
        values.all(|value| matches!(value, "" | "void"))
    }
}

impl Asked {
    fn plain(devices: DeviceRequest, provenance: Provenance) -> Self {
        Self {
            devices,
            cdi: Vec::new(),
            imex: ImexRequest::Nothing,
            gated: Gated::default(),
            provenance,
        }
    }
}

/// An entry of a list that is not a CDI name of its own.
struct Word {
    /// Where it stands, for errors.
    name: String,
    text: String,
    /// Whether it means this host's devices even with `mode = "cdi"`.
    automatic: bool,
}

impl Word {
    fn is(&self, special: &str) -> bool {
        self.text.eq_ignore_ascii_case(special)
    }
}

/// What one source lists.
#[derive(Default)]
struct Listed {
    /// `all`, `none`, `void` and single devices, in the order listed.
    words: Vec<Word>,
    cdi: BTreeSet<CdiName>,
    imex: Vec<u32>,
    imex_all: bool,
    gated: Gated,
}

impl Listed {
    /// Whether the source asks for devices at all; IMEX channels and gated features alone do not count.
    fn asks(&self) -> bool {
        !self.words.is_empty() || !self.cdi.is_empty()
    }

    /// An entry of a variable. Of CDI names only the GPUs of this host are accepted: a variable may be
    /// the image's, and specifications of other kinds hand out other things.
    fn word(&mut self, name: &str, item: &str) -> Result<()> {
        let (automatic, word) = match item.split_once('=') {
            None => (false, item),
            Some(("nvidia.com/gpu", word)) => (false, word),
            Some((AUTOMATIC, word)) => (true, word),
            Some(_) => {
                let why = format!(
                    "`{}` is a CDI device of another kind, which a variable cannot ask for",
                    excerpt(item)
                );
                let fix = "ask for nvidia.com/gpu devices, or give the device to the engine (`--device`)";
                return Err(Error::new(Code::Malformed, name, why).fix(fix));
            }
        };
        self.push(name, word, automatic);
        limits::count(name, self.words.len())
    }

    fn push(&mut self, name: &str, word: &str, automatic: bool) {
        self.words.push(Word {
            name: excerpt(name),
            text: word.to_owned(),
            automatic,
        });
    }

    /// Mounts of `/dev/null` below the agreed directory; the destination is the request.
    fn mounts(&mut self, inputs: &Inputs<'_>, config: &Config) -> Result<()> {
        const NAME: &str = "the device list by volume mounts";
        let mut count = 0;
        for mount in inputs.mounts {
            if lexically(mount.source).as_deref() != Some("/dev/null") {
                continue;
            }
            let Some(destination) = lexically(mount.destination) else {
                continue;
            };
            // The separator matters: `…-devicesX` is another directory.
            let Some(rest) = destination
                .strip_prefix(VOLUMES)
                .and_then(|rest| rest.strip_prefix('/'))
            else {
                continue;
            };
            count += 1;
            limits::count(NAME, count)?;
            limits::text(NAME, rest)?;
            if let Some(channel) = rest.strip_prefix("imex/") {
                self.imex(NAME, channel)?;
            } else if let Some(device) = rest.strip_prefix("cdi/") {
                let qualified = match device.rsplit_once('/') {
                    Some((_, class)) if class.contains('=') => device.to_owned(),
                    Some((kind, name)) => format!("{kind}={name}"),
                    None => device.to_owned(),
                };
                self.qualified(NAME, &qualified, config)?;
            } else {
                self.push(NAME, rest, false);
            }
        }
        Ok(())
    }

    /// Annotations with the configured prefixes, by key.
    fn annotations(&mut self, inputs: &Inputs<'_>, config: &Config, notes: &mut Vec<String>) -> Result<()> {
        let mut chosen: Vec<_> = annotations(inputs, config).collect();
        chosen.sort_unstable();
        let mut count = 0;
        for (key, value) in chosen {
            let name = format!("annotation {}", excerpt(key));
            for item in limits::list(&name, value)? {
                count += 1;
                limits::count(&name, count)?;
                if item.contains('=') {
                    self.qualified(&name, item, config)?;
                } else if *config.mode == Mode::Cdi {
                    self.push(&name, item, false);
                } else {
                    limits::note(notes, || {
                        format!("ignored `{}` of {name}: not a CDI device name", excerpt(item))
                    });
                }
            }
        }
        Ok(())
    }

    /// A CDI name from the engine's side. The kinds that stand for what nvoci finds itself are taken as
    /// that, so that a stale specification does no harm; the others need their specification.
    fn qualified(&mut self, name: &str, text: &str, config: &Config) -> Result<()> {
        let malformed = || {
            let why = format!("`{}` is not a CDI device name", excerpt(text));
            Error::new(Code::Malformed, name, why).fix("write vendor.com/class=device")
        };
        let cdi = CdiName::parse(text).ok_or_else(malformed)?;
        let device = cdi.device.as_str();
        if text
            .strip_prefix(AUTOMATIC)
            .is_some_and(|rest| rest.starts_with('='))
        {
            self.push(name, device, true);
            return Ok(());
        }
        if *config.mode == Mode::Cdi || cdi.vendor != "nvidia.com" {
            self.cdi.insert(cdi);
            return Ok(());
        }
        let feature = match cdi.class.as_str() {
            "gpu" => {
                match own_name(device) {
                    Some(word) => self.push(name, &word, false),
                    None => {
                        self.cdi.insert(cdi);
                    }
                }
                return Ok(());
            }
            "imex-channel" => return self.imex(name, device),
            "gds" => &mut self.gated.gds,
            "mofed" => &mut self.gated.mofed,
            "gdrcopy" => &mut self.gated.gdrcopy,
            "nvswitch" => &mut self.gated.nvswitch,
            _ => {
                self.cdi.insert(cdi);
                return Ok(());
            }
        };
        *feature = true;
        Ok(())
    }

    fn imex(&mut self, name: &str, channel: &str) -> Result<()> {
        if channel == "all" {
            self.imex_all = true;
        } else {
            self.imex.push(imex_channel(name, channel)?);
        }
        Ok(())
    }

    fn finish(mut self, provenance: Provenance, config: &Config) -> Result<Asked> {
        let imex = if self.imex_all {
            ImexRequest::All
        } else {
            imex_channels(core::mem::take(&mut self.imex))
        };
        let devices = self.devices(config)?;
        Ok(Asked {
            devices,
            cdi: self.cdi.into_iter().collect(),
            imex,
            gated: self.gated,
            provenance,
        })
    }

    /// `void` anywhere is nothing. With `mode = "cdi"` words are names of the configured kind; else the
    /// first of `all` and `none` decides; else every word is a device of this host.
    fn devices(&mut self, config: &Config) -> Result<DeviceRequest> {
        if self.words.iter().any(|word| word.is("void")) {
            self.cdi.clear();
            return Ok(DeviceRequest::Void);
        }
        if *config.mode == Mode::Cdi {
            for word in self.words.extract_if(.., |word| !word.automatic) {
                let cdi = CdiName::of_kind(&config.default_kind, &word.text);
                self.cdi.insert(cdi.ok_or_else(|| not_a_device(&word, config))?);
            }
        }
        if let Some(special) = self.words.iter().find(|word| word.is("all") || word.is("none")) {
            return Ok(if special.is("all") {
                DeviceRequest::All
            } else {
                DeviceRequest::NoneDevices
            });
        }
        let mut seen = HashSet::new();
        let mut list = Vec::new();
        for word in &self.words {
            let selector = Selector::parse(&word.text).ok_or_else(|| not_a_device(word, config))?;
            if seen.insert(selector.clone()) {
                list.push(selector);
            }
        }
        Ok(if list.is_empty() {
            DeviceRequest::Nothing
        } else {
            DeviceRequest::List(list)
        })
    }
}

/// Whether an annotation is read: it can hold CDI names, or says who wrote the others.
pub(super) fn reads_annotation(key: &str, config: &Config) -> bool {
    key == MANAGER.0 || has_prefix(key, config)
}

fn has_prefix(key: &str, config: &Config) -> bool {
    let mut prefixes = config.annotation_prefixes.iter();
    prefixes.any(|prefix| key.starts_with(prefix.as_str()))
}

/// The annotations that can hold CDI names.
fn annotations<'a>(inputs: &Inputs<'a>, config: &'a Config) -> impl Iterator<Item = (&'a str, &'a str)> {
    inputs
        .annotations
        .iter()
        .filter_map(move |(key, value)| has_prefix(key, config).then_some((key.as_str(), value.as_str())))
}

/// The device that a name of kind `nvidia.com/gpu` stands for, by the strategies `index`, `uuid` and
/// `type-index` (`gpu0`, `mig0:1`) of specifications; `None` for a name that somebody made up.
fn own_name(device: &str) -> Option<String> {
    if matches!(device, "all" | "none") {
        return Some(device.to_owned());
    }
    let bare = device.strip_prefix("gpu").or_else(|| device.strip_prefix("mig"));
    let word = bare
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or(device);
    Selector::parse(word).map(|_| word.to_owned())
}

/// The vendor's tools refuse such a word too. A device plugin that lists devices by volume mounts puts the mounts' directory into
/// the variable, where it counts if the mounts do not.
fn not_a_device(Word { name, text, .. }: &Word, config: &Config) -> Error {
    let name = name.as_str();
    if text.starts_with(VOLUMES) && *config.accept_volume_mounts {
        let why = "the devices are listed by volume mounts, and none is mounted there";
        let fix = format!("mount /dev/null at {VOLUMES}/<device> for each device");
        return Error::new(Code::Malformed, name, why).fix(fix);
    }
    if text.starts_with(VOLUMES) {
        let why = "the devices are listed by volume mounts, which are not accepted here";
        let fix = "set `accept-volume-mounts = true` in /etc/nvoci/config.toml";
        return Error::new(Code::Malformed, name, why).fix(fix);
    }
    let why = format!("`{}` is not a device", excerpt(text));
    let fix = "name devices by index, index range, GPU-<uuid>, MIG-<uuid>, <gpu>:<mig> or PCI address, or write all, none or void";
    Error::new(Code::Malformed, name, why).fix(fix)
}

/// An absolute path without empty and `.` components; `None` when it is not absolute or holds `..`.
fn lexically(path: &str) -> Option<String> {
    let mut clean = String::with_capacity(path.len());
    for part in path.strip_prefix('/')?.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => {
                clean.push('/');
                clean.push_str(part);
            }
        }
    }
    Some(clean)
}
