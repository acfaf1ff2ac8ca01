/*
 * Put before the sources by the compiler (-include): their system calls go to a kernel that exists
 * in the target only, in world.h.
 */
#include <arpa/inet.h>
#include <bearssl.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int fake_accept4(int fd, struct sockaddr *a, socklen_t *len, int flags);
int fake_clock_gettime(clockid_t clock, struct timespec *ts);
int fake_close(int fd);
int fake_connect(int fd, const struct sockaddr *a, socklen_t len);
int fake_epoll_ctl(int efd, int op, int fd, struct epoll_event *ev);
int fake_epoll_wait(int efd, struct epoll_event *ev, int max, int timeout);
int fake_fstat(int fd, struct stat *st);
int fake_fstatat(int dir, const char *name, struct stat *st, int flags);
int fake_open(const char *name, int flags);
int fake_openat(int dir, const char *name, int flags);
int fake_poll(struct pollfd *p, nfds_t n, int timeout);
ssize_t fake_read(int fd, void *p, size_t n);
ssize_t fake_recv(int fd, void *p, size_t n, int flags);
ssize_t fake_send(int fd, const void *p, size_t n, int flags);
int fake_setsockopt(int fd, int level, int option, const void *value, socklen_t len);
int fake_shutdown(int fd, int how);
int fake_socket(int family, int type, int protocol);
ssize_t fake_write(int fd, const void *p, size_t n);

#define accept4       fake_accept4
#define clock_gettime fake_clock_gettime
#define close         fake_close
#define connect       fake_connect
#define epoll_ctl     fake_epoll_ctl
#define epoll_wait    fake_epoll_wait
#define fstat         fake_fstat
#define fstatat       fake_fstatat
#define open          fake_open
#define openat        fake_openat
#define poll          fake_poll
#define read          fake_read
#define recv          fake_recv
#define send          fake_send
#define setsockopt    fake_setsockopt
#define shutdown      fake_shutdown
#define socket        fake_socket
#define write         fake_write
