"""Every system call of the server fails in turn, and after each the server serves again or has refused to start.

A scenario is a list of steps, each a few clients that do something against a server of its own under test/faults/shim.c.
For each function that the step makes the server call, and each error that this function may plausibly have, call number 1
fails, then number 2, and so on until a run of the step meets none; with the most telling error the same again for two
failures in a row. After each run the server must have the descriptors that it had before, must answer a fresh client, and
hold no slot and no backend; it may not have spun, grown or counted a bug. Errors that a client must not notice (EINTR,
EAGAIN, short counts, no memory for a moment) may not end or change anything for it; of others a client may see the end of
its connection, Close 1011, 404, 502 or 503, and nothing else.

    /usr/bin/python3 test/faulty.py [--short] [--jobs N] [--binary PATH] [STEP...]

prints the figures, and whether every place in the binary from which the kernel is called has been hit; --short takes the
most telling errors only, as `make test` does. The server's clock runs faster than ours, so that deadlines are near.
"""
import argparse
import collections
import concurrent.futures
import errno
import mmap
import os
import re
import select
import selectors
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pki  # noqa: E402
import powers  # noqa: E402
import wsraw  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SLOW = wsraw.SLOW
SPEED = 50 / SLOW               # of the server's clock
PATIENCE = 5 * SLOW             # seconds after which something hangs
MOST = 1000                     # calls of one function in a step
SHORT, END = 1000, 1001         # instead of an errno, see shim.c
ALWAYS = 1 << 32
PAGE = b"<!doctype html>\n" + b"0123456789abcde\n" * 200
BULK = bytes(i for i in range(256) if i != 33) * 160   # no !, which is the end for a backend


# ---------------------------------------------------------------------------------------------- what may fail, and how

Fault = collections.namedtuple("Fault", "errors hidden")
FAULTS = {                      # the most telling first; then those that nobody may notice, or all
    "accept4": ("EMFILE ECONNABORTED EINTR EAGAIN ENFILE ENOBUFS ENOMEM EPERM EPROTO", "all"),
    "bind": ("EADDRINUSE EADDRNOTAVAIL EACCES ENOMEM", ""),
    "chdir": ("EACCES EIO", ""),
    "chroot": ("EPERM ENOMEM", ""),
    "clock_gettime": ("EPERM", "all"),
    "close": ("EIO EINTR", "all"),
    "connect": ("ECONNREFUSED EINTR EAGAIN ENOENT EACCES ETIMEDOUT ENETUNREACH EADDRNOTAVAIL ENOBUFS", "EINTR EAGAIN"),
    "epoll_create1": ("EMFILE ENFILE ENOMEM", ""),
    "epoll_ctl": ("ENOMEM ENOSPC EPERM", "all"),
    "epoll_wait": ("EINTR", "all"),
    "fflush": ("ENOSPC EIO", ""),
    "fstat": ("EIO ENOMEM", ""),
    "fstatat": ("EIO ENOMEM EACCES", ""),
    "getentropy": ("EIO ENOSYS", ""),
    "gethostname": ("ENAMETOOLONG", "all"),
    "getrlimit": ("", ""),      # these three fail only if their arguments are wrong, see their manual pages
    "getsockname": ("ENOBUFS", ""),
    "listen": ("EADDRINUSE ENOBUFS", ""),
    "madvise": ("EINVAL EAGAIN ENOMEM", "all"),
    "mmap": ("ENOMEM EPERM EAGAIN", ""),
    "open": ("EMFILE EIO EINTR ENFILE ENOMEM EACCES ENOENT", ""),
    "openat": ("EMFILE EIO EINTR ENFILE ENOMEM EACCES", ""),
    "poll": ("ENOMEM EINTR EAGAIN EINVAL", "all"),
    "poll-log": ("ENOMEM EINTR", "all"),
    "prctl": ("EINVAL ENOSYS EACCES", "all"),
    "read-file": ("EIO short EINTR end ENOMEM ESTALE", "short"),
    "read-other": ("EAGAIN EINTR", "all"),
    "read-socket": ("ECONNRESET short EINTR EAGAIN end ETIMEDOUT EHOSTUNREACH ENOMEM EIO", "short EINTR EAGAIN"),
    "recv": ("ECONNRESET short EINTR EAGAIN end ETIMEDOUT ENOMEM EIO", "short EINTR EAGAIN"),
    "recv-drop": ("ECONNRESET", ""),        # the packet is there, but the peer's end comes first, and once
    "setgroups": ("EPERM ENOMEM", ""),
    "setresgid": ("EPERM EAGAIN", ""),
    "setresuid": ("EPERM EAGAIN", ""),
    "setrlimit": ("EPERM EINVAL", "all"),
    "setsockopt": ("ENOBUFS ENOMEM ENOPROTOOPT", ""),
    "shutdown": ("ENOTCONN ENOBUFS", ""),
    "signal": ("", ""),
    "sigprocmask": ("", ""),
    "signalfd": ("EMFILE ENFILE ENOMEM ENODEV", ""),
    "socket": ("EMFILE ENFILE ENOBUFS ENOMEM EACCES", ""),
    "write-log": ("EIO EAGAIN EINTR EPIPE ENOSPC short", "all"),
    "write-socket": ("EPIPE short EINTR EAGAIN ECONNRESET ETIMEDOUT ENOBUFS ENOMEM EIO", "short EINTR EAGAIN"),
}
FAULTS = {f: Fault(e.split(), set((e if h == "all" else h).split())) for f, (e, h) in FAULTS.items()}
INDEX = {name: i for i, name in enumerate(sorted(FAULTS))}      # in the shim

