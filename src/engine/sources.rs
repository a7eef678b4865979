//! Reads the files of an engine besides the edited one, such as containerd's imports.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Code, Error, Result};
use crate::sys::budget::{Budget, Limits};
use crate::sys::program::Program;
use crate::sys::root::Root;

use super::edit::{Edit, Editor, Format, lookup};
use super::job::Job;
use super::model::{Engine, header};
use super::place::Place;
use super::store::{self, FileRecord, Record, Stored};
use super::{containerd, crio, docker, exec, podman, toml};

/// The most files of one engine.
const MAX_FILES: usize = 256;
/// The most patterns in all imports: each may list a directory.
const MAX_PATTERNS: usize = 1024;

/// Chooses the files, reads them and plans the edits, in the order in which they are to be written.
///
/// # Errors
/// [`Code::Engine`] if a file cannot be read or is not valid.
pub(super) fn plan(job: &Job, place: &Place) -> Result<Vec<(Stored, Edit)>> {
    match &job.drop_in {
        Some(file) if job.engine == Engine::Containerd => with_drop_in(job, &place.config, file),
        _ => Ok(vec![plan_one(job, place)?]),
    }
}

fn plan_one(job: &Job, place: &Place) -> Result<(Stored, Edit)> {
    let root = &job.root;
    let s = &job.settings;
    let mut target = place.config.clone();
    let mut seen = None;
    if job.engine == Engine::Containerd {
        (target, seen) = deciding_file(job, &place.config)?;
    }
    let stored = store::load(root, &target)?;
    let shown = stored.path.display().to_string();
    let text = stored.text.as_deref();
    let edit = match job.engine {
        Engine::Docker => docker::plan(&shown, text, s),
        Engine::Podman => podman::plan(&shown, text, s),
        Engine::Containerd => containerd::plan(&shown, text, seen.as_ref(), s),
        Engine::Crio => crio::plan(&shown, text, &crio_files(root)?, s),
    }?;
    Ok((stored, edit))
}

/// Plans containerd's drop-in with the runtime, and the main file that imports its directory.
///
/// containerd before 2.0 takes a plugin's whole table from the last file that has one, so there the
/// drop-in begins as a copy of it. The main file is written last, when its import exists.
fn with_drop_in(job: &Job, main: &Path, drop_in: &Path) -> Result<Vec<(Stored, Edit)>> {
    let root = &job.root;
    is_plain(drop_in)?;
    let stored = store::load(root, drop_in)?;
    let shown = stored.path.display().to_string();
    let place = place_of(root, &stored.path);
    let is_drop_in =
        |file: &Path| -> Result<bool> { Ok(place_of(root, &store::follow(root, file)?) == place) };
    if is_drop_in(main)? {
        let why = "it is the main file, which cannot import itself";
        return Err(Error::new(Code::Engine, shown, why).fix("name another file, or leave the drop-in out"));
    }
    let mut files = vec![main.to_owned()];
    for file in imports(root, main)? {
        if !is_drop_in(&file)? {
            files.push(file);
        }
    }
    let mut parsed = Vec::new();
    for path in files {
        let value = parse(root, &path)?;
        parsed.push((path, value));
    }
    let Some((_, of_main)) = parsed.first() else {
        return Ok(Vec::new());
    };
    let known = containerd::version(of_main);
    if known == Some(1) {
        let why = "it is of version 1, whose imports containerd does not merge";
        return Err(Error::new(Code::Engine, main.display().to_string(), why)
            .fix("run `containerd config migrate` and keep what it prints, or leave the drop-in out"));
    }
    let version = known.unwrap_or(2);
    let merges = version > 2 || merging(job, &parsed);
    let last = parsed.iter().rfind(|(_, v)| containerd::has_cri(v));
    let seen = if merges {
        Some(overlaid(&parsed))
    } else {
        last.and_then(|(_, v)| containerd::cri(v)).cloned()
    };

    let replaced = last.filter(|_| !merges);
    let before = read_before(root, main, of_main, drop_in);
    if let Some((later, _)) = replaced.filter(|(file, _)| !before.contains(file)) {
        let why = format!("{} is read after it, and replaces its table", later.display());
        return Err(Error::new(Code::Engine, shown, why).fix("name a file that is read later"));
    }
    let (text, copied) = match &stored.text {
        Some(text) => {
            let own = parse(root, &stored.path)?;
            fits(&shown, &own, version, replaced)?;
            (text.clone(), None)
        }
        None => new_drop_in(&shown, version, replaced)?,
    };
    let mut edit = containerd::plan(&shown, Some(&text), seen.as_ref(), &job.settings)?;
    edit.warnings.extend(copied);
    let mut all = vec![(stored, edit)];

    let stored = store::load(root, main)?;
    let mut e = Editor::open(
        &stored.path.display().to_string(),
        Format::Toml,
        stored.text.as_deref().unwrap_or_default(),
    )?;
    if known.is_none() {
        e.set(&["version"], &json!(version))?;
    }
    let mut patterns = of_main
        .get("imports")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let dir = store::parent(main);
    let covered = patterns
        .iter()
        .filter_map(Value::as_str)
        .any(|p| covers(&dir.join(p), drop_in));
    if !covered {
        let all = store::parent(drop_in).join("*.toml");
        // A file that lies there unread stays unread: containerd then imports ours by its name.
        let alone = expand(root, &all).iter().all(|file| file == drop_in);
        let pattern = if alone && covers(&all, drop_in) {
            all
        } else {
            drop_in.to_owned()
        };
        patterns.push(json!(pattern.to_string_lossy()));
        e.set(&["imports"], &Value::Array(patterns))?;
    }
    all.push((stored, e.finish(Vec::new())));
    Ok(all)
}

