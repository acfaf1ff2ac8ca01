/*
 * The frame: options and configuration, listeners, slots, the poll loop, deadlines, signals, log.
 * This file owns every slot from accept to wipe; it never looks at a byte that a client sent and
 * calls no function of BearSSL.
 *
 * What always holds:
 * - All memory is reserved before the loop begins, by max-clients, in one mmap(2).
 * - Poll interest is computed from the state in each turn, in interest(), which is also the one
 *   place where engines are flushed.  A descriptor from which nothing can be taken is not polled.
 * - Signals arrive only inside ppoll(2).
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
#include <time.h>
#include <unistd.h>

enum {
	WORDS = 65536,     /* room for the configuration's words */
	TICK = 1000,       /* milliseconds between looks at the deadlines */
	UNFINISHED = 2000, /* a connection this old without a request head may make room */
	GRACE = 4000,      /* from SIGTERM to the end, at most, in milliseconds */
	WAKES = 64,        /* sleepers woken a turn */
	NOTSENT = 16384    /* TCP_NOTSENT_LOWAT */
};

struct config cf = {
	.root_fd = -1,
	.max_clients = 64,
	.max_per_ip = -1,
	.max_message = 65536,
	.timeout = 10000,
	.ping = 30000,
};
struct counters count;
int64_t now;

static struct conn *slot;  /* max_clients of them */
static struct conn *spare; /* free ones, the last closed first */
static uint64_t *network;  /* for each slot the client's address, IPv6 by /64; 0: free */
static uint32_t *awake;    /* slots that are not at rest */
static struct pollfd *pfd;
static uint32_t *owner; /* of each pollfd: slot * 2, + 1 for the backend's */
static unsigned awakes, pfds, clients, sleepers, dirty;
static size_t io_size;
static uint32_t serial;
static int epoll_fd = -1;
static int64_t paused;   /* no accepting until then: descriptors ran out */
static int64_t stopping; /* since when; 0: not */
static volatile sig_atomic_t got_signal[4];
static const int signals[4] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };

/* Log. */

static void
write_line(const char *format, va_list ap, int priority)
{
	static int journal = -1;
	char text[1024], line[4 * sizeof text];
	size_t n = 0;

	if (journal < 0)
		journal = getenv("JOURNAL_STREAM") != NULL;
	vsnprintf(text, sizeof text, format, ap);
	if (journal)
		n = (size_t)snprintf(line, sizeof line, "<%d>", priority);
	for (const char *p = text; *p != '\0' && n < sizeof line - 8; p++) {
		if (*p >= ' ' && *p <= '~')
			line[n++] = *p;
		else
			n += (size_t)snprintf(line + n, 5, "\\x%02x", (unsigned char)*p);
	}
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		return; /* there is nobody left to tell */
}

void
log_line(int priority, const char *format, ...)
{
	va_list ap;

	if (priority == DEBUG && !cf.verbose)
		return;
	va_start(ap, format);
	write_line(format, ap, priority);
	va_end(ap);
}

_Noreturn void
die(const char *format, ...)
{
	char text[512];
	size_t n = strlen(format);
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	log_line(ERR, "wssd: %s%s%s", text, n > 0 && format[n - 1] == ':' ? " " : "",
		n > 0 && format[n - 1] == ':' ? strerror(errno) : "");
	exit(1);
}

/* Configuration: words from the command line and from a file, read by one table. */

static char words[WORDS];
static size_t words_used;

static char *
keep_word(const char *p, size_t n)
{
	char *to = words + words_used;

	if (n >= WORDS - words_used)
		die("the configuration has more than %d bytes", WORDS);
	memcpy(to, p, n);
	to[n] = '\0';
	words_used += n + 1;
	return to;
}

const char *
parse_address(char *text, struct sockaddr_storage *addr, socklen_t *len)
{
	struct sockaddr_in *in = (struct sockaddr_in *)addr;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)addr;
	char *colon = strrchr(text, ':'), *end;
	unsigned long port = colon != NULL ? strtoul(colon + 1, &end, 10) : 0;
	size_t n;

	if (colon == NULL || colon[1] < '0' || colon[1] > '9' || *end != '\0' || port > 65535)
		return "needs ADDRESS:PORT";
	*colon = '\0';
	n = strlen(text);
	if (strcmp(text, "localhost") == 0)
		memcpy(text, "127.0.0.1", 10);
	if (text[0] == '[' && text[n - 1] == ']') {
		text[n - 1] = '\0';
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)port);
		*len = sizeof *in6;
		return inet_pton(AF_INET6, text + 1, &in6->sin6_addr) == 1 ? NULL
									   : "has no IPv6 address";
	}
	in->sin_family = AF_INET;
	in->sin_port = htons((uint16_t)port);
	*len = sizeof *in;
	return inet_pton(AF_INET, text, &in->sin_addr) == 1
		       ? NULL
		       : "needs a numeric address ([...] for IPv6) or localhost";
}

static const char *
add_name(struct names *names, const char *name)
{
	if (names->n == NAMES_MAX)
		return "is one too many";
	if (*name == '\0')
		return "is empty";
	names->v[names->n++] = name;
	return NULL;
}

