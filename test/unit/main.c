/*
 * What main.c does in cases that nothing outside can bring about.  What it writes to the log is
 * kept.
 */
#define main wssd_main
#include "../../main.c"
#undef main

#include <setjmp.h>

#include <cmocka.h>

static char said[1100];

ssize_t __wrap_write(int fd, const void *p, size_t n);

ssize_t
__wrap_write(int fd, const void *p, size_t n)
{
	assert_int_equal(fd, STDERR_FILENO);
	assert_true(n < sizeof said);
	memcpy(said, p, n);
	said[n] = '\0';
	return (ssize_t)n;
}

/* A step that ends a connection and does not say why would be a bug of ours: counted and told. */
static void
end_without_a_reason(void **state)
{
	static struct conn c, *list[1] = { &c };
	static struct listener l = { .plain = 1, .addr.in.sin_family = AF_INET };
	int fds[2];
	char byte;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	c = (struct conn){ .state = HEAD, .fd = fds[1], .bfd = -1, .lis = &l, .addr = l.addr };
	c.io = calloc(1, IO_TEXT);
	c.tls = calloc(1, tls_size);
	assert_non_null(c.io);
	assert_non_null(c.tls);
	awake = list;
	awakes = clients = 1;
	count.bugs = 0;
	conn_close(&c, NULL);
	assert_int_equal(count.bugs, 1);
	assert_non_null(strstr(said, ": bug: no reason\n"));
	assert_int_equal(c.state, FREE);
	assert_int_equal(awakes + clients, 0);
	assert_int_equal(read(fds[0], &byte, 1), 0); /* its descriptor is closed */
	close(fds[0]);
	free(c.io);
	free(c.tls);
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

static int accept_error;

int __wrap_accept4(int fd, struct sockaddr *a, socklen_t *n, int flags);

int
__wrap_accept4(int fd, struct sockaddr *a, socklen_t *n, int flags)
{
	(void)fd;
	(void)a;
	(void)n;
	(void)flags;
	errno = accept_error;
	return -1;
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
		said[0] = '\0';
		accept_error = cases[i].error;
		accept_one(&l);
		assert_int_equal(paused, cases[i].pauses);
		assert_int_equal(strstr(said, "accepting pauses: ") != NULL, cases[i].pauses);
	}
	assert_int_equal(count.refused + count.accepted, 0);
}

/* What --help says in brackets is what holds without the option. */
static void
defaults(void **state)
{
	unsigned seen = 0;

	(void)state;
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
		two[i].start = now - UNFINISHED + 1;
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

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(room_for_a_newcomer),
		cmocka_unit_test(lines_of_the_log),
		cmocka_unit_test(end_without_a_reason),
		cmocka_unit_test(networks),
		cmocka_unit_test(pauses),
	};

	return cmocka_run_group_tests_name("main", tests, NULL, NULL);
}