/// Refuses a path that the main file cannot hold as text, or that containerd would read as a
/// pattern.
fn is_plain(drop_in: &Path) -> Result<()> {
    let odd = |c: char| c.is_control() || "*?[\\".contains(c);
    if drop_in.to_str().is_some_and(|text| !text.contains(odd)) {
        return Ok(());
    }
    let why = "an import cannot name it: it is not UTF-8 text, or has control characters or one of `*?[\\`";
    Err(Error::new(Code::Engine, drop_in.display().to_string(), why))
}

/// The directory that a file is in, whatever links lead there, and its name.
fn place_of(root: &Root, file: &Path) -> (PathBuf, OsString) {
    let found = root
        .parent_of(file)
        .and_then(|(dir, name)| Ok((dir.path()?, name)));
    found.unwrap_or_else(|_| {
        let name = file.file_name().unwrap_or_default();
        (store::parent(file).to_owned(), name.to_owned())
    })
}

/// The main file, and what it imports and containerd reads before the drop-in. What those import is
/// read after it.
fn read_before(root: &Root, main: &Path, of_main: &Value, drop_in: &Path) -> Vec<PathBuf> {
    let mut before = vec![main.to_owned()];
    let patterns = of_main.get("imports").and_then(Value::as_array);
    for pattern in patterns.into_iter().flatten().filter_map(Value::as_str) {
        let pattern = store::parent(main).join(pattern);
        let found = expand(root, &pattern);
        if covers(&pattern, drop_in) {
            before.extend(found.into_iter().take_while(|file| file.as_path() < drop_in));
            break;
        }
        before.extend(found);
    }
    before
}

/// Refuses an existing drop-in that the runtime cannot be added to. containerd converts a version
/// that is lower than the main file's from 2 on, and refuses a higher one.
fn fits(shown: &str, own: &Value, version: i64, replaced: Option<&(PathBuf, Value)>) -> Result<()> {
    let known = containerd::version(own).unwrap_or(version);
    let lowest = if version > 2 { 2 } else { version };
    if !(lowest..=version).contains(&known) {
        let why = format!("it is of version {known}, and the main file of version {version}");
        return Err(Error::new(Code::Engine, shown, why).fix("name a file that does not exist yet"));
    }
    if let Some((file, _)) = replaced.filter(|_| !containerd::has_cri(own)) {
        let why = format!(
            "with a table of the CRI plugin it would hide the one of {}",
            file.display()
        );
        return Err(Error::new(Code::Engine, shown, why).fix("name a file that does not exist yet"));
    }
    Ok(())
}

/// The beginning of a drop-in: its version, and the CRI plugin's table of the file `replaced` if
/// containerd would no longer read that, with a warning about it.
fn new_drop_in(
    shown: &str,
    version: i64,
    replaced: Option<&(PathBuf, Value)>,
) -> Result<(String, Option<String>)> {
    let begun = format!("{}version = {version}\n", header("containerd"));
    let mut e = Editor::open(shown, Format::Toml, &begun)?;
    let plugin = ["plugins", containerd::plugin(version)];
    let table = replaced.and_then(|(file, value)| Some((file, lookup(value, &plugin)?)));
    let Some((file, table)) = table else {
        return Ok((e.text(), None));
    };
    e.set(&plugin, table)?;
    let warning = format!(
        "{shown}: begins as a copy of [plugins.\"{}\"] of {}; later changes there have no effect on this containerd",
        plugin[1],
        file.display()
    );
    Ok((e.text(), Some(warning)))
}

