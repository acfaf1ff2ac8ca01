"""What a packager takes: manual pages, `make install`, the example configuration, units of systemd, Debian's package."""

import glob
import hashlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile

import pytest

import powers
import recipes
import wsraw
from test_newcomer import environment

SLOW = wsraw.SLOW
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UNITS = sorted(glob.glob(os.path.join(TOP, "dist", "systemd", "*.service")))


def read(*name):
    with open(os.path.join(TOP, *name), encoding="utf-8") as f:
        return f.read()


def run(*command, cwd=TOP, ok=True, text="", timeout=100, **env):
    r = subprocess.run([str(c) for c in command], cwd=cwd, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       env=environment(**env), timeout=timeout * SLOW, encoding="utf-8", errors="replace")
    assert not ok or r.returncode == 0, "%s: status %d\n%s" % (command, r.returncode, r.stdout)
    return r.stdout if ok else (r.returncode, r.stdout)


# ---------------------------------------------------------------------------------------------- the manual pages


PAGES = ["wssd.8", "wssd-selfsign.8"]


def lint(name):
    """What mandoc has to say, but for pages of other programs: they are there or not, as the machine has them."""
    text = run("mandoc", "-Tlint", "-Wall", name, ok=False)[1]
    return [line for line in text.splitlines() if not re.search("referenced manual not found|outdated mandoc.db", line)]


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_nothing_to_say(page):
    assert lint(page) == []


def test_mandoc_would_have_something_to_say(tmp_path):
    (tmp_path / "wssd.8").write_text(read("wssd.8").replace(".El\n", "", 1))
    assert lint(tmp_path / "wssd.8")


def rendered(page):
    return re.sub(".\b", "", run("mandoc", "-Tascii", page))


def sections(page):
    """{title: text} as a terminal shows it."""
    parts = re.split(r"^([A-Z][A-Z ]+)\n", rendered(page), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def test_sections():
    there = list(sections("wssd.8"))
    assert there == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "ROUTES", "FILES", "SIGNALS", "EXIT STATUS", "EXAMPLES",
                     "SEE ALSO", "STANDARDS", "CAVEATS", "SECURITY CONSIDERATIONS"]
    caveats = re.sub(r"\s+", " ", sections("wssd.8")["CAVEATS"])
    for what in ("TLS 1.2 is the only version", "gets no alert", "extended key usage", "no revocation lists"):
        assert what in caveats


def tags(text, indent=5):
    """The tags of a list: what stands at the indent; the text may begin in the same line."""
    return re.findall(r"^ {%d}((?:--|/PATH=)\S+(?: [A-Z,:\[\]]+)?)(?=\n| {2})" % indent, text, re.M)


def words_of_help(text):
    """(options with values, backends, attributes) of `wssd --help`."""
    head = [line[2:39].rstrip() for line in text.splitlines() if line.startswith("  ")]
    options = [h for h in head if h.startswith("--")]
    routes = [h for h in head if h.startswith("/PATH")]
    attributes = {a for h in head for a in re.findall(r"[\[,]([a-z-]+)\b", h)}
    return options, routes, attributes


def test_options_and_routes_are_those_of_help(wssd):
    options, routes, attributes = words_of_help(wssd.bare("--help").stdout)
    assert len(options) > 15 and len(routes) == 5 and {"client-ca", "proxy", "ring", "text", "auth"} <= attributes
    page = sections("wssd.8")
    assert sorted(t.replace("[,ATTRIBUTE]", "") for t in tags(page["OPTIONS"])) == sorted(options)
    assert sorted(tags(page["ROUTES"])) == sorted(routes)
    lists = re.findall(r"^ +\b([a-z-]+)=[A-Z]", page["OPTIONS"] + page["ROUTES"], re.M)
    assert set(lists) | set(re.findall(r"\[,([a-z-]+)", page["ROUTES"])) == attributes


def test_a_word_more_or_less_is_noticed(wssd):
    help_ = wssd.bare("--help").stdout
    less = words_of_help(re.sub(r"^  --ping .*\n", "", help_, flags=re.M))
    more = words_of_help(help_ + "  --more N                              things\n")
    assert len(less[0]) + 1 == len(words_of_help(help_)[0]) == len(more[0]) - 1


