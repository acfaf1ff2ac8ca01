/*
 * The pure functions by themselves: request heads, frame headers, UTF-8, masking.  Whatever they are
 * given ends where a page ends that nobody may touch, or where malloc's memory ends; each vector is
 * tried whole, at each cut, and byte by byte.  Linked with the four sources.
 */
#include "../../ws.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { ROOM = 16384, PAGE = 4096 };

static unsigned char *guard; /* the first byte of the page that nobody may touch */
static unsigned char *heap;

/* n bytes that end at the guard (even calls), or a piece of the heap of just that size (odd ones). */
static unsigned char *
place(const void *data, size_t n)
{
	static unsigned calls;
	unsigned char *p;

	free(heap);
	heap = NULL;
	if (calls++ % 2 == 0) {
		p = guard - n;
	} else {
		heap = malloc(n != 0 ? n : 1);
		assert_non_null(heap);
		p = heap;
	}
	if (n != 0)
		memcpy(p, data, n);
	return p;
}

/* Numbers that are the same each time. */
static uint32_t
noise(void)
{
	static uint32_t x = 2463534242;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

/* Heads. */

#define HOST "Host: localhost\r\n"

static const struct {
	const char *head, *path, *host;
	unsigned fields;
} good[] = {
	{ "GET / HTTP/1.1\r\n" HOST "\r\n", "/", "localhost", 1 },
	{ "GET /a/b?c=d HTTP/1.1\r\n" HOST "A: b\r\n\r\n", "/a/b", "localhost", 2 },
	{ "GET /%61%2e HTTP/1.1\r\n" HOST "\r\n", "/a.", "localhost", 1 },
	{ "HEAD /x HTTP/1.1\r\nA:b\r\nhOST:\t[::1]:80 \r\nB:\r\n\r\n", "/x", "[::1]:80", 3 },
	{ "GET http://h:1/p HTTP/1.1\r\nHost: other\r\n\r\n", "/p", "h:1", 1 },
	{ "GET /%ff HTTP/1.1\r\n" HOST "\r\n", "/\xff", "localhost", 1 },
	{ "GET / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", "/", "localhost", 2 },
};

static const struct {
	const char *head;
	int status;
} bad[] = {
	{ "GET / HTTP/1.1\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400 },
	{ "GET / HTTP/2.0\r\n" HOST "\r\n", 505 },
	{ "GET / HTTP/1.1 \r\n" HOST "\r\n", 400 },
	{ "GET  / HTTP/1.1\r\n" HOST "\r\n", 400 },
	{ "GET /\r\n" HOST "\r\n", 400 },
	{ "GET\r\n\r\n", 400 },
	{ "\r\n\r\n", 400 },
	{ " GET / HTTP/1.1\r\n" HOST "\r\n", 400 },
	{ "BREW / HTTP/1.1\r\n" HOST "\r\n", 501 },
	{ "GET / HTTP/1.1\r\n" HOST " folded\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" HOST "A : b\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" HOST "A\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" HOST "A: b\x01\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" HOST "A: b\rc\r\n\r\n", 400 },
	{ "GET /%00 HTTP/1.1\r\n" HOST "\r\n", 400 },
	{ "GET /%2f HTTP/1.1\r\n" HOST "\r\n", 400 },
	{ "GET /%2F HTTP/1.1\r\n" HOST "\r\n", 400 },
	{ "GET /% HTTP/1.1\r\n" HOST "\r\n", 400 },
	{ "GET /%4 HTTP/1.1\r\n" HOST "\r\n", 400 },
	{ "GET /%g0 HTTP/1.1\r\n" HOST "\r\n", 400 },
	{ "GET x HTTP/1.1\r\n" HOST "\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" HOST "Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400 },
};

static int
whole_scan(const char *head, size_t n)
{
	uint8_t scan = 0;

	return http_scan(place(head, n), 0, n, &scan);
}

static void
scan_cuts(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		size_t n = strlen(good[i].head);
		uint8_t scan = 0;
		unsigned char *b;

		assert_int_equal(whole_scan(good[i].head, n), n);
		for (size_t cut = 0; cut < n; cut++) {
			assert_int_equal(whole_scan(good[i].head, cut), 0);
			b = place(good[i].head, n);
			scan = 0;
			assert_int_equal(http_scan(b, 0, cut, &scan), 0);
			assert_int_equal(http_scan(b, cut, n, &scan), n);
		}
		b = place(good[i].head, n);
		scan = 0;
		for (size_t k = 0; k < n; k++)
			assert_int_equal(http_scan(b, k, k + 1, &scan), k + 1 < n ? 0 : n);
	}
}

/* What stands behind a head is the next request, or frames: not looked at. */
static void
scan_pipeline(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		char two[1024];
		int n = snprintf(two, sizeof two, "%s%s", good[i].head, "\x81\x85GET\n\n");

		assert_int_equal(whole_scan(two, (size_t)n), strlen(good[i].head));
	}
}

/* A byte that no head may have is refused when it comes, at the latest at the end of the head. */
static void
scan_bytes(void **state)
{
	(void)state;
	for (unsigned c = 0; c < 256; c++) {
		char text[128];
		int n = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nA: b?c\r\n" HOST "\r\n");
		int allowed = c == '\t' || (c >= ' ' && c != 127), got;
		struct head h;

		*strchr(text, '?') = (char)c;
		got = whole_scan(text, (size_t)n);
		if (got > 0)
			got = -http_parse(place(text, (size_t)n), (size_t)n, &h);
		assert_int_equal(got, allowed ? 0 : -400);
	}
}

/* Cut anywhere, the answer is the same as at once. */
static void
scan_noise(void **state)
{
	static const char some[] = "\r\n\r\n\r\n\r\nGHz: /\t\x01\x80";

	(void)state;
	for (int round = 0; round < 20000; round++) {
		char text[40];
		size_t n = 1 + noise() % (sizeof text - 1), cut = noise() % n;
		uint8_t scan = 0;
		unsigned char *b;
		int at_once, later;

		for (size_t i = 0; i < n; i++)
			text[i] = some[noise() % (sizeof some - 1)];
		at_once = whole_scan(text, n);
		assert_true(at_once == -400 || (at_once >= 0 && (size_t)at_once <= n));
		b = place(text, n);
		later = http_scan(b, 0, cut, &scan);
		if (later == 0)
			later = http_scan(b, cut, n, &scan);
		assert_int_equal(later, at_once);
	}
}

static void
sane(const unsigned char *b, size_t n, const struct head *h)
{
	assert_true(h->fields <= FIELDS_MAX);
	assert_true(h->host < h->host_end && h->host_end < n);
	assert_true(h->path <= h->path_end && h->path_end < n);
	if (h->path_end > h->path) {
		assert_int_equal(b[h->path], '/');
		assert_int_equal(strlen((const char *)b + h->path), h->path_end - h->path);
	}
	for (unsigned i = 0; i < h->fields; i++) {
		assert_true(h->field[i].name < h->field[i].name_end);
		assert_true(h->field[i].name_end < h->field[i].value);
		assert_true(h->field[i].value <= h->field[i].value_end);
		assert_true(h->field[i].value_end + 4u <= n);
	}
}

static void
parse_good(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		for (int twice = 0; twice < 2; twice++) {
			size_t n = strlen(good[i].head);
			unsigned char *b = place(good[i].head, n);
			struct head h;

			assert_int_equal(http_parse(b, n, &h), 0);
			sane(b, n, &h);
			assert_int_equal(h.fields, good[i].fields);
			assert_string_equal((const char *)b + h.path, good[i].path);
			assert_int_equal(h.host_end - h.host, strlen(good[i].host));
			assert_memory_equal(b + h.host, good[i].host, strlen(good[i].host));
			assert_int_equal(h.minor, 1);
		}
	}
}

