//! The corpus of image roots, and the helpers that all corpora of the doctor share.

use std::path::Path;

use super::config::ImageConfig;
use super::fatbin::tests::{container_of, entry};
use super::*;
use crate::compat::driver;
use crate::ldso::fixtures::elf_with;

/// One case of a corpus.
pub(in crate::doctor) struct Case<'t> {
    pub(in crate::doctor) name: &'t str,
    /// `driver=535.183.01 gpu=A100`
    pub(in crate::doctor) target: &'t str,
    expected: &'t str,
    pub(in crate::doctor) body: String,
}

/// The cases of a corpus.
pub(in crate::doctor) fn cases(text: &str) -> Vec<Case<'_>> {
    let mut all: Vec<Case<'_>> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("=== ") {
            let (head, expected) = head.split_once(" -> ").unwrap();
            let at = head.find(", driver=").unwrap_or(head.len());
            let (name, target) = head.split_at(at);
            all.push(Case {
                name,
                target,
                expected,
                body: String::new(),
            });
        } else if let Some(case) = all.last_mut()
            && !line.starts_with("#:")
        {
            case.body.push_str(line);
            case.body.push('\n');
        }
    }
    all
}

impl Case<'_> {
    /// The half that it belongs to. Rules are written with the first half alone.
    fn half(&self) -> usize {
        let hash = self.name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        usize::from((hash >> 7) % 2 == 1)
    }

    /// The body without the files that `--- PATH` begins, and these files.
    pub(in crate::doctor) fn files(&self) -> (&str, Vec<(&str, &str)>) {
        let mut parts = self.body.split("--- ");
        let body = parts.next().unwrap();
        (body, parts.map(|part| part.split_once('\n').unwrap()).collect())
    }

    pub(in crate::doctor) fn driver(&self) -> Option<crate::compat::Version> {
        let (_, rest) = self.target.split_once("driver=")?;
        Some(driver::version(rest.split(' ').next().unwrap()).unwrap())
    }

    pub(in crate::doctor) fn gpu(&self) -> Option<&str> {
        self.target.split_once("gpu=").map(|(_, name)| name)
    }

    /// Whether the report has the expected findings, and no other bad one.
    fn is_met(&self, report: &Report) -> bool {
        let named = |f: &Finding| format!("{}:{}", f.severity.name(), f.check.number);
        let all: BTreeSet<String> = report.findings.iter().map(named).collect();
        let bad = all
            .iter()
            .filter(|f| f.starts_with("warn") || f.starts_with("fail"));
        let words: Vec<&str> = self.expected.split(' ').filter(|w| *w != "ok").collect();
        let allowed = |f: &&String| words.iter().any(|w| w.trim_start_matches('?') == f.as_str());
        let must = |word: &&&str| !word.starts_with(['?', '!']);
        let absent = words.iter().filter_map(|w| w.strip_prefix('!'));
        bad.clone().all(|f| allowed(&f))
            && words.iter().filter(must).all(|w| all.contains(*w))
            && absent.clone().all(|n| all.iter().all(|f| !f.ends_with(n)))
    }
}

