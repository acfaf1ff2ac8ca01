"""What test_differential.py stands on: many raw connections at once, the outcome of each, and a reading of RFC 6455 and
RFC 9112 that says what a server should have answered.

An outcome is what can be compared: the messages that came back, the pongs, the Close (its code) or the end without one, in
order; of a head the status. The reading (frames(), faults()) shares no line with the server and none with its peers. What a
peer does otherwise is a change of that reading, in the tables of test_differential.py.
"""

import collections
import json
import os
import re
import select
import socket
import subprocess
import time

import wsraw
from wsraw import BINARY, CLOSE, CONT, PING, PONG, TEXT

HERE = os.path.dirname(os.path.abspath(__file__))
SLOW = wsraw.SLOW
SYNC = b"so far, so good"  # the ping between what is whole and what is cut short by our end

# ---------------------------------------------------------------------------------------------- the others


class Peer:
    """Another server, a child that says its port in one line and ends with its stdin."""

    def __init__(self, *command):
        self.proc = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE)
        ready, _, _ = select.select([self.proc.stdout], [], [], 30 * SLOW)
        line = self.proc.stdout.readline() if ready else b""
        if not line:
            self.proc.kill()
            raise AssertionError("%s did not start: %s" % (command, self.proc.communicate()[1].decode(errors="replace")))
        said = json.loads(line)
        self.port, self.version = said["port"], said["name"]

    def stop(self):
        """Its last words on stderr, which should be none."""
        try:
            words = self.proc.communicate(timeout=10 * SLOW)[1]
        except subprocess.TimeoutExpired:
            self.proc.kill()
            words = self.proc.communicate()[1] + b"did not end with its stdin"
        return words.decode(errors="replace")


# ---------------------------------------------------------------------------------------------- connections

Result = collections.namedtuple("Result", "status events partial end wrong")


class Talk:
    """One connection: a head, then, after a 101, pieces of bytes; between two of them the pong to SYNC is awaited. Once the
    server's Close is there, or with fin after the last piece, our direction ends."""

    def __init__(self, port, head, pieces=(), fin=False, now=False):
        self.out, self.pieces, self.fin, self.now = bytearray(head), list(pieces), fin, now
        keys = re.findall(rb"(?i)sec-websocket-key[ \t]*:\s*([^\r\n]*?)[ \t]*[\r\n]", head)
        self.key = keys[-1].decode("latin-1") if keys else ""
        self.buf, self.status, self.events, self.message = bytearray(), None, [], None
        self.end = self.wrong = None
        self.shut = False
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", port))

    def result(self):
        self.sock.close()
        partial = (self.message[0], bytes(self.message[1])) if self.message else None
        return Result(self.status, self.events, partial, self.end, self.wrong)

    def wanted(self):
        return select.EPOLLIN | (select.EPOLLOUT if self.out or (self.now and not self.shut) else 0)

    def write(self):
        try:
            while self.out:
                n = self.sock.send(self.out)
                del self.out[:n]
            if self.now or (self.fin and not self.pieces and self.status == 101):
                self.half_close()
        except BlockingIOError:
            pass
        except OSError:  # gone: what it said before may still be read
            self.out.clear()
            self.shut = True

    def half_close(self):
        if not self.shut:
            self.shut = True
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def read(self):
        """True at the end of it all."""
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return False
        except OSError:
            self.end = "reset"
            return True
        if not data:
            self.end = "fin" if self.shut or self.closed() else "lost"
            if self.closed() and self.buf:
                self.wrong = "something after its Close"
            return True
        self.buf += data
        if self.status is None:
            if not self.read_head():
                return False
            if self.status != 101:
                self.end = "refused"
                return True
            if self.pieces:
                self.out += self.pieces.pop(0)
                self.write()
        while self.wrong is None and self.read_frame():
            pass
        return self.wrong is not None

    def read_head(self):
        while b"\r\n\r\n" in self.buf:
            head, _, rest = bytes(self.buf).partition(b"\r\n\r\n")
            m = re.match(rb"HTTP/1\.[01] (\d\d\d) ", head + b"\r\n")
            self.buf = bytearray(rest)
            if m is None:
                self.wrong = "not a reply: %r" % head[:80]
                self.status = 0
            elif m.group(1) == b"100":
                continue  # RFC 9110 15.2: another one follows
            else:
                self.status = int(m.group(1))
                if self.status == 101:
                    self.check_101(head)
            return True
        return False

    def check_101(self, head):
        try:
            wsraw.check_101(wsraw.Reply(head + b"\r\n\r\n"), self.key)
        except wsraw.Violation as e:
            self.wrong = str(e)

    def closed(self):
        """Whether the server's Close came."""
        return bool(self.events) and self.events[-1][0] == "close"

    def read_frame(self):
        """Takes one whole frame of the server's; False when there is none."""
        b = self.buf
        if len(b) < 2:
            return False
        n, at = b[1] & 127, 2
        if n > 125:
            at = 4 if n == 126 else 10
            if len(b) < at:
                return False
            n = int.from_bytes(b[2:at], "big")
        if len(b) < at + n:
            return False
        reserved = b[0] & 0x70 | b[1] & 0x80
        opcode, fin, payload = b[0] & 15, b[0] >> 7, bytes(b[at:at + n])
        least = {2: 0, 4: 126, 10: 65536}[at]
        del b[:at + n]
        if self.closed():
            self.wrong = "something after its Close"
        elif self.malformed(reserved, opcode, fin, n, least):
            self.wrong = "a malformed frame: opcode %d, fin %d, length %d" % (opcode, fin, n)
        elif opcode in (CONT, TEXT, BINARY):
            if self.message is None:
                self.message = (opcode, bytearray())
            self.message[1].extend(payload)
            if fin:
                self.events.append(("message", self.message[0], bytes(self.message[1])))
                self.message = None
        elif opcode == PONG:
            self.events.append(("pong", payload))
            if payload == SYNC and self.pieces:
                self.out += self.pieces.pop(0)
                self.write()
        elif opcode == CLOSE:
            try:
                wsraw.check_close(payload)
            except wsraw.Violation as e:
                self.wrong = str(e)
            self.events.append(("close", int.from_bytes(payload[:2], "big") if payload else None))
            self.out.clear()
            self.half_close()
        else:
            self.wrong = "opcode %d" % opcode
        return True

    def malformed(self, reserved, opcode, fin, n, least):
        """Whether the server may not send this frame now (5.1, 5.2, 5.4, 5.5)."""
        return reserved or n < least or (opcode >= 8 and (n > 125 or not fin)) or \
            (opcode < 8 and (opcode == CONT) != (self.message is not None))


