/*
 * Stands in for libdxcore.so: the driver package of NVIDIA's adapter, asked from /dev/dxg as the real one does it (numbers and
 * sizes of microsoft/libdxg). Its second half, -DSTUB, stands in for the loader stub libcuda.so.1, which asks libdxcore and loads
 * the driver from that path; the third, -DCHAIN, is a program that goes the whole way and then becomes the probe.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#if defined CHAIN

static const char *path_of(void *lib)
{
	struct link_map *map;
	return lib && !dlinfo(lib, RTLD_DI_LINKMAP, &map) ? map->l_name : dlerror();
}

int main(int argc, char **argv)
{
	void *stub = dlopen("libcuda.so.1", RTLD_NOW);
	void *(*driver)(void) = stub ? (void *(*)(void))dlsym(stub, "nvoci_test_driver") : NULL;

	setvbuf(stdout, NULL, _IOLBF, 0);
	/* As an entry point it is given the probe as its first word. */
	if (argc > 1 && argv[1][0] != '-')
		argv++;
	printf("stub %s\n", path_of(stub));
	printf("driver %s\n", driver ? path_of(driver()) : "not a stub");
	char record[16384] = "";
	int fd = open("/usr/local/nvidia/.nvoci.json", O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, record, sizeof record - 1) > 0)
		printf("record %s\n", record);
	argv[0] = "/usr/bin/probe";
	execv(argv[0], argv);
	return 3;
}

#elif defined STUB

void *nvoci_test_driver(void)
{
	char path[600];
	void *dxcore = dlopen("libdxcore.so", RTLD_NOW);
	const char *(*store)(void) = dxcore ? (const char *(*)(void))dlsym(dxcore, "nvoci_test_store") : NULL;

	if (!store || !store())
		return NULL;
	snprintf(path, sizeof path, "%s/libcuda.so.1.1", store());
	return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

#else

const char *nvoci_test_store(void)
{
	static char path[600];
	static const char in_store[] = "\\filerepository\\";
	struct { uint32_t handle, luid[2], sources, present; } list[16];
	struct { uint32_t count, pad; uint64_t adapters; } all = { 16, 0, (uintptr_t)list };
	int fd = open("/dev/dxg", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, 0xC0104714, &all) < 0)
		return NULL;
	for (uint32_t i = 0; i < all.count; i++) {
		union { uint32_t word[268]; uint16_t half[536]; uint64_t align; } q;
		struct { uint32_t handle, type; uint64_t data; uint32_t size, pad; } info = { list[i].handle, 48, (uintptr_t)&q, sizeof q, 0 };
		char windows[300] = "", *at;

		memset(&q, 0, sizeof q);
		q.word[0] = 2;
		if (ioctl(fd, 0xC0184709, &info) < 0 || q.word[540 / 4] != 0)
			continue;
		for (int n = 0; n < 260 && q.half[544 / 2 + n]; n++)
			windows[n] = (char)q.half[544 / 2 + n];
		if (!(at = strcasestr(windows, in_store)))
			continue;
		at += sizeof in_store - 1;
		for (char *c = at; *c; c++)
			if (*c == '\\')
				*c = '/';
		snprintf(path, sizeof path, "/usr/lib/wsl/drivers/%s/libcuda.so.1.1", at);
		if (access(path, F_OK) == 0) {
			*strrchr(path, '/') = 0;
			return path;
		}
	}
	return NULL;
}

#endif
