"""What the sources promise and a machine can check: size, layout, boundaries, warnings, analyzers.

    audit.py [NAME]...       runs all checks, or those named; exit status 1 when one of them has something to say

Each check takes a Tree and returns its findings, one sentence each, none when all is well. test_audit.py runs them one
by one, and feeds each of them samples that it must refuse.
"""

import os
import re
import subprocess
import sys
import tempfile

SOURCES = ["ws.h", "main.c", "tls.c", "http.c", "ws.c"]
CODE_LINES = 2609   # neither blank nor only comment, in all five; the aim is 2000
ALL_LINES = 3406    # wc -l
COLUMNS = 100       # a tab reaches to the next multiple of 8
FUNCTION_LINES = 60
SHOWN = 15          # findings of a check that are printed
LONG_FUNCTIONS = {"main.c": {"loop"}}  # the poll loop reads best in one piece

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wmissing-prototypes", "-Wvla"]

ALLOCATE = "malloc calloc realloc reallocarray free strdup strndup alloca aligned_alloc posix_memalign memalign valloc " \
           "asprintf vasprintf getline getdelim open_memstream"
UNBOUNDED = "strcpy strcat stpcpy wcscpy sprintf vsprintf gets scanf fscanf sscanf vscanf vfscanf vsscanf"
TRANSFER = "read write recv send readv writev recvfrom sendto recvmsg sendmsg pread pwrite sendfile splice"

# Where data may pass through a descriptor, apart from tls.c, which alone touches those of clients: the function, and the
# descriptor as it stands there.
TRANSFERS = {
    "main.c": {("log_line", "STDERR_FILENO"), ("read_file", "fd"), ("take_signals", "signal_fd")},
    "http.c": {("http_step", "c->bfd")},
    "ws.c": {("stream_input", "c->bfd"), ("stream_recv", "c->bfd")},
}
# What enters the kernel, or may, of all that a C library has and the sources call; test_audit.py compares it with faulty.py.
CALLS = "accept4 bind chdir chroot clock_gettime close connect epoll_create1 epoll_ctl epoll_wait fflush fstat fstatat " \
        "getegid getentropy geteuid getgid gethostname getrlimit getsockname getsockopt getuid ioctl listen lseek madvise mmap " \
        "munmap open openat poll prctl rename select setgroups setresgid setresuid setrlimit setsockopt shutdown signal signalfd " \
        "sigprocmask socket stat time unlink usleep " + TRANSFER
HASHES = r"br_sha(1|256)_\w+"  # of BearSSL, what http.c may use


# ---- reading C


def strip(text, strings=True):
    """The code without comments (and without what stands in strings and character constants), line by line as it was."""
    def blank(m):
        token = m.group(0)
        if token.startswith("/"):
            return "\n" * token.count("\n") or " "
        return token[0] + token[0] if strings else token
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def code_lines(text):
    return [line for line in strip(text, False).split("\n") if line.strip()]


class Function:
    def __init__(self, name, first, lines):
        self.name, self.first, self.lines = name, first, lines


def functions(text):
    """The functions of a file in the checked layout: the name in column 0, the braces in column 0."""
    found, lines, name, start = [], strip(text).split("\n"), None, None
    for i, line in enumerate(lines):
        m = re.match(r"([a-z_]\w*)\(", line)
        if m:
            name = m.group(1), i
        elif line.startswith("{") and name:
            start = i
        elif line.startswith("}") and start is not None:
            found.append(Function(name[0], name[1] + 1, lines[name[1]:i + 1]))
            name = start = None
        elif line.startswith("}") or line.endswith(";") and not line.startswith(("\t", " ")):
            name = None
    return found


def words(names):
    return re.compile(r"\b(%s)\s*\(" % "|".join(names.split()))


class Tree:
    """A directory with the sources in it."""

    def __init__(self, root):
        self.root = root

    def path(self, name):
        return os.path.join(self.root, name)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as f:
            return f.read()

    def numbered(self, name, strings=True):
        """Lines of code with their numbers, without comments and contents of strings."""
        return enumerate(strip(self.read(name), strings).split("\n"), 1)

    def sources(self):
        return [f for f in SOURCES if os.path.exists(self.path(f))]

    def compiled(self):
        return [f for f in self.sources() if f.endswith(".c")] + \
            [f for f in ("dist/selfsign.c",) if os.path.exists(self.path(f))]

    def files(self):
        """Every file that belongs to the project."""
        if os.path.exists(self.path(".git")):
            out = subprocess.run(["git", "ls-files", "-z"], cwd=self.root, stdout=subprocess.PIPE, check=True).stdout
            return [f for f in out.decode().split("\0") if f and os.path.isfile(self.path(f))]
        return [os.path.relpath(os.path.join(d, f), self.root) for d, _, fs in os.walk(self.root) for f in fs]

    def run(self, *command):
        """Runs a command in the tree: (status, lines of output)."""
        r = subprocess.run(command, cwd=self.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=600)
        return r.returncode, r.stdout.decode(errors="replace").splitlines()


