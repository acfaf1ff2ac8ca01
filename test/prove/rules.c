/*
 * eva: -eva-precision 2 -eva-domains gauges,octagon -eva-octagon-through-calls -eva-plevel 2000
 *
 * What is asked of a head once it is parsed: lists of names, Host, Origin, credentials in base64 and as cookies, the answer
 * to a key.  Offsets and bytes are arbitrary, as are names and credentials that the configuration has.
 */
#include "../../http.c"
#include "__fc_builtin.h"

enum { NAME_ROOM = 65536 };

struct config cf;
struct counters count;
int64_t now;
static unsigned char b[HEAD_MAX];
static struct head h;
static char name[NAME_ROOM];

void entry(void);

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

static uint16_t
offset(void)
{
	return (uint16_t)Frama_C_interval(0, HEAD_MAX);
}

static struct field
any_field(void)
{
	struct field f;

	f.name = offset();
	f.name_end = offset();
	f.value = offset();
	f.value_end = offset();
	f.known = (uint16_t)Frama_C_interval(0, UNKNOWN);
	return f;
}

void
entry(void)
{
	struct listener lis = { .plain = Frama_C_interval(0, 1) };
	struct conn c = { .lis = &lis };
	struct names list = { .n = (unsigned)Frama_C_interval(0, NAMES_MAX) };
	struct field f;
	char out[27];
	size_t key = (size_t)Frama_C_interval(0, HEAD_MAX - 24);
	int yes;

	Frama_C_make_unknown((char *)b, sizeof b);
	Frama_C_make_unknown(name, sizeof name - 1);
	Frama_C_make_unknown(cf.hostname, sizeof cf.hostname - 1);
	for (unsigned i = 0; i < FIELDS_MAX; i++)
		h.field[i] = any_field();
	for (unsigned i = 0; i <= UNKNOWN; i++)
		h.last[i] = any_field();
	h.fields = (unsigned)Frama_C_interval(0, FIELDS_MAX);
	h.host = (uint16_t)Frama_C_interval(0, HEAD_MAX - 1);
	h.port = offset();
	h.host_end = offset();
	for (unsigned i = 0; i < NAMES_MAX; i++)
		list.v[i] = name;
	cf.hosts = list;
	cf.bank = Frama_C_interval(0, 1);
	Frama_C_make_unknown((char *)banks, sizeof banks);
	/*@ loop unroll CREDENTIALS_MAX; */
	for (int i = 0; i < CREDENTIALS_MAX; i++)
		banks[0][i].file = banks[1][i].file = Frama_C_interval(0, 1) ? name : NULL;
	banks[0][CREDENTIALS_MAX].file = banks[1][CREDENTIALS_MAX].file = NULL;
	f = any_field();

	yes = says(b, &h, Frama_C_interval(0, UNKNOWN), name);
	/*@ assert 0 <= yes <= 1; */
	yes = says(b, &h, CONNECTION, "close");
	/*@ assert 0 <= yes <= 1; */
	yes = host_allowed(&c, b, &h);
	/*@ assert 0 <= yes <= 1; */
	yes = origin_allowed(&c, &list, b, &h, &f);
	/*@ assert 0 <= yes <= 1; */
	yes = authorized(Frama_C_interval(0, 1) ? name : NULL, b, &h);
	/*@ assert 0 <= yes <= 1; */
	/*@ assert h.basic <= HEAD_MAX; */
	accept_key(b + key, out);
	/*@ assert \initialized(out + (0 .. 26)); */
	/*@ assert \forall integer i; 0 <= i < 27 ==> '+' <= out[i] <= 'z'; */
}
