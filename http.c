/*
 * Requests: the head, the rules of who may ask for what, the upgrade, files and error replies.
 * This file owns the grammar of RFC 9112 and the answers to strangers; it never sees a frame and
 * never touches a client's descriptor.
 *
 * What always holds:
 * - A head is complete before any of it is interpreted, at most HEAD_MAX bytes.  No body is ever
 *   read: a request that announces one is refused, so that nothing can be smuggled behind it.
 * - http_scan and http_parse are pure: bytes in, offsets out.
 * - Nothing is started before a whole REPLY_MAX fits in the send window.
 * - After 200, 301, 304 and 404 the connection stays; after any other status it ends.
 * - A path reaches the file system component by component, below an O_PATH descriptor of the root;
 *   no component is empty or begins with a dot, no link is followed, only regular files are opened.
 */
#include "ws.h"

#include <bearssl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *const methods[] = { "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS",
	"TRACE", "PATCH" };
static const char *const statuses[] = { "301 Moved Permanently", "304 Not Modified",
	"400 Bad Request", "403 Forbidden", "404 Not Found", "405 Method Not Allowed",
	"421 Misdirected Request", "426 Upgrade Required", "431 Request Header Fields Too Large",
	"501 Not Implemented", "502 Bad Gateway", "503 Service Unavailable",
	"505 HTTP Version Not Supported" };
static const char *const types[][2] = { { ".html", "text/html; charset=utf-8" },
	{ ".js", "text/javascript; charset=utf-8" }, { ".mjs", "text/javascript; charset=utf-8" },
	{ ".css", "text/css; charset=utf-8" }, { ".txt", "text/plain; charset=utf-8" },
	{ ".json", "application/json" }, { ".svg", "image/svg+xml" }, { ".png", "image/png" },
	{ ".jpg", "image/jpeg" }, { ".ico", "image/x-icon" }, { ".wasm", "application/wasm" },
	{ ".woff2", "font/woff2" } };

/* Grammar. */

static int
lower(int ch)
{
	return ch >= 'A' && ch <= 'Z' ? ch + 32 : ch;
}

/* b[from, to) is the string s, in ASCII without case. */
static int
same(const unsigned char *b, size_t from, size_t to, const char *s)
{
	for (; from < to && *s != '\0' && lower(b[from]) == lower((unsigned char)*s); s++)
		from++;
	return from == to && *s == '\0';
}

/* RFC 9110 5.6.2 */
static int
is_token(int ch)
{
	return (ch >= '0' && ch <= '9') || (lower(ch) >= 'a' && lower(ch) <= 'z') ||
	       (ch != 0 && strchr("!#$%&'*+-.^_`|~", ch) != NULL);
}

static int
hex(int ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	return lower(ch) >= 'a' && lower(ch) <= 'f' ? lower(ch) - 'a' + 10 : -1;
}

int
http_scan(const unsigned char *b, size_t from, size_t to, uint8_t *scan)
{
	for (size_t i = from; i < to; i++) {
		int ch = b[i];

		if (ch == '\n' || ch == '\r') { /* 9112 2.2: a CR or LF alone ends nothing */
			if (ch != "\r\n\r\n"[*scan])
				return -400;
			if (++*scan == 4)
				return (int)(i + 1);
		} else if (*scan == 1 || *scan == 3 || (ch < ' ' && ch != '\t') || ch == 127) {
			return -400;
		} else {
			*scan = 0;
		}
	}
	return 0;
}

/* Percent-decodes b[from, to) once, in place, and terminates it.  0 or the refusing status. */
static int
decode_path(unsigned char *b, size_t from, size_t to, struct head *h)
{
	size_t o = from;

	for (size_t i = from; i < to; i++) {
		int ch = b[i], high, low;

		if (ch == '%') {
			high = i + 1 < to ? hex(b[i + 1]) : -1;
			low = i + 2 < to ? hex(b[i + 2]) : -1;
			ch = high * 16 + low;
			if (high < 0 || low < 0 || ch < ' ' || ch == 127 || ch == '/')
				return 400;
			h->escaped = 1;
			i += 2;
		}
		b[o++] = (unsigned char)ch;
	}
	b[o] = '\0'; /* in place of the space or query behind the path */
	h->path = (uint16_t)from;
	h->path_end = (uint16_t)o;
	return 0;
}