# ---- the checks

CHECKS = {}


def check(f):
    CHECKS[f.__name__] = f
    return f


@check
def layout(tree):
    """The five sources, and no sixth beside them."""
    here = {f for f in os.listdir(tree.root) if re.search(r"\.(c|h|cc|cpp|hpp|inc)$", f)}
    return ["%s is missing" % f for f in SOURCES if f not in here] + \
        ["%s: a sixth source" % f for f in sorted(here - set(SOURCES))]


@check
def budget(tree):
    """Lines of code, and lines in all."""
    code = sum(len(code_lines(tree.read(f))) for f in tree.sources())
    lines = sum(tree.read(f).count("\n") for f in tree.sources())
    out = []
    if code > CODE_LINES:
        out.append("%d lines of code, %d are the budget" % (code, CODE_LINES))
    if lines >= ALL_LINES:
        out.append("%d lines, fewer than %d are the budget" % (lines, ALL_LINES))
    return out


@check
def columns(tree):
    """No line is wider than the page."""
    out = []
    for f in tree.sources():
        for n, line in enumerate(tree.read(f).split("\n"), 1):
            if len(line.expandtabs(8)) > COLUMNS:
                out.append("%s:%d: %d columns" % (f, n, len(line.expandtabs(8))))
    return out


@check
def layout_of_code(tree):
    """As .clang-format lays it out."""
    names = tree.sources() + [f for f in tree.compiled() if "/" in f]
    status, out = tree.run("clang-format", "--style=file", "--dry-run", "-Werror", *names)
    return [line for line in out if ": error:" in line] or ["clang-format: status %d" % status] if status else []


@check
def function_length(tree):
    """A function fits on a page."""
    out = []
    for f in tree.sources():
        for fn in functions(tree.read(f)):
            if len(fn.lines) > FUNCTION_LINES and fn.name not in LONG_FUNCTIONS.get(f, ()):
                out.append("%s:%d: %s has %d lines" % (f, fn.first, fn.name, len(fn.lines)))
    return out


@check
def bearssl_in_tls_only(tree):
    """BearSSL is named in tls.c only, but for the hashes in http.c."""
    out = []
    for f in tree.sources():
        for n, line in tree.numbered(f, False):
            names = re.findall(r"\bbr_\w+", line)
            if f == "http.c":
                names = [x for x in names if not re.fullmatch(HASHES, x)]
            if f != "tls.c" and names:
                out.append("%s:%d: %s" % (f, n, " ".join(names)))
            if f not in ("tls.c", "http.c") and re.match(r"\s*#\s*include\s*<bearssl", line):
                out.append("%s:%d: includes BearSSL" % (f, n))
    return out


@check
def client_descriptors_in_tls_only(tree):
    """Data of clients passes through tls.c; every other transfer is listed in TRANSFERS."""
    out = []
    call = re.compile(r"(?<![\w>.])(%s)\s*\(\s*([^,()]*(?:\([^()]*\))?[^,()]*)," % "|".join(TRANSFER.split()))
    for f in tree.sources():
        if f == "tls.c":
            continue
        text = strip(tree.read(f))
        inside = {}
        for fn in functions(text):
            for m in call.finditer("\n".join(fn.lines)):
                inside.setdefault((fn.name, m.group(2).strip()), m.group(1))
        total = len(call.findall(text))
        known = sum(len(call.findall("\n".join(fn.lines))) for fn in functions(text))
        if total != known and f.endswith(".c"):
            out.append("%s: a transfer outside of any function" % f)
        for (name, descriptor), what in inside.items():
            if (name, descriptor) not in TRANSFERS.get(f, ()):
                out.append("%s: %s calls %s on %s" % (f, name, what, descriptor))
        for name, _ in sorted(TRANSFERS.get(f, set()) - set(inside)):
            out.append("%s: %s is listed and does not transfer anything" % (f, name))
    return out


@check
def no_allocation(tree):
    """Nothing is allocated: neither in the sources, nor in what the compiler made of them."""
    out = []
    for f in tree.sources():
        for n, line in tree.numbered(f):
            m = words(ALLOCATE).search(line)
            if m:
                out.append("%s:%d: %s" % (f, n, m.group(1)))
    return out


@check
def no_unbounded_write(tree):
    """No function that writes without a bound."""
    out = []
    for f in tree.sources() + [f for f in tree.compiled() if "/" in f]:
        for n, line in tree.numbered(f):
            m = words(UNBOUNDED).search(line)
            if m:
                out.append("%s:%d: %s" % (f, n, m.group(1)))
    return out


