"""What a clock cannot tell, or need not: instructions, system calls, bytes of the binary, resident memory, time to start.

    counts.py [--only WORDS] [--columns WORDS] [--operation REGEX] [--bearssl DIR] [--json | --markdown | --write] [--last]

Builds wssd from copies of the sources in build/bench/counts, never in the tree, with a BearSSL that is built there, too:
from Debian's source package, or from DIR, another tree of BearSSL's. Parts (WORDS, comma between them; all of them):

    instructions  of the server's process per operation: the difference of two runs of different length, so that the start,
                  the connecting and the end fall out. Nothing of it depends on the machine's load; the kernel's part is not
                  in it. Columns (--columns WORDS):
                  machine   callgrind, with what this machine's CPU offers
                  floor     the same for floor.c, which does nothing but TLS and echo
                  portable  callgrind, with the paths that BearSSL takes without AES instructions, SIMD, 64-bit registers
                            and unaligned access; the compiler's target is the same
                  arm, mips the binaries of `size`, -Os, in qemu's user mode, counted by insns.c
    calls         system calls per operation, by strace -c, again the difference of two runs
    start         from exec to the line that names the port, and to the first byte of the first answer; the median of 50
    memory        RSS of the server with 64 slots before any client
    size          of the binary, stripped: static with musl for x86-64, ARM and MIPS

--json prints the figures as one object, --markdown a section for RESULTS.md, --write puts that section into RESULTS.md,
else a table is printed. --last shows the figures of the last run and measures nothing. Marks are those the project set
itself; a figure that misses one is marked, and the exit status is 0 all the same.
"""

import argparse
import bisect
import collections
import datetime
import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.dirname(HERE))
import cross  # noqa: E402
import pki  # noqa: E402
import powers  # noqa: E402
import wsraw  # noqa: E402
from bench import commit  # noqa: E402
from cross import Failed, GC, NICE, apt_source, run  # noqa: E402

OUT = os.path.join(TOP, "build", "bench", "counts")
RESULTS = os.path.join(HERE, "RESULTS.md")
FENCE = "<!-- counts -->", "<!-- end of counts -->"
SOURCES = ["ws.h", "main.c", "tls.c", "http.c", "ws.c", "Makefile", "dist/built.sh"]
PARTS = ["instructions", "calls", "start", "memory", "size"]

# A core without the rest: the same settings that src/config.h of BearSSL explains.
PORTABLE = "-DBR_AES_X86NI=0 -DBR_SSE2=0 -DBR_RDRAND=0 -DBR_64=0 -DBR_INT128=0 -DBR_UMUL128=0 -DBR_LOMUL=0 " \
           "-DBR_LE_UNALIGNED=0 -DBR_BE_UNALIGNED=0"
SMALL = "-Os -fno-asynchronous-unwind-tables -fno-unwind-tables " + GC
SMALL_LD = "-static -Wl,--gc-sections -Wl,-z,noseparate-code"

# To callgrind each byte that rep movsb moves is an instruction; glibc can do without.
NO_REP = "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824"

MARK_SIZE, MARK_CALLS, MARK_START = 176 * 1024, 3, 5.0  # bytes; calls; milliseconds
SLOTS = 64
GCM, CHACHA = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"
NATIVE = "x86_64-linux-musl"
TARGETS = {"x86-64": NATIVE, "ARM (ARMv7, Thumb 2)": "arm-linux-gnueabihf", "MIPS (MIPS32 R2)": "mips-linux-gnu"}


def note(text):
    print("counts: " + text, file=sys.stderr, flush=True)


# ---- builds


def bearssl(tree, name, cc, cflags, tools=""):
    return cross.bearssl(tree, os.path.join(OUT, name), cc, cflags, tools)


def musl(target):
    if not shutil.which(target + "-gcc"):
        raise Failed("no %s-gcc" % target)
    return cross.musl(target, apt_source("musl"), os.path.join(OUT, "musl-" + target))


