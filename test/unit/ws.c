/*
 * What ws.c says of states one by one, and does when a signal interrupts its calls to a backend.
 */
#include "../../ws.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* Any single thing that is under way keeps a connection from resting. */
static void
idle(void **state)
{
	static struct route r = { .hub.head = 9 };
	static const struct conn still = { .state = OPEN, .route = &r, .cursor = 9 };
	struct conn c[7];

	(void)state;
	assert_true(ws_idle(&still));
	for (size_t i = 0; i < 7; i++)
		c[i] = still;
	c[0].in_frame = 1;
	c[1].stashed = 1;
	c[2].text = 1;
	c[3].bfull = 1;
	c[4].bready = 1;
	c[5].cursor = 8;
	for (size_t i = 0; i < 6; i++)
		assert_false(ws_idle(&c[i]));
	c[6].bfd = 5; /* that it has a backend does not count */
	assert_true(ws_idle(&c[6]));
}

/* Of a header nothing is known yet. */
static void
no_header(void **state)
{
	struct frame f;

	(void)state;
	assert_int_equal(ws_frame((const unsigned char *)"", 0, &f), 0);
}

static int connect_error, socket_error, option_error;

int __wrap_connect(int fd, const struct sockaddr *a, socklen_t n);
int __real_socket(int family, int type, int protocol);
int __wrap_socket(int family, int type, int protocol);
int __real_setsockopt(int fd, int level, int option, const void *p, socklen_t n);
int __wrap_setsockopt(int fd, int level, int option, const void *p, socklen_t n);

int
__wrap_socket(int family, int type, int protocol)
{
	errno = socket_error;
	return socket_error != 0 ? -1 : __real_socket(family, type, protocol);
}

int
__wrap_setsockopt(int fd, int level, int option, const void *p, socklen_t n)
{
	errno = option_error;
	return option_error != 0 && option == SO_PEEK_OFF ? -1 :
	       __real_setsockopt(fd, level, option, p, n);
}

int
__wrap_connect(int fd, const struct sockaddr *a, socklen_t n)
{
	(void)fd;
	(void)a;
	(void)n;
	errno = connect_error;
	return connect_error == 0 ? 0 : -1;
}

/* What is under way, or was interrupted, is waited for; what is said when it is over counts. */
static void
connecting(void **state)
{
	static const struct {
		int error, full;
		enum step step;
	} cases[] = { { EINPROGRESS, 1, WAIT }, { EALREADY, 1, WAIT }, { EAGAIN, 0, WAIT },
		{ EINTR, 0, WAIT }, { ECONNREFUSED, 0, DEAD }, { 0, 0, MORE } };
	static const struct backend stream = { .family = AF_UNIX };
	static struct route r = { .backend = &stream, .addr.un.sun_family = AF_UNIX };

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct conn c = { .state = CONNECT, .route = &r, .bfd = -1 };

		connect_error = cases[i].error;
		assert_int_equal(stream_open(&c), cases[i].step);
		assert_int_equal(c.bfull, cases[i].full);
		assert_true(c.bfd >= 0);
		if (cases[i].step == DEAD)
			assert_string_equal(c.why, strerror(connect_error));
		close(c.bfd);
	}
}

/* Without a socket, or without what tells packets from each other, there is no backend. */
static void
no_socket(void **state)
{
	static const struct backend packets = { .family = AF_UNIX, .whole = 1 };
	static struct route r = { .backend = &packets, .addr.un.sun_family = AF_UNIX };

	(void)state;
	connect_error = 0;
	for (int i = 0; i < 3; i++) {
		struct conn c = { .state = CONNECT, .route = &r, .bfd = -1 };

		socket_error = i == 0 ? EMFILE : 0;
		option_error = i == 1 ? EOPNOTSUPP : 0;
		assert_int_equal(stream_open(&c), i == 2 ? MORE : DEAD);
		assert_int_equal(c.bfd >= 0, i > 0);
		if (i < 2)
			assert_string_equal(c.why, strerror(i == 0 ? EMFILE : EOPNOTSUPP));
		if (c.bfd >= 0)
			close(c.bfd);
	}
	socket_error = option_error = 0;
}

