#!/usr/bin/python3
"""The machine-checked core: runs every proof test/prove/NAME.c and says which hold.

Each NAME.c includes the product's source whose functions it is about (so that statics can be reached), stands in for what
that source calls in the other files, and feeds what a stranger may send: arbitrary bytes, in arbitrary pieces, from an
arbitrary reachable state. Lines of its first comment say how it is proved; each is a run of its own:

    eva: OPTIONS     Frama-C Eva from the function entry(), on a 64-bit and on a 32-bit machine
    eva64: OPTIONS   the same, on a 64-bit machine only
    endless: OPTIONS like eva, but entry() has an endless loop (any number of pieces) and must not end
    wp: OPTIONS      Frama-C WP with z3 and cvc4 (name the functions with -wp-fct)
    cc: OPTIONS      a C program that tries every case; its exit status 1 says that one is wrong
    with: OLD -> NEW the proof's copy of ws.h has this change, such as a smaller limit (not a way to prove: no run)

Eva's run passes only if it has 0 alarms, every property that it reached is valid, every assertion of the proof itself was
reached, entry() was analysed to its end, no function without body and contract was called, and nothing was warned of.
WP's passes only if all goals are proved, and there are some.  Nothing may be admitted, or be an axiom, but Frama-C's own.

    prove.py [--mutants] [--tree DIR] [--jobs N] [-v] [NAME...]

--mutants runs mutants.py's table instead: each breaks one line of a copy of the sources, and the proof named there has to
fail, because of a property, not because the copy does not parse. Last line: "N passed, N failed".
"""

import argparse
import collections
import csv
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent
SOURCES = ["ws.h", "main.c", "tls.c", "http.c", "ws.c"]
MACHDEPS = {64: "gcc_x86_64", 32: "gcc_x86_32"}
PATIENCE = 400  # seconds that one run may take, on a machine that has other things to do
Run = collections.namedtuple("Run", "name file tool options bits")
# how: "proved"; "refuted": a property does not hold or is not known to; "broken": the proof itself does not run
Result = collections.namedtuple("Result", "how details seconds note")

NARROWING = threading.Lock()

# What Frama-C may say without harm: about the precision of its values, which alarms would show.
HARMLESS = re.compile(
    r"\[eva:(loop-unroll|experimental|partition)\b|"
    r"\[kernel:(CERT|typing:(incompatible-types-call|implicit-conv-void-ptr)|parser:decimal-float)|"
    r"\[variadic\] \S+ Warning:\s+Call to function snprintf with non-static format|"  # show_address()
    r"\[nonterm:stmt\] \S+ Warning:\s+non-terminating function call\s+stack: (take_word|read_config) ::|"  # die()
    r"\[kernel\] Warning: (ignoring|unsupported) attribute|Unknown attribute|"
    r"\[eva:alarm\]|\[kernel\] \S+ Warning:\s+all target addresses were invalid|"  # judged by the statuses
    r"\[wp\] Warning: Missing RTE guards")  # Eva looks after those


def runs_of(path):
    comment = re.match(r"/\*(.*?)\*/", path.read_text(), re.S)
    found = []
    for line in comment.group(1).splitlines() if comment else []:
        m = re.match(r"[ *\t]*(eva|eva64|endless|wp|cc):(.*)$", line)
        if m is None:
            continue
        tool, options = m.group(1), m.group(2).split()
        for bits in [64, 32] if tool in ("eva", "endless") else [64]:
            found.append(Run(path.stem, path, tool, options, bits))
    return found


def narrowed(path):
    """Makes the changes to ws.h that a proof in a copy of the tree asks for: (where it is now, what is wrong)."""
    changes = re.findall(r"^[ *\t]*with: (.*?) +-> (.*)$", path.read_text().split("*/")[0], re.M)
    if not changes:
        return path, None
    tree = path.parents[2] / path.stem
    if not tree.exists():
        tree.mkdir()
        copy_tree(path.parents[2], tree)
        header = tree / "ws.h"
        for old, new in changes:
            text = header.read_text()
            if text.count(old) != 1:
                return path, f"{old!r} stands {text.count(old)} times in ws.h"
            header.write_text(text.replace(old, new))
    return tree / "test" / "prove" / path.name, None


