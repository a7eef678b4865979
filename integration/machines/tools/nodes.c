/*
 * Character devices that open and answer: `nodes NAME:MAJOR:MINOR[:TEXT]...`.
 *
 * A read returns the device's name and TEXT from their beginning, an ioctl its minor number, a write takes everything. The
 * program returns once the kernel has all devices; one process a device stays and serves it.
 */
#include "cuse.h"

static void serve(int fd, const char *answer, unsigned minor)
{
	const struct fuse_in_header *in;

	while ((in = next_request(fd))) {
		struct fuse_open_out opened = { .open_flags = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE };
		struct fuse_ioctl_out answered = { .result = (int)minor };
		size_t asked = ((const struct fuse_read_in *)(in + 1))->size, size = strlen(answer);
		struct fuse_write_out written = { .size = ((const struct fuse_write_in *)(in + 1))->size };
		switch (in->opcode) {
		case FUSE_OPEN: reply(fd, in->unique, 0, &opened, sizeof(opened)); break;
		case FUSE_READ: reply(fd, in->unique, 0, answer, size < asked ? size : asked); break;
		case FUSE_WRITE: reply(fd, in->unique, 0, &written, sizeof(written)); break;
		case FUSE_IOCTL: reply(fd, in->unique, 0, &answered, sizeof(answered)); break;
		default: reply_usual(fd, in);
		}
	}
	_exit(1);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		char name[48], text[1024] = "", answer[sizeof(name) + sizeof(text) + 1];
		unsigned major, minor;
		int fd;

		if (sscanf(argv[i], "%47[^:]:%u:%u:%1023[^\n]", name, &major, &minor, text) < 3)
			return fprintf(stderr, "nodes: %s: no NAME:MAJOR:MINOR[:TEXT]\n", argv[i]), 2;
		fd = create_device(name, major, minor);
		if (fd < 0)
			return perror(argv[i]), 1;
		snprintf(answer, sizeof(answer), "%s%s%s", name, *text ? " " : "", text);
		if (fork() == 0) {
			setsid();
			serve(fd, answer, minor);
		}
		close(fd);
	}
	puts("nodes ready");
	return 0;
}
