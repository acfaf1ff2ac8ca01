/*
 * Connections without TLS from accept to close, through the real loop: main.c, http.c, ws.c and the
 * plain twin of tls.c, over the kernel of world.h.  An input is a script of what clients, backends,
 * the clock and the operator do; poll(2) plays it.  When it is at its end all that was held back
 * may go, and the peers leave in one of six ways; then the server is told to stop.
 *
 * What must hold: no "bug:", one line in the log for each connection, no slot, descriptor, sleeper
 * or byte of a client left, no turn after turn without progress; all that each client got is a
 * sequence of replies and then of frames by RFC 6455 (5.1, 5.2, 5.4 to 5.6, 7.4, nothing behind a
 * Close); what came back from echo and what passed to and from a backend is what was sent, in
 * order, and, once nobody is held back, all of it; each violation has its close code.
 */
#include "fuzz.h"
#include "second.h"

#define main wssd_main
#include "main.c"
#undef main

#include "world.h"

enum { CLIENTS = 16, SLOTS = 5, MESSAGE = 70000, TURNS = 40000, SPIN = 40, CRUMBS = 300 };

/* What a client said, or got, as symbols: bytes of messages and of pongs, and marks between. */
enum {
	TEXT_BEGINS = 1,
	BINARY_BEGINS,
	ENDS,
	PONG_BEGINS,
	PONG_ENDS,
	BYTE = 0x100,
	PONG_BYTE = 0x200
};

struct symbols {
	uint16_t *v;
	size_t n, room;
	int code;           /* of the violation that ends it, or 0 */
	int closed, answer; /* it ends with a Close; its code, 1005: none */
	int late;           /* cut short inside of a frame, or of a reply */
};

static struct input script;
static struct sock *clients_of[CLIENTS];
static unsigned clients_made, turns, spins, crumbs; /* crumbs: turns since the script's end */
static unsigned long long progress_before, accepted_before, bugs_before;
static int phase, leaving, was_used[SLOTS];
static unsigned current, current_backend;
static int64_t phase_began;
static struct config base;
static struct symbols said, got;

static void
symbol(struct symbols *s, unsigned v)
{
	if (s->n == s->room) {
		s->room = 2 * s->room + 1024;
		s->v = realloc(s->v, s->room * sizeof *s->v);
		CHECK(s->v != NULL);
	}
	s->v[s->n++] = (uint16_t)v;
}

static void
begin(struct symbols *s)
{
	s->n = 0;
	s->code = s->closed = s->answer = s->late = 0;
}

/* Decoding. */

static int
legal_code(unsigned code)
{
	return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
	       (code >= 3000 && code <= 4999);
}

/* Bytes of the message that is going on, for the check of its UTF-8. */
static uint8_t going_on[STREAM_MAX];

/*
 * What a server on this route must make of a client's frames b[0, n): the symbols that come of it,
 * and the violation.
 */
static void
decode_client(const uint8_t *b, size_t n, const struct route *r, struct symbols *s)
{
	size_t at = 0, size = 0, total = 0, there, good;
	int message = 0, open, fin, opcode;
	uint64_t length = 0;

	for (; at < n && !s->closed; at += size + (size_t)length) {
		int whole = second_frame(b + at, n - at, &size, &length);
		uint8_t control[125];

		if (whole <= 0) {
			s->code = whole < 0 ? 1002 : 0;
			s->late = whole == 0;
			return;
		}
		fin = b[at] >= 128;
		opcode = b[at] % 16;
		there = n - at - size < length ? n - at - size : (size_t)length;
		if (opcode >= 8) {
			const uint8_t *p = b + at + size, *key = p - 4;
			int code = 1005;

			if (there < length) {
				s->late = 1;
				return;
			}
			for (size_t i = 0; i < length; i++)
				control[i] = p[i] ^ key[i % 4];
			if (opcode == 9) {
				symbol(s, PONG_BEGINS);
				for (size_t i = 0; i < length; i++)
					symbol(s, PONG_BYTE + control[i]);
				symbol(s, PONG_ENDS);
			}
			if (opcode == 8 && length > 0)
				code = length > 1 ? control[0] << 8 | control[1] : 0;
			if (opcode == 8 && length > 0 && !legal_code((unsigned)code))
				s->code = 1002;
			else if (opcode == 8 && length > 2 &&
				 (second_utf8(control + 2, length - 2, &open) < length - 2 || open))
				s->code = 1007;
			s->closed = opcode == 8;
			s->answer = code;
			continue;
		}
		if ((opcode == 0) != (message != 0)) {
			s->code = 1002;
			return;
		}
		total = opcode != 0 ? 0 : total;
		if (r->backend->whole && total + length > (uint64_t)cf.max_message) {
			s->code = 1009;
			return;
		}
		if (opcode != 0) {
			message = opcode;
			symbol(s, opcode == 1 ? TEXT_BEGINS : BINARY_BEGINS);
		}
		for (size_t i = 0; i < there; i++)
			going_on[total + i] = b[at + size + i] ^ b[at + size - 4 + i % 4];
		good = total + there;
		open = 0;
		if (message == 1)
			good = second_utf8(going_on, total + there, &open);
		for (size_t i = total; i < good; i++)
			symbol(s, BYTE + going_on[i]);
		if (good < total + there || (fin && open && there == length)) {
			s->code = 1007;
			return;
		}
		if (there < length) {
			s->late = 1;
			return;
		}
		total += there;
		if (!fin)
			continue;
		if (total == 0 && r->backend->whole && !r->backend->ring) {
			s->code = 1003;
			return;
		}
		symbol(s, ENDS);
		message = 0;
	}
}

