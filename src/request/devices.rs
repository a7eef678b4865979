//! Finds the devices that a request names, and the source that names them (mounts, annotations or
//! variables). [`super::provenance`] decides which of them are granted.

use std::collections::{BTreeSet, HashSet};

use crate::config::{Config, Mode};
use crate::error::{Code, Error, Result};
use crate::vocabulary::decimal;

use super::limits::{self, excerpt};
use super::provenance;
use super::provenance::{Authors, Policy, Refused, Wish};
use super::variables::Variables;
use super::{CdiName, DeviceRequest, EntryPoint, Gated, ImexRequest, Inputs, Provenance, Selector, ignored};

const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// The vendor of the CDI kinds whose devices nvoci discovers itself.
const OURS: &str = "nvidia.com";

const VOLUMES: &str = "/var/run/nvidia-container-devices";

/// IMEX channel numbers are below this (a device minor has 20 bits).
const IMEX_CHANNELS: u32 = 1 << 20;

/// The devices of a request, after policy.
pub(super) struct Requested {
    pub(super) devices: DeviceRequest,
    pub(super) cdi: Vec<CdiName>,
    pub(super) imex: ImexRequest,
    pub(super) gated: Gated,
    pub(super) provenance: Provenance,
}

/// Whether any source holds a request, granted or not; see [`super::wants_gpu_fast`].
pub(super) fn any(inputs: &Inputs<'_>, config: &Config) -> bool {
    let by_env = inputs.env.iter().any(|(name, value)| match name.as_str() {
        VISIBLE => !matches!(value.as_str(), "" | "void"),
        "CUDA_VERSION" => !value.is_empty(),
        _ => config.swarm_resource.contains(name),
    });
    by_env
        || (*config.accept_volume_mounts && inputs.mounts.iter().any(|m| m.source.contains("null")))
        || (inputs.entry == EntryPoint::Runtime && annotations(inputs, config).next().is_some())
}

/// Reads the first source that requests a device: mounts, then annotations, then variables.
pub(super) fn requested(
    inputs: &Inputs<'_>,
    variables: &Variables<'_>,
    config: &Config,
    notes: &mut Vec<String>,
) -> Result<Requested> {
    if inputs.entry == EntryPoint::Cdi {
        return Ok(Requested::plain(DeviceRequest::NoneDevices, Provenance::Cdi));
    }
    let mut listed = Listed::new(Policy::of(inputs, config), config);
    if *config.accept_volume_mounts {
        listed.mounts(inputs)?;
        if listed.names_gpus(Provenance::VolumeMount) {
            return listed.finish(Provenance::VolumeMount);
        }
    }
    if inputs.entry == EntryPoint::Runtime {
        let provenance = listed.annotations(inputs, notes)?;
        if listed.names_gpus(provenance) {
            return listed.finish(provenance);
        }
    }
    let wanted = Variable::of(variables, config);
    let provenance = match listed.others_from {
        Some(from) if wanted.is_void() => from,
        _ => wanted.provenance,
    };
    if !wanted.is_void()
        && let Err(refused) = listed.policy.granted(wanted.provenance, Wish::Gpus)
    {
        limits::note(notes, || ignored(&excerpt(wanted.name()), refused));
        return listed.finish(provenance);
    }
    for (name, value) in &wanted.values {
        for item in limits::list(name, value)? {
            listed.word(name, wanted.provenance, item)?;
        }
    }
    if let Some(special) = listed.overriding() {
        limits::note(notes, || {
            let name = excerpt(wanted.name());
            format!("`{special}` in {name} gives no GPU, whatever else the list names")
        });
    }
    listed.finish(provenance)
}

/// Reads one IMEX channel, `7` or `channel7`.
pub(super) fn imex_channel(name: &str, text: &str) -> Result<u32> {
    let digits = text.strip_prefix("channel").unwrap_or(text);
    decimal(digits)
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

/// The variables that request devices.
struct Variable<'a> {
    values: Vec<(&'a str, &'a str)>,
    provenance: Provenance,
}

impl<'a> Variable<'a> {
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

    /// Whether the variable requests nothing; a cheap test that parses no list.
    fn is_void(&self) -> bool {
        let mut values = self.values.iter().map(|(_, value)| value.trim());
        values.all(|value| matches!(value, "" | "void"))
    }
}

impl Requested {
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

/// A word of a list, and the device of this host that it names, if it is one.
struct Named {
    text: String,
    selector: Option<Selector>,
}

impl Named {
    fn of(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            selector: Selector::parse(text),
        }
    }
}

