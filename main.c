/*
 * The frame: options and configuration, listeners, slots, the poll loop, deadlines, signals, log.
 * This file owns every slot from accept to wipe; it never looks at a byte that a client sent and
 * calls no function of BearSSL.
 *
 * What always holds:
 * - All memory is reserved before the loop begins, by max-clients, in one mmap(2).
 * - Poll interest is computed from the state in each turn, in interest(), which is also the one
 *   place where engines are flushed.
 * - Signals arrive as input of a descriptor.  (As handlers behind ppoll's mask they would wait as
 *   long as any other descriptor is ready: the kernel delivers them only when ppoll would sleep.)
 * - A connection ends in conn_close(), with one line in the log, and its slot is wiped.
 * - Deadlines are absolute, on the monotonic clock, and looked at once a second, for all slots.
 *   (A heap of deadlines would save that walk, 5,000 slots in some 50 us, and cost a mechanism.)
 * - Established connections are served before handshakes; of those the oldest makes one step a turn,
 *   since one step may cost a signature.
 * - Rest: a slot without anything to do for a second gives its arena pages back and leaves the poll
 *   array for one epoll descriptor, which stands in the array for all sleepers.
 */
#include "ws.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

enum {
	ROUNDS = 16,       /* steps of one connection a turn, for fairness */
	ACCEPTS = 16,      /* connections accepted a turn and listener */
	WAKES = 64,        /* sleepers woken a turn */
	TICK = 1000,       /* milliseconds between looks at the deadlines, and before a rest */
	UNFINISHED = 2000, /* a connection this old without a request head may make room */
	GRACE = 3000,      /* from SIGTERM to the end, at most */
	NOTSENT = 16384,   /* TCP_NOTSENT_LOWAT */
	CONFIG_MAX = 65536 /* bytes of a configuration file */
};

struct config cf = { .root_fd = -1,
	.max_clients = 64,
	.max_per_ip = -1,
	.max_message = 65536,
	.timeout = 10,
	.ping = 30 };
struct counters count;
int64_t now;

static struct conn *slots, *spare; /* max_clients of them; the free ones, last closed first */
static uint32_t *awake;            /* slots that are not at rest */
static struct pollfd *pfd;         /* signals, epoll, listeners, then clients and backends */
static uint32_t *owner;            /* of each pfd: slot * 2, + 1 for the backend's */
static unsigned awakes, pfds, clients;
static size_t io_size;
static int epoll_fd, signal_fd;
static int64_t paused, stopping; /* descriptors ran out: no accepting until then; since when */

/* Log. */

void
log_line(int priority, const char *format, ...)
{
	char line[1024];
	size_t n = 0;
	va_list ap;

	if (priority == DEBUG && !cf.verbose)
		return;
	if (getenv("JOURNAL_STREAM") != NULL)
		n = (size_t)snprintf(line, sizeof line, "<%d>", priority);
	va_start(ap, format);
	vsnprintf(line + n, sizeof line - n - 1, format, ap);
	va_end(ap);
	for (n = 0; line[n] != '\0'; n++)
		if (line[n] < ' ' || line[n] > '~')
			line[n] = '?';
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		return; /* there is nobody left to tell */
}

/* Ends the start with one sentence; wrong NULL: what errno says. */
static _Noreturn void
die(int status, const char *where, const char *what, const char *wrong)
{
	log_line(ERR, "wssd: %s%s: %s", where, what, wrong != NULL ? wrong : strerror(errno));
	exit(status);
}

/* Configuration: words from the command line and from a file, read by one table. */

enum kind { STRING, FLAG, NUMBER, NAMES, LISTEN, CONFIG, VERSION, HELP, ROUTE };