def wssd(name, prefix, cc, cflags, ldflags):
    """./wssd from a copy of the sources, made once for each state of them; the path of the binary, not stripped."""
    there, sources = os.path.join(OUT, name), [os.path.join(TOP, f) for f in SOURCES]
    binary, mark = os.path.join(there, "wssd"), os.path.join(there, "stamp")
    stamp = hashlib.sha256(b"".join(open(f, "rb").read() for f in sources + [prefix + "/stamp"]))
    stamp.update(repr((cc, cflags, ldflags)).encode())
    if os.path.exists(mark) and os.path.exists(binary) and open(mark).read() == stamp.hexdigest():
        return binary
    shutil.rmtree(there, ignore_errors=True)
    os.makedirs(os.path.join(there, "dist"))
    for f in SOURCES:
        shutil.copy2(os.path.join(TOP, f), os.path.join(there, f))
    run(*NICE, "make", "-s", "wssd", "CC=" + cc, "CFLAGS=" + cflags, "LDFLAGS=" + ldflags, "BEARSSL=" + prefix, cwd=there)
    with open(mark, "w") as f:
        f.write(stamp.hexdigest())
    return binary


# ---- a server, and what is done to it


FILE = b"0123456789abcde\n" * 64


@functools.cache
def fixture():
    """A P-256 key and certificate, and a directory with a file of 1 KiB: key, certificate, directory."""
    pair, root = pki.Pki(OUT).server("localhost"), os.path.join(OUT, "root")
    os.makedirs(root, exist_ok=True)
    with open(os.path.join(root, "1k"), "wb") as f:
        f.write(FILE)
    return pair.key, pair.cert, root


def wssd_command(binary, wrap=(), slots=SLOTS):
    """wssd with an echo, a hub and files, on one TLS port and one plain port."""
    key, cert, root = fixture()
    return [binary, *powers.words(binary, wrap=wrap), "--listen", "wss://127.0.0.1:0", "--listen", "ws://127.0.0.1:0", "--cert",
            cert, "--key", key, "--root", root, "--max-clients", str(slots), "--max-per-ip", "0", "--ping", "0", "--timeout", "300", "/echo=echo", "/hub=hub"]


def floor_args():
    key, cert, _ = fixture()
    return ["bear", "--cert", cert, "--key", key, "--max", str(SLOTS)]


class Server:
    """A server, perhaps below another program. ports: those that it says it listens on, TLS first; suite: the only one
    that its clients offer."""

    def __init__(self, command, ports=2, wrap=(), drain=True, env=None, suite=GCM):
        self.suite = suite
        self.began = time.monotonic()
        self.proc = subprocess.Popen(list(wrap) + command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE)
        self.ports, log = [], []
        try:
            while len(self.ports) < ports:
                line = self.proc.stderr.readline().decode(errors="replace")
                if not line:
                    raise Failed("%s did not start: %s" % (command[0], "".join(log[-5:])))
                log.append(line)
                m = re.search(r"listening on (?:wss?://)?127\.0\.0\.1:(\d+)", line)
                if m:
                    self.ports.append(int(m.group(1)))
        except BaseException:
            self.stop()
            raise
        self.listening = time.monotonic()
        # what it says from here on is of no interest, and must not fill the pipe
        if drain:
            threading.Thread(target=collections.deque, args=(self.proc.stderr, 0), daemon=True).start()

    def connect(self, **kw):
        return wsraw.connect(self.ports[0], wsraw.client_context(ciphers=self.suite), timeout=120, **kw)

    def plain(self):
        return wsraw.connect(self.ports[1], timeout=120)

    def pid(self):
        """Of the server itself, which is a child of strace, and is valgrind or qemu."""
        with open("/proc/%d/task/%d/children" % (self.proc.pid, self.proc.pid)) as f:
            return int((f.read().split() or [self.proc.pid])[0])

    def stop(self):
        wsraw.close_all()
        if self.proc.poll() is None:
            os.kill(self.pid(), signal.SIGTERM)
        try:
            self.proc.wait(60)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait(10)