def command(args, cwd, env):
    """Runs it in a process group of its own, so that provers end with it; (status or None, output)."""
    # Frama-C believes PWD: a stale one would have it prove the sources of another directory
    p = subprocess.Popen(args, cwd=cwd, env=dict(env, PWD=str(cwd)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        out = p.communicate(timeout=PATIENCE)[0]
        return p.returncode, out
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, 9)
        return None, p.communicate()[0]


def frama_c(run, scratch, *more):
    cpp = f"-D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DPROOF_BITS={run.bits} -include linux.h -idirafter /usr/include"
    return ["frama-c", "-machdep", MACHDEPS[run.bits], f"-cpp-extra-args={cpp}", "-c11", *more, run.file.name]


def warnings(out):
    """Messages that are warnings or errors and not harmless, each with its continuation lines."""
    found = []
    for message in re.split(r"\n(?=\[)", out):
        if re.search(r"\b(Warning|Error|Failure)\b", message) and not HARMLESS.search(message):
            found.append(" ".join(message.split()))
    return found


def eva(run, scratch, env):
    table = scratch / "report.csv"
    args = frama_c(run, scratch, "-eva", "-main", "entry", *run.options)
    args += ["-then", "-nonterm", *(["-nonterm-ignore", "entry"] if run.tool == "endless" else [])]
    args += ["-then", "-report-csv", str(table)]
    status, out = command(args, run.file.parent, env)
    summary = re.search(r"\n  (\d+) alarms? generated", out)
    if status != 0 or summary is None or not table.exists() or "degenerat" in out:
        return "broken", out.splitlines()[-15:] if status is not None else ["no answer in time"], ""
    wrong, broken = [], []
    if summary.group(1) != "0":
        wrong.append(f"{summary.group(1)} alarms")
    wrong += [" ".join(m.split()) for m in re.findall(r"^\[eva:alarm\].*\n(?:  .*\n)*", out, re.M)]
    asserted = 0
    spoken_for = "".join(re.findall(r"-eva-use-spec (\S+)", " ".join(run.options))).split(",")
    with open(table, newline="") as f:
        for row in csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE):
            where = f"{row['file']}:{row['line']}: {row['property kind']} {row['status']}: {row['property']}"
            user = row["property kind"] in ("user assertion", "user check", "loop invariant")
            asserted += user and row["status"] == "Valid"
            if row["file"] in SOURCES and row["directory"] != str(run.file.parents[2]):
                broken.append(f"analysed another {row['file']}, in {row['directory']}")
            if row["status"] in ("Valid", "Considered valid"):
                continue
            # what a proof takes from another one: its contract counts where it is called, as rows of the caller
            if row["function"] in spoken_for and row["property kind"] in ("precondition", "postcondition"):
                continue
            # dead code of the product is no part of the proof; an assertion that is not reached proves nothing
            if row["status"] == "Dead" and not (user and row["file"] == run.file.name):
                continue
            wrong.append(where)
    ends = "NON TERMINATING FUNCTION" not in final_state(out)
    if ends == (run.tool == "endless"):
        wrong.append("entry() ends" if ends else "entry() is not analysed to its end")
    for w in warnings(out):
        (wrong if w.startswith("[nonterm") else broken).append(w)
    cover = re.search(r"(\d+) functions? analyzed.*\n.*?(\d+)% coverage", out)
    note = f"{cover.group(1)} functions, {cover.group(2)} % of their statements, " if cover else ""
    return ("broken" if broken else "refuted" if wrong else "proved"), broken + wrong, f"{note}{asserted} assertions"


def final_state(out):
    m = re.search(r"\[eva:final-states\] Values at end of function entry:\n(.*?)(\n\[|\Z)", out, re.S)
    return m.group(1) if m else "NON TERMINATING FUNCTION"


def wp(run, scratch, env):
    args = frama_c(run, scratch, "-wp", "-wp-prover", "z3,cvc4", "-wp-cache", "none", "-wp-par", "2", *run.options)
    status, out = command(args, run.file.parent, env)
    goals = re.search(r"Proved goals: +(\d+) / (\d+)", out)
    if status != 0 or goals is None or goals.group(2) == "0":
        return "broken", out.splitlines()[-15:] if status is not None else ["no answer in time"], ""
    broken = warnings(out)
    wrong = re.findall(r"\[wp\] \[(?:Failed|Timeout|Unknown|Stepout).*", out)
    if goals.group(1) != goals.group(2) and not wrong:
        wrong = ["not all goals"]
    note = f"{goals.group(1)} of {goals.group(2)} goals"
    return ("broken" if broken else "refuted" if wrong else "proved"), broken + wrong, note


def cc(run, scratch, env):
    program = scratch / "program"
    args = ["cc", "-std=c11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-o", str(program), run.file.name, *run.options]
    status, out = command(args, run.file.parent, env)
    if status != 0:
        return "broken", out.splitlines()[-15:], ""
    status, out = command([str(program)], scratch, env)
    lines = out.splitlines() or [f"exit status {status}"]
    return {0: "proved", 1: "refuted"}.get(status, "broken"), lines[-15:], lines[-1]


