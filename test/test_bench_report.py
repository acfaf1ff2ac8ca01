"""What `make bench` says of its figures: medians, ratios, marks, ties, failures, growth, the drawing. Nothing is measured."""

import ast
import json
import os
import re
import sys
import xml.dom.minidom

import pytest

TEST = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(TEST, "bench"))
import bench  # noqa: E402
import report  # noqa: E402

ABOUT = {"date": "2026-01-02", "machine": "a machine", "commit": "abc", "rounds": 5, "minutes": 20.0, "load": 0.1,
         "foreign": 0.02, "versions": {"bun": "1.2"}, "libraries": {"BearSSL": "0.6"}, "whole": True}


def results(values=(), failed=(), growth=(), **about):
    r = report.Results({"values": {m: {s: list(v) for s, v in by.items()} for m, by in dict(values).items()},
                        "failed": dict(failed), "growth": dict(growth), "about": dict(ABOUT, **about)})
    r.derive()
    return r


def row(text, title):
    """The cells of the first row that begins so, and those of the rows below it that continue it."""
    lines = text.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("| " + title))
    out = [[c.strip() for c in lines[at].strip("|").split("|")]]
    while lines[at + len(out)].startswith("|  |"):
        out.append([c.strip() for c in lines[at + len(out)].strip("|").split("|")])
    return out


ECHO = {"echo-64": {"wssd": [7, 9, 8, 100, 7.5], "tcp": [5, 5, 5, 5, 5], "bear": [7] * 5, "bun": [7.9] * 5, "py": [111] * 5}}


def test_medians_ratios_and_marks_of_a_row():
    first, second = row(report.report(results(ECHO)), "echo, 64 B, 100 clients, us")
    assert first == ["echo, 64 B, 100 clients, us", "8.00", "5.00", "7.00", "7.90", "111.0", "1.14 of the floor", "1.08",
                     "**missed**"]
    assert second == [""] * 6 + ["1.01 of Bun", "1.00", "tie"]


def test_a_failing_cell_is_not_tried_for_ever(monkeypatch):
    def measure(*_):
        tried.append(1)
        raise bench.Failed("no")

    tried, r = [], results()
    monkeypatch.setattr(bench, "measure", measure)
    said = [bench.cell(r, bench.WORKS[0], "py", (0, 1), 1.0) for _ in range(5)]
    assert said == ["failed: no"] * 2 + ["not tried again"] * 3 and len(tried) == 2
    assert r.failed == {"echo-64": {"py": ["no"] * 5}}


def test_what_was_not_measured_is_said():
    assert "hub, 64 B" not in report.report(results(ECHO, whole=False))
    assert row(report.report(results(ECHO)), "hub, 64 B")[0][1:] == ["-"] * 5 + ["", "1.00", "not measured"]


@pytest.mark.parametrize("value, tie, word", [
    (1.0, True, "met"), (1.08, True, "met"), (1.1, True, "tie"), (1.12, True, "missed"), (1.1, False, "missed"),
    (None, True, "not measured")])
def test_verdicts(value, tie, word):
    assert report.verdict(value, 1.08, tie) == word


def test_the_spread_is_that_of_the_rounds():
    mark = next(m for m in report.MARKS if m.metric == "echo-64" and m.bottom[1] == "bear")
    value, span, _ = report.judge(results(ECHO), mark)
    assert (value, span) == (8 / 7, (1.0, 100 / 7))
    assert "| 7.00 to 100.0 |" in report.report(results(ECHO))


def test_a_failure_is_shown_with_its_reason():
    r = results(ECHO, {"echo-64": {"py": ["a wrong byte"] * 2, "nginx": ["did not start"] * 5}})
    text = report.report(r)
    assert row(text, "echo, 64 B, 100 clients, us")[0][5:7] == ["111.0 [2]", "failed [1]"]
    assert "- [1] echo-64, nginx: did not start (5 times)\n- [2] echo-64, Python's websockets: a wrong byte (2 times)\n" in text


def test_a_failure_of_a_work_is_one_of_all_its_metrics():
    r = results({"rss-idle": {"wssd": [4400]}}, {"busy-5000": {"lws": ["not done after 150 s"]}})
    assert row(report.report(r), "RSS for each idle client")[0][1:] == [
        "4,400", "failed [1]", "4,400 bytes", "4,500", "met"]


def test_a_rest_is_the_difference_round_by_round():
    r = results({"one": {"wssd": [10, 20, 30]}, "wake": {"wssd": [25, 36, 50]}})
    assert r.values["rest"]["wssd"] == [15, 16, 20]
    r.derive()
    assert r.values["rest"]["wssd"] == [15, 16, 20]