def test_defaults_and_limits_are_those_of_help(wssd):
    """A number in brackets at the end of a help line stands in brackets in the page, too."""
    text = re.sub(r"\s+", " ", sections("wssd.8")["OPTIONS"])
    for name, number in re.findall(r"^  (--[a-z-]+) .*\((\d+)\)$", wssd.bare("--help").stdout, re.M):
        assert re.search(r"%s [A-Z]+ [^()]*(\([^\d()]*\)[^()]*)*\(%s\)" % (name, number), text), (name, number)


def test_words_of_selfsign():
    help_ = run("./wssd-selfsign", "--help")
    known = set(re.findall(r"^  (--[a-z-]+)", help_, re.M))
    assert len(known) == 6
    assert {t.split()[0] for t in tags(rendered("wssd-selfsign.8"))} == known
    assert set(re.findall(r"--[a-z-]+", rendered("wssd-selfsign.8"))) == known


# ---------------------------------------------------------------------------------------------- examples


@pytest.fixture
def etc(tmp_path):
    """A machine as the examples take it for granted, below a folder: text -> text with paths below it, and with a user that
    every machine has."""
    names = ["gateway.lan", "localhost"]
    os.makedirs(tmp_path / "etc" / "wssd")

    def own(text):
        text = text.replace("/usr/share/wssd/www", os.path.join(TOP, "dist", "www"))
        text = re.sub(r"\buser wssd\b", "user nobody", text)
        return re.sub(r"(?<![\w.])/(etc|run)/", r"%s/\1/" % tmp_path, text)

    d = tmp_path / "etc" / "wssd"
    run("./wssd-selfsign", "--key", d / "key.pem", "--cert", d / "cert.pem", *names)
    shutil.copy(d / "cert.pem", d / "devices.pem")
    (d / "people").write_text(hashlib.sha256(b"anna:secret").hexdigest() + " anna\n")
    (tmp_path / "etc" / "wssd.conf").write_text(own(read("dist", "wssd.conf")))
    return own


def commands(text):
    """Those of a shell text, as lists of words."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def check(wssd, words, status=0):
    r = wssd.bare(*words, "--check")
    assert r.returncode == status, (words, r.stderr)


def examples(page):
    return [b.replace("\\e", "\\") for b in
            re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", read(page), re.M | re.S)]


def test_examples(wssd, etc):
    """Each command of both pages, wssd with --check."""
    done = {"wssd": 0, "wssd-selfsign": 0}
    for block in examples("wssd.8") + examples("wssd-selfsign.8"):
        for words in commands(etc(block)):
            if words[0] == "wssd":
                check(wssd, words[1:])
            elif words[0] == "wssd-selfsign":
                run(os.path.join(TOP, "wssd-selfsign"), *[w for w in words[1:] if w not in ("&&", "--exit-code")])
            else:
                assert words[0] == "kill"
                continue
            done[words[0]] += 1
    assert done["wssd"] >= 4 and done["wssd-selfsign"] == 3


def test_the_example_configuration(wssd, etc, tmp_path):
    conf = str(tmp_path / "etc" / "wssd.conf")
    check(wssd, ["--config", conf])
    text = open(conf).read()
    everything = re.sub(r"^#(?=[a-z/])(?!chroot)", "", text, flags=re.M)  # what is a remark there
    assert len(everything) < len(text) - 4
    open(conf, "w").write(everything)
    check(wssd, ["--config", conf])
    open(conf, "w").write(text.replace("/chat=hub", "/chat=hab"))
    check(wssd, ["--config", conf], 2)
    os.unlink(str(tmp_path / "etc" / "wssd" / "key.pem"))
    open(conf, "w").write(text)
    check(wssd, ["--config", conf], 1)


# ---------------------------------------------------------------------------------------------- make install


INSTALLED = {
    "sbin/wssd": 0o755,
    "sbin/wssd-selfsign": 0o755,
    "share/man/man8/wssd.8": 0o644,
    "share/man/man8/wssd-selfsign.8": 0o644,
    "share/doc/wssd/examples/wssd.conf": 0o644,
    **{"share/wssd/www/" + f: 0o644 for f in os.listdir(os.path.join(TOP, "dist", "www"))},
}
INSTALLED_UNITS = {
    "lib/systemd/system/wssd.service": 0o644,
    "lib/systemd/system/wssd-certificate.service": 0o644,
    "lib/systemd/system/wssd-certificate.timer": 0o644,
}


def tree(root):
    """{file: mode}; folders must be open to everybody."""
    found = {}
    for d, dirs, files in os.walk(root):
        for name in dirs:
            assert os.stat(os.path.join(d, name)).st_mode & 0o7777 == 0o755, os.path.join(d, name)
        for name in files:
            path = os.path.join(d, name)
            assert not os.path.islink(path)
            found[os.path.relpath(path, root)] = os.stat(path).st_mode & 0o7777
    return found


@pytest.fixture
def nobodys():
    """What was built, in a folder of the user nobody's: (folder, words that make a command his)."""
    with tempfile.TemporaryDirectory(prefix="wssd-dist-") as d:
        for f in os.listdir(TOP):
            if re.fullmatch(r"Makefile|\w+\.[cho]|[\w-]+\.8|wssd|wssd-selfsign", f):
                shutil.copy2(os.path.join(TOP, f), d)
        shutil.copytree(os.path.join(TOP, "dist"), os.path.join(d, "dist"))
        words = []
        if os.geteuid() == 0:
            run("chown", "-R", "nobody:nogroup", d)
            words = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        yield d, words


