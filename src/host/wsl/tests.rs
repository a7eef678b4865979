//! Chooses stores by the device's answer, on trees in the shape of a WSL2 machine.

use super::super::testhost::TestHost;
use super::super::{NodeKind, Platform};
use super::*;

const NEW: &str = "nv_dispi.inf_amd64_31dab972145ae5a9";
const OLD: &str = "nv_dispi.inf_amd64_0123456789abcdef";
const INTEL: &str = "iigd_dch.inf_amd64_5555aaaa5555aaaa";

/// The files of a machine with driver 555 that matter here.
fn machine() -> TestHost {
    let host = TestHost::bare();
    for name in [
        "libcuda.so",
        "libcuda.so.1",
        "libcuda.so.1.1",
        "libd3d12.so",
        "libdxcore.so",
        "libnvidia-ml.so.1",
        "nvidia-smi",
    ] {
        host.file(&format!("{}/{name}", &LIB_DIR[1..]), "stub");
    }
    for package in [NEW, OLD] {
        for name in [DRIVER, STUB_IN_STORE] {
            host.file(&format!("{}/{package}/{name}", &STORE_DIR[1..]), "stub");
        }
    }
    host.file(&format!("{}/{INTEL}/igd12umd64.dll", &STORE_DIR[1..]), "");
    host.file(
        "proc/sys/kernel/osrelease",
        "5.15.153.1-microsoft-standard-WSL2\n",
    );
    host
}

fn store(package: &str) -> PathBuf {
    Path::new(STORE_DIR).join(package)
}

fn nvidia(package: &str) -> Adapter {
    Adapter {
        ids: Some((NVIDIA, 0x2684)),
        wddm: Some(3100),
        driver: Some([32, 0, 15, 6636]),
        store: Some(store(package)),
        nvidia: true,
    }
}

fn intel() -> Adapter {
    Adapter {
        ids: Some((0x8086, 0xa780)),
        wddm: Some(3100),
        driver: None,
        store: Some(store(INTEL)),
        nvidia: false,
    }
}

fn settled(machine: &TestHost, answer: Answer) -> Host {
    let loc = machine.locations();
    let roots = Roots::open(&loc).unwrap();
    let mut host = Host::default();
    settle(&roots, &loc, &mut host, answer);
    host.platform = host.guess_platform(&roots);
    host
}

fn with(machine: &TestHost, adapters: Vec<Adapter>) -> Host {
    settled(machine, Answer::Adapters(adapters))
}

fn stores(host: &Host) -> Vec<PathBuf> {
    host.wsl.as_ref().unwrap().stores.clone()
}

fn fault(host: &Host) -> Fault {
    host.wsl.as_ref().unwrap().fault.clone().unwrap()
}

#[test]
fn the_package_of_the_device_counts_and_not_the_newest() {
    let host = with(&machine(), vec![intel(), nvidia(OLD)]);
    host.check_versions().unwrap();
    assert_eq!(host.platform, Platform::Wsl2);
    assert_eq!(host.warnings, Vec::<String>::new());
    assert_eq!(stores(&host), [store(OLD)]);
    assert_eq!(host.driver_version(), "566.36".parse().ok());
    let names: Vec<&str> = host.files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "libcuda.so",
            "libcuda.so.1",
            "libcuda.so.1.1",
            "libd3d12.so",
            "libdxcore.so",
            "libnvidia-ml.so.1",
            "nvidia-smi",
        ]
    );
    assert!(host.files.iter().all(|f| f.path.starts_with(LIB_DIR)));
}

#[test]
fn several_adapters_bring_each_package_once() {
    let adapters = vec![nvidia(NEW), intel(), nvidia(OLD), nvidia(NEW)];
    let host = with(&machine(), adapters);
    assert_eq!(stores(&host), [store(NEW), store(OLD)]);
    assert_eq!(host.wsl.as_ref().unwrap().nvidia().count(), 3);
}

#[test]
fn an_adapter_without_a_vendor_is_identified_by_its_package() {
    let mut silent = nvidia(NEW);
    (silent.ids, silent.nvidia, silent.driver) = (None, false, None);
    let mut other = intel();
    other.ids = None;
    let host = with(&machine(), vec![other, silent]);
    host.check_versions().unwrap();
    assert_eq!(stores(&host), [store(NEW)]);
    assert_eq!(host.driver_version(), None);
}

