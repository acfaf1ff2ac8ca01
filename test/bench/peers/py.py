"""Python's websockets, for bench.py: py.py CERT KEY. /echo: each message back; /chat: each message to every other client."""

import asyncio
import logging
import ssl
import sys

import websockets

CHAT = set()


async def handler(ws, path):
    if path != "/chat":
        async for message in ws:
            await ws.send(message)
        return
    CHAT.add(ws)
    try:
        async for message in ws:
            websockets.broadcast(CHAT - {ws}, message)
    finally:
        CHAT.discard(ws)


async def main(cert, key):
    logging.disable(logging.CRITICAL)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    server = await websockets.serve(handler, "127.0.0.1", 0, ssl=tls, compression=None, max_size=1 << 24,
                                    ping_interval=None, backlog=1024)
    print("listening on 127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Future()


asyncio.run(main(*sys.argv[1:3]))
