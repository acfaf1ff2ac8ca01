/*
 * What main.c does in cases that nothing outside can bring about.  What it writes to the log is
 * kept.
 */
#define main wssd_main
#include "../../main.c"
#undef main

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>

#include <cmocka.h>

static char all[4096], said[1100]; /* the log; its last line */

ssize_t __wrap_write(int fd, const void *p, size_t n);

ssize_t
__wrap_write(int fd, const void *p, size_t n)
{
	assert_int_equal(fd, STDERR_FILENO);
	assert_true(n < sizeof said);
	memcpy(said, p, n);
	said[n] = '\0';
	if (strlen(all) + n < sizeof all)
		strcat(all, said);
	return (ssize_t)n;
}

/* A server of one slot, which is free. */
static struct conn *
one_slot(void)
{
	static struct conn c, *list[1] = { &c };
	static unsigned char *io;
	static struct tls *tls;

	if (io == NULL) {
		io_size = (IO_TEXT + HEAD_MAX + 4095) / 4096 * 4096;
		io = aligned_alloc(4096, io_size);
		tls = aligned_alloc(16, tls_size);
		assert_true(io != NULL && tls != NULL);
		memset(io, 0, io_size);
		memset(tls, 0, tls_size);
	}
	c = (struct conn){ .fd = -1, .bfd = -1, .io = io, .tls = tls };
	slots = &c;
	awake = list;
	cf.max_clients = 1;
	awakes = clients = 0;
	return &c;
}

/* A step that ends a connection and does not say why would be a bug of ours: counted and told. */
static void
end_without_a_reason(void **state)
{
	static struct listener l = { .plain = 1, .addr.in.sin_family = AF_INET };
	struct conn *c = one_slot();
	int fds[2];
	char byte;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	c->state = HEAD;
	c->fd = fds[1];
	c->lis = &l;
	c->addr = l.addr;
	awakes = clients = 1;
	count.bugs = 0;
	all[0] = '\0';
	conn_close(c, NULL);
	assert_int_equal(count.bugs, 1);
	assert_non_null(strstr(all, ": bug: no reason\n"));
	assert_int_equal(c->state, FREE);
	assert_int_equal(awakes + clients, 0);
	assert_int_equal(read(fds[0], &byte, 1), 0); /* its descriptor is closed */
	close(fds[0]);
}

/* The line of a connection: seconds to the millisecond, and a name that cannot end its quotes. */
static void
line_of_an_end(void **state)
{
	static char ca[] = "ca.pem";
	static struct listener l = { .addr.in.sin_family = AF_INET, .client_ca = ca };
	struct conn *c = one_slot();
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	close(fds[0]);
	c->state = OPEN;
	c->status = 1000;
	c->fd = fds[1];
	c->lis = &l;
	c->addr = l.addr;
	c->start = now - 123456;
	c->in = 7;
	c->out = 8;
	strcpy(c->path, "/p");
	strcpy(c->cn, "a\" in=0 #!\"");
	awakes = clients = 1;
	conn_close(c, "why");
	assert_string_equal(said, "0.0.0.0:0 - /p 1000 in=7 out=8 secs=123.456 cn=\"a? in=0 #!?\": why\n");
}

