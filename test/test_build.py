"""What `make` makes: the same bytes everywhere and on every day, hardened, and `wssd --version` tells the truth of it."""

import os
import re
import shutil
import struct
import subprocess
import time

import pytest

import elf
import wsraw

SLOW = wsraw.SLOW
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILES = ["Makefile", "ws.h", "main.c", "tls.c", "http.c", "ws.c", "dist/selfsign.c", "dist/built.sh"]
OBJECTS = ["main.o", "tls.o", "http.o", "ws.o"]
BINARIES = ["wssd", "wssd-selfsign"]
COMMITTED = 1700000000
pytestmark = pytest.mark.xdist_group("build")  # one worker builds for all


def run(*command, cwd, umask=0o022, **env):
    """From a login's environment, not that of the make that runs these tests."""
    e = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "WSSD", "PYTEST", "SOURCE_DATE"))}
    e.update(env)
    r = subprocess.run([str(c) for c in command], cwd=str(cwd), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, env=e, timeout=200 * SLOW, preexec_fn=lambda: os.umask(umask))
    text = r.stdout.decode(errors="replace")
    assert r.returncode == 0, text
    return text


def checkout(where, committed=None):
    """The sources as they are here; committed: as the one commit of a repository, at that time."""
    (where / "dist").mkdir(parents=True)
    for f in FILES:
        shutil.copy(os.path.join(TOP, f), where / f)
    if committed:
        who = ["-c", "user.name=Nobody", "-c", "user.email=nobody@localhost"]
        run("git", "init", "-q", cwd=where)
        run("git", "add", ".", cwd=where)
        run("git", *who, "commit", "-q", "-m", "all", cwd=where, GIT_COMMITTER_DATE="%d +0000" % committed)
    return where


def contents(where, names=BINARIES):
    return {f: (where / f).read_bytes() for f in names}


@pytest.fixture(scope="module")
def calendar(tmp_path_factory):
    """What puts a program elsewhere in time, as its environment."""
    d = tmp_path_factory.mktemp("calendar")
    run("gcc", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "-o", d / "clock.so", "test/faults/clock.c", cwd=TOP)

    def at(seconds):
        file = d / str(seconds)
        file.write_bytes(struct.pack("=qq", int(seconds - time.time()), 0))
        return {"LD_PRELOAD": str(d / "clock.so"), "WSSD_CLOCK": str(file)}

    return at


@pytest.fixture(scope="module")
def built(tmp_path_factory, calendar):
    """Two builds of one commit, as different as two places can be."""
    top = tmp_path_factory.mktemp("build")
    one = checkout(top / "a", COMMITTED)
    two = checkout(top / "another" / "place" / "with-a-longer-name", COMMITTED)
    run("make", cwd=one, LC_ALL="C", TZ="UTC", HOME="/")
    run("make", cwd=two, umask=0o077, LC_ALL="C.UTF-8", TZ="Pacific/Kiritimati", HOME=str(two), USER="somebody",
        **calendar(COMMITTED + 400 * 86400))
    return one, two


def test_two_places_on_two_days_give_the_same_bytes(built):
    one, two = contents(built[0]), contents(built[1])
    assert one == two
    assert struct.pack("<i", COMMITTED) in one["wssd-selfsign"], "the build date is not that of the commit"
    for name, data in one.items():
        for trace in (str(built[0].parent).encode(), b"/tmp/", b"/root", b"/home"):
            assert trace not in data, "%s names %s" % (name, trace.decode())


def test_what_differs_would_be_noticed(built, calendar, tmp_path):
    """The compiler does see another day, and its place; another date makes another wssd-selfsign."""
    (tmp_path / "a.c").write_text('const char *a = __DATE__ " " __FILE__;\n')
    made = []
    for day, file in ((COMMITTED, "a.c"), (COMMITTED + 400 * 86400, "a.c"), (COMMITTED, tmp_path / "a.c")):
        run("cc", "-c", "-o", "a.o", file, cwd=tmp_path, **calendar(day))
        made.append((tmp_path / "a.o").read_bytes())
    assert len(set(made)) == 3
    other = checkout(tmp_path / "other", COMMITTED)
    run("make", "wssd-selfsign", "CFLAGS=-O0 -fPIE", cwd=other, SOURCE_DATE_EPOCH="1600000000")
    data = (other / "wssd-selfsign").read_bytes()
    assert struct.pack("<i", 1600000000) in data and struct.pack("<i", COMMITTED) not in data


