//! Counts the stages that inputs reach. A target whose inputs are all refused early proves nothing.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;

static STAGES: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// Counts one input that reached `stage`. By convention the first stage is `run`, and `accepted`
/// the last one that every useful input reaches.
pub(crate) fn reached(stage: &'static str) {
    if let Ok(mut stages) = STAGES.lock() {
        *stages.entry(stage).or_default() += 1;
    }
}

/// Writes `STAGE COUNT` lines.
#[allow(dead_code, reason = "for the fuzz targets; the tests only check properties")]
pub(crate) fn write(out: &mut dyn Write) {
    if let Ok(stages) = STAGES.lock() {
        for (stage, count) in &*stages {
            let _ = writeln!(out, "{stage} {count}");
        }
    }
}