#[test]
fn one_broken_adapter_of_two_is_a_warning() {
    let host = with(&machine(), vec![nvidia("nv_gone"), nvidia(NEW)]);
    host.check_versions().unwrap();
    assert_eq!(stores(&host), [store(NEW)]);
    assert!(host.warnings[0].contains("nv_gone"), "{:?}", host.warnings);
}

#[test]
fn each_classic_failure_has_its_own_text() {
    let whole = machine();
    let mut old = nvidia(NEW);
    old.wddm = Some(2600);
    let mut silent = nvidia(NEW);
    silent.store = None;
    let mut empty = nvidia(INTEL);
    empty.wddm = None;
    for (adapters, expected, text) in [
        (vec![], Fault::NoAdapter, "no graphics adapter at all"),
        (
            vec![intel()],
            Fault::OtherVendors,
            "lends Intel 8086:a780, but no adapter of NVIDIA",
        ),
        (
            vec![old],
            Fault::TooOld(2600),
            "WDDM 2.6, and CUDA in WSL2 needs 2.7",
        ),
        (vec![silent], Fault::NoStore, "reports no driver package"),
        (
            vec![nvidia("nv_gone")],
            Fault::StoreGone(store("nv_gone")),
            "wsl --shutdown",
        ),
        (
            vec![empty],
            Fault::StoreWithoutDriver(store(INTEL)),
            "has no libcuda.so.1.1",
        ),
    ] {
        let host = with(&whole, adapters);
        assert_eq!(fault(&host), expected);
        assert_eq!(host.platform, Platform::Wsl2);
        let line = host.check_versions().unwrap_err().to_string();
        assert!(line.contains(text) && line.ends_with("[NVOCI-2005]"), "{line}");
        assert!(host.files.is_empty());
    }
}

#[test]
fn without_the_devices_answer_the_newest_package_comes_first_as_a_guess() {
    let machine = machine();
    let age = |package: &str, seconds: u64| {
        let path = machine.path().join(&STORE_DIR[1..]).join(package).join(DRIVER);
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    };
    age(OLD, 1000);
    let host = settled(&machine, Answer::Unknown("no".into()));
    host.check_versions().unwrap();
    assert_eq!(stores(&host), [store(NEW), store(OLD)]);
    assert!(host.wsl.as_ref().unwrap().guessed);
    assert!(
        host.warnings[0].contains("could not be queried") && host.warnings[0].contains(NEW),
        "{:?}",
        host.warnings
    );
    age(NEW, 2000);
    assert_eq!(
        stores(&settled(&machine, Answer::Unknown("no".into())))[0],
        store(OLD)
    );

    let none = settled(&TestHost::bare(), Answer::Unknown("no".into()));
    assert_eq!(fault(&none), Fault::NothingFound("no".into()));
}

#[test]
fn stubs_of_another_driver_are_pointed_out() {
    let machine = machine();
    machine.file(
        &format!("{}/{NEW}/{STUB_IN_STORE}", &STORE_DIR[1..]),
        "a longer one",
    );
    let host = with(&machine, vec![nvidia(NEW)]);
    host.check_versions().unwrap();
    assert!(host.warnings[0].contains("wsl --shutdown"), "{:?}", host.warnings);
}

#[test]
fn a_missing_stub_is_a_fault() {
    let machine = machine();
    std::fs::remove_file(machine.path().join(&LIB_DIR[1..]).join("libdxcore.so")).unwrap();
    let host = with(&machine, vec![nvidia(NEW)]);
    assert_eq!(fault(&host), Fault::NoStub("libdxcore.so"));
    assert!(host.files.is_empty());
}

