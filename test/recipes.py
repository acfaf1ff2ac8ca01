"""The README's recipes, run as they are written, each in a box of its own: a harness for tests.

A recipe is a section `### Title` of the README's chapter `## Recipes` or `## More than one machine`. Its fenced blocks are
files, whose path is the second word of the info string, and commands:

    ```ini /etc/x/y.conf          a file with exactly this content (any language word)
    ```sh                         commands for a root shell, in the order of the text

    r = recipes.recipe("serial line")       # by a part of its title, which must fit one section only
    r.title, r.text, r.blocks               # blocks: (lang, where, text); where is None without a second word
    r.files                                 # {path: text}
    r.sh                                    # [text], the blocks of commands

README=FILE[:FILE...] in the environment reads these files instead, where sections outside of a chapter count too (drafts).

A Box is a machine: mount, PID, network, IPC, UTS and cgroup namespaces. Its root is an overlay of the host's, so that
everything is there and whatever is written is gone with the box; /dev, /run, /tmp are empty ones of its own, `lo` is up, and
lan0 is 192.168.1.1/24. It holds what the chapters before have made: wssd and wssd-selfsign are in PATH (/usr/local/sbin;
WSSD and WSSD_WRAP count), the pages in /usr/share/wssd/www, dist/wssd.conf is /etc/wssd.conf, and wssd-selfsign has made
/etc/wssd/cert.pem and key.pem for gateway.lan, localhost and both addresses, of which the user wssd can read the key.

    with recipes.Box() as box:              # Box(systemd=True): systemd is its process 1, units can be started
        box.put(r)                          # all files of a recipe
        job = box.start(r.sh[0])            # commands that keep running; runs `sh -e`, or a list of words as it is
        job.wait_log(r"listening on")       # the match, in stdout and stderr together; job.log: the lines so far
        box.run("ls /run").stdout           # commands that end: a CompletedProcess with text; check=False allows failure
        with box.net():                     # this thread's new sockets are the box's
            c = wsraw.connect(8443, tls=True).open("/serial")
        open(box.path("/etc/hostname"))     # a file of the box seen from outside; a socket or a device likewise
        box.wait_port(8443)                 # somebody listens on this TCP port
        box.wait_socket("/run/x.sock")      # a program listens there: not yet between bind(2), which makes the file, and listen(2)
        job.end()                           # SIGTERM, later SIGKILL, to all that it started; its exit status

    with recipes.Lan({a: "10.0.0.1/24", b: "10.0.0.2/24"}):   # boxes a, b on one switch, by their eth0
        ...

At the end of a box all its processes are killed and nothing of it is left; and a finding of a sanitizer or a `bug:` in any
job's log fails the test. Everything is bounded by WSSD_SLOW times the given seconds. Only root can make a box, and the
thread that made it must outlive it.
"""
import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time

import logs
import powers

SLOW = logs.SLOW
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WSSD = os.path.abspath(os.environ.get("WSSD", os.path.join(TOP, "wssd")))
SELFSIGN = os.path.join(TOP, "wssd-selfsign")
CHAPTERS = ("Recipes", "More than one machine")
ALARMS = re.compile(r"AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|runtime error|"
                    r"==\d+== (Conditional jump|Use of uninit|Invalid (read|write)|Syscall param)|\bbug: ")
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
LISTENS = "00010000"                            # __SO_ACCEPTCON, as the flags of /proc/net/unix say it
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


# ---------------------------------------------------------------------------------------------- the text


class Block:
    """A fenced block: lang and where are the words of its info string."""

    def __init__(self, lang, where, text):
        self.lang, self.where, self.text = lang, where, text


class Recipe:
    """A section."""

    def __init__(self, title, text):
        self.title, self.text, self.blocks = title, text, []
        for info, body in re.findall(r"^```([^\n`]*)\n(.*?)^```$", text, re.M | re.S):
            words = info.split()
            self.blocks.append(Block(words[0] if words else "", words[1] if len(words) > 1 else None, body))

    @property
    def files(self):
        files = {}
        for b in self.blocks:
            if b.where and b.where.startswith("/"):
                assert b.where not in files, "%s: %s stands there twice" % (self.title, b.where)
                files[b.where] = b.text
        return files

    @property
    def sh(self):
        return [b.text for b in self.blocks if b.lang == "sh" and not (b.where or "").startswith("/")]


