"""The server with clients that others wrote: curl, Python's websockets, Node's ws, openssl."""

import asyncio
import hashlib
import json
import os
import re
import ssl
import subprocess
import time

import pytest
import websockets

import wsraw
from pki import Pki

SLOW = wsraw.SLOW
HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    d = tmp_path_factory.mktemp("root")
    (d / "index.html").write_text("<!doctype html><title>here</title>\n")
    (d / "app.js").write_text("export const one = 1;\n")
    (d / "sub").mkdir()
    (d / "sub" / "index.html").write_text("sub\n")
    (d / "big.bin").write_bytes(os.urandom(1 << 20) * 8)
    return d


@pytest.fixture(scope="module")
def srv(wssd_module, root):
    return wssd_module("/chat=hub", "/sub/echo=echo,protocol=a|b", "/two=echo,protocol=v2|v1", "--max-clients", "80",
                       "--max-per-ip", "0", root=root)


# ---- curl


class Curl:
    def __init__(self, certs, tmp):
        self.ca, self.tmp = certs.cert, tmp

    def __call__(self, *args, ok=True, verify=True):
        command = ["curl", "-q", "-s", "-S", "--max-time", str(20 * SLOW)] + (["--cacert", self.ca] if verify else [])
        r = subprocess.run(command + [str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, cwd=self.tmp, timeout=30 * SLOW)
        assert not ok or r.returncode == 0, (args, r.stderr)
        return r


@pytest.fixture
def curl(certs, tmp_path):
    return Curl(certs, tmp_path)


def url(s, path="/", host="localhost"):
    return "https://%s:%d%s" % (host, s.port, path)


def test_curl_get(curl, srv, root):
    r = curl("-i", url(srv))
    head, _, body = r.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and body == (root / "index.html").read_bytes()
    assert b"\r\nx-content-type-options: nosniff" in head.lower() and b"\r\ncontent-type: text/html" in head.lower()


def test_curl_refuses_an_unknown_certificate(curl, srv):
    """The control: the name and the signature were checked above."""
    assert curl(url(srv), ok=False, verify=False).returncode == 60
    assert curl("--resolve", "other.example:%d:127.0.0.1" % srv.port, url(srv, host="other.example"),
                ok=False).returncode == 60


def test_curl_by_address(curl, srv, root):
    assert curl(url(srv, host="127.0.0.1")).stdout == (root / "index.html").read_bytes()


def test_curl_large_file(curl, srv, root):
    r = curl("-w", "%{size_download} %{http_code}", "-o", "out", url(srv, "/big.bin"))
    assert r.stdout == b"%d 200" % (8 << 20)
    assert hashlib.sha256((curl.tmp / "out").read_bytes()).digest() == \
        hashlib.sha256((root / "big.bin").read_bytes()).digest()


def test_curl_slow_reader(curl, srv):
    r = curl("--limit-rate", "4M", "-w", "%{size_download}", "-o", "out", url(srv, "/big.bin"))
    assert r.stdout == b"%d" % (8 << 20)


def test_curl_head(curl, srv, root):
    r = curl("-I", url(srv, "/big.bin"))
    assert r.stdout.startswith(b"HTTP/1.1 200 ") and r.stdout.endswith(b"\r\n\r\n")
    assert re.search(rb"(?i)\r\ncontent-length: %d\r\n" % (8 << 20), r.stdout)


def test_curl_not_modified(curl, srv, root):
    """RFC 9110 section 13.1.2, with curl's own keeping of the entity tag."""
    first = curl("--etag-save", "tag", "-o", "out", "-w", "%{http_code}", url(srv, "/app.js"))
    assert first.stdout == b"200" and (curl.tmp / "tag").read_text().strip().startswith('"')
    again = curl("--etag-compare", "tag", "-o", "out2", "-w", "%{http_code} %{size_download}", url(srv, "/app.js"))
    assert again.stdout == b"304 0"
    other = curl("-H", 'If-None-Match: "other"', "-o", "out3", "-w", "%{http_code}", url(srv, "/app.js"))
    assert other.stdout == b"200"


def test_curl_changed_file(curl, wssd, tmp_path):
    d = tmp_path / "www"
    d.mkdir()
    (d / "f.txt").write_text("one")
    s = wssd(root=d)
    curl("--etag-save", "tag", "-o", "out", url(s, "/f.txt"))
    (d / "f.txt").write_text("another")
    r = curl("--etag-compare", "tag", "-w", " %{http_code}", url(s, "/f.txt"))
    assert r.stdout == b"another 200"


def test_curl_keep_alive(curl, srv):
    """RFC 9112 section 9.3: one connection for five requests, of which one is a 404 and one a 304."""
    before = srv.counters()
    r = curl("-w", "%{http_code} %{num_connects}\n", "-o", "a", url(srv), "-o", "b", url(srv, "/app.js"), "-o", "c",
             url(srv, "/missing"), "-o", "d", url(srv, "/big.bin"), "-o", "e", url(srv))
    assert r.stdout.split() == b"200 1 200 0 404 0 200 0 200 0".split()
    after = srv.counters()
    assert after["requests"] == before["requests"] + 5 and after["accepted"] == before["accepted"] + 1
    r = curl("-v", "-o", "a", url(srv), "-o", "b", url(srv, "/app.js"))
    assert b"Re-using existing connection" in r.stderr


@pytest.mark.parametrize("version", ["--http1.1", "--http2", "--http1.0"])
def test_curl_versions(curl, srv, version):
    r = curl(version, "-w", "%{http_version} %{http_code}", "-o", "out", url(srv))
    assert r.stdout == b"1.1 200", r.stdout


def test_curl_tls_versions(curl, srv):
    assert curl("--tls-max", "1.2", "-o", "out", url(srv)).returncode == 0
    assert curl("--tlsv1.3", url(srv), ok=False).returncode == 35


@pytest.mark.parametrize("args, status", [
    (["-X", "OPTIONS"], b"405"),
    (["-X", "DELETE"], b"405"),
    (["-X", "BREW"], b"501"),
    (["-d", "a=b"], b"400"),
    (["-T", "body", "-H", "Transfer-Encoding: chunked"], b"400"),
    (["--path-as-is"], b"200"),
])
def test_curl_methods(curl, srv, args, status):
    (curl.tmp / "body").write_text("body")
    r = curl(*args, "-o", "out", "-w", "%{http_code}", url(srv))
    assert r.stdout == status


def test_curl_redirect(curl, srv):
    r = curl("-L", "-w", "%{num_redirects} %{url_effective}", url(srv, "/sub"))
    assert r.stdout.decode() == "sub\n1 " + url(srv, "/sub/")


def test_curl_upgrade_required(curl, srv):
    """RFC 9110 section 15.5.22"""
    r = curl("-i", url(srv, "/chat"))
    assert r.stdout.startswith(b"HTTP/1.1 426 ") and b"\r\nupgrade: websocket\r\n" in r.stdout.lower()


def test_curl_parallel(curl, srv):
    args = []
    for i in range(20):
        args += ["-o", "out%d" % i, url(srv, "/big.bin" if i % 4 == 0 else "/app.js")]
    curl("-Z", *args)
    sizes = [(curl.tmp / ("out%d" % i)).stat().st_size for i in range(20)]
    assert sizes == [8 << 20 if i % 4 == 0 else 22 for i in range(20)]


def test_curl_with_a_client_certificate(curl, wssd, tmp_path):
    pki = Pki(tmp_path)
    ca = pki.ca("ca")
    me, other = pki.client("me", issuer=ca), pki.client("other")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "index.html").write_text("for me")
    s = wssd("--client-ca", ca.cert, root=tmp_path / "www", probe=lambda s: None)
    assert curl("--cert", me.cert, "--key", me.key, url(s)).stdout == b"for me"
    assert curl("--cert", other.cert, "--key", other.key, url(s), ok=False).returncode != 0
    assert curl(url(s), ok=False).returncode != 0


