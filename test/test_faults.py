"""Each system call fails in turn: see faulty.py, whose short form runs here, a step a case, and faults that stay."""
import os
import re
import socket
import subprocess

import pytest

import conftest
import faulty
import peers

# What the binary takes from libc and cannot enter the kernel with.
PURE = set("""__ctype_b_loc __ctype_tolower_loc __cxa_finalize __errno_location __libc_start_main __stack_chk_fail
explicit_bzero getenv geteuid getgid getuid inet_ntop inet_pton memccpy memcmp memcpy memmove memset sigaddset sigemptyset
snprintf stdout strcasecmp strcasestr strchr strcmp strcspn strerror strlen strncasecmp strncmp strnlen strrchr strsep strspn strstr
strtok_r strtol strtoll vsnprintf exit printf puts sysconf time""".split())
# exit ends main; printf and puts fill a buffer that fflush empties; sysconf(_SC_PAGESIZE) is known from the start; time
# has no error, and neither has who we are
RUNTIME = re.compile(r"_*(asan|ubsan|gcov|gmon|ITM)_|br_")


@pytest.fixture(scope="module")
def world():
    return faulty.the_world()


@pytest.fixture
def server(world):
    """A factory of servers under the shim; they must end as they should."""
    made = []

    def make(*args, **kw):
        s = faulty.Server(world, conftest.WSSD, *args, **kw).launch().ready()
        made.append(s)
        return s

    yield make
    try:
        for s in made:
            s.control.disarm()
            s.settle()
            s.unharmed()
    finally:
        for s in made:
            s.kill()


def plain_name(symbol):
    """Without version, fortification and the 64 of large files."""
    name = re.sub(r"^__(\w+)_(chk|2)$", r"\1", symbol.partition("@")[0])
    return name[:-2] if name.endswith("64") else name


def test_every_symbol_is_covered():
    """What the binary calls in libc fails in the shim, or is known to stay out of the kernel."""
    text = subprocess.check_output(["nm", "-D", "--undefined-only", conftest.WSSD]).decode()
    symbols = {line.split()[-1] for line in text.splitlines() if not RUNTIME.match(line.split()[-1])}
    covered = {f.partition("-")[0] for f in faulty.FAULTS} | {"send"}  # which is a write-socket, too
    assert covered <= {plain_name(s) for s in symbols}, "fails in the shim, and nobody calls it"
    assert not {s for s in symbols if plain_name(s) not in covered | PURE}


def test_the_shim_has_these_functions(server):
    s = server()
    assert s.control.names() == sorted(faulty.FAULTS)


@pytest.mark.parametrize("name", faulty.NAMES)
@pytest.mark.timeout(300)
def test_each_call_fails(name):
    r = faulty.campaign(conftest.WSSD, name, True)
    print("%d runs, %d faults met, %s" % (r.runs, sum(r.hit.values()), dict(r.hit)))
    assert not r.failures, "\n".join(r.failures[:10])
    assert sum(r.hit.values()) > 0


def test_every_function_fails_somewhere():
    """The steps say what they must meet, and the starts meet the rest."""
    met = {f for s in faulty.STEPS.values() for f in s.meets}
    assert met | set(faulty.ONCE) == {f for f in faulty.FAULTS if faulty.FAULTS[f].errors}


# ---------------------------------------------------------------------------------------------- faults that stay


def turns(s, seconds):
    """The loop's turns in that time; on a busy machine a sleep takes longer, and no more than their share is counted."""
    start, before = faulty.time.monotonic(), s.control.calls("poll")
    faulty.time.sleep(seconds)
    after = s.control.calls("poll")
    return (after - before) * seconds / (faulty.time.monotonic() - start)


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"])
def test_no_descriptors_for_newcomers(server, error):
    """Accepting pauses: the others are served, no turn is taken in vain, and the newcomer is served at last."""
    s = server()
    with s.dial() as old:
        old.upgrade("/echo")
        s.control.arm("accept4", 1, error, faulty.ALWAYS)
        with s.dial() as new:
            s.until(lambda: s.control.get("hits"), "nobody accepts")
            old.say(b"meanwhile")
            assert turns(s, 10 * s.tick) < 50
            s.control.disarm()
            new.upgrade("/echo").say(b"at last")
            new.close_in_order()
        old.close_in_order()


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE"])
def test_no_descriptors_for_files_and_backends(server, error):
    s = server()
    bob = ["Authorization: Basic Ym9iOnNlY3JldA=="]
    s.control.arm("openat", 1, error, faulty.ALWAYS)
    with s.dial() as c:
        assert c.request(target="/page.html", extra=bob).status == 503
    s.control.arm("socket", 1, error, faulty.ALWAYS)
    with s.dial() as c:
        c.send(faulty.wsraw.upgrade_head("/tcp", c.host))
        assert c.reply().status == 502
    s.control.disarm()
    with s.dial() as c:
        c.get("/page.html", body=faulty.PAGE, extra=bob)


