"""What covered.py calls a gap, and that each of its complaints can be one. What is covered `make coverage` shows."""
import covered

SOURCE = """static int
first(int a)
{
	return a || b;
}

int
second(void)
{
	die();
}
"""
README = """# Tests

<!-- exceptions -->
    main.c, first: 1 of 4
        return a || b;
        Nobody makes b true,
        here at least.
<!-- end of exceptions -->
"""


def judged(counts, readme=README):
    gaps, _ = covered.missing({"main.c": counts}, {"main.c": SOURCE})
    return covered.compare(gaps, covered.exceptions(readme))


def test_what_nothing_reached():
    wrong, _ = judged({2: (3, []), 4: (3, [1, 2, 0, 0]), 8: (1, []), 10: (0, [])})
    assert wrong[:2] == ["NEVER main.c:4, first: 2 of 4 branches\n        return a || b;",
                         "NEVER main.c:10, second: line\n        die();"]


def test_an_exception():
    wrong, excused = judged({2: (3, []), 4: (3, [1, 2, 3, 0]), 10: (1, [])})
    assert (wrong, excused) == ([], ["known main.c:4, first: 1 of 4"])


def test_an_exception_that_is_none_any_more():
    stale = "STALE or without a reason: main.c, first: 1 of 4: return a || b;"
    assert judged({4: (3, [1, 2, 3, 4])})[0] == [stale]
    assert judged({4: (3, [1, 2, 3, 0])}, README.replace("first:", "second:"))[0][1:] == [stale.replace("first:", "second:")]
    assert len(judged({4: (3, [1, 2, 3, 0])}, README.replace("a || b", "a | b"))[0]) == 2


def test_an_exception_needs_a_reason_and_there_are_few():
    bare = README.replace("        Nobody makes b true,\n        here at least.\n", "")
    assert len(judged({4: (3, [1, 2, 3, 0])}, bare)[0]) == 1
    many = "".join("    main.c, f%d: line\n        x;\n        Why.\n" % i for i in range(covered.EXCEPTIONS_MAX + 1))
    wrong, _ = judged({}, "<!-- exceptions -->\n" + many + "<!-- end of exceptions -->\n")
    assert wrong[-1] == "16 exceptions, 15 are allowed"


def test_a_line_that_hides():
    assert covered.hidden({"main.c": SOURCE}) == []
    assert covered.hidden({"main.c": SOURCE.replace("die();", "die(); /* LCOV_EXCL_LINE */")}) == [
        "HIDDEN main.c:10: die(); /* LCOV_EXCL_LINE */"]


def test_the_list_as_it_is():
    with open(covered.TEST + "/README.md") as f:
        known = covered.exceptions(f.read())
    assert len(known) <= covered.EXCEPTIONS_MAX and all(known.values())
