/*
 * misdeed: what a server does that somebody else has got hold of.  Preloaded, it waits for the loop
 * (the first poll(2) of more than one descriptor) and then makes one system call:
 *
 *   gcc -shared -fPIC -o misdeed.so test/faults/misdeed.c
 *   MISDEED=NAME LD_PRELOAD=./misdeed.so wssd ...
 *
 * and writes "misdeed: NAME: RESULT" to stderr, where RESULT is what errno is then, or 0.  NAME is
 * one of deeds[] below, or `all`; refuse=ERRNO makes the kernel refuse filters instead.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_mmap /* 32-bit ARM */
#define SYS_mmap SYS_mmap2
#endif

static char page[2 * 65536];

static void *
aligned(void)
{
	return (void *)(((uintptr_t)page + 65535) & ~(uintptr_t)65535);
}

static const struct deed {
	const char *name;
	long number, arg[6];
} deeds[] = {
	/* what must end it */
	{ "open-write", SYS_openat, { AT_FDCWD, (long)"/dev/null", O_WRONLY } },
	{ "open-both", SYS_openat, { AT_FDCWD, (long)"/dev/null", O_RDWR | O_CLOEXEC } },
	{ "open-create", SYS_openat, { AT_FDCWD, (long)"/dev/null", O_RDONLY | O_CREAT, 0600 } },
	{ "open-truncate", SYS_openat, { AT_FDCWD, (long)"/dev/null", O_RDONLY | O_TRUNC } },
	{ "open-nameless", SYS_openat, { AT_FDCWD, (long)"/tmp", O_TMPFILE | O_RDWR, 0600 } },
	{ "openat2", SYS_openat2, { AT_FDCWD, (long)"/dev/null", 0, 0 } },
#ifdef SYS_open
	{ "old-open-write", SYS_open, { (long)"/dev/null", O_WRONLY } },
	{ "creat", SYS_creat, { (long)"/dev/null", 0600 } },
	{ "fork", SYS_fork, { 0 } },
	{ "vfork", SYS_vfork, { 0 } },
#endif
	{ "unlink", SYS_unlinkat, { AT_FDCWD, (long)"/nowhere/at/all", 0 } },
	{ "rename", SYS_renameat2, { AT_FDCWD, (long)"/nowhere/a", AT_FDCWD, (long)"/nowhere/b", 0 } },
	{ "mkdir", SYS_mkdirat, { AT_FDCWD, (long)"/nowhere/at/all", 0700 } },
	{ "chmod", SYS_fchmodat, { AT_FDCWD, (long)"/nowhere/at/all", 0700 } },
	{ "execve", SYS_execve, { (long)"/nowhere/at/all", 0, 0 } },
	{ "execveat", SYS_execveat, { AT_FDCWD, (long)"/nowhere/at/all", 0, 0, 0 } },
	{ "clone", SYS_clone, { SIGCHLD } },
	{ "clone3", SYS_clone3, { 0, 0 } },
	{ "ptrace", SYS_ptrace, { PTRACE_TRACEME } },
	{ "process-vm-readv", SYS_process_vm_readv, { 1, 0, 0, 0, 0, 0 } },
	{ "kill", SYS_kill, { 1, 0 } },
	{ "mprotect-execute", SYS_mprotect, { 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC } },
	{ "mprotect", SYS_mprotect, { 0, 4096, PROT_READ | PROT_WRITE } },
	{ "mremap", SYS_mremap, { 0, 4096, 4096, 0 } },
	{ "madvise-other", SYS_madvise, { 0, 4096, MADV_NORMAL } },
	{ "memfd", SYS_memfd_create, { (long)"x", 0 } },
	{ "netlink", SYS_socket, { AF_NETLINK, SOCK_RAW, 0 } },
	{ "packet", SYS_socket, { AF_PACKET, SOCK_RAW, 0 } },
	{ "socketpair", SYS_socketpair, { AF_UNIX, SOCK_STREAM, 0, (long)page } },
	{ "bind", SYS_bind, { 3, (long)page, 16 } },
	{ "listen", SYS_listen, { 3, 5 } },
	{ "sendmsg", SYS_sendmsg, { 3, (long)page, 0 } },
	{ "attach-filter", SYS_setsockopt, { 3, SOL_SOCKET, SO_ATTACH_FILTER, (long)page, 16 } },
	{ "dup", SYS_dup, { 2 } },
	{ "set-flags", SYS_fcntl, { 2, F_SETFL, 0 } },
	{ "ioctl", SYS_ioctl, { 2, 0x5401, (long)page } },
	{ "setuid", SYS_setuid, { 0 } },
	{ "chroot", SYS_chroot, { (long)"/nowhere/at/all" } },
	{ "mount", SYS_mount, { (long)"a", (long)"/nowhere", (long)"tmpfs", 0, 0 } },
	{ "unshare", SYS_unshare, { CLONE_NEWUSER } },
	{ "bpf", SYS_bpf, { 0, 0, 0 } },
	{ "keyctl", SYS_keyctl, { 0 } },
	{ "io-uring", SYS_io_uring_setup, { 1, (long)page } },
	{ "init-module", SYS_init_module, { 0, 0, 0 } },
	{ "prlimit", SYS_prlimit64, { 0, RLIMIT_CORE, 0, (long)page } },
	{ "prctl", SYS_prctl, { PR_SET_DUMPABLE, 1 } },
	{ "sigaction", SYS_rt_sigaction, { SIGTERM, 0, 0, 8 } },
	{ "nonexistent", 5000, { 0 } },
#ifdef __x86_64__
	{ "x32-read", 0x40000000, { 0, 0, 0 } },
#endif
	/* sockets of backends: only with routes that need them */
	{ "inet", SYS_socket, { AF_INET, SOCK_STREAM, 0 } },
	{ "inet6", SYS_socket, { AF_INET6, SOCK_STREAM, 0 } },
	{ "unix", SYS_socket, { AF_UNIX, SOCK_STREAM, 0 } },
	{ "connect", SYS_connect, { -1, (long)page, 16 } },
	/* what may be */
	{ "open-read", SYS_openat, { AT_FDCWD, (long)"/dev/null", O_RDONLY | O_CLOEXEC } },
	{ "open-path", SYS_openat, { AT_FDCWD, (long)"/", O_PATH | O_DIRECTORY } },
	{ "high-half", SYS_openat, { AT_FDCWD, (long)"/dev/null", (long)0x4100000000 } },
	{ "getrandom", SYS_getrandom, { (long)page, 16, 0 } },
	/* what fails */
	{ "brk", SYS_brk, { 0 } },
	{ "mmap", SYS_mmap, { 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 } },
	{ "mmap-execute", SYS_mmap,
		{ 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 } },
};

