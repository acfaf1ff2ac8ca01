/*
 * The frame: options and configuration, listeners, slots, the poll loop, deadlines, signals, log.
 * This file owns every slot from accept to wipe; it never looks at a byte that a client sent, but
 * for the name in its certificate, and calls no function of BearSSL.
 *
 * What always holds:
 * - All memory is reserved before the loop begins, by max-clients, in one mmap(2).
 * - What the start may do and the loop need not is given up between them, in confine(): it ends as
 *   the user that was named, in the root that was named, and with the system calls of one table,
 *   which create no file, process or memory; any other one ends the process.
 * - Poll interest is computed from the state in each turn, in interest(), which is also the one
 *   place where engines are flushed, but for a window that is full in the middle of a step.
 * - Signals arrive as input of a descriptor.  (As handlers behind ppoll's mask they would wait as
 *   long as any other descriptor is ready: the kernel delivers them only when ppoll would sleep.)
 * - A connection ends in conn_close(), with one line in the log, and its slot is wiped.
 * - Deadlines are absolute, on the monotonic clock, and looked at once a second, for all slots.
 *   (A heap of deadlines would save that walk over all slots, and cost a mechanism.)
 * - Established connections are served before handshakes; of those the oldest makes one step a
 *   turn, since one step may cost a signature.
 * - Rest: a slot without anything to do for a second gives its arena pages back and leaves the poll
 *   array for one epoll descriptor, which stands in the array for all sleepers.
 */
#include "ws.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	ROUNDS = 64,       /* steps of one connection a turn, for fairness */
	WAKES = 64,        /* sleepers woken a turn */
	TICK = 1000,       /* milliseconds between looks at the deadlines, and before a rest */
	UNFINISHED = 2000, /* a connection this old without a request head may make room */
	GRACE = 3000,      /* from SIGTERM to the end, at most */
	NOTSENT = 16384    /* TCP_NOTSENT_LOWAT */
};

struct config cf;
struct counters count;
int64_t now;

static struct conn *slots;  /* max_clients of them */
static struct conn **awake; /* those that are not at rest */
static struct pollfd *pfd;  /* signals, epoll, listeners, then clients, each with its backend */
static unsigned awakes, pfds, clients;
static size_t io_size;
static int epoll_fd, signal_fd, paused; /* paused: descriptors ran out, no accepting for a while */
static int64_t swept, stopping;         /* when; 0: not yet */

/* Log. */

void
log_line(int priority, const char *format, ...)
{
	struct pollfd err = { STDERR_FILENO, POLLOUT, 0 }; /* who does not read stops nothing */
	char line[1024]; /* less than a pipe with POLLOUT takes at once: PIPE_BUF */
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
	if (poll(&err, 1, 0) != 0 && write(STDERR_FILENO, line, n) < 0)
		return; /* there is nobody left to tell */
}

/* Ends the start with one sentence; wrong NULL: what errno says. */
static _Noreturn void
die(int status, const char *where, const char *what, const char *wrong)
{
	log_line(ERR, "wssd: %s%s: %s", where, what, wrong != NULL ? wrong : strerror(errno));
	exit(status);
}

const char *
read_file(const char *file, char *text, size_t size)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	size_t used = 0;
	ssize_t n = fd;
	const char *wrong;

	while (n >= 0 && (n = read(fd, text + used, size - 1 - used)) > 0)
		used += (size_t)n;
	wrong = n < 0 ? strerror(errno) : NULL;
	if (fd >= 0)
		close(fd);
	text[used] = '\0';
	return used < size - 1 && strlen(text) == used ? wrong : "is too large or has a NUL byte";
}

/*
 * Configuration: words from the command line and from a file, read by one table.  Of rows with the
 * same name the first is meant; the others, and those from "/PATH" on, are there for --help.
 */

enum kind { STRING, NUMBER, NAMES, LISTEN, CONFIG, ROUTE };

static const struct option {
	const char *name, *value, *help; /* no value: 1 is meant */
	enum kind kind;
	void *to;
	long long min, max;
} options[] = {
	{ "--listen", " URL", "wss:// or ws://ADDRESS:PORT", LISTEN, NULL, 0, 0 },
	{ "--listen", " URL,client-ca=F,proxy=A/BITS", "for this one", LISTEN, NULL, 0, 0 },
	{ "--cert", " FILE", "certificate chain in PEM, our own first", STRING, &cf.cert, 0, 0 },
	{ "--key", " FILE", "its private key in PEM, EC or RSA", STRING, &cf.key, 0, 0 },
	{ "--client-ca", " FILE", "whose certificates clients need", STRING, &cf.client_ca, 0, 0 },
	{ "--root", " DIR", "static files for paths that no route has", STRING, &cf.root, 0, 0 },
	{ "--auth", " FILE", "digests of the credentials for those", STRING, &cf.auth, 0, 0 },
	{ "--origin", " ORIGIN", "allowed, or any; default: own host", NAMES, &cf.origins, 0, 0 },
	{ "--host", " NAME", "accepted, or any; on ws default: local", NAMES, &cf.hosts, 0, 0 },
	{ "--max-clients", " N", "at a time (64)", NUMBER, &cf.max_clients, 1, 1000000 },
	{ "--max-per-ip", " N", "0: all (half)", NUMBER, &cf.max_per_ip, 0, 1000000 },
	{ "--max-message", " BYTES", "hub, packets (65536)", NUMBER, &cf.max_message, 1, 1 << 28 },
	{ "--timeout", " S", "of a slow or idle client (10)", NUMBER, &cf.timeout, 1, 86400 },
	{ "--ping", " S", "silence before a ping, 0: never (30)", NUMBER, &cf.ping, 0, 86400 },
	{ "--user", " USER[:GROUP]", "to run as; root must name one", STRING, &cf.user, 0, 0 },
	{ "--chroot", " DIR", "the root of every other path", STRING, &cf.chroot, 0, 0 },
	{ "--no-sandbox", "", "for debuggers: no filter, no limits", NUMBER, &cf.no_sandbox, 0, 1 },
	{ "--config", " FILE", "these words, without --, one a line", CONFIG, NULL, 0, 0 },
	{ "--check", "", "test the configuration and exit", NUMBER, &cf.check, 0, 1 },
	{ "--verbose", "", "log requests and upgrades too", NUMBER, &cf.verbose, 0, 1 },
	{ "--version", "", "print the version and exit", NUMBER, &cf.version, 0, 1 },
	{ "--help", "", "print this text and exit", NUMBER, &cf.help, 0, 1 },
	{ "/PATH", "=echo", "each message back to its sender", ROUTE, NULL, 0, 0 },
	{ "/PATH", "=hub[,ring=BYTES]", "to every other client of the route", ROUTE, NULL, 0, 0 },
	{ "/PATH", "=tcp:ADDRESS:PORT", "bytes to and from a TCP server", ROUTE, NULL, 0, 0 },
	{ "/PATH", "=unix:FILE", "the same with a Unix stream socket", ROUTE, NULL, 0, 0 },
	{ "/PATH", "=seqpacket:FILE[,text]", "the same, a message a packet", ROUTE, NULL, 0, 0 },
	{ "     ", ",protocol=A|B,origin=O,auth=FILE", "on any route", ROUTE, NULL, 0, 0 },
	{ NULL, NULL, NULL, ROUTE, NULL, 0, 0 },
};

