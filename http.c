/*
 * Requests: the head, the rules of who may ask for what, the upgrade, files and error replies.
 * This file owns the grammar of RFC 9112 and the answers to strangers; it never sees a frame and
 * never touches a client's descriptor.
 *
 * What always holds:
 * - A head is complete before any of it is interpreted, at most HEAD_MAX bytes.  No body is ever
 *   read: a request that announces one is refused, so that nothing can be smuggled behind it.
 * - What decides who may do what (Host, Origin, Authorization, Cookie, the key) stands in a head
 *   once, or it is refused.
 * - http_scan and http_parse are pure: bytes in, offsets out.
 * - Nothing is started before a whole REPLY_MAX fits in the send window.  Each answer, 101 and 200
 *   too, is written by reply(); without a Date, since the clock of a gateway may be wrong or not
 *   set yet, and then it must not be sent (RFC 9110 6.6.1).
 * - After 200, 301, 304 and 404 the connection stays; after any other status it ends.
 * - A path reaches the file system component by component, below an O_PATH descriptor of the root;
 *   no component is empty or begins with a dot, no link is followed, only regular files are opened.
 */
#include "ws.h"

#include <bearssl.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const methods[] = { "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS",
	"TRACE", "PATCH" };
static const char *const statuses[] = { "101 Switching Protocols", "200 OK",
	"301 Moved Permanently", "304 Not Modified", "400 Bad Request", "401 Unauthorized",
	"403 Forbidden", "404 Not Found", "405 Method Not Allowed", "421 Misdirected Request",
	"426 Upgrade Required", "431 Request Header Fields Too Large", "501 Not Implemented",
	"502 Bad Gateway", "503 Service Unavailable", "505 HTTP Version Not Supported" };
static const char *const names[] = { "Content-Length", "Host", "Origin", "Authorization", "Cookie",
	"Sec-WebSocket-Key", "Sec-WebSocket-Version", "Transfer-Encoding", "Connection", "Upgrade",
	"Sec-WebSocket-Protocol", "If-None-Match" }; /* in the order of their enums */
static const char *const types[][2] = { { ".html", "text/html" }, { ".js", "text/javascript" },
	{ ".mjs", "text/javascript" }, { ".css", "text/css" }, { ".txt", "text/plain" },
	{ ".json", "application/json" }, { ".wasm", "application/wasm" }, { ".png", "image/png" },
	{ ".jpg", "image/jpeg" }, { ".svg", "image/svg+xml" }, { ".ico", "image/x-icon" },
	{ ".woff2", "font/woff2" } };
static const char token[] = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
			    "abcdefghijklmnopqrstuvwxyz"; /* RFC 9110 5.6.2 */
static const char hex[] = "0123456789abcdefABCDEF";
static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Grammar.  setlocale is never called: what ctype.h says holds for ASCII. */

/* Whether b[from, to) is the string s: 2, or without case: 1. */
static int
same(const unsigned char *b, size_t from, size_t to, const char *s)
{
	size_t k = 0, n = strlen(s), exact = 1;

	for (; from < to && k < n && tolower(b[from]) == tolower((unsigned char)s[k]); from++)
		exact &= b[from] == (unsigned char)s[k++];
	return from == to && k == n ? 1 + (int)exact : 0;
}

/* Where from i on b[i, n) leaves the set or, if the set begins with CR, meets it; n: nowhere. */
static size_t
span(const unsigned char *b, size_t i, size_t n, const char *set)
{
	while (i < n && b[i] != '\0' && (strchr(set, b[i]) == NULL) == (*set == '\r'))
		i++;
	return i;
}

int
http_scan(const unsigned char *b, size_t from, size_t to, uint8_t *scan)
{
	uint8_t s = *scan;

	for (size_t i = from; i < to; i++) {
		int next = b[i] == "\r\n\r\n"[s];

		if (!next && (s % 2 == 1 || (b[i] < ' ' && b[i] != '\t') || b[i] == 127))
			return -400; /* 9112 2.2: a CR or LF alone ends nothing */
		*scan = s = next ? (uint8_t)(s + 1) : 0;
		if (s == 4)
			return (int)(i + 1);
	}
	return 0;
}

