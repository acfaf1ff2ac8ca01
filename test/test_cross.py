"""For other machines: what cross.py refuses, and the README's table."""

import os
import re
import struct

import pytest

import cross
import emulated

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def readme():
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as f:
        return re.search(r"^## Cross-compiling\n(.*?)(?=^## )", f.read(), re.M | re.S).group(1)


def rows():
    """The table's rows by their first word: machine, C library, two sizes."""
    text = readme()
    text = text[text.index(cross.FENCE[0]):text.index(cross.FENCE[1])]
    found = [[c.strip() for c in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")][2:]
    return {r[0]: (r[1], r[2], int(r[3].replace(",", "")), int(r[4].replace(",", ""))) for r in found}


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


def test_what_is_left_out_of_emulation():
    """Is there: a file with another name would be left in, or its tests out."""
    named = [f for files in emulated.OTHERS.values() for f in files.split()] + emulated.SHORT.split()
    assert len(set(named)) == len(named)
    assert all(os.path.exists(os.path.join(TOP, "test", "test_%s.py" % f)) for f in named)
