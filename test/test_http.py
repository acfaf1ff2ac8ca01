"""HTTP by raw sockets: what a stranger gets for a good, an odd and a malformed request, and what files give away.

Each malformation has a line in a table; every refusal must be one complete reply that says that the connection closes,
then a clean end (no reset, even when more was sent than anybody reads).
"""

import hashlib
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import conftest
import peers
import wsraw
from conftest import LIBC
from wsraw import TEXT, frame, head

KINDS = {
    "index.html": "text/html", "page.html": "text/html", "app.js": "text/javascript", "mod.mjs": "text/javascript",
    "style.css": "text/css", "pic.svg": "image/svg+xml", "data.json": "application/json", "code.wasm": "application/wasm",
    "favicon.ico": "image/x-icon", "font.woff2": "font/woff2", "plain.txt": "text/plain", "img.png": "image/png",
    "photo.jpg": "image/jpeg", "noending": "application/octet-stream", "strange.qqq": "application/octet-stream",
    "UPPER.HTML": "text/html", "two.dots.js": "text/javascript", "html": "application/octet-stream",
    "x.htmlx": "application/octet-stream",
}
SECRET = b"this must never leave the machine"
BIG = bytes(range(256)) * 4096 * 3  # 3 MiB


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A root with everything in it that may be served, and a good deal that must not; outside stands beside it."""
    top = tmp_path_factory.mktemp("files")
    root, outside = top / "root", top / "outside"
    for d in (root / "sub" / "deep", root / "noindex", root / ".git", root / "linkindex", root / "dirindex" / "index.html",
              root / ("d" * 200) / ("e" * 100), outside):
        d.mkdir(parents=True)
    for name in KINDS:
        (root / name).write_bytes(b"contents of " + name.encode())
    (root / "empty.txt").write_bytes(b"")
    (root / "big.bin").write_bytes(BIG)
    (root / "with space.txt").write_bytes(b"space")
    (root / "100%.txt").write_bytes(b"percent")
    (root / "a+b.txt").write_bytes(b"plus")
    (root / "q?x.txt").write_bytes(b"question")
    (root / "ä.txt").write_bytes(b"umlaut")
    (root / "%2e%2e").mkdir()
    (root / "%2e%2e" / "in.txt").write_bytes(b"a strange name, but inside")
    (root / ("n" * 250 + ".txt")).write_bytes(b"long name")
    (root / ("m" * 255)).write_bytes(b"longest name")
    (root / "sub" / "index.html").write_bytes(b"index of sub")
    (root / "sub" / "x.txt").write_bytes(b"x in sub")
    (root / "sub" / "deep" / "y.txt").write_bytes(b"y in deep")
    (root / "noindex" / "z.txt").write_bytes(b"z")
    for name in (".hidden", ".git/config", "sub/.secret", "..trap"):
        (root / name).write_bytes(SECRET)
    (outside / "secret.txt").write_bytes(SECRET)
    (outside / "index.html").write_bytes(SECRET)
    (root / "link.txt").symlink_to("plain.txt")
    (root / "out.txt").symlink_to("../outside/secret.txt")
    (root / "abs.txt").symlink_to(outside / "secret.txt")
    (root / "dirlink").symlink_to("sub")
    (root / "outdir").symlink_to("../outside")
    (root / "self").symlink_to(".")
    (root / "dangling").symlink_to("nowhere")
    (root / "linkindex" / "index.html").symlink_to("../../outside/secret.txt")
    os.mkfifo(root / "fifo")
    s = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(root)
    s.bind("sock")
    os.chdir(here)
    s.close()
    return root


@pytest.fixture(scope="module")
def server(wssd_module, tree):
    return wssd_module("/own=echo,origin=https://route.example,origin=https://second.example",
                       listen=["ws://127.0.0.1:0", "wss://127.0.0.1:0"], root=tree)


@pytest.fixture(params=["wss", "ws"])
def c(server, request):
    return server.connect(request.param == "wss")


def refused(c, status, method="GET"):
    """One reply with this status (or one of them) that says that it closes, then a clean end."""
    r = c.reply(method)
    assert r.status in (status if isinstance(status, tuple) else (status,)), r
    assert r.closing, r
    sane(r)
    c.expect_eof()
    return r


def sane(r):
    """What each reply has (RFC 9110 8.6); no Date, since the clock may never have been set (6.6.1)."""
    assert r.version == "HTTP/1.1" and r.reason.strip(), r
    if r.status not in (101, 304):
        assert r.get("Content-Length", "").isdigit() and r.get("Content-Type"), r


# ================================================================================================ malformed requests

H = "Host: localhost\r\n"
BAD = {
    # RFC 9112 2.2: lines
    "bare-lf": (400, "GET / HTTP/1.1\nHost: localhost\n\n"),
    "bare-lf-after-request-line": (400, "GET / HTTP/1.1\nHost: localhost\r\n\r\n"),
    "bare-lf-after-field": (400, "GET / HTTP/1.1\r\n" + "Host: localhost\nA: b\r\n\r\n"),
    "bare-lf-at-the-end": (400, "GET / HTTP/1.1\r\n" + H + "\n"),
    "lf-cr": (400, "GET / HTTP/1.1\r\nHost: localhost\n\r\n\r\n"),
    "bare-cr-in-value": (400, "GET / HTTP/1.1\r\n" + H + "A: b\rc\r\n\r\n"),
    "bare-cr-in-request-line": (400, "GET /\rHTTP/1.1\r\n" + H + "\r\n"),
    "cr-cr-lf": (400, "GET / HTTP/1.1\r\r\n" + H + "\r\n"),
    "two-empty-lines-first": (400, "\r\n\r\nGET / HTTP/1.1\r\n" + H + "\r\n"),
    "lf-first": (400, "\nGET / HTTP/1.1\r\n" + H + "\r\n"),
    # 3: the request line
    "space-first": (400, " GET / HTTP/1.1\r\n" + H + "\r\n"),
    "two-spaces": (400, "GET  / HTTP/1.1\r\n" + H + "\r\n"),
    "two-spaces-before-version": (400, "GET /  HTTP/1.1\r\n" + H + "\r\n"),
    "tab-separator": (400, "GET\t/\tHTTP/1.1\r\n" + H + "\r\n"),
    "space-after-version": (400, "GET / HTTP/1.1 \r\n" + H + "\r\n"),
    "space-in-target": (400, "GET /a b HTTP/1.1\r\n" + H + "\r\n"),
    "no-target": (400, "GET HTTP/1.1\r\n" + H + "\r\n"),
    "http-0.9": (400, "GET /\r\n\r\n"),
    "no-version": (400, "GET / \r\n" + H + "\r\n"),
    "only-method": (400, "GET\r\n" + H + "\r\n"),
    "lower-case-version": (400, "GET / http/1.1\r\n" + H + "\r\n"),
    "longer-version": (400, "GET / HTTP/1.1x\r\n" + H + "\r\n"),
    "field-behind-version": (400, "GET / HTTP/1.1, Host: localhost\r\n\r\n"),
    "two-digit-version": (400, "GET / HTTP/1.10\r\n" + H + "\r\n"),
    "no-dot-in-version": (400, "GET / HTTP/11\r\n" + H + "\r\n"),
    "cut-version": (400, "GET / HTTP/1.\r\n" + H + "\r\n"),
    "other-protocol": (400, "GET / ICY/1.1\r\n" + H + "\r\n"),
    "method-with-brackets": (400, "G(T / HTTP/1.1\r\n" + H + "\r\n"),
    "method-with-high-byte": (400, "G\xe4T / HTTP/1.1\r\n" + H + "\r\n"),
    # 3.2: the target
    "target-without-slash": (400, "GET index.html HTTP/1.1\r\n" + H + "\r\n"),
    "target-asterisk": (400, "GET * HTTP/1.1\r\n" + H + "\r\n"),
    "target-query-only": (400, "GET ?a HTTP/1.1\r\n" + H + "\r\n"),
    "target-fragment": (400, "GET /#a HTTP/1.1\r\n" + H + "\r\n"),
    "target-high-byte": (400, "GET /\xe4 HTTP/1.1\r\n" + H + "\r\n"),
    "target-delete": (400, "GET /a\x7fb HTTP/1.1\r\n" + H + "\r\n"),
    "target-other-scheme": (400, "GET ftp://localhost/ HTTP/1.1\r\n" + H + "\r\n"),
    "target-one-slash-scheme": (400, "GET http:/localhost/ HTTP/1.1\r\n" + H + "\r\n"),
    "target-empty-authority": (400, "GET http:/// HTTP/1.1\r\n" + H + "\r\n"),
    "target-nothing-behind-scheme": (400, "GET http:// HTTP/1.1\r\n" + H + "\r\n"),
    "target-userinfo": (400, "GET http://user@localhost/ HTTP/1.1\r\n" + H + "\r\n"),
    "target-authority-form": (400, "GET localhost:80 HTTP/1.1\r\n" + H + "\r\n"),
    "target-port-not-a-number": (400, "GET http://localhost:a/ HTTP/1.1\r\n" + H + "\r\n"),
    "percent-alone": (400, "GET /% HTTP/1.1\r\n" + H + "\r\n"),
    "percent-cut": (400, "GET /%4 HTTP/1.1\r\n" + H + "\r\n"),
    "percent-not-hex": (400, "GET /%zz HTTP/1.1\r\n" + H + "\r\n"),
    "percent-half-hex": (400, "GET /%4g HTTP/1.1\r\n" + H + "\r\n"),
    "percent-sign": (400, "GET /%+1 HTTP/1.1\r\n" + H + "\r\n"),
    "percent-nul": (400, "GET /%00 HTTP/1.1\r\n" + H + "\r\n"),
    "percent-nul-behind-a-name": (400, "GET /index.html%00.txt HTTP/1.1\r\n" + H + "\r\n"),
    "percent-slash": (400, "GET /sub%2fx.txt HTTP/1.1\r\n" + H + "\r\n"),
    "percent-slash-upper-case": (400, "GET /sub%2Fx.txt HTTP/1.1\r\n" + H + "\r\n"),
    "percent-lf": (400, "GET /%0aA:b HTTP/1.1\r\n" + H + "\r\n"),
    "percent-crlf": (400, "GET /sub%0d%0aSet-Cookie:a HTTP/1.1\r\n" + H + "\r\n"),
    "percent-delete": (400, "GET /%7f HTTP/1.1\r\n" + H + "\r\n"),
    "percent-unit-separator": (400, "GET /%1f HTTP/1.1\r\n" + H + "\r\n"),
    # 3.2 and RFC 9110 7.2: Host
    "no-host": (400, "GET / HTTP/1.1\r\n\r\n"),
    "no-host-but-others": (400, "GET / HTTP/1.1\r\nA: b\r\nHostess: localhost\r\nHos: localhost\r\n\r\n"),
    "no-host-http-1.0": (400, "GET / HTTP/1.0\r\n\r\n"),
    "two-hosts": (400, "GET / HTTP/1.1\r\n" + H + H + "\r\n"),
    "two-hosts-other-case": (400, "GET / HTTP/1.1\r\n" + H + "HOST: other\r\n\r\n"),
    "empty-host": (400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "host-list": (400, "GET / HTTP/1.1\r\nHost: localhost, other\r\n\r\n"),
    "host-with-space": (400, "GET / HTTP/1.1\r\nHost: local host\r\n\r\n"),
    "host-with-slash": (400, "GET / HTTP/1.1\r\nHost: localhost/\r\n\r\n"),
    "host-with-user": (400, "GET / HTTP/1.1\r\nHost: a@localhost\r\n\r\n"),
    "host-port-not-a-number": (400, "GET / HTTP/1.1\r\nHost: localhost:8a\r\n\r\n"),
    "host-two-ports": (400, "GET / HTTP/1.1\r\nHost: localhost:80:80\r\n\r\n"),
    "host-only-port": (400, "GET / HTTP/1.1\r\nHost: :80\r\n\r\n"),
    "host-ipv6-without-brackets": (400, "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n"),
    "host-ipv6-not-closed": (400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    "host-ipv6-empty": (400, "GET / HTTP/1.1\r\nHost: []\r\n\r\n"),
    "host-ipv6-not-hex": (400, "GET / HTTP/1.1\r\nHost: [gg::1]\r\n\r\n"),
    "host-ipv6-tail": (400, "GET / HTTP/1.1\r\nHost: [::1]evil\r\n\r\n"),
    "absolute-form-without-host": (400, "GET http://localhost/ HTTP/1.1\r\n\r\n"),
    # 5: fields
    "folded": (400, "GET / HTTP/1.1\r\n" + H + "A: b\r\n c\r\n\r\n"),
    "folded-by-tab": (400, "GET / HTTP/1.1\r\n" + H + "A: b\r\n\tc\r\n\r\n"),
    "folded-first": (400, "GET / HTTP/1.1\r\n A: b\r\n" + H + "\r\n"),
    "space-before-colon": (400, "GET / HTTP/1.1\r\n" + H + "A : b\r\n\r\n"),
    "host-space-before-colon": (400, "GET / HTTP/1.1\r\nHost : localhost\r\n\r\n"),
    "no-colon": (400, "GET / HTTP/1.1\r\n" + H + "A\r\n\r\n"),
    "empty-name": (400, "GET / HTTP/1.1\r\n" + H + ": b\r\n\r\n"),
    "name-with-space": (400, "GET / HTTP/1.1\r\n" + H + "A B: c\r\n\r\n"),
    "name-with-bracket": (400, "GET / HTTP/1.1\r\n" + H + "A(: c\r\n\r\n"),
    "name-with-slash": (400, "GET / HTTP/1.1\r\n" + H + "A/B: c\r\n\r\n"),
    "name-with-high-byte": (400, "GET / HTTP/1.1\r\n" + H + "\xc4: c\r\n\r\n"),
    "nul-in-name": (400, "GET / HTTP/1.1\r\n" + H + "A\0: c\r\n\r\n"),
    "nul-in-value": (400, "GET / HTTP/1.1\r\n" + H + "A: b\0c\r\n\r\n"),
    "nul-in-target": (400, "GET /\0 HTTP/1.1\r\n" + H + "\r\n"),
    "nul-in-method": (400, "G\0T / HTTP/1.1\r\n" + H + "\r\n"),
    "nul-first": (400, "\0GET / HTTP/1.1\r\n" + H + "\r\n"),
    "nul-in-host": (400, "GET / HTTP/1.1\r\nHost: localhost\0.evil\r\n\r\n"),
    "control-byte-in-value": (400, "GET / HTTP/1.1\r\n" + H + "A: b\x01c\r\n\r\n"),
    "escape-in-value": (400, "GET / HTTP/1.1\r\n" + H + "A: \x1b[2J\r\n\r\n"),
    "delete-in-value": (400, "GET / HTTP/1.1\r\n" + H + "A: \x7f\r\n\r\n"),
    "vertical-tab-in-value": (400, "GET / HTTP/1.1\r\n" + H + "A: b\x0bc\r\n\r\n"),
    # 6: no body is ever read
    "chunked": (400, "GET / HTTP/1.1\r\n" + H + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked-post": (400, "POST / HTTP/1.1\r\n" + H + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    "transfer-encoding-identity": (400, "GET / HTTP/1.1\r\n" + H + "transfer-encoding: identity\r\n\r\n"),
    "transfer-encoding-empty": (400, "GET / HTTP/1.1\r\n" + H + "Transfer-Encoding:\r\n\r\n"),
    "both-lengths": (400, "GET / HTTP/1.1\r\n" + H + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "content-length-5": (400, "GET / HTTP/1.1\r\n" + H + "Content-Length: 5\r\n\r\nhello"),
    "content-length-5-post": (400, "POST / HTTP/1.1\r\n" + H + "Content-Length: 5\r\n\r\nhello"),
    "content-length-in-lower-case": (400, "GET / HTTP/1.1\r\n" + H + "content-length: 1\r\n\r\nx"),
    "content-length-2^64": (400, "GET / HTTP/1.1\r\n" + H + "Content-Length: 18446744073709551616\r\n\r\n"),
    "content-length-plus-0": (400, "GET / HTTP/1.1\r\n" + H + "Content-Length: +0\r\n\r\n"),
    "content-length-minus-0": (400, "GET / HTTP/1.1\r\n" + H + "Content-Length: -0\r\n\r\n"),
    "content-length-hex": (400, "GET / HTTP/1.1\r\n" + H + "Content-Length: 0x0\r\n\r\n"),
    "content-length-list": (400, "GET / HTTP/1.1\r\n" + H + "Content-Length: 0, 0\r\n\r\n"),
    "content-length-empty": (400, "GET / HTTP/1.1\r\n" + H + "Content-Length:\r\n\r\n"),
    "two-content-lengths": (400, "GET / HTTP/1.1\r\n" + H + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n"),
    # versions and methods
    "version-2.0": (505, "GET / HTTP/2.0\r\n" + H + "\r\n"),
    "version-1.2": (505, "GET / HTTP/1.2\r\n" + H + "\r\n"),
    "version-0.9": (505, "GET / HTTP/0.9\r\n" + H + "\r\n"),
    "version-3.1": (505, "GET / HTTP/3.1\r\n" + H + "\r\n"),
    "http-2-preface": ((501, 505), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "unknown-method": (501, "BREW / HTTP/1.1\r\n" + H + "\r\n"),
    "method-in-lower-case": (501, "get / HTTP/1.1\r\n" + H + "\r\n"),
    "longer-method": (501, "GETX / HTTP/1.1\r\n" + H + "\r\n"),
    "shorter-method": (501, "GE / HTTP/1.1\r\n" + H + "\r\n"),
    "very-long-method": (501, "A" * 2000 + " / HTTP/1.1\r\n" + H + "\r\n"),
    "webdav-method": (501, "PROPFIND / HTTP/1.1\r\n" + H + "\r\n"),
    "unknown-method-on-route": (501, "BREW /echo HTTP/1.1\r\n" + H + "\r\n"),
    # limits
    "9000-bytes": (431, "GET / HTTP/1.1\r\n" + H + "A: " + "a" * 9000 + "\r\n\r\n"),
    "endless-target": (431, "GET /" + "a" * 9000 + " HTTP/1.1\r\n" + H + "\r\n"),
    "endless-head-without-end": (431, "GET / HTTP/1.1\r\n" + H + "A: b\r\n" * 2000),
    "endless-name": (431, "GET / HTTP/1.1\r\n" + "N" * 20000),
    "101-fields": (431, "GET / HTTP/1.1\r\n" + H + "A: b\r\n" * 100 + "\r\n"),
    "5000-fields": (431, "GET / HTTP/1.1\r\n" + H + "A: b\r\n" * 5000 + "\r\n"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed(c, name):
    status, data = BAD[name]
    c.send(data.encode("latin-1"), drain=True)
    refused(c, status)


@pytest.mark.parametrize("name", BAD)
def test_malformed_with_much_behind_it(c, name):
    """The reply survives when the client goes on sending what nobody reads: lingering, no reset."""
    status, data = BAD[name]
    c.send(data.encode("latin-1") + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000, drain=True)
    refused(c, status)


@pytest.mark.parametrize("name", [n for n, (s, d) in BAD.items() if len(d) < 400])
def test_malformed_byte_by_byte(c, name):
    status, data = BAD[name]
    c.send(data.encode("latin-1"), bytewise=True, drain=True)
    refused(c, status)


def test_a_refusal_lingers_while_the_client_sends(c):
    """After its reply and its end the server still takes in what comes, so that no reset can overtake the reply."""
    c.send(b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for _ in range(20):
        c.send(b"x" * 10000)
        time.sleep(0.005)
    refused(c, 501)
    for _ in range(5):
        c.send(b"x" * 10000)
        time.sleep(0.01)


def test_lingering_ends_at_the_deadline(wssd):
    s = wssd("--timeout", "1", plain=True)
    clients = []
    for tls in (True, False):
        clients.append(s.connect(tls))
        clients[-1].send(b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n")
        refused(clients[-1], 505)
    s.wait_counters(4, clients=0)


def test_a_head_without_end_gets_no_more_than_the_deadline(wssd):
    s = wssd("--timeout", "1", plain=True)
    for tls in (True, False):
        c = s.connect(tls)
        began = time.monotonic()
        c.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises((wsraw.Ended, ConnectionError)):
            while time.monotonic() < began + 5 * wsraw.SLOW:
                c.send(b"A: b\r\n")
                try:
                    if not c.more(0.1):
                        raise wsraw.Ended("closed")
                except wsraw.Silence:
                    pass


# ================================================================================================ the limits


def padded(n, target="/page.html"):
    """A request head of exactly n bytes."""
    start = "GET %s HTTP/1.1\r\n%sA: " % (target, H)
    return (start + "a" * (n - len(start) - 4) + "\r\n\r\n").encode()


@pytest.mark.parametrize("n", [8190, 8191, 8192])
def test_a_head_up_to_8192_bytes_passes(c, n):
    assert len(padded(n)) == n
    for _ in range(3):
        c.send(padded(n))
        r = c.reply()
        assert r.status == 200 and r.body == b"contents of page.html"


@pytest.mark.parametrize("n", [8193, 8194, 8195, 8196, 8197, 12000, 16384, 70000])
def test_a_head_above_8192_bytes_is_refused(c, n):
    c.send(padded(n), drain=True)
    refused(c, 431)


def test_a_head_of_8192_bytes_byte_by_byte(c):
    for i in range(0, 8192, 1 if c.tls is None else 8):
        c.send(padded(8192)[i:i + (1 if c.tls is None else 8)])
    assert c.reply().status == 200


def test_the_limit_is_that_of_each_head(c):
    """Pipelined heads count one by one, wherever the reads cut them."""
    c.send(padded(5000) * 40, drain=True)
    for _ in range(40):
        assert c.reply().status == 200


def test_100_fields_pass(c):
    c.send(head("GET", "/page.html", ["Host: localhost"] + ["A%d: b" % i for i in range(99)]))
    assert c.reply().status == 200


def test_host_as_the_100th_field(c):
    c.send(head("GET", "/page.html", ["A%d: b" % i for i in range(99)] + ["Host: localhost"]))
    assert c.reply().status == 200


def test_upgrade_with_100_fields(c):
    c.open("/echo", extra=["A%d: b" % i for i in range(95)])
    c.send_text("x")
    c.expect_text("x")


# ================================================================================================ good, if odd


GOOD = {
    "plain": "GET /page.html HTTP/1.1\r\n" + H + "\r\n",
    "empty-line-first": "\r\nGET /page.html HTTP/1.1\r\n" + H + "\r\n",
    "no-space-after-colon": "GET /page.html HTTP/1.1\r\nHost:localhost\r\n\r\n",
    "spaces-and-tabs-around-values": "GET /page.html HTTP/1.1\r\nHost: \t localhost \t\r\nA:\t\r\n\r\n",
    "empty-value": "GET /page.html HTTP/1.1\r\n" + H + "A:\r\nB: \r\n\r\n",
    "high-bytes-in-value": "GET /page.html HTTP/1.1\r\n" + H + "A: \xe4\xff\x80\r\n\r\n",
    "colons-in-value": "GET /page.html HTTP/1.1\r\n" + H + "A: b:c::\r\n\r\n",
    "odd-token-name": "GET /page.html HTTP/1.1\r\n" + H + "!#$%&'*+-.^_`|~09aZ: b\r\n\r\n",
    "host-in-upper-case": "GET /page.html HTTP/1.1\r\nHOST: LOCALHOST\r\n\r\n",
    "host-with-port": "GET /page.html HTTP/1.1\r\nHost: localhost:1\r\n\r\n",
    "host-ipv6": "GET /page.html HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n",
    "host-ipv4": "GET /page.html HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
    "query": "GET /page.html?a=b HTTP/1.1\r\n" + H + "\r\n",
    "empty-query": "GET /page.html? HTTP/1.1\r\n" + H + "\r\n",
    "query-with-odd-bytes": "GET /page.html?%00%2f/../?%zz HTTP/1.1\r\n" + H + "\r\n",
    "absolute-form": "GET http://localhost/page.html HTTP/1.1\r\n" + H + "\r\n",
    "absolute-form-https": "GET https://localhost:8443/page.html?q HTTP/1.1\r\n" + H + "\r\n",
    "absolute-form-scheme-in-upper-case": "GET HTTP://localhost/page.html HTTP/1.1\r\n" + H + "\r\n",
    "percent-encoded": "GET /p%61ge%2Ehtml HTTP/1.1\r\n" + H + "\r\n",
    "content-length-0": "GET /page.html HTTP/1.1\r\n" + H + "Content-Length: 0\r\n\r\n",
    "range-ignored": "GET /page.html HTTP/1.1\r\n" + H + "Range: bytes=0-3\r\n\r\n",
    "expect-ignored": "GET /page.html HTTP/1.1\r\n" + H + "Expect: 100-continue\r\n\r\n",
    "upgrade-of-a-file-ignored": "GET /page.html HTTP/1.1\r\n" + H + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "accept-ignored": "GET /page.html HTTP/1.1\r\n" + H + "Accept: image/png\r\nAccept-Encoding: gzip, br\r\n\r\n",
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytes"])
@pytest.mark.parametrize("name", GOOD)
def test_good(c, name, bytewise):
    c.send(GOOD[name].encode("latin-1"), bytewise=bytewise)
    r = c.reply()
    sane(r)
    assert r.status == 200 and r.body == b"contents of page.html" and not r.closing, r
    assert c.request("GET", "/app.js", {"Host": "localhost"}).status == 200


@pytest.mark.parametrize("form", ["http://localhost", "http://localhost?query", "https://localhost/", "HTTP://LOCALHOST:80/"])
def test_absolute_form_of_the_root(c, form):
    r = c.request("GET", form, {"Host": "localhost"})
    assert r.status == 200 and r.body == b"contents of index.html"


def test_authority_of_absolute_form_counts_as_host(server):
    c = server.connect(tls=False)
    assert c.request("GET", "http://localhost/page.html", {"Host": "evil.example"}).status == 200
    c.send(head("GET", "http://evil.example/page.html", ["Host: localhost"]))
    refused(c, 421)


# ================================================================================================ keep-alive, pipelining


def test_keep_alive_after_200_304_404_and_head(c):
    etag = c.request("GET", "/page.html").get("ETag")
    for _ in range(3):
        assert c.request("GET", "/page.html").status == 200
        assert c.request("GET", "/nothing").status == 404
        assert c.request("GET", "/page.html", extra=[("If-None-Match", etag)]).status == 304
        assert c.request("HEAD", "/page.html").status == 200
        assert c.request("HEAD", "/nothing").status == 404
        assert c.request("GET", "/big.bin").body == BIG
    c.open("/echo").send_text("and at last an upgrade")
    c.expect_text("and at last an upgrade")
    c.close_handshake()


def test_connection_close_is_honoured(c):
    for token in ("close", "Close", "keep-alive, close"):
        with wsraw.connect(c.port, c.tls is not None) as d:
            d.send(head("GET", "/page.html", [H.strip(), "Connection: " + token]))
            assert refused(d, 200).body == b"contents of page.html"
    c.send(head("GET", "/nothing", [H.strip(), "Connection: close"]))
    refused(c, 404)


def test_http_1_0_closes(c):
    c.send(b"GET /page.html HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert refused(c, 200).body == b"contents of page.html"


def test_nothing_is_read_after_connection_close(c):
    c.send((b"GET /page.html HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") * 5)
    refused(c, 200)


def test_pipelining(c):
    """Replies in the order of the requests, however the bytes of the heads fall into reads."""
    names = ["/page.html", "/nothing", "/app.js", "/empty.txt", "/style.css"] * 20
    c.send(b"".join(head("GET", n, [H.strip()]) for n in names), drain=True)
    for n in names:
        r = c.reply()
        assert r.status == (404 if n == "/nothing" else 200)
        if r.status == 200:
            assert r.body == (b"" if n == "/empty.txt" else b"contents of " + n[1:].encode())
    assert c.request("GET", "/page.html").status == 200


def test_pipelining_cut_at_each_byte(c):
    data = head("GET", "/page.html", [H.strip()]) + head("HEAD", "/app.js", [H.strip()])
    for cut in range(1, len(data)):
        c.send(data[:cut])
        c.send(data[cut:])
        assert c.reply().body == b"contents of page.html"
        assert c.reply("HEAD").get("Content-Length") == str(len("contents of app.js"))


def test_pipelining_behind_a_large_file(c):
    c.send(head("GET", "/big.bin", [H.strip()]) + head("HEAD", "/big.bin", [H.strip()]) + head("GET", "/page.html", [H.strip()]), drain=True)
    assert c.reply().body == BIG
    assert c.reply("HEAD").get("Content-Length") == str(len(BIG))
    assert c.reply().body == b"contents of page.html"


def test_pipelining_stops_at_a_malformed_request(c):
    c.send(head("GET", "/page.html", [H.strip()]) + b"GET /\x01 HTTP/1.1\r\n\r\n" + head("GET", "/app.js", [H.strip()]))
    assert c.reply().body == b"contents of page.html"
    refused(c, 400)


@pytest.mark.parametrize("tls", [True, False])
def test_pipelining_without_reading(server, tls):
    """Requests wait while their replies have no room; none is lost, and each reply stands in its place."""
    before = server.counters()["requests"]
    c = server.connect(tls, rcvbuf=4096)
    names = ["/nothing", "/page.html"] * 2000
    c.send(b"".join(head("GET", n, [H.strip()]) for n in names))
    assert peers.settled(lambda: server.counters()["requests"] - before) < 4000
    for n in names:
        r = c.reply()
        assert r.status == (404 if n == "/nothing" else 200)
        assert r.status == 404 or r.body == b"contents of page.html"


def test_upgrade_pipelined_behind_a_request(c):
    c.send(head("GET", "/page.html", [H.strip()]) + wsraw.upgrade_head("/echo", c.host) + frame(TEXT, "early"))
    assert c.reply().body == b"contents of page.html"
    wsraw.check_101(c.reply(), wsraw.KEY)
    c.expect_text("early")
    c.close_handshake()


def test_one_empty_line_between_requests(c):
    c.send((head("GET", "/page.html", [H.strip()]) + b"\r\n") * 3)
    for _ in range(3):
        assert c.reply().status == 200


def test_half_close_behind_a_request(c):
    """A client that sends its FIN behind the request gets its reply all the same."""
    c.send(head("GET", "/page.html", [H.strip()]))
    c.shutdown_write(notify=False)
    assert c.reply().body == b"contents of page.html"


# ================================================================================================ methods


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_on_a_file(c, method):
    c.send(head(method, "/page.html", [H.strip()]))
    r = refused(c, 405)
    assert sorted(t.strip() for t in r.get("Allow").split(",")) == ["GET", "HEAD"]


@pytest.mark.parametrize("line", ["OPTIONS * HTTP/1.1", "CONNECT localhost:80 HTTP/1.1", "CONNECT /page.html HTTP/1.1"])
def test_other_forms_of_target(c, line):
    c.send((line + "\r\n" + H + "\r\n").encode())
    assert refused(c, 405).get("Allow")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_on_a_route(c, method):
    c.send(head(method, "/echo", [H.strip()]))
    r = refused(c, 405)
    assert "GET" in [t.strip() for t in r.get("Allow").split(",")]


def test_head_is_get_without_body(c):
    get, as_head = c.request("GET", "/page.html"), c.request("HEAD", "/page.html")
    strip = [[h for h in r.headers if h[0] != "Date"] for r in (get, as_head)]
    assert strip[0] == strip[1] and as_head.status == 200
    assert c.request("GET", "/page.html").status == 200


def test_head_of_refusals_has_no_body(c):
    c.send(head("HEAD", "/page.html", [H.strip(), "Host: twice"]))
    r = wsraw.Reply(c.recv_until(b"\r\n\r\n"))
    assert r.status == 400
    c.recv_all()


@pytest.mark.parametrize("name", ["bare-lf-after-field", "no-host", "unknown-method", "9000-bytes"])
def test_a_refusal_behind_a_head_request_has_a_body(c, name):
    assert c.request("HEAD", "/page.html", {"Host": "localhost"}).status == 200
    c.send(BAD[name][1].encode(), drain=True)
    assert refused(c, BAD[name][0]).body


def test_get_on_a_route_is_426(c):
    c.send(head("GET", "/echo", [H.strip()]))
    r = refused(c, 426)
    assert r.get("Upgrade").lower() == "websocket"
    tokens = [t.strip().lower() for t in ",".join(r.all("Connection")).split(",")]
    assert "upgrade" in tokens, "RFC 9110 7.8: Upgrade goes with Connection: upgrade"


# ================================================================================================ files


@pytest.mark.parametrize("name", KINDS)
def test_content_type(c, name):
    r = c.request("GET", "/" + name)
    sane(r)
    assert r.status == 200 and r.body == b"contents of " + name.encode()
    assert r.get("Content-Type").split(";")[0].strip() == KINDS[name]
    assert r.get("X-Content-Type-Options") == "nosniff"
    if KINDS[name] in ("text/html", "text/javascript", "text/css", "text/plain"):
        assert r.get("Content-Type").replace(" ", "").lower().endswith(";charset=utf-8")


def test_index(c):
    assert c.request("GET", "/").body == b"contents of index.html"
    assert c.request("GET", "/sub/").body == b"index of sub"
    assert c.request("GET", "/sub/?query").body == b"index of sub"
    assert c.request("GET", "/").get("Content-Type").startswith("text/html")


@pytest.mark.parametrize("path", ["/sub", "/sub?query", "/sub/deep"])
def test_missing_slash(c, path):
    r = c.request("GET", path)
    assert r.status == 301 and r.get("Location").split("?")[0] == path.split("?")[0] + "/", r
    sane(r)


FILES = {
    "/empty.txt": b"", "/sub/x.txt": b"x in sub", "/sub/deep/y.txt": b"y in deep", "/noindex/z.txt": b"z",
    "/with%20space.txt": b"space", "/100%25.txt": b"percent", "/a+b.txt": b"plus", "/a%2bb.txt": b"plus", "/q%3fx.txt": b"question",
    "/%C3%A4.txt": b"umlaut", "/" + "n" * 250 + ".txt": b"long name", "/" + "m" * 255: b"longest name", "/%252e%252e/in.txt": b"a strange name, but inside",
    "/big.bin": BIG,
}


@pytest.mark.parametrize("path", FILES, ids=[p if len(p) < 50 else "%s-%d" % (p[:8], len(p)) for p in FILES])
def test_file(c, path):
    r = c.request("GET", path)
    assert r.status == 200 and r.get("Content-Length") == str(len(FILES[path]))
    assert hashlib.sha256(r.body).digest() == hashlib.sha256(FILES[path]).digest()


NOT = [
    "/nothing", "/sub/nothing", "/nothing/", "/page.htm", "/page.html/", "/page.html/x", "/page.htmlx", "/Page.html", "/noindex/",
    "/.", "/..", "/../", "/./", "/./page.html", "/sub/.", "/sub/..", "/sub/../page.html", "/sub/../../outside/secret.txt",
    "/../outside/secret.txt", "/../root/page.html", "/sub/../../../../../../../../etc/passwd", "/.../x", "/..trap", "/sub/deep/../x.txt",
    "/%2e%2e/outside/secret.txt", "/%2E%2E/outside/secret.txt", "/.%2e/outside/secret.txt", "/%2e./outside/secret.txt", "/%2e", "/%2e%2e",
    "/sub/%2e%2e/page.html", "/%252e%252e/outside/secret.txt", "/%252f", "/%c0%ae%c0%ae/outside/secret.txt", "/..%5coutside%5csecret.txt",
    "/..\\outside\\secret.txt", "/%ff", "//", "//page.html", "///etc/passwd", "//etc/passwd",
    "/sub//x.txt", "/sub//", "/etc/passwd", "/.hidden", "/%2ehidden", "/.git/config", "/.git/", "/.git", "/sub/.secret", "/sub/%2esecret",
    "/link.txt", "/out.txt", "/abs.txt", "/dirlink/x.txt", "/dirlink/", "/dirlink", "/outdir/secret.txt", "/outdir/", "/outdir",
    "/self/page.html", "/dangling", "/linkindex/", "/linkindex/index.html", "/fifo", "/fifo/", "/sock", "/" + "m" * 256, "/" + "m" * 254, "/" + "m" * 255 + "/", "/" + "a" * 256, "/" + "a" * 4000,
    "/dirindex/", "/%73ub", "/" + "d" * 200 + "/" + "e" * 100, "/" + "a/" * 2500, "/sub/" * 1000 + "x", "/" + "%61" * 2000, "/page.html%20", "/%20", "/page.html.", "/page.html~", "/*", "/CON",
]


@pytest.mark.parametrize("path", NOT, ids=[p if len(p) < 50 else "%s-%d" % (p[:8], len(p)) for p in NOT])
def test_not_found(c, path):
    r = c.request("GET", path)
    assert r.status == 404, r
    assert SECRET not in r.body and not r.closing
    sane(r)
    assert c.request("GET", "/page.html").status == 200


@pytest.mark.parametrize("path", ["/..%2foutside%2fsecret.txt", "/%2e%2e%2foutside/secret.txt", "/sub%2f..%2fpage.html", "/%00", "/.%00./x"])
def test_encoded_slash_and_nul_are_refused(c, path):
    c.send(head("GET", path, [H.strip()]))
    assert SECRET not in refused(c, 400).body


def test_directory_without_index(c):
    assert c.request("GET", "/noindex").status in (301, 404)
    assert c.request("GET", "/noindex/").status == 404


@pytest.mark.plain  # a sanitizer's shadow memory is too large to search
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_a_request_leaves_nothing(wssd, tmp_path, tls):
    """What stood in a head is gone when the connection has ended."""
    (tmp_path / "f").write_text("f")
    s = wssd(root=tmp_path, tls=tls)
    secret = os.urandom(12).hex()
    with s.connect() as c:
        for _ in range(20):     # the control; it is gone after a second's rest, too
            c.request("GET", "/f", extra=[("X-Secret", secret)])
            if peers.residues(s.pid, secret.encode()) > 0:
                break
        else:
            raise AssertionError("it was never there")
    s.wait_counters(clients=0)
    assert peers.residues(s.pid, secret.encode()) == 0


def test_longest_redirect(wssd, tmp_path):
    """A path that would not fit into the reply for sure is not sent back."""
    for n in (254, 255):
        (tmp_path / ("d" * n)).mkdir()
    c = wssd(root=tmp_path, tls=False).connect()
    assert c.request("GET", "/" + "d" * 254).get("Location") == "/" + "d" * 254 + "/"
    assert c.request("GET", "/" + "d" * 255).status == 404


def test_no_root_no_files(wssd):
    s = wssd(plain=True)
    for tls in (True, False):
        c = s.connect(tls)
        for path in ("/", "/index.html", "/etc/passwd", "/../etc/passwd", "//", "/nothing"):
            assert c.request("GET", path).status == 404


def test_devices_are_not_files(wssd):
    s = wssd(root="/dev")
    c = s.connect()
    for path in ("/null", "/zero", "/random", "/urandom", "/tty", "/stdin", "/fd/0", "/pts/0", "/pts/"):
        assert c.request("GET", path).status == 404, path


def test_a_fifo_is_not_even_opened(wssd, tmp_path):
    """Who waits for a reader at its other end would take us for one."""
    fifo, met = tmp_path / "fifo", threading.Event()
    os.mkfifo(fifo)

    def writer():
        os.close(os.open(fifo, os.O_WRONLY))
        met.set()

    with wssd(root=tmp_path, tls=False).connect() as c:
        t = threading.Thread(target=writer, daemon=True)
        t.start()
        time.sleep(0.1)
        for _ in range(3):
            assert c.request("GET", "/fifo").status == 404
        assert not met.wait(0.2)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # the control: this is one
    assert met.wait(5)
    os.close(reader)
    t.join(5)


def test_proc_is_not_read(wssd):
    """Files without a size give what their size says: nothing."""
    c = wssd(root="/proc").connect()
    for path in ("/self/environ", "/self/root/etc/passwd", "/self/cwd/"):
        assert c.request("GET", path).status == 404, path


def test_unreadable_file(wssd, tree, tmp_path):
    (tmp_path / "page.html").write_text("readable")
    (tmp_path / "locked.txt").write_bytes(SECRET)
    (tmp_path / "locked.txt").chmod(0)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "x.txt").write_bytes(SECRET)
    (tmp_path / "closed").chmod(0)
    wrap = None
    if os.geteuid() == 0:  # root may read anything, unless it lacks the capability
        caps = "-dac_override,-dac_read_search"
        wrap = ["setpriv", "--inh-caps=" + caps, "--bounding-set=" + caps]
        if not shutil.which("setpriv") or subprocess.run(wrap + ["true"], stderr=subprocess.DEVNULL).returncode:
            pytest.skip("root cannot drop the right to read everything here")
        wrap += conftest.WRAP if conftest.EMULATED else []
    try:
        c = wssd(root=tmp_path, wrap=wrap).connect()
        assert c.request("GET", "/locked.txt").status == 404
        assert c.request("GET", "/closed/x.txt").status == 404
        assert c.request("GET", "/closed/").status == 404
        assert c.request("GET", "/page.html").body == b"readable"
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_files_appear_change_and_vanish(wssd, tmp_path):
    c = wssd(root=tmp_path).connect()
    f = tmp_path / "f.txt"
    assert c.request("GET", "/f.txt").status == 404
    f.write_text("one")
    first = c.request("GET", "/f.txt")
    assert first.body == b"one"
    f.write_text("three")
    second = c.request("GET", "/f.txt", extra=[("If-None-Match", first.get("ETag"))])
    assert second.status == 200 and second.body == b"three" and second.get("ETag") != first.get("ETag")
    new = tmp_path / "new"
    new.write_text("THREE")  # the same size, by rename
    os.utime(new, (1, 1))
    new.rename(f)
    third = c.request("GET", "/f.txt", extra=[("If-None-Match", second.get("ETag"))])
    assert third.status == 200 and third.body == b"THREE"
    f.unlink()
    assert c.request("GET", "/f.txt").status == 404
    f.symlink_to("/etc/passwd")
    assert c.request("GET", "/f.txt").status == 404


EXCHANGE = """
import os, sys, time
root, secret = sys.argv[1:]
end = time.monotonic() + 20
while time.monotonic() < end:
    os.symlink(secret, root + "/link")
    os.replace(root + "/link", root + "/f.txt")
    with open(root + "/file", "w") as f:
        f.write("harmless")
    os.replace(root + "/file", root + "/f.txt")
    os.rename(root + "/d", root + "/e")
    os.symlink(os.path.dirname(secret), root + "/d")
    os.unlink(root + "/d")
    os.rename(root + "/e", root + "/d")