def test_debugging_information_needs_a_map(built, tmp_path):
    """-g names the folder, unless -ffile-prefix-map is with it; the code stays the same."""
    places = [checkout(tmp_path / n) for n in ("a", "elsewhere")]
    made = {}
    for flags in ("-O0 -fPIE -g", "-O0 -fPIE -g -ffile-prefix-map=%s=."):
        for where in places:
            run("make", "http.o", "CFLAGS=" + (flags % where if "%" in flags else flags), cwd=where)
            made[flags, where, "whole"] = (where / "http.o").read_bytes()
            run("strip", "-g", "http.o", cwd=where)
            made[flags, where, "code"] = (where / "http.o").read_bytes()
            os.unlink(where / "http.o")
        whole, code = ([made[flags, where, part] for where in places] for part in ("whole", "code"))
        assert (whole[0] == whole[1]) == ("map" in flags)
        assert code[0] == code[1]


# ---- hardened


@pytest.mark.parametrize("name", BINARIES)
def test_hardened(built, name):
    assert elf.Binary(str(built[0] / name)).findings() == []
    assert elf.code_words(str(built[0] / name)) == {"stack protector", "fortified"}


def test_objects_are_hardened(built):
    """Each of the four has a protected stack; where bytes are read or printed, the calls are fortified."""
    for f in OBJECTS:
        assert "stack protector" in elf.code_words(str(built[0] / f)), f
    assert {"__vsnprintf_chk", "__snprintf_chk", "__memcpy_chk"} <= elf.symbols(*[str(built[0] / f) for f in OBJECTS])


def test_version_says_so(built):
    text = run(built[0] / "wssd", "--version", cwd=TOP)
    m = re.fullmatch(r"wssd [\d.]+, BearSSL 0\.6, (\S+), PIE, full RELRO, stack protector, fortified\n", text)
    assert m and m.group(1) == run("cc", "-dumpmachine", cwd=TOP).strip(), text


SMALL = r"""
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv)
{
	char text[64];

	strcpy(text, argv[argc - 1]);
	puts(text);
	return 0;
}
"""


def defaults():
    """CFLAGS and LDFLAGS of the Makefile."""
    text = open(os.path.join(TOP, "Makefile")).read()
    return [w for name in ("CFLAGS", "LDFLAGS") for w in re.search(r"^%s *= *(.*)$" % name, text, re.M).group(1).split()]


