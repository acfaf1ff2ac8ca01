"""What every test stands on: certificates, and servers that must outlive each test unharmed.

Environment: WSSD (the binary, default ./wssd of the checkout), WSSD_WRAP (words put before it, such as valgrind or qemu),
WSSD_SLOW (a factor on every time limit), WSSD_SELFSIGN (default dist/selfsign), WSSD_FILTERED (a server fails that starts
without the filter of system calls, unless --no-sandbox or a preloaded library says so).

After every test each server it used must be alive, must answer a fresh request, must have given back every slot, backend
and descriptor once the test's clients are closed, must not have met a case that cannot happen (bugs=0), and must not have
logged a sanitizer's finding. At its end it must leave with status 0 within 5 s of SIGTERM.
"""

import collections
import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import logs  # noqa: E402
import powers  # noqa: E402
import wsraw  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WSSD = os.environ.get("WSSD", os.path.join(TOP, "wssd"))
WRAP = shlex.split(os.environ.get("WSSD_WRAP", ""))
EMULATED = bool(WRAP) and os.path.basename(WRAP[0]).startswith("qemu-")  # another machine's
SLOW = wsraw.SLOW
ALARMS = re.compile(r"AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|runtime error|"
                    r"==\d+== (Conditional jump|Use of uninit|Invalid (read|write)|Syscall param)|\bbug: ")


# ---------------------------------------------------------------------------------------------- certificates

Pair = collections.namedtuple("Pair", "cert key")


