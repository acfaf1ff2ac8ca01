/*
 * wssd: a secure WebSocket endpoint.  This header is the map of the program: every struct, limit
 * and state, and every function that one file offers to another, in reading order.  No logic.
 *
 *   FREE -accept-> SHAKE -plaintext possible-> HEAD -> CONNECT -101-> OPEN -Close-> DRAIN -> FREE
 *        +- PROXY -^                             +- reply -> BODY -> HEAD (keep-alive) or DRAIN
 *   any state: deadline, alert, error -> conn_close(c, "why"): one log line, slot wiped
 *
 *           main.c              tls.c                    http.c / ws.c             backend
 *       +------------+   +------------------+   +---------------------+   +-----------------------+
 *  ---> | ppoll      |-->| tls_in  read->rec|-->| http_step head,route|-->| file   read -> window |
 *       | conn_step  |   | tls_peek/tls_eat |   | ws_step  unmask in  |   | echo   window->window |
 *       | deadlines  |   | tls_room/tls_put |<--|   place, frame out  |<--| hub    ring -> windows|
 *  <--- | log, close |<--| tls_out rec->write   +---------------------+   | stream fd <-> window  |
 *       +------------+   | tls_events       |      WAIT / MORE / DEAD     +-----------------------+
 *                        +------------------+
 *
 * main calls down; http and ws pull plaintext with peek/eat and push it with room/put; what they
 * have to say comes back as a return value or a field of struct conn.  The engine's windows are
 * the only buffers of the stream path.  Eat only what could be passed on: what is not eaten stays
 * in the engine, the engine asks for no input, the kernel's window closes, the sender slows down.
 * That one rule is the backpressure, and there is no queue that could overflow.
 */
#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define WSSD_VERSION "0.1"
#ifndef WSSD_BUILD /* what the Makefile found out about the build */
#define WSSD_BUILD "a build without the Makefile"
#endif

enum limit {
	HEAD_MAX = 8192,      /* a request head, its last CRLF included */
	FIELDS_MAX = 100,     /* header fields in it */
	REPLY_MAX = 1024,     /* any reply head or short reply of ours */
	RECORD_MAX = 16384,   /* plaintext of a TLS record (RFC 5246 6.2.1), and a window's size */
	TLS_IN = 16384 + 325, /* 325 = 5 header + 16 IV + 48 MAC + 256 padding */
	TLS_OUT = 16384 + 85, /* 85 = 5 header + 16 IV + 48 MAC + 16 padding */
	STAGE = 32768,        /* what one read(2) may bring */
	SHAKE_STEP = 512,  /* bytes that a handshake is fed a turn; some certificates have less */
	SHAKE_MAX = 16384, /* and in all: five certificates of RSA-4096 need about 8,000 */
	X509_ROOM = 4096,  /* the validation of a client certificate */
	PROXY_MAX = 2048,  /* a PROXY protocol head: 16, 36 of addresses, the rest in TLVs */
	BASIC_MAX = 256,   /* a credential of Basic, in base64 */
	CREDENTIALS_MAX = 1024,
	FRAME_MAX = 14,    /* a frame header (RFC 6455 5.2): 2 + 8 length + 4 masking key */
	CONTROL_MAX = 125, /* payload of a control frame (RFC 6455 5.5) */
	HUB_FRAME = 8192,  /* an entry's frame in a hub's ring */
	LISTENERS_MAX = 8,
	ROUTES_MAX = 32,
	NAMES_MAX = 16, /* --origin, --host, and what a route has of origin= and protocol= */
	PATH_SHOWN = 48 /* of a path in the log */
};
_Static_assert(HUB_FRAME <= RECORD_MAX && REPLY_MAX <= RECORD_MAX, "these fit in a window");

/*
 * A slot's part of the io arena; IO_TEXT has HEAD_MAX or cf.max_message bytes, if that is more.
 * 16768 and 16512 are TLS_IN and TLS_OUT, rounded up to multiples of 64.
 */
enum io {
	IO_X509 = 0,                    /* for the handshake, with client CAs */
	IO_STASH = IO_X509 + X509_ROOM, /* a cut header, a control frame's payload, a reason */
	IO_IN = IO_STASH + 192,         /* the engine's input buffer; in the stash's page */
	IO_OUT = IO_IN + 16768,         /* the engine's output buffer; the send window of ws:// */
	IO_STAGE = IO_OUT + 16512, /* bytes read and not yet fed; the receive window of ws:// */
	IO_TEXT = IO_STAGE + STAGE /* the request head; later a message that comes in pieces */
};
_Static_assert(IO_OUT - IO_IN >= TLS_IN && IO_STAGE - IO_OUT >= TLS_OUT, "buffers fit");
_Static_assert(IO_IN - IO_STASH >= FRAME_MAX + CONTROL_MAX, "a header and a payload fit");

