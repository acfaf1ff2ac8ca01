/*
 * A kernel that exists in the target only: clients' and backends' sockets, files, epoll, a clock
 * and signals.  Sockets take and give as much as the script allows them to, and fail when it says
 * so; what poll(2) says follows from their state, as Linux has it.
 */
enum {
	SOCKETS = 64,
	FIRST = 100, /* descriptor of the first socket */
	ROOT = 50,   /* --root */
	BELOW = 51,  /* each directory below it */
	SIGNALS = 51,
	EPOLL = 52,
	LISTENER = 53, /* the first listener */
	CREDENTIAL = 56,
	STREAM_MAX = 400000, /* bytes that a peer may say */
	PACKETS = 64
};

enum what { NOTHING, CLIENT, BACKEND, PACKET_BACKEND, A_FILE, DIRECTORY };
enum how { AT_ONCE, LATER, REFUSED, BACKLOG, LATER_REFUSED };

struct bytes {
	uint8_t *p;
	size_t n, room;
};

static struct sock {
	enum what kind;
	int ours;                    /* the server has the descriptor open */
	int listener;                /* where a client waits to be accepted, or 0 */
	int proxied;                 /* that is one with PROXY heads */
	struct bytes in, out;        /* from the peer, to it */
	size_t taken;                /* of `in`, by the server */
	size_t budget, cut;          /* bytes that the peer takes; the most that a call moves */
	int fin, reset;              /* the peer's end; 1: reset, 2: and the error was told */
	int shut, linger;            /* ours */
	int held;                    /* the kernel keeps bytes back: MSG_MORE */
	int read_error, write_error; /* of the next call */
	int connected, connecting, how;
	size_t packet[PACKETS + 1], out_packet[PACKETS + 1]; /* where each begins */
	size_t packets, out_packets, packets_taken, peeked;
	int peeking;
	struct epoll_event ev; /* of a sleeper */
	int watched, armed;
	const struct route *route; /* what the checks know of it, see conn.c */
	int broken, ended, peer;
	union address addr;
} socks[SOCKETS];
static unsigned used_socks, directories, logged_ends, logged_strangers, logged_bugs;
static unsigned long long moved_bytes; /* and whatever else is progress */
static int64_t clock_ms;
static int accept_error, file_error, signal_waiting, backend_how;
static size_t backend_budget, backend_cut;

static const struct entry_of_root {
	const char *name;
	size_t n;
} files[] = { { "f.txt", 10 }, { "index.html", 1 }, { "big", 50000 }, { "empty", 0 } };

/* Whether the peer takes more. */
static int
takes(const struct sock *s)
{
	return s->budget > 0 && (s->kind != PACKET_BACKEND || s->out_packets < PACKETS);
}

static void
add(struct bytes *b, const void *p, size_t n)
{
	if (b->n + n > b->room) {
		b->room = 2 * b->room + n + 256;
		b->p = realloc(b->p, b->room);
		CHECK(b->p != NULL);
	}
	if (n > 0)
		memcpy(b->p + b->n, p, n);
	b->n += n;
}

static struct sock *
sock_of(int fd)
{
	CHECK(fd >= FIRST && fd < FIRST + (int)used_socks);
	CHECK(socks[fd - FIRST].ours);
	return &socks[fd - FIRST];
}

static struct sock *
new_sock(enum what kind)
{
	struct sock *s = &socks[used_socks];

	if (used_socks == SOCKETS)
		return NULL;
	used_socks++;
	free(s->in.p);
	free(s->out.p);
	*s = (struct sock){ .kind = kind, .peer = -1, .cut = SIZE_MAX };
	return s;
}

static int
fd_of(const struct sock *s)
{
	return FIRST + (int)(s - socks);
}

/* What poll(2) would say of a socket, whoever asks. */
static short
ready(const struct sock *s)
{
	int in = s->kind == PACKET_BACKEND ? s->packets_taken < s->packets : s->taken < s->in.n;
	int r = 0;

	if (s->kind != CLIENT && !s->connected)
		return (short)(s->connecting ? s->how == LATER_REFUSED && s->connecting == 2
						       ? POLLOUT | POLLERR | POLLHUP
						       : 0
					     : POLLOUT | POLLHUP);
	r |= in || s->fin || s->reset ? POLLIN : 0;
	r |= takes(s) || s->reset ? POLLOUT : 0;
	r |= s->reset == 1 ? POLLERR : 0;
	r |= s->reset || (s->fin && s->shut) ? POLLHUP : 0;
	r |= s->fin || s->reset ? POLLRDHUP : 0;
	return (short)r;
}

static int
failed(int error)
{
	errno = error;
	return -1;
}

static int
told_once(int *error)
{
	int e = *error;

	*error = 0;
	moved_bytes += e != 0;
	return e;
}

