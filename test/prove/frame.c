/*
 * eva: -eva-slevel 100 -eva-min-loop-unroll 20 -eva-split-return full
 *
 * The frame parser (RFC 6455 5.2, 5.5), over any bytes and any number of them: it reads none
 * behind them, and says nothing but -1002, 0, or the length of a header that is there.  And what
 * it accepts means what the RFC allows: masked, without reserved bits, an opcode that there is, a
 * control frame whole and short, a length in its shortest form and below 2^63; this by classes of
 * headers: FIN, opcode, reserved bits or none, form of length, its first byte below 128 or not.
 */
#include "../../ws.c"
#include "__fc_builtin.h"

void entry(void);

static void
any(void)
{
	unsigned char b[FRAME_MAX + 2];
	size_t n = (size_t)Frama_C_interval(0, sizeof b);
	struct frame f;
	int len;

	/*@ split n; */
	Frama_C_make_unknown((char *)b, sizeof b);
	len = ws_frame(b + sizeof b - n, n, &f);
	/*@ assert in_bounds: len == -1002 || len == 0 || (6 <= len <= FRAME_MAX && len <= n); */
}

static void
one_class(unsigned first, unsigned last, int fin, int reserved, int form, int large)
{
	static const unsigned char from[] = { 0, 128, 254, 255 }, to[] = { 127, 253, 254, 255 };
	unsigned char b[FRAME_MAX];
	size_t n = (size_t)Frama_C_interval(0, FRAME_MAX);
	struct frame f;
	int len;

	Frama_C_make_unknown((char *)b, sizeof b);
	b[0] = (unsigned char)((unsigned)fin << 7 | Frama_C_unsigned_int_interval(first, last) |
			       (reserved ? Frama_C_unsigned_int_interval(1, 7) << 4 : 0));
	b[1] = Frama_C_unsigned_char_interval(from[form], to[form]);
	b[2] = Frama_C_unsigned_char_interval(large ? 128 : 0, large ? 255 : 127);
	len = ws_frame(b, n, &f);
	if (len <= 0)
		return;
	/*@ assert masked: form != 0; */
	/*@ assert no_extension: !reserved; */
	/*@ assert as_sent: f.fin == fin && f.opcode == first == last; */
	/*@ assert opcode: f.opcode <= BINARY || CLOSE <= f.opcode <= PONG; */
	/*@ assert control: f.opcode >= CLOSE ==> f.fin == 1 && f.length <= CONTROL_MAX && len == 6; */
	/*@ assert shortest_7: form == 1 ==> len == 6 && f.length <= 125; */
	/*@ assert shortest_16: form == 2 ==> len == 8 && 126 <= f.length <= 65535; */
	/*@ assert shortest_63: form == 3 ==> len == 14 && 65536 <= f.length < 0x8000000000000000; */
}

void
entry(void)
{
	static const unsigned char first[] = { 0, 1, 2, 3, 8, 9, 10, 11 },
				   last[] = { 0, 1, 2, 7, 8, 9, 10, 15 };

	any();
	/*@ loop unroll 8; */
	for (int i = 0; i < 8; i++)
		/*@ loop unroll 5; */
		for (int form = 0; form < 5; form++) {
			one_class(first[i], last[i], 0, 0, form < 4 ? form : 3, form == 4);
			one_class(first[i], last[i], 1, 0, form < 4 ? form : 3, form == 4);
			one_class(first[i], last[i], 1, 1, form < 4 ? form : 3, form == 4);
		}
}