/* RFC 9110 7.2, RFC 3986 3.2.2 and 3.2.3: host and port, without userinfo.  0 or 400. */
static int
take_host(const unsigned char *b, size_t from, size_t to, struct head *h)
{
	size_t literal = from < to && b[from] == '[', start = from + literal;
	size_t i = span(b, start, to, literal ? "0123456789abcdefABCDEF:." : token);

	if (i == start || (literal && (i >= to || b[i++] != ']')))
		return 400;
	h->host = (uint16_t)from;
	h->port = (uint16_t)i;
	h->host_end = (uint16_t)to;
	return i >= to || (b[i] == ':' && span(b, i + 1, to, "0123456789") == to) ? 0 : 400;
}

/* RFC 9112 3.2: origin-form and absolute-form; the rest belongs to methods that are refused. */
static int
parse_target(unsigned char *b, size_t from, size_t to, struct head *h)
{
	size_t i = b[from] != '/' && h->method > 1 ? to : from, end; /* CONNECT, OPTIONS *: 405 */

	if (i == from && b[from] != '/') {
		i = span(b, from, to, token) + 3;
		if (i > to || !(same(b, from, i, "http://") || same(b, from, i, "https://")))
			return 400;
		for (from = i; i < to && b[i] != '/' && b[i] != '?'; i++)
			;
		if (take_host(b, from, i, h) != 0)
			return 400;
		if (i == to || b[i] == '?') {
			b[i] = '/'; /* "http://host" is "/": in place of what stands behind */
			to = i + 1;
		}
	}
	h->path = (uint16_t)i;
	for (end = i; i < to && b[i] != '?'; i++) {
		if (b[i] == '%') { /* decoded once; " HTTP/1.1" stands behind the target */
			const char digits[] = { (char)b[i + 1], (char)b[i + 2], '\0' };

			long byte = strtol(digits, NULL, 16);

			if (span(b, i + 1, to, hex) < i + 3 || byte < 32 || byte == 127 ||
				byte == '/')
				return 400;
			i += 2;
			b[i] = (unsigned char)byte;
			h->escaped = 1;
		}
		b[end++] = b[i];
	}
	h->path_end = (uint16_t)end;
	b[end] = '\0'; /* in place of the space or query behind the path */
	return 0;
}

/* RFC 9112 5: the field line at *at, which moves behind it. */
static int
parse_field(const unsigned char *b, size_t n, size_t *at, struct head *h)
{
	struct field f = { .name = (uint16_t)*at };
	size_t i = span(b, *at, n, token);

	if (i == *at || i >= n || b[i] != ':') /* a folded line begins with a space */
		return 400;
	f.name_end = (uint16_t)i;
	f.value = f.value_end = (uint16_t)span(b, i + 1, n, " \t");
	for (i = f.value; i < n && b[i] != '\r'; i++)
		if (!isblank(b[i]))
			f.value_end = (uint16_t)(i + 1);
	*at = i + 2;
	while (f.known < UNKNOWN && !same(b, f.name, f.name_end, names[f.known]))
		f.known++;
	if (f.known == TRANSFER_ENCODING || (f.known < ONCE && h->last[f.known].value != 0) ||
		(f.known == CONTENT_LENGTH && !same(b, f.value, f.value_end, "0")))
		return 400; /* 6.1, 6.2: what announces a body */
	if (h->fields >= FIELDS_MAX)
		return 431;
	h->last[f.known] = h->field[h->fields++] = f;
	return 0;
}

