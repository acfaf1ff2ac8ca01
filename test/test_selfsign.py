"""wssd-selfsign: the key, the certificate, when it is renewed, what is never overwritten, who accepts it."""

import base64
import calendar
import datetime
import fcntl
import hashlib
import os
import random
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import textwrap

import pytest

from conftest import LIBC

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE = os.path.join(TOP, "dist", "selfsign.c")
SLOW = float(os.environ.get("WSSD_SLOW", "1"))
WARNINGS = ("-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wmissing-prototypes -Wvla -Wformat=2 -Werror").split()
BUILT = 1700000000  # the build date of what the tests build themselves: 2023-11-14
DAY = 86400

# The clock of the process is what FAKE_NOW says.
CLOCK = """
#include <stdlib.h>
#include <time.h>
time_t
time(time_t *into)
{
	time_t now = (time_t)atoll(getenv("FAKE_NOW"));

	if (into) {
		*into = now;
	}
	return now;
}
"""


def run(*words, data=None, **kw):
    return subprocess.run([str(w) for w in words], input=data, stdin=None if data else subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60 * SLOW, **kw)


def openssl(*words, **kw):
    r = run("openssl", *words, **kw)
    assert r.returncode == 0, "openssl %s: %s" % (words, r.stderr.decode(errors="replace"))
    return r.stdout.decode()


def read(path):
    with open(str(path), "rb") as f:
        return f.read()


def write(path, data):
    with open(str(path), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    return str(path)


def pem_to_der(pem):
    return base64.b64decode(re.search(rb"BEGIN [^-]*-----\n(.*?)-----END", pem, re.S).group(1))


def der_to_pem(der, name="CERTIFICATE"):
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(["-----BEGIN %s-----" % name] + lines + ["-----END %s-----" % name, ""]).encode()


# ---------------------------------------------------------------------------------------------- the tools under test


def compiler():
    return shlex.split(os.environ.get("CC", "cc"))


def search_bearssl():
    prefix = os.environ.get("BEARSSL", "")
    return ["-isystem", prefix + "/inc", "-isystem", prefix + "/include", "-L" + prefix + "/build",
            "-L" + prefix + "/lib"] if prefix else []


def compile_into(directory, name, *flags):
    out = os.path.join(str(directory), name)
    r = run(*compiler(), "-std=c11", *flags, *search_bearssl(), "-o", out, SOURCE, "-lbearssl")
    assert r.returncode == 0, r.stderr.decode()
    return out


@pytest.fixture(scope="session")
def shipped():
    """The binary that `make` leaves."""
    if "WSSD_SELFSIGN" in os.environ:
        return os.environ["WSSD_SELFSIGN"]
    with open(SOURCE) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        r = run("make", "-s", "wssd-selfsign", cwd=TOP)
        assert r.returncode == 0, r.stderr.decode()
    return os.path.join(TOP, "wssd-selfsign")


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory):
    return compile_into(tmp_path_factory.mktemp("sanitized"), "selfsign", "-g", "-O1", "-fsanitize=address,undefined",
                        "-fno-sanitize-recover=undefined", "-DBUILD_DATE=%d" % BUILT)


@pytest.fixture(scope="session")
def timeless(tmp_path_factory):
    """A binary with a known build date, and the library that gives it a clock."""
    directory = tmp_path_factory.mktemp("timeless")
    library = str(directory / "clock.so")
    r = run(*compiler(), "-shared", "-fPIC", "-o", library, write(directory / "clock.c", CLOCK))
    assert r.returncode == 0, r.stderr.decode()
    return compile_into(directory, "selfsign", "-O1", "-DBUILD_DATE=%d" % BUILT), library


class Tool:
    """wssd-selfsign in a directory of its own, with key.pem and cert.pem there."""

    def __init__(self, binary, path, clock=None):
        self.binary, self.path, self.clock = binary, path, clock
        self.key, self.cert = str(path / "key.pem"), str(path / "cert.pem")

    def __call__(self, *words, now=None, status=0, **kw):
        env = dict(os.environ)
        if now is not None:
            env.update(LD_PRELOAD=self.clock, FAKE_NOW=str(int(now)))
        r = run(self.binary, "--key", self.key, "--cert", self.cert, *words, env=env, **kw)
        self.out, self.err = r.stdout.decode(), r.stderr.decode()
        said = "status %d, stdout %r, stderr %r" % (r.returncode, self.out, self.err)
        assert not re.search("Sanitizer|runtime error", self.err), self.err
        assert "bug:" not in self.err, said
        assert r.returncode in (status if isinstance(status, tuple) else (status,)), said
        assert not self.temporary(), said
        return r.returncode

    def temporary(self):
        return [f for f in os.listdir(str(self.path)) if re.search(r"\.pem\.\w{6}$", f)]

    def text(self):
        return openssl("x509", "-in", self.cert, "-noout", "-text")

    def field(self, *words):
        return openssl("x509", "-in", self.cert, "-noout", *words).strip()

    def serial(self):
        return self.field("-serial")

    def times(self):
        """notBefore and notAfter as seconds since 1970."""
        found = [line.split("=")[1] for line in self.field("-startdate", "-enddate").splitlines()]
        return [calendar.timegm(datetime.datetime.strptime(t, "%b %d %H:%M:%S %Y GMT").timetuple()) for t in found]

    def time_tags(self):
        """What encodes the two times."""
        parsed = openssl("asn1parse", "-in", self.cert)
        return [(kind, text) for kind, text in re.findall(r"(UTCTIME|GENERALIZEDTIME) *:(\w+)", parsed)]

    def matches(self):
        return openssl("pkey", "-in", self.key, "-pubout") == openssl("x509", "-in", self.cert, "-noout", "-pubkey")

    def made(self):
        """Key and certificate are whole, belong together, and the certificate is signed by the key."""
        openssl("verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslserver", "-no_check_time", "-CAfile",
                self.cert, self.cert)
        return self.matches()


