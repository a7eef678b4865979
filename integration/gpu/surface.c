/* What of the driver's surface works in here, one fact a line; run inside a container on a machine with a real GPU.
 *
 *   surface cuda|vulkan|egl|opencl|encode|decode|optix...
 *
 * Everything is loaded by name, as programs do it, so that it shows what the container's own loader finds. No header of
 * NVIDIA or Khronos is needed: the few structures are spelled out, as their specifications have them. A line
 * begins with the word that was asked for; `NAME failed: WHY` is the only failure, and then the exit status is 1. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

static void failed(const char *what, const char *why, long code) {
  printf("%s failed: %s (%ld)\n", what, why ? why : "?", code);
  failures++;
}

/* Loads a library and says which file it is. */
static void *load(const char *what, const char *name) {
  void *h = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
  struct link_map *map;
  if (!h) {
    failed(what, dlerror(), 0);
    return NULL;
  }
  if (dlinfo(h, RTLD_DI_LINKMAP, &map) == 0) printf("%s library %s\n", what, map->l_name);
  return h;
}

/* A declaration of a function that the library has. */
#define SYM(type, var, handle, name) __typeof__(type) var = (type)dlsym(handle, name)

static void *cuda(void) {
  static void *h;
  if (h || !(h = load("cuda", "libcuda.so.1"))) return h;
  SYM(int (*)(unsigned), init, h, "cuInit");
  int e = init(0);
  if (e) {
    failed("cuda", "cuInit", e);
    h = NULL;
  }
  return h;
}

static void do_cuda(void) {
  void *h = cuda();
  if (!h) return;
  SYM(int (*)(int *), count, h, "cuDeviceGetCount");
  SYM(int (*)(char *, int, int), name, h, "cuDeviceGetName");
  SYM(int (*)(unsigned char *, int), uuid, h, "cuDeviceGetUuid_v2");
  SYM(int (*)(void **, int), retain, h, "cuDevicePrimaryCtxRetain");
  SYM(int (*)(void *), current, h, "cuCtxSetCurrent");
  SYM(int (*)(uint64_t *, size_t), alloc, h, "cuMemAlloc_v2");
  SYM(int (*)(uint64_t, unsigned char, size_t), set, h, "cuMemsetD8_v2");
  SYM(int (*)(void *, uint64_t, size_t), back, h, "cuMemcpyDtoH_v2");
  int n = 0, i, e;
  count(&n);
  printf("cuda devices %d\n", n);
  for (i = 0; i < n; i++) {
    char text[128] = "";
    unsigned char id[16] = {0}, byte = 0;
    void *context = NULL;
    uint64_t memory = 0;
    int k;
    name(text, sizeof text, i);
    uuid(id, i);
    printf("cuda device %d %s GPU-", i, text);
    for (k = 0; k < 16; k++) printf("%s%02x", k == 4 || k == 6 || k == 8 || k == 10 ? "-" : "", id[k]);
    printf("\n");
    if ((e = retain(&context, i)) || (e = current(context)) || (e = alloc(&memory, 4096)) || (e = set(memory, 0x5a, 4096)) ||
        (e = back(&byte, memory + 4095, 1)))
      failed("cuda", "memory", e);
    else printf("cuda memory %s\n", byte == 0x5a ? "ok" : "wrong");
  }
}

