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
 * - What BearSSL finds out about the CPU it finds out for the template, not for each connection:
 *   asking traps in virtual machines.
 * - Input is read into the stage only when the stage is empty, and fed to the engine as far as it
 *   asks.  The engine asks only once all plaintext is eaten, so POLLIN is wanted only then.
 * - While the handshake runs nothing is fed before what the engine has to say went out: a client may
 *   send data right behind its Finished (RFC 7918), which the engine takes only after its own.
 * - Chain, key and CAs live in one of two banks; a reload fills the spare one and then changes over,
 *   so that a failed reload changes nothing.
 * - The highest byte used of any buffer is known; a wipe covers that much of each.
 *
 * TLS 1.2 with ECDHE and AEAD suites only; no renegotiation.  Where the CPU has AES instructions
 * AES-GCM comes first, else ChaCha20-Poly1305, and the server's order counts.
 */
#include "ws.h"

#include <bearssl.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
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
	SIGNATURE = 512 /* RSA with 4096 bits, BearSSL's limit */
};

enum kind { CHAIN, KEY, CA }; /* what a PEM file is read for */

struct tls {
	br_ssl_server_context sc;
	uint32_t from, to;         /* IO_STAGE: bytes not yet fed or eaten */
	uint32_t out_from, out_to; /* plain: IO_OUT, bytes not yet written */
	uint32_t high;             /* highest byte used of any buffer */
	uint8_t plain, fed, ready, closed, shut;
};

static struct bank {
	br_skey_decoder_context key;
	br_x509_certificate chain[CHAIN_MAX];
	br_x509_trust_anchor anchor[ANCHORS_MAX];
	size_t chain_len, anchors, used;
	size_t ca[LISTENERS_MAX + 1]; /* listener i has the anchors from ca[i] to ca[i + 1] */
	unsigned char room[BANK_ROOM];
} banks[2], *bank = &banks[0];

static struct template
{
	br_ssl_server_context sc;
	br_ssl_session_cache_lru cache;
	br_ec_impl curves; /* all that BearSSL has, but only those offered for ECDHE */
	unsigned char sessions[CACHE_ROOM];
}
templates[LISTENERS_MAX];

static const uint16_t suites[] = { /* six of them, from the first or from the third on */
	BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
};
static const char *const suite_names[] = { "ECDHE-ECDSA-CHACHA20-POLY1305",
	"ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256",
	"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
	"ECDHE-RSA-AES256-GCM-SHA384" };

static const struct {
	int code;
	const char *text;
} errors[] = { { BR_ERR_BAD_VERSION, "wrong record version" }, { BR_ERR_BAD_MAC, "bad record MAC" },
	{ BR_ERR_UNSUPPORTED_VERSION, "not TLS" }, { BR_ERR_UNEXPECTED, "unexpected message" },
	{ BR_ERR_BAD_LENGTH, "wrong record length" }, { BR_ERR_BAD_PARAM, "malformed handshake" },
	{ BR_ERR_BAD_SIGNATURE, "wrong signature" }, { BR_ERR_BAD_FINISHED, "wrong Finished" },
	{ BR_ERR_NO_CLIENT_AUTH, "no client certificate" },
	{ BR_ERR_X509_EXPIRED, "client certificate expired or not yet valid" },
	{ BR_ERR_X509_NOT_TRUSTED, "client certificate of no known CA" },
	{ BR_ERR_X509_BAD_SIGNATURE, "client certificate with a wrong signature" },
	{ BR_ERR_X509_DN_MISMATCH, "client certificate chain broken" },
	{ BR_ERR_X509_NOT_CA, "client certificate of one that is no CA" },
	{ BR_ERR_X509_WEAK_PUBLIC_KEY, "client certificate with a weak key" },
	{ BR_ERR_SEND_FATAL_ALERT + 40, "no common cipher suite or curve" },
	{ BR_ERR_SEND_FATAL_ALERT + 70, "no common version" },
	{ BR_ERR_RECV_FATAL_ALERT + 42, "client does not like the certificate" },
	{ BR_ERR_RECV_FATAL_ALERT + 46, "client does not know the certificate" },
	{ BR_ERR_RECV_FATAL_ALERT + 48, "client does not know the certificate's CA" } };

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