@pytest.fixture
def tool(shipped, tmp_path):
    return Tool(shipped, tmp_path)


@pytest.fixture
def timed(timeless, tmp_path):
    return Tool(timeless[0], tmp_path, timeless[1])


# ---------------------------------------------------------------------------------------------- key and certificate


def extensions(text):
    """Name, criticality and value, in order."""
    part = text.split("X509v3 extensions:\n")[1].split("    Signature Algorithm")[0]
    return [(name, critical.strip(), value.strip()) for name, critical, value in
            re.findall(r"^ {12}(X509v3 [^:]+): ?(.*)\n {16}(.*)$", part, re.M)]


def test_certificate(tool):
    tool("gw.lan", "*.gw.lan", "localhost", "127.0.0.1", "::1", "2001:DB8::0:5")
    text = tool.text()
    assert "Version: 3 (0x2)" in text
    assert re.findall(r"Signature Algorithm: (.*)", text) == ["ecdsa-with-SHA256"] * 2
    assert re.findall(r"(?:Issuer|Subject): (.*)", text) == ["CN = gw.lan"] * 2
    assert "Public-Key: (256 bit)" in text and "NIST CURVE: P-256" in text
    point = bytes.fromhex(re.sub(r"[\s:]", "", re.search(r"pub:\n(.*?) *ASN1 OID", text, re.S).group(1)))
    identifier = hashlib.sha256(point).digest()[:20].hex(":").upper()  # RFC 7093 2
    assert extensions(text) == [
        ("X509v3 Basic Constraints", "critical", "CA:FALSE"),
        ("X509v3 Key Usage", "critical", "Digital Signature"),
        ("X509v3 Extended Key Usage", "", "TLS Web Server Authentication"),
        ("X509v3 Subject Key Identifier", "", identifier),
        ("X509v3 Subject Alternative Name", "",
         "DNS:gw.lan, DNS:*.gw.lan, DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, "
         "IP Address:2001:DB8:0:0:0:0:0:5")]
    assert text.count("X509v3 ") == 6  # those five and the title
    assert tool.made()
    assert os.stat(tool.cert).st_mode & 0o7777 == 0o644


def test_der_is_der(tool):
    """Encoded again by OpenSSL, not a byte differs."""
    tool("gw.lan", "::1")
    again = run("openssl", "x509", "-in", tool.cert, "-outform", "DER").stdout
    assert pem_to_der(read(tool.cert)) == again
    assert read(tool.cert) == der_to_pem(again)


def test_serial_numbers_are_random_and_positive(tool):
    seen = set()
    for _ in range(8):
        tool("gw.lan")
        number = tool.serial().split("=")[1]
        assert re.fullmatch("[4-7][0-9A-F]{31}", number)  # 16 bytes, the sign bit clear
        seen.add(number)
    assert len(seen) == 8


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_key(tool, umask):
    tool("gw.lan", preexec_fn=lambda: os.umask(umask))
    assert os.stat(tool.key).st_mode & 0o7777 == 0o600
    assert os.stat(tool.cert).st_mode & 0o7777 == 0o644
    assert "Key is valid" in openssl("pkey", "-in", tool.key, "-check", "-noout")
    assert read(tool.key).startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert os.stat(tool.key).st_nlink == 1
    assert sorted(os.listdir(str(tool.path))) == ["cert.pem", "key.pem"]


def test_keys_differ(tool, tmp_path):
    tool("gw.lan")
    first = read(tool.key)
    os.unlink(tool.key)
    tool("gw.lan")
    assert read(tool.key) != first and tool.made()


def test_fingerprint(tool):
    tool("gw.lan")
    assert tool.field("-fingerprint", "-sha256").split("=")[1] in tool.out


@pytest.mark.parametrize("days", [1, 30, 825])
def test_days(tool, days):
    tool("--days", days, "gw.lan")
    start, end = tool.times()
    assert end - start == days * DAY - 1  # RFC 5280 4.1.2.5: both ends belong to it


def test_default_days(tool):
    tool("gw.lan")
    start, end = tool.times()
    assert end - start == 825 * DAY - 1


def test_names_are_made_canonical_and_unique(tool):
    tool("GW.Lan", "gw.lan", "0:0::1", "::1", "my_box", "xn--bcher-kva.example", "1.example", "a-b.lan")
    assert extensions(tool.text())[-1][2] == ("DNS:gw.lan, IP Address:0:0:0:0:0:0:0:1, DNS:my_box, "
                                              "DNS:xn--bcher-kva.example, DNS:1.example, DNS:a-b.lan")


@pytest.mark.parametrize("name", ["192.0.2.7", "2001:db8::7", "*.gw.lan", "x"])
def test_first_name_is_the_subject(tool, name):
    tool(name)
    assert re.findall(r"(?:Issuer|Subject): (.*)", tool.text()) == ["CN = " + name] * 2
    assert tool.made()