/* A proxy's network has none of another IP version's addresses, whatever their bytes are. */
static void
networks(void **state)
{
	static const struct {
		const char *address, *net;
		long long bits;
		int in;
	} cases[] = {
		{ "10.1.2.3", "10.1.2.3", 32, 1 },
		{ "10.1.2.3", "10.1.2.2", 32, 0 },
		{ "10.1.2.3", "10.1.2.2", 31, 1 },
		{ "10.1.2.3", "10.9.9.9", 8, 1 },
		{ "11.1.2.3", "10.1.2.3", 8, 0 },
		{ "11.1.2.3", "10.1.2.3", 7, 1 },
		{ "10.1.2.4", "10.1.2.6", 31, 0 },
		{ "10.1.2.4", "10.1.2.6", 30, 1 },
		{ "10.128.0.1", "10.0.0.1", 9, 0 },
		{ "10.1.2.3", "99.99.99.99", 0, 1 },
		{ "fe80::1", "fe80::2", 64, 1 },
		{ "fe80::1", "fe80:0:0:1::1", 64, 0 },
		{ "fe80::1", "fe80:0:0:1::1", 63, 1 },
		{ "::", "0.0.0.0", 0, 0 },
		{ "0.0.0.0", "::", 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		union address a = { 0 }, net = { 0 };

		a.sa.sa_family = strchr(cases[i].address, ':') != NULL ? AF_INET6 : AF_INET;
		net.sa.sa_family = strchr(cases[i].net, ':') != NULL ? AF_INET6 : AF_INET;
		assert_int_equal(inet_pton(a.sa.sa_family, cases[i].address, ip_of(&a)), 1);
		assert_int_equal(inet_pton(net.sa.sa_family, cases[i].net, ip_of(&net)), 1);
		assert_int_equal(in_network(&a, &net, cases[i].bits), cases[i].in);
	}
}

/* System calls, one of which fails; those of the start do nothing else, and give this descriptor. */

enum failure { NONE, CHROOT, CHDIR, SETGROUPS, SETRESGID, SETRESUID, FILTER, RELOAD, SETRLIMIT, SIGNALFD, EPOLL, SOCKET, BIND, LISTENING, NAME, OPENING, POLLING,
	GIVING };

static enum failure failing;
static int error, entropy = 1, accepted = -1, opened, epoll_fails; /* of calls of epoll_ctl */
static int exited, slept, patience; /* what poll was told to wait */
static jmp_buf ended;

static int
result(enum failure call, int good)
{
	errno = error;
	return call == failing ? -1 : good;
}

#define START(call, name, parameters, good) \
	int __wrap_##name parameters; \
\
	int __wrap_##name parameters \
	{ \
		return result(call, good); \
	}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
START(SETRLIMIT, setrlimit, (int what, const struct rlimit *l), 0)
START(SIGNALFD, signalfd, (int fd, const sigset_t *set, int flags), 77)
START(EPOLL, epoll_create1, (int flags), 78)
START(SOCKET, socket, (int family, int type, int protocol), 79)
START(BIND, bind, (int fd, const struct sockaddr *a, socklen_t n), 0)
START(LISTENING, listen, (int fd, int backlog), 0)
START(NAME, getsockname, (int fd, struct sockaddr *a, socklen_t *n), 0)
START(NONE, setsockopt, (int fd, int l, int o, const void *p, socklen_t n), 0)
#pragma GCC diagnostic pop

int __wrap_accept4(int fd, struct sockaddr *a, socklen_t *n, int flags);
int __wrap_epoll_ctl(int fd, int op, int client, struct epoll_event *ev);
int __wrap_getentropy(void *p, size_t n);
int __real_open(const char *file, int flags, ...);
int __wrap_open(const char *file, int flags, ...);
int __real_poll(struct pollfd *p, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *p, nfds_t n, int timeout);
int __wrap_madvise(void *p, size_t n, int advice);
_Noreturn void __wrap_exit(int status);

int
__wrap_accept4(int fd, struct sockaddr *a, socklen_t *n, int flags)
{
	(void)fd;
	(void)flags;
	memset(a, 0, *n);
	a->sa_family = AF_INET;
	errno = error;
	return accepted;
}

int
__wrap_epoll_ctl(int fd, int op, int client, struct epoll_event *ev)
{
	(void)fd;
	(void)op;
	(void)client;
	(void)ev;
	errno = ENOSPC;
	return epoll_fails-- > 0 ? -1 : 0;
}

int
__wrap_getentropy(void *p, size_t n)
{
	memset(p, 4, n);
	errno = ENOSYS;
	return entropy ? 0 : -1;
}

int
__wrap_open(const char *file, int flags, ...)
{
	opened++;
	return failing == OPENING ? -1 : __real_open(file, flags);
}

int
__wrap_poll(struct pollfd *p, nfds_t n, int timeout)
{
	if (n == 1) { /* the log's */
		assert_int_equal(timeout, 0);
		return __real_poll(p, n, timeout);
	}
	if (n == 0) {
		slept += timeout;
		return 0;
	}
	patience = timeout;
	stopping = 1;
	return result(POLLING, 0);
}

int
__wrap_madvise(void *p, size_t n, int advice)
{
	(void)p;
	(void)n;
	(void)advice;
	return result(GIVING, 0);
}

_Noreturn void
__wrap_exit(int status)
{
	exited = status;
	longjmp(ended, 1);
}

/* What cannot be had at the start ends it with one sentence; fewer descriptors are only a pity. */
static void
refusals(void **state)
{
	static const struct {
		enum failure call;
		int error;
		const char *says;
	} cases[] = {
		{ SIGNALFD, EMFILE, "wssd: signalfd or epoll: Too many open files\n" },
		{ EPOLL, ENOMEM, "wssd: signalfd or epoll: Cannot allocate memory\n" },
		{ SOCKET, EACCES, "wssd: listen on 127.0.0.1:99: Permission denied\n" },
		{ BIND, EADDRINUSE, "wssd: listen on 127.0.0.1:99: Address already in use\n" },
		{ LISTENING, EADDRINUSE, "wssd: listen on 127.0.0.1:99: Address already in use\n" },
		{ NAME, ENOBUFS, "wssd: listen on 127.0.0.1:99: No buffer space available\n" },
		{ SETRLIMIT, EPERM, NULL },
		{ NONE, 0, NULL },
	};

	(void)state;
	cf.listeners = 1;
	cf.max_clients = 1;
	cf.listener[0].plain = 1;
	cf.listener[0].addr.in = (struct sockaddr_in){ .sin_family = AF_INET,
		.sin_port = htons(99), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	for (volatile size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		volatile int status = 0;

		all[0] = '\0';
		failing = cases[i].call;
		error = cases[i].error;
		if (setjmp(ended) == 0)
			open_descriptors();
		else
			status = exited;
		failing = NONE;
		if (cases[i].says != NULL) {
			assert_int_equal(status, 1);
			assert_string_equal(all, cases[i].says);
		} else {
			assert_int_equal(status, 0);
			assert_int_equal(strstr(all, "descriptors may run out") != NULL,
				cases[i].call == SETRLIMIT);
			assert_non_null(strstr(all, "listening on ws://127.0.0.1:99\n"));
			assert_int_equal(cf.listener[0].fd, 79);
		}
	}
}

/* Least power. */

static struct {
	uid_t uid, euid;
	gid_t gid;
	int groups, rises, lies; /* supplementary ones; it can get them back; nothing changes */
	int loads, limits, quiet; /* calls of http_load, setrlimit to 0, PR_SET_DUMPABLE: 1 to 0, -1 to 1 */
} us;
static struct sock_filter filter[512];
static unsigned short filters;

const char *__wrap_http_load(void);
int __wrap_chroot(const char *path);
int __wrap_chdir(const char *path);
uid_t __wrap_getuid(void);
uid_t __wrap_geteuid(void);
gid_t __wrap_getgid(void);
int __wrap_setgroups(size_t n, const gid_t *list);
int __wrap_setresgid(gid_t r, gid_t e, gid_t s);
int __wrap_setresuid(uid_t r, uid_t e, uid_t s);
int __wrap_prctl(int what, ...);

const char *
__wrap_http_load(void)
{
	return failing == RELOAD && us.loads++ > 0 ? "the reason" : NULL;
}

int
__wrap_chroot(const char *path)
{
	assert_string_equal(path, "/jail");
	return result(CHROOT, 0);
}

int
__wrap_chdir(const char *path)
{
	assert_string_equal(path, "/");
	return result(CHDIR, 0);
}

uid_t
__wrap_getuid(void)
{
	return us.uid;
}

uid_t
__wrap_geteuid(void)
{
	return us.euid;
}

gid_t
__wrap_getgid(void)
{
	return us.gid;
}

int
__wrap_setgroups(size_t n, const gid_t *list)
{
	assert_true(n == 0 && list == NULL);
	errno = EPERM;
	if (us.euid != 0 && !(us.rises & 2))
		return -1;
	us.groups = 0;
	return result(SETGROUPS, 0);
}

int
__wrap_setresgid(gid_t r, gid_t e, gid_t s)
{
	assert_true(r == e && e == s && r != (gid_t)-1);
	if (!(us.lies & 2))
		us.gid = r;
	return result(SETRESGID, 0);
}

int
__wrap_setresuid(uid_t r, uid_t e, uid_t s)
{
	errno = EPERM;
	if (r == (uid_t)-1) {
		assert_true(e == 0 && s == (uid_t)-1);
		return us.rises & 1 ? 0 : -1;
	}
	assert_true(r == e && e == s);
	if (us.euid != 0 && us.euid != r)
		return -1;
	us.euid = r;
	if (!(us.lies & 1))
		us.uid = r;
	return result(SETRESUID, 0);
}

int
__wrap_prctl(int what, ...)
{
	va_list ap;
	const struct sock_fprog *program;

	if (what == PR_SET_DUMPABLE) {
		va_start(ap, what);
		us.quiet += va_arg(ap, int) != 0 ? -1 : 1;
		va_end(ap);
	}
	if (what != PR_SET_SECCOMP)
		return 0;
	va_start(ap, what);
	assert_int_equal(va_arg(ap, int), SECCOMP_MODE_FILTER);
	program = va_arg(ap, const struct sock_fprog *);
	va_end(ap);
	filters = program->len;
	assert_true(filters <= sizeof filter / sizeof *filter);
	memcpy(filter, program->filter, filters * sizeof *filter);
	return result(FILTER, 0);
}

/* What the kernel would do with the program, as far as ours has instructions. */
static uint32_t
verdict(uint32_t arch, int number, const uint64_t *args)
{
	struct seccomp_data data = { .nr = number, .arch = arch };
	uint32_t a = 0;

	for (int i = 0; i < 6 && args != NULL; i++)
		data.args[i] = args[i];
	for (unsigned at = 0; at < filters; at++) {
		const struct sock_filter *f = &filter[at];

		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			assert_true(f->k % 4 == 0 && f->k < sizeof data);
			memcpy(&a, (const char *)&data + f->k, 4);
			break;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= f->k;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			at += a == f->k ? f->jt : f->jf;
			break;
		case BPF_RET | BPF_K:
			return f->k;
		default:
			fail();
		}
	}
	fail_msg("the program has no end");
	return 0;
}

#ifdef __x86_64__
static const uint32_t here = AUDIT_ARCH_X86_64;
#else
static const uint32_t here = AUDIT_ARCH_AARCH64; /* the others are tried by programs for them */
#endif

/* Every number: those of the table with what they ask for, and no other; by routes. */
static void
filtered_calls(void **state)
{
	static const struct {
		int number, arg;
		uint64_t good[3], bad[4]; /* values of the argument */
		int family;               /* 0: always; 3: any backend */
	} list[] = {
		{ SYS_openat, 2, { O_RDONLY, O_PATH | O_DIRECTORY | O_NOFOLLOW, 1ULL << 32 | O_CLOEXEC },
			{ O_WRONLY, O_RDWR, O_CREAT, 1ULL << 32 | O_TRUNC }, 0 },
		{ SYS_fcntl, 1, { F_SETFD, F_SETFD, F_SETFD }, { F_GETFL, F_SETFL, F_DUPFD, F_SETOWN }, 0 },
		{ SYS_madvise, 2, { MADV_DONTNEED, MADV_DONTNEED, MADV_DONTNEED },
			{ MADV_NORMAL, MADV_FREE, MADV_REMOVE, MADV_HUGEPAGE }, 0 },
		{ SYS_socket, 0, { AF_INET, AF_INET, AF_INET }, { AF_UNIX, AF_INET6, AF_NETLINK, AF_PACKET },
			AF_INET },
		{ SYS_socket, 0, { AF_INET6, AF_INET6, AF_INET6 }, { AF_UNIX, AF_INET, AF_NETLINK, 0 },
			AF_INET6 },
		{ SYS_socket, 0, { AF_UNIX, AF_UNIX, AF_UNIX }, { AF_INET, AF_INET6, AF_NETLINK, AF_VSOCK },
			AF_UNIX },
		{ SYS_setsockopt, 2, { TCP_NODELAY, TCP_NODELAY, TCP_NODELAY },
			{ SO_ATTACH_FILTER, SO_BINDTODEVICE, SO_RCVBUF, SO_MARK }, 0 },
		{ SYS_setsockopt, 2, { TCP_NODELAY, SO_LINGER, TCP_NODELAY },
			{ SO_ATTACH_FILTER, SO_BINDTODEVICE, SO_RCVBUF, SO_MARK }, 3 },
		{ SYS_setsockopt, 2, { TCP_NODELAY, SO_LINGER, SO_PEEK_OFF },
			{ SO_ATTACH_FILTER, SO_BINDTODEVICE, SO_RCVBUF, SO_MARK }, AF_UNIX },
	};
	static const int always[] = { SYS_read, SYS_write, SYS_sendto, SYS_ppoll, SYS_epoll_pwait,
		SYS_epoll_ctl, SYS_restart_syscall, SYS_clock_gettime,
		SYS_accept4, SYS_getrandom, SYS_shutdown, SYS_close, SYS_newfstatat, SYS_fstat, SYS_statx,
		SYS_exit_group,
#ifdef __x86_64__
		SYS_poll, SYS_epoll_wait, SYS_time,
#endif
	};
	static const int backends_only[] = { SYS_recvfrom, SYS_connect };
	static const sa_family_t families[] = { 0, AF_INET, AF_INET6, AF_UNIX };
	const struct config before = cf;

	(void)state;
	for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
		const sa_family_t family = families[f];
		unsigned seen = 0, plain = 0;

		failing = NONE;
		cf.routes = 1;
		cf.route[0].backend = &backends[family == 0 ? 0 : family == AF_UNIX ? 3 : 2];
		cf.route[0].addr.sa.sa_family = family;
		assert_int_equal(filter_calls(), 1);
		for (int number = 0; number < 1100; number++) {
			int want = 0, checked = 0;

			for (size_t i = 0; i < sizeof always / sizeof *always; i++)
				want |= always[i] == number;
			for (size_t i = 0; i < 2 && family != 0; i++)
				want |= backends_only[i] == number;
			for (size_t i = 0; i < sizeof list / sizeof *list; i++)
				checked |= list[i].number == number;
			assert_int_equal(verdict(here ^ 1, number, NULL), SECCOMP_RET_KILL_PROCESS);
			assert_int_equal(verdict(here, number | 0x40000000, NULL), SECCOMP_RET_KILL_PROCESS);
#ifdef SYS_open
			checked |= number == SYS_open;
#endif
			if (checked)
				continue;
			if (number == SYS_mmap || number == SYS_brk)
				assert_int_equal(verdict(here, number, NULL), SECCOMP_RET_ERRNO | ENOMEM);
			else
				assert_int_equal(verdict(here, number, NULL),
					want ? SECCOMP_RET_ALLOW : SECCOMP_RET_KILL_PROCESS);
			plain += (unsigned)want;
		}
		assert_int_equal(plain, sizeof always / sizeof *always + (family != 0 ? 2 : 0));
		for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
			uint64_t args[6] = { 77, 77, 77, 77, 77, 77 };

			for (int k = 0; k < 4; k++) {
				args[list[i].arg] = list[i].bad[k];
				if (list[i].family == family || list[i].number != SYS_socket)
					assert_int_equal(verdict(here, list[i].number, args),
						SECCOMP_RET_KILL_PROCESS);
			}
			for (int k = 0; k < 3; k++) {
				args[list[i].arg] = list[i].good[k];
				if (list[i].family == 0 || list[i].family == family ||
					(list[i].family == 3 && family != 0)) {
					assert_int_equal(verdict(here, list[i].number, args),
						SECCOMP_RET_ALLOW);
					seen++;
				}
			}
			if (list[i].number == SYS_socket && list[i].family != family) {
				args[0] = list[i].good[0];
				assert_int_equal(verdict(here, SYS_socket, args), SECCOMP_RET_KILL_PROCESS);
			}
		}
		assert_true(seen >= 12);
		if (family == 0) {
			uint64_t args[6] = { 1, SOL_SOCKET, SO_LINGER };

			assert_int_equal(verdict(here, SYS_setsockopt, args), SECCOMP_RET_KILL_PROCESS);
		}
	}
	cf = before;
}