static const struct option {
	const char *name, *arg, *help;
	enum kind kind;
	void *to;
	long long min, max;
} options[] = {
	{ "listen", "URL", "wss:// or ws://ADDRESS:PORT[,client-ca=FILE]", LISTEN, NULL, 0, 0 },
	{ "cert", "FILE", "certificate chain in PEM, our own first", STRING, &cf.cert, 0, 0 },
	{ "key", "FILE", "its private key in PEM, EC or RSA", STRING, &cf.key, 0, 0 },
	{ "client-ca", "FILE", "clients need a certificate of one of these", STRING, &cf.client_ca,
		0, 0 },
	{ "root", "DIR", "static files for paths that no route has", STRING, &cf.root, 0, 0 },
	{ "origin", "ORIGIN", "allowed Origin, or any; default: own host", NAMES, &cf.origins, 0,
		0 },
	{ "host", "NAME", "accepted Host, or any; on ws default: local", NAMES, &cf.hosts, 0, 0 },
	{ "max-clients", "N", "connections at a time (64)", NUMBER, &cf.max_clients, 1, 1000000 },
	{ "max-per-ip", "N", "of one address, 0: all (half)", NUMBER, &cf.max_per_ip, 0, 1000000 },
	{ "max-message", "BYTES", "of a hub (65536)", NUMBER, &cf.max_message, 1, 1 << 28 },
	{ "timeout", "S", "of a slow or idle client (10)", NUMBER, &cf.timeout, 1, 86400 },
	{ "ping", "S", "silence before a ping, 0: never (30)", NUMBER, &cf.ping, 0, 86400 },
	{ "config", "FILE", "these words without --, one a line, # comments", CONFIG, NULL, 0, 0 },
	{ "check", "", "test the configuration and exit", FLAG, &cf.check, 0, 0 },
	{ "verbose", "", "log requests and upgrades too", FLAG, &cf.verbose, 0, 0 },
	{ "version", "", "print the version and exit", VERSION, NULL, 0, 0 },
	{ "help", "", "print this text and exit", HELP, NULL, 0, 0 },
	{ "/PATH=echo", "", "each message back to its sender", ROUTE, NULL, 0, 0 },
	{ "/PATH=hub[,ring=BYTES]", "", "to every other client of the route", ROUTE, NULL, 0, 0 },
	{ "/PATH=tcp:ADDRESS:PORT", "", "bytes to and from a TCP server", ROUTE, NULL, 0, 0 },
	{ "/PATH=unix:FILE", "", "the same with a Unix stream socket", ROUTE, NULL, 0, 0 },
	{ "   ,protocol=A|B,origin=ORIGIN", "", "on any route", ROUTE, NULL, 0, 0 },
};

const char *
parse_address(char *text, union address *addr, socklen_t *len)
{
	char *colon = strrchr(text, ':'), *end = text;
	unsigned long port = colon != NULL ? strtoul(colon + 1, &end, 10) : 0;
	int v6 = text[0] == '[' && colon != NULL && colon[-1] == ']', family;

	if (colon == NULL || strchr("0123456789", colon[1]) == NULL || *end != '\0' || port > 65535)
		return "needs ADDRESS:PORT";
	colon[-v6] = '\0';
	family = v6 ? AF_INET6 : AF_INET;
	addr->sa.sa_family = (sa_family_t)family;
	addr->in.sin_port = htons((uint16_t)port); /* at the same place in both */
	*len = v6 ? sizeof addr->in6 : sizeof addr->in;
	end = v6 ? (char *)&addr->in6.sin6_addr : (char *)&addr->in.sin_addr;
	if (inet_pton(family, strcmp(text, "localhost") == 0 ? "127.0.0.1" : text + v6, end) != 1)
		return "needs a numeric address, [IPv6] in brackets, or localhost";
	return NULL;
}

static const char *
add_name(struct names *names, char *name)
{
	if (names->n == NAMES_MAX || *name == '\0')
		return *name == '\0' ? "needs a value" : "is one too many";
	names->v[names->n++] = name;
	return NULL;
}

static const char *
parse_number(const char *text, long long min, long long max, long long *number)
{
	static char wrong[80];
	char *end;

	*number = strtoll(text, &end, 10);
	snprintf(wrong, sizeof wrong, "must be a number from %lld to %lld", min, max);
	return *text < '0' || *text > '9' || *end != '\0' || *number < min || *number > max ? wrong
											    : NULL;
}

static const char *
set_listen(char *value)
{
	struct listener *l = &cf.listener[cf.listeners];

	if (cf.listeners++ == LISTENERS_MAX)
		return "is one too many";
	l->client_ca = value;
	value = strsep(&l->client_ca, ",");
	l->plain = strncmp(value, "ws://", 5) == 0;
	if (!l->plain && strncmp(value, "wss://", 6) != 0)
		return "needs wss:// or ws:// in front";
	if (l->client_ca != NULL && (l->plain || strncmp(l->client_ca, "client-ca=", 10) != 0))
		return "has an attribute that is not client-ca=FILE of wss://";
	l->client_ca += l->client_ca != NULL ? 10 : 0;
	return parse_address(value + (l->plain ? 5 : 6), &l->addr, &l->addr_len);
}

