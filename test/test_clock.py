"""The time of day jumps by decades, both ways, as on a gateway whose clock nobody has set when it boots: deadlines and
pings do not notice, and what the log says of certificates tells what the clock is."""

import calendar
import mmap
import os
import ssl
import struct
import subprocess
import time

import pytest
from cryptography import x509

import pki as pki_module
import wsraw

SLOW = wsraw.SLOW
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
YEAR = 31556952

# The shim has to come before a sanitizer's library. A wrapper that becomes the server (prlimit) does not notice it; an
# emulator asks the clocks for the server.
pytestmark = [pytest.mark.plain, pytest.mark.skipif(os.environ.get("WSSD_WRAP", "").startswith("valgrind"),
                                                    reason="the shim is for the server alone, and not for valgrind")]


class Clock:
    """What the shim adds. day: to the time of day, rest: to the other clocks; in seconds."""

    def __init__(self, directory):
        self.file, shim = str(directory / "clock"), str(directory / "clock.so")
        subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", shim,
                        os.path.join(TOP, "test", "faults", "clock.c")], check=True)
        with open(self.file, "w+b") as f:
            f.write(bytes(16))
            f.flush()
            self.page = mmap.mmap(f.fileno(), 16)
        self.env = {"LD_PRELOAD": shim, "WSSD_CLOCK": self.file}

    def put(self, day=0, rest=0):
        self.page[:] = struct.pack("=qq", int(day), int(rest))

    def put_year(self, year):
        """In the middle of it."""
        self.put((year - 1970 + 0.5) * YEAR - time.time())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture
def clock(made):
    made.put()
    yield made
    made.put()


def attend(clients, seconds):
    """Answers pings for so long; how many each of them got."""
    end = time.monotonic() + seconds * SLOW
    pings = [0] * len(clients)
    while time.monotonic() < end:
        for i, c in enumerate(clients):
            try:
                f = c.recv_frame(0.02)
            except wsraw.Silence:
                continue
            assert f.opcode == wsraw.PING, f
            pings[i] += 1
            c.send_frame(wsraw.PONG, f.payload)
    return pings


def test_shim(clock):
    """It moves what it should, or the tests below would show nothing."""
    def told(command):
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, env=dict(os.environ, **clock.env)).stdout.decode()

    clock.put_year(1970)
    assert told(["date", "-u", "+%Y"]) == "1970\n"
    clock.put_year(2100)
    assert told(["date", "-u", "+%Y"]) == "2100\n"
    clock.put(rest=9 * YEAR)
    assert float(told(["/usr/bin/python3", "-c", "import time; print(time.monotonic())"])) > 9 * YEAR
    assert told(["date", "-u", "+%Y"]) == time.strftime("%Y\n", time.gmtime())


def test_nothing_ends_and_pings_go_on(wssd, clock):
    s = wssd("--ping", "1", "--timeout", "2", "/chat=hub", plain=True, env=clock.env)
    clients = [s.open(path, tls=tls) for path in ("/echo", "/chat") for tls in (True, False)]
    began = time.monotonic()
    for year in (1970, 2100, 1999):
        clock.put_year(year)
        pings = attend(clients, 2.5)
        assert min(pings) >= 1, (year, pings)
    lived = time.monotonic() - began
    assert s.counters()["clients"] == len(clients)
    for c in clients:
        c.send_frame(wsraw.CLOSE, wsraw.close_payload(1000))
        c.expect_close(1000, answer=False, data_allowed=True)  # a ping may still be on its way
        c.close()
        m = s.wait_log(r"^127\.0\.0\.1:%d .* 1000 .* secs=(\S+):" % c.local[1])
        assert lived <= float(m.group(1)) < lived + 5 * SLOW


def test_deadlines_stay_where_they_are(wssd, clock):
    """Of an idle connection, of half a head, of a handshake that does not begin."""
    s = wssd("--timeout", "2", plain=True, env=clock.env)
    for year in (1970, 2100):
        began = time.monotonic()
        idle, half, mute = s.connect(tls=False), s.connect(tls=True), s.connect(port=s.tls_port)
        idle.request()
        half.send(b"GET / HT")
        clock.put_year(year)
        for c in (idle, half, mute):
            c.quiet(max(0.0, began + 1 - time.monotonic()) / SLOW)
        for c, why in ((idle, "idle"), (half, "no request in time"), (mute, "no request in time")):
            c.recv_all(5)
            m = s.wait_log(r"^127\.0\.0\.1:%d .* secs=(\S+): %s$" % (c.local[1], why))
            assert 1.9 < float(m.group(1)) < 2 + 3 * SLOW