static void
parse_bad(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		for (int twice = 0; twice < 2; twice++) {
			size_t n = strlen(bad[i].head);
			struct head h;
			int got = whole_scan(bad[i].head, n);

			if (got > 0)
				got = -http_parse(place(bad[i].head, n), n, &h);
			got = -got;
			if (got != bad[i].status)
				print_message("%s", bad[i].head);
			assert_int_equal(got, bad[i].status);
		}
	}
}

/* Each good head with each of its bytes replaced by each other one: refused, or sane. */
static void
parse_mutants(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		size_t n = strlen(good[i].head);
		char text[256];

		for (size_t k = 0; k < n; k++) {
			for (unsigned c = 0; c < 256; c++) {
				struct head h;
				unsigned char *b;
				int end, got;

				memcpy(text, good[i].head, n);
				text[k] = (char)c;
				end = whole_scan(text, n);
				if (end <= 0)
					continue;
				b = place(text, (size_t)end);
				got = http_parse(b, (size_t)end, &h);
				assert_true(got == 0 || got == 400 || got == 501 || got == 505);
				if (got == 0)
					sane(b, (size_t)end, &h);
			}
		}
	}
}

/*
 * What is no whole head, which http_scan lets nobody see, is parsed within its bounds all the same;
 * and a NUL byte belongs to no token.
 */
static void
parse_cuts(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		size_t n = strlen(good[i].head);

		for (size_t k = 0; k < n; k++) {
			for (int nul = 0; nul < 4; nul++) {
				size_t end = nul < 2 ? k : n;
				unsigned char *b = place(good[i].head, end);
				struct head h;
				int got;

				if (nul >= 2)
					b[k] = '\0';
				got = http_parse(b, end, &h);
				assert_true(got == 0 || got == 400 || got == 501 || got == 505);
				if (nul >= 2 && k < strcspn(good[i].head, "\r"))
					assert_true(got == 400 || got == 501);
			}
		}
	}
}