def converse(talks, parallel=48, patience=30.0):
    """Runs them (callables that make a Talk), `parallel` at a time; their results in order."""
    results, waiting, live = [None] * len(talks), iter(enumerate(talks)), {}
    poll, heard = select.epoll(), time.monotonic()
    try:
        while True:
            while len(live) < parallel:
                i, make = next(waiting, (None, None))
                if make is None:
                    break
                talk = make()
                talk.mask = talk.wanted()
                live[talk.sock.fileno()] = i, talk
                poll.register(talk.sock, talk.mask)
            if not live:
                return results
            for fd, mask in poll.poll(min(1.0, patience * SLOW)):
                i, talk = live[fd]
                heard = time.monotonic()
                if mask & select.EPOLLOUT:
                    talk.write()
                if mask & ~select.EPOLLOUT and talk.read():
                    poll.unregister(fd)
                    del live[fd]
                    results[i] = talk.result()
                elif talk.wanted() != talk.mask:
                    talk.mask = talk.wanted()
                    poll.modify(fd, talk.mask)
            if time.monotonic() - heard > patience * SLOW:
                for i, talk in live.values():
                    talk.end = "silence"
                    results[i] = talk.result()
                live.clear()
                for i, make in waiting:
                    results[i] = Result(None, [], None, "silence", None)
    finally:
        for _, talk in live.values():
            talk.sock.close()
        poll.close()


def outcome(r):
    """What is compared."""
    if r.wrong is not None:
        return [("wrong", r.wrong)]
    if r.end in ("silence", "lost", "refused") or r.status != 101:
        return r.events + [(r.end, r.status)]
    return r.events if r.events and r.events[-1][0] == "close" else r.events + [("end",)]


# ---------------------------------------------------------------------------------------------- RFC 6455, section 5 to 8