static const char *
set_listen(char *value)
{
	struct listener *l = &cf.listener[cf.listeners];
	char *part = strchr(value, ',');

	if (cf.listeners == LISTENERS_MAX)
		return "is one too many";
	if (part != NULL)
		*part++ = '\0';
	l->plain = strncmp(value, "ws://", 5) == 0;
	if (!l->plain && strncmp(value, "wss://", 6) != 0)
		return "needs wss:// or ws:// in front";
	cf.listeners++;
	if (part != NULL && strncmp(part, "client-ca=", 10) == 0 && !l->plain)
		l->client_ca = part + 10;
	else if (part != NULL)
		return "has an attribute that is not client-ca=FILE of a wss:// listener";
	return parse_address(value + (l->plain ? 5 : 6), &l->addr, &l->addr_len);
}

static const char *
set_origin(char *value)
{
	return add_name(&cf.origins, value);
}

static const char *
set_host(char *value)
{
	return add_name(&cf.hosts, value);
}

static const char *
parse_number(const char *text, int64_t min, int64_t max, int64_t *number)
{
	static char wrong[64];
	char *end;
	long long v;

	errno = 0;
	v = strtoll(text, &end, 10);
	if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || v < min || v > max) {
		snprintf(wrong, sizeof wrong, "must be a number from %lld to %lld", (long long)min,
			(long long)max);
		return wrong;
	}
	*number = v;
	return NULL;
}

static const char *
route_attribute(struct route *r, char *part)
{
	int hub = strcmp(r->backend->name, "hub") == 0;
	int64_t number = 0;
	const char *wrong = NULL;
	char *alternative;

	if (strncmp(part, "origin=", 7) == 0)
		return add_name(&r->origins, part + 7);
	if (strncmp(part, "protocol=", 9) == 0) {
		part += 9;
		while (wrong == NULL && (alternative = strsep(&part, "|")) != NULL)
			wrong = add_name(&r->protocols, alternative);
		return wrong;
	}
	if (hub && strncmp(part, "ring=", 5) == 0) {
		wrong = parse_number(part + 5, 1, 1 << 30, &number);
		r->hub.size = (size_t)number;
		return wrong;
	}
	if (hub && strncmp(part, "last=", 5) == 0) {
		wrong = parse_number(part + 5, 1, 1000000, &number);
		r->hub.last = (unsigned)number;
		return wrong;
	}
	return "has an attribute that this backend does not know";
}

static const char *
set_route(char *value)
{
	struct route *r = &cf.route[cf.routes];
	char *text = strchr(value, '='), *part, *address;
	const char *wrong;

	if (cf.routes == ROUTES_MAX)
		return "is one too many";
	if (value[0] != '/' || text == NULL)
		return "is not PATH=BACKEND";
	*text++ = '\0';
	r->path = value;
	for (unsigned i = 0; i < cf.routes; i++)
		if (strcmp(cf.route[i].path, value) == 0)
			return "has a path that another route has";
	part = strsep(&text, ",");
	address = strchr(part, ':');
	r->backend = ws_backend(part, address != NULL ? (size_t)(address - part) : strlen(part));
	if (r->backend == NULL)
		return "names no known backend (echo, hub, tcp:ADDRESS:PORT, unix:FILE)";
	wrong = r->backend->address(r, address != NULL ? address + 1 : part + strlen(part));
	while (wrong == NULL && (part = strsep(&text, ",")) != NULL)
		wrong = route_attribute(r, part);
	cf.routes++;
	return wrong;
}

static const char *read_config(char *file);

static const struct option {
	const char *name, *arg, *help;
	const char *(*set)(char *value);
	const char **text;
	int *flag;
	int64_t *number, min, max, unit;
} options[] = {
	{ "listen", "URL",
		"wss://ADDRESS:PORT or ws://ADDRESS:PORT; may repeat; port 0: any free one;\n"
		"behind it ,client-ca=FILE as --client-ca for this listener alone",
		.set = set_listen },
	{ "cert", "FILE", "certificate chain in PEM, the server's own first", .text = &cf.cert },
	{ "key", "FILE", "its private key in PEM: EC (P-256, P-384) or RSA", .text = &cf.key },
	{ "client-ca", "FILE",
		"on every wss listener, clients must have a certificate of one of these CAs",
		.text = &cf.client_ca },
	{ "root", "DIR", "static files for the paths that no route has", .text = &cf.root },
	{ "origin", "ORIGIN",
		"allowed Origin of upgrades; may repeat; `any` allows all;\n"
		"default: the listener's scheme and what Host: says",
		.set = set_origin },
	{ "host", "NAME",
		"accepted Host name; may repeat; `any` allows all; default on wss: any,\n"
		"on ws: addresses, localhost and this machine's name",
		.set = set_host },
	{ "max-clients", "N", "connections at a time (64)", .number = &cf.max_clients, 1, 1000000,
		1 },
	{ "max-per-ip", "N", "of one address, IPv6 by /64; 0: no limit (half of max-clients)",
		.number = &cf.max_per_ip, 0, 1000000, 1 },
	{ "max-message", "BYTES", "largest message of a hub (65536)", .number = &cf.max_message, 1,
		1 << 28, 1 },
	{ "timeout", "S", "seconds for a handshake and head, an idle or stalled client (10)",
		.number = &cf.timeout, 1, 86400, 1000 },
	{ "ping", "S", "seconds of silence before a WebSocket client is pinged; 0: never (30)",
		.number = &cf.ping, 0, 86400, 1000 },
	{ "config", "FILE", "the same words without --, one option or route a line, # comments",
		.set = read_config },
	{ "check", NULL, "test the configuration and exit", .flag = &cf.check },
	{ "verbose", NULL, "log requests and upgrades too", .flag = &cf.verbose },
	{ "version", NULL, "print the version and exit", .flag = NULL },
	{ "help", NULL, "print this text and exit", .flag = NULL },
};

