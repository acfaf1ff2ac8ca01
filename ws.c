/*
 * RFC 6455: frames, messages, UTF-8, closing; then the backends, one table of functions each.
 * This file owns what happens to a payload between the two windows and a backend's descriptor; it
 * never touches a client's descriptor, and knows nothing of TLS or HTTP.
 *
 * What always holds:
 * - ws_frame, ws_header, ws_utf8 and ws_unmask are pure.
 * - A payload byte is unmasked in the receive window, once: c->clear bytes at the window's start are
 *   done.  They are eaten when the backend took them, and stay in the window until then.
 * - What goes out is always a whole frame (a fragment where the message goes on), so that a Close or
 *   a Pong may follow at any time.
 * - A control frame is read only when its answer fits in the send window.
 * - Text is checked as it arrives: a wrong byte fails the connection even inside a frame.
 * - After our Close only the client's Close matters, and what a backend still takes.  A client that
 *   broke the protocol is not waited for: nothing that follows could be trusted.
 */
#include "ws.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
	ENTRY = 8,   /* before each frame in a ring: length and sender, 4 bytes each */
	WORTH = 512, /* with less room than this, wait for more rather than cut a message small */
	HEADER = 4   /* of a frame of ours, at most: none is longer than a window */
};

/* Frames (5.2). */

int
ws_frame(const unsigned char *b, size_t n, struct frame *f)
{
	size_t len, size;

	if (n < 1)
		return 0;
	f->fin = b[0] >> 7;
	f->opcode = b[0] & 15;
	if ((b[0] & 0x70) != 0 || (f->opcode > BINARY && f->opcode < CLOSE) || f->opcode > PONG ||
		(f->opcode >= CLOSE && !f->fin)) /* 5.2, 5.5 */
		return -1002;
	if (n < 2)
		return 0;
	len = b[1] & 127;
	if (b[1] < 128 || (f->opcode >= CLOSE && len > CONTROL_MAX)) /* 5.1, 5.5 */
		return -1002;
	size = len < 126 ? 2 : len == 126 ? 4 : 10;
	if (size == 10 && n > 2 && b[2] > 127) /* 5.2: the most significant bit must be 0 */
		return -1002;
	if (n < size)
		return 0;
	f->length = len < 126 ? len : 0;
	for (size_t i = 2; i < size; i++)
		f->length = f->length << 8 | b[i];
	if ((size == 4 && f->length < 126) || (size == 10 && f->length < 65536)) /* 5.2: minimal */
		return -1002;
	if (n < size + 4)
		return 0;
	memcpy(&f->mask, b + size, 4);
	return (int)size + 4;
}

size_t
ws_header(unsigned char *b, int fin, int opcode, uint16_t length)
{
	b[0] = (unsigned char)((fin ? 128 : 0) | opcode);
	b[1] = (unsigned char)(length < 126 ? length : 126);
	if (length < 126)
		return 2;
	b[2] = (unsigned char)(length >> 8);
	b[3] = (unsigned char)length;
	return HEADER;
}

int
ws_utf8(uint8_t *state, const unsigned char *p, size_t n)
{
	/* What the next byte may be, from and to, and the state behind it; 4 to 7 follow e0, ed, f0, f4
	 * and exclude overlong forms, surrogates and what lies above U+10FFFF (RFC 3629 4). */
	static const unsigned char next[8][3] = { { 0, 0, 0 }, { 0x80, 0xbf, 0 }, { 0x80, 0xbf, 1 },
		{ 0x80, 0xbf, 2 }, { 0xa0, 0xbf, 1 }, { 0x80, 0x9f, 1 }, { 0x90, 0xbf, 2 },
		{ 0x80, 0x8f, 2 } };
	static const unsigned char special[4] = { 0xe0, 0xed, 0xf0, 0xf4 };
	uint8_t s = *state;
	uint64_t eight;

	for (size_t i = 0; i < n; i++) {
		const unsigned char *at;

		while (s == 0 && i + 8 < n &&
			(memcpy(&eight, p + i, 8), eight & 0x8080808080808080) == 0)
			i += 8; /* runs of ASCII */
		if (s != 0) {
			if (p[i] < next[s][0] || p[i] > next[s][1])
				return 0;
			s = next[s][2];
		} else if (p[i] >= 128) {
			if (p[i] < 0xc2 || p[i] > 0xf4)
				return 0;
			at = memchr(special, p[i], sizeof special);
			s = at != NULL    ? (uint8_t)(4 + (at - special))
			    : p[i] < 0xe0 ? 1
			    : p[i] < 0xf0 ? 2
					  : 3;
		}
	}
	*state = s;
	return 1;
}

