//! Parses files of `/proc` with procfs-core, lists line by line.
//!
//! Processes choose their names, and users choose those of mount points, mapped files and cgroups.
//! procfs-core refuses a whole list for one line that is not UTF-8 or malformed, so this module
//! parses each line for itself and replaces bytes that are not UTF-8 by U+FFFD. It leaves out lines
//! on which procfs-core panics; no kernel writes them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

pub use device_cgroup::cgroups;
use procfs_core::process::{Limits, MMapPath, MemoryMaps, MountInfo, MountInfos, Stat, Status};
use procfs_core::{CharDeviceEntry, Devices, FromBufRead, FromRead as _, Uptime};
use rustix::io::Errno;

/// Most of these files are shorter, so that one call reads them.
const USUAL: usize = 4096;

/// Reads a whole file of `/proc`.
///
/// # Errors
/// `EFBIG` if it has more than `max` bytes, since a cut path names another file; else those of
/// reading it.
pub fn read(path: impl AsRef<Path>, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL);
    let length = File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    if length as u64 > max {
        return Err(Errno::FBIG.into());
    }
    Ok(bytes)
}

/// The first `max` bytes of a file of `/proc`, for display. If its process ends meanwhile, the
/// bytes read so far.
pub fn read_most(path: impl AsRef<Path>, max: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL);
    if let Ok(file) = File::open(path) {
        let _ = file.take(max).read_to_end(&mut bytes);
    }
    bytes
}

/// The mounts of a namespace in `/proc/PID/mountinfo`. The kernel's escapes (`\040`) stay in their
/// paths.
pub fn mounts(list: &[u8]) -> impl Iterator<Item = MountInfo> {
    lines(list).filter_map(parse::<MountInfos>).flatten()
}

/// The mappings of a process in `/proc/PID/maps`.
pub fn mappings(list: &[u8]) -> impl Iterator<Item = MMapPath> {
    // Kernels before 4.5 name stacks of threads; procfs-core cuts such a name inside a character.
    let is_stack = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let name = line.splitn(6, ' ').nth(5);
        name.is_some_and(|name| name.trim().starts_with("[stack:"))
    };
    lines(list)
        .filter(move |line| !is_stack(line))
        .filter_map(parse::<MemoryMaps>)
        .flat_map(|maps| maps.0)
        .map(|map| map.pathname)
}

/// The drivers of character devices in `/proc/devices`.
pub fn char_devices(list: &[u8]) -> impl Iterator<Item = CharDeviceEntry> {
    drivers(lines(list).take_while(|line| !line.starts_with(b"Block devices:")))
}

/// The major numbers in `/proc/devices` that have a driver, for character and block devices.
pub fn majors(list: &[u8]) -> impl Iterator<Item = u32> {
    drivers(lines(list)).map(|driver| driver.major)
}

/// `/proc/PID/status`.
pub fn status(text: &[u8]) -> Option<Status> {
    parse(text)
}

/// `/proc/PID/stat`.
pub fn stat(text: &[u8]) -> Option<Stat> {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    // procfs-core cuts before the first parenthesis and after the last one without a check of the
    // text there.
    let (pid, _) = text.split_once('(')?;
    let (before, after) = text.rsplit_once(')')?;
    let is_sound = pid.ends_with(' ') && before.len() > pid.len() && after.starts_with(' ');
    is_sound.then(|| Stat::from_read(text.as_bytes()).ok())?
}

/// `/proc/PID/limits`.
pub fn limits(text: &[u8]) -> Option<Limits> {
    // procfs-core subtracts three from the number of words.
    let text = String::from_utf8_lossy(text);
    let has_values = |line: &&str| line.split_whitespace().count() > 3;
    parse(
        text.lines()
            .filter(has_values)
            .collect::<Vec<_>>()
            .join("\n")
            .as_bytes(),
    )
}

/// `/proc/uptime`.
pub fn uptime(text: &[u8]) -> Option<Uptime> {
    Uptime::from_read(text).ok()
}

