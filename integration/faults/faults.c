/*
 * Runs a command and makes system calls of it fail, or kills it at one of them. x86-64, by ptrace.
 *
 *   faults [--in child|both] [--calls NAME,...] [--at N] [--errno NAME | --kill before|after | --stop SECONDS] [--log FILE] -- COMMAND...
 *
 *   --in       whose calls count: the command's own (default), those of a child that it makes (all of them), or both
 *   --calls    which calls count; default: those that change something
 *   --at N     the N-th of them (from 1); 0, the default: each
 *   --errno    it is not made and answers this
 *   --kill     SIGKILL right before it is made, or after
 *   --stop     it waits that long first
 *   --log      writes `NUMBER NAME` for each counted call, and at the end `made COUNT`
 *
 * The exit status is the command's, or 128 + the signal that ended it. A child that is killed is not the end.
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
#ifndef SYS_open_tree_attr
#define SYS_open_tree_attr 467
#endif

static const struct { const char *name; long nr; int changes; } calls[] = {
	{ "mkdirat", SYS_mkdirat, 1 }, { "mkdir", SYS_mkdir, 1 }, { "mknodat", SYS_mknodat, 1 }, { "symlinkat", SYS_symlinkat, 1 },
	{ "linkat", SYS_linkat, 1 }, { "unlinkat", SYS_unlinkat, 1 }, { "renameat", SYS_renameat, 1 }, { "renameat2", SYS_renameat2, 1 },
	{ "rename", SYS_rename, 1 }, { "write", SYS_write, 1 }, { "writev", SYS_writev, 1 }, { "pwrite64", SYS_pwrite64, 1 },
	{ "ftruncate", SYS_ftruncate, 1 }, { "fchmod", SYS_fchmod, 1 }, { "fchmodat", SYS_fchmodat, 1 }, { "fchownat", SYS_fchownat, 1 },
	{ "fchown", SYS_fchown, 1 }, { "mount", SYS_mount, 1 }, { "umount2", SYS_umount2, 1 }, { "open_tree", SYS_open_tree, 1 },
	{ "move_mount", SYS_move_mount, 1 }, { "mount_setattr", SYS_mount_setattr, 1 },
	{ "open_tree_attr", SYS_open_tree_attr, 1 }, { "fsopen", SYS_fsopen, 1 },
	{ "fsconfig", SYS_fsconfig, 1 }, { "fsmount", SYS_fsmount, 1 }, { "setns", SYS_setns, 1 }, { "bpf", SYS_bpf, 1 },
	{ "capset", SYS_capset, 1 }, { "prctl", SYS_prctl, 1 }, { "seccomp", SYS_seccomp, 1 }, { "setfsuid", SYS_setfsuid, 1 },
	{ "setfsgid", SYS_setfsgid, 1 }, { "fchdir", SYS_fchdir, 1 }, { "chdir", SYS_chdir, 1 },
	/* An openat that may make a file changes something; others count only by name. */
	{ "openat", SYS_openat, 2 }, { "open", SYS_open, 2 },
	{ "openat2", SYS_openat2, 0 }, { "statx", SYS_statx, 0 }, { "close_range", SYS_close_range, 0 }, { "pidfd_open", SYS_pidfd_open, 0 },
	{ "mmap", SYS_mmap, 0 }, { "brk", SYS_brk, 0 }, { "getdents64", SYS_getdents64, 0 }, { "read", SYS_read, 0 }, { "pread64", SYS_pread64, 0 },
	{ "dup", SYS_dup, 0 }, { "fcntl", SYS_fcntl, 0 }, { "fstat", SYS_fstat, 0 }, { "newfstatat", SYS_newfstatat, 0 },
	{ "readlinkat", SYS_readlinkat, 0 }, { "execve", SYS_execve, 0 }, { "fork", SYS_fork, 0 }, { "clone", SYS_clone, 0 },
	{ "pipe2", SYS_pipe2, 0 }, { "poll", SYS_poll, 0 }, { "dup2", SYS_dup2, 0 }, { "dup3", SYS_dup3, 0 }, { "chroot", SYS_chroot, 0 },
	{ "setresuid", SYS_setresuid, 0 }, { "setresgid", SYS_setresgid, 0 }, { "setgroups", SYS_setgroups, 0 },
	{ "getppid", SYS_getppid, 0 }, { "prlimit64", SYS_prlimit64, 0 }, { "setrlimit", SYS_setrlimit, 0 }, { "landlock_create_ruleset", 444, 0 },
	{ "landlock_add_rule", 445, 0 }, { "landlock_restrict_self", 446, 0 }, { "wait4", SYS_wait4, 0 }, { "close", SYS_close, 0 },
	{ "mremap", SYS_mremap, 0 }, { "munmap", SYS_munmap, 0 }, { "fstatfs", SYS_fstatfs, 0 }, { "getrandom", SYS_getrandom, 0 },
	{ "exit_group", SYS_exit_group, 0 },
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

