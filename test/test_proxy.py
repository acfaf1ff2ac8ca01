"""--listen ...,proxy=ADDRESS/BITS: version 2 of the PROXY protocol, by which a balancer says whose connection it is:
what is taken, skipped and refused, whose address then counts and is logged, and the same with the real HAProxy."""
import contextlib
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import time

import pytest

import peers
import pki as pki_module
import wsraw
from peers import SLOW, WAIT
from wsraw import TEXT

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"         # section 2.2 of HAProxy's proxy-protocol.txt, as all below
LOCAL, PROXY = 0, 1
UNSPEC, TCP4, UDP4, TCP6, UDP6, STREAM, DGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
MOST = 2048                                # bytes of a head
rnd = random.Random(22)


def head(block=b"", family=TCP4, command=PROXY, version=2, length=None, signature=SIGNATURE):
    return signature + struct.pack(">BBH", version << 4 | command, family, len(block) if length is None else length) + block


def ip4(source="192.0.2.7", port=51234):
    return socket.inet_aton(source) + socket.inet_aton("198.51.100.1") + struct.pack(">HH", port, 443)


def ip6(source="2001:db8::7", port=51234):
    return (socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "2001:db8:1::1") +
            struct.pack(">HH", port, 443))


def of(source, port=51234, tlvs=b""):
    """The head of a connection from this address."""
    return head(ip6(source, port) + tlvs, TCP6) if ":" in source else head(ip4(source, port) + tlvs, TCP4)


def tlv(kind, value):
    return struct.pack(">BH", kind, len(value)) + value


ALPN, AUTHORITY, NOOP, UNIQUE = tlv(1, b"http/1.1"), tlv(2, b"gateway.example"), tlv(4, bytes(64)), tlv(5, b"#" * 128)
SSL = tlv(0x20, b"\x07\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, "Gerät 7".encode()) + tlv(0x24, b"SHA256") +
          tlv(0x23, b"ECDHE-RSA-AES128-GCM-SHA256") + tlv(0x25, b"RSA2048"))
NETNS, OWN = tlv(0x30, b"blue"), tlv(0xe0, bytes(range(256)))


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def checked(source="192.0.2.7", more=b""):
    """A head with its checksum (section 2.2.3)."""
    whole = of(source, tlvs=more + tlv(3, bytes(4)))
    return whole[:-4] + struct.pack(">I", crc32c(whole))


def raw(s, tls, prefix=b"", port=None, **kw):
    """A client behind a head, before its TLS handshake."""
    port = port or (s.tls_port if tls else s.plain_port)
    c = wsraw.connect(port, tls, handshake=False, **kw)
    c.wire(prefix)
    return c


def through(s, tls, prefix, **kw):
    """The same when TLS is there."""
    c = raw(s, tls, prefix, **kw)
    if tls:
        c.handshake()
    return c


def hello(c):
    """What the client has to say behind the head, ClientHello or the upgrade; and what there is to do then."""
    if c.tls is None:
        return wsraw.upgrade_head("/echo", c.host), lambda: check_upgrade(c)
    with pytest.raises(ssl.SSLWantReadError):
        c.tls.do_handshake()
    return c.out.read(), lambda: (c.handshake(), c.open("/echo"))


def check_upgrade(c):
    assert c.reply().status == 101


def talk(c):
    c.send_text("hello")
    c.expect_text("hello")
    c.close_handshake()


def name_of(source, port):
    """As the log has it."""
    if ":" not in source:
        return "%s:%d" % (source, port)
    packed = socket.inet_pton(socket.AF_INET6, source)
    mapped = packed[:12] == bytes(10) + b"\xff\xff"
    return "%s:%d" % (socket.inet_ntoa(packed[12:]), port) if mapped else \
        "[%s]:%d" % (socket.inet_ntop(socket.AF_INET6, packed), port)


def served(s, tls, prefix, who=None, **kw):
    """Serves a client behind this head; who: what the log calls it, None: by the socket's address."""
    here = s.here()
    with through(s, tls, prefix, **kw) as c:
        c.open("/echo")
        talk(c)
        name = who or name_of(*c.local[:2])
    s.wait_log("^" + re.escape(name) + r" \S+ /echo 1000 ", since=here)


def turned_away(c, reason=None, s=None, since=None, who=None, seconds=4):
    """The connection ends at once, without a byte of an answer, and the log says why."""
    start = time.monotonic()
    c.tls = None            # what comes is looked at as it is
    assert c.recv_all(timeout=4) == b""
    assert c.ended in ("fin", "reset"), c.ended
    assert time.monotonic() - start < seconds * SLOW
    c.close()
    if reason:
        name = re.escape(who) if who else r"\S+:%d" % c.local[1]
        s.wait_log("^" + name + r" .*: " + reason, since=since)


def refused(s, data, tls, reason="no valid PROXY head", **kw):
    here = s.here()
    turned_away(raw(s, tls, data, **kw), reason, s, here)


def probe(s):
    served(s, s.tls_port is not None, of("192.0.2.250"), "192.0.2.250:51234")


