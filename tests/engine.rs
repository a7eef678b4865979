//! Golden files of `nvoci install`. For each, a second run changes nothing, and `uninstall`
//! restores every byte, also around a user's edit.
//!
//! A case is a directory `tests/engine/ENGINE/CASE` with `before` (optional), `args` and `after`.
//! `NVOCI_BLESS=1` writes `after` again.

// A test that cannot continue panics.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nvoci::engine::job::{Job, Outcome};
use nvoci::engine::place::{self, Place, Session};
use nvoci::engine::{Engine, Settings, register};
use nvoci::sys::root::Root;

struct Case {
    name: String,
    engine: Engine,
    before: Option<Vec<u8>>,
    settings: Settings,
    after: PathBuf,
}

impl Case {
    fn all() -> Vec<Self> {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine");
        let mut all = Vec::new();
        for engine in Engine::ALL {
            for dir in fs::read_dir(base.join(engine.name())).unwrap() {
                let dir = dir.unwrap().path();
                all.push(Self {
                    name: dir.strip_prefix(&base).unwrap().display().to_string(),
                    engine,
                    before: fs::read(dir.join("before")).ok(),
                    settings: settings(&fs::read_to_string(dir.join("args")).unwrap()),
                    after: dir.join("after"),
                });
            }
        }
        assert!(all.len() > 20);
        all
    }

    fn machine(&self) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "usr/bin/nvoci",
            "usr/bin/nvoci-runtime",
            "opt/nvoci/bin/nvoci-runtime",
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let place = place::find(self.engine, &root, &Session::default(), None).unwrap();
        let file = dir.path().join(place.config.strip_prefix("/").unwrap());
        if let Some(text) = &self.before {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
        }
        let job = Job {
            engine: self.engine,
            settings: self.settings.clone(),
            root,
            session: Session::default(),
            config: None,
            drop_in: None,
            spec: None,
            dry_run: false,
        };
        Machine {
            dir,
            job,
            place,
            file,
        }
    }
}

fn settings(args: &str) -> Settings {
    let mut settings = Settings::default();
    for word in args.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("set-as-default", _) => settings.set_as_default = true,
            ("cdi", _) => settings.cdi = true,
            ("name", name) => name.clone_into(&mut settings.name),
            ("path", path) => path.clone_into(&mut settings.runtime_path),
            other => panic!("{other:?}"),
        }
    }
    settings
}

struct Machine {
    dir: tempfile::TempDir,
    job: Job,
    place: Place,
    file: PathBuf,
}

impl Machine {
    fn install(&self) -> Outcome {
        register::install(&self.job, &self.place).unwrap().outcome
    }

    fn uninstall(&self) -> Outcome {
        register::uninstall(&self.job, &self.place).unwrap().outcome
    }

    /// Every file and directory with its content and inode, except `/var` and `/var/lib`.
    fn tree(&self) -> BTreeMap<PathBuf, (Vec<u8>, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let mut all = BTreeMap::new();
        let mut todo = vec![self.dir.path().to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                if meta.is_dir() {
                    todo.push(path.clone());
                    all.insert(path, (Vec::new(), 0));
                } else {
                    all.insert(path.clone(), (fs::read(path).unwrap(), meta.ino()));
                }
            }
        }
        all.retain(|p, _| !["var", "var/lib"].iter().any(|v| *p == self.dir.path().join(v)));
        all
    }

    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.tree().into_iter().map(|(p, (c, _))| (p, c)).collect()
    }
}

#[test]
fn golden_files() {
    let bless = std::env::var_os("NVOCI_BLESS").is_some();
    for case in Case::all() {
        let machine = case.machine();
        assert_eq!(machine.install(), Outcome::Registered, "{}", case.name);
        let text = fs::read(&machine.file).unwrap();
        if bless {
            fs::write(&case.after, &text).unwrap();
        }
        let expected = fs::read(&case.after).unwrap();
        assert!(
            text == expected,
            "{}:\n{}",
            case.name,
            String::from_utf8_lossy(&text)
        );
    }
}

#[test]
fn a_second_run_writes_nothing() {
    for case in Case::all() {
        let machine = case.machine();
        machine.install();
        let before = machine.tree();
        assert_eq!(machine.install(), Outcome::AlreadyRegistered, "{}", case.name);
        assert!(machine.tree() == before, "{}", case.name);
    }
}