@pytest.mark.parametrize("prefix", ["/usr", "/opt/x"])
def test_make_install(nobodys, prefix, certs):
    """No root, whatever the umask: just these files, and the programs work."""
    d, words = nobodys
    root = os.path.join(d, "root")
    run(*words, "sh", "-c", "umask 077 && make install DESTDIR=%s PREFIX=%s SYSTEMD=/lib/systemd/system" % (root, prefix),
        cwd=d)
    os.chmod(root, 0o755)
    below = {os.path.relpath(prefix, "/") + "/" + f: mode for f, mode in INSTALLED.items()}
    below[os.path.relpath(prefix, "/") + "/lib/wssd/certificate"] = 0o755
    assert tree(root) == {**below, **INSTALLED_UNITS}
    for path in tree(root):
        if path.endswith((".8", ".conf", ".service")):
            names = set(re.findall(r"(/\S+)/(?:sbin/wssd|share/wssd|lib/wssd)", open(os.path.join(root, path)).read()))
            assert names <= {prefix}, path
    for program in ("wssd", "wssd-selfsign"):
        with open(os.path.join(root, "." + prefix, "sbin", program), "rb") as a, open(os.path.join(TOP, program), "rb") as b:
            assert a.read() == b.read()
    program = os.path.join(root, "." + prefix, "sbin", "wssd")
    assert run(*words, program, "--version", cwd="/").startswith("wssd ")
    proc = subprocess.Popen([program, *powers.words(program), "--listen", "wss://127.0.0.1:0", "--cert", certs.cert, "--key", certs.key,
                             "--root", os.path.join(root, "." + prefix, "share", "wssd", "www"), "/echo=echo"],
                            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment())
    try:
        for line in proc.stderr:
            m = re.search(rb"listening on wss://127.0.0.1:(\d+)$", line)
            if m:
                break
        with wsraw.connect(int(m.group(1)), True) as c:
            c.open("/echo").send_text("installed")
            c.expect_text("installed")
        proc.terminate()
        assert proc.wait(10 * SLOW) == 0
    finally:
        proc.kill()
        proc.wait()
        proc.stderr.close()


def test_make_install_without_units(nobodys):
    d, words = nobodys
    run(*words, "make", "install", "DESTDIR=%s/root" % d, cwd=d)
    assert tree(d + "/root") == {"usr/local/" + f: mode for f, mode in INSTALLED.items()}


# ---------------------------------------------------------------------------------------------- scripts


def scripts():
    found = []
    for d in ("dist", ".ci", "test"):
        for path, dirs, files in os.walk(os.path.join(TOP, d)):
            dirs[:] = [x for x in dirs if x not in ("build", "results", "corpus", "node_modules")]
            for f in files:
                with open(os.path.join(path, f), "rb") as text:
                    if re.match(rb"#!/bin/sh\b", text.read(20)):
                        found.append(os.path.relpath(os.path.join(path, f), TOP))
    return sorted(found)


def test_shellcheck():
    """Those that are shipped; what its notes are about (word splitting, mostly) is meant in those of the tests."""
    every = scripts()
    shipped = [f for f in every if f.startswith("dist/")]
    assert {"dist/run.sh", "dist/systemd/certificate"} <= set(shipped)
    assert run("shellcheck", "-x", "--severity=style", *[f for f in shipped if f != "dist/run.sh"]) == ""
    assert run("shellcheck", "--severity=warning", *every) == ""


