"""A victim of a SYN flood from invented addresses serves its honest clients: who begins has to prove its address."""

import contextlib
import ctypes
import secrets
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervigil.host import policyfile
from hypervigil.host.inventory import compile_ports
from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import Fabric, FabricChange, PortPolicy
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import difference
from tests.integration.percpu import summed
from tests.integration.proving import (
    ATTACKER,
    CLIENT,
    CLIENT6,
    HOUR_NS,
    PORT,
    SERVER,
    SERVER6,
    Rig,
    mac_of,
    now_ns,
    rigged,
)
from tests.integration.spoofed import (
    Counter,
    Flood,
    goodput,
    segment,
    served,
)
from tests.integration.wirelab import Tap, ethernet, ipv4, ipv6, run, tcp

pytestmark = [pytest.mark.root, pytest.mark.req("T-NET-7")]

PER_S, SECONDS = 100.0, 3.0
FLOOD_PER_S = 4000.0
IN = Direction.IN
SYN, RST = TrafficClass.SYN, TrafficClass.RST


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged() as made:
        yield made


@pytest.mark.parametrize("address", [SERVER, SERVER6])
def test_a_flood_from_invented_addresses_shuts_a_server_up_and_with_proof_it_does_not(rig: Rig, address: str) -> None:
    family = "six" if ":" in address else "four"
    with rig.serving():
        usual = goodput(rig.client, address, PORT, PER_S, SECONDS)
    assert usual >= 0.9 * PER_S, "the baseline"
    with rig.serving(), Flood(rig.attacker, rig.server.mac, address, PORT).running(40_000, FLOOD_PER_S) as flood:
        meanwhile = goodput(rig.client, address, PORT, PER_S, SECONDS)
    assert flood.sent > 10_000
    assert rig.arrived.packets()[family] > 0.9 * flood.sent
    assert meanwhile < 0.2 * usual, "the control"
    before, arrived = rig.counters(), rig.arrived.packets()
    with rig.proof(), rig.serving():
        with Flood(rig.attacker, rig.server.mac, address, PORT).running(40_000, FLOOD_PER_S) as flood:
            meanwhile = goodput(rig.client, address, PORT, PER_S, SECONDS)
        after = rig.counters()
    assert flood.sent > 10_000
    assert rig.arrived.packets()[family] == arrived[family], "not one is delivered"
    assert meanwhile >= 0.8 * usual
    limited = after["by_class"]["limited"][IN] - before["by_class"]["limited"][IN]
    assert limited[SYN] == after["answered"] - before["answered"]
    assert limited[SYN] - limited[RST] == flood.sent, "each is counted, and one more for each client that proved itself"
    assert limited[RST] == after["proven"] - before["proven"] == 1


# --- honest clients ---
@pytest.mark.parametrize("offload", [True, False], ids=["sums by the device", "sums by the guest"])
@pytest.mark.parametrize("way", ["bridged", "routed", "by the host itself"])
@pytest.mark.parametrize("version", [4, 6])
def test_an_honest_client_proves_itself_without_knowing_it(rig: Rig, way: str, version: int, offload: bool) -> None:
    address = SERVER if version == 4 else SERVER6
    rig.forget()
    who = {"bridged": rig.client, "routed": rig.far}.get(way)
    for one in filter(None, (who, rig.server)):
        one.reckons_sums(not offload)
    before = rig.counters()
    with rig.proof(), rig.serving():
        took = [served(who, address, PORT, timeout_s=3) for _ in range(3)]
    after = rig.counters()
    assert all(one is not None and one < 0.5 for one in took), took
    assert after["answered"] - before["answered"] == after["proven"] - before["proven"] == 1, "the first time only"
    assert len(rig.sources()) == 1


def test_many_honest_clients_meet_the_flood_for_the_first_time(rig: Rig) -> None:
    rig.forget()
    took = []
    with rig.proof(), rig.serving(), Flood(rig.attacker, rig.server.mac, SERVER, PORT).running(60_000, FLOOD_PER_S):
        took = [served(rig.client, SERVER, PORT, f"10.60.1.{number}", 3) for number in range(1, 41)]
    assert all(one is not None and one < 0.5 for one in took), took
    assert len(rig.sources()) == 40