#[test]
fn a_dry_run_writes_nothing() {
    for case in Case::all() {
        let mut machine = case.machine();
        let before = machine.tree();
        machine.job.dry_run = true;
        assert_eq!(machine.install(), Outcome::Registered, "{}", case.name);
        assert!(machine.tree() == before, "{}", case.name);
        machine.job.dry_run = false;
        machine.install();
        let installed = machine.tree();
        machine.job.dry_run = true;
        assert_eq!(machine.uninstall(), Outcome::Removed, "{}", case.name);
        assert!(machine.tree() == installed, "{}", case.name);
    }
}

#[test]
fn uninstall_restores_every_byte() {
    for case in Case::all() {
        let machine = case.machine();
        let before = machine.contents();
        machine.install();
        assert_eq!(machine.uninstall(), Outcome::Removed, "{}", case.name);
        assert_eq!(machine.contents(), before, "{}", case.name);
        assert_eq!(machine.uninstall(), Outcome::NotRegistered, "{}", case.name);
    }
}

#[test]
fn options_added_by_a_later_run_go_too() {
    for case in Case::all() {
        let mut machine = case.machine();
        let before = machine.contents();
        machine.job.settings.set_as_default = false;
        machine.job.settings.cdi = false;
        machine.install();
        machine.job.settings.set_as_default = true;
        machine.job.settings.cdi = true;
        machine.install();
        machine.uninstall();
        assert_eq!(machine.contents(), before, "{}", case.name);
    }
}

/// A user's possible edit between install and uninstall.
fn edited(engine: Engine, text: &str) -> String {
    match engine {
        Engine::Docker => {
            let comma = if text.trim_start_matches('\u{feff}').trim() == "{}" {
                ""
            } else {
                ","
            };
            text.replacen('{', &format!("{{\"user\": \"edit\"{comma}"), 1)
        }
        _ => format!("# first\n{text}\n# user\n[user]\nedit = true\n"),
    }
}

#[test]
fn an_edit_in_between_survives_uninstall() {
    for case in Case::all() {
        let machine = case.machine();
        machine.install();
        let text = fs::read_to_string(&machine.file).unwrap();
        fs::write(&machine.file, edited(case.engine, &text)).unwrap();
        assert_eq!(machine.uninstall(), Outcome::Removed, "{}", case.name);
        let left = fs::read_to_string(&machine.file).unwrap();

        let start = String::from_utf8(case.before.clone().unwrap_or_default()).unwrap();
        let start = if case.engine == Engine::Docker && start.trim().is_empty() {
            "{}".to_owned()
        } else {
            start
        };
        let expected = edited(case.engine, &start);
        // Around an edit next to our lines only white space may differ. Our header line, and the
        // `version` of a file that had none, stay with the user's lines.
        let words = |text: &str| -> Vec<String> {
            text.lines()
                .filter(|l| !l.starts_with("# Written by `nvoci"))
                .filter(|l| case.before.is_some() || l.trim() != "version = 2")
                .flat_map(str::split_whitespace)
                .map(str::to_owned)
                .collect()
        };
        let squeezed = |text: &str| words(text).concat();
        assert_eq!(squeezed(&left), squeezed(&expected), "{}:\n{left}", case.name);
    }
}

#[test]
fn a_lost_record_is_made_up_for() {
    for case in Case::all() {
        let machine = case.machine();
        machine.install();
        fs::remove_dir_all(machine.dir.path().join("var/lib/nvoci")).unwrap();
        assert_eq!(machine.uninstall(), Outcome::Removed, "{}", case.name);
        let left = fs::read_to_string(&machine.file).unwrap();
        assert!(
            !left.contains(&machine.job.settings.runtime_path),
            "{}:\n{left}",
            case.name
        );
        // A default that names a missing runtime would stop an engine from starting.
        let default = format!("\"{}\"", machine.job.settings.name);
        assert!(!left.contains(&default), "{}:\n{left}", case.name);
    }
}

