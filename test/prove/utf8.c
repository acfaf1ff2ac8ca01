/*
 * cc: -O1
 * eva: -eva-slevel 50
 *
 * The UTF-8 checker accepts what RFC 3629 4 calls UTF-8 and nothing else, for strings of any
 * length in pieces of any length: beside it runs an automaton written from the RFC's grammar, and
 * from every pair of states that the two can reach together, each of the 256 bytes leads both to
 * "wrong" or both on, and both or neither are between two characters.  Pieces: two bytes in one
 * call are the same as in two, from each state; so are any two between others that are ASCII, of
 * which it takes eight at a time.  Eva: it reads only what it is given, from each state.
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

#ifdef __FRAMAC__
static unsigned char full[RECORD_MAX];

void
entry(void)
{
	unsigned char b[12];
	size_t from = (size_t)Frama_C_interval(0, 12);
	uint8_t state = Frama_C_unsigned_char_interval(0, 255);
	int ok;

	/*@ split from; */
	Frama_C_make_unknown((char *)b, sizeof b);
	Frama_C_make_unknown((char *)full, sizeof full);
	ok = ws_utf8(&state, b + from, sizeof b - from);
	/*@ assert ok == 0 || ok == 1; */
	ok = ws_utf8(&state, full, (size_t)Frama_C_interval(0, RECORD_MAX));
	/*@ assert ok == 0 || ok == 1; */
}
#endif

/*
 * The grammar: a rule is one alternative, each position of it a range of bytes.  A state is the set of (rule, position)
 * that may be meant, one bit each; START is the set of all first positions.
 */
enum { RULES = 9, LONGEST = 4 };
static const struct rule {
	int n;
	unsigned char low[LONGEST], high[LONGEST];
} rules[RULES] = {
	{ 1, { 0x00 }, { 0x7f } },                         /* UTF8-1 */
	{ 2, { 0xc2, 0x80 }, { 0xdf, 0xbf } },             /* UTF8-2 */
	{ 3, { 0xe0, 0xa0, 0x80 }, { 0xe0, 0xbf, 0xbf } }, /* UTF8-3 */
	{ 3, { 0xe1, 0x80, 0x80 }, { 0xec, 0xbf, 0xbf } },
	{ 3, { 0xed, 0x80, 0x80 }, { 0xed, 0x9f, 0xbf } },
	{ 3, { 0xee, 0x80, 0x80 }, { 0xef, 0xbf, 0xbf } },
	{ 4, { 0xf0, 0x90, 0x80, 0x80 }, { 0xf0, 0xbf, 0xbf, 0xbf } }, /* UTF8-4 */
	{ 4, { 0xf1, 0x80, 0x80, 0x80 }, { 0xf3, 0xbf, 0xbf, 0xbf } },
	{ 4, { 0xf4, 0x80, 0x80, 0x80 }, { 0xf4, 0x8f, 0xbf, 0xbf } },
};

static uint64_t
bit(int rule, int position)
{
	return (uint64_t)1 << (rule * LONGEST + position);
}

static uint64_t
start(void)
{
	uint64_t set = 0;

	for (int r = 0; r < RULES; r++)
		set |= bit(r, 0);
	return set;
}

/* The set after this byte; empty: no UTF-8 goes on like that. */
static uint64_t
after(uint64_t set, int byte)
{
	uint64_t next = 0;

	for (int r = 0; r < RULES; r++)
		for (int i = 0; i < rules[r].n; i++)
			if ((set & bit(r, i)) != 0 && byte >= rules[r].low[i] &&
				byte <= rules[r].high[i])
				next |= i + 1 < rules[r].n ? bit(r, i + 1) : start();
	return next;
}

enum { PAIRS_MAX = 1000 };
static struct pair {
	uint64_t set;
	uint8_t state;
} pair[PAIRS_MAX];
static int pairs;

static int
reached(uint64_t set, uint8_t state)
{
	int i = 0;

	while (i < pairs && (pair[i].set != set || pair[i].state != state))
		i++;
	if (i == pairs && pairs < PAIRS_MAX)
		pair[pairs++] = (struct pair){ set, state };
	return i < PAIRS_MAX;
}

/* Whether a piece is the same in one call as byte by byte. */
static int
same_in_pieces(uint8_t state, const unsigned char *p, size_t n)
{
	uint8_t at_once = state;
	int ok = ws_utf8(&at_once, p, n), one = 1;

	for (size_t i = 0; i < n && one; i++)
		one = ws_utf8(&state, p + i, 1);
	return ok == one && (!ok || at_once == state);
}

/* Of pieces of some lengths, with any two bytes anywhere between ASCII: how many are not. */
static unsigned long
wrong_pieces(unsigned long *cases)
{
	unsigned char p[24];
	unsigned long wrong = 0;

	for (size_t n = 7; n <= sizeof p; n += n < 10 ? 1 : 7)
		for (size_t at = 0; at < n; at++)
			for (int two = 0; two < 65536; two++, ++*cases) {
				memset(p, 'x', n);
				p[at] = (unsigned char)(two >> 8);
				if (at + 1 < n)
					p[at + 1] = (unsigned char)two;
				wrong += !same_in_pieces(0, p, n);
			}
	return wrong;
}

int
main(void)
{
	unsigned long wrong = !reached(start(), 0), cases = 0;

	for (int i = 0; i < pairs; i++)
		for (int byte = 0; byte < 256; byte++, cases++) {
			uint8_t state = pair[i].state, at_once = state, twice;
			unsigned char p[2] = { (unsigned char)byte };
			uint64_t set = after(pair[i].set, byte);
			int ok = ws_utf8(&state, p, 1);

			wrong += ok != (set != 0) || !ws_utf8(&at_once, p, 0) ||
				 at_once != pair[i].state;
			if (!ok)
				continue;
			wrong += (state == 0) != (set == start()) || !reached(set, state);
			for (int other = 0; other < 256; other++, cases++) {
				twice = state;
				at_once = pair[i].state;
				p[1] = (unsigned char)other;
				ok = ws_utf8(&twice, p + 1, 1);
				wrong += ws_utf8(&at_once, p, 2) != ok || (ok && at_once != twice);
			}
		}
	for (int i = 0; i < pairs; i++)
		for (int byte = 0; byte < 256; byte++, cases++) {
			unsigned char p[10] = { (unsigned char)byte, 'a', 'b', 'c', 'd', 'e', 'f' };

			wrong += !same_in_pieces(pair[i].state, p, sizeof p);
		}
	wrong += wrong_pieces(&cases);
	printf("%d pairs of states, %lu of %lu cases wrong\n", pairs, wrong, cases);
	return wrong != 0;
}