void
ws_unmask(unsigned char *p, size_t n, uint32_t *mask)
{
	unsigned char key[8];
	uint64_t wide = (uint64_t)*mask << 32 | *mask, eight;
	size_t i = 0;

	memcpy(key, &wide, 8);
	for (; i + 8 <= n; i += 8) {
		memcpy(&eight, p + i, 8);
		eight ^= wide;
		memcpy(p + i, &eight, 8);
	}
	for (; i < n; i++)
		p[i] ^= key[i & 3];
	memcpy(mask, key + (n & 3), 4);
}

/* Closing (7). */

void
ws_close(struct conn *c, int code, const char *why)
{
	if (c->closing != 0)
		return;
	c->closing = c->status = (uint16_t)code;
	c->why = why;
	c->state = DRAIN;
	c->deadline = now + cf.timeout;
}

/* Fails the connection (7.1.7): nothing more is read, even if a Close of ours went before. */
static enum step
fail(struct conn *c, int code, const char *why)
{
	ws_close(c, code, why);
	c->deaf = 1;
	return MORE;
}

static int
send_control(struct conn *c, int opcode, const void *p, size_t n)
{
	size_t room;
	unsigned char *q = tls_room(c, &room);

	if (q == NULL || room < 2 + n) {
		c->full = 1;
		return 0;
	}
	memcpy(q + ws_header(q, 1, opcode, (uint16_t)n), p, n);
	tls_put(c, 2 + n);
	count.frames_out++;
	return 1;
}

/* Our Close, or the answer to the client's; 1005 stands for no code and is never sent (7.4.1). */
static uint8_t
send_close(struct conn *c)
{
	unsigned char p[CONTROL_MAX] = { (unsigned char)(c->closing >> 8),
		(unsigned char)c->closing };
	size_t n = c->got_close ? 0 : strnlen(c->why, CONTROL_MAX - 2);

	memcpy(p + 2, c->why, n);
	return (uint8_t)send_control(c, CLOSE, p, c->closing == 1005 ? 0 : 2 + n);
}

void
ws_ping(struct conn *c)
{
	c->pinged = c->closing == 0 && send_control(c, PING, "", 0);
}