/* RFC 9110 7.2, RFC 3986 3.2.2 and 3.2.3, without userinfo: 1 if it may be a host and port */
static int
take_host(const unsigned char *b, size_t from, size_t to, struct head *h)
{
	size_t i = from;
	int literal = i < to && b[i] == '[';

	while (i < to &&
		(is_token(b[i]) || b[i] >= 128 || (literal && (b[i] == '[' || b[i] == ':'))))
		i++;
	if (literal && (i == to || b[i++] != ']'))
		return 0;
	h->host = (uint16_t)from;
	h->host_end = (uint16_t)to;
	if (i == from || i == to || b[i++] != ':')
		return i == to && to > from;
	while (i < to && b[i] >= '0' && b[i] <= '9')
		i++;
	return i == to;
}

/* RFC 9112 3.2: origin-form and absolute-form; the rest belongs to methods that are refused. */
static int
parse_target(unsigned char *b, size_t from, size_t to, struct head *h)
{
	size_t path = from, end;

	if (b[from] != '/') {
		while (end = path, path < to && b[path] != ':')
			path++;
		if (h->other)
			return 0; /* CONNECT host:port, OPTIONS *: 405 */
		if (to - path < 4 || memcmp(b + path, "://", 3) != 0 ||
			!(same(b, from, end, "https") || same(b, from, end, "http") ||
				same(b, from, end, "wss") || same(b, from, end, "ws")))
			return 400;
		for (from = path += 3; path < to && b[path] != '/' && b[path] != '?'; path++)
			;
		if (!take_host(b, from, path, h))
			return 400;
	}
	for (end = path; end < to && b[end] != '?'; end++)
		;
	if (path == end) { /* "http://host" is "/": in place of the space and byte behind */
		b[to] = '/';
		path = to;
		end = to + 1;
	}
	return decode_path(b, path, end, h);
}

/* RFC 9112 3: the line at *at, which moves behind it. */
static int
parse_request_line(unsigned char *b, size_t n, size_t *at, struct head *h)
{
	size_t i = *at, from = i, m = 0, end, known = sizeof methods / sizeof methods[0];

	while (i < n && is_token(b[i]))
		i++;
	if (i == from || i == n || b[i] != ' ')
		return 400;
	while (m < known &&
		(strlen(methods[m]) != i - from || memcmp(methods[m], b + from, i - from)))
		m++;
	h->bodiless = m == 1;
	h->other = m > 1;
	for (from = ++i; i < n && b[i] > ' ' && b[i] < 127 && b[i] != '#'; i++)
		;
	end = i;
	if (from == end || i + 11 > n || memcmp(b + i, " HTTP/", 6) != 0 || b[i + 7] != '.' ||
		strchr("0123456789", b[i + 6]) == NULL || strchr("0123456789", b[i + 8]) == NULL ||
		b[i + 9] != '\r')
		return 400;
	h->minor = b[i + 8] == '1';
	*at = i + 11;
	if (m == known)
		return 501;
	return b[i + 6] == '1' && b[i + 8] <= '1' ? parse_target(b, from, end, h) : 505;
}

static int
is_field(const unsigned char *b, const struct field *f, const char *name)
{
	return same(b, f->name, f->name_end, name);
}

/* RFC 9112 5: the field line at *at, which moves behind it. */
static int
parse_field(const unsigned char *b, size_t n, size_t *at, struct head *h)
{
	struct field *f = &h->field[h->fields];
	size_t i = *at;

	if (h->fields++ == FIELDS_MAX)
		return 431;
	f->name = (uint16_t)i;
	while (i < n && is_token(b[i]))
		i++;
	f->name_end = (uint16_t)i;
	if (i == f->name || i == n || b[i++] != ':') /* a folded line begins with a space */
		return 400;
	while (i < n && (b[i] == ' ' || b[i] == '\t'))
		i++;
	f->value = f->value_end = (uint16_t)i;
	for (; i < n && b[i] != '\r'; i++)
		if (b[i] != ' ' && b[i] != '\t')
			f->value_end = (uint16_t)(i + 1);
	*at = i + 2;
	/* 6.1, 6.2: what announces a body */
	return is_field(b, f, "Transfer-Encoding") || (is_field(b, f, "Content-Length") &&
							      !same(b, f->value, f->value_end, "0"))
		       ? 400
		       : 0;
}

