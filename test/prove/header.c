/*
 * cc: -O1
 *
 * Headers of 7 and 16 bits decode to what was encoded, and ours are the shortest: ws_header with
 * every opcode, FIN and length, then masked as a client's would be, then ws_frame, which must see
 * what went in (or refuse what RFC 6455 5.2 and 5.5 forbid a client to send).  All cases,
 * 2,097,152 of them.  Then every header of 16 bits that is not the shortest, and those of 63 bits
 * at each boundary, refused.
 */
#include <stdio.h>

#include "../../ws.c"
#include "stubs.h"

int main(void);

static int
same(int fin, int opcode, unsigned length)
{
	static const unsigned char key[4] = { 0x12, 0x34, 0x56, 0x78 };
	unsigned char b[FRAME_MAX] = { 0 };
	size_t n = ws_header(b, fin, opcode, (uint16_t)length);
	int known = opcode <= BINARY || (opcode >= CLOSE && opcode <= PONG), len;
	struct frame f;

	if (n != (length < 126 ? 2 : 4) || b[1] > 127)
		return 0; /* never masked (5.1) */
	b[1] |= 128;
	memcpy(b + n, key, 4);
	len = ws_frame(b, n + 4, &f);
	if (!known || (opcode >= CLOSE && (!fin || length > CONTROL_MAX)))
		return len == -1002;
	return len == (int)n + 4 && f.fin == fin && f.opcode == opcode && f.length == length &&
	       memcmp(&f.mask, key, 4) == 0;
}

/* The length as `size` bytes after a second byte that says so. */
static int
decoded(int size, uint64_t length)
{
	unsigned char b[FRAME_MAX] = { 0x82, size == 2 ? 254 : 255 };
	struct frame f;
	int len;

	for (int i = 0; i < size; i++)
		b[2 + i] = (unsigned char)(length >> 8 * (size - 1 - i));
	len = ws_frame(b, 6 + (size_t)size, &f);
	if (len > 0 && (len != 6 + size || f.length != length))
		return 0;
	return (len > 0) == (size == 2 ? length > 125 : length > 65535 && length >> 63 == 0);
}

int
main(void)
{
	unsigned long cases = 0, wrong = 0;

	for (int fin = 0; fin < 2; fin++)
		for (int opcode = 0; opcode < 16; opcode++)
			for (unsigned length = 0; length < 65536; length++, cases++)
				wrong += !same(fin, opcode, length);
	for (uint64_t length = 0; length < 65536; length++, cases += 2)
		wrong += !decoded(2, length) + !decoded(8, length);
	for (int bit = 16; bit < 64; bit++)
		for (int less = 0; less < 3; less++, cases++)
			wrong += !decoded(8, ((uint64_t)1 << bit) + 1 - (uint64_t)less);
	printf("%lu of %lu cases wrong\n", wrong, cases);
	return wrong != 0;
}
