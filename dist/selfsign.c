/* wssd-selfsign: a key and a self-signed certificate on a device without openssl.
 *
 * It needs BearSSL and a C library, allocates nothing, and can be read from top to bottom: DER is
 * written, times are told, DER is read, files are read and written, then the key, the old
 * certificate, the new one, the command line.
 *
 * The certificate (RFC 5280) is a leaf, not an authority: whoever trusts it trusts this server for
 * these names and nobody for anything else. OpenSSL, GnuTLS, NSS and the browsers accept it as its
 * own trust anchor. Subject and issuer are the first name; what clients compare are the
 * subjectAltNames. Its key is EC P-256, its signature ECDSA with SHA-256, its serial number random.
 *
 * It begins an hour ago, for clients whose clocks are behind, but never before this tool was built:
 * the clock of a gateway may never have been set, and a certificate of 1970 serves nobody. For the
 * same reason a clock before the build date lets --renew judge nothing but whether the certificate
 * outlives the build date. A certificate that begins later than a set clock is replaced; so on a
 * device that learns the time from the network, start this after that.
 *
 * Whether the old certificate will do is not told by looking for names in it. All that may differ
 * from the certificate that would be made now are serial number and dates; so these are taken out
 * of the old one, it is made again with them, signature and all, and if that differs in one byte, a
 * new one is needed. Hence a damaged file is replaced as well.
 *
 * What cannot be made again is never overwritten: a private key, and a certificate that somebody
 * else has issued. Files appear under their name complete or not at all. */

#define _DEFAULT_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <bearssl.h>

#ifndef BUILD_DATE
#define BUILD_DATE 1795305600 /* 2026-11-22, for who builds without the Makefile */
#endif

enum {
	DAYS_MAX = 825, /* what browsers allow */
	EARLIER = 3600, /* seconds for which clients' clocks may be behind */
	NAMES_MAX = 32,
	DNS_MAX = 253,
	LABEL_MAX = 63,
	CN_MAX = 64,     /* ub-common-name, RFC 5280 A.1 */
	SERIAL_LEN = 16, /* RFC 5280 4.1.2.2: 20 at most */
	TIME_LEN = 15,   /* YYYYMMDDHHMMSSZ */
	POINT_LEN = 65,  /* 4, X, Y */
	SCALAR_LEN = 32,
	CERT_MAX = NAMES_MAX * (DNS_MAX + 3) + 1024, /* the names, and about 600 for the rest */
	CERT_PEM_MAX = CERT_MAX / 3 * 4 + CERT_MAX / 48 + 256,
	KEY_MAX = 160, /* PKCS#8 of P-256 has 138 */
	KEY_PEM_MAX = 512,
	FILE_MAX = 65536,   /* what is read; a chain of five has about 10000 */
	SIGNATURE_MAX = 72, /* 2 + 2 * (2 + 33) */
	EXIT_NOTHING = 3,
};

_Static_assert(BUILD_DATE >= 0 && BUILD_DATE < 4102444800, "BUILD_DATE is seconds since 1970");
_Static_assert(DNS_MAX > CN_MAX && INET6_ADDRSTRLEN <= DNS_MAX, "a name's text holds an address");

struct blob {
	unsigned char b[FILE_MAX];
	size_t len;
};

struct name {
	char text[DNS_MAX + 1];
	unsigned char ip[16];
	size_t iplen; /* 4 or 16; 0: a DNS name */
};

struct key {
	unsigned char d[BR_EC_KBUF_PRIV_MAX_SIZE];
	unsigned char point[BR_EC_KBUF_PUB_MAX_SIZE];
	br_ec_private_key sk;
	br_ec_public_key pk;
};

