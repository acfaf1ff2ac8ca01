/*
 * eva: -eva-precision 2 -eva-plevel 3000 -eva-domains gauges -eva-interprocedural-splits
 * with: CREDENTIALS_MAX = 1024, -> CREDENTIALS_MAX = 8,
 *
 * Files of credentials with any text, for any number of routes: no more are taken than fit, and behind the last of them is
 * room for what marks the end.
 */
#include "../../http.c"
#include "__fc_builtin.h"
#include "strings_posix.h"

struct config cf;
struct counters count;
int64_t now;
static char auth[] = "FILE";

void entry(void);

const char *
read_file(const char *file, char *text, size_t size)
{
	/*@ assert valid_read_string(file); */
	Frama_C_make_unknown(text, size - 1);
	text[size - 1] = '\0';
	return Frama_C_interval(0, 1) ? "is wrong" : NULL;
}

void
entry(void)
{
	int named = Frama_C_interval(0, 1);
	const char *wrong;

	cf.bank = Frama_C_interval(0, 1);
	cf.routes = (unsigned)Frama_C_interval(0, ROUTES_MAX);
	/*@ split named; */
	if (named) {
		cf.auth = auth;
		/*@ loop unroll ROUTES_MAX; */
		for (unsigned i = 0; i < ROUTES_MAX; i++)
			cf.route[i].auth = auth;
	}
	wrong = http_load();
	/*@ assert wrong == \null || \valid_read(wrong); */
}
