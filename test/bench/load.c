/*
 * load: clients for a benchmark, and what their server's CPU time and memory were meanwhile.
 *
 *   load MODE --port P [OPTION]...      `load --help` names the modes and the options
 *
 * One thread, epoll, OpenSSL's libssl as the client that users have: TLS 1.2 with
 * ECDHE-ECDSA-AES128-GCM-SHA256 and X25519 and nothing else, so that every server does the same
 * work.  Certificates are not looked at, and Sec-WebSocket-Key is always that of RFC 6455 1.3: this
 * is for a benchmark on the loopback interface, and no example of how to be a client.
 *
 * What always holds:
 * - Every byte that comes back is compared with the one that is due, in order, on each connection:
 *   a wrong byte, another order, a byte too many, a message that is lost (nothing arrives for
 *   --patience seconds), or a refused connection is one sentence on stderr and exit status 1.
 * - The payload of message `seq` of client `number` is the same whenever it is asked for: a part of
 *   a pattern of random bytes that was made at start.  So nothing is kept for each message, what
 *   was sent in part is composed once more, and comparing is one memcmp(3).
 * - Frames are masked with a key each, that depends on random bits.
 * - A client writes its --inflight messages together, as many a TLS record as fit in 16 KiB, waits
 *   until all of them are back, and writes the next ones.  With --apart each has a record and a
 *   write(2) of its own, and the next one follows as soon as one is back.
 * - The measured part begins after the warm-up and when nothing is in flight, and ends in the same
 *   way, each time 5 ms later: the kernel counts the time of a process when that goes to sleep.
 * - CPU time is that of all threads and children of --pid, in ns, from their schedstat; threads
 *   that ended meanwhile are lost.  Memory is what smaps_rollup calls Rss, summed over the same
 *   processes.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

enum {
	PATTERN = 65536,   /* payloads begin at any byte of the pattern's first so many */
	RECORD = 16384,    /* of plaintext, and what is composed and written at once */
	ROOM = 65536,      /* what is read at once */
	HEAD_ROOM = 8192,  /* the head of an answer */
	TURN = 512,        /* events of a turn */
	PER_SOURCE = 1000, /* connections before the next address of 127.0.0.0/8 */
	STEPS = 128,       /* of a histogram, for each power of two */
	QUIET = 5          /* ms from the last answer until CPU time is read */
};

enum mode { ECHO, STREAM, BROADCAST, GET, HANDSHAKE, BURST, WAKE, MODES };

static const struct {
	const char *name, *help;
} modes[MODES] = {
	{ "echo", "each of --conns clients has --inflight messages under way, all come back" },
	{ "stream", "the same where frames may come back cut otherwise" },
	{ "broadcast", "one more client publishes, --inflight a record, all --conns get them" },
	{ "get", "GET of --path, keep-alive, on --conns clients" },
	{ "handshake", "connect, TLS, upgrade, Close, end; --conns at a time" },
	{ "burst", "all --idle clients send --inflight messages at once, and rest again" },
	{ "wake",
		"one idle client after the other, --messages of them, sends one; they rest again" },
};

static struct {
	enum mode mode;
	int plain, raw, pad, bare, resume, own, apart;
	const char *host, *path, *file;
	uint64_t port, pid, conns, size, inflight, messages, idle, shakes, echoes, warm;
	double seconds, settle, patience, before;
} opt = { .host = "127.0.0.1",
	.conns = 1,
	.size = 64,
	.inflight = 1,
	.shakes = 16,
	.settle = -1,
	.patience = 10,
	.before = 1,
	.warm = UINT64_MAX };

enum state {
	FREE,
	CONNECTING,
	SHAKING, /* TLS handshake */
	ASKING,  /* the upgrade's answer is due */
	OPEN,    /* messages, or answers to GET */
	CLOSING, /* the server's Close frame is due */
	ENDING   /* its end is */
};

enum role { BUSY, RESTING, SUBSCRIBER, PUBLISHER, SHAKER };

struct client {
	SSL *ssl; /* or NULL: plain */
	int fd;
	uint8_t state, role;
	uint8_t retry;                /* a part of what compose() said is already in a record */
	uint8_t fin, opcode, begun;   /* of the frame being read; its message has begun */
	uint8_t header[10], header_n; /* of a frame, as far as it came */
	uint8_t control[6 + 125], control_n; /* a control frame's payload; from it a pong */
	uint32_t number, key;                /* choose payloads and masking keys */
	uint32_t events;                     /* that epoll waits for */
	uint64_t sending, offset, due;       /* messages: going out, its frame's bytes gone; end */
	uint64_t coming, got;                /* message that is due, bytes of it that came */
	uint64_t left;                       /* bytes to come of the frame, or of the body */
	const unsigned char *text;           /* goes out before any frame: request, pong, Close */
	size_t text_n;
	unsigned char *head; /* an answer's head, as far as it came */
	size_t head_n;
	int64_t since; /* ns: the batch or the connection began */
};

struct histogram {
	uint64_t n, max, count[64 * STEPS];
};

/* What is under way: of messages, or of whole connections. */
struct work {
	uint64_t left;   /* may still be begun, */
	int64_t until;   /* before that time, if it is not 0 */
	uint64_t flying; /* begun and not back */
	uint64_t back;
	struct histogram delay;
};

static struct work messages, shakes;
static struct client *clients; /* conns, then idle ones, then those that echo beside handshakes */
static unsigned char *pattern, *body;
static size_t body_n;
static unsigned char request[2048];
static size_t request_n;
static uint64_t connecting, connected, opened, resumed;
static int64_t now, progress;
static int ep;
static SSL_CTX *ctx;
static SSL_SESSION *session;

/* Errors and time. */

static void fail(const struct client *c, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 2, 3)));

static void
fail(const struct client *c, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "load: ");
	if (c != NULL)
		fprintf(stderr, "client %lu: ", (unsigned long)(c - clients));
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	_exit(1); /* and no half of a result on stdout */
}

/* What went wrong in libssl, or in the system call that it made. */
static const char *
tls_error(int e)
{
	unsigned long error = ERR_peek_error();

	return error != 0 ? ERR_reason_error_string(error) : e != 0 ? strerror(e) : "it ended";
}