struct request {
	const char *key_file, *cert_file;
	struct name name[NAMES_MAX];
	size_t names;
	int64_t days;
	int64_t renew; /* -1: a new certificate in any case */
	bool exit_code;
	int64_t now; /* not before BUILD_DATE */
	bool clock_set;
	struct key key;
};

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void usage(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* A colon at the end adds what errno says. */
static void
die(const char *format, ...)
{
	int saved = errno;
	size_t len = strlen(format);
	va_list args;

	va_start(args, format);
	fputs("wssd-selfsign: ", stderr);
	vfprintf(stderr, format, args);
	va_end(args);
	if (len > 0 && format[len - 1] == ':') {
		fprintf(stderr, " %s", strerror(saved));
	}
	fputc('\n', stderr);
	exit(1);
}

static void
sha256(unsigned char hash[br_sha256_SIZE], const unsigned char *bytes, size_t len)
{
	br_sha256_context sha;

	br_sha256_init(&sha);
	br_sha256_update(&sha, bytes, len);
	br_sha256_out(&sha, hash);
}

/* DER is written from its end to its beginning, so that each length is known when it is due: first
 * the content, then wrap() puts tag and length before it. Read these functions from below. */

struct der {
	unsigned char b[CERT_MAX];
	size_t at; /* the bytes in [at, CERT_MAX) are written */
};

static const unsigned char ECDSA_SHA256[] = { 0x30, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D,
	0x04, 0x03, 0x02 };
static const unsigned char EC_P256[] = { 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02,
	0x01, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07 };
static const unsigned char COMMON_NAME[] = { 0x06, 0x03, 0x55, 0x04, 0x03 };
static const unsigned char VERSION_3[] = { 0xA0, 0x03, 0x02, 0x01, 0x02 };
static const unsigned char DIGITAL_SIGNATURE[] = { 0x03, 0x02, 0x07, 0x80 };
static const unsigned char SERVER_AUTH[] = { 0x30, 0x0A, 0x06, 0x08, 0x2B, 0x06, 0x01, 0x05, 0x05,
	0x07, 0x03, 0x01 };
static const unsigned char NOT_A_CA[] = { 0x30, 0x00 };
static const unsigned char TRUE_DER[] = { 0x01, 0x01, 0xFF };

static void
put(struct der *d, const void *bytes, size_t len)
{
	if (len > d->at) {
		die("bug: a certificate above %d bytes", CERT_MAX);
	}
	d->at -= len;
	memcpy(d->b + d->at, bytes, len);
}

static void
put_byte(struct der *d, size_t byte)
{
	unsigned char b = (unsigned char)byte;

	put(d, &b, 1);
}

/* [at, end) becomes the content of one element. */
static void
wrap(struct der *d, size_t end, unsigned tag)
{
	size_t len = end - d->at;

	put_byte(d, len & 0xFF);
	if (len > 0xFF) {
		put_byte(d, len >> 8);
		put_byte(d, 0x82);
	} else if (len > 0x7F) {
		put_byte(d, 0x81);
	}
	put_byte(d, tag);
}

/* [at, end) becomes the value of the extension 2.5.29.id (RFC 5280 4.2). */
static void
wrap_extension(struct der *d, size_t end, unsigned char id, bool critical)
{
	const unsigned char oid[] = { 0x06, 0x03, 0x55, 0x1D, id };

	wrap(d, end, 0x04);
	if (critical) {
		put(d, TRUE_DER, sizeof TRUE_DER);
	}
	put(d, oid, sizeof oid);
	wrap(d, end, 0x30);
}

/* RFC 5280 4.2.1.6; not critical, since the subject is not empty. */
static void
put_alt_names(struct der *d, const struct request *r)
{
	size_t all = d->at;

	for (size_t i = r->names; i > 0; i--) {
		const struct name *n = &r->name[i - 1];
		size_t end = d->at;

		if (n->iplen > 0) {
			put(d, n->ip, n->iplen);
			wrap(d, end, 0x87);
		} else {
			put(d, n->text, strlen(n->text));
			wrap(d, end, 0x82);
		}
	}
	wrap(d, all, 0x30);
	wrap_extension(d, all, 17, false);
}

/* RFC 7093 2, method 1: the first 160 bits of SHA-256 of the public key. */
static void
put_key_identifier(struct der *d, const struct request *r)
{
	unsigned char hash[br_sha256_SIZE];
	size_t end = d->at;

	sha256(hash, r->key.point, POINT_LEN);
	put(d, hash, 20);
	wrap(d, end, 0x04);
	wrap_extension(d, end, 14, false);
}

static void
put_extensions(struct der *d, const struct request *r)
{
	size_t all = d->at, end;

	put_alt_names(d, r);
	put_key_identifier(d, r);
	end = d->at;
	put(d, SERVER_AUTH, sizeof SERVER_AUTH);
	wrap_extension(d, end, 37, false);
	end = d->at;
	put(d, DIGITAL_SIGNATURE, sizeof DIGITAL_SIGNATURE);
	wrap_extension(d, end, 15, true);
	end = d->at;
	put(d, NOT_A_CA, sizeof NOT_A_CA);
	wrap_extension(d, end, 19, true);
	wrap(d, all, 0x30);
	wrap(d, all, 0xA3);
}

static void
put_public_key(struct der *d, const struct request *r)
{
	size_t end = d->at;

	put(d, r->key.point, POINT_LEN);
	put_byte(d, 0); /* unused bits */
	wrap(d, end, 0x03);
	put(d, EC_P256, sizeof EC_P256);
	wrap(d, end, 0x30);
}

static void
put_common_name(struct der *d, const char *text)
{
	size_t end = d->at;

	put(d, text, strlen(text));
	wrap(d, end, 0x0C);
	put(d, COMMON_NAME, sizeof COMMON_NAME);
	wrap(d, end, 0x30);
	wrap(d, end, 0x31);
	wrap(d, end, 0x30);
}

/* RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from then on. */
static void
put_time(struct der *d, const char *text)
{
	size_t end = d->at;

	if (memcmp(text, "2050", 4) < 0) {
		put(d, text + 2, TIME_LEN - 2);
		wrap(d, end, 0x17);
	} else {
		put(d, text, TIME_LEN);
		wrap(d, end, 0x18);
	}
}

/* What is signed. The serial number is positive and minimal, the times are as below. */
static void
put_tbs(struct der *d, const struct request *r, const unsigned char *serial, size_t serial_len,
	const char *from, const char *until)
{
	size_t all = d->at, end;

	put_extensions(d, r);
	put_public_key(d, r);
	put_common_name(d, r->name[0].text);
	end = d->at;
	put_time(d, until);
	put_time(d, from);
	wrap(d, end, 0x30);
	put_common_name(d, r->name[0].text);
	put(d, ECDSA_SHA256, sizeof ECDSA_SHA256);
	end = d->at;
	put(d, serial, serial_len);
	wrap(d, end, 0x02);
	put(d, VERSION_3, sizeof VERSION_3);
	wrap(d, all, 0x30);
}

/* Times are texts of the form YYYYMMDDHHMMSSZ: their order is that of memcmp(). No time_t: on some
 * 32-bit devices it ends in 2038. */

static int64_t
days_of_month(int64_t year, int month)
{
	static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	return days[month] + (month == 1 && leap);
}

static void
time_text(char text[TIME_LEN + 1], int64_t seconds)
{
	int64_t days = seconds / 86400, left = seconds % 86400, year = 1970;
	int month = 0;

	while (days >= days_of_month(year, month)) {
		days -= days_of_month(year, month);
		month++;
		if (month == 12) {
			month = 0;
			year++;
		}
	}
	snprintf(text, TIME_LEN + 1, "%04u%02u%02u%02u%02u%02uZ", (unsigned)year % 10000,
		(unsigned)(month + 1) % 100, (unsigned)(days + 1) % 100,
		(unsigned)(left / 3600) % 100, (unsigned)(left / 60 % 60), (unsigned)(left % 60));
}

static void
print_time(const char *text)
{
	printf("%.4s-%.2s-%.2s %.2s:%.2s UTC", text, text + 4, text + 6, text + 8, text + 10);
}

/* DER is read by absolute indices into one array; an element must end where what holds it does or
 * before, and its length be in the shortest form. */

struct range {
	size_t at, end;
};

struct certificate {
	struct range serial, issuer, validity, subject;
};

/* If an element with this tag begins at in->at: in->at behind it, its content in *content, which may
 * be *in. */
static bool
take(const unsigned char *b, struct range *in, unsigned tag, struct range *content)
{
	size_t at = in->at, len;

	if (at + 2 > in->end || b[at] != tag) {
		return false;
	}
	len = b[at + 1];
	at += 2;
	if (len > 0x82 || len == 0x80) {
		return false;
	}
	if (len > 0x80) {
		size_t octets = len - 0x80;

		if (at + octets > in->end) {
			return false;
		}
		len = octets == 1 ? b[at] : (size_t)b[at] << 8 | b[at + 1];
		if (len < 0x80 || (octets == 2 && len < 0x100)) {
			return false;
		}
		at += octets;
	}
	if (len > in->end - at) {
		return false;
	}
	in->at = at + len;
	content->at = at;
	content->end = at + len;
	return true;
}

/* RFC 5280 4.1, of version 1 too: somebody else's certificate shall be known as such. */
static bool
read_certificate(const unsigned char *b, size_t len, struct certificate *c)
{
	struct range in = { 0, len }, tbs, skip;

	if (!take(b, &in, 0x30, &in) || !take(b, &in, 0x30, &tbs)) {
		return false;
	}
	(void)take(b, &tbs, 0xA0, &skip);
	return take(b, &tbs, 0x02, &c->serial) && take(b, &tbs, 0x30, &skip) &&
	       take(b, &tbs, 0x30, &c->issuer) && take(b, &tbs, 0x30, &c->validity) &&
	       take(b, &tbs, 0x30, &c->subject);
}

/* UTCTime or GeneralizedTime in *in; a wrong one of the two shows when it is encoded again. */
static bool
read_time(const unsigned char *b, struct range *in, char text[TIME_LEN + 1])
{
	struct range t;
	size_t len, century = 0;

	if (take(b, in, 0x17, &t)) {
		century = 2;
	} else if (!take(b, in, 0x18, &t)) {
		return false;
	}
	len = t.end - t.at;
	if (len != TIME_LEN - century || b[t.end - 1] != 'Z') {
		return false;
	}
	for (size_t i = t.at; i + 1 < t.end; i++) {
		if (b[i] < '0' || b[i] > '9') {
			return false;
		}
	}
	memcpy(text, b[t.at] < '5' ? "20" : "19", 2);
	memcpy(text + century, b + t.at, len);
	text[TIME_LEN] = '\0';
	return true;
}

/* Files. */

/* BearSSL 0.6 takes "CERTIFICATE-----" for the name in a line that ends in CR LF. */
static void
drop_carriage_returns(struct blob *text)
{
	size_t kept = 0;

	for (size_t i = 0; i < text->len; i++) {
		if (text->b[i] != '\r') {
			text->b[kept] = text->b[i];
			kept++;
		}
	}
	text->len = kept;
}

/* False: there is none. It must be a plain file of less than FILE_MAX bytes. */
static bool
read_file(const char *path, struct blob *into, struct stat *st)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	ssize_t n = 1;

	into->len = 0;
	if (fd < 0 && errno == ENOENT) {
		return false;
	}
	if (fd < 0 || fstat(fd, st) != 0) {
		die("%s:", path);
	}
	if (!S_ISREG(st->st_mode)) {
		die("%s: is not a plain file", path);
	}
	while (n > 0 && into->len < sizeof into->b) {
		n = read(fd, into->b + into->len, sizeof into->b - into->len);
		if (n > 0) {
			into->len += (size_t)n;
		}
	}
	if (n < 0) {
		die("%s:", path);
	}
	close(fd);
	if (into->len == sizeof into->b) {
		die("%s: is larger than any key or certificate of ours", path);
	}
	drop_carriage_returns(into);
	return true;
}

