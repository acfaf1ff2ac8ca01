"""RFC 6455 by raw sockets: one table of cases, each named by its section, over ws:// and wss://, whole and byte by byte.

A case is a function of a fresh connection. Most are made by three helpers: upgrade() for the opening handshake, echo() for
frames that must be answered, fail() for frames that must end the connection with a close code. The echo route gives
back content, type and order of messages; how it fragments them is its own affair. What every frame of the server must
be (unmasked, no RSV, minimal length, fragments in order, valid close codes) is checked by wsraw wherever one is read.

In the byte-by-byte runs the frames go in single bytes (the request, where it is the request that is tested); of more than
1600 bytes the first and the last 400 do.
"""

import socket
import struct

import pytest

import wsraw
from wsraw import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_payload, frame

MODES = ["wss", "ws", "wss-bytes", "ws-bytes"]
CASES = {}


@pytest.fixture(scope="module")
def server(wssd_module):
    return wssd_module("/chat=hub", "/sub=echo,protocol=chat|superchat", listen=["ws://127.0.0.1:0", "wss://127.0.0.1:0"])


def add(name, fn):
    assert name not in CASES, name
    CASES[name] = fn


def case(name):
    return lambda fn: add(name, fn)


def begin(c, path="/echo", **kw):
    """The opening handshake in one piece, for a case that is about frames."""
    bytewise, c.bytewise = c.bytewise, False
    c.open(path, **kw)
    c.bytewise = bytewise
    return c


def collect(c, messages, pongs, close=False):
    """Reads until so many messages and pongs came (they may overtake each other), or the Close frame if that is wanted."""
    got_m, got_p = [], []
    while close or len(got_m) < messages or len(got_p) < pongs:
        f = c.recv_frame()
        if f.opcode == PONG:
            got_p.append(f.payload)
        elif f.opcode == CLOSE:
            return got_m, got_p, f.payload
        elif f.opcode != PING:
            if f.opcode != CONT:
                c.partial = [f.opcode, []]
            c.partial[1].append(f.payload)
            if f.fin:
                got_m.append((c.partial[0], b"".join(c.partial[1])))
                c.partial = None
    return got_m, got_p, None


def same(got, want):
    short = [(o, len(d), d[:60]) for o, d in got], [(o, len(d), d[:60]) for o, d in want]
    assert got == want, "got %r\nwant %r" % short


def echo(name, data, *want, pongs=(), path="/echo"):
    """These bytes are answered with the messages of want and these pongs, and the connection can be closed in order."""

    def run(c):
        begin(c, path)
        c.send(data, drain=True)
        got_m, got_p, close = collect(c, len(want), len(pongs))
        same(got_m, list(want))
        assert got_p == list(pongs), got_p
        assert close is None, "closed: %r" % close
        c.bytewise = False
        c.close_handshake(1000)

    add(name, run)


def fail(name, data, code, *before, pongs=(), path="/echo"):
    """These bytes end the connection with this close code, without waiting for more (7.1.7); what was complete before is
    answered before. What comes after them is dropped and does no harm."""

    def run(c):
        begin(c, path)
        c.send(data, drain=True)
        got_m, got_p, close = collect(c, 0, 0, close=True)
        same(got_m, list(before))
        assert got_p == list(pongs), got_p
        got = struct.unpack("!H", close[:2])[0] if close else None
        assert got == code, "close code %r (%r)" % (got, close[2:])
        c.expect_eof()

    add(name, run)


def closes(name, payload, echoed, **kw):
    """A Close frame with this payload is answered with one of these codes (5.5.1), then the server ends first (7.1.1)."""

    def run(c):
        begin(c)
        c.send(frame(CLOSE, payload, **kw))
        _, _, close = collect(c, 0, 0, close=True)
        got = struct.unpack("!H", close[:2])[0] if close else None
        assert got in echoed, "close code %r (%r)" % (got, close[2:])
        c.expect_eof()

    add(name, run)


# ================================================================================================ 4: opening handshake


def upgrade(name, status, changes=(), extra=(), path="/echo", key=wsraw.KEY, subprotocol=None, then=b"", want=(), **kw):
    """An upgrade request with these changes gets this status (or one of them). 101: it is complete, and echoes work;
    anything else but 404: the reply says that the connection closes, and so it does."""
    allowed = status if isinstance(status, tuple) else (status,)

    def run(c):
        host = dict(changes).pop("Host", c.host)
        c.send(wsraw.upgrade_head(path, c.host if not isinstance(host, str) else host, key=key, changes=changes,
                                  extra=extra, **kw) + then, drain=True)
        r = c.reply(kw.get("method", "GET"))
        assert r.status in allowed, r
        c.bytewise = False
        if r.status == 101:
            wsraw.check_101(r, key)
            assert r.get("Sec-WebSocket-Protocol") == subprotocol, r
            got, _, _ = collect(c, len(want), 0)
            same(got, list(want))
            c.send_text("after the handshake")
            c.expect_text("after the handshake")
            c.close_handshake(1000)
            return
        assert r.get("Sec-WebSocket-Accept") is None, r
        if r.status == 426:
            assert "version" not in name or r.get("Sec-WebSocket-Version") == "13", r
            assert r.get("Upgrade", "").lower() == "websocket", r
            assert "upgrade" in ",".join(r.all("Connection")).lower(), "RFC 9110 7.8: %r" % r
        if r.status != 404:
            assert r.closing, r
            c.expect_eof()

    add(name, run)


BAD = (400, 426)  # the RFC leaves the choice between them

upgrade("4.2.1-plain", 101)
upgrade("4.2.1-key-of-section-1.3", 101, key="dGhlIHNhbXBsZSBub25jZQ==")
for i, k in enumerate(("AAAAAAAAAAAAAAAAAAAAAA==", "/////////////////////w==", "+++++++++++++++++++++g==", "x3JJHMbDL1EzLkh9GBhXDw==")):
    upgrade("4.2.2-accept-key-%d" % i, 101, key=k)

