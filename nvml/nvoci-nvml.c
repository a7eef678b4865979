/* Asks the driver's own library for the UUIDs of MIG devices, which the kernel module does not tell.
 *
 *   nvoci-nvml LIBRARY        LIBRARY is the path of libnvidia-ml.so.1
 *
 * `gpu GPU-UUID SLOTS` for each GPU that knows MIG, one line a device `mig GPU-UUID GPU-INSTANCE COMPUTE-INSTANCE MIG-UUID`, and
 * `end` when all were asked. nvoci is a static
 * program and can load no library; this one can, and does it as nobody: the library is the driver's, and whatever
 * is wrong with it must not reach the program that changes containers.
 *
 * NVML's functions and their meaning: nvml.h, "Multi Instance GPU Management". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NOBODY = 65534, SUCCESS = 0, MAX_GPUS = 256, MAX_MIG = 64, UUID = 96 };

/* Gives up every right. Without any to begin with, there is none to give up. */
static int be_nobody(void) {
  const struct rlimit none_at_all = {0, 0}, seconds = {10, 10};
  struct { unsigned version; int pid; } header = {0x20080522, 0};
  unsigned none[6] = {0};
  if (geteuid() == 0 && (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY))) {
    /* In a user namespace nobody may have no number; what is left is dropped below. */
    if (errno != EINVAL && errno != EPERM) return -1;
  }
  setrlimit(RLIMIT_CORE, &none_at_all);
  setrlimit(RLIMIT_CPU, &seconds);
  if (prctl(PR_SET_PDEATHSIG, 9) || prctl(PR_SET_DUMPABLE, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
  return (int)syscall(SYS_capset, &header, none);
}

typedef int (*plain)(void);
typedef int (*count_of)(unsigned *);
typedef int (*at_index)(unsigned, void **);
typedef int (*below)(void *, unsigned, void **);
typedef int (*number_of)(void *, unsigned *);
typedef int (*text_of)(void *, char *, unsigned);

int main(int argc, char **argv) {
  unsigned gpus = 0, i, k, gi, ci;
  void *library;
  int error;

  if (argc != 2 || argv[1][0] != '/') {
    fprintf(stderr, "usage: nvoci-nvml /PATH/libnvidia-ml.so.1\n");
    return 2;
  }
  if (be_nobody()) {
    fprintf(stderr, "nvoci-nvml: giving up rights: %s\n", strerror(errno));
    return 1;
  }
  if (!(library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL))) {
    fprintf(stderr, "nvoci-nvml: %s\n", dlerror());
    return 1;
  }
  plain init = (plain)dlsym(library, "nvmlInit_v2"), shut = (plain)dlsym(library, "nvmlShutdown");
  count_of count = (count_of)dlsym(library, "nvmlDeviceGetCount_v2");
  at_index device = (at_index)dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
  number_of max = (number_of)dlsym(library, "nvmlDeviceGetMaxMigDeviceCount");
  below mig = (below)dlsym(library, "nvmlDeviceGetMigDeviceHandleByIndex");
  number_of gpu_instance = (number_of)dlsym(library, "nvmlDeviceGetGpuInstanceId");
  number_of compute_instance = (number_of)dlsym(library, "nvmlDeviceGetComputeInstanceId");
  text_of uuid = (text_of)dlsym(library, "nvmlDeviceGetUUID");
  if (!init || !count || !device || !max || !mig || !gpu_instance || !compute_instance || !uuid) {
    fprintf(stderr, "nvoci-nvml: %s knows no MIG\n", argv[1]);
    return 1;
  }
  if ((error = init())) {
    fprintf(stderr, "nvoci-nvml: nvmlInit_v2: error %d\n", error);
    return 1;
  }
  if ((error = count(&gpus))) {
    fprintf(stderr, "nvoci-nvml: nvmlDeviceGetCount_v2: error %d\n", error);
    return 1;
  }
  for (i = 0; i < gpus && i < MAX_GPUS; i++) {
    char parent[UUID] = "";
    unsigned slots = 0;
    void *gpu;
    /* A GPU that cannot be asked (lost, without MIG) has no line; the others still do. */
    if (device(i, &gpu) || uuid(gpu, parent, sizeof parent) || max(gpu, &slots)) continue;
    printf("gpu %s %u\n", parent, slots);
    for (k = 0; k < slots && k < MAX_MIG; k++) {
      char own[UUID] = "";
      void *handle;
      if (mig(gpu, k, &handle) || gpu_instance(handle, &gi) || compute_instance(handle, &ci) || uuid(handle, own, sizeof own)) continue;
      printf("mig %s %u %u %s\n", parent, gi, ci, own);
    }
  }
  printf("end\n");
  if (shut) shut();
  return fflush(stdout) ? 1 : 0;
}
