"""Least power: what the process may still do once it serves, and how it gave up the rest.

A shim (faults/misdeed.c) makes the server do, from within its loop, what nobody should be able to make it do. The unit
tests (unit/main.c) run the filter's program over every number of a system call, and confine() with each of its steps failing."""

import base64
import grp
import hashlib
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

import pytest

import conftest
import faulty
import peers
import pki
import wsraw

SLOW = wsraw.SLOW
TOP = conftest.TOP
SHIM = os.path.join(TOP, "test", "faults", "misdeed.c")
NOBODY = 65534
pytestmark = [pytest.mark.plain, pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")]


def deeds():
    """{section: names} as the shim has them on this machine."""
    with open(SHIM) as f:
        table = f.read().partition("deeds[] = {")[2].partition("\n};")[0]
    parts = re.split(r"/\* (what must end it|sockets of backends|what may be|what fails)\b.*\*/", table)
    sections = {name: re.findall(r'^\t\{ "([\w-]+)"', text, re.M) for name, text in zip(parts[1::2], parts[2::2])}
    if os.uname().machine != "x86_64":
        sections["what must end it"].remove("x32-read")
    return sections


DEEDS = deeds()


@pytest.fixture(scope="session")
def misdeed(tmp_path_factory):
    shim = str(tmp_path_factory.mktemp("misdeed") / "misdeed.so")
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", shim, SHIM], check=True)
    return shim


@pytest.fixture
def home():
    """A directory that everybody can enter, with a short name for sockets: those of pytest are of root alone."""
    d = tempfile.mkdtemp(prefix="wssd-home-", dir="/tmp")
    os.chmod(d, 0o755)
    yield d
    shutil.rmtree(d)


def run(*args, user="root", timeout=10, **env):
    """wssd to its end, which SIGTERM brings after a while if it does not end by itself: (status, lines of the log)."""
    words = [conftest.WSSD] + (["--user", user] if user else []) + [str(a) for a in args]
    e = dict(os.environ, **env)
    e.pop("JOURNAL_STREAM", None)
    p = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=e)
    try:
        return p.wait(timeout * SLOW), p.stderr.read().decode().splitlines()
    finally:
        p.kill()
        p.wait()
        p.stderr.close()


def misbehaves(shim, deed, *args):
    """What comes of a misdeed: -SIGSYS, or the errno that the server saw and went on."""
    words = [conftest.WSSD, "--user", "root", "--listen", "ws://127.0.0.1:0", *args]
    p = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                         env=dict(os.environ, LD_PRELOAD=shim, MISDEED=deed), encoding="utf-8")
    try:
        found = {}
        for line in p.stderr:
            m = re.match(r"misdeed: ([\w-]+): (-?\d+)$", line)
            if m and m.group(1) == "end":
                return found if deed == "all" else found[deed]
            if m:
                found[m.group(1)] = int(m.group(2))
        return p.wait(5 * SLOW)
    finally:
        p.kill()
        p.wait()
        p.stderr.close()


def status(server, *names):
    with open("/proc/%d/status" % server.pid) as f:
        fields = dict(line.rstrip("\n").split(":", 1) for line in f)
    return [fields[n].split() for n in names]


# ---- the filter


@pytest.mark.parametrize("deed", DEEDS["what must end it"])
def test_a_misdeed_ends_it(misdeed, deed):
    assert misbehaves(misdeed, deed, "/echo=echo") == -signal.SIGSYS


def test_without_the_filter_each_of_them_is_done(misdeed):
    """So it is the filter that ends it."""
    found = misbehaves(misdeed, "all", "--no-sandbox", "/echo=echo")
    assert sorted(found) == sorted(set(sum(DEEDS.values(), [])) - {"vfork"})
    for deed in "open-write open-create netlink fork mprotect-execute mmap-execute memfd dup".split():
        assert found[deed] == 0, deed


@pytest.mark.parametrize("deed", DEEDS["what may be"])
def test_what_the_loop_needs_may_be(misdeed, deed):
    assert misbehaves(misdeed, deed, "/echo=echo") == 0


@pytest.mark.parametrize("deed", DEEDS["what fails"])
def test_there_is_no_more_memory(misdeed, deed):
    assert misbehaves(misdeed, deed, "/echo=echo") == 12


