"""What a packager takes: manual pages, `make install`, the example configuration, units of systemd, Debian's package,
OpenWrt's recipes."""

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
    """(options with values, backends, attributes) of `wssd --help`; a second row of an option holds its attributes only."""
    head = [line[2:39].rstrip() for line in text.splitlines() if line.startswith("  ")]
    options = list({h.split()[0]: h for h in reversed(head) if h.startswith("--")}.values())
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
                assert words[0] in ("kill", "chgrp", "chmod")
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
    program, pages = (os.path.join(root, "." + prefix, p) for p in ("sbin/wssd", "share/wssd/www"))
    assert run(*words, program, "--version", cwd="/").startswith("wssd ")
    proc = subprocess.Popen([program, *powers.words(program), "--listen", "wss://127.0.0.1:0", "--cert", certs.cert,
                             "--key", certs.key, "--root", pages, "/echo=echo"],
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
        assert not re.search("not filtered|will be refused", journal(box))  # its own filter works in that of the unit

        before = box.run("cat /etc/wssd/cert.pem").stdout
        box.run("systemctl reload wssd")
        recipes.until(lambda: "reloaded" in journal(box), 10, lambda: journal(box))
        # another name: a new certificate, and a reload
        box.run("echo other.lan > /etc/wssd/names && systemctl start wssd-certificate")
        recipes.until(lambda: journal(box).count("reloaded") == 2, 10, lambda: journal(box))
        assert box.run("cat /etc/wssd/cert.pem").stdout != before
        assert box.run("stat -c '%U %G %a' /etc/wssd/key.pem").stdout == "root wssd 640\n"
        box.run("systemctl start wssd-certificate")  # nothing to do, and nobody is told
        assert journal(box).count("reloaded") == 2
        box.run("rm /etc/wssd/names && sed -i 1d /etc/wssd/cert.pem && systemctl start wssd-certificate")  # it is another's
        assert box.run("head -c 5 /etc/wssd/cert.pem").stdout != "-----"
        box.run("touch /etc/wssd/names && systemctl start wssd-certificate")  # or it is ours, and damaged
        recipes.until(lambda: journal(box).count("reloaded") == 3, 10, lambda: journal(box))
        assert "DNS:localhost" in box.run("openssl x509 -noout -text -in /etc/wssd/cert.pem").stdout
        talk()
        assert main_pid(box) == pid
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


# ---------------------------------------------------------------------------------------------- OpenWrt

# What rc.common, UCI and procd are to an init script: enough of them to see what it asks for. An option file is shell text
# with the three commands config, option and list.
RC_COMMON = r"""
config() { _section=$2; _sections="$_sections $1:$2"; }
option() { eval "_option_${_section}_$1=\$2"; }
list() {
	eval "_n=\$((\${_count_${_section}_$1:-0} + 1))"
	eval "_count_${_section}_$1=$_n; _item_${_section}_$1_$_n=\$2"
}
config_load() { . "/etc/config/$1"; }
config_get() { eval "$1=\"\${_option_$2_$3:-\$4}\""; }
config_get_bool() {
	eval "_b=\"\${_option_$2_$3:-\$4}\""
	case $_b in 1 | on | true | yes | enabled) eval "$1=1" ;; *) eval "$1=0" ;; esac
}
config_foreach() { for _s in $_sections; do test "${_s%%:*}" != "$2" || "$1" "${_s#*:}"; done; }
config_list_foreach() {
	eval "local _i=0 _name=_item_$1_$2 _last=\${_count_$1_$2:-0}"
	local _f=$3
	shift 3
	while test "$_i" -lt "$_last"; do
		_i=$((_i + 1))
		eval "_v=\$${_name}_$_i"
		"$_f" "$_v" "$@"
	done
}
procd_append_param() {
	_p=$1
	shift
	printf "$_p %s\n" "$@"
}
procd_set_param() { procd_append_param "$@"; }
procd_open_instance() { echo "instance $1"; }
procd_close_instance() { echo close; }
procd_send_signal() { echo "signal $*"; }
procd_add_reload_trigger() { echo "trigger $*"; }
extra_command() { _more=" $1 "; }
logger() { cat >&2; }
. "$1"
test "$USE_PROCD" = 1 || exit
case $2 in
start) start_service ;;
triggers) service_triggers ;;
"$_more" | renew) "$2" ;;
esac
"""

EVERYTHING = """
config wssd 'one'
	list listen 'wss://127.0.0.1:0'
	list listen 'ws://127.0.0.1:0'
	option cert '/etc/wssd/sub/c.pem'
	option key '/etc/wssd/sub/k.pem'
	list name 'a.lan'
	list name '10.1.2.3'
	option user 'nobody:nogroup'
	option max_per_ip '0'
	option timeout '7'
	option ping '90'
	option verbose 'yes'
	list origin 'https://a.lan'
	list origin 'https://b.lan'
	list host 'a.lan'
	list route '/x=hub,ring=1000000'
	list route "/y=unix:/tmp/it's here"

config wssd 'two'
	option enabled '0'
	list listen 'nowhere'

config wssd 'three'
	option selfsigned '0'
	option user 'nobody'
	list listen 'ws://127.0.0.1:0'
	list route '/echo=echo'
"""


def router(box):
    """Makes a router of a box: busybox for all tools, the init script and its configuration in place."""
    box.run("rm -rf /etc/wssd /etc/wssd.conf; ln -s /usr/local/sbin/wssd /usr/sbin/wssd; "
            "mkdir -p /opt/bin /etc/config /lib/functions; busybox --install -s /opt/bin")
    box.put("/lib/functions/network.sh", "network_get_ipaddr() { eval \"$1=192.168.1.1\"; }\n")
    box.put("/etc/rc.common", RC_COMMON)
    box.put("/etc/init.d/wssd", read("dist", "openwrt", "wssd", "files", "wssd.init"))
    box.put("/etc/config/wssd", read("dist", "openwrt", "wssd", "files", "wssd.config"))


def init(box, action):
    """The instances that procd would have: [{parameter: [value...]}], and what else was said."""
    r = box.run("PATH=/opt/bin:/usr/local/sbin /bin/busybox ash -e /etc/rc.common /etc/init.d/wssd " + action)
    assert "rror" not in r.stderr and "not found" not in r.stderr, r.stderr
    instances, other = [], []
    for line in r.stdout.splitlines():
        word, _, value = line.partition(" ")
        if word == "instance":
            instances.append({"name": [value]})
        elif word == "close" or not instances:
            other.append(line)
        else:
            instances[-1].setdefault(word, []).append(value)
    assert other.count("close") == len(instances)
    return instances, [line for line in other if line != "close"]


def test_the_router():
    """The configuration as it is shipped: a certificate at the first start, a command line that the server takes."""
    with recipes.Box() as box:
        router(box)
        assert init(box, "triggers") == ([], ["trigger wssd"])
        (one,), _ = init(box, "start")
        assert one["name"] == ["main"] and one["stderr"] == ["1"] and "nofile=65536 65536" in one["limits"]
        assert box.run("stat -c '%U %G %a' /etc/wssd/key.pem").stdout == "root wssd 640\n"
        words = one["command"]
        assert words[0] == "/usr/sbin/wssd" and words[-2:] == ["/echo=echo", "/chat=hub"]
        assert box.run(words + ["--check"]).stderr == ""
        names = box.run("openssl x509 -noout -ext subjectAltName -in /etc/wssd/cert.pem").stdout
        assert "DNS:gateway.lan" in names and "IP Address:192.168.1.1" in names
        before = box.run("cat /etc/wssd/cert.pem").stdout

        listen = words.index("wss://[::]:8443") - 1  # a box has no IPv6 of its own, perhaps
        job = box.start(words[:listen] + words[listen + 2:])
        job.wait_log("listening on")
        with box.net():
            with wsraw.connect(8443, True) as c:
                c.open("/echo").send_text("routed")
                c.expect_text("routed")
        assert init(box, "start")[0] == [one] and init(box, "renew") == ([], ["signal wssd * HUP"])
        assert box.run("cat /etc/wssd/cert.pem").stdout == before
        job.end()


def test_what_a_router_may_have():
    with recipes.Box() as box:
        router(box)
        box.put("/etc/config/wssd", EVERYTHING)
        (one, three), _ = init(box, "start")
        assert one["command"] == [
            "/usr/sbin/wssd", "--listen", "wss://127.0.0.1:0", "--listen", "ws://127.0.0.1:0", "--origin", "https://a.lan",
            "--origin", "https://b.lan", "--host", "a.lan", "--cert", "/etc/wssd/sub/c.pem", "--key", "/etc/wssd/sub/k.pem",
            "--max-per-ip", "0", "--timeout", "7", "--ping", "90", "--user", "nobody:nogroup", "--verbose",
            "/x=hub,ring=1000000", "/y=unix:/tmp/it's here"]
        assert three["command"] == ["/usr/sbin/wssd", "--listen", "ws://127.0.0.1:0", "--user", "nobody", "/echo=echo"]
        for instance in one, three:
            assert box.run(instance["command"] + ["--check"]).stderr == ""
        assert box.run("stat -c '%U %G %a' /etc/wssd/sub/k.pem").stdout == "root nogroup 640\n"
        assert "IP Address:10.1.2.3" in box.run("openssl x509 -noout -text -in /etc/wssd/sub/c.pem").stdout
        box.put("/etc/config/wssd", EVERYTHING.replace("/x=hub,", "/x=hab,"))
        assert box.run(init(box, "start")[0][0]["command"] + ["--check"], check=False).returncode == 2


def test_a_router_can_say_all_that_help_says(wssd):
    """Each option is one of UCI's, or one that a service has no use for."""
    script = read("dist", "openwrt", "wssd", "files", "wssd.init")
    known = {w.replace("_", "-") for m in re.findall(r"^(?:VALUES|LISTS|FLAGS)='(.*)'$", script, re.M) for w in m.split()}
    assert known | {"config", "check", "version", "help"} == \
        {o.split()[0][2:] for o in words_of_help(wssd.bare("--help").stdout)[0]}


SDK_RULES = """
INCLUDE_DIR := $(TOPDIR)/include
STAGING_DIR := $(TOPDIR)/staging
PKG_BUILD_DIR = $(TOPDIR)/build
TARGET_CC := gcc
TARGET_AR := gcc-ar
TARGET_CFLAGS := -O0 -DTARGET
TARGET_CPPFLAGS := -DCPP
TARGET_LDFLAGS := -Wl,-z,now
TARGET_CONFIGURE_OPTS = CC="$(TARGET_CC)" AR="$(TARGET_AR)"
FPIC := -fPIC
PKG_JOBS := -j2
export SOURCE_DATE_EPOCH := 1700000000
INSTALL_DIR := install -d -m0755
INSTALL_BIN := install -m0755
INSTALL_DATA := install -m0644
INSTALL_CONF := install -m0600
CP := cp -fpR
"""
SDK_PACKAGE = """
MAKE_FLAGS = $(TARGET_CONFIGURE_OPTS)
define Build/Compile/Default
	+CFLAGS="$(TARGET_CFLAGS)" LDFLAGS="$(TARGET_LDFLAGS)" $(MAKE) $(PKG_JOBS) -C $(PKG_BUILD_DIR) $(MAKE_FLAGS) $(1)
endef
define Build/Compile
	$(call Build/Compile/Default,)
endef
define BuildPackage
compile:
	$$(call Build/Compile)
dev:
	$$(call Build/InstallDev,$(TOPDIR)/dev)
install:
	$$(call Package/$(1)/install,$(TOPDIR)/root)
endef
"""


def sdk(top):
    """What of OpenWrt's SDK our recipes use, by what its documentation says of each."""
    for name, text in (("rules.mk", SDK_RULES), ("include/package.mk", SDK_PACKAGE)):
        os.makedirs(os.path.dirname(top / name), exist_ok=True)
        (top / name).write_text(text)
    return lambda recipe, *words: run("make", "-C", os.path.join(TOP, "dist", "openwrt", recipe), "TOPDIR=%s" % top, *words)


def test_the_recipe_of_wssd(tmp_path):
    """Its variables reach the compiler, BearSSL is the one of the SDK, and the files go where they belong."""
    make = sdk(tmp_path)
    shutil.copytree(TOP, tmp_path / "build", ignore=shutil.ignore_patterns("test", "build", "*.o", "wssd*", ".git", "www"))
    shutil.copytree(os.path.join(TOP, "dist", "www"), tmp_path / "build" / "dist" / "www")
    os.makedirs(tmp_path / "staging" / "usr" / "lib")
    shutil.copy(run("cc", "-print-file-name=libbearssl.a").strip(), tmp_path / "staging" / "usr" / "lib")
    text = make("wssd", "compile")
    lines = [line for line in text.splitlines() if line.startswith("gcc ")]
    assert len(lines) == 6 and all("-O0 -DTARGET -DCPP" in line and "FORTIFY" not in line for line in lines if "-c" in line)
    assert all("%s/staging/usr/include" % tmp_path in line for line in lines if " -c " in line)
    assert "bearssl" not in run("ldd", tmp_path / "build" / "wssd")
    assert "-DBUILD_DATE=1700000000" in text
    make("wssd", "install")
    root = tmp_path / "root"
    assert tree(root) == {
        "usr/sbin/wssd": 0o755, "usr/sbin/wssd-selfsign": 0o755, "etc/config/wssd": 0o600, "etc/init.d/wssd": 0o755,
        **{f: mode for f, mode in ((("usr/" + f), m) for f, m in INSTALLED.items()) if "/www/" in f}}
    assert os.path.isdir(root / "etc" / "wssd")


def test_the_recipe_of_bearssl(tmp_path):
    """With a Makefile in BearSSL's place that says what it was asked for."""
    make = sdk(tmp_path)
    for name, text in (("Makefile", "lib:\n\t@mkdir -p build; echo '$(CC) $(AR) $(CFLAGS)' | tee build/libbearssl.a\n"),
                       ("inc/bearssl.h", "")):
        os.makedirs(os.path.dirname(tmp_path / "build" / name), exist_ok=True)
        (tmp_path / "build" / name).write_text(text)
    assert re.search(r"^gcc gcc-ar -W -Wall -O0 -DTARGET -DCPP -fPIC$", make("bearssl", "compile"), re.M)
    make("bearssl", "dev")
    assert set(tree(tmp_path / "dev")) == {"usr/include/bearssl.h", "usr/lib/libbearssl.a"}


def test_versions_are_the_same():
    version = re.search(r'#define WSSD_VERSION "(.*)"', read("ws.h")).group(1)
    assert "PKG_VERSION:=%s\n" % version in read("dist", "openwrt", "wssd", "Makefile")
    assert read("dist", "debian", "changelog").startswith("wssd (%s-" % version)
