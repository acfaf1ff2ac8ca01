"""Who may come in by credential: --auth and auth=, as Bearer, Basic and cookie, from raw clients, curl, openssl, Node,
Python's websockets and Chromium; everything that is nearly one; the files of digests and their reload.

RFC 9110 section 11 (the framework), RFC 7617 (Basic), RFC 6750 (Bearer), RFC 6265 (cookies)."""

import asyncio
import base64
import hashlib
import http.server
import itertools
import os
import random
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest
import websockets

import peers
import recipes
import wsraw
from conftest import Pair
from test_browser import browser  # noqa: F401 (a fixture)

SLOW = wsraw.SLOW
PAGE = b"<!doctype html><title>inside</title>\n"
CHALLENGES = ['Basic realm="wssd", charset="UTF-8"', 'Bearer realm="wssd"']
KEPT = "; Path=/; Secure; HttpOnly; SameSite=Strict"

pytestmark = pytest.mark.xdist_group("credentials")


def digest(text):
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def coded(text):
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def bearer(text):
    return [("Authorization", "Bearer " + text)]


def basic(text):
    return [("Authorization", "Basic " + coded(text))]


def cookie(text):
    return [("Cookie", "__Host-wssd=" + coded(text))]


FORMS = {"Bearer": bearer, "Basic": basic, "cookie": cookie}

# One credential each: how it would be made (64 hexadecimal digits), and a user and a password.
PAGES, PERSON = "9d1f" * 16, "anna:" + "5c2e" * 16
DEVICE, OTHER, THIRD = "a7b3" * 16, "b8c4" * 16, "c9d5" * 16
NOBODY = "e1f7" * 16
SIGNS = "~~~:???>>>"
UTF8 = "j\u00fcrgen:\u00e4\u00f6\u00fc \u4e16\u754c: and a colon"


