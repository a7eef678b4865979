//! The `bpf(2)` commands for a cgroup's device program: load, attach, detach, query.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::rules::Insn;

/// Values of linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;
const QUERY_EFFECTIVE: u32 = 1;

/// The most programs that are read; runtimes attach one, and systemd a second.
const MAX_PROGRAMS: u32 = 64;

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
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
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

/// Whether a device program filters the cgroup: its own or that of a cgroup above it.
pub(super) fn is_filtered(cgroup: &OwnedFd) -> io::Result<bool> {
    match query(cgroup, QUERY_EFFECTIVE) {
        // More programs than fit into the list.
        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => Ok(true),
        found => Ok(!found?.ids.is_empty()),
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

/// Attaches a new program, then detaches the old ones, so that the cgroup always has one.
pub(super) fn replace(cgroup: &OwnedFd, old: &Attached, code: &[Insn]) -> io::Result<()> {
    let new = load(code)?;
    let target_fd = fd_number(cgroup);
    let flags = old.flags & F_ALLOW_MULTI;
    bpf(
        PROG_ATTACH,
        &mut AttachAttr {
            target_fd,
            attach_bpf_fd: fd_number(&new),
            attach_type: ATTACH_CGROUP_DEVICE,
            attach_flags: old.flags,
        },
    )?;
    if flags == 0 {
        // Without ALLOW_MULTI, attaching has replaced the only program.
        return Ok(());
    }
    for id in &old.ids {
        let fd = match bpf(
            PROG_GET_FD_BY_ID,
            &mut IdAttr {
                prog_id: *id,
                ..IdAttr::default()
            },
        ) {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(e) => return Err(e),
        };
        let detached = bpf(
            PROG_DETACH,
            &mut AttachAttr {
                target_fd,
                attach_bpf_fd: fd_number(&fd),
                attach_type: ATTACH_CGROUP_DEVICE,
                attach_flags: 0,
            },
        );
        match detached {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
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
fn program_name(label: &str) -> [u8; 16] {
    let plain = label.bytes().filter(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let mut name = [0; 16];
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
}
