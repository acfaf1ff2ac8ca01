/*
 * Request heads: http_scan whole and in pieces, http_parse on what it found, then who may come in
 * (host_allowed, origin_allowed, authorized) and what the lists say.  Beside them stands a second
 * reading of the head that knows only lines and colons: what was accepted must look the same to it.
 * An input: a byte for the rules, one for the cuts, the head.
 */
#include "fuzz.h"

#include "http.c"

#define BEARER "c2VjcmV0-1~+/=" /* also what Basic says for it: not valid base64 */
#define USER   "YW5uYTpzZWNyZX" /* anna:secret, but for "Q=", where R, S and T are as good as Q */

static char file_one[] = "one", file_two[] = "two"; /* the first has two credentials */

static int
is(const uint8_t *b, size_t n, const char *s)
{
	return n == strlen(s) && strncasecmp((const char *)b, s, n) == 0;
}

static int
contains(const uint8_t *b, size_t n, const char *s)
{
	return n > 0 && memmem(b, n, s, strlen(s)) != NULL;
}

/* Scans whole, in pieces, and every piece from memory of just its size. */
static int
scan_all(const uint8_t *b, size_t n, uint32_t dice)
{
	uint8_t *copy = exactly(b, n), whole = 0, parts = 0;
	int end = http_scan(copy, 0, n, &whole), got = 0;
	size_t to;

	free(copy);
	for (size_t from = 0; from < n && got == 0; from = to) {
		to = from + 1 + noise(&dice) % (dice % 8 == 0 ? 200 : 5);
		to = to < n ? to : n;
		copy = exactly(b, to);
		got = http_scan(copy, from, to, &parts);
		free(copy);
	}
	CHECK(got == end && (got != 0 || parts == whole) && parts <= 4);
	return end;
}

/* What a head that was accepted (b, as it was) must be: the grammar of RFC 9112, by lines. */
static void
second_reading(const uint8_t *b, size_t n, const uint8_t *decoded, const struct head *h)
{
	const uint8_t *line = b, *end = b + n, *next, *colon, *value, *stop;
	unsigned fields = 0, hosts = 0;
	size_t host_n = 0, skipped = 0;

	CHECK(n >= 4 && memcmp(end - 4, "\r\n\r\n", 4) == 0);
	for (const uint8_t *p = b; p < end; p++) {
		CHECK(*p >= ' ' || *p == '\t' || *p == '\r' || *p == '\n');
		CHECK((*p == '\r') == (p + 1 < end && p[1] == '\n'));
	}
	if (*line == '\r')
		line += 2, skipped = 2;
	for (next = memmem(line, (size_t)(end - line), "\r\n", 2); next[2] != '\r';) {
		const struct field *f = &h->field[fields++];

		line = next + 2;
		next = memmem(line, (size_t)(end - line), "\r\n", 2);
		colon = memchr(line, ':', (size_t)(next - line));
		CHECK(colon != NULL && colon > line && fields <= h->fields);
		for (const uint8_t *p = line; p < colon; p++)
			CHECK(isalnum(*p) || strchr("!#$%&'*+-.^_`|~", *p) != NULL);
		for (value = colon + 1; value < next && isblank(*value); value++)
			;
		for (stop = next; stop > value && isblank(stop[-1]); stop--)
			;
		CHECK(f->name == line - b && f->name_end == colon - b);
		CHECK(f->value == f->value_end ? value == stop
					       : f->value == value - b && f->value_end == stop - b);
		CHECK(f->known == UNKNOWN || is(line, (size_t)(colon - line), names[f->known]));
		for (int i = 0; f->known == UNKNOWN && i < UNKNOWN; i++)
			CHECK(!is(line, (size_t)(colon - line), names[i]));
		CHECK(!is(line, (size_t)(colon - line), "Transfer-Encoding"));
		if (is(line, (size_t)(colon - line), "Content-Length"))
			CHECK(is(value, (size_t)(stop - value), "0"));
		if (is(line, (size_t)(colon - line), "Host")) {
			hosts++;
			host_n = (size_t)(stop - value);
		}
	}
	CHECK(fields == h->fields && hosts == 1 && host_n > 0);
	CHECK(h->host < h->port && h->port <= h->host_end && h->host_end < n);
	CHECK(!contains(b + h->host, h->host_end - h->host, "@"));
	CHECK(h->path <= h->path_end && h->path_end < n && decoded[h->path_end] == '\0');
	CHECK(h->method > 1 || decoded[h->path] == '/');
	CHECK(strlen((const char *)decoded + h->path) == (size_t)h->path_end - h->path);
	for (size_t i = h->path; i < h->path_end; i++)
		CHECK(decoded[i] >= ' ' && decoded[i] != 127);
	CHECK(h->path == h->path_end || h->path > skipped + 3);
	/* behind the target nothing was touched */
	next = memmem(b + skipped, n - skipped, "\r\n", 2);
	CHECK(memcmp(next, decoded + (next - b), (size_t)(end - next)) == 0);
	if (!h->escaped && !contains(b, (size_t)(next - b), "//"))
		CHECK(memcmp(b + h->path, decoded + h->path, h->path_end - h->path) == 0);
}

/* Without the port of the scheme, if it has it. */
static size_t
without(const uint8_t *b, size_t n, const char *port)
{
	return n >= strlen(port) && is(b + n - strlen(port), strlen(port), port) ? n - strlen(port)
										 : n;
}

