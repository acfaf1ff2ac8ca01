"""Mutants that the proofs have to notice, for prove.py --mutants: (name, source, its exact text, what stands there instead,
the proof that must fail, the property that this shows). The text has to occur exactly once in the source; narrow: the
proof fails on a 32-bit machine only."""

import collections

Mutant = collections.namedtuple("Mutant", "name file old new entry shows narrow", defaults=[False])

MUTANTS = [
    Mutant("frame-incomplete", "ws.c", "if (n < size + 4)\n", "if (n < size + 3)\n", "frame",
           "a header is never read past its end"),
    Mutant("frame-length-past", "ws.c", "for (size_t i = 2; i < size && i < n; i++)", "for (size_t i = 2; i < size; i++)",
           "frame", "a cut length is never read past its end"),
    Mutant("frame-rsv", "ws.c", "(first & 0x70) != 0", "(first & 0x60) != 0", "frame", "reserved bits are refused"),
    Mutant("frame-opcode", "ws.c", "(f->opcode & 7) > BINARY", "f->opcode > PONG", "frame", "unknown opcodes are refused"),
    Mutant("frame-unmasked", "ws.c", "second < 128 || /* 5.2, 5.1 */", "second < 1 || /* 5.2, 5.1 */", "frame",
           "unmasked frames are refused"),
    Mutant("frame-control-cut", "ws.c", "(!f->fin || form > CONTROL_MAX)", "(f->fin && form > CONTROL_MAX)", "frame",
           "fragmented control frames are refused"),
    Mutant("frame-control-long", "ws.c", "form > CONTROL_MAX)", "form > CONTROL_MAX + 1)", "frame",
           "long control frames are refused"),
    Mutant("frame-sign", "ws.c", "n > 2 && b[2] > 127)", "n > 2 && b[2] > 128)", "frame",
           "lengths of 2^63 and more are refused"),
    Mutant("frame-shortest-16", "ws.c", "size == 4 ? 126 : 65536", "size == 4 ? 125 : 65536", "frame",
           "non-minimal lengths are refused"),
    Mutant("frame-shortest-63", "ws.c", "size == 4 ? 126 : 65536", "size == 4 ? 126 : 65535", "frame",
           "non-minimal lengths are refused"),
    Mutant("header-shortest", "ws.c", "	if (length < 126)\n		return 2;", "	if (length < 127)\n		return 2;", "header",
           "a header decodes to what was encoded"),
    Mutant("header-order", "ws.c", "b[2] = (unsigned char)(length >> 8)", "b[2] = (unsigned char)(length >> 9)", "header",
           "a header decodes to what was encoded"),
    Mutant("frame-decode", "ws.c", "f->length = f->length << 8 | b[i];", "f->length = f->length << 8 | b[i] >> 1;", "header",
           "a header decodes to what was encoded"),
    Mutant("utf8-overlong-3", "ws.c", "s == 0xe0 ? 0xa0", "s == 0xe1 ? 0xa0", "utf8", "overlong forms are refused"),
    Mutant("utf8-overlong-2", "ws.c", "low = s == 0 ? 0xc2", "low = s == 0 ? 0xc1", "utf8", "overlong forms are refused"),
    Mutant("utf8-surrogate", "ws.c", "s == 0xed ? 0x9f", "s == 0xed ? 0xa0", "utf8", "surrogates are refused"),
    Mutant("utf8-limit", "ws.c", "s == 0xf4 ? 0x8f", "s == 0xf4 ? 0x90", "utf8", "what lies above U+10FFFF is refused"),
    Mutant("utf8-count", "ws.c", "s >= 0xe0 || s == 2;", "s >= 0xe0;", "utf8", "a character has all of its bytes"),
    Mutant("utf8-resume", "ws.c", "uint8_t s = *state, low, high;", "uint8_t s = n > 1 ? 0 : *state, low, high;", "utf8",
           "pieces of any length give the same"),
    Mutant("utf8-past", "ws.c", "for (size_t i = 0; i < n; i++) {\n		if (s == 0", "for (size_t i = 0; i <= n; i++) {\n		if (s == 0",
           "utf8", "the checker reads only what it is given"),
    Mutant("unmask-past", "ws.c", "for (; i + 8 <= n; i += 8)", "for (; i + 7 <= n; i += 8)", "unmask",
           "unmasking writes only what it is given"),
    Mutant("unmask-tail", "ws.c", "p[i] ^= key[i & 3];", "p[i] ^= key[i & 1];", "unmask", "masking twice is the identity"),
    Mutant("unmask-rotate", "ws.c", "memcpy(mask, key + (n & 3), 4);", "memcpy(mask, key + (n & 1), 4);", "unmask",
           "pieces of any length give the same"),
]
