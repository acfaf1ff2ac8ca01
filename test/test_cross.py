"""For other machines: what cross.py refuses, the README's table and commands, and 32 bits that do not end in 2038."""

import os
import re
import shutil
import struct
import subprocess
import sys

import pytest

import cross
import emulated
import vmsuite

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SLOW = float(os.environ.get("WSSD_SLOW", "1"))


def readme():
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as f:
        return re.search(r"^## Cross-compiling\n(.*?)(?=^## )", f.read(), re.M | re.S).group(1)


def rows():
    """The table's rows by their first word: machine, C library, two sizes."""
    text = readme()
    text = text[text.index(cross.FENCE[0]):text.index(cross.FENCE[1])]
    found = [[c.strip() for c in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")][2:]
    return {r[0]: (r[1], r[2], int(r[3].replace(",", "")), int(r[4].replace(",", ""))) for r in found}


def test_what_is_left_out_of_emulation():
    """Is there: a file with another name would be left in, or its tests out."""
    named = [f for files in emulated.OTHERS.values() for f in files.split()] + emulated.SHORT.split()
    assert len(set(named)) == len(named)
    assert all(os.path.exists(os.path.join(TOP, "test", "test_%s.py" % f)) for f in named)


def test_what_is_left_out_of_the_machine():
    """Each file runs in vmsuite.py, or says why not; what is left out of a file is there."""
    files = {f[5:-3] for f in os.listdir(os.path.join(TOP, "test")) if re.match(r"test_.*\.py$", f)}
    named = vmsuite.FILES + " ".join(vmsuite.OTHERS.values()).split()
    assert sorted(named) == sorted(files) and set(vmsuite.PRELOADED) <= set(vmsuite.FILES)
    for file, test in (t.split("::") for tests in vmsuite.ABSENT.values() for t in tests.split()):
        with open(os.path.join(TOP, "test", "test_%s.py" % file), encoding="utf-8") as f:
            assert file in vmsuite.FILES and re.search(r"(?m)^def %s\w*\(" % test, f.read())


# ---------------------------------------------------------------------------------------------- what is refused


LOAD, INTERP, STACK, RELRO, SYMTAB, STRTAB = 1, 3, 0x6474e551, 0x6474e552, 2, 3


def program(bits=32, order="little", machine=cross.ARM, kind=2, segments=((LOAD, 5), (STACK, 6), (RELRO, 4)),
            sections=(0, STRTAB)):
    """An ELF file with these segments (type, flags) and these sections, and nothing in them."""
    e, wide = "<" if order == "little" else ">", bits == 64
    head, phsize, shsize = (64, 56, 64) if wide else (52, 32, 40)
    out = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "little" else 2, 1]) + bytes(9)
    out += struct.pack(e + "HHI", kind, machine, 1) + struct.pack(
        e + ("QQQ" if wide else "III"), 0, head, head + phsize * len(segments))
    out += struct.pack(e + "IHHHHHH", 0, head, phsize, len(segments), shsize, len(sections), 0)
    for what, flags in segments:
        out += struct.pack(e + "II48x", what, flags) if wide else struct.pack(e + "I20xI4x", what, flags)
    for what in sections:
        out += struct.pack(e + "II", 0, what) + bytes(shsize - 8)
    return out


@pytest.mark.parametrize("name", cross.TARGETS)
def test_right_program(tmp_path, name):
    t = cross.TARGETS[name]
    (tmp_path / "p").write_bytes(program(t.bits, t.order, t.machine))
    assert cross.judged(str(tmp_path / "p"), t) == "%d-bit, %s-endian, %s" % (t.bits, t.order, cross.NAMES[t.machine])


