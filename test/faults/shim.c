/*
 * shim: makes the system calls of a program fail, one at a time, and its clock run faster.
 *
 *   gcc -shared -fPIC -O1 -o shim.so test/faults/shim.c
 *   LD_PRELOAD=./shim.so WSSD_FAULT=read-socket:3:104 ./wssd ...
 *
 *   WSSD_FAULT=FUNCTION:N:ERRNO[:TIMES]  the Nth call of FUNCTION fails with that errno (a number),
 *                          and TIMES - 1 more behind it.  ERRNO may be `short` (read, write, recv:
 *                          one byte is moved) or `end` (read, recv: they say 0).
 *   WSSD_FAULTS=FILE       the same at any time: FILE is a struct control, shared with whoever
 *                          writes into it (see test/faulty.py); it has to be there, CONTROL bytes.
 *                          The process then ends with its parent.
 *   WSSD_FAULTS_SPEED=N    the monotonic clock runs N times as fast, and poll(2) waits accordingly
 *
 * FUNCTION is one of names[] below: read(2), write(2) and send(2) by what they read and write, recv-drop is
 * recv(2) of a packet without MSG_PEEK, when it was looked at before and is there.  Only calls
 * that the program itself or libbearssl makes are counted, and none once main has returned or
 * exit(3) was called: what the compiler's run-time library writes then (coverage) is left alone.
 * A sanitizer's library has to come behind this one: ASAN_OPTIONS=verify_asan_link_order=0.
 *
 * A call that fails is not made, except for close(2), which closes in any case, as Linux does, and for
 * poll(2) of no descriptors, which has waited by then.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <netinet/in.h>
#include <poll.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SHORT = 1000, END = 1001 }; /* instead of an errno */

enum function {
	ACCEPT4, BIND, CHDIR, CHROOT, CLOCK_GETTIME, CLOSE, CONNECT, EPOLL_CREATE1, EPOLL_CTL, EPOLL_WAIT, FFLUSH,
	FSTAT, FSTATAT, GETENTROPY, GETHOSTNAME, GETRLIMIT, GETSOCKNAME, LISTEN, MADVISE, MMAP,
	OPEN, OPENAT, POLL, POLL_LOG, PRCTL, READ_FILE, READ_OTHER, READ_SOCKET, RECV, RECV_DROP,
	SETGROUPS, SETRESGID, SETRESUID, SETRLIMIT, SETSOCKOPT,
	SHUTDOWN, SIGNAL, SIGNALFD, SIGPROCMASK, SOCKET, WRITE_LOG, WRITE_SOCKET, FUNCTIONS
};

static const char *const names[FUNCTIONS] = {
	"accept4", "bind", "chdir", "chroot", "clock_gettime", "close", "connect", "epoll_create1", "epoll_ctl",
	"epoll_wait", "fflush", "fstat", "fstatat", "getentropy", "gethostname", "getrlimit",
	"getsockname", "listen", "madvise", "mmap", "open", "openat", "poll", "poll-log", "prctl",
	"read-file", "read-other", "read-socket", "recv", "recv-drop", "setgroups", "setresgid",
	"setresuid", "setrlimit",
	"setsockopt", "shutdown", "signal", "signalfd", "sigprocmask", "socket",
	"write-log", "write-socket" };

enum { PORTS = 8, PLACES = 48, CONTROL = 4096 };

static struct control {
	uint64_t speed, warp;        /* of the clock: times as fast, and milliseconds ahead */
	uint64_t armed, n, times, error; /* 1 + function; 0: none */
	uint64_t seen, hits, site;   /* calls of it, failed ones, where the last one was made */
	uint64_t ports, port[PORTS]; /* what getsockname(2) said */
	uint64_t calls[PLACES];      /* of each function */
	char name[PLACES][24];
} own, *control = &own;
_Static_assert(sizeof(struct control) <= CONTROL && (int)FUNCTIONS <= PLACES, "one page");

static struct { uintptr_t from, to; } ranges[16]; /* of the program and libbearssl */
static unsigned nranges;
static uintptr_t base;
static int off;
static int64_t began;

static int
take_object(struct dl_phdr_info *info, size_t size, void *data)
{
	int program = info->dlpi_name[0] == '\0' && base == 0;

	(void)size;
	(void)data;
	if (program)
		base = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum && nranges < 16; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];

		if (ph->p_type != PT_LOAD || (ph->p_flags & PF_X) == 0)
			continue;
		if (program || strstr(info->dlpi_name, "libbearssl") != NULL) {
			ranges[nranges].from = info->dlpi_addr + ph->p_vaddr;
			ranges[nranges++].to = info->dlpi_addr + ph->p_vaddr + ph->p_memsz;
		}
	}
	return 0;
}

