//! The `bpf(2)` commands for a cgroup's device program: load, attach, detach, query.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::rules::Insn;

/// Values of linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;
const F_REPLACE: u32 = 4;
const QUERY_EFFECTIVE: u32 = 1;

/// The most programs that are read; runtimes attach one, and systemd a second.
const MAX_PROGRAMS: u32 = 64;

/// A program's name, with NULs behind it. runc, crun and youki give their programs none.
type Name = [u8; 16];

/// The name of systemd's device programs, since version 250.
const SYSTEMDS: &Name = b"sd_devices\0\0\0\0\0\0";

/// The device programs attached to a cgroup.
#[derive(Debug)]
pub(super) struct Attached {
    /// Their ids.
    pub(super) ids: Vec<u32>,
    /// The flags of their attachment (`BPF_F_ALLOW_MULTI` …).
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: Name,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    before_name: [u64; 8],
    name: Name,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The device programs that are attached to the cgroup itself.
pub(super) fn attached(cgroup: &OwnedFd) -> io::Result<Attached> {
    query(cgroup, 0)
}

/// The number of device programs that filter the cgroup: its own, and those of the cgroups above.
pub(super) fn filters(cgroup: &OwnedFd) -> io::Result<usize> {
    match query(cgroup, QUERY_EFFECTIVE) {
        // More programs than fit into the list.
        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => Ok(usize::MAX),
        found => Ok(found?.ids.len()),
    }
}

fn query(cgroup: &OwnedFd, query_flags: u32) -> io::Result<Attached> {
    let mut ids = vec![0_u32; MAX_PROGRAMS as usize];
    let mut attr = QueryAttr {
        target_fd: fd_number(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(Attached {
        ids,
        flags: attr.attach_flags,
    })
}

/// Attaches the program `code` in place of the runtime's and systemd's; the cgroup always has one.
/// The programs of others stay. `false` if there is none to replace, so that nothing was done.
pub(super) fn replace(cgroup: &OwnedFd, old: &Attached, code: &[Insn]) -> io::Result<bool> {
    let mut programs = Vec::new();
    for id in &old.ids {
        programs.extend(open(*id)?);
    }
    let names: Vec<Name> = programs.iter().map(|(_, name)| *name).collect();
    let places = replaceable(&names, &program_name(inroot::label()));
    let mut replaced = places.iter().filter_map(|at| Some(&programs.get(*at)?.0));
    let Some(first) = replaced.next() else {
        return Ok(false);
    };
    let new = load(code)?;
    // Without ALLOW_MULTI, attaching replaces the only program.
    if old.flags & F_ALLOW_MULTI == 0 {
        attach(cgroup, &new, old.flags, None)?;
        return Ok(true);
    }
    // Before Linux 5.6 there is no REPLACE, and it replaces no program of a BPF link.
    if attach(cgroup, &new, old.flags | F_REPLACE, Some(first)).is_err() {
        attach(cgroup, &new, old.flags, None)?;
        detach(cgroup, first)?;
    }
    for program in replaced {
        detach(cgroup, program)?;
    }
    Ok(true)
}

/// The places in the list of a cgroup's programs that [`replace`] takes: `own` of an earlier hook,
/// else the runtime's, and systemd's.
///
/// A runtime removes every program before its own, and the kernel lists programs in the order of
/// their attachment. So the first without a name is the runtime's, and a later one is another
/// hook's or an agent's.
fn replaceable(names: &[Name], own: &Name) -> Vec<usize> {
    let places = |wanted: &Name| {
        let wanted = *wanted;
        let found = names.iter().enumerate().filter(move |(_, name)| **name == wanted);
        found.map(|(at, _)| at)
    };
    let mut found: Vec<usize> = places(own).collect();
    if found.is_empty() {
        found.extend(places(&Name::default()).next());
    }
    found.extend(places(SYSTEMDS));
    found
}

/// A program and its name; `None` if it is gone.
fn open(id: u32) -> io::Result<Option<(OwnedFd, Name)>> {
    let mut attr = IdAttr {
        prog_id: id,
        ..IdAttr::default()
    };
    let fd = match bpf(PROG_GET_FD_BY_ID, &mut attr) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut info = Info::default();
    let mut attr = InfoAttr {
        bpf_fd: fd_number(&fd),
        info_len: u32::try_from(size_of::<Info>()).map_err(|_| io::ErrorKind::InvalidInput)?,
        info: core::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(Some((fd, info.name)))
}

fn attach(cgroup: &OwnedFd, program: &OwnedFd, flags: u32, replaced: Option<&OwnedFd>) -> io::Result<()> {
    let mut attr = AttachAttr {
        target_fd: fd_number(cgroup),
        attach_bpf_fd: fd_number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: flags,
        replace_bpf_fd: replaced.map_or(0, fd_number),
    };
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// Detaches a program, if it is attached.
fn detach(cgroup: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    let mut attr = AttachAttr {
        target_fd: fd_number(cgroup),
        attach_bpf_fd: fd_number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    match bpf(PROG_DETACH, &mut attr) {
        Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
        _ => Ok(()),
    }
}

fn load(code: &[Insn]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: program_name(inroot::label()),
        ..LoadAttr::default()
    };
    let fd = bpf(PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `LABEL_devices` in characters that the kernel accepts, followed by at least one NUL.
fn program_name(label: &str) -> Name {
    let plain = label.bytes().filter(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let mut name = Name::default();
    for (place, byte) in name.iter_mut().zip(plain.take(7).chain(*b"_devices")) {
        *place = byte;
    }
    name
}

fn fd_number(fd: &OwnedFd) -> u32 {
    // A descriptor that exists is not negative.
    fd.as_raw_fd().cast_unsigned()
}

/// `bpf(2)`; `attr` must be the C layout of the command's part of `union bpf_attr`.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is one of this module's repr(C) structs, live and of the size passed. Its
    // pointers lead to buffers of the given length that the caller holds during the call.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, core::ptr::from_mut(attr), size_of::<T>()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(r).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_a_name_that_the_kernel_takes() {
        for (label, name) in [
            ("nvoci", b"nvoci_devices\0\0\0"),
            ("a-very-long-name", b"averylo_devices\0"),
            ("", b"_devices\0\0\0\0\0\0\0\0"),
        ] {
            assert_eq!(&program_name(label), name, "{label}");
        }
    }

    #[test]
    fn the_runtimes_and_systemds_programs_are_replaced() {
        let own = program_name("nvoci");
        let names = |names: &[&str]| -> Vec<Name> {
            let name = |text: &&str| {
                let mut name = Name::default();
                name[..text.len()].copy_from_slice(text.as_bytes());
                name
            };
            names.iter().map(name).collect()
        };
        for (attached, replaced) in [
            (&[][..], &[][..]),
            (&[""], &[0]),
            // Another hook's, and a security agent's.
            (&["", ""], &[0]),
            (&["", "agent", ""], &[0]),
            (&["agent", ""], &[1]),
            (&["agent"], &[]),
            // After a `systemctl daemon-reload`.
            (&["", "sd_devices"], &[0, 1]),
            (&["sd_devices"], &[0]),
            // An earlier hook of ours has replaced the runtime's.
            (&["nvoci_devices", ""], &[0]),
            (&["nvoci_devices", "sd_devices", "nvoci_devices"], &[0, 2, 1]),
            // The names of others, which begin in the same way.
            (&["sd_devices2", "nvoci_devices_2"], &[]),
        ] {
            assert_eq!(replaceable(&names(attached), &own), replaced, "{attached:?}");
        }
    }
}
