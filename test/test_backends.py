"""What stands behind a route: echo, hub, TCP and Unix streams; what passes, in which order, and how each side's end is
told to the other."""
import os
import random
import select
import socket
import threading
import time

import pytest

import peers
import wsraw
from peers import SLOW, Backend, until
from wsraw import BINARY, CLOSE, CONT, PING, PONG, TEXT

rnd = random.Random(20)


@pytest.fixture(params=["wss", "ws"])
def tls(request):
    return request.param == "wss"


def drain(c, count, **kw):
    """The next COUNT messages; a ping between is no matter."""
    return [c.recv_message(skip_control=True, **kw) for _ in range(count)]


def stream_bytes(c, size):
    """SIZE bytes of a stream route's payload."""
    got = bytearray()
    while len(got) < size:
        opcode, data = c.recv_message(skip_control=True)
        assert opcode == BINARY, (opcode, data[:100])
        got += data
    assert len(got) == size
    return bytes(got)


def part(c, b, pings=False):
    """The client closes, and the backend, which has nothing to add, too."""
    c.send_frame(CLOSE, b"\x03\xe8")
    assert peers.read_to_end(b) == (b"", "eof")
    b.close()
    c.expect_close(1000, answer=False, data_allowed=pings)


def up_to_close(c, answer=True):
    """All binary payload up to the Close frame: (bytes, code); answers it and wants a clean end."""
    got = bytearray()
    while True:
        f = c.recv_frame()
        if f.opcode == CLOSE:
            break
        if f.opcode in (PING, PONG):
            continue
        got += f.payload
    code = int.from_bytes(f.payload[:2], "big") if f.payload else None
    if answer:
        c.try_send(wsraw.frame(CLOSE, f.payload[:2]))
        c.expect_eof()
    return bytes(got), code


# ---------------------------------------------------------------------------------------------- echo


def test_echo(wssd, tls):
    s = wssd(tls=tls)
    with s.open() as a, s.open() as b:
        for opcode, data in ((TEXT, b""), (BINARY, b""), (TEXT, "grüße €".encode()), (BINARY, bytes(range(256))),
                             (BINARY, rnd.randbytes(70000)), (TEXT, b"x" * 300000)):
            a.send_frame(opcode, data, drain=True)
            assert a.recv_message() == (opcode, data)
        b.quiet(0.05)
        a.close_handshake(1000, "done")
        b.send_text("still")
        b.expect_text("still")


def test_echo_is_not_bound_by_max_message(wssd, tls):
    s = wssd("--max-message", "1024", tls=tls)
    data = rnd.randbytes(1 << 20)
    with s.open() as c:
        c.send_frame(BINARY, data, drain=True)
        c.expect_binary(data)


def test_echo_passes_on_before_the_message_is_whole(wssd, tls):
    """An echo holds nothing back: half a frame comes back while the other half is not there yet."""
    s = wssd(tls=tls)
    data = rnd.randbytes(4000)
    whole = wsraw.frame(BINARY, data)
    with s.open() as c:
        c.send(whole[:2004])
        got = b""
        while len(got) < 1900:
            f = peers.piece(c)
            assert not f.fin and f.opcode == (CONT if got else BINARY)
            got += f.payload
        c.send(whole[2004:])
        while True:
            f = peers.piece(c)
            got += f.payload
            if f.fin:
                break
        assert got == data


# ---------------------------------------------------------------------------------------------- hub


def test_hub_sends_to_all_others_of_the_route(wssd, tls):
    s = wssd("/a=hub", "/b=hub", tls=tls)
    a = [s.open("/a") for _ in range(3)]
    b = [s.open("/b") for _ in range(2)]
    a[0].send_text("from a0")
    a[1].expect_text("from a0")
    a[2].expect_text("from a0")
    b[1].send_binary(b"from b1")
    b[0].expect_binary(b"from b1")
    a[2].send_text("from a2")
    a[0].expect_text("from a2")
    a[1].expect_text("from a2")
    for c in a + b:
        c.quiet(0.05)


@pytest.fixture(scope="module")
def hub(wssd_module):
    """One server for the small tests of the hub."""
    return wssd_module("/chat=hub", "--max-per-ip", "0")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 16383, 16384, 16385, 65535, 65536])
def test_hub_message_sizes(hub, size):
    s = hub
    data = rnd.randbytes(size)
    with s.open("/chat") as a, s.open("/chat") as b, s.open("/chat") as c:
        a.send_binary(data)
        assert b.recv_message() == (BINARY, data)
        assert c.recv_message() == (BINARY, data)
        text = bytes(0x20 + x % 0x5f for x in data)
        b.send_text(text)
        assert a.recv_message() == (TEXT, text)
        assert c.recv_message() == (TEXT, text)


def test_hub_fragments_arrive_whole(hub):
    s = hub
    data = "Stück für Stück ".encode() * 500
    with s.open("/chat") as a, s.open("/chat") as b:
        cuts = sorted(rnd.sample(range(len(data)), 40))
        parts = [data[i:j] for i, j in zip([0] + cuts, cuts + [len(data)])]
        for i, part in enumerate(parts):
            a.send_frame(TEXT if i == 0 else CONT, part, fin=i == len(parts) - 1)
            if i == 20:
                b.quiet(0.1)
        assert b.recv_message() == (TEXT, data)


def test_hub_control_frames_between_fragments(hub):
    s = hub
    with s.open("/chat") as a, s.open("/chat") as b:
        a.send_frame(BINARY, b"one ", fin=False)
        a.ping(b"p1")
        a.expect_pong(b"p1")
        b.send_text("meanwhile")
        a.expect_text("meanwhile")
        a.send_frame(CONT, b"", fin=False)
        a.ping(b"")
        a.expect_pong(b"")
        a.send_frame(PONG, b"unasked")
        a.send_frame(CONT, b"two", fin=True)
        b.expect_binary(b"one two")


