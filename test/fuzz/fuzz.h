/*
 * What the targets share: taking an input to pieces, numbers that are the same each time, and the
 * one way to say that something is wrong.  A target includes the source that it looks into, so that
 * what is static there is in reach, and is linked with libFuzzer or, for a replay, with replay.c.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x) ((x) ? (void)0 : broken(#x, __FILE__, __LINE__))

__attribute__((noreturn, unused)) static void
broken(const char *what, const char *file, int line)
{
	fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
	abort();
}

/* What is left of an input: zeros come when it is used up. */
struct input {
	const uint8_t *p;
	size_t n;
};

__attribute__((unused)) static unsigned
take(struct input *in)
{
	if (in->n == 0)
		return 0;
	in->n--;
	return *in->p++;
}

/* The next n bytes, or as many as there are, and how many these are in *n. */
__attribute__((unused)) static const uint8_t *
take_bytes(struct input *in, size_t *n)
{
	const uint8_t *p = in->p;

	*n = *n < in->n ? *n : in->n;
	in->p += *n;
	in->n -= *n;
	return p;
}

/* A copy of just that size: who reads past it is seen. */
__attribute__((unused)) static void *
exactly(const void *p, size_t n)
{
	void *copy = malloc(n);

	CHECK(copy != NULL || n == 0);
	if (n > 0)
		memcpy(copy, p, n);
	return copy;
}

/* Numbers that follow from *x, which is never 0. */
__attribute__((unused)) static uint32_t
noise(uint32_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 17;
	*x ^= *x << 5;
	return *x;
}
