"""Builds and runs the fuzzing targets of this directory (libFuzzer, AddressSanitizer, UndefinedBehaviorSanitizer).

    fuzz.py [TARGET]...           each of them for --seconds S (600), --jobs N (2) at a time; exit status 1 on a finding;
                                  --seed WORD: the inputs are those of the run before, as far as the time goes
    fuzz.py --merge [TARGET]...   the smallest set of inputs that reaches all that the tree's and the working corpus reach
                                  takes the place of the tree's, files of at most --largest BYTES (4096)
    fuzz.py --afl                 AFL++ over the whole server for --seconds: its one client is what the fuzzer makes
    fuzz.py --coverage            lines and branches of the sources that the corpora reach (and build/fuzz/grown/TARGET)
    fuzz.py --check [TARGET]...   a bug is sown into a copy of the sources, one after the other: each must be found

A run begins with test/fuzz/corpus/TARGET, the seeds of seeds.py, and what earlier runs left in build/fuzz/grown/TARGET. A
finding is kept in build/fuzz/findings; `build/fuzz/TARGET FILE` replays it.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib

import seeds

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import powers  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(TOP, "build", "fuzz")
CORPUS = os.path.join(HERE, "corpus")

# The longest input; the sources that are linked with the target beside the one that it includes; flags.
TARGETS = {
    "config": (4096, ["ws.c"], []),
    "conn": (2000, ["http.c", "tls.c", "ws.c"], ["-include", "fake.h"]),
    "frame": (400, [], []),
    "head": (9000, [], []),
    "pem": (6000, [], []),
    "proxy": (2200, [], []),
    "ring": (600, [], []),
}
LANGUAGE = ["-std=c11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra"]
FUZZER = ["-O1", "-fno-omit-frame-pointer", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]

# Bugs to sow: target, file, what stands there, what comes in its place.
BUGS = [
    ("frame", "ws.c", "(size == 10 && n > 2 && b[2] > 127) ||", ""),
    ("frame", "ws.c", "s == 0xf4 ? 0x8f", "s == 0xf4 ? 0x90"),
    ("frame", "ws.c", "for (; i < n; i++)\n\t\tp[i] ^=", "for (; i <= n; i++)\n\t\tp[i] ^="),
    ("head", "http.c", "h->fields >= FIELDS_MAX", "h->fields > FIELDS_MAX"),
    ("head", "http.c", "i + 11 > n || ", ""),
    ("head", "http.c", "(f.known < ONCE && h->last[f.known].value != 0) ||", ""),
    ("head", "http.c", "return from == end && i == host_end &&", "return i == host_end &&"),
    ("proxy", "tls.c", "whole >= 16 + 2 * ip + 4", "whole >= 16 + 2 * ip"),
    ("proxy", "tls.c", " || whole > PROXY_MAX", ""),
    ("pem", "tls.c", "if (len > sizeof b->room - b->used)", "if (0)"),
    ("pem", "tls.c", "if (b->certs == CERTS_MAX)", "if (b->certs > CERTS_MAX)"),
    ("pem", "tls.c", "explicit_bzero(b->room + from, b->used - from);", ""),
    ("pem", "tls.c", "return key_matches(b) ? NULL :", "return 1 ? NULL :"),
    ("config", "main.c", "cf.listeners++ == LISTENERS_MAX", "cf.listeners++ > LISTENERS_MAX"),
    ("config", "main.c", "names->n >= NAMES_MAX || ", ""),
    ("config", "main.c", "*address == '\\0' || memccpy", "memccpy"),
    ("conn", "main.c", "c->again = 1; /* lost wake-up 1 */", ""),
    ("conn", "main.c", "if (s == MORE && c->full)", "if (0)"),
    ("conn", "main.c", "awake[c->spot]->spot = c->spot;", ""),
    ("conn", "main.c", "c->readable |= (client & ~POLLOUT) != 0;",
     "c->readable |= (client & POLLIN) != 0 && (client & POLLERR) == 0;"),
    ("conn", "tls.c", "explicit_bzero(c->io + IO_STAGE, n);", ""),
    ("conn", "tls.c", "else if ((t->sent += (uint32_t)w) == t->out)", "else if ((t->sent += (uint32_t)n) == t->out)"),
    ("conn", "http.c", "c->text_high = c->text_high > had + n ? c->text_high : (uint32_t)(had + n);", ";"),
    ("conn", "http.c", "c->left = c->text = c->scan = 0;", "c->left = c->text = 0;"),
    ("conn", "ws.c", "c->clear -= (uint32_t)used;", ""),
    ("conn", "ws.c", "if (last && c->utf8 != 0)", "if (0)"),
    ("conn", "ws.c", "f->opcode == PING && c->closing == 0", "f->opcode == PING"),
    ("conn", "ws.c", "if (n <= 0 || c->closing != 0)\n", "if (n <= 0)\n"),
    ("conn", "ws.c", "c->parted = !last;", ""),
    ("conn", "ws.c", "c->sending = !last || (size_t)used < n;", "c->sending = !last;"),
    ("conn", "ws.c", "\t\tclose(c->bfd);\n", "\t\t;\n"),
    ("ring", "ws.c", "> h->size - HUB_FRAME) {", "> h->size) {"),
    ("ring", "ws.c", "if (c->cursor < h->tail)", "if (c->cursor + HUB_FRAME < h->tail)"),
    ("ring", "ws.c", "e.opcode = CONTINUATION;\n", ""),
]


def run(command, **kw):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          encoding="utf-8", errors="replace", **kw)


class DoesNotBuild(Exception):
    pass


def compile_target(target, out, flags=FUZZER, compiler="clang", source=TOP, more=()):
    """Builds a target from the sources in that directory."""
    os.makedirs(os.path.dirname(out), exist_ok=True)
    files = [os.path.join(HERE, f) for f in (target + ".c", "stubs.c") + tuple(more)] + \
        [os.path.join(source, f) for f in TARGETS[target][1]]
    command = [compiler] + LANGUAGE + list(flags) + ["-I" + source, "-I" + HERE] + TARGETS[target][2] + files + \
        ["-o", out, "-lbearssl"]
    r = run(command)
    if r.returncode != 0:
        raise DoesNotBuild("%s: does not build\n%s" % (target, r.stdout))


def last(pattern, text, otherwise=0):
    found = re.findall(pattern, text)
    return int(found[-1]) if found else otherwise


class Result:
    def __init__(self, target, status, text, cpu, findings):
        self.target, self.status, self.text, self.cpu, self.findings = target, status, text, cpu, findings
        self.runs = last(r"stat::number_of_executed_units: (\d+)", text) or last(r"(?m)^#(\d+)\s", text)
        self.edges, self.features = last(r" cov: (\d+) ", text), last(r" ft: (\d+) ", text)
        self.all = last(r"\((\d+) inline 8-bit counters\)", text)
        self.corpus = last(r" corp: (\d+)/", text)
        self.passed = status == 0 and self.runs > 0

    def __str__(self):
        return "%-7s %12s executions, %5d of %5d edges, %6d features, %5d inputs, %6.1f s of CPU, %s" % (
            self.target, format(self.runs, ","), self.edges, self.all, self.features, self.corpus, self.cpu,
            "no finding" if self.passed else "A FINDING")


def corpora(target):
    """What there is to begin with: what the tree has, and the seeds that are made from seeds.py."""
    below = os.path.join(BUILD, "seeds")
    if target in seeds.MAKERS:
        seeds.write(below, [target])
    return [d for d in (os.path.join(CORPUS, target), os.path.join(below, target)) if os.path.isdir(d)]


def fuzz(target, program, seconds, work, findings, extra=()):
    """Runs a target; its own corpus grows in `work`."""
    for d in (work, findings):
        os.makedirs(d, exist_ok=True)
    before = set(os.listdir(findings))
    command = [program, "-max_total_time=%d" % seconds, "-max_len=%d" % TARGETS[target][0], "-timeout=120",
               "-rss_limit_mb=2000", "-print_final_stats=1", "-artifact_prefix=%s/%s-" % (findings, target)]
    words = os.path.join(HERE, target + ".dict")
    if os.path.exists(words):
        command.append("-dict=" + words)
    command += list(extra) + [work] + corpora(target)
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=1:" + os.environ.get("ASAN_OPTIONS", ""))
    with tempfile.TemporaryFile() as out:
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        _, status, usage = os.wait4(p.pid, 0)
        out.seek(0)
        text = out.read().decode(errors="replace")
    return Result(target, status, text, usage.ru_utime + usage.ru_stime,
                  [os.path.join(findings, f) for f in sorted(set(os.listdir(findings)) - before)
                   if f.startswith(target + "-") and "-slow-unit-" not in f])  # slow by the clock, of a busy machine perhaps


def run_all(targets, seconds, jobs, seed):
    """Fuzzes all; prints a line for each, and what was found. True if nothing was."""
    def one(target):
        program = os.path.join(BUILD, target)
        try:
            compile_target(target, program)
        except DoesNotBuild as e:
            print(e, flush=True)
            return Result(target, 1, "", 0, [])
        r = fuzz(target, program, seconds, os.path.join(BUILD, "grown", target), os.path.join(BUILD, "findings"),
                 ["-seed=%d" % seed] if seed else [])
        print(r, flush=True)
        with open(os.path.join(BUILD, target + ".log"), "w") as f:
            f.write(r.text)
        for name in r.findings:
            print("  found: %s\n  replay: %s %s" % tuple(os.path.relpath(x) for x in (name, program, name)), flush=True)
        if not r.passed:
            print("\n".join("  | " + line for line in r.text.splitlines() if line[:1] not in "#")[-6000:], flush=True)
        return r

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(one, targets))
    passed = sum(r.passed for r in results)
    print("%s executions, %.1f min of CPU" % (format(sum(r.runs for r in results), ","), sum(r.cpu for r in results) / 60))
    print("%d passed, %d failed" % (passed, len(results) - passed))
    return passed == len(results)


def merge(targets, largest):
    """The smallest set that reaches the same takes the place of what the tree had; whatever has a name of its own stays."""
    for target in targets:
        program = os.path.join(BUILD, target)
        compile_target(target, program)
        tree, work = os.path.join(CORPUS, target), os.path.join(BUILD, "grown", target)
        os.makedirs(tree, exist_ok=True)
        os.makedirs(work, exist_ok=True)
        with tempfile.TemporaryDirectory() as new:
            r = run([program, "-set_cover_merge=1", "-max_len=%d" % min(largest, TARGETS[target][0]), new] + corpora(target) +
                    [work])
            if r.returncode != 0:
                sys.exit(r.stdout[-4000:])
            for name in os.listdir(tree):
                if re.fullmatch("[0-9a-f]{12}", name):
                    os.remove(os.path.join(tree, name))
            for name in os.listdir(new):
                shutil.copy(os.path.join(new, name), os.path.join(tree, name[:12]))
        sizes = [os.path.getsize(os.path.join(tree, f)) for f in os.listdir(tree)]
        print("%-7s %d files, %d bytes" % (target, len(sizes), sum(sizes)))
    return True


def check(targets, seconds=60):
    """Sows one bug at a time; each must be found from the corpus of the tree."""
    missed = 0
    bugs = [b for b in BUGS if b[0] in targets]
    for target, name, there, instead in bugs:
        with tempfile.TemporaryDirectory() as d:
            for f in ("ws.h", "main.c", "tls.c", "http.c", "ws.c"):
                shutil.copy(os.path.join(TOP, f), d)
            with open(os.path.join(d, name)) as f:
                text = f.read()
            if text.count(there) != 1:
                print("%-7s %s: %r stands there %d times" % (target, name, there, text.count(there)))
                missed += 1
                continue
            with open(os.path.join(d, name), "w") as f:
                f.write(text.replace(there, instead))
            try:
                compile_target(target, os.path.join(d, target), source=d)
            except DoesNotBuild as e:
                print(e)
                missed += 1
                continue
            begun = time.monotonic()
            r = fuzz(target, os.path.join(d, target), seconds, os.path.join(d, "grown"), os.path.join(d, "findings"))
            missed += r.passed
            what = re.findall(r"does not hold: .*|SUMMARY: (?!libFuzzer).*|runtime error: .*", r.text)
            print("%-7s %s: %s -> %s: %s" % (
                target, name, " ".join(there.split()), " ".join(instead.split()) or "nothing", "NOT FOUND" if r.passed else
                "found in %.1f s: %s" % (time.monotonic() - begun, re.sub(r"/\S*/", "", what[0]) if what else "?")),
                    flush=True)
    print("%d passed, %d failed" % (len(bugs) - missed, missed))
    return missed == 0


def coverage(targets):
    """What the corpora reach of the sources, by clang's own counters."""
    d = os.path.join(BUILD, "coverage")
    os.makedirs(d, exist_ok=True)
    programs, profiles = [], []
    for target in targets:
        program, profile = os.path.join(d, target), os.path.join(d, target + ".profraw")
        compile_target(target, program, ["-O0", "-fprofile-instr-generate", "-fcoverage-mapping"], more=["replay.c"])
        work = os.path.join(BUILD, "grown", target)
        r = run([program] + corpora(target) + ([work] if os.path.isdir(work) else []), env=dict(os.environ, LLVM_PROFILE_FILE=profile))
        if r.returncode != 0:
            sys.exit("%s: %s" % (target, r.stdout[-2000:]))
        programs.append(program)
        profiles.append(profile)
    merged = os.path.join(d, "all.profdata")
    r = run(["llvm-profdata", "merge", "-o", merged] + profiles)
    if r.returncode != 0:
        sys.exit(r.stdout)
    objects = [word for program in programs[1:] for word in ("-object", program)]
    sources = [os.path.join(TOP, f) for f in ("main.c", "tls.c", "http.c", "ws.c")]
    for what in (["report"], ["show", "-show-line-counts", "-show-branches=count"]):
        r = run(["llvm-cov"] + what + ["-instr-profile=" + merged, programs[0]] + objects + sources)
        if r.returncode != 0:
            sys.exit(r.stdout)
        with open(os.path.join(d, what[0] + ".txt"), "w") as f:
            f.write(r.stdout)
    with open(os.path.join(d, "report.txt")) as f:
        print("\n".join(re.sub(r"^\S*/", "", line) for line in f.read().splitlines()))
    return True