static const char *
parse_number(const char *text, long long min, long long max, long long *number)
{
	static char wrong[80];
	char *end;

	*number = strtoll(text, &end, 10);
	if (*text >= '0' && *text <= '9' && *end == '\0' && *number >= min && *number <= max)
		return NULL;
	snprintf(wrong, sizeof wrong, "must be a number from %lld to %lld", min, max);
	return wrong;
}

void *
ip_of(const union address *a)
{
	return a->sa.sa_family == AF_INET6 ? (void *)&a->in6.sin6_addr : (void *)&a->in.sin_addr;
}

/* "ADDRESS:PORT", where ADDRESS is numeric IPv4, [IPv6] or localhost. */
static const char *
parse_address(char *text, union address *addr, long long least)
{
	char *colon = strrchr(text, ':'), *bracket = strchr(text, '[');
	int v6 = bracket == text && colon != NULL && colon[-1] == ']';
	long long port;

	if (colon == NULL || parse_number(colon + 1, least, 65535, &port) != NULL)
		return "needs ADDRESS:PORT";
	colon[-v6] = '\0';
	addr->sa.sa_family = v6 ? AF_INET6 : AF_INET;
	addr->in.sin_port = htons((uint16_t)port); /* at the same place in both */
	text = strcmp(text, "localhost") == 0 ? "127.0.0.1" : v6 ? bracket + 1 : text;
	if (inet_pton(addr->sa.sa_family, text, ip_of(addr)) != 1)
		return "needs a numeric address, [IPv6] in brackets, or localhost";
	return NULL;
}

/* "ADDRESS/BITS", or an address alone.  Of the other IP version nobody could connect. */
static const char *
parse_proxy(char *text, struct listener *l)
{
	l->proxy.sa.sa_family = l->addr.sa.sa_family;
	l->bits = l->addr.sa.sa_family == AF_INET6 ? 128 : 32;
	if (inet_pton(l->proxy.sa.sa_family, strsep(&text, "/"), ip_of(&l->proxy)) != 1)
		return "needs proxy=ADDRESS/BITS, of its own IP version";
	return text != NULL ? parse_number(text, 0, l->bits, &l->bits) : NULL;
}

static const char *
add_names(struct names *names, char *list)
{
	for (char *name; (name = strsep(&list, "|")) != NULL; names->v[names->n++] = name)
		if (names->n >= NAMES_MAX || *name == '\0')
			return *name == '\0' ? "has an empty name" : "is one too many";
	return NULL;
}

static const char *
set_listen(char *text)
{
	struct listener *l = &cf.listener[cf.listeners];
	char *scheme = strsep(&text, "/"), *empty = strsep(&text, "/");
	char *address = strsep(&text, ","), *name, *value;
	const char *wrong;

	if (cf.listeners++ == LISTENERS_MAX)
		return "is one too many";
	l->plain = strcmp(scheme, "ws:") == 0;
	cf.tls |= !l->plain;
	if ((!l->plain && strcmp(scheme, "wss:") != 0) || !empty || *empty != '\0' || !address)
		return "needs wss:// or ws:// in front";
	wrong = parse_address(address, &l->addr, 0);
	while (wrong == NULL && (name = value = strsep(&text, ",")) != NULL) {
		strsep(&value, "=");
		if (strcmp(name, "proxy") == 0 && value != NULL)
			wrong = parse_proxy(value, l);
		else if (strcmp(name, "client-ca") == 0 && value != NULL && !l->plain)
			l->client_ca = value;
		else
			wrong = "has an attribute that is not proxy= or, of wss://, client-ca=";
	}
	return wrong;
}

static const char *
set_route(char *path, char *text)
{
	struct route *r = &cf.route[cf.routes];
	char *address = strsep(&text, ","), *name = strsep(&address, ":"), *value;
	const struct backend *k = backends;
	const char *wrong = NULL;

	if (cf.routes++ == ROUTES_MAX)
		return "is one too many";
	if (strchr(path, '?') != NULL || strchr(path, '%') != NULL)
		return "has a ? or %: requests are compared without their query, and decoded";
	for (const struct route *other = cf.route; other < r; other++)
		if (strcmp(other->path, path) == 0)
			return "is a route twice";
	r->path = path;
	while (k->name != NULL && strcmp(k->name, name) != 0)
		k++;
	if (k->name == NULL || (address != NULL) != (k->family != 0))
		return "needs =echo, =hub, =tcp:ADDRESS:PORT, =unix:FILE or =seqpacket:FILE";
	r->backend = k;
	r->addr.sa.sa_family = k->family;
	if (k->family == AF_INET)
		wrong = parse_address(address, &r->addr, 1);
	else if (address != NULL &&
		 (*address == '\0' || memccpy(r->addr.un.sun_path, address, '\0',
					      sizeof r->addr.un.sun_path) == NULL))
		wrong = "needs a path of at most 107 bytes";
	while (wrong == NULL && (name = value = strsep(&text, ",")) != NULL) {
		strsep(&value, "=");
		if (strcmp(name, "origin") == 0 && value != NULL)
			wrong = add_names(&r->origins, value);
		else if (strcmp(name, "protocol") == 0 && value != NULL)
			wrong = add_names(&r->protocols, value);
		else if (strcmp(name, "auth") == 0 && value != NULL)
			r->auth = value;
		else if (strcmp(name, "ring") == 0 && value != NULL && k->ring)
			wrong = parse_number(value, 1, 1 << 30, &r->ring);
		else if (strcmp(name, "text") == 0 && value == NULL && k->whole && !k->ring)
			r->text = 1;
		else
			wrong = "has an attribute that this backend does not know";
	}
	return wrong;
}