static const char *
set_route(char *text)
{
	struct route *r = &cf.route[cf.routes];
	char *part, *name;
	const char *wrong = NULL;
	long long ring = 0;

	if (cf.routes++ == ROUTES_MAX)
		return "is one too many";
	r->path = strsep(&text, "=");
	for (const struct route *other = cf.route; other < r; other++)
		if (strcmp(other->path, r->path) == 0)
			return "is a route twice";
	part = text != NULL ? strsep(&text, ",") : "";
	name = strsep(&part, ":");
	r->backend = ws_backend(name, strlen(name));
	if (r->backend == NULL || (part != NULL) != (r->backend->address != NULL))
		return "needs =echo, =hub, =tcp:ADDRESS:PORT or =unix:FILE";
	if (part != NULL)
		wrong = r->backend->address(r, part);
	while (wrong == NULL && (part = strsep(&text, ",")) != NULL) {
		if (strncmp(part, "origin=", 7) == 0)
			wrong = add_name(&r->origins, part + 7);
		else if (strncmp(part, "ring=", 5) == 0 && r->backend->whole)
			wrong = parse_number(part + 5, 1, 1 << 30, &ring);
		else if (strncmp(part, "protocol=", 9) != 0)
			wrong = "has an attribute that this backend does not know";
		else
			for (part += 9; wrong == NULL && (name = strsep(&part, "|")) != NULL;)
				wrong = add_name(&r->protocols, name);
	}
	r->hub.size = (size_t)ring;
	return wrong;
}

static _Noreturn void
show(enum kind kind)
{
	const struct option *o = options, *end = o + sizeof options / sizeof options[0];

	printf("wssd " WSSD_VERSION "\n");
	for (; kind == HELP && o < end; o++)
		printf("  %s%s %-*s%s\n", o->kind == ROUTE ? "" : "--", o->name,
			o->kind == ROUTE ? 32 - (int)strlen(o->name) : 20 - (int)strlen(o->name),
			o->arg, o->help);
	exit(fflush(stdout) == 0 ? 0 : 1);
}

static void read_config(const char *file);

/* A route, or an option with its value in the same word or the next; returns if it took the next. */
static int
take_word(const char *where, char *word, char *next)
{
	const struct option *o = options;
	const char *wrong = NULL;
	char shown[80], *value = word, *name;

	snprintf(shown, sizeof shown, "%s", word); /* it is cut up below */
	name = *word == '/' ? NULL : strsep(&value, "=");
	while (name != NULL && o->kind != ROUTE && strcmp(o->name, name) != 0)
		o++;
	next = value != NULL ? value : next;
	if (name == NULL)
		wrong = set_route(word);
	else if (o->kind == ROUTE)
		wrong = "is not an option";
	else if (*o->arg == '\0' ? value != NULL : next == NULL)
		wrong = *o->arg == '\0' ? "takes no value" : "needs a value";
	else if (o->kind == STRING)
		*(char **)o->to = next;
	else if (o->kind == FLAG)
		*(int *)o->to = 1;
	else if (o->kind == NUMBER)
		wrong = parse_number(next, o->min, o->max, o->to);
	else if (o->kind == NAMES)
		wrong = add_name(o->to, next);
	else if (o->kind == LISTEN)
		wrong = set_listen(next);
	else if (o->kind == CONFIG)
		read_config(next);
	else
		show(o->kind);
	if (wrong != NULL)
		die(2, where, shown, wrong);
	return name != NULL && *o->arg != '\0' && value == NULL;
}

