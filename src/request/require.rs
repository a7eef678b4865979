//! `NVIDIA_REQUIRE_*`: an image's requirements of the driver and the GPU.
//!
//! One variable is one requirement; all must hold. In a variable a space separates alternatives, of
//! which one must hold. A comma separates conditions that must hold together: `cuda>=12.0
//! brand=tesla,driver>=450,driver<451`. The grammar is that of `--require` in libnvidia-container
//! 1.17 and of the NVIDIA Container Toolkit 1.20.
//!
//! A condition on a fact that nvoci did not read is *unknown*: the brand, for example, needs a
//! driver library. An unknown condition counts as met and leaves a note. A container is refused
//! only for a condition that is known to be false.

use core::cmp::Ordering;
use core::fmt;

use super::limits;
use crate::compat::{Cuda, Version};
use crate::error::{Code, Error, Result};
use crate::vocabulary::decimal;

/// The host's facts that a condition can name; `None` if a fact is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The newest CUDA version that the driver supports, such as `12.4`.
    pub cuda: Option<Cuda>,
    /// The driver version, such as `550.54.15`.
    pub driver: Option<Version>,
    /// The compute capability of the GPU, such as `9.0`.
    pub arch: Option<Version>,
    /// The brand of the GPU as NVML has it, such as `Tesla`.
    pub brand: Option<&'a str>,
}

impl<'a> Facts<'a> {
    fn get(&self, property: Property) -> Option<Fact<'a>> {
        match property {
            Property::Cuda => self.cuda.map(Fact::Cuda),
            Property::Driver => self.driver.map(Fact::Version),
            Property::Arch => self.arch.map(Fact::Version),
            Property::Brand => self.brand.map(Fact::Brand),
        }
    }
}

/// One fact of the host.
enum Fact<'a> {
    Brand(&'a str),
    Cuda(Cuda),
    Version(Version),
}

impl fmt::Display for Fact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Brand(name) => f.write_str(name),
            Self::Cuda(version) => version.fmt(f),
            Self::Version(version) => version.fmt(f),
        }
    }
}

/// One requirement: a variable and its alternatives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Requirement {
    /// The variable that states it.
    pub variable: String,
    /// The outer list holds if one entry holds or if it is empty; an inner list if all its
    /// conditions hold.
    alternatives: Vec<Vec<Condition>>,
}

/// `cuda>=12.4`
#[derive(Clone, Debug, Eq, PartialEq)]
struct Condition {
    property: Property,
    operator: Operator,
    wanted: Wanted,
    /// The value as it was written.
    text: String,
}

/// The value of a condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wanted {
    /// The brand whose name is the text.
    Brand,
    /// The numbers of a version.
    Numbers([u32; 4]),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Property {
    Cuda,
    Driver,
    Arch,
    Brand,
}

const PROPERTIES: [(&str, Property); 4] = [
    ("cuda", Property::Cuda),
    ("driver", Property::Driver),
    ("arch", Property::Arch),
    ("brand", Property::Brand),
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operator {
    NotEqual,
    AtMost,
    AtLeast,
    Equal,
    Below,
    Above,
}

/// Longer operators come before their prefixes.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::NotEqual),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("=", Operator::Equal),
    ("<", Operator::Below),
    (">", Operator::Above),
];

