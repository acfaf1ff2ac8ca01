/*
 * Requests: the head, the rules of who may ask for what, the upgrade, files and error replies.
 * This file owns the grammar of RFC 9112 and the answers to strangers; it never sees a frame and
 * never touches a client's descriptor.
 *
 * What always holds:
 * - A head is complete before any of it is interpreted, at most HEAD_MAX bytes, and no byte of it is
 *   interpreted twice with different rules.  No body is ever read: a request that announces one is
 *   refused, so that nothing can be smuggled behind it.
 * - http_scan and http_parse are pure: bytes in, offsets out.
 * - A reply starts only when a whole REPLY_MAX fits in the send window.
 * - After 200, 301, 304 and 404 the connection stays; after any other status it ends.
 * - A path reaches the file system component by component, below an O_PATH descriptor of the root;
 *   no component is empty or begins with a dot, no link is followed, only regular files are opened.
 */
#include "ws.h"

#include <bearssl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum method { GET, HEAD_METHOD, OTHER };

static const char *const methods[] = { "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS",
	"TRACE", "PATCH" };

static const struct {
	int status;
	const char *phrase;
} phrases[] = {
	{ 101, "Switching Protocols" },
	{ 200, "OK" },
	{ 301, "Moved Permanently" },
	{ 304, "Not Modified" },
	{ 400, "Bad Request" },
	{ 403, "Forbidden" },
	{ 404, "Not Found" },
	{ 405, "Method Not Allowed" },
	{ 421, "Misdirected Request" },
	{ 426, "Upgrade Required" },
	{ 431, "Request Header Fields Too Large" },
	{ 501, "Not Implemented" },
	{ 502, "Bad Gateway" },
	{ 503, "Service Unavailable" },
	{ 505, "HTTP Version Not Supported" },
};

static const struct {
	const char *ending, *type;
} types[] = {
	{ ".html", "text/html; charset=utf-8" },
	{ ".js", "text/javascript; charset=utf-8" },
	{ ".mjs", "text/javascript; charset=utf-8" },
	{ ".css", "text/css; charset=utf-8" },
	{ ".txt", "text/plain; charset=utf-8" },
	{ ".json", "application/json" },
	{ ".svg", "image/svg+xml" },
	{ ".png", "image/png" },
	{ ".jpg", "image/jpeg" },
	{ ".ico", "image/x-icon" },
	{ ".wasm", "application/wasm" },
	{ ".woff2", "font/woff2" },
	{ ".webmanifest", "application/manifest+json" },
};

/* Grammar. */

static int
lower(int ch)
{
	return ch >= 'A' && ch <= 'Z' ? ch + 32 : ch;
}

int
same_text(const void *p, size_t n, const char *s)
{
	const unsigned char *b = p;
	size_t i = 0;

	while (i < n && s[i] != '\0' && lower(b[i]) == lower((unsigned char)s[i]))
		i++;
	return i == n && s[i] == '\0';
}

/* RFC 9110 5.6.2 */
static int
is_token(unsigned ch)
{
	return (ch >= '0' && ch <= '9') || (ch >= 'A' && ch <= 'Z') || (ch >= 'a' && ch <= 'z') ||
	       (ch != 0 && ch < 128 && strchr("!#$%&'*+-.^_`|~", (int)ch) != NULL);
}

static int
hex(unsigned ch)
{
	if (ch >= '0' && ch <= '9')
		return (int)ch - '0';
	ch |= 32;
	return ch >= 'a' && ch <= 'f' ? (int)ch - 'a' + 10 : -1;
}

