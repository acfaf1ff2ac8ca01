/* Of prctl(2), which Frama-C's C library has not. */
enum { PR_SET_DUMPABLE = 4, PR_SET_SECCOMP = 22, PR_SET_NO_NEW_PRIVS = 38 };

int prctl(int what, ...);
