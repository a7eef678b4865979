//! UUIDs of MIG devices. The kernel module lists the devices without names; only NVIDIA's library
//! has their UUIDs.
//!
//! nvoci is static and loads no library. `nvoci-nvml`, a small glibc program beside it or in
//! `../lib/nvoci`, loads the library as user nobody. If it is not installed, nvoci runs the
//! driver's nvidia-smi, with the rights that nvoci has. Both have a time limit.
//!
//! The result is valid as long as driver and layout are the same, so it is kept. An instance that
//! is made again has the same numbers and another UUID, but its capability file in `/proc` is a new
//! one. A request for a UUID that the kept result lacks queries again. A failure is only a warning,
//! since MIG devices also have indices.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;

use crate::apply::record;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::host::{Gpu, Host, Roots};
use crate::request::{DeviceRequest, Selector};
use crate::sys::owned;
use crate::vocabulary::{GpuUuid, MigUuid, decimal, or_empty};

const PROGRAM: &str = "nvoci-nvml";
/// The packages' directory of the helper, below the directory above this program's.
const BELOW_PREFIX: &str = "lib/nvoci";
/// The last result, below [`record::RUN_DIR`].
const CACHE: &str = "mig";
/// NVML wakes sleeping GPUs, which takes seconds without persistence mode.
const LIMIT: Duration = Duration::from_secs(8);
const MAX_ANSWER: u64 = 64 << 10;

/// Finds the UUIDs of the host's MIG devices for a request; a failure becomes one of the host's
/// warnings.
pub(super) fn learn(host: &mut Host, roots: &Roots, request: &DeviceRequest) {
    if !host.gpus.iter().any(|g| !g.mig_devices.is_empty()) {
        return;
    }
    let named = match names(host, roots, request) {
        Ok(named) => named,
        Err(e) => {
            let warning = format!("MIG devices have only indices: {e}");
            return host.warnings.push(warning);
        }
    };
    for gpu in &mut host.gpus {
        for mig in &mut gpu.mig_devices {
            let its = |n: &&Name| (n.gpu, n.mig) == (gpu.index, mig.index);
            mig.uuid = named.iter().find(its).map(|n| n.uuid);
        }
    }
}

/// The UUID of one MIG device.
#[derive(Debug, Eq, PartialEq)]
struct Name {
    /// Index of the GPU.
    gpu: u32,
    /// Index of the MIG device there.
    mig: u32,
    uuid: MigUuid,
}

fn names(host: &Host, roots: &Roots, request: &DeviceRequest) -> Result<Vec<Name>> {
    let key = key(host, roots);
    let kept = kept(&key).map(|text| parse(&text, &host.gpus));
    current(kept, request, || {
        let text = query(host, roots)?;
        let found = parse(&text, &host.gpus);
        // An incomplete result is not kept. A failure to keep it only costs time.
        if found.len() == host.gpus.iter().map(|g| g.mig_devices.len()).sum::<usize>() {
            let _ = record::keep(CACHE, format!("{key}\n{text}").as_bytes());
        }
        Ok(found)
    })
}

/// The `kept` names, or those of a `query` if the request names another UUID.
fn current(
    kept: Option<Vec<Name>>,
    request: &DeviceRequest,
    query: impl FnOnce() -> Result<Vec<Name>>,
) -> Result<Vec<Name>> {
    match kept {
        Some(names) if has_all(&names, request) => Ok(names),
        _ => query(),
    }
}

fn has_all(names: &[Name], request: &DeviceRequest) -> bool {
    let DeviceRequest::List(selectors) = request else {
        return true;
    };
    selectors.iter().all(|selector| match selector {
        Selector::MigUuid(start) => {
            let is_it = |n: &Name| matches!(n.uuid, MigUuid::Own(own) if start.is_of(own));
            names.iter().any(is_it)
        }
        _ => true,
    })
}

/// Driver and layout, on one line.
fn key(host: &Host, roots: &Roots) -> String {
    let mut key = or_empty(host.driver_version());
    for gpu in &host.gpus {
        for mig in &gpu.mig_devices {
            let (gi, ci) = (mig.gi, mig.ci);
            let made = made(roots, &format!("{}/mig/gi{gi}/ci{ci}/access", gpu.minor));
            key.push_str(&format!(" {}/{gi}/{ci}/{made}", or_empty(gpu.uuid)));
        }
    }
    key
}

/// The inode of an instance's capability file and its time. Both are new if the module made the
/// file again. The kernel may also renew them without a change; then the names are queried again.
fn made(roots: &Roots, file: &str) -> String {
    let path = format!("driver/nvidia/capabilities/gpu{file}");
    let Ok(stat) = rustix::fs::statat(&roots.proc, path, AtFlags::SYMLINK_NOFOLLOW) else {
        return String::new();
    };
    format!("{}@{}.{}", stat.st_ino, stat.st_ctime, stat.st_ctime_nsec)
}

fn kept(key: &str) -> Option<String> {
    let text = record::Earlier::open().read_text(CACHE, MAX_ANSWER * 2)?;
    let (first, rest) = text.split_once('\n')?;
    (first == key).then(|| rest.to_owned())
}