def test_hub_interleaved_publishers_arrive_whole(hub):
    s = hub
    with s.open("/chat") as a, s.open("/chat") as b, s.open("/chat") as c:
        for i in range(50):
            fin = i == 49
            a.send_frame(TEXT if i == 0 else CONT, "a" * 100, fin=fin)
            b.send_frame(BINARY if i == 0 else CONT, b"b" * 90, fin=fin)
        assert sorted(drain(c, 2)) == [(TEXT, b"a" * 5000), (BINARY, b"b" * 4500)]
        b.expect_text("a" * 5000)
        a.expect_binary(b"b" * 4500)


def test_hub_partial_message_of_a_lost_publisher_is_not_sent(hub):
    s = hub
    with s.open("/chat") as b:
        for end in ("reset", "close"):
            a = s.open("/chat")
            a.send_frame(TEXT, "half of a ", fin=False)
            a.send(wsraw.frame(CONT, b"message")[:9])
            time.sleep(0.05)
            getattr(a, end)()
        with s.open("/chat") as a:
            a.send_text("whole")
            b.expect_text("whole")
            b.quiet(0.05)


def test_hub_bad_utf8_reaches_nobody(hub):
    s = hub
    with s.open("/chat") as a, s.open("/chat") as b:
        a.send_frame(TEXT, b"good \xe2\x82", fin=False)
        a.send_frame(CONT, b"\xac and bad \xc0\xaf", fin=False)
        a.expect_close(1007)
        b.quiet(0.1)


def test_hub_order_is_one_for_all(hub):
    """Five publishers at once: each one's messages stay in order, and everybody sees the same order of all."""
    s = hub
    clients = [s.open("/chat") for _ in range(5)]
    watchers = [s.open("/chat") for _ in range(2)]
    for n in range(60):
        for i, c in enumerate(clients):
            c.send_text(f"{i}:{n}")
    seen = [[m for _, m in drain(w, 300)] for w in watchers]
    assert seen[0] == seen[1]
    for i, c in enumerate(clients):
        own = f"{i}:".encode()
        assert [m for m in seen[0] if m.startswith(own)] == [f"{i}:{n}".encode() for n in range(60)]
        assert [m for _, m in drain(c, 240)] == [m for m in seen[0] if not m.startswith(own)]


def test_hub_one_publisher_twenty_subscribers(wssd, tls):
    s = wssd("/chat=hub", tls=tls)
    subs = [s.open("/chat") for _ in range(20)]
    with s.open("/chat") as pub:
        sent = [(TEXT, f"{n} ".encode() + b"x" * rnd.randrange(60)) if n % 3 else (BINARY, rnd.randbytes(n % 200))
                for n in range(500)]
        for opcode, data in sent:
            pub.send_frame(opcode, data)
        for c in subs:
            assert drain(c, 500) == sent
        for c in subs + [pub]:
            c.quiet(0.02)


def test_hub_max_message(wssd, tls):
    """1009 as soon as it is known that the message is too long, before it is there."""
    s = wssd("/chat=hub", "--max-message", "5000", tls=tls)
    with s.open("/chat") as b:
        with s.open("/chat") as a:
            a.send_binary(b"m" * 5000)
            b.expect_binary(b"m" * 5000)
            a.send(wsraw.frame(BINARY, b"only this", length=5001))
            a.expect_close(1009)
        with s.open("/chat") as a:
            a.send_frame(TEXT, b"f" * 3000, fin=False)
            a.send_frame(CONT, b"f" * 2000, fin=False)
            a.send_frame(CONT, b"", fin=False)
            a.quiet(0.05)
            a.send_frame(CONT, b"f", fin=False)
            a.expect_close(1009)
        with s.open("/chat") as a:
            a.send(wsraw.frame(BINARY, b"", length=(1 << 63) - 1))
            a.expect_close(1009)
        b.quiet(0.05)


def test_hub_ring_turns_over_many_times(wssd, tls):
    """Entries of all sizes wrap around the end of a ring of no round size, and come out as they went in."""
    s = wssd("/chat=hub,ring=30011", "--max-message", "7000", tls=tls)
    with s.open("/chat") as a, s.open("/chat") as b:
        for n in range(400):
            data = rnd.randbytes(rnd.choice((0, 1, 3, 125, 126, 1000, 5000, 6999, 7000)))
            a.send_binary(data)
            assert b.recv_message(skip_control=True) == (BINARY, data), n


def test_hub_lagging_subscriber(wssd, tls):
    """Who does not read falls behind the ring and gets 1013; the others get everything, and nobody waits."""
    s = wssd("/chat=hub,ring=65536", "--max-message", "4096", "--timeout", int(30 * SLOW), "--ping", "0", tls=tls)
    subs = [s.open("/chat") for _ in range(3)]
    with s.open("/chat") as pub, s.open("/chat", rcvbuf=8192) as lag:
        slowest = 0
        for n in range(1500):
            data = n.to_bytes(4, "big") + b"h" * 4000
            took = peers.Stopwatch(s)
            pub.send_binary(data)
            for c in subs:
                c.expect_binary(data)
            slowest = max(slowest, took())
        assert slowest < 2 * SLOW
        count = 0
        while True:
            f = lag.recv_frame()
            if f.opcode == CLOSE:
                break
            assert f.opcode == BINARY and f.fin and int.from_bytes(f.payload[:4], "big") == count
            count += 1
        assert f.payload[:2] == (1013).to_bytes(2, "big")
        assert 0 < count < 1500
        lag.try_send(wsraw.frame(CLOSE, f.payload[:2]))
        lag.expect_eof()
        lag.close()
        s.wait_log(r"/chat 1013 ")
        pub.send_text("after")
        for c in subs:
            c.expect_text("after")


