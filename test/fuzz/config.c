/*
 * The configuration: words of a command line and lines of a file through the real table, to the end
 * of check_config and open_files, and a user looked up, over files that are not there.  exit(2) comes back here.  What was accepted must
 * keep the promises of ws.h; what was not must have been refused with one printable sentence.
 * An input: words, each up to a line feed, then a NUL byte and the file; the byte behind the NUL
 * says how read(2) cuts it.
 */
#include "fuzz.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

static _Noreturn void fake_exit(int status);
static ssize_t fake_write(int fd, const void *p, size_t n);
static ssize_t fake_read(int fd, void *p, size_t n);
static int fake_open(const char *file, int flags);
static int fake_close(int fd);
static int fake_poll(struct pollfd *p, nfds_t n, int timeout);
static char *fake_strsep(char **at, const char *set);

#define main   wssd_main
#define exit   fake_exit
#define write  fake_write
#define read   fake_read
#define open   fake_open
#define close  fake_close
#define poll   fake_poll
#define strsep fake_strsep
#include "main.c"
#undef main
#undef exit
#undef write
#undef read
#undef open
#undef close
#undef poll
#undef strsep

enum { FD = 1000, WORDS_MAX = 64 };

static jmp_buf out;
static int status, opened, sentences;
static char said[1024];
static struct input file; /* what is left of it */
static uint32_t dice;
static char **lines, *all_lines; /* where read_config keeps what is left of its text; at first */

static _Noreturn void
fake_exit(int how)
{
	status = how;
	longjmp(out, 1);
}

static ssize_t
fake_write(int fd, const void *p, size_t n)
{
	CHECK(fd == STDERR_FILENO && n > 1 && n < sizeof said);
	memcpy(said, p, n);
	said[n - 1] = '\0';
	CHECK(((const char *)p)[n - 1] == '\n');
	for (size_t i = 0; i + 1 < n; i++)
		CHECK(said[i] >= ' ' && said[i] <= '~');
	sentences++;
	return (ssize_t)n;
}

/* "missing" is not there, "broken" cannot be read, "dir" is the only directory. */
static int
fake_open(const char *name, int flags)
{
	if (strcmp(name, "missing") == 0 ||
		((flags & O_DIRECTORY) != 0) != (strcmp(name, "dir") == 0)) {
		errno = strcmp(name, "missing") == 0 ? ENOENT : ENOTDIR;
		return -1;
	}
	opened++;
	return FD + (strcmp(name, "broken") == 0);
}

static ssize_t
fake_read(int fd, void *p, size_t n)
{
	const uint8_t *from;

	if (fd != FD) {
		errno = EIO;
		return -1;
	}
	n = n < 1 + dice % 500 ? n : 1 + dice % 500;
	noise(&dice);
	from = take_bytes(&file, &n);
	memcpy(p, from, n);
	return (ssize_t)n;
}

static int
fake_close(int fd)
{
	CHECK(fd == FD || fd == FD + 1);
	opened--;
	return 0;
}

/* The log takes a line. */
static int
fake_poll(struct pollfd *p, nfds_t n, int timeout)
{
	CHECK(n == 1 && p->fd == STDERR_FILENO && timeout == 0);
	p->revents = POLLOUT;
	return 1;
}

/* The only way to a variable inside of read_config, which is good for one file in a life. */
static char *
fake_strsep(char **at, const char *set)
{
	if (lines == NULL && strcmp(set, "\n") == 0) {
		lines = at;
		all_lines = *at;
	}
	return strsep(at, set);
}

/* What check_config hands on: these have targets of their own. */

const char *
http_load(void)
{
	for (unsigned i = 0; i < cf.routes; i++)
		if (cf.route[i].auth != NULL && strcmp(cf.route[i].auth, "wrong") == 0)
			return "wrong:1: needs a SHA-256 digest, 64 hexadecimal digits";
	return NULL;
}

const char *
tls_load(void)
{
	return NULL;
}

static void
check_names(const struct names *n)
{
	CHECK(n->n <= NAMES_MAX);
	for (unsigned i = 0; i < n->n; i++)
		CHECK(n->v[i] != NULL && n->v[i][0] != '\0' && strchr(n->v[i], '|') == NULL);
}

static void
check_listener(const struct listener *l)
{
	sa_family_t family = l->addr.sa.sa_family;
	char ip[INET6_ADDRSTRLEN];

	CHECK(family == AF_INET || family == AF_INET6);
	CHECK(inet_ntop(family, ip_of(&l->addr), ip, sizeof ip) != NULL);
	CHECK(l->plain == 0 || l->plain == 1);
	CHECK(l->client_ca == NULL || !l->plain);
	CHECK(l->plain || (cf.tls && cf.cert != NULL && cf.key != NULL));
	CHECK(l->client_ca == cf.client_ca || l->client_ca != NULL || l->plain);
	if (l->proxy.sa.sa_family != AF_UNSPEC)
		CHECK(l->proxy.sa.sa_family == family && l->bits >= 0 &&
			l->bits <= (family == AF_INET ? 32 : 128));
	else
		CHECK(l->bits == 0);
}

