/*
 * The transport of a connection: a BearSSL engine between the client's descriptor and two windows
 * of plaintext, or the plain twin of ws:// listeners with the same windows.  This file owns the
 * client's descriptor for reading and writing, the engine, the chain, the key, the client CAs and
 * the session caches.  It never looks at plaintext and knows no states but those of the engine.
 *
 * What always holds:
 * - A connection's engine is a copy of its listener's template, which was reset once and so is
 *   marked as seeded; no copy opens /dev/urandom.  A copy gets its own buffers, its own entropy (32
 *   bytes of getrandom(2), or the connection is refused), its own certificate policy (it holds
 *   pointers into the context) and, with client CAs, its own X.509 context.  A shared one would let
 *   two interleaved handshakes exchange the keys they verify.
 * - Implementations are chosen once: asking the CPU traps in virtual machines.
 * - Input is read into the stage only when the stage is empty, and fed to the engine as far as it
 *   asks.  The engine asks only once all plaintext is eaten, so POLLIN is wanted only then.
 * - Chain, key and CAs live in one of two banks; a reload fills the spare one and then changes over,
 *   so that a failed reload changes nothing.
 * - For each buffer the highest byte used is known; a wipe covers these ranges.
 *
 * TLS 1.2 with ECDHE and AEAD suites only; no renegotiation.  Where the CPU has AES instructions
 * AES-GCM comes first, else ChaCha20-Poly1305, and the server's order counts.
 */
#include "ws.h"

#include <bearssl.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
	CHAIN_MAX = 8,
	ANCHORS_MAX = 64,
	BANK_ROOM = 65536,  /* certificates, names and keys of a bank in DER */
	CACHE_ROOM = 65536, /* of a listener's sessions, 100 bytes each */
	SEED = 32,
	RSA_BYTES = 512 /* of a modulus: BearSSL's limit is 4096 bits */
};

struct tls {
	br_ssl_server_context sc;
	uint32_t from, to;                      /* IO_STAGE: bytes not yet fed or eaten */
	uint32_t out_from, out_to;              /* plain: IO_OUT, bytes not yet written */
	uint32_t stage_high, in_high, out_high; /* highest bytes used of the three buffers */
	uint8_t plain, bank, fed, closed, shut;
};

struct bank {
	br_skey_decoder_context key;
	br_x509_certificate chain[CHAIN_MAX];
	br_x509_trust_anchor anchor[ANCHORS_MAX];
	size_t chain_len, anchors, used;
	struct {
		size_t first, n;
	} ca[LISTENERS_MAX]; /* of anchor[] */
	unsigned char room[BANK_ROOM];
};

struct template
{
	br_ssl_server_context sc;
	br_ssl_session_cache_lru cache;
	br_ec_impl curves; /* all that BearSSL has, but only those offered for ECDHE */
	unsigned char sessions[CACHE_ROOM];
};

static struct bank bank[2];
static unsigned current;
static struct template template[LISTENERS_MAX];

static struct { /* chosen once */
	const br_ec_impl *ec;
	br_ecdsa_sign ecdsa_sign;
	br_ecdsa_vrfy ecdsa_verify;
	br_rsa_pkcs1_sign rsa_sign;
	br_rsa_pkcs1_vrfy rsa_verify;
	int aes; /* in hardware */
} use;

