"""TLS as the outside sees it: versions, suites, groups, resumption, chains, keys of every kind, client certificates.

The client is openssl where it can say what it did; a refusal is first shown to be no refusal against openssl's own server, so
that it is the server under test which refuses."""

import hmac
import os
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import time

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import conftest
import peers
import pki as pki_module
import wsraw

SLOW = wsraw.SLOW
GET = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SUITES = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"]


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return pki_module.Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def servers(wssd_module, pki):
    """One server for each kind of key."""
    running = {}

    def get(kind):
        if kind not in running:
            pair = pki.server("server-" + kind, kind)
            running[kind] = wssd_module(cert=pair)
            running[kind].pair = pair
        return running[kind]

    return get


class Said:
    """What s_client said."""

    def __init__(self, status, out):
        self.status, self.text = status, out.decode(errors="replace")
        self.reply = "HTTP/1.1 404" in self.text
        m = re.search(r"^(New|Reused), (\S+), Cipher is (\S+)$", self.text, re.M)
        self.how, self.version, self.cipher = m.groups() if m else (None, None, None)
        self.connected = self.cipher not in (None, "(NONE)")

    def line(self, name):
        m = re.search(r"^\s*%s\s*:\s*(.*)$" % re.escape(name), self.text, re.M)
        return m and m.group(1).strip()


def s_client(port, *args, data=GET, version="-tls1_2"):
    """One connection of `openssl s_client`."""
    command = ["openssl", "s_client", "-connect", "127.0.0.1:%d" % port, "-ign_eof", "-nocommands", "-no_ticket"]
    r = subprocess.run(command + ([version] if version else []) + [str(a) for a in args], input=data,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20 * SLOW)
    return Said(r.returncode, r.stdout)


