"""The README's recipe "a program for each connection", as written: under systemd as process 1 of a box, and with socat.

And the boxes themselves: nothing that happens in one can be seen outside, nor is anything of it left.
"""
import contextlib
import glob
import os
import socket
import subprocess
import tempfile

import pytest

import recipes
import wsraw

SLOW = wsraw.SLOW
MOST = 16  # MaxConnections, max-children


@contextlib.contextmanager
def programs(which):
    r = recipes.recipe("program for each connection")
    with recipes.Box(systemd=which == "systemd") as box:
        box.put(r)
        job = box.start(r.sh[["systemd", "socat"].index(which)])
        box.wait_socket("/run/ask.sock")
        box.wait_port(8443)

        def dial():
            with box.net():
                return wsraw.connect(8443, tls=True).open("/ask")

        try:
            yield box, dial, job
        finally:
            wsraw.close_all()


def running(box):
    """Process ids of the programs, as the box sees them."""
    return set(box.run("pgrep -f '^/bin/sh /usr/local/lib/ask' || :").stdout.split())


def answer(client, question):
    """The lines of an answer that comes within a moment, as one text; a stream is cut anywhere."""
    client.send_text(question + "\n")
    return line(client)


def line(client):
    text = b""
    while not text.endswith(b"\n"):
        text += client.recv_message(skip_control=True)[1]
    return text.decode()


both = pytest.mark.parametrize("which", ["systemd", "socat"])


@both
def test_each_client_has_its_own(which):
    with programs(which) as (box, dial, _job):
        clients = [dial() for _ in range(3)]
        for client in clients:
            assert answer(client, "hello") == "load, disk or bye?\n"
        mine = running(box)
        assert len(mine) == 3
        users = set(box.run("ps -o user= -p " + ",".join(sorted(mine))).stdout.split())
        assert users == {"nobody"} if which == "socat" else "root" not in users
        clients[0].send_text("what")  # a line in two messages, while others get their answers
        assert len(answer(clients[1], "load").split()) == 5
        assert "/" in answer(clients[2], "disk")
        assert answer(clients[0], " now") == "load, disk or bye?\n"
        for client in clients:
            client.close_handshake()
        recipes.until(lambda: not running(box), 10, "programs are left")


@both
def test_ends(which):
    with programs(which) as (box, dial, job):
        client = dial()  # the program ends
        client.send_text("load\nbye\n")
        assert len(line(client).split()) == 5
        client.expect_close(1000)
        client = dial()  # the same, but it leaves something unread
        client.send_text("bye\nload\n")
        client.expect_close({1000, 1011} if which == "socat" else 1011)
        client = dial()  # the client closes, and still gets the answer to what it asked before
        client.send_text("hello\n")
        client.send_frame(wsraw.CLOSE, wsraw.close_payload(1000))
        assert line(client) == "load, disk or bye?\n"
        client.expect_close(1000, answer=False)
        client = dial()  # the client vanishes
        assert answer(client, "hello")
        client.reset()
        recipes.until(lambda: not running(box), 10, "programs are left")
        client = dial()
        assert answer(client, "hello")
        client.close_handshake()
        job.wait_log("/ask 1006 ")
        client = dial()  # the program fails
        assert answer(client, "hello")
        box.run("pkill -KILL -f '^/bin/sh /usr/local/lib/ask'")
        client.expect_close(1000)
        if which == "systemd":
            recipes.until(lambda: "ask@" not in box.run("systemctl list-units --all --plain 'ask@*'").stdout, 10,
                          "units of ended programs are left")


@both
def test_an_answer_that_takes_its_time(which):
    """The client closes, and the program answers a second later."""
    with programs(which) as (box, dial, _job):
        client = dial()
        assert answer(client, "hello")
        box.run("pkill -STOP -f '^/bin/sh /usr/local/lib/ask'")
        client.send_text("hello\n")
        client.send_frame(wsraw.CLOSE, wsraw.close_payload(1000))
        client.quiet(1)
        box.run("pkill -CONT -f '^/bin/sh /usr/local/lib/ask'")
        assert line(client) == "load, disk or bye?\n"
        client.expect_close(1000, answer=False)


@both
def test_many_words(which):
    """64 KiB of questions at once, and their answers."""
    with programs(which) as (_, dial, _job):
        client, n = dial(), 1 << 15
        client.send_text("x\n" * n)
        want, got = b"load, disk or bye?\n" * n, bytearray()
        while len(got) < len(want):
            got += client.recv_message(skip_control=True)[1]
        assert got == want
        client.close_handshake()


