"""Who may come in by certificate: every way in which a client's certificate can be wrong, with keys of every kind, from
Python's ssl, curl, openssl and Chromium with a certificate in its store; on pages, upgrades and keep-alive connections.

A refusal is the end of the connection and exactly one log line, which names BearSSL's reason and no CN; who passes stands in
the log with the subject's CN. What test_tls.py shows of client certificates is not repeated here."""

import collections
import datetime
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.name import _ASN1Type as Asn1
from cryptography.x509.oid import NameOID

import pki as pki_module
import test_browser
import wsraw
from conftest import Pair
from test_tls import Steps, context

SLOW = wsraw.SLOW
KINDS = ["rsa2048", "rsa4096", "p256", "p384"]
DAY = datetime.timedelta(1)
PEM = serialization.Encoding.PEM

pytestmark = pytest.mark.xdist_group("certificates")  # one worker makes the keys for all

# What a log line says of a refused certificate, with BearSSL's number (bearssl_x509.h, bearssl_ssl.h).
UNTRUSTED = "client certificate of no known CA (62)"
DATES = "client certificate out of date: the clock says %d (54)" % time.gmtime().tm_year
BROKEN = "client certificate broken chain (55)"
NO_CA = "client certificate issuer is no CA (58)"
FORGED = "client certificate bad signature (52)"
NONE = "no certificate (29)"


# ---------------------------------------------------------------------------------------------- certificates

Issued = collections.namedtuple("Issued", "cert key name secret chain")  # files: cert (and what is above it), key, chain


