//! Command lines that worked with the vendor's tools, under the vendor's names: effect and exit
//! status of each. `migration` runs the tables of `docs/migration.md`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

#[path = "parity/cdi_specs.rs"]
mod cdi_specs;
#[path = "parity/containers.rs"]
mod containers;
#[path = "parity/files.rs"]
mod files;
#[path = "parity/migration.rs"]
mod migration;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory in which command lines run; `@` in them is its path.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// nvoci puts no file into a specification if another user can replace it, as below `/tmp`.
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/lib").or_else(|_| tempfile::tempdir());
        Self { dir: dir.unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A command line whose first word is the program's name.
    fn command(&self, line: &str) -> Command {
        let dir = self.dir.path().display().to_string();
        let mut words = line.split_whitespace().map(|w| w.replace('@', &dir));
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvoci"));
        command
            .arg0(words.next().unwrap())
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir(&dir);
        command
    }

    fn run(&self, line: &str) -> Ran {
        Ran::of(line, self.command(line).stdin(Stdio::null()).output().unwrap())
    }

    fn run_with(&self, line: &str, variables: &[(&str, &str)]) -> Ran {
        let dir = self.dir.path().display().to_string();
        let mut command = self.command(line);
        for (name, value) in variables {
            command.env(name, value.replace('@', &dir));
        }
        Ran::of(line, command.stdin(Stdio::null()).output().unwrap())
    }

    fn fed(&self, line: &str, input: &str) -> Ran {
        let mut child = self
            .command(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that fails early closes its end.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Ran::of(line, child.wait_with_output().unwrap())
    }
}

struct Ran {
    line: String,
    status: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(line: &str, output: Output) -> Self {
        Self {
            line: line.to_owned(),
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn exits(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}\n{}{}", self.line, self.out, self.err);
        self
    }
}

/// The output of the vendor's 1.20 for `cdi generate --mode=management`, for a driver in `/`.
fn management() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cdi/vendor/h100-management.yaml");
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("cdiVersion: 0.3.0\n"));
    text
}

#[test]
fn a_transformed_specification_declares_the_version_that_it_needs() {
    let bench = Bench::new();
    let line = "nvidia-ctk cdi transform root --from=/ --to=/run/nvidia/driver";
    let moved = bench.fed(line, &management()).exits(0).out;
    assert!(moved.contains("cdiVersion: \"0.5.0\""), "{moved}");
    assert!(
        moved.contains("hostPath: /run/nvidia/driver/dev/nvidia0"),
        "{moved}"
    );
    // Twice; the second run was once refused.
    bench
        .fed(&format!("{line} --output=@/cdi/x.yaml"), &moved)
        .exits(0);
    let check = bench.run("nvidia-ctk cdi list --spec-dir=@/cdi").exits(0);
    assert_eq!(check.out, "nvidia.com/gpu=all\n");
    // And back.
    let line = "nvidia-ctk cdi transform root --from=/run/nvidia/driver --to=/";
    let back = bench.fed(line, &moved).exits(0).out;
    assert!(!back.contains("hostPath: /run"), "{back}");
}

/// The GPU operator's container toolkit, and its MIG manager after each change: two transformations
/// in a row, of which the first may change nothing.
#[test]
fn the_pipes_of_mig_manager_and_gpu_operator_write_what_engines_read() {
    for (driver, target, dev, dev_target) in [
        ("/host", "/", "/host", "/"),
        ("/driver-root", "/run/nvidia/driver", "/host", "/"),
        ("/", "/run/nvidia/driver", "/", "/"),
        ("/", "/", "/", "/run/nvidia/driver"),
    ] {
        let bench = Bench::new();
        let of_root = |root: &str, path: &str| format!("{}{path}", root.trim_end_matches('/'));
        let mut spec = management();
        if driver != "/" {
            for path in ["/usr/", "/run/", "/etc/", "/lib/", "/var/"] {
                spec = spec.replace(
                    &format!("hostPath: {path}"),
                    &format!("hostPath: {}", of_root(driver, path)),
                );
            }
        }
        if dev != "/" {
            let nodes = spec.matches("- path: /dev/").count();
            assert!(nodes > 3);
            spec = spec
                .lines()
                .map(|line| match line.trim_start().strip_prefix("- path: /dev/") {
                    Some(name) => format!(
                        "{line}\n              hostPath: {}\n",
                        of_root(dev, &format!("/dev/{name}"))
                    ),
                    None => format!("{line}\n"),
                })
                .collect();
            spec = spec.replace("cdiVersion: 0.3.0", "cdiVersion: 0.5.0");
        }
        let first = format!("nvidia-ctk cdi transform root --from={driver} --to={target} --input=-");
        let middle = bench.fed(&first, &spec).exits(0).out;
        let second = format!(
            "nvidia-ctk cdi transform root --from={dev} --to={dev_target} --input=- \
             --output=@/cdi/management.nvidia.com-gpu.yaml"
        );
        bench.fed(&second, &middle).exits(0);
        let list = bench.run("nvidia-ctk cdi list --spec-dir=@/cdi").exits(0);
        assert_eq!(list.out, "nvidia.com/gpu=all\n", "{}", list.err);
        // Errors that would keep an engine from reading the file.
        let check = bench.run("nvoci cdi check --spec-dir=@/cdi");
        assert!(!check.out.contains("no engine can read it"), "{}", check.out);
    }
}

