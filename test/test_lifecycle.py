"""Start, options, configuration, limits, deadlines, signals, the log."""

import errno
import os
import pwd
import re
import resource
import signal
import socket
import ssl
import time

import pytest

import conftest
import peers
import powers
import wsraw

SLOW = wsraw.SLOW
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

OPTIONS = ["listen", "cert", "key", "client-ca", "root", "origin", "host", "max-clients", "max-per-ip", "max-message",
           "timeout", "ping", "config", "check", "verbose", "version", "help"]


# ---- the command line


def test_help(wssd):
    r = wssd.bare("--help")
    assert r.returncode == 0 and r.stderr == ""
    assert [o for o in OPTIONS if not re.search(r"^\s*--%s\b" % o, r.stdout, re.M)] == []
    assert max(len(line) for line in r.stdout.splitlines()) <= 100


def test_help_and_the_options_it_names_are_one_table(wssd):
    """Each word that --help names is known, and needs a value if it shows one."""
    for name, value in re.findall(r"^\s*--([\w-]+)( [A-Z]+)?", wssd.bare("--help").stdout, re.M):
        if value:
            r = wssd.bare("--" + name)
            assert r.returncode == 2 and name in r.stderr, (name, r.stderr)


def test_version(wssd):
    r = wssd.bare("--version")
    assert r.returncode == 0 and re.fullmatch(r"wssd \d+(\.\d+)+, \w.*\w\n", r.stdout), r.stdout


MUSL = {os.strerror(errno.ENOMEM): "Out of memory", os.strerror(errno.EADDRINUSE): "Address in use",
        os.strerror(errno.EADDRNOTAVAIL): "Address not available"}  # where its strerror(3) says it in other words


def complaint(r, *words, status=(1, 2)):
    """The start ends with one sentence that says what is wrong (behind the line which says what was reserved)."""
    assert r.returncode in status, (r.returncode, r.stderr)
    lines = [line for line in r.stderr.splitlines() if not line.startswith("reserved ")]
    assert len(lines) == 1 and re.match(r"wssd: \S", lines[0]), r.stderr
    for w in words:
        assert w in lines[0] or MUSL.get(w, w) in lines[0], (w, lines[0])


@pytest.mark.parametrize("args, words", [
    (["--nonsense"], ["nonsense"]),
    (["--cer", "x"], ["cer"]),
    (["-x"], ["x"]),
    (["--listen"], ["listen"]),
    (["--max-clients"], ["max-clients"]),
    (["--listen", "wss://127.0.0.1:0", "--key"], ["key"]),
    (["     ", "ws://127.0.0.1:0"], ["no option"]),  # how a line of --help begins
    (["   ", "ws://127.0.0.1:0"], ["no option"]),
], ids=lambda v: "_".join(v))
def test_usage(wssd, args, words):
    complaint(wssd.bare(*args), *words, status=(2,))


LONG = "x" * 200
WRONG = [
    ["--listen", "127.0.0.1:0"],
    ["--listen", "http://127.0.0.1:0"],
    ["--listen", "wss://"],
    ["--listen", "wss://127.0.0.1"],
    ["--listen", "wss://127.0.0.1:"],
    ["--listen", "wss://127.0.0.1:65536"],
    ["--listen", "wss://127.0.0.1:-1"],
    ["--listen", "wss://127.0.0.1:1x"],
    ["--listen", "wss://127.0.0.1:99999999999999999999"],
    ["--listen", "wss://example.com:1"],
    ["--listen", "wss://127.0.0.300:1"],
    ["--listen", "wss://[::1:1"],
    ["--listen", "wss://[::1]"],
    ["--listen", "wss://[::1]x:1"],
    ["--listen", "wss://["],
    ["--listen", "wss"],
    ["--listen", "wss:"],
    ["--listen", "wss:/"],
    ["--listen", "wss:127.0.0.1:0"],
    ["--listen", "wss:/127.0.0.1:0"],
    ["--listen", "wss:x/127.0.0.1:0"],
    ["--listen", "wss:/x/127.0.0.1:0"],
    ["--listen", "wss://127.0.0.1:0,client-ca"],
    ["--listen", "wss://%s:1" % LONG],
    ["--listen", "wss://127.0.0.1:0,nonsense=1"],
    ["--max-clients", "0"],
    ["--max-clients", "-1"],
    ["--max-clients", "x"],
    ["--max-clients", ""],
    ["--max-clients", "5x"],
    ["--max-clients", "99999999999999999999"],
    ["--max-clients", "18446744073709551617"],
    ["--max-clients", "1000001"],
    ["--max-per-ip", "1000001"],
    ["--max-message", "268435457"],
    ["--timeout", "86401"],
    ["--ping", "86401"],
    ["--check=2"],
    ["--verbose=2"],
    ["--version=2"],
    ["--help=2"],
    ["--max-per-ip", "-1"],
    ["--max-per-ip", "many"],
    ["--max-message", "0x10"],
    ["--max-message", "-5"],
    ["--timeout", "0"],
    ["--timeout", "-1"],
    ["--timeout", "1h"],
    ["--ping", "never"],
    ["--ping", "-3"],
    ["--origin", ""],
    ["--host", "one||two"],
    ["/x"],
    ["x"],
    ["x=echo"],
    ["/x="],
    ["/x=nonsense"],
    ["/x=echoes"],
    ["/x=tcp"],
    ["/x=tcp:"],
    ["/x=tcp:127.0.0.1"],
    ["/x=tcp:127.0.0.1:"],
    ["/x=tcp:127.0.0.1:0"],
    ["/x=tcp:127.0.0.1:65536"],
    ["/x=tcp:127.0.0.1:x"],
    ["/x=tcp:example.com:80"],
    ["/x=tcp:[::1:80"],
    ["/x=unix"],
    ["/x=unix:"],
    ["/x=unix:/" + LONG],
    ["/x=echo,nonsense=1"],
    ["/x=echo,nonsense"],
    ["/x=hub,ring=0"],
    ["/x=hub,ring=1"],
    ["/x=tcp:127.0.0.1:1,ring=1000000"],
    ["/x=unix:/s,ring=1000000"],
    ["/x=seqpacket:/s,ring=1000000"],
    ["/x=hub,ring=x"],
    ["/x=hub,ring=65535"],
    ["/x=echo,protocol=a|"],
    ["/x=echo,protocol"],
    ["/x=echo,origin"],
    ["/x=echo,auth"],
    ["/x=hub,ring"],
    ["/x=hub,last=x"],
    ["/x=echo,ring=1000000"],
    ["/x=echo", "/x=hub"],
    ["/x?y=echo"],
    ["/x%20y=echo"],
    ["/%=echo"],
    ["--root", "/nonexistent/directory"],
    ["--root", __file__],
]