int
http_parse(unsigned char *b, size_t n, struct head *h)
{
	size_t from = n >= 2 && b[0] == '\r' ? 2 : 0; /* 2.2: an empty line before the request */
	size_t i = span(b, from, n, token), at, m = 0;
	int status;

	memset(h, 0, sizeof *h);
	if (i == from || i >= n || b[i] != ' ') /* 3: the request line */
		return 400;
	while (m < sizeof methods / sizeof methods[0] && same(b, from, i, methods[m]) != 2)
		m++;
	for (from = ++i; i < n && b[i] > ' ' && b[i] < 127 && b[i] != '#'; i++)
		;
	if (i <= from || i + 11 > n || memcmp(b + i, " HTTP/", 6) != 0 || !isdigit(b[i + 6]) ||
		b[i + 7] != '.' || !isdigit(b[i + 8]) || b[i + 9] != '\r')
		return 400;
	h->method = (uint8_t)m;
	h->minor = b[i + 8] == '1';
	status = b[i + 6] == '1' && b[i + 8] <= '1' ? 0 : 505;
	if (m == sizeof methods / sizeof methods[0])
		status = 501;
	for (at = i + 11; status == 0 && at < n && b[at] != '\r';)
		status = parse_field(b, n, &at, h);
	if (status == 0) /* 3.2: in any case; 3.2.2: what absolute-form says takes its place */
		status = take_host(b, h->last[HOST].value, h->last[HOST].value_end, h);
	return status == 0 ? parse_target(b, from, i, h) : status;
}

/*
 * Whether the fields of that name, all one list (RFC 9110 5.6.1), have `want` as an element:
 * subprotocols and tags with case.
 */
static int
says(const unsigned char *b, const struct head *h, int name, const char *want)
{
	size_t n = strlen(want), from, to, end;

	for (const struct field *f = h->field; f < h->field + h->fields; f++)
		for (from = f->value; f->known == name && from < f->value_end; from = to + 1) {
			to = span(b, from, f->value_end, "\r,");
			from = span(b, from, to, " \t");
			end = from + n;
			if (end <= to && span(b, end, to, " \t") == to &&
				same(b, from, end, want) > (name >= WS_PROTOCOL))
				return 1;
		}
	return 0;
}

/* Replies. */

/*
 * Puts a reply into the window: `fields` are whole field lines, `why` goes to the log.  A refusal
 * has its own status as its text.  What follows is the caller's to say: after 200 c->left bytes of
 * c->bfd, after 101 frames; else nothing, and BODY goes on to the next request or to the end.
 * All fits: fields have 3/4 of REPLY_MAX at most, what we put around them less than the rest.
 */
static enum step
reply(struct conn *c, int status, const char *why, const char *fields)
{
	size_t room, i = 0;
	char *p = (char *)tls_room(c, &room);
	int bare = status == 101 || status == 200 || status == 304, n, text;

	while (atoi(statuses[i]) != status)
		i++;
	c->keep &= status == 200 || status == 301 || status == 304 || status == 404;
	text = bare ? 0 : (int)strlen(statuses[i]) + 1;
	n = snprintf(p, room, "HTTP/1.1 %s\r\n%s%s%s", statuses[i], fields,
		c->keep || status == 101 ? "" : "Connection: close\r\n", bare ? "\r\n" : "");
	if (!bare)
		n += snprintf(p + n, room - (size_t)n,
			"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s\n", text,
			statuses[i]);
	tls_put(c, (size_t)(c->bodiless ? n - text : n));
	c->status = (uint16_t)status;
	c->why = why;
	c->left = c->text = c->scan = 0;
	c->state = BODY;
	return MORE;
}

/* Rules. */

/* Whether b[from, to) is in the list, or anything is allowed. */
static int
listed(const struct names *list, const unsigned char *b, size_t from, size_t to)
{
	for (unsigned i = 0; i < list->n; i++)
		if (strcmp(list->v[i], "any") == 0 || same(b, from, to, list->v[i]))
			return 1;
	return 0;
}

/* The name alone is not enough on ws://, where no certificate ties it to us (DNS rebinding). */
static int
host_allowed(const struct conn *c, const unsigned char *b, const struct head *h)
{
	if (cf.hosts.n > 0 || !c->lis->plain)
		return cf.hosts.n == 0 || listed(&cf.hosts, b, h->host, h->port);
	return b[h->host] == '[' || span(b, h->host, h->port, "0123456789.") == h->port ||
	       same(b, h->host, h->port, "localhost") || same(b, h->host, h->port, cf.hostname);
}

/*
 * RFC 6454 7: compared as a whole; without a list it must be the host asked for, on our scheme,
 * where the default port may be named or not.
 */
