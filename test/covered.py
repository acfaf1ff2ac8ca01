"""`make coverage`: each line and each branch of the four sources has run, or stands in the list of exceptions.

A server built for it (build/cov/wssd) is put through a part of the suite, which is what is needed of it, and the C tests
in test/unit are built the same way; gcovr merges what all of them have counted. build/coverage has the report: summary.txt
with each line and branch that nothing reached, index.html with all of them. The exceptions stand in test/README.md, and an
exception that is reached, or whose text is not there any more, is a failure like a line that is not reached.

Without arguments all is run; `test/covered.py report` looks once more at what was counted."""

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

# Of the suite the files that reach what no other file does; but not what looks at the binary, or at its stack, where code
# that is not optimized keeps more.
SUITE = "access backends chain conformance credentials faults http lifecycle proxy seqpacket tls".split()
NOT = ["test_faults.py::test_every_symbol_is_covered", "test_faults.py::test_memory_that_cannot_be_given_back_is_wiped"]

Gap = collections.namedtuple("Gap", "file function what text")


def counted(directory):
    for d, _, files in os.walk(directory):
        for f in files:
            if f.endswith(".gcda"):
                yield os.path.join(d, f)


def run_suite(jobs):
    """Whether it passed; what it says ends with the line N passed, N failed."""
    env = dict(os.environ, WSSD=os.path.join(BUILT, "wssd"), WSSD_SLOW=os.environ.get("WSSD_SLOW", "2"))
    files = ["test/test_%s.py" % name for name in SUITE] + ["--deselect=" + name for name in NOT]
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


def missing(counts, texts):
    """Lines, and branches of lines that ran, which did not: {Gap: line number}, and the figures of each file."""
    gaps, figures = {}, []
    for name, lines in counts.items():
        text = texts[name].splitlines()
        where = list(functions(text))
        branches = [n for _, times in lines.values() for n in times]
        ran, taken = sum(n > 0 for n, _ in lines.values()), sum(n > 0 for n in branches)
        figures.append("%-7s %4d of %4d lines, %4d of %4d branches" % (name, ran, len(lines), taken, len(branches)))
        for i, (n, times) in sorted(lines.items()):
            if n == 0 or 0 in times:
                what = "line" if n == 0 else "%d of %d" % (times.count(0), len(times))
                gaps[Gap(name, where[i - 1], what, " ".join(text[i - 1].split()))] = i
    return gaps, figures


def exceptions(text):
    """From the block in test/README.md: "FILE, FUNCTION: N of M" or "line", below it the source text, then the reason."""
    block = re.search(r"^<!-- exceptions -->\n(.*?)^<!-- end of exceptions -->", text, re.M | re.S).group(1)
    entry = re.compile(r"^    (\w+\.c), (\w+): (line|\d+ of \d+)\n((?:     .*\n?)+)", re.M)
    found = {}
    for m in entry.finditer(block):
        source, *reason = [" ".join(line.split()) for line in m.group(4).splitlines()]
        found[Gap(*m.group(1, 2, 3), source)] = " ".join(reason)
    assert not entry.sub("", block).replace("```", "").strip(), "an exception in another form than these"
    return found


def compare(gaps, known):
    """Complaints; and the gaps that are exceptions."""
    wrong = ["NEVER %s:%d, %s: %s%s\n        %s" % (g.file, i, g.function, g.what, " branches" * (g.what != "line"), g.text)
             for g, i in gaps.items() if g not in known]
    wrong += ["STALE or without a reason: %s, %s: %s: %s" % gap
              for gap, reason in known.items() if gap not in gaps or not reason]
    if len(known) > EXCEPTIONS_MAX:
        wrong.append("%d exceptions, %d are allowed" % (len(known), EXCEPTIONS_MAX))
    return wrong, ["known %s:%d, %s: %s" % (gap.file, gaps[gap], gap.function, gap.what) for gap in known if gap in gaps]


def hidden(texts):
    """gcovr would leave out what a comment tells it to."""
    return ["HIDDEN %s:%d: %s" % (name, i, " ".join(line.split())) for name, text in texts.items()
            for i, line in enumerate(text.splitlines(), 1) if re.search(r"(GCOVR?|LCOV)_EXCL", line)]


def judge():
    """Writes and prints the summary; passed, of lines and branches of each file, and failed: each complaint."""
    texts = {}
    for name in SOURCES:
        with open(os.path.join(TOP, name)) as f:
            texts[name] = f.read()
    with open(os.path.join(TEST, "README.md")) as f:
        known = exceptions(f.read())
    gaps, figures = missing(gcovr(), texts)
    wrong, excused = compare(gaps, known)
    wrong += hidden(texts)
    summary = "\n".join(figures + excused + wrong) + "\n"
    with open(os.path.join(REPORT, "summary.txt"), "w") as f:
        f.write(summary)
    print(summary, end="")
    return 2 * len(SOURCES) - len({(gap.file, gap.what == "line") for gap in gaps if gap not in known}), len(wrong)


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
