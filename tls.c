/*
 * The transport of a connection: a BearSSL engine between the client's descriptor and two windows
 * of plaintext, or the plain twin of ws:// listeners with the same windows.  This file owns the
 * client's descriptor for reading and writing, the engine, the chain, the key, the client CAs, the
 * session caches, and the PROXY protocol's head, which stands in front of all that.  It never looks
 * at plaintext, but for one letter, and knows no states but those of the engine.
 *
 * What always holds:
 * - A connection's engine is a copy of the bank's template, which was reset once and so is marked
 *   as seeded; no copy opens /dev/urandom.  A copy gets its own buffers, its own entropy (32 bytes
 *   of getentropy(3), or the connection is refused) and, with client CAs, its own X.509 context: a
 *   shared one would let two interleaved handshakes exchange the keys they verify.  What chooses
 *   the chain and signs with the key has no state and stays in the bank; only handshakes use it.
 * - What BearSSL finds out about the CPU it finds out for the template, not for each connection:
 *   asking traps in virtual machines.
 * - Input is read into the stage only when the stage is empty, and fed to the engine as far as it
 *   asks.  The engine asks only once all plaintext is eaten, so POLLIN is wanted only then.
 * - While the handshake runs nothing is fed before what the engine has to say went out: a client
 *   may send data right behind its Finished (RFC 7918), which the engine takes only after its own.
 *   And it is fed SHAKE_STEP bytes a turn: they may finish a certificate, whose signature is
 *   verified before it is known that no CA of ours stands at the end of a client's chain.
 * - Template, chain, key and CAs live in one of two banks; a reload fills the spare one and then
 *   changes over, so that a failed reload changes nothing; the one that is not in use is wiped.
 * - No buffer was used further than c->moved, the bytes read and written since the last rest; a
 *   wipe covers that much of each.
 * - The kernel keeps back the end of what is sent (MSG_MORE) only while more waits for room, inside
 *   a flight of the handshake, which is pushed at its end, and before shutdown(2), which pushes.
 * - A window is RECORD_MAX bytes long, whatever the client asks for in max_fragment_length (RFC
 *   6066 4; it may stay unanswered): a reply, a frame or a hub's entry must fit in it whole.
 *
 * TLS 1.2 with ECDHE and AEAD suites only; no renegotiation.  Where the CPU has AES instructions
 * AES-GCM comes first, else ChaCha20-Poly1305, and the server's order counts.
 */
#include "ws.h"

#include <bearssl.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Certificates in a bank, the chain's and the CAs'; their bytes, names too, and those of a file. */
enum { CERTS_MAX = 72, FILE_ROOM = 131072 };

struct tls {
	br_ssl_server_context sc;
	/*
	 * IO_STAGE: bytes [from, to) are not yet fed or eaten.  Plain, IO_OUT: bytes [sent, out)
	 * have still to be written.
	 */
	uint32_t from, to, sent, out;
	uint64_t fed;                       /* bytes */
	uint8_t plain, ready, shut, corked; /* corked: the kernel holds bytes back */
	br_name_element cn;
};

static struct bank {
	br_ssl_server_context model; /* the template of all engines */
	br_skey_decoder_context key;
	/* The chain is cert[0] to cert[ca[0] - 1], the CAs of listener i [ca[i], ca[i + 1]). */
	size_t certs, used, ca[LISTENERS_MAX + 1];
	unsigned char room[FILE_ROOM];
	br_x509_certificate cert[CERTS_MAX];
	br_x509_decoder_context decoded[CERTS_MAX]; /* the keys of the anchors are in these */
	br_x509_trust_anchor anchor[CERTS_MAX];
} banks[2];

static br_ec_impl curves[2]; /* for ECDHE: X25519 and P-256; with client CAs P-384, too */
static br_ssl_session_cache_lru cache[LISTENERS_MAX];
static unsigned char store[LISTENERS_MAX][65536]; /* of the caches: 100 bytes a session */