# More than a connection's buffers: what a slot's wipe costs at the end grows up to that.
WARM = bytes(40000)


def echo(size, flight=1, plain=False):
    def work(server, n):
        data = bytes(i * 7 & 0xff for i in range(size))
        c = server.plain() if plain else server.connect()
        c.open("/echo")
        c.send_binary(WARM)
        c.expect_binary(WARM)
        for _ in range(0, n, flight):
            c.send(wsraw.frame(wsraw.BINARY, data) * flight)
            for _ in range(flight):
                c.expect_binary(data)
        c.close()
    return work


def get(server, n):
    c = server.connect()
    for _ in range(n):
        r = c.request(target="/1k")
        assert r.status == 200 and r.body == FILE, r
    c.close()


def hub(subscribers, size, burst=1):
    """n rounds; what counts is a delivery, so that each round is `subscribers * burst` of them."""
    def work(server, n):
        data = bytes(i * 11 & 0xff for i in range(size))
        publisher = server.connect().open("/hub")
        session = publisher.tls.session  # the others resume it: quicker under callgrind
        subs = [server.connect(session=session).open("/hub") for _ in range(subscribers)]
        publisher.send_binary(WARM)
        for s in subs:
            s.expect_binary(WARM)
        for _ in range(n):
            publisher.send(wsraw.frame(wsraw.BINARY, data) * burst)
            for s in subs:
                for _ in range(burst):
                    s.expect_binary(data)
        for c in subs + [publisher]:
            c.close()
    return work


def handshake(resume):
    """n times: connect, TLS, upgrade, Close both ways, the end."""
    def work(server, n):
        session = None
        if resume:
            with server.connect() as c:
                session = c.tls.session
                c.open("/echo").close_handshake()
        for _ in range(n):
            with server.connect(session=session) as c:
                assert c.tls.session_reused == resume
                c.open("/echo").close_handshake()
    return work


def raw_echo(size):
    """Of bytes, for the floor: as many as wssd's echo has with its frame."""
    def work(server, n):
        data = bytes(i * 7 & 0xff for i in range(size + (6 if size < 126 else 8)))
        with server.connect() as c:
            for _ in range(n):
                c.send(data)
                assert c.recv(len(data)) == data
    return work


def raw_handshake(resume):
    def work(server, n):
        session = None
        for i in range(n + resume):
            with server.connect(session=session) as c:
                assert c.tls.session_reused == (resume and i > 0)
                session = c.tls.session if resume else None
                c.shutdown_write()
                c.recv_all()
    return work


# Name, what is done, the two lengths of a run, operations in one of them. Lengths are such that the sweep that the server
# makes once a second is lost in them; a first length of 0 takes all.
OPERATIONS = [
    ("echo 64 B", echo(64), 100, 1100, 1),
    ("echo 64 B, 16 in flight", echo(64, 16), 160, 3360, 1),
    ("echo 1 KiB", echo(1024), 100, 900, 1),
    ("echo 16 KiB", echo(16384), 20, 120, 1),
    ("echo 64 B, ws://", echo(64, plain=True), 100, 1100, 1),
    ("GET of 1 KiB", get, 100, 900, 1),
    ("hub, 1 to 50, 64 B, a delivery", hub(50, 64), 2, 22, 50),
    ("hub, 16 at once, a delivery", hub(50, 64, 16), 2, 12, 800),
    ("full handshake", handshake(False), 2, 10, 1),
    ("resumed handshake", handshake(True), 2, 42, 1),
    ("start and end", lambda server, n: None, 0, 1, 1),
]
CALLED = ["echo 64 B", "GET of 1 KiB", "hub, 1 to 50, 64 B, a delivery", "full handshake", "resumed handshake"]
FLOORS = {
    "echo 64 B": raw_echo(64), "echo 1 KiB": raw_echo(1024), "echo 16 KiB": raw_echo(16384),
    "full handshake": raw_handshake(False), "resumed handshake": raw_handshake(True),
    "start and end": lambda server, n: None,
}


