//! Runs the engine's own check on a configuration before it replaces the old one.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Code, Error, Result};
use crate::sys::program::Program;

use super::edit::{Editor, Format};
use super::flags::{self, Running};
use super::job::{Checked, Job};
use super::model::{Engine, Settings};
use super::place::Place;
use super::store::{self, Staged, Stored};
use super::{containerd, exec, sources};

const LIMIT: Duration = Duration::from_secs(30);

/// Runs the engine's check on the staged file.
///
/// # Errors
/// [`Code::Engine`] if the engine refuses it, or does not find the runtime in it.
pub(super) fn check(
    job: &Job,
    place: &Place,
    stored: &Stored,
    staged: &Staged,
    warnings: &mut Vec<String>,
) -> Result<Checked> {
    if !job.session.live {
        return Ok(Checked::Not("the root is not this machine's".to_owned()));
    }
    let name = match job.engine {
        Engine::Docker => "dockerd",
        other => other.name(),
    };
    let Some(program) = Program::find(name) else {
        return Ok(Checked::Not(format!(
            "{name} is not installed where only root can write"
        )));
    };
    match job.engine {
        Engine::Docker => docker(&program, job, &staged.path, &stored.path),
        Engine::Podman => podman(&program, job, &staged.path, &stored.path),
        Engine::Containerd => with_containerd(&program, job, place, stored, staged, warnings),
        Engine::Crio => {
            let path = staged.path.as_os_str();
            let args = [
                "--config".as_ref(),
                path,
                "--config-dir".as_ref(),
                "".as_ref(),
                "config".as_ref(),
            ];
            run_check(&program, &args, &stored.path, "crio config")
        }
    }
}

/// Flags of dockerd that it refuses together with the file's key (moby `daemon/config`).
const ALSO_FLAGS: [(&str, &str); 3] = [
    ("add-runtime", "runtimes"),
    ("default-runtime", "default-runtime"),
    ("feature", "features"),
];

/// Checks the candidate alone: no argument of another process is passed to a program that root
/// runs.
fn docker(program: &Program, job: &Job, candidate: &Path, file: &Path) -> Result<Checked> {
    if job.session.user.is_none() {
        flags_in_the_way(&flags::daemons(Engine::Docker).running, &job.settings, file)?;
    }
    let args = [
        OsStr::new("--validate"),
        OsStr::new("--config-file"),
        candidate.as_os_str(),
    ];
    let answer = exec::run(program, &args, &[], LIMIT).map_err(|e| unanswered(program, &e))?;
    if answer.ok {
        return Ok(Checked::By("dockerd --validate".to_owned()));
    }
    // dockerd before 23.0 has no such flag.
    if answer.stderr.contains("unknown flag: --validate")
        || answer.stdout.contains("unknown flag: --validate")
    {
        return Ok(Checked::Not(
            "this dockerd is older than 23.0 and has no --validate".to_owned(),
        ));
    }
    Err(refused("dockerd --validate", file, answer.complaint()))
}

/// Refuses a setting that the running dockerd also has as a flag, which dockerd would report only
/// at its next start.
fn flags_in_the_way(running: &[Running], settings: &Settings, file: &Path) -> Result<()> {
    let written = |key: &str| match key {
        "default-runtime" => settings.set_as_default,
        "features" => settings.cdi,
        _ => true,
    };
    let clash = ALSO_FLAGS.iter().find(|(flag, key)| {
        let serves = |r: &&Running| r.process.uid == 0;
        written(key) && running.iter().filter(serves).any(|r| r.flags.get(flag).is_some())
    });
    let Some((flag, _)) = clash else {
        return Ok(());
    };
    Err(Error::new(
        Code::Engine,
        file.display().to_string(),
        format!("the running dockerd has the flag --{flag}, and refuses the same setting in the file"),
    )
    .fix(format!(
        "move --{flag} from dockerd's service into this file, or register with another engine; nothing was changed"
    )))
}

/// Podman reads `CONTAINERS_CONF` for every command.
fn podman(program: &Program, job: &Job, candidate: &Path, file: &Path) -> Result<Checked> {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let env = [
        ("CONTAINERS_CONF", candidate.as_os_str()),
        ("HOME", home.as_os_str()),
    ];
    // Podman needs a home directory, but only a user's own Podman reads it.
    let env = if job.session.user.is_some() {
        env.as_slice()
    } else {
        &env[..1]
    };
    let answer = exec::run(program, &["--version"], env, LIMIT).map_err(|e| unanswered(program, &e))?;
    if answer.ok {
        return Ok(Checked::By("podman --version with the file".to_owned()));
    }
    Err(refused("podman", file, answer.complaint()))
}

