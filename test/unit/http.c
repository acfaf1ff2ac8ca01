/*
 * What http.c does with what no head has, and with files that cannot be read.
 */
#include "../../http.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* At the very start of a buffer an Origin has nothing in front of it that could be looked at. */
static void
short_origins(void **state)
{
	static const struct listener lis[] = { { .plain = 0 }, { .plain = 1 } };
	static const unsigned char b[] = ":443 localhost", c80[] = ":80: localhost";
	static const struct names none;
	const struct head h = { .host = 5, .port = 14, .host_end = 14 };

	(void)state;
	for (int plain = 0; plain < 2; plain++) {
		const struct conn c = { .lis = &lis[plain] };

		for (uint16_t n = 0; n <= 4; n++) {
			const struct field origin = { .value = 0, .value_end = n };

			assert_int_equal(
				origin_allowed(&c, &none, plain ? c80 : b, &h, &origin), 0);
		}
	}
}

/* What is not even looked for is not there, whatever went wrong before. */
static void
stale_errno(void **state)
{
	static unsigned char path[] = "/a//b";
	const struct head h = { .path = 0, .path_end = 5 };
	struct conn c = { .lis = cf.listener, .fd = -1, .bfd = -1, .state = HEAD };

	(void)state;
	cf.listener[0].plain = 1;
	c.io = calloc(1, IO_TEXT);
	c.tls = calloc(1, tls_size);
	assert_non_null(c.io);
	assert_non_null(c.tls);
	assert_int_equal(tls_open(&c), 1);
	errno = EMFILE;
	assert_int_equal(file(&c, path, &h), MORE);
	assert_int_equal(c.status, 404);
	free(c.io);
	free(c.tls);
}

/* What a hash has seen of a credential is wiped. */

static size_t wiped; /* the largest piece of memory */

void __wrap_explicit_bzero(void *p, size_t n);

void
__wrap_explicit_bzero(void *p, size_t n)
{
	memset(p, 0, n);
	wiped = wiped > n ? wiped : n;
}

static void
no_traces(void **state)
{
	static const unsigned char b[] = "c2VjcmV0";

	(void)state;
	for (int coded = 0; coded < 2; coded++) {
		wiped = 0;
		assert_int_equal(known("file", b, 0, sizeof b - 1, coded), 0);
		assert_int_equal(wiped, sizeof(br_sha256_context));
	}
}

/* System calls that fail with these errors, if there is one. */

static int open_error, stat_error, read_error;

int __real_openat(int dir, const char *name, int flags, ...);
int __wrap_openat(int dir, const char *name, int flags, ...);
int __real_fstat(int fd, struct stat *st);
int __wrap_fstat(int fd, struct stat *st);
ssize_t __real_read(int fd, void *p, size_t n);
ssize_t __wrap_read(int fd, void *p, size_t n);

int
__wrap_openat(int dir, const char *name, int flags, ...)
{
	errno = open_error;
	return open_error != 0 && (flags & O_PATH) == 0 ? -1 : __real_openat(dir, name, flags);
}

int
__wrap_fstat(int fd, struct stat *st)
{
	errno = stat_error;
	return stat_error != 0 ? -1 : __real_fstat(fd, st);
}

ssize_t
__wrap_read(int fd, void *p, size_t n)
{
	struct stat st = { 0 };

	errno = read_error;
	return read_error != 0 && __real_fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ?
		-1 : __real_read(fd, p, n);
}

/* What a client asks for over a plain connection, up to the end of the answer. */
static enum step
ask(const char *request, const char **why, char *answer, size_t size)
{
	struct conn c = { .state = HEAD, .bfd = -1, .lis = cf.listener, .readable = 1 };
	enum step s = MORE;
	int fds[2];
	ssize_t n;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(write(fds[1], request, strlen(request)), strlen(request));
	cf.listener[0].plain = 1;
	c.fd = fds[0];
	c.io = calloc(1, IO_TEXT + HEAD_MAX);
	c.tls = calloc(1, tls_size);
	assert_true(c.io != NULL && c.tls != NULL);
	assert_int_equal(tls_open(&c), 1);
	assert_int_equal(tls_in(&c), MORE);
	while (s == MORE && c.state < OPEN)
		s = http_step(&c);
	*why = c.why;
	if (s != DEAD) {
		assert_int_equal(tls_out(&c), MORE);
		n = __real_read(fds[1], answer, size - 1);
		assert_true(n > 0);
		answer[n] = '\0';
	}
	ws_leave(&c);
	close(fds[0]);
	close(fds[1]);
	free(c.io);
	free(c.tls);
	return s;
}

/*
 * What cannot be had for now is 503, and what is no file, or cannot be looked at, 404; a file whose
 * bytes cannot be read breaks off.
 */
static void
files(void **state)
{
	static const struct {
		int open, stat, read, status;
	} cases[] = { { 0, 0, 0, 200 }, { EMFILE, 0, 0, 503 }, { ENFILE, 0, 0, 503 },
		{ EACCES, 0, 0, 404 }, { EIO, 0, 0, 404 }, { 0, EIO, 0, 404 }, { 0, 0, EIO, 0 } };
	char directory[] = "/tmp/wssd-unit-XXXXXX", file[64], answer[2048], line[32];
	const char *why;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(directory));
	snprintf(file, sizeof file, "%s/f", directory);
	fd = open(file, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, "text", 4), 4);
	close(fd);
	cf.root_fd = open(directory, O_PATH | O_DIRECTORY);
	assert_true(cf.root_fd >= 0);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		enum step s;

		open_error = cases[i].open;
		stat_error = cases[i].stat;
		read_error = cases[i].read;
		answer[0] = '\0';
		s = ask("GET /f HTTP/1.0\r\nHost: localhost\r\n\r\n", &why, answer, sizeof answer);
		open_error = stat_error = read_error = 0;
		if (cases[i].status == 0) {
			assert_int_equal(s, DEAD);
			assert_string_equal(why, strerror(EIO));
			continue;
		}
		snprintf(line, sizeof line, "HTTP/1.1 %d ", cases[i].status);
		assert_int_equal(strncmp(answer, line, strlen(line)), 0);
		assert_int_equal(strstr(answer, "\r\n\r\ntext") != NULL, cases[i].status == 200);
	}
	close(cf.root_fd);
	unlink(file);
	rmdir(directory);
}

/* NUL is in no set, and ends what goes up to a CR. */
static void
spans(void **state)
{
	static const unsigned char b[] = "ab\0cd\001e\r";

	(void)state;
	assert_int_equal(span(b, 0, 8, token), 2);
	assert_int_equal(span(b, 0, 8, "\r"), 2);
	assert_int_equal(span(b, 3, 8, token), 5);
	assert_int_equal(span(b, 3, 8, "\r"), 7);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(spans),
		cmocka_unit_test(short_origins),
		cmocka_unit_test(stale_errno),
		cmocka_unit_test(no_traces),
		cmocka_unit_test(files),
	};

	return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