ROUTES = {"/echo=echo": "", "/hub=hub": "", "/t=tcp:127.0.0.1:9": "inet connect", "/t=tcp:[::1]:9": "inet6 connect",
          "/u=unix:/nowhere": "unix connect", "/u=seqpacket:/nowhere": "unix connect"}


@pytest.mark.parametrize("route", ROUTES)
def test_sockets_only_of_families_that_routes_name(misdeed, route):
    for deed in DEEDS["sockets of backends"]:
        result = misbehaves(misdeed, deed, route)
        assert (result != -signal.SIGSYS) == (deed in ROUTES[route].split()), (deed, result)


def test_both_families(misdeed):
    for deed in DEEDS["sockets of backends"]:
        assert (misbehaves(misdeed, deed, "/a=unix:/nowhere", "/b=tcp:127.0.0.1:9") == -signal.SIGSYS) == (deed == "inet6")


@pytest.mark.parametrize("error", [1, 13, 22, 38])
def test_a_kernel_without_filters(wssd, misdeed, error):
    """qemu-user says EINVAL, old kernels ENOSYS or EINVAL, a sandbox of others EPERM or EACCES: a line, and it goes on."""
    s = wssd(env={"LD_PRELOAD": misdeed, "MISDEED": "refuse=%d" % error})
    s.wait_log(r"^system calls are not filtered: %s$" % os.strerror(error))
    assert status(s, "Seccomp", "NoNewPrivs") == [["0"], ["1"]]
    s.answer()


def test_stop_and_continue(wssd):
    """The kernel goes on with poll by a call of its own."""
    s = wssd()
    for _ in range(3):
        s.signal(signal.SIGSTOP)
        time.sleep(0.05)
        s.signal(signal.SIGCONT)
        s.answer()


def limits(server):
    with open("/proc/%d/limits" % server.pid) as f:
        text = f.read()
    return [re.search(r"^Max %s\s+(\S+)\s+(\S+)" % name, text, re.M).groups() for name in ("processes", "core file size")]


def test_limits(wssd):
    s = wssd()
    assert status(s, "Seccomp", "NoNewPrivs") == [["2"], ["1"]]
    assert limits(s) == [("0", "0"), ("0", "0")]


def test_no_sandbox(wssd, home):
    """Leaves out what hinders a debugger of the same user, or a dump, and nothing else."""
    s = wssd("--user", NOBODY, "--no-sandbox", tls=False)
    assert os.stat("/proc/%d/maps" % s.pid).st_uid == NOBODY  # dumpable: whoever becomes another user is not, by itself
    assert status(s, "Seccomp", "NoNewPrivs", "Uid") == [["0"], ["1"], [str(NOBODY)] * 4]
    assert ("0", "0") not in limits(s)


# ---- everything under the filter, with other C libraries


CHECKED = """#include <string.h>
void *__memcpy_chk(void *to, const void *from, size_t n, size_t max) { return n > max ? 0 : memcpy(to, from, n); }
void *__memset_chk(void *to, int c, size_t n, size_t max) { return n > max ? 0 : memset(to, c, n); }
"""


@pytest.fixture(scope="session", params=["dynamic", "static", "musl"])
def built(request, tmp_path_factory):
    """wssd as it is; static; static with musl, and what glibc gave to Debian's libbearssl.a."""
    if request.param == "dynamic":
        return conftest.WSSD
    d = tmp_path_factory.mktemp(request.param)
    command = ["gcc" if request.param == "static" else "musl-gcc", "-static", "-std=c11", "-D_GNU_SOURCE", "-O2",
               "-D_FILE_OFFSET_BITS=64", "-D_TIME_BITS=64", '-DWSSD_BUILD="test"', "-o", str(d / "wssd")]
    command += [os.path.join(TOP, f) for f in ("main.c", "tls.c", "http.c", "ws.c")]
    if request.param == "musl":
        os.mkdir(d / "include")
        for name in ("bearssl.h", "bearssl"):
            os.symlink("/usr/include/" + name, d / "include" / name)
        (d / "checked.c").write_text(CHECKED)
        command += ["-isystem", str(d / "include"), str(d / "checked.c")]
    subprocess.run(command + [subprocess.check_output(["gcc", "-print-file-name=libbearssl.a"], text=True).strip()], check=True)
    return str(d / "wssd")