/* Whether the origin is the host asked for, RFC 6454 7 and 6.1 by plain means. */
static int
same_origin(const uint8_t *o, size_t n, const uint8_t *host, size_t host_n, int plain)
{
	const char *scheme = plain ? "http://" : "https://", *port = plain ? ":80" : ":443";
	size_t bare = without(host, host_n, port);

	if (n < strlen(scheme) || !is(o, strlen(scheme), scheme))
		return 0;
	o += strlen(scheme);
	n -= strlen(scheme);
	if (bare < host_n || memrchr(host, ':', host_n) == NULL || host[host_n - 1] == ']')
		n = without(o, n, port);
	return n == bare && strncasecmp((const char *)o, (const char *)host, n) == 0;
}

static void
rules(uint8_t *b, struct head *h, unsigned what)
{
	static char any[] = "any", one[] = "one.example", two[] = "http://two:81";
	static struct listener listener;
	struct conn c = { .lis = &listener };
	struct names list = { .v = { one, two }, .n = what / 2 % 4 };
	const struct field *o = &h->last[ORIGIN], *a = &h->last[AUTHORIZATION];
	const struct field *k = &h->last[COOKIE];
	const uint8_t *host = b + h->host;
	size_t host_n = (size_t)(h->port - h->host), all = (size_t)(h->host_end - h->host);
	int numeric = 1, got, could;

	listener.plain = what % 2;
	if (list.n == 3)
		list.v[2] = any;
	cf.hosts = list;
	snprintf(cf.hostname, sizeof cf.hostname, "gateway");
	for (size_t i = 0; i < host_n; i++)
		numeric &= isdigit(host[i]) || host[i] == '.' || host[0] == '[';
	got = host_allowed(&c, b, h);
	if (list.n > 0)
		CHECK(got == (list.n == 3 || is(host, host_n, one) ||
				     (list.n > 1 && is(host, host_n, two))));
	else
		CHECK(got == (!listener.plain || numeric || is(host, host_n, "localhost") ||
				     is(host, host_n, "gateway")));
	got = o->value == 0 || origin_allowed(&c, &list, b, h, o);
	if (o->value != 0 && list.n > 0)
		CHECK(got ==
			(list.n == 3 || is(b + o->value, o->value_end - o->value, one) ||
				(list.n > 1 && is(b + o->value, o->value_end - o->value, two))));
	else if (o->value != 0)
		CHECK(got == same_origin(b + o->value, (size_t)(o->value_end - o->value), host, all,
				     listener.plain));
	CHECK(authorized(NULL, b, h) == 1 && h->basic == 0);
	CHECK(authorized(file_two, b, h) == 0 && h->basic == 0);
	got = authorized(file_one, b, h);
	could = contains(b + a->value, a->value_end - a->value, BEARER) ||
		contains(b + a->value, a->value_end - a->value, USER) ||
		contains(b + k->value, k->value_end - k->value, "__Host-wssd=" USER);
	CHECK(!got || could);
	CHECK(h->basic == 0 ||
		(got && (a->value_end - h->basic == 16 && is(b + h->basic, 14, USER))));
	if (is(b + a->value, a->value_end - a->value, "Bearer " BEARER) &&
		contains(b + a->value, a->value_end - a->value, BEARER))
		CHECK(got);
	for (int name = 0; name < UNKNOWN; name++) {
		could = 0;
		for (const struct field *f = h->field; f < h->field + h->fields; f++) {
			could |= f->known == name &&
				 contains(b + f->value, f->value_end - f->value, "x");
			CHECK(f->known != name || !is(b + f->value, f->value_end - f->value, "x") ||
				memcmp(b + f->value, "x", 1) != 0 || says(b, h, name, "x"));
		}
		CHECK(name < WS_PROTOCOL || could || !says(b, h, name, "x"));
	}
}

static size_t
learn(char *line, const char *said)
{
	unsigned char sum[br_sha256_SIZE];
	br_sha256_context sha256;

	br_sha256_init(&sha256);
	br_sha256_update(&sha256, said, strlen(said));
	br_sha256_out(&sha256, sum);
	for (size_t i = 0; i < sizeof sum; i++)
		snprintf(line + 2 * i, 3, "%02X", sum[i]);
	line[64] = '\n';
	return 65;
}

/* The file of credentials. */
const char *
read_file(const char *file, char *text, size_t size)
{
	size_t n = learn(text, BEARER);

	CHECK(file == file_one && size > 200);
	n += learn(text + n, "anna:secret");
	text[n] = '\0';
	return NULL;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int refusals[] = { 400, 431, 501, 505 };
	struct input in = { data, size };
	unsigned what = take(&in), cuts = take(&in);
	size_t n = in.n < HEAD_MAX ? in.n : HEAD_MAX;
	struct head h, again;
	uint8_t *b, *second;
	int end, status, known_status = 0;

	if (cf.auth == NULL) {
		cf.auth = file_one;
		CHECK(http_load() == NULL);
		cf.bank = !cf.bank;
	}
	end = scan_all(in.p, n, 1 + cuts * 7919);
	CHECK(end == -400 || (end >= 0 && (size_t)end <= n));
	if (end <= 0)
		return 0;
	b = exactly(in.p, (size_t)end);
	second = exactly(in.p, (size_t)end);
	status = http_parse(b, (size_t)end, &h);
	CHECK(http_parse(second, (size_t)end, &again) == status);
	CHECK(memcmp(&h, &again, sizeof h) == 0 && memcmp(b, second, (size_t)end) == 0);
	for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
		known_status |= status == refusals[i];
	CHECK(status == 0 || known_status);
	CHECK(h.fields <= FIELDS_MAX);
	if (status == 0) {
		second_reading(in.p, (size_t)end, b, &h);
		rules(b, &h, what);
	}
	free(b);
	free(second);
	return 0;
}
