"""A machine of its own for wssd: Debian's kernel in qemu, little memory, an initramfs of busybox and the static binaries.

    vm.py [--memory MIB] [MACHINE...]         arm (32-bit), s390x (big-endian); both if none is named

The kernel and busybox are Debian's packages for that architecture, fetched with lists of our own into build/vm; nothing is
installed, /etc/apt is read only. wssd and wssd-selfsign are those of cross.py. /init makes the certificate, starts wssd as a
user without powers in a root of its own, and then obeys the serial line; what else is seen is seen through the network that
qemu emulates, from a port of this machine's loopback. The processor executes one instruction in two nanoseconds of its own
time, whatever this machine does meanwhile: so what it says of its time depends on nobody's load.

Exit status 0 only if all passed.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import ctypes
import glob
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

if __name__ == "__main__":
    os.environ.setdefault("WSSD_SLOW", "10")  # before the helpers read it: an emulated processor, perhaps on a busy machine
import cross  # noqa: E402
import logs  # noqa: E402
import wsraw  # noqa: E402
from test_browser import Browser  # noqa: E402
from test_sandbox import DEEDS  # noqa: E402

OUT = os.path.join(cross.TOP, "build", "vm")
WWW = os.path.join(cross.TOP, "dist", "www")
CLIENTS = 100
APPLETS = "cat chown grep insmod ip kill mount nc poweroff sh stty timeout".split()
ENDED, KILLED = 128 + 31, 128 + 9  # statuses in a shell: SIGSYS, SIGKILL

# what Debian calls it and its kernel; what cross.py calls it; how qemu makes one; its network card, console, modules
Kind = collections.namedtuple("Kind", "arch kernel target qemu card console modules")
KINDS = {
    "arm": Kind("armhf", "armmp", "armv7", "qemu-system-arm -M virt", "virtio-net-device,netdev=net", "ttyAMA0",
                "failover net_failover virtio_net virtio_mmio"),
    "s390x": Kind("s390x", "s390x", "s390x", "qemu-system-s390x -M s390-ccw-virtio", "virtio-net-ccw,netdev=net", "ttysclp0",
                  "failover net_failover virtio_net"),
}

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
stty -echo
for m in %s; do insmod /lib/$m.ko; done
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
nc -ll -p 7000 -e cat &

# as root: the key is the server's alone, and what it serves is what it sees
wssd-selfsign --key /srv/key.pem --cert /srv/cert.pem localhost 127.0.0.1
chown wssd /srv/key.pem
wssd --user wssd --chroot /srv --listen wss://0.0.0.0:8443 --cert /cert.pem --key /key.pem --root /www \\
	--max-clients 128 --max-per-ip 0 --timeout 60 /echo=echo /chat=hub /raw=tcp:127.0.0.1:7000 2>/log &
server=$!

misdeed()
{
	MISDEED=$1 timeout -s KILL 2 wssd-misdeed --user root --listen ws://127.0.0.1:0 $2 /echo=echo 2>/misdeed
	echo "$1 $? $(grep "^misdeed: $1" /misdeed)"
}

echo started
while read -r line; do
	eval "$line"
	echo "status $?"
done
"""


# ---- what it is made of


@contextlib.contextmanager
def archive(arch):
    """Debian's packages for another architecture: a function that runs a program of apt's, the lists being fetched, and a
    directory for what it downloads, which is gone in the end."""
    base = os.path.join(OUT, "apt-" + arch)
    shutil.rmtree(base, ignore_errors=True)
    for d in ("lists/partial", "cache", "empty", "files/partial"):
        os.makedirs(os.path.join(base, d))
    known = cross.run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    with open(base + "/sources.list", "w") as f:
        f.writelines(sorted({"deb %s\n" % line for line in known.splitlines()}))
    open(base + "/status", "w").close()
    options = ["APT::Architecture=" + arch, "APT::Architectures=" + arch, "APT::Sandbox::User=root",
               "Dir::Etc::sourcelist=" + base + "/sources.list", "Dir::Etc::sourceparts=" + base + "/empty",
               "Dir::State::lists=" + base + "/lists", "Dir::State::status=" + base + "/status",
               "Dir::Cache=" + base + "/cache", "Dir::Cache::archives=" + base + "/files", "Debug::NoLocking=true",
               "Acquire::Languages=none"]
    options = [w for o in options for w in ("-o", o)]

    def apt(program, *words):
        return cross.run(*cross.NICE, program, "-q", *options, *words, cwd=base + "/files")
    try:
        apt("apt-get", "update")
    except cross.Failed as e:
        cross.note("not all lists: %s" % e)  # not every archive has every architecture; the download will tell
    yield apt, base + "/files"
    shutil.rmtree(base)


