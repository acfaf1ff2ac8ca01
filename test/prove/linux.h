/*
 * What Linux has and Frama-C's C library has not, as on Linux.  The runner puts it before each entry.
 */
#define SOCK_NONBLOCK 04000
#define SOCK_CLOEXEC 02000000
#define SO_PEEK_OFF 42

struct linger {
	int l_onoff, l_linger;
};

#include <sys/types.h>
#include <time.h>

#define O_PATH 010000000
#define st_mtime st_mtime; struct timespec st_mtim /* one field more in struct stat */
#include <__fc_define_stat.h>
#undef st_mtime

/*@ requires \valid((char *)p + (0 .. n - 1));
    assigns ((char *)p)[0 .. n - 1] \from \nothing; */
void explicit_bzero(void *p, size_t n);
void *memccpy(void *to, const void *from, int c, size_t n);
#define MAP_NORESERVE 0x04000
#define MADV_NOHUGEPAGE 15
#define MADV_DONTNEED 4
int madvise(void *p, size_t n, int advice);
#include <sys/socket.h>
int accept4(int fd, struct sockaddr *from, socklen_t *length, int flags);
int getentropy(void *p, size_t n);
#define RLIMIT_NPROC 6
int chroot(const char *path);
int setresgid(gid_t r, gid_t e, gid_t s);
int setresuid(uid_t r, uid_t e, uid_t s);
int setgroups(size_t n, const gid_t *list);