@check
def includes(tree):
    """Each .c includes ws.h and system headers only; ws.h includes system headers only."""
    out = []
    for f in tree.sources():
        own = 0
        for n, line in tree.numbered(f, False):
            m = re.match(r'\s*#\s*include\s+(\S+)', line)
            if m and m.group(1) == '"ws.h"' and f != "ws.h":
                own += 1
            elif m and not re.fullmatch(r"<[\w/.]+>", m.group(1)):
                out.append("%s:%d: includes %s" % (f, n, m.group(1)))
        if f != "ws.h" and own != 1:
            out.append('%s: includes "ws.h" %d times' % (f, own))
    return out


@check
def one_compat_block(tree):
    """Conditional compilation stands in one block of ws.h, the build's name, and one of main.c, names of system calls."""
    blocks = []
    for f in tree.sources():
        depth, code = 0, True
        for n, line in tree.numbered(f):
            if re.match(r"\s*#\s*if", line):
                if depth == 0 and code:
                    blocks.append("%s:%d" % (f, n))
                depth, code = depth + 1, False
            elif re.match(r"\s*#\s*endif", line):
                depth -= 1
            elif depth == 0 and line.strip() and not line.lstrip().startswith("#"):
                code = True
    files = [block.partition(":")[0] for block in blocks]
    bad = set(files) - {"ws.h", "main.c"} or len(files) > len(set(files))
    return ["conditional compilation in %d places: %s" % (len(blocks), " ".join(blocks))] if bad else []


@check
def exits_before_the_loop(tree):
    """Only main.c ends the process: no error of a client is one of all."""
    out = []
    for f in tree.sources():
        for n, line in tree.numbered(f):
            if f != "main.c" and re.search(r"\b(exit|_exit|_Exit|quick_exit|abort|assert)\s*\(", line):
                out.append("%s:%d: ends the process" % (f, n))
    return out


def compile_all(tree, compiler, *flags):
    """What a compiler says of each source, compiled by itself."""
    out = []
    with tempfile.TemporaryDirectory() as d:
        for f in tree.compiled():
            status, lines = tree.run(compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-DBUILD_DATE=1", *flags, "-c", f, "-o",
                                     os.path.join(d, "out.o"))
            found = [line for line in lines if re.search(r"(warning|error):", line)]
            out += found or (["%s: %s: status %d" % (compiler, f, status)] if status else [])
    return out


@check
def gcc_warnings(tree):
    """gcc has nothing to say."""
    return compile_all(tree, "gcc", *WARNINGS)


@check
def clang_warnings(tree):
    """clang has nothing to say."""
    return compile_all(tree, "clang", *WARNINGS)


@check
def gcc_analyzer(tree):
    """gcc -fanalyzer has nothing to say."""
    return compile_all(tree, "gcc", "-fanalyzer")


@check
def cppcheck(tree):
    """cppcheck has nothing to say; a false alarm is silenced at its line, with the reason."""
    # variableScope: declarations open a function here, whatever branch uses them
    status, out = tree.run("cppcheck", "--std=c11", "--language=c", "--enable=warning,style,performance,portability",
                           "--inline-suppr", "--suppress=missingIncludeSystem", "--suppress=variableScope",
                           "--error-exitcode=1", "--quiet", "--template={file}:{line}: {id}: {message}",
                           "-D_GNU_SOURCE", "-DBUILD_DATE=1", *tree.compiled())
    return [line for line in out if re.match(r"\S+:\d+: ", line)] or out if status else []


@check
def undefined_symbols(tree):
    """The objects call no allocator and no unbounded function, whatever the sources look like."""
    bad, out = set((ALLOCATE + " " + UNBOUNDED).split()), []
    with tempfile.TemporaryDirectory() as d:
        for f in [f for f in tree.sources() if f.endswith(".c")]:
            obj = os.path.join(d, f + ".o")
            status, lines = tree.run("gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-c", f, "-o", obj)
            if status:
                return lines
            _, lines = tree.run("nm", "-u", obj)
            names = {line.split()[-1] for line in lines if line.split()}
            out += ["%s calls %s" % (f, x) for x in sorted(names & bad)]
    return out


# ---- what AUDIT.md says

LINES_AN_HOUR = 400


