"""What a clock cannot tell, or need not: instructions, system calls, bytes of the binary, resident memory, time to start.

    counts.py [--only WORDS] [--bearssl DIR] [--json | --markdown | --write] [--last]

Builds wssd from copies of the sources in build/bench/counts, never in the tree, with a BearSSL that is built there, too:
from Debian's source package, or from DIR, another tree of BearSSL's. Parts (WORDS, comma between them; all of them):

    instructions  of the server's process per operation, by callgrind: the difference of two runs of different length, so
                  that the start, the connecting and the end fall out. Once with what this machine's CPU offers, once with
                  the portable paths of BearSSL, as a small core without AES instructions, SIMD, 64-bit registers and
                  unaligned access would run them (the compiler's target is the same: counts of another instruction set
                  differ, the ratios less). The kernel's part is not in it. Nothing of it depends on the machine's load.
    calls         system calls per message, by strace -c, again the difference of two runs
    start         from exec to the line that names the port, and to the first byte of the first answer; the median of 50
    memory        RSS of the server with 64 slots before any client
    size          of the binary, stripped: static with musl for x86-64, ARM and MIPS

--json prints the figures as one object, --markdown a section for RESULTS.md, --write puts that section into RESULTS.md,
else a table is printed. --last shows the figures of the last run and measures nothing. Marks are those the project set
itself; a figure that misses one is marked, and the exit status is 0 all the same.
"""

import argparse
import collections
import datetime
import functools
import glob
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
import pki  # noqa: E402
import wsraw  # noqa: E402

OUT = os.path.join(TOP, "build", "bench", "counts")
RESULTS = os.path.join(HERE, "RESULTS.md")
LAST = os.path.join(OUT, "counts.json")
FENCE = "<!-- counts -->", "<!-- end of counts -->"
PARTS = ["instructions", "calls", "start", "memory", "size"]
NICE = ["nice", "-n", "15"]  # for what burns CPU and is not timed

# A core without the rest: the same settings that src/config.h of BearSSL explains.
PORTABLE = "-DBR_AES_X86NI=0 -DBR_SSE2=0 -DBR_RDRAND=0 -DBR_64=0 -DBR_INT128=0 -DBR_UMUL128=0 -DBR_LOMUL=0 " \
           "-DBR_LE_UNALIGNED=0 -DBR_BE_UNALIGNED=0"
GC = "-ffunction-sections -fdata-sections"
SMALL = "-Os -fno-asynchronous-unwind-tables -fno-unwind-tables " + GC
SMALL_LD = "-static -Wl,--gc-sections -Wl,-z,noseparate-code"

MARK_SIZE, MARK_CALLS, MARK_START = 176 * 1024, 3, 5.0  # bytes; calls; milliseconds
SLOTS = 64


class Failed(Exception):
    """A part cannot be measured here; the sentence says why."""


def note(text):
    print("counts: " + text, file=sys.stderr, flush=True)


def run(*command, cwd=None, env=None, timeout=1800):
    """Runs a command to its end; its output, or Failed with the last of it."""
    r = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=timeout)
    text = r.stdout.decode(errors="replace")
    if r.returncode != 0:
        raise Failed("%s: status %d: %s" % (" ".join(command[:8]), r.returncode, text[-500:]))
    return text


# ---- sources and builds


def apt_source(package):
    """Debian's source of a package, unpacked: fetched with lists and a sources list of our own, used for this alone."""
    found = glob.glob(os.path.join(OUT, "source", package + "-*", ""))
    if found:
        return found[0].rstrip("/")
    base = os.path.join(OUT, "apt")
    for d in ("lists/partial", "cache/archives/partial", "empty"):
        os.makedirs(os.path.join(base, d), exist_ok=True)
    os.makedirs(os.path.join(OUT, "source"), exist_ok=True)
    known = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    with open(os.path.join(base, "sources.list"), "w") as f:
        f.writelines(sorted({"deb-src %s\n" % line for line in known.splitlines()}))
    options = ["Dir::Etc::sourcelist=" + os.path.join(base, "sources.list"), "Dir::Etc::sourceparts=" + base + "/empty",
               "Dir::State::lists=" + base + "/lists", "Dir::Cache=" + base + "/cache", "APT::Sandbox::User=root",
               "Acquire::Languages=none"]
    apt = NICE + ["apt-get", "-q"] + [w for o in options for w in ("-o", o)]
    run(*apt, "update")
    run(*apt, "source", package, cwd=os.path.join(OUT, "source"))
    return glob.glob(os.path.join(OUT, "source", package + "-*", ""))[0].rstrip("/")