def test_this_would_be_noticed(wssd, clock):
    """With the other clocks a jump is the end of all."""
    s = wssd("--ping", "1", "--timeout", "2", "--verbose", plain=True, env=clock.env)
    clients = [s.open(tls=tls) for tls in (True, False)]
    clock.put(rest=60)
    for c in clients:
        s.wait_log(r"^127\.0\.0\.1:%d .* 1006 .*: no answer to a ping$" % c.local[1], 5)


def visit(s):
    with s.connect(True, port=s.ports[1]) as c:
        return c.request()


def is_let_in(s, context):
    with s.connect(context) as c:
        c.open().send_text("it is me")
        c.expect_text("it is me")


def is_refused(s, context, year):
    here = s.here()
    with s.connect(context, handshake=False) as c:
        with pytest.raises((ssl.SSLError, wsraw.Ended, OSError)):
            c.handshake()
            c.request()
        s.wait_log(r"^127\.0\.0\.1:%d .*: TLS: client certificate out of date: the clock says %d \(54\)$"
                   % (c.local[1], year), since=here)


def test_certificates_and_a_clock_that_was_never_set(wssd, clock, tmp_path):
    """BearSSL does not tell "expired" from "not yet valid"; the year of the clock does."""
    maker = pki_module.Pki(tmp_path)
    ca = maker.ca("devices")
    device = maker.client("device", issuer=ca)
    context = wsraw.client_context(certfile=device.cert, keyfile=device.key)
    s = wssd("--verbose", env=clock.env, listen=["wss://127.0.0.1:0,client-ca=" + ca.cert, "wss://127.0.0.1:0"],
             probe=visit)
    for year in (1970, 2000, 2100):
        clock.put_year(year)
        is_refused(s, context, year)
    clock.put()
    is_let_in(s, context)
    # our own certificate is the client's affair
    clock.put_year(1970)
    assert visit(s).status == 404


def test_devices_after_2038(wssd, clock, tmp_path, monkeypatch):
    """A certificate begins and ends at its second, in whatever year: on a machine of 32 bits as well, and whatever BearSSL
    was built for, since it is told the time."""
    maker = pki_module.Pki(tmp_path)
    with monkeypatch.context() as m:
        for name in clock.env:
            m.setenv(name, clock.env[name])
        clock.put(43200 - time.time() % 86400)  # a day of 86,399 s, or 86,401, would be half a day out at the end
        ca = maker.pair("devices", "ec256", None, "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign",
                        days=28000)
        device = maker.client("device", issuer=ca, days=27000)
    with open(device.cert, "rb") as f:
        read = x509.load_pem_x509_certificate(f.read())
    begin, end = (calendar.timegm(t.timetuple()) for t in (read.not_valid_before, read.not_valid_after))
    assert time.gmtime(end).tm_year > 2090
    context = wsraw.client_context(certfile=device.cert, keyfile=device.key)
    s = wssd("--verbose", env=clock.env, listen=["wss://127.0.0.1:0,client-ca=" + ca.cert, "wss://127.0.0.1:0"], probe=visit)
    near = 20 * SLOW
    for second in (begin + 2, (begin + end) // 2, end - near):
        clock.put(second - time.time())
        is_let_in(s, context)
    for second in (begin - near, end + 2):
        clock.put(second - time.time())
        is_refused(s, context, time.gmtime(second).tm_year)


def test_the_clock_counts_when_a_certificate_is_looked_at(wssd, clock, tmp_path):
    """Not when its connection was accepted: a client may wait for seconds before it begins, or the clock be set by then."""
    maker = pki_module.Pki(tmp_path)
    ca = maker.ca("devices")
    device = maker.client("device", issuer=ca)
    context = wsraw.client_context(certfile=device.cert, keyfile=device.key)
    s = wssd("--verbose", "--timeout", "60", env=clock.env, listen=["wss://127.0.0.1:0,client-ca=" + ca.cert,
                                                                       "wss://127.0.0.1:0"], probe=visit)
    early, late = s.connect(context, handshake=False), s.connect(context, handshake=False)
    s.wait_counters(accepted=2)
    clock.put_year(2100)
    with pytest.raises((ssl.SSLError, wsraw.Ended, OSError)):
        early.handshake()
        early.request()
    s.wait_log(r"^127\.0\.0\.1:%d .*: TLS: client certificate out of date: the clock says 2100 \(54\)$" % early.local[1])
    third = s.connect(context, handshake=False)
    s.wait_counters(accepted=3)
    clock.put()
    for c in (late, third):
        c.handshake()
        c.open().send_text("it is me")
        c.expect_text("it is me")