def write(path, *lines):
    with open(path, "w", newline="") as f:
        f.write("".join(line + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp("credentials")
    (d / "www" / "sub").mkdir(parents=True)
    (d / "www" / "index.html").write_bytes(PAGE)
    (d / "www" / "a.txt").write_text("a")
    return {
        "www": d / "www",
        "pages": write(d / "pages", digest(PAGES), digest(PERSON), digest(UTF8), digest(SIGNS)),
        "device": write(d / "device", "# devices", "", digest(DEVICE), digest(THIRD), digest("dev:" + DEVICE)),
        "other": write(d / "other", digest(OTHER), digest(THIRD)),
        "nobody": write(d / "nobody"),
    }


@pytest.fixture(scope="module")
def door(wssd_module, files):
    """Pages and the route /pages share a file; /device and /other have one each; nobody may /nobody; anybody may /echo."""
    return wssd_module("--verbose", "--auth", files["pages"], "/pages=echo,auth=" + files["pages"],
                       "/device=echo,auth=" + files["device"], "/other=echo,auth=" + files["other"],
                       "/nobody=echo,auth=" + files["nobody"], "--max-per-ip", "0", plain=True, root=files["www"])


def check_401(r):
    """RFC 9110 section 15.5.2: at least one challenge."""
    assert r.status == 401 and r.reason == "Unauthorized", r
    assert r.all("WWW-Authenticate") == CHALLENGES, r
    assert r.closing and r.all("Set-Cookie") == [], r


def get(s, target, *fields, method="GET", tls=None, **kw):
    """The status of one request on a connection of its own; a 401 is one to the letter and ends the connection."""
    with s.connect(tls, **kw) as c:
        r = c.request(method, target, extra=fields)
        if r.status == 401:
            check_401(r)
            c.expect_eof()
        return r


def upgrade(s, target, *fields, tls=None, changes=()):
    with s.connect(tls) as c:
        c.send(wsraw.upgrade_head(target, c.host, extra=fields, changes=changes))
        r = c.reply()
        if r.status == 401:
            check_401(r)
            c.expect_eof()
        elif r.status == 101:
            c.send_text("in")
            c.expect_text("in")
            c.close_handshake()
        return r.status


# ---------------------------------------------------------------------------------------------- who opens what


OPENS = {  # the credentials that a file has
    "pages": [PAGES, PERSON, UTF8, SIGNS], "device": [DEVICE, THIRD, "dev:" + DEVICE], "other": [OTHER, THIRD], "nobody": [],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
def test_each_credential_opens_its_own(door, form, tls):
    """And nothing of another's file: all credentials, in all forms, on all doors."""
    everything = list(dict.fromkeys(itertools.chain(*OPENS.values()))) + [NOBODY]
    for text in everything:
        fields = FORMS[form](text)
        if form == "Bearer" and text == UTF8:
            continue
        for file in OPENS:
            assert upgrade(door, "/" + file, *fields, tls=tls) == (101 if text in OPENS[file] else 401), (text, file)
        page = text in OPENS["pages"]
        assert get(door, "/", *fields, tls=tls).status == (200 if page else 401), text
        assert get(door, "/missing", *fields, tls=tls).status == (404 if page else 401), text
        assert upgrade(door, "/echo", *fields, tls=tls) == 101


def test_nothing_shown(door):
    before = door.counters()["denied"]
    for target in ("/", "/a.txt", "/missing", "/sub", "/sub/", "/.hidden", "//", "/?x=" + PAGES, "/" + PAGES):
        for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
            assert get(door, target, method=method).status == 401, (method, target)
    for target in ("/pages", "/device", "/other", "/nobody"):
        assert upgrade(door, target) == 401 and get(door, target).status == 401
    assert upgrade(door, "/echo") == 101 and get(door, "/echo").status == 426
    assert door.counters()["denied"] == before + 9 * 5 + 4 * 2
    door.wait_log(r"^127\.0\.0\.1:\d+ \S+ /missing 401 in=\d+ out=\d+ secs=[\d.]+: no valid credential$")


def test_what_is_there_does_not_show(door):
    """Without a credential a file that is there, one that is not, and a directory are the same bytes."""
    heads = set()
    for target in ("/", "/a.txt", "/missing", "/sub", "/../etc/passwd"):
        with door.connect() as c:
            c.send(wsraw.head("GET", target, [("Host", c.host)]))
            heads.add(c.recv_all())
    assert len(heads) == 1, heads


def test_no_way_round(door):
    """However the path is written, it is the route's or a page's, and each asks for its own."""
    for target in ("/%64evice", "/%64%65%76%69%63%65", "/device?", "/device?x=" + DEVICE, "https://localhost/device",
                   "/device?/pages"):
        assert upgrade(door, target) == 401 and upgrade(door, target, *basic(PERSON)) == 401, target
        assert upgrade(door, target, *bearer(DEVICE)) == 101, target
    for target in ("/device/", "//device", "/DEVICE", "/x/../device", "/./device", "/device%3f", "/device%20", "/device.",
                   "/echo/"):
        assert upgrade(door, target) == 401 and upgrade(door, target, *bearer(DEVICE)) == 401, target
        assert upgrade(door, target, *basic(PERSON)) in (400, 404), target
    for target in ("/%69ndex.html", "/index.html?", "/?", "//index.html", "/./index.html", "/sub/../index.html",
                   "/%2e/index.html"):
        assert get(door, target).status == 401 and get(door, target, *bearer(DEVICE)).status == 401, target
        assert get(door, target, *basic(PERSON)).status in (200, 404), target
    with door.connect() as c:
        check_401(c.request("GET", "/", version="HTTP/1.0"))
        c.expect_eof()
    with door.connect() as c:
        r = c.request("GET", "/", extra=basic(PERSON), version="HTTP/1.0")
        assert r.status == 200 and r.body == PAGE and r.get("Set-Cookie") == "__Host-wssd=" + P + KEPT


def test_two_forms_at_once(door):
    """Each is judged; one that holds is enough, and both must be of this file."""
    assert get(door, "/", *bearer(NOBODY), *cookie(PAGES)).status == 200
    assert get(door, "/", *bearer(PAGES), *cookie(NOBODY)).status == 200
    assert get(door, "/", *basic(DEVICE), *cookie(OTHER)).status == 401
    assert upgrade(door, "/device", *basic(PERSON), *cookie(DEVICE)) == 101
    assert upgrade(door, "/other", *basic(PERSON), *cookie(DEVICE)) == 401
    assert upgrade(door, "/pages", *cookie(PERSON)) == 101


def test_with_the_wrong_name_in_front(door):
    """The digest is of all of user:password, and of nothing else."""
    for text in ("Anna:" + "5c2e" * 16, "anna:", ":" + "5c2e" * 16, "5c2e" * 16, "anna" + "5c2e" * 16, PERSON + "\n",
                 PERSON + "\0", " " + PERSON, PERSON + ":", digest(PERSON), bytes.fromhex(digest(PERSON))):
        assert get(door, "/", *basic(text)).status == 401, text
        assert get(door, "/", *cookie(text)).status == 401, text
    assert get(door, "/", *bearer(digest(PAGES))).status == 401


# ---------------------------------------------------------------------------------------------- nearly right

P, Q, S = coded(PERSON), coded(PAGES), coded(SIGNS)  # no padding; two; all of the alphabet's signs
assert P[-1] != "=" and Q[-2:] == "==" and "+" in S and "/" in S
ACCEPTED = {
    "lower": "bearer " + PAGES, "upper": "BEARER " + PAGES, "mixed": "bEaReR " + PAGES, "basic-lower": "basic " + P,
    "basic-upper": "BASIC " + P, "basic-mixed": "bAsIC " + P, "spaces": "Bearer    " + PAGES,
    "basic-spaces": "Basic    " + P,
    "around": " \t Basic " + P + " \t ", "basic-of-a-token": "Basic " + Q, "signs": "Basic " + S,
    "bearer-of-a-pair": "Bearer " + PERSON,
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_authorization_accepted(door, name):
    """RFC 9110 section 11.1: the scheme without case; 11.4: one space or more; 5.5: what stands around a value."""
    assert get(door, "/", "Authorization:" + ACCEPTED[name]).status == 200
    assert upgrade(door, "/pages", "authorization:" + ACCEPTED[name]) == 101


AUTHORIZATIONS = {
    "empty": "", "scheme-only": "Basic", "bearer-only": "Bearer", "scheme-and-space": "Basic ",
    "bearer-and-space": "Bearer ",
    "no-scheme": P, "no-scheme-token": PAGES, "no-space": "Basic" + P, "bearer-no-space": "Bearer" + PAGES,
    "tab": "Basic\t" + P, "bearer-tab": "Bearer\t" + PAGES, "colon": "Basic:" + P, "equals": "Bearer=" + PAGES,
    "comma": "Basic, " + P, "quoted": 'Basic "%s"' % P, "bearer-quoted": 'Bearer "%s"' % PAGES,
    "other-scheme": "Digest " + P,
    "prefix": "Basi " + P, "suffix": "Basics " + P, "bearer-suffix": "Bearers " + PAGES, "negotiate": "Negotiate " + P,
    "swapped": P + " Basic", "two-schemes": "Basic Bearer " + P, "list": "Basic %s, Bearer %s" % (P, PAGES),
    "list-bearer": "Bearer %s, Basic %s" % (PAGES, P), "twice": "Basic %s %s" % (P, P), "parameter": "Basic %s; x=y" % P,
    "not-coded": "Basic " + PERSON, "bearer-coded": "Bearer " + Q, "cut": "Basic " + P[:-4], "cut-1": "Basic " + P[:-1],
    "cut-front": "Basic " + P[1:], "no-padding": "Basic " + Q[:-2], "one-padding": "Basic " + Q[:-1],
    "padding-3-of-4": "Basic " + P + "A===", "padding-3": "Basic " + P + "===", "padding-more": "Basic " + P + "=",
    "padding-4": "Basic " + P + "====",
    "padding-first": "Basic ====" + P, "padding-inside": "Basic " + P[:8] + "====" + P[8:],
    "padding-only": "Basic ====", "padding-two": "Basic ==",
    "url-alphabet": "Basic " + S.replace("+", "-").replace("/", "_"),
    "underscore": "Basic " + P[:-4] + "_" + P[-3:], "space-inside": "Basic " + P[:8] + " " + P[8:],
    "tab-inside": "Basic " + P[:8] + "\t" + P[8:], "percent": "Basic " + P + "%3D",
    "high": "Basic " + P[:-4] + "\xff" + P[-3:],
    "lower": "Basic " + P.lower(), "star": "Basic " + P[:-4] + "*===", "wildcard": "Bearer *", "zero": "Bearer 0",
    "bearer-upper": "Bearer " + PAGES.upper(), "bearer-short": "Bearer " + PAGES[:-1],
    "bearer-long": "Bearer " + PAGES + "d",
    "bearer-inner": "Bearer " + PAGES[:9] + " " + PAGES[9:], "bearer-digest": "Bearer " + digest(PAGES),
    "bearer-parameter": "Bearer token=" + PAGES, "long": "Basic " + "QUFB" * 1000,
    "bearer-very-long": "Bearer " + "a" * 4000,
    "256-unknown": "Basic " + "QUFB" * 64, "257": "Basic " + "QUFB" * 64 + "Q", "260": "Basic " + "QUFB" * 65,
}


@pytest.mark.parametrize("name", AUTHORIZATIONS)
def test_authorization_refused(door, name):
    before = door.counters()["denied"]
    field = "Authorization: " + AUTHORIZATIONS[name]
    assert get(door, "/", field).status == 401
    assert upgrade(door, "/pages", field) == 401
    assert get(door, "/", *[("X-Authorization", "Basic " + P), ("Proxy-Authorization", "Basic " + P)]).status == 401
    assert door.counters()["denied"] == before + 3


COOKIES_ACCEPTED = {
    "alone": "__Host-wssd=" + P, "first": "__Host-wssd=%s; a=b; c=d" % P, "middle": "a=b; __Host-wssd=%s; c=d" % P,
    "last": "a=b; c=d; __Host-wssd=" + P, "behind-its-like": "x__Host-wssd=1; __Host-wssd2=2; __Host-wssd=" + P,
    "before-another-of-it": "__Host-wssd=%s; __Host-wssd=%s" % (P, coded(DEVICE)),
    "behind-an-empty-one": "a=; __Host-wssd=" + P,
    "behind-none": "a; __Host-wssd=" + P, "behind-quotes": 'a="b c"; __Host-wssd=' + P, "equals": "a==b=; __Host-wssd=" + P,
    "around": " \t__Host-wssd=%s \t" % P,
    "many": "".join("c%d=%s; " % (i, "v" * 40) for i in range(80)) + "__Host-wssd=" + P,
}


@pytest.mark.parametrize("name", COOKIES_ACCEPTED)
def test_cookie_accepted(door, name):
    """RFC 6265 section 4.2.1 and 5.4: pairs in one field, in no particular order."""
    assert get(door, "/", "Cookie:" + COOKIES_ACCEPTED[name]).status == 200
    assert upgrade(door, "/pages", "cookie:" + COOKIES_ACCEPTED[name]) == 101


COOKIES = {
    # a browser has one of that name; a stranger who sends hundreds shall not have them all hashed
    "behind-another-of-it": "__Host-wssd=%s; __Host-wssd=%s" % (coded(DEVICE), P),
    "behind-an-empty-one-of-it": "__Host-wssd=; __Host-wssd=" + P,
    "empty": "", "name-only": "__Host-wssd", "no-value": "__Host-wssd=", "no-value-more": "__Host-wssd=; a=b",
    "value-only": P,
    "prefix": "x__Host-wssd=" + P, "suffix": "__Host-wssd2=" + P, "suffix-dash": "__Host-wssd-=" + P,
    "shorter": "__Host-wss=" + P,
    "without-prefix": "wssd=" + P, "secure-prefix": "__Secure-wssd=" + P, "lower": "__host-wssd=" + P,
    "upper": "__HOST-WSSD=" + P,
    "underscore": "_Host-wssd=" + P, "quoted": '__Host-wssd="%s"' % P, "half-quoted": '__Host-wssd="' + P,
    "space-before-equals": "__Host-wssd =" + P, "space-behind-equals": "__Host-wssd= " + P,
    "two-equals": "__Host-wssd==" + P,
    "comma": "a=b, __Host-wssd=" + P, "in-a-value": "a=__Host-wssd=" + P, "in-quotes": 'a="; __Host-wssd=%s"' % P,
    "space-inside": "__Host-wssd=%s %s" % (P[:8], P[8:]), "space-behind": "__Host-wssd=%s ; a=b" % P,
    "comma-behind": "__Host-wssd=%s, x" % P,
    "cut": "__Host-wssd=" + P[:-1], "cut-4": "__Host-wssd=" + P[:-4], "padding": "__Host-wssd=" + P + "=",
    "padding-3-of-4": "__Host-wssd=" + P + "A===", "padding-4": "__Host-wssd=" + P + "====",
    "not-coded": "__Host-wssd=" + PERSON,
    "token-not-coded": "__Host-wssd=" + PAGES,
    "digest": "__Host-wssd=" + coded(digest(PERSON)),
    "url-alphabet": "__Host-wssd=" + S.replace("+", "-").replace("/", "_"), "no-padding": "__Host-wssd=" + Q[:-2],
    "one-padding": "__Host-wssd=" + Q[:-1],
    "percent": "__Host-wssd=" + P + "%3D",
    "scheme": "__Host-wssd=Basic " + P, "256-unknown": "__Host-wssd=" + "QUFB" * 64, "260": "__Host-wssd=" + "QUFB" * 65,
    "high": "__Host-wssd=" + P[:-1] + "\xe9", "others": "; ".join("a%d=b" % i for i in range(300)), "semicolons": ";" * 3000,
    "split": "__Host-wssd=%s; %s" % (P[:8], P[8:]), "attributes": "$Version=1; __Host-wssd2=%s; $Path=/" % P,
}


@pytest.mark.parametrize("name", COOKIES)
def test_cookie_refused(door, name):
    field = "Cookie: " + COOKIES[name]
    assert get(door, "/", field).status == 401
    assert upgrade(door, "/pages", field) == 401
    assert get(door, "/", "Set-" + field, "Cookie2: __Host-wssd=" + P).status == 401


@pytest.mark.parametrize("two", ["Authorization", "Cookie"])
def test_two_fields(door, two):
    """What decides who may come in stands there once, however the two agree: 400 comes before 401 and before 101."""
    good = {"Authorization": "Basic " + P, "Cookie": "__Host-wssd=" + P}[two]
    for first, second in ((good, good), (good, ""), ("", good), ("", ""), ("x", good), (good, "a=b")):
        for name in (two, two.lower(), two.upper()):
            with door.connect() as c:
                r = c.request(extra=[(two, first), ("Accept", "*/*"), (name, second)])
                assert r.status == 400 and r.closing, (first, second, r)
                c.expect_eof()
    assert upgrade(door, "/pages", (two, good), (two, good)) == 400
    assert upgrade(door, "/echo", (two, good), (two, good)) == 400


def test_longest(wssd, files, tmp_path):
    """256 characters of base64 are accepted, and set as a cookie whole; the next longer are not."""
    longest, longer = "u:" + "p" * 190, "u:" + "p" * 191
    assert len(coded(longest)) == 256 and len(coded(longer)) == 260
    s = wssd("--auth", write(tmp_path / "c", digest(longest), digest(longer)), root=files["www"])
    r = get(s, "/", *basic(longest))
    assert r.status == 200 and r.get("Set-Cookie") == "__Host-wssd=%s%s" % (coded(longest), KEPT)
    assert get(s, "/", *cookie(longest)).status == 200
    assert get(s, "/", *basic(longer)).status == 401 and get(s, "/", *cookie(longer)).status == 401
    for n in range(1, 8):  # each length of padding
        text = "u:" + "p" * n
        write(tmp_path / "c", digest(text))
        reload(s)
        assert get(s, "/", *basic(text)).get("Set-Cookie") == "__Host-wssd=%s%s" % (coded(text), KEPT)
        assert get(s, "/", *cookie(text)).status == 200 and get(s, "/", *cookie(text[:-1])).status == 401


def test_every_byte(wssd, files, tmp_path):
    """A credential of Basic may have any bytes, a NUL and the whole alphabet of base64 with it."""
    text = b"u:" + bytes(range(256))[:188]
    other = b"u:" + bytes(range(256))[160:]
    s = wssd("--auth", write(tmp_path / "c", digest(text), digest(other)), root=files["www"])
    assert {"+", "/"} <= set(coded(text) + coded(other))
    for t in (text, other):
        assert get(s, "/", *basic(t)).status == 200 and get(s, "/", *cookie(t)).status == 200
        assert get(s, "/", *basic(t[:-1] + b"\0")).status == 401


def test_nothing_is_no_credential(wssd, files, tmp_path):
    """The digest of nothing stands in a file when making a credential failed; it lets nobody in."""
    s = wssd("--auth", write(tmp_path / "c", digest("")), "/x=echo,auth=" + str(tmp_path / "c"), root=files["www"])
    for field in ("Authorization: Bearer", "Authorization: Bearer ", "Authorization: Basic", "Authorization: Basic ",
                  "Authorization: Basic ==", "Authorization: Basic ====", "Authorization:", "Cookie: __Host-wssd=",
                  "Cookie: __Host-wssd=; a=b", "Cookie: __Host-wssd===", "Cookie: __Host-wssd"):
        assert get(s, "/", field).status == 401, field
        assert upgrade(s, "/x", field) == 401, field
    assert get(s, "/").status == 401


PIECES = ["Basic", "Bearer", "basic ", " ", "  ", "=", "==", ";", "; ", ",", "\t", '"', "__Host-wssd=", "a=b", P, Q, S,
          PERSON, PAGES, DEVICE, coded(DEVICE), "x", "A", "\xff", "%3D", "-", "_", ":"]
TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"


def allowed(authorization, cookies):
    """What the rules say, written a second time."""
    def opens(text):
        return text != b"" and digest(text) in [digest(t) for t in OPENS["pages"]]

    def decoded(text):
        return len(text) <= 256 and len(text) % 4 == 0 and re.fullmatch("[A-Za-z0-9+/]*={0,2}", text) and \
            opens(base64.b64decode(text))

    m = re.fullmatch("(%s) +(.*)" % TOKEN, authorization.strip(" \t"), re.S)
    if m and m[1].lower() == "bearer" and opens(m[2].encode("latin-1")):
        return True
    if m and m[1].lower() == "basic" and decoded(m[2]):
        return True
    pairs = [pair.lstrip(" ").partition("=") for pair in cookies.strip(" \t").split(";")]
    first = [value for name, equals, value in pairs if name == "__Host-wssd" and equals][:1]
    return any(decoded(value) for value in first)


def random_fields(door, seed, times):
    """Fields near the edge; each answer is what the rules say, and some of either kind come."""
    r, seen = random.Random(seed), {200: 0, 401: 0}

    def piece():
        return r.choice(PIECES)

    def near(text):
        for _ in range(r.choice((0, 0, 1, 1, 2))):
            i = r.randrange(len(text) + 1)
            text = text[:i] + r.choice(("", piece(), text[i:i + 1].swapcase())) + text[i + r.choice((0, 0, 1, 4)):]
        return text

    for _ in range(times):
        authorization = r.choice(("", "", near("Basic " + r.choice((P, Q, S))), near("Bearer " + r.choice((PAGES, PERSON))),
                                  "".join(piece() for _ in range(r.randrange(5)))))
        parts = [r.choice(("a=b", "x", near("__Host-wssd=" + r.choice((P, Q, S, coded(DEVICE)))), piece() + piece()))
                 for _ in range(r.randrange(4))]
        cookies = r.choice(("; ", "; ", ";", ";  ")).join(parts)
        want = 200 if allowed(authorization, cookies) else 401
        got = get(door, "/", "Authorization: " + authorization, "Cookie: " + cookies, tls=False).status
        assert got == want, (got, authorization, cookies)
        seen[got] += 1
    assert min(seen.values()) > times / 10, seen


@pytest.mark.parametrize("seed", range(4))
def test_random_fields(door, seed):
    random_fields(door, seed, 150)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(4))
def test_many_random_fields(door, seed):
    random_fields(door, 1000 + seed, 10000)


# ---------------------------------------------------------------------------------------------- on one connection


def test_each_request_by_itself(door):
    """A connection has no rights: what one request showed is nothing to the next; 401 closes."""
    for good in (basic(PERSON), bearer(PAGES), cookie(PERSON)):
        with door.connect() as c:
            for target, status in (("/", 200), ("/a.txt", 200), ("/missing", 404), ("/sub", 301), ("/", 200)):
                assert c.request("GET", target, extra=good).status == status
            check_401(c.request("GET", "/a.txt"))
            c.expect_eof()
        with door.connect() as c:
            assert c.request("GET", "/", extra=good).status == 200
            c.send(wsraw.upgrade_head("/device", c.host, extra=good))
            check_401(c.reply())
            c.expect_eof()
    with door.connect() as c:
        assert c.request("GET", "/", extra=basic(PERSON)).status == 200
        c.open("/device", extra=bearer(DEVICE)).send_text("another right, another request")
        c.expect_text("another right, another request")
        c.close_handshake()


def test_pipelined(door):
    """The right one, one without, the right one again: the third is not answered."""
    with door.connect() as c:
        one = wsraw.head("GET", "/a.txt", [("Host", c.host)] + basic(PERSON))
        c.send(one + wsraw.head("GET", "/a.txt", [("Host", c.host)]) + one)
        assert c.reply().body == b"a"
        check_401(c.reply())
        c.expect_eof()


def test_byte_by_byte(door):
    for tls in (True, False):
        with door.connect(tls, bytewise=True) as c:
            assert c.request("GET", "/", extra=basic(PERSON)).status == 200
            c.open("/pages", extra=cookie(PERSON)).send_text("slowly")
            c.expect_text("slowly")
            c.close_handshake()


def test_head_and_not_modified(door):
    """RFC 9110 section 9.3.2: as GET, without the body; the cookie comes with both and with 304."""
    kept = "__Host-wssd=%s%s" % (P, KEPT)
    r = get(door, "/", *basic(PERSON), method="HEAD")
    assert r.status == 200 and r.get("Set-Cookie") == kept and int(r.get("Content-Length")) == len(PAGE)
    check_401(get(door, "/", method="HEAD"))
    tag = r.get("ETag")
    r = get(door, "/", *basic(PERSON), ("If-None-Match", tag))
    assert r.status == 304 and r.get("Set-Cookie") == kept
    assert get(door, "/", ("If-None-Match", tag)).status == 401
    assert get(door, "/", ("If-None-Match", "*")).status == 401


def test_cookie_is_set(door):
    """By pages that Basic opened, and by nothing else."""
    for text, target in ((PERSON, "/"), (PAGES, "/a.txt"), (UTF8, "/")):
        r = get(door, target, *basic(text))
        assert r.status == 200 and r.all("Set-Cookie") == ["__Host-wssd=%s%s" % (coded(text), KEPT)]
        value = r.get("Set-Cookie").split(";")[0]
        assert get(door, "/", ("Cookie", value)).status == 200 and upgrade(door, "/pages", ("Cookie", value)) == 101
        assert upgrade(door, "/device", ("Cookie", value)) == 401
    for fields, target, status in ((bearer(PAGES), "/", 200), (cookie(PERSON), "/", 200), (basic(PERSON), "/missing", 404),
                                   (basic(PERSON), "/sub", 301), (basic(DEVICE), "/", 401),
                                   (basic(NOBODY) + cookie(PERSON), "/", 200), (bearer(PAGES) + cookie(PERSON), "/", 200)):
        r = get(door, target, *fields)
        assert r.status == status and r.all("Set-Cookie") == [], (target, r)
    with door.connect() as c:
        c.open("/pages", extra=basic(PERSON))
        assert c.reply_head.all("Set-Cookie") == []
    with door.connect() as c:
        r = c.request("GET", "/echo", extra=basic(PERSON))
        assert r.status == 426 and r.all("Set-Cookie") == []


def test_no_cookie_without_auth(wssd, files):
    """Where pages are free a Basic from somewhere means nothing, and nothing is kept of it."""
    s = wssd("/device=echo,auth=" + files["device"], root=files["www"])
    for fields in (basic(DEVICE), basic(NOBODY), bearer("x"), cookie("x"), ["Authorization: ", "Cookie: "]):
        r = get(s, "/", *fields)
        assert r.status == 200 and r.all("Set-Cookie") == []
    assert upgrade(s, "/device") == 401 and upgrade(s, "/device", *basic(DEVICE)) == 101 and upgrade(s, "/echo") == 101


def test_pages_alone(wssd, files):
    """--auth is for files and for what is not there; a route without auth= stays open, also with no files at all."""
    s = wssd("--auth", files["pages"])
    assert upgrade(s, "/echo") == 101 and get(s, "/").status == 401 and upgrade(s, "/missing") == 401
    assert get(s, "/", *basic(PERSON)).status == 404


# ---------------------------------------------------------------------------------------------- the order of answers


def test_order(door):
    """400 and 421 before 401; 401 before 403, 405 and 426: who may not come in learns no more than that."""
    foreign = ("Origin", "https://foreign.example")
    assert upgrade(door, "/device", foreign) == 401 and upgrade(door, "/device", foreign, *bearer(DEVICE)) == 403
    assert upgrade(door, "/device", foreign, *cookie(DEVICE)) == 403
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"):
        assert get(door, "/device", method=method).status == 401
        assert get(door, "/device", *bearer(DEVICE), method=method).status == 405
        if method != "HEAD":
            assert get(door, "/a.txt", method=method).status == 401
            assert get(door, "/a.txt", *bearer(PAGES), method=method).status == 405
    assert get(door, "/device").status == 401 and get(door, "/device", *bearer(DEVICE)).status == 426
    for changes in ({"Sec-WebSocket-Version": "12"}, {"Sec-WebSocket-Key": "x"}, {"Upgrade": "h2c"}):
        assert upgrade(door, "/device", changes=changes) == 401
        assert upgrade(door, "/device", *bearer(DEVICE), changes=changes) in (400, 426)
    with door.connect(False) as c:  # on ws:// a name that is not ours: DNS rebinding
        assert c.request("GET", "/", {"Host": "foreign.example"}).status == 421
    with door.connect(False) as c:
        assert c.request("GET", "/", {"Host": "foreign.example"}, basic(PERSON)).status == 421
    for bad in ([("Content-Length", "1")], [("Transfer-Encoding", "chunked")], ["no colon"], ["Host: again"]):
        assert get(door, "/", *bad).status == 400
    with door.connect() as c:
        assert c.request("BREW", "/").status == 501
    with door.connect() as c:
        assert c.request("GET", "/", extra=[("X", "y" * 9000)]).status == 431


# ---------------------------------------------------------------------------------------------- files of digests


def starts(wssd, files, path):
    return wssd("--auth", str(path), root=files["www"], probe=lambda s: None)


def test_forms_of_a_file(wssd, files, tmp_path):
    """Comments, blank lines, CRLF, capitals, spaces, a remark (as sha256sum's) behind the digest, no end at the end."""
    one, two, three, four, five = ["%s%d" % ("f0e1" * 15, i) for i in range(1000, 1005)]
    (tmp_path / "c").write_bytes(
        b"# who may come in\r\n\r\n" + digest(one).upper().encode() + b"\r\n   \t\n\n  " + digest(two).encode() + b"   \n" +
        digest(three).encode() + b" # the third\n#" + digest(NOBODY).encode() + b"\n\t" + digest(four).encode() +
        b"  -\n" +
        digest(five)[:32].upper().encode() + digest(five)[32:].encode())
    s = starts(wssd, files, tmp_path / "c")
    for text in (one, two, three, four, five):
        for form in FORMS.values():
            assert get(s, "/", *form(text)).status == 200, text
    assert get(s, "/", *bearer(NOBODY)).status == 401


def test_file_that_is_empty(wssd, files, tmp_path):
    """It is a valid file: nobody may come in."""
    for content in ("", "\n", "# nobody\n\n", "#" + digest(PAGES)):
        (tmp_path / "c").write_text(content)
        assert wssd.run("--auth", tmp_path / "c", "--check").returncode == 0
    s = starts(wssd, files, tmp_path / "c")
    for form in FORMS.values():
        assert get(s, "/", *form(PAGES)).status == 401


def test_as_many_as_fit(wssd, files, tmp_path):
    """1,024 in all; first and last count."""
    texts = ["%064x" % i for i in range(1024)]
    write(tmp_path / "c", *map(digest, texts[:1000]))
    write(tmp_path / "d", *map(digest, texts[1000:]))
    s = wssd("--auth", tmp_path / "c", "/d=echo,auth=%s" % (tmp_path / "d"), root=files["www"])
    for text in (texts[0], texts[999]):
        assert get(s, "/", *bearer(text)).status == 200 and upgrade(s, "/d", *bearer(text)) == 401
    for text in (texts[1000], texts[1023]):
        assert get(s, "/", *bearer(text)).status == 401 and upgrade(s, "/d", *bearer(text)) == 101


D = digest(PAGES)
BROKEN = {
    "63": (D + "\n" + D[:-1] + "\n", 2), "65": (D + "0\n", 1), "not-hex": (D + "\n\n" + D[:-1] + "g\n", 3),
    "late": ("- " + D + "\n", 1), "prefix": ("sha256:" + D + "\n", 1), "glued": (D + "#x", 1), "0x": ("0x" + D[2:], 1),
    "colons": (":".join(D[i:i + 2] for i in range(0, 64, 2)), 1), "base64": (base64.b64encode(bytes.fromhex(D)).decode(), 1),
    "text": ("anna:secret\n", 1), "bom": ("\ufeff" + D, 1), "semicolon": ("; comment\n" + D, 1),
    "split": (D[:32] + "\n" + D[32:], 1),
    "too-many": ((D + "\n") * 1025, 1025), "nul": (D + "\n\0\n", None), "large": ("#" * (1 << 20), None),
    "missing": (None, None), "directory": (None, None), "binary": ("\x01\x02\x7f" * 20, 1),
}


def broken(path, how):
    if os.path.isdir(path):
        os.rmdir(path)
    elif os.path.exists(path):
        os.unlink(path)
    if how == "directory":
        os.mkdir(path)
    elif how != "missing":
        with open(path, "w", newline="", encoding="utf-8") as f:
            f.write(BROKEN[how][0])


@pytest.mark.parametrize("how", BROKEN)
def test_broken_file(wssd, files, tmp_path, how):
    """One sentence that names file and line, for --auth and auth=, at the start and with --check; exit status 1. And the
    sentence does not tell the line's text, which may be a secret at the wrong place."""
    path = str(tmp_path / "creds")
    broken(path, how)
    for words in (["--auth", path], ["/x=echo,auth=" + path], ["--auth", path, "--check"]):
        r = wssd.run(*words, root=files["www"])
        assert r.returncode == 1 and len(r.stderr.splitlines()) == 1 and "creds" in r.stderr, r
        line = BROKEN[how][1]
        assert line is None or re.search(r"creds:%d: " % line, r.stderr), r.stderr
        assert "secret" not in r.stderr and D[:32] not in r.stderr


def test_file_in_the_configuration(wssd, files, certs, tmp_path):
    conf = write(tmp_path / "conf", "auth " + files["pages"], "/device=echo,auth=" + files["device"],
                 "root %s" % files["www"])
    assert wssd.run("--config", conf, "--check").returncode == 0
    s = wssd("--config", conf)
    assert get(s, "/").status == 401 and get(s, "/", *basic(PERSON)).status == 200
    assert upgrade(s, "/device", *basic(PERSON)) == 401 and upgrade(s, "/device", *bearer(DEVICE)) == 101
    broken(str(tmp_path / "c"), "63")
    r = wssd.run("--config", write(tmp_path / "conf2", "/device=echo,auth=%s" % (tmp_path / "c")), "--check")
    assert r.returncode == 1 and "c:2: " in r.stderr, r


# ---------------------------------------------------------------------------------------------- reload


def reload(s, refused=None):
    here = s.here()
    s.hup()
    s.wait_log(r"\breloaded$" if refused is None else r"reload refused: .*" + refused, since=here)


def test_removed_line(wssd, files, tmp_path):
    """It admits nobody any more, on connections that are open as well; a WebSocket that is open stays."""
    path = write(tmp_path / "c", digest(PERSON), digest(PAGES))
    s = wssd("--auth", path, "/x=echo,auth=" + path, plain=True, root=files["www"], probe="/echo")
    for tls in (True, False):
        write(path, digest(PERSON), digest(PAGES))
        reload(s)
        with s.connect(tls) as page, s.open("/x", tls, extra=basic(PERSON)) as socket_:
            assert page.request(extra=basic(PERSON)).status == 200
            write(path, "# " + digest(PERSON), digest(PAGES), digest(NOBODY))
            reload(s)
            check_401(page.request(extra=basic(PERSON)))
            page.expect_eof()
            for form in FORMS.values():
                assert get(s, "/", *form(PERSON), tls=tls).status == 401 and upgrade(s, "/x", *form(PERSON), tls=tls) == 401
                assert get(s, "/", *form(PAGES), tls=tls).status == 200 and upgrade(s, "/x", *form(NOBODY), tls=tls) == 101
            socket_.send_text("here first")
            socket_.expect_text("here first")


def test_reload_without_tls(wssd, files, tmp_path):
    path = write(tmp_path / "c", digest(PERSON))
    s = wssd("--auth", path, tls=False, root=files["www"])
    write(path, digest(PAGES))
    assert get(s, "/", *basic(PERSON)).status == 200
    reload(s)
    assert get(s, "/", *basic(PERSON)).status == 401 and get(s, "/", *bearer(PAGES)).status == 200
    broken(path, "65")
    reload(s, "c:1: ")
    assert get(s, "/", *bearer(PAGES)).status == 200


def peer(s):
    with s.connect() as c:
        return c.tls.getpeercert(True)


def copied(pair, to):
    for a, b in zip(pair, to):
        with open(a, "rb") as f, open(b, "wb") as g:
            g.write(f.read())


def der(pair):
    with open(pair.cert) as f:
        return ssl.PEM_cert_to_DER_cert(f.read())


@pytest.mark.parametrize("how", ["63", "65", "missing", "directory", "too-many", "nul", "text", "large"])
@pytest.mark.parametrize("where", ["pages", "route"])
def test_bad_file_refuses_the_reload(wssd, files, certs, tmp_path, how, where):
    """Of everything: the other file and the certificate stay as they were; and once it is mended all is taken."""
    ours = Pair(str(tmp_path / "cert"), str(tmp_path / "key"))
    copied(certs.ec, ours)
    bad, good = str(tmp_path / "bad"), str(tmp_path / "good")
    write(bad, digest(PERSON))
    write(good, digest(DEVICE))
    pages, route = (bad, good) if where == "pages" else (good, bad)
    s = wssd("--auth", pages, "/x=echo,auth=" + route, cert=ours, plain=True, root=files["www"])
    text, other = (PERSON, DEVICE) if where == "pages" else (DEVICE, PERSON)

    def is_old():
        for _ in range(2):
            assert get(s, "/", *basic(text), tls=False).status == 200 and upgrade(s, "/x", *basic(other), tls=False) == 101
            assert get(s, "/", *bearer(NOBODY), tls=False).status == 401
            assert upgrade(s, "/x", *bearer(NOBODY), tls=False) == 401
        return peer(s) == der(certs.ec)

    assert is_old()
    other_pair = certs.make("p384")
    copied(other_pair, ours)
    write(good, digest(NOBODY))
    broken(bad, how)
    reload(s, "bad")
    assert is_old()
    reload(s, "bad")
    assert is_old()
    if how == "directory":
        os.rmdir(bad)
    write(bad, digest(NOBODY))
    reload(s)
    assert get(s, "/", *basic(text), tls=False).status == 401 and upgrade(s, "/x", *basic(other), tls=False) == 401
    assert get(s, "/", *bearer(NOBODY), tls=False).status == 200 and upgrade(s, "/x", *bearer(NOBODY), tls=False) == 101
    assert peer(s) == der(other_pair)


@pytest.mark.parametrize("what", ["cert", "key", "ca"])
def test_bad_certificate_refuses_the_credentials(wssd, files, certs, tmp_path, what):
    """And the other way round: a new file of credentials waits for a whole set."""
    ours, ca = Pair(str(tmp_path / "cert"), str(tmp_path / "key")), str(tmp_path / "ca")
    copied(certs.ec, ours)
    copied((certs.cert,), (ca,))
    path = write(tmp_path / "c", digest(PERSON))
    s = wssd("--auth", path, cert=ours, root=files["www"], probe=lambda s: None,
             listen=["ws://127.0.0.1:0", "wss://127.0.0.1:0,client-ca=" + ca])
    write(path, digest(PAGES))
    write(tmp_path / what, "nothing of the kind")
    reload(s, re.escape(str(tmp_path / what)))
    assert get(s, "/", *basic(PERSON)).status == 200 and get(s, "/", *bearer(PAGES)).status == 401
    copied(certs.ec, ours)
    copied((certs.cert,), (ca,))
    reload(s)
    assert get(s, "/", *basic(PERSON)).status == 401 and get(s, "/", *bearer(PAGES)).status == 200


def test_many_reloads(wssd, files, tmp_path):
    """The two sets change places again and again, and none leaks into the other."""
    path, second = write(tmp_path / "c"), write(tmp_path / "d")
    s = wssd("--auth", path, "/d=echo,auth=" + second, tls=False, root=files["www"])
    for i in range(12):
        write(path, *[digest("c%d" % j) for j in range(i, i + 1 + i % 5)])
        write(second, *[digest("d%d" % j) for j in range(i, i + 1 + (i + 2) % 5)])
        reload(s)
        assert get(s, "/", *bearer("c%d" % i)).status == 200 and upgrade(s, "/d", *bearer("d%d" % i)) == 101
        for old in ("c%d" % (i - 1), "d%d" % i, "c%d" % (i + 6)):
            assert get(s, "/", *bearer(old)).status == 401


# ---------------------------------------------------------------------------------------------- the log


def test_denied_is_counted(wssd, files):
    """One warning for each second in which there was something, and its numbers make the sum."""
    s = wssd("--auth", files["pages"], tls=False, root=files["www"])
    start = time.monotonic()
    assert s.counters()["denied"] == 0
    for _ in range(7):
        assert get(s, "/").status == 401
    assert get(s, "/", *basic(PERSON)).status == 200 and upgrade(s, "/echo") == 101
    assert s.counters()["denied"] == 7 and s.counters()["refused"] == 0

    def warned():
        return [int(m.group(1)) for m in (re.search(r"refused 0: max-clients, max-per-ip, proxy; (\d+): credentials$", line)
                                          for line in s.lines()) if m]

    peers.until(lambda: sum(warned()) == 7)
    assert len(warned()) <= time.monotonic() - start + 2 and 0 not in warned(), s.lines()
    here = s.here()
    assert get(s, "/").status == 401
    s.wait_log(r"refused 0: .*; 1: credentials$", since=here)
    assert sum(warned()) == 8 and s.counters()["denied"] == 8


def test_no_secret_in_the_log(door, files):
    """Whatever was shown, right or wrong, in whichever form, also with --verbose."""
    for form in FORMS.values():
        for text in (PERSON, PAGES, NOBODY):
            get(door, "/", *form(text))
            upgrade(door, "/device", *form(text))
    get(door, "/", ("Authorization", "Bearer"), ("Cookie", "__Host-wssd=" + P + "=; x=" + P))
    upgrade(door, "/device", ("Origin", "https://foreign.example"), *bearer(DEVICE))
    door.counters()
    log = "\n".join(door.lines())
    assert log.count(" 401 ") >= 6
    for text in (PERSON, PAGES, NOBODY, DEVICE, PERSON.split(":")[1]):
        for secret in (text, coded(text), digest(text), coded(text)[:20], text[:20]):
            assert secret not in log


# ---------------------------------------------------------------------------------------------- other people's clients


def curl(s, *args, path="/", ok=True, cwd=None):
    url = "https://127.0.0.1:%d%s" % (s.port, path)
    r = subprocess.run(["curl", "-q", "-s", "-S", "-k", "--max-time", str(20 * SLOW), url] + [str(a) for a in args], cwd=cwd,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30 * SLOW)
    assert not ok or r.returncode == 0, (args, r.stderr)
    return r.stdout


def test_curl(door, tmp_path):
    """Basic by -u and in the address, after a challenge, Bearer, and a cookie jar that keeps what was set."""
    code = ["-o", "out", "-w", "%{http_code} %{num_connects}"]
    assert curl(door, "-u", PERSON) == PAGE
    assert curl(door, "--oauth2-bearer", PAGES) == PAGE
    assert curl(door, "-H", "Authorization: bearer " + PAGES) == PAGE
    assert curl(door, "--anyauth", "-u", PERSON, *code, cwd=tmp_path) == b"200 2"  # 401, which closes, then the answer
    assert curl(door, "--anyauth", "--oauth2-bearer", PAGES, *code, cwd=tmp_path) == b"200 2"
    for args in ([], ["-u", "anna:wrong"], ["-u", "anna:"], ["--oauth2-bearer", DEVICE], ["-b", "__Host-wssd=x"],
                 ["-u", PERSON + "x"], ["--digest", "-u", PERSON], ["--basic"]):
        assert curl(door, *args, *code, cwd=tmp_path)[:3] == b"401", args
    assert curl(door, "-I", "-u", PERSON).startswith(b"HTTP/1.1 200 ")
    assert curl(door, "-I").startswith(b"HTTP/1.1 401 ")
    # a jar: set by the page, sent to it again, and to nobody whose file is another
    assert curl(door, "-u", PERSON, "-c", "jar", cwd=tmp_path) == PAGE
    jar = (tmp_path / "jar").read_text()
    assert re.search(r"^#HttpOnly_127\.0\.0\.1\tFALSE\t/\tTRUE\t0\t__Host-wssd\t%s$" % re.escape(P), jar, re.M), jar
    assert curl(door, "-b", "jar", cwd=tmp_path) == PAGE
    assert curl(door, "-b", "jar", *code, path="/device", cwd=tmp_path)[:3] == b"401"
    assert curl(door, "-b", "jar", *code, path="/pages", cwd=tmp_path)[:3] == b"426"
    # several on one connection: the rights are each request's own
    words = ["-s", "-k", "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n"]
    with_it = words + ["-u", PERSON, "https://127.0.0.1:%d/" % door.port]
    without = words + ["https://127.0.0.1:%d/a.txt" % door.port]
    out = subprocess.run(["curl", "-q", *with_it, "--next", *without, "--next", *with_it],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=30 * SLOW).stdout
    assert out == b"200 1\n401 0\n200 1\n"


def s_client(s, data):
    return subprocess.run(["openssl", "s_client", "-connect", "127.0.0.1:%d" % s.port, "-quiet", "-ign_eof"], input=data,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30 * SLOW).stdout


def test_openssl(door):
    """Raw heads through openssl: a page, an upgrade, several on one connection."""
    host = [("Host", "localhost")]
    for fields in (basic(PERSON), bearer(PAGES), cookie(PERSON)):
        out = s_client(door, wsraw.head(headers=host + fields) + wsraw.head(target="/a.txt", headers=host))
        assert out.startswith(b"HTTP/1.1 200 ") and out.count(b"HTTP/1.1 ") == 2
        assert b"\r\n\r\n" + PAGE + b"HTTP/1.1 401 " in out
        frames = wsraw.frame(wsraw.TEXT, b"from openssl") + wsraw.frame(wsraw.CLOSE, b"\x03\xe8")
        out = s_client(door, wsraw.upgrade_head("/pages", extra=fields) + frames)
        assert out.startswith(b"HTTP/1.1 101 ") and out.endswith(b"\x81\x0cfrom openssl\x88\x02\x03\xe8")
        out = s_client(door, wsraw.upgrade_head("/device", extra=fields) + frames)
        assert out.startswith(b"HTTP/1.1 401 ") and b"from openssl" not in out
        assert all(("WWW-Authenticate: %s\r\n" % c).encode() in out for c in CHALLENGES)


NODE = """
const WebSocket = require("ws");
const [url, options] = [process.argv[1], JSON.parse(process.argv[2])];
const ws = new WebSocket(url, Object.assign({ rejectUnauthorized: false, handshakeTimeout: 15000 }, options));
ws.on("open", () => ws.send("from node"));
ws.on("message", d => { console.log(String(d)); ws.close(); });
ws.on("unexpected-response", (q, r) => { console.log(r.statusCode, r.headers["www-authenticate"]); process.exit(); });
ws.on("error", e => { console.log("error", e.message); process.exit(); });
"""


def test_node(door):
    """Headers, and user:password in the address, as a program on a device has it."""
    env = dict(os.environ, NODE_TLS_REJECT_UNAUTHORIZED="0", NODE_NO_WARNINGS="1", NODE_PATH="/usr/share/nodejs")

    def run(target, options="{}", user=""):
        r = subprocess.run(["node", "-e", NODE, "wss://%s127.0.0.1:%d%s" % (user, door.port, target), options],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30 * SLOW,
                           env=env)
        return r.stdout.decode().strip()

    assert run("/device", '{"headers": {"Authorization": "Bearer %s"}}' % DEVICE) == "from node"
    assert run("/device", '{"auth": "dev:%s"}' % DEVICE) == "from node"
    assert run("/pages", user=PERSON + "@") == "from node"
    assert run("/pages", '{"headers": {"Cookie": "__Host-wssd=%s"}}' % P) == "from node"
    assert run("/device") == "401 " + ", ".join(CHALLENGES)
    assert run("/device", user=PERSON + "@").startswith("401 ")


def test_python(door):
    """python3-websockets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def talk(target, user="", **kw):
        try:
            async with websockets.connect("wss://%slocalhost:%d%s" % (user, door.port, target), ssl=context, **kw) as ws:
                await ws.send("from python")
                return await ws.recv()
        except websockets.InvalidStatusCode as e:
            return e.status_code

    def run(*args, **kw):
        return asyncio.run(asyncio.wait_for(talk(*args, **kw), 20 * SLOW))

    assert run("/pages", PERSON + "@") == "from python"
    assert run("/device", extra_headers={"Authorization": "Bearer " + DEVICE}) == "from python"
    assert run("/device", PERSON + "@") == 401 and run("/device") == 401


# ---------------------------------------------------------------------------------------------- Chromium


SOCKET = """
const [url, done] = arguments;
const ws = new WebSocket(url);
ws.onopen = () => ws.send("from a page");
ws.onmessage = e => { done(e.data); ws.onclose = null; ws.close(1000); };
ws.onclose = e => done(e.code);
"""
FETCH = """
const [url, done] = arguments;
fetch(url, { cache: "no-store" }).then(r => r.text().then(t => done([r.status, t])), e => done([0, e.name]));
"""


def shows(b, fields):
    """What the browser adds to its pages' requests from now on, unlike a password that it would remember by itself."""
    b.driver.execute_cdp_cmd("Network.enable", {})
    b.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": dict(fields)})


def test_chromium(wssd, browser, files, tmp_path):  # noqa: F811
    """The page is opened by Basic; from then on the cookie opens the page's WebSockets, where their file is the page's;
    scripts do not see it, other sites' pages do not use it, and other origins of the site are stopped by their Origin."""
    pages = write(tmp_path / "pages", digest(PERSON))
    s = wssd("--auth", pages, "/pages=echo,auth=" + pages, "/device=echo,auth=" + files["device"], "--max-per-ip", "0",
             root=files["www"])
    other = wssd(root=files["www"])
    b = browser(any_certificate=True)
    home = "https://127.0.0.1:%d/" % s.port

    def run(script, target, scheme="https"):
        return b.driver.execute_async_script(script, "%s://127.0.0.1:%d%s" % (scheme, s.port, target))

    def ended(line, here):
        s.wait_log(r"^127\.0\.0\.1:\d+ \S+ %s " % line, since=here)

    shows(b, basic(PERSON))
    b.get(home)
    assert b.driver.title == "inside"
    shows(b, [])
    (kept,) = b.driver.execute_cdp_cmd("Network.getCookies", {})["cookies"]
    assert (kept["name"], kept["value"], kept["domain"], kept["path"]) == ("__Host-wssd", P, "127.0.0.1", "/")
    assert kept["secure"] and kept["httpOnly"] and kept["session"] and kept["sameSite"] == "Strict"
    assert b.js("document.cookie = '__Host-wssd=x; Path=/; Secure'; return document.cookie") == ""
    assert run(FETCH, "/a.txt") == [200, "a"]
    assert run(SOCKET, "/pages", "wss") == "from a page"
    b.driver.refresh()
    assert b.driver.title == "inside" and run(SOCKET, "/pages", "wss") == "from a page"
    assert s.counters()["denied"] == 0
    here = s.here()
    assert run(SOCKET, "/device", "wss") == 1006
    ended("/device 401", here)

    # another site: the cookie stays at home, even for what needs no answer
    b.get("https://localhost:%d/" % other.port)
    assert b.driver.title == "inside"
    here = s.here()
    assert run(SOCKET, "/pages", "wss") == 1006
    ended("/pages 401", here)
    b.js("new Image().src = arguments[0]", home + "a.txt")
    ended("/a.txt 401", here)
    # another port of this machine is the same site to the cookie, and another origin to us
    b.get("https://127.0.0.1:%d/" % other.port)
    here = s.here()
    assert run(SOCKET, "/pages", "wss") == 1006
    ended("/pages 403 .*: foreign Origin: --origin https://127.0.0.1:%d would" % other.port, here)

    # the credential is taken away: the cookie is worth nothing; it is given back
    b.get(home)
    assert run(SOCKET, "/pages", "wss") == "from a page"
    write(pages, digest(PAGES))
    reload(s)
    assert run(SOCKET, "/pages", "wss") == 1006
    write(pages, digest(PERSON))
    reload(s)
    assert run(SOCKET, "/pages", "wss") == "from a page"
    b.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    here = s.here()
    assert run(SOCKET, "/pages", "wss") == 1006
    ended("/pages 401", here)

    # as a person does it: user and password, here in the address
    b.get(home.replace("://", "://%s@" % PERSON))
    assert b.driver.title == "inside" and run(SOCKET, "/pages", "wss") == "from a page"
    assert [c["value"] for c in b.driver.execute_cdp_cmd("Network.getCookies", {})["cookies"]] == [P]


class Attacker(http.server.BaseHTTPRequestHandler):
    """The page of a foreign name."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "36")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>caught</title>")
        self.close_connection = True

    def log_message(self, *_):
        pass


class Rebound(http.server.ThreadingHTTPServer):
    """A browser also opens connections on which it says nothing yet: they must end with the server."""

    block_on_close, open = False, ()

    def get_request(self):
        sock, address = super().get_request()
        self.open += (sock,)
        return sock, address

    def hang_up(self):
        for sock in self.open:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def test_chromium_rebinding(wssd, browser, files):  # noqa: F811
    """DNS rebinding as it happens: the page comes from the attacker's server under his name, then the name leads to the
    gateway. To the browser it is one origin; to us the Host is not ours: 421 for pages and WebSockets. --host lets it in."""
    b = browser("--host-resolver-rules=MAP rebound.example 127.0.0.1")
    for allowed in ([], ["--host", "rebound.example"]):
        with Rebound(("127.0.0.1", 0), Attacker) as server:
            port = server.server_port
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            b.get("http://rebound.example:%d/" % port)
            assert b.driver.title == "caught"
            server.shutdown()
            thread.join(10)
            server.hang_up()
        s = wssd(*allowed, listen=["ws://127.0.0.1:%d" % port], root=files["www"],
                 probe="/echo" if not allowed else lambda s: None)
        status, text = b.driver.execute_async_script(FETCH, "/index.html")
        said = b.driver.execute_async_script(SOCKET, "ws://rebound.example:%d/echo" % port)
        if allowed:
            assert (status, text, said) == (200, PAGE.decode(), "from a page")
        else:
            assert (status, said) == (421, 1006) and "inside" not in text
            s.wait_log(r" /index\.html 421 .*: not our name: see --host$")
            s.wait_log(r" /echo 421 ")
            assert s.counters()["upgrades"] == 0
            assert b.driver.execute_async_script(SOCKET, "ws://127.0.0.1:%d/echo" % port) == 1006
            s.wait_log(r" /echo 403 .*: foreign Origin: --origin http://rebound\.example:%d would" % port)


# ---------------------------------------------------------------------------------------------- the README's recipe


def test_readme_credentials():
    """As it stands there: who was made comes in where he should, and who was removed does not."""
    recipe = recipes.recipe("Credentials")
    person, device, serve, remove = recipe.sh
    with recipes.Box() as box:
        box.run("mkdir /root/broken && ln -s /bin/false /root/broken/openssl && ln -s /bin/false /root/broken/head")
        for block, file in ((person, "people"), (device, "devices")):  # what failed adds no credential
            assert box.run("export PATH=/root/broken:$PATH\n" + block, check=False).returncode != 0
            assert box.run("cat /etc/wssd/" + file, check=False).stdout == ""
        said = box.run(person).stdout
        name, password = re.match(r"user (\w+), password ([0-9a-f]{64})\n$", said).groups()
        token = re.match(r"token ([0-9a-f]{64})\n$", box.run(device).stdout).group(1)
        assert box.run(device).stdout != "token %s\n" % token  # another each time
        for file, text in (("people", "%s:%s" % (name, password)), ("devices", token)):
            lines = box.run("cat /etc/wssd/" + file).stdout.splitlines()
            assert any(line.startswith(digest(text) + "  ") for line in lines) and digest("anna:") not in str(lines)
        job = box.start(serve)
        job.wait_log(r"listening on wss://0\.0\.0\.0:8443")
        box.wait_port(8443)

        def status(target, *fields, up=True):
            with box.net():
                c = wsraw.connect(8443, True)
            with c:
                c.send(wsraw.upgrade_head(target, c.host, extra=fields) if up else
                       wsraw.head("GET", target, [("Host", c.host)] + list(fields)))
                r = c.reply()
                return r.status, r.get("Set-Cookie", "").split(";")[0]

        pair = "%s:%s" % (name, password)
        code, kept = status("/", *basic(pair), up=False)
        assert code == 200 and kept == "__Host-wssd=" + coded(pair)
        assert status("/", up=False)[0] == 401 and status("/chat")[0] == 401 and status("/report")[0] == 401
        assert status("/chat", ("Cookie", kept))[0] == 101 and status("/report", ("Cookie", kept))[0] == 401
        assert status("/report", *bearer(token))[0] == 101 and status("/chat", *bearer(token))[0] == 401
        box.run(remove)
        job.wait_log(r"\breloaded$")
        assert status("/", *basic(pair), up=False)[0] == 401 and status("/chat", ("Cookie", kept))[0] == 401
        assert status("/report", *bearer(token))[0] == 101
