//! Reads an image from an engine through a pipe, with `docker save` or `podman save`.

use std::ffi::OsStr;
use std::io::{BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::exec;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::program::{PATH, Program};

/// The engines in the order in which they are tried.
const ENGINES: [&str; 2] = ["docker", "podman"];
/// An engine that does not answer in this time counts as having no images.
const LIMIT: Duration = Duration::from_secs(20);
const BUFFER: usize = 256 << 10;
/// The variables by which a person's own command selects an engine and its files.
const VARIABLES: [&str; 5] = [
    "HOME",
    "XDG_RUNTIME_DIR",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
];

/// A running export.
#[derive(Debug)]
pub struct Export {
    child: Child,
    pipe: BufReader<ChildStdout>,
    what: String,
}

/// Starts the export of the image `name`, which may begin with its engine: `podman:debian:12`.
///
/// # Errors
/// [`Code::File`] if no engine has it; [`Code::Engine`] if the engine cannot be started.
pub fn start(name: &str) -> Result<Export> {
    let requested = ENGINES
        .into_iter()
        .find_map(|engine| Some((engine, name.strip_prefix(engine)?.strip_prefix(':')?)));
    let (engines, reference) = match requested {
        Some((engine, reference)) => (vec![engine], reference),
        None => (ENGINES.to_vec(), name),
    };
    let what = format!("image {name}");
    // It becomes an argument and must not be taken for an option.
    if reference.is_empty() || reference.starts_with('-') || reference.contains(char::is_whitespace) {
        return Err(Error::new(
            Code::File,
            what,
            "no such file, and not a valid image name",
        ));
    }
    let mut refusals = Vec::new();
    for engine in engines {
        let Some(program) = Program::find(engine) else {
            refusals.push(format!("{engine} is not installed where only root can write"));
            continue;
        };
        match exec::run(&program, &["image", "inspect", reference], &own(), LIMIT) {
            Ok(answer) if answer.ok => return save(&program, reference, what),
            Ok(answer) => refusals.push(format!("{engine}: {}", answer.complaint())),
            Err(e) => refusals.push(format!("{engine}: {e}")),
        }
    }
    Err(
        Error::new(Code::File, what, format!("no such file; {}", refusals.join("; ")))
            .fix("pull the image, or name a directory or an archive"),
    )
}

fn own() -> Vec<(&'static str, &'static OsStr)> {
    use std::sync::OnceLock;
    static VALUES: OnceLock<Vec<(&'static str, std::ffi::OsString)>> = OnceLock::new();
    let values = VALUES.get_or_init(|| {
        VARIABLES
            .into_iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)))
            .collect()
    });
    values
        .iter()
        .map(|(name, value)| (*name, value.as_os_str()))
        .collect()
}

fn save(program: &Program, reference: &str, what: String) -> Result<Export> {
    let mut child = Command::new(program.path())
        .args(["image", "save", reference])
        .env_clear()
        .env("PATH", PATH)
        .envs(own())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(Code::Engine, || program.text())?;
    let Some(pipe) = child.stdout.take() else {
        return Err(Error::new(Code::Engine, what, "no pipe"));
    };
    Ok(Export {
        child,
        pipe: BufReader::with_capacity(BUFFER, pipe),
        what,
    })
}

impl Export {
    /// The pipe of the archive.
    pub fn pipe(&mut self) -> &mut BufReader<ChildStdout> {
        &mut self.pipe
    }

    /// Waits for the engine after the whole archive was read.
    ///
    /// # Errors
    /// [`Code::Engine`] with the engine's message if it failed.
    pub fn finish(mut self) -> Result<()> {
        const MAX_COMPLAINT: u64 = 64 << 10;
        let mut complaint = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(MAX_COMPLAINT).read_to_string(&mut complaint);
        }
        let status = self.child.wait().context(Code::Engine, || self.what.clone())?;
        if status.success() {
            return Ok(());
        }
        let last = complaint.lines().rev().find(|l| !l.trim().is_empty());
        Err(Error::new(
            Code::Engine,
            &self.what,
            last.unwrap_or("the engine failed and printed nothing"),
        ))
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // The engine runs only if the export was given up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_a_name_is_refused() {
        for bad in ["", "-v", "docker:", "podman:--help", "a b"] {
            assert_eq!(start(bad).unwrap_err().code(), Code::File, "{bad}");
        }
    }
}
