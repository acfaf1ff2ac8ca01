/*
 * For a proof that is a C program: what ws.c and http.c call in the other files.  Nothing is there to be read; the send
 * window has `space` bytes, of which `sent` are in use; `eaten` counts what was taken.
 */
struct config cf;
struct counters count;
int64_t now;

static unsigned char out[CONTROL_MAX + 8];
static size_t space, sent, eaten;

unsigned char *
tls_peek(struct conn *c, size_t *n)
{
	(void)c;
	*n = 0;
	return NULL;
}

void
tls_eat(struct conn *c, size_t n)
{
	c->in += n;
	eaten += n;
}

unsigned char *
tls_room(struct conn *c, size_t *n)
{
	(void)c;
	*n = space - sent;
	return *n > 0 ? out + sent : NULL;
}

void
tls_put(struct conn *c, size_t n)
{
	c->out += n;
	sent += n;
}

enum step
dead(struct conn *c, const char *why)
{
	c->why = why;
	return DEAD;
}