impl Requirement {
    /// Parses the value of `variable`. A condition on an unknown property is dropped with a note,
    /// as the vendor's tool does: a later driver may define the property.
    pub fn parse(variable: &str, value: &str, notes: &mut Vec<String>) -> Result<Self> {
        let variable = &*limits::excerpt(variable);
        limits::text(variable, value)?;
        let mut alternatives = Vec::new();
        let mut count = 0;
        for term in value.split_ascii_whitespace() {
            let mut conditions = Vec::new();
            for factor in term.split(',').filter(|factor| !factor.is_empty()) {
                count += 1;
                limits::count(variable, count)?;
                match Condition::parse(factor) {
                    Ok(Some(condition)) => conditions.push(condition),
                    Ok(None) => limits::note(notes, || {
                        let factor = limits::excerpt(factor);
                        format!("{variable}: ignored `{factor}`, a condition on something unknown")
                    }),
                    Err(why) => {
                        return Err(Error::new(
                            Code::Malformed,
                            variable,
                            format!("`{}` {why}", limits::excerpt(factor)),
                        )
                        .fix("write conditions such as `cuda>=12.4`, or set NVIDIA_DISABLE_REQUIRE=1"));
                    }
                }
            }
            if !conditions.is_empty() {
                alternatives.push(conditions);
            }
        }
        Ok(Self {
            variable: variable.to_owned(),
            alternatives,
        })
    }

    /// The requirement of an image from before these variables: the CUDA version that it declares.
    pub(super) fn of_cuda_version(version: &str) -> Option<Self> {
        let number = version.strip_prefix('v').unwrap_or(version);
        let [cuda_major, cuda_minor, ..] = numbers(number)?;
        let mut parts = number.split('.');
        let (major, minor) = (parts.next()?, parts.next().unwrap_or("0"));
        Some(Self {
            variable: "CUDA_VERSION".to_owned(),
            alternatives: vec![vec![Condition {
                property: Property::Cuda,
                operator: Operator::AtLeast,
                wanted: Wanted::Numbers([cuda_major, cuda_minor, 0, 0]),
                text: format!("{major}.{minor}"),
            }]],
        })
    }

    /// Checks the requirement against the host's facts. Returns notes about unknown facts.
    ///
    /// # Errors
    /// [`Code::Requirement`], naming the first false condition and both values.
    pub fn evaluate(&self, facts: &Facts<'_>) -> Result<Vec<String>> {
        let mut unknown: Vec<String> = Vec::new();
        let mut first_failure = None;
        for conditions in &self.alternatives {
            match all(conditions, facts) {
                Truth::Holds => return Ok(Vec::new()),
                Truth::Unknown(condition) => unknown.push(condition.to_string()),
                Truth::Fails(condition) => {
                    first_failure.get_or_insert(condition);
                }
            }
        }
        match first_failure {
            Some(failed) if unknown.is_empty() => Err(self.unmet(failed, facts)),
            _ => {
                unknown.truncate(4);
                let note = |condition| {
                    format!(
                        "{}: `{condition}` was not checked: the host's value is not known",
                        self.variable
                    )
                };
                Ok(unknown.iter().map(note).collect())
            }
        }
    }

    fn unmet(&self, failed: &Condition, facts: &Facts<'_>) -> Error {
        let has = facts
            .get(failed.property)
            .map_or_else(|| "none".to_owned(), |fact| fact.to_string());
        let others = match self.alternatives.len() {
            0 | 1 => String::new(),
            2 => ", and the other alternative does not hold either".to_owned(),
            n => format!(", and none of the {} other alternatives holds either", n - 1),
        };
        let property = failed.property;
        let why = format!("the image demands {failed}, this host has {property} {has}{others}");
        let what = format!("requirement {} not met", self.variable);
        Error::new(Code::Requirement, what, why)
    }
}

impl fmt::Display for Requirement {
    /// The conditions in the variable's own form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, conditions) in self.alternatives.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { " " })?;
            for (i, condition) in conditions.iter().enumerate() {
                f.write_str(if i == 0 { "" } else { "," })?;
                condition.fmt(f)?;
            }
        }
        Ok(())
    }
}

/// Checks every requirement; see [`Requirement::evaluate`].
pub fn evaluate_all(requirements: &[Requirement], facts: &Facts<'_>) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for requirement in requirements {
        notes.append(&mut requirement.evaluate(facts)?);
    }
    Ok(notes)
}