static int64_t
clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void
count_delay(struct histogram *h, uint64_t ns)
{
	unsigned power = 63 - (unsigned)__builtin_clzll(ns | STEPS);

	h->count[(power - 7) * STEPS + (ns >> (power - 7))]++; /* the highest bit adds STEPS */
	h->n++;
	if (ns > h->max)
		h->max = ns;
}

/* In us; the middle of the step in which the quantile lies. */
static double
quantile(const struct histogram *h, double q)
{
	uint64_t rank = (uint64_t)(q * (double)h->n), seen = 0;

	for (unsigned i = 0; i < 64 * STEPS; i++) {
		unsigned power = i / STEPS > 0 ? i / STEPS - 1 : 0;
		uint64_t low = i / STEPS > 0 ? (uint64_t)(STEPS + i % STEPS) << power : i;

		if ((seen += h->count[i]) > rank) {
			uint64_t middle = low + (1ULL << power) / 2;

			return (double)(middle < h->max ? middle : h->max) / 1000;
		}
	}
	return 0;
}

/* The server, seen from outside. */

/* Calls count() with the directory of each process, or thread, of a tree; returns the sum. */
static uint64_t
over_tree(int pid, int threads, uint64_t (*count)(const char *directory))
{
	char name[300];
	struct dirent *e;
	uint64_t sum = 0;
	DIR *d;

	snprintf(name, sizeof name, "/proc/%d/task", pid);
	if ((d = opendir(name)) == NULL)
		fail(NULL, "process %d: %s", pid, strerror(errno));
	while ((e = readdir(d)) != NULL) {
		FILE *f;
		int child;

		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof name, "/proc/%d/task/%.20s", pid, e->d_name);
		if (threads || atoi(e->d_name) == pid)
			sum += count(name);
		strcat(name, "/children");
		if ((f = fopen(name, "r")) == NULL)
			continue;
		while (fscanf(f, "%d", &child) == 1)
			sum += over_tree(child, threads, count);
		fclose(f);
	}
	closedir(d);
	return sum;
}

static uint64_t
thread_ns(const char *directory)
{
	unsigned long long ns = 0;
	char name[320];
	FILE *f;

	snprintf(name, sizeof name, "%s/schedstat", directory);
	if ((f = fopen(name, "r")) == NULL)
		return 0;
	if (fscanf(f, "%llu", &ns) != 1)
		fail(NULL, "%s tells nothing", name);
	fclose(f);
	return ns;
}

static uint64_t
process_rss(const char *directory)
{
	unsigned long long kb = 0;
	char name[320], line[200];
	FILE *f;

	snprintf(name, sizeof name, "%s/../../smaps_rollup", directory);
	if ((f = fopen(name, "r")) == NULL)
		return 0;
	while (fgets(line, sizeof line, f) != NULL && sscanf(line, "Rss: %llu", &kb) != 1)
		;
	fclose(f);
	return kb * 1024;
}

static uint64_t
cpu(void)
{
	return opt.pid > 0 ? over_tree((int)opt.pid, 1, thread_ns) : 0;
}

static uint64_t
rss(void)
{
	return opt.pid > 0 ? over_tree((int)opt.pid, 0, process_rss) : 0;
}

static uint64_t
own_cpu(void)
{
	return thread_ns("/proc/self");
}

/* What goes out. */

static const unsigned char *
payload(const struct client *c, uint64_t seq)
{
	return pattern + (c->number * 40503U + seq) % PATTERN;
}

static size_t
frame_header(unsigned char *p, unsigned opcode, uint64_t size)
{
	size_t n = 2;

	p[0] = (unsigned char)(0x80 | opcode);
	p[1] = (unsigned char)(0x80 | (size < 126 ? size : size < 65536 ? 126 : 127));
	for (int shift = size < 126 ? 0 : size < 65536 ? 16 : 64; shift > 0; shift -= 8)
		p[n++] = (unsigned char)(size >> (shift - 8));
	return n;
}

/* Masks n bytes whose first one is at `at` in its frame. */
static void
mask(unsigned char *to, const unsigned char *from, size_t n, const unsigned char *key, uint64_t at)
{
	unsigned char turned[8];
	uint64_t k, x;
	size_t i = 0;

	for (int j = 0; j < 8; j++)
		turned[j] = key[(at + (unsigned)j) % 4];
	memcpy(&k, turned, 8);
	for (; i + 8 <= n; i += 8) {
		memcpy(&x, from + i, 8);
		x ^= k;
		memcpy(to + i, &x, 8);
	}
	for (; i < n; i++)
		to[i] = from[i] ^ turned[i % 8];
}

/* The frame of a message up to its payload; with --raw there is none.  The key is its last 4. */
static size_t
message_header(const struct client *c, uint64_t seq, unsigned char *p)
{
	uint32_t key = (c->key ^ (uint32_t)seq) * 0x9e3779b1U;
	size_t n;

	if (opt.raw)
		return 0;
	n = frame_header(p, 2, opt.size);
	key ^= key >> 15;
	memcpy(p + n, &key, 4);
	return n + 4;
}

/* What follows c->offset bytes of message c->sending: at most to the batch's, or its own, end. */
static size_t
compose(const struct client *c, unsigned char *p, size_t room)
{
	uint64_t seq = c->sending, at = c->offset;
	unsigned char h[14];
	size_t n = 0, k;

	for (; seq < c->due && n < room && !(opt.apart && n > 0); seq++, at = 0) {
		size_t hn = message_header(c, seq, h);
		const unsigned char *key = h + hn - 4;

		if (at < hn) {
			k = hn - at < room - n ? hn - at : room - n;
			memcpy(p + n, h + at, k);
			n += k;
			at += k;
		}
		k = opt.size - (at - hn) < room - n ? opt.size - (at - hn) : room - n;
		if (opt.raw)
			memcpy(p + n, payload(c, seq) + at, k);
		else
			mask(p + n, payload(c, seq) + (at - hn), k, key, at - hn);
		n += k;
	}
	return n;
}

/* Writes; returns how much, 0 when nothing goes for now. */
static size_t
put(const struct client *c, const unsigned char *p, size_t n)
{
	size_t done = 0;

	if (c->ssl == NULL) {
		ssize_t w = write(c->fd, p, n);

		if (w < 0 && errno != EAGAIN && errno != EINTR)
			fail(c, "cannot write: %s", strerror(errno));
		return w < 0 ? 0 : (size_t)w;
	}
	if (!SSL_write_ex(c->ssl, p, n, &done) && SSL_get_error(c->ssl, 0) != SSL_ERROR_WANT_WRITE)
		fail(c, "cannot write: %s", tls_error(errno));
	return done;
}

