//! The CDI specification that comes with a registration.
//!
//! From 29.2 on dockerd answers `--gpus` through CDI if its PATH has `nvidia-cdi-hook`, and every
//! such container fails without a specification (moby `daemon/devices_nvidia_linux.go`). So each
//! registration writes one into /etc/cdi, which outlives a boot; the refresh unit's file in
//! `/run/cdi` takes precedence.

use std::path::Path;

use crate::error::Result;

use super::job::{Job, Report};
use super::model::{Engine, SPEC};
use super::place::Place;
use super::store::{self, FileRecord, Record, fingerprint};
use super::whole;

/// Writes it, unless there is one that is not ours or was edited later.
pub(super) fn install(
    job: &Job,
    place: &Place,
    text: &str,
    record: &mut Record,
    report: &mut Report,
) -> Result<()> {
    let path = Path::new(SPEC);
    if let Some(there) = store::load(&job.root, path)?.text {
        let mut known = of_others(job, place, path)?;
        known.extend(record.file(path).cloned());
        if known.is_empty() {
            return Ok(());
        }
        // The engine that was registered last wrote it.
        let print = Some(fingerprint(&there));
        let Some(known) = known.into_iter().find(|k| k.written == print) else {
            report.warnings.push(format!(
                "{SPEC}: was changed after the registration and stays as it is"
            ));
            return Ok(());
        };
        if there == text {
            if record.file(path).is_none() && !job.dry_run {
                record.put(known);
                record.save(&job.root, &place.state, job.engine)?;
            }
            return Ok(());
        }
    }
    whole::write(job, place, path, text, record, report)
}

/// Whether another engine's registration has the file too, so that it must stay.
pub(super) fn is_others_too(job: &Job, place: &Place, file: &FileRecord) -> Result<bool> {
    Ok(file.path == Path::new(SPEC) && !of_others(job, place, &file.path)?.is_empty())
}

fn of_others(job: &Job, place: &Place, path: &Path) -> Result<Vec<FileRecord>> {
    let mut found = Vec::new();
    for engine in Engine::ALL.into_iter().filter(|e| *e != job.engine) {
        let record = Record::load(&job.root, &place.state, engine)?;
        found.extend(record.file(path).cloned());
    }
    Ok(found)
}
