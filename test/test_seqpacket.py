"""seqpacket: a whole message is one packet of a Unix SOCK_SEQPACKET socket, in both directions: boundaries, order, limits,
text, ends of either side, backpressure, rest and waking."""
import errno
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import peers
import wsraw
from peers import SLOW, WAIT
from wsraw import BINARY, CLOSE, CONT, PING, PONG, TEXT

pytestmark = pytest.mark.native  # qemu-user does not know SO_PEEK_OFF, with which a packet's length is asked

rnd = random.Random(21)
SIZES = (1, 2, 124, 125, 126, 127, 1000, 16379, 16380, 16381, 16383, 16384, 16385, 32768, 65535, 65536)


class Bus(peers.Backend):
    """A listening SOCK_SEQPACKET socket; the test scripts what it accepts."""

    def __init__(self, path, backlog=64):
        self.path, self.port, self.held = str(path), None, []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.bind(self.path)
        self.sock.listen(backlog)

    route = property(lambda self: "seqpacket:" + self.path)

    def release(self):
        while self.held:
            self.held.pop().close()


LONGEST = 500000  # of a packet; with 32 bits malloc would make a mapping for a buffer of 512 KiB, and there are 65,530 of them


def packet(b):
    """The next packet, which must not be the end."""
    data = b.recv(LONGEST)
    assert data, "the end instead of a packet"
    return data


def packets_to_end(b):
    """All packets, and how they end: eof or reset."""
    got = []
    while True:
        try:
            data = b.recv(1 << 20)
        except ConnectionResetError:
            return got, "reset"
        if not data:
            return got, "eof"
        got.append(data)


def nothing(b, seconds=0.05):
    assert not select.select([b], [], [], seconds)[0], "the backend got something: %r" % b.recv(1 << 20)[:80]


def messages_to_close(c, answer=True, pause=0.0):
    """All messages up to the Close frame, and its code; answers it and wants a clean end."""
    got = []
    while True:
        opcode, data = c.recv_message(skip_control=True)
        if opcode == CLOSE:
            break
        got.append((opcode, data))
        if pause:
            time.sleep(pause)
    code = int.from_bytes(data[:2], "big") if data else None
    if answer:
        c.try_send(wsraw.frame(CLOSE, data[:2]))
    c.expect_eof()
    return got, code


def refuse_rest(b):
    """The backend sees an end, clean or not, after at most what came before."""
    return packets_to_end(b)[1] in ("eof", "reset")


def part(c, b):
    """The client closes, and the backend, which has nothing to add, too."""
    c.send_frame(CLOSE, b"\x03\xe8")
    assert packets_to_end(b) == ([], "eof")
    b.close()
    assert messages_to_close(c, answer=False) == ([], 1000)


class Flood(threading.Thread):
    """The backend's side: sends packets one after the other, waiting where it must."""

    def __init__(self, sock, packets, then=None):
        super().__init__(daemon=True)
        self.sock, self.packets, self.then, self.error, self.sent = sock, packets, then, None, 0
        self.sock.settimeout(6 * WAIT)
        self.start()

    def run(self):
        try:
            for data in self.packets:
                self.sock.send(data)
                self.sent += 1
            if self.then:
                self.then()
        except OSError as e:
            self.error = e

    def finish(self):
        self.join(6 * WAIT)
        assert not self.is_alive() and self.error is None, (self.sent, self.error)


class Take(threading.Thread):
    """The backend's side: reads COUNT packets."""

    def __init__(self, sock, count):
        super().__init__(daemon=True)
        self.sock, self.count, self.got = sock, count, []
        self.start()

    def run(self):
        while len(self.got) < self.count and (data := self.sock.recv(LONGEST)):
            self.got.append(data)

    def all(self):
        self.join(3 * WAIT)
        return self.got


@pytest.fixture(scope="module")
def house(wssd_module, tmp_path_factory):
    """One server and one listening backend for most tests here."""
    with Bus(tmp_path_factory.mktemp("bus") / "s") as bus:
        server = wssd_module("/bus=" + bus.route, "/text=" + bus.route + ",text", "--max-per-ip", "0", plain=True)
        server.bus = bus
        yield server
        bus.release()


@pytest.fixture(params=["wss", "ws"])
def tls(request):
    return request.param == "wss"


@pytest.fixture
def door(house, tls):
    """Opens a client: (client, the backend's side)."""
    clients = []

    def make(path="/bus", **kw):
        clients.append(house.open(path, tls=tls, **kw))
        return clients[-1], house.bus.accept()

    def logged(regex):
        """The line of a connection comes when the client is gone as well."""
        for c in clients:
            c.close()
        house.wait_log(regex)

    make.server, make.tls, make.logged = house, tls, logged
    yield make
    house.bus.release()


@pytest.fixture
def bus(tmp_path):
    with Bus(tmp_path / "s") as b:
        yield b


# ---------------------------------------------------------------------------------------------- a message is a packet


@pytest.mark.parametrize("path, opcode", [("/bus", BINARY), ("/text", TEXT)])
def test_sizes_in_both_directions(door, path, opcode):
    c, b = door(path)
    for size in SIZES:
        data = bytes(0x20 + x % 0x5f for x in rnd.randbytes(size)) if opcode == TEXT else rnd.randbytes(size)
        c.send_frame(opcode, data)
        assert packet(b) == data, size
        b.send(data)
        assert c.recv_message() == (opcode, data), size
    part(c, b)


def test_the_kind_of_a_message_is_the_routes(door):
    """Either kind of message becomes a packet; `text` says what a packet becomes."""
    for path, opcode in (("/bus", BINARY), ("/text", TEXT)):
        c, b = door(path)
        c.send_text("grüße €")
        assert packet(b) == "grüße €".encode()
        c.send_binary(b"\0\xff\xc0")
        assert packet(b) == b"\0\xff\xc0"
        b.send("schöne Grüße €\0".encode())
        assert c.recv_message() == (opcode, "schöne Grüße €\0".encode())
        part(c, b)


