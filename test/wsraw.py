"""A raw client for HTTP and WebSocket, TCP or TLS, made to send what a proper client never would.

Nothing here corrects, completes or hides anything: a frame is encoded exactly as asked for, every byte can be its own
write (and, with TLS, its own record), and what the server sends is checked against RFC 6455 section 5 while it is read.
TLS runs over memory BIOs, so that one thread may read while another writes, and an end with close_notify is told from
a bare FIN and from a reset (Raw.ended is "clean", "ragged", "fin" or "reset").

    with wsraw.connect(port, tls=True) as c:            # a Raw
        c.open("/echo")                                 # the opening handshake; c.reply_head holds the 101
        c.send_text("hello")
        assert c.recv_message() == (wsraw.TEXT, b"hello")
        c.close_handshake(1000)

Every wait is bounded by Raw.timeout (seconds, times WSSD_SLOW), and raises Silence when it runs out.
"""

import base64
import collections
import hashlib
import os
import select
import socket
import ssl
import struct
import threading
import time

SLOW = float(os.environ.get("WSSD_SLOW", "1"))
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the key of RFC 6455 section 1.3
MASK = b"\x37\xfa\x21\x3d"  # the masking key of the examples in section 5.7

Frame = collections.namedtuple("Frame", "fin rsv opcode payload header")
LIVE = []  # every Raw not yet closed; the fixtures close what a test left open


class Silence(AssertionError):
    """The server said nothing within the time."""


class Ended(AssertionError):
    """The connection ended while more was expected."""


class Violation(AssertionError):
    """The server sent what the RFC forbids."""


# ---------------------------------------------------------------------------------------------- building


def accept_key(key):
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode("latin-1") + GUID).digest()).decode()


def head(method="GET", target="/", headers=(), version="HTTP/1.1", eol="\r\n"):
    """A request head, exactly as given; headers are pairs or whole lines."""
    lines = ["%s %s %s" % (method, target, version)]
    for h in headers:
        lines.append(h if isinstance(h, str) else "%s: %s" % tuple(h))
    return (eol.join(lines) + eol + eol).encode("latin-1")



def override(headers, changes):
    """Headers (pairs) with changes {name: value | None | [values]}: replace, drop, or repeat; new names are appended."""
    out, seen = [], set()
    low = {k.lower(): (k, v) for k, v in changes.items()}
    for name, value in headers:
        if name.lower() not in low:
            out.append((name, value))
            continue
        seen.add(name.lower())
        new_name, new = low[name.lower()]
        if new is not None:
            out += [(new_name, v) for v in (new if isinstance(new, list) else [new])]
    for key, (name, new) in low.items():
        if key not in seen and new is not None:
            out += [(name, v) for v in (new if isinstance(new, list) else [new])]
    return out


def upgrade_head(target="/echo", host="localhost", method="GET", version="HTTP/1.1", key=KEY, changes=(), extra=()):
    """The opening handshake of section 4.1 with changes as in override() and extra lines or pairs at the end."""
    headers = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
    ]
    return head(method, target, override(headers, dict(changes)) + list(extra), version)


