"""Mutation testing: does the suite notice when a line of the five sources says something else?

    mutate.py [--number N] [--seed SEED] [--jobs J] [--short] [--match REGEX] [--list]

Eligible is each line of code of the five sources, but for: comments, preprocessor lines, prototypes, declarations (as far
as they have no initialiser; sizes of arrays and _Static_assert never count), strings, and rows of tables that hold nothing
but text (of the options those that take no number). That is what functions do, the limits and other named numbers in
enums, and numbers in tables. The operators, each applied at each place, one place a mutant:

    flip    a comparison: < and <=, > and >=, == and != change places
    drop    a statement: an expression statement, return, break, continue (an `if` or a loop goes by what is in it)
    one     a number or character is one more; and one less, unless it is 0
    negate  the condition of if, while, for, do and ?: (a lone == or !=, which flip negates, is left out)
    swap    && and || change places

A mutant is named by its file, function, the source text before and after (and #2 where that occurs twice). All are listed in
the order of the sources; --seed orders them by the SHA-256 of seed and name, so that a change of the sources leaves the
places of the other mutants as they are, and the first N that count are the sample. One that does not compile, or
whose objects are the same bytes at the product's flags, does not count.

Each is built with the Makefile's flags (only the file that changed) in a copy of the tree, and run against the unit tests,
then some of the test files that kill most mutants of its file (what killed others of its kind, and each 25th test), then
all of those, then the others of `make test`; the first failure ends it. A failed test must fail a second time, alone, and
pass with the sources as they are; one that does not is put aside, and the suite goes on. What lets a test take more than its
time, or takes too much memory, is killed by that. --short leaves the last stage out. test/mutants.txt holds those that no
test can kill, or that need none, each with its reason; an entry that fits no mutant any more is an error.

Results go to build/mutate/results.jsonl, and what stands there for the same function text is not run again (survivors are,
once a test has changed). The status is 1 when too many survive unexplained: more than 5 % of 100 or more; of fewer so many
that a suite which kills 97 % would see it in less than 1 of 1,000 runs (of ten: 4).
"""

import argparse
import atexit
import collections
import concurrent.futures
import ctypes
import hashlib
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(TOP, "build", "mutate")
SOURCES = ["ws.h", "main.c", "tls.c", "http.c", "ws.c"]
PYTHON = sys.executable
SLOW = float(os.environ.get("WSSD_SLOW", "1"))
MEMORY = 4 << 30      # bytes, of all processes of a mutant's tests together; and address space of its server
UNIT_TIME = 60        # seconds for a program of unit tests
TEST_TIME = 60        # for a test
FIRST_TIME, REST_TIME = 300, 900  # for a stage

# ---------------------------------------------------------------------------------------------- mutants

TOKEN = re.compile(r"""
    (?P<comment>/\*.*?\*/|//[^\n]*) | (?P<space>\s+) | (?P<directive>^\#(?:\\\n|[^\n])*) |
    (?P<string>"(?:\\.|[^"\\\n])*") | (?P<char>'(?:\\.|[^'\\\n])*') |
    (?P<number>(?:0[xX][0-9a-fA-F]+|[0-9]+)[uUlL]*\b) | (?P<word>[A-Za-z_]\w*) |
    (?P<punct><<=|>>=|\.\.\.|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|.)
    """, re.S | re.M | re.X)
FLIP = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
SWAP = {"&&": "||", "||": "&&"}
TYPES = "static const struct union enum unsigned int long short char void register volatile _Static_assert".split()

Token = collections.namedtuple("Token", "kind text start end")


def tokens(text):
    """Those that mean something to the compiler; preprocessor lines and comments are no more than space."""
    return [Token(m.lastgroup, m.group(), m.start(), m.end()) for m in TOKEN.finditer(text)
            if m.lastgroup not in ("comment", "space", "directive")]


class Mutant:
    def __init__(self, file, function, operator, text, start, end, new):
        self.file, self.function, self.operator = file, function, operator
        self.start, self.end, self.new = start, end, new
        first, last = text.rfind("\n", 0, start) + 1, text.find("\n", end)
        self.line = text.count("\n", 0, start) + 1
        self.before = " ".join(text[first:last].split())
        self.after = " ".join((text[first:start] + new + text[end:last]).split())
        self.repeat = 1

    @property
    def name(self):
        repeat = " #%d" % self.repeat if self.repeat > 1 else ""
        return "%s %s%s\n- %s\n+ %s" % (self.file, self.function, repeat, self.before, self.after)

    def __str__(self):
        return "%s:%d: in %s (%s)\n    - %s\n    + %s" % (
            self.file, self.line, self.function, self.operator, self.before, self.after)


