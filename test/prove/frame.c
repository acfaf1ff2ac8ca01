/*
 * eva: -eva-precision 2
 *
 * The frame parser, over any bytes and any number of them: reads none behind them, and says nothing but a
 * complete header's length, 0 or -1002.
 */
#include "../../ws.c"
#include "__fc_builtin.h"

void entry(void);

void
entry(void)
{
	unsigned char b[FRAME_MAX + 2];
	size_t n = (size_t)Frama_C_interval(0, sizeof b);
	struct frame f;
	int len;

	/*@ split n; */
	Frama_C_make_unknown((char *)b, sizeof b);
	len = ws_frame(b + sizeof b - n, n, &f);
	/*@ assert len == -1002 || len == 0 || (6 <= len <= FRAME_MAX && len <= n); */
}
