/*
 * clock: the clocks of a program jump while it runs.
 *
 *   gcc -shared -fPIC -O1 -o clock.so test/faults/clock.c
 *   LD_PRELOAD=./clock.so WSSD_CLOCK=FILE ./wssd ...
 *
 * FILE holds two numbers of 64 bits, seconds that are added to the time of day and to all other
 * clocks, and whoever writes into it moves them.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t none[2], *ahead = none;
static int (*next)(clockid_t, struct timespec *);

__attribute__((constructor)) static void
begin(void)
{
	const char *file = getenv("WSSD_CLOCK");
	int fd = open(file != NULL ? file : "", O_RDONLY | O_CLOEXEC);
	void *p = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);

	*(void **)&next = dlsym(RTLD_NEXT, "clock_gettime");
	if (p == MAP_FAILED || next == NULL)
		_exit(99);
	ahead = p;
	close(fd);
}

int
clock_gettime(clockid_t clock, struct timespec *ts)
{
	int day = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;

	if (next == NULL) /* in the constructor of another library */
		*(void **)&next = dlsym(RTLD_NEXT, "clock_gettime");
	if (next(clock, ts) != 0)
		return -1;
	ts->tv_sec += (time_t)ahead[!day];
	return 0;
}

time_t
time(time_t *t)
{
	struct timespec ts = { 0, 0 };

	clock_gettime(CLOCK_REALTIME, &ts);
	if (t != NULL)
		*t = ts.tv_sec;
	return ts.tv_sec;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec ts;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
		return -1;
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}