NEVER = 1 << 70
# How many bytes of a frame must be there before this is refused: a number, all of its "header", of its "length", the whole
# "frame"; of UTF-8 also "byte" and "message".
STRICT = {
    "rsv": 1, "opcode": 1, "fragmented control": 1,  # 5.2, 5.5
    "unmasked": 2,  # 5.1
    "long form of a control frame": 2, "long control": "length",  # 5.5
    "close of one byte": "frame",  # 5.5.1: half a code
    "most significant bit": 3, "not minimal": "length",  # 5.2
    "huge": NEVER,  # more than 2^53 - 1 bytes
    "order": "header",  # 5.4
    "utf8": "byte",  # 8.1
    "surrogate": 2,  # of its bytes tell that it is one (RFC 3629 4)
    "above the limit": "header", "limit": "messages",  # of a server that has one: what counts
    "reason": "after the code",  # 5.5.1: which is looked at first
}


def bad_utf8(data, final):
    """Where the first byte stands that makes this no UTF-8; len(data) if only its end does; None."""
    try:
        data.decode()
    except UnicodeDecodeError as e:
        if e.reason == "unexpected end of data":
            return len(data) if final else None
        return e.end if e.reason == "invalid continuation byte" else e.start
    return None


def close_answer(payload, how):
    """5.5.1, 7.4: the code of the Close that answers one with this payload."""
    if len(payload) == 1:
        return 1002
    if not payload:
        return None
    code, reason = int.from_bytes(payload[:2], "big"), bad_utf8(payload[2:], True)
    if reason is not None and how["reason"] == "before the code":
        return 1007
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        return 1002
    return code if reason is None else 1007


def frames(data, how=STRICT, limit=None):
    """What a server does that gets these bytes and then our end, as events, and what it has of a message then."""
    events, at, message, text = [], 0, None, b""
    while at < len(data):
        b = data[at:at + 14]
        form = b[1] & 127 if len(b) > 1 else 0
        size = {126: 4, 127: 10}.get(form, 2)
        masked = len(b) < 2 or b[1] > 127
        header = size + 4 * masked
        there = len(data) - at
        length = int.from_bytes(b[2:size], "big") if form > 125 else form
        known = len(b) >= size
        whole = header + length if known and len(b) > 1 else NEVER
        fin, opcode = b[0] > 127, b[0] & 15
        payload = data[at + header:at + min(whole, there)] if there > header else b""
        if masked and payload:
            payload = wsraw.mask_bytes(payload, data[at + header - 4:at + header])
        needs = {"header": header if len(b) > 1 else NEVER, "length": size, "frame": whole}
        found = []

        def fault(name, is_there, code=1002):
            if is_there:
                found.append((needs.get(how[name], how[name]), code))

        fault("rsv", b[0] & 0x70)
        fault("opcode", opcode & 7 > 2)
        fault("fragmented control", opcode >= CLOSE and not fin)
        fault("order", opcode <= BINARY and (opcode == CONT) != (message is not None))
        if len(b) > 1:
            fault("unmasked", not masked)
            fault("long form of a control frame", opcode >= CLOSE and form > 125)
        if size == 10 and len(b) > 2:
            fault("most significant bit", b[2] > 127)
        if known and len(b) > 1:
            fault("long control", opcode >= CLOSE and length > 125)
            fault("close of one byte", opcode == CLOSE and length == 1)
            fault("not minimal", length < {2: 0, 4: 126, 10: 65536}[size])
            fault("huge", length >= 1 << 53, 1009)
            if limit is not None and (opcode <= BINARY or how["limit"] == "all"):
                fault("above the limit", len(text) + length > limit, 1009)
        kind = message if opcode == CONT else opcode
        part = (kind, text + payload) if opcode <= BINARY and kind == (message or kind) else (message, text)
        if kind == TEXT and opcode <= BINARY and how["utf8"] != NEVER:
            complete = there >= whole
            final = fin and complete
            bad = bad_utf8(text + payload, final)
            if how["surrogate"] == 3 and not final and bad == len(text + payload) - 1 and (text + payload)[bad - 1] == 0xed:
                bad = None
            if bad is not None and how["utf8"] == "byte":
                found.append((header + max(0, min(bad - len(text) + 1, length)), 1007))
            elif bad is not None and (how["utf8"] == "frame" or fin):
                found.append((whole, 1007))
        found = [f for f in found if f[0] <= there]
        if found:
            return events + [("close", min(found)[1])], part
        if there < whole:
            return events + [("end",)], part
        at += whole
        if opcode == CLOSE:
            return events + [("close", close_answer(payload, how))], (message, text)
        if opcode == PING:
            events.append(("pong", payload))
        elif opcode <= BINARY:
            message, text = kind, text + payload
            if fin:
                events.append(("message", message, text))
                message, text = None, b""
    return events + [("end",)], (message, text)


