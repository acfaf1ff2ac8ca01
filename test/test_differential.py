"""The same bytes to wssd, to npm's ws and to Python's websockets: what do they answer?

Every input goes to the three on loopback and to a reading of the RFC (differential.py). wssd must do what that reading says,
always. A peer that does otherwise must do exactly what the reading says once the rules of its table below are applied: each
rule names what the peer does, why wssd does not, and the section. A rule that no input needs fails, too.

WSSD_SEED=N draws other random inputs than those of every day.
"""

import base64
import collections
import hashlib
import os
import random
import re
import socket
import subprocess
import tarfile
import tempfile
import threading

import pytest

from differential import NEVER, STRICT, SYNC, TOKEN, Head, Peer, Talk, converse, elements, faults, frames, outcome
from wsraw import (BINARY, CLOSE, CONT, KEY, PING, PONG, SLOW, TEXT, accept_key, close_payload, frame, override,
                   upgrade_head)

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
LIMIT = 65536
SEED = int(os.environ.get("WSSD_SEED", "6455"))
pytestmark = pytest.mark.xdist_group("differential")  # one worker has the servers for all

Case = collections.namedtuple("Case", "name pieces fin")  # pieces of bytes, SYNC between them; fin: then our end

# ---------------------------------------------------------------------------------------------- what peers do otherwise

Rule = collections.namedtuple("Rule", "peer how section reason")  # how: what it changes in STRICT

RULES = [
    Rule("ws", (("rsv", 2), ("opcode", 2), ("fragmented control", 2)), "5.2",
         "reads two bytes before it looks at the first. The RFC does not say when to fail; wssd does as soon as it can."),
    Rule("ws", (("order", 2),), "5.4",
         "refuses a frame that no message goes on with, or that begins one inside another, at its second byte, wssd when "
         "its header is whole. Both before any payload."),
    Rule("ws", (("not minimal", NEVER),), "5.2",
         'takes a length in more bytes than it needs: "the minimal number of bytes MUST be used".'),
    Rule("ws", (("most significant bit", NEVER), ("huge", "length")), "5.2, 7.4.1",
         "closes with 1009 above 2^53 - 1 bytes, since JavaScript cannot count them; wssd has no limit for an echo, and "
         "fails only what the RFC forbids, the most significant bit, with 1002."),
    Rule("ws", (("above the limit", "length"),), "7.4.1",
         "refuses a message above its limit once its length is there, wssd once its header is; both before any payload."),
    Rule("ws", (("utf8", "message"),), "8.1",
         "looks at UTF-8 when the message is whole; wssd at each byte as it comes, as the RFC does not ask for but allows."),
    Rule("websockets", (("rsv", "frame"), ("fragmented control", "frame"), ("long control", "frame"), ("order", "frame")),
         "5.2, 5.4, 5.5",
         "reads a whole frame before it looks at these; wssd fails as soon as it can, and buffers nothing."),
    Rule("websockets", (("opcode", 2),), "5.2", "reads two bytes before it looks at the opcode."),
    Rule("websockets", (("not minimal", NEVER), ("long form of a control frame", NEVER)), "5.2, 5.5",
         'takes a length in more bytes than it needs: "the minimal number of bytes MUST be used".'),
    Rule("websockets", (("most significant bit", NEVER),), "5.2",
         'waits for 2^63 bytes and more: "the most significant bit MUST be 0".'),
    Rule("websockets", (("utf8", "frame"),), "8.1",
         "looks at UTF-8 when the frame is whole; wssd at each byte as it comes."),
    Rule("websockets", (("surrogate", 3),), "8.1",
         "needs the third byte of a surrogate to refuse it (Python's incremental decoder), the second one tells."),
    Rule("websockets", (("reason", "before the code"),), "5.5.1, 7.4",
         "looks at the reason of a Close first: of two errors it names the other, 1007."),
    Rule("websockets", (("above the limit", "length"),), "7.4.1",
         "refuses a message above its limit once its length is there, wssd once its header is; both before any payload."),
    Rule("websockets", (("limit", "all"),), "5.4, 7.4.1",
         "counts a ping inside a message to its length: near its limit a ping ends the connection with 1009."),
]

# Of heads. Where wssd refuses and a peer upgrades, each fault of the head (differential.faults) needs its rule; else one
# rule must tell both answers. when: what else must be so.
HeadRule = collections.namedtuple("HeadRule", "peer wssd theirs fault when section reason")


def always(_h):
    return True


def above_ascii(h):
    return re.search(rb"(?im)^(upgrade|connection|sec-websocket-version):[^\r]*[\x80-\xff]", h.raw)