def test_curl_ipv6(curl, wssd, root):
    s = wssd(listen=["wss://[::1]:0"], root=root, probe=lambda s: None)
    assert curl(url(s, host="[::1]")).stdout == (root / "index.html").read_bytes()
    s.wait_log(r"^\[::1\]:\d+ ECDHE\S+ / 200 ")


# ---- Python's websockets


def trusting(certs):
    c = ssl.create_default_context(cafile=certs.cert)
    return c


def talk(s, certs, what, path="/echo", **kw):
    """Runs what(ws) on an open connection; returns its value."""
    async def go():
        async with websockets.connect("wss://localhost:%d%s" % (s.port, path), ssl=trusting(certs), max_size=None,
                                      open_timeout=10 * SLOW, close_timeout=10 * SLOW, **kw) as ws:
            return await asyncio.wait_for(what(ws), 30 * SLOW)
    return asyncio.run(go())


@pytest.mark.parametrize("message", [
    "hello", "", "Grüße, κόσμε, 世界 🌍", "x" * 125, "x" * 126, "x" * 65535, "x" * 65536,
    b"", b"\0", bytes(range(256)), os.urandom(1 << 20), os.urandom(3_000_001),
], ids=["hello", "empty", "unicode", "125", "126", "65535", "65536", "b-empty", "b-1", "b-256", "b-1MiB", "b-3MB"])
def test_python_echo(srv, certs, message):
    async def what(ws):
        await ws.send(message)
        assert await ws.recv() == message
    talk(srv, certs, what)


