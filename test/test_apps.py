"""Two recipes of the README, run as written: the application server behind seqpacket:, and the page that talks to a device
through a hub, in Chromium."""
import contextlib
import json
import os
import random
import select
import socket

import pytest

import peers
import recipes
import wsraw
from peers import SLOW
from test_browser import Browser
from wsraw import CLOSE, TEXT

rnd = random.Random(23)


# ---------------------------------------------------------------------------------------------- the application server


PACKETS = pytest.mark.native  # qemu-user does not know SO_PEEK_OFF, with which a packet's length is asked


class Bus:
    """A client of /bus that speaks JSON."""

    def __init__(self):
        self.ws = wsraw.connect(8443, True).open("/bus")
        self.state = self.get()
        assert set(self.state) == {"lamp", "level"}

    def get(self):
        opcode, data = self.ws.recv_message(skip_control=True)
        assert opcode == TEXT, (opcode, data)
        return json.loads(data)

    def put(self, message):
        self.ws.send_text(message if isinstance(message, (str, bytes)) else json.dumps(message))


@pytest.fixture(scope="module")
def application():
    r = recipes.recipe("application server")
    assert "in %d lines" % len([line for line in r.files["/usr/local/bin/bus.py"].splitlines() if line]) in r.title
    with recipes.Box() as box:
        box.put(r)
        job = box.start(r.sh[0])
        box.wait_port(8443)
        box.wait_socket("/run/bus.sock")
        yield box, job
        assert job.alive()
        assert not [line for line in job.lines() if "Traceback" in line]


@pytest.fixture
def app(application):
    box, job = application
    with box.net():
        yield job
        wsraw.close_all()


@PACKETS
def test_requests_answers_and_changes(app):
    a, b, c = Bus(), Bus(), Bus()
    assert a.state == b.state == c.state
    for n, (name, value) in enumerate([("lamp", True), ("level", 7), ("lamp", False), ("level", -1)]):
        a.put({"id": n, "set": name, "to": value})
        assert a.get() == {"id": n, "ok": True}
        for x in (a, b, c):
            assert x.get() == {name: value}
    assert Bus().state == {"lamp": False, "level": -1}
    b.put({"set": "level", "to": 0})
    assert (b.get(), b.get(), a.get(), c.get()) == ({"id": None, "ok": True}, {"level": 0}, {"level": 0}, {"level": 0})


@pytest.mark.parametrize("message", ["", "{", "[]", "7", "null", "[" * 30000, '{"set": "lamp"}', '{"set": "other", "to": 1}',
                                     '{"set": ["lamp"], "to": 1}', '{"set": "level", "to": NaN}', "ü" * 20000,
                                     '{"set": "level", "to": "on"}', '{"set": "level", "to": []}', "9" * 20000],
                         ids=lambda m: m[:26])
@PACKETS
def test_what_is_no_request_harms_nobody(app, message):
    a, b = Bus(), Bus()
    if message:
        a.put(message)
        assert list(a.get()) == ["error"]
    else:
        a.put(message)
        a.ws.expect_close(1003)
        a = Bus()
    a.put({"id": "x", "set": "level", "to": 3})
    assert (a.get(), a.get(), b.get()) == ({"id": "x", "ok": True}, {"level": 3}, {"level": 3})


@PACKETS
def test_many_at_once(app):
    """Everybody hears the same changes in the same order, whoever comes and goes meanwhile."""
    crowd = [Bus() for _ in range(20)]
    for n in range(5):
        for i, x in enumerate(crowd):
            x.put({"id": n, "set": "level", "to": i * 100 + n})
        passer = Bus()
        passer.ws.reset() if n % 2 else passer.ws.close()
    heard = []
    for x in crowd:
        got = [x.get() for _ in range(105)]
        assert [m["id"] for m in got if "ok" in m] == list(range(5))
        heard.append([m["level"] for m in got if "level" in m])
    assert heard.count(heard[0]) == 20
    assert sorted(heard[0]) == sorted(i * 100 + n for i in range(20) for n in range(5))
    for x in crowd:
        x.ws.close_handshake()


@PACKETS
def test_one_that_does_not_read_stops_nobody(app):
    """It is sent away; nobody waits for it."""
    a, lazy = Bus(), Bus()
    for _ in range(100):
        for n in range(20):
            a.put({"id": n, "set": "level", "to": rnd.randrange(1 << 3000)})
        assert [m["id"] for m in [a.get() for _ in range(40)] if "ok" in m] == list(range(20))
    opcode = None
    while opcode != CLOSE:
        opcode, data = lazy.ws.recv_message(skip_control=True)
    assert data[:2] == b"\x03\xe8"
    a.put({"id": "last", "set": "level", "to": 0})
    assert a.get() == {"id": "last", "ok": True}
    assert Bus().state["level"] == 0


