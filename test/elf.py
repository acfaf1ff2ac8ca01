"""What hardens a binary, as readelf sees it.

    elf.py [--static] FILE...    a line for each thing that is missing; exit status 1 when there is one

Position-independent, read-only relocations that are all made at the start, a stack that is not executable, no segment that
is writable and executable, no relocations in code, no path of the build where libraries are looked for. --static: without an
interpreter, too. What hardens the code itself (stack protector, fortified calls) shows in the objects: see symbols().
"""

import os
import re
import subprocess
import sys


def tool(*command):
    r = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
                       env=dict(os.environ, LC_ALL="C"))
    text = r.stdout.decode(errors="replace")
    if r.returncode != 0:
        raise RuntimeError("%s: %s" % (" ".join(command), text))
    return text


class Binary:
    """pie, static, relro, now (all relocations are made at the start), textrel, paths: as they are in a file; segments:
    pairs of type and flags."""

    def __init__(self, file):
        text = tool("readelf", "-hldW", file)
        self.segments = [(m.group(1), m.group(2).replace(" ", "")) for m in re.finditer(
            r"^  ([A-Z_]+) +0x\w+ 0x\w+ 0x\w+ 0x\w+ 0x\w+ ([R ][W ][E ]) ", text, re.M)]
        types = [t for t, _ in self.segments]
        self.pie = re.search(r"^  Type: +DYN ", text, re.M) is not None
        self.static = "INTERP" not in types
        self.relro = "GNU_RELRO" in types
        # without a dynamic linker nothing is left for later
        self.now = self.static or re.search(r"\(FLAGS\) .*BIND_NOW|\(BIND_NOW\)|\(FLAGS_1\) .*NOW", text) is not None
        self.textrel = re.search(r"\(TEXTREL\)|\(FLAGS\) .*TEXTREL", text) is not None
        self.paths = re.findall(r"\((?:RPATH|RUNPATH)\) .*\[(.*)\]", text)

    def words(self):
        """Those that dist/built.sh has for the binary."""
        words = {"static": self.static, "PIE": self.pie, "full RELRO": self.relro and self.now}
        return {w for w, there in words.items() if there}

    def findings(self, static=False):
        out = []
        if not self.pie:
            out.append("is not position-independent")
        if static and not self.static:
            out.append("needs a dynamic linker")
        if not self.relro:
            out.append("has relocations that stay writable")
        if not self.now:
            out.append("makes relocations late")
        if [f for t, f in self.segments if t == "GNU_STACK"] != ["RW"]:
            out.append("has an executable stack")
        if [t for t, f in self.segments if t == "LOAD" and "W" in f and "E" in f]:
            out.append("has code that is writable")
        if not [t for t, f in self.segments if t == "LOAD" and "E" in f]:
            out.append("has no code that readelf can see")
        if self.textrel:
            out.append("has relocations in code")
        return out + ["looks for libraries in " + p for p in self.paths]


def symbols(*objects):
    """What object files, or a dynamically linked binary, take from elsewhere."""
    text = "".join(tool("nm", *(["-D"] if open(f, "rb").read(18)[16] != 1 else []), "--undefined-only", f) for f in objects)
    return {line.split()[-1].partition("@")[0] for line in text.splitlines() if " U " in line}


def code_words(*objects):
    """Those that dist/built.sh has for the code."""
    names = symbols(*objects)
    out = {"stack protector"} if names & {"__stack_chk_fail", "__stack_chk_fail_local"} else set()
    return out | ({"fortified"} if any(re.fullmatch(r"__\w+_chk", n) for n in names) else set())


def main(args):
    static = "--static" in args
    bad = ["%s %s" % (f, x) for f in args if f != "--static" for x in Binary(f).findings(static)]
    print("\n".join(bad), end="\n" if bad else "")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