# --- what spoofing reaches ---
def octets(rig: Rig) -> dict[str, int]:
    """What the kernel holds for each map."""
    found = {}
    for name, fd in rig.plane._maps.items():
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        found[name] = next(int(line.split()[1]) for line in lines if line.startswith("memlock"))
    return found


@pytest.mark.parametrize("way", ["bridged", "routed"])
def test_a_million_invented_sources_fill_nothing(rig: Rig, way: str) -> None:
    rig.forget()
    by, mac = rig.attacker, rig.server.mac
    if way == "routed":
        by, mac = rig.far, mac_of(rig.far.device)
    count = 1_000_000 if way == "bridged" else 50_000
    before, held, arrived = rig.counters(), octets(rig), rig.arrived.packets()
    with rig.proof(), rig.serving():
        assert served(rig.client, SERVER, PORT, timeout_s=3)
        with contextlib.closing(Flood(by, mac, SERVER, PORT)) as flood:
            flood.send(count)
        assert served(rig.client, SERVER, PORT, timeout_s=3), "it is remembered meanwhile"
        after = rig.counters()
    limited = after["by_class"]["limited"][IN][SYN] - before["by_class"]["limited"][IN][SYN]
    assert limited == count + 1
    assert rig.arrived.packets()["four"] == arrived["four"]
    assert len(rig.sources()) == 1, "who did not answer is not kept"
    assert octets(rig) == held, "no map has grown"
    assert len(rig.reader.peers()) <= kernel.max_entries(rig.plane._maps["hv_peers"])


def test_answers_are_not_the_ports_own_frames(rig: Rig) -> None:
    rig.forget()
    run("nft", "flush", "ruleset")
    marked = [Counter("bridge", hook, marked="meta mark != 0") for hook in ("prerouting", "forward", "postrouting")]
    seen = Counter("inet", "prerouting", answers=f"ip saddr {SERVER} tcp flags syn", marked="meta mark != 0")
    at_attacker = Counter("inet", "prerouting", rig.attacker, answers=f"ip saddr {SERVER} tcp flags syn")
    before = rig.counters()
    with rig.proof():
        for by, mac, count in ((rig.attacker, rig.server.mac, 2000), (rig.far, mac_of(rig.far.device), 500)):
            with contextlib.closing(Flood(by, mac, SERVER, PORT)) as flood:
                flood.send(count, 20_000)
        deadline = time.monotonic() + 5
        while seen.packets()["answers"] < 500 or at_attacker.packets()["answers"] < 2000:
            assert time.monotonic() < deadline, (seen.packets(), at_attacker.packets())
            time.sleep(0.05)
    after = rig.counters()
    assert at_attacker.packets()["answers"] == 2000, "one each"
    sent = after["by_class"]["packets"][Direction.OUT] - before["by_class"]["packets"][Direction.OUT]
    sent[TrafficClass.ARP] = 0  # its kernel may be asked where it is meanwhile
    assert not sent.any()
    assert (after["forged"] == before["forged"]).all()
    assert seen.packets()["marked"] == 0
    assert [one.packets()["marked"] for one in marked] == [0, 0, 0]


# --- cookies ---
def siphash(key: tuple[int, int], data: bytes) -> int:
    """SipHash-2-4 as its authors describe it, 64 bits."""
    mask = (1 << 64) - 1
    k0, k1 = key
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def turn(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)

    end = bytes(-(len(data) + 1) % 8) + bytes([len(data)])
    for (word,) in struct.iter_unpack("<Q", data + end):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_hash_is_the_one_that_is_known() -> None:
    key = struct.unpack("<QQ", bytes(range(16)))
    assert siphash((key[0], key[1]), bytes(range(15))) == 0xA129CA6149BE45E5