static int
origin_allowed(const struct conn *c, const struct names *list, const unsigned char *b,
	const struct head *h, const struct field *origin)
{
	const char *scheme = c->lis->plain ? "http://" : "https://";
	const char *port = c->lis->plain ? ":80" : ":443";
	size_t host_end = same(b, h->port, h->host_end, port) ? h->port : h->host_end, i = h->host;
	size_t from = origin->value + strlen(scheme), end = origin->value_end, n = strlen(port);
	size_t start = from < end ? from : end;

	if (list->n > 0)
		return listed(list, b, origin->value, end);
	if (host_end == h->port && end > n && same(b, end - n, end, port))
		end -= n;
	for (from = start; from < end && i < host_end && tolower(b[from]) == tolower(b[i]); i++)
		from++;
	return from == end && i == host_end && same(b, origin->value, start, scheme);
}

/* Credentials: files of SHA-256 digests, in hex, one a line. */

static struct credential {
	const char *file; /* as the option or the route names it; NULL ends the bank */
	char sum[65];     /* the digest, in hex */
} banks[2][CREDENTIALS_MAX + 1];

/* Of a line the first word counts: the rest may say whose credential it is. */
const char *
http_load(void)
{
	static char text[131072], sentence[512];
	struct credential *k = banks[!cf.bank], *end = k + CREDENTIALS_MAX;
	const char *wrong = NULL;

	for (unsigned i = 0; i <= cf.routes && wrong == NULL; i++) {
		const char *name = i < cf.routes ? cf.route[i].auth : cf.auth;
		char *lines = name != NULL ? text : NULL, *line, *word;
		unsigned at = 0;

		wrong = name != NULL ? read_file(name, text, sizeof text) : NULL;
		for (; wrong == NULL && (line = strsep(&lines, "\n")) != NULL; at++) {
			word = strtok_r(line, " \t\r", &line);
			if (word == NULL || *word == '#')
				continue;
			k->file = name;
			if (strlen(word) != 64 || strspn(word, hex) != 64)
				wrong = "needs a SHA-256 digest, 64 hexadecimal digits";
			else if (k >= end)
				wrong = "one too many";
			else
				snprintf((k++)->sum, sizeof k->sum, "%s", word);
		}
		if (wrong != NULL)
			snprintf(sentence, sizeof sentence, "%s:%u: %s", name, at > 0 ? at : 1,
				wrong);
	}
	k->file = NULL;
	return wrong != NULL ? sentence : NULL;
}

/*
 * Whether the file has the digest of b[from, to), which is base64 (RFC 4648 4) when `coded`.  All
 * lines are compared, in whole: the time tells nothing.
 */
static int
known(const char *file, const unsigned char *b, size_t from, size_t to, int coded)
{
	size_t end = coded ? span(b, from, to, base64) : to;
	const struct credential *bank = banks[cf.bank];
	unsigned found = 0, bits = 0;
	br_sha256_context sha256;
	unsigned char sum[br_sha256_SIZE], byte;

	if (end == from || /* nothing is no credential, even if the file says so */
		(coded && (to - from > BASIC_MAX || (to - from) % 4 != 0 || to - end > 2 ||
				  span(b, end, to, "=") != to)))
		return 0;
	br_sha256_init(&sha256);
	for (size_t i = from; i < end; i++) {
		size_t place = coded ? (i - from) % 4 : 3; /* the first of four makes no byte */
		const char digit[] = { (char)b[i], '\0' };

		bits = coded ? bits << 6 | (unsigned)strcspn(base64, digit) : b[i];
		byte = (unsigned char)(bits >> (6 - 2 * place));
		br_sha256_update(&sha256, &byte, place > 0);
	}
	br_sha256_out(&sha256, sum);
	explicit_bzero(&sha256, sizeof sha256); /* which holds the end of the credential */
	for (size_t k = 0; k < CREDENTIALS_MAX && bank[k].file != NULL; k++) {
		int differ = bank[k].file != file;

		for (size_t i = 0; i < 2 * sizeof sum; i++) /* A-F: a-f */
			differ |= hex[sum[i / 2] >> (4 - i % 2 * 4) & 15] ^ (bank[k].sum[i] | 32);
		found |= differ == 0;
	}
	return (int)found;
}

