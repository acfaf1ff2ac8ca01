/*
 * floor: two echo servers which do nothing but echo, to compare others with.
 *
 *   floor tcp [--port P] [--max N]                              plain TCP
 *   floor bear --cert FILE --key FILE [--port P] [--max N]      TLS by BearSSL
 *
 * Both print `listening on 127.0.0.1:PORT` on stderr, and are one thread, one poll(2) over all
 * clients, one read(2) and one write(2) for what a client sent.  There is no HTTP, no frame, no
 * deadline, no log, and nobody is told why: what is left is the cost of the transport.
 *
 * What always holds:
 * - Everything is reserved at start, for --max clients; nothing is allocated afterwards.
 * - What cannot be written stays where it is, and nothing more is read until it is gone.
 * - The TLS of `bear` is as good as BearSSL's gets: what it finds out about the CPU it finds out
 *   once, for the template of which each client's engine is a copy; entropy is injected, so that no
 *   engine opens /dev/urandom; records are read into a stage, not piece by piece, and are of full
 *   size in both directions; AES-GCM before ChaCha20, X25519 before P-256; sessions are kept.
 * - A descriptor that poll(2) does not mention is not touched.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bearssl.h>

enum { STAGE = 32768, CERTS = 8, DER_ROOM = 32768, FILE_ROOM = 65536, BACKLOG = 4096 };

struct client {
	br_ssl_server_context sc;
	size_t from, to; /* bytes [from, to) of the stage are not yet fed, or written */
	unsigned char stage[STAGE];
	unsigned char in[16384 + 325], out[16384 + 85]; /* as BearSSL's own sizes for both ways */
};

static struct client *clients, **free_clients, **at; /* at[i] belongs to fds[i] */
static struct pollfd *fds;
static size_t used = 1, unused; /* of fds, the listener among them; of free_clients */

static br_ssl_server_context model;
static br_ssl_session_cache_lru cache;
static unsigned char store[65536], der[DER_ROOM];
static size_t der_n;
static br_x509_certificate chain[CERTS];
static size_t chain_n;
static br_skey_decoder_context key;
static br_ec_impl curves;