#[test]
fn nothing_is_written_that_no_engine_would_read() {
    let bench = Bench::new();
    let line = "nvidia-ctk cdi transform root --from=/ --to=relative --output=@/cdi/x.yaml";
    let ran = bench.fed(line, &management()).exits(1);
    assert!(ran.err.contains("NVOCI-1105"), "{}", ran.err);
    assert!(!bench.path("cdi").exists());
}

const GENERATE: &str = "nvidia-ctk cdi generate --nvidia-cdi-hook-path=/usr/bin/nvidia-cdi-hook";

#[test]
fn a_files_extension_wins_over_the_format() {
    let bench = Bench::new();
    let ran = bench.run(&format!(
        "{GENERATE} --mode=csv --csv.file=@/x.csv --format=yaml --output=@/x.json"
    ));
    assert_eq!(ran.status, 1, "no device is no specification");
    bench.file("x.csv", "dev, /dev/null\n");
    let ran = bench.run(&format!(
        "{GENERATE} --mode=csv --csv.file=@/x.csv --format=yaml --output=@/x.json"
    ));
    let ran = ran.exits(0);
    assert!(bench.text("x.json").starts_with('{'));
    assert!(ran.err.contains("format of its name"), "{}", ran.err);
    bench
        .run(&format!(
            "{GENERATE} --mode=csv --csv.file=@/x.csv --format=json --output=@/x.yaml"
        ))
        .exits(0);
    assert!(bench.text("x.yaml").starts_with("---\n"));
}

#[test]
fn csv_mode_makes_devices_mounts_and_links_of_the_files() {
    let bench = Bench::new();
    let dir = bench.dir.path().display().to_string();
    let list =
        "dev, /dev/null\nlib, @/lib/data.bin\nsym, @/lib/one\nsym, @/lib/two\ndir, @/lib\n# none\nbad\n";
    bench.file("l4t.csv", &list.replace('@', &dir));
    bench.file("more.csv", "dev, /dev/zero\n");
    bench.file("lib/data.bin", "data");
    symlink("data.bin", bench.path("lib/one")).unwrap();
    symlink("one", bench.path("lib/two")).unwrap();
    let line =
        format!("{GENERATE} --mode=csv --csv.file=@/l4t.csv --csv.file=@/more.csv --csv.file=@/none.csv");
    let ran = bench.run(&line).exits(0);
    assert!(
        ran.err.contains("none.csv"),
        "a missing file is a warning: {}",
        ran.err
    );
    for part in [
        "- name: \"0\"\n",
        "- name: all\n",
        "path: /dev/null\n",
        "path: /dev/zero\n",
        &format!("hostPath: {dir}/lib/data.bin\n"),
        &format!("data.bin::{dir}/lib/one\n"),
        &format!("one::{dir}/lib/two\n"),
    ] {
        assert!(ran.out.contains(part), "{part} in\n{}", ran.out);
    }
    let line = format!("{line} --csv.ignore-pattern=**/t*");
    let ran = bench.run(&line).exits(0);
    assert!(
        ran.out.contains("lib/one") && !ran.out.contains("lib/two"),
        "{}",
        ran.out
    );
    let line = format!("{line} --csv.ignore-pattern={dir}/lib/one");
    let ran = bench.run(&line).exits(0);
    assert!(!ran.out.contains("create-symlinks"), "{}", ran.out);
    // By variables.
    let ran = bench.run_with(
        GENERATE,
        &[
            ("NVIDIA_CTK_CDI_GENERATE_MODE", "csv"),
            ("NVIDIA_CTK_CDI_GENERATE_CSV_FILES", "@/more.csv,@/l4t.csv"),
            ("NVIDIA_CTK_CDI_GENERATE_CSV_IGNORE_PATTERNS", "**/one,**/two"),
        ],
    );
    let ran = ran.exits(0);
    assert!(
        ran.out.contains("/dev/zero") && !ran.out.contains("lib/one"),
        "{}",
        ran.out
    );
}