def prove(run, env):
    begin = time.monotonic()
    with NARROWING:
        path, wrong = narrowed(run.file)
    if wrong is not None:
        return Result("broken", [wrong], 0, "")
    run = run._replace(file=path)
    for source in [path, *path.parent.glob("*.h"), *(path.parents[2] / name for name in SOURCES)]:
        if re.search(r"\b(admit|axiom)\b", source.read_text()):
            return Result("broken", [f"{source.name} takes something for granted"], 0, "")
    with tempfile.TemporaryDirectory() as d:
        tool = {"wp": wp, "cc": cc}.get(run.tool, eva)
        how, details, note = tool(run, pathlib.Path(d), env)
    return Result(how, details, time.monotonic() - begin, note)


def title(run):
    return f"{run.name} ({run.tool}{run.bits if run.tool in ('eva', 'endless') else ''})".replace("eva64", "eva")


def provers(scratch):
    """An environment with why3's provers in a file of its own, so that nobody's home is touched."""
    env = dict(os.environ, WHY3CONFIG=str(scratch / "why3.conf"), LC_ALL="C.UTF-8")
    subprocess.run(["why3", "config", "detect"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return env


def copy_tree(tree, to):
    (to / "test").mkdir()
    for name in SOURCES:
        shutil.copy(tree / name, to / name)
    shutil.copytree(HERE, to / "test" / "prove", ignore=shutil.ignore_patterns("__pycache__"))


def try_mutant(mutant, tree, env):
    """(killed, one line)"""
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d).resolve()
        copy_tree(tree, d)
        text = (d / mutant.file).read_text()
        if text.count(mutant.old) != 1 or mutant.old == mutant.new:
            return False, f"its text stands {text.count(mutant.old)} times in {mutant.file}"
        (d / mutant.file).write_text(text.replace(mutant.old, mutant.new))
        entry = d / "test" / "prove" / (mutant.entry + ".c")
        if not entry.exists():
            return False, f"no proof {mutant.entry}"
        for run in runs_of(entry):
            if run.bits == 32 and not mutant.narrow:
                continue
            result = prove(run, env)
            if result.how != "proved":
                return result.how == "refuted", f"{title(run)} {result.how}: {result.details[0].strip()[:100]}"
    return False, f"{mutant.entry} still holds"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*", metavar="NAME", help="proofs (or mutants) to run; default: all")
    p.add_argument("--mutants", action="store_true", help="run the mutants instead")
    p.add_argument("--sample", type=int, metavar="N", help="only N of the mutants, by a seed that is printed")
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--tree", type=pathlib.Path, default=HERE.parent.parent, help="where the sources are")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("-v", action="store_true", help="say what Frama-C said where one fails")
    a = p.parse_args()
    lock, counts, begin = threading.Lock(), collections.Counter(), time.monotonic()

    def say(good, line, details=()):
        with lock:
            counts["passed" if good else "failed"] += 1
            print(line, flush=True)
            for detail in details:
                print("    " + detail, flush=True)

    def one_proof(run):
        r = prove(run, env)
        say(r.how == "proved", f"{r.how:8}{r.seconds:6.1f} s  {title(run)}: {r.note}",
            () if r.how == "proved" else r.details if a.v else r.details[:12])

    def one_mutant(mutant):
        start = time.monotonic()
        killed, line = try_mutant(mutant, a.tree, env)
        say(killed, f"{'killed' if killed else 'SURVIVED':8}{time.monotonic() - start:6.1f} s  {mutant.name} "
                    f"[{mutant.shows}]: {line}")

    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d).resolve()
        env = provers(d)
        if a.mutants:
            from mutants import MUTANTS
            work, job = [m for m in MUTANTS if not a.names or m.name in a.names or m.entry in a.names], one_mutant
            if a.sample is not None and a.sample < len(work):
                print(f"a sample of {a.sample} of {len(work)} by --seed {a.seed}")
                work = random.Random(a.seed).sample(work, a.sample)
        else:
            tree = d / "tree"
            tree.mkdir()
            copy_tree(a.tree, tree)
            work, job = [], one_proof
            for path in sorted((tree / "test" / "prove").glob("*.c")):
                if a.names and path.stem not in a.names:
                    continue
                runs = runs_of(path)
                work += runs
                if not runs:
                    say(False, f"broken    {path.stem}: its first comment does not say how it is proved")
        with ThreadPoolExecutor(max(a.jobs, 1)) as pool:
            list(pool.map(job, work))
    print(f"{time.monotonic() - begin:.0f} s")
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    return 0 if counts["passed"] > 0 and counts["failed"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
