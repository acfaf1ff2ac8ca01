"""The checks of audit.py on the sources, and samples which show that each of them can fail."""

import os
import re
import subprocess
import sys

import pytest

import audit
import claims
import faulty

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# A project in which no check finds anything; each sample below spoils it in one way.
CLEAN = {
    ".clang-format": None,
    "ws.h": "#include <stddef.h>\n#include <unistd.h>\n\nint tls_answer(int fd, const char *text, size_t n);\n",
    "main.c": """#include "ws.h"

static int
show(const char *text, size_t n)
{
	return write(2, text, n) < 0;
}

int
main(void)
{
	return tls_answer(0, "", 0) + show("", 0);
}
""",
    "tls.c": """#include "ws.h"
#include <bearssl.h>

int
tls_answer(int fd, const char *text, size_t n)
{
	br_sha256_context c;

	br_sha256_init(&c);
	return write(fd, text, n) < 0;
}
""",
    "http.c": """#include <bearssl.h>

#include "ws.h"

int http_hash(void);

int
http_hash(void)
{
	br_sha1_context c;

	br_sha1_init(&c);
	return (int)c.count;
}
""",
    "ws.c": """#include "ws.h"

/* No malloc(1) in a comment, nor "sprintf(" or TAG. */
const char *ws_name(void);

const char *
ws_name(void)
{
	return "free(";
}
""",
    "dist/selfsign.c": "int\nmain(void)\n{\n\treturn 0;\n}\n",
}
CLEAN["AUDIT.md"] = "".join("| %d | `%s` | %d | %d | |\n" % (i + 1, f, n, round(n * 60 / 400)) for i, (f, n) in enumerate(
    (f, len(audit.code_lines(CLEAN[f]))) for f in audit.SOURCES)) + "That is 0.1 hours; `ws.c:ws_name`.\n\n" \
    "## System calls\n\n| `main.c:show`, `tls.c:tls_answer` | write; write | |\n"


def function(body, name="ws_more"):
    return "\nint %s(int fd, char *p, size_t n);\n\nint\n%s(int fd, char *p, size_t n)\n{\n%s}\n" % (name, name, body)


