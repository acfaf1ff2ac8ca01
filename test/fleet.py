"""A fleet of MQTT clients over wss, many in one process: a client for tests.

It is driven by one loop over epoll in the caller's thread. Each client has an address of its own, connects again whenever
its connection ends, and counts each message it receives; nothing is forgiven: a frame or a packet that should not come
fails the test."""

import itertools
import os
import random
import select
import socket
import ssl
import struct
import time

import wsraw

SLOW = wsraw.SLOW
OFF, TCP, TLS, HTTP, MQTT, READY = "off", "tcp", "tls", "http", "mqtt", "ready"


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def number(data, i):
    """MQTT 3.1.1, 2.2.3: (value, index behind it), or None while incomplete."""
    value = shift = 0
    while i < len(data):
        value |= (data[i] & 127) << shift
        shift += 7
        i += 1
        if not data[i - 1] & 128:
            return value, i
        assert shift < 28, "remaining length of more than 4 bytes"
    return None


def packet(kind, body):
    n, size = len(body), bytearray()
    while True:
        size.append(n & 127 | (128 if n > 127 else 0))
        n >>= 7
        if not n:
            return bytes([kind]) + bytes(size) + body


def text(s):
    return struct.pack("!H", len(s)) + s.encode()


class Client:
    def __init__(self, fleet, index, source, target):
        self.fleet, self.index, self.source, self.target = fleet, index, source, target
        self.state, self.sock, self.again = OFF, None, 0.0

    def start(self, now):
        f = self.fleet
        self.raw, self.stream, self.out, self.unacked = bytearray(), bytearray(), b"", {}
        self.tls, self.next, self.deadline = None, 1, now + 5 * SLOW
        with f.box.net():
            self.sock = socket.socket(family(self.source))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.bind((self.source, next(f.ports)))
        self.sock.connect_ex(self.target)
        f.opened.add(self.sock.getsockname()[:2])
        self.state = TCP
        self.events = select.EPOLLOUT
        self.fd = self.sock.fileno()
        f.clients[self.fd] = self
        f.epoll.register(self.fd, self.events)

    def end(self, why):
        """The connection is over; the next attempt follows soon."""
        f = self.fleet
        f.epoll.unregister(self.fd)
        del f.clients[self.fd]
        self.sock.close()
        self.sock = None
        f.ready -= self.state == READY
        f.ends.append((self.index, self.state, why))
        self.state, self.again = OFF, time.monotonic() + random.uniform(0.05, 0.5)

    def step(self):
        try:
            self.advance()
        except (OSError, EOFError) as e:       # SSL errors are OSErrors
            self.end("%s: %s" % (type(e).__name__, e))

    def advance(self):
        if self.state == TCP:
            wrong = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if wrong:
                raise OSError(wrong, os.strerror(wrong))
            self.sock = self.tls = self.fleet.context.wrap_socket(self.sock, server_hostname=self.fleet.name,
                                                                  do_handshake_on_connect=False)    # the same descriptor
            self.state = TLS
        if self.state == TLS:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                return self.want(select.EPOLLIN)
            except ssl.SSLWantWriteError:
                return self.want(select.EPOLLOUT)
            self.state = HTTP
            self.key = wsraw.KEY
            self.send_raw(wsraw.upgrade_head(self.fleet.path, self.fleet.name, key=self.key,
                                             extra=[("Sec-WebSocket-Protocol", "mqtt")] + self.fleet.extra))
        self.flush()
        while True:
            try:
                data = self.tls.recv(65536)
            except ssl.SSLWantReadError:
                return
            if not data:
                raise EOFError("end in state " + self.state)
            self.raw += data
            if self.state == HTTP:
                self.reply()
            if self.state in (MQTT, READY):
                self.frames()

    def want(self, events):
        if events != self.events:
            self.events = events
            self.fleet.epoll.modify(self.fd, events)

    def send_raw(self, data):
        self.out += data

    def flush(self):
        try:
            while self.out:
                self.out = self.out[self.tls.send(self.out):]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        self.want(select.EPOLLIN | (select.EPOLLOUT if self.out else 0))

    def send(self, data):
        """MQTT packets as one binary message."""
        self.send_raw(wsraw.frame(wsraw.BINARY, data))

    def reply(self):
        i = self.raw.find(b"\r\n\r\n")
        if i < 0:
            return
        head = wsraw.Reply(bytes(self.raw[:i + 4]))
        del self.raw[:i + 4]
        if head.status != 101:
            self.fleet.refusals[head.status] = self.fleet.refusals.get(head.status, 0) + 1
            raise EOFError("status %d" % head.status)
        wsraw.check_101(head, self.key)
        assert head.get("Sec-WebSocket-Protocol") == "mqtt", head.headers
        self.fleet.upgraded.add(self.sock.getsockname()[:2])
        self.state = MQTT
        clean = 2
        self.send(packet(0x10, text("MQTT") + struct.pack("!BBH", 4, clean, self.fleet.alive) + text("c%d" % self.index)) +
                  packet(0x82, struct.pack("!H", self.next) + text(self.fleet.topic) + b"\1"))
        self.next += 1
        self.flush()

    def frames(self):
        """The payload of each whole frame belongs to one stream of packets."""
        raw, i, closed = self.raw, 0, None
        while len(raw) - i >= 2:
            opcode, n, j = raw[i] & 15, raw[i + 1], i + 2
            assert not raw[i] & 0x70 and n < 128, "RSV or MASK in a frame of the server"
            if n >= 126:
                size = 2 if n == 126 else 8
                if len(raw) - j < size:
                    break
                n = int.from_bytes(raw[j:j + size], "big")
                j += size
            if len(raw) - j < n:
                break
            if opcode in (wsraw.BINARY, wsraw.CONT):
                self.stream += raw[j:j + n]
            elif opcode == wsraw.PING:
                self.send_raw(wsraw.frame(wsraw.PONG, bytes(raw[j:j + n])))
            else:
                assert opcode == wsraw.CLOSE, "opcode %d" % opcode
                closed = bytes(raw[j:j + n])
            i = j + n
        del raw[:i]
        self.packets()
        self.flush()
        if closed is not None:
            raise EOFError("Close %r" % closed)

    def packets(self):
        data, i, acks, f = self.stream, 0, [], self.fleet
        while i < len(data):
            size = number(data, i + 1)
            if size is None or len(data) - size[1] < size[0]:
                break
            kind, (n, j) = data[i], size
            i = j + n
            if kind & 0xF0 == 0x30:            # PUBLISH
                assert kind & 6 == 2, "QoS of %#x" % kind
                t = data[j] << 8 | data[j + 1]
                acks.append(b"\x40\2" + data[j + 2 + t:j + 4 + t])
                f.received(self, bytes(data[j + 2:j + 2 + t]), bytes(data[j + 4 + t:i]), kind & 1)
            elif kind == 0x40:                 # PUBACK
                del self.unacked[data[j] << 8 | data[j + 1]]
                f.acked += 1
            elif kind == 0x20:
                assert data[j + 1] == 0, "CONNACK %d" % data[j + 1]
            else:
                assert kind == 0x90 and data[j + 2] == 1, "packet %r" % bytes(data[i - n:i])
                self.state, self.deadline = READY, None        # SUBACK
                f.ready += 1
        del data[:i]
        if acks:
            self.send(b"".join(acks))

    def publish(self, topic, payload, retain=False):
        ident = self.next
        self.next += 1
        self.unacked[ident] = payload
        self.send(packet(0x32 | retain, text(topic) + struct.pack("!H", ident) + payload))
        self.flush()


