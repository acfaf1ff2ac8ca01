"""Writes the inputs that the fuzzing targets begin with: seeds.py DIRECTORY [TARGET]...

What stands in test/fuzz/corpus began with these; what the fuzzers found since then, less what shows nothing new, came to it.
"""

import os
import subprocess
import sys
import tempfile


def head():
    host = b"Host: localhost\r\n"
    upgrade = host + b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" \
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    lines = [
        b"GET / HTTP/1.1\r\n" + host,
        b"GET /chat?x=y HTTP/1.1\r\n" + upgrade + b"Origin: http://localhost\r\nSec-WebSocket-Protocol: x, y\r\n",
        b"\r\nHEAD /%61/%2e%2e HTTP/1.1\r\nhost:\t[::1]:80 \r\nA:\r\nIf-None-Match: *, \"x\"\r\n",
        b"GET http://one.example:80?q HTTP/1.1\r\nHost: two\r\nOrigin: http://one.example\r\n",
        b"OPTIONS * HTTP/1.0\r\n" + host + b"Content-Length: 0\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Authorization: Bearer c2VjcmV0-1~+/=\r\nCookie: a=b; __Host-wssd=x\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Authorization: Basic YW5uYTpzZWNyZXQ=\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Cookie: a=b; __Host-wssd=YW5uYTpzZWNyZXQ=\r\n",
        b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n",
        b"GET / HTTP/2.0\r\n" + host,
        b"BREW / HTTP/1.1\r\n" + host,
        b"GET / HTTP/1.1\r\n" + host + b"A: b\r\n" * 101,
        b"GET / HTTP/1.1\r\nHost: gateway:443\r\nOrigin: https://gateway\r\n",
    ]
    return [bytes([i % 8, i]) + text + b"\r\n" for i, text in enumerate(lines)]


def frame():
    whole = [bytes([0x81, 0x85, 1, 2, 3, 4]), bytes([0x82, 0xfe, 0, 126, 1, 2, 3, 4]),
             bytes([0x80, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]), bytes([0x88, 0x82, 1, 2, 3, 4])]
    text = "aé€\U0001f600\ud7ff\ue000\U0010ffff".encode("utf-8", "surrogatepass")
    return [b"\0" + f for f in whole] + [b"\1" + text * 3, b"\1" + b"\xed\xa0\x80", b"\1\xf4\x90\x80\x80", b"\2" + text * 5,
                                         b"\3\1\2\1\0", b"\3\0\1\0\175"]


def ring():
    come = bytes([0, 8, 16])
    return [
        bytes([1, 3, 0, 0]) + come + bytes([1, 0, 50, 6, 14, 22, 4, 12, 20]) * 3,
        bytes([7, 200, 1, 9]) + come + bytes([130, 0x90, 0, 14, 12, 14, 12, 22, 20, 22]) * 4,
        bytes([0, 0, 0, 0]) + come + bytes([2, 0, 1]) * 300 + bytes([14, 22]),
        bytes([3, 0, 2, 0]) + come + bytes([3, 0, 0, 14, 13, 128, 14]) * 6,
    ]


def proxy():
    mark = b"\r\n\r\n\0\r\nQUIT\n"
    four, six = bytes([192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4]), bytes(range(36))
    mapped = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]) + bytes(20)

    def make(what, family, payload):
        return mark + bytes([what, family]) + len(payload).to_bytes(2, "big") + payload
    return [b"\7" + h for h in (
        make(0x21, 0x11, four) + b"GET", make(0x21, 0x21, six), make(0x21, 0x21, mapped + b"\4\0\0"), make(0x20, 0, b""),
        make(0x21, 0, b"\3\0\4abcd"), make(0x21, 0x31, bytes(216)), make(0x21, 0x11, four + b"\5" * 2000)[:500],
        make(0x21, 0x11, four + b"\5" * 2020))]