def test_hub_slow_subscriber_catches_up_while_nobody_sends(wssd, tls):
    """The publisher is idle while a subscriber drains what the ring holds for it: nobody else's event may be needed."""
    s = wssd("/chat=hub,ring=1048576", "--max-message", "16384", tls=tls)
    with s.open("/chat") as pub, s.open("/chat", rcvbuf=8192) as slow, s.open("/chat") as fast:
        sent = [n.to_bytes(4, "big") + b"s" * 10000 for n in range(90)]
        for data in sent:
            pub.send_binary(data)
            fast.expect_binary(data)
        time.sleep(0.3)
        start = time.monotonic()
        for data in sent:
            slow.expect_binary(data)
        assert time.monotonic() - start < 5 * SLOW
        slow.quiet(0.05)
        slow.send_text("here")
        pub.expect_text("here")


def test_hub_messages_before_close_arrive_at_others(wssd, tls):
    """A message and the Close in one write: the message still goes to everybody."""
    s = wssd("/chat=hub", tls=tls)
    with s.open("/chat") as b:
        for n in range(20):
            with s.connect() as a:
                a.open("/chat", then=wsraw.frame(TEXT, f"bye {n}") + wsraw.frame(CLOSE, b"\x03\xe8"))
                a.expect_close(1000, answer=False)
            b.expect_text(f"bye {n}")


def test_hub_many_messages_at_once_wait_for_nothing(wssd, tls):
    """As many in one write as a turn takes, one turn and a half, two: those whose slot comes before the publisher's hear of
    the last one without an event of their own, and nobody waits for the next look at the clock."""
    s = wssd("/chat=hub", tls=tls)
    with s.open("/chat") as before, s.open("/chat") as pub, s.open("/chat") as behind:
        took = peers.Stopwatch(s)
        for n in range(1, 200, 5):
            pub.send(b"".join(wsraw.frame(TEXT, str(i)) for i in range(n)))
            for c in before, behind:
                for i in range(n):
                    c.expect_text(str(i))
        assert took() < 5 * SLOW


def test_hub_wakes_sleepers(wssd):
    """Who was idle for more than two seconds is asleep, and is woken by a message of others and by a byte of its own."""
    s = wssd("/chat=hub", plain=True)
    subs = [s.open("/chat", tls=i % 2 == 0) for i in range(10)]
    s.wait_counters(10, asleep=lambda n: n >= 10)
    with s.open("/chat") as pub:
        took = peers.Stopwatch(s)
        pub.send_text("wake up")
        for c in subs:
            c.expect_text("wake up")
        assert took() < 0.5 * SLOW
        s.wait_counters(10, asleep=11)
        took = peers.Stopwatch(s)
        subs[3].send(wsraw.frame(TEXT, "in pieces")[:1])
        subs[3].send(wsraw.frame(TEXT, "in pieces")[1:])
        for c in subs[:3] + subs[4:] + [pub]:
            c.expect_text("in pieces")
        subs[5].ping(b"awake?")
        subs[5].expect_pong(b"awake?")
        assert took() < 0.5 * SLOW
        subs[0].close_handshake()
        subs[0].close()
        subs[1].reset()
        s.wait_counters(clients=9)
        pub.send_binary(b"once more")
        for c in subs[2:]:
            c.expect_binary(b"once more")


def test_sleepers_are_pinged(wssd):
    s = wssd("/chat=hub", "--ping", "3", "--timeout", "2")
    with s.open("/chat") as quiet, s.open("/chat") as dead:
        s.wait_counters(10, asleep=lambda n: n >= 2)
        assert quiet.recv_frame(timeout=6).opcode == PING
        assert dead.recv_frame(timeout=6).opcode == PING
        quiet.send_frame(PONG, b"")
        dead.recv_all(timeout=8)
        quiet.send_text("alive")
        quiet.ping(b"?")
        while quiet.recv_frame().payload != b"?":
            pass


# ---------------------------------------------------------------------------------------------- tcp and unix


@pytest.fixture(params=["tcp", "unix"])
def backend(request, tmp_path):
    with Backend(path=tmp_path / "s" if request.param == "unix" else None) as b:
        yield b


@pytest.fixture(params=["tcp", pytest.param("unix", marks=pytest.mark.deep)])
def patient_backend(request, tmp_path):
    """The same for tests that wait for deadlines."""
    with Backend(path=tmp_path / "s" if request.param == "unix" else None) as b:
        yield b


def test_stream_bytes_both_ways(wssd, tls, backend):
    s = wssd("/s=" + backend.route, tls=tls)
    with s.open("/s") as c:
        b = backend.accept()
        c.send_binary(b"hello")
        assert peers.read_exactly(b, 5) == b"hello"
        b.sendall(b"welcome")
        assert stream_bytes(c, 7) == b"welcome"
        up, down = rnd.randbytes(300000), rnd.randbytes(300000)
        w = peers.Writer(c, [wsraw.frame(BINARY, up[i:i + 7001]) for i in range(0, len(up), 7001)])
        t = threading.Thread(target=b.sendall, args=(down,), daemon=True)
        t.start()
        box = []
        r = threading.Thread(target=lambda: box.append(peers.read_exactly(b, len(up))), daemon=True)
        r.start()
        assert stream_bytes(c, len(down)) == down
        w.finish()
        r.join(10)
        assert box == [up]
        assert s.counters()["backends"] == 1
        part(c, b)


