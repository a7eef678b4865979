//! The files that nvoci owns as a whole: the CDI specification and the hook file.

use std::path::Path;

use crate::error::Result;

use super::job::{Job, Outcome, Report};
use super::place::Place;
use super::store::{self, FileRecord, Record, fingerprint};

/// Writes one of them, unless it has the content `text` already.
pub(super) fn write(
    job: &Job,
    place: &Place,
    path: &Path,
    text: &str,
    record: &mut Record,
    report: &mut Report,
) -> Result<()> {
    let stored = store::load(&job.root, path)?;
    if stored.text.as_deref() == Some(text) {
        return Ok(());
    }
    report.outcome = Outcome::Registered;
    report.add_file(&stored.path, stored.text.as_deref(), Some(text));
    if job.dry_run {
        return Ok(());
    }
    let dirs = store::make_dir(&job.root, store::parent(&stored.path), 0o755)?;
    let staged = store::stage(&job.root, &stored, text)?;
    let known = record.file(&stored.path).cloned();
    record.put(FileRecord {
        path: stored.path.clone(),
        created: true,
        whole: true,
        dirs: known.map_or(dirs, |k| k.dirs),
        written: Some(fingerprint(text)),
        ..FileRecord::default()
    });
    record.save(&job.root, &place.state, job.engine)?;
    staged.commit()
}