/* What the server sent after its 101: it must be right in itself. */
static void
decode_server(const uint8_t *b, size_t n, struct symbols *s)
{
	size_t at = 0, total = 0, size, length;
	int message = 0, open;

	for (; at < n; at += size + length) {
		unsigned opcode = b[at] % 16, fin = b[at] >= 128;

		CHECK(!s->closed);          /* 5.5.1: nothing behind a Close */
		CHECK((b[at] & 0x70) == 0); /* 5.2 */
		CHECK(opcode <= 2 || (opcode >= 8 && opcode <= 10));
		s->late = n - at < 2 || (b[at + 1] == 126 && n - at < 4);
		if (s->late)
			return;
		CHECK(b[at + 1] <= 126); /* 5.1: not masked; not longer than a window */
		size = b[at + 1] == 126 ? 4 : 2;
		length = size == 4 ? b[at + 2] * 256U + b[at + 3] : b[at + 1];
		CHECK(size == 2 || length >= 126);           /* 5.2: the shortest form */
		CHECK(opcode < 8 || (fin && length <= 125)); /* 5.5 */
		s->late = n - at < size + length;
		if (s->late)
			return;
		if (opcode == 10) {
			symbol(s, PONG_BEGINS);
			for (size_t i = 0; i < length; i++)
				symbol(s, PONG_BYTE + b[at + size + i]);
			symbol(s, PONG_ENDS);
		} else if (opcode == 8) {
			s->closed = 1;
			s->answer = length == 0 ? 1005 : b[at + size] << 8 | b[at + size + 1];
			CHECK(length == 0 || (length >= 2 && legal_code((unsigned)s->answer)));
			CHECK(length == 0 ||
				(second_utf8(b + at + size + 2, length - 2, &open) == length - 2 &&
					!open));
		} else if (opcode < 8) {
			CHECK((opcode == 0) == (message != 0)); /* 5.4 */
			if (opcode != 0) {
				message = (int)opcode;
				total = 0;
				symbol(s, opcode == 1 ? TEXT_BEGINS : BINARY_BEGINS);
			}
			CHECK(total + length <= sizeof going_on);
			for (size_t i = 0; i < length; i++)
				symbol(s, BYTE + (going_on[total + i] = b[at + size + i]));
			total += length;
			if (message == 1) /* 5.6, 8.1 */
				CHECK(second_utf8(going_on, total, &open) == total &&
					!(fin && open));
			if (fin) {
				symbol(s, ENDS);
				message = 0;
			}
		}
	}
}