static void
watch(struct client *c, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = c };

	if (c->events == events)
		return;
	if (epoll_ctl(ep, c->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &ev) != 0)
		fail(c, "epoll: %s", strerror(errno));
	c->events = events;
}

/* Writes what there is to say, until all is gone or nothing more goes. */
static void
flush(struct client *c)
{
	static unsigned char room[RECORD];
	uint64_t whole = opt.size;
	size_t n, w = 1;

	if (!opt.raw)
		whole += 4 + frame_header(room, 2, opt.size);
	while (w > 0) {
		int text = c->text_n > 0 && !c->retry && c->offset == 0;

		n = text ? c->text_n : compose(c, room, sizeof room);
		if (n == 0)
			break;
		w = put(c, text ? c->text : room, n);
		c->retry = w == 0 && !text;
		if (text) {
			c->text += w;
			c->text_n -= w;
		} else {
			c->offset += w;
			c->sending += c->offset / whole;
			c->offset %= whole;
		}
	}
	watch(c, EPOLLIN | (w == 0 ? EPOLLOUT : 0));
}

static void
say(struct client *c, const void *text, size_t n)
{
	c->text = text;
	c->text_n = n;
	flush(c);
}

/* Work. */

static int
may_begin(const struct work *w)
{
	return w->left > 0 && (w->until == 0 || now < w->until);
}

static void
begin(struct client *c)
{
	uint64_t n = opt.mode == GET ? 1 : opt.inflight - (c->due - c->coming);

	if (!may_begin(&messages))
		return;
	if (n > messages.left)
		n = messages.left;
	messages.left -= n;
	messages.flying += n;
	c->due += n;
	c->since = now;
	if (opt.mode == GET) {
		c->sending = c->due;
		say(c, request, request_n);
	} else {
		flush(c);
	}
}

static void
message_back(struct client *c)
{
	c->coming++;
	c->got = 0;
	messages.flying--;
	messages.back++;
	count_delay(&messages.delay, (uint64_t)(now - c->since));
	if (c->role == BUSY && (c->coming == c->due || opt.apart))
		begin(c);
}

/* What comes in.  Each of these takes some of n bytes at p, at least one, and returns how many. */

static void
wrong_bytes(const struct client *c, const unsigned char *p, size_t n)
{
	const unsigned char *due = payload(c, c->coming) + c->got;
	size_t i = 0;

	for (uint64_t seq = c->coming < 1000 ? 0 : c->coming - 1000; seq < c->due + 1000; seq++)
		if (c->got == 0 && n >= 8 && memcmp(p, payload(c, seq), n) == 0)
			fail(c, "message %" PRIu64 " came where message %" PRIu64 " was due", seq,
				c->coming);
	while (p[i] == due[i])
		i++;
	fail(c, "byte %" PRIu64 " of message %" PRIu64 " is %02x instead of %02x", c->got + i,
		c->coming, p[i], due[i]);
}

/* n > 0 bytes of payload, of one frame if there are frames. */
static size_t
take_payload(struct client *c, const unsigned char *p, size_t n)
{
	if (c->coming == c->due)
		fail(c, "%zu bytes too many behind message %" PRIu64, n, c->coming);
	if (n > opt.size - c->got)
		n = opt.size - c->got;
	if (memcmp(p, payload(c, c->coming) + c->got, n) != 0)
		wrong_bytes(c, p, n);
	c->got += n;
	progress = now;
	return n;
}

static void ended(struct client *c);

/* The end of this side; the other's is awaited. */
static void
say_end(struct client *c)
{
	c->state = ENDING;
	if (c->ssl != NULL && SSL_shutdown(c->ssl) < 0)
		ERR_clear_error(); /* it went first */
	shutdown(c->fd, SHUT_WR);
}

static void
control_frame(struct client *c)
{
	if (c->opcode == 9 && c->text_n == 0) { /* ping: a pong, masked with 0 */
		size_t n = c->control_n;

		memmove(c->control + 6, c->control, n);
		memset(c->control, 0, 6);
		frame_header(c->control, 10, n);
		say(c, c->control, 6 + n);
	} else if (c->opcode == 8) {
		if (c->state != CLOSING)
			fail(c, "closed by the server with %d, message %" PRIu64 " was due",
				c->control_n >= 2 ? c->control[0] << 8 | c->control[1] : 0,
				c->coming);
		say_end(c);
	}
	c->control_n = 0;
}

/* A frame's header is whole; returns 0 when it is not. */
static int
take_header(struct client *c)
{
	unsigned length = c->header_n > 1 ? c->header[1] : 0, more = length < 126 ? 0 : 2;
	const char *wrong = NULL;

	if (length == 127)
		more = 8;
	if (c->header_n < 2 + more)
		return 0;
	c->left = more == 0 ? length : 0;
	for (unsigned i = 0; i < more; i++)
		c->left = c->left << 8 | c->header[2 + i];
	c->fin = c->header[0] >> 7;
	c->opcode = c->header[0] & 15;
	c->header_n = 0;
	if ((c->header[0] & 0x70) != 0 || length > 127)
		wrong = "reserved or masked";
	else if (c->opcode >= 8 && (!c->fin || c->left > 125))
		wrong = "a long control frame";
	else if (c->opcode < 8 && c->opcode != (c->begun ? 0 : 2))
		wrong = "of a wrong type";
	else if (c->opcode < 8 && c->state != OPEN)
		wrong = "unasked for";
	if (wrong != NULL)
		fail(c, "message %" PRIu64 ": a frame which is %s (%02x %02x)", c->coming, wrong,
			c->header[0], c->header[1]);
	return 1;
}

/* The frame that has begun is whole. */
static void
frame_end(struct client *c)
{
	if (c->opcode >= 8) {
		control_frame(c);
	} else if (opt.mode == STREAM) {
		c->begun = !c->fin;
	} else {
		c->begun = !c->fin;
		if (c->fin && (c->coming == c->due || c->got != opt.size))
			fail(c, "message %" PRIu64 " has %" PRIu64 " bytes", c->coming, c->got);
		if (c->fin)
			message_back(c);
	}
	c->opcode = 0;
}

