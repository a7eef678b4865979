//! Filters on this process's system calls. The hook installs one between the host's discovery and
//! its work in the container, so that code injected by a crafted file could start no program and
//! reach no network, process or kernel module.
//!
//! The hook's filter lists refused calls, not allowed ones: the C library and the allocator may
//! change their calls, and a killed hook is a container that does not start. The reading child's
//! filter lists the allowed calls. For example, `execve` fails with `EPERM` under both. Sources:
//! seccomp(2), linux/filter.h.

use std::io;

use libc::{c_long, sock_filter, sock_fprog};

/// `kexec_file_load`; libc has no constant for it on aarch64 with musl (asm-generic/unistd.h).
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: c_long = libc::SYS_kexec_file_load;
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: c_long = 294;

/// Calls that a hook never makes while it prepares a container; they fail with `EPERM`.
const REFUSED: &[c_long] = &[
    // Programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    // The network, and sockets of the host's daemons.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_reboot,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Other namespaces and roots, files by handle (CVE-2014-9357's way out), device nodes.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
];

/// The only calls of a child that parses an image: reading files, and memory. It can send, ignore
/// or block no signal and change no timer, since its time limit is one.
const READING: &[c_long] = &[
    libc::SYS_openat2,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    // The process itself, and its end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
];

/// `AUDIT_ARCH_*` of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Numbers from here up are those of x32, a second table for the same architecture.
const X32: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// `BPF_LD | BPF_W | BPF_ABS`
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`
const EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`
const AT_LEAST: u16 = 0x35;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

/// Refuses the calls of [`REFUSED`] until the process ends. The caller has set `no_new_privs`.
///
/// # Errors
/// `EINVAL` if the kernel has no seccomp filters.
pub(super) fn refuse_unneeded_calls() -> io::Result<()> {
    install(filter(REFUSED, Verdict::Refused)?)
}

/// Refuses all calls but those of [`READING`] until the process ends. The caller has set
/// `no_new_privs`.
///
/// # Errors
/// As [`refuse_unneeded_calls`].
pub(super) fn allow_reading() -> io::Result<()> {
    install(filter(READING, Verdict::Allowed)?)
}

/// Refuses `calls` with `EPERM`, as an outer container's profile may.
#[cfg(test)]
pub(super) fn refuse(calls: &[c_long]) -> io::Result<()> {
    install(filter(calls, Verdict::Refused)?)
}

fn install(mut code: Vec<sock_filter>) -> io::Result<()> {
    let program = sock_fprog {
        len: u16::try_from(code.len()).map_err(io::Error::other)?,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: `program` points to a live array of the length in it, which the kernel copies.
    let r = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The verdict on the calls that a filter lists; the other calls get the opposite.
#[derive(Clone, Copy)]
enum Verdict {
    Allowed,
    Refused,
}

fn filter(calls: &[c_long], listed: Verdict) -> io::Result<Vec<sock_filter>> {
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let (listed, others) = match listed {
        Verdict::Allowed => (libc::SECCOMP_RET_ALLOW, refuse),
        Verdict::Refused => (refuse, libc::SECCOMP_RET_ALLOW),
    };
    let mut numbers: Vec<u32> = calls.iter().filter_map(|n| u32::try_from(*n).ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    // Numbers at which the verdict changes, from 0 on.
    let mut runs = vec![(0, others)];
    for number in numbers {
        match runs.last_mut() {
            Some(last) if last.0 == number => last.1 = listed,
            _ => runs.push((number, listed)),
        }
        runs.push((number + 1, others));
    }
    runs.dedup_by(|next, before| next.1 == before.1);
    runs.push((X32, refuse));
    let mut program = vec![
        step(LOAD, ARCHITECTURE),
        // 32-bit calls have numbers of their own, and this program makes none.
        jump(EQUAL, ARCH, 1, 0),
        step(RETURN, refuse),
        step(LOAD, NUMBER),
    ];
    search(&runs, &mut program)?;
    Ok(program)
}

/// Finds the verdict by binary search. The kernel runs a new filter once for every call number, to
/// learn which calls it need not filter: a linear search takes longer than all other steps of the
/// confinement.
///
/// # Errors
/// If a jump exceeds an instruction's range, as with more than a hundred verdicts.
fn search(runs: &[(u32, u32)], program: &mut Vec<sock_filter>) -> io::Result<()> {
    let (lower, upper) = runs.split_at(runs.len() / 2);
    let [(first, verdict), ..] = *upper else {
        return Ok(());
    };
    if lower.is_empty() {
        program.push(step(RETURN, verdict));
        return Ok(());
    }
    let at = program.len();
    program.push(jump(AT_LEAST, first, 0, 0));
    search(lower, program)?;
    program[at].jt = u8::try_from(program.len() - at - 1).map_err(io::Error::other)?;
    search(upper, program)
}

fn step(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
/// Whether `f` holds in a child process, so that changes to the process stay there.
pub(super) fn in_child(f: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child makes system calls and ends; it uses nothing that another thread of the
    // test may hold.
    match unsafe { libc::fork() } {
        0 => {
            // A panic would unwind into the harness's thread, and the process would end with status
            // 0.
            let holds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            let code = i32::from(!holds.unwrap_or(false));
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(code) }
        }
        pid => {
            let mut status = -1;
            // SAFETY: `status` is live, `pid` is our child.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            waited == pid && status == 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(number: c_long) -> Option<i32> {
        // SAFETY: with these arguments every call of the list fails or does nothing.
        let r = unsafe { libc::syscall(number, -1_i64, 0_i64, 0_i64, 0_i64, 0_i64, 0_i64) };
        (r == -1)
            .then(|| io::Error::last_os_error().raw_os_error())
            .flatten()
    }

    /// The verdict of `program` on a call, computed as the kernel would.
    fn verdict(program: &[sock_filter], arch: u32, number: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { jt } else { jf });
            match code {
                LOAD => value = if k == NUMBER { number } else { arch },
                EQUAL => at += jump(value == k),
                AT_LEAST => at += jump(value >= k),
                _ => return k,
            }
        }
    }

    #[test]
    fn every_number_gets_its_verdict() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
        for (calls, listed) in [
            (REFUSED, Verdict::Refused),
            (READING, Verdict::Allowed),
            (&[0, 1, 2, 2, 7], Verdict::Refused),
            (&[], Verdict::Allowed),
        ] {
            let program = filter(calls, listed).unwrap();
            for number in (0..1024).chain([X32 - 1, X32, X32 + 1, u32::MAX]) {
                let is_listed = calls.contains(&c_long::from(number));
                let allowed = number < X32 && is_listed == matches!(listed, Verdict::Allowed);
                let expected = if allowed { libc::SECCOMP_RET_ALLOW } else { refused };
                assert_eq!(verdict(&program, ARCH, number), expected, "{number}");
                assert_eq!(verdict(&program, ARCH ^ 1, number), refused);
            }
        }
    }

    #[test]
    fn refused_calls_fail_and_needed_calls_work() {
        assert!(in_child(|| {
            rustix::thread::set_no_new_privs(true).is_ok()
                && refuse_unneeded_calls().is_ok()
                && REFUSED.iter().all(|n| answers(*n) == Some(libc::EPERM))
                && rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).is_ok()
                && answers(libc::SYS_openat) != Some(libc::EPERM)
                && answers(libc::SYS_move_mount) != Some(libc::ENOSYS)
        }));
        // Without the filter the same calls return other errors, so the test can fail.
        assert!(in_child(|| answers(libc::SYS_setns) == Some(libc::EBADF)));
    }
}