/* A file such as /etc/passwd: what it says, and what it does not. */
static void
looking_up(void **state)
{
	static const char text[] = "root:x:0:0:root:/root:/bin/sh\n\n#no:x:1:1\nempty:x::7::/:/x\nminus:x:-1:5:\n"
				   "big:x:4294967295:0::\nletters:x:12:3x::\nletters:x:13:4::\n+:::\nwssd:x:101:102::/:/x\n"
				   "twice:x:5:6\ntwice:x:7:8\nlast:x:4294967294:9";
	static const struct {
		const char *name;
		int column;
		long long id, group; /* -1: the sentence is `says` */
		const char *says;
	} cases[] = {
		{ "root", 3, 0, 0, NULL }, { "wssd", 3, 101, 102, NULL }, { "wssd", 2, 101, 101, NULL },
		{ "101", 3, 101, 102, NULL }, { "4711", 3, 4711, 4711, NULL }, { "twice", 3, 5, 6, NULL },
		{ "7", 3, 7, 8, NULL }, { "letters", 3, 13, 4, NULL }, { "letters", 2, 12, 12, NULL },
		{ "last", 3, 4294967294, 9, NULL }, { "12", 3, 12, 12, NULL },
		{ "roo", 3, -1, 0, "wssd: --user roo: is unknown\n" },
		{ "root:", 3, -1, 0, "wssd: --user root:: is unknown\n" },
		{ "", 3, -1, 0, "wssd: --user : is unknown\n" },
		{ "empty", 3, -1, 0, "wssd: --user empty: is unknown\n" },
		{ "minus", 3, -1, 0, "wssd: --user minus: is unknown\n" },
		{ "-1", 3, -1, 0, "wssd: --user -1: is unknown\n" },
		{ "big", 2, -1, 0, "wssd: --user :big: is unknown\n" },
		{ "4294967295", 3, -1, 0, "wssd: --user 4294967295: is unknown\n" },
		{ "+", 3, -1, 0, "wssd: --user +: is unknown\n" },
		{ "x", 3, -1, 0, "wssd: --user x: is unknown\n" },
	};
	char name[] = "/tmp/wssd-unit-XXXXXX";
	int fd = mkstemp(name);
	volatile long long id, group;

	(void)state;
	assert_int_equal(syscall(SYS_write, fd, text, sizeof text - 1), sizeof text - 1);
	close(fd);
	for (volatile size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		long long a = -5, b = -5;

		id = group = -1;
		if (setjmp(ended) == 0) {
			look_up(name, cases[i].column, cases[i].name, &a, &b);
			id = a;
			group = b;
			assert_int_equal(id, cases[i].id);
			assert_int_equal(group, cases[i].group);
		} else {
			assert_int_equal(exited, 1);
			assert_string_equal(said, cases[i].says);
		}
		assert_int_equal(id == -1, cases[i].id == -1);
	}
	unlink(name);
	for (volatile int numeric = 0; numeric < 2; numeric++) {
		long long a = -5, b = -5;

		if (setjmp(ended) == 0) {
			look_up("/nowhere/passwd", 3, numeric ? "5" : "root", &a, &b);
			assert_true(numeric && a == 5 && b == 5);
		} else {
			assert_false(numeric);
			assert_string_equal(said, "wssd: /nowhere/passwd: No such file or directory\n");
		}
	}
}

