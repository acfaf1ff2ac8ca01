/* For proofs about http.c: a head in memory of which nothing is known but that offsets are in it. */
#include "../../http.c"
#include "__fc_builtin.h"

enum { NAME_ROOM = 65536 };

struct config cf;
struct counters count;
int64_t now;
static unsigned char b[HEAD_MAX];
static struct head h;
static char name[NAME_ROOM]; /* a string of the configuration */

void entry(void);

static uint16_t
offset(void)
{
	return (uint16_t)Frama_C_interval(0, HEAD_MAX);
}

static struct field
any_field(void)
{
	struct field f;

	f.name = offset();
	f.name_end = offset();
	f.value = offset();
	f.value_end = offset();
	f.known = (uint16_t)Frama_C_interval(0, UNKNOWN);
	return f;
}

static void
any_head(void)
{
	Frama_C_make_unknown((char *)b, sizeof b);
	Frama_C_make_unknown(name, sizeof name - 1);
	for (unsigned i = 0; i < FIELDS_MAX; i++)
		h.field[i] = any_field();
	for (unsigned i = 0; i <= UNKNOWN; i++)
		h.last[i] = any_field();
	h.fields = (unsigned)Frama_C_interval(0, FIELDS_MAX);
	h.host = (uint16_t)Frama_C_interval(0, HEAD_MAX - 1); /* which is what the proof of heads says */
	h.port = offset();
	h.host_end = offset();
}