static void
die(const char *what)
{
	fprintf(stderr, "floor: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
	exit(1);
}

/* Plain TCP.  All of these return 0 when the client is to be dropped. */

static int
read_stage(struct client *c, int fd)
{
	ssize_t n = read(fd, c->stage, STAGE);

	c->from = 0;
	c->to = n < 0 ? 0 : (size_t)n;
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static int
tcp_in(struct client *c, const struct pollfd *p)
{
	return c->from < c->to || read_stage(c, p->fd);
}

static int
tcp_out(struct client *c, struct pollfd *p)
{
	ssize_t n = c->from < c->to ? write(p->fd, c->stage + c->from, c->to - c->from) : 0;

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return 0;
	c->from += n < 0 ? 0 : (size_t)n;
	p->events = c->from < c->to ? POLLOUT : POLLIN;
	return 1;
}

/* BearSSL. */

/* Moves what there is from the stage into the engine, and back into it, as far as it goes. */
static void
turn_around(struct client *c)
{
	br_ssl_engine_context *eng = &c->sc.eng;
	unsigned char *p, *q;
	size_t n, m;

	for (;;) {
		if ((p = br_ssl_engine_recvapp_buf(eng, &n)) != NULL &&
			(q = br_ssl_engine_sendapp_buf(eng, &m)) != NULL) {
			n = n < m ? n : m;
			memcpy(q, p, n);
			br_ssl_engine_recvapp_ack(eng, n);
			br_ssl_engine_sendapp_ack(eng, n);
		} else if (c->from < c->to && (p = br_ssl_engine_recvrec_buf(eng, &n)) != NULL) {
			n = n < c->to - c->from ? n : c->to - c->from;
			memcpy(p, c->stage + c->from, n);
			br_ssl_engine_recvrec_ack(eng, n);
			c->from += n;
		} else {
			break;
		}
	}
}

static int
bear_in(struct client *c, const struct pollfd *p)
{
	if (c->from == c->to && (p->revents & ~POLLOUT) != 0 && !read_stage(c, p->fd))
		return 0;
	turn_around(c);
	return 1;
}

static int
bear_out(struct client *c, struct pollfd *p)
{
	br_ssl_engine_context *eng = &c->sc.eng;
	unsigned char *q;
	ssize_t w = 0;
	size_t n;

	br_ssl_engine_flush(eng, 0);
	while (w >= 0 && (q = br_ssl_engine_sendrec_buf(eng, &n)) != NULL) {
		w = write(p->fd, q, n);
		if (w < 0 && errno != EAGAIN && errno != EINTR)
			return 0;
		if (w > 0) {
			br_ssl_engine_sendrec_ack(eng, (size_t)w);
			turn_around(c);
			br_ssl_engine_flush(eng, 0);
		}
	}
	p->events = (short)((w < 0 ? POLLOUT : 0) | (c->from == c->to ? POLLIN : 0));
	return br_ssl_engine_current_state(eng) != BR_SSL_CLOSED;
}

static int
open_bear(struct client *c)
{
	unsigned char entropy[32];

	c->sc = model;
	br_ssl_engine_set_buffers_bidi(&c->sc.eng, c->in, sizeof c->in, c->out, sizeof c->out);
	if (getentropy(entropy, sizeof entropy) != 0)
		return 0;
	br_ssl_engine_inject_entropy(&c->sc.eng, entropy, sizeof entropy);
	return br_ssl_server_reset(&c->sc);
}

static void
append(void *ctx, const void *data, size_t n)
{
	(void)ctx;
	if (n > sizeof der - der_n)
		die("certificates too large");
	memcpy(der + der_n, data, n);
	der_n += n;
}

/* The objects of a PEM file: certificates to the chain, a key to the key. */
static void
load(const char *name)
{
	static char text[FILE_ROOM];
	br_pem_decoder_context pem;
	FILE *f = name != NULL ? fopen(name, "r") : NULL;
	size_t n, i = 0, from = 0;

	if (f == NULL)
		die(name != NULL ? name : "--cert and --key are needed");
	n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n++] = '\n';
	br_pem_decoder_init(&pem);
	while (i < n) {
		i += br_pem_decoder_push(&pem, text + i, n - i);
		switch (br_pem_decoder_event(&pem)) {
		case BR_PEM_BEGIN_OBJ:
			from = der_n;
			br_pem_decoder_setdest(&pem, append, NULL);
			break;
		case BR_PEM_END_OBJ:
			if (strcmp(br_pem_decoder_name(&pem), "CERTIFICATE") == 0 &&
				chain_n < CERTS)
				chain[chain_n++] =
					(br_x509_certificate){ der + from, der_n - from };
			else if (strstr(br_pem_decoder_name(&pem), "PRIVATE KEY") != NULL)
				br_skey_decoder_push(&key, der + from, der_n - from);
			break;
		case BR_PEM_ERROR:
			die("not PEM");
		}
	}
}

static void
prepare_bear(const char *cert_file, const char *key_file)
{
	static const uint16_t aes[] = { 0xc02b, 0xcca9 }, chacha[] = { 0xcca9, 0xc02b }; /* ECDSA */
	br_ssl_engine_context *eng = &model.eng;
	int fast = br_aes_x86ni_ctr_get_vtable() != NULL || br_aes_pwr8_ctr_get_vtable() != NULL;

	errno = 0;
	br_skey_decoder_init(&key);
	load(cert_file);
	load(key_file);
	if (chain_n == 0 || br_skey_decoder_key_type(&key) != BR_KEYTYPE_EC)
		die("no certificate, or no EC key");
	curves = *br_ec_get_default(); /* X25519 comes first by itself */
	curves.supported_curves &= 1U << BR_EC_curve25519 | 1U << BR_EC_secp256r1;
	br_ssl_server_zero(&model);
	br_ssl_engine_set_versions(eng, BR_TLS12, BR_TLS12);
	br_ssl_engine_set_suites(eng, fast ? aes : chacha, 2);
	br_ssl_engine_add_flags(eng, BR_OPT_ENFORCE_SERVER_PREFERENCES | BR_OPT_NO_RENEGOTIATION);
	br_ssl_engine_set_hash(eng, br_sha256_ID, &br_sha256_vtable);
	br_ssl_engine_set_prf_sha256(eng, &br_tls12_sha256_prf);
	br_ssl_engine_set_default_aes_gcm(eng);
	br_ssl_engine_set_default_chapol(eng);
	br_ssl_engine_set_ec(eng, &curves);
	br_ssl_server_set_single_ec(&model, chain, chain_n, br_skey_decoder_get_ec(&key),
		BR_KEYTYPE_SIGN, 0, br_ec_get_default(), br_ecdsa_sign_asn1_get_default());
	br_ssl_session_cache_lru_init(&cache, store, sizeof store);
	br_ssl_server_set_cache(&model, &cache.vtable);
	/* the reset finds the generator seeded, and so will each copy's */
	br_ssl_engine_set_buffers_bidi(
		eng, clients[0].in, sizeof clients[0].in, clients[0].out, sizeof clients[0].out);
	br_ssl_engine_inject_entropy(eng, "floor", 5);
	if (!br_ssl_server_reset(&model))
		die("BearSSL refuses");
	memset(&clients[0], 0, sizeof clients[0]);
}

/* Clients. */

static void
take_clients(int tls)
{
	int fd, on = 1;

	while (unused > 0 &&
		(fd = accept4(fds[0].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct client *c = free_clients[--unused];

		c->from = c->to = 0;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		at[used] = c;
		fds[used++] = (struct pollfd){ fd, POLLIN, 0 };
		if (tls && !open_bear(c))
			die("no entropy");
	}
	fds[0].events = unused > 0 ? POLLIN : 0;
}

static void
drop(size_t i)
{
	close(fds[i].fd);
	free_clients[unused++] = at[i];
	fds[i] = fds[--used];
	at[i] = at[used];
	fds[0].events = POLLIN;
}

/*
 * First what all clients sent is read, then all are answered: that costs less than to answer each
 * one at once, for the clients wake up later, send more together, and poll(2) looks over all
 * descriptors less often.
 */
static void
loop(int tls)
{
	for (;;) {
		if (poll(fds, used, -1) < 0 && errno != EINTR)
			die("poll");
		/* downwards: drop moves the last one here */
		for (size_t i = used; i-- > 1;)
			if (fds[i].revents != 0 &&
				!(tls ? bear_in(at[i], &fds[i]) : tcp_in(at[i], &fds[i])))
				drop(i);
		for (size_t i = used; i-- > 1;)
			if (fds[i].revents != 0 &&
				!(tls ? bear_out(at[i], &fds[i]) : tcp_out(at[i], &fds[i])))
				drop(i);
		if (fds[0].revents != 0)
			take_clients(tls);
	}
}

static void *
reserve(size_t n, size_t size)
{
	void *p = mmap(NULL, n * size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("no memory");
	return p;
}

/* Returns the port. */
static int
prepare(int port, size_t max)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	struct rlimit rl;
	socklen_t len = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;

	getrlimit(RLIMIT_NOFILE, &rl);
	if (rl.rlim_cur < max + 16) {
		rl.rlim_cur = max + 16;
		if (rl.rlim_max < rl.rlim_cur)
			rl.rlim_max = rl.rlim_cur;
		if (setrlimit(RLIMIT_NOFILE, &rl) != 0)
			die("descriptors");
	}
	clients = reserve(max, sizeof *clients);
	free_clients = reserve(max, sizeof *free_clients);
	at = reserve(max + 1, sizeof *at);
	fds = reserve(max + 1, sizeof *fds);
	while (unused < max) {
		free_clients[unused] = &clients[max - 1 - unused];
		unused++;
	}
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, BACKLOG) != 0 ||
		getsockname(fd, (struct sockaddr *)&a, &len) != 0)
		die("cannot listen");
	fds[0] = (struct pollfd){ fd, POLLIN, 0 };
	signal(SIGPIPE, SIG_IGN);
	return ntohs(a.sin_port);
}

int
main(int argc, char **argv)
{
	const char *cert = NULL, *key_file = NULL;
	int tls = argc > 1 && strcmp(argv[1], "bear") == 0, port = 0, i;
	size_t max = 1024;

	for (i = 2; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--port") == 0)
			port = atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--max") == 0)
			max = (size_t)atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--cert") == 0)
			cert = argv[i + 1];
		else if (strcmp(argv[i], "--key") == 0)
			key_file = argv[i + 1];
		else
			break;
	}
	if (argc < 2 || i != argc || max < 1 || max > 100000 ||
		(!tls && strcmp(argv[1], "tcp") != 0)) {
		fputs("floor tcp|bear [--cert FILE --key FILE] [--port P] [--max N]\n", stderr);
		return 2;
	}
	port = prepare(port, max);
	if (tls)
		prepare_bear(cert, key_file);
	fprintf(stderr, "listening on 127.0.0.1:%d\n", port);
	loop(tls);
}