static void
print_help(void)
{
	printf("wssd [OPTION]... [ROUTE]...\n\n"
	       "A ROUTE is PATH=BACKEND[,ATTRIBUTE]... where BACKEND is\n"
	       "  echo                 each message back to its sender\n"
	       "  hub                  each message to every other client of the route;\n"
	       "                       ring=BYTES (4 x max-message), last=N for newcomers\n"
	       "  tcp:ADDRESS:PORT     payload bytes to and from a TCP server\n"
	       "  unix:FILE            the same with a Unix stream socket\n"
	       "and every route may have protocol=A|B and origin=ORIGIN.\n\n");
	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
		const char *p = options[i].help;
		int n = printf(
			"  --%s %s", options[i].name, options[i].arg != NULL ? options[i].arg : "");

		for (; p != NULL; n = 0) {
			const char *end = strchr(p, '\n');

			printf("%*s%.*s\n", n < 23 ? 23 - n : 1, "",
				end != NULL ? (int)(end - p) : 200, p);
			p = end != NULL ? end + 1 : NULL;
		}
	}
}

/* One option or route: the name, and the value or NULL.  Returns NULL or what is wrong. */
static const char *
set_option(const char *name, size_t n, char *value)
{
	const struct option *o = options, *end = o + sizeof options / sizeof options[0];
	const char *wrong = NULL;

	for (; o < end && (strlen(o->name) != n || memcmp(o->name, name, n) != 0); o++)
		;
	if (o == end)
		return "is not an option";
	if (o->arg != NULL && (value == NULL || *value == '\0'))
		return "needs a value";
	if (o->arg == NULL && value != NULL)
		return "takes no value";
	if (o->set != NULL)
		return o->set(value);
	if (o->text != NULL)
		*o->text = value;
	else if (o->flag != NULL)
		*o->flag = 1;
	else if (o->number != NULL &&
		 (wrong = parse_number(value, o->min, o->max, o->number)) == NULL)
		*o->number *= o->unit;
	else if (o->number == NULL) {
		if (name[0] == 'h')
			print_help();
		else
			printf("wssd %s\n", WSSD_VERSION);
		exit(fflush(stdout) == 0 ? 0 : 1);
	}
	return wrong;
}

static _Noreturn void
usage(const char *where, const char *word, const char *wrong)
{
	log_line(ERR, "wssd: %s: %s %s", where, word, wrong);
	exit(2);
}

static void
config_line(char *line, const char *where)
{
	char *end = line + strlen(line), *value, *word;
	const char *wrong;
	size_t n;

	for (char *p = end; p-- > line;)
		if (*p == '#' && (p == line || p[-1] == ' ' || p[-1] == '\t'))
			end = p;
	while (end > line && strchr(" \t\r", end[-1]) != NULL)
		end--;
	*end = '\0';
	line += strspn(line, " \t");
	if (*line == '\0')
		return;
	n = strcspn(line, " \t");
	value = line + n + strspn(line + n, " \t");
	word = keep_word(line, strlen(line));
	if (*line == '/')
		wrong = set_route(keep_word(line, strlen(line)));
	else if (strncmp(line, "config", n) == 0 && n == 6)
		wrong = "is not for a configuration file";
	else
		wrong = set_option(
			line, n, *value != '\0' ? keep_word(value, strlen(value)) : NULL);
	if (wrong != NULL)
		usage(where, word, wrong);
}

static const char *
read_config(char *file)
{
	static char text[WORDS];
	char where[300], *rest = text, *line;
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t n = 1;

	if (fd < 0)
		die("%s:", file);
	while (n > 0 && used < sizeof text - 1) {
		n = read(fd, text + used, sizeof text - 1 - used);
		if (n < 0)
			die("%s:", file);
		used += (size_t)n;
	}
	close(fd);
	if (n > 0)
		die("%s: has more than %d bytes", file, WORDS);
	if (strlen(text) != used)
		die("%s: has a NUL byte", file);
	for (unsigned i = 1; (line = strsep(&rest, "\n")) != NULL; i++) {
		snprintf(where, sizeof where, "%s:%u", file, i);
		config_line(line, where);
	}
	return NULL;
}