def long_name(i, length=253):
    text = "n%d." % i + ".".join(["a" * 63] * 4)
    return text[:length - 2] + "zz"


def test_lengths_of_every_size(tool):
    """One, two and three bytes of length in DER, up to as many and as long names as there may be."""
    names = ["x"] + [long_name(i) for i in range(31)]
    assert {len(n) for n in names[1:]} == {253}
    for count in (1, 2, 3, 32):
        tool("--renew", 10, *names[:count])
        assert tool.made()
        assert extensions(tool.text())[-1][2] == ", ".join("DNS:" + n for n in names[:count])
        assert tool("--renew", 10, "--exit-code", *names[:count], status=3) == 3


# ---------------------------------------------------------------------------------------------- renewal


def state(tool):
    return read(tool.key), read(tool.cert), os.stat(tool.cert).st_ino


def test_nothing_to_do(tool):
    tool("--renew", 30, "gw.lan", "10.0.0.1")
    assert "new key" in tool.out and "there was none" in tool.out
    before = state(tool)
    tool("--renew", 30, "gw.lan", "10.0.0.1")
    assert "nothing to do" in tool.out
    tool("--renew", 30, "--exit-code", "GW.lan", "10.0.0.1", "gw.lan", status=3)
    tool("--renew", 824, "--days", 10, "gw.lan", "10.0.0.1")
    assert state(tool) == before


def renewed(tool, *words):
    """A run after which the key is the same and the certificate another."""
    before = state(tool)
    tool("--exit-code", *words)
    after = state(tool)
    assert after[0] == before[0] and after[1] != before[1] and after[2] != before[2]
    assert tool.made()


def test_without_renew_there_is_always_a_new_one(tool):
    tool("gw.lan")
    renewed(tool, "gw.lan")


def test_few_days_left(tool):
    tool("--days", 5, "gw.lan")
    tool("--renew", 4, "gw.lan")
    assert "nothing to do" in tool.out
    renewed(tool, "--days", 5, "--renew", 5, "gw.lan")
    renewed(tool, "--days", 5, "--renew", 10, "gw.lan")
    assert "ends soon" in tool.out


@pytest.mark.parametrize("names", [["gw.lan"], ["gw.lan", "10.0.0.1", "a.lan"], ["gw.lan", "10.0.0.2"],
                                   ["10.0.0.1", "gw.lan"], ["gw.lan", "a.lan"], ["gv.lan", "10.0.0.1"]])
def test_other_names(tool, names):
    tool("--renew", 30, "gw.lan", "10.0.0.1")
    renewed(tool, "--renew", 30, *names)
    assert "other names" in tool.out


def test_other_key(tool):
    tool("--renew", 30, "gw.lan")
    os.unlink(tool.key)
    tool("--renew", 30, "gw.lan")
    assert "other key" in tool.out and tool.made()


def test_a_certificate_of_another_tool_for_our_key(tool):
    """Self-signed, so that nothing is lost, but not what would be made."""
    tool("gw.lan")
    openssl("req", "-new", "-x509", "-key", tool.key, "-out", tool.cert, "-subj", "/CN=gw.lan", "-addext",
            "subjectAltName=DNS:gw.lan", "-days", 300)
    renewed(tool, "--renew", 30, "gw.lan")


def test_a_wrong_signature(tool):
    tool("gw.lan")
    der = bytearray(pem_to_der(read(tool.cert)))
    der[-1] ^= 1
    write(tool.cert, der_to_pem(der))
    renewed(tool, "--renew", 30, "gw.lan")
    assert "damaged" in tool.out


@pytest.mark.parametrize("algorithm", [
    ["ecparam", "-genkey", "-name", "prime256v1", "-noout"],  # SEC 1
    ["ecparam", "-genkey", "-name", "prime256v1"],  # with EC PARAMETERS before it
    ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],  # PKCS #8
])
def test_a_key_of_openssl_is_used(tool, algorithm):
    openssl(*algorithm, "-out", tool.key)
    os.chmod(tool.key, 0o640)
    before = read(tool.key)
    tool("--renew", 30, "gw.lan")
    assert read(tool.key) == before and tool.made()
    assert os.stat(tool.key).st_mode & 0o777 == 0o640 and not tool.err
    tool("--renew", 30, "--exit-code", "gw.lan", status=3)


def test_a_key_without_its_public_half(tool):
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", tool.key)
    openssl("ec", "-in", tool.key, "-no_public", "-out", tool.key + "2")
    os.rename(tool.key + "2", tool.key)
    tool("gw.lan")
    assert tool.made()


def test_lines_end_as_they_like(tool):
    tool("--renew", 30, "gw.lan")
    write(tool.key, read(tool.key).rstrip())
    write(tool.cert, b"A comment\r\n" + read(tool.cert).replace(b"\n", b"\r\n").rstrip())
    tool("--renew", 30, "--exit-code", "gw.lan", status=3)


def test_an_open_key_is_told_of(tool):
    tool("gw.lan")
    os.chmod(tool.key, 0o644)
    tool("gw.lan")
    assert "open to everybody" in tool.err


# ---------------------------------------------------------------------------------------------- what is kept


