//! The example service, and what the doctor finds when one link of its chain is broken.
//!
//! `docs/broken-links.md` shows each break with the doctor's answer. `NVOCI_BLESS=1` writes the
//! generated part of the page.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::Command;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/painter");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/broken-links.md");
const BEGIN: &str = "<!-- made: tests/examples.rs writes this part -->\n";
const END: &str = "<!-- end -->\n";

/// One link of the chain, broken by an edit of one file.
struct Break {
    title: &'static str,
    effect: &'static str,
    file: &'static str,
    /// The line that is replaced; an empty one breaks nothing in the file.
    line: &'static str,
    by: &'static [&'static str],
    doctor: &'static [&'static str],
    status: i32,
}

const BREAKS: &[Break] = &[
    Break {
        title: "PyTorch's build for the CPU",
        effect: "The image is smaller, the build succeeds, and the service computes on the CPU.",
        file: "requirements.txt",
        line: "torch==2.7.*",
        by: &["--index-url https://download.pytorch.org/whl/cpu", "torch==2.7.*"],
        doctor: &["dockerfile", "Dockerfile"],
        status: 2,
    },
    Break {
        title: "conda without a driver",
        effect: "conda detects no driver while it builds the image, and takes the build for the CPU.",
        file: "Dockerfile.conda",
        line: "RUN conda env create -f /srv/environment.yml && conda clean -afy",
        by: &[
            "RUN CONDA_OVERRIDE_CUDA= conda create -y -n painter python=3.12 pytorch fastapi uvicorn pillow",
        ],
        doctor: &["dockerfile", "Dockerfile.conda"],
        status: 2,
    },
    Break {
        title: "Two versions of CUDA",
        effect: "The image's CUDA and PyTorch's are of two major versions.",
        file: "Dockerfile",
        line: "RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir -r /srv/requirements.txt",
        by: &["RUN pip install torch==2.7.1 --index-url https://download.pytorch.org/whl/cu118"],
        doctor: &["dockerfile", "Dockerfile"],
        status: 1,
    },
    Break {
        title: "A host driver that is too old",
        effect: "Error 35: CUDA driver version is insufficient for CUDA runtime version.",
        file: "Dockerfile",
        line: "",
        by: &[],
        doctor: &["dockerfile", "--driver", "470.256.02", "Dockerfile"],
        status: 2,
    },
    Break {
        title: "A GPU that is too new",
        effect: "`nvidia-smi` works, and the first kernel fails: no kernel image is available.",
        file: "Dockerfile",
        line: "",
        by: &[],
        doctor: &[
            "dockerfile",
            "--driver",
            "580.95.05",
            "--gpu",
            "RTX 5090",
            "Dockerfile",
        ],
        status: 2,
    },
    Break {
        title: "The tag `latest`",
        effect: "NVIDIA removed the tag, so that the image cannot be pulled.",
        file: "Dockerfile",
        line: "FROM nvidia/cuda:12.6.3-base-ubuntu24.04",
        by: &["FROM nvidia/cuda:latest"],
        doctor: &["dockerfile", "Dockerfile"],
        status: 2,
    },
    Break {
        title: "A loader path to stubs",
        effect: "Error 34: CUDA driver is a stub library.",
        file: "Dockerfile",
        line: "WORKDIR /srv",
        by: &["WORKDIR /srv", "ENV LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs"],
        doctor: &["dockerfile", "Dockerfile"],
        status: 2,
    },
    Break {
        title: "No reservation in the Compose file",
        effect: "The service starts without a GPU.",
        file: "compose.yaml",
        line: "    deploy:",
        by: &["    x-deploy:"],
        doctor: &["compose", "compose.yaml"],
        status: 1,
    },
];

/// Runs the doctor on the example with `file` replaced by `text`. Returns its output and status.
fn doctor(words: &[&str], file: &str, text: &str) -> (String, i32) {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(EXAMPLE).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    if !file.is_empty() {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_nvoci"))
        .arg("doctor")
        .args(words)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (
        String::from_utf8(output.stdout).unwrap(),
        output.status.code().unwrap(),
    )
}

#[test]
fn the_example_is_sound() {
    for words in [
        ["dockerfile", "Dockerfile"],
        ["dockerfile", "Dockerfile.conda"],
        ["compose", "compose.yaml"],
        ["compose", "compose.conda.yaml"],
    ] {
        let (text, status) = doctor(&words, "", "");
        assert_eq!(status, 0, "{text}");
    }
}

#[test]
fn each_broken_link_is_named() {
    let mut made = String::new();
    for broken in BREAKS {
        let path = Path::new(EXAMPLE).join(broken.file);
        let text = std::fs::read_to_string(path).unwrap();
        let mut diff = String::new();
        let edited = if broken.line.is_empty() {
            text
        } else {
            let line = format!("{}\n", broken.line);
            assert!(text.contains(&line), "{}: {}", broken.file, broken.line);
            let by: String = broken.by.iter().map(|line| format!("{line}\n")).collect();
            let removed = Some(broken.line).filter(|line| !broken.by.contains(line));
            let added = broken.by.iter().filter(|line| **line != broken.line);
            diff = removed.map(|line| format!("-{line}\n")).unwrap_or_default();
            diff.extend(added.map(|line| format!("+{line}\n")));
            text.replacen(&line, &by, 1)
        };
        let (answer, status) = doctor(broken.doctor, broken.file, &edited);
        assert_eq!(status, broken.status, "{}\n{answer}", broken.title);
        made += &format!("\n## {}\n\n{}\n", broken.title, broken.effect);
        if !diff.is_empty() {
            made += &format!("\n`{}`:\n\n```diff\n{diff}```\n", broken.file);
        }
        let command = broken.doctor.join(" ").replace("RTX 5090", "\"RTX 5090\"");
        made += &format!("\n```text\n$ nvoci doctor {command}\n{answer}```\n");
    }
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page
        .split_once(BEGIN)
        .expect("the beginning of the generated part");
    let (_, after) = rest.split_once(END).expect("the end of the generated part");
    let expected = format!("{before}{BEGIN}{made}\n{END}{after}");
    if std::env::var_os("NVOCI_BLESS").is_some() {
        std::fs::write(PAGE, expected).unwrap();
    } else {
        assert!(
            page == expected,
            "run it with NVOCI_BLESS=1, and read what changed"
        );
    }
}