/// An entry of a list, other than a CDI name for the registry.
struct Word {
    /// The variable, annotation or mount that holds the entry, for errors.
    name: String,
    named: Named,
    /// Whether the entry is a device of this host even with `mode = "cdi"`.
    automatic: bool,
}

impl Word {
    fn is(&self, special: &str) -> bool {
        self.named.text.eq_ignore_ascii_case(special)
    }
}

/// The granted entries of all sources.
struct Listed<'a> {
    policy: Policy<'a>,
    config: &'a Config,
    /// `all`, `none`, `void` and single devices, in the order listed.
    words: Vec<Word>,
    cdi: BTreeSet<CdiName>,
    /// Devices of other vendors by mounts and annotations. They are no answer to the question of
    /// GPUs, so the next source is read too and takes none of them back.
    others: BTreeSet<CdiName>,
    others_from: Option<Provenance>,
    imex: Vec<u32>,
    imex_all: bool,
    gated: Gated,
}

/// A feature with devices of its own, by the class of its CDI kind.
#[derive(Clone, Copy)]
enum Feature {
    Gds,
    Mofed,
    Gdrcopy,
    Nvswitch,
    Imex,
}

impl Feature {
    fn of(cdi: &CdiName) -> Option<Self> {
        if cdi.vendor != OURS {
            return None;
        }
        Some(match cdi.class.as_str() {
            "gds" => Self::Gds,
            "mofed" => Self::Mofed,
            "gdrcopy" => Self::Gdrcopy,
            "nvswitch" => Self::Nvswitch,
            "imex-channel" => Self::Imex,
            _ => return None,
        })
    }
}

impl<'a> Listed<'a> {
    fn new(policy: Policy<'a>, config: &'a Config) -> Self {
        Self {
            policy,
            config,
            words: Vec::new(),
            cdi: BTreeSet::new(),
            others: BTreeSet::new(),
            others_from: None,
            imex: Vec::new(),
            imex_all: false,
            gated: Gated::default(),
        }
    }

    /// Whether the source names a device of NVIDIA. IMEX channels and gated features alone do not
    /// count. Devices of other vendors are set aside.
    fn names_gpus(&mut self, from: Provenance) -> bool {
        let all = std::mem::take(&mut self.cdi).into_iter();
        let (gpus, others): (BTreeSet<_>, BTreeSet<_>) = all.partition(CdiName::is_nvidias);
        self.cdi = gpus;
        if !others.is_empty() {
            self.others_from = Some(from);
            self.others.extend(others);
        }
        !self.words.is_empty() || !self.cdi.is_empty()
    }

