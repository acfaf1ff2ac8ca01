/*
 * with: HUB_FRAME = 8192,  -> HUB_FRAME = 10,
 * cc: -O2
 *
 * The ring never shows a cut frame: every state of hub_input and hub_output's ring is visited,
 * with fragments of at most two bytes of payload (sizes are the only thing that is small: the code
 * is the product's) and rings of three sizes.  A state is where the head is in the ring and what
 * entries lie in it, how long, whose and which part of a message; all states that messages of 0 to
 * 5 bytes can lead to are tried with each next message, and from each every subscriber: a cursor
 * at each entry, at the head or overtaken, and each size of the send window.  What he gets must be
 * whole frames, in order, with the bytes that were sent, none of his own; who was overtaken gets
 * nothing but 1013.  Sizes above are the business of ring_bounds.c, and of the lemma in
 * ring_lemma.c.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../../ws.c"
#include "stubs.h"

int main(void);

enum {
	MESSAGE = 5,
	SHORTEST = (MESSAGE / HUB_FRAME + 2) * (HUB_FRAME + 16),
	SIZES = 3,
	ENTRIES_MAX = 8
};
enum { STATES_MAX = 1 << 20, HASH = 1 << 22 };


/* What should be in the ring, oldest first. */
struct model {
	int entries;
	struct {
		uint8_t n, fin, opcode, sender, p[2];
		uint64_t position;
	} e[ENTRIES_MAX + MESSAGE];
};

struct snapshot {
	struct hub hub;
	struct model model;
	unsigned char ring[SHORTEST + SIZES]; /* its last bytes are no part of smaller rings */
};

static struct snapshot *states;
static int *table, found;
static unsigned long wrong, cases;

/* States that differ by turns of the ring only, or by payload, are one. */
static uint64_t
key(const struct snapshot *s)
{
	uint64_t k = s->hub.head % (s->hub.size - HUB_FRAME) + 1;

	for (int i = 0; i < s->model.entries; i++)
		k = k * 36 + 1 + (uint64_t)s->model.e[i].n + 3 * (uint64_t)s->model.e[i].fin +
		    6 * (uint64_t)(s->model.e[i].opcode != 0) + 12 * (uint64_t)s->model.e[i].sender;
	return k;
}

static void
visit(const struct snapshot *s)
{
	uint64_t k = key(s), at = (k * 0x9e3779b97f4a7c15) >> 42;

	while (table[at] != 0 && key(&states[table[at] - 1]) != k)
		at = (at + 1) % HASH;
	if (table[at] != 0)
		return;
	if (found == STATES_MAX) {
		wrong++;
		return;
	}
	states[found++] = *s;
	table[at] = found;
}

/* A message of n bytes into the ring and into the model, which loses as many of the oldest as the ring did. */
static void
put(struct snapshot *s, struct route *route, size_t n, uint8_t sender)
{
	static unsigned char next;
	struct conn c = { .id = sender, .message = n % 2 == 0 ? TEXT : BINARY, .route = route };
	unsigned char p[MESSAGE];
	struct model *m = &s->model;
	size_t sent = 0, lost = 0;

	for (size_t i = 0; i < n; i++)
		p[i] = next++;
	route->hub = s->hub;
	route->hub.ring = s->ring;
	do {
		size_t part = n - sent < 2 ? n - sent : 2;
		uint64_t end = m->entries == 0
				       ? s->hub.head
				       : m->e[m->entries - 1].position + 8 + m->e[m->entries - 1].n;

		m->e[m->entries].position = end;
		m->e[m->entries].n = (uint8_t)part;
		m->e[m->entries].fin = sent + part == n;
		m->e[m->entries].opcode = sent == 0 ? c.message : 0;
		m->e[m->entries].sender = sender;
		memcpy(m->e[m->entries++].p, p + sent, part);
		sent += part;
	} while (sent < n);
	wrong += hub_input(&c, p, n) != (ssize_t)n || !route->hub.posted;
	s->hub = route->hub;
	s->hub.ring = NULL;
	while (lost < (size_t)m->entries && m->e[lost].position < s->hub.tail)
		lost++;
	m->entries -= (int)lost;
	memmove(m->e, m->e + lost, (size_t)m->entries * sizeof m->e[0]);
	/* the message is there as a whole, the tail is at an entry, nothing was lost that could have stayed */
	wrong += m->entries == 0 || m->e[0].position != s->hub.tail || m->entries > ENTRIES_MAX ||
		 s->hub.head - s->hub.tail > s->hub.size - HUB_FRAME;
	wrong += s->hub.head != m->e[m->entries - 1].position + 8 + m->e[m->entries - 1].n;
}

/* What a subscriber with the cursor at the entry `from` gets, in a window of that size. */
static void
get(const struct snapshot *s, struct route *route, int from, size_t room, uint8_t id)
{
	const struct model *m = &s->model;
	uint64_t at = from < 0            ? s->hub.tail - 1
		      : from < m->entries ? m->e[from].position
					  : s->hub.head;
	struct conn c = { .id = id, .cursor = at, .state = OPEN, .route = route };
	size_t read = 0;
	int i = from;

	route->hub = s->hub;
	route->hub.ring = (unsigned char *)s->ring;
	space = room;
	sent = 0;
	memset(out, 0xff, sizeof out);
	hub_output(&c);
	cases++;
	if (from < 0) {
		wrong += sent != 0 || c.closing != 1013;
		return;
	}
	for (; i < m->entries; i++) {
		if (m->e[i].sender == id)
			continue;
		if (room - read < (size_t)HEADER + m->e[i].n)
			break;
		wrong += out[read] != (m->e[i].fin << 7 | m->e[i].opcode) ||
			 out[read + 1] != m->e[i].n ||
			 memcmp(out + read + 2, m->e[i].p, m->e[i].n) != 0;
		read += 2u + m->e[i].n;
	}
	wrong += read != sent || c.closing != 0 || c.full != (i < m->entries) ||
		 c.cursor != (i < m->entries ? m->e[i].position : s->hub.head);
}

int
main(void)
{
	static struct route route;
	unsigned long all = 0;

	states = malloc(STATES_MAX * sizeof *states);
	for (int size = SHORTEST; size < SHORTEST + SIZES && wrong == 0; size++) {
		static struct snapshot s;

		table = calloc(HASH, sizeof *table);
		found = 0;
		s.hub.size = (size_t)size;
		memset(s.ring, 0xee, sizeof s.ring);
		visit(&s);
		for (int i = 0; i < found && wrong == 0; i++) {
			for (size_t n = 0; n <= MESSAGE; n++)
				for (uint8_t sender = 1; sender < 3 && wrong == 0;
					sender++, cases++) {
					s = states[i];
					put(&s, &route, n, sender);
					if (wrong != 0)
						break;
					for (int b = size; b < SHORTEST + SIZES; b++)
						wrong += s.ring[b] != 0xee;
					visit(&s);
				}
			for (int from = states[i].hub.tail > 0 ? -1 : 0;
				from <= states[i].model.entries; from++)
				for (size_t room = 0; room <= 20; room++)
					get(&states[i], &route, from, room, 1);
		}
		all += (unsigned long)found;
		memset(&s, 0, sizeof s);
		free(table);
	}
	free(states);
	printf("%lu states, %lu of %lu cases wrong\n", all, wrong, cases);
	return wrong != 0;
}