class Reader:
    """Finds the places of one file."""

    def __init__(self, file, text):
        self.file, self.text, self.t = file, text, tokens(text)
        self.function, self.found, self.bodies = "-", [], {"-": ""}
        self.match = {}  # of each opening bracket the closing one, by index, and the other way round
        stack = []
        for i, t in enumerate(self.t):
            if t.kind == "punct" and t.text in "([{":
                stack.append(i)
            elif t.kind == "punct" and t.text in ")]}":
                j = stack.pop()
                self.match[i], self.match[j] = j, i

    def add(self, operator, i, j, new):
        """Tokens [i, j] become new."""
        self.found.append(Mutant(self.file, self.function, operator, self.text, self.t[i].start, self.t[j].end, new))

    def is_at(self, i, *texts):
        return self.t[i].text in texts and self.t[i].kind in ("punct", "word")

    # ---- expressions

    def number(self, i):
        t = self.t[i]
        if t.kind == "char":
            self.add("one", i, i, "(%s + 1)" % t.text)
            if t.text != r"'\0'":
                self.add("one", i, i, "(%s - 1)" % t.text)
            return
        digits, suffix = re.match(r"(0[xX][0-9a-fA-F]+|[0-9]+)(.*)", t.text).groups()
        n = int(digits, 16 if digits[:2] in ("0x", "0X") else 10)
        form = "0x%x" if digits[:2] in ("0x", "0X") else "%d"
        self.add("one", i, i, form % (n + 1) + suffix)
        if n > 0:
            self.add("one", i, i, form % (n - 1) + suffix)

    def negate(self, i, j):
        """The condition is tokens [i, j]."""
        depth, outer = 0, []
        for k in range(i, j + 1):
            depth -= self.is_at(k, ")", "]", "}")
            if depth == 0 and self.t[k].kind == "punct":
                outer.append(self.t[k].text)
            depth += self.is_at(k, "(", "[", "{")
        if sum(t in ("==", "!=") for t in outer) == 1 and not {"&&", "||", "?", "&", "|", "="} & set(outer):
            return
        old = self.text[self.t[i].start:self.t[j].end]
        self.add("negate", i, j, "!(%s)" % old)

    def question(self, i):
        """The condition of the ?: whose ? is token i: what stands before it, up to an operator that binds less."""
        j = i
        while True:
            k = j - 1
            if self.is_at(k, ")", "]"):
                k = self.match[k]
            elif self.is_at(k, "(", "[", "{", ",", ";", "=", "+=", "-=", "|=", "&=", "^=", "?", ":", "return", "}"):
                break
            j = k
        self.negate(j, i - 1)

    def expression(self, i, j):
        """All places in tokens [i, j]."""
        for k in range(i, j + 1):
            t = self.t[k]
            if t.kind in ("number", "char"):
                self.number(k)
            elif t.kind == "punct" and t.text in FLIP:
                self.add("flip", k, k, FLIP[t.text])
            elif t.kind == "punct" and t.text in SWAP:
                self.add("swap", k, k, SWAP[t.text])
            elif t.kind == "punct" and t.text == "?":
                self.question(k)

    # ---- statements

    def end(self, i):
        """The ; that ends what begins with token i."""
        while not self.is_at(i, ";"):
            i = self.match[i] + 1 if self.is_at(i, "(", "[", "{") else i + 1
        return i

    def declares(self, i):
        """A type stands there: a word of TYPES, or two words, perhaps with stars between them."""
        if self.t[i].text in TYPES:
            return True
        j = i + 1
        while self.is_at(j, "*"):
            j += 1
        return self.t[i].kind == "word" and self.t[j].kind == "word" and \
            self.t[i].text not in ("return", "else", "do", "sizeof", "goto")

    def declaration(self, i, j):
        """Only initialisers: what stands behind a = up to the next declarator."""
        if self.is_at(i, "_Static_assert"):
            return
        while i < j:
            if self.is_at(i, "="):
                k = i + 1
                while k < j and not self.is_at(k, ","):
                    k = self.match[k] + 1 if self.is_at(k, "(", "[", "{") else k + 1
                self.expression(i + 1, k - 1)
                i = k
            elif self.is_at(i, "("):  # a function's pointer, or prototype
                i = self.match[i] + 1
            else:
                i = self.match[i] + 1 if self.is_at(i, "[", "{") else i + 1

    def condition(self, i):
        """A condition in brackets, the first of which is token i; returns the index behind them."""
        j = self.match[i]
        self.negate(i + 1, j - 1)
        self.expression(i + 1, j - 1)
        return j + 1

    def statement(self, i):
        """The statement that begins with token i; returns the index behind it."""
        if self.is_at(i, "{"):
            i += 1
            while not self.is_at(i, "}"):
                i = self.statement(i)
            return i + 1
        if self.is_at(i, "if", "while"):
            i = self.statement(self.condition(i + 1))
            return self.statement(i + 1) if self.is_at(i, "else") else i
        if self.is_at(i, "do"):
            return self.condition(self.statement(i + 1) + 1) + 1
        if self.is_at(i, "for"):
            last = self.match[i + 1]
            first = self.end(i + 2)
            self.declaration(i + 2, first) if self.declares(i + 2) else self.expression(i + 2, first)
            second = self.end(first + 1)
            if second > first + 1:
                self.negate(first + 1, second - 1)
                self.expression(first + 1, second - 1)
            self.expression(second + 1, last - 1)
            return self.statement(last + 1)
        j = self.end(i)
        if self.declares(i):
            self.declaration(i, j)
        elif j > i:
            self.add("drop", i, j, ";")
            self.expression(i, j)
        return j + 1

    # ---- the file

    def rows(self, i, j):
        """A table's numbers; tokens [i, j] with the braces. Of the options only rows that take a number count."""
        if self.t[i + 1].text == "{":
            k = i + 1
            while k < j:
                if self.is_at(k, "{"):
                    words = [t.text for t in self.t[k:self.match[k]]]
                    if not {"STRING", "NAMES", "LISTEN", "CONFIG", "ROUTE"} & set(words):
                        self.rows(k, self.match[k])
                    k = self.match[k]
                k += 1
        else:
            self.expression(i, j)

    def all(self):
        i = 0
        while i < len(self.t):
            if self.is_at(i, "{"):
                before = self.t[i - 1]
                named = [self.t[k] for k in range(max(0, i - 12), i)]
                if before.text == ")":  # a function's body
                    self.function = self.t[self.match[i - 1] - 1].text
                    self.bodies[self.function] = self.text[self.t[i].start:self.t[self.match[i]].end]
                    self.statement(i)
                elif before.text == "=":
                    words = [t.text for t in named if t.kind == "word"]
                    self.function = words[-1]
                    self.rows(i, self.match[i])
                elif "enum" in (self.t[i - 1].text, self.t[i - 2].text):
                    self.function = self.t[i - 1].text if self.t[i - 2].text == "enum" else "enum"
                    self.expression(i, self.match[i])
                self.function = "-"
                i = self.match[i]
            elif self.is_at(i, "_Static_assert"):
                i = self.end(i)
            elif self.is_at(i, "=") and not self.is_at(i + 1, "{"):
                j = self.end(i)
                self.expression(i + 1, j - 1)
                i = j
            i += 1
        seen = collections.Counter()
        for m in self.found:
            seen[m.name] += 1
            m.repeat = seen[m.name]
        return self.found


