/* What Alpine's package gcompat is to a program linked with glibc, as far as nvidia-smi needs it: simulated, since no
 * distribution of these tests has the package. -DLOADER makes the loader stub, else it is the library of missing names.
 *
 * Like gcompat's stub it is installed as glibc's loader, and starts the program with musl's own and the library. */
#ifdef LOADER
typedef long word;
static word call(word n, word a, word b, word c) {
	word r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}
__attribute__((used)) static void begin(word *stack) {
	static char path[4096], musl[] = "/lib/ld-musl-x86_64.so.1", lib[] = "/lib/libgcompat.so.0";
	word argc = stack[0];
	char **argv = (char **)(stack + 1), **env = argv + argc + 1, *words[64];
	word n = call(89, (word) "/proc/self/exe", (word)path, sizeof path - 1); /* readlink */
	int i = 0;
	if (n <= 0 || argc > 50) call(231, 126, 0, 0);
	words[i++] = musl;
	words[i++] = "--argv0";
	words[i++] = argv[0];
	words[i++] = "--preload";
	words[i++] = lib;
	words[i++] = "--";
	words[i++] = path;
	for (word a = 1; a < argc; a++) words[i++] = argv[a];
	words[i] = 0;
	call(59, (word)musl, (word)words, (word)env); /* execve */
	call(231, 127, 0, 0);
}
__asm__(".globl _start\n_start:\nmov %rsp, %rdi\nand $-16, %rsp\ncall begin\n");
#else
typedef unsigned long size;
extern void *dlsym(void *, const char *), *calloc(size, size);
extern void free(void *);
extern char *strdup(const char *), *strtok_r(char *, const char *, char **);
const char *gnu_get_libc_version(void) { return "2.8"; }
void *dlvsym(void *lib, const char *name, const char *version) { return (void)version, dlsym(lib, name); }
char *__strdup(const char *s) { return strdup(s); }
char *__strtok_r(char *s, const char *d, char **p) { return strtok_r(s, d, p); }
int __isnan(double d) { return d != d; }
void *__sched_cpualloc(size n) { return calloc((n + 63) / 64, 8); }
void __sched_cpufree(void *set) { free(set); }
#endif
