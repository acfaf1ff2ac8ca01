"""Python's websockets as an echo server for test_differential.py: echo_websockets.py LIMIT. Prints one JSON line, the port
on loopback and versions; ends when its stdin does."""

import asyncio
import http
import json
import logging
import platform
import sys

import websockets.version
from websockets.legacy.server import WebSocketServerProtocol, serve  # version 10.4 has no other for asyncio

LIMIT = int(sys.argv[1]) or None


class Echo(WebSocketServerProtocol):
    """Echoes where a message is read, so that answers have the order of what they answer, as the RFC lets us compare."""

    async def read_message(self):
        message = await super().read_message()
        if message is not None:
            await self.send(message)
        return message

    async def process_request(self, path, headers):
        if path.partition("?")[0] != "/echo":
            return http.HTTPStatus.NOT_FOUND, [], b""
        return None


async def handler(ws, _path=None):
    async for _ in ws:
        pass


async def main():
    logging.disable(logging.CRITICAL)
    server = await serve(handler, "127.0.0.1", 0, create_protocol=Echo, compression=None, max_size=LIMIT, max_queue=None,
                         ping_interval=None, close_timeout=5)
    print(json.dumps({"port": server.sockets[0].getsockname()[1], "name": "websockets %s on Python %s" % (
        websockets.version.version, platform.python_version())}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


asyncio.run(main())
