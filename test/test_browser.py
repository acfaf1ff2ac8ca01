"""The console page in the real Chromium, driven by chromedriver: page, echo, hub, close codes, Origin.

A person's way to trust the certificate is tried three times differently: imported into the browser's store (then nothing
is overlooked: names, dates and the leaf's extensions must suit Chromium), accepted by the key's hash, accepted as a
click on the warning does. Screenshots stay in test/results/.
"""

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.remote_connection import RemoteConnection

from conftest import SLOW, TOP, Pair

WWW = os.path.join(TOP, "dist", "www")
RESULTS = os.path.join(TOP, "test", "results")
SELFSIGN = os.environ.get("WSSD_SELFSIGN", os.path.join(TOP, "wssd-selfsign"))
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad",
         "--disable-dev-shm-usage"]
CHANGED = "ERR_NETWORK_CHANGED"


def until(what, seconds=10, why="", pause=0.02):
    """Polls until what() is true; returns it."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < end, "not within %d s: %s" % (seconds, why() if callable(why) else why or what)
        time.sleep(pause)


def processes_of(directory):
    """Those that have this directory as HOME, or name it on their command line: what a Browser started."""
    found, word = [], os.fsencode(directory)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f, open("/proc/%s/environ" % pid, "rb") as g:
                words = f.read().split(b"\0") + g.read().split(b"\0")
        except OSError:
            continue
        if any(w.endswith(b"=" + word) or b"=" + word + b"/" in w for w in words):
            found.append(int(pid))
    return found


def import_certificate(home, cert):
    """Into the store that Chromium reads (NSS, shared by a user's programs), as a trusted server certificate."""
    store = os.path.join(str(home), ".pki", "nssdb")
    os.makedirs(store)
    for words in (["-N", "--empty-password"], ["-A", "-t", "P,,", "-n", "wssd", "-i", cert]):
        subprocess.run(["certutil", "-d", "sql:" + store] + words, check=True, timeout=20 * SLOW)


class Browser:
    """One Chromium with a home and a profile of its own, and a hand for each part of the page."""

    def __init__(self, home, flags, any_certificate, trusted):
        self.home = str(home)
        if trusted:
            import_certificate(self.home, trusted)
        options = webdriver.ChromeOptions()
        for flag in FLAGS + list(flags) + ["--user-data-dir=" + os.path.join(self.home, "profile")]:
            options.add_argument(flag)
        options.accept_insecure_certs = any_certificate
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        env = dict(os.environ, HOME=self.home, XDG_CONFIG_HOME=os.path.join(self.home, ".config"))
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            env.pop(name, None)
        RemoteConnection.set_timeout(30 * SLOW)
        try:
            self.driver = webdriver.Chrome(
                service=Service(shutil.which("chromedriver") or "/usr/bin/chromedriver", env=env), options=options)
            self.driver.set_page_load_timeout(20 * SLOW)
            self.driver.set_script_timeout(20 * SLOW)
        except BaseException:
            self.sweep()
            raise

    def quit(self):
        try:
            self.driver.quit()
        except Exception:
            pass                    # a browser that hangs is swept away
        finally:
            self.sweep()

    def sweep(self):
        end = time.monotonic() + 5
        while True:
            left = processes_of(self.home)
            if not left or time.monotonic() > end:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            time.sleep(0.05)
        assert not left, "browser processes remain: %s" % left

    # ---- the browser

    def get(self, url):
        """Loads a page. A network of the machine that comes or goes meanwhile, as a box's does, makes the browser give up: then
        it is asked again, and what it complained of is not kept."""
        for _ in range(10):
            try:
                self.driver.get(url)
                seen = self.js("return document.documentElement.textContent")
            except WebDriverException as e:
                seen = str(e)
                if CHANGED not in seen:
                    raise
            if CHANGED not in seen:
                return
            time.sleep(0.3)
            self.complaints()
        raise AssertionError("the network changes all the time")

    def js(self, script, *args):
        return self.driver.execute_script(script, *args)

    def at(self, name):
        return self.driver.find_element(By.ID, name)

    def text(self, name):
        """What the page says there, shown or not."""
        return self.js("return document.getElementById(arguments[0]).textContent", name)

    def view(self, width, height, dark=False, phone=False):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def shot(self, name):
        os.makedirs(RESULTS, exist_ok=True)
        path = os.path.join(RESULTS, name + ".png")
        assert self.driver.save_screenshot(path)
        assert os.path.getsize(path) > 5000
        return path

    def complaints(self):
        """What the console has of warnings and errors since it was last asked; a CSP violation is one."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]

    # ---- the page

    def page(self, url):
        self.get(url)
        assert self.driver.title.endswith("wssd console")
        until(lambda: self.js("return document.querySelectorAll('[name=route]').length") >= 2, why="the routes")

    def state(self):
        return self.js("return document.body.dataset.state")

    def wait_state(self, *wanted):
        until(lambda: self.state() in wanted, why=lambda: "%s, but %s: %s" % (wanted, self.state(), self.text("notice")))

    @staticmethod
    def fill(field, value):
        field.clear()
        field.send_keys(value)
        return field.get_attribute("value") == value

    def connect(self, path, protocol="", then="open"):
        for name, value in (("path", path), ("protocol", protocol)):
            until(lambda: self.fill(self.at(name), value), why="the page fills in a default meanwhile")
        self.at("connect").click()
        self.wait_state(then)

    def choose(self, mode):
        self.js("document.querySelector('[name=mode][value=' + arguments[0] + ']').click()", mode)

    def say(self, words):
        """Typed and sent by the Enter key."""
        self.choose("text")
        self.at("text").send_keys(words + "\n")

    def rows(self, kind=""):
        """The log's lines as (kind, size, preview, round trip or mark)."""
        return [tuple(r) for r in self.js(
            "const t = (li, c) => li.querySelector(c)?.textContent ?? '';"
            "return Array.from(document.querySelectorAll('#rows > li' + arguments[0]), li =>"
            "[li.className, t(li, '.size'), t(li, '.preview'), t(li, '.trip')])", "." + kind if kind else "")]

    def wait_row(self, kind, preview, seconds=10):
        def found():
            return [r for r in self.rows(kind) if re.search(preview, r[2])]
        return until(found, seconds, lambda: "%s %r in %r" % (kind, preview, self.rows()[-10:]))[-1]

    def wait_notice(self, *words):
        until(lambda: all(re.search(w, self.text("notice")) for w in words),
              why=lambda: "%r in %r" % (words, self.text("notice")))


@pytest.fixture
def browser(wssd, tmp_path):
    """A factory, and the end of what it made; it asks for wssd so that browsers end before servers are looked at."""
    made = []

    def make(*flags, any_certificate=False, trusted=None):
        home = tmp_path / ("home%d" % len(made))
        home.mkdir()
        made.append(Browser(home, flags, any_certificate, trusted))
        return made[-1]

    yield make
    for b in made:
        b.quit()


def console(wssd, pair, *args, **kw):
    server = wssd("/echo=echo", "/chat=hub", *args, root=WWW, cert=pair, **kw)
    server.page = "https://127.0.0.1:%d/" % server.port
    return server


@pytest.fixture
def pair(tmp_path):
    """As the newcomer gets it: from wssd-selfsign."""
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    subprocess.run([SELFSIGN, "--key", key, "--cert", cert, "localhost", "127.0.0.1"], check=True, timeout=20 * SLOW,
                   stdout=subprocess.DEVNULL)
    return Pair(cert, key)


# ------------------------------------------------------------------------------------------------------ page and echo

ECHO_DIGESTS = """
const [url, size, done] = arguments;
const hex = b => crypto.subtle.digest("SHA-256", b).then(d => Array.from(new Uint8Array(d), x => x.toString(16)).join());
const sent = new Uint8Array(size);
for (let at = 0; at < size; at += 65536)
    crypto.getRandomValues(sent.subarray(at, at + 65536));
const ws = new WebSocket(url);
ws.binaryType = "arraybuffer";
ws.onopen = () => ws.send(sent);
ws.onmessage = async e => {
    done([e.data.byteLength, await hex(sent) === await hex(e.data)]);
    ws.close(1000);
};
ws.onclose = e => done(["closed", e.code]);
"""


def test_page_and_echo(wssd, browser, pair, tmp_path):
    """Page, text, binary, file, numbers, the closing handshake; the certificate is trusted as a person imports it."""
    server = console(wssd, pair)
    b = browser(trusted=pair.cert)
    b.view(1180, 760)
    b.page(server.page)
    assert b.state() == "closed" and not b.at("send").is_enabled()
    assert "Not connected" in b.text("state")
    assert b.complaints() == []

    b.connect("/echo")
    assert "Open" in b.text("state") and b.driver.title.startswith("● /echo")
    b.say("hello")
    assert b.wait_row("in", "^hello$")[1:3] == ("5 B", "hello")
    b.say("Grüße aus München")
    kind, size, preview, trip = b.wait_row("in", "^Grüße aus München$")
    assert size == "20 B" and re.match(r"[\d.]+ ms$", trip)
    b.choose("hex")
    b.at("hex").send_keys("01 03 00 6b 00 03 74 17\n")
    assert b.wait_row("in", "^01 03 00 6b")[1:3] == ("8 B", "01 03 00 6b 00 03 74 17")

    # 1 MiB of random bytes; a round trip is only told when what came back is the same
    b.choose("random")
    b.at("send").click()
    sizes = until(lambda: [r for r in b.rows("in") if r[1] == "1 MiB"], why=lambda: b.rows())
    assert re.match(r"[\d.]+ m?s$", sizes[0][3]), sizes
    until(lambda: "MiB/s" in b.text("numbers") or "KiB/s" in b.text("numbers"), why=lambda: b.text("numbers"))
    assert b.text("n-in") == "4" and "median" in b.text("n-rtt-more")
    # the same by another road: digests of a WebSocket that this test opens in the page
    for size in (0, 125, 126, 65535, 65536, 1 << 20):
        url = "wss://127.0.0.1:%d/echo" % server.port
        assert b.driver.execute_async_script(ECHO_DIGESTS, url, size) == [size, True]
    b.choose("text")
    b.shot("console-desktop-light")
    b.view(1180, 760, dark=True)
    b.shot("console-desktop-dark")
    b.view(390, 780, phone=True)
    b.shot("console-phone-light")
    b.view(390, 780, dark=True, phone=True)
    b.shot("console-phone-dark")
    b.view(1180, 760)

    # a file goes in pieces, and each comes back as it was
    path = tmp_path / "file.bin"
    path.write_bytes(os.urandom(2 * 65536 + 17))
    b.choose("file")
    b.at("file").send_keys(str(path))
    b.js("document.getElementById('piece').value = '65536'")
    b.at("send").click()
    back = until(lambda: [r for r in b.rows("in") if r[1] in ("64 KiB", "17 B")][2:] and b.rows("in")[-3:])
    assert [r[1] for r in back] == ["64 KiB", "64 KiB", "17 B"] and all("s" in r[3] for r in back), back
    assert "not as sent" not in str(b.rows())

    b.at("connect").click()
    b.wait_notice("1000 Normal closure")
    assert b.state() == "closed" and "Closed 1000" in b.text("state")
    server.wait_log(r"^127\.0\.0\.1:\d+ \S*ECDHE\S* /echo 1000 ")
    assert b.complaints() == []

    # what it was told last it knows after a reload
    b.connect("/chat")
    b.page(server.page)
    assert b.at("path").get_attribute("value") == "/chat"
    server.wait_log(r" /chat 1001 ")        # a page that is left says so


def test_page_keeps_its_promises(wssd, browser, pair):
    """Policy, bounds, and what a phone and a screen reader need."""
    server = console(wssd, pair)
    b = browser(any_certificate=True)
    b.view(390, 780, phone=True)
    b.page(server.page)

    # the Content-Security-Policy is in force: neither script nor style nor image of another kind
    b.js("""window.ran = 0; window.broken = [];
        document.addEventListener("securitypolicyviolation", e => broken.push(e.effectiveDirective));
        const add = (tag, set) => document.head.append(Object.assign(document.createElement(tag), set));
        try { add("script", { textContent: "window.ran = 1" }); } catch { broken.push("script-src-elem"); }
        add("style", { textContent: "body { display: none }" });
        add("img", { src: "data:image/gif;base64,R0lGODlhAQABAAAAACw=" });""")
    until(lambda: len(b.js("return broken")) >= 3, why=lambda: b.js("return broken"))
    assert b.js("return ran") == 0
    assert b.js("return getComputedStyle(document.body).display") == "flex"
    until(b.complaints)             # so an empty list elsewhere means something

    # a word for each control, room for a finger, no sideways scrolling
    assert b.js("""return Array.from(document.querySelectorAll("button, input, select, textarea, summary")).filter(e =>
        !(e.textContent.trim() || e.labels?.[0]?.textContent.trim())).map(e => e.outerHTML)""") == []
    assert b.js("return document.documentElement.lang") == "en"
    for width in (320, 390):
        b.view(width, 700, phone=True)
        for connected in (False, True):
            if connected:
                b.connect("/echo")
            assert b.js("return document.documentElement.scrollWidth") <= width
            small = b.js("""return Array.from(document.querySelectorAll("button, textarea, select, label"))
                .map(e => [e.id || e.textContent, e.getBoundingClientRect()])
                .filter(([, r]) => r.width > 0 && r.height < 36).map(([n, r]) => n + " " + r.height)""")
            assert small == []
        b.at("connect").click()
        b.wait_state("closed")
    light = b.js("return getComputedStyle(document.body).backgroundColor")
    b.view(390, 780, dark=True, phone=True)
    assert b.js("return getComputedStyle(document.body).backgroundColor") != light

    # the log is bounded, and what is heard of a flood is one sentence
    b.connect("/echo")
    b.choose("text")
    b.js("""for (let i = 0; i < 1200; i++) {
            document.getElementById("text").value = "message " + i;
            document.getElementById("send").click();
        }""")
    b.wait_row("in", "^message 1199$", 20)
    assert len(b.rows()) <= 500 and re.search(r"[\d,]{4,} earlier lines dropped", b.text("dropped"))
    until(lambda: "message 1199" in b.text("live"), why=lambda: b.text("live"))
    assert b.text("n-in") == "1,200"


RECONNECTS = """
const [url, times, done] = arguments, codes = {};
(async () => {
    for (let i = 0; i < times; i++) {
        const code = await new Promise(resolve => {
            const ws = new WebSocket(url);
            ws.onopen = () => ws.send("hello");
            ws.onmessage = () => ws.close(1000);
            ws.onclose = e => resolve(e.code);
        });
        codes[code] = (codes[code] || 0) + 1;
    }
    done(codes);
})();
"""


def test_false_start(wssd, browser, pair):
    """RFC 7918: Chromium's first request may come in one segment with its Finished, before it has seen the server's."""
    server = console(wssd, pair)
    b = browser(any_certificate=True)
    b.page(server.page)
    url = "wss://127.0.0.1:%d/echo" % server.port
    assert b.driver.execute_async_script(RECONNECTS, url, 60) == {"1000": 60}
    c = server.counters()
    assert c["upgrades"] == 60
    assert not [line for line in server.lines() if "TLS:" in line]


# ------------------------------------------------------------------------------------------------- hub, ends, origins


def test_chat_and_close_codes(wssd, browser, pair):
    """Two windows hear each other, nobody hears himself; each end is told in words."""
    server = console(wssd, pair, "/sub=echo,protocol=a|b", "--max-message", "65536")
    b = browser(any_certificate=True)
    b.page(server.page)
    one = b.driver.current_window_handle
    b.driver.switch_to.new_window("window")
    two = b.driver.current_window_handle
    b.page(server.page)
    for window in (one, two):
        b.driver.switch_to.window(window)
        b.connect("/chat")
    b.say("from two")
    b.driver.switch_to.window(one)
    assert b.wait_row("in", "^from two$")[3] == ""
    b.say("from one")
    b.driver.switch_to.window(two)
    b.wait_row("in", "^from one$")
    assert [r[2] for r in b.rows("in")] == ["from one"]

    # 1009: the page tells what may help, and the other window stays
    b.choose("random")
    b.at("send").click()
    b.wait_notice("1009 Message too big", "--max-message")
    assert b.state() == "failed"
    assert b.complaints() == []
    b.driver.switch_to.window(one)
    assert b.state() == "open" and [r[2] for r in b.rows("in")] == ["from two"]

    # subprotocols: one that is spoken, one that is not; a route that is not there
    b.at("connect").click()
    b.wait_notice("1000")
    b.connect("/sub", "x, b")
    assert "subprotocol b" in b.text("notice")
    b.at("connect").click()
    b.wait_notice("1000")
    b.connect("/sub", "zzz", then="failed")
    b.wait_notice("Not connected", "does not speak the subprotocol zzz")
    b.connect("/nothing", then="failed")
    b.wait_notice("Not connected", "has no route /nothing")
    b.connect("/index.html", then="failed")
    b.wait_notice("Not connected", "is a page or a file")
    b.complaints()

    # the server is told to end; and it is killed
    b.connect("/echo")
    assert server.term() == 0
    b.wait_notice("1001 Going away")
    b.connect("/echo", then="failed")
    b.wait_notice("Not connected", "does not answer")
    server.start()
    b.page("https://127.0.0.1:%d/" % server.port)
    b.connect("/echo")
    server.kill()
    b.wait_notice("1006 Lost without a goodbye", "Connect again")
    assert "Closed 1006" in b.text("state")


def spki(cert):
    """The hash of the public key, as Chromium takes it."""
    key = subprocess.run(["openssl", "x509", "-in", cert, "-noout", "-pubkey"], check=True, capture_output=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=key, check=True,
                         capture_output=True).stdout
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def test_foreign_origin(wssd, browser, pair):
    """RFC 6455 section 10.2: a page of another server is refused, and passes once it is allowed."""
    home = console(wssd, pair)
    foreign = "https://127.0.0.1:%d" % home.port
    closed = console(wssd, pair)
    opened = console(wssd, pair, "--origin", foreign)
    b = browser("--ignore-certificate-errors-spki-list=" + spki(pair.cert))
    b.page(home.page)
    b.connect("wss://127.0.0.1:%d/echo" % closed.port, then="failed")
    b.wait_notice("Not connected", "--origin " + re.escape(foreign))
    closed.wait_log(r"^127\.0\.0\.1:\d+ \S+ /echo 403 ")
    b.connect("wss://127.0.0.1:%d/echo" % opened.port)
    b.say("let in")
    b.wait_row("in", "^let in$")
    b.at("connect").click()
    b.wait_notice("1000")