/// Scores a corpus: right and total of each half, and the failures of the first one.
pub(in crate::doctor) fn score(
    text: &str,
    report: impl Fn(&Case<'_>) -> Report,
) -> ([(usize, usize); 2], String) {
    let mut halves = [(0, 0); 2];
    let mut wrong = String::new();
    for case in cases(text) {
        let report = report(&case);
        let half = case.half();
        halves[half].1 += 1;
        if case.is_met(&report) {
            halves[half].0 += 1;
        } else if half == 0 {
            wrong.push_str(&format!(
                "{} -> {}\n{}\n",
                case.name,
                case.expected,
                report.to_text(false)
            ));
        }
    }
    (halves, wrong)
}

/// Scores a corpus, and compares the score with the recorded one.
pub(in crate::doctor) fn assess(
    text: &str,
    gaps: usize,
    scored: usize,
    report: impl Fn(&Case<'_>) -> Report,
) {
    use std::io::Write as _;
    let (halves, wrong) = score(text, report);
    // Shown with `--nocapture`.
    let _ = writeln!(std::io::stderr(), "{}: {halves:?}", &text[..text.len().min(24)]);
    assert!(
        halves[0].0 + gaps >= halves[0].1 && halves[1].0 >= scored,
        "{halves:?}\n{wrong}"
    );
}

/// A library with dependencies, paths, and device code: `needed=a,b runpath=$ORIGIN sm=80,86
/// ptx=86:8.4`.
pub(super) fn library(words: &[&str]) -> Vec<u8> {
    const DT: [(&str, u64); 3] = [("needed", 1), ("rpath", 15), ("runpath", 29)];
    let mut code = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let Some(archs) = word.strip_prefix("sm=") else {
            continue;
        };
        let mut entries: Vec<Vec<u8>> = archs
            .split(',')
            .map(|a| entry(2, a.parse().unwrap(), (1, 7), 8))
            .collect();
        let ptx = words
            .get(at + 1)
            .and_then(|w| w.strip_prefix("ptx=")?.split_once(':'));
        if let Some((arch, version)) = ptx {
            let (major, minor) = version.split_once('.').unwrap();
            entries.push(entry(
                1,
                arch.parse().unwrap(),
                (major.parse().unwrap(), minor.parse().unwrap()),
                8,
            ));
        }
        code.extend(container_of(&entries));
    }
    let mut file = elf_with(&[(".nv_fatbin", code)]);
    let mut strings = vec![0];
    let mut dynamic: Vec<(u64, u64)> = Vec::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            continue;
        };
        let Some((_, tag)) = DT.iter().find(|(name, _)| *name == key) else {
            continue;
        };
        let values: Vec<&str> = if key == "needed" {
            value.split(',').collect()
        } else {
            vec![value]
        };
        for value in values {
            dynamic.push((*tag, strings.len() as u64));
            strings.extend(value.bytes());
            strings.push(0);
        }
    }
    file.resize(file.len().next_multiple_of(8), 0);
    let strings_at = file.len() as u64;
    file.extend(&strings);
    file.resize(file.len().next_multiple_of(8), 0);
    let dynamic_at = file.len() as u64;
    dynamic.extend([(5, strings_at), (0, 0)]);
    for (tag, value) in &dynamic {
        file.extend(tag.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    let table = file.len() as u64;
    let end = table + 2 * 56;
    for (kind, at, size) in [(1_u32, 0, end), (2, dynamic_at, dynamic.len() as u64 * 16)] {
        let mut h = vec![0; 56];
        h[..4].copy_from_slice(&kind.to_le_bytes());
        for (place, value) in [(8, at), (16, at), (32, size), (40, size)] {
            h[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
        file.extend(h);
    }
    file[16..18].copy_from_slice(&3_u16.to_le_bytes());
    file[18..20].copy_from_slice(&62_u16.to_le_bytes());
    file[32..40].copy_from_slice(&table.to_le_bytes());
    file[54..56].copy_from_slice(&56_u16.to_le_bytes());
    file[56..58].copy_from_slice(&2_u16.to_le_bytes());
    file
}

/// Expands the short forms in a case's path: `$N/cublas` is `…/nvidia/cublas/lib`.
fn place(path: &str) -> String {
    const SITE: &str = "usr/local/lib/python3.10/site-packages";
    let path = match path.split_once("$N/") {
        Some((before, rest)) => {
            let (package, below) = rest.split_once('/').unwrap_or((rest, ""));
            format!("{before}$S/nvidia/{package}/lib/{below}")
        }
        None => path.to_owned(),
    };
    path.replace("$S", SITE)
        .replace("$C", "usr/local/cuda/targets/x86_64-linux/lib")
        .replace("$L", "usr/lib/x86_64-linux-gnu")
        .trim_end_matches('/')
        .to_owned()
}

/// Makes the root of a case, and its configuration if it has one.
fn make(body: &str, dir: &Path) -> Option<ImageConfig> {
    let mut config: Option<ImageConfig> = None;
    let write = |path: &str, bytes: &[u8]| {
        let path = dir.join(place(path));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let package = |site: &str, name: &str, version: &str, requires: &[&str]| {
        let mut text = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
        for one in requires {
            text.push_str(&format!("Requires-Dist: {one}\n"));
        }
        write(
            &format!("{site}/{}-{version}.dist-info/METADATA", name.replace('-', "_")),
            text.as_bytes(),
        );
    };
    for line in body.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["env", pair] => {
                let (name, value) = pair.split_once('=').unwrap();
                let value: Vec<String> = value
                    .split(':')
                    .map(|d| {
                        if d.contains('$') {
                            format!("/{}", place(d.trim_start_matches('/')))
                        } else {
                            d.to_owned()
                        }
                    })
                    .collect();
                config
                    .get_or_insert_default()
                    .env
                    .push((name.to_owned(), value.join(":")));
            }
            ["arch", arch] => config.get_or_insert_default().architecture = (*arch).to_owned(),
            ["pkg", site, name, version, requires @ ..] => package(site, name, version, requires),
            ["torch", site, version, cuda] => {
                package(site, "torch", version, &[]);
                let cuda = if *cuda == "None" {
                    "None".to_owned()
                } else {
                    format!("'{cuda}'")
                };
                let text = format!("__version__ = '{version}'\ncuda: Optional[str] = {cuda}\n");
                write(&format!("{site}/torch/version.py"), text.as_bytes());
            }
            ["ort", site, version, cuda, name] => {
                package(site, name, version, &[]);
                let cuda = if *cuda == "-" {
                    String::new()
                } else {
                    format!("cuda_version = '{cuda}'\n")
                };
                let text = format!("package_name = '{name}'\n__version__ = '{version}'\n{cuda}");
                write(
                    &format!("{site}/onnxruntime/capi/build_and_package_info.py"),
                    text.as_bytes(),
                );
            }
            ["tf", site, version, cuda, cudnn] => {
                package(site, "tensorflow", version, &[]);
                let text = match *cuda {
                    "-" => "('is_cuda_build', False)".to_owned(),
                    cuda => format!(
                        "('cuda_version', '{cuda}'), ('cudnn_version', '{cudnn}'), ('is_cuda_build', True)"
                    ),
                };
                let text = format!("build_info = collections.OrderedDict([{text}])\n");
                write(
                    &format!("{site}/tensorflow/python/platform/build_info.py"),
                    text.as_bytes(),
                );
            }
            ["lib", path, rest @ ..] => write(path, &library(rest)),
            ["files", at, names @ ..] => names
                .iter()
                .for_each(|n| write(&format!("{at}/{n}"), &library(&[]))),
            ["link", path, target] => {
                let path = dir.join(place(path));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(target, path).unwrap();
            }
            ["text", path, rest @ ..] => write(path, (rest.join(" ").replace('|', "\n") + "\n").as_bytes()),
            _ => panic!("{line}"),
        }
    }
    config
}

fn target_of(case: &Case<'_>) -> Target {
    let gpus = case.gpu().into_iter().map(|name| Gpu::named(name).unwrap());
    Target {
        driver: case.driver(),
        platform: Platform::Linux,
        gpus: gpus.collect(),
    }
}

fn report_of(case: &Case<'_>) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let config = make(&case.body, dir.path());
    let image = Image {
        title: case.name.to_owned(),
        root: Root::open(dir.path()).unwrap(),
        config,
        notes: Vec::new(),
        scratch: None,
    };
    let target = target_of(case);
    let budget = Budget::default();
    let report = report(&image, &target, &budget, &mut Silent);
    budget.check().unwrap();
    report
}

#[test]
fn corpus() {
    for (text, gaps, scored) in CORPORA {
        assess(text, gaps, scored, report_of);
    }
}

/// The corpora, with the known gaps of each one's first half, and the right cases of its second
/// half, which no rule was written with.
const CORPORA: [(&str, usize, usize); 3] = [
    (include_str!("tests/corpus.txt"), 0, 25),
    (include_str!("tests/public.txt"), 0, 20),
    (include_str!("tests/fresh.txt"), 0, 6),
];

/// An archive keeps enough: it gives the same findings as the directory.
#[test]
fn archives_give_the_same() {
    use super::tar::tests::{archive, entry};
    use std::os::unix::ffi::OsStrExt as _;
    for case in cases(include_str!("tests/corpus.txt")) {
        let dir = tempfile::tempdir().unwrap();
        let config = make(&case.body, dir.path()).unwrap_or_default();
        let target = target_of(&case);
        let mut entries: Vec<Vec<u8>> = Vec::new();
        for path in files_below(dir.path()) {
            let name = path
                .strip_prefix(dir.path())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            for (at, _) in name.match_indices('/') {
                entries.push(entry(&name[..=at], b'5', "", b""));
            }
            entries.push(match std::fs::read_link(&path) {
                Ok(link) => entry(
                    &name,
                    b'2',
                    std::str::from_utf8(link.as_os_str().as_bytes()).unwrap(),
                    b"",
                ),
                Err(_) => entry(&name, b'0', "", &std::fs::read(&path).unwrap()),
            });
        }
        let env: Vec<String> = config
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let json = serde_json::json!({ "architecture": config.architecture, "config": { "Env": env } });
        let manifest = serde_json::json!([{ "Config": "c.json", "Layers": ["l.tar"] }]);
        let saved = archive(&[
            entry("l.tar", b'0', "", &archive(&entries)),
            entry("c.json", b'0', "", json.to_string().as_bytes()),
            entry("manifest.json", b'0', "", manifest.to_string().as_bytes()),
        ]);
        let directory = Image {
            title: case.name.to_owned(),
            root: Root::open(dir.path()).unwrap(),
            config: Some(config),
            notes: Vec::new(),
            scratch: None,
        };
        let packed = archive::read(saved.as_slice(), case.name, &Budget::default(), &mut Silent).unwrap();
        let of = |image: &Image| {
            let budget = Budget::default();
            let report = report(image, &target, &budget, &mut Silent);
            budget.check().unwrap();
            report.to_text(false)
        };
        assert_eq!(of(&packed), of(&directory), "{}", case.name);
    }
}

/// A deterministic source of numbers.
pub(in crate::doctor) struct Random(u64);

impl Random {
    pub(in crate::doctor) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Below `end`, which is not 0.
    pub(in crate::doctor) fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    /// `bytes` with some parts changed, removed, repeated, or replaced by special values.
    pub(in crate::doctor) fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        const SPECIAL: [&[u8]; 16] = [
            b"",
            b"\0",
            b"\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"[",
            b"==",
            b"$",
            b"${",
            b"-",
            b"+",
            b":",
            b",",
            b"\n",
            b"99999999999999999999",
            "\u{e4}".as_bytes(),
            b"+cu",
        ];
        let mut all = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(all.len() + 1);
            let end = (at + self.below(32)).min(all.len());
            match self.below(4) {
                0 => drop(all.drain(at..end)),
                1 => {
                    let part = all[at..end].to_vec();
                    all.splice(at..at, part);
                }
                2 if at < all.len() => all[at] ^= 1 << self.below(8),
                _ => drop(all.splice(
                    at..end.min(at + 4),
                    SPECIAL[self.below(SPECIAL.len())].iter().copied(),
                )),
            }
        }
        all
    }
}

/// All files and links below a directory.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => all.extend(files_below(&entry.path())),
            _ => all.push(entry.path()),
        }
    }
    all.sort();
    all
}