/* Each step of confine() that fails ends the start, and one that lies is found out. */
static void
confining(void **state)
{
	enum { KEPT = -1, OUT = -2 }; /* uid and gid stay as they were; the start ends */
	static const struct {
		uid_t uid, euid; /* before */
		const char *user, *chroot;
		enum failure failing;
		int rises, lies, check, loose; /* loose: --no-sandbox */
		int status, after;             /* after: uid and gid, KEPT or OUT */
		const char *says;
	} cases[] = {
		{ 7, 7, NULL, NULL, NONE, 0, 0, 0, 0, 0, KEPT, NULL },
		{ 7, 7, NULL, NULL, NONE, 0, 0, 1, 0, 0, KEPT, NULL },
		{ 7, 7, "7:7", NULL, NONE, 0, 0, 1, 0, 0, 7, NULL },
		{ 7, 7, "8:8", NULL, NONE, 0, 0, 1, 0, 1, OUT, "cannot become that user: Operation not permitted\n" },
		{ 0, 0, NULL, NULL, NONE, 0, 0, 0, 0, 2, OUT,
			"--user: is missing: root must name another one, or itself\n" },
		{ 7, 0, NULL, NULL, NONE, 0, 0, 0, 0, 2, OUT,
			"--user: is missing: root must name another one, or itself\n" },
		{ 0, 0, "root", NULL, NONE, 3, 0, 0, 0, 0, 0, NULL },
		{ 0, 0, "4711", NULL, NONE, 0, 0, 1, 0, 0, 4711, NULL },
		{ 0, 0, "4711", "/jail", NONE, 0, 0, 0, 0, 0, 4711, NULL },
		{ 0, 0, "4711", NULL, NONE, 0, 0, 1, 1, 0, 4711, NULL },
		{ 0, 0, "4711:0", NULL, NONE, 0, 0, 1, 1, 0, OUT + 0, NULL },
		{ 0, 0, "4711", "/jail", CHROOT, 0, 0, 1, 0, 1, OUT, "--chroot /jail: Operation not permitted\n" },
		{ 0, 0, "4711", "/jail", CHDIR, 0, 0, 1, 0, 1, OUT, "--chroot /jail: Operation not permitted\n" },
		{ 0, 0, "4711", NULL, SETGROUPS, 0, 0, 1, 0, 1, OUT, "cannot become that user: Operation not permitted\n" },
		{ 0, 0, "4711", NULL, SETRESGID, 0, 0, 1, 0, 1, OUT, "cannot become that user: Operation not permitted\n" },
		{ 0, 0, "4711", NULL, SETRESUID, 0, 0, 1, 0, 1, OUT, "cannot become that user: Operation not permitted\n" },
		{ 0, 0, "4711", NULL, NONE, 1, 0, 1, 0, 1, OUT, "user: could be root again\n" },
		{ 0, 0, "4711", NULL, NONE, 2, 0, 1, 0, 1, OUT, "user: could be root again\n" },
		{ 0, 0, "4711", NULL, NONE, 0, 1, 1, 0, 1, OUT, "user: could be root again\n" },
		{ 0, 0, "4711", NULL, NONE, 0, 2, 1, 0, 1, OUT, "user: could be root again\n" },
		{ 0, 0, "4711", NULL, FILTER, 0, 0, 1, 0, 0, 4711,
			"system calls are not filtered: Operation not permitted\n" },
		{ 0, 0, "4711", NULL, RELOAD, 0, 0, 1, 0, 0, 4711, "a reload will be refused: the reason\n" },
		{ 0, 0, "root", NULL, RELOAD, 0, 0, 1, 0, 0, 0, NULL },
	};
	const struct config before = cf;

	(void)state;
	for (volatile size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		static char user[32], jail[32];
		const volatile int gid = cases[i].uid == 0 ? 0 : 7;
		volatile int status = 0;

		memset(&us, 0, sizeof us);
		us.uid = cases[i].uid;
		us.euid = cases[i].euid;
		us.gid = (gid_t)gid;
		us.groups = 5;
		us.rises = cases[i].rises;
		us.lies = cases[i].lies;
		snprintf(user, sizeof user, "%s", cases[i].user != NULL ? cases[i].user : "");
		snprintf(jail, sizeof jail, "%s", cases[i].chroot != NULL ? cases[i].chroot : "");
		cf.user = cases[i].user != NULL ? user : NULL;
		cf.chroot = cases[i].chroot != NULL ? jail : NULL;
		cf.check = cases[i].check;
		cf.no_sandbox = cases[i].loose;
		cf.listeners = 0;
		cf.routes = 0;
		cf.max_clients = 1;
		cf.max_message = 1;
		filters = 0;
		said[0] = '\0';
		failing = cases[i].failing;
		error = EPERM;
		if (setjmp(ended) == 0)
			confine();
		else
			status = exited;
		failing = NONE;
		assert_int_equal(status, cases[i].status);
		if (cases[i].says != NULL)
			assert_string_equal(said + (status != 0 ? strlen("wssd: ") : 0), cases[i].says);
		if (status != 0) {
			assert_int_equal(filters, 0);
			continue;
		}
		if (cases[i].after != OUT) {
			assert_int_equal(us.uid, cases[i].after == KEPT ? cases[i].uid : (uid_t)cases[i].after);
			assert_int_equal(us.gid, cases[i].after == KEPT ? gid : cases[i].after);
		} else { /* 4711:0 */
			assert_int_equal(us.uid, 4711);
			assert_int_equal(us.gid, 0);
		}
		assert_int_equal(us.groups, cases[i].euid == 0 && us.uid != 0 ? 0 : 5);
		assert_int_equal(filters > 0, !cases[i].loose);
		assert_int_equal(us.quiet, cases[i].loose ? -1 : 1);
	}
	cf = before;
}

