"""What `make bench` says of its figures: metrics, marks, the tables of RESULTS.md, the drawing. bench.py measures them.

A Results has for each metric and server one value a round. Tables show medians; a mark compares two medians of one run.
"""

import collections
import math
import re
import statistics

TIE = 1.03          # so near to a mark is neither met nor missed
FULL_ROUNDS = 5     # fewer are a look, not a result
GROWTH = (10, 100, 1000, 5000, 10000)
GROWTH_ROUNDS = 3
KEPT = re.compile(r"<!-- counts -->.*?<!-- end of counts -->\n?", re.S)  # what counts.py writes into RESULTS.md

SERVERS = {  # in the order of the columns
    "wssd": "wssd", "tcp": "TCP floor", "bear": "BearSSL floor", "bun": "Bun (uWebSockets)", "lws": "libwebsockets",
    "ws": "npm's ws", "py": "Python's websockets", "nginx": "nginx", "mosquitto": "mosquitto",
}

Metric = collections.namedtuple("Metric", "title unit work", defaults=(None,))  # work: in which it is measured
METRICS = {
    "echo-64": Metric("echo, 64 B, 100 clients", "us"),
    "echo-1k": Metric("echo, 1 KiB, 100 clients", "us"),
    "echo-64-16": Metric("echo, 64 B, 100 clients, 16 in flight each", "us"),
    "echo-64-x16": Metric("the same, these 16 in one record", "us"),
    "echo-16k": Metric("echo, 16 KiB, 16 clients", "us"),
    "echo-1m": Metric("echo, 1 MiB, 4 clients", "us"),
    "busy": Metric("echo, 64 B, 32 clients", "us"),
    "busy-5000": Metric("echo, 64 B, 32 clients among 5,000 idle", "us"),
    "rss-idle": Metric("RSS for each idle client, 5,000 of them, after 2 s", "bytes", "busy-5000"),
    "rss-burst": Metric("RSS for each, 2 s after a message of 16 KiB on all", "bytes", "burst"),
    "one": Metric("echo, 64 B, 1 client", "us"),
    "wake": Metric("the same on 5,000 at rest, one by one, and their rest after it", "us"),
    "rest": Metric("a waking and a rest: the difference of these two", "us", "wake"),
    "wake-time": Metric("wait for the echo: a client at rest (median)", "us of wall time", "wake"),
    "hub": Metric("hub, 64 B to 100 subscribers, a delivery", "us"),
    "hub-16": Metric("the same, 16 published at once", "us"),
    "stream-1m": Metric("tcp: to an echo, 1 MiB each way, 4 clients", "us"),
    "get-1k": Metric("GET, 1 KiB, keep-alive, 100 clients", "us"),
    "get-100k": Metric("GET, 100 KiB, 16 clients", "us"),
    "get-100m": Metric("GET, 100 MiB, 1 client, a MiB", "us"),
    "full": Metric("full handshake, upgrade, close", "us"),
    "resumed": Metric("resumed handshake, upgrade, close", "us"),
    "alone-time": Metric("wait for an echo, 100 clients (median)", "us of wall time", "among"),
    "among-time": Metric("the same beside 200 handshakes", "us of wall time", "among"),
    "among": Metric("their ratio", "times"),
}

# What a mark speaks about: a value, or a ratio of two; `beside` is a ratio that is shown with it.
Mark = collections.namedtuple("Mark", "metric text top bottom bound tie beside", defaults=(True, None))


def against(metric, server, text, bound):
    return Mark(metric, text, (metric, "wssd"), (metric, server), bound)