"""


def test_a_link_put_in_place_of_a_file_just_now(wssd, tmp_path):
    """Between the look at a name and its opening there must be no gap through which a link can slip."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    (root / "d" / "secret.txt").write_text("harmless")
    (root / "f.txt").write_text("harmless")
    (outside / "secret.txt").write_bytes(SECRET)
    c = wssd(root=root, tls=False).connect()
    other = subprocess.Popen([sys.executable, "-c", EXCHANGE, str(root), str(outside / "secret.txt")])
    seen = set()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            c.send(b"".join(head("GET", p, ["Host: " + c.host]) for p in ("/f.txt", "/d/secret.txt")) * 50, drain=True)
            for _ in range(100):
                r = c.reply()
                seen.add(r.status)
                assert r.body == b"harmless" if r.status == 200 else r.status == 404, r.body
        assert other.poll() is None and seen == {200, 404}, seen
    finally:
        other.kill()
        other.wait()


def test_a_file_that_shrinks_does_not_look_complete(wssd, tmp_path):
    f = tmp_path / "f.bin"
    f.write_bytes(b"a" * (32 << 20))
    s = wssd(root=tmp_path)
    c = s.connect(rcvbuf=16384)
    c.send(head("GET", "/f.bin", ["Host: " + c.host]))
    r = wsraw.Reply(c.recv_until(b"\r\n\r\n"))
    assert r.get("Content-Length") == str(32 << 20)
    os.truncate(f, 1 << 20)
    assert len(c.recv_all()) < 32 << 20
    assert c.ended in ("ragged", "reset"), c.ended  # and wsraw can tell