def mutants(top):
    out = []
    for file in SOURCES:
        with open(os.path.join(top, file), encoding="utf-8") as f:
            text = f.read()
        reader = Reader(file, text)
        for m in reader.all():
            m.text = text
            m.digest = hashlib.sha256((m.name + "\n" + (reader.bodies.get(m.function) or m.before)).encode()).hexdigest()
            out.append(m)
    return out


def reasons(file, known):
    """test/mutants.txt: blocks of "FILE FUNCTION", "- before", "+ after", "= reason", which may go on in lines that begin
    with a space; what begins with # is a comment. Returns name: reason, and what is wrong."""
    out, wrong = {}, []
    with open(file, encoding="utf-8") as f:
        text = re.sub(r"^#.*\n", "", f.read(), flags=re.M)
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if not block.strip():
            continue
        m = re.fullmatch(r"(\S+ \S+(?: #\d+)?\n- .*\n\+ .*)\n= (.*(?:\n .*)*)", block)
        if m is None:
            wrong.append("not of the form FILE FUNCTION, - before, + after, = reason:\n" + block)
        elif m.group(1) not in known:
            wrong.append("no such mutant any more:\n" + block)
        else:
            out[m.group(1)] = " ".join(m.group(2).split())
    return out, wrong


# ---------------------------------------------------------------------------------------------- running them

