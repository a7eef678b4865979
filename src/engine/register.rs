//! Registers nvoci with an engine or removes it: plan, show, validate, swap, record.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Code, Error, Result};
use crate::sys::lock::Lock;
use crate::sys::owned;
use crate::sys::program::Program;

use super::edit::{Edit, Editor, Undone};
use super::job::{Job, Outcome, Report};
use super::model::{Engine, SPEC, Take, header};
use super::place::Place;
use super::store::{self, FileRecord, Record, Stored, fingerprint};
use super::{containerd, crio, docker, podman, sources, spec, validate, whole};

/// The longest wait for another nvoci: an install takes some seconds, most of them the engine's for
/// its validation.
const PATIENCE: Duration = Duration::from_secs(20);

/// Registers nvoci. When a later file fails, the earlier ones get their content back.
///
/// # Errors
/// [`Code::Engine`]; the engine's configuration is then unchanged.
pub fn install(job: &Job, place: &Place) -> Result<Report> {
    // No engine's file may name a program that another user could replace.
    if job.session.live {
        Program::named(&job.settings.runtime_path)?;
    }
    let _lock = lock(job)?;
    let mut report = Report::new(Outcome::AlreadyRegistered);
    report.warnings.extend(place.notes.iter().cloned());
    let mut record = Record::load(&job.root, &place.state, job.engine)?;
    let edits = sources::plan(job, place)?;
    // Faults of the later files stop the job before it writes the first.
    if let Some(hook) = &place.hook {
        store::load(&job.root, hook)?;
    }
    if job.spec.is_some() {
        store::load(&job.root, Path::new(SPEC))?;
    }
    for (stored, edit) in &edits {
        if stored.path.to_str().is_none() {
            let why = "its path is not UTF-8 text, so a record of the change could not name it";
            return Err(Error::new(Code::Engine, stored.path.display().to_string(), why));
        }
        report.warnings.extend(edit.warnings.iter().cloned());
        warn_of_owner(job, stored, &mut report);
    }
    warn_of_runtime(job, &mut report);

    let before = record.clone();
    let mut touched = Vec::new();
    let written = write_all(job, place, edits, &mut record, &mut report, &mut touched);
    if let Err(e) = written {
        return Err(match roll_back(job, place, &before, &record, &touched) {
            Ok(()) => e,
            Err(again) => {
                let why = format!("{}; then {}: {}", e.why(), again.what(), again.why());
                Error::new(e.code(), e.what(), why)
                    .fix("run `nvoci uninstall`, which takes back what is left")
            }
        });
    }
    // Two files of one engine may have one fault.
    report.warnings.dedup();
    Ok(report)
}

/// Writes all files of one engine. `touched` gets each file as it was, before it is written.
fn write_all(
    job: &Job,
    place: &Place,
    edits: Vec<(Stored, Edit)>,
    record: &mut Record,
    report: &mut Report,
    touched: &mut Vec<Stored>,
) -> Result<()> {
    for (stored, edit) in edits {
        report.results.push(edit.text.clone());
        if edit.changes.is_empty() {
            report.files.push(stored.path.clone());
            continue;
        }
        report.outcome = Outcome::Registered;
        report.add_file(&stored.path, stored.text.as_deref(), Some(&edit.text));
        let changes = edit.changes.iter();
        report
            .changes
            .extend(changes.clone().map(super::edit::Change::describe));
        report.keys.extend(changes.map(|c| c.path.clone()));
        if !job.dry_run {
            let outcome = write_edit(job, place, &stored, edit, record, report);
            touched.push(stored);
            outcome?;
        }
    }
    if let Some(hook) = &place.hook {
        touched.push(store::load(&job.root, hook)?);
        install_hook(job, place, hook, record, report)?;
    }
    if let Some(text) = &job.spec {
        touched.push(store::load(&job.root, Path::new(SPEC))?);
        spec::install(job, place, text, record, report)?;
    }
    Ok(())
}