static void
parse_limits(void **state)
{
	static char text[HEAD_MAX + 64];
	struct head h;
	int n = 0;

	(void)state;
	for (int fields = FIELDS_MAX - 1; fields <= FIELDS_MAX + 1; fields++) {
		n = snprintf(text, sizeof text, "GET / HTTP/1.1\r\n" HOST);
		for (int i = 1; i < fields; i++)
			n += snprintf(text + n, sizeof text - (size_t)n, "A: b\r\n");
		n += snprintf(text + n, sizeof text - (size_t)n, "\r\n");
		assert_int_equal(http_parse(place(text, (size_t)n), (size_t)n, &h),
			fields <= FIELDS_MAX ? 0 : 431);
	}
	n = snprintf(text, sizeof text, "GET /%0*d HTTP/1.1\r\n" HOST "\r\n", HEAD_MAX - 35, 0);
	assert_true(n > HEAD_MAX - 10 && n <= HEAD_MAX);
	assert_int_equal(http_parse(place(text, (size_t)n), (size_t)n, &h), 0);
	assert_int_equal(h.path_end - h.path, HEAD_MAX - 34);
}

/* Frames (RFC 6455 5.2): all first two bytes, against a second reading of the RFC. */

static int
expected(const unsigned char *b, size_t n, uint64_t *length)
{
	int opcode = b[0] & 15, form = b[1] & 127;
	size_t need = form == 126 ? 8 : form == 127 ? 14 : 6, known;
	unsigned minimum = form == 126 ? 126 : 65536;

	if ((b[0] & 0x70) != 0 || (opcode > 2 && opcode < 8) || opcode > 10)
		return -1002;
	if (opcode >= 8 && (b[0] & 0x80) == 0)
		return -1002;
	if (n < 2)
		return 0;
	if ((b[1] & 0x80) == 0 || (opcode >= 8 && form > 125))
		return -1002;
	*length = (uint64_t)form;
	if (form >= 126) {
		known = form == 126 ? 2 : 8;
		*length = 0;
		for (size_t i = 0; i < known && i + 2 < n; i++)
			*length = *length << 8 | b[2 + i];
		if (n > 2 && form == 127 && (b[2] & 0x80) != 0)
			return -1002;
		if (n >= 2 + known && *length < minimum)
			return -1002;
	}
	return n >= need ? (int)need : 0;
}

static int longest; /* header */

static void
try_frame(const unsigned char *bytes)
{
	for (size_t n = 1; n <= 16; n++) {
		uint64_t length = 0;
		struct frame f;
		int want = expected(bytes, n, &length), got = ws_frame(place(bytes, n), n, &f);

		/* a wrong length may be told before all of it is there, but must be when it is */
		if (got < 0 && want == 0) {
			assert_int_equal(got, expected(bytes, 16, &length));
			return;
		}
		assert_int_equal(got, want);
		longest = longest > got ? longest : got;
		if (got > 0) {
			assert_int_equal(f.length, length);
			assert_int_equal(f.opcode, bytes[0] & 15);
			assert_int_equal(f.fin != 0, bytes[0] >> 7);
			assert_memory_equal(&f.mask, bytes + got - 4, 4);
		}
		if (want < 0)
			return;
	}
}

static void
frames(void **state)
{
	static const uint64_t lengths[] = { 0, 1, 125, 126, 127, 65535, 65536, 1ULL << 32,
		(1ULL << 63) - 1, 1ULL << 63, UINT64_MAX };
	unsigned char b[16];

	(void)state;
	for (unsigned first = 0; first < 65536; first++) {
		for (size_t i = 2; i < sizeof b; i++)
			b[i] = (unsigned char)noise();
		b[0] = (unsigned char)(first >> 8);
		b[1] = (unsigned char)first;
		try_frame(b);
		if ((b[1] & 127) < 126)
			continue;
		for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
			for (unsigned k = 0; k < 8; k++)
				b[2 + k] = (unsigned char)(lengths[i] >> (56 - 8 * k));
			if ((b[1] & 127) == 126)
				memmove(b + 2, b + 8, 2);
			try_frame(b);
		}
	}
	assert_int_equal(longest, FRAME_MAX);
}