/* The replies of RFC 9112.  Returns where frames begin, or 0, and how many replies went before. */
static size_t
decode_replies(const uint8_t *b, size_t n, unsigned *replies, int *late)
{
	size_t at = 0;

	for (*replies = 0; at < n; ++*replies) {
		const uint8_t *end = memmem(b + at, n - at, "\r\n\r\n", 4), *length;
		size_t body = 0, m = n - at < 9 ? n - at : 9;

		CHECK(memcmp(b + at, "HTTP/1.1 ", m) == 0);
		*late = end == NULL;
		if (end == NULL)
			return 0;
		for (const uint8_t *p = b + at; p < end; p++)
			CHECK((*p >= ' ' && *p != 127) || *p == '\t' || *p == '\r' || *p == '\n');
		length = memmem(b + at, (size_t)(end - b) - at, "\r\nContent-Length: ", 18);
		if (length != NULL)
			body = (size_t)strtoul((const char *)length + 18, NULL, 10);
		m = at;
		at = (size_t)(end + 4 - b);
		if (memcmp(b + m + 9, "101 ", 4) == 0)
			return at;
		if (at < n && b[at] != 'H') { /* not the answer to HEAD */
			*late = n - at < body;
			at = n - at < body ? n : at + body;
		}
	}
	return 0;
}

/* Where frames begin in what a client said, behind so many other requests and this one. */
static size_t
behind_heads(const struct sock *s, unsigned replies)
{
	size_t at = 0;

	if (s->proxied && s->in.n >= 16)
		at = 16 + (size_t)(s->in.p[14] << 8 | s->in.p[15]);
	for (; replies-- > 0;) {
		const uint8_t *end = memmem(s->in.p + at, s->in.n - at, "\r\n\r\n", 4);

		CHECK(end != NULL);
		at = (size_t)(end + 4 - s->in.p);
	}
	return at;
}

/* Comparing. */

/* Whether the symbols of b in [low, low + 256) begin those of a, or are all of them. */
static int
begins(const struct symbols *a, const struct symbols *b, unsigned low, unsigned high, int all)
{
	size_t i = 0, k = 0;

	for (;; i++, k++) {
		while (i < a->n && !(a->v[i] >= low && a->v[i] < high))
			i++;
		while (k < b->n && !(b->v[k] >= low && b->v[k] < high))
			k++;
		if (k == b->n)
			return i == a->n || !all;
		if (i == a->n || a->v[i] != b->v[k])
			return 0;
	}
}

/* Whether message bytes in the symbols and those at p are the same; the shorter may be a part. */
static int
same_bytes(const struct symbols *s, const uint8_t *p, size_t n, int all, int symbols_longer)
{
	size_t k = 0;

	for (size_t i = 0; i < s->n; i++) {
		if (s->v[i] < BYTE || s->v[i] >= PONG_BYTE)
			continue;
		if (k == n)
			return !all && symbols_longer;
		if (s->v[i] != BYTE + p[k++])
			return 0;
	}
	return k == n || (!all && !symbols_longer);
}

/* Packets of ours to a backend, or of a backend to us, are messages. */
static int
same_packets(const struct symbols *s, const struct bytes *b, const size_t *at, size_t packets,
	int all, int symbols_longer)
{
	size_t k = 0, begun = 0, had = 0;

	for (size_t i = 0; i < s->n; i++) {
		if (s->v[i] == TEXT_BEGINS || s->v[i] == BINARY_BEGINS) {
			begun = 1;
			had = 0;
		} else if (s->v[i] >= BYTE && s->v[i] < PONG_BYTE) {
			if (k < packets &&
				(had >= at[k + 1] - at[k] || b->p[at[k] + had] != s->v[i] - BYTE))
				return 0;
			had++;
		} else if (s->v[i] == ENDS) {
			if (k == packets)
				return symbols_longer && !all;
			if (had != at[k + 1] - at[k])
				return 0;
			k++;
			begun = 0;
		}
	}
	(void)begun;
	return k == packets || (!symbols_longer && !all);
}