# ---- instructions


def parse_callgrind(path):
    """Self cost by function, added up over the lines that callgrind gives."""
    names, cost, here, skip = {}, collections.Counter(), "?", False
    with open(path, errors="replace") as f:
        for line in f:
            m = re.match(r"c?fn=\((\d+)\)(?: (.*))?$", line)
            if m:
                name = names.setdefault(m.group(1), re.sub(r"'\d+$", "", m.group(2) or "?"))
                if line.startswith("fn"):
                    here = name
            elif line.startswith("calls="):
                skip = True  # the next line is the cost of the call, which stands where it is self cost, too
            elif line[:1] in "0123456789+-*":
                if not skip:
                    cost[here] += int(line.split()[1])
                skip = False
    return cost


def parse_qemu(path, binary, tools):
    """The same from what insns.c wrote."""
    at, names = [], []
    for line in run(tools + "nm", "-n", "--defined-only", binary).splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in "tTwW":  # a few have no name
            at.append(int(words[0], 16))
            names.append(words[2])
    cost = collections.Counter()
    with open(path) as f:
        for line in f:
            address, n = line.split()
            i = bisect.bisect_right(at, int(address, 16))
            cost[names[i - 1] if i else "?"] += int(n)
    return cost


def origins(binary, library, tools=""):
    """Function: whose it is, of those that are wssd's or BearSSL's."""
    out = {}
    objects = glob.glob(os.path.join(os.path.dirname(binary), "*.o"))
    for whose, files in (("BearSSL", [library]), ("own", objects)):
        for line in run(tools + "nm", "--defined-only", *files).splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in "tTwWrRdDbBV":
                out[words[2]] = whose
    return out


class Column:
    """How a column of the table is counted: a command, what counts it, and who a function belongs to."""

    def __init__(self, build, tools="", qemu=None, floor=False, suite=CHACHA):
        binary, prefix = build
        self.binary, self.tools, self.qemu, self.floor, self.suite = binary, tools, qemu, floor, suite
        self.whose = origins(binary, os.path.join(prefix, "lib", "libbearssl.a"), tools)

    def cost(self, work, n):
        """Self cost of each function in a run of n operations."""
        out = os.path.join(OUT, "instructions.out")
        env = None
        if self.qemu:
            wrap = NICE + [self.qemu, "-plugin", "%s,to=%s" % (plugin(), out)]
        else:
            wrap = NICE + ["valgrind", "-q", "--tool=callgrind", "--callgrind-out-file=" + out]
            env = dict(os.environ, GLIBC_TUNABLES=NO_REP)
        command = [self.binary] + floor_args() if self.floor else wssd_command(self.binary, wrap)
        server = Server(command, 1 if self.floor else 2, wrap, env=env, suite=self.suite)
        try:
            work(server, n)
        finally:
            server.stop()
        return parse_qemu(out, self.binary, self.tools) if self.qemu else parse_callgrind(out)

    def measure(self, name, work, few, many, per):
        note("%s: %s" % (os.path.basename(os.path.dirname(self.binary)), name))
        b = self.cost(work, many)
        if few > 0:
            b.subtract(self.cost(work, few))
        ops = (many - few) * per
        owners = collections.Counter()
        for function, n in b.items():
            owners[self.whose.get(function, "libc")] += n / ops
        return {"count": round(sum(b.values()) / ops, 1), "owners": {k: round(v, 1) for k, v in owners.items()},
                "functions": [[f, self.whose.get(f, "libc"), round(n / ops, 1)] for f, n in b.most_common(40) if n >= ops]}


