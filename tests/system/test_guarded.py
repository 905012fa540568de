"""With everything dead: a guest that starts and a NIC that is plugged in pass nothing on a guarded bridge."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import libvirt
import pytest

from hypervigil.hypervisor.enforcer.undo import undo_all
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.wire.messages import Guarding
from lab import libvirtd
from lab.definition import GuestSpec
from lab.guests import Guest, destroy_all, start_all
from lab.network import Networks, NetworkSpec
from lab.place import Place
from tests.integration.enforcing import Driver, awaited, enforcer
from tests.system.observed import Wire

pytestmark = [pytest.mark.guests, pytest.mark.root, pytest.mark.req("T-NET-1", "A204")]

HOT_MAC, OFFICE_MAC = "52:54:00:77:00:01", "52:54:00:77:00:02"


@dataclass(frozen=True)
class Stage:
    networks: Networks
    a: Guest
    b: Guest
    driver: Driver

    def bind(self, *guests: Guest) -> None:
        """Compile the policies of these guests, with the guard on the network ``test`` alone."""
        policies = [policy(PortId(guest.mac), guest.interface, guest) for guest in guests]
        outcomes = self.driver.bind(policies, guarding=Guarding(bridges=(self.networks["test"].bridge,)))
        assert all(outcome.ok for outcome in outcomes), outcomes


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        stack.enter_context(libvirtd.running())
        specs = [NetworkSpec("test", "10.61.0.0/24"), NetworkSpec("office", "10.62.0.0/24")]
        networks = stack.enter_context(Networks(specs))
        guests = [Guest(GuestSpec(f"test-{n}", "red", "test", i), networks["test"]) for i, n in enumerate("ab")]
        stack.callback(destroy_all, guests)
        start_all(guests)
        yield Stage(networks, *guests, stack.enter_context(enforcer()))


def policy(port: PortId, interface: str, guest: Guest) -> PortPolicy:
    index = socket.if_nametoindex(interface)
    return PortPolicy(port, VmId(guest.uuid), interface, index, Mode.ENFORCE, (guest.address,))


def reaches(place: Place, target: str) -> bool:
    return place.run(f"ping -q -c 3 -i 0.2 -W 1 {target}").exit == 0


def sent(interface: str) -> int:
    with open(f"/sys/class/net/{interface}/statistics/rx_packets", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read())


def plug(guest: Guest, bridge: str, mac: str) -> str:
    """Plug a NIC into a running guest and bring it up there; its tap."""
    domain = libvirtd.connection().lookupByName(guest.domain)
    taps = set(interfaces(domain))
    domain.attachDeviceFlags(
        f"<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/><model type='virtio'/></interface>",
        libvirt.VIR_DOMAIN_AFFECT_LIVE,
    )
    [tap] = set(interfaces(domain)) - taps
    return tap


def interfaces(domain: libvirt.virDomain) -> list[str]:
    done = subprocess.run(
        ["virsh", "-q", "domiflist", domain.name()], check=True, capture_output=True, text=True, timeout=20
    )
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]


def up_in(guest: Guest, mac: str, address: str) -> str:
    """Bring up the NIC with a MAC in the guest; its name there."""

    def name() -> str:
        return guest.run(f"grep -l {mac} /sys/class/net/*/address").output.strip().split("/")[-2:-1] or ""

    [found] = awaited("the NIC in the guest", name, 20)
    assert guest.run(f"ip addr add {address}/24 dev {found} && ip link set {found} up").exit == 0
    return found


def test_nothing_passes_that_has_no_policy_and_nobody_need_be_alive(stage: Stage) -> None:
    a, b, driver = stage.a, stage.b, stage.driver
    network, office = stage.networks["test"], stage.networks["office"]
    assert reaches(a, b.address), "the control: without the guard and without policies"
    stage.bind(a, b)
    assert reaches(a, b.address)
    driver.kill()
    assert reaches(a, b.address), "bound ports need nobody"

    # A guest that starts cold and acts before anybody can talk to it: its new tap has no policy.
    wire = Wire(network.bridge, a.mac)
    a.start(cold=True, on_boot=f"ping -q -i 0.2 -c 5 {b.address}")
    job = a.boot_job
    assert job is not None
    awaited("its first attempts", lambda: a.run("pgrep ping").exit == 1, 20)
    told = a.stop(job)
    assert told is not None
    assert "0 received" in told.output
    assert sent(a.interface) > 0, "the control: it did send"
    assert not reaches(a, network.gateway)
    assert not reaches(b, a.address)
    assert len(wire.seen()) == 0, "not a frame of it is on the bridge"

    # A NIC that is plugged into a running guest: on the guarded bridge it passes nothing.
    hot = Wire(network.bridge, HOT_MAC)
    tap = plug(b, network.bridge, HOT_MAC)
    name = up_in(b, HOT_MAC, "10.61.0.200")
    assert b.run(f"arping -c 3 -w 2 -I {name} {network.gateway}").exit != 0
    assert sent(tap) > 0, "the control: it did send"
    assert len(hot.seen()) == 0
    assert reaches(b, network.gateway), "its bound NIC goes on"

    # The next enforcer lets through what gets a policy, and only that.
    driver.start()
    stage.bind(a, b)
    awaited("the guest that started", lambda: reaches(a, b.address), 5)
    assert len(wire.seen()) > 0
    assert b.run(f"arping -c 2 -w 2 -I {name} {network.gateway}").exit != 0
    assert len(hot.seen()) == 0

    # On a bridge that is not named a new tap is let through at once.
    plug(b, office.bridge, OFFICE_MAC)
    began = time.monotonic()
    up_in(b, OFFICE_MAC, office.address(0))
    awaited("the other bridge", lambda: reaches(b, office.gateway), 5)
    print(f"a NIC on a bridge that is not guarded passes after {time.monotonic() - began:.2f} s")
    assert driver.notices == [], "and nobody is accused of it"

    # `hypervigil off`, with nobody alive: everything passes again.
    driver.kill()
    done = undo_all(driver.layout.run_dir, driver.layout.enforcer_state, driver.layout.pin_dir)
    assert "removed the guard" in done
    assert not [line for line in done if "NOT" in line]
    assert reaches(a, b.address)
    assert reaches(b, office.gateway)
    wire.close()
    hot.close()