def test_python_fragments(srv, certs):
    async def what(ws):
        await ws.send(["one ", "two ", "", "three"])
        assert await ws.recv() == "one two three"
        await ws.send([b"x" * 70000, b"", b"y" * 5])
        assert await ws.recv() == b"x" * 70000 + b"y" * 5
    talk(srv, certs, what)


def test_python_ping(srv, certs):
    async def what(ws):
        for data in (b"", b"abc", b"x" * 125):
            await asyncio.wait_for(await ws.ping(data), 5 * SLOW)
    talk(srv, certs, what)


@pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "going"), (1011, ""), (3000, "x" * 123), (4999, "ünd")])
def test_python_close_code(srv, certs, code, reason):
    """RFC 6455 section 5.5.1: the same code comes back."""
    async def what(ws):
        await ws.close(code, reason)
        assert ws.close_code == code
    talk(srv, certs, what)
    srv.wait_log(r" /echo %d in=" % code)


def test_python_no_extension(srv, certs):
    """permessage-deflate is offered, and declined (section 9.1)."""
    async def what(ws):
        assert ws.extensions == []
        await ws.send("x" * 10000)
        assert await ws.recv() == "x" * 10000
    talk(srv, certs, what, compression="deflate")


@pytest.mark.parametrize("offer, got", [(["v1"], "v1"), (["v0", "v2"], "v2"), (["v0"], None), (None, None)])
def test_python_subprotocol(srv, certs, offer, got):
    async def what(ws):
        assert ws.subprotocol == got
    talk(srv, certs, what, path="/two", subprotocols=offer)


def test_python_many_at_once(srv, certs):
    async def one(i):
        async with websockets.connect("wss://localhost:%d/echo" % srv.port, ssl=trusting(certs), open_timeout=30 * SLOW) as ws:
            for k in range(5):
                await ws.send("%d of %d" % (k, i))
                assert await ws.recv() == "%d of %d" % (k, i)

    async def go():
        await asyncio.wait_for(asyncio.gather(*[one(i) for i in range(40)]), 60 * SLOW)
    asyncio.run(go())


def test_python_hub(srv, certs):
    """Each message to every other client of the route."""
    async def go():
        where = "wss://localhost:%d/chat" % srv.port
        async with websockets.connect(where, ssl=trusting(certs)) as a, websockets.connect(where, ssl=trusting(certs)) as b, \
                websockets.connect(where, ssl=trusting(certs)) as c:
            await a.send("from a")
            assert {await b.recv(), await c.recv()} == {"from a"}
            await b.send(b"from b")
            assert await a.recv() == b"from b" and await c.recv() == b"from b"
            for ws in (a, b):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(ws.recv(), 0.2)
    asyncio.run(asyncio.wait_for(go(), 30 * SLOW))


def test_python_answers_pings(wssd, certs):
    """With --ping 1 a client that answers stays for as long as it likes."""
    s = wssd("--ping", "1")

    async def what(ws):
        await asyncio.sleep(4.5)
        await ws.send("still here")
        assert await ws.recv() == "still here"
    talk(s, certs, what, ping_interval=None)