def debian(kind):
    """The kernel package and busybox of another architecture, unpacked; their directory."""
    there = os.path.join(OUT, kind.arch)
    if os.path.isdir(there):
        return there
    with archive(kind.arch) as (apt, files):
        depends = apt("apt-cache", "depends", "linux-image-" + kind.kernel)
        kernel = re.search(r"Depends: (linux-image-\S+)", depends).group(1)
        apt("apt-get", "download", kernel, "busybox-static")
        for package in glob.glob(files + "/*.deb"):
            cross.run("dpkg-deb", "-x", package, files + "/root")
        os.rename(files + "/root", there)
    return there


def misbehaving(kind):
    """wssd with faults/misdeed.c in it, which makes it do what the filter must end; the path."""
    there, tools = os.path.join(OUT, kind.arch + "-misdeed"), cross.TARGETS[kind.target].tools + "-"
    shutil.rmtree(there, ignore_errors=True)
    os.makedirs(there + "/dist")
    for f in cross.SOURCES:
        shutil.copy2(os.path.join(cross.TOP, f), os.path.join(there, f))
    cc = ["CC=" + tools + "gcc", "CFLAGS=-O1", "BEARSSL=" + os.path.join(cross.OUT, "bearssl", kind.target)]
    cross.run(tools + "gcc", "-D_GNU_SOURCE", "-O1", "-c", "-o", "misdeed.o",
              os.path.join(cross.TOP, "test", "faults", "misdeed-static.c"), cwd=there)
    cross.run("make", "-s", "wssd", *cc, "LDFLAGS=-static -s -Wl,--wrap=poll,--wrap=prctl misdeed.o", cwd=there)
    return there + "/wssd"


def cpio(entries):
    """An archive as the kernel wants it ("newc"), of (name, mode, content, major, minor)."""
    out = bytearray()
    for number, (name, mode, content, *device) in enumerate(entries + [("TRAILER!!!", 0, b"", 0, 0)], 1):
        name = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        out += b"070701" + b"".join(b"%08x" % f for f in fields) + name
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)


def initramfs(kind, root, programs, misdeed):
    entries = [(d, 0o40755, b"", 0, 0) for d in "bin dev etc lib proc srv srv/www".split()]
    entries += [("dev/console", 0o20600, b"", 5, 1)]
    entries += [("bin/" + a, 0o120777, b"busybox", 0, 0) for a in APPLETS]

    def add(name, mode, content):
        entries.append((name, 0o100000 | mode, content, 0, 0))

    def copy(name, mode, path):
        with open(path, "rb") as f:
            add(name, mode, f.read())

    add("init", 0o755, (INIT % kind.modules).encode())
    add("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nwssd:x:100:100::/:/bin/false\n")
    add("etc/group", 0o644, b"root:x:0:\nwssd:x:100:\n")
    copy("bin/busybox", 0o755, root + "/bin/busybox")
    for program in cross.PROGRAMS:
        copy("bin/" + program, 0o755, os.path.join(programs, program))
    copy("bin/wssd-misdeed", 0o755, misdeed)
    for module in kind.modules.split():
        copy("lib/%s.ko" % module, 0o644, glob.glob("%s/lib/modules/**/%s.ko" % (root, module), recursive=True)[0])
    for name in os.listdir(WWW):
        copy("srv/www/" + name, 0o644, os.path.join(WWW, name))
    return cpio(entries)


# ---- the machine