def plugin():
    """The plugin for qemu."""
    out = os.path.join(OUT, "insns.so")
    if not os.path.exists(out) or os.stat(out).st_mtime < os.stat(os.path.join(HERE, "insns.c")).st_mtime:
        run("cc", "-std=c11", "-O2", "-fPIC", "-shared", "-o", out, os.path.join(HERE, "insns.c"))
    return out


def instructions(columns, operation):
    """For each column and operation: the count, by owner, and the functions that make it up."""
    result = {}
    for key, make in columns.items():
        try:
            column = make()
            result[key] = {}
            for name, work, few, many, per in OPERATIONS:
                work = FLOORS.get(name) if column.floor else work
                if work and re.search(operation or "", name):
                    result[key][name] = column.measure(name, work, few, many, per)
        except (Failed, AssertionError, OSError, subprocess.TimeoutExpired) as e:
            result[key] = dict(result.get(key, {}), failed=repr(e))
            note("%s: %r" % (key, e))
    return result


# ---- the other parts


def calls(binary):
    """System calls per operation; the echo is of 64 B, one in flight on one connection."""
    out, result = os.path.join(OUT, "strace.out"), {}
    for name, work, few, many, per in OPERATIONS:
        if name not in CALLED:
            continue
        found = []
        for n in few, many:
            server = Server(wssd_command(binary), wrap=["strace", "-c", "-f", "-o", out])
            try:
                work(server, n)
            finally:
                server.stop()
            count = collections.Counter()
            for line in open(out):
                m = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
                if m and m.group(2) != "total":
                    count[m.group(2)] += int(m.group(1))
            found.append(count)
        found[1].subtract(found[0])
        ops = (many - few) * per
        result[name] = {"calls": {k: round(v / ops, 3) for k, v in found[1].items() if v},
                        "sum": round(sum(found[1].values()) / ops, 3)}
    return result


def client_hello():
    inc, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = wsraw.client_context().wrap_bio(inc, out, server_hostname="localhost")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def start(binary, times=50):
    """Milliseconds from exec to the port's line, to the first byte of a plain answer, and of a TLS one; CPU meanwhile."""
    hello = client_hello()
    found = collections.defaultdict(list)
    for i in range(2 * times):
        server = Server(wssd_command(binary), drain=False)
        try:
            with open("/proc/%d/schedstat" % server.pid()) as f:
                found["CPU"].append(int(f.read().split()[0]) / 1e6)
            plain = i % 2  # the first byte can be first on one port only
            c = wsraw.connect(server.ports[plain], handshake=False)
            c.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" if plain else hello)
            assert c.more(5)
            done = time.monotonic()
            found["listening"].append((server.listening - server.began) * 1e3)
            found["first byte" if plain else "first byte, TLS"].append((done - server.began) * 1e3)
        finally:
            server.stop()
        began = time.monotonic()
        subprocess.run(["/bin/true"])
        found["/bin/true"].append((time.monotonic() - began) * 1e3)
    return {k: statistics.median(v) for k, v in found.items()}


def memory(binary):
    """Resident bytes of a server that has just started, by kind."""
    server = Server(wssd_command(binary))
    try:
        time.sleep(0.3)
        with open("/proc/%d/smaps_rollup" % server.pid()) as f:
            kinds = dict(re.findall(r"^(\w+):\s+(\d+) kB", f.read(), re.M))
        with open("/proc/%d/status" % server.pid()) as f:
            size = re.search(r"VmSize:\s+(\d+)", f.read()).group(1)
    finally:
        server.stop()
    return {"RSS": int(kinds["Rss"]) * 1024, "anonymous": int(kinds["Anonymous"]) * 1024,
            "private": (int(kinds["Private_Clean"]) + int(kinds["Private_Dirty"])) * 1024, "address space": int(size) * 1024}