/// The file that decides on the CRI runtimes, and the effective table.
///
/// containerd up to 1.7 takes the whole plugin table of the last file that has one. From 2.0 on it
/// merges tables key by key, and the main file is edited unless a later one has our runtime.
fn deciding_file(job: &Job, main: &Path) -> Result<(PathBuf, Option<Value>)> {
    let mut files = vec![main.to_owned()];
    files.extend(imports(&job.root, main)?);
    if files.len() == 1 {
        return Ok((main.to_owned(), None));
    }
    let mut parsed = Vec::new();
    for path in files {
        let value = parse(&job.root, &path)?;
        parsed.push((path, value));
    }
    let merges = merging(job, &parsed);
    let name = job.settings.name.as_str();
    let decides = |v: &Value| {
        if !merges {
            return containerd::has_cri(v);
        }
        let table = containerd::cri(v);
        table.is_some_and(|t| {
            t.get("runtimes").is_some_and(|r| r.get(name).is_some())
                || job.settings.set_as_default && t.get("default_runtime_name").is_some()
        })
    };
    let last = parsed
        .iter()
        .rfind(|(_, v)| decides(v))
        .or_else(|| parsed.first());
    let Some((path, value)) = last else {
        return Ok((main.to_owned(), None));
    };
    let seen = if merges {
        Some(overlaid(&parsed))
    } else {
        containerd::cri(value).cloned()
    };
    Ok((path.clone(), seen))
}

/// Whether containerd merges its files key by key: from 2.0 on.
fn merging(job: &Job, parsed: &[(PathBuf, Value)]) -> bool {
    let versioned = parsed
        .iter()
        .any(|(_, v)| containerd::version(v).is_some_and(|v| v > 2));
    versioned || job.session.live && major() >= Some(2)
}

/// The CRI plugin's tables of all files, merged.
fn overlaid(parsed: &[(PathBuf, Value)]) -> Value {
    let mut all = Value::Null;
    for table in parsed.iter().filter_map(|(_, v)| containerd::cri(v)) {
        overlay(&mut all, table);
    }
    all
}

/// The files that containerd's main file imports, in the order in which it reads them, without the
/// main file.
///
/// # Errors
/// [`Code::Engine`] if one is not valid or there are too many.
pub(crate) fn imports(root: &Root, main: &Path) -> Result<Vec<PathBuf>> {
    let mut queue = vec![main.to_owned()];
    let mut next = 0;
    let mut left = MAX_PATTERNS;
    let budget = budget();
    let too_many = |what: String| {
        let why = format!("imports more than {what}");
        Error::new(Code::Engine, main.display().to_string(), why)
    };
    while let Some(path) = queue.get(next).cloned() {
        next += 1;
        let value = parse_within(root, &path, &budget)?;
        let patterns = value.get("imports").and_then(Value::as_array);
        for pattern in patterns.into_iter().flatten().filter_map(Value::as_str) {
            left = left
                .checked_sub(1)
                .ok_or_else(|| too_many(format!("{MAX_PATTERNS} patterns")))?;
            let pattern = store::parent(&path).join(pattern);
            for found in expand(root, &pattern) {
                if !queue.contains(&found) {
                    queue.push(found);
                }
            }
            if queue.len() > MAX_FILES {
                return Err(too_many(format!("{MAX_FILES} files")));
            }
        }
    }
    queue.remove(0);
    Ok(queue)
}

/// The recorded drop-ins of a main file: no other recorded main file imports them. `named` is the
/// path by which containerd reads it, and `main` the file that links there lead to.
///
/// What a main file imports is in its text, and in the record of our change to it, which counts
/// where the text is gone or broken.
pub(super) fn drop_ins_of(root: &Root, record: &Record, main: &Path, named: &Path) -> Vec<PathBuf> {
    let imported_by = |main: &Path, named: &Path| -> Vec<PathBuf> {
        let found = imports(root, named).unwrap_or_default();
        let found: Vec<PathBuf> = found.iter().filter_map(|f| store::follow(root, f).ok()).collect();
        let patterns = record.file(main).map(imports_written).unwrap_or_default();
        let covered = |f: &FileRecord| {
            let mut patterns = patterns.iter().map(|p| store::parent(named).join(p));
            found.contains(&f.path) || patterns.any(|p| covers(&p, &f.path))
        };
        let all = record
            .files
            .iter()
            .filter(|f| f.path != main && !f.whole && covered(f));
        all.map(|f| f.path.clone()).collect()
    };
    let mut all = imported_by(main, named);
    let others = record.files.iter().map(|f| f.path.as_path());
    let others: Vec<&Path> = others
        .filter(|f| *f != main && !all.iter().any(|a| a == f))
        .collect();
    for other in others {
        let theirs = imported_by(other, other);
        all.retain(|file| !theirs.contains(file));
    }
    all
}

