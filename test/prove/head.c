/*
 * eva: -eva-precision 2 -eva-domains gauges,octagon -eva-octagon-through-calls -eva-plevel 2000
 *
 * Request heads: any number of arbitrary bytes up to HEAD_MAX, whatever stands behind them.  No access leaves the
 * buffer, the answer is a status, all offsets are inside the buffer, no field is counted that is not there,
 * and what is known as Host is Host.
 */
#include "../../http.c"
#include "__fc_builtin.h"

struct config cf;
struct counters count;
int64_t now;
static unsigned char b[HEAD_MAX];
static struct head h;

void entry(void);

void
entry(void)
{
	size_t n = (size_t)Frama_C_interval(0, HEAD_MAX);
	int status;

	/*@ widen_hints global:"all", 99, 100, 505; */
	Frama_C_make_unknown((char *)b, sizeof b);
	Frama_C_make_unknown((char *)&h, sizeof h); /* of the request before */
	status = http_parse(b, n, &h);
	/*@ assert 0 <= status <= 505; */
	/*@ assert h.fields <= FIELDS_MAX; */
	/*@ assert h.method <= 9 && h.minor <= 1 && h.escaped <= 1 && h.basic == 0; */
	/*@ assert h.host < HEAD_MAX && h.port <= HEAD_MAX && h.host_end <= HEAD_MAX; */
	/*@ assert h.path < HEAD_MAX && h.path_end < HEAD_MAX; */
	/*@ assert \forall integer i; 0 <= i < FIELDS_MAX ==> h.field[i].name_end < HEAD_MAX; */
	/*@ assert \forall integer i; 0 <= i < FIELDS_MAX ==> h.field[i].value_end <= HEAD_MAX; */
	/*@ assert \forall integer i; 0 <= i < FIELDS_MAX ==> h.field[i].known <= UNKNOWN; */
	/*@ assert \forall integer i; 0 <= i <= UNKNOWN ==> h.last[i].value_end <= HEAD_MAX; */
	/*@ assert h.last[HOST].known == HOST || h.last[HOST].known == 0; */
	/*@ assert h.last[TRANSFER_ENCODING].name_end == 0; */
}