/* RFC 7905 2, RFC 5289 3.2; six of them count, from the first or from the third on. */
static const uint16_t suites[] = { 0xcca9, 0xcca8, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8 };
static const struct {
	int code;
	const char *text;
} texts[] = { /* suites; errors: 256 + n: alert n received, 512 + n: sent (RFC 5246 7.2) */
	{ 0xcca9, "ECDHE-ECDSA-CHACHA20-POLY1305" }, { 0xcca8, "ECDHE-RSA-CHACHA20-POLY1305" },
	{ 0xc02b, "ECDHE-ECDSA-AES128-GCM-SHA256" }, { 0xc02f, "ECDHE-RSA-AES128-GCM-SHA256" },
	{ 0xc02c, "ECDHE-ECDSA-AES256-GCM-SHA384" }, { 0xc030, "ECDHE-RSA-AES256-GCM-SHA384" },
	{ BR_ERR_BAD_VERSION, "wrong record version" }, { BR_ERR_BAD_MAC, "bad record MAC" },
	{ BR_ERR_UNSUPPORTED_VERSION, "not TLS" }, { BR_ERR_UNEXPECTED, "unexpected message" },
	{ BR_ERR_BAD_LENGTH, "wrong record length" }, { BR_ERR_BAD_PARAM, "malformed handshake" },
	{ BR_ERR_BAD_SIGNATURE, "wrong signature" }, { BR_ERR_BAD_FINISHED, "wrong Finished" },
	{ BR_ERR_NO_CLIENT_AUTH, "no certificate" }, { BR_ERR_X509_WEAK_PUBLIC_KEY, "weak key" },
	{ BR_ERR_X509_NOT_TRUSTED, "of no known CA" }, { BR_ERR_X509_DN_MISMATCH, "broken chain" },
	{ BR_ERR_X509_BAD_SIGNATURE, "bad signature" }, { BR_ERR_X509_NOT_CA, "issuer is no CA" },
	{ BR_ERR_X509_FORBIDDEN_KEY_USAGE, "key usage" },
	{ BR_ERR_X509_CRITICAL_EXTENSION, "unknown critical extension" },
	{ 256 + 42, "client: bad certificate" }, { 256 + 46, "client: unknown certificate" },
	{ 256 + 48, "client: unknown CA" }, { 512 + 40, "no common suite or curve" },
	{ 512 + 70, "no common version" }
};

const size_t tls_size = (sizeof(struct tls) + 15) & ~(size_t)15;

enum step
dead(struct conn *c, const char *why)
{
	if (!c->bye && c->closing == 0) /* else it is known, and that the client ends is no news */
		c->why = why;
	return DEAD;
}

static const char *
text_of(int code, const char *otherwise)
{
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		if (texts[i].code == code)
			return texts[i].text;
	return otherwise;
}

/* Loading: files to banks. */

static void
append(void *ctx, const void *data, size_t len)
{
	struct bank *b = ctx;

	if (len > sizeof b->room - b->used)
		len = sizeof b->room - b->used; /* load() looks whether it is full */
	memcpy(b->room + b->used, data, len);
	b->used += len;
}

/* A certificate stands in b->room from `from` on; its subject's name goes behind it. */
static const char *
take_certificate(struct bank *b, size_t from)
{
	br_x509_decoder_context *xd = &b->decoded[b->certs];
	unsigned char *der = b->room + from, *dn = b->room + b->used;

	if (b->certs == CERTS_MAX)
		return "one too many";
	b->cert[b->certs++] = (br_x509_certificate){ der, (size_t)(dn - der) };
	br_x509_decoder_init(xd, append, b);
	br_x509_decoder_push(xd, der, (size_t)(dn - der));
	if (br_x509_decoder_get_pkey(xd) == NULL) /* the rest of the chain is the client's affair */
		return b->ca[0] == 0 && b->certs > 1 ? NULL : "cannot be read";
	b->anchor[b->certs - 1] = (br_x509_trust_anchor){ { dn, (size_t)(b->room + b->used - dn) },
		br_x509_decoder_isCA(xd) ? BR_X509_TA_CA : 0, *br_x509_decoder_get_pkey(xd) };
	return NULL;
}