def test_many_in_one_write(door):
    """Messages of one record are packets of their own, packets that wait together are messages of their own."""
    c, b = door()
    up = [rnd.randbytes(rnd.choice((1, 2, 125, 126, 600, 3000))) for _ in range(300)]
    t = Take(b, len(up))
    c.send(b"".join(wsraw.frame(BINARY, data) for data in up))
    assert t.all() == up
    down = [rnd.randbytes(rnd.choice((1, 2, 125, 126, 600, 3000))) for _ in range(300)]
    f = Flood(b, down)
    for i, data in enumerate(down):
        assert c.recv_message() == (BINARY, data), i
    f.finish()
    part(c, b)


def test_first_messages_come_with_the_request(door):
    data = [rnd.randbytes(n) for n in (5, 4000, 300)]
    with door.server.connect(door.tls) as c:
        c.open("/bus", then=b"".join(wsraw.frame(BINARY, d) for d in data))
        b = door.server.bus.accept()
        assert [packet(b) for _ in data] == data
        part(c, b)


def test_after_other_requests_on_the_connection(wssd, bus, tls, tmp_path):
    """Nothing of a page that went before over the same connection, sent or not, shows up."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "page.html").write_bytes(b"a page " * 10000)
    s = wssd("/bus=" + bus.route, root=root, tls=tls)
    for requests in (["HEAD"], ["GET", "HEAD"], ["HEAD", "304"], ["404", "HEAD"]):
        with s.connect() as c:
            for r in requests:
                name = "/none" if r == "404" else "/page.html"
                tag = c.request("HEAD", name).get("ETag") if r == "304" else None
                extra = [("If-None-Match", tag)] if tag else []
                c.request("HEAD" if r == "HEAD" else "GET", name, extra=extra)
            c.open("/bus")
            b = bus.accept()
            c.quiet(0.02)
            b.send(b"first")
            c.expect_binary(b"first")
            c.send_binary(b"second")
            assert packet(b) == b"second"
            part(c, b)


def test_fragments_are_one_packet(door):
    c, b = door()
    for sizes in ((1, 1), (0, 1), (1, 0), (0, 0, 5, 0, 0), (16384, 1), (16380, 16380), (30000, 30000, 5536), (1,) * 300):
        data = rnd.randbytes(sum(sizes))
        at = 0
        for i, n in enumerate(sizes):
            if i == len(sizes) - 1:
                nothing(b, 0.01)
            c.send_frame(CONT if i else BINARY, data[at:at + n], fin=i == len(sizes) - 1)
            at += n
        assert packet(b) == data, sizes
    part(c, b)


def test_pings_between_fragments(door):
    c, b = door("/text")
    c.send_frame(TEXT, b"one \xe2", fin=False)
    c.ping(b"p1")
    c.expect_pong(b"p1")
    b.send(b"meanwhile")
    c.expect_text("meanwhile")
    c.send_frame(CONT, b"", fin=False)
    c.ping(b"x" * 125)
    c.expect_pong(b"x" * 125)
    c.send_frame(PONG, b"unasked")
    nothing(b)
    c.send_frame(CONT, b"\x82\xac two")
    assert packet(b) == "one € two".encode()
    part(c, b)


def test_cut_at_every_byte(door):
    c, b = door()
    whole = (wsraw.frame(BINARY, b"one ", fin=False) + wsraw.frame(PING, b"p") + wsraw.frame(CONT, b"", fin=False) +
             wsraw.frame(CONT, b"two") + wsraw.frame(TEXT, "drei €"))
    for cut in range(1, len(whole)):
        c.send(whole[:cut])
        time.sleep(0.0005)
        c.send(whole[cut:])
        c.expect_pong(b"p")
        assert (packet(b), packet(b)) == (b"one two", "drei €".encode()), cut
    c.send(whole, bytewise=True)
    c.expect_pong(b"p")
    assert (packet(b), packet(b)) == (b"one two", "drei €".encode())
    nothing(b, 0.01)
    part(c, b)


@pytest.mark.parametrize("size", [126, 16380, 65536])
def test_cut_headers_of_long_messages(door, size):
    """The header and the first bytes one by one, then the last ones."""
    c, b = door()
    data = rnd.randbytes(size)
    c.send(wsraw.frame(BINARY, data), bytewise=True)
    assert packet(b) == data
    part(c, b)


def test_a_packet_longer_than_a_window_while_a_message_comes(door):
    """Both directions are in the middle of a long one at the same time."""
    c, b = door(rcvbuf=4096)
    up, down = rnd.randbytes(65536), [rnd.randbytes(65536) for _ in range(40)]
    f = Flood(b, down)
    c.send_frame(BINARY, up[:30000], fin=False)
    peers.settled(lambda: f.sent)
    assert f.sent < len(down), "nothing was stuck"
    c.send_frame(CONT, up[30000:50000], fin=False)
    for i, data in enumerate(down):
        assert c.recv_message() == (BINARY, data), i
    nothing(b, 0.01)
    c.send_frame(CONT, up[50000:])
    assert packet(b) == up
    f.finish()
    part(c, b)


def test_each_client_has_its_own_connection(door):
    pairs = [door("/text" if i % 2 else "/bus") for i in range(6)]
    for i, (c, b) in enumerate(pairs):
        c.send_binary(b"to %d" % i)
        b.send(b"from %d" % i)
    for i, (c, b) in enumerate(pairs):
        assert packet(b) == b"to %d" % i
        assert c.recv_message()[1] == b"from %d" % i
    assert door.server.counters()["backends"] == 6
    part(*pairs[2])
    pairs[3][0].send_binary(b"on")
    assert packet(pairs[3][1]) == b"on"


def test_many_clients_at_once(door):
    """Thirty clients, a backend that answers each packet by one of the same bytes turned around."""
    clients, threads = [], []
    for _ in range(30):
        c, b = door()

        def answer(b=b):
            while data := b.recv(1 << 17):
                b.send(data[::-1])
            b.close()

        clients.append(c)
        threads.append(threading.Thread(target=answer, daemon=True))
        threads[-1].start()
    sent = [[rnd.randbytes(rnd.choice((1, 100, 5000, 20000))) for _ in range(10)] for _ in clients]
    for turn in range(10):
        for c, datas in zip(clients, sent):
            c.send_binary(datas[turn])
    for c, datas in zip(clients, sent):
        for data in datas:
            c.expect_binary(data[::-1])
        c.close_handshake()
    for t in threads:
        t.join(WAIT)
        assert not t.is_alive()


# ---------------------------------------------------------------------------------------------- limits


def test_max_message_of_clients(door):
    """1009 as soon as it is known that the message is too long; the last one that is allowed passes."""
    def over(send):
        c, b = door()
        send(c)
        c.expect_close(1009)
        assert packets_to_end(b)[0] == []

    c, b = door()
    half = rnd.randbytes(32768)
    c.send_frame(BINARY, half, fin=False)
    c.send_frame(CONT, half, fin=False)
    c.send_frame(CONT, b"")
    assert packet(b) == half * 2
    part(c, b)
    over(lambda c: c.send(wsraw.frame(BINARY, b"only this", length=65537)))
    over(lambda c: c.send(wsraw.frame(BINARY, b"", length=(1 << 63) - 1)))
    over(lambda c: (c.send_frame(BINARY, half, fin=False), c.send_frame(CONT, half, fin=False), c.send_frame(CONT, b"1")))
    door.logged(r"/bus 1009 ")


def test_max_message_of_packets(door):
    """What came before a packet that is too long is delivered; the backend sees the end."""
    for size in (65537, 65540, 100000, 200000):
        c, b = door()
        b.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        b.send(b"before")
        b.send(rnd.randbytes(size))
        b.send(b"behind")
        assert messages_to_close(c) == ([(BINARY, b"before")], 1009), size
        assert packets_to_end(b)[0] == []
    door.logged(r"/bus 1009 ")


@pytest.mark.parametrize("most", [1, 125, 126, 1000, 16380, 16384, 20000, 65535])
def test_other_max_message(wssd, bus, most):
    s = wssd("/bus=" + bus.route, "/text=" + bus.route + ",text", "--max-message", most, tls=most % 2)
    for path, opcode in (("/bus", BINARY), ("/text", TEXT)):
        with s.open(path) as c:
            b = bus.accept()
            c.send_frame(opcode, b"m" * most)
            assert packet(b) == b"m" * most
            b.send(b"p" * most)
            assert c.recv_message() == (opcode, b"p" * most)
            b.send(b"p" * (most + 1))
            assert messages_to_close(c) == ([], 1009)
            assert refuse_rest(b)
        with s.open(path) as c:
            b = bus.accept()
            c.send_frame(opcode, b"m" * (most + 1))
            c.expect_close(1009)
            assert refuse_rest(b)


def largest():
    """The longest packet that a socket with the kernel's usual buffer sends."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two:
        size = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
        one.setblocking(False)
        with pytest.raises(OSError) as e:
            one.send(bytes(size + 1))
        assert e.value.errno == errno.EMSGSIZE
        assert one.send(bytes(size)) == size
    return size


