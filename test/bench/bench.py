"""`make bench`: what a message, a client and a handshake cost the server, beside the servers of others and two floors.

    bench.py [--rounds N] [--only REGEX] [--servers REGEX] [--seconds X]    measure and report
    bench.py --report FILE                            report once more what a run left in build/bench/results.json

Environment: WSSD (the binary, default ./wssd of the checkout).

A cell of the table is one server on one core and the load generator (load.c) on another: the server is started afresh and
warmed up, and what it, its threads and its children then use of the CPU is divided by what comes back; load.c checks each
byte of it. A round takes all servers through one kind of work, then through the next; the next round goes through the
servers the other way. Medians of the rounds are shown. A server that fails is shown as failed, with its reason.

A whole run of at least five rounds writes RESULTS.md and RESULTS.svg beside this file, any other run into build/bench.
"""

import argparse
import collections
import ctypes
import datetime
import json
import math
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import powers  # noqa: E402
from report import FULL_ROUNDS, GROWTH, GROWTH_ROUNDS, METRICS, Results, drawing, figure, keeping, report  # noqa: E402

TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(TOP, "build", "bench")
PEERS = os.path.join(HERE, "peers")
MODULES = os.path.join(BUILD, "node", "node_modules")
WSSD = os.environ.get("WSSD", os.path.join(TOP, "wssd"))
PYTHON = "/usr/bin/python3"  # Debian's, which has python3-websockets
LIBC = ctypes.CDLL(None)
IDLE = 5000         # clients at rest
CELL_SECONDS = 120  # more than any cell takes
TRIES = 2           # failures after which a cell that has no value is not measured again


def path(name):
    return os.path.join(BUILD, name)


ROOT, CERT, KEY = path("root"), path("cert.pem"), path("key.pem")


class Failed(Exception):
    """A cell has no value, and why."""


# ---- the work: words for load.c, and what of its answer is which metric


def us_each(r):
    return r["cpu_ns"] / r["messages"] / 1e3


def us_mib(r):
    return r["cpu_ns"] / r["bytes"] * (1 << 20) / 1e3


def rss_each(when):
    return lambda r: (r[when] - r["rss_start"]) / r["idle"]


VALUES = {
    "rss-idle": rss_each("rss_idle"),
    "rss-burst": rss_each("rss_end"),
    "wake": lambda r: (r["cpu_ns"] + r["cpu_ns_rest"] - r["cpu_ns_idle"]) / r["messages"] / 1e3,
    "wake-time": lambda r: r["p50_us"],
    "stream-1m": us_mib,
    "get-100m": us_mib,
    "alone-time": lambda r: r["p50_before_us"],
    "among-time": lambda r: r["p50_during_us"],
    "among": lambda r: r["p50_during_us"] / r["p50_before_us"],
}

# `much` is seconds, or a number of messages if it is an int; slots: for how many clients the server is made ready
Work = collections.namedtuple("Work", "name servers load warm much metrics slots")


def work(name, servers, load, warm, much=1.0, metrics=None, slots=256):
    return Work(name, servers.split(), load.split(), warm, much, metrics or [name], slots)