def read_recipes(files=None):
    """All sections, in order."""
    drafts = os.environ.get("README") if files is None else files
    found = []
    for name in drafts.split(":") if drafts else [os.path.join(TOP, "README.md")]:
        with open(name, encoding="utf-8") as f:
            text = f.read()
        chapter, title, lines, fence = None, None, [], False
        for line in text.splitlines(keepends=True) + ["## \n"]:
            fence ^= line.startswith("```")
            head = None if fence else re.match(r"(##|###) (.*)$", line)
            if not head:
                lines.append(line)
                continue
            if title and (chapter in CHAPTERS or (drafts and chapter is None)):
                found.append(Recipe(title, "".join(lines)))
            if head.group(1) == "##":
                chapter, title = head.group(2).strip(), None
            else:
                title = head.group(2).strip()
            lines = []
    return found


def recipe(part):
    """The one section whose title contains part, in any case."""
    all_of_them = read_recipes()
    fit = [r for r in all_of_them if part.lower() in r.title.lower()]
    assert len(fit) == 1, "%d recipes have %r in the title; there are: %r" % (len(fit), part, [r.title for r in all_of_them])
    return fit[0]


# ---------------------------------------------------------------------------------------------- the box

# Run by root in fresh namespaces; $1: an empty directory, $2...: directories that must be seen inside.
SETUP = r"""
set -e
r=$1
shift
mount --make-rprivate /
mount -t tmpfs -o mode=755 box "$r"
mkdir "$r/up" "$r/work" "$r/root"
mount -t overlay -o "lowerdir=/,upperdir=$r/up,workdir=$r/work" box "$r/root"
cd "$r/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
for d in dev run tmp; do mount -t tmpfs -o mode=755 $d $d; done
chmod 1777 tmp
for d in null zero full random urandom; do
	: > dev/$d
	mount --bind /dev/$d dev/$d
done
mkdir dev/pts dev/shm run/lock
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for d; do
	mkdir -p "./$d"
	mount --bind "$d" "./$d"
done
pivot_root . .
umount -l .
cd /root
ip link set lo up
ip link add lan0 type veth peer name lan1
ip addr add 192.168.1.1/24 dev lan0
ip link set lan0 up
ip link set lan1 up
"""
WAIT = r"""
echo ready
exec 0<&- 1>&- 2>&-
sleep infinity &
wait
"""
# A container as systemd wants it: it can touch neither the kernel's settings nor its modules and clock, and has the journal
# and the temporary files, but no unit of the host's.
SYSTEMD = r"""
for d in /proc/sys /sys; do
	mount --bind $d $d
	mount -o remount,bind,ro $d
done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
find /etc/systemd/system -mindepth 1 -delete
for d in sysinit local-fs sockets; do
	find /lib/systemd/system/$d.target.wants -type l \
		! -name "systemd-journald*.socket" ! -name "systemd-journald.service" ! -name "systemd-tmpfiles-setup.service" -delete
done
rm /lib/systemd/system/sockets.target.wants/systemd-journald-audit.socket
mkdir -p /run/systemd/system
printf '[Unit]\nWants=sockets.target dbus.socket\n' > /run/systemd/system/box.target
printf '[Journal]\nStorage=volatile\nForwardToConsole=no\n' > /etc/systemd/journald.conf
echo ready
exec 0</dev/null 1>/dev/null 2>/dev/null
exec env -i container=wssd-test PATH="$PATH" \
	setpriv --bounding-set=-sys_module,-sys_time,-sys_boot,-audit_control \
	/lib/systemd/systemd --unit=box.target --log-target=null --show-status=false
"""