/* Loading: files to banks. */

static const char *
fault(const char *file, unsigned line, const char *wrong)
{
	static char text[512];

	snprintf(text, sizeof text, line > 0 ? "%s:%u: %s" : "%s: %.0u%s", file, line, wrong);
	return text;
}

static void
bank_append(void *ctx, const void *data, size_t len)
{
	struct bank *b = ctx;

	if (len > BANK_ROOM - b->used)
		len = BANK_ROOM - b->used;
	memcpy(b->room + b->used, data, len);
	b->used += len;
}

static unsigned char *
bank_keep(struct bank *b, const unsigned char *p, size_t n)
{
	unsigned char *at = b->room + b->used;

	bank_append(b, p, n);
	return at;
}

/* A certificate becomes a trust anchor: its name and key go behind it. */
static const char *
take_anchor(struct bank *b, const unsigned char *der, size_t len)
{
	br_x509_decoder_context xd;
	br_x509_trust_anchor *ta = &b->anchor[b->anchors];
	br_x509_pkey *pk;

	if (b->anchors == ANCHORS_MAX)
		return "has too many certificates";
	ta->dn.data = b->room + b->used;
	br_x509_decoder_init(&xd, bank_append, b);
	br_x509_decoder_push(&xd, der, len);
	pk = br_x509_decoder_get_pkey(&xd);
	if (pk == NULL)
		return "holds a certificate that cannot be read";
	ta->dn.len = (size_t)(b->room + b->used - ta->dn.data);
	ta->flags = br_x509_decoder_isCA(&xd) ? BR_X509_TA_CA : 0;
	ta->pkey = *pk;
	if (pk->key_type == BR_KEYTYPE_EC) {
		ta->pkey.key.ec.q = bank_keep(b, pk->key.ec.q, pk->key.ec.qlen);
	} else {
		ta->pkey.key.rsa.n = bank_keep(b, pk->key.rsa.n, pk->key.rsa.nlen);
		ta->pkey.key.rsa.e = bank_keep(b, pk->key.rsa.e, pk->key.rsa.elen);
	}
	b->anchors++;
	return NULL;
}

/* An object of a PEM file came to its end; it stands in b->room from `from` on. */
static const char *
take(struct bank *b, enum kind kind, const char *name, size_t from)
{
	unsigned char *der = b->room + from;
	size_t len = b->used - from;
	const char *wrong = NULL;

	if (kind == KEY && strcmp(name, "ENCRYPTED PRIVATE KEY") == 0)
		return "holds an encrypted key";
	if (kind == KEY && strstr(name, "PRIVATE KEY") != NULL) {
		if (br_skey_decoder_key_type(&b->key) != 0)
			wrong = "holds more than one key";
		br_skey_decoder_init(&b->key);
		br_skey_decoder_push(&b->key, der, len);
		if (wrong == NULL && br_skey_decoder_last_error(&b->key) != 0)
			wrong = "holds a key that is encrypted, or not valid RSA or EC";
		explicit_bzero(der, len);
	}
	if (kind == KEY || strstr(name, "CERTIFICATE") == NULL) {
		b->used = from;
	} else if (kind == CA) {
		wrong = take_anchor(b, der, len);
	} else if (b->chain_len == CHAIN_MAX) {
		wrong = "has too many certificates";
	} else {
		b->chain[b->chain_len].data = der;
		b->chain[b->chain_len++].data_len = len;
	}
	return b->used == BANK_ROOM ? "is too large" : wrong;
}

