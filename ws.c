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
 * - After our Close the only frame that still matters is the client's.  A failure (1002, 1007, 1009)
 *   does not wait for it: what follows could not be trusted.
 */
#include "ws.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
	ENTRY = 8,        /* before each frame in a ring: length and sender, 4 bytes each */
	WORTH = 512,      /* less room than this waits for more, rather than cut a message small */
	STREAM_HEADER = 4 /* 5.2: of a frame with up to 65535 bytes */
};

/* Frames (5.2). */

int
ws_frame(const unsigned char *b, size_t n, struct frame *f)
{
	size_t len, size;
	uint64_t length = 0;

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
	size = len < 126 ? 0 : len == 126 ? 2 : 8;
	if (size == 8 && n > 2 && b[2] > 127) /* 5.2: the most significant bit must be 0 */
		return -1002;
	if (n < 2 + size)
		return 0;
	for (size_t i = 0; i < size; i++)
		length = length << 8 | b[2 + i];
	if ((size == 2 && length < 126) || (size == 8 && length < 65536)) /* 5.2: minimal */
		return -1002;
	f->length = size == 0 ? len : length;
	if (n < 2 + size + 4)
		return 0;
	memcpy(f->mask, b + 2 + size, 4);
	return (int)(2 + size + 4);
}

size_t
ws_header(unsigned char *b, int fin, int opcode, uint64_t length)
{
	size_t size = length < 126 ? 0 : length < 65536 ? 2 : 8;

	b[0] = (unsigned char)((fin ? 128 : 0) | opcode);
	b[1] = (unsigned char)(size == 0 ? length : size == 2 ? 126 : 127);
	for (size_t i = 0; i < size; i++)
		b[2 + i] = (unsigned char)(length >> (8 * (size - 1 - i)));
	return 2 + size;
}

int
ws_utf8(uint8_t *state, const unsigned char *p, size_t n)
{
	/* what the next byte may be, and the state after it; the states 4 to 7 exclude overlong forms,
	 * surrogates and what lies above U+10FFFF (RFC 3629 4) */
	static const unsigned char next[8][3] = {
		{ 0, 0, 0 },
		{ 0x80, 0xbf, 0 },
		{ 0x80, 0xbf, 1 },
		{ 0x80, 0xbf, 2 },
		{ 0xa0, 0xbf, 1 },
		{ 0x80, 0x9f, 1 },
		{ 0x90, 0xbf, 2 },
		{ 0x80, 0x8f, 2 },
	};
	uint8_t s = *state;

	for (size_t i = 0; i < n; i++) {
		unsigned char ch = p[i];
		uint64_t eight;

		if (s != 0) {
			if (ch < next[s][0] || ch > next[s][1])
				return 0;
			s = next[s][2];
		} else if (ch >= 128) {
			if (ch < 0xc2 || ch > 0xf4)
				return 0;
			s = ch < 0xe0    ? 1
			    : ch == 0xe0 ? 4
			    : ch == 0xed ? 5
			    : ch < 0xf0  ? 2
			    : ch == 0xf0 ? 6
			    : ch < 0xf4  ? 3
					 : 7;
		} else {
			for (; i + 9 <= n; i += 8) { /* runs of ASCII */
				memcpy(&eight, p + i + 1, 8);
				if ((eight & 0x8080808080808080) != 0)
					break;
			}
		}
	}
	*state = s;
	return 1;
}

void
ws_unmask(unsigned char *p, size_t n, uint32_t *mask)
{
	unsigned char key[4], turned[4];
	uint64_t wide = (uint64_t)*mask << 32 | *mask, eight;
	size_t i = 0;

	memcpy(key, mask, 4);
	for (; i + 8 <= n; i += 8) {
		memcpy(&eight, p + i, 8);
		eight ^= wide;
		memcpy(p + i, &eight, 8);
	}
	for (; i < n; i++)
		p[i] ^= key[i & 3];
	for (size_t k = 0; k < 4; k++)
		turned[k] = key[(n + k) & 3];
	memcpy(mask, turned, 4);
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

/* Fails the connection (7.1.7): after a Close of ours, too, nothing more is read. */
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
	size_t room, h;
	unsigned char *q = tls_room(c, &room);

	if (q == NULL || room < 2 + n) {
		c->full = 1;
		return 0;
	}
	h = ws_header(q, 1, opcode, n);
	if (n > 0)
		memcpy(q + h, p, n);
	tls_put(c, h + n);
	count.frames_out++;
	return 1;
}

