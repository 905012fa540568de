"""The whole product on real guests: purity, blindness to payload, survival, and what holds with everything dead.

One boot for all tests of this file: guests a, b and c on one network, Hypervigil in enforce mode.
"""

import random
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hypervigil.entrypoints.control_client import ControlError, ask
from hypervigil.entrypoints.layout import Layout
from hypervigil.wire.control import ShowStatus
from lab import libvirtd
from lab.definition import GuestSpec
from lab.guests import Guest, start_all
from lab.network import Network, Networks, NetworkSpec
from tests.system.product import Product, installed, kill, wait_for

pytestmark = [pytest.mark.guests, pytest.mark.timeout(900)]

FLOOD = "timeout 60 hping3 -q --flood -S -p 80 {target}"


class Stage:
    """Three guests on a network, and the product watching them."""

    def __init__(self, network: Network, guests: dict[str, Guest], product: Product) -> None:
        self.network = network
        self.guests = guests
        self.product = product
        self.policy = policy(network, guests)

    def calm(self) -> None:
        """End every attack, free everybody, and wait until nobody is under suspicion."""
        for guest in self.guests.values():
            guest.run("pkill -9 hping3; true")
        for name in self.guests:
            self.product.call("release", self.guests[name].domain)

        def quiet() -> bool:
            return all(vm["level"] == "level1" and not vm["limits"] for vm in self.product.ask("vms")["vms"])

        wait_for("everybody at Level 1", quiet, within_s=60)


def policy(network: Network, guests: dict[str, Guest]) -> str:
    """What the operator of this little host wrote."""
    lines = [
        'mode = "enforce"',
        "[[network]]",
        f'name = "{network.spec.name}"',
        f'bridge = "{network.bridge}"',
        f'cidr = "{network.spec.cidr}"',
    ]
    for guest in guests.values():
        lines += ["[[vm]]", f'name = "{guest.domain}"', f'addresses = ["{guest.address}"]']
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        stack.enter_context(libvirtd.running())
        networks = stack.enter_context(Networks([NetworkSpec("net1", "10.61.0.0/24")]))
        network = networks["net1"]
        guests = {n: Guest(GuestSpec(n, "t", "net1", i), network) for i, n in enumerate("abc")}
        for guest in guests.values():
            stack.callback(guest.destroy)
        start_all(list(guests.values()))
        product = stack.enter_context(installed(Path("/run"), f"hvt-{secrets.token_hex(3)}"))
        product.up(policy(network, guests))
        built = Stage(network, guests, product)
        guests["b"].work_start("web-server")
        for name in "ac":
            guests[name].work_start(f"web-client:{guests['b'].address}")
        domain = guests["a"].domain
        wait_for("a history of a", lambda: product.vm(domain)["samples"] >= 30, within_s=90)
        yield built


@pytest.fixture
def calm(stage: Stage) -> Iterator[Stage]:
    stage.calm()
    yield stage
    stage.calm()