def stamp_of(tree):
    """What tells whether a tree of sources has changed: the newest file in it."""
    return max((os.stat(os.path.join(d, f)).st_mtime for d, _, fs in os.walk(tree) for f in fs if f.endswith((".c", ".h"))),
               default=0)


def bearssl(tree, name, cc, cflags, tools=""):
    """libbearssl.a from a tree, built outside of it: a prefix with include/ and lib/. tools: what stands before ar."""
    prefix = os.path.join(OUT, name)
    stamp = "%s %s %s %s" % (tree, cc, cflags, stamp_of(tree))
    mark = os.path.join(prefix, "stamp")
    if os.path.exists(mark) and open(mark).read() == stamp:
        return prefix
    shutil.rmtree(prefix, ignore_errors=True)
    for d in ("include", "lib", "obj"):
        os.makedirs(os.path.join(prefix, d))
    for header in glob.glob(os.path.join(tree, "inc", "*.h")):
        shutil.copy(header, os.path.join(prefix, "include"))
    note("builds BearSSL: " + name)
    run(*NICE, "make", "-s", "-C", tree, "lib", "CC=" + cc, "CFLAGS=" + cflags, "BUILD=" + prefix,
        "AR=%sar" % tools, "BEARSSLLIB=" + prefix + "/lib/libbearssl.a")
    shutil.rmtree(os.path.join(prefix, "obj"))
    with open(mark, "w") as f:
        f.write(stamp)
    return prefix


def musl(target):
    """A compiler for a target that Debian has a compiler with glibc for: its gcc, and musl from Debian's source."""
    prefix = os.path.join(OUT, "musl-" + target)
    cc = os.path.join(prefix, "bin", "musl-gcc")
    if os.path.exists(cc):
        return cc
    if not shutil.which(target + "-gcc"):
        raise Failed("no %s-gcc" % target)
    tree, there = apt_source("musl"), os.path.join(OUT, "musl-" + target + "-build")
    os.makedirs(there, exist_ok=True)
    note("builds musl for " + target)
    env = dict(os.environ, CC=target + "-gcc", CROSS_COMPILE=target + "-", CFLAGS="-Os " + GC)
    run(*NICE, os.path.join(tree, "configure"), "--target=" + target, "--prefix=" + prefix, "--disable-shared",
        "--enable-wrapper=gcc", cwd=there, env=env)
    run(*NICE, "make", "-s", "install", cwd=there, env=env)
    shutil.rmtree(there)
    return cc


def wssd(name, prefix, cc, cflags, ldflags):
    """./wssd from a copy of the sources; the path of the binary, not stripped."""
    there = os.path.join(OUT, name)
    os.makedirs(there, exist_ok=True)
    for f in ("ws.h", "main.c", "tls.c", "http.c", "ws.c", "Makefile"):
        shutil.copy2(os.path.join(TOP, f), there)
    for f in glob.glob(os.path.join(there, "*.o")) + glob.glob(os.path.join(there, "wssd")):
        os.unlink(f)
    run(*NICE, "make", "-s", "wssd", "CC=" + cc, "CFLAGS=" + cflags, "LDFLAGS=" + ldflags, "BEARSSL=" + prefix, cwd=there)
    return os.path.join(there, "wssd")


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


class Server:
    """wssd, perhaps below another program, with an echo, a hub and files, on one TLS port and one plain port."""

    def __init__(self, binary, wrap=(), slots=SLOTS, drain=True):
        key, cert, root = fixture()
        args = ["--listen", "wss://127.0.0.1:0", "--listen", "ws://127.0.0.1:0", "--cert", cert, "--key", key,
                "--root", root, "--max-clients", str(slots), "--max-per-ip", "0", "--ping", "0", "--timeout", "300",
                "/echo=echo", "/hub=hub"]
        self.began = time.monotonic()
        self.proc = subprocess.Popen(list(wrap) + [binary] + args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE)
        self.ports, self.log = [], []
        try:
            while len(self.ports) < 2:
                line = self.proc.stderr.readline().decode(errors="replace")
                if not line:
                    raise Failed("%s did not start: %s" % (binary, "".join(self.log[-5:])))
                self.log.append(line)
                m = re.search(r"listening on wss?://127\.0\.0\.1:(\d+)", line)
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
        return wsraw.connect(self.ports[0], True, timeout=120, **kw)

    def plain(self):
        return wsraw.connect(self.ports[1], timeout=120)

    def pid(self):
        """Of wssd itself, which is a child of strace, and is valgrind."""
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


