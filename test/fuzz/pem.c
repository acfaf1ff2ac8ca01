/*
 * Certificates, chains, keys and client CAs: tls_load over files that the input makes, as text or
 * as DER that is put into PEM here; then a client that says what is left of the input.  A set
 * that is refused must leave everything as it was, and nothing of itself; one that is accepted
 * must let a handshake begin.  An input: options, then pieces of a kind byte (file, wrapping),
 * perhaps one of how often (the piece, or its contents inside of one wrapping), two of length,
 * contents.
 */
#include "fuzz.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

static ssize_t fake_read(int fd, void *p, size_t n);
static ssize_t fake_send(int fd, const void *p, size_t n, int flags);
static int fake_shutdown(int fd, int how);
static int fake_setsockopt(int fd, int level, int option, const void *value, socklen_t len);
static int fake_getentropy(void *p, size_t n);

#define read       fake_read
#define send       fake_send
#define shutdown   fake_shutdown
#define setsockopt fake_setsockopt
#define getentropy fake_getentropy
#include "tls.c"
#undef read
#undef send
#undef shutdown
#undef setsockopt
#undef getentropy

enum { FD = 1000, SAYS = 3, ROOM = 300000 };

static struct { /* certificate, key, CAs, and what the client says */
	size_t n;
	uint8_t b[ROOM];
} files[4];
static char name_cert[] = "cert", name_key[] = "key", name_ca[] = "ca";
static char *const file_names[] = { name_cert, name_key, name_ca };
static size_t heard, written, cut;

static ssize_t
fake_read(int fd, void *p, size_t n)
{
	size_t left = files[SAYS].n - heard;

	CHECK(fd == FD && n > 0);
	n = n < left ? n : left;
	n = n < cut ? n : cut;
	memcpy(p, files[SAYS].b + heard, n);
	heard += n;
	return (ssize_t)n;
}

static ssize_t
fake_send(int fd, const void *p, size_t n, int flags)
{
	CHECK(fd == FD && (flags & ~MSG_MORE) == 0 && n > 0 && memchr(p, 0x16, n) != p + n);
	written += n;
	return (ssize_t)n;
}

static int
fake_shutdown(int fd, int how)
{
	CHECK(fd == FD && how == SHUT_WR);
	return 0;
}

static int
fake_setsockopt(int fd, int level, int option, const void *value, socklen_t len)
{
	CHECK(fd == FD && level == IPPROTO_TCP && option == TCP_NODELAY && len == sizeof(int));
	CHECK(*(const int *)value == 0 || *(const int *)value == 1);
	return 0;
}

static int
fake_getentropy(void *p, size_t n)
{
	memset(p, 7, n);
	return 0;
}

/* As main.c has it. */
const char *
read_file(const char *file, char *text, size_t size)
{
	int i = 0;

	while (strcmp(file_names[i], file) != 0)
		i++;
	if (files[i].n == 0)
		return "No such file or directory";
	memcpy(text, files[i].b, files[i].n < size ? files[i].n : size - 1);
	text[files[i].n < size ? files[i].n : size - 1] = '\0';
	return files[i].n < size - 1 && strlen(text) == files[i].n
		       ? NULL
		       : "is too large or has a NUL byte";
}

static void
put(int file, const void *p, size_t n)
{
	n = n < ROOM - files[file].n ? n : ROOM - files[file].n;
	memcpy(files[file].b + files[file].n, p, n);
	files[file].n += n;
}

static void
put_pem(int file, const char *name, const uint8_t *p, size_t n)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char line[80];

	put(file, line, (size_t)snprintf(line, sizeof line, "-----BEGIN %s-----\n", name));
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? p[i + 1] << 8 : 0) |
			     (i + 2 < n ? p[i + 2] : 0);
		char four[5] = { digits[v >> 18], digits[v >> 12 & 63], digits[v >> 6 & 63],
			digits[v & 63], '\n' };

		if (i + 1 >= n)
			four[2] = '=';
		if (i + 2 >= n)
			four[3] = '=';
		put(file, four, i % 48 == 45 || i + 3 >= n ? 5 : 4);
	}
	put(file, line, (size_t)snprintf(line, sizeof line, "-----END %s-----\n", name));
}

static void
fill(struct input *in)
{
	static const char *const wraps[] = { NULL, "CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY",
		"RSA PRIVATE KEY", "X509 CERTIFICATE", "ENCRYPTED PRIVATE KEY", "PUBLIC KEY" };
	static uint8_t long_one[100000];

	for (int i = 0; i < 4; i++)
		files[i].n = 0;
	while (in->n > 0) {
		unsigned kind = take(in), times = kind & 192 ? take(in) : 1, wrap = kind / 4 % 8;
		size_t n = take(in) << 8, all = 0;
		const uint8_t *p;

		n |= take(in);
		p = take_bytes(in, &n);
		for (unsigned i = 0; kind & 64 && i < times && all + n <= sizeof long_one; i++) {
			memcpy(long_one + all, p, n);
			all += n;
		}
		if (kind & 64) {
			p = long_one;
			n = all;
			times = 1;
		}
		for (unsigned i = 0; i < times; i++) {
			if (kind % 4 == SAYS || wrap == 0)
				put((int)kind % 4, p, n);
			else
				put_pem((int)kind % 4, wraps[wrap], p, n);
		}
	}
}