#[test]
fn another_nvoci_s_registration_stays_while_it_is_installed() {
    for case in Case::all() {
        let mut m = case.machine();
        // The record then has both.
        for program in ["/opt/nvoci/bin/nvoci-runtime", "/usr/bin/nvoci-runtime"] {
            program.clone_into(&mut m.job.settings.runtime_path);
            register::install(&m.job, &m.place).unwrap();
        }
        let registered = fs::read(&m.file).ok();
        m.job.session.live = true;
        "/opt/nvoci/bin/nvoci-runtime".clone_into(&mut m.job.settings.runtime_path);
        let report = register::uninstall(&m.job, &m.place).unwrap();
        assert_eq!(report.outcome, Outcome::NotRegistered, "{}", case.name);
        let way_out = format!("`/usr/bin/nvoci uninstall {}`", case.engine.name());
        assert!(report.warnings.iter().any(|w| w.contains(&way_out)), "{report:?}");
        assert_eq!(fs::read(&m.file).ok(), registered, "{}", case.name);
        // One that is gone cannot remove it itself.
        fs::remove_file(m.dir.path().join("usr/bin/nvoci-runtime")).unwrap();
        let report = register::uninstall(&m.job, &m.place).unwrap();
        assert_eq!(report.outcome, Outcome::Removed, "{}", case.name);
    }
}

#[test]
fn a_broken_file_is_named_and_left_alone() {
    for (engine, text) in [
        (Engine::Docker, "{\n  \"debug\": true,\n}\n"),
        (Engine::Containerd, "version = 2\nplugins = {\n"),
        (Engine::Crio, "[crio\n"),
        (Engine::Podman, "[engine]\nruntimes = 1\n"),
    ] {
        let case = Case {
            name: engine.name().to_owned(),
            engine,
            before: Some(text.into()),
            settings: Settings::default(),
            after: PathBuf::new(),
        };
        let machine = case.machine();
        let before = machine.tree();
        let e = register::install(&machine.job, &machine.place).unwrap_err();
        assert_eq!(e.code(), nvoci::error::Code::Engine);
        assert!(machine.tree() == before, "{}", case.name);
    }
}

#[test]
fn the_file_that_has_the_last_word_is_edited() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n";
    let drop_in = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = true\n";
    let case = Case {
        name: "imports".to_owned(),
        engine: Engine::Containerd,
        before: Some(main.into()),
        settings: Settings::default(),
        after: PathBuf::new(),
    };
    let machine = case.machine();
    let dir = machine.dir.path().join("etc/containerd/conf.d");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("10-cri.toml"), drop_in).unwrap();
    fs::write(dir.join("20-other.toml"), "[debug]\nlevel = \"info\"\n").unwrap();
    let before = machine.contents();
    let report = register::install(&machine.job, &machine.place).unwrap();
    assert_eq!(report.files, [Path::new("/etc/containerd/conf.d/10-cri.toml")]);
    let text = fs::read_to_string(dir.join("10-cri.toml")).unwrap();
    assert_eq!(text.matches("SystemdCgroup = true").count(), 2, "{text}");
    assert_eq!(fs::read_to_string(&machine.file).unwrap(), main);
    machine.uninstall();
    assert_eq!(machine.contents(), before);
}

#[test]
fn a_file_that_was_not_imported_stays_so() {
    let machine = beside(
        "version = 3\n",
        &[(
            "conf.d/50-unread.toml",
            "version = 3\n[debug]\nlevel = \"debug\"\n",
        )],
        "/etc/containerd/conf.d/99-nvidia.toml",
    );
    let before = machine.contents();
    assert_eq!(machine.install(), Outcome::Registered);
    let text = fs::read_to_string(&machine.file).unwrap();
    assert!(
        text.contains("imports = [\"/etc/containerd/conf.d/99-nvidia.toml\"]"),
        "{text}"
    );
    assert_eq!(machine.uninstall(), Outcome::Removed);
    assert!(machine.contents() == before);
}

