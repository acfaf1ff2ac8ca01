"""Peers of the server under test: scripted backends, a streaming client, a probe, and what the kernel knows of both.

Everything here runs in the test's own thread unless its name says otherwise, and every wait is bounded."""
import contextlib
import errno
import hashlib
import json
import os
import random
import re
import resource
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import wsraw

SLOW = wsraw.SLOW
WAIT = 10.0 * SLOW              # seconds after which a test gives up waiting


# What the kernel knows of a process and of the sockets of a port.

def rss(pid):
    """Resident memory of a process in KiB."""
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))


PLAIN = {}


def residues(pid, what):
    """How often it stands in what the process may write to."""
    n = 0
    with open("/proc/%d/maps" % pid) as maps, open("/proc/%d/mem" % pid, "rb", 0) as memory:
        for area in re.finditer(r"^(\w+)-(\w+) rw.. .{14}(?!.*\[v)", maps.read(), re.M):
            begin, end = int(area.group(1), 16), int(area.group(2), 16)
            if end - begin < 1 << 28:       # not what a sanitizer reserves
                memory.seek(begin)
                n += memory.read(end - begin).count(what)
    return n


def memory(server):
    """The same of a server, and 0 where it says nothing: under a sanitizer or valgrind."""
    exe = os.readlink(f"/proc/{server.pid}/exe")
    if exe not in PLAIN:
        with open(exe, "rb") as f:
            PLAIN[exe] = os.path.basename(exe).startswith("wssd") and b"__asan_" not in f.read()
    return rss(server.pid) if PLAIN[exe] else 0


def cpu(pid):
    """Seconds of CPU that a process has used."""
    try:
        with open(f"/proc/{pid}/schedstat") as f:
            return int(f.read().split()[0]) / 1e9
    except OSError:
        with open(f"/proc/{pid}/stat") as f:
            field = f.read().rsplit(")", 1)[1].split()
        return (int(field[11]) + int(field[12])) / os.sysconf("SC_CLK_TCK")


def kept_waiting(pid):
    """Seconds that a process was ready to run and not let: not its fault."""
    try:
        with open(f"/proc/{pid}/schedstat") as f:
            return int(f.read().split()[1]) / 1e9
    except OSError:
        return 0.0


class Stopwatch:
    """Seconds since it was started, less those that the machine kept the server or this thread waiting for a CPU: how long
    something took them, and not how much else the machine had to do."""

    def __init__(self, server):
        self.pid = server.pid
        self.start, self.waited = time.monotonic(), self.kept_waiting()

    def kept_waiting(self):
        return kept_waiting(self.pid) + kept_waiting("thread-self")

    def __call__(self):
        return time.monotonic() - self.start - max(0.0, self.kept_waiting() - self.waited)


def slower():
    """How many times slower this CPU is than the one on which the bounds of CPU time were found; at least 1."""
    def work():
        start, x = time.thread_time(), 0
        for i in range(500000):
            x ^= i * i
        return time.thread_time() - start

    return max(1.0, min(work() for _ in range(3)) / 0.014)


def cpu_share(pid, seconds=1.0):
    """The share of a CPU that a process takes during the next SECONDS."""
    before, start = cpu(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu(pid) - before) / (time.monotonic() - start)


