/*
 * Sees what happens to a host's files while something runs, by fanotify:
 *   watch [--tree DIR]... [--changes DIR]... [--except DIR]...
 *
 *   --tree     everything: who opens, executes, reads, writes, makes, moves or removes it, or changes its attributes
 *   --changes  what changes on DIR's file system, DIR and all below it
 *   --except   but not in this directory, or below it
 *
 * Says `watching N` when all marks are set, waits for the end of standard input (or a line), and then prints what happened, a line
 * each: EVENT[,EVENT...] PATH by PROGRAM. What a kernel does in a call is in the queue before the call returns, so nothing is missed of
 * processes that have ended by then. A queue that ran over is a line of its own, and so is a set-up that failed: exit status 1.
 *
 * Directories are marked one by one, because overlayfs has no handles that could be opened again, and marks of mounts and file systems
 * want those. The marks are on inodes, so it does not matter by which mount, name space or descriptor a file is reached.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef FAN_REPORT_TARGET_FID
#define FAN_REPORT_TARGET_FID 0x00001000
#endif
/* Linux 6.5: a handle to compare, not to open. */
#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200
#endif

#define CHANGES (FAN_MODIFY | FAN_ATTRIB | FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO)
#define USES (FAN_OPEN | FAN_OPEN_EXEC | FAN_ACCESS)
#define OF_ITSELF (FAN_DELETE_SELF | FAN_MOVE_SELF)
#define OF_CHILDREN (FAN_ONDIR | FAN_EVENT_ON_CHILD)

static const struct { uint64_t bit; const char *name; } names[] = {
	{ FAN_OPEN, "OPEN" }, { FAN_OPEN_EXEC, "EXEC" }, { FAN_ACCESS, "READ" }, { FAN_MODIFY, "WRITE" }, { FAN_ATTRIB, "ATTRIB" },
	{ FAN_CREATE, "CREATE" }, { FAN_DELETE, "DELETE" }, { FAN_MOVED_FROM, "MOVE-FROM" }, { FAN_MOVED_TO, "MOVE-TO" },
	{ FAN_DELETE_SELF, "DELETE-SELF" }, { FAN_MOVE_SELF, "MOVE-SELF" },
};

/* What is marked: its handle, as events name it, and its path. */
struct known {
	int type;
	unsigned int bytes;
	unsigned char handle[MAX_HANDLE_SZ];
	char *path;
};

static struct known *table;
static size_t known, room;
static const char *excepted[16];
static int exceptions;
static int group;

static int failed(const char *what, const char *path)
{
	printf("not watched: %s %s: %s\n", what, path, strerror(errno));
	return -1;
}

static int mark(const char *path, uint64_t mask)
{
	union { struct file_handle h; char space[sizeof(struct file_handle) + MAX_HANDLE_SZ]; } handle = { 0 };
	int mount;

	handle.h.handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(AT_FDCWD, path, &handle.h, &mount, AT_HANDLE_FID))
		return failed("the handle of", path);
	if (known == room) {
		room = room ? 2 * room : 1024;
		table = realloc(table, room * sizeof *table);
		if (!table)
			return failed("the table,", path);
	}
	table[known].type = handle.h.handle_type;
	table[known].bytes = handle.h.handle_bytes;
	memcpy(table[known].handle, handle.h.f_handle, handle.h.handle_bytes);
	table[known++].path = strdup(path);
	if (fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_DONT_FOLLOW, mask, AT_FDCWD, path))
		return failed("the mark on", path);
	return 0;
}

/* The mark comes before the look, so that whatever is made in between is either found or reported. */
static int tree(const char *path, dev_t device, int everything)
{
	struct dirent *entry;
	struct stat stat;
	DIR *dir;

	for (int i = 0; i < exceptions && !everything; i++)
		if (!strcmp(path, excepted[i]))
			return 0;
	if (mark(path, everything ? USES | CHANGES | OF_ITSELF | OF_CHILDREN : CHANGES | OF_CHILDREN))
		return -1;
	dir = opendir(path);
	if (!dir)
		return failed("the directory", path);
	while ((entry = readdir(dir))) {
		char below[PATH_MAX];

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") || (!everything && entry->d_type != DT_DIR))
			continue;
		snprintf(below, sizeof below, "%s/%s", path[1] ? path : "", entry->d_name);
		if (lstat(below, &stat))
			return failed("the file", below);
		if (stat.st_dev != device && S_ISDIR(stat.st_mode))
			continue;
		/* A file has a mark of its own for what happens by another name, a hard link. What is opened by that name is not ours. */
		if (S_ISDIR(stat.st_mode) ? tree(below, device, everything) :
					    S_ISREG(stat.st_mode) && mark(below, FAN_MODIFY | FAN_ATTRIB | OF_ITSELF))
			return -1;
	}
	closedir(dir);
	return 0;
}