def afl(seconds):
    """AFL++ over the binary; desock.c gives it one client. True if it neither crashed nor hung."""
    d = os.path.join(BUILD, "afl")
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(os.path.join(d, "www"))
    with open(os.path.join(d, "www", "index.html"), "w") as f:
        f.write("<p>here\n")
    seeds.write(d, ["stream"])
    server, preload = os.path.join(d, "wssd"), os.path.join(d, "desock.so")
    sources = [os.path.join(TOP, f) for f in ("main.c", "tls.c", "http.c", "ws.c")]
    for command in (["afl-clang-fast", "-O2", "-rdynamic", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined"] +
                    LANGUAGE + sources + ["-o", server, "-lbearssl"],
                    ["clang", "-O2", "-shared", "-fPIC"] + LANGUAGE + [os.path.join(HERE, "desock.c"), "-o", preload,
                        "-ldl"]):
        r = run(command, env=dict(os.environ, AFL_QUIET="1"))
        if r.returncode != 0:
            sys.exit(r.stdout)
    env = dict(os.environ, AFL_PRELOAD=preload, AFL_NO_UI="1", AFL_SKIP_CPUFREQ="1", AFL_NO_AFFINITY="1", AFL_QUIET="1",
               AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES="1", __AFL_DEFER_FORKSRV="1",
               ASAN_OPTIONS="abort_on_error=1:symbolize=0:detect_leaks=0", UBSAN_OPTIONS="abort_on_error=1:symbolize=0")
    command = ["afl-fuzz", "-i", os.path.join(d, "stream"), "-o", os.path.join(d, "out"), "-V", str(seconds), "-t",
        "5000", "-m",
               "none", "-x", os.path.join(HERE, "head.dict"), "--", server, *powers.words(server), "--listen", "ws://127.0.0.1:0", "--timeout", "1",
               "--root", os.path.join(d, "www"), "--verbose", "/echo=echo,protocol=a|b", "/hub=hub"]
    r = run(command, env=env)
    stats = os.path.join(d, "out", "default", "fuzzer_stats")
    if not os.path.exists(stats):
        sys.exit(r.stdout[-4000:])
    with open(stats) as f:
        s = dict(re.findall(r"(\w+)\s*: (.*)", f.read()))
    found = int(s["saved_crashes"]) + int(s["saved_hangs"])
    print("AFL++: %s s, %s executions, %s inputs, %s of %s edges (%s), stability %s, %s crashes, %s hangs" % (
        s["run_time"], format(int(s["execs_done"]), ","), s["corpus_count"], s["edges_found"], s["total_edges"],
            s["bitmap_cvg"],
        s["stability"], s["saved_crashes"], s["saved_hangs"]))
    for kind in ("crashes", "hangs"):
        names = os.path.join(d, "out", "default", kind)
        for name in sorted(os.listdir(names)) if found else []:
            print("  found: %s" % os.path.relpath(os.path.join(names, name)))
    if found:
        print("  replay: LD_PRELOAD=%s %s < FILE" % (os.path.relpath(preload), " ".join(command[command.index("--") + 1:])))
    print("%d passed, %d failed" % (not found, bool(found)))
    return not found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=lambda word: int(word) if word.isdigit() else zlib.crc32(word.encode()), default=0)
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--largest", type=int, default=4096)
    parser.add_argument("--afl", action="store_true")
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("targets", nargs="*", default=[])
    args = parser.parse_args()
    targets = args.targets or sorted(TARGETS)
    for t in targets:
        if t not in TARGETS:
            sys.exit("no such target: %s; there are %s" % (t, ", ".join(TARGETS)))
    if args.afl:
        return afl(args.seconds)
    if args.coverage:
        return coverage(targets)
    if args.merge:
        return merge(targets, args.largest)
    return check(targets, min(args.seconds, 60)) if args.check else run_all(targets, args.seconds, args.jobs, args.seed)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