def echo(size, flight=1, plain=False):
    def work(server, n):
        data = bytes(i * 7 & 0xff for i in range(size))
        c = server.plain() if plain else server.connect()
        c.open("/echo")
        for _ in range(0, n, flight):
            c.send(wsraw.frame(wsraw.BINARY, data) * flight)
            for _ in range(flight):
                c.expect_binary(data)
        work.suite = "" if plain else c.tls.cipher()[0]
        c.close_handshake()
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
                work.suite = c.tls.cipher()[0]
    return work


# Name, what is done, the two lengths of a run, operations in one of them. Lengths are such that the sweep that the server
# makes once a second is lost in them.
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
]


# ---- instructions


def parse_callgrind(path):
    """Self cost by (object, file, function): added up over the lines that callgrind gives."""
    names = {"ob": {}, "fl": {}, "fn": {}}
    here = {"ob": "?", "fl": "?", "fn": "?"}
    cost = collections.Counter()
    kinds = {"ob": "ob", "fl": "fl", "fi": "fl", "fe": "fl", "fn": "fn", "cob": "ob", "cfi": "fl", "cfl": "fl", "cfn": "fn"}
    home = "?"  # the file that the function is in, whatever is inlined in it
    skip = False
    with open(path, errors="replace") as f:
        for line in f:
            m = re.match(r"(ob|fl|fi|fe|fn|cob|cfi|cfl|cfn)=\((\d+)\)(?: (.*))?$", line)
            if m:
                word, number, name = m.groups()
                table = names[kinds[word]]
                if name is not None:
                    table[number] = name.strip()
                if word in here:
                    here[word] = table[number]
                    if word == "fl":
                        home = table[number]
            elif line.startswith("calls="):
                skip = True  # the next line is the cost of the call, counted where it is self cost
            elif line[:1] in "0123456789+-*":
                if not skip:
                    cost[here["ob"], home, re.sub(r"'\d+$", "", here["fn"])] += int(line.split()[1])
                skip = False
    return cost


def owner(key, sources):
    """Whose code a function is: a file of wssd's, BearSSL, libc."""
    obj, file, _ = key
    base = os.path.basename(file)
    if base in ("main.c", "tls.c", "http.c", "ws.c") and not file.startswith(sources):
        return "wssd"
    if file.startswith(sources) or "/src/" in file and os.path.basename(obj) == "wssd":
        return "BearSSL"
    if os.path.basename(obj) == "wssd":
        return "BearSSL" if file != "???" else "other"
    return "libc" if "libc" in obj or "ld-" in obj or "ld" in os.path.basename(obj) else "other"


def callgrind(binary, work, n, sources):
    """Self costs of a run with n operations."""
    out = os.path.join(OUT, "callgrind.out")
    wrap = NICE + ["valgrind", "-q", "--tool=callgrind", "--callgrind-out-file=" + out]
    server = Server(binary, wrap)
    try:
        work(server, n)
    finally:
        server.stop()
    return parse_callgrind(out)


def instructions(binary, sources, only=None):
    """For each operation: the count, by owner, and the functions that make it up."""
    result = {}
    for name, work, few, many, per in OPERATIONS:
        if only and not re.search(only, name):
            continue
        note("callgrind: " + name)
        a, b = callgrind(binary, work, few, sources), callgrind(binary, work, many, sources)
        b.subtract(a)
        ops = (many - few) * per
        whose = collections.Counter()
        for key, cost in b.items():
            whose[owner(key, sources)] += cost / ops
        top = [[key[2], owner(key, sources), round(cost / ops, 1)] for key, cost in b.most_common(25) if cost >= ops * 0.5]
        result[name] = {"count": round(sum(b.values()) / ops, 1), "owner": {k: round(v, 1) for k, v in whose.items()},
                        "functions": top, "suite": getattr(work, "suite", "")}
    return result