@pytest.mark.parametrize("args", WRONG, ids=lambda a: " ".join(a)[:50])
def test_wrong_value(wssd, args):
    base = ["--listen", "ws://127.0.0.1:0", "/echo=echo"]
    at_fault = args[1] if args[0] == "--root" else args[0].strip("-").partition("=")[0]
    complaint(wssd.bare(*(base + args)), at_fault)


def test_right_values_are_right(wssd):
    """The control: these words do start it."""
    wssd("--max-clients", "1", "--max-per-ip", "0", "--timeout", "1", "--ping", "1", "--max-message", "1", "/x=hub",
         "/y=hub,ring=65536", "/t=tcp:127.0.0.1:1", "/l=tcp:localhost:1", "/u=unix:/nonexistent", "/six=tcp:[::1]:1",
         "/p=echo,protocol=a|b,origin=https://a.example", "--origin", "any", "--host", "any", "--verbose")


@pytest.mark.parametrize("args, word", [
    ([], "listen"),
    (["/echo=echo"], "listen"),
    (["--listen", "wss://127.0.0.1:0"], "cert"),
    (["--listen", "wss://127.0.0.1:0", "--cert", "x"], "key"),
    (["--listen", "wss://127.0.0.1:0", "--key", "x"], "cert"),
])
def test_something_is_missing(wssd, args, word):
    complaint(wssd.bare(*args), word)


@pytest.mark.parametrize("args", [
    sum([["--listen", "ws://127.0.0.1:0"] for _ in range(100)], []),
    ["--listen", "ws://127.0.0.1:0"] + ["/route%d=echo" % i for i in range(1000)],
    ["--listen", "ws://127.0.0.1:0"] + sum([["--origin", "https://%d.example" % i] for i in range(200)], []),
    ["--listen", "ws://127.0.0.1:0"] + sum([["--host", "%d.example" % i] for i in range(200)], []),
    ["--listen", "ws://127.0.0.1:0", "/e=echo,protocol=" + "|".join("p%d" % i for i in range(200))],
], ids=["listeners", "routes", "origins", "hosts", "protocols"])
def test_too_many(wssd, args):
    complaint(wssd.bare(*args))


@pytest.mark.parametrize("most, words, base", [
    (8, lambda i: ["--listen", "ws://127.0.0.1:0"], []),
    (32, lambda i: ["/r%d=echo" % i], ["--listen", "ws://127.0.0.1:0"]),
    (16, lambda i: ["--origin", "https://%d.example" % i], ["--listen", "ws://127.0.0.1:0"]),
], ids=["listeners", "routes", "origins"])
def test_as_many_as_there_may_be(wssd, most, words, base):
    assert wssd.bare("--check", *base, *sum((words(i) for i in range(most)), [])).returncode == 0
    complaint(wssd.bare("--check", *base, *sum((words(i) for i in range(most + 1)), [])), "one too many")


def test_largest_numbers(wssd):
    """What is one less than too much."""
    assert wssd.bare("--listen", "ws://127.0.0.1:0", "--max-clients", "1000000", "--max-per-ip", "1000000", "--max-message",
                     "268435456", "--timeout", "86400", "--ping", "86400", "--verbose=1", "--check=1").returncode == 0


def test_too_much_memory(wssd):
    """What cannot be reserved is said at the start: more than the option takes, than an address can tell, than there is."""
    r = wssd.bare("--listen", "ws://127.0.0.1:0", "--max-clients", "2000000000", "/e=echo")
    complaint(r)
    with open(conftest.WSSD, "rb") as f:
        narrow = f.read(5)[4] == 1  # an ELF file of 32 bits
    r = wssd.bare("--listen", "ws://127.0.0.1:0", "--max-clients", "1000000", "--max-message", "268435456", "/e=echo")
    complaint(r, "memory", "is too much" if narrow else os.strerror(errno.ENOMEM), status=(1,))
    if narrow:
        r = wssd.bare("--listen", "ws://127.0.0.1:0", "--max-clients", "15", "--max-message", "268435456", "/e=echo")
        complaint(r, "memory", os.strerror(errno.ENOMEM), status=(1,))


