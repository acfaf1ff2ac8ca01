"""The README says what the program says."""
import glob
import os
import re
import subprocess

import recipes

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
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


def test_the_two_commands_are_on_the_first_screen():
    first = "\n".join(read("README.md").splitlines()[:25])
    assert "make run" in first and "make test" in first