static void read_config(const char *file);

/* Takes a word and perhaps its value in the next one; returns whether it took both. */
static int
take_word(const char *where, size_t dashes, char *word, char *next)
{
	const struct option *o = options;
	const char *wrong = NULL;
	char *value = word;
	int both;

	strsep(&value, "=");
	while (o->kind != ROUTE && strcmp(o->name + 2 - dashes, word) != 0)
		o++;
	both = value == NULL && *o->value != '\0';
	value = value != NULL ? value : both ? next : "1";
	if (o->kind == ROUTE && *word != '/')
		wrong = "is no option and no route";
	else if (value == NULL)
		wrong = "needs a value";
	else if (o->kind == STRING)
		*(char **)o->to = value;
	else if (o->kind == NUMBER)
		wrong = parse_number(value, o->min, o->max, o->to);
	else if (o->kind == NAMES)
		wrong = add_names(o->to, value);
	else if (o->kind == LISTEN)
		wrong = set_listen(value);
	else if (o->kind == ROUTE)
		wrong = set_route(word, value);
	else
		read_config(value);
	if (wrong != NULL)
		die(2, where, word, wrong);
	return both;
}

static void
read_config(const char *file)
{
	static char text[65536], *lines = text;
	char where[300], *line, *word, *value;
	const char *wrong = lines != text ? "is a second configuration file" : NULL;

	if (wrong != NULL || (wrong = read_file(file, text, sizeof text)) != NULL)
		die(1, "", file, wrong);
	for (unsigned i = 1; (line = strsep(&lines, "\n")) != NULL; i++) {
		snprintf(where, sizeof where, "%s:%u: ", file, i);
		line = strsep(&line, "#\r");
		word = strtok_r(line, " \t", &line);
		value = strtok_r(NULL, " \t", &line);
		if (word != NULL && take_word(where, 0, word, value))
			value = strtok_r(NULL, " \t", &line);
		if (value != NULL)
			die(2, where, value, "is one word too many");
	}
}

/* What no single option can tell. */
static void
check_config(void)
{
	/* a message in entries, and what the last of them may need at the end: see ws.c */
	size_t least = ((size_t)cf.max_message / HUB_FRAME + 2) * (HUB_FRAME + 16);

	if (cf.listeners == 0)
		die(2, "", "--listen", "is missing");
	if (cf.tls && (cf.cert == NULL || cf.key == NULL))
		die(2, "", "--listen wss://", "needs --cert and --key");
	cf.timeout *= 1000;
	cf.ping *= 1000;
	if (cf.max_per_ip < 0)
		cf.max_per_ip = (cf.max_clients + 1) / 2;
	for (struct listener *l = cf.listener; l < cf.listener + cf.listeners; l++)
		if (l->client_ca == NULL && !l->plain)
			l->client_ca = cf.client_ca;
	for (struct route *r = cf.route; r < cf.route + cf.routes; r++) {
		size_t ring = r->ring > 0 ? (size_t)r->ring : 4 * least;

		if (ring < least)
			die(2, "", r->path, "ring= is too small for max-message");
		r->hub.size = r->backend->ring ? ring : 0;
	}
}

/* What is read at the start, and again at a reload. */
static const char *
load_files(void)
{
	const char *wrong = http_load();

	return wrong != NULL ? wrong : tls_load();
}

