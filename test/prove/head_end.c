/*
 * eva: -eva-precision 2 -eva-domains gauges,octagon -eva-octagon-through-calls -eva-split-limit 100
 *
 * Request heads again: of each length from 0 to 24 bytes, where nothing stands behind the last one.
 */
#include "../../http.c"
#include "__fc_builtin.h"

enum { LONGEST = 24 };

struct config cf;
struct counters count;
int64_t now;
static unsigned char b[LONGEST];
static struct head h;

void entry(void);

void
entry(void)
{
	size_t n = (size_t)Frama_C_interval(0, LONGEST);
	uint8_t scan = (uint8_t)Frama_C_interval(0, 3);
	int status;

	/*@ split n; */
	Frama_C_make_unknown((char *)b, sizeof b);
	status = http_scan(b + LONGEST - n, 0, n, &scan);
	/*@ assert -400 <= status <= n; */
	status = http_parse(b + LONGEST - n, n, &h);
	/*@ assert h.port <= n && h.host_end <= n; */
	/*@ assert h.path_end <= n; */
	/*@ assert \forall integer i; 0 <= i <= UNKNOWN ==> h.last[i].value_end <= n; */
}
