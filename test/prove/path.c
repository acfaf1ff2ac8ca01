/*
 * cc: -lbearssl
 *
 * Percent decoding, compared with a second reading of RFC 3986 2.1: every path of up to three bytes behind its "/", and every one
 * of up to six of those on which the parser's way depends.  What is accepted has no control character, no decoded
 * slash, and ends where its offset says, by a NUL; what is not is answered with 400.
 */
#include "../../http.c"

#include "stubs.h"

static unsigned long tried;

/* What http.c calls besides, none of it ever called. */
void
ws_leave(struct conn *c)
{
	(void)c;
}

void
log_line(int priority, const char *format, ...)
{
	(void)priority;
	(void)format;
}

const char *
read_file(const char *file, char *text, size_t size)
{
	(void)file;
	(void)size;
	return text;
}

static int
digit(int c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* The length of what t[0, n) is decoded to, in out; -1: it must be refused. */
static int
decode(const char *t, size_t n, char *out)
{
	int length = 0;

	for (size_t i = 0; i < n && t[i] != '?'; i++) {
		int c = (unsigned char)t[i];

		if (c == '%') {
			if (n - i < 3 || digit(t[i + 1]) < 0 || digit(t[i + 2]) < 0)
				return -1;
			c = digit(t[i + 1]) * 16 + digit(t[i + 2]);
			if (c < 32 || c == 127 || c == '/')
				return -1;
			i += 2;
		}
		out[length++] = (char)c;
	}
	return length;
}

static void
try(const char *t, size_t n)
{
	static const char behind[] = " HTTP/1.1\r\n\r\n";
	unsigned char b[64] = "GET ";
	char out[16];
	struct head h = { 0 };
	int length = decode(t, n, out), status;

	memcpy(b + 4, t, n);
	memcpy(b + 4 + n, behind, sizeof behind);
	status = parse_target(b, 4, 4 + n, &h);
	tried++;
	if (status == (length < 0 ? 400 : 0) &&
		(status != 0 || (h.path == 4 && h.path_end == 4 + length && b[h.path_end] == '\0' &&
					memcmp(b + 4, out, (size_t)length) == 0)))
		return;
	printf("%.*s: %d, %d expected\n", (int)n, t, status, length < 0 ? 400 : 0);
	exit(1);
}

/* All that continue t[0, n) with up to `more` of these. */
static void
continue_with(char *t, size_t n, unsigned more, const char *set)
{
	try(t, n);
	for (const char *s = set; more > 0 && *s != '\0'; s++) {
		t[n] = *s;
		continue_with(t, n + 1, more - 1, set);
	}
}

int
main(void)
{
	char all[96] = "", t[16] = "/";
	size_t n = 0;

	for (char c = '!'; c <= '~'; c++)
		if (c != '#')
			all[n++] = c;
	continue_with(t, 1, 3, all);
	continue_with(t, 1, 6, "/%?.027fFg");
	printf("%lu paths\n", tried);
	return 0;
}
