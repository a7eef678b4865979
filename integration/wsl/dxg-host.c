/*
 * Plays the Windows side of /dev/dxg for one command and all its descendants, at the system-call boundary.
 *
 *   dxg-host --host FILE --log FILE --programs NAME,NAME... -- COMMAND...
 *
 * A seccomp filter, inherited by every child, hands two kinds of calls to this supervisor: opening something for reading,
 * and ioctl(2) with a command of type 'G'. An open is answered only for the programs named (by the file name of their
 * executable) and only when what is opened is the character device of /dev/dxg, whose node is a real one; they get the
 * descriptor of an empty memfd, and a 'G' ioctl on such a descriptor is answered from FILE. Everything else goes on to the
 * kernel as if nobody had looked: runc and crun, the probe in a container, and the device cgroup.
 *
 * As in Microsoft's dxgkrnl, the whole command word is compared (a struct of another size is ENOTTY), the state belongs to
 * the process that opened the device (another one gets ENOTTY), and adapters are open until closed. FILE is read anew at each
 * open, so a test can replace the driver on "Windows" meanwhile:
 *
 *   errno NUMBER                opening fails
 *   foreign                     every command is ENOTTY: a kernel of another protocol
 *   no-enum3                    a kernel without ENUMADAPTERS3
 *   adapter VENDOR DEVICE WDDM A.B.C.D WINDOWS-PATH      hexadecimal ids; "-" is a question the host refuses
 *
 * The log has one line for each call: `open PID PROGRAM`, `ioctl PID NUMBER RESULT`, `left PID COUNT` for adapters left open at exit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
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
static const char *host_file, *programs;
static FILE *trace;
static dev_t node;

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

/* A path of the target, as far as its page goes. */
static int get_path(pid_t pid, uint64_t at, char *to, size_t size)
{
	size_t room = 4096 - (at & 4095), n = room < size - 1 ? room : size - 1;

	memset(to, 0, size);
	if (get(pid, at, to, n))
		return 0;
	if (!memchr(to, 0, n) && n < size - 1)
		get(pid, at + n, to + n, size - 1 - n);
	return 1;
}

static int link_of(char *to, size_t size, const char *format, pid_t pid, long number)
{
	char name[64];
	snprintf(name, sizeof name, format, pid, number);
	ssize_t n = readlink(name, to, size - 1);
	to[n > 0 ? n : 0] = 0;
	return n > 0;
}

static char exe[512];

static int is_served(pid_t pid)
{
	if (!link_of(exe, sizeof exe, "/proc/%d/exe", pid, 0))
		return 0;
	const char *name = strrchr(exe, '/'), *at = programs;
	size_t n = name ? strlen(++name) : 0;
	for (; n && (at = strstr(at, name)); at += n)
		if ((at == programs || at[-1] == ',') && (at[n] == 0 || at[n] == ','))
			return 1;
	return 0;
}

