/*
 * eva: -eva-precision 1 -eva-widening-delay 20
 *
 * hub_input and hub_output at their true sizes: rings from the smallest that main.c allows to a
 * large one, head, tail and cursor anywhere, any bytes in the ring, any message, any room.  No
 * access leaves the ring or the window.  Of an entry that is read no more is assumed than what is
 * asserted where one is written: entry and payload fit in HUB_FRAME bytes.  That what is read is
 * an entry is shown by ring.c and ring_lemma.c.
 */
#include <string.h>
#include "__fc_builtin.h"

static void *copy(void *to, const void *from, size_t n, int into, int out_of);

/* In the hub's functions, what has 8 bytes is a struct entry. */
#define memcpy(to, from, n) copy(to, from, n, sizeof *(to) == 8, sizeof *(from) == 8)
#include "../../ws.c"
#undef memcpy
#include "world.h"

void entry(void);

static void *
copy(void *to, const void *from, size_t n, int into, int out_of)
{
	struct entry *e = to;

	if (out_of) {
		/*@ assert entry_fits: ((struct entry *)from)->n + sizeof(struct entry) <= HUB_FRAME; */
	}
	memcpy(to, from, n);
	if (into) {
		any(e, sizeof *e);
		e->n = Frama_C_unsigned_short_interval(0, HUB_FRAME - sizeof *e);
	}
	return to;
}

static unsigned char large[328320]; /* the default for a max-message of 65536 */
static unsigned char odd[100003];
static unsigned char smallest[2 * (HUB_FRAME + 16)];
static unsigned char
	message[MESSAGE + HUB_FRAME]; /* ring.c shows that what is copied is the message, no more */

static void
one_ring(struct conn *c, unsigned char *ring, size_t size)
{
	any(ring, size);
	any(message, sizeof message);
	any(&route.hub, sizeof route.hub);
	route.hub.ring = ring;
	route.hub.size = size;
	if (Frama_C_interval(0, 1))
		hub_input(c, message, (size_t)Frama_C_interval(0, MESSAGE));
	else
		hub_output(c);
}

void
entry(void)
{
	struct conn *c = any_conn();

	one_ring(c, smallest, sizeof smallest);
	one_ring(c, odd, sizeof odd);
	one_ring(c, large, sizeof large);
}