enum Truth<'a> {
    Holds,
    Unknown(&'a Condition),
    Fails(&'a Condition),
}

/// One false condition decides, even beside unknown ones.
fn all<'a>(conditions: &'a [Condition], facts: &Facts<'_>) -> Truth<'a> {
    let mut truth = Truth::Holds;
    for condition in conditions {
        match condition.holds(facts) {
            Some(true) => {}
            Some(false) => return Truth::Fails(condition),
            None => truth = Truth::Unknown(condition),
        }
    }
    truth
}

impl Condition {
    /// `Ok(None)` for an unknown property.
    fn parse(text: &str) -> Result<Option<Self>, &'static str> {
        let at = text
            .find(['<', '>', '=', '!'])
            .ok_or("has no operator (=, !=, <, <=, >, >=)")?;
        let (name, rest) = text.split_at(at);
        let (sign, operator) = OPERATORS
            .into_iter()
            .find(|(sign, _)| rest.starts_with(sign))
            .ok_or("has no operator (=, !=, <, <=, >, >=)")?;
        let text = &rest[sign.len()..];
        let known = PROPERTIES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name.trim()));
        let Some(&(_, property)) = known else {
            return Ok(None);
        };
        let wanted = if property == Property::Brand {
            if !matches!(operator, Operator::Equal | Operator::NotEqual) {
                return Err("compares a brand with something other than = or !=");
            }
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
            if text.is_empty() || !text.bytes().all(allowed) {
                return Err("has a malformed brand");
            }
            Wanted::Brand
        } else {
            Wanted::Numbers(numbers(text).ok_or("has a malformed version")?)
        };
        Ok(Some(Self {
            property,
            operator,
            wanted,
            text: text.to_owned(),
        }))
    }

    /// `None` if the host's value is unknown.
    fn holds(&self, facts: &Facts<'_>) -> Option<bool> {
        let order = match (facts.get(self.property)?, self.wanted) {
            (Fact::Cuda(has), Wanted::Numbers(wanted)) => [has.major, has.minor, 0, 0].cmp(&wanted),
            (Fact::Version(has), Wanted::Numbers(wanted)) => has.numbers().cmp(&wanted),
            // A condition on a brand has only = and !=.
            (Fact::Brand(has), Wanted::Brand) if has.eq_ignore_ascii_case(&self.text) => Ordering::Equal,
            _ => Ordering::Less,
        };
        Some(match self.operator {
            Operator::NotEqual => order.is_ne(),
            Operator::AtMost => order.is_le(),
            Operator::AtLeast => order.is_ge(),
            Operator::Equal => order.is_eq(),
            Operator::Below => order.is_lt(),
            Operator::Above => order.is_gt(),
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = OPERATORS
            .iter()
            .find(|(_, o)| *o == self.operator)
            .map_or("", |(s, _)| s);
        write!(f, "{}{sign}{}", self.property, self.text)
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            PROPERTIES
                .iter()
                .find(|(_, p)| p == self)
                .map_or("", |(name, _)| name),
        )
    }
}