HEAD_RULES = [
    HeadRule("ws", "4xx", "upgrade", "version 1.0", always, "RFC 6455 4.2.1",
             "upgrades HTTP/1.0: it must be 1.1 or higher."),
    HeadRule("ws", "5xx", "upgrade", "other version", lambda h: h.line.endswith((b"/0.9", b"/2.0")), "RFC 9110 15.6.6",
             "takes HTTP/0.9 and 2.0 in the form of 1.1 (Node); wssd answers 505."),
    HeadRule("ws", "4xx", "upgrade", "request line",
             lambda h: re.fullmatch(rb"GET +/echo(\?[!-~]*)?( +HTTP/1\.1)?", h.line), "RFC 9112 3",
             "takes more than one space, or no version at all (Node): the grammar has single spaces and a version."),
    HeadRule("ws", "4xx", "upgrade", ("request line", "bare CR", "bare LF"), lambda h: re.match(rb"[\r\n]+GET ", h.raw),
             "RFC 9112 2.2",
             "skips any number of line ends before the request (Node); wssd one CRLF, the one that should be."),
    HeadRule("ws", "4xx", "upgrade", "Sec-WebSocket-Version",
             lambda h: re.fullmatch(rb"8|0*13(\.0*)?|\+13|0x0d", h.fields[b"sec-websocket-version"][-1]), "RFC 6455 4.2.1",
             "speaks an old draft, version 8, too, and takes for 13 what JavaScript does (013, 13.0, 0x0d): wssd only 13."),
    HeadRule("ws", "4xx", "upgrade", "Sec-WebSocket-Key",
             lambda h: h.has(b"sec-websocket-key", rb"^[A-Za-z0-9+/]{22}==$"), "RFC 4648 3.5",
             "takes a key whose last bits are not 0; no encoder makes one, and decoders may refuse it."),
    HeadRule("ws", "4xx", "upgrade", "no Host", always, "RFC 9112 3.2", "upgrades without a Host: 400 MUST be the answer."),
    HeadRule("ws", "4xx", "upgrade", "bad Host", always, "RFC 9112 3.2, RFC 9110 4.2.1",
             "does not look into Host: 400 MUST be the answer to an invalid one, and http has no empty host."),
    HeadRule("ws", "4xx", "upgrade", "two hosts", always, "RFC 9112 3.2", "takes the first of two: 400 MUST be the answer."),
    HeadRule("ws", "4xx", "upgrade", "two that decide",
             lambda h: all(len(h.fields[x]) < 2 for x in (b"sec-websocket-key", b"sec-websocket-version",
                                                          b"content-length")),
             "RFC 6454 7.3, RFC 9110 5.3, RFC 6265 5.4",
             "takes one of two Origin, Authorization, or joins two Cookie fields: none may be there twice."),
    HeadRule("ws", "4xx", "upgrade", ("Content-Length", "Transfer-Encoding"),
             lambda h: h.has(b"content-length", rb"^\d*$") and not (h.fields[b"content-length"] and
                                                                    h.fields[b"transfer-encoding"]),
             "RFC 9110 9.3.1, RFC 9112 6.1",
             "takes what it says for the first bytes behind the upgrade; wssd reads no body of any request, and refuses."),
    HeadRule("ws", "4xx", "upgrade", "too many fields", always, "RFC 9110 5.4", "has a higher limit (2,000)."),
    HeadRule("ws", "4xx", "upgrade", "too long", lambda h: len(h.raw) < 16384 + 200, "RFC 9110 5.4, RFC 6585 5",
             "has a higher limit (16 KiB)."),
    HeadRule("ws", "upgrade", "4xx", None, lambda h: re.match(rb"GET (http|/[^ ?]*%)", h.line, re.I),
             "RFC 9112 3.2.2, RFC 3986 6.2.2.2",
             "compares its path with the target as it stands; the absolute form MUST be accepted, %65 is an e."),
    HeadRule("ws", "upgrade", "4xx", None, lambda h: len(elements(h.fields[b"upgrade"])) > 1, "RFC 6455 4.2.1, RFC 9110 7.8",
             "takes only a single word in Upgrade, which is a list."),
    HeadRule("ws", "upgrade", "4xx", None, lambda h: re.search(rb"(?im)^(connection|upgrade):[^\r]*\t", h.raw),
             "RFC 9110 5.6.3",
             "takes no tab around Upgrade in Connection (Node's parser): white space may be one."),
    HeadRule("ws", "upgrade", "4xx", None, lambda h: h.fields[b"sec-websocket-protocol"] and not re.fullmatch(
        rb"(%s)([ \t]*,[ \t]*(?!\1$)%s)*" % (TOKEN, TOKEN), b", ".join(h.fields[b"sec-websocket-protocol"])),
             "RFC 6455 4.2.1",
             "refuses a list of subprotocols that is malformed or has one twice; wssd looks for those it has."),
    HeadRule("ws", "5xx", "4xx", "unknown method", always, "RFC 9110 9.1", "answers 400 (Node); wssd 501, as it should be."),
    HeadRule("ws", "5xx", "4xx", "other version", always, "RFC 9110 15.6.6", "answers 400 (Node); wssd 505."),
    HeadRule("ws", "4xx", "nothing", "method", lambda h: h.line.startswith(b"CONNECT "), "RFC 9110 9.3.6",
             "ends the connection without a word (Node); wssd answers 405."),
    HeadRule("ws", "nothing", "4xx", "incomplete", always, "RFC 9112 8", "answers 400 to a head that ends early; both end."),

    HeadRule("websockets", "4xx", "upgrade", "no Host", always, "RFC 9112 3.2",
             "upgrades without a Host: 400 MUST be the answer."),
    HeadRule("websockets", "4xx", "upgrade", "bad Host", always, "RFC 9112 3.2, RFC 9110 4.2.1",
             "does not look into Host: 400 MUST be the answer to an invalid one, and http has no empty host."),
    HeadRule("websockets", "4xx", "upgrade", "two hosts", always, "RFC 9112 3.2", "does not look: 400 MUST be the answer."),
    HeadRule("websockets", "4xx", "upgrade", "two that decide",
             lambda h: all(len(h.fields[x]) < 2 for x in (b"sec-websocket-key", b"sec-websocket-version", b"origin")),
             "RFC 9110 5.3, RFC 6265 5.4, RFC 9112 6.3", "does not look at two Authorization, Cookie or Content-Length."),
    HeadRule("websockets", "4xx", "upgrade", ("Content-Length", "Transfer-Encoding"), always, "RFC 9110 9.3.1, RFC 9112 6",
             "ignores it, however malformed, and takes the body for frames."),
    HeadRule("websockets", "4xx", "upgrade", "Sec-WebSocket-Key",
             lambda h: h.has(b"sec-websocket-key", rb"^[A-Za-z0-9+/]{22}==$"), "RFC 4648 3.5",
             "takes a key whose last bits are not 0; no encoder makes one, and decoders may refuse it."),
    HeadRule("websockets", "4xx", "upgrade", ("request line", "control byte", "bare CR"),
             lambda h: re.fullmatch(rb"GET /echo\?[^ ]*[^!-~][^ ]* HTTP/1\.1", h.line, re.S), "RFC 9112 3.2, RFC 3986 3.4",
             "takes any byte in a target: it has visible ASCII only."),
    HeadRule("websockets", "4xx", "upgrade", "too many fields", lambda h: len(h.lines) - 1 <= 256, "RFC 9110 5.4",
             "has a higher limit (256)."),
    HeadRule("websockets", "upgrade", "4xx", None, lambda h: re.match(rb"GET (http|/[^ ?]*%)", h.line, re.I),
             "RFC 9112 3.2.2, RFC 3986 6.2.2.2",
             "compares its path with the target as it stands; the absolute form MUST be accepted, %65 is an e."),
    HeadRule("websockets", "upgrade", "4xx", None, lambda h: len([e for e in elements(h.fields[b"upgrade"]) if e]) > 1,
             "RFC 6455 4.2.1, RFC 9110 7.8", "takes only one protocol in Upgrade, which is a list."),
    HeadRule("websockets", "upgrade", "4xx", None, lambda h: max(map(len, h.lines)) > 4108, "RFC 9110 5.4",
             "has a limit of 4,110 bytes a line, wssd of 8,192 a head."),
    HeadRule("websockets", "upgrade", "4xx", None, lambda h: h.raw.startswith(b"\r\n"), "RFC 9112 2.2",
             "refuses an empty line before the request, which should be skipped."),
    HeadRule("websockets", "5xx", "4xx", "unknown method", always, "RFC 9110 9.1",
             "answers 400; wssd 501, as it should be."),
    HeadRule("websockets", "5xx", "4xx", "other version", always, "RFC 9110 15.6.6", "answers 400; wssd 505."),
    HeadRule("websockets", "4xx", "5xx", None, lambda h: re.search(rb"(?im)^sec-websocket-key:[^\r]*[\x80-\xff]", h.raw),
             "RFC 9110 15.5.1", "fails with 500 on bytes above ASCII in the key: what the client did wrong is 400."),
    HeadRule("websockets", "4xx or upgrade", "nothing", None, above_ascii, "RFC 9110 15.5.1",
             "fails without a word on bytes above ASCII in Upgrade, Connection and the version, which it cannot print; "
             "wssd looks for the element it needs, and answers 400 or 426 if it is not there."),
    HeadRule("websockets", "upgrade", "4xx", None,
             lambda h: any(e and not re.fullmatch(TOKEN, e) for e in elements(h.fields[b"connection"])), "RFC 9110 5.6.1",
             "refuses a list with an element that is no token; wssd looks for the one it needs."),
    HeadRule("websockets", "4xx", "nothing", "incomplete", always, "RFC 9112 2.2",
             "waits for the end of a line; wssd answers at the first byte that no head has."),
]


def applied(rules):
    """The reading with these rules."""
    how = dict(STRICT)
    for r in rules:
        how.update(r.how)
    return how


# ---------------------------------------------------------------------------------------------- servers


@pytest.fixture(scope="module")
def srv(wssd_module):
    return wssd_module("--origin", "any", "--host", "any", "--max-clients", "256", "--max-per-ip", "0",
                       "--max-message", LIMIT, "/hub=hub", tls=False, plain=True)


def start_peers(ws, limit):
    return {"ws": Peer("node", os.path.join(HERE, "echo_ws.js"), ws, limit),
            "websockets": Peer("/usr/bin/python3", os.path.join(HERE, "echo_websockets.py"), limit)}


DEBIAN_WS = "/usr/share/nodejs/ws"


@pytest.fixture(scope="module")
def peers():
    p = start_peers(DEBIAN_WS, 0)
    yield p
    words = [x.stop() for x in p.values()]
    assert not any(words), words


# ---------------------------------------------------------------------------------------------- inputs: frames

END = frame(CLOSE, close_payload(1000))