static void
take_fault(const char *text)
{
	size_t n = strcspn(text, ":");
	char *rest;

	while (own.armed < FUNCTIONS && (strlen(names[own.armed]) != n ||
		strncmp(names[own.armed], text, n) != 0))
		own.armed++;
	if (own.armed++ == FUNCTIONS || text[n] != ':')
		goto bad;
	own.n = strtoul(text + n + 1, &rest, 10);
	if (*rest++ != ':')
		goto bad;
	own.error = strncmp(rest, "short", 5) == 0 ? SHORT : strncmp(rest, "end", 3) == 0 ? END :
		    strtoul(rest, NULL, 10);
	rest += strcspn(rest, ":");
	own.times = *rest == ':' ? strtoul(rest + 1, NULL, 10) : 1;
	return;
bad:
	dprintf(2, "shim: WSSD_FAULT=FUNCTION:N:ERRNO[:TIMES], not %s\n", text);
	_exit(99);
}

__attribute__((constructor)) static void
begin(void)
{
	const char *file = getenv("WSSD_FAULTS"), *fault = getenv("WSSD_FAULT");
	const char *speed = getenv("WSSD_FAULTS_SPEED");
	struct timespec ts;

	dl_iterate_phdr(take_object, NULL);
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
	began = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
	own.speed = speed != NULL ? strtoul(speed, NULL, 10) : 1;
	if (fault != NULL)
		take_fault(fault);
	if (file != NULL) {
		int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC);
		long p = syscall(SYS_mmap, NULL, CONTROL, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			0);

		if (fd < 0 || p == -1) {
			dprintf(2, "shim: WSSD_FAULTS=%s: %s\n", file, strerror(errno));
			_exit(99);
		}
		syscall(SYS_close, fd);
		control = (struct control *)p;
		if (control->speed == 0)
			control->speed = own.speed;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	for (int i = 0; i < FUNCTIONS; i++)
		strcpy(control->name[i], names[i]);
}

static void
find(void *real, const char *name)
{
	if (*(void **)real == NULL)
		*(void **)real = dlsym(RTLD_NEXT, name);
}

static int
ours(const void *caller)
{
	for (unsigned i = 0; i < nranges && !off; i++)
		if ((uintptr_t)caller >= ranges[i].from && (uintptr_t)caller < ranges[i].to)
			return 1;
	return 0;
}

/* Whether this call fails, with errno set, or is short: 0, -1 or 1. */
static int
strike(enum function f, const void *caller)
{
	volatile struct control *k = control;

	if (!ours(caller))
		return 0;
	k->calls[f]++;
	if (k->armed != f + 1U)
		return 0;
	k->seen++;
	if (k->seen < k->n || k->seen - k->n >= k->times)
		return 0;
	k->site = (uintptr_t)caller - base;
	k->hits++;
	if (k->error == SHORT)
		return 1;
	errno = k->error == END ? 0 : (int)k->error;
	return -1;
}

#define CALLER __builtin_return_address(0)

/* One that only passes or fails. */
#define PLAIN(f, type, name, parameters, arguments) \
	type name parameters \
	{ \
		static type (*real) parameters; \
\
		find(&real, #name); \
		return strike(f, CALLER) != 0 ? (type)-1 : real arguments; \
	}

PLAIN(ACCEPT4, int, accept4, (int fd, struct sockaddr *a, socklen_t *n, int flags),
	(fd, a, n, flags))
PLAIN(BIND, int, bind, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))
PLAIN(CHDIR, int, chdir, (const char *path), (path))
PLAIN(CHROOT, int, chroot, (const char *path), (path))
PLAIN(SETGROUPS, int, setgroups, (size_t n, const gid_t *list), (n, list))
PLAIN(SETRESGID, int, setresgid, (gid_t r, gid_t e, gid_t s), (r, e, s))
PLAIN(SETRESUID, int, setresuid, (uid_t r, uid_t e, uid_t s), (r, e, s))
PLAIN(CONNECT, int, connect, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))
PLAIN(EPOLL_CREATE1, int, epoll_create1, (int flags), (flags))
PLAIN(EPOLL_CTL, int, epoll_ctl, (int e, int op, int fd, struct epoll_event *ev), (e, op, fd, ev))
PLAIN(EPOLL_WAIT, int, epoll_wait, (int e, struct epoll_event *ev, int n, int t), (e, ev, n, t))
PLAIN(FFLUSH, int, fflush, (FILE *f), (f))
PLAIN(FSTAT, int, fstat, (int fd, struct stat *st), (fd, st))
PLAIN(FSTAT, int, fstat64, (int fd, struct stat64 *st), (fd, st))
PLAIN(FSTATAT, int, fstatat, (int d, const char *n, struct stat *st, int f), (d, n, st, f))
PLAIN(FSTATAT, int, fstatat64, (int d, const char *n, struct stat64 *st, int f), (d, n, st, f))
PLAIN(GETENTROPY, int, getentropy, (void *p, size_t n), (p, n))
PLAIN(GETHOSTNAME, int, gethostname, (char *p, size_t n), (p, n))
PLAIN(GETHOSTNAME, int, __gethostname_chk, (char *p, size_t n, size_t max), (p, n, max))
PLAIN(GETRLIMIT, int, getrlimit, (__rlimit_resource_t r, struct rlimit *l), (r, l))
PLAIN(GETRLIMIT, int, getrlimit64, (__rlimit_resource_t r, struct rlimit64 *l), (r, l))
PLAIN(LISTEN, int, listen, (int fd, int n), (fd, n))
PLAIN(MADVISE, int, madvise, (void *p, size_t n, int advice), (p, n, advice))
PLAIN(MMAP, void *, mmap, (void *p, size_t n, int pr, int f, int fd, off_t o),
	(p, n, pr, f, fd, o))
