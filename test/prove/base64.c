/*
 * eva: -eva-precision 2 -eva-domains gauges -eva-plevel 2100
 * with: CREDENTIALS_MAX = 1024, -> CREDENTIALS_MAX = 8,
 *
 * Credentials that a head may hold, in base64, as they are or as cookies, against any bank of them; and the answer to a key.
 */
#include "any_head.h"

/*@ assigns ctx->buf[0 .. 63], ctx->val[0 .. 7], ctx->count \from \nothing; */
void br_sha256_init(br_sha256_context *ctx);

/*@ requires n == 0 || \valid_read((unsigned char *)p + (0 .. n - 1));
    requires n == 0 || \initialized((unsigned char *)p + (0 .. n - 1));
    assigns ctx->buf[0 .. 63], ctx->val[0 .. 7], ctx->count \from ((unsigned char *)p)[0 .. n - 1]; */
void br_sha224_update(br_sha224_context *ctx, const void *p, size_t n);

/*@ requires \valid((unsigned char *)out + (0 .. 31));
    assigns ((unsigned char *)out)[0 .. 31] \from ctx->val[0 .. 7];
    ensures \initialized((unsigned char *)out + (0 .. 31)); */
void br_sha256_out(const br_sha256_context *ctx, void *out);

/*@ assigns ctx->buf[0 .. 63], ctx->val[0 .. 4], ctx->count \from \nothing; */
void br_sha1_init(br_sha1_context *ctx);

/*@ requires \valid_read((unsigned char *)p + (0 .. n - 1));
    assigns ctx->buf[0 .. 63], ctx->val[0 .. 4], ctx->count \from ((unsigned char *)p)[0 .. n - 1]; */
void br_sha1_update(br_sha1_context *ctx, const void *p, size_t n);

/*@ requires \valid((unsigned char *)out + (0 .. 19));
    assigns ((unsigned char *)out)[0 .. 19] \from ctx->val[0 .. 4];
    ensures \initialized((unsigned char *)out + (0 .. 19)); */
void br_sha1_out(const br_sha1_context *ctx, void *out);

void
entry(void)
{
	size_t key = (size_t)Frama_C_interval(0, HEAD_MAX - 24);
	char out[27];
	int yes;

	any_head();
	cf.bank = 1; /* the last: nothing stands behind it */
	Frama_C_make_unknown((char *)banks, sizeof banks);
	/*@ loop unroll CREDENTIALS_MAX; */
	for (int i = 0; i < CREDENTIALS_MAX; i++)
		banks[0][i].file = banks[1][i].file = Frama_C_interval(0, 1) ? name : NULL;
	banks[0][CREDENTIALS_MAX].file = banks[1][CREDENTIALS_MAX].file = NULL;
	yes = authorized(Frama_C_interval(0, 1) ? name : NULL, b, &h);
	/*@ assert 0 <= yes <= 1; */
	/*@ assert h.basic <= HEAD_MAX; */
	accept_key(b + key, out);
	/*@ assert \initialized(out + (0 .. 26)); */
	/*@ assert \forall integer i; 0 <= i < 27 ==> '+' <= out[i] <= 'z'; */
}