static const char *
load(struct bank *b, const char *file, enum kind kind)
{
	br_pem_decoder_context pem;
	char buf[1024] = "";
	const char *wrong = NULL;
	unsigned line = 1;
	size_t from = 0;
	ssize_t n = 1;
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return fault(file, 0, strerror(errno));
	br_pem_decoder_init(&pem);
	while (n > 0 && wrong == NULL && (n = read(fd, buf, sizeof buf)) >= 0) {
		if (n == 0)
			buf[0] = '\n'; /* the last line may lack its end */
		for (ssize_t i = 0; i < n + (n == 0) && wrong == NULL; i++) {
			if (buf[i] == '\r')
				continue;
			br_pem_decoder_push(&pem, buf + i, 1);
			switch (br_pem_decoder_event(&pem)) {
			case BR_PEM_BEGIN_OBJ:
				from = b->used;
				br_pem_decoder_setdest(&pem, bank_append, b);
				break;
			case BR_PEM_END_OBJ:
				wrong = take(b, kind, br_pem_decoder_name(&pem), from);
				break;
			case BR_PEM_ERROR:
				wrong = "is not valid PEM";
			}
			line += buf[i] == '\n' && wrong == NULL;
		}
	}
	if (n < 0)
		wrong = strerror(errno);
	close(fd);
	explicit_bzero(buf, sizeof buf);
	explicit_bzero(&pem, sizeof pem);
	return wrong == NULL ? NULL : fault(file, line, wrong);
}

/* BearSSL does not compare key and certificate: what the one signs, the other must verify. */
static int
key_matches(const struct bank *b)
{
	static const unsigned char hash[br_sha256_SIZE] = "any 32 bytes serve the purpose.";
	const br_ec_private_key *ec = br_skey_decoder_get_ec(&b->key);
	const br_rsa_private_key *rsa = br_skey_decoder_get_rsa(&b->key);
	unsigned char signature[SIGNATURE], out[br_sha256_SIZE];
	br_x509_decoder_context xd;
	const br_x509_pkey *pk;
	size_t n;

	br_x509_decoder_init(&xd, NULL, NULL);
	br_x509_decoder_push(&xd, b->chain[0].data, b->chain[0].data_len);
	pk = br_x509_decoder_get_pkey(&xd);
	if (pk == NULL || pk->key_type != br_skey_decoder_key_type(&b->key))
		return 0;
	if (ec != NULL) {
		n = br_ecdsa_sign_asn1_get_default()(
			br_ec_get_default(), &br_sha256_vtable, hash, ec, signature);
		return n > 0 && br_ecdsa_vrfy_asn1_get_default()(br_ec_get_default(), hash,
					sizeof hash, &pk->key.ec, signature, n) == 1;
	}
	n = (rsa->n_bitlen + 7) / 8;
	return n <= sizeof signature &&
	       br_rsa_pkcs1_sign_get_default()(
		       BR_HASH_OID_SHA256, hash, sizeof hash, rsa, signature) == 1 &&
	       br_rsa_pkcs1_vrfy_get_default()(
		       signature, n, BR_HASH_OID_SHA256, sizeof out, &pk->key.rsa, out) == 1 &&
	       memcmp(hash, out, sizeof hash) == 0;
}

static void
set_policy(br_ssl_server_context *sc, const struct bank *b)
{
	const br_ec_private_key *ec = br_skey_decoder_get_ec(&b->key);

	if (ec != NULL)
		br_ssl_server_set_single_ec(sc, b->chain, b->chain_len, ec, BR_KEYTYPE_SIGN, 0,
			br_ec_get_default(), br_ecdsa_sign_asn1_get_default());
	else
		br_ssl_server_set_single_rsa(sc, b->chain, b->chain_len,
			br_skey_decoder_get_rsa(&b->key), BR_KEYTYPE_SIGN, NULL,
			br_rsa_pkcs1_sign_get_default());
}

static void
set_hashes(br_multihash_context *mh)
{
	br_multihash_setimpl(mh, br_sha256_ID, &br_sha256_vtable);
	br_multihash_setimpl(mh, br_sha384_ID, &br_sha384_vtable);
	br_multihash_setimpl(mh, br_sha512_ID, &br_sha512_vtable);
}