static void
open_files(void)
{
	const char *wrong;

	cf.root_fd = cf.root != NULL ? open(cf.root, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	if (cf.root != NULL && cf.root_fd < 0)
		die(1, "", cf.root, NULL);
	gethostname(cf.hostname, sizeof cf.hostname - 1);
	if ((wrong = load_files()) != NULL)
		die(1, "", "cannot load", wrong);
}

/* The start: memory, descriptors, listeners, signals. */

/* All memory that there will ever be; untouched pages cost nothing. */
static void
reserve(void)
{
	size_t n = (size_t)cf.max_clients, polls = 2 * n + LISTENERS_MAX + 2;
	unsigned long long total; /* may be more than 32 bits tell */
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t text = cf.max_message > HEAD_MAX ? (size_t)cf.max_message : HEAD_MAX;
	unsigned char *p, *tls;

	io_size = (IO_TEXT + text + page - 1) / page * page;
	total = io_size + tls_size + sizeof *slots + sizeof *awake;
	total = n * total + polls * sizeof *pfd;
	for (unsigned i = 0; i < cf.routes; i++)
		total += cf.route[i].hub.size;
	if (total > SIZE_MAX)
		die(1, "", "memory", "max-clients times max-message is too much");
	p = mmap(NULL, (size_t)total, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		die(1, "", "memory", NULL);
	madvise(p, (size_t)total, MADV_NOHUGEPAGE);
	tls = p + n * io_size; /* each part is a multiple of the next one's alignment */
	slots = (void *)(tls + n * tls_size);
	pfd = (void *)(slots + n);
	awake = (void *)(pfd + polls);
	for (struct conn *c = slots; c < slots + n; c++, p += io_size, tls += tls_size)
		*c = (struct conn){ .fd = -1, .bfd = -1, .io = p, .tls = (void *)tls };
	p = (void *)(awake + n);
	for (unsigned i = 0; i < cf.routes; p += cf.route[i++].hub.size)
		cf.route[i].hub.ring = p;
	log_line(INFO, "reserved %llu KiB for %lld clients", total / 1024, cf.max_clients);
}

/* The text is good until the next call. */
static const char *
show_address(const union address *a)
{
	static char text[INET6_ADDRSTRLEN + 8];
	char ip[INET6_ADDRSTRLEN] = "";

	inet_ntop(a->sa.sa_family, ip_of(a), ip, sizeof ip);
	snprintf(text, sizeof text, a->sa.sa_family == AF_INET6 ? "[%s]:%u" : "%s:%u", ip,
		ntohs(a->in.sin_port));
	return text;
}

static void
open_descriptors(void)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };
	static const int on = 1, lowat = NOTSENT;
	struct rlimit rl = { 0, 0 };
	sigset_t set;

	/* one for each client, one for its backend, and some of our own */
	getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = rl.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &rl) != 0 || rl.rlim_cur < 2 * (rlim_t)cf.max_clients + 32)
		log_line(WARNING, "descriptors may run out before max-clients is reached");
	sigemptyset(&set);
	for (int i = 0; i < 4; i++)
		sigaddset(&set, signals[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (signal_fd < 0 || epoll_fd < 0)
		die(1, "", "signalfd or epoll", NULL);
	for (struct listener *l = cf.listener; l < cf.listener + cf.listeners; l++) {
		socklen_t len = sizeof l->addr.un; /* of an IP address less would do */

		l->fd = socket(l->addr.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (l->fd < 0)
			die(1, "listen on ", show_address(&l->addr), NULL);
		setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
		setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on); /* IPv4 refuses it */
		/* clients inherit these two */
		setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		setsockopt(l->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat);
		if (bind(l->fd, &l->addr.sa, len) != 0 || listen(l->fd, 4096) != 0 ||
			getsockname(l->fd, &l->addr.sa, &len) != 0) /* musl's SOMAXCONN is 128 */
			die(1, "listen on ", show_address(&l->addr), NULL);
		log_line(INFO, "listening on %s%s", l->plain ? "ws://" : "wss://",
			show_address(&l->addr));
	}
}

/* Least power. */

/* Who needs a call: backends of an address family, or of any; MEMORY: it fails with ENOMEM. */
enum { ALWAYS = 1 << AF_UNSPEC, UNIX = 1 << AF_UNIX, INET = 1 << AF_INET, INET6 = 1 << AF_INET6 };
enum { BACKENDS = UNIX | INET | INET6, MEMORY = 1 << 3 };
enum { WRITES = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC };

/*
 * All that the loop may ask of the kernel, by the names that C libraries have for it on different
 * machines.  Where `mask` is not 0 the argument must have `value` under it: its low 32 bits, which
 * is what the kernel takes as an int.  (A mask of 0 would let all pass without being a case of its
 * own; but from Linux 5.11 on the program is not even run for numbers that pass whatever their
 * arguments are.)
 */
static const struct call {
	int number, need;
	uint32_t arg, mask, value;
} calls[] = {
#ifdef __NR_open /* all but the youngest machines */
	{ __NR_poll, ALWAYS, 0, 0, 0 }, { __NR_epoll_wait, ALWAYS, 0, 0, 0 },
	{ __NR_open, ALWAYS, 1, WRITES, O_RDONLY },
#endif
#ifdef __NR_clock_gettime64 /* 32 bits */
	{ __NR_clock_gettime64, ALWAYS, 0, 0, 0 }, { __NR_ppoll_time64, ALWAYS, 0, 0, 0 },
	{ __NR_fstat64, ALWAYS, 0, 0, 0 }, { __NR_fstatat64, ALWAYS, 0, 0, 0 },
	{ __NR_fcntl64, ALWAYS, 1, ~0U, F_SETFD }, { __NR_mmap2, MEMORY, 0, 0, 0 },
#else
	{ __NR_newfstatat, ALWAYS, 0, 0, 0 }, { __NR_mmap, MEMORY, 0, 0, 0 },
#endif
#ifdef __NR_clock_gettime32 /* 32 bits as musl has them */
	{ __NR_clock_gettime32, ALWAYS, 0, 0, 0 },
#else
	{ __NR_clock_gettime, ALWAYS, 0, 0, 0 },
#endif
#ifdef __NR_time /* is a client's certificate out of date? */
	{ __NR_time, ALWAYS, 0, 0, 0 },
#endif
#ifdef __NR_send
	{ __NR_send, ALWAYS, 0, 0, 0 }, { __NR_recv, ALWAYS, 0, 0, 0 },
#elif defined __NR_socketcall /* which is them all: numbers of linux/net.h, in four groups */
	{ __NR_socketcall, ALWAYS, 0, ~3U, 8 },   /* send, sendto, recv */
	{ __NR_socketcall, ALWAYS, 0, ~3U, 12 },  /* recvfrom, shutdown, setsockopt */
	{ __NR_socketcall, ALWAYS, 0, ~0U, 18 },  /* accept4 */
	{ __NR_socketcall, BACKENDS, 0, ~2U, 1 }, /* socket, of any family; connect */
#endif
	/* bytes of clients, backends, files and signals, and to the log */
	{ __NR_read, ALWAYS, 0, 0, 0 }, { __NR_sendto, ALWAYS, 0, 0, 0 },
	{ __NR_write, ALWAYS, 0, 0, 0 }, { __NR_recvfrom, BACKENDS, 0, 0, 0 },
	/* waiting, also behind SIGCONT; the end */
	{ __NR_ppoll, ALWAYS, 0, 0, 0 }, { __NR_epoll_pwait, ALWAYS, 0, 0, 0 },
	{ __NR_restart_syscall, ALWAYS, 0, 0, 0 }, { __NR_exit_group, ALWAYS, 0, 0, 0 },
	/* clients from their handshake over each rest to the end */
	{ __NR_accept4, ALWAYS, 0, 0, 0 }, { __NR_getrandom, ALWAYS, 0, 0, 0 },
	{ __NR_epoll_ctl, ALWAYS, 0, 0, 0 }, { __NR_madvise, ALWAYS, 2, ~0U, MADV_DONTNEED },
	{ __NR_shutdown, ALWAYS, 0, 0, 0 }, { __NR_close, ALWAYS, 0, 0, 0 },
	{ __NR_setsockopt, ALWAYS, 2, ~0U, TCP_NODELAY },
	/* backends */
	{ __NR_socket, INET, 0, ~0U, AF_INET }, { __NR_socket, INET6, 0, ~0U, AF_INET6 },
	{ __NR_socket, UNIX, 0, ~0U, AF_UNIX }, { __NR_setsockopt, UNIX, 2, ~0U, SO_PEEK_OFF },
	{ __NR_setsockopt, BACKENDS, 2, ~0U, SO_LINGER }, { __NR_connect, BACKENDS, 0, 0, 0 },
	/* files, for reading; musl's open */
	{ __NR_openat, ALWAYS, 2, WRITES, O_RDONLY }, { __NR_fcntl, ALWAYS, 1, ~0U, F_SETFD },
	{ __NR_fstat, ALWAYS, 0, 0, 0 }, { __NR_statx, ALWAYS, 0, 0, 0 },
	/* a C library that would like more memory can do without it */
	{ __NR_brk, MEMORY, 0, 0, 0 }
};

/* The beginning of our own ELF header, which the linker knows. */
extern const struct elf {
	uint8_t magic[4], class, data, more[10]; /* class 2: 64 bits; data 1: little endian */
	uint16_t type, machine;
} __ehdr_start __attribute__((visibility("hidden")));

/*
 * Filters system calls by a program of linux/filter.h, over struct seccomp_data of linux/seccomp.h:
 * number at 0, architecture (a word of linux/audit.h) at 4, 64-bit arguments from 16 on.  What is
 * called by numbers of another architecture, x32's too, is none of the table.  0: the kernel takes
 * no filter.
 */
static int
filter_calls(void)
{
	enum { LOAD = 0x20, AND = 0x54, EQUAL = 0x15, RETURN = 0x06, MODE_FILTER = 2 };
	static const uint32_t kill = 0x80000000, allow = 0x7fff0000, no_memory = 0x50000 | ENOMEM;
	const uint32_t wide = __ehdr_start.class == 2, little = __ehdr_start.data == 1;
	struct op {
		uint16_t code;
		uint8_t yes, no; /* what to skip */
		uint32_t k;
	} op[6 * sizeof calls / sizeof *calls + 5], *p = op;
	struct {
		uint16_t n;
		struct op *op;
	} program;
	int needed = ALWAYS | MEMORY;

	for (const struct route *r = cf.route; r < cf.route + cf.routes; r++)
		needed |= 1 << r->addr.sa.sa_family;
	*p++ = (struct op){ LOAD, 0, 0, 4 };
	*p++ = (struct op){ EQUAL, 1, 0, __ehdr_start.machine | wide << 31 | little << 30 };
	*p++ = (struct op){ RETURN, 0, 0, kill };
	*p++ = (struct op){ LOAD, 0, 0, 0 };
	for (const struct call *c = calls; c < calls + sizeof calls / sizeof *calls; c++) {
		if ((c->need & needed) == 0)
			continue;
		*p++ = (struct op){ EQUAL, 0, c->mask != 0 ? 5 : 2, (uint32_t)c->number };
		if (c->mask != 0) {
			*p++ = (struct op){ LOAD, 0, 0, 20 - 4 * little + 8 * c->arg };
			*p++ = (struct op){ AND, 0, 0, c->mask };
			*p++ = (struct op){ EQUAL, 0, 1, c->value };
		}
		*p++ = (struct op){ RETURN, 0, 0, c->need == MEMORY ? no_memory : allow };
		*p++ = (struct op){ LOAD, 0, 0, 0 }; /* another entry may allow it */
	}
	*p++ = (struct op){ RETURN, 0, 0, kill };
	program.n = (uint16_t)(p - op);
	program.op = op;
	return prctl(PR_SET_SECCOMP, MODE_FILTER, &program) == 0;
}

/*
 * The numbers of a user and his group, or of a group, by the plain lines of /etc/passwd or
 * /etc/group, which have the one in field 2 and the other in this column.  A number without a line
 * stands for itself, and for the group of that number.
 */
static void
look_up(const char *file, int column, const char *name, long long *id, long long *group)
{
	static const long long most = UINT32_MAX - 1; /* the last one says "none" */
	static char text[65536];
	const char *wrong = read_file(file, text, sizeof text), *field[4];
	char *lines = wrong == NULL ? text : NULL, *line;
	int numeric = parse_number(name, 0, most, id) == NULL;

	while ((line = strsep(&lines, "\n")) != NULL) {
		for (int i = 0; i < 4; i++)
			field[i] = line != NULL ? strsep(&line, ":") : "";
		if (strcmp(field[numeric ? 2 : 0], name) == 0 &&
			parse_number(field[2], 0, most, id) == NULL &&
			parse_number(field[column], 0, most, group) == NULL)
			return;
	}
	if (!numeric && wrong != NULL)
		die(1, "", file, wrong);
	if (!numeric)
		die(1, column == 3 ? "--user " : "--user :", name, "is unknown");
	*group = *id;
}

/*
 * From the powers of the start to those of the loop.  Nothing of it can be undone, and the order is
 * the argument:
 * 1. user and group are looked up where the start is, outside of the new root;
 * 2. then the root changes, so that every path is one inside it, as it will be at a reload;
 * 3. files are read while root may read them, and ports below 1024 are opened;
 * 4. supplementary groups, group and user change, as each needs the powers of the one behind it;
 * 5. it is tried to get them back, which must fail, and
 * 6. to read the files as a reload would;
 * 7. there will be no new privileges, processes or dumps of the memory, which has the key in it,
 * 8. and at last no system calls but those of the loop.
 * Root stays root only if it was named.
 */
static void
confine(void)
{
	static const struct rlimit none = { 0, 0 };
	long long uid = getuid(), gid = getgid();
	char *group = cf.user, *user = strsep(&group, ":");
	const char *wrong;
	int root = geteuid() == 0;

	if (root && user == NULL)
		die(2, "", "--user", "is missing: root must name another one, or itself");
	if (user != NULL) /* 1 */
		look_up("/etc/passwd", 3, user, &uid, &gid);
	if (group != NULL)
		look_up("/etc/group", 2, group, &gid, &gid);
	if (cf.chroot != NULL && (chroot(cf.chroot) != 0 || chdir("/") != 0)) /* 2 */
		die(1, "--chroot ", cf.chroot, NULL);
	open_files(); /* 3 */
	if (!cf.check) {
		reserve();
		open_descriptors();
	}
	root &= uid != 0;
	if ((root && setgroups(0, NULL) != 0) ||
		setresgid((gid_t)gid, (gid_t)gid, (gid_t)gid) != 0 ||
		setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid) != 0) /* 4 */
		die(1, "", "cannot become that user", NULL);
	if (uid != 0 && (getuid() != uid || getgid() != gid || /* 5 */
				setresuid((uid_t)-1, 0, (uid_t)-1) == 0 || setgroups(0, NULL) == 0))
		die(1, "", "user", "could be root again");
	if (root && (wrong = load_files()) != NULL) /* 6 */
		log_line(WARNING, "a reload will be refused: %s", wrong);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); /* 7 */
	/* without a sandbox debuggers may attach, and get dumps, which setresuid has forbidden */
	prctl(PR_SET_DUMPABLE, cf.no_sandbox != 0, 0, 0, 0);
	if (cf.no_sandbox)
		return;
	setrlimit(RLIMIT_NPROC, &none);
	setrlimit(RLIMIT_CORE, &none);
	if (!filter_calls()) /* 8 */
		log_line(WARNING, "system calls are not filtered: %s", strerror(errno));
}

