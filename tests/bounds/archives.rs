//! Small image archives that cost their reader much.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use crate::{ARCHIVE, program, refused, run};

const SITE: &str = "usr/lib/python3/dist-packages";

/// A header of tar.
fn header(name: &str, flag: u8, link: &str, size: usize) -> [u8; 512] {
    let mut block = [0; 512];
    let (prefix, name) = match name.len() {
        0..=100 => ("", name),
        _ => name.split_at(name.rfind('/').unwrap()),
    };
    let name = name.trim_start_matches('/');
    for (at, text) in [
        (0, name),
        (100, "0000644"),
        (157, link),
        (257, "ustar\x0000"),
        (345, prefix),
    ] {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = flag;
    sum(&mut block);
    block
}

fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// An entry of tar with its data.
fn entry(name: &str, flag: u8, link: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, flag, link, data.len()).to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// The packed output of `write`: a member that others may follow.
fn member(write: impl FnOnce(&mut dyn Write)) -> Vec<u8> {
    let mut out = BufWriter::with_capacity(1 << 20, GzEncoder::new(Vec::new(), Compression::fast()));
    write(&mut out);
    out.into_inner().unwrap().finish().unwrap()
}

/// A layer of these entries.
fn layer(entries: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    member(|out| {
        for bytes in entries {
            out.write_all(&bytes).unwrap();
        }
        out.write_all(&[0; 1024]).unwrap();
    })
}

/// An archive of `docker save` with these layers.
fn docker_save(layers: &[Vec<u8>], config: &[u8]) -> (TempDir, PathBuf) {
    let names: Vec<String> = (0..layers.len()).map(|i| format!("\"{i}/layer.tar\"")).collect();
    docker_save_as(layers, config, &names.join(","))
}

fn docker_save_as(layers: &[Vec<u8>], config: &[u8], names: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("image.tar");
    let mut out = BufWriter::new(File::create(&path).unwrap());
    let manifest = format!("[{{\"Config\":\"config.json\",\"Layers\":[{names}]}}]");
    for (i, layer) in layers.iter().enumerate() {
        out.write_all(&entry(&format!("{i}/layer.tar"), b'0', "", layer))
            .unwrap();
    }
    out.write_all(&entry("config.json", b'0', "", config)).unwrap();
    out.write_all(&entry("manifest.json", b'0', "", manifest.as_bytes()))
        .unwrap();
    out.write_all(&[0; 1024]).unwrap();
    out.flush().unwrap();
    (dir, path)
}

const CONFIG: &[u8] = b"{\"architecture\":\"amd64\",\"config\":{\"Env\":[\"PATH=/usr/bin\"]}}";

/// PyTorch for CUDA 12.1, so that its libraries are read.
fn torch() -> Vec<Vec<u8>> {
    let version = b"__version__ = '2.1.0+cu121'\ncuda = '12.1'\nhip = None\n";
    vec![entry(&format!("{SITE}/torch/version.py"), b'0', "", version)]
}

fn doctor(path: &Path) -> [&std::ffi::OsStr; 5] {
    let [doctor, image, driver, version] = ["doctor", "image", "--driver", "550.54.14"].map(AsRef::as_ref);
    [doctor, image, path.as_os_str(), driver, version]
}

/// The command ends with a verdict.
fn judged(path: &Path) -> String {
    let output = run(ARCHIVE, &doctor(path), None);
    let text = String::from_utf8(output.stdout).unwrap();
    let verdict = text.lines().last().unwrap_or_default();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        verdict.starts_with("verdict: ") && message.is_empty(),
        "{verdict} {message}"
    );
    text
}

/// The command needs more than its budget.
fn too_large(path: &Path) {
    refused(ARCHIVE, &doctor(path), None, "1107");
}

#[test]
fn archives_with_long_link_targets() {
    let target = [b't'; 4000];
    let links = (0..80_000).map(|i| {
        let long = entry("././@LongLink", b'K', "", &target);
        [long, entry(&format!("usr/{i}"), b'2', "x", b"")].concat()
    });
    too_large(&docker_save(&[layer(links)], CONFIG).1);
}