# ---------------------------------------------------------------------------------------------- RFC 9112, RFC 6455 4.2.1

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
HOST = re.compile(rb"(?:%s|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?" % TOKEN)
KNOWN = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
ONCE = (b"content-length", b"host", b"origin", b"authorization", b"cookie", b"sec-websocket-key", b"sec-websocket-version")
HEAD_MAX, FIELDS_MAX = 8192, 100


def elements(values):
    return [e.strip(b" \t").lower() for v in values for e in v.split(b",")]


class Head:
    """A head as anybody would cut it: lines; line: the first; fields: values by lower-case name; odd: the other lines."""

    def __init__(self, raw):
        self.raw = raw
        raw = raw[2:] if raw.startswith(b"\r\n") else raw  # RFC 9112 2.2
        self.end = raw.find(b"\r\n\r\n")
        self.behind = raw[self.end + 4:] if self.end >= 0 else b""
        self.lines = raw[:self.end if self.end >= 0 else len(raw)].split(b"\r\n")
        self.line, self.fields, self.odd = self.lines[0], collections.defaultdict(list), []
        for line in self.lines[1:]:
            f = re.fullmatch(rb"(%s):[ \t]*(.*?)[ \t]*" % TOKEN, line, re.S)
            if f:
                self.fields[f.group(1).lower()].append(f.group(2))
            else:
                self.odd.append(line)

    def has(self, name, regex):
        """Whether all its values together match."""
        return re.search(regex, b", ".join(self.fields[name])) is not None


def faults(h, path=b"/echo"):
    """All that forbids an upgrade with this Head, by name; none: it must be granted. As wssd has it: where the RFC leaves a
    choice it refuses."""
    found, fields = set(), h.fields
    if h.end < 0:
        found.add("incomplete")
    elif h.end + 4 > HEAD_MAX:
        found.add("too long")
    for line in h.lines:
        if b"\r" in line:
            found.add("bare CR")
        if b"\n" in line:
            found.add("bare LF")
        if re.search(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]", line):
            found.add("control byte")
    for line in h.odd:
        found.add("folded line" if line[:1] in (b" ", b"\t") else
                  "space before the colon" if re.match(rb"%s[ \t]+:" % TOKEN, line) else "field line")
    if h.line == b"":
        return {"request line"} | (found & {"incomplete"})
    m = re.fullmatch(rb"(%s) ([!-\"$-~]+) HTTP/([0-9])\.([0-9])" % TOKEN, h.line)
    if m is None:
        return found | {"request line"}
    method, target, version = m.group(1), m.group(2), (m.group(3), m.group(4))
    if method != b"GET":
        found.add("method" if method in KNOWN else "unknown method")
    if version != (b"1", b"1"):
        found.add("version 1.0" if version == (b"1", b"0") else "other version")
    if len(h.lines) - 1 > FIELDS_MAX:
        found.add("too many fields")
    for name in ONCE:
        if len(fields[name]) > 1:
            found.add("two hosts" if name == b"host" else "two that decide")
    if not fields[b"host"]:
        found.add("no Host")
    found |= {"bad Host" for v in fields[b"host"] if not HOST.fullmatch(v)}
    if fields[b"transfer-encoding"]:
        found.add("Transfer-Encoding")
    if any(v != b"0" for v in fields[b"content-length"]):
        found.add("Content-Length")
    if method == b"GET":
        absolute = re.fullmatch(rb"(?i:https?)://([^/?]*)(.*)", target)
        if absolute and not HOST.fullmatch(absolute.group(1)):
            found.add("bad authority")
        if not absolute and target[:1] != b"/":
            found.add("target")
        got = (absolute.group(2) if absolute else target).partition(b"?")[0]
        if re.search(rb"%(?![0-9A-Fa-f]{2})|%([01][0-9A-Fa-f]|7[Ff]|2[Ff])", got):
            found.add("escape")
        elif re.sub(rb"%(..)", lambda e: bytes([int(e.group(1), 16)]), got) != path:
            found.add("path")
    if b"upgrade" not in elements(fields[b"connection"]):
        found.add("Connection")
    if b"websocket" not in elements(fields[b"upgrade"]):
        found.add("Upgrade")
    if fields[b"sec-websocket-version"][-1:] != [b"13"]:
        found.add("Sec-WebSocket-Version")
    if not re.fullmatch(rb"[A-Za-z0-9+/]{21}[AQgw]==", (fields[b"sec-websocket-key"] or [b""])[-1]):
        found.add("Sec-WebSocket-Key")
    return found