def cookie(rig: Rig, source: str, source_port: int, *, periods_ago: int = 0) -> int:
    """What the kernel asks this source for."""
    secret = layout.Secret()
    assert kernel.lookup(rig.plane._maps["hv_secret"], ctypes.c_uint32(0), secret)
    slot, period = rig.plane.ports()[rig.port], (now_ns() >> 33) - periods_ago
    ends = layout.pack_address(source) + layout.pack_address(SERVER6 if ":" in source else SERVER)
    data = ends + struct.pack("<QQ", source_port << 48 | PORT << 32 | slot, period & 0xFFFFFFFF)
    return siphash((secret.key[0], secret.key[1]), data) & 0x7FFFFFFF


def reset(rig: Rig, source: str, source_port: int, number: int) -> bytes:
    segment = struct.pack("!HHIIBBHHH", source_port, PORT, number, 0, 0x50, 4, 0, 0, 0)
    if ":" in source:
        return ethernet(rig.attacker.mac, rig.server.mac, 0x86DD, ipv6(source, SERVER6, 6, segment))
    return ethernet(rig.attacker.mac, rig.server.mac, 0x0800, ipv4(source, SERVER, 6, segment))


@pytest.mark.parametrize("source", ["10.130.0.1", "fd66::77"])
def test_only_the_right_number_from_the_right_place_in_time_proves_anything(rig: Rig, source: str) -> None:
    rig.forget()
    other = "fd66::78" if ":" in source else "10.130.0.2"
    before, arrived = rig.counters(), rig.arrived.packets()["resets"]
    with rig.proof():
        right = cookie(rig, source, 4000)
        wrong = [
            *(reset(rig, source, 4000, secrets.randbits(32)) for _ in range(500)),
            *(reset(rig, source, 4000, right ^ 1 << bit) for bit in range(31)),
            reset(rig, other, 4000, right),
            reset(rig, source, 4001, right),
            reset(rig, source, 4000, cookie(rig, source, 4000, periods_ago=3)),
            reset(rig, source, 4000, cookie(rig, source, 4000, periods_ago=-1)),
        ]
        rig.attacker.send(*wrong)
        assert rig.sources() == []
        assert rig.counters()["proven"] == before["proven"]
        assert rig.arrived.packets()["resets"] - arrived == len(wrong), "they are as good as any other reset"
        rig.attacker.send(reset(rig, source, 4000, cookie(rig, source, 4000)))
        assert [bytes(key.address) for key in rig.sources()] == [layout.pack_address(source)], "the control"
    after = rig.counters()
    assert after["proven"] - before["proven"] == 1
    assert rig.arrived.packets()["resets"] - arrived == len(wrong), "what proves is not delivered"
    assert after["failures"] - before["failures"] == len(wrong), "nor is it a sign that the VM tries in vain"


def syn(rig: Rig, source: str, *, number: int = 1, mac: str | None = None) -> bytes:
    frame = bytearray(tcp(4000, PORT, 2))
    frame[4:8] = number.to_bytes(4, "big")
    return ethernet(mac or rig.attacker.mac, rig.server.mac, 0x0800, ipv4(source, SERVER, 6, bytes(frame)))


@pytest.fixture
def tapped(rig: Rig) -> Iterator[Tap]:
    """A bound port that is a tap, as real guests have; we are the guest."""
    tap = Tap("hvstap", "52:54:00:5a:00:09")
    run("ip", "link", "set", tap.name, "master", "br0")
    while "state forwarding" not in run("bridge", "-d", "link", "show", "dev", tap.name):
        time.sleep(0.01)
    addresses = ("10.60.0.9", "fd60::9")
    rig.plane.attach(PortPolicy(PortId(tap.mac), VmId("tap"), tap.name, tap.ifindex, Mode.ENFORCE, addresses))
    rig.forget()
    tap.send(ethernet(tap.mac, rig.attacker.mac, 0x0800, ipv4(addresses[0], ATTACKER, 17, bytes(8))))
    yield tap
    rig.plane.detach(PortId(tap.mac))
    tap.close()