def test_every_kind_of_route(wssd, built, home):
    """All that the loop can do, as nobody: routes, files, client certificates, rest, reload, refusals, the end."""
    p = pki.Pki(home)
    server, ca = p.server("server"), p.ca("ca")
    device = p.client("device", issuer=ca)
    p.write("people", "%064x anna\n" % 7)
    os.mkdir(p.path("www"))
    p.write("www/page.html", "<p>here\n")
    a = faulty.Backends(home).addresses
    for name in ("unix", "seqpacket"):
        os.chmod(a[name], 0o666)
    os.chown(server.key, NOBODY, NOBODY)
    s = wssd("--user", "nobody", "--auth", p.path("people"), "/private=echo,auth=" + p.path("people"), "/hub=hub",
             "/tcp=tcp:" + a["tcp"], "/unix=unix:" + a["unix"], "/seqpacket=seqpacket:" + a["seqpacket"],
             "/nobody=unix:" + p.path("nobody"), "/open=echo", "--ping", "3",
             listen=["wss://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0,client-ca=" + ca.cert], cert=server,
             root=p.path("www"), binary=built)
    assert status(s, "Seccomp", "Uid") == [["2"], [str(NOBODY)] * 4]
    for round_ in range(2):
        for tls in (True, False):
            for path in ("/echo", "/tcp", "/unix", "/seqpacket"):
                with s.open(path, tls) as c:
                    c.send_binary(b"x" * 3000)
                    c.expect_binary(b"x" * 3000)
                    time.sleep(0.01)
                    c.close_handshake()
            with s.open("/tcp", tls) as c:
                c.reset()
            with s.open("/hub", tls) as one, s.open("/hub", tls) as other:
                one.send_text("to the other")
                other.expect_text("to the other")
            with s.connect(tls) as c:
                assert c.request("GET", "/page.html").status == 401
            with s.connect(tls) as c:
                assert c.request("GET", "/private").status == 401
            with s.connect(tls) as c:
                c.send(wsraw.upgrade_head("/nobody"))
                assert c.reply().status == 502
        with wsraw.connect(s.ports[2], wsraw.client_context(certfile=device.cert, keyfile=device.key)) as c:
            c.open("/echo").send_text("device")
            c.expect_text("device")
        here = s.here()
        s.hup()
        s.wait_log("^reloaded$", since=here)
    with s.open("/echo") as c:      # it goes to rest, is asked whether it is there, answers, wakes and leaves
        s.wait_counters(asleep=1)
        opcode, data = c.recv_message()
        assert opcode == wsraw.PING
        c.send_frame(wsraw.PONG, data)
        c.send_text("awake")
        c.expect_text("awake")
        c.close_handshake()


def test_files_under_the_filter(wssd, built, home):
    """Pages, directories, ETags, what is not there, and a file that is replaced."""
    os.mkdir(os.path.join(home, "sub"))
    for name in ("page.html", "sub/index.html"):
        with open(os.path.join(home, name), "w") as f:
            f.write("<p>here\n" * 5000)
    s = wssd("--user", "nobody", root=home, tls=False, binary=built)
    with s.connect() as c:
        for path, answer in (("/page.html", 200), ("/sub", 301), ("/sub/", 200), ("/none", 404), ("/../etc/passwd", 404)):
            assert c.request("GET", path).status == answer, path
        tag = c.request("HEAD", "/page.html").get("ETag")
        assert c.request("GET", "/page.html", extra=[("If-None-Match", tag)]).status == 304


def test_as_many_may_wait_whatever_the_library(wssd, built):
    """Who comes in a burst waits for his turn to be accepted: musl's SOMAXCONN is 128, and who does not fit waits for seconds."""
    s = wssd("--user", "nobody", tls=False, binary=built)
    text = subprocess.check_output(["ss", "-Hltn", "sport = :%d" % s.port], encoding="utf-8")
    with open("/proc/sys/net/core/somaxconn") as f:
        assert [line.split()[2] for line in text.splitlines()] == [str(min(4096, int(f.read())))]


# ---- user and root directory


NAMES = pwd.getpwuid(NOBODY).pw_name, grp.getgrgid(NOBODY).gr_name


