"""The system calls that wssd makes, held against the table of README.md: none that is not there, none newer than Linux 3.17
without saying what happens without it, none there that nobody makes.

    calls.py [--short] [--list]     runs a part of the suite with the server under strace, and wssd-selfsign; --short: a part
                                    that meets them all; --list: prints what was seen. Exit status 1 on a finding, and
                                    with --short when a test fails (else one may, for want of time: strace is slow)

The same for the constants in their arguments (flags, options, families): those below are older than Linux 2.6.32.
"""

import collections
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
README = os.path.join(HERE, "README.md")
OLDEST = (3, 17)
LONG = ["test_backends.py", "test_seqpacket.py", "test_proxy.py"]
SHORT = ["test_lifecycle.py::test_version", "test_http.py::test_files_appear_change_and_vanish",
         "test_seqpacket.py::test_rest_and_waking", "test_backends.py::test_between_requests_it_rests",
         "test_backends.py::test_connect_refused", "test_backends.py::test_hub_wakes_sleepers",
         "test_sandbox.py::test_chroot", "test_sandbox.py::test_user"]
OLD = set("""
AF_INET AF_INET6 AF_UNIX ARCH_SET_FS AT_FDCWD AT_SYMLINK_NOFOLLOW EPOLL_CLOEXEC EPOLL_CTL_ADD EPOLL_CTL_MOD FD_CLOEXEC
F_OK F_SETFD IPPROTO_IP IPV6_V6ONLY MADV_DONTNEED MAP_ANONYMOUS MAP_DENYWRITE MAP_FIXED MAP_NORESERVE MAP_PRIVATE
MSG_MORE MSG_NOSIGNAL MSG_PEEK MSG_TRUNC O_CLOEXEC O_CREAT O_DIRECTORY O_EXCL O_NOCTTY O_NOFOLLOW O_NONBLOCK O_RDONLY
O_RDWR O_TRUNC O_WRONLY PROT_EXEC PROT_NONE PROT_READ PROT_WRITE PR_SET_DUMPABLE RLIM64_INFINITY RLIMIT_CORE
RLIMIT_NOFILE RLIMIT_NPROC RLIMIT_STACK R_OK SA_RESTART SA_RESTORER SFD_CLOEXEC SFD_NONBLOCK SHUT_WR SIG_BLOCK SIG_DFL
SIG_IGN SIG_SETMASK SOCK_CLOEXEC SOCK_NONBLOCK SOCK_SEQPACKET SOCK_STREAM SOL_IPV6 SOL_SOCKET SOL_TCP SO_LINGER
SO_REUSEADDR SUID_DUMP_DISABLE SUID_DUMP_USER S_IFCHR S_IFDIR S_IFIFO S_IFLNK S_IFREG S_IFSOCK TCP_NODELAY
""".split())

Row = collections.namedtuple("Row", "since by why")


def table(text):
    """The rows of README.md by the name of the call, or constant."""
    rows = {}
    for line in text.split("<!-- calls -->")[1].split("<!-- end of calls -->")[0].splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 4 and re.match(r"\d", cells[1]):
            for name in re.findall(r"`(\w+)`", cells[0]):
                rows[name] = Row(tuple(int(n) for n in cells[1].split(".")), cells[2], cells[3])
    return rows


def read(text):
    """The names of calls, and of constants in them, of strace's lines."""
    calls, constants = collections.Counter(), collections.Counter()
    for line in text.splitlines():
        m = re.match(r"(?:\d+ +)?([a-z]\w*)\((.*)", line)
        if m:
            calls[m.group(1)] += 1
            known = re.sub(r' = -1 E[A-Z0-9]+ .*$|"[^"]*"', "", m.group(2))
            constants.update(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", known))
        elif re.match(r"(?:\d+ +)?syscall_0x", line):
            calls[line.split("(")[0].split()[-1]] += 1
    return calls, constants


def findings(rows, calls, constants):
    out = ["%s is not in the table" % c for c in sorted(calls) if c not in rows]
    out += ["%s: since when?" % c for c in sorted(constants) if c not in rows and c not in OLD]
    for name, row in rows.items():
        if row.since > OLDEST and "without it" not in row.why:
            out.append("%s is newer than Linux %d.%d, and the table does not say what happens without it" % (name, *OLDEST))
        if name not in calls and name not in constants and row.by != "elsewhere":
            out.append("%s is in the table, and nobody makes it" % name)
    return out


def trace(tests):
    """What strace says of a server under these tests, and of wssd-selfsign: text, whether all passed."""
    with tempfile.TemporaryDirectory() as d:
        # -D: the server is still the child, and signals are for it
        wrap = "strace -D -f -ff -qq -e signal=none -s 0 -o %s/wssd" % d
        env = dict(os.environ, WSSD_WRAP=wrap, WSSD_SLOW="3")
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS"):
            env.pop(name, None)
        r = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "not deep", "--timeout", "600",
                            *[os.path.join(HERE, t) for t in tests]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, env=env, cwd=TOP)
        passed = r.returncode == 0
        if not passed:
            print(r.stdout.decode(errors="replace")[-8000:])
        for i in (0, 1):
            r = subprocess.run(["strace", "-f", "-qq", "-e", "signal=none", "-s", "0", "-o", "%s/selfsign.%d" % (d, i),
                                os.path.join(TOP, "wssd-selfsign"), "--key", d + "/key", "--cert", d + "/cert", "--renew",
                                "30", "--exit-code", "localhost"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            passed &= r.returncode == (3 if i else 0)
        text = []
        for f in sorted(os.listdir(d)):
            if f.startswith(("wssd.", "selfsign.")):
                with open(os.path.join(d, f), errors="replace") as g:
                    text.append(g.read())
        return "\n".join(text), passed


def main(args):
    with open(README) as f:
        rows = table(f.read())
    text, passed = trace(SHORT if "--short" in args else LONG + SHORT)
    calls, constants = read(text)
    if "--list" in args:
        for seen in (calls, constants):
            print(" ".join("%s %d" % (name, n) for name, n in seen.most_common()))
    bad = findings(rows, calls, constants)
    print("\n".join(bad), end="\n" if bad else "")
    print("%d system calls, %d of the table; %d constants; %d findings%s" % (
        len(calls), len(set(calls) & set(rows)), len(constants), len(bad), "" if passed else "; tests failed"))
    return 1 if bad or ("--short" in args and not passed) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