def test_above_the_kernels_limit(wssd, bus, tls):
    """--max-message may be more than a packet can have: a message that is no packet any more is 1009, too."""
    most = largest()
    s = wssd("/bus=" + bus.route, "--max-message", 4 << 20, tls=tls)
    with s.open("/bus") as c:
        b = bus.accept()
        for size in (100000, most - 1, most):
            data = rnd.randbytes(size)
            c.send_binary(data)
            assert packet(b) == data
        data = rnd.randbytes(most)
        for i in range(0, most, 20000):
            c.send_frame(CONT if i else BINARY, data[i:i + 20000], fin=i + 20000 >= most)
        assert packet(b) == data
        c.send_binary(data + b"1", drain=True)
        c.expect_close(1009)
        assert packets_to_end(b)[0] == []
    with s.open("/bus") as c:
        b = bus.accept()
        for i in range(0, 3 << 20, 1 << 16):
            c.send_frame(CONT if i else BINARY, bytes(1 << 16), fin=i + (1 << 16) >= 3 << 20, drain=True)
        c.expect_close(1009)
        assert packets_to_end(b)[0] == []
    with s.open("/bus") as c:       # the other way a backend may have a larger buffer
        b = bus.accept()
        b.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 << 20)
        for size in (most, b.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32):
            data = rnd.randbytes(size)
            f = Flood(b, [data, b"next", data])
            assert [c.recv_message() for _ in range(3)] == [(BINARY, data), (BINARY, b"next"), (BINARY, data)]
            f.finish()
        part(c, b)


def test_empty_message(door):
    """It would read as the end of input: 1003. Only a message that is empty as a whole is meant."""
    for sends in ([(BINARY, True)], [(TEXT, True)], [(BINARY, False), (CONT, True)],
                  [(TEXT, False), (CONT, False), (CONT, True)]):
        c, b = door()
        c.send_binary(b"before")
        for opcode, fin in sends:
            c.send_frame(opcode, b"", fin=fin)
        c.expect_close(1003)
        got, how = packets_to_end(b)
        assert got == [b"before"] or how == "reset", (got, how)
    door.logged(r"/bus 1003 ")


def test_empty_packet_is_the_end(door):
    c, b = door()
    b.send(b"before")
    b.send(b"")
    assert messages_to_close(c) == ([(BINARY, b"before")], 1000)
    assert refuse_rest(b)


# ---------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("lead", range(4))
def test_long_text(door, lead):
    """A character may lie across the fragments that a long packet goes in."""
    c, b = door("/text")
    for text in ("a" * lead + "€" * 21000, "a" * lead + "\U0001f600" * 16000, "a" * (16376 + lead) + "ü" * 20):
        b.send(text.encode())
        c.expect_text(text)
    part(c, b)


@pytest.mark.parametrize("data", [b"\xff", b"good \xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80",
                                  b"\xf0\x9f\x98"], ids=lambda v: v.hex())
def test_packet_that_is_not_utf8(door, data):
    """1011: the backend broke what `text` promises. The packets before it are delivered, and nothing of it."""
    c, b = door("/text")
    b.send("good €".encode())
    b.send(data)
    b.send(b"\xac")     # what follows makes no half character whole
    assert messages_to_close(c) == ([(TEXT, "good €".encode())], 1011)
    assert refuse_rest(b)
    door.logged(r"/text 1011 ")


