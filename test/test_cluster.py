"""More than one machine, as the README's chapter of that name tells it and with the files of dist/cluster as they are.

Four machines in network namespaces: HAProxy (TCP mode, PROXY protocol v2) between 200 MQTT clients, each with an address of
its own, and two hosts that each run wssd and mosquitto, with a bridge between the brokers. Shows that the clients spread
over both hosts and each receives each message exactly once; that when a host falls silent and dies, its clients are back on
the other soon and all goes on; that the host takes part again when it is back; that limits and logs have the clients'
addresses; that health checks cost no slot, and that nobody gets past the balancer."""

import ipaddress
import os
import re
import socket
import ssl
import struct
import subprocess
import time

import pytest

import wsraw
from fleet import READY, Fleet
from recipes import Box, Recipe, until

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SLOW = wsraw.SLOW
FILES = os.path.join(TOP, "dist", "cluster")
README = os.environ.get("README", os.path.join(TOP, "README.md"))
NAME = "gateway.example"
BALANCER = {socket.AF_INET: ("10.77.1.254", 443), socket.AF_INET6: ("fd77::fe", 443)}
HOSTS = {"a": "10.77.0.2", "b": "10.77.0.3"}
SOURCES = ["10.77.1.%d" % i for i in range(1, 161)] + ["fd77:0:0:%x::1" % i for i in range(1, 41)]
CHECKER = "10.77.0.1"            # HAProxy, when it asks on its own behalf
GREEDY = "10.77.1.200"
CROWD = pytest.mark.native       # HAProxy gives a check one second, which hundreds of emulated handshakes at once exceed
END = re.compile(r"(\S+):(\d+) (\S+) (\S+) (\S+) in=(\d+) out=(\d+) secs=([\d.]+)(?: cn=\"[^\"]*\")?: (.*)$")


def chapter():
    """The README's chapter."""
    for name in README.split(":"):
        with open(name, encoding="utf-8") as f:
            m = re.search(r"^## More than one machine\n(.*?)(?=^## |\Z)", f.read(), re.M | re.S)
        if m:
            return Recipe("More than one machine", m.group(1))
    raise AssertionError("the README has no such chapter")