DROPS = "chdir chroot setgroups setresgid setresuid".split()     # the first call of each; a second tries to go back
MUST = "bind epoll_create1 getsockname listen mmap signalfd socket".split()      # without these there is no start


def number(error):
    return SHORT if error == "short" else END if error == "end" else getattr(errno, error)


def errors(function, short):
    """All of a function; the short form has the first, and of those to do with bytes what nobody may notice."""
    every = FAULTS[function].errors
    telling = {"short", "EINTR"} if function in ("connect", "read-socket", "recv", "write-socket") else {"short"}
    return [e for i, e in enumerate(every) if i == 0 or e in telling] if short else every


# ---------------------------------------------------------------------------------------------- the shim


def build(directory):
    """Compiles the shim; its file name."""
    file = os.path.join(directory, "shim.so")
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-U_FORTIFY_SOURCE", "-O1", "-g", "-fno-builtin", "-Wall", "-Wextra", "-Werror",
                    "-shared", "-fPIC", "-o", file, os.path.join(TOP, "test", "faults", "shim.c")], check=True)
    return file


class Control:
    """struct control of shim.c, shared with a server."""
    WORDS = ["speed", "warp", "armed", "n", "times", "error", "seen", "hits", "site", "ports"]
    PORTS, PLACES, NAME, SIZE = 8, 48, 24, 4096

    def __init__(self, file):
        with open(file, "w+b") as f:
            f.truncate(self.SIZE)
            self.page = mmap.mmap(f.fileno(), self.SIZE)

    def put(self, word, value):
        struct.pack_into("=Q", self.page, 8 * self.WORDS.index(word), value)

    def get(self, word):
        return struct.unpack_from("=Q", self.page, 8 * self.WORDS.index(word))[0]

    def ports(self):
        return struct.unpack_from("=%dQ" % self.PORTS, self.page, 8 * len(self.WORDS))[:self.get("ports")]

    def names(self):
        """The functions, as the shim has them."""
        at = 8 * (len(self.WORDS) + self.PORTS + self.PLACES)
        return [name.decode() for name in self.page[at:at + self.PLACES * self.NAME].replace(b"\0", b" ").split()]

    def calls(self, function=None):
        """How often each function was called so far, or one."""
        at = 8 * (len(self.WORDS) + self.PORTS)
        if function is not None:
            return struct.unpack_from("=Q", self.page, at + 8 * INDEX[function])[0]
        every = struct.unpack_from("=%dQ" % self.PLACES, self.page, at)
        return {name: every[i] for name, i in INDEX.items()}

    def arm(self, function, n, error, times=1):
        self.disarm()
        for word, value in (("n", n), ("times", times), ("error", number(error)), ("seen", 0), ("hits", 0), ("site", 0)):
            self.put(word, value)
        self.put("armed", 1 + INDEX[function])

    def disarm(self):
        self.put("armed", 0)


# ---------------------------------------------------------------------------------------------- both sides


class Refused(Exception):
    """A client was told that it cannot be: tolerable if something has failed."""


GONE = b"\x03\xe8", b"\x03\xe9", b"\x03\xf3"         # 1000, 1001, 1011
TOLERABLE = (Refused, wsraw.Ended, ConnectionError, ssl.SSLError)


