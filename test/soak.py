"""Soak: mixed honest and hostile traffic for as long as wanted, against one or more builds of the server side by side.

    soak.py [--seconds N] [--seed N] [BINARY]...

Honest clients check each message (traffic.py); meanwhile files are replaced, by good and by bad ones, and reloaded. After
the first minute, every five minutes, and at the end the gate is closed: all go but the few that stay, and what the server
then holds is compared: descriptors, slots, backends, resident memory, and the CPU that it takes when nobody wants anything.
Each line of its log that tells how an honest connection ended must give a reason that is none of its fault. Prints what was
looked at, the figures, and at the end: N passed, N failed.

To see that it sees: --fault drop|twice (messages between server and clients), stall (the server stops for 1.5 s), and
--preload SHIM.so, for what a shim can do.
"""
import argparse
import collections
import hashlib
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import conftest
import peers
import pki
import traffic
import wsraw

SLOW = wsraw.SLOW
MAX = 192                       # clients
MESSAGE = 65536                 # max-message
RING = 4 << 20                  # bytes of the honest hub's backlog: who is in time here may be late on a loaded machine
SHARE = 0.25                    # of a CPU, for the server and those who attack it
STAY = 4                        # connections from the first minute to the end, one of them with a backend
RSS = 512                       # KiB that may come after the first minute
IDLE = 0.02                     # of a CPU, when nobody wants anything
WORST, MEDIAN = 0.9, 0.1        # seconds for an echo; a lost wake-up takes up to 1
NEWCOMER = 15                   # seconds until one is served, with a full house and reloads between
END = re.compile(r"^(<\d>)?(\S+):\d+ \S+ (\S+) (\S+) in=\d+ out=\d+ secs=[\d.]+.*?: (.*)$")
HARMLESS = {"client closed", "reload during the handshake", "made room for a newcomer", "server stops", "client left"}


class Soaked(conftest.Server):
    """A server of whose log the ends of connections are counted and not kept."""

    def follow(self, stream):
        self.reasons, self.honest, self.alarms = collections.Counter(), collections.Counter(), []
        super().follow(stream)

    def _collect(self, stream):
        for raw in stream:
            line = raw.decode("utf-8", "backslashreplace").rstrip("\n")
            with self.cond:
                if conftest.ALARMS.search(line) or self.alarms and len(self.alarms) < 60:
                    self.alarms.append(line)
                m = END.match(line)
                if m:
                    self.reasons[m[5]] += 1
                    if m[2].startswith(("127.1.", "192.0.2.7")):
                        self.honest[m[5]] += 1
                else:
                    self.log.append(line)
                self.cond.notify_all()
        with self.cond:
            self.eof = True
            self.cond.notify_all()


class Gang:
    """A crew in a process of its own."""

    def __init__(self, ctx, name, world, gate, over, seed):
        self.parked = ctx.Value("i", 0)
        self.pipe, theirs = ctx.Pipe()
        args = name, world, gate, over, self.parked, theirs, seed
        self.process = ctx.Process(target=traffic.crew, args=args, daemon=True)
        self.process.start()
        theirs.close()
        self.name, self.last, self.failures, self.ended = name, {"count": {}, "taken": {}}, [], False
        if not self.pipe.poll(60 * SLOW):
            raise AssertionError(f"{name}: did not start")
        self.size = self.pipe.recv()

    def look(self):
        try:
            while not self.ended and self.pipe.poll(0):
                report = self.pipe.recv()
                if report is None:
                    self.ended = True
                    return
                for failure in report["failures"]:
                    if len(self.failures) < 30:
                        print(f"  {self.name}: {failure}", flush=True)
                    self.failures.append(failure)
                self.last = report
        except EOFError:
            self.ended = True
            self.failures.append("the process ended")

    def count(self, *names):
        return sum(self.last["count"].get(name, 0) for name in names)


