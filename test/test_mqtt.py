"""MQTT for real: Debian's mosquitto behind the server, Debian's paho-mqtt over wss with a client certificate in front of it,
npm's mqtt.js in Chromium on a page that the server serves.

The broker listens on loopback with a configuration of its own, a plain MQTT client beside the server is the other end. Each
message's place and payload are checked, and that it comes once: QoS 1 promises only "at least once", but as long as no
connection is lost, nobody has a reason to send twice.

Paho answers a WebSocket ping with a frame that is not masked, which ends the connection (1002, RFC 6455 section 5.1). Who
speaks more often than each --ping seconds never gets one; that is what the keep alive of MQTT is for."""

import base64
import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import paho.mqtt.client as paho
import pytest

import logs
import pki as pki_module
import recipes
import wsraw
from conftest import LIBC, TOP
from test_browser import browser, until  # noqa: F401: browser is a fixture

SLOW = wsraw.SLOW
MANY = 10000
KEEP_ALIVE = 4      # seconds, of the page: the broker ends who is silent for half as long again, as a busy machine makes it
# No change of user: it would undo the promise that the broker ends with the test run.
CONF = """\
listener %d 127.0.0.1
allow_anonymous true
max_queued_messages 10000
persistence false
user root
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice
log_type information
"""

# npm's package of mqtt.js, by version and digest: this is what pages use, and its dist/ needs nothing else of npm's.
# (Debian's node-mqtt is 4.3.7 and has no dist/: one would first have to bundle it, and then test that bundle.)
MQTT_JS = "mqtt-5.16.0.tgz"
MQTT_JS_SHA512 = "G0VsEtuJz5sJUgZJaaADMVfW7SIFPzkIuHR+d6rk+tBeSwdCfd9BaIRycRfd2AbyFDEmLlFM+SDQeti/+IbOnw=="


# ---------------------------------------------------------------------------------------------- the broker


class Broker(logs.Logged):
    """A mosquitto on loopback."""

    def __init__(self, directory):
        conf = os.path.join(str(directory), "mosquitto.conf")
        for _ in range(10):
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                self.port = s.getsockname()[1]
            with open(conf, "w") as f:
                f.write(CONF % self.port)
            self.proc = subprocess.Popen(["/usr/sbin/mosquitto", "-c", conf], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                         preexec_fn=lambda: LIBC.prctl(1, signal.SIGKILL))  # PR_SET_PDEATHSIG
            self.follow(self.proc.stderr)
            if self.wait_log(r"^mosquitto version \S+ (running)|Address already in use").group(1):
                return
            self.stop()  # somebody was faster
        raise AssertionError("no port for mosquitto")

    def stop(self):
        self.proc.terminate()
        try:
            self.proc.wait(5 * SLOW)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        self.thread.join(5)
        self.proc.stderr.close()


# ---------------------------------------------------------------------------------------------- clients