class Fleet:
    """box: where its network is (recipes.py); sources: the address of each client; targets: {family: (address, port)}.

    ready: how many are connected and subscribed; acked: publishes acknowledged; got: {round: {client: {publisher: times}}};
    kept: (client, payload, retained) of the topic all/kept; opened, upgraded: address and port of each connection, and
    of each that became a WebSocket; ends: (client, state, why) of each that ended."""

    def __init__(self, box, sources, targets, context, name, path="/mqtt", topic="all/#", extra=(), alive=0):
        self.alive = alive                     # the keep alive that MQTT promises
        self.box, self.context, self.name, self.path, self.topic, self.extra = box, context, name, path, topic, list(extra)
        self.epoll, self.clients = select.epoll(), {}
        self.ready = self.acked = 0
        self.got, self.total, self.kept, self.ends, self.refusals = {}, {}, [], [], {}
        self.opened, self.upgraded = set(), set()
        self.ports = itertools.count(10000)    # none twice, so that address and port are one connection in all logs
        self.all = [Client(self, i, s, targets[family(s)]) for i, s in enumerate(sources)]

    def turn(self, timeout=0.02):
        now, started = time.monotonic(), 0
        for c in self.all:
            if c.state == OFF and now >= c.again and started < 20:
                c.start(now)
                started += 1
            elif c.state not in (OFF, READY) and now >= c.deadline:
                c.end("no progress")
        for fd, _ in self.epoll.poll(timeout):
            if fd in self.clients:
                self.clients[fd].step()

    def until(self, what, seconds=20.0):
        """Runs until WHAT() is true; the seconds it took."""
        start = time.monotonic()
        while not what():
            self.turn()
            if time.monotonic() - start > seconds * SLOW:
                raise AssertionError("not within %g s: %s" % (seconds * SLOW, self))
        return time.monotonic() - start

    def rest(self, seconds):
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, seconds + 5)

    def received(self, client, topic, payload, retained):
        if topic == b"all/kept":
            self.kept.append((client.index, payload, retained))
            return
        r, publisher = map(int, payload.split())
        assert topic == b"all/%d" % publisher and not retained, (topic, payload, retained)
        tally = self.got[r].setdefault(client.index, {})
        tally[publisher] = tally.get(publisher, 0) + 1
        self.total[r] += 1

    def publish(self, r, clients):
        """Round R: each of CLIENTS publishes one message at QoS 1, and all receive it; the seconds that took."""
        self.got[r], self.total[r] = {}, 0
        start, acked = time.monotonic(), self.acked
        for n, c in enumerate(clients):
            c.publish("all/%d" % c.index, b"%d %d" % (r, c.index))
            if n % 10 == 9:
                self.turn(0)
        wanted = len(clients) * len(self.all)
        self.until(lambda: self.total[r] >= wanted and self.acked - acked >= len(clients), 60)
        took = time.monotonic() - start
        self.rest(0.3)                         # what comes twice comes now
        self.check(r, clients)
        return took

    def check(self, r, clients):
        """All have received each message of round R exactly once."""
        once = {c.index: 1 for c in clients}
        wrong = {c.index: self.got[r].get(c.index) for c in self.all if self.got[r].get(c.index) != once}
        assert not wrong and self.total[r] == len(clients) * len(self.all), "round %d: %r" % (r, wrong)

    def close(self):
        for c in list(self.clients.values()):
            c.end("done")
        self.epoll.close()

    def __str__(self):
        states = {}
        for c in self.all:
            states[c.state] = states.get(c.state, 0) + 1
        return "%s; received %s; refused %s; last ends %s" % (states, self.total, self.refusals, self.ends[-5:])