def test_stream_that_fills_the_window_and_stops(wssd, tls, backend):
    """As much as a frame takes, and nothing behind it: the kernel, which was told to wait for more (MSG_MORE), must not wait
    its 200 ms for it."""
    s = wssd("/s=" + backend.route, tls=tls)
    times = []
    with s.open("/s") as c:
        b = backend.accept()
        for windows in (1, 2, 3) * 7:
            data = rnd.randbytes(windows * (16384 - 4))
            begin = time.monotonic()
            b.sendall(data)
            assert stream_bytes(c, len(data)) == data
            times.append(time.monotonic() - begin)
    assert sorted(times)[len(times) // 2] < 0.15, times


def test_stream_frames_of_all_kinds(wssd, backend):
    """Fragments, empty frames and pings between; text passes, as bytes."""
    s = wssd("/s=" + backend.route)
    with s.open("/s") as c:
        b = backend.accept()
        c.send_frame(BINARY, b"", fin=True)
        c.send_frame(BINARY, b"one ", fin=False)
        c.ping(b"!")
        c.expect_pong(b"!")
        assert peers.read_exactly(b, 4) == b"one "
        c.send_frame(CONT, b"", fin=False)
        c.send_frame(CONT, b"two ", fin=True)
        c.send_text("drei €")
        assert peers.read_exactly(b, 12) == "two drei €".encode()


def test_stream_text_must_be_utf8(wssd, backend):
    s = wssd("/s=" + backend.route)
    with s.open("/s") as c:
        b = backend.accept()
        c.send_frame(TEXT, b"good \xe2", fin=False)
        c.send_frame(CONT, b"\x82\xac", fin=False)
        c.ping(b"")
        c.expect_pong(b"")
        c.send_frame(CONT, b"bad \xff", fin=False)
        c.expect_close(1007)
        got, how = peers.read_to_end(b)
        assert "good €bad ".encode().startswith(got)
        assert how == "reset" or b.family == socket.AF_UNIX and how == "eof", how
    s.wait_log(r"/s 1007 ")


def test_stream_first_frames_come_with_the_request(wssd, tls, backend):
    s = wssd("/s=" + backend.route, tls=tls)
    with s.connect() as c:
        data = rnd.randbytes(9000)
        c.open("/s", then=wsraw.frame(BINARY, data[:4000]) + wsraw.frame(BINARY, data[4000:]))
        assert peers.read_exactly(backend.accept(), 9000) == data


def test_stream_message_is_not_bound_by_max_message(wssd, backend):
    s = wssd("/s=" + backend.route, "--max-message", "1024")
    data = rnd.randbytes(100000)
    with s.open("/s") as c:
        b = backend.accept()
        w = peers.Writer(c, [wsraw.frame(BINARY, data)])
        assert peers.read_exactly(b, len(data)) == data
        w.finish()


def test_stream_each_client_has_its_own_connection(wssd, backend):
    s = wssd("/s=" + backend.route)
    pairs = []
    for i in range(5):
        c = s.open("/s")
        pairs.append((c, backend.accept()))
    for i, (c, b) in enumerate(pairs):
        c.send_binary(b"to %d" % i)
        b.sendall(b"from %d" % i)
    for i, (c, b) in enumerate(pairs):
        assert peers.read_exactly(b, 4) == b"to %d" % i
        assert stream_bytes(c, 6) == b"from %d" % i
    assert s.counters()["backends"] == 5
    part(*pairs[2])
    pairs[3][0].send_binary(b"on")
    assert peers.read_exactly(pairs[3][1], 2) == b"on"


# Connecting.


def refused(s, path, statuses, timeout=None):
    with s.connect() as c:
        c.send(wsraw.upgrade_head(path, c.host))
        r = c.reply(timeout=timeout)
        assert r.status in statuses, r
        assert r.closing, r
        c.expect_eof()
    return r.status


def test_connect_refused(wssd, tls, tmp_path):
    stale = tmp_path / "stale"
    with Backend(path=stale):
        pass
    (tmp_path / "file").write_text("no socket")
    s = wssd(f"/tcp=tcp:127.0.0.1:{peers.unused_port()}", f"/none=unix:{tmp_path}/none", f"/stale=unix:{stale}",
             f"/file=unix:{tmp_path}/file", tls=tls)
    for path in ("/tcp", "/none", "/stale", "/file"):
        for _ in range(3):
            refused(s, path, (502,))
    s.wait_log(r"/tcp 502 ")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_connect_that_never_completes(wssd, tmp_path, kind):
    with peers.BlackHole(tmp_path / "s" if kind == "unix" else None) as hole:
        s = wssd("/s=" + hole.route, "--timeout", "1")
        with s.connect() as c:
            c.send(wsraw.upgrade_head("/s", c.host))
            start = time.monotonic()
            with s.open("/echo") as e:
                e.send_text("others")
                e.expect_text("others")
            assert peers.cpu_share(s.pid, 0.7) < 0.05 * SLOW
            assert c.reply(timeout=6).status in (502, 504)
            assert time.monotonic() - start < 5 * SLOW
            c.expect_eof()


def test_connect_completes_late(wssd, tmp_path):
    """A queue that has room again within the deadline: the upgrade succeeds, and frames sent meanwhile are not lost."""
    with peers.BlackHole() as hole:
        s = wssd("/s=" + hole.route, "--timeout", "10")
        with s.connect(timeout=20) as c:
            c.send(wsraw.upgrade_head("/s", c.host) + wsraw.frame(BINARY, b"early"))
            time.sleep(0.3)
            for sock in hole.waiting:
                sock.close()
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                b = hole.backend.accept(15)
                if select.select([b], [], [], 3)[0] and b.recv(5, socket.MSG_PEEK) == b"early":
                    break
                b.close()
            assert c.reply().status == 101
            b.sendall(b"late")
            assert c.recv_message() == (BINARY, b"late")


def test_client_leaves_while_connecting(wssd):
    with peers.BlackHole() as hole:
        s = wssd("/s=" + hole.route, "--timeout", "30")
        for end in ("reset", "close", "shutdown_write"):
            here = s.here()
            c = s.connect()
            assert c.request("GET", "/none").status == 404      # which is not the end's status then
            c.send(wsraw.upgrade_head("/s", c.host))
            until(lambda: s.counters()["backends"] == 1, 3)
            getattr(c, end)()
            if end == "shutdown_write":
                assert peers.cpu_share(s.pid, 0.5) < 0.05 * SLOW
                c.reset()
            s.wait_counters(3, clients=0, backends=0)
            s.wait_log(r" /s - in=\d+ ", 3, here)


def test_addresses(wssd):
    with Backend(socket.AF_INET6) as six, Backend() as four:
        s = wssd("/six=" + six.route, f"/name=tcp:localhost:{four.port}", f"/other=tcp:127.0.0.1:{four.port}")
        for path, b in (("/six", six), ("/name", four), ("/other", four)):
            with s.open(path) as c:
                sock = b.accept()
                c.send_binary(path.encode())
                assert peers.read_exactly(sock, len(path)) == path.encode()
                sock.sendall(b"ok")
                assert stream_bytes(c, 2) == b"ok"


def test_subprotocols(wssd, backend):
    s = wssd(f"/s={backend.route},protocol=mqtt|amqp", "/chat=hub,protocol=chat.v1", "/plain=hub")

    def chosen(path, *offers):
        with s.open(path, extra=[("Sec-WebSocket-Protocol", o) for o in offers]) as c:
            return c.reply_head.get("Sec-WebSocket-Protocol")

    assert chosen("/s", "mqtt") == "mqtt"
    assert chosen("/s", "foo, amqp") == "amqp"
    assert chosen("/s", "amqp", "bar") == "amqp"
    assert chosen("/s", "amqp, mqtt") in ("amqp", "mqtt")
    assert chosen("/s") is None
    assert chosen("/chat", "chat.v1") == "chat.v1"
    assert chosen("/chat", "chat.v2, chat.v1") == "chat.v1"
    assert chosen("/plain", "chat.v1") is None
    for near in ("mqt", "mqttt", "MQTT", "mqtt|amqp", ""):
        with s.connect() as c:
            c.send(wsraw.upgrade_head("/s", c.host, extra=[("Sec-WebSocket-Protocol", near)]))
            r = c.reply()
            assert r.get("Sec-WebSocket-Protocol") is None, (near, r)


# Ends.


def test_backend_ends_after_writing(wssd, tls, backend):
    """All that the backend wrote before its end arrives, then Close 1000."""
    s = wssd("/s=" + backend.route, tls=tls)
    for size in (0, 1, 5, 16384, 700000):
        data = rnd.randbytes(size)
        with s.open("/s") as c:
            b = backend.accept()
            t = threading.Thread(target=lambda: (b.sendall(data), b.close()), daemon=True)
            t.start()
            assert up_to_close(c) == (data, 1000)
            t.join(10)
    s.wait_log(r"/s 1000 ")


def test_backend_ends_and_the_client_reads_late(wssd, tls, backend):
    """The same for a client that begins to read when all is over; its windows were full then."""
    s = wssd("/s=" + backend.route, "--timeout", "10", tls=tls)
    data = rnd.randbytes(400000)
    with s.open("/s", rcvbuf=8192) as c:
        b = backend.accept()
        t = threading.Thread(target=lambda: (b.sendall(data), b.close()), daemon=True)
        t.start()
        time.sleep(1)
        assert up_to_close(c) == (data, 1000)
        t.join(10)


@pytest.mark.parametrize("messages", [0, 1, 3])
def test_backend_ended_and_the_client_still_writes(wssd, tls, tmp_path, messages):
    """A message for a backend that wrote much and ended: it cannot arrive, but what the backend had written does."""
    with Backend(path=tmp_path / "s") as backend:
        s = wssd("/s=" + backend.route, "--timeout", "10", tls=tls)
        data = rnd.randbytes(200000)
        with s.open("/s", rcvbuf=4096) as c:
            b = backend.accept()
            c.send_binary(b"go")
            assert peers.read_exactly(b, 2) == b"go"
            b.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(data))  # room for all: it ends before more comes
            t = threading.Thread(target=lambda: (b.sendall(data), b.close()), daemon=True)
            t.start()
            time.sleep(0.4)
            for _ in range(messages):
                c.send_binary(b"one more")
                time.sleep(0.1)
            got = b""
            while (f := c.recv_frame()).opcode != CLOSE:
                got += f.payload
                time.sleep(0.002)
            assert (got == data, len(got), f.payload[:2]) == (True, len(data), b"\x03\xe8")
            t.join(10)


