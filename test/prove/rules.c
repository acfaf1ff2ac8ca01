/*
 * eva: -eva-precision 2 -eva-domains gauges -eva-plevel 2000
 *
 * What is asked of a head once it is parsed: lists of names, Host, Origin.  Offsets and bytes are arbitrary, as are the names that
 * the configuration has.
 */
#include "any_head.h"

void
entry(void)
{
	struct listener lis = { .plain = Frama_C_interval(0, 1) };
	struct conn c = { .lis = &lis };
	struct names list = { .n = (unsigned)Frama_C_interval(0, NAMES_MAX) };
	struct field f = any_field();
	int yes;

	any_head();
	Frama_C_make_unknown(cf.hostname, sizeof cf.hostname - 1);
	for (unsigned i = 0; i < NAMES_MAX; i++)
		list.v[i] = name;
	cf.hosts = list;
	yes = says(b, &h, Frama_C_interval(0, UNKNOWN), name);
	/*@ assert 0 <= yes <= 1; */
	yes = says(b, &h, CONNECTION, "close");
	/*@ assert 0 <= yes <= 1; */
	yes = host_allowed(&c, b, &h);
	/*@ assert 0 <= yes <= 2; */
	yes = origin_allowed(&c, &list, b, &h, &f);
	/*@ assert 0 <= yes <= 1; */
}
