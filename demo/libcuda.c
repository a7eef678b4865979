/* A stand-in for libcuda.so.1 that answers four calls, for a machine without a GPU. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int devices;

int cuInit(unsigned flags) {
  (void)flags;
  char path[32];
  if (access("/dev/nvidiactl", F_OK) || access("/dev/nvidia-uvm", F_OK)) return 100; /* CUDA_ERROR_NO_DEVICE */
  for (int i = 0; i < 16; i++) {
    snprintf(path, sizeof path, "/dev/nvidia%d", i);
    if (!access(path, R_OK | W_OK)) devices++;
  }
  return devices ? 0 : 100;
}
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuDeviceGetCount(int *n) { *n = devices; return 0; }
