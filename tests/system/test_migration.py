"""Live migration of real guests between two hosts: each is bound, judged by its own past and heard where it arrives.

Three guests move one after the other: b, which talks with a; c, with which b talks; a, which forges.
Both hosts have the same policy.
"""

import secrets
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from lab import libvirtd
from lab.definition import GuestSpec
from lab.guests import Guest, destroy_all, start_all
from lab.network import Network, Networks, NetworkSpec
from lab.otherhost import WIRE, OtherHost
from lab.residue import look, residue
from tests.system.observed import Wire
from tests.system.product import Product, installed, wait_for

pytestmark = [pytest.mark.guests, pytest.mark.root, pytest.mark.long, pytest.mark.timeout(900)]

LEARNED = 40
NOBODY = "10.61.0.99"
PINGS, EVERY_S = 300, 0.1


@dataclass(frozen=True)
class Stage:
    network: Network
    a: Guest
    b: Guest
    c: Guest
    here: Product
    there: OtherHost


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    before = look()
    with ExitStack() as stack:
        stack.enter_context(libvirtd.running())
        networks = stack.enter_context(Networks([NetworkSpec("net1", "10.61.0.0/24")]))
        network = networks["net1"]
        guests = [Guest(GuestSpec(name, "t", "net1", n), network) for n, name in enumerate("abc")]
        stack.callback(destroy_all, guests)
        start_all(guests)
        there = stack.enter_context(OtherHost(network))
        here = stack.enter_context(installed(Path("/run"), f"hvt-{secrets.token_hex(3)}"))
        for product in (here, there.product):
            product.up(policy(network, guests))
        yield Stage(network, *guests, here, there)
    assert residue(before) == []


def policy(network: Network, guests: list[Guest]) -> str:
    """The same on both hosts: members of one tenant talk to each other wherever they run."""
    lines = [
        f'[[network]]\nname = "net1"\n{network.place}\ncidr = "{network.spec.cidr}"\nuplinks = ["{WIRE}"]',
        f'between = "open"\nspans_hosts = true\ngateways = ["{network.gateway}"]',
    ]
    lines += [f'[[vm]]\nname = "{one.domain}"\ntenant = "t"\naddresses = ["{one.address}"]' for one in guests]
    return "\n".join(lines) + "\n"


def ethertype(frame: bytes) -> int:
    return struct.unpack_from("!H", frame, 12)[0]


def from_nobody(frame: bytes) -> bool:
    return ethertype(frame) == 0x0800 and frame[26:30] == socket.inet_aton(NOBODY)


def move(stage: Stage, guest: Guest) -> float:
    """Have the other host take it; how long that took."""
    began = time.monotonic()
    guest.migrate(stage.there.take)
    return time.monotonic() - began


def quota(host: libvirt.virConnect, guest: Guest) -> int:
    """What a guest's vCPUs may use, in microseconds a period; below 0 all of it."""
    return int(host.lookupByName(guest.domain).schedulerParameters()["vcpu_quota"])


def names(product: Product) -> set[str]:
    return {vm.name for vm in product.vms()}


def test_a_guest_talks_on_is_known_by_its_past_and_announced(stage: Stage, tmp_path: Path) -> None:
    here, there, b = stage.here, stage.there.product, stage.b
    wait_for("its history", lambda: here.vm(b.domain)["samples"] >= LEARNED, within_s=120)
    file = tmp_path / "b.history"
    learned = here.vm(b.domain)["samples"]
    here.ask("history", "export", str(file), "--vm", b.domain)
    there.ask("history", "import", str(file))
    job = b.spawn(f"ping -n -i {EVERY_S} -c {PINGS} -W 1 {stage.a.address}")
    with Wire(WIRE, b.mac) as wire:
        took = move(stage, b)
        arrived = wait_for("it at the other host", lambda: b.domain in names(there) and there.vm(b.domain), within_s=20)
        assert arrived["samples"] >= learned
        wait_for("the first to see it gone", lambda: b.domain not in names(here), within_s=20)
        told = wait_for(
            "the end of its pings", lambda: b.stop(job) if b.run("pgrep -x ping").exit else None, within_s=60
        )
        frames = wire.seen()
    received = told.output.count("bytes from")
    print(f"moved in {took:.1f} s, {PINGS - received} of {PINGS} pings lost at {1 / EVERY_S:.0f} a second")
    assert received >= 0.8 * PINGS
    assert any(ethertype(frame) == 0x8035 for frame in frames), "switches are told where it is"
    assert [case for case in (*here.cases(), *there.cases()) if case.name == b.domain] == []
    assert stage.a.run(f"ping -q -c 3 -i 0.2 -W 1 {b.address}").exit == 0, "it is reached, too"


def test_who_is_there_already_talks_with_a_guest_while_it_comes(stage: Stage) -> None:
    """It has a tap there for all the time that it still runs here."""
    there, b, c = stage.there.product, stage.b, stage.c
    assert b.domain in names(there), "it has moved before"
    before = quota(libvirtd.connection(), c)
    stage.here.ask("limit", c.domain, "--cpu", "0.5", "--for", "10m")
    wait_for("a limit by libvirt", lambda: quota(libvirtd.connection(), c) != before, within_s=10)
    job = b.spawn(f"ping -n -i {EVERY_S} -c {PINGS} -W 1 {c.address}")
    took = move(stage, c)
    wait_for("its end where nobody ordered it", lambda: quota(stage.there.connection, c) == before, within_s=20)
    told = wait_for("the end of its pings", lambda: b.stop(job) if b.run("pgrep -x ping").exit else None, within_s=60)
    received = told.output.count("bytes from")
    print(f"moved in {took:.1f} s, {PINGS - received} of {PINGS} pings lost at {1 / EVERY_S:.0f} a second")
    assert received >= 0.8 * PINGS


def test_not_a_forged_frame_leaves_while_its_sender_moves(stage: Stage) -> None:
    there, a = stage.there.product, stage.a
    with Wire(WIRE, a.mac) as wire:
        # To this host itself, so that from there it has to cross the wire.
        a.spawn(f"hping3 -q -S -p 80 -a {NOBODY} -i u5000 {stage.network.gateway}")
        wait_for("the first host's notice of it", lambda: stage.here.cases_of(a.domain), within_s=30)
        move(stage, a)
        wait_for("it at the other host", lambda: a.domain in names(there), within_s=20)
        case = wait_for(
            "the other host's notice of it",
            lambda: next((case for case in there.cases() if case.name == a.domain), None),
            within_s=30,
        )
        assert any("forged" in fact.kind or "IPv4" in fact.text for fact in case.evidence), case.evidence
        forged = [frame for frame in wire.seen() if from_nobody(frame)]
        assert forged == []
        there.off()
        wait_for("the control: without the product they leave", lambda: any(map(from_nobody, wire.seen())), within_s=20)