static ssize_t
take_in(struct sock *s, void *p, size_t n)
{
	size_t there = s->in.n - s->taken;
	int error = told_once(&s->read_error);

	if (error != 0)
		return failed(error);
	if (there == 0 && s->reset == 1) {
		s->reset = 2;
		return failed(ECONNRESET);
	}
	if (there == 0)
		return s->fin || s->reset ? 0 : failed(EAGAIN);
	n = n < there ? n : there;
	n = n < s->cut ? n : s->cut;
	memcpy(p, s->in.p + s->taken, n);
	s->taken += n;
	moved_bytes += n;
	return (ssize_t)n;
}

ssize_t
fake_read(int fd, void *p, size_t n)
{
	struct signalfd_siginfo si = { .ssi_signo = (uint32_t)signal_waiting };
	static const char digest[] =
		"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b secret\n";

	CHECK(n > 0);
	if (fd == SIGNALS) {
		if (signal_waiting == 0)
			return failed(EAGAIN);
		CHECK(n == sizeof si);
		memcpy(p, &si, sizeof si);
		signal_waiting = 0;
		moved_bytes++;
		return sizeof si;
	}
	if (fd == CREDENTIAL || fd == CREDENTIAL + 1) { /* read once, then at its end */
		static int told;

		told = !told;
		CHECK(n > sizeof digest);
		memcpy(p, digest, told ? sizeof digest - 1 : 0);
		return told ? sizeof digest - 1 : 0;
	}
	CHECK(sock_of(fd)->kind == CLIENT || sock_of(fd)->kind == A_FILE);
	return take_in(sock_of(fd), p, n);
}

static ssize_t
log_written(const char *p, size_t n)
{
	CHECK(n > 1 && p[n - 1] == '\n');
	for (size_t i = 0; i + 1 < n; i++)
		CHECK(p[i] >= ' ' && p[i] <= '~');
	if (getenv("LOG") != NULL)
		fwrite(p, 1, n, stdout);
	logged_ends += memmem(p, n, " secs=", 6) != NULL;
	logged_strangers += memmem(p, n, "not from the proxy", 18) != NULL;
	logged_bugs += memmem(p, n, ": bug: ", 7) != NULL; /* no path has a space there */
	return (ssize_t)n;
}

ssize_t
fake_write(int fd, const void *p, size_t n)
{
	struct sock *s;
	int error;

	if (fd == STDERR_FILENO)
		return log_written(p, n);
	s = sock_of(fd);
	CHECK((n > 0 || s->kind == BACKEND) && !s->shut && s->kind != A_FILE &&
		(s->kind == CLIENT || s->connected));
	error = told_once(&s->write_error);
	if (error != 0)
		return failed(error);
	if (s->reset || (s->fin && s->kind == PACKET_BACKEND)) {
		error = s->reset == 1 ? ECONNRESET : EPIPE;
		s->reset = s->reset != 0 ? 2 : 0;
		return failed(error);
	}
	if (s->kind == PACKET_BACKEND && n > 60000)
		return failed(EMSGSIZE);
	if (n == 0)
		return 0;
	if (!takes(s))
		return failed(EAGAIN);
	if (s->kind == PACKET_BACKEND) { /* all or nothing */
		s->budget--;
		s->out_packet[++s->out_packets] = s->out.n + n;
	} else {
		n = n < s->budget ? n : s->budget;
		n = n < s->cut ? n : s->cut;
		s->budget -= n;
	}
	add(&s->out, p, n);
	moved_bytes += n;
	return (ssize_t)n;
}

/* unix(7): SO_PEEK_OFF counts over packets; an error goes before what was sent earlier. */
static ssize_t
recv_packet(struct sock *s, void *p, size_t n, int flags)
{
	size_t at = s->packets_taken, skip = flags & MSG_PEEK ? s->peeked : 0, there;
	int error = told_once(&s->read_error);

	CHECK(s->peeking);
	if (error != 0)
		return failed(error);
	if (s->reset == 1) {
		s->reset = 2;
		return failed(ECONNRESET);
	}
	while (at < s->packets && skip >= s->packet[at + 1] - s->packet[at]) {
		skip -= s->packet[at + 1] - s->packet[at];
		at++;
	}
	if (at == s->packets)
		return s->fin || s->reset ? 0 : failed(EAGAIN);
	there = s->packet[at + 1] - s->packet[at] - skip;
	n = n < there ? n : there;
	if (n > 0)
		memcpy(p, s->in.p + s->packet[at] + skip, n);
	moved_bytes += n;
	if (flags & MSG_PEEK) {
		s->peeked += n;
	} else {
		s->packets_taken++;
		s->peeked -= s->peeked < there ? s->peeked : there;
	}
	return (ssize_t)(flags & MSG_TRUNC ? there : n);
}

