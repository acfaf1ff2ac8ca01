/* Of epoll(7), which Frama-C's C library has not. */
#include <stdint.h>

enum { EPOLLIN = 1, EPOLLRDHUP = 0x2000, EPOLLONESHOT = 1 << 30, EPOLL_CLOEXEC = 02000000 };
enum { EPOLL_CTL_ADD = 1, EPOLL_CTL_MOD = 3 };

struct epoll_event {
	uint32_t events;
	union {
		void *ptr;
		uint64_t u64;
	} data;
};

int epoll_create1(int flags);
int epoll_ctl(int epoll, int what, int fd, struct epoll_event *event);
int epoll_wait(int epoll, struct epoll_event *events, int n, int timeout);