@check
def reading_order(tree):
    """AUDIT.md knows how long the five files are, and how long they take."""
    text, out, minutes = tree.read("AUDIT.md"), [], 0
    rows = dict((f, (int(n), int(m))) for f, n, m in re.findall(r"^\| \d \| `([\w.]+)` \| (\d+) \| (\d+) \|", text, re.M))
    if list(rows) != SOURCES:
        return ["AUDIT.md: the reading order is %s" % " ".join(rows)]
    for f, (said, time) in rows.items():
        lines = len(code_lines(tree.read(f)))
        if abs(lines - said) > max(5, lines // 40):
            out.append("AUDIT.md: %s has %d lines of code, not %d" % (f, lines, said))
        if time != round(said * 60 / LINES_AN_HOUR):
            out.append("AUDIT.md: %s takes %d minutes, not %d" % (f, round(said * 60 / LINES_AN_HOUR), time))
        minutes += time
    if "That is %.1f hours" % (minutes / 60) not in text:
        out.append("AUDIT.md: all five take %.1f hours" % (minutes / 60))
    return out


@check
def variables(tree):
    """AUDIT.md lists every variable of static storage that is not constant, and no other."""
    known, found = set(re.findall(r"`(\w+\.c:\w+)`", section(tree.read("AUDIT.md"), "What changes after the start"))), set()
    with tempfile.TemporaryDirectory() as d:
        for f in [f for f in tree.sources() if f.endswith(".c")]:
            obj = os.path.join(d, f + ".o")
            status, lines = tree.run("gcc", "-std=c11", "-D_GNU_SOURCE", "-O0", "-fno-pie", "-c", f, "-o", obj)
            if status:
                return lines
            _, lines = tree.run("nm", obj)
            data = [re.search(r" [bBdDC] (\w+?)(?:\.\d+)?$", line) for line in lines]
            found |= {"%s:%s" % (f, m.group(1)) for m in data if m}
    functions_too = {"%s:%s" % (f, fn.name) for f in tree.sources() for fn in functions(tree.read(f))}
    return ["AUDIT.md does not say when %s changes" % x for x in sorted(found - known)] + \
        ["AUDIT.md: %s is no variable" % x for x in sorted(known - found - functions_too)]


def section(text, title):
    """What stands below a heading, up to the next of its kind."""
    m = re.search(r"^## %s\n(.*?)(?=^## |\Z)" % re.escape(title), text, re.M | re.S)
    return m.group(1) if m else ""


@check
def system_calls(tree):
    """AUDIT.md says of each function by which calls it enters the kernel, and of no other."""
    said, found, call = {}, {}, re.compile(r"(?<![\w>.])(%s)\s*\(" % "|".join(CALLS.split()))
    for places, names in re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", section(tree.read("AUDIT.md"), "System calls"), re.M):
        for place, calls in zip(re.findall(r"`([^`]+)`", places), names.split(";")):
            said[place] = set(re.findall(r"\w+", calls))
    for f in tree.sources():
        for fn in functions(tree.read(f)):
            names = set(call.findall("\n".join(fn.lines[1:])))
            if names:
                found["%s:%s" % (f, fn.name)] = names
    return ["AUDIT.md: %s calls %s, not %s" % (p, " ".join(sorted(found.get(p, {"nothing"}))), " ".join(sorted(
        said.get(p, {"nothing"})))) for p in sorted(set(said) | set(found)) if said.get(p) != found.get(p)]


@check
def names_in_the_guide(tree):
    """Each `FILE:NAME` of AUDIT.md is there, and each NAME of its reading order."""
    text, code = tree.read("AUDIT.md"), " ".join(strip(tree.read(f)) for f in tree.sources())
    out = ["AUDIT.md: there is no %s" % name for name in sorted(set(re.findall(r"`(\w+)`", section(text, "Reading order"))))
           if not re.search(r"\b%s\b" % name, code)]
    for file, name in sorted(set(re.findall(r"`([\w.]+\.[ch]):(\w+)`", text))):
        if not os.path.exists(tree.path(file)) or not re.search(r"\b%s\b" % name, strip(tree.read(file))):
            out.append("AUDIT.md: there is no %s in %s" % (name, file))
    return out


LEFT_OPEN = "|".join(["TO" "DO", "FIX" "ME", "XX" "X", "HA" "CK"])


@check
def nothing_left_open(tree):
    """No note to oneself is left in any file, but for what a fuzzer made up."""
    out = []
    for f in tree.files():
        if f.startswith("test/fuzz/corpus/"):
            continue
        try:
            text = tree.read(f)
        except UnicodeDecodeError:
            continue
        for n, line in enumerate(text.split("\n"), 1):
            if re.search(r"\b(%s)\b" % LEFT_OPEN, line):
                out.append("%s:%d: %s" % (f, n, line.strip()[:80]))
    return out


def main(names):
    tree = Tree(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = sum(len(code_lines(tree.read(f))) for f in tree.sources())
    bad = 0
    for name in names or CHECKS:
        found = CHECKS[name](tree)
        bad += bool(found)
        print("%-4s %-32s %s" % ("BAD" if found else "ok", name, CHECKS[name].__doc__.strip()))
        for line in found[:SHOWN]:
            print("     " + line)
        if len(found) > SHOWN:
            print("     and %d more" % (len(found) - SHOWN))
        sys.stdout.flush()
    print("%d lines of code of %d, %d checks, %d with findings" % (code, CODE_LINES, len(names or CHECKS), bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