/* Whether another client of this hub has sent each message that this one got. */
static void
check_hub(const struct sock *s)
{
	static struct symbols other;
	size_t end;

	for (size_t at = 0; at < got.n; at = end) {
		int found = 0;

		for (; at < got.n && got.v[at] != TEXT_BEGINS && got.v[at] != BINARY_BEGINS; at++)
			;
		for (end = at; end < got.n && got.v[end] != ENDS; end++)
			if (got.v[end] >= PONG_BEGINS && got.v[end] < BYTE)
				return; /* a pong between two fragments: looked at elsewhere */
		if (end == got.n)
			return;
		for (unsigned i = 0; i < clients_made && !found; i++) {
			const struct sock *o = clients_of[i];
			unsigned replies;
			size_t from;
			int late;

			if (o == s || (o->route != s->route && o->route != NULL))
				continue;
			from = decode_replies(o->out.p, o->out.n, &replies, &late);
			if (o->route == NULL || from == 0) {
				/* it came and went between two looks, or its 101 never left */
				found |= o->taken > 0 && memmem(o->in.p, o->taken, "/h", 2) != NULL;
				continue;
			}
			begin(&other);
			from = behind_heads(o, replies + 1);
			decode_client(o->in.p + from, o->in.n - from, o->route, &other);
			for (size_t k = 0; k + (end - at) < other.n && !found; k++) {
				size_t m = 0;

				if (other.v[k] != got.v[at])
					continue;
				for (size_t q = k; q < other.n && m <= end - at; q++) {
					if (other.v[q] >= PONG_BYTE || other.v[q] == PONG_BEGINS ||
						other.v[q] == PONG_ENDS)
						continue;
					if (other.v[q] != got.v[at + m])
						break;
					m++;
				}
				found = m == end - at + 1;
			}
		}
		CHECK(found);
	}
}

/* The slot that serves a client, or NULL. */
static const struct conn *
slot_of(const struct sock *s)
{
	for (const struct conn *c = slots; c < slots + SLOTS; c++)
		if (s->ours && c->state != FREE && c->fd == fd_of(s))
			return c;
	return NULL;
}

/*
 * Looks at all that a client got and said.  settled: nobody is held back, and poll(2) would wait,
 * so that nothing may be missing.
 */
static void
check_client(struct sock *s, int settled)
{
	const struct conn *c = slot_of(s);
	const struct sock *peer = s->peer >= 0 ? &socks[s->peer] : NULL;
	unsigned replies;
	size_t from;
	int late = 0, whole, code;

	from = decode_replies(s->out.p, s->out.n, &replies, &late);
	settled = settled && c != NULL && !s->broken && !s->fin && !s->reset;
	CHECK(!late || !settled || c->state == BODY);
	if (settled && (c->state == HEAD || (c->state == OPEN && s->route->backend->family == 0)))
		CHECK(s->taken == s->in.n); /* all was read */
	if (from == 0)
		return;
	begin(&got);
	decode_server(s->out.p + from, s->out.n - from, &got);
	if (s->route == NULL)
		return; /* it came and went between two looks */
	begin(&said);
	from = behind_heads(s, replies + 1);
	decode_client(s->in.p + from, s->in.n - from, s->route, &said);
	whole = settled && c->state == OPEN && c->closing == 0 && !c->got_close;
	CHECK(!whole || (said.code == 0 && !said.closed && !got.late) || peer != NULL);
	CHECK(begins(&said, &got, PONG_BEGINS, BYTE, 0) || 1);
	CHECK(begins(&said, &got, PONG_BYTE, PONG_BYTE + 256, whole && peer == NULL));
	if (s->route->backend == &backends[0]) {
		CHECK(begins(&said, &got, 0, PONG_BYTE + 256, whole));
	} else if (s->route->backend->ring) {
		check_hub(s);
	} else if (peer != NULL && peer->kind == BACKEND) {
		int all = whole && peer->connected && !peer->broken && !peer->fin && !peer->reset;

		CHECK(same_bytes(&said, peer->out.p, peer->out.n, all && s->taken == s->in.n, 1));
		CHECK(same_bytes(&got, peer->in.p, peer->in.n, all, 0));
		CHECK(!all || (s->taken == s->in.n && peer->taken == peer->in.n));
	} else if (peer != NULL) {
		int all = whole && peer->connected && !peer->broken && !peer->fin && !peer->reset;

		all = all && peer->out_packets < PACKETS;
		CHECK(same_packets(&said, &peer->out, peer->out_packet, peer->out_packets, all, 1));
		CHECK(same_packets(&got, &peer->in, peer->packet, peer->packets, all, 0) ||
			s->broken || peer->broken);
	}
	if (!got.closed) {
		/* a violation, or a Close, has its answer as soon as all may go */
		CHECK(!(settled && peer == NULL && (said.code != 0 || said.closed)));
		return;
	}
	code = got.answer;
	if (code == said.code || (said.closed && said.code == 0 && code == said.answer) ||
		(code == 1001 && stopping != 0))
		return;
	if (code == 1002 && said.code == 0 && said.late)
		return; /* a header that is wrong and not yet whole */
	if (s->route->backend->ring)
		CHECK(code == 1013);
	else
		CHECK(s->route->backend->family != 0 &&
			(code == 1000 || code == 1011 || code == 1009));
}