class Certs:
    """Makes key and certificate pairs with openssl; each kind once a session."""

    def __init__(self, path):
        self.path = path
        self.made = {}
        self.ec = self.make("ec")

    @property
    def cert(self):
        return self.ec.cert

    @property
    def key(self):
        return self.ec.key

    def openssl(self, *args):
        r = subprocess.run(["openssl"] + [str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=60 * SLOW)
        assert r.returncode == 0, "openssl %s: %s" % (args, r.stdout.decode(errors="replace"))
        return r.stdout

    def make(self, kind="ec", name=None, subject="/CN=localhost", san="DNS:localhost,IP:127.0.0.1,IP:::1", days=30):
        """kind: ec (P-256), p384, rsa (2048), rsa4096. Self-signed; files NAME.crt and NAME.key (PKCS#8)."""
        name = name or kind
        if name in self.made:
            return self.made[name]
        key, cert = os.path.join(self.path, name + ".key"), os.path.join(self.path, name + ".crt")
        algorithm = {
            "ec": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            "p384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            "rsa": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            "rsa4096": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
        }[kind]
        self.openssl("genpkey", *algorithm, "-out", key)
        self.openssl("req", "-new", "-x509", "-key", key, "-out", cert, "-days", days, "-subj", subject, "-sha256",
                     "-addext", "subjectAltName=" + san, "-addext", "extendedKeyUsage=serverAuth")
        self.made[name] = Pair(cert, key)
        return self.made[name]


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    return Certs(str(tmp_path_factory.mktemp("certs")))


# ---------------------------------------------------------------------------------------------- the server


LIBC = ctypes.CDLL(None)


class Server(logs.Logged):
    """A running wssd. ports, urls: one for each listener in order; port: the first; tls_port, plain_port: the first of
    that kind or None; pid; log: the lines so far."""

    def __init__(self, args, env=None, cwd=None, nlisten=1, preexec=None, wrap=None, probe="/echo",
                 binary=None):
        self.args, self.env, self.cwd, self.nlisten = [str(a) for a in args], env, cwd, nlisten
        self.preexec, self.wrap, self.probe = preexec, WRAP if wrap is None else wrap, probe
        self.binary = binary or WSSD
        self.start()

    def start(self):
        self.ended = False  # the test ended it, on purpose
        env = dict(os.environ)
        env.pop("JOURNAL_STREAM", None)
        env.setdefault("ASAN_OPTIONS", "abort_on_error=0:exitcode=99")
        env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        env.update(self.env or {})
        words = self.wrap + [self.binary] + powers.words(self.binary, self.args, self.wrap) + self.args
        self.proc = subprocess.Popen(words, stdin=subprocess.DEVNULL, env=env, cwd=self.cwd,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=self._child)
        self.pid = self.proc.pid
        self.follow(self.proc.stderr)
        try:
            self.urls = []
            pattern = re.compile(r"listening on (wss?://\S+)$")
            end = time.monotonic() + 15 * SLOW
            with self.cond:
                while len(self.urls) < self.nlisten:
                    self.urls = [m.group(1) for m in map(pattern.search, self.log) if m]
                    if len(self.urls) >= self.nlisten:
                        break
                    left = end - time.monotonic()
                    if left <= 0 or self.eof:
                        raise AssertionError("wssd did not start: " + "\n".join(self.log[-20:]))
                    self.cond.wait(left)
            self.ports = [int(u.rstrip("/").rpartition(":")[2]) for u in self.urls]
            self.port, self.url = (self.ports[0], self.urls[0]) if self.ports else (None, None)
            kinds = [(u.split(":")[0], p) for u, p in zip(self.urls, self.ports)]
            self.tls_port = next((p for k, p in kinds if k == "wss"), None)
            self.plain_port = next((p for k, p in kinds if k == "ws"), None)
            self.counters()  # the handler is in place, and the base line is that of a loop that runs
            self.fds0 = self.fds()
            if "WSSD_FILTERED" in os.environ and "--no-sandbox" not in words and "LD_PRELOAD" not in env:
                assert self.filtered(), "system calls are not filtered"
        except BaseException:
            self.kill()
            raise

    def _child(self):
        LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no server outlives a test run that was broken off
        if self.preexec:
            self.preexec()

    # ---- looking at it

    def alive(self):
        return self.proc.poll() is None

    def counters(self, timeout=5.0):
        """SIGUSR1, and the counters that it logs, as numbers."""
        here = self.here()
        self.signal(signal.SIGUSR1)
        line = self.wait_log(r"counters: (.*)$", timeout, here).group(1)
        return {k: int(float(v)) for k, _, v in (word.partition("=") for word in line.split())}

    def wait_counters(self, timeout=5.0, **wanted):
        """Polls until the counters have these values (a callable judges for itself); returns them."""
        end, pause = time.monotonic() + timeout * SLOW, 0.002
        while True:
            c = self.counters()
            if all(v(c[k]) if callable(v) else c[k] == v for k, v in wanted.items()):
                return c
            if time.monotonic() > end:
                raise AssertionError("counters are %r, not %r; log:\n%s" % (c, wanted, "\n".join(self.lines()[-30:])))
            time.sleep(pause)
            pause = min(pause * 2, 0.1)

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def rss(self):
        """Resident memory in KiB."""
        with open("/proc/%d/status" % self.pid) as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))

    def filtered(self):
        with open("/proc/%d/status" % self.pid) as f:
            return re.search(r"(?m)^Seccomp:\s+2$", f.read()) is not None

    def cpu(self):
        """User and system time so far, in seconds."""
        with open("/proc/%d/stat" % self.pid) as f:
            words = f.read().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    # ---- talking to it

    def connect(self, tls=None, port=None, **kw):
        """A raw client. tls: None takes the first listener as it is; True, False: the first of that kind."""
        if port is None:
            if tls is None:
                tls, port = self.url.startswith("wss:"), self.port
            else:
                port = self.tls_port if tls else self.plain_port
        return wsraw.connect(port, tls or False, **kw)

    def open(self, path="/echo", tls=None, changes=(), extra=(), **kw):
        """A raw client after the opening handshake."""
        return self.connect(tls, **kw).open(path, changes=changes, extra=extra)

    # ---- ending it

    def signal(self, number):
        if self.alive():
            os.kill(self.pid, number)

    def hup(self):
        self.signal(signal.SIGHUP)

    def wait(self, timeout=5.0):
        """The exit status, once the process has ended and all that it said is in the log."""
        try:
            status = self.proc.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            raise AssertionError("wssd did not end within %.1f s" % (timeout * SLOW))
        self.thread.join(5 * SLOW)
        return status

    def term(self, timeout=5.0):
        """SIGTERM; the exit status."""
        self.ended = True
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self):
        self.ended = True
        if self.alive():
            self.proc.kill()
        self.proc.wait()
        self.thread.join(5)
        self.proc.stderr.close()

    def stop(self):
        """SIGTERM must end it with status 0."""
        try:
            if not self.ended:
                status = self.term()
                assert status == 0, "exit status %r after SIGTERM; log:\n%s" % (status, "\n".join(self.log[-30:]))
            self.scan()
        finally:
            self.kill()

    # ---- is it unharmed?

    def scan(self):
        bad = [line for line in self.lines(0) if ALARMS.search(line)]
        assert not bad, "the log has:\n" + "\n".join(self.lines(0)[-60:])

    def answer(self):
        """A fresh client is served."""
        if callable(self.probe):
            return self.probe(self)
        with self.connect(False if self.plain_port and self.url.startswith("ws:") else None) as c:
            if self.probe:
                c.open(self.probe).send_text("still there?")
                c.expect_text("still there?")
                c.close_handshake()
            else:
                c.request("GET", "/")

    def check(self):
        """The conditions that hold after every test."""
        wsraw.close_all()
        if self.ended:
            return
        assert self.alive(), "wssd ended by itself, status %r; log:\n%s" % (
            self.proc.returncode, "\n".join(self.log[-40:]))
        self.wait_counters(clients=0, backends=0)
        self.answer()
        c = self.wait_counters(clients=0, backends=0)
        assert c.get("bugs") == 0, "bugs=%r; log:\n%s" % (c.get("bugs"), "\n".join(self.lines()[-40:]))
        fds = self.fds()
        assert fds == self.fds0, "%d descriptors, %d at the start" % (fds, self.fds0)
        self.scan()


