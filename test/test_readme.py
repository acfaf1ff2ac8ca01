"""The README says what the program says."""
import os
import re
import subprocess

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WSSD = os.environ.get("WSSD", os.path.join(TOP, "wssd"))


def read(name):
    with open(os.path.join(TOP, name), encoding="utf-8") as f:
        return f.read()


def test_options_are_those_of_help():
    block = re.search(r"^## Options\n.*?^```\n(.*?)^```\n", read("README.md"), re.M | re.S).group(1)
    assert block == subprocess.run([WSSD, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout


def test_links_lead_somewhere():
    for name in ("README.md", "test/README.md"):
        for link in re.findall(r"\]\(([^)]+)\)", read(name)):
            if not link.startswith("https://"):
                path = os.path.join(TOP, os.path.dirname(name), link)
                assert os.path.exists(path), (name, link)


def test_the_two_commands_are_on_the_first_screen():
    first = "\n".join(read("README.md").splitlines()[:25])
    assert "make run" in first and "make test" in first