def config():
    words = [
        "--listen wss://127.0.0.1:0 --cert c --key k /echo=echo",
        "--listen ws://[::1]:80,proxy=::1/64 --verbose --timeout 1 --ping=0 /a=hub,ring=200000 --max-message 1000",
        "--listen wss://0.0.0.0:443,client-ca=f,proxy=10.0.0.0/8 --cert c --key k --root dir --auth g --origin any",
        "--listen ws://localhost:1 --host a|b --host c /t=tcp:localhost:99,protocol=a|b,origin=http://x,auth=f",
        "--listen ws://127.0.0.1:1 /u=unix:/run/s /p=seqpacket:/run/t,text --max-clients 1 --max-per-ip 0",
        "--help", "--version", "--config missing", "--config broken", "--listen", "--what", "x", "--ping -1",
        "--listen ws://127.0.0.1:1 --root missing", "--listen ws://127.0.0.1:1 /a=echo /a=hub", "--listen tcp://1.2.3.4:5",
        "--listen ws://127.0.0.1:1 /a=unix:" + "x" * 108, "--listen ws://127.0.0.1:1 " +
            " ".join("/%d=echo" % i for i in range(33)),
        " ".join("--listen ws://127.0.0.1:%d" % i for i in range(9)),
        "--listen ws://127.0.0.1:1 --host " + "|".join("abcdefghijklmnopq"),
    ]
    out = [w.replace(" ", "\n").encode() for w in words]
    lines = ["# all of it", "listen wss://127.0.0.1:8443  # here", "\tcert\tc\r", "key k", "", "verbose", "max-clients 10",
             "/chat=hub,origin=any", "/m=tcp:[::1]:1883,protocol=mqtt"]
    out.append(b"--config\nfile\0\7" + "\n".join(lines).encode())
    out.append(b"--config\nfile\0\7listen ws://1.2.3.4:5 more\n")
    out.append(b"--config\nfile\0\7config other\n")
    return out