@pytest.mark.parametrize("words,uid,gid", [
    (NAMES[0], NOBODY, NOBODY), (":".join(NAMES), NOBODY, NOBODY), ("65534", NOBODY, NOBODY), ("4711", 4711, 4711),
    ("4711:4712", 4711, 4712), ("4711:daemon", 4711, grp.getgrnam("daemon").gr_gid), ("games", 5, pwd.getpwnam("games").pw_gid),
    ("nobody:0", NOBODY, 0), ("4294967294", 4294967294, 4294967294)])
def test_user(wssd, words, uid, gid):
    s = wssd("--user", words, tls=False, preexec=lambda: os.setgroups([0, 1, 2]))
    assert status(s, "Uid", "Gid", "Groups") == [[str(uid)] * 4, [str(gid)] * 4, []]
    assert status(s, "CapEff", "CapPrm", "CapInh", "CapAmb") == [["0" * 16]] * 4
    assert status(s, "Seccomp", "NoNewPrivs") == [["2"], ["1"]]
    assert os.stat("/proc/%d/maps" % s.pid).st_uid == 0  # not dumpable: it is nobody's
    s.answer()


@pytest.mark.parametrize("words", ["root", "0", "root:root", "0:0"])
def test_root_stays_root_if_that_is_said(wssd, words):
    s = wssd("--user", words, tls=False)
    assert status(s, "Uid", "Gid", "Seccomp") == [["0"] * 4, ["0"] * 4, ["2"]]


WRONG = {"nosuchuser": "--user nosuchuser: is unknown", "nobody:nosuchgroup": "--user :nosuchgroup: is unknown",
         "": "--user : is unknown", ":": "--user : is unknown", "nobody:": "--user :: is unknown", "-1": "--user -1: is unknown",
         "4294967295": "--user 4294967295: is unknown", "4294967296": "--user 4294967296: is unknown",
         "0x10": "--user 0x10: is unknown", "nobody:-1": "--user :-1: is unknown", "+": "--user +: is unknown"}


@pytest.mark.parametrize("words", WRONG)
@pytest.mark.parametrize("check", [0, 1])
def test_wrong_user(words, check):
    assert run("--listen", "ws://127.0.0.1:0", *["--check"][:check], "--user", words, "/echo=echo", user=None) == (
        1, ["wssd: " + WRONG[words]])


@pytest.mark.parametrize("check", [0, 1])
def test_root_must_name_somebody(check):
    assert run("--listen", "ws://127.0.0.1:0", *["--check"][:check], user=None) == (
        2, ["wssd: --user: is missing: root must name another one, or itself"])


def as_nobody(*args):
    """A start by somebody who is not root: (status, lines)."""
    return run_words(["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", conftest.WSSD, *args])


def run_words(words):
    r = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=10 * SLOW,
                       encoding="utf-8")
    return r.returncode, r.stderr.splitlines()


@pytest.fixture
def binary(home):
    """One that nobody can execute, in every sense."""
    shutil.copy(conftest.WSSD, home)
    return os.path.join(home, "wssd")


def test_somebody_else_needs_no_user(home, binary):
    start = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", binary, "--listen",
             "ws://127.0.0.1:0", "--check", "/echo=echo"]
    for words in ([], ["--user", "nobody"], ["--user", "65534:65534"]):
        assert run_words(start + words) == (0, [])
    for words in (["--user", "root"], ["--user", "games"], ["--user", "nobody:root"], ["--user", "0"]):
        assert run_words(start + words) == (1, ["wssd: cannot become that user: Operation not permitted"])
    assert run_words(start + ["--chroot", home]) == (1, ["wssd: --chroot %s: Operation not permitted" % home])


def test_somebody_else_is_confined_as_well(wssd, binary):
    s = wssd("--user", "nobody", tls=False, binary=binary, wrap=[], preexec=lambda: (os.setgroups([]), os.setresgid(
        NOBODY, NOBODY, NOBODY), os.setresuid(NOBODY, NOBODY, NOBODY)))
    assert status(s, "Uid", "Seccomp", "NoNewPrivs") == [[str(NOBODY)] * 4, ["2"], ["1"]]
    assert limits(s) == [("0", "0"), ("0", "0")]


def test_a_port_of_root(wssd):
    """Ports below 1024 are opened before the user changes."""
    for port in range(1023, 900, -1):
        with socket.socket() as s:
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
                break
            except OSError:
                pass
    s = wssd("--user", "nobody", listen=["ws://127.0.0.1:%d" % port])
    assert s.port == port
    s.answer()