static void
parse_words(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i], *wrong, *equals = strchr(word, '=');
		size_t n = equals != NULL ? (size_t)(equals - word) : strlen(word);
		char *value = equals != NULL ? keep_word(equals + 1, strlen(equals + 1)) : NULL;

		if (strncmp(word, "--", 2) != 0) {
			wrong = set_route(keep_word(word, strlen(word)));
		} else {
			for (size_t k = 0; k < sizeof options / sizeof options[0] && value == NULL;
				k++)
				if (strcmp(word + 2, options[k].name) == 0 &&
					options[k].arg != NULL && i + 1 < argc)
					value = keep_word(argv[i + 1], strlen(argv[i + 1])), i++;
			wrong = set_option(word + 2, n - 2, value);
		}
		if (wrong != NULL)
			usage("command line", word, wrong);
	}
}

/* What no single option can tell. */
static void
check_config(void)
{
	int tls = 0;

	if (cf.listeners == 0)
		usage("command line", "--listen", "is missing");
	if (cf.max_per_ip < 0)
		cf.max_per_ip = (cf.max_clients + 1) / 2;
	for (unsigned i = 0; i < cf.listeners; i++) {
		tls |= !cf.listener[i].plain;
		if (!cf.listener[i].plain && cf.listener[i].client_ca == NULL)
			cf.listener[i].client_ca = cf.client_ca;
	}
	if (tls && (cf.cert == NULL || cf.key == NULL))
		usage("command line", "--listen wss://", "needs --cert and --key");
	cf.text_size = HEAD_MAX;
	for (unsigned i = 0; i < cf.routes; i++) {
		struct route *r = &cf.route[i];
		/* a message in fragments, each with 4 bytes of header and 8 of its ring entry */
		size_t least = (size_t)cf.max_message * (HUB_FRAME + 16) / HUB_FRAME + 64, size = 1;

		if (!r->backend->whole)
			continue;
		if (r->hub.size == 0)
			r->hub.size = 4 * least;
		if (r->hub.size < least)
			usage(r->path, "ring=", "is smaller than max-message");
		while (size < r->hub.size)
			size *= 2;
		r->hub.size = size;
		if (cf.text_size < (size_t)cf.max_message)
			cf.text_size = (size_t)cf.max_message;
	}
	if (cf.root != NULL) {
		cf.root_fd = open(cf.root, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (cf.root_fd < 0)
			die("%s:", cf.root);
	}
	if (gethostname(cf.hostname, sizeof cf.hostname - 1) != 0)
		cf.hostname[0] = '\0';
	if (tls) {
		const char *wrong = tls_load();

		if (wrong != NULL)
			die("%s", wrong);
	}
}

/* The start: memory, descriptors, listeners, signals. */

static size_t
pages(size_t n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (n + page - 1) / page * page;
}

/* All memory that there will ever be; untouched pages cost nothing. */
static void
reserve(void)
{
	size_t n = (size_t)cf.max_clients, rings = 0, polls = 2 * n + LISTENERS_MAX + 1, small,
	       total;
	unsigned char *p, *arena;

	io_size = pages(IO_TEXT + cf.text_size);
	for (unsigned i = 0; i < cf.routes; i++)
		rings += cf.route[i].hub.size;
	small = pages(n * (sizeof *slot + tls_size() + sizeof *network + sizeof *awake) +
		      polls * (sizeof *pfd + sizeof *owner));
	total = small + pages(rings) + n * io_size;
	p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		-1, 0);
	if (p == MAP_FAILED)
		die("%zu KiB for %lld clients:", total / 1024, (long long)cf.max_clients);
	madvise(p, total, MADV_NOHUGEPAGE);
	arena = p + small + pages(rings);
	for (unsigned i = 0; i < cf.routes; i++) {
		cf.route[i].hub.ring = arena - rings;
		rings -= cf.route[i].hub.size;
	}
	slot = (void *)(p + n * tls_size());
	network = (void *)(slot + n);
	pfd = (void *)(network + n);
	owner = (void *)(pfd + polls);
	awake = owner + polls;
	for (size_t i = n; i-- > 0;) {
		slot[i].fd = slot[i].bfd = -1;
		slot[i].tls = (void *)(p + i * tls_size());
		slot[i].io = arena + i * io_size;
		slot[i].hub_next = spare;
		spare = &slot[i];
	}
	log_line(INFO,
		"reserved %zu KiB for %lld clients, %zu of them in use when they are at rest",
		total / 1024, (long long)cf.max_clients, small / 1024);
}

static void
raise_limit(void)
{
	struct rlimit rl;
	rlim_t need = 2 * (rlim_t)cf.max_clients + cf.listeners + 16;

	if (getrlimit(RLIMIT_NOFILE, &rl) != 0 || rl.rlim_cur >= need)
		return;
	rl.rlim_cur = rl.rlim_max < need ? rl.rlim_max : need;
	setrlimit(RLIMIT_NOFILE, &rl);
	if (rl.rlim_cur < need)
		log_line(WARNING,
			"%llu descriptors at most: %lld clients with backends may need %llu",
			(unsigned long long)rl.rlim_cur, (long long)cf.max_clients,
			(unsigned long long)need);
}