/// No change of a file or a variable makes an image panic or take long.
#[test]
fn mutated_images() {
    let cases: Vec<Case<'_>> = CORPORA.iter().flat_map(|(text, ..)| cases(text)).collect();
    let each = 1000 / cases.len() + 1;
    let mut random = Random::new(22);
    for case in &cases {
        let dir = tempfile::tempdir().unwrap();
        let config = make(&case.body, dir.path());
        let mut files = files_below(dir.path());
        files.retain(|path| !path.is_symlink());
        for _ in 0..each {
            let path = &files[random.below(files.len())];
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, random.mutated(&bytes)).unwrap();
            let mut config = config.clone();
            for (_, value) in config.iter_mut().flat_map(|c| &mut c.env) {
                *value = String::from_utf8_lossy(&random.mutated(value.as_bytes())).into_owned();
            }
            let image = Image {
                title: case.name.to_owned(),
                root: Root::open(dir.path()).unwrap(),
                config,
                notes: Vec::new(),
                scratch: None,
            };
            let gpu = ["sm_86", "sm_120", "sm_61", "Orin"][random.below(4)];
            let target = Target {
                driver: driver::version(["470.256.02", "580.65.06"][random.below(2)]),
                platform: [Platform::Linux, Platform::Windows][random.below(2)],
                gpus: Gpu::named(gpu).into_iter().collect(),
            };
            let start = processor_time();
            report(&image, &target, &Budget::default(), &mut Silent).to_text(false);
            assert!(
                processor_time().saturating_sub(start).as_secs() < 1,
                "{}",
                case.name
            );
        }
    }
}