@pytest.mark.parametrize("at", [0, 16000, 30000, 65535])
def test_long_packet_that_is_not_utf8(door, at):
    """Its first fragments may have gone; no message is ever whole."""
    for bad in (b"\xff", b"\xe2"):
        c, b = door("/text")
        b.send(b"x" * at + bad + b"x" * (65535 - at))
        assert messages_to_close(c) == ([], 1011)
        assert refuse_rest(b)


def test_binary_routes_do_not_look(door):
    c, b = door()
    for data in (b"\xff", b"\xe2\x82", bytes(range(256))):
        b.send(data)
        c.expect_binary(data)
        c.send_binary(data)
        assert packet(b) == data
    part(c, b)


@pytest.mark.parametrize("path", ["/bus", "/text"])
def test_client_text_must_be_utf8(door, path):
    for last in (b"bad \xff", b"ends \xe2\x82"):
        c, b = door(path)
        c.send_frame(TEXT, b"good \xe2", fin=False)
        c.send_frame(CONT, b"\x82\xac", fin=False)
        c.send_frame(CONT, last)
        c.expect_close(1007)
        assert packets_to_end(b)[0] == []


# ---------------------------------------------------------------------------------------------- connecting


def test_connect_refused(wssd, tls, tmp_path):
    with Bus(tmp_path / "stale"), peers.Backend(path=tmp_path / "other"):
        pass
    (tmp_path / "file").write_text("no socket")
    with peers.Backend(path=tmp_path / "stream"):
        names = ("none", "stale", "file", "stream")
        s = wssd(*["/%s=seqpacket:%s/%s" % (n, tmp_path, n) for n in names], tls=tls)
        for name in names:
            for _ in range(2):
                with s.connect() as c:
                    c.send(wsraw.upgrade_head("/" + name, c.host))
                    r = c.reply()
                    assert r.status == 502 and r.closing, (name, r)
                    c.expect_eof()
            s.wait_log("/%s 502 " % name)


def full(path):
    """A listening socket whose queue is full, and what fills it."""
    hole, waiting = Bus(path, backlog=0), []
    for _ in range(64):
        waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        waiting[-1].setblocking(False)
        if waiting[-1].connect_ex(str(path)) == errno.EAGAIN:
            return hole, waiting
    raise AssertionError("the queue never filled")


def test_connect_completes_late(wssd, tmp_path, tls):
    """The queue is full; when it has room again, the upgrade succeeds, and what was sent meanwhile is not lost."""
    hole, waiting = full(tmp_path / "s")
    with hole:
        s = wssd("/bus=" + hole.route, tls=tls)
        with s.connect() as c:
            c.send(wsraw.upgrade_head("/bus", c.host) + wsraw.frame(BINARY, b"early"))
            time.sleep(0.2)
            assert peers.cpu_share(s.pid, 0.3) < 0.1 * SLOW
            for sock in waiting:
                sock.close()
            for _ in waiting:
                b = hole.accept(3 * SLOW)
                try:
                    if data := b.recv(100):
                        break
                except ConnectionResetError:
                    pass
            assert data == b"early"
            assert c.reply().status == 101
            b.send(b"late")
            c.expect_binary(b"late")
            part(c, b)


def test_connect_that_never_completes(wssd, tmp_path):
    hole, waiting = full(tmp_path / "s")
    with hole:
        s = wssd("/bus=" + hole.route, "--timeout", "1")
        with s.connect() as c:
            c.send(wsraw.upgrade_head("/bus", c.host))
            assert c.reply(timeout=6).status in (502, 504)
            c.expect_eof()
        for sock in waiting:
            sock.close()


@pytest.mark.parametrize("word", ["/bus=seqpacket", "/bus=seqpacket:", "/bus=seqpacket:,text", "/bus=seqpacket:/s,text=1",
                                  "/bus=seqpacket:/s,texts", "/bus=seqpacket:/s,binary", "/bus=seqpacket:/" + "x" * 107,
                                  "/bus=seqpacket:/s,ring=100000", "/bus=unix:/s,text", "/bus=tcp:127.0.0.1:1,text",
                                  "/bus=hub,text", "/bus=echo,text"])
def test_wrong_words(wssd, word):
    r = wssd.bare("--listen", "ws://127.0.0.1:0", word, "--check")
    assert r.returncode == 2 and r.stderr.startswith("wssd: ") and "/bus" in r.stderr, (r.returncode, r.stderr)
    assert r.stderr.count("\n") == 1


@pytest.mark.parametrize("word", ["/bus=seqpacket:/s", "/bus=seqpacket:/s,text", "/bus=seqpacket:relative,text,protocol=a|b",
                                  "/bus=seqpacket:/s,origin=any,text", "/bus=seqpacket:/" + "x" * 106])
def test_right_words(wssd, word):
    r = wssd.bare("--listen", "ws://127.0.0.1:0", word, "--check")
    assert (r.returncode, r.stderr) == (0, "")


def test_subprotocol_and_origin(wssd, bus):
    s = wssd("/bus=" + bus.route + ",text,protocol=bus.v1,origin=https://a.example")
    with s.open("/bus", extra=[("Sec-WebSocket-Protocol", "x, bus.v1"), ("Origin", "https://a.example")]) as c:
        b = bus.accept()
        assert c.reply_head.get("Sec-WebSocket-Protocol") == "bus.v1"
        part(c, b)
    with s.connect() as c:
        c.send(wsraw.upgrade_head("/bus", c.host, extra=[("Origin", "https://b.example")]))
        assert c.reply().status == 403
    assert bus.nobody(0.05)


# ---------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("how", ["close", "half"])
def test_backend_ends(door, how):
    """All packets that it sent before its end arrive, then Close 1000."""
    for count in (0, 1, 3, 200):
        c, b = door()
        down = [rnd.randbytes(rnd.choice((1, 126, 5000, 20000))) for _ in range(count)]
        f = Flood(b, down, b.close if how == "close" else lambda: b.shutdown(socket.SHUT_WR))
        assert messages_to_close(c) == ([(BINARY, d) for d in down], 1000)
        f.finish()
        if how == "half":
            assert refuse_rest(b)
    door.logged(r"/bus 1000 ")