/* BearSSL does not compare key and certificate: what the one signs, the other must verify. */
static int
key_matches(const struct bank *b)
{
	static const unsigned char md[br_sha256_SIZE] = "any 32 bytes serve the purpose.";
	const br_ssl_server_policy_class **policy = b->model.policy_vtable;
	const br_ssl_engine_context *eng = &b->model.eng;
	const br_x509_pkey *pk = &b->anchor[0].pkey;
	unsigned char sig[BR_X509_BUFSIZE_SIG], out[sizeof md];
	size_t n;

	memcpy(sig, md, sizeof md);
	n = (*policy)->do_sign(policy, 0xff00 + br_sha256_ID, sig, sizeof md, sizeof sig);
	if (pk->key_type == BR_KEYTYPE_EC)
		return eng->iecdsa(br_ec_get_default(), md, sizeof md, &pk->key.ec, sig, n) == 1;
	return eng->irsavrfy(sig, n, BR_HASH_OID_SHA256, sizeof md, &pk->key.rsa, out) == 1 &&
	       memcmp(md, out, sizeof md) == 0;
}

static const char *
take_key(struct bank *b, size_t from)
{
	if (br_skey_decoder_key_type(&b->key) != 0)
		return "one too many";
	br_skey_decoder_init(&b->key);
	br_skey_decoder_push(&b->key, b->room + from, b->used - from);
	explicit_bzero(b->room + from, b->used - from);
	b->used = from;
	if (br_skey_decoder_last_error(&b->key) != 0)
		return "encrypted, or not valid RSA or EC";
	if (br_skey_decoder_key_type(&b->key) == BR_KEYTYPE_EC)
		br_ssl_server_set_single_ec(&b->model, b->cert, b->ca[0],
			br_skey_decoder_get_ec(&b->key), BR_KEYTYPE_SIGN, 0, br_ec_get_default(),
			br_ecdsa_sign_asn1_get_default());
	else
		br_ssl_server_set_single_rsa(&b->model, b->cert, b->ca[0],
			br_skey_decoder_get_rsa(&b->key), BR_KEYTYPE_SIGN, NULL,
			br_rsa_pkcs1_sign_get_default());
	return key_matches(b) ? NULL : "does not belong to the certificate";
}

/* Hands each object of a PEM file whose name has `what` in it to take(). */
static const char *
load(struct bank *b, const char *file, const char *what, const char *(*take)(struct bank *, size_t))
{
	static char text[FILE_ROOM], sentence[512];
	br_pem_decoder_context pem;
	const char *wrong = read_file(file, text, sizeof text);
	size_t n = strlen(text), at = 0, from = 0;
	unsigned line = 1;
	int missing = 1, event;

	text[n++] = '\n'; /* the last line may lack its end */
	br_pem_decoder_init(&pem);
	while (wrong == NULL && at < n) {
		at += br_pem_decoder_push(&pem, text + at, n - at);
		event = br_pem_decoder_event(&pem);
		if (event == BR_PEM_BEGIN_OBJ) {
			int wanted = strcasestr(br_pem_decoder_name(&pem), what) != NULL;

			br_pem_decoder_setdest(&pem, wanted ? append : NULL, b);
			from = b->used;
			missing |= wanted;
		} else if (event == BR_PEM_END_OBJ && b->used > from) {
			wrong = take(b, from);
			missing = 0;
		} else if (event == BR_PEM_ERROR) {
			wrong = "not valid PEM";
		}
		if (b->used == sizeof b->room)
			wrong = "too large";
	}
	for (size_t i = 0; i + 1 < at; i++)
		line += text[i] == '\n';
	if (wrong == NULL && missing)
		wrong = "not there, or cut short";
	explicit_bzero(text, sizeof text);
	explicit_bzero(&pem, sizeof pem);
	if (wrong != NULL)
		snprintf(sentence, sizeof sentence, "%s:%u: %s: %s", file, line, what, wrong);
	return wrong != NULL ? sentence : NULL;
}