USE = "\treturn fd + (int)n + *p;\n"
BAD = [
    ("layout", "extra.c", "int x;\n"),
    ("layout", "extra.h", "int x;\n"),
    ("layout", "tls.c", None),
    ("budget", "ws.c", "int x;\n" * audit.CODE_LINES),
    ("budget", "ws.c", "/* */\n" * audit.ALL_LINES),
    ("columns", "ws.c", "/* %s */\n" % ("x" * 95)),
    ("columns", "ws.c", "\t" * 12 + "/* x */\n"),
    ("layout_of_code", "ws.c", "int x ;\n"),
    ("layout_of_code", "ws.c", "int f(void) {\n\treturn 0;\n}\n"),
    ("layout_of_code", "dist/selfsign.c", "    int x;\n"),
    ("function_length", "ws.c", function("\tfd++;\n" * 60 + USE)),
    ("bearssl_in_tls_only", "ws.c", "static br_sha1_context c;\n"),
    ("bearssl_in_tls_only", "main.c", "#include <bearssl.h>\n"),
    ("bearssl_in_tls_only", "http.c", "static br_ssl_server_context c;\n"),
    ("client_descriptors_in_tls_only", "ws.c", function("\treturn (int)write(fd, p, n);\n")),
    ("client_descriptors_in_tls_only", "http.c", function("\treturn (int)recv(c->fd, p, n, 0);\n")),
    ("client_descriptors_in_tls_only", "ws.c", function("\treturn (int)readv(get(fd), p, n);\n")),
    ("client_descriptors_in_tls_only", "main.c", function("\treturn (int)write(2, p, n);\n", "other")),
    ("client_descriptors_in_tls_only", "ws.c", "#define PUT(p) write(1, p, 1)\n"),
    ("no_allocation", "ws.c", function("\tp = malloc (n);\n" + USE)),
    ("no_allocation", "tls.c", function("\tfree(p);\n" + USE)),
    ("no_unbounded_write", "ws.c", function('\tsprintf(p, "%d", fd);\n' + USE)),
    ("no_unbounded_write", "dist/selfsign.c", function('\tstrcpy(p, "x");\n' + USE)),
    ("includes", "ws.c", '#include "other.h"\n'),
    ("includes", "ws.h", '#include "other.h"\n'),
    ("includes", "ws.c", '#include "ws.h"\n'),
    ("one_compat_block", "ws.c", "#ifdef A\n#endif\nint x;\n#ifdef B\n#endif\n"),
    ("exits_before_the_loop", "ws.c", function("\texit(1);\n")),
    ("gcc_warnings", "ws.c", function("\treturn n;\n")),
    ("gcc_warnings", "ws.c", function("\tchar v[n];\n\tv[0] = *p;\n\treturn v[0] + fd;\n")),
    ("gcc_warnings", "ws.c", "int nobody(void)\n{\n\treturn 0;\n}\n"),
    ("gcc_warnings", "ws.c", "syntax error\n"),
    ("clang_warnings", "ws.c", function("\tif (n) {\n\t\tint n = 1;\n\t\tfd = n;\n\t}\n" + USE)),
    ("clang_warnings", "ws.c", "syntax error\n"),
    ("gcc_analyzer", "ws.c", function("\tint *q = n ? 0 : &fd;\n\n\tif (n)\n\t\treturn *q;\n" + USE)),
    ("cppcheck", "ws.c", function("\tchar v[4];\n\n\tv[4] = *p;\n\treturn fd + v[0] + (int)n;\n")),
    ("undefined_symbols", "ws.c", "#include <stdlib.h>\n#define take(n) mal##loc(n)\n" +
     function("\tp = take(n);\n" + USE)),
    ("reading_order", "ws.c", "int x;\n" * 6),
    ("reading_order", "AUDIT.md", "| 6 | `six.c` | 1 | 0 | |\n"),
    ("variables", "ws.c", "int changes;\n"),
    ("variables", "ws.c", function("\tstatic int calls;\n\n\tcalls += fd + (int)n + *p;\n\treturn calls;\n")),
    ("variables", "AUDIT.md", "\n## What changes after the start\n\n`ws.c:gone`\n"),
    ("system_calls", "ws.c", function("\treturn (int)recv(fd, p, n, 0);\n")),
    ("system_calls", "main.c", function("\treturn poll(0, 0, fd);\n", "other")),
    ("system_calls", "AUDIT.md", "| `ws.c:ws_name` | read | |\n"),
    ("system_calls", "AUDIT.md", "| `main.c:show` | write, read | |\n"),
    ("names_in_the_guide", "AUDIT.md", "`ws.c:nobody`\n"),
    ("names_in_the_guide", "AUDIT.md", "## Reading order\n\n`nobody`\n"),
    ("names_in_the_guide", "AUDIT.md", "`six.c:ws_name`\n"),
    ("nothing_left_open", "README.md", "Some words.\n" + "TO" "DO: more.\n"),
    ("nothing_left_open", "ws.c", "/* FIX" "ME */\n"),
]


def build(path, spoil=None, text=None):
    for name, content in CLEAN.items():
        file = path / name
        file.parent.mkdir(exist_ok=True)
        if content is None:
            with open(os.path.join(TOP, name)) as f:
                content = f.read()
        file.write_text(content)
    if spoil:
        file = path / spoil
        if text is None:
            file.unlink()
        else:
            file.write_text((file.read_text() if file.exists() else "") + text)
    return audit.Tree(str(path))


@pytest.mark.parametrize("name", audit.CHECKS)
def test_sources(name):
    assert audit.CHECKS[name](audit.Tree(TOP)) == []


@pytest.fixture
def one_transfer(monkeypatch):
    monkeypatch.setattr(audit, "TRANSFERS", {"main.c": {("show", "2")}})


@pytest.mark.parametrize("name", audit.CHECKS)
def test_clean_sample(name, tmp_path, one_transfer):
    assert audit.CHECKS[name](build(tmp_path)) == []


@pytest.mark.parametrize("name, file, text", BAD, ids=["%s-%d" % (b[0], i) for i, b in enumerate(BAD)])
def test_bad_sample(name, file, text, tmp_path, one_transfer):
    assert audit.CHECKS[name](build(tmp_path, file, text))