/*
 * RFC 9110 11.6.2, RFC 6750 2.1, RFC 7617 2; or the cookie that the answer to Basic has set, of
 * which browsers send one: the first counts.
 */
static int
authorized(const char *file, const unsigned char *b, struct head *h)
{
	static const char name[] = "__Host-wssd=";
	const struct field *a = &h->last[AUTHORIZATION], *k = &h->last[COOKIE];
	size_t scheme = span(b, a->value, a->value_end, token), to, end;
	size_t from = span(b, scheme, a->value_end, " ");

	if (file == NULL ||
		(same(b, a->value, scheme, "Bearer") && known(file, b, from, a->value_end, 0)))
		return 1;
	if (same(b, a->value, scheme, "Basic") && known(file, b, from, a->value_end, 1)) {
		h->basic = (uint16_t)from;
		return 1;
	}
	for (from = k->value; from < k->value_end; from = to + 1) {
		to = span(b, from, k->value_end, "\r;");
		from = span(b, from, to, " ");
		end = from + sizeof name - 1;
		if (end <= to && same(b, from, end, name) == 2)
			return known(file, b, end, to, 1);
	}
	return 0;
}

/* The upgrade (RFC 6455 4.2). */

/* 4.2.2: the key and a constant, hashed, in base64: 27 characters; a 28th, "=", is not put. */
static void
accept_key(const unsigned char *key, char *out)
{
	br_sha1_context sha1;
	unsigned char sum[21] = { 0 };

	br_sha1_init(&sha1);
	br_sha1_update(&sha1, key, 24);
	br_sha1_update(&sha1, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
	br_sha1_out(&sha1, sum);
	for (size_t bit = 0; bit < 27 * 6; bit += 6)
		*out++ = base64[(sum[bit / 8] << 8 | sum[bit / 8 + 1]) >> (10 - bit % 8) & 63];
}

/* Grants the upgrade if the backend can be had: until then the reply's fields wait in IO_TEXT. */
static enum step
upgrade(struct conn *c, struct route *r, unsigned char *b, const struct head *h)
{
	const struct field *version = &h->last[WS_VERSION], *origin = &h->last[ORIGIN];
	const struct names *list = r->origins.n > 0 ? &r->origins : &cf.origins;
	const struct names *ours = &r->protocols;
	size_t key = h->last[WS_KEY].value, key_end = h->last[WS_KEY].value_end;
	char accept[28] = "", *why = (char *)c->io + IO_STASH;
	const char *protocol = "";
	int asked = says(b, h, CONNECTION, "Upgrade") && says(b, h, UPGRADE, "websocket");

	if (h->method > 0)
		return reply(c, 405, "method on a route", "Allow: GET\r\n");
	if (asked && h->minor == 0)
		return reply(c, 400, "upgrade with HTTP/1.0", "");
	if (!asked || !same(b, version->value, version->value_end, "13"))
		return reply(c, 426, asked ? "wrong WebSocket version" : "no upgrade on a route",
			"Upgrade: websocket\r\nConnection: Upgrade\r\n"
			"Sec-WebSocket-Version: 13\r\n");
	/* 4.1: 16 bytes in base64, 22 characters, of the last only two bits, and "==" */
	if (span(b, key, key_end, base64) != key + 22 || !same(b, key + 22, key_end, "==") ||
		strchr("AQgw", b[key + 21]) == NULL)
		return reply(c, 400, "bad Sec-WebSocket-Key", "");
	if (origin->value != 0 && !origin_allowed(c, list, b, h, origin)) {
		snprintf(why, 160, "foreign Origin: %s%.*s would allow it",
			r->origins.n > 0 ? "origin=" : "--origin ",
			origin->value_end - origin->value, (const char *)b + origin->value);
		return reply(c, 403, why, "");
	}
	for (unsigned i = ours->n; i-- > 0;) /* the first of ours that is asked for, and fits */
		if (strlen(ours->v[i]) < REPLY_MAX / 2 && says(b, h, WS_PROTOCOL, ours->v[i]))
			protocol = ours->v[i];
	accept_key(b + key, accept);
	snprintf((char *)b, REPLY_MAX, /* shorter than the request, which had all of this */
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s=%s%s\r\n",
		accept, *protocol != '\0' ? "\r\nSec-WebSocket-Protocol: " : "", protocol);
	c->route = r;
	c->deadline = now + cf.timeout;
	c->status = 0; /* of the request before */
	c->state = CONNECT;
	return MORE;
}

static enum step
step_connect(struct conn *c)
{
	const struct backend *backend = c->route->backend;
	enum step s = backend->open != NULL ? backend->open(c) : MORE;

	if (s == WAIT && now < c->deadline)
		return WAIT;
	if (s != MORE) /* what is open of the backend is left behind the reply */
		return reply(c, 502, s == WAIT ? "backend did not answer" : c->why, "");
	reply(c, 101, NULL, (const char *)c->io + IO_TEXT);
	c->state = OPEN;
	c->cursor = c->route->hub.head;
	count.upgrades++;
	log_line(DEBUG, "open %s", c->path);
	return MORE;
}

/* Files. */

/*
 * Opens the regular file that the path names, component by component.  -1: there is none, *st tells
 * what else the last one is, errno why not.  The copy is not cut: around its path a head has more
 * than index.html.
 */
static int
open_file(const char *path, struct stat *st)
{
	const int flags = O_NOFOLLOW | O_CLOEXEC;
	int dir = cf.root_fd, fd = -1, next;
	char copy[HEAD_MAX], *rest = copy, *name;

	snprintf(copy, sizeof copy, "%s%s", path + 1,
		path[strlen(path) - 1] == '/' ? "index.html" : "");
	for (name = strsep(&rest, "/"); dir >= 0 && rest != NULL; name = strsep(&rest, "/")) {
		next = openat(dir, name, O_PATH | O_DIRECTORY | flags);
		if (dir != cf.root_fd)
			close(dir);
		dir = next;
	}
	if (dir < 0)
		return -1;
	if (fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st->st_mode))
		fd = openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | flags);
	if (fd >= 0 && fstat(fd, st) != 0)
		st->st_mode = 0;
	if (dir != cf.root_fd)
		close(dir);
	return fd;
}

