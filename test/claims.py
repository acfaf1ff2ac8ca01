"""The claims of AUDIT.md: reads them, and shows of some that the named test or proof fails when the claim is broken.

    claims.py [--number N] [--seed SEED] [--jobs J] [--list] [ID]...

A claim is an item of a list below a heading that names the file:

    - **ID** `FUNCTION`: what never happens, or what always holds.
      - TEST, in backquotes
      - OLD => NEW, both in backquotes: the mutation, whose OLD stands in the file exactly once

FUNCTION may also be an enum or a table of the file. TEST is one of

    test_X.py::NAME, with [PARAMETERS]   a test, or one case of it
    unit/X.c: NAME                       a case of a program of unit tests
    prove/X.c                            a proof
    audit.py: NAME                       a check of audit.py
    make                                 the build: what it says is asserted at compile time

Each of N claims (10), drawn by SEED (printed; if none is given, the clock's), or each that is named, is broken by its
mutation in a copy of the tree in build/audit, with mutate.py's and prove.py's means: the copy has to build (but for `make`),
the test has to fail, twice, and to pass with the file as it was; a proof has to fail because of a property. Last line: "N
passed, N failed"; the status is 1 unless all were caught.
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import random
import re
import sys
import tempfile
import threading
import time

import audit
import mutate

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "test", "prove"))
import prove  # noqa: E402

Claim = collections.namedtuple("Claim", "id file function says test old new")
ITEM = re.compile(r"- \*\*(\w+)\*\* `([^`]+)`: ((?:[^\n]|\n  (?! *- ))*)\n  - `([^`\n]+)`\n  - `([^`\n]+)` => `([^`\n]*)`\n")


def claims_of(text):
    """The claims of a text, and what is wrong with those that cannot be read."""
    found, wrong = [], []
    for section in re.split(r"^### ", text, flags=re.M)[1:]:
        file = re.match(r"`?([\w.]+)", section).group(1)
        items = {m.start(): m for m in ITEM.finditer(section)}
        for m in re.finditer(r"^- \*\*.*", section, re.M):
            if m.start() not in items:
                wrong.append("%s: not of the form of a claim: %s" % (file, m.group(0)))
        for m in items.values():
            name, function, says, test, old, new = m.groups()
            found.append(Claim(name, file, function, " ".join(says.split()), test, old, new))
    for name, n in collections.Counter(c.id for c in found).items():
        if n > 1:
            wrong.append("%s stands %d times" % (name, n))
    return found, wrong


def read(name):
    with open(os.path.join(TOP, name), encoding="utf-8") as f:
        return f.read()


def claims():
    return claims_of(read("AUDIT.md"))


class Broken:
    """What mutate.Place asks of a mutant."""

    def __init__(self, claim, top):
        with open(os.path.join(top, claim.file), encoding="utf-8") as f:
            self.file, self.text, self.new = claim.file, f.read(), claim.new
        if self.text.count(claim.old) != 1 or claim.old == claim.new:
            raise ValueError("its text stands %d times in %s" % (self.text.count(claim.old), claim.file))
        self.start = self.text.index(claim.old)
        self.end = self.start + len(claim.old)


def unit_of(claim):
    m = re.fullmatch(r"unit/(\w+)\.c: (\w+)", claim.test)
    return m.groups() if m else (None, None)


def unit_fails(place, mutant, unit, case):
    """(whether that case of the program fails, why not)"""
    if mutant.file == "ws.h" or mutant.file in place.includes(unit):
        place.stale.append(unit)
        if place.compile_unit(unit) != 0:
            return False, "unit/%s.c does not compile" % unit
    status = place.run_unit(unit)
    said = place.said(1000)
    failed = status not in (0, None) and "[ RUN      ] " + case in said and "[       OK ] " + case not in said
    return failed, "%s passes" % case


def built_and_failed(place, claim):
    """(caught, why not) of a claim that the copy shows when it is built, or checked, or run."""
    mutant, (unit, case) = Broken(claim, place.top), unit_of(claim)
    try:
        how = place.build(mutant)
        if claim.test == "make":
            return how == "no program", "it builds"
        if claim.test.startswith("audit.py: "):
            return bool(audit.CHECKS[claim.test[10:]](audit.Tree(place.top))), "the check finds nothing"
        if how is not None:
            return False, {"no program": "it does not build", "the same": "the program is the same"}[how]
        if unit:
            return unit_fails(place, mutant, unit, case)
        by, flaky = place.suite(["test/" + claim.test], 0, mutate.FIRST_TIME)
        return by is not None, "it passes" + (", having failed once" if flaky else "")
    finally:
        place.restore(mutant)


def caught(claim, places, env):
    """(caught, why not); places: those that are free."""
    proof = re.fullmatch(r"prove/(\w+)\.c", claim.test)
    if proof:
        mutant = prove.collections.namedtuple("Mutant", "file old new entry narrow")(
            claim.file, claim.old, claim.new, proof.group(1), False)
        return prove.try_mutant(mutant, pathlib.Path(TOP), env)
    place = places.pop()
    try:
        return built_and_failed(place, claim)
    finally:
        places.append(place)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("ids", nargs="*", metavar="ID", help="these; if none, N of them")
    p.add_argument("--number", type=int, default=10)
    p.add_argument("--seed", help="which of them; default: by the clock")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--list", action="store_true", help="print all claims, and end")
    a = p.parse_args()
    known, wrong = claims()
    for text in wrong:
        print("AUDIT.md: " + text)
    if a.list:
        for c in known:
            print("%-4s %s:%s: %s\n     %s\n     %s => %s" % c)
        return 1 if wrong else 0
    seed = a.seed or str(int(time.time()))
    drawn = [c for c in known if c.id in a.ids] if a.ids else random.Random(seed).sample(known, min(a.number, len(known)))
    how = "by name" if a.ids else "SEED=" + seed
    print("%d of the %d claims of AUDIT.md, %s" % (len(drawn), len(known), how), flush=True)

    begin, lock, count = time.monotonic(), threading.Lock(), collections.Counter(failed=len(wrong))
    mutate.BUILD = os.path.join(TOP, "build", "audit")
    os.makedirs(mutate.BUILD, exist_ok=True)
    units = {unit_of(c)[0] for c in drawn}
    jobs = max(1, min(a.jobs, len(drawn)))

    def one(claim):
        start = time.monotonic()
        try:
            good, why = caught(claim, places, env)
        except (ValueError, SystemExit) as e:
            good, why = False, str(e)
        with lock:
            count["passed" if good else "failed"] += 1
            print("%-8s %5.1f s  %s %s:%s: %s\n                  %s%s" % (
                "caught" if good else "MISSED", time.monotonic() - start, claim.id, claim.file, claim.function, claim.says,
                claim.test, "" if good else ": " + why), flush=True)

    with tempfile.TemporaryDirectory() as d, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        env = prove.provers(pathlib.Path(d).resolve()) if any(c.test.startswith("prove/") for c in drawn) else None
        files = mutate.files_of(TOP)
        places = list(pool.map(lambda i: mutate.Place(i, files, units), range(jobs)))
        list(pool.map(one, drawn))
    print("%.0f s\n%d passed, %d failed" % (time.monotonic() - begin, count["passed"], count["failed"]))
    return 1 if count["failed"] or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