fn with_containerd(
    program: &Program,
    job: &Job,
    place: &Place,
    stored: &Stored,
    staged: &Staged,
    warnings: &mut Vec<String>,
) -> Result<Checked> {
    const COMMAND: &str = "containerd config dump";
    let main = store::load(&job.root, &place.config)?;
    // If an imported file is edited, the main file is read with the candidate in its place.
    let stand_in = match &main.text {
        Some(text) if main.path != stored.path => Some(store::stage(
            &job.root,
            &main,
            &with_import(job, &main.path, text, &stored.path, &staged.path)?,
        )?),
        _ => None,
    };
    let candidate = stand_in.as_ref().map_or(&staged.path, |s| &s.path);
    let args: [&OsStr; 4] = [
        "-c".as_ref(),
        candidate.as_os_str(),
        "config".as_ref(),
        "dump".as_ref(),
    ];
    let answer = exec::run(program, &args, &[], LIMIT).map_err(|e| unanswered(program, &e))?;
    if !answer.ok {
        return Err(refused(COMMAND, &stored.path, answer.complaint()));
    }
    let dump = Editor::open(COMMAND, Format::Toml, &answer.stdout)?;
    if let Some(table) = containerd::cri(dump.value())
        && !has_runtime(table, &job.settings.name, &job.settings.runtime_path)
    {
        return Err(refused(
            COMMAND,
            &stored.path,
            "containerd reads the file and does not find the runtime",
        )
        .fix("pass the last file that configures the CRI plugin: `--config FILE`; it overrides this one"));
    }
    if let Some(table) = containerd::cri(dump.value())
        && let Some(default) = table.get("default_runtime_name").and_then(Value::as_str)
        && table.get("runtimes").is_none_or(|r| r.get(default).is_none())
    {
        warnings.push(format!(
            "the default runtime `{default}` is not defined, so containerd will not start its CRI plugin"
        ));
    }
    if job.settings.cdi && !answer.stdout.contains("enable_cdi = true") {
        warnings.push("this containerd is older than 1.7 and has no CDI; --cdi has no effect yet".to_owned());
    }
    Ok(Checked::By(COMMAND.to_owned()))
}

/// Whether the CRI plugin's table has a runtime with this program. containerd 1.4 prints the
/// options of every runtime as an empty table; there the name alone counts.
fn has_runtime(cri: &Value, name: &str, program: &str) -> bool {
    let Some(runtimes) = cri.get("runtimes").and_then(Value::as_object) else {
        return false;
    };
    let options = |runtime: &Value| runtime.get("options").and_then(Value::as_object).cloned();
    let prints_options = runtimes
        .values()
        .filter_map(options)
        .any(|options| !options.is_empty());
    let Some(runtime) = runtimes.get(name) else {
        return false;
    };
    let options = options(runtime).unwrap_or_default();
    let set = options.get("BinaryName").or_else(|| options.get("Runtime"));
    !prints_options || set == Some(&json!(program))
}

/// The main file's text with its imports listed and `file` replaced by `candidate`.
fn with_import(job: &Job, main: &Path, text: &str, file: &Path, candidate: &Path) -> Result<String> {
    let mut e = Editor::open(&main.display().to_string(), Format::Toml, text)?;
    let dir = store::parent(main);
    let mut all = Vec::new();
    let mut replaced = false;
    for pattern in e
        .value()
        .get("imports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        for found in sources::expand(&job.root, &dir.join(pattern.as_str().unwrap_or_default())) {
            let is_it = found == file;
            replaced |= is_it;
            let found = if is_it { candidate } else { &found };
            all.push(json!(found.to_string_lossy()));
        }
    }
    // A drop-in that is new.
    if !replaced {
        all.push(json!(candidate.to_string_lossy()));
    }
    e.set(&["imports"], &Value::Array(all))?;
    Ok(e.text())
}

fn run_check<S: AsRef<OsStr>>(program: &Program, args: &[S], file: &Path, shown: &str) -> Result<Checked> {
    let answer = exec::run(program, args, &[], LIMIT).map_err(|e| unanswered(program, &e))?;
    if answer.ok {
        return Ok(Checked::By(shown.to_owned()));
    }
    Err(refused(shown, file, answer.complaint()))
}

fn refused(command: &str, file: &Path, complaint: &str) -> Error {
    Error::new(
        Code::Engine,
        file.display().to_string(),
        format!("`{command}` refuses the new configuration: {complaint}"),
    )
    .fix("correct the setting that the message names, then run this again; nothing was changed")
}

fn unanswered(program: &Program, e: &io::Error) -> Error {
    Error::io(Code::Engine, program.text(), e)
        .fix("repair the program, then run this again; nothing was changed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_found_by_its_program_or_in_containerd_1_4_by_its_name() {
        let found = |cri: &Value| has_runtime(cri, "nvidia", "/usr/bin/nvoci-runtime");
        let runc = json!({"runtime_type": "io.containerd.runc.v2", "options": {"BinaryName": ""}});
        let with = |program: &str| json!({"options": {"BinaryName": program}});
        assert!(found(
            &json!({"runtimes": {"runc": runc, "nvidia": with("/usr/bin/nvoci-runtime")}})
        ));
        assert!(!found(
            &json!({"runtimes": {"runc": runc, "nvidia": with("/usr/bin/other")}})
        ));
        assert!(!found(
            &json!({"runtimes": {"runc": runc, "nvidia": {"options": {}}}})
        ));
        assert!(!found(&json!({"runtimes": {"runc": runc, "nvidia": {}}})));
        assert!(!found(&json!({"runtimes": {"runc": runc}})));
        assert!(!found(&json!({})));
        // As containerd 1.4.13 prints it.
        let empty = json!({"runtime_type": "io.containerd.runc.v2", "options": {}});
        assert!(found(&json!({"runtimes": {"runc": empty, "nvidia": empty}})));
        assert!(!found(&json!({"runtimes": {"runc": empty}})));
    }
}