# What kills most mutants of a file, then the others; nothing of what a mutant of these files does not reach.
FIRST = {
    "ws.h": ["http", "lifecycle", "proxy"],
    "main.c": ["lifecycle", "proxy", "abuse", "backpressure"],
    "tls.c": ["tls", "access", "proxy", "backpressure"],
    "http.c": ["http", "credentials"],
    "ws.c": ["conformance", "backends", "seqpacket", "backpressure"],
}
NEAR = [  # by the function's name, before FIRST
    (r"proxy|in_network", ["proxy"]), (r"host|origin|_scan|_parse|parse_|says|reply|file|take_host", ["http"]),
    (r"known|authorized|http_load", ["credentials"]), (r"take_certificate|tls_load|tls_open|conn_close", ["access"]),
    (r"rest|wake|asleep|step_connect", ["backends"]), (r"stream_", ["seqpacket"]), (r"hub|ring", ["backends"]),
    (r"upgrade", ["conformance"]), (r"find_slot|held_by|accept", ["abuse"]),
    (r"set_|add_|check_|read_|take_word|options|backends|texts|take_key", ["lifecycle"]),
]
ORDER = ["http", "lifecycle", "tls", "credentials", "access", "proxy", "backends", "seqpacket", "backpressure", "abuse",
         "conformance", "clients", "unit", "chain", "readme", "big", "serial", "mqtt", "cluster", "fuzz"]
NEVER = ["apps", "audit", "bench", "browser", "newcomer", "recipes", "selfsign", "soak", "wsraw"]

# Tells which tests failed and passed, leaves out those that are said to have passed, and runs those likely to fail first and
# of the others each MUTANT_EVERY-th.
PLUGIN = '''import os
import re

def name(thing):
    return os.path.join("test", re.sub(r"@\\w+$", "", thing.nodeid))  # without xdist's group

def pytest_collection_modifyitems(items):
    likely = os.environ.get("MUTANT_LIKELY", "").split("\\n")
    every, offset = int(os.environ.get("MUTANT_EVERY", "1")), int(os.environ.get("MUTANT_OFFSET", "0"))
    with open(os.environ["MUTANT_PASSED"]) as f:
        passed = set(f.read().splitlines())
    if every > 1:
        place = {test: i for i, test in enumerate(likely)}
        known = sorted((i for i in items if name(i) in place), key=lambda i: place[name(i)])
        items[:] = known + [i for i in items[offset % every::every] if name(i) not in place]
    items[:] = [i for i in items if name(i) not in passed]

def pytest_runtest_logreport(report):
    if "PYTEST_XDIST_WORKER" not in os.environ and (report.failed or report.when == "teardown"):
        with open(os.environ["MUTANT_FAILED" if report.failed else "MUTANT_NOW"], "a") as f:
            f.write(name(report) + "\\n")
'''


def files_of(top):
    """The files of the project, and what the build takes from config.mk."""
    out = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=top,
                         stdout=subprocess.PIPE, check=True).stdout.decode()
    return [f for f in out.split("\0") + ["config.mk"] if f and os.path.isfile(os.path.join(top, f))]


def session_memory(sid):
    """Resident bytes of the processes of a session."""
    n = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % pid) as f:
                words = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == sid:
            n += int(words[21]) * resource.getpagesize()
    return n


LIBC = ctypes.CDLL(None)


def limits():
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing outlives a run that was broken off
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(command, cwd, seconds, output=subprocess.DEVNULL, env=None):
    """Runs a command in a session of its own, of which nothing stays behind; its status, or "time" or "memory"."""
    p = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                         start_new_session=True, preexec_fn=limits)
    end, why = time.monotonic() + seconds, None
    try:
        while why is None:
            try:
                return p.wait(3)
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    why = "time"
                elif session_memory(p.pid) > MEMORY:
                    why = "memory"
        return why
    finally:
        try:
            os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        p.wait()


