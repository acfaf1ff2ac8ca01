"""The system tests inside a machine of its own: Debian's kernel and Debian's programs for 32-bit ARM, in qemu, as root.

    vmsuite.py [--memory MIB] [--jobs N] [--slow N] [FILE...] [-- WORDS FOR PYTEST]

There each server runs under the filter of system calls of another architecture, in a kernel of it: one that started without
would fail (WSSD_FILTERED, see conftest.py). The machine is that of vm.py with two processors, more memory, a disk and no
network. On the disk are Debian's packages for armhf, unpacked (python3, pytest, openssl, gcc), this checkout's files, and
two builds of wssd by cross.py's compiler, a static one, and a dynamic one for files that preload a library.

FILE: sandbox, tls, ...: of FILES, and all of them if none is named. What pytest says comes by the serial line. The last line
is N passed, N failed; exit status 0 only if all passed.
"""

import argparse
import glob
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

if __name__ == "__main__":
    os.environ.setdefault("WSSD_SLOW", "10")  # as vm.py has it, and for the same reason
import cross  # noqa: E402
import vm  # noqa: E402

KIND = vm.KINDS["arm"]
PACKAGES = """base-files base-passwd bash binutils coreutils curl dash findutils gcc grep iproute2 libbearssl-dev libc6-dev
    mount musl-tools openssl procps python3 python3-cryptography python3-pytest python3-pytest-timeout python3-pytest-xdist
    python3-selenium python3-websockets sed socat strace util-linux"""
MODULES = "virtio_mmio virtio_blk crc16 crc32c_generic libcrc32c mbcache jbd2 ext4 inet_diag tcp_diag"
UNUSED = "usr/share/doc usr/share/locale usr/share/man usr/share/perl usr/share/info"
FILES = "sandbox conformance tls http backends seqpacket lifecycle access proxy credentials backpressure chain".split()
ABSENT = {  # tests whose names begin so
    "Chromium": "access::test_chromium credentials::test_chromium",
    "HAProxy": "proxy::test_haproxy",
    "Node.js": "credentials::test_node",
    "the namespaces of a recipe": "credentials::test_readme_credentials",
    "more than 32 bits of addresses": "seqpacket::test_a_small_packet_costs_little",
    "a VmRSS that is right at once": "backends::test_backend_never_reads",
}
OTHERS = {
    "need programs that are not in there": "apps browser clients cluster differential mqtt recipes serial",
    "ask no server": "audit bench_report covered cross fuzz readme unit wsraw",
    "build or run what the host does": "bench build calls dist newcomer selfsign soak",
    "preload what knows the C library of 64-bit machines only": "clock faults",
    "measure time or take gigabytes": "abuse big",
}
PRELOADED = ["sandbox"]  # has the dynamic wssd
LIMIT = 2 * 3600  # seconds for a file

# in the initramfs, and then on the disk
FIRST = """#!/bin/sh
mount -t devtmpfs dev /dev
for m in %s; do insmod /lib/$m.ko; done
mount -t ext4 -o noatime /dev/vda /root
umount /dev
exec switch_root /root /init
"""
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
stty -echo cols 150
ip link set lo up
ulimit -n 20000
echo device >/proc/sys/kernel/hostname
cd /wssd
echo started
while read -r line; do
	eval "$line"
	echo "status $?"
done
"""


def packages(there):
    """Debian's packages and what they depend on, unpacked below a directory; no script of theirs runs."""
    if os.path.isdir(there):
        return
    root = there + ".new"
    shutil.rmtree(root, ignore_errors=True)
    for d in ("bin", "lib", "sbin"):
        os.makedirs(os.path.join(root, "usr", d))
        os.symlink("usr/" + d, os.path.join(root, d))
    without = ["--exclude=./" + d for d in UNUSED.split()]
    with vm.archive(KIND.arch) as (apt, files):
        apt("apt-get", "install", "-y", "--no-install-recommends", "--download-only", *PACKAGES.split())
        for package in sorted(glob.glob(files + "/*.deb")):
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as p:
                subprocess.run(cross.NICE + ["tar", "-x", "--keep-directory-symlink", "-C", root] + without,
                               stdin=p.stdout, check=True)
    for name in ("passwd", "group"):
        shutil.copy(os.path.join(root, "usr/share/base-passwd", name + ".master"), os.path.join(root, "etc", name))
    if not os.path.lexists(root + "/usr/bin/sh"):
        os.symlink("dash", root + "/usr/bin/sh")
    with open(root + "/etc/hosts", "w") as f:
        f.write("127.0.0.1 localhost\n::1 localhost\n")
    os.rename(root, there)


def checkout(there):
    """The files of this checkout, and what was built of it: ./wssd and ./wssd-selfsign are static, dynamic/wssd is not."""
    shutil.rmtree(there, ignore_errors=True)
    for name in cross.run("git", "ls-files", "-co", "--exclude-standard", cwd=cross.TOP).splitlines():
        if os.path.isfile(os.path.join(cross.TOP, name)):
            os.makedirs(os.path.dirname(os.path.join(there, name)), exist_ok=True)
            shutil.copy2(os.path.join(cross.TOP, name), os.path.join(there, name))
    programs = cross.build(KIND.target, cross.CFLAGS)
    for name in cross.PROGRAMS:
        shutil.copy2(os.path.join(programs, name), there)
    with tempfile.TemporaryDirectory() as work:
        for f in cross.SOURCES:
            os.makedirs(os.path.dirname(os.path.join(work, f)), exist_ok=True)
            shutil.copy2(os.path.join(cross.TOP, f), os.path.join(work, f))
        cross.run(*cross.NICE, "make", "-s", "wssd", "CC=%s-gcc" % cross.TARGETS[KIND.target].tools,
                  "BEARSSL=" + os.path.join(cross.OUT, "bearssl", KIND.target), cwd=work)
        os.mkdir(there + "/dynamic")
        shutil.copy2(work + "/wssd", there + "/dynamic")