@PACKETS
def test_wssd_leaves_with_something_unread(application):
    """As it does when a client vanishes while the program talks: no more than an end to it, and the others go on."""
    box, job = application
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(box.path("/run/bus.sock"))
            s.send(json.dumps({"id": 1, "set": "level", "to": 1}).encode())
            select.select([s], [], [], 5)  # the state is there, and stays unread
    with box.net():
        b = Bus()
        b.put({"id": 2, "set": "lamp", "to": False})
        while b.get() != {"id": 2, "ok": True}:
            pass
    assert job.alive() and not [line for line in job.lines() if "Traceback" in line]


@PACKETS
def test_program_is_started_again():
    """Its clients get a Close; a socket file that the last run left is no obstacle."""
    r = recipes.recipe("application server")
    with recipes.Box() as box:
        box.put(r)
        box.start(r.sh[0])
        box.wait_port(8443)
        box.wait_socket("/run/bus.sock")
        with box.net():
            a = Bus()
            a.put({"id": 1, "set": "lamp", "to": True})
            assert (a.get(), a.get()) == ({"id": 1, "ok": True}, {"lamp": True})
            pids = box.run(["pgrep", "-x", "python3"]).stdout.split()
            assert len(pids) == 1
            box.run(["kill", "-9", pids[0]])
            assert a.ws.expect_close({1000, 1011})
            with wsraw.connect(8443, True) as c:
                c.send(wsraw.upgrade_head("/bus", c.host))
                assert c.reply().status == 502
            box.start("exec python3 /usr/local/bin/bus.py")
            box.wait_socket("/run/bus.sock")
            assert Bus().state == {"lamp": False, "level": 0}


# ---------------------------------------------------------------------------------------------- page, hub and device


def report(c):
    while True:
        opcode, data = c.recv_message(skip_control=True)
        assert opcode == TEXT
        message = json.loads(data)
        if "load" in message:
            return message


class Scene:
    """Gateway, page in the browser, device, and another page's connection."""

    def __init__(self, tmp_path):
        self.recipe = recipes.recipe("talks to a device")
        assert len(self.recipe.sh) == 2
        self.stack = contextlib.ExitStack()
        self.dir = tmp_path

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.box = stack.enter_context(recipes.Box())
            self.box.put(self.recipe)
            self.start_gateway()
            home, cert = self.dir / "home", self.dir / "cert.pem"
            home.mkdir()
            with open(self.box.path("/etc/wssd/cert.pem")) as f:
                cert.write_text(f.read())
            stack.enter_context(self.box.net())
            self.browser = Browser(home, (), False, str(cert))
            stack.callback(self.browser.quit)
            stack.callback(wsraw.close_all)
            self.browser.get("https://192.168.1.1:8443/")
            assert self.browser.driver.title == "Device"
            self.alone()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        return self.stack.__exit__(*exc)

    def start_gateway(self):
        self.gateway = self.box.start(self.recipe.sh[0])
        self.box.wait_port(8443)

    def start_device(self):
        self.device = self.box.start(self.recipe.sh[1])
        self.together()

    def alone(self):
        peers.until(lambda: self.browser.text("load") == "no device", 20 * SLOW)
        assert not self.browser.at("led").is_enabled()

    def together(self):
        peers.until(lambda: self.browser.at("led").is_enabled(), 30 * SLOW)
        assert abs(float(self.browser.text("load")) - os.getloadavg()[0]) < 20

    def lit(self, on):
        peers.until(lambda: self.browser.at("led").is_selected() is on)

    def click(self, on):
        here = self.device.here()
        self.browser.at("led").click()
        self.device.wait_log("^LED %s$" % ("on" if on else "off"), since=here)
        self.lit(on)


def test_page_and_device(tmp_path):
    """In a browser that trusts the gateway's certificate: reports come in, a click reaches the device, all pages see it."""
    with Scene(tmp_path) as scene:
        scene.start_device()
        other = wsraw.connect(8443, True, "192.168.1.1").open("/device")
        assert report(other)["led"] is False
        scene.click(True)
        peers.until(lambda: report(other)["led"] is True)
        assert [x for x in scene.browser.complaints() if "favicon" not in x] == []
        other.send_text('{"led": false}')
        scene.device.wait_log("^LED off$")
        scene.lit(False)
        for nonsense in ('"led"', "{", "[]", "7", '{"lamp": 1}'):
            other.send_text(nonsense)
        other.send_binary(b"\xff")
        scene.click(True)
        scene.click(False)


@pytest.mark.deep
def test_gateway_and_device_come_again(tmp_path):
    """The page says that there is no device, and goes on by itself."""
    with Scene(tmp_path) as scene:
        scene.start_device()
        scene.gateway.end()
        scene.alone()
        scene.start_gateway()
        scene.together()
        scene.click(True)
        scene.device.end()
        scene.alone()
        scene.start_device()
        scene.lit(False)
        scene.click(True)