int
http_scan(const unsigned char *b, size_t from, size_t to, uint8_t *scan)
{
	static const char end[] = "\r\n\r\n";

	for (size_t i = from; i < to; i++) {
		unsigned ch = b[i];

		if (ch == '\n' || ch == '\r') {
			/* 9112 2.2: a CR or LF alone ends nothing */
			if (ch != (unsigned char)end[*scan])
				return -400;
			if (++*scan == 4)
				return (int)(i + 1);
		} else if (*scan == 1 || *scan == 3 || (ch < 32 && ch != '\t') || ch == 127) {
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
		int ch = b[i];

		if (ch == '%') {
			int high = i + 1 < to ? hex(b[i + 1]) : -1;
			int low = i + 2 < to ? hex(b[i + 2]) : -1;

			if (high < 0 || low < 0)
				return 400;
			ch = high * 16 + low;
			if (ch < 32 || ch == 127 || ch == '/')
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

/* RFC 9110 7.2, RFC 3986 3.2.2 and 3.2.3, without userinfo */
static int
valid_host(const unsigned char *b, size_t from, size_t to)
{
	size_t i = from;

	if (i < to && b[i] == '[') {
		for (i++; i < to && (hex(b[i]) >= 0 || b[i] == ':' || b[i] == '.'); i++)
			;
		if (i == to || b[i] != ']' || i < from + 3)
			return 0;
		i++;
	} else {
		for (; i < to && b[i] != ':' && (is_token(b[i]) || b[i] >= 128); i++)
			;
		if (i == from)
			return 0;
	}
	if (i < to && b[i] == ':')
		for (i++; i < to && b[i] >= '0' && b[i] <= '9'; i++)
			;
	return i == to;
}

/* RFC 9112 3.2: origin-form and absolute-form; the rest belongs to methods that are refused. */
static int
parse_target(unsigned char *b, size_t from, size_t to, struct head *h)
{
	static const char *const schemes[] = { "http://", "https://", "ws://", "wss://" };
	size_t path = from, end;

	if (h->method == OTHER && b[from] != '/')
		return 0; /* CONNECT host:port, OPTIONS *: 405 */
	for (size_t i = 0; i < 4 && b[from] != '/'; i++) {
		size_t n = strlen(schemes[i]);

		if (from + n > to || !same_text(b + from, n, schemes[i]))
			continue;
		for (path = from + n; path < to && b[path] != '/' && b[path] != '?'; path++)
			;
		if (!valid_host(b, from + n, path))
			return 400;
		h->host = (uint16_t)(from + n);
		h->host_end = (uint16_t)path;
		break;
	}
	for (end = path; end < to && b[end] != '?'; end++)
		;
	if (path == end && path > from) { /* "http://host" is "/": into the space and byte behind */
		b[to] = '/';
		path = to;
		end = to + 1;
	}
	return b[path] == '/' ? decode_path(b, path, end, h) : 400;
}

/* RFC 9112 3: the line at *at, which moves behind it. */
static int
parse_request_line(unsigned char *b, size_t n, size_t *at, struct head *h)
{
	size_t i = *at, target, target_end, len;
	int status = 501;

	for (; i < n && is_token(b[i]); i++)
		;
	len = i - *at;
	if (len == 0 || i == n || b[i] != ' ')
		return 400;
	for (size_t m = 0; m < sizeof methods / sizeof methods[0]; m++) {
		if (strlen(methods[m]) == len && memcmp(b + *at, methods[m], len) == 0) {
			h->method = (uint8_t)(m < OTHER ? m : OTHER);
			status = 0;
		}
	}
	for (target = ++i; i < n && b[i] > 32 && b[i] < 127 && b[i] != '#'; i++)
		;
	target_end = i;
	if (target == target_end || i + 11 > n || b[i] != ' ')
		return 400;
	if (memcmp(b + i, " HTTP/", 6) != 0 || hex(b[i + 6]) > 9 || hex(b[i + 6]) < 0 ||
		b[i + 7] != '.' || hex(b[i + 8]) > 9 || hex(b[i + 8]) < 0 || b[i + 9] != '\r')
		return 400;
	h->minor = b[i + 8] == '1';
	*at = i + 11;
	if (status == 0 && (b[i + 6] != '1' || b[i + 8] > '1'))
		status = 505;
	return status != 0 ? status : parse_target(b, target, target_end, h);
}

/* RFC 9112 5: one field line at i; returns the offset behind it, or the negative status. */
static int
parse_field(const unsigned char *b, size_t i, size_t n, struct head *h)
{
	struct field *f = &h->field[h->fields];

	if (h->fields == FIELDS_MAX)
		return -431;
	f->name = (uint16_t)i;
	for (; i < n && is_token(b[i]); i++)
		;
	f->name_end = (uint16_t)i;
	if (i == f->name || i == n || b[i] != ':') /* a folded line begins with a space */
		return -400;
	for (i++; i < n && (b[i] == ' ' || b[i] == '\t'); i++)
		;
	f->value = f->value_end = (uint16_t)i;
	for (; i < n && b[i] != '\r'; i++)
		if (b[i] != ' ' && b[i] != '\t')
			f->value_end = (uint16_t)(i + 1);
	h->fields++;
	return (int)(i + 2);
}

static int
is_field(const unsigned char *b, const struct field *f, const char *name)
{
	return same_text(b + f->name, (size_t)(f->name_end - f->name), name);
}

/* What may stand once only, what says that a body follows, and Host (RFC 9112 3.2, 6.1 to 6.3). */
static int
check_fields(const unsigned char *b, struct head *h)
{
	static const char *const once[] = { "Host", "Content-Length", "Origin", "Sec-WebSocket-Key",
		"Sec-WebSocket-Version" };
	unsigned seen[5] = { 0 };

	for (unsigned i = 0; i < h->fields; i++) {
		const struct field *f = &h->field[i];

		for (unsigned k = 0; k < 5; k++)
			if (is_field(b, f, once[k]) && seen[k]++ > 0)
				return 400;
		if (is_field(b, f, "Transfer-Encoding") ||
			(is_field(b, f, "Content-Length") &&
				!same_text(b + f->value, (size_t)(f->value_end - f->value), "0")))
			return 400;
		if (is_field(b, f, "Host")) {
			if (!valid_host(b, f->value, f->value_end))
				return 400;
			if (h->host_end == 0) { /* absolute-form has set it already */
				h->host = f->value;
				h->host_end = f->value_end;
			}
		}
	}
	return seen[0] == 1 ? 0 : 400;
}

int
http_parse(unsigned char *b, size_t n, struct head *h)
{
	size_t i = n >= 2 && b[0] == '\r' ? 2 : 0; /* 2.2: an empty line before the request */
	int status;

	memset(h, 0, sizeof *h);
	status = parse_request_line(b, n, &i, h);
	while (status == 0 && i < n && b[i] != '\r') {
		int next = parse_field(b, i, n, h);

		if (next < 0)
			status = -next;
		else
			i = (size_t)next;
	}
	return status != 0 ? status : check_fields(b, h);
}

static const struct field *
find(const unsigned char *b, const struct head *h, const char *name)
{
	for (unsigned i = 0; i < h->fields; i++)
		if (is_field(b, &h->field[i], name))
			return &h->field[i];
	return NULL;
}

/*
 * Walks the elements of all fields of that name (RFC 9110 5.6.1).  *field and *at hold the place,
 * 0 at first; returns the next element's length and its offset in *element, or 0 at the end.
 */
static size_t
next_element(const unsigned char *b, const struct head *h, const char *name, unsigned *field,
	size_t *at, size_t *element)
{
	for (; *field < h->fields; (*field)++, *at = 0) {
		const struct field *f = &h->field[*field];
		size_t i = *at > 0 ? *at : f->value, end;

		if (!is_field(b, f, name))
			continue;
		while (i < f->value_end && (b[i] == ' ' || b[i] == '\t' || b[i] == ','))
			i++;
		*element = i;
		for (end = i; i < f->value_end && b[i] != ','; i++)
			if (b[i] != ' ' && b[i] != '\t')
				end = i + 1;
		*at = i;
		if (end > *element)
			return end - *element;
	}
	return 0;
}

static int
has_element(const unsigned char *b, const struct head *h, const char *name, const char *want)
{
	unsigned field = 0;
	size_t at = 0, element, n;

	while ((n = next_element(b, h, name, &field, &at, &element)) > 0)
		if (same_text(b + element, n, want))
			return 1;
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

	if (t != last && gmtime_r(&t, &tm) != NULL) {
		strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
		last = t;
	}
	return text;
}

/* After a reply is in the window: the next request, or the end. */
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

/* Puts a reply with its own phrase as body; `extra` are whole field lines, `why` goes to the log. */
static enum step
reply(struct conn *c, int head_only, int status, const char *why, const char *extra)
{
	const char *phrase = "", *end = "Connection: close\r\n";
	char body[64];
	size_t room;
	int n, body_len;
	unsigned char *p = tls_room(c, &room);

	for (size_t i = 0; i < sizeof phrases / sizeof phrases[0]; i++)
		if (phrases[i].status == status)
			phrase = phrases[i].phrase;
	c->keep &= status == 301 || status == 404 || status == 304;
	if (c->keep)
		end = "";
	c->status = (uint16_t)status;
	c->why = why;
	body_len = snprintf(body, sizeof body, "%d %s\n", status, phrase);
	n = snprintf((char *)p, room, "HTTP/1.1 %d %s\r\nDate: %s\r\n%s%s", status, phrase, date(),
		extra, end);
	if (status == 304)
		n += snprintf((char *)p + n, room - (size_t)n, "\r\n");
	else
		n += snprintf((char *)p + n, room - (size_t)n,
			"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", body_len,
			head_only ? "" : body);
	tls_put(c, (size_t)n);
	return next_request(c);
}

/* Rules. */

static size_t
without_port(const unsigned char *b, size_t from, size_t to)
{
	for (size_t i = to; i > from && b[i - 1] != ']'; i--)
		if (b[i - 1] == ':')
			return i - 1;
	return to;
}

/* The name alone is not enough on ws://, where no certificate ties it to us (DNS rebinding). */
static int
host_allowed(const struct conn *c, const unsigned char *b, const struct head *h)
{
	size_t end = without_port(b, h->host, h->host_end), n = end - h->host, i;

	for (unsigned k = 0; k < cf.hosts.n; k++)
		if (strcmp(cf.hosts.v[k], "any") == 0 || same_text(b + h->host, n, cf.hosts.v[k]))
			return 1;
	if (cf.hosts.n > 0)
		return 0;
	if (!c->lis->plain || b[h->host] == '[' || same_text(b + h->host, n, "localhost") ||
		same_text(b + h->host, n, cf.hostname))
		return 1;
	for (i = h->host; i < end && ((b[i] >= '0' && b[i] <= '9') || b[i] == '.'); i++)
		;
	return i == end;
}

/* RFC 6454 7.3: compares as a whole, but for a default port that one of the two may name. */
static int
own_origin(
	const struct conn *c, const unsigned char *b, const struct head *h, const struct field *f)
{
	const char *scheme = c->lis->plain ? "http://" : "https://";
	const char *port = c->lis->plain ? ":80" : ":443";
	size_t n = strlen(scheme), origin = f->value + n, end = f->value_end;
	size_t host_end = without_port(b, h->host, h->host_end), k = 0;

	if (origin > end || !same_text(b + f->value, n, scheme))
		return 0;
	if (!same_text(b + host_end, (size_t)(h->host_end - host_end), port))
		host_end = h->host_end;
	n = without_port(b, origin, end);
	if (same_text(b + n, end - n, port))
		end = n;
	n = end - origin;
	while (k < n && n == host_end - h->host && lower(b[origin + k]) == lower(b[h->host + k]))
		k++;
	return k == n && n > 0;
}

static int
origin_allowed(const struct conn *c, const struct route *r, const unsigned char *b,
	const struct head *h, const struct field *f)
{
	const struct names *allowed = r->origins.n > 0 ? &r->origins : &cf.origins;

	for (unsigned i = 0; i < allowed->n; i++)
		if (strcmp(allowed->v[i], "any") == 0 ||
			same_text(b + f->value, (size_t)(f->value_end - f->value), allowed->v[i]))
			return 1;
	return allowed->n == 0 && own_origin(c, b, h, f);
}

/* The upgrade (RFC 6455 4.2). */

static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* 4.1: 16 bytes in base64, 22 characters, of the last only two bits, and "==" */
static int
valid_key(const unsigned char *b, const struct field *f)
{
	if (f == NULL || f->value_end - f->value != 24)
		return 0;
	for (unsigned i = 0; i < 22; i++) {
		const char *at = b[f->value + i] != 0 ? strchr(base64, b[f->value + i]) : NULL;

		if (at == NULL || (i == 21 && (at - base64) % 16 != 0))
			return 0;
	}
	return b[f->value + 22] == '=' && b[f->value + 23] == '=';
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
	for (unsigned i = 0; i < 7; i++) {
		uint32_t v = (uint32_t)(digest[3 * i] << 16 | digest[3 * i + 1] << 8 |
					digest[3 * i + 2]);

		for (unsigned k = 0; k < 4; k++)
			out[4 * i + k] = base64[v >> (18 - 6 * k) & 63];
	}
	out[27] = '=';
	out[28] = '\0';
}

/* The first subprotocol that the client offers and the route speaks, or NULL (4.2.2). */
static const char *
choose_protocol(const struct route *r, const unsigned char *b, const struct head *h)
{
	unsigned field = 0;
	size_t at = 0, element, n;

	while ((n = next_element(b, h, "Sec-WebSocket-Protocol", &field, &at, &element)) > 0)
		for (unsigned i = 0; i < r->protocols.n; i++)
			if (strlen(r->protocols.v[i]) == n &&
				memcmp(r->protocols.v[i], b + element, n) == 0)
				return r->protocols.v[i];
	return NULL;
}

/* Grants the upgrade if the backend can be had: the reply waits in IO_TEXT for it. */
static enum step
upgrade(struct conn *c, struct route *r, unsigned char *b, const struct head *h)
{
	const struct field *f = find(b, h, "Origin");
	const struct field *version = find(b, h, "Sec-WebSocket-Version");
	const char *protocol;
	char accept[29];

	if (h->method != GET)
		return reply(
			c, h->method == HEAD_METHOD, 405, "method on a route", "Allow: GET\r\n");
	if (h->minor == 0 && find(b, h, "Upgrade") != NULL)
		return reply(c, 0, 400, "upgrade with HTTP/1.0", "");
	if (!has_element(b, h, "Connection", "Upgrade") ||
		!has_element(b, h, "Upgrade", "websocket"))
		return reply(c, 0, 426, "no upgrade on a route", "Upgrade: websocket\r\n");
	if (version == NULL ||
		!same_text(b + version->value, (size_t)(version->value_end - version->value), "13"))
		return reply(c, 0, 426, "wrong WebSocket version",
			"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
	if (!valid_key(b, find(b, h, "Sec-WebSocket-Key")))
		return reply(c, 0, 400, "bad Sec-WebSocket-Key", "");
	if (f != NULL && !origin_allowed(c, r, b, h, f)) {
		char *why = (char *)c->io + IO_STASH;

		snprintf(why, 160, "foreign Origin: --origin %.*s would allow it",
			f->value_end - f->value > 96 ? 96 : f->value_end - f->value, b + f->value);
		return reply(c, 0, 403, why, "");
	}
	accept_key(b + find(b, h, "Sec-WebSocket-Key")->value, accept);
	protocol = choose_protocol(r, b, h);
	c->text = (uint32_t)snprintf((char *)b, REPLY_MAX,
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
		"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s%s%s\r\n",
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
	enum step s = c->route->backend->open(c);
	size_t room;

	if (s == WAIT && now < c->deadline)
		return WAIT;
	c->keep = 0;
	if (s != MORE) {
		ws_leave(c);
		return reply(c, 0, 502, s == WAIT ? "backend did not answer" : c->why, "");
	}
	memcpy(tls_room(c, &room), c->io + IO_TEXT, c->text);
	tls_put(c, c->text);
	c->text = 0;
	c->status = 101;
	c->state = OPEN;
	count.upgrades++;
	log_line(DEBUG, "%s: open", c->route->path);
	return MORE;
}

/* Files. */

/* Opens the regular file that the path names; -404, -301 for a directory, -503. */
static int
open_file(const char *path, struct stat *st, const char **ending)
{
	char name[256];
	int dir = cf.root_fd, fd = -404;
	size_t n;

	for (const char *p = path + 1; dir >= 0 && fd == -404; p += n + 1) {
		n = strcspn(p, "/");
		if (n >= sizeof name || p[0] == '.' || (n == 0 && p[0] == '/'))
			break;
		memcpy(name, n > 0 ? p : "index.html", n > 0 ? n : 11);
		name[n > 0 ? n : 10] = '\0';
		*ending = n > 0 ? p : "index.html";
		if (p[n] == '/') {
			int sub = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (dir != cf.root_fd)
				close(dir);
			dir = sub;
			continue;
		}
		if (fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW) != 0)
			break;
		if (S_ISDIR(st->st_mode))
			fd = -301;
		else if (S_ISREG(st->st_mode))
			fd = openat(dir, name,
				O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		break;
	}
	if (fd == -1 || dir == -1)
		fd = errno == EMFILE || errno == ENFILE ? -503 : -404;
	if (dir >= 0 && dir != cf.root_fd)
		close(dir);
	if (fd >= 0 && (fstat(fd, st) != 0 || !S_ISREG(st->st_mode))) { /* exchanged meanwhile */
		close(fd);
		fd = -404;
	}
	return fd;
}

static const char *
content_type(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
		size_t k = strlen(types[i].ending);

		if (k < n && same_text(name + n - k, k, types[i].ending))
			return types[i].type;
	}
	return "application/octet-stream";
}

static enum step
file(struct conn *c, const unsigned char *b, const struct head *h)
{
	const char *path = (const char *)b + h->path, *name = path;
	int only_head = h->method == HEAD_METHOD, fd, n;
	char etag[64], weak[66], extra[REPLY_MAX / 2];
	struct stat st;
	unsigned char *p;
	size_t room;

	if (h->method == OTHER)
		return reply(c, 0, 405, "method on a file", "Allow: GET, HEAD\r\n");
	fd = open_file(path, &st, &name);
	if (fd == -301 && !h->escaped && h->path_end - h->path < REPLY_MAX / 4) {
		snprintf(extra, sizeof extra, "Location: %s/\r\n", path);
		return reply(c, only_head, 301, "directory", extra);
	}
	if (fd < 0)
		return reply(c, only_head, fd == -503 ? 503 : 404, "no such file", "");
	snprintf(weak, sizeof weak, "W/\"%llx-%lx-%llx\"", (unsigned long long)st.st_mtim.tv_sec,
		(unsigned long)st.st_mtim.tv_nsec, (unsigned long long)st.st_size);
	snprintf(etag, sizeof etag, "%s", weak + 2);
	if (has_element(b, h, "If-None-Match", etag) || has_element(b, h, "If-None-Match", weak) ||
		has_element(b, h, "If-None-Match", "*")) {
		close(fd);
		snprintf(extra, sizeof extra, "ETag: %s\r\n", etag);
		return reply(c, only_head, 304, "not modified", extra);
	}
	p = tls_room(c, &room);
	n = snprintf((char *)p, room,
		"HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %llu\r\n"
		"ETag: %s\r\nX-Content-Type-Options: nosniff\r\n%s\r\n",
		date(), content_type(name), (unsigned long long)st.st_size, etag,
		c->keep ? "" : "Connection: close\r\n");
	tls_put(c, (size_t)n);
	c->status = 200;
	c->bfd = fd;
	c->left = only_head ? 0 : (uint64_t)st.st_size;
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
	c->first = 0;
	c->keep = 0;
	if (status != 0)
		return reply(c, 0, status, "malformed request", "");
	if (h.path_end > 0)
		snprintf(c->path, sizeof c->path, "%s", (const char *)b + h.path);
	log_line(DEBUG, "%s %s", methods[h.method == OTHER ? 2 : h.method], c->path);
	c->keep = h.minor == 1 && !has_element(b, &h, "Connection", "close");
	if (!host_allowed(c, b, &h))
		return reply(c, 0, 421, "host name not ours: see --host", "");
	for (unsigned i = 0; i < cf.routes && h.path_end > 0; i++)
		if (strcmp(cf.route[i].path, (const char *)b + h.path) == 0)
			return upgrade(c, &cf.route[i], b, &h);
	return file(c, b, &h);
}

static enum step
step_head(struct conn *c)
{
	size_t n;
	unsigned char *b = c->io + IO_TEXT, *p = tls_peek(c, &n);
	int end;

	if (c->misplaced)
		return reply(c, 0, 400, "plain HTTP on a TLS port", "");
	if (p == NULL)
		return WAIT;
	if (n > HEAD_MAX - c->text)
		n = HEAD_MAX - c->text;
	memcpy(b + c->text, p, n);
	if (c->text_high < c->text + n)
		c->text_high = (uint32_t)(c->text + n);
	end = http_scan(b, c->text, c->text + n, &c->scan);
	if (end > 0) {
		tls_eat(c, (size_t)end - c->text);
		return request(c, (size_t)end);
	}
	tls_eat(c, n);
	c->text += (uint32_t)n;
	c->keep = 0;
	if (end < 0)
		return reply(c, 0, 400, "malformed request", "");
	return c->text < HEAD_MAX ? MORE : reply(c, 0, 431, "request head too large", "");
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
