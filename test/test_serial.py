"""The README's serial lines, with a pty as the device: 1 MiB in both directions at once, unplug and plug in again.

The test holds the pty's master, which is the device's side of the line, and /dev/ttyUSB0 of the box leads to its slave. A
slave descriptor stays open as well: a line that nobody has opened is no hangup for a device.
"""
import contextlib
import fcntl
import hashlib
import os
import random
import select
import struct
import threading
import time

import pytest

import recipes
import wsraw

SLOW = wsraw.SLOW
MIB = 1 << 20
TIOCGPTN, TIOCSPTLCK = 0x80045430, 0x40045431


class Device:
    """What hangs on the line, as long as it is plugged in."""

    def __init__(self, box, path="/dev/ttyUSB0"):
        self.link = box.path(path)
        self.fd = os.open(box.path("/dev/pts/ptmx"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TIOCSPTLCK, struct.pack("i", 0))
        slave = "/dev/pts/%d" % struct.unpack("i", fcntl.ioctl(self.fd, TIOCGPTN, bytes(4)))
        self.slave = os.open(box.path(slave), os.O_RDWR | os.O_NOCTTY)
        os.symlink(slave, self.link)

    def unplug(self):
        os.unlink(self.link)
        os.close(self.slave)
        os.close(self.fd)

    def read(self, timeout=5.0):
        """What was sent to it; at least a byte."""
        assert select.select([self.fd], [], [], timeout * SLOW)[0], "the device was sent nothing"
        return os.read(self.fd, 65536)

    def expect(self, data, timeout=5.0):
        got = b""
        while len(got) < len(data):
            got += self.read(timeout)
        assert got == data

    def say(self, data):
        while data:
            assert select.select([], [self.fd], [], 5 * SLOW)[1], "the line takes nothing"
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self.fd, data):]

    def quiet(self, seconds=0.3):
        assert not select.select([self.fd], [], [], seconds)[0], os.read(self.fd, 65536)


class Reader(threading.Thread):
    """Takes size bytes from a client: digest, count; error, if it did not come that far."""

    def __init__(self, client, size):
        super().__init__(daemon=True)
        self.client, self.size = client, size
        self.digest, self.count, self.error = hashlib.sha256(), 0, None
        self.start()

    def run(self):
        try:
            while self.count < self.size:
                opcode, data = self.client.recv_message(skip_control=True, timeout=20)
                assert opcode == wsraw.BINARY
                self.digest.update(data)
                self.count += len(data)
        except Exception as e:
            self.error = e


def exchange(device, clients, size=MIB, window=None, silent=()):
    """The device says size bytes to all clients while the first sends it as many; both in full, and with equal digests.
    window: how far the device may be ahead of the clients."""
    rng = random.Random(size)
    down, up = rng.randbytes(size), rng.randbytes(size)
    readers = [Reader(c, size) for c in clients if c not in silent]

    def send():
        for i in range(0, size, 8000):
            clients[0].send_binary(up[i:i + 8000])

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    said, heard, end = 0, bytearray(), time.monotonic() + 40 * SLOW
    while said < size or len(heard) < size or any(r.is_alive() for r in readers):
        assert time.monotonic() < end, "said %d, heard %d, clients got %s, %s" % (
            said, len(heard), [r.count for r in readers], [r.error for r in readers])
        may = said < size and (not window or said - min(r.count for r in readers) < window)
        if not may and len(heard) >= size:
            time.sleep(0.001)
            continue
        ready = select.select([device.fd], [device.fd] if may else [], [], 0.002 if not may else 0.2)
        if ready[0]:
            heard += os.read(device.fd, 65536)
        if ready[1]:
            with contextlib.suppress(BlockingIOError):
                said += os.write(device.fd, down[said:said + 4096])
    sender.join(5)
    assert [r.error for r in readers] == [None] * len(readers)
    assert hashlib.sha256(heard).digest() == hashlib.sha256(up).digest()
    assert {r.digest.digest() for r in readers} == {hashlib.sha256(down).digest()}