ECHO = "wssd tcp bear bun lws ws py nginx"
MANY = "wssd tcp bear bun lws ws"
HUB = "wssd bun lws ws py"
FILES = "wssd bun nginx"
SHAKE = "wssd bear bun lws ws py nginx mosquitto"
SLEEPERS = "--idle %d --settle 2" % IDLE
WORKS = [
    work("echo-64", ECHO, "echo --conns 100 --size 64", 20000),
    work("echo-1k", ECHO, "echo --conns 100 --size 1024", 20000),
    work("echo-64-16", ECHO, "echo --conns 100 --size 64 --inflight 16 --apart", 32000),
    work("echo-64-x16", ECHO, "echo --conns 100 --size 64 --inflight 16", 32000),
    work("echo-16k", ECHO, "echo --conns 16 --size 16384", 3200),
    work("echo-1m", ECHO, "echo --conns 4 --size 1048576", 40, 1.5),
    work("busy", MANY, "echo --conns 32 --size 64", 20000),
    work("busy-5000", MANY, "echo --conns 32 --size 64 " + SLEEPERS, 20000, 1.0, ["busy-5000", "rss-idle"], IDLE + 100),
    work("burst", "wssd bun lws ws", "burst --size 16384 " + SLEEPERS, 0, 0, ["rss-burst"], IDLE + 100),
    work("one", "wssd", "echo --conns 1 --size 64", 2000),
    work("wake", "wssd", "wake --size 64 " + SLEEPERS, 0, 0, ["wake", "wake-time"], IDLE + 100),
    work("hub", HUB, "broadcast --path /chat --conns 100 --size 64", 400, 2000),
    work("hub-16", HUB, "broadcast --path /chat --conns 100 --size 64 --inflight 16", 800, 4800),
    work("stream-1m", "wssd", "stream --path /tcp --conns 4 --size 1048576", 40, 1.5),
    work("get-1k", FILES, "get --path /1k --file @ROOT@/1k --conns 100", 10000),
    work("get-100k", FILES, "get --path /100k --file @ROOT@/100k --conns 16", 320),
    work("get-100m", FILES, "get --path /100m --file @ROOT@/100m --conns 1", 1, 1.5),
    work("full", SHAKE, "handshake --conns 4", 100),
    work("resumed", SHAKE, "handshake --conns 4 --resume", 100),
    work("among", "wssd bun lws ws", "handshake --conns 200 --with-echo 100 --before 0.5", 20, 200,
         ["alone-time", "among-time", "among"], 512),
]


def growing(clients):
    """The two works for so many clients: all of them busy; 32 busy among them."""
    slots = clients + 100
    return {"all": work("growth", "", "echo --conns %d --size 64" % clients, max(20000, 2 * clients), slots=slots),
            "idle": work("growth", "", "echo --conns 32 --size 64 --settle 2 --idle %d" % clients, 20000, slots=slots)}


# ---- the servers: (command, port or None: it says where it listens) for a work; backend() starts what is behind it


def bun():
    """npm's package of Bun for this CPU holds the program."""
    place = os.path.join(MODULES, "@oven")
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
        return os.path.join(place, name, "bin", "bun")
    raise Failed("npm has not installed it")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def filled(name, **values):
    """A configuration of peers/ with values in place of @NAMES@: (file, port)."""
    values.update(PORT=free_port(), SPARE=free_port(), DIR=BUILD, CERT=CERT, KEY=KEY, ROOT=ROOT)
    with open(os.path.join(PEERS, name)) as f:
        text = re.sub(r"@(\w+)@", lambda m: str(values.get(m.group(1), m.group(0))), f.read())
    with open(path(name), "w") as f:
        f.write(text)
    return path(name), values["PORT"]


def program(name):
    return shutil.which(name) or os.path.join("/usr/sbin", name)


def wssd(w, backend):
    command = [WSSD, *powers.words(WSSD), "--listen", "wss://127.0.0.1:0", "--cert", CERT, "--key", KEY, "--max-clients",
               str(w.slots), "--max-per-ip", "0", "--root", ROOT, "/echo=echo", "/chat=hub"]
    if w.name == "stream-1m":
        command.append("/tcp=tcp:127.0.0.1:%d" % backend([path("floor"), "tcp", "--max", "64"]))
    return command, None


def nginx(w, backend):
    behind = 9  # nobody
    if not w.name.startswith("get"):
        behind = backend([WSSD, *powers.words(WSSD), "--listen", "ws://127.0.0.1:0", "--max-clients", "256", "--max-per-ip", "0",
                          "--host", "any", "/echo=echo"])
    conf, port = filled("nginx.conf", BACKEND="127.0.0.1:%d" % behind)
    return [program("nginx"), "-p", BUILD, "-c", conf], port