enum state {
	FREE,    /* no descriptor, wiped */
	PROXY,   /* waiting for the PROXY protocol's head, if the listener has it */
	SHAKE,   /* TLS handshake */
	HEAD,    /* waiting for, or reading, a request head */
	CONNECT, /* the upgrade is granted as soon as the backend is connected */
	BODY,    /* a reply goes out, perhaps with a file */
	OPEN,    /* WebSocket data frames may go both ways */
	DRAIN    /* a Close was sent or received, or the last reply is in the window */
};

enum step {
	WAIT, /* no progress without an event; c->full tells whether room is what is missing */
	MORE, /* progress: call again */
	DEAD  /* close this connection, c->why says why */
};

enum opcode { CONTINUATION, TEXT, BINARY, CLOSE = 8, PING, PONG }; /* RFC 6455 11.8 */
enum { ERR = 3, WARNING = 4, INFO = 6, DEBUG = 7 }; /* syslog priorities; DEBUG with --verbose */

union address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
};

struct names {
	char *v[NAMES_MAX];
	unsigned n;
};

struct frame { /* a client's frame header (RFC 6455 5.2) */
	uint64_t length;
	uint32_t mask; /* in memory order */
	uint8_t fin, opcode;
};

struct conn;
struct route;

struct backend { /* a function that is NULL has nothing to do */
	const char *name;
	uint8_t whole; /* gets only whole messages, and takes all or nothing; max-message holds */
	uint8_t ring;  /* keeps them in the route's */
	sa_family_t family; /* AF_INET: "NAME:ADDRESS:PORT"; AF_UNIX: "NAME:FILE"; 0: "NAME" */
	/* Called until it does not return WAIT: MORE when connected, DEAD with c->why. */
	enum step (*open)(struct conn *c);
	/*
	 * Takes payload of the current message, n bytes at p; returns how many bytes it could pass
	 * on, or -1 when not even an empty end of message.  Sets what ends the wait when it took
	 * less than all: c->full, c->bfull, or c->bready and c->again.
	 */
	ssize_t (*input)(struct conn *c, const unsigned char *p, size_t n);
	/* Called when the send window may have room: fills it with what there is for the client. */
	void (*output)(struct conn *c);
};

struct route {
	char *path;
	const struct backend *backend;
	struct names protocols, origins;
	char *auth;                  /* file of credentials, or NULL */
	union address addr;          /* tcp, unix and seqpacket */
	int text;                    /* seqpacket: packets are text */
	long long ring;              /* bytes, as given; 0: by max-message */
	struct hub {                 /* a hub route's ring, see ws.c */
		unsigned char *ring; /* size bytes */
		size_t size;
		uint64_t head, tail; /* where the next entry goes; the oldest entry */
		int posted;          /* an entry came in this turn: main steps the subscribers */
	} hub;
};

struct listener {
	int fd, plain; /* plain: ws:// */
	union address addr;
	char *client_ca;     /* file, or NULL */
	union address proxy; /* whose heads count, by its first `bits` bits; AF_UNSPEC: none */
	long long bits;
};

struct conn {
	uint8_t state; /* enum state */
	/*
	 * The three lost wake-ups of a poll loop over an engine (each has its test):
	 * 1. plaintext left in the engine raises no event: whoever stops because its rounds ran
	 *    out, not for lack of progress, sets `again`, and the loop polls with timeout 0;
	 * 2. unflushed plaintext (a frame of this turn, a ping of the sweep) raises no event
	 *    either: engines are flushed where the poll interest is computed;
	 * 3. a slot that stopped for want of room sets `full`; when a write makes room, `again`
	 *    is set.
	 */
	uint8_t again, full;
	/*
	 * Poll said that there is input: of the client, of the backend.  The backend takes no more
	 * for now; it has ended; it has reset the connection, and what it said before comes first.
	 */
	uint8_t readable, bready, bfull, beof, breset;
	/*
	 * The proxy's own connection (LOCAL), such as a health check.  At rest.  Plain HTTP on a
	 * TLS port.  DRAIN: nothing more to say or to hear, tls_bye does
	 * the rest.
	 */
	uint8_t local, asleep, misplaced, bye;
	/*
	 * HTTP: the connection stays open after this reply; state of http_scan; the answer is to
	 * HEAD.
	 */
	uint8_t keep, scan, bodiless;
	/*
	 * A data frame is being read: its header was.  Opcode of the message being read, or 0.
	 * Echo: that message has begun to go out.
	 */
	uint8_t in_frame, message, sending;
	uint8_t utf8, stashed; /* state of ws_utf8; bytes in IO_STASH */
	uint8_t butf8, parted; /* the backend's; a part of its packet went out */
	/*
	 * Close frames.  A ping of ours is unanswered.  The client broke the protocol: nothing more
	 * is read.
	 */
	uint8_t got_close, sent_close, pinged, deaf;
	uint16_t closing, status; /* close code to send, or 0; HTTP status or close code to log */
	uint32_t clear;           /* bytes unmasked in the window */
	struct frame frame;       /* being read; length and mask are those of what is left of it */
	uint32_t text, text_high; /* bytes in IO_TEXT; the most that ever were */
	/* Serial number, modulo 2^32; place in the list of awake slots; in the poll array. */
	uint32_t id, spot, polled;
	int fd, bfd;                /* client; backend or file; -1: none */
	uint64_t moved;             /* bytes read and written since the arena was empty */
	uint64_t left, cursor;      /* of the file, in bytes; hub: the next entry, else 0 */
	unsigned long long in, out; /* plaintext bytes */
	/*
	 * Milliseconds of the monotonic clock: of accept(2); of the state's end; of the last byte
	 * from the client; of the last step, 0: the arena is empty; since when output waits for
	 * the client, 0: it does not.
	 */
	int64_t start, deadline, heard, stepped, stalled;
	union address addr; /* the client's */
	const struct listener *lis;
	struct route *route; /* of the upgrade; NULL before */
	struct tls *tls;
	unsigned char *io; /* this slot's part of the arena */
	const char *why;   /* reason of the end: a constant, or in the slot's own arena */
	char path[PATH_SHOWN];
	char cn[65]; /* the common name in the client's certificate (RFC 5280 A.1: at most 64) */
};

