"""The benchmark's clients notice what a server does wrong, and count and measure what it did; the floors echo.

A benchmark whose clients believe what they are told would rank a broken server first. Against small servers of which each
breaks one thing, and one that burns a known amount of CPU time in a child process.
"""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading

import pytest

import test_newcomer
import wsraw

pytestmark = pytest.mark.xdist_group("bench")  # one of the workers builds
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BENCH = os.path.join(TOP, "build", "bench")
SLOW = wsraw.SLOW


@pytest.fixture(scope="module", autouse=True)
def built():
    test_newcomer.run("make", "-s", "build/bench/load", "build/bench/floor", cwd=TOP)


def load(*args, patience=10):
    r = subprocess.run([os.path.join(BENCH, "load")] + [str(a) for a in args] + ["--patience", str(patience * SLOW)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60 * SLOW)
    return r.returncode, r.stdout.decode(), r.stderr.decode()


def result(*args):
    status, out, err = load(*args)
    assert (status, err) == (0, ""), err
    return json.loads(out)


def complaint(*args, patience=10):
    status, out, err = load(*args, patience=patience)
    assert (status, out) == (1, ""), out
    return err


# ---------------------------------------------------------------------------------------------- servers, honest and other


class Wire:
    """The server's side of a connection: plain TCP."""

    def __init__(self, s):
        self.s, self.file = s, s.makefile("rb")

    def head(self):
        lines = []
        while not lines or lines[-1] != b"\r\n":
            lines.append(self.file.readline())
            if not lines[-1]:
                raise EOFError
        return lines

    def upgrade(self, accept=None):
        self.head()
        self.s.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Accept: " + (accept or wsraw.accept_key(wsraw.KEY).encode()) + b"\r\n\r\n")

    def exactly(self, n):
        data = self.file.read(n)
        if len(data) < n:
            raise EOFError
        return data

    def frame(self):
        """(opcode, payload, masking key) of a client's frame."""
        first, second = self.exactly(2)
        assert first & 0x70 == 0 and second & 0x80, "not a client's frame"
        n = second & 127
        if n > 125:
            n = struct.unpack("!H" if n == 126 else "!Q", self.exactly(2 if n == 126 else 8))[0]
        key = self.exactly(4)
        data = self.exactly(n)
        return first & 15, bytes(b ^ key[i % 4] for i, b in enumerate(data)), key


def frame(payload, opcode=2, fin=1):
    n = len(payload)
    length = bytes([n]) if n < 126 else b"\x7e" + struct.pack("!H", n) if n < 65536 else b"\x7f" + struct.pack("!Q", n)
    return bytes([fin << 7 | opcode]) + length + payload


@contextlib.contextmanager
def served(serve):
    """A server on loopback that gives each client a thread of serve(Wire); yields the options that lead there."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    threads, sockets = [], []

    def one(s):
        with contextlib.suppress(OSError, EOFError):
            serve(Wire(s))

    def accept():
        with contextlib.suppress(OSError):
            while True:
                s, _ = listener.accept()
                sockets.append(s)
                threads.append(threading.Thread(target=one, args=(s,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield ["--port", listener.getsockname()[1], "--plain"]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(10)
        for s in sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
        for t in threads:
            t.join(10)
        for s in sockets:
            s.close()


def echo(answer=lambda n, messages: [frame(messages[n])], seen=None):
    """An echo that answers message n with the frames that answer(n, all messages so far) names."""
    def serve(wire):
        wire.upgrade()
        messages = []
        while True:
            opcode, payload, key = wire.frame()
            if opcode == 8:
                wire.s.sendall(frame(payload, 8))
                return
            if opcode == 10:
                if seen is not None:
                    seen.append(("pong", payload))
                continue
            messages.append(payload)
            if seen is not None:
                seen.append((payload, key))
            wire.s.sendall(b"".join(answer(len(messages) - 1, messages)))
    return serve


def changed(data, i):
    return data[:i] + bytes([data[i] ^ 1]) + data[i + 1:]


def at(n, other):
    """Honest but for message n."""
    return lambda i, messages: other(messages) if i == n else [frame(messages[i])]


def pairs(i, messages):
    """Two messages at a time, the fourth pair swapped."""
    both = [frame(m) for m in messages[i - 1:i + 1]]
    return [] if i % 2 == 0 else both[::-1] if i == 7 else both


FAULTS = {
    "last-byte": (at(5, lambda m: [frame(changed(m[-1], 63))]), r"byte 63 of message 5 is .. instead of"),
    "first-byte": (at(5, lambda m: [frame(changed(m[-1], 0))]), r"byte 0 of message 5 is .. instead of"),
    "twice": (at(5, lambda m: [frame(m[-1]), frame(m[-1])]), r"64 bytes too many behind message 6|message 5 came where message 6"),
    "earlier-one": (at(5, lambda m: [frame(m[-3])]), r"message 3 came where message 5 was due"),
    "swapped": (pairs, r"message 7 came where message 6 was due"),
    "short": (at(5, lambda m: [frame(m[-1][:-1])]), r"message 5 has 63 bytes"),
    "long": (at(5, lambda m: [frame(m[-1] + b"x")]), r"message 5 is too long"),
    "text": (at(5, lambda m: [frame(m[-1], 1)]), r"message 5: a frame which is of a wrong type \(81 40\)"),
    "masked": (at(5, lambda m: [b"\x82\xc0\0\0\0\0" + m[-1]]), r"message 5: a frame which is reserved or masked \(82 c0\)"),
    "compressed": (at(5, lambda m: [b"\xc2\x40" + m[-1]]), r"message 5: a frame which is reserved or masked \(c2 40\)"),
    "no-continuation": (at(5, lambda m: [frame(m[-1][:9], fin=0), frame(m[-1][9:])]), r"message 5: a frame which is of a wrong"),
    "close": (at(5, lambda m: [frame(struct.pack("!H", 1011), 8)]), r"closed by the server with 1011, message 5 was due"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_server_is_found(name):
    answer, sentence = FAULTS[name]
    inflight = 2 if answer is pairs else 1
    with served(echo(answer)) as where:
        assert re.search(sentence, complaint("echo", *where, "--inflight", inflight, "--messages", 20, "--warm", 0))
        warm = complaint("echo", *where, "--inflight", inflight, "--messages", 20, "--warm", 20)  # nor is it let pass there
        assert re.search(sentence, warm)


def test_a_lost_message_is_found():
    with served(echo(at(5, lambda m: []))) as where:
        assert re.search(r"nothing came for \S+ s: 0 connections, 3 messages", complaint(
            "echo", *where, "--conns", 3, "--messages", 60, "--warm", 0, patience=1.5))


def test_ends_and_answers_that_are_not_expected():
    def leave(wire):
        wire.upgrade()
        wire.frame()
        wire.s.shutdown(socket.SHUT_WR)
        wire.file.read()

    def wrong_accept(wire):
        wire.upgrade(b"AAAAAAAAAAAAAAAAAAAAAAAAAAA=")

    def refusal(wire):
        wire.head()
        wire.s.sendall(b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n")

    def no_close(wire):
        wire.upgrade()
        wire.frame()
        wire.s.shutdown(socket.SHUT_WR)

    for mode, serve, sentence in [("echo", leave, "the server ended the connection, message 0 was due"),
                                  ("echo", wrong_accept, "wrong Sec-WebSocket-Accept: HTTP/1.1 101"),
                                  ("echo", refusal, "no upgrade: HTTP/1.1 503 Later"),
                                  ("handshake", no_close, "the server ended the connection")]:
        with served(serve) as where:
            assert sentence in complaint(mode, *where, "--messages", 3)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        assert "cannot connect: Connection refused" in complaint("echo", "--plain", "--port", s.getsockname()[1])


def test_what_is_sent_and_counted():
    """Each size of header, fragments and pings in between; every payload and key is another, and the sum is right."""
    for size in (0, 1, 125, 126, 65535, 65536):
        seen = []

        def answer(n, messages):
            m = messages[n]
            return [frame(m[:7], fin=0), frame(b"ping", 9), frame(m[7:], 0)] if n % 3 == 0 else [frame(m)]

        with served(echo(answer, seen)) as where:
            got = result("echo", *where, "--size", size, "--conns", 2, "--messages", 9, "--warm", 3, "--inflight", 2)
        pongs = [s for s in seen if s[0] == "pong"]
        sent = [s for s in seen if s[0] != "pong"]
        assert (got["messages"], got["bytes"], got["size"]) == (9, 9 * size, size)
        assert len(sent) == 12 and all(len(p) == size for p, _ in sent) and len({k for _, k in sent}) == 12
        assert len(pongs) in range(3, 6) and {p for _, p in pongs} == {b"ping"}
        assert size < 125 or len({p for p, _ in sent}) == 12
        assert 0 < got["p50_us"] <= got["p99_us"] <= got["max_us"]
        assert round(got["max_us"] / 1e6, 3) <= got["seconds"]  # which is printed in milliseconds


def test_a_batch_is_one_write():
    """Frames in flight go out together, and the next ones when all are back."""
    parts = []

    def serve(wire):
        wire.upgrade()
        while True:
            parts.append(wire.s.recv(65536))
            clear = b"".join(frame(bytes(b ^ parts[-1][i + 2 + j % 4] for j, b in enumerate(parts[-1][i + 6:i + 70])))
                             for i in range(0, len(parts[-1]), 70))
            wire.s.sendall(clear)

    with served(serve) as where:
        assert result("echo", *where, "--inflight", 16, "--messages", 64, "--warm", 0)["messages"] == 64
    assert [len(p) for p in parts if p] == [16 * 70] * 4


def test_frames_apart_follow_one_by_one():
    """As many as are to be in flight, then one more for each that is back."""
    def serve(wire):
        wire.upgrade()
        window = [wire.frame()[1] for _ in range(16)]
        for n in range(64):
            wire.s.sendall(frame(window[n]))
            if n < 48:
                window.append(wire.frame()[1])

    with served(serve) as where:
        assert result("echo", *where, "--inflight", 16, "--apart", "--messages", 64, "--warm", 0)["messages"] == 64


@pytest.mark.parametrize("fault", [None, "lost", "wrong", "own"])
def test_broadcast(fault):
    members, lock = [], threading.Lock()

    def serve(wire):
        wire.upgrade()
        with lock:
            members.append(wire)
        for n in range(10**6):
            _, payload, _ = wire.frame()
            others = [m for m in members if m is not wire]
            for m in members if fault == "own" else others:
                bad = fault if n == 4 and m is others[1] else None
                if bad != "lost":
                    m.s.sendall(frame(changed(payload, 3) if bad == "wrong" else payload))

    with served(serve) as where:
        args = ["broadcast", *where, "--conns", 3, "--messages", 9, "--burst", 3, "--warm", 3]
        if fault == "lost":
            assert "message 5 came where message 4 was due" in complaint(*args)
        elif fault == "wrong":
            assert "byte 3 of message 4" in complaint(*args)
        elif fault == "own":
            assert "bytes too many" in complaint(*args)
            members.clear()
            assert result(*args, "--own")["messages"] == 4 * 9
        else:
            got = result(*args)
            assert (got["messages"], got["published"], got["bytes"]) == (27, 9, 27 * 64)


def test_get(tmp_path):
    body = os.urandom(100000)
    (tmp_path / "file").write_bytes(body)
    answers = {"/right": body, "/wrong": changed(body, 77777), "/short": body[:-1]}
    asked = []

    def serve(wire):
        while True:
            path = wire.head()[0].split()[1].decode()
            asked.append(path)
            data = answers.get(path)
            wire.s.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n" if data is None else
                           b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data) + data)

    with served(serve) as where:
        args = ["get", *where, "--file", tmp_path / "file", "--messages", 5, "--warm", 2, "--conns", 2, "--path"]
        got = result(*args, "/right")
        assert (got["messages"], got["bytes"], asked) == (5, 500000, ["/right"] * 7)
        assert "the body is wrong between byte" in complaint(*args, "/wrong")
        assert "another Content-Length" in complaint(*args, "/short")
        assert "not 200 with Content-Length: HTTP/1.1 404 No" in complaint(*args, "/missing")


# ---------------------------------------------------------------------------------------------- what is measured


# A child of the server's echoes, spends 3 ms of CPU time on each message in a thread of its own, sleeps for 3 more, and
# takes 32 MiB when its second client comes.
BURNS = """
import os, socket, threading, time
s = socket.create_server(("127.0.0.1", 0))
print("port", s.getsockname()[1], flush=True)
taken = []
def burn(c):
    while data := c.recv(65536):
        end = time.thread_time() + 0.003
        while time.thread_time() < end:
            pass
        time.sleep(0.003)
        c.sendall(data)
if os.fork():
    os.wait()
else:
    for i in range(2):
        c, _ = s.accept()
        if i:
            taken.append(b"x" * (32 << 20))
        threading.Thread(target=burn, args=(c,)).start()
    time.sleep(60)
"""


def test_cpu_time_and_memory_of_all_threads_and_children():
    with subprocess.Popen([sys.executable, "-c", BURNS], stdout=subprocess.PIPE, start_new_session=True) as server:
        try:
            port = int(server.stdout.readline().split()[1])
            got = result("echo", "--plain", "--raw", "--port", port, "--pid", server.pid, "--messages", 40, "--warm", 10,
                         "--idle", 1, "--settle", 0.1)
        finally:
            os.killpg(server.pid, 9)
    assert 120e6 <= got["cpu_ns"] < 180e6, got  # neither the warm-up nor the sleep counts
    assert got["cpu_ns_each"] == pytest.approx(got["cpu_ns"] / 40, abs=0.001)
    assert 32 << 20 <= got["rss_end"] - got["rss_start"] < 40 << 20, got
    assert got["rss_idle"] - got["rss_start"] < 8 << 20 and got["seconds"] >= 0.24, got


# ---------------------------------------------------------------------------------------------- the floors, and wssd


@contextlib.contextmanager
def floor(*args):
    with subprocess.Popen([os.path.join(BENCH, "floor")] + [str(a) for a in args], stdin=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as p:
        try:
            line = p.stderr.readline().decode()
            yield ["--raw", "--pid", p.pid, "--port", re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line).group(1)]
        finally:
            p.terminate()


def test_floors(certs):
    for kind, options in (("tcp", ["--plain"]), ("bear", [])):
        with floor(kind, *([] if options else ["--cert", certs.cert, "--key", certs.key]), "--max", 20) as where:
            for size, inflight in ((1, 1), (64, 16), (16384, 1), (300000, 2)):
                got = result("echo", *where, *options, "--size", size, "--conns", 4, "--inflight", inflight, "--messages", 40)
                assert got["messages"] == 40 and got["cpu_ns"] > 0
                got = result("echo", *where, *options, "--size", size, "--inflight", inflight, "--apart", "--messages", 40)
                assert got["messages"] == 40
            assert result("echo", *where, *options, "--pad", "--size", 200, "--messages", 3)["size"] == 208
            for more in ([], ["--bare"], ["--resume"], ["--resume", "--bare"], ["--with-echo", 3, "--before", 0.1]):
                if options and "--resume" in more:
                    continue
                got = result("handshake", *where, *options, *more, "--conns", 5, "--messages", 20)
                assert (got["messages"], got["resumed"]) == (20, 20 if "--resume" in more else 0), got
            assert result("echo", *where, *options, "--conns", 20, "--messages", 20)["messages"] == 20


def test_load_and_wssd(wssd, tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(100000))
    s = wssd("/chat=hub", "--max-clients", 40, "--max-per-ip", 0, root=tmp_path)
    where = ["--port", s.port, "--pid", s.pid]
    for mode, more, messages in (("echo", ["--conns", 10, "--idle", 20, "--settle", 0.1], 30), ("stream", ["--size", 100000], 5),
                                 ("broadcast", ["--conns", 5, "--path", "/chat", "--burst", 4], 40),
                                 ("get", ["--file", tmp_path / "file", "--path", "/file", "--conns", 2], 10),
                                 ("handshake", ["--conns", 3], 9), ("handshake", ["--conns", 3, "--resume"], 9),
                                 ("burst", ["--idle", 10, "--size", 16384, "--settle", 0.1], 10),
                                 ("wake", ["--idle", 10, "--settle", 0.1], 10)):
        got = result(mode, *where, *more, "--messages", messages // 5 if mode == "broadcast" else messages)
        assert got["messages"] == messages and got["cpu_ns"] > 0 and got["rss_start"] > 0, (mode, got)