/* Without /dev/null it goes on: whoever starts it has given it the descriptors below 3. */
static void
no_devices(void **state)
{
	static char *words[] = { "wssd", "--version", NULL };

	(void)state;
	opened = 0;
	failing = OPENING;
	assert_int_equal(wssd_main(2, words), 0);
	failing = NONE;
	assert_int_equal(opened, 1);
	cf.version = 0;
}

/* A poll that fails is no reason to spin; nothing is taken for ready. */
static void
no_poll(void **state)
{
	static struct pollfd room[4];

	(void)state;
	one_slot();
	pfd = room;
	for (int fails = 0; fails < 2; fails++) {
		failing = fails ? POLLING : NONE;
		error = ENOMEM;
		slept = stopping = 0;
		loop();
		assert_int_equal(slept, fails ? 10 : 0);
		assert_int_equal(pfds, 3);
	}
	failing = NONE;
	stopping = 0;
}

/* The loop waits for a second, and not at all if there is something left to do. */
static void
no_wait(void **state)
{
	static struct pollfd room[LISTENERS_MAX + 4];
	struct conn *c = one_slot();

	(void)state;
	pfd = room;
	*c = (struct conn){ .state = HEAD, .fd = -1, .bfd = -1, .lis = cf.listener, .io = c->io,
		.tls = c->tls };
	cf.listener[0].plain = 1;
	assert_int_equal(tls_open(c), 1);
	awakes = 1;
	swept = INT64_MAX / 2; /* no look at the deadlines */
	for (int again = 0; again < 2; again++) {
		stopping = 0;
		c->again = (uint8_t)again;
		loop();
		assert_int_equal(patience, again ? 0 : TICK);
		assert_int_equal(c->again, 0);
	}
	swept = stopping = 0;
}