class Machine(logs.Logged):
    """One that runs. port: where its 8443 is on this machine; place: a directory for what it needs here."""

    def __init__(self, kind, memory, place):
        root = debian(kind)
        with cross.locked():
            programs = cross.build(kind.target, cross.CFLAGS)
            misdeed = misbehaving(kind)
        with open(place + "/initrd", "wb") as f:
            f.write(initramfs(kind, root, programs, misdeed))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        # an instruction in 2 ns of its own time
        self.boot(kind, root, place, memory, ["-device", kind.card, "-icount", "shift=1", "-netdev",
                                              "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-:8443" % self.port])

    def boot(self, kind, root, place, memory, words):
        """Power on: with place/initrd and what these words add."""
        self.place, self.began = place, time.monotonic()
        self.proc = subprocess.Popen(
            kind.qemu.split() + ["-m", str(memory), "-kernel", glob.glob(root + "/boot/vmlinuz-*")[0], "-initrd",
                                 place + "/initrd", "-append", "console=%s quiet loglevel=3 panic=-1" % kind.console,
                                 "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"] + words,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL))  # PR_SET_PDEATHSIG: it does not outlive us
        self.follow(self.proc.stdout)

    def tell(self, command):
        self.proc.stdin.write(command.encode() + b"\n")
        self.proc.stdin.flush()

    def ask(self, command, timeout=10):
        """What a command says on the serial line; its status must be 0."""
        here = self.here()
        self.tell(command)
        status = self.wait_log(r"^status (\d+)", timeout, here)[1]
        lines = [line.rstrip("\r") for line in self.lines(here)]
        said = "\n".join(lines[:lines.index("status " + status)])
        assert status == "0", "%s: status %s: %s" % (command, status, said)
        return said

    def status(self):
        """/proc/PID/status of wssd."""
        return dict(re.findall(r"(?m)^(\w+):\s*(.*)$", self.ask("cat /proc/$server/status")))

    def rss(self):
        return int(self.status()["VmRSS"].split()[0])

    def until(self, command, seconds=10):
        """Asks until the status is 0."""
        end = time.monotonic() + seconds * wsraw.SLOW
        while True:
            try:
                return self.ask(command)
            except AssertionError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.3)

    def fetch_cert(self):
        """The certificate, by the serial line: what a client trusts from now on; a file of its own each time."""
        fd, self.cert = tempfile.mkstemp(".pem", dir=self.place)
        with open(fd, "w") as f:
            f.write(self.ask("cat /srv/cert.pem") + "\n")
        return self.cert

    def open(self, path, **kw):
        return wsraw.connect(self.port, wsraw.client_context(self.cert), **kw).open(path)

    def end(self):
        self.proc.kill()
        self.proc.wait()
        self.thread.join(5)


# ---- what it must show; each returns what is said of it


def boots(m):
    """it starts, with a certificate of its own"""
    m.wait_log("^started", 60)
    m.fetch_cert()
    m.until("grep listening /log")
    m.idle = m.rss()
    uptime = m.ask("cat /proc/uptime").split()[0]
    return "%s; %s s of its time since the kernel began" % (m.ask("cat /proc/version").split(" (")[0], uptime)


def page(m):
    """curl gets the page, the certificate trusted"""
    got = subprocess.run(["curl", "-sS", "--noproxy", "*", "--cacert", m.cert, "--max-time", str(10 * wsraw.SLOW),
                          "https://127.0.0.1:%d/" % m.port], stdin=subprocess.DEVNULL, capture_output=True)
    assert got.returncode == 0, got.stderr.decode()
    with open(WWW + "/index.html", "rb") as f:
        assert got.stdout == f.read()
    return "%.1f s after power-on" % (time.monotonic() - m.began)


def powers(m):
    """wssd has no more power than it needs"""
    status = m.status()
    found = {k: status[k] for k in ("Uid", "Gid", "CapEff", "CapPrm", "NoNewPrivs", "Seccomp")}
    assert found == {"Uid": "100\t100\t100\t100", "Gid": "100\t100\t100\t100", "CapEff": "0" * 16, "CapPrm": "0" * 16,
                     "NoNewPrivs": "1", "Seccomp": "2"}, found
    return "user 100, no capability, a filter of system calls"


def filtered(m):
    """the filter ends wssd at the first call that the loop does not need"""
    def do(deeds, option=""):
        said = m.ask("for d in %s; do misdeed $d %s; done" % (" ".join(deeds), option), 30)
        return {w[0]: (int(w[1]), w[2:]) for w in map(str.split, said.splitlines()) if w[0] in deeds}
    deeds = [d for d in DEEDS["what must end it"] if d != "x32-read"]
    assert do(deeds) == {d: (ENDED, []) for d in deeds}
    without = ["open-write", "clone", "memfd", "mprotect-execute"]  # so it is the filter that ends it
    assert do(without, "--no-sandbox") == {d: (KILLED, ["misdeed:", d + ":", "0"]) for d in without}
    return "%d calls, each in a process of its own" % len(deeds)


