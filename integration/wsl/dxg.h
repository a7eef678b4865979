/*
 * The Windows side of /dev/dxg: its commands, answered from a file. dxg-host.c and the guests' dxg.c (machines) include it.
 *
 * As in Microsoft's dxgkrnl, the whole command word is compared (a struct of another size is ENOTTY), and adapters are open
 * until closed. FILE is read anew at each open, so a test can replace the driver on "Windows" meanwhile:
 *
 *   errno NUMBER                opening fails
 *   foreign                     every command is ENOTTY: a kernel of another protocol
 *   no-enum3                    a kernel without ENUMADAPTERS3
 *   adapter VENDOR DEVICE WDDM A.B.C.D WINDOWS-PATH      hexadecimal ids; "-" is a question the host refuses
 *
 * The log has one line for each call: `open PID PROGRAM`, `ioctl PID NUMBER RESULT`, `left PID COUNT` for adapters left open at exit.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	OPENADAPTERFROMLUID = 0xC00C4701, QUERYADAPTERINFO = 0xC0184709, ENUMADAPTERS2 = 0xC0104714,
	CLOSEADAPTER = 0xC0044715, ENUMADAPTERS3 = 0xC018473E
};

struct adapter { char vendor[16], device[16], wddm[16], version[32], path[260]; };
static struct adapter adapters[8];
static unsigned count;
static int open_errno, foreign, no_enum3;

static struct { pid_t pid; uint32_t handle; } handles[4096];
static const char *host_file;
static FILE *trace;

static void read_host(void)
{
	char line[512];
	FILE *f = fopen(host_file, "re");

	count = 0, open_errno = foreign = no_enum3 = 0;
	while (f && fgets(line, sizeof line, f)) {
		struct adapter a;
		line[strcspn(line, "\n")] = 0;
		if (sscanf(line, "adapter %15s %15s %15s %31s %259[^\n]", a.vendor, a.device, a.wddm, a.version, a.path) == 5 && count < 8)
			adapters[count++] = a;
		else if (sscanf(line, "errno %d", &open_errno) == 1 || !*line)
			;
		else if (!strcmp(line, "foreign"))
			foreign = 1;
		else if (!strcmp(line, "no-enum3"))
			no_enum3 = 1;
	}
	if (f)
		fclose(f);
}

static int get(pid_t pid, uint64_t at, void *to, size_t size)
{
	struct iovec local = { to, size }, remote = { (void *)(uintptr_t)at, size };
	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)size ? 0 : EFAULT;
}

static int put(pid_t pid, uint64_t at, const void *from, size_t size)
{
	struct iovec local = { (void *)from, size }, remote = { (void *)(uintptr_t)at, size };
	return process_vm_writev(pid, &local, 1, &remote, 1, 0) == (ssize_t)size ? 0 : EFAULT;
}

static int link_of(char *to, size_t size, const char *format, pid_t pid, long number)
{
	char name[64];
	snprintf(name, sizeof name, format, pid, number);
	ssize_t n = readlink(name, to, size - 1);
	to[n > 0 ? n : 0] = 0;
	return n > 0;
}

static uint32_t new_handle(pid_t pid)
{
	for (uint32_t i = 0; i < sizeof handles / sizeof *handles; i++)
		if (!handles[i].pid) {
			handles[i].pid = pid;
			return handles[i].handle = 0x40000000u | i << 6;
		}
	abort();
}

static int find_handle(pid_t pid, uint32_t handle)
{
	for (size_t i = 0; i < sizeof handles / sizeof *handles; i++)
		if (handles[i].pid == pid && handles[i].handle == handle)
			return (int)i;
	return -1;
}

/* Adapters are remembered by the low bits of the place they were given: handle -> adapter. */
static uint8_t adapter_of[4096];

static int list(pid_t pid, uint64_t at)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t handle = new_handle(pid), info[5] = { handle, 0x1000 + i, 0, 0, 0 };
		adapter_of[handle >> 6 & 0xfff] = (uint8_t)i;
		int e = put(pid, at + 20 * i, info, sizeof info);
		if (e)
			return e;
	}
	return 0;
}