/* Slots. */

/* It is awake, and will be stepped. */
static void
wake(struct conn *c)
{
	c->again = 1;
	if (!c->asleep)
		return;
	c->asleep = 0;
	c->stepped = now;
	c->spot = awakes;
	awake[awakes++] = c;
}

static void
put_asleep(struct conn *c)
{
	c->asleep = 1;
	awake[c->spot] = awake[--awakes];
	awake[c->spot]->spot = c->spot;
}

static void
conn_close(struct conn *c, const char *why)
{
	char status[8] = "-", cn[80] = "";

	count.bugs += why == NULL;
	if (c->status != 0) /* 7.1.5: 1006 is a WebSocket that ended without a Close */
		snprintf(status, sizeof status, "%u", c->status == 101 ? 1006U : c->status);
	for (char *q = c->cn; (q = strchr(q, '"')) != NULL;)
		*q = '?';
	if (c->lis->client_ca != NULL && c->state > SHAKE && !c->misplaced)
		snprintf(cn, sizeof cn, " cn=\"%s\"", c->cn);
	log_line(c->local ? DEBUG : INFO, "%s %s %s %s in=%llu out=%llu secs=%.3f%s: %s",
		show_address(&c->addr), tls_suite(c), c->path[0] != '\0' ? c->path : "-", status,
		c->in, c->out, (double)(now - c->start) / 1000, cn,
		why != NULL ? why : "bug: no reason");
	ws_leave(c);
	close(c->fd);
	explicit_bzero(c->io, IO_IN);
	explicit_bzero(c->io + IO_TEXT, c->text_high);
	tls_wipe(c);
	if (!c->asleep)
		put_asleep(c);
	paused = 0;
	clients--;
	c->fd = -1;
	c->state = FREE;
}