/// Gives the files back their content, and the record its old content.
fn roll_back(job: &Job, place: &Place, before: &Record, record: &Record, touched: &[Stored]) -> Result<()> {
    if job.dry_run {
        return Ok(());
    }
    for stored in touched.iter().rev() {
        if store::load(&job.root, &stored.path)?.text != stored.text {
            match &stored.text {
                None => store::remove(&job.root, &stored.path)?,
                Some(text) => store::stage(&job.root, stored, text)?.commit()?,
            }
        }
        let is_new = before.file(&stored.path).is_none();
        let Some(entry) = record.file(&stored.path).filter(|_| is_new) else {
            continue;
        };
        if let Some(backup) = &entry.backup {
            store::remove(&job.root, backup)?;
        }
        store::remove_dirs(&job.root, &entry.dirs);
    }
    if before != record {
        before.save(&job.root, &place.state, job.engine)?;
    }
    Ok(())
}

/// Removes the registration.
///
/// # Errors
/// [`Code::Engine`]; files that were restored before the error stay restored and leave the record.
pub fn uninstall(job: &Job, place: &Place) -> Result<Report> {
    let _lock = lock(job)?;
    let mut report = Report::new(Outcome::NotRegistered);
    let mut record = Record::load(&job.root, &place.state, job.engine)?;
    let requested = match &job.config {
        Some(_) => {
            let main = store::load(&job.root, &place.config)?.path;
            let mut files = Vec::new();
            if job.engine == Engine::Containerd {
                files = sources::drop_ins_of(&job.root, &record, &main, &place.config);
            }
            files.push(main);
            Some(files)
        }
        None => None,
    };
    let known: Vec<FileRecord> = record
        .files
        .iter()
        .filter(|f| requested.as_ref().is_none_or(|files| files.contains(&f.path)))
        .cloned()
        .collect();
    if known.is_empty() {
        forget(job, place, &mut report)?;
        return Ok(report);
    }
    if let Some(theirs) = of_another_nvoci(job, &known)? {
        let program = Path::new(&theirs).with_file_name("nvoci");
        report.warnings.push(format!(
            "{theirs} is registered, of another nvoci than this one, and stays; \
             `{} uninstall {}` takes it away",
            program.display(),
            job.engine.name()
        ));
        return Ok(report);
    }
    // As above: a fault of one file stops the job before it writes any.
    for file in &known {
        store::load(&job.root, &file.path)?;
    }
    for file in known.iter().rev() {
        if spec::is_others_too(job, place, file)? {
            report.outcome = Outcome::Removed;
        } else {
            let main = keep_needed_import(job, &record, file, &mut report);
            take_back(job, main.as_ref().unwrap_or(file), &mut report)?;
        }
        if !job.dry_run {
            record.files.retain(|f| f.path != file.path);
            record.save(&job.root, &place.state, job.engine)?;
        }
    }
    Ok(report)
}

/// The registered runtime, if it is the program of another installation that is still there. Any
/// nvoci removes a runtime that is gone, and one of another name.
fn of_another_nvoci(job: &Job, known: &[FileRecord]) -> Result<Option<String>> {
    // The programs of another root are not this one.
    if !job.session.live {
        return Ok(None);
    }
    let id = |path: &str| job.root.resolve(path).ok().map(|program| program.id());
    let own = id(&job.settings.runtime_path);
    let mut registered = Vec::new();
    // The values of now: the record has those of every registration.
    for file in known.iter().filter(|file| !file.changes.is_empty()) {
        let Some(text) = store::load(&job.root, &file.path)?.text else {
            continue;
        };
        let editor = Editor::open(&file.path.display().to_string(), job.engine.format(), &text)?;
        for change in &file.changes {
            let path: Vec<&str> = change.path.iter().map(String::as_str).collect();
            if let Some(value) = editor.get(&path) {
                texts(value, &mut registered);
            }
        }
    }
    registered.retain(|text| text.starts_with('/') && text.ends_with("/nvoci-runtime"));
    let is_own = |text: &str| text == job.settings.runtime_path || own.is_some() && id(text) == own;
    if registered.iter().any(|text| is_own(text)) {
        return Ok(None);
    }
    Ok(registered.into_iter().find(|text| id(text).is_some()))
}