static void
read_config(const char *file)
{
	static char text[CONFIG_MAX];
	char where[300], *rest = text, *line, *word, *value, *extra;
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t n = 1;

	if (*text != '\0')
		die(1, "", file, "is a second configuration file");
	while (fd >= 0 && n > 0 && (n = read(fd, text + used, CONFIG_MAX - 1 - used)) > 0)
		used += (size_t)n;
	if (fd < 0 || n < 0)
		die(1, "", file, NULL);
	if (used == CONFIG_MAX - 1 || strlen(text) != used)
		die(1, "", file, "is too large or has a NUL byte");
	close(fd);
	for (unsigned i = 1; (line = strsep(&rest, "\n")) != NULL; i++) {
		snprintf(where, sizeof where, "%s:%u: ", file, i);
		line[strcspn(line, "#\r")] = '\0';
		word = strtok_r(line, " \t", &line);
		value = strtok_r(NULL, " \t", &line);
		extra = strtok_r(NULL, " \t", &line);
		if (word != NULL && take_word(where, word, value) == 0)
			extra = value;
		if (extra != NULL)
			die(2, where, extra, "is one word too many");
	}
}

/* What no single option can tell. */
static void
check_config(void)
{
	/* a message in entries, and what the last of them may need at the end: see ws.c */
	size_t least = ((size_t)cf.max_message / HUB_FRAME + 2) * (HUB_FRAME + 16);
	const char *wrong = NULL;

	cf.timeout *= 1000;
	cf.ping *= 1000;
	if (cf.listeners == 0)
		die(2, "", "--listen", "is missing");
	if (cf.max_per_ip < 0)
		cf.max_per_ip = (cf.max_clients + 1) / 2;
	for (struct listener *l = cf.listener; l < cf.listener + cf.listeners; l++) {
		cf.tls |= !l->plain;
		if (l->client_ca == NULL && !l->plain)
			l->client_ca = cf.client_ca;
	}
	cf.text_size = HEAD_MAX;
	for (struct route *r = cf.route; r < cf.route + cf.routes; r++) {
		size_t ring = r->hub.size > 0 ? r->hub.size : 4 * least;

		if (!r->backend->whole)
			continue;
		if (ring < least)
			die(2, "", r->path, "ring= is too small for max-message");
		for (r->hub.size = 1; r->hub.size < ring;)
			r->hub.size *= 2;
		if (cf.text_size < (size_t)cf.max_message)
			cf.text_size = (size_t)cf.max_message;
	}
	if (cf.root != NULL && (cf.root_fd = open(cf.root, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
		die(1, "", cf.root, NULL);
	gethostname(cf.hostname, sizeof cf.hostname - 1);
	if (cf.tls && (cf.cert == NULL || cf.key == NULL))
		die(2, "", "--listen wss://", "needs --cert and --key");
	if (cf.tls && (wrong = tls_load()) != NULL)
		die(1, "", "TLS", wrong);
}

/* The start: memory, descriptors, listeners, signals. */

/* All memory that there will ever be; untouched pages cost nothing. */
static void
reserve(void)
{
	size_t n = (size_t)cf.max_clients, polls = 2 * n + LISTENERS_MAX + 2, total;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *p, *io, *tls;

	io_size = (IO_TEXT + cf.text_size + page - 1) / page * page;
	total = n * (io_size + tls_size + sizeof *slots + sizeof *awake) +
		polls * (sizeof *pfd + sizeof *owner);
	for (unsigned i = 0; i < cf.routes; i++)
		total += cf.route[i].hub.size;
	p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		-1, 0);
	if (p == MAP_FAILED)
		die(1, "", "memory", NULL);
	madvise(p, total, MADV_NOHUGEPAGE);
	io = p; /* each part is a multiple of the next one's alignment */
	tls = io + n * io_size;
	slots = (void *)(tls + n * tls_size);
	pfd = (void *)(slots + n);
	owner = (void *)(pfd + polls);
	awake = owner + polls;
	p = (void *)(awake + n);
	for (unsigned i = 0; i < cf.routes; p += cf.route[i++].hub.size)
		cf.route[i].hub.ring = p;
	for (size_t i = n; i-- > 0; spare = &slots[i])
		slots[i] = (struct conn){ .fd = -1,
			.bfd = -1,
			.io = io + i * io_size,
			.tls = (void *)(tls + i * tls_size),
			.next = spare };
	log_line(INFO, "reserved %zu KiB for %lld clients", total / 1024, cf.max_clients);
}

static void
show_address(const union address *a, char *text, size_t n)
{
	char ip[INET6_ADDRSTRLEN] = "";
	int v6 = a->sa.sa_family == AF_INET6;

	inet_ntop(a->sa.sa_family, v6 ? (const void *)&a->in6.sin6_addr : &a->in.sin_addr, ip,
		sizeof ip);
	snprintf(text, n, v6 ? "[%s]:%u" : "%s:%u", ip, ntohs(a->in.sin_port));
}

static void
listen_all(void)
{
	char url[INET6_ADDRSTRLEN + 8];
	int on = 1;

	for (struct listener *l = cf.listener; l < cf.listener + cf.listeners; l++) {
		show_address(&l->addr, url, sizeof url);
		l->fd = socket(l->addr.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
		if (l->addr.sa.sa_family == AF_INET6)
			setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
		if (bind(l->fd, &l->addr.sa, l->addr_len) != 0 || listen(l->fd, SOMAXCONN) != 0 ||
			getsockname(l->fd, &l->addr.sa, &l->addr_len) != 0)
			die(1, "listen on ", url, NULL);
		show_address(&l->addr, url, sizeof url);
		log_line(INFO, "listening on %s%s", l->plain ? "ws://" : "wss://", url);
	}
}

static void
open_descriptors(void)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };
	rlim_t need = 2 * (rlim_t)cf.max_clients + cf.listeners + 16;
	struct rlimit rl = { 0, 0 };
	sigset_t set;

	getrlimit(RLIMIT_NOFILE, &rl);
	if (rl.rlim_cur < need)
		rl.rlim_cur = rl.rlim_max < need ? rl.rlim_max : need;
	if (setrlimit(RLIMIT_NOFILE, &rl) != 0 || rl.rlim_cur < need)
		log_line(WARNING,
			"descriptor limit is below what max-clients and backends may need");
	sigemptyset(&set);
	for (int i = 0; i < 4; i++)
		sigaddset(&set, signals[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (signal_fd < 0 || epoll_fd < 0)
		die(1, "", "signalfd or epoll", NULL);
	listen_all();
}

static void
read_clock(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Slots. */

static void
wake(struct conn *c)
{
	if (!c->asleep)
		return;
	c->asleep = 0;
	c->stepped = now;
	c->spot = awakes;
	awake[awakes++] = (uint32_t)(c - slots);
}

static void
put_asleep(struct conn *c)
{
	c->asleep = 1;
	awake[c->spot] = awake[--awakes];
	slots[awake[c->spot]].spot = c->spot;
}

static void
conn_close(struct conn *c, const char *why)
{
	char client[INET6_ADDRSTRLEN + 8], status[8] = "-";
	long long ms = now - c->start;

	count.bugs += why == NULL;
	if (c->status != 0) /* 7.1.5: 1006 is a WebSocket that ended without a Close */
		snprintf(status, sizeof status, "%u", c->status == 101 ? 1006U : c->status);
	show_address(&c->addr, client, sizeof client);
	log_line(INFO, "%s %s %s %s in=%llu out=%llu secs=%lld.%03lld: %s", client, tls_suite(c),
		c->path[0] != '\0' ? c->path : "-", status, c->in, c->out, ms / 1000, ms % 1000,
		why != NULL ? why : "bug: no reason");
	ws_leave(c);
	close(c->fd);
	explicit_bzero(c->io + IO_STASH, IO_TEXT - IO_STASH);
	explicit_bzero(c->io + IO_TEXT, c->text_high);
	tls_wipe(c);
	wake(c);
	put_asleep(c);
	paused = 0;
	clients--;
	c->fd = -1;
	c->state = FREE;
	c->next = spare;
	spare = c;
}

/* Sets every field of a fresh slot. */
static void
conn_new(int fd, const struct listener *l, const union address *addr)
{
	static const int on = 1, lowat = NOTSENT;
	struct conn *c = spare;

	spare = c->next;
	*c = (struct conn){ .tls = c->tls,
		.io = c->io,
		.fd = fd,
		.bfd = -1,
		.lis = l,
		.addr = *addr,
		.state = SHAKE,
		.first = 1,
		.dirty = 1,
		.asleep = 1,
		.id = (uint32_t)count.accepted++,
		.start = now,
		.heard = now,
		.deadline = now + cf.timeout };
	wake(c);
	clients++;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat);
	if (!tls_open(c))
		conn_close(c, "no entropy");
}

static enum step
state_step(struct conn *c)
{
	enum step s;

	if (c->state == SHAKE) {
		s = tls_out(c);
		if (s != DEAD && tls_ready(c)) {
			count.handshakes += !c->lis->plain && !c->misplaced;
			count.resumed += tls_ready(c) == 2;
			c->state = HEAD;
			s = MORE;
		}
		return s;
	}
	if (c->state < OPEN)
		return http_step(c);
	return c->bye ? tls_bye(c) : ws_step(c);
}

/* Drives a connection as long as there is progress, or until its rounds run out. */
static void
conn_step(struct conn *c)
{
	size_t room;

	c->stepped = now;
	c->again = 0;
	for (int round = 0; round < ROUNDS; round++) {
		enum step in = c->state == BODY || c->bye ? WAIT : tls_in(c), s = DEAD;

		c->full = 0;
		if (in != DEAD)
			s = state_step(c);
		if (s == WAIT && in == WAIT && c->full) /* what fills the window may go now */
			s = tls_out(c) == DEAD ? DEAD : tls_room(c, &room) != NULL ? MORE : WAIT;
		if (s == DEAD)
			conn_close(c, c->why);
		if (s == DEAD || (s == WAIT && in == WAIT))
			return;
	}
	c->again = 1; /* lost wake-up 1 */
}

static void
poll_for(int fd, short events, uint32_t who)
{
	owner[pfds] = who;
	pfd[pfds++] = (struct pollfd){ .fd = fd, .events = events };
}

/* Flushes, writes, and adds what is to be polled; returns whether it is to be stepped anyway. */
static int
interest(struct conn *c)
{
	enum step s = c->bye ? WAIT : tls_out(c); /* lost wake-up 2 */
	short events = tls_events(c), backend;
	uint32_t who = (uint32_t)(c - slots) * 2;
	size_t room;

	if (s == DEAD) {
		conn_close(c, c->why);
		return 0;
	}
	if ((c->full && tls_room(c, &room) != NULL) || (s == MORE && c->state == SHAKE))
		c->again = 1; /* lost wake-up 3 */
	/* an end of input must not overtake what is on its way */
	if (c->state == BODY || ((c->state < OPEN || c->bye) && (events & POLLOUT) != 0))
		events &= POLLOUT;
	if ((events & POLLOUT) == 0)
		c->stalled = 0;
	else if (c->stalled == 0)
		c->stalled = now;
	poll_for(c->fd, events, who);
	backend = c->bfull ? POLLOUT : 0;
	if (c->state >= OPEN && !c->bready && !c->beof && c->closing == 0)
		backend |= POLLIN;
	if (c->bfd >= 0 && c->state != BODY && backend != 0)
		poll_for(c->bfd, backend, who + 1);
	return c->again;
}

/* Takes what poll said into the slots; POLLERR and POLLHUP come unasked. */
static void
mark_events(unsigned from)
{
	for (unsigned k = from; k < pfds; k++) {
		struct conn *c = &slots[owner[k] / 2];
		short events = pfd[k].revents;
		int in = (events & (POLLIN | POLLHUP | POLLERR)) != 0;

		if (events == 0 || c->state == FREE)
			continue;
		c->again = 1;
		if (owner[k] % 2 == 1) {
			c->bready = in && !c->beof && c->state != CONNECT;
			c->bfull = c->bfull && events == POLLIN;
		} else if (pfd[k].events == 0) {
			conn_close(c, "client gone");
		} else {
			c->readable |= (uint8_t)in;
		}
	}
}

/* Rest. */

static void
rest(struct conn *c)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT,
		.data.u32 = (uint32_t)(c - slots) };
	int fds[2] = { c->fd, c->bfd };

	if (c->asleep || c->again || now - c->stepped < TICK || !tls_idle(c) ||
		!(c->state == OPEN ? ws_idle(c) : c->state == HEAD && c->text == 0))
		return;
	for (int i = 0; i < 2 && fds[i] >= 0; i++)
		if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fds[i], &ev) != 0 &&
			epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[i], &ev) != 0)
			return;
	put_asleep(c);
	madvise(c->io, io_size, MADV_DONTNEED);
}