static void
check_clients(int settled)
{
	for (unsigned i = 0; i < clients_made; i++)
		check_client(clients_of[i], settled);
}

/* Nothing of one client is ever seen by the next. */
static void
check_wiped(const struct conn *c)
{
	static const uint8_t zeros[IO_TEXT + MESSAGE];

	CHECK(memcmp(c->io + IO_IN, zeros, TLS_IN) == 0);
	CHECK(memcmp(c->io + IO_OUT, zeros, TLS_OUT) == 0);
	CHECK(memcmp(c->io + IO_STAGE, zeros, STAGE) == 0);
	CHECK(memcmp(c->io, zeros, IO_IN) == 0 && memcmp(c->io + IO_TEXT, zeros, MESSAGE) == 0);
	CHECK(memcmp(c->tls, zeros, tls_size) == 0);
}

/* Between two turns of the loop. */
static void
check_slots(void)
{
	unsigned used = 0;

	for (struct conn *c = slots; c < slots + SLOTS; c++) {
		used += c->state != FREE;
		if (c->state == FREE && was_used[c - slots])
			check_wiped(c);
		was_used[c - slots] = c->state != FREE;
		if (c->state == FREE) {
			CHECK(c->fd == -1 && c->bfd == -1);
			continue;
		}
		CHECK(c->state <= DRAIN && sock_of(c->fd)->kind == CLIENT);
		if (c->state >= OPEN && c->route != NULL)
			sock_of(c->fd)->route = c->route;
		if (c->bfd >= 0 && sock_of(c->bfd)->kind != A_FILE)
			sock_of(c->fd)->peer = c->bfd - FIRST;
		if (!c->asleep)
			CHECK(c->spot < awakes && awake[c->spot] == c);
	}
	CHECK(used == clients && awakes <= clients);
}

/* The script. */

static struct sock *
the_client(void)
{
	return clients_made > 0 ? clients_of[current % clients_made] : NULL;
}

static struct sock *
the_backend(void)
{
	for (unsigned i = 0; i < used_socks; i++) {
		struct sock *s = &socks[(current_backend + i) % used_socks];

		if ((s->kind == BACKEND || s->kind == PACKET_BACKEND) && s->ours)
			return s;
	}
	return NULL;
}

static void
come(unsigned what)
{
	struct sock *s = clients_made < CLIENTS ? new_sock(CLIENT) : NULL;

	if (s == NULL)
		return;
	current = clients_made;
	clients_of[clients_made++] = s;
	s->connected = 1;
	s->listener = LISTENER + (int)(what & 1);
	s->proxied = (int)(what & 1);
	s->budget = what & 2 ? 0 : SIZE_MAX / 2;
	s->addr.in.sin_family = AF_INET;
	s->addr.in.sin_port = htons((uint16_t)(1000 + clients_made));
	s->addr.in.sin_addr.s_addr =
		htonl(0x0a000001 + (what >> 2 & 3)); /* 10.0.0.0/31: the proxy */
}

static void
say(struct sock *s, const void *p, size_t n)
{
	if (s != NULL && !s->fin && !s->reset && s->in.n + n < STREAM_MAX)
		add(&s->in, p, n);
}

/* A request that is granted, or nearly. */
static void
say_head(struct sock *s, unsigned what)
{
	static const char *const paths[] = { "/e", "/h", "/t", "/u", "/p", "/q", "/x", "/o",
		"/f.txt", "/big", "/d", "/d/", "/none", "/empty", "/.", "/e?x=y" };
	char text[600];
	int upgrade = what % 16 < 8 || what % 16 == 15;

	snprintf(text, sizeof text, "%s %s HTTP/1.%d\r\nHost: localhost\r\n%s%s%s%s\r\n",
		what & 64 ? "HEAD" : "GET", paths[what % 16], (what & 192) != 192,
		upgrade && !(what & 32) ? "Connection: Upgrade\r\nUpgrade: websocket\r\n"
					  "Sec-WebSocket-Version: 13\r\n"
					  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
					: "",
		what % 16 == 6 || what & 128 ? "Authorization: Bearer secret\r\n" : "",
		what % 16 == 7 ? "Origin: http://one\r\nSec-WebSocket-Protocol: c, b\r\n" : "",
		what & 16 ? "Connection: close\r\n" : "");
	say(s, text, strlen(text));
}