static void
blob_append(void *blob, const void *bytes, size_t len)
{
	struct blob *to = blob;

	if (len <= sizeof to->b - to->len) {
		memcpy(to->b + to->len, bytes, len);
		to->len += len;
	}
}

static bool
ends_with(const char *text, const char *end)
{
	size_t len = strlen(text), n = strlen(end);

	return len >= n && strcmp(text + len - n, end) == 0;
}

/* The first complete PEM object whose name ends with kind, decoded; false: there is none. */
static bool
find_pem(const struct blob *text, const char *kind, struct blob *der)
{
	br_pem_decoder_context pem;
	bool wanted = false;
	size_t at = 0;

	br_pem_decoder_init(&pem);
	while (at <= text->len) { /* one newline more than there is ends a last line without one */
		const unsigned char *from =
			at < text->len ? text->b + at : (const unsigned char *)"\n";

		at += br_pem_decoder_push(&pem, from, at < text->len ? text->len - at : 1);
		switch (br_pem_decoder_event(&pem)) {
		case BR_PEM_BEGIN_OBJ:
			wanted = ends_with(br_pem_decoder_name(&pem), kind);
			der->len = 0;
			br_pem_decoder_setdest(&pem, wanted ? blob_append : NULL, der);
			break;
		case BR_PEM_END_OBJ:
			if (wanted) {
				return true;
			}
			break;
		case BR_PEM_ERROR:
			return false;
		}
	}
	return false;
}