# ---- reload


def renew(place, pair, owner):
    """As ACME clients do: both are written beside the old ones and renamed."""
    for name, file in (("cert.pem", pair.cert), ("key.pem", pair.key)):
        shutil.copy(file, os.path.join(place, name + ".new"))
        os.chmod(os.path.join(place, name + ".new"), 0o600 if name == "key.pem" else 0o644)
        os.chown(os.path.join(place, name + ".new"), owner, owner)
        os.rename(os.path.join(place, name + ".new"), os.path.join(place, name))


def presents(s, pair):
    with s.connect(True) as c:
        shown = c.sock.getpeercert(True) if hasattr(c.sock, "getpeercert") else c.tls.getpeercert(True)
    with open(pair.cert) as f:
        return shown == ssl.PEM_cert_to_DER_cert(f.read())


@pytest.fixture
def jail(home, tmp_path):
    """A root directory with all that a server opens; its socket is served from outside. (directory, two pairs)."""
    p = pki.Pki(tmp_path)
    pairs = [p.server("one"), p.server("two", "rsa2048")]
    for name in ("etc", "www", "run"):
        os.mkdir(os.path.join(home, name))
    with open(os.path.join(home, "www", "index.html"), "w") as f:
        f.write("<p>inside\n")
    ca = p.ca("ca")
    shutil.copy(ca.cert, os.path.join(home, "etc", "ca.pem"))
    with open(os.path.join(home, "etc", "people"), "w") as f:
        f.write("%064x anna\n" % 7)
    renew(os.path.join(home, "etc"), pairs[0], NOBODY)
    return home, pairs, p.client("device", issuer=ca)


def test_chroot(wssd, jail, tmp_path):
    """Certificate, key, CAs, credentials, pages and sockets are those inside; the configuration is read outside."""
    home, (one, two), device = jail
    a = faulty.Backends(os.path.join(home, "run")).addresses
    for name in ("unix", "seqpacket"):
        os.chmod(a[name], 0o666)
    conf = tmp_path / "wssd.conf"
    conf.write_text("listen wss://127.0.0.1:0\nlisten wss://127.0.0.1:0,client-ca=/etc/ca.pem\nuser nobody\n"
                    "chroot %s\ncert /etc/cert.pem\nkey etc/key.pem\nroot /www\n/echo=echo\n/unix=unix:/run/unix.sock\n"
                    "/packets=seqpacket:/run/seqpacket.sock\n/private=echo,auth=/etc/people\n/gone=unix:/etc/passwd\n" % home)
    s = wssd("--config", conf, listen=[], nlisten=2, echo=False, probe="/echo")
    assert os.readlink("/proc/%d/root" % s.pid) == os.readlink("/proc/%d/cwd" % s.pid) == home
    assert status(s, "Uid", "Seccomp") == [[str(NOBODY)] * 4, ["2"]]
    for path in ("/unix", "/packets"):
        with s.open(path) as c:
            c.send_binary(b"through")
            c.expect_binary(b"through")
    with s.connect() as c:
        assert c.request("GET", "/").body == b"<p>inside\n"
        assert c.request("GET", "/index.html").status == 200
    with s.connect() as c:
        c.send(wsraw.upgrade_head("/gone"))
        assert c.reply().status == 502
    with wsraw.connect(s.ports[1], wsraw.client_context(certfile=device.cert, keyfile=device.key)) as c:
        c.open("/echo").send_text("device")
        c.expect_text("device")
    assert presents(s, one)
    renew(os.path.join(home, "etc"), two, NOBODY)
    here = s.here()
    s.hup()
    s.wait_log("^reloaded$", since=here)
    assert presents(s, two)


def test_a_key_that_only_root_reads(wssd, jail):
    """It serves, warns at the start, and keeps what it has at a reload, until the key is the user's."""
    home, (one, two), _ = jail
    etc = os.path.join(home, "etc")
    renew(etc, one, 0)
    s = wssd("--user", "nobody", "--cert", etc + "/cert.pem", "--key", etc + "/key.pem")
    wrong = r"%s/key.pem:1: private key: Permission denied$" % etc
    s.wait_log("^a reload will be refused: " + wrong)
    assert presents(s, one)
    renew(etc, two, 0)
    s.hup()
    s.wait_log("^reload refused: " + wrong)
    assert presents(s, one)
    renew(etc, two, NOBODY)
    s.hup()
    s.wait_log("^reloaded$")
    assert presents(s, two)