def mask_bytes(payload, mask=MASK):
    """Section 5.3; fast enough for MiBs."""
    n = len(payload)
    key = (mask * (n // 4 + 1))[:n]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(n, "little")


def frame(opcode, payload=b"", fin=True, rsv=0, mask=MASK, form=None, length=None, mask_bit=None):
    """One encoded frame. form: 7, 16 or 64 forces that length encoding; length: declared instead of the payload's;
    mask=None: no masking key; mask_bit overrides the bit alone; rsv: 3 bits, RSV1 is 4."""
    if isinstance(payload, str):
        payload = payload.encode()
    n = len(payload) if length is None else length
    if form is None:
        form = 7 if n < 126 else 16 if n < 65536 else 64
    bit = mask is not None if mask_bit is None else mask_bit
    first = (0x80 if fin else 0) | (rsv << 4) | opcode
    m = 0x80 if bit else 0
    if form == 7:
        hdr = struct.pack("!BB", first, m | n)
    elif form == 16:
        hdr = struct.pack("!BBH", first, m | 126, n)
    else:
        hdr = struct.pack("!BBQ", first, m | 127, n)
    return hdr + (b"" if mask is None else mask + mask_bytes(payload, mask))


def close_payload(code=None, reason=b""):
    if isinstance(reason, str):
        reason = reason.encode()
    return b"" if code is None else struct.pack("!H", code) + reason


# ---------------------------------------------------------------------------------------------- replies


class Reply:
    """An HTTP reply: status, reason, version, headers (pairs in order), body, head (raw bytes)."""

    def __init__(self, raw):
        self.head, self.body = raw, b""
        text = raw.decode("latin-1")
        if not text.endswith("\r\n\r\n"):
            raise Violation("head does not end in CRLFCRLF: %r" % raw)
        if "\n" in text.replace("\r\n", ""):
            raise Violation("bare LF in a reply: %r" % raw)
        lines = text[:-4].split("\r\n")
        parts = lines[0].split(" ", 2)
        if len(parts) < 3 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise Violation("not a status line: %r" % lines[0])
        self.version, self.status, self.reason = parts[0], int(parts[1]), parts[2]
        self.headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip() or not name:
                raise Violation("not a header line: %r" % line)
            self.headers.append((name, value.strip()))

    def all(self, name):
        return [v for k, v in self.headers if k.lower() == name.lower()]

    def get(self, name, default=None):
        found = self.all(name)
        if len(found) > 1:
            raise Violation("header %s given %d times" % (name, len(found)))
        return found[0] if found else default

    @property
    def closing(self):
        return "close" in [t.strip().lower() for t in ",".join(self.all("Connection")).split(",")]

    def __repr__(self):
        return "<Reply %d %s %r body=%d>" % (self.status, self.reason, self.headers, len(self.body))


# ---------------------------------------------------------------------------------------------- the client

_contexts = {}


def client_context(cafile=None, certfile=None, keyfile=None, ciphers=None, alpn=None, version=ssl.TLSVersion.TLSv1_2):
    """A cached client context for exactly one TLS version; no verification unless cafile is given."""
    key = (cafile, certfile, keyfile, ciphers, tuple(alpn or ()), version)
    if key not in _contexts:
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ctx.check_hostname = cafile is not None
        ctx.verify_mode = ssl.CERT_REQUIRED if cafile else ssl.CERT_NONE
        if cafile:
            ctx.load_verify_locations(cafile)
        if certfile:
            ctx.load_cert_chain(certfile, keyfile)
        if ciphers:
            ctx.set_ciphers(ciphers)
        if alpn:
            ctx.set_alpn_protocols(list(alpn))
        ctx.minimum_version = ctx.maximum_version = version
        ctx.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python sets it, and then a bare FIN looks like close_notify
        _contexts[key] = ctx
    return _contexts[key]


def connect(port, tls=False, address="127.0.0.1", **kw):
    return Raw(port, tls, address, **kw)


class Raw:
    """One connection. tls: False, True, or an ssl.SSLContext. bytewise: True makes send() write byte by byte."""

    def __init__(self, port, tls=False, address="127.0.0.1", timeout=10.0, name="localhost", host=None, bytewise=False,
                 session=None, source=None, rcvbuf=None, sndbuf=None, handshake=True):
        self.timeout = timeout * SLOW
        self.port, self.address, self.name = port, address, name
        self.host = host or ("[%s]:%d" if ":" in address else "%s:%d") % (address, port)
        self.bytewise = bytewise
        self.buf = bytearray()  # decrypted, not yet consumed
        self.ended = None
        self.reply_head = None
        self.fragmented = False  # a message of the server's is in progress
        self.partial = None  # what recv_message has of it: opcode, parts, length
        self.controls = []  # pings and pongs that recv_message(skip_control=True) met
        self.wlock, self.tlock = threading.Lock(), threading.Lock()
        self.sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            if rcvbuf:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            if sndbuf:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
            if source:
                self.sock.bind((source, 0))
            self.sock.settimeout(self.timeout)
            self.sock.connect((address, port))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setblocking(False)
            self.local = self.sock.getsockname()
            self.tls = None
            if tls:
                ctx = client_context() if tls is True else tls
                self.inc, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
                self.tls = ctx.wrap_bio(self.inc, self.out, server_hostname=name, session=session)
        except BaseException:
            self.sock.close()
            raise
        LIVE.append(self)
        if self.tls and handshake:
            try:
                self.handshake()
            except BaseException:
                self.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # ---- transport

    def handshake(self):
        end = time.monotonic() + self.timeout
        while True:
            try:
                self.tls.do_handshake()
                self._write_raw(self.out.read(), end)
                return
            except ssl.SSLWantReadError:
                self._write_raw(self.out.read(), end)
                if self._fill(end) == b"":
                    raise Ended("TLS handshake: " + str(self.ended))

    def _wait(self, write, end):
        left = end - time.monotonic()
        p = select.poll()
        p.register(self.sock, select.POLLOUT if write else select.POLLIN)
        if left <= 0 or not p.poll(left * 1000):
            raise Silence("nothing to %s within %.1f s" % ("write to" if write else "read", self.timeout))

    def _write_raw(self, data, end):
        data = memoryview(data)
        while len(data):
            try:
                data = data[self.sock.send(data):]
            except BlockingIOError:
                self._wait(True, end)

    def _fill(self, end):
        """Reads what is there from the wire (waiting until end); b"" at an end, which goes to self.ended."""
        while True:
            try:
                data = self.sock.recv(262144)
            except BlockingIOError:
                self._wait(False, end)
                continue
            except (ConnectionResetError, BrokenPipeError):
                self.ended = "reset"
                return b""
            if self.tls is None:
                if not data:
                    self.ended = "fin"
                return data
            if data:
                self.inc.write(data)
            else:
                self.inc.write_eof()
                self.ended = "ragged"
            return data

    def _decrypt(self):
        """Moves plaintext from the TLS object to buf; sets ended at close_notify."""
        with self.tlock:
            try:
                while True:
                    data = self.tls.read(262144)
                    if not data:
                        self.ended = "clean"
                        return
                    self.buf += data
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self.ended = "clean"
            except ssl.SSLError as e:
                if not isinstance(e, ssl.SSLEOFError) and e.reason != "UNEXPECTED_EOF_WHILE_READING":
                    raise
                self.ended = self.ended or "ragged"

    def more(self, timeout=None):
        """Waits for more plaintext in self.buf; False at the end of the connection."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout * SLOW)
        if self.tls is None:
            if self.ended:
                return False
            data = self._fill(end)
            self.buf += data
            return bool(data)
        before = len(self.buf)
        while True:
            if self.ended in ("clean", "reset"):
                return False
            self._decrypt()
            if len(self.buf) > before:
                return True
            if self.ended:
                return False
            self._fill(end)

    def wire(self, data, timeout=None):
        """Sends bytes below TLS, as they are."""
        with self.wlock:
            self._write_raw(data, time.monotonic() + (self.timeout if timeout is None else timeout * SLOW))

    def encrypt(self, data):
        """The records that data makes (in order: whoever takes them must send them)."""
        with self.tlock:
            self.tls.write(data)
            return self.out.read()

    def send(self, data, timeout=None, bytewise=None, drain=False):
        """Sends all of data, one write (or one a byte). drain: takes in what the server sends meanwhile, as a client
        with a reader does; without it a server that pushes back stops us, and Silence is raised."""
        bytewise = self.bytewise if bytewise is None else bytewise
        if not data:
            return
        if bytewise:
            return self._send_bytes(data, timeout, drain)
        end = time.monotonic() + (self.timeout if timeout is None else timeout * SLOW)
        if not drain:
            with self.wlock:
                for i in range(0, len(data), 1 << 20):
                    part = data[i:i + (1 << 20)]
                    self._write_raw(self.encrypt(part) if self.tls else part, end)
            return
        p = select.poll()
        for i in range(0, len(data), 1 << 18):
            part = memoryview(self.encrypt(data[i:i + (1 << 18)]) if self.tls else data[i:i + (1 << 18)])
            while len(part):
                p.register(self.sock, select.POLLIN | select.POLLOUT if not self.ended else select.POLLOUT)
                events = p.poll(max(0, (end - time.monotonic()) * 1000))
                if not events:
                    raise Silence("neither readable nor writable while sending")
                if events[0][1] & (select.POLLIN | select.POLLHUP | select.POLLERR) and not self.ended:
                    data_in = self._fill(end)
                    if self.tls is None:
                        self.buf += data_in
                    else:
                        self._decrypt()
                if events[0][1] & select.POLLOUT:
                    try:
                        part = part[self.sock.send(part):]
                    except BlockingIOError:
                        pass

    EDGE = 400  # bytes at each end of something long that go one by one

    def _send_bytes(self, data, timeout, drain):
        """Byte by byte; of something long the middle goes whole. With TLS each byte is a record of its own, without it
        the pause makes it likely that the server reads each byte alone."""
        n = len(data)
        cut = n if n <= 4 * self.EDGE else self.EDGE
        i = 0
        while i < n:
            j = i + 1
            if i == cut:
                j = n - self.EDGE
            self.send(data[i:j], timeout, bytewise=False, drain=drain)
            if self.tls is None:
                time.sleep(0.00002)
            i = j

    def send_cut(self, data, sizes, pause=0.0):
        """Sends data in pieces of the given sizes, the rest at last."""
        i = 0
        for n in sizes:
            self.send(data[i:i + n], bytewise=False)
            i += n
            if pause:
                time.sleep(pause)
        self.send(data[i:], bytewise=False)

    def try_send(self, data, **kw):
        """Like send, for a peer that may be gone already; False when it is."""
        try:
            self.send(data, **kw)
            return True
        except (ConnectionError, ssl.SSLError):
            return False

    def recv(self, n, timeout=None):
        """Exactly n bytes of plaintext."""
        while len(self.buf) < n:
            if not self.more(timeout):
                raise Ended("%s after %d of %d bytes: %r" % (self.ended, len(self.buf), n, bytes(self.buf[:200])))
        out = bytes(self.buf[:n])
        del self.buf[:n]
        return out

    def recv_until(self, mark, limit=1 << 20, timeout=None):
        start = 0
        while True:
            i = self.buf.find(mark, start)
            if i >= 0:
                return self.recv(i + len(mark))
            start = max(0, len(self.buf) - len(mark))
            if len(self.buf) > limit:
                raise Violation("no %r within %d bytes" % (mark, limit))
            if not self.more(timeout):
                raise Ended("%s before %r: %r" % (self.ended, mark, bytes(self.buf[:200])))

    def recv_all(self, timeout=None):
        """Everything up to the end of the connection."""
        while self.more(timeout):
            pass
        out = bytes(self.buf)
        self.buf.clear()
        return out

    def quiet(self, seconds=0.2):
        """Asserts that nothing comes and nothing ends for a while."""
        try:
            alive = self.more(seconds)
        except Silence:
            if self.buf:
                raise Violation("unexpected bytes: %r" % bytes(self.buf[:200]))
            return
        raise Violation("unexpected %s" % (bytes(self.buf[:200]) if alive else "end: " + str(self.ended)))

    def expect_eof(self, clean=True, timeout=None):
        """The server ends the connection, with nothing more, and (clean) by close_notify or FIN rather than a reset."""
        rest = self.recv_all(timeout)
        if rest:
            raise Violation("bytes before the end: %r" % rest[:200])
        if clean and self.ended not in ("clean", "fin"):
            raise Violation("ended by %s" % self.ended)

    def shutdown_write(self, notify=True):
        """Half-close: close_notify (TLS), then FIN."""
        if self.tls and notify:
            with self.tlock:
                try:
                    self.tls.unwrap()
                except ssl.SSLError:
                    pass
                data = self.out.read()
            try:
                self.wire(data)
            except ConnectionError:
                return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def reset(self):
        """Ends the connection by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self):
        self.sock.close()
        if self in LIVE:
            LIVE.remove(self)

    # ---- HTTP

    def reply(self, method="GET", timeout=None):
        """One reply: the head, and as much body as Content-Length says (none for HEAD, 1xx, 204, 304)."""
        r = Reply(self.recv_until(b"\r\n\r\n", 65536, timeout))
        length = r.get("Content-Length")
        if length is not None and not length.isdigit():
            raise Violation("Content-Length: %r" % length)
        if r.get("Transfer-Encoding") is not None:
            raise Violation("Transfer-Encoding in a reply")
        if method == "HEAD" or r.status < 200 or r.status in (204, 304):
            return r
        if length is None:
            if not r.closing:
                raise Violation("neither Content-Length nor close: %r" % r.headers)
            r.body = self.recv_all(timeout)
        else:
            r.body = self.recv(int(length), timeout)
        return r

    def request(self, method="GET", target="/", changes=(), extra=(), version="HTTP/1.1", timeout=None):
        """Sends a request with a Host header (changes as in override()) and reads the reply."""
        self.send(head(method, target, override([("Host", self.host)], dict(changes)) + list(extra), version))
        return self.reply(method, timeout)

    # ---- WebSocket

    def open(self, path="/echo", key=KEY, changes=(), extra=(), then=b"", version="HTTP/1.1", timeout=None):
        """The opening handshake; then: bytes in the same write as the request. Checks the 101 (section 4.2.2)."""
        self.send(upgrade_head(path, self.host, key=key, changes=changes, extra=extra, version=version) + then)
        r = self.reply(timeout=timeout)
        if r.status != 101:
            raise Violation("no 101: %r %r" % (r, r.body[:200]))
        check_101(r, key)
        self.reply_head = r
        return self

    def send_frame(self, opcode, payload=b"", drain=False, **kw):
        self.send(frame(opcode, payload, **kw), drain=drain)

    def send_text(self, text, **kw):
        self.send_frame(TEXT, text, **kw)

    def send_binary(self, data, **kw):
        self.send_frame(BINARY, data, **kw)

    def ping(self, data=b""):
        self.send_frame(PING, data)

    def recv_frame(self, timeout=None):
        """One frame of the server, checked: unmasked (5.1), no RSV (5.2), known opcode, minimal length, short and whole
        control frames (5.5), fragments in order (5.4)."""
        hdr = self.recv(2, timeout)
        fin, rsv, opcode = hdr[0] >> 7, hdr[0] >> 4 & 7, hdr[0] & 15
        n = hdr[1] & 127
        if hdr[1] & 0x80:
            raise Violation("5.1: the server masked a frame")
        if rsv:
            raise Violation("5.2: RSV bits %d" % rsv)
        if opcode not in (CONT, TEXT, BINARY, CLOSE, PING, PONG):
            raise Violation("5.2: opcode %x" % opcode)
        if n == 126:
            ext = self.recv(2, timeout)
            n = struct.unpack("!H", ext)[0]
            if n < 126:
                raise Violation("5.2: length not minimal")
        elif n == 127:
            ext = self.recv(8, timeout)
            n = struct.unpack("!Q", ext)[0]
            if n < 65536 or n >> 63:
                raise Violation("5.2: length not minimal or not valid")
        else:
            ext = b""
        if opcode >= 8 and (n > 125 or not fin):
            raise Violation("5.5: control frame of %d bytes, fin %d" % (n, fin))
        payload = self.recv(n, timeout)
        if opcode < 8:
            if (opcode == CONT) != self.fragmented:
                raise Violation("5.4: opcode %d, message in progress %r" % (opcode, self.fragmented))
            self.fragmented = not fin
        if opcode == CLOSE:
            check_close(payload)
        return Frame(fin, rsv, opcode, payload, hdr + ext)

    def recv_message(self, skip_control=False, timeout=None, digest=None):
        """The next whole message as (opcode, bytes); a control frame is returned as such unless skip_control. With
        digest (a hashlib object) the bytes go there, and their number is returned."""
        while True:
            f = self.recv_frame(timeout)
            if f.opcode >= 8:
                if skip_control and f.opcode != CLOSE:
                    self.controls.append(f)
                    continue
                if not skip_control or f.opcode == CLOSE:
                    return f.opcode, f.payload
            if f.opcode != CONT:
                self.partial = [f.opcode, [], 0]
            opcode, parts, _ = self.partial
            if digest is None:
                parts.append(f.payload)
            else:
                digest.update(f.payload)
            self.partial[2] += len(f.payload)
            if f.fin:
                whole = self.partial[2] if digest is not None else b"".join(parts)
                self.partial = None
                if opcode == TEXT and digest is None:
                    try:
                        whole.decode()
                    except UnicodeDecodeError:
                        raise Violation("8.1: the server sent a text message that is not UTF-8")
                return opcode, whole

    def expect_text(self, text):
        got = self.recv_message()
        want = (TEXT, text.encode() if isinstance(text, str) else text)
        assert got == want, "got %r %r, want %r" % (got[0], got[1][:80], want[1][:80])

    def expect_binary(self, data):
        got = self.recv_message()
        assert got == (BINARY, data), "got %r, %d bytes %r; want %d bytes" % (got[0], len(got[1]), got[1][:40], len(data))

    def expect_pong(self, data=b""):
        f = self.recv_frame()
        assert (f.opcode, f.payload) == (PONG, data), f

    def expect_close(self, code=None, answer=True, eof=True, data_allowed=False, timeout=None):
        """The server's Close frame comes (code: a number, a set of them, or None for an empty one); we answer, and the
        connection ends cleanly."""
        while True:
            f = self.recv_frame(timeout)
            if f.opcode == CLOSE:
                break
            if not data_allowed:
                raise Violation("%r instead of a close frame" % (f,))
        got = struct.unpack("!H", f.payload[:2])[0] if f.payload else None
        wanted = code if isinstance(code, (set, frozenset, tuple, list)) else (code,)
        if got not in wanted:
            raise Violation("close code %r (%r), expected %r" % (got, f.payload[2:], code))
        if answer:
            self.try_send(frame(CLOSE, f.payload[:2]), bytewise=False)
        if eof:
            self.expect_eof(timeout=timeout)
        return got, f.payload[2:]

    def close_handshake(self, code=1000, reason=b"", echo=None):
        """We close; the server answers with the same code (section 5.5.1) and ends the connection."""
        self.send_frame(CLOSE, close_payload(code, reason))
        return self.expect_close(code if echo is None else echo, answer=False)


def check_101(r, key):
    """The reply of section 4.2.2, item 5."""
    upgrade, accept = r.get("Upgrade", ""), r.get("Sec-WebSocket-Accept", "")
    if r.version != "HTTP/1.1" or upgrade.lower() != "websocket":
        raise Violation("4.2.2: Upgrade: %r, %s" % (upgrade, r.version))
    if "upgrade" not in [t.strip().lower() for t in r.get("Connection", "").split(",")]:
        raise Violation("4.2.2: Connection: %r" % r.get("Connection"))
    if accept != accept_key(key):
        raise Violation("4.2.2: Sec-WebSocket-Accept: %r" % accept)
    if r.all("Sec-WebSocket-Extensions"):
        raise Violation("9.1: extensions accepted: %r" % r.all("Sec-WebSocket-Extensions"))
    if r.all("Content-Length") or r.all("Transfer-Encoding"):
        raise Violation("RFC 9110 8.6: a 101 with a length")


def check_close(payload):
    """Section 5.5.1 and 7.4 for the close frames of the server."""
    if not payload:
        return
    if len(payload) == 1:
        raise Violation("5.5.1: close payload of 1 byte")
    code = struct.unpack("!H", payload[:2])[0]
    if code in (1004, 1005, 1006, 1015) or not (1000 <= code <= 1015 or 3000 <= code <= 4999):
        raise Violation("7.4: close code %d on the wire" % code)
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation("5.5.1: close reason is not UTF-8")


def close_all():
    """Closes every client still open; how many there were."""
    n = len(LIVE)
    for c in list(LIVE):
        c.close()
    return n