static size_t
take_frames(struct client *c, const unsigned char *p, size_t n)
{
	size_t done = 0;

	if (c->left == 0) { /* between frames */
		while (done < n && c->header_n < sizeof c->header) {
			c->header[c->header_n++] = p[done++];
			if (take_header(c)) {
				if (c->left == 0)
					frame_end(c);
				break;
			}
		}
		return done;
	}
	if (n > c->left)
		n = c->left;
	if (c->opcode >= 8) {
		if (c->text_n == 0) /* else a pong still goes out, and this one gets none */
			memcpy(c->control + c->control_n, p, n);
		c->control_n += (uint8_t)n;
		done = n;
	} else {
		if (opt.mode != STREAM && n > opt.size - c->got)
			fail(c, "message %" PRIu64 " is too long", c->coming);
		done = take_payload(c, p, n);
		if (opt.mode == STREAM && c->got == opt.size)
			message_back(c);
	}
	if ((c->left -= done) == 0)
		frame_end(c);
	return done;
}

/* Gathers an answer's head; returns how many bytes belong to it, and sets *end when it is whole. */
static size_t
take_head(struct client *c, const unsigned char *p, size_t n, char **end)
{
	size_t old = c->head_n;

	if (c->head == NULL && (c->head = malloc(HEAD_ROOM + 1)) == NULL)
		fail(c, "no memory");
	if (n > HEAD_ROOM - old)
		n = HEAD_ROOM - old;
	memcpy(c->head + old, p, n);
	c->head[c->head_n += n] = '\0';
	*end = strstr((char *)c->head, "\r\n\r\n");
	if (*end == NULL && c->head_n == HEAD_ROOM)
		fail(c, "the head of an answer is too long");
	if (*end != NULL)
		n = (size_t)(*end + 4 - (char *)c->head) - old;
	return n;
}

static void
wrong_head(struct client *c, const char *why)
{
	char *end = strchr((char *)c->head, '\r');

	fail(c, "%s: %.*s", why, (int)(end - (char *)c->head), (char *)c->head);
}

static size_t
take_body(struct client *c, const unsigned char *p, size_t n)
{
	char *end = NULL, *length;
	size_t done = 0;

	if (c->left == 0) {
		if (c->coming == c->due)
			fail(c, "%zu bytes behind the answer", n);
		done = take_head(c, p, n, &end);
		if (end == NULL)
			return done;
		length = strcasestr((char *)c->head, "\r\nContent-Length:");
		if (strncmp((char *)c->head, "HTTP/1.1 200 ", 13) != 0 || length == NULL)
			wrong_head(c, "not 200 with Content-Length");
		c->left = strtoull(length + 17, NULL, 10);
		if (c->left != (body != NULL ? body_n : opt.size))
			wrong_head(c, "another Content-Length than expected");
		c->head_n = 0;
	} else {
		done = n < c->left ? n : c->left;
		if (body != NULL && memcmp(p, body + c->got, done) != 0)
			fail(c, "the body is wrong between byte %" PRIu64 " and %" PRIu64, c->got,
				c->got + done);
		c->got += done;
		c->left -= done;
	}
	progress = now;
	if (c->left == 0)
		message_back(c);
	return done;
}

/* With --raw a shaker's request, and then eight bytes in the place of a Close frame, come back. */
static size_t
take_shaken(struct client *c, const unsigned char *p, size_t n)
{
	size_t all = c->state == ASKING ? request_n : 8;

	if (n > all - c->got || memcmp(p, request + c->got, n) != 0)
		fail(c, "not what was sent");
	c->got += n;
	if (c->got == all) {
		c->got = 0;
		if (c->state == ASKING)
			say(c, request, 8);
		if (c->state == CLOSING)
			say_end(c);
		else
			c->state = CLOSING;
	}
	return n;
}

static void
is_open(struct client *c)
{
	static const unsigned char bye[8] = { 0x88, 0x82, 1, 2, 3, 4, 3 ^ 1, 0xe8 ^ 2 };

	c->state = OPEN;
	c->got = 0;
	progress = now;
	if (c->role == SHAKER) {
		c->state = CLOSING;
		say(c, bye, sizeof bye);
		return;
	}
	connecting--;
	opened++;
	free(c->head);
	c->head = NULL;
}

