"""The C tests in test/unit, each test of them a case here: with sanitizers, and under valgrind."""

import os
import re
import subprocess

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UNIT = os.path.join(TOP, "test", "unit")
SOURCES = ["main.c", "tls.c", "http.c", "ws.c"]
CC = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
pytestmark = pytest.mark.xdist_group("unit")  # one worker builds for all


def cases():
    """(program, test) as the programs list them."""
    for file in sorted(f for f in os.listdir(UNIT) if f.endswith(".c")):
        with open(os.path.join(UNIT, file)) as f:
            for name in re.findall(r"cmocka_unit_test\((\w+)\)", f.read()):
                yield file[:-2], name


def build(name, directory, flags):
    """The program, linked with cmocka and those of the sources that it does not include itself (main is put aside), which
    are compiled once a directory; a function __wrap_NAME in it takes the place of NAME in all of them."""
    with open(os.path.join(UNIT, name + ".c")) as f:
        text = f.read()
    own = re.findall(r'^#include "../../(\w+\.c)"', text, re.M)

    def compiled(source, target, *more):
        if not os.path.exists(target):
            subprocess.run(CC + list(flags) + list(more) + ["-c", source, "-o", target], cwd=TOP, check=True)
        return target

    program = os.path.join(directory, name)
    objects = [compiled(os.path.join(UNIT, name + ".c"), program + "-unit.o")]
    for source in [s for s in SOURCES if s not in own]:
        rename = ["-Dmain=wssd_main"] if source == "main.c" else []
        objects.append(compiled(source, os.path.join(directory, source + ".o"), *rename))
    symbols = subprocess.run(["nm", "--defined-only", objects[0]], stdout=subprocess.PIPE, check=True).stdout.decode()
    wraps = ["-Wl,--wrap=" + w for w in sorted(set(re.findall(r" T __wrap_(\w+)", symbols)))]
    subprocess.run(CC + list(flags) + objects + wraps + ["-o", program, "-lcmocka", "-lbearssl"], cwd=TOP, check=True)
    return program


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    done, where = {}, {}

    def get(name, *flags):
        if (name, flags) not in done:
            if flags not in where:
                where[flags] = str(tmp_path_factory.mktemp("unit"))
            done[name, flags] = build(name, where[flags], flags)
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
