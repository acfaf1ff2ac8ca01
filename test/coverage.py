"""`make coverage`: each line and each branch of the four sources has run, or stands in the list of exceptions.

A server built for it (build/cov/wssd) is put through a part of the suite, which is what is needed of it, and the C tests
in test/unit are built the same way; gcovr merges what all of them have counted. build/coverage has the report: summary.txt
with each line and branch that nothing reached, index.html with all of them. The exceptions stand in test/README.md, and an
exception that is reached, or whose text is not there any more, is a failure like a line that is not reached.

Without arguments all is run; `test/coverage.py report` looks once more at what was counted."""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import time

import test_unit

TEST = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(TEST)
BUILT, REPORT = os.path.join(TOP, "build", "cov"), os.path.join(TOP, "build", "coverage")
SOURCES = ["main.c", "tls.c", "http.c", "ws.c"]  # ws.h has no code
FLAGS = ["-O0", "--coverage", "-fprofile-abs-path"]
EXCEPTIONS_MAX = 15

# Of the suite the files that reach what no other file does.
SUITE = ["access", "backends", "chain", "conformance", "credentials", "http", "lifecycle", "proxy", "seqpacket", "tls"]

Exception_ = collections.namedtuple("Exception_", "file function count text")


def counted(directory):
    for d, _, files in os.walk(directory):
        for f in files:
            if f.endswith(".gcda"):
                yield os.path.join(d, f)


def run_suite(jobs):
    """Whether it passed; what it says ends with the line N passed, N failed."""
    env = dict(os.environ, WSSD=os.path.join(BUILT, "wssd"), WSSD_SLOW=os.environ.get("WSSD_SLOW", "2"))
    files = [os.path.join(TEST, "test_%s.py" % name) for name in SUITE]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", str(jobs), "-m", "not deep and not plain",
                           "--timeout", "300"] + files, env=env, cwd=TOP).returncode == 0


def run_units():
    """Passed and failed cases of the C tests."""
    passed, failed, where = 0, 0, os.path.join(BUILT, "unit")
    shutil.rmtree(where, ignore_errors=True)
    os.makedirs(where)
    for program in sorted({p for p, _ in test_unit.cases()}):
        built = test_unit.build(program, where, FLAGS)
        status, text = test_unit.run(built)
        names = [name for p, name in test_unit.cases() if p == program]
        good = [name for name in names if re.search(r"^\[ +OK +\] %s$" % name, text, re.M)]
        if len(good) < len(names) or status != 0:
            print(text)
        passed, failed = passed + len(good), failed + max(len(names) - len(good), int(status != 0))
    return passed, failed


def gcovr():
    """What all have counted: {file: {line: (times, [times of each branch])}}; writes the pages of the report."""
    os.makedirs(REPORT, exist_ok=True)
    # a parse error must not go unnoticed, nor may a file be left out
    command = ["gcovr", "--root", TOP, "--object-directory", BUILT, "--json", os.path.join(REPORT, "coverage.json"),
               "--txt", os.path.join(REPORT, "lines.txt"), "--html-details", os.path.join(REPORT, "index.html")]
    for source in SOURCES:
        command += ["--filter", re.escape(os.path.join(TOP, source)) + "$"]
    subprocess.run(command + [BUILT], cwd=TOP, check=True)
    with open(os.path.join(REPORT, "coverage.json")) as f:
        files = {f["file"]: f["lines"] for f in json.load(f)["files"]}
    return {name: {line["line_number"]: (line["count"], [b["count"] for b in line["branches"]])
                   for line in files[name] if not line["gcovr/noncode"]} for name in SOURCES}


def functions(text):
    """The function that each line of a source stands in: a name in column 0 begins one."""
    name = ""
    for line in text:
        m = re.match(r"([a-z_0-9]+)\(", line)
        name = m.group(1) if m else name
        yield name


def missing(counts):
    """Lines, and branches of lines that ran, which did not: {Exception_: line number}, and the figures of each file."""
    gaps, figures = {}, []
    for name in SOURCES:
        with open(os.path.join(TOP, name)) as f:
            text = f.read().splitlines()
        where = list(functions(text))
        lines, branches = counts[name], [b for _, bs in counts[name].values() for b in bs]
        ran, taken = sum(n > 0 for n, _ in lines.values()), sum(b > 0 for b in branches)
        figures.append((name, len(lines), ran, len(branches), taken))
        for i, (n, bs) in sorted(lines.items()):
            count = "line" if n == 0 else "%d of %d" % (bs.count(0), len(bs)) if 0 in bs else None
            if count:
                gaps[Exception_(name, where[i - 1], count, " ".join(text[i - 1].split()))] = i
    return gaps, figures


def exceptions():
    """From the block in test/README.md: "FILE, FUNCTION: N of M" or "line", the source text, the reason."""
    with open(os.path.join(TEST, "README.md")) as f:
        block = re.search(r"^<!-- exceptions -->\n(.*?)^<!-- end of exceptions -->", f.read(), re.M | re.S)
    found = {}
    entry = re.compile(r"^    (\w+\.c), (\w+): (line|\d+ of \d+)\n((?:     .*\n?)+)", re.M)
    for m in entry.finditer(block.group(1)):
        text, *reason = [" ".join(line.split()) for line in m.group(4).splitlines()]
        found[Exception_(m.group(1), m.group(2), m.group(3), text)] = " ".join(reason)
    return found


def judge():
    """Writes and prints the summary; passed, of lines and branches of each file, and failed: each that is not reached."""
    gaps, figures = missing(gcovr())
    known = exceptions()
    out, failed = [], 0
    for name, lines, ran, branches, taken in figures:
        out.append("%-7s %4d of %4d lines, %4d of %4d branches" % (name, ran, lines, taken, branches))
    for gap, line in gaps.items():
        if gap not in known:
            failed += 1
        what = "the line" if gap.count == "line" else gap.count + " branches"
        sort = "known" if gap in known else "NEVER"
        out.append("%s %s:%d, %s: %s\n        %s" % (sort, gap.file, line, gap.function, what, gap.text))
    for e, reason in known.items():
        if e not in gaps or not reason:
            failed += 1
            out.append("STALE exception: %s, %s: %s: %s" % e)
    if len(known) > EXCEPTIONS_MAX:
        failed += 1
        out.append("%d exceptions, %d are allowed" % (len(known), EXCEPTIONS_MAX))
    with open(os.path.join(REPORT, "summary.txt"), "w") as f:
        f.write("\n".join(out) + "\n")
    print("\n".join(out))
    wrong = {(gap.file, gap.count == "line") for gap in gaps if gap not in known}
    return 2 * len(SOURCES) - len(wrong), failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", "units", "report"], default="all")
    parser.add_argument("--jobs", type=int, default=4)
    args = parser.parse_args()
    start, ok, failed = time.monotonic(), True, 0
    if args.what == "all":
        for file in counted(BUILT):
            os.unlink(file)
        ok = run_suite(args.jobs)
    if args.what != "report":
        passed, failed = run_units()
        print("%d passed, %d failed" % (passed, failed))
    passed, never = judge()
    print("%.0f s; the report is in build/coverage" % (time.monotonic() - start))
    print("%d passed, %d failed" % (passed, never))
    return 0 if ok and failed == 0 and never == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