def socket_memory():
    """Bytes that all TCP sockets of the machine hold, from /proc/net/sockstat (so parallel tests show in it too)."""
    with open("/proc/net/sockstat") as f:
        line = next(line for line in f if line.startswith("TCP:")).split()
    return int(line[line.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


def queues(port):
    """(state, bytes to send, bytes to read) of each IPv4 socket whose local port is PORT; state 10 listens."""
    rows = []
    with open("/proc/net/tcp") as f:
        lines = f.readlines()[1:]
    for line in lines:
        field = line.split()
        if int(field[1].rsplit(":", 1)[1], 16) == port:
            tx, rx = field[4].split(":")
            rows.append((int(field[3], 16), int(tx, 16), int(rx, 16)))
    return rows


def queue_of(client):
    """(bytes to send, bytes to read) of the server's socket to this client on 127.0.0.1; None if it is gone. Asks for the
    one socket (sock_diag(7)), where reading /proc/net/tcp takes milliseconds."""
    family, source, target = socket.AF_INET, socket.inet_aton("127.0.0.1"), socket.inet_aton(client.local[0])
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 2**32 - 1) + struct.pack(
        "!HH16s16s", client.port, client.local[1], source, target) + struct.pack("=III", 0, 2**32 - 1, 2**32 - 1)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:      # NETLINK_SOCK_DIAG
        diag.settimeout(5)
        diag.send(struct.pack("=IHHII", 16 + len(request), 20, 1, 0, 0) + request)     # SOCK_DIAG_BY_FAMILY
        reply = diag.recv(4096)
    if struct.unpack_from("=H", reply, 4)[0] != 20:
        return None
    rx, tx = struct.unpack_from("=II", reply, 16 + 4 + 48 + 4)
    return tx, rx


def until(what, seconds=WAIT, step=0.01):
    """Waits until WHAT() is true and returns it; fails after SECONDS."""
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(step)


def settled(what, quiet=0.3, seconds=WAIT):
    """Waits until WHAT() has kept one value for QUIET seconds, and returns it."""
    end, last, since = time.monotonic() + seconds, what(), time.monotonic()
    while time.monotonic() - since < quiet:
        if time.monotonic() > end:
            raise AssertionError(f"never quiet, last {last!r}")
        time.sleep(0.02)
        now = what()
        if now != last:
            last, since = now, time.monotonic()
    return last


# Sockets.

def reset(sock):
    """Ends a connection with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_to_end(sock, limit=1 << 30):
    """Everything up to the end of a socket: (bytes, "eof"), (bytes, "reset"), (bytes, "timeout") or (bytes, "full")."""
    got, size = [], 0
    end = time.monotonic() + 4 * WAIT
    while size < limit:
        if time.monotonic() > end:
            return b"".join(got), "timeout"
        try:
            data = sock.recv(1 << 16)
        except ConnectionResetError:
            return b"".join(got), "reset"
        except (TimeoutError, socket.timeout):
            return b"".join(got), "timeout"
        if not data:
            return b"".join(got), "eof"
        got.append(data)
        size += len(data)
    return b"".join(got), "full"


def read_exactly(sock, size):
    got = bytearray()
    while len(got) < size:
        data = sock.recv(min(1 << 16, size - len(got)))
        if not data:
            raise AssertionError(f"end after {len(got)} of {size} bytes")
        got += data
    return bytes(got)


def fill(sock, data=bytes(1 << 16), quiet=0.5, limit=1 << 28):
    """Writes DATA over and over to a plain socket until nobody takes anything for QUIET seconds; the number of bytes
    that went."""
    view, sent, last, end = memoryview(data), 0, time.monotonic(), time.monotonic() + WAIT
    timeout = sock.gettimeout()
    sock.setblocking(False)
    while time.monotonic() - last < quiet * SLOW and sent < limit:
        if time.monotonic() > end:
            raise AssertionError(f"still taking data after {sent} bytes")
        try:
            sent += sock.send(view[sent % len(data):])
            last = time.monotonic()
        except BlockingIOError:
            select.select([], [sock], [], 0.02)
    sock.settimeout(timeout)
    return sent


def piece(client, **kw):
    """The next frame of a raw client, where messages are in fragments."""
    f = client.recv_frame(**kw)
    if f.opcode < 8:
        client.partial = None if f.fin else [f.opcode, [], 0]
    return f


class Writer(threading.Thread):
    """Sends blocks on a raw client from a thread of its own, so that the test may read, or not read, meanwhile."""

    def __init__(self, client, blocks, timeout=60):
        super().__init__(daemon=True)
        self.client, self.blocks, self.limit = client, blocks, timeout
        self.sent, self.ended, self.error = 0, False, None
        self.start()

    def run(self):
        try:
            for block in self.blocks:
                self.client.send(block, timeout=self.limit)
                self.sent += len(block)
        except (OSError, AssertionError, ssl.SSLError, ValueError) as e:
            self.error = e
        self.ended = True

    def stalled(self, quiet=0.5, seconds=20):
        """Waits until nobody takes anything for QUIET seconds; how much went. It must not have come to its end."""
        settled(lambda: self.sent, quiet * SLOW, seconds * SLOW)
        assert not self.ended, f"never stopped: {self.sent} bytes, {self.error!r}"
        return self.sent

    def finish(self, seconds=60):
        self.join(seconds * SLOW)
        assert self.ended, f"still writing after {self.sent} bytes"
        if self.error:
            raise self.error


class Backend:
    """A listening socket that stands behind a route; the test accepts and scripts the connections itself."""

    def __init__(self, family=socket.AF_INET, path=None, backlog=64, address=None, rcvbuf=0):
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX if path else family, socket.SOCK_STREAM)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if path:
            self.sock.bind(str(path))
        else:
            self.sock.bind((address or ("::1" if family == socket.AF_INET6 else "127.0.0.1"), 0))
        self.sock.listen(backlog)
        self.port = None if path else self.sock.getsockname()[1]
        self.held = []

    @property
    def route(self):
        if self.path:
            return f"unix:{self.path}"
        host = "[::1]" if self.sock.family == socket.AF_INET6 else "127.0.0.1"
        return f"tcp:{host}:{self.port}"

    def accept(self, timeout=WAIT):
        self.sock.settimeout(timeout)
        sock, _ = self.sock.accept()
        sock.settimeout(timeout)
        self.held.append(sock)
        return sock

    def nobody(self, timeout=0.3):
        """True when nobody connects within TIMEOUT."""
        return not select.select([self.sock], [], [], timeout)[0]

    def close(self):
        for sock in self.held:
            sock.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def unused_port():
    """A port on which nobody listens, below those that the kernel hands out: nobody gets it in the meantime."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        low = int(f.read().split()[0])
    for port in random.SystemRandom().sample(range(low // 2, low), 100):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("0.0.0.0", port))
            return port
    raise AssertionError("no port is free")


class BlackHole:
    """A listener whose queue is full, so that a further connect never completes."""

    def __init__(self, path=None):
        self.backend = Backend(path=path, backlog=0)
        self.waiting = []
        for _ in range(64):
            sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            self.waiting.append(sock)
            error = sock.connect_ex(str(path) if path else ("127.0.0.1", self.backend.port))
            if path and error == errno.EAGAIN:
                return
            if not path and not select.select([], [sock], [], 0.3)[1]:
                return
        raise AssertionError("the queue never filled")

    route = property(lambda self: self.backend.route)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sock in self.waiting:
            sock.close()
        self.backend.close()


# Large streams.


class Frames:
    """Takes a server's bytes as they come; hands out payload as it arrives.

    sink(opcode, piece) gets each piece of data frames; control frames gather in .control as (opcode, payload)."""

    def __init__(self, sink):
        self.sink = sink
        self.buf = bytearray()
        self.left = 0           # payload bytes of the current frame still to come
        self.opcode = None      # of the current frame
        self.message = None     # opcode of the message that the fragments belong to
        self.fin = True
        self.control = []
        self.messages = 0       # complete data messages
        self.frames = 0
        self.bytes = 0          # of data payload

    def feed(self, data):
        view = memoryview(data)
        pos, end = 0, len(view)
        while pos < end or (self.left == 0 and self.opcode is not None):
            if self.opcode is None:
                take = min(end - pos, 14)
                before = len(self.buf)
                self.buf += view[pos:pos + take]
                used = self._head()
                if not used:
                    pos += take
                    continue
                pos += used - before
                self.buf.clear()
            if self.opcode >= 8:
                take = min(self.left, end - pos)
                self.buf += view[pos:pos + take]
                self.left -= take
                pos += take
                if self.left == 0:
                    self.control.append((self.opcode, bytes(self.buf)))
                    self.buf.clear()
                    self.opcode = None
                continue
            take = min(self.left, end - pos)
            if take:
                self.sink(self.message, view[pos:pos + take])
                self.bytes += take
                self.left -= take
                pos += take
            if self.left == 0:
                self.messages += self.fin
                if self.fin:
                    self.message = None
                self.opcode = None

    def _head(self):
        """Parses a header from the front of buf: its length, or 0 if there is more to come."""
        buf = self.buf
        if len(buf) < 2:
            return 0
        assert not buf[1] & 0x80, "a server's frame is masked (5.1)"
        assert not buf[0] & 0x70, "reserved bits (5.2)"
        size, used = buf[1] & 0x7f, 2
        if size == 126:
            if len(buf) < 4:
                return 0
            size, used = struct.unpack_from(">H", buf, 2)[0], 4
            assert size > 125, "length not minimal (5.2)"
        elif size == 127:
            if len(buf) < 10:
                return 0
            size, used = struct.unpack_from(">Q", buf, 2)[0], 10
            assert size > 65535, "length not minimal (5.2)"
        opcode, fin = buf[0] & 15, bool(buf[0] & 0x80)
        if opcode >= 8:
            assert fin and size < 126, "a fragmented or long control frame (5.5)"
        elif opcode:
            assert self.message is None, "a new message within another (5.4)"
            self.message, self.fin = opcode, fin
        else:
            assert self.message is not None, "a continuation of nothing (5.4)"
            self.fin = fin
        self.opcode, self.left = opcode, size
        self.frames += 1
        return used


# Large streams whose every part differs from every other.

def chunks(total, size=1 << 18, seed=1):
    base = random.Random(seed).randbytes(size)
    number = 0
    while total:
        turn = number * 4099 % size
        block = (number.to_bytes(8, "little") + base[turn:] + base[:turn])[:min(size, total)]
        yield block
        total -= len(block)
        number += 1


def dial(server, path, tls=None, source=None, rcvbuf=None):
    """A socket (an ssl one for TLS) on which the opening handshake is done: faster than a raw client."""
    if tls is None:
        tls = server.url.startswith("wss:")
    port = server.tls_port if tls else server.plain_port
    sock = socket.socket()
    try:
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if source:
            sock.bind((source, 0))
        sock.settimeout(WAIT)
        sock.connect(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            sock = wsraw.client_context().wrap_socket(sock, server_hostname="localhost")
        sock.sendall(wsraw.upgrade_head(path, f"127.0.0.1:{port}"))
        reply = b""
        while not reply.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            assert byte and len(reply) < 8192, reply
            reply += byte
        assert reply.startswith(b"HTTP/1.1 101 "), reply
    except BaseException:
        sock.close()
        raise
    return sock


class Pump:
    """Sends frames on a connected WebSocket and reads what comes, both at once and without blocking either."""

    def __init__(self, sock, sink=None):
        self.sock = sock
        self.digest = hashlib.sha256()
        self.frames = Frames(sink or (lambda _, piece: self.digest.update(piece)))
        self.closed = False     # the server's end of stream was read
        self.sent = 0           # bytes written to the socket
        self.buf = bytearray(1 << 16)

    def read(self):
        """Reads once; True if there was something."""
        try:
            size = self.sock.recv_into(self.buf)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            size = 0
        if size == 0:
            self.closed = True
            return False
        self.frames.feed(memoryview(self.buf)[:size])
        return True

    def run(self, blocks, done, seconds=60.0, pause=None, tick=None):
        """Writes the byte strings of BLOCKS until they end and done(self) is true. PAUSE = (after, seconds): reads
        nothing for that long once so many bytes were sent. TICK is called some hundred times a second or more."""
        self.sock.setblocking(False)
        blocks, view, more = iter(blocks), memoryview(b""), True
        start = time.monotonic()
        asleep = None
        while (more or len(view) or not done(self)) and not self.closed:
            now = time.monotonic()
            if now - start > seconds:
                raise AssertionError(f"not done within {seconds} s: sent {self.sent}, got {self.frames.bytes}")
            if pause and self.sent >= pause[0]:
                asleep, pause = now + pause[1], None
            if asleep and now > asleep:
                asleep = None
            progress = False
            if not asleep:
                for _ in range(16):
                    if not self.read():
                        break
                    progress = True
            if not len(view) and more:
                block = next(blocks, None)
                more = block is not None
                view = memoryview(block or b"")
            if len(view):
                try:
                    size = self.sock.send(view[:1 << 18])
                    view = view[size:]
                    self.sent += size
                    progress = True
                except (BlockingIOError, ssl.SSLWantWriteError):
                    pass
                except ssl.SSLWantReadError:
                    pass
            if tick:
                tick()
            if not progress:
                select.select([] if asleep else [self.sock], [self.sock] if len(view) else [], [], 0.01)
        self.sock.setblocking(True)
        return self


def framed(parts, opcode=2, random_masks=4, one_message=True):
    """Frames for PARTS, as fragments of one message or as messages; every RANDOM_MASKS-th has a random key, the others
    the key 0, which is legal and costs the test nothing."""
    parts = iter(parts)
    part, number = next(parts, None), 0
    while part is not None:
        after = next(parts, None)
        key = os.urandom(4) if number % random_masks == 0 else bytes(4)
        kind = 0 if one_message and number else opcode
        if any(key):
            yield wsraw.frame(kind, part, not one_message or after is None, mask=key)
        else:
            yield wsraw.frame(kind, b"", not one_message or after is None, mask=key, length=len(part),
                              form=64 if len(part) > 65535 else 16 if len(part) > 125 else 7)
            yield part
        part, number = after, number + 1


# Watching.


class Watch(threading.Thread):
    """Samples a server while something goes on: the most resident memory (KiB), the most bytes in the kernel's queues
    of its sockets, and the most TCP memory of the machine."""

    def __init__(self, server, step=0.1):
        super().__init__(daemon=True)
        self.server, self.step, self.over = server, step, threading.Event()
        self.ports = [port for port in server.ports]
        self.rss = self.queued = self.kernel = self.samples = 0

    def run(self):
        while not self.over.wait(self.step):
            self.sample()

    def sample(self):
        if not self.server.alive():
            return
        self.rss = max(self.rss, memory(self.server))
        self.kernel = max(self.kernel, socket_memory())
        self.queued = max(self.queued, sum(tx + rx for port in self.ports
                                           for state, tx, rx in queues(port) if state != 10))
        self.samples += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join(5)
        self.sample()


class Probe:
    """A well-behaved echo client in a process of its own, which measures how long each answer takes, less what the machine
    kept the two processes waiting for a CPU. An answer that comes with the server's next look at its deadlines, once a
    second, is a lost wake-up."""

    def __init__(self, server, path="/echo", source="127.0.0.77"):
        tls = server.url.startswith("wss:")
        words = ["probe", server.port, int(tls), path, source, server.pid]
        self.proc = subprocess.Popen([sys.executable, os.path.abspath(__file__)] + [str(w) for w in words],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.result = None

    def __enter__(self):
        ready, _, _ = select.select([self.proc.stdout], [], [], 2 * WAIT)
        line = self.proc.stdout.readline() if ready else b""
        if line != b"ready\n":
            self.proc.kill()
            self.proc.wait()
            raise AssertionError(f"the probe did not come up: {line!r}")
        return self

    def __exit__(self, *exc):
        try:
            out, _ = self.proc.communicate(timeout=2 * WAIT)
            self.result = json.loads(out)
        except (subprocess.TimeoutExpired, ValueError):
            self.proc.kill()
            self.proc.wait()
            if exc[0] is None:
                raise AssertionError("the probe was not served") from None

    def check(self, worst=0.9, median=0.1):
        r = self.result
        assert r and not r["error"], r
        assert r["count"] >= 3, r
        assert r["worst"] < worst * SLOW and r["median"] < median * SLOW, r


def probe_main(port, tls, path, source, pid):
    taken, error, starved = [], None, 0.0
    try:
        with wsraw.connect(int(port), bool(int(tls)), source=source) as c:
            c.open(path)
            print("ready", flush=True)
            end = time.monotonic() + 300
            while len(taken) < 3 or time.monotonic() < end and not select.select([sys.stdin], [], [], 0.01)[0]:
                waited, start = kept_waiting(pid) + kept_waiting("self"), time.monotonic()
                data = os.urandom(64)
                c.send_binary(data)
                while (got := c.recv_message())[0] == wsraw.PING:
                    c.send_frame(wsraw.PONG, got[1])
                assert got == (wsraw.BINARY, data), got
                waited = kept_waiting(pid) + kept_waiting("self") - waited
                starved = max(starved, waited)
                taken.append(max(0.0, time.monotonic() - start - waited))
            c.close_handshake()
    except Exception as e:
        error = repr(e)
    taken.sort()
    print(json.dumps({"count": len(taken), "starved": starved, "worst": taken[-1] if taken else None,
                      "median": taken[len(taken) // 2] if taken else None, "error": error}))


def many_files(wanted):
    """Raises the limit of open files of this process as far as it may; how many it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > wanted:
        hard = wanted
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        soft = hard
    return soft


if __name__ == "__main__" and sys.argv[1:2] == ["probe"]:
    probe_main(*sys.argv[2:])
