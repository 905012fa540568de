"""Addresses by DHCP on real taps: what a trusted server gives works at once, and nothing else does."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hypervigil.host import policyfile
from hypervigil.host.inventory import compile_ports
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader
from hypervigil.hypervisor.sensors.leases import held, joined
from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import Leasing, PortPolicy
from hypervigil.model.traffic import ForgedKind
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import difference
from tests.integration.dhcp import ACK, DECLINE, DISCOVER, NAK, OFFER, RELEASE, REQUEST, answer, held_leases, message
from tests.integration.dhcp import request as asks
from tests.integration.wirelab import Segment, Tap, arp, ethernet, ipv4, ipv6, namespace, udp

pytestmark = pytest.mark.root

MACS = {name: f"52:54:00:ad:00:0{number}" for number, name in enumerate(("one", "two", "three"), start=1)}
SERVER, ROGUE = "52:54:00:ad:ff:01", "52:54:00:ad:ff:02"
GATEWAY, HERS, ANOTHER = "10.78.0.1", "10.78.0.50", "10.78.0.51"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
LEASING = Leasing((SERVER,), "10.78.0.0/24")
NET = (
    'mode = "enforce"\n[[network]]\nname = "net"\nbridge = "br0"\ncidr = "10.78.0.0/24"\ntrusted_dhcp_macs = ["{}"]\n{}'
)
SOON_S, TICK_S = 0.05, 0.02


class Rig:
    """Three ports, a DHCP server and one that is not trusted, which are no ports, on one bridge."""

    def __init__(self, pin_dir: Path) -> None:
        segment = Segment("br0")
        self.taps = {name: segment.tap(f"l{name}", mac) for name, mac in MACS.items()}
        self.server, self.rogue = segment.tap("server", SERVER), segment.tap("rogue", ROGUE)
        for tap in (*self.taps.values(), self.server, self.rogue):
            tap.send(ethernet(tap.mac, EVERYBODY, 0x0806, arp(1, tap.mac, "0.0.0.0", "10.99.99.99")))
        self.pin_dir = pin_dir
        self.plane = DataPlane.open(pin_dir, max_ports=64)
        self.reader = DataPlaneReader(self.plane.sensor_fds())

    def bind(self, mode: Mode = Mode.ENFORCE) -> None:
        """All ports anew, with no leases left."""
        for mac in MACS.values():
            self.plane.detach(PortId(mac))
        for name in MACS:
            self.attach(name, mode)

    def attach(self, name: str, mode: Mode = Mode.ENFORCE, **changes) -> None:
        tap = self.taps[name]
        policy = PortPolicy(
            PortId(tap.mac),
            VmId(name),
            tap.name,
            tap.ifindex,
            mode,
            network="net",
            leasing=LEASING,
            gateways=(GATEWAY,),
        )
        self.plane.attach(replace(policy, **changes))

    def exchange(self, name: str, address: str = HERS, lease_s: int = 3600, server: Tap | None = None) -> bool:
        """A whole exchange; whether each frame arrived."""
        guest, server = self.taps[name], server or self.server
        offer, ack = (message(kind, guest.mac, yours=address, lease_s=lease_s, server=GATEWAY) for kind in (OFFER, ACK))
        asked = message(REQUEST, guest.mac, requested=address, server=GATEWAY)
        return (
            crosses(guest, server, asks(guest.mac, message(DISCOVER, guest.mac)))
            and crosses(server, guest, answer(server.mac, offer, by=GATEWAY))
            and crosses(guest, server, asks(guest.mac, asked))
            and crosses(server, guest, answer(server.mac, ack, by=GATEWAY, to=address, to_mac=guest.mac))
        )

    def told(self, name: str, kind: int = ACK, server: Tap | None = None, **changes) -> bool:
        """One answer, asked for or not; whether it arrived."""
        guest, server = self.taps[name], server or self.server
        said = {"yours": HERS, "lease_s": 3600, "mac": guest.mac, **changes}
        return crosses(server, guest, answer(server.mac, message(kind, **said), by=GATEWAY))

    def speaks(self, name: str, address: str) -> bool:
        """Whether a datagram from this address crosses."""
        guest = self.taps[name]
        return crosses(guest, self.server, ethernet(guest.mac, SERVER, 0x0800, ipv4(address, GATEWAY, 17, udp(5, 6))))

    def announces(self, name: str, address: str) -> bool:
        """Whether it can say that it has this address."""
        guest = self.taps[name]
        return crosses(guest, self.server, ethernet(guest.mac, EVERYBODY, 0x0806, arp(1, guest.mac, address, address)))

    def slot(self, name: str) -> int:
        return self.plane.ports()[PortId(MACS[name])]

    def forged(self, name: str) -> dict[ForgedKind, int]:
        counts = self.reader.counters()["forged"][self.slot(name)]
        return {kind: int(counts[kind]) for kind in ForgedKind}


def crosses(source: Tap, destination: Tap, frame: bytes) -> bool:
    destination.received()
    source.send(frame)
    return destination.gets(frame, SOON_S)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    pin_dir = Path("/sys/fs/bpf") / f"hvl-{secrets.token_hex(4)}"
    with namespace():
        made = Rig(pin_dir)
        try:
            yield made
        finally:
            made.reader.close()
            remove_all(pin_dir)
            for tap in (*made.taps.values(), made.server, made.rogue):
                tap.close()


HIS, HIS6, NOBODYS, NOBODYS6, HOST6 = "10.78.0.60", "fd78::60", "10.78.0.61", "fd78::61", "fd78::1"


@pytest.mark.req("T-NET-1")
def test_who_has_no_known_address_and_no_server_may_use_what_is_nobody_elses(rig: Rig) -> None:
    rig.bind()
    rig.attach("one", leasing=Leasing((), free=True))
    rig.attach("two", leasing=None, addresses=(HIS, HIS6))
    guest = rig.taps["one"]

    def by_ipv6(address: str) -> bool:
        return crosses(guest, rig.server, ethernet(guest.mac, SERVER, 0x86DD, ipv6(address, HOST6, 17, udp(5, 6))))

    assert rig.speaks("one", NOBODYS)
    assert rig.announces("one", NOBODYS)
    assert by_ipv6(NOBODYS6)
    assert not rig.speaks("one", HIS)
    assert not rig.announces("one", HIS)
    assert not rig.speaks("one", GATEWAY)
    assert not rig.announces("one", GATEWAY)
    assert not by_ipv6(HIS6)
    forged = rig.forged("one")
    assert (forged[ForgedKind.IPV4], forged[ForgedKind.ARP], forged[ForgedKind.IPV6]) == (2, 2, 1)
    assert rig.speaks("two", HIS)
    # It relays for others, which is no forgery where nobody is trusted to give addresses.
    assert crosses(guest, rig.server, asks(guest.mac, message(DISCOVER, MACS["three"])))
    rig.attach("one", leasing=None)
    assert rig.speaks("one", HIS), "the control: before, it could be anybody"
    rig.attach("one", leasing=Leasing((), free=True))
    rig.attach("two", leasing=None, addresses=())
    assert rig.speaks("one", HIS), "what nobody has any more is free"


@pytest.mark.req("T-NET-1", "A109")
def test_what_the_server_gives_works_at_once_and_anothers_does_not(rig: Rig) -> None:
    rig.bind(Mode.MONITOR)
    assert rig.exchange("one")
    assert rig.speaks("one", HERS)
    assert rig.speaks("two", HERS), "the control: unprotected, anybody may be it"
    assert rig.announces("two", HERS)
    rig.bind()
    before = rig.forged("one")
    assert rig.exchange("one")
    assert rig.announces("one", HERS)
    assert rig.speaks("one", HERS)
    assert rig.forged("one") == before
    assert not rig.speaks("two", HERS)
    assert not rig.announces("two", HERS)
    assert not rig.speaks("one", ANOTHER)
    assert rig.exchange("two", ANOTHER)
    assert rig.speaks("two", ANOTHER)
    assert not rig.speaks("two", HERS)


@pytest.mark.req("T-NET-1")
def test_who_never_asked_may_use_none_but_ask(rig: Rig) -> None:
    rig.bind()
    for address in (HERS, GATEWAY, "169.254.7.7"):
        assert not rig.speaks("one", address)
        assert not rig.announces("one", address)
    assert not crosses(
        rig.taps["one"], rig.server, ethernet(MACS["one"], EVERYBODY, 0x0806, arp(1, MACS["one"], "0.0.0.0", HERS))
    ), "nor probe for one"
    assert crosses(rig.taps["one"], rig.server, asks(MACS["one"], message(DISCOVER, MACS["one"])))
    rig.attach("one", leasing=None)
    assert rig.speaks("one", HERS), "on a network without trusted servers it may, as ever"


def test_who_has_no_lease_yet_may_be_left_what_is_nobodys(rig: Rig) -> None:
    """For guests that had their addresses before their ports were known."""
    rig.bind()
    assert rig.exchange("one")
    rig.attach("three", addresses=("10.78.0.70",))
    rig.attach("two", leasing=replace(LEASING, free=True))
    assert rig.speaks("two", ANOTHER)
    for taken in (HERS, "10.78.0.70", GATEWAY):
        assert not rig.speaks("two", taken)
    assert rig.exchange("two", "10.78.0.80")
    assert rig.speaks("two", "10.78.0.80")
    assert not rig.speaks("two", ANOTHER), "it has one now"


@pytest.mark.req("T-NET-1")
def test_what_is_no_trusted_servers_word_to_this_port_teaches_nothing(rig: Rig) -> None:
    rig.bind()
    assert rig.told("one", server=rig.rogue), "the guest hears it"
    assert rig.told("one", OFFER)
    assert rig.told("one", NAK)
    assert rig.told("one", mac=MACS["two"], yours=ANOTHER), "another's, to everybody"
    assert rig.told("one", lease_s=None)
    assert rig.told("one", yours="0.0.0.0")
    assert not rig.speaks("one", HERS)
    assert not rig.speaks("one", ANOTHER)
    before = held_leases(rig.plane._maps, rig.slot("one")).refused
    assert rig.told("one", yours="10.79.0.5")
    assert rig.told("one", yours=GATEWAY)
    assert held_leases(rig.plane._maps, rig.slot("one")).refused == before + 2
    assert not rig.speaks("one", "10.79.0.5"), "out of the network's range"
    assert not rig.speaks("one", GATEWAY), "the gateway's"
    assert rig.told("one")
    assert rig.speaks("one", HERS), "the control: all was as it should be"


def test_a_lease_ends_and_can_be_renewed(rig: Rig) -> None:
    rig.bind()
    began = time.monotonic()
    assert rig.exchange("one", lease_s=1)
    assert rig.speaks("one", HERS) or time.monotonic() - began > 0.9
    while rig.speaks("one", HERS):
        assert time.monotonic() - began < 5
    assert time.monotonic() - began > 0.9
    assert rig.exchange("one")
    assert rig.speaks("one", HERS)


@pytest.mark.req("T-NET-1")
def test_nobody_asks_in_anothers_name(rig: Rig) -> None:
    two = rig.taps["two"]
    forged = (
        asks(two.mac, message(REQUEST, MACS["one"], requested=ANOTHER)),
        asks(two.mac, message(RELEASE, MACS["one"], own=HERS)),
        asks(two.mac, message(REQUEST, two.mac)[:-1]),
    )
    rig.bind(Mode.MONITOR)
    assert all(crosses(two, rig.server, frame) for frame in forged), "the control: the server would heed it"
    rig.bind()
    before = rig.forged("two")[ForgedKind.MAC]
    assert not any(crosses(two, rig.server, frame) for frame in forged)
    assert rig.forged("two")[ForgedKind.MAC] == before + 3


@pytest.mark.parametrize("kind", [RELEASE, DECLINE])
def test_what_one_holds_no_other_is_given_until_it_is_given_back(rig: Rig, kind: int) -> None:
    rig.bind()
    one = rig.taps["one"]
    assert rig.exchange("one")
    assert rig.exchange("two"), "a server may be talked into it by a client's name for itself"
    assert not rig.speaks("two", HERS)
    assert held_leases(rig.plane._maps, rig.slot("two")).refused == 1
    assert rig.speaks("one", HERS)
    said = message(kind, one.mac, **({"own": HERS} if kind == RELEASE else {"requested": HERS}))
    by = HERS if kind == RELEASE else "0.0.0.0"
    assert crosses(one, rig.server, asks(one.mac, said, by=by))
    assert not rig.speaks("one", HERS)
    assert rig.exchange("two")
    assert rig.speaks("two", HERS)


def test_a_port_holds_four_and_loses_the_one_given_longest_ago(rig: Rig) -> None:
    rig.bind()
    addresses = [f"10.78.0.{n}" for n in range(60, 65)]
    for address in (*addresses[:4], addresses[0], addresses[4]):
        assert rig.exchange("one", address)
        given = _now()
        while _now() - given < TICK_S:  # the programs look at the clock once in a tick of the kernel's
            time.sleep(TICK_S / 4)
    assert [rig.speaks("one", address) for address in addresses] == [True, False, True, True, True]
    assert held_leases(rig.plane._maps, rig.slot("one")).evicted == 1
    assert rig.exchange("two", addresses[1]), "what was lost is free"
    assert rig.speaks("two", addresses[1])


def test_a_lease_outlives_the_process_and_goes_with_its_port(rig: Rig) -> None:
    rig.bind()
    assert rig.exchange("one")
    rig.plane.close()
    rig.plane = DataPlane.open(rig.pin_dir)
    assert rig.speaks("one", HERS)
    rig.attach("one", quarantine_allows=("10.78.0.9",))
    assert rig.speaks("one", HERS), "another policy for it changes nothing"
    leases = held(rig.reader.leases(), {slot: port for port, slot in rig.plane.ports().items()}, _now())
    assert leases == {PortId(MACS["one"]): (HERS,)}, "and the sensors see it"
    rig.plane.detach(PortId(MACS["one"]))
    rig.attach("one")
    assert not rig.speaks("one", HERS)
    assert rig.exchange("two")
    assert rig.speaks("two", HERS)


def test_the_policys_word_goes_before_a_lease(rig: Rig) -> None:
    rig.bind()
    assert rig.exchange("one")
    rig.attach("two", addresses=(HERS,))
    assert rig.speaks("two", HERS)
    assert not rig.speaks("one", HERS)
    assert rig.exchange("one")
    assert not rig.speaks("one", HERS)
    assert rig.exchange("two"), "its own anyway"
    assert rig.speaks("two", HERS)


@pytest.mark.req("T-NET-1")
def test_a_server_that_is_a_vm_gives_addresses_past_the_bridge(rig: Rig) -> None:
    for mac in MACS.values():
        rig.plane.detach(PortId(mac))
    server = rig.taps["three"]
    policy = policyfile.parse(
        NET.format(server.mac, 'between = "open"\n') + f'[[vm]]\nname = "three"\naddresses = ["{GATEWAY}"]\n'
    )
    inventory = Inventory(
        tuple(Vm(VmId(n), n, 1, 1, (Nic(PortId(t.mac), t.name, t.ifindex, "br0"),)) for n, t in rig.taps.items())
    )
    compiled = compile_ports(inventory, policy)
    slots = {rig.plane.attach(port): port.port for port in compiled.ports}
    rig.plane.change_fabric(difference(None, compiled.fabric))
    try:
        assert rig.exchange("one", server=server)
        assert int(rig.reader.crossings()["straight"][rig.slot("three")].sum()) > 0
        assert not rig.exchange("one", server=rig.taps["two"]), "who is not trusted serves nobody"
        found = joined(inventory, held(rig.reader.leases(), slots, _now()))
        assert [port.leases for port in compile_ports(found, policy).ports] == [(HERS,), (), ()]
        one, two = rig.taps["one"], rig.taps["two"]
        datagram = ethernet(one.mac, server.mac, 0x0800, ipv4(HERS, GATEWAY, 17, udp(5, 6)))
        assert crosses(one, server, datagram)
        stolen = ethernet(two.mac, server.mac, 0x0800, ipv4(HERS, GATEWAY, 17, udp(5, 6)))
        assert not crosses(two, server, stolen)
    finally:
        for port in compiled.ports:
            rig.plane.detach(port.port)
        rig.plane.change_fabric(difference(compiled.fabric, compile_ports(Inventory(()), policy).fabric))


def _now() -> Instant:
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))