static void
wake_sleepers(void)
{
	struct epoll_event ev[WAKES];

	for (int i = epoll_wait(epoll_fd, ev, WAKES, 0); i-- > 0;) {
		struct conn *c = &slots[ev[i].data.u32];

		if (c->state == FREE)
			continue;
		wake(c);
		c->readable = c->again = 1;
		c->bready = c->bfd >= 0 && c->state >= OPEN && !c->beof;
	}
}

/* Deadlines. */

static void
look_at(struct conn *c)
{
	int64_t silence = cf.ping > 0 ? now - c->heard - cf.ping : -1;

	if (c->stalled != 0 && now - c->stalled >= cf.timeout) {
		conn_close(c, "client takes no output");
	} else if (c->state == CONNECT || (c->state == DRAIN && c->got_close && c->closing == 0)) {
		conn_step(c); /* which looks at the clock itself */
	} else if (now >= c->deadline && c->state == HEAD && !c->first) {
		wake(c); /* idle: a clean end */
		c->state = DRAIN;
		c->why = "idle";
		c->bye = c->again = 1;
		c->deadline = now + cf.timeout;
	} else if (now >= c->deadline && c->state != BODY && c->state != OPEN) {
		conn_close(c, c->state == DRAIN ? c->why : "no request in time");
	} else if (c->state == OPEN && silence >= 0) {
		if (!c->asleep && (tls_events(c) & POLLIN) == 0)
			c->heard = now; /* we do not listen: the silence is not the client's */
		else if (!c->pinged)
			ws_ping(c);
		else if (silence >= cf.timeout)
			conn_close(c, "no answer to a ping");
		if (c->state == OPEN)
			wake(c);
	}
	if (c->state != FREE)
		rest(c);
}