def test_shellcheck_would_find_something(tmp_path):
    (tmp_path / "x").write_text("#!/bin/sh\nrm -rf $1/$2\nx=1\n")
    assert run("shellcheck", tmp_path / "x", ok=False)[0] == 1


# ---------------------------------------------------------------------------------------------- systemd


@pytest.mark.parametrize("unit", UNITS, ids=map(os.path.basename, UNITS))
def test_exposure(unit):
    """As systemd judges it: 0 is nothing at all, 10 is everything."""
    text = run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit)
    assert float(re.search(r"exposure level for \S+ ([\d.]+)", text).group(1)) < 2.0


def test_exposure_would_be_noticed(tmp_path):
    (tmp_path / "wssd.service").write_text(re.sub(r"^Capability.*\n|^Private.*\n|^Protect.*\n", "",
                                                  read("dist", "systemd", "wssd.service"), flags=re.M))
    assert run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", tmp_path / "wssd.service",
               ok=False)[0] != 0


def machine():
    return recipes.Box(systemd=True)


def installing():
    """The commands of the README's chapter."""
    chapter = re.search(r"^## Installing\n(.*?)^## ", read("README.md"), re.M | re.S).group(1)
    return re.search(r"^```sh\n(.*?)^```$", chapter, re.M | re.S).group(1)


def status_of(box, pid):
    return dict(line.split(":\t", 1) for line in box.run("cat /proc/%s/status" % pid).stdout.splitlines() if ":\t" in line)


def main_pid(box):
    return box.run("systemctl show -P MainPID wssd").stdout.strip()


def journal(box):
    return box.run("journalctl --no-pager -o cat -u wssd -u wssd-certificate").stdout


def test_the_unit_runs():
    """The README's commands on a machine with systemd: certificate, service, hardening, reload, renewal, end."""
    with machine() as box:
        box.run("rm -rf /etc/wssd /etc/wssd.conf /usr/share/wssd /usr/local/sbin/wssd*")
        box.run("unset MAKEFLAGS MFLAGS MAKELEVEL; cd %s && %s" % (shlex.quote(TOP), installing()), timeout=60)
        recipes.until(lambda: box.listening(8443), 20, lambda: journal(box))
        assert box.run("stat -c '%U %G %a' /etc/wssd/key.pem /etc/wssd/cert.pem").stdout == "root wssd 640\nroot root 644\n"
        assert box.run("systemctl is-enabled wssd wssd-certificate.timer").stdout == "enabled\nenabled\n"
        assert "<6>" not in journal(box)  # a priority is no text

        def talk():
            with box.net():
                c = wsraw.connect(8443, True).open("/echo")
            c.send_text("in a unit")
            c.expect_text("in a unit")
            return c

        open_one = talk()
        with box.net():
            with wsraw.connect(8443, True) as c:
                assert c.request("GET", "/").status == 200

        pid = main_pid(box)
        status = status_of(box, pid)
        assert box.run("ps -o user= -p " + pid).stdout.strip() == "wssd"
        assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == int(status["CapAmb"], 16) == 0
        assert status["NoNewPrivs"] == "1" and int(status["Seccomp"]) == 2

        before = box.run("cat /etc/wssd/cert.pem").stdout
        box.run("systemctl reload wssd")
        recipes.until(lambda: "reloaded" in journal(box), 10, lambda: journal(box))
        # another name: a new certificate, and a reload
        box.run("echo other.lan > /etc/wssd/names && systemctl start wssd-certificate")
        recipes.until(lambda: journal(box).count("reloaded") == 2, 10, lambda: journal(box))
        assert box.run("cat /etc/wssd/cert.pem").stdout != before
        assert box.run("stat -c '%U %G %a' /etc/wssd/key.pem").stdout == "root wssd 640\n"
        box.run("systemctl start wssd-certificate")  # nothing to do, and nobody is told
        talk()
        assert main_pid(box) == pid and journal(box).count("reloaded") == 2
        open_one.send_text("still")
        open_one.expect_text("still")

        box.run("kill -KILL " + pid)  # by whatever: it comes again
        recipes.until(lambda: main_pid(box) not in (pid, "0") and box.listening(8443), 20, lambda: journal(box))
        box.run("systemctl stop wssd")
        assert box.run("systemctl show -P Result wssd").stdout == "success\n"
        box.run("echo listen nowhere >> /etc/wssd.conf")
        assert box.run("systemctl start wssd", check=False).returncode != 0
        assert "/etc/wssd.conf:" in journal(box)