@pytest.mark.parametrize("function, n", [("open", 1), ("open", 3), ("read-file", 2), ("read-file", 7)])
def test_a_reload_that_fails_changes_nothing(server, function, n):
    """One sentence in the log, the old set serves on, and the next reload is as good as ever."""
    s = server()
    here = os.path.getsize(s.file)
    s.control.arm(function, n, "EIO", faulty.ALWAYS)
    s.reload()
    assert re.fullmatch(r"reload refused: \S+:\d+: .*Input/output error\n", s.log(here))
    with s.dial(s.world.device, port=s.ca) as c:
        c.upgrade("/echo").say(b"as before")
        c.close_in_order()
    s.settle()
    s.control.disarm()
    here = os.path.getsize(s.file)
    s.reload()
    assert s.log(here) == "reloaded\n"
    s.answer(s.world.anyone)


def test_no_entropy_is_no_connection(server):
    s = server()
    s.control.arm("getentropy", 1, "ENOSYS", faulty.ALWAYS)
    for _ in range(3):
        with pytest.raises(faulty.TOLERABLE):
            s.dial(s.world.anyone)
    with s.dial() as c:
        c.upgrade("/echo").say(b"plain")
        c.close_in_order()
    s.control.disarm()
    s.answer(s.world.anyone)
    assert s.log().count("no entropy") == 3


def test_a_log_that_cannot_be_written(server):
    s = server()
    s.control.arm("write-log", 1, "ENOSPC", faulty.ALWAYS)
    for _ in range(5):
        s.answer(s.world.anyone)
        s.settle()
    assert s.control.get("hits") >= 5


@pytest.mark.parametrize("error", ["ENOMEM", "EINVAL"])
def test_no_memory_for_poll(server, error):
    """The loop goes on, but it does not spin; what has waited is served at last."""
    s = server()
    with s.dial() as c:
        c.upgrade("/echo")
        s.control.arm("poll", 1, error, faulty.ALWAYS)
        s.until(lambda: s.control.get("hits"), "no turn")
        c.send_text("waits")
        assert turns(s, 0.3) < 2 * 0.3 / 0.01 * faulty.SPEED        # two calls each 10 ms of the server's clock
        s.control.disarm()
        c.expect_text("waits")
        c.close_in_order()


def test_a_backend_that_waits_costs_no_turns(server, tmp_path):
    """It would go on writing, and the client does not read: nobody asks again and again, whatever the machine's load is."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "backend"))
    listener.listen()
    listener.settimeout(faulty.PATIENCE)
    s = server("--timeout", "86400", "/mine=unix:%s" % (tmp_path / "backend"))
    with s.dial(rcvbuf=4096) as c:
        c.upgrade("/mine")
        backend = listener.accept()[0]
        assert peers.fill(backend, quiet=0.2) > 16384
        assert turns(s, 20 * s.tick) < 100
        backend.close()
    listener.close()


@pytest.mark.plain
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("error", ["EINVAL", None])
def test_memory_that_cannot_be_given_back_is_wiped(server, tls, error):
    """Who rests keeps his pages then, but nothing of him is left when he goes."""
    s = server("--timeout", "2000", speed=4 * faulty.SPEED)
    if error:
        s.control.arm("madvise", 1, error, faulty.ALWAYS)
    given = s.control.calls("madvise")
    with s.dial(s.world.anyone if tls else None) as c:
        c.upgrade("/echo").say(b"a secret" * 400)
        assert peers.residues(s.proc.pid, b"a secret") > 100 or not error
        s.until(lambda: s.control.calls("madvise") > given, "nobody goes to rest")
        c.say(b"short")
        c.close_in_order()
    s.settle()
    assert peers.residues(s.proc.pid, b"a secret") == 0


def test_full_standard_output():
    """--help and --version into a full device: exit status 1."""
    for option in "--help", "--version":
        with open("/dev/full", "wb") as full:
            r = subprocess.run([conftest.WSSD, option], stdout=full, stderr=subprocess.PIPE, timeout=10 * faulty.SLOW)
        assert (r.returncode, r.stderr) == (1, b"")
