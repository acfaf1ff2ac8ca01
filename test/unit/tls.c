/*
 * What tls.c does with another CPU than this one, with signatures that no key makes, and with
 * system calls that a signal interrupts.
 */
#include "../../tls.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

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

/* What was in a file of keys does not stay behind, whether or not it was one. */
static void
no_traces_of_a_key(void **state)
{
	static const unsigned char secret[] = "no key at all";
	static struct bank b;

	(void)state;
	memcpy(b.room, "before", 6);
	memcpy(b.room + 6, secret, sizeof secret);
	b.used = 6 + sizeof secret;
	assert_string_equal(take_key(&b, 6), "encrypted, or not valid RSA or EC");
	assert_int_equal(b.used, 6);
	assert_memory_equal(b.room, "before\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 6 + sizeof secret);
}

/* The client's descriptor: what it says, and how often it is interrupted before. */

static int interrupted, error, flags_sent, pushes;

ssize_t __wrap_read(int fd, void *p, size_t n);
ssize_t __wrap_send(int fd, const void *p, size_t n, int flags);
int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t n);

ssize_t
__wrap_read(int fd, void *p, size_t n)
{
	(void)fd;
	assert_true(n >= 5);
	if (interrupted-- > 0) {
		errno = error;
		return -1;
	}
	memcpy(p, "hello", 5);
	return 5;
}

ssize_t
__wrap_send(int fd, const void *p, size_t n, int flags)
{
	(void)fd;
	(void)p;
	if (interrupted-- > 0) {
		errno = error;
		return -1;
	}
	flags_sent = flags;
	return (ssize_t)n;
}

int
__wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t n)
{
	(void)fd;
	assert_int_equal(level, IPPROTO_TCP);
	assert_int_equal(option, TCP_NODELAY);
	assert_int_equal(n, sizeof(int));
	assert_int_equal(*(const int *)value, 1);
	pushes++;
	return 0;
}

/* A call that was interrupted, or came too early, is tried again; any other error is the end. */
static void
interruptions(void **state)
{
	static const struct {
		int error;
		enum step step;
	} cases[] = { { EINTR, WAIT }, { EAGAIN, WAIT }, { ECONNRESET, DEAD }, { EIO, DEAD } };
	static struct tls t;
	struct conn c;
	size_t n;

	(void)state;
	now = 7;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		c = (struct conn){ .tls = &t, .io = calloc(1, IO_TEXT), .readable = 1,
			.lis = cf.listener };
		assert_non_null(c.io);
		t = (struct tls){ .plain = 1 };
		error = cases[i].error;
		interrupted = 1;
		assert_int_equal(tls_in(&c), cases[i].step);
		assert_int_equal(c.heard, 0);
		c.readable = 1;
		assert_int_equal(tls_in(&c), MORE);
		assert_memory_equal(tls_peek(&c, &n), "hello", 5);
		assert_int_equal(n, 5);
		assert_int_equal(c.heard, 7);

		tls_put(&c, 100);
		interrupted = 1;
		assert_int_equal(tls_out(&c), cases[i].step);
		assert_int_equal(tls_events(&c) & POLLOUT, POLLOUT);
		assert_int_equal(tls_out(&c), MORE);
		assert_int_equal(tls_events(&c) & POLLOUT, 0);
		if (cases[i].step == DEAD)
			assert_string_equal(c.why, strerror(error));
		else
			assert_null(c.why);
		free(c.io);
	}
}

/*
 * The kernel may keep bytes back while more wait for room, or the end, which pushes by itself; where
 * nothing follows, and at the end of a flight of the handshake, they are pushed.
 */
static void
corks(void **state)
{
	static const struct {
		int ready, full, bye, put, flags, pushes;
	} steps[] = {
		{ 1, 0, 0, 1, 0, 0 }, { 1, 1, 0, 1, MSG_MORE, 0 }, { 1, 1, 0, 1, MSG_MORE, 0 },
		{ 1, 0, 0, 1, 0, 0 }, /* something follows */
		{ 1, 0, 0, 0, 0, 0 }, { 1, 1, 0, 1, MSG_MORE, 0 }, { 1, 1, 0, 0, MSG_MORE, 0 },
		{ 1, 0, 0, 0, MSG_MORE, 1 }, /* nothing does */
		{ 1, 0, 0, 0, MSG_MORE, 1 }, { 0, 1, 0, 1, MSG_MORE, 2 }, /* a handshake's flight */
		{ 0, 1, 0, 0, MSG_MORE, 2 }, { 1, 0, 0, 1, 0, 2 }, /* an answer */
		{ 1, 0, 1, 1, MSG_MORE, 2 }, { 1, 0, 1, 0, MSG_MORE, 2 }, /* the end */
	};
	static struct tls t;
	struct conn c = { .tls = &t, .io = calloc(1, IO_TEXT) };

	(void)state;
	assert_non_null(c.io);
	t = (struct tls){ .plain = 1 };
	interrupted = flags_sent = pushes = 0;
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
		t.ready = (uint8_t)steps[i].ready;
		c.full = (uint8_t)steps[i].full;
		c.bye = (uint8_t)steps[i].bye;
		tls_put(&c, (size_t)steps[i].put);
		assert_int_equal(tls_out(&c), steps[i].put ? MORE : WAIT);
		assert_int_equal(flags_sent, steps[i].flags);
		assert_int_equal(pushes, steps[i].pushes);
	}
	free(c.io);
}

/* Plaintext is counted for the connection and for all. */
static void
counted(void **state)
{
	static struct tls t;
	struct conn c = { .tls = &t, .io = calloc(1, IO_TEXT), .in = 10, .out = 20, .moved = 30 };

	(void)state;
	assert_non_null(c.io);
	t = (struct tls){ .plain = 1, .to = 9 };
	count.bytes_in = 1000;
	count.bytes_out = 2000;
	tls_eat(&c, 5);
	assert_int_equal(t.from, 5);
	assert_int_equal(c.in, 15);
	assert_int_equal(count.bytes_in, 1005);
	tls_put(&c, 7);
	assert_int_equal(t.out, 7);
	assert_int_equal(c.out, 27);
	assert_int_equal(c.moved, 37); /* what a wipe must cover */
	assert_int_equal(count.bytes_out, 2007);
	free(c.io);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(order),
		cmocka_unit_test(keys),
		cmocka_unit_test(no_traces_of_a_key),
		cmocka_unit_test(interruptions),
		cmocka_unit_test(corks),
		cmocka_unit_test(counted),
	};

	return cmocka_run_group_tests_name("tls", tests, NULL, NULL);
}