# ---- the other parts


def calls(binary):
    """System calls per message, 64 B, one in flight on one connection."""
    found = []
    few, many = 100, 1100
    for n in (few, many):
        out = os.path.join(OUT, "strace.out")
        server = Server(binary, ["strace", "-c", "-f", "-o", out])
        try:
            echo(64)(server, n)
        finally:
            server.stop()
        count = collections.Counter()
        for line in open(out):
            m = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
            if m and m.group(2) != "total":
                count[m.group(2)] += int(m.group(1))
        found.append(count)
    found[1].subtract(found[0])
    each = {k: round(v / (many - few), 3) for k, v in found[1].items() if v}
    return {"calls": each, "sum": round(sum(found[1].values()) / (many - few), 3)}


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
        server = Server(binary, drain=False)
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
    server = Server(binary)
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


TARGETS = [  # name, compiler (None: musl for the target is built first), what stands before strip and nm
    ("x86-64, musl", "musl-gcc", ""),
    ("ARM (ARMv7, Thumb), musl", None, "arm-linux-gnueabihf-"),
    ("MIPS (MIPS32 R2), musl", None, "mips-linux-gnu-"),
]


def size(tree, tag):
    """Sizes of the static binary, stripped, and its largest symbols."""
    result = {}
    for name, cc, tools in TARGETS:
        try:
            cc = cc or musl(tools.rstrip("-"))
            where = (tools or "x86_64-linux-") + "musl" + tag
            binary = wssd("wssd-" + where, bearssl(tree, "bearssl-" + where, cc, SMALL, tools), cc, SMALL, SMALL_LD)
            run(tools + "strip", "-R", ".comment", "-o", binary + ".stripped", binary)
            symbols = [line.split() for line in run(tools + "nm", "-S", "--size-sort", "-r", binary).splitlines()]
            result[name] = {"bytes": os.path.getsize(binary + ".stripped"), "binary": binary,
                            "symbols": [[w[3], int(w[1], 16)] for w in symbols if len(w) == 4 and w[2] not in "bB"][:12]}
        except (Failed, OSError) as e:
            result[name] = {"failed": str(e)}
            note("%s: %s" % (name, e))
    return result


# ---- the report


def measure(args):
    only = args.only.split(",") if args.only else PARTS
    os.makedirs(OUT, exist_ok=True)
    tree = os.path.abspath(args.bearssl) if args.bearssl else apt_source("bearssl")
    tag = "-other" if args.bearssl else ""
    cflags = "-O2 -g"
    data = {"date": datetime.date.today().isoformat(), "bearssl": os.path.basename(tree), "parts": only}
    data["commit"] = run("git", "-C", TOP, "describe", "--always", "--dirty").strip()

    def build(kind, extra):
        prefix = bearssl(tree, "bearssl-" + kind + tag, "cc", cflags + " " + extra)
        return wssd("wssd-" + kind + tag, prefix, "cc", cflags, "")

    def part(name, f):
        try:
            data[name] = f()
        except (Failed, AssertionError, OSError, subprocess.TimeoutExpired) as e:
            data.setdefault("failed", {})[name] = str(e) or repr(e)
            note("%s: %s" % (name, e))

    if "instructions" in only:
        part("machine", lambda: instructions(build("machine", ""), tree, args.operation))
        part("portable", lambda: instructions(build("portable", PORTABLE), tree, args.operation))
    if "size" in only:
        part("size", lambda: size(tree, tag))
    if "calls" in only:
        part("calls", lambda: calls(build("machine", "")))
    if "memory" in only:
        part("memory", lambda: memory(build("machine", "")))
    if "start" in only:
        part("start", lambda: start(build("machine", "")))
    return data


def mark(good):
    return "met" if good else "**missed**"


