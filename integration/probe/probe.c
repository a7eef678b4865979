/*
 * What a container really has, one fact a line, for a test to read.
 *
 *   probe [--lib NAME] [--dev PATH] [--mknod [b]MAJ:MIN] [--hash FILE] [--mounts -] [--cached NAME] [--env NAME] [--hold SECONDS] ...
 *
 *   lib NAME ok PATH HASH           dlopen-ed; PATH is the file that is mapped, HASH its content
 *   lib NAME missing MESSAGE        the loader's own words
 *   lib NAME unsupported            this build of the probe is static
 *   dev PATH ok|absent|refused|nodriver|errno-N
 *   mknod MAJ:MIN ok|refused|nodriver|unmade|errno-N    a character node, or a block node of bMAJ:MIN
 *   hash FILE HASH|errno-N
 *   cached NAME PATH INODE SIZE|absent|errno-N    the first NAME in /etc/ld.so.cache, and the file it leads to
 *   mount LINE                      each line of /proc/self/mountinfo
 *   probe done                      the last line, always
 *
 * "nodriver" (ENXIO) means that the node is there and the device cgroup let the open through to a kernel which has no
 * driver of that number; "refused" (EPERM) is the cgroup's no. Options are carried out in the order given; the exit
 * status is 0 whenever all of them were carried out, whatever they found.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#ifndef PROBE_STATIC
#include <dlfcn.h>
#include <link.h>
#endif

/* FNV-1a over 64-bit words (the tail byte by byte): tells two libraries apart, fast, with no library of its own. */
static int hash_file(const char *path, uint64_t *hash)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st))
		return errno;
	*hash = 0xcbf29ce484222325u ^ (uint64_t)st.st_size;
	if (st.st_size == 0)
		return close(fd), 0;
	const unsigned char *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return errno;
	size_t i = 0, n = (size_t)st.st_size;
	for (uint64_t w; i + 8 <= n; i += 8) {
		memcpy(&w, p + i, 8);
		*hash = (*hash ^ w) * 0x100000001b3u;
	}
	for (; i < n; i++)
		*hash = (*hash ^ p[i]) * 0x100000001b3u;
	munmap((void *)p, n);
	return 0;
}

#ifndef PROBE_STATIC
/* The path of the file mapped at an address, as the kernel says it: links resolved, whatever name the loader used. */
static int mapped_at(uintptr_t address, char *path, size_t size)
{
	char line[4352];
	FILE *maps = fopen("/proc/self/maps", "re");
	int found = 0;

	while (maps && !found && fgets(line, sizeof line, maps)) {
		unsigned long from, to;
		int at = 0;
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &from, &to, &at) < 2 || address < from || address >= to || !at)
			continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(path, size, "%s", line + at);
		found = path[0] != 0;
	}
	if (maps)
		fclose(maps);
	return found;
}

static void probe_lib(const char *name)
{
	char path[4096];
	uint64_t hash = 0;
	struct link_map *map;
	void *lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);

	if (!lib)
		printf("lib %s missing %s\n", name, dlerror());
	else if (dlinfo(lib, RTLD_DI_LINKMAP, &map) || !mapped_at((uintptr_t)map->l_ld, path, sizeof path))
		printf("lib %s ok ? ?\n", name);
	else
		printf("lib %s ok %s %016lx\n", name, path, hash_file(path, &hash) ? 0 : (unsigned long)hash);
}
#else
static void probe_lib(const char *name) { printf("lib %s unsupported\n", name); }
#endif

static void try_open(const char *what, const char *label, const char *path)
{
	int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		printf("%s %s ok\n", what, label), close(fd);
	else if (errno == ENOENT)
		printf("%s %s absent\n", what, label);
	else if (errno == EPERM)
		printf("%s %s refused\n", what, label);
	else if (errno == ENXIO || errno == ENODEV)
		printf("%s %s nodriver\n", what, label);
	else
		printf("%s %s errno-%d\n", what, label, errno);
}

/* A node made by the container itself: only the device cgroup stands between it and the hardware. */
static void probe_mknod(const char *number)
{
	static const char *const places[] = { "/dev", "/tmp", "/run", "/" };
	unsigned major, minor;
	char path[64];
	int error = EINVAL, block = number[0] == 'b';

	if (sscanf(number + block, "%u:%u", &major, &minor) != 2)
		exit(2);
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		snprintf(path, sizeof path, "%s/probe-node", places[i]);
		unlink(path);
		if (mknod(path, (block ? S_IFBLK : S_IFCHR) | 0666, makedev(major, minor)) == 0) {
			try_open("mknod", number, path);
			unlink(path);
			return;
		}
		error = errno;
	}
	printf("mknod %s unmade errno-%d\n", number, error);
}

static void probe_hash(const char *path)
{
	uint64_t hash = 0;
	int error = hash_file(path, &hash);

	if (error)
		printf("hash %s errno-%d\n", path, error);
	else
		printf("hash %s %016lx\n", path, (unsigned long)hash);
}

/* What this process has mounted. The container's own /proc may be covered: that is a line without an answer. */
static void probe_mounts(void)
{
	char line[8192];
	FILE *mounts = fopen("/proc/self/mountinfo", "re");

	if (!mounts)
		printf("mount errno-%d\n", errno);
	while (mounts && fgets(line, sizeof line, mounts))
		printf("mount %s", line);
	if (mounts)
		fclose(mounts);
}

/* The first path to a library in the loader's cache: what the loader takes, without a loader. The paths are strings in the file. */
static void probe_cached(const char *name)
{
	static char cache[1 << 20];
	int fd = open("/etc/ld.so.cache", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, cache, sizeof cache - 1);
	size_t length = strlen(name);
	struct stat st;

	if (fd >= 0)
		close(fd);
	for (char *at = cache, *end = cache + (size < 0 ? 0 : size); at < end; at += strlen(at) + 1) {
		size_t n = strlen(at);
		if (n <= length || *at != '/' || at[n - length - 1] != '/' || strcmp(at + n - length, name))
			continue;
		if (stat(at, &st))
			printf("cached %s %s errno-%d\n", name, at, errno);
		else
			printf("cached %s %s %lu %lu\n", name, at, (unsigned long)st.st_ino, (unsigned long)st.st_size);
		return;
	}
	printf("cached %s absent\n", name);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i + 1 < argc; i += 2) {
		const char *what = argv[i], *value = argv[i + 1];
		if (!strcmp(what, "--lib"))
			probe_lib(value);
		else if (!strcmp(what, "--dev"))
			try_open("dev", value, value);
		else if (!strcmp(what, "--mknod"))
			probe_mknod(value);
		else if (!strcmp(what, "--hash"))
			probe_hash(value);
		else if (!strcmp(what, "--mounts"))
			probe_mounts();
		else if (!strcmp(what, "--cached"))
			probe_cached(value);
		else if (!strcmp(what, "--env"))
			printf("env %s=%s\n", value, getenv(value) ? getenv(value) : "");
		else if (!strcmp(what, "--hold"))
			sleep((unsigned)atoi(value));
		else
			return fprintf(stderr, "probe: unknown option %s\n", what), 2;
	}
	puts("probe done");
	return argc % 2 ? 0 : 2;
}