def stream():
    """Whole connections as a client sends them, for the binary as a whole."""
    def frame(first, payload, key=b"\1\2\3\4"):
        n = len(payload)
        length = bytes([128 | n]) if n < 126 else b"\xfe" + n.to_bytes(2, "big")
        return bytes([first]) + length + key + bytes(b ^ key[i % 4] for i, b in enumerate(payload))

    def get(path, upgrade=True, more=b""):
        return b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" if upgrade else b"") + more + b"\r\n"

    talk = frame(0x81, "aé€\U0001f600".encode()) + frame(1, b"x") + frame(0x89, b"ping") + frame(0x80, b"y") + \
        frame(0x82, b"z" * 300)
    bye = frame(0x88, b"\3\xe8bye")
    return [get(b"/echo") + talk + bye, get(b"/hub") + talk + bye, get(b"/", False) + get(b"/echo") + talk,
            get(b"/a", False, b"Authorization: Bearer secret\r\n") + get(b"/none", False), get(b"/echo") + frame(0x82,
                b"x" * 20000),
            get(b"/echo", more=b"Origin: http://localhost\r\nSec-WebSocket-Protocol: a, b\r\n") + bye,
            get(b"/echo") + frame(0x81, b"\xff") + bye, get(b"/echo") + b"\x81\x05hello",
                b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n"]


def conn():
    """Scripts: conn.c tells what the bytes mean."""
    turn, come, late = b"\0", b"\1\0", b"\1\2"

    def client(i):
        return bytes([2 | i << 4])

    def head(what):
        return bytes([4, what]) + turn

    def frame(first, length, what):
        return bytes([5, first, length, what])

    def does(what, how=0):
        return bytes([7, what | how << 3])

    def backend(what, how=0):
        return bytes([9, what | how << 3])

    def backends(how, op=0x70):
        return bytes([10 | op, how])

    def wait(n):
        return bytes([11 | n << 4])

    text, binary, ping, close = 0x81, 0x82, 0x89, 0x88
    says = bytes([8, 90]), bytes([8, 240]), bytes([8, 205])
    talk = frame(text, 11, 0) + turn + frame(1, 12, 0) + frame(ping, 5, 1) + frame(0x80, 10, 1) + turn + \
        frame(binary, 250, 1) + turn
    scripts = []
    for route in range(8):
        for leave in range(6):
            scripts.append(bytes([leave | 0x38, 4]) + come + head(route) + talk + says[leave % 3] + turn + frame(close, 9,
                2) + turn)
        for how in range(1, 8):
            scripts.append(bytes([24, 4]) + backends(how) + come + head(route) + turn + backend(0) + turn + talk)
    for leave in range(6):
        start = bytes([leave | 0x30, 60])
        two = come + head(1) + come + head(1)
        scripts += [
            start + two + client(0) + talk + client(1) + talk + turn,
            start + two + client(0) + does(4, 3) + client(1) + frame(binary, 200, 1) * 60 + turn + client(0) + does(7) +
                turn,
            start + late + head(0) + turn + does(4, 30) + turn + talk + does(5, 31) + turn + does(6, 3) + turn + does(7) +
                turn,
            start + come + head(2) + backend(5, 3) + talk + turn + backend(6) + says[1] + turn + backend(1 + leave % 2) +
                turn,
            start + come + head(4) + says[0] + says[1] + says[2] + turn + talk + backend(5, 1) + talk + turn + backend(1) +
                turn,
            start + come + head(8) + head(9) + head(11) + head(12) + head(9 | 64) + turn + head(15) + talk,
            start + late + head(9) + turn + does(5, 9) + turn + wait(12) + does(7) + head(3),
            start + come + head(0) + wait(15) + wait(15) + frame(text, 5, 0) + wait(15) + does(leave % 2) + turn,
            start + b"\1\1" + bytes([14, 6]) + turn + head(0) + talk + b"\1\1" + bytes([14, 1]) + head(0) + b"\1\11" + turn,
            start + come + head(5) + says[0] + bytes([8, 100]) + turn + frame(text, 30, 0) + turn + backend(3, 2) +
                says[0] + turn,
            start + come + head(0) + b"\x0f" * 3 + turn + b"\x1f" * 9 + turn + wait(3),
            start + come * 12 + turn + wait(15) + come + turn + wait(15) + client(3) + head(1) + bytes([13]) + turn +
                bytes([29]) + turn,
            start + come + head(0) + frame(3, 3, 0) + frame(text, 3, 0) + turn, start + come + head(0) + frame(0x80, 3,
                0) + turn,
            start + come + head(4) + frame(binary, 0, 0) + turn, start + come + head(4) + frame(binary, 253, 3) + turn,
            start + late + head(0) + does(7) + turn + does(4) + frame(binary, 240, 1) * 3 + turn + does(3) + does(7) + turn,
            start + late + head(0) + does(5, 9) + frame(text, 2, 0) + turn,
            start + come + head(4) + says[0] + frame(binary, 8, 1) + turn + says[2] + bytes([8, 255]) + turn + backend(2) +
                turn,
            start + come + bytes([3, 30]) + b"GET /e HTTP/1.1\r\nHost: x\r\n\r\n" + turn + wait(1) + bytes([3, 4]) +
                b"\r\n\r\n",
        ]

    def raw(data):
        return b"".join(b"\3" + bytes([len(data[i:i + 250])]) + data[i:i + 250] for i in range(0, len(data), 250))

    host = b" HTTP/1.1\r\nHost: localhost\r\n"
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    for text in (
            b"GET /e HTTP/1.0\r\nHost: localhost\r\n" + upgrade + b"dGhlIHNhbXBsZSBub25jZQ==\r\n",
            b"GET /e" + host + upgrade + b"dGhlIHNhbXBsZSBub25jZR==\r\n",
            b"GET /e" + host + upgrade + b"dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://foreign\r\n",
            b"GET /o" + host + upgrade + b"dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://foreign\r\n",
            b"POST /f.txt" + host, b"GET /x" + host, b"GET /x y" + host, b"GET /x%20y" + host + b"If-None-Match: *\r\n",
            b"GET /f.txt" + host + b"If-None-Match: *\r\n", b"HEAD /big" + host + b"If-None-Match: W/\"1-0-c350\"\r\n",
            b"GET /e" + host + upgrade + b"dGhlIHNhbXBsZSBub25jZQ==\r\n" + b"A: b\r\n" * 120, b"A" * 8300):
        scripts.append(b"\x38\4" + come + raw(text + b"\r\n") + turn + head(8))
    scripts.append(b"\x38\4" + come + head(4) + frame(binary, 254, 1) + turn)
    return scripts


def pem():
    """Keys and certificates by openssl: not the same each time, so that the tree's own are the ones to keep."""
    def openssl(*args, data=None):
        return subprocess.run(["openssl"] + list(args), input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              check=True).stdout

    def piece(file, wrap, data, times=None, flag=128):
        kind = [file | wrap << 2] if times is None else [file | wrap << 2 | flag, times]
        return bytes(kind) + len(data).to_bytes(2, "big") + data

    def sized(n, data):
        return len(data).to_bytes(n, "big") + data

    extensions = [(10, sized(2, b"\0\x1d\0\x17")), (11, sized(1, b"\0")), (13, sized(2, b"\4\3\4\1\5\3"))]
    hello = b"\3\3" + b"r" * 32 + b"\0" + sized(2, b"\xc0\x2b\xc0\x2f\xcc\xa9\xcc\xa8") + sized(1, b"\0") + \
        sized(2, b"".join(n.to_bytes(2, "big") + sized(2, data) for n, data in extensions))
    hello = b"\x16\3\1" + sized(2, b"\1" + sized(3, hello))
    out = []
    pairs = []
    for kind in (["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
                 ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
                 ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], ["-algorithm", "ED25519"]):
        key = openssl("genpkey", *kind)
        with tempfile.NamedTemporaryFile() as f:
            f.write(key)
            f.flush()
            cert = openssl("req", "-new", "-x509", "-key", f.name, "-subj", "/CN=a", "-days", "3650", "-outform", "DER")
        der = openssl("pkey", "-outform", "DER", data=key)
        pairs.append((cert, der))
        out.append(b"\0" + piece(0, 1, cert) + piece(1, 2, der) + piece(3, 0, hello))
        out.append(b"\xf3" + piece(0, 1, cert) + piece(1, 2, der) + piece(2, 1, cert) + piece(3, 0, hello))
        out.append(b"\0" + piece(0, 0, openssl("x509", "-inform", "DER", data=cert)) + piece(1, 0, key))
        if "ED25519" not in kind:
            wrap, name = (3, "ec") if "EC" in kind else (4, "rsa")
            old = openssl(name, "-outform", "DER", *(["-traditional"] if name == "rsa" else []), data=key)
            out.append(b"\0" + piece(0, 5, cert) + piece(1, wrap, old))
    out.append(b"\0" + piece(0, 1, pairs[0][0]) + piece(0, 1, pairs[1][0]) + piece(1, 2, pairs[0][1]))
    out.append(b"\0" + piece(0, 1, pairs[0][0]) + piece(1, 2, pairs[1][1]))
    out.append(b"\3" + piece(0, 1, pairs[0][0]) + piece(1, 2, pairs[0][1]) + piece(2, 1, pairs[0][0]) + piece(2, 1,
        pairs[2][0]))
    first = b"\3" + piece(0, 1, pairs[0][0]) + piece(1, 2, pairs[0][1])
    for times in (35, 36):
        out.append(first + piece(2, 1, pairs[0][0], times))
    out.append(first + piece(0, 1, b"junk" * 90, 250, 64) + piece(2, 1, pairs[1][0] + b"junk" * 90, 120, 64))
    out.append(first + piece(0, 1, b"junk" * 90, 180) + piece(2, 1, pairs[0][0]))
    out.append(b"\1" + piece(0, 0, b"\0") + piece(1, 0, b"x" * 60))
    return out


MAKERS = {f.__name__: f for f in (config, conn, frame, head, proxy, ring)}
IN_THE_TREE = {"pem": pem}
FOR_AFL = {"stream": stream}


def write(directory, names=None):
    for name in names or MAKERS:
        below = os.path.join(directory, name)
        os.makedirs(below, exist_ok=True)
        for i, data in enumerate({**MAKERS, **IN_THE_TREE, **FOR_AFL}[name]()):
            with open(os.path.join(below, "seed-%02d" % i), "wb") as f:
                f.write(data)


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2:])