@contextlib.contextmanager
def line(recipe, which, ready, systemd=False):
    """A box in which a recipe's commands number which run: box, device, dial(), and the job."""
    with recipes.Box(systemd=systemd) as box:
        box.put(recipe)
        device = Device(box)
        job = box.start(recipe.sh[which])
        ready(box)
        box.wait_port(8443)

        def dial(**kw):
            with box.net():
                return wsraw.connect(8443, tls=True, **kw).open("/serial")

        try:
            yield box, device, dial, job
        finally:
            wsraw.close_all()


def socat(which, part):
    return line(recipes.recipe(part), which, lambda box: box.wait_socket("/run/serial.sock"))


def ser2net():
    return line(recipes.recipe("serial line shared by several"), 1, lambda box: box.wait_port(2000), systemd=True)


def greet(device, clients):
    """The device hears each client, whose process listens then, and each client the device."""
    for client in clients:
        client.send_binary(b"I am here")
        device.expect(b"I am here")
    device.say(b"welcome")
    for client in clients:
        client.expect_binary(b"welcome")


def end_of(client, answer=True, code=1000):
    client.expect_close(code, answer=answer, data_allowed=True)


# ---------------------------------------------------------------------------------------------- several, with socat


def test_socat_shared_by_three():
    with socat(0, "serial line shared by several") as (_, device, dial, _job):
        clients = [dial() for _ in range(3)]
        greet(device, clients)
        exchange(device, clients, window=1 << 15)
        last = random.Random(2).randbytes(100000)
        while clients:  # each says something, and leaves at once; nobody loses anything by that
            client = clients.pop(0)
            client.send_binary(last)
            client.send_frame(wsraw.CLOSE, wsraw.close_payload(1000))
            device.expect(last)
            client.expect_close(1000, answer=False)
            device.say(b"who is still there?")
            for other in clients:
                other.expect_binary(b"who is still there?")


@pytest.mark.parametrize("part", ["serial line shared by several", "serial line for one client"])
def test_socat_lets_go_of_a_device_that_never_pauses(part):
    with socat(0, part) as (_, device, dial, _job):
        client = dial()
        greet(device, [client])
        client.send_frame(wsraw.CLOSE, wsraw.close_payload(1000))
        reader, end = threading.Thread(target=end_of, args=[client, False], daemon=True), time.monotonic() + 5 * SLOW
        reader.start()
        while reader.is_alive():
            assert time.monotonic() < end, "the connection does not end"
            device.say(b"tick")
            time.sleep(0.01)
        assert client.ended


def test_socat_shared_who_does_not_read_stops_nobody():
    with socat(0, "serial line shared by several") as (_, device, dial, _job):
        clients = [dial(), dial(), dial(rcvbuf=4096)]
        greet(device, clients)
        exchange(device, clients, size=2 * MIB, window=1 << 15, silent=clients[2:])