def test_backend_ends_at_once(door):
    for _ in range(10):
        with door.server.connect(door.tls) as c:
            c.send(wsraw.upgrade_head("/bus", c.host))
            door.server.bus.accept().close()
            assert c.reply().status == 101
            assert messages_to_close(c) == ([], 1000)


def test_backend_ends_and_the_client_reads_late(door):
    c, b = door(rcvbuf=4096)
    down = [rnd.randbytes(50000) for _ in range(16)]
    f = Flood(b, down, b.close)
    time.sleep(0.5)
    assert messages_to_close(c) == ([(BINARY, d) for d in down], 1000)
    f.finish()


@pytest.mark.parametrize("messages", [1, 3])
def test_backend_ended_and_the_client_still_writes(door, messages):
    """A message for a backend that wrote much and ended: it cannot arrive, but what the backend had written does."""
    c, b = door(rcvbuf=4096)
    c.send_binary(b"go")
    assert packet(b) == b"go"
    down = [rnd.randbytes(15000) for _ in range(5)]     # the kernel keeps that many for a client that does not read
    Flood(b, down, b.close).finish()
    time.sleep(0.2)
    for _ in range(messages):
        c.send_binary(b"one more")
        time.sleep(0.05)
    assert messages_to_close(c, pause=0.01) == ([(BINARY, d) for d in down], 1000)


def test_backend_closes_without_having_read(door):
    """What the client sent is lost then: 1011, since 1000 would say that it arrived."""
    c, b = door()
    c.send_binary(b"nobody reads this")
    peers.until(lambda: select.select([b], [], [], 0)[0])
    b.close()
    assert messages_to_close(c) == ([], 1011)
    door.logged(r"/bus 1011 ")


@pytest.mark.parametrize("down", [[b"answer"], [b"a", b"b" * 40000, b"c"], [b"d" * 15000] * 5], ids=["one", "three", "many"])
def test_backend_answers_and_closes_without_having_read(door, down):
    """What it had sent comes first, although the kernel tells of the error first; whether the client writes on or not."""
    for more in (0, 2):
        c, b = door(rcvbuf=4096)
        c.send_binary(b"nobody reads this")
        peers.until(lambda: select.select([b], [], [], 0)[0])
        for data in down:
            b.send(data)
        b.close()
        for _ in range(more):
            time.sleep(0.02)
            c.send_binary(b"nor this")
        assert messages_to_close(c) == ([(BINARY, d) for d in down], 1011), more
    door.logged(r"/bus 1011 ")


KILLED = """
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind(sys.argv[1])
s.listen()
print("ready", flush=True)
c, _ = s.accept()
for n in range(int(sys.argv[2])):
    c.send(c.recv(100))
print("idle", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("unread", [0, 1])
def test_backend_is_killed(wssd, tmp_path, tls, unread):
    """The kernel closes for it: as an end if it had read everything, else as an error."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "s"), "2"], stdout=subprocess.PIPE) as proc:
        try:
            assert proc.stdout.readline() == b"ready\n"
            s = wssd("/bus=seqpacket:%s/s" % tmp_path, tls=tls)
            with s.open("/bus") as c:
                for n in range(2):
                    c.send_binary(b"%d" % n)
                    c.expect_binary(b"%d" % n)
                assert proc.stdout.readline() == b"idle\n"
                if unread:
                    c.send_binary(b"unread")
                    time.sleep(0.1 * SLOW)
                proc.send_signal(signal.SIGKILL)
                assert messages_to_close(c) == ([], 1011 if unread else 1000)
        finally:
            proc.kill()