static enum step
take_close(struct conn *c, const unsigned char *p, size_t n)
{
	uint8_t utf8 = 0;
	int code = n < 2 ? 1005 : p[0] << 8 | p[1];

	/* 7.4: what an endpoint may send; 1012 to 1014 are in IANA's registry */
	if (n == 1 ||
		(n > 1 && !((code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
				  (code >= 3000 && code <= 4999))))
		return fail(c, 1002, "bad close code");
	if (n > 2 && (!ws_utf8(&utf8, p + 2, n - 2) || utf8 != 0))
		return fail(c, 1007, "close reason is not UTF-8");
	c->got_close = 1;
	if (c->closing != 0)
		return MORE;
	c->state = DRAIN;
	c->status = (uint16_t)code;
	c->why = "client closed";
	c->deadline = now + cf.timeout;
	if (c->route->backend->finish != NULL)
		c->route->backend->finish(c);
	return MORE;
}

/* Messages (5.4 to 5.6). */

static enum step
read_header(struct conn *c, const unsigned char *p, size_t n)
{
	unsigned char *stash = c->io + IO_STASH; /* since a record may end inside the header */
	struct frame f;
	size_t had = c->stashed, k = n < FRAME_MAX - had ? n : FRAME_MAX - had;
	int len;

	memcpy(stash + had, p, k);
	len = ws_frame(stash, had + k, &f);
	if (len < 0)
		return fail(c, -len, "malformed frame header");
	tls_eat(c, len > 0 ? (size_t)len - had : k);
	c->stashed = (uint8_t)(len > 0 ? 0 : had + k);
	if (len == 0)
		return MORE;
	count.frames_in++;
	c->in_frame = 1;
	c->opcode = f.opcode;
	c->fin = f.fin;
	c->left = f.length;
	c->mask = f.mask;
	c->clear = 0;
	if (f.opcode >= CLOSE)
		return MORE;
	if ((f.opcode == CONTINUATION) != (c->message != 0)) /* 5.4 */
		return fail(c, 1002,
			c->message != 0 ? "message inside a message" : "continues nothing");
	if (f.opcode != CONTINUATION)
		c->message = f.opcode;
	if (c->route->backend->whole && f.length > (uint64_t)cf.max_message - c->text)
		return fail(c, 1009, "message above max-message");
	return MORE;
}

/* 5.5: gathers the payload in the stash, answers when it is whole. */
static enum step
control_payload(struct conn *c, unsigned char *p, size_t n)
{
	unsigned char *stash = c->io + IO_STASH;
	size_t room, len;

	if (tls_room(c, &room) == NULL || room < 2 + CONTROL_MAX) {
		c->full = 1;
		return WAIT;
	}
	ws_unmask(p, n, &c->mask);
	memcpy(stash + c->stashed, p, n);
	tls_eat(c, n);
	c->stashed = (uint8_t)(c->stashed + n);
	c->left -= n;
	if (c->left > 0)
		return MORE;
	len = c->stashed;
	c->stashed = c->in_frame = 0;
	if (c->opcode == PING && c->closing == 0)
		send_control(c, PONG, stash, len);
	return c->opcode == CLOSE ? take_close(c, stash, len) : MORE;
}

static enum step
data_payload(struct conn *c, unsigned char *p, size_t n)
{
	int last = c->fin && n == c->left;
	ssize_t used = (ssize_t)n;

	if (n > c->clear) {
		ws_unmask(p + c->clear, n - c->clear, &c->mask);
		if (c->message == TEXT && !ws_utf8(&c->utf8, p + c->clear, n - c->clear))
			return fail(c, 1007, "text is not UTF-8");
		c->clear = (uint32_t)n;
	}
	if (last && c->utf8 != 0)
		return fail(c, 1007, "text ends inside a character");
	if (c->closing == 0 || c->bfd >= 0) /* 1.4: after our Close it matters to nobody else */
		used = c->route->backend->input(c, p, n, last);
	if (used < 0)
		return WAIT;
	tls_eat(c, (size_t)used);
	c->left -= (uint64_t)used;
	c->clear -= (uint32_t)used;
	if (c->left == 0) {
		c->in_frame = 0;
		c->message = c->fin ? 0 : c->message;
	}
	return MORE;
}

static enum step
read_frame(struct conn *c)
{
	size_t n;
	unsigned char *p = tls_peek(c, &n);

	if (p == NULL && (!c->in_frame || c->left > 0))
		return WAIT;
	if (!c->in_frame)
		return read_header(c, p, n);
	if (p == NULL)
		p = c->io + IO_STASH; /* an empty payload */
	if (n > c->left)
		n = (size_t)c->left;
	return c->opcode >= CLOSE ? control_payload(c, p, n) : data_payload(c, p, n);
}

enum step
ws_step(struct conn *c)
{
	const struct backend *backend = c->route->backend;
	enum step in = WAIT, out = WAIT;

	if (c->got_close && c->closing == 0 && (c->bfd < 0 || c->beof || now >= c->deadline)) {
		c->closing = c->status; /* the backend has said all that it had to say */
		c->deadline = now + cf.timeout;
	}
	if (c->closing == 0 && backend->output != NULL)
		out = backend->output(c);
	if (c->closing != 0) {
		if (!c->sent_close && !(c->sent_close = send_close(c)))
			return WAIT;
		if (c->got_close || c->deaf) {
			ws_leave(c);
			c->bye = 1;
			return MORE;
		}
	}
	if (!c->got_close)
		in = read_frame(c);
	return in == MORE ? MORE : out;
}

int
ws_idle(const struct conn *c)
{
	return c->closing == 0 && !c->got_close && !c->in_frame && c->stashed == 0 &&
	       c->text == 0 && !c->bfull && !c->bready && c->cursor == c->route->hub.head;
}

void
ws_leave(struct conn *c)
{
	if (c->route != NULL && c->route->backend->close != NULL)
		c->route->backend->close(c, (c->got_close && !c->deaf) || c->beof);
	if (c->bfd >= 0)
		close(c->bfd);
	c->bfd = -1;
}

/*
 * Backends.  To add one: write the functions that struct backend in ws.h names and add them to
 * backends[] below.  `input` gets payload as it arrives, unmasked, in the receive window, and takes
 * what it can pass on at once; `output` is called whenever there may be room and puts whole frames
 * into the send window.  Neither may wait.  A descriptor goes into c->bfd: it is polled for input
 * until c->bready says that there is some, and for output while c->bfull.
 *
 * echo: window to window.
 */

static ssize_t
echo_input(struct conn *c, const unsigned char *p, size_t n, int last)
{
	size_t room;
	unsigned char *q = tls_room(c, &room);

	if (q == NULL || (room < n + HEADER && room < WORTH)) {
		c->full = 1;
		return -1;
	}
	if (n == 0 && !last)
		return 0;
	if (n > room - HEADER) {
		n = room - HEADER;
		last = 0;
	}
	room = ws_header(q, last, c->sending ? CONTINUATION : c->message, (uint16_t)n);
	memcpy(q + room, p, n);
	tls_put(c, room + n);
	c->sending = !last;
	count.frames_out++;
	return (ssize_t)n;
}

/*
 * hub: one ring for each route, of server frames as they go out, the same bytes for everyone.  An
 * entry is its length and sender, then one frame of at most HUB_FRAME bytes; a longer message is
 * several fragments, put in at once.  Positions count up for ever, the ring's size is a power of
 * two.  A subscriber is a cursor: its copy is made when its window has room, so that a backlog costs
 * nothing for each subscriber and nobody waits for anybody; a cursor that the tail has overtaken
 * ends with 1013, between two frames, since only whole frames are ever copied.
 */

static void
ring_in(struct hub *h, uint64_t at, const void *p, size_t n)
{
	size_t from = (size_t)at & (h->size - 1), k = n < h->size - from ? n : h->size - from;

	memcpy(h->ring + from, p, k);
	memcpy(h->ring, (const unsigned char *)p + k, n - k);
}

static void
ring_out(const struct hub *h, uint64_t at, void *p, size_t n)
{
	size_t from = (size_t)at & (h->size - 1), k = n < h->size - from ? n : h->size - from;

	memcpy(p, h->ring + from, k);
	memcpy((unsigned char *)p + k, h->ring, n - k);
}

static void
publish(struct conn *c, const unsigned char *p, size_t n)
{
	struct hub *h = &c->route->hub;
	unsigned char header[HEADER];
	int opcode = c->message;
	uint32_t oldest[2], entry[2] = { 0, c->id };
	size_t k, len;

	do {
		k = n < HUB_FRAME - HEADER ? n : HUB_FRAME - HEADER;
		len = ws_header(header, k == n, opcode, (uint16_t)k);
		entry[0] = (uint32_t)(len + k);
		while (h->head + ENTRY + entry[0] - h->tail > h->size) {
			ring_out(h, h->tail, oldest, ENTRY);
			h->tail += ENTRY + oldest[0];
		}
		ring_in(h, h->head, entry, ENTRY);
		ring_in(h, h->head + ENTRY, header, len);
		ring_in(h, h->head + ENTRY + len, p, k);
		h->head += ENTRY + entry[0];
		opcode = CONTINUATION;
		p += k;
		n -= k;
	} while (n > 0);
	h->posted = 1;
}

static ssize_t
hub_input(struct conn *c, const unsigned char *p, size_t n, int last)
{
	if (c->text == 0 && last) {
		publish(c, p, n);
		return (ssize_t)n;
	}
	memcpy(c->io + IO_TEXT + c->text, p, n); /* it comes in pieces */
	c->text += (uint32_t)n;
	if (c->text_high < c->text)
		c->text_high = c->text;
	if (last) {
		publish(c, c->io + IO_TEXT, c->text);
		c->text = 0;
	}
	return (ssize_t)n;
}

static enum step
hub_output(struct conn *c)
{
	struct hub *h = &c->route->hub;
	enum step moved = WAIT;
	uint32_t entry[2];

	for (; c->cursor != h->head; c->cursor += ENTRY + entry[0]) {
		size_t room;
		unsigned char *q = tls_room(c, &room);

		if (c->cursor < h->tail) {
			ws_close(c, 1013, "subscriber lags behind the ring");
			return MORE;
		}
		ring_out(h, c->cursor, entry, ENTRY);
		if (entry[1] == c->id)
			continue;
		if (q == NULL || room < entry[0]) {
			c->full = 1;
			break;
		}
		ring_out(h, c->cursor + ENTRY, q, entry[0]);
		tls_put(c, entry[0]);
		count.frames_out++;
		moved = MORE;
	}
	return moved;
}

static enum step
hub_open(struct conn *c)
{
	struct hub *h = &c->route->hub;

	c->cursor = h->head;
	c->next = h->subs;
	if (h->subs != NULL)
		h->subs->prev = c;
	h->subs = c;
	return MORE;
}

static void
hub_close(struct conn *c, int clean)
{
	struct hub *h = &c->route->hub;

	(void)clean;
	if (h->subs == c)
		h->subs = c->next;
	else if (c->prev != NULL)
		c->prev->next = c->next;
	if (c->next != NULL)
		c->next->prev = c->prev;
	c->next = c->prev = NULL;
}

/*
 * tcp and unix: payload bytes to and from a stream socket, binary frames.  Only a clean end looks
 * clean: the client's Close is passed on as the end of input, the backend's end as Close 1000; a
 * client that vanishes resets the backend's connection, an error there is Close 1011.
 */

static const char *
tcp_address(struct route *r, char *text)
{
	union address *a = (union address *)&r->addr;
	const char *wrong = parse_address(text, a, &r->addr_len);

	return wrong == NULL && a->in.sin_port == 0 ? "needs a port" : wrong;
}

static const char *
unix_address(struct route *r, char *text)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&r->addr;
	size_t n = strlen(text);

	if (n == 0 || n >= sizeof un->sun_path)
		return "needs a path of at most 107 bytes";
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, text, n + 1);
	r->addr_len = sizeof *un;
	return NULL;
}

