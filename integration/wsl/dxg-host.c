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
 * The state belongs to the process that opened the device: another one gets ENOTTY. dxg.h has the commands, FILE and the log.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include "dxg.h"

static const char *programs;
static dev_t node;

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