/* The field of that name, or NULL; *n counts all of them. */
static const struct field *
find(const unsigned char *b, const struct head *h, const char *name, unsigned *n)
{
	const struct field *f = NULL;

	*n = 0;
	for (unsigned i = h->fields; i-- > 0;) {
		if (is_field(b, &h->field[i], name)) {
			f = &h->field[i];
			++*n;
		}
	}
	return f;
}

int
http_parse(unsigned char *b, size_t n, struct head *h)
{
	static const char *const once[] = { "Content-Length", "Origin", "Sec-WebSocket-Key",
		"Sec-WebSocket-Version", "Host" };
	size_t i = n >= 2 && b[0] == '\r' ? 2 : 0; /* 2.2: an empty line before the request */
	const struct field *f = NULL;
	unsigned found = 0;
	int status;

	memset(h, 0, sizeof *h);
	status = parse_request_line(b, n, &i, h);
	while (status == 0 && i < n && b[i] != '\r')
		status = parse_field(b, n, &i, h);
	for (unsigned k = 0; k < 5 && status == 0; k++) {
		f = find(b, h, once[k], &found);
		if (found > 1)
			status = 400;
	}
	if (status != 0)
		return status;
	i = h->host;
	n = h->host_end;
	if (f == NULL || !take_host(b, f->value, f->value_end, h))
		return 400; /* 3.2 */
	if (i > 0) {        /* 3.2.2: absolute-form has said it already */
		h->host = (uint16_t)i;
		h->host_end = (uint16_t)n;
	}
	return 0;
}

/* Whether an element of the lists in all fields of that name is `want` (RFC 9110 5.6.1). */
static int
has_element(const unsigned char *b, const struct head *h, const char *name, const char *want)
{
	for (const struct field *f = h->field; f < h->field + h->fields; f++) {
		size_t from = f->value, end = from;

		for (size_t i = from; is_field(b, f, name) && i <= f->value_end; i++) {
			if (i == f->value_end || b[i] == ',') {
				if (same(b, from, end, want))
					return 1;
				from = end = i + 1;
			} else if (b[i] != ' ' && b[i] != '\t') {
				end = i + 1;
			} else if (from == i) {
				from = end = i + 1;
			}
		}
	}
	return 0;
}

/* Replies. */

/* RFC 9110 6.6.1; a second's text serves all replies of that second. */
static const char *
date(void)
{
	static char text[40];
	static time_t last;
	time_t t = time(NULL);
	struct tm tm;

	if (t != last && gmtime_r(&t, &tm) != NULL)
		strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
	last = t;
	return text;
}

/* A reply is in the window: on to the next request, or to the end. */
static enum step
next_request(struct conn *c)
{
	c->text = 0;
	c->scan = 0;
	c->deadline = now + cf.timeout;
	c->state = c->keep ? HEAD : DRAIN;
	c->bye = !c->keep;
	return MORE;
}

/* Puts a reply with its own status as body; `extra` are whole field lines, `why` goes to the log. */
static enum step
reply(struct conn *c, int status, const char *why, const char *extra)
{
	size_t room, i = 0;
	char *p = (char *)tls_room(c, &room);
	int n, body;

	while (atoi(statuses[i]) != status)
		i++;
	c->keep &= status == 301 || status == 304 || status == 404;
	c->status = (uint16_t)status;
	c->why = why;
	n = snprintf(p, room, "HTTP/1.1 %s\r\nDate: %s\r\n%s%s", statuses[i], date(), extra,
		c->keep ? "" : "Connection: close\r\n");
	if (status != 304)
		n += snprintf(p + n, room - (size_t)n,
			"Content-Type: text/plain\r\nContent-Length: %zu\r\n",
			strlen(statuses[i]) + 1);
	body = snprintf(p + n, room - (size_t)n, "\r\n%s\n", statuses[i]);
	tls_put(c, (size_t)(n + (status == 304 || c->bodiless ? 2 : body)));
	return next_request(c);
}

/* Rules. */