def mosquitto(w, backend):
    conf, port = filled("mosquitto.conf")
    return [program("mosquitto"), "-c", conf], port


def peer(*command):
    """One that says where it listens; its last words are certificate, key and directory of files."""
    return lambda w, backend: ([c() if callable(c) else c for c in command] + [CERT, KEY, ROOT], None)


COMMANDS = {
    "wssd": wssd,
    "tcp": lambda w, backend: ([path("floor"), "tcp", "--max", str(w.slots)], None),
    "bear": lambda w, backend: ([path("floor"), "bear", "--cert", CERT, "--key", KEY, "--max", str(w.slots)], None),
    "bun": peer(bun, os.path.join(PEERS, "bun.js")),
    "lws": peer(path("lws")),
    "ws": peer("node", os.path.join(PEERS, "ws.js")),
    "py": peer(PYTHON, os.path.join(PEERS, "py.py")),
    "nginx": nginx,
    "mosquitto": mosquitto,
}
LOAD = {"tcp": ["--raw", "--pad", "--plain"], "bear": ["--raw", "--pad"],
        # it ends each connection half a second late
        "mosquitto": ["--path", "/mqtt", "--conns", "32", "--messages", "64", "--warm", "1"]}
PACE = {"py": 0.1, "ws": 0.5}  # of warming up, and of a number of messages


def load_command(w, server, seconds=1.0):
    pace = PACE.get(server, 1)
    words = [path("load")] + [word.replace("@ROOT@", ROOT) for word in w.load]
    if w.warm:
        words += ["--warm", str(math.ceil(w.warm * pace))]
    if isinstance(w.much, float):
        words += ["--seconds", "%g" % (w.much * seconds)]
    elif w.much:
        words += ["--messages", str(math.ceil(w.much * pace))]
    return words + LOAD.get(server, [])


def last_line(text):
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return lines[-1].replace(TOP + os.sep, "")[:200] if lines else "without a word"


def on_core(core):
    """What a child does first: it goes to its core, and ends with this process at the latest."""
    def child():
        LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.sched_setaffinity(0, {core})
    return child


class Running:
    """A server, on one core."""

    def __init__(self, command, core, port=None):
        env = dict(os.environ, NODE_PATH=MODULES, NODE_ENV="production")
        env.pop("JOURNAL_STREAM", None)
        self.log = path(os.path.basename(command[0]) + ".log")
        with open(self.log, "wb") as log:
            try:
                self.proc = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=BUILD,
                                             preexec_fn=on_core(core))
            except OSError as e:
                raise Failed("%s: %s" % (os.path.basename(command[0]), e.strerror))
        try:
            self.port = self.wait(port)
        except BaseException:
            self.stop()
            raise

    def said(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def wait(self, port):
        for _ in range(1000):
            if self.proc.poll() is not None:
                raise Failed("ended at its start: " + last_line(self.said()))
            m = re.search(r"listening on (?:\w+://)?127\.0\.0\.1:(\d+)$", self.said(), re.M)
            if port:
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", port)) == 0:
                        return port
            elif m:
                return int(m.group(1))
            time.sleep(0.02)
        raise Failed("does not listen after 20 s")

    def stop(self):
        self.proc.terminate()
        try:
            self.proc.wait(3)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()


def measure(w, server, cores, seconds=1.0):
    """One cell: what load.c says of it."""
    running = []

    def backend(command):
        running.append(Running(command, cores[1]))
        return running[-1].port

    try:
        for left in (1, 0):
            command, port = COMMANDS[server](w, backend)
            try:
                running.append(Running(command, cores[0], port))
                break
            except Failed:  # the port that was free a moment ago may not be any more
                if not port or not left:
                    raise
        command = load_command(w, server, seconds) + ["--port", str(running[-1].port), "--pid", str(running[-1].proc.pid)]
        try:
            r = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               timeout=CELL_SECONDS, preexec_fn=on_core(cores[1]))
        except subprocess.TimeoutExpired:
            raise Failed("not done after %d s" % CELL_SECONDS)
        except OSError as e:
            raise Failed("%s: %s" % (command[0], e.strerror))
        if r.returncode:
            raise Failed("%s%s" % (last_line(r.stderr.decode(errors="replace")), "" if running[-1].proc.poll() is None else
                                   "; the server has ended with status %d" % running[-1].proc.poll()))
        return json.loads(r.stdout)
    finally:
        for process in reversed(running):
            process.stop()


