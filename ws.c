/*
 * RFC 6455: frames, messages, UTF-8, closing; then the backends, one table of functions each.
 * This file owns what happens to a payload between the two windows and a backend's descriptor; it
 * never touches a client's descriptor, and knows nothing of TLS or HTTP.
 *
 * What always holds:
 * - ws_frame, ws_header, ws_utf8 and ws_unmask are pure.
 * - A payload byte is unmasked in the receive window, once: c->clear bytes at the window's start
 *   are done.  They are eaten when the backend took them, and stay in the window until then.
 * - What goes out is always a whole frame (a fragment where the message goes on), so that a Close
 *   or a Pong may follow at any time.
 * - A control frame is read only when its answer fits in the send window.
 * - Text is checked as it arrives: a wrong byte fails the connection even inside a frame.
 * - After our Close only the client's Close matters, and what a backend still takes.  A client that
 *   broke the protocol is not waited for: nothing that follows could be trusted.
 */
#include "ws.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

enum {
	WORTH = 512, /* with less room than this, wait for more rather than cut a message small */
	HEADER = 4   /* of a frame of ours, at most: none is longer than a window */
};
_Static_assert((int)WORTH > (int)CONTROL_MAX, "a control frame is never cut");

/* Frames (5.2). */

int
ws_frame(const unsigned char *b, size_t n, struct frame *f)
{
	unsigned first = n > 0 ? b[0] : 128, second = n > 1 ? b[1] : 128, form = second & 127;
	size_t size = form < 126 ? 2 : form == 126 ? 4 : 10;
	uint64_t least = size == 2 ? 0 : size == 4 ? 126 : 65536;

	f->fin = first > 127;
	f->opcode = first & 15;
	f->length = size == 2 ? form : 0;
	for (size_t i = 2; i < size && i < n; i++)
		f->length = f->length << 8 | b[i];
	if ((first & 0x70) != 0 || (f->opcode & 7) > BINARY || second < 128 || /* 5.2, 5.1 */
		(f->opcode >= CLOSE && (!f->fin || form > CONTROL_MAX)) ||     /* 5.5 */
		(size == 10 && n > 2 && b[2] > 127) || /* 5.2: the most significant bit must be 0 */
		(n >= size && f->length < least))      /* 5.2: the shortest form */
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

/*
 * The state is the first byte of a character while its second one is awaited; then the number of
 * bytes still to come, of which nothing more is asked than that they continue it.  The limits of
 * the second byte exclude overlong forms (e0, f0), surrogates (ed), and what lies above U+10FFFF
 * (f4).
 */
int
ws_utf8(uint8_t *state, const unsigned char *p, size_t n)
{
	uint8_t s = *state, low, high;
	uint64_t eight;

	for (size_t i = 0;; i++) {
		for (; s == 0 && i + 8 <= n; i += 8) { /* ASCII, eight at a time */
			memcpy(&eight, p + i, 8);
			if ((eight & 0x8080808080808080) != 0)
				break;
		}
		if (i >= n)
			break;
		if (s == 0 && p[i] < 0x80)
			continue;
		low = s == 0 ? 0xc2 : s == 0xe0 ? 0xa0 : s == 0xf0 ? 0x90 : 0x80;
		high = s == 0 ? 0xf4 : s == 0xed ? 0x9f : s == 0xf4 ? 0x8f : 0xbf;
		if (p[i] < low || p[i] > high)
			return 0;
		s = s == 0 ? p[i] : s >= 0xf0 ? 2 : s >= 0xe0 || s == 2;
	}
	*state = s;
	return 1;
}

void
ws_unmask(unsigned char *p, size_t n, uint32_t *mask)
{
	uint64_t wide = (uint64_t)*mask << 32 | *mask, two[2];
	const unsigned char *key = (const unsigned char *)&wide;
	size_t i = 0;

	for (; i + 16 <= n; i += 16) {
		memcpy(two, p + i, 16);
		two[0] ^= wide;
		two[1] ^= wide;
		memcpy(p + i, two, 16);
	}
	for (; i < n; i++)
		p[i] ^= key[i & 3];
	memcpy(mask, key + (n & 3), 4);
}

/* Output. */

/*
 * The send window, if a frame with `least` bytes of payload fits; *room is what its payload can
 * have at most, behind the longest header.  NULL and c->full if there is less.
 */
static unsigned char *
window(struct conn *c, size_t least, size_t *room)
{
	unsigned char *q = tls_room(c, room);
	int fits = *room >= HEADER + least;

	c->full |= !fits;
	*room -= fits ? HEADER : 0;
	return fits ? q : NULL;
}

/*
 * Puts a frame with as much of p[0, n) as the send window takes, not final if that is not all, and
 * returns how much; -1 and c->full when it is not worth a frame.  p may lie in the window.
 */
static ssize_t
put_frame(struct conn *c, int fin, int opcode, const void *p, size_t n)
{
	size_t room;
	unsigned char *q = window(c, n < WORTH ? n : WORTH, &room);

	if (q == NULL)
		return -1;
	fin = fin && n <= room;
	n = n <= room ? n : room;
	room = ws_header(q, fin, opcode, (uint16_t)n);
	memmove(q + room, p, n);
	tls_put(c, room + n);
	count.frames_out++;
	return (ssize_t)n;
}

void
ws_ping(struct conn *c)
{
	c->pinged = put_frame(c, 1, PING, "", 0) == 0;
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

/* Our Close, or the answer to the client's; 1005 stands for no code and is never sent (7.4.1). */
static int
send_close(struct conn *c)
{
	unsigned char p[CONTROL_MAX] = { (uint8_t)(c->closing >> 8), (uint8_t)c->closing };
	size_t n = c->got_close ? 0 : strnlen(c->why, CONTROL_MAX - 2);

	memcpy(p + 2, c->why, n);
	return c->sent_close = put_frame(c, 1, CLOSE, p, c->closing == 1005 ? 0 : 2 + n) >= 0;
}

static enum step
take_close(struct conn *c, const unsigned char *p, size_t n)
{
	uint8_t utf8 = 0;
	int code = n > 1 ? p[0] << 8 | p[1] : n == 1 ? 0 : 1005, ours = c->closing != 0;

	/* 7.4: what an endpoint may send; 1012 to 1014 are in IANA's registry */
	if (n > 0 && (code < 1000 || (code > 1003 && code < 1007) || (code > 1014 && code < 3000) ||
			     code > 4999))
		return fail(c, 1002, "bad close code");
	if (n > 2 && (!ws_utf8(&utf8, p + 2, n - 2) || utf8 != 0))
		return fail(c, 1007, "close reason is not UTF-8");
	c->got_close = 1;
	ws_close(c, code, "client closed");
	if (!ours && c->bfd >= 0) {
		shutdown(c->bfd, SHUT_WR);
		c->closing = 0; /* not before the backend has said all that it has to say */
	}
	return MORE;
}

/* Messages (5.4 to 5.6). */

/*
 * A record may end anywhere: the header of a data frame, and a control frame as a whole, are
 * gathered in the stash and taken when they are complete.  Without room for the answer all of this
 * is done once more, from what is still in the window.
 */
static enum step
read_header(struct conn *c, const unsigned char *p, size_t n)
{
	unsigned char *stash = c->io + IO_STASH;
	struct frame *f = &c->frame;
	size_t had = c->stashed, most = FRAME_MAX + CONTROL_MAX - had, whole, room;
	int len;

	n = n < most ? n : most;
	memcpy(stash + had, p, n);
	len = ws_frame(stash, had + n, f);
	if (len < 0)
		return fail(c, -len, "malformed frame header");
	whole = (size_t)len + (f->opcode >= CLOSE ? (size_t)f->length : 0);
	if (len == 0 || had + n < whole) {
		tls_eat(c, n);
		c->stashed = (uint8_t)(had + n);
		return MORE;
	}
	if (f->opcode >= CLOSE && window(c, CONTROL_MAX, &room) == NULL)
		return WAIT;
	tls_eat(c, whole - had);
	c->stashed = 0;
	count.frames_in++;
	if (f->opcode >= CLOSE) { /* 5.5 */
		ws_unmask(stash + len, (size_t)f->length, &f->mask);
		if (f->opcode == PING && c->closing == 0)
			put_frame(c, 1, PONG, stash + len, (size_t)f->length);
		return f->opcode == CLOSE ? take_close(c, stash + len, (size_t)f->length) : MORE;
	}
	if ((f->opcode == CONTINUATION) != (c->message != 0)) /* 5.4 */
		return fail(c, 1002, c->message ? "message inside a message" : "continues nothing");
	if (c->route->backend->whole && f->length > (uint64_t)cf.max_message - c->text)
		return fail(c, 1009, "message above max-message");
	c->message |= f->opcode; /* one of the two is CONTINUATION, 0 */
	c->in_frame = 1;
	return MORE;
}

static enum step
read_payload(struct conn *c, unsigned char *p, size_t n)
{
	const struct backend *backend = c->route->backend;
	struct frame *f = &c->frame;
	int last = f->fin && n >= f->length;
	size_t had = c->text;
	ssize_t used;

	n = n < f->length ? n : (size_t)f->length;
	used = (ssize_t)n;
	if (n > c->clear) {
		ws_unmask(p + c->clear, n - c->clear, &f->mask);
		if (c->message == TEXT && !ws_utf8(&c->utf8, p + c->clear, n - c->clear))
			return fail(c, 1007, "text is not UTF-8");
		c->clear = (uint32_t)n;
	}
	if (last && c->utf8 != 0)
		return fail(c, 1007, "text ends inside a character");
	/* 1.4: after our Close it matters to nobody but a backend that still listens */
	if (c->closing == 0 || c->bfd >= 0) {
		if (backend->whole && (had > 0 || !last)) {
			memcpy(c->io + IO_TEXT + had, p, n);
			c->text_high = c->text_high < had + n ? (uint32_t)(had + n) : c->text_high;
			p = c->io + IO_TEXT;
		}
		if (last || !backend->whole)
			used = backend->input(c, p, had + n) - (ssize_t)had;
		if (used < 0)
			return WAIT;
		c->text = backend->whole && !last ? (uint32_t)(had + n) : 0;
	}
	tls_eat(c, (size_t)used);
	c->clear -= (uint32_t)used;
	f->length -= (uint64_t)used;
	c->in_frame = f->length > 0;
	if (last && !c->in_frame)
		c->message = 0;
	return MORE;
}

enum step
ws_step(struct conn *c)
{
	size_t n;
	unsigned char *p;

	if (c->closing == 0 && c->route->backend->output != NULL)
		c->route->backend->output(c);
	if (c->got_close && (c->beof || now >= c->deadline))
		ws_close(c, c->status, c->why); /* the backend has had its time */
	if (c->closing != 0 && !c->sent_close && !send_close(c))
		return WAIT;
	if (c->sent_close && (c->got_close || c->deaf)) {
		ws_leave(c);
		c->bye = 1;
		return MORE;
	}
	p = tls_peek(c, &n);
	if (p == NULL && c->in_frame && c->frame.length == 0)
		p = c->io + IO_STASH; /* an empty payload */
	if (p == NULL || c->got_close)
		return WAIT;
	return c->in_frame ? read_payload(c, p, n) : read_header(c, p, n);
}

int
ws_idle(const struct conn *c)
{
	return !c->in_frame && c->stashed == 0 && c->text == 0 && !c->bfull && !c->bready &&
	       c->cursor == c->route->hub.head;
}

/*
 * The end looks clean to a backend only if the client's was, or if the backend ended first; else it
 * gets a reset.
 */
void
ws_leave(struct conn *c)
{
	static const struct linger reset = { 1, 0 };
	int clean = c->route == NULL || c->beof || c->got_close;

	if (c->bfd >= 0 && !clean)
		setsockopt(c->bfd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	if (c->bfd >= 0)
		close(c->bfd);
	c->bfd = -1;
}

/*
 * Backends.  To add one: write the functions that struct backend in ws.h names and add them to
 * backends[] below.  `input` gets payload as it arrives, unmasked, in the receive window, and
 * takes what it can pass on at once; if it is `whole`, it gets messages, perhaps in IO_TEXT, and
 * takes all or nothing.  `output` is called whenever there may be room and puts whole frames into
 * the send window.  Neither may wait.  A descriptor, always a socket, goes into c->bfd: it is
 * polled for input until c->bready says that there is some, and for output while c->bfull, told
 * when the client's Close came, and closed when the connection ends.
 *
 * echo: window to window.
 */

static ssize_t
echo_input(struct conn *c, const unsigned char *p, size_t n)
{
	int last = c->frame.fin && n == c->frame.length;
	ssize_t used = put_frame(c, last, c->sending ? CONTINUATION : c->message, p, n);

	if (used >= 0)
		c->sending = !last || (size_t)used < n;
	return used;
}

/*
 * hub: one ring for each route.  An entry describes a frame and has its payload behind it, at most
 * HUB_FRAME bytes together; a longer message is several fragments, put in at once.  Positions count
 * up for ever; the last HUB_FRAME bytes of the ring belong to no position: an entry that begins
 * just before them runs over into them, so that none is in two pieces.  A subscriber is a cursor:
 * its copy is made when its window has room, so that a backlog costs nothing for each subscriber
 * and nobody waits for anybody; a cursor that the tail has overtaken ends with 1013, between two
 * frames, since only whole frames are ever copied.
 */

struct entry {
	uint32_t sender; /* its id, which no other of the last 2^32 connections has */
	uint16_t n;
	uint8_t fin, opcode;
};

static unsigned char *
ring_at(const struct hub *h, uint64_t position)
{
	return h->ring + position % (h->size - HUB_FRAME);
}

static ssize_t
hub_input(struct conn *c, const unsigned char *p, size_t n)
{
	struct hub *h = &c->route->hub;
	struct entry e = { .sender = c->id, .opcode = c->message }, oldest;
	size_t from = 0, left;

	do {
		left = n - from;
		e.n = (uint16_t)(left < HUB_FRAME - sizeof e ? left : HUB_FRAME - sizeof e);
		e.fin = e.n == left;
		while (h->head + sizeof e + e.n - h->tail > h->size - HUB_FRAME) {
			memcpy(&oldest, ring_at(h, h->tail), sizeof oldest);
			h->tail += sizeof oldest + oldest.n;
		}
		memcpy(ring_at(h, h->head), &e, sizeof e);
		memcpy(ring_at(h, h->head) + sizeof e, p + from, e.n);
		h->head += sizeof e + e.n;
		e.opcode = CONTINUATION;
		from += e.n;
	} while (from < n);
	h->posted = 1;
	return (ssize_t)n;
}

static void
hub_output(struct conn *c)
{
	struct hub *h = &c->route->hub;
	struct entry e;
	size_t room;

	if (c->cursor < h->tail)
		ws_close(c, 1013, "subscriber lags behind the ring");
	for (; c->closing == 0 && c->cursor != h->head; c->cursor += sizeof e + e.n) {
		memcpy(&e, ring_at(h, c->cursor), sizeof e);
		if (e.sender == c->id)
			continue;
		if (window(c, e.n, &room) == NULL)
			return;
		put_frame(c, e.fin, e.opcode, ring_at(h, c->cursor) + sizeof e, e.n);
	}
}

/*
 * tcp and unix: payload bytes to and from a stream socket, binary frames.  seqpacket: a message is
 * a packet, either way; an empty one is refused, since the backend would take it for the end.
 * Only a clean end looks clean: the client's Close is passed on as the end of input, the backend's
 * end as Close 1000; a client that vanishes resets the backend's connection, an error there is
 * Close 1011.
 */

/*
 * connect(2) again tells how the first went; a Unix socket's full backlog is tried each second.
 * Nothing may wait for an acknowledgement in the kernel: a reset, if the client vanishes, would
 * throw it away.
 */
static enum step
stream_open(struct conn *c)
{
	static const int on = 1, start = 0;
	const struct route *r = c->route;
	int type = r->backend->whole ? SOCK_SEQPACKET : SOCK_STREAM;

	if (c->bfd < 0)
		c->bfd = socket(r->addr.sa.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->bfd < 0 || (type == SOCK_SEQPACKET && setsockopt(c->bfd, SOL_SOCKET, SO_PEEK_OFF,
							     &start, sizeof start) != 0))
		return dead(c, strerror(errno));
	setsockopt(c->bfd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* a Unix socket refuses */
	/* of an IP address less would do */
	if (connect(c->bfd, &r->addr.sa, sizeof r->addr.un) == 0)
		return MORE;
	c->bfull = errno == EINPROGRESS || errno == EALREADY;
	return c->bfull || errno == EAGAIN || errno == EINTR ? WAIT : dead(c, strerror(errno));
}

/* n is what read(2) or write(2) returned.  True when the backend is lost, not only slow. */
static int
stream_lost(struct conn *c, ssize_t n)
{
	if (n >= 0 || errno == EAGAIN || errno == EINTR)
		return 0;
	if (errno == EMSGSIZE) {
		fail(c, 1009, "message above the limit of the backend's socket");
		return 1;
	}
	ws_leave(c);
	ws_close(c, 1011, "backend lost");
	return 1;
}

/*
 * A backend that closed with bytes of ours unread has reset, but what it sent before comes first,
 * here or (SOCK_SEQPACKET) after the error; then the error instead of the end.
 */
static ssize_t
stream_recv(struct conn *c, void *p, size_t size, int flags)
{
	ssize_t n = recv(c->bfd, p, size, flags);

	if (n < 0 && errno == ECONNRESET) {
		c->breset = 1;
		n = recv(c->bfd, p, size, flags);
	}
	if (n == 0 && c->breset) {
		errno = ECONNRESET;
		n = -1;
	}
	return n;
}

/*
 * A backend that does not listen any more may have ended: then what it still had to say goes first,
 * and its end decides.  After our Close a backend that is lost takes the rest as well.
 */
static ssize_t
stream_input(struct conn *c, const unsigned char *p, size_t n)
{
	int packets = c->route->backend->whole;
	ssize_t w;
	char byte;

	if (n == 0 && packets) {
		fail(c, 1003, "an empty message is no packet");
		return 0;
	}
	w = write(c->bfd, p, n);
	if (w < 0 && (errno == EPIPE || errno == ECONNRESET) && c->closing == 0) {
		c->breset |= errno == ECONNRESET;
		/* of a packet no byte: it would move what SO_PEEK_OFF counts */
		if (stream_recv(c, &byte, !packets, MSG_PEEK | (packets ? MSG_TRUNC : 0)) >= 0) {
			c->bfull = 0;
			c->again |= !c->bready; /* else it is room that is missing */
			c->bready = 1;
			return -1;
		}
		errno = EPIPE;
	}
	c->bfull = w < (ssize_t)n;
	return stream_lost(c, w) ? (ssize_t)n : w;
}

/*
 * Goes on until one of the two is missing that can wake the connection: input (bready) or room.  A
 * packet stays in the kernel until its last fragment is in the window: SO_PEEK_OFF tells where the
 * next one begins, MSG_TRUNC how much there is from there on.
 */
static void
stream_output(struct conn *c)
{
	int packets = c->route->backend->whole, opcode = c->route->text ? TEXT : BINARY, last;
	unsigned char *q, drop;
	size_t room;
	ssize_t n;

	while (c->bready && (q = window(c, WORTH, &room)) != NULL) {
		n = stream_recv(c, q + HEADER, room, packets ? MSG_PEEK | MSG_TRUNC : 0);
		last = n <= (ssize_t)room;
		c->bready = packets ? n > 0 : n == (ssize_t)room; /* else no more for now */
		c->beof = n == 0;
		c->moved += n > 0 ? (size_t)n : 0; /* even if it is not sent on */
		if (!stream_lost(c, n) && c->beof && !c->got_close)
			ws_close(c, 1000, "backend ended");
		if (packets && !c->parted && n > cf.max_message)
			ws_close(c, 1009, "packet above max-message");
		room = last ? (size_t)n : room;
		if (n > 0 && opcode == TEXT &&
			(!ws_utf8(&c->butf8, q + HEADER, room) || (last && c->butf8 != 0)))
			ws_close(c, 1011, "packet is not UTF-8");
		if (packets && n > 0 && (last || c->closing != 0))
			stream_recv(c, &drop, 1, 0);
		if (n <= 0 || c->closing != 0)
			return;
		put_frame(c, last, c->parted ? CONTINUATION : opcode, q + HEADER, room);
		c->parted = !last;
	}
}

const struct backend backends[] = {
	/* name, whole, ring, family, open, input, output */
	{ "echo", 0, 0, 0, NULL, echo_input, NULL },
	{ "hub", 1, 1, 0, NULL, hub_input, hub_output },
	{ "tcp", 0, 0, AF_INET, stream_open, stream_input, stream_output },
	{ "unix", 0, 0, AF_UNIX, stream_open, stream_input, stream_output },
	{ "seqpacket", 1, 0, AF_UNIX, stream_open, stream_input, stream_output },
	{ NULL, 0, 0, 0, NULL, NULL, NULL },
};
