/*
 * libwebsockets as an echo and as a hub, for bench.py: lws CERT KEY.
 *
 * /echo: each message back to its sender; /chat: each message to every other client of the path.  Owns
 * what waits to be sent: of /echo the pieces as they came, in a list for each client, which the
 * library's flow control bounds; of /chat one ring for all, in which each client has a cursor.  Never
 * copies a message for each subscriber, and never sends more in one turn than the library lets it.  A
 * subscriber that the ring has overtaken is closed.
 */
#include <libwebsockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	PIECE = 16384,      /* bytes that the library hands over at once */
	HIGH = 1 << 20,     /* bytes waiting: nothing more is read */
	LOW = 1 << 18,      /* bytes waiting: reading goes on */
	RING = 1024,        /* messages of /chat that subscribers may be behind */
	CHAT_MAX = 4096,    /* bytes of one of them */
	CLIENTS_MAX = 11000 /* descriptors, too */
};

struct piece {
	struct piece *next;
	size_t n;
	enum lws_write_protocol how;
	unsigned char data[]; /* LWS_PRE bytes for the library, then n */
};

struct client {
	struct piece *first, **last;
	size_t waiting;
	struct lws *wsi;
	struct client *next; /* of /chat */
	unsigned long cursor;
	int chat, stopped;
};

struct entry {
	struct client *from;
	size_t n;
	unsigned char data[LWS_PRE + CHAT_MAX];
};

static struct client *subscribers;
static struct entry ring[RING];
static unsigned long posted; /* messages so far */
static struct lws_context *context;

static void
stop(int number)
{
	(void)number;
	_exit(0);
}

static int
subscribed(struct lws *wsi)
{
	char path[32];

	return lws_hdr_copy(wsi, path, sizeof path, WSI_TOKEN_GET_URI) > 0 &&
	       strcmp(path, "/chat") == 0;
}

static void
leave(struct client *c)
{
	struct piece *p;

	while ((p = c->first) != NULL) {
		c->first = p->next;
		free(p);
	}
	for (struct client **at = &subscribers; c->chat && *at != NULL; at = &(*at)->next)
		if (*at == c) {
			*at = c->next;
			break;
		}
}

static int
post(struct client *c, const void *data, size_t n)
{
	struct entry *e = ring + posted % RING;

	if (n > CHAT_MAX || !lws_is_first_fragment(c->wsi) || !lws_is_final_fragment(c->wsi))
		return -1;
	e->from = c;
	e->n = n;
	memcpy(e->data + LWS_PRE, data, n);
	posted++;
	for (struct client *s = subscribers; s != NULL; s = s->next)
		if (s != c)
			lws_callback_on_writable(s->wsi);
		else if (s->cursor == posted - 1)
			s->cursor = posted;
	return 0;
}

static int
keep(struct client *c, const void *data, size_t n)
{
	struct piece *p = malloc(sizeof *p + LWS_PRE + n);
	int last = lws_is_final_fragment(c->wsi) && lws_remaining_packet_payload(c->wsi) == 0;

	if (p == NULL)
		return -1;
	p->next = NULL;
	p->n = n;
	p->how = (enum lws_write_protocol)lws_write_ws_flags(
		lws_frame_is_binary(c->wsi) ? LWS_WRITE_BINARY : LWS_WRITE_TEXT,
		lws_is_first_fragment(c->wsi), last);
	memcpy(p->data + LWS_PRE, data, n);
	*c->last = p;
	c->last = &p->next;
	c->waiting += n;
	if (c->waiting > HIGH && !c->stopped) {
		c->stopped = 1;
		lws_rx_flow_control(c->wsi, 0);
	}
	lws_callback_on_writable(c->wsi);
	return 0;
}

/* Returns 1 if there is more, 0 if not, -1 to close. */
static int
send_chat(struct client *c)
{
	struct entry *e;

	if (posted - c->cursor > RING)
		return -1;
	while (c->cursor != posted && ring[c->cursor % RING].from == c)
		c->cursor++;
	if (c->cursor == posted)
		return 0;
	e = ring + c->cursor++ % RING;
	if (lws_write(c->wsi, e->data + LWS_PRE, e->n, LWS_WRITE_BINARY) < (int)e->n)
		return -1;
	return c->cursor != posted;
}

static int
send_echo(struct client *c)
{
	struct piece *p = c->first;
	int sent;

	if (p == NULL)
		return 0;
	sent = lws_write(c->wsi, p->data + LWS_PRE, p->n, p->how);
	c->waiting -= p->n;
	c->first = p->next;
	if (c->first == NULL)
		c->last = &c->first;
	if (sent < (int)p->n) {
		free(p);
		return -1;
	}
	free(p);
	if (c->stopped && c->waiting < LOW) {
		c->stopped = 0;
		lws_rx_flow_control(c->wsi, 1);
	}
	return c->first != NULL;
}

static int
callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n)
{
	struct client *c = user;
	int more;

	switch (reason) {
	case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS:
		SSL_CTX_set1_groups_list(user, "X25519");
		return 0;
	case LWS_CALLBACK_ESTABLISHED:
		memset(c, 0, sizeof *c);
		c->wsi = wsi;
		c->last = &c->first;
		c->chat = subscribed(wsi);
		c->cursor = posted;
		if (c->chat) {
			c->next = subscribers;
			subscribers = c;
		}
		return 0;
	case LWS_CALLBACK_RECEIVE:
		return c->chat ? post(c, in, n) : keep(c, in, n);
	case LWS_CALLBACK_SERVER_WRITEABLE:
		while ((more = c->chat ? send_chat(c) : send_echo(c)) > 0)
			if (lws_send_pipe_choked(wsi)) {
				lws_callback_on_writable(wsi);
				break;
			}
		return more < 0 ? -1 : 0;
	case LWS_CALLBACK_CLOSED:
		leave(c);
		return 0;
	default:
		return lws_callback_http_dummy(wsi, reason, user, in, n);
	}
}

int
main(int argc, char **argv)
{
	static const struct lws_protocols protocols[] = {
		{ "bench", callback, sizeof(struct client), PIECE, 0, NULL, PIECE },
		{ NULL, NULL, 0, 0, 0, NULL, 0 }
	};
	struct lws_context_creation_info info;
	struct lws_vhost *vhost;

	if (argc < 3) {
		fprintf(stderr, "usage: lws CERT KEY\n");
		return 2;
	}
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	lws_set_log_level(LLL_ERR, NULL);
	memset(&info, 0, sizeof info);
	info.iface = "127.0.0.1";
	info.protocols = protocols;
	info.ssl_cert_filepath = argv[1];
	info.ssl_private_key_filepath = argv[2];
	info.fd_limit_per_thread = CLIENTS_MAX;
	info.max_http_header_pool = 256;
	info.pt_serv_buf_size = PIECE;
	info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT | LWS_SERVER_OPTION_EXPLICIT_VHOSTS;
	if (argc < 4 || strcmp(argv[3], "poll") != 0)
		info.options |= LWS_SERVER_OPTION_LIBEV; /* epoll */
	context = lws_create_context(&info);
	vhost = context != NULL ? lws_create_vhost(context, &info) : NULL;
	if (vhost == NULL)
		return 1;
	fprintf(stderr, "listening on 127.0.0.1:%d\n", lws_get_vhost_listen_port(vhost));
	while (lws_service(context, 0) >= 0)
		;
	return 1;
}