MARKS = [
    against("echo-64", "bear", "of the floor", 1.08),
    against("echo-64", "bun", "of Bun", 1),
    against("echo-1k", "bear", "of the floor", 1.08),
    against("echo-1k", "bun", "of Bun", 1),
    Mark("echo-64-16", "of one in flight", ("echo-64-16", "wssd"), ("echo-64", "wssd"), 0.75,
         beside=("Bun", ("echo-64-16", "bun"), ("echo-64", "bun"))),
    against("echo-16k", "bear", "of the floor", 1.05),
    against("echo-1m", "bear", "of the floor", 1.05),
    against("echo-1m", "bun", "of Bun", 1),
    Mark("busy-5000", "of without the idle", ("busy-5000", "wssd"), ("busy", "wssd"), 1.15,
         beside=("Bun", ("busy-5000", "bun"), ("busy", "bun"))),
    Mark("rss-idle", "bytes", ("rss-idle", "wssd"), None, 4500, False),
    Mark("rss-burst", "bytes", ("rss-burst", "wssd"), None, 4500, False),
    Mark("rest", "us", ("rest", "wssd"), None, 20),
    against("hub", "bun", "of Bun", 1),
    against("hub-16", "bun", "of Bun", 1),
    Mark("stream-1m", "of the echo", ("stream-1m", "wssd"), ("echo-1m", "wssd"), 1.15),
    Mark("get-1k", "of the 1 KiB echo", ("get-1k", "wssd"), ("echo-1k", "wssd"), 1.15),
    against("get-100k", "nginx", "of nginx", 1),
    against("get-100m", "nginx", "of nginx", 1),
    against("full", "bear", "of the floor", 1.05),
    against("resumed", "bear", "of the floor", 1.08),
    Mark("among", "times", ("among", "wssd"), None, 3, False),
]
FLOOR = Mark("echo-64", "BearSSL floor of TCP floor", ("echo-64", "bear"), ("echo-64", "tcp"), 1.45, False)


class Results:
    """values[metric][server]: one a round; failed[work][server]: reasons; growth[server][clients][kind]: values; about:
    when, where, how."""

    def __init__(self, data=None):
        data = data or {}
        self.values = data.get("values", {})
        self.failed = data.get("failed", {})
        self.growth = data.get("growth", {})
        self.about = data.get("about", {})

    def add(self, metric, server, value):
        self.values.setdefault(metric, {}).setdefault(server, []).append(value)

    def fail(self, work, server, reason):
        self.failed.setdefault(work, {}).setdefault(server, []).append(reason)

    def derive(self):
        """What is a difference of others, round by round."""
        one, wake = self.values.get("one", {}), self.values.get("wake", {})
        self.values.pop("rest", None)
        for server in sorted(set(one) & set(wake)):
            for a, b in zip(wake[server], one[server]):
                self.add("rest", server, a - b)

    def median(self, metric, server):
        values = self.values.get(metric, {}).get(server)
        return statistics.median(values) if values else None


# ---- figures and marks


def figure(value, unit="us"):
    """With the digits that mean something."""
    if value is None:
        return ""
    if unit == "bytes" or abs(value) >= 1000:
        return "{:,}".format(round(value))
    return "%.*f" % (2 if abs(value) < 20 else 1 if abs(value) < 200 else 0, value)


def verdict(value, bound, tie=True):
    if value is None:
        return "not measured"
    if value <= bound:
        return "met"
    return "tie" if tie and value <= bound * TIE else "missed"


def judge(results, mark):
    """(the value that the mark speaks about, its least and its greatest in a round, verdict)"""
    def rounds(cell):
        return results.values.get(cell[0], {}).get(cell[1], [])

    value, values = results.median(*mark.top), rounds(mark.top)
    if mark.bottom:
        bottom = results.median(*mark.bottom)
        values = [a / b for a, b in zip(values, rounds(mark.bottom)) if b]
        value = value / bottom if value is not None and bottom else None
    return value, (min(values), max(values)) if values else None, verdict(value, mark.bound, mark.tie)


# ---- tables


def table(head, rows, words=1):
    """Markdown; the first `words` columns are words, the others numbers."""
    out = ["| %s |" % " | ".join(head), "|%s" % "".join("---|" if i < words else "--:|" for i in range(len(head)))]
    return "\n".join(out + ["| %s |" % " | ".join(row) for row in rows]) + "\n"


def notes_of(results):
    """The failures, numbered: {(work, server): (number, text)}."""
    out = {}
    for work in sorted(results.failed):
        for server, reasons in sorted(results.failed[work].items()):
            counted = ["%s%s" % (reason, " (%d times)" % n if n > 1 else "")
                       for reason, n in collections.Counter(reasons).items()]
            out[work, server] = len(out) + 1, "%s, %s: %s" % (work, SERVERS[server], "; ".join(counted))
    return out