/// procfs-core takes a single line for a character device's.
fn drivers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = CharDeviceEntry> {
    lines
        .filter_map(parse::<Devices>)
        .flat_map(|found| found.char_devices)
}

fn lines(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b'\n')
}

fn parse<T: FromBufRead>(text: &[u8]) -> Option<T> {
    T::from_buf_read(String::from_utf8_lossy(text).as_bytes()).ok()
}

/// Files in the form that Linux 6.18 writes.
#[cfg(test)]
pub(crate) mod recorded {
    pub(crate) const STATUS: &str = "Name:\tcat\nUmask:\t0022\nState:\tR (running)\nTgid:\t1950\n\
        Ngid:\t0\nPid:\t1950\nPPid:\t1680\nTracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t256\n\
        Groups:\t \nNStgid:\t1950\nNSpid:\t1950\nNSpgid:\t1680\nNSsid:\t22553\nKthread:\t0\n\
        VmPeak:\t    3060 kB\nVmSize:\t    3060 kB\nVmLck:\t       0 kB\nHugetlbPages:\t       0 kB\n\
        CoreDumping:\t0\nTHP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\nThreads:\t1\nSigQ:\t10/96365\n\
        SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n\
        SigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\nCapInh:\t0000000000000000\n\
        CapPrm:\t000001fffeffffff\nCapEff:\t000001fffeffffff\nCapBnd:\t000001fffeffffff\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n\
        Speculation_Store_Bypass:\tvulnerable\nSpeculationIndirectBranch:\talways enabled\n\
        Cpus_allowed:\tffffffff,00000003\nCpus_allowed_list:\t0-1,32-63\nMems_allowed:\t00000000,00000001\n\
        Mems_allowed_list:\t0\nvoluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n";
    pub(crate) const LIMITS: &str = "\
        Limit                     Soft Limit           Hard Limit           Units     \n\
        Max cpu time              unlimited            unlimited            seconds   \n\
        Max file size             unlimited            unlimited            bytes     \n\
        Max data size             unlimited            unlimited            bytes     \n\
        Max stack size            8388608              unlimited            bytes     \n\
        Max core file size        0                    unlimited            bytes     \n\
        Max resident set          unlimited            unlimited            bytes     \n\
        Max processes             96365                96365                processes \n\
        Max open files            1048576              524288               files     \n\
        Max locked memory         8388608              8388608              bytes     \n\
        Max address space         unlimited            unlimited            bytes     \n\
        Max file locks            unlimited            unlimited            locks     \n\
        Max pending signals       96365                96365                signals   \n\
        Max msgqueue size         819200               819200               bytes     \n\
        Max nice priority         0                    0                    \n\
        Max realtime priority     0                    0                    \n\
        Max realtime timeout      unlimited            unlimited            us        \n";
    /// The fields after the name.
    pub(crate) const STAT: &str = " R 1680 1680 22553 0 -1 4194304 101 0 0 0 0 0 0 0 20 0 1 0 12345 3133440 409 \
        18446744073709551615 94519392538624 94519392558505 140735164727120 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 \
        94519392574512 94519392576128 94519911419904 140735164730067 140735164730087 140735164730087 \
        140735164731371 0\n";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_line_that_is_not_utf8_or_strange_does_not_lose_the_others() {
        let hostile: [&[u8]; 6] = [
            b"\xff",
            b"",
            b"garbage",
            b" - ",
            b"Block",
            b"x 8 0:1 / /\xff\xfe rw",
        ];
        let list = |sound: &str| -> Vec<u8> {
            let mut list = Vec::new();
            for line in hostile {
                list.extend_from_slice(line);
                list.push(b'\n');
            }
            list.extend_from_slice(sound.as_bytes());
            list.extend_from_slice(b"\n\xff\xff");
            list
        };
        let mount =
            list("36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw,errors=continue");
        let points: Vec<_> = mounts(&mount).map(|m| m.mount_point).collect();
        assert_eq!(points, [Path::new("/mnt/parent")]);
        let paths: Vec<_> = cgroups(&list("4:cpu,devices:/a:b")).map(|c| c.pathname).collect();
        assert_eq!(paths, ["/a:b"]);
        let mapped: Vec<_> =
            mappings(&list("7f00-7f01 r-xp 00000000 00:1f 12      /usr/lib/libc.so")).collect();
        assert_eq!(mapped, [MMapPath::Path("/usr/lib/libc.so".into())]);
        let named: Vec<_> = char_devices(&list("195 nvidia"))
            .map(|d| (d.major, d.name))
            .collect();
        assert_eq!(named, [(195, "nvidia".to_owned())]);
    }