def small(target, tag):
    """A static binary for a target, as small as the compiler makes it, not stripped; and the prefix of its BearSSL."""
    tools = "" if target == NATIVE else target + "-"
    cc = "musl-gcc" if target == NATIVE else musl(target)
    if not shutil.which(cc):
        raise Failed("no " + cc)
    prefix = bearssl(TREE, "bearssl-musl-%s%s" % (target, tag), cc, SMALL, tools)
    return wssd("wssd-musl-%s%s" % (target, tag), prefix, cc, SMALL, SMALL_LD), prefix


def size(tag):
    """Sizes of the static binary, stripped; whose symbols make it up, and its largest ones."""
    result = {}
    for name, target in TARGETS.items():
        tools = "" if target == NATIVE else target + "-"
        try:
            binary, prefix = small(target, tag)
            whose = origins(binary, os.path.join(prefix, "lib", "libbearssl.a"), tools)
            run(tools + "strip", "-R", ".comment", "-o", binary + ".stripped", binary)
            symbols = [line.split() for line in run(tools + "nm", "-S", "--size-sort", "-r", binary).splitlines()]
            symbols = [(w[3], int(w[1], 16)) for w in symbols if len(w) == 4 and w[2] not in "bB"]
            owners = collections.Counter()
            for symbol, n in symbols:
                owners[whose.get(symbol, "libc")] += n
            result[name] = {"bytes": os.path.getsize(binary + ".stripped"), "owners": owners, "symbols": symbols[:15]}
        except (Failed, OSError, subprocess.TimeoutExpired) as e:
            result[name] = {"failed": str(e)}
            note("%s: %s" % (name, e))
    return result


# ---- the report


def last_of(args):
    """Where the figures of the last run are."""
    return os.path.join(OUT, "counts-other.json" if args.bearssl else "counts.json")


def measure(args):
    global TREE
    only = args.only.split(",") if args.only else PARTS
    os.makedirs(OUT, exist_ok=True)
    lock = open(os.path.join(OUT, "lock"), "w")  # one at a time builds here
    fcntl.flock(lock, fcntl.LOCK_EX)
    TREE = os.path.abspath(args.bearssl) if args.bearssl else apt_source("bearssl")
    tag = "-other" if args.bearssl else ""
    cflags = "-O2 -g"
    data = {"bearssl": os.path.basename(TREE), "measured": {}}
    if args.only and os.path.exists(last_of(args)):  # the other parts stay as they were
        with open(last_of(args)) as f:
            data = json.load(f)
    when = "%s, commit %s, load average %.1f" % (datetime.date.today().isoformat(), commit(), os.getloadavg()[0])

    @functools.cache
    def build(kind):
        prefix = bearssl(TREE, "bearssl-" + kind + tag, "cc", cflags + (" " + PORTABLE if kind == "portable" else ""))
        return wssd("wssd-" + kind + tag, prefix, "cc", cflags, ""), prefix

    def floor():
        prefix = build("machine")[1]
        there = os.path.join(OUT, "floor" + tag)
        os.makedirs(there, exist_ok=True)
        run("cc", "-std=c11", "-D_GNU_SOURCE", *cflags.split(), "-isystem", prefix + "/include", "-c", "-o",
            there + "/floor.o", os.path.join(HERE, "floor.c"))
        run("cc", "-o", there + "/floor", there + "/floor.o", prefix + "/lib/libbearssl.a")
        return there + "/floor", prefix

    columns = {
        "machine": lambda: Column(build("machine"), suite=GCM),
        "floor": lambda: Column(floor(), floor=True, suite=GCM),
        "portable": lambda: Column(build("portable")),
        "arm": lambda: Column(small("arm-linux-gnueabihf", tag), "arm-linux-gnueabihf-", "qemu-arm"),
        "mips": lambda: Column(small("mips-linux-gnu", tag), "mips-linux-gnu-", "qemu-mips"),
    }
    if args.columns:
        columns = {k: columns[k] for k in args.columns.split(",")}
    builds = {"glibc, dynamic": lambda: build("machine")[0], "musl, static": lambda: small(NATIVE, tag)[0]}
    parts = {
        "instructions": lambda: instructions(columns, args.operation),
        "calls": lambda: calls(build("machine")[0]),
        "start": lambda: {k: start(f()) for k, f in builds.items()},
        "memory": lambda: {k: memory(f()) for k, f in builds.items()},
        "size": lambda: size(tag),
    }
    for name in only:
        try:
            data.get("failed", {}).pop(name, None)
            found = parts[name]()
            data[name] = dict(data.get(name, {}), **found) if args.columns and name == "instructions" else found
            data["measured"][name] = when
        except (Failed, AssertionError, OSError, subprocess.TimeoutExpired) as e:
            data.setdefault("failed", {})[name] = repr(e)
            note("%s: %r" % (name, e))
    return data