@both
def test_one_more_than_may_be(which):
    with programs(which) as (_, dial, _job):
        clients = [dial() for _ in range(MOST)]
        for client in clients:
            assert answer(client, "hello")
        more = dial()
        if which == "systemd":
            more.expect_close(1000)
            clients.pop().close_handshake()
        else:
            more.send_text("hello\n")
            more.quiet()
            clients.pop().close_handshake()
            assert line(more) == "load, disk or bye?\n"
            more.close_handshake()

        def again():
            with contextlib.suppress(AssertionError), dial() as client:
                return answer(client, "hello")

        assert recipes.until(again, 10) == "load, disk or bye?\n"


@pytest.mark.deep
def test_a_burst():
    """More connections than systemd would allow a socket in 2 s."""
    with programs("systemd") as (box, dial, _job):
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                s = stack.enter_context(socket.socket(socket.AF_UNIX))
                s.settimeout(20 * SLOW)
                s.connect(box.path("/run/ask.sock"))

        def again():
            with contextlib.suppress(AssertionError), dial() as client:
                return answer(client, "hello")

        assert recipes.until(again, 30) == "load, disk or bye?\n"


# ---------------------------------------------------------------------------------------------- the boxes


def test_sections(tmp_path):
    """What is a recipe, and what of it is a file."""
    path = tmp_path / "README.md"
    path.write_text("# x\n## Other\n### No\n```sh\nno\n```\n## Recipes\n### One thing\n```ini /etc/a\n### no title\n```\n"
                    "```sh\none\ntwo\n```\n```\nplain\n```\n```sh /bin/x\nthree\n```\n### Two\n"
                    "## More than one machine\n### Three\n## End\n### No\n")
    found = recipes.read_recipes(str(path))
    assert [r.title for r in found] == ["One thing", "Two", "Three"]
    assert found[0].files == {"/etc/a": "### no title\n", "/bin/x": "three\n"}
    assert found[0].sh == ["one\ntwo\n"]


@pytest.mark.parametrize("systemd", [False, True])
def test_a_box_leaves_nothing(systemd):
    def traces():
        with open("/proc/self/mounts") as f:
            mounts = sum("wssd-box" in line for line in f)
        return mounts, os.readlink("/proc/self/ns/net")

    before = traces()
    mark = "wssd-test-%d" % os.getpid()
    with recipes.Box(systemd=systemd) as box:
        mine, cgroup = box.dir, box.cgroup
        assert bool(cgroup) == systemd
        box.put({"/etc/" + mark: "x", "/tmp/" + mark: "x", "/run/" + mark: "x"})
        assert box.run("cat /etc/%s /tmp/%s /run/%s" % (mark, mark, mark)).stdout == "xxx"
        sleep = "sleep 12%05d" % os.getpid()
        job = box.start("setsid %s & (trap '' TERM; exec %s) & wait" % (sleep, sleep))
        recipes.until(lambda: box.run("pgrep -fc '^%s'" % sleep, check=False).stdout == "2\n", 5)
        with box.net():
            assert os.readlink("/proc/thread-self/ns/net") != before[1]
            with socket.create_server(("192.168.1.1", 80)):
                box.wait_port(80)
        with pytest.raises(OSError):
            socket.create_server(("192.168.1.1", 80))
    assert traces() == before
    assert not glob.glob("/etc/" + mark) + glob.glob("/tmp/" + mark) + glob.glob("/run/" + mark)
    assert not os.path.exists(mine) and not (cgroup and os.path.exists(cgroup))
    assert job.proc.returncode is not None
    assert subprocess.run(["pgrep", "-f", "^" + sleep], stdout=subprocess.DEVNULL).returncode == 1
    assert mine.startswith(tempfile.gettempdir())


def test_a_box_ends_what_will_not_end():
    with recipes.Box() as box:
        job = box.start("trap '' TERM; echo here; while :; do sleep 0.05; done")
        job.wait_log("^here$")
        with pytest.raises(AssertionError, match="no end"):
            job.end(0.2)
        assert not job.alive()
        assert box.start("exit 3").wait() == 3
        with pytest.raises(AssertionError, match="status 4"):
            box.run("echo why; exit 4")


def test_a_finding_in_a_log_fails():
    with pytest.raises(AssertionError, match="AddressSanitizer"):
        with recipes.Box() as box:
            box.start("echo AddressSanitizer: heap-buffer-overflow").wait()