struct config { /* constant after the start */
	struct listener listener[LISTENERS_MAX];
	struct route route[ROUTES_MAX];
	unsigned listeners, routes;
	struct names origins, hosts;
	char *cert, *key, *client_ca, *root, *auth, *user, *chroot;
	char hostname[65]; /* accepted in Host: on ws:// */
	int root_fd;       /* O_PATH of root; -1: no files */
	long long max_clients, max_per_ip, max_message, timeout, ping; /* bytes, milliseconds */
	long long verbose, check, version, help, no_sandbox;
	int bank; /* 0 or 1: which of two is current, of all that a reload reads */
	int tls;  /* there is a wss:// listener */
};

struct counters {
	unsigned long long accepted, refused, denied, handshakes, resumed, requests, upgrades;
	unsigned long long frames_in, frames_out, bytes_in, bytes_out, bugs;
};

extern struct config cf;
extern struct counters count;
extern int64_t now; /* read once a turn */

/* main.c */

/* Writes one line to stderr, printf format; bytes that are not printable ASCII become ?. */
void log_line(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Reads a file of fewer than size - 1 bytes, none of them NUL, into text and terminates it.
 * Returns NULL or what is wrong with it.
 */
const char *read_file(const char *file, char *text, size_t size);

/* Where the bytes of an IPv4 or IPv6 address are; in any other union address, too. */
void *ip_of(const union address *a);

/* tls.c: the transport.  All take a slot that is not FREE. */

/* Bytes of a struct tls, which lives in the hot array beside the slots. */
extern const size_t tls_size;

/*
 * Loads certificate chain, key and client CAs (names in cf), if there is a wss:// listener, into
 * the spare bank, makes the template of all engines there and makes the bank current (cf.bank).
 * Returns NULL, or one sentence that says why not, and then everything is as it was.  No TLS
 * connection may be in PROXY or SHAKE.
 */
const char *tls_load(void);

/* Makes c->tls an engine, or the plain twin, for a client just accepted.  0: no entropy. */
int tls_open(struct conn *c);

/*
 * Takes the head of the PROXY protocol, version 2, and the client's address from it.  MORE: it is
 * there, WAIT: not yet.
 */
enum step tls_proxy(struct conn *c);

/*
 * Moves input: reads c->fd once if c->readable and nothing is staged, and feeds the engine until
 * it holds plaintext.  MORE: something moved.  WAIT: nothing to move.
 */
enum step tls_in(struct conn *c);

/*
 * MORE once plaintext can pass; the handshake is counted then.  WAIT: c->again if there is input
 * that only the next turn feeds, so that others are served in between.
 */
enum step tls_ready(struct conn *c);

/*
 * The receive window: decrypted bytes not yet eaten, *n of them, writable in place; NULL and 0
 * when there are none.  tls_eat: the first n of them are used up.  The pointer holds until the
 * next tls_eat, tls_in or tls_bye.
 */
unsigned char *tls_peek(struct conn *c, size_t *n);
void tls_eat(struct conn *c, size_t n);

/*
 * The send window: *n bytes of room, at most RECORD_MAX; NULL and 0 while a record is on its way.
 * tls_put: the first n bytes of it are to be sent.
 */
unsigned char *tls_room(struct conn *c, size_t *n);
void tls_put(struct conn *c, size_t n);

/* Closes the record that is being filled and writes what can be written.  MORE: it wrote. */
enum step tls_out(struct conn *c);

/* What the client's descriptor is to be polled for: POLLIN, POLLOUT, both or 0. */
short tls_events(const struct conn *c);

/*
 * The end of a connection in order: pending output, close_notify (RFC 5246 7.2.1), shutdown(2),
 * then reads and drops what still comes until the peer's end, so that no reset overtakes the last
 * reply.  MORE once the close_notify is made, WAIT until the end, then DEAD.
 */
enum step tls_bye(struct conn *c);

/* True when the arena holds nothing of the connection: it is between records, nothing is staged. */
int tls_idle(struct conn *c);

/* Overwrites what the connection left in its engine and buffers. */
void tls_wipe(struct conn *c);

/* The cipher suite's name as OpenSSL writes it, "plain", or "-" while there is none. */
const char *tls_suite(const struct conn *c);

/* Returns DEAD, and sets c->why, which is known already once the end has begun. */
enum step dead(struct conn *c, const char *why);

/* http.c: requests (RFC 9110, 9112), the upgrade (RFC 6455 4.2), files. */

/* Fields that we know: those that may stand in a head once, and others. */
enum { CONTENT_LENGTH, HOST, ORIGIN, AUTHORIZATION, COOKIE, WS_KEY, WS_VERSION, ONCE };
enum { TRANSFER_ENCODING = ONCE, CONNECTION, UPGRADE, WS_PROTOCOL, IF_NONE_MATCH, UNKNOWN };

struct head {                    /* offsets into the head: [from, to); HEAD_MAX fits in them */
	uint8_t method, minor;   /* 0: GET, 1: HEAD, more: others; of HTTP/1.minor */
	uint8_t escaped;         /* the path had percent-encoded bytes */
	uint16_t host, host_end; /* of Host, or of the authority in absolute-form */
	uint16_t port;           /* where its port begins, with the colon; host_end: it has none */
	uint16_t path, path_end; /* percent-decoded in place and terminated; without the query */
	uint16_t basic;          /* where the base64 of Basic begins, if it was accepted; 0: no */
	unsigned fields;
	struct field {
		uint16_t name, name_end, value, value_end, known;
	} field[FIELDS_MAX], last[UNKNOWN + 1]; /* all; the last that is known as this, or zeros */
};

/*
 * Loads all files of credentials (names in cf) into the spare bank, which tls_load makes current.
 * Returns NULL, or one sentence that says what is wrong.
 */
const char *http_load(void);

/*
 * Looks for the end of a head in b[from, to), where what stands before from was scanned already
 * and *scan holds the state between calls (0 at first).  Returns the offset behind the empty
 * line, 0 when it is not there yet, or -400 for a byte that no head may have.  Pure.
 */
int http_scan(const unsigned char *b, size_t from, size_t to, uint8_t *scan);

/*
 * Parses the complete head b[0, n), n <= HEAD_MAX, decoding the path in place.  Returns 0 or the
 * status that refuses it: 400, 431, 501, 505.  Pure.
 */
int http_parse(unsigned char *b, size_t n, struct head *h);

/* Drives HEAD, CONNECT and BODY: one piece of head, one reply, or one window of a file a call. */
enum step http_step(struct conn *c);

/* ws.c: frames, messages, closing (RFC 6455 5 to 8); backends. */

/*
 * Decodes a client's frame header b[0, n).  Returns its length, 0 when it is incomplete, or the
 * negative close code (-1002) as soon as a byte of it is wrong.  Pure.
 */
int ws_frame(const unsigned char *b, size_t n, struct frame *f);

/* Writes the shortest header of a frame of ours, at most 4 bytes, to b; returns its length. */
size_t ws_header(unsigned char *b, int fin, int opcode, uint16_t length);

/* Feeds n bytes to the UTF-8 checker (RFC 3629).  *state is 0 between characters.  0: invalid. */
int ws_utf8(uint8_t *state, const unsigned char *p, size_t n);

/* XORs p[0, n) with the key *mask (RFC 6455 5.3) and rotates it, so that calls can follow. */
void ws_unmask(unsigned char *p, size_t n, uint32_t *mask);

/* All backends; the last, without a name, ends the list. */
extern const struct backend backends[];

/* Drives OPEN, and DRAIN until c->bye. */
enum step ws_step(struct conn *c);

/* Starts the closing handshake (RFC 6455 7.1.2) with this code and a reason, at most 123 bytes. */
void ws_close(struct conn *c, int code, const char *why);

/* Sends a ping if there is room; OPEN only. */
void ws_ping(struct conn *c);

/* OPEN only.  True when no frame, message or broadcast is under way for the client: it may rest. */
int ws_idle(const struct conn *c);

/* Leaves the backend or closes the file, if there is one. */
void ws_leave(struct conn *c);