ssize_t
fake_recv(int fd, void *p, size_t n, int flags)
{
	struct sock *s = sock_of(fd);

	CHECK(s->connected);
	if (s->kind == PACKET_BACKEND)
		return recv_packet(s, p, n, flags);
	CHECK(s->kind == BACKEND && n > 0);
	if (flags & MSG_PEEK) {
		size_t before = s->taken;
		ssize_t got = take_in(s, p, n);

		s->taken = before;
		return got;
	}
	return take_in(s, p, n);
}

int
fake_close(int fd)
{
	struct sock *s;

	moved_bytes++;
	if (fd == BELOW) {
		CHECK(directories-- > 1);
		return 0;
	}
	if (fd == CREDENTIAL || (fd >= LISTENER && fd < LISTENER + 2))
		return 0;
	s = sock_of(fd);
	s->ours = s->watched = s->armed = 0;
	return 0;
}

int
fake_shutdown(int fd, int how)
{
	struct sock *s = sock_of(fd);

	CHECK(how == SHUT_WR);
	moved_bytes++;
	if (s->reset || s->broken == ENOTCONN)
		return failed(ENOTCONN);
	s->shut = 1;
	return 0;
}

int
fake_socket(int family, int type, int protocol)
{
	struct sock *s = NULL;

	CHECK(protocol == 0 && (type & SOCK_NONBLOCK) && (type & SOCK_CLOEXEC));
	CHECK(family == AF_INET || family == AF_UNIX);
	if (backend_how != 7)
		s = new_sock((type & 15) == SOCK_SEQPACKET ? PACKET_BACKEND : BACKEND);
	if (s == NULL)
		return failed(EMFILE);
	s->ours = 1;
	s->how = backend_how % 5;
	s->budget = backend_budget;
	s->cut = backend_cut;
	moved_bytes++;
	return fd_of(s);
}

int
fake_connect(int fd, const struct sockaddr *a, socklen_t len)
{
	struct sock *s = sock_of(fd);

	CHECK(a != NULL && len == sizeof(struct sockaddr_un));
	if (s->connected)
		return failed(EISCONN);
	if (s->how == REFUSED || (s->how == LATER_REFUSED && s->connecting == 2))
		return failed(ECONNREFUSED);
	if (s->how == BACKLOG)
		return failed(EAGAIN);
	if (s->how == AT_ONCE) {
		s->connected = 1;
		moved_bytes++;
		return 0;
	}
	s->connecting = s->connecting ? s->connecting : 1;
	return failed(s->connecting == 1 ? EINPROGRESS : EALREADY);
}

/* Each byte is in s->out at once; whether the last ones are on their way is another matter. */
ssize_t
fake_send(int fd, const void *p, size_t n, int flags)
{
	struct sock *s = sock_of(fd);
	ssize_t w = fake_write(fd, p, n);

	CHECK(s->kind == CLIENT && (flags & ~MSG_MORE) == 0);
	if (w > 0)
		s->held = flags != 0;
	return w;
}

int
fake_setsockopt(int fd, int level, int option, const void *value, socklen_t len)
{
	struct sock *s = sock_of(fd);

	CHECK(value != NULL && len > 0);
	if (s->kind == CLIENT) { /* this pushes; it is not called in vain */
		CHECK(s->held && level == IPPROTO_TCP && option == TCP_NODELAY);
		s->held = 0;
	}
	s->linger |= level == SOL_SOCKET && option == SO_LINGER;
	s->peeking |= level == SOL_SOCKET && option == SO_PEEK_OFF;
	return 0;
}

int
fake_accept4(int fd, struct sockaddr *a, socklen_t *len, int flags)
{
	int error = told_once(&accept_error);

	CHECK(*len == sizeof(union address) && flags == (SOCK_NONBLOCK | SOCK_CLOEXEC));
	if (error != 0)
		return failed(error);
	for (struct sock *s = socks; s < socks + used_socks; s++)
		if (s->kind == CLIENT && s->listener == fd) {
			memcpy(a, &s->addr, sizeof s->addr);
			s->listener = 0;
			s->ours = 1;
			moved_bytes++;
			return fd_of(s);
		}
	return failed(EAGAIN);
}

/* Files: four of them in each directory, and "d" is one more directory. */

int
fake_open(const char *name, int flags)
{
	(void)flags;
	directories += strcmp(name, "root") == 0;
	return strcmp(name, "root") == 0 ? ROOT : CREDENTIAL;
}

static int
attributes(const char *name, struct stat *st)
{
	memset(st, 0, sizeof *st);
	st->st_mode = S_IFDIR | 0755;
	if (strcmp(name, "d") == 0)
		return 0;
	st->st_mode = S_IFREG | 0644;
	st->st_mtim.tv_sec = 1;
	for (size_t i = 0; i < sizeof files / sizeof *files; i++)
		if (strcmp(name, files[i].name) == 0) {
			st->st_size = (off_t)files[i].n;
			return 0;
		}
	return failed(ENOENT);
}