/*
 * Makes the template.  What it injects is no entropy: it only marks the generator as seeded, and
 * each copy injects its own or is refused.  Its buffers only serve for the reset, too.
 */
static void
prepare(struct bank *b)
{
	static const char *alpn[] = { "http/1.1" };
	br_ssl_engine_context *eng = &b->model.eng;
	int aes = br_aes_x86ni_ctr_get_vtable() != NULL || br_aes_pwr8_ctr_get_vtable() != NULL;

	br_ssl_server_zero(&b->model);
	br_ssl_engine_set_versions(eng, BR_TLS12, BR_TLS12);
	br_ssl_engine_set_suites(eng, suites + (aes ? 2 : 0), 6);
	br_ssl_engine_add_flags(eng, BR_OPT_ENFORCE_SERVER_PREFERENCES | BR_OPT_NO_RENEGOTIATION);
	br_ssl_engine_set_protocol_names(eng, alpn, 1);
	br_ssl_engine_set_hash(eng, br_sha256_ID, &br_sha256_vtable);
	br_ssl_engine_set_hash(eng, br_sha384_ID, &br_sha384_vtable);
	br_ssl_engine_set_hash(eng, br_sha512_ID, &br_sha512_vtable);
	br_ssl_engine_set_prf_sha256(eng, &br_tls12_sha256_prf);
	br_ssl_engine_set_prf_sha384(eng, &br_tls12_sha384_prf);
	br_ssl_engine_set_default_aes_gcm(eng);
	br_ssl_engine_set_default_chapol(eng);
	br_ssl_engine_set_default_rsavrfy(eng);
	br_ssl_engine_set_ecdsa(eng, br_ecdsa_vrfy_asn1_get_default());
	br_ssl_engine_set_buffer(eng, b->room, sizeof b->room, 1);
	br_ssl_engine_inject_entropy(eng, "wssd", 4);
	br_ssl_server_reset(&b->model);
	curves[0] = curves[1] = *br_ec_get_default();
	curves[0].supported_curves &= 1U << BR_EC_curve25519 | 1U << BR_EC_secp256r1;
	curves[1].supported_curves &= curves[0].supported_curves | 1U << BR_EC_secp384r1;
}

const char *
tls_load(void)
{
	struct bank *b = &banks[!cf.bank];
	const char *wrong = NULL;

	prepare(b);
	if (cf.tls)
		wrong = load(b, cf.cert, "certificate", take_certificate);
	b->ca[0] = b->certs;
	if (cf.tls && wrong == NULL)
		wrong = load(b, cf.key, "private key", take_key);
	for (unsigned i = 0; i < cf.listeners; i++) {
		if (cf.listener[i].client_ca != NULL && wrong == NULL)
			wrong = load(b, cf.listener[i].client_ca, "certificate", take_certificate);
		b->ca[i + 1] = b->certs;
	}
	if (wrong == NULL) {
		cf.bank = !cf.bank;
		for (int i = 0; i < LISTENERS_MAX; i++)
			br_ssl_session_cache_lru_init(&cache[i], store[i], sizeof store[i]);
	}
	b = &banks[!cf.bank];
	explicit_bzero(b, offsetof(struct bank, room) + b->used); /* what lies behind is public */
	return wrong;
}