/// The thread's processor time, which other work of the machine does not change.
fn processor_time() -> std::time::Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// Many libraries with many dependencies and many directories end with the budget at the latest.
#[test]
fn many_libraries_end_soon() {
    let names: Vec<String> = (0..1000).map(|n| format!("libcublas.so.{n}")).collect();
    let words = format!("needed={},libcudart.so.12", names.join(","));
    let path: Vec<String> = (0..80).map(|n| format!("/d{n}")).collect();
    let mut body = format!("env LD_LIBRARY_PATH={}\n", path.join(":"));
    for n in 0..70 {
        body.push_str(&format!(
            "lib n{n}/libggml-cuda.so {words} runpath={}\n",
            path.join(":")
        ));
        body.push_str(&format!("files d{n} libcufft.so.{n}\n"));
    }
    let dir = tempfile::tempdir().unwrap();
    let image = Image {
        title: String::new(),
        config: make(&body, dir.path()),
        root: Root::open(dir.path()).unwrap(),
        notes: Vec::new(),
        scratch: None,
    };
    let target = Target {
        driver: None,
        platform: Platform::Linux,
        gpus: Vec::new(),
    };
    let budget = Budget::default();
    let start = processor_time();
    let report = report(&image, &target, &budget, &mut Silent);
    let took = processor_time().saturating_sub(start);
    assert!(took.as_secs() < 6, "{took:?}");
    assert!(budget.check().is_err() || report.verdict() == Severity::Fail);
}

/// A directory has no variables: each verdict that needs one is named with the variable.
#[test]
fn a_directory_names_the_verdicts_that_it_cannot_give() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target {
        driver: driver::version("580.65.06"),
        platform: Platform::Linux,
        gpus: Vec::new(),
    };
    let found = |config: Option<ImageConfig>| {
        let image = Image {
            title: "x".to_owned(),
            root: Root::open(dir.path()).unwrap(),
            config,
            notes: Vec::new(),
            scratch: None,
        };
        let report = report(&image, &target, &Budget::default(), &mut Silent);
        report.findings.into_iter().find(|f| f.check.number == 7319)
    };
    let finding = found(None).unwrap();
    assert_eq!(finding.severity, Severity::Info);
    for part in [
        "without PATH: ",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "NVIDIA_REQUIRE_*",
        "NVOCI-7310",
    ] {
        assert!(
            finding.evidence.iter().any(|e| e.contains(part)),
            "{part}: {finding:?}"
        );
    }
    assert_eq!(found(Some(ImageConfig::default())), None);
}