/// A file that is not nvoci's and that containerd reads only through the import that we wrote into
/// a main file; without that import its settings would be lost.
pub(super) fn needs_our_import(root: &Root, record: &Record, main: &FileRecord) -> Option<PathBuf> {
    let dir = store::parent(&main.path);
    let before = |pattern: &str| {
        let mut changes = main.changes.iter().filter(|c| c.path == ["imports"]);
        changes.any(|c| c.before.as_ref().is_some_and(|text| text.contains(pattern)))
    };
    let ours = imports_written(main).into_iter().filter(|p| !before(p));
    let read = ours.flat_map(|pattern| expand(root, &dir.join(pattern)));
    let mut others = read.filter(|file| {
        let file = store::follow(root, file).unwrap_or_else(|_| file.clone());
        record.file(&file).is_none()
    });
    others.next()
}

/// The patterns that our change to a main file wrote.
fn imports_written(file: &FileRecord) -> Vec<String> {
    let ours = file.changes.iter().filter(|c| c.path == ["imports"]);
    let patterns = ours.filter_map(|c| c.after.as_array()).flatten();
    patterns.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The files of an import. A `*` is expanded in the last component only, where real configurations
/// have it.
pub(super) fn expand(root: &Root, pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    if !name.contains('*') {
        return if root.exists(pattern) {
            vec![pattern.to_owned()]
        } else {
            Vec::new()
        };
    }
    let Some(dir) = pattern.parent() else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = root
        .read_dir(dir, 4 * MAX_FILES)
        .unwrap_or_default()
        .into_iter()
        .filter(|e| matches(&name, &e.name.to_string_lossy()))
        .map(|e| dir.join(e.name))
        .collect();
    found.sort();
    found
}

/// Whether an import matches a file, which need not exist.
fn covers(pattern: &Path, file: &Path) -> bool {
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    pattern.parent() == file.parent() && matches(&name(pattern), &name(file))
}

/// Whether `name` matches `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// CRI-O's files in the order in which it reads them: every regular file of its directory, by name.
pub(crate) fn crio_files(root: &Root) -> Result<Vec<Value>> {
    let mut paths = vec![PathBuf::from("/etc/crio/crio.conf")];
    let dir = Path::new("/etc/crio/crio.conf.d");
    let mut found = root.read_dir(dir, MAX_FILES).unwrap_or_default();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    paths.extend(found.into_iter().map(|e| dir.join(e.name)));
    let budget = budget();
    paths.iter().map(|p| parse_within(root, p, &budget)).collect()
}

pub(crate) fn parse(root: &Root, path: &Path) -> Result<Value> {
    parse_within(root, path, &budget())
}

/// One budget for all files of an engine, so that many small ones cost no more than a large one.
fn budget() -> Budget {
    Budget::new(Limits {
        kept: toml::MAX_MEMORY as u64,
        ..Limits::DEFAULT
    })
}

fn parse_within(root: &Root, path: &Path, budget: &Budget) -> Result<Value> {
    let stored = store::load(root, path)?;
    let text = stored.text.unwrap_or_default();
    let weight = u64::try_from(toml::memory_of(&text)).unwrap_or(u64::MAX);
    let what = path.display().to_string();
    budget.keep(weight).map_err(|e| e.of(&what))?;
    Editor::open(&what, Format::Toml, &text).map(|e| e.value().clone())
}

pub(crate) fn overlay(all: &mut Value, table: &Value) {
    match (all, table) {
        (Value::Object(all), Value::Object(table)) => {
            for (key, value) in table {
                overlay(all.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (all, value) => *all = value.clone(),
    }
}

/// The major version of the installed containerd.
fn major() -> Option<u32> {
    let program = Program::find("containerd")?;
    let answer = exec::run(&program, &["--version"], &[], std::time::Duration::from_secs(5)).ok()?;
    // containerd github.com/containerd/containerd/v2 2.1.9 ...
    let version = answer.stdout.split_whitespace().nth(2)?;
    version.trim_start_matches('v').split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_a_command_are_weighed_together() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("d")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("main.toml", "imports = [\"/d/*.toml\"]\n");
        let main = Path::new("/main.toml");
        let keys: String = (0..2000).map(|i| format!("a{i} = 1\n")).collect();
        for i in 0..10 {
            write(&format!("d/{i}.toml"), &keys);
        }
        assert_eq!(imports(&root, main).unwrap().len(), 10);
        for i in 10..200 {
            write(&format!("d/{i}.toml"), &keys);
        }
        let e = imports(&root, main).unwrap_err();
        assert_eq!(e.code(), Code::TooLarge);
    }

    #[test]
    fn stars_match_like_the_shells() {
        for (pattern, name, fits) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".a.toml.tmp", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXc", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