    /// `void` or `none`, if it overrides devices of the same list.
    fn overriding(&self) -> Option<&'static str> {
        let first = |special: &&str| self.words.iter().position(|word| word.is(special));
        let all = first(&"all").unwrap_or(usize::MAX);
        let special = if first(&"void").is_some() { "void" } else { "none" };
        // With `mode = "cdi"` every other word is a name of a specification.
        let by_word = *self.config.mode != Mode::Cdi;
        let wins = special == "void" || by_word && first(&"none").is_some_and(|at| at < all);
        (wins && self.words.iter().any(|word| !word.is(special))).then_some(special)
    }

    /// Adds an entry of a variable. If a part is not granted, the whole variable is refused: the
    /// image may have set it, and CDI specifications of other kinds can grant anything.
    fn word(&mut self, name: &str, from: Provenance, item: &str) -> Result<()> {
        let by_specification = *self.config.mode == Mode::Cdi;
        match item.split_once('=') {
            None => self.push(name, Named::of(item), false),
            Some(("nvidia.com/gpu", word)) if !by_specification => self.push(name, Named::of(word), false),
            Some(("runtime.nvidia.com/gpu", word)) => self.push(name, Named::of(word), true),
            Some(_) => {
                if let Err(refused) = self.qualified(name, from, item)? {
                    return Err(not_for_variables(name, item, refused));
                }
            }
        }
        limits::count(name, self.words.len() + self.cdi.len())
    }

    fn push(&mut self, name: &str, named: Named, automatic: bool) {
        self.words.push(Word {
            name: excerpt(name),
            named,
            automatic,
        });
    }

    /// Reads mounts of `/dev/null` below the agreed directory. The destination names the device.
    fn mounts(&mut self, inputs: &Inputs<'_>) -> Result<()> {
        const NAME: &str = "the device list by volume mounts";
        const FROM: Provenance = Provenance::VolumeMount;
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
            let granted = if let Some(channel) = rest.strip_prefix("imex/") {
                match self.policy.granted(FROM, Wish::Gated) {
                    Ok(()) => Ok(self.imex(NAME, channel)?),
                    refused => refused,
                }
            } else if let Some(device) = rest.strip_prefix("cdi/") {
                match device.rsplit_once('/') {
                    Some((kind, name)) if !name.contains('=') => {
                        let cdi = CdiName::of_kind(kind, name);
                        let cdi = cdi.ok_or_else(|| not_a_cdi_name(NAME, &format!("{kind}={name}")))?;
                        self.cdi_name(NAME, FROM, cdi)?
                    }
                    _ => self.qualified(NAME, FROM, device)?,
                }
            } else {
                let granted = self.policy.granted(FROM, Wish::Gpus);
                granted.map(|()| self.push(NAME, Named::of(rest), false))
            };
            if let Err(refused) = granted {
                let why = format!("`{}`: {}", excerpt(rest), refused.why());
                return Err(Error::new(Code::Malformed, NAME, why));
            }
        }
        Ok(())
    }

    /// Reads the annotations with the configured prefixes, sorted by key. Returns the least trusted
    /// origin among the granted ones.
    fn annotations(&mut self, inputs: &Inputs<'_>, notes: &mut Vec<String>) -> Result<Provenance> {
        let mut chosen: Vec<_> = annotations(inputs, self.config).collect();
        chosen.sort_unstable();
        let mut least = Provenance::Annotation;
        if chosen.is_empty() {
            return Ok(least);
        }
        let authors = Authors::of(inputs);
        let mut count = 0;
        for (key, value) in chosen {
            let name = format!("annotation {}", excerpt(key));
            let from = authors.provenance(key, value);
            // Refused before the value is parsed: a broken value of an untrusted author stops
            // nothing.
            if let Err(refused) = self.policy.granted(from, Wish::Gpus) {
                limits::note(notes, || unproven(&name, refused));
                continue;
            }
            for item in limits::list(&name, value)? {
                count += 1;
                limits::count(&name, count)?;
                let granted = if item.contains('=') {
                    self.qualified(&name, from, item)?
                } else if *self.config.mode == Mode::Cdi {
                    let granted = self.policy.granted(from, Wish::Gpus);
                    granted.map(|()| self.push(&name, Named::of(item), false))
                } else {
                    limits::note(notes, || {
                        format!("ignored `{}` of {name}: not a CDI device name", excerpt(item))
                    });
                    continue;
                };
                match granted {
                    Ok(()) if from == Provenance::AuthorAnnotation => least = from,
                    Ok(()) => {}
                    Err(refused) => limits::note(notes, || {
                        ignored(&format!("`{}` of {name}", excerpt(item)), refused)
                    }),
                }
            }
        }
        Ok(least)
    }

    /// Parses `text` and adds it by [`Self::cdi_name`].
    ///
    /// # Errors
    /// If it is not a CDI name. The inner result is the policy's.
    fn qualified(&mut self, name: &str, from: Provenance, text: &str) -> Result<Result<(), Refused>> {
        let cdi = CdiName::parse(text).ok_or_else(|| not_a_cdi_name(name, text))?;
        self.cdi_name(name, from, cdi)
    }

    /// Adds a CDI name that policy grants to `from`. nvoci resolves its own kinds without a
    /// specification, so a stale one does no harm. Other kinds need their specification.
    ///
    /// # Errors
    /// If its IMEX channel does not exist. The inner result is the policy's.
    fn cdi_name(&mut self, name: &str, from: Provenance, cdi: CdiName) -> Result<Result<(), Refused>> {
        let automatic = cdi.is_kind("runtime.nvidia.com", "gpu");
        let feature = Feature::of(&cdi);
        let own = if automatic {
            Some(Named::of(&cdi.device))
        } else if cdi.is_kind(OURS, "gpu") {
            own_name(&cdi.device)
        } else {
            None
        };
        let wish = match (&own, feature) {
            (Some(_), _) => Wish::Gpus,
            (None, Some(_)) => Wish::Gated,
            (None, None) => Wish::Named(&cdi),
        };
        if let Err(refused) = self.policy.granted(from, wish) {
            return Ok(Err(refused));
        }
        let by_specification = *self.config.mode == Mode::Cdi && !automatic;
        match (own, feature) {
            (Some(word), _) if !by_specification => self.push(name, word, automatic),
            (None, Some(feature)) if !by_specification => self.feature(name, feature, &cdi.device)?,
            _ => {
                self.cdi.insert(cdi);
            }
        }
        Ok(Ok(()))
    }

    fn feature(&mut self, name: &str, feature: Feature, device: &str) -> Result<()> {
        match feature {
            Feature::Gds => self.gated.gds = true,
            Feature::Mofed => self.gated.mofed = true,
            Feature::Gdrcopy => self.gated.gdrcopy = true,
            Feature::Nvswitch => self.gated.nvswitch = true,
            Feature::Imex => self.imex(name, device)?,
        }
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

    fn finish(mut self, provenance: Provenance) -> Result<Requested> {
        let imex = if self.imex_all {
            ImexRequest::All
        } else {
            imex_channels(core::mem::take(&mut self.imex))
        };
        let devices = self.devices()?;
        Ok(Requested {
            devices,
            cdi: self
                .cdi
                .into_iter()
                .chain(self.others)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            imex,
            gated: self.gated,
            provenance,
        })
    }

    /// `void` anywhere requests nothing. With `mode = "cdi"`, words are names of the configured
    /// kind. Else the first of `all` and `none` decides. Else every word is a device of this host.
    fn devices(&mut self) -> Result<DeviceRequest> {
        let config = self.config;
        if self.words.iter().any(|word| word.is("void")) {
            self.cdi.clear();
            return Ok(DeviceRequest::Void);
        }
        if *config.mode == Mode::Cdi {
            for word in self.words.extract_if(.., |word| !word.automatic) {
                let cdi = CdiName::of_kind(&config.default_kind, &word.named.text);
                let cdi = cdi.ok_or_else(|| not_a_device(&word.name, &word.named.text, config))?;
                self.cdi.insert(cdi);
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
        for Word { name, named, .. } in &self.words {
            let selector = named.selector.as_ref();
            let selector = selector.ok_or_else(|| not_a_device(name, &named.text, config))?;
            if seen.insert(selector) {
                list.push(selector.clone());
            }
        }
        Ok(if list.is_empty() {
            DeviceRequest::Nothing
        } else {
            DeviceRequest::List(list)
        })
    }
}

/// Whether an annotation is read: it can hold CDI names, or proves who wrote the others.
pub(super) fn reads_annotation(key: &str, config: &Config) -> bool {
    provenance::is_evidence(key) || has_prefix(key, config)
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

fn not_a_cdi_name(name: &str, text: &str) -> Error {
    let why = format!("`{}` is not a CDI device name", excerpt(text));
    Error::new(Code::Malformed, name, why).fix("write vendor.com/class=device")
}

/// The error of a CDI name that a variable may not request.
fn not_for_variables(name: &str, item: &str, refused: Refused) -> Error {
    let why = match refused {
        Refused::Kind => "a CDI device of another kind, which a variable cannot request",
        Refused::KindUnprivileged => {
            "a CDI device of a kind for privileged containers, which this one is not"
        }
        Refused::Gated => "a CDI device that an unprivileged container may not request by a variable",
        Refused::Unprivileged => "a device that an unprivileged container may not request",
    };
    let fix = match refused {
        Refused::KindUnprivileged => {
            "start the container with CAP_SYS_ADMIN (`--privileged`), or list the kind in `accept-cdi-kinds` of \
             /etc/nvoci/config.toml"
        }
        Refused::Kind | Refused::Gated | Refused::Unprivileged => {
            "request nvidia.com/gpu devices, give the device to the engine (`--device`), or list the kind in \
             `accept-cdi-kinds` of /etc/nvoci/config.toml"
        }
    };
    let why = format!("`{}` is {why}", excerpt(item));
    Error::new(Code::Malformed, name, why).fix(fix)
}

/// The note on an annotation that policy ignores.
fn unproven(name: &str, refused: Refused) -> String {
    let note = ignored(name, refused);
    format!("{note}; it counts as a variable, since nothing shows that a device plugin wrote it")
}

/// The device of a name of kind `nvidia.com/gpu`, by the strategies `index`, `uuid` and
/// `type-index` (`gpu0`, `mig0:1`) of specifications; `None` for any other name.
fn own_name(device: &str) -> Option<Named> {
    if matches!(device, "all" | "none") {
        return Some(Named::of(device));
    }
    let bare = device.strip_prefix("gpu").or_else(|| device.strip_prefix("mig"));
    let word = bare
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or(device);
    Some(Named::of(word)).filter(|named| named.selector.is_some())
}

/// The vendor's tools refuse such a word too. A device plugin that lists devices by volume mounts
/// writes the mounts' directory into the variable. The word then means that the mounts do not
/// count.
fn not_a_device(name: &str, text: &str, config: &Config) -> Error {
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

/// An absolute path without empty and `.` components; `None` if it is relative or contains `..`.
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
