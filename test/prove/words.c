/*
 * eva: -eva-precision 2 -eva-plevel 2000 -eva-slevel 30 -eva-slevel-function take_word:200 -eva-interprocedural-splits -eva-use-spec read_config,die
 *
 * The words of a configuration: any word with any value of up to ROOM bytes, from the command line or a file, after any
 * others.  No list of the configuration is written behind its end.
 */
#include <string.h>
#include "__fc_string_axiomatic.h"

/*@ requires valid_read_string(file);
    assigns \nothing; */
static void read_config(const char *file);

/*@ requires valid_read_string(where);
    requires valid_read_string(what);
    requires valid_read_string(wrong);
    assigns \nothing;
    ensures \false; */
static _Noreturn void die(int status, const char *where, const char *what, const char *wrong);

#include "../../main.c"
#include "__fc_builtin.h"

enum { ROOM = 65536 };

static char text[ROOM], next[ROOM], other[] = "/other";

void entry(void);

const struct backend backends[] = { { .name = "echo" }, { .name = "hub", .whole = 1, .ring = 1 },
	{ .name = "tcp", .family = AF_INET }, { .name = "unix", .family = AF_UNIX },
	{ .name = "seqpacket", .whole = 1, .family = AF_UNIX }, { 0 } };

#include "strings_posix.h"

long long
strtoll(const char *s, char **end, int base)
{
	(void)base;
	*end = strchr(s, Frama_C_interval(-128, 127)); /* anywhere */
	if (*end == NULL)
		*end = (char *)s;
	return Frama_C_long_long_interval(-0x7fffffffffffffff - 1, 0x7fffffffffffffff);
}

void *
memccpy(void *to, const void *from, int c, size_t n)
{
	size_t length = strlen(from), room = sizeof((struct sockaddr_un *)0)->sun_path;

	/*@ assert c == 0 && n <= room; */
	Frama_C_make_unknown(to, n);
	return length < n ? to : NULL;
}

int
inet_pton(int af, const char *from, void *to)
{
	/*@ assert valid_read_string(from); */
	Frama_C_make_unknown(to, af == AF_INET ? 4 : 16);
	return Frama_C_interval(0, 1);
}

void
entry(void)
{
	int both;

	/*@ widen_hints global:"all", 15, 16; */
	Frama_C_make_unknown(text, ROOM - 1);
	Frama_C_make_unknown(next, ROOM - 1);
	if (Frama_C_interval(0, 1)) { /* none yet, one less than there may be, or all */
		cf.listeners = LISTENERS_MAX - 1;
		cf.routes = ROUTES_MAX - 1;
		if (Frama_C_interval(0, 1)) {
			cf.listeners++;
			cf.routes++;
		}
	}
	/*@ split cf.routes; */
	cf.origins.n = (unsigned)Frama_C_interval(0, NAMES_MAX);
	cf.hosts.n = (unsigned)Frama_C_interval(0, NAMES_MAX);
	/*@ loop unroll ROUTES_MAX; */
	for (unsigned i = 0; i < ROUTES_MAX; i++)
		cf.route[i].path = other;
	both = take_word("", Frama_C_interval(0, 1) ? 2 : 0, text, Frama_C_interval(0, 1) ? next : NULL);
	/*@ assert 0 <= both <= 1; */
	/*@ assert cf.origins.n <= NAMES_MAX && cf.hosts.n <= NAMES_MAX; */
	/*@ assert \forall integer i; 0 <= i < ROUTES_MAX ==> cf.route[i].origins.n <= NAMES_MAX; */
	/*@ assert \forall integer i; 0 <= i < ROUTES_MAX ==> cf.route[i].protocols.n <= NAMES_MAX; */
}