static size_t
take_upgrade(struct client *c, const unsigned char *p, size_t n)
{
	char *end;
	size_t done = take_head(c, p, n, &end);

	if (end == NULL)
		return done;
	if (strncmp((char *)c->head, "HTTP/1.1 101 ", 13) != 0)
		wrong_head(c, "no upgrade");
	if (strstr((char *)c->head, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == NULL) /* RFC 6455 1.3 */
		wrong_head(c, "wrong Sec-WebSocket-Accept");
	c->head_n = 0;
	is_open(c);
	return done;
}

static size_t
take(struct client *c, const unsigned char *p, size_t n)
{
	if (opt.raw && c->role == SHAKER && c->state != ENDING)
		return take_shaken(c, p, n);
	if (c->state == ASKING)
		return take_upgrade(c, p, n);
	if (c->state == ENDING) /* whatever it still says */
		return n;
	if (opt.mode == GET)
		return take_body(c, p, n);
	if (!opt.raw)
		return take_frames(c, p, n);
	n = take_payload(c, p, n);
	if (c->got == opt.size)
		message_back(c);
	return n;
}

/* Reads; returns how much, 0 at the end, -1 when there is nothing for now. */
static ssize_t
get(const struct client *c, unsigned char *p, size_t n)
{
	ssize_t r;
	int e;

	if (c->ssl == NULL) {
		r = read(c->fd, p, n);
		if (r < 0 && (errno == EAGAIN || errno == EINTR))
			return -1;
		e = errno;
	} else {
		size_t done = 0;

		if (SSL_read_ex(c->ssl, p, n, &done))
			return (ssize_t)done;
		switch (SSL_get_error(c->ssl, 0)) {
		case SSL_ERROR_WANT_READ:
		case SSL_ERROR_WANT_WRITE:
			return -1;
		case SSL_ERROR_ZERO_RETURN:
			return 0;
		}
		r = -1;
		e = errno;
	}
	if (r < 0 && c->state == ENDING) {
		ERR_clear_error();
		return 0;
	}
	if (r < 0)
		fail(c, "cannot read: %s", tls_error(e));
	return r;
}

static void
receive(struct client *c)
{
	static unsigned char room[ROOM];
	ssize_t n;

	do {
		n = get(c, room, sizeof room);
		if (n < 0)
			return;
		now = clock_ns();
		if (n == 0 && c->state != ENDING)
			fail(c, "the server ended the connection, message %" PRIu64 " was due",
				c->coming);
		if (n == 0) {
			ended(c);
			return;
		}
		for (size_t at = 0; at < (size_t)n;)
			at += take(c, room + at, (size_t)n - at);
	} while (c->state != FREE && c->ssl != NULL && SSL_has_pending(c->ssl));
}

/* Connecting. */

static void
drop(struct client *c)
{
	if (c->ssl != NULL) {
		SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
		SSL_free(c->ssl);
	}
	close(c->fd);
	free(c->head);
	*c = (struct client){ .number = c->number, .key = c->key, .role = c->role, .fd = -1 };
}

static void
secure(struct client *c)
{
	long modes_wanted = SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER;

	if (c->role == RESTING || opt.mode == BURST || opt.mode == WAKE)
		modes_wanted |= SSL_MODE_RELEASE_BUFFERS;
	if ((c->ssl = SSL_new(ctx)) == NULL || !SSL_set_fd(c->ssl, c->fd))
		fail(c, "no TLS: %s", tls_error(0));
	SSL_set_mode(c->ssl, modes_wanted);
	if (c->role != RESTING && (opt.mode == GET ? body_n : opt.size) >= RECORD)
		SSL_set_default_read_buffer_len(c->ssl, ROOM);
	if (session != NULL && c->role == SHAKER)
		SSL_set_session(c->ssl, session);
	SSL_set_connect_state(c->ssl);
}

static void
open_client(struct client *c)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port) };
	struct sockaddr_in from = { .sin_family = AF_INET };
	int on = 1;

	if (inet_pton(AF_INET, opt.host, &to.sin_addr) != 1)
		fail(NULL, "%s is no IPv4 address", opt.host);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		fail(c, "no socket: %s", strerror(errno));
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (ntohl(to.sin_addr.s_addr) >> 24 == 127) {
		from.sin_addr.s_addr =
			htonl(INADDR_LOOPBACK + (uint32_t)(connected / PER_SOURCE % 200));
		setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
		if (bind(c->fd, (struct sockaddr *)&from, sizeof from) != 0)
			fail(c, "cannot bind: %s", strerror(errno));
	}
	c->state = CONNECTING;
	c->since = now = clock_ns();
	connected++;
	if (connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS)
		fail(c, "cannot connect: %s", strerror(errno));
	watch(c, EPOLLIN | EPOLLOUT);
}

/* TLS, if any, is there. */
static void
is_secure(struct client *c)
{
	EVP_PKEY *group = NULL;

	if (c->ssl != NULL) {
		if (SSL_session_reused(c->ssl))
			resumed += c->role == SHAKER;
		else if (!SSL_get_peer_tmp_key(c->ssl, &group) ||
			 EVP_PKEY_id(group) != EVP_PKEY_X25519)
			fail(c, "the exchange is not X25519");
		EVP_PKEY_free(group);
		if (opt.resume && session == NULL && c->role == SHAKER)
			session = SSL_get1_session(c->ssl);
	}
	c->state = ASKING;
	if (opt.raw && opt.bare && c->role == SHAKER)
		say_end(c);
	else if (opt.mode == GET || (opt.raw && c->role != SHAKER))
		is_open(c);
	else
		say(c, request, request_n);
}

static void
shake(struct client *c)
{
	int r, e;

	errno = 0; /* an end is no error of a system call */
	r = SSL_do_handshake(c->ssl);
	e = SSL_get_error(c->ssl, r);
	if (r == 1)
		is_secure(c);
	else if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE)
		fail(c, "TLS handshake: %s", tls_error(errno));
	else
		watch(c, e == SSL_ERROR_WANT_READ ? EPOLLIN : EPOLLOUT);
}

static void
step(struct client *c, uint32_t events)
{
	int e = 0;
	socklen_t n = sizeof e;

	if (c->state == FREE)
		return;
	if (c->state == CONNECTING) {
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &n);
		if (e != 0)
			fail(c, "cannot connect: %s", strerror(e));
		if (opt.plain) {
			watch(c, EPOLLIN);
			is_secure(c);
			return;
		}
		secure(c);
		c->state = SHAKING;
	}
	if (c->state == SHAKING) {
		shake(c);
		return;
	}
	if ((events & EPOLLOUT) != 0)
		flush(c);
	if ((events & ~(uint32_t)EPOLLOUT) != 0)
		receive(c);
}

/* A shaker has ended, the next one takes its place. */
static void
ended(struct client *c)
{
	count_delay(&shakes.delay, (uint64_t)(now - c->since));
	shakes.flying--;
	shakes.back++;
	progress = now;
	drop(c);
	if (may_begin(&shakes)) {
		shakes.left--;
		shakes.flying++;
		open_client(c);
	}
}

/* The loop. */

/* Waits for at most ms, and does what there is to do; those that echo before those that shake. */
static void
turn(int ms)
{
	struct epoll_event ev[TURN];
	int n = epoll_wait(ep, ev, TURN, ms), gentle = opt.echoes > 0;

	now = clock_ns();
	for (int i = 0; i < n; i++) {
		struct client *c = ev[i].data.ptr;

		if (c->role != SHAKER)
			step(c, ev[i].events);
	}
	for (int i = 0; i < n; i++) {
		struct client *c = ev[i].data.ptr;

		if (c->role == SHAKER) {
			step(c, ev[i].events);
			if (gentle)
				break;
		}
	}
	if ((double)(now - progress) > opt.patience * 1e9)
		fail(NULL,
			"nothing came for %g s: %" PRIu64 " connections, %" PRIu64
			" messages and %" PRIu64 " handshakes are due",
			opt.patience, connecting, messages.flying, shakes.flying);
}