class Cluster:
    """The four machines; box: {"balancer", "clients", "a", "b"}; wssd: {host: [the job of each of its lives]}."""

    def __init__(self):
        self.box, self.wssd, self.disk, self.probes = {}, {name: [] for name in HOSTS}, {}, 0
        try:
            for name in ("balancer", "clients", *HOSTS):
                self.box[name] = Box(name=name)
            self.cables()
            self.install()
            for name in HOSTS:
                self.broker(name)
                self.gateway(name)
            self.haproxy = self.box["balancer"].start("exec haproxy -f /etc/haproxy/haproxy.cfg")
            self.wait_up(*HOSTS)
            self.wait_bridge()
        except BaseException:
            self.close(scan=False)
            raise

    # ---- the network

    def cables(self):
        balancer, clients = self.box["balancer"], self.box["clients"]
        balancer.run("ip link add inside type bridge\n"
                     "ip addr add 10.77.0.1/24 dev inside\n"
                     "ip link set inside up\n"
                     "ip link add outside type veth peer name peer\n"
                     "ip addr add 10.77.1.254/24 dev outside\n"
                     "ip addr add fd77::fe/48 dev outside nodad\n"
                     "ip link set outside up")
        self.plug(clients, "02:77:00:00:01:00")
        addresses = [s + ("/48 dev eth0 nodad" if ":" in s else "/24 dev eth0") for s in SOURCES + [GREEDY]]
        clients.run(["ip", "-batch", "-"], input="".join("addr add %s\n" % a for a in addresses))
        for name in HOSTS:
            self.cable(name)

    def plug(self, box, mac):
        """The loose end of a cable, peer, moves from the balancer to another machine, whose MAC address outlives a boot."""
        subprocess.run(["nsenter", "-t", str(self.box["balancer"].pid), "-n", "ip", "link", "set", "peer", "address", mac,
                        "netns", str(box.pid), "name", "eth0"], check=True, timeout=20 * SLOW)
        box.run("ip link set eth0 up")

    def cable(self, name):
        self.box["balancer"].run("ip link add to-%s type veth peer name peer\n"
                                 "ip link set to-%s up master inside" % (name, name))
        self.plug(self.box[name], "02:77:00:00:00:0" + HOSTS[name][-1])
        self.box[name].run("ip addr add %s/24 dev eth0" % HOSTS[name])

    # ---- the files

    def install(self):
        """Each file of dist/cluster goes where its first line says; the chapter's commands make keys and certificates."""
        for name in sorted(os.listdir(FILES)):
            with open(os.path.join(FILES, name), encoding="utf-8") as f:
                content = f.read()
            path, where = re.match(r"# (/etc/\S+) on (the balancer|every host|host [AB])\b", content).groups()
            for box in {"the balancer": ["balancer"], "every host": list(HOSTS)}.get(where, [where[-1].lower()]):
                self.box[box].put(path, content)
        commands = "".join(chapter().sh)
        assert HOSTS["a"] in commands
        for name, address in HOSTS.items():
            self.box[name].run(commands.replace(HOSTS["a"], address))
        a, b = self.box["a"], self.box["b"]
        for path in ("/etc/wssd/cert.pem", "/etc/wssd/key.pem"):
            b.put(path, a.run(["cat", path]).stdout)
        for one, other in ((a, b), (b, a)):
            one.put("/etc/mosquitto/certs/peer.pem", other.run(["cat", "/etc/mosquitto/certs/bridge.pem"]).stdout)
        self.cert = a.run(["cat", "/etc/wssd/cert.pem"]).stdout
        for name in HOSTS:
            self.disk[name] = self.box[name].run("tar -C /etc -cf - wssd wssd.conf mosquitto | base64").stdout

    # ---- hosts

    def broker(self, name):
        """As Debian's unit starts it."""
        self.box[name].run("mkdir -p /run/mosquitto && chown mosquitto /run/mosquitto")
        self.box[name].start("exec mosquitto -c /etc/mosquitto/mosquitto.conf")

    def gateway(self, name):
        self.wssd[name].append(self.box[name].start("exec wssd --config /etc/wssd.conf"))

    def harm(self, name, kind):
        box = self.box[name]
        if kind in ("power", "cable"):      # not even goodbye
            self.box["balancer"].run("ip link set to-%s down" % name)
        if kind == "power":                 # without the sysctl the kernel says goodbye for another minute
            box.run("echo 1 > /proc/sys/net/ipv4/tcp_orphan_retries")
            box.close()
            self.box["balancer"].run("ip link del to-%s" % name)
        if kind in ("processes", "broker"):
            box.run("kill -KILL $(pidof mosquitto)")
        if kind == "processes":
            box.run("kill -KILL $(pidof wssd)")

    def mend(self, name, kind):
        if kind == "power":
            box = self.box[name] = Box(name=name)
            box.run("base64 -d | tar -C /etc -xf -", input=self.disk[name])
            self.cable(name)
        if kind == "cable":
            self.box["balancer"].run("ip link set to-%s up" % name)
        if kind in ("power", "processes", "broker"):
            self.broker(name)
        if kind in ("power", "processes"):
            self.gateway(name)

    # ---- what is to be seen

    def ask(self, command):
        """HAProxy's answer on its socket."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5 * SLOW)
            s.connect(self.box["balancer"].path("/run/haproxy.sock"))
            s.sendall(command.encode() + b"\n")
            answer = b""
            while data := s.recv(65536):
                answer += data
        return answer.decode()

    def stat(self):
        """{host: its line of HAProxy's statistics}"""
        lines = self.ask("show stat").lstrip("# ").splitlines()
        rows = [dict(zip(lines[0].split(","), line.split(","))) for line in lines[1:] if line]
        return {r["svname"]: r for r in rows if r["svname"] in HOSTS}

    def wait_up(self, *names):
        self.box["balancer"].wait_socket("/run/haproxy.sock")
        until(lambda: all(s["status"] == "UP" and s["check_status"] == "L7OK" for n, s in self.stat().items() if n in names),
              15, lambda: "%s\n%s" % (self.stat(), "\n".join(b.logs() for b in self.box.values())))

    def wait_bridge(self):
        """A message gets over the bridge, both ways, and with it all that waited there."""
        self.probes += 1
        for one, other in ("ab", "ba"):
            topic = "probe/%s/%d" % (one, self.probes)
            self.box[one].run("mosquitto_pub -r -q 1 -t %s -m over" % topic)
            self.box[other].run("mosquitto_sub -q 1 -t %s -C 1 -W %d" % (topic, 20 * SLOW), timeout=25)

    def counters(self, name):
        """SIGUSR1 to wssd, and what it logs."""
        job = self.wssd[name][-1]
        here = job.here()
        self.box[name].run("kill -USR1 $(pidof wssd)")
        line = job.wait_log(r"counters: (.*)$", 5, here).group(1)
        return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", line)}

    def ended(self, name):
        """The lines of the connections that ended, of all lives."""
        return [m for job in self.wssd[name] for m in map(END.match, job.lines()) if m]

    def fleet(self, sources=SOURCES, **kw):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.cert)
        return Fleet(self.box["clients"], sources, BALANCER, context, NAME, **kw)

    def close(self, scan=True):
        for box in self.box.values():
            box.close(scan)