@pytest.mark.parametrize("version", [4, 6])
def test_the_answer_is_the_syn_turned_round_and_never_acceptable(rig: Rig, tapped: Tap, version: int) -> None:
    source, own, l4 = ("10.133.0.1", "10.60.0.9", 34) if version == 4 else ("fd66::133", "fd60::9", 54)
    ends = (rig.attacker.mac, source, 4000), (tapped.mac, own, PORT)
    rig.plane.set_proof(PortId(tapped.mac), now_ns() + HOUR_NS)

    def answers(number: int) -> bytes:
        """What comes back for a SYN with this number."""
        asked = segment(*ends, flags=2, number=number, hops=7)
        got = rig.attacker.ask(asked, lambda frame: frame[l4 : l4 + 4] == asked[l4 + 2 : l4 + 4] + asked[l4 : l4 + 2])
        acknowledged = int.from_bytes(got[l4 + 8 : l4 + 12], "big")
        assert got == segment(*ends[::-1], flags=0x12, number=number, acknowledged=acknowledged), "sums and all"
        assert (acknowledged - number - 1) & 0xFFFFFFFF >= 0x10000, "else the client would take it for the server's"
        return got[l4 + 8 : l4 + 12]

    wanted = int.from_bytes(answers(1), "big")
    for number in (wanted - 1, wanted - 1401):
        turned = int.from_bytes(answers(number), "big")
        assert turned != wanted
    rig.attacker.send(segment(*ends, flags=4, number=wanted))
    assert [bytes(key.address) for key in rig.sources()] == [layout.pack_address(source)]
    proven = segment(*ends, flags=2, number=1)
    assert proven not in tapped.received(), "nothing reached the guest"
    rig.attacker.send(proven)
    assert proven in tapped.received(1), "until it was proven"
    rig.plane.set_proof(PortId(tapped.mac), 0)


def test_a_proof_is_good_for_minutes_and_the_limit_for_as_long_as_it_says(rig: Rig) -> None:
    rig.forget()
    source = "10.130.0.9"
    arrived = rig.arrived.packets()["four"]
    with rig.proof():
        rig.attacker.send(reset(rig, source, 4000, cookie(rig, source, 4000)), syn(rig, source))
        assert rig.arrived.packets()["four"] - arrived == 1, "it is proven"
        [key] = rig.sources()
        for age_s, more in ((290, 2), (301, 2)):
            old = layout.Proven(now_ns() - age_s * 10**9)
            kernel.update(rig.plane._maps["hv_proven"], key, old)
            rig.attacker.send(syn(rig, source))
            assert rig.arrived.packets()["four"] - arrived == more
    rig.attacker.send(syn(rig, source))
    assert rig.arrived.packets()["four"] - arrived == 3, "lifted"
    with rig.proof(for_ns=300_000_000):
        rig.attacker.send(syn(rig, source))
        assert rig.arrived.packets()["four"] - arrived == 3
        deadline = time.monotonic() + 5
        while rig.arrived.packets()["four"] - arrived == 3:
            assert time.monotonic() < deadline, "it ends in the kernel by itself"
            rig.attacker.send(syn(rig, source))


def test_monitor_mode_counts_and_delivers(rig: Rig) -> None:
    rig.forget()
    rig.bind(Mode.MONITOR)
    before, arrived = rig.counters(), rig.arrived.packets()["four"]
    with rig.proof():
        rig.attacker.send(*(syn(rig, f"10.131.0.{number}") for number in range(1, 101)))
    after = rig.counters()
    rig.bind()
    assert rig.arrived.packets()["four"] - arrived == 100
    assert after["by_class"]["limited"][IN][SYN] - before["by_class"]["limited"][IN][SYN] == 100
    assert after["answered"] == before["answered"]


SEGMENT = tcp(4000, PORT, 2)
HIDDEN = {
    "a fragment": ipv4("10.132.0.1", SERVER, 6, SEGMENT[:16], fragment=0x2000),
    "a fragment too small to tell": ipv4("10.132.0.1", SERVER, 6, SEGMENT[:8], fragment=0x2000),
    "from a group": ipv4("224.0.0.9", SERVER, 6, SEGMENT),
    "from nobody": ipv4("0.0.0.0", SERVER, 6, SEGMENT),
    "from itself": ipv4(SERVER, SERVER, 6, SEGMENT),
}
"""No client sends such SYNs: answers would go astray, or there is nothing to answer."""
BEHIND = {
    "options": ipv6("fd66::9", SERVER6, 60, b"\x06\0\1\4" + bytes(4) + SEGMENT),
    "more options than anybody sends": ipv6(
        "fd66::9", SERVER6, 60, b"\x3c\0\1\4\0\0\0\0" * 7 + b"\6\0\1\4\0\0\0\0" + SEGMENT
    ),
}