#[test]
fn a_later_file_is_still_imported_after_uninstall() {
    for before in [None, Some("version = 2\n")] {
        let case = Case {
            name: "later".to_owned(),
            engine: Engine::Containerd,
            before: before.map(Into::into),
            settings: Settings::default(),
            after: PathBuf::new(),
        };
        let machine = case.machine();
        let job = Job {
            drop_in: Some("/etc/containerd/conf.d/99-nvidia.toml".into()),
            ..machine.job
        };
        register::install(&job, &machine.place).unwrap();
        let dir = machine.dir.path().join("etc/containerd/conf.d");
        let later = "version = 2\n[debug]\nlevel = \"debug\"\n";
        fs::write(dir.join("50-admin.toml"), later).unwrap();
        let report = register::uninstall(&job, &machine.place).unwrap();
        assert_eq!(report.outcome, Outcome::Removed);
        assert!(
            report.warnings.iter().any(|w| w.contains("50-admin.toml")),
            "{:?}",
            report.warnings
        );
        let text = fs::read_to_string(&machine.file).unwrap();
        assert!(text.contains("/etc/containerd/conf.d/*.toml"), "{text}");
        assert!(text.contains("version = 2") && !text.contains("nvidia"), "{text}");
        assert_eq!(fs::read_to_string(dir.join("50-admin.toml")).unwrap(), later);
        assert!(!dir.join("99-nvidia.toml").exists());
    }
}

#[test]
fn a_user_s_later_default_is_not_touched() {
    let case = Case {
        name: "default".to_owned(),
        engine: Engine::Docker,
        before: Some("{}\n".into()),
        settings: settings("set-as-default"),
        after: PathBuf::new(),
    };
    let machine = case.machine();
    machine.install();
    let text = fs::read_to_string(&machine.file).unwrap();
    let changed = text.replace("\"default-runtime\": \"nvidia\"", "\"default-runtime\": \"kata\"");
    fs::write(&machine.file, changed).unwrap();
    let report = register::uninstall(&machine.job, &machine.place).unwrap();
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    let left: serde_json::Value = serde_json::from_slice(&fs::read(&machine.file).unwrap()).unwrap();
    assert_eq!(left, serde_json::json!({"default-runtime": "kata"}));
}

/// The first engine adds a specification; the last removes it.
#[test]
fn the_cdi_specification_stays_while_an_engine_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
    for file in ["usr/bin/nvoci", "usr/bin/nvoci-runtime"] {
        fs::write(dir.path().join(file), "").unwrap();
    }
    let file = dir.path().join("etc/cdi/nvidia.yaml");
    let job = |engine, spec: &str| Job {
        engine,
        settings: Settings::default(),
        root: Root::open(dir.path()).unwrap(),
        session: Session::default(),
        config: None,
        drop_in: None,
        spec: Some(spec.to_owned()),
        dry_run: false,
    };
    let install = |engine, text: &str| {
        let job = job(engine, text);
        let place = place::find(engine, &job.root, &job.session, None).unwrap();
        register::install(&job, &place).unwrap()
    };
    let uninstall = |engine| {
        let job = job(engine, "");
        let place = place::find(engine, &job.root, &job.session, None).unwrap();
        register::uninstall(&job, &place).unwrap()
    };
    install(Engine::Docker, "one");
    assert_eq!(fs::read_to_string(&file).unwrap(), "one");
    // After the first: a GPU was added, and another engine.
    install(Engine::Podman, "two");
    assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    assert_eq!(install(Engine::Docker, "two").outcome, Outcome::AlreadyRegistered);
    uninstall(Engine::Podman);
    assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    uninstall(Engine::Docker);
    assert!(!file.exists() && !dir.path().join("etc/cdi").exists());

    // Another author's file stays, and so does a file that another author changed.
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "theirs").unwrap();
    install(Engine::Docker, "one");
    uninstall(Engine::Docker);
    assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    fs::remove_file(&file).unwrap();
    install(Engine::Docker, "one");
    fs::write(&file, "one, changed").unwrap();
    assert_eq!(install(Engine::Docker, "two").warnings.len(), 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "one, changed");
}

const DROP_IN: &str = "/etc/containerd/conf.d/99-nvidia.toml";

/// Registers with a drop-in beside the main file `main`. Returns the machine, the drop-in and the
/// main file.
fn with_drop_in(main: &str, other: &str) -> (Machine, String, String) {
    let case = Case {
        name: "drop-in".to_owned(),
        engine: Engine::Containerd,
        before: (!main.is_empty()).then(|| main.as_bytes().to_vec()),
        settings: Settings::default(),
        after: PathBuf::new(),
    };
    let mut machine = case.machine();
    machine.job.drop_in = Some(PathBuf::from(DROP_IN));
    if !other.is_empty() {
        let at = machine.dir.path().join("etc/containerd/conf.d/50-site.toml");
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, other).unwrap();
    }
    assert_eq!(machine.install(), Outcome::Registered);
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let drop_in = read(&machine.dir.path().join(DROP_IN.trim_start_matches('/')));
    let main = read(&machine.file);
    (machine, drop_in, main)
}