    #[test]
    fn a_mount_point_is_one_line_whatever_its_name() {
        let line = |point: &str| format!("9 8 0:60 / {point} rw shared:1 - tmpfs tmpfs rw,size=1k\n");
        // The kernel escapes a line break and a blank in a name.
        let list = line("/a\\0129\\0408\\0400:60\\040/\\040/usr/local/nvidia") + &line("/b");
        let points: Vec<_> = mounts(list.as_bytes()).map(|m| m.mount_point).collect();
        assert_eq!(points.len(), 2);
        assert_eq!(points[1], Path::new("/b"));
        assert!(points[0].to_str().unwrap().contains("\\012"));
        // Bytes that are not UTF-8 change only their own name.
        let list = [
            line("/c").as_bytes(),
            &b"9 8 0:60 / /\xff rw - tmpfs tmpfs rw\n"[..],
        ]
        .concat();
        assert_eq!(mounts(&list).count(), 2);
    }

    #[test]
    fn a_process_chooses_its_name() {
        for name in [
            &b"("[..],
            b")",
            b") R 1 2 3",
            b"a (b) c",
            b"\xff\xfe(",
            b"\xc3",
            b"",
            b"\n7 (x) S 1",
            b"()()()() ) (",
        ] {
            let stat = [&b"1950 ("[..], name, b")", recorded::STAT.as_bytes()].concat();
            assert_eq!(super::stat(&stat).unwrap().starttime, 12345, "{name:?}");
        }
        for name in ["a:b:c", "\u{fffd}", "Uid:\\t0", "", " "] {
            let text = recorded::STATUS
                .replacen("cat", name, 1)
                .replace("Uid:\t0", "Uid:\t7");
            assert_eq!(status(text.as_bytes()).unwrap().ruid, 7, "{name}");
        }
        let text = recorded::STATUS.as_bytes().to_vec();
        let text = [
            &b"Name:\t\xff\xfe\n"[..],
            text.strip_prefix(b"Name:\tcat\n").unwrap(),
        ]
        .concat();
        assert_eq!(status(&text).unwrap().capeff, 0x1ff_feff_ffff);
    }

    #[test]
    fn a_process_names_its_memory() {
        // PR_SET_VMA_ANON_NAME takes slashes.
        let line = |name: &str| format!("7f00-7f01 r-xp 00000000 00:00 0                          {name}\n");
        let is_path = |name: &str| mappings(line(name).as_bytes()).any(|m| matches!(m, MMapPath::Path(_)));
        assert!(is_path("/usr/lib/libcuda.so.1"));
        assert!(!is_path("[anon:/usr/lib/libcuda.so.1]"));
        for name in ["[stack:1\u{e9}", "\u{a0}[stack:\u{e9}"] {
            assert_eq!(mappings(line(name).as_bytes()).count(), 0);
        }
        assert!(is_path("/a [stack:\u{e9}/libcuda.so.1"));
    }

    #[test]
    fn devices_of_both_kinds() {
        let list = b"Character devices:\n  1 mem\n195 nvidia\n240 \nx y\n\nBlock devices:\n  8 sd\n-1 x\n";
        let named: Vec<_> = char_devices(list).map(|d| (d.major, d.name)).collect();
        assert_eq!(named, [(1, "mem".to_owned()), (195, "nvidia".to_owned())]);
        assert_eq!(majors(list).collect::<Vec<_>>(), [1, 195, 8]);
    }

