/* Of signalfd(2), which Frama-C's C library has not. */
#include <signal.h>
#include <stdint.h>

enum { SFD_NONBLOCK = 04000, SFD_CLOEXEC = 02000000 };

struct signalfd_siginfo {
	uint32_t ssi_signo;
	uint8_t rest[124];
};

int signalfd(int fd, const sigset_t *mask, int flags);
