/*
 * eva: -eva-precision 3 -eva-slevel 100 -eva-split-return-function http_scan:0:-400
 *
 * The end of a request head: an arbitrary piece in each of the four states that the pieces before can leave.  It leaves one of
 * those four, or is the last: so it holds for any number of pieces.
 */
#include "../../http.c"
#include "__fc_builtin.h"

struct config cf;
struct counters count;
int64_t now;
static unsigned char b[HEAD_MAX];

void entry(void);

void
entry(void)
{
	int from = Frama_C_interval(0, HEAD_MAX), to = Frama_C_interval(from, HEAD_MAX), end;
	uint8_t scan = (uint8_t)Frama_C_interval(0, 3);

	Frama_C_make_unknown((char *)b, sizeof b);
	end = http_scan(b, (size_t)from, (size_t)to, &scan);
	/*@ assert -400 <= end <= HEAD_MAX; */
	if (end == 0) {
		/*@ assert scan <= 3; */
	} else if (end > 0) {
		/*@ assert scan == 4; */
	}
}
