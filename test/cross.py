"""wssd and wssd-selfsign for other machines: static, stripped, with nothing to install but the two files.

    cross.py [--write] [--cflags FLAGS] [TARGET...]

Builds, for each TARGET (all of them if none is named), BearSSL from Debian's source package, its library only, and then the
two programs from a copy of the sources, with Debian's cross compilers: build/cross/TARGET/wssd and wssd-selfsign. Nothing of
what was built is executed. What is up to date stays. A program is refused, with exit status 1, when the linker has anything
to say (a call that a static glibc cannot serve is a warning of its), and when its ELF header is not what the table below
says: another machine, a dynamic linker, symbols, a stack that may be executed, relocations that stay writable.

It prints a table; --write puts that into the README. The module is also what builds BearSSL and musl for other scripts.
"""

import argparse
import collections
import concurrent.futures
import fcntl
import glob
import hashlib
import os
import shutil
import struct
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUT = os.path.join(TOP, "build", "cross")
README = os.path.join(TOP, "README.md")
FENCE = "<!-- cross -->", "<!-- end of cross -->"
SOURCES = ["ws.h", "main.c", "tls.c", "http.c", "ws.c", "dist/selfsign.c", "dist/built.sh", "Makefile"]
PROGRAMS = ["wssd", "wssd-selfsign"]
NICE = ["nice", "-n", str(max(0, 15 - os.nice(0)))]

# tools: what stands before -gcc; machine: e_machine of ELF; emulator: what runs it here, which nothing in this file does
Target = collections.namedtuple("Target", "tools libc bits order machine emulator")
ARM, AARCH64, MIPS, S390, RISCV, I386, X86_64 = 40, 183, 8, 22, 243, 3, 62
TARGETS = {
    "armv7": Target("arm-linux-gnueabihf", "glibc", 32, "little", ARM, "qemu-arm"),
    "armv7-musl": Target("arm-linux-gnueabihf", "musl", 32, "little", ARM, "qemu-arm"),
    "aarch64": Target("aarch64-linux-gnu", "glibc", 64, "little", AARCH64, "qemu-aarch64"),
    "mipsel": Target("mipsel-linux-gnu", "glibc", 32, "little", MIPS, "qemu-mipsel"),
    "mipsel-musl": Target("mipsel-linux-gnu", "musl", 32, "little", MIPS, "qemu-mipsel"),
    "mips": Target("mips-linux-gnu", "glibc", 32, "big", MIPS, "qemu-mips"),
    "s390x": Target("s390x-linux-gnu", "glibc", 64, "big", S390, "qemu-s390x"),
    "riscv64": Target("riscv64-linux-gnu", "glibc", 64, "little", RISCV, "qemu-riscv64"),
    "i386": Target("i686-linux-gnu", "glibc", 32, "little", I386, "qemu-i386"),
    "x86-64": Target("x86_64-linux-gnu", "glibc", 64, "little", X86_64, None),
    "x86-64-musl": Target("x86_64-linux-gnu", "musl", 64, "little", X86_64, None),
}
NAMES = {ARM: "ARM", AARCH64: "AArch64", MIPS: "MIPS", S390: "S/390", RISCV: "RISC-V", I386: "Intel 80386", X86_64: "x86-64"}

GC = "-ffunction-sections -fdata-sections"
CFLAGS = "-O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE " + GC
LDFLAGS = "%s -s -Wl,--gc-sections -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--fatal-warnings"


class Failed(Exception):
    """Something cannot be built here; the sentence says why."""


def note(text):
    print("cross: " + text, file=sys.stderr, flush=True)


def run(*command, cwd=None, env=None, timeout=1800):
    """Runs a command to its end; its output, or Failed with the last of it."""
    env = {k: v for k, v in (env or os.environ).items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")}
    r = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=timeout)
    text = r.stdout.decode(errors="replace")
    if r.returncode != 0:
        raise Failed("%s: status %d: %s" % (" ".join(command[:8]), r.returncode, text[-800:]))
    return text