/* Only what lasts makes accepting pause: not a client that is gone again, nor nobody. */
static void
pauses(void **state)
{
	static const struct {
		int error, pauses;
	} cases[] = { { EMFILE, 1 }, { ENFILE, 1 }, { ENOBUFS, 1 }, { ENOMEM, 1 }, { EAGAIN, 0 },
		{ ECONNABORTED, 0 }, { EINTR, 0 } };
	static const struct listener l;

	(void)state;
	count.refused = count.accepted = 0;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		paused = 0;
		all[0] = '\0';
		error = cases[i].error;
		accept_one(&l);
		assert_int_equal(paused, cases[i].pauses);
		assert_int_equal(strstr(all, "accepting pauses: ") != NULL, cases[i].pauses);
	}
	assert_int_equal(count.refused + count.accepted, 0);
}

/* Who gets no entropy is not served, in TLS: predictable keys would be worse than none. */
static void
no_entropy(void **state)
{
	(void)state;
	for (int plain = 0; plain < 2; plain++) {
		int fds[2];
		char byte;
		struct conn *c = one_slot();

		assert_int_equal(pipe(fds), 0);
		accepted = fds[1];
		entropy = 0;
		all[0] = '\0';
		cf.listener[0].plain = plain;
		cf.max_per_ip = 0;
		accept_one(&cf.listener[0]);
		accepted = -1;
		entropy = 1;
		assert_int_equal(c->state, plain ? SHAKE : FREE);
		assert_int_equal(clients, plain);
		if (plain)
			conn_close(c, "enough");
		else
			assert_non_null(strstr(all, ": no entropy\n"));
		assert_int_equal(read(fds[0], &byte, 1), 0); /* closed */
		close(fds[0]);
	}
}

