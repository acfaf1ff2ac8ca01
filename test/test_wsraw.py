"""The raw client itself: it must see what a server does wrong, or the other tests prove nothing.

Against a scripted server that sends fixed bytes and ends in a chosen way, and against python3-websockets, whose reading of
the RFC is not ours.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading

import pytest
import websockets.exceptions
import websockets.server

import wsraw
from wsraw import BINARY, CLOSE, PING, TEXT


@contextlib.contextmanager
def scripted(certs, data, end="clean", tls=True):
    """A server that takes one client, sends data, and ends: clean (close_notify or FIN), fin, or, when told so by
    client.go(), by reset; never: not before the test does."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    done = threading.Event()

    def serve():
        s, _ = listener.accept()
        s.settimeout(10)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certs.cert, certs.key)
            s = context.wrap_socket(s, server_side=True)
        s.sendall(data)
        if end == "clean" and tls:
            with contextlib.suppress(OSError):  # it waits for the other close_notify
                s.settimeout(0.2)
                s.unwrap()
        if end in ("never", "reset"):
            done.wait(10)
        if end == "reset":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client = wsraw.connect(listener.getsockname()[1], tls, timeout=5)
        client.go = done.set
        yield client
    finally:
        done.set()
        wsraw.close_all()
        thread.join(15)
        listener.close()


def server_frame(first, payload, header=None):
    return bytes([first]) + (bytes([len(payload)]) if header is None else header) + payload


WRONG = {
    "5.1-masked": (b"\x81\x85" + b"\0\0\0\0" + b"hello", "5.1"),
    "5.2-rsv": (server_frame(0xC1, b"hello"), "5.2"),
    "5.2-opcode": (server_frame(0x83, b"hello"), "5.2"),
    "5.2-16-bits-not-minimal": (server_frame(0x81, b"hello", b"\x7e\0\5"), "5.2"),
    "5.2-64-bits-not-minimal": (server_frame(0x81, b"h" * 300, b"\x7f" + struct.pack("!Q", 300)), "5.2"),
    "5.4-continuation-first": (server_frame(0x80, b"hello"), "5.4"),
    "5.4-message-in-a-message": (server_frame(0x01, b"a") + server_frame(0x81, b"b"), "5.4"),
    "5.5-long-ping": (server_frame(0x89, b"p" * 126, b"\x7e\0\x7e"), "5.5"),
    "5.5-fragmented-ping": (server_frame(0x09, b"p"), "5.5"),
    "5.5.1-close-of-1-byte": (server_frame(0x88, b"\3"), "5.5.1"),
    "7.4-close-code-1005": (server_frame(0x88, b"\x03\xed"), "7.4"),
    "5.5.1-reason": (server_frame(0x88, b"\x03\xe8\xff"), "5.5.1"),
    "8.1-text": (server_frame(0x81, b"\xff"), "8.1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_frame_is_seen(certs, name):
    data, section = WRONG[name]
    with scripted(certs, data, tls=False) as c:
        with pytest.raises(wsraw.Violation, match=section):
            c.recv_message()
            c.recv_message()


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "tcp"])
def test_ends_are_told_apart(certs, tls):
    for end, seen in (("clean", "clean" if tls else "fin"), ("fin", "ragged" if tls else "fin"), ("reset", "reset")):
        with scripted(certs, b"bytes", end, tls) as c:
            assert c.recv(5) == b"bytes"
            c.go()
            assert c.recv_all() == b""
            assert c.ended == seen
            if seen in ("ragged", "reset"):
                with pytest.raises(wsraw.Violation):
                    c.expect_eof()


def test_silence_and_too_much(certs):
    with scripted(certs, b"more", "never") as c:
        with pytest.raises(wsraw.Violation):
            c.quiet(0.1)
        c.recv(4)
        c.quiet(0.1)
        with pytest.raises(wsraw.Silence):
            c.recv(1, timeout=0.1)


def test_http_replies(certs):
    for data in (b"HTTP/1.1 200 OK\nA: b\r\n\r\n", b"HTTP/1.1 200\r\n\r\n", b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
                 b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", b"HTTP/1.1 200 OK\r\n\r\nno length",
                 b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        with scripted(certs, data) as c:
            with pytest.raises(wsraw.Violation):
                c.reply()


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytes"])
@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
def test_against_python_websockets(certs, tls, bytewise):
    """Handshake, messages of each length form, ping, fragments and both closes with another implementation."""
    loop, ready, ports = asyncio.new_event_loop(), threading.Event(), []

    async def echo(ws):
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            async for message in ws:
                await ws.send(message)

    async def main():
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certs.cert, certs.key)
        async with websockets.server.serve(echo, "127.0.0.1", 0, ssl=context, max_size=None, close_timeout=2) as s:
            ports.append(s.sockets[0].getsockname()[1])
            ready.set()
            await stop.wait()

    async def make():
        return asyncio.Event()

    stop = loop.run_until_complete(make())
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        assert ready.wait(10)
        with wsraw.connect(ports[0], tls, bytewise=bytewise) as c:
            c.open("/")
            for n in (0, 125, 126, 65535, 65536, 1 << 20):
                c.send_binary(b"b" * n, drain=True)
                c.expect_binary(b"b" * n)
            c.send_text("täxt")
            c.expect_text("täxt")
            c.send_frame(TEXT, "fra", fin=False)
            c.send_frame(PING, b"ping")
            c.send_frame(0, "gment")
            c.expect_pong(b"ping")
            c.expect_text("fragment")
            assert c.close_handshake(4000, "bye") == (4000, b"bye")
        for bad, code in ((wsraw.frame(BINARY, b"x", mask=None), 1002), (wsraw.frame(TEXT, b"\xff"), 1007),
                          (wsraw.frame(CLOSE, b"\3"), 1002)):
            with wsraw.connect(ports[0], tls, bytewise=bytewise) as c:
                c.open("/").send(bad)
                c.expect_close(code)
    finally:
        wsraw.close_all()
        loop.call_soon_threadsafe(stop.set)
        thread.join(15)
        loop.close()