def main_table(results, notes, servers, whole):
    def cell(name, server):
        metric = METRICS[name]
        text = figure(results.median(name, server), metric.unit)
        note = notes.get((metric.work or name, server))
        if note:
            return "%s [%d]" % (text or "failed", note[0])
        return text or "-"

    rows = []
    for name, metric in METRICS.items():
        marks = [m for m in MARKS if m.metric == name]
        if name not in results.values and (metric.work or name) not in results.failed and not (marks and whole):
            continue
        for i, mark in enumerate(marks or [None]):
            row = ["%s, %s" % (metric.title, metric.unit)] + [cell(name, s) for s in servers] if i == 0 else \
                [""] * (1 + len(servers))
            rows.append(row + (said(results, mark) if mark else ["", "", ""]))
    return table(["work"] + [SERVERS[s] for s in servers] + ["the mark speaks about", "at most", ""], rows)


def said(results, mark):
    """The last three columns: what the mark speaks about, the mark, the verdict."""
    value, _, word = judge(results, mark)
    text = "" if value is None else "%s %s" % (figure(value, mark.text), mark.text)
    if mark.beside and text:
        top, bottom = (results.median(*c) for c in mark.beside[1:])
        text += " (%s %.2f)" % (mark.beside[0], top / bottom) if top and bottom else ""
    return [text, figure(mark.bound, mark.text), "**missed**" if word == "missed" else word]


def spread_table(results, servers):
    rows = []
    for name, metric in METRICS.items():
        values = results.values.get(name)
        if values:
            rows.append(["%s, %s" % (metric.title, metric.unit)] + [
                "%s to %s" % (figure(min(values[s]), metric.unit), figure(max(values[s]), metric.unit)) if values.get(s)
                else "-" for s in servers])
    return table(["work"] + [SERVERS[s] for s in servers], rows)


def ratio_table(results):
    rows = []
    for mark in [FLOOR] + MARKS:
        value, span, word = judge(results, mark)
        if span:
            numbers = [figure(x, mark.text) for x in (value, *span, mark.bound)]
            rows.append([METRICS[mark.metric].title, mark.text] + numbers + [word])
    return table(["work", "", "of the medians", "least round", "greatest round", "at most", ""], rows, 2)


def slope(points):
    """Least squares: what y gains for each x."""
    mx, my = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    below = sum((x - mx) ** 2 for x, _ in points)
    return sum((x - mx) * (y - my) for x, y in points) / below if below else 0.0


def growth_table(results):
    kinds = (("all", "all echo", "us"), ("idle", "32 echo among so many idle", "us"), ("rss", "RSS for each idle", "bytes"))
    servers, out = [s for s in SERVERS if s in results.growth], []

    def medians(server, kind):
        return [(n, statistics.median(v[kind])) for n, v in sorted((int(n), v) for n, v in results.growth[server].items())
                if v.get(kind)]

    rows = [["{:,}".format(n)] + [figure(dict(medians(s, kind)).get(n), unit) or "-"
                                  for s in servers for kind, _, unit in kinds] for n in GROWTH]
    for s in servers:
        for kind, title, _ in kinds[:2]:
            points = medians(s, kind)
            if len(points) > 1:
                out.append("- %s, %s: %+.2f us a message for ten times the clients; %+.3f us for each thousand more.\n" % (
                    SERVERS[s], title, slope([(math.log10(n), y) for n, y in points]), 1000 * slope(points)))
        points = [(n, n * y) for n, y in medians(s, "rss")]
        if len(points) > 1:
            out.append("- %s: %s bytes of RSS for each idle client more.\n" % (SERVERS[s], figure(slope(points), "bytes")))
    head = ["clients"] + ["%s: %s, %s" % (SERVERS[s], title, unit) for s in servers for _, title, unit in kinds]
    return table(head, rows, 0) + "\n" + "".join(out)