def small(where, compiler, flags, text=SMALL):
    """A program, and the object it is made of; None when this compiler cannot make it."""
    (where / "small.c").write_text(text)
    for f in ("small", "small.o"):
        if (where / f).exists():
            os.unlink(where / f)
    compile_flags = [f for f in flags if not f.startswith("-Wl,") and "pie" not in f.lower() and f != "-static"] + \
        [f for f in flags if f in ("-fPIE", "-fno-pie")]
    for command in (compile_flags + ["-c", "-o", "small.o", "small.c"], flags + ["-o", "small", "small.o"]):
        r = subprocess.run(compiler + command, cwd=str(where), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if r.returncode != 0:
            return r.stdout.decode(errors="replace"), None
    return str(where / "small"), str(where / "small.o")


@pytest.mark.parametrize("flags, finding", [
    ("-no-pie", "is not position-independent"),
    ("-Wl,-z,norelro", "has relocations that stay writable"),
    ("-Wl,-z,lazy", "makes relocations late"),
    ("-Wl,-z,execstack", "has an executable stack"),
    ("-DWRITABLE", "has code that is writable"),
    ("-Wl,-z,notext", "has relocations in code"),
    ("-Wl,-rpath,/opt/lib", "looks for libraries in /opt/lib"),
])
def test_a_bad_binary_is_noticed(tmp_path, flags, finding):
    more = {"-Wl,-z,notext": '__asm__(".text\\n.quad main\\n");\n',
            "-DWRITABLE": '__asm__(".section .wx,\\"awx\\"\\n.quad 0\\n.text\\n");\n'}
    file, obj = small(tmp_path, ["gcc"], defaults() + [flags], SMALL + more.get(flags, ""))
    assert obj, file
    assert finding in elf.Binary(file).findings()
    r = subprocess.run(["/usr/bin/python3", os.path.join(TOP, "test", "elf.py"), file], stdout=subprocess.PIPE)
    assert r.returncode == 1 and finding in r.stdout.decode()


@pytest.mark.parametrize("flags, lost", [("-fno-stack-protector", "stack protector"), ("-U_FORTIFY_SOURCE", "fortified"),
                                         ("-O0", "fortified")])
def test_bad_code_is_noticed(tmp_path, flags, lost):
    assert elf.code_words(small(tmp_path, ["gcc"], defaults())[1]) == {"stack protector", "fortified"}
    assert elf.code_words(small(tmp_path, ["gcc"], defaults() + [flags])[1]) == {"stack protector", "fortified"} - {lost}


HARD = ["-O2", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-fPIE", "-Wl,-z,relro,-z,now"]


@pytest.mark.parametrize("compiler", ["gcc", "clang", "musl-gcc"])
def test_words_of_built_sh(tmp_path, compiler):
    """They are those of readelf, for whatever flags."""
    if not shutil.which(compiler):
        pytest.skip("no %s here (Debian: musl-tools)" % compiler)
    header = []
    if compiler == "musl-gcc":  # which does not look where BearSSL's header is
        for f in os.listdir("/usr/include/bearssl"):
            shutil.copy(os.path.join("/usr/include/bearssl", f), tmp_path)
        header = ["-isystem", str(tmp_path)]
    seen = set()
    for flags in (*[HARD + more.split() for more in (
            "-pie", "-static", "-static-pie", "-no-pie", "-pie -Wl,-z,norelro", "-pie -Wl,-z,lazy", "-pie -U_FORTIFY_SOURCE",
            "-pie -fno-stack-protector")], ["-O2"], ["-O0"] + HARD[1:]):
        file, obj = small(tmp_path, [compiler], flags)
        assert obj, file
        line = run("sh", os.path.join(TOP, "dist", "built.sh"), compiler, *header, *flags, cwd=tmp_path).strip()
        version, target, *words = line.split(", ")
        assert version == "BearSSL 0.6" and target == run(compiler, "-dumpmachine", cwd=TOP).strip()
        assert set(words) == elf.Binary(file).words() | elf.code_words(obj), (flags, line)
        seen |= set(words)
    assert seen == {"static", "PIE", "full RELRO", "stack protector"} | ({"fortified"} if compiler != "musl-gcc" else set())


def test_static_as_gcc_for_arm_calls_it(tmp_path):
    """-Bstatic, to its linker, which beside -Bdynamic means one library."""
    cc = tmp_path / "arm-cc"
    cc.write_text('#!/bin/sh\n{ gcc "$@" 3>&1 1>&2 2>&3 3>&- | sed "/collect2/s/ -static / -Bstatic /"; } 3>&1 1>&2 2>&3 3>&-\n')
    cc.chmod(0o755)
    for flags, static in ((["-static"], True), (["-static-pie"], True), (["-pie"], False),
                          (["-fsanitize=address", "-static-libasan"], False)):
        r = subprocess.run([cc, *flags, "-###", "-x", "c", "/dev/null"], stderr=subprocess.PIPE, text=True)
        assert "-static " not in r.stderr.splitlines()[-1] and (" -Bstatic " in r.stderr) == ("-pie" not in flags)
        line = run("sh", os.path.join(TOP, "dist", "built.sh"), cc, *flags, cwd=tmp_path).strip()
        assert ("static" in line.split(", ")) == static, line


def test_words_where_nothing_can_be_asked(tmp_path):
    """No compiler, no header: the build will fail, and say why; a BearSSL after 0.6 is one."""
    script = os.path.join(TOP, "dist", "built.sh")
    assert run("sh", script, "no-such-cc", cwd=tmp_path) == "BearSSL\n"
    (tmp_path / "bearssl.h").write_text("#define BR_FEATURE_X509_TIME_CALLBACK 1\n")
    assert run("sh", script, "gcc", "-I.", cwd=tmp_path).startswith("BearSSL after 0.6, ")