class Client(wsraw.Raw):
    def upgrade(self, path, extra=()):
        self.send(wsraw.upgrade_head(path, self.host, extra=extra))
        r = self.reply()
        if r.status in (404, 502, 503):
            raise Refused(r.status)
        assert r.status == 101, r
        wsraw.check_101(r, wsraw.KEY)
        return self

    def get(self, path, status=200, body=None, extra=(), method="GET"):
        r = self.request(method, path, extra=extra)
        if r.status != status and r.status in (404, 502, 503):
            raise Refused(r.status)
        assert r.status == status and (body is None or r.body == body), (path, r, r.body[:80])
        return r

    def hear(self, data, opcode=wsraw.BINARY):
        """The next message; a server that lost a backend says so."""
        kind, got = self.recv_message(skip_control=True)
        if kind == wsraw.CLOSE and got[:2] in GONE and data != got:
            raise Refused(got)
        assert (kind, got) == (opcode, data), (kind, got[:80], len(got))

    def say(self, data, opcode=wsraw.BINARY):
        """A message, which comes back."""
        self.send_frame(opcode, data, drain=True)
        self.hear(data, opcode)

    def stream(self, data):
        """The same through a stream, which does not keep messages together."""
        self.send_frame(wsraw.BINARY, data, drain=True)
        self.hear_stream(data)

    def hear_stream(self, data):
        got = b""
        while len(got) < len(data):
            kind, part = self.recv_message(skip_control=True)
            if kind == wsraw.CLOSE and part[:2] in GONE:
                raise Refused(part)
            assert kind == wsraw.BINARY, (kind, part[:80])
            got += part
        assert got == data, (got[:80], len(got))

    def hear_unless(self, other, data, opcode):
        """The next message, or the end of the one who should have caused it."""
        ready = select.select([self.sock, other.sock], [], [], PATIENCE)[0]
        if other.sock in ready and not other.more():
            raise wsraw.Ended("the other one")
        self.hear(data, opcode)

    def close_in_order(self, code=1000):
        self.send_frame(wsraw.CLOSE, wsraw.close_payload(code))
        self.hear(wsraw.close_payload(code), wsraw.CLOSE)
        self.the_end()

    def closed(self, code):
        """The server begins the end, with this code."""
        kind, got = self.recv_message(skip_control=True)
        if kind == wsraw.CLOSE and got[:2] == b"\x03\xf3" and code != 1011:
            raise Refused(got)
        assert kind == wsraw.CLOSE and got[:2] == struct.pack("!H", code), (kind, got)
        self.send_frame(wsraw.CLOSE, got[:2])
        self.the_end()

    def the_end(self):
        rest = self.recv_all()
        assert rest == b"", rest[:80]


