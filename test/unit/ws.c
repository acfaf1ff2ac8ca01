/*
 * What ws.c says of states one by one.
 */
#include "../../ws.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* Any single thing that is under way keeps a connection from resting. */
static void
idle(void **state)
{
	static struct route r = { .hub.head = 9 };
	static const struct conn still = { .state = OPEN, .route = &r, .cursor = 9 };
	struct conn c[7];

	(void)state;
	assert_true(ws_idle(&still));
	for (size_t i = 0; i < 7; i++)
		c[i] = still;
	c[0].in_frame = 1;
	c[1].stashed = 1;
	c[2].text = 1;
	c[3].bfull = 1;
	c[4].bready = 1;
	c[5].cursor = 8;
	for (size_t i = 0; i < 6; i++)
		assert_false(ws_idle(&c[i]));
	c[6].bfd = 5; /* that it has a backend does not count */
	assert_true(ws_idle(&c[6]));
}

/* Of a header nothing is known yet. */
static void
no_header(void **state)
{
	struct frame f;

	(void)state;
	assert_int_equal(ws_frame((const unsigned char *)"", 0, &f), 0);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(idle),
		cmocka_unit_test(no_header),
	};

	return cmocka_run_group_tests_name("ws", tests, NULL, NULL);
}