/* Whether the call opens the device: by its path, or again through the caller's own descriptor directory. */
static int opens_device(const struct seccomp_notif *req)
{
	int at = req->data.nr == SYS_openat;
	char path[256], real[512], dir[512];
	struct stat st;

	if (!get_path(req->pid, req->data.args[at], path, sizeof path))
		return 0;
	size_t n = strlen(path);
	if (n && strspn(path, "0123456789") == n) {
		if (!at || !link_of(dir, sizeof dir, "/proc/%d/fd/%ld", req->pid, (int)req->data.args[0]))
			return 0;
		size_t d = strlen(dir);
		if (d < 3 || strcmp(dir + d - 3, "/fd"))
			return 0;
		snprintf(real, sizeof real, "/proc/%d/fd/%.20s", req->pid, path);
	} else if (n >= 4 && path[0] == '/' && !strcmp(path + n - 4, "/dxg")) {
		snprintf(real, sizeof real, "/proc/%d/root%s", req->pid, path);
	} else {
		return 0;
	}
	return !stat(real, &st) && S_ISCHR(st.st_mode) && st.st_rdev == node;
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

static void answer(int listener, const struct seccomp_notif *req)
{
	struct seccomp_notif_resp resp = { .id = req->id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };
	char name[64], target[512];

	if (req->data.nr != SYS_ioctl) {
		if (is_served(req->pid) && opens_device(req)) {
			read_host();
			fprintf(trace, "open %d %s\n", req->pid, strrchr(exe, '/') + 1);
			if (open_errno) {
				resp.flags = 0, resp.error = -open_errno;
			} else {
				snprintf(name, sizeof name, "dxg-%d", req->pid);
				int fd = memfd_create(name, MFD_CLOEXEC);
				struct seccomp_notif_addfd add = { .id = req->id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = (uint32_t)fd, .newfd_flags = O_CLOEXEC };
				ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
				close(fd);
				return;
			}
		}
	} else if (link_of(target, sizeof target, "/proc/%d/fd/%ld", req->pid, (int)req->data.args[0]) && !strncmp(target, "/memfd:dxg-", 11)) {
		uint32_t number = (uint32_t)req->data.args[1];
		int e = atoi(target + 11) == (int)req->pid ? command((pid_t)req->pid, number, req->data.args[2]) : ENOTTY;
		fprintf(trace, "ioctl %d 0x%08X %d\n", req->pid, number, e);
		resp.flags = 0, resp.error = -e;
	}
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
	reap_handles();
	fflush(trace);
}

static int install(void)
{
	const uint32_t flags = O_ACCMODE | O_PATH | O_CREAT | O_DIRECTORY;
	struct sock_filter prog[] = {
		/* 0 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		/* 1 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 11),       /* else 13 */
		/* 2 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		/* 3 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 2, 0),               /* 6 */
		/* 4 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_open, 3, 0),                 /* 8 */
		/* 5 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 4, 7),                /* 10, else 13 */
		/* 6 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		/* 7 */ BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, flags, 5, 6),                   /* 13, else 14 */
		/* 8 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		/* 9 */ BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, flags, 3, 4),                   /* 13, else 14 */
		/* 10 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		/* 11 */ BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
		/* 12 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'G' << 8, 1, 0),                /* 14 */
		/* 13 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		/* 14 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	struct sock_fprog fprog = { sizeof prog / sizeof *prog, prog };
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &fprog);
}

int main(int argc, char **argv)
{
	const char *log_file = NULL;
	int i = 1, wired[2], go[2], number, status = 0;
	struct stat st;

	for (; i + 1 < argc && strcmp(argv[i], "--"); i += 2) {
		if (!strcmp(argv[i], "--host"))
			host_file = argv[i + 1];
		else if (!strcmp(argv[i], "--log"))
			log_file = argv[i + 1];
		else if (!strcmp(argv[i], "--programs"))
			programs = argv[i + 1];
	}
	if (!host_file || !log_file || !programs || i + 1 >= argc || stat("/dev/dxg", &st) || !S_ISCHR(st.st_mode) || !(trace = fopen(log_file, "ae")))
		return fprintf(stderr, "dxg-host: see the head of dxg-host.c; /dev/dxg must be a node\n"), 2;
	node = st.st_rdev;
	if (pipe2(wired, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		return 2;
	pid_t child = fork();
	if (child == 0) {
		char c;
		number = install();
		if (number < 0)
			perror("dxg-host: seccomp");
		if (write(wired[1], &number, sizeof number) != sizeof number || number < 0 || read(go[0], &c, 1) != 1)
			_exit(2);
		close(number);
		execvp(argv[i + 1], argv + i + 1);
		perror("dxg-host: exec");
		_exit(127);
	}
	if (read(wired[0], &number, sizeof number) != sizeof number || number < 0)
		return 2;
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	int listener = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	if (listener < 0 || write(go[1], "", 1) != 1)
		return perror("dxg-host: listener"), 2;

	struct seccomp_notif_sizes sizes;
	syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes);
	struct seccomp_notif *req = malloc(sizes.seccomp_notif);
	for (;;) {
		struct pollfd fds[2] = { { listener, POLLIN, 0 }, { pidfd, POLLIN, 0 } };
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return 2;
		if (fds[0].revents & POLLIN) {
			memset(req, 0, sizes.seccomp_notif);
			if (!ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, req))
				answer(listener, req);
		} else if (fds[1].revents) {
			break;
		}
	}
	waitpid(child, &status, 0);
	reap_handles();
	fclose(trace);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