static enum step
file(struct conn *c, unsigned char *b, const struct head *h)
{
	char *path = (char *)b + h->path, tag[64], fields[REPLY_MAX * 3 / 4];
	char cookie[BASIC_MAX + 80] = "";
	const char *end, *type = "application/octet-stream";
	struct stat st = { 0 };

	if (h->method > 1)
		return reply(c, 405, "method on a file", "Allow: GET, HEAD\r\n");
	errno = 0;
	if (strstr(path, "//") == NULL && strstr(path, "/.") == NULL)
		c->bfd = open_file(path, &st);
	if (S_ISDIR(st.st_mode) && b[h->path_end - 1] != '/' && !h->escaped &&
		strlen(path) < REPLY_MAX / 4) {
		snprintf(fields, sizeof fields, "Location: %s/\r\n", path);
		return reply(c, 301, "directory", fields);
	}
	if (c->bfd < 0 || !S_ISREG(st.st_mode)) /* it may have been exchanged meanwhile */
		return reply(c, errno == EMFILE || errno == ENFILE ? 503 : 404, "no such file", "");
	snprintf(tag, sizeof tag, "W/\"%llx-%lx-%llx\"", (unsigned long long)st.st_mtim.tv_sec,
		(unsigned long)st.st_mtim.tv_nsec, (unsigned long long)st.st_size);
	if (h->basic != 0) /* RFC 6265; a page's WebSocket has no other way to show a credential */
		snprintf(cookie, sizeof cookie,
			"Set-Cookie: __Host-wssd=%.*s; Path=/; Secure; HttpOnly; "
			"SameSite=Strict\r\n",
			h->last[AUTHORIZATION].value_end - h->basic, (const char *)b + h->basic);
	end = b[h->path_end - 1] == '/' ? ".html" : strrchr(path, '.');
	for (size_t i = 0; end != NULL && i < sizeof types / sizeof types[0]; i++)
		if (strcasecmp(end, types[i][0]) == 0)
			type = types[i][1];
	snprintf(fields, sizeof fields,
		"Content-Type: %s%s\r\nContent-Length: %llu\r\n"
		"X-Content-Type-Options: nosniff\r\nETag: %s\r\n%s",
		type, strncmp(type, "text/", 5) == 0 ? "; charset=utf-8" : "",
		(unsigned long long)st.st_size, tag + 2, cookie);
	/* RFC 9110 13.1.2: compared as weak ones */
	if (says(b, h, IF_NONE_MATCH, tag) || says(b, h, IF_NONE_MATCH, tag + 2) ||
		says(b, h, IF_NONE_MATCH, "*")) {
		reply(c, 304, "not modified", strstr(fields, "ETag: "));
	} else {
		reply(c, 200, "served", fields);
		c->left = c->bodiless ? 0 : (uint64_t)st.st_size;
	}
	explicit_bzero(fields, sizeof fields); /* with the credential in them */
	explicit_bzero(cookie, sizeof cookie);
	return MORE;
}