static int query_registry(pid_t pid, uint64_t at, uint32_t size, const struct adapter *a)
{
	uint32_t head[2], status, bytes;
	uint16_t wide[260];

	if (size < 552)
		return EINVAL;
	if (get(pid, at, head, sizeof head))
		return EFAULT;
	if (head[0] != 2 || head[1] != 0 || !strcmp(a->path, "-"))
		return EINVAL;
	size_t n = strlen(a->path) + 1;
	for (size_t i = 0; i < n; i++)
		wide[i] = (unsigned char)a->path[i];
	bytes = (uint32_t)(2 * n);
	status = size - 544 < bytes;
	if (!status && put(pid, at + 544, wide, bytes))
		return EFAULT;
	uint32_t type = 1;
	return put(pid, at + 528, &type, 4) || put(pid, at + 536, &bytes, 4) || put(pid, at + 540, &status, 4) ? EFAULT : 0;
}

static int query(pid_t pid, uint64_t arg)
{
	struct { uint32_t handle, type; uint64_t data; uint32_t size, pad; } q;
	int h;

	_Static_assert(sizeof q == 24, "queryadapterinfo");
	if (get(pid, arg, &q, sizeof q))
		return EFAULT;
	if (q.size == 0 || q.size > 128 * 1024 || (h = find_handle(pid, q.handle)) < 0)
		return EINVAL;
	const struct adapter *a = &adapters[adapter_of[q.handle >> 6 & 0xfff]];
	switch (q.type) {
	case 13: {
		uint32_t wddm = (uint32_t)strtoul(a->wddm, NULL, 10);
		return q.size != 4 || *a->wddm == '-' ? EINVAL : put(pid, q.data, &wddm, 4);
	}
	case 31: {
		uint32_t ids[7] = { 0, (uint32_t)strtoul(a->vendor, NULL, 16), (uint32_t)strtoul(a->device, NULL, 16), 0, 0, 0, 0 };
		return q.size != 28 || *a->vendor == '-' ? EINVAL : put(pid, q.data, ids, 28);
	}
	case 48:
		return query_registry(pid, q.data, q.size, a);
	case 49: {
		unsigned v[4];
		if (q.size != 8 || sscanf(a->version, "%u.%u.%u.%u", v, v + 1, v + 2, v + 3) != 4)
			return EINVAL;
		uint64_t packed = (uint64_t)v[0] << 48 | (uint64_t)v[1] << 32 | (uint64_t)v[2] << 16 | v[3];
		return put(pid, q.data, &packed, 8);
	}
	}
	return EINVAL;
}

static int command(pid_t pid, uint32_t number, uint64_t arg)
{
	struct { uint64_t filter; uint32_t count, pad; uint64_t adapters; } e3;
	struct { uint32_t count, pad; uint64_t adapters; } e2;
	uint32_t handle;
	int e, h;

	_Static_assert(sizeof e3 == 24 && sizeof e2 == 16, "enumadapters");
	if (foreign)
		return ENOTTY;
	switch (number) {
	case ENUMADAPTERS3:
		if (no_enum3)
			return ENOTTY;
		if (get(pid, arg, &e3, sizeof e3))
			return EFAULT;
		if (e3.adapters && e3.count) {
			if (e3.count < count)
				return EOVERFLOW;
			if ((e = list(pid, e3.adapters)))
				return e;
		}
		e3.count = count;
		return put(pid, arg, &e3, sizeof e3);
	case ENUMADAPTERS2:
		if (get(pid, arg, &e2, sizeof e2))
			return EFAULT;
		if (e2.adapters) {
			if (e2.count > 64)
				return EINVAL;
			if (e2.count < count)
				return EOVERFLOW;
			if ((e = list(pid, e2.adapters)))
				return e;
		}
		e2.count = count;
		return put(pid, arg, &e2, sizeof e2);
	case QUERYADAPTERINFO:
		return query(pid, arg);
	case CLOSEADAPTER:
		if (get(pid, arg, &handle, 4))
			return EFAULT;
		if ((h = find_handle(pid, handle)) < 0)
			return EINVAL;
		handles[h].pid = 0;
		return 0;
	}
	return ENOTTY;
}

/* Says which adapters were left open by processes that are gone, once for each process. */
static void reap_handles(void)
{
	for (size_t i = 0; i < sizeof handles / sizeof *handles; i++) {
		pid_t pid = handles[i].pid;
		int left = 0;
		if (!pid || !kill(pid, 0) || errno != ESRCH)
			continue;
		for (size_t j = i; j < sizeof handles / sizeof *handles; j++)
			if (handles[j].pid == pid)
				handles[j].pid = 0, left++;
		fprintf(trace, "left %d %d\n", pid, left);
	}
}