def test_backend_ends_at_once(wssd, backend):
    s = wssd("/s=" + backend.route)
    for _ in range(20):
        with s.connect() as c:
            c.send(wsraw.upgrade_head("/s", c.host))
            backend.accept().close()
            assert c.reply().status == 101
            assert up_to_close(c) == (b"", 1000)


def test_backend_half_closes(wssd, backend):
    """The backend's end comes while it still reads: Close 1000, and it sees the end of the client soon after."""
    s = wssd("/s=" + backend.route, "--timeout", "2")
    with s.open("/s") as c:
        b = backend.accept()
        c.send_binary(b"question")
        assert peers.read_exactly(b, 8) == b"question"
        b.sendall(b"answer")
        b.shutdown(socket.SHUT_WR)
        assert up_to_close(c) == (b"answer", 1000)
        assert peers.read_to_end(b)[1] in ("eof", "reset")


def test_backend_half_closes_and_the_client_never_answers(wssd, patient_backend):
    backend = patient_backend
    s = wssd("/s=" + backend.route, "--timeout", "1")
    with s.open("/s") as c:
        b = backend.accept()
        b.shutdown(socket.SHUT_WR)
        assert up_to_close(c, answer=False) == (b"", 1000)
        assert peers.cpu_share(s.pid, 0.5) < 0.05 * SLOW
        start = time.monotonic()
        c.recv_all(timeout=5)
        assert time.monotonic() - start < 4 * SLOW
        assert peers.read_to_end(b)[1] in ("eof", "reset")