static void
show_address(const struct in6_addr *a, uint16_t port, char *text, size_t n)
{
	char ip[INET6_ADDRSTRLEN] = "";

	if (IN6_IS_ADDR_V4MAPPED(a)) {
		inet_ntop(AF_INET, &a->s6_addr[12], ip, sizeof ip);
		snprintf(text, n, "%s:%u", ip, port);
	} else {
		inet_ntop(AF_INET6, a, ip, sizeof ip);
		snprintf(text, n, "[%s]:%u", ip, port);
	}
}

/* IPv4 as IPv6 (RFC 4291 2.5.5.2); returns the port. */
static uint16_t
map_address(const struct sockaddr_storage *ss, struct in6_addr *a)
{
	static const struct in6_addr mapped = { { { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255 } } };
	const struct sockaddr_in *in = (const struct sockaddr_in *)ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;

	if (ss->ss_family == AF_INET6) {
		*a = in6->sin6_addr;
		return ntohs(in6->sin6_port);
	}
	*a = mapped;
	memcpy(&a->s6_addr[12], &in->sin_addr, 4);
	return ntohs(in->sin_port);
}

static void
listen_all(void)
{
	for (unsigned i = 0; i < cf.listeners; i++) {
		struct listener *l = &cf.listener[i];
		const char *scheme = l->plain ? "ws" : "wss";
		struct in6_addr addr;
		uint16_t port = map_address(&l->addr, &addr);
		char text[INET6_ADDRSTRLEN + 8];
		int on = 1;

		show_address(&addr, port, text, sizeof text);
		l->fd = socket(l->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (l->fd < 0)
			die("listen on %s://%s:", scheme, text);
		setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
		if (l->addr.ss_family == AF_INET6)
			setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
		if (bind(l->fd, (struct sockaddr *)&l->addr, l->addr_len) != 0 ||
			listen(l->fd, SOMAXCONN) != 0 ||
			getsockname(l->fd, (struct sockaddr *)&l->addr, &l->addr_len) != 0)
			die("listen on %s://%s:", scheme, text);
		port = map_address(&l->addr, &addr);
		show_address(&addr, port, text, sizeof text);
		log_line(INFO, "listening on %s://%s", scheme, text);
	}
}

static void
on_signal(int number)
{
	for (int i = 0; i < 4; i++)
		if (signals[i] == number)
			got_signal[i] = 1;
}

static void
catch_signals(void)
{
	struct sigaction sa = { .sa_handler = on_signal };
	sigset_t all;

	sigemptyset(&sa.sa_mask);
	sigemptyset(&all);
	for (int i = 0; i < 4; i++) {
		sigaddset(&all, signals[i]);
		sigaction(signals[i], &sa, NULL);
	}
	sigprocmask(SIG_BLOCK, &all, NULL);
	sa.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &sa, NULL);
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
	sleepers--;
	c->spot = awakes;
	awake[awakes++] = (uint32_t)(c - slot);
}

static void
leave_awake(const struct conn *c)
{
	awakes--;
	awake[c->spot] = awake[awakes];
	slot[awake[c->spot]].spot = c->spot;
}

static uint64_t
network_of(const struct in6_addr *a)
{
	uint64_t key = 0;

	for (int i = 0; i < 4; i++)
		key = key << 8 | a->s6_addr[12 + i];
	if (IN6_IS_ADDR_V4MAPPED(a))
		return key | 1ULL << 32;
	for (int i = 0; i < 8; i++)
		key = key << 8 | a->s6_addr[i];
	return key != 0 ? key : 1; /* ::/64 */
}

static void
conn_close(struct conn *c, const char *why)
{
	int64_t ms = now - c->start;
	unsigned status = c->status == 101 ? 1006 : c->status;
	char text[INET6_ADDRSTRLEN + 8], code[8] = "-";

	show_address(&c->addr, c->port, text, sizeof text);
	if (status != 0)
		snprintf(code, sizeof code, "%u", status);
	if (strncmp(why, "bug:", 4) == 0)
		count.bugs++;
	log_line(INFO, "%s %s %s %s in=%llu out=%llu secs=%lld.%03d: %s", text, tls_suite(c),
		c->path[0] != '\0' ? c->path : "-", code, (unsigned long long)c->in,
		(unsigned long long)c->out, (long long)(ms / 1000), (int)(ms % 1000), why);
	ws_leave(c);
	close(c->fd);
	explicit_bzero(c->io + IO_STASH, IO_TEXT - IO_STASH);
	explicit_bzero(c->io + IO_TEXT, c->text_high);
	tls_wipe(c);
	if (c->asleep)
		sleepers--;
	else
		leave_awake(c);
	network[c - slot] = 0;
	paused = 0;
	clients--;
	c->fd = -1;
	c->state = FREE;
	c->hub_next = spare;
	spare = c;
}

