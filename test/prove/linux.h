/*
 * What Linux has and Frama-C's C library has not, as on Linux.  The runner puts it before each entry.
 */
#define SOCK_NONBLOCK 04000
#define SOCK_CLOEXEC 02000000
#define SO_PEEK_OFF 42

struct linger {
	int l_onoff, l_linger;
};