class Backends(threading.Thread):
    """A TCP, a Unix and a SOCK_SEQPACKET server that give back what they get; b"!" ends the connection."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.loop, self.peers = selectors.DefaultSelector(), set()
        tcp = socket.create_server(("127.0.0.1", 0))
        self.addresses = {"tcp": "127.0.0.1:%d" % tcp.getsockname()[1]}
        self.loop.register(tcp, selectors.EVENT_READ, self.accept)
        for name, kind in ("unix", socket.SOCK_STREAM), ("seqpacket", socket.SOCK_SEQPACKET):
            self.addresses[name] = os.path.join(directory, name + ".sock")
            s = socket.socket(socket.AF_UNIX, kind)
            s.bind(self.addresses[name])
            s.listen()
            self.loop.register(s, selectors.EVENT_READ, self.accept)
        self.start()

    def run(self):
        while True:
            for key, _ in self.loop.select():
                key.data(key.fileobj)

    def accept(self, listener):
        s = listener.accept()[0]
        s.settimeout(PATIENCE)
        self.peers.add(s)
        self.loop.register(s, selectors.EVENT_READ, self.echo)

    def echo(self, s):
        try:
            data = s.recv(65536)
            if data not in (b"", b"!"):
                return s.sendall(data)
        except OSError:
            pass
        self.peers.discard(s)
        self.loop.unregister(s)
        s.close()

    def shout(self, data):
        """To whoever is there."""
        for s in list(self.peers):
            try:
                s.sendall(data)
            except OSError:
                pass


class World:
    """Files, certificates, backends and the shim: what all servers of a process share."""

    def __init__(self, directory):
        self.dir = directory
        self.shim = build(directory)
        p = pki.Pki(directory)
        self.server, ca = p.server("server"), p.ca("ca")
        device = p.client("device", issuer=ca)
        os.makedirs(os.path.join(directory, "www", "sub", "below"))
        for name in "page.html", "sub/index.html", "sub/below/page.html":
            with open(os.path.join(directory, "www", name), "wb") as f:
                f.write(PAGE)
        p.write("people", "%064x anna\n" % 7 + "86e025b9a56edee111e0b22989e946bfd42a939c776150ebe88d91fe65dfdb01 bob\n")
        self.anyone = wsraw.client_context()
        self.device = wsraw.client_context(certfile=device.cert, keyfile=device.key)
        self.backends = Backends(directory)
        a = self.backends.addresses
        self.args = [
            "--listen", "ws://127.0.0.1:0", "--listen", "wss://127.0.0.1:0",
            "--listen", "wss://127.0.0.1:0,client-ca=" + ca.cert, "--listen", "ws://127.0.0.1:0,proxy=127.0.0.1/32",
            "--cert", self.server.cert, "--key", self.server.key, "--root", os.path.join(directory, "www"),
            "--auth", p.path("people"), "--max-message", "50000", "--timeout", "100", "--ping", "0",
            "/echo=echo", "/hub=hub", "/tcp=tcp:" + a["tcp"], "/unix=unix:" + a["unix"],
            "/seqpacket=seqpacket:" + a["seqpacket"], "/private=echo,auth=" + p.path("people"),
            "/nobody=unix:" + p.path("nobody.sock"),
        ]
        self.made = 0


class Server:
    """One wssd under the shim. Its log goes to a file; where it listens the shim tells."""

    def __init__(self, world, binary, *args, speed=SPEED):
        world.made += 1
        base = os.path.join(world.dir, "server%d" % world.made)
        self.world, self.file = world, base + ".log"
        self.control = Control(base + ".control")
        self.control.put("speed", max(1, int(speed)))
        self.tick = 1 / max(1, int(speed))      # seconds between two sweeps
        self.binary, self.args = binary, world.args + list(args)
        self.args = powers.words(binary, self.args) + self.args
        self.proc, self.mark = None, 0

    def launch(self):
        env = dict(os.environ, LD_PRELOAD=self.world.shim, WSSD_FAULTS=self.file[:-4] + ".control",
                   ASAN_OPTIONS="verify_asan_link_order=0:abort_on_error=0:exitcode=99:detect_leaks=0",
                   UBSAN_OPTIONS="print_stacktrace=1")
        env.pop("JOURNAL_STREAM", None)
        with open(self.file, "ab") as log:
            self.proc = subprocess.Popen([self.binary] + self.args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                         stderr=log, env=env)
        # until it has listened, and looked at its descriptors once
        self.until(lambda: self.proc.poll() is not None or self.control.calls("poll") > 0,
                   "neither started nor ended")
        return self

    def until(self, what, otherwise, seconds=PATIENCE):
        end, pause = time.monotonic() + seconds, 0.0001
        while not what():
            if time.monotonic() > end:
                raise AssertionError("%s; log:\n%s" % (otherwise, self.log()[-2000:]))
            time.sleep(pause)
            pause = min(1.5 * pause, 0.01)

    def ready(self):
        self.until(lambda: self.alive() and len(self.control.ports()) == 4, "not ready")
        self.plain, self.tls, self.ca, self.proxy = self.control.ports()
        self.counters()
        self.fds0 = self.fds()
        return self

    def kill(self):
        """By SIGTERM, since coverage is written at a regular end; by SIGKILL if that does not help."""
        if self.proc is not None:
            if self.alive():
                self.control.disarm()
                self.proc.terminate()
            try:
                self.proc.wait(1)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()

    def alive(self):
        return self.proc.poll() is None

    def log(self, since=0):
        with open(self.file, errors="backslashreplace") as f:
            f.seek(since)
            return f.read()

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.proc.pid))

    def rss(self):
        with open("/proc/%d/status" % self.proc.pid) as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))

    def counters(self):
        here = os.path.getsize(self.file)
        os.kill(self.proc.pid, signal.SIGUSR1)
        self.until(lambda: re.search(r"counters: .*\n", self.log(here)) or not self.alive(), "no counters")
        return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", self.log(here))}

    def reload(self):
        said = self.control.calls("poll-log")
        os.kill(self.proc.pid, signal.SIGHUP)
        self.until(lambda: self.control.calls("poll-log") > said, "SIGHUP is not answered")
        turns = self.control.calls("poll")
        self.until(lambda: self.control.calls("poll") > turns, "no turn behind SIGHUP")

    def dial(self, tls=None, port=None, **kw):
        """A client: plain, or with this context."""
        return Client(port or (self.tls if tls else self.plain), tls or False, timeout=PATIENCE / SLOW, **kw)

    def answer(self, tls=None):
        """A fresh client is served."""
        with self.dial(tls) as c:
            c.upgrade("/echo").say(b"still there?")
            c.close_in_order()

    def settle(self):
        """All that clients had is given back."""
        self.until(lambda: not self.alive() or self.fds() == self.fds0, "descriptors do not come back")

    def unharmed(self, tls=None):
        assert self.alive(), "it died, status %r; log:\n%s" % (self.proc.returncode, self.log()[-3000:])
        self.answer(tls)
        self.settle()
        c = self.counters()
        assert c["clients"] == c["backends"] == c["bugs"] == 0, c


# ---------------------------------------------------------------------------------------------- the scenario

Step = collections.namedtuple("Step", "name run meets args calm speed")
STEPS = {}


def step(meets, *args, calm=0, speed=SPEED):
    """A step, the functions in which it must meet a fault, the server's arguments, how many ticks the server must have had
    no client before, and the speed of its clock."""
    def take(run):
        STEPS[run.__name__] = Step(run.__name__, run, meets.split(), args, calm, speed)
        return run
    return take


COMMON = "accept4 close poll clock_gettime read-socket write-socket shutdown poll-log write-log "


@step(COMMON)
def ws_echo(s):
    with s.dial() as c:
        c.upgrade("/echo").say(b"text", wsraw.TEXT)
        c.say(BULK[:3000])
        c.close_in_order()


@step(COMMON + "getentropy")
def wss_echo(s):
    with s.dial(s.world.anyone) as c:
        c.upgrade("/echo").say(b"text", wsraw.TEXT)
        c.say(BULK[:3000])
        c.close_in_order()


@step(COMMON)
def bulk(s):
    with s.dial() as c:
        c.upgrade("/echo").send_frame(wsraw.BINARY, BULK, drain=True)
        c.hear(BULK)
        c.close_in_order()


@step(COMMON)
def hub(s):
    with s.dial() as a, s.dial() as b:
        a.upgrade("/hub")
        b.upgrade("/hub")
        a.send_frame(wsraw.BINARY, BULK[:9000])         # two entries
        b.hear_unless(a, BULK[:9000], wsraw.BINARY)
        b.send_frame(wsraw.TEXT, b"frag", fin=False)
        b.send_frame(wsraw.CONT, b"ments")
        a.hear_unless(b, b"fragments", wsraw.TEXT)
        a.close_in_order()
        b.close_in_order()


@step(COMMON + "socket connect setsockopt recv")
def tcp(s):
    with s.dial() as c:
        c.upgrade("/tcp").stream(b"question")
        c.stream(BULK[:16384 - 4])      # what comes back fills the window, and nothing follows
        c.close_in_order()


@step(COMMON + "socket connect setsockopt recv")
def unix(s):
    with s.dial() as c:
        c.upgrade("/unix").stream(b"question")
        c.stream(BULK[:16384 - 4])      # what comes back fills the window, and nothing follows
        c.close_in_order()


@step(COMMON + "socket connect setsockopt recv recv-drop")
def seqpacket(s):
    with s.dial() as c:
        c.upgrade("/seqpacket").say(b"question")
        c.say(BULK[:5000])
        c.close_in_order()


@step(COMMON + "socket connect setsockopt recv")
def backend_ends(s):
    for path in "/tcp", "/seqpacket":
        with s.dial() as c:
            c.upgrade(path).send_binary(b"!")
            c.closed(1000)


@step(COMMON.replace("shutdown", "") + "socket connect setsockopt recv")
def client_vanishes(s):
    for path in "/tcp", "/unix":
        with s.dial() as c:
            c.upgrade(path).stream(b"question")
            c.reset()


@step(COMMON.replace("shutdown", "") + "socket connect setsockopt")
def no_backend(s):
    with s.dial() as c:
        c.send(wsraw.upgrade_head("/nobody", c.host))
        assert c.reply().status == 502
        c.the_end()


@step(COMMON + "openat fstatat fstat read-file")
def files(s):
    bob = ["Authorization: Basic Ym9iOnNlY3JldA=="]
    with s.dial() as c:
        r = c.get("/page.html", body=PAGE, extra=bob)
        c.get("/page.html", 304, extra=bob + ["If-None-Match: " + r.get("ETag")])
        c.get("/sub", 301, extra=bob)
        c.get("/sub/", body=PAGE, extra=bob)
        c.get("/sub/below/page.html", body=PAGE, extra=bob)
        c.get("/missing", 404, extra=bob)
        c.get("/page.html", method="HEAD", extra=bob)
        c.get("/page.html", 401)
        c.the_end()


@step(COMMON)
def credentials(s):
    with s.dial() as c:
        c.upgrade("/private", extra=["Authorization: Basic Ym9iOnNlY3JldA=="]).say(b"secret")
        c.close_in_order()


@step(COMMON)
def proxied(s):
    with s.dial(port=s.proxy) as c:
        c.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\1\2\3\x0a\1\2\4\0\1\0\2")
        c.upgrade("/echo").say(b"from afar")
        c.close_in_order()
    with s.dial(port=s.proxy) as c:
        c.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0" + wsraw.head("GET", "/", ["Host: 127.0.0.1", "Connection: close"]))
        assert c.reply().status == 401
        c.the_end()


@step(COMMON + "getentropy")
def client_certificate(s):
    with s.dial(s.world.device, port=s.ca) as c:
        c.upgrade("/echo").say(b"device")
        c.close_in_order()
    try:
        with s.dial(s.world.anyone, port=s.ca) as c:
            c.upgrade("/echo")
    except (wsraw.Ended, ConnectionError, ssl.SSLError):
        return
    raise AssertionError("nobody asked for a certificate")


@step(COMMON + "getentropy")
def misplaced(s):
    with s.dial(port=s.tls) as c:
        assert c.request().status == 400
        c.the_end()
    with s.dial(s.world.anyone) as c:
        c.upgrade("/echo").send_frame(wsraw.TEXT, b"", mask=None)
        c.closed(1002)


@step("read-other open read-file close poll clock_gettime poll-log write-log")
def reload(s):
    here = os.path.getsize(s.file)
    s.reload()
    line = s.log(here)
    if "reload refused: " in line:
        raise Refused(line)
    assert line == "reloaded\n" or s.control.get("hits"), line


@step("read-other poll clock_gettime poll-log write-log")
def counters(s):
    said = s.control.calls("poll-log")
    os.kill(s.proc.pid, signal.SIGUSR1)
    s.until(lambda: s.control.calls("poll-log") > said, "SIGUSR1 is not answered")


@step(COMMON + "epoll_ctl epoll_wait madvise socket connect setsockopt recv getentropy", "--timeout", "2000", calm=3,
      speed=4 * SPEED)
def rest(s):
    given = s.control.calls("madvise")
    with s.dial() as a, s.dial(s.world.anyone) as b:
        a.upgrade("/echo").say(b"first")
        b.upgrade("/tcp").stream(b"first")
        s.until(lambda: s.control.calls("madvise") >= given + 2, "nobody goes to rest")
        a.say(b"awake")
        s.world.backends.shout(b"wake up")
        b.hear_stream(b"wake up")
        s.until(lambda: s.control.calls("madvise") >= given + 4, "nobody goes to rest again")
        b.stream(b"again")
        a.close_in_order()
        b.close_in_order()
    s.until(lambda: s.control.calls("madvise") >= given + 6, "empty slots keep their memory")


@step(COMMON, "--ping", "4", "--timeout", "1000", speed=4 * SPEED)
def ping(s):
    with s.dial() as c:
        c.upgrade("/echo")
        f = c.recv_frame()
        assert f.opcode == wsraw.PING, f
        c.send_frame(wsraw.PONG, f.payload)
        c.say(b"here")
        c.close_in_order()


@step(COMMON, "--max-clients", "2", "--max-per-ip", "0", "--timeout", "1000", speed=4 * SPEED)
def full(s):
    """Two slots: a third client is sent away; then one without a request makes room."""
    with s.dial() as a:
        a.upgrade("/echo")
        with s.dial() as b:
            b.upgrade("/echo")
            with s.dial() as c:
                c.the_end()
            b.close_in_order()
        s.until(lambda: s.fds() == s.fds0 + 1, "the second is still there")
        with s.dial() as idle:
            s.until(lambda: s.fds() == s.fds0 + 2, "not accepted")
            s.control.put("warp", s.control.get("warp") + 2500)
            turns = s.control.calls("poll")
            s.until(lambda: s.control.calls("poll") > turns + 2, "no turn")     # one of them has read the clock
            with s.dial() as c:
                c.upgrade("/echo").say(b"room")
                c.close_in_order()
            idle.the_end()
        a.say(b"still")
        a.close_in_order()


# ---------------------------------------------------------------------------------------------- the campaign

Result = collections.namedtuple("Result", "step runs hit sites failures seconds")


class Campaign:
    """All runs of one step."""

    def __init__(self, world, binary, name, short):
        self.world, self.binary, self.name, self.short = world, binary, name, short
        self.hit, self.sites, self.failures, self.runs = collections.Counter(), set(), [], 0
        self.server, self.slower = None, 1

    def fail(self, what, why):
        self.failures.append("%s: %s: %s" % (self.name, what, why))

    def result(self, began):
        if self.server:
            self.server.kill()
        if not self.hit:
            self.fail("all runs", "no fault was met")
        return Result(self.name, self.runs, self.hit, self.sites, self.failures, time.monotonic() - began)

    def struck(self, function):
        """Notes whether the fault was met, and where."""
        k = self.server.control
        k.disarm()
        if not k.get("hits"):
            return False
        self.hit[function] += 1
        self.sites.add(k.get("site"))
        return True

    def every(self, one, functions):
        """one(function, n, error, times) for n = 1, 2, 3 ... until it meets no fault."""
        for function in functions:
            for error in errors(function, self.short):
                twice = error == FAULTS[function].errors[0] and function != "recv-drop" and (
                    not self.short or function == "recv")
                for times in (1, 2) if twice else (1,):
                    for n in range(1, MOST):
                        if len(self.failures) > 20 or not self.thrice(one, function, n, error, times):
                            break
                    else:
                        self.fail(function, "does not end")

    def thrice(self, one, *fault):
        """A run that fails is repeated with a slower clock, and again: our own delays are nobody's fault."""
        usual = self.slower
        for times in 1, 5, 25:
            before, self.slower = len(self.failures), usual * times
            if times > 1 and self.name in STEPS:
                self.start()
            met = one(*fault)
            if len(self.failures) == before or times == 25:
                break
            del self.failures[before:]
        self.slower = usual
        if times > 1 and self.name in STEPS:
            self.start()
        return met

    # ---- a server that lives on

    def start(self):
        if self.server:
            self.server.kill()
        step_ = STEPS[self.name]
        speed = step_.speed / self.slower
        self.server = Server(self.world, self.binary, *step_.args, speed=speed).launch().ready()
        self.once()
        self.server.settle()
        time.sleep(3 * self.server.tick)        # empty slots give back their memory
        self.rss = self.server.rss()

    def once(self):
        """Runs the step; whether its clients noticed something tolerable."""
        try:
            STEPS[self.name].run(self.server)
            return None
        except TOLERABLE as e:
            return e
        finally:
            wsraw.close_all()

    def living(self):
        began, step_ = time.monotonic(), STEPS[self.name]
        try:
            for self.slower in 1, 5, 25:
                self.start()
                before = self.server.control.calls()
                noticed = self.once()
                self.server.settle()
                if not noticed:
                    break
            if noticed:
                self.fail("without a fault", repr(noticed))
            after = self.server.control.calls()
            self.every(self.run, [f for f in FAULTS if after[f] > before[f] and FAULTS[f].errors])
            for function in "read-socket", "write-socket", "recv", "read-file":
                if after[function] > before[function]:
                    self.run(function, 1, "short", ALWAYS)
            if after["read-file"] > before["read-file"]:
                self.run("read-file", 1, "end", ALWAYS)
            if "asan" not in open("/proc/%d/maps" % self.server.proc.pid).read():
                self.server.until(lambda: self.server.rss() - self.rss <= 700, "it has grown")       # a ring has 330
        except Exception as e:
            self.fail("campaign", repr(e))
        for function in step_.meets:
            if not self.hit[function]:
                self.fail(function, "never met")
        return self.result(began)

    def run(self, function, n, error, times):
        """One run with one fault; False when it was not met."""
        s, k = self.server, self.server.control
        what = "%s %d %s x %d" % (function, n, error, times)
        if STEPS[self.name].calm:
            time.sleep(STEPS[self.name].calm * s.tick)
        self.runs += 1
        began, polls = time.monotonic(), k.calls("poll")
        patience = threading.Timer(0.3 * SLOW, k.put, ("warp", k.get("warp") + 2000000))
        k.arm(function, n, error, times)
        if function == "shutdown":      # a backend that hears of no end is left at a deadline
            patience.start()
        try:
            noticed = self.once()
            s.settle()
            met = self.struck(function)
            if noticed and not (met and error not in FAULTS[function].hidden):
                self.fail(what, "noticed: %r at %x" % (noticed, k.get("site")))
            if "backend ended" in repr(noticed) and error != "end":
                self.fail(what, "a loss that looks like an end: %r" % noticed)
            spent = k.calls("poll") - polls
            if times < ALWAYS and spent > 500 + 2000 * (time.monotonic() - began):
                self.fail(what, "%d turns in %.3f s" % (spent, time.monotonic() - began))
            s.unharmed(s.world.anyone if n == 1 or self.name == "reload" else None)
            return met
        except Exception as e:
            met = self.struck(function)
            self.fail(what, "%r at %x; log:\n%s" % (e, k.get("site"), s.log()[-500:]))
            self.start()
            return met
        finally:
            patience.cancel()

    # ---- a server for each run

    def starting(self):
        began = time.monotonic()
        self.every(self.start_once, [f for f in FAULTS if FAULTS[f].errors])
        return self.result(began)

    def start_once(self, function, n, error, times):
        what = "%s %d %s x %d" % (function, n, error, times)
        self.runs += 1
        drop = ["--user", "nobody:nogroup", "--chroot", "/"] if os.geteuid() == 0 else []
        s = self.server = Server(self.world, self.binary, *drop, speed=SPEED / self.slower)
        s.control.arm(function, n, error, times)
        try:
            s.launch()
            met = self.struck(function)
            if s.alive():
                must = function in MUST or (function in DROPS and n == 1) or (function, error) == ("read-file", "EIO")
                assert not (met and must), "it has started"
                s.ready()
                s.answer()
                s.answer(self.world.anyone)
                os.kill(s.proc.pid, signal.SIGTERM)
                status = s.proc.wait(PATIENCE)
                assert status == 0, "status %r after SIGTERM" % status
                return met
            lines = [x for x in s.log().splitlines() if not x.startswith("profiling:")]  # gcov's, which finds no descriptor
            news = [x for x in lines if not re.match("reserved|listening on|descriptors may run out|a reload will be", x)]
            assert met and error not in FAULTS[function].hidden, "it did not start"
            assert s.proc.returncode in (1, 2), "status %r" % s.proc.returncode
            assert len(news) == 1 and lines[-1:] == news and news[0].startswith("wssd: "), "not one sentence"
            return met
        except Exception as e:
            met = self.struck(function)
            self.fail(what, "%r at %x; log:\n%s" % (e, s.control.get("site"), s.log()[-1500:]))
            return met
        finally:
            s.kill()

    def helping(self):
        began = time.monotonic()
        self.every(self.help_once, ["fflush"])
        return self.result(began)

    def help_once(self, function, n, error, times):
        """--help, into something full."""
        self.runs += 1
        s = self.server = Server(self.world, self.binary, "--help")
        s.control.arm(function, n, error, times)
        try:
            s.launch()
            met = self.struck(function)
            if s.proc.returncode != met:
                self.fail("%s %d %s x %d" % (function, n, error, times), "status %r" % s.proc.returncode)
            return met
        finally:
            s.kill()

    def stopping(self):
        began = time.monotonic()
        self.every(self.stop_once, ["read-other", "poll", "clock_gettime", "close", "poll-log", "write-log", "write-socket",
                                    "read-socket", "shutdown", "recv"])
        return self.result(began)

    def stop_once(self, function, n, error, times):
        """SIGTERM, while two clients are there."""
        what = "%s %d %s x %d" % (function, n, error, times)
        self.runs += 1
        s = self.server = Server(self.world, self.binary, speed=5 / SLOW / self.slower)
        noticed, met = None, False
        try:
            s.launch().ready()
            with s.dial(self.world.anyone) as a, s.dial() as b, s.dial():
                a.upgrade("/echo")
                b.upgrade("/tcp").stream(b"before the end")
                s.control.arm(function, n, error, times)
                os.kill(s.proc.pid, signal.SIGTERM)
                for c in a, b:
                    try:
                        c.closed(1001)
                    except TOLERABLE as e:
                        noticed = e
                    c.close()
                status = s.proc.wait(PATIENCE)
                met = self.struck(function)
            assert status == 0, "status %r" % status
            assert s.log().endswith("stopped\n") or function.endswith("-log"), "not stopped"
            assert not noticed or (met and error not in FAULTS[function].hidden), "noticed: %r" % noticed
        except Exception as e:
            self.struck(function)
            self.fail(what, "%r at %x; log:\n%s" % (e, s.control.get("site"), s.log()[-1500:]))
        finally:
            wsraw.close_all()
            s.kill()
        return met