/* Sets every field of a fresh slot. */
static void
conn_new(int fd, const struct listener *l, const struct sockaddr_storage *ss)
{
	static const int on = 1, lowat = NOTSENT;
	struct conn *c = spare;
	struct tls *tls = c->tls;
	unsigned char *io = c->io;

	spare = c->hub_next;
	dirty += !c->dirty;
	memset(c, 0, sizeof *c);
	c->tls = tls;
	c->io = io;
	c->dirty = 1;
	c->first = 1;
	c->fd = fd;
	c->bfd = -1;
	c->lis = l;
	c->id = serial++;
	c->start = c->heard = c->stepped = now;
	c->deadline = now + cf.timeout;
	c->port = map_address(ss, &c->addr);
	c->state = SHAKE;
	c->spot = awakes;
	awake[awakes++] = (uint32_t)(c - slot);
	network[c - slot] = network_of(&c->addr);
	clients++;
	count.accepted++;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat);
	if (!tls_open(c))
		conn_close(c, "no entropy");
}

/* One step of the state machine. */
static enum step
state_step(struct conn *c)
{
	enum step s;

	switch (c->state) {
	case SHAKE:
		s = tls_out(c);
		if (s == DEAD || !tls_ready(c))
			return s;
		count.handshakes += !c->lis->plain && !c->misplaced;
		count.resumed += (uint64_t)(!c->misplaced && tls_resumed(c));
		c->state = HEAD;
		return MORE;
	case HEAD:
	case CONNECT:
	case BODY:
		return http_step(c);
	case OPEN:
	case DRAIN:
		return c->bye ? tls_bye(c) : ws_step(c);
	default:
		return dead(c, "bug: step of a free slot");
	}
}

/* Drives a connection as long as there is progress, or until its rounds run out. */
static void
conn_step(struct conn *c)
{
	c->stepped = now;
	c->again = 0;
	for (int round = 0; round < ROUNDS; round++) {
		enum step in = WAIT, s;
		size_t room;

		c->full = 0;
		if (c->state != BODY && !c->bye)
			in = tls_in(c);
		s = in == DEAD ? DEAD : state_step(c);
		if (s == WAIT && in == WAIT) {
			if (!c->full || c->state == SHAKE)
				return;
			s = tls_out(c); /* the window is full: what it holds may go now */
			if (s == WAIT || (s == MORE && tls_room(c, &room) == NULL))
				return;
		}
		if (s == DEAD) {
			conn_close(c, c->why);
			return;
		}
	}
	c->again = 1; /* lost wake-up 1 */
}

/* Flushes, writes, and adds what is to be polled; returns whether it is to be stepped anyway. */
static int
interest(struct conn *c)
{
	short events, backend = 0;
	size_t room;

	if (!c->bye && tls_out(c) == DEAD) { /* lost wake-up 2 */
		conn_close(c, c->why);
		return 0;
	}
	if (c->full && tls_room(c, &room) != NULL)
		c->again = 1; /* lost wake-up 3 */
	events = tls_events(c);
	if (c->state == BODY || ((c->state == HEAD || c->bye) && (events & POLLOUT) != 0))
		events &= POLLOUT; /* an end of input must not overtake the reply */
	if ((events & POLLOUT) == 0)
		c->stalled = 0;
	else if (c->stalled == 0)
		c->stalled = now;
	if (events != 0) {
		owner[pfds] = (uint32_t)(c - slot) * 2;
		pfd[pfds++] = (struct pollfd){ .fd = c->fd, .events = events };
	}
	if (c->bfd >= 0 && c->route != NULL) {
		if (c->bfull)
			backend |= POLLOUT;
		if (c->state != CONNECT && !c->bready && !c->beof && c->closing == 0)
			backend |= POLLIN;
	}
	if (backend != 0) {
		owner[pfds] = (uint32_t)(c - slot) * 2 + 1;
		pfd[pfds++] = (struct pollfd){ .fd = c->bfd, .events = backend };
	}
	return c->again;
}

/* Rest. */

static int
sleep_on(int fd, uint8_t *registered, uint8_t bit, uint32_t index)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT,
		.data.u32 = index };
	int op = (*registered & bit) != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (epoll_ctl(epoll_fd, op, fd, &ev) != 0)
		return 0;
	*registered |= bit;
	return 1;
}

static void
rest(struct conn *c)
{
	uint32_t index = (uint32_t)(c - slot);

	if (c->asleep || c->again || now - c->stepped < TICK || !tls_idle(c) ||
		(c->state != OPEN && (c->state != HEAD || c->text > 0)) ||
		(c->state == OPEN && !ws_idle(c)))
		return;
	if (!sleep_on(c->fd, &c->in_epoll, 1, index) ||
		(c->bfd >= 0 && !sleep_on(c->bfd, &c->in_epoll, 2, index)))
		return;
	leave_awake(c);
	c->asleep = 1;
	sleepers++;
	madvise(c->io, io_size, MADV_DONTNEED);
	tls_forget(c);
	c->text_high = 0;
}

static void
wake_sleepers(void)
{
	struct epoll_event ev[WAKES];
	int n = epoll_wait(epoll_fd, ev, WAKES, 0);

	for (int i = 0; i < n; i++) {
		struct conn *c = &slot[ev[i].data.u32];

		if (c->state == FREE)
			continue;
		wake(c);
		c->readable = c->again = 1;
		c->bready = c->bfd >= 0 && c->route != NULL && !c->beof;
	}
}