def foreign_keys(path):
    good = str(path / "good")
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", good)
    der = pem_to_der(read(good))
    scalar = der.index(b"\x02\x01\x01\x04\x20") + 5
    order = bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
    bare = [der_to_pem(bytes.fromhex("3031020101 0420") + x + bytes.fromhex("a00a06082a8648ce3d030107"),
                       "EC PRIVATE KEY") for x in (bytes(32), order, b"\xff" * 32)]
    one_bit = bytearray(der)
    one_bit[scalar + 31] ^= 1
    encrypted = openssl("pkcs8", "-topk8", "-in", good, "-passout", "pass:x")
    return {
        "empty": b"", "text": b"hello\n", "zeros": bytes(300), "der": der,
        "rsa": openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"),
        "p384": openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
        "ed25519": openssl("genpkey", "-algorithm", "ED25519"),
        "encrypted": encrypted, "cut": read(good)[:-30], "half": read(good)[:100],
        "public": openssl("pkey", "-in", good, "-pubout"), "one bit": der_to_pem(one_bit, "PRIVATE KEY"),
        "scalar 0": bare[0], "scalar n": bare[1], "scalar 2^256-1": bare[2],
    }


def test_foreign_keys_stay(tool, tmp_path_factory):
    for kind, data in foreign_keys(tmp_path_factory.mktemp("keys")).items():
        write(tool.key, data)
        before = read(tool.key)
        tool("--renew", 30, "gw.lan", status=1)
        assert re.fullmatch(r"wssd-selfsign: \S*key.pem: is .*\n", tool.err), kind
        assert read(tool.key) == before, kind
        assert not os.path.exists(tool.cert), kind


@pytest.fixture
def issued(tool, tmp_path_factory):
    """A key of ours with a certificate that an authority issued for it."""
    ca = tmp_path_factory.mktemp("ca")
    tool("gw.lan")
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Authority",
            "-keyout", ca / "key", "-out", ca / "cert")
    openssl("req", "-new", "-key", tool.key, "-subj", "/CN=gw.lan", "-out", ca / "request")
    openssl("x509", "-req", "-in", ca / "request", "-CA", ca / "cert", "-CAkey", ca / "key", "-out", tool.cert, "-days",
            5)
    return read(tool.cert), read(ca / "cert")


@pytest.mark.parametrize("words", [[], ["--renew", 10]])
def test_an_issued_certificate_stays(tool, issued, words):
    for data in (issued[0], issued[0] + issued[1]):
        write(tool.cert, data)
        tool(*words, "gw.lan", status=1)
        assert "issued by somebody else" in tool.err
        assert read(tool.cert) == data


def test_a_certificate_file_with_a_key_stays(tool):
    tool("gw.lan")
    both = read(tool.cert) + read(tool.key)
    write(tool.cert, both)
    tool("gw.lan", status=1)
    assert "private key" in tool.err and read(tool.cert) == both


@pytest.mark.parametrize("how", ["name", "detour", "symlink", "link"])
def test_key_and_certificate_are_two_files(tool, tmp_path, how):
    tool("gw.lan")
    before = read(tool.key)
    os.unlink(tool.cert)
    if how == "name":
        tool.cert = tool.key
    elif how == "detour":
        tool.cert = str(tmp_path / ".") + "/./key.pem"
    elif how == "symlink":
        os.symlink("key.pem", tool.cert)
    else:
        os.link(tool.key, tool.cert)
    tool("gw.lan", status=1)
    assert "two files" in tool.err and read(tool.key) == before


def test_a_new_key_and_its_certificate_by_two_spellings_of_one_name(tool, tmp_path):
    """The file is not there yet when the paths are compared."""
    tool.cert = str(tmp_path) + "/./key.pem"
    tool("gw.lan", status=1)
    assert b"PRIVATE KEY" in read(tool.key) and b"CERTIFICATE" not in read(tool.key)


@pytest.mark.parametrize("which", ["key", "cert"])
def test_files_that_are_none(tool, tmp_path, which):
    tool("gw.lan")
    path = getattr(tool, which)
    os.unlink(path)
    os.mkdir(path)
    tool("gw.lan", status=1)
    assert "not a plain file" in tool.err
    os.rmdir(path)
    os.mkfifo(path)
    tool("gw.lan", status=1)
    assert "not a plain file" in tool.err
    os.unlink(path)
    write(path, b"x" * 65536)
    tool("gw.lan", status=1)
    assert "larger than" in tool.err
    os.unlink(path)
    setattr(tool, which, str(tmp_path / "missing" / "file"))
    tool("gw.lan", status=1)
    assert "No such file or directory" in tool.err and tool.err.count("\n") == 1
    setattr(tool, which, str(tmp_path) + "/./" * 1400 + "f")
    tool("gw.lan", status=1)
    assert "too long" in tool.err


def test_two_at_once(tool):
    """Whoever comes second finds the key or says that it is there; the pair fits in any case."""
    def start():
        return subprocess.Popen([tool.binary, "--key", tool.key, "--cert", tool.cert, "--renew", "30", "gw.lan"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(5):
        running = [start() for _ in range(4)]
        ends = [(p.communicate(timeout=20 * SLOW)[1].decode(), p.returncode) for p in running]
        assert 0 in [status for _, status in ends]
        assert all(status == 0 or "File exists" in err for err, status in ends), ends
        assert tool.made() and not tool.temporary()
        os.unlink(tool.key)
        os.unlink(tool.cert)


# ---------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("name", [
    "", ".", "a..b", ".a", "a.", "-a.lan", "a-.lan", "a b", "a/b", "a,b", "a\nb", "a\0b"[:1] + "\x7f", "b\u00fccher.lan",
    "*", "*.", "*.lan", "a.*.lan", "a*.gw.lan", "**.gw.lan", "*.*.gw.lan", "1", "1.2.3", "1.2.3.256", "1.2.3.4.5", "01.2.3.4",
    "[::1]", "::1%lo", "fe80::1%eth0", ":::", "1::2::3", "::12345", "a" * 64, "a." + "b" * 64, "a." * 127, "https://gw.lan",
    "gw.lan:8443", "user@gw.lan"])
