/*
 * The PROXY protocol's head: proxy_head over every prefix, against a second reading of the
 * specification, and tls_proxy over a descriptor that gives it in pieces, or fails.
 */
#include "fuzz.h"

#include <sys/types.h>
#include <unistd.h>

static ssize_t fake_read(int fd, void *p, size_t n);

#define read fake_read
#include "tls.c"
#undef read

enum { FD = 1000 };

static struct input source; /* what the descriptor has to say */
static uint32_t dice;
static int failed; /* it returned an error that is for good, or the end */

static ssize_t
fake_read(int fd, void *p, size_t n)
{
	unsigned how = noise(&dice) % 16;
	const uint8_t *from;

	CHECK(fd == FD && n > 0);
	if (how == 0 || how == 1) {
		errno = how ? EINTR : EAGAIN;
		return -1;
	}
	failed = source.n == 0;
	if (failed && how % 2) {
		errno = ECONNRESET;
		return -1;
	}
	n = n < how * how ? n : how * how;
	from = take_bytes(&source, &n);
	memcpy(p, from, n);
	return (ssize_t)n;
}

/* 2.2, a rule a line.  Bytes of the head, 0: more is needed, -1: none; *family 0: no address. */
static long
reference(const uint8_t *b, size_t n, int *family, uint8_t *ip, unsigned *port)
{
	static const uint8_t signature[12] = { 0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55,
		0x49, 0x54, 0x0a };
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	size_t length;

	*family = 0;
	for (size_t i = 0; i < n && i < 12; i++)
		if (b[i] != signature[i])
			return -1;
	if (n < 16)
		return 0;
	length = b[14] * 256U + b[15];
	if (length + 16 > 2048)
		return -1;
	if (n < 16 + length)
		return 0;
	if (b[12] == 0x21 && b[13] == 0x11 && length >= 12) {
		*family = AF_INET;
		memcpy(ip, b + 16, 4);
		*port = b[24] * 256U + b[25];
	} else if (b[12] == 0x21 && b[13] == 0x21 && length >= 36) {
		*family = memcmp(b + 16, mapped, 12) == 0 ? AF_INET : AF_INET6;
		memcpy(ip, *family == AF_INET ? b + 28 : b + 16, *family == AF_INET ? 4 : 16);
		*port = b[48] * 256U + b[49];
	} else if (b[12] != 0x20 && !(b[12] == 0x21 && b[13] == 0)) {
		return -1;
	}
	return (long)(16 + length);
}

/* Whether *a is what the reference found, or was not touched. */
static void
compare(const union address *a, int family, const uint8_t *ip, unsigned port)
{
	if (family == 0) {
		CHECK(a->sa.sa_family == AF_UNIX && a->un.sun_path[0] == 'x');
		return;
	}
	CHECK(a->sa.sa_family == family && ntohs(a->in.sin_port) == port);
	CHECK(memcmp(ip_of(a), ip, family == AF_INET ? 4 : 16) == 0);
	CHECK(family == AF_INET || (a->in6.sin6_flowinfo == 0 && a->in6.sin6_scope_id == 0));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const union address before = { .un = { AF_UNIX, "x" } };
	static unsigned char io[IO_TEXT];
	struct tls tls = { .plain = 1 };
	struct conn c = { .fd = FD, .tls = &tls, .io = io, .addr = before };
	struct input in = { data, size };
	unsigned port = 0;
	uint8_t ip[16];
	int family;
	long want;
	enum step s = WAIT;

	dice = 1 + take(&in) * 7919U;
	for (size_t n = 0; n <= in.n && n <= 2100; n += n < 64 || n + 1 >= in.n ? 1 : 1 + n % 37) {
		union address a = before;
		uint8_t *b = exactly(in.p, n);

		want = reference(b, n, &family, ip, &port);
		CHECK(proxy_head(b, n, &a) == want);
		compare(&a, want > 0 ? family : 0, ip, port);
		free(b);
	}
	source = in;
	failed = 0;
	memset(io, 0xa5, sizeof io);
	for (int turn = 0; turn < 10000 && s == WAIT; turn++) {
		c.readable = 1;
		s = tls_proxy(&c);
	}
	want = reference(in.p, in.n, &family, ip, &port);
	if (s == DEAD && failed) { /* until then it was not whole, and nothing in it wrong */
		CHECK(want == 0);
	} else if (s == DEAD) {
		CHECK(want < 0 && strcmp(c.why, "no valid PROXY head") == 0);
	} else {
		CHECK(s == MORE && want > 0 && tls.from == (size_t)want && tls.to >= tls.from);
		CHECK(c.local == (in.p[12] == 0x20));
		CHECK(memcmp(io + IO_STAGE, in.p, tls.to) == 0);
	}
	compare(&c.addr, s == MORE ? family : 0, ip, port);
	CHECK(tls.to <= STAGE);
	return 0;
}