# ---- when, where, which


def first_line(*command):
    try:
        r = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20)
        return r.stdout.decode(errors="replace").strip().split("\n")[0]
    except (OSError, subprocess.TimeoutExpired):
        return "?"


def package(name):
    return first_line("dpkg-query", "-W", "-f", "${Version}", name)


def versions():
    def of_ws():
        with open(os.path.join(MODULES, "ws", "package.json")) as f:
            return "%s on node %s" % (json.load(f)["version"], first_line("node", "--version").lstrip("v"))

    out = {}
    for name, version in {
            "bun": lambda: first_line(bun(), "--version"), "lws": lambda: package("libwebsockets-dev"), "ws": of_ws,
            "py": lambda: "%s on Python %s" % (package("python3-websockets"), first_line(PYTHON, "--version").split()[-1]),
            "nginx": lambda: first_line(program("nginx"), "-v").rpartition("/")[2],
            "mosquitto": lambda: package("mosquitto")}.items():
        try:
            out[name] = version()
        except (Failed, OSError, ValueError):
            out[name] = "?"
    return out


def machine():
    with open("/proc/cpuinfo") as f:
        text = f.read()
    model = re.search(r"^(?:model name|Model|Hardware)\s*: (.*)$", text, re.M)
    with open("/proc/meminfo") as f:
        memory = int(re.search(r"MemTotal:\s+(\d+)", f.read()).group(1)) / (1 << 20)
    return "%s%s, %d cores, %.0f GiB, Linux %s, %s" % (
        model.group(1) if model else platform.processor(), " (virtual machine)" if " hypervisor" in text else "",
        os.cpu_count(), memory, platform.release(), platform.machine())


def commit():
    """What is measured. Results of a run before are no change."""
    return first_line("git", "-C", TOP, "rev-parse", "--short", "HEAD") + (
        " with changes" if first_line("git", "-C", TOP, "status", "--porcelain", "--untracked-files=no",
                                      ":!test/bench/RESULTS.*") else "")


def busy_seconds():
    """CPU time of all cores so far, but for what is idle or waits."""
    with open("/proc/stat") as f:
        words = [int(x) for x in f.readline().split()[1:9]]
    return (sum(words) - words[3] - words[4]) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


# ---- a run


def prepare():
    """A certificate, and files to get."""
    os.makedirs(ROOT, exist_ok=True)
    if not os.path.exists(CERT):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "3650", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                        "-keyout", KEY, "-out", CERT], check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name, size in (("1k", 1 << 10), ("100k", 100 << 10), ("100m", 100 << 20)):
        file = os.path.join(ROOT, name)
        if not os.path.exists(file) or os.path.getsize(file) != size:
            with open(file, "wb") as f:
                f.write(os.urandom(size))


def cell(results, w, server, cores, seconds):
    """Measures one, and says so."""
    before = results.failed.get(w.name, {}).get(server, [])
    if len(before) >= TRIES and not results.values.get(w.metrics[0], {}).get(server):
        results.fail(w.name, server, before[-1])
        return "not tried again"
    try:
        r = measure(w, server, cores, seconds)
    except Failed as e:
        results.fail(w.name, server, str(e))
        return "failed: %s" % e
    said = []
    for metric in w.metrics:
        value = VALUES.get(metric, us_each)(r)
        results.add(metric, server, value)
        said.append("%s %s" % (figure(value, METRICS[metric].unit), METRICS[metric].unit))
    return ", ".join(said)