#[test]
fn a_drop_in_gets_the_runtime_and_the_main_file_an_import() {
    let main = "version = 3\n\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'x'\n\n\
        [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = true\n";
    let (machine, drop_in, after) = with_drop_in(main, "");
    assert!(
        after.contains("imports = [\"/etc/containerd/conf.d/*.toml\"]"),
        "{after}"
    );
    assert!(!after.contains("nvidia"), "{after}");
    assert!(drop_in.contains("version = 3"), "{drop_in}");
    assert!(
        drop_in.contains("BinaryName = \"/usr/bin/nvoci-runtime\""),
        "{drop_in}"
    );
    assert!(drop_in.contains("SystemdCgroup = true"), "{drop_in}");
    // It is merged, so it has nothing else.
    assert!(!drop_in.contains("snapshotter"), "{drop_in}");
    let before = machine.tree();
    assert_eq!(machine.install(), Outcome::AlreadyRegistered);
    assert!(machine.tree() == before);
    assert_eq!(machine.uninstall(), Outcome::Removed);
    assert_eq!(fs::read_to_string(&machine.file).unwrap(), main);
    assert!(!machine.dir.path().join("etc/containerd/conf.d").exists());
}

#[test]
fn a_drop_in_that_replaces_the_table_begins_as_a_copy_of_it() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\"]\n\
        sandbox_image = \"pause:1\"\n";
    let other = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"pause:2\"\n";
    let (machine, drop_in, after) = with_drop_in(main, other);
    assert_eq!(after, main);
    assert!(drop_in.contains("sandbox_image = \"pause:2\""), "{drop_in}");
    assert!(
        drop_in.contains("BinaryName = \"/usr/bin/nvoci-runtime\""),
        "{drop_in}"
    );
    assert_eq!(machine.uninstall(), Outcome::Removed);
    assert_eq!(fs::read_to_string(&machine.file).unwrap(), main);
}

#[test]
fn a_drop_in_beside_no_main_file_makes_both() {
    let (machine, drop_in, after) = with_drop_in("", "");
    assert!(drop_in.contains("version = 2"), "{drop_in}");
    assert!(
        after.contains("version = 2") && after.contains("imports"),
        "{after}"
    );
    assert_eq!(machine.uninstall(), Outcome::Removed);
    assert!(!machine.file.exists());
}

#[test]
fn a_main_file_of_version_1_takes_no_drop_in() {
    let case = Case {
        name: "v1".to_owned(),
        engine: Engine::Containerd,
        before: Some(b"[plugins.cri]\nsandbox_image = \"x\"\n".to_vec()),
        settings: Settings::default(),
        after: PathBuf::new(),
    };
    let mut machine = case.machine();
    machine.job.drop_in = Some(PathBuf::from(DROP_IN));
    let before = machine.tree();
    assert!(register::install(&machine.job, &machine.place).is_err());
    assert!(machine.tree() == before);
}

/// A machine with containerd's main file, and files below its directory.
fn beside(main: &str, files: &[(&str, &str)], drop_in: &str) -> Machine {
    let case = Case {
        name: "beside".to_owned(),
        engine: Engine::Containerd,
        before: Some(main.as_bytes().to_vec()),
        settings: Settings::default(),
        after: PathBuf::new(),
    };
    let mut machine = case.machine();
    for (name, text) in files {
        let at = machine.dir.path().join("etc/containerd").join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    }
    machine.job.drop_in = Some(PathBuf::from(drop_in));
    machine
}

#[test]
fn a_drop_in_that_is_the_main_file_under_another_name_is_refused() {
    use std::os::unix::fs::symlink;
    for drop_in in [
        "/etc/containerd/config.toml",
        "/etc/containerd/../containerd/config.toml",
        "/etc/ctd/config.toml",
        "/etc/containerd/conf.d/link.toml",
    ] {
        let machine = beside(
            "version = 3\n",
            &[("conf.d/other.toml", "version = 3\n")],
            drop_in,
        );
        let etc = machine.dir.path().join("etc");
        symlink("../config.toml", etc.join("containerd/conf.d/link.toml")).unwrap();
        let before = machine.tree();
        symlink("containerd", etc.join("ctd")).unwrap();
        let refused = register::install(&machine.job, &machine.place).unwrap_err();
        assert!(refused.why().contains("main file"), "{drop_in}: {refused}");
        fs::remove_file(etc.join("ctd")).unwrap();
        assert!(machine.tree() == before, "{drop_in}");
    }
}