def disk(path):
    """An image with all of it."""
    there = os.path.join(vm.OUT, KIND.arch + "-suite")
    with cross.locked():
        packages(there)
        checkout(there + "/wssd")
        with open(there + "/init", "w") as f:
            f.write(INIT)
        os.chmod(there + "/init", 0o755)
        cross.run(*cross.NICE, "/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", there, path, "1200m")


def initramfs(root):
    entries = [(d, 0o40755, b"", 0, 0) for d in "bin dev lib root".split()]
    entries += [("dev/console", 0o20600, b"", 5, 1)]
    entries += [("bin/" + a, 0o120777, b"busybox", 0, 0) for a in "insmod mount sh switch_root umount".split()]
    entries += [("init", 0o100755, (FIRST % MODULES).encode(), 0, 0)]
    files = [("bin/busybox", root + "/bin/busybox")]
    for m in MODULES.split():
        files.append(("lib/%s.ko" % m, glob.glob("%s/lib/modules/**/%s.ko" % (root, m), recursive=True)[0]))
    for name, path in files:
        with open(path, "rb") as f:
            entries.append((name, 0o100755, f.read(), 0, 0))
    return vm.cpio(entries)


class Machine(vm.Machine):
    def __init__(self, memory, place):
        root = vm.debian(KIND)
        disk(place + "/disk")
        with open(place + "/initrd", "wb") as f:
            f.write(initramfs(root))
        image = "if=none,id=disk,format=raw,cache=unsafe,file=" + place + "/disk"
        self.boot(KIND, root, place, memory, ["-smp", "2", "-nic", "none", "-drive", image,
                                              "-device", "virtio-blk-device,drive=disk"])


def command(name, args, words):
    """The line for the shell in there that runs the tests of a file."""
    words = ["-q", "--tb=short", "--color=no", "-n", str(args.jobs), "-m", "not deep", "--timeout", "900",
             "test/test_%s.py" % name] + words
    for file, test in (t.split("::") for tests in ABSENT.values() for t in tests.split()):
        if file == name:
            words += ["--deselect", "test_%s.py::%s" % (file, test)]
    env = "WSSD_FILTERED=1 WSSD=%swssd WSSD_SELFSIGN=/wssd/wssd-selfsign WSSD_SLOW=%g" % (
        "/wssd/dynamic/" if name in PRELOADED else "/wssd/", args.slow)
    return "%s python3 -m pytest %s </dev/null" % (env, " ".join(map(shlex.quote, words)))


def suite(m, name, args, words):
    """What the tests of a file say, as it comes: (passed, failed)."""
    began, seen, found = time.monotonic(), m.here(), (0, 0, 0)
    m.tell(command(name, args, words))
    while True:
        ended = m.eof or time.monotonic() - began > LIMIT
        for line in m.lines(seen):
            seen += 1
            if last := re.match(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\r?$", line):
                found = tuple(int(n or 0) for n in last.groups())
            if last := re.match(r"status (\d+)", line):
                passed, failed, skipped = found
                if skipped and name == "sandbox" or last[1] != "0" and not failed or not passed:
                    failed += 1  # nothing of it may be skipped, and pytest may have failed without a test that did
                print("%s: %d passed, %d failed, %d skipped in %.0f s" % (
                    name, passed, failed, skipped, time.monotonic() - began), flush=True)
                return passed, failed
            print("    " + line.rstrip("\r"), flush=True)
        if ended:
            raise cross.Failed("%s: the machine %s" % (name, "has ended" if m.eof else "does not come to an end"))
        time.sleep(0.3)


def main():
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--memory", type=int, default=1024, metavar="MIB", help="of the machine (%(default)s)")
    p.add_argument("--jobs", type=int, default=2, help="tests at a time (%(default)s)")
    p.add_argument("--slow", type=float, default=10, help="factor on the patience of the tests (%(default)s)")
    p.add_argument("file", nargs="*", help="of %s" % ", ".join(FILES))
    args = p.parse_args(sys.argv[1:cut])
    for name in args.file:
        if name not in FILES:
            p.error("%s is none of %s" % (name, ", ".join(FILES)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and so nothing is left behind
    names, found, m = list(args.file or FILES), [], None
    with tempfile.TemporaryDirectory(prefix="vm") as place:
        try:
            m = Machine(args.memory, place)
            m.wait_log("^started", 60)
            kernel = m.ask("cat /proc/version").split(" (")[0]
            print("%s, up after %.0f s" % (kernel, time.monotonic() - m.began), flush=True)
            while names:
                found.append(suite(m, names[0], args, sys.argv[cut + 1:]))
                names.pop(0)
        except (AssertionError, OSError, cross.Failed) as e:
            print("FAILED: %s; not run to the end: %s" % (e, " ".join(names)), flush=True)
            if m:
                print("\n".join(m.lines()[-20:]), flush=True)
        finally:
            if m:
                m.end()
    passed, failed = sum(f[0] for f in found), sum(f[1] for f in found) + len(names)
    print("%d passed, %d failed" % (passed, failed), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
