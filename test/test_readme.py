"""The README says what the program says."""
import glob
import os
import re
import subprocess
import sys

import audit
import calls
import faulty
import mutate
import recipes
import test_sandbox

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path += [os.path.join(TOP, "test", "fuzz"), os.path.join(TOP, "test", "prove")]
import fuzz  # noqa: E402
import mutants  # noqa: E402

WSSD = os.environ.get("WSSD", os.path.join(TOP, "wssd"))


def read(name):
    with open(os.path.join(TOP, name), encoding="utf-8") as f:
        return f.read()


def test_options_are_those_of_help():
    block = re.search(r"^## Options\n.*?^```\n(.*?)^```\n", read("README.md"), re.M | re.S).group(1)
    assert block == subprocess.run([WSSD, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout


def test_every_recipe_is_run_by_a_test():
    """Each section of the chapters that recipes.py reads is named, in part, by a test that runs it."""
    text = re.sub(r"^```.*?^```$", "", read("README.md"), flags=re.M | re.S)
    sections = set()
    for chapter in recipes.CHAPTERS:
        body = re.search(r"^## %s\n(.*?)(?=^## |\Z)" % re.escape(chapter), text, re.M | re.S).group(1)
        sections |= set(re.findall(r"^### (.+)$", body, re.M)) or {chapter}
    words = set()
    for file in set(glob.glob(os.path.join(TOP, "test", "test_*.py"))) - {os.path.abspath(__file__)}:
        with open(file, encoding="utf-8") as f:
            source = f.read()
        if re.search(r"^import recipes|^from recipes", source, re.M):
            words |= set(re.findall(r'"([^"\n]{4,})"', source))
    assert len(sections) >= 8
    assert [s for s in sections if not any(w in s for w in words)] == []


def test_the_commands_of_the_tables_can_be_given():
    """Each `make NAME` is a target, and what it runs understands the words that it is given."""
    targets = set(re.findall(r"`make ([a-z-]+)`", read("README.md") + read("test/README.md")))
    assert {"prove", "coverage", "fuzz", "fuzz-afl", "fuzz-check", "soak", "mutate", "deep", "test"} <= targets
    for target in sorted(targets):
        r = subprocess.run(["make", "-n", target], cwd=TOP, capture_output=True, text=True, timeout=60)
        assert r.returncode == 0, (target, r.stderr)
        for line in r.stdout.splitlines():
            if re.search(r"test/(prove/|fuzz/)?(prove|fuzz|covered|soak|mutate)\.py", line):
                r = subprocess.run(["sh", "-c", line + " --help"], cwd=TOP, capture_output=True, text=True, timeout=60)
                assert (r.returncode, r.stdout[:6]) == (0, "usage:"), (target, line, r.stderr)


def test_links_lead_somewhere():
    for name in ("README.md", "test/README.md", "AUDIT.md", "test/bench/RESULTS.md"):
        for link in re.findall(r"\]\(([^)]+)\)", read(name)):
            if link.startswith("https://"):
                continue
            file, _, title = link.partition("#")
            path = os.path.normpath(os.path.join(os.path.dirname(name), file)) if file else name
            assert os.path.exists(os.path.join(TOP, path)), (name, link)
            if title:
                titles = re.findall(r"^#+ (.+)$", read(path), re.M)
                assert title in {re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles}, (name, link)


def said(form, text):
    """The numbers that a text has where the form has (N)."""
    m = re.search(form.replace("(N)", r"([\d,]+)").replace(" ", r"\s+"), text)
    return [int(n.replace(",", "")) for n in m.groups()]


def test_numbers_of_the_tests():
    """What test/README.md says of how many there are, but for those of a day."""
    text = read("test/README.md")
    fail = [f.errors for f in faulty.FAULTS.values() if f.errors]
    assert said("is the scenario: (N) steps", text) == [len(faulty.NAMES)]
    assert said("all (N) errors of (N) functions", text) == [sum(map(len, fail)), len(fail)]
    assert said(r"each must be found \(all (N) are", text) == [len(fuzz.BUGS)]
    assert said("makes (N) forbidden system calls", text) == [len(test_sandbox.DEEDS["what must end it"])]
    some, = said("There are some (N) such mutants", text)
    assert abs(some - len(mutate.mutants(TOP))) < some // 20
    rows = re.findall(r"^\|[^|]*\| (\w+) \|[^|]*\| [a-z0-9*, -]+ \((\d+)\) \|$", text, re.M)
    assert len(rows) > 5
    assert rows == [(proof, str(sum(m.entry == proof for m in mutants.MUTANTS))) for proof, _ in rows]


def test_numbers_of_the_sources():
    text = read("README.md")
    assert said(r"counts the lines \((N) of code", text) == [audit.CODE_LINES]
    head = read("ws.h")
    limits = {"LISTENERS_MAX": r"log names.\nUp to (N) may be given", "ROUTES_MAX": r"to a backend.\nUp to (N) may be given",
              "CREDENTIALS_MAX": "Up to (N) lines in all", "NAMES_MAX": r"them, up to (N)\."}
    for name, form in limits.items():
        assert said(form, read("wssd.8")) == [int(re.search(r"\b%s = (\d+)" % name, head).group(1))], name
    assert said("(N) certificates are the most", text) == said(r"CERTS_MAX = (N)", read("tls.c"))


def test_costs_are_those_of_the_results():
    """Each figure of the README's table stands in RESULTS.md, in one row."""
    def cells(text):
        rows = [[c.strip().replace(",", "") for c in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
        return [r for r in rows if "--" not in r[1]]

    def rounded(figure, said):
        return re.match(r"\d", figure) and abs(float(figure) - float(said)) < 0.501 * 10 ** -len(said.partition(".")[2])

    rows = cells(re.search(r"^## What it costs\n(.*?)^## ", read("README.md"), re.M | re.S).group(1))
    results = cells(read("test/bench/RESULTS.md"))
    head = next(r for r in results if r[0] == "work")
    columns = [head.index(name) for name in rows[0][1:]]
    assert len(rows) > 5
    for row in rows[1:]:
        assert any(all(rounded(r[c], said) for c, said in zip(columns, row[1:])) for r in results if len(r) == len(head)), row


def test_functions_of_the_table_of_calls():
    """A word in backquotes in its last column is a function of the sources."""
    code = "".join(read(f) for f in mutate.SOURCES)
    names = {n for row in calls.table(read("test/README.md")).values() for n in re.findall(r"`(\w+)`", row.why)}
    assert len(names) > 5 and [n for n in names if not re.search(r"^%s\(" % n, code, re.M)] == []


def test_the_two_commands_are_on_the_first_screen():
    first = "\n".join(read("README.md").splitlines()[:25])
    assert "make run" in first and "make test" in first
