"""Gigabytes: what goes in comes out, and the server's memory does not grow. Short here, long in `make deep`."""
import hashlib
import threading

import pytest

import peers
import wsraw
from peers import SLOW, Backend, Pump, Watch, framed
from wsraw import CLOSE

MIB = 1 << 20
SIZES = [pytest.param(32 * MIB, id="32MiB"),
         pytest.param(1024 * MIB, id="1GiB", marks=[pytest.mark.deep, pytest.mark.timeout(600)])]
RSS = 8192                      # KiB


class Digested:
    """Blocks of a stream, and their digest once they have gone."""

    def __init__(self, size, seed):
        self.size, self.seed, self.sha = size, seed, hashlib.sha256()

    def __iter__(self):
        for block in peers.chunks(self.size, MIB, self.seed):
            self.sha.update(block)
            yield block


def limit(size):
    return (30 + size / MIB / 4) * SLOW


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
@pytest.mark.parametrize("one_message", [True, False], ids=["message", "messages"])
def test_echo(wssd, size, tls, one_message):
    s = wssd("--timeout", "20", tls=tls)
    blocks = Digested(size, 3)
    with peers.dial(s, "/echo") as sock, Watch(s) as watch:
        pump = Pump(sock)
        pump.run(framed(blocks, one_message=one_message), lambda p: p.frames.bytes >= size and p.frames.message is None,
                 limit(size))
        assert pump.frames.bytes == size
        assert pump.digest.digest() == blocks.sha.digest()
        assert pump.frames.messages == (1 if one_message else size // MIB)
        pump.run([wsraw.frame(CLOSE, b"\x03\xe8")], lambda p: p.closed)
        assert pump.frames.control[-1] == (CLOSE, b"\x03\xe8")
    assert watch.rss < RSS
    assert watch.queued < 16 * MIB


def read_all(sock, result):
    sha, size = hashlib.sha256(), 0
    buf = bytearray(1 << 18)
    while count := sock.recv_into(buf):
        sha.update(memoryview(buf)[:count])
        size += count
    result += [size, sha.digest()]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_stream_up(wssd, size, kind, tmp_path):
    """From the client to the backend, up to the client's Close."""
    with Backend(path=tmp_path / "s" if kind == "unix" else None) as backend:
        s = wssd("/s=" + backend.route, "--timeout", "20")
        blocks, result = Digested(size, 4), []
        with peers.dial(s, "/s") as sock, Watch(s) as watch:
            b = backend.accept(30)
            reader = threading.Thread(target=lambda: (read_all(b, result), b.close()), daemon=True)
            reader.start()

            def frames():
                yield from framed(blocks)
                yield wsraw.frame(CLOSE, b"\x03\xe8")

            pump = Pump(sock)
            pump.run(frames(), lambda p: p.closed, limit(size))
            reader.join(30 * SLOW)
        assert result == [size, blocks.sha.digest()]
        assert pump.frames.bytes == 0 and pump.frames.control == [(CLOSE, b"\x03\xe8")]
        assert watch.rss < RSS


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_stream_down(wssd, size, kind, tmp_path):
    """From the backend to the client, up to the backend's end."""
    with Backend(path=tmp_path / "s" if kind == "unix" else None) as backend:
        s = wssd("/s=" + backend.route, "--timeout", "20")
        blocks, errors = Digested(size, 5), []
        with peers.dial(s, "/s") as sock, Watch(s) as watch:
            b = backend.accept(30)

            def write():
                try:
                    for block in blocks:
                        b.sendall(block)
                    b.close()
                except OSError as e:
                    errors.append(e)

            writer = threading.Thread(target=write, daemon=True)
            writer.start()
            pump = Pump(sock)
            pump.run([], lambda p: p.frames.control, limit(size))
            writer.join(30 * SLOW)
            pump.run([wsraw.frame(CLOSE, b"\x03\xe8")], lambda p: p.closed)
        assert not errors
        assert pump.frames.bytes == size
        assert pump.digest.digest() == blocks.sha.digest()
        assert [(opcode, data[:2]) for opcode, data in pump.frames.control] == [(CLOSE, b"\x03\xe8")]
        assert watch.rss < RSS
