"""The checks of audit.py on the sources, and samples which show that each of them can fail."""

import os

import pytest

import audit

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