def test_a_file_that_grows_ends_where_it_said(wssd, tmp_path):
    f = tmp_path / "f.bin"
    f.write_bytes(b"a" * (8 << 20))
    s = wssd(root=tmp_path)
    c = s.connect(rcvbuf=16384)
    c.send(head("GET", "/f.bin", ["Host: " + c.host]))
    r = wsraw.Reply(c.recv_until(b"\r\n\r\n"))
    assert r.get("Content-Length") == str(8 << 20)
    with open(f, "ab") as out:
        out.write(b"b" * 1000)
    assert c.recv(8 << 20) == b"a" * (8 << 20)
    assert c.request("HEAD", "/f.bin").get("Content-Length") == str((8 << 20) + 1000)


def test_a_client_that_leaves_a_file_half_read(server):
    for end in ("close", "reset"):
        c = server.connect(True, rcvbuf=8192)
        c.send(head("GET", "/big.bin", [H.strip()]))
        c.recv(5000)
        getattr(c, end)()
    server.wait_counters(clients=0, backends=0)


# ================================================================================================ ETag


def test_etag(c):
    r = c.request("GET", "/page.html")
    tag = r.get("ETag")
    assert re.fullmatch(r'"[\x21\x23-\x7e]+"', tag), tag
    assert c.request("HEAD", "/page.html").get("ETag") == tag
    assert c.request("GET", "/app.js").get("ETag") != tag