/* Lets the server alone; what it says by itself is an error, or a ping. */
static void
pause_for(double seconds)
{
	int64_t end = clock_ns() + (int64_t)(seconds * 1e9);

	for (now = clock_ns(); now < end;) {
		progress = now;
		turn((int)((end - now) / 1000000) + 1);
	}
	progress = now;
}

static void
open_all(struct client *c, uint64_t n)
{
	uint64_t begun = 0, wanted = opened + n;

	progress = clock_ns();
	while (opened < wanted) {
		while (begun < n && connecting < opt.shakes) {
			connecting++;
			open_client(&c[begun++]);
		}
		turn(100);
	}
}

/* n messages, or so many as begin in the given seconds, on `count` clients; until all are back. */
static void
drive(struct client *c, uint64_t count, uint64_t n, double seconds)
{
	progress = now = clock_ns();
	messages = (struct work){ .left = n, .until = 0 };
	if (seconds > 0)
		messages.until = now + (int64_t)(seconds * 1e9);
	for (uint64_t i = 0; i < count; i++)
		begin(&c[i]);
	while (messages.flying > 0)
		turn(100);
}

/* Publishes n messages, opt.inflight at a time, and waits until all subscribers have them. */
static void
drive_broadcast(uint64_t n)
{
	struct client *publisher = &clients[opt.conns];
	uint64_t readers = opt.conns + (opt.own ? 1 : 0);

	progress = now = clock_ns();
	messages = (struct work){ .left = n, .until = 0 };
	while (messages.left > 0) {
		uint64_t k = messages.left < opt.inflight ? messages.left : opt.inflight;

		messages.left -= k;
		messages.flying = k * readers;
		now = clock_ns();
		for (uint64_t i = 0; i <= opt.conns; i++) {
			clients[i].since = now;
			clients[i].due += k;
			if (i < opt.conns)
				clients[i].sending = clients[i].due;
			else if (!opt.own)
				clients[i].coming = clients[i].due;
		}
		flush(publisher);
		while (messages.flying > 0)
			turn(100);
	}
}

static void
begin_shakes(uint64_t n, double seconds)
{
	progress = now = clock_ns();
	shakes = (struct work){ .left = n, .until = 0 };
	if (seconds > 0)
		shakes.until = now + (int64_t)(seconds * 1e9);
	for (uint64_t i = 0; i < opt.conns && may_begin(&shakes); i++) {
		shakes.left--;
		shakes.flying++;
		open_client(&clients[i]);
	}
}

/* Results. */

static const char *comma = "{";

static void
tell(const char *name, double value)
{
	printf(value == (double)(int64_t)value ? "%s\"%s\": %.0f" : "%s\"%s\": %.3f", comma, name,
		value);
	comma = ", ";
}

static void
tell_text(const char *name, const char *value)
{
	printf("%s\"%s\": \"%s\"", comma, name, value);
	comma = ", ";
}

static void
tell_delay(const struct histogram *h, const char *suffix)
{
	static const struct {
		const char *name;
		double q;
	} qs[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 } };
	char name[40];

	for (size_t i = 0; i < sizeof qs / sizeof *qs; i++) {
		snprintf(name, sizeof name, "%s%s_us", qs[i].name, suffix);
		tell(name, quantile(h, qs[i].q));
	}
	snprintf(name, sizeof name, "max%s_us", suffix);
	tell(name, (double)h->max / 1000);
}

/* The measured part. */
struct span {
	uint64_t cpu, own;
	int64_t time;
};

static struct span
mark(void)
{
	struct span s;

	pause_for(QUIET / 1000.0);
	s.cpu = cpu();
	s.own = own_cpu();
	s.time = clock_ns();
	return s;
}

static void
tell_span(struct span from, int64_t end, uint64_t n, uint64_t bytes)
{
	struct span to = mark();

	tell("messages", (double)n);
	tell("bytes", (double)bytes);
	tell("seconds", (double)(end - from.time) / 1e9);
	tell("load_cpu_ns", (double)(to.own - from.own));
	if (opt.pid > 0) {
		tell("cpu_ns", (double)(to.cpu - from.cpu));
		tell("cpu_ns_each", n > 0 ? (double)(to.cpu - from.cpu) / (double)n : 0);
	}
}

/* The modes. */

static void
run_echo(void)
{
	struct span from;

	open_all(clients, opt.conns);
	drive(clients, opt.conns, opt.warm, 0);
	from = mark();
	drive(clients, opt.conns, opt.messages, opt.seconds);
	tell_span(from, now, messages.back, messages.back * (body != NULL ? body_n : opt.size));
	tell_delay(&messages.delay, "");
}

static void
run_broadcast(void)
{
	struct span from;

	for (uint64_t i = 0; i <= opt.conns; i++) {
		clients[i].role = i < opt.conns ? SUBSCRIBER : PUBLISHER;
		clients[i].number = 0;
	}
	open_all(clients, opt.conns + 1);
	pause_for(0.2); /* a subscription may follow its upgrade */
	drive_broadcast(opt.warm);
	from = mark();
	drive_broadcast(opt.messages);
	tell_span(from, now, messages.back, messages.back * opt.size);
	tell("published", (double)opt.messages);
	tell_delay(&messages.delay, "");
}

static void
run_handshake(void)
{
	struct client *echoing = clients + opt.conns + opt.idle;
	struct span from;

	for (uint64_t i = 0; i < opt.conns; i++)
		clients[i].role = SHAKER;
	open_all(echoing, opt.echoes);
	if (opt.resume) { /* one by itself gets the session */
		begin_shakes(1, 0);
		while (shakes.flying > 0)
			turn(100);
	}
	begin_shakes(opt.warm, 0);
	while (shakes.flying > 0)
		turn(100);
	if (opt.echoes > 0) {
		drive(echoing, opt.echoes, UINT64_MAX, opt.before / 2);
		drive(echoing, opt.echoes, UINT64_MAX, opt.before);
		tell_delay(&messages.delay, "_before");
	}
	resumed = 0;
	from = mark();
	begin_shakes(opt.messages, opt.seconds);
	messages = (struct work){ .left = UINT64_MAX, .until = 0 };
	for (uint64_t i = 0; i < opt.echoes; i++)
		begin(&echoing[i]);
	while (shakes.flying > 0)
		turn(100);
	if (opt.echoes > 0) {
		tell("echoes", (double)messages.back);
		tell_delay(&messages.delay, "_during");
		messages.left = 0;
		while (messages.flying > 0)
			turn(100);
	}
	tell_span(from, now, shakes.back, 0);
	tell("resumed", (double)resumed);
	tell_delay(&shakes.delay, "");
	if (opt.resume && resumed != shakes.back)
		fail(NULL, "only %" PRIu64 " of %" PRIu64 " handshakes were resumed", resumed,
			shakes.back);
}

