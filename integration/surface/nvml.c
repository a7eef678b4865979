/* A library in NVML's place: two GPUs, of which the first has the MIG devices 1/0, 1/1 and 2/0. Initialises only for who has no rights. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int gpus[2], mig[3];

int nvmlInit_v2(void) {
  char line[256];
  int caps = -1, privileges = -1;
  FILE *f = fopen("/proc/self/status", "r");
#ifdef CRASH
  *(volatile int *)0 = 0;
#endif
  while (f && fgets(line, sizeof line, f)) {
    if (!strncmp(line, "CapPrm:", 7)) caps = strspn(line + 8, "0") < 16;
    if (!strncmp(line, "NoNewPrivs:", 11)) privileges = line[12] != '1';
  }
  if (f) fclose(f);
  return geteuid() == 0 || getegid() == 0 || caps || privileges ? 4 : 0;
}
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **handle) { *handle = &gpus[i]; return 0; }
int nvmlDeviceGetMaxMigDeviceCount(void *gpu, unsigned *n) { *n = gpu == &gpus[0] ? 7 : 0; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *gpu, unsigned i, void **handle) {
  if (gpu != &gpus[0] || i > 2) return 6;
  *handle = &mig[i];
  return 0;
}
int nvmlDeviceGetGpuInstanceId(void *device, unsigned *id) { *id = device == &mig[2] ? 2 : 1; return 0; }
int nvmlDeviceGetComputeInstanceId(void *device, unsigned *id) { *id = device == &mig[1]; return 0; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
  int *at = device;
  if (at >= mig && at < mig + 3)
    snprintf(text, size, "MIG-5eed000%d-1111-5222-8333-444444444444", at == &mig[2] ? 1 : at == &mig[1] ? 3 : 2);
  else snprintf(text, size, "GPU-5eed000%d-6d09-4804-74aa-d9624af686c0", (int)(at - gpus));
  return 0;
}