def test_client_closes_and_all_it_sent_arrives(wssd, tls, backend):
    """What preceded the client's Close reaches the backend, then its end, and it has time to say its last words."""
    s = wssd("/s=" + backend.route, tls=tls)
    for size in (0, 1, 65536, 1000000):
        data, last = rnd.randbytes(size), rnd.randbytes(size // 2)
        with s.open("/s") as c:
            b = backend.accept()
            blocks = [wsraw.frame(BINARY, data[i:i + 50000]) for i in range(0, size, 50000)]
            w = peers.Writer(c, blocks + [wsraw.frame(CLOSE, b"\x03\xe8bye")])
            assert peers.read_to_end(b) == (data, "eof")
            w.finish()
            t = threading.Thread(target=lambda: (time.sleep(0.2), b.sendall(last), b.close()), daemon=True)
            t.start()
            assert up_to_close(c, answer=False) == (last, 1000)
            c.expect_eof()
            t.join(10)


def test_client_half_closes_behind_its_close(wssd, tls, backend):
    """FIN right behind the Close frame: the backend's answer and the Close frame still come."""
    s = wssd("/s=" + backend.route, tls=tls)
    for size in (1, 5000):
        data, last = rnd.randbytes(size), rnd.randbytes(size)
        with s.open("/s") as c:
            b = backend.accept()
            c.send(wsraw.frame(BINARY, data) + wsraw.frame(CLOSE, b"\x03\xe8"))
            c.sock.shutdown(socket.SHUT_WR)
            assert peers.read_to_end(b) == (data, "eof")
            time.sleep(0.3)
            b.sendall(last)
            b.close()
            assert up_to_close(c, answer=False) == (last, 1000)
            c.expect_eof()
    s.wait_log(r"/s 1000 ")


def test_client_closes_and_the_backend_goes_on(wssd, patient_backend):
    """It may write for `timeout` at most; then the Close is answered anyway."""
    backend = patient_backend
    s = wssd("/s=" + backend.route, "--timeout", "1")
    with s.open("/s") as c:
        b = backend.accept()
        c.send_frame(CLOSE, b"\x0f\xa0")
        start = time.monotonic()
        assert peers.read_to_end(b) == (b"", "eof")
        over = threading.Event()

        def talk():
            try:
                while not over.wait(0.05):
                    b.sendall(b"and another thing ")
            except OSError:
                pass

        t = threading.Thread(target=talk, daemon=True)
        t.start()
        got, code = up_to_close(c, answer=False)
        took = time.monotonic() - start
        over.set()
        t.join(5)
        assert code == 4000 and len(got) > 100
        assert 0.8 < took < 6 * SLOW
        c.expect_eof()


def test_between_requests_it_rests(wssd, tmp_path):
    """A connection without a WebSocket, too, but not with half a request head."""
    (tmp_path / "f").write_text("f")
    s = wssd("--timeout", "60", root=tmp_path)
    with s.connect() as new, s.connect() as served, s.connect() as half:
        assert served.request("GET", "/f").status == 200
        half.send(b"GET /f HTTP/1.1\r\n")
        s.wait_counters(10, clients=3, asleep=2)
        time.sleep(1.2)
        assert s.counters()["asleep"] == 2
        assert new.request("GET", "/f").status == served.request("GET", "/f").status == 200
        half.send(b"Host: localhost\r\n\r\n")
        assert half.reply().status == 200


def test_client_closes_and_the_backend_is_silent(wssd, patient_backend):
    """Its time is over without a word: the Close is answered, and a clean end is not followed by a reset."""
    s = wssd("/s=" + patient_backend.route, "--timeout", "1", tls=False)
    with s.open("/s") as c:
        b = patient_backend.accept()
        c.send_frame(CLOSE, b"\x0f\xa0")
        assert peers.read_to_end(b) == (b"", "eof")
        assert up_to_close(c, answer=False) == (b"", 4000)
        c.expect_eof()
    s.wait_counters(clients=0, backends=0)
    assert b.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@pytest.mark.parametrize("tls, end", [(tls, end) for tls in (True, False) for end in ("reset", "fin", "kill")] +
                         [(True, "close_notify")])
def test_client_vanishes(wssd, tls, backend, end):
    """No Close frame, no clean end: a TCP backend is reset; whatever came before arrived."""
    s = wssd("/s=" + backend.route, tls=tls)
    c = s.open("/s")
    b = backend.accept()
    c.send_binary(b"last words")
    assert peers.read_exactly(b, 10) == b"last words"
    if end == "reset":
        c.reset()
    elif end == "kill":
        c.close()
    else:
        c.shutdown_write(notify=end == "close_notify")
    took = peers.Stopwatch(s)
    got, how = peers.read_to_end(b)
    assert took() < 2 * SLOW
    assert got == b""
    assert how == "reset" if b.family == socket.AF_INET else how in ("reset", "eof")
    s.wait_log(r"/s 1006 ")


def test_client_vanishes_within_a_frame(wssd, backend):
    s = wssd("/s=" + backend.route)
    c = s.open("/s")
    b = backend.accept()
    c.send(wsraw.frame(BINARY, b"x" * 100, length=1000))
    assert peers.read_exactly(b, 100) == b"x" * 100
    c.shutdown_write()
    assert peers.read_to_end(b)[1] == ("reset" if b.family == socket.AF_INET else "eof")


def test_client_breaks_the_rules(wssd, backend):
    """An error of the client is no clean end for the backend either."""
    s = wssd("/s=" + backend.route)
    with s.open("/s") as c:
        b = backend.accept()
        c.send_binary(b"fine")
        c.send_frame(BINARY, b"unmasked", mask=None)
        c.expect_close(1002, data_allowed=True)
        got, how = peers.read_to_end(b)
        assert b"fine".startswith(got)
        assert how == "reset" or b.family == socket.AF_UNIX and how == "eof", how


def test_silent_client_is_dropped(wssd, patient_backend):
    """Dead peers are found by ping, and the backend learns that it was no clean end."""
    backend = patient_backend
    s = wssd("/s=" + backend.route, "--ping", "1", "--timeout", "1")
    with s.open("/s") as c:
        b = backend.accept()
        got, how = peers.read_to_end(b)
        assert got == b"" and (how == "reset" or b.family == socket.AF_UNIX and how == "eof"), how
        assert PING in [f.opcode for f in frames_left(c)]


def frames_left(c):
    """The frames up to the end of a connection, however it ends."""
    out = []
    try:
        while True:
            out.append(c.recv_frame(timeout=5))
    except (wsraw.Ended, wsraw.Silence):
        return out


def test_backend_is_reset(wssd, tls):
    """An error of the backend is 1011, not a clean end, whether it comes from idleness or in the middle."""
    with Backend() as backend:
        s = wssd("/s=" + backend.route, tls=tls)
        with s.open("/s") as c:
            b = backend.accept()
            b.sendall(b"before")
            assert stream_bytes(c, 6) == b"before"
            peers.reset(b)
            assert up_to_close(c) == (b"", 1011)
        with s.open("/s") as c:
            b = backend.accept()
            w = peers.Writer(c, [wsraw.frame(BINARY, bytes(1 << 16))] * 1000)
            w.stalled()
            peers.reset(b)
            got, code = up_to_close(c, answer=False)
            assert (got, code) == (b"", 1011)
            c.close()
            w.join(10)
    s.wait_log(r"/s 1011 ")


def test_backend_closes_without_having_read(wssd, backend):
    """What the client sent is lost then: 1011, since 1000 would say that it arrived."""
    s = wssd("/s=" + backend.route)
    with s.open("/s") as c:
        b = backend.accept()
        c.send_binary(b"nobody reads this")
        until(lambda: select.select([b], [], [], 0)[0])
        b.close()
        assert up_to_close(c) == (b"", 1011)


def test_backend_stops_listening(wssd, tls, tmp_path):
    """It neither reads any more nor ends: what it said before arrives, and then the client learns that it is lost."""
    with Backend(path=tmp_path / "s") as backend:
        s = wssd("/s=" + backend.route, tls=tls)
        with s.open("/s") as c:
            b = backend.accept()
            b.shutdown(socket.SHUT_RD)
            c.send_binary(b"is there anybody?")
            assert up_to_close(c) == (b"", 1011)
        with s.open("/s") as c:
            b = backend.accept()
            b.sendall(b"last words")
            b.shutdown(socket.SHUT_RD)
            assert stream_bytes(c, 10) == b"last words"
            c.send_binary(b"no, wait")
            assert up_to_close(c) == (b"", 1011)
    s.wait_log(r"/s 1011 .*: backend lost")


def test_backend_ends_and_then_breaks_off(wssd, tls, backend):
    """It has ended, with much of the client's unread, and then is gone: the Close stays 1000, the rest is dropped."""
    s = wssd("/s=" + backend.route, tls=tls)
    with s.open("/s", sndbuf=65536) as c:
        b = backend.accept()
        w = peers.Writer(c, [wsraw.frame(BINARY, bytes(1 << 16))] * 200)
        w.stalled()
        b.shutdown(socket.SHUT_WR)
        assert up_to_close(c, answer=False) == (b"", 1000)
        peers.reset(b)
        w.finish()
        c.send_frame(CLOSE, b"\x03\xe8")
        c.expect_eof()
    s.wait_log(r"/s 1000 .*: backend ended")


def test_ping_after_our_close(wssd, tls, backend):
    """RFC 6455 section 5.5.1: nothing goes out behind a Close, no Pong either."""
    s = wssd("/s=" + backend.route, tls=tls)
    with s.open("/s") as c:
        backend.accept().close()
        assert up_to_close(c, answer=False) == (b"", 1000)
        c.ping(b"still there?")
        c.send_frame(CLOSE, b"\x03\xe8")
        assert c.recv_all() == b""
        assert c.ended in ("clean", "fin")


def test_backend_resets_after_the_clients_close(wssd):
    with Backend() as backend:
        s = wssd("/s=" + backend.route)
        with s.open("/s") as c:
            b = backend.accept()
            c.send_frame(CLOSE, b"\x03\xe8")
            assert peers.read_to_end(b) == (b"", "eof")
            peers.reset(b)
            _, code = up_to_close(c, answer=False)
            assert code in (1000, 1011)
            c.expect_eof(clean=False)


# Backpressure on streams.


def test_backend_never_reads(wssd, tls, backend):
    """The client is stopped, memory stays flat, others are served; when the backend reads at last, all is there."""
    s = wssd("/s=" + backend.route, "--timeout", "20", tls=tls)
    data = b"".join(peers.chunks(24 << 20))
    with s.open("/s", sndbuf=65536) as c:
        b = backend.accept()
        before = peers.memory(s)
        w = peers.Writer(c, [wsraw.frame(BINARY, data[i:i + 65536]) for i in range(0, len(data), 65536)])
        stopped = w.stalled()
        assert stopped < 16 << 20
        with s.open() as e:
            for n in range(20):
                took = peers.Stopwatch(s)
                e.send_text(f"served {n}")
                e.expect_text(f"served {n}")
                assert took() < 1 * SLOW
        assert peers.cpu_share(s.pid, 0.5) < 0.05 * SLOW
        assert peers.memory(s) - before < 512
        got = peers.read_exactly(b, len(data))
        assert got == data
        w.finish()
        part(c, b)


def test_backend_pauses_longer_than_the_deadlines(wssd):
    """The pongs of a client wait behind what the backend does not take: that silence is not the client's, and nobody is
    dropped for it."""
    with Backend() as backend:
        s = wssd("/s=" + backend.route, "--timeout", "1", "--ping", "1")
        data = b"".join(peers.chunks(12 << 20))
        with s.open("/s", sndbuf=65536) as c:
            b = backend.accept()
            w = peers.Writer(c, [wsraw.frame(BINARY, data[i:i + 65536]) for i in range(0, len(data), 65536)])
            w.stalled()
            time.sleep(3.5)
            assert peers.read_exactly(b, len(data)) == data
            w.finish()
            b.sendall(b"got it")
            assert stream_bytes(c, 6) == b"got it"
            part(c, b, pings=True)


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_client_leaves_a_backend_that_never_reads(wssd, tls, tmp_path, end):
    """Its end stands behind data that nobody takes, and is found out all the same."""
    with Backend(path=tmp_path / "s") as backend:
        s = wssd("/s=" + backend.route, "--timeout", "1", "--ping", "1", tls=tls)
        with s.open("/s") as c:
            b = backend.accept()
            c.send(wsraw.frame(BINARY, bytes(400000)))
            peers.settled(lambda: peers.queue_of(c))
            if end == "reset":
                c.reset()
        start = time.monotonic()
        s.wait_counters(5, clients=0, backends=0)
        assert time.monotonic() - start < 5 * SLOW
        assert len(peers.read_to_end(b)[0]) <= 400000


def test_client_never_reads(wssd, tls, backend):
    """The backend is stopped; when the client reads within the deadline, all is there, and the end too."""
    s = wssd("/s=" + backend.route, "--timeout", "20", tls=tls)
    with s.open("/s", rcvbuf=16384) as c:
        b = backend.accept()
        before = peers.memory(s)
        data = b"".join(peers.chunks(1 << 20))
        sent = peers.fill(b, data)
        assert sent < 16 << 20
        assert peers.cpu_share(s.pid, 0.5) < 0.05 * SLOW
        assert peers.memory(s) - before < 512
        with s.open() as e:
            e.send_text("served")
            e.expect_text("served")
        b.shutdown(socket.SHUT_WR)
        got, code = up_to_close(c)
        assert (len(got), code) == (sent, 1000)
        assert got == (data * 16)[:sent]


def test_no_room_for_a_ping(wssd):
    """A ping that does not fit is no ping, and its client is not dropped for leaving it unanswered; it comes later."""
    with Backend() as backend:
        s = wssd("/s=" + backend.route, "--ping", "1", "--timeout", "1000", tls=False)
        with s.open("/s", rcvbuf=16384) as c:
            b = backend.accept()
            sent = peers.fill(b, quiet=0.3)
            time.sleep(2.2)
            got, pings = 0, 0
            while got < sent or pings == 0:
                f = c.recv_frame()
                assert f.opcode in (BINARY, PING)
                got += len(f.payload)
                if f.opcode == PING:
                    pings += 1
                    c.send_frame(PONG, f.payload)
            assert got == sent
            b.sendall(b"on")
            while (f := c.recv_frame()).opcode == PING:
                c.send_frame(PONG, f.payload)
            assert (f.opcode, f.payload) == (BINARY, b"on")


def test_client_that_does_not_read_is_dropped_at_the_deadline(wssd, patient_backend):
    backend = patient_backend
    s = wssd("/s=" + backend.route, "--timeout", "1")
    with s.open("/s", rcvbuf=16384):
        b = backend.accept()
        peers.fill(b, quiet=0.3 / SLOW)
        start = time.monotonic()
        s.wait_counters(6, clients=0, backends=0)
        assert time.monotonic() - start < 5 * SLOW
        b.settimeout(5)
        _, how = peers.read_to_end(b)
        assert how in ("reset", "eof") if b.family == socket.AF_UNIX else how == "reset"


def test_both_directions_stop_and_go_on(wssd, tls, backend):
    """A backend that echoes, and a client that sends much before it reads: both are stopped, nothing is lost."""
    s = wssd("/s=" + backend.route, "--timeout", "20", tls=tls)
    data = b"".join(peers.chunks(8 << 20))
    with s.open("/s", rcvbuf=32768, sndbuf=32768) as c:
        b = backend.accept()

        def echo():
            try:
                while part := b.recv(30000):
                    b.sendall(part)
                b.close()
            except OSError:
                pass

        t = threading.Thread(target=echo, daemon=True)
        t.start()
        w = peers.Writer(c, [wsraw.frame(BINARY, data[i:i + 10000]) for i in range(0, len(data), 10000)])
        time.sleep(1)
        assert stream_bytes(c, len(data)) == data
        w.finish()
        c.close_handshake()
        t.join(10)
        assert not t.is_alive()


def test_many_streams_at_once(wssd, backend):
    """Thirty clients through one route, each with its own bytes, cut at random."""
    s = wssd("/s=" + backend.route)

    def serve():
        threads = []
        for _ in range(30):
            b = backend.accept()

            def echo(b=b):
                try:
                    while part := b.recv(5000):
                        b.sendall(bytes(x ^ 0x20 for x in part))
                finally:
                    b.close()

            threads.append(threading.Thread(target=echo, daemon=True))
            threads[-1].start()

    t = threading.Thread(target=serve, daemon=True)
    t.start()
    clients = [s.open("/s") for _ in range(30)]
    datas = [os.urandom(20000) for _ in clients]
    for i in range(0, 20000, 2000):
        for c, data in zip(clients, datas):
            c.send_binary(data[i:i + 2000])
    for c, data in zip(clients, datas):
        assert stream_bytes(c, 20000) == bytes(x ^ 0x20 for x in data)
    for c in clients:
        c.close_handshake()
    t.join(5)