/* The name alone is not enough on ws://, where no certificate ties it to us (DNS rebinding). */
static int
host_allowed(const struct conn *c, const unsigned char *b, const struct head *h)
{
	size_t from = h->host, end = h->host_end, i = from;

	while (end > from && b[end - 1] >= '0' && b[end - 1] <= '9')
		end--;
	end = end > from && b[end - 1] == ':' ? end - 1 : h->host_end;
	for (unsigned k = 0; k < cf.hosts.n; k++)
		if (strcmp(cf.hosts.v[k], "any") == 0 || same(b, from, end, cf.hosts.v[k]))
			return 1;
	if (cf.hosts.n > 0)
		return 0;
	while (i < end && ((b[i] >= '0' && b[i] <= '9') || b[i] == '.'))
		i++;
	return !c->lis->plain || b[from] == '[' || i == end || same(b, from, end, "localhost") ||
	       same(b, from, end, cf.hostname);
}

/* RFC 6454 7: compared as a whole; without a list it must be the host asked for, on our scheme. */
static int
origin_allowed(const struct conn *c, const struct route *r, const unsigned char *b,
	const struct head *h, const struct field *f)
{
	const struct names *allowed = r->origins.n > 0 ? &r->origins : &cf.origins;
	const char *port = c->lis->plain ? ":80" : ":443";
	char own[320];
	int n;

	for (unsigned i = 0; i < allowed->n; i++)
		if (strcmp(allowed->v[i], "any") == 0 ||
			same(b, f->value, f->value_end, allowed->v[i]))
			return 1;
	n = snprintf(own, sizeof own - 8, "%s://%.*s", c->lis->plain ? "http" : "https",
		h->host_end - h->host, (const char *)b + h->host);
	if (allowed->n > 0 || n >= (int)sizeof own - 8)
		return 0;
	if (same(b, f->value, f->value_end, own))
		return 1;
	if ((size_t)n > strlen(port) && strcmp(own + n - strlen(port), port) == 0)
		own[n - (int)strlen(port)] = '\0'; /* the default port may be named or not */
	else
		memcpy(own + n, port, strlen(port) + 1);
	return same(b, f->value, f->value_end, own);
}

/* The upgrade (RFC 6455 4.2). */

static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* 4.1: 16 bytes in base64, 22 characters, of the last only two bits, and "==" */
static int
valid_key(const unsigned char *key, size_t n)
{
	size_t i = 0;

	while (i < n && i < 22 && key[i] != 0 && strchr(base64, key[i]) != NULL)
		i++;
	return n == 24 && i == 22 && key[22] == '=' && key[23] == '=' && strchr("AQgw", key[21]);
}