class Place:
    """A copy of the tree in which one mutant at a time is built and tested."""

    def __init__(self, number, files, units=None):
        """files: of the project; units: the programs of unit tests that will be run, None: all."""
        self.top = os.path.join(BUILD, "w%d" % number)
        self.log = os.path.join(BUILD, "w%d.log" % number)
        self.failed, self.passed, self.now = (self.top + end for end in (".failed", ".passed", ".now"))
        shutil.rmtree(self.top, ignore_errors=True)
        for f in files:
            os.makedirs(os.path.dirname(os.path.join(self.top, f)), exist_ok=True)
            shutil.copy2(os.path.join(TOP, f), os.path.join(self.top, f))
        plugins = os.path.join(self.top, "build")
        os.makedirs(plugins)
        with open(os.path.join(plugins, "mutant_plugin.py"), "w") as f:
            f.write(PLUGIN)
        # where others leave their files, too, pytest would clear up behind them at its end, for minutes
        temp = tempfile.mkdtemp(prefix="wssd-")
        atexit.register(shutil.rmtree, temp, ignore_errors=True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "PYTEST")) and k != "WSSD"}
        self.env.update(WSSD_WRAP="prlimit --as=%d" % MEMORY, MUTANT_FAILED=self.failed,
                        MUTANT_PASSED=self.passed, MUTANT_NOW=self.now, PYTHONPATH=plugins, PYTHONDONTWRITEBYTECODE="1",
                        PYTEST_DEBUG_TEMPROOT=temp)
        if self.command(["make", "-s", "all"], 600) != 0:
            raise SystemExit("make failed:\n" + self.said())
        self.original = os.path.join(self.top, "build", "wssd")
        shutil.copy2(os.path.join(self.top, "wssd"), self.original)
        self.stale = []  # units compiled with a mutant
        self.objects = {o: self.read(o) for o in sorted(os.listdir(self.top)) if o.endswith(".o")}
        self.units = [f[:-2] for f in sorted(os.listdir(os.path.join(self.top, "test", "unit"))) if f.endswith(".c")]
        self.units = [unit for unit in self.units if units is None or unit in units]
        for unit in self.units:
            if self.compile_unit(unit) != 0 or self.run_unit(unit) != 0:
                raise SystemExit("test/unit/%s.c fails without any mutant:\n%s" % (unit, self.said()))

    def read(self, name):
        with open(os.path.join(self.top, name), "rb") as f:
            return f.read()

    def said(self, lines=40):
        with open(self.log, errors="replace") as f:
            return "".join(f.readlines()[-lines:])

    def command(self, command, seconds, **env):
        with open(self.log, "w") as log:
            return run(command, self.top, seconds, log, dict(self.env, **env))

    # ---- building

    def put(self, m, text):
        with open(os.path.join(self.top, m.file), "w", encoding="utf-8") as f:
            f.write(text)

    def build(self, m):
        """None when it is built and differs, else why it does not count."""
        self.put(m, m.text[:m.start] + m.new + m.text[m.end:])
        for o in self.objects:  # whatever the clock of the file system says
            if m.file in ("ws.h", o[:-2] + ".c"):
                os.unlink(os.path.join(self.top, o))
        if self.command(["make", "-s", "wssd"], 300) != 0:
            return "no program"
        return "the same" if all(self.read(o) == data for o, data in self.objects.items()) else None

    def restore(self, m):
        self.put(m, m.text)
        while self.stale:
            self.compile_unit(self.stale.pop())
        for o, data in self.objects.items():
            with open(os.path.join(self.top, o), "wb") as f:
                f.write(data)

    # ---- testing

    def includes(self, unit):
        """The sources that a unit test includes, to reach what is static there."""
        with open(os.path.join(self.top, "test", "unit", unit + ".c"), encoding="utf-8") as f:
            return re.findall(r'^#include "../../(\w+\.c)"', f.read(), re.M)

    def wraps(self, unit):
        """What it stands in for."""
        self.command(["nm", "--defined-only", "unit-%s.o" % unit], 60)
        return sorted(set(re.findall(r" T __wrap_(\w+)", self.said(1000))))

    def compile_unit(self, unit):
        return self.command(["gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-c", "test/unit/%s.c" % unit,
                             "-o", "unit-%s.o" % unit], 120)

    def run_unit(self, unit):
        """Links a program of unit tests with the objects of now, and runs it; its status."""
        included, objects, program = self.includes(unit), [], os.path.join("build", unit)
        for o in sorted(self.objects):
            if o[:-2] + ".c" not in included:
                objects.append(os.path.join("build", o))
                self.command(["objcopy", "--redefine-sym", "main=wssd_main", o, objects[-1]], 60)
        wraps = ["-Wl,--wrap=" + w for w in self.wraps(unit)]
        if self.command(["gcc", "-o", program, "unit-%s.o" % unit, *objects, *wraps, "-lcmocka", "-lbearssl"], 120) != 0:
            return None
        return self.command(["./" + program], UNIT_TIME * SLOW)

    def unit_tests(self, m):
        """The program that fails, or None."""
        for unit in self.units:
            changed = m.file == "ws.h" or m.file in self.includes(unit)
            compiled = not changed or self.compile_unit(unit) == 0
            status = self.run_unit(unit) if compiled else 1
            if changed:
                self.stale.append(unit)
            if status is None:
                raise SystemExit("test/unit/%s.c does not link:\n%s" % (unit, self.said()))
            if status != 0:
                return "test/unit/%s.c" % unit
        return None

    def pytest(self, what, workers, seconds, skip=(), **env):
        """Runs tests up to the first failure; returns the status, and which failed and passed."""
        for file, text in ((self.failed, ""), (self.now, ""), (self.passed, "\n".join(skip))):
            with open(file, "w") as f:
                f.write(text)
        parallel = ["-n", str(workers)] if workers else ["-p", "no:xdist", "-o", "addopts=-p no:cacheprovider"]
        status = self.command([PYTHON, "-m", "pytest", "-q", "-x", "-p", "mutant_plugin", "-m", "not deep",
                               "--timeout", str(int(TEST_TIME * SLOW)), *parallel, *what], seconds * SLOW, **env)
        return status, *(list(dict.fromkeys(open(f).read().splitlines())) for f in (self.failed, self.now))

    def suite(self, what, workers, seconds, **env):
        """Who kills it, or None; and what failed by chance. A failure must come twice, and not with the sources as they are."""
        flaky, done = [], []
        for _ in range(10):
            status, failed, passed = self.pytest(what, workers, seconds, done + flaky, **env)
            if status in (0, 5):  # 5: no test is left
                return None, flaky
            if status == "memory":
                return status, flaky
            if status == "time":  # no single test hangs, or it would have failed: this machine is slow
                return None, flaky + ["(all of them, for lack of time)"]
            if not failed:
                raise SystemExit("pytest ends with status %s:\n%s" % (status, self.said()))
            for test in failed:
                again, _, _ = self.pytest([test], 0, 4 * TEST_TIME)
                if again != 0 and self.pytest([test], 0, 4 * TEST_TIME, WSSD=self.original)[0] == 0:
                    return test, flaky
                flaky.append(test)
            done += [t for t in passed if t not in failed]
        return None, flaky


