"""The fuzzing targets over what stands in test/fuzz/corpus, without a fuzzer: each input that once showed something new, or
something wrong, is replayed. `make fuzz` looks for more of them."""

import os
import subprocess
import sys

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "test", "fuzz"))
import fuzz  # noqa: E402

SANITIZERS = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


@pytest.mark.parametrize("target", sorted(fuzz.TARGETS))
def test_replay(target, tmp_path):
    program = str(tmp_path / target)
    fuzz.compile_target(target, program, SANITIZERS, "gcc", more=["replay.c"])
    r = subprocess.run([program, os.path.join(fuzz.CORPUS, target)], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500, cwd=str(tmp_path))
    text = r.stdout.decode(errors="replace")
    assert r.returncode == 0, text[-4000:]
    assert int(text.split()[-2]) == len(os.listdir(os.path.join(fuzz.CORPUS, target))) > 10