/// All texts of a value.
fn texts(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Array(all) => all.iter().for_each(|v| texts(v, into)),
        Value::Object(all) => all.values().for_each(|v| texts(v, into)),
        _ => {}
    }
}

/// Locks from the first read to the last write, since of two jobs on one file the second would undo
/// the first.
///
/// # Errors
/// [`Code::Busy`] if another process holds the lock for too long.
fn lock(job: &Job) -> Result<Option<Lock>> {
    if job.dry_run {
        return Ok(None);
    }
    let root = rustix::process::geteuid().is_root();
    let (locked, what) = match &job.session.user {
        // The user's home directory: a directory below it may be made in the meantime.
        Some(user) => {
            let home = std::env::home_dir().unwrap_or_else(|| user.config.clone());
            let dir = job.root.subroot(&home);
            let dir = dir.as_ref().unwrap_or(&job.root);
            (Lock::of_directory(dir, PATIENCE), home.display().to_string())
        }
        // A build of an image may have no writable /run.
        None if root => {
            let no_run = |e: &std::io::Error| {
                matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EROFS | libc::EACCES))
            };
            let lock = Lock::of_machine(PATIENCE);
            let lock = match lock {
                Err(e) if no_run(&e) => Lock::of_directory(&job.root, PATIENCE),
                lock => lock,
            };
            (lock, "/run/nvoci/lock".to_owned())
        }
        None => (
            Lock::of_directory(&job.root, PATIENCE),
            "the root directory".to_owned(),
        ),
    };
    match locked {
        Ok(lock) => Ok(Some(lock)),
        Err(e) if e.raw_os_error() == Some(libc::ETIMEDOUT) => Err(Error::new(
            Code::Busy,
            what,
            format!("another process has held it for {} s", PATIENCE.as_secs()),
        )),
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EPERM | libc::ELOOP | libc::EISDIR | libc::ENXIO)
            ) =>
        {
            Err(Error::new(
                Code::UnsafeOwner,
                what,
                "it is not a file that only root can open",
            )
            .fix("remove it; another user may have made it"))
        }
        Err(e) => Err(Error::io(Code::Engine, what, &e)),
    }
}

fn warn_of_owner(job: &Job, stored: &Stored, report: &mut Report) {
    let dir = stored.path.parent().unwrap_or(&stored.path);
    let lasting = || !job.session.live || owned::find_lasting(dir).is_ok();
    if job.session.user.is_none() && (stored.loose || !lasting()) {
        report.warnings.push(format!(
            "{}: users other than root can replace this file, and with it control the engine",
            stored.path.display()
        ));
    }
}

fn warn_of_runtime(job: &Job, report: &mut Report) {
    let runtime = &job.settings.runtime_path;
    // The engine searches its PATH for a plain name, which was found before.
    if runtime.contains('/') && !job.root.exists(runtime) {
        report.warnings.push(format!(
            "{runtime}: does not exist; containers that use the runtime fail until it does"
        ));
    }
}

/// Validates, backs up, records and swaps, in this order, so that an interrupted edit can be
/// reverted.
fn write_edit(
    job: &Job,
    place: &Place,
    stored: &Stored,
    edit: Edit,
    record: &mut Record,
    report: &mut Report,
) -> Result<()> {
    let dir = store::parent(&stored.path);
    let made = store::make_dir(&job.root, dir, 0o755)?;
    let outcome = swap(job, place, stored, edit, record, report, made.clone());
    if outcome.is_err() {
        store::remove_dirs(&job.root, &made);
    }
    outcome
}

