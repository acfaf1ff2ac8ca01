/* Of syscalls(2), which Frama-C's C library has not: numbers of a machine without older names. */
enum {
	__NR_accept4, __NR_brk, __NR_clock_gettime, __NR_close, __NR_connect, __NR_epoll_ctl, __NR_epoll_pwait,
	__NR_exit_group, __NR_fcntl, __NR_fstat, __NR_getrandom,
	__NR_madvise, __NR_mmap, __NR_newfstatat,
	__NR_openat, __NR_ppoll, __NR_read, __NR_recvfrom,
	__NR_restart_syscall, __NR_sendto, __NR_setsockopt, __NR_shutdown,
	__NR_socket, __NR_statx, __NR_write
};