def places(binary):
    """Where the program calls what the shim covers: {offset behind the call: function}. (A function may be called under
    another name: with 64, or as a fortified one.) What sets up the sandbox is met by a binary that runs in one."""
    known, found = {re.split("[.-]", f)[0] for f in FAULTS}, {}
    known -= {"prctl", "setrlimit"} if powers.watched(binary) else set()
    text = subprocess.check_output(["objdump", "-d", "--no-show-raw-insn", binary]).decode()
    for name, behind in re.findall(r"call\s+\w+ <(\w+)@plt>\n(?:\n\w+ <.*>:\n)?\s*(\w+):", text):
        name = re.sub(r"^__(\w+)_(chk|2)$", r"\1", name)
        name = name[:-2] if name.endswith("64") else name
        if name in known and FAULTS.get(name, FAULTS["poll"]).errors:
            found[int(behind, 16)] = name
    assert not re.search(r"jmp\s+\w+ <(%s)(64)?@plt>" % "|".join(known), text), "a call that does not return here"
    return found


NAMES = ["help", "start", "stop"] + list(STEPS)
# what fails in these before or behind the loop
ONCE = DROPS + "bind epoll_create1 fflush gethostname getsockname listen mmap prctl setrlimit signalfd".split()
_world = []


def the_world():
    """That of this process."""
    if not _world:
        _world.append(tempfile.TemporaryDirectory(prefix="faulty"))
        _world.append(World(_world[0].name))
    return _world[1]