static void
check_route(const struct route *r)
{
	const struct backend *b = r->backend;
	size_t least = ((size_t)cf.max_message / HUB_FRAME + 2) * (HUB_FRAME + 16);

	CHECK(r->path[0] == '/' && strpbrk(r->path, "=\n") == NULL && b->name != NULL);
	for (const struct route *other = cf.route; other < r; other++)
		CHECK(strcmp(other->path, r->path) != 0);
	CHECK(r->addr.sa.sa_family == b->family || b->family == AF_INET);
	if (b->family == AF_UNIX)
		CHECK(r->addr.un.sun_path[0] != '\0' &&
			memchr(r->addr.un.sun_path, '\0', sizeof r->addr.un.sun_path) != NULL);
	if (b->family == AF_INET)
		CHECK((r->addr.sa.sa_family == AF_INET || r->addr.sa.sa_family == AF_INET6) &&
			r->addr.in.sin_port != 0);
	CHECK(b->ring ? r->hub.size >= least && r->hub.size > HUB_FRAME : r->hub.size == 0);
	CHECK(r->ring >= 0 && r->ring <= 1 << 30 && (b->ring || r->ring == 0));
	CHECK(!r->text || strcmp(b->name, "seqpacket") == 0);
	check_names(&r->origins);
	check_names(&r->protocols);
}

static void
check_all(void)
{
	CHECK(cf.listeners >= 1 && cf.listeners <= LISTENERS_MAX && cf.routes <= ROUTES_MAX);
	for (unsigned i = 0; i < cf.listeners; i++)
		check_listener(&cf.listener[i]);
	for (unsigned i = 0; i < cf.routes; i++)
		check_route(&cf.route[i]);
	check_names(&cf.origins);
	check_names(&cf.hosts);
	CHECK(cf.max_clients >= 1 && cf.max_clients <= 1000000);
	CHECK(cf.max_per_ip >= 0 && cf.max_per_ip <= 1000000);
	CHECK(cf.max_message >= 1 && cf.max_message <= 1 << 28);
	CHECK(cf.timeout >= 1000 && cf.timeout <= 86400000 && cf.timeout % 1000 == 0);
	CHECK(cf.ping >= 0 && cf.ping <= 86400000 && cf.ping % 1000 == 0);
	CHECK((cf.check | cf.verbose | cf.version | cf.help | cf.no_sandbox) <= 1);
	CHECK(cf.root == NULL ? cf.root_fd == -1 : cf.root_fd == FD);
	CHECK(memchr(cf.hostname, '\0', sizeof cf.hostname) != NULL);
}

/* As main begins. */
static void
start(int words, char **word)
{
	cf = (struct config){ .max_clients = 64, .max_per_ip = -1, .max_message = 65536, .timeout = 10,
		.ping = 30 };
	for (int i = 0; i < words; i++)
		i += take_word("command line: ", 2, word[i], word[i + 1]);
	if (cf.version || cf.help)
		return;
	check_config();
	if (cf.user != NULL) {
		long long uid = -1, gid = -1;

		look_up("/etc/passwd", 3, cf.user, &uid, &gid);
		CHECK(uid >= 0 && uid < UINT32_MAX && gid >= 0 && gid < UINT32_MAX);
	}
	open_files();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text, *at, *word[WORDS_MAX + 1];
	const uint8_t *nul = size > 0 ? memchr(data, '\0', size) : NULL;
	size_t n = nul != NULL ? (size_t)(nul - data) : size;
	int words = 0;

	if (lines != NULL)
		*lines = all_lines;
	text = malloc(n + 1);
	CHECK(text != NULL);
	if (n > 0)
		memcpy(text, data, n);
	text[n] = '\0';
	for (at = text; n > 0 && words < WORDS_MAX && at != NULL;)
		word[words++] = strsep(&at, "\n");
	word[words] = NULL;
	file = nul != NULL ? (struct input){ nul + 1, size - n - 1 } : (struct input){ data, 0 };
	dice = 1 + take(&file) * 7919U;
	status = opened = sentences = 0;
	if (setjmp(out) == 0) {
		start(words, word);
		CHECK(sentences == 0);
		if (!cf.version && !cf.help)
			check_all();
		CHECK(opened == (cf.root != NULL && !cf.version && !cf.help));
	} else {
		CHECK((status == 1 || status == 2) && sentences == 1);
		CHECK(strncmp(said, "wssd: ", 6) == 0 && strlen(said) > 10);
	}
	free(text);
	return 0;
}