static void do_vulkan(void) {
  struct { int type; const void *next; int flags; const void *app; uint32_t layers; const void *l; uint32_t exts; const void *e; } info = {.type = 1};
  struct { int type; const void *next; int flags; uint32_t family, queues; const float *priorities; } queue = {.type = 2, .queues = 1};
  struct { int type; const void *next; int flags; uint32_t queues; const void *q; uint32_t layers; const void *l; uint32_t exts; const void *e; const void *f; } device = {.type = 3, .queues = 1};
  const float one = 1;
  void *h = load("vulkan", "libvulkan.so.1"), *instance = NULL, *devices[64], *made;
  uint32_t n = 64, i;
  int e;
  if (!h) return;
  SYM(int (*)(const void *, const void *, void **), create, h, "vkCreateInstance");
  SYM(int (*)(void *, uint32_t *, void **), list, h, "vkEnumeratePhysicalDevices");
  SYM(void (*)(void *, void *), properties, h, "vkGetPhysicalDeviceProperties");
  SYM(int (*)(void *, const void *, const void *, void **), open, h, "vkCreateDevice");
  if ((e = create(&info, NULL, &instance))) { failed("vulkan", "vkCreateInstance", e); return; }
  if ((e = list(instance, &n, devices))) { failed("vulkan", "vkEnumeratePhysicalDevices", e); return; }
  printf("vulkan devices %u\n", n);
  queue.priorities = &one;
  device.q = &queue;
  for (i = 0; i < n; i++) {
    /* apiVersion, driverVersion, vendorID, deviceID, deviceType, deviceName[256], ... */
    uint32_t p[512] = {0};
    properties(devices[i], p);
    printf("vulkan device %u vendor %04x %s api %u.%u\n", i, p[2], (char *)(p + 5), p[0] >> 22 & 127, p[0] >> 12 & 1023);
    if ((e = open(devices[i], &device, NULL, &made))) failed("vulkan", "vkCreateDevice", e);
    else printf("vulkan queue ok\n");
  }
}

static void do_egl(void) {
  void *h = load("egl", "libEGL.so.1"), *devices[64];
  int n = 0, i, major, minor;
  if (!h) return;
  SYM(void *(*)(const char *), proc, h, "eglGetProcAddress");
  SYM(int (*)(void), error, h, "eglGetError");
  SYM(unsigned (*)(void *, int *, int *), initialize, h, "eglInitialize");
  SYM(const char *(*)(void *, int), query, h, "eglQueryString");
  SYM(unsigned (*)(unsigned), bind, h, "eglBindAPI");
  SYM(void *(*)(void *, void *, void *, const int *), context, h, "eglCreateContext");
  SYM(unsigned (*)(void *, void *, void *, void *), current, h, "eglMakeCurrent");
  unsigned (*list)(int, void **, int *) = (unsigned (*)(int, void **, int *))proc("eglQueryDevicesEXT");
  const char *(*text)(void *, int) = (const char *(*)(void *, int))proc("eglQueryDeviceStringEXT");
  unsigned (*attribute)(void *, int, intptr_t *) = (unsigned (*)(void *, int, intptr_t *))proc("eglQueryDeviceAttribEXT");
  void *(*display)(unsigned, void *, const int *) = (void *(*)(unsigned, void *, const int *))proc("eglGetPlatformDisplayEXT");
  if (!list || !display || !list(64, devices, &n)) { failed("egl", "eglQueryDevicesEXT", error()); return; }
  printf("egl devices %d\n", n);
  for (i = 0; i < n; i++) {
    intptr_t ordinal = -1;
    const char *extensions = text(devices[i], 0x3055), *file;
    int nvidia = extensions && strstr(extensions, "EGL_NV_device_cuda") != NULL;
    if (!nvidia) { printf("egl device %d other\n", i); continue; }
    attribute(devices[i], 0x323A, &ordinal);
    file = strstr(extensions, "EGL_EXT_device_drm") ? text(devices[i], 0x3233) : NULL;
    printf("egl device %d nvidia cuda %ld drm %s\n", i, (long)ordinal, file ? file : "none");
    void *d = display(0x313F, devices[i], NULL);
    if (!d || !initialize(d, &major, &minor)) { failed("egl", "eglInitialize", error()); continue; }
    printf("egl display %d %s %s\n", i, query(d, 0x3053), query(d, 0x3054));
    const int es3[] = {0x3098, 3, 0x3038};
    bind(0x30A0);
    void *c = context(d, NULL, NULL, es3);
    if (!c || !current(d, NULL, NULL, c)) { failed("egl", "context", error()); continue; }
    const unsigned char *(*get)(unsigned) = (const unsigned char *(*)(unsigned))proc("glGetString");
    const unsigned char *renderer = get ? get(0x1F01) : NULL;
    printf("egl renderer %s\n", renderer ? (const char *)renderer : "none");
    current(d, NULL, NULL, NULL);
  }
}