def test_client_closes_and_all_it_sent_arrives(door):
    """What preceded the client's Close reaches the backend, then its end, and it has time for its last packets."""
    for count in (0, 1, 60):
        c, b = door()
        up = [rnd.randbytes(rnd.choice((1, 500, 20000))) for _ in range(count)]
        last = [rnd.randbytes(rnd.choice((1, 500, 40000))) for _ in range(count // 2)]
        w = peers.Writer(c, [wsraw.frame(BINARY, d) for d in up] + [wsraw.frame(CLOSE, b"\x03\xe8bye")])
        time.sleep(0.05)
        assert packets_to_end(b) == (up, "eof")
        w.finish()
        f = Flood(b, last, b.close)
        assert messages_to_close(c, answer=False) == ([(BINARY, d) for d in last], 1000)
        f.finish()


def test_client_half_closes_behind_its_close(door):
    """FIN right behind the Close frame: the backend's last packets and the Close frame still come."""
    c, b = door()
    c.send(wsraw.frame(BINARY, b"question") + wsraw.frame(CLOSE, b"\x03\xe8"))
    c.sock.shutdown(socket.SHUT_WR)
    assert packets_to_end(b) == ([b"question"], "eof")
    time.sleep(0.1)
    b.send(b"last")
    b.send(b"words")
    b.close()
    assert messages_to_close(c, answer=False) == ([(BINARY, b"last"), (BINARY, b"words")], 1000)


def test_client_closes_within_a_message(door):
    """A Close between two fragments: half a message is none."""
    c, b = door()
    c.send_binary(b"whole")
    c.send_frame(BINARY, b"half", fin=False)
    c.send_frame(CLOSE, b"\x03\xe8")
    assert packets_to_end(b) == ([b"whole"], "eof")
    b.close()
    assert messages_to_close(c, answer=False) == ([], 1000)


def test_client_closes_and_the_backend_goes_on(wssd, bus):
    """It may write for `timeout` at most; then the Close is answered anyway."""
    s = wssd("/bus=" + bus.route, "--timeout", "1")
    with s.open("/bus") as c:
        b = bus.accept()
        c.send_frame(CLOSE, b"\x0f\xa0")
        start = time.monotonic()
        assert packets_to_end(b) == ([], "eof")
        over = threading.Event()

        def talk():
            try:
                while not over.wait(0.02):
                    b.send(b"and another thing")
            except OSError:
                pass

        t = threading.Thread(target=talk, daemon=True)
        t.start()
        got, code = messages_to_close(c, answer=False)
        over.set()
        t.join(WAIT)
        assert code == 4000 and len(got) > 5 and set(got) == {(BINARY, b"and another thing")}
        assert 0.8 < time.monotonic() - start < 6 * SLOW


@pytest.mark.parametrize("end", ["reset", "fin", "kill", "close_notify"])
def test_client_vanishes(door, end):
    """The backend sees the end; whole messages that came before arrived, and half a message did not."""
    c, b = door()
    c.send_binary(b"last words")
    c.send_frame(BINARY, b"half a", fin=False)
    c.send(wsraw.frame(CONT, b" message")[:9])
    assert packet(b) == b"last words"
    if end == "reset":
        c.reset()
    elif end == "kill":
        c.close()
    else:
        c.shutdown_write(notify=end == "close_notify")
    took = peers.Stopwatch(door.server)
    got, how = packets_to_end(b)
    assert (got, how in ("eof", "reset")) == ([], True)
    assert took() < 2 * SLOW
    door.logged(r"/bus 1006 ")


def test_client_breaks_the_rules(door):
    c, b = door()
    c.send_binary(b"fine")
    assert packet(b) == b"fine"
    c.send_frame(BINARY, b"unmasked", mask=None)
    c.expect_close(1002)
    assert packets_to_end(b)[0] == []


def test_server_stops(wssd, bus):
    s = wssd("/bus=" + bus.route, plain=True)
    pairs = [(s.open("/bus", tls=i % 2 == 0), bus.accept()) for i in range(4)]
    pairs[0][0].send_frame(BINARY, b"half", fin=False)
    pairs[1][1].send(b"last")
    assert pairs[1][0].recv_message() == (BINARY, b"last")
    s.ended = True
    s.signal(signal.SIGTERM)
    for c, b in pairs:
        assert messages_to_close(c) == ([], 1001)
        assert refuse_rest(b)
        c.close()
    assert s.wait() == 0


# ---------------------------------------------------------------------------------------------- backpressure


def numbered(count, sizes, seed=5):
    """Packets that tell their place."""
    r = random.Random(seed)
    return [n.to_bytes(4, "big") + r.randbytes(r.choice(sizes)) for n in range(count)]


@pytest.mark.parametrize("sizes", [(1, 200, 700), (5000, 60000)], ids=["small", "large"])
def test_backend_does_not_read(door, sizes):
    """The client is stopped, memory stays flat, others are served; all is there, in order, when the backend reads again."""
    s = door.server
    up = numbered(40000 if sizes[0] == 1 else 400, sizes)
    c, b = door(sndbuf=65536)
    before = peers.memory(s)
    w = peers.Writer(c, [b"".join(wsraw.frame(BINARY, d) for d in up[i:i + 50]) for i in range(0, len(up), 50)])
    w.stalled(0.3)
    with s.open("/echo", tls=door.tls) as e:
        for n in range(10):
            took = peers.Stopwatch(s)
            e.send_text(f"served {n}")
            e.expect_text(f"served {n}")
            assert took() < SLOW
    assert peers.cpu_share(s.pid, 0.3) < 0.05 * SLOW
    assert peers.memory(s) - before < 768
    for _ in range(2):                      # once more in the middle
        got = [packet(b) for _ in range(len(up) // 8)]
        assert got == up[:len(got)]
        del up[:len(got)]
        time.sleep(0.1)
    t = Take(b, len(up))
    w.finish()
    assert t.all() == up
    b.send(b"got it")
    c.expect_binary(b"got it")
    part(c, b)


@pytest.mark.parametrize("sizes", [(1, 200, 700), (5000, 60000)], ids=["small", "large"])
def test_client_does_not_read(door, sizes):
    """The backend is stopped; all is there, in order, when the client reads again."""
    s = door.server
    down = numbered(6000 if sizes[0] == 1 else 100, sizes)
    c, b = door(rcvbuf=8192)
    before = peers.memory(s)
    f = Flood(b, down)
    peers.settled(lambda: f.sent, 0.3 * SLOW)
    assert f.sent < len(down) // 2
    assert peers.cpu_share(s.pid, 0.3) < 0.05 * SLOW
    assert peers.memory(s) - before < 768
    with s.open("/echo", tls=door.tls) as e:
        e.send_text("served")
        e.expect_text("served")
    c.send_binary(b"the other direction is open")
    assert packet(b) == b"the other direction is open"
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    for i, data in enumerate(down):
        if i == len(down) // 4:
            time.sleep(0.1)
        assert c.recv_message(skip_control=True) == (BINARY, data), i
    f.finish()
    part(c, b)


def test_backend_does_not_read_and_the_client_closes(door):
    """The Close stands behind all that nobody took yet, and arrives behind it, as the end of input."""
    up = numbered(60, (5000, 20000))
    c, b = door(sndbuf=8192)
    w = peers.Writer(c, [wsraw.frame(BINARY, d) for d in up] + [wsraw.frame(CLOSE, b"\x03\xe8")])
    time.sleep(0.4)
    assert packets_to_end(b) == (up, "eof")
    w.finish()
    b.send(b"thanks")
    b.close()
    assert messages_to_close(c, answer=False) == ([(BINARY, b"thanks")], 1000)


def test_both_directions_stop_and_go_on(door):
    """A backend that echoes, and a client that sends much before it reads: both are stopped, nothing is lost."""
    up = numbered(500, (100, 3000, 30000))
    c, b = door(rcvbuf=16384, sndbuf=16384)

    def echo():
        while data := b.recv(1 << 17):
            b.send(data)
        b.close()

    t = threading.Thread(target=echo, daemon=True)
    t.start()
    w = peers.Writer(c, [wsraw.frame(BINARY, d) for d in up])
    time.sleep(0.5)
    for i, data in enumerate(up):
        assert c.recv_message() == (BINARY, data), i
    w.finish()
    c.close_handshake()
    t.join(WAIT)
    assert not t.is_alive()


def test_backend_pauses_longer_than_the_deadlines(wssd, bus, tls):
    """The pongs of a client wait behind what the backend does not take: that silence is not the client's."""
    s = wssd("/bus=" + bus.route, "--timeout", "1", "--ping", "1", tls=tls)
    up = numbered(700, (5000, 20000))
    with s.open("/bus", sndbuf=32768) as c:
        b = bus.accept()
        w = peers.Writer(c, [wsraw.frame(BINARY, d) for d in up])
        w.stalled(0.3)
        time.sleep(3)
        assert [packet(b) for _ in up] == up
        w.finish()
        b.send(b"got it")
        assert c.recv_message(skip_control=True) == (BINARY, b"got it")


def test_client_that_does_not_read_is_dropped_at_the_deadline(wssd, bus, tls):
    s = wssd("/bus=" + bus.route, "--timeout", "1", tls=tls)
    with s.open("/bus", rcvbuf=8192):
        b = bus.accept()
        f = Flood(b, [bytes(30000)] * 400)
        peers.settled(lambda: f.sent, 0.2)
        s.wait_counters(6, clients=0, backends=0)
        f.join(WAIT)
        assert isinstance(f.error, (BrokenPipeError, ConnectionResetError)), f.error
    s.wait_log(r"/bus 1006 .*: client takes no output")


def test_stuck_states_cost_no_cpu(door):
    """Whoever waits for whom: nothing is asked of poll that is there already."""
    def full(c, b):
        c.send(wsraw.frame(BINARY, bytes(20000)) * 20)

    def flooded(c, b):
        Flood(b, [bytes(30000)] * 100)

    def flooded_to_the_end(c, b):
        Flood(b, [bytes(15000)] * 5, b.close).finish()

    def refused(c, b):
        b.send(bytes(65537))
        Flood(b, [b"and more"] * 1000)

    def refused_client(c, b):
        c.send_binary(b"")
        Flood(b, [b"and more"] * 1000)

    def closed(c, b):
        c.send_frame(CLOSE, b"\x03\xe8")

    def half_closed(c, b):
        b.shutdown(socket.SHUT_WR)

    def half_a_message(c, b):
        c.send_frame(BINARY, bytes(50000), fin=False)
        b.send(b"x" * 65536)

    pairs = [door(rcvbuf=4096) for _ in range(8)]
    for (c, b), stick in zip(pairs, (full, flooded, flooded_to_the_end, refused, refused_client, closed, half_closed,
                                     half_a_message)):
        stick(c, b)
    time.sleep(0.3 * SLOW)
    assert peers.cpu_share(door.server.pid, 0.7) < 0.05 * SLOW


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(3))
def test_random_traffic(door, seed):
    """Clients and backends that write, read and pause as it comes: each message arrives, once, whole, in its turn."""
    r = random.Random(seed)
    threads, failures = [], []

    def start(f, *args):
        def run():
            try:
                f(*args, random.Random(r.random()))
            except Exception as e:
                failures.append(repr(e)[:300])
        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    def nap(rnd):
        if rnd.random() < 0.05:
            time.sleep(rnd.choice((0.001, 0.01, 0.1, 1.3)))

    def client_writes(c, datas, rnd):
        for data in datas:
            cuts = sorted(rnd.randrange(len(data) + 1) for _ in range(rnd.choice((0, 0, 0, 1, 3))))
            for i, (a, z) in enumerate(zip([0] + cuts, cuts + [len(data)])):
                c.send_frame(CONT if i else BINARY, data[a:z], fin=i == len(cuts))
                nap(rnd)

    def client_reads(c, datas, rnd):
        for i, data in enumerate(datas):
            assert c.recv_message(skip_control=True) == (BINARY, data), i
            nap(rnd)

    def backend_writes(b, datas, rnd):
        for data in datas:
            b.send(data)
            nap(rnd)

    def backend_reads(b, datas, rnd):
        for i, data in enumerate(datas):
            assert b.recv(1 << 17) == data, i
            nap(rnd)

    pairs = [door(rcvbuf=r.choice((None, 4096, 32768)), sndbuf=r.choice((None, 8192))) for _ in range(8)]
    for i, (c, b) in enumerate(pairs):
        c.timeout = 60 * SLOW
        b.settimeout(60 * SLOW)
        sizes = r.choice(((1, 10, 100), (1, 1000, 16384), (1, 125, 126, 60000, 65536)))
        up, down = numbered(300, [n - 4 if n > 4 else 1 for n in sizes], i), numbered(300, sizes[:-1], 99 - i)
        for f, side, datas in ((client_writes, c, up), (client_reads, c, down), (backend_writes, b, down),
                               (backend_reads, b, up)):
            start(f, side, datas)
    for t in threads:
        t.join(100 * SLOW)
    assert not failures and not any(t.is_alive() for t in threads), failures
    for c, b in pairs:
        part(c, b)


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_client_leaves_a_backend_that_does_not_read(wssd, bus, tls, end):
    """Its end stands behind messages that nobody takes, and is found out all the same."""
    s = wssd("/bus=" + bus.route, "--timeout", "1", "--ping", "1", tls=tls)
    with s.open("/bus") as c:
        b = bus.accept()
        c.send(wsraw.frame(BINARY, bytes(20000)) * 20)
        peers.settled(lambda: peers.queue_of(c))
        if end == "reset":
            c.reset()
        else:
            c.close()
    start = time.monotonic()
    s.wait_counters(5, clients=0, backends=0)
    assert time.monotonic() - start < 5 * SLOW
    got, how = packets_to_end(b)
    assert set(got) == {bytes(20000)} and how in ("eof", "reset")


# ---------------------------------------------------------------------------------------------- rest and waking


def test_rest_and_waking(wssd, bus):
    """Asleep after more than a second of idleness, woken by a packet, a message, an end of either side: at once."""
    s = wssd("/bus=" + bus.route, "/text=" + bus.route + ",text", plain=True)
    pairs = []
    for i in range(8):
        c = s.open("/text" if i % 4 > 1 else "/bus", tls=i % 2 == 0)
        pairs.append((c, bus.accept()))
        pairs[-1][1].send(b"x" * 40000)
        assert len(c.recv_message()[1]) == 40000
        c.send_binary(b"y" * 30000)
        assert packet(pairs[-1][1]) == b"y" * 30000
    s.wait_counters(10, asleep=8)
    took = peers.Stopwatch(s)
    for c, b in pairs:
        b.send(b"wake up")
        assert c.recv_message()[1] == b"wake up"
    assert took() < 0.5 * SLOW
    s.wait_counters(10, asleep=8)
    took = peers.Stopwatch(s)
    for c, b in pairs:
        c.send(wsraw.frame(BINARY, b"in pieces")[:1])
        c.send(wsraw.frame(BINARY, b"in pieces")[1:])
        assert packet(b) == b"in pieces"
    assert took() < 0.5 * SLOW
    s.wait_counters(10, asleep=8)
    for i, (c, b) in enumerate(pairs):
        if i < 2:
            b.close()
            assert messages_to_close(c) == ([], 1000)
        elif i < 4:
            part(c, b)
        elif i < 6:
            c.reset()
            assert packets_to_end(b)[0] == []
        else:
            b.send(b"a")
            b.send(b"b" * 65536)
            b.close()
            assert [m for _, m in messages_to_close(c)[0]] == [b"a", b"b" * 65536]


def test_half_a_message_does_not_rest(wssd, bus, tls):
    """What came of a message is kept, however long its rest takes."""
    s = wssd("/bus=" + bus.route, tls=tls)
    with s.open("/bus") as c, s.open("/bus") as d, s.open("/bus") as f, s.open("/bus") as g:
        backs = [bus.accept() for _ in range(4)]
        c.send_frame(BINARY, b"first " * 1000, fin=False)
        d.send(wsraw.frame(BINARY, b"a second one")[:9])
        f.send(wsraw.frame(BINARY, b"a third one")[:1])
        rest = wsraw.frame(BINARY, b"a fourth one")
        rest = g.encrypt(rest) if tls else rest
        g.wire(rest[:3])
        time.sleep(2.2)
        assert s.counters()["asleep"] == 0
        c.send_frame(CONT, b"last")
        d.send(wsraw.frame(BINARY, b"a second one")[9:])
        f.send(wsraw.frame(BINARY, b"a third one")[1:])
        g.wire(rest[3:])
        assert sorted(packet(b) for b in backs) == sorted([b"first " * 1000 + b"last", b"a second one", b"a third one",
                                                          b"a fourth one"])


def test_a_small_packet_costs_little(wssd, bus, tls):
    """However much a message may have: neither passing it on nor the end of a connection touches more than there was."""
    s = wssd("/bus=" + bus.route, "--max-message", 64 << 20, "--max-per-ip", "0", tls=tls)
    pairs = [(s.open("/bus"), bus.accept()) for _ in range(8)]
    before, spent = peers.memory(s), peers.cpu(s.pid)
    for c, b in pairs:
        b.send(b"hi")
        c.expect_binary(b"hi")
        c.send_frame(BINARY, b"hel", fin=False)
        c.send_frame(CONT, b"lo")
        assert packet(b) == b"hello"
    for i, (c, b) in enumerate(pairs):
        if i % 2:
            part(c, b)
        c.close()
    s.wait_counters(clients=0)
    assert peers.memory(s) - before < 1024
    assert peers.cpu(s.pid) - spent < 0.5 * SLOW * peers.slower()


def test_nothing_of_one_client_is_left_for_the_next(wssd, bus, tls):
    """A slot's assembly space is wiped: neither a half message nor a half packet shows up in the next connection."""
    s = wssd("/bus=" + bus.route, "--max-clients", "1", "--max-per-ip", "0", tls=tls)
    for n in range(6):
        def gone():
            return s.counters()["clients"] == 0
        with s.open("/bus", rcvbuf=8192) as c:
            b = bus.accept()
            if n % 2:
                c.send_binary(b"mine %d" % n)
                assert packet(b) == b"mine %d" % n
                b.send(b"ours")
                c.expect_binary(b"ours")
                c.send_frame(BINARY, os.urandom(40000), fin=False)
                f = Flood(b, [os.urandom(65536) for _ in range(30)])
                peers.settled(lambda: f.sent, 0.1)
                c.reset()
            else:
                c.send_binary(b"alone")
                assert packet(b) == b"alone"
                b.send(b"yes")
                c.expect_binary(b"yes")
                part(c, b)
        peers.until(gone)


def leaves_no_secret(s, c, b):
    c.close()
    s.wait_counters(clients=0)
    with s.open("/echo") as follower:
        assert peers.residues(s.pid, b"a secret ") == 0
        follower.close_handshake()
    b.close()


@pytest.mark.plain  # a sanitizer's shadow memory is too large to search
def test_gathered_message_leaves_nothing(wssd, bus, tls):
    """Fragments of a message that never ended are gone when the next client has the slot."""
    s = wssd("/b=%s" % bus.route, "--max-clients", "2", tls=tls, plain=not tls)
    c = s.open("/b")
    b = bus.accept()
    for fin in (False, True, False):        # one that ends, too
        c.send_frame(CONT if fin else BINARY, b"a secret " * 1000, fin=fin)
    assert packet(b) == b"a secret " * 2000
    c.ping(b"")
    c.expect_pong(b"")
    assert peers.residues(s.pid, b"a secret ") >= 1000
    leaves_no_secret(s, c, b)


@pytest.mark.plain  # a sanitizer's shadow memory is too large to search
@pytest.mark.parametrize("data, code", [(b"a secret " * 1200 + b"\xff", 1011), (b"a secret " * 1400, 1009)],
                         ids=["not UTF-8", "too long"])
def test_refused_packet_leaves_nothing(wssd, bus, tls, data, code):
    """What came of it is gone when the next client has the slot."""
    s = wssd("/b=%s,text" % bus.route, "--max-message", "12000", "--max-clients", "2", tls=tls, plain=not tls)
    c = s.open("/b")
    b = bus.accept()
    b.send(data)
    assert c.expect_close({code})
    leaves_no_secret(s, c, b)
