/*
 * Frames, both ways, UTF-8 and masking, each against a second implementation that is written for
 * plainness: ws_frame over every prefix, ws_utf8 and ws_unmask whole and in pieces, ws_header
 * decoded again.  The first byte of an input chooses which.
 */
#include "fuzz.h"

#include "ws.c"
#include "second.h"

static void
frame(const uint8_t *data, size_t size)
{
	for (size_t n = 0; n <= size && n <= 20; n++) {
		uint8_t *b = exactly(data, n);
		struct frame f;
		size_t whole = 0;
		uint64_t length = 0;
		int got = ws_frame(b, n, &f), want = second_frame(b, n, &whole, &length);

		CHECK(got == (want < 0 ? -1002 : want > 0 ? (int)whole : 0));
		if (got > 0) {
			CHECK(f.fin == (b[0] >= 128) && f.opcode == b[0] % 16);
			CHECK(f.length == length && memcmp(&f.mask, b + whole - 4, 4) == 0);
		}
		free(b);
	}
}

static void
utf8(const uint8_t *data, size_t size, uint32_t x)
{
	size_t from = 0, to, good;
	uint8_t s = 0, whole = 0;
	int fine = 1, open;

	size = size < 300 ? size : 300;
	good = second_utf8(data, size, &open);
	CHECK(ws_utf8(&whole, data, size) == (good == size));
	for (; fine && from < size; from = to) {
		uint8_t *piece;

		to = from + 1 + noise(&x) % (x % 4 == 0 ? 40 : 4);
		to = to < size ? to : size;
		piece = exactly(data + from, to - from);
		fine = ws_utf8(&s, piece, to - from);
		CHECK(fine == (good >= to));
		CHECK(!fine || (second_utf8(data, to, &open) == to && open == (s != 0)));
		free(piece);
	}
	CHECK(!fine || s == whole);
}

static void
unmask(const uint8_t *data, size_t size, uint32_t x)
{
	uint8_t *p = exactly(data, size), key[4];
	uint32_t mask = noise(&x), first = mask;
	size_t from = 0, to;

	memcpy(key, &mask, 4);
	for (; from < size; from = to) {
		to = from + noise(&x) % 30;
		to = to < size ? to : size;
		ws_unmask(p + from, to - from, &mask);
	}
	for (size_t i = 0; i < size; i++)
		CHECK(p[i] == (data[i] ^ key[i % 4]));
	for (size_t i = 0; i < 4; i++)
		CHECK(((uint8_t *)&mask)[i] == key[(size + i) % 4]);
	ws_unmask(p, size, &first); /* twice is the identity */
	CHECK(first == mask);
	CHECK(size == 0 || memcmp(p, data, size) == 0);
	free(p);
}

static void
header(struct input in)
{
	int fin = (int)take(&in) % 2, opcode = (int)take(&in) % 16;
	unsigned length = take(&in) << 8;
	uint8_t b[HEADER + 1];
	size_t n;

	length |= take(&in);
	memset(b, 0xaa, sizeof b);
	n = ws_header(b, fin, opcode, (uint16_t)length);
	CHECK(n == (length < 126 ? 2 : 4) && b[n] == 0xaa);
	CHECK(b[0] == fin * 128 + opcode);
	CHECK(n == 2 ? b[1] == length : b[1] == 126 && b[2] * 256U + b[3] == length);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	unsigned what = take(&in);
	uint32_t x = (what + 1) * 2654435761U;

	switch (what % 4) {
	case 0:
		frame(in.p, in.n);
		break;
	case 1:
		utf8(in.p, in.n, x);
		break;
	case 2:
		unmask(in.p, in.n, x);
		break;
	default:
		header(in);
	}
	return 0;
}