def whole(name, *parts):
    """These frames and a Close."""
    return Case(name, [b"".join(parts) + END], False)


def cut(name, *parts):
    """These bytes, the last of which are cut short by our end; whole frames before them are answered first."""
    return Case(name, [b"".join(parts[:-1]) + frame(PING, SYNC), parts[-1]], True)


def headers():
    for opcode in range(16):
        n = 2 if opcode == CLOSE else 4
        payload = close_payload(1000) if opcode == CLOSE else b"abcd"
        for fin in (True, False):
            for mask in (b"\1\2\3\4", None):
                for first in (b"", frame(TEXT, "x", fin=False)):
                    name = "opcode %x fin %d masked %d%s" % (opcode, fin, mask is not None, " in a message" if first else "")
                    yield whole(name, first, frame(opcode, payload, fin=fin, mask=mask), frame(PING, b"p"))
            for rsv in (1, 2, 4, 7):
                yield whole("opcode %x fin %d rsv %d" % (opcode, fin, rsv), frame(opcode, payload, fin=fin, rsv=rsv))
        for rsv in (1, 2, 4):  # one byte of it, then two
            yield cut("opcode %x rsv %d, one byte" % (opcode, rsv), frame(opcode, payload, rsv=rsv)[:1])
            yield cut("opcode %x rsv %d, two bytes" % (opcode, rsv), frame(opcode, payload, rsv=rsv)[:2])
        for fin in (True, False):
            for k in range(1, 6 + n):
                yield cut("opcode %x fin %d, %d bytes" % (opcode, fin, k), frame(opcode, payload, fin=fin)[:k])
        yield cut("opcode %x unmasked, two bytes" % opcode, frame(opcode, payload, mask=None)[:2])