int
tls_open(struct conn *c)
{
	struct tls *t = c->tls;
	br_ssl_engine_context *eng = &t->sc.eng;
	const struct bank *bank = &banks[cf.bank];
	size_t i = (size_t)(c->lis - cf.listener), cas = bank->ca[i + 1] - bank->ca[i];
	const br_x509_trust_anchor *ca = bank->anchor + bank->ca[i];
	br_x509_minimal_context *xc = (void *)(c->io + IO_X509);
	static const unsigned char common_name[] = { 3, 0x55, 4, 3 }; /* X.520, with length */
	unsigned char entropy[32];

	_Static_assert(sizeof *xc <= X509_ROOM, "the X.509 context fits");
	t->plain = (uint8_t)c->lis->plain;
	if (t->plain)
		return 1;
	t->sc = bank->model;
	br_ssl_engine_set_buffers_bidi(eng, c->io + IO_IN, TLS_IN, c->io + IO_OUT, TLS_OUT);
	eng->log_max_frag_len = 9; /* no record is longer, it thinks, and grants no shorter ones */
	br_ssl_engine_set_ec(eng, &curves[cas > 0]);
	if (cas > 0) { /* and no cache: a resumed session would have no certificate */
		br_x509_minimal_init(xc, &br_sha256_vtable, ca, cas);
		br_x509_minimal_set_rsa(xc, eng->irsavrfy);
		br_x509_minimal_set_ecdsa(xc, &curves[1], eng->iecdsa);
		xc->mhash = eng->mhash;
		br_ssl_engine_set_x509(eng, &xc->vtable);
		br_ssl_server_set_trust_anchor_names_alt(&t->sc, ca, cas);
		t->cn = (br_name_element){ common_name, c->cn, sizeof c->cn, 0 };
		br_x509_minimal_set_name_elements(xc, &t->cn, 1);
	} else {
		br_ssl_server_set_cache(&t->sc, &cache[i].vtable);
	}
	if (getentropy(entropy, sizeof entropy) != 0)
		return 0;
	br_ssl_engine_inject_entropy(eng, entropy, sizeof entropy);
	explicit_bzero(entropy, sizeof entropy);
	return br_ssl_server_reset(&t->sc);
}

/* Both directions. */

static enum step
read_stage(struct conn *c)
{
	struct tls *t = c->tls;
	ssize_t n;

	if (!c->readable)
		return WAIT;
	c->readable = 0;
	n = read(c->fd, c->io + IO_STAGE + t->to, STAGE - t->to);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? WAIT : dead(c, strerror(errno));
	if (n == 0)
		return dead(c, "client left");
	c->moved += (size_t)n;
	t->to += (uint32_t)n;
	c->heard = now;
	c->pinged = 0;
	return MORE;
}

/*
 * PROXY protocol, version 2 (section 2.2 of its specification): 12 bytes of signature, version and
 * command, family, length; addresses and ports; then TLVs, which are skipped.  Returns the length
 * of the head b[0, n), 0 when it is incomplete, -1 when it is none.  LOCAL, and a proxy that does
 * not know, leave *a as it is.  Pure.
 */
static int
proxy_head(const unsigned char *b, size_t n, union address *a)
{
	static const unsigned char signature[] = "\r\n\r\n\0\r\nQUIT\n";
	size_t whole = n < 16 ? 16 : 16 + (size_t)(b[14] << 8 | b[15]);
	size_t ip; /* bytes of an address */
	int what, mapped;

	if (memcmp(b, signature, n < 12 ? n : 12) != 0 || whole > PROXY_MAX)
		return -1;
	if (n < whole)
		return 0;
	what = b[12] << 8 | b[13];
	ip = what == 0x2111 ? 4 : what == 0x2121 ? 16 : 0; /* TCP over IPv4, IPv6 */
	if (ip > 0 && whole >= 16 + 2 * ip + 4) {
		mapped = ip == 16 && memcmp(b + 16, "\0\0\0\0\0\0\0\0\0\0\377\377", 12) == 0;
		*a = (union address){ .sa.sa_family = ip == 4 || mapped ? AF_INET : AF_INET6 };
		memcpy(ip_of(a), b + 16 + (mapped ? 12 : 0), mapped ? 4 : ip);
		memcpy(&a->in.sin_port, b + 16 + 2 * ip, 2); /* at the same place in both */
	} else if (b[12] != 0x20 && what != 0x2100) {        /* LOCAL, UNSPEC */
		return -1;
	}
	return (int)whole;
}