/* Whether the first bits of two addresses are the same. */
static int
in_network(const union address *a, const union address *net, long long bits)
{
	const unsigned char *x = ip_of(a), *y = ip_of(net);
	size_t n = (size_t)bits / 8;

	return a->sa.sa_family == net->sa.sa_family && memcmp(x, y, n) == 0 &&
	       ((x[n] ^ y[n]) & 0xff & 0xff00 >> bits % 8) == 0;
}

/* Slots of that address: of IPv4, or of the /64 of IPv6. */
static long long
held_by(const union address *a)
{
	long long n = 0, bits = a->sa.sa_family == AF_INET6 ? 64 : 32;

	for (struct conn *c = slots; c < slots + cf.max_clients; c++)
		n += c->state > PROXY && in_network(&c->addr, a, bits);
	return n;
}

static enum step
state_step(struct conn *c)
{
	enum step s;

	if (c->state >= OPEN)
		return c->bye ? tls_bye(c) : ws_step(c);
	if (c->state > SHAKE)
		return http_step(c);
	s = c->state == PROXY ? tls_proxy(c) : tls_ready(c);
	c->state = (uint8_t)(c->state + (s == MORE)); /* PROXY, SHAKE, HEAD */
	if (s == MORE && c->state == SHAKE && cf.max_per_ip > 0 &&
		held_by(&c->addr) > cf.max_per_ip) {
		count.refused++;
		return dead(c, "max-per-ip");
	}
	return s;
}

/* Drives a connection as long as there is progress, or until its rounds run out. */
static void
conn_step(struct conn *c)
{
	c->stepped = now;
	c->again = 0;
	for (int round = 0; round < ROUNDS; round++) {
		int fed = c->state == SHAKE && round > 0; /* once a turn, others are served then */
		int deaf = c->state == PROXY || c->state == BODY || c->got_close || c->bye || fed;
		enum step in = deaf ? WAIT : tls_in(c), s = in;

		c->full = 0;
		if (in != DEAD)
			s = state_step(c);
		if (s == WAIT && in == WAIT && c->full)
			s = tls_out(c); /* what fills the window may go now */
		if (s == DEAD) {
			conn_close(c, c->why);
			return;
		}
		if (s == WAIT && in == WAIT)
			return;
	}
	c->again = 1; /* lost wake-up 1 */
}