#[test]
fn a_drop_in_that_would_have_no_effect_or_hide_a_table_is_refused() {
    const NEW: &str = "/etc/containerd/conf.d/99-nvidia.toml";
    let two = "version = 2\nimports = [\"conf.d/*.toml\"]\n\
        [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"x\"\n";
    let three = "version = 3\n";
    for (main, name, other, drop_in, why) in [
        // containerd 1.x uses the table of the last file that has one.
        (two, "conf.d/zz.toml", two, NEW, "is read after it"),
        (
            two,
            "conf.d/99-nvidia.toml",
            "version = 2\n[debug]\nlevel = \"info\"\n",
            NEW,
            "would hide",
        ),
        (
            two,
            "conf.d/99-nvidia.toml",
            "[debug]\nlevel = \"info\"\n",
            NEW,
            "version 1",
        ),
        (
            three,
            "conf.d/99-nvidia.toml",
            "[debug]\nlevel = \"info\"\n",
            NEW,
            "version 1",
        ),
        (
            "version = 2\n",
            "conf.d/99-nvidia.toml",
            "version = 3\n",
            NEW,
            "version 3",
        ),
        (three, "x.toml", "", "/etc/containerd/a[1]/99.toml", "cannot name"),
        (three, "x.toml", "", "/etc/containerd/*/99.toml", "cannot name"),
        (three, "x.toml", "", "/etc/containerd/a\nb/99.toml", "cannot name"),
    ] {
        let machine = beside(main, &[(name, other)], drop_in);
        let before = machine.tree();
        let refused = register::install(&machine.job, &machine.place).unwrap_err();
        assert!(
            refused.why().contains(why),
            "{name} {other:?} {drop_in:?}: {refused}"
        );
        assert!(machine.tree() == before);
    }
    for (main, name, other) in [
        (
            three,
            "conf.d/99-nvidia.toml",
            "version = 2\n[debug]\nlevel = \"info\"\n",
        ),
        (three, "conf.d/99-nvidia.toml", ""),
        (two, "conf.d/50.toml", two),
        // The main file imports it by name, so it is read first.
        (
            "version = 2\nimports = [\"conf.d/zz.toml\"]\n",
            "conf.d/zz.toml",
            two,
        ),
    ] {
        let machine = beside(main, &[(name, other)], NEW);
        let before = machine.contents();
        assert_eq!(machine.install(), Outcome::Registered, "{name} {other:?}");
        assert_eq!(machine.uninstall(), Outcome::Removed);
        assert!(machine.contents() == before, "{name} {other:?}");
    }
}

#[test]
fn a_failure_at_a_later_file_reverts_the_earlier_ones() {
    let case = Case {
        name: "half".to_owned(),
        engine: Engine::Containerd,
        before: Some(b"version = 3\n".to_vec()),
        settings: Settings::default(),
        after: PathBuf::new(),
    };
    let mut machine = case.machine();
    machine.job.drop_in = Some(PathBuf::from(DROP_IN));
    // The main file's successor cannot be written: its names exist already.
    for attempt in 0..16 {
        let name = format!("etc/containerd/.nvoci-{}-{attempt}.tmp", std::process::id());
        fs::write(machine.dir.path().join(name), "").unwrap();
    }
    let before = machine.tree();
    register::install(&machine.job, &machine.place).unwrap_err();
    assert!(machine.tree() == before);
}

#[test]
fn a_path_that_a_record_cannot_name_is_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    for engine in [Engine::Containerd, Engine::Crio] {
        let case = Case {
            name: "bytes".to_owned(),
            engine,
            before: None,
            settings: Settings::default(),
            after: PathBuf::new(),
        };
        let mut machine = case.machine();
        machine.place.config = std::ffi::OsString::from_vec(b"/etc/\xff/x.toml".to_vec()).into();
        let before = machine.tree();
        register::install(&machine.job, &machine.place).unwrap_err();
        assert!(machine.tree() == before);
    }
}