WRONG = {
    "other machine": dict(machine=cross.MIPS),
    "other order": dict(order="big"),
    "other width": dict(bits=64),
    "dynamic linker": dict(segments=((LOAD, 5), (INTERP, 4), (STACK, 6), (RELRO, 4))),
    "executable stack": dict(segments=((LOAD, 5), (STACK, 7), (RELRO, 4))),
    "no word of the stack": dict(segments=((LOAD, 5), (RELRO, 4))),
    "no RELRO": dict(segments=((LOAD, 5), (STACK, 6))),
    "symbols": dict(sections=(0, SYMTAB, STRTAB)),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_programs_are_refused(tmp_path, what):
    (tmp_path / "p").write_bytes(program(**WRONG[what]))
    with pytest.raises(cross.Failed):
        cross.judged(str(tmp_path / "p"), cross.TARGETS["armv7"])


def test_what_plain_make_leaves_is_no_static_program():
    e = cross.elf(os.path.join(TOP, "wssd"))
    assert e.interpreter and e.symbols and e.relro and not e.execstack and e.kind == "DYN"
    with pytest.raises(cross.Failed):
        cross.judged(os.path.join(TOP, "wssd"), cross.TARGETS["x86-64"])


def test_table_has_each_target():
    found = rows()
    assert list(found) == list(cross.TARGETS)
    for name, (machine, libc, server, tool) in found.items():
        t = cross.TARGETS[name]
        words = "%d-bit, %s-endian, %s" % (t.bits, t.order, cross.NAMES[t.machine])
        assert machine in (words, words + ", PIE") and libc == t.libc, name
        assert 50000 < tool < server < 2000000, name


def test_packages_have_each_compiler():
    with open(os.path.join(TOP, "test", "packages.txt")) as f:
        packages = {line.split()[1] for line in f if line.startswith("cross ")}
    for t in cross.TARGETS.values():
        assert t.machine == cross.X86_64 or "gcc-" + t.tools in packages
    assert {"musl-tools", "dpkg-dev"} <= packages


# ---------------------------------------------------------------------------------------------- what is built


def run(*command, cwd, status=0, **env):
    e = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "WSSD", "PYTEST"))}
    r = subprocess.run([str(c) for c in command], cwd=cwd, env=dict(e, **env), stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900 * SLOW)
    text = r.stdout.decode(errors="replace")
    assert (r.returncode == 0) == (status == 0), text[-3000:]
    return text


@pytest.fixture(scope="session")
def armv7():
    """The directory of the programs for armv7, and the prefix of their BearSSL."""
    run(sys.executable, os.path.join(TOP, "test", "cross.py"), "armv7", cwd=TOP)
    return os.path.join(cross.OUT, "armv7"), os.path.join(cross.OUT, "bearssl", "armv7")


@pytest.fixture
def copy(tmp_path):
    """A copy of the sources, in which nothing was built."""
    there = tmp_path / "wssd"
    (there / "dist").mkdir(parents=True)
    for f in cross.SOURCES:
        shutil.copy2(os.path.join(TOP, f), there / f)
    return there


def foreign(path):
    """This machine cannot run it, so that nobody can have."""
    with pytest.raises(OSError):
        subprocess.run([str(path), "--version"])


@pytest.mark.deep
@pytest.mark.timeout(1200)
def test_commands_of_the_readme(armv7, copy, tmp_path):
    """With a compiler of one's own: static by the README's lines, and with the target's C library by plain make."""
    shutil.copytree(cross.apt_source("bearssl"), tmp_path / "bearssl")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", readme(), re.M | re.S)
    assert "CC=arm-linux-gnueabihf-gcc" in block
    text = run("sh", "-ec", block, cwd=copy)
    assert "warning" not in text, text[-3000:]
    for f in cross.PROGRAMS:
        assert cross.elf(str(copy / f))[:7] == (32, "little", cross.ARM, "EXEC", False, False, False)
        foreign(copy / f)
    assert run("qemu-arm", copy / "wssd", "--version", cwd=copy).startswith("wssd ")

    run("make", "clean", cwd=copy)
    text = run("make", "CC=arm-linux-gnueabihf-gcc", "BEARSSL=%s" % armv7[1], cwd=copy)
    assert "warning" not in text, text[-3000:]
    needed = run("arm-linux-gnueabihf-readelf", "-dW", copy / "wssd", cwd=copy)
    assert set(re.findall(r"NEEDED.*\[(.*?)\]", needed)) <= {"libc.so.6", "ld-linux-armhf.so.3"}
    assert cross.elf(str(copy / "wssd"))[:5] == (32, "little", cross.ARM, "DYN", True)
    foreign(copy / "wssd")


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", ["(void)getpwnam(\"root\")", "(void)getaddrinfo(\"localhost\", \"1\", NULL, NULL)"])
def test_calls_that_a_static_libc_cannot_serve(armv7, copy, monkeypatch, tmp_path, call):
    """The linker's warning is the end of the build."""
    out = tmp_path / "cross"
    out.mkdir()
    for d in ("source", "bearssl"):
        os.symlink(os.path.join(cross.OUT, d), out / d)
    main = (copy / "main.c").read_text()
    assert main.count("\nmain(int argc, char **argv)\n{\n") == 1
    monkeypatch.setattr(cross, "TOP", str(copy))
    monkeypatch.setattr(cross, "OUT", str(out))
    (copy / "main.c").write_text("#include <netdb.h>\n#include <pwd.h>\n" + main.replace(
        "\nmain(int argc, char **argv)\n{\n", "\nmain(int argc, char **argv)\n{\n\t%s;\n" % call))
    with pytest.raises(cross.Failed, match="statically linked applications"):
        cross.build("armv7", cross.CFLAGS)
    assert not os.path.exists(out / "armv7" / "wssd")