@pytest.mark.req("T-CORE-9")
def test_the_judge_has_no_rights_and_no_collector(stage: Stage) -> None:
    pid = stage.product.pids()["monitor"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert set(status["Uid"].split()) != {"0"}
    assert "0" not in status["Uid"].split()
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[capabilities], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    inet = {
        line.split()[column]
        for table, column in (
            ("tcp", 9),
            ("udp", 9),
            ("raw", 9),
            ("tcp6", 9),
            ("udp6", 9),
            ("packet", 8),
            ("netlink", 9),
        )
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    }
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            assert target[8:-1] not in inet, f"{descriptor} is a socket to a network"
            continue
        if target.startswith(("anon_inode:[eventpoll]", "pipe:", "/dev/null")):
            continue
        path = Path(target.removesuffix(" (deleted)"))
        allowed = (stage.product.state_dir / "monitor", stage.product.run_dir)
        assert any(path.is_relative_to(a) for a in allowed), f"the judge holds {target}"
        mode = descriptor.stat().st_mode
        assert stat.S_ISREG(mode), f"the judge holds {target}, which is no regular file"


@pytest.mark.req("T-CORE-9")
def test_only_the_enforcer_is_root(stage: Stage) -> None:
    roots = {
        name
        for name, pid in stage.product.pids().items()
        if Path(f"/proc/{pid}/status").read_text().split("Uid:\t")[1].split()[1] == "0"
    }
    assert roots == {"enforcer", "supervisor"}, "the supervisor stands in for an init system, nothing else has root"


@pytest.mark.req("T-CORE-5", "A200")
def test_no_payload_is_ever_kept(calm: Stage) -> None:
    a, b, product = calm.guests["a"], calm.guests["b"], calm.product
    markers = [f"HVMARK{secrets.token_hex(12)}" for _ in range(100)]
    b.run("pkill hv-sink; true")
    sink = b.spawn(
        'nc -u -l -k -p 9999 > /tmp/sink || python3 -c "import socket; s=socket.socket(socket.AF_INET, '
        "socket.SOCK_DGRAM); s.bind(('', 9999)); f=open('/tmp/sink','ab',0)\nwhile 1: f.write(s.recv(65536))\""
    )
    script = (
        "import socket,sys\n"
        "u=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
        "i=socket.socket(socket.AF_INET,socket.SOCK_RAW,1)\n"
        "import struct\n"
        "for n,m in enumerate(sys.argv[2:]):\n"
        "  p=(m*8).encode()\n"
        "  u.sendto(p,(sys.argv[1],9999)); u.sendto(p,(sys.argv[1],53))\n"
        "  h=struct.pack('!BBHHH',8,0,0,n,1)+p\n"
        "  c=sum(struct.unpack('!%dH'%(len(h)//2),h)); c=(c>>16)+(c&65535); c+=c>>16\n"
        "  i.sendto(h[:2]+struct.pack('!H',~c&65535)+h[4:],(sys.argv[1],0))\n"
        "  t=socket.create_connection((sys.argv[1],80),5)\n"
        "  t.sendall(b'GET /'+p+b' HTTP/1.0\\r\\n\\r\\n'); t.recv(100); t.close()\n"
    )
    sent = a.run(f"python3 -c \"$(cat <<'X'\n{script}\nX\n)\" {b.address} {' '.join(markers)}", timeout_s=120)
    assert sent.exit == 0, sent.output
    arrived = wait_for(
        "markers at b", lambda: b.run("cat /tmp/sink | wc -c").output.strip() not in {"", "0"}, within_s=20
    )
    assert arrived, "the control: payload does cross the network"
    b.stop(sink)
    needles = [marker.encode() for marker in markers]
    for root in (product.state_dir, product.run_dir):
        for path in root.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not any(needle in data for needle in needles), f"payload in {path}"
    for name, pid in product.pids().items():
        assert not any(needle in chunk for chunk in memory(pid) for needle in needles), f"payload in memory of {name}"


def memory(pid: int) -> Iterator[bytes]:
    """Everything a process has mapped and can be read: what a core dump of it would hold."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if "r" not in rights or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                mem.seek(start)
                yield mem.read(end - start)
            except OSError:
                continue


@pytest.mark.req("T-CORE-3", "A206")
def test_a_flood_is_judged_from_both_ends(calm: Stage) -> None:
    a, b, product = calm.guests["a"], calm.guests["b"], calm.product
    job = a.spawn(FLOOD.format(target=b.address))
    attacker = wait_for(
        "a verdict on a",
        lambda: next(
            (c for c in product.cases_of(a.domain) if c["role"] == "attacker" and c["closed_at"] is None), None
        ),
        within_s=15,
    )
    assert attacker["attack"] == "flood"
    victim = wait_for(
        "a verdict on b",
        lambda: next((c for c in product.cases_of(b.domain) if c["role"] == "victim"), None),
        within_s=15,
    )
    assert victim["target"] in {a.domain, None}
    assert not [c for c in product.cases_of(calm.guests["c"].domain) if c["role"] == "attacker"]
    in_force = [x for x in product.ask("limits")["limits"] if x["name"] == a.domain and x["state"] == "in-force"]
    assert in_force
    assert all(x["to"] for x in in_force), "every limit has an end"
    a.stop(job)


@pytest.mark.req("T-CORE-11", "A204")
def test_any_process_may_die_during_an_attack(calm: Stage) -> None:
    a, b, product = calm.guests["a"], calm.guests["b"], calm.product
    chance = random.Random(20261123)
    job = a.spawn(FLOOD.format(target=b.address).replace("60", "170"))
    wait_for("a limit on a", lambda: product.vm(a.domain)["limits"], within_s=15)
    records = product.ask("status")["journal"]["records"]
    took: dict[str, float] = {}
    for turn in range(20):
        time.sleep(chance.uniform(0.1, 1.5))
        names = (
            [("monitor", "sensors", "enforcer", "gateway", "supervisor")[turn % 5]]
            if turn < 16
            else ["monitor", "sensors", "enforcer"]
        )
        before = product.pids()
        for name in names:
            kill(before[name])
        began = time.monotonic()

        def back(before: dict[str, int] = before, names: list[str] = names) -> bool:
            try:
                now = product.pids()
            except (OSError, ValueError):
                return False
            return all(now[n] != before[n] and Path(f"/proc/{now[n]}").exists() for n in names) and sees(product)

        wait_for(f"{names} back", back, within_s=15)
        took[f"{turn} {' '.join(names)}"] = time.monotonic() - began
        assert delivered(b, a, 1.0) < 500, f"after killing {names} the flood is through"
    print({who: round(seconds, 2) for who, seconds in took.items()})
    late = {who: seconds for who, seconds in took.items() if seconds > 2.0}
    assert late == {}, "each is back within two seconds"
    a.stop(job)
    checked = product.ask("journal", "verify")
    assert checked["records"] >= records
    shown = product.ask("journal", "show", "--last", "10000")["records"]
    assert [r for r in shown if r["kind"] == "gap"], "the gaps are in the journal"
    assert next(c for c in product.cases_of(a.domain))["role"] == "attacker", "no verdict is lost"
    again = product.ask("journal", "replay")
    assert again["verdicts"] > 0
    assert again["mismatches"] == []


def sees(product: Product) -> bool:
    """Whether every part is connected and sees; asked without starting a program, which takes long on busy cores."""
    places = Layout(product.run_dir, product.state_dir, product.places.pin_dir)
    try:
        return bool(ask(places.control_socket, ShowStatus(), timeout_s=1)["ready"])
    except ControlError:
        return False


def delivered(target: Guest, source: Guest, seconds: float) -> float:
    """Packets per second that arrive at the target, by its own interface's count."""

    def count() -> int:
        return int(target.run("cat /sys/class/net/e*/statistics/rx_packets").output.split()[0])

    before, began = count(), time.monotonic()
    time.sleep(seconds)
    return (count() - before) / (time.monotonic() - began)


@pytest.mark.req("A204")
def test_with_everything_dead_nothing_forged_passes(calm: Stage) -> None:
    a, b, product = calm.guests["a"], calm.guests["b"], calm.product
    pids = product.pids()
    for name in ("supervisor", "enforcer", "monitor", "sensors", "gateway"):
        kill(pids[name])
    wait_for("all dead", lambda: not any(Path(f"/proc/{p}/exe").exists() for p in pids.values()), within_s=5)
    forged = a.run(f"hping3 -q -c 200 -i u2000 -a 10.61.0.77 -S -p 80 {b.address}; true", timeout_s=30)
    assert forged.exit == 0
    seen = b.run("ip neigh show 10.61.0.77; cat /proc/net/snmp").output
    assert "10.61.0.77" not in seen, "b never heard of the forged sender"
    product.call("off")
    product.up(calm.policy)


@pytest.mark.req("A16")
def test_bad_input_is_one_sentence_and_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    product = stage.product
    before = product.ask("topology")
    bad = tmp_path / "bad.toml"
    bad.write_text('mode = "enforce"\n[boundz]\nfactor = 2\n')
    cases = [
        ("policy", "apply", str(bad)),
        ("policy", "apply", str(tmp_path / "absent.toml")),
        ("case", "c999999"),
        ("limit", "nobody", "--packets", "5", "--for", "10s"),
        ("limit", stage.guests["a"].domain, "--for", "10s"),
        ("limit", stage.guests["a"].domain, "--packets", "5", "--for", "ever"),
        ("release", "nobody"),
        ("up",),
        ("journal", "verify", "--file", str(tmp_path / "none.db")),
    ]
    for arguments in cases:
        done = product.call(*arguments)
        assert done.returncode != 0, arguments
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stderr.strip(), arguments
        assert len(done.stderr.strip().splitlines()) <= 4, done.stderr
    assert product.ask("topology") == before