PLAIN(MMAP, void *, mmap64, (void *p, size_t n, int pr, int f, int fd, off64_t o),
	(p, n, pr, f, fd, o))
PLAIN(SETRLIMIT, int, setrlimit, (__rlimit_resource_t r, const struct rlimit *l), (r, l))
PLAIN(SETRLIMIT, int, setrlimit64, (__rlimit_resource_t r, const struct rlimit64 *l), (r, l))
PLAIN(SETSOCKOPT, int, setsockopt, (int fd, int l, int o, const void *p, socklen_t n),
	(fd, l, o, p, n))
PLAIN(SHUTDOWN, int, shutdown, (int fd, int how), (fd, how))
PLAIN(SIGNAL, __sighandler_t, signal, (int n, __sighandler_t f), (n, f))
PLAIN(SIGNALFD, int, signalfd, (int fd, const sigset_t *s, int flags), (fd, s, flags))
PLAIN(SIGPROCMASK, int, sigprocmask, (int how, const sigset_t *s, sigset_t *old), (how, s, old))

/* Those of packets are remembered: the program's filter would not let us ask. */
static uint8_t packets[65536];

int
socket(int domain, int type, int protocol)
{
	static int (*real)(int, int, int);
	int fd;

	find(&real, "socket");
	fd = strike(SOCKET, CALLER) != 0 ? -1 : real(domain, type, protocol);
	if (fd >= 0 && fd < (int)sizeof packets)
		packets[fd] = (type & 15) == SOCK_SEQPACKET;
	return fd;
}

/* Those that open: no file that the program opens is created. */
#define OPENS(f, name, parameters, arguments) PLAIN(f, int, name, parameters, arguments)
OPENS(OPEN, open, (const char *p, int flags, ...), (p, flags))
OPENS(OPEN, open64, (const char *p, int flags, ...), (p, flags))
OPENS(OPEN, __open_2, (const char *p, int flags), (p, flags))
OPENS(OPEN, __open64_2, (const char *p, int flags), (p, flags))
OPENS(OPENAT, openat, (int d, const char *p, int flags, ...), (d, p, flags))
OPENS(OPENAT, openat64, (int d, const char *p, int flags, ...), (d, p, flags))
OPENS(OPENAT, __openat_2, (int d, const char *p, int flags), (d, p, flags))
OPENS(OPENAT, __openat64_2, (int d, const char *p, int flags), (d, p, flags))

int
prctl(int what, ...)
{
	static int (*real)(int, ...);
	unsigned long a[4];
	va_list ap;

	va_start(ap, what);
	for (int i = 0; i < 4; i++)
		a[i] = va_arg(ap, unsigned long);
	va_end(ap);
	find(&real, "prctl");
	return strike(PRCTL, CALLER) != 0 ? -1 : real(what, a[0], a[1], a[2], a[3]);
}

static enum function
kind_of(int fd)
{
	struct stat st = { 0 };

	fstat(fd, &st);
	return S_ISSOCK(st.st_mode) ? READ_SOCKET : S_ISREG(st.st_mode) ? READ_FILE : READ_OTHER;
}

/* A packet is never cut. */
static int
whole(int fd)
{
	return fd >= 0 && fd < (int)sizeof packets && packets[fd];
}

static enum function
recv_of(int fd, int flags)
{
	return whole(fd) && (flags & MSG_PEEK) == 0 ? RECV_DROP : RECV;
}

