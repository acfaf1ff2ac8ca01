/*
 * A hub's ring with up to six subscribers that come, post, read and go as the input says, each
 * behind a window of its own that is emptied at times.  A model keeps a list of all entries and
 * says, byte by byte, what each window must hold, which subscriber the ring has overtaken and
 * which it has not, and that at the end each has all that was posted since it came.
 */
#include "fuzz.h"

#include "ws.c"

enum { SUBSCRIBERS = 6, POSTS = 400, ENTRIES = 4000, ENTRY = 8, BYTES_MAX = 4000000 };

static struct subscriber {
	struct conn c;
	struct tls *tls;
	size_t used;      /* bytes in the window */
	size_t next;      /* model: the entry that comes next */
	int here, lagged; /* it has come; it was told that it lags */
	unsigned char window[RECORD_MAX];
} subscribers[SUBSCRIBERS];

/* What was posted: position is where it began, counted from the first. */
static struct posted {
	uint32_t sender, seed;
	size_t at, n; /* offset in the message */
	uint64_t position;
	int fin, opcode;
} entries[ENTRIES];
static size_t posted, tail; /* entries; the oldest that the ring must still have */
static uint64_t end;        /* the position behind the last */

static struct subscriber *
of(struct conn *c)
{
	return (struct subscriber *)((char *)c - offsetof(struct subscriber, c));
}

/* The transport: a window that is full until it is emptied. */

unsigned char *
tls_room(struct conn *c, size_t *n)
{
	struct subscriber *s = of(c);

	*n = RECORD_MAX - s->used;
	return *n > 0 ? s->window + s->used : NULL;
}

void
tls_put(struct conn *c, size_t n)
{
	struct subscriber *s = of(c);

	CHECK(n <= RECORD_MAX - s->used);
	s->used += n;
}

/* The byte at place i of a message. */
static unsigned char
byte_of(uint32_t seed, size_t i)
{
	return (unsigned char)(seed + i * 7 + i / 251);
}

static void
post(struct subscriber *s, struct route *r, size_t n, int opcode)
{
	static unsigned char message[65536];
	uint32_t seed = (uint32_t)posted * 101;
	size_t capacity = r->hub.size - HUB_FRAME, at = 0;

	for (size_t i = 0; i < n; i++)
		message[i] = byte_of(seed, i);
	s->c.message = (uint8_t)opcode;
	CHECK(hub_input(&s->c, message, n) == (ssize_t)n);
	CHECK(r->hub.posted);
	do {
		struct posted *e = &entries[posted++];
		size_t most = HUB_FRAME - ENTRY;

		*e = (struct posted){ s->c.id, seed, at, n - at < most ? n - at : most, end, 0,
			at == 0 ? opcode : CONTINUATION };
		at += e->n;
		e->fin = at == n;
		end += ENTRY + e->n;
	} while (at < n);
	while (end - entries[tail].position > capacity)
		tail++;
	CHECK(tail < posted);
}

/* Asks for output, and compares what came with what the model says. */
static void
output(struct subscriber *s)
{
	size_t from = s->used, at = from;
	int overtaken = s->next < tail && s->next < posted;

	if (!s->here || s->lagged)
		return;
	hub_output(&s->c);
	s->lagged = s->c.closing != 0;
	CHECK(s->lagged == overtaken && (!s->lagged || s->c.closing == 1013));
	for (; !s->lagged && s->next < posted; s->next++) {
		const struct posted *e = &entries[s->next];
		const unsigned char *q = s->window + at;

		if (e->sender == s->c.id)
			continue;
		if (RECORD_MAX - at < HEADER + e->n)
			break; /* no room for it */
		CHECK(q[0] == (e->fin ? 128 : 0) + e->opcode);
		if (e->n < 126)
			CHECK(q[1] == e->n);
		else
			CHECK(q[1] == 126 && q[2] * 256U + q[3] == e->n);
		q += e->n < 126 ? 2 : 4;
		for (size_t i = 0; i < e->n; i++)
			CHECK(q[i] == byte_of(e->seed, e->at + i));
		at = (size_t)(q + e->n - s->window);
	}
	CHECK(s->used == at);
	CHECK(s->lagged || s->c.full == (s->next < posted));
	s->c.full = 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t messages[] = { 1, 100, 8000, 8184, 8185, 16368, 20000, 40000 };
	struct input in = { data, size };
	struct route r = { .backend = &backends[1], .hub.size = 0 };
	size_t max = messages[take(&in) % 8], least = (max / HUB_FRAME + 2) * (HUB_FRAME + 16);
	uint64_t start = take(&in);
	uint32_t id = 0;

	cf.max_message = (long long)max;
	r.hub.size = least + take(&in) * 64U;
	r.hub.size += take(&in);
	r.hub.ring = malloc(r.hub.size);
	CHECK(r.hub.ring != NULL);
	r.hub.head = r.hub.tail = start < 64 ? start : start << 26;
	posted = tail = 0;
	end = 0;
	memset(subscribers, 0, sizeof subscribers);
	while (in.n > 0 && posted < POSTS && end < BYTES_MAX) {
		unsigned op = take(&in);
		struct subscriber *s = &subscribers[op / 8 % SUBSCRIBERS];
		size_t n;

		switch (op % 8) {
		case 0:
			s->here = !s->here;
			s->lagged = 0;
			s->used = 0;
			s->c = (struct conn){ .id = id++, .state = OPEN, .route = &r };
			s->c.cursor = r.hub.head;
			s->next = posted;
			break;
		case 1:
		case 2:
		case 3:
			n = take(&in) << 8;
			n |= take(&in);
			n = op % 8 == 1 ? n / 256 : op % 8 == 2 ? n : max - n / 256;
			if (s->here && !s->lagged)
				post(s, &r, n <= max ? n : max, op & 128 ? BINARY : TEXT);
			break;
		case 4:
			s->used = 0;
			break;
		case 5: /* not all of it went out */
			s->used -= s->used * take(&in) / 256;
			break;
		default:
			output(s);
		}
	}
	for (struct subscriber *s = subscribers; s < subscribers + SUBSCRIBERS; s++) {
		for (size_t turns = 0; s->here && !s->lagged && s->next < posted; turns++) {
			CHECK(turns <= posted);
			s->used = 0;
			output(s);
		}
		CHECK(!s->here || s->lagged || s->c.cursor == r.hub.head);
	}
	free(r.hub.ring);
	return 0;
}
