/*
 * Counts what one program does while a command runs: its system calls by name, page faults, forks, executed programs, bytes read.
 *
 *   counts PROGRAM OUT COMMAND...     PROGRAM is a file name without its directory; OUT gets lines of `NAME COUNT`
 *
 * Follows every process of the command by ptrace and counts those that run PROGRAM, from its exec to the next exec or the end. When
 * the command ends, what it left running is killed. The exit status is the command's, or 125 where tracing is refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CALL 1024
#define MAX_TASKS 256

static const struct { long nr; const char *name; } names[] = {
#include "names.h"
};

static struct task {
	pid_t pid;
	int counts;          /* it runs PROGRAM */
	long faults_before;  /* its minor faults when that began */
	unsigned long call;  /* the one that it is in */
} tasks[MAX_TASKS];

static long calls[MAX_CALL], faults, forks, execs, bytes;

static void die(const char *why)
{
	fprintf(stderr, "counts: %s: %s\n", why, strerror(errno));
	exit(125);
}

static struct task *task_of(pid_t pid)
{
	struct task *free_one = NULL;
	for (int i = 0; i < MAX_TASKS; i++) {
		if (tasks[i].pid == pid)
			return &tasks[i];
		if (!tasks[i].pid && !free_one)
			free_one = &tasks[i];
	}
	if (!free_one)
		die("too many processes");
	*free_one = (struct task){ .pid = pid };
	return free_one;
}

/* The minor page faults of a process so far: the tenth field of its stat, after the name in brackets. */
static long faults_of(pid_t pid)
{
	char path[64], text[1024];
	long n = 0;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return 0;
	text[fread(text, 1, sizeof text - 1, f)] = 0;
	fclose(f);
	char *rest = strrchr(text, ')');
	if (rest)
		sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %ld", &n);
	return n;
}

static int runs(pid_t pid, const char *program)
{
	char path[64], exe[4096];
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	ssize_t n = readlink(path, exe, sizeof exe - 1);
	if (n < 0)
		return 0;
	exe[n] = 0;
	char *name = strrchr(exe, '/');
	return name && !strcmp(name + 1, program);
}

static void ended(struct task *t)
{
	if (t->counts)
		faults += faults_of(t->pid) - t->faults_before;
	t->counts = 0;
}

/* What a stop of a task says; returns the signal that it is to be given. */
static int stopped(struct task *t, int status, const char *program)
{
	int event = status >> 16;
	unsigned long other = 0;

	if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
		struct __ptrace_syscall_info info = { 0 };
		if (ptrace(PTRACE_GET_SYSCALL_INFO, t->pid, sizeof info, &info) < 0)
			return 0;
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY || info.op == PTRACE_SYSCALL_INFO_SECCOMP) {
			t->call = info.entry.nr;
			if (t->counts && t->call < MAX_CALL)
				calls[t->call]++;
		} else if (info.op == PTRACE_SYSCALL_INFO_EXIT && t->counts && !info.exit.is_error &&
			   (t->call == SYS_read || t->call == SYS_pread64 || t->call == SYS_readv || t->call == SYS_preadv)) {
			bytes += info.exit.rval;
		}
		return 0;
	}
	switch (event) {
	case PTRACE_EVENT_FORK:
	case PTRACE_EVENT_VFORK:
	case PTRACE_EVENT_CLONE:
		ptrace(PTRACE_GETEVENTMSG, t->pid, 0, &other);
		forks += t->counts;
		task_of((pid_t)other)->counts = t->counts;
		return 0;
	case PTRACE_EVENT_EXEC:
		execs += t->counts;
		ended(t);
		t->counts = runs(t->pid, program);
		t->faults_before = faults_of(t->pid);
		return 0;
	case PTRACE_EVENT_EXIT:
		ended(t);
		return 0;
	}
	/* A new task begins with a stop of ours. */
	return event || WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		die("usage: counts PROGRAM OUT COMMAND...");
	FILE *out = fopen(argv[2], "we");
	if (!out)
		die(argv[2]);
	pid_t first = fork();
	if (first == 0) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
			_exit(125);
		raise(SIGSTOP);
		execv(argv[3], argv + 3);
		_exit(127);
	}
	int status;
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT | PTRACE_O_TRACEFORK |
		       PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE;
	if (first < 0 || waitpid(first, &status, 0) != first || !WIFSTOPPED(status) ||
	    ptrace(PTRACE_SETOPTIONS, first, 0, options) < 0)
		die("cannot trace");
	ptrace(PTRACE_SYSCALL, first, 0, 0);
	for (;;) {
		pid_t pid = waitpid(-1, &status, __WALL);
		if (pid < 0)
			die("lost the command");
		struct task *t = task_of(pid);
		if (WIFSTOPPED(status)) {
			ptrace(PTRACE_SYSCALL, pid, 0, stopped(t, status, argv[1]));
			continue;
		}
		t->pid = 0;
		if (pid == first)
			break;
	}
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (calls[names[i].nr])
			fprintf(out, "%s %ld\n", names[i].name, calls[names[i].nr]);
	fprintf(out, "FAULTS %ld\nFORKS %ld\nEXECS %ld\nREAD %ld\n", faults, forks, execs, bytes);
	fclose(out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
