//! Commands that people run on a bundle and a file system. None may hang, change files outside,
//! print control characters, or print contents of a file of the host.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::fault::{Fault, Kind, shortened};
use crate::process::{run, words};
use crate::way::Runtime;

const EACH: Duration = Duration::from_secs(8);
/// Milliseconds for all of them.
const ALL: u128 = 8000;
/// The loader cache's own listing has the names of the image as they are.
const LISTS_NAMES: &str = "cache";

/// Runs all commands on a bundle.
pub(crate) fn faults(runtime: Runtime, bundle: &Bundle, evidence: &Path) -> io::Result<Vec<Fault>> {
    let begin = Instant::now();
    let mut faults = Vec::new();
    let bundle_path = bundle.path.to_string_lossy().into_owned();
    let root = bundle.root().to_string_lossy().into_owned();
    let specs = format!("{root}/cdi");
    let lines: [(&str, &[&str]); 9] = [
        ("plan", &["plan", &bundle_path]),
        ("cache", &["ldconfig", "-r", &root, "-p"]),
        ("which", &["ldconfig", "-r", &root, "--which", "libcuda.so.1"]),
        (
            "first",
            &["ldconfig", "-r", &root, "--first", "/usr/local/nvidia/lib64"],
        ),
        ("rebuild", &["ldconfig", "-r", &root]),
        ("doctor", &["doctor"]),
        ("image", &["doctor", "image", &root]),
        ("check", &["cdi", "check", "--spec-dir", &specs]),
        ("list", &["cdi", "list", "--spec-dir", &specs]),
    ];
    let mut names: Vec<String> = lines.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (name, arguments) in lines {
        nvoci(arguments, evidence, name)?;
    }
    for (count, path) in specifications(Path::new(&specs)).into_iter().enumerate() {
        let name = format!("transform{count}");
        let arguments = [
            "cdi",
            "transform",
            "root",
            "--from",
            "/",
            "--to",
            "/x",
            "--input",
            &path,
        ];
        nvoci(&arguments, evidence, &name)?;
        names.push(name);
    }
    if let Some(fault) = doctor_container(runtime, bundle, evidence)? {
        faults.push(fault);
    }
    names.push("container".to_owned());
    let image = read(evidence, "image.out") + &read(evidence, "image.err");
    if !image.lines().any(|line| line.starts_with("verdict")) && !image.contains("NVOCI-") {
        faults.push(words_fault(
            "doctor image prints neither a verdict nor an error".to_owned(),
        ));
    }
    for name in names {
        faults.extend(printed(evidence, &name));
    }
    let milliseconds = begin.elapsed().as_millis();
    if milliseconds >= ALL {
        faults.push(Fault::new(Kind::Hang, format!("took {milliseconds} ms")));
    }
    Ok(faults)
}

fn nvoci(arguments: &[&str], evidence: &Path, name: &str) -> io::Result<()> {
    let mut command = vec!["nvoci"];
    command.extend(arguments);
    run(&words(&command), EACH, evidence, name).map(drop)
}

/// The specifications of a directory, but for links.
fn specifications(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
    files
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .collect()
}

/// The same image in a running container, with a program that stays.
fn doctor_container(runtime: Runtime, bundle: &Bundle, evidence: &Path) -> io::Result<Option<Fault>> {
    let mut definition: Value = serde_json::from_slice(&fs::read(bundle.path.join("config.json"))?)?;
    definition["process"]["args"] = json!(["/bin/sleep", "60"]);
    bundle.write(&definition)?;
    let path = bundle.path.to_string_lossy();
    let command = [
        runtime.name(),
        "run",
        "--detach",
        "--bundle",
        &path,
        &bundle.container,
    ];
    if run(&words(&command), EACH, evidence, "start")?.status != 0 {
        return Ok(None);
    }
    run(
        &words(&[runtime.name(), "state", &bundle.container]),
        EACH,
        evidence,
        "state",
    )?;
    let state: Value = serde_json::from_str(&read(evidence, "state.out")).unwrap_or_default();
    nvoci(
        &["doctor", "container", &state["pid"].to_string()],
        evidence,
        "container",
    )?;
    if read(evidence, "container.out")
        .lines()
        .any(|line| line.starts_with("verdict"))
    {
        return Ok(None);
    }
    let errors = read(evidence, "container.err");
    let line = shortened(errors.lines().last().unwrap_or_default(), 300);
    Ok(Some(words_fault(format!("doctor container: {line}"))))
}

/// The faults of one command's output.
fn printed(evidence: &Path, name: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for stream in ["out", "err"] {
        let file = format!("{name}.{stream}");
        let text = read(evidence, &file);
        let is_list = name == LISTS_NAMES && stream == "out";
        if !is_list && text.bytes().any(is_control) {
            faults.push(words_fault(format!(
                "control characters in what is said ({file})"
            )));
        }
        if stream == "err" && text.contains("panicked") {
            faults.push(words_fault(format!("{name} panicked")));
        }
        if text.contains("a secret of the host") {
            faults.push(words_fault(format!("{name} says what is in a file of the host")));
        }
    }
    faults
}

/// Tab and line feed are none.
pub(crate) fn is_control(byte: u8) -> bool {
    byte < 0x20 && byte != b'\t' && byte != b'\n' || byte == 0x7f
}

fn read(evidence: &Path, file: &str) -> String {
    String::from_utf8_lossy(&fs::read(evidence.join(file)).unwrap_or_default()).into_owned()
}

fn words_fault(text: String) -> Fault {
    Fault::new(Kind::Words, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_has_no_control_characters_and_no_secret() {
        let evidence = std::env::temp_dir().join(format!("nvoci-suite-{}", std::process::id()));
        fs::create_dir_all(&evidence).unwrap();
        fs::write(evidence.join("a.out"), "lines\nand\ttabs\n").unwrap();
        fs::write(evidence.join("a.err"), "").unwrap();
        assert_eq!(printed(&evidence, "a"), []);
        fs::write(evidence.join("a.out"), "\x1b[2J").unwrap();
        fs::write(evidence.join("a.err"), "panicked: a secret of the host").unwrap();
        assert_eq!(printed(&evidence, "a").len(), 3);
        fs::remove_dir_all(evidence).unwrap();
    }
}
