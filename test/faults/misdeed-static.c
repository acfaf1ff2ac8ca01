/*
 * misdeed.c for a static binary, where nothing can be preloaded: the linker puts it in between.
 *
 *   cc -D_GNU_SOURCE -c misdeed-static.c
 *   make wssd LDFLAGS="-static -Wl,--wrap=poll,--wrap=prctl misdeed-static.o"
 */
#include <dlfcn.h>
#include <poll.h>
#include <stdint.h>
#include <sys/syscall.h>

int __real_poll(struct pollfd *, nfds_t, int);
int __real_prctl(int, ...);
int __wrap_poll(struct pollfd *, nfds_t, int);
int __wrap_prctl(int, ...);

#define poll __wrap_poll
#define prctl __wrap_prctl
#define dlsym(handle, name) \
	(name[1] == 'o' ? (void *)(uintptr_t)__real_poll : (void *)(uintptr_t)__real_prctl)

#include "misdeed.c"