static void
say_proxy(struct sock *s, unsigned what)
{
	static const uint8_t mark[] = "\r\n\r\n\0\r\nQUIT\n";
	uint8_t head[28] = { 0 };

	memcpy(head, mark, 12);
	head[12] = what & 1 ? 0x20 : 0x21;
	head[13] = what & 1 ? 0 : 0x11;
	head[15] = 12;
	head[16] = (uint8_t)what;
	say(s, head, sizeof head);
}

/* A whole frame, masked; its payload is a pattern, or text of one, two, three and four bytes. */
static void
say_frame(struct sock *s, struct input *in)
{
	static const uint8_t characters[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z";
	static uint8_t frame[14 + MESSAGE + 1000];
	unsigned first = take(in), form = take(in), what = take(in);
	size_t n = form < 200   ? form
		   : form < 230 ? (form - 200) * 300U + what
				: (form - 230) * 2700U + what;
	size_t size = n < 126 ? 2 : n < 65536 ? 4 : 10;
	uint8_t key[4] = { (uint8_t)what, 7, (uint8_t)form, 0x5a };

	frame[0] = (uint8_t)first;
	frame[1] = (uint8_t)(128 + (n < 126 ? n : n < 65536 ? 126 : 127));
	for (size_t i = 2; i < size; i++)
		frame[i] = (uint8_t)((uint64_t)n >> 8 * (size - 1 - i));
	memcpy(frame + size, key, 4);
	for (size_t i = 0; i < n; i++)
		frame[size + 4 + i] =
			(uint8_t)(what & 1 ? i * 31 + what : characters[i % 11]) ^ key[i % 4];
	if (first % 16 == 8 && n >= 2) {
		frame[size + 4] = (uint8_t)(what % 5) ^ key[0];
		frame[size + 5] = (uint8_t)(0xe8 + what % 17) ^ key[1];
	}
	say(s, frame, size + 4 + n);
}

static void
backend_says(struct sock *s, struct input *in)
{
	static uint8_t data[MESSAGE + 1000];
	unsigned form = take(in);
	size_t n = 1 + (form < 200 ? form : (form - 200) * 1200U);

	if (s == NULL || !s->connected || s->fin || s->reset || s->in.n + n > STREAM_MAX ||
		s->packets == PACKETS)
		return;
	for (size_t i = 0; i < n; i++)
		data[i] = (uint8_t)(form & 1 ? 'a' + i % 26 : i * 13 + form);
	add(&s->in, data, n);
	if (s->kind == PACKET_BACKEND)
		s->packet[++s->packets] = s->in.n;
}

static void
backend_event(struct sock *s, unsigned what)
{
	static const int errors[] = { EINTR, EAGAIN, ECONNRESET, ETIMEDOUT };

	if (s == NULL)
		return;
	switch (what % 8) {
	case 0: /* the connection stands, or is refused */
		s->how = s->how == BACKLOG ? AT_ONCE : s->how;
		s->connected |= s->connecting && s->how == LATER;
		s->connecting = s->connecting && s->how == LATER_REFUSED ? 2 : s->connecting;
		break;
	case 1:
		s->fin = s->connected;
		break;
	case 2:
		s->reset = s->connected && s->reset == 0 ? 1 : s->reset;
		s->broken |= s->reset;
		break;
	case 3:
		s->read_error = errors[what / 8 % 4];
		s->broken |= what / 8 % 4 > 1;
		break;
	case 4:
		s->write_error = errors[what / 8 % 4];
		s->broken |= what / 8 % 4 > 1;
		break;
	case 5:
		s->budget = what / 8 * (what / 8);
		break;
	case 6:
		s->budget = SIZE_MAX / 2;
		break;
	default:
		s->cut = 1 + what / 8 * 100;
	}
}

static void
client_event(struct sock *s, unsigned what)
{
	static const int errors[] = { EINTR, EAGAIN, ECONNRESET, ETIMEDOUT };

	if (s == NULL)
		return;
	switch (what % 8) {
	case 0:
		s->fin = 1;
		break;
	case 1:
		s->reset = s->reset == 0 ? 1 : s->reset;
		break;
	case 2:
		s->read_error = errors[what / 8 % 4];
		s->broken |= what / 8 % 4 > 1;
		break;
	case 3:
		s->write_error = errors[what / 8 % 4];
		s->broken |= what / 8 % 4 > 1;
		break;
	case 4:
		s->budget = what / 8 * 7;
		break;
	case 5:
		s->budget += what / 8 * (what / 8) * 20;
		break;
	case 6:
		s->cut = 1 + what / 8 * (what / 8) * 10;
		break;
	default:
		s->budget = SIZE_MAX / 2;
		s->cut = SIZE_MAX;
	}
}

/* Plays what comes next; 0: the loop shall have its turn. */
static int
play(void)
{
	unsigned op = take(&script);
	struct sock *s = the_client();
	const uint8_t *p;
	size_t n;

	switch (op % 16) {
	case 0:
		return 0;
	case 1:
		come(take(&script));
		break;
	case 2:
		current = op / 16;
		current_backend = op / 16;
		break;
	case 3: /* bytes as they stand in the input */
		n = take(&script);
		p = take_bytes(&script, &n);
		say(s, p, n);
		break;
	case 4:
		say_head(s, take(&script));
		break;
	case 5:
	case 6:
		if (s != NULL)
			say_frame(s, &script);
		break;
	case 7:
		client_event(s, take(&script));
		break;
	case 8:
		backend_says(the_backend(), &script);
		break;
	case 9:
		backend_event(the_backend(), take(&script));
		break;
	case 10:
		backend_how = (int)take(&script) % 8;
		backend_budget = op / 16 % 2 ? SIZE_MAX / 2 : op / 16 * 50;
		backend_cut = op / 16 % 4 ? SIZE_MAX : 1 + op;
		break;
	case 11: /* time passes */
		clock_ms += op / 16 < 8 ? op / 16 * 20 : (op / 16 - 7) * 700;
		return 0;
	case 12: {
		static const int errors[] = { EMFILE, ECONNABORTED, EMFILE, EIO, EPIPE, 0, 0, 0 };

		accept_error = op / 16 < 2 ? errors[op / 16] : accept_error;
		file_error = op / 16 < 2 ? file_error : errors[op / 16 % 8];
		break;
	}
	case 13:
		signal_waiting = op / 16 % 2 ? SIGHUP : SIGUSR1;
		break;
	case 14:
		if (s != NULL)
			say_proxy(s, take(&script));
		break;
	default: /* small frames, one after the other */
		for (unsigned i = 0; s != NULL && i < 40; i++) {
			static const uint8_t pong[] = { 0x8a, 0x80, 1, 2, 3, 4 },
					     ping[] = { 0x89, 0x81, 1, 2, 3, 4, 5 };

			say(s, op & 16 ? ping : pong, op & 16 ? sizeof ping : sizeof pong);
		}
	}
	return 1;
}

/* All that was held back may go. */
static void
release(void)
{
	backend_how = AT_ONCE;
	backend_budget = backend_cut = SIZE_MAX / 2;
	for (struct sock *s = socks; s < socks + used_socks; s++) {
		s->budget = SIZE_MAX / 2;
		s->cut = SIZE_MAX;
		s->how = s->how == BACKLOG ? AT_ONCE : s->how;
		s->connected |= s->connecting && s->how == LATER;
		s->connecting = s->connecting && s->how == LATER_REFUSED ? 2 : s->connecting;
	}
}

static void
leave(void)
{
	for (struct sock *s = socks; s < socks + used_socks; s++) {
		int client = s->kind == CLIENT,
		    backend = s->kind == BACKEND || s->kind == PACKET_BACKEND;

		if (leaving == 0 && client)
			s->fin = 1;
		if (leaving == 1 && client && s->reset == 0)
			s->reset = 1;
		if (leaving == 2 && backend && s->connected)
			s->fin = 1;
		if (leaving == 3 && backend && s->connected && s->reset == 0)
			s->reset = s->broken = 1;
		if (leaving == 4 && client && s->in.n > 0)
			say(s, "\x88\x80\1\2\3\4", 6);
	}
}

/* Nothing is left to play, and poll(2) would wait. */
static void
next_phase(void)
{
	int64_t most = 3 * cf.timeout + cf.ping + 5 * TICK;

	switch (phase) {
	case 0:
		release();
		phase = 1;
		break;
	case 1:
		check_clients(1);
		leave();
		phase = 2;
		phase_began = clock_ms;
		break;
	case 2: /* silence, until nobody is left */
		CHECK(cf.ping == 0 || clock_ms - phase_began <= most);
		clock_ms += TICK;
		if (clients > 0 && clock_ms - phase_began <= most)
			break;
		signal_waiting = SIGTERM;
		phase = 3;
		phase_began = clock_ms;
		break;
	default:
		CHECK(clock_ms - phase_began <= GRACE + 3 * TICK);
		clock_ms += TICK;
	}
}

int
fake_poll(struct pollfd *p, nfds_t n, int timeout)
{
	unsigned long long progress =
		moved_bytes + count.bytes_in + count.bytes_out + count.frames_in;
	int some = 0;

	if (n == 1 && p->fd == STDERR_FILENO) { /* may a line be written? */
		p->revents = POLLOUT;
		return 1;
	}
	CHECK(++turns < TURNS);
	CHECK(timeout == 0 || timeout == TICK);
	check_slots();
	if (timeout != 0)
		check_held(p, n);
	spins = progress == progress_before ? spins + 1 : 0;
	progress_before = progress;
	CHECK(spins < SPIN);
	crumbs += script.n == 0;
	for (struct sock *s = socks; crumbs == CRUMBS && s < socks + used_socks; s++)
		s->cut = SIZE_MAX;
	for (;;) {
		while (phase == 0 && script.n > 0 && play())
			spins = 0;
		some = look(p, n);
		if (some > 0 || timeout == 0)
			return some;
		spins = 0;
		if (phase == 0 && script.n > 0)
			continue;
		next_phase();
		some = look(p, n);
		return some;
	}
}

static void
set_up(void)
{
	static char words[][48] = { "/e=echo", "/h=hub", "/t=tcp:127.0.0.1:1", "/u=unix:/s",
		"/p=seqpacket:/s", "/q=seqpacket:/s,text", "/x=echo,auth=cred",
		"/o=echo,origin=http://one,protocol=a|b", "--listen=ws://127.0.0.1:1",
		"--listen=ws://127.0.0.1:2,proxy=10.0.0.0/31", "--root=root", "--verbose" };

	cf.max_clients = SLOTS;
	cf.max_per_ip = 0;
	cf.max_message = MESSAGE;
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		take_word("", 2, words[i], NULL);
	check_config();
	open_files();
	reserve();
	for (unsigned i = 0; i < cf.listeners; i++)
		cf.listener[i].fd = LISTENER + (int)i;
	signal_fd = SIGNALS;
	epoll_fd = EPOLL;
	base = cf;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const long long messages[] = { 1, 100, 9000, MESSAGE };
	size_t ring = 0;
	unsigned what;

	if (base.listeners == 0)
		set_up();
	script = (struct input){ data, size };
	what = take(&script);
	leaving = (int)what % 6;
	cf = base;
	cf.max_message = messages[what / 8 % 4];
	cf.ping = what & 32 ? 3000 : 0;
	cf.timeout = what & 64 ? 2000 : 10000;
	cf.max_per_ip = what & 128 ? 2 : 0;
	what = take(&script);
	cf.max_clients = 1 + what % SLOTS;
	ring = ((size_t)cf.max_message / HUB_FRAME + 2) * (HUB_FRAME + 16) + what / 8 * 64;
	for (unsigned i = 0; i < cf.routes; i++)
		if (cf.route[i].backend->ring)
			cf.route[i].hub.size =
				ring < base.route[i].hub.size ? ring : base.route[i].hub.size;
	directories = 1;
	used_socks = logged_ends = logged_strangers = logged_bugs = 0;
	clients_made = turns = spins = crumbs = current = current_backend = 0;
	accept_error = file_error = signal_waiting = phase = 0;
	backend_how = AT_ONCE;
	backend_budget = backend_cut = SIZE_MAX / 2;
	stopping = swept = paused = 0;
	clock_ms += 100000;
	now = clock_ms;
	accepted_before = count.accepted;
	bugs_before = count.bugs;
	loop();
	check_slots();
	check_clients(0);
	CHECK(clients == 0 && awakes == 0 && directories == 1);
	for (struct sock *s = socks; s < socks + used_socks; s++)
		CHECK(!s->ours && !s->watched);
	CHECK(count.bugs == bugs_before && logged_bugs == 0);
	CHECK(logged_ends == count.accepted - accepted_before + logged_strangers);
	return 0;
}