/* Deadlines. */

static void
look_at_open(struct conn *c)
{
	int reading = c->asleep || (tls_events(c) & POLLIN) != 0;

	if (cf.ping == 0 || now - c->heard < cf.ping)
		return;
	if (reading && c->pinged && now - c->heard >= cf.ping + cf.timeout) {
		conn_close(c, "no answer to a ping");
	} else if (!c->pinged) {
		wake(c);
		ws_ping(c);
	}
	if (!reading) { /* the silence is not the client's; but a ping finds out a dead connection */
		c->heard = now;
		c->pinged = 0;
	}
}

static void
look_at(struct conn *c)
{
	int late = now >= c->deadline;

	if (c->stalled != 0 && now - c->stalled >= cf.timeout) {
		conn_close(c, "client takes no output");
		return;
	}
	switch (c->state) {
	case SHAKE:
	case HEAD:
		if (late)
			conn_close(c, c->state == SHAKE ? "handshake not complete in time"
				      : c->first        ? "request head not complete in time"
				      : c->text > 0     ? "request head not complete in time"
							: "idle");
		break;
	case CONNECT:
		conn_step(c); /* which looks at the clock itself */
		break;
	case OPEN:
		look_at_open(c);
		break;
	case DRAIN:
		if (late && c->got_close && c->closing == 0)
			conn_step(c);
		else if (late)
			conn_close(c, c->why);
		break;
	}
	if (c->state != FREE)
		rest(c);
}

static void
log_refusals(void)
{
	static uint64_t logged;
	static int64_t at;

	if (count.refused == logged || now < at)
		return;
	log_line(WARNING, "refused %llu connections: no slot, or max-per-ip",
		(unsigned long long)(count.refused - logged));
	logged = count.refused;
	at = now + 10 * TICK;
}

static void
sweep(void)
{
	for (int64_t i = 0; i < cf.max_clients; i++) {
		struct conn *c = &slot[i];

		if (c->state != FREE) {
			look_at(c);
		} else if (c->dirty && now - c->stepped >= TICK) {
			madvise(c->io, io_size, MADV_DONTNEED);
			c->dirty = 0;
			dirty--;
		}
	}
	log_refusals();
}

/* Accepting. */

/* The oldest connection without a complete request head makes room, if it had two seconds. */
static struct conn *
oldest_unfinished(void)
{
	struct conn *oldest = NULL;

	for (int64_t i = 0; i < cf.max_clients; i++) {
		struct conn *c = &slot[i];

		if ((c->state == SHAKE || c->state == HEAD) && c->first &&
			now - c->start >= UNFINISHED &&
			(oldest == NULL || c->start < oldest->start))
			oldest = c;
	}
	return oldest;
}

static void
admit(int fd, const struct listener *l, const struct sockaddr_storage *ss)
{
	struct in6_addr addr;
	int64_t same = 0;
	uint64_t key;

	map_address(ss, &addr);
	key = network_of(&addr);
	for (int64_t i = 0; i < cf.max_clients && cf.max_per_ip > 0; i++)
		same += network[i] == key;
	if (cf.max_per_ip == 0 || same < cf.max_per_ip) {
		if (spare == NULL) {
			struct conn *old = oldest_unfinished();

			if (old != NULL)
				conn_close(old, "made room for a newcomer");
		}
		if (spare != NULL) {
			conn_new(fd, l, ss);
			return;
		}
	}
	close(fd);
	count.refused++;
}