def test_bad_names(tool, name):
    tool("--", name, status=2)
    assert tool.err.startswith("wssd-selfsign: ") and tool.err.endswith("--help tells more\n")
    assert not os.listdir(str(tool.path))
    tool("ok.lan", "--", name, status=2)
    assert not os.listdir(str(tool.path))


@pytest.mark.parametrize("words", [
    ["--days", "0", "x"], ["--days", "826", "x"], ["--days", "-1", "x"], ["--days", "", "x"], ["--days", "1x", "x"],
    ["--days", "99999999999999999999", "x"], ["--renew", "826", "x"], ["--renew", "-1", "x"], ["--renew", "x", "x"],
    ["--days"], ["--wrong", "x"], ["-k", "x"], [], ["x" * 63 + ".lan"], ["n%d.lan" % i for i in range(33)],
    ["x", "a" * 63 + "." + "b" * 63 + "." + "c" * 63 + "." + "d" * 62]])
def test_bad_options(tool, words):
    tool(*words, status=2)
    assert tool.err and not tool.out and not os.listdir(str(tool.path))


def test_files_are_needed(shipped, tmp_path):
    for words in (["--key", "k", "x"], ["--cert", "c", "x"]):
        assert run(shipped, *words, cwd=str(tmp_path)).returncode == 2
    assert not os.listdir(str(tmp_path))


def test_relative_paths(shipped, tmp_path):
    assert run(shipped, "--key", "k", "--cert", "c", "x", cwd=str(tmp_path)).returncode == 0
    assert sorted(os.listdir(str(tmp_path))) == ["c", "k"]


def test_help(shipped, timeless):
    text = run(shipped, "--help").stdout.decode()
    for word in ("--key FILE", "--cert FILE", "--days N", "--renew N", "--exit-code", "Exit status"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100
    assert "2023-11-14 22:13 UTC" in run(timeless[0], "--help").stdout.decode()


# ---------------------------------------------------------------------------------------------- time


EARLIER = 3600  # a certificate begins so many seconds before it is made


def stamp(text):
    return calendar.timegm(datetime.datetime.strptime(text, "%Y-%m-%d %H:%M:%S").timetuple())


@pytest.mark.parametrize("now", [0, 1, -5, BUILT - 1])
def test_a_clock_that_was_never_set(timed, now):
    timed("--days", 10, "gw.lan", now=now)
    assert timed.times() == [BUILT, BUILT + 10 * DAY - 1]


@pytest.mark.parametrize("after", [0, 1, EARLIER - 1, EARLIER, EARLIER + 1, DAY])
def test_it_begins_an_hour_ago_but_not_before_the_tool(timed, after):
    """A client whose clock is behind by less takes it; and it never lasts longer than was said."""
    timed("--days", 10, "gw.lan", now=BUILT + after)
    begin = BUILT + max(0, after - EARLIER)
    assert timed.times() == [begin, begin + 10 * DAY - 1]


def test_a_clock_that_was_never_set_judges_little(timed):
    timed("--days", 30, "gw.lan", now=BUILT + 100 * DAY)
    timed("--renew", 10, "--exit-code", "gw.lan", now=0, status=3)  # it begins later, and is kept
    timed("--renew", 10, "--exit-code", "gw.lan", now=BUILT + 119 * DAY, status=3)
    timed("--renew", 10, "gw.lan", now=BUILT + 120 * DAY)
    assert timed.times()[0] == BUILT + 120 * DAY - EARLIER


def test_a_certificate_of_the_future(timed):
    timed("--days", 30, "gw.lan", now=BUILT + 100 * DAY)
    timed("--renew", 10, "gw.lan", now=BUILT + 99 * DAY)
    assert "not valid yet" in timed.out and timed.times()[0] == BUILT + 99 * DAY - EARLIER


def test_the_second_of_the_renewal(timed):
    start = BUILT + 1000
    timed("--days", 30, "gw.lan", now=start + EARLIER)
    end = start + 30 * DAY - 1
    timed("--renew", 10, "--exit-code", "gw.lan", now=end - 10 * DAY - 1, status=3)
    timed("--renew", 10, "--exit-code", "gw.lan", now=end - 10 * DAY)


@pytest.mark.parametrize("now, tags", [
    ("2049-12-30 23:59:59", ["UTCTIME", "UTCTIME"]),
    ("2049-12-31 00:00:00", ["UTCTIME", "UTCTIME"]),
    ("2049-12-31 00:00:01", ["UTCTIME", "GENERALIZEDTIME"]),
    ("2049-12-31 23:59:59", ["UTCTIME", "GENERALIZEDTIME"]),
    ("2050-01-01 00:00:00", ["GENERALIZEDTIME", "GENERALIZEDTIME"]),
])
def test_2050(timed, now, tags):
    """RFC 5280 4.1.2.5."""
    now = stamp(now)
    timed("--days", 1, "gw.lan", now=now + EARLIER)
    assert [tag for tag, _ in timed.time_tags()] == tags
    assert timed.times() == [now, now + DAY - 1]
    timed("--renew", 0, "--exit-code", "gw.lan", now=now, status=3)
    assert timed.made()


@pytest.mark.parametrize("now", [
    "2024-02-28 23:59:59", "2024-02-29 00:00:00", "2024-03-01 12:34:56", "2027-02-28 23:59:59", "2027-03-01 00:00:00",
    "2026-12-31 23:59:59", "2038-01-19 03:14:08", "2096-02-29 01:02:03", "2100-02-28 10:00:00", "2100-03-01 00:00:00",
    "2400-02-29 23:00:00", "9995-05-05 05:05:05"])
def test_calendar(timed, now):
    now = stamp(now)
    for days in (1, 366, 825):
        timed("--days", days, "gw.lan", now=now + EARLIER)
        assert timed.times() == [now, now + days * DAY - 1]


def test_a_clock_beyond_reason(timed):
    for now in (253402300800, 2 ** 62):
        timed("gw.lan", now=now, status=1)
        assert "clock" in timed.err


# ---------------------------------------------------------------------------------------------- damaged files


def damages(data, seed, count):
    """Cut, overwritten, stretched and shuffled in places."""
    rng = random.Random(seed)
    for i in range(count):
        b, at = bytearray(data), rng.randrange(len(data))
        kind = i % 5
        if kind == 0:
            b = b[:at]
        elif kind == 1:
            b[at] = rng.choice([0, 1, 0x2d, 0x30, 0x7f, 0x80, 0x81, 0x82, 0x83, 0xff])
        elif kind == 2:
            b[at:at + rng.randrange(1, 20)] = b""
        elif kind == 3:
            b[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 300)))
        else:
            for _ in range(4):
                b[rng.randrange(len(b))] = rng.randrange(256)
        yield bytes(b)


