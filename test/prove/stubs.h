/* For a proof that is a C program: what ws.c calls in the other files, none of it ever called. */
struct config cf;
struct counters count;
int64_t now;

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
}

unsigned char *
tls_room(struct conn *c, size_t *n)
{
	return tls_peek(c, n);
}

void
tls_put(struct conn *c, size_t n)
{
	c->out += n;
}

enum step
dead(struct conn *c, const char *why)
{
	c->why = why;
	return DEAD;
}