/*
 * Who cannot be watched by epoll stays awake, and is served; what the kernel does not take back is
 * still to be wiped.
 */
static void
no_rest(void **state)
{
	static const struct {
		int epoll, keeps, asleep, moved; /* failures; what comes of them */
	} cases[] = { { 2, 0, 0, 3 }, { 1, 0, 1, 0 }, { 0, 0, 1, 0 }, { 1, 1, 1, 3 } };

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct conn *c = one_slot();

		cf.listener[0].plain = 1;
		c->state = HEAD;
		c->fd = 5;
		c->lis = &cf.listener[0];
		assert_int_equal(tls_open(c), 1);
		c->asleep = 1;
		wake(c);
		c->again = 0;
		c->moved = 3;
		now = c->stepped + TICK;
		epoll_fails = cases[i].epoll;
		failing = cases[i].keeps ? GIVING : NONE;
		rest(c);
		failing = NONE;
		assert_int_equal(c->asleep, cases[i].asleep);
		assert_int_equal(awakes, !cases[i].asleep);
		assert_int_equal(c->moved, cases[i].moved);
	}
}

/* What --help says in brackets is what holds without the option. */
static void
defaults(void **state)
{
	static char *words[] = { "wssd", "--version", NULL };
	unsigned seen = 0;

	(void)state;
	assert_int_equal(wssd_main(2, words), 0);
	cf.version = 0;
	for (const struct option *o = options; o->name != NULL; o++) {
		const char *bracket = strrchr(o->help, '(');
		char *end;

		if (o->kind == NUMBER && bracket != NULL) {
			long long said_there = strtoll(bracket + 1, &end, 10);

			if (end == bracket + 1) /* "half" */
				continue;
			assert_int_equal(*(long long *)o->to, said_there);
			seen++;
		}
	}
	assert_int_equal(seen, 4);
}

/* Seconds become milliseconds, and half of the slots is half of them, rounded up. */
static void
units(void **state)
{
	const struct config before = cf;

	(void)state;
	cf.listeners = 1;
	cf.listener[0].plain = 1;
	cf.max_clients = 7;
	cf.max_per_ip = -1;
	cf.timeout = 11;
	cf.ping = 31;
	check_config();
	assert_int_equal(cf.timeout, 11000);
	assert_int_equal(cf.ping, 31000);
	assert_int_equal(cf.max_per_ip, 4);
	cf = before;
}

/* The oldest of those that had two seconds, and no other, makes room. */
static void
room_for_a_newcomer(void **state)
{
	static struct conn two[2], *list[2];
	static struct listener l = { .plain = 1, .addr.in.sin_family = AF_INET };
	const long long max = cf.max_clients;

	(void)state;
	slots = two;
	awake = list;
	cf.max_clients = 2;
	now = 10000;
	awakes = clients = 0;
	for (int i = 0; i < 2; i++) {
		two[i] =
			(struct conn){ .state = HEAD, .fd = -1, .bfd = -1, .lis = &l, .asleep = 1 };
		two[i].addr = l.addr;
		two[i].io = calloc(1, IO_TEXT);
		two[i].tls = calloc(1, tls_size);
		two[i].start = now - 2000 + 1;
		wake(&two[i]);
		clients++;
	}
	assert_null(find_slot());
	two[1].start--; /* two seconds */
	assert_ptr_equal(find_slot(), &two[1]);
	assert_int_equal(two[0].state, HEAD);
	assert_int_equal(two[1].state, FREE);
	assert_ptr_equal(find_slot(), &two[1]);
	for (int i = 0; i < 2; i++) {
		free(two[i].io);
		free(two[i].tls);
	}
	cf.max_clients = max;
	awakes = clients = 0;
}

/* Of the handshakes the oldest makes a step in a turn; whoever is beyond, or needs none, always. */
static void
one_handshake(void **state)
{
	enum { N = 5 };
	static const uint8_t states[N] = { SHAKE, SHAKE, PROXY, SHAKE, HEAD };
	static const uint32_t ids[N] = { 1, UINT32_MAX, 2, 0, 3 }; /* they began to count anew */
	static struct conn some[N], *list[N];
	static struct listener l[2] = { { .addr.in.sin_family = AF_INET },
		{ .addr.in.sin_family = AF_INET, .plain = 1 } };
	const long long max = cf.max_clients;

	(void)state;
	slots = some;
	awake = list;
	cf.max_clients = N;
	now = 10000;
	awakes = clients = 0;
	for (int i = 0; i < N; i++) {
		some[i] = (struct conn){ .state = states[i], .fd = -1, .bfd = -1, .id = ids[i],
			.lis = &l[states[i] == HEAD], .addr = l[0].addr, .asleep = 1 };
		some[i].io = calloc(1, IO_TEXT + HEAD_MAX);
		some[i].tls = calloc(1, tls_size);
		wake(&some[i]);
		clients++;
		some[i].stepped = 0;
	}
	step_all();
	for (int i = 0; i < N; i++) {
		assert_int_equal(some[i].stepped, ids[i] == UINT32_MAX || states[i] == HEAD ? now : 0);
		free(some[i].io);
		free(some[i].tls);
	}
	cf.max_clients = max;
	awakes = clients = 0;
}

