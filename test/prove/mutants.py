"""Mutants that the proofs have to notice, for prove.py --mutants: (name, source, its exact text, what stands there instead,
the proof that must fail, the property that this shows). The text has to occur exactly once in the source; narrow: the
proof fails on a 32-bit machine only."""

import collections

Mutant = collections.namedtuple("Mutant", "name file old new entry shows narrow", defaults=[False])

MUTANTS = [
    Mutant("frame-incomplete", "ws.c", "if (n < size + 4)\n", "if (n < size + 3)\n", "frame",
           "a header is never read past its end"),
]