def test_port_in_use(wssd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = "127.0.0.1:%d" % taken.getsockname()[1]
        complaint(wssd.bare("--listen", "ws://" + where, "/e=echo"), where, os.strerror(errno.EADDRINUSE), status=(1,))


def test_address_of_another_machine(wssd):
    complaint(wssd.bare("--listen", "ws://192.0.2.1:8080", "/e=echo"), "192.0.2.1", os.strerror(errno.EADDRNOTAVAIL),
              status=(1,))


def test_port_can_be_used_again_at_once(wssd):
    """The connections of a server that ended do not keep its port."""
    s = wssd("--max-clients", "8", tls=False)
    with s.open() as c:
        s.ended = True
        s.signal(signal.SIGTERM)
        c.expect_close(1001)
    assert s.wait() == 0
    again = wssd(listen=["ws://127.0.0.1:%d" % s.port])
    assert again.port == s.port


def test_check(wssd, certs):
    r = wssd.run("--check", "/chat=hub")
    assert r.returncode == 0, r.stderr
    assert "listening" not in r.stderr
    complaint(wssd.run("--check", "/chat=nonsense"), "/chat")


def test_says_what_it_reserves(wssd):
    s = wssd("--max-clients", "37")
    assert int(s.wait_log(r"reserved (\d+) KiB for 37 clients", since=0).group(1)) > 37 * 40


@pytest.mark.native  # qemu maps memory of its own, and so does
@pytest.mark.plain   # a sanitizer
def test_says_all_that_it_reserves(wssd):
    """The address space that 5,000 more clients take."""
    said, taken = [], []
    for clients in 100, 5100:
        s = wssd("--max-clients", str(clients), tls=False)
        said.append(int(s.wait_log(r"reserved (\d+) KiB for %d clients" % clients, since=0).group(1)))
        with open("/proc/%d/status" % s.pid) as f:
            taken.append(int(re.search(r"^VmSize:\s+(\d+) kB", f.read(), re.M).group(1)))
    assert abs((said[1] - said[0]) - (taken[1] - taken[0])) < 64, (said, taken)


def test_ring_of_four_messages(wssd):
    """What README.md says of ring=: it is 4 of the longest messages unless told otherwise."""
    def reserved(route):
        s = wssd(route, "--max-message", str(1 << 20))
        return int(s.wait_log(r"reserved (\d+) KiB", since=0).group(1))
    assert 4 * 1024 <= 2048 + reserved("/a=hub") - reserved("/a=hub,ring=%d" % (2 << 20)) < 5 * 1024


def test_closed_standard_descriptors(wssd):
    """Started without stdin and stdout, by an init that knows no better: no client gets number 0 or 1 and is taken for nobody."""
    def preexec():
        os.close(0)
        os.close(1)
    s = wssd("/chat=hub", preexec=preexec)
    assert [os.readlink("/proc/%d/fd/%d" % (s.pid, n)) for n in (0, 1)] == ["/dev/null"] * 2
    with s.open() as a, s.open("/chat") as b, s.open("/chat") as c:
        a.send_text("a")
        a.expect_text("a")
        b.send_text("b")
        c.expect_text("b")


# ---- the configuration file


def config(tmp_path, text):
    f = tmp_path / "wssd.conf"
    f.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f


def test_configuration_has_the_same_words(wssd, certs, tmp_path):
    f = config(tmp_path, """# a comment

listen wss://127.0.0.1:0
cert %s
key %s
\t# another
max-clients 5
max-per-ip 2
/echo=echo
/chat=hub,protocol=a
verbose""" % (certs.cert, certs.key))
    s = wssd("--config", f, listen=[], nlisten=1, echo=False, probe="/echo")
    s.wait_log("reserved .* for 5 clients", since=0)
    with s.open("/chat", extra=["Sec-WebSocket-Protocol: a"]) as c:
        assert c.reply_head.get("Sec-WebSocket-Protocol") == "a"
        c.close_handshake()


def test_configuration_and_command_line_together(wssd, tmp_path):
    f = config(tmp_path, "listen ws://127.0.0.1:0\n/one=echo\n")
    s = wssd("--config", f, "/two=echo", listen=["ws://127.0.0.1:0"], nlisten=2)
    for port in s.ports:
        for path in ("/one", "/two", "/echo"):
            with wsraw.connect(port) as c:
                c.open(path).close_handshake()


@pytest.mark.parametrize("line, words", [
    ("nonsense", ["nonsense"]),
    ("nonsense 5", ["nonsense"]),
    ("--timeout 5", []),
    ("timeout", ["timeout"]),
    ("timeout x", ["timeout"]),
    ("timeout 5 6", []),
    ("max-clients 0", ["max-clients"]),
    ("listen http://x", ["listen"]),
    ("/route=nonsense", ["/route"]),
    ("/route", []),
    ("timeout " + "5" * 10000, []),
    ("x" * 10000, []),
    ("\x01\x1b[31m", []),
], ids=lambda v: ascii(v)[:24] if isinstance(v, str) else "")
def test_configuration_error_names_file_and_line(wssd, tmp_path, line, words):
    f = config(tmp_path, "# one\n\nlisten ws://127.0.0.1:0\n%s\n/echo=echo\n" % line)
    r = wssd.bare("--config", f)
    complaint(r, *words)
    assert "%s:4:" % f in r.stderr, r.stderr
    assert re.fullmatch(r"[ -~]+\n", r.stderr), r.stderr


def test_configuration_with_a_nul_byte(wssd, tmp_path):
    f = config(tmp_path, b"listen ws://127.0.0.1:0\n/echo=echo\0/x=hub\n")
    complaint(wssd.bare("--config", f), str(f))


def test_configuration_file_of_configuration_files(wssd, tmp_path):
    f = config(tmp_path, "listen ws://127.0.0.1:0\nconfig %s\n" % (tmp_path / "wssd.conf"))
    complaint(wssd.bare("--config", f), "config")


@pytest.mark.parametrize("first", ["listen ws://127.0.0.1:0\n", "# a comment\nlisten ws://127.0.0.1:0\n", "\n", "#", ""],
                         ids=["option", "comment", "empty-line", "comment-only", "nothing"])
def test_second_configuration_file(wssd, tmp_path, first):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text(first)
    b.write_text("listen ws://127.0.0.1:0\n/echo=echo\n")
    complaint(wssd.bare("--config", a, "--config", b, timeout=4), str(b), "second configuration file")


@pytest.mark.parametrize("what", ["missing", "directory"])
def test_configuration_file_that_cannot_be_read(wssd, tmp_path, what):
    f = tmp_path / "dir"
    if what == "directory":
        f.mkdir()
    complaint(wssd.bare("--config", f), str(f), os.strerror(errno.ENOENT if what == "missing" else errno.EISDIR), status=(1,))


def test_example_configuration(wssd, certs, tmp_path):
    """The one that comes with the program is right, once the files it names are there."""
    files = [f for f in os.listdir(os.path.join(TOP, "dist")) if f.endswith(".conf")]
    assert files
    for f in files:
        text = open(os.path.join(TOP, "dist", f)).read()
        www = tmp_path / "www"
        www.mkdir(exist_ok=True)
        text = re.sub(r"(?m)^cert .*", "cert " + certs.cert, text)
        text = re.sub(r"(?m)^key .*", "key " + certs.key, text)
        text = re.sub(r"(?m)^client-ca .*", "client-ca " + certs.cert, text)
        text = re.sub(r"(?m)^root .*", "root %s" % www, text)
        text = re.sub(r"(?m)^user wssd$", "user %s" % pwd.getpwuid(os.geteuid()).pw_name, text)
        r = wssd.bare("--config", config(tmp_path, text), "--check")
        assert r.returncode == 0, r.stderr


# ---- listeners


def test_several_listeners(wssd):
    s = wssd(listen=["wss://127.0.0.1:0", "ws://127.0.0.1:0", "wss://[::1]:0", "ws://[::1]:0"])
    assert [u.rpartition(":")[0] for u in s.urls] == ["wss://127.0.0.1", "ws://127.0.0.1", "wss://[::1]", "ws://[::1]"]
    assert len(set(s.ports)) == 4
    for url, port in zip(s.urls, s.ports):
        address = "::1" if "[" in url else "127.0.0.1"
        with wsraw.connect(port, url.startswith("wss"), address) as c:
            c.open("/echo").send_text(url)
            c.expect_text(url)
            me = c.local[1]
            c.close_handshake()
        suite = "ECDHE-" if url.startswith("wss") else "plain "
        s.wait_log(r"^%s:%d %s" % (re.escape("[::1]" if "[" in url else "127.0.0.1"), me, suite))


def test_all_addresses_of_both_kinds_on_one_port(wssd):
    port = peers.unused_port()
    s = wssd(listen=["wss://0.0.0.0:%d" % port, "wss://[::]:%d" % port])
    for address in ("127.0.0.1", "::1"):
        with wsraw.connect(port, True, address) as c:
            c.open("/echo").close_handshake()
    s.wait_log(r"^127\.0\.0\.1:\d+ ")
    s.wait_log(r"^\[::1\]:\d+ ")


# ---- limits


def crowd(s, n, path="/echo", **kw):
    return [s.open(path, **kw) for _ in range(n)]


def leave(c):
    """The closing handshake, and the end of the connection."""
    c.close_handshake()
    c.close()


def turned_away(s, **kw):
    """A newcomer is accepted and closed at once, with a FIN or a reset."""
    c = s.connect(False, port=s.port, **kw)
    assert c.recv_all(timeout=3) == b"" and c.ended in ("fin", "reset")


@pytest.mark.parametrize("tls", [True, False])
def test_full_house(wssd, tls):
    s = wssd("--max-clients", "4", "--max-per-ip", "0", tls=tls)
    inside = crowd(s, 4)
    before = s.counters()
    for _ in range(3):
        turned_away(s)
    after = s.counters()
    assert after["refused"] == before["refused"] + 3 and after["clients"] == 4
    for i, c in enumerate(inside):
        c.send_text("%d" % i)
        c.expect_text("%d" % i)
    leave(inside[0])
    s.wait_counters(clients=3)
    with s.open() as c:
        c.send_text("room again")
        c.expect_text("room again")


@pytest.mark.parametrize("tls", [True, False])
def test_the_unfinished_make_room(wssd, tls):
    """The oldest connection without a request head goes, if it is older than two seconds; a young one stays. Which slot
    they have does not count."""
    s = wssd("--max-clients", "4", "--max-per-ip", "0", "--timeout", "30", tls=tls)
    inside = crowd(s, 2)
    if tls:
        before = s.connect(False, port=s.port)
        s.wait_counters(clients=3)
    start = time.monotonic()
    first = s.connect(False, port=s.port)
    s.wait_counters(clients=4 if tls else 3)
    if tls:
        before.close()
        s.wait_counters(clients=3)
    time.sleep(0.3)
    second = s.connect(False, port=s.port)
    second.wire(b"\x16\3\1" if tls else b"GET / HT")
    s.wait_counters(clients=4)
    if time.monotonic() - start < 1.9:
        turned_away(s)
    time.sleep(2.2)
    with s.open() as newcomer:
        newcomer.send_text("in")
        newcomer.expect_text("in")
        assert first.recv_all() == b""
        second.quiet(0.1)
        with s.open() as another:
            another.send_text("in too")
            another.expect_text("in too")
            assert second.recv_all() == b""
            turned_away(s)
    for c in inside:
        c.send_text("undisturbed")
        c.expect_text("undisturbed")


def test_half_of_the_slots_for_one_address(wssd):
    s = wssd("--max-clients", "8")
    mine = crowd(s, 4)
    turned_away(s)
    with s.open(source="127.0.0.2") as other:
        other.send_text("another address")
        other.expect_text("another address")
        turned_away(s)
    leave(mine[0])
    s.wait_counters(clients=3)
    leave(s.open())


@pytest.mark.parametrize("limit, n", [("1", 1), ("3", 3), ("0", 8)])
def test_max_per_ip(wssd, limit, n):
    s = wssd("--max-clients", "8", "--max-per-ip", limit, tls=False)
    mine = crowd(s, n)
    turned_away(s)
    assert len(mine) == n


def test_slots_come_back(wssd):
    """Many more clients than slots, one after the other, however they leave."""
    s = wssd("--max-clients", "2", "--max-per-ip", "0", tls=False)
    for i in range(60):
        c = s.open()
        if i % 3 == 0:
            leave(c)
        elif i % 3 == 1:
            c.reset()
        else:
            c.close()
        s.wait_counters(clients=0)


@pytest.mark.parametrize("limit, enough", [(2 * 64 + 32, True), (2 * 64 + 31, False)])
def test_descriptors_for_all_clients(wssd, limit, enough):
    """Two for each client and 32 of the server's own: fewer are said at the start."""
    s = wssd("--max-clients", "64", tls=False, preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
    assert ("descriptors may run out" in "\n".join(s.lines(0))) is not enough


@pytest.mark.parametrize("tls", [True, False])
def test_descriptors_run_out(wssd, tls):
    """`ulimit -n 32`: accepting pauses, those inside are served, nothing spins, and it recovers."""
    def preexec():
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    s = wssd("--max-clients", "64", "--max-per-ip", "0", "--timeout", "20", tls=tls, preexec=preexec)
    insider = s.open()
    waiting = [s.connect(False, port=s.port) for _ in range(50)]
    time.sleep(1.5)
    assert s.fds() <= 32
    before = s.cpu()
    time.sleep(1)
    assert s.cpu() - before < 0.2, "it spins"
    insider.send_text("still served")
    insider.expect_text("still served")
    assert s.counters()["clients"] <= 32
    for c in waiting:
        c.close()
    s.wait_counters(clients=1)
    with s.open() as c:
        c.send_text("again")
        c.expect_text("again")
    insider.send_text("and here")
    insider.expect_text("and here")


# ---- reload


def served_certificate(s):
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", s.port)))


def files(tmp_path, pair):
    for name, source in zip(("cert", "key"), pair):
        (tmp_path / name).write_bytes(open(source, "rb").read())


def der(file):
    return ssl.PEM_cert_to_DER_cert(open(file).read())


@pytest.fixture
def live(wssd, certs, tmp_path):
    files(tmp_path, certs.ec)
    return wssd("--cert", tmp_path / "cert", "--key", tmp_path / "key")


@pytest.mark.parametrize("kind", ["ec", "p384", "rsa"])
def test_reload_with_a_new_pair(live, certs, tmp_path, kind):
    new = certs.make(kind, "new-" + kind)
    with live.open() as old:
        assert served_certificate(live) == der(certs.cert)
        files(tmp_path, new)
        live.hup()
        live.wait_log(r"^reloaded\b")
        assert served_certificate(live) == der(new.cert)
        old.send_text("as before")
        old.expect_text("as before")
        for _ in range(4):
            here = live.here()
            live.hup()
            live.wait_log(r"^reloaded\b", since=here)
        old.send_binary(bytes(100000), drain=True)
        assert old.recv_message()[1] == bytes(100000)
        old.close_handshake()


@pytest.mark.parametrize("what", ["mismatched", "broken", "missing"])
def test_reload_refused(live, certs, tmp_path, what):
    with live.open() as old:
        if what == "mismatched":
            (tmp_path / "key").write_bytes(open(certs.make("ec", "another").key, "rb").read())
        elif what == "broken":
            (tmp_path / "cert").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n")
        else:
            (tmp_path / "cert").unlink()
        for _ in range(3):
            here = live.here()
            live.hup()
            live.wait_log(r"^reload refused: \S", since=here)
            assert served_certificate(live) == der(certs.cert)
        old.send_text("as before")
        old.expect_text("as before")
        files(tmp_path, certs.make("rsa"))
        here = live.here()
        live.hup()
        live.wait_log(r"^reloaded\b", since=here)
        assert served_certificate(live) == der(certs.make("rsa").cert)
        old.send_text("as before")
        old.expect_text("as before")


def test_reload_during_handshakes(live, certs, tmp_path):
    """A handshake on a set that is overwritten ends; nothing else does."""
    half = []
    for _ in range(4):
        c = live.connect(wsraw.client_context(), handshake=False)
        try:
            c.tls.do_handshake()
        except ssl.SSLWantReadError:
            c.wire(c.out.read())
        half.append(c)
    live.wait_counters(clients=4)
    for i in range(3):
        files(tmp_path, certs.make(["rsa", "ec", "p384"][i]))
        here = live.here()
        live.hup()
        live.wait_log(r"^reloaded\b", since=here)
    for c in half:
        with pytest.raises((wsraw.Ended, ssl.SSLError, OSError)):
            c.handshake()
            c.open("/echo")
    leave(live.open())


def test_reload_without_tls(wssd):
    s = wssd(tls=False)
    with s.open() as c:
        s.hup()
        s.wait_log(r"^reloaded\b")
        c.send_text("x")
        c.expect_text("x")


@pytest.mark.parametrize("tls", [True, False])
def test_reload_keeps_a_plain_connection_that_said_nothing(wssd, tls):
    s = wssd(tls=tls, plain=True)
    with s.connect(False) as c:
        s.wait_counters(clients=1)
        s.hup()
        s.wait_log(r"^reloaded\b")
        c.open("/echo").send_text("x")
        c.expect_text("x")


def test_reload_storm(live):
    with live.open() as c:
        for _ in range(100):
            live.hup()
        c.send_text("x")
        c.expect_text("x")


# ---- the end


def test_end_with_100_clients(wssd):
    """All get 1001 (RFC 6455 section 7.4.1), and the process ends with status 0 within 5 s."""
    s = wssd("--max-clients", "128", "--max-per-ip", "0", "/chat=hub")
    clients = crowd(s, 50) + crowd(s, 50, "/chat")
    s.ended = True
    start = time.monotonic()
    s.signal(signal.SIGTERM)
    for c in clients:
        c.expect_close(1001)
        c.close()
    assert s.wait(5) == 0
    assert time.monotonic() - start < 5 * SLOW


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_of_clients_that_do_not_answer(wssd, number, tmp_path):
    """In every state: silent, in the handshake, in the head, in a file that is not read, in an echo that is not read."""
    (tmp_path / "big").write_bytes(bytes(8 << 20))
    s = wssd(plain=True, root=tmp_path)
    silent = s.open()
    connected = s.connect(False, port=s.tls_port)
    head = s.connect(True)
    head.send(b"GET / HTT")
    idle = s.connect(True)
    idle.request("GET", "/nothing")
    reader = s.connect(False)
    reader.send(wsraw.head("GET", "/big", [("Host", "localhost")]))
    stuffed = s.open(tls=False)
    peers.fill(stuffed.sock, wsraw.frame(wsraw.BINARY, bytes(60000)), quiet=0.3)
    s.ended = True
    start = time.monotonic()
    s.signal(number)
    assert s.wait(5) == 0
    assert time.monotonic() - start < 5 * SLOW
    f = silent.recv_frame()
    assert (f.opcode, f.payload[:2]) == (wsraw.CLOSE, b"\x03\xe9")
    assert connected.recv_all() == b"" and head.recv_all() == b"" and idle.recv_all() == b""


@pytest.mark.parametrize("tls", [True, False])
def test_end_while_a_close_waits_for_the_backend(wssd, tls):
    """The client closed, and its backend says neither anything nor that this is all: a Close frame comes nevertheless."""
    with peers.Backend() as backend:
        s = wssd("/s=" + backend.route, tls=tls)
        with s.open("/s") as c:
            b = backend.accept()
            c.send_frame(wsraw.CLOSE, b"\x03\xe8")
            assert peers.read_to_end(b) == (b"", "eof")
            s.ended = True
            start = time.monotonic()
            s.signal(signal.SIGTERM)
            c.expect_close({1000, 1001}, answer=False)
            c.close()
            assert s.wait(5) == 0
            assert time.monotonic() - start < 5 * SLOW


@pytest.mark.parametrize("tls", [True, False])
def test_end_while_a_client_holds_its_side_open(wssd, tls):
    """Behind the last reply nothing more is said, and its client is not waited for any longer than the others."""
    s = wssd(tls=tls)
    with s.connect() as c:
        assert c.request("GET", "/nothing", extra=[("Connection", "close")]).status == 404
        c.expect_eof()
        s.ended = True
        start = time.monotonic()
        s.signal(signal.SIGTERM)
        assert s.wait(5) == 0
        assert time.monotonic() - start > 2
    s.wait_log(r" 404 .*: server stops$", since=0)


def test_end_stops_accepting(wssd):
    s = wssd(tls=False)
    with s.open() as c:
        s.ended = True
        s.signal(signal.SIGTERM)
        assert c.recv_frame().payload[:2] == b"\x03\xe9"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", s.port), 5)
        c.try_send(wsraw.frame(wsraw.CLOSE, b"\x03\xe9"))
    assert s.wait(5) == 0


def test_end_without_clients_is_immediate(wssd):
    s = wssd()
    took = peers.Stopwatch(s)
    s.ended = True
    s.signal(signal.SIGTERM)
    s.wait_log(r"^stopped$")
    assert took() < 1 * SLOW
    assert s.wait() == 0


def test_end_asked_for_twice(wssd):
    s = wssd()
    with s.open() as c:
        s.ended = True
        s.signal(signal.SIGTERM)
        time.sleep(0.05)
        s.signal(signal.SIGTERM)
        c.expect_close(1001)
    assert s.wait(5) == 0


def test_end_names_itself_in_the_log(wssd):
    s = wssd(tls=False)
    with s.open() as c:
        s.ended = True
        s.signal(signal.SIGTERM)
        c.expect_close(1001)
    s.wait()
    assert any(re.search(r" plain /echo 1001 .*: \S", line) for line in s.log), s.log


# ---- counters


def test_counters(wssd, tmp_path):
    (tmp_path / "f").write_text("f")
    s = wssd(root=tmp_path)
    zero = s.counters()
    assert {"clients", "asleep", "backends", "accepted", "refused", "handshakes", "resumed", "requests", "upgrades",
            "frames_in", "frames_out", "bytes_in", "bytes_out", "bugs"} <= set(zero)
    assert set(zero.values()) == {0}
    with s.open() as c:
        c.send_text("four")
        c.expect_text("four")
        c.ping(b"x")
        c.expect_pong(b"x")
        one = s.counters()
        c.close_handshake()
    assert one["clients"] == one["accepted"] == one["handshakes"] == one["upgrades"] == one["requests"] == 1
    assert one["frames_in"] == 2 and one["frames_out"] == 2
    two = s.wait_counters(clients=0)
    assert two["frames_in"] == 3 and two["frames_out"] == 3
    with s.connect() as c:
        c.request("GET", "/f")
        c.request("GET", "/nothing")
    three = s.wait_counters(clients=0)
    told = [m.groups() for m in (re.search(r" in=(\d+) out=(\d+) ", line) for line in s.lines(0)) if m]
    sums = [sum(map(int, column)) for column in zip(*told)]
    assert [three["bytes_in"], three["bytes_out"]] == sums and min(sums) > 200
    assert three["requests"] == 3 and three["upgrades"] == 1 and three["accepted"] == three["handshakes"] == 2


# ---- deadlines


def trickle(c, data, pause=0.2, limit=12.0):
    """Sends a byte now and then until the server ends it; how long that took."""
    start = time.monotonic()
    for i in range(len(data)):
        if time.monotonic() - start > limit * SLOW:
            raise AssertionError("still there after %.1f s" % (time.monotonic() - start))
        try:
            c.send(data[i:i + 1])
            c.more(pause)
        except wsraw.Silence:
            continue
        except OSError:
            pass
        if c.ended:
            return time.monotonic() - start
    raise AssertionError("everything was sent")


@pytest.fixture(scope="module")
def hasty(wssd_module, tmp_path_factory):
    d = tmp_path_factory.mktemp("root")
    (d / "big").write_bytes(bytes(16 << 20))
    return wssd_module("--timeout", "1", "/chat=hub", plain=True, root=d)


def test_handshake_by_trickle(hasty):
    """The deadline counts from accept, and no byte moves it."""
    hello = wsraw.client_context()
    c = hasty.connect(hello, handshake=False)
    try:
        c.tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    data = c.out.read()
    raw = wsraw.connect(hasty.tls_port)
    assert 0.9 < trickle(raw, data) < 6 * SLOW
    hasty.wait_log(r"^127\.0\.0\.1:%d - - - in=0 out=0 secs=[\d.]+: \S" % raw.local[1])


@pytest.mark.parametrize("tls", [True, False])
def test_head_by_trickle(hasty, tls):
    c = hasty.connect(tls)
    took = trickle(c, wsraw.upgrade_head("/echo", "localhost"))
    assert 0.7 < took < 6 * SLOW


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("phase", ["connected", "idle", "half-closed"])
def test_silence(hasty, tls, phase):
    c = hasty.connect(tls) if phase != "connected" else hasty.connect(False, port=hasty.tls_port if tls else None)
    if phase != "connected":
        c.request("GET", "/nothing")
    start = time.monotonic()
    if phase == "half-closed":
        c.sock.shutdown(socket.SHUT_WR)
    assert c.recv_all(timeout=6) == b""
    assert time.monotonic() - start < 6 * SLOW
    if phase == "idle":
        assert time.monotonic() - start > 0.9
        assert c.ended in ("clean", "fin")


@pytest.mark.parametrize("tls", [True, False])
def test_keep_alive_counts_from_the_last_request(wssd, tls):
    with wssd("--timeout", "2", tls=tls).connect() as c:
        for _ in range(4):
            time.sleep(0.8)
            c.request("GET", "/nothing")


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("what", ["file", "echo"])
def test_reader_that_stopped(hasty, tls, what):
    """A write that does not move for the timeout ends the connection."""
    c = hasty.connect(tls, rcvbuf=4096)
    if what == "file":
        c.send(wsraw.head("GET", "/big", [("Host", "localhost")]))
    else:
        c.open("/echo")
        data = wsraw.frame(wsraw.BINARY, bytes(60000))
        try:
            for _ in range(2000):
                c.send(data, timeout=0.5)
        except (wsraw.Silence, OSError):
            pass
    hasty.wait_log(r"^127\.0\.0\.1:%d \S+ /\S+ \S+ .*secs=([\d.]+): \S" % c.local[1], timeout=8)


def test_slow_reader_is_not_a_stopped_one(hasty):
    """Progress, however little, moves the deadline of a write."""
    with hasty.connect(False, rcvbuf=8192) as c:
        c.send(wsraw.head("GET", "/big", [("Host", "localhost")]))
        got, start = 0, time.monotonic()
        while time.monotonic() - start < 5:
            c.more()
            got += len(c.buf)
            c.buf.clear()
            time.sleep(0.05)
        assert got > 100000 and c.ended is None


@pytest.mark.parametrize("tls", [True, False])
def test_websocket_does_not_end_by_the_timeout(hasty, tls):
    with hasty.open(tls=tls) as c:
        c.quiet(3)
        c.send_text("still here")
        c.expect_text("still here")


@pytest.mark.parametrize("tls", [True, False])
def test_close_frame_without_answer(hasty, tls):
    """RFC 6455 section 7.1.1: the server waits for the answer, but not for ever."""
    c = hasty.open(tls=tls)
    c.send(wsraw.frame(wsraw.TEXT, b"x", mask=None))
    start = time.monotonic()
    c.expect_close(1002, answer=False)
    assert time.monotonic() - start < 6 * SLOW


def test_frame_by_trickle_is_allowed(hasty):
    """A message may take its time, as long as the peer answers pings."""
    with hasty.open(tls=False) as c:
        for b in wsraw.frame(wsraw.TEXT, b"slowly"):
            c.send(bytes([b]))
            time.sleep(0.25)
        c.expect_text("slowly")


@pytest.mark.parametrize("tls", [True, False])
def test_dead_peer(wssd, tls):
    """RFC 6455 section 5.5.2: a ping that nobody answers ends the connection."""
    s = wssd("--ping", "1", "--timeout", "2", tls=tls)
    dead, living = s.open(), s.open()
    end = time.monotonic() + 5 * SLOW
    pings = 0
    f = dead.recv_frame(4)
    assert f.opcode == wsraw.PING
    while time.monotonic() < end:
        try:
            f = living.recv_frame(0.5)
        except wsraw.Silence:
            continue
        assert f.opcode == wsraw.PING
        pings += 1
        living.send_frame(wsraw.PONG, f.payload)
    assert pings >= 2
    s.wait_log(r"^127\.0\.0\.1:%d \S+ /echo 1006 .*: \S" % dead.local[1], timeout=3)
    living.send_text("alive")
    assert living.recv_message(skip_control=True) == (wsraw.TEXT, b"alive")


def test_peer_that_talks_is_not_dead(wssd):
    """Data proves life as well as a pong does, or at least pings are answered between."""
    s = wssd("--ping", "1", tls=False)
    with s.open() as c:
        for i in range(40):
            c.send_text("%d" % i)
            while True:
                f = c.recv_frame()
                if f.opcode == wsraw.PING:
                    c.send_frame(wsraw.PONG, f.payload)
                else:
                    assert f.payload == b"%d" % i
                    break
            time.sleep(0.1)


def test_no_pings(wssd):
    s = wssd("--ping", "0", tls=False)
    with s.open() as c:
        c.quiet(1.5)
        c.send_text("still here")
        c.expect_text("still here")


# ---- the log

LINE = re.compile(r"^(\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\]):(\d+) (\S+) (\S+) (\d{3,4}|-) in=(\d+) out=(\d+) "
                  r"secs=(\d+\.\d+): (\S.*)$")


def line_of(s, c):
    return LINE.match(s.wait_log(r"^\S+:%d .*" % c.local[1]).group(0))


@pytest.mark.parametrize("tls", [True, False])
def test_line_of_a_connection(hasty, tls):
    start = time.monotonic()
    c = hasty.connect(tls)
    sent = wsraw.upgrade_head("/echo?secret=1", c.host) + wsraw.frame(wsraw.TEXT, "x" * 1000) + \
        wsraw.frame(wsraw.CLOSE, b"\x03\xe8bye")
    c.send(sent)
    time.sleep(0.25)
    got = c.recv_all()
    c.close()
    m = line_of(hasty, c)
    assert m, hasty.lines()
    address, port, suite, path, status, n_in, n_out, secs, reason = m.groups()
    assert (address, int(port), path, status) == ("127.0.0.1", c.local[1], "/echo", "1000")
    assert suite.startswith("ECDHE-ECDSA-") if tls else suite == "plain"
    assert (int(n_in), int(n_out)) == (len(sent), len(got))
    assert 0.24 <= float(secs) <= time.monotonic() - start + 0.002  # from accept(2) on, in milliseconds
    assert "secret" not in m.group(0)


@pytest.mark.parametrize("request_, path, status", [
    (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "/nothing", "404"),
    (b"GET /chat HTTP/1.1\r\nHost: localhost\r\n\r\n", "/chat", "426"),
    (b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab", None, "400"),
    (b"GET /echo HTTP/1.1\nHost: localhost\n\n", None, "400"),
    (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", None, "505"),
    (b"GET /x HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 9000 + b"\r\n\r\n", None, "431"),
])
def test_line_of_a_refusal(hasty, request_, path, status):
    c = hasty.connect(True)
    c.try_send(request_)
    c.shutdown_write()
    c.recv_all()
    m = line_of(hasty, c)
    assert m.group(5) == status and (path is None or m.group(4) == path), m.group(0)


def test_one_line_for_each_connection(hasty):
    ports = set()
    for i in range(10):
        c = hasty.open(tls=i % 2 == 0)
        ports.add(c.local[1])
        c.reset() if i % 3 else c.close()
    hasty.wait_counters(clients=0)
    ends = [LINE.match(line) for line in hasty.lines()]
    ends = [int(m.group(2)) for m in ends if m and int(m.group(2)) in ports]
    assert sorted(ends) == sorted(ports)


EVIL = [b"/%0acounters: bugs=1", b"/%1b[31mred", b"/%7f%80%ff", b"/%c3%a9", b"/\x1b[2J", b"/a%0d%0ab", b"/%00", b"/" + b"%20" * 40,
        b"/%09", b"/" + b"a" * 3000, b"/ 200 in=0 out=0 secs=0.0: fine"]


def printable(s, since=0):
    bad = [line for line in s.lines(since) if not re.fullmatch(r"[ -~]*", line)]
    assert bad == []


@pytest.mark.parametrize("target", EVIL, ids=lambda t: repr(t)[2:22])
def test_path_in_the_log_is_printable(hasty, target):
    """Nobody writes a line of his own, or moves the cursor of who reads it."""
    c = hasty.connect(True)
    c.send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    c.shutdown_write()
    c.recv_all()
    m = line_of(hasty, c)
    assert m and len(m.group(0)) < 400, hasty.lines()
    assert m.group(5) in ("400", "404")
    printable(hasty)
    assert not any(line.startswith(("counters: bugs=1", "b ")) for line in hasty.lines())


@pytest.mark.parametrize("field, value", [
    ("Origin", b"https://evil\x1b[31m.example"),
    ("Origin", b"https://\xff\xfe.example"),
    ("Origin", b"https://" + b"e" * 3000),
    ("Host", b"evil\x1b[31m"),
    ("Host", b"\xff\xfe.example"),
    ("Host", b"e" * 3000),
    ("Sec-WebSocket-Protocol", b"\x07\x1b"),
    ("Sec-WebSocket-Key", b"%n%s%n\xff"),
])
def test_fields_in_the_log_are_printable(hasty, field, value):
    c = hasty.connect(False)
    c.send(wsraw.upgrade_head("/echo", c.host, changes={field: value.decode("latin-1")}))
    c.shutdown_write()
    c.recv_all()
    assert line_of(hasty, c)
    printable(hasty)


def test_refused_origin_names_the_option(wssd):
    s = wssd()
    c = s.connect()
    r = c.request("GET", "/echo", extra=["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                                         "Sec-WebSocket-Key: " + wsraw.KEY, "Origin: https://foreign.example"])
    assert r.status == 403
    c.close()
    s.wait_log(r"--origin https://foreign\.example")


def test_refused_host_names_the_option(wssd):
    s = wssd(tls=False)
    c = s.connect()
    assert c.request("GET", "/", changes={"Host": "foreign.example"}).status == 421
    c.close()
    s.wait_log(r"--host\b")


def test_repeated_refusals_are_counted(wssd):
    """A crowd at the door does not fill the disk."""
    s = wssd("--max-clients", "2", "--max-per-ip", "0", tls=False)
    inside = crowd(s, 2)
    here = s.here()
    for _ in range(60):
        turned_away(s)
    assert len(inside) == 2 and s.counters()["refused"] == 60
    assert len(s.lines(here)) < 20, "\n".join(s.lines(here))


@pytest.mark.parametrize("set_, prefix", [(True, r"<\d>"), (False, r"[^<]")])
def test_priorities_for_journald(wssd, set_, prefix):
    s = wssd(env={"JOURNAL_STREAM": "8:12345"} if set_ else {}, tls=False)
    leave(s.open())
    s.wait_counters(clients=0)
    assert [line for line in s.lines(0) if not re.match(prefix, line)] == []


def test_priorities(wssd):
    """syslog.h: 3 for errors, 4 for warnings, 6 for what happens, 7 for what only --verbose tells."""
    env = {"JOURNAL_STREAM": "8:12345"}
    s = wssd("--verbose", env=env, tls=False, preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
    leave(s.open())
    s.wait_counters(clients=0)
    for line in ("<4>descriptors may run out", "<6>listening on ", "<7>open /echo$", "<6>127.0.0.1:"):
        s.wait_log("^" + line, since=0)
    assert wssd.bare("nonsense", env=env).stderr.startswith("<3>wssd: ")


def test_verbose_says_more(wssd):
    def lines(*args):
        s = wssd(*args, tls=False)
        here = s.here()
        with s.connect() as c:
            c.request("GET", "/nothing")
            c.request("GET", "/nothing")
        s.wait_counters(clients=0)
        return len(s.lines(here))
    assert lines("--verbose") > lines()


@pytest.mark.parametrize("how", ["closed", "full"])
def test_nobody_reads_the_log(wssd, how):
    """A log that cannot be written, or that would make the writer wait, stops nobody."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    if how == "full":
        try:
            while True:
                os.write(write, b"\0" * 4096)
        except BlockingIOError:
            pass
    os.set_blocking(write, True)  # as a shell hands it over
    port = peers.unused_port()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 2)
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        os.dup2(0, 1)
        os.closerange(3, 100)
        command = conftest.WRAP + [conftest.WSSD, *powers.words(conftest.WSSD, wrap=conftest.WRAP), "--listen",
                                   "ws://127.0.0.1:%d" % port, "/echo=echo"]
        try:
            os.execvp(command[0], command)
        finally:
            os._exit(99)
    os.close(write)
    try:
        peers.until(lambda: answers(port))
        if how == "closed":
            os.close(read)
        for _ in range(5):
            assert answers(port)
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 5 * SLOW
        done = (0, 0)
        while done[0] == 0 and time.monotonic() < end:
            done = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)
        assert done == (pid, 0)
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if how == "full":
            os.close(read)


def answers(port):
    try:
        with wsraw.connect(port) as c:
            c.open("/echo").send_text("x")
            c.expect_text("x")
            c.close_handshake()
        return True
    except OSError:
        return False


def test_a_refused_second_request_has_no_path_of_the_first(hasty):
    c = hasty.connect(True)
    assert c.request("GET", "/nothing-here", {"Host": "localhost"}).status == 404
    c.send(b"GET /other HTTP/1.1\r\n\r\n")
    assert c.reply().status == 400
    c.shutdown_write()
    c.recv_all()
    assert "/nothing-here" not in line_of(hasty, c).group(0)


def test_a_long_subprotocol_never_cuts_the_reply(wssd):
    long, short = "p" * 600, "mqtt"
    with wssd("/x=echo,protocol=%s|%s" % (long, short), tls=False, plain=True).connect() as c:
        c.send(wsraw.upgrade_head("/x", c.host, changes={"Sec-WebSocket-Protocol": "%s, %s" % (long, short)}))
        r = c.reply()
        assert r.status == 101 and r.get("Sec-WebSocket-Protocol") == short
        c.send_text("whole")
        c.expect_text("whole")


@pytest.mark.parametrize("attribute, option", [("", "--origin "), (",origin=https://ours.example", "origin=")])
def test_a_foreign_origin_is_told_what_would_allow_it(wssd, attribute, option):
    s = wssd("/x=echo" + attribute, tls=False, plain=True)
    with s.connect() as c:
        c.send(wsraw.upgrade_head("/x", c.host, changes={"Origin": "https://theirs.example"}))
        assert c.reply().status == 403
    s.wait_log(r": foreign Origin: %shttps://theirs\.example would allow it$" % option)


def test_how_credentials_and_authorities_count(wssd, certs, tmp_path):
    """As the README says: a file counts once for each that names it; 1,024 lines, and 72 certificates with our own."""
    people, cas = tmp_path / "people", tmp_path / "cas.pem"
    with open(certs.cert) as f:
        ca = f.read()
    for lines, status in ((512, 0), (513, 1)):
        people.write_text("".join("%064x\n" % i for i in range(lines)))
        r = wssd.run("--check", "--auth", people, "/a=echo,auth=%s" % people)
        assert r.returncode == status and (status == 0 or "%s:512: one too many" % people in r.stderr), r.stderr
    for count, listeners, status in ((71, 1, 0), (72, 1, 1), (35, 2, 0), (36, 2, 1)):
        cas.write_text(ca * count)
        r = wssd.run("--check", "--client-ca", cas, listen=["wss://127.0.0.1:0"] * listeners)
        assert r.returncode == status and (status == 0 or "one too many" in r.stderr), (count, listeners, r.stderr)


def test_certificates_of_all_files_have_a_limit(wssd, certs, tmp_path):
    """128 KiB with their names: what does not fit is said, not cut."""
    big = certs.make("ec", name="big", san=",".join("DNS:%s%d.example" % ("d" * 40, i) for i in range(200)))
    chain, cas = tmp_path / "chain.pem", tmp_path / "cas.pem"
    with open(certs.cert) as f, open(big.cert) as g:
        own, large = f.read(), g.read()
    for count, status in ((1, 0), (6, 1)):
        chain.write_text(own + large * 6)
        cas.write_text(large * count)
        assert len(own + large * 6) < 131072
        r = wssd.run("--check", "--cert", chain, "--key", certs.key, "--client-ca", cas)
        assert r.returncode == status, r.stderr
        assert status == 0 or re.fullmatch(r"wssd: cannot load: %s:\d+: certificate: too large\n" % cas, r.stderr), r.stderr