#[test]
fn csv_mode_without_a_device_writes_nothing() {
    let bench = Bench::new();
    bench.file("x.csv", "dev, /dev/no-such-device\n");
    bench
        .run(&format!(
            "{GENERATE} --mode=csv --csv.file=@/x.csv --output=@/x.yaml"
        ))
        .exits(1);
    assert!(!bench.path("x.yaml").exists());
    let ran = bench.run(&format!("{GENERATE} --mode=csv --csv.file=@/none.csv"));
    assert!(ran.exits(1).err.contains("none.csv"), "the cause is shown");
    bench.file("x.csv", "dev, /dev/null\n");
    let ran = bench.run(&format!("{GENERATE} --mode=csv --csv.file=@/x.csv --device-id=7"));
    assert!(ran.exits(1).err.contains("NVOCI-3001"));
}

#[test]
fn csv_mode_names_no_link_that_a_hook_would_refuse() {
    let bench = Bench::new();
    bench.file("lib/data.bin", "data");
    for (name, target) in [
        ("good", "data.bin"),
        ("two", "a::b"),
        ("lines", "a\nb"),
        ("x::y", "data.bin"),
    ] {
        symlink(target, bench.path("lib").join(name)).unwrap();
    }
    let dir = bench.dir.path().display().to_string();
    let list = "dev, /dev/null\nsym, @/lib/good\nsym, @/lib/two\nsym, @/lib/lines\nsym, @/lib/x::y\n";
    bench.file("x.csv", &list.replace('@', &dir));
    let ran = bench
        .run(&format!("{GENERATE} --mode=csv --csv.file=@/x.csv"))
        .exits(0);
    assert!(
        ran.out.contains(&format!("data.bin::{dir}/lib/good")),
        "{}",
        ran.out
    );
    for odd in ["lib/two", "lib/lines", "x::y"] {
        assert!(!ran.out.contains(odd), "{odd} in {}", ran.out);
        assert!(ran.err.contains(odd), "{odd} in {}", ran.err);
    }
}

#[test]
fn csv_options_have_no_effect_in_another_mode() {
    let bench = Bench::new();
    let plain = bench.run(&format!("{GENERATE} --mode=auto")).exits(0).out;
    let line = "--csv.file=@/none.csv --csv.ignore-pattern=x --csv.compat-container-root=/x";
    let with = bench.run(&format!("{GENERATE} --mode=auto {line}")).exits(0).out;
    assert_eq!(plain, with);
}

const SPEC: &str =
    "cdiVersion: 0.5.0\nkind: a.b/KIND\ndevices:\n- name: 0\n  containerEdits:\n    env: [A=1]\n";

#[test]
fn cdi_list_reads_the_directories_that_variable_option_or_configuration_names() {
    let bench = Bench::new();
    bench.file("one/x.yaml", &SPEC.replace("KIND", "one"));
    bench.file("two/x.yaml", &SPEC.replace("KIND", "two"));
    let dir = bench.dir.path().display().to_string();
    bench.file(
        "config.toml",
        &format!("[nvidia-container-runtime.modes.cdi]\nspec-dirs = [\"{dir}/two\"]\n"),
    );
    let both = "a.b/one=0\na.b/two=0\n";
    let dirs = [("NVIDIA_CTK_CDI_SPEC_DIRS", "@/one,@/two")];
    assert_eq!(bench.run_with("nvidia-ctk cdi list", &dirs).exits(0).out, both);
    assert_eq!(
        bench
            .run("nvidia-ctk cdi list --spec-dir=@/one,@/two")
            .exits(0)
            .out,
        both
    );
    for line in [
        "nvidia-ctk --config @/config.toml cdi list",
        "nvidia-ctk --debug=true --config=@/config.toml cdi list --quiet=false",
    ] {
        assert_eq!(bench.run(line).exits(0).out, "a.b/two=0\n", "{line}");
    }
    let config = [("NVIDIA_CTK_CONFIG", "@/config.toml")];
    assert_eq!(
        bench.run_with("nvidia-ctk cdi list", &config).exits(0).out,
        "a.b/two=0\n"
    );
    // An option wins over a variable.
    let ran = bench
        .run_with("nvidia-ctk cdi list --spec-dir=@/one", &dirs)
        .exits(0);
    assert_eq!(ran.out, "a.b/one=0\n");
}