class Soak:
    def __init__(self, seconds, seed, fault, preload, place):
        self.seconds, self.rnd, self.place = seconds, random.Random(seed), place
        self.results, self.calms, self.reloads, self.wrong_reloads = [], [], collections.Counter(), []
        self.files()
        self.streams = streams = {"/stream": traffic.Mirror(), "/unix": traffic.Mirror(place + "/unix.sock"),
                   "/seq": traffic.Mirror(place + "/seq.sock", True),
                   "/seq-text": traffic.Mirror(place + "/text.sock", True, "t"),
                   "/broken": traffic.Broken(self.rnd), "/broken-unix": traffic.Broken(self.rnd, place + "/broken.sock"),
                   "/broken-seq": traffic.Broken(self.rnd, place + "/broken-seq.sock", True),
                   "/hang": peers.BlackHole(), "/hang-unix": peers.BlackHole(place + "/hang.sock")}
        args = ["--listen", "wss://127.0.0.1:0", "--listen", "ws://127.0.0.1:0",
                "--listen", "wss://127.0.0.1:0,client-ca=" + self.path("ca.pem"),
                "--listen", "wss://127.0.0.1:0,proxy=127.2.0.0/24",
                "--cert", self.path("cert.pem"), "--key", self.path("key.pem"), "--root", place + "/root",
                "--max-clients", MAX, "--max-message", MESSAGE, "--timeout", 8, "--ping", 5,
                "/echo=echo", "/hub=hub,ring=%d" % RING, "/flood=hub", "/private=echo,auth=" + self.path("auth")]
        args += [f"{path}={backend.route}" + (",text" if path == "/seq-text" else "") for path, backend in streams.items()]
        env = {"ASAN_OPTIONS": "abort_on_error=0:exitcode=99:quarantine_size_mb=1:detect_leaks=1"}
        if preload:
            env["LD_PRELOAD"] = os.path.abspath(preload)
        self.server = Soaked(args, env=env, nlisten=4)
        self.fill()
        tls, plain, ca, proxy = self.server.ports
        meddled = traffic.Meddler(plain, fault == "twice").port if fault in ("drop", "twice") else plain
        world = {"tls": tls, "plain": plain, "ca": ca, "proxy": proxy, "honest_plain": meddled, "pid": self.server.pid,
                 "max": MAX, "most": MESSAGE, "token": self.token, "page": self.page, "share": SHARE,
                 "device": self.device, "stranger": self.stranger}
        ctx = multiprocessing.get_context("spawn")
        self.gate, self.over = ctx.Event(), ctx.Event()
        self.gangs = {name: Gang(ctx, name, world, self.gate, self.over, seed) for name in ("honest", "probe", "hostile")}
        self.fault = fault

    def fill(self):
        """The hub's ring, whose pages would come one by one."""
        with wsraw.connect(self.server.plain_port) as c:
            c.open("/hub")
            for _ in range(0, RING, 60000):
                c.send_binary(bytes(60000), drain=True)
            c.ping(b"full")
            c.expect_pong(b"full")
            c.close_handshake()

    # ---- files, good and bad

    def path(self, name):
        return os.path.join(self.place, name)

    def files(self):
        os.mkdir(self.path("root"))
        os.mkdir(self.path("pki"))
        p = pki.Pki(self.path("pki"))
        self.pairs = [p.server("ec", "ec256"), p.server("rsa", "rsa2048"), p.server("p384", "ec384")]
        self.ca, self.device = p.ca("ca"), tuple(p.client("device", issuer=p.ca("ca")))
        self.stranger = tuple(p.client("stranger", issuer=p.ca("another")))
        content = self.rnd.randbytes(200000)
        self.page = hashlib.sha256(content).hexdigest()
        self.put("root/page.bin", content)
        self.put("root/index.html", b"hello")
        self.put("root/big.bin", bytes(4 << 20))
        self.token = self.rnd.randbytes(32).hex()
        self.good()

    def put(self, name, data):
        with open(self.path(name) + ".new", "wb") as f:
            f.write(data)
        os.replace(self.path(name) + ".new", self.path(name))

    def good(self):
        pair = self.rnd.choice(self.pairs)
        for name, file in (("cert.pem", pair.cert), ("key.pem", pair.key), ("ca.pem", self.ca.cert)):
            with open(file, "rb") as f:
                self.put(name, f.read())
        lines = [hashlib.sha256(self.rnd.randbytes(8)).hexdigest() + " somebody" for _ in range(self.rnd.randrange(50))]
        lines.insert(self.rnd.randrange(len(lines) + 1), hashlib.sha256(self.token.encode()).hexdigest() + " honest")
        self.put("auth", "\n".join(lines).encode() + b"\n")

    def bad(self):
        name = self.rnd.choice(("cert.pem", "key.pem", "ca.pem", "auth"))
        way = self.rnd.randrange(5)
        if way == 0:
            os.unlink(self.path(name))
        elif way == 1:
            self.put(name, b"-----BEGIN CERTIFICATE-----\n" + self.rnd.randbytes(300))
        elif way == 2:
            self.put(name, b"x" * 70000 + b"\n")
        elif way == 3:
            self.put(name, b"\0" * 100)
        else:
            other = next(p for p in self.pairs if open(p.cert, "rb").read() != open(self.path("cert.pem"), "rb").read())
            self.put("key.pem", open(other.key, "rb").read())

    def reload(self):
        fine = self.rnd.random() < 0.5
        self.good()
        if not fine:
            self.bad()
        here = self.server.here()
        self.server.hup()
        said = self.server.wait_log(r"^(<\d>)?(reloaded|reload refused: .*)$", 10, here)[2]
        self.reloads["good" if fine else "bad"] += 1
        if said.startswith("reloaded") != fine:
            self.wrong_reloads.append(f"{said!r}, files {'good' if fine else 'bad'}")

    # ---- the course

    def run(self):
        first = min(60, self.seconds / 3)
        stops = [first] + [t for t in range(360, int(self.seconds) - 60, 300)] + [self.seconds]
        at, said = 0, 0             # seconds with the gate open
        for stop in stops:
            opened = time.monotonic() - at
            self.gate.set()
            while at < stop and not self.broken():
                time.sleep(self.rnd.uniform(1, 3) if self.seconds > 100 else 0.7)
                self.reload()
                if self.fault == "stall" and self.rnd.random() < 0.3:
                    self.server.signal(signal.SIGSTOP)
                    time.sleep(1.5)
                    self.server.signal(signal.SIGCONT)
                at = time.monotonic() - opened
                if at - said > 60:
                    said = at
                    self.progress(at)
            self.calm(at)
            if self.broken() or self.results:       # who did not park stands in the way of each later look
                break
        self.finish()

    def broken(self):
        """There is nothing left to look at."""
        for gang in self.gangs.values():
            gang.look()
        return not self.server.alive() or any(g.ended for g in self.gangs.values())

    def progress(self, at):
        honest, hostile = self.gangs["honest"], self.gangs["hostile"].last["count"]
        print("  %5.0f s: %d honest messages, %d hostile acts, %d failures, %d reloads, %d KiB, %d descriptors" % (
            at, honest.count("echoed", "heard", "returned"), sum(v for k, v in hostile.items() if k.startswith("act ")),
            sum(len(g.failures) for g in self.gangs.values()), sum(self.reloads.values()), self.server.rss(),
            self.server.fds()), flush=True)

    def calm(self, at):
        """The gate is closed, and the server is looked at."""
        self.gate.clear()
        end = time.monotonic() + 60 * SLOW
        while not self.broken() and any(g.parked.value < g.size for g in self.gangs.values()):
            if time.monotonic() > end:
                names = {g.name: (g.parked.value, g.size) for g in self.gangs.values()}
                self.say("everybody parks", False, f"{names}")
                break
            time.sleep(0.1)
        if not self.server.alive():
            return
        try:
            self.server.wait_counters(20, clients=STAY, backends=1)
            self.server.wait_counters(20, asleep=STAY)
        except AssertionError as e:
            print("  " + str(e)[:300], flush=True)
        time.sleep(2.2)             # what was used by others is given back
        before, wall = peers.cpu(self.server.pid), time.monotonic()
        time.sleep(2)
        idle = (peers.cpu(self.server.pid) - before) / (time.monotonic() - wall)
        self.broken()
        for gang in self.gangs.values():
            if gang.count("open") != (STAY if gang.name == "honest" else 0):
                gang.failures.append(f"{gang.count('open')} connections of its own are open")
        c = self.server.counters()
        self.calms.append({"at": at, "rss": self.server.rss(), "fds": self.server.fds(), "clients": c["clients"],
                           "backends": c["backends"], "bugs": c["bugs"], "idle": idle})
        print("  %5.0f s, all quiet: %d KiB, %d descriptors, %d clients, %d backends, %.2f %% of a CPU" % (
            at, *(self.calms[-1][k] for k in ("rss", "fds", "clients", "backends")), 100 * idle), flush=True)

    def say(self, what, good, detail=""):
        self.results.append(bool(good))
        print("%s %s%s" % ("ok    " if good else "FAILED", what, f" ({detail})" if detail else ""), flush=True)

    def finish(self):
        s, honest, probe, hostile = self.server, *(self.gangs[n] for n in ("honest", "probe", "hostile"))
        self.over.set()
        hostile_end = time.monotonic() + 30 * SLOW
        while not (hostile.ended and probe.ended) and time.monotonic() < hostile_end:
            self.broken()
            time.sleep(0.1)
        counters = s.counters() if s.alive() else collections.Counter()
        cpu = peers.cpu(s.pid) if s.alive() else 0
        began = time.monotonic()
        try:
            status = s.term()
        except AssertionError as e:
            status = str(e)
        took, end = time.monotonic() - began, time.monotonic() + 30 * SLOW
        while not honest.ended and time.monotonic() < end:
            self.broken()
            time.sleep(0.1)
        self.judge(s, honest, probe, hostile, counters, cpu, status, took)
        for gang in self.gangs.values():
            gang.process.kill()
        s.kill()

    def judge(self, s, honest, probe, hostile, counters, cpu, status, took):
        n, calms = honest.count, self.calms
        first, last = calms[0], calms[-1]
        self.say("every message once and in order", not honest.failures and n("echoed", "heard", "returned"),
                 "%d sent; %d echoed, %d heard of a hub, %d back from backends; %d sessions, %d trailers, %d pages, "
                 "%d rests" % tuple(map(n, "sent echoed heard returned sessions trailers pages rests".split())))
        self.say("those that came first stayed to the end", n("stayed") == STAY, n("stayed"))
        steady, new = (sorted(probe.last["taken"].get(k, ())) for k in ("steady", "newcomer"))
        for name, taken, worst, median in (("steady", steady, WORST, MEDIAN), ("newcomer", new, NEWCOMER, 1)):
            good = len(taken) > 2 and taken[-1] < worst * SLOW and taken[len(taken) // 2] < median * SLOW
            figures = [1e3 * taken[i] for i in (len(taken) // 2, len(taken) * 999 // 1000, -1)] if taken else [0, 0, 0]
            self.say(f"it answers at all times: {name}", good and not probe.failures,
                     "%d times; median %.1f ms, 99.9 %% %.0f ms, worst %.0f ms" % (len(taken), *figures))
        odd = {k: v for k, v in s.honest.items() if k not in HARMLESS}
        self.say("no honest connection ended by a fault of the server", not odd, odd or dict(s.honest))
        acts = {k[4:]: v for k, v in hostile.last["count"].items() if k.startswith("act ")}
        missing = {a.__name__ for a in traffic.ACTS} - set(acts)
        self.say("hostile clients get what they deserve", not hostile.failures and not missing, "%d acts, %d full houses%s" %
                 (sum(acts.values()), hostile.count("full_houses"), f", never {missing}" if missing else ""))
        self.say("reloads", not self.wrong_reloads and min(self.reloads["good"], self.reloads["bad"]) > 0,
                 self.wrong_reloads[:5] or dict(self.reloads))
        for name, what in (("fds", "descriptors"), ("clients", "slots"), ("backends", "backends")):
            want = {"fds": s.fds0 + STAY + 1, "clients": STAY, "backends": 1}[name]
            self.say(f"{what} are as at the beginning whenever all is quiet", all(c[name] == want for c in calms),
                     [c[name] for c in calms])
        grown = last["rss"] - first["rss"]
        self.say(f"resident memory at the end as after the first minute, within {RSS} KiB", len(calms) > 1 and grown <= RSS,
                 "%+d KiB; %s" % (grown, [c["rss"] for c in calms]))
        self.say("no CPU when all is quiet", all(c["idle"] < IDLE * SLOW for c in calms),
                 ["%.2f %%" % (100 * c["idle"]) for c in calms])
        self.say("no bug, no finding of a sanitizer", not s.alarms and all(c["bugs"] == 0 for c in calms),
                 "\n".join(s.alarms))
        self.say("exit status 0 soon after SIGTERM", status == 0 and took < 5 * SLOW, "%s after %.1f s" % (status, took))
        print("  %d MiB in, %d out, %d frames in, %d out; %d accepted, %d refused, %d denied, %d handshakes, %d resumed; "
              "%.1f s of CPU, %.1f of the hostile clients" % (
                  counters["bytes_in"] >> 20, counters["bytes_out"] >> 20, counters["frames_in"], counters["frames_out"],
                  counters["accepted"], counters["refused"], counters["denied"], counters["handshakes"], counters["resumed"],
                  cpu, hostile.count("cpu")))
        print("  acts: " + ", ".join(f"{k} {v}" for k, v in sorted(acts.items())))
        print("  ends: " + ", ".join(f"{k} {v}" for k, v in s.reasons.most_common(40)))


def alone(options):
    print("seed %d, %.0f s, %s" % (options.seed, options.seconds, conftest.WSSD), flush=True)
    with tempfile.TemporaryDirectory(prefix="soak") as place:
        soak = Soak(options.seconds, options.seed, options.fault, options.preload, place)
        try:
            soak.run()
        finally:
            soak.server.kill()
            for backend in soak.streams.values():
                if isinstance(backend, traffic.Broken):
                    backend.stop()
    return sum(soak.results), len(soak.results) - sum(soak.results)


def beside(options):
    """Each binary in a process of its own, at once; its lines come with its name in front."""
    passed = failed = 0
    lock, threads, procs = threading.Lock(), [], []

    def copy(name, proc):
        nonlocal passed, failed
        found = None
        for line in proc.stdout:
            found = re.match(r"(\d+) passed, (\d+) failed$", line)
            with lock:
                print(f"{name}: {line.rstrip()}", flush=True)
        with lock:
            passed += int(found[1]) if found else 0
            failed += int(found[2]) if found else 1
    for binary in options.binary:
        words = [sys.executable, os.path.abspath(__file__), "--seconds", str(options.seconds), "--seed", str(options.seed)]
        words += ["--fault", options.fault] if options.fault else []
        words += ["--preload", options.preload] if options.preload else []
        proc = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                encoding="utf-8", errors="replace", env=dict(os.environ, WSSD=os.path.abspath(binary)))
        procs.append(proc)
        threads.append(threading.Thread(target=copy, args=(os.path.relpath(binary), proc)))
        threads[-1].start()
    try:
        for thread in threads:
            thread.join()
    finally:
        for proc in procs:
            proc.terminate()
            proc.wait()
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--fault", choices=("drop", "twice", "stall"))
    parser.add_argument("--preload")
    parser.add_argument("binary", nargs="*")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))      # and so nothing is left behind
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 30)
    passed, failed = beside(options) if options.binary else alone(options)
    print("%d passed, %d failed" % (passed, failed), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
