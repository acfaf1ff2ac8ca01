/*
 * A preload for AFL++: the first and only client of a server is what stands in stdin, up to its
 * end; when that connection is over, the server is told to stop.  With a binary that AFL++ has
 * instrumented the fork server begins here, behind the start.
 */
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

extern void __afl_manual_init(void) __attribute__((weak));

static int listener = -1, client = -1; /* the server's ends */
static enum { BEFORE, WAITING, THERE, OVER } state;

int
listen(int fd, int backlog)
{
	int (*real)(int, int) = dlsym(RTLD_NEXT, "listen");

	listener = fd;
	return real(fd, backlog);
}

int
accept4(int fd, struct sockaddr *a, socklen_t *len, int flags)
{
	static char data[65536];
	int ends[2];
	size_t had = 0;
	ssize_t n;

	(void)flags; /* as the server asks for them */
	if (fd != listener || state != WAITING) {
		errno = EAGAIN;
		return -1;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0)
		abort();
	while (had < sizeof data && (n = read(STDIN_FILENO, data + had, sizeof data - had)) > 0)
		had += (size_t)n;
	if (write(ends[1], data, had) != (ssize_t)had || shutdown(ends[1], SHUT_WR) != 0)
		abort();
	memset(a, 0, *len);
	a->sa_family = AF_INET;
	*len = sizeof(struct sockaddr_in);
	state = THERE;
	client = ends[0];
	return client;
}

int
close(int fd)
{
	int (*real)(int) = dlsym(RTLD_NEXT, "close");

	if (state == THERE && fd == client) {
		state = OVER;
		kill(getpid(), SIGTERM);
	}
	return real(fd);
}

int
poll(struct pollfd *p, nfds_t n, int timeout)
{
	static int (*real)(struct pollfd *, nfds_t, int);
	int some;

	if (real == NULL)
		real = dlsym(RTLD_NEXT, "poll");
	if (n > 2 && state == BEFORE) { /* the loop begins */
		if (__afl_manual_init != NULL)
			__afl_manual_init();
		state = WAITING;
	}
	some = real(p, n, state == WAITING ? 0 : timeout);
	for (nfds_t i = 0; n > 2 && i < n && state == WAITING; i++) {
		if (p[i].fd != listener)
			continue;
		p[i].revents = POLLIN;
		some++;
	}
	return some;
}
