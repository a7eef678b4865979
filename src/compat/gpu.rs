//! GPUs: their architectures, and which code runs on them. `GeForce RTX 3070` is of `sm_86`.

use core::fmt;
use core::str::FromStr;

use super::table::{known, rows};
use super::{Cuda, NotAVersion};

const ARCH: &str = include_str!("data/arch.tsv");
const PCI: &str = include_str!("data/pci.tsv");
const NAMES: &str = include_str!("data/names.tsv");

/// The GPUs that code for an architecture is limited to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Scope {
    /// `sm_90`: this one and later ones of its major version.
    Open,
    /// `sm_100f`: its family.
    Family,
    /// `sm_90a`: exactly this one.
    Only,
}

/// An architecture: `sm_90`; for code also `sm_90a` and `sm_100f`. Ordered by number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Sm {
    number: u32,
    scope: Scope,
}

impl Sm {
    /// From NVIDIA's number: 90, 120. A fat binary's entry has it.
    pub const fn new(number: u32) -> Self {
        Self {
            number,
            scope: Scope::Open,
        }
    }

    /// `90`.
    pub const fn number(self) -> u32 {
        self.number
    }

    const fn major(self) -> u32 {
        self.number / 10
    }

    /// Whether it is one of Tegra's, which do not share machine code.
    pub const fn is_tegra(self) -> bool {
        matches!(self.number, 32 | 53 | 62 | 72 | 87 | 101 | 110)
    }

    /// Whether machine code (a cubin) for this architecture runs on `gpu`. It runs on its own major
    /// version from its minor on, never across major versions, nor between desktop and Tegra.
    ///
    /// Source: CUDA C++ Programming Guide, "Binary Compatibility" and "Family-Specific Features".
    pub const fn runs_on(self, gpu: Self) -> bool {
        if self.is_tegra() || gpu.is_tegra() {
            return self.number == gpu.number;
        }
        match self.scope {
            Scope::Open | Scope::Family => self.major() == gpu.major() && self.number <= gpu.number,
            Scope::Only => self.number == gpu.number,
        }
    }

    /// Whether the driver can compile PTX for this architecture for `gpu`, if it supports the PTX
    /// version.
    ///
    /// Source: CUDA C++ Programming Guide, "PTX Compatibility".
    pub const fn compiles_for(self, gpu: Self) -> bool {
        match self.scope {
            Scope::Open => self.number <= gpu.number,
            // These follow the rules of machine code.
            Scope::Family | Scope::Only => self.runs_on(gpu),
        }
    }

    /// The last CUDA with code for it, if `cuda` is later.
    pub fn ended_before(self, cuda: Cuda) -> Option<Cuda> {
        self.architecture()?.last.filter(|last| cuda > *last)
    }

    /// The table's row for the architecture.
    pub fn architecture(self) -> Option<Architecture> {
        rows(ARCH).filter_map(architecture).find(|a| a.sm == self.number)
    }
}

impl fmt::Display for Sm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            Scope::Open => "",
            Scope::Family => "f",
            Scope::Only => "a",
        };
        write!(f, "sm_{}{scope}", self.number)
    }
}

impl FromStr for Sm {
    type Err = NotAVersion;

    /// Parses `sm_90`, `sm_90a`, `compute_90`, `90` or `9.0`.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let text = text
            .strip_prefix("sm_")
            .or_else(|| text.strip_prefix("compute_"))
            .unwrap_or(text);
        let (digits, scope) = match (text.strip_suffix('a'), text.strip_suffix('f')) {
            (Some(digits), _) => (digits, Scope::Only),
            (_, Some(digits)) => (digits, Scope::Family),
            _ => (text, Scope::Open),
        };
        let number = match digits.split_once('.') {
            Some((major, minor)) if minor.len() == 1 => {
                let part = |text: &str| text.parse::<u32>().map_err(|_| NotAVersion);
                let tens = part(major)?.checked_mul(10);
                tens.and_then(|n| n.checked_add(part(minor).ok()?))
                    .ok_or(NotAVersion)?
            }
            Some(_) => return Err(NotAVersion),
            None => digits.parse().map_err(|_| NotAVersion)?,
        };
        if (10..1000).contains(&number) && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            Ok(Self { number, scope })
        } else {
            Err(NotAVersion)
        }
    }
}