CONDITIONS = {
    "equal": ("{}", 304), "weak": ("W/{}", 304), "star": ("*", 304), "list-first": ('{}, "b"', 304), "list-last": ('"a",{}', 304),
    "list-middle": ('"a" , W/{} ,"b"', 304), "list-with-empty": (', {},', 304), "other": ('"other"', 200), "list-of-others": ('"a", "b"', 200),
    "not-quoted": ("bare", 200), "prefix": ("cut", 200), "longer": ("long", 200), "empty": ("", 200), "quoted-star": ('"*"', 200),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_if_none_match(c, name):
    value, status = CONDITIONS[name]
    tag = c.request("GET", "/page.html").get("ETag")
    value = {"bare": tag.strip('"'), "cut": tag[:-2] + '"', "long": tag[:-1] + 'x"'}.get(value, value.format(tag))
    for method in ("GET", "HEAD"):
        r = c.request(method, "/page.html", extra=[("If-None-Match", value)])
        assert r.status == status and r.get("ETag") == tag, r
        if status == 304:
            assert not r.all("Content-Type") and r.get("Content-Length") in (None, "21") and not r.closing, r
        sane(r)
    assert c.request("GET", "/page.html").status == 200


def test_if_none_match_on_two_lines(c):
    tag = c.request("GET", "/page.html").get("ETag")
    assert c.request("GET", "/page.html", extra=[("If-None-Match", '"a"'), ("If-None-Match", tag)]).status == 304


def test_if_none_match_of_nothing(c):
    assert c.request("GET", "/nothing", extra=[("If-None-Match", "*")]).status == 404


def touch(path, seconds, ns):
    """Also where Python's time_t ends in 2038: by the kernel's utimensat_time64, number 412 on all such machines."""
    try:
        os.utime(path, ns=(seconds * 10**9 + ns, seconds * 10**9 + ns))
    except OverflowError:
        assert LIBC.syscall(412, -100, os.fsencode(path), struct.pack("=4q", seconds, ns, seconds, ns), 0) == 0  # AT_FDCWD


@pytest.mark.parametrize("when", [0, 1, 2**31 - 1, 2**31, 2208988800, 2**32 + 1], ids=lambda n: "%x" % n)
def test_etag_is_the_whole_time(wssd, tmp_path, when):
    """Seconds, nanoseconds, size; a second behind January 2038 (2**31) is one, too, and so is 2040."""
    (tmp_path / "f").write_bytes(b"twelve bytes")
    touch(tmp_path / "f", when, 4095)
    s = wssd(root=tmp_path, tls=False)
    with s.connect() as c:
        tag = c.request("GET", "/f").get("ETag")
        assert tag == '"%x-fff-c"' % when
        assert c.request("GET", "/f", extra=[("If-None-Match", tag)]).status == 304


# ================================================================================================ Origin


def ask(c, host, origin, path="/echo"):
    """The status of an upgrade with this Origin; the connection is over afterwards, so that its log line comes."""
    c.send(wsraw.upgrade_head(path, host, extra=[("Origin", origin)]))
    r = c.reply()
    if r.status == 101:
        c.send_text("allowed")
        c.expect_text("allowed")
        c.close_handshake()
    else:
        assert r.status == 403 and r.closing, r
        c.expect_eof()
    c.close()
    return r.status


OWN = {  # Host, Origin on wss://, is it our own?  PORT is the listener's
    "own": ("127.0.0.1:PORT", "https://127.0.0.1:PORT", 101),
    "own-by-name": ("gateway.example:PORT", "https://gateway.example:PORT", 101),
    "own-other-case": ("Gateway.Example:PORT", "https://gateway.example:PORT", 101),
    "own-ipv6": ("[::1]:PORT", "https://[::1]:PORT", 101),
    "own-default-port": ("gateway.example", "https://gateway.example", 101),
    "own-default-port-named": ("gateway.example", "https://gateway.example:443", 101),
    "own-default-port-in-host": ("gateway.example:443", "https://gateway.example", 101),
    "own-default-port-in-both": ("gateway.example:443", "https://gateway.example:443", 101),
    "own-default-port-ipv6": ("[2001:db8::1]:443", "https://[2001:db8::1]", 101),
    "other-scheme": ("127.0.0.1:PORT", "http://127.0.0.1:PORT", 403),
    "other-scheme-as-long": ("127.0.0.1:PORT", "httpx://127.0.0.1:PORT", 403),
    "other-scheme-wss": ("127.0.0.1:PORT", "wss://127.0.0.1:PORT", 403),
    "other-port": ("127.0.0.1:PORT", "https://127.0.0.1:1", 403),
    "longer-port": ("127.0.0.1:PORT", "https://127.0.0.1:PORT0", 403),
    "shorter-port": ("127.0.0.1:80801", "https://127.0.0.1:8080", 403),
    "no-port": ("127.0.0.1:PORT", "https://127.0.0.1", 403),
    "port-80-is-no-default-here": ("gateway.example:80", "https://gateway.example", 403),
    "empty-port": ("127.0.0.1:PORT", "https://127.0.0.1:", 403),
    "other-name-same-machine": ("127.0.0.1:PORT", "https://localhost:PORT", 403),
    "suffix": ("example.com", "https://example.com.evil", 403),
    "prefix": ("example.com", "https://example.co", 403),
    "subdomain": ("example.com", "https://www.example.com", 403),
    "superdomain": ("www.example.com", "https://example.com", 403),
    "glued-name": ("example.com", "https://evilexample.com", 403),
    "user": ("example.com", "https://example.com@evil.example", 403),
    "user-and-port": ("example.com:443", "https://example.com:443@evil.example", 403),
    "path": ("example.com", "https://example.com/", 403),
    "path-of-evil": ("example.com", "https://evil.example/https://example.com", 403),
    "backslash": ("example.com", "https://example.com\\evil", 403),
    "ipv6-other": ("[::1]:PORT", "https://[::2]:PORT", 403),
    "ipv6-without-port": ("[::1]:PORT", "https://[::1]", 403),
    "ipv6-tail": ("[::1]:PORT", "https://[::1]:PORTa", 403),
    "ipv6-port-inside": ("[::1]:443", "https://[::1:443]", 403),
    "null": ("127.0.0.1:PORT", "null", 403),
    "empty": ("127.0.0.1:PORT", "", 403),
    "only-scheme": ("127.0.0.1:PORT", "https://", 403),
    "only-host": ("127.0.0.1:PORT", "127.0.0.1:PORT", 403),
    "two-in-one": ("example.com", "https://example.com https://example.com", 403),
    "list": ("example.com", "https://example.com, https://evil.example", 403),
    "file": ("127.0.0.1:PORT", "file://", 403),
    "extension": ("127.0.0.1:PORT", "chrome-extension://abcdef", 403),
}


@pytest.mark.parametrize("name", OWN)
def test_origin_by_default_on_wss(server, name):
    host, origin, status = (x.replace("PORT", str(server.tls_port)) if isinstance(x, str) else x for x in OWN[name])
    assert ask(server.connect(True), host, origin) == status
    if status == 403:
        line = server.wait_log(r".*--origin.*").group(0)
        assert " 403 " in line, line


OWN_PLAIN = {
    "own": ("127.0.0.1:PORT", "http://127.0.0.1:PORT", 101), "own-localhost": ("localhost:PORT", "http://localhost:PORT", 101),
    "own-default-port": ("127.0.0.1", "http://127.0.0.1:80", 101), "own-default-port-in-host": ("localhost:80", "http://localhost", 101),
    "as-long": ("127.0.0.1:PORT", "htts://127.0.0.1:PORT", 403),
    "https": ("127.0.0.1:PORT", "https://127.0.0.1:PORT", 403), "port-443-is-no-default-here": ("localhost:443", "http://localhost", 403),
    "foreign": ("127.0.0.1:PORT", "http://evil.example", 403), "null": ("127.0.0.1:PORT", "null", 403),
}


@pytest.mark.parametrize("name", OWN_PLAIN)
def test_origin_by_default_on_ws(server, name):
    host, origin, status = (x.replace("PORT", str(server.plain_port)) if isinstance(x, str) else x for x in OWN_PLAIN[name])
    assert ask(server.connect(False), host, origin) == status


def test_no_origin_passes(c):
    c.open("/echo").close_handshake()


def test_two_origins_are_malformed(c):
    c.send(wsraw.upgrade_head("/echo", c.host, extra=["Origin: https://" + c.host, "Origin: https://evil.example"]))
    refused(c, 400)


def test_foreign_origin_byte_by_byte(c):
    c.bytewise = True
    assert ask(c, c.host, "https://evil.example") == 403


@pytest.mark.parametrize("origin, status", [
    ("https://route.example", 101), ("https://second.example", 101), ("HTTPS://ROUTE.EXAMPLE", 101), ("https://route.example.evil", 403),
    ("https://route.exampl", 403), ("http://route.example", 403), ("https://third.example", 403), ("https://127.0.0.1", 403),
    ("https://route.example,origin=https://second.example", 403), ("null", 403)])
def test_origin_of_a_route(server, origin, status):
    assert ask(server.connect(True), "127.0.0.1", origin, "/own") == status


def test_origin_of_a_route_is_only_its_own(server):
    assert ask(server.connect(True), "127.0.0.1", "https://route.example", "/echo") == 403


@pytest.fixture(scope="module")
def listed(wssd_module):
    """With --origin, --host and a route that asks for something else."""
    return wssd_module("--origin", "https://example.com", "--origin", "http://other.example:8080", "--host", "example.com", "--host", "127.0.0.1",
                       "/own=echo,origin=https://route.example", "/all=echo,origin=any", listen=["ws://127.0.0.1:0", "wss://127.0.0.1:0"])


@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
@pytest.mark.parametrize("path, origin, status", [
    ("/echo", "https://example.com", 101), ("/echo", "http://other.example:8080", 101), ("/echo", "https://example.com.evil", 403),
    ("/echo", "https://example.co", 403), ("/echo", "https://example.com:8443", 403), ("/echo", "http://other.example", 403),
    ("/echo", "http://other.example:80801", 403), ("/echo", "http://other.example:808", 403), ("/echo", "http://example.com", 403),
    ("/echo", "null", 403), ("/echo", "any", 403), ("/echo", "", 403), ("/own", "https://route.example", 101), ("/own", "https://example.com", 403),
    ("/all", "null", 101), ("/all", "https://evil.example", 101), ("/all", "", 101)])
def test_origin_option(listed, tls, path, origin, status):
    assert ask(listed.connect(tls), "example.com", origin, path) == status


def test_own_origin_is_not_allowed_when_others_are_named(listed):
    c = listed.connect(True)
    assert ask(c, c.host, "https://" + c.host) == 403


@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
@pytest.mark.parametrize("host, status", [
    ("example.com", 200), ("EXAMPLE.com:443", 200), ("127.0.0.1:99", 200), ("example.co", 421), ("example.comm", 421), ("www.example.com", 421),
    ("example.com.evil", 421), ("localhost", 421), ("[::1]", 421), ("127.0.0.2", 421), ("any", 421)])
def test_host_option(listed, tls, host, status):
    c = listed.connect(tls)
    c.send(head("GET", "/nothing", ["Host: " + host]))
    if status == 200:
        assert c.reply().status == 404
    else:
        refused(c, 421)
        with listed.connect(tls) as d:
            d.send(wsraw.upgrade_head("/echo", host))
            refused(d, 421)


@pytest.mark.parametrize("host, status", [
    ("localhost", 200), ("LocalHost:1234", 200), ("127.0.0.1", 200), ("10.1.2.3:80", 200), ("[::1]", 200), ("[2001:db8::7]:8443", 200),
    (socket.gethostname(), 200), ("evil.example", 421), ("evil.example:80", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421),
    ("xlocalhost", 421), ("localhos", 421), ("1.2.3.4x", 421), ("0x7f.1", 421), (socket.gethostname() + ".evil", 421)])
def test_host_by_default_on_ws(server, host, status):
    """DNS rebinding: a page of evil.example, whose name suddenly means 127.0.0.1, gets nothing from a plain listener."""
    c = server.connect(False)
    c.send(head("GET", "/page.html", ["Host: " + host]))
    if status == 200:
        assert c.reply().status == 200
    else:
        assert b"contents" not in refused(c, 421).body
        with server.connect(False) as d:
            d.send(wsraw.upgrade_head("/echo", host))
            refused(d, 421)


@pytest.mark.parametrize("host", ["evil.example", "localhost", "x", "xn--bcher-kva.example:8443", "[::1]"])
def test_host_by_default_on_wss(server, host):
    assert server.connect(True).request("GET", "/page.html", {"Host": host}).status == 200


def test_host_and_origin_any(wssd):
    s = wssd("--host", "any", "--origin", "any", plain=True)
    for tls in (True, False):
        for origin in ("https://evil.example", "null", ""):
            assert ask(s.connect(tls), "evil.example", origin) == 101


def test_ipv6_listener(wssd):
    s = wssd("/own=echo", listen=["wss://[::1]:0", "ws://[::1]:0"], probe=ipv6_probe)
    assert re.fullmatch(r"wss://\[::1\]:\d+", s.urls[0]) and re.fullmatch(r"ws://\[::1\]:\d+", s.urls[1])
    for tls, port, scheme in ((True, s.tls_port, "https"), (False, s.plain_port, "http")):
        c = wsraw.connect(port, tls, "::1")
        assert ask(c, c.host, "%s://[::1]:%d" % (scheme, port)) == 101
        c = wsraw.connect(port, tls, "::1")
        assert ask(c, c.host, "%s://[::1]:%d" % (scheme, port + 1)) == 403
    s.wait_log(r"^\[::1\]:\d+ .* 403 ")


def ipv6_probe(s):
    with wsraw.connect(s.plain_port, False, "::1") as c:
        c.open("/echo").close_handshake()


# ================================================================================================ the wrong protocol


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytes"])
@pytest.mark.parametrize("data", ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n",
                                  "HEAD / HTTP/1.0\r\n\r\n", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
                                  "OPTIONS * HTTP/1.1\r\n\r\n"], ids=["get", "upgrade", "head", "post", "options"])
