/*
 * What http.c does with what no head has.
 */
#include "../../http.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* At the very start of a buffer an Origin has nothing in front of it that could be looked at. */
static void
short_origins(void **state)
{
	static const struct listener lis[] = { { .plain = 0 }, { .plain = 1 } };
	static const unsigned char b[] = ":443 localhost", c80[] = ":80: localhost";
	static const struct names none;
	const struct head h = { .host = 5, .port = 14, .host_end = 14 };

	(void)state;
	for (int plain = 0; plain < 2; plain++) {
		const struct conn c = { .lis = &lis[plain] };

		for (uint16_t n = 0; n <= 4; n++) {
			const struct field origin = { .value = 0, .value_end = n };

			assert_int_equal(
				origin_allowed(&c, &none, plain ? c80 : b, &h, &origin), 0);
		}
	}
}

/* What is not even looked for is not there, whatever went wrong before. */
static void
stale_errno(void **state)
{
	static unsigned char path[] = "/a//b";
	const struct head h = { .path = 0, .path_end = 5 };
	struct conn c = { .lis = cf.listener, .fd = -1, .bfd = -1, .state = HEAD };

	(void)state;
	cf.listener[0].plain = 1;
	c.io = calloc(1, IO_TEXT);
	c.tls = calloc(1, tls_size);
	assert_non_null(c.io);
	assert_non_null(c.tls);
	assert_int_equal(tls_open(&c), 1);
	errno = EMFILE;
	assert_int_equal(file(&c, path, &h), MORE);
	assert_int_equal(c.status, 404);
	free(c.io);
	free(c.tls);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(short_origins),
		cmocka_unit_test(stale_errno),
	};

	return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