#[test]
fn a_linux_driver_in_the_distribution_is_not_used() {
    let machine = machine();
    let dir = "usr/lib/x86_64-linux-gnu";
    machine.driver(
        dir,
        "550.163.01",
        &[("libcuda", "libcuda.so.1"), ("libnvidia-ml", "libnvidia-ml.so.1")],
    );
    machine.cache(&[
        ("libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.1"),
        ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"),
    ]);
    let host = with(&machine, vec![nvidia(NEW)]);
    assert!(host.files.iter().all(|f| f.path.starts_with(WSL_DIR)));
    assert!(host.warnings[0].contains("apt purge"), "{:?}", host.warnings);
}

/// Discovery on a machine without `/dev/dxg`.
#[test]
fn the_kernels_release_gives_the_generation_of_wsl() {
    for (release, expected, platform) in [
        ("4.4.0-19041-Microsoft\n", Some(Fault::Wsl1), Platform::None),
        (
            "5.15.153.1-microsoft-standard-WSL2\n",
            Some(Fault::NoDevice),
            Platform::Wsl2,
        ),
        ("6.6.36.6-custom-WSL2+\n", Some(Fault::NoDevice), Platform::Wsl2),
        ("6.8.0-45-generic\n", None, Platform::None),
    ] {
        let machine = machine();
        machine.file("proc/sys/kernel/osrelease", release);
        let host = machine.discover();
        assert_eq!(
            host.wsl.as_ref().and_then(|w| w.fault.clone()),
            expected,
            "{release}"
        );
        assert_eq!(host.platform, platform, "{release}");
        assert!(host.files.is_empty());
    }
}

/// A library, or a node without a driver, does not make an ordinary machine WSL.
#[test]
fn stray_files_do_not_fool_it() {
    let machine = machine();
    machine.file("proc/sys/kernel/osrelease", "6.8.0-45-generic\n");
    machine.file("dev/dxg", "not a device");
    assert_eq!(machine.discover().wsl, None);
    std::fs::remove_file(machine.path().join("dev/dxg")).unwrap();
    if machine.device("dxg", 10, 254, 0o666) {
        assert_eq!(machine.discover().wsl, None);
        machine.file(
            "proc/sys/kernel/osrelease",
            "5.15.153.1-microsoft-standard-WSL2\n",
        );
        let host = machine.discover();
        assert!(matches!(fault(&host), Fault::Closed(_)));
        assert_eq!(
            host.node(NodeKind::Dxg).map(|n| (n.number.major, n.number.minor)),
            Some((10, 254))
        );
    }
}

/// NVIDIA's own kernel module takes precedence.
#[test]
fn a_native_host_with_these_files_stays_native() {
    let machine = machine();
    machine.module("580.159.04", 1);
    assert_eq!(machine.discover().wsl, None);
}

#[test]
fn windows_paths() {
    let nv = Path::new("/usr/lib/wsl/drivers/nv_dispi.inf_amd64_31dab972145ae5a9");
    for (windows, expected) in [
        (
            r"C:\Windows\System32\DriverStore\FileRepository\nv_dispi.inf_amd64_31dab972145ae5a9",
            Some(nv),
        ),
        (
            r"\SystemRoot\system32\driverstore\FILEREPOSITORY\nv_dispi.inf_amd64_31dab972145ae5a9\",
            Some(nv),
        ),
        (r"C:\Windows\System32\nvidia", None),
        (r"C:\DriverStore\FileRepository\", None),
        (r"C:\DriverStore\FileRepository\..\..\etc", None),
        (r"C:\DriverStore\FileRepository\a\..\..\etc", None),
        (r"C:\DriverStore\FileRepository\\etc", None),
        ("C:\\DriverStore\\FileRepository\\a\0b", None),
        ("", None),
    ] {
        assert_eq!(store_here(windows).as_deref(), expected, "{windows}");
    }
}

#[test]
fn windows_versions() {
    let version = |driver| {
        Adapter {
            driver: Some(driver),
            nvidia: true,
            ..Adapter::default()
        }
        .nvidia_version()
    };
    assert_eq!(version([32, 0, 15, 6636]), "566.36".parse().ok());
    assert_eq!(version([27, 21, 14, 5167]), "451.67".parse().ok());
    assert_eq!(version([32, 0, 15, 8097]), "580.97".parse().ok());
    assert_eq!(version([32, 0, 15, 5601]), "556.01".parse().ok());
    assert_eq!(version([1, 2, 0, 4]), None);
}
