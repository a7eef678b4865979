//! Asking the engine itself whether it takes a configuration, before it is put in place.

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
use super::{ask, containerd, sources};

const LIMIT: Duration = Duration::from_secs(30);

/// Has the engine read the staged file.
///
/// # Errors
/// [`Code::Engine`] when the engine refuses it, or does not see the runtime in it.
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
            ask_it(&program, &args, &stored.path, "crio config")
        }
    }
}

/// Flags of dockerd that it refuses in its file as well, by the key of the file (moby `daemon/config`).
const ALSO_FLAGS: [(&str, &str); 3] = [
    ("add-runtime", "runtimes"),
    ("default-runtime", "default-runtime"),
    ("feature", "features"),
];

/// The candidate alone: what another process was started with is never repeated to a program of root's.
fn docker(program: &Program, job: &Job, candidate: &Path, file: &Path) -> Result<Checked> {
    if job.session.user.is_none() {
        flags_in_the_way(&flags::daemons(Engine::Docker).running, &job.settings, file)?;
    }
    let args = [
        OsStr::new("--validate"),
        OsStr::new("--config-file"),
        candidate.as_os_str(),
    ];
    let answer = ask::run(program, &args, &[], LIMIT).map_err(|e| unanswered(program, &e))?;
    if answer.ok {
        return Ok(Checked::By("dockerd --validate".to_owned()));
    }
    // 23.0 is the first that can.
    if answer.stderr.contains("unknown flag: --validate")
        || answer.stdout.contains("unknown flag: --validate")
    {
        return Ok(Checked::Not(
            "this dockerd is older than 23.0 and has no --validate".to_owned(),
        ));
    }
    Err(refused("dockerd --validate", file, answer.complaint()))
}

/// dockerd refuses a setting that is also a flag, which it would say only when it starts again.
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
        format!("the running dockerd has --{flag} as a flag, and refuses it in the file as well"),
    )
    .fix(format!(
        "move --{flag} from dockerd's service into this file, or register with another engine; nothing was changed"
    )))
}

/// Podman reads `CONTAINERS_CONF` whatever it is asked.
fn podman(program: &Program, job: &Job, candidate: &Path, file: &Path) -> Result<Checked> {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let env = [
        ("CONTAINERS_CONF", candidate.as_os_str()),
        ("HOME", home.as_os_str()),
    ];
    // It wants a home, but only a user's own Podman has one that counts.
    let env = if job.session.user.is_some() {
        env.as_slice()
    } else {
        &env[..1]
    };
    let answer = ask::run(program, &["--version"], env, LIMIT).map_err(|e| unanswered(program, &e))?;
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
    // When an imported file is edited, the main file is read with the candidate in its place.
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
    let answer = ask::run(program, &args, &[], LIMIT).map_err(|e| unanswered(program, &e))?;
    if !answer.ok {
        return Err(refused(COMMAND, &stored.path, answer.complaint()));
    }
    let dump = Editor::open(COMMAND, Format::Toml, &answer.stdout)?;
    if let Some(table) = containerd::cri(dump.value()) {
        let entry = table.get("runtimes").and_then(|r| r.get(&job.settings.name));
        let binary = entry
            .and_then(|r| r.get("options"))
            .and_then(|o| o.get("BinaryName").or_else(|| o.get("Runtime")));
        if binary != Some(&json!(job.settings.runtime_path)) {
            return Err(refused(
                COMMAND,
                &stored.path,
                "the runtime is not in what containerd makes of the file",
            )
            .fix(
                "another file overrides it; name the last one that configures the CRI plugin with --config",
            ));
        }
    }
    if let Some(table) = containerd::cri(dump.value())
        && let Some(default) = table.get("default_runtime_name").and_then(Value::as_str)
        && table.get("runtimes").is_none_or(|r| r.get(default).is_none())
    {
        warnings.push(format!(
            "the default runtime `{default}` is defined nowhere, so containerd will not start its CRI plugin"
        ));
    }
    if job.settings.cdi && !answer.stdout.contains("enable_cdi = true") {
        warnings.push("this containerd is older than 1.7 and has no CDI; --cdi has no effect yet".to_owned());
    }
    Ok(Checked::By(COMMAND.to_owned()))
}

/// The main file's text with its imports spelled out and `file` replaced by `candidate`.
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

fn ask_it<S: AsRef<OsStr>>(program: &Program, args: &[S], file: &Path, shown: &str) -> Result<Checked> {
    let answer = ask::run(program, args, &[], LIMIT).map_err(|e| unanswered(program, &e))?;
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
    .fix("see the complaint; nothing was changed")
}

fn unanswered(program: &Program, e: &io::Error) -> Error {
    Error::io(Code::Engine, program.text(), e).fix("nothing was changed; try again when the program works")
}