/* All idle clients send a message at once, and rest again. */
static void
run_burst(void)
{
	struct span rested, from, to;

	rested = mark();
	pause_for(opt.settle);
	from = mark();
	tell("cpu_ns_idle", (double)(from.cpu - rested.cpu)); /* of one more rest before */
	drive(clients + opt.conns, opt.idle, opt.idle * opt.inflight, 0);
	tell_span(from, now, messages.back, messages.back * opt.size);
	if (opt.pid > 0)
		tell("rss_burst", (double)rss());
	from = mark();
	pause_for(opt.settle);
	to = mark();
	tell("cpu_ns_rest", (double)(to.cpu - from.cpu));
	tell_delay(&messages.delay, "");
}

/*
 * One idle client after the other sends a message; then they rest again.  Few of many do, for each
 * that is awake already may cost the server something at every message of the others.
 */
static void
run_wake(void)
{
	struct span rested, from, to;
	static struct histogram delay;
	uint64_t n = opt.messages < opt.idle ? opt.messages : opt.idle;

	rested = mark();
	pause_for(opt.settle);
	from = mark();
	tell("cpu_ns_idle", (double)(from.cpu - rested.cpu));
	for (uint64_t i = 0; i < n; i++) {
		drive(clients + opt.conns + i, 1, 1, 0);
		count_delay(&delay, (uint64_t)(now - clients[opt.conns + i].since));
	}
	tell_span(from, now, n, n * opt.size);
	from = mark();
	pause_for(opt.settle);
	to = mark();
	tell("cpu_ns_rest", (double)(to.cpu - from.cpu));
	tell_delay(&delay, "");
}

/* The command line. */

static const struct word {
	const char *name;                          /* and a blank and what is its value */
	enum { FLAG, NUMBER, SECONDS, WORD } kind; /* int, uint64_t, double, const char * */
	void *to;
	const char *help;
} words[] = {
	{ "port P", NUMBER, &opt.port, "where the server listens" },
	{ "host A", WORD, &opt.host, "its IPv4 address (127.0.0.1)" },
	{ "plain", FLAG, &opt.plain, "without TLS" },
	{ "raw", FLAG, &opt.raw,
		"without HTTP and frames; a handshake's request comes back, then 8 bytes" },
	{ "pad", FLAG, &opt.pad, "with --raw: messages as long as the frames of --size" },
	{ "bare", FLAG, &opt.bare, "handshake --raw: nothing but the handshake and the end" },
	{ "path PATH", WORD, &opt.path, "of the upgrade or the file (/echo; get: /)" },
	{ "file FILE", WORD, &opt.file,
		"get: what the body must be; without it --size is checked" },
	{ "conns N", NUMBER, &opt.conns, "clients (1)" },
	{ "size BYTES", NUMBER, &opt.size, "of a message (64)" },
	{ "inflight K", NUMBER, &opt.inflight,
		"messages that a client writes together and awaits (1)" },
	{ "burst K", NUMBER, &opt.inflight, "the same" },
	{ "apart", FLAG, &opt.apart, "each in a record by itself, and the next when one is back" },
	{ "messages M", NUMBER, &opt.messages,
		"in all: messages, requests, publications, handshakes (20000; wake: 64)" },
	{ "seconds S", SECONDS, &opt.seconds, "instead: as many as begin in that time" },
	{ "warm M", NUMBER, &opt.warm, "before that (a tenth, at least 4 batches of each client)" },
	{ "idle N", NUMBER, &opt.idle, "further clients that are open and silent" },
	{ "settle S", SECONDS, &opt.settle, "how long they rest before anything else happens (2)" },
	{ "shakes N", NUMBER, &opt.shakes, "connections that are being opened at a time (16)" },
	{ "resume", FLAG, &opt.resume, "handshake: all resume the session of the first" },
	{ "with-echo N", NUMBER, &opt.echoes, "handshake: N further clients echo meanwhile," },
	{ "before S", SECONDS, &opt.before, "and for so long before (1)" },
	{ "own", FLAG, &opt.own, "broadcast: the publisher gets its own messages, too" },
	{ "pid PID", NUMBER, &opt.pid, "of the server: CPU time and memory" },
	{ "patience S", SECONDS, &opt.patience, "without any progress: an error (10)" },
};

static uint64_t
number(const char *name, const char *text)
{
	char *end;
	unsigned long long n = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0')
		fail(NULL, "--%s %s: not a number", name, text);
	return n;
}

static double
decimal(const char *name, const char *text)
{
	char *end;
	double d = strtod(text, &end);

	if (*text == '\0' || *end != '\0' || !(d >= 0 && d < 1e6))
		fail(NULL, "--%s %s: not a number of seconds", name, text);
	return d;
}

static void
usage(FILE *f)
{
	fputs("load MODE [OPTION]...    drives a server on the loopback interface, prints JSON\n",
		f);
	for (int i = 0; i < MODES; i++)
		fprintf(f, "  %-18s %s\n", modes[i].name, modes[i].help);
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		fprintf(f, "  --%-16s %s\n", words[i].name, words[i].help);
	exit(f == stdout ? 0 : 2);
}

/* Takes an option and what belongs to it; returns how many words that is besides its own. */
static int
take_word(const char *name, const char *value)
{
	const struct word *w = words, *end = words + sizeof words / sizeof *words;
	size_t n;

	while (w < end &&
		(n = strcspn(w->name, " "), strncmp(w->name, name, n) != 0 || name[n] != '\0'))
		w++;
	if (w == end)
		usage(strcmp(name, "help") == 0 ? stdout : stderr);
	if (w->kind != FLAG && value == NULL)
		fail(NULL, "--%s needs a value", name);
	switch (w->kind) {
	case FLAG:
		*(int *)w->to = 1;
		return 0;
	case NUMBER:
		*(uint64_t *)w->to = number(name, value);
		return 1;
	case SECONDS:
		*(double *)w->to = decimal(name, value);
		return 1;
	case WORD:
		*(const char **)w->to = value;
	}
	return 1;
}