@pytest.fixture
def cluster():
    c = Cluster()
    yield c
    c.close()


def ends_in_silence(sock):
    """The peer says nothing (but perhaps a TLS alert) and closes."""
    try:
        while data := sock.recv(4096):
            if data[:1] != b"\x15":
                return False
    except ConnectionResetError:
        pass
    return True


def counted(lines):
    """{(address, port)} of the clients in a log."""
    return {(str(ipaddress.ip_address(m[1].strip("[]"))), int(m[2])) for m in lines if m[1] != CHECKER}


def checks(lines):
    """HAProxy's checks in the log, where none is to be, but for those that it reset before their head was read."""
    return [m for m in lines if m[1] == CHECKER and (m[6], m[9]) != ("0", "Connection reset by peer")]


@CROWD
@pytest.mark.parametrize("name, kind", [("b", "power"), ("a", "processes"),
                                        pytest.param("b", "cable", marks=pytest.mark.deep),
                                        pytest.param("b", "broker", marks=pytest.mark.deep)])
def test_a_host_dies_and_returns(cluster, name, kind):
    """power: it falls silent and has forgotten all; processes: wssd and the broker are killed; cable: it is cut off for a
    while; broker: mosquitto alone is killed. Host a makes the bridge, host b has it made."""
    other = "b" if name == "a" else "a"
    # a program on the host itself, whose broker is only cut off
    local = cluster.box[name].start("exec mosquitto_sub -h 127.0.0.1 -q 1 -t 'all/+' -F %p") if kind == "cable" else None
    fleet = cluster.fleet()
    all_ready = lambda: fleet.ready == len(SOURCES)  # noqa: E731
    print("\n%d clients connected and subscribed: %.2f s" % (len(SOURCES), fleet.until(all_ready)))
    at = {h: int(s["scur"]) for h, s in cluster.stat().items()}
    print("connections at each host:", at)
    assert sum(at.values()) == len(SOURCES) and min(at.values()) >= 0.4 * len(SOURCES)
    for h in HOSTS:
        assert at[h] <= cluster.counters(h)["clients"] <= at[h] + 1, "HAProxy and wssd differ about %s" % h    # 1: a check
    print("each publishes, all receive: %.2f s, %d deliveries" % (fleet.publish(1, fleet.all), fleet.total[1]))
    assert not fleet.ends, fleet.ends[:5]

    gone, start = at[name], time.monotonic()
    cluster.harm(name, kind)
    fleet.until(lambda: len(fleet.ends) >= gone)
    seen = time.monotonic() - start
    fleet.until(all_ready)
    back = time.monotonic() - start
    print("%s of host %s: noticed after %.2f s, all clients back after %.2f s" % (kind, name, seen, back))
    assert int(cluster.stat()[other]["scur"]) == len(SOURCES)
    # nobody lost the connection to the host that lives
    assert len({i for i, state, _ in fleet.ends if state == READY}) == gone
    if kind == "cable":     # so long that the bridge gives up, too
        count = "grep -c 'Connecting bridge (step 1)' /var/log/mosquitto/mosquitto.log"
        until(lambda: int(cluster.box[other].run(count).stdout) > 1, 20)
    fleet.publish(2, fleet.all)
    fleet.all[0].publish("all/kept", b"while %s was away" % name.encode(), retain=True)
    fleet.until(lambda: len(fleet.kept) == len(SOURCES))

    start = time.monotonic()
    cluster.mend(name, kind)
    cluster.wait_up(*HOSTS)
    print("host %s is up again after %.2f s" % (name, time.monotonic() - start))
    cluster.wait_bridge()
    print("and its broker has what it missed after %.2f s" % (time.monotonic() - start))
    if local:
        # QoS 1: over a line that broke one may come twice
        until(lambda: {s for s in local.lines() if s[:2] == "2 "} == {"2 %d" % c.index for c in fleet.all}, 5,
              lambda: "missing over the bridge, there are %r" % sorted(s for s in local.lines() if s[:2] == "2 "))
    fleet.kept.clear()
    for c in fleet.all[:gone]:
        c.end("moves")
    print("after its return, %d clients come again: %.2f s" % (gone, fleet.until(all_ready)))
    at = {h: int(s["scur"]) for h, s in cluster.stat().items()}
    print("connections at each host:", at)
    assert min(at.values()) >= 0.4 * len(SOURCES)
    print("each publishes, all receive: %.2f s" % fleet.publish(3, fleet.all))
    # the retained message is there on both hosts, and nothing came a second time over the bridge
    assert sorted(fleet.kept) == [(c.index, b"while %s was away" % name.encode(), 1) for c in fleet.all[:len(fleet.kept)]]
    assert len(fleet.kept) >= gone * 0.8
    for r in (1, 2):
        fleet.check(r, fleet.all)

    fleet.close()
    # each WebSocket is in a log, by the client's address and port, save those that a log lost with its host
    lost = gone if kind in ("power", "processes") else 0
    until(lambda: len(fleet.upgraded - counted(cluster.ended("a")) - counted(cluster.ended("b"))) <= lost, 10,
          lambda: "%d lost" % len(fleet.upgraded - counted(cluster.ended("a")) - counted(cluster.ended("b"))))
    logs = {h: counted(cluster.ended(h)) for h in HOSTS}
    assert logs["a"] | logs["b"] <= fleet.opened and not logs["a"] & logs["b"]
    assert {a for a, _ in logs[other]} == set(SOURCES)
    for h in HOSTS:
        until(lambda: cluster.counters(h)["clients"] <= 1)
        c = cluster.counters(h)
        assert c["bugs"] == 0 and c["refused"] == 0, c
        assert not [m[0] for m in checks(cluster.ended(h))]