@pytest.mark.parametrize("form", ["pem", "der"])
def test_damaged_certificates(sanitized, tmp_path, form):
    """Replaced, or refused because they look like somebody else's; or what was damaged does not matter."""
    tool = Tool(sanitized, tmp_path)
    names = ["gw.lan", "192.0.2.1", "2001:db8::1"]
    tool(*names)
    whole = read(tool.cert)
    source = whole if form == "pem" else pem_to_der(whole)
    replaced = 0
    for data in damages(source, 1, 60):
        write(tool.cert, data if form == "pem" else der_to_pem(data))
        if tool("--renew", 30, "--exit-code", *names, status=(0, 1, 3)) == 1:
            assert re.search("issued by somebody else|holds a private key", tool.err), tool.err
        elif "nothing to do" in tool.out:
            assert pem_to_der(read(tool.cert).replace(b"\r", b"")) == pem_to_der(whole)
        else:
            replaced += 1
            assert read(tool.cert) != data
    assert replaced > 30
    write(tool.cert, whole)
    tool("--renew", 30, "--exit-code", *names, status=3)


def test_each_byte_of_a_certificate_counts(tool):
    tool("gw.lan", "192.0.2.1")
    der = pem_to_der(read(tool.cert))
    for at in range(0, len(der), 4):
        b = bytearray(der)
        b[at] ^= 1 << at // 4 % 8
        write(tool.cert, der_to_pem(b))
        if tool("--renew", 30, "--exit-code", "gw.lan", "192.0.2.1", status=(0, 1)) == 1:
            assert "issued by somebody else" in tool.err


@pytest.mark.parametrize("form", ["pem", "der"])
def test_damaged_keys(sanitized, tmp_path, form):
    """Refused, and left as they are; if not, what was damaged did not matter: the public key is the same."""
    tool = Tool(sanitized, tmp_path)
    tool("gw.lan")
    whole, public = read(tool.key), tool.field("-pubkey")
    source = whole if form == "pem" else pem_to_der(whole)
    refused = 0
    for data in damages(source, 2, 60):
        data = write(tool.key, data if form == "pem" else der_to_pem(data, "PRIVATE KEY")) and read(tool.key)
        if tool("gw.lan", status=(0, 1)) == 0:
            assert tool.field("-pubkey") == public
        else:
            refused += 1
            assert tool.err.count("\n") == 1
        assert read(tool.key) == data
    assert refused > 30


# The DER reader alone: each line of input, hexadecimal, stands in memory of just its size. Answers with the serial
# number and the times, or "no".
READER = r"""
#define main selfsign_main
#include "%s"
#undef main

static void
answer(const unsigned char *b, size_t len)
{
	char from[TIME_LEN + 1], until[TIME_LEN + 1];
	struct certificate c;

	if (!read_certificate(b, len, &c) || !read_time(b, &c.validity, from) ||
		!read_time(b, &c.validity, until)) {
		puts("no");
		return;
	}
	for (size_t i = c.serial.at; i < c.serial.end; i++) {
		printf("%%02x", b[i]);
	}
	printf(" %%s %%s %%zu %%zu\n", from, until, c.issuer.end - c.issuer.at, c.subject.end - c.subject.at);
}

int
main(void)
{
	static char line[20000];

	while (fgets(line, sizeof line, stdin)) {
		size_t len = strcspn(line, "\n") / 2;
		unsigned char *b = malloc(len + (len == 0));

		for (size_t i = 0; i < len; i++) {
			sscanf(line + 2 * i, "%%2hhx", b + i);
		}
		answer(b, len);
		free(b);
	}
	return 0;
}
"""


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reader")
    source, out = write(directory / "reader.c", READER % SOURCE), str(directory / "reader")
    r = run(*compiler(), "-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
            *search_bearssl(), "-o", out, source, "-lbearssl")
    assert r.returncode == 0, r.stderr.decode()

    def ask(ders):
        r = run(out, data=b"".join(d.hex().encode() + b"\n" for d in ders))
        assert r.returncode == 0, r.stderr.decode()[:3000]
        answers = r.stdout.decode().splitlines()
        assert len(answers) == len(ders)
        return answers
    return ask