class Permissive:
    """openssl's own server, which accepts whatever openssl can: the control for refusals."""

    def __init__(self, pair):
        self.proc = subprocess.Popen(
            ["openssl", "s_server", "-accept", "0", "-www", "-cert", pair.cert, "-key", pair.key, "-cipher",
             "ALL:eNULL:@SECLEVEL=0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for line in self.proc.stdout:
            m = re.search(rb"ACCEPT .*:(\d+)", line)
            if m:
                self.port = int(m.group(1))
                return
        self.close()
        raise AssertionError("openssl s_server did not start")

    def close(self):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdout.close()


@pytest.fixture(scope="module")
def permissive(pki):
    running = {}

    def get(kind):
        if kind not in running:
            running[kind] = Permissive(pki.server("server-" + kind, kind))
        return running[kind]

    yield get
    for p in running.values():
        p.close()


# ---- suites, versions, groups


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("kind", ["ec256", "rsa2048"])
def test_suite(servers, kind, suite):
    """RFC 5289, RFC 7905: each suite alone, with a key of either kind."""
    s = servers(kind)
    name = ("ECDHE-ECDSA-" if kind == "ec256" else "ECDHE-RSA-") + suite
    said = s_client(s.port, "-cipher", name, "-CAfile", s.pair.cert, "-verify_return_error")
    assert (said.how, said.version, said.cipher) == ("New", "TLSv1.2", name), said.text
    assert said.reply and said.status == 0, said.text
    s.wait_log(r" %s /nothing 404 " % re.escape(name))


REFUSED = [
    ("ec256", "TLS 1.0", "-tls1", "ALL@SECLEVEL=0"),
    ("ec256", "TLS 1.1", "-tls1_1", "ALL@SECLEVEL=0"),
    ("rsa2048", "TLS 1.0", "-tls1", "ALL@SECLEVEL=0"),
    ("rsa2048", "TLS 1.1", "-tls1_1", "ALL@SECLEVEL=0"),
    ("ec256", "TLS 1.3 alone", "-tls1_3", None),
    ("rsa2048", "RSA key exchange", "-tls1_2", "AES128-GCM-SHA256"),
    ("rsa2048", "RSA key exchange, CBC", "-tls1_2", "AES128-SHA"),
    ("rsa2048", "RSA key exchange, 256", "-tls1_2", "AES256-GCM-SHA384"),
    ("rsa2048", "finite field", "-tls1_2", "DHE-RSA-AES128-GCM-SHA256"),
    ("rsa2048", "CBC", "-tls1_2", "ECDHE-RSA-AES128-SHA"),
    ("rsa2048", "CBC and SHA-256", "-tls1_2", "ECDHE-RSA-AES128-SHA256"),
    ("rsa2048", "CBC and SHA-384", "-tls1_2", "ECDHE-RSA-AES256-SHA384"),
    ("ec256", "CBC", "-tls1_2", "ECDHE-ECDSA-AES256-SHA"),
    ("ec256", "CBC and SHA-256", "-tls1_2", "ECDHE-ECDSA-AES128-SHA256"),
    ("rsa2048", "no encryption", "-tls1_2", "ECDHE-RSA-NULL-SHA@SECLEVEL=0"),
    ("rsa2048", "nobody signs", "-tls1_2", "AECDH-AES128-SHA@SECLEVEL=0"),
]


@pytest.mark.parametrize("kind, what, version, cipher", REFUSED, ids=["%s-%s" % r[:2] for r in REFUSED])
def test_refused(servers, permissive, kind, what, version, cipher):
    s = servers(kind)
    args = ["-cipher", cipher] if cipher else []
    control = s_client(permissive(kind).port, *args, version=version)
    assert control.connected, "openssl itself does not connect:\n" + control.text
    said = s_client(s.port, *args, version=version)
    assert not said.connected and not said.reply and said.status != 0, said.text
    s.wait_log(r"^127\.0\.0\.1:\d+ - - - in=0 out=0 secs=[\d.]+: \S")


def test_scsv_fallback_is_not_needed(servers):
    """RFC 7507: a client that falls back says so; at 1.2, the highest version here, it is served."""
    s = servers("ec256")
    said = s_client(s.port, "-fallback_scsv")
    assert said.reply, said.text


@pytest.mark.parametrize("kind", ["ec256", "rsa2048"])
@pytest.mark.parametrize("group, shown", [("X25519", "X25519, 253 bits"), ("P-256", "ECDH, prime256v1, 256 bits")])
def test_group(servers, kind, group, shown):
    s = servers(kind)
    # an EC certificate needs its own curve in the list too (RFC 4492 section 5.1), behind the one that is asked for
    said = s_client(s.port, "-groups", group if kind == "rsa2048" or group == "P-256" else group + ":P-256")
    assert said.reply and said.line("Server Temp Key") == shown, said.text


@pytest.mark.parametrize("order", ["P-256:X25519", "X25519:P-256"])
def test_x25519_first_whatever_the_client_prefers(servers, order):
    said = s_client(servers("rsa2048").port, "-groups", order)
    assert said.line("Server Temp Key") == "X25519, 253 bits", said.text


def test_servers_order_counts(servers):
    """Whatever order the client gives, the same suite is chosen."""
    chosen = set()
    s = servers("ec256")
    names = ["ECDHE-ECDSA-" + x for x in SUITES]
    for order in (names, names[::-1], names[1:] + names[:1]):
        said = s_client(s.port, "-cipher", ":".join(order))
        assert said.reply, said.text
        chosen.add(said.cipher)
    assert len(chosen) == 1, chosen
    aes = not conftest.EMULATED and " aes " in open("/proc/cpuinfo").read().replace("\n", " ")
    assert chosen == {names[0] if aes else names[2]} or chosen == {names[1]}, chosen


@pytest.mark.parametrize("offer, got", [("http/1.1", "http/1.1"), ("h2,http/1.1", "http/1.1"), (None, None)])
def test_alpn(servers, offer, got):
    """RFC 7301"""
    said = s_client(servers("ec256").port, *(["-alpn", offer] if offer else []))
    assert said.reply, said.text
    assert said.line("ALPN protocol") == got, said.text


@pytest.mark.parametrize("name", ["localhost", "other.example", None])
def test_any_server_name(servers, name):
    """RFC 6066 section 3: the name chooses nothing here."""
    said = s_client(servers("ec256").port, *(["-servername", name] if name else ["-noservername"]))
    assert said.reply, said.text


@pytest.mark.parametrize("fragment", [512, 4096])
def test_small_fragments(servers, fragment):
    """RFC 6066 section 4: a client that asks for short records gets its reply and its echo whole, and costs no CPU: what
    does not fit in a record of this length must not be tried again and again."""
    s = servers("ec256")
    said = s_client(s.port, "-maxfraglen", fragment)
    assert said.reply, said.text
    payload = b"0123456789" * 500
    p = subprocess.Popen(["openssl", "s_client", "-connect", "127.0.0.1:%d" % s.port, "-tls1_2", "-ign_eof", "-nocommands",
                          "-quiet", "-maxfraglen", str(fragment)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
    try:
        p.stdin.write(wsraw.upgrade_head() + wsraw.frame(wsraw.TEXT, payload))
        p.stdin.flush()
        s.wait_counters(clients=1, frames_in=lambda n: n > 0)
        share = peers.cpu_share(s.pid, 0.5)
        out, _ = p.communicate(wsraw.frame(wsraw.CLOSE, b"\x03\xe8"), timeout=10 * SLOW)
    finally:
        p.kill()
        p.wait()
    head, _, frames = out.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), out
    got = b""
    while frames[:1] in (b"\x01", b"\x81", b"\x00", b"\x80"):     # an echo may come in pieces
        n, at = (struct.unpack(">H", frames[2:4])[0], 4) if frames[1] == 126 else (frames[1], 2)
        got, frames = got + frames[at:at + n], frames[at + n:]
    assert got == payload and frames == b"\x88\x02\x03\xe8", out
    assert share < 0.05 * max(1, SLOW), f"{share:.0%} of a CPU for waiting"


def test_secure_renegotiation_is_declared(servers):
    """RFC 5746 section 3.6"""
    said = s_client(servers("ec256").port)
    assert "Secure Renegotiation IS supported" in said.text


def test_no_renegotiation(servers):
    """RFC 5246 section 7.2.2: a client that asks for another handshake gets no_renegotiation."""
    s = servers("ec256")
    p = subprocess.Popen(["openssl", "s_client", "-connect", "127.0.0.1:%d" % s.port, "-tls1_2"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        s.wait_counters(clients=1)
        p.stdin.write(b"R\n")
        p.stdin.flush()
        out = b""
        while b"no renegotiation" not in out:
            assert select.select([p.stdout], [], [], 10 * SLOW)[0], out
            data = os.read(p.stdout.fileno(), 65536)
            assert data, out
            out += data
        p.communicate(timeout=10 * SLOW)
    finally:
        p.kill()
        p.wait()
    assert b"RENEGOTIATING" in out
    assert b"no renegotiation" in out, out
    s.wait_log(r" ECDHE-\S+ - - in=0 out=0 ")


class Records(wsraw.Raw):
    """A client that writes TLS records of any type. Once the handshake is done it makes them itself, with the keys that the
    key log leads to: AES128-GCM (RFC 5288 section 3). What comes is read as ever."""

    def __init__(self, port, keylog):
        self.heard, self.number = b"", 1  # record 0 was Finished
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
        ctx.maximum_version = ssl.TLSVersion.TLSv1_2
        ctx.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        ctx.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        ctx.keylog_filename = str(keylog)
        super().__init__(port, ctx)
        _, client_random, secret = keylog.read_text().splitlines()[-1].split()
        assert self.heard[0] == 22 and self.heard[5] == 2, self.heard[:16]
        seed = b"key expansion" + self.heard[11:43] + bytes.fromhex(client_random)
        a, block = seed, b""
        while len(block) < 40:  # RFC 5246 sections 5 and 6.3
            a = hmac.digest(bytes.fromhex(secret), a, "sha256")
            block += hmac.digest(bytes.fromhex(secret), a + seed, "sha256")
        self.cipher, self.salt = AESGCM(block[:16]), block[32:36]

    def _fill(self, end):
        data = super()._fill(end)
        self.heard += data
        return data

    def record(self, kind, data):
        number = struct.pack(">Q", self.number)
        self.number += 1
        sealed = self.cipher.encrypt(self.salt + number, data, number + struct.pack(">BHH", kind, 0x303, len(data)))
        return struct.pack(">BHH", kind, 0x303, 8 + len(sealed)) + number + sealed

    def encrypt(self, data):
        return b"".join(self.record(23, data[i:i + 16384]) for i in range(0, len(data), 16384))


@pytest.mark.parametrize("state, count", [("open", 1), ("open", 2), ("open", 3), ("open", 50), ("head", 1), ("head", 3)])
def test_renegotiations_hold_no_slot(wssd, tmp_path, state, count):
    """However many handshakes a client asks for in one write, its slot is free soon after it left. One is only refused, and
    the connection goes on (which openssl, as a client, would not do)."""
    s = wssd("--timeout", "60", "--ping", "60")  # no deadline does it
    with Records(s.port, tmp_path / "keys") as c:
        if state == "open":
            c.open("/echo")
        c.wire(b"".join(c.record(22, hello(extensions=EXT)[5:]) for _ in range(count)))
        if count == 1:
            c.send((b"" if state == "open" else wsraw.upgrade_head("/echo", c.host)) + wsraw.frame(wsraw.TEXT, "goes on"))
            s.wait_counters(frames_out=1)
        time.sleep(0.2)
        c.shutdown_write(notify=False)
        s.wait_counters(4, clients=0)


def test_close_notify_at_a_clean_end(servers):
    """RFC 5246 section 7.2.1: after a reply, and after the closing handshake."""
    s = servers("ec256")
    with s.connect() as c:
        c.request("GET", "/nothing", extra=["Connection: close"])
        c.expect_eof()
        assert c.ended == "clean"
    with s.open() as c:
        c.send_text("x")
        c.expect_text("x")
        c.close_handshake()
        assert c.ended == "clean"


def test_close_notify_of_the_client_is_answered(servers):
    s = servers("ec256")
    with s.connect() as c:
        c.request("GET", "/nothing")
        c.shutdown_write()
        c.expect_eof()
        assert c.ended == "clean"


# ---- resumption


def resume(s, path, *args):
    return s_client(s.port, "-sess_in", path, *args)


@pytest.mark.parametrize("kind", ["ec256", "rsa2048"])
def test_resumption(servers, tmp_path, kind):
    """RFC 5246 section 7.3: a session id is resumed without another signature."""
    s = servers(kind)
    before = s.counters()
    first = s_client(s.port, "-sess_out", tmp_path / "session")
    assert first.how == "New" and first.reply and first.line("Session-ID"), first.text
    for _ in range(3):
        again = resume(s, tmp_path / "session")
        assert again.how == "Reused" and again.reply, again.text
        assert again.line("Session-ID") == first.line("Session-ID")
        assert again.cipher == first.cipher
    after = s.wait_counters(resumed=before["resumed"] + 3)
    assert after["handshakes"] == before["handshakes"] + 4


def test_resumption_by_python(servers):
    s = servers("ec256")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    with s.connect(context) as c:
        c.open("/echo").send_text("one")
        c.expect_text("one")
        session = c.tls.session
        assert not c.tls.session_reused
        c.close_handshake()
    with s.connect(context, session=session) as c:
        assert c.tls.session_reused
        c.open("/echo").send_text("two")
        c.expect_text("two")
        c.close_handshake()


def test_unknown_session_is_a_full_handshake(servers, tmp_path):
    a, b = servers("ec256"), servers("rsa2048")
    s_client(b.port, "-sess_out", tmp_path / "session", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256")
    before = a.counters()["resumed"]
    said = resume(a, tmp_path / "session")
    assert said.how == "New" and said.reply, said.text
    assert a.counters()["resumed"] == before


def test_each_listener_has_its_own_sessions(wssd, tmp_path):
    s = wssd(listen=["wss://127.0.0.1:0", "wss://127.0.0.1:0"])
    s_client(s.ports[0], "-sess_out", tmp_path / "session")
    assert s_client(s.ports[1], "-sess_in", tmp_path / "session").how == "New"
    assert s_client(s.ports[0], "-sess_in", tmp_path / "session").how == "Reused"


def test_reload_forgets_the_sessions(wssd, tmp_path):
    s = wssd()
    s_client(s.port, "-sess_out", tmp_path / "session")
    assert resume(s, tmp_path / "session").how == "Reused"
    here = s.here()
    s.hup()
    s.wait_log(r"\breloaded\b", since=here)
    assert resume(s, tmp_path / "session").how == "New"


# ---- chains and keys


@pytest.mark.parametrize("kind", ["ec256", "ed25519"])
def test_chain_with_intermediate(wssd, pki, kind):
    """RFC 5246 section 7.4.2: the whole chain goes out, in the order of the file; of the kind of a key that is not ours only
    the client needs to know anything."""
    root = pki.ca("chain-root")
    middle = pki.pair("chain-middle-" + kind, kind, root, "basicConstraints=critical,CA:TRUE")
    leaf = pki.server("chain-leaf-" + kind, "ec256", middle)
    s = wssd(cert=pki_module.Pair(pki.join("chain-%s.crt" % kind, leaf.cert, middle.cert), leaf.key))
    said = s_client(s.port, "-showcerts", "-CAfile", root.cert, "-verify_return_error", "-verify_hostname", "localhost")
    assert said.reply and "Verify return code: 0 (ok)" in said.text, said.text
    sent = re.findall(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n", said.text, re.S)
    files = [re.search(r"-----BEGIN.*", open(f).read(), re.S).group(0) for f in (leaf.cert, middle.cert)]
    assert sent[:2] == files
    assert s_client(s.port, "-CAfile", leaf.cert, "-verify_return_error").status != 0


def test_chain_of_many(wssd, pki):
    """A chain of eight large certificates (several records' worth of handshake)."""
    issuer = pki.ca("long-0", "rsa4096")
    files, root = [], issuer
    for i in range(1, 7):
        issuer = pki.pair("long-%d" % i, "rsa2048", issuer, "basicConstraints=critical,CA:TRUE",
                          "nsComment=" + "x" * 500)
        files.insert(0, issuer.cert)
    leaf = pki.server("long-leaf", "rsa2048", issuer)
    s = wssd(cert=pki_module.Pair(pki.join("long.crt", leaf.cert, *files), leaf.key))
    said = s_client(s.port, "-CAfile", root.cert, "-verify_return_error")
    assert said.reply, said.text


def forms(pki, kind):
    """A key in each form that its kind has."""
    pair = pki.server("form-" + kind, kind)
    old = pki.path("form-%s.old" % kind)
    if kind.startswith("ec"):
        pki_module.openssl("ec", "-in", pair.key, "-out", old)
        params = pki_module.openssl("ecparam", "-name", {"ec256": "prime256v1", "ec384": "secp384r1"}[kind])
        both = pki.write("form-%s.params" % kind, params + open(old, "rb").read())
        return {"pkcs8": pair.key, "sec1": old, "sec1-params": both}, pair
    pki_module.openssl("rsa", "-in", pair.key, "-traditional", "-out", old)
    return {"pkcs8": pair.key, "pkcs1": old}, pair


KEY_FORMS = [(k, f) for k in ("ec256", "ec384") for f in ("pkcs8", "sec1", "sec1-params")] + \
    [(k, f) for k in ("rsa2048", "rsa3072", "rsa4096") for f in ("pkcs8", "pkcs1")]


@pytest.mark.parametrize("kind, form", KEY_FORMS)
def test_key(wssd, pki, kind, form):
    files, pair = forms(pki, kind)
    text = open(files[form]).read()
    assert {"pkcs8": "BEGIN PRIVATE KEY", "sec1": "BEGIN EC PRIVATE", "sec1-params": "BEGIN EC PARAM",
            "pkcs1": "BEGIN RSA PRIVATE"}[form] in text
    s = wssd(cert=pki_module.Pair(pair.cert, files[form]))
    said = s_client(s.port, "-CAfile", pair.cert, "-verify_return_error")
    assert said.reply and said.connected, said.text


@pytest.mark.parametrize("number", range(8))
def test_any_rsa_key(wssd, pki, number):
    """Whatever its primes are modulo 4 (some ways to compute the public exponent work for 3 only): a key at random each."""
    assert wssd.run("--check", cert=pki.server("random-%d" % number, "rsa2048")).returncode == 0


@pytest.mark.parametrize("how", ["crlf", "text", "no-last-newline", "comment"])
def test_pem_as_people_have_it(wssd, pki, how):
    pair = pki.server("people")
    out = []
    for i, file in enumerate(pair):
        data = open(file, "rb").read()
        if how == "crlf":
            data = data.replace(b"\n", b"\r\n")
        elif how == "text" and i == 0:
            data = pki_module.openssl("x509", "-in", file, "-text")
        elif how == "no-last-newline":
            data = data.rstrip(b"\n")
        elif how == "comment":
            data = b"# mine\n\n" + data + b"\n\nthe end\n"
        out.append(pki.write("people-%s-%d" % (how, i), data))
    s = wssd(cert=pki_module.Pair(*out))
    assert s_client(s.port, "-CAfile", pair.cert, "-verify_return_error").reply


# ---- files that must not start a server


def one_sentence(r, *words):
    """Exit status 1, and one line that says why."""
    assert r.returncode == 1, (r.returncode, r.stderr)
    lines = r.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("wssd: "), r.stderr
    for w in words:
        assert str(w) in lines[0], (w, lines[0])
    assert r.stdout == ""


MISMATCH = [("ec256", "ec256"), ("rsa2048", "rsa2048"), ("ec256", "rsa2048"), ("rsa2048", "ec256"), ("ec384", "ec384"),
            ("ec256", "ec384"), ("rsa2048", "rsa4096")]


@pytest.mark.parametrize("a, b", MISMATCH)
@pytest.mark.parametrize("check", [False, True], ids=["start", "check"])
def test_key_of_another_certificate(wssd, pki, a, b, check):
    one, two = pki.server("one-" + a, a), pki.server("two-" + b, b)
    r = wssd.run(*(["--check"] if check else []), cert=pki_module.Pair(one.cert, two.key))
    one_sentence(r, "key")


def broken(pki, what):
    """(certificate, key, the file that is at fault)"""
    pair = pki.server("sound")
    cert, key = pki.read("sound.crt"), pki.read("sound.key")
    body = cert.split(b"\n")
    bad = pki.path("bad-" + what)
    in_key = what.startswith("key-")
    make = {
        "missing": lambda: None,
        "key-missing": lambda: None,
        "directory": lambda: os.makedirs(bad, exist_ok=True),
        "key-directory": lambda: os.makedirs(bad, exist_ok=True),
        "empty": lambda: b"",
        "key-empty": lambda: b"",
        "binary": lambda: bytes(range(256)) * 8,
        "key-binary": lambda: bytes(range(256)) * 8,
        "der": lambda: pki_module.openssl("x509", "-in", pair.cert, "-outform", "DER"),
        "is-a-key": lambda: key,
        "key-is-a-certificate": lambda: cert,
        "no-end": lambda: b"\n".join(body[:-2]),
        "cut": lambda: b"\n".join(body[:3] + body[-2:]),
        "not-base64": lambda: cert.replace(body[2], b"!" * 64),
        "not-asn1": lambda: b"-----BEGIN CERTIFICATE-----\n" + b"QUFB" * 16 + b"\n-----END CERTIFICATE-----\n",
        "key-not-asn1": lambda: b"-----BEGIN PRIVATE KEY-----\n" + b"QUFB" * 16 + b"\n-----END PRIVATE KEY-----\n",
        "key-no-end": lambda: key.rsplit(b"\n", 2)[0],
        "key-cut": lambda: b"\n".join(key.split(b"\n")[:2] + key.split(b"\n")[-2:]),
        "key-encrypted": lambda: pki_module.openssl("pkcs8", "-topk8", "-in", pair.key, "-passout", "pass:x"),
        "key-encrypted-sec1": lambda: pki_module.openssl("ec", "-in", pair.key, "-aes128", "-passout", "pass:x"),
        "key-ed25519": lambda: open(pki.key("ed", "ed25519"), "rb").read(),
        "key-large": lambda: b"-----BEGIN PRIVATE KEY-----\n" + (b"QUFB" * 16 + b"\n") * 40000,
        "key-twice": lambda: key + key,
        "large": lambda: cert * 2000,
        "ed25519": lambda: pki.read("ed.crt") if pki.server("ed", "ed25519") else None,
    }[what]
    if not os.path.exists(bad):
        data = make()
        if data is not None:
            pki.write("bad-" + what, data)
    return (pair.cert, bad, bad) if in_key else (bad, pair.key, bad)


BROKEN = ["missing", "key-missing", "directory", "key-directory", "empty", "key-empty", "binary", "key-binary", "der",
          "is-a-key", "key-is-a-certificate", "no-end", "cut", "not-base64", "not-asn1", "key-not-asn1", "key-no-end",
          "key-cut", "key-encrypted", "key-encrypted-sec1", "key-ed25519", "key-large", "key-twice", "large",
          "ed25519"]


@pytest.mark.parametrize("what", BROKEN)
def test_broken_file_at_start(wssd, pki, what):
    cert, key, fault = broken(pki, what)
    one_sentence(wssd.run(cert=pki_module.Pair(cert, key)), fault)


@pytest.mark.parametrize("what", BROKEN)
def test_broken_file_at_reload(wssd, pki, tmp_path, what):
    """The old pair stays, and what was open stays open."""
    good = pki.server("sound")
    live = pki_module.Pair(str(tmp_path / "live.crt"), str(tmp_path / "live.key"))
    for a, b in zip(good, live):
        os.symlink(a, b)
    s = wssd(cert=live)
    with s.open() as c:
        cert, key, _ = broken(pki, what)
        for a, b in zip((cert, key), live):
            os.unlink(b)
            os.symlink(a, b)
        here = s.here()
        s.hup()
        assert re.search(r"reload refused: \S", s.wait_log(r".*reload refused.*", since=here).group(0))
        c.send_text("still here")
        c.expect_text("still here")
        assert s_client(s.port, "-CAfile", good.cert, "-verify_return_error").reply


# ---- what is not TLS


@pytest.mark.parametrize("request_", [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n" + b"X-A: b\r\n" * 500 + b"\r\n",
    b"GET /unfinis",
], ids=["GET", "HEAD", "POST", "OPTIONS", "upgrade", "cut"])
@pytest.mark.parametrize("cut", [None, 1, 5], ids=["whole", "cut-1", "cut-5"])
def test_plain_http_on_the_tls_port(servers, request_, cut):
    s = servers("ec256")
    with wsraw.connect(s.port) as c:
        c.send(request_[:cut])
        if cut:
            time.sleep(0.05)
            c.try_send(request_[cut:])
        answer = c.recv_all()
        assert c.ended == "fin"
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"connection"] == b"close" and int(fields[b"content-length"]) == len(body)
    s.wait_log(r"^127\.0\.0\.1:%d (-|plain) - 400 " % c.local[1])


def hello(version=0x0303, record=0x0301, suites=(0xC02B, 0xC02F), extensions=b"", session=b"", compression=b"\0", tail=b""):
    """A ClientHello record (RFC 5246 section 7.4.1.2)."""
    body = struct.pack(">H", version) + bytes(32) + bytes([len(session)]) + session
    body += struct.pack(">H", 2 * len(suites)) + b"".join(struct.pack(">H", x) for x in suites)
    body += bytes([len(compression)]) + compression
    if extensions is not None:
        body += struct.pack(">H", len(extensions)) + extensions
    body = b"\1" + struct.pack(">I", len(body))[1:] + body + tail
    return b"\x16" + struct.pack(">HH", record, len(body)) + body


GROUPS = bytes.fromhex("000a000600040 01d0017".replace(" ", ""))
FORMATS = bytes.fromhex("000b00020100")
SIGNATURES = bytes.fromhex("000d000800060403040 10503".replace(" ", ""))
EXT = GROUPS + FORMATS + SIGNATURES


def test_errors_name_the_line(wssd, certs, tmp_path):
    """The line where reading stopped: the end of an object that cannot be used, or the line that is no base64."""
    key, file = open(certs.key).read(), tmp_path / "file"
    n = key.count("\n")
    for option, text, line, what in (
            ("--cert", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 3, "certificate: cannot be read"),
            ("--key", key + key, 2 * n, "private key: one too many"),
            ("--key", "\n\n" + key.replace("\n", "\n!", 1), 4, "private key: not valid PEM")):
        file.write_text(text)
        r = wssd.bare("--listen", "wss://127.0.0.1:0", "--check", "/echo=echo",
                      "--cert", file if option == "--cert" else certs.cert,
                      "--key", file if option == "--key" else certs.key)
        assert r.stderr == "wssd: cannot load: %s:%d: %s\n" % (file, line, what), r.stderr


def answer_to(s, data, end=True):
    """What comes back on the wire, until the server ends it."""
    with wsraw.connect(s.port) as c:
        c.try_send(data)
        if end:
            c.shutdown_write()
        return c.recv_all()


def test_sound_hello_of_ours_is_answered(servers):
    """The control for what follows."""
    answer = answer_to(servers("ec256"), hello(extensions=EXT))
    assert answer[0] == 0x16 and answer[5] == 2, answer[:16]


STATIC_ECDH = [0xC001 + i for i in (1, 3, 4)] + [0xC025, 0xC026, 0xC02D, 0xC02E, 0xC031, 0xC032]
NOT_OURS = {
    "static-ecdh": hello(suites=STATIC_ECDH, extensions=EXT),
    "rsa": hello(suites=(0x2F, 0x35, 0x9C, 0x9D), extensions=EXT),
    "cbc": hello(suites=(0xC009, 0xC00A, 0xC023, 0xC024), extensions=EXT),
    "rc4-3des-null": hello(suites=(0x05, 0x0A, 0x02, 0xC006, 0xC007, 0xC008), extensions=EXT),
    "rsa-suites-for-an-ec-key": hello(suites=(0xC02F, 0xC030, 0xCCA8), extensions=EXT),
    "no-suite": hello(suites=(), extensions=EXT),
    "no-null-compression": hello(extensions=EXT, compression=b"\1"),
    "version-1.0": hello(version=0x0301, extensions=EXT),
    "version-ssl3": hello(version=0x0300, record=0x0300, extensions=EXT),
    "other-groups": hello(extensions=bytes.fromhex("000a000400020019") + FORMATS + SIGNATURES),
    "other-signatures": hello(extensions=GROUPS + FORMATS + bytes.fromhex("000d000400020201")),
    "extension-cut": hello(extensions=b"\0\x0a\xff\xff\0"),
    "session-too-long": hello(session=bytes(33), extensions=EXT),
    "length-past-record": b"\x16\3\1\0\4\1\xff\xff\xff",
    "empty-record": b"\x16\3\1\0\0",
    "record-too-long": b"\x16\3\1\xff\xff" + bytes(65535),
    "record-version": b"\x16\2\0\0\5\1\0\0\1\0",
    "application-data-first": b"\x17\3\3\0\5hello",
    "alert-first": b"\x15\3\3\0\2\2\x28",
    "warning-flood": b"\x15\3\3\0\2\1\x5a" * 2000,
    "change-cipher-first": b"\x14\3\3\0\1\1",
    "unknown-type": b"\x16\3\1\0\1\1" + b"\x63\3\3\0\1\1",
    "sslv2": bytes.fromhex("802e0100020015000000100100800300800700c00600400200800400 80".replace(" ", "")) + bytes(19),
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "proxy": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "finished-first": b"\x16\3\3\0\x10\x14\0\0\x0c" + bytes(12),
    "hello-then-garbage": hello(extensions=EXT) + b"\x16\3\3\0\x20" + os.urandom(32),
    "hello-twice": hello(extensions=EXT) + hello(extensions=EXT),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_garbage_on_the_tls_port(servers, name):
    """Nothing but an alert, a server's flight or a plain 400 comes back, and never plaintext of the server."""
    s = servers("ec256")
    answer = answer_to(s, NOT_OURS[name])
    sound = name.startswith("hello-")
    assert answer == b"" or answer[0] == 0x15 or answer.startswith(b"HTTP/1.1 400 ") or sound and answer[0] == 0x16, answer
    s.wait_log(r"^127\.0\.0\.1:\d+ \S+ - (-|400) ")


@pytest.mark.parametrize("alert, text", [
    (40, "BearSSL's error (296)"), (42, "client: bad certificate (298)"), (46, "client: unknown certificate (302)"),
    (48, "client: unknown CA (304)"), (70, "BearSSL's error (326)"),
])
def test_clients_alert_in_the_log(servers, alert, text):
    """RFC 5246 section 7.2: what the client holds against us is named."""
    s = servers("ec256")
    answer_to(s, bytes((0x15, 3, 3, 0, 2, 2, alert)))
    s.wait_log(r" secs=\S+: TLS: %s$" % re.escape(text))


@pytest.mark.parametrize("name, text", [
    ("no-suite", "no common suite or curve (552)"), ("version-1.0", "no common version (582)"),
])
def test_our_alert_in_the_log(servers, name, text):
    s = servers("ec256")
    answer_to(s, NOT_OURS[name])
    s.wait_log(r" secs=\S+: TLS: %s$" % re.escape(text))


@pytest.mark.parametrize("name", ["zeros", "record-too-long", "alert-first", "static-ecdh", "version-1.0"])
def test_garbage_is_ended_by_the_server(servers, name):
    """Without waiting for a deadline, even though the client stays."""
    start = time.monotonic()
    answer_to(servers("ec256"), NOT_OURS[name], end=False)
    assert time.monotonic() - start < 5 * SLOW


def test_hello_cut_into_bytes_and_records(servers):
    """RFC 5246 section 6.2.1: a message may be spread over records, a record over segments."""
    s = servers("ec256")
    whole = hello(extensions=EXT)
    body = whole[5:]
    many = b"".join(b"\x16\3\1\0\1" + body[i:i + 1] for i in range(len(body)))
    assert answer_to(s, many)[0] == 0x16
    with wsraw.connect(s.port, bytewise=True) as c:
        c.send(whole)
        assert c.recv(1) == b"\x16"


@pytest.mark.parametrize("after", ["hello", "open"])
def test_broken_record_ends_one_connection(servers, after):
    """RFC 5246 section 7.2.2: bad_record_mac."""
    s = servers("ec256")
    with s.open() as other, s.open() as c:
        c.wire(b"\x17\3\3\0\x30" + os.urandom(48))
        c.recv_all()
        other.send_text("unharmed")
        other.expect_text("unharmed")
    s.wait_log(r"^127\.0\.0\.1:%d ECDHE\S+ /echo 1006 .*: \S" % c.local[1])


# ---- client certificates


@pytest.fixture(scope="module")
def people(pki):
    """Clients, good and bad."""
    ca, foreign = pki.ca("client-ca"), pki.ca("foreign-ca")
    middle = pki.pair("client-middle", "ec256", ca, "basicConstraints=critical,CA:TRUE")
    leaf = pki.client("client-leaf", issuer=middle)
    good = {
        "ec": pki.client("client-a", issuer=ca),
        "other": pki.client("client-b", issuer=ca),
        "p384": pki.client("client-384", "ec384", issuer=ca),
        "rsa": pki.client("client-rsa", "rsa2048", issuer=ca),
        "chain": pki_module.Pair(pki.join("client-chain.crt", leaf.cert, middle.cert), leaf.key),
    }
    bad = {
        "foreign": pki.client("client-foreign", issuer=foreign),
        "expired": pki.client("client-expired", issuer=ca, days=-1),
        "self-signed": pki.client("client-self"),
        "named-like-one": None,
        "no-intermediate": leaf,
        "issued-by-a-leaf": pki.client("client-sub", issuer=pki_module.Pair(good["ec"].cert, good["ec"].key)),
        "none": None,
    }
    bad["stolen"] = pki.stolen("client-stolen", good["ec"].cert, bad["foreign"].key)
    fake = pki_module.Pki(pki.path("fake"))
    os.makedirs(fake.dir, exist_ok=True)
    bad["named-like-one"] = fake.client("client-a", issuer=fake.ca("client-ca"))
    return ca, good, bad


@pytest.fixture(scope="module")
def guarded(wssd_module, people):
    """Two listeners: one wants certificates, the other none."""
    ca, good, _ = people

    def probe(s):
        with s.connect(context(good["ec"])) as c:
            c.open("/echo").close_handshake()

    return wssd_module(listen=["wss://127.0.0.1:0,client-ca=" + ca.cert, "wss://127.0.0.1:0"], probe=probe)


def context(pair):
    """A client that asks for nothing and shows this certificate."""
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    c.maximum_version = ssl.TLSVersion.TLSv1_2
    if pair:
        c.load_cert_chain(*pair)
    return c


GOOD = ["ec", "other", "p384", "rsa", "chain"]
REJECTED = ["foreign", "expired", "self-signed", "named-like-one", "no-intermediate", "issued-by-a-leaf", "none", "stolen"]


@pytest.mark.parametrize("who", GOOD)
def test_client_certificate_accepted(guarded, people, who):
    """RFC 5246 section 7.4.6 and 7.4.8"""
    with guarded.connect(context(people[1][who])) as c:
        c.open("/echo").send_text("it is me")
        c.expect_text("it is me")
        c.close_handshake()


def refused(s, context, **kw):
    """No plaintext passes; how the connection ends is the server's choice."""
    before = s.counters()["upgrades"]
    with pytest.raises((ssl.SSLError, wsraw.Ended, OSError)):
        with s.connect(context, **kw) as c:
            c.open("/echo")
    assert s.counters()["upgrades"] == before


@pytest.mark.parametrize("who", REJECTED)
def test_client_certificate_refused(guarded, people, who):
    here = guarded.here()
    refused(guarded, context(people[2][who]))
    guarded.wait_log(r"^127\.0\.0\.1:\d+ \S+ - - in=0 out=0 secs=[\d.]+: \S", since=here)


@pytest.mark.parametrize("who", ["foreign", "self-signed", "none"])
def test_other_listener_wants_none(guarded, people, who):
    with guarded.connect(context(people[2][who]), port=guarded.ports[1]) as c:
        c.request("GET", "/nothing")


def test_client_ca_for_all_listeners(wssd, people):
    ca, good, bad = people

    def probe(s):
        for port in s.ports:
            with wsraw.connect(port, context(good["ec"])) as c:
                c.open("/echo").close_handshake()

    s = wssd("--client-ca", ca.cert, listen=["wss://127.0.0.1:0", "wss://127.0.0.1:0"], probe=probe)
    for port in s.ports:
        refused(s, context(None), port=port)
        refused(s, context(bad["foreign"]), port=port)


def test_client_ca_of_several(wssd, people, pki):
    """Each authority in the file counts."""
    ca, good, bad = people
    both = pki.join("both-ca.crt", ca.cert, pki.ca("foreign-ca").cert)
    s = wssd("--client-ca", both, probe=lambda s: s.connect(context(good["ec"])).close())
    for pair in (good["ec"], good["rsa"], bad["foreign"]):
        with s.connect(context(pair)) as c:
            c.open("/echo").close_handshake()
    refused(s, context(bad["self-signed"]))


def test_no_resumption_where_certificates_are_wanted(guarded, people, tmp_path):
    """A resumed session carries no certificate."""
    pair = people[1]["ec"]
    args = ["-cert", pair.cert, "-key", pair.key]
    first = s_client(guarded.port, "-sess_out", tmp_path / "session", *args)
    assert first.reply, first.text
    assert s_client(guarded.port, "-sess_in", tmp_path / "session", *args).how == "New"
    assert not s_client(guarded.port, "-sess_in", tmp_path / "session").reply
    other = s_client(guarded.ports[1], "-sess_out", tmp_path / "other")
    assert other.reply
    assert not s_client(guarded.port, "-sess_in", tmp_path / "other").reply


def test_client_ca_reload(wssd, people, tmp_path, pki):
    ca, good, bad = people
    file = tmp_path / "ca.crt"
    file.write_bytes(open(ca.cert, "rb").read())
    s = wssd("--client-ca", file, probe=lambda s: None)
    s.connect(context(good["ec"])).close()
    refused(s, context(bad["foreign"]))
    file.write_bytes(open(pki.ca("foreign-ca").cert, "rb").read())
    s.hup()
    s.wait_log(r"\breloaded\b")
    s.connect(context(bad["foreign"])).close()
    refused(s, context(good["ec"]))
    here = s.here()
    file.write_bytes(b"")
    s.hup()
    s.wait_log(r"reload refused: \S", since=here)
    s.connect(context(bad["foreign"])).close()


@pytest.mark.parametrize("how", ["missing", "empty", "key", "ed25519", "plain"])
def test_client_ca_that_cannot_be(wssd, people, pki, tmp_path, how):
    ca, good, _ = people
    file = tmp_path / "ca"
    if how == "empty":
        file.write_bytes(b"")
    elif how == "key":
        file.write_bytes(open(ca.key, "rb").read())
    elif how == "ed25519":
        file.write_bytes(open(pki.ca("ed-ca", "ed25519").cert, "rb").read())
    if how == "plain":
        r = wssd.run(listen=["ws://127.0.0.1:0,client-ca=" + ca.cert])
        assert r.returncode in (1, 2) and len(r.stderr.splitlines()) == 1 and "client-ca" in r.stderr, r.stderr
    else:
        one_sentence(wssd.run("--client-ca", file), file)


class Steps:
    """A TLS client whose handshake records leave one at a time."""

    def __init__(self, s, pair):
        self.c = s.connect(context(pair), handshake=False)
        self.done, self.error = False, None
        self.turn()
        self.flush()

    def turn(self):
        """What OpenSSL wants to say next, as a list of records."""
        try:
            self.c.tls.do_handshake()
            self.done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as e:
            self.error = e
        data, self.records = self.c.out.read(), []
        while data:
            n = 5 + int.from_bytes(data[3:5], "big")
            self.records.append(data[:n])
            data = data[n:]

    def flush(self):
        for r in self.records:
            self.c.wire(r)
        self.records = []

    def answer(self):
        """Reads the server's flight and prepares ours."""
        end = time.monotonic() + self.c.timeout
        while not self.records and not self.done and not self.error:
            if self.c._fill(end) == b"":
                self.error = wsraw.Ended("%s" % self.c.ended)
                return
            self.turn()

    def finish(self):
        self.answer()
        if self.error:
            return False
        try:
            self.flush()
            self.c.open("/echo").send_text("through")
            self.c.expect_text("through")
        except (ssl.SSLError, wsraw.Ended, OSError) as e:
            self.error = e
            return False
        return True


INTERLEAVED = [
    ("ec", "other", True, True),
    ("other", "rsa", True, True),
    ("chain", "ec", True, True),
    ("ec", "foreign", True, False),
    ("rsa", "foreign", True, False),
    ("ec", "self-signed", True, False),
    ("stolen", "foreign", False, False),
    ("stolen", "ec", False, True),
    ("stolen", "self-signed", False, False),
    ("none", "ec", False, True),
    ("foreign", "stolen", False, False),
]


@pytest.mark.parametrize("back", [False, True], ids=["in-turn", "reversed"])
@pytest.mark.parametrize("a, b, a_passes, b_passes", INTERLEAVED)
def test_interleaved_handshakes(guarded, people, a, b, a_passes, b_passes, back):
    """Two handshakes, record by record in turn: what one client proves must not count for the other. With a validation shared by
    both, "stolen" (a good certificate without its key) passes by the key of "foreign"."""
    everyone = dict(people[1], **people[2])
    clients = [Steps(guarded, everyone[a]), Steps(guarded, everyone[b])]
    for c in clients:
        c.answer()
        assert len(c.records) > 2 and c.error is None, "the server's flight, then ours in several records"
    order = clients[::-1] if back else clients
    while any(c.records for c in clients):
        for c in order:
            if c.records:
                try:
                    c.c.wire(c.records.pop(0))
                except OSError as e:
                    c.records, c.error = [], e
                time.sleep(0.01)
                guarded.counters()  # the loop went round: the record was taken in
    assert [c.finish() if not c.error else False for c in clients] == [a_passes, b_passes], [c.error for c in clients]
    for c in clients:
        c.c.close()