/* Flushes, writes, and adds what is to be polled; returns whether nothing is to be waited for. */
static int
interest(struct conn *c)
{
	enum step s = c->bye ? WAIT : tls_out(c); /* lost wake-up 2; tls_bye has written */
	short events = tls_events(c), backend = c->bfull ? POLLOUT : 0;

	if (s == DEAD) {
		conn_close(c, c->why);
		return 0;
	}
	if (s == MORE && c->full)
		c->again = 1; /* lost wake-up 3 */
	/* an end of input must not overtake what is on its way */
	if (c->state == BODY || (c->got_close && !c->bye) ||
		((c->state < OPEN || c->bye) && (events & POLLOUT) != 0))
		events &= POLLOUT;
	if (c->stalled == 0 && (events & POLLOUT) != 0)
		c->stalled = now; /* a write makes it 0 */
	if (c->state >= OPEN && !c->bready && !c->beof && c->closing == 0)
		backend |= POLLIN;
	c->polled = pfds;
	pfd[pfds++] = (struct pollfd){ c->fd, events, 0 };
	if (c->bfd >= 0) /* -1: poll looks away, since POLLHUP would come unasked */
		pfd[pfds++] = (struct pollfd){ backend != 0 ? c->bfd : -1, backend, 0 };
	return c->again;
}

/* Takes what poll said into the slot; POLLERR and POLLHUP come unasked. */
static void
mark_events(struct conn *c)
{
	const struct pollfd *p = &pfd[c->polled];
	short client = p[0].revents, backend = c->bfd >= 0 ? p[1].revents : 0;

	c->again |= client != 0 || backend != 0;
	c->readable |= (client & ~POLLOUT) != 0;
	if (backend != 0) {
		c->bready = (backend & ~POLLOUT) != 0 && !c->beof && c->state != CONNECT;
		c->bfull = c->bfull && backend == POLLIN;
	}
	if (client != 0 && p[0].events == 0)
		conn_close(c, "client gone");
}

/* Rest. */

static void
rest(struct conn *c)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, .data.ptr = c };
	int fds[2] = { c->fd, c->bfd };

	if (c->asleep || c->again || now - c->stepped < TICK || !tls_idle(c) ||
		!(c->state == OPEN ? ws_idle(c) : c->state == HEAD && c->text == 0))
		return;
	for (int i = 0; i < 2 && fds[i] >= 0; i++)
		if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fds[i], &ev) != 0 &&
			epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[i], &ev) != 0)
			return;
	put_asleep(c);
	if (madvise(c->io, io_size, MADV_DONTNEED) == 0) /* else there is still something to wipe */
		c->moved = c->text_high = 0;
}

/* Who was woken otherwise is woken once more: no harm.  Who is closed has left epoll by that. */
static void
wake_sleepers(void)
{
	struct epoll_event ev[WAKES];

	for (int i = epoll_wait(epoll_fd, ev, WAKES, 0); i-- > 0;) {
		struct conn *c = ev[i].data.ptr;

		wake(c);
		c->readable = 1; /* most likely; of the backend poll tells in the next turn */
	}
}

/* Deadlines. */

/* What the clock, or the end of the server, asks of a connection. */
static void
look_at(struct conn *c)
{
	int64_t silence = cf.ping > 0 ? now - c->heard - cf.ping : -1;
	size_t unread;

	if (stopping != 0 && (c->state < OPEN || now - stopping >= GRACE)) {
		conn_close(c, "server stops");
	} else if (stopping != 0 && c->closing == 0 && !c->bye) {
		wake(c);
		ws_close(c, 1001, "server stops");
	} else if (c->stalled != 0 && now - c->stalled >= cf.timeout) {
		conn_close(c, "client takes no output");
	} else if (c->state == CONNECT || (c->state == DRAIN && c->got_close && c->closing == 0)) {
		wake(c); /* its step looks at the clock itself */
	} else if (now >= c->deadline && c->state == HEAD && c->status != 0) {
		wake(c); /* a clean end, as behind a reply that is the last */
		c->state = BODY;
		c->why = "idle";
		c->keep = 0;
	} else if (now >= c->deadline && c->state != BODY && c->state != OPEN) {
		conn_close(c, c->state == DRAIN ? c->why : "no request in time");
	} else if (c->state == OPEN && silence >= 0) {
		wake(c);
		if (tls_peek(c, &unread) != NULL) {
			c->heard = now; /* we do not listen: the silence is not the client's, */
			c->pinged = 0;  /* but to a ping one that is gone answers with a reset */
		}
		if (!c->pinged)
			ws_ping(c);
		else if (silence >= cf.timeout)
			conn_close(c, "no answer to a ping");
	}
	rest(c);
}

static void
sweep(void)
{
	static struct counters old;

	for (struct conn *c = slots; c < slots + cf.max_clients; c++) {
		if (c->state != FREE) {
			look_at(c);
		} else if (c->stepped != 0 && now - c->stepped >= TICK) { /* free for a while */
			madvise(c->io, io_size, MADV_DONTNEED);
			c->stepped = 0;
		}
	}
	if (count.refused != old.refused || count.denied != old.denied)
		log_line(WARNING, "refused %llu: max-clients, max-per-ip, proxy; %llu: credentials",
			count.refused - old.refused, count.denied - old.denied);
	old = count;
	paused = 0;
	swept = now;
}

/* Accepting. */

/* A slot for a newcomer, if need be that of the oldest who had two seconds for a request head. */
static struct conn *
find_slot(void)
{
	struct conn *oldest = NULL;

	for (struct conn *c = slots; c < slots + cf.max_clients; c++) {
		if (c->state == FREE)
			return c;
		if (c->state <= HEAD && c->status == 0 && now - c->start >= UNFINISHED &&
			(oldest == NULL || c->start < oldest->start))
			oldest = c;
	}
	if (oldest != NULL)
		conn_close(oldest, "made room for a newcomer");
	return oldest;
}