enum step
tls_proxy(struct conn *c)
{
	struct tls *t = c->tls;
	enum step s = read_stage(c);
	int n;

	if (s != MORE)
		return s;
	n = proxy_head(c->io + IO_STAGE, t->to, &c->addr);
	if (n < 0)
		return dead(c, "no valid PROXY head");
	t->from = n > 0 ? (uint32_t)n : t->to; /* what is not whole is not to be fed */
	c->local = n > 0 && c->io[IO_STAGE + 12] == 0x20;
	return n > 0 ? MORE : WAIT;
}

/* What is ready to be written. */
static const unsigned char *
pending(const struct conn *c, size_t *n)
{
	const struct tls *t = c->tls;

	if (!t->plain)
		return br_ssl_engine_sendrec_buf(&t->sc.eng, n);
	*n = t->out - t->sent;
	return *n > 0 ? c->io + IO_OUT + t->sent : NULL;
}

short
tls_events(const struct conn *c)
{
	const struct tls *t = c->tls;
	size_t n;
	int in = t->plain ? t->from == t->to : br_ssl_engine_recvrec_buf(&t->sc.eng, &n) != NULL;

	return (short)((in || t->shut ? POLLIN : 0) | (pending(c, &n) != NULL ? POLLOUT : 0));
}

enum step
tls_in(struct conn *c)
{
	struct tls *t = c->tls;
	int64_t date = t->ready ? 0 : time(NULL); /* BearSSL's own time_t may end in 2038 */
	enum step moved = WAIT;
	unsigned char *p;
	size_t n, end;

	if (t->from == t->to && (tls_events(c) & POLLIN) != 0) {
		t->from = t->to = 0;
		moved = read_stage(c);
	}
	if (!t->plain && !t->fed && t->from < t->to && isupper(c->io[IO_STAGE + t->from]))
		t->plain = c->misplaced = 1; /* a method, where a record would begin with 22 */
	if (!t->ready && c->lis->client_ca != NULL)
		br_x509_minimal_set_time((void *)(c->io + IO_X509),
			(uint32_t)(date / 86400 + 719528), (uint32_t)(date % 86400));
	end = t->ready || t->to - t->from < SHAKE_STEP ? t->to : t->from + SHAKE_STEP;
	while (!t->plain && t->from < end && (t->ready || pending(c, &n) == NULL) &&
		(p = br_ssl_engine_recvrec_buf(&t->sc.eng, &n)) != NULL) {
		n = n < end - t->from ? n : end - t->from;
		memcpy(p, c->io + IO_STAGE + t->from, n);
		br_ssl_engine_recvrec_ack(&t->sc.eng, n);
		t->from += (uint32_t)n;
		t->fed += n;
		moved = MORE;
	}
	return t->ready || t->fed <= SHAKE_MAX ? moved : dead(c, "handshake too long");
}

enum step
tls_ready(struct conn *c)
{
	struct tls *t = c->tls;
	size_t n;

	t->ready = tls_room(c, &n) != NULL;
	if (t->ready && !t->plain) {
		count.handshakes++;
		count.resumed += br_ssl_engine_get_ecdhe_curve(&t->sc.eng) == 0; /* no exchange */
	}
	c->full = !t->ready; /* what the engine has to say goes before anything of ours */
	c->again = !t->ready && t->from < t->to && pending(c, &n) == NULL; /* fed next turn */
	return t->ready ? MORE : WAIT;
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
	*n = RECORD_MAX - t->out;
	return *n > 0 ? c->io + IO_OUT + t->out : NULL;
}

void
tls_put(struct conn *c, size_t n)
{
	c->out += n;
	c->moved += n;
	count.bytes_out += n;
	if (c->tls->plain)
		c->tls->out += (uint32_t)n;
	else
		br_ssl_engine_sendapp_ack(&c->tls->sc.eng, n);
}