def test_socat_shared_unplug_and_plug():
    with socat(0, "serial line shared by several") as (box, device, dial, _job):
        writer, reader = dial(), dial()
        greet(device, [writer, reader])
        device.unplug()
        writer.send_binary(b"anybody?")
        end_of(writer, code=(1000, 1011))
        reader.quiet()
        with dial() as client:  # while it is away
            client.send_binary(b"anybody?")
            end_of(client, code=(1000, 1011))
        assert not os.path.lexists(box.path("/dev/ttyUSB0"))
        device = Device(box)
        clients = [dial() for _ in range(2)]
        for client in clients:
            client.send_binary(b"back?")
            device.expect(b"back?")
        time.sleep(1.2)  # the reader of the line looks once a second
        device.say(b"back")
        for client in [reader] + clients:
            client.expect_binary(b"back")
        exchange(device, clients, size=MIB // 8, window=1 << 15)


# ---------------------------------------------------------------------------------------------- several, with ser2net


def test_ser2net_shared_by_three():
    with ser2net() as (_, device, dial, _job):
        clients = [dial() for _ in range(3)]
        greet(device, clients)
        exchange(device, clients)


def test_ser2net_unplug_and_plug():
    with ser2net() as (box, device, dial, _job):
        clients = [dial() for _ in range(2)]
        greet(device, clients)
        device.unplug()
        for client in clients:
            end_of(client)
        with dial() as client:  # while it is away
            assert client.recv_message()[1].startswith(b"Device open failure")
            end_of(client)
        device = Device(box)
        clients = [dial() for _ in range(3)]
        greet(device, clients)
        exchange(device, clients, size=MIB // 8)


@pytest.mark.deep
def test_ser2net_who_leaves_harms_for_the_timeout_only():
    """A client that takes nothing, so that the line stops, and then leaves: the other goes on, or is closed within the 30 s
    of the recipe's timeout; and who connects again is served."""
    with ser2net() as (_, device, dial, _job):
        stuck, other = dial(rcvbuf=4096), dial()
        greet(device, [stuck, other])
        got, ends = [0], []

        def read():
            try:
                while True:
                    opcode, data = other.recv_message(skip_control=True, timeout=60)
                    if opcode == wsraw.CLOSE:
                        return ends.append(data)
                    got[0] += len(data)
            except Exception as e:
                ends.append(e)

        threading.Thread(target=read, daemon=True).start()
        while select.select([], [device.fd], [], 1)[1]:
            with contextlib.suppress(BlockingIOError):
                os.write(device.fd, bytes(4096))
            assert got[0] < 1 << 26, "who takes nothing does not stop the line"
        stuck.reset()
        time.sleep(1)
        was, since = got[0], time.monotonic()
        while not ends and got[0] < was + 65536:
            assert time.monotonic() < since + 40 * SLOW, "neither output nor an end for 40 s"
            with contextlib.suppress(BlockingIOError):
                os.write(device.fd, bytes(4096))
            time.sleep(0.1)
        print("after %.1f s: %r, %d bytes more" % (time.monotonic() - since, ends, got[0] - was))
        assert not ends or ends[0][:2] == b"\x03\xe8", ends
        with dial() as client:
            time.sleep(0.5)
            device.say(b"welcome")
            text = b""
            while not text.endswith(b"welcome"):
                text = text[-10:] + client.recv_message(skip_control=True)[1]


# ---------------------------------------------------------------------------------------------- one at a time


def test_one_at_a_time():
    with socat(0, "serial line for one client") as (_, device, dial, _job):
        first = dial()
        greet(device, [first])
        exchange(device, [first])
        second = dial()
        second.send_binary(b"I am next")
        second.quiet(0.1)
        device.quiet()
        last = random.Random(2).randbytes(100000)
        first.send_binary(last)
        first.send_frame(wsraw.CLOSE, wsraw.close_payload(1000))
        device.expect(last + b"I am next")
        first.expect_close(1000, answer=False)
        exchange(device, [second], size=MIB // 8)


def test_one_at_a_time_all_come_to_it():
    """More than socat's backlog of 5: the upgrade of the last waits until there is room."""
    with socat(0, "serial line for one client") as (_, device, dial, _job):
        clients, late = [dial() for _ in range(7)], []
        greet(device, clients[:1])
        thread = threading.Thread(target=lambda: late.append(dial()), daemon=True)
        thread.start()
        thread.join(0.3)
        assert not late, "the backlog is longer than the README says"
        for client in clients:
            client.send_binary(b"%d" % client.local[1])
            device.expect(b"%d" % client.local[1])
            client.close_handshake()
        thread.join(5 * SLOW)
        greet(device, late)


def test_one_at_a_time_unplug_and_plug():
    with socat(0, "serial line for one client") as (box, device, dial, _job):
        client = dial()
        greet(device, [client])
        device.unplug()
        end_of(client)
        with dial() as client:  # while it is away
            end_of(client)
        assert not os.path.lexists(box.path("/dev/ttyUSB0"))
        device = Device(box)
        client = dial()
        greet(device, [client])
        exchange(device, [client], size=MIB // 8)
