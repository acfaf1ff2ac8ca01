"""Abuse: what a stranger can do to the server, and what it must not cost. During each attack a well-behaved client in a
process of its own is served, and afterwards memory and descriptors are back at the base line."""
import contextlib
import errno
import os
import random
import resource
import select
import socket
import ssl
import threading
import time

import pytest

import peers
import wsraw
from peers import SLOW, Backend, Probe, Watch, until
from wsraw import BINARY, CLOSE, CONT, PING, TEXT

MIB = 1 << 20
SEED = 5371


MEMORY = 768                    # KiB that may stay: a hub's ring, and the code that was not used before
SLOT = 5                        # KiB of each slot that stay, once it was used


@contextlib.contextmanager
def attack(server, worst=0.9, queued=8 * MIB, kernel=96 * MIB, slots=64):
    """What goes on inside may keep at most QUEUED bytes in the server's socket queues and KERNEL bytes more than before in
    the machine's TCP memory (that of other tests too); soon afterwards all is as it was."""
    with server.open() as c:
        c.send_frame(BINARY, bytes(50000), drain=True)
        c.expect_binary(bytes(50000))
    server.wait_counters(clients=0)
    base, before, descriptors = peers.memory(server), peers.socket_memory(), server.fds()
    with Watch(server) as watch, Probe(server) as probe:
        yield watch
        wsraw.close_all()
    probe.check(worst)
    assert watch.queued < queued, f"{watch.queued} bytes in the kernel's queues"
    assert watch.kernel - before < kernel
    server.wait_counters(10, clients=0, backends=0)
    until(lambda: server.fds() == descriptors, 5)
    until(lambda: sum(tx + rx for state, tx, rx in peers.queues(server.port) if state in (1, 8)) == 0)
    until(lambda: peers.socket_memory() - before < 32 * MIB, 10)
    until(lambda: peers.memory(server) - base < MEMORY + SLOT * slots, 5)


def dropped(clients, first, last, start):
    """All of these are ended by the server between FIRST and LAST seconds after START; if it is later than that already,
    because the machine is slow, then at once."""
    left = {c.sock: c for c in clients}
    last = max(last * SLOW, time.monotonic() - start + 2 * SLOW)
    while left:
        now = time.monotonic() - start
        assert now < last, f"{len(left)} of {len(clients)} still connected after {now:.1f} s"
        for sock in select.select(list(left), [], [], 0.1)[0]:
            try:
                while data := sock.recv(1 << 16):
                    pass
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            assert not data
            assert time.monotonic() - start > first, "dropped too early"
            del left[sock]


def hello(c):
    """The ClientHello that this client would send."""
    try:
        c.tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return c.out.read()


def trickle(clients, datas, start, seconds, pause=0.1):
    """One byte of each in turn until all are ended or SECONDS are over; bytes that nobody takes any more do not matter."""
    ended = set()
    for i in range(min(len(data) for data in datas)):
        if time.monotonic() - start > seconds * SLOW or len(ended) == len(clients):
            break
        for c, data in zip(clients, datas):
            if c not in ended:
                try:
                    c.wire(data[i:i + 1])
                except OSError:
                    ended.add(c)
        time.sleep(pause)


# ---------------------------------------------------------------------------------------------- slowloris


@pytest.mark.parametrize("phase", ["nothing", "hello", "handshake", "head", "second head"])
def test_slowloris(wssd, phase):
    """The deadline counts from accept and no byte puts it off."""
    s = wssd("--timeout", "1", "--ping", "30")
    count = 20
    with attack(s):
        start = time.monotonic()
        early = phase in ("nothing", "hello", "handshake")
        clients, datas = [], []
        for _ in range(count):
            clients.append(c := s.connect(handshake=not early))
            if phase == "second head":
                c.request("GET", "/")
            if phase == "handshake":
                c.wire(hello(c))
                c.inc.write(c.sock.recv(1 << 16) if select.select([c.sock], [], [], 5)[0] else b"")
                datas.append(hello(c) or bytes([22, 3, 3, 0, 70]) + bytes(70))
        if phase == "nothing":
            pass
        elif phase == "hello":
            trickle(clients, [hello(c) for c in clients], start, 3)
        elif phase == "handshake":
            trickle(clients, datas, start, 3)
        elif phase == "head":
            text = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"s" * 200
            for i in range(60):
                if time.monotonic() - start > 3 * SLOW:
                    break
                for c in clients:
                    c.try_send(text[i:i + 1])
                time.sleep(0.1)
        else:
            start = time.monotonic()
            for i in range(60):
                if time.monotonic() - start > 3 * SLOW:
                    break
                for c in clients:
                    c.try_send(b"GET /"[i:i + 1] or b"x")
                time.sleep(0.1)
        dropped(clients, 0 if phase == "second head" else 0.9, 4, start)