def test_python_shutdown(wssd, certs):
    s = wssd()

    async def what(ws):
        s.signal(15)
        with pytest.raises(websockets.ConnectionClosed):
            await ws.recv()
        return ws.close_code
    assert talk(s, certs, what) == 1001
    assert s.term() == 0


def test_python_refused(srv, certs):
    for path, status in (("/missing", 404), ("/", 200)):
        with pytest.raises(websockets.InvalidStatusCode) as e:
            talk(srv, certs, None, path=path)
        assert e.value.status_code == status
    with pytest.raises(websockets.InvalidStatusCode) as e:
        talk(srv, certs, None, origin="https://evil.example")
    assert e.value.status_code == 403


# ---- Node's ws


def node_environment():
    env = dict(os.environ)
    env["NODE_PATH"] = "/usr/share/nodejs:" + env.get("NODE_PATH", "")
    return env


def node(s, certs, scenario, path="/echo", data=None):
    where = "wss://localhost:%d%s" % (s.port, path)
    r = subprocess.run(["node", os.path.join(HERE, "node_client.js"), scenario, where, certs.cert], input=data,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=node_environment(), timeout=30 * SLOW)
    assert r.returncode == 0, r.stderr.decode()
    return json.loads(r.stdout.splitlines()[-1]), r.stdout.decode()


def test_node_text(srv, certs):
    said, _ = node(srv, certs, "text")
    assert said["events"] == ["same"] * 6 and said["code"] == 1000


def test_node_binary(srv, certs):
    said, _ = node(srv, certs, "binary")
    assert said["events"] == ["same"] * 7 and said["code"] == 3001


def test_node_fragments_and_ping(srv, certs):
    said, _ = node(srv, certs, "fragments")
    assert said["events"] == ["pong between", "one two three"] and said["code"] == 4999


def test_node_ping(srv, certs):
    said, _ = node(srv, certs, "ping")
    assert said["events"] == [0, 3, 125] and said["code"] == 1005


def test_node_subprotocol(srv, certs):
    """Whichever the server likes best of those that both know, never one that only one of them knows."""
    said, _ = node(srv, certs, "protocol", "/sub/echo")
    assert said["protocol"] in ("a", "b") and said["extensions"] == ""


def test_node_deflate_is_declined(srv, certs):
    said, _ = node(srv, certs, "deflate")
    assert said["events"] == ["same"] and said["extensions"] == "" and said["code"] == 1000


def test_node_that_vanishes(srv, certs):
    said, _ = node(srv, certs, "terminate")
    assert said["code"] == 1006
    srv.wait_log(r" /echo 1006 ")


def test_node_at_shutdown(wssd, certs):
    s = wssd("--ping", "1")
    where = "wss://localhost:%d/echo" % s.port
    p = subprocess.Popen(["node", os.path.join(HERE, "node_client.js"), "wait", where, certs.cert],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=node_environment())
    try:
        s.wait_counters(upgrades=1, timeout=10)
        time.sleep(2.5)
        assert s.term() == 0
        out, _ = p.communicate(timeout=10 * SLOW)
    finally:
        p.kill()
        p.wait()
    said = json.loads(out)
    assert said["code"] == 1001 and "ping" in said["events"]


def test_node_line_by_line(srv, certs):
    """What a person does with a command-line client."""
    said, out = node(srv, certs, "lines", data="one\ntwo\nbye\n".encode())
    assert out.splitlines()[:3] == ["< one", "< two", "< bye"] and said["code"] == 1000


# ---- openssl and a pipe


def test_by_hand_with_openssl(srv):
    """RFC 6455 sections 1.3 and 5.7 with nothing but openssl and the bytes of the RFC."""
    request = wsraw.upgrade_head("/echo", "localhost:%d" % srv.port)
    frames = bytes.fromhex("818537fa213d7f9f4d5158") + wsraw.frame(wsraw.CLOSE, b"\x03\xe8")
    r = subprocess.run(["openssl", "s_client", "-connect", "127.0.0.1:%d" % srv.port, "-quiet", "-ign_eof"],
                       input=request + frames, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20 * SLOW)
    head, _, rest = r.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert rest == b"\x81\x05Hello" + b"\x88\x02\x03\xe8"
