/*
 * cc: -O1
 * cc: -O2
 * eva: -eva-slevel 300 -eva-min-loop-unroll 90
 *
 * Masking (RFC 6455 5.3): byte i is XORed with byte i mod 4 of the key and the key is rotated by
 * n, so that pieces of any length give the same as the whole; so masking twice is the identity.
 * ws_unmask moves and XORs bytes and decides by n alone (Eva: with the data unknown its control
 * flow is a single path for each n), so what it does is linear over GF(2): it is right for all
 * data once it is right for zeros and for each single bit of data or key, which are all tried, for
 * each n up to four turns of its loop of 16, at each alignment.  Then all ways to cut up to 48 bytes
 * in three.
 */
#include <stdio.h>

#include "../../ws.c"
#ifdef __FRAMAC__
#include "__fc_builtin.h"
#else
#include "stubs.h"
#endif

void entry(void);
int main(void);

enum { MOST = 80 };

#ifdef __FRAMAC__
static unsigned char full[RECORD_MAX];

void
entry(void)
{
	unsigned char b[MOST];
	size_t n = (size_t)Frama_C_interval(0, MOST);
	uint32_t mask = (uint32_t)Frama_C_unsigned_int_interval(0, 0xffffffff);

	/*@ split n; */
	Frama_C_make_unknown((char *)b, sizeof b);
	ws_unmask(b + sizeof b - n, n, &mask);
	/*@ assert \initialized(&mask); */
	Frama_C_make_unknown((char *)full, sizeof full);
	ws_unmask(full, (size_t)Frama_C_interval(0, RECORD_MAX), &mask);
	/*@ assert \initialized(&mask); */
}
#endif

/* What the RFC says. */
static void
as_written(unsigned char *p, size_t n, unsigned char key[4])
{
	unsigned char old[4];

	memcpy(old, key, 4);
	for (size_t i = 0; i < n; i++)
		p[i] ^= old[i % 4];
	for (size_t i = 0; i < 4; i++)
		key[i] = old[(i + n) % 4];
}

/* With one bit set, of MOST bytes of data and then 4 of key; none: bit is -1. */
static int
right(size_t n, size_t at, int bit)
{
	unsigned char in[MOST + 4] = { 0 }, out[MOST + 32] = { 0 };
	uint32_t mask;

	if (bit >= 0)
		in[bit / 8] = (unsigned char)(1 << bit % 8);
	memcpy(&mask, in + MOST, 4);
	memcpy(out + at, in, MOST);
	ws_unmask(out + at, n, &mask);
	as_written(in, n, in + MOST);
	for (size_t i = 0; i < at; i++)
		if (out[i] != 0)
			return 0;
	return memcmp(out + at, in, MOST) == 0 && memcmp(&mask, in + MOST, 4) == 0;
}

/* In three pieces: the same as at once, and the same steps again give back what was there. */
static int
pieces(size_t n, size_t first, size_t second)
{
	unsigned char b[MOST], whole[MOST], was[MOST];
	uint32_t key, again = 0xa1b2c3d4;

	for (size_t i = 0; i < MOST; i++)
		b[i] = whole[i] = was[i] = (unsigned char)(i * 37 + 11);
	key = again;
	ws_unmask(whole, n, &key);
	for (int turn = 0; turn < 2; turn++) {
		key = again;
		ws_unmask(b, first, &key);
		ws_unmask(b + first, second - first, &key);
		ws_unmask(b + second, n - second, &key);
		if (memcmp(b, turn == 0 ? whole : was, MOST) != 0)
			return 0;
	}
	return 1;
}

int
main(void)
{
	unsigned long wrong = 0, cases = 0;

	for (size_t n = 0; n <= MOST; n++)
		for (size_t at = 0; at < 16; at++)
			for (int bit = -1; bit < (MOST + 4) * 8; bit++, cases++)
				wrong += !right(n, at, bit);
	for (size_t n = 0; n <= 48; n++)
		for (size_t second = 0; second <= n; second++)
			for (size_t first = 0; first <= second; first++, cases++)
				wrong += !pieces(n, first, second);
	printf("%lu of %lu cases wrong\n", wrong, cases);
	return wrong != 0;
}