class Box:
    """A machine for a recipe; see above."""

    def __init__(self, systemd=False, name="gateway"):
        self.jobs, self.proc, self.pid, self.cgroup = [], None, None, None
        assert os.geteuid() == 0, "only root can make namespaces for a recipe"
        self.dir = tempfile.mkdtemp(prefix="wssd-box-")
        try:
            self.make(systemd, name)
        except BaseException:
            self.close(scan=False)
            raise

    def make(self, systemd, name):
        join = ""
        if systemd:
            with open("/proc/self/mounts") as f:
                roots = [line.split()[1] for line in f if line.split()[2] == "cgroup2"]
            assert roots, "no cgroup2 file system is mounted"
            self.cgroup = os.path.join(roots[0], os.path.basename(self.dir))
            os.mkdir(self.cgroup)
            join = "echo $$ > %s/cgroup.procs && " % self.cgroup
        dirs = [d for d in {TOP, os.path.dirname(WSSD)} if os.path.isdir(d)]
        script = SETUP + "hostname %s\n" % shlex.quote(name) + self.furnish() + (SYSTEMD if systemd else WAIT)
        enter = join + "exec unshare -mnpiuC -f --kill-child sh -c \"$0\" box \"$@\""
        self.proc = subprocess.Popen(["sh", "-c", enter, script, self.dir] + dirs, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=die_with_parent,
                                     env=dict(os.environ, PATH=PATH), start_new_session=True, encoding="utf-8")
        said = self.proc.stdout.readline()
        if said != "ready\n":
            self.proc.kill()
            raise AssertionError("no box: " + said + self.proc.stdout.read() + self.proc.stderr.read())
        os.rmdir(self.dir)  # no mount is on it any more, and a test run that is killed leaves none behind
        with open("/proc/%d/task/%d/children" % (self.proc.pid, self.proc.pid)) as f:
            self.pid = int(f.read().split()[0])
        self.netns = os.open("/proc/%d/ns/net" % self.pid, os.O_RDONLY)
        if systemd:
            until(lambda: self.run(["systemctl", "is-active", "box.target"], check=False).stdout == "active\n", 20,
                  "systemd did not start")

    def furnish(self):
        """Commands that make what the README's chapters before the recipes make."""
        wrap = os.environ.get("WSSD_WRAP", "")
        lines = ["mkdir -p /etc/wssd /usr/share/wssd /usr/local/sbin",
                 "rm -rf /usr/share/wssd/www",
                 "ln -s %s /usr/share/wssd/www" % shlex.quote(os.path.join(TOP, "dist", "www")),
                 "cp %s /etc/" % shlex.quote(os.path.join(TOP, "dist", "wssd.conf")),
                 "rm -f /usr/local/sbin/wssd /usr/local/sbin/wssd-selfsign",
                 "cp %s /usr/local/sbin/wssd-selfsign" % shlex.quote(SELFSIGN)]
        more = [w for w in powers.words(WSSD, ["--user"], wrap.split()) if w]
        if wrap or more:  # by its own name, for pidof
            lines.append("printf '#!/bin/bash\\nexec -a wssd %%s \"$@\"\\n' %s > /usr/local/sbin/wssd"
                         % shlex.quote(" ".join([wrap, shlex.quote(WSSD)] + more)))
            lines.append("chmod 755 /usr/local/sbin/wssd")
        else:
            lines.append("cp %s /usr/local/sbin/wssd" % shlex.quote(WSSD))
        lines.append("wssd-selfsign --key /etc/wssd/key.pem --cert /etc/wssd/cert.pem gateway.lan localhost"
                     " 192.168.1.1 127.0.0.1 > /dev/null")
        lines.append("useradd --system --no-create-home --shell /usr/sbin/nologin wssd")
        lines.append("chgrp wssd /etc/wssd/key.pem && chmod 640 /etc/wssd/key.pem")
        return "\n".join(lines) + "\n"

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close(scan=kind is None)

    def close(self, scan=True):
        """Kills all that runs in the box, and takes it away."""
        if self.proc:
            if self.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)  # process 1 of the box: all others go with it
                os.close(self.netns)
            for job in self.jobs:
                job.finish()
            if not self.pid:
                self.proc.kill()
            self.proc.wait(20 * SLOW)
            self.proc.stdout.close()
            self.proc.stderr.close()
            self.proc = self.pid = None
        if self.cgroup and os.path.isdir(self.cgroup):
            end = time.monotonic() + 10 * SLOW
            while os.path.isdir(self.cgroup):
                for path, _, _ in os.walk(self.cgroup, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(path)
                assert time.monotonic() < end, "%s is still busy" % self.cgroup
                time.sleep(0.005)
        shutil.rmtree(self.dir, ignore_errors=True)
        if scan:
            bad = [line for job in self.jobs for line in job.lines() if ALARMS.search(line)]
            assert not bad, "the logs have:\n" + "\n".join(bad)

    # ---- in it

    def words(self, what):
        words = ["sh", "-e", "-c", what] if isinstance(what, str) else [str(w) for w in what]
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-i", "-u", "-C",
                "--wd=" + self.path("/root"), "setsid"] + words

    def environment(self, env):
        e = dict(os.environ, PATH=PATH, HOME="/root", LC_ALL="C.UTF-8", **(env or {}))
        e.pop("JOURNAL_STREAM", None)
        # who has become another user cannot be traced, and that is how leaks are looked for
        e.setdefault("ASAN_OPTIONS", "abort_on_error=0:exitcode=99:detect_leaks=0")
        return e

    def put(self, files, text=None):
        """A recipe's files, {path: text}, or one path and its text."""
        if text is not None:
            files = {files: text}
        for path, body in (files.files if isinstance(files, Recipe) else files).items():
            self.run("mkdir -p \"$(dirname %s)\" && cat > %s" % (shlex.quote(path), shlex.quote(path)), input=body)

    def start(self, what, env=None):
        job = Job(self.words(what), self.environment(env))
        self.jobs.append(job)
        return job

    def run(self, what, timeout=20, input="", check=True, env=None):
        r = subprocess.run(self.words(what), input=input, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                           errors="backslashreplace", timeout=timeout * SLOW, env=self.environment(env))
        assert not check or r.returncode == 0, "%s: status %d\n%s%s" % (what, r.returncode, r.stdout, r.stderr)
        return r

    def path(self, path):
        return "/proc/%d/root%s" % (self.pid, path)

    @contextlib.contextmanager
    def net(self):
        """Within, sockets that this thread makes are in the box's network."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            setns(self.netns)
            try:
                yield
            finally:
                setns(here)
        finally:
            os.close(here)

    def listening(self, port):
        with open("/proc/%d/net/tcp" % self.pid) as a, open("/proc/%d/net/tcp6" % self.pid) as b:
            return any(line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == port
                       for f in (a, b) for line in list(f)[1:])

    def wait_port(self, *ports, timeout=10):
        for port in ports:
            until(lambda p=port: self.listening(p), timeout,
                  lambda p=port: "nobody listens on port %d\n%s" % (p, self.logs()))

    def wait_socket(self, path, timeout=10):
        def listens():
            with open("/proc/%d/net/unix" % self.pid) as f:
                rows = [row.split() for row in f]
            return os.path.lexists(self.path(path)) and any(r[3] == LISTENS and r[-1].startswith(path) for r in rows)
        until(listens, timeout, lambda: "nobody listens on %s\n%s" % (path, self.logs()))

    def logs(self):
        return "\n".join(line for job in self.jobs for line in job.lines()[-20:])


class Job(logs.Logged):
    """Commands that run in a box."""

    def __init__(self, words, env):
        self.proc = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     env=env, start_new_session=True, preexec_fn=die_with_parent)
        self.follow(self.proc.stdout)
        self.group = until(self.leader, 10, "the commands did not start")

    def leader(self):
        """The process group of the commands, as seen from here: nsenter's child leads it; -1 if it ended already."""
        with open("/proc/%d/task/%d/children" % (self.proc.pid, self.proc.pid)) as f:
            for pid in map(int, f.read().split()):
                with contextlib.suppress(ProcessLookupError):
                    if os.getpgid(pid) == pid:
                        return pid
        with open("/proc/%d/stat" % self.proc.pid) as f:
            return -1 if f.read().rpartition(")")[2].split()[0] == "Z" else None

    def alive(self):
        return self.proc.poll() is None

    def wait(self, timeout=10):
        """Its exit status once it ended by itself."""
        status = self.proc.wait(timeout * SLOW)
        self.thread.join(1)
        return status

    def signal(self, number):
        """To all that it started and that is in its process group; False: nobody is left."""
        if self.group > 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, number)
                return True
        return False

    def end(self, timeout=10):
        """SIGTERM to all of them, and waits until they are gone; the exit status of the commands."""
        self.signal(signal.SIGTERM)
        try:
            until(lambda: not self.signal(0), timeout, lambda: "no end:\n" + "\n".join(self.log[-30:]))
            return self.wait(timeout)
        finally:
            self.finish()

    def finish(self):
        """SIGKILL. Not to nsenter, unless it must be: its child would be left to the host's process 1 then, and keep the
        whole box from ending until that one cares."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.proc.wait(5 * SLOW)
        self.proc.kill()
        self.proc.wait()
        self.thread.join(5)
        if self.eof:
            self.proc.stdout.close()


class Lan:
    """A switch; boxes: {box: "address/bits"}. Each gets an eth0; a box may end before the switch."""

    def __init__(self, boxes):
        script = "ip link add br0 type bridge && ip link set br0 up && echo ready && exec sleep infinity"
        self.proc = subprocess.Popen(["unshare", "-n", "sh", "-c", script], stdout=subprocess.PIPE,
                                     preexec_fn=die_with_parent)
        try:
            assert self.proc.stdout.readline() == b"ready\n"
            for i, (box, address) in enumerate(boxes.items()):
                port = "port%d" % i
                script = ("ip link add %s type veth peer name eth0 netns %d && ip link set %s master br0 up"
                          % (port, box.pid, port))
                subprocess.run(["nsenter", "-t", str(self.proc.pid), "-n", "sh", "-c", script], check=True,
                               timeout=20 * SLOW)
                box.run("ip addr add %s dev eth0 nodad && ip link set eth0 up" % address)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdout.close()


# ---------------------------------------------------------------------------------------------- small things


def die_with_parent():
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no box outlives a test run that was broken off


def setns(fd):
    if LIBC.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def until(what, seconds=10, message="it did not come true"):
    """Polls until what() is true; returns its value."""
    end, pause = time.monotonic() + seconds * SLOW, 0.005
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(message() if callable(message) else message)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