def locked():
    """One at a time builds here; until the file is closed."""
    os.makedirs(OUT, exist_ok=True)
    lock = open(os.path.join(OUT, "lock"), "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


# ---- sources, BearSSL, musl


def apt_source(package):
    """Debian's source of a package, unpacked: fetched with lists and a sources list of our own, used for this alone."""
    found = glob.glob(os.path.join(OUT, "source", package + "-*", ""))
    if found:
        return found[0].rstrip("/")
    base = os.path.join(OUT, "apt")
    for d in ("lists/partial", "cache/archives/partial", "empty"):
        os.makedirs(os.path.join(base, d), exist_ok=True)
    os.makedirs(os.path.join(OUT, "source"), exist_ok=True)
    known = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    with open(os.path.join(base, "sources.list"), "w") as f:
        f.writelines(sorted({"deb-src %s\n" % line for line in known.splitlines()}))
    options = ["Dir::Etc::sourcelist=" + os.path.join(base, "sources.list"), "Dir::Etc::sourceparts=" + base + "/empty",
               "Dir::State::lists=" + base + "/lists", "Dir::Cache=" + base + "/cache", "APT::Sandbox::User=root",
               "Acquire::Languages=none"]
    apt = NICE + ["apt-get", "-q"] + [w for o in options for w in ("-o", o)]
    run(*apt, "update")
    run(*apt, "source", package, cwd=os.path.join(OUT, "source"))
    return glob.glob(os.path.join(OUT, "source", package + "-*", ""))[0].rstrip("/")


def stamp_of(tree):
    """What tells whether a tree of sources has changed: the newest file in it."""
    return max((os.stat(os.path.join(d, f)).st_mtime for d, _, fs in os.walk(tree) for f in fs if f.endswith((".c", ".h"))),
               default=0)


def bearssl(tree, prefix, cc, cflags, tools=""):
    """libbearssl.a from a tree, built outside of it: a prefix with include/ and lib/. tools: what stands before ar."""
    stamp = "%s %s %s %s" % (tree, cc, cflags, stamp_of(tree))
    mark = os.path.join(prefix, "stamp")
    if os.path.exists(mark) and open(mark).read() == stamp:
        return prefix
    shutil.rmtree(prefix, ignore_errors=True)
    for d in ("include", "lib", "obj"):
        os.makedirs(os.path.join(prefix, d))
    for header in glob.glob(os.path.join(tree, "inc", "*.h")):
        shutil.copy(header, os.path.join(prefix, "include"))
    note("builds BearSSL: " + os.path.relpath(prefix, TOP))
    run(*NICE, "make", "-s", "-C", tree, "lib", "CC=" + cc, "CFLAGS=" + cflags, "BUILD=" + prefix,
        "AR=%sar" % tools, "BEARSSLLIB=" + prefix + "/lib/libbearssl.a")
    shutil.rmtree(os.path.join(prefix, "obj"))
    with open(mark, "w") as f:
        f.write(stamp)
    return prefix


def musl(tools, tree, prefix):
    """A compiler for a target that Debian has a compiler with glibc for: its gcc, and musl from Debian's source."""
    cc = os.path.join(prefix, "bin", "musl-gcc")
    if os.path.exists(cc):
        return cc
    there = prefix + "-build"
    shutil.rmtree(there, ignore_errors=True)
    os.makedirs(there)
    note("builds musl: " + os.path.relpath(prefix, TOP))
    env = dict(os.environ, CC=tools + "-gcc", CROSS_COMPILE=tools + "-", CFLAGS="-Os " + GC)
    run(*NICE, os.path.join(tree, "configure"), "--target=" + tools, "--prefix=" + prefix, "--disable-shared",
        "--enable-wrapper=gcc", cwd=there, env=env)
    run(*NICE, "make", "-s", "install", cwd=there, env=env)
    shutil.rmtree(there)
    return cc


# ---- what was built


Elf = collections.namedtuple("Elf", "bits order machine kind interpreter symbols execstack relro")


def elf(path):
    """What the header of a program says: kind is EXEC or DYN, the last four are true or false."""
    with open(path, "rb") as f:
        data = f.read()
    if data[:4] != b"\x7fELF":
        raise Failed("%s is no ELF file" % path)
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    kind, machine = struct.unpack_from(order + "HH", data, 16)
    phoff, shoff = struct.unpack_from(order + ("QQ" if wide else "II"), data, 32 if wide else 28)
    phsize, phnum, shsize, shnum = struct.unpack_from(order + "HHHH", data, 54 if wide else 42)
    segments = {}
    for i in range(phnum):
        at = phoff + i * phsize
        segments[struct.unpack_from(order + "I", data, at)[0]] = struct.unpack_from(
            order + "I", data, at + (4 if wide else 24))[0]
    sections = {struct.unpack_from(order + "I", data, shoff + i * shsize + 4)[0] for i in range(shnum)}
    stack = segments.get(0x6474e551)  # PT_GNU_STACK; without one the kernel makes the stack executable
    return Elf(64 if wide else 32, "little" if order == "<" else "big", machine, {2: "EXEC", 3: "DYN"}.get(kind, kind),
               3 in segments, 2 in sections, stack is None or bool(stack & 1), 0x6474e552 in segments)


def judged(path, target):
    """The words of the table for a program, or Failed."""
    e = elf(path)
    found = [(e.bits, e.order, e.machine) == (target.bits, target.order, target.machine), not e.interpreter, not e.symbols,
             not e.execstack, e.relro]
    if not all(found):
        raise Failed("%s: %r is not what %r asks for" % (path, e, target))
    return "%d-bit, %s-endian, %s%s" % (e.bits, e.order, NAMES[e.machine], ", PIE" if e.kind == "DYN" else "")


# ---- the builds


def compiler(target, name):
    if not shutil.which(target.tools + "-gcc"):
        raise Failed("no %s-gcc" % target.tools)
    if target.libc == "glibc":
        return target.tools + "-gcc"
    if target.machine == X86_64:
        return "musl-gcc"
    return musl(target.tools, apt_source("musl"), os.path.join(OUT, "musl", name))


def ldflags(target, cc):
    """A static PIE where the C library can be one. The specs of musl-gcc do not know it; and of glibc's for i386 the linker
    says "unsupported non-PIC call to IFUNC"."""
    crt = run(cc, "-print-file-name=rcrt1.o").strip()
    pie = os.path.isabs(crt) and target.libc == "glibc" and target.machine != I386
    return LDFLAGS % ("-static-pie" if pie else "-static")


def date():
    """As the Makefile finds it, for the copy that it works in is below the checkout."""
    r = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return os.environ.get("SOURCE_DATE_EPOCH") or r.stdout.decode().strip()


def build(name, cflags):
    """Both programs; the path of their directory."""
    target, there = TARGETS[name], os.path.join(OUT, name)
    cc = compiler(target, name)
    prefix = bearssl(apt_source("bearssl"), os.path.join(OUT, "bearssl", name), cc, cflags, target.tools + "-")
    flags = ldflags(target, cc)
    stamp = hashlib.sha256(repr((cc, cflags, flags, date(), open(prefix + "/stamp").read())).encode())
    for f in SOURCES:
        stamp.update(open(os.path.join(TOP, f), "rb").read())
    mark = os.path.join(there, "stamp")
    if not os.path.exists(mark) or open(mark).read() != stamp.hexdigest():
        shutil.rmtree(there, ignore_errors=True)
        work = os.path.join(there, "work")
        os.makedirs(work + "/dist")
        for f in SOURCES:
            shutil.copy2(os.path.join(TOP, f), os.path.join(work, f))
        note("builds wssd: " + os.path.relpath(there, TOP))
        run(*NICE, "make", "-s", "CC=" + cc, "CFLAGS=" + cflags, "LDFLAGS=" + flags, "BEARSSL=" + prefix, cwd=work)
        for f in PROGRAMS:
            os.rename(os.path.join(work, f), os.path.join(there, f))
        shutil.rmtree(work)
        with open(mark, "w") as f:
            f.write(stamp.hexdigest())
    for f in PROGRAMS:
        judged(os.path.join(there, f), target)
    return there


def table(names):
    out = ["| target | machine | C library | wssd, bytes | wssd-selfsign, bytes |", "|---|---|---|--:|--:|"]
    for name in names:
        there, target = os.path.join(OUT, name), TARGETS[name]
        sizes = ["{:,}".format(os.path.getsize(os.path.join(there, f))) for f in PROGRAMS]
        words = [name, judged(os.path.join(there, "wssd"), target), target.libc]
        out.append("| %s |" % " | ".join(words + sizes))
    return "\n".join(out) + "\n"


def write(section):
    """Puts the table into the README, between its marks."""
    with open(README) as f:
        text = f.read()
    begin, end = text.index(FENCE[0]) + len(FENCE[0]), text.index(FENCE[1])
    with open(README, "w") as f:
        f.write(text[:begin] + "\n" + section + text[end:])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--write", action="store_true", help="put the table into the README")
    p.add_argument("--cflags", default=CFLAGS, help="default: %(default)s")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at a time (%(default)s)")
    p.add_argument("target", nargs="*", help="of %s" % ", ".join(TARGETS))
    args = p.parse_args()
    names = args.target or list(TARGETS)
    for name in names:
        if name not in TARGETS:
            p.error("%s is none of %s" % (name, ", ".join(TARGETS)))
    failed = []
    with locked(), concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        try:
            for package in ["bearssl"] + ["musl"] * any(TARGETS[n].libc == "musl" for n in names):
                apt_source(package)
        except Failed as e:
            sys.exit("cross: %s" % e)
        for name, job in [(name, pool.submit(build, name, args.cflags)) for name in names]:
            try:
                job.result()
            except (Failed, OSError, subprocess.TimeoutExpired) as e:
                note("%s: %s" % (name, e))
                failed.append(name)
    built = [name for name in names if name not in failed]
    print(table(built), end="")
    if failed:
        sys.exit("cross: not built: " + ", ".join(failed))
    if args.write:
        if args.target or args.cflags != CFLAGS:
            p.error("the README's table has all targets, with the flags that are the default")
        write(table(built))


if __name__ == "__main__":
    main()
