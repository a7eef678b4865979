//! The last refusals and warnings on this host: records of containers that hook or runtime stopped,
//! and of containers that started and cannot compute on their GPU.

use serde_json::{Value, json};

use super::warned;
use crate::apply::Warning;
use crate::apply::record::ERRORS_DIR;
use crate::error::{Code, Escaped, IoContext as _, Result};
use crate::sys::root::Root;

/// So many are kept at most, with some room.
const MAX_FILES: usize = 1024;
const MAX_RECORD: u64 = 64 << 10;

/// A container that was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The record as it was kept.
    pub record: Value,
    /// Seconds since 1970.
    pub time: u64,
}

/// What this host keeps, each kind with the newest first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Last {
    /// Containers that were refused.
    pub refusals: Vec<Refusal>,
    /// Containers that started with a warning, or why the warnings are not shown.
    pub warnings: Result<Vec<Warning>, String>,
}

/// The last `count` refusals and the last `count` warnings.
///
/// # Errors
/// As of [`refusals`].
pub fn last(system: &Root, count: usize) -> Result<Last> {
    let mut warnings = warned::warnings();
    if let Ok(found) = &mut warnings {
        found.truncate(count);
    }
    Ok(Last {
        refusals: refusals(system, count)?,
        warnings,
    })
}

/// The last `count` refusals, the newest first.
///
/// # Errors
/// [`Code::System`] when the directory is there and cannot be read.
pub fn refusals(system: &Root, count: usize) -> Result<Vec<Refusal>> {
    let dir = ERRORS_DIR.trim_start_matches('/');
    let entries = match system.read_dir(dir, MAX_FILES) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context(Code::System, || ERRORS_DIR),
    };
    let mut found: Vec<Refusal> = entries
        .iter()
        .filter_map(|entry| {
            let name = entry.name.to_str().filter(|n| n.ends_with(".json"))?;
            let bytes = system.read(format!("{dir}/{name}"), MAX_RECORD).ok()?;
            let record: Value = serde_json::from_slice(&bytes).ok()?;
            Some(Refusal {
                time: record["time"].as_u64()?,
                record,
            })
        })
        .collect();
    found.sort_by_key(|r| core::cmp::Reverse(r.time));
    found.truncate(count);
    Ok(found)
}

/// Both for a person, the newest first; `now` in seconds since 1970.
pub fn to_text(last: &Last, now: u64) -> String {
    let ago = |time: u64| age(now.saturating_sub(time));
    let refused = last
        .refusals
        .iter()
        .map(|r| (r.time, refusal_text(r, &ago(r.time))));
    let warnings = last.warnings.as_deref().unwrap_or_default();
    let warned = warnings.iter().map(|w| (w.time, warning_text(w, &ago(w.time))));
    let mut all: Vec<(u64, String)> = refused.chain(warned).collect();
    all.sort_by_key(|(time, _)| core::cmp::Reverse(*time));
    let mut out: String = all.into_iter().map(|(_, text)| text).collect();
    if out.is_empty() {
        let kinds = if last.warnings.is_ok() {
            "No refusal and no warning"
        } else {
            "No refusal"
        };
        out = format!("{kinds} is kept on this host.\n");
    }
    if let Err(why) = &last.warnings {
        out += &format!("Warnings are not shown: {}.\n", Escaped(why));
    }
    out
}

fn refusal_text(refusal: &Refusal, ago: &str) -> String {
    let field = |name: &str| refusal.record[name].as_str().unwrap_or_default();
    let id: String = field("container").chars().take(12).collect();
    format!(
        "{ago} ago, container {}\n  {}: {} [{}]\n  fix: {}\n",
        Escaped(&id),
        Escaped(field("what")),
        Escaped(field("why")),
        Escaped(field("code")),
        Escaped(field("fix")),
    )
}

fn warning_text(warning: &Warning, ago: &str) -> String {
    let image = warning
        .image
        .as_ref()
        .map_or_else(String::new, |name| format!(" of {}", Escaped(name)));
    let id = Escaped(warning.short_id());
    let mut out = format!("{ago} ago, container {id}{image} started with a warning\n");
    for finding in warning.findings() {
        out += &format!(
            "  {}: {} [{}]\n  fix: {}\n",
            Escaped(&finding.subject),
            Escaped(&finding.cause),
            finding.check,
            Escaped(&finding.fix),
        );
    }
    out
}

