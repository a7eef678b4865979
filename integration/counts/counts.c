/*
 * Counts what one program does while a command runs: its system calls by name, page faults, forks, executed programs, bytes read.
 *
 *   counts PROGRAM OUT COMMAND...     PROGRAM is a file name without its directory; OUT gets lines of `NAME COUNT`
 *
 * Follows every process of the command by ptrace and counts those that run PROGRAM, from its exec to the next exec or the end. When
 * the command ends, what it left running is killed. The exit status is the command's, or 125 where tracing is refused.
 *
 * With FUNCTIONS=FILE in the environment, OUT gets a line `FIRST NAME` too for each function that PROGRAM has called, in the order of
 * the first calls. FILE has the program's functions as `nm --print-size` prints them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
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

/* A function of PROGRAM: a breakpoint is at its first byte until it is called. */
static struct function {
	unsigned long at;      /* from the program's load address */
	char name[2048];
} *functions;
static size_t n_functions;
static unsigned long loaded_at;
static FILE *out;

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

static int by_address(const void *a, const void *b)
{
	unsigned long x = ((const struct function *)a)->at, y = ((const struct function *)b)->at;
	return x < y ? -1 : x > y;
}

static void read_functions(const char *path)
{
	FILE *f = fopen(path, "re");
	char line[4096];
	if (!f)
		die(path);
	while (fgets(line, sizeof line, f)) {
		struct function *grown = realloc(functions, (n_functions + 1) * sizeof *functions);
		char kind;
		if (!grown)
			die("realloc");
		functions = grown;
		struct function *next = functions + n_functions;
		if (sscanf(line, "%lx %*x %c %2047s", &next->at, &kind, next->name) == 3 && strchr("tTwW", kind))
			n_functions++;
	}
	fclose(f);
	qsort(functions, n_functions, sizeof *functions, by_address);
	/* Folded functions have one address. */
	size_t kept = 0;
	for (size_t i = 0; i < n_functions; i++)
		if (!kept || functions[kept - 1].at != functions[i].at)
			functions[kept++] = functions[i];
	n_functions = kept;
}

/* Changes the byte at an address of a stopped task, and returns the one that was there. */
static unsigned char exchange(pid_t pid, unsigned long at, unsigned char byte)
{
	unsigned long word = at & ~7ul, shift = 8 * (at & 7);
	errno = 0;
	unsigned long there = ptrace(PTRACE_PEEKTEXT, pid, word, 0);
	if (errno)
		die("peek");
	if (ptrace(PTRACE_POKETEXT, pid, word, (there & ~(0xfful << shift)) | (unsigned long)byte << shift) < 0)
		die("poke");
	return there >> shift;
}

/* The bytes that the breakpoints replaced, by function. Each process has breakpoints of its own, which a fork copies. */
static unsigned char *replaced;

static void plant(pid_t pid)
{
	char path[64], exe[4096], line[4400];
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	ssize_t n = readlink(path, exe, sizeof exe - 1);
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *f = fopen(path, "re");
	if (n < 0 || !f)
		die("maps");
	exe[n] = 0;
	/* The kernel's own mappings may come before those of the program. */
	do {
		if (!fgets(line, sizeof line, f))
			die("maps");
	} while (!strstr(line, exe));
	fclose(f);
	loaded_at = strtoul(line, NULL, 16);
	if (!replaced)
		replaced = malloc(n_functions);
	if (!replaced)
		die("malloc");
	for (size_t i = 0; i < n_functions; i++)
		replaced[i] = exchange(pid, loaded_at + functions[i].at, 0xcc);
}

/* A breakpoint: names the function, and lets it run. Returns 0 where there is none. */
static int called(pid_t pid)
{
	struct user_regs_struct registers;
	if (ptrace(PTRACE_GETREGS, pid, 0, &registers) < 0)
		return 0;
	struct function wanted = { .at = registers.rip - 1 - loaded_at };
	struct function *found = bsearch(&wanted, functions, n_functions, sizeof *functions, by_address);
	if (!found)
		return 0;
	exchange(pid, loaded_at + found->at, replaced[found - functions]);
	registers.rip--;
	ptrace(PTRACE_SETREGS, pid, 0, &registers);
	fprintf(out, "FIRST %s\n", found->name);
	return 1;
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
		if (t->counts && functions)
			plant(t->pid);
		return 0;
	case PTRACE_EVENT_EXIT:
		ended(t);
		return 0;
	}
	if (!event && WSTOPSIG(status) == SIGTRAP && functions && called(t->pid))
		return 0;
	/* A new task begins with a stop of ours. */
	return event || WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		die("usage: counts PROGRAM OUT COMMAND...");
	out = fopen(argv[2], "we");
	if (!out)
		die(argv[2]);
	if (getenv("FUNCTIONS"))
		read_functions(getenv("FUNCTIONS"));
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
