/*
 * /dev/dxg as a device: `dxg MINOR FILE LOG`; FILE, LOG and the commands are those of wsl/dxg.h.
 *
 * A command's argument is in the caller's memory, which this process reads and writes as a driver does. As in Microsoft's
 * dxgkrnl, the state belongs to the process that opened the device: another one gets ENOTTY.
 */
#define _GNU_SOURCE
#include "cuse.h"
#include "../../wsl/dxg.h"

static void opened(int fd, const struct fuse_in_header *in)
{
	struct fuse_open_out out = { .fh = in->pid, .open_flags = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE };
	char exe[512];

	read_host();
	fprintf(trace, "open %d %s\n", (int)in->pid, link_of(exe, sizeof(exe), "/proc/%d/exe", (pid_t)in->pid, 0) ? strrchr(exe, '/') + 1 : "?");
	reply(fd, in->unique, -open_errno, &out, open_errno ? 0 : sizeof(out));
}

static void commanded(int fd, const struct fuse_in_header *in)
{
	const struct fuse_ioctl_in *arg = (const struct fuse_ioctl_in *)(in + 1);
	int error = arg->fh == in->pid ? command((pid_t)in->pid, arg->cmd, arg->arg) : ENOTTY;
	struct fuse_ioctl_out out = { .result = -error };

	fprintf(trace, "ioctl %d 0x%08X %d\n", (int)in->pid, arg->cmd, error);
	reply(fd, in->unique, 0, &out, sizeof(out));
}

int main(int argc, char **argv)
{
	const struct fuse_in_header *in;
	int fd;

	if (argc != 4 || !(trace = fopen(argv[3], "ae")))
		return fprintf(stderr, "dxg: see the head of dxg.c\n"), 2;
	host_file = argv[2];
	/* The major number of miscellaneous devices, which have the first 256 minors on kernels before 6.2. */
	fd = create_device("dxg", 10, (unsigned)atoi(argv[1]));
	if (fd < 0)
		return perror("dxg"), 1;
	if (fork())
		return 0;
	setsid();
	while ((in = next_request(fd))) {
		switch (in->opcode) {
		case FUSE_OPEN: opened(fd, in); break;
		case FUSE_IOCTL: commanded(fd, in); break;
		default: reply_usual(fd, in);
		}
		reap_handles();
		fflush(trace);
	}
	return 1;
}