def mark(good):
    return "met" if good else "**missed**"


def markdown(data):
    out = [FENCE[0], "", "## Counts", "",
           "By `make bench-counts`, with BearSSL from `%s`; [its chapter](../README.md#counts) says what is counted. %s." % (
               data["bearssl"], "; ".join("%s: %s" % (
                   when, ", ".join(k for k in PARTS if data["measured"].get(k) == when))
                   for when in sorted(set(data["measured"].values())))), ""]
    if "instructions" in data:
        out += instruction_tables(data["instructions"])
    if "calls" in data:
        out += ["System calls per operation, by strace:", ""]
        for name, c in data["calls"].items():
            kinds = sorted(c["calls"].items(), key=lambda x: (-x[1], x[0]))
            word = "; mark %d: %s" % (MARK_CALLS, mark(c["sum"] < MARK_CALLS + 0.01)) if name == "echo 64 B" else ""
            out.append("- %s: %.2f%s (%s)" % (name, c["sum"], word, ", ".join(
                "%s %.2f" % x for x in kinds if x[1] >= 0.005)))
        out.append("")
    if "start" in data:
        out += ["Start with a P-256 key and %d slots, milliseconds from exec, medians of 50; /bin/true, the same way, takes "
                "%.2f:" % (SLOTS, min(s["/bin/true"] for s in data["start"].values())), "",
            "| wssd | its CPU | port named | first byte, plain | first byte, TLS | below %.0f |" % MARK_START,
            "|---|--:|--:|--:|--:|---|"]
        for name, s in data["start"].items():
            worst = max(s["first byte"], s["first byte, TLS"])
            out.append("| %s | %.2f | %.2f | %.2f | %.2f | %s |" % (
                name, s["CPU"], s["listening"], s["first byte"], s["first byte, TLS"], mark(worst < MARK_START)))
        out.append("")
    if "memory" in data:
        out += ["RSS of the started server with %d slots and no client, KiB: " % SLOTS + "; ".join(
            "%s %.0f, of these anonymous %.0f" % (k, m["RSS"] / 1024, m["anonymous"] / 1024)
            for k, m in data["memory"].items()) + ".", ""]
    if "size" in data:
        out += ["Static binary with musl, stripped, every feature in it, compiled with `%s` and linked with `%s`:" % (
            SMALL, SMALL_LD), "", "| target | bytes | own | BearSSL | libc | mark |", "|---|--:|--:|--:|--:|---|"]
        for name, s in data["size"].items():
            if "bytes" in s:
                cells = ["{:,}".format(s["owners"].get(w, 0)) for w in ("own", "BearSSL", "libc")]
                out.append("| %s | %s | %s |" % (name, " | ".join(["{:,}".format(s["bytes"])] + cells),
                                                "" if TARGETS[name] != NATIVE else
                                                "below {:,}: {}".format(MARK_SIZE, mark(s["bytes"] < MARK_SIZE))))
            else:
                out.append("| %s | not built: %s | | | | |" % (name, s["failed"].replace("\n", " ")[:120]))
        out.append("")
    for name, why in data.get("failed", {}).items():
        out += ["Not measured: %s (%s)." % (name, why.replace("\n", " ")[:200]), ""]
    return "\n".join(out + [FENCE[1]]) + "\n"


