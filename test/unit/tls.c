/*
 * What tls.c does with another CPU than this one, and with signatures that no key makes.
 */
#include "../../tls.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const br_block_ctr_class *intel, *power; /* what BearSSL has for this CPU, or NULL */

const br_block_ctr_class *__wrap_br_aes_x86ni_ctr_get_vtable(void);
const br_block_ctr_class *__wrap_br_aes_pwr8_ctr_get_vtable(void);

const br_block_ctr_class *
__wrap_br_aes_x86ni_ctr_get_vtable(void)
{
	return intel;
}

const br_block_ctr_class *
__wrap_br_aes_pwr8_ctr_get_vtable(void)
{
	return power;
}

/* The order of suites: AES-GCM first where the CPU has instructions for it, else ChaCha20. */
static void
order(void **state)
{
	static const uint16_t aes[] = { 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8 };
	static const uint16_t chacha[] = { 0xcca9, 0xcca8, 0xc02b, 0xc02f, 0xc02c, 0xc030 };
	static const br_block_ctr_class some;

	(void)state;
	for (int cpu = 0; cpu < 3; cpu++) {
		const br_ssl_engine_context *eng = &banks[0].model.eng;

		intel = cpu == 1 ? &some : NULL;
		power = cpu == 2 ? &some : NULL;
		prepare(&banks[0]);
		assert_int_equal(eng->suites_num, 6);
		assert_memory_equal(eng->suites_buf, cpu > 0 ? aes : chacha, sizeof aes);
	}
}

/* A key that signs, and a public key that verifies, as they are told. */

static uint32_t verified;
static unsigned char found[32];

static size_t
sign(const br_ssl_server_policy_class **ctx, unsigned algorithm, unsigned char *data, size_t n,
	size_t size)
{
	(void)ctx;
	(void)algorithm;
	assert_true(n == 32 && size >= 256);
	memcpy(found, data, n); /* what the signature is of */
	return 256;
}

static uint32_t
verify(const unsigned char *sig, size_t n, const unsigned char *oid, size_t hash_n,
	const br_rsa_public_key *pk, unsigned char *out)
{
	(void)sig;
	(void)oid;
	(void)pk;
	assert_true(n == 256 && hash_n == 32);
	memcpy(out, found, hash_n);
	out[31] ^= verified == 2; /* a sound signature, but of something else */
	return verified != 0;
}

/* A key belongs to the certificate only if what it signed is what the certificate's key finds. */
static void
keys(void **state)
{
	static const br_ssl_server_policy_class policy = { .do_sign = sign };
	static struct bank b;

	(void)state;
	b.model.policy_vtable = &(const br_ssl_server_policy_class *){ &policy };
	b.model.eng.irsavrfy = verify;
	b.anchor[0].pkey.key_type = BR_KEYTYPE_RSA;
	for (verified = 0; verified < 3; verified++)
		assert_int_equal(key_matches(&b), verified == 1);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(order),
		cmocka_unit_test(keys),
	};

	return cmocka_run_group_tests_name("tls", tests, NULL, NULL);
}