/* 4.2.2: the key and a constant, hashed; 20 bytes give 28 characters. */
static void
accept_key(const unsigned char *key, char out[29])
{
	br_sha1_context sha1;
	unsigned char digest[21] = { 0 };

	br_sha1_init(&sha1);
	br_sha1_update(&sha1, key, 24);
	br_sha1_update(&sha1, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
	br_sha1_out(&sha1, digest);
	for (size_t i = 0; i < 28; i++) {
		const unsigned char *p = digest + i / 4 * 3;
		unsigned three = (unsigned)p[0] << 16 | (unsigned)p[1] << 8 | p[2];

		out[i] = base64[three >> (18 - 6 * (i % 4)) & 63];
	}
	out[27] = '=';
	out[28] = '\0';
}

/* Grants the upgrade if the backend can be had: until then the reply waits in IO_TEXT. */
static enum step
upgrade(struct conn *c, struct route *r, unsigned char *b, const struct head *h)
{
	unsigned n;
	const struct field *version = find(b, h, "Sec-WebSocket-Version", &n);
	const struct field *key = find(b, h, "Sec-WebSocket-Key", &n);
	const struct field *origin = find(b, h, "Origin", &n);
	const char *protocol = NULL;
	char accept[29], *why = (char *)c->io + IO_STASH;

	if (h->other || h->bodiless)
		return reply(c, 405, "method on a route", "Allow: GET\r\n");
	if (h->minor == 0 && find(b, h, "Upgrade", &n) != NULL)
		return reply(c, 400, "upgrade with HTTP/1.0", "");
	if (!has_element(b, h, "Connection", "Upgrade") ||
		!has_element(b, h, "Upgrade", "websocket"))
		return reply(c, 426, "no upgrade on a route",
			"Upgrade: websocket\r\nConnection: Upgrade\r\n");
	if (version == NULL || !same(b, version->value, version->value_end, "13"))
		return reply(c, 426, "wrong WebSocket version",
			"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
	if (key == NULL || !valid_key(b + key->value, (size_t)(key->value_end - key->value)))
		return reply(c, 400, "bad Sec-WebSocket-Key", "");
	if (origin != NULL && !origin_allowed(c, r, b, h, origin)) {
		snprintf(why, 160, "foreign Origin: --origin %.*s would allow it",
			origin->value_end - origin->value, (const char *)b + origin->value);
		return reply(c, 403, why, "");
	}
	for (unsigned i = r->protocols.n; i-- > 0;)
		if (has_element(b, h, "Sec-WebSocket-Protocol", r->protocols.v[i]))
			protocol = r->protocols.v[i];
	accept_key(b + key->value, accept);
	c->text = (uint32_t)snprintf((char *)b, REPLY_MAX,
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		"Sec-WebSocket-Accept: %s\r\n%s%s%s\r\n",
		accept, protocol != NULL ? "Sec-WebSocket-Protocol: " : "",
		protocol != NULL ? protocol : "", protocol != NULL ? "\r\n" : "");
	if (c->text_high < c->text)
		c->text_high = c->text;
	c->route = r;
	c->deadline = now + cf.timeout;
	c->state = CONNECT;
	return MORE;
}

static enum step
step_connect(struct conn *c)
{
	const struct backend *backend = c->route->backend;
	enum step s = backend->open != NULL ? backend->open(c) : MORE;
	size_t room;

	if (s == WAIT && now < c->deadline)
		return WAIT;
	c->keep = 0;
	if (s != MORE) {
		ws_leave(c);
		return reply(c, 502, s == WAIT ? "backend did not answer" : c->why, "");
	}
	memcpy(tls_room(c, &room), c->io + IO_TEXT, c->text);
	tls_put(c, c->text);
	c->text = 0;
	c->status = 101;
	c->state = OPEN;
	count.upgrades++;
	log_line(DEBUG, "open %s", c->path);
	return MORE;
}

/* Files. */

/* Opens the regular file that the path names, or returns a negative status. */
static int
open_file(const char *path, struct stat *st)
{
	char name[256];
	int dir = cf.root_fd, next, fd = -404;

	for (const char *p = path + 1; dir >= 0; p += strlen(name) + 1) {
		size_t n = strcspn(p, "/");

		if (n >= sizeof name || *p == '.' || *p == '/')
			break;
		snprintf(name, sizeof name, "%.*s", n > 0 ? (int)n : 10, n > 0 ? p : "index.html");
		if (n == 0 || p[n] == '\0') { /* the last one */
			if (fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW) != 0)
				break;
			fd = S_ISDIR(st->st_mode) ? -301 : -404;
			if (S_ISREG(st->st_mode))
				fd = openat(dir, name,
					O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
			break;
		}
		next = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (dir != cf.root_fd)
			close(dir);
		dir = next;
	}
	if (fd == -1 || (dir < 0 && cf.root_fd >= 0))
		fd = errno == EMFILE || errno == ENFILE ? -503 : -404;
	if (dir >= 0 && dir != cf.root_fd)
		close(dir);
	if (fd >= 0 && (fstat(fd, st) != 0 || !S_ISREG(st->st_mode))) { /* exchanged meanwhile */
		close(fd);
		fd = -404;
	}
	return fd;
}

static enum step
file(struct conn *c, const unsigned char *b, const struct head *h)
{
	const char *path = (const char *)b + h->path, *type = "application/octet-stream";
	char extra[REPLY_MAX / 2], weak[64];
	struct stat st;
	size_t room, n = h->path_end;
	int fd;

	if (h->other)
		return reply(c, 405, "method on a file", "Allow: GET, HEAD\r\n");
	fd = open_file(path, &st);
	if (fd == -301 && !h->escaped && strlen(path) < REPLY_MAX / 4) {
		snprintf(extra, sizeof extra, "Location: %s/\r\n", path);
		return reply(c, 301, "directory", extra);
	}
	if (fd < 0)
		return reply(c, fd == -503 ? 503 : 404, "no such file", "");
	snprintf(weak, sizeof weak, "W/\"%llx-%lx-%llx\"", (unsigned long long)st.st_mtim.tv_sec,
		(unsigned long)st.st_mtim.tv_nsec, (unsigned long long)st.st_size);
	snprintf(extra, sizeof extra, "ETag: %s\r\n", weak + 2);
	/* RFC 9110 13.1.2: compared as weak ones */
	if (has_element(b, h, "If-None-Match", weak) || has_element(b, h, "If-None-Match", "*") ||
		has_element(b, h, "If-None-Match", weak + 2)) {
		close(fd);
		return reply(c, 304, "not modified", extra);
	}
	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
		size_t k = strlen(types[i][0]);

		if (b[n - 1] == '/' ? i == 0 : k < n - h->path && same(b, n - k, n, types[i][0]))
			type = types[i][1];
	}
	n = (size_t)snprintf((char *)tls_room(c, &room), REPLY_MAX,
		"HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %llu\r\n"
		"%sX-Content-Type-Options: nosniff\r\n%s\r\n",
		date(), type, (unsigned long long)st.st_size, extra,
		c->keep ? "" : "Connection: close\r\n");
	tls_put(c, n);
	c->status = 200;
	c->why = "served";
	c->bfd = fd;
	c->left = c->bodiless ? 0 : (uint64_t)st.st_size;
	c->state = BODY;
	return MORE;
}

static enum step
step_body(struct conn *c)
{
	size_t room;
	unsigned char *p = tls_room(c, &room);
	ssize_t n;

	if (c->left == 0) {
		ws_leave(c);
		return next_request(c);
	}
	n = read(c->bfd, p, room < c->left ? room : (size_t)c->left);
	if (n <= 0)
		return dead(c, n == 0 ? "file shrank" : strerror(errno));
	tls_put(c, (size_t)n);
	c->left -= (uint64_t)n;
	return MORE;
}

/* Requests. */

static enum step
request(struct conn *c, size_t n)
{
	unsigned char *b = c->io + IO_TEXT;
	struct head h;
	int status = http_parse(b, n, &h);

	count.requests++;
	c->first = c->keep = 0;
	c->bodiless = h.bodiless;
	if (status != 0)
		return reply(c, status, "malformed request", "");
	snprintf(c->path, sizeof c->path, "%s", h.path_end > 0 ? (const char *)b + h.path : "");
	for (char *p = c->path; *p != '\0'; p++)
		if (*p <= ' ' || *p > '~')
			*p = '?'; /* it is a field of a log line */
	log_line(DEBUG, "request %s", c->path);
	c->keep = h.minor == 1 && !has_element(b, &h, "Connection", "close");
	if (!host_allowed(c, b, &h))
		return reply(c, 421, "not our name: see --host", "");
	for (unsigned i = 0; i < cf.routes && h.path_end > 0; i++)
		if (strcmp(cf.route[i].path, (const char *)b + h.path) == 0)
			return upgrade(c, &cf.route[i], b, &h);
	return file(c, b, &h);
}

static enum step
step_head(struct conn *c)
{
	size_t n, had = c->text;
	unsigned char *b = c->io + IO_TEXT, *p = tls_peek(c, &n);
	int end;

	if (c->misplaced)
		return reply(c, 400, "plain HTTP on a TLS port", "");
	if (p == NULL)
		return WAIT;
	if (n > HEAD_MAX - had)
		n = HEAD_MAX - had;
	memcpy(b + had, p, n);
	end = http_scan(b, had, had + n, &c->scan);
	if (end > 0)
		n = (size_t)end - had;
	tls_eat(c, n);
	c->text = (uint32_t)(had + n);
	if (c->text_high < c->text)
		c->text_high = c->text;
	if (end > 0)
		return request(c, c->text);
	c->keep = 0;
	if (end < 0)
		return reply(c, 400, "malformed request", "");
	return c->text < HEAD_MAX ? MORE : reply(c, 431, "request head too large", "");
}

enum step
http_step(struct conn *c)
{
	size_t room;

	if (tls_room(c, &room) == NULL || room < REPLY_MAX) {
		c->full = 1;
		return WAIT;
	}
	return c->state == HEAD      ? step_head(c)
	       : c->state == CONNECT ? step_connect(c)
				     : step_body(c);
}