/* connect(2) again tells how the first one went; a Unix socket's full backlog is tried each second. */
static enum step
stream_open(struct conn *c)
{
	const struct route *r = c->route;

	if (c->bfd < 0)
		c->bfd = socket(r->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	c->bfull = 0;
	if (connect(c->bfd, (const struct sockaddr *)&r->addr, r->addr_len) == 0 ||
		errno == EISCONN)
		return MORE;
	c->bfull = errno == EINPROGRESS || errno == EALREADY;
	return c->bfull || errno == EAGAIN || errno == EINTR ? WAIT : dead(c, strerror(errno));
}

static void
stream_close(struct conn *c, int clean)
{
	static const struct linger reset = { 1, 0 };

	if (!clean && c->bfd >= 0)
		setsockopt(c->bfd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

static void
stream_lost(struct conn *c)
{
	stream_close(c, 0);
	close(c->bfd);
	c->bfd = -1;
	ws_close(c, 1011, "backend lost");
}

static ssize_t
stream_input(struct conn *c, const unsigned char *p, size_t n, int last)
{
	ssize_t w;

	(void)last;
	if (n == 0 || c->bfd < 0)
		return (ssize_t)n;
	if (c->bfull)
		return -1;
	w = write(c->bfd, p, n);
	if (w < 0 && errno != EAGAIN && errno != EINTR) {
		stream_lost(
			c); /* or ended before, if our Close went out, and now does not listen either */
		return (ssize_t)n;
	}
	c->bfull = w < (ssize_t)n;
	return w;
}

static enum step
stream_output(struct conn *c)
{
	size_t room;
	ssize_t n;
	unsigned char *q = tls_room(c, &room);

	if (c->bfd < 0 || c->beof || !c->bready)
		return WAIT;
	if (q == NULL || room < WORTH) {
		c->full = 1;
		return WAIT;
	}
	n = read(c->bfd, q + HEADER, room - HEADER);
	c->bready = n == (ssize_t)(room - HEADER);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return WAIT;
	if (n < 0) {
		stream_lost(c);
	} else if (n == 0) {
		c->beof = 1;
		if (!c->got_close)
			ws_close(c, 1000, "backend ended");
	} else {
		if (n < 126)
			memmove(q + 2, q + HEADER, (size_t)n);
		tls_put(c, ws_header(q, 1, BINARY, (uint16_t)n) + (size_t)n);
		count.frames_out++;
	}
	return MORE;
}

static void
stream_finish(struct conn *c)
{
	if (c->bfd >= 0)
		shutdown(c->bfd, SHUT_WR);
}

static const struct backend backends[] = { { .name = "echo", .input = echo_input },
	{ .name = "hub",
		.whole = 1,
		.open = hub_open,
		.input = hub_input,
		.output = hub_output,
		.close = hub_close },
	{ .name = "tcp",
		.address = tcp_address,
		.open = stream_open,
		.input = stream_input,
		.output = stream_output,
		.finish = stream_finish,
		.close = stream_close },
	{ .name = "unix",
		.address = unix_address,
		.open = stream_open,
		.input = stream_input,
		.output = stream_output,
		.finish = stream_finish,
		.close = stream_close } };

const struct backend *
ws_backend(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++)
		if (strlen(backends[i].name) == n && memcmp(backends[i].name, name, n) == 0)
			return &backends[i];
	return NULL;
}