fn swap(
    job: &Job,
    place: &Place,
    stored: &Stored,
    edit: Edit,
    record: &mut Record,
    report: &mut Report,
    made: Vec<PathBuf>,
) -> Result<()> {
    let staged = store::stage(&job.root, stored, &edit.text)?;
    let checked = validate::check(job, place, stored, &staged, &mut report.warnings)?;
    report.checked = Some(checked);

    let mut entry = record.file(&stored.path).cloned().unwrap_or_else(|| FileRecord {
        path: stored.path.clone(),
        created: stored.text.is_none(),
        dirs: made,
        ..FileRecord::default()
    });
    let fresh = entry.changes.is_empty();
    let untouched =
        fresh || entry.written.is_some() && entry.written == stored.text.as_deref().map(fingerprint);
    if let (true, Some(text)) = (fresh, &stored.text) {
        let backup = backup_path(job.engine, place, &stored.path);
        if job.engine == Engine::Crio {
            store::make_dir(&job.root, &place.state, 0o755)?;
        }
        store::write_beside(&job.root, &backup, stored, text)?;
        entry.backup = Some(backup);
    }
    entry.written = untouched.then(|| fingerprint(&edit.text));
    entry.merge(edit.changes);
    if !entry.names.contains(&job.settings.name) {
        entry.names.push(job.settings.name.clone());
    }
    report.backups.extend(entry.backup.clone());
    record.put(entry);
    record.save(&job.root, &place.state, job.engine)?;
    staged.commit()
}

/// The backup's path: beside the file, except where CRI-O would read it as configuration.
fn backup_path(engine: Engine, place: &Place, path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(store::BACKUP);
    match engine {
        Engine::Crio => place.state.join(name),
        _ => path.with_file_name(name),
    }
}

/// Podman fails for every container if a hook's binary is missing, so the file is written only with
/// it.
fn install_hook(
    job: &Job,
    place: &Place,
    path: &Path,
    record: &mut Record,
    report: &mut Report,
) -> Result<()> {
    let binary = Path::new(&job.settings.runtime_path).with_file_name("nvoci");
    let fault = if job.session.live {
        Program::prove(&binary).err().map(|e| e.why().to_owned())
    } else {
        (!job.root.exists(&binary)).then(|| "it does not exist".to_owned())
    };
    let binary = binary.display().to_string();
    if let Some(why) = fault {
        report.warnings.push(format!(
            "{}: not written, since podman fails for a hook without its binary: {binary}: {why}",
            path.display()
        ));
        return Ok(());
    }
    whole::write(job, place, path, &podman::hook(&binary), record, report)
}

/// Reverts the record's changes to one file.
fn take_back(job: &Job, file: &FileRecord, report: &mut Report) -> Result<()> {
    let stored = store::load(&job.root, &file.path)?;
    let Some(text) = &stored.text else {
        report
            .warnings
            .push(format!("{}: it was removed before", file.path.display()));
        report.outcome = Outcome::Removed;
        clean_up(job, file, report);
        return Ok(());
    };
    let untouched = file.written.as_deref() == Some(fingerprint(text).as_str());
    let restored = match &file.backup {
        Some(backup) if untouched => store::backup(&job.root, backup, &stored).unwrap_or_else(|e| {
            let why = e.why();
            report.warnings.push(format!(
                "{}: it is not the backup that nvoci wrote: {why}",
                backup.display()
            ));
            None
        }),
        _ => None,
    };
    let after = if file.whole || file.created && untouched {
        None
    } else if restored.is_some() {
        restored
    } else {
        undo(job, file, text, report)?
    };
    report.keys.extend(file.changes.iter().map(|c| c.path.clone()));
    finish_take_back(job, &stored, after.as_deref(), report)?;
    clean_up(job, file, report);
    Ok(())
}

/// The record of containerd's main file without our import, where a later file needs that import.
/// The main file then keeps it, and the version that an import requires.
fn keep_needed_import(
    job: &Job,
    record: &Record,
    file: &FileRecord,
    report: &mut Report,
) -> Option<FileRecord> {
    let other = sources::needs_our_import(&job.root, record, file)?;
    report.warnings.push(format!(
        "{}: its imports stay, since containerd reads {} through them",
        file.path.display(),
        other.display()
    ));
    let mut kept = file.clone();
    (kept.created, kept.written) = (false, None);
    kept.changes
        .retain(|c| c.path != ["imports"] && c.path != ["version"]);
    Some(kept)
}