/* Who hears of a hub is stepped in the turn in which something was posted, and nobody else is for that. */
static void
subscribers_at_once(void **state)
{
	enum { N = 4 };
	static struct conn some[N], *list[N];
	static struct listener l = { .addr.in.sin_family = AF_INET, .plain = 1 };
	const struct backend *hub = backends;
	const long long max = cf.max_clients;

	(void)state;
	while (strcmp(hub->name, "hub") != 0)
		hub++;
	for (int i = 0; i < 2; i++)
		cf.route[i].backend = hub;
	cf.routes = 2;
	slots = some;
	awake = list;
	cf.max_clients = N;
	now = 10000;
	awakes = clients = 0;
	for (int i = 0; i < N; i++) { /* two subscribers; another hub's; one who is not yet there */
		some[i] = (struct conn){ .state = i < 3 ? OPEN : CONNECT, .fd = -1, .bfd = -1,
			.lis = &l, .addr = l.addr, .asleep = 1, .route = &cf.route[i == 2] };
		some[i].io = calloc(1, IO_TEXT + HEAD_MAX);
		some[i].tls = calloc(1, tls_size);
		wake(&some[i]);
		clients++;
		some[i].again = 0;
		some[i].stepped = 0;
	}
	cf.route[0].hub.posted = 1;
	step_all();
	assert_int_equal(cf.route[0].hub.posted, 0);
	for (int i = 0; i < N; i++) {
		assert_int_equal(some[i].stepped, i < 2 ? now : 0);
		free(some[i].io);
		free(some[i].tls);
	}
	memset(cf.route, 0, 2 * sizeof *cf.route);
	cf.routes = 0;
	cf.max_clients = max;
	awakes = clients = 0;
}

/* A line of the log is one line, of printable characters, and has an end however long it is. */
static void
lines_of_the_log(void **state)
{
	static char text[2000];

	(void)state;
	log_line(INFO, "%s", "\x1f \x7f~\n\x80");
	assert_string_equal(said, "? ?~??\n");
	for (size_t n = 1000; n < 1100; n++) {
		memset(text, 'x', n);
		text[n] = '\0';
		log_line(INFO, "%s", text);
		assert_int_equal(strlen(said), n < 1022 ? n + 1 : 1023);
		assert_int_equal(strspn(said, "x") + 1, strlen(said));
		assert_int_equal(said[strlen(said) - 1], '\n');
	}
}

/* Who was stepped, in this order. */

static uint32_t stepped[8];
static unsigned steps;

enum step __wrap_tls_in(struct conn *c);
enum step __wrap_tls_ready(struct conn *c);

enum step
__wrap_tls_in(struct conn *c)
{
	stepped[steps++ % 8] = c->id;
	return WAIT;
}

enum step
__wrap_tls_ready(struct conn *c)
{
	(void)c;
	return WAIT;
}

/*
 * One TLS handshake a turn, the oldest, behind all others; serial numbers may have begun again.
 * Plain HTTP has none.
 */
static void
one_handshake_a_turn(void **state)
{
	static struct conn four[4], *list[4];
	static const struct listener wss, ws = { .plain = 1 };
	static const uint32_t ids[] = { 3, UINT32_MAX, 1, 7 };
	static const struct {
		unsigned steps;
		uint32_t ids[2];
	} expected[] = { { 2, { 7, UINT32_MAX } }, { 1, { 1 } }, { 1, { 3 } }, { 0, { 0 } } };

	(void)state;
	awake = list;
	awakes = 0;
	for (int i = 0; i < 4; i++) {
		four[i] = (struct conn){ .state = SHAKE, .id = ids[i], .asleep = 1 };
		four[i].lis = i < 3 ? &wss : &ws;
		wake(&four[i]);
		four[i].again = 1;
	}
	for (unsigned turn = 0; turn < 4; turn++) {
		steps = 0;
		step_all();
		assert_int_equal(steps, expected[turn].steps);
		assert_memory_equal(stepped, expected[turn].ids, steps * sizeof *stepped);
	}
	awakes = 0;
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(units),
		cmocka_unit_test(room_for_a_newcomer),
		cmocka_unit_test(lines_of_the_log),
		cmocka_unit_test(one_handshake),
		cmocka_unit_test(subscribers_at_once),
		cmocka_unit_test(end_without_a_reason),
		cmocka_unit_test(line_of_an_end),
		cmocka_unit_test(networks),
		cmocka_unit_test(refusals),
		cmocka_unit_test(filtered_calls),
		cmocka_unit_test(looking_up),
		cmocka_unit_test(confining),
		cmocka_unit_test(no_devices),
		cmocka_unit_test(no_poll),
		cmocka_unit_test(no_wait),
		cmocka_unit_test(pauses),
		cmocka_unit_test(no_entropy),
		cmocka_unit_test(no_rest),
		cmocka_unit_test(one_handshake_a_turn),
	};

	return cmocka_run_group_tests_name("main", tests, NULL, NULL);
}
