/*
 * Runs a command and makes system calls of it fail, or kills it at one of them. x86-64, by ptrace.
 *
 *   faults [--calls NAME,...] [--at N] [--errno NAME | --kill before|after | --stop SECONDS] [--log FILE] -- COMMAND...
 *
 *   --calls    which calls count; default: those that change something
 *   --at N     the N-th of them (from 1); 0, the default: each
 *   --errno    it is not made and answers this
 *   --kill     SIGKILL right before it is made, or after
 *   --stop     it waits that long first
 *   --log      writes `NUMBER NAME` for each counted call, and at the end `made COUNT`
 *
 * The exit status is the command's, or 128 + the signal that ended it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

static const struct { const char *name; long nr; int changes; } calls[] = {
	{ "mkdirat", SYS_mkdirat, 1 }, { "mkdir", SYS_mkdir, 1 }, { "mknodat", SYS_mknodat, 1 }, { "symlinkat", SYS_symlinkat, 1 },
	{ "linkat", SYS_linkat, 1 }, { "unlinkat", SYS_unlinkat, 1 }, { "renameat", SYS_renameat, 1 }, { "renameat2", SYS_renameat2, 1 },
	{ "rename", SYS_rename, 1 }, { "write", SYS_write, 1 }, { "writev", SYS_writev, 1 }, { "pwrite64", SYS_pwrite64, 1 },
	{ "ftruncate", SYS_ftruncate, 1 }, { "fchmod", SYS_fchmod, 1 }, { "fchmodat", SYS_fchmodat, 1 }, { "fchownat", SYS_fchownat, 1 },
	{ "fchown", SYS_fchown, 1 }, { "mount", SYS_mount, 1 }, { "umount2", SYS_umount2, 1 }, { "open_tree", SYS_open_tree, 1 },
	{ "move_mount", SYS_move_mount, 1 }, { "mount_setattr", SYS_mount_setattr, 1 }, { "fsopen", SYS_fsopen, 1 },
	{ "fsconfig", SYS_fsconfig, 1 }, { "fsmount", SYS_fsmount, 1 }, { "setns", SYS_setns, 1 }, { "bpf", SYS_bpf, 1 },
	{ "capset", SYS_capset, 1 }, { "prctl", SYS_prctl, 1 }, { "seccomp", SYS_seccomp, 1 }, { "setfsuid", SYS_setfsuid, 1 },
	{ "setfsgid", SYS_setfsgid, 1 }, { "fchdir", SYS_fchdir, 1 }, { "chdir", SYS_chdir, 1 },
	/* An openat that may make a file changes something; others count only by name. */
	{ "openat", SYS_openat, 2 }, { "open", SYS_open, 2 },
	{ "openat2", SYS_openat2, 0 }, { "statx", SYS_statx, 0 }, { "close_range", SYS_close_range, 0 }, { "pidfd_open", SYS_pidfd_open, 0 },
	{ "mmap", SYS_mmap, 0 }, { "brk", SYS_brk, 0 }, { "getdents64", SYS_getdents64, 0 }, { "read", SYS_read, 0 }, { "pread64", SYS_pread64, 0 },
	{ "dup", SYS_dup, 0 }, { "fcntl", SYS_fcntl, 0 }, { "fstat", SYS_fstat, 0 }, { "newfstatat", SYS_newfstatat, 0 },
	{ "readlinkat", SYS_readlinkat, 0 }, { "execve", SYS_execve, 0 },
};
static const struct { const char *name; int value; } errnos[] = {
	{ "ENOSPC", ENOSPC }, { "EROFS", EROFS }, { "EMFILE", EMFILE }, { "ENOMEM", ENOMEM }, { "EPERM", EPERM },
	{ "ENOSYS", ENOSYS }, { "EACCES", EACCES }, { "EIO", EIO }, { "EAGAIN", EAGAIN }, { "EINTR", EINTR },
};
#define LENGTH(a) (sizeof(a) / sizeof *(a))

static int wanted[LENGTH(calls)];