class Office:
    """Issues certificates of every kind, wrong ones as well."""

    def __init__(self, path):
        self.dir, self.keys, self.made, self.serial = str(path), {}, {}, 100

    def key(self, kind, number=0):
        if (kind, number) not in self.keys:
            self.keys[kind, number] = \
                rsa.generate_private_key(65537, int(kind[3:])) if kind.startswith("rsa") else \
                ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1(),
                                         "k1": ec.SECP256K1()}[kind])
        return self.keys[kind, number]

    def issue(self, file, cn=None, issuer=None, kind="p256", number=0, ca=False, depth=None, begin=-1, end=30, usage=True,
              chain=(), subject=None, extra=None):
        """FILE.crt (with the chain behind it) and FILE.key. Self-signed without an issuer; the same FILE gives the same."""
        if file in self.made:
            return self.made[file]
        secret = self.key(kind, number)
        name = subject if subject is not None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn or file)])
        self.serial += 1
        now = datetime.datetime.utcnow()
        b = x509.CertificateBuilder(issuer.name if issuer else name, name, secret.public_key(), self.serial,
                                    now + begin * DAY, now + end * DAY)
        b = b.add_extension(x509.BasicConstraints(ca, depth), critical=True)
        b = b.add_extension(x509.KeyUsage(True, *[False] * 4, ca and usage, *[False] * 3), critical=True)
        if not ca:
            b = b.add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        if extra:
            b = b.add_extension(extra, critical=True)
        signed = b.sign(issuer.secret if issuer else secret, hashes.SHA384() if kind == "p384" else hashes.SHA256())
        cert, key = os.path.join(self.dir, file + ".crt"), os.path.join(self.dir, file + ".key")
        above = self.join(file + ".chain", *chain) if chain else None
        with open(cert, "wb") as f:
            f.write(signed.public_bytes(PEM))
            if chain:
                with open(above, "rb") as g:
                    f.write(g.read())
        with open(key, "wb") as f:
            f.write(secret.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        self.made[file] = Issued(cert, key, name, secret, above)
        return self.made[file]

    def ca(self, kind="p256", name="root"):
        """An authority; the keys of a kind are: 0 the leaves', 1 the roots', 2 what stands between."""
        return self.issue("%s-%s" % (name, kind), kind=kind, number=1, ca=True)

    def leaf(self, file, **kw):
        return self.issue(file, **dict({"issuer": self.ca()}, **kw))

    def middle(self, file, kind, **kw):
        return self.issue(file, **dict({"issuer": self.ca(kind), "kind": kind, "number": 2, "ca": True}, **kw))

    def join(self, name, *issued):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            for i in issued:
                with open(i.cert, "rb") as g:
                    f.write(g.read())
        return path


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    return Office(tmp_path_factory.mktemp("office"))


def bad_one(o, kind, how):
    """(certificate or None, the log's reason): one that must not pass where the root of this kind may let in."""
    root, leaf, kw = o.ca(kind), "%s-%s" % (how, kind), {"kind": kind}
    middle = o.middle("middle-" + kind, kind)
    if how == "none":
        return None, NONE
    if how == "foreign-ca":  # one that a listener nearby trusts
        return o.issue(leaf, issuer=o.ca(name="foreign"), **kw), UNTRUSTED
    if how == "self-signed":
        return o.issue(leaf, **kw), UNTRUSTED
    if how == "self-signed-ca":
        return o.issue(leaf, ca=True, **kw), UNTRUSTED
    if how == "self-signed-namesake":  # it bears the root's name, and so seems to be signed by it
        return o.issue(leaf, subject=root.name, **kw), UNTRUSTED
    if how == "namesake-ca":
        fake = o.issue("fake-" + kind, subject=root.name, ca=True, number=2, **kw)
        return o.issue(leaf, issuer=fake, **kw), UNTRUSTED
    if how == "expired":
        return o.issue(leaf, issuer=root, begin=-30, end=-1, **kw), DATES
    if how == "not-yet":
        return o.issue(leaf, issuer=root, begin=1, **kw), DATES
    if how == "no-intermediate":
        return o.issue(leaf, issuer=middle, **kw), UNTRUSTED
    if how == "intermediate-no-ca":
        one = o.middle("leaf-as-" + how + kind, kind, ca=False)
        return o.issue(leaf, issuer=one, chain=[one], **kw), NO_CA
    if how == "intermediate-may-not-sign":
        one = o.middle("middle-" + how + kind, kind, usage=False)
        return o.issue(leaf, issuer=one, chain=[one], **kw), "client certificate key usage (59)"
    if how == "intermediate-too-deep":
        one = o.middle("middle-" + how + kind, kind, depth=0)
        two = o.issue("under-" + how + kind, issuer=one, number=3 if kind[0] == "p" else 0, ca=True, **kw)
        return o.issue(leaf, issuer=two, chain=[two, one], **kw), NO_CA
    if how == "intermediate-expired":
        one = o.middle("middle-" + how + kind, kind, begin=-30, end=-1)
        return o.issue(leaf, issuer=one, chain=[one], **kw), DATES
    if how == "intermediate-not-yet":
        one = o.middle("middle-" + how + kind, kind, begin=1)
        return o.issue(leaf, issuer=one, chain=[one], **kw), DATES
    if how == "intermediate-foreign":
        one = o.middle("middle-" + how + kind, kind, issuer=o.ca(name="foreign"))
        return o.issue(leaf, issuer=one, chain=[one], **kw), UNTRUSTED
    if how == "intermediate-of-another":
        one = o.middle("middle-" + how + kind, kind)
        return o.issue(leaf, issuer=middle, chain=[one], **kw), BROKEN
    if how == "intermediate-namesake":  # a sound one of the same name, which did not sign this one
        one = o.issue("fake-" + how + kind, subject=middle.name, ca=True, number=1, **kw)
        return o.issue(leaf, issuer=one, chain=[middle], **kw), FORGED
    assert how == "wrong-order"
    one = o.middle("middle-" + how + kind, kind)
    two = o.issue("under-" + how + kind, issuer=one, number=3 if kind[0] == "p" else 0, ca=True, **kw)
    return o.issue(leaf, issuer=two, chain=[one, two], **kw), BROKEN


DEFECTS = ["none", "foreign-ca", "self-signed", "self-signed-ca", "self-signed-namesake", "namesake-ca", "expired",
           "not-yet", "no-intermediate", "intermediate-no-ca", "intermediate-may-not-sign", "intermediate-too-deep",
           "intermediate-expired", "intermediate-not-yet", "intermediate-foreign", "intermediate-of-another",
           "intermediate-namesake", "wrong-order"]


# ---------------------------------------------------------------------------------------------- the server

PAGE = b"<!doctype html><title>inside</title>\n"


@pytest.fixture(scope="module")
def www(tmp_path_factory):
    d = tmp_path_factory.mktemp("www")
    (d / "index.html").write_bytes(PAGE)
    return d


@pytest.fixture(scope="module")
def gate(wssd_module, office, www):
    """The first listener knows a root of each kind of key, from one file; the second another's; the third wants none."""
    roots = office.join("roots.pem", *[office.ca(kind) for kind in KINDS])
    foreign = office.join("foreign.pem", office.ca(name="foreign"))
    return wssd_module("--max-per-ip", "0", root=www, listen=[
        "wss://127.0.0.1:0,client-ca=" + roots, "wss://127.0.0.1:0,client-ca=" + foreign, "wss://127.0.0.1:0"],
        probe=lambda s: knock(s, office.leaf("prober")))


def shown(issued):
    """A client context; what a certificate's key is worth is the server's business."""
    if issued is None:
        return context(None)
    c = context(None)
    c.set_ciphers("DEFAULT@SECLEVEL=0")
    c.load_cert_chain(issued.cert, issued.key)
    return c


def knock(s, issued, port=None):
    """One connection that passes: a page, and an upgrade on the same connection. The client's port."""
    with s.connect(shown(issued), port=port) as c:
        assert c.request().status in (200, 404)
        c.open("/echo").send_text("it is me")
        c.expect_text("it is me")
        c.close_handshake()
        return c.local[1]


def knock_line(s, issued, port=None):
    """The log line of such a connection. (A client's port may come again soon, for another of the server's.)"""
    here = s.here()
    return end_line(s, knock(s, issued, port), here)


def lines_of(s, port, since=None):
    return [line for line in s.lines(since) if re.search(r"^(<\d>)?127\.0\.0\.1:%d " % port, line)]


def turned_away(s, tls, reason, port=None):
    """Nothing of HTTP passes, and one log line says why."""
    before, here = s.counters(), s.here()
    c = s.connect(tls, port=port, handshake=False)
    with c:
        with pytest.raises((ssl.SSLError, wsraw.Ended, OSError)):
            c.handshake()
            c.request()
    said(s, c.local[1], reason, here)
    after = s.counters()
    for name in ("handshakes", "requests", "upgrades"):
        assert after[name] == before[name]


def said(s, port, reason, here):
    s.wait_log(r"^127\.0\.0\.1:%d " % port, since=here)
    s.counters()
    lines = lines_of(s, port, here)
    assert len(lines) == 1, lines
    assert re.search(r"^127\.0\.0\.1:\d+ (ECDHE-ECDSA-\S+|-) - - in=0 out=0 secs=[\d.]+: TLS: %s$" % re.escape(reason),
                     lines[0]), (lines, reason)


def end_line(s, port, here=None):
    """The one line of a connection that ended."""
    s.wait_log(r"^127\.0\.0\.1:%d " % port, since=here)
    lines = lines_of(s, port, here)
    assert len(lines) == 1, lines
    return lines[0]


# ---------------------------------------------------------------------------------------------- each kind, each defect


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", DEFECTS)
def test_refused(gate, office, kind, how):
    """RFC 5280 section 6.1, RFC 5246 section 7.4.6"""
    issued, reason = bad_one(office, kind, how)
    turned_away(gate, shown(issued), reason)


@pytest.mark.parametrize("chain", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_passes(gate, office, kind, chain):
    """The control of what is refused above: the same keys, roots and forms of chains, and nothing wrong."""
    links, issuer = [], office.ca(kind)
    for i in range(chain):
        issuer = office.issue("link%d-%s" % (i, kind), issuer=issuer, kind=kind, number=2, ca=True)
        links.insert(0, issuer)
    person = office.issue("good-%s-%d" % (kind, chain), "%s behind %d" % (kind, chain), issuer, kind, chain=links)
    line = knock_line(gate, person)
    assert " /echo 1000 " in line and ' cn="%s behind %d": ' % (kind, chain) in line


@pytest.mark.parametrize("kind", KINDS)
def test_any_key_below_any_root(gate, office, kind):
    """Keys of all kinds, signed by the root of another."""
    for other in KINDS:
        person = office.issue("%s-by-%s" % (kind, other), issuer=office.ca(other), kind=kind)
        assert ' cn="%s-by-%s": ' % (kind, other) in knock_line(gate, person)


def test_root_sent_along(gate, office):
    """A chain may bring its root (RFC 5246 section 7.4.2), and what a client sends there opens nothing."""
    person = office.issue("with-root", issuer=office.ca(), chain=[office.ca()])
    knock(gate, person)
    stranger = office.issue("with-own-root", issuer=office.ca(name="foreign"), chain=[office.ca(name="foreign")])
    turned_away(gate, shown(stranger), UNTRUSTED)


@pytest.mark.parametrize("drop", [0, 2])
def test_message_left_out(gate, office, drop):
    """RFC 5246 section 7.3: nobody comes in by not sending a Certificate or a CertificateVerify at all."""
    here = gate.here()
    c = Steps(gate, office.leaf("left-out")[:2])
    c.answer()
    records = list(c.records)
    assert [r[0] for r in records] == [22, 22, 22, 20, 22] and [r[5] for r in records[:3]] == [11, 16, 15]
    assert int.from_bytes(records[0][3:5], "big") > 100
    del c.records[drop]
    assert not c.finish()
    said(gate, c.c.local[1], "unexpected message (10)", here)


def length(data, n=3):
    return len(data).to_bytes(n, "big") + data


GARBAGE = {  # of a certificate's bytes, what stands in the Certificate message instead (RFC 5246 section 7.4.2)
    "empty-list": lambda der: length(b""),
    "empty-certificate": lambda der: length(length(b"")),
    "list-too-long": lambda der: b"\0\xff\xff" + length(der),
    "list-too-short": lambda der: b"\0\0\x10" + length(der),
    "certificate-past-the-list": lambda der: length(b"\0\xff\xff" + der),
    "cut": lambda der: length(length(der[:-10])),
    "cut-in-the-key": lambda der: length(length(der[:200])),
    "one-byte": lambda der: length(length(der[:1])),
    "more-behind": lambda der: length(length(der + bytes(10))),
    "zeros": lambda der: length(length(bytes(500))),
    "ones": lambda der: length(length(b"\xff" * 500)),
    "not-der": lambda der: length(length(b"\x30\x80" + der)),
    "length-of-length": lambda der: length(length(b"\x30\x89" + b"\xff" * 9 + der)),
    "deep": lambda der: length(length(b"\x30\x82\x03\xe8" * 250)),
    "thirty-times": lambda der: length(length(der) * 30),
    "large": lambda der: length(length(der[:4] + bytes(12000))),
    "flipped": lambda der: length(length(der[:-1] + bytes([der[-1] ^ 1]))),
    "flipped-name": lambda der: length(length(der.replace(b"garbage", b"GARBAGE"))),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_for_a_certificate(gate, office, what):
    """Bytes that are no certificate, or a changed one."""
    person = office.leaf("garbage")
    with open(person.cert) as f:
        body = GARBAGE[what](ssl.PEM_cert_to_DER_cert(f.read()))
    here = gate.here()
    c = Steps(gate, person[:2])
    c.answer()
    assert c.records[0][5] == 11
    message = b"\x0b" + length(body)
    c.records[0] = b"".join(b"\x16\3\3" + length(message[i:i + 16000], 2) for i in range(0, len(message), 16000))
    assert not c.finish()
    c.c.close()
    line = end_line(gate, c.c.local[1], here)
    assert re.search(r" - - in=0 out=0 secs=[\d.]+: (TLS: \S.* \(\d+\)|client left)$", line), line
    assert "client left" not in line or what == "list-too-long", line


def test_weak_and_unknown(gate, office):
    """A key of 1,024 bits; a critical extension nobody knows (RFC 5280 section 4.2)."""
    weak = office.issue("weak", issuer=office.ca(), kind="rsa1016")
    turned_away(gate, shown(weak), "client certificate weak key (60)")
    odd = office.issue("odd", issuer=office.ca(), extra=x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\0"))
    turned_away(gate, shown(odd), "client certificate unknown critical extension (57)")
    limited = office.issue("for-servers", issuer=office.ca(), extra=x509.NameConstraints([x509.DNSName("lan")], None))
    turned_away(gate, shown(limited), "client certificate unknown critical extension (57)")


def test_curves_not_spoken(gate, office):
    """P-521 and others that TLS libraries still send."""
    turned_away(gate, shown(office.leaf("on-p521", kind="p521")), "wrong signature (27)")
    turned_away(gate, shown(office.leaf("on-k1", kind="k1")), "client certificate BearSSL's error (49)")


def test_days(gate, office):
    """The first and the last minute count."""
    minute = 1 / 1440
    for name, begin, end, passes in (("fresh", -minute, 1, True), ("old", -1, 5 * minute, True),
                                     ("too-old", -1, -minute, False), ("too-young", 5 * minute, 1, False)):
        person = office.leaf(name, begin=begin, end=end)
        if passes:
            knock(gate, person)
        else:
            turned_away(gate, shown(person), DATES)


# ---------------------------------------------------------------------------------------------- the name in the log


def name_of(*attributes):
    """A subject; an attribute is (oid, text) or (oid, text, ASN.1 type)."""
    return x509.Name([x509.NameAttribute(oid, text, *(a and [getattr(Asn1, a[0])]), **{"_validate": False})
                      for oid, text, *a in attributes])


CN, OU = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME
SUBJECTS = {
    "plain": ([(CN, "device 7")], "device 7"),
    "one": ([(CN, "x")], "x"),
    "behind-others": ([(OU, "not this"), (CN, "but this"), (NameOID.EMAIL_ADDRESS, "a@b")], "but this"),
    "64": ([(CN, "0123456789abcdef" * 4)], "0123456789abcdef" * 4),
    "65": ([(CN, "0123456789abcdef" * 4 + "x")], ""),
    "200": ([(CN, "long " * 40)], ""),
    "none": ([(OU, "somebody")], ""),
    "empty-subject": ([], ""),
    "printable": ([(CN, "Printable 1", "PrintableString")], "Printable 1"),
    "ia5": ([(CN, "ia5@x", "IA5String")], "ia5@x"),
    "quotes": ([(CN, 'x": client closed "\\')], "x?: client closed ?\\"),
    "lines": ([(CN, "a\nb\r\n127.0.0.1:1 x\x1b[2J\x7f\t.")], "a?b??127.0.0.1:1 x?[2J??."),
    "utf8": ([(CN, "Gr\u00fc\u00dfe \u4e16\U0001f30d")], "Gr????e ???????"),
    "utf8-64": ([(CN, "\u00fc" * 32)], "?" * 64),
    "utf8-66": ([(CN, "\u00fc" * 33)], ""),
    "bmp": ([(CN, "Gr\u00fc\u00dfe", "BMPString")], "Gr????e"),
}


@pytest.mark.parametrize("which", SUBJECTS)
def test_name_in_the_log(gate, office, which):
    subject, text = SUBJECTS[which]
    person = office.leaf("named-" + which, subject=name_of(*subject))
    here = gate.here()
    line = end_line(gate, knock(gate, person), here)
    assert re.search(r" secs=[\d.]+ cn=\"%s\": client closed$" % re.escape(text), line), line
    assert len(gate.lines(here)) == line_count(gate, here)


def line_count(s, here):
    """Lines that begin as each line must: nobody's name makes one of its own."""
    return sum(bool(re.match(r"127\.0\.0\.1:\d+ (ECDHE|-|plain)|counters: |reload", line)) for line in s.lines(here))


def test_name_with_a_zero(gate, office):
    """It does not pass for the part before it."""
    line = knock_line(gate, office.leaf("zero", subject=name_of((CN, "device 7\0.example"))))
    assert re.search(r' cn="(|device 7\?\.example)": ', line), line


def test_name_is_the_leafs(gate, office):
    """Not an issuer's, and not that of another on the same slot or at the same time."""
    middle = office.middle("named-middle", "p256")
    person = office.issue("nameless", issuer=middle, chain=[middle], subject=name_of((OU, "x")))
    assert ' cn="": ' in knock_line(gate, person)
    knock(gate, office.leaf("someone"))
    assert " cn=" not in knock_line(gate, office.leaf("someone"), gate.ports[2])  # it was not asked
    knock(gate, office.leaf("someone"))
    assert ' cn="": ' in knock_line(gate, person)
    pairs, here = [office.leaf("left", cn="on the left"), office.leaf("right", cn="on the right")], gate.here()
    clients = [Steps(gate, p[:2]) for p in pairs]
    for c in clients:
        c.answer()
    while any(c.records for c in clients):
        for c in clients[::-1]:
            if c.records:
                c.c.wire(c.records.pop(0))
                gate.counters()
    for c in clients:
        assert c.finish(), c.error
        c.c.close_handshake()
        c.c.close()
    assert ' cn="on the left": ' in end_line(gate, clients[0].c.local[1], here)
    assert ' cn="on the right": ' in end_line(gate, clients[1].c.local[1], here)


def test_name_at_each_end(gate, office):
    """However the connection ends, and whatever it was for."""
    tls = shown(office.leaf("enders", cn="who ends"))
    with gate.connect(tls) as c:
        pass
    ports = {c.local[1]: r" - - in=0 \S+ \S+ cn=.*: client (left|sent)"}
    with gate.connect(tls) as c:
        assert c.request(extra=[("Connection", "close")]).status == 200
        c.expect_eof()
    ports[c.local[1]] = " / 200 .*: served"
    with gate.connect(tls) as c:
        assert c.request().status == 200 and c.request("GET", "/none").status == 404
    ports[c.local[1]] = " /none 404 "
    with gate.connect(tls) as c:
        c.send(b"nonsense\r\n\r\n")
        assert c.reply().status == 400
    ports[c.local[1]] = " - 400 .*: malformed request"
    with gate.connect(tls) as c:
        c.open("/echo").send_text("x")
        c.expect_text("x")
        c.reset()
    ports[c.local[1]] = " /echo 1006 "
    with gate.connect(tls) as c:
        c.open("/echo").send_frame(3, b"")
        c.expect_close(1002)
    ports[c.local[1]] = " /echo 1002 "
    for port, what in ports.items():
        line = end_line(gate, port)
        assert re.search(what, line) and ' cn="who ends": ' in line, (what, line)


def test_stolen_has_no_name(gate, office):
    """A certificate without its key: whose it is was never shown."""
    owner, thief = office.leaf("owner"), office.issue("thief", number=2)
    here = gate.here()
    stolen = pki_module.Pki(os.path.join(office.dir)).stolen("stolen", owner.cert, thief.key)
    c = gate.connect(context(stolen), handshake=False)
    with c:
        with pytest.raises((ssl.SSLError, wsraw.Ended, OSError)):
            c.handshake()
            c.request()
    said(gate, c.local[1], "wrong signature (27)", here)


# ---------------------------------------------------------------------------------------------- files of authorities


def test_each_listener_its_own(gate, office):
    """What one listener's authority signed is nothing to the other."""
    ours, theirs = office.leaf("ours"), office.issue("theirs", issuer=office.ca(name="foreign"))
    knock(gate, ours, gate.ports[0])
    knock(gate, theirs, gate.ports[1])
    turned_away(gate, shown(ours), UNTRUSTED, gate.ports[1])
    turned_away(gate, shown(theirs), UNTRUSTED, gate.ports[0])
    for person in (ours, theirs, None):
        knock(gate, person, gate.ports[2])


def test_for_all_but_where_another_is_named(wssd, office):
    """--client-ca is for each wss listener without its own; ws:// has no certificates."""
    ours, theirs = office.leaf("ours"), office.issue("theirs", issuer=office.ca(name="foreign"))
    s = wssd("--client-ca", office.ca().cert, probe=lambda s: knock(s, ours), listen=[
        "wss://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0,client-ca=" + office.ca(name="foreign").cert])
    knock(s, ours)
    knock(s, theirs, s.ports[2])
    turned_away(s, shown(theirs), UNTRUSTED)
    turned_away(s, shown(ours), UNTRUSTED, s.ports[2])
    turned_away(s, shown(None), NONE)
    with s.connect(False, port=s.ports[1]) as c:
        c.open("/echo").close_handshake()
    assert " cn=" not in end_line(s, c.local[1])


def test_certificate_and_credential(wssd, office, tmp_path):
    """A listener may ask for one, a route on it for the other: both are needed."""
    (tmp_path / "who").write_text(hashlib.sha256(b"token").hexdigest() + "\n")
    ours, token = office.leaf("ours"), [("Authorization", "Bearer token")]
    s = wssd("--client-ca", office.ca().cert, "/x=echo,auth=%s" % (tmp_path / "who"), probe=lambda s: knock(s, ours))
    with s.connect(shown(ours)) as c:
        c.open("/x", extra=token).close_handshake()
    with s.connect(shown(ours)) as c:
        c.send(wsraw.upgrade_head("/x", c.host))
        assert c.reply().status == 401
    assert re.search(r' /x 401 .* cn="ours": no valid credential$', end_line(s, c.local[1]))
    here = s.here()
    with s.connect(shown(None), handshake=False) as c:
        with pytest.raises((ssl.SSLError, wsraw.Ended, OSError)):
            c.handshake()
            c.open("/x", extra=token)
    said(s, c.local[1], NONE, here)


def test_rollover(wssd, office):
    """Two authorities of one name and different keys in a file, as when a key is replaced: both count."""
    old = office.ca()
    new = office.issue("new-root", subject=old.name, ca=True, number=3)
    s = wssd("--client-ca", office.join("both.pem", old, new), probe=lambda s: None)
    knock(s, office.leaf("by-the-old"))
    knock(s, office.leaf("by-the-new", issuer=new))
    fake = office.issue("newer-root", subject=old.name, ca=True, number=4)
    turned_away(s, shown(office.leaf("by-a-fake", issuer=fake)), UNTRUSTED)


def test_a_single_client_in_the_file(wssd, office):
    """A certificate that is no authority may stand there: it passes, and what its key signed does not."""
    alone = office.issue("alone", number=3)
    s = wssd("--client-ca", office.join("alone.pem", alone), probe=lambda s: None)
    assert ' cn="alone": ' in knock_line(s, alone)
    turned_away(s, shown(office.leaf("below-alone", issuer=alone)), UNTRUSTED)
    turned_away(s, shown(office.leaf("below-alone-2", issuer=alone, chain=[alone])), NO_CA)
    turned_away(s, shown(office.leaf("somebody")), UNTRUSTED)


def test_many_authorities(wssd, office):
    """Sixteen in a file: the first and the last count. More than there is room for: one sentence, no start."""
    many = [office.issue("ca-%d" % i, kind="p256", number=10 + i % 3, ca=True) for i in range(16)]
    s = wssd("--client-ca", office.join("many.pem", *many), probe=lambda s: None)
    for i in (0, 7, 15):
        knock(s, office.leaf("by-%d" % i, issuer=many[i]))
    turned_away(s, shown(office.leaf("by-none")), UNTRUSTED)
    r = wssd.run("--client-ca", office.join("crowd.pem", *many * 5))
    assert r.returncode == 1 and len(r.stderr.splitlines()) == 1 and "crowd.pem:" in r.stderr, r.stderr


@pytest.mark.parametrize("size, status", [(40000, 0), (70000, 1)])
def test_room_for_authorities(wssd, office, size, status):
    """All certificates together have 128 KiB; that they are too large is said of the file that is one too many."""
    note = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(size))
    two = [office.issue("note-%d-%d" % (i, size), ca=True, number=10 + i, extra=note).cert for i in range(2)]
    r = wssd.run("--check", listen=["wss://127.0.0.1:0,client-ca=" + file for file in two])
    assert r.returncode == status, r.stderr
    lines = r.stderr.splitlines()
    assert len(lines) == status and (status == 0 or two[1] in lines[0] and "too large" in lines[0]), r.stderr


def test_plain_http_where_certificates_are_asked_for(gate):
    """It is told so; nobody was looked at, so the log names nobody."""
    here = gate.here()
    with gate.connect(False, port=gate.ports[0]) as c:
        assert c.request().status == 400
        c.expect_eof()
    assert re.search(r" - 400 [^\"]*: plain HTTP on a TLS port$", end_line(gate, c.local[1], here))


# ---------------------------------------------------------------------------------------------- reload


def reload(s, refused=None):
    here = s.here()
    s.hup()
    s.wait_log(r"\breloaded$" if refused is None else r"reload refused: .*" + refused, since=here)


def copy(source, target):
    with open(source, "rb") as f, open(target, "wb") as g:
        g.write(f.read())


def test_removed_authority(wssd, office, www):
    """It admits nobody any more; connections already open stay, whatever they are at, and keep their name."""
    old, other = office.ca(name="foreign"), office.ca()
    file = office.join("changing.pem", old, other)
    fired, stays = office.issue("fired", issuer=old), office.leaf("stays")
    s = wssd("--client-ca", file, root=www, probe=lambda s: None)
    talking, reading, silent = s.connect(shown(fired)).open(), s.connect(shown(fired)), s.connect(shown(fired))
    assert reading.request().body == PAGE
    copy(other.cert, file)
    reload(s)
    turned_away(s, shown(fired), UNTRUSTED)
    knock(s, stays)
    talking.send_text("still here")
    talking.expect_text("still here")
    assert reading.request().body == PAGE and silent.request().body == PAGE
    silent.open("/echo").send_text("even an upgrade")
    silent.expect_text("even an upgrade")
    talking.close_handshake()
    talking.close()
    assert ' cn="fired": ' in end_line(s, talking.local[1])
    office.join("changing.pem", other, old)
    reload(s)
    knock(s, fired)


def test_session_of_a_removed_authority(wssd, office):
    """No session is ever resumed where certificates are wanted: each connection shows its own, and after its authority is
    gone the session is worth nothing."""
    old = office.ca(name="foreign")
    file = office.join("session.pem", old)
    s = wssd("--client-ca", file, probe=lambda s: None)
    tls = shown(office.issue("fired", issuer=old))
    with s.connect(tls) as first:
        session = first.tls.session
        assert session and first.request().status == 404
    with s.connect(tls, session=session) as again:
        assert not again.tls.session_reused and again.request().status == 404
    copy(office.ca().cert, file)
    reload(s)
    with s.connect(tls, handshake=False, session=session) as c:
        with pytest.raises((ssl.SSLError, wsraw.Ended, OSError)):
            c.handshake()
            c.request()
    s.wait_log(r"^127\.0\.0\.1:%d .*: TLS: %s$" % (c.local[1], re.escape(UNTRUSTED)))
    assert s.counters()["resumed"] == 0


def test_removed_during_the_handshake(wssd, office):
    """Whoever was half in when the authority went does not come in."""
    old = office.ca(name="foreign")
    file = office.join("halfway.pem", old)
    s = wssd("--client-ca", file, probe=lambda s: None)
    here = s.here()
    c = Steps(s, office.issue("halfway", issuer=old)[:2])
    c.answer()
    c.c.wire(c.records.pop(0))
    s.counters()
    copy(office.ca().cert, file)
    reload(s)
    assert not c.finish()
    assert "reload during the handshake" in end_line(s, c.c.local[1], here)


@pytest.mark.parametrize("how", ["missing", "empty", "text", "key", "cut", "one-of-two", "directory", "too-many"])
def test_broken_file_refuses_the_reload(wssd, office, certs, tmp_path, how):
    """Of everything: the other listener's authorities and the certificate stay as well."""
    old, ours = office.ca(name="foreign"), office.ca()
    one, two, cert, key = [str(tmp_path / n) for n in ("one.pem", "two.pem", "cert.pem", "key.pem")]
    copy(old.cert, one)
    copy(ours.cert, two)
    copy(certs.cert, cert)
    copy(certs.key, key)
    s = wssd(listen=["wss://127.0.0.1:0,client-ca=" + one, "wss://127.0.0.1:0,client-ca=" + two], cert=Pair(cert, key),
             probe=lambda s: None)
    fired, ours_too = office.issue("fired", issuer=old), office.leaf("ours")
    copy(ours.cert, one)
    other = certs.make("p384")
    copy(other.cert, cert)
    copy(other.key, key)
    os.unlink(two)
    if how == "directory":
        os.mkdir(two)
    elif how != "missing":
        with open(ours.cert, "rb") as f:
            good = f.read()
        with open(ours.key, "rb") as f:
            secret = f.read()
        with open(two, "wb") as f:
            f.write({"empty": b"", "text": b"hello\n", "key": secret, "cut": good[:-40], "too-many": good * 80,
                     "one-of-two": good + good[:200] + b"!" + good[201:]}[how])
    reload(s, refused="two.pem")
    knock(s, fired)  # still, as if nothing was changed
    turned_away(s, shown(ours_too), UNTRUSTED)
    knock(s, ours_too, s.ports[1])
    with s.connect(context(fired[:2])) as c:
        assert c.tls.getpeercert(True) == ssl.PEM_cert_to_DER_cert(open(certs.cert).read())
    if how == "directory":
        os.rmdir(two)
    copy(ours.cert, two)
    reload(s)
    turned_away(s, shown(fired), UNTRUSTED)
    knock(s, ours_too)
    with s.connect(context(ours_too[:2])) as c:
        assert c.tls.getpeercert(True) == ssl.PEM_cert_to_DER_cert(open(other.cert).read())


# ---------------------------------------------------------------------------------------------- curl and openssl


def curl(s, issued, *more, port=None, path="/"):
    words = ["curl", "-q", "-s", "-S", "-k", "--max-time", str(20 * SLOW), "https://127.0.0.1:%d%s" % (port or s.port, path)]
    if issued:
        words += ["--cert", issued.cert, "--key", issued.key]
    return subprocess.run(words + [str(m) for m in more], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=30 * SLOW)


def s_client(s, issued, data, *more, port=None):
    """openssl s_client sends DATA and waits for the end."""
    words = ["openssl", "s_client", "-connect", "127.0.0.1:%d" % (port or s.port), "-quiet", "-ign_eof"]
    if issued:
        words += ["-cert", issued.cert, "-key", issued.key]
        words += ["-cert_chain", issued.chain] if issued.chain else []
    return subprocess.run(words + [str(m) for m in more], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=30 * SLOW)


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET_LAST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
UPGRADE = wsraw.upgrade_head() + wsraw.frame(wsraw.TEXT, b"from openssl") + wsraw.frame(wsraw.CLOSE, b"\x03\xe8")


@pytest.mark.parametrize("kind", KINDS)
def test_curl_and_openssl_pass(gate, office, kind):
    """Pages, several on one connection, and an upgrade."""
    middle = office.middle("link-" + kind, kind)
    for person in (office.issue("tool-" + kind, issuer=office.ca(kind), kind=kind),
                   office.issue("tool-chain-" + kind, issuer=middle, kind=kind, chain=[middle])):
        here, name = gate.here(), os.path.basename(person.key)[:-4]
        url = "https://127.0.0.1:%d/none" % gate.port
        r = curl(gate, person, url, "-w", "%{num_connects} %{http_code}\n")
        assert r.returncode == 0 and r.stdout == PAGE + b"1 200\n404 Not Found\n0 404\n", r
        gate.wait_log(r' /none 404 .* cn="%s": ' % name, since=here)
        r = s_client(gate, person, GET + GET_LAST)
        assert r.stdout.count(b"HTTP/1.1 200 ") == 2 and r.stdout.count(PAGE) == 2, r
        gate.wait_log(r' / 200 .* cn="%s": served' % name, since=here)
        r = s_client(gate, person, UPGRADE)
        assert b"HTTP/1.1 101 " in r.stdout and b"\x81\x0cfrom openssl\x88\x02\x03\xe8" in r.stdout, r
        gate.wait_log(r' /echo 1000 .* cn="%s": client closed' % name, since=here)
        assert len([x for x in gate.lines(here) if x.startswith("127.")]) == 3


@pytest.mark.parametrize("kind", ["rsa4096", "p256"])
@pytest.mark.parametrize("tool", ["curl", "page", "upgrade"])
def test_curl_and_openssl_refused(gate, office, tool, kind):
    """Each defect with the real tools: no byte of an answer, one line each."""
    before = gate.counters()
    for how in DEFECTS:
        issued, reason = bad_one(office, kind, how)
        here = gate.here()
        if tool == "curl":
            r = curl(gate, issued)
            assert r.returncode in (35, 52, 55, 56) and r.stdout == b"", (how, r)
        else:
            r = s_client(gate, issued, GET_LAST if tool == "page" else UPGRADE)
            assert r.stdout == b"", (how, r)
        gate.wait_log(r"^127\.0\.0\.1:\d+ \S+ - - in=0 out=0 secs=[\d.]+: TLS: %s$" % re.escape(reason), since=here)
        gate.counters()
        assert len([x for x in gate.lines(here) if x.startswith("127.")]) == 1, gate.lines(here)
    after = gate.counters()
    assert after["requests"] == before["requests"] and after["handshakes"] == before["handshakes"]


# ---------------------------------------------------------------------------------------------- Chromium


DRIVER = """#!/bin/sh
# chromedriver, and what it starts, with a policy directory of its own: nobody else sees the mount, and it ends with them
exec unshare %s --mount --propagation private sh -c 'mount --bind "$0" /etc/chromium && exec %s "$@"' %s "$@"
"""


@pytest.fixture
def person(gate, tmp_path, monkeypatch):
    """A factory of Chromiums with certificates in the user's store (NSS), and which one goes where: {port: CN}. Without the
    policy a person is asked, and headless there is nobody to answer."""
    made = []

    def make(choice, *certificates):
        home, etc, bin_ = tmp_path / "home", tmp_path / "etc", tmp_path / "bin"
        store, driver = str(home / ".pki" / "nssdb"), shutil.which("chromedriver") or "/usr/bin/chromedriver"
        os.makedirs(store)
        subprocess.run(["certutil", "-d", "sql:" + store, "-N", "--empty-password"], check=True, timeout=20 * SLOW)
        for issued in certificates:
            p12 = str(tmp_path / "one.p12")
            subprocess.run(["openssl", "pkcs12", "-export", "-in", issued.cert, "-inkey", issued.key, "-out", p12, "-name",
                            os.path.basename(issued.cert), "-passout", "pass:"], check=True, timeout=20 * SLOW)
            subprocess.run(["pk12util", "-d", "sql:" + store, "-i", p12, "-W", ""], check=True, timeout=20 * SLOW,
                           stdout=subprocess.DEVNULL)
        (etc / "policies" / "managed").mkdir(parents=True)
        (etc / "policies" / "managed" / "choice.json").write_text(json.dumps({"AutoSelectCertificateForUrls": [
            json.dumps({"pattern": "https://127.0.0.1:%d" % port, "filter": {"SUBJECT": {"CN": cn}}})
            for port, cn in choice.items()]}))
        bin_.mkdir()
        (bin_ / "chromedriver").write_text(DRIVER % ("" if os.getuid() == 0 else "--map-root-user", driver, etc))
        (bin_ / "chromedriver").chmod(0o755)
        monkeypatch.setenv("PATH", str(bin_), prepend=os.pathsep)
        made.append(test_browser.Browser(home, [], True, None))
        return made[-1]

    yield make
    for b in made:
        b.quit()


SOCKET = """
const [url, done] = arguments;
const ws = new WebSocket(url);
ws.onopen = () => ws.send("from a page");
ws.onmessage = e => { done([e.data, window.kept = ws].slice(0, 1)); };
ws.onclose = e => done(["closed", e.code, e.wasClean]);
"""
AGAIN = """
const [text, done] = arguments;
kept.onmessage = e => done(e.data);
kept.onclose = e => done("closed " + e.code);
kept.send(text);
"""
FETCH = """
const [url, done] = arguments;
fetch(url, { cache: "no-store" }).then(r => r.text().then(t => done([r.status, t])), e => done([0, e.name]));
"""


def test_chromium(wssd, office, www, person):
    """A page, what it fetches, its WebSocket, from Chromium with a certificate; with each wrong one, and with none, it is
    refused; when the authority is removed the open socket stays and nothing else comes in. Chromium shows only what a listed
    authority seems to have issued and what has not expired, and a WebSocket only what a page of that server was given."""
    ca, file = office.ca(), os.path.join(office.dir, "for-chromium.pem")
    copy(ca.cert, file)
    roots = {how: office.issue("root-" + how, ca=True, number=1) for how in ("namesake", "expired", "not-yet", "nobody")}
    fake = office.issue("root-fake", subject=roots["namesake"].name, ca=True, number=2)
    wrong = {
        "namesake": (office.issue("by-namesake", issuer=fake), [UNTRUSTED]),
        "expired": (office.issue("by-expired", issuer=roots["expired"], begin=-30, end=-1), [DATES, NONE]),
        "not-yet": (office.issue("by-not-yet", issuer=roots["not-yet"], begin=1), [DATES, NONE]),
        "nobody": (None, [NONE]),
    }
    good = office.leaf("chromium", cn="the browser's")
    good384 = office.issue("chromium-384", "another of the browser's", issuer=office.ca("p384"), kind="p384")
    good4096 = office.issue("chromium-rsa", "a third of the browser's", issuer=office.ca("rsa4096"), kind="rsa4096")
    files = [file, office.ca("p384").cert, office.ca("rsa4096").cert] + [roots[how].cert for how in wrong]
    s = wssd("--max-per-ip", "0", "--origin", "any", root=www, probe=lambda s: None,
             listen=["wss://127.0.0.1:0,client-ca=" + f for f in files])
    names = ["the browser's", "another of the browser's", "a third of the browser's"] + ["by-" + how for how in wrong]
    b = person(dict(zip(s.ports, names)), good, good384, good4096, *[issued for issued, _ in wrong.values() if issued])

    def run(script, target, port=s.port, scheme="https"):
        return b.driver.execute_async_script(script, "%s://127.0.0.1:%d%s" % (scheme, port, target))

    for port, name in list(zip(s.ports, names))[2::-1]:
        b.get("https://127.0.0.1:%d/" % port)
        assert b.driver.title == "inside"
        assert run(FETCH, "/none", port) == [404, "404 Not Found\n"]
        assert run(SOCKET, "/echo", port, "wss") == ["from a page"]
    before = s.counters()
    assert before["requests"] >= 9 and before["resumed"] == 0
    for port, (how, (issued, reasons)) in zip(s.ports[3:], wrong.items()):
        here = s.here()
        assert run(FETCH, "/", port)[0] == 0, how
        assert run(SOCKET, "/echo", port, "wss") == ["closed", 1006, False], how
        s.wait_counters(clients=lambda n: n <= before["clients"])
        lines = [line for line in s.lines(here) if line.startswith("127.") and not line.endswith(": client left")]
        ends = ["TLS: " + reason for reason in reasons]
        assert lines and all(line.endswith(tuple(ends)) and " cn=" not in line for line in lines), (how, s.lines(here))
    after = s.counters()
    assert after["requests"] == before["requests"] and after["handshakes"] == before["handshakes"]

    copy(office.ca("rsa2048").cert, file)
    reload(s)
    assert b.driver.execute_async_script(AGAIN, "still in") == "still in"
    here = s.here()
    assert run(SOCKET.replace("window.kept = ws", "ws"), "/echo", scheme="wss") == ["closed", 1006, False]
    s.wait_log(r": TLS: (%s|%s)$" % (re.escape(NONE), re.escape(UNTRUSTED)), since=here)
    assert b.driver.execute_async_script(AGAIN, "still in") == "still in"
    b.js("kept.close(1000)")
    s.wait_log(r" /echo 1000 .* cn=\"the browser's\": client closed$")
    b.quit()
    s.wait_counters(clients=0)
    assert s.counters()["resumed"] == 0
    for name in names[:3]:
        for what in (" /(|none|favicon.ico) (200|404) ", " /echo 10.. "):
            assert any(re.search(what + '.* cn="%s": ' % name, line) for line in s.lines(0)), (name, what)