# ---------------------------------------------------------------------------------------------- Debian


def files(box):
    """What is there where packages put things, apart from logs, caches and what systemd keeps; and users."""
    prune = " -o ".join("-path /var/" + d for d in ("log", "cache", "lib/systemd", "lib/dpkg/info"))
    return set(box.run("find /etc /usr /opt /srv /var \\( %s \\) -prune -o -print; ls /var/lib/dpkg/info; "
                       "cat /etc/passwd /etc/group" % prune, timeout=120).stdout.splitlines())


@pytest.mark.deep
def test_the_debian_package():
    """`make deb`; in a machine of its own the package is installed, serves, is reinstalled, removed and purged, and leaves
    nothing; installed in a chroot, it makes its certificate at the first start."""
    clean = run("git", "status", "--porcelain")
    text = run("make", "deb", timeout=500)
    assert re.search(r"dpkg-buildpackage: info: full upload", text)
    assert run("git", "status", "--porcelain") == clean
    assert not os.path.exists(os.path.join(TOP, "debian"))
    package, = glob.glob(os.path.join(TOP, "build", "deb", "wssd_*.deb"))
    assert "libbearssl0" in run("dpkg-deb", "-f", package, "Depends")
    flags = [line for line in text.splitlines() if re.match(r"cc .* -c ", line)]
    assert len(flags) == 4 and all("-D_FORTIFY_SOURCE=2" in f and "-Wdate-time" in f for f in flags)

    with machine() as box:
        box.run("rm -rf /etc/wssd /etc/wssd.conf /usr/share/wssd /usr/local/sbin/wssd* /usr/sbin/policy-rc.d; "
                "userdel wssd 2>/dev/null || :")
        before = files(box)
        assert "/usr/share/doc/adduser" in before and "wssd.list" not in before
        package = shlex.quote(package)

        def serves():
            recipes.until(lambda: box.listening(8443), 20, lambda: journal(box))
            with box.net():
                c = wsraw.connect(8443, True).open("/echo")
            c.send_text("packed")
            c.expect_text("packed")
            assert box.run("ps -o user= -p " + main_pid(box)).stdout.strip() == "wssd"

        box.run("dpkg -i " + package, timeout=120)
        assert box.run("stat -c '%U %G %a' /etc/wssd /etc/wssd/key.pem").stdout == "root wssd 750\nroot wssd 640\n"
        assert box.run("systemctl is-enabled wssd wssd-certificate.timer").stdout == "enabled\nenabled\n"
        serves()
        assert box.run("wssd --check --config /usr/share/doc/wssd/examples/wssd.conf").stdout == ""
        assert box.run("dpkg -V wssd").stdout == ""
        assert {"/usr/sbin/wssd", "/etc/wssd/cert.pem", "wssd.list"} < files(box) - before
        key, pid = box.run("sha256sum /etc/wssd/key.pem").stdout, main_pid(box)
        box.run("dpkg -i " + package, timeout=120)  # an upgrade keeps the key, and starts the new one
        serves()
        assert box.run("sha256sum /etc/wssd/key.pem").stdout == key and main_pid(box) != pid
        box.run("dpkg -r wssd", timeout=120)
        assert not box.listening(8443) and box.run("sha256sum /etc/wssd/key.pem").stdout == key
        box.run("dpkg -P wssd", timeout=120)
        assert files(box) ^ before == set()

        box.put("/usr/local/bin/ischroot", "#!/bin/sh\nexit 0\n")
        box.put("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")  # as where images are made
        box.run("chmod 755 /usr/local/bin/ischroot /usr/sbin/policy-rc.d")
        assert "first start" in box.run("dpkg -i " + package, timeout=120).stdout
        assert not box.listening(8443) and box.run("ls /etc/wssd").stdout == "names\n"
        box.run("systemctl start wssd")
        serves()
        assert box.run("sha256sum /etc/wssd/key.pem").stdout != key
        box.run("touch /etc/wssd/devices && dpkg -P wssd", timeout=120)  # what somebody else made stays
        assert box.run("ls /etc/wssd").stdout == "devices\n"