static void do_opencl(void) {
  void *h = load("opencl", "libOpenCL.so.1"), *platforms[16], *devices[64];
  uint32_t n = 0, i, k;
  int e;
  if (!h) return;
  SYM(int (*)(uint32_t, void **, uint32_t *), list, h, "clGetPlatformIDs");
  SYM(int (*)(void *, uint32_t, size_t, void *, size_t *), info, h, "clGetPlatformInfo");
  SYM(int (*)(void *, uint64_t, uint32_t, void **, uint32_t *), within, h, "clGetDeviceIDs");
  SYM(int (*)(void *, uint32_t, size_t, void *, size_t *), about, h, "clGetDeviceInfo");
  if ((e = list(16, platforms, &n))) { failed("opencl", "clGetPlatformIDs", e); return; }
  for (i = 0; i < n; i++) {
    char name[256] = "";
    uint32_t found = 0;
    info(platforms[i], 0x0902, sizeof name, name, NULL);
    if ((e = within(platforms[i], 0xFFFFFFFF, 64, devices, &found))) { failed("opencl", "clGetDeviceIDs", e); continue; }
    printf("opencl platform %s devices %u\n", name, found);
    for (k = 0; k < found; k++) {
      name[0] = 0;
      about(devices[k], 0x102B, sizeof name, name, NULL);
      printf("opencl device %u %s\n", k, name);
    }
  }
}

static void do_encode(void) {
  void *h = load("encode", "libnvidia-encode.so.1");
  uint32_t version = 0;
  int e;
  if (!h) return;
  SYM(int (*)(uint32_t *), max, h, "NvEncodeAPIGetMaxSupportedVersion");
  if (!max || (e = max(&version))) failed("encode", "NvEncodeAPIGetMaxSupportedVersion", max ? e : -1);
  else printf("encode api %u.%u\n", version >> 4, version & 15);
}

static void do_decode(void) {
  /* codec 4 is H.264, chroma format 1 is 4:2:0, eight bits. */
  struct { int codec, chroma; unsigned depth, reserved[3]; unsigned char supported, engines; unsigned short formats; unsigned width, height, rest[32]; } caps = {.codec = 4, .chroma = 1};
  void *h = load("decode", "libnvcuvid.so.1"), *driver = cuda(), *context;
  int e;
  if (!h || !driver) return;
  SYM(int (*)(void **, int), retain, driver, "cuDevicePrimaryCtxRetain");
  SYM(int (*)(void *), current, driver, "cuCtxSetCurrent");
  SYM(int (*)(void *), ask, h, "cuvidGetDecoderCaps");
  if ((e = retain(&context, 0)) || (e = current(context)) || (e = ask(&caps))) failed("decode", "cuvidGetDecoderCaps", e);
  else printf("decode h264 %s, %u engines, up to %ux%u\n", caps.supported ? "ok" : "unsupported", caps.engines, caps.width, caps.height);
}

static void do_optix(void) {
  void *h = load("optix", "libnvoptix.so.1");
  if (!h) return;
  if (!dlsym(h, "optixQueryFunctionTable")) failed("optix", "optixQueryFunctionTable", 0);
  else printf("optix ok\n");
}

/* Only loads: what is named is a library that programs open by that name. */
static void do_load(const char *name) {
  void *h = load("load", name);
  if (h) printf("load %s ok\n", name);
}

/* The driver's libraries that are mapped by now: without a GPU this is how far a loader gets. */
static void mapped(const char *what) {
  char line[4096], last[4096] = "";
  FILE *f = fopen("/proc/self/maps", "r");
  while (f && fgets(line, sizeof line, f)) {
    char *path = strchr(line, '/');
    if (!path || !strstr(path, "nvidia")) continue;
    path[strcspn(path, "\n")] = 0;
    if (strcmp(path, last)) printf("%s mapped %s\n", what, path);
    strcpy(last, path);
  }
  if (f) fclose(f);
}

int main(int argc, char **argv) {
  static const struct { const char *name; void (*run)(void); } parts[] = {
    {"cuda", do_cuda}, {"vulkan", do_vulkan}, {"egl", do_egl}, {"opencl", do_opencl}, {"encode", do_encode}, {"decode", do_decode}, {"optix", do_optix}};
  int i;
  size_t k;
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (i = 1; i < argc; i++) {
    for (k = 0; k < sizeof parts / sizeof *parts; k++)
      if (!strcmp(argv[i], parts[k].name)) { parts[k].run(); mapped(argv[i]); break; }
    if (k == sizeof parts / sizeof *parts) do_load(argv[i]);
  }
  return failures != 0;
}