def arguments(certs, args, tls, plain, listen, root, cert, echo):
    args = [str(a) for a in args]
    out = []
    if listen is None:
        listen = [] if "--listen" in args else \
            (["wss://127.0.0.1:0"] if tls else []) + (["ws://127.0.0.1:0"] if plain or not tls else [])
    for url in listen:
        out += ["--listen", url]
    urls = listen + [args[i + 1] for i, a in enumerate(args[:-1]) if a == "--listen"]
    if "--cert" not in args and any(u.startswith("wss:") for u in urls):
        pair = cert or certs.ec
        out += ["--cert", pair.cert, "--key", pair.key]
    if root is not None:
        out += ["--root", str(root)]
    out += args
    if echo and not any(a.startswith("/echo=") for a in args):
        out.append("/echo=echo")
    return out, len(urls)


def factory(certs, servers):
    def make(*args, tls=True, plain=False, listen=None, root=None, cert=None, env=None, cwd=None, echo=True,
             nlisten=None, preexec=None, wrap=None, probe=None, binary=None):
        argv, urls = arguments(certs, args, tls, plain, listen, root, cert, echo)
        if probe is None:
            probe = "/echo" if echo else ""
        s = Server(argv, env, cwd, urls if nlisten is None else nlisten, preexec, wrap, probe, binary)
        servers.append(s)
        return s

    def run(*args, tls=True, plain=False, listen=None, root=None, cert=None, env=None, cwd=None, echo=True, timeout=10):
        """Runs wssd to its end, for starts that must fail and for --check, --help: a CompletedProcess with text."""
        argv, _ = arguments(certs, args, tls, plain, listen, root, cert, echo)
        return bare(*argv, env=env, cwd=cwd, timeout=timeout)

    def bare(*args, env=None, cwd=None, timeout=10):
        """The same with exactly these arguments (and what powers.py has to say)."""
        e = dict(os.environ)
        e.pop("JOURNAL_STREAM", None)
        e.update(env or {})
        args = [str(a) for a in args]
        return subprocess.run(WRAP + [WSSD] + powers.words(WSSD, args, WRAP) + args, stdin=subprocess.DEVNULL, env=e, cwd=cwd,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout * SLOW,
                              encoding="utf-8", errors="backslashreplace")

    make.run, make.bare = run, bare
    return make


def need_binary():
    if not os.access(WSSD, os.X_OK):
        pytest.fail("%s is not there; run make first" % WSSD, pytrace=False)


def finish(servers):
    wsraw.close_all()
    errors = []
    for s in servers:
        for step in (s.check, s.stop):
            try:
                step()
            except Exception as e:
                errors.append(str(e) or repr(e))
        s.kill()
    servers.clear()
    if errors:
        pytest.fail("after the test: " + "\n".join(errors), pytrace=False)


@pytest.fixture
def wssd(certs):
    """A factory of servers that live for one test: wssd(*args, tls=True, plain=False, listen=[URL...], root=DIR,
    cert=Pair, echo=True, env=, cwd=, probe=PATH|""|callable, nlisten=, preexec=, wrap=, binary=). wssd.run(...) runs to the end."""
    need_binary()
    servers = []
    yield factory(certs, servers)
    finish(servers)


SHARED = []


@pytest.fixture(scope="module")
def wssd_module(certs):
    """The same for servers that live for a module; they are checked after each test, and replaced when one harmed them
    (the ports change then: ask the object each time)."""
    need_binary()
    servers = []
    make = factory(certs, servers)

    def shared(*args, **kw):
        s = make(*args, **kw)
        SHARED.append(s)
        return s

    shared.run, shared.bare = make.run, make.bare
    yield shared
    for s in servers:
        SHARED.remove(s)
    finish(servers)


@pytest.fixture(autouse=True)
def unharmed():
    for s in SHARED:
        s.mark = s.here()
    yield
    wsraw.close_all()
    errors = []
    for s in SHARED:
        try:
            s.check()
            if s.ended:
                s.start()
        except Exception as e:
            errors.append(str(e) or repr(e))
            s.kill()
            s.start()
    if errors:
        pytest.fail("after the test: " + "\n".join(errors), pytrace=False)


# ---------------------------------------------------------------------------------------------- the last line


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Outermost, so that nothing comes after the line: N passed, N failed. A test whose check afterwards fails, and a
    file that cannot be collected, count as failed; a test counts once."""
    yield
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput") or reporter is None:
        return
    ids = {k: {r.nodeid for r in reporter.stats.get(k, []) if hasattr(r, "nodeid")}
           for k in ("passed", "failed", "error", "skipped", "xfailed", "xpassed")}
    failed = ids["failed"] | ids["error"] | ids["xfailed"] | ids["xpassed"]
    skipped = ids["skipped"] - failed
    passed = ids["passed"] - failed - skipped
    line = "%d passed, %d failed" % (len(passed), len(failed))
    if skipped:
        line += ", %d skipped" % len(skipped)
    reporter.ensure_newline()
    reporter.write_line(line)