/* Requests. */

/* Takes a piece of a head.  A head that is whole, or never will be, is answered. */
static enum step
step_head(struct conn *c)
{
	size_t n, had = c->text;
	unsigned char *b = c->io + IO_TEXT, *p = tls_peek(c, &n);
	struct route *r = cf.route, *end_of_routes = cf.route + cf.routes;
	struct head h = { 0 };
	int end, status;

	if (c->misplaced)
		return reply(c, 400, "plain HTTP on a TLS port", "");
	if (p == NULL)
		return WAIT;
	n = n > HEAD_MAX - had ? HEAD_MAX - had : n;
	memcpy(b + had, p, n);
	c->text_high = c->text_high > had + n ? c->text_high : (uint32_t)(had + n);
	end = http_scan(b, had, had + n, &c->scan);
	c->text = (uint32_t)(end > 0 ? (size_t)end : had + n);
	tls_eat(c, c->text - had);
	if (end == 0 && c->text < HEAD_MAX)
		return MORE;
	status = end > 0 ? http_parse(b, c->text, &h) : end < 0 ? 400 : 431;
	count.requests++;
	c->bodiless = h.method == 1;
	memccpy(c->path, status == 0 ? (const char *)b + h.path : "", '\0', sizeof c->path - 1);
	if (status != 0)
		return reply(c, status, status == 431 ? "head too large" : "malformed request", "");
	for (char *q = c->path; (q = strchr(q, ' ')) != NULL;)
		*q = '?'; /* it is one field of a log line */
	log_line(DEBUG, "request %s", c->path);
	c->keep = h.minor == 1 && !says(b, &h, CONNECTION, "close");
	if (!host_allowed(c, b, &h))
		return reply(c, 421, "not our name: see --host", "");
	while (r < end_of_routes && strcmp(r->path, (const char *)b + h.path) != 0)
		r++;
	if (!authorized(r < end_of_routes ? r->auth : cf.auth, b, &h)) {
		count.denied++;
		return reply(c, 401, "no valid credential",
			"WWW-Authenticate: Basic realm=\"wssd\", charset=\"UTF-8\"\r\n"
			"WWW-Authenticate: Bearer realm=\"wssd\"\r\n");
	}
	return r < end_of_routes ? upgrade(c, r, b, &h) : file(c, b, &h);
}

enum step
http_step(struct conn *c)
{
	size_t room;
	unsigned char *p = tls_room(c, &room);
	ssize_t n;

	if (p == NULL || room < REPLY_MAX) {
		c->full = 1;
		return WAIT;
	}
	if (c->state != BODY)
		return c->state == HEAD ? step_head(c) : step_connect(c);
	if (c->left == 0) { /* on to the next request, or to the end */
		ws_leave(c);
		c->deadline = now + cf.timeout;
		c->state = c->keep ? HEAD : DRAIN;
		c->bye = !c->keep;
		return MORE;
	}
	n = read(c->bfd, p, room < c->left ? room : (size_t)c->left);
	if (n <= 0)
		return dead(c, n == 0 ? "file shrank" : strerror(errno));
	tls_put(c, (size_t)n);
	c->left -= (uint64_t)n;
	return MORE;
}
