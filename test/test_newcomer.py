"""The commands of somebody who has just cloned: make, make run, make install, make clean, make help."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

import peers
import wsraw

SLOW = wsraw.SLOW
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def environment(**more):
    """What make gets from a login, not from the make that runs these tests."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "WSSD", "PYTEST"))}
    env.update(more)
    return env


def run(*command, cwd, ok=True, **env):
    r = subprocess.run([str(c) for c in command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, env=environment(**env), timeout=100 * SLOW)
    text = r.stdout.decode(errors="replace")
    assert not ok or r.returncode == 0, text
    return text if ok else (r.returncode, text)


@pytest.fixture
def clone(tmp_path):
    """A clone of what is committed."""
    if not os.path.exists(os.path.join(TOP, ".git")):
        pytest.fail("this is no clone of the repository", pytrace=False)
    run("git", "clone", "-q", "--no-hardlinks", TOP, tmp_path / "wssd", cwd=tmp_path)
    return tmp_path / "wssd"


FAST = "CFLAGS=-O0 -fPIE"  # where it is not the compiler that is looked at


def untracked(clone):
    return run("git", "status", "--porcelain", "--untracked-files=all", cwd=clone)


class Run:
    """`make run` until it printed where it listens."""

    def __init__(self, clone, *settings):
        self.file = clone.parent / "output"
        with open(self.file, "wb") as out:
            self.proc = subprocess.Popen(["make", "run"] + list(settings), cwd=clone, stdin=subprocess.DEVNULL, stdout=out,
                                         stderr=subprocess.STDOUT, env=environment(), start_new_session=True)
        end = time.monotonic() + 100 * SLOW
        while not re.search(r"Open +https://\S+", self.text()) or "Ctrl-C" not in self.text():
            assert self.proc.poll() is None and time.monotonic() < end, self.text()
            time.sleep(0.1)
        self.url = re.search(r"Open +(https://\S+)", self.text()).group(1)

    def text(self):
        return self.file.read_text(errors="replace")

    def server(self):
        """The pid of the server below this make."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/stat" % pid) as f:
                    name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
                if name == "wssd" and os.getsid(int(pid)) == self.proc.pid:
                    return int(pid)
            except OSError:         # it has ended meanwhile, as those of other tests do
                continue
        return None

    def end(self):
        """Ctrl-C at a terminal reaches all of its processes."""
        if self.proc.poll() is None:
            os.killpg(self.proc.pid, signal.SIGINT)
        try:
            self.proc.wait(10 * SLOW)
        except subprocess.TimeoutExpired:
            os.killpg(self.proc.pid, signal.SIGKILL)
            self.proc.wait()
            raise


def test_make_run(clone):
    """Builds, makes a certificate, serves the page, the echo and the hub, and leaves nothing that git would see; the next
    time it listens where it is told to, with the certificate that the browser accepted."""
    r = Run(clone, "PORT=0")
    try:
        server = r.server()
        assert server
        port = int(re.fullmatch(r"https://localhost:(\d+)/", r.url).group(1))
        page = subprocess.run(["curl", "-q", "-sS", "--cacert", clone / "run" / "cert.pem", r.url], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=20 * SLOW)
        assert page.returncode == 0, page.stderr
        assert page.stdout == (clone / "dist" / "www" / "index.html").read_bytes()
        assert os.stat(clone / "run" / "key.pem").st_mode & 0o077 == 0
        with wsraw.connect(port, wsraw.client_context(str(clone / "run" / "cert.pem"))) as c:
            c.open("/echo").send_text("new here")
            c.expect_text("new here")
            c.close_handshake()
        with wsraw.connect(port, True) as a, wsraw.connect(port, True) as b:
            a.open("/chat")
            b.open("/chat")
            a.send_text("anybody?")
            b.expect_text("anybody?")
        assert "another machine" in r.text()
        assert untracked(clone) == ""
        first = (clone / "run" / "cert.pem").read_bytes()
    finally:
        r.end()
    peers.until(lambda: not os.path.exists("/proc/%d" % server))
    port = peers.unused_port()
    r = Run(clone, "PORT=%d" % port, "LISTEN=127.0.0.1")
    try:
        assert r.url == "https://localhost:%d/" % port
        assert (clone / "run" / "cert.pem").read_bytes() == first
        with wsraw.connect(port, True) as c:
            c.request("GET", "/")
        os.kill(r.server(), signal.SIGTERM)
        r.proc.wait(10 * SLOW)
    finally:
        r.end()
    assert r.proc.returncode == 0, r.text()


def test_make_alone_installs_nothing(clone, tmp_path):
    """`make` needs a compiler and BearSSL: it works with neither apt-get nor sudo nor Python nor git in the path."""
    few = tmp_path / "bin"
    few.mkdir()
    for name in "sh cc gcc ld as make test echo date rm mkdir cp".split():
        where = shutil.which(name)
        if where:
            os.symlink(where, few / name)
    shutil.rmtree(clone / ".git")
    run("make", FAST, cwd=clone, PATH=str(few))
    assert os.access(clone / "wssd", os.X_OK) and os.access(clone / "wssd-selfsign", os.X_OK)


def test_make_does_nothing_twice(clone):
    run("make", FAST, cwd=clone)
    assert re.search(r"Nothing to be done|up to date", run("make", FAST, cwd=clone))
    time.sleep(0.01)
    os.utime(clone / "ws.h")
    assert len(re.findall(r" -c ", run("make", "-n", FAST, cwd=clone))) == 4


def test_make_honours_settings(clone, tmp_path):
    text = run("make", "-n", "CC=my-cc", "CFLAGS=-my-cflags", "LDFLAGS=-my-ldflags", cwd=clone)
    lines = [line for line in text.splitlines() if "my-cc" in line]
    assert len(lines) == 6 and all("-my-cflags" in line for line in lines)
    assert len([line for line in lines if "-my-ldflags" in line]) == 2
    assert "FORTIFY" not in text
    (clone / "config.mk").write_text("CC = other-cc\nPREFIX = /opt/x\n")
    assert "other-cc" in run("make", "-n", cwd=clone)
    assert untracked(clone) == ""


@pytest.mark.parametrize("kind", ["tree", "prefix"])
def test_make_with_another_bearssl(clone, tmp_path, kind):
    """A source tree with build/libbearssl.a and inc/, or a prefix with include/ and lib/."""
    other = tmp_path / "bearssl"
    inc, lib = ("inc", "build") if kind == "tree" else ("include", "lib")
    (other / inc).mkdir(parents=True)
    (other / lib).mkdir()
    headers = "/usr/include/bearssl"
    for f in os.listdir(headers):
        shutil.copy(os.path.join(headers, f), other / inc / f)
    (other / inc / "bearssl.h").write_text(open(headers + "/bearssl.h").read().replace('"bearssl/', '"')
                                           if os.path.exists(headers + "/bearssl.h")
                                           else open("/usr/include/bearssl.h").read().replace("bearssl/", ""))
    archive = subprocess.run(["cc", "-print-file-name=libbearssl.a"], stdout=subprocess.PIPE).stdout.decode().strip()
    shutil.copy(archive, other / lib / "libbearssl.a")
    text = run("make", FAST, "BEARSSL=%s" % other, cwd=clone)
    assert str(other) in text
    needed = run("ldd", clone / "wssd", cwd=clone)
    assert "bearssl" not in needed, needed


def test_make_install_and_clean(clone, tmp_path):
    """It is installed where DESTDIR and PREFIX say, and nothing is left after clean."""
    run("make", FAST, cwd=clone)
    root = tmp_path / "root"
    run("make", "install", FAST, "DESTDIR=%s" % root, "PREFIX=/usr", cwd=clone)
    there = {os.path.relpath(os.path.join(d, f), root) for d, _, fs in os.walk(root) for f in fs}
    assert {"usr/sbin/wssd", "usr/sbin/wssd-selfsign", "usr/share/wssd/www/index.html"} <= there
    assert run(root / "usr/sbin/wssd", "--version", cwd=tmp_path).startswith("wssd ")

    run("make", "clean", cwd=clone)
    assert run("git", "status", "--porcelain", "--ignored", cwd=clone) == ""


def test_make_help_names_each_target(clone):
    text = run("make", "help", cwd=clone)
    phony = " ".join(re.findall(r"^\.PHONY: (.*)$", (clone / "Makefile").read_text(), re.M)).split()
    assert len(phony) > 10
    assert [t for t in phony if t not in ("all", "help") and "make " + t not in text] == []


def test_install_says_what_it_installs(tmp_path):
    """With an apt-get that only tells what it was asked for."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, body in (("apt-get", 'echo "apt-get $*"'), ("dpkg-query", "exit 1"), ("id", "echo 0")):
        (bin_ / name).write_text("#!/bin/sh\n%s\n" % body)
        (bin_ / name).chmod(0o755)
    path = "%s:%s" % (bin_, os.environ["PATH"])
    text = run("sh", "test/install", "run", cwd=TOP, PATH=path)
    assert re.search(r"^installing with apt-get: libbearssl-dev$", text, re.M)
    assert re.search(r"^apt-get install .*\blibbearssl-dev$", text, re.M)
    assert "pytest" not in text
    assert "python3-pytest" in run("sh", "test/install", "run", "test", cwd=TOP, PATH=path)
    assert run("sh", "test/install", "run", cwd=TOP, PATH=path, BEARSSL="/somewhere") == ""


def test_install_uses_sudo_unless_root(tmp_path):
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, body in (("apt-get", "exit 9"), ("sudo", 'echo "sudo $*"'), ("dpkg-query", "exit 1"), ("id", "echo 1000")):
        (bin_ / name).write_text("#!/bin/sh\n%s\n" % body)
        (bin_ / name).chmod(0o755)
    text = run("sh", "test/install", "run", cwd=TOP, PATH="%s:%s" % (bin_, os.environ["PATH"]))
    assert re.search(r"^sudo .*apt-get install ", text, re.M)


def test_install_does_nothing_when_all_is_there(tmp_path):
    (tmp_path / "dpkg-query").write_text("#!/bin/sh\nprintf installed\n")
    (tmp_path / "dpkg-query").chmod(0o755)
    assert run("sh", "test/install", "run", "test", "deep", cwd=TOP, PATH="%s:%s" % (tmp_path, os.environ["PATH"])) == ""