/// A layer of `n` entries; the ten zeros in their names become a number.
fn numbered(n: usize, name: &str, flag: u8) -> Vec<u8> {
    let mut block = header(name, flag, "", 0);
    let at = block.windows(10).position(|w| w == b"0000000000").unwrap();
    member(|out| {
        for i in 0..n {
            block[at..at + 10].copy_from_slice(format!("{i:010}").as_bytes());
            sum(&mut block);
            out.write_all(&block).unwrap();
        }
    })
}

#[test]
fn archives_with_many_entries() {
    let name = format!("{}/{}0000000000", "p".repeat(150), "n".repeat(80));
    too_large(&docker_save(&[numbered(700_000, &name, b'5')], CONFIG).1);
}

/// A whiteout is an entry too.
#[test]
fn archives_with_many_whiteouts() {
    let name = format!("{}/.wh.{}0000000000", "p".repeat(150), "n".repeat(80));
    too_large(&docker_save(&[numbered(700_000, &name, b'0')], CONFIG).1);
}

#[test]
fn archives_with_large_json() {
    let dense = [b"[0".to_vec(), b",0".repeat(7 << 20), b"]".to_vec()].concat();
    too_large(&docker_save(&[layer(torch())], &dense).1);
    // Blobs that the image does not need are not read.
    let (dir, path) = docker_save(&[layer(torch())], CONFIG);
    let image = fs::read(&path).unwrap();
    let with = dir.path().join("with.tar");
    fs::write(&with, [entry("sbom", b'0', "", &dense), image].concat()).unwrap();
    assert!(judged(&with).contains("PyTorch"));
    let deep = b"[".repeat(100_000);
    judged(&docker_save(&[layer(torch())], &deep).1);
}

/// Extended headers of 1 MiB each.
#[test]
fn archives_with_header_bombs() {
    let once = member(|out| {
        let bomb = entry("x", b'x', "", &vec![0; 1 << 20]);
        (0..64).for_each(|_| out.write_all(&bomb).unwrap());
    });
    too_large(&docker_save(&[once.repeat(20)], CONFIG).1);
}

/// Each needs an inode, and in the old form a block.
#[test]
fn archives_with_many_tiny_files() {
    let files = (0..150_000).map(|i| entry(&format!("{i}/bin/python3"), b'0', "", b"#"));
    too_large(&docker_save(&[layer(files)], CONFIG).1);
}

/// 3 MB that unpack to 640 MB of kept files.
#[test]
fn archives_with_large_files_that_are_kept() {
    let file = vec![b'c'; 16 << 20];
    let one = |i| {
        member(|out| {
            out.write_all(&entry(&format!("{i}/libc.so.6"), b'0', "", &file))
                .unwrap();
        })
    };
    let layer: Vec<u8> = (0..40).flat_map(one).collect();
    too_large(&docker_save(&[layer], CONFIG).1);
}

