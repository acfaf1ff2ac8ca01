"""The traffic of soak.py: honest clients, which number and digest what they send and check what they get; a probe, which
measures how long an answer takes; hostile ones, which do what they can do; and the backends behind the routes.

Each of the three kinds is a crew of threads in a process of its own (crew() is its main function). They work in sessions
while the gate is open and park while it is closed, so that the server can be looked at when it has nothing to do. A few
honest connections stay over all that, from the first minute to the server's end, when they must see Close 1001."""
import collections
import contextlib
import hashlib
import os
import random
import re
import socket
import ssl
import struct
import threading
import time

import peers
import test_abuse
import test_proxy
import wsraw
from wsraw import BINARY, CLOSE, CONT, PING, PONG, SLOW, TEXT

GONE = (wsraw.Ended, wsraw.Silence, OSError, ssl.SSLError)     # what may become of a hostile connection
PATIENCE = 30 * SLOW                                           # of an honest newcomer whom nobody lets in


class Wrong(AssertionError):
    """A message that came not at all, twice, out of order, damaged, or to whom it was not for."""


class Closed(wsraw.Ended):
    """A Close frame came."""

    def __init__(self, payload):
        super().__init__(f"closed: {payload!r}")
        self.code = struct.unpack("!H", payload[:2])[0] if payload else None


# ---------------------------------------------------------------------------------------------- messages

HEAD = re.compile(rb"soak ([tb]) ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{32}) ")
HEAD_SIZE = 67


def digest(kind, sender, number, payload):
    h = hashlib.blake2b(b"%c %08x %08x " % (kind, sender, number), digest_size=16)
    h.update(payload)
    return h.hexdigest().encode()


def message(kind, sender, number, payload):
    """kind: t or b, as a byte's number, for text or binary."""
    sum_ = digest(kind, sender, number, payload)
    return b"soak %c %08x %08x %08x %s " % (kind, sender, number, len(payload), sum_) + payload


class Inbox:
    """What came to one client: from each sender every message once and in order. last: the number of each sender's
    last; first: the highest number with which a sender may begin, 1 unless told."""

    def __init__(self, own=None):
        self.own, self.last, self.first = own, {}, {}
        self.buf, self.count, self.bytes = bytearray(), 0, 0
        self.payload = b""          # of the last message

    def take(self, data, opcode=None):
        """A whole message (opcode: of its frames, where the backend keeps that). What is not of an honest client is none
        of ours: False."""
        m = HEAD.match(data)
        if not m:
            return False
        kind, sender, number, length = ord(m[1]), int(m[2], 16), int(m[3], 16), int(m[4], 16)
        payload = bytes(data[HEAD_SIZE:])
        if len(payload) != length or digest(kind, sender, number, payload) != m[5] or \
                opcode not in (None, TEXT if m[1] == b"t" else BINARY):
            raise Wrong(f"message {number} of {sender:x} is damaged")
        if sender == self.own:
            raise Wrong(f"message {number} came back to its sender")
        if sender not in self.last:
            if number > self.first.get(sender, 1):
                raise Wrong(f"lost: the first message of {sender:x} is {number}, not {self.first.get(sender, 1)}")
        elif number <= self.last[sender]:
            raise Wrong(f"twice or out of order: message {number} of {sender:x} after {self.last[sender]}")
        elif number > self.last[sender] + 1:
            raise Wrong(f"lost: message {self.last[sender] + 1} of {sender:x}, now {number} is here")
        self.last[sender] = number
        self.count += 1
        self.bytes += len(data)
        self.payload = payload
        return True

    def feed(self, data):
        """Bytes of a stream of messages."""
        self.buf += data
        while len(self.buf) >= HEAD_SIZE:
            m = HEAD.match(self.buf)
            if not m:
                raise Wrong(f"no message begins with {bytes(self.buf[:20])!r}")
            end = HEAD_SIZE + int(m[4], 16)
            if len(self.buf) < end:
                return
            self.take(bytes(self.buf[:end]))
            del self.buf[:end]


LETTERS = "abc xyz 0123456789 äöüß Ωλπ € 漢字 \U0001f600"