@pytest.fixture(scope="module")
def house(wssd_module, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "index.html").write_text("a page")
    return wssd_module("--max-per-ip", "0", "--verbose", root=root, probe=probe,
                       listen=["wss://127.0.0.1:0,proxy=127.0.0.0/8", "ws://127.0.0.1:0,proxy=127.0.0.0/8",
                               "wss://127.0.0.1:0", "ws://127.0.0.1:0", "wss://[::1]:0,proxy=::1/128"])


@pytest.fixture(params=["wss", "ws"])
def tls(request):
    return request.param == "wss"


# ---------------------------------------------------------------------------------------------- heads that are taken


@pytest.mark.parametrize("source, port, who", [
    ("192.0.2.7", 51234, "192.0.2.7:51234"), ("0.0.0.0", 0, "0.0.0.0:0"),
    ("255.255.255.255", 65535, "255.255.255.255:65535"),
    ("2001:db8::7", 1, "[2001:db8::7]:1"), ("fe80::1:2:3:4", 443, "[fe80::1:2:3:4]:443"), ("::1", 8443, "[::1]:8443"),
])
def test_address_of_the_client(house, tls, source, port, who):
    served(house, tls, of(source, port), who)


def test_ipv4_within_ipv6(house, tls):
    """As a balancer sends it that listens for both on one socket; it is the IPv4 address."""
    served(house, tls, of("::ffff:192.0.2.7", 77), "192.0.2.7:77")
    served(house, tls, of("::fffe:192.0.2.7", 78), "[::fffe:c000:207]:78")


@pytest.mark.parametrize("family", [UNSPEC, TCP4, TCP6, STREAM, UDP4, 0x44, 0xff])
def test_local_keeps_the_sockets_address(house, tls, family):
    """A balancer's own connection, as health checks are; the family and the block do not matter."""
    for block in (b"", ip4(), ip6(), ip4() + ALPN, bytes(216)):
        served(house, tls, head(block, family, LOCAL))


def test_unspec_keeps_the_sockets_address(house, tls):
    for block in (b"", ip4(), ip6(), b"\0", bytes(1000)):
        served(house, tls, head(block, UNSPEC))


TLVS = {"alpn": ALPN, "authority": AUTHORITY, "crc": tlv(3, b"none"), "noop": NOOP, "unique-id": UNIQUE, "ssl": SSL,
        "netns": NETNS, "own": OWN, "many": ALPN + AUTHORITY + SSL + NETNS + OWN, "empty": tlv(0xea, b""), "one-byte": b"\0",
        "two-bytes": b"\1\2", "cut": tlv(1, b"short")[:-2]}


@pytest.mark.parametrize("tlvs", TLVS.values(), ids=TLVS)
def test_tlvs_are_skipped(house, tls, tlvs):
    served(house, tls, of("192.0.2.8", 1, tlvs), "192.0.2.8:1")
    served(house, tls, of("2001:db8::8", 1, tlvs), "[2001:db8::8]:1")


def test_checksum(house, tls):
    assert crc32c(b"123456789") == 0xe3069283
    served(house, tls, checked(), "192.0.2.7:51234")
    served(house, tls, checked("2001:db8::9", SSL), "[2001:db8::9]:51234")


@pytest.mark.parametrize("size", [3, 4, 100, 488, 489, 1000, 1999, 2000, MOST - 28])
def test_sizes_of_tlvs(house, tls, size):
    served(house, tls, of("192.0.2.9", 2, tlv(0xe1, bytes(x * 7 & 255 for x in range(size - 3)))), "192.0.2.9:2")


def test_the_longest_head(house, tls):
    for command, family, block, who in ((PROXY, TCP4, ip4(), "192.0.2.7:51234"), (PROXY, TCP6, ip6(), "[2001:db8::7]:51234"),
                                        (LOCAL, UNSPEC, b"", None), (PROXY, UNSPEC, b"", None)):
        for size in (MOST - 1, MOST):
            served(house, tls, head(block.ljust(size - 16, b"\xee"), family, command), who)
        refused(house, head(block.ljust(MOST + 1 - 16, b"\xee"), family, command), tls)


def test_cut_at_every_byte(house, tls):
    whole = of("192.0.2.10", 10, ALPN + SSL[:20])
    for cut in range(1, len(whole)):
        c = raw(house, tls, whole[:cut])
        time.sleep(0.001)
        c.wire(whole[cut:])
        if tls:
            c.handshake()
        c.open("/echo")
        talk(c)
        c.close()
    c = raw(house, tls)
    for i in range(len(whole)):
        c.wire(whole[i:i + 1])
        time.sleep(0.0005)
    if tls:
        c.handshake()
    c.open("/echo")
    talk(c)
    c.close()
    peers.until(lambda: len([x for x in house.lines() if re.match(r"192\.0\.2\.10:10 .* 1000 ", x)]) == len(whole))


