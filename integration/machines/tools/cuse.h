/* A character device that a process serves, by CUSE (linux/fuse.h). */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 65536
static char request[MOST + 4096];

static int reply(int fd, uint64_t unique, int error, const void *body, size_t size)
{
	struct fuse_out_header header = { .len = (uint32_t)(sizeof(header) + size), .error = error, .unique = unique };
	struct iovec parts[2] = { { &header, sizeof(header) }, { (void *)body, size } };

	return writev(fd, parts, 2) == (ssize_t)header.len ? 0 : -1;
}

/* The next request, or none if the kernel has closed the device. */
static const struct fuse_in_header *next_request(int fd)
{
	for (;;) {
		ssize_t got = read(fd, request, sizeof(request));

		if (got >= (ssize_t)sizeof(struct fuse_in_header))
			return (const struct fuse_in_header *)request;
		if (got >= 0 || errno != EINTR)
			return NULL;
	}
}

/* Makes the device, whose name may have a directory; its requests come from the returned descriptor. */
static int create_device(const char *name, unsigned major, unsigned minor)
{
	struct { struct cuse_init_out init; char info[64]; } out = { 0 };
	int fd = open("/dev/cuse", O_RDWR | O_CLOEXEC);
	const struct fuse_in_header *in = fd < 0 ? NULL : next_request(fd);

	if (!in)
		return -1;
	out.init.major = FUSE_KERNEL_VERSION;
	out.init.minor = 23;
	out.init.flags = CUSE_UNRESTRICTED_IOCTL;
	out.init.max_read = out.init.max_write = MOST;
	out.init.dev_major = major;
	out.init.dev_minor = minor;
	int size = snprintf(out.info, sizeof(out.info), "DEVNAME=%s", name);
	return reply(fd, in->unique, 0, &out, sizeof(out.init) + (size_t)size + 1) ? -1 : fd;
}

/* The answers that are the same for every device. */
static void reply_usual(int fd, const struct fuse_in_header *in)
{
	switch (in->opcode) {
	case FUSE_FLUSH: case FUSE_RELEASE: case FUSE_FSYNC: reply(fd, in->unique, 0, NULL, 0); break;
	case FUSE_INTERRUPT: break;
	default: reply(fd, in->unique, -ENOSYS, NULL, 0);
	}
}