/// The text without our changes, for a file that was edited later; `None` if nothing is left of a
/// file of ours.
fn undo(job: &Job, file: &FileRecord, text: &str, report: &mut Report) -> Result<Option<String>> {
    let shown = file.path.display().to_string();
    let mut e = Editor::open(&shown, job.engine.format(), text)?;
    for change in file.changes.iter().rev() {
        if e.undo(change)? == Undone::Kept {
            report.warnings.push(format!(
                "{shown}: {} was changed after the registration and stays as it is",
                change.path.join(".")
            ));
        }
    }
    for name in &file.names {
        report
            .warnings
            .extend(tidy(job.engine, &mut e, name)?.map(|w| format!("{shown}: {w}")));
    }
    let left = e
        .value()
        .as_object()
        .is_some_and(|m| m.keys().any(|k| k != "version"));
    let text = e.text();
    let comments = text.lines().any(|l| {
        let l = l.trim();
        l.starts_with('#') && !header(job.engine.name()).contains(l)
    });
    Ok((!file.created || left || comments).then_some(text))
}

/// Without a record: removes a runtime with our binary, and a default that names it.
fn forget(job: &Job, place: &Place, report: &mut Report) -> Result<()> {
    let name = job.settings.name.as_str();
    let take = Take {
        name,
        runtime_path: &job.settings.runtime_path,
    };
    let mut all = vec![place.config.clone()];
    if job.engine == Engine::Containerd {
        all.extend(sources::imports(&job.root, &place.config)?);
    }
    for path in all {
        let stored = store::load(&job.root, &path)?;
        let Some(text) = &stored.text else { continue };
        let shown = stored.path.display().to_string();
        let mut e = Editor::open(&shown, job.engine.format(), text)?;
        forget_in(job.engine, &mut e, &take)?;
        if e.text() != *text {
            report
                .warnings
                .extend(tidy(job.engine, &mut e, name)?.map(|w| format!("{shown}: {w}")));
            finish_take_back(job, &stored, Some(&e.text()), report)?;
        }
    }
    Ok(())
}

fn finish_take_back(job: &Job, stored: &Stored, after: Option<&str>, report: &mut Report) -> Result<()> {
    report.outcome = Outcome::Removed;
    report.add_file(&stored.path, stored.text.as_deref(), after);
    if job.dry_run || stored.text.as_deref() == after {
        return Ok(());
    }
    match after {
        None => store::remove(&job.root, &stored.path),
        Some(text) => store::stage(&job.root, stored, text)?.commit(),
    }
}

/// Removes backup and directories. An error is only a warning.
fn clean_up(job: &Job, file: &FileRecord, report: &mut Report) {
    if job.dry_run {
        return;
    }
    if let Some(backup) = &file.backup
        && let Err(e) = store::remove(&job.root, backup)
    {
        report
            .warnings
            .push(format!("{}: could not be removed: {}", backup.display(), e.why()));
    }
    store::remove_dirs(&job.root, &file.dirs);
}

/// Removes a registration that is in no record from one file.
fn forget_in(engine: Engine, e: &mut Editor, take: &Take<'_>) -> Result<()> {
    match engine {
        Engine::Docker => docker::forget(e, take),
        Engine::Podman => podman::forget(e, take),
        Engine::Containerd => containerd::forget(e, take),
        Engine::Crio => crio::forget(e, take),
    }
}

/// Removes a default that names a removed runtime. Returns a note for the user.
fn tidy(engine: Engine, e: &mut Editor, name: &str) -> Result<Option<String>> {
    match engine {
        Engine::Docker => docker::tidy(e, name),
        Engine::Podman => podman::tidy(e, name),
        Engine::Containerd => containerd::tidy(e, name),
        Engine::Crio => crio::tidy(e, name),
    }
}