def test_each_check_has_a_bad_sample():
    assert {b[0] for b in BAD} == set(audit.CHECKS)


def test_calls_that_may_fail_are_known():
    assert {re.split("[.-]", name)[0] for name in faulty.FAULTS} <= set(audit.CALLS.split())


def test_listed_transfer_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "TRANSFERS", {"main.c": {("show", "2")}, "ws.c": {("gone", "c->bfd")}})
    assert audit.CHECKS["client_descriptors_in_tls_only"](build(tmp_path))


def test_code_lines_are_counted_without_comments():
    text = 'int a; /* x\n y */\n\n// z\nchar *s = "/* no */ //";\n/* a */ int b;\n\t/* c */\n'
    assert len(audit.code_lines(text)) == 3


def test_functions_are_found():
    text = "#define F(x) { x }\nstatic int\nf(int a,\n\tint b)\n{\n\treturn a;\n}\nint g(void);\nint t[] = {\n\t1,\n};\n" \
        "void\nh(void)\n{\n}\n"
    assert [(f.name, len(f.lines)) for f in audit.functions(text)] == [("f", 5), ("h", 3)]


# ---- the claims of AUDIT.md

CLAIMS, UNREADABLE = claims.claims()


def test_claims_can_be_read():
    assert UNREADABLE == []
    assert {c.file for c in CLAIMS} == set(audit.SOURCES) and len(CLAIMS) >= 40


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_claim(claim):
    """Its function is there, and so is its test; its mutation fits in one place."""
    text = claims.read(claim.file)
    code = audit.strip(text)
    assert claim.function in {f.name for f in audit.functions(text)} or \
        re.search(r"^(enum|struct) \w+ \{|^\S.*\b\w+\[\] = \{", code, re.M) and re.search(
            r"^(%s \{|\S.*\b%s\[\] = \{)" % (claim.function, claim.function), code, re.M), claim.function
    assert text.count(claim.old) == 1 and claim.new != claim.old
    kind, _, name = claim.test.partition(": ")
    path = os.path.join(TOP, "test", kind)
    if kind == "audit.py":
        assert name in audit.CHECKS
    elif kind.startswith("unit/"):
        with open(path) as f:
            assert "cmocka_unit_test(%s)" % name in f.read()
    elif kind.startswith("prove/"):
        assert os.path.exists(path)
    else:
        assert kind == "make" or "::" in kind  # the next test asks pytest for these


def test_tests_of_claims_are_collected():
    named = sorted({c.test for c in CLAIMS if "::" in c.test})
    r = subprocess.run([sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "-m", "not deep",
                        "-o", "addopts=", *["test/" + name for name in named]], cwd=TOP, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=300)
    found = [line for line in r.stdout.splitlines() if "::" in line]
    assert r.returncode == 0, r.stdout[-2000:]
    assert [n for n in named if not any(line == n or line.startswith(n + "[") for line in found)] == []


SOUND = "### `ws.c`\n\n- **W1** `ws_name`: it has\n  a name.\n  - `make`\n  - `a` => `b`\n"


@pytest.mark.parametrize("text", [SOUND * 2, SOUND.replace("  - `make`\n", ""), SOUND.replace(" => ", " "),
                                  SOUND.replace("`ws_name`", "ws_name"), SOUND.replace("`b`", "b")])
def test_claims_that_cannot_be_read(text):
    assert claims.claims_of(SOUND) == ([("W1", "ws.c", "ws_name", "it has a name.", "make", "a", "b")], [])
    assert claims.claims_of(text)[1] != []


def test_no_module_changes_the_environment():
    """Of those that import it: what they start would have another patience, and not say so."""
    here = os.path.dirname(os.path.abspath(__file__))
    names = sorted(f[:-3] for f in os.listdir(here) if f.endswith(".py"))
    names.remove("echo_websockets")     # which is only run
    assert len(names) > 50
    code = """
import importlib, os
before = dict(os.environ)
for name in %r:
    importlib.import_module(name)
    assert {k: v for k, v in os.environ.items() if before.get(k) != v} == {}, name
""" % names
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True, timeout=100)