class Session:
    """What is known of each mutant, and what is drawn."""

    def __init__(self, options):
        self.options, self.lock = options, threading.Lock()
        self.all = mutants(TOP)
        self.explain()
        files = files_of(TOP)
        tests = hashlib.sha256()
        for f in files:
            if re.match(r"test/(unit/.*\.c|[^/]*\.(py|js|ini))$", f) and f != "test/mutate.py":
                with open(os.path.join(TOP, f), "rb") as fd:
                    tests.update(f.encode() + b"\0" + hashlib.sha256(fd.read()).digest())
        self.tests = tests.hexdigest()[:16]
        self.test_files = [f for f in files if re.match(r"test/test_\w+\.py$", f) and f[10:-3] not in NEVER]
        self.known, self.kills = {}, []
        os.makedirs(BUILD, exist_ok=True)
        self.results = os.path.join(BUILD, "results.jsonl")
        if os.path.exists(self.results):
            with open(self.results) as f:
                for line in f:
                    self.learn(json.loads(line))
        seed = options.seed
        self.order = sorted(self.all, key=lambda m: hashlib.sha256((seed + "\n" + m.name).encode()).digest())
        if options.match:
            self.order = [m for m in self.order if re.search(options.match, m.name)]
        self.counted, self.outcome, self.begun = 0, {}, time.monotonic()
        self.places = []
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            self.places = list(pool.map(lambda i: Place(i, files), range(options.jobs)))

    def explain(self):
        self.reasons, self.wrong = reasons(os.path.join(TOP, "test", "mutants.txt"), {m.name for m in self.all})

    def learn(self, r):
        self.known[r["id"]] = r
        if r["outcome"] == "killed" and "::" in r["by"]:
            self.kills.append(r)

    def write(self, m, outcome, by="", stage=0, flaky=(), steps=()):
        r = dict(id=m.digest, file=m.file, line=m.line, function=m.function, operator=m.operator, before=m.before,
                 after=m.after, outcome=outcome, by=by, stage=stage, flaky=list(flaky), seconds=list(steps),
                 tests=self.tests)
        with self.lock:
            self.learn(r)
            with open(self.results, "a") as f:
                f.write(json.dumps(r) + "\n")
        return r

    def before(self, m):
        """What is known, if it still holds: what survived does until a test changes."""
        r = self.known.get(m.digest)
        if r and r["outcome"] == "survived" and (r["tests"] != self.tests or r["stage"] < self.last):
            return None
        return r

    @property
    def last(self):
        return 2 if self.options.short else 3

    def likely(self, m):
        """Single tests that killed others of the same function, and of the same file, the latest first."""
        with self.lock:
            near = [r["by"] for r in reversed(self.kills) if r["file"] == m.file and r["function"] == m.function]
            far = [r["by"] for r in reversed(self.kills) if r["file"] == m.file]
        return list(dict.fromkeys(near[:6] + [t for t, _ in collections.Counter(far).most_common(10)]))

    def stage(self, m, number):
        near = [f for pattern, names in NEAR for f in names if re.search(pattern, m.function)]
        first = ["test/test_%s.py" % f for f in dict.fromkeys(near + FIRST[m.file])]
        rest = [f for f in self.test_files if f not in first]
        rest.sort(key=lambda f: (ORDER + [f[10:-3]]).index(f[10:-3]) if f[10:-3] in ORDER else len(ORDER))
        return [f for f in first if f in self.test_files] if number == 2 else rest

    def try_one(self, place, m, stages):
        """Builds a mutant and runs it through these stages; what is written about it."""
        begun, flaky, steps = time.monotonic(), [], []
        try:
            why = place.build(m)
            if why is not None:
                return self.write(m, why, steps=[round(time.monotonic() - begun, 1)])
            for stage in stages:
                steps.append(round(time.monotonic() - begun, 1))
                by = place.unit_tests(m) if stage == 0 else None
                if stage == 1:
                    likely = self.likely(m)
                    what = [t.partition("::")[0] for t in likely] + self.stage(m, 2)
                    by, more = place.suite(list(dict.fromkeys(what)), 0, FIRST_TIME, MUTANT_LIKELY="\n".join(likely),
                                           MUTANT_EVERY="25", MUTANT_OFFSET=str(int(m.digest[:4], 16)))
                    flaky += more
                elif stage >= 2:
                    by, more = place.suite(self.stage(m, stage), self.options.workers, (FIRST_TIME, REST_TIME)[stage - 2])
                    flaky += more
                if by is not None:
                    return self.write(m, "killed", by, stage, flaky, steps + [round(time.monotonic() - begun, 1)])
            return self.write(m, "survived", "", stages[-1], flaky, steps + [round(time.monotonic() - begun, 1)])
        finally:
            place.restore(m)

    def note(self, m, r):
        with self.lock:
            text = "%s:%d %s (%s): %s %s" % (m.file, m.line, m.function, m.operator, r["outcome"], r["by"])
            print("%5.0f s  %s" % (time.monotonic() - self.begun, text.rstrip()), flush=True)
            for test in r["flaky"]:
                print("         failed by chance: " + test)

    def work(self, place, queue, stages):
        """Takes mutants from the queue until enough count."""
        while True:
            with self.lock:
                m = queue(place)
            if m is None:
                return
            if m.name in self.reasons:
                r = {"outcome": "explained", "by": "", "flaky": []}
            else:
                r = self.before(m)
                if r is None or r["outcome"] == "survived" and r["stage"] < stages[-1]:
                    r = self.try_one(place, m, stages)
                    self.note(m, r)
            with self.lock:
                self.outcome[m.name] = r

    def draw(self, number):
        """A function that gives the next mutant while fewer than `number` count, or may yet count."""
        rest, given = iter(self.order), []

        def next_one(place):
            if sum(self.outcome.get(m.name, {}).get("outcome") not in ("no program", "the same") for m in given) >= number:
                return None
            m = next(rest, None)
            if m is not None:
                given.append(m)
            return m
        self.given = given
        return next_one

    def everywhere(self, queue, stages):
        with concurrent.futures.ThreadPoolExecutor(len(self.places)) as pool:
            for done in [pool.submit(self.work, p, queue, stages) for p in self.places]:
                done.result()

    def check_suite(self):
        """What the suite says of the sources as they are: a suite that fails would kill everything."""
        mark = os.path.join(BUILD, "passed-" + hashlib.sha256(
            (self.tests + "".join(m.digest for m in self.all)).encode()).hexdigest())
        if os.path.exists(mark):
            return
        by, _ = self.places[0].suite(self.test_files, self.options.workers, 2 * REST_TIME)
        if by is not None:
            raise SystemExit("the suite fails without any mutant: %s\n%s" % (by, self.places[0].said()))
        open(mark, "w").close()

    def run(self):
        number = self.options.number
        if not self.options.short:
            self.check_suite()
        self.everywhere(self.draw(number), [0, 1, 2])
        if not self.options.short:
            self.explain()  # somebody may have looked at them meanwhile
            left = [m for m in self.given if self.outcome[m.name]["outcome"] == "survived"]
            self.everywhere(lambda place: left.pop(0) if left else None, [3])
        return self.report()

    def report(self):
        sample = [(m, self.outcome[m.name]) for m in self.given]
        sample = [(m, r) for m, r in sample if r["outcome"] not in ("no program", "the same")]
        survivors = [m for m, r in sample if r["outcome"] == "survived"]
        explained = [m for m, r in sample if r["outcome"] == "explained"]
        killed = len(sample) - len(survivors) - len(explained)
        if explained:
            print("\nNot killed, with a reason in test/mutants.txt:")
        for m in explained:
            print("%s\n    = %s" % (m, self.reasons[m.name]))
        if survivors:
            print("\nSurvivors:")
        for m in survivors:
            print(m)
        for text in self.wrong:
            print("\ntest/mutants.txt: " + text)
        most = allowed(len(sample))
        print("\nseed %s, %d s: %d mutants (%d more do not compile or make no difference), %d killed, that is %.1f %% of those"
              " without a reason not to be; %d have one, %d survived (%d may)" % (
                  self.options.seed, time.monotonic() - self.begun, len(sample), len(self.given) - len(sample), killed,
                  100 * killed / max(killed + len(survivors), 1), len(explained), len(survivors), most))
        failed = len(self.wrong) + (len(survivors) if len(survivors) > most else 0)
        print("%d passed, %d failed" % (killed + len(explained), failed))
        return 1 if failed else 0