static const char *path_of(const struct file_handle *handle)
{
	for (size_t i = 0; i < known; i++)
		if (table[i].type == handle->handle_type && table[i].bytes == handle->handle_bytes &&
		    !memcmp(table[i].handle, handle->f_handle, handle->handle_bytes))
			return table[i].path;
	return "?";
}

static void program(int pid, char *name, size_t size)
{
	char file[64];
	ssize_t n = -1;
	int fd;

	snprintf(file, sizeof file, "/proc/%d/comm", pid);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, name, size - 1);
		close(fd);
	}
	if (n > 0)
		name[n - 1] = 0;
	else
		snprintf(name, size, "process-%d", pid);
}

static void say(FILE *out, const struct fanotify_event_metadata *event)
{
	const char *end = (const char *)event + event->event_len, *at = (const char *)event + event->metadata_len;
	const char *dir = "", *name = "", *self = "?";
	char who[64];
	int first = 1;

	if (event->mask & FAN_Q_OVERFLOW) {
		fputs("the queue ran over\n", out);
		return;
	}
	if (event->pid == getpid())
		return;
	while (at < end) {
		const struct fanotify_event_info_fid *info = (const void *)at;
		const struct file_handle *handle = (const void *)info->handle;

		if (info->hdr.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME) {
			dir = path_of(handle);
			name = (const char *)handle->f_handle + handle->handle_bytes;
		} else if (info->hdr.info_type == FAN_EVENT_INFO_TYPE_FID || info->hdr.info_type == FAN_EVENT_INFO_TYPE_DFID) {
			self = path_of(handle);
		}
		at += info->hdr.len;
	}
	program(event->pid, who, sizeof who);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (event->mask & names[i].bit) {
			fprintf(out, "%s%s", first ? "" : ",", names[i].name);
			first = 0;
		}
	if (!*dir)
		fprintf(out, " %s", self);
	else if (!strcmp(name, "."))
		fprintf(out, " %s", dir);
	else
		fprintf(out, " %s/%s", dir[0] == '/' && !dir[1] ? "" : dir, name);
	fprintf(out, " by %s\n", who);
}

/* All that is in the queue. */
static int drain(FILE *out)
{
	static union { struct fanotify_event_metadata first; char space[1 << 16]; } buffer;

	for (;;) {
		ssize_t n = read(group, &buffer, sizeof buffer);

		if (n < 0)
			return errno == EAGAIN ? 0 : errno == EINTR ? 1 : failed("the queue", "");
		for (const struct fanotify_event_metadata *e = &buffer.first; FAN_EVENT_OK(e, n); e = FAN_EVENT_NEXT(e, n))
			say(out, e);
	}
}

int main(int argc, char **argv)
{
	char *text = NULL;
	size_t size;
	struct pollfd waits[2] = { { .fd = 0, .events = POLLIN }, { .events = POLLIN } };
	struct stat stat;
	FILE *out = open_memstream(&text, &size);

	group = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC | FAN_REPORT_DFID_NAME | FAN_REPORT_FID | FAN_REPORT_TARGET_FID, O_RDONLY);
	if (group < 0 || !out)
		return failed("fanotify", ""), 1;
	for (int i = 1; i + 1 < argc; i += 2)
		if (!strcmp(argv[i], "--except") && exceptions < 16)
			excepted[exceptions++] = argv[i + 1];
	/* The trees come last: a second mark on an inode adds to the first. */
	for (int everything = 0; everything < 2; everything++)
		for (int i = 1; i + 1 < argc; i += 2)
			if (!strcmp(argv[i], everything ? "--tree" : "--changes") &&
			    (lstat(argv[i + 1], &stat) ? failed("the directory", argv[i + 1]) : tree(argv[i + 1], stat.st_dev, everything)))
				return 1;
	printf("watching %zu\n", known);
	fflush(stdout);
	waits[1].fd = group;
	/* Read as it comes: a process has a name only while it lives. */
	while (!waits[0].revents) {
		if (poll(waits, 2, -1) < 0 && errno != EINTR)
			return failed("poll", ""), 1;
		if (drain(out) < 0)
			return 1;
	}
	if (drain(out) < 0)
		return 1;
	fclose(out);
	fputs(text, stdout);
	return fflush(stdout) != 0;
}