def lengths():
    for opcode in (TEXT, BINARY, CONT, CLOSE, PING, PONG):
        first = frame(BINARY, b"x", fin=False) if opcode == CONT else b""
        for n in (0, 1, 2, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 70000):
            payload = (close_payload(1000) + b"r" * n)[:n] if opcode == CLOSE else (b"0123456789abcdef" * (n // 16 + 1))[:n]
            for form in (7, 16, 64):
                if n < {7: 126, 16: 65536, 64: NEVER}[form]:
                    yield whole("opcode %x length %d in %d bits" % (opcode, n, form), first,
                                frame(opcode, payload, form=form))
        for n in (1 << 31, 1 << 32, (1 << 53) - 1, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
            for k in (2, 3, 9, 10, 14, 16):
                yield cut("opcode %x length 2^%.1f, %d bytes" % (opcode, n.bit_length(), k), first,
                          frame(opcode, b"abcd", form=64, length=n)[:k])
        for form, n in ((16, 125), (64, 65535), (16, 126), (64, 65536)):
            size = len(frame(opcode, b"", form=form, length=n))
            for k in range(2, size + 2):
                yield cut("opcode %x length %d in %d bits, %d bytes" % (opcode, n, form, k), first,
                          frame(opcode, b"ab", form=form, length=n)[:k])


def masks():
    for mask in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80\0\0\1", b"\0\xff\0\xff"):
        for n in list(range(0, 20)) + [125, 126, 1000]:
            yield whole("mask %s length %d" % (mask.hex(), n),
                        frame(BINARY, bytes(range(256))[:n] * (1 + n // 256), mask=mask))


def fragments():
    parts = {"T": frame(TEXT, "text"), "t": frame(TEXT, "te", fin=False), "B": frame(BINARY, b"\xff\xfe"),
             "b": frame(BINARY, b"\xff", fin=False), "c": frame(CONT, b"mid", fin=False), "C": frame(CONT, b"end"),
             "P": frame(PING, b"ping"), "O": frame(PONG, b"unasked"), "0": frame(CONT, b"", fin=False),
             "Z": frame(CONT, b"")}
    for a in parts:
        yield whole(a, parts[a])
        for b in parts:
            yield whole(a + b, parts[a], parts[b])
            if a in "tbc":
                for c in parts:
                    yield whole(a + b + c, parts[a], parts[b], parts[c])
    for word in ("tcccC", "bPcPcPC", "tPPPC", "t000Z", "b0Z", "tPOC", "TTTTBBBB", "tCtCbC", "bCT", "tcCC"):
        yield whole(word, *[parts[x] for x in word])
        yield cut(word + ", then our end", *[parts[x] for x in word], b"")
    yield whole("1000 fragments", frame(BINARY, b"", fin=False), frame(CONT, b"x", fin=False) * 1000, frame(CONT, b"y"))
    yield whole("a Close inside a message", parts["t"], frame(CLOSE, close_payload(1001)))


BAD_UTF8 = [b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xc2\x7f", b"\xc2\xc0", b"\xe0\x80\x80", b"\xe0\x9f\xbf",
            b"\xe1\x80",
            b"\xe1\x80\x7f", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf1\x80\x80",
            b"\xf4\x90\x80\x80", b"\xf4\xbf\xbf\xbf", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe", b"\xff",
            b"\xe2\x82", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xf0", b"\xe2\x28\xa1", b"\xf0\x28\x8c\xbc", b"\xf0\x90\x28\xbc"]
GOOD_UTF8 = ["\0", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd", "\uffff", "\U00010000", "\U0010ffff",
             "κόσμε", "a\u00e9\u20ac\U0001f600z", "\ufeff"]


def utf8():
    for text in GOOD_UTF8:
        b = text.encode()
        yield whole("good %r" % text, frame(TEXT, b))
        for i in range(len(b) + 1):
            yield whole("good %r cut at %d" % (text, i), frame(TEXT, b[:i], fin=False), frame(PING, b"p"),
                        frame(CONT, b[i:]))
        for i in range(1, len(b)):
            yield whole("good %r ends at %d" % (text, i), frame(TEXT, b[:i]))
    for bad in BAD_UTF8:
        name = bad.hex()
        yield whole("bad " + name, frame(TEXT, bad), frame(PING, b"p"))
        yield whole("good binary " + name, frame(BINARY, bad))
        yield whole("bad %s inside" % name, frame(TEXT, b"abc \xc3\xa9" + bad + b"xyz"))
        yield whole("bad reason " + name, frame(CLOSE, close_payload(1000, b"r" + bad)))
        yield whole("bad %s, a ping, more" % name, frame(TEXT, b"a" + bad, fin=False), frame(PING, b"p"), frame(CONT, b"z"))
        yield cut("bad %s, our end inside the frame" % name, frame(TEXT, bad + b"abc" * 9)[:-1])
        for i in range(1, len(bad)):
            yield whole("bad %s cut at %d" % (name, i), frame(TEXT, bad[:i], fin=False), frame(PING, b"p"),
                        frame(CONT, bad[i:]))
    long = ("\u20ac" * 30000).encode()
    for i in (0, 1, 2, 125, 4095, 65535, 89999):
        yield whole("long text, bad byte at %d" % i, frame(TEXT, long[:i] + b"\xff" + long[i + 1:]))
        yield whole("long text in two frames at %d" % i, frame(TEXT, long[:i], fin=False), frame(CONT, long[i:]))


def close_case(code, reason=b""):
    return whole("close %d %r" % (code, reason[:20]), frame(TEXT, "before"), frame(CLOSE, close_payload(code, reason)))


def closes():
    edges = (0, 1, 999, 1000, 1001, 1015, 1016, 1100, 1999, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 5001, 9999, 65535)
    for code in sorted(set(edges) | set(range(1000, 1020))):
        yield close_case(code)
    for code in (1000, 1001, 3000, 4999, 1005):
        for reason in (b"bye", b"r" * 122, b"r" * 123, "\u20ac".encode() * 41, "\u20ac".encode()[:2], b"\xff", b"\0",
                       b"a\xed\xa0\x80"):
            yield close_case(code, reason)
    for payload in (b"", b"\0", b"\3", b"\xff"):
        yield whole("close payload %s" % payload.hex(), frame(CLOSE, payload))
        yield cut("close payload %s, then our end" % payload.hex(), frame(CLOSE, payload))
    for name, more in (("text", frame(TEXT, "late")), ("ping", frame(PING, b"late")),
                       ("Close", frame(CLOSE, close_payload(1001))),
                       ("garbage", b"\xff" * 40), ("a cut frame", b"\x81"), ("64 KiB", frame(BINARY, bytes(65536)))):
        yield whole("after our Close: " + name, frame(TEXT, "before"), frame(CLOSE, close_payload(1000)), more)
        yield whole("after our empty Close: " + name, frame(CLOSE), more)
        yield whole("after an unmasked frame: " + name, frame(TEXT, "x", mask=None), more)


def controls():
    for n in (0, 1, 7, 8, 124, 125):
        yield whole("ping of %d" % n, frame(PING, bytes(range(n))))
        yield whole("pong of %d" % n, frame(PONG, bytes(range(n))))
    yield whole("100 pings", *[frame(PING, b"%d" % i) for i in range(100)])
    yield whole("pings between messages", *[frame(o, b"%d" % i) for i in range(40) for o in (PING, TEXT, BINARY)])
    yield whole("a ping in a message of 1 MiB", frame(BINARY, bytes(1 << 19), fin=False), frame(PING, b"p"),
                frame(CONT, bytes(1 << 19)))
    for data in (b"", frame(TEXT, "a"), frame(TEXT, "a", fin=False), frame(PING, b"a")):
        yield cut("our end after %s" % data.hex(), data, b"")


FRAME_TABLES = [headers, lengths, masks, fragments, utf8, closes, controls]


def random_case(rng, i):
    """Near-valid: mostly a proper client, with one or two things wrong somewhere."""
    out, message, spoilt = [], None, rng.random() < 0.6
    for _ in range(rng.choice((1, 2, 3, 4, 6, 9))):
        kind = rng.random()
        text = rng.choice(GOOD_UTF8).encode() * rng.choice((0, 1, 1, 2, 30))
        if kind < 0.25:
            opcode, fin = rng.choice((PING, PING, PONG)), True
            payload = text[:125]
        elif message is None:
            opcode, fin = rng.choice((TEXT, BINARY)), rng.random() < 0.6
            payload = text if opcode == TEXT else rng.randbytes(rng.choice((0, 1, 5, 125, 126, 300)))
            message = None if fin else opcode
        else:
            opcode, fin = CONT, rng.random() < 0.5
            payload = text if message == TEXT else rng.randbytes(rng.choice((0, 1, 5, 125, 126, 300)))
            message = None if fin else message
        how = {"mask": rng.randbytes(4)}
        if spoilt and rng.random() < 0.3:
            wrong = rng.randrange(9)
            if wrong == 0:
                how["rsv"] = rng.randrange(1, 8)
            elif wrong == 1:
                opcode = rng.randrange(16)
            elif wrong == 2:
                fin = not fin
            elif wrong == 3:
                how["mask"] = None
            elif wrong == 4:
                how["form"] = rng.choice((16, 64))
            elif wrong == 5 and payload:
                k = rng.randrange(len(payload))
                payload = payload[:k] + rng.choice(BAD_UTF8) + payload[k + 1:]
            elif wrong == 6:
                payload = (payload + b"x" * 126)[:rng.choice((126, 127, len(payload) + 126))]
            elif wrong == 7:
                opcode, payload = CLOSE, close_payload(rng.choice((1000, 1004, 1005, rng.randrange(65536),
                                                                   rng.randrange(999, 5001))), text[:100])
            elif wrong == 8:
                opcode, payload = CLOSE, rng.randbytes(rng.randrange(4))
        out.append(frame(opcode, payload, fin=fin, **how))
    if rng.random() < 0.12:
        k = rng.randrange(len(out[-1]) + 1)
        return cut("random %d" % i, *out[:-1], out[-1][:k])
    return whole("random %d" % i, *out)


def random_cases(seed, n):
    for i in range(n):
        yield random_case(random.Random(seed * 1000003 + i), i)


# ---------------------------------------------------------------------------------------------- frames: the comparison


def say(o):
    text = repr([tuple(x if not isinstance(x, bytes) or len(x) < 40 else x[:20] + b"...%d" % len(x) for x in e) for e in o])
    return text if len(text) < 600 else text[:300] + " ... " + text[-300:]


def ask(servers, cases, path="/echo", parallel=48):
    """{server: [outcome and result of each case]}"""
    head = upgrade_head(path)
    names = list(servers)
    talks = [lambda c=c, port=servers[s]: Talk(port, head, c.pieces, c.fin) for c in cases for s in names]
    results = converse(talks, parallel)
    return {s: [(outcome(r), r) for r in results[i::len(names)]] for i, s in enumerate(names)}


def judge(cases, answers, rules, limit=None, used=None, silent=False):
    """What is wrong with the answers, as sentences; adds to used the rules that a case needs. silent: messages do not
    count."""
    def counted(events):
        return [e for e in events if e[0] != "message"] if silent else events

    def expected(data, how):
        return counted(frames(data, how, limit)[0])

    wrong = []
    for i, c in enumerate(cases):
        data = b"".join(c.pieces)
        strict, partial = frames(data, STRICT, limit)
        ours, r = answers["wssd"][i]
        strict, ours = counted(strict), counted(ours)
        shown = "%s: %s" % (c.name, data.hex() if len(data) < 200 else data[:90].hex() + "...")
        if ours != strict:
            wrong.append("%s\n  wssd  %s\n  RFC   %s" % (shown, say(ours), say(strict)))
        if r.end == "reset":
            wrong.append("%s\n  wssd reset the connection" % shown)
        if r.partial and not (r.partial[0] == partial[0] and partial[1].startswith(r.partial[1])):
            wrong.append("%s\n  wssd's part of a message is not what was sent" % shown)
        for peer in rules:
            if peer == "wssd":
                continue
            theirs, their_rules = counted(answers[peer][i][0]), expected(data, applied(rules[peer]))
            if theirs != their_rules:
                wrong.append("%s\n  %s  %s\n  wssd  %s\n  by the rules  %s" % (
                    shown, peer, say(theirs), say(ours), say(their_rules)))
            elif used is not None and theirs != ours:
                used.update(r for r in rules[peer] if r not in used and theirs != expected(
                    data, applied([x for x in rules[peer] if x is not r])))
    return wrong


def by_peer(rules, names):
    return {p: [r for r in rules if r.peer == p] for p in names}


# ---------------------------------------------------------------------------------------------- inputs: heads

GET = "GET /echo HTTP/1.1"
PROPER = [("Host", "localhost"), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", KEY),
          ("Sec-WebSocket-Version", "13")]


def raw_head(line=GET, changes=(), extra=(), eol="\r\n"):
    """A head, exactly: changes as in wsraw.override(), extra lines as they are."""
    lines = [line] + ["%s: %s" % f for f in override(PROPER, dict(changes))] + list(extra)
    return (eol.join(lines) + eol + eol).encode("latin-1")


def heads():
    """(name, head)"""
    yield "proper", raw_head()
    for line in ("get /echo HTTP/1.1", "HEAD /echo HTTP/1.1", "POST /echo HTTP/1.1", "OPTIONS /echo HTTP/1.1",
                 "CONNECT /echo HTTP/1.1",
                 "BREW /echo HTTP/1.1", "GETS /echo HTTP/1.1", "G=T /echo HTTP/1.1", "PRI * HTTP/2.0",
                 "PATCH /echo HTTP/1.1",
                 "GET /echo HTTP/1.0", "GET /echo HTTP/0.9", "GET /echo HTTP/2.0", "GET /echo HTTP/1.2",
                 "GET /echo HTTP/1.9",
                 "GET /echo HTTP/3.1", "GET /echo HTTP/1", "GET /echo HTTP/1.", "GET /echo HTTP/1.10", "GET /echo HTTP/01.1",
                 "GET /echo HTTP/1.1 ", "GET /echo  HTTP/1.1", "GET  /echo HTTP/1.1", " GET /echo HTTP/1.1",
                 "GET\t/echo HTTP/1.1",
                 "GET /echo\tHTTP/1.1", "GET /echo http/1.1", "GET /echo HTTPS/1.1", "GET /echo", "GET", "",
                 "GET /echo HTTP /1.1",
                 "GET /ec ho HTTP/1.1", "GET echo HTTP/1.1", "GET * HTTP/1.1", "GET /echo#part HTTP/1.1",
                 "GET /echo? HTTP/1.1",
                 "GET /echo?a=b&c=%zz HTTP/1.1", "GET /echo?/../x HTTP/1.1", "GET /other HTTP/1.1", "GET /Echo HTTP/1.1",
                 "GET /echo/ HTTP/1.1", "GET //echo HTTP/1.1", "GET /./echo HTTP/1.1", "GET /x/../echo HTTP/1.1",
                 "GET /%65cho HTTP/1.1", "GET /%2565cho HTTP/1.1", "GET /ech%6F HTTP/1.1", "GET /ech%6f HTTP/1.1",
                 "GET /echo%00 HTTP/1.1",
                 "GET /echo%2f HTTP/1.1", "GET %2fecho HTTP/1.1", "GET /echo% HTTP/1.1", "GET /echo%6 HTTP/1.1",
                 "GET /echo%gg HTTP/1.1",
                 "GET http://localhost/echo HTTP/1.1", "GET https://localhost/echo HTTP/1.1",
                 "GET HTTP://localhost:80/echo?q HTTP/1.1",
                 "GET ws://localhost/echo HTTP/1.1", "GET http:///echo HTTP/1.1", "GET http://user@localhost/echo HTTP/1.1",
                 "GET http://[::1]/echo HTTP/1.1", "GET http://local host/echo HTTP/1.1", "GET http://localhost HTTP/1.1",
                 "GET /ech\xf6 HTTP/1.1", "GET /echo?\xf6 HTTP/1.1", 'GET /echo?"<>\\^`{|} HTTP/1.1',
                 "GET /echo?\x01 HTTP/1.1",
                 "GET /echo?\x7f HTTP/1.1", "GET /echo?a\rb HTTP/1.1"):
        yield "line %r" % line, raw_head(line)
    for name, _ in PROPER:
        yield "no " + name, raw_head(changes={name: None})
        yield "empty " + name, raw_head(changes={name: ""})
        yield "blank " + name, raw_head(changes={name: " \t "})
    for name, value in PROPER:
        yield "twice " + name, raw_head(changes={name: [value, value]})
        yield "lower case name " + name, raw_head(changes={name: None}, extra=[name.lower() + ": " + value])
        yield "upper case name " + name, raw_head(changes={name: None}, extra=[name.upper() + ": " + value])
        yield "no space " + name, raw_head(changes={name: None}, extra=[name + ":" + value])
        yield "many spaces " + name, raw_head(changes={name: None}, extra=[name + ": \t  " + value + " \t "])
        yield "space before the colon " + name, raw_head(changes={name: None}, extra=[name + " : " + value])
        yield "tab before the colon " + name, raw_head(changes={name: None}, extra=[name + "\t: " + value])
        yield "folded " + name, raw_head(changes={name: None}, extra=[name + ":\r\n " + value])
        yield "a fold behind " + name, raw_head(changes={name: None}, extra=[name + ": " + value + "\r\n\t"])
        yield "in quotes " + name, raw_head(changes={name: '"%s"' % value})
        yield "a comma behind " + name, raw_head(changes={name: value + ","})
        yield "a comma before " + name, raw_head(changes={name: "," + value})
        yield "case " + name, raw_head(changes={name: value.swapcase()})
        yield "longer " + name, raw_head(changes={name: value + "x"})
        yield "shorter " + name, raw_head(changes={name: value[:-1]})
        for byte in "\0\1\x0b\x7f\x80\xff\r\n":
            yield "byte %02x in %s" % (ord(byte), name), raw_head(changes={name: value[:2] + byte + value[2:]})
    for v in ("localhost:80", "localhost:", "localhost:http", "localhost:99999", "127.0.0.1", "[::1]:80", "[::1", "::1",
              "a b", "a/b",
              "user@localhost", "localhost,other", "a_b", "%6c", "\xf6", "?", "#", "[]", "host\\"):
        yield "Host %r" % v, raw_head(changes={"Host": v})
    for v in ("WebSocket", "WEBSOCKET", "websocket, h2c", "h2c, websocket", "websocket/13", "h2c", "web socket",
              "websockets", "foo",
              "websocket;q=1", "websocket,websocket", "h2c,,websocket", '"websocket"', "TLS/1.0, HTTP/1.1"):
        yield "Upgrade %r" % v, raw_head(changes={"Upgrade": v})
    yield "Upgrade in two fields", raw_head(changes={"Upgrade": ["h2c", "websocket"]})
    yield "Upgrade in two fields, the other way", raw_head(changes={"Upgrade": ["websocket", "h2c"]})
    for v in ("upgrade", "UPGRADE", "keep-alive, Upgrade", "Upgrade, keep-alive", "Upgrade,close", "keep-alive", "close",
              "upgrades",
              "up grade", "Upgrade;x", ",,Upgrade,,", "Upgrade, Upgrade", "keep-alive,\tUpgrade\t", '"Upgrade"',
              "x=Upgrade", "Upgrade/1",
              "foo Upgrade", "Upgrade, a b", ":, Upgrade"):
        yield "Connection %r" % v, raw_head(changes={"Connection": v})
    yield "Connection in two fields", raw_head(changes={"Connection": ["keep-alive", "Upgrade"]})
    yield "Connection in two fields, the other way", raw_head(changes={"Connection": ["Upgrade", "close"]})
    for v in ("12", "8", "7", "0", "14", "13, 8", "8, 13", "13,", "013", "13.0", "+13", "0x0d", "1e1", "13 ", "1 3", "-13",
              "255", "abc"):
        yield "version %r" % v, raw_head(changes={"Sec-WebSocket-Version": v})
    yield "versions 13 and 8", raw_head(changes={"Sec-WebSocket-Version": ["13", "8"]})
    yield "versions 8 and 13", raw_head(changes={"Sec-WebSocket-Version": ["8", "13"]})
    for v in (KEY[:-2], KEY[:-1], KEY + "=", KEY[:-2] + "xx", "=" * 24, "A" * 24, "A" * 22 + "==", "A" * 21 + "B==",
              "A" * 21 + "Q==",
              "A" * 21 + "w==", "A" * 21 + "x==", "-" * 22 + "==", "_" * 22 + "==", "A" * 20 + "==", "A" * 26 + "==",
              "AAAA",
              KEY[:4] + " " + KEY[4:], KEY[:4] + "=" + KEY[5:], "A" * 1000, KEY + "," + KEY, KEY + ";x", "\xf6" * 22 + "=="):
        yield "key %r" % v[:40], raw_head(changes={"Sec-WebSocket-Key": v})
    yield "a word above ASCII in Connection", raw_head(changes={"Connection": ["Upgrade", "\xff"]})
    yield "a word above ASCII in Upgrade", raw_head(changes={"Upgrade": ["websocket", "\xff"]})
    yield "two keys", raw_head(changes={"Sec-WebSocket-Key": [KEY, "A" * 22 + "=="]})
    for v in ("0", "1", "5", "00", "-1", "+0", "0, 0", "0x0", "", "abc", "99999999999999999999", "0 "):
        yield "Content-Length %r" % v, raw_head(extra=["Content-Length: " + v])
    yield "two Content-Length", raw_head(extra=["Content-Length: 0", "Content-Length: 0"])
    yield "two other Content-Length", raw_head(extra=["Content-Length: 0", "Content-Length: 5"])
    for v in ("chunked", "identity", "gzip, chunked", "chunked, gzip", "", "xchunked", "Chunked", "chunked\x0b"):
        yield "Transfer-Encoding %r" % v, raw_head(extra=["Transfer-Encoding: " + v])
    yield "Transfer-Encoding and Content-Length", raw_head(extra=["Transfer-Encoding: chunked", "Content-Length: 5"])
    for line in ("X", "X Y", ": empty", "X:", "X:\t", " X: y", "\tX: y", "X Y: z", "X\xf6: y", "X(: y", "X/: y", "X[]: y",
                 "X: \xf6", "X: \0",
                 "X: \x7f", "X: \x1b[1m", "X: a\rb", "X: a\nb", "X: a\r\n b", "X: a\r\n\tb", "X: a\r\n ", "X\0: y",
                 "X\r: y", "X: y\r", "X: y\x0c",
                 "X: \x08", "X: a\tb", "X: a:b", "X::", "Origin: null", "Origin: https://elsewhere.example", "Cookie: a=b",
                 "Authorization: Basic Zm9v", "Expect: 100-continue", "Sec-WebSocket-Extensions: permessage-deflate",
                 "Sec-WebSocket-Extensions: foo; bar=\"", "Sec-WebSocket-Extensions: ,", "Sec-WebSocket-Protocol: a, b",
                 "Sec-WebSocket-Protocol: a, a", "Sec-WebSocket-Protocol: a b", "Sec-WebSocket-Protocol: ,",
                 "Sec-WebSocket-Protocol:",
                 "HTTP2-Settings: AAMAAABk", "Trailer: x", "TE: trailers", "Proxy-Connection: keep-alive"):
        yield "line %r" % line, raw_head(extra=[line])
    for name in ("Origin", "Cookie", "Authorization", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "X"):
        yield "twice " + name, raw_head(extra=[name + ": a", name + ": a"])
    first = " X: y"
    yield "a folded first line", (GET + "\r\n" + first + "\r\n").encode() + raw_head()[len(GET) + 2:]
    for n in (90, 99, 100, 101, 110, 250, 260, 300, 2500):
        yield "%d fields" % n, raw_head(extra=["X: y"] * (n - 5))
    for n in (4000, 4109, 4120, 7900, 8192, 8193, 8200, 16000, 17000, 40000):
        yield "a head of %d bytes" % n, raw_head(extra=["X: " + "y" * (n - len(raw_head()) - 5)])
    for n in (4000, 8000, 8192, 17000):
        yield "a target of %d bytes" % n, raw_head("GET /echo?" + "q" * n + " HTTP/1.1")
    yield "a field name of 4000 bytes", raw_head(extra=["X" * 4000 + ": y"])
    yield "bare LF everywhere", raw_head(eol="\n")
    yield "bare CR everywhere", raw_head(eol="\r")
    yield "LF CR", raw_head(eol="\n\r")
    yield "CR CR LF", raw_head(eol="\r\r\n")
    proper = raw_head()
    for i in range(6):
        parts = proper.split(b"\r\n")
        yield "bare LF behind line %d" % i, b"\r\n".join(parts[:i + 1]) + b"\n" + b"\r\n".join(parts[i + 1:])
        yield "bare CR behind line %d" % i, b"\r\n".join(parts[:i + 1]) + b"\r" + b"\r\n".join(parts[i + 1:])
    yield "the last line by LF", proper[:-2] + b"\n"
    yield "the last two lines by LF", proper[:-4] + b"\n\n"
    for n in (1, 2, 3):
        yield "%d empty lines before" % n, b"\r\n" * n + proper
    yield "an LF before", b"\n" + proper
    yield "a CR before", b"\r" + proper
    yield "a NUL before", b"\0" + proper
    yield "a TLS hello", bytes.fromhex("16030100a5010000a10303") + bytes(200)
    yield "an UTF-8 mark before", b"\xef\xbb\xbf" + proper
    for n in (0, 1, 3, 10, 16, 18, 60, len(proper) - 4, len(proper) - 3, len(proper) - 2, len(proper) - 1):
        yield "only %d bytes" % n, proper[:n]


INTERESTING = [b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b",", b"\0", b"\x7f", b"\xff", b"%", b"/", b"?", b"\"", b"=", b"-",
               b"a", b"Z", b"0", b";"]
LINES = ["X: y", "Content-Length: 0", "Content-Length: 4", "Transfer-Encoding: chunked", "Connection: close",
         "Connection: keep-alive",
         "Upgrade: h2c", "Host: other", "Origin: null", "Cookie: a=b", "Cookie: c=d", "Sec-WebSocket-Protocol: a",
         "Expect: 100-continue",
         "Sec-WebSocket-Version: 8", "Authorization: Basic eA==", "X: \xf6", " folded", "X : y"]


def random_heads(seed, n):
    return [random_head(random.Random(seed * 1000003 + i), i) for i in range(n)]


def random_head(rng, i):
    """Near-valid: proper lines in any order and case, then one or two bytes or lines exchanged."""
    lines = ["%s%s%s%s%s" % (k if rng.random() < 0.7 else rng.choice((k.lower(), k.upper())), ":",
                             rng.choice((" ", " ", "", "\t", "  ")),
                             v, rng.choice(("", "", "", " ", "\t"))) for k, v in PROPER]
    rng.shuffle(lines)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        kind = rng.randrange(4)
        if kind == 0:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
        elif kind == 2:
            lines.pop(rng.randrange(len(lines)))
        else:
            k = rng.randrange(len(lines))
            lines[k] = lines[k].swapcase()
    line = rng.choice((GET, GET, GET, "GET /echo?x HTTP/1.1", "GET http://localhost/echo HTTP/1.1", "GET /%65cho HTTP/1.1"))
    head = "\r\n".join([line] + lines + ["", ""]).encode("latin-1")
    for _ in range(rng.choice((0, 1, 1, 2))):
        at, what = rng.randrange(len(head) - 4), rng.choice(INTERESTING)
        head = head[:at] + rng.choice((b"", what, what, head[at:at + 1] + what)) + head[at + 1:]
    return "random %d" % i, head


# ---------------------------------------------------------------------------------------------- heads: the comparison

# Behind a head: a Close frame. Whoever waits for more of the head gets an end of it there.
BEHIND = frame(CLOSE, b"", mask=b"\r\n\r\n")


def ask_heads(servers, cases):
    """{server: [what it made of each head]}: "upgrade", "4xx", "5xx", "nothing", or what never should be."""
    talks = []
    for _, head in cases:
        complete = b"\n\r\n" in head or b"\n\n" in head or b"\r\r" in head or b"\n\r" in head
        talks += [lambda p=port, d=head + (BEHIND if complete else b""),
                  c=complete: Talk(p, d, now=not c) for port in servers.values()]
    results = converse(talks)
    more = [Head(h).behind != b"" for _, h in cases]
    return {s: [made_of(r, m) for r, m in zip(results[i::len(servers)], more)] for i, s in enumerate(servers)}


def made_of(r, more):
    """more: the head ended earlier than it meant to, and what it has behind goes for frames."""
    if r.wrong:
        return "wrong: " + r.wrong
    if r.status == 101:
        closed = len(r.events) == 1 and r.events[0] in [("close", None)] + more * [("close", 1002)]
        return "upgrade" if closed else "101, then %r" % r.events
    if r.end == "silence":
        return "silence"
    return "nothing" if r.status is None else "%dxx" % (r.status // 100)


def faults_of(rule):
    return {rule.fault} if isinstance(rule.fault, str) else set(rule.fault or ())


def judge_heads(cases, answers, rules, used=None):
    """What is wrong with the answers, as sentences; adds to used the rules that explain something."""
    wrong = []
    for i, (name, raw) in enumerate(cases):
        h = Head(raw)
        found = faults(h)
        ours = answers["wssd"][i]
        shown = "%s: %r%s" % (name, raw[:300], "..." if len(raw) > 300 else "")
        if (ours == "upgrade") != (not found) or ours not in ("upgrade", "4xx", "5xx", "nothing") or \
                (ours == "nothing" and "incomplete" not in found):
            wrong.append("%s\n  wssd %s, faults: %s" % (shown, ours, sorted(found) or "none"))
        for peer, outcomes in answers.items():
            theirs = outcomes[i]
            if theirs == ours:
                continue
            fit = [r for r in rules if r.peer == peer and ours in r.wssd.split(" or ") and theirs == r.theirs and
                   (r.fault is None or found & faults_of(r)) and r.when(h)]
            missing = found.difference(*map(faults_of, fit)) if theirs == "upgrade" else set() if fit else {"no rule"}
            if missing or not fit:
                wrong.append("%s\n  wssd %s, %s %s, faults: %s, unexplained: %s" % (
                    shown, ours, peer, theirs, sorted(found) or "none", sorted(missing)))
            elif used is not None:
                used.update(fit)
    return wrong


# ---------------------------------------------------------------------------------------------- tests


class Asked:
    """What they all answer to the tables of inputs, asked once for all tests."""

    def __init__(self, srv, peers):
        self.srv, self.peers, self.known = srv, peers, {}

    def servers(self):
        return {"wssd": self.srv.plain_port, **{name: p.port for name, p in self.peers.items()}}

    def frames(self, cases):
        cases = list(cases)
        return cases, ask(self.servers(), cases)

    def heads(self, cases):
        cases = list(cases)
        return cases, ask_heads(self.servers(), cases)

    def table(self, table):
        if table not in self.known:
            self.known[table] = self.heads(table()) if table is heads else self.frames(table())
        return self.known[table]

    def limited(self):
        """The table of messages above a limit: on wssd's hub one after the other, since each hears all."""
        if above_limit not in self.known:
            cases, peers = list(above_limit()), start_peers(DEBIAN_WS, LIMIT)
            try:
                answers = ask({name: p.port for name, p in peers.items()}, cases)
                answers.update(ask({"wssd": self.srv.plain_port}, cases, "/hub", 1))
            finally:
                words = [p.stop() for p in peers.values()]
            assert not any(words), words
            self.known[above_limit] = cases, answers
        return self.known[above_limit]


@pytest.fixture(scope="module")
def asked(srv, peers):
    return Asked(srv, peers)


def agree(cases, wrong):
    """No difference is left without a reason."""
    assert not wrong, "%d of %d inputs, WSSD_SEED=%d:\n%s" % (len(wrong), len(cases), SEED, "\n".join(wrong[:40]))


def agree_frames(cases, answers, limit=None, rules=RULES):
    agree(cases, judge(cases, answers, by_peer(rules, answers), limit))


def agree_heads(cases, answers):
    agree(cases, judge_heads(cases, answers, HEAD_RULES))


@pytest.mark.parametrize("table", FRAME_TABLES, ids=lambda t: t.__name__)
def test_frames(asked, table):
    agree_frames(*asked.table(table))


def test_heads(asked):
    agree_heads(*asked.table(heads))


def test_random_frames(asked):
    agree_frames(*asked.frames(random_cases(SEED, 1200)))


def test_random_heads(asked):
    agree_heads(*asked.heads(random_heads(SEED, 800)))


def test_every_rule_is_used(asked):
    """A reason that no input of the tables needs is stale, or was never true."""
    used = set()
    for table in FRAME_TABLES:
        cases, answers = asked.table(table)
        judge(cases, answers, by_peer(RULES, answers), None, used)
    cases, answers = asked.limited()
    judge(cases, answers, by_peer(RULES, answers), LIMIT, used, silent=True)
    judge_heads(*asked.table(heads), HEAD_RULES, used)
    stale = [r for r in RULES + HEAD_RULES if r not in used]
    assert not stale, "\n".join(map(repr, stale))


# ---- messages above a limit: wssd's hub gets whole messages, and sends none back to their sender


def above_limit():
    for n in (LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT):
        yield whole("a message of %d bytes" % n, frame(BINARY, bytes(n)), frame(PING, b"p"))
        yield whole("the second message of %d bytes" % n, frame(TEXT, "a"), frame(BINARY, bytes(n)), frame(PING, b"p"))
        for k in (0, 1, LIMIT - 1, LIMIT):
            yield whole("%d bytes, cut at %d" % (n, k), frame(BINARY, bytes(k), fin=False), frame(PING, b"p"),
                        frame(CONT, bytes(n - k)), frame(PING, b"q")) if k <= n else whole("none")
    yield whole("fragments of %d bytes" % LIMIT, frame(TEXT, "a" * 1024, fin=False), frame(CONT, "b" * 1024, fin=False) * 62,
                frame(CONT, "c" * 1024))
    yield whole("one byte more", frame(TEXT, "a" * 1024, fin=False), frame(CONT, "b" * 1024, fin=False) * 62,
                frame(CONT, "c" * 1025))
    yield whole("many messages, each below it", *[frame(BINARY, bytes(LIMIT // 2))] * 9)
    for n in (LIMIT + 1, 1 << 31, (1 << 53) - 1):
        yield cut("the header of %d bytes" % n, frame(BINARY, b"", form=64, length=n))
        yield cut("the header of %d bytes without its key" % n, frame(BINARY, b"", form=64, length=n)[:10])


def test_limit(asked):
    """1009, before a message is buffered whole."""
    cases, answers = asked.limited()
    assert sum(o[-1] == ("close", 1009) for o, _ in answers["wssd"]) > 5
    agree(cases, judge(cases, answers, by_peer(RULES, answers), LIMIT, silent=True))


# ---- longer


@pytest.mark.deep
def test_many_random_frames(asked):
    agree_frames(*asked.frames(random_cases(SEED + 1, 20000)))


@pytest.mark.deep
def test_many_random_heads(asked):
    agree_heads(*asked.heads(random_heads(SEED + 1, 20000)))


NEW_WS = "ws-8.23.0.tgz"
NEW_WS_SHA512 = "wCkmX8QMOrKjgO8HW2WyDbTSGeqkocxgDzS9iR79rEAexty6/2qzilx3Ag8Tqf9ykop3irLKle0MtVn5qjVnoQ=="


NEWER = Rule("ws", (("close of one byte", "length"),), "5.5.1",
             "refuses a Close of one byte once its length is there, wssd when the byte is.")


def half_a_code():
    """A Close whose payload is one byte, cut short behind each of its bytes."""
    for n in range(2, 8):
        yield cut("a Close of one byte, %d bytes of it" % n, frame(CLOSE, b"\3")[:n])


@pytest.mark.deep
def test_newer_ws(srv, certs):
    """The last one of npm's: the same rules, without those that it no longer needs, and one more."""
    with tempfile.TemporaryDirectory() as d:
        r = subprocess.run(["npm", "pack", "--loglevel", "error", "--cache", "cache", "@".join(NEW_WS[:-4].rsplit("-", 1))],
                           cwd=d,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100)
        assert r.returncode == 0, "npm cannot fetch %s: %s" % (NEW_WS, r.stdout.decode(errors="replace"))
        with open(os.path.join(d, NEW_WS), "rb") as f:
            assert base64.b64encode(hashlib.sha512(f.read()).digest()).decode() == NEW_WS_SHA512
        with tarfile.open(os.path.join(d, NEW_WS)) as t:
            t.extractall(d)
        peer = Peer("node", os.path.join(HERE, "echo_ws.js"), os.path.join(d, "package"), 0)
        try:
            asked = Asked(srv, {"ws": peer})
            for table in FRAME_TABLES + [half_a_code]:
                agree_frames(*asked.table(table), rules=RULES + [NEWER])
            agree_frames(*asked.frames(random_cases(SEED + 2, 3000)), rules=RULES + [NEWER])
            agree_heads(*asked.table(heads))
            agree_heads(*asked.heads(random_heads(SEED + 2, 3000)))
        finally:
            words = peer.stop()
        assert not words


@pytest.mark.deep
def test_every_close_code(asked):
    agree_frames(*asked.frames(close_case(code) for code in range(5001)))


# ---- could it fail?


def altered(o):
    """Other outcomes near this one."""
    yield o[:-1]
    yield o + [("pong", b"")]
    yield o[:-1] + [("close", 1011)]
    yield o[:-1] + [("lost", 101)]
    for i, e in enumerate(o):
        if e[0] == "message":
            yield o[:i] + o[i + 1:]
            yield o[:i] + [e] + o[i:]
            yield o[:i] + [("message", TEXT + BINARY - e[1], e[2])] + o[i + 1:]
            yield o[:i] + [("message", e[1], e[2] + b"x")] + o[i + 1:]
        elif e[0] == "pong":
            yield o[:i] + o[i + 1:]
            yield o[:i] + [("pong", e[1][:-1] + b"x")] + o[i + 1:]
    for i in range(1, len(o)):
        if o[i] != o[i - 1]:
            yield o[:i - 1] + [o[i], o[i - 1]] + o[i + 1:]


@pytest.mark.parametrize("server", ["wssd", "ws", "websockets"])
def test_a_wrong_answer_is_reported(asked, server):
    cases, answers = asked.table(controls)
    n = 0
    for i, (right, r) in enumerate(answers[server]):
        for other in altered(right) if len(right) < 30 else []:
            one = {s: [a[i]] for s, a in answers.items()}
            one[server] = [(other, r)]
            assert judge([cases[i]], one, by_peer(RULES, answers)), (cases[i].name, right, other)
            n += 1
    assert n > 80


@pytest.mark.parametrize("server", ["wssd", "ws", "websockets"])
def test_a_wrong_answer_to_a_head_is_reported(asked, server):
    """Of a proper head, and of one that all refuse."""
    cases, answers = asked.table(heads)
    n = 0
    for i, case in enumerate(cases):
        right = {a[i] for a in answers.values()}
        if right not in ({"upgrade"}, {"4xx"}) or "incomplete" in faults(Head(case[1])):
            continue
        other = "5xx" if right == {"upgrade"} else "101, then []"
        for wrong in (other, "silence", "wrong: 4.2.2"):
            one = {s: [wrong if s == server else a[i]] for s, a in answers.items()}
            assert judge_heads([case], one, HEAD_RULES), (case, wrong)
            n += 1
    assert n > 300


def test_a_change_of_wssd_is_reported(asked):
    """If wssd took what it must refuse, or refused what it must take, no rule would hide it: even where a peer does so."""
    for cases, answers in [asked.table(t) for t in FRAME_TABLES]:
        for peer in ("ws", "websockets"):
            swapped = dict(answers, wssd=answers[peer])
            differ = sum(a[0] != b[0] for a, b in zip(answers["wssd"], answers[peer]))
            assert len({w.split("\n")[0] for w in judge(cases, swapped, by_peer(RULES, answers))}) >= min(differ, 1)
    cases, answers = asked.table(heads)
    for peer in ("ws", "websockets"):
        took = [i for i in range(len(cases)) if (answers["wssd"][i] == "upgrade") != (answers[peer][i] == "upgrade")]
        swapped = dict(answers, wssd=answers[peer])
        assert len(took) > 20 and len(judge_heads(cases, swapped, HEAD_RULES)) >= len(took)


REPLY = ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
         "Sec-WebSocket-Accept: %s\r\n\r\n" % accept_key(KEY)).encode()


@pytest.mark.parametrize("said, want", [
    (REPLY + b"\x88\0", [("close", None)]),
    (REPLY + b"\x88\2\3\xe8", [("close", 1000)]),
    (REPLY + b"\x81\1a\x8a\0", [("message", TEXT, b"a"), ("pong", b""), ("lost", 101)]),
    (REPLY + b"\1\1a\x8a\0\x80\1b\x88\0", [("pong", b""), ("message", TEXT, b"ab"), ("close", None)]),
    (REPLY + b"\x82\2a", [("lost", 101)]),
    (REPLY.replace(b"101 Switching Protocols", b"400 Bad Request") + b"\x88\0", [("refused", 400)]),
    (b"HTTP/1.1 100 Continue\r\n\r\n" + REPLY + b"\x88\0", [("close", None)]),
    (b"", [("lost", None)]),
    (REPLY + b"\x88\0\x88\0", "after its Close"),
    (REPLY + b"\x88\1\0", "5.5.1"),
    (REPLY + b"\x88\2\3\xed", "7.4"),
    (REPLY + b"\x81\x81abcde", "malformed"),
    (REPLY + b"\xc1\1a", "malformed"),
    (REPLY + b"\x83\1a", "opcode 3"),
    (REPLY + b"\x0a\0", "malformed"),
    (REPLY + b"\x80\0", "malformed"),
    (REPLY + b"\1\1a\x81\1a", "malformed"),
    (REPLY + b"\x81\x7e\0\1a", "malformed"),
    (REPLY.replace(b"=", b"?"), "4.2.2"),
    (REPLY.replace(b"Upgrade: websocket", b"Upgrade: h2c"), "4.2.2"),
    (b"HTTP/2 101\r\n\r\n", "not a reply"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_what_a_server_does_wrong_is_seen(said, want):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            s, _ = listener.accept()
            with s:
                s.recv(65536)
                s.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        (r,) = converse([lambda: Talk(listener.getsockname()[1], upgrade_head(), [b""])])
        thread.join(10)
    got = outcome(r)
    if isinstance(want, list):
        assert got == want
    else:
        assert got[0][0] == "wrong" and want in got[0][1]


def test_silence_is_an_outcome():
    """Nobody waits for ever, and what came before counts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        talks = [lambda: Talk(listener.getsockname()[1], upgrade_head(), [b""])] * 3
        assert [outcome(r) for r in converse(talks, parallel=2, patience=0.2 / SLOW)] == [[("silence", None)]] * 3


# ---- the README


def markdown():
    """The rules as test/README.md has them."""
    out = ["| peer | in | what it does otherwise, and why wssd does not | RFC |", "|---|---|---|---|"]
    for r in RULES:
        out.append("| %s | frames: %s | %s | %s |" % (r.peer, ", ".join(k for k, _ in r.how), r.reason,
                                                      ", ".join("6455 " + x for x in r.section.split(", "))))
    for r in HEAD_RULES:
        about = ", ".join(sorted(faults_of(r))) or "what wssd %s" % ("refuses" if "4xx" in r.wssd else "grants")
        out.append("| %s | heads: %s | %s | %s |" % (r.peer, about, r.reason, r.section.replace("RFC ", "")))
    return "\n".join(out) + "\n"


def test_readme_has_the_rules():
    with open(os.path.join(HERE, "README.md")) as f:
        assert markdown() in f.read(), "print it: python3 test/test_differential.py"


if __name__ == "__main__":
    print(markdown(), end="")