def campaign(binary, name, short):
    """All runs of a step, in this process."""
    c = Campaign(the_world(), binary, name, short)
    return {"help": c.helping, "start": c.starting, "stop": c.stopping}.get(name, c.living)()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--binary", default=os.path.join(TOP, "wssd"))
    p.add_argument("--short", action="store_true")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("steps", nargs="*", default=NAMES)
    a = p.parse_args()
    began, hit, sites, failures, runs = time.monotonic(), collections.Counter(), set(), [], 0
    with concurrent.futures.ProcessPoolExecutor(a.jobs) as pool:
        steps = sorted(a.steps, key=["rest", "full", "ping", "start", "stop"].count, reverse=True)      # the long ones first
        for r in pool.map(campaign, *zip(*[(a.binary, name, a.short) for name in steps])):
            print("%-20s %5d runs, %5d faults met, %3d failed, %5.1f s" % (
                r.step, r.runs, sum(r.hit.values()), len(r.failures), r.seconds), flush=True)
            for text in r.failures:
                print("    " + text.replace("\n", "\n        "))
            runs += r.runs
            hit.update(r.hit)
            sites |= r.sites
            failures += r.failures
    print("faults met: " + ", ".join("%s %d" % (f, hit[f]) for f in sorted(hit)))
    every = places(a.binary)
    missed = ["%s before %x" % (every[x], x) for x in sorted(set(every) - sites)]
    print("%d of %d places%s" % (len(every) - len(missed), len(every), "".join("\n    never: " + m for m in missed)))
    if missed and a.steps == NAMES:
        failures.append("places")
    print("%d runs in %.0f s" % (runs, time.monotonic() - began))
    print("%d passed, %d failed" % (max(0, runs - len(failures)), len(failures)))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