/* Ours are as short as can be, and unmasked (5.1). */
static void
headers(void **state)
{
	(void)state;
	for (unsigned length = 0; length < 65536; length++) {
		unsigned char b[16];
		size_t n, want = length < 126 ? 2 : 4;
		int opcode = (int)(length % 3), fin = (int)(length / 3 % 2);

		memset(b, 0xaa, sizeof b);
		n = ws_header(b, fin, opcode, (uint16_t)length);
		assert_int_equal(n, want);
		assert_int_equal(b[0], fin << 7 | opcode);
		assert_int_equal(b[1], n == 2 ? length : 126);
		if (n == 4)
			assert_int_equal(b[2] << 8 | b[3], length);
		assert_int_equal(b[n], 0xaa);
	}
}

/* UTF-8 (RFC 3629), against its syntax in section 4. */

/* 1: b[0, n) begins like valid text; *whole: it ends between characters. */
static int
begins_well(const unsigned char *b, size_t n, int *whole)
{
	size_t i = 0;

	*whole = 1;
	while (i < n) {
		unsigned c = b[i++], low = 0x80, high = 0xbf, tail;

		if (c < 0x80)
			continue;
		if (c < 0xc2 || c > 0xf4)
			return 0;
		tail = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
		if (c == 0xe0)
			low = 0xa0;
		else if (c == 0xed)
			high = 0x9f;
		else if (c == 0xf0)
			low = 0x90;
		else if (c == 0xf4)
			high = 0x8f;
		for (; tail > 0; tail--, low = 0x80, high = 0xbf) {
			if (i == n) {
				*whole = 0;
				return 1;
			}
			if (b[i] < low || b[i] > high)
				return 0;
			i++;
		}
	}
	return 1;
}

static void
try_utf8(const unsigned char *b, size_t n)
{
	uint8_t state = 0;
	int whole, want = begins_well(b, n, &whole);

	assert_int_equal(ws_utf8(&state, place(b, n), n) != 0, want);
	if (want)
		assert_int_equal(state == 0, whole);
	state = 0;
	for (size_t i = 0; i < n; i++) { /* refused with the first byte that spoils it */
		want = begins_well(b, i + 1, &whole);
		assert_int_equal(ws_utf8(&state, b + i, 1) != 0, want);
		if (!want)
			return;
		assert_int_equal(state == 0, whole);
	}
}

static void
utf8(void **state)
{
	static const unsigned char edge[] = { 0, 'a', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf,
		0xc0, 0xc1, 0xc2, 0xe0, 0xed, 0xf0, 0xf4, 0xf5, 0xff };
	unsigned char b[64];

	(void)state;
	for (unsigned v = 0; v < 65536; v++) {
		b[0] = (unsigned char)(v >> 8);
		b[1] = (unsigned char)v;
		try_utf8(b, 2);
		if (b[0] < 0xe0)
			continue;
		for (size_t i = 0; i < sizeof edge; i++) {
			b[2] = edge[i];
			try_utf8(b, 3);
			b[3] = edge[(i + v) % sizeof edge];
			try_utf8(b, 4);
		}
	}
	for (int round = 0; round < 20000; round++) {
		size_t n = noise() % sizeof b;

		for (size_t i = 0; i < n; i++)
			b[i] = noise() % 3 != 0 ? (unsigned char)('a' + noise() % 26)
						: edge[noise() % sizeof edge];
		try_utf8(b, n);
	}
	try_utf8(b, 0);
}

/* Masking (5.3), at any alignment, in one piece or two. */
static void
unmask(void **state)
{
	(void)state;
	for (size_t n = 0; n < 70; n++) {
		for (size_t cut = 0; cut <= n; cut++) {
			unsigned char in[70], key[4], *p;
			uint32_t mask;

			for (size_t i = 0; i < n; i++)
				in[i] = (unsigned char)noise();
			for (size_t i = 0; i < 4; i++)
				key[i] = (unsigned char)noise();
			memcpy(&mask, key, 4);
			p = place(in, n);
			ws_unmask(p, cut, &mask);
			ws_unmask(p + cut, n - cut, &mask);
			for (size_t i = 0; i < n; i++)
				assert_int_equal(p[i], in[i] ^ key[i % 4]);
		}
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(scan_cuts),
		cmocka_unit_test(scan_pipeline),
		cmocka_unit_test(scan_bytes),
		cmocka_unit_test(scan_noise),
		cmocka_unit_test(parse_good),
		cmocka_unit_test(parse_bad),
		cmocka_unit_test(parse_mutants),
		cmocka_unit_test(parse_cuts),
		cmocka_unit_test(parse_limits),
		cmocka_unit_test(frames),
		cmocka_unit_test(headers),
		cmocka_unit_test(utf8),
		cmocka_unit_test(unmask),
	};
	unsigned char *room =
		mmap(NULL, ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int failed;

	if (room == MAP_FAILED || mprotect(room + ROOM, PAGE, PROT_NONE) < 0)
		return 99;
	guard = room + ROOM;
	failed = cmocka_run_group_tests_name("parsers", tests, NULL, NULL);
	free(heap);
	return failed;
}
