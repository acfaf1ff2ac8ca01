/*
 * What main.c does in cases that nothing outside can bring about.  What it writes to the log is
 * kept.
 */
#define main wssd_main
#include "../../main.c"
#undef main

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

enum call { NONE, SETRLIMIT, SIGNALFD, EPOLL, SOCKET, BIND, LISTENING, NAME, OPENING, POLLING,
	GIVING };

static enum call failing;
static int error, entropy = 1, accepted = -1, opened, epoll_fails; /* of calls of epoll_ctl */
static int exited, slept, patience; /* what poll was told to wait */
static jmp_buf ended;

static int
result(enum call call, int good)
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
int __wrap_usleep(useconds_t n);
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
	if (n == 1)
		return __real_poll(p, n, timeout); /* the log's */
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

int
__wrap_usleep(useconds_t n)
{
	slept += n > 0;
	return 0;
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
		enum call call;
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
		assert_int_equal(slept, fails);
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
		cmocka_unit_test(end_without_a_reason),
		cmocka_unit_test(line_of_an_end),
		cmocka_unit_test(networks),
		cmocka_unit_test(refusals),
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
