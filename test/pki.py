"""Keys, authorities and certificates of every kind the tests need, made with openssl."""

import base64
import collections
import os
import subprocess

KINDS = {
    "ec256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "ec384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "ec521": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
    "rsa2048": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "rsa3072": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
    "rsa4096": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
    "ed25519": ["-algorithm", "ED25519"],
}
SAN = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"

Pair = collections.namedtuple("Pair", "cert key")  # as conftest's: two file names


def openssl(*args, data=None):
    r = subprocess.run(["openssl"] + [str(a) for a in args], input=data, stdin=None if data else subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    assert r.returncode == 0, "openssl %s: %s" % (args, r.stderr.decode(errors="replace"))
    return r.stdout


class Pki:
    """Makes files in one directory; every call with the same name gives the same files."""

    def __init__(self, path):
        self.dir = str(path)
        self.made = {}

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())
        return self.path(name)

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def key(self, name, kind="ec256"):
        file = self.path(name + ".key")
        if not os.path.exists(file):
            openssl("genpkey", *KINDS[kind], "-out", file)
        return file

    def ca(self, name, kind="ec256"):
        """A self-signed authority."""
        return self.pair(name, kind, None, "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")

    def server(self, name, kind="ec256", issuer=None, days=30):
        return self.pair(name, kind, issuer, SAN, "extendedKeyUsage=serverAuth", days=days)

    def client(self, name, kind="ec256", issuer=None, days=30):
        return self.pair(name, kind, issuer, "extendedKeyUsage=clientAuth", "keyUsage=digitalSignature", days=days)

    def pair(self, name, kind, issuer, *extensions, days=30):
        if name in self.made:
            return self.made[name]
        key, cert, csr = self.key(name, kind), self.path(name + ".crt"), self.path(name + ".csr")
        openssl("req", "-new", "-key", key, "-subj", "/CN=" + name, "-out", csr)
        ext = self.write(name + ".ext", "\n".join(extensions) + "\n")
        sign = ["-CA", issuer.cert, "-CAkey", issuer.key, "-CAcreateserial"] if issuer else ["-signkey", key]
        openssl("x509", "-req", "-in", csr, "-days", days, "-sha256", "-extfile", ext, "-out", cert, *sign)
        self.made[name] = Pair(cert, key)
        return self.made[name]

    def join(self, name, *files):
        """The files one after the other."""
        return self.write(name, b"".join(open(f, "rb").read() for f in files))

    def stolen(self, name, certificate, key):
        """CERTIFICATE with a key file that claims its public key and holds another's private one: what a client has that
        only saw the certificate go by. Both keys are P-256."""
        pub = openssl("pkey", "-pubin", "-outform", "DER", data=openssl("x509", "-in", certificate, "-noout", "-pubkey"))
        sec1 = openssl("ec", "-in", key, "-outform", "DER")
        # ECPrivateKey of RFC 5915 section 3: version, private key (bytes 7 to 38), [0] prime256v1, [1] public key
        assert sec1[2:7] == b"\x02\x01\x01\x04\x20" and len(pub) == 91
        der = sec1[2:39] + bytes.fromhex("a00a06082a8648ce3d030107") + b"\xa1\x44\x03\x42\0" + pub[-65:]
        pem = base64.encodebytes(b"\x30" + bytes([len(der)]) + der).decode()
        return Pair(certificate, self.write(name + ".key", "-----BEGIN EC PRIVATE KEY-----\n%s-----END EC PRIVATE KEY-----\n"
                                            % pem))
