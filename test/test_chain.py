"""What a stranger may cost others before he has shown who he is: a chain of certificates without an end, at a listener that
asks for one (each signature in it is verified before it turns out that no authority of ours stands behind), and a ClientHello
in records of one byte."""
import datetime
import socket
import ssl
import struct
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import peers
import pki
import wsraw

SLOW = wsraw.SLOW


def endless(path, curve, count):
    """COUNT certificates, each of the one before, all with one key; the last is nobody's."""
    key, now = ec.generate_private_key(curve), datetime.datetime(2026, 1, 1)
    files = str(path / "chain.crt"), str(path / "chain.key")

    def name(i):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, str(i))])

    with open(files[0], "wb") as f:
        for i in range(count):
            b = x509.CertificateBuilder().subject_name(name(i)).issuer_name(name(i + 1)).public_key(key.public_key())
            b = b.serial_number(i + 1).not_valid_before(now - datetime.timedelta(300))
            b = b.not_valid_after(now + datetime.timedelta(9000))
            if i:
                b = b.add_extension(x509.BasicConstraints(True, None), True)
            f.write(b.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    with open(files[1], "wb") as f:
        f.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                  serialization.NoEncryption()))
    return wsraw.client_context(certfile=files[0], keyfile=files[1])


@pytest.mark.parametrize("curve, count", [(ec.SECP384R1(), 300), (ec.SECP521R1(), 150)], ids=["p384", "p521"])
def test_endless_chain(wssd, tmp_path, curve, count):
    """The connection ends before most of it was looked at, and whoever is there already is served meanwhile."""
    ca = pki.Pki(tmp_path).ca("ca")
    s = wssd(listen=["ws://127.0.0.1:0", "wss://127.0.0.1:0,client-ca=" + ca.cert])
    context, waits, over = endless(tmp_path, curve, count), [], threading.Event()

    def watch():
        with s.open("/echo", tls=False) as c:
            while not over.is_set():
                took = peers.Stopwatch(s)
                c.send_text("served?")
                c.expect_text("served?")
                waits.append(took())
                time.sleep(0.001)
            c.close_handshake()

    t = threading.Thread(target=watch)
    t.start()
    peers.until(lambda: waits)
    before = s.cpu()
    try:
        with pytest.raises((wsraw.Ended, ssl.SSLError, OSError)):
            with s.connect(context, port=s.ports[1]) as c:
                c.request()
        s.wait_log(r" - - in=0 \S+ \S+ (?:TLS: client certificate|handshake)")
    finally:
        over.set()
        t.join(10 * SLOW)
    assert s.cpu() - before < 0.4 * SLOW * peers.slower()
    assert max(waits) < 0.5 * SLOW


def crumbs():
    """A ClientHello of some 3,000 bytes (RFC 7685 pads it) in records of one byte each, but for its end."""
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        wsraw.client_context().wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    body = bytearray(out.read()[9:])
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + struct.unpack_from(">H", body, at)[0]
    at += 1 + body[at]
    padding = struct.pack(">HH", 21, 3000) + bytes(3000)
    struct.pack_into(">H", body, at, struct.unpack_from(">H", body, at)[0] + len(padding))
    message = b"\1" + struct.pack(">I", len(body) + len(padding))[1:] + bytes(body) + padding
    return b"".join(b"\x16\3\3\0\1" + message[i:i + 1] for i in range(2700))


@pytest.mark.plain
def test_handshakes_in_crumbs(wssd):
    """Thirty of them cost little, and a newcomer does not wait behind them for long."""
    s, data = wssd("--max-per-ip", "0"), crumbs()
    before = s.cpu()
    strangers = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(30)]
    try:
        s.wait_counters(clients=30)
        for stranger in strangers:
            stranger.sendall(data)
        with s.open("/echo") as c:
            c.send_text("served?")
            c.expect_text("served?")
            c.close_handshake()
        assert s.cpu() - before < 0.25 * peers.slower()
    finally:
        for stranger in strangers:
            stranger.close()