static int die(const char *why)
{
	fprintf(stderr, "faults: %s\n", why);
	return exit(125), 125;
}

static void choose(char *list)
{
	for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
		size_t i = 0;
		while (i < LENGTH(calls) && strcmp(calls[i].name, name))
			i++;
		if (i == LENGTH(calls))
			die("unknown call");
		wanted[i] = 1;
	}
}

/* The index of a call that counts, or -1. */
static int counted(const struct user_regs_struct *r, int by_name)
{
	for (size_t i = 0; i < LENGTH(calls); i++) {
		if (calls[i].nr != (long)r->orig_rax)
			continue;
		if (by_name)
			return wanted[i] ? (int)i : -1;
		if (calls[i].changes == 2)
			return (calls[i].nr == SYS_openat ? r->rdx : r->rsi) & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC) ? (int)i : -1;
		/* What is said to people is not a change of anything. */
		if (calls[i].nr == SYS_write && r->rdi <= 2)
			return -1;
		return calls[i].changes ? (int)i : -1;
	}
	return -1;
}

int main(int argc, char **argv)
{
	long at = 0, number = 0, stop = 0;
	int error = 0, kill_when = 0, by_name = 0, i = 1;
	FILE *log = NULL;

	for (; i + 1 < argc && strcmp(argv[i], "--"); i += 2) {
		char *value = argv[i + 1];
		if (!strcmp(argv[i], "--calls")) {
			by_name = 1;
			choose(value);
		} else if (!strcmp(argv[i], "--at")) {
			at = atol(value);
		} else if (!strcmp(argv[i], "--kill")) {
			kill_when = !strcmp(value, "before") ? 1 : !strcmp(value, "after") ? 2 : die("--kill before|after");
		} else if (!strcmp(argv[i], "--stop")) {
			stop = atol(value);
		} else if (!strcmp(argv[i], "--log")) {
			log = fopen(value, "we");
		} else if (!strcmp(argv[i], "--errno")) {
			for (size_t k = 0; k < LENGTH(errnos); k++)
				if (!strcmp(errnos[k].name, value))
					error = errnos[k].value;
			if (!error)
				die("unknown errno");
		} else {
			die("unknown option");
		}
	}
	if (i + 1 >= argc)
		die("no command");
	pid_t pid = fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		execv(argv[i + 1], argv + i + 1);
		_exit(127);
	}
	int status, inside = 0, failing = 0, running = 0;
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("cannot trace");
	ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC);
	for (int pass = 0;;) {
		if (ptrace(PTRACE_SYSCALL, pid, 0, pass) || waitpid(pid, &status, 0) != pid)
			die("lost the process");
		pass = 0;
		if (WIFEXITED(status) || WIFSIGNALED(status))
			break;
		if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
			if (status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXEC << 8)))
				running = 1; /* what the tracee did before is ours */
			else
				pass = WSTOPSIG(status);
			continue;
		}
		inside = !inside;
		if (!running)
			continue;
		struct user_regs_struct r;
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		if (inside) {
			int which = counted(&r, by_name);
			if (which < 0)
				continue;
			number++;
			if (log)
				fprintf(log, "%ld %s\n", number, calls[which].name);
			if (at && number != at)
				continue;
			if (stop) {
				if (log)
					fflush(log);
				sleep((unsigned)stop);
			}
			if (kill_when == 1) {
				kill(pid, SIGKILL);
				waitpid(pid, &status, 0);
				break;
			}
			if (error || kill_when == 2)
				failing = 1;
			if (error) {
				r.orig_rax = (unsigned long)-1;
				ptrace(PTRACE_SETREGS, pid, 0, &r);
			}
		} else if (failing) {
			failing = 0;
			if (kill_when == 2) {
				kill(pid, SIGKILL);
				waitpid(pid, &status, 0);
				break;
			}
			if (error) {
				r.rax = (unsigned long)-error;
				ptrace(PTRACE_SETREGS, pid, 0, &r);
			}
		}
	}
	if (log) {
		fprintf(log, "made %ld\n", number);
		fclose(log);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
