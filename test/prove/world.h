/*
 * What stands around ws.c in a proof by Eva: the two windows of a connection, with any number of any bytes, and a slot
 * whose fields can have any value.  The windows are as ws.h says.
 */
#include "__fc_builtin.h"

struct config cf;
struct counters count;
int64_t now;

enum { MESSAGE = 65536 }; /* max-message, its default */
static unsigned char arena[IO_TEXT + MESSAGE];
static unsigned char receive[RECORD_MAX], send_window[RECORD_MAX];
static struct conn slot;
static struct route route;

static void
any(void *p, size_t n)
{
	Frama_C_make_unknown(p, n);
}

unsigned char *
tls_peek(struct conn *c, size_t *n)
{
	any(receive, sizeof receive);
	*n = (size_t)Frama_C_interval(0, RECORD_MAX);
	return *n > 0 ? receive : NULL;
}

void
tls_eat(struct conn *c, size_t n)
{
	c->in += n;
}

unsigned char *
tls_room(struct conn *c, size_t *n)
{
	*n = (size_t)Frama_C_interval(0, RECORD_MAX);
	return *n > 0 ? send_window : NULL;
}

void
tls_put(struct conn *c, size_t n)
{
	/*@ assert no_more_than_a_window: n <= RECORD_MAX; */
	c->out += n;
}

enum step
dead(struct conn *c, const char *why)
{
	c->why = why;
	return DEAD;
}

static struct conn *
any_conn(void)
{
	struct conn *c = &slot;

	any(&cf, sizeof cf);
	any(&count, sizeof count);
	any(c, sizeof *c);
	any(arena, sizeof arena);
	cf.max_message = MESSAGE;
	cf.timeout = Frama_C_interval(1, 1000000);
	c->io = arena;
	c->route = &route;
	c->why = "why";
	c->message = Frama_C_unsigned_char_interval(0, BINARY);
	c->bfd = Frama_C_interval(-1, 1000);
	now = (int64_t)Frama_C_unsigned_int_interval(0, 0xffffffff);
	return c;
}