def tlv(tag, *parts):
    content = b"".join(parts)
    n = len(content)
    length = bytes([n]) if n < 128 else bytes([0x81, n]) if n < 256 else bytes([0x82, n >> 8, n & 255])
    return bytes([tag]) + length + content


def minimal(serial=b"\x05", times=(b"\x17\x0d261122010203Z", b"\x18\x0f20500101000000Z"), wrap=tlv):
    """As much of a certificate as is read; wrap makes the outermost element."""
    return wrap(0x30, tlv(0x30, tlv(0xa0, b"\2\1\2"), tlv(2, serial), tlv(0x30), tlv(0x30, b"ab"),
                          tlv(0x30, *times), tlv(0x30, b"abc")))


def test_reader(reader):
    """Right ones of each form of length, wrong ones by one step."""
    whole = "05 20261122010203Z 20500101000000Z 2 3"
    assert reader([minimal()]) == [whole]
    sizes = [1, 20, 60, 61, 62, 63, 70, 127, 128, 129, 180, 185, 190, 195, 255, 256, 257, 300, 1000]
    assert reader([minimal(serial=b"\5" * n) for n in sizes]) == ["05" * n + whole[2:] for n in sizes]
    good = b"\x17\x0d261122010203Z"
    wrong = [b"\x17\x0d26112201020Z3", b"\x17\x0d2611220102033", b"\x17\x0c26112201020Z", b"\x17\x0b2611220102Z",
             b"\x17\x11261122010203+0100", b"\x17\x0f20261122010203Z", b"\x18\x0d261122010203Z", b"\x17\x00",
             b"\x18\x1220261122010203.5Z", b"\x17\x0d26/122010203Z", b"\x17\x0d:61122010203Z", b"\x16\x0d261122010203Z", b""]
    assert set(reader([minimal(times=t) for w in wrong for t in ((w, good), (good, w))])) == {"no"}
    content = minimal()[2:]
    assert len(content) < 128
    n = len(content)
    heads = [b"\x30\x81" + bytes([n]), b"\x30\x82\0" + bytes([n]), b"\x30\x83\0\0" + bytes([n]), b"\x30\x80",
             b"\x30\x84\0\0\0" + bytes([n]), b"\x31" + bytes([n]), b"\x30" + bytes([n + 1]), b"\x30\xff"]
    assert set(reader([head + content for head in heads])) == {"no"}
    of_128 = minimal(serial=b"\5" * (1 + 128 - n))
    assert of_128[:3] == b"\x30\x81\x80" and reader([of_128, b"\x30\x80" + of_128[3:]])[1] == "no"  # indefinite
    assert set(reader([minimal()[:i] for i in range(n + 2)])) == {"no"}
    years = [(b"49", "2049"), (b"50", "1950"), (b"99", "1999"), (b"00", "2000")]
    assert [a.split()[1][:4] for a in reader([minimal(times=(b"\x17\x0d" + y + b"1122010203Z", good)) for y, _ in years])] \
        == [y for _, y in years]


def test_reader_on_random_damage(reader, tool):
    """Every cut and many thousand damages; the sanitizers watch."""
    tool("gw.lan", *["n%d.lan" % i for i in range(20)])
    for der in (pem_to_der(read(tool.cert)), minimal(), minimal(serial=b"\5" * 200)):
        cuts = reader([der[:i] for i in range(len(der))])
        assert cuts[0] == "no"
        reader(list(damages(der, 3, 4000)))
        every = [der[:at] + bytes([value]) + der[at + 1:] for at in range(min(len(der), 150))
                 for value in (0, 1, 0x7f, 0x80, 0x81, 0x82, 0x83, 0xff)]
        reader(every + [e[:60] for e in every])


def nested(depth, tag, length):
    return bytes([tag, length]) * depth


@pytest.mark.parametrize("der", [
    b"", b"\x30", b"\x30\x00", b"\x30\x80\x00\x00", b"\x30\x81", b"\x30\x81\x7f", b"\x30\x82\x00\x80", b"\x30\x82\xff\xff",
    b"\x30\x83\x00\x00\x01\x00", b"\x30\x84\xff\xff\xff\xff", b"\x30\xff", b"\x30\x02\x30\x00", b"\x30\x02\x30\x7f",
    b"\x30\x06\x30\x00\x30\x00\x03\x00", b"\x30\x07\x30\x00\x30\x00\x03\x01\x00", b"\x30\x81\x80" + bytes(128),
    nested(60, 0x30, 0x7e), bytes(1000), b"\xff" * 1000])