static int
zeros(const void *p, size_t n)
{
	static const uint8_t none[FILE_ROOM];

	return n <= sizeof none && memcmp(p, none, n) == 0;
}

/* Whether the key is that of the certificate: its public half is computed. */
static int
same_key(const struct bank *b)
{
	const br_x509_pkey *pk = &b->anchor[0].pkey;
	const br_ec_private_key *ec = br_skey_decoder_get_ec(&b->key);
	const br_rsa_private_key *rsa = br_skey_decoder_get_rsa(&b->key);
	unsigned char made[BR_EC_KBUF_PUB_MAX_SIZE], n[1024];
	br_ec_public_key pub;
	size_t size;

	if (ec != NULL && pk->key_type == BR_KEYTYPE_EC) {
		size = br_ec_compute_pub(br_ec_get_default(), &pub, made, ec);
		return size == pk->key.ec.qlen && memcmp(made, pk->key.ec.q, size) == 0;
	}
	if (rsa == NULL || pk->key_type != BR_KEYTYPE_RSA || rsa->n_bitlen > 8 * sizeof n)
		return 0;
	size = br_rsa_compute_modulus_get_default()(n, rsa);
	for (size_t i = 0; i < pk->key.rsa.nlen; i++) { /* without the zeros in front */
		size_t left = pk->key.rsa.nlen - i;

		if (pk->key.rsa.n[i] == 0)
			continue;
		return left == size && memcmp(pk->key.rsa.n + i, n, size) == 0;
	}
	return 0;
}

/* What a client that says this costs: no turn without progress, no byte beside the buffers. */
static void
serve(const struct listener *l)
{
	static union {
		unsigned char io[IO_TEXT];
		max_align_t aligned;
	} arena;
	static struct tls tls;
	struct conn c = {
		.state = SHAKE, .fd = FD, .bfd = -1, .lis = l, .tls = &tls, .io = arena.io
	};
	enum step s = MORE, out = MORE;

	heard = written = 0;
	CHECK(tls_open(&c));
	for (int turn = 0; s != DEAD && out != DEAD; turn++) {
		unsigned char *p;
		size_t n;

		CHECK(turn < 100000);
		c.readable = heard < files[SAYS].n;
		s = tls_in(&c);
		if (s != DEAD && tls_ready(&c) == MORE && (p = tls_peek(&c, &n)) != NULL)
			tls_eat(&c, n);
		out = tls_out(&c);
		if (s == WAIT && out == WAIT && heard == files[SAYS].n)
			break;
	}
	CHECK(s != DEAD || out == DEAD || c.why != NULL);
	CHECK(strlen(tls_suite(&c)) > 0);
	tls_wipe(&c);
	CHECK(zeros(&tls, sizeof tls));
	CHECK(zeros(arena.io + IO_STAGE, STAGE) && zeros(arena.io + IO_IN, TLS_IN));
	CHECK(zeros(arena.io + IO_OUT, TLS_OUT));
	memset(arena.io, 0, IO_IN); /* conn_close does this */
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	unsigned what = take(&in);
	const char *wrong;
	int bank;

	cut = 1 + (what & 0xf0) * 10;
	fill(&in);
	memset(&cf, 0, sizeof cf);
	cf.listeners = 2;
	cf.tls = 1;
	cf.cert = name_cert;
	cf.key = name_key;
	cf.listener[0].client_ca = what & 1 ? name_ca : NULL;
	cf.listener[1].client_ca = what & 2 ? name_ca : NULL;
	cf.bank = what >> 2 & 1;
	for (int again = 0; again < 2; again++) {
		bank = cf.bank;
		wrong = tls_load();
		CHECK(cf.bank == (wrong == NULL ? !bank : bank));
		/* whatever lost is wiped, up to the certificates, which are no secret */
		CHECK(zeros(&banks[!cf.bank], offsetof(struct bank, room)));
		CHECK(zeros(banks[!cf.bank].room, FILE_ROOM));
		if (wrong != NULL) {
			CHECK(strchr(wrong, ':') != NULL && strlen(wrong) > 10 &&
				strlen(wrong) < 511);
			break;
		}
		CHECK(banks[cf.bank].ca[0] >= 1 && banks[cf.bank].certs <= CERTS_MAX);
		CHECK(same_key(&banks[cf.bank]));
		CHECK(banks[cf.bank].ca[cf.listeners] == banks[cf.bank].certs);
		for (unsigned i = 0; i < cf.listeners; i++)
			serve(&cf.listener[i]);
	}
	explicit_bzero(&banks[cf.bank], sizeof banks[cf.bank]);
	return 0;
}