/* A backend is lost by an error that lasts. */
static void
losing(void **state)
{
	static const struct {
		int error, lost, code;
	} cases[] = { { EINTR, 0, 0 }, { EAGAIN, 0, 0 }, { EPIPE, 1, 1011 },
		{ ECONNRESET, 1, 1011 }, { EMSGSIZE, 1, 1009 } };

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct conn c = { .state = OPEN, .bfd = -1 };

		errno = cases[i].error;
		assert_int_equal(stream_lost(&c, -1), cases[i].lost);
		assert_int_equal(c.closing, cases[i].code);
		assert_int_equal(c.state, cases[i].lost ? DRAIN : OPEN);
		assert_int_equal(stream_lost(&c, 0), 0);
	}
}

/* Room is waited for when a backend took less than all, and only then. */
static void
taking(void **state)
{
	static const struct backend stream; /* not whole: bytes, no packets */
	static unsigned char bytes[1 << 20];
	struct route r = { .backend = &stream };
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	struct conn c = { .state = OPEN, .route = &r, .bfd = fds[0] };
	assert_int_equal(stream_input(&c, bytes, 5), 5);
	assert_int_equal(c.bfull, 0);
	ssize_t n = stream_input(&c, bytes, sizeof bytes);
	assert_in_range(n, 1, sizeof bytes - 1);
	assert_int_equal(c.bfull, 1);
	assert_int_equal(stream_input(&c, bytes, 5), -1);
	assert_int_equal(c.bfull, 1);
	close(fds[0]);
	close(fds[1]);
}

static unsigned char sent[1024];
static size_t put;
static int received;

unsigned char *__wrap_tls_room(struct conn *c, size_t *n);
void __wrap_tls_put(struct conn *c, size_t n);
ssize_t __real_recv(int fd, void *p, size_t n, int flags);
ssize_t __wrap_recv(int fd, void *p, size_t n, int flags);

unsigned char *
__wrap_tls_room(struct conn *c, size_t *n)
{
	(void)c;
	*n = sizeof sent - put;
	return sent + put;
}

void
__wrap_tls_put(struct conn *c, size_t n)
{
	(void)c;
	put += n;
}

ssize_t
__wrap_recv(int fd, void *p, size_t n, int flags)
{
	received++;
	return __real_recv(fd, p, n, flags);
}

/* A stream that had less than was asked for has no more now, and is not asked again; of packets all are taken. */
static void
giving(void **state)
{
	static const struct {
		int type, calls;
		size_t length; /* of what goes to the client */
		struct backend backend;
	} cases[] = {
		{ SOCK_STREAM, 1, 2 + 10, { .name = "unix" } },
		{ SOCK_SEQPACKET, 5, 2 * (2 + 5), { .name = "seqpacket", .whole = 1 } },
	};
	static const int zero;
	int fds[2];

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct route r = { .backend = &cases[i].backend };

		assert_int_equal(socketpair(AF_UNIX, cases[i].type | SOCK_NONBLOCK, 0, fds), 0);
		assert_int_equal(__real_setsockopt(fds[0], SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof zero), 0);
		struct conn c = { .state = OPEN, .route = &r, .bfd = fds[0], .bready = 1 };
		cf.max_message = 100;
		for (int k = 0; k < 2; k++)
			assert_int_equal(write(fds[1], "bytes", 5), 5);
		put = 0;
		received = 0;
		stream_output(&c);
		assert_int_equal(received, cases[i].calls);
		assert_int_equal(put, cases[i].length);
		assert_int_equal(c.bready, 0);
		close(fds[0]);
		close(fds[1]);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(idle),
		cmocka_unit_test(no_header),
		cmocka_unit_test(connecting),
		cmocka_unit_test(no_socket),
		cmocka_unit_test(losing),
		cmocka_unit_test(taking),
		cmocka_unit_test(giving),
	};

	return cmocka_run_group_tests_name("ws", tests, NULL, NULL);
}