@pytest.mark.deep
def test_sizes_of_the_readme(armv7):
    """They are those of the sources as they are, or of some a little older."""
    for f, size in zip(cross.PROGRAMS, rows()["armv7"][2:]):
        now = os.path.getsize(os.path.join(armv7[0], f))
        assert abs(now - size) < 0.03 * size, "%s has %d bytes; cross.py --write renews the table" % (f, now)


# The names by which glibc has those calls for a time_t of 32 bits, if a program was compiled for that.
OLD = set("time clock_gettime clock_settime gettimeofday stat fstat fstatat lstat stat64 fstat64 fstatat64 lstat64 "
          "ppoll __ppoll_chk select pselect nanosleep clock_nanosleep utimensat futimens utimes gmtime gmtime_r "
          "localtime localtime_r mktime timegm timerfd_settime recvmmsg epoll_pwait2 setitimer getitimer".split())
WARN = "-O2 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wmissing-prototypes -Wvla -Werror"
COMPILERS = {
    "gcc for armv7": "arm-linux-gnueabihf-gcc",
    "gcc for i386": "i686-linux-gnu-gcc",
    "clang for armv7": "clang --target=arm-linux-gnueabihf -isystem /usr/arm-linux-gnueabihf/include",
}


@pytest.mark.deep
@pytest.mark.parametrize("name", COMPILERS)
def test_c11_and_time_on_32_bits(armv7, copy, name):
    """As the Makefile has it compiled, nobody complains, and time_t has 64 bits: no call for one of 32 is left."""
    objects = ["main.o", "tls.o", "http.o", "ws.o", "dist/selfsign.o"]
    text = run("make", "CC=" + COMPILERS[name], "CFLAGS=%s -DBUILD_DATE=1" % WARN, "BEARSSL=" + armv7[1], *objects, cwd=copy)
    assert text.count("-std=c11") == len(objects) and "-Wpedantic" in text
    calls = {line.split()[-1] for o in objects for line in run("nm", "-u", o, cwd=copy).splitlines()}
    assert not calls & OLD
    assert {"__clock_gettime64", "__time64"} <= calls and any(c.startswith(("__fstat64_time64", "__fstatat64_time64"))
                                                              for c in calls), calls


@pytest.mark.deep
def test_time_of_32_bits_would_be_noticed(armv7, copy):
    makefile = (copy / "Makefile").read_text()
    assert makefile.count("-D_TIME_BITS=64") == 1
    (copy / "Makefile").write_text(makefile.replace("-D_TIME_BITS=64", ""))
    run("make", "CC=arm-linux-gnueabihf-gcc", "BEARSSL=" + armv7[1], "main.o", cwd=copy)
    assert {line.split()[-1] for line in run("nm", "-u", "main.o", cwd=copy).splitlines()} & OLD
