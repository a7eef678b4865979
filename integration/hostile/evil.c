/* What an image's LD_PRELOAD would load into a dynamically linked hook. */
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void)
{
	int fd = open("/canary/preloaded", O_WRONLY | O_CREAT, 0600);
	if (fd >= 0)
		close(fd);
}