@pytest.mark.parametrize("how", [*HIDDEN, *BEHIND])
def test_a_syn_that_hides_is_neither_delivered_nor_answered(rig: Rig, how: str) -> None:
    rig.forget()
    packet = HIDDEN.get(how) or BEHIND[how]
    frame = ethernet(rig.attacker.mac, rig.server.mac, 0x0800 if how in HIDDEN else 0x86DD, packet)
    at_server = delivered(rig, frame)
    assert at_server, "the control"
    before = rig.counters()
    with rig.proof():
        assert not delivered(rig, frame)
    after = rig.counters()
    assert after["answered"] == before["answered"]
    assert (after["by_class"]["limited"][IN] - before["by_class"]["limited"][IN]).sum() == 1


def delivered(rig: Rig, frame: bytes) -> bool:
    """Whether the server's device gets exactly that."""
    before = int(rig.server.run("cat", "/sys/class/net/eth0/statistics/rx_packets"))
    rig.attacker.send(frame)
    return int(rig.server.run("cat", "/sys/class/net/eth0/statistics/rx_packets")) > before


# --- where a policy says who may reach whom ---
RULES = f"""
mode = "enforce"
[[vm]]
name = "server"
addresses = ["{SERVER}", "{SERVER6}"]
[[vm]]
name = "client"
addresses = ["{CLIENT}", "{CLIENT6}"]
[[network]]
name = "br0"
bridge = "br0"
outside = true
[[path]]
name = "served"
from = ["vm:client", "outside"]
to = "vm:server"
services = "tcp/{PORT}"
"""


@pytest.fixture
def ruled(rig: Rig) -> Iterator[Rig]:
    """Client and server are VMs of a network, and both may only do what the policy allows."""
    guests = {"server": rig.server, "client": rig.client}
    found = Inventory(
        tuple(
            Vm(VmId(name), name, 1, 1, (Nic(PortId(one.mac), one.device, one.ifindex, "br0"),))
            for name, one in guests.items()
        )
    )
    compiled = compile_ports(found, policyfile.parse(RULES))
    for port in compiled.ports:
        rig.plane.attach(port)
    rig.plane.change_fabric(difference(Fabric(), compiled.fabric))
    rig.forget()
    yield rig
    rig.plane.detach(PortId(rig.client.mac))
    rig.plane.change_fabric(FabricChange((), whole=True))
    rig.bind()


def remembered(rig: Rig) -> int:
    """Conversations that were remembered for the server, over all CPUs."""
    return int(summed(rig.plane._maps["hv_crossings"], rig.plane.ports()[rig.port], layout.Crossings).flows)


@pytest.mark.parametrize("address", [SERVER, SERVER6])
def test_a_client_behind_a_policy_proves_itself_too(ruled: Rig, address: str) -> None:
    with ruled.proof(), ruled.serving():
        took = [served(ruled.client, address, PORT, timeout_s=3) for _ in range(3)]
    assert all(one is not None and one < 0.5 for one in took), took
    assert len(ruled.sources()) == 1


def test_who_has_not_proven_itself_takes_no_conversation_and_gets_no_answer_that_is_denied(ruled: Rig) -> None:
    flood = Flood(ruled.attacker, ruled.server.mac, SERVER, PORT)
    denied = Flood(ruled.attacker, ruled.server.mac, SERVER, PORT + 1)
    with contextlib.closing(flood), contextlib.closing(denied):
        before = remembered(ruled)
        flood.send(500)
        assert remembered(ruled) - before == 500, "the control"
        with ruled.proof():
            flood.send(500, first=1000)
            assert remembered(ruled) - before == 500
            answered = ruled.counters()["answered"]
            denied.send(500)
            assert ruled.counters()["answered"] == answered
