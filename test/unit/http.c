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

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(short_origins),
	};

	return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