/* The index of a call that counts, or -1. Of a child every call that has a name here. */
static int counted(const struct user_regs_struct *r, int by_name, int child)
{
	for (size_t i = 0; i < LENGTH(calls); i++) {
		if (calls[i].nr != (long)r->orig_rax)
			continue;
		if (by_name)
			return wanted[i] ? (int)i : -1;
		if (child)
			return (int)i;
		if (calls[i].changes == 2)
			return (calls[i].nr == SYS_openat ? r->rdx : r->rsi) & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC) ? (int)i : -1;
		/* What is said to people is not a change of anything. */
		if (calls[i].nr == SYS_write && r->rdi <= 2)
			return -1;
		return calls[i].changes ? (int)i : -1;
	}
	return -1;
}

static struct task { pid_t pid; int inside, failing; } tasks[8];

static struct task *task_of(pid_t pid)
{
	size_t i = 0;
	while (i < LENGTH(tasks) && tasks[i].pid && tasks[i].pid != pid)
		i++;
	if (i == LENGTH(tasks))
		die("too many processes");
	tasks[i].pid = pid;
	return &tasks[i];
}

int main(int argc, char **argv)
{
	long at = 0, number = 0, stop = 0;
	int error = 0, kill_when = 0, by_name = 0, in_child = 0, in_parent = 1, i = 1;
	FILE *log = NULL;

	for (; i + 1 < argc && strcmp(argv[i], "--"); i += 2) {
		char *value = argv[i + 1];
		if (!strcmp(argv[i], "--calls")) {
			by_name = 1;
			choose(value);
		} else if (!strcmp(argv[i], "--in")) {
			in_child = 1;
			in_parent = !strcmp(value, "both") ? 1 : !strcmp(value, "child") ? 0 : die("--in child|both");
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
	pid_t first = fork();
	if (first == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		execv(argv[i + 1], argv + i + 1);
		_exit(127);
	}
	int status, running = 0;
	if (first < 0 || waitpid(first, &status, 0) != first)
		die("cannot trace");
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC;
	if (in_child)
		options |= PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEVFORK;
	ptrace(PTRACE_SETOPTIONS, first, 0, options);
	ptrace(PTRACE_SYSCALL, first, 0, 0);
	for (;;) {
		pid_t pid = waitpid(-1, &status, __WALL);
		if (pid < 0)
			die("lost the process");
		struct task *task = task_of(pid);
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (pid == first)
				break;
			continue;
		}
		int pass = 0, child = pid != first;
		if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
			if (status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXEC << 8)))
				running = 1; /* what the tracee did before is ours */
			else if (status >> 16 == 0 && !(child && WSTOPSIG(status) == SIGSTOP))
				pass = WSTOPSIG(status); /* a child begins with a stop of ours */
			ptrace(PTRACE_SYSCALL, pid, 0, pass);
			continue;
		}
		task->inside = !task->inside;
		struct user_regs_struct r;
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		if (task->inside && running && (child ? in_child : in_parent)) {
			int which = counted(&r, by_name, child);
			if (which >= 0) {
				number++;
				if (log)
					fprintf(log, "%ld %s\n", number, calls[which].name);
			}
			if (which >= 0 && (!at || number == at)) {
				if (stop) {
					if (log)
						fflush(log);
					sleep((unsigned)stop);
				}
				if (kill_when == 1) {
					kill(pid, SIGKILL);
					continue;
				}
				task->failing = error || kill_when == 2;
				if (error) {
					r.orig_rax = (unsigned long)-1;
					ptrace(PTRACE_SETREGS, pid, 0, &r);
				}
			}
		} else if (!task->inside && task->failing) {
			task->failing = 0;
			if (kill_when == 2) {
				kill(pid, SIGKILL);
				continue;
			}
			r.rax = (unsigned long)-error;
			ptrace(PTRACE_SETREGS, pid, 0, &r);
		}
		ptrace(PTRACE_SYSCALL, pid, 0, 0);
	}
	if (log) {
		fprintf(log, "made %ld\n", number);
		fclose(log);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
