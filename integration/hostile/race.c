/*
 * Races, fast:
 *   race swap A B [A B]...             exchanges each pair of names (RENAME_EXCHANGE) in turn, without a pause, until it is killed
 *   race starts N STATE COMMAND...     runs COMMAND N times, each in a mount namespace of its own, with the file STATE as its standard
 *                                      input; says how often it ended how: `exit 0 9990`, `signal 9 1`
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

/* The directory that a name is in, opened before anything moves: the swapper must not be fooled by its own links. */
static int parent_of(char *path, char **name)
{
	char *slash = strrchr(path, '/');

	*name = slash ? slash + 1 : path;
	if (slash)
		*slash = 0;
	return open(slash ? path : ".", O_PATH | O_DIRECTORY);
}

static int swap(int pairs, char **names)
{
	int parents[2 * pairs];

	for (int i = 0; i < 2 * pairs; i++) {
		parents[i] = parent_of(names[i], &names[i]);
		if (parents[i] < 0)
			return perror(names[i]), 1;
	}
	for (int i = 0;; i = (i + 2) % (2 * pairs))
		if (renameat2(parents[i], names[i], parents[i + 1], names[i + 1], RENAME_EXCHANGE) && errno != ENOENT)
			return perror(names[i]), 1;
}

static void start(const char *state, char **command)
{
	int in = open(state, O_RDONLY);
	int null = open("/dev/null", O_WRONLY);

	if (in < 0 || null < 0 || dup2(in, 0) < 0 || dup2(null, 1) < 0 || unshare(CLONE_NEWNS) ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		_exit(126);
	alarm(60);
	execv(command[0], command);
	_exit(127);
}

static int starts(long n, const char *state, char **command)
{
	long exits[256] = { 0 }, signals[65] = { 0 };

	for (long i = 0; i < n; i++) {
		int status;
		pid_t pid = fork();
		if (pid == 0)
			start(state, command);
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			return perror("start"), 1;
		if (WIFEXITED(status))
			exits[WEXITSTATUS(status)]++;
		else
			signals[WTERMSIG(status) & 63]++;
	}
	for (int i = 0; i < 256; i++)
		if (exits[i])
			printf("exit %d %ld\n", i, exits[i]);
	for (int i = 0; i < 64; i++)
		if (signals[i])
			printf("signal %d %ld\n", i, signals[i]);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 3 && argc % 2 == 0 && !strcmp(argv[1], "swap"))
		return swap((argc - 2) / 2, argv + 2);
	if (argc > 4 && !strcmp(argv[1], "starts"))
		return starts(atol(argv[2]), argv[3], argv + 4);
	fputs("race swap A B [A B]... | race starts N STATE COMMAND...\n", stderr);
	return 2;
}