def report(results):
    """RESULTS.md."""
    a, notes = results.about, notes_of(results)
    seen = set().union(*results.values.values(), *results.failed.values())
    servers = [s for s in SERVERS if s in seen]
    floor, _, word = judge(results, FLOOR)
    out = ["# Results\n",
           "Written by `make bench`; [its chapter](../README.md#benchmarks) says what is measured and how to read it.\n",
           "%s, %s. Commit %s. Rounds: %d, in %.0f minutes; all else on the machine took %.2f of a core meanwhile (load "
           "average at the start: %.1f).\n" % (
               a["date"], a["machine"], a["commit"], a["rounds"], a["minutes"], a["foreign"], a["load"]),
           "Versions: %s.\n" % ", ".join(
               ["%s %s" % (SERVERS[s], a["versions"][s]) for s in SERVERS if a["versions"].get(s)] +
               ["%s %s" % library for library in sorted(a["libraries"].items())])]
    if not a["whole"]:
        out.append("This run had a part of the work, less time, or fewer than %d rounds: a look, no result.\n" % FULL_ROUNDS)
    out.append("CPU time of the server for each message, delivery, request or handshake, in microseconds where nothing else "
               "is said; medians of the rounds. Up to %d %% above a mark is a tie.\n" % round(100 * TIE - 100))
    out.append(main_table(results, notes, servers, a["whole"]))
    if floor is not None:
        out.append("The BearSSL floor is %.2f of the TCP floor at 64 B; up to %.2f it counts as one%s.\n" % (
            floor, FLOOR.bound, "" if word == "met" else ": **it does not here**"))
    if notes:
        out.append("Failures:\n\n" + "\n".join("- [%d] %s" % note for note in notes.values()) + "\n")
    out += ["## Spread\n\nThe least and the greatest of the rounds.\n", spread_table(results, servers),
            "What the marks speak about:\n", ratio_table(results)]
    if results.growth:
        out += ["## Growth\n\nEcho of 64 B; rounds: %d.\n" % min(GROWTH_ROUNDS, a["rounds"]), growth_table(results)]
    return "\n".join(out)


def keeping(text, old):
    """The new report with what counts.py wrote into the old one."""
    kept = "".join(KEPT.findall(old))
    return text + ("\n" + kept if kept else "")


# ---- the drawing

BARS = ["echo-64", "echo-1k", "echo-64-16", "echo-16k", "echo-1m"]
STYLE = """text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 13px }
.note { fill: #57606a; font-size: 11px } .peer { fill: #9aa4ae } .floor { fill: #c5ccd3 } .wssd { fill: #1f6feb }
.cut { stroke: #ffffff; stroke-width: 2; fill: none }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .note { fill: #9198a1 } .peer { fill: #6e7781 }
.floor { fill: #484f58 } .wssd { fill: #388bfd } .cut { stroke: #0d1117 } }"""
WIDTH, LABEL, VALUE, BAR, GAP = 760, 160, 70, 15, 3
CUT = 3  # a bar longer than so many of wssd's is cut


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def drawing(results):
    """Horizontal bars, a group for each kind of work, each with a scale of its own."""
    y, out, a = 24, [], results.about
    room = WIDTH - LABEL - VALUE

    def text(x, y, words, more=""):
        out.append('<text x="%.1f" y="%d"%s>%s</text>' % (x, y, more, escape(words)))

    text(8, y, "Server CPU time for each message, in microseconds", ' class="title"')
    for metric in BARS:
        values = sorted((results.median(metric, s), s) for s in results.values.get(metric, {}))
        if not values:
            continue
        most = min(values[-1][0], CUT * (results.median(metric, "wssd") or values[-1][0]))
        y += 30
        text(8, y, METRICS[metric].title, ' class="title"')
        y += 8
        for value, server in values:
            kind = "wssd" if server == "wssd" else "floor" if server in ("tcp", "bear") else "peer"
            length = room * min(value, most) / most
            text(LABEL - 8, y + BAR - 4, SERVERS[server], ' text-anchor="end"')
            out.append('<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>' % (kind, LABEL, y, length, BAR))
            if value > most:
                out.append('<path class="cut" d="M%.1f %d l6 5 l-6 6 l6 6"/>' % (LABEL + length - 24, y - 1))
            text(LABEL + length + 6, y + BAR - 4, figure(value))
            y += BAR + GAP
    text(8, y + 22, "TLS 1.2, AES-128-GCM; server on one core, load on another; medians of %d rounds, %s. nginx: a proxy, "
         "without the echo behind it." % (a["rounds"], a["date"]), ' class="note"')
    return '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">\n' \
        '<title>Server CPU time for each echoed message: wssd and others</title>\n<style>%s</style>\n%s\n</svg>\n' % (
            WIDTH, y + 36, WIDTH, y + 36, STYLE, "\n".join(out))