class Writer:
    """Makes the messages of one sender; sum and total: digest and number of all their bytes."""

    def __init__(self, rnd, sender):
        self.rnd, self.sender, self.number = rnd, sender, 0
        self.sum, self.total = hashlib.sha256(), 0
        self.bytes = rnd.randbytes(1 << 16)
        self.text = "".join(rnd.choices(LETTERS, k=1 << 14))

    def next(self, most, kinds="tb"):
        """(opcode, message of at most `most` bytes)"""
        rnd, most = self.rnd, most - HEAD_SIZE
        kind = rnd.choice(kinds)
        size = min(most, rnd.choice((0, rnd.randrange(60), rnd.randrange(200), rnd.randrange(5000), rnd.randrange(70000))))
        if most > 1 << 20 and rnd.random() < 0.02:
            size = rnd.randrange(1 << 20, most)
        if kind == "t":
            at = rnd.randrange(1 << 13)
            payload = (self.text[at:at + size // 4] * (1 + size // (1 << 15))).encode()[:most]
            payload = payload.decode(errors="ignore").encode()
        else:
            at = rnd.randrange(1 << 15)
            payload = ((self.bytes[at:] + self.bytes[:at]) * (1 + size // (1 << 16)))[:size]
        self.number += 1
        data = message(ord(kind), self.sender, self.number, payload)
        self.sum.update(data)
        self.total += len(data)
        return (TEXT if kind == "t" else BINARY), data

    def trailer(self):
        """What a backend says of all this at the end of input."""
        return b"%d %s" % (self.total, self.sum.hexdigest().encode())


def frames(rnd, opcode, data):
    """The frames of a message, in pieces now and then, and the pings between them."""
    pings, out, at = [], [], 0
    cuts = sorted(rnd.randrange(len(data)) for _ in range(rnd.randrange(1, 6))) if rnd.random() < 0.3 else []
    for end in cuts + [len(data)]:
        out.append(wsraw.frame(opcode, data[at:end], fin=end == len(data), mask=rnd.randbytes(4)))
        opcode, at = CONT, end
        if end < len(data) and rnd.random() < 0.2:
            pings.append(b"ping %08x" % rnd.getrandbits(32))
            out.append(wsraw.frame(PING, pings[-1], mask=rnd.randbytes(4)))
    return b"".join(out), pings


# ---------------------------------------------------------------------------------------------- crews


class Crew:
    """Threads that work in sessions while the gate is open. parked: how many of them do not work now."""

    def __init__(self, world, gate, over, parked, seed):
        self.world, self.gate, self.over, self.parked, self.seed = world, gate, over, parked, seed
        self.lock, self.members = threading.Lock(), []
        self.failures, self.count, self.taken = [], collections.Counter(), collections.defaultdict(list)
        self.ids = 0
        self.hub, self.pause = {}, 0.2

    def add(self, work, *args, **kw):
        self.members.append(Member(self, len(self.members) + 1, work, args, kw))

    def tally(self, **counts):
        with self.lock:
            for name, n in counts.items():
                self.count[name] += n

    def fail(self, what):
        with self.lock:
            self.failures.append(what)
            self.count["failures"] += 1

    def new_id(self):
        with self.lock:
            self.ids += 1
            return self.ids

    def report(self):
        with self.lock:
            failures, self.failures = self.failures[:20], []
            return {"count": dict(self.count, open=len(wsraw.LIVE)), "failures": failures, "taken": {k: list(v) for k, v in self.taken.items()}}


class Member(threading.Thread):
    """One of a crew, with an address of its own."""

    def __init__(self, crew, number, work, args, kw):
        super().__init__(daemon=True)
        self.crew, self.world, self.work, self.args, self.kw = crew, crew.world, work, args, kw
        self.rnd = random.Random(f"{crew.seed} {number}")
        self.source = f"127.1.{crew.world['crew']}.{number}"
        self.c, self.outstanding, self.end, self.session = None, [], 0, None

    def run(self):
        while not self.crew.over.is_set():
            if not self.crew.gate.is_set():
                self.park(lambda: time.sleep(0.05))
                continue
            self.outstanding, self.end = [], time.monotonic() + self.rnd.uniform(2, 20)
            try:
                self.work(self, *self.args, **self.kw)
            except Exception as e:
                self.crew.fail(f"{self.work.__name__}{self.args}: {type(e).__name__}: {e}"[:500])
                time.sleep(0.5)
            finally:
                if self.c:
                    self.c.close()

    def park(self, wait):
        with self.crew.parked.get_lock():
            self.crew.parked.value += 1
        try:
            while not self.crew.gate.is_set() and not self.crew.over.is_set():
                wait()
        finally:
            with self.crew.parked.get_lock():
                self.crew.parked.value -= 1

    def live(self):
        return self.crew.gate.is_set() and time.monotonic() < self.end

    # ---- an honest client

    def connect(self, port, tls, path="/echo", extra=(), before=b""):
        """A client after the opening handshake. A full house, or a reload during the handshake, may turn a newcomer away:
        then it comes again; soak.py looks into the log for other reasons."""
        end = time.monotonic() + PATIENCE
        while True:
            c = None
            try:
                c = wsraw.connect(port, tls, source=self.source, handshake=False, session=self.session)
                if before:
                    c.wire(before)
                if tls:
                    c.handshake()
                if path:
                    c.open(path, extra=extra)
                self.c = c
                return c
            except (wsraw.Ended, OSError, ssl.SSLError):
                self.crew.tally(turned_away=1)
                if c:
                    c.close()
                if time.monotonic() > end:
                    raise
                self.session = None
                time.sleep(self.rnd.uniform(0.1, 0.4))

    def next(self):
        """The next message; pings are answered, pongs must be ours, and they alone do not keep us waiting for ever."""
        end = time.monotonic() + PATIENCE
        while True:
            if time.monotonic() > end:
                raise Wrong(f"lost: no message within {PATIENCE:.0f} s, only pings")
            opcode, data = self.c.recv_message()
            if opcode == PING:
                self.c.send_frame(PONG, data)
            elif opcode == PONG:
                if data not in self.outstanding:
                    raise Wrong(f"a pong that nobody asked for: {data!r}")
                del self.outstanding[:self.outstanding.index(data) + 1]
            elif opcode == CLOSE:
                raise Closed(data)
            else:
                return opcode, data

    def post(self, writer, most, kinds="tb"):
        opcode, data = writer.next(most, kinds)
        wire, pings = frames(self.rnd, opcode, data)
        self.outstanding += pings
        self.c.send(wire, drain=True)
        self.crew.tally(sent=1)

    def listen(self, seconds, take):
        """Takes what comes for that long."""
        end = time.monotonic() + seconds
        while True:
            try:
                while self.c.buf:
                    take(*self.next())
                left = end - time.monotonic()
                if left <= 0:
                    return
                if not self.c.more(left / SLOW):
                    raise wsraw.Ended(f"{self.c.ended} while nobody said anything")
            except wsraw.Silence:
                if self.c.buf:
                    raise
                return
            if self.c.buf[0] in (0x89, 0x8a):       # pings and pongs alone
                self.controls()

    def controls(self):
        """Takes the whole control frames that are there, and nothing else."""
        while len(self.c.buf) > 1 and self.c.buf[0] in (0x89, 0x8a) and len(self.c.buf) >= 2 + self.c.buf[1]:
            f = self.c.recv_frame()
            if f.opcode == PING:
                self.c.send_frame(PONG, f.payload)
            elif f.payload in self.outstanding:
                del self.outstanding[:self.outstanding.index(f.payload) + 1]
            else:
                raise Wrong(f"a pong that nobody asked for: {f.payload!r}")

    def leave(self, take=None, code=1000):
        """The closing handshake, after which nothing but the end comes; take: for what comes before the Close."""
        self.c.send_frame(CLOSE, wsraw.close_payload(code))
        try:
            while True:
                opcode, data = self.next()
                if take is None:
                    raise Wrong(f"a message that nobody waits for: {data[:60]!r}")
                take(opcode, data)
        except Closed as e:
            if e.code != code:
                raise
        self.c.expect_eof()
        self.session = self.c.tls.session if self.c.tls and self.rnd.random() < 0.5 else None
        if self.outstanding:
            raise Wrong(f"{len(self.outstanding)} pings without an answer")
        self.crew.tally(sessions=1)

    def stay(self, take):
        """While the gate is closed; True when the server ends us, as it shall."""
        self.park(lambda: self.listen(0.2, take))
        if not self.crew.over.is_set():
            return False
        try:
            self.listen(60 * SLOW, take)
            raise Wrong("no Close when the server stopped")
        except Closed as e:
            if e.code != 1001:
                raise
        self.c.send_frame(CLOSE, wsraw.close_payload(1001))
        self.c.expect_eof()
        self.crew.tally(stayed=1)
        return True


# ---------------------------------------------------------------------------------------------- honest clients


def echo(me, port, tls, most, stay=False, slow=0.1, **kw):
    """Each message comes back; in bursts, and with silences that are long enough for the server to put us to rest."""
    me.connect(port, tls, **kw)
    sender = me.crew.new_id()
    writer, inbox = Writer(me.rnd, sender), Inbox()

    def take(opcode, data):
        if not inbox.take(data, opcode):
            raise Wrong(f"{data[:60]!r} is no message of ours")
        me.crew.tally(echoed=1, bytes=len(data))
    while True:
        while me.live() or stay and me.crew.gate.is_set():
            for _ in range(me.rnd.choice((1, 1, 1, 2, 4, 12))):
                me.post(writer, most)
            while inbox.last.get(sender, 0) < writer.number:
                take(*me.next())
            if me.rnd.random() < (0.3 if stay or slow > 1 else 0.02):
                me.listen(me.rnd.uniform(1.5, 6), take)
                me.crew.tally(rests=1)
            me.listen(me.rnd.uniform(0, 2 * slow), take)
        if not stay:
            return me.leave()
        if me.stay(take):
            return


def hub(me, port, tls, most, stay=False):
    """Each message goes to every other one: all that were sent between our coming and our leaving."""
    crew = me.crew
    me.connect(port, tls, "/hub")
    own = crew.new_id()
    writer, inbox = Writer(me.rnd, own), Inbox(own)
    with crew.lock:
        known = set(crew.hub)       # of those that have left, too: their last message may still be on its way
        inbox.first = {sender: state["begun"] + 1 for sender, state in crew.hub.items()}
        since = max(crew.hub, default=0)        # a later one registers after our coming: from its first on
        mine = crew.hub[own] = {"begun": 0, "done": 0}

    def take(opcode, data):
        if inbox.take(data, opcode):
            crew.tally(heard=1, bytes=len(data))

    def settle():
        """All that was sent until now is here."""
        with crew.lock:
            goal = {sender: state["done"] for sender, state in crew.hub.items()
                    if sender != own and (sender in known or sender > since)}
        goal = {sender: n for sender, n in goal.items() if n >= inbox.first.get(sender, 1)}
        end = time.monotonic() + 20 * SLOW
        while True:
            missing = [sender for sender, n in goal.items() if inbox.last.get(sender, 0) < n]
            if not missing:
                return
            if time.monotonic() > end:
                raise Wrong(f"lost: message {inbox.last.get(missing[0], 0) + 1} of {missing[0]:x}, 20 s after it was sent")
            me.listen(0.05, take)
    while True:
        while me.live() or stay and crew.gate.is_set():
            mine["begun"] += 1
            me.post(writer, most)
            mine["done"] += 1
            me.listen(me.rnd.choice((0.1, 0.3, 0.5, 3 if stay else 1)), take)
        settle()
        if not stay:
            break
        if me.stay(take):
            return
    me.leave(take)


def stream(me, port, tls, path, most, stay=False, kinds="tb", whole=False):
    """A backend that sends back all it gets, and at the end of input tells number and digest of the bytes."""
    me.connect(port, tls, path)
    sender = me.crew.new_id()
    writer, inbox = Writer(me.rnd, sender), Inbox()

    def take(opcode, data):
        if whole:
            inbox.take(data, TEXT if kinds == "t" else BINARY)
        else:
            inbox.feed(data)
    while True:
        while me.live() or stay and me.crew.gate.is_set():
            for _ in range(me.rnd.choice((1, 1, 3, 8))):
                me.post(writer, most, kinds)
            while inbox.last.get(sender, 0) < writer.number:
                before = inbox.count
                take(*me.next())
                me.crew.tally(returned=inbox.count - before)
            me.listen(me.rnd.choice((0, 0.1, 0.3, 2 if me.rnd.random() < 0.1 else 0.2)), take)
        if stay:
            if me.stay(take):
                return
            continue
        me.leave(take)
        if inbox.last.get(0) != 1 or inbox.payload != writer.trailer() or inbox.buf:
            raise Wrong(f"lost: the backend says {inbox.payload[:100]!r} of {writer.trailer()!r}")
        me.crew.tally(trailers=1)
        return


def files(me, port, tls, content):
    """Pages over one connection."""
    c = me.connect(port, tls, None)
    tag = None
    while me.live():
        try:
            extra = [("If-None-Match", tag)] if tag and me.rnd.random() < 0.3 else []
            r = c.request("GET", "/page.bin", extra=extra)
        except (wsraw.Ended, OSError, ssl.SSLError):
            if tag is None:         # made room for a newcomer before it had served us once
                return me.crew.tally(turned_away=1)
            raise
        if r.status != (304 if extra else 200) or not extra and hashlib.sha256(r.body).hexdigest() != content:
            raise Wrong(f"the page is another: {r!r}")
        tag = r.get("ETag")
        me.crew.tally(pages=1)
        time.sleep(me.rnd.uniform(0.05, 1))


# ---------------------------------------------------------------------------------------------- the probe


def steady(me, port, tls):
    """How long an echo takes on a connection that stands, less what the machine kept us both waiting for a CPU."""
    c, pid = me.connect(port, tls), me.world["pid"]
    while me.live():
        data = me.rnd.randbytes(64)
        waited, start = peers.kept_waiting(pid) + peers.kept_waiting("thread-self"), time.monotonic()
        c.send_binary(data)
        if me.next() != (BINARY, data):
            raise Wrong("the echo is another")
        waited = peers.kept_waiting(pid) + peers.kept_waiting("thread-self") - waited
        me.crew.taken["steady"].append(max(0.0, time.monotonic() - start - waited))
        time.sleep(0.04)
    me.leave()


def newcomer(me, port, tls):
    """How long it takes to come, say something and hear it, with all tries that it takes."""
    waited, start = peers.kept_waiting("thread-self"), time.monotonic()
    c = me.connect(port, tls)
    c.send_text("anybody there?")
    if me.next() != (TEXT, b"anybody there?"):
        raise Wrong("the echo is another")
    waited = peers.kept_waiting("thread-self") - waited
    me.crew.taken["newcomer"].append(max(0.0, time.monotonic() - start - waited))
    me.leave()
    time.sleep(me.rnd.uniform(0.2, 1))


# ---------------------------------------------------------------------------------------------- hostile clients


class Victim:
    """As test_abuse.reach wants it; what it connected ends with the act."""

    def __init__(self, me, held):
        self.me, self.held = me, held

    def connect(self, tls=True, **kw):
        c = wsraw.connect(self.me.world["tls" if tls else "plain"], tls, timeout=5, **kw)
        self.held.callback(end, self.me, c)
        return c


def act(me):
    """One act of the deck; each comes as often as any other."""
    crew = me.crew
    with crew.lock:
        if not crew.deck:
            crew.deck = list(ACTS)
            me.rnd.shuffle(crew.deck)
        what = crew.deck.pop()
    with contextlib.ExitStack() as held:
        try:
            what(me, Victim(me, held), held)
            crew.tally(**{"act " + what.__name__: 1})
        except GONE:
            crew.tally(**{"act " + what.__name__: 1, "gone": 1})
    time.sleep(me.rnd.uniform(0.5, 1.5) * crew.pause)


def hold(me, seconds):
    end = time.monotonic() + seconds
    while me.crew.gate.is_set() and time.monotonic() < end:
        time.sleep(0.05)


def end(me, c):
    with contextlib.suppress(OSError):          # closed already
        c.reset() if me.rnd.random() < 0.5 else c.close()


def some(me):
    return f"127.9.{me.rnd.randrange(4)}.{me.rnd.randrange(1, 9)}"


def reach(me, s):
    return test_abuse.reach(s, me.rnd.choice(test_abuse.PHASES), me.rnd.random() < 0.6, some(me))


def answer(c, wanted):
    """The status of the reply, if there is one, is the wanted one."""
    r = c.reply()
    if r.status not in wanted:
        raise Wrong(f"{r.status} instead of {wanted}")


def opened(me, held, path, port=None, tls=None, wanted=(101,), extra=(), **kw):
    tls = (me.rnd.random() < 0.5 if tls is None else tls)
    c = wsraw.connect(port or me.world["tls" if tls else "plain"], tls, source=some(me), timeout=5, **kw)
    held.callback(end, me, c)
    c.send(wsraw.upgrade_head(path, c.host, extra=extra))
    r = c.reply()
    if r.status not in wanted:
        raise Wrong(f"{r.status} instead of {wanted} for {path}")
    return c if r.status == 101 else None


def closed(me, c, codes):
    """Reads to the end; if there is a Close it has one of these codes."""
    stop = time.monotonic() + 12 * SLOW
    while time.monotonic() < stop and me.crew.gate.is_set():
        opcode, data = c.recv_message(timeout=2)
        if opcode == CLOSE:
            if data and struct.unpack("!H", data[:2])[0] not in codes:
                raise Wrong(f"closed with {data!r}, not with one of {codes}")
            return
        if opcode == PING:
            c.send_frame(PONG, data)


def churn(me, s, held):
    for _ in range(me.rnd.randrange(1, 12)):
        reach(me, s)


def resets(me, s, held):
    for _ in range(me.rnd.randrange(1, 6)):
        reach(me, s).reset()


def random_bytes(me, s, held):
    c = reach(me, s)
    for _ in range(me.rnd.randrange(1, 4)):
        data = test_abuse.garbage(me.rnd)
        if c.tls and (not c.tls.version() or me.rnd.random() < 0.3):
            c.wire(data, timeout=1)
        else:
            c.send(data, timeout=1)
    while c.more(0.3):
        c.buf.clear()


def slow_reader(me, s, held):
    """Never reads, and sends what would be answered until nobody takes it."""
    path = me.rnd.choice(("/echo", "/hub", "/stream", "/flood"))
    c = opened(me, held, path, rcvbuf=4096, sndbuf=32768)
    if path != "/hub":
        data = wsraw.frame(BINARY, bytes(8000)) if me.rnd.random() < 0.7 else wsraw.frame(PING, bytes(125)) * 50
        test_abuse.stuffing(s, c, data, 2 << 20, 0.2)
    hold(me, me.rnd.choice((1, 3, 12)))


def slow_publisher(me, s, held):
    """A frame in crumbs."""
    c = opened(me, held, me.rnd.choice(("/echo", "/hub", "/stream", "/seq")))
    data = wsraw.frame(BINARY, bytes(3000))
    for i in range(me.rnd.randrange(20, 60)):
        c.send(data[i:i + 1])
        hold(me, 0.05)


def ping_flood(me, s, held):
    c = opened(me, held, me.rnd.choice(("/echo", "/flood")))
    for i in range(6):
        c.send(wsraw.frame(PING, b"%06d" % i) * 200, drain=True)
    c.send(wsraw.frame(PING, b"last"), drain=True)
    while c.recv_frame()[1:] != (0, PONG, b"last", b"\x8a\x04"):
        pass


def hub_flood(me, s, held):
    """Tiny and large messages to subscribers of whom one does not read."""
    subs = [opened(me, held, "/flood"), opened(me, held, "/flood", rcvbuf=4096)]
    c = opened(me, held, "/flood")
    for i in range(20):
        c.send(wsraw.frame(TEXT, b"%05d" % i) * 50 + wsraw.frame(BINARY, bytes(me.rnd.randrange(60000))), drain=True)
    while subs[0].more(0.3):
        subs[0].buf.clear()
    closed(me, subs[1], (1013,))


def huge(me, s, held):
    """A length that nobody can have, and messages of some MiB."""
    c = opened(me, held, path := me.rnd.choice(("/echo", "/hub", "/seq", "/stream")))
    size = me.rnd.choice((65537, 1 << 20, 1 << 32, (1 << 63) - 1))
    c.send(wsraw.frame(BINARY, bytes(60000), length=size), drain=True)
    if path in ("/hub", "/seq"):
        return closed(me, c, (1009,))
    for _ in range(me.rnd.randrange(20)):
        c.send(bytes(65536), drain=True)
        c.buf.clear()


def bad_frames(me, s, held):
    c = opened(me, held, me.rnd.choice(("/echo", "/hub", "/stream", "/seq")))
    wire, code = me.rnd.choice((
        (wsraw.frame(TEXT, b"x", mask=None), 1002), (wsraw.frame(TEXT, b"x", rsv=4), 1002), (wsraw.frame(3, b"x"), 1002),
        (wsraw.frame(PING, bytes(126)), 1002), (wsraw.frame(PING, b"", fin=False), 1002), (wsraw.frame(CONT, b"x"), 1002),
        (wsraw.frame(TEXT, b"\xff"), 1007), (wsraw.frame(TEXT, b"x", form=64), 1002), (wsraw.frame(CLOSE, b"\3"), 1002),
        (wsraw.frame(TEXT, b"x", fin=False) + wsraw.frame(TEXT, b"y"), 1002), (wsraw.frame(CLOSE, b"\x03\xe8\xff"), 1007)))
    c.send(wire)
    closed(me, c, (code,))


def half_close(me, s, held):
    """The end of input, with or without close_notify, in whatever phase; what was asked for before is answered."""
    c = reach(me, s)
    if me.rnd.random() < 0.5:
        c.send(b"GET /page.bin HTTP/1.1\r\nHost: x\r\n\r\n" if c.reply_head is None else wsraw.frame(TEXT, b"last words"))
    c.shutdown_write(notify=me.rnd.random() < 0.5 and bool(c.tls and c.tls.version()))
    while c.more(1):
        c.buf.clear()


def garbage_tls(me, s, held):
    """What is no handshake, or one with something wrong in it."""
    c = s.connect(source=some(me), handshake=False)
    data = bytearray(test_abuse.hello(c))
    if me.rnd.random() < 0.5:
        data[me.rnd.randrange(len(data))] ^= 1 << me.rnd.randrange(8)
        c.wire(data[:me.rnd.choice((len(data), len(data) // 2))])
    else:
        c.wire(data)
        c.sock.settimeout(2)
        c.sock.recv(65536)
        c.sock.setblocking(False)
        c.wire(b"\x16\x03\x03\x00\x25\x10\x00\x00\x21\x20" + me.rnd.randbytes(32) + b"\x14\x03\x03\x00\x01\x01" +
               b"\x16\x03\x03\x00\x28" + me.rnd.randbytes(40))
    c.sock.settimeout(2)
    c.sock.recv(65536)


def misplaced(me, s, held):
    """Plain HTTP on a TLS port."""
    c = wsraw.connect(me.world[me.rnd.choice(("tls", "ca"))], False, source=some(me), timeout=5)
    held.callback(end, me, c)
    c.send(me.rnd.choice((wsraw.upgrade_head("/echo"), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /" + bytes(3000))))
    answer(c, (400,))


def idlers(me, s, held):
    """Who says nothing more, wherever he is."""
    for _ in range(me.rnd.randrange(1, 10)):
        reach(me, s)
    hold(me, me.rnd.choice((0.5, 3, 12)))


def sleepers(me, s, held):
    """At rest, then all at once with a word."""
    cs = [opened(me, held, "/echo", tls=False) for _ in range(8)]
    hold(me, 2.5)
    for c in cs:
        c.send_text("morning")
    for c in cs:
        opcode, data = c.recv_message(skip_control=True)
        if opcode != CLOSE and (opcode, data) != (TEXT, b"morning"):
            raise Wrong(f"{data!r} instead of an echo")


def crowd(me, s, held):
    """Until the house is full, and a little longer. One crowd at a time is enough."""
    if not me.crew.crowd.acquire(blocking=False):
        return
    try:
        for _ in range(2 * me.world["max"]):
            c = opened(me, held, "/echo", tls=False)
            if not me.crew.gate.is_set():
                break
    except GONE:
        me.crew.tally(full_houses=1)
        hold(me, me.rnd.uniform(0.2, 2))
        raise
    finally:
        held.close()
        me.crew.crowd.release()


def wrong_credentials(me, s, held):
    for value in ("Bearer " + "0" * 64, "Basic " + "YTpi" * 10, "Bearer", "Bearer " + me.world["token"][:-1]):
        opened(me, held, "/private", tls=True, wanted=(401,), extra=[("Authorization", value)])


def wrong_proxy(me, s, held):
    """Heads of the PROXY protocol that are cut, wrong, of nobody; and somebody who is no proxy."""
    data = me.rnd.choice((
        test_proxy.of("192.0.2.66")[:me.rnd.randrange(1, 27)], test_proxy.head(b"", version=1), b"GET / HTTP/1.1\r\n\r\n",
        test_proxy.head(bytes(12), length=3000), test_proxy.head(b"", test_proxy.UNSPEC, test_proxy.LOCAL),
        test_proxy.of("2001:db8::7"), bytes(200)))
    honest = me.rnd.random() < 0.7
    c = wsraw.connect(me.world["proxy"], True, source="127.2.0.9" if honest else some(me), timeout=3, handshake=False)
    held.callback(end, me, c)
    c.wire(data)
    c.handshake()
    c.request("GET", "/")


def wrong_certificate(me, s, held):
    for which in (True, me.world["stranger"]):
        tls = which if which is True else wsraw.client_context(None, *which)
        with contextlib.suppress(*GONE):
            c = wsraw.connect(me.world["ca"], tls, source=some(me), timeout=5)
            held.callback(end, me, c)
            c.open("/echo")
            raise Wrong("a stranger's certificate opens")


def broken(me, s, held):
    """A backend that resets, ends, hangs, floods, or is not there."""
    c = opened(me, held, me.rnd.choice(("/broken", "/broken-unix", "/broken-seq")), wanted=(101, 502))
    if c is None:
        return
    data = wsraw.frame(BINARY, me.rnd.randbytes(20000))
    for _ in range(me.rnd.randrange(10)):
        c.send(data, drain=True)
    if me.rnd.random() < 0.5:
        c.send_frame(CLOSE, b"\x03\xe8")
    closed(me, c, (1000, 1011))


def nobody_accepts(me, s, held):
    c = wsraw.connect(me.world["plain"], False, source=some(me), timeout=15)
    held.callback(end, me, c)
    c.send(wsraw.upgrade_head(me.rnd.choice(("/hang", "/hang-unix")), c.host))
    if me.rnd.random() < 0.3:
        hold(me, 1)
    else:
        answer(c, (502,))


ACTS = [churn, churn, resets, random_bytes, random_bytes, slow_reader, slow_publisher, ping_flood, hub_flood, huge,
        bad_frames, half_close, garbage_tls, misplaced, idlers, sleepers, crowd, wrong_credentials, wrong_proxy,
        wrong_certificate, broken, broken, nobody_accepts]


def throttle(crew, share):
    """Sets the pause between acts so that we and the server together take this share of a CPU."""
    pid = crew.world["pid"]
    last, at = time.process_time() + peers.cpu(pid), time.monotonic()
    while not crew.over.is_set():
        time.sleep(1)
        used, now = time.process_time() + peers.cpu(pid), time.monotonic()
        crew.count["cpu"] = time.process_time()
        if crew.gate.is_set():
            crew.pause = min(5, max(0.02, crew.pause * min(2, max(0.5, (used - last) / (now - at) / share))))
        last, at = used, now


# ---------------------------------------------------------------------------------------------- a crew's process


def crew(name, world, gate, over, parked, pipe, seed):
    """The main function of a crew's process; reports each second, and once more when all have ended."""
    world = dict(world, crew={"honest": 1, "probe": 2, "hostile": 3}[name])
    c = Crew(world, gate, over, parked, f"{seed} {name}")
    tls, plain = world["tls"], world["honest_plain"]
    wsraw.client_context()          # one for all threads: a session belongs to it
    if name == "honest":
        bearer = [("Authorization", "Bearer " + world["token"])]
        c.add(echo, tls, True, 3 << 20, stay=True)
        c.add(echo, plain, False, 3 << 20, stay=True)
        c.add(hub, tls, True, world["most"], stay=True)
        c.add(stream, plain, False, "/stream", 1 << 20, stay=True)
        for port, secure in ((tls, True), (plain, False)):
            c.add(echo, port, secure, 3 << 20)
            c.add(echo, port, secure, 60000, slow=2)
            c.add(hub, port, secure, world["most"])
            c.add(hub, port, secure, 2000)
            c.add(stream, port, secure, "/stream", 1 << 20)
            c.add(stream, port, secure, "/unix", 1 << 20)
            c.add(stream, port, secure, "/seq", world["most"], kinds="b", whole=True)
        c.add(stream, tls, True, "/seq-text", world["most"], kinds="t", whole=True)
        c.add(files, tls, True, world["page"])
        c.add(echo, tls, True, 20000, path="/private", extra=bearer, slow=0.5)
        c.add(echo, world["proxy"], True, 20000, before=test_proxy.of("192.0.2.7", tlvs=test_proxy.ALPN), slow=0.5)
        c.members[-1].source = "127.2.0.1"
        c.add(echo, world["ca"], wsraw.client_context(None, *world["device"]), 20000, slow=0.5)
    elif name == "probe":
        c.add(steady, tls, True)
        c.add(newcomer, tls, True)
    else:
        c.deck, c.crowd = [], threading.Lock()
        for _ in range(24):
            c.add(act)
        threading.Thread(target=throttle, args=(c, world["share"]), daemon=True).start()
    for m in c.members:
        m.start()
    pipe.send(len(c.members))
    try:
        while any(m.is_alive() for m in c.members):
            time.sleep(1)
            pipe.send(c.report())
        pipe.send(c.report())
        pipe.send(None)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)                 # there is nobody left to tell
    os._exit(0)


# ---------------------------------------------------------------------------------------------- backends


class Mirror:
    """Sends back all it gets; at the end of input, number and digest of that."""

    def __init__(self, path=None, packets=False, kind="b"):
        self.packets, self.kind = packets, ord(kind)
        if packets:
            self.sock, self.route = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), f"seqpacket:{path}"
        elif path:
            self.sock, self.route = socket.socket(socket.AF_UNIX), f"unix:{path}"
        else:
            self.sock = socket.socket()
        self.sock.bind(path or ("127.0.0.1", 0))
        if not path:
            self.route = "tcp:127.0.0.1:%d" % self.sock.getsockname()[1]
        self.sock.listen(128)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            sock, _ = self.sock.accept()
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        total, sha = 0, hashlib.sha256()
        with contextlib.suppress(OSError), sock:
            sock.settimeout(120 * SLOW if not self.packets else None)
            while data := sock.recv(1 << 18):
                total += len(data)
                sha.update(data)
                sock.sendall(data)
            sock.sendall(message(self.kind, 0, 1, b"%d %s" % (total, sha.hexdigest().encode())))


class Broken:
    """Does all that a backend should not do, one way a connection, and is not there at all now and then."""

    def __init__(self, rnd, path=None, packets=False):
        self.rnd, self.path, self.packets = rnd, path, packets
        self.address, self.sock = path or (f"127.8.{rnd.randrange(256)}.{rnd.randrange(1, 255)}", 0), None
        self.listen()
        self.address = path or self.sock.getsockname()
        name = "seqpacket" if packets else "unix"
        self.route = f"{name}:{path}" if path else "tcp:%s:%d" % self.address
        self.slots, self.over = threading.Semaphore(64), False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def stop(self):
        """No more sockets of that name."""
        self.over = True
        self.thread.join(10)

    def listen(self):
        if self.path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        self.sock = socket.socket(socket.AF_UNIX if self.path else socket.AF_INET,
                                  socket.SOCK_SEQPACKET if self.packets else socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(self.address)
        self.sock.listen(16)
        self.sock.settimeout(0.2)

    def run(self):
        restart = time.monotonic() + 5
        while not self.over:
            if time.monotonic() > restart:
                self.sock.close()
                time.sleep(self.rnd.uniform(0, 2))
                self.listen()
                restart = time.monotonic() + self.rnd.uniform(3, 12)
            try:
                sock, _ = self.sock.accept()
            except TimeoutError:
                continue
            if self.slots.acquire(blocking=False):
                threading.Thread(target=self.serve, args=(sock, self.rnd.randrange(9)), daemon=True).start()
            else:
                peers.reset(sock)

    def serve(self, sock, way):
        sock.settimeout(6)
        with contextlib.suppress(OSError):
            if way in (1, 2):
                sock.send(b"welcome")
            if way == 3:
                sock.recv(1000)
            if way == 4:            # hangs
                time.sleep(5)
            if way == 5:            # floods
                for _ in range(200):
                    sock.send(bytes(20000))
            if way == 6:            # hears nothing more, or says nothing more
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            if way == 7:
                for _ in range(30):
                    sock.send(b"drop")
                    time.sleep(0.1)
            if way == 8:
                while data := sock.recv(65536):
                    sock.send(data)
        with contextlib.suppress(OSError):
            peers.reset(sock) if way in (0, 2, 5) else sock.close()
        self.slots.release()


# ---------------------------------------------------------------------------------------------- is anybody looking?


class Meddler:
    """Stands between honest clients and a ws:// port, and lets each n-th whole message of the server fall under the table,
    or hands it over twice: soak.py must see it."""

    def __init__(self, port, twice, every=50):
        self.target, self.twice, self.every = port, twice, every
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.sock.getsockname()[1]
        self.seen = 0
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            a, _ = self.sock.accept()
            b = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self.copy, args=(a, b), daemon=True).start()
            threading.Thread(target=self.meddle, args=(b, a), daemon=True).start()

    def copy(self, a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)

    def meddle(self, a, b):
        """Frame by frame from A, the server, to B."""
        with contextlib.suppress(OSError, AssertionError):
            file = a.makefile("rb")
            while (line := file.readline()) not in (b"\r\n", b""):
                b.sendall(line)
            b.sendall(line)
            while len(head := file.read(2)) == 2:
                size, more = head[1], b""
                if size == 126:
                    more = file.read(2)
                    size = struct.unpack("!H", more)[0]
                frame = head + more + file.read(size)
                whole = head[0] in (0x81, 0x82)
                self.seen += whole
                if whole and self.seen % self.every == 0:
                    frame = 2 * frame if self.twice else b""
                b.sendall(frame)
            b.shutdown(socket.SHUT_WR)