    #[test]
    fn a_cut_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0::/abc").unwrap();
        assert_eq!(read(file.path(), 7).unwrap(), b"0::/abc");
        let e = read(file.path(), 6).unwrap_err();
        assert_eq!(Errno::from_io_error(&e), Some(Errno::FBIG));
        assert_eq!(read_most(file.path(), 6), b"0::/ab");
        assert!(read_most("/nonexistent", 6).is_empty());
    }

    #[test]
    fn files_of_this_kernel_are_parsed() {
        let own = |name: &str| read(format!("/proc/self/{name}"), 4 << 20).unwrap();
        assert_eq!(stat(&own("stat")).unwrap().pid.unsigned_abs(), std::process::id());
        assert_eq!(
            status(&own("status")).unwrap().pid.unsigned_abs(),
            std::process::id()
        );
        assert!(limits(&own("limits")).is_some());
        assert_eq!(
            mounts(&own("mountinfo")).count(),
            lines(&own("mountinfo")).count() - 1
        );
        assert_eq!(cgroups(&own("cgroup")).count(), lines(&own("cgroup")).count() - 1);
        assert!(mappings(&own("maps")).any(|m| matches!(m, MMapPath::Path(_))));
        assert!(uptime(&read("/proc/uptime", 64).unwrap()).is_some());
    }

    fn parse_all(text: &[u8]) {
        let _ = (
            cgroups(text).count(),
            mounts(text).count(),
            mappings(text).count(),
        );
        let _ = (char_devices(text).count(), majors(text).count());
        let _ = (stat(text), status(text), limits(text));
        let _ = uptime(text).map(|u| u.uptime_duration());
    }

    #[test]
    fn lines_on_which_procfs_core_panics_are_left_out() {
        for text in [
            "(",
            ")(",
            "1 (a)",
            "1 (a) ",
            "1(a) R",
            "1 (a)\u{e9}R",
            "\u{e9}(a) R",
            "1 )a( R",
        ] {
            assert!(stat(text.as_bytes()).is_none(), "{text}");
        }
        for line in [
            "",
            "Max",
            "Max a",
            "\u{a0} \u{a0} \u{a0} \u{a0}",
            "Max nice priority",
        ] {
            assert!(limits(line.as_bytes()).is_none(), "{line}");
            let text = format!("{}{line}\n", recorded::LIMITS);
            assert!(limits(text.as_bytes()).is_some(), "{line}");
        }
        for text in ["inf inf", "nan 0", "-1 0", "1e300 1", "1.999 0"] {
            assert!(
                uptime(text.as_bytes()).map(|u| u.uptime_duration()).is_some(),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_all(&text);
        }

        /// Pieces of the formats in any order.
        #[test]
        fn no_pieces_make_it_panic(pieces in proptest::collection::vec(proptest::sample::select(&[
            "(", ")", " ", "\n", "\t", ":", "-", "/", "[stack:", "]", "[", "é", "\u{a0}", "0", "1", "-1", "7f00-7f01",
            "r-xp", "00:1f", "Uid:", "Limit", "Max nice priority", "Max open files", "unlimited", "shared:", " - ",
            "Block devices:", "VmFlags: rd", "Rss: 4 kB", "inf", "nan", "1e300", "99999999999999999999", "#",
        ][..]), 0..60)) {
            parse_all(pieces.concat().as_bytes());
        }

        /// A file that is cut at any place, with one byte changed.
        #[test]
        fn no_cut_makes_it_panic(at in 0..2000_usize, put in 0..2000_usize, byte in any::<u8>()) {
            let stat = format!("1950 (cat){}", recorded::STAT);
            for text in [recorded::STATUS, recorded::LIMITS, &stat] {
                let mut text = text.as_bytes().to_vec();
                text.truncate(at);
                if let Some(place) = text.get_mut(put) {
                    *place = byte;
                }
                parse_all(&text);
            }
        }
    }
}