static void
accept_some(const struct listener *l)
{
	for (int i = 0; i < ACCEPTS; i++) {
		struct sockaddr_storage ss;
		socklen_t len = sizeof ss;
		int fd = accept4(l->fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			admit(fd, l, &ss);
			continue;
		}
		if (errno == EAGAIN)
			return;
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			static int64_t at;

			if (now >= at) {
				log_line(WARNING, "accepting pauses: %s", strerror(errno));
				at = now + 10 * TICK;
			}
			paused = now + TICK;
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
	for (int64_t i = 0; i < cf.max_clients; i++) {
		struct conn *c = &slot[i];

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
	const char *wrong;

	if (cf.cert == NULL)
		return;
	for (int64_t i = 0; i < cf.max_clients; i++)
		if (slot[i].state == SHAKE && tls_stale(&slot[i]))
			conn_close(&slot[i], "handshake across two reloads");
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

	for (int64_t i = 0; i < cf.max_clients; i++)
		backends += slot[i].bfd >= 0;
	log_line(INFO,
		"counters: clients=%u asleep=%u backends=%u accepted=%llu refused=%llu handshakes=%llu "
		"resumed=%llu requests=%llu upgrades=%llu frames_in=%llu frames_out=%llu bytes_in=%llu "
		"bytes_out=%llu bugs=%llu",
		clients, sleepers, backends, (unsigned long long)count.accepted,
		(unsigned long long)count.refused, (unsigned long long)count.handshakes,
		(unsigned long long)count.resumed, (unsigned long long)count.requests,
		(unsigned long long)count.upgrades, (unsigned long long)count.frames_in,
		(unsigned long long)count.frames_out, (unsigned long long)count.bytes_in,
		(unsigned long long)count.bytes_out, (unsigned long long)count.bugs);
}

static void
take_signals(void)
{
	if ((got_signal[0] || got_signal[1]) && !stopping)
		stop();
	if (got_signal[2]) {
		got_signal[2] = 0;
		reload();
	}
	if (got_signal[3]) {
		got_signal[3] = 0;
		log_counters();
	}
}

/* The loop. */

/* Marks what poll reported; returns whether the epoll descriptor was among it. */
static int
mark_events(unsigned listeners)
{
	for (unsigned k = listeners + 1; k < pfds; k++) {
		struct conn *c = &slot[owner[k] / 2];
		short events = pfd[k].revents;

		if (events == 0)
			continue;
		c->again = 1;
		if (owner[k] % 2 == 0) {
			c->readable |= (events & (POLLIN | POLLHUP | POLLERR)) != 0;
		} else {
			if ((events & (POLLIN | POLLHUP | POLLERR)) != 0)
				c->bready = !c->beof && c->state != CONNECT;
			if ((events & (POLLOUT | POLLHUP | POLLERR)) != 0)
				c->bfull = 0;
		}
	}
	return pfd[listeners].revents != 0;
}

static void
step_all(void)
{
	struct conn *oldest = NULL;

	for (unsigned i = awakes; i-- > 0;) {
		struct conn *c = &slot[awake[i]];

		if (!c->again)
			continue;
		if (c->state != SHAKE || c->lis->plain)
			conn_step(c);
		else if (oldest == NULL || c->start < oldest->start ||
			 (c->start == oldest->start && c->id < oldest->id))
			oldest = c;
	}
	if (oldest != NULL)
		conn_step(oldest);
	for (unsigned i = 0; i < cf.routes; i++) {
		struct hub *h = &cf.route[i].hub;
		int posted = h->posted;

		h->posted = 0;
		for (struct conn *c = posted ? h->subs : NULL, *next; c != NULL; c = next) {
			next = c->hub_next;
			wake(c);
			conn_step(c);
		}
	}
}

/* Fills the poll array: listeners, the epoll descriptor, awake slots.  Returns the timeout. */
static int
prepare_poll(unsigned listeners, int64_t next_sweep)
{
	int again = 0;
	int64_t wait = next_sweep - now;

	for (pfds = 0; pfds < listeners; pfds++)
		pfd[pfds] = (struct pollfd){ .fd = cf.listener[pfds].fd, .events = POLLIN };
	pfd[pfds++] = (struct pollfd){ .fd = epoll_fd, .events = POLLIN };
	for (unsigned i = awakes; i-- > 0;)
		again |= interest(&slot[awake[i]]);
	for (unsigned i = 0; i < cf.routes; i++)
		again |= cf.route[i].hub.posted;
	if (again)
		return 0;
	return clients + dirty == 0 && paused == 0 && !stopping ? -1 : wait < 0 ? 0 : (int)wait;
}

static void
loop(void)
{
	int64_t next_sweep = now + TICK;
	sigset_t none;

	sigemptyset(&none);
	while (!stopping || (clients > 0 && now - stopping < GRACE)) {
		unsigned listeners = stopping || paused > now ? 0 : cf.listeners;
		int wait = prepare_poll(listeners, next_sweep);
		struct timespec ts = { wait / 1000, wait % 1000 * 1000000 };

		if (ppoll(pfd, pfds, wait < 0 ? NULL : &ts, &none) < 0) {
			if (errno != EINTR)
				die("ppoll:");
			pfds = 0;
		}
		read_clock();
		take_signals();
		if (pfds > 0 && mark_events(listeners))
			wake_sleepers();
		step_all();
		for (unsigned i = 0; i < listeners && pfds > 0 && !stopping; i++)
			if (pfd[i].revents != 0)
				accept_some(&cf.listener[i]);
		if (now >= next_sweep) {
			if (paused <= now)
				paused = 0;
			sweep();
			next_sweep = now + TICK;
		}
	}
	for (int64_t i = 0; i < cf.max_clients; i++)
		if (slot[i].state != FREE)
			conn_close(&slot[i], slot[i].why != NULL ? slot[i].why : "server stops");
}

int
main(int argc, char **argv)
{
	int fd;
	time_t t = 0;
	struct tm tm;

	do { /* a descriptor below 3 must never be a client */
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (fd < 0)
			die("/dev/null:");
	} while (fd < 3);
	close(fd);
	gmtime_r(&t, &tm); /* the C library's first call may allocate and read files */
	parse_words(argc, argv);
	check_config();
	if (cf.check) {
		log_line(INFO, "configuration is fine");
		return 0;
	}
	raise_limit();
	read_clock();
	reserve();
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0)
		die("epoll_create1:");
	catch_signals();
	listen_all();
	loop();
	log_line(INFO, "stopped");
	return 0;
}
