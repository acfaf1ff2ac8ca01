/*
 * What a target does not take from the sources and does not bring itself: data, and functions that
 * say so when they are called after all.
 */
#include "fuzz.h"
#include "ws.h"

#include <arpa/inet.h>
#include <stdarg.h>

#define OTHERS __attribute__((weak))
#define MISSING(name)                                       \
	OTHERS name                                         \
	{                                                   \
		broken("never called", __func__, __LINE__); \
	}

#pragma GCC diagnostic ignored "-Wunused-parameter"

OTHERS struct config cf;
OTHERS struct counters count;
OTHERS int64_t now;
OTHERS const size_t tls_size;
OTHERS const struct backend backends[1];

OTHERS void
log_line(int priority, const char *format, ...)
{
}

OTHERS void *
ip_of(const union address *a)
{
	return a->sa.sa_family == AF_INET6 ? (void *)&a->in6.sin6_addr : (void *)&a->in.sin_addr;
}

MISSING(const char *read_file(const char *file, char *text, size_t size))
MISSING(const char *tls_load(void))
MISSING(int tls_open(struct conn *c))
MISSING(enum step tls_proxy(struct conn *c))
MISSING(enum step tls_in(struct conn *c))
MISSING(enum step tls_ready(struct conn *c))
MISSING(unsigned char *tls_peek(struct conn *c, size_t *n))
MISSING(void tls_eat(struct conn *c, size_t n))
MISSING(unsigned char *tls_room(struct conn *c, size_t *n))
MISSING(void tls_put(struct conn *c, size_t n))
MISSING(enum step tls_out(struct conn *c))
MISSING(short tls_events(const struct conn *c))
MISSING(enum step tls_bye(struct conn *c))
MISSING(int tls_idle(struct conn *c))
MISSING(void tls_wipe(struct conn *c))
MISSING(const char *tls_suite(const struct conn *c))
MISSING(enum step dead(struct conn *c, const char *why))
MISSING(const char *http_load(void))
MISSING(int http_scan(const unsigned char *b, size_t from, size_t to, uint8_t *scan))
MISSING(int http_parse(unsigned char *b, size_t n, struct head *h))
MISSING(enum step http_step(struct conn *c))
MISSING(enum step ws_step(struct conn *c))
MISSING(void ws_close(struct conn *c, int code, const char *why))
MISSING(void ws_ping(struct conn *c))
MISSING(int ws_idle(const struct conn *c))
MISSING(void ws_leave(struct conn *c))
