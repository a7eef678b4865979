//! The last refusals on this host: what hook and runtime kept when they stopped a container.

use serde_json::{Value, json};

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

/// The refusals for a person; `now` in seconds since 1970.
pub fn to_text(refusals: &[Refusal], now: u64) -> String {
    if refusals.is_empty() {
        return "No refusal is kept on this host.\n".to_owned();
    }
    let mut out = String::new();
    for refusal in refusals {
        let field = |name: &str| refusal.record[name].as_str().unwrap_or_default();
        let id: String = field("container").chars().take(12).collect();
        out += &format!(
            "{} ago, container {}\n  {}: {} [{}]\n  fix: {}\n",
            age(now.saturating_sub(refusal.time)),
            Escaped(&id),
            Escaped(field("what")),
            Escaped(field("why")),
            Escaped(field("code")),
            Escaped(field("fix")),
        );
    }
    out
}

/// The refusals as JSON; each with the keys of its record. Keys are only ever added.
pub fn to_json(refusals: &[Refusal]) -> Value {
    json!({ "refusals": refusals.iter().map(|r| escaped(&r.record)).collect::<Vec<_>>() })
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
                r#"{"container": "aaaa", "time": 100, "what": "w\u001b[2J", "why": "y", "code": "NVOCI-3001", "fix": "f"}"#,
            ),
            (
                "b.json",
                r#"{"container": "bbbb", "time": 200, "what": "w", "why": "y", "code": "NVOCI-2001", "fix": "f"}"#,
            ),
            ("c.json", "no JSON"),
            ("d", "{}"),
        ] {
            std::fs::write(errors.join(name), text).unwrap();
        }
        let all = refusals(&root, 5).unwrap();
        assert_eq!(all.iter().map(|r| r.time).collect::<Vec<_>>(), [200, 100]);
        assert_eq!(refusals(&root, 1).unwrap().len(), 1);
        let text = to_text(&all, 260);
        assert!(
            text.starts_with("60 s ago, container bbbb\n") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(
            !to_json(&all)["refusals"][1]["what"]
                .as_str()
                .unwrap()
                .contains('\u{1b}')
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