def allowed(n):
    """Of n mutants so many may survive without a reason."""
    if n >= 100:
        return n // 20
    most, left = 0, 1.0
    for k in range(n + 1):
        left -= math.comb(n, k) * 0.03 ** k * 0.97 ** (n - k)
        if left < 0.001:
            most = k
            break
    return most


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--number", type=int, default=300)
    p.add_argument("--seed", help="if none: 1, or with --short one that the sources make")
    p.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    p.add_argument("--workers", type=int, default=4, help="processes of tests for each")
    p.add_argument("--short", action="store_true", help="leave out the tests that kill few")
    p.add_argument("--match", help="only mutants whose name has this regular expression in it")
    p.add_argument("--list", action="store_true", help="print all mutants, in the order of the sources, and end")
    options = p.parse_args()
    if options.list:
        for m in mutants(TOP):
            print(m)
        return 0
    if not options.seed and not options.short:
        options.seed = "1"
    elif not options.seed:
        digest = hashlib.sha256()
        for file in SOURCES:
            with open(os.path.join(TOP, file), "rb") as f:
                digest.update(f.read())
        options.seed = digest.hexdigest()[:8]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(1))  # the results so far are written
    print("seed", options.seed, flush=True)
    return Session(options).run()


if __name__ == "__main__":
    sys.exit(main())