upgrade("4.2.1-no-host", 400, {"Host": None})
upgrade("4.2.1-two-hosts", 400, extra=[("Host", "localhost")])
upgrade("4.2.1-no-upgrade", 426, {"Upgrade": None})
upgrade("4.2.1-empty-upgrade", BAD, {"Upgrade": ""})
upgrade("4.2.1-other-upgrade", BAD, {"Upgrade": "h2c"})
upgrade("4.2.1-upgrade-prefix", BAD, {"Upgrade": "websock"})
upgrade("4.2.1-upgrade-longer", BAD, {"Upgrade": "websockets"})
upgrade("4.2.1-upgrade-quoted", BAD, {"Upgrade": '"websocket"'})
upgrade("4.2.1-upgrade-case", 101, {"Upgrade": "WebSocket"})
upgrade("4.2.1-upgrade-upper-case", 101, {"Upgrade": "WEBSOCKET"})
upgrade("4.2.1-upgrade-list", 101, {"Upgrade": "h2c, websocket"})
upgrade("4.2.1-upgrade-two-lines", 101, {"Upgrade": ["h2c", "websocket"]})
upgrade("4.2.1-upgrade-trailing-space", 101, {"Upgrade": "websocket \t"})
upgrade("4.2.1-no-connection", BAD, {"Connection": None})
upgrade("4.2.1-connection-keep-alive-only", BAD, {"Connection": "keep-alive"})
upgrade("4.2.1-connection-longer-token", BAD, {"Connection": "Upgraded"})
upgrade("4.2.1-connection-shorter-token", BAD, {"Connection": "Upgrad"})
upgrade("4.2.1-connection-not-separated", BAD, {"Connection": "keep-alive Upgrade"})
upgrade("4.2.1-connection-list", 101, {"Connection": "keep-alive, Upgrade"})
upgrade("4.2.1-connection-list-first", 101, {"Connection": "Upgrade, keep-alive"})
upgrade("4.2.1-connection-list-no-space", 101, {"Connection": "keep-alive,upgrade"})
upgrade("4.2.1-connection-list-tabs", 101, {"Connection": "keep-alive\t,\t upgrade"})
upgrade("4.2.1-connection-empty-elements", 101, {"Connection": ", ,Upgrade,,"})
upgrade("4.2.1-connection-two-lines", 101, {"Connection": ["keep-alive", "Upgrade"]})
upgrade("4.2.1-connection-case", 101, {"Connection": "uPGRADE"})
upgrade("4.2.1-no-key", 400, {"Sec-WebSocket-Key": None})
upgrade("4.2.1-empty-key", 400, key="")
upgrade("4.2.1-two-keys", 400, {"Sec-WebSocket-Key": [wsraw.KEY, "AAAAAAAAAAAAAAAAAAAAAA=="]})
upgrade("4.2.1-two-equal-keys", 400, {"Sec-WebSocket-Key": [wsraw.KEY, wsraw.KEY]})
upgrade("4.2.1-key-of-15-bytes", 400, key="dGhlIHNhbXBsZSBub25j")
upgrade("4.2.1-key-of-17-bytes", 400, key="dGhlIHNhbXBsZSBub25jZWU=")
upgrade("4.2.1-key-of-24-letters", 400, key="dGhlIHNhbXBsZSBub25jZQaa")
upgrade("4.2.1-key-one-short", 400, key="dGhlIHNhbXBsZSBub25jZQ=")
upgrade("4.2.1-key-without-padding", 400, key="dGhlIHNhbXBsZSBub25jZQ")
upgrade("4.2.1-key-too-long", 400, key="dGhlIHNhbXBsZSBub25jZQ==A")
upgrade("4.2.1-key-three-paddings", 400, key="dGhlIHNhbXBsZSBub25jZ===")
upgrade("4.2.1-key-one-padding-and-a-letter", 400, key="dGhlIHNhbXBsZSBub25jZQ=A")
upgrade("4.2.1-key-letter-and-one-padding", 400, key="dGhlIHNhbXBsZSBub25jZQA=")
upgrade("4.2.1-key-padding-inside", 400, key="dGhl=HNhbXBsZSBub25jZQ==")
upgrade("4.2.1-key-not-base64", 400, key="dGhl!HNhbXBsZSBub25jZQ==")
upgrade("4.2.1-key-base64url", 400, key="dGhl-HNhbXBs_SBub25jZQ==")
upgrade("4.2.1-key-space-inside", 400, key="dGhl HNhbXBsZSBub25jZQ==")
upgrade("4.2.1-key-high-byte", 400, key="dGhl\xe4HNhbXBsZSBub25jZQ==")
upgrade("4.2.1-key-non-canonical", 400, key="dGhlIHNhbXBsZSBub25jZR==")  # RFC 4648 3.5: pad bits that are not zero
upgrade("4.2.1-key-spaces-around", 101, {"Sec-WebSocket-Key": " \t" + wsraw.KEY + " \t"})
upgrade("4.2.1-no-version", BAD, {"Sec-WebSocket-Version": None})
upgrade("4.2.1-version-spaces-around", 101, {"Sec-WebSocket-Version": "\t13  "})
upgrade("4.2.1-post", 405, method="POST")
upgrade("4.2.1-head", BAD + (405,), method="HEAD")
upgrade("4.2.1-http-1.0", 400, version="HTTP/1.0")
upgrade("4.2.1-http-2.0", 505, version="HTTP/2.0")
upgrade("4.2.1-header-names-upper-case", 101, {k: None for k in ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")},
        extra=["UPGRADE: websocket", "CONNECTION: Upgrade", "SEC-WEBSOCKET-KEY: " + wsraw.KEY, "SEC-WEBSOCKET-VERSION: 13"])
upgrade("4.2.1-header-names-lower-case", 101, {k: None for k in ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")},
        extra=["upgrade: websocket", "connection: upgrade", "sec-websocket-key: " + wsraw.KEY, "sec-websocket-version: 13"])
upgrade("4.2.1-no-space-after-colons", 101, {k: None for k in ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")},
        extra=["Upgrade:websocket", "Connection:Upgrade", "Sec-WebSocket-Key:" + wsraw.KEY, "Sec-WebSocket-Version:13"])
upgrade("4.2.1-longer-header-name-is-another", 400, {"Sec-WebSocket-Key": None}, extra=["Sec-WebSocket-Key2: " + wsraw.KEY])
upgrade("4.2.1-shorter-header-name-is-another", 400, {"Sec-WebSocket-Key": None}, extra=["Sec-WebSocket-Ke: " + wsraw.KEY])
upgrade("4.2.1-unknown-headers-ignored", 101, extra=[("Cookie", "a=b"), ("User-Agent", "x"), ("X-Empty", ""), ("Pragma", "no-cache")])
upgrade("4.2.1-query-ignored", 101, path="/echo?a=b&c")
upgrade("4.2.1-empty-query", 101, path="/echo?")
upgrade("4.2.1-percent-encoded-path", 101, path="/%65ch%6F")
upgrade("4.2.1-fragment-in-target", 400, path="/echo#a")
upgrade("4.2.1-no-such-route", 404, path="/none")
upgrade("4.2.1-route-prefix", 404, path="/ech")
upgrade("4.2.1-route-longer", 404, path="/echo2")
upgrade("4.2.1-route-with-slash", 404, path="/echo/")
upgrade("4.2.1-route-case", 404, path="/Echo")
upgrade("4.2.1-content-length-0", 101, extra=[("Content-Length", "0")])
upgrade("4.2.1-content-length-5", 400, extra=[("Content-Length", "5")], then=b"hello")
upgrade("4.2.1-transfer-encoding", 400, extra=[("Transfer-Encoding", "chunked")], then=b"0\r\n\r\n")
upgrade("4.2.1-folded-header", 400, {"Upgrade": "\r\n websocket"})
upgrade("4.2.1-space-before-colon", 400, extra=["X-A : b"])

for v in ("0", "1", "7", "8", "12", "14", "130", "113", "255", "-13", "13a", "13, 14", "13;q=1", "8, 13", "", "0x0d", "13.0"):
    upgrade("4.4-version-" + (v or "empty").replace(" ", ""), BAD if v in ("", "-13", "13a", "13;q=1", "0x0d", "13.0") else 426,
            {"Sec-WebSocket-Version": v})
upgrade("4.4-version-two-lines", BAD, {"Sec-WebSocket-Version": ["13", "8"]})
upgrade("4.4-version-two-lines-reversed", BAD, {"Sec-WebSocket-Version": ["8", "13"]})


@case("4.4-retry-with-the-version-offered")
def _(c):
    c.send(wsraw.upgrade_head("/echo", c.host, changes={"Sec-WebSocket-Version": "25"}))
    r = c.reply()
    assert r.status == 426, r
    with wsraw.connect(c.port, c.tls is not None) as again:
        again.open("/echo", changes={"Sec-WebSocket-Version": r.get("Sec-WebSocket-Version")}).close_handshake()
    c.expect_eof()


def sub(name, offer, got, path="/sub", status=101):
    upgrade("4.2.2-subprotocol-" + name, status, {"Sec-WebSocket-Protocol": offer}, path=path, subprotocol=got)


sub("none-offered", None, None)
sub("first", "chat", "chat")
sub("second", "superchat", "superchat")
sub("unknown-then-known", "mqtt, superchat", "superchat")
sub("known-then-unknown", "chat, mqtt", "chat")
sub("two-lines", ["mqtt", "superchat"], "superchat")
sub("no-space", "mqtt,amqp,chat", "chat")
sub("spaces-and-tabs", "mqtt \t, \tchat\t", "chat")
sub("empty-elements", ", ,chat,", "chat")
sub("none-known", "mqtt, amqp", None)
sub("case-differs", "Chat", None)
sub("prefix", "cha", None)
sub("longer", "chats", None)
sub("separator-is-no-protocol", "chat|superchat", None)
sub("route-has-none", "chat", None, path="/echo")


@case("4.2.2-subprotocol-both-offered")
def _(c):
    c.open("/sub", changes={"Sec-WebSocket-Protocol": "superchat, chat"})
    assert c.reply_head.get("Sec-WebSocket-Protocol") in ("chat", "superchat")
    c.close_handshake()


for n, offer in (("deflate", "permessage-deflate"), ("deflate-parameters", 'permessage-deflate; client_max_window_bits="10"'),
                 ("list", "permessage-deflate; server_no_context_takeover, x-webkit-deflate-frame"), ("unknown", "foo"),
                 ("two-lines", ["foo", "bar; baz=2"])):
    upgrade("9.1-extension-declined-" + n, 101, {"Sec-WebSocket-Extensions": offer})

upgrade("4.2.2-frame-in-the-segment-of-the-request", 101, then=frame(TEXT, "early"), want=[(TEXT, b"early")])
upgrade("4.2.2-many-frames-in-the-segment-of-the-request", 101, then=b"".join(frame(TEXT, "m%d" % i) for i in range(100)),
        want=[(TEXT, b"m%d" % i) for i in range(100)])
upgrade("4.2.2-fragments-in-the-segment-of-the-request", 101, then=frame(BINARY, b"a" * 200, fin=False) + frame(CONT, b"b" * 200),
        want=[(BINARY, b"a" * 200 + b"b" * 200)])
upgrade("4.2.2-64-KiB-behind-the-request", 101, then=frame(BINARY, b"k" * 65536), want=[(BINARY, b"k" * 65536)])


def halves(name, cut):
    """The request comes with a part of a frame, the rest later."""

    def run(c):
        data = frame(BINARY, b"split frame" * 20)
        c.send(wsraw.upgrade_head("/echo", c.host) + data[:cut])
        wsraw.check_101(c.reply(), wsraw.KEY)
        c.send(data[cut:])
        c.expect_binary(b"split frame" * 20)
        c.bytewise = False
        c.close_handshake()

    add(name, run)


for cut in (1, 2, 3, 4, 7, 8, 9, 50):
    halves("4.2.2-%d-bytes-of-a-frame-in-the-segment-of-the-request" % cut, cut)


@case("4.2.2-close-in-the-segment-of-the-request")
def _(c):
    c.send(wsraw.upgrade_head("/echo", c.host) + frame(CLOSE, close_payload(1001)))
    wsraw.check_101(c.reply(), wsraw.KEY)
    c.expect_close(1001, answer=False)


@case("4.2.2-bad-frame-in-the-segment-of-the-request")
def _(c):
    c.send(wsraw.upgrade_head("/echo", c.host) + frame(3, b"x"))
    wsraw.check_101(c.reply(), wsraw.KEY)
    c.expect_close(1002, answer=False)


# ================================================================================================ 5.1, 5.3: masking

for op, name in ((TEXT, "text"), (BINARY, "binary"), (PING, "ping"), (PONG, "pong"), (CLOSE, "close")):
    body = close_payload(1000) if op == CLOSE else b"hello"
    fail("5.1-unmasked-" + name, frame(op, body, mask=None), 1002)
    fail("5.1-unmasked-empty-" + name, frame(op, b"", mask=None), 1002)
fail("5.1-unmasked-continuation", frame(TEXT, b"a", fin=False) + frame(CONT, b"b", mask=None), 1002)
fail("5.1-unmasked-after-masked", frame(TEXT, b"good") + frame(TEXT, b"bad", mask=None), 1002, (TEXT, b"good"))
fail("5.1-unmasked-long-seen-at-its-header", frame(BINARY, b"", mask=None, length=65536, form=64), 1002)

for m in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1", b"\x80\0\0\0", b"\1\2\3\4"):
    echo("5.3-key-" + m.hex(), frame(TEXT, "masked with " + m.hex(), mask=m), (TEXT, b"masked with " + m.hex().encode()))
for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33):
    echo("5.3-payload-of-%d-bytes" % n, frame(BINARY, bytes(range(n)), mask=b"\x11\x22\x44\x88"), (BINARY, bytes(range(n))))
echo("5.3-new-key-for-each-frame",
     b"".join(frame(BINARY, b"frame %d" % i, mask=struct.pack("!I", i * 0x01234567)) for i in range(20)),
     *[(BINARY, b"frame %d" % i) for i in range(20)])
echo("5.3-new-key-for-each-fragment",
     frame(TEXT, b"odd", fin=False, mask=b"abcd") + frame(CONT, b"lengths", fin=False, mask=b"\0\xff\0\xff") +
     frame(CONT, b"!", mask=b"wxyz"), (TEXT, b"oddlengths!"))
echo("5.3-payload-equal-to-key", frame(BINARY, b"abcdabcd", mask=b"abcd"), (BINARY, b"abcdabcd"))

# ================================================================================================ 5.2: base framing

LENGTHS = (0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 1000, 4095, 4096, 16383, 16384, 16385, 32768, 65534, 65535, 65536, 65537,
           131072, 1 << 20)
PATTERN = bytes(i * 7 % 251 for i in range(251)) * (1 + (1 << 20) // 251)
for n in LENGTHS:
    echo("5.2-text-of-%d-bytes" % n, frame(TEXT, b"t" * n), (TEXT, b"t" * n))
    echo("5.2-binary-of-%d-bytes" % n, frame(BINARY, PATTERN[:n]), (BINARY, PATTERN[:n]))
for n in (0, 1, 125):
    fail("5.2-length-%d-in-16-bits" % n, frame(TEXT, b"a" * n, form=16), 1002)
for n in (0, 1, 125, 126, 65535):
    fail("5.2-length-%d-in-64-bits" % n, frame(BINARY, b"a" * n, form=64), 1002)
fail("5.2-length-125-in-16-bits-seen-at-its-header", frame(BINARY, b"", form=16, length=125, mask=None, mask_bit=1), 1002)
fail("5.2-length-65535-in-64-bits-seen-at-its-header", frame(BINARY, b"", form=64, length=65535, mask=None, mask_bit=1), 1002)
fail("5.2-non-minimal-in-a-continuation", frame(BINARY, b"a", fin=False) + frame(CONT, b"b", form=16), 1002)
for name, n in (("2^63", 1 << 63), ("2^63+1", (1 << 63) + 1), ("2^64-1", (1 << 64) - 1)):
    fail("5.2-length-" + name, frame(BINARY, b"", form=64, length=n), 1002)
    fail("5.2-text-length-" + name, frame(TEXT, b"abc", form=64, length=n), 1002)


def announced(name, length, opcode=BINARY):
    """A frame that is longer than anybody would buffer is legal; the echo passes on what there is."""

    def run(c):
        begin(c)
        c.send(frame(opcode, b"e" * 500, form=64, length=length))
        got = b""
        while len(got) < 500:
            f = c.recv_frame()
            assert not f.fin and f.opcode == (CONT if got else opcode), f
            got += f.payload
        assert got == b"e" * 500
        c.send(wsraw.mask_bytes(b"f" * 100))
        f = c.recv_frame()
        assert f.payload[:1] == b"f" and not f.fin and f.opcode == CONT, f

    add(name, run)


announced("5.2-4-GiB-announced", 1 << 32)
announced("5.2-4-GiB-announced-as-text", 1 << 32, TEXT)
announced("5.2-2^63-1-announced", (1 << 63) - 1)
fail("7.4.1-1009-4-GiB-announced-to-a-hub", frame(BINARY, b"", form=64, length=1 << 32), 1009, path="/chat")
fail("7.4.1-1009-one-byte-more-than-max-message", frame(BINARY, b"", form=64, length=65537), 1009, path="/chat")
fail("7.4.1-1009-fragments-that-add-up", frame(BINARY, b"a" * 60000, fin=False) + frame(CONT, b"b" * 5537, fin=False), 1009, path="/chat")
fail("7.4.1-1009-before-the-payload-comes", frame(TEXT, b"a" * 60000, fin=False) + frame(CONT, b"", form=16, length=60000), 1009, path="/chat")


@case("7.4.1-1009-max-message-itself-passes")
def _(c):
    begin(c, "/chat")
    with wsraw.connect(c.port, c.tls is not None).open("/chat") as other:
        c.send(frame(BINARY, b"m" * 65536))
        other.expect_binary(b"m" * 65536)
        c.bytewise = False
        c.send(frame(TEXT, b"m" * 40000, fin=False) + frame(CONT, b"n" * 25536))
        other.expect_text(b"m" * 40000 + b"n" * 25536)
        c.close_handshake()
        other.close_handshake()


for rsv in range(1, 8):
    fail("5.2-rsv-%d-text" % rsv, frame(TEXT, b"hello", rsv=rsv), 1002)
    fail("5.2-rsv-%d-binary-empty" % rsv, frame(BINARY, b"", rsv=rsv), 1002)
for rsv in (4, 2, 1):
    fail("5.2-rsv-%d-continuation" % rsv, frame(TEXT, b"a", fin=False) + frame(CONT, b"b", rsv=rsv), 1002)
    fail("5.2-rsv-%d-ping" % rsv, frame(PING, b"hello", rsv=rsv), 1002)
    fail("5.2-rsv-%d-pong" % rsv, frame(PONG, b"hello", rsv=rsv), 1002)
    fail("5.2-rsv-%d-close" % rsv, frame(CLOSE, close_payload(1000), rsv=rsv), 1002)
fail("5.2-rsv-after-a-good-message", frame(TEXT, b"good") + frame(TEXT, b"bad", rsv=4), 1002, (TEXT, b"good"))
fail("5.2-rsv-between-pings", frame(PING, b"1") + frame(BINARY, b"bad", rsv=2) + frame(PING, b"2"), 1002, pongs=[b"1"])
fail("5.2-rsv-seen-at-its-header", frame(TEXT, b"", length=100, rsv=4), 1002)

for op in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF):
    kind = "data" if op < 8 else "control"
    fail("5.2-reserved-%s-opcode-%X" % (kind, op), frame(op, b"hello"), 1002)
    fail("5.2-reserved-%s-opcode-%X-empty" % (kind, op), frame(op, b""), 1002)
    fail("5.2-reserved-%s-opcode-%X-in-a-message" % (kind, op), frame(TEXT, b"a", fin=False) + frame(op, b"b") + frame(CONT, b"c"), 1002)
for op in (3, 7, 0xB, 0xF):
    fail("5.2-reserved-opcode-%X-not-final" % op, frame(op, b"x", fin=False), 1002)
    fail("5.2-reserved-opcode-%X-after-a-good-message" % op, frame(BINARY, b"good") + frame(op, b"x"), 1002, (BINARY, b"good"))


@case("5.2-cut-in-two-at-each-byte")
def _(c):
    begin(c)
    data = frame(TEXT, "zwei Stücke", fin=False) + frame(PING, b"p") + frame(CONT, "€", fin=True) + frame(BINARY, b"b" * 130)
    bytewise, c.bytewise = c.bytewise, False
    for cut in range(1, len(data), 7 if bytewise else 1):
        c.send(data[:cut], bytewise=bytewise)
        c.send(data[cut:])
        got_m, got_p, _ = collect(c, 2, 1)
        same(got_m, [(TEXT, "zwei Stücke€".encode()), (BINARY, b"b" * 130)])
        assert got_p == [b"p"]
    c.close_handshake()


@case("5.2-many-messages-in-one-write")
def _(c):
    begin(c)
    n = 50 if c.bytewise else 2000
    c.send(b"".join(frame(TEXT, "message %d" % i) for i in range(n)), drain=True)
    got, _, _ = collect(c, n, 0)
    same(got, [(TEXT, b"message %d" % i) for i in range(n)])
    c.close_handshake()


# ================================================================================================ 5.4: fragmentation

def pieces(opcode, *parts, between=b""):
    """A message in these fragments, with something between them."""
    out = []
    for i, p in enumerate(parts):
        out.append(frame(CONT if i else opcode, p, fin=i == len(parts) - 1))
    return between.join(out)


for op, name in ((TEXT, "text"), (BINARY, "binary")):
    echo("5.4-%s-in-2" % name, pieces(op, b"hel", b"lo"), (op, b"hello"))
    echo("5.4-%s-in-3" % name, pieces(op, b"h", b"el", b"lo"), (op, b"hello"))
    echo("5.4-%s-first-empty" % name, pieces(op, b"", b"hello"), (op, b"hello"))
    echo("5.4-%s-last-empty" % name, pieces(op, b"hello", b""), (op, b"hello"))
    echo("5.4-%s-middle-empty" % name, pieces(op, b"hel", b"", b"lo"), (op, b"hello"))
    echo("5.4-%s-all-empty" % name, pieces(op, b"", b"", b""), (op, b""))
    echo("5.4-%s-many-empty" % name, pieces(op, *[b""] * 100, b"x"), (op, b"x"))
    echo("5.4-%s-in-single-bytes" % name, pieces(op, *[b"%c" % (97 + i % 26) for i in range(200)]),
         (op, bytes(97 + i % 26 for i in range(200))))
    echo("5.4-%s-ping-between" % name, pieces(op, b"hel", b"lo", between=frame(PING, b"mid")), (op, b"hello"), pongs=[b"mid"])
    echo("5.4-%s-ping-between-each" % name, pieces(op, b"a", b"b", b"", b"c", b"d", between=frame(PING, b"") + frame(PING, b"2")),
         (op, b"abcd"), pongs=[b"", b"2"] * 4)
    echo("5.4-%s-pong-between" % name, pieces(op, b"hel", b"lo", between=frame(PONG, b"mid")), (op, b"hello"))
    echo("5.4-%s-two-messages" % name, pieces(op, b"one", b"") + pieces(op, b"", b"two"), (op, b"one"), (op, b"two"))
    echo("5.4-%s-whole-after-fragmented" % name, pieces(op, b"a", b"b") + frame(op, b"c") + pieces(op, b"d", b"e"),
         (op, b"ab"), (op, b"c"), (op, b"de"))
    fail("5.4-%s-new-text-inside" % name, frame(op, b"a", fin=False) + frame(TEXT, b"b") + frame(CONT, b"c"), 1002)
    fail("5.4-%s-new-binary-inside" % name, frame(op, b"a", fin=False) + frame(BINARY, b"b") + frame(CONT, b"c"), 1002)
    fail("5.4-%s-new-fragmented-inside" % name, frame(op, b"a", fin=False) + frame(op, b"b", fin=False), 1002)
    fail("5.4-%s-new-inside-after-ping" % name, frame(op, b"a", fin=False) + frame(PING, b"p") + frame(op, b"b"), 1002, pongs=[b"p"])
    fail("5.4-%s-continuation-after-the-end" % name, pieces(op, b"a", b"b") + frame(CONT, b"c"), 1002, (op, b"ab"))
    fail("5.4-%s-continuation-after-a-whole-one" % name, frame(op, b"a") + frame(CONT, b"c"), 1002, (op, b"a"))
fail("5.4-continuation-first", frame(CONT, b"hello"), 1002)
fail("5.4-continuation-first-empty", frame(CONT, b""), 1002)
fail("5.4-continuation-first-not-final", frame(CONT, b"hello", fin=False) + frame(CONT, b"!"), 1002)
fail("5.4-continuation-after-ping", frame(PING, b"p") + frame(CONT, b"hello"), 1002, pongs=[b"p"])
for n in (125, 126, 127, 65535, 65536):
    echo("5.4-fragments-of-%d" % n, pieces(BINARY, PATTERN[:n], PATTERN[n:2 * n], PATTERN[2 * n:3 * n]), (BINARY, PATTERN[:3 * n]))
echo("5.4-fragments-of-growing-size", pieces(BINARY, *[PATTERN[:n] for n in range(0, 300, 7)]),
     (BINARY, b"".join(PATTERN[:n] for n in range(0, 300, 7))))
echo("5.4-1-MiB-in-4-KiB-fragments-with-pings",
     pieces(BINARY, *[PATTERN[i:i + 4096] for i in range(0, 1 << 20, 4096)], between=frame(PING, b"p")), (BINARY, PATTERN[:1 << 20]),
     pongs=[b"p"] * 255)
echo("5.4-types-alternate", b"".join(pieces(TEXT, "ä", "ö") + pieces(BINARY, b"\xff", b"\xfe") for _ in range(5)),
     *[(TEXT, "äö".encode()), (BINARY, b"\xff\xfe")] * 5)


@case("5.4-message-left-unfinished")
def _(c):
    begin(c)
    c.send(frame(TEXT, b"never finished", fin=False))
    c.bytewise = False
    c.send_frame(CLOSE, close_payload(1000))
    c.expect_close(1000, answer=False, data_allowed=True)


# ================================================================================================ 5.5: control frames

for n in (0, 1, 2, 63, 124, 125):
    echo("5.5.2-ping-of-%d-bytes" % n, frame(PING, PATTERN[:n]), pongs=[PATTERN[:n]])
for op, name in ((PING, "ping"), (PONG, "pong"), (CLOSE, "close")):
    body = close_payload(1000) + b"r" * 124 if op == CLOSE else b"x" * 126
    fail("5.5-%s-of-126-bytes" % name, frame(op, body), 1002)
    fail("5.5-%s-of-126-bytes-seen-at-its-header" % name, frame(op, b"", length=126, form=16, mask=None, mask_bit=1), 1002)
    fail("5.5-%s-of-65536-bytes" % name, frame(op, body[:2] + b"x" * 65534), 1002)
    fail("5.5-%s-short-in-16-bits" % name, frame(op, body[:2], form=16), 1002)
    fail("5.5-%s-short-in-64-bits" % name, frame(op, body[:2], form=64), 1002)
    fail("5.5-%s-fragmented" % name, frame(op, body[:2], fin=False) + frame(CONT, b"b"), 1002)
    fail("5.5-%s-fragmented-empty" % name, frame(op, b"", fin=False), 1002)
    fail("5.5-%s-fragmented-in-a-message" % name, frame(TEXT, b"a", fin=False) + frame(op, body[:2], fin=False) + frame(CONT, b"b"), 1002)
echo("5.5.2-ping-that-is-no-utf-8", frame(PING, b"\xff\xfe\x80"), pongs=[b"\xff\xfe\x80"])
echo("5.5.2-10-pings", b"".join(frame(PING, b"%d" % i) for i in range(10)), pongs=[b"%d" % i for i in range(10)])
echo("5.5.2-300-pings-in-one-write", b"".join(frame(PING, b"%d" % i) for i in range(300)), pongs=[b"%d" % i for i in range(300)])
echo("5.5.2-pings-and-messages-mixed", b"".join(frame(PING, b"%d" % i) + frame(TEXT, "m%d" % i) for i in range(20)),
     *[(TEXT, b"m%d" % i) for i in range(20)], pongs=[b"%d" % i for i in range(20)])
echo("5.5.2-ping-with-another-key", frame(PING, b"key", mask=b"\xde\xad\xbe\xef"), pongs=[b"key"])
echo("5.5.2-ping-on-a-hub", frame(PING, b"hub"), pongs=[b"hub"], path="/chat")
echo("5.5.3-unsolicited-pong", frame(PONG, b"") + frame(TEXT, b"go on"), (TEXT, b"go on"))
echo("5.5.3-unsolicited-pong-with-125-bytes", frame(PONG, b"p" * 125) + frame(TEXT, b"go on"), (TEXT, b"go on"))
echo("5.5.3-many-unsolicited-pongs", frame(PONG, b"p") * 100 + frame(PING, b"q"), pongs=[b"q"])

# ================================================================================================ 5.5.1, 7: closing

for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3001, 3999, 4000, 4999):
    closes("7.4-code-%d" % code, close_payload(code), (code,))
for code in (0, 1, 125, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 5001, 10000, 32768, 65535):
    closes("7.4-invalid-code-%d" % code, close_payload(code), (1002,))
closes("5.5.1-close-without-payload", b"", (None, 1000))
closes("5.5.1-close-payload-1-byte", b"\x03", (1002,))
closes("5.5.1-close-payload-1-byte-zero", b"\0", (1002,))
closes("5.5.1-close-payload-1-byte-of-a-code", b"\x0c", (1002,))  # any second byte would make it one that may be sent
closes("5.5.1-reason", close_payload(1000, "going home"), (1000,))
closes("5.5.1-reason-utf-8", close_payload(1000, "ä€😀"), (1000,))
closes("5.5.1-reason-of-123-bytes", close_payload(1000, "r" * 123), (1000,))
closes("5.5.1-reason-of-123-bytes-utf-8", close_payload(4000, "€" * 41), (4000,))
closes("5.5.1-reason-of-124-bytes", close_payload(1000, "r" * 124), (1002,))
closes("5.5.1-reason-nul", close_payload(1000, "\0"), (1000,))
for name, bad in (("lone-continuation", b"\x80"), ("overlong", b"\xc0\x80"), ("surrogate", b"\xed\xa0\x80"), ("too-large", b"\xf4\x90\x80\x80"),
                  ("cut", b"\xe2\x82"), ("late", b"good so far \xff"), ("at-byte-123", b"r" * 122 + b"\xc3")):
    closes("8.1-reason-" + name, close_payload(1000, bad), (1007,))
closes("8.1-invalid-code-and-bad-reason", close_payload(1005, b"\xff"), (1002, 1007))


def after_close(name, data, path="/echo"):
    """What follows our Close frame is not answered (5.5.1: no more data frames), and does no harm: the server's Close
    comes, then the end, with no reset that could swallow it."""

    def run(c):
        begin(c, path)
        c.send(frame(CLOSE, close_payload(1000)) + data, drain=True)
        _, _, close = collect(c, 0, 0, close=True)
        assert close[:2] == b"\x03\xe8", close
        c.expect_eof()

    add(name, run)


after_close("5.5.1-text-after-close", frame(TEXT, b"late"))
after_close("5.5.1-ping-after-close", frame(PING, b"late"))
after_close("5.5.1-second-close", frame(CLOSE, close_payload(1001)))
after_close("5.5.1-invalid-frame-after-close", frame(3, b"late", rsv=7))
after_close("5.5.1-unmasked-frame-after-close", frame(TEXT, b"late", mask=None))
after_close("5.5.1-bad-utf-8-after-close", frame(TEXT, b"\xff"))
after_close("5.5.1-half-a-frame-after-close", frame(BINARY, b"late", length=100))
after_close("5.5.1-200-KiB-after-close", frame(BINARY, b"l" * 200000))
after_close("5.5.1-noise-after-close", PATTERN[:3000])
after_close("5.5.1-text-after-close-to-a-hub", frame(TEXT, b"late"), path="/chat")


@case("5.5.1-messages-before-close-are-answered")
def _(c):
    begin(c)
    c.send(frame(TEXT, b"one") + frame(BINARY, b"2" * 70000) + frame(PING, b"p") + frame(CLOSE, close_payload(1000)), drain=True)
    got_m, got_p, close = collect(c, 0, 0, close=True)
    same(got_m, [(TEXT, b"one"), (BINARY, b"2" * 70000)])
    assert got_p == [b"p"] and close[:2] == b"\x03\xe8"
    c.expect_eof()


@case("5.5.1-close-inside-a-fragmented-message")
def _(c):
    begin(c)
    c.send(frame(TEXT, b"part", fin=False) + frame(CLOSE, close_payload(1001)))
    c.expect_close(1001, answer=False, data_allowed=True)


@case("7.1.1-server-ends-first")
def _(c):
    begin(c).send(frame(CLOSE, close_payload(1000)))
    f = c.recv_frame()
    assert f.opcode == CLOSE
    c.expect_eof()
    assert c.ended == ("clean" if c.tls else "fin")


@case("7.1.5-end-without-close-frame")
def _(c):
    begin(c).send(frame(TEXT, b"one"))
    c.expect_text("one")
    c.shutdown_write()
    c.recv_all()


@case("7.1.5-end-inside-a-frame")
def _(c):
    begin(c).send(frame(BINARY, b"part", length=1000))
    c.shutdown_write()
    c.recv_all()


@case("7.1.5-end-inside-a-frame-header")
def _(c):
    begin(c).send(frame(BINARY, b"x" * 200)[:3])
    c.shutdown_write()
    c.recv_all()


@case("7.2.1-reset")
def _(c):
    begin(c).send(frame(TEXT, b"one"))
    c.reset()


@case("7.1.7-no-wait-for-the-peer")
def _(c):
    begin(c).send(frame(TEXT, b"bad", rsv=4))
    c.expect_close(1002, answer=False)


@case("7.1.7-what-follows-a-failure-is-dropped")
def _(c):
    begin(c).send(frame(TEXT, b"bad", rsv=4) + frame(TEXT, b"late") + frame(BINARY, b"l" * 100000), drain=True)
    c.expect_close(1002, answer=False)


# ================================================================================================ 8.1: UTF-8

VALID = (0x00, 0x01, 0x0A, 0x7F, 0x80, 0xA9, 0x7FF, 0x800, 0xFFF, 0x1000, 0x20AC, 0xCFFF, 0xD000, 0xD7FF, 0xE000, 0xFDD0, 0xFEFF, 0xFFFD,
         0xFFFE, 0xFFFF, 0x10000, 0x1F600, 0x1FFFE, 0x3FFFF, 0x40000, 0xFFFFF, 0x100000, 0x10FFFF)
for cp in VALID:
    echo("8.1-valid-U+%04X" % cp, frame(TEXT, chr(cp)), (TEXT, chr(cp).encode()))


def cuts(name, text):
    """A message cut into two fragments at each byte, with a ping between, and into fragments of one byte."""

    def run(c):
        data = text.encode()
        begin(c)
        stream = b"".join(frame(TEXT, data[:i], fin=False) + frame(PING, b"%d" % i) + frame(CONT, data[i:]) for i in range(len(data) + 1))
        c.send(stream + pieces(TEXT, *[data[i:i + 1] for i in range(len(data))]), drain=True)
        got_m, got_p, _ = collect(c, len(data) + 2, len(data) + 1)
        same(got_m, [(TEXT, data)] * (len(data) + 2))
        assert got_p == [b"%d" % i for i in range(len(data) + 1)]
        c.bytewise = False
        c.close_handshake()

    add(name, run)


cuts("8.1-two-byte-character-cut-at-each-byte", "aä")
cuts("8.1-three-byte-character-cut-at-each-byte", "€b")
cuts("8.1-four-byte-character-cut-at-each-byte", "x😀y")
cuts("8.1-mixed-text-cut-at-each-byte", "κόσμε \ud7ff\ue000\U0010ffff €")

BROKEN = [  # name, bytes up to and with the first that cannot be right
    ("lone-continuation-80", b"\x80"), ("lone-continuation-BF", b"\xbf"), ("continuation-after-ascii", b"abc\x80"),
    ("continuation-after-a-character", "ä".encode() + b"\x80"), ("overlong-C0", b"\xc0"), ("overlong-C1", b"\xc1"),
    ("overlong-E0-80", b"\xe0\x80"), ("overlong-E0-9F", b"\xe0\x9f"), ("overlong-F0-80", b"\xf0\x80"), ("overlong-F0-8F", b"\xf0\x8f"),
    ("surrogate-U+D800", b"\xed\xa0"), ("surrogate-U+DBFF", b"\xed\xaf"), ("surrogate-U+DC00", b"\xed\xb0"), ("surrogate-U+DFFF", b"\xed\xbf"),
    ("above-10FFFF-F4-90", b"\xf4\x90"), ("above-10FFFF-F4-BF", b"\xf4\xbf"), ("byte-F5", b"\xf5"), ("byte-F7", b"\xf7"),
    ("five-bytes-F8", b"\xf8"), ("six-bytes-FC", b"\xfc"), ("byte-FE", b"\xfe"), ("byte-FF", b"\xff"),
    ("C2-then-ascii", b"\xc2a"), ("C2-then-C2", b"\xc2\xc2"), ("E2-then-ascii", b"\xe2("), ("E2-82-then-ascii", b"\xe2\x82("),
    ("E2-82-then-E2", b"\xe2\x82\xe2"), ("F0-9F-then-ascii", b"\xf0\x9f!"), ("F0-9F-98-then-ascii", b"\xf0\x9f\x98!"),
    ("F0-9F-98-then-F0", b"\xf0\x9f\x98\xf0"), ("DF-then-C0", b"\xdf\xc0"), ("EF-BF-then-7F", b"\xef\xbf\x7f"),
    ("F4-8F-BF-then-C0", b"\xf4\x8f\xbf\xc0"), ("after-text", "κόσμε".encode() + b"\xed\xa0"),
]
for name, bad in BROKEN:
    fail("8.1-%s" % name, frame(TEXT, bad + b"\x80 edited"), 1007)
    fail("8.1-%s-fail-fast-in-a-frame" % name, frame(TEXT, b"good: " + bad, length=70000), 1007)
for name, bad in BROKEN[::3]:
    fail("8.1-%s-fail-fast-in-a-fragment" % name, frame(TEXT, b"start", fin=False) + frame(CONT, bad, fin=False), 1007)
    fail("8.1-%s-after-a-good-message" % name, frame(TEXT, "gut ä") + frame(TEXT, bad, length=200), 1007, (TEXT, "gut ä".encode()))
for name, bad in BROKEN:
    if len(bad) in (2, 3, 4) and bad[0] >= 0xc2:
        fail("8.1-%s-cut-before-its-last-byte" % name, frame(TEXT, bad[:-1], fin=False) + frame(PING, b"p") +
             frame(CONT, bad[-1:], fin=False), 1007, pongs=[b"p"])
for name, part in (("C3", b"\xc3"), ("E2", b"\xe2"), ("E2-82", b"\xe2\x82"), ("F0", b"\xf0"), ("F0-9F", b"\xf0\x9f"), ("F0-9F-98", b"\xf0\x9f\x98")):
    fail("8.1-ends-after-%s" % name, frame(TEXT, b"cut: " + part), 1007)
    fail("8.1-ends-after-%s-in-a-last-fragment" % name, frame(TEXT, b"cut: ", fin=False) + frame(CONT, part), 1007)
    fail("8.1-ends-after-%s-with-an-empty-fragment" % name, frame(TEXT, part, fin=False) + frame(CONT, b""), 1007)
fail("8.1-rest-of-a-character-in-the-next-message", frame(TEXT, b"\xe2\x82") + frame(TEXT, b"\xac"), 1007)
for at in (0, 1, 16383, 16384, 32767, 65535, 65536, 99999):
    fail("8.1-bad-byte-at-%d-of-100000" % at, frame(TEXT, b"a" * at + b"\xff", length=100000), 1007)
for n in (16383, 16384, 65535, 131071):
    echo("8.1-character-across-byte-%d" % n, frame(TEXT, b"a" * (n - 1) + "€€".encode()), (TEXT, b"a" * (n - 1) + "€€".encode()))
fail("8.1-hub-checks-text-too", frame(TEXT, b"good: \xff", length=1000), 1007, path="/chat")
echo("8.1-binary-is-not-checked", frame(BINARY, b"\xff\xc0\x80\xed\xa0\x80") + pieces(BINARY, b"\xe2\x82", b"\x41"),
     (BINARY, b"\xff\xc0\x80\xed\xa0\x80"), (BINARY, b"\xe2\x82\x41"))
echo("8.1-checker-starts-anew", b"".join(frame(TEXT, "ä€😀") + frame(BINARY, b"\xe2\x82") for _ in range(3)),
     *[(TEXT, "ä€😀".encode()), (BINARY, b"\xe2\x82")] * 3)
echo("8.1-ping-inside-a-character", frame(TEXT, b"\xe2", fin=False) + frame(PING, b"\xff") + frame(CONT, b"\x82", fin=False) +
     frame(PONG, b"\x80") + frame(CONT, b"\xac"), (TEXT, "€".encode()), pongs=[b"\xff"])
echo("8.1-all-of-the-bmp", frame(TEXT, "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000)]))),
     (TEXT, "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000)])).encode()))
echo("8.1-empty-text", frame(TEXT, b""), (TEXT, b""))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_case(server, name, mode):
    c = server.connect(mode.startswith("wss"), bytewise=mode.endswith("bytes"))
    CASES[name](c)


@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
def test_nothing_behind_a_close_reaches_a_backend(wssd, tls):
    """5.5.1: no more data frames after Close; here the connection lives on while the backend still talks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5 * wsraw.SLOW)
        s = wssd("/tcp=tcp:127.0.0.1:%d" % listener.getsockname()[1], tls=tls)
        c = s.open("/tcp")
        with listener.accept()[0] as backend:
            backend.settimeout(5 * wsraw.SLOW)
            c.send(frame(BINARY, b"before") + frame(CLOSE, close_payload(1000)) + frame(BINARY, b"behind") + frame(TEXT, b"\xff") + frame(PING, b"p"))
            got = b""
            while chunk := backend.recv(100):
                got += chunk
            assert got == b"before"
            c.send(frame(BINARY, b"later"))
            backend.sendall(b"the last word")
        c.expect_binary(b"the last word")
        c.expect_close(1000, answer=False)


def test_longest_subprotocol(wssd):
    """What might not fit into the reply, with all the rest of it, is not spoken."""
    s = wssd("/s=echo,protocol=%s|%s" % ("p" * 511, "q" * 512), tls=False)
    for name, spoken in (("p" * 511, "p" * 511), ("q" * 512, None)):
        with s.open("/s", extra=[("Sec-WebSocket-Protocol", name)]) as c:
            assert c.reply_head.get("Sec-WebSocket-Protocol") == spoken


@pytest.mark.parametrize("frames, why", [
    (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), b"message inside a message"),
    (frame(CONT, b"a"), b"continues nothing"),
])
def test_reason_tells_which(wssd, frames, why):
    """5.4: the two ways to be out of order."""
    with wssd(tls=False).open() as c:
        c.send(frames)
        assert c.expect_close(1002, data_allowed=True) == (1002, why)


def test_the_table_is_complete():
    """At least 250 distinct cases, each named by a section of the RFC."""
    assert len(CASES) >= 250
    assert all(name.split("-")[0].replace(".", "").isdigit() for name in CASES)