def test_a_key_that_the_user_reads_needs_no_warning(wssd, jail):
    home, (one, _), _ = jail
    s = wssd("--user", "nobody", "--cert", home + "/etc/cert.pem", "--key", home + "/etc/key.pem")
    assert not [line for line in s.lines(0) if "reload" in line]
    assert presents(s, one)


@pytest.mark.parametrize("what", ["none", "a file"])
def test_wrong_chroot(home, what):
    where = os.path.join(home, "x")
    if what == "a file":
        open(where, "w").close()
    assert run("--listen", "ws://127.0.0.1:0", "--chroot", where) == (
        1, ["wssd: --chroot %s: %s" % (where, "No such file or directory" if what == "none" else "Not a directory")])


def test_check_looks_inside(jail):
    """--check tests what a start would: the paths inside, the user, the reload."""
    home, _, _ = jail
    words = ["--listen", "wss://127.0.0.1:0", "--chroot", home, "--cert", "/etc/cert.pem", "--check", "/echo=echo"]
    assert run(*words, "--key", "/etc/key.pem", user="nobody") == (0, [])
    assert run(*words, "--key", home + "/etc/key.pem", user="nobody") == (
        1, ["wssd: cannot load: %s/etc/key.pem:1: private key: No such file or directory" % home])
    os.chown(home + "/etc/key.pem", 0, 0)
    assert run(*words, "--key", "/etc/key.pem", user="nobody") == (
        0, ["a reload will be refused: /etc/key.pem:1: private key: Permission denied"])


# ---- what stays in memory


def secrets(pair):
    """What a private key is made of, as bytes, and lines of its file."""
    text = subprocess.check_output(["openssl", "pkey", "-in", pair.key, "-noout", "-text"]).decode()
    parts = [bytes.fromhex(re.sub(r"[\s:]", "", m)).lstrip(b"\0") for m in re.findall(
        r"^(?:priv|prime1|prime2|exponent1|exponent2|coefficient):\n((?:    [\da-f:]+\n)+)", text, re.M)]
    with open(pair.key) as f:
        lines = [line.strip().encode() for line in f if not line.startswith("-")]
    return parts, [line[8:40] for line in lines]


@pytest.mark.parametrize("kind", ["ec256", "rsa2048"])
def test_a_key_is_in_one_place(wssd, jail, tmp_path, kind):
    """Where BearSSL signs with it, and nowhere else, whatever was loaded and served; of an old one nothing is left."""
    home, _, _ = jail
    p, etc = pki.Pki(tmp_path), os.path.join(home, "etc")
    pairs = [p.server("first-" + kind, kind), p.server("second-" + kind, kind)]
    renew(etc, pairs[0], NOBODY)
    s = wssd("--user", "nobody", "--cert", etc + "/cert.pem", "--key", etc + "/key.pem")
    for turn in range(3):
        for other in range(2):
            parts, lines = secrets(pairs[other])
            wanted = 1 if other == turn % 2 else 0
            assert len(parts) in (1, 5) and len(lines) > 1
            assert [peers.residues(s.pid, x) for x in parts] == [wanted] * len(parts)
            assert [peers.residues(s.pid, x) for x in lines] == [0] * len(lines)
        for _ in range(3):
            s.answer()
        renew(etc, pairs[(turn + 1) % 2], NOBODY)
        here = s.here()
        s.hup()
        s.wait_log("^reloaded$", since=here)


def test_a_credential_is_not_kept(wssd, tmp_path):
    """Neither what came in nor what the answer said to the browser, once the connection is closed."""
    password = "anna:" + os.urandom(32).hex()
    people = tmp_path / "people"
    people.write_text(hashlib.sha256(password.encode()).hexdigest() + " anna\n")
    (tmp_path / "index.html").write_text("<p>here\n")
    basic = base64.b64encode(password.encode()).decode()
    s = wssd("--auth", people, root=tmp_path)
    with s.connect() as c:
        assert c.request("GET", "/", extra=[("Authorization", "Basic " + basic)]).status == 200
    s.wait_counters(clients=0)
    for what in (password, basic, basic[:40], basic[-40:]):
        assert peers.residues(s.pid, what.encode()) == 0