static const struct {
	int code;
	const char *text;
} error_text[] = {
	{ BR_ERR_UNSUPPORTED_VERSION, "not TLS 1.2" },
	{ BR_ERR_BAD_VERSION, "wrong record version" },
	{ BR_ERR_BAD_LENGTH, "wrong record length" },
	{ BR_ERR_TOO_LARGE, "record too large" },
	{ BR_ERR_BAD_MAC, "record not authentic" },
	{ BR_ERR_UNKNOWN_TYPE, "unknown record type" },
	{ BR_ERR_UNEXPECTED, "unexpected message" },
	{ BR_ERR_BAD_HANDSHAKE, "malformed handshake" },
	{ BR_ERR_BAD_PARAM, "malformed handshake parameter" },
	{ BR_ERR_BAD_SECRENEG, "renegotiation refused" },
	{ BR_ERR_BAD_FINISHED, "wrong Finished" },
	{ BR_ERR_BAD_SIGNATURE, "wrong signature" },
	{ BR_ERR_NO_CLIENT_AUTH, "no client certificate" },
	{ BR_ERR_X509_EXPIRED, "client certificate expired or not yet valid" },
	{ BR_ERR_X509_NOT_TRUSTED, "client certificate of an unknown CA" },
	{ BR_ERR_X509_BAD_SIGNATURE, "client certificate with a wrong signature" },
	{ BR_ERR_X509_DN_MISMATCH, "client certificate chain broken" },
	{ BR_ERR_X509_NOT_CA, "client certificate chain through a certificate that is no CA" },
	{ BR_ERR_X509_WEAK_PUBLIC_KEY, "client certificate with a weak key" },
	{ BR_ERR_X509_EMPTY_CHAIN, "client certificate chain empty" },
	{ BR_ERR_RECV_FATAL_ALERT + 42, "client sent alert bad_certificate" },
	{ BR_ERR_RECV_FATAL_ALERT + 46, "client sent alert certificate_unknown" },
	{ BR_ERR_RECV_FATAL_ALERT + 48, "client sent alert unknown_ca" },
	{ BR_ERR_SEND_FATAL_ALERT + 40, "no common cipher suite or curve" },
	{ BR_ERR_SEND_FATAL_ALERT + 70, "protocol version refused" },
	{ BR_ERR_SEND_FATAL_ALERT + 120, "no common ALPN protocol" },
};

size_t
tls_size(void)
{
	return (sizeof(struct tls) + 15) & ~(size_t)15;
}

enum step
dead(struct conn *c, const char *why)
{
	c->why = why;
	return DEAD;
}

static const char *
describe(int code)
{
	static char text[64];

	for (size_t i = 0; i < sizeof error_text / sizeof error_text[0]; i++) {
		if (error_text[i].code == code) {
			snprintf(text, sizeof text, "TLS: %s", error_text[i].text);
			return text;
		}
	}
	if (code >= BR_ERR_RECV_FATAL_ALERT)
		snprintf(text, sizeof text, "TLS: %s alert %d",
			code >= BR_ERR_SEND_FATAL_ALERT ? "sent" : "client sent", code & 255);
	else
		snprintf(text, sizeof text, "TLS: BearSSL error %d", code);
	return text;
}

/* Loading: files to banks. */