int
fake_openat(int dir, const char *name, int flags)
{
	static uint8_t content[50000];
	struct stat st;
	struct sock *s;

	CHECK(dir == ROOT ? directories == 1 : dir == BELOW && directories > 1);
	CHECK((flags & O_NOFOLLOW) && strchr(name, '/') == NULL && name[0] != '.' && name[0] != '\0');
	if (file_error == EMFILE)
		return failed(told_once(&file_error));
	if (flags & O_PATH) {
		if (strcmp(name, "d") != 0)
			return failed(ENOENT);
		directories++;
		moved_bytes++;
		return BELOW;
	}
	CHECK(attributes(name, &st) == 0 && S_ISREG(st.st_mode));
	s = new_sock(A_FILE);
	if (s == NULL)
		return failed(ENFILE);
	memset(content, '.', sizeof content);
	add(&s->in, content, (size_t)st.st_size - (file_error == EPIPE && st.st_size > 0));
	s->ended = (int)st.st_size;
	s->read_error = file_error == EIO ? EIO : 0;
	s->fin = s->ours = s->connected = 1;
	moved_bytes++;
	return fd_of(s);
}

int
fake_fstatat(int dir, const char *name, struct stat *st, int flags)
{
	CHECK(dir == (directories > 1 ? BELOW : ROOT) && flags == AT_SYMLINK_NOFOLLOW);
	return attributes(name, st);
}

int
fake_fstat(int fd, struct stat *st)
{
	struct sock *s = sock_of(fd);

	CHECK(s->kind == A_FILE);
	attributes("f.txt", st);
	st->st_size = s->ended;
	return told_once(&s->write_error) ? failed(EIO) : 0;
}

/* Sleepers. */

int
fake_epoll_ctl(int efd, int op, int fd, struct epoll_event *ev)
{
	struct sock *s = sock_of(fd);

	CHECK(efd == EPOLL && (op == EPOLL_CTL_ADD || op == EPOLL_CTL_MOD));
	CHECK(ev->events == (EPOLLIN | EPOLLRDHUP | EPOLLONESHOT));
	if (op == EPOLL_CTL_MOD && !s->watched)
		return failed(ENOENT);
	CHECK(op == EPOLL_CTL_MOD || !s->watched);
	s->ev = *ev;
	s->watched = s->armed = 1;
	return 0;
}

static int
awakes_one(const struct sock *s)
{
	return s->armed && (ready(s) & (POLLIN | POLLRDHUP | POLLERR | POLLHUP)) != 0;
}

int
fake_epoll_wait(int efd, struct epoll_event *ev, int max, int timeout)
{
	int n = 0;

	CHECK(efd == EPOLL && timeout == 0);
	for (struct sock *s = socks; s < socks + used_socks && n < max; s++)
		if (awakes_one(s)) {
			s->armed = 0;
			ev[n++] = s->ev;
			moved_bytes++;
		}
	return n;
}

int
fake_clock_gettime(clockid_t clock, struct timespec *ts)
{
	CHECK(clock == CLOCK_MONOTONIC);
	ts->tv_sec = clock_ms / 1000;
	ts->tv_nsec = clock_ms % 1000 * 1000000;
	return 0;
}

/* What the kernel keeps back would stay there while nothing happens. */
static void
check_held(const struct pollfd *p, nfds_t n)
{
	for (const struct sock *s = socks; s < socks + used_socks; s++) {
		int waits = !s->held || !s->ours || s->shut;

		for (nfds_t i = 0; i < n; i++)
			waits |= p[i].fd == fd_of(s) && (p[i].events & POLLOUT);
		CHECK(waits);
	}
}

/* One look at all descriptors, as poll(2) takes it. */
static int
look(struct pollfd *p, nfds_t n)
{
	int some = 0;

	for (nfds_t i = 0; i < n; i++) {
		int r = 0, fd = p[i].fd;

		if (fd == SIGNALS) {
			r = signal_waiting != 0 ? POLLIN : 0;
		} else if (fd == EPOLL) {
			for (struct sock *s = socks; s < socks + used_socks; s++)
				r |= awakes_one(s) ? POLLIN : 0;
		} else if (fd >= LISTENER && fd < LISTENER + 2) {
			for (struct sock *s = socks; s < socks + used_socks; s++)
				r |= s->kind == CLIENT && s->listener == fd ? POLLIN : 0;
		} else if (fd >= 0) {
			r = ready(sock_of(fd));
		}
		p[i].revents = (short)(r & (p[i].events | POLLERR | POLLHUP));
		some += p[i].revents != 0;
	}
	return some;
}