fn query(host: &Host, roots: &Roots) -> Result<String> {
    let on_host = |file: &str| {
        let file = host.files.iter().find(|f| f.name.starts_with(file))?;
        Some(roots.driver_path.join(file.path.strip_prefix("/").ok()?))
    };
    if let (Some(program), Some(library)) = (program()?, on_host("libnvidia-ml.so.")) {
        owned::find(&library)?;
        return output_within(&program, &[library.as_os_str()], LIMIT);
    }
    // A definition is made without discovery of the driver's programs.
    let smi = on_host("nvidia-smi").unwrap_or_else(|| PathBuf::from("/usr/bin/nvidia-smi"));
    if roots.driver_path == Path::new("/") && owned::find(&smi)?.is_some() {
        return output_within(&smi, &["-L"], LIMIT);
    }
    Err(Error::new(
        Code::System,
        PROGRAM.to_owned(),
        "it is not installed, and neither is nvidia-smi",
    ))
}

/// The helper, beside this program or in the packages' directory.
fn program() -> Result<Option<PathBuf>> {
    let beside = std::env::current_exe().ok();
    let beside = beside.as_deref().and_then(Path::parent);
    let packaged = beside
        .and_then(Path::parent)
        .map(|prefix| prefix.join(BELOW_PREFIX));
    for dir in beside.map(Path::to_path_buf).into_iter().chain(packaged) {
        let path = dir.join(PROGRAM);
        if owned::find(&path)?.is_some() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Parses the helper's lines `mig GPU-… GI CI MIG-…`, or nvidia-smi's: `GPU 0: … (UUID: GPU-…)`,
/// each followed by its `  MIG … Device  1: (UUID: MIG-…)`.
fn parse(text: &str, gpus: &[Gpu]) -> Vec<Name> {
    let by_uuid = |uuid: &str| {
        let uuid: GpuUuid = uuid.parse().ok()?;
        gpus.iter().find(|g| g.uuid == Some(uuid))
    };
    let mut found = Vec::new();
    let mut current = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let ["mig", gpu, gi, ci, uuid] = words.as_slice()
            && let (Some(gpu), Some(gi), Some(ci)) = (by_uuid(gpu), decimal(gi), decimal(ci))
            && let Some(mig) = gpu.mig_devices.iter().find(|m| (m.gi, m.ci) == (gi, ci))
        {
            found.extend(name(gpu, mig.index, uuid));
            continue;
        }
        let Some((_, rest)) = line.split_once("(UUID: ") else {
            continue;
        };
        let Some((uuid, _)) = rest.split_once(')') else {
            continue;
        };
        if line.starts_with("GPU ") {
            current = by_uuid(uuid);
        } else if let (Some(gpu), Some((_, rest))) = (current, line.split_once(" Device "))
            && let Some(index) = rest.split_once(':').and_then(|(n, _)| decimal(n.trim()))
        {
            found.extend(name(gpu, index, uuid));
        }
    }
    found
}

fn name(gpu: &Gpu, mig: u32, uuid: &str) -> Option<Name> {
    let uuid = uuid.parse().ok()?;
    Some(Name {
        gpu: gpu.index,
        mig,
        uuid,
    })
}

/// The output of a program that ends successfully in time. It is read after the end, since it is
/// small.
pub(super) fn output_within(program: &Path, args: &[impl AsRef<OsStr>], limit: Duration) -> Result<String> {
    let what = || program.display().to_string();
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(Code::System, what)?;
    let until = Instant::now() + limit;
    loop {
        match child.try_wait().context(Code::System, what)? {
            Some(status) if status.success() => break,
            Some(status) => {
                return Err(Error::new(
                    Code::System,
                    what(),
                    format!("it ended with {status}"),
                ));
            }
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::new(Code::System, what(), "it did not end in time"));
            }
        }
    }
    let mut text = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(MAX_ANSWER)
            .read_to_end(&mut text)
            .context(Code::System, what)?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testhost::TestHost;
    use crate::vocabulary::{MigDevice, PciAddress, Uuid};

    fn gpu(index: u32, uuid: u128, mig: &[(u32, u32)]) -> Gpu {
        let device = |(index, (gi, ci)): (u32, &(u32, u32))| MigDevice {
            index,
            gi: *gi,
            ci: *ci,
            gi_minor: 0,
            ci_minor: 0,
            uuid: None,
        };
        Gpu {
            index,
            minor: index,
            uuid: Some(GpuUuid(Uuid::from_bits(uuid))),
            pci: PciAddress::default(),
            name: String::new(),
            excluded: false,
            mig_devices: (0..).zip(mig).map(device).collect(),
        }
    }

    /// Replaces `<n>` in a text by the UUID n.
    fn text(text: &str) -> String {
        (0..16).fold(text.to_owned(), |text, n| {
            text.replace(&format!("<{n}>"), &Uuid::from_bits(n).to_string())
        })
    }

    fn named(gpu: u32, mig: u32, uuid: u128) -> Name {
        Name {
            gpu,
            mig,
            uuid: MigUuid::Own(Uuid::from_bits(uuid)),
        }
    }

    #[test]
    fn the_helpers_answer_names_instances() {
        let gpus = [gpu(0, 10, &[]), gpu(1, 11, &[(1, 0), (2, 0)])];
        let answer = text(
            "mig GPU-<11> 2 0 MIG-<2>\nmig GPU-<11> 1 0 MIG-<1>\nmig GPU-<11> 9 0 MIG-<9>\n\
             mig GPU-<12> 1 0 MIG-<3>\nmig GPU-<11> 1 0\nend\n",
        );
        assert_eq!(parse(&answer, &gpus), [named(1, 1, 2), named(1, 0, 1)]);
        for bad in [
            "../../x",
            "MIG-../../x",
            "MIG-1",
            "GPU-<11>",
            "MIG-<1>/1/0",
            "MIG-GPU-<11>/+1/0",
        ] {
            assert_eq!(
                parse(&text(&format!("mig GPU-<11> 1 0 {bad}\n")), &gpus),
                [],
                "{bad}"
            );
        }
        // No result names a GPU whose UUID is unknown.
        let mut nameless = gpu(0, 0, &[(1, 0)]);
        nameless.uuid = None;
        assert_eq!(
            parse(&text("mig GPU- 1 0 MIG-<1>\nmig  1 0 MIG-<1>\n"), &[nameless]),
            []
        );
    }

    #[test]
    fn a_request_for_another_uuid_queries_again() {
        let request = |text: &str| DeviceRequest::List(vec![Selector::parse(text).unwrap()]);
        let mig = |n: u128| format!("MIG-{}", Uuid::from_bits(n));
        let kept = || Some(vec![named(0, 0, 1), named(0, 1, 2)]);
        let fresh = || Ok(vec![named(0, 0, 3), named(0, 1, 2)]);
        let not_needed = || panic!("it has all");
        let all_kept = |request: &DeviceRequest| current(kept(), request, not_needed).unwrap();
        assert_eq!(all_kept(&request(&mig(1))), kept().unwrap());
        assert_eq!(all_kept(&request("0:1")), kept().unwrap());
        assert_eq!(all_kept(&DeviceRequest::All), kept().unwrap());
        assert_eq!(
            current(kept(), &request(&mig(3)), fresh).unwrap(),
            fresh().unwrap()
        );
        assert_eq!(current(None, &request(&mig(1)), fresh).unwrap(), fresh().unwrap());
    }

    #[test]
    fn an_instance_that_is_made_again_has_another_key() {
        let host = TestHost::bare();
        host.module("550.54.15", 1);
        let dir = "proc/driver/nvidia/capabilities/gpu0/mig/gi1";
        let make = || {
            host.file(&format!("{dir}/access"), "DeviceFileMinor: 10\n");
            host.file(&format!("{dir}/ci0/access"), "DeviceFileMinor: 11\n");
        };
        let key = || key(&host.discover(), &host.roots());
        make();
        let first = key();
        assert!(first.contains("/1/0/"), "{first}");
        assert_eq!(key(), first);
        // `nvidia-smi mig -dci`, then `-cci`.
        std::fs::remove_dir_all(host.path().join(dir).join("ci0")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        make();
        assert_ne!(key(), first);
    }

    #[test]
    fn nvidia_smis_answer_names_indices() {
        let answer = text(
            "GPU 0: NVIDIA A100 (UUID: GPU-<11>)\n  MIG 3g.20gb     Device  0: (UUID: MIG-<1>)\n\
             \x20 MIG 3g.20gb     Device  1: (UUID: MIG-<2>)\nGPU 1: NVIDIA A100 (UUID: GPU-<12>)\n\
             \x20 MIG 1g.5gb     Device  0: (UUID: MIG-<3>)\nGPU 2: NVIDIA A100 (UUID: GPU-<10>)\n",
        );
        let found = parse(&answer, &[gpu(0, 10, &[]), gpu(1, 11, &[])]);
        assert_eq!(found, [named(1, 0, 1), named(1, 1, 2)]);
        // Drivers before 470.
        let old = text("GPU 0: A100 (UUID: GPU-<11>)\n  MIG 1g.5gb Device 0: (UUID: MIG-GPU-<11>/7/0)\n");
        let found = parse(&old, &[gpu(1, 11, &[])]);
        let gpu = GpuUuid(Uuid::from_bits(11));
        assert_eq!(found[0].uuid, MigUuid::Instance { gpu, gi: 7, ci: 0 });
    }

    #[test]
    fn only_a_program_that_succeeds_in_time_has_output() {
        let sh = Path::new("/bin/sh");
        let run = |script: &str| output_within(sh, &["-c", script], Duration::from_millis(300));
        assert_eq!(run("echo end").unwrap(), "end\n");
        assert!(run("exit 3").unwrap_err().to_string().contains("exit status: 3"));
        assert!(
            run("kill -SEGV $$")
                .unwrap_err()
                .to_string()
                .contains("signal: 11")
        );
        assert!(run("sleep 9").unwrap_err().to_string().contains("in time"));
    }
}