/// The properties of an architecture.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Architecture {
    sm: u32,
    /// `Ampere`
    pub name: &'static str,
    /// The first toolkit that compiles for it.
    pub first: Option<Cuda>,
    /// The last such toolkit; `None` while there is none.
    pub last: Option<Cuda>,
    /// The last driver branch for it; `None` while there is none.
    pub last_driver: Option<u32>,
}

fn architecture([sm, name, first, last, driver, _]: [&'static str; 6]) -> Option<Architecture> {
    let cuda = |field| known(field).map(str::parse).transpose().ok();
    Some(Architecture {
        sm: sm.parse().ok()?,
        name,
        first: cuda(first)?,
        last: cuda(last)?,
        last_driver: known(driver).map(str::parse).transpose().ok()?,
    })
}

struct Devices {
    first: u16,
    last: u16,
    chip: &'static str,
    sm: Sm,
}

fn devices([first, last, chip, sm, _]: [&'static str; 5]) -> Option<Devices> {
    Some(Devices {
        first: u16::from_str_radix(first, 16).ok()?,
        last: u16::from_str_radix(last, 16).ok()?,
        chip,
        sm: sm.parse().ok()?,
    })
}

/// The architecture of the GPU with this PCI device id (of vendor 10de).
pub fn sm_of_pci(device: u16) -> Option<Sm> {
    of_pci(device).map(|d| d.sm)
}

/// The chip of the GPU with this PCI device id: `GA104`.
pub fn chip_of_pci(device: u16) -> Option<&'static str> {
    of_pci(device).map(|d| d.chip)
}

fn of_pci(device: u16) -> Option<Devices> {
    rows(PCI)
        .filter_map(devices)
        .find(|d| (d.first..=d.last).contains(&device))
}

/// The product line of a GPU, on which forward compatibility depends.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Class {
    /// A100, H100, T4
    DataCentre,
    /// GeForce
    GeForce,
    /// Jetson and its like.
    Soc,
    /// TITAN
    Titan,
    /// Quadro, RTX A6000
    Workstation,
}

impl Class {
    /// Whether CUDA's forward compatibility can work on it.
    ///
    /// Source: <https://docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html>:
    /// data-centre GPUs, selected workstation cards, and Jetson.
    pub const fn allows_forward(self) -> bool {
        !matches!(self, Self::GeForce | Self::Titan)
    }
}

struct Named {
    pattern: &'static str,
    sm: Sm,
    class: Class,
}

fn named([pattern, sm, class, _]: [&'static str; 4]) -> Option<Named> {
    Some(Named {
        pattern,
        sm: sm.parse().ok()?,
        class: match class {
            "dc" => Class::DataCentre,
            "geforce" => Class::GeForce,
            "soc" => Class::Soc,
            "titan" => Class::Titan,
            "ws" => Class::Workstation,
            _ => return None,
        },
    })
}

/// The architecture of a product: `NVIDIA GeForce RTX 3070`. A PCI id is more exact
/// ([`sm_of_pci`]).
pub fn sm_of_name(name: &str) -> Option<Sm> {
    of_name(name).map(|n| n.sm)
}

/// The product line of a product.
pub fn class_of_name(name: &str) -> Option<Class> {
    let any = |words: &[&str]| words.iter().any(|w| name.to_ascii_lowercase().contains(w));
    of_name(name).map(|n| n.class).or_else(|| {
        // Forward compatibility supports no GeForce, so the model does not matter.
        if any(&["geforce"]) {
            Some(Class::GeForce)
        } else if any(&["titan"]) {
            Some(Class::Titan)
        } else {
            None
        }
    })
}

fn of_name(name: &str) -> Option<Named> {
    of_words(&words(name))
}

fn of_words(words: &[&str]) -> Option<Named> {
    rows(NAMES)
        .filter_map(named)
        .find(|row| in_order(row.pattern, words))
}

/// A person's name of a GPU: an architecture, or a product with or without its brand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Product {
    /// Its architecture.
    pub sm: Sm,
    /// Its product line; unknown for an architecture.
    pub class: Option<Class>,
}

/// The text names no GPU of the tables, or several.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownGpu;

impl FromStr for Product {
    type Err = UnknownGpu;