static void
options(int argc, char **argv)
{
	int i;

	for (i = 2; i < argc && strncmp(argv[i], "--", 2) == 0; i++)
		i += take_word(argv[i] + 2, argv[i + 1]);
	while (argc > 1 && opt.mode < MODES && strcmp(argv[1], modes[opt.mode].name) != 0)
		opt.mode++;
	if (argc < 2 || i != argc || opt.mode == MODES)
		usage(argc == 2 && strcmp(argv[1], "--help") == 0 ? stdout : stderr);
	if (opt.port == 0 || opt.port > 65535)
		fail(NULL, "--port is not between 1 and 65535");
	if (opt.mode == BURST || opt.mode == WAKE)
		opt.conns = 0;
	else if (opt.conns == 0)
		opt.conns = 1;
	if (opt.inflight == 0 || opt.shakes == 0 ||
		(opt.size == 0 && (opt.raw || opt.mode == STREAM)))
		fail(NULL, "--inflight, --shakes, or --size 0");
	if (opt.raw && opt.pad)
		opt.size += 4 + frame_header((unsigned char[10]){ 0 }, 2, opt.size);
	if (opt.messages == 0)
		opt.messages = opt.seconds > 0 ? UINT64_MAX : opt.mode == WAKE ? 64 : 20000;
	if (opt.path == NULL)
		opt.path = opt.mode == GET ? "/" : "/echo";
	if (opt.settle < 0)
		opt.settle = 2;
	if (opt.warm == UINT64_MAX) {
		opt.warm = opt.messages == UINT64_MAX ? 0 : opt.messages / 10;
		if (opt.warm < 4 * opt.conns * opt.inflight && opt.mode != HANDSHAKE &&
			opt.size < RECORD)
			opt.warm = 4 * opt.conns * opt.inflight;
		if (opt.warm < opt.conns)
			opt.warm = opt.conns;
	}
}

/* The file that GET must yield, or nothing. */
static void
map_file(void)
{
	struct stat st;
	int fd;

	if (opt.file == NULL)
		return;
	fd = open(opt.file, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0 || st.st_size == 0)
		fail(NULL, "%s: %s", opt.file, fd < 0 ? strerror(errno) : "empty");
	body_n = (size_t)st.st_size;
	body = mmap(NULL, body_n, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (body == MAP_FAILED)
		fail(NULL, "%s: %s", opt.file, strerror(errno));
	close(fd);
}

static void
prepare(void)
{
	uint64_t all = opt.conns + opt.idle + opt.echoes + 1, x = 0;
	struct rlimit rl;
	uint32_t seed;
	int n;

	getrlimit(RLIMIT_NOFILE, &rl);
	if (rl.rlim_cur < all + 64) {
		rl.rlim_cur = all + 64;
		if (rl.rlim_max < rl.rlim_cur)
			rl.rlim_max = rl.rlim_cur;
		if (setrlimit(RLIMIT_NOFILE, &rl) != 0)
			fail(NULL, "%" PRIu64 " descriptors: %s", all + 64, strerror(errno));
	}
	if ((clients = calloc(all, sizeof *clients)) == NULL ||
		(pattern = malloc(PATTERN + opt.size)) == NULL)
		fail(NULL, "no memory");
	if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
		fail(NULL, "no random bits");
	for (uint64_t i = 0; i < PATTERN + opt.size; i++) { /* the same in each run: splitmix64 */
		uint64_t z = x += 0x9e3779b97f4a7c15U;

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
		z = (z ^ z >> 27) * 0x94d049bb133111ebU;
		pattern[i] = (unsigned char)(z >> 56);
	}
	for (uint64_t i = 0; i < all; i++) {
		clients[i].number = (uint32_t)i;
		clients[i].key = (uint32_t)i * 2654435761U ^ seed;
		clients[i].fd = -1;
	}
	n = snprintf((char *)request, sizeof request,
		opt.mode == GET ? "GET %s HTTP/1.1\r\nHost: %s:%d\r\n\r\n"
				: "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\n"
				  "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
				  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		opt.path, opt.host, (int)opt.port);
	if (n < 0 || (size_t)n >= sizeof request)
		fail(NULL, "--path is too long");
	request_n = (size_t)n;
	signal(SIGPIPE, SIG_IGN);
	if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
		fail(NULL, "epoll: %s", strerror(errno));
}

static void
prepare_tls(void)
{
	ctx = SSL_CTX_new(TLS_client_method());
	if (ctx == NULL || !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) ||
		!SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION) ||
		!SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-GCM-SHA256") ||
		!SSL_CTX_set1_groups_list(ctx, "X25519:P-256")) /* P-256 for the certificate */
		fail(NULL, "libssl: %s", tls_error(0));
	SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_read_ahead(ctx, 1);
}

int
main(int argc, char **argv)
{
	options(argc, argv);
	map_file();
	prepare();
	prepare_tls();
	tell_text("mode", modes[opt.mode].name);
	tell("conns", (double)opt.conns);
	tell("idle", (double)opt.idle);
	tell("size", (double)(body != NULL ? body_n : opt.size));
	tell("inflight", (double)opt.inflight);
	if (opt.pid > 0)
		tell("rss_start", (double)rss());
	if (opt.idle > 0) {
		struct client *first = clients + opt.conns;

		if (opt.mode == BROADCAST)
			first++;
		for (uint64_t i = 0; i < opt.idle; i++)
			first[i].role = opt.mode == BURST || opt.mode == WAKE ? BUSY : RESTING;
		open_all(first, opt.idle);
		pause_for(opt.settle);
		if (opt.pid > 0)
			tell("rss_idle", (double)rss());
	}
	switch (opt.mode) {
	case BROADCAST:
		run_broadcast();
		break;
	case HANDSHAKE:
		run_handshake();
		break;
	case BURST:
		run_burst();
		break;
	case WAKE:
		run_wake();
		break;
	default:
		run_echo();
	}
	if (opt.pid > 0)
		tell("rss_end", (double)rss());
	printf("}\n");
	if (fflush(stdout) != 0)
		fail(NULL, "cannot write: %s", strerror(errno));
	return 0;
}
