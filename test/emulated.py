"""The system tests against wssd as it is for other machines, which qemu's user mode takes for this one, or with musl.

    emulated.py [--jobs N] [--slow N] [--short] TARGET... [-- WORDS FOR PYTEST]

For each TARGET of cross.py: builds it there, then runs each test of the suite that asks a server, or wssd-selfsign, and is
not marked `deep` (takes minutes) or `native` (asks for a call that qemu's user mode does not know, or a speed that it has
not). Files left out stand in OTHERS; --short runs those of SHORT only. The server is emulated, and wssd-selfsign; clients,
backends and openssl are those of this machine, and its kernel serves both. What this machine runs by itself (x86-64-musl,
i386) runs without qemu, tests marked `native` among them, and no server may start without its filter (WSSD_FILTERED, see
conftest.py). Exit status 0 only if all passed.
"""

import argparse
import os
import subprocess
import sys
import time

import cross

HERE = os.path.dirname(os.path.abspath(__file__))
OTHERS = {
    "ask no server": "audit bench_report covered cross fuzz unit wsraw",
    "make what they run, or run what this machine does": "bench build dist newcomer readme soak",
    "are beside the server in its process, or trace it, which are qemu's": "calls faults sandbox",
}
PRELOADED = "clock"  # has a shim in the server's process, or in qemu's; a static program alone has no place for it
SHORT = "access backends clock conformance selfsign tls"  # whatever depends on the machine's words and on its BearSSL


def files(short, emulator):
    """What to tell pytest of files."""
    others = " ".join(OTHERS.values()).split() + [PRELOADED] * (not emulator)
    if short:
        return [os.path.join(HERE, "test_%s.py" % f) for f in SHORT.split() if f not in others]
    return ["--ignore=" + os.path.join(HERE, "test_%s.py" % f) for f in others] + [HERE]


def tool(name):
    """A program that the tests can run as wssd-selfsign."""
    path = os.path.join(cross.OUT, name, "emulated-selfsign")
    with open(path, "w") as f:
        f.write('#!/bin/sh\nexec %s "${0%%/*}/wssd-selfsign" "$@"\n' % (cross.TARGETS[name].emulator or ""))
    os.chmod(path, 0o755)
    return path


def suite(name, args, words):
    """The exit status of the tests for this target."""
    emulator = cross.TARGETS[name].emulator
    env = dict(os.environ, WSSD=os.path.join(cross.OUT, name, "wssd"), WSSD_WRAP=emulator or "", WSSD_SELFSIGN=tool(name),
               WSSD_SLOW=str(args.slow if emulator else 1))
    if not emulator:
        env["WSSD_FILTERED"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(args.jobs), "-m", "not deep" + " and not native" * bool(emulator),
               "--timeout", "900"]
    if not any(w.startswith("test/") for w in words):
        command += files(args.short, emulator)
    return subprocess.run(command + words, env=env, cwd=cross.TOP, stdin=subprocess.DEVNULL).returncode


def main():
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    words = sys.argv[cut + 1:]
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--slow", type=float, default=4, help="factor on the patience of the tests (%(default)s)")
    p.add_argument("--short", action="store_true", help="only: " + SHORT)
    p.add_argument("target", nargs="+", choices=list(cross.TARGETS), metavar="TARGET")
    args = p.parse_args(sys.argv[1:cut])
    status = subprocess.run([sys.executable, os.path.join(HERE, "cross.py")] + args.target).returncode
    if status:
        sys.exit(status)
    for name in args.target:
        print("== %s, by %s" % (name, cross.TARGETS[name].emulator or "this machine itself"), flush=True)
        began = time.monotonic()
        status = suite(name, args, words) or status
        print("%s: %.0f s" % (name, time.monotonic() - began), flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