COLUMNS = {"machine": "x86-64", "floor": "its floor", "portable": "x86-64, portable", "arm": "ARM, -Os", "mips": "MIPS, -Os"}
PROFILED = [("machine", "echo 64 B"), ("machine", "full handshake"), ("portable", "full handshake"), ("arm", "echo 64 B"),
            ("arm", "full handshake")]


def instruction_tables(found):
    keys = [k for k in COLUMNS if k in found]
    out = ["Instructions of the server per operation, without the kernel's; in brackets: of these in wssd's own files.", "",
           "| operation | %s |" % " | ".join(COLUMNS[k] for k in keys), "|---|" + "--:|" * len(keys)]
    for name in [o[0] for o in OPERATIONS]:
        cells = [found[k].get(name) for k in keys]
        if any(cells):
            out.append("| %s | %s |" % (name, " | ".join(
                "" if not c else "{:,.0f}{}".format(c["count"], "" if k == "floor" else " ({:,.0f})".format(
                    c["owners"].get("own", 0))) for k, c in zip(keys, cells))))
    out.append("")
    out += ["Offered by the clients is one suite alone: x86-64 and its floor %s, the others %s, which wssd prefers where "
            "the CPU has no AES." % (GCM, CHACHA)]
    for k in keys:
        if "failed" in found[k]:
            out.append("%s: not all could be measured: %s" % (COLUMNS[k], found[k]["failed"].replace("\n", " ")[:200]))
    for k, name in PROFILED:
        c = found.get(k, {}).get(name)
        if c:
            out += ["", "%s, %s: " % (name, COLUMNS[k]) + ", ".join(
                "%s%s %.1f %%" % (f, "" if whose == "libc" or f.startswith("br_") else " (%s)" % whose, 100 * n / c["count"])
                for f, whose, n in c["functions"][:12]) + "; in all " + ", ".join(
                "%s %.1f %%" % (w, 100 * n / c["count"]) for w, n in sorted(c["owners"].items(), key=lambda x: -x[1])) + "."]
    return out + [""]


def write(section):
    """Puts the section into RESULTS.md: in the place of the one that is there, or at the end."""
    text = open(RESULTS).read() if os.path.exists(RESULTS) else "# Results\n\n"
    begin, end = text.find(FENCE[0]), text.find(FENCE[1])
    if begin >= 0 and end > begin:
        text = text[:begin] + section + text[end + len(FENCE[1]):].lstrip("\n")
    else:
        text = text.rstrip("\n") + "\n\n" + section
    with open(RESULTS, "w") as f:
        f.write(text)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--only", help="of %s" % ", ".join(PARTS))
    p.add_argument("--columns", help="of `instructions`: of %s" % ", ".join(COLUMNS))
    p.add_argument("--operation", help="of `instructions`: a regular expression")
    p.add_argument("--bearssl", metavar="DIR", help="another tree of BearSSL's sources")
    p.add_argument("--last", action="store_true", help="the figures of the last run")
    for form in ("json", "markdown", "write"):
        p.add_argument("--" + form, action="store_true")
    args = p.parse_args()
    if args.write and args.bearssl:
        p.error("RESULTS.md is about Debian's BearSSL")
    if args.last:
        with open(last_of(args)) as f:
            data = json.load(f)
    else:
        try:
            data = measure(args)
        except Failed as e:
            sys.exit("counts: %s" % e)
        with open(last_of(args), "w") as f:
            json.dump(data, f, indent=1)
    if args.json:
        print(json.dumps(data, indent=1))
    elif args.write:
        write(markdown(data))
    if not args.json:
        print(markdown(data))


if __name__ == "__main__":
    main()