#[test]
fn a_hook_with_debug_is_not_skipped() {
    let bench = Bench::new();
    for line in [
        "nvidia-cdi-hook --debug=true update-ldcache --folder /x",
        "nvidia-cdi-hook --debug true update-ldcache --folder /x",
        "nvidia-cdi-hook --quiet=false -d create-symlinks --link a::/b",
        "nvidia-cdi-hook create-symlinks --debug=true --link a::/b",
        "nvidia-ctk --debug=true hook create-symlinks --link=a::/b",
        "nvidia-ctk hook --debug=true create-symlinks --link=a::/b",
    ] {
        // It fails at the state, which is missing.
        let ran = bench.fed(line, "{}").exits(1);
        assert!(ran.err.contains("NVOCI-1101"), "{line}: {}", ran.err);
    }
}

#[test]
fn an_unknown_option_of_a_hook_is_an_error_and_an_unknown_hook_a_warning() {
    let bench = Bench::new();
    for line in [
        "nvidia-cdi-hook --foo update-ldcache",
        "nvidia-cdi-hook --foo value update-ldcache",
        "nvidia-cdi-hook update-ldcache --foo",
        "nvidia-cdi-hook create-symlinks --link a",
        "nvidia-cdi-hook chmod --path /dev/dri",
    ] {
        assert!(bench.run(line).exits(1).err.contains("NVOCI-1001"), "{line}");
    }
    bench.run("nvoci cdi-hook update-ldcache --foo").exits(2);
    for line in ["nvidia-cdi-hook brand-new --x", "nvidia-cdi-hook --x brand-new"] {
        let ran = bench.run(line).exits(0);
        assert!(
            ran.err.contains("there is no CDI hook `brand-new`"),
            "{}",
            ran.err
        );
    }
}

#[test]
fn exit_statuses_are_the_vendors_under_the_vendors_names_alone() {
    let bench = Bench::new();
    for (line, status) in [
        ("nvidia-ctk --bogus", 1),
        ("nvidia-ctk cdi list --bogus", 1),
        ("nvidia-ctk cdi generate --mode=bogus", 1),
        ("nvidia-ctk runtime configure --runtime=bogus", 1),
        ("nvidia-ctk bogus", 3),
        ("nvidia-ctk cdi bogus", 3),
        ("nvidia-ctk system bogus", 3),
        ("nvidia-ctk info", 0),
        ("nvidia-container-cli --bogus", 1),
        ("nvidia-container-runtime-hook --bogus", 2),
        ("nvoci cdi list --bogus", 2),
        ("nvoci bogus", 2),
        ("nvoci cdi bogus", 2),
    ] {
        bench.run(line).exits(status);
    }
}

#[test]
fn completion_prints_a_script_for_nvidia_ctk() {
    let bench = Bench::new();
    let script = bench.run("nvidia-ctk completion bash").exits(0).out;
    assert!(
        script.contains("complete -o default -F _nvidia_ctk nvidia-ctk\n"),
        "{script}"
    );
    assert!(script.contains("'nvidia-ctk cdi generate'"), "{script}");
    bench.file("script", &script);
    let checked = Command::new("bash").arg("-n").arg(bench.path("script")).status();
    assert!(checked.is_err() || checked.unwrap().success());
    for shell in ["zsh", "fish"] {
        let script = bench.run(&format!("nvidia-ctk completion {shell}")).exits(0).out;
        assert!(script.contains("nvidia-ctk system"), "{script}");
    }
    bench.run("nvidia-ctk completion").exits(1);
}

#[test]
fn config_set_writes_the_value() {
    let bench = Bench::new();
    bench.file(
        "c.toml",
        "disable-require = false\n[features]\nignore-imex-channel-requests = true\n",
    );
    let set = "nvidia-ctk config --config=@/c.toml --set";
    for (line, part) in [
        ("disable-require=True", "disable-require = true\n"),
        ("disable-require=1", "disable-require = true\n"),
        (
            "disable-require=T,nvidia-container-cli.no-cgroups=1",
            "no-cgroups = true",
        ),
        (
            "nvidia-container-runtime.runtimes=crun;runc --set-list-separator=;",
            "runtimes = [\"crun\", \"runc\"]",
        ),
        (
            "nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks=chmod:newname",
            "[\"chmod\", \"newname\"]",
        ),
    ] {
        let out = bench.run(&format!("{set} {line}")).exits(0).out;
        assert!(out.contains(part), "{line}: {out}");
    }
    let out = bench
        .run(&format!("{set} features.ignore-imex-channel-requests=nil"))
        .exits(0)
        .out;
    assert!(!out.contains("ignore-imex"), "{out}");
    for bad in [
        "disable-require=yes",
        "disable-require=nil",
        "features.bogus=true",
    ] {
        bench.run(&format!("{set} {bad}")).exits(1);
    }
}