/* So that the new name outlives a power cut; where directories cannot be synced, it need not. */
static void
sync_directory(const char *path)
{
	char directory[PATH_MAX] = ".";
	const char *slash = strrchr(path, '/');
	int fd;

	if (slash) {
		snprintf(directory, sizeof directory, "%.*s", (int)(slash - path) + 1, path);
	}
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		(void)fsync(fd);
		close(fd);
	}
}

static bool
write_all(int fd, const char *text, size_t len)
{
	size_t at = 0;

	while (at < len) {
		ssize_t n = write(fd, text + at, len - at);

		if (n < 0 && errno != EINTR) {
			return false;
		}
		if (n > 0) {
			at += (size_t)n;
		}
	}
	return true;
}

/* mkstemp() makes the file with O_EXCL and at most mode 0600. link() does not replace, rename() does; a
 * file system without links (FAT) has no modes to protect a key either. */
static void
write_file(const char *path, const char *text, size_t len, bool replace)
{
	char temporary[PATH_MAX];
	int fd, n = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
	bool ok;

	if (n < 0 || (size_t)n >= sizeof temporary) {
		die("%s: this path is too long", path);
	}
	fd = mkstemp(temporary);
	if (fd < 0) {
		die("%s:", temporary);
	}
	ok = write_all(fd, text, len) && fchmod(fd, replace ? 0644 : 0600) == 0 && fsync(fd) == 0;
	ok = close(fd) == 0 && ok;
	ok = ok && (replace ? rename(temporary, path) : link(temporary, path)) == 0;
	if (!ok || !replace) {
		int saved = errno;

		unlink(temporary);
		errno = saved;
	}
	if (!ok) {
		die("%s:", path);
	}
	sync_directory(path);
}

