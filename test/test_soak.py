"""soak.py sees what it must see: a message that is lost, one that comes twice, a server that stops for a moment, one that
leaks descriptors, one that grows, one that spins."""
import os
import re
import subprocess
import sys

import pytest

import conftest
import traffic
from wsraw import BINARY, SLOW, TEXT

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int
accept4(int fd, struct sockaddr *a, socklen_t *len, int flags)
{
	static int (*real)(int, struct sockaddr *, socklen_t *, int), n;
	static volatile char lost[64 << 20]; /* the filter lets it have no more, and these cost nothing yet */
	static size_t used;
	const char *fault = getenv("SHIM");

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "accept4");
	if (n++ % 10 == 0 && strcmp(fault, "leak") == 0)
		open("/dev/null", O_RDONLY);
	for (size_t end = used + 40000; strcmp(fault, "grow") == 0 && used < end && used < sizeof lost; used++)
		lost[used] = 1;
	return real(fd, a, len, flags);
}

int
poll(struct pollfd *p, nfds_t n, int timeout)
{
	static int (*real)(struct pollfd *, nfds_t, int);

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "poll");
	return real(p, n, strcmp(getenv("SHIM"), "spin") == 0 ? 0 : timeout);
}
"""
SEEN = {                        # what it says then; that it says nothing without is seen by running it
    "drop": "every message once and in order",
    "twice": "every message once and in order",
    "stall": "it answers at all times: steady",
    "leak": "descriptors are as at the beginning whenever all is quiet",
    "grow": "resident memory at the end as after the first minute, within 512 KiB",
    "spin": "no CPU when all is quiet",
}
SAID = {"drop": "Wrong: (lost: |no message begins)", "twice": "Wrong: (twice or out of order: |no message begins)"}


def numbered(number, sender=7, payload=b"something", kind=b"b"):
    return traffic.message(kind[0], sender, number, payload)


def test_an_inbox_takes_what_is_right():
    inbox = traffic.Inbox(own=1)
    for n in range(1, 20):
        assert inbox.take(numbered(n), BINARY)
        assert inbox.take(numbered(n, 8, "größer".encode(), b"t"), TEXT)
    assert not inbox.take(b"noise")
    assert inbox.count == 38 and inbox.last == {7: 19, 8: 19}
    inbox.first = {9: 5}
    assert inbox.take(numbered(4, 9))


@pytest.mark.parametrize("data, opcode, why", [
    (numbered(2), BINARY, "twice"), (numbered(1), BINARY, "twice"), (numbered(4), BINARY, "lost: message 3 "),
    (numbered(3)[:-1], BINARY, "damaged"), (numbered(3) + b"x", BINARY, "damaged"), (numbered(3), TEXT, "damaged"),
    (numbered(3).replace(b"some", b"same"), BINARY, "damaged"), (numbered(3).replace(b"03 ", b"04 "), BINARY, "damaged"),
    (numbered(1, 1), BINARY, "came back"), (numbered(2, 9), BINARY, "lost: the first"),
], ids=["twice", "again", "gap", "short", "long", "kind", "payload", "number", "own", "first"])
def test_an_inbox_sees_what_is_wrong(data, opcode, why):
    inbox = traffic.Inbox(own=1)
    for n in (1, 2):
        inbox.take(numbered(n), BINARY)
    with pytest.raises(traffic.Wrong, match=why):
        inbox.take(data, opcode)


@pytest.mark.parametrize("cut", [1, 7, 66, 67, 68, 1000])
def test_an_inbox_takes_a_stream(cut):
    inbox, data = traffic.Inbox(), b"".join(numbered(n, payload=bytes(n)) for n in range(1, 40))
    for i in range(0, len(data), cut):
        inbox.feed(data[i:i + cut])
    assert inbox.count == 39 and not inbox.buf
    with pytest.raises(traffic.Wrong, match="lost"):
        inbox.feed(numbered(41))
    with pytest.raises(traffic.Wrong, match="no message begins"):
        traffic.Inbox().feed(bytes(100))


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    """All at once: they wait more than they work."""
    place = tmp_path_factory.mktemp("soak")
    (place / "shim.c").write_text(SHIM)
    shim = str(place / "shim.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, str(place / "shim.c"), "-ldl"], check=True, timeout=60 * SLOW)
    running = {}
    try:
        for fault in SEEN:
            words = [sys.executable, os.path.join(conftest.TOP, "test", "soak.py"), "--seconds", "8"]
            words += ["--fault", fault] if fault in ("drop", "twice", "stall") else []
            words += ["--preload", shim] if fault in ("leak", "grow", "spin") else []
            running[fault] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                              stderr=subprocess.STDOUT, text=True, env=dict(os.environ, SHIM=fault))
        yield {fault: proc.communicate(timeout=300 * SLOW)[0] for fault, proc in running.items()}
    finally:
        for proc in running.values():
            proc.kill()
            proc.wait()


@pytest.mark.deep
@pytest.mark.plain
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", SEEN)
def test_soak_sees(soaked, fault):
    said = soaked[fault]
    failed = re.findall(r"^FAILED (.*?)(?: \(|$)", said, re.M)
    assert re.search(r"^\d+ passed, %d failed$" % len(failed), said, re.M), said
    assert SEEN[fault] in failed, said
    assert re.search(SAID.get(fault, ""), said), said