    /// Parses `sm_120`, `12.0`, `120`, `H200`, `RTX5090`, `1080 Ti`, `NVIDIA RTX PRO 6000`, in any
    /// case.
    fn from_str(text: &str) -> Result<Self, UnknownGpu> {
        const MAX: usize = 128;
        if text.len() > MAX {
            return Err(UnknownGpu);
        }
        if let Some(sm) = architecture_named(text.trim()) {
            return Ok(Self { sm, class: None });
        }
        let words = words(text);
        let found = with_brand(&words).iter().find_map(|words| {
            let row = of_words(words)?;
            // The table has whole series of GeForce, in which not every number is a product.
            let exists = match row.class {
                Class::GeForce => words.iter().all(|word| may_be_geforce(word)),
                _ => words.first() != Some(&"GeForce"),
            };
            exists.then_some(row)
        });
        let Named { sm, class, .. } = found.ok_or(UnknownGpu)?;
        Ok(Self {
            sm,
            class: Some(class),
        })
    }
}

/// Parses `sm_120`, `SM120`, `compute_120`, `12.0`. A plain number counts only if it is an
/// architecture: 980 is a product.
fn architecture_named(text: &str) -> Option<Sm> {
    let lower = text.to_ascii_lowercase();
    let prefixed = ["sm_", "sm", "compute_"]
        .iter()
        .find_map(|p| lower.strip_prefix(p));
    let number = prefixed.unwrap_or(&lower);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let sm: Sm = number.parse().ok()?;
    let certain = prefixed.is_some() || number.contains('.') || sm.architecture().is_some();
    certain.then_some(sm)
}

/// The words of a name. People and vGPU profiles leave out blanks: `RTX5090`, `RTXA6000-8Q`,
/// `2080Ti`.
fn words(name: &str) -> Vec<&str> {
    const BRANDS: [&str; 9] = [
        "NVIDIA", "GeForce", "Quadro", "Tesla", "TITAN", "Jetson", "RTX", "GTX", "PRO",
    ];
    let mut words = Vec::new();
    for mut word in name.split(|c: char| !c.is_ascii_alphanumeric()) {
        while let Some((brand, rest)) = BRANDS.iter().find_map(|b| {
            let (head, rest) = word.split_at_checked(b.len())?;
            (head.eq_ignore_ascii_case(b) && !rest.is_empty()).then_some((head, rest))
        }) {
            words.push(brand);
            word = rest;
        }
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = word.split_at(if digits >= 3 { digits } else { 0 });
        words.extend([number, rest].into_iter().filter(|w| !w.is_empty()));
    }
    words
}

/// The words as they are, then with the brand that people leave out.
fn with_brand<'a>(words: &[&'a str]) -> Vec<Vec<&'a str>> {
    let brands: &[&[&str]] = match words.first().and_then(|w| w.split_at_checked(1)) {
        Some(("A" | "a", model)) if is_workstation(model) => &[&[], &["RTX"]],
        Some(("K" | "k" | "M" | "m" | "P" | "p", model)) if is_workstation(model) => &[&[], &["Quadro"]],
        _ => &[&[], &["GeForce"], &["GeForce", "RTX"], &["GeForce", "GTX"]],
    };
    let mut all: Vec<Vec<&str>> = brands.iter().map(|brand| [*brand, words].concat()).collect();
    // The only generation with that name.
    if words.iter().any(|w| w.eq_ignore_ascii_case("PRO")) {
        all.push([words, &["Blackwell"]].concat());
    }
    all
}

/// The number of an `A6000` or `P2000`.
fn is_workstation(model: &str) -> bool {
    (3..=4).contains(&model.len()) && model.bytes().all(|b| b.is_ascii_digit()) && model.ends_with("00")
}

/// Whether a word can be a part of a GeForce's name. GeForce models end in 10 to 90. The other
/// numbers (RTX 4000, 5000, 6000) do not decide the generation.
fn may_be_geforce(word: &str) -> bool {
    let model = word.len() == 4 && word.bytes().all(|b| b.is_ascii_digit());
    !model || word.ends_with('0') && !word.ends_with("00")
}

/// Whether `words` has the words of `pattern` in this order.
fn in_order(pattern: &str, words: &[&str]) -> bool {
    let mut words = words.iter();
    pattern.split(' ').all(|p| words.by_ref().any(|w| matches(p, w)))
}