/// The numbers of a version in an image's condition, which may begin with `v`; missing ones are 0.
fn numbers(text: &str) -> Option<[u32; 4]> {
    let mut numbers = [0; 4];
    let text = text.strip_prefix('v').unwrap_or(text);
    for (i, part) in text.split('.').enumerate() {
        *numbers.get_mut(i)? = decimal(part)?;
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Facts<'static> {
        Facts {
            cuda: Some(Cuda { major: 12, minor: 2 }),
            driver: "535.104.05".parse().ok(),
            arch: "8.0".parse().ok(),
            brand: Some("Tesla"),
        }
    }

    fn parse(text: &str) -> Requirement {
        let mut notes = Vec::new();
        let requirement = Requirement::parse("NVIDIA_REQUIRE_CUDA", text, &mut notes).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        requirement
    }

    fn holds(text: &str) -> bool {
        parse(text).evaluate(&host()).is_ok()
    }

    #[test]
    fn space_is_or_and_comma_is_and() {
        assert!(holds("cuda>=12.0"));
        assert!(!holds("cuda>=12.4"));
        assert!(holds("cuda>=12.4 brand=tesla,driver>=535,driver<536"));
        assert!(!holds("cuda>=12.4 brand=tesla,driver>=450,driver<451"));
        assert!(!holds("cuda>=12.4 brand=geforce,driver>=535"));
        assert!(holds("") && holds(" , ,, "));
    }

    #[test]
    fn every_operator() {
        for (text, want) in [
            ("cuda=12.2", true),
            ("cuda=12.2.0", true),
            ("cuda!=12.2", false),
            ("cuda<12.10", true),
            ("cuda<=12.2", true),
            ("cuda>12", true),
            ("cuda>12.2", false),
            ("driver=535.104.5", true),
            ("arch>=7.5,arch<9", true),
            ("CUDA>=v12", true),
            ("brand!=GeForce", true),
            ("brand=TESLA", true),
        ] {
            assert_eq!(holds(text), want, "{text}");
        }
    }

    /// toolkit-features 12, quirk 10: the vendor's default mode ignores requirements.
    #[test]
    fn quirk_10_an_unmet_requirement_refuses_and_names_both_values() {
        let e = parse("cuda>=12.8 brand=tesla,driver>=470,driver<471")
            .evaluate(&host())
            .unwrap_err();
        assert_eq!(e.code(), Code::Requirement);
        let line = e.to_string();
        for part in [
            "NVIDIA_REQUIRE_CUDA",
            "cuda>=12.8",
            "cuda 12.2",
            "other alternative",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }

    /// toolkit-features 12, quirk 11: a missing fact made `driver>=450` fail.
    #[test]
    fn quirk_11_what_is_not_known_counts_as_met_and_is_noted() {
        let known = Facts {
            brand: None,
            ..host()
        };
        let notes = parse("brand=tesla,driver>=450").evaluate(&known).unwrap();
        assert!(notes[0].contains("brand=tesla"), "{notes:?}");
        // A condition that is known to be false decides, in any position.
        assert!(parse("driver>=600,brand=tesla").evaluate(&known).is_err());
        assert!(
            parse("cuda>=12.8 brand=tesla,driver>=600")
                .evaluate(&known)
                .is_err()
        );
        // An alternative that is known to be true needs no note.
        assert!(
            parse("brand=tesla cuda>=12.0")
                .evaluate(&known)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn unknown_properties_are_dropped_malformed_ones_refused() {
        let mut notes = Vec::new();
        let r = Requirement::parse("R", "cuda>=99 fabric=full", &mut notes).unwrap();
        assert!(r.evaluate(&host()).is_err());
        assert_eq!(notes.len(), 1);
        for bad in [
            "cuda",
            "cuda>=",
            "cuda>=a",
            "cuda>=-1",
            "cuda==12",
            "cuda>=1.2.3.4.5",
            "brand>tesla",
            "brand=(a+)+$",
        ] {
            let e = Requirement::parse("R", bad, &mut Vec::new()).unwrap_err();
            assert_eq!(e.code(), Code::Malformed, "{bad}");
        }
    }

    #[test]
    fn legacy_versions() {
        for (version, want) in [
            ("8", Some("cuda>=8.0")),
            ("9.0.116", Some("cuda>=9.0")),
            ("v11.6", Some("cuda>=11.6")),
            ("9.", None),
            ("foo", None),
        ] {
            let r = Requirement::of_cuda_version(version).map(|r| r.to_string());
            assert_eq!(r.as_deref(), want, "{version}");
        }
    }

    /// security 7, case 15.
    #[test]
    fn a_huge_requirement_is_refused_briefly() {
        for bad in [
            "cuda>=1 ".repeat(100_000),
            format!("cuda>={}", "9".repeat(60_000)),
            "cuda>=1,".repeat(8_000),
        ] {
            let e = Requirement::parse("R", &bad, &mut Vec::new()).unwrap_err();
            assert!(e.to_string().len() < 400);
        }
    }
}
