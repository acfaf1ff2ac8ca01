/*
 * eva: -eva-precision 3 -eva-slevel 300
 *
 * The PROXY protocol's head: of each length from 1 to 64, of which nothing stands behind the last byte, and any number
 * of bytes up to what the stage holds.  It is refused, incomplete, or as long as it says, and an address comes only
 * from a whole one.
 */
#include "../../tls.c"
#include "__fc_builtin.h"

enum { SHORT = 64 };

struct config cf;
struct counters count;
int64_t now;
static unsigned char few[SHORT], stage[STAGE];

void entry(void);

void *
ip_of(const union address *a)
{
	return a->sa.sa_family == AF_INET6 ? (void *)&a->in6.sin6_addr : (void *)&a->in.sin_addr;
}

void
entry(void)
{
	union address a = { .sa.sa_family = AF_UNIX };
	size_t n = (size_t)Frama_C_interval(1, SHORT);
	int len;

	Frama_C_make_unknown((char *)few, sizeof few);
	Frama_C_make_unknown((char *)stage, sizeof stage);
	len = proxy_head(stage, (size_t)Frama_C_interval(1, STAGE), &a);
	/*@ assert -1 <= len <= PROXY_MAX; */
	/*@ assert a.sa.sa_family == AF_UNIX || a.sa.sa_family == AF_INET || a.sa.sa_family == AF_INET6; */
	a.sa.sa_family = AF_UNIX;
	/*@ split n; */
	len = proxy_head(few + SHORT - n, n, &a);
	/*@ assert -1 <= len <= n; */
	if (n < 16) {
		/*@ assert len <= 0 && a.sa.sa_family == AF_UNIX; */
	}
}