static void
say(const char *name, int error)
{
	char line[80];
	int n = snprintf(line, sizeof line, "misdeed: %s: %d\n", name, error);

	if (write(2, line, (size_t)n) < 0)
		return;
}

/* NAME, or `all` but vfork, whose child would go on in our place. */
static void
misbehave(const char *name)
{
	for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
		const struct deed *d = &deeds[i];
		long a[6], result;

		if (strcmp(d->name, name) != 0 &&
			(strcmp("all", name) != 0 || strcmp("vfork", d->name) == 0))
			continue;
		memcpy(a, d->arg, sizeof a);
		if (a[0] == 0 && (strncmp(d->name, "mp", 2) == 0 || strncmp(d->name, "ma", 2) == 0 ||
					 strncmp(d->name, "mre", 3) == 0))
			a[0] = (long)aligned();
		result = syscall(d->number, a[0], a[1], a[2], a[3], a[4], a[5]);
		if (result >= 0 && (strcmp(d->name, "fork") == 0 || strcmp(d->name, "clone") == 0)) {
			if (result == 0)
				_exit(0); /* the child */
			/* its SIGCHLD would stop us once ptrace is done */
			waitpid((pid_t)result, NULL, 0);
		}
		say(d->name, result == -1 ? errno : 0); /* an address may be negative */
	}
	say("end", 0);
}

static int done;

int
poll(struct pollfd *p, nfds_t n, int timeout)
{
	static int (*real)(struct pollfd *, nfds_t, int);
	const char *name = getenv("MISDEED");

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "poll");
	if (n > 1 && !done++ && name != NULL && strchr(name, '=') == NULL)
		misbehave(name);
	return real(p, n, timeout);
}

#ifndef prctl /* which misdeed-static.c defines */
/* What a program with 64 bits of time calls on a machine of 32. */
int __prctl_time64(int, ...) __attribute__((alias("prctl"), nothrow, leaf));
#endif

/* MISDEED=refuse=ERRNO: no filter. */
int
prctl(int what, ...)
{
	static int (*real)(int, ...);
	const char *name = getenv("MISDEED");
	unsigned long a[4];
	va_list ap;

	if (what == PR_SET_SECCOMP && name != NULL && strncmp(name, "refuse=", 7) == 0) {
		errno = atoi(name + 7);
		return -1;
	}
	va_start(ap, what);
	for (int i = 0; i < 4; i++)
		a[i] = va_arg(ap, unsigned long);
	va_end(ap);
	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "prctl");
	return real(what, a[0], a[1], a[2], a[3]);
}