def test_addresses(cluster):
    """Health checks leave no line and take no slot; a client's limit counts its own address, whatever it claims to be; and
    nobody gets past the balancer."""
    before = cluster.counters("b")
    log = cluster.wssd["b"][0]
    here = log.here()

    # one address may hold 4 connections at each host, and the others do not suffer from it
    greedy, honest = cluster.fleet([GREEDY] * 9), cluster.fleet(SOURCES[150:170])
    refused = lambda: [m for h in HOSTS for m in cluster.ended(h) if m[9] == "max-per-ip"]  # noqa: E731
    greedy.until(lambda: greedy.ready == 8 and len(greedy.ends) >= 3)
    honest.until(lambda: honest.ready == 20)
    assert not any(state == READY for _, state, _ in greedy.ends) and not honest.ends
    until(lambda: len(refused()) >= 3)
    assert {m[1] for m in refused()} == {GREEDY}, refused()
    greedy.close()
    honest.close()

    # a client's own head comes behind HAProxy's, and is no TLS
    with cluster.box["clients"].net():
        liar = socket.create_connection(BALANCER[socket.AF_INET], 5 * SLOW, (SOURCES[4], 0))
    head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack("!H4s4sHH", 12, bytes([192, 0, 2, 7]), bytes(4), 1, 2)
    with liar:
        source, port = liar.getsockname()
        liar.sendall(head)
        assert ends_in_silence(liar)
    lines = until(lambda: [m for h in HOSTS for m in cluster.ended(h) if (m[1], int(m[2])) == (source, port)])
    assert lines[0][4] == "-" and not any("192.0.2.7" in m[0] for h in HOSTS for m in cluster.ended(h)), lines[0][0]

    # a neighbour is not the balancer, whatever it sends; and the balancer must send a head
    for box, data, reason in (("a", head, "not from the proxy"),
                              ("balancer", b"\x16\3\1" + bytes(60), "no valid PROXY head")):
        with cluster.box[box].net():
            s = socket.create_connection((HOSTS["b"], 8443), 5 * SLOW)
        with s:
            source, port = s.getsockname()
            s.sendall(data)
            assert ends_in_silence(s)
        line = END.match(log.wait_log(r"^%s:%d .*" % (re.escape(source), port), 5, here)[0])
        assert line[9] == reason and line[4] == "-", line[0]

    # checks went on all the time
    until(lambda: cluster.counters("b")["handshakes"] >= before["handshakes"] + 14 + 4, 10)
    assert all(s["status"] == "UP" and s["chkdown"] == "0" for s in cluster.stat().values())
    for h in HOSTS:
        until(lambda: cluster.counters(h)["clients"] <= 1)
        lines = [m[0] for m in checks(cluster.ended(h)) if m[9] != "no valid PROXY head"]
        assert not lines, lines


