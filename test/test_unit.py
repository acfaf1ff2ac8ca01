"""The C tests in test/unit, each test of them a case here: with sanitizers, and under valgrind."""

import os
import re
import subprocess

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UNIT = os.path.join(TOP, "test", "unit")
CC = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
pytestmark = pytest.mark.xdist_group("unit")  # one worker builds for all


def cases():
    """(program, test) as the programs list them."""
    for file in sorted(f for f in os.listdir(UNIT) if f.endswith(".c")):
        with open(os.path.join(UNIT, file)) as f:
            for name in re.findall(r"cmocka_unit_test\((\w+)\)", f.read()):
                yield file[:-2], name


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Programs, linked with the sources (whose main is put aside) and cmocka, with these flags."""
    done = {}

    def get(name, *flags):
        if (name, flags) not in done:
            d = tmp_path_factory.mktemp("unit")
            objects = []
            for source in ("main.c", "tls.c", "http.c", "ws.c"):
                objects.append(str(d / (source + ".o")))
                rename = ["-Dmain=wssd_main"] if source == "main.c" else []
                subprocess.run(CC + list(flags) + rename + ["-c", source, "-o", objects[-1]], cwd=TOP, check=True)
            program = str(d / name)
            subprocess.run(CC + list(flags) + [os.path.join(UNIT, name + ".c")] + objects +
                           ["-o", program, "-lcmocka", "-lbearssl"], cwd=TOP, check=True)
            done[name, flags] = program
        return done[name, flags]

    return get


def run(*command, **env):
    r = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
                       env=dict(os.environ, **env))
    return r.returncode, r.stdout.decode(errors="replace")


@pytest.fixture(scope="session")
def results(built):
    """What each program said, once for all of its cases."""
    said = {}

    def get(name):
        if name not in said:
            said[name] = run(built(name, *SANITIZERS))
        return said[name]

    return get


@pytest.mark.parametrize("program, name", cases())
def test_unit(results, program, name):
    status, text = results(program)
    assert re.search(r"^\[ +OK +\] %s$" % name, text, re.M), text[-4000:]


@pytest.mark.parametrize("program", sorted({p for p, _ in cases()}))
def test_unit_program_ends_well(results, program):
    """No sanitizer has the last word."""
    status, text = results(program)
    assert status == 0, text[-4000:]


@pytest.mark.deep
@pytest.mark.parametrize("program", sorted({p for p, _ in cases()}))
def test_unit_under_valgrind(built, program):
    """No branch, index or system call depends on a byte that nobody wrote."""
    status, text = run("valgrind", "-q", "--error-exitcode=99", "--leak-check=full", built(program))
    assert status == 0, text[-4000:]