/// A library of one section with device code.
fn library(code: &[u8]) -> Vec<u8> {
    let names = b"\0.nv_fatbin\0.shstrtab\0";
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let mut table = vec![0; 64];
    for (name, kind, bytes) in [(1_u32, 1_u32, code), (12, 3, names)] {
        file.resize(file.len().next_multiple_of(8), 0);
        let mut row = vec![0; 64];
        row[..4].copy_from_slice(&name.to_le_bytes());
        row[4..8].copy_from_slice(&kind.to_le_bytes());
        row[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
        row[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        table.extend(row);
        file.extend(bytes);
    }
    file.resize(file.len().next_multiple_of(8), 0);
    let at = file.len() as u64;
    file[0x28..0x30].copy_from_slice(&at.to_le_bytes());
    for (place, value) in [(0x3a, 64_u16), (0x3c, 3), (0x3e, 2)] {
        file[place..place + 2].copy_from_slice(&value.to_le_bytes());
    }
    file.extend(table);
    file
}

/// One container of `n` entries of 64 bytes, machine code for sm_80.
fn device_code(n: usize) -> Vec<u8> {
    let mut one = [0; 64];
    one[0] = 2;
    one[4] = 64;
    one[0x1c] = 80;
    let mut code = 0x0010_0001_ba55_ed50_u64.to_le_bytes().to_vec();
    code.extend((n as u64 * 64).to_le_bytes());
    code.extend(one.repeat(n));
    code
}

#[test]
fn archives_with_many_names_of_one_fat_binary() {
    let first = format!("{SITE}/torch/lib/libtorch_cuda.so");
    let mut entries = torch();
    entries.push(entry(&first, b'0', "", &library(&device_code(240_000))));
    entries.extend((0..600).map(|i| {
        entry(
            &format!("{SITE}/torch/lib/libtorch_cuda.so.{i}"),
            b'1',
            &first,
            b"",
        )
    }));
    let text = judged(&docker_save(&[layer(entries)], CONFIG).1);
    assert!(text.contains("PyTorch 2.1.0+cu121"), "{text}");
}

/// One link without a usable target, and other entries that have no place, leave the rest as it is.
#[test]
fn archives_with_entries_that_have_no_place() {
    let mut entries = torch();
    let long = |flag, text: &[u8]| entry("././@LongLink", flag, "", text);
    entries.extend([
        entry("usr/empty", b'2', "", b""),
        long(b'K', &[b't'; 5000]),
        entry("usr/far", b'2', "x", b""),
        long(b'L', &[b'n'; 300]),
        entry("x", b'2', "target", b""),
        long(b'L', &b"d/".repeat(4000)),
        entry("x", b'5', "", b""),
        long(b'L', b"usr/a\nb"),
        entry("x", b'5', "", b""),
        entry("../../etc/ld.so.conf", b'0', "", b"/evil"),
        entry("dev/null", b'3', "", b""),
        entry("usr/lib/libcuda.so.1", b'1', "../../etc/passwd", b""),
    ]);
    let text = judged(&docker_save(&[layer(entries)], CONFIG).1);
    assert!(text.contains("PyTorch 2.1.0+cu121"), "{text}");
    assert!(text.contains("8 entries were left out"), "{text}");
}

/// A binary number in a field of eight bytes.
#[test]
fn archives_with_binary_numbers() {
    for field in [
        [0x80, 0, 0, 0, 0, 0, 0, 0],
        [0xff; 8],
        [0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ] {
        let mut block = header("usr", b'5', "", 0);
        block[148..156].copy_from_slice(&field);
        judged(&docker_save(&[layer([block.to_vec()])], CONFIG).1);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        fs::write(&path, block).unwrap();
        refused(ARCHIVE, &doctor(&path), None, "1104");
    }
}

/// Blocks of one repeated byte: 256 kB unpack to 8 GiB.
#[test]
fn archives_with_zstd_bombs() {
    let raw = |data: &[u8], kind: u32, len: u32| {
        let block = kind << 1 | len << 3;
        [&block.to_le_bytes()[..3], data].concat()
    };
    let mut big = header("big", b'0', "", 0);
    big[124..135].copy_from_slice(b"77777777777");
    sum(&mut big);
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x58];
    bytes.extend(raw(&big, 0, 512));
    bytes.extend(raw(b"\0", 1, 128 << 10).repeat(1 << 16));
    too_large(&docker_save(&[bytes], CONFIG).1);
}

/// 300 names of one layer, in a directory.
#[test]
fn archives_with_many_names_of_one_layer() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let blobs = dir.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let bytes = member(|out| {
        out.write_all(&entry("big", b'0', "", &vec![0; 64 << 20]))
            .unwrap();
    });
    fs::write(blobs.join("0"), bytes).unwrap();
    (1..300).for_each(|i| fs::hard_link(blobs.join("0"), blobs.join(i.to_string())).unwrap());
    let digests: Vec<String> = (0..300)
        .map(|i| format!("{{\"digest\":\"sha256:{i}\"}}"))
        .collect();
    let manifest = format!(
        "{{\"config\":{{\"digest\":\"sha256:c\"}},\"layers\":[{}]}}",
        digests.join(",")
    );
    fs::write(blobs.join("m"), manifest).unwrap();
    fs::write(blobs.join("c"), CONFIG).unwrap();
    fs::write(
        dir.path().join("index.json"),
        "{\"manifests\":[{\"digest\":\"sha256:m\"}]}",
    )
    .unwrap();
    fs::write(dir.path().join("oci-layout"), "{}").unwrap();
    too_large(dir.path());
}

#[test]
fn archives_that_repeat_a_layer() {
    let dirs = (0..20_000).map(|i| entry(&format!("usr/{i}"), b'5', "", b""));
    let names = vec!["\"0/layer.tar\""; 20_000].join(",");
    too_large(&docker_save_as(&[layer(dirs)], CONFIG, &names).1);
    let few = vec!["\"0/layer.tar\""; 100].join(",");
    judged(&docker_save_as(&[layer(torch())], CONFIG, &few).1);
}

/// A layer that takes some seconds.
fn slow() -> (TempDir, PathBuf) {
    let zeros = member(|out| {
        out.write_all(&entry("zeros", b'0', "", &vec![0; 64 << 20]))
            .unwrap();
    });
    let mut entries = member(|out| torch().iter().for_each(|e| out.write_all(e).unwrap()));
    entries.extend(zeros.repeat(15));
    docker_save(&[entries], CONFIG)
}

/// `stopped PROGRAM...` starts the program and stops it once its scratch directory is open
/// (`$pid`). No fixed sleep would be right for every machine.
const STOPPED: &str = r#"
stopped() {
    "$@" >/dev/null & pid=$!
    until ls -l "/proc/$pid/fd" | grep -q ' -> .*/files$'; do
        kill -0 $pid || { echo "ended too early"; return; }
    done
    kill -STOP $pid
}
"#;

/// Runs a script with a `/tmp` of its own; `$1` is the program and `$2` the image.
fn with_own_tmp(script: &str, image: &Path) -> Option<Output> {
    let script = format!("mount -t tmpfs -o size=1g,mode=1777 none /tmp || exit 77\n{STOPPED}\n{script}");
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script, "sh"])
        .arg(program())
        .arg(image)
        .output()
        .unwrap();
    // Not root, or no namespaces: the test cannot run.
    let can = output.status.code() != Some(77) && !output.stderr.starts_with(b"unshare:");
    if !can {
        let why = String::from_utf8_lossy(&output.stderr);
        let _ = writeln!(std::io::stderr(), "SKIP: {why}");
    }
    can.then_some(output)
}