/// Only root can register nvoci with this machine's engines.
fn is_root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        eprintln!("SKIPPED: only root registers a runtime");
    }
    root
}

const CONFIGURE: &str = "nvidia-ctk runtime configure --nvidia-runtime-path=/usr/bin/env";

#[test]
fn a_dry_run_prints_the_resulting_file() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    bench.file("daemon.json", "{\"debug\": true}\n");
    let line = format!("{CONFIGURE} --runtime=docker --config=@/daemon.json --cdi.enabled");
    let shown = bench.run(&format!("{line} --dry-run")).exits(0).out;
    let file: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(file["runtimes"]["nvidia"]["path"], "/usr/bin/env");
    assert_eq!(
        (&file["debug"], &file["features"]["cdi"]),
        (&true.into(), &true.into())
    );
    assert_eq!(bench.text("daemon.json"), "{\"debug\": true}\n");
    // A name that dockerd looks up.
    let line = "nvidia-ctk runtime configure --config=@/daemon.json --dry-run --nvidia-runtime-path=env";
    assert!(bench.run(line).exits(0).out.contains("\"path\": \"env\""));
    bench.run(&format!("{line}/x")).exits(1);
    let line = line.replace("configure", "configure --runtime=containerd");
    bench.run(&line).exits(1);

    bench.file("config.toml", "version = 2\n");
    let line = format!(
        "{CONFIGURE} --runtime=containerd --config=@/config.toml --drop-in-config=@/d/99-nvidia.toml"
    );
    let shown = bench.run(&format!("{line} --dry-run")).exits(0).out;
    let (drop_in, main) = (
        shown.find("BinaryName").unwrap(),
        shown.find("imports = ").unwrap(),
    );
    assert!(drop_in < main, "{shown}");
    assert!(!bench.path("d").exists());
}

#[test]
fn a_drop_in_is_written_or_refused() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    bench.file("daemon.json", "{}\n");
    bench
        .run(&format!(
            "{CONFIGURE} --runtime=docker --config=@/daemon.json --drop-in-config=@/d.json"
        ))
        .exits(1);
    assert!(!bench.path("d.json").exists() && bench.text("daemon.json") == "{}\n");
    let line = format!("{CONFIGURE} --runtime=crio --drop-in-config=@/d/99-nvidia.toml --dry-run");
    let shown = bench.run(&line).exits(0).out;
    assert!(shown.contains("runtime_path = \"/usr/bin/env\""), "{shown}");
}

#[test]
fn a_source_that_is_not_there_is_refused() {
    let bench = Bench::new();
    for line in ["bogus", "command --runtime=containerd --executable-path=@/none"] {
        bench
            .run(&format!(
                "{CONFIGURE} --config=@/config.toml --config-source={line}"
            ))
            .exits(1);
        assert!(!bench.path("config.toml").exists());
    }
}

#[test]
fn the_hook_mode_writes_a_hooks_directorys_file() {
    let bench = Bench::new();
    let line = "nvidia-ctk runtime configure --runtime=crio --config-mode=oci-hook";
    let ran = bench.run(line).exits(0);
    assert!(ran.err.contains("warning"), "{}", ran.err);
    let hook: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(hook["stages"], serde_json::json!(["prestart"]));
    assert_eq!(hook["when"]["always"], true);
    bench
        .run(&format!("{line} --oci-hook-path=@/hooks.d/x.json"))
        .exits(0);
    assert_eq!(bench.text("hooks.d/x.json"), ran.out);
    bench
        .run("nvidia-ctk runtime configure --config-mode=bogus --config=@/x.json")
        .exits(1);
    assert!(!bench.path("x.json").exists());
}

#[test]
fn abbreviations_of_nvidia_container_cli_are_options() {
    let bench = Bench::new();
    for line in ["info --cs", "--load info", "list --dev=0 --lib"] {
        let ran = bench.run(&format!("nvidia-container-cli {line}"));
        assert!(!ran.err.contains("there is no option"), "{line}: {}", ran.err);
    }
    let ran = bench.run("nvidia-container-cli list --no").exits(1);
    assert!(ran.err.contains("may be any of"), "{}", ran.err);
}