/* One client a turn and listener.  Behind a proxy the limit waits for the client's address. */
static void
accept_one(const struct listener *l)
{
	int proxy = l->proxy.sa.sa_family != AF_UNSPEC;
	union address a; /* the kernel fills it, zeros too */
	socklen_t len = sizeof a;
	struct conn *c = NULL;
	int fd = accept4(l->fd, &a.sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			log_line(WARNING, "accepting pauses: %s", strerror(errno));
			paused = 1;
		}
		return;
	}
	if (proxy && !in_network(&a, &l->proxy, l->bits))
		log_line(INFO, "%s - - - in=0 out=0 secs=0.000: not from the proxy",
			show_address(&a));
	else if (proxy || cf.max_per_ip == 0 || held_by(&a) < cf.max_per_ip)
		c = find_slot();
	if (c == NULL) {
		close(fd);
		count.refused++;
		return;
	}
	*c = (struct conn){ .io = c->io, .tls = c->tls, .fd = fd, .bfd = -1, .lis = l, .addr = a };
	c->state = proxy ? PROXY : SHAKE;
	c->id = (uint32_t)count.accepted++;
	c->start = c->heard = now;
	c->deadline = now + cf.timeout;
	c->asleep = 1;
	wake(c);
	clients++;
	if (!tls_open(c))
		conn_close(c, "no entropy");
}

/* Signals. */

static void
reload(void)
{
	const char *wrong;

	for (struct conn *c = slots; c < slots + cf.max_clients; c++)
		if (c->state != FREE && c->state <= SHAKE && !c->lis->plain)
			conn_close(c, "reload during the handshake");
	if ((wrong = load_files()) != NULL)
		log_line(ERR, "reload refused: %s", wrong);
	else
		log_line(INFO, "reloaded");
}

static void
log_counters(void)
{
	unsigned used = 0;

	for (struct conn *c = slots; c < slots + cf.max_clients; c++)
		used += c->bfd >= 0;
	log_line(INFO,
		"counters: clients=%u asleep=%u backends=%u accepted=%llu refused=%llu denied=%llu "
		"handshakes=%llu resumed=%llu requests=%llu upgrades=%llu frames_in=%llu "
		"frames_out=%llu bytes_in=%llu bytes_out=%llu bugs=%llu",
		clients, clients - awakes, used, count.accepted, count.refused, count.denied,
		count.handshakes, count.resumed, count.requests, count.upgrades, count.frames_in,
		count.frames_out, count.bytes_in, count.bytes_out, count.bugs);
}

static void
take_signals(void)
{
	struct signalfd_siginfo si;

	while (read(signal_fd, &si, sizeof si) == (ssize_t)sizeof si) {
		if (si.ssi_signo == SIGHUP) {
			reload();
		} else if (si.ssi_signo == SIGUSR1) {
			log_counters();
		} else if (!stopping) {
			log_line(INFO, "stopping, %u clients", clients);
			stopping = now;
			swept = 0; /* look_at does the rest */
			for (unsigned i = 0; i < cf.listeners; i++)
				close(cf.listener[i].fd);
		}
	}
}

/* The loop. */

static void
step_all(void)
{
	struct conn *oldest = NULL;

	for (unsigned i = awakes; i-- > 0;) { /* an end moves one here that was stepped */
		struct conn *c = awake[i];

		if (c->again && (c->state > SHAKE || c->lis->plain))
			conn_step(c);
		else if (c->again && (oldest == NULL || (int32_t)(c->id - oldest->id) < 0))
			oldest = c;
	}
	if (oldest != NULL)
		conn_step(oldest);
	/*
	 * Subscribers are stepped in the same turn, asleep or not; what comes in by that waits for
	 * the next.  (A list of them would save the walk, and be one more thing to keep right.)
	 */
	for (struct route *r = cf.route; r < cf.route + cf.routes; r++) {
		for (int pass = 0; r->hub.posted; pass++) {
			r->hub.posted = 0;
			for (struct conn *c = slots; c < slots + cf.max_clients; c++) {
				if (c->route != r || c->state != OPEN)
					continue;
				wake(c);
				if (pass == 0)
					conn_step(c);
			}
		}
	}
}

static void
loop(void)
{
	struct timespec ts;

	while (!stopping || clients > 0) {
		int again = 0;

		pfds = 0;
		pfd[pfds++] = (struct pollfd){ signal_fd, POLLIN, 0 };
		pfd[pfds++] = (struct pollfd){ epoll_fd, POLLIN, 0 };
		for (const struct listener *l = cf.listener; l < cf.listener + cf.listeners; l++)
			pfd[pfds++] = (struct pollfd){ paused || stopping ? -1 : l->fd, POLLIN, 0 };
		for (unsigned i = awakes; i-- > 0;) /* an end moves one here that is in pfd */
			again |= interest(awake[i]);
		if (poll(pfd, pfds, again ? 0 : TICK) < 0)
			poll(NULL, 0, 10); /* no memory for the list: no spin until there is */
		clock_gettime(CLOCK_MONOTONIC, &ts);
		now = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
		for (unsigned i = awakes; i-- > 0;) /* an end moves one here that was marked */
			mark_events(awake[i]);
		if (pfd[1].revents != 0)
			wake_sleepers();
		for (unsigned i = 0; i < cf.listeners; i++)
			if (pfd[2 + i].revents != 0)
				accept_one(&cf.listener[i]);
		if (pfd[0].revents != 0)
			take_signals();
		step_all();
		if (now - swept >= TICK)
			sweep();
	}
}

int
main(int argc, char **argv)
{
	int fd = 0;

	while (fd >= 0 && fd < 3) /* a descriptor below 3 must never be a client */
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	close(fd);
	cf.max_clients = 64;
	cf.max_per_ip = -1; /* half of max_clients, whatever that will be */
	cf.max_message = 65536;
	cf.timeout = 10;
	cf.ping = 30;
	for (int i = 1; i < argc; i++)
		i += take_word("command line: ", 2, argv[i], argv[i + 1]);
	if (cf.version || cf.help) {
		printf("wssd " WSSD_VERSION "%s\n", cf.help ? "" : ", " WSSD_BUILD);
		for (const struct option *o = options; cf.help && o->name != NULL; o++)
			printf("  %s%-*s %s\n", o->name, 37 - (int)strlen(o->name), o->value,
				o->help);
		return fflush(stdout) == 0 ? 0 : 1;
	}
	check_config();
	confine();
	if (cf.check)
		return 0;
	loop();
	log_line(INFO, "stopped");
	return 0;
}