static void
sweep(void)
{
	static unsigned long long refused;

	for (struct conn *c = slots; c < slots + cf.max_clients; c++) {
		if (c->state != FREE) {
			look_at(c);
		} else if (c->dirty && now - c->stepped >= TICK) {
			madvise(c->io, io_size, MADV_DONTNEED);
			c->dirty = 0;
		}
	}
	if (count.refused != refused)
		log_line(WARNING, "refused %llu: max-clients or max-per-ip",
			count.refused - refused);
	refused = count.refused;
	paused = 0;
}

/* Accepting. */

static void
admit(int fd, const struct listener *l, const union address *a)
{
	struct conn *oldest = NULL; /* without a complete request head, if it had two seconds */
	long long same = 0;

	for (struct conn *c = slots; c < slots + cf.max_clients; c++) {
		if (c->state == FREE)
			continue;
		if (a->sa.sa_family == AF_INET6)
			same += memcmp(&c->addr.in6.sin6_addr, &a->in6.sin6_addr, 8) == 0;
		else
			same += c->addr.in.sin_addr.s_addr == a->in.sin_addr.s_addr;
		if (c->first && now - c->start >= UNFINISHED &&
			(!oldest || c->start < oldest->start))
			oldest = c;
	}
	if (cf.max_per_ip > 0 && same >= cf.max_per_ip)
		l = NULL;
	else if (spare == NULL && oldest != NULL)
		conn_close(oldest, "made room for a newcomer");
	if (l != NULL && spare != NULL) {
		conn_new(fd, l, a);
	} else {
		close(fd);
		count.refused++;
	}
}

