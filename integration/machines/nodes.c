/*
 * Character devices that open and answer, by CUSE (linux/fuse.h): `nodes NAME:MAJOR:MINOR...`.
 *
 * A read returns the device's name from its beginning, an ioctl its minor number, a write takes everything. The
 * program returns once the kernel has all devices; one process a device stays and serves it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 65536
static char request[MOST + 4096];

static int reply(int fd, uint64_t unique, int error, const void *body, size_t size)
{
	char out[256];
	struct fuse_out_header *header = (struct fuse_out_header *)out;

	header->len = (uint32_t)(sizeof(*header) + size);
	header->error = error;
	header->unique = unique;
	if (size)
		memcpy(out + sizeof(*header), body, size);
	return write(fd, out, header->len) == (ssize_t)header->len ? 0 : -1;
}

static int offer(int fd, uint64_t unique, const char *name, unsigned major, unsigned minor)
{
	struct { struct cuse_init_out init; char info[64]; } out = { 0 };

	out.init.major = FUSE_KERNEL_VERSION;
	out.init.minor = 23;
	out.init.flags = CUSE_UNRESTRICTED_IOCTL;
	out.init.max_read = out.init.max_write = MOST;
	out.init.dev_major = major;
	out.init.dev_minor = minor;
	int size = snprintf(out.info, sizeof(out.info), "DEVNAME=%s", name);
	return reply(fd, unique, 0, &out, sizeof(out.init) + (size_t)size + 1);
}

static void serve(int fd, const char *name, unsigned minor)
{
	for (;;) {
		ssize_t got = read(fd, request, sizeof(request));
		const struct fuse_in_header *in = (const struct fuse_in_header *)request;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < (ssize_t)sizeof(*in))
			_exit(1);
		struct fuse_open_out opened = { .open_flags = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE };
		struct fuse_ioctl_out answered = { .result = (int)minor };
		size_t asked = ((const struct fuse_read_in *)(in + 1))->size, size = strlen(name);
		struct fuse_write_out written = { .size = ((const struct fuse_write_in *)(in + 1))->size };
		switch (in->opcode) {
		case FUSE_OPEN: reply(fd, in->unique, 0, &opened, sizeof(opened)); break;
		case FUSE_READ: reply(fd, in->unique, 0, name, size < asked ? size : asked); break;
		case FUSE_WRITE: reply(fd, in->unique, 0, &written, sizeof(written)); break;
		case FUSE_IOCTL: reply(fd, in->unique, 0, &answered, sizeof(answered)); break;
		case FUSE_FLUSH: case FUSE_RELEASE: case FUSE_FSYNC: reply(fd, in->unique, 0, NULL, 0); break;
		case FUSE_INTERRUPT: break;
		default: reply(fd, in->unique, -ENOSYS, NULL, 0);
		}
	}
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		char name[32];
		unsigned major, minor;
		int fd = open("/dev/cuse", O_RDWR);

		if (fd < 0 || sscanf(argv[i], "%31[^:]:%u:%u", name, &major, &minor) != 3)
			return perror(argv[i]), 1;
		if (read(fd, request, sizeof(request)) < (ssize_t)sizeof(struct fuse_in_header))
			return perror("CUSE_INIT"), 1;
		if (offer(fd, ((struct fuse_in_header *)request)->unique, name, major, minor))
			return perror(name), 1;
		if (fork() == 0) {
			setsid();
			serve(fd, name, minor);
		}
		close(fd);
	}
	puts("nodes ready");
	return 0;
}