def test_odd_der(sanitized, tmp_path, der):
    tool = Tool(sanitized, tmp_path)
    tool("gw.lan")
    for tail in (b"", b"\x00"):
        write(tool.cert, der_to_pem(der + tail))
        tool("--renew", 30, "--exit-code", "gw.lan")
        assert "damaged" in tool.out


# ---------------------------------------------------------------------------------------------- who accepts it


class Served:
    """openssl s_server -www with the pair, on a port of the kernel's choice."""

    def __init__(self, tool):
        self.proc = subprocess.Popen(["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", tool.cert, "-key",
                                      tool.key, "-www"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL,
                                     preexec_fn=lambda: LIBC.prctl(1, signal.SIGKILL))  # PR_SET_PDEATHSIG
        self.port = None
        for line in self.proc.stdout:
            found = re.match(rb"ACCEPT \S*:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                break
        assert self.port, "openssl s_server did not start"

    def end(self):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdout.close()


@pytest.fixture(scope="module")
def served(shipped, tmp_path_factory):
    tool = Tool(shipped, tmp_path_factory.mktemp("served"))
    tool("gw.lan", "localhost", "*.gw.lan", "127.0.0.1", "::1", "192.0.2.7")
    tool.server = Served(tool)
    yield tool
    tool.server.end()


GOOD = ["gw.lan", "localhost", "LOCALHOST", "any.gw.lan", "127.0.0.1", "::1", "192.0.2.7"]
WRONG = ["other.lan", "a.b.gw.lan", "lan", "127.0.0.2", "::2", "192.0.2.8"]


def host(name):
    return "[%s]" % name if ":" in name else name


@pytest.mark.parametrize("name", GOOD + WRONG)
def test_curl(served, name):
    to = "%s:443:127.0.0.1:%d" % (host(name), served.server.port)
    r = run("curl", "-sS", "--noproxy", "*", "--max-time", 20, "--cacert", served.cert, "--connect-to", to,
            "https://%s/" % host(name))
    if name in GOOD:
        assert r.returncode == 0 and b"TLSv1" in r.stdout, r.stderr
    else:
        assert r.returncode == 60, r.stderr  # the peer's certificate does not authenticate it


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", GOOD + WRONG)
def test_python(served, name, strict):
    context = ssl.create_default_context(cafile=served.cert)
    if strict:  # the default from Python 3.13 on
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=20 * SLOW) as s:
        if name in GOOD:
            with context.wrap_socket(s, server_hostname=name) as tls:
                assert tls.version()
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="mismatch|is not valid for"):
                context.wrap_socket(s, server_hostname=name)


def test_nobody_trusts_it_unasked(served):
    context = ssl.create_default_context()
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=20 * SLOW) as s:
        with pytest.raises(ssl.SSLCertVerificationError, match="self.signed"):
            context.wrap_socket(s, server_hostname="localhost")


def test_it_is_no_authority(served, tmp_path):
    """Whoever holds the key cannot sign for other names."""
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", tmp_path / "k",
            "-subj", "/CN=bank.example", "-out", tmp_path / "r")
    openssl("x509", "-req", "-in", tmp_path / "r", "-CA", served.cert, "-CAkey", served.key, "-out", tmp_path / "c")
    r = run("openssl", "verify", "-CAfile", served.cert, tmp_path / "c")
    assert r.returncode != 0 and b"invalid CA certificate" in r.stderr + r.stdout


# ---------------------------------------------------------------------------------------------- the source


@pytest.mark.parametrize("cc", ["gcc", "clang"])
@pytest.mark.parametrize("flags", [[], ["-D_GNU_SOURCE", "-DBUILD_DATE=%d" % BUILT]])
def test_compiles_without_a_warning(cc, flags, tmp_path):
    if not shutil.which(cc):
        pytest.skip("no " + cc)
    r = run(cc, "-std=c11", "-O2", *WARNINGS, *flags, *search_bearssl()[:4], "-c", "-o", tmp_path / "o", SOURCE)
    assert r.returncode == 0, r.stderr.decode()


def test_analyzers():
    r = run("cppcheck", "-q", "--std=c11", "--enable=warning,style,performance,portability", "--inline-suppr",
            "--suppress=missingIncludeSystem", "--error-exitcode=1", SOURCE)
    assert r.returncode == 0, r.stderr.decode()
    r = run("clang-format", "--dry-run", "-Werror", SOURCE, cwd=TOP)
    assert r.returncode == 0, r.stderr.decode()


def test_functions_are_short_and_nothing_is_allocated():
    lines = read(SOURCE).decode().splitlines()
    begin = None
    for i, line in enumerate(lines):
        if line == "{":
            begin = i
        if line == "}" and begin is not None:
            assert i - begin < 60, lines[begin - 1]
            begin = None
    code = re.sub(r"/\*.*?\*/", "", "\n".join(lines), flags=re.S)
    assert not re.search(r"\b(malloc|calloc|realloc|strdup|alloca|strcpy|strcat|sprintf|gets|__DATE__|__TIME__)\b", code)


@pytest.mark.parametrize("date", ["1700000000", "0"])
def test_the_build_is_reproducible(date):
    env = dict(os.environ, SOURCE_DATE_EPOCH=date)
    r = run("make", "-s", "-B", "-n", "wssd-selfsign", cwd=TOP, env=env)
    assert "-DBUILD_DATE=%s " % date in r.stdout.decode(), r
