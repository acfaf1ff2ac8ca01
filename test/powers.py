"""What a server under test says about its powers: root has to name whom it runs as, and what runs inside of the server beside
it, and needs more system calls than the server, has to have them.

Everything that starts a wssd asks here. A binary with counters (gcov, which writes files at the end) or sanitizers, and one
under valgrind or qemu, runs without the filter; so does that of a user who is not root, since the kernel shows
nobody else what is in /proc/PID of a process that does not dump its memory."""

import os
import re

MARKS = (b".gcda", b"__asan_", b"__afl_")
BESIDE = re.compile(r"valgrind|qemu")
_watched = {}


def watched(binary):
    """Whether something is built into it."""
    if binary not in _watched:
        with open(binary, "rb") as f:
            text = f.read()
        _watched[binary] = any(mark in text for mark in MARKS)
    return _watched[binary]


def words(binary, args=(), wrap=()):
    """The options to put before these."""
    out = ["--user", "root"] if os.geteuid() == 0 and "--user" not in args else []
    beside = any(BESIDE.match(os.path.basename(word)) for word in wrap)
    if "--no-sandbox" not in args and (os.geteuid() != 0 or beside or watched(binary)):
        out.append("--no-sandbox")
    return out