static void
accept_some(const struct listener *l)
{
	for (int i = 0; i < ACCEPTS; i++) {
		union address a;
		socklen_t len = sizeof a;
		int fd = accept4(l->fd, &a.sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			admit(fd, l, &a);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			   errno == ENOMEM) {
			log_line(WARNING, "accepting pauses: %s", strerror(errno));
			paused = 1;
			return;
		} else if (errno == EAGAIN) {
			return;
		}
	}
}

/* Signals. */

static void
stop(void)
{
	log_line(INFO, "stopping, %u clients", clients);
	stopping = now;
	for (unsigned i = 0; i < cf.listeners; i++)
		close(cf.listener[i].fd);
	for (struct conn *c = slots; c < slots + cf.max_clients; c++) {
		if (c->state == OPEN) {
			wake(c);
			ws_close(c, 1001, "server stops");
			c->again = 1;
		} else if (c->state != FREE && c->state != DRAIN) {
			conn_close(c, "server stops");
		}
	}
}

static void
reload(void)
{
	const char *wrong = NULL;

	for (struct conn *c = slots; c < slots + cf.max_clients; c++)
		if (c->state == SHAKE)
			conn_close(c, "reload during the handshake");
	if (cf.tls)
		wrong = tls_load();
	if (wrong != NULL)
		log_line(ERR, "reload refused: %s", wrong);
	else
		log_line(INFO, "reloaded");
}

