"""The system calls of a server, see calls.py; and that it notices one that is new, unknown, or not made any more."""

import os
import shutil
import subprocess
import sys

import pytest

import calls

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else, and those calls are in the table")
TABLE = """<!-- calls -->
| call | Linux | by | why |
|---|---|---|---|
| `read`, `write` | 1.0 | wssd | bytes |
| `getrandom` | 3.17 | wssd | entropy |
| `openat`, `O_PATH` | 2.6.39 | wssd | a directory |
| `statx` | 4.11 | elsewhere | without it: fstat |
<!-- end of calls -->
"""
SEEN = """12 read(3, ""..., 5) = 5
write(2</dev/pts_x>, ""..., 1) = -1 EPIPE (Broken pipe: IN_NO_CONSTANT)
getrandom(""..., 32, 0) = 32
13 openat(AT_FDCWD, ""..., O_RDONLY|O_PATH) = -1 ENOENT (No such file or directory)
+++ exited with 0 +++
"""


def judged(table=TABLE, seen=SEEN):
    return calls.findings(calls.table(table), *calls.read(seen))


def run(*args):
    assert shutil.which("strace"), "strace is not there"
    r = subprocess.run([sys.executable, os.path.join(calls.HERE, "calls.py"), *args], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert r.returncode == 0, r.stdout.decode(errors="replace")


@ROOT
@pytest.mark.plain  # sanitizers make calls of their own
def test_calls_of_a_few_tests():
    run("--short")


@ROOT
@pytest.mark.deep
def test_calls_of_many_tests():
    run()


def test_the_table_is_read():
    rows = calls.table(TABLE)
    assert sorted(rows) == ["O_PATH", "getrandom", "openat", "read", "statx", "write"] and rows["getrandom"].since == (3, 17)


@pytest.mark.parametrize("table, seen, finding", [
    (TABLE, SEEN.replace("read(", "readv(", 1), "readv is not in the table"),
    (TABLE, SEEN + "syscall_0x1c3(1, 2) = 0\n", "syscall_0x1c3 is not in the table"),
    (TABLE.replace("3.17", "3.18"), SEEN,
     "getrandom is newer than Linux 3.17, and the table does not say what happens without it"),
    (TABLE, SEEN.replace("O_RDONLY", "O_TMPFILE"), "O_TMPFILE: since when?"),
    (TABLE, SEEN.replace("getrandom(", "read("), "getrandom is in the table, and nobody makes it"),
    (TABLE, SEEN.replace("|O_PATH", ""), "O_PATH is in the table, and nobody makes it"),
], ids=["unknown", "unknown to strace", "too new", "new constant", "gone", "constant gone"])
def test_a_finding(table, seen, finding):
    assert judged() == []
    assert finding in judged(table, seen)
