/*
 * cc: -O2
 *
 * read_header in arbitrary pieces: for every first two bytes of a frame, lengths in every form,
 * and each number of bytes that were gathered before (at once or one by one: all that is kept is
 * those bytes and how many), each number of bytes that come now.  It takes a frame header, or a
 * control frame, as soon as it is there and not a byte of what follows; before that it takes
 * everything; what may be missing is the room for an answer.  A wrong byte ends it at once.  Never
 * are more bytes eaten than there are, and the stash never runs over.  What it does depends on
 * those bytes alone: on others (key, payload) it makes no decision, except on a Close's.
 */
#include <stdio.h>

#include "../../ws.c"
#include "stubs.h"

int main(void);

enum { STREAM = 160, MOST = FRAME_MAX + CONTROL_MAX };

struct config cf = { .max_message = 100, .timeout = 10 };
static unsigned char io[IO_TEXT];
static unsigned long wrong, cases;

/*
 * s holds a frame, and then more; whole: what must be there until it is taken, 0: it is malformed once `bad` bytes are
 * there.
 */
static void
try_one(const unsigned char *s, size_t whole, size_t bad, size_t had, size_t n, size_t room,
	uint8_t message)
{
	struct route route = { .backend = &backends[0] };
	struct conn c = { .io = io,
		.route = &route,
		.state = OPEN,
		.bfd = -1,
		.stashed = (uint8_t)had,
		.message = message };
	int control = (s[0] & 8) != 0, opcode = s[0] & 15, good = 1;
	size_t length = s[1] & 127;
	enum step step;

	memset(io + IO_STASH, 0xee, MOST + 1);
	memcpy(io + IO_STASH, s, had);
	eaten = sent = 0;
	space = room;
	step = read_header(&c, s + had, n);
	cases++;
	good &= io[IO_STASH + MOST] == 0xee && eaten <= n;
	if (whole == 0 && had + n >= bad) {
		good &= step == MORE && c.closing == 1002 && c.deaf && sent == 0;
	} else if (whole == 0 || had + n < whole) {
		good &= step == MORE && c.closing == 0 && eaten == n && c.stashed == had + n &&
			sent == 0 && !c.in_frame;
	} else if (control && room < (size_t)HEADER + CONTROL_MAX) {
		good &= step == WAIT && c.full && eaten == 0 && c.stashed == had && sent == 0;
	} else {
		good &= step == MORE && eaten == whole - had && c.stashed == 0 &&
			c.in_frame == (!control && c.closing == 0);
		if (!control)
			good &= (opcode == 0) != (message == 0) ? c.closing == 0
								: c.closing == 1002;
		if (opcode == PING)
			good &= sent == length + 2 && out[0] == 128 + PONG && out[1] == length;
		else
			good &= sent == 0;
		for (size_t i = 0; opcode == PING && i < length; i++)
			good &= out[2 + i] == (s[6 + i] ^ s[2 + i % 4]);
	}
	wrong += !good;
}

int
main(void)
{
	static const unsigned char lengths[][8] = { { 0, 126 }, { 0, 125 },
		{ 255, 255, 255, 255, 255, 255, 255, 255 }, { 0, 0, 0, 0, 0, 1, 0, 0 },
		{ 0, 0, 0, 0, 0, 0, 255, 255 }, { 127, 255, 255, 255, 255, 255, 255, 255 } };
	unsigned char s[STREAM];

	for (unsigned i = 0; i < STREAM; i++)
		s[i] = (unsigned char)(i * 59 + 7);
	for (unsigned first = 0; first < 256; first++)
		for (unsigned second = 0; second < 256; second++)
			for (unsigned form = 0; form < ((second & 127) > 125 ? 6 : 1); form++) {
				size_t size = (second & 127) < 126    ? 2
					      : (second & 127) == 126 ? 4
								      : 10;
				const unsigned char *l = lengths[form];
				int opcode = first & 15, control = opcode > 7, bad2 = second < 128,
				    shortest, most, begin;
				size_t whole, bad;

				s[0] = (unsigned char)first;
				s[1] = (unsigned char)second;
				for (size_t i = 2; i < size; i++)
					s[i] = l[i - 2];
				bad2 |= control && (second & 127) > 125;
				shortest = size == 2 || (size == 4 ? l[0] > 0 || l[1] > 125
								   : (l[0] | l[1] | l[2] | l[3] |
									     l[4] | l[5]) != 0);
				whole = size + 4 + (control ? second & 127 : 0);
				bad = (first & 0x70) != 0 || (opcode & 7) > BINARY ||
						      (control && first < 128)
					      ? 1
				      : bad2                     ? 2
				      : size == 10 && l[0] > 127 ? 3
				      : shortest                 ? 0
								 : size;
				begin = bad > 0 ? (int)bad
						: (int)whole; /* less than that was gathered before */
				most = control ? MOST + 10 : 20;
				for (int had = 0; had < begin; had++)
					for (int n = 1; n <= most && had + n <= STREAM; n++)
						for (uint8_t message = 0; message < 2; message++)
							try_one(s, bad > 0 ? 0 : whole, bad,
								(size_t)had, (size_t)n,
								control && n % 3 == 0 ? 128
										      : sizeof out,
								message);
			}
	printf("%lu of %lu cases wrong\n", wrong, cases);
	return wrong != 0;
}