/* The key. */

/* Waits until the kernel has gathered enough, which at a first boot may take a while. */
static void
random_bytes(unsigned char *into, size_t len)
{
	ssize_t n;

	do {
		n = getrandom(into, len, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0 || (size_t)n != len) {
		die("getrandom:");
	}
}

static void
make_key(const char *path, struct key *k)
{
	const br_ec_impl *ec = br_ec_get_default();
	unsigned char seed[32], der[KEY_MAX];
	char pem[KEY_PEM_MAX];
	br_hmac_drbg_context drbg;
	size_t len;

	random_bytes(seed, sizeof seed);
	br_hmac_drbg_init(&drbg, &br_sha256_vtable, seed, sizeof seed);
	if (br_ec_keygen(&drbg.vtable, ec, &k->sk, k->d, BR_EC_secp256r1) == 0 ||
		br_ec_compute_pub(ec, &k->pk, k->point, &k->sk) != POINT_LEN) {
		die("bug: BearSSL without P-256");
	}
	len = br_encode_ec_pkcs8_der(NULL, &k->sk, &k->pk);
	if (len == 0 || len > sizeof der) {
		die("bug: a key of %zu bytes", len);
	}
	br_encode_ec_pkcs8_der(der, &k->sk, &k->pk);
	if (br_pem_encode(NULL, der, len, BR_ENCODE_PEM_PKCS8, BR_PEM_LINE64) >= sizeof pem) {
		die("bug: the text of a key is too long");
	}
	len = br_pem_encode(pem, der, len, BR_ENCODE_PEM_PKCS8, BR_PEM_LINE64);
	write_file(path, pem, len, false);
	printf("%s: new key\n", path);
}

/* A file that is long enough to hold the public key (SEC 1: 51 bytes without it) must hold the one
 * that belongs to the private one, or a byte of either is wrong. */
static bool
public_half_fits(const struct blob *der, const struct key *k)
{
	if (der->len < 51 + POINT_LEN) {
		return true;
	}
	for (size_t i = 0; i + POINT_LEN <= der->len; i++) {
		if (memcmp(der->b + i, k->point, POINT_LEN) == 0) {
			return true;
		}
	}
	return false;
}

/* BearSSL takes any number for a private key and demands that it be from 1 to the order less 1. */
static bool
read_scalar(const br_ec_private_key *sk, struct key *k)
{
	static const unsigned char zero[SCALAR_LEN];
	const br_ec_impl *ec = br_ec_get_default();
	size_t len, skip = 0;
	const unsigned char *order = ec->order(BR_EC_secp256r1, &len);

	while (skip < sk->xlen && sk->x[skip] == 0) {
		skip++;
	}
	if (len != SCALAR_LEN || sk->xlen - skip > SCALAR_LEN) {
		return false;
	}
	memset(k->d, 0, sizeof k->d);
	memcpy(k->d + SCALAR_LEN - (sk->xlen - skip), sk->x + skip, sk->xlen - skip);
	if (memcmp(k->d, zero, SCALAR_LEN) == 0 || memcmp(k->d, order, SCALAR_LEN) >= 0) {
		return false;
	}
	k->sk = (br_ec_private_key){ BR_EC_secp256r1, k->d, SCALAR_LEN };
	return br_ec_compute_pub(ec, &k->pk, k->point, &k->sk) == POINT_LEN;
}

/* False: there is none. */
static bool
load_key(const char *path, struct key *k)
{
	static struct blob text, der;
	const br_ec_private_key *sk = NULL;
	br_skey_decoder_context decoder;
	struct stat st;

	if (!read_file(path, &text, &st)) {
		return false;
	}
	if (find_pem(&text, "PRIVATE KEY", &der)) {
		br_skey_decoder_init(&decoder);
		br_skey_decoder_push(&decoder, der.b, der.len);
		sk = br_skey_decoder_get_ec(&decoder);
	}
	if (!sk || sk->curve != BR_EC_secp256r1 || !read_scalar(sk, k)) {
		die("%s: is not an EC P-256 private key in PEM without a password", path);
	}
	if (!public_half_fits(&der, k)) {
		die("%s: is damaged: its public key does not belong to its private key", path);
	}
	if (st.st_mode & (S_IROTH | S_IWOTH)) {
		fprintf(stderr, "wssd-selfsign: %s: this private key is open to everybody\n", path);
	}
	return true;
}

/* The certificate. */

/* The whole certificate: what is signed, then the signature. ECDSA is deterministic here (RFC 6979),
 * so the same request, serial number and times give the same bytes each time. */
static void
encode(struct der *cert, const struct request *r, const unsigned char *serial, size_t serial_len,
	const char *from, const char *until)
{
	static struct der tbs;
	unsigned char hash[br_sha256_SIZE], signature[SIGNATURE_MAX];
	const br_ec_impl *ec = br_ec_get_default();
	const struct key *k = &r->key;
	size_t len;

	tbs.at = sizeof tbs.b;
	put_tbs(&tbs, r, serial, serial_len, from, until);
	sha256(hash, tbs.b + tbs.at, sizeof tbs.b - tbs.at);
	len = br_ecdsa_sign_asn1_get_default()(ec, &br_sha256_vtable, hash, &k->sk, signature);
	if (len == 0 ||
		!br_ecdsa_vrfy_asn1_get_default()(ec, hash, sizeof hash, &k->pk, signature, len)) {
		die("bug: BearSSL made no good signature");
	}
	cert->at = sizeof cert->b;
	put(cert, signature, len);
	put_byte(cert, 0); /* unused bits */
	wrap(cert, sizeof cert->b, 0x03);
	put(cert, ECDSA_SHA256, sizeof ECDSA_SHA256);
	put(cert, tbs.b + tbs.at, sizeof tbs.b - tbs.at);
	wrap(cert, sizeof cert->b, 0x30);
}

/* Is this what would be made now, but for serial number and dates? Those end up in from, until. */
static bool
same_certificate(const struct request *r, const struct blob *old, const struct certificate *c,
	char from[TIME_LEN + 1], char until[TIME_LEN + 1])
{
	static struct der again;
	struct range in = c->validity;
	size_t serial_len = c->serial.end - c->serial.at;

	if (serial_len > 20 || !read_time(old->b, &in, from) || !read_time(old->b, &in, until)) {
		return false;
	}
	encode(&again, r, old->b + c->serial.at, serial_len, from, until);
	return old->len == sizeof again.b - again.at &&
	       memcmp(old->b, again.b + again.at, old->len) == 0;
}

/* Why a new one is needed; NULL if the old one will do. */
static const char *
judge_dates(const struct request *r, const char *from, const char *until)
{
	char now[TIME_LEN + 1], limit[TIME_LEN + 1];

	time_text(now, r->now);
	time_text(limit, r->now + r->renew * 86400);
	if (memcmp(until, limit, TIME_LEN) <= 0) {
		return "the old one ends soon";
	}
	if (r->clock_set && memcmp(from, now, TIME_LEN) > 0) {
		return "the old one is not valid yet";
	}
	return NULL;
}

/* Of the certificate in place: the same answer. Ends the program before a key, or a certificate of
 * somebody else, could get lost. */
static const char *
judge_certificate(const struct request *r)
{
	static struct blob text, der;
	char from[TIME_LEN + 1], until[TIME_LEN + 1];
	const char *why;
	struct certificate c;
	struct stat st;

	if (!read_file(r->cert_file, &text, &st)) {
		return "there was none";
	}
	if (find_pem(&text, "PRIVATE KEY", &der)) {
		die("%s: holds a private key, and is not overwritten", r->cert_file);
	}
	if (!find_pem(&text, "CERTIFICATE", &der) || !read_certificate(der.b, der.len, &c)) {
		return "the old one is damaged";
	}
	if (c.issuer.end - c.issuer.at != c.subject.end - c.subject.at ||
		memcmp(der.b + c.issuer.at, der.b + c.subject.at, c.issuer.end - c.issuer.at) !=
			0) {
		die("%s: was issued by somebody else, and is not overwritten", r->cert_file);
	}
	if (r->renew < 0) {
		return "no --renew";
	}
	if (!same_certificate(r, &der, &c, from, until)) {
		return "the old one is for another key or other names, or damaged";
	}
	why = judge_dates(r, from, until);
	if (!why) {
		printf("%s: nothing to do, good until ", r->cert_file);
		print_time(until);
		putchar('\n');
	}
	return why;
}

/* What a browser shows before somebody accepts the certificate. */
static void
print_fingerprint(const unsigned char *cert, size_t len)
{
	unsigned char hash[br_sha256_SIZE];

	sha256(hash, cert, len);
	fputs("SHA-256 fingerprint ", stdout);
	for (size_t i = 0; i < sizeof hash; i++) {
		printf(i == 0 ? "%02X" : ":%02X", hash[i]);
	}
	putchar('\n');
}

static void
make_certificate(const struct request *r, const char *why)
{
	static struct der cert;
	static char pem[CERT_PEM_MAX];
	char from[TIME_LEN + 1], until[TIME_LEN + 1];
	unsigned char serial[SERIAL_LEN];
	size_t len;
	int64_t begin = r->now - EARLIER > BUILD_DATE ? r->now - EARLIER : BUILD_DATE;

	random_bytes(serial, sizeof serial);
	serial[0] = (serial[0] & 0x3F) | 0x40; /* positive, and of full length */
	time_text(from, begin);
	time_text(until, begin + r->days * 86400 - 1); /* the last second counts too */
	encode(&cert, r, serial, sizeof serial, from, until);
	len = sizeof cert.b - cert.at;
	if (br_pem_encode(NULL, cert.b + cert.at, len, "CERTIFICATE", BR_PEM_LINE64) >=
		sizeof pem) {
		die("bug: the text of a certificate is too long");
	}
	write_file(r->cert_file, pem,
		br_pem_encode(pem, cert.b + cert.at, len, "CERTIFICATE", BR_PEM_LINE64), true);
	printf("%s: new certificate (%s), good until ", r->cert_file, why);
	print_time(until);
	putchar('\n');
	print_fingerprint(cert.b + cert.at, len);
}

/* The command line. */

static const char help_text[] =
	"wssd-selfsign [OPTION]... --key FILE --cert FILE NAME...\n"
	"\n"
	"Makes an EC P-256 key, if FILE is not there yet, and a self-signed certificate for servers.\n"
	"NAME is a DNS name (localhost, gateway.lan, *.gateway.lan) or an IPv4 or IPv6 address.\n"
	"\n"
	"  --key FILE    the private key (PEM, mode 0600); one that is there is used, never changed\n"
	"  --cert FILE   the certificate (PEM); replaced in one step, unless somebody else issued it\n"
	"  --days N      how long it is valid, 1 to 825 (825)\n"
	"  --renew N     do nothing if the certificate in place is for this key and just these names\n"
	"                and has more than N days left; without it a new one is made each time\n"
	"  --exit-code   exit with status 3 instead of 0 if there was nothing to do\n"
	"  --help\n"
	"\n"
	"Exit status: 0 the files are good; 1 an error; 2 wrong usage; 3 see --exit-code.\n"
	"\n"
	"At boot, before the server starts, and once a day:\n"
	"  wssd-selfsign --key K --cert C --renew 30 gateway.lan 192.0.2.1\n"
	"  wssd-selfsign --key K --cert C --renew 30 --exit-code gateway.lan 192.0.2.1 &&\n"
	"      kill -HUP $(cat /run/wssd.pid)\n"
	"\n"
	"No certificate begins before ";

static void
usage(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("wssd-selfsign: ", stderr);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs("; --help tells more\n", stderr);
	exit(2);
}

_Noreturn static void
help(void)
{
	char built[TIME_LEN + 1];

	time_text(built, BUILD_DATE);
	fputs(help_text, stdout);
	print_time(built);
	puts(", when this tool was built.");
	exit(0);
}

static bool
letter_or_digit(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

/* One label, [at, end), of letters, digits, and hyphens inside (RFC 1123 2.1); the underscore is
 * in no standard, but in the names of some devices, and clients accept it. */
static bool
good_label(const char *text, size_t at, size_t end)
{
	if (at == end || end - at > LABEL_MAX || text[at] == '-' || text[end - 1] == '-') {
		return false;
	}
	for (size_t i = at; i < end; i++) {
		if (!letter_or_digit(text[i]) && text[i] != '-') {
			return false;
		}
	}
	return true;
}

/* NULL if text is a DNS name, else what is wrong. */
static const char *
judge_dns_name(const char *text)
{
	size_t len = strlen(text), at = 0, labels = 0, end = 0;
	bool wildcard = len >= 2 && memcmp(text, "*.", 2) == 0;

	for (at = wildcard ? 2 : 0; at <= len; at = end + 1) {
		end = at + strcspn(text + at, ".");
		if (!good_label(text, at, end)) {
			return "is neither a DNS name nor an IPv4 or IPv6 address";
		}
		labels++;
		if (end == len && strspn(text + at, "0123456789") == len - at) {
			return "ends in a number, but is not an IPv4 address";
		}
	}
	if (wildcard && labels < 2) {
		return "is wider than clients accept: two labels must follow the star";
	}
	return NULL;
}

/* Addresses in their canonical form, letters small; a name given twice is taken once. */
static void
add_name(struct request *r, const char *text)
{
	struct name n = { .iplen = 0 };
	const char *wrong;
	size_t len = strlen(text);

	if (len > DNS_MAX) {
		usage("%.20s...: this name has more than %d characters", text, DNS_MAX);
	}
	if (inet_pton(AF_INET, text, n.ip) == 1) {
		n.iplen = 4;
		inet_ntop(AF_INET, n.ip, n.text, sizeof n.text);
	} else if (inet_pton(AF_INET6, text, n.ip) == 1) {
		n.iplen = 16;
		inet_ntop(AF_INET6, n.ip, n.text, sizeof n.text);
	} else {
		for (size_t i = 0; i < len; i++) {
			n.text[i] = text[i];
			if (text[i] >= 'A' && text[i] <= 'Z') {
				n.text[i] = (char)(text[i] - 'A' + 'a');
			}
		}
		wrong = judge_dns_name(n.text);
		if (wrong) {
			usage("%s: %s", text, wrong);
		}
	}
	for (size_t i = 0; i < r->names; i++) {
		if (strcmp(r->name[i].text, n.text) == 0) {
			return;
		}
	}
	if (r->names == NAMES_MAX) {
		usage("more than %d names", NAMES_MAX);
	}
	if (r->names == 0 && strlen(n.text) > CN_MAX) {
		usage("the first name is the subject too, and may have %d characters", CN_MAX);
	}
	r->name[r->names] = n;
	r->names++;
}

static int64_t
number(const char *option, const char *text, int64_t min)
{
	int64_t n = 0;

	if (text[0] == '\0' || strlen(text) > 6 || strspn(text, "0123456789") != strlen(text)) {
		usage("--%s %s: this is no number of days", option, text);
	}
	for (size_t i = 0; text[i]; i++) {
		n = n * 10 + (text[i] - '0');
	}
	if (n < min || n > DAYS_MAX) {
		usage("--%s %s: from %d to %d days", option, text, (int)min, DAYS_MAX);
	}
	return n;
}

static void
read_options(struct request *r, int argc, char **argv)
{
	static const struct option options[] = {
		{ "key", required_argument, NULL, 'k' },
		{ "cert", required_argument, NULL, 'c' },
		{ "days", required_argument, NULL, 'd' },
		{ "renew", required_argument, NULL, 'r' },
		{ "exit-code", no_argument, NULL, 'x' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'k':
			r->key_file = optarg;
			break;
		case 'c':
			r->cert_file = optarg;
			break;
		case 'd':
			r->days = number("days", optarg, 1);
			break;
		case 'r':
			r->renew = number("renew", optarg, 0);
			break;
		case 'x':
			r->exit_code = true;
			break;
		case 'h':
			help();
		default:
			exit(2); /* getopt_long() has said why */
		}
	}
	for (int i = optind; i < argc; i++) {
		add_name(r, argv[i]);
	}
	if (!r->key_file[0] || !r->cert_file[0] || r->names == 0) {
		usage("--key, --cert and a name are needed");
	}
}

static void
read_clock(struct request *r)
{
	int64_t now = (int64_t)time(NULL);

	r->clock_set = now >= BUILD_DATE;
	r->now = r->clock_set ? now : BUILD_DATE;
	if (r->now > INT64_C(253307692800)) {
		die("the clock is beyond the year 9996");
	}
}

/* By whatever path: a certificate in its place would be the end of the key. */
static bool
same_file(const char *a, const char *b)
{
	struct stat x, y;

	return strcmp(a, b) == 0 || (stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev &&
					    x.st_ino == y.st_ino);
}

int
main(int argc, char **argv)
{
	static struct request r = {
		.key_file = "", .cert_file = "", .days = DAYS_MAX, .renew = -1
	};
	const char *why;

	read_options(&r, argc, argv);
	read_clock(&r);
	if (same_file(r.key_file, r.cert_file)) {
		die("%s: key and certificate must be two files", r.key_file);
	}
	if (!load_key(r.key_file, &r.key)) {
		make_key(r.key_file, &r.key);
	}
	why = judge_certificate(&r);
	if (!why) {
		return r.exit_code ? EXIT_NOTHING : 0;
	}
	make_certificate(&r, why);
	return 0;
}