def test_cut_behind_the_head(house, tls):
    """The head and the first bytes behind it in one segment: what is not the head's belongs to the connection."""
    whole = of("192.0.2.11", 11, AUTHORITY)
    for more in (0, 1, 2, 4, 5, 6, 40, 100, None):
        c = raw(house, tls)
        first, then = hello(c)
        more = len(first) if more is None else more
        c.wire(whole + first[:more])
        time.sleep(0.003)
        c.wire(first[more:])
        then()
        talk(c)
        c.close()
    c = raw(house, tls)
    first, then = hello(c)
    c.wire(whole[:20])
    time.sleep(0.003)
    c.wire(whole[20:] + first)
    then()
    talk(c)
    c.close()
    c = raw(house, tls)         # every byte its own segment
    first, then = hello(c)
    for i in range(len(whole + first)):
        c.wire((whole + first)[i:i + 1])
        time.sleep(0.0003)
    then()
    talk(c)


def test_head_request_and_frames_in_one_write(house):
    """As much as one read brings, behind a head of any size."""
    data = rnd.randbytes(60000)
    for prefix in (of("192.0.2.12", 12), of("192.0.2.12", 12, OWN * 7), head(b"", UNSPEC, LOCAL)):
        with raw(house, False) as c:
            frames = wsraw.frame(TEXT, "first") + wsraw.frame(wsraw.BINARY, data)
            c.wire(prefix + wsraw.upgrade_head("/echo", c.host) + frames)
            check_upgrade(c)
            c.expect_text("first")
            c.expect_binary(data)
            c.close_handshake()


def test_pages_through_it(house, tls):
    with through(house, tls, of("192.0.2.13", 13)) as c:
        for _ in range(3):
            r = c.request("GET", "/")
            assert (r.status, r.body) == (200, b"a page")
    house.wait_log(r"^192\.0\.2\.13:13 ")


def test_a_second_head_is_none(house, tls):
    """Only the first bytes of a connection are a head."""
    with raw(house, tls, of("192.0.2.14", 14) + of("192.0.2.15", 15)) as c:
        c.tls = None
        got = c.recv_all(timeout=4)
        assert b" 101 " not in got and b" 200 " not in got
    house.wait_log(r"^192\.0\.2\.14:14 ")


def test_plain_http_on_the_tls_port(house):
    """It gets its answer, behind a head as without."""
    with raw(house, False, of("192.0.2.16", 16), port=house.tls_port) as c:
        c.send(wsraw.head("GET", "/", [("Host", "x")]))
        r = c.reply()
        assert r.status == 400 and r.closing
        c.expect_eof()
    house.wait_log(r"^192\.0\.2\.16:16 .* 400 ")


def test_sessions_are_resumed(house):
    before = house.counters()["resumed"]
    with through(house, True, of("192.0.2.17", 17)) as c:
        assert c.request("GET", "/").status == 200
        session = c.tls.session
    for n in range(3):
        with through(house, True, of("192.0.2.18", n), session=session) as c:
            assert c.tls.session_reused
            c.open("/echo")
            talk(c)
    assert house.counters()["resumed"] == before + 3


def test_ipv6_listener(house):
    port = house.ports[4]
    served(house, True, of("2001:db8::21", 21), "[2001:db8::21]:21", port=port, address="::1")
    served(house, True, of("192.0.2.21", 21), "192.0.2.21:21", port=port, address="::1")
    served(house, True, head(b"", UNSPEC, LOCAL), port=port, address="::1")
    refused(house, head(b"", 0x11), True, port=port, address="::1")


def test_client_certificates_through_it(wssd, tmp_path):
    """proxy= and client-ca= on one listener, in either order."""
    p = pki_module.Pki(tmp_path)
    ca = p.ca("ca")
    mine, other = p.client("device 7", issuer=ca), p.client("other", issuer=p.ca("other ca"))
    s = wssd(listen=["wss://127.0.0.1:0,client-ca=%s,proxy=127.0.0.1" % ca.cert,
                     "wss://127.0.0.1:0,proxy=127.0.0.1,client-ca=%s" % ca.cert], probe=lambda s: None)
    for n, port in enumerate(s.ports):
        context = wsraw.client_context(certfile=mine.cert, keyfile=mine.key)
        served(s, context, of("192.0.2.31", n + 1), "192.0.2.31:%d" % (n + 1), port=port)
        s.wait_log(r'^192\.0\.2\.31:%d .* cn="device 7": client closed' % (n + 1))
        c = raw(s, wsraw.client_context(certfile=other.cert, keyfile=other.key), of("192.0.2.32", n + 1), port=port)
        with pytest.raises((AssertionError, ssl.SSLError)):
            c.handshake()
            c.open("/echo")
        c.close()
        s.wait_log(r"^192\.0\.2\.32:%d .*: TLS: client certificate " % (n + 1))


# ---------------------------------------------------------------------------------------------- heads that are none


def behind(tls):
    """What a client would go on with, so that nobody waits for more of a head."""
    if not tls:
        return wsraw.upgrade_head("/echo", "127.0.0.1")
    inc, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        wsraw.client_context().wrap_bio(inc, out).do_handshake()
    return out.read()


def test_no_head(house, tls):
    refused(house, behind(tls), tls)