/*
 * Makes the template of listener i from bank b.  What it injects is no entropy: it only marks the
 * generator as seeded, and each copy injects its own or is refused.
 */
static void
prepare(unsigned i, const struct bank *b)
{
	static unsigned char scratch[2][1024];
	static const char *alpn[] = { "http/1.1" };
	struct template *t = &templates[i];
	br_ssl_engine_context *eng = &t->sc.eng;
	int aes = br_aes_x86ni_ctr_get_vtable() != NULL || br_aes_pwr8_ctr_get_vtable() != NULL;

	br_ssl_server_zero(&t->sc);
	br_ssl_engine_set_versions(eng, BR_TLS12, BR_TLS12);
	br_ssl_engine_set_suites(eng, suites + (aes ? 2 : 0), 6);
	br_ssl_engine_add_flags(eng, BR_OPT_ENFORCE_SERVER_PREFERENCES | BR_OPT_NO_RENEGOTIATION);
	br_ssl_engine_set_protocol_names(eng, alpn, 1);
	set_hashes(&eng->mhash);
	br_ssl_engine_set_prf_sha256(eng, &br_tls12_sha256_prf);
	br_ssl_engine_set_prf_sha384(eng, &br_tls12_sha384_prf);
	br_ssl_engine_set_default_aes_gcm(eng);
	br_ssl_engine_set_default_chapol(eng);
	t->curves = *br_ec_get_default();
	t->curves.supported_curves &= 1U << BR_EC_curve25519 | 1U << BR_EC_secp256r1;
	if (b->ca[i] < b->ca[i + 1]) {
		/* this engine also verifies the client's signature; a resumed session would have none */
		t->curves.supported_curves |= 1U << BR_EC_secp384r1;
		br_ssl_engine_set_rsavrfy(eng, br_rsa_pkcs1_vrfy_get_default());
		br_ssl_engine_set_ecdsa(eng, br_ecdsa_vrfy_asn1_get_default());
		br_ssl_server_set_trust_anchor_names_alt(
			&t->sc, b->anchor + b->ca[i], b->ca[i + 1] - b->ca[i]);
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

const char *
tls_load(void)
{
	struct bank *b = &banks[bank == &banks[0]];
	const char *wrong;

	explicit_bzero(b, sizeof *b);
	wrong = load(b, cf.cert, CHAIN);
	if (wrong == NULL && b->chain_len == 0)
		wrong = fault(cf.cert, 0, "holds no certificate");
	if (wrong == NULL)
		wrong = load(b, cf.key, KEY);
	if (wrong == NULL && br_skey_decoder_key_type(&b->key) == 0)
		wrong = fault(cf.key, 0, "holds no private key");
	if (wrong == NULL && !key_matches(b))
		wrong = fault(cf.key, 0, "the key does not belong to the certificate");
	for (unsigned i = 0; i < cf.listeners && wrong == NULL; i++) {
		const char *file = cf.listener[i].client_ca;

		if (file != NULL && (wrong = load(b, file, CA)) == NULL && b->anchors == b->ca[i])
			wrong = fault(file, 0, "holds no certificate");
		b->ca[i + 1] = b->anchors;
	}
	if (wrong != NULL) {
		explicit_bzero(b, sizeof *b);
		return wrong;
	}
	for (unsigned i = 0; i < cf.listeners; i++)
		if (!cf.listener[i].plain)
			prepare(i, b);
	bank = b;
	return NULL;
}

int
tls_open(struct conn *c)
{
	struct tls *t = c->tls;
	br_ssl_engine_context *eng = &t->sc.eng;
	size_t i = (size_t)(c->lis - cf.listener);
	br_x509_minimal_context *xc = (void *)(c->io + IO_X509);
	unsigned char entropy[SEED];

	_Static_assert(sizeof *xc <= X509_ROOM, "the X.509 context fits");
	t->plain = (uint8_t)c->lis->plain;
	if (t->plain)
		return 1;
	t->sc = templates[i].sc;
	br_ssl_engine_set_buffers_bidi(eng, c->io + IO_IN, TLS_IN, c->io + IO_OUT, TLS_OUT);
	set_policy(&t->sc, bank);
	if (bank->ca[i] < bank->ca[i + 1]) {
		br_x509_minimal_init(xc, &br_sha256_vtable, bank->anchor + bank->ca[i],
			bank->ca[i + 1] - bank->ca[i]);
		br_x509_minimal_set_rsa(xc, br_rsa_pkcs1_vrfy_get_default());
		br_x509_minimal_set_ecdsa(
			xc, br_ec_get_default(), br_ecdsa_vrfy_asn1_get_default());
		set_hashes(&xc->mhash);
		br_ssl_engine_set_x509(eng, &xc->vtable);
	}
	if (getrandom(entropy, sizeof entropy, 0) != SEED)
		return 0;
	br_ssl_engine_inject_entropy(eng, entropy, sizeof entropy);
	explicit_bzero(entropy, sizeof entropy);
	return br_ssl_server_reset(&t->sc);
}

/* Both directions. */

/* Bytes of `base`, a buffer in the arena, are in use up to end. */
static void
mark(struct conn *c, enum io base, const unsigned char *end)
{
	uint32_t high = (uint32_t)(end - (c->io + base));

	if (c->tls->high < high)
		c->tls->high = high;
}

static enum step
read_stage(struct conn *c)
{
	struct tls *t = c->tls;
	unsigned char *stage = c->io + IO_STAGE;
	ssize_t n;

	if (!c->readable)
		return WAIT;
	c->readable = 0;
	n = read(c->fd, stage, STAGE);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? WAIT : dead(c, strerror(errno));
	if (n == 0)
		return dead(c, "client left");
	mark(c, IO_STAGE, stage + n);
	t->from = 0;
	t->to = (uint32_t)n;
	c->heard = now;
	c->pinged = 0;
	if (!t->plain && !t->fed && stage[0] >= 'A' && stage[0] <= 'Z')
		t->plain = c->misplaced = 1; /* a method, where a record would begin with 22 */
	return MORE;
}

/* The engine's end: its error, or a close_notify from the client. */
static enum step
engine_end(struct conn *c)
{
	int code = br_ssl_engine_last_error(&c->tls->sc.eng);
	char *why = (char *)c->io + IO_STASH;

	if (code == BR_ERR_OK)
		return dead(c, "client sent close_notify");
	snprintf(why, 64, "TLS: BearSSL's error %d",
		code); /* 256 + n: alert received; 512 + n: sent */
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
		if (errors[i].code == code)
			snprintf(why, 64, "TLS: %s", errors[i].text);
	return dead(c, why);
}

/* What is ready to be written. */
static const unsigned char *
pending(const struct conn *c, size_t *n)
{
	const struct tls *t = c->tls;

	if (!t->plain)
		return br_ssl_engine_sendrec_buf(&t->sc.eng, n);
	*n = t->out_to - t->out_from;
	return *n > 0 ? c->io + IO_OUT + t->out_from : NULL;
}

enum step
tls_in(struct conn *c)
{
	struct tls *t = c->tls;
	br_ssl_engine_context *eng = &t->sc.eng;
	enum step moved = WAIT, s;
	unsigned char *p;
	size_t n;

	if (t->plain)
		return t->from < t->to ? WAIT : read_stage(c);
	while ((t->ready || pending(c, &n) == NULL) &&
		(p = br_ssl_engine_recvrec_buf(eng, &n)) != NULL) {
		if (t->from == t->to) {
			s = read_stage(c);
			if (s == DEAD || t->plain)
				return s;
			if (s == WAIT)
				break;
		}
		if (n > t->to - t->from)
			n = t->to - t->from;
		memcpy(p, c->io + IO_STAGE + t->from, n);
		mark(c, IO_IN, p + n);
		br_ssl_engine_recvrec_ack(eng, n);
		t->from += (uint32_t)n;
		t->fed = 1;
		moved = MORE;
	}
	return br_ssl_engine_current_state(eng) == BR_SSL_CLOSED ? engine_end(c) : moved;
}

int
tls_ready(struct conn *c)
{
	struct tls *t = c->tls;
	size_t n;

	t->ready = t->plain || br_ssl_engine_sendapp_buf(&t->sc.eng, &n) != NULL ||
		   br_ssl_engine_recvapp_buf(&t->sc.eng, &n) != NULL;
	if (!t->ready || t->plain)
		return t->ready;
	return br_ssl_engine_get_ecdhe_curve(&t->sc.eng) == 0 ? 2 : 1; /* resumed: no exchange */
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
	c->in += n;
	count.bytes_in += n;
	if (c->tls->plain)
		c->tls->from += (uint32_t)n;
	else if (n > 0) /* BearSSL takes an acknowledgement of nothing for the end of a record */
		br_ssl_engine_recvapp_ack(&c->tls->sc.eng, n);
}

unsigned char *
tls_room(struct conn *c, size_t *n)
{
	struct tls *t = c->tls;

	if (!t->plain)
		return br_ssl_engine_sendapp_buf(&t->sc.eng, n);
	*n = t->out_from > 0 ? 0 : RECORD_MAX - t->out_to;
	return *n > 0 ? c->io + IO_OUT + t->out_to : NULL;
}

void
tls_put(struct conn *c, size_t n)
{
	size_t room;

	c->out += n;
	count.bytes_out += n;
	mark(c, IO_OUT, tls_room(c, &room) + n);
	if (c->tls->plain)
		c->tls->out_to += (uint32_t)n;
	else
		br_ssl_engine_sendapp_ack(&c->tls->sc.eng, n);
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

		mark(c, IO_OUT, p + n);
		if (w < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (w < 0)
			return dead(c, strerror(errno));
		if (!t->plain)
			br_ssl_engine_sendrec_ack(&t->sc.eng, (size_t)w);
		else if ((t->out_from += (uint32_t)w) == t->out_to)
			t->out_from = t->out_to = 0;
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
	int in = t->plain ? t->from == t->to : br_ssl_engine_recvrec_buf(&t->sc.eng, &n) != NULL;

	if (t->shut)
		return POLLIN;
	return (short)((pending(c, &n) != NULL ? POLLOUT : 0) | (in ? POLLIN : 0));
}

/* Rest and end. */

enum step
tls_bye(struct conn *c)
{
	struct tls *t = c->tls;
	const char *why = c->why;
	ssize_t n;
	size_t left;

	if (!t->shut) {
		if (tls_out(c) == DEAD && pending(c, &left) != NULL)
			return DEAD;
		c->why = why; /* an engine closed by close_notify is no news */
		if (pending(c, &left) != NULL)
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
	if (n > 0)
		mark(c, IO_STAGE, c->io + IO_STAGE + n);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)) ? WAIT : DEAD;
}

int
tls_idle(struct conn *c)
{
	const struct tls *t = c->tls;
	size_t n, room;

	if (tls_room(c, &room) == NULL || room != RECORD_MAX || t->from != t->to)
		return 0;
	return t->plain || (br_ssl_engine_recvrec_buf(&t->sc.eng, &n) == c->io + IO_IN && n == 5);
}

void
tls_wipe(struct conn *c)
{
	size_t high = c->tls->high;

	explicit_bzero(c->io + IO_STAGE, high);
	explicit_bzero(c->io + IO_IN, high < TLS_IN ? high : TLS_IN);
	explicit_bzero(c->io + IO_OUT, high < TLS_OUT ? high : TLS_OUT);
	explicit_bzero(c->tls, sizeof *c->tls);
}

const char *
tls_suite(const struct conn *c)
{
	br_ssl_session_parameters sp;

	if (c->tls->plain)
		return "plain";
	br_ssl_engine_get_session_parameters(&c->tls->sc.eng, &sp);
	for (size_t i = 0; i < sizeof suite_names / sizeof suite_names[0]; i++)
		if (suites[i] == sp.cipher_suite)
			return suite_names[i];
	return "-";
}