class Client:
    """A paho client whose loop runs in a thread. tls: a context for wss, or None for plain MQTT. got: (topic, payload,
    retained) of each message."""

    def __init__(self, name, port, tls=None, will=None, keepalive=20, clean=True, headers=None):
        kw = {"callback_api_version": paho.CallbackAPIVersion.VERSION1} if hasattr(paho, "CallbackAPIVersion") else {}
        self.name, self.cond = name, threading.Condition()
        self.got, self.acked, self.subscribed, self.ends, self.session = [], 0, 0, [], None
        self.mqtt = paho.Client(client_id=name, clean_session=clean, transport="websockets" if tls else "tcp", **kw)
        if tls:
            self.mqtt.tls_set_context(tls)
            self.mqtt.ws_set_options("/mqtt", headers)
        if will:
            self.mqtt.will_set(*will[:2], qos=1, retain=len(will) > 2)
        self.mqtt.max_queued_messages_set(0)
        self.mqtt.on_connect = lambda c, u, flags, rc: self.note(session=(rc, flags["session present"]))
        self.mqtt.on_subscribe = lambda c, u, mid, qos: self.note(subscribed=self.subscribed + 1)
        self.mqtt.on_publish = lambda c, u, mid: self.note(acked=self.acked + 1)
        self.mqtt.on_disconnect = lambda c, u, rc: self.note(ends=self.ends + [rc])
        self.mqtt.on_message = self.message
        try:
            self.mqtt.connect("127.0.0.1", port, keepalive)
            self.mqtt.loop_start()
            self.wait(lambda: self.session or self.ends)
            assert self.session and self.session[0] == 0, (self.name, self.session, self.ends)
        except BaseException:
            self.close()
            raise

    def note(self, **values):
        with self.cond:
            vars(self).update(values)
            self.cond.notify_all()

    def message(self, c, u, m):
        with self.cond:
            self.got.append((m.topic, m.payload, bool(m.retain)))
            self.cond.notify_all()

    def wait(self, condition, timeout=10):
        with self.cond:
            fine = self.cond.wait_for(condition, timeout * SLOW)
        assert fine, "%s waits in vain: %d messages, the last %r; %d acknowledged, ends %r" % (
            self.name, len(self.got), self.got[-1:], self.acked, self.ends)

    def subscribe(self, *topics):
        for topic in topics:
            wanted = self.subscribed + 1
            self.mqtt.subscribe(topic, 1)
            self.wait(lambda: self.subscribed >= wanted)
        return self

    def publish(self, topic, payload, retain=False):
        """And waits until the broker has it."""
        wanted = self.acked + 1
        self.mqtt.publish(topic, payload, 1, retain)
        self.wait(lambda: self.acked >= wanted)

    def expect(self, *messages):
        """Exactly these came since this was asked last."""
        self.wait(lambda: len(self.got) >= len(messages))
        with self.cond:
            got, self.got = self.got, []
        assert got == list(messages)

    def disconnect(self):
        """As MQTT says goodbye."""
        self.mqtt.disconnect()
        self.wait(lambda: self.ends)
        assert self.ends == [0]
        self.close()

    def close(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


def string(b):
    b = b.encode() if isinstance(b, str) else b
    return struct.pack("!H", len(b)) + b


def connect_packet(name, keepalive, will=None):
    """CONNECT of MQTT 3.1.1 section 3.1, clean session; will: topic and payload, QoS 1."""
    body = string("MQTT") + bytes([4, 0x0E if will else 0x02]) + struct.pack("!H", keepalive) + string(name)
    body += b"".join(map(string, will or ()))
    assert len(body) < 128
    return bytes([0x10, len(body)]) + body


CONNACK = bytes([0x20, 2, 0, 0])


# ---------------------------------------------------------------------------------------------- fixtures


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return pki_module.Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    b = Broker(tmp_path_factory.mktemp("broker"))
    yield b
    b.stop()


@pytest.fixture(scope="module")
def devices(pki, certs):
    """A TLS context with the certificate of this name, or with none."""
    def context(name=None):
        c = ssl.create_default_context(cafile=certs.cert)
        if name:
            c.load_cert_chain(*pki.client(name, issuer=pki.ca("devices")))
        return c
    return context


@pytest.fixture(scope="module")
def srv(wssd_module, broker, pki, tmp_path_factory):
    """Two listeners: the page's, and the devices'."""
    root = tmp_path_factory.mktemp("root")
    s = wssd_module("/mqtt=tcp:127.0.0.1:%d,protocol=mqtt" % broker.port, "--ping", "5", "--max-per-ip", "0",
                    listen=["wss://127.0.0.1:0", "wss://127.0.0.1:0,client-ca=" + pki.ca("devices").cert], root=root)
    s.root = root
    return s


@pytest.fixture
def clients(srv, broker, devices, topic):
    """A factory: of a device with its certificate, or with wss=False of a plain client of the broker's. All are gone before
    the server is looked at."""
    made = []

    def make(name, wss=True, **kw):
        made.append(Client(name + topic, srv.ports[1] if wss else broker.port, devices("device 7") if wss else None,
                           keepalive=kw.pop("keepalive", 2 if wss else 20), **kw))
        return made[-1]

    yield make
    for c in made:
        c.close()


@pytest.fixture
def topic():
    """One of this test's own."""
    return "t%d" % random.randrange(1 << 32)


# ---------------------------------------------------------------------------------------------- messages


def payloads(who):
    """MANY of them, of every length up to 300, a few longer than a TLS record; each has its number."""
    r = random.Random(who)
    for i in range(MANY):
        yield b"%s %d " % (who.encode(), i) + r.randbytes(20000 if i % 1000 == 500 else r.randrange(300))


def test_ten_thousand_each_way(srv, broker, clients, devices, topic):
    """Device to broker to plain client and to a second device, plain client to broker to device, all at once."""
    here = srv.here()
    plain = clients("plain", wss=False).subscribe(topic + "/up")
    second = clients("second").subscribe(topic + "/up")
    device = clients("device").subscribe(topic + "/down")
    up, down = list(payloads("up")), list(payloads("down"))
    start = time.monotonic()
    for a, b in zip(up, down):
        device.mqtt.publish(topic + "/up", a, 1)
        plain.mqtt.publish(topic + "/down", b, 1)
    for c in (plain, second, device):
        c.wait(lambda: len(c.got) >= MANY and (c is second or c.acked >= MANY), 60)
    seconds = time.monotonic() - start
    for c, way, sent in ((plain, "up", up), (second, "up", up), (device, "down", down)):
        assert [payload for _, payload, _ in c.got] == sent, "%s lacks some, or they are out of order" % c.name
        assert {t for t, _, _ in c.got} == {"%s/%s" % (topic, way)}
    print("%d published, %d delivered in %.1f s" % (2 * MANY, 3 * MANY, seconds))
    for c in (plain, second, device):
        c.disconnect()
        assert c.acked == (0 if c is second else MANY)
    line = r'^127\.0\.0\.1:\d+ \S*ECDHE\S+ /mqtt \d+ in=(\d+) out=(\d+) secs=[\d.]+ cn="device 7": '
    ends = [srv.wait_log(line, since=here)]
    ends.append(srv.wait_log(line, since=srv.lines(0).index(ends[0].string) + 1))
    assert sorted(int(m.group(1)) > sum(map(len, up)) for m in ends) == [False, True]
    assert all(int(m.group(2)) > sum(map(len, down)) for m in ends)


def test_who_has_no_certificate_or_speaks_no_mqtt_stays_out(srv, broker, devices, certs, topic):
    here, there = srv.here(), broker.here()
    with pytest.raises((OSError, paho.WebsocketConnectionError)):
        Client("stranger", srv.ports[1], devices())
    srv.wait_log(r"no certificate \(29\)$", since=here)
    with srv.connect(True, port=srv.ports[0]) as c:
        r = c.open("/mqtt", extra=[("Sec-WebSocket-Protocol", "chat, mqtt")]).reply_head
        assert r.get("Sec-WebSocket-Protocol") == "mqtt"
    c = Client("page", srv.ports[0], devices())  # the page's listener asks for none
    c.disconnect()
    broker.wait_log("Client page disconnected", since=there)
    assert not any("stranger" in line for line in broker.log[there:])


def test_retained(clients, topic):
    """The last retained message comes first to whoever subscribes later, and an empty one takes it away."""
    device = clients("device")
    for state in (b"off", b"on"):
        device.publish(topic, state, retain=True)
    device.publish(topic, b"not this one")
    plain = clients("plain", wss=False).subscribe(topic)
    other = clients("other").subscribe(topic)
    for c in (plain, other):
        c.expect((topic, b"on", True))
    plain.publish(topic, b"off", retain=True)
    for c in (plain, other):
        c.expect((topic, b"off", False))  # to who is there it is a message like any
    late = clients("late").subscribe(topic)
    late.expect((topic, b"off", True))
    device.publish(topic, b"", retain=True)
    for c in (plain, other, late):
        c.expect((topic, b"", False))
    clients("later").subscribe(topic).publish(topic, b"the first")
    last = clients("last", wss=False).subscribe(topic)
    last.publish(topic, b"mark")
    last.expect((topic, b"mark", False))


def test_who_was_away_misses_nothing(clients, broker, topic):
    """What comes while a device with a session is away waits for it."""
    plain = clients("plain", wss=False)
    device = clients("device", clean=False).subscribe(topic)
    assert device.session == (0, 0)
    device.disconnect()
    broker.wait_log("Client %s disconnected" % device.name)
    sent = [b"%d" % i for i in range(1000)]
    for p in sent:
        plain.mqtt.publish(topic, p, 1)
    plain.wait(lambda: plain.acked == 1000)
    again = clients("device", clean=False)
    assert again.session == (0, 1)
    again.expect(*[(topic, p, False) for p in sent])
    plain.mqtt.publish(topic, b"live", 1)
    again.expect((topic, b"live", False))


# ---------------------------------------------------------------------------------------------- the ends


DEVICE = """
import ssl, sys, threading
sys.path.insert(0, %r)
import test_mqtt
port, ca, cert, key, name, topic = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
c = test_mqtt.Client(name, int(port), context, will=(topic, "gone"), keepalive=2)
print("ready", flush=True)
threading.Event().wait(100)
"""


def test_will_of_a_device_whose_process_is_killed(srv, broker, clients, pki, certs, topic):
    plain = clients("plain", wss=False).subscribe(topic)
    other = clients("other").subscribe(topic)
    here, name = srv.here(), "killed-" + topic
    pair = pki.client("device 7", issuer=pki.ca("devices"))
    proc = subprocess.Popen([sys.executable, "-c", DEVICE % os.path.dirname(os.path.abspath(__file__)), str(srv.ports[1]),
                             certs.cert, pair.cert, pair.key, name, topic], stdout=subprocess.PIPE,
                            preexec_fn=lambda: LIBC.prctl(1, signal.SIGKILL))
    try:
        assert proc.stdout.readline() == b"ready\n"
        time.sleep(2.2 * SLOW)  # it is alive: its keep alive passes, and --ping has nothing to ask
        assert plain.got == other.got == []
    finally:
        proc.kill()
        proc.wait()
        proc.stdout.close()
    plain.expect((topic, b"gone", False))
    other.expect((topic, b"gone", False))
    srv.wait_log(r" /mqtt 1006 in=\d+ out=\d+ secs=", since=here)


def open_mqtt(srv, context, name, keepalive, will):
    """A raw client that has said CONNECT."""
    c = wsraw.connect(srv.ports[-1], context).open("/mqtt", extra=[("Sec-WebSocket-Protocol", "mqtt")])
    c.send_binary(connect_packet(name, keepalive, will))
    c.expect_binary(CONNACK)
    return c


@pytest.mark.parametrize("how", ["reset", "fin", "close frame", "silence"])
def test_will_of_a_device_that_vanishes(wssd, srv, broker, clients, devices, topic, how):
    """However it goes without DISCONNECT; who is silent is found out by the server's pings, long before the broker would."""
    plain = clients("plain", wss=False).subscribe(topic)
    if how == "silence":
        srv = wssd("/mqtt=tcp:127.0.0.1:%d,protocol=mqtt" % broker.port, "--ping", "1", "--timeout", "1")
    here, name = srv.here(), "vanishes-" + topic
    c = open_mqtt(srv, devices("device 7"), name, 600, (topic, "gone"))
    if how == "reset":
        c.reset()
    elif how == "fin":
        c.shutdown_write(notify=False)
    elif how == "close frame":
        c.close_handshake(1000)
        c.close()
    plain.expect((topic, b"gone", False))
    broker.wait_log("Client %s (closed its connection|disconnected)" % name)
    srv.wait_log(r" /mqtt %s in=" % (1000 if how == "close frame" else 1006), since=here)


def test_no_will_after_goodbye(srv, broker, clients, devices, topic):
    """Forty times: paho sends DISCONNECT and closes its socket at once, without a Close frame, so that the client's end
    comes right behind; without acknowledgements (QoS 0) what it said last is still on its way to the broker then."""
    plain = clients("plain", wss=False).subscribe(topic + "/#")
    there = broker.here()
    for i in range(40):
        c = clients("polite%d" % i, will=(topic + "/will", "gone"))
        if i % 2:
            c.publish(topic + "/last", b"%d" % i)
        else:
            c.mqtt.publish(topic + "/last", b"%d" % i, 0)
        c.disconnect()
        broker.wait_log("Client %s disconnected" % c.name, since=there)
    plain.publish(topic + "/mark", b"")
    plain.expect(*[(topic + "/last", b"%d" % i, False) for i in range(40)], (topic + "/mark", b"", False))


def test_keep_alive(srv, broker, clients, devices, topic):
    """Who has nothing to say but keeps alive stays; who does not is put out by the broker, and the will follows."""
    start = time.monotonic()
    plain = clients("plain", wss=False).subscribe(topic)
    device = clients("device").subscribe(topic)
    here = srv.here()
    raw = open_mqtt(srv, devices("device 7"), "mute-" + topic, 3, (topic, "gone"))
    while True:  # it answers the server's pings, but its keep alive is missing
        opcode, data = raw.recv_message()
        if opcode != wsraw.PING:
            break
        assert time.monotonic() < start + 15 * SLOW
        raw.send_frame(wsraw.PONG, data)
    assert opcode == wsraw.CLOSE and struct.unpack("!H", data[:2]) == (1000,)
    broker.wait_log("Client mute-%s has exceeded timeout" % topic)
    plain.expect((topic, b"gone", False))
    time.sleep(max(0, start + 7 - time.monotonic()))  # longer than --ping
    device.expect((topic, b"gone", False))
    assert device.ends == [] and not any(" /mqtt 1002 " in line for line in srv.lines(here))


def test_credential(wssd, broker, devices, tmp_path):
    """A device shows a token next to its certificate."""
    (tmp_path / "tokens").write_text(hashlib.sha256(b"of device 7").hexdigest() + " device 7\n")
    srv = wssd("/mqtt=tcp:127.0.0.1:%d,protocol=mqtt,auth=%s" % (broker.port, tmp_path / "tokens"))
    name = "token-%d" % srv.port
    Client(name, srv.port, devices("device 7"), headers={"Authorization": "Bearer of device 7"}).disconnect()
    broker.wait_log("Client %s disconnected" % name)
    for headers in ({}, {"Authorization": "Bearer of device 8"}):
        with pytest.raises(paho.WebsocketConnectionError):
            Client(name, srv.port, devices("device 7"), headers=headers)
        srv.wait_log(r" /mqtt 401 ")


# ---------------------------------------------------------------------------------------------- a page


def mqtt_js():
    """dist/mqtt.esm.js of npm's package, which is fetched into build/ once."""
    place = os.path.join(TOP, "build", "npm")
    file = os.path.join(place, MQTT_JS)
    if not os.path.exists(file):
        npm = shutil.which("npm")
        assert npm, "npm is needed to fetch mqtt.js: sh test/install deep"
        os.makedirs(place, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as d:
            name = "@".join(MQTT_JS[:-4].rsplit("-", 1))
            r = subprocess.run([npm, "pack", "--loglevel", "error", "--cache", "cache", name], cwd=d,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100,
                               encoding="utf-8", errors="backslashreplace")
            assert r.returncode == 0, "npm cannot fetch %s (status %d):\n%s" % (name, r.returncode, r.stdout)
            os.replace(os.path.join(d, MQTT_JS), file)
    with open(file, "rb") as f:
        digest = base64.b64encode(hashlib.sha512(f.read()).digest()).decode()
    if digest != MQTT_JS_SHA512:
        os.unlink(file)
        raise AssertionError("%s has the digest sha512-%s, expected was %s" % (file, digest, MQTT_JS_SHA512))
    with tarfile.open(file) as t:
        return t.extractfile("package/dist/mqtt.esm.js").read()


PAGE = """<!doctype html>
<html lang="en"><title>waiting</title><link rel="icon" href="data:,">
<script type="module">
import mqtt from "./mqtt.esm.js";
window.start = (url, options, topics, done) => {
    window.got = [];
    window.acked = 0;
    window.client = mqtt.connect(url, { reconnectPeriod: 0, ...options });
    client.on("message", (topic, payload, packet) =>
        got.push([topic, payload.length > 1000 ? payload : new TextDecoder().decode(payload), packet.retain]));
    client.on("error", e => done("error: " + e));
    client.on("close", () => done("closed"));
    client.on("connect", () => client.subscribe(topics, { qos: 1 }, (e, granted) => done(e ? String(e) : granted.length)));
};
document.title = "ready";
</script>
"""


class Page:
    """The page with a client of mqtt.js in it."""

    def __init__(self, browser, srv):
        self.b, self.srv = browser, srv
        self.load()

    def load(self):
        self.b.get("https://localhost:%d/mqtt.html" % self.srv.ports[0])
        until(lambda: self.b.driver.title == "ready", why=lambda: self.b.complaints() or "no client in the page")

    def start(self, *topics, **options):
        url = "wss://localhost:%d/mqtt" % self.srv.ports[0]
        said = self.b.driver.execute_async_script("start(...arguments)", url, options, topics)
        assert said == len(topics), said

    def wait(self, what, seconds=20):
        until(lambda: self.b.js("return " + what), seconds,
              lambda: self.b.js("return [client.connected, acked, got.length, got.slice(-3)]"))


@pytest.mark.deep  # for Debian's npm: 337 packages, 100 MiB, and a registry besides Debian's
def test_mqtt_js_in_chromium(srv, browser, clients, certs, topic):  # noqa: F811
    """The page comes from the server too; both ways at once, retained messages, a large binary one, both kinds of ends."""
    (srv.root / "mqtt.html").write_text(PAGE)
    (srv.root / "mqtt.esm.js").write_bytes(mqtt_js())
    here, many = srv.here(), MANY
    plain = clients("plain", wss=False).subscribe(topic + "/up", topic + "/will")
    plain.publish(topic + "/kept", b"before the page", retain=True)
    p = Page(browser(trusted=certs.cert), srv)
    assert [t.split(";")[0] for t in p.b.driver.execute_async_script(
        "const done = arguments[0]; Promise.all(['mqtt.html', 'mqtt.esm.js'].map(f => fetch(f)"
        ".then(r => r.headers.get('Content-Type')))).then(done)")] == ["text/html", "text/javascript"]

    will = {"topic": topic + "/will", "payload": "the page is gone", "qos": 1}
    p.start(topic + "/down", topic + "/kept", clientId="page" + topic, keepalive=KEEP_ALIVE, will=will)
    p.wait("got.length")
    assert p.b.js("return got") == [[topic + "/kept", "before the page", True]]
    start = time.monotonic()
    p.b.js("got = []; for (let i = 0; i < arguments[1]; i++)"
           "client.publish(arguments[0], 'up ' + i, { qos: 1 }, e => acked += !e)", topic + "/up", many)
    for i in range(many):
        plain.mqtt.publish(topic + "/down", b"down %d" % i, 1)
    p.wait("acked >= %d && got.length >= %d" % (many, many))
    plain.expect(*[(topic + "/up", b"up %d" % i, False) for i in range(many)])
    print("%d and %d messages in %.1f s" % (many, many, time.monotonic() - start))
    assert p.b.js("return got") == [[topic + "/down", "down %d" % i, False] for i in range(many)]
    assert p.b.js("return acked") == many

    # bytes, and more of them than fit into a frame or a record
    data = random.Random(7).randbytes(300000)
    p.b.js("got = []; acked = 0")
    plain.publish(topic + "/down", data)
    p.wait("got.length")
    p.b.js("client.publish(arguments[0], got[0][1], { qos: 1 })", topic + "/up")
    plain.expect((topic + "/up", data, False))

    # longer than its keep alive it has nothing to say; then it leaves without a word
    p.b.js("client.publish(arguments[0], 'by the page', { qos: 1, retain: true }, e => acked += !e)", topic + "/kept")
    p.wait("acked")
    time.sleep(2.5 * KEEP_ALIVE * SLOW)
    assert plain.got == [] and p.b.js("return client.connected")
    clients("late").subscribe(topic + "/kept").expect((topic + "/kept", b"by the page", True))
    p.load()
    plain.expect((topic + "/will", b"the page is gone", False))
    srv.wait_log(r" /mqtt 1001 in=", since=here)

    # with a word it leaves no will
    here = srv.here()
    p.start(topic + "/down", clientId="page" + topic, will=will)
    p.b.driver.execute_async_script("client.end(false, {}, arguments[0])")
    srv.wait_log(r" /mqtt \d+ in=", since=here)
    plain.publish(topic + "/up", b"mark")
    plain.expect((topic + "/up", b"mark", False))
    plain.publish(topic + "/kept", b"", retain=True)
    assert p.b.complaints() == []


# ---------------------------------------------------------------------------------------------- the README's recipe


@contextlib.contextmanager
def gateway():
    """The recipe's gateway and device, and plain clients of its broker: a factory."""
    recipe, made = recipes.recipe("MQTT"), []
    certificates, server, device = recipe.sh
    with recipes.Box(systemd=True) as box:
        box.put(recipe)
        box.run(certificates)
        wssd = box.start(server)
        box.wait_port(1883, 8443, 8444)

        def make(name):
            with box.net():
                made.append(Client(name, 1883))
            return made[-1].subscribe("devices/#")

        try:
            yield box, wssd, device, make
        finally:
            for c in made:
                c.close()


def test_recipe():
    """Device and broker as the README has them: retained state, an answer, the will when it is killed, and its return."""
    with gateway() as (box, wssd, command, client):
        plain = client("plain")
        for times in (1, 2):
            device = box.start(command)
            plain.wait(lambda: ("devices/7/state", b"here", False) in plain.got)
            plain.wait(lambda: any(t == "devices/7/load" and float(p) >= 0 for t, p, _ in plain.got))
            newcomer = client("newcomer%d" % times)
            newcomer.wait(lambda: newcomer.got)
            assert newcomer.got[0] == ("devices/7/state", b"here", True)
            plain.publish("devices/7/do", "blink")
            plain.wait(lambda: ("devices/7/done", b"blink", False) in plain.got)
            device.signal(signal.SIGKILL)
            plain.wait(lambda: ("devices/7/state", b"gone", False) in plain.got)
            plain.got = []
        wssd.wait_log(r'^192\.168\.1\.1:\d+ \S+ /mqtt 1006 in=\d+ out=\d+ secs=\S+ cn="device 7": ')


@pytest.mark.deep  # for mqtt.js
def test_recipe_with_its_page(browser, tmp_path):  # noqa: F811
    """The README's page shows what the device says, and makes it blink."""
    with gateway() as (box, wssd, command, client):
        plain = client("plain")
        box.start(command)
        with open(box.path("/srv/www/mqtt.esm.js"), "wb") as f:
            f.write(mqtt_js())
        shutil.copy(box.path("/etc/wssd/cert.pem"), tmp_path)
        with box.net():  # the browser is a child of this thread
            b = browser(trusted=str(tmp_path / "cert.pem"))
            b.get("https://192.168.1.1:8443/")
            until(lambda: "devices/7/state: here" in b.text("last") and "devices/7/load: " in b.text("last"),
                  why=lambda: (b.text("last"), b.complaints()))
            b.at("blink").click()
            until(lambda: "devices/7/done: blink" in b.text("last"), why=lambda: b.text("last"))
            assert [c for c in b.complaints() if "favicon" not in c] == []
        assert ("devices/7/do", b"blink", False) in plain.got
        b.quit()