@pytest.mark.parametrize("line", [b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n", b"PROXY UNKNOWN\r\n",
                                  b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 443\r\n"], ids=["tcp4", "unknown", "tcp6"])
def test_version_1(house, tls, line):
    refused(house, line + behind(tls), tls)


@pytest.mark.parametrize("at", range(12))
def test_each_byte_of_the_signature(house, tls, at):
    whole = of("192.0.2.7")
    for bit in (1, 0x80):
        refused(house, whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1:], tls)


def test_version_and_command(house, tls):
    for byte in [0x01, 0x11, 0x31, 0x10, 0xf1] + list(range(0x22, 0x30)):
        refused(house, head(ip4(), version=byte >> 4, command=byte & 15), tls)


@pytest.mark.parametrize("family, block", [
    (UDP4, ip4()), (UDP6, ip6()), (STREAM, bytes(216)), (DGRAM, bytes(216)), (0x10, ip4()), (0x13, ip4()), (0x20, ip6()),
    (0x23, ip6()), (0x41, bytes(216)), (0xf1, bytes(216)), (0xff, bytes(216))],
    ids=lambda v: "%02x" % v if isinstance(v, int) else "")
def test_families_that_are_not_tcp(house, tls, family, block):
    refused(house, head(block, family), tls)


def test_shorter_than_the_addresses(house, tls):
    """What follows is not taken for the rest of an address."""
    more = behind(tls)
    for size in (0, 1, 4, 8, 11):
        refused(house, head(ip4()[:size]) + more, tls)
    for size in (0, 1, 12, 16, 32, 35):
        refused(house, head(ip6()[:size], TCP6) + more, tls)


def test_longer_than_the_limit_is_refused_at_once(house, tls):
    for length in (MOST - 15, 4096, 32768, 65535):
        for family, command in ((TCP4, PROXY), (UNSPEC, PROXY), (UNSPEC, LOCAL)):
            refused(house, head(ip4(), family, command, length=length), tls)
    refused(house, head(ip4() + bytes(40000)), tls)


def test_mutations(house, tls):
    """Whatever bytes: the connection ends at once or at its deadline, and nobody else is harmed."""
    alive = []
    for n in range(120):
        whole = bytearray(of("192.0.2.7", tlvs=SSL) if n % 2 else of("2001:db8::7"))
        for _ in range(rnd.randrange(1, 4)):
            at = rnd.randrange(min(len(whole), 20))
            if n % 5 == 0:
                del whole[at]
            else:
                whole[at] = rnd.randrange(256)
        c = raw(house, False, bytes(whole), port=house.tls_port if tls else house.plain_port)
        with contextlib.suppress(OSError):
            c.send(rnd.randbytes(rnd.randrange(60)))
        alive.append(c)
        if len(alive) > 20:
            alive.pop(0).close()
    probe(house)


# ---------------------------------------------------------------------------------------------- listeners without it


def test_without_proxy_a_head_is_garbage(house, tls):
    """Nobody becomes somebody else by a head that nobody asked for."""
    port = house.ports[2 if tls else 3]
    for data in (of("192.0.2.40"), head(b"", UNSPEC, LOCAL), b"PROXY TCP4 192.0.2.40 198.51.100.1 51234 443\r\n"):
        with raw(house, False, data + behind(tls), port=port) as c:
            got = c.recv_all(timeout=4)
            assert b" 101 " not in got and got[:1] != b"\x16", got
            assert tls or got.startswith(b"HTTP/1.1 400 "), got
        house.wait_log(r"^127\.0\.0\.1:%d " % c.local[1])
    with house.connect(tls, port=port) as c:
        c.open("/echo")
        talk(c)
    assert not [line for line in house.lines() if "192.0.2.40" in line.split(" ")[0]]


# ---------------------------------------------------------------------------------------------- from whom


NETWORKS = [
    ("127.0.0.2/32", ["127.0.0.2"], ["127.0.0.1", "127.0.0.3"]),
    ("127.0.0.2", ["127.0.0.2"], ["127.0.0.1", "127.0.0.3", "127.0.1.2"]),
    ("127.0.0.2/31", ["127.0.0.2", "127.0.0.3"], ["127.0.0.1", "127.0.0.4"]),
    ("127.0.0.4/30", ["127.0.0.4", "127.0.0.7"], ["127.0.0.3", "127.0.0.8"]),
    ("127.0.0.0/24", ["127.0.0.1", "127.0.0.254"], ["127.0.1.1", "127.1.0.1"]),
    ("127.128.0.0/9", ["127.128.0.1", "127.255.255.254"], ["127.127.255.254", "127.0.0.1"]),
    ("127.0.0.0/8", ["127.0.0.1", "127.200.3.4"], []),
    ("0.0.0.0/0", ["127.0.0.1", "127.200.3.4"], []),
    ("0.0.0.0/1", ["127.0.0.1"], []),
    ("128.0.0.0/1", [], ["127.0.0.1"]),
    ("10.0.0.0/8", [], ["127.0.0.1", "127.10.0.0"]),
    ("0.0.0.0/32", [], ["127.0.0.1"]),
]
NETWORKS6 = [("::1/128", True), ("::1", True), ("::/127", True), ("::/64", True), ("::/0", True), ("::2/128", False),
             ("::2/127", False), ("fd00::/8", False)]


@pytest.mark.parametrize("networks", [NETWORKS[:6], NETWORKS[6:]], ids=["some", "others"])
def test_only_from_the_proxy(wssd, networks):
    s = wssd(listen=["ws://127.0.0.1:0,proxy=" + n for n, _, _ in networks], probe=lambda s: None)
    for port, (_, inside, outside) in zip(s.ports, networks):
        for source in inside:
            served(s, False, of("192.0.2.50", 50), "192.0.2.50:50", port=port, source=source)
        for source in outside:
            refused(s, of("192.0.2.51", 51), False, "not from the proxy", port=port, source=source)
            refused(s, b"", False, "not from the proxy", port=port, source=source)
    assert not [line for line in s.lines() if "192.0.2.51" in line]


def test_only_from_the_proxy_ipv6(wssd):
    s = wssd(listen=["ws://[::1]:0,proxy=" + n for n, _ in NETWORKS6], probe=lambda s: None)
    for port, (_, inside) in zip(s.ports, NETWORKS6):
        if inside:
            served(s, False, of("192.0.2.52", 52), "192.0.2.52:52", port=port, address="::1")
        else:
            refused(s, of("192.0.2.52", 52), False, "not from the proxy", port=port, address="::1")


def test_tls_port_from_elsewhere(wssd, tls):
    """Not a byte of an answer, whatever comes."""
    s = wssd(listen=["wss://127.0.0.1:0,proxy=127.0.0.2", "ws://127.0.0.1:0,proxy=127.0.0.2"], probe=lambda s: None)
    for data in (b"", of("192.0.2.53"), behind(tls), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        refused(s, data, tls, "not from the proxy")
    served(s, tls, of("192.0.2.53"), "192.0.2.53:51234", source="127.0.0.2")


@pytest.mark.parametrize("value", ["127.0.0.1/33", "127.0.0.1/-1", "127.0.0.1/", "127.0.0.1/x", "127.0.0.1/8x",
                                   "127.0.0.1/8/8", "127.0.0.1/ 8", "::1/129", "::1/", "::1/999999999999", "localhost",
                                   "example.com", "127.0.0/8", "127.0.0.300", "127.0.0.1:80", "[::1]", "[::1]/128", "/8", "",
                                   "any", "127.0.0.1 ", "::1", "::/0"])
def test_wrong_networks(wssd, certs, value):
    for url in ("ws://127.0.0.1:0", "wss://127.0.0.1:0"):
        r = wssd.bare("--listen", url + ",proxy=" + value, "--cert", certs.cert, "--key", certs.key, "--check")
        assert r.returncode == 2 and r.stderr.startswith("wssd: ") and r.stderr.count("\n") == 1, (r.returncode, r.stderr)
        assert "listen" in r.stderr, r.stderr


@pytest.mark.parametrize("listen", ["ws://127.0.0.1:0,proxy", "wss://127.0.0.1:0,proxy", "ws://127.0.0.1:0,proxie=127.0.0.1",
                                    "ws://127.0.0.1:0,proxy=127.0.0.1,", "ws://127.0.0.1:0,proxy=127.0.0.1,client-ca=CERT",
                                    "ws://127.0.0.1:0,client-ca=CERT", "wss://127.0.0.1:0,proxy=127.0.0.1,nonsense=1"])
def test_wrong_attributes(wssd, certs, listen):
    r = wssd.bare("--listen", listen.replace("CERT", certs.cert), "--cert", certs.cert, "--key", certs.key, "--check")
    assert r.returncode == 2 and r.stderr.startswith("wssd: ") and r.stderr.count("\n") == 1, (r.returncode, r.stderr)


@pytest.mark.parametrize("value", ["127.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "::1", "fd00::/8", "::/0", "2001:db8::/32",
                                   "127.0.0.1/32"])
def test_right_networks(wssd, certs, tmp_path, value):
    v6 = ":" in value
    for url in ("ws://[::1]:0", "wss://[::1]:0") if v6 else ("ws://127.0.0.1:0", "wss://127.0.0.1:0"):
        r = wssd.bare("--listen", url + ",proxy=" + value, "--cert", certs.cert, "--key", certs.key, "--check")
        assert (r.returncode, r.stderr) == (0, "")
    config = tmp_path / "wssd.conf"
    config.write_text("listen %s,proxy=%s   # the balancer\ncheck\n" % ("ws://[::1]:0" if v6 else "ws://127.0.0.1:0", value))
    r = wssd.bare("--config", config)
    assert (r.returncode, r.stderr) == (0, "")


# ---------------------------------------------------------------------------------------------- deadlines, slots, addresses


def test_deadline(wssd, tls):
    """Counted from accept(2), whatever part of a head comes meanwhile, at whatever pace; and no CPU is spent on waiting."""
    s = wssd("--timeout", "1", listen=["wss://127.0.0.1:0,proxy=127.0.0.1", "ws://127.0.0.1:0,proxy=127.0.0.1"], probe=probe)
    whole = of("192.0.2.60", 60)
    start = time.monotonic()
    silent = [raw(s, False, data, port=s.tls_port if tls else s.plain_port) for data in (
        b"", whole[:1], whole[:12], whole[:15], whole[:16], whole[:27], whole, of("192.0.2.60", 60, OWN)[:-1])]
    slow = raw(s, False, port=silent[0].port)
    sent = 0
    while time.monotonic() - start < 0.7:
        slow.wire(whole[sent:sent + 1])
        sent += 1
        time.sleep(0.1)
    assert peers.cpu_share(s.pid, 0.1) < 0.2 * SLOW
    assert [line for line in s.lines() if "proxy" in line.lower()] == []
    for c in silent + [slow]:
        assert c.recv_all(timeout=4) == b""
    assert 0.9 < time.monotonic() - start < 6 * SLOW
    peers.until(lambda: len([x for x in s.lines() if re.search(r": no request in time", x)]) == len(silent) + 1)


def test_half_a_head_then_the_end(house, tls):
    whole = of("192.0.2.61", 61)
    for size in (0, 1, 12, 16, 27):
        for end in ("close", "reset", "fin"):
            c = raw(house, False, whole[:size], port=house.tls_port if tls else house.plain_port)
            here = house.here()
            if end == "fin":
                c.sock.shutdown(socket.SHUT_WR)
                assert c.recv_all(timeout=4) == b""
                c.close()
            else:
                getattr(c, end)()
            house.wait_log(r"^127\.0\.0\.1:%d " % c.local[1], since=here)
    house.wait_counters(3, clients=0)


def limited(wssd, *args, more=(), **kw):
    return wssd(*args, listen=["wss://127.0.0.1:0,proxy=127.0.0.0/8", "ws://127.0.0.1:0,proxy=127.0.0.0/8"] + list(more),
                probe=probe, **kw)


def opened(s, tls, prefix, **kw):
    return through(s, tls, prefix, **kw).open("/echo")


def over_limit(s, tls, source, **kw):
    here = s.here()
    turned_away(raw(s, tls, of(source, 7), **kw), "max-per-ip", s, here, name_of(source, 7))


@pytest.mark.parametrize("a, b, c, other", [
    ("192.0.2.70", "192.0.2.70", "192.0.2.70", "192.0.2.71"),
    ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:0:ffff:ffff:ffff:ffff", "2001:db8:0:1::1"),
], ids=["ipv4", "ipv6"])
def test_max_per_ip_by_the_heads_address(wssd, tls, a, b, c, other):
    s = limited(wssd, "--max-clients", "16", "--max-per-ip", "2")
    mine = [opened(s, tls, of(a, 1)), opened(s, tls, of(b, 2))]
    over_limit(s, tls, c)
    others = [opened(s, tls, of(other, 4)), opened(s, tls, of(other, 5), source="127.0.0.9"),
              opened(s, not tls, of("192.0.2.72", 6))]
    over_limit(s, not tls, other)
    for x in mine + others:
        x.send_text("all here")
        x.expect_text("all here")
    mine[0].close_handshake()
    mine[0].close()
    s.wait_counters(clients=4)
    again = opened(s, tls, of(c, 8))
    over_limit(s, tls, a)
    again.close_handshake()


def test_max_per_ip_of_ipv4_within_ipv6(wssd, tls):
    """Such addresses share their first 64 bits, and are different clients."""
    s = limited(wssd, "--max-clients", "16", "--max-per-ip", "1")
    mine = [opened(s, tls, of("::ffff:192.0.2.%d" % n, n)) for n in range(3)]
    over_limit(s, tls, "192.0.2.1")
    over_limit(s, tls, "::ffff:192.0.2.2")
    for c in mine:
        c.send_text("x")
        c.expect_text("x")


def test_max_per_ip_of_local_by_the_sockets_address(wssd, tls):
    """A balancer's own connections do not shut out its clients, nor those whose head has not come its own."""
    s = limited(wssd, "--max-clients", "16", "--max-per-ip", "2")
    for n in (0, 5, 20):
        raw(s, False, of("192.0.2.80")[:n], port=s.tls_port if tls else s.plain_port, source="127.0.0.5")
    local = head(b"", UNSPEC, LOCAL)
    mine = [opened(s, tls, local, source="127.0.0.5"), opened(s, tls, head(b"", UNSPEC), source="127.0.0.5")]
    turned_away(raw(s, tls, local, source="127.0.0.5"))
    others = [opened(s, tls, of("192.0.2.8%d" % n, n), source="127.0.0.5") for n in range(4)]
    others.append(opened(s, tls, local, source="127.0.0.6"))
    for x in mine + others:
        x.send_text("all here")
        x.expect_text("all here")


def test_max_per_ip_counts_all_listeners(wssd):
    """An address is the same one, whether it comes through the proxy or by itself."""
    s = limited(wssd, "--max-clients", "16", "--max-per-ip", "2", more=["ws://127.0.0.1:0"])
    own = [opened(s, True, of("127.0.0.44", 1)), s.connect(False, port=s.ports[2], source="127.0.0.44").open("/echo")]
    over_limit(s, False, "127.0.0.44")
    with s.connect(False, port=s.ports[2], source="127.0.0.44") as c:
        assert c.recv_all(timeout=3) == b""
    with opened(s, False, of("127.0.0.45", 1)) as c:
        talk(c)
    for c in own:
        c.send_text("x")
        c.expect_text("x")


def test_half_of_the_slots_through_one_proxy(wssd, tls):
    """The limit is the clients', not the proxy's: by default one address has half of the slots, and the proxy all."""
    s = limited(wssd, "--max-clients", "8")
    mine = [opened(s, tls, of("192.0.2.9%d" % (n // 4), n)) for n in range(8)]
    for c in mine:
        c.send_text("x")
        c.expect_text("x")


def test_silent_connections_make_room(wssd, tls):
    """All slots held by connections that say nothing, or half a head: a newcomer gets the oldest one's; who came is kept.
    One that is not the proxy gets nobody's."""
    s = limited(wssd, "--max-clients", "8", "--timeout", "30", more=["ws://127.0.0.1:0,proxy=127.0.0.2"])
    port = s.tls_port if tls else s.plain_port
    guest = opened(s, tls, of("192.0.2.100", 1))
    silent = [raw(s, False, of("192.0.2.101", n)[:n * 4], port=port) for n in range(12)]
    time.sleep(2.3)
    for _ in range(9):
        refused(s, of("192.0.2.103"), False, "not from the proxy", port=s.ports[2])
    assert not [line for line in s.lines() if "made room" in line]
    with opened(s, tls, of("192.0.2.102", 3)) as c:
        talk(c)
    s.wait_log(": made room for a newcomer")
    guest.send_text("still here")
    guest.expect_text("still here")
    assert sum(1 for c in silent if peers.select.select([c.sock], [], [], 0)[0]) >= 1
    for c in silent:
        c.close()


def test_reload_while_heads_are_awaited(wssd):
    """What waits on ws goes on; on wss it has the old certificate already, and ends, as within the handshake."""
    s = limited(wssd)
    whole = of("192.0.2.110", 110)
    waiting = [raw(s, False, whole[:n], port=s.plain_port) for n in (0, 5, 27)]
    unsure = [raw(s, False, whole[:n], port=s.tls_port) for n in (0, 5, 27)]
    s.wait_counters(clients=6)
    s.hup()
    s.wait_log("reloaded")
    for n, c in zip((0, 5, 27), waiting):
        c.wire(whole[n:])
        c.open("/echo")
        talk(c)
    for c in unsure:
        assert c.recv_all(timeout=3) == b""
        s.wait_log(r"^127\.0\.0\.1:%d .*: reload during the handshake" % c.local[1])


def test_stop_while_heads_are_awaited(wssd):
    s = limited(wssd)
    for tls_port in (True, False):
        for n in (0, 5, 20):
            raw(s, False, of("192.0.2.111")[:n], port=s.tls_port if tls_port else s.plain_port)
    s.wait_counters(clients=6)
    took = peers.Stopwatch(s)
    s.ended = True
    s.signal(signal.SIGTERM)
    s.wait_log(r"^stopped$")
    assert took() < 2 * SLOW
    assert s.wait() == 0


def test_many(house, tls):
    """One after the other, so that slots are used again: an address never stays behind."""
    for n in range(60):
        served(house, tls, of("198.51.100.%d" % n, 1000 + n) if n % 3 else head(b"", UNSPEC, LOCAL),
               "198.51.100.%d:%d" % (n, 1000 + n) if n % 3 else None)


# ---------------------------------------------------------------------------------------------- the real HAProxy


HAPROXY = """
global
    maxconn 200
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""


class Haproxy:
    """HAProxy with listening sockets that this process made: sections are (address, words of bind, words of server)."""

    def __init__(self, path, *sections):
        self.socks, text = [], HAPROXY
        for n, (address, bind, server) in enumerate(sections):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            self.socks.append(sock)
            sock.bind((address, 0))
            sock.listen(64)
            text += "listen l%d\n    bind fd@%d %s\n    server s%d %s\n" % (n, sock.fileno(), bind, n, server)
        self.ports = [sock.getsockname()[1] for sock in self.socks]
        config = path / "haproxy.cfg"
        config.write_text(text)
        self.log = open(path / "haproxy.log", "w+b")
        self.proc = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=self.log,
                                     stderr=self.log, pass_fds=[sock.fileno() for sock in self.socks])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.terminate()
        try:
            self.proc.wait(WAIT)
        finally:
            self.proc.kill()
            self.proc.wait()
            self.log.close()
            for sock in self.socks:
                sock.close()


def test_haproxy(wssd, tmp_path, certs):
    """TCP mode, TLS through to wssd, every option that adds to the head; the log has the clients' addresses."""
    s = limited(wssd, "--max-clients", "64", "--max-per-ip", "2")
    wss, ws = "127.0.0.1:%d " % s.tls_port, "127.0.0.1:%d " % s.plain_port
    options = "proxy-v2-options crc32c,authority,ssl,cert-cn,ssl-cipher,cert-sig,cert-key"
    with Haproxy(tmp_path, ("127.0.0.1", "", wss + "send-proxy-v2"), ("127.0.0.1", "", ws + "send-proxy-v2"),
                 ("::1", "", wss + "send-proxy-v2"), ("127.0.0.1", "", wss + "send-proxy-v2 " + options),
                 ("127.0.0.1", "", wss + "send-proxy")) as h:
        for n, (tls, address, source) in enumerate([(True, "127.0.0.1", "127.0.0.7"), (False, "127.0.0.1", "127.1.2.3"),
                                                    (True, "::1", None), (True, "127.0.0.1", "127.0.0.8")]):
            with wsraw.connect(h.ports[n], tls, address, source=source) as c:
                c.open("/echo")
                data = rnd.randbytes(200000)
                c.send_binary(data, drain=True)
                c.expect_binary(data)
                c.close_handshake()
            s.wait_log("^" + re.escape(name_of(*c.local[:2])) + r" \S+ /echo 1000 ")
        c = wsraw.connect(h.ports[4], True, handshake=False)        # version 1
        with pytest.raises(AssertionError):
            c.handshake()
        s.wait_log(r"^127\.0\.0\.1:\d+ .*: no valid PROXY head")
        mine = [wsraw.connect(h.ports[0], True, source="127.0.0.9").open("/echo") for _ in range(2)]
        third = wsraw.connect(h.ports[0], True, source="127.0.0.9", handshake=False)
        with pytest.raises(AssertionError):
            third.handshake()
        s.wait_log(r"^127\.0\.0\.9:%d .*: max-per-ip" % third.local[1])
        crowd = [wsraw.connect(h.ports[n % 2], n % 2 == 0, source="127.0.1.%d" % (n // 2 + 1)) for n in range(40)]
        for n, c in enumerate(crowd + mine):
            if n < len(crowd):
                c.open("/echo")
            c.send_text("client %d" % n)
            c.expect_text("client %d" % n)
        for c in crowd + mine:
            c.close_handshake()
            c.close()
            s.wait_log("^" + re.escape(name_of(*c.local[:2])) + r" \S+ /echo 1000 ")


def test_haproxy_that_ends_tls(wssd, tmp_path):
    """It tells of the client's certificate in TLVs, which are skipped; wssd behind it speaks ws."""
    p = pki_module.Pki(tmp_path)
    ca = p.ca("ca")
    front, mine = p.server("front"), p.client("device 7", issuer=ca)
    pem = p.join("front.pem", front.cert, front.key)
    s = limited(wssd)
    bind = "ssl crt %s ca-file %s verify optional ssl-max-ver TLSv1.2 alpn http/1.1" % (pem, ca.cert)
    ws = "127.0.0.1:%d " % s.plain_port
    words = ("send-proxy-v2-ssl", "send-proxy-v2-ssl-cn",
             "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c")
    with Haproxy(tmp_path, *[("127.0.0.1", bind, ws + w) for w in words]) as h:
        for n, port in enumerate(h.ports):
            for context in (wsraw.client_context(), wsraw.client_context(certfile=mine.cert, keyfile=mine.key)):
                with wsraw.connect(port, context, source="127.0.0.%d" % (20 + n)) as c:
                    c.open("/echo")
                    talk(c)
                s.wait_log("^" + re.escape(name_of(*c.local[:2])) + " plain /echo 1000 ")


@pytest.mark.parametrize("more", [[], ["--verbose"]], ids=["quiet", "verbose"])
def test_haproxy_checks_health(wssd, tmp_path, tls, more):
    """Its checks come as LOCAL, hold no slot and fill no log; with --verbose they show in it."""
    s = limited(wssd, "--max-clients", "4", *more)
    port = s.tls_port if tls else s.plain_port
    with Haproxy(tmp_path, ("127.0.0.1", "", "127.0.0.1:%d send-proxy-v2 check inter 50ms fall 2 rise 2" % port)) as h:
        peers.until(lambda: s.counters()["accepted"] > 10)
        with wsraw.connect(h.ports[0], tls, source="127.0.0.30") as c:
            c.open("/echo")
            talk(c)
        s.wait_log("^" + re.escape(name_of(*c.local[:2]) + " "))
        lines = [line for line in s.lines() if re.match(r"127\.0\.0\.1:\d+ ", line)]
        assert len(lines) > 5 if more else lines == [], lines
        assert [line for line in s.lines() if "PROXY head" in line or "max-per-ip" in line] == []
    s.wait_counters(clients=0)


def test_haproxy_is_killed(wssd, tmp_path):
    """Its clients' slots are free again."""
    s = limited(wssd)
    with Haproxy(tmp_path, ("127.0.0.1", "", "127.0.0.1:%d send-proxy-v2" % s.tls_port)) as h:
        crowd = [wsraw.connect(h.ports[0], True).open("/echo") for _ in range(10)]
        assert s.counters()["clients"] == 10
        h.proc.send_signal(signal.SIGKILL)
        s.wait_counters(3, clients=0)
        assert len(crowd) == 10