def grow(results, server, clients, cores, seconds):
    said = []
    for kind, w in growing(clients).items():
        try:
            r = measure(w, server, cores, seconds)
        except Failed as e:
            results.fail("growth", server, "%d clients: %s" % (clients, e))
            said.append("failed: %s" % e)
            continue
        place = results.growth.setdefault(server, {}).setdefault(str(clients), {})
        place.setdefault(kind, []).append(us_each(r))
        said.append("%.2f us" % us_each(r))
        if kind == "idle":
            place.setdefault("rss", []).append(rss_each("rss_idle")(r))
            said.append("%.0f bytes" % place["rss"][-1])
    return "%d clients: %s" % (clients, ", ".join(said))


def save(results):
    with open(path("results.json"), "w") as f:
        json.dump(results.__dict__, f, indent=1)


def run(rounds, only, servers, seconds):
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the server, one for the load")
    prepare()
    os.sched_setaffinity(0, {cores[1]})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and no server stays behind
    wanted = re.compile(only)
    def chosen(names):
        return [s for s in names if re.search(servers, s)]

    works = [w._replace(servers=chosen(w.servers)) for w in WORKS if wanted.search(w.name)]
    growth = chosen(["wssd", "bun"]) if wanted.search("growth") else []
    if not works and not growth:
        sys.exit("there is no work of that name; there are growth, " + ", ".join(w.name for w in WORKS))
    results, began = Results(), time.monotonic()
    load, foreign = os.getloadavg()[0], busy_seconds() - own_seconds()
    for n in range(rounds):
        turn = -1 if n % 2 else 1
        for w in works:
            for server in w.servers[::turn]:
                print("%d %-10s %-9s %s" % (n + 1, w.name, server, cell(results, w, server, cores, seconds)), flush=True)
            save(results)
        for clients in GROWTH if n < GROWTH_ROUNDS else ():
            for server in growth[::turn]:
                said = grow(results, server, clients, cores, seconds)
                print("%d %-10s %-9s %s" % (n + 1, "growth", server, said), flush=True)
            save(results)
    took = time.monotonic() - began
    results.about = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(), "rounds": rounds,
        "minutes": took / 60, "load": load, "foreign": max(0, busy_seconds() - own_seconds() - foreign) / took,
        "versions": versions(),
        "libraries": {"BearSSL": os.path.basename(os.environ.get("BEARSSL", "")) or package("libbearssl-dev"),
                      "OpenSSL": first_line("openssl", "version").split()[1], "compiler": first_line("cc", "--version")},
        "whole": not only and not servers and rounds >= FULL_ROUNDS and seconds >= 1,
    }
    save(results)
    return results


def write(results, place):
    file = os.path.join(place, "RESULTS.md")
    old = ""
    if os.path.exists(file):
        with open(file) as f:
            old = f.read()
    with open(file, "w") as f:
        f.write(keeping(report(results), old))
    with open(os.path.join(place, "RESULTS.svg"), "w") as f:
        f.write(drawing(results))
    return file


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--rounds", type=int, default=FULL_ROUNDS)
    p.add_argument("--only", default="", help="a regular expression that finds names of: growth, " + ", ".join(
        w.name for w in WORKS))
    p.add_argument("--servers", default="", help="a regular expression that finds names of: " + ", ".join(COMMANDS))
    p.add_argument("--seconds", type=float, default=1.0, help="a factor on the time that a cell is measured")
    p.add_argument("--report", help="a results.json: measure nothing")
    args = p.parse_args()
    if args.report:
        with open(args.report) as f:
            results = Results(json.load(f))
    else:
        results = run(args.rounds, args.only, args.servers, args.seconds)
    results.derive()
    file = write(results, HERE if results.about["whole"] else BUILD)
    print("\n%s\nwritten to %s" % (report(results), os.path.relpath(file)))


if __name__ == "__main__":
    main()