def markdown(data):
    out = [FENCE[0], "", "## Counts", "",
           "Measured %s at %s with BearSSL from `%s`; see the chapter Benchmarks of ../README.md for what is counted."
           % (data["date"], data["commit"], data["bearssl"]), ""]
    columns = [k for k in ("machine", "portable") if k in data]
    if columns:
        out += ["Instructions of the server per operation (callgrind; the kernel's are not in it):", "",
                "| operation | %s | of these wssd's own |" % " | ".join(columns), "|---|" + "--:|" * (len(columns) + 1)]
        for name in data[columns[0]]:
            cells = [data[k].get(name) for k in columns]
            out.append("| %s | %s | %s |" % (
                name, " | ".join("{:,.0f}".format(c["count"]) if c else "" for c in cells),
                "{:,.0f}".format(cells[0]["owner"].get("wssd", 0))))
        out.append("")
        for kind in columns:
            suites = {c["suite"] for c in data[kind].values() if c["suite"]}
            out.append("Suite, %s: %s." % (kind, ", ".join(sorted(suites))))
        out += ["", "Where they go (self cost, percent):", "", "| function | of | " + " | ".join(PROFILED) + " |",
                "|---|---|" + "--:|" * len(PROFILED)]
        out += profile_rows(data[columns[0]])
        out.append("")
    if "calls" in data:
        c = data["calls"]
        out += ["System calls per echoed message, 64 B, one in flight on one connection: %.2f (%s); %d is the mark: %s." % (
            c["sum"], ", ".join("%s %.2f" % x for x in sorted(c["calls"].items()) if x[1] >= 0.005), MARK_CALLS,
            mark(c["sum"] < MARK_CALLS + 0.01)), ""]
    if "start" in data:
        s = data["start"]
        out += ["Start, P-256 key, %d slots, milliseconds from exec, median of 50: port named %.2f (%.2f of it the server's "
                "CPU), first byte of a plain answer %.2f, of a TLS one %.2f; below %.0f is the mark: %s. (/bin/true, started "
                "and waited for the same way: %.2f.)" % (SLOTS, s["listening"], s["CPU"], s["first byte"],
                            s["first byte, TLS"], MARK_START,
                            mark(max(s["first byte"], s["first byte, TLS"]) < MARK_START), s["/bin/true"]), ""]
    if "memory" in data:
        m = data["memory"]
        out += ["RSS of the started server with %d slots and no client: %.0f KiB, of these anonymous %.0f, private %.0f." % (
            SLOTS, m["RSS"] / 1024, m["anonymous"] / 1024, m["private"] / 1024), ""]
    if "size" in data:
        out += ["Static binary, stripped, every feature in it:", "", "| target | bytes | mark |", "|---|--:|---|"]
        for name, s in data["size"].items():
            if "bytes" in s:
                out.append("| %s | %s | %s |" % (name, "{:,}".format(s["bytes"]), "" if name != TARGETS[0][0] else
                                                "below {:,}: {}".format(MARK_SIZE, mark(s["bytes"] < MARK_SIZE))))
            else:
                out.append("| %s | | not built: %s |" % (name, s["failed"].replace("\n", " ")[:120]))
        out.append("")
    for name, why in data.get("failed", {}).items():
        out += ["Not measured: %s (%s)." % (name, why.replace("\n", " ")[:200]), ""]
    return "\n".join(out + [FENCE[1]]) + "\n"


PROFILED = ["echo 64 B", "full handshake"]


def profile_rows(part, shown=10):
    """The functions that cost most in any of the PROFILED operations."""
    share = {}
    for i, name in enumerate(PROFILED):
        for function, whose, cost in part.get(name, {}).get("functions", [])[:shown]:
            share.setdefault((function, whose), [None] * len(PROFILED))[i] = 100 * cost / part[name]["count"]
    rows = sorted(share.items(), key=lambda x: [-(v or 0) for v in x[1]])
    return ["| %s | %s | %s |" % (k[0], k[1], " | ".join("" if v is None else "%.1f" % v for v in vs)) for k, vs in rows]


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
    p.add_argument("--operation", help="of `instructions`: a regular expression")
    p.add_argument("--bearssl", metavar="DIR", help="another tree of BearSSL's sources")
    p.add_argument("--last", action="store_true", help="the figures of the last run")
    for form in ("json", "markdown", "write"):
        p.add_argument("--" + form, action="store_true")
    args = p.parse_args()
    if args.last:
        data = json.load(open(LAST))
    else:
        try:
            data = measure(args)
        except Failed as e:
            sys.exit("counts: %s" % e)
        with open(LAST, "w") as f:
            json.dump(data, f, indent=1)
    if args.json:
        print(json.dumps(data, indent=1))
    elif args.write:
        write(markdown(data))
    if not args.json:
        print(markdown(data))


if __name__ == "__main__":
    main()
