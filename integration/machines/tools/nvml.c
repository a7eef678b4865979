/*
 * A libnvidia-ml.so.1 that answers from the devices of tools/nodes.c, so that nvidia-smi lists the GPUs that a process can
 * really open, and no others.
 *
 * A GPU is a /dev/nvidiaN whose answer is `nvidiaN UUID [GI/CI/GI-MINOR/CI-MINOR/PROFILE/UUID]...`; each part in brackets is a
 * MIG device. It exists for this process only if both of its nodes in /dev/nvidia-caps open and answer with their names.
 *
 * Functions, numbers and structs are those of NVIDIA's NVML API reference. nvidia-smi also asks for a table of functions that
 * is not in it. NVIDIA/k8s-test-infra (pkg/gpu/mocknvml) documents the table: its first word is its size, entry 81 returns
 * a handle by index, and nvidia-smi 535 and 550 accept 0 from the others for `-L`.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
enum { MAX_GPUS = 16, MAX_MIG = 7, UUID = 96 };
#define API __attribute__((visibility("default")))

struct device {
	struct device *parent; /* of a MIG device */
	unsigned gpu_instance, compute_instance, slots, count;
	char uuid[UUID], profile[32];
	struct device *mig;
};
static struct device gpus[MAX_GPUS], mig[MAX_GPUS][MAX_MIG];
static unsigned gpu_count;

/* The answer of a device behind its own name; whether it opens and has that name. */
static int answer_of(const char *path, int flags, char *text, size_t size)
{
	const char *name = path + strlen("/dev/");
	char line[1200] = "";
	int fd = open(path, flags | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

	if (fd >= 0)
		close(fd);
	if (got <= 0 || strncmp(line, name, strlen(name)) || !strchr(" ", line[strlen(name)]))
		return 0;
	snprintf(text, size, "%s", line + strlen(name));
	return 1;
}

static int cap_opens(unsigned minor)
{
	char path[64], text[16];

	snprintf(path, sizeof(path), "/dev/nvidia-caps/nvidia-cap%u", minor);
	return answer_of(path, O_RDONLY, text, sizeof(text));
}

static void add_mig(struct device *gpu, const char *part)
{
	struct device *d = &gpu->mig[gpu->count];
	unsigned gi_minor, ci_minor;

	*d = (struct device){ .parent = gpu };
	if (sscanf(part, "%u/%u/%u/%u/%31[^/]/%95s", &d->gpu_instance, &d->compute_instance, &gi_minor, &ci_minor, d->profile, d->uuid) != 6)
		return;
	gpu->slots = MAX_MIG;
	if (gpu->count < MAX_MIG && cap_opens(gi_minor) && cap_opens(ci_minor))
		gpu->count++;
}

API int nvmlInitWithFlags(unsigned flags)
{
	char path[32], text[1200];

	(void)flags;
	if (!answer_of("/dev/nvidiactl", O_RDWR, text, sizeof(text)))
		return DRIVER_NOT_LOADED;
	gpu_count = 0;
	for (unsigned minor = 0; minor < 32 && gpu_count < MAX_GPUS; minor++) {
		struct device *gpu = &gpus[gpu_count];
		snprintf(path, sizeof(path), "/dev/nvidia%u", minor);
		if (!answer_of(path, O_RDWR, text, sizeof(text)))
			continue;
		*gpu = (struct device){ .mig = mig[gpu_count] };
		char *rest = text, *part = strtok_r(text, " ", &rest);
		snprintf(gpu->uuid, sizeof(gpu->uuid), "%s", part ? part : "");
		while ((part = strtok_r(NULL, " ", &rest)))
			add_mig(gpu, part);
		gpu_count++;
	}
	return SUCCESS;
}
API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API int nvmlShutdown(void) { return SUCCESS; }

API const char *nvmlErrorString(int error)
{
	switch (error) {
	case SUCCESS: return "The operation was successful";
	case NOT_SUPPORTED: return "Not Supported";
	case NOT_FOUND: return "Not Found";
	case DRIVER_NOT_LOADED: return "Driver Not Loaded";
	default: return "Unknown Error";
	}
}

static int text_to(char *to, unsigned size, const char *text)
{
	return snprintf(to, size, "%s", text) < (int)size ? SUCCESS : INSUFFICIENT_SIZE;
}

API int nvmlDeviceGetCount_v2(unsigned *count) { *count = gpu_count; return SUCCESS; }
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **to)
{
	if (index >= gpu_count)
		return INVALID_ARGUMENT;
	*to = &gpus[index];
	return SUCCESS;
}
API int nvmlDeviceGetUUID(struct device *d, char *to, unsigned size) { return text_to(to, size, d->uuid); }
API int nvmlDeviceGetName(struct device *d, char *to, unsigned size)
{
	char name[80];

	snprintf(name, sizeof(name), "NVIDIA H100 80GB HBM3%s%s", d->parent ? " MIG " : "", d->profile);
	return text_to(to, size, name);
}

/* MIG: "Multi Instance GPU Management" of the reference. */
API int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *to) { *to = d->slots; return SUCCESS; }
API int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned index, struct device **to)
{
	if (index >= d->count)
		return NOT_FOUND;
	*to = &d->mig[index];
	return SUCCESS;
}
API int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned *to) { *to = d->gpu_instance; return d->parent ? SUCCESS : NOT_SUPPORTED; }
API int nvmlDeviceGetComputeInstanceId(struct device *d, unsigned *to) { *to = d->compute_instance; return d->parent ? SUCCESS : NOT_SUPPORTED; }

static int by_index(unsigned index, struct device **to) { return nvmlDeviceGetHandleByIndex_v2(index, to); }
static int nothing(void) { return SUCCESS; }
static union { size_t size; int (*function)(); } table[256];
API int nvmlInternalGetExportTable(void **to, const unsigned char *id)
{
	static const unsigned char known[16] = { 0xc4, 0xfe, 0x3e, 0x6c, 0xc9, 0x8f, 0x6c, 0x4e, 0xa3, 0x27, 0xee, 0x69, 0x6e, 0x12, 0xf7, 0xc4 };

	if (memcmp(id, known, sizeof(known)))
		return NOT_FOUND;
	table[0].size = sizeof(table);
	for (int i = 1; i < 256; i++)
		table[i].function = (int (*)())nothing;
	table[81].function = (int (*)())by_index;
	*to = table;
	return SUCCESS;
}