/* Our Close, or the answer to the client's; 1005 stands for none and is never sent (7.4.1). */
static int
send_close(struct conn *c)
{
	unsigned char payload[CONTROL_MAX] = { (unsigned char)(c->closing >> 8),
		(unsigned char)c->closing };
	size_t n = c->got_close ? 0 : strnlen(c->why, sizeof payload - 2);

	memcpy(payload + 2, c->why, n);
	c->sent_close = (uint8_t)send_control(c, CLOSE, payload, c->closing == 1005 ? 0 : 2 + n);
	return c->sent_close;
}

void
ws_ping(struct conn *c)
{
	c->pinged = c->closing == 0 && send_control(c, PING, NULL, 0);
}

/* 7.4: what an endpoint may send; 1012 to 1014 are in IANA's registry */
static int
valid_code(int code)
{
	return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
	       (code >= 3000 && code <= 4999);
}

static enum step
take_close(struct conn *c, const unsigned char *p, size_t n)
{
	uint8_t utf8 = 0;
	int code = n < 2 ? 1005 : p[0] << 8 | p[1];

	if (n == 1 || (n > 1 && !valid_code(code)))
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

/* A header was read: what it may be at this place. */
static enum step
begin_frame(struct conn *c, const struct frame *f)
{
	count.frames_in++;
	c->in_frame = 1;
	c->opcode = f->opcode;
	c->fin = f->fin;
	c->left = f->length;
	c->clear = 0;
	memcpy(&c->mask, f->mask, 4);
	c->stashed = 0;
	if (f->opcode >= CLOSE)
		return MORE;
	if ((f->opcode == CONTINUATION) != (c->message != 0)) /* 5.4 */
		return fail(c, 1002,
			c->message != 0 ? "new message inside a message"
					: "continuation of no message");
	if (f->opcode != CONTINUATION) {
		c->message = f->opcode;
		c->utf8 = 0;
	}
	if (c->route->backend->whole && f->length > (uint64_t)cf.max_message - c->text)
		return fail(c, 1009, "message above max-message");
	return MORE;
}

static enum step
read_header(struct conn *c, const unsigned char *p, size_t n)
{
	unsigned char *stash = c->io + IO_STASH;
	struct frame f;
	size_t had = c->stashed, k = FRAME_MAX - had;
	int len;

	if (k > n)
		k = n;
	if (had > 0) { /* the header was cut by the end of a record */
		memcpy(stash + had, p, k);
		len = ws_frame(stash, had + k, &f);
	} else {
		len = ws_frame(p, n, &f);
	}
	if (len > 0) {
		tls_eat(c, (size_t)len - had);
		return begin_frame(c, &f);
	}
	if (len < 0)
		return fail(c, -len, "malformed frame header");
	memcpy(stash + had, p, k);
	c->stashed = (uint8_t)(had + k);
	tls_eat(c, k);
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
	if (n > c->left)
		n = (size_t)c->left;
	if (n > 0) {
		ws_unmask(p, n, &c->mask);
		memcpy(stash + c->stashed, p, n);
		c->stashed = (uint8_t)(c->stashed + n);
		c->left -= n;
		tls_eat(c, n);
	}
	if (c->left > 0)
		return MORE;
	len = c->stashed;
	c->stashed = 0;
	c->in_frame = 0;
	if (c->opcode == CLOSE)
		return take_close(c, stash, len);
	if (c->opcode == PING && c->closing == 0)
		send_control(c, PONG, stash, len);
	return MORE;
}

static enum step
data_payload(struct conn *c, unsigned char *p, size_t n)
{
	int last;
	ssize_t used;

	if (n > c->left)
		n = (size_t)c->left;
	if (n > c->clear) {
		ws_unmask(p + c->clear, n - c->clear, &c->mask);
		if (c->message == TEXT && !ws_utf8(&c->utf8, p + c->clear, n - c->clear))
			return fail(c, 1007, "text is not UTF-8");
		c->clear = (uint32_t)n;
	}
	last = c->fin && n == c->left;
	if (last && c->message == TEXT && c->utf8 != 0)
		return fail(c, 1007, "text ends inside a character");
	if (c->closing != 0 && c->bfd < 0)
		used = (ssize_t)n; /* after our Close: 1.4 */
	else
		used = c->route->backend->input(c, p, n, last);
	if (used < 0)
		return WAIT;
	tls_eat(c, (size_t)used);
	c->left -= (uint64_t)used;
	c->clear -= (uint32_t)used;
	if (c->left == 0) {
		c->in_frame = 0;
		if (c->fin)
			c->message = 0;
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
	return c->opcode >= CLOSE ? control_payload(c, p, n) : data_payload(c, p, n);
}

enum step
ws_step(struct conn *c)
{
	enum step in = WAIT, out = WAIT;

	if (c->got_close && c->closing == 0 && (c->bfd < 0 || c->beof || now >= c->deadline)) {
		c->closing = c->status; /* all that the backend had to say was said */
		c->deadline = now + cf.timeout;
	}
	if (c->closing == 0) {
		out = c->route->backend->output(c);
	} else {
		if (!c->sent_close && !send_close(c))
			return WAIT;
		if (c->got_close || c->deaf) {
			ws_leave(c);
			c->bye = 1;
			return MORE;
		}
	}
	if (!c->got_close && !c->deaf)
		in = read_frame(c);
	return in == MORE || out == MORE ? MORE : WAIT;
}

int
ws_idle(const struct conn *c)
{
	return c->closing == 0 && !c->got_close && !c->in_frame && c->stashed == 0 &&
	       c->text == 0 && !c->bfull && !c->bready &&
	       (c->route->hub.size == 0 || c->cursor == c->route->hub.head);
}

void
ws_leave(struct conn *c)
{
	if (c->route != NULL)
		c->route->backend->close(c, (c->got_close && !c->deaf) || c->beof);
	if (c->bfd >= 0)
		close(c->bfd);
	c->bfd = -1;
}

/*
 * Backends.  To add one: write the functions that struct backend in ws.h names and add the table to
 * backends[] below.  `input` gets payload as it arrives, unmasked, in the receive window, and takes
 * what it can pass on at once; `output` is called whenever there may be room and puts whole frames
 * into the send window.  Neither may wait.  A descriptor goes into c->bfd: it is polled for input
 * while there is room for the client (c->bready says that it came) and for output while c->bfull.
 */

static enum step
nothing(struct conn *c)
{
	(void)c;
	return WAIT;
}

static enum step
connected(struct conn *c)
{
	(void)c;
	return MORE;
}

static const char *
no_address(struct route *r, char *text)
{
	(void)r;
	return *text == '\0' ? NULL : "takes no address";
}

static void
leave_nothing(struct conn *c, int clean)
{
	(void)c;
	(void)clean;
}

/* echo: window to window. */

static ssize_t
echo_input(struct conn *c, const unsigned char *p, size_t n, int last)
{
	size_t room, h;
	unsigned char *q = tls_room(c, &room);

	if (q == NULL || (room < n + STREAM_HEADER && room < WORTH)) {
		c->full = 1;
		return -1;
	}
	if (n == 0 && !last)
		return 0;
	if (n > room - STREAM_HEADER) {
		n = room - STREAM_HEADER;
		last = 0;
	}
	h = ws_header(q, last, c->sending ? CONTINUATION : c->message, n);
	if (n > 0)
		memcpy(q + h, p, n);
	tls_put(c, h + n);
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
	size_t from = (size_t)at & (h->size - 1), k = h->size - from;

	if (k > n)
		k = n;
	memcpy(h->ring + from, p, k);
	memcpy(h->ring, (const unsigned char *)p + k, n - k);
}

static void
ring_out(const struct hub *h, uint64_t at, void *p, size_t n)
{
	size_t from = (size_t)at & (h->size - 1), k = h->size - from;

	if (k > n)
		k = n;
	memcpy(p, h->ring + from, k);
	memcpy((unsigned char *)p + k, h->ring, n - k);
}

static void
post(struct hub *h, uint32_t sender, const unsigned char *header, size_t header_len,
	const unsigned char *p, size_t n)
{
	uint32_t entry[2] = { (uint32_t)(header_len + n), sender }, oldest[2];

	while (h->head + ENTRY + entry[0] - h->tail > h->size) {
		ring_out(h, h->tail, oldest, ENTRY);
		h->tail += ENTRY + oldest[0];
	}
	ring_in(h, h->head, entry, ENTRY);
	ring_in(h, h->head + ENTRY, header, header_len);
	ring_in(h, h->head + ENTRY + header_len, p, n);
	h->head += ENTRY + entry[0];
	h->posted = 1;
}

static void
publish(struct conn *c, const unsigned char *p, size_t n)
{
	unsigned char header[STREAM_HEADER];
	int opcode = c->message;
	size_t k, h;

	do {
		k = n < HUB_FRAME - STREAM_HEADER ? n : HUB_FRAME - STREAM_HEADER;
		h = ws_header(header, k == n, opcode, k);
		post(&c->route->hub, c->id, header, h, p, k);
		opcode = CONTINUATION;
		p += k;
		n -= k;
	} while (n > 0);
}

static ssize_t
hub_input(struct conn *c, const unsigned char *p, size_t n, int last)
{
	if (c->text == 0 && last) {
		publish(c, p, n);
		return (ssize_t)n;
	}
	if (n > 0)
		memcpy(c->io + IO_TEXT + c->text, p, n);
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

	while (c->cursor != h->head) {
		size_t room;
		unsigned char *q;

		if (c->cursor < h->tail) {
			ws_close(c, 1013, "subscriber lags behind the ring");
			return MORE;
		}
		ring_out(h, c->cursor, entry, ENTRY);
		if (entry[1] != c->id) {
			q = tls_room(c, &room);
			if (q == NULL || room < entry[0]) {
				c->full = 1;
				return moved;
			}
			ring_out(h, c->cursor + ENTRY, q, entry[0]);
			tls_put(c, entry[0]);
			count.frames_out++;
			moved = MORE;
		}
		c->cursor += ENTRY + entry[0];
	}
	return moved;
}

/*
 * Counts the messages in the ring; *start is where the one behind the first `skip` begins.  The
 * oldest entries may be the rest of a message that is gone.
 */
static uint64_t
hub_count(const struct hub *h, uint64_t skip, uint64_t *start)
{
	unsigned char entry[ENTRY + 1];
	uint64_t messages = 0, at = h->tail;
	uint32_t len;

	*start = h->head;
	for (; at != h->head; at += ENTRY + len) {
		ring_out(h, at, entry, sizeof entry);
		memcpy(&len, entry, sizeof len);
		if ((entry[ENTRY] & 15) != CONTINUATION && messages++ == skip)
			*start = at;
	}
	return messages;
}

static enum step
hub_open(struct conn *c)
{
	struct hub *h = &c->route->hub;

	uint64_t messages;

	c->cursor = h->head;
	if (h->last > 0) {
		messages = hub_count(h, 0, &c->cursor);
		if (messages > h->last)
			hub_count(h, messages - h->last, &c->cursor);
	}
	c->hub_next = h->subs;
	if (h->subs != NULL)
		h->subs->hub_prev = c;
	h->subs = c;
	return MORE;
}

static void
hub_close(struct conn *c, int clean)
{
	struct hub *h = &c->route->hub;

	(void)clean;
	if (h->subs == c)
		h->subs = c->hub_next;
	else if (c->hub_prev != NULL)
		c->hub_prev->hub_next = c->hub_next;
	if (c->hub_next != NULL)
		c->hub_next->hub_prev = c->hub_prev;
	c->hub_next = c->hub_prev = NULL;
}

/*
 * tcp and unix: payload bytes to and from a stream socket, binary frames.  Only a clean end looks
 * clean: the client's Close is passed on as the end of input, the backend's end as Close 1000; a
 * client that vanishes resets the backend's connection, an error there is Close 1011.
 */

static const char *
tcp_address(struct route *r, char *text)
{
	return parse_address(text, &r->addr, &r->addr_len);
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
	r->addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
	return NULL;
}

/* connect(2) again tells how the first one went; a Unix socket's full backlog is tried each second. */
static enum step
stream_open(struct conn *c)
{
	const struct route *r = c->route;

	if (c->bfd < 0)
		c->bfd = socket(r->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->bfd < 0)
		return dead(c, "no descriptor left for the backend");
	if (connect(c->bfd, (const struct sockaddr *)&r->addr, r->addr_len) == 0 ||
		errno == EISCONN) {
		c->bfull = 0;
		return MORE;
	}
	c->bfull = errno == EINPROGRESS || errno == EALREADY;
	if (c->bfull || errno == EAGAIN || errno == EINTR)
		return WAIT;
	return dead(c, strerror(errno));
}

static void
stream_close(struct conn *c, int clean)
{
	static const struct linger reset = { 1, 0 };

	if (!clean && c->bfd >= 0)
		setsockopt(c->bfd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

static void
stream_lost(struct conn *c, const char *why)
{
	stream_close(c, 0);
	close(c->bfd);
	c->bfd = -1;
	ws_close(c, 1011, why);
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
	do
		w = write(c->bfd, p, n);
	while (w < 0 && errno == EINTR);
	if (w < 0 && errno != EAGAIN) {
		if (c->closing != 0)
			ws_leave(c); /* it had ended already, and now does not listen either */
		else
			stream_lost(c, "backend lost");
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
	n = read(c->bfd, q + STREAM_HEADER, room - STREAM_HEADER);
	c->bready = n == (ssize_t)(room - STREAM_HEADER);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return WAIT;
	if (n < 0) {
		stream_lost(c, "backend lost");
		return MORE;
	}
	if (n == 0) {
		c->beof = 1;
		if (!c->got_close)
			ws_close(c, 1000, "backend ended");
		return MORE;
	}
	if (n < 126) /* the minimal header is shorter */
		memmove(q + 2, q + STREAM_HEADER, (size_t)n);
	tls_put(c, ws_header(q, 1, BINARY, (uint64_t)n) + (size_t)n);
	count.frames_out++;
	return MORE;
}

static void
stream_finish(struct conn *c)
{
	if (c->bfd >= 0)
		shutdown(c->bfd, SHUT_WR);
}

static const struct backend backends[] = {
	{
		.name = "echo",
		.address = no_address,
		.open = connected,
		.input = echo_input,
		.output = nothing,
		.close = leave_nothing,
	},
	{
		.name = "hub",
		.address = no_address,
		.open = hub_open,
		.input = hub_input,
		.output = hub_output,
		.close = hub_close,
		.whole = 1,
	},
	{
		.name = "tcp",
		.address = tcp_address,
		.open = stream_open,
		.input = stream_input,
		.output = stream_output,
		.finish = stream_finish,
		.close = stream_close,
	},
	{
		.name = "unix",
		.address = unix_address,
		.open = stream_open,
		.input = stream_input,
		.output = stream_output,
		.finish = stream_finish,
		.close = stream_close,
	},
};

const struct backend *
ws_backend(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++)
		if (strlen(backends[i].name) == n && memcmp(backends[i].name, name, n) == 0)
			return &backends[i];
	return NULL;
}