static void
log_counters(void)
{
	unsigned backends = 0;

	for (struct conn *c = slots; c < slots + cf.max_clients; c++)
		backends += c->bfd >= 0;
	log_line(INFO,
		"counters: clients=%u asleep=%u backends=%u accepted=%llu refused=%llu handshakes=%llu "
		"resumed=%llu requests=%llu upgrades=%llu frames_in=%llu frames_out=%llu bytes_in=%llu "
		"bytes_out=%llu bugs=%llu",
		clients, clients - awakes, backends, count.accepted, count.refused,
		count.handshakes, count.resumed, count.requests, count.upgrades, count.frames_in,
		count.frames_out, count.bytes_in, count.bytes_out, count.bugs);
}

static void
take_signals(void)
{
	struct signalfd_siginfo si;

	while (read(signal_fd, &si, sizeof si) == (ssize_t)sizeof si) {
		if (si.ssi_signo == SIGHUP)
			reload();
		else if (si.ssi_signo == SIGUSR1)
			log_counters();
		else if (!stopping)
			stop();
	}
}

/* The loop. */

static void
step_all(void)
{
	struct conn *oldest = NULL, *next;

	for (unsigned i = awakes; i-- > 0;) {
		struct conn *c = &slots[awake[i]];

		if (c->again && (c->state != SHAKE || c->lis->plain))
			conn_step(c);
		else if (c->again && (oldest == NULL || (int32_t)(c->id - oldest->id) < 0))
			oldest = c;
	}
	if (oldest != NULL)
		conn_step(oldest);
	for (struct route *r = cf.route; r < cf.route + cf.routes; r++) {
		struct conn *c = r->hub.posted ? r->hub.subs : NULL;

		for (r->hub.posted = 0; c != NULL; c = next) {
			next = c->next;
			wake(c);
			conn_step(c);
		}
	}
}

static void
loop(void)
{
	int64_t swept = now;

	while (!stopping || (clients > 0 && now - stopping < GRACE)) {
		unsigned listeners = stopping || paused ? 0 : cf.listeners;
		int again = 0, n;

		pfds = 0;
		poll_for(signal_fd, POLLIN, 0);
		poll_for(epoll_fd, POLLIN, 0);
		for (unsigned i = 0; i < listeners; i++)
			poll_for(cf.listener[i].fd, POLLIN, 0);
		for (unsigned i = awakes; i-- > 0;)
			again |= interest(&slots[awake[i]]);
		for (unsigned i = 0; i < cf.routes; i++)
			again |= cf.route[i].hub.posted;
		n = poll(pfd, pfds, again ? 0 : TICK);
		read_clock();
		if (n > 0) {
			mark_events(2 + listeners);
			if (pfd[1].revents != 0)
				wake_sleepers();
			for (unsigned i = 0; i < listeners; i++)
				if (pfd[2 + i].revents != 0)
					accept_some(&cf.listener[i]);
			if (pfd[0].revents != 0)
				take_signals();
		}
		step_all();
		if (now - swept >= TICK) {
			swept = now;
			sweep();
		}
	}
	for (struct conn *c = slots; c < slots + cf.max_clients; c++)
		if (c->state != FREE)
			conn_close(c, "server stops");
}

int
main(int argc, char **argv)
{
	int fd = 0;

	while (fd >= 0 && fd < 3) /* a descriptor below 3 must never be a client */
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	close(fd);
	for (int i = 1; i < argc; i++) {
		int option = strncmp(argv[i], "--", 2) == 0;

		if (!option && argv[i][0] != '/')
			die(2, "command line: ", argv[i], "is no option and no route");
		i += take_word(option ? "command line: --" : "command line: ", argv[i] + 2 * option,
			argv[i + 1]);
	}
	check_config();
	if (cf.check)
		return 0;
	read_clock();
	reserve();
	open_descriptors();
	loop();
	log_line(INFO, "stopped");
	return 0;
}
