/* What a CUDA program does first: find libcuda.so.1, start it, count devices, open their nodes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

static void open_node(const char *path) {
  int fd = open(path, O_RDWR);
  /* ENXIO: the device cgroup let it pass, and no driver answers, as on a simulated host. */
  printf("  open %-22s %s\n", path,
         fd >= 0 ? "ok" : errno == ENXIO ? "allowed (no driver behind it: simulated)" : strerror(errno));
}

int main(void) {
  void *cuda = dlopen("libcuda.so.1", RTLD_NOW), *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (!cuda) { printf("  libcuda.so.1: %s\n", dlerror()); return 1; }
  struct link_map *map;
  dlinfo(cuda, RTLD_DI_LINKMAP, &map);
  printf("  libcuda.so.1           %s\n", map->l_name);
  if (nvml && !dlinfo(nvml, RTLD_DI_LINKMAP, &map)) printf("  libnvidia-ml.so.1      %s\n", map->l_name);
  int (*init)(unsigned) = (int (*)(unsigned))dlsym(cuda, "cuInit");
  int (*version)(int *) = (int (*)(int *))dlsym(cuda, "cuDriverGetVersion");
  int (*count)(int *) = (int (*)(int *))dlsym(cuda, "cuDeviceGetCount");
  int v = 0, n = 0, r = init(0);
  version(&v);
  count(&n);
  printf("  cuInit() = %d, CUDA %d.%d, %d device(s)\n", r, v / 1000, v % 1000 / 10, n);
  open_node("/dev/nvidiactl");
  open_node("/dev/nvidia-uvm");
  open_node("/dev/nvidia0");
  open_node("/dev/nvidia1");
  return r != 0;
}