#[test]
fn archives_whose_reader_is_killed_leave_nothing() {
    let (_dir, image) = slow();
    let script = "stopped \"$1\" doctor image \"$2\" --driver 550.54.14
        kill -9 $pid && wait $pid; ls -A /tmp";
    if let Some(output) = with_own_tmp(script, &image) {
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "left behind");
    }
}

/// Without the right to mount, the next run removes a killed one's files, and no others.
#[test]
fn archives_whose_reader_is_killed_without_rights_are_cleared_by_the_next() {
    let (_dir, image) = slow();
    let (_small_dir, small) = docker_save(&[layer(torch())], CONFIG);
    let script = format!(
        "plain='setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin'
        stopped $plain \"$1\" doctor image \"$2\" --driver 550.54.14; kill -9 $pid; wait $pid
        stopped $plain \"$1\" doctor image \"$2\" --driver 550.54.14; ls -A /tmp | wc -l
        $plain \"$1\" doctor image '{}' --driver 550.54.14 >/dev/null
        kill -0 $pid && ls -A /tmp | wc -l
        kill -9 $pid; wait $pid
        $plain \"$1\" doctor image '{}' --driver 550.54.14 >/dev/null; ls -A /tmp | wc -l",
        small.display(),
        small.display()
    );
    if let Some(output) = with_own_tmp(&script, &image) {
        let counts = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            counts.split_whitespace().collect::<Vec<_>>(),
            ["1", "1", "0"],
            "{output:?}"
        );
    }
}