/// Both as JSON; a refusal has the keys of its record. Keys are only ever added. `warnings` is null
/// if this user may not read them.
pub fn to_json(last: &Last) -> Value {
    let warnings = last.warnings.as_deref().ok();
    json!({
        "refusals": last.refusals.iter().map(|r| escaped(&r.record)).collect::<Vec<_>>(),
        "warnings": warnings.map(|all| all.iter().flat_map(warning_json).collect::<Vec<_>>()),
    })
}

/// An object for each finding of a warning.
fn warning_json(warning: &Warning) -> impl Iterator<Item = Value> {
    warning.findings().iter().map(move |finding| {
        escaped(&json!({
            "container": warning.container, "image": warning.image, "time": warning.time,
            "code": finding.check.to_string(), "severity": finding.severity.name(),
            "what": finding.subject, "why": finding.cause, "fix": finding.fix,
            "line": warning.line(finding),
        }))
    })
}

/// Escapes control characters: a text may come from an image.
fn escaped(record: &Value) -> Value {
    let fields = record.as_object().into_iter().flatten().map(|(name, value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.clone(), |text| Value::String(Escaped(text).to_string()));
        (name.clone(), value)
    });
    Value::Object(fields.collect())
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::warning::tests::warning;
    use crate::schema::Schema;

    #[test]
    fn the_newest_comes_first_and_rubbish_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(refusals(&root, 5).unwrap().is_empty());
        let errors = dir.path().join(ERRORS_DIR.trim_start_matches('/'));
        std::fs::create_dir_all(&errors).unwrap();
        for (name, text) in [
            (
                "a.json",
                r#"{"container": "aaaa", "time": 100, "what": "w\u001b[2J", "why": "y", "code": "NVOCI-3001", "fix": "f", "status": 12, "line": "l"}"#,
            ),
            (
                "b.json",
                r#"{"container": "bbbb", "time": 200, "what": "w", "why": "y", "code": "NVOCI-2001", "fix": "f", "status": 12, "line": "l"}"#,
            ),
            ("c.json", "no JSON"),
            ("d", "{}"),
        ] {
            std::fs::write(errors.join(name), text).unwrap();
        }
        let all = refusals(&root, 5).unwrap();
        assert_eq!(all.iter().map(|r| r.time).collect::<Vec<_>>(), [200, 100]);
        assert_eq!(refusals(&root, 1).unwrap().len(), 1);
        let last = |refusals: &[Refusal], warnings| Last {
            refusals: refusals.to_vec(),
            warnings,
        };
        let text = to_text(&last(&all, Ok(Vec::new())), 260);
        assert!(
            text.starts_with("60 s ago, container bbbb\n") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(
            !to_json(&last(&all, Ok(Vec::new())))["refusals"][1]["what"]
                .as_str()
                .unwrap()
                .contains('\u{1b}')
        );
        let warning = Warning {
            time: 150,
            image: Some("evil\nimage".to_owned()),
            ..warning("3f2a3f2a3f2a3f2a")
        };
        let both = last(&all, Ok(vec![warning]));
        let text = to_text(&both, 260);
        let order: Vec<&str> = text.lines().filter(|line| line.contains(" ago, ")).collect();
        assert_eq!(
            order,
            [
                "60 s ago, container bbbb",
                "110 s ago, container 3f2a3f2a3f2a of evil\\nimage started with a warning",
                "2 min ago, container aaaa"
            ]
        );
        assert!(
            text.contains("  /opt/torch: a CPU-only build [NVOCI-7702]\n  fix: install a CUDA build\n"),
            "{text}"
        );
        let json = to_json(&both);
        Schema::read("last.json").assert_valid(&json);
        assert_eq!(json["warnings"][0]["code"], "NVOCI-7702");
        assert_eq!(json["warnings"][0]["image"], "evil\\nimage");
        assert_eq!(json["warnings"].as_array().map(Vec::len), Some(2));
        let hidden = last(&[], Err("only root can read it".to_owned()));
        assert_eq!(
            to_text(&hidden, 0),
            "No refusal is kept on this host.\nWarnings are not shown: only root can read it.\n"
        );
        assert!(to_json(&hidden)["warnings"].is_null());
        Schema::read("last.json").assert_valid(&to_json(&hidden));
        assert_eq!(
            to_text(&last(&[], Ok(Vec::new())), 0),
            "No refusal and no warning is kept on this host.\n"
        );
    }

    #[test]
    fn ages() {
        assert_eq!(
            [0, 119, 7199, 7200, 172_800].map(age),
            ["0 s", "119 s", "119 min", "2 h", "2 days"]
        );
    }
}