static const char *
fault(const char *format, ...)
{
	static char text[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	return text;
}

static void
bank_append(void *ctx, const void *data, size_t len)
{
	struct bank *b = ctx;

	if (len > BANK_ROOM - b->used) {
		b->used = BANK_ROOM + 1;
		len = 0;
	}
	if (b->used <= BANK_ROOM) {
		memcpy(b->room + b->used, data, len);
		b->used += len;
	}
}

static const char *
take_certificate(struct bank *b, const char *name, size_t from)
{
	if (strcmp(name, "CERTIFICATE") != 0 && strcmp(name, "X509 CERTIFICATE") != 0) {
		b->used = from;
		return NULL;
	}
	if (b->chain_len == CHAIN_MAX)
		return "has too many certificates";
	b->chain[b->chain_len].data = b->room + from;
	b->chain[b->chain_len++].data_len = b->used - from;
	return NULL;
}

static const char *
take_key(struct bank *b, const char *name, size_t from)
{
	size_t len = b->used - from;
	const char *wrong = NULL;

	if (strcmp(name, "ENCRYPTED PRIVATE KEY") == 0) {
		wrong = "holds an encrypted key";
	} else if (strstr(name, "PRIVATE KEY") != NULL) {
		if (br_skey_decoder_key_type(&b->key) != 0) {
			wrong = "holds more than one key";
		} else {
			br_skey_decoder_init(&b->key);
			br_skey_decoder_push(&b->key, b->room + from, len);
			if (br_skey_decoder_last_error(&b->key) != 0)
				wrong = "holds a key that is not valid RSA or EC (encrypted?)";
		}
	}
	explicit_bzero(b->room + from, len);
	b->used = from;
	return wrong;
}

static unsigned char *
keep(struct bank *b, const unsigned char *p, size_t n)
{
	size_t at = b->used;

	bank_append(b, p, n);
	return b->room + (b->used > BANK_ROOM ? 0 : at);
}

static const char *
take_anchor(struct bank *b, const char *name, size_t from)
{
	br_x509_decoder_context xd;
	br_x509_trust_anchor *ta = &b->anchor[b->anchors];
	const br_x509_pkey *pk;
	size_t der_end = b->used;

	if (strcmp(name, "CERTIFICATE") != 0 && strcmp(name, "X509 CERTIFICATE") != 0) {
		b->used = from;
		return NULL;
	}
	if (b->anchors == ANCHORS_MAX)
		return "has too many certificates";
	br_x509_decoder_init(&xd, bank_append, b); /* the name goes behind the certificate */
	br_x509_decoder_push(&xd, b->room + from, der_end - from);
	pk = br_x509_decoder_get_pkey(&xd);
	if (pk == NULL)
		return "holds a certificate that cannot be read";
	ta->dn.data = b->room + der_end;
	ta->dn.len = b->used - der_end;
	ta->flags = br_x509_decoder_isCA(&xd) ? BR_X509_TA_CA : 0;
	ta->pkey = *pk;
	if (pk->key_type == BR_KEYTYPE_RSA) {
		ta->pkey.key.rsa.n = keep(b, pk->key.rsa.n, pk->key.rsa.nlen);
		ta->pkey.key.rsa.e = keep(b, pk->key.rsa.e, pk->key.rsa.elen);
	} else {
		ta->pkey.key.ec.q = keep(b, pk->key.ec.q, pk->key.ec.qlen);
	}
	b->anchors++;
	return NULL;
}

/* Pushes one read's bytes; each object ends in `take`.  *line counts on. */
static const char *
pem_push(br_pem_decoder_context *pem, struct bank *b, const char *p, size_t n, size_t *from,
	unsigned *line, const char *(*take)(struct bank *, const char *, size_t))
{
	size_t k;
	const char *wrong = NULL;

	for (size_t i = 0; i < n && wrong == NULL; i += k) {
		k = br_pem_decoder_push(pem, p + i, n - i);
		for (size_t j = i; j < i + k; j++)
			*line += p[j] == '\n';
		switch (br_pem_decoder_event(pem)) {
		case BR_PEM_BEGIN_OBJ:
			*from = b->used;
			br_pem_decoder_setdest(pem, bank_append, b);
			break;
		case BR_PEM_END_OBJ:
			wrong = b->used > BANK_ROOM ? "is too large"
						    : take(b, br_pem_decoder_name(pem), *from);
			if (wrong == NULL && b->used > BANK_ROOM)
				wrong = "is too large";
			break;
		case BR_PEM_ERROR:
			wrong = "is not valid PEM";
			break;
		}
	}
	return wrong;
}

static const char *
pem_file(struct bank *b, const char *file, const char *(*take)(struct bank *, const char *, size_t))
{
	br_pem_decoder_context pem;
	char buf[1024];
	const char *wrong = NULL;
	unsigned line = 1;
	size_t from = 0;
	ssize_t n;
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return fault("%s: %s", file, strerror(errno));
	br_pem_decoder_init(&pem);
	do {
		n = read(fd, buf, sizeof buf);
		if (n > 0)
			wrong = pem_push(&pem, b, buf, (size_t)n, &from, &line, take);
		else if (n == 0) /* a last line without its end */
			wrong = pem_push(&pem, b, "\n", 1, &from, &line, take);
	} while (wrong == NULL && (n > 0 || (n < 0 && errno == EINTR)));
	if (n < 0)
		wrong = strerror(errno);
	close(fd);
	explicit_bzero(buf, sizeof buf);
	explicit_bzero(&pem, sizeof pem);
	return wrong == NULL ? NULL : fault("%s:%u: %s", file, line, wrong);
}

static int
same_number(const unsigned char *a, size_t alen, const unsigned char *b, size_t blen)
{
	for (; alen > 0 && *a == 0; a++)
		alen--;
	for (; blen > 0 && *b == 0; b++)
		blen--;
	return alen == blen && memcmp(a, b, alen) == 0;
}

/* BearSSL does not compare the key with the certificate. */
static int
key_matches(const struct bank *b)
{
	br_x509_decoder_context xd;
	const br_x509_pkey *pk;
	const br_ec_private_key *ec = br_skey_decoder_get_ec(&b->key);
	const br_rsa_private_key *rsa = br_skey_decoder_get_rsa(&b->key);
	unsigned char buf[RSA_BYTES + BR_EC_KBUF_PUB_MAX_SIZE];
	uint32_t e;
	size_t n;

	br_x509_decoder_init(&xd, NULL, NULL);
	br_x509_decoder_push(&xd, b->chain[0].data, b->chain[0].data_len);
	pk = br_x509_decoder_get_pkey(&xd);
	if (pk == NULL || pk->key_type != br_skey_decoder_key_type(&b->key))
		return 0;
	if (ec != NULL) {
		if (pk->key.ec.curve != ec->curve || !(use.ec->supported_curves >> ec->curve & 1))
			return 0;
		n = br_ec_compute_pub(use.ec, NULL, buf, ec);
		return n != 0 && n == pk->key.ec.qlen && memcmp(buf, pk->key.ec.q, n) == 0;
	}
	n = br_rsa_compute_modulus_get_default()(NULL, rsa);
	if (n == 0 || n > RSA_BYTES || br_rsa_compute_modulus_get_default()(buf, rsa) != n ||
		!same_number(buf, n, pk->key.rsa.n, pk->key.rsa.nlen))
		return 0;
	e = br_rsa_compute_pubexp_get_default()(rsa);
	for (size_t i = 0; i < 4; i++)
		buf[i] = (unsigned char)(e >> (24 - 8 * i));
	return same_number(buf, 4, pk->key.rsa.e, pk->key.rsa.elen);
}

static void
set_policy(br_ssl_server_context *sc, const struct bank *b)
{
	const br_ec_private_key *ec = br_skey_decoder_get_ec(&b->key);

	if (ec != NULL)
		br_ssl_server_set_single_ec(
			sc, b->chain, b->chain_len, ec, BR_KEYTYPE_SIGN, 0, use.ec, use.ecdsa_sign);
	else
		br_ssl_server_set_single_rsa(sc, b->chain, b->chain_len,
			br_skey_decoder_get_rsa(&b->key), BR_KEYTYPE_SIGN, NULL, use.rsa_sign);
}

static int
seed(br_ssl_engine_context *eng)
{
	unsigned char entropy[SEED];
	ssize_t n;

	do
		n = getrandom(entropy, sizeof entropy, 0);
	while (n < 0 && errno == EINTR);
	if (n != SEED)
		return 0;
	br_ssl_engine_inject_entropy(eng, entropy, sizeof entropy);
	explicit_bzero(entropy, sizeof entropy);
	return 1;
}

static const uint16_t suites[] = {
	BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
};
static const char *const suite_name[] = {
	"ECDHE-ECDSA-CHACHA20-POLY1305",
	"ECDHE-RSA-CHACHA20-POLY1305",
	"ECDHE-ECDSA-AES128-GCM-SHA256",
	"ECDHE-RSA-AES128-GCM-SHA256",
	"ECDHE-ECDSA-AES256-GCM-SHA384",
	"ECDHE-RSA-AES256-GCM-SHA384",
};

static const br_hash_class *const hashes[] = { &br_sha256_vtable, &br_sha384_vtable,
	&br_sha512_vtable };

static void
set_hashes(br_multihash_context *mh)
{
	for (size_t i = 0; i < sizeof hashes / sizeof hashes[0]; i++)
		br_multihash_setimpl(mh, br_sha256_ID + (int)i, hashes[i]);
}

/*
 * Makes the template of listener i from bank b.  What it injects is no entropy: it only marks the
 * generator as seeded, and each copy injects its own or is refused.
 */
static void
prepare(unsigned i, struct bank *b)
{
	static unsigned char scratch[2][1024];
	static const char *alpn[] = { "http/1.1" };
	struct template *t = &template[i];
	br_ssl_engine_context *eng = &t->sc.eng;

	br_ssl_server_zero(&t->sc);
	br_ssl_engine_set_versions(eng, BR_TLS12, BR_TLS12);
	br_ssl_engine_set_suites(eng, suites + (use.aes ? 2 : 0), 6);
	br_ssl_engine_add_flags(eng, BR_OPT_ENFORCE_SERVER_PREFERENCES | BR_OPT_NO_RENEGOTIATION);
	br_ssl_engine_set_protocol_names(eng, alpn, 1);
	set_hashes(&eng->mhash);
	br_ssl_engine_set_prf_sha256(eng, &br_tls12_sha256_prf);
	br_ssl_engine_set_prf_sha384(eng, &br_tls12_sha384_prf);
	br_ssl_engine_set_default_aes_gcm(eng);
	br_ssl_engine_set_default_chapol(eng);
	t->curves = *use.ec;
	t->curves.supported_curves &= 1U << BR_EC_curve25519 | 1U << BR_EC_secp256r1;
	if (b->ca[i].n > 0) {
		/* this engine also verifies the client's signature, and a resumed session has none */
		t->curves.supported_curves |= use.ec->supported_curves & 1U << BR_EC_secp384r1;
		br_ssl_engine_set_rsavrfy(eng, use.rsa_verify);
		br_ssl_engine_set_ecdsa(eng, use.ecdsa_verify);
		br_ssl_server_set_trust_anchor_names_alt(
			&t->sc, b->anchor + b->ca[i].first, b->ca[i].n);
	} else {
		br_ssl_session_cache_lru_init(&t->cache, t->sessions, sizeof t->sessions);
		br_ssl_server_set_cache(&t->sc, &t->cache.vtable);
	}
	br_ssl_engine_set_ec(eng, &t->curves);
	set_policy(&t->sc, b);
	br_ssl_engine_set_buffers_bidi(
		eng, scratch[0], sizeof scratch[0], scratch[1], sizeof scratch[1]);
	br_ssl_engine_inject_entropy(eng, "wssd", 4);
	br_ssl_server_reset(&t->sc);
}

static void
choose(void)
{
	use.ec = br_ec_get_default();
	use.ecdsa_sign = br_ecdsa_sign_asn1_get_default();
	use.ecdsa_verify = br_ecdsa_vrfy_asn1_get_default();
	use.rsa_sign = br_rsa_pkcs1_sign_get_default();
	use.rsa_verify = br_rsa_pkcs1_vrfy_get_default();
	use.aes = br_aes_x86ni_ctr_get_vtable() != NULL || br_aes_pwr8_ctr_get_vtable() != NULL;
}

const char *
tls_load(void)
{
	struct bank *b = &bank[current ^ 1];
	const char *wrong;

	if (use.ec == NULL)
		choose();
	explicit_bzero(b, sizeof *b);
	wrong = pem_file(b, cf.cert, take_certificate);
	if (wrong == NULL && b->chain_len == 0)
		wrong = fault("%s: holds no certificate", cf.cert);
	if (wrong == NULL)
		wrong = pem_file(b, cf.key, take_key);
	if (wrong == NULL && br_skey_decoder_key_type(&b->key) == 0)
		wrong = fault("%s: holds no private key", cf.key);
	if (wrong == NULL && !key_matches(b))
		wrong = fault(
			"%s: the key does not belong to the certificate in %s", cf.key, cf.cert);
	for (unsigned i = 0; i < cf.listeners && wrong == NULL; i++) {
		if (cf.listener[i].client_ca == NULL)
			continue;
		b->ca[i].first = b->anchors;
		wrong = pem_file(b, cf.listener[i].client_ca, take_anchor);
		b->ca[i].n = b->anchors - b->ca[i].first;
		if (wrong == NULL && b->ca[i].n == 0)
			wrong = fault("%s: holds no certificate", cf.listener[i].client_ca);
	}
	if (wrong != NULL) {
		explicit_bzero(b, sizeof *b);
		return wrong;
	}
	for (unsigned i = 0; i < cf.listeners; i++)
		if (!cf.listener[i].plain)
			prepare(i, b);
	current ^= 1;
	return NULL;
}

int
tls_stale(const struct conn *c)
{
	return c->state == SHAKE && !c->tls->plain && c->tls->bank != current;
}

int
tls_open(struct conn *c)
{
	struct tls *t = c->tls;
	const struct bank *b = &bank[current];
	size_t i = (size_t)(c->lis - cf.listener);
	br_x509_minimal_context *xc = (void *)(c->io + IO_X509);

	_Static_assert(sizeof *xc <= X509_ROOM, "X.509 context fits");
	t->plain = (uint8_t)c->lis->plain;
	if (t->plain)
		return 1;
	t->bank = (uint8_t)current;
	t->sc = template[i].sc;
	br_ssl_engine_set_buffers_bidi(&t->sc.eng, c->io + IO_IN, TLS_IN, c->io + IO_OUT, TLS_OUT);
	set_policy(&t->sc, b);
	if (b->ca[i].n > 0) {
		br_x509_minimal_init(xc, &br_sha256_vtable, b->anchor + b->ca[i].first, b->ca[i].n);
		br_x509_minimal_set_rsa(xc, use.rsa_verify);
		br_x509_minimal_set_ecdsa(xc, use.ec, use.ecdsa_verify);
		set_hashes(&xc->mhash);
		br_ssl_engine_set_x509(&t->sc.eng, &xc->vtable);
	}
	return seed(&t->sc.eng) && br_ssl_server_reset(&t->sc);
}

/* Input. */

static enum step
read_stage(struct conn *c)
{
	struct tls *t = c->tls;
	ssize_t n;

	if (!c->readable)
		return WAIT;
	c->readable = 0;
	do
		n = read(c->fd, c->io + IO_STAGE, STAGE);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? WAIT : dead(c, strerror(errno));
	if (n == 0)
		return dead(c, "client left");
	t->from = 0;
	t->to = (uint32_t)n;
	if (t->stage_high < t->to)
		t->stage_high = t->to;
	c->heard = now;
	c->pinged = 0;
	if (!t->plain && !t->fed && c->io[IO_STAGE] >= 'A' && c->io[IO_STAGE] <= 'Z')
		t->plain = c->misplaced = 1; /* a method, where a record would begin with 22 */
	return MORE;
}

/* The engine's end: its error, or a close_notify from the client. */
static enum step
engine_end(struct conn *c)
{
	int code = br_ssl_engine_last_error(&c->tls->sc.eng);

	return dead(c, code == BR_ERR_OK ? "client sent close_notify" : describe(code));
}

enum step
tls_in(struct conn *c)
{
	struct tls *t = c->tls;
	br_ssl_engine_context *eng = &t->sc.eng;
	enum step moved = WAIT;
	unsigned char *p;
	size_t n;

	if (t->plain)
		return t->from < t->to ? WAIT : read_stage(c);
	while ((p = br_ssl_engine_recvrec_buf(eng, &n)) != NULL) {
		if (t->from == t->to) {
			enum step s = read_stage(c);

			if (s == DEAD || t->plain)
				return s;
			if (s == WAIT)
				break;
		}
		if (n > t->to - t->from)
			n = t->to - t->from;
		memcpy(p, c->io + IO_STAGE + t->from, n);
		t->from += (uint32_t)n;
		t->fed = 1;
		if (t->in_high < (size_t)(p - (c->io + IO_IN)) + n)
			t->in_high = (uint32_t)((size_t)(p - (c->io + IO_IN)) + n);
		br_ssl_engine_recvrec_ack(eng, n);
		moved = MORE;
	}
	return br_ssl_engine_current_state(eng) == BR_SSL_CLOSED ? engine_end(c) : moved;
}

int
tls_ready(const struct conn *c)
{
	size_t n;

	return c->tls->plain || br_ssl_engine_sendapp_buf(&c->tls->sc.eng, &n) != NULL ||
	       br_ssl_engine_recvapp_buf(&c->tls->sc.eng, &n) != NULL;
}

int
tls_resumed(struct conn *c)
{
	return !c->tls->plain && br_ssl_engine_get_ecdhe_curve(&c->tls->sc.eng) == 0;
}

unsigned char *
tls_peek(struct conn *c, size_t *n)
{
	struct tls *t = c->tls;

	if (!t->plain)
		return br_ssl_engine_recvapp_buf(&t->sc.eng, n);
	*n = t->to - t->from;
	return *n > 0 ? c->io + IO_STAGE + t->from : NULL;
}

void
tls_eat(struct conn *c, size_t n)
{
	if (n == 0) /* BearSSL takes an acknowledgement of nothing for the end of a record */
		return;
	c->in += n;
	count.bytes_in += n;
	if (!c->tls->plain)
		br_ssl_engine_recvapp_ack(&c->tls->sc.eng, n);
	else
		c->tls->from += (uint32_t)n;
}

/* Output. */

unsigned char *
tls_room(struct conn *c, size_t *n)
{
	struct tls *t = c->tls;

	if (!t->plain)
		return br_ssl_engine_sendapp_buf(&t->sc.eng, n);
	*n = t->out_from > 0 ? 0 : RECORD_MAX - t->out_to;
	return *n > 0 ? c->io + IO_OUT + t->out_to : NULL;
}

static void
raise_out(struct conn *c, const unsigned char *end)
{
	size_t high = (size_t)(end - (c->io + IO_OUT));

	if (c->tls->out_high < high)
		c->tls->out_high = (uint32_t)high;
}

void
tls_put(struct conn *c, size_t n)
{
	struct tls *t = c->tls;
	size_t room;

	c->out += n;
	count.bytes_out += n;
	raise_out(c, tls_room(c, &room) + n);
	if (!t->plain)
		br_ssl_engine_sendapp_ack(&t->sc.eng, n);
	else
		t->out_to += (uint32_t)n;
}

static const unsigned char *
pending(const struct conn *c, size_t *n)
{
	const struct tls *t = c->tls;

	if (!t->plain)
		return br_ssl_engine_sendrec_buf(&t->sc.eng, n);
	*n = t->out_to - t->out_from;
	return *n > 0 ? c->io + IO_OUT + t->out_from : NULL;
}

static void
sent(struct conn *c, size_t n)
{
	struct tls *t = c->tls;

	if (!t->plain) {
		br_ssl_engine_sendrec_ack(&t->sc.eng, n);
		return;
	}
	t->out_from += (uint32_t)n;
	if (t->out_from == t->out_to)
		t->out_from = t->out_to = 0;
}

enum step
tls_out(struct conn *c)
{
	struct tls *t = c->tls;
	enum step moved = WAIT;
	const unsigned char *p;
	size_t n;

	if (!t->plain)
		br_ssl_engine_flush(&t->sc.eng, 0);
	while ((p = pending(c, &n)) != NULL) {
		ssize_t w = write(c->fd, p, n);

		raise_out(c, p + n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0 && errno == EAGAIN)
			break;
		if (w < 0)
			return dead(c, strerror(errno));
		sent(c, (size_t)w);
		c->stalled = 0;
		moved = MORE;
	}
	if (!t->plain && br_ssl_engine_current_state(&t->sc.eng) == BR_SSL_CLOSED)
		return engine_end(c);
	return moved;
}

short
tls_events(const struct conn *c)
{
	const struct tls *t = c->tls;
	size_t n;
	short events = pending(c, &n) != NULL ? POLLOUT : 0;

	if (t->shut)
		return POLLIN;
	if (t->plain ? t->from == t->to : br_ssl_engine_recvrec_buf(&t->sc.eng, &n) != NULL)
		events |= POLLIN;
	return events;
}

/* Rest and end. */

enum step
tls_bye(struct conn *c)
{
	struct tls *t = c->tls;
	const char *why = c->why;
	ssize_t n;

	if (!t->shut) {
		if (tls_out(c) == DEAD && br_ssl_engine_last_error(&t->sc.eng) != BR_ERR_OK)
			return DEAD;
		c->why = why;
		if (pending(c, &(size_t){ 0 }) != NULL)
			return WAIT;
		if (!t->plain && !t->closed) {
			t->closed =
				1; /* only now: a close drops the plaintext that was not eaten */
			br_ssl_engine_close(&t->sc.eng);
			return MORE;
		}
		if (shutdown(c->fd, SHUT_WR) != 0)
			return DEAD;
		t->shut = 1;
	}
	if (!c->readable)
		return WAIT;
	c->readable = 0;
	n = read(c->fd, c->io + IO_STAGE, STAGE);
	if (n > 0 && t->stage_high < (uint32_t)n)
		t->stage_high = (uint32_t)n;
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)) ? WAIT : DEAD;
}

int
tls_idle(struct conn *c)
{
	struct tls *t = c->tls;
	size_t n, room;

	if (tls_room(c, &room) == NULL || room != RECORD_MAX || t->from != t->to)
		return 0;
	return t->plain || (br_ssl_engine_recvrec_buf(&t->sc.eng, &n) == c->io + IO_IN && n == 5);
}

void
tls_wipe(struct conn *c)
{
	struct tls *t = c->tls;

	explicit_bzero(c->io + IO_STAGE, t->stage_high);
	explicit_bzero(c->io + IO_IN, t->in_high);
	explicit_bzero(c->io + IO_OUT, t->out_high);
	explicit_bzero(t, sizeof *t);
}

void
tls_forget(struct conn *c)
{
	c->tls->stage_high = c->tls->in_high = c->tls->out_high = 0;
}

const char *
tls_suite(const struct conn *c)
{
	br_ssl_session_parameters sp;

	if (c->tls->plain)
		return "plain";
	br_ssl_engine_get_session_parameters(&c->tls->sc.eng, &sp);
	for (size_t i = 0; i < sizeof suite_name / sizeof suite_name[0]; i++)
		if (suites[i] == sp.cipher_suite)
			return suite_name[i];
	return "-";
}