/* Those that move bytes. */
#define MOVES(f, name, parameters, arguments) \
	ssize_t name parameters \
	{ \
		static ssize_t (*real) parameters; \
		int fate = strike(f, CALLER); \
\
		find(&real, #name); \
		if (fate < 0) \
			return errno == 0 ? 0 : -1; \
		n = fate > 0 && n > 0 && !whole(fd) ? 1 : n; \
		return real arguments; \
	}

MOVES(kind_of(fd), read, (int fd, void *p, size_t n), (fd, p, n))
MOVES(kind_of(fd), __read_chk, (int fd, void *p, size_t n, size_t max), (fd, p, n, max))
MOVES(recv_of(fd, flags), recv, (int fd, void *p, size_t n, int flags), (fd, p, n, flags))
MOVES(recv_of(fd, flags), __recv_chk, (int fd, void *p, size_t n, size_t max, int flags),
	(fd, p, n, max, flags))
MOVES(fd == 2 ? WRITE_LOG : WRITE_SOCKET, write, (int fd, const void *p, size_t n), (fd, p, n))
MOVES(WRITE_SOCKET, send, (int fd, const void *p, size_t n, int flags), (fd, p, n, flags))

int
close(int fd)
{
	int fate = strike(CLOSE, CALLER), error = errno;
	long result = syscall(SYS_close, fd);

	if (fate == 0)
		return (int)result;
	errno = error;
	return -1;
}

/* The clock. */

int
clock_gettime(clockid_t id, struct timespec *ts)
{
	static int (*real)(clockid_t, struct timespec *);
	int64_t t;

	find(&real, "clock_gettime");
	if (strike(CLOCK_GETTIME, CALLER) != 0)
		return -1;
	if (real(id, ts) != 0)
		return -1;
	if (id == CLOCK_MONOTONIC && ours(CALLER)) {
		t = (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec - began;
		t = began + t * (int64_t)control->speed + (int64_t)control->warp * 1000000;
		ts->tv_sec = t / 1000000000;
		ts->tv_nsec = t % 1000000000;
	}
	return 0;
}

/* The question whether the log takes a line. */
static enum function
poll_of(const struct pollfd *p, nfds_t n)
{
	return n == 1 && p->fd == STDERR_FILENO ? POLL_LOG : POLL;
}

static int
scaled(int timeout, const void *caller)
{
	int speed = (int)control->speed;

	if (timeout <= 0 || speed == 0 || !ours(caller))
		return timeout;
	return (timeout + speed - 1) / speed;
}

int
poll(struct pollfd *p, nfds_t n, int timeout)
{
	static int (*real)(struct pollfd *, nfds_t, int);

	find(&real, "poll");
	if (n == 0) {
		real(p, n, scaled(timeout, CALLER));
		timeout = 0;
	}
	return strike(poll_of(p, n), CALLER) != 0 ? -1 : real(p, n, scaled(timeout, CALLER));
}

int __poll_chk(struct pollfd *p, nfds_t n, int timeout, size_t max);

int
__poll_chk(struct pollfd *p, nfds_t n, int timeout, size_t max)
{
	static int (*real)(struct pollfd *, nfds_t, int, size_t);

	find(&real, "__poll_chk");
	return strike(poll_of(p, n), CALLER) != 0 ? -1 : real(p, n, scaled(timeout, CALLER), max);
}

/* What the test wants to know: where the program listens. */
int
getsockname(int fd, struct sockaddr *a, socklen_t *n)
{
	static int (*real)(int, struct sockaddr *, socklen_t *);

	find(&real, "getsockname");
	if (strike(GETSOCKNAME, CALLER) != 0 || real(fd, a, n) != 0)
		return -1;
	if (ours(CALLER) && control->ports < PORTS) /* at the same place in both */
		control->port[control->ports++] = ntohs(((struct sockaddr_in *)a)->sin_port);
	return 0;
}

/* The end of main. */

void
exit(int status)
{
	static void (*real)(int) __attribute__((noreturn));

	off = 1;
	find(&real, "exit");
	real(status);
}

static int (*program)(int, char **, char **);

static int
wrapped(int argc, char **argv, char **envp)
{
	int status = program(argc, argv, envp);

	off = 1;
	return status;
}

int __libc_start_main(int (*m)(int, char **, char **), int argc, char **argv, void (*init)(void),
	void (*fini)(void), void (*rtld_fini)(void), void *stack);

int
__libc_start_main(int (*m)(int, char **, char **), int argc, char **argv, void (*init)(void),
	void (*fini)(void), void (*rtld_fini)(void), void *stack)
{
	static int (*real)(int (*)(int, char **, char **), int, char **, void (*)(void),
		void (*)(void), void (*)(void), void *);

	find(&real, "__libc_start_main");
	program = m;
	return real(wrapped, argc, argv, init, fini, rtld_fini, stack);
}