def test_a_floor_that_is_none_is_said():
    assert "is 1.40 of the TCP floor at 64 B; up to 1.45 it counts as one.\n" in report.report(results(ECHO))
    low = dict(ECHO["echo-64"], tcp=[4] * 5)
    assert "**it does not here**" in report.report(results({"echo-64": low}))


def test_a_look_is_no_result():
    assert "a look, no result" not in report.report(results(ECHO))
    assert "a look, no result" in report.report(results(ECHO, whole=False))


def test_growth_and_its_slope():
    kinds = {str(n): {"all": [1, 5 + i, 99], "idle": [5], "rss": [4000 + 40960 / n]} for i, n in enumerate(report.GROWTH[:3])}
    text = report.report(results(ECHO, growth={"wssd": kinds}))
    assert "| 1,000 | 7.00 | 5.00 | 4,041 |\n| 5,000 | - | - | - |" in text
    assert "wssd, all echo: +1.00 us a message for ten times the clients;" in text
    assert "32 echo among so many idle: +0.00 us" in text and "wssd: 4,000 bytes of RSS for each idle client more" in text


def test_slope():
    assert report.slope([(0, 1), (1, 3), (2, 5)]) == 2
    assert report.slope([(3, 1), (3, 9)]) == 0


def test_what_counts_wrote_stays():
    counts = "<!-- counts -->\n## Counts\n<!-- end of counts -->\n"
    assert report.keeping("new\n", "old\n" + counts + "more\n") == "new\n\n" + counts
    assert report.keeping("new\n", "old\n") == "new\n"


def test_the_drawing_is_xml_and_has_each_value():
    values = dict(ECHO, **{"echo-1m": {"wssd": [1000.0], "bun": [1136.0]}})
    text = report.drawing(results(values))
    document = xml.dom.minidom.parseString(text)
    words = [t.firstChild.data for t in document.getElementsByTagName("text")]
    assert words[2:12] == ["TCP floor", "5.00", "BearSSL floor", "7.00", "Bun (uWebSockets)", "7.90", "wssd", "8.00",
                           "Python's websockets", "111.0"]
    bars = document.getElementsByTagName("rect")
    width = {b.getAttribute("class"): float(b.getAttribute("width")) for b in bars[:4]}
    assert len(bars) == 7 and len(document.getElementsByTagName("path")) == 1  # one is too long, and cut
    assert width["wssd"] / width["floor"] == pytest.approx(8 / 7, 0.01)
    for bar in bars:
        assert float(bar.getAttribute("x")) + float(bar.getAttribute("width")) <= report.WIDTH
    assert "prefers-color-scheme: dark" in text


def test_each_metric_is_measured_by_a_work_and_each_mark_is_one_of_them():
    measured = {metric for w in bench.WORKS for metric in w.metrics} | {"rest"}
    assert measured == set(report.METRICS) >= {m.metric for m in report.MARKS}
    for w in bench.WORKS:
        assert all(report.METRICS[m].work in (w.name, None) and (report.METRICS[m].work or m) == w.name for m in w.metrics)
        assert set(w.servers) <= set(report.SERVERS) == set(bench.COMMANDS)
    servers = {metric: set(w.servers) for w in bench.WORKS for metric in w.metrics}
    servers["rest"] = {"wssd"}
    for mark in report.MARKS + [report.FLOOR]:
        for metric, server in [mark.top] + ([mark.bottom] if mark.bottom else []) + list(mark.beside[1:] if mark.beside else []):
            assert server in servers[metric], mark


def test_words_for_the_load():
    works = {w.name: w for w in bench.WORKS}
    words = bench.load_command(works["hub"], "py")[1:]
    assert words[-4:] == ["--warm", "40", "--messages", "200"]
    assert bench.load_command(works["echo-1m"], "bear", 0.5)[-4:] == ["--seconds", "0.75", "--raw", "--pad"]
    assert "--messages" not in bench.load_command(works["burst"], "wssd") and bench.ROOT + "/1k" in bench.load_command(
        works["get-1k"], "bun")


def test_a_results_file_comes_back(tmp_path):
    r = results(ECHO)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(r.__dict__))
    assert report.report(report.Results(json.loads(file.read_text()))) == report.report(r)
    bench.write(r, str(tmp_path))
    assert (tmp_path / "RESULTS.md").read_text() == report.report(r) and (tmp_path / "RESULTS.svg").exists()


def test_the_pure_part_measures_nothing():
    with open(report.__file__) as f:
        tree = ast.parse(f.read())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert names == {"collections", "math", "re", "statistics"}


def test_versions_of_npm_are_exact():
    with open(os.path.join(TEST, "bench", "peers", "install")) as f:
        text = f.read()
    assert re.findall(r"^(\w+)=\d+\.\d+\.\d+$", text, re.M) == ["ws", "bun"] and "--ignore-scripts" in text