@pytest.mark.deep
@pytest.mark.timeout(300 * SLOW)
def test_silence(cluster):
    """HAProxy is more patient than wssd, whose pings keep a connection that has nothing else to say."""
    fleet = cluster.fleet(SOURCES[:4])
    fleet.until(lambda: fleet.ready == 4)
    fleet.rest(150)
    assert not fleet.ends, fleet.ends
    fleet.publish(1, fleet.all)
    fleet.close()


@CROWD
def test_a_full_house(cluster):
    """More clients than both hosts take: HAProxy lets the rest wait, its checks still find a slot, and nobody is lost."""
    fleet = cluster.fleet(SOURCES * 2 + SOURCES[::2])
    fleet.until(lambda: fleet.ready == 480)
    fleet.rest(2.5)
    lost = [end for end in fleet.ends if end[1] == READY]
    assert fleet.ready == 480 and not lost, (lost[:5], cluster.stat())
    for h, s in cluster.stat().items():
        assert (s["status"], s["chkdown"], s["scur"]) == ("UP", "0", "240"), s
        assert cluster.counters(h)["refused"] == 0
    assert len(fleet.clients) == 500, "the rest waits"
    gone = [c for c in fleet.all if c.state == READY][:20]
    for c in gone:
        c.end("leaves")
        c.again += 60 * SLOW
    print("\n20 leave, 20 others come: %.2f s" % fleet.until(lambda: fleet.ready == 480))
    fleet.close()