enum step
tls_out(struct conn *c)
{
	static const int on = 1;
	struct tls *t = c->tls;
	int more = c->full || c->bye ? MSG_MORE : 0; /* so that records share packets */
	char *why = (char *)c->io + IO_STASH;
	enum step moved = WAIT;
	const unsigned char *p;
	unsigned state;
	size_t n;
	int code;

	br_ssl_engine_flush(&t->sc.eng, 0); /* does nothing when plain */
	while ((p = pending(c, &n)) != NULL) {
		ssize_t w = send(c->fd, p, n, more);

		c->moved += n;
		if (w < 0)
			return errno == EAGAIN || errno == EINTR ? moved : dead(c, strerror(errno));
		if (!t->plain)
			br_ssl_engine_sendrec_ack(&t->sc.eng, (size_t)w);
		else if ((t->sent += (uint32_t)w) == t->out)
			t->sent = t->out = 0;
		c->stalled = 0;
		t->corked = more != 0;
		moved = MORE;
	}
	if (t->corked && (!more || !t->ready)) /* nothing came of it: this pushes, see tcp(7) */
		t->corked = setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0;
	state = br_ssl_engine_current_state(&t->sc.eng);
	/* it refused a renegotiation and holds more of the kind, which it will never look at */
	if (!t->plain && t->ready && state == BR_SSL_SENDAPP)
		return dead(c, "TLS: renegotiation");
	if (t->plain || state != BR_SSL_CLOSED)
		return moved;
	code = br_ssl_engine_last_error(&t->sc.eng);
	if (code == BR_ERR_OK)
		return dead(c, "client sent close_notify");
	snprintf(why, 80, "TLS: %s%s (%d)",
		code > BR_ERR_X509_OK && code < 256 ? "client certificate " : "",
		text_of(code, "BearSSL's error"), code);
	if (code == BR_ERR_X509_EXPIRED) /* or not valid yet: a clock may never have been set */
		snprintf(why, 80, "TLS: client certificate out of date: the clock says %lld (%d)",
			1970 + (long long)time(NULL) / 31556952, code); /* years of 365.2425 d */
	return dead(c, why);
}

/* Rest and end. */

enum step
tls_bye(struct conn *c)
{
	struct tls *t = c->tls;
	enum step s = tls_out(c);
	size_t n;

	if (pending(c, &n) != NULL)
		return s;
	if (!t->plain && tls_room(c, &n) != NULL) {
		br_ssl_engine_close(&t->sc.eng); /* only now: it drops plaintext not yet eaten */
		return MORE;
	}
	if (!t->shut && shutdown(c->fd, SHUT_WR) != 0)
		return DEAD;
	t->shut = 1;
	t->from = t->to = 0;
	return read_stage(c) == DEAD ? DEAD : WAIT;
}

int
tls_idle(struct conn *c)
{
	const struct tls *t = c->tls;
	size_t n, room;

	tls_room(c, &room); /* a record begins at the start of the engine's buffer */
	return room == RECORD_MAX && t->from == t->to &&
	       (t->plain || br_ssl_engine_recvrec_buf(&t->sc.eng, &n) == c->io + IO_IN);
}

void
tls_wipe(struct conn *c)
{
	uint64_t used = c->moved + TLS_OUT - RECORD_MAX;
	size_t n = used < STAGE ? (size_t)used : STAGE;

	explicit_bzero(c->io + IO_STAGE, n);
	explicit_bzero(c->io + IO_IN, n < TLS_IN ? n : TLS_IN);
	explicit_bzero(c->io + IO_OUT, n < TLS_OUT ? n : TLS_OUT);
	explicit_bzero(c->tls, sizeof *c->tls);
}

const char *
tls_suite(const struct conn *c)
{
	return c->tls->plain ? "plain" : text_of(c->tls->sc.eng.session.cipher_suite, "-");
}
