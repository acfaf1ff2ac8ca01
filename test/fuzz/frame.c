/*
 * Frames, both ways, UTF-8 and masking, each against a second implementation that is written for
 * plainness: ws_frame over every prefix, ws_utf8 and ws_unmask whole and in pieces, ws_header
 * decoded again.  The first byte of an input chooses which.
 */
#include "fuzz.h"

#include "ws.c"

/* RFC 6455 5.2 to 5.5, a rule a line.  1: whole, 0: more is needed, -1: wrong. */
static int
reference(const uint8_t *b, size_t n, size_t *size, uint64_t *length)
{
	unsigned opcode = n > 0 ? b[0] % 16 : 0, form = n > 1 ? b[1] % 128 : 0;

	if (n > 0 && b[0] / 16 % 8 != 0)
		return -1; /* reserved bits */
	if (n > 0 && opcode != 0 && opcode != 1 && opcode != 2 && opcode != 8 && opcode != 9 &&
		opcode != 10)
		return -1;
	if (n > 0 && opcode >= 8 && b[0] < 128)
		return -1; /* a control frame in fragments */
	if (n > 1 && b[1] < 128)
		return -1; /* not masked */
	if (n > 1 && opcode >= 8 && form > 125)
		return -1;
	if (n > 2 && form == 127 && b[2] >= 128)
		return -1;
	*size = 2 + 4 + (form == 126 ? 2 : form == 127 ? 8 : 0);
	*length = form;
	if (form == 126 && n >= 4 && (*length = b[2] * 256U + b[3]) < 126)
		return -1;
	if (form == 127 && n >= 10) {
		*length = 0;
		for (int i = 2; i < 10; i++)
			*length = *length * 256 + b[i];
		if (*length <= 0xffff)
			return -1;
	}
	return n >= 2 && n >= *size;
}

static void
frame(const uint8_t *data, size_t size)
{
	for (size_t n = 0; n <= size && n <= 20; n++) {
		uint8_t *b = exactly(data, n);
		struct frame f;
		size_t whole = 0;
		uint64_t length = 0;
		int got = ws_frame(b, n, &f), want = reference(b, n, &whole, &length);

		CHECK(got == (want < 0 ? -1002 : want > 0 ? (int)whole : 0));
		if (got > 0) {
			CHECK(f.fin == (b[0] >= 128) && f.opcode == b[0] % 16);
			CHECK(f.length == length && memcmp(&f.mask, b + whole - 4, 4) == 0);
		}
		free(b);
	}
}

/*
 * Whether p[0, n) can be the beginning of valid UTF-8, and in *open whether it ends inside of a
 * character: a character's value is computed with its missing bits all 0 and all 1.
 */
static int
text(const uint8_t *p, size_t n, int *open)
{
	*open = 0;
	for (size_t i = 0; i < n;) {
		unsigned size = p[i] < 0x80 ? 1 : p[i] < 0xc0 ? 0 : p[i] < 0xe0 ? 2 :
			p[i] < 0xf0 ? 3 : p[i] < 0xf8 ? 4 : 0;
		static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
		uint32_t low = 0, high = 0;

		for (unsigned k = 0; k < size; k++) {
			int there = i + k < n;
			unsigned bits = k > 0 || size == 1 ? 0x7f : 0xff >> (size + 1);

			bits = k > 0 ? 0x3f : bits;
			if (k > 0 && there && (p[i + k] & 0xc0) != 0x80)
				return 0;
			low = low << 6 | (there ? p[i + k] & bits : 0);
			high = high << 6 | (there ? p[i + k] & bits : bits);
		}
		if (size == 0 || high < least[size] || low > 0x10ffff ||
			(low >= 0xd800 && high <= 0xdfff))
			return 0;
		*open = i + size > n;
		i += size;
	}
	return 1;
}

static void
utf8(const uint8_t *data, size_t size, uint32_t x)
{
	size_t from = 0, to, good = 0;
	uint8_t s = 0, whole = 0;
	int fine = 1, open;

	size = size < 300 ? size : 300;
	while (good < size && text(data, good + 1, &open))
		good++; /* data[good] is the first that is wrong */
	CHECK(ws_utf8(&whole, data, size) == (good == size));
	for (; fine && from < size; from = to) {
		uint8_t *piece;

		to = from + 1 + noise(&x) % (x % 4 == 0 ? 40 : 4);
		to = to < size ? to : size;
		piece = exactly(data + from, to - from);
		fine = ws_utf8(&s, piece, to - from);
		CHECK(fine == (good >= to));
		text(data, to, &open);
		CHECK(!fine || open == (s != 0));
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