fn matches(pattern: &str, word: &str) -> bool {
    let mut bytes = word.bytes();
    for p in pattern.bytes() {
        match (p, bytes.next()) {
            (b'*', _) => return true,
            (b'?', Some(b)) if b.is_ascii_digit() => {}
            (p, Some(b)) if p.eq_ignore_ascii_case(&b) => {}
            _ => return false,
        }
    }
    bytes.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::table::check;

    fn sm(text: &str) -> Sm {
        text.parse().unwrap()
    }

    #[test]
    fn every_row_is_understood() {
        check(ARCH, architecture);
        check(PCI, |row| devices(row).filter(|d| d.first <= d.last));
        check(NAMES, named);
        for row in rows(PCI).filter_map(devices) {
            assert!(row.sm.architecture().is_some(), "{}", row.chip);
        }
        for row in rows(NAMES).filter_map(named) {
            assert!(row.sm.architecture().is_some(), "{}", row.pattern);
        }
    }

    #[test]
    fn as_it_is_written() {
        for (text, shown) in [
            ("sm_90", "sm_90"),
            ("90", "sm_90"),
            ("9.0", "sm_90"),
            ("12.0", "sm_120"),
            ("sm_100f", "sm_100f"),
            ("compute_90a", "sm_90a"),
        ] {
            assert_eq!(sm(text).to_string(), shown);
        }
        for bad in [
            "",
            "sm_",
            "sm_9",
            "9.10",
            "x",
            "-90",
            "+90",
            "90.",
            "99999",
            "a",
            "429496729.9",
        ] {
            assert!(bad.parse::<Sm>().is_err(), "{bad}");
        }
    }

    #[test]
    fn where_code_runs() {
        for (code, gpu, cubin, ptx) in [
            ("sm_80", "sm_86", true, true),
            ("sm_86", "sm_80", false, false),
            ("sm_86", "sm_89", true, true),
            ("sm_80", "sm_90", false, true),
            ("sm_90a", "sm_90", true, true),
            ("sm_90a", "sm_100", false, false),
            ("sm_100f", "sm_103", true, true),
            ("sm_100f", "sm_120", false, false),
            ("sm_120a", "sm_121", false, false),
            ("sm_80", "sm_87", false, true),
            ("sm_87", "sm_87", true, true),
            ("sm_87", "sm_89", false, true),
            ("sm_70", "sm_72", false, true),
            ("sm_120", "sm_121", true, true),
        ] {
            assert_eq!(sm(code).runs_on(sm(gpu)), cubin, "{code} on {gpu}");
            assert_eq!(sm(code).compiles_for(sm(gpu)), ptx, "{code} for {gpu}");
        }
    }

    #[test]
    fn by_id_and_by_name() {
        for (id, name, number) in [
            (0x2484, "NVIDIA GeForce RTX 3070", 86),
            (0x2330, "NVIDIA H100 80GB HBM3", 90),
            (0x2335, "NVIDIA H200", 90),
            (0x20b2, "NVIDIA A100-SXM4-80GB", 80),
            (0x1eb8, "Tesla T4", 75),
            (0x2237, "NVIDIA A10G", 86),
            (0x26b1, "NVIDIA RTX 6000 Ada Generation", 89),
            (0x27b8, "NVIDIA L4", 89),
            (0x2b85, "NVIDIA GeForce RTX 5090", 120),
            (0x2bb1, "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 120),
            (0x2901, "NVIDIA B200", 100),
            (0x3182, "NVIDIA B300 SXM6 AC", 103),
            (0x2e12, "NVIDIA GB10", 121),
            (0x1db1, "Tesla V100-SXM2-16GB", 70),
            (0x102d, "Tesla K80", 37),
            (0x25a7, "NVIDIA GeForce RTX 2050", 86),
            (0x1f9f, "NVIDIA GeForce MX550", 75),
            (0x2822, "NVIDIA GeForce RTX 3050 A Laptop GPU", 89),
            (0x2235, "NVIDIA A40", 86),
            (0x2230, "NVIDIA RTX A6000", 86),
            (0x1e30, "Quadro RTX 6000", 75),
        ] {
            assert_eq!(sm_of_pci(id), Some(Sm::new(number)), "{id:x}");
            assert_eq!(sm_of_name(name), Some(Sm::new(number)), "{name}");
        }
        assert_eq!(sm_of_pci(0x0001), None);
        assert_eq!(sm_of_name("NVIDIA Z900"), None);
        assert_eq!(chip_of_pci(0x2484), Some("GA104"));
    }

    fn product(text: &str) -> Option<(u32, Option<Class>)> {
        text.parse::<Product>().ok().map(|p| (p.sm.number(), p.class))
    }

    #[test]
    fn as_people_name_them() {
        for (text, number) in [
            ("sm_120", 120),
            ("SM_90", 90),
            ("sm120", 120),
            ("compute_86", 86),
            ("8.6", 86),
            ("86", 86),
            (" sm_90 ", 90),
            ("sm_100f", 100),
        ] {
            assert_eq!(product(text), Some((number, None)), "{text}");
        }
        for (text, number, class) in [
            ("1080 Ti", 61, Class::GeForce),
            ("1080Ti", 61, Class::GeForce),
            ("gtx1080ti", 61, Class::GeForce),
            ("GTX 1660 SUPER", 75, Class::GeForce),
            ("2080ti", 75, Class::GeForce),
            ("3070", 86, Class::GeForce),
            ("RTX 3070", 86, Class::GeForce),
            ("4070SUPER", 89, Class::GeForce),
            ("RTX5090", 120, Class::GeForce),
            ("rtx_5090", 120, Class::GeForce),
            ("NVIDIA\u{ae} GeForce RTX\u{2122} 4090", 89, Class::GeForce),
            ("GeForceRTX4090", 89, Class::GeForce),
            ("980", 52, Class::GeForce),
            ("980 Ti", 52, Class::GeForce),
            ("RTX PRO 6000", 120, Class::Workstation),
            ("RTXPRO6000", 120, Class::Workstation),
            (
                "NVIDIA RTX PRO 6000 Blackwell Server Edition",
                120,
                Class::Workstation,
            ),
            ("RTX 6000 Ada", 89, Class::Workstation),
            ("A6000", 86, Class::Workstation),
            ("RTXA6000-8Q", 86, Class::Workstation),
            ("P4000", 61, Class::Workstation),
            ("Quadro RTX 6000", 75, Class::Workstation),
            ("H200", 90, Class::DataCentre),
            ("h100 pcie", 90, Class::DataCentre),
            ("A100-SXM4-80GB", 80, Class::DataCentre),
            ("A100", 80, Class::DataCentre),
            ("A10G", 86, Class::DataCentre),
            ("Tesla T4", 75, Class::DataCentre),
            ("P40", 61, Class::DataCentre),
            ("V100S", 70, Class::DataCentre),
            ("L40S", 89, Class::DataCentre),
            ("B200", 100, Class::DataCentre),
            ("Orin", 87, Class::Soc),
            ("Jetson AGX Orin", 87, Class::Soc),
            ("titan rtx", 75, Class::Titan),
        ] {
            assert_eq!(product(text), Some((number, Some(class))), "{text}");
        }
    }

    #[test]
    fn ambiguous_names_are_unknown() {
        let long = "RTX 4090".repeat(100);
        for text in [
            "",
            " ",
            "-",
            "NVIDIA",
            "GeForce",
            "RTX",
            "RTX 9999",
            "RTX 4099",
            "4095",
            "4000",
            "RTX 4000",
            "RTX 5000",
            "RTX 6000",
            "A999",
            "P1",
            "Z900",
            "sm_",
            "sm_x",
            "sm_sm_90",
            "+90",
            "-90",
            "99999",
            "9.10",
            "\u{664}\u{660}\u{669}\u{660}",
            "RTX \u{ff14}090",
            "Radeon 7900 XTX",
            "Arc A770",
            &long,
        ] {
            assert_eq!(product(text), None, "{text:.40}");
        }
    }

    #[test]
    fn product_lines() {
        assert_eq!(class_of_name("NVIDIA H100 PCIe"), Some(Class::DataCentre));
        assert_eq!(class_of_name("NVIDIA GeForce RTX 9999"), Some(Class::GeForce));
        assert!(!class_of_name("NVIDIA TITAN RTX").unwrap().allows_forward());
        assert_eq!(class_of_name("NVIDIA Z900"), None);
    }
}