def browser(m):
    """Chromium opens the page and echoes, the certificate imported"""
    home = os.path.join(m.place, "home")
    os.mkdir(home)
    b = Browser(home, [], False, m.cert)
    try:
        b.page("https://127.0.0.1:%d/" % m.port)
        b.connect("/echo")
        b.say("Grüße")
        trip = b.wait_row("in", "^Grüße$")[3]
        assert b.complaints() == []
    finally:
        b.quit()
    return "round trip %s" % trip


def crowd(m):
    """100 clients at once, each is answered"""
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        clients = list(pool.map(lambda _: m.open("/echo", timeout=30), range(CLIENTS)))

        def echo(numbered):
            number, client = numbered
            data = b"%d " % number * 100
            client.send_binary(data)
            client.expect_binary(data)
        list(pool.map(echo, enumerate(clients)))
        busy = m.rss()
        time.sleep(5)  # they rest
        resting = m.rss()
        list(pool.map(echo, enumerate(clients)))
        available = m.ask("grep MemAvailable /proc/meminfo").split()[1]
        list(pool.map(lambda c: c.close_handshake(), clients))
    return "RSS of wssd: %d KiB before the first client, %d when each was just answered, %d when they rest; %s KiB of the " \
        "machine are free" % (m.idle, busy, resting, available)


def hub(m):
    """the hub, and a TCP backend"""
    with m.open("/chat") as a, m.open("/chat") as b, m.open("/raw") as raw:
        a.ping(b"there?")
        a.expect_pong(b"there?")
        b.send_text("hello")
        a.expect_text("hello")
        raw.send_binary(b"x" * 300)
        got = b""
        while len(got) < 300:
            got += raw.recv_message()[1]
        assert got == b"x" * 300
    return "300 bytes there and back"


def reload(m):
    """SIGHUP: a new certificate, read by the user in his root through the filter"""
    m.ask("wssd-selfsign --key /srv/key.pem --cert /srv/cert.pem localhost 127.0.0.1")
    m.ask("kill -HUP $server")
    m.until("grep ^reloaded /log")
    old, new = m.cert, m.fetch_cert()
    with m.open("/echo") as c:
        served = ssl.DER_cert_to_PEM_cert(c.tls.getpeercert(True)).split()
    assert served == open(new).read().split() != open(old).read().split()
    return "the new one is served"


def ends(m):
    """SIGTERM ends wssd with status 0, and the machine can be switched off"""
    m.ask("kill $server; wait $server")
    m.tell("poweroff -f")
    assert m.proc.wait(10 * wsraw.SLOW) == 0
    return "and qemu with it"


CHECKS = boots, page, powers, filtered, browser, crowd, hub, reload, ends


def trial(name, memory):
    """All checks in one machine: how many passed, how many failed."""
    passed, machine = 0, None
    with tempfile.TemporaryDirectory(prefix="vm") as place:
        try:
            machine = Machine(KINDS[name], memory, place)
            for check in CHECKS:
                doing = check.__doc__
                said = check(machine)
                print("ok     %s: %s (%s)" % (name, doing, said), flush=True)
                passed += 1
            print("       %s: %d MiB, %.0f s" % (name, memory, time.monotonic() - machine.began), flush=True)
        except Exception as e:
            print("FAILED %s: %s: %r; the %d after it are not tried" % (
                name, "the machine" if machine is None else doing, e, len(CHECKS) - passed - 1), flush=True)
            if machine:
                with contextlib.suppress(Exception):
                    machine.ask("cat /log", 3)
                print("\n".join(machine.lines()[-40:]), flush=True)
        finally:
            if machine:
                machine.end()
    return passed, len(CHECKS) - passed


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--memory", type=int, default=64, metavar="MIB", help="of the machine (%(default)s)")
    p.add_argument("machine", nargs="*", help="of %s" % ", ".join(KINDS))
    args = p.parse_args()
    for name in args.machine:
        if name not in KINDS:
            p.error("%s is none of %s" % (name, ", ".join(KINDS)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and so nothing is left behind
    found = [trial(name, args.memory) for name in args.machine or KINDS]
    passed, failed = (sum(column) for column in zip(*found))
    print("%d passed, %d failed" % (passed, failed), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