def test_half_frame_and_silence(wssd):
    """An open WebSocket whose client stops within a frame, or within its header, is a dead peer."""
    s = wssd("/hub=hub", "--timeout", "1", "--ping", "1")
    with attack(s):
        clients, start = [], time.monotonic()
        for i in range(20):
            c = s.open("/echo" if i % 2 else "/hub")
            whole = wsraw.frame(BINARY, bytes(60000))
            c.send(whole[:(1, 2, 3, 4, 5, 8, 9, 100, 20000, 50000)[i // 2]])
            clients.append(c)
        dropped(clients, 0.9, 7, start)


def test_half_frame_and_trickle(wssd):
    """One that sends its frame byte by byte keeps its own slot busy and nobody else's."""
    s = wssd("/hub=hub", "--timeout", "2", "--ping", "30")
    with attack(s):
        clients = [s.open("/echo" if i % 2 else "/hub") for i in range(20)]
        data = wsraw.frame(BINARY, bytes(1000))
        for i in range(100):
            for c in clients:
                c.try_send(data[i:i + 1])
            time.sleep(0.01)


# ---------------------------------------------------------------------------------------------- random bytes, resets


def reach(s, phase, tls, source=None):
    """A client in the wanted phase."""
    c = s.connect(tls=tls, source=source, handshake=phase not in ("connected", "hello"))
    if phase == "hello":
        if tls:
            c.wire(hello(c))
        else:
            c.wire(b"GET ")
    elif phase == "head":
        c.send(b"GET /echo HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    elif phase == "file":
        c.send(b"GET /big.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    elif phase == "kept":
        c.request("GET", "/")
    elif phase in ("echo", "hub", "stream"):
        c.open("/" + phase)
    elif phase == "frame":
        c.open("/echo").send(wsraw.frame(BINARY, b"half", length=100))
    elif phase == "fragment":
        c.open("/hub").send_frame(TEXT, "part", fin=False)
    elif phase == "close":
        c.open("/echo").send_frame(CLOSE, b"\x03\xe8")
    return c


PHASES = ["connected", "hello", "shaken", "head", "file", "kept", "echo", "hub", "stream", "frame", "fragment", "close"]


class Sink:
    """A backend that accepts, reads and forgets, or writes what nobody asked for; in a thread of its own."""

    def __init__(self):
        self.backend = Backend(backlog=256)
        self.over = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    route = property(lambda self: self.backend.route)

    def run(self):
        socks = []
        while not self.over:
            for sock in select.select([self.backend.sock] + socks, [], [], 0.1)[0]:
                if sock is self.backend.sock:
                    socks.append(sock.accept()[0])
                    socks[-1].setblocking(False)
                    with contextlib.suppress(OSError):
                        socks[-1].send(b"welcome")
                    continue
                try:
                    data = sock.recv(1 << 16)
                except OSError:
                    data = b""
                if not data:
                    socks.remove(sock)
                    sock.close()
        for sock in socks:
            sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join(5)
        self.backend.close()


@pytest.fixture
def victim(wssd, tmp_path):
    """A server with one of everything, on both kinds of listener."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "index.html").write_text("hello")
    (root / "big.bin").write_bytes(bytes(4 * MIB))
    with Sink() as sink:
        yield wssd("/hub=hub", "/stream=" + sink.route, "--timeout", "4", "--max-per-ip", "0", plain=True, root=root)


def garbage(rnd):
    """Random bytes, or random frames, or a request of random parts."""
    kind = rnd.randrange(4)
    if kind == 0:
        return rnd.randbytes(rnd.choice((1, 2, 7, 100, 5000, 40000)))
    if kind == 1:
        return b"".join(wsraw.frame(rnd.randrange(16), rnd.randbytes(rnd.choice((0, 1, 125, 126, 300))),
                                    fin=rnd.random() < 0.7, rsv=rnd.choice((0, 0, 0, 0, 1, 4)),
                                    mask=rnd.choice((rnd.randbytes(4),) * 9 + (None,)),
                                    form=rnd.choice((None, None, None, 16, 64)))
                        for _ in range(rnd.randrange(1, 30)))
    if kind == 2:
        words = [b"GET", b" ", b"/", b"HTTP/1.1", b"\r\n", b"\r", b"\n", b"Host:", b"Upgrade: websocket", b"%00", b"%2f",
                 b"..", b"Connection: Upgrade", b":", b"\x00", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"\xff",
                 b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13", b"a" * 3000, b"\r\n\r\n"]
        return b"".join(rnd.choice(words) for _ in range(rnd.randrange(1, 60)))
    return bytes([rnd.choice((20, 21, 22, 23, 24, 0)), 3, rnd.randrange(5)]) + rnd.randbytes(2) + rnd.randbytes(200)


MANY = [12, pytest.param(300, marks=[pytest.mark.deep, pytest.mark.timeout(900)])]


@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
@pytest.mark.parametrize("count", MANY)
def test_random_bytes_at_each_phase(victim, tls, count):
    rnd = random.Random(SEED + tls + count)
    with attack(victim):
        for phase in PHASES:
            for _ in range(count):
                c = reach(victim, phase, tls)
                for _ in range(rnd.randrange(1, 4)):
                    data = garbage(rnd)
                    try:
                        if tls and c.tls and (phase in ("connected", "hello") or rnd.random() < 0.3):
                            c.wire(data, timeout=1)
                        else:
                            c.send(data, timeout=1)
                    except (OSError, ssl.SSLError, wsraw.Silence):
                        break
                try:
                    while c.more(0.02):
                        c.buf.clear()
                except (wsraw.Silence, OSError, ssl.SSLError):
                    pass
                c.reset() if rnd.random() < 0.5 else c.close()
            with victim.open() as e:
                e.send_text(phase)
                e.expect_text(phase)


@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
def test_resets_at_each_phase(victim, tls):
    with attack(victim):
        for phase in PHASES:
            clients = []
            for i in range(16):
                c = reach(victim, phase, tls)
                clients.append(c)
                if i % 2:
                    c.reset()
            for c in clients[::2]:
                c.reset()
            victim.wait_counters(3, clients=lambda n: n <= 1, backends=0)


# ---------------------------------------------------------------------------------------------- readers that never read


def stuffing(server, c, block, limit=24 * MIB, quiet=0.3):
    """Writes BLOCK for ever, reading nothing, until nobody takes more: how many bytes went on the wire."""
    sent, last = 0, time.monotonic()
    rest = memoryview(b"")
    while time.monotonic() - last < quiet * SLOW and sent < limit:
        if not len(rest):
            rest = memoryview(c.encrypt(block) if c.tls else block)
        try:
            size = c.sock.send(rest)
        except BlockingIOError:
            select.select([], [c.sock], [], 0.02)
            continue
        except OSError as e:
            assert e.errno in (errno.ECONNRESET, errno.EPIPE)
            break
        rest = rest[size:]
        sent += size
        last = time.monotonic()
    return sent


@pytest.mark.parametrize("path, tls", [
    pytest.param(path, tls, id=path + ("-wss" if tls else "-ws"),
                 marks=[] if tls else [pytest.mark.deep])
    for path in ("/echo", "/hub", "/stream", "/file", "pings", "requests") for tls in (True, False)])
def test_reader_that_never_reads(wssd, tmp_path, path, tls):
    """Stopped at once, dropped at the deadline, with no more than its windows held for it."""
    (tmp_path / "big.bin").write_bytes(bytes(32 * MIB))
    with Backend() as backend, contextlib.ExitStack() as stack:
        s = wssd("/hub=hub", "/stream=" + backend.route, "--timeout", max(1, round(SLOW / 2)), root=tmp_path, tls=tls)
        stack.enter_context(attack(s, queued=8 * MIB))
        clients = []
        for _ in range(8):
            clients.append(c := s.connect(rcvbuf=8192, sndbuf=65536))
            if path in ("/file", "requests"):
                c.send(b"GET /big.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            else:
                c.open("/echo" if path == "pings" else path)
        if path == "/stream":
            for c in clients:
                peers.fill(backend.accept(), quiet=0.05)
        elif path == "/hub":
            with s.open("/hub") as publisher:
                for _ in range(200):
                    publisher.send_binary(bytes(60000))
                publisher.ping(b"done")
                publisher.expect_pong(b"done")
        elif path == "/echo":
            for c in clients:
                assert stuffing(s, c, wsraw.frame(BINARY, bytes(16000)), quiet=0.1) < 8 * MIB
        elif path == "pings":
            for c in clients:
                assert stuffing(s, c, wsraw.frame(PING, bytes(125)) * 100, quiet=0.1) < 8 * MIB
        elif path == "requests":
            for c in clients:
                assert stuffing(s, c, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100, quiet=0.1) < 8 * MIB
        else:
            time.sleep(0.2)
        for c in clients:
            held = peers.queue_of(c)
            assert held is None or held[0] < 128 << 10, f"{held[0]} bytes wait in the kernel for one client"
        s.wait_counters(8, clients=1, backends=0)


# ---------------------------------------------------------------------------------------------- crowds


@pytest.mark.parametrize("house", [64, pytest.param(1500, marks=pytest.mark.deep)])
def test_burst_of_connects(wssd, house):
    """Two thousand at once, of which not all can be held: each is accepted or closed, none is forgotten."""
    count = min(2000, peers.many_files(8192) - 200)
    s = wssd("--timeout", "2", "--max-clients", house)
    with attack(s, queued=4 * MIB, slots=house):
        socks = []
        try:
            for i in range(count):
                sock = socket.socket()
                sock.setblocking(False)
                sock.bind((f"127.0.1.{1 + i % 200}", 0))
                sock.connect_ex(("127.0.0.1", s.port))
                socks.append(sock)
            end = time.monotonic() + 30 * SLOW
            left = {sock.fileno(): sock for sock in socks}
            poll = select.poll()
            for fd in left:
                poll.register(fd, select.POLLIN)
            while left:
                assert time.monotonic() < end, f"{len(left)} of {count} neither served nor closed"
                for fd, _ in poll.poll(200):
                    poll.unregister(fd)
                    with contextlib.suppress(OSError):
                        assert left[fd].recv(1000) == b""
                    del left[fd]
        finally:
            for sock in socks:
                sock.close()
        c = s.counters()
        assert c["accepted"] + c["refused"] >= count, c
        with s.open() as e:
            e.send_text("after")
            e.expect_text("after")


def test_burst_of_resets(wssd):
    """Connections that are gone before they are accepted."""
    s = wssd("--timeout", "3")
    with attack(s):
        for i in range(1000):
            sock = socket.socket()
            sock.bind((f"127.0.1.{1 + i % 200}", 0))
            sock.settimeout(5)
            sock.connect(("127.0.0.1", s.port))
            peers.reset(sock)


def test_max_clients(wssd):
    """A full house: the next one is closed at once and counted; a place that becomes free is taken again."""
    s = wssd("--max-clients", "8", "--max-per-ip", "0", "--timeout", "20")
    clients = [s.open() for _ in range(8)]
    before = s.counters()
    assert before["clients"] == 8
    for _ in range(5):
        sock = socket.create_connection(("127.0.0.1", s.port), 5)
        start = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
        assert time.monotonic() - start < 2 * SLOW
        sock.close()
    after = s.counters()
    assert after["refused"] - before["refused"] == 5
    assert after["clients"] == 8
    for n, c in enumerate(clients):
        c.send_text(f"{n}")
        c.expect_text(f"{n}")
    clients.pop().close()
    s.wait_counters(clients=7)
    with s.open() as c:
        c.send_text("a place")
        c.expect_text("a place")


def test_full_house_of_idlers_makes_room(wssd):
    """Connections without a request head older than two seconds give way to a newcomer; established ones never do."""
    s = wssd("--max-clients", "8", "--max-per-ip", "0", "--timeout", "30")
    working = [s.open() for _ in range(3)]
    idlers = [s.connect(handshake=i % 2 == 0) for i in range(5)]
    s.wait_counters(clients=8)
    sock = socket.create_connection(("127.0.0.1", s.port), 5)
    with contextlib.suppress(ConnectionResetError):
        assert sock.recv(100) == b"", "they are not two seconds old"
    sock.close()
    time.sleep(2.2)
    new = []
    for n in range(5):
        c = s.open()
        c.send_text("in")
        c.expect_text("in")
        new.append(c)
        assert s.counters()["clients"] == 8
    for c in idlers:
        with contextlib.suppress(wsraw.Ended):
            c.recv_all(timeout=1)
        assert c.ended
    for c in working + new:
        c.send_text("still")
        c.expect_text("still")


def test_max_per_ip(wssd):
    """One address holds half of the slots at most; others find room."""
    s = wssd("--max-clients", "10", "--timeout", "20")
    mine = [s.open() for _ in range(5)]
    with socket.create_connection(("127.0.0.1", s.port), 5) as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(100) == b""
    with s.open(source="127.0.0.9") as c:
        c.send_text("from elsewhere")
        c.expect_text("from elsewhere")
    mine.pop().close()
    s.wait_counters(clients=lambda n: n <= 4)
    with s.open() as c:
        c.send_text("again")
        c.expect_text("again")


def test_descriptors_run_out(wssd):
    """With ulimit -n 32 accepting pauses, without a spin, and goes on when there are descriptors again."""
    s = wssd("--timeout", "20", "--max-per-ip", "0",
             preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)))
    held = [s.connect(handshake=False) for _ in range(40)]
    served = []
    for c in held:
        try:
            c.timeout = 0.3 * SLOW
            c.handshake()
            c.timeout = 5 * SLOW
            served.append(c.open())
        except (wsraw.Silence, wsraw.Ended, OSError, ssl.SSLError):
            break
    assert 10 <= len(served) < 32
    time.sleep(0.5)
    assert peers.cpu_share(s.pid, 1) < 0.05 * SLOW, "it spins"
    for n, c in enumerate(served):
        c.send_text(f"served {n}")
        c.expect_text(f"served {n}")
    for c in held[len(served):]:
        c.close()
    for c in served[:8]:
        c.close()
    with s.connect(timeout=10) as c:
        c.open()
        c.send_text("again")
        c.expect_text("again")


def test_backend_finds_no_descriptor(wssd):
    """The same where a backend's or a file's descriptor is the one that is missing: an error reply, nothing worse."""
    with Sink() as sink:
        s = wssd("/stream=" + sink.route, "--timeout", "20", "--max-per-ip", "0",
                 preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)))
        opened = refused = 0
        for _ in range(30):
            try:
                c = s.connect(timeout=1)
                c.send(wsraw.upgrade_head("/stream", c.host))
                r = c.reply()
            except (wsraw.Silence, wsraw.Ended, OSError, ssl.SSLError):
                break
            assert r.status in (101, 502, 503), r
            opened += r.status == 101
            refused += r.status != 101
        assert opened >= 5 and opened + refused < 30
        assert peers.cpu_share(s.pid, 1) < 0.05 * SLOW, "it spins"


# ---------------------------------------------------------------------------------------------- sizes and counts


@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
def test_message_of_4_gib_announced(victim, tls):
    """Echo and streams begin at once and hold nothing; a hub says 1009 before anything is there."""
    with attack(victim) as watch:
        before = peers.memory(victim)
        for size in (1 << 32, (1 << 63) - 1):
            with victim.open("/echo", tls=tls) as c:
                data = os.urandom(MIB)
                c.send(wsraw.frame(BINARY, data, length=size), drain=True)
                got = b""
                while len(got) < MIB - 125:
                    f = peers.piece(c)
                    assert not f.fin
                    got += f.payload
                assert data.startswith(got)
                assert peers.memory(victim) - before < 256
                c.reset()
            with victim.open("/hub", tls=tls) as c:
                c.send(wsraw.frame(BINARY, b"some", length=size))
                c.expect_close(1009)
            with victim.open("/stream", tls=tls) as c:
                c.send(wsraw.frame(BINARY, bytes(MIB), length=size))
                assert c.recv_message() == (BINARY, b"welcome")
                c.shutdown_write()
        assert watch.rss - before < 512


@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
@pytest.mark.parametrize("path", ["/echo", "/hub", "/stream"])
def test_100000_empty_fragments(victim, tls, path):
    """A message of a hundred thousand pieces of nothing."""
    count = 100000
    with attack(victim), victim.open(path, tls=tls) as c:
        other = victim.open("/hub", tls=tls) if path == "/hub" else None
        block = wsraw.frame(CONT, b"", fin=False) * 1000
        data = wsraw.frame(TEXT, b"", fin=False) + block * (count // 1000 - 1) + \
            wsraw.frame(CONT, b"", fin=False) * 998 + wsraw.frame(CONT, b"", fin=True) + wsraw.frame(PING, b"done")
        w = peers.Writer(c, [data[i:i + 30000] for i in range(0, len(data), 30000)])
        parser = peers.Frames(lambda *_: None)
        end = time.monotonic() + 40 * SLOW
        while (wsraw.PONG, b"done") not in parser.control:
            assert time.monotonic() < end and c.more(), c.ended
            parser.feed(bytes(c.buf))
            c.buf.clear()
        w.finish()
        if path == "/echo":
            assert parser.messages == 1 and parser.bytes == 0 and parser.message is None
        elif path == "/hub":
            assert other.recv_message() == (TEXT, b"")
            other.quiet(0.05)
        c.close_handshake()


def test_ping_flood(victim):
    """Fifty thousand pings from a client that reads: each is answered or superseded by a later one (5.5.3)."""
    with attack(victim), victim.open() as c:
        count = 50000
        w = peers.Writer(c, [b"".join(wsraw.frame(PING, b"%06d" % i) for i in range(j, j + 500))
                             for j in range(0, count, 500)])
        parser = peers.Frames(lambda *_: None)
        end = time.monotonic() + 40 * SLOW
        while not parser.control or parser.control[-1] != (wsraw.PONG, b"%06d" % (count - 1)):
            assert time.monotonic() < end and c.more(), c.ended
            parser.feed(bytes(c.buf))
            c.buf.clear()
        w.finish()
        numbers = [int(data) for opcode, data in parser.control if opcode == wsraw.PONG]
        assert numbers == sorted(set(numbers))


def test_tiny_messages_flood_a_hub(victim):
    """A publisher of many small messages and subscribers that read, one that does not: the first are served in order."""
    with attack(victim):
        subs = [victim.open("/hub") for _ in range(3)]
        victim.open("/hub", rcvbuf=4096)
        with victim.open("/hub") as publisher:
            for n in range(0, 6000, 100):
                publisher.send(b"".join(wsraw.frame(TEXT, b"%05d" % i) for i in range(n, n + 100)))
                for c in subs:
                    assert c.recv(700) == b"".join(b"\x81\x05%05d" % i for i in range(n, n + 100))


def test_handshake_flood(wssd):
    """Clients that stop after the ClientHello: each costs a signature, none before the established clients, and all are
    gone at the deadline."""
    s = wssd("--timeout", "1", "--max-clients", "64", "--max-per-ip", "0")
    with attack(s):
        clients = []
        for i in range(300):
            c = s.connect(handshake=False)
            clients.append(c)
            try:
                c.wire(hello(c))
            except OSError:
                pass
        until(lambda: s.counters()["clients"] <= 1, 20 * SLOW)


def test_handshake_flood_of_garbage(wssd):
    """A ClientKeyExchange that is wrong costs one product and the connection."""
    s = wssd("--timeout", "3")
    with attack(s):
        for i in range(100):
            c = s.connect(handshake=False)
            c.wire(hello(c))
            if not select.select([c.sock], [], [], 5)[0]:
                raise AssertionError("no ServerHello")
            c.sock.recv(1 << 16)
            with contextlib.suppress(OSError):
                key = bytes([i % 256]) * 32
                c.wire(b"\x16\x03\x03\x00\x25\x10\x00\x00\x21\x20" + key + b"\x14\x03\x03\x00\x01\x01" +
                       b"\x16\x03\x03\x00\x28" + os.urandom(40))
            with contextlib.suppress(wsraw.Ended, ssl.SSLError):
                c.recv_all(timeout=5)
            c.close()


@pytest.mark.parametrize("count", [400, pytest.param(10000, marks=[pytest.mark.deep, pytest.mark.timeout(900)])])
def test_churn(wssd, count):
    """Many short connections of all kinds leave nothing behind."""
    rnd = random.Random(SEED)
    s = wssd("/hub=hub", "--timeout", "5")
    with attack(s):
        for _ in range(count):
            with s.connect() as c:
                kind = rnd.randrange(4)
                if kind == 0:
                    c.request("GET", "/nothing")
                elif kind == 1:
                    c.open("/hub").send_text("short")
                elif kind == 2:
                    c.open().send_binary(bytes(rnd.randrange(20000)))
                else:
                    c.open().close_handshake()