def test_plain_http_on_the_tls_port(server, data, bytewise):
    c = wsraw.connect(server.tls_port)
    c.send(data.encode(), bytewise=bytewise)
    r = wsraw.Reply(c.recv_until(b"\r\n\r\n"))
    assert r.status == 400 and r.closing
    c.recv_all()
    assert c.ended == "fin"


def test_plain_http_on_the_tls_port_with_much_behind_it(server):
    c = wsraw.connect(server.tls_port)
    c.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3000, drain=True)
    assert wsraw.Reply(c.recv_until(b"\r\n\r\n")).status == 400
    c.recv_all()
    assert c.ended == "fin"


@pytest.mark.parametrize("data", [b"\x80\x2e\x01\x00\x02", b"\0" * 50, b"\xff" * 50, b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x00\x00", b"\x15\x03\x03\x00\x02\x02\x28"],
                         ids=["sslv2", "zeros", "ones", "ssh", "empty-record", "alert"])
def test_noise_on_the_tls_port(server, data):
    """No TLS at all: an alert or a 400 at most, and the end."""
    c = wsraw.connect(server.tls_port)
    c.try_send(data)
    c.try_send(b"\0" * 200)
    assert len(c.recv_all()) < 500


def test_tls_on_the_plain_port(server):
    with pytest.raises((wsraw.Ended, OSError)):
        wsraw.connect(server.plain_port, True)
    server.wait_log(r" plain .* 400 ")
