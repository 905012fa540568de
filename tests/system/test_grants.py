"""A running guest is given the agent, asks by it for more, gets it while its load is honest, and loses it when not."""

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab import libvirtd
from lab.definition import GuestSpec
from lab.guests import Guest, destroy_all, start_all
from lab.network import Networks, NetworkSpec
from tests.system.product import Product, installed, wait_for

pytestmark = [pytest.mark.guests, pytest.mark.root, pytest.mark.long, pytest.mark.req("A252", "T-CORE-12")]

QEMU_AGENT = "org.qemu.guest_agent.0"
OWN_CPU, OWN_MEMORY_KIB, OWN_PACKETS = 0.5, 192 * 1024, 300
MOST = 2
PERIOD_US = 100_000
KINDS = ("cpu", "memory", "packets")
OPENRC = (
    "exclusive",
    "starting",
    "started",
    "stopping",
    "inactive",
    "wasinactive",
    "failed",
    "daemons",
    "options",
    "tmp",
)
"""What OpenRC makes when it boots a system."""
ASKED_S = 45.0
"""An agent asks after ten seconds near its capacity; the host must see the need, and the guest must have started."""
BACK_S = 75.0
"""After thirty seconds without need, and as long again on a busy host."""


@dataclass(frozen=True)
class Stage:
    a: Guest
    b: Guest
    product: Product

    @property
    def domain(self) -> libvirt.virDomain:
        return libvirtd.connection().lookupByUUIDString(self.a.uuid)

    def quota(self) -> float:
        """Share of its vCPU that the hypervisor gives ``a`` now."""
        found = self.domain.schedulerParameters()
        return float(found["vcpu_quota"]) / float(found["vcpu_period"])

    def balloon_kib(self) -> int:
        return int(self.domain.info()[2])

    def grants(self, kind: str) -> list[dict[str, Any]]:
        limits = self.product.ask("limits")["limits"]
        return [one for one in limits if one["kind"] == kind and one.get("raised_from") is not None]

    def until(self, what: str, look: Callable[[], object], *, within_s: float) -> None:
        """Wait for it; where it never comes, say what is on record instead."""
        try:
            wait_for(what, look, within_s=within_s)
        except AssertionError as error:
            records = self.product.ask("journal", "show", "--last", "300")["records"]
            told = [one["body"].get("text") or one["body"] for one in records if one["kind"] in {"guest", "case"}]
            raise AssertionError(
                f"{error}; cases: {self.product.cases_of(self.a.domain)}; told: {told[-12:]}"
            ) from None

    def agent(self) -> dict[str, Any]:
        """What is heard of the agent in ``a``."""
        vms = self.product.ask("vms")["vms"]
        found: dict[str, Any] = next(vm["agent"] for vm in vms if vm["name"] == self.a.domain)
        return found


def policy(a: Guest, b: Guest) -> str:
    vms = [(a, f"budget = {{ packets_per_s = {OWN_PACKETS} }}"), (b, "")]
    return "\n".join(
        [
            'mode = "enforce"',
            "[grants]",
            f"cpu = {MOST}\nmemory = {MOST}\npackets = {MOST}\nheadroom = 0.02",
            f'[[network]]\nname = "test"\nbridge = "{a.network.bridge}"\ncidr = "{a.network.spec.cidr}"',
            *(
                f'[[vm]]\nname = "{vm.domain}"\ntenant = "{vm.spec.tenant}"\naddresses = ["{vm.address}"]\n{more}'
                for vm, more in vms
            ),
        ]
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        stack.enter_context(libvirtd.running())
        networks = stack.enter_context(Networks([NetworkSpec("test", "10.64.0.0/24")]))
        specs = [
            GuestSpec("grants-a", "red", "test", 0, memory_mib=MOST * OWN_MEMORY_KIB // 1024, channels=(QEMU_AGENT,)),
            GuestSpec("grants-b", "blue", "test", 1, work="web-server"),
        ]
        a, b = (Guest(spec, networks["test"]) for spec in specs)
        stack.callback(destroy_all, (a, b))
        start_all((a, b))
        b.work_start("web-server")
        domain = libvirtd.connection().lookupByUUIDString(a.uuid)
        domain.setSchedulerParameters({"vcpu_period": PERIOD_US, "vcpu_quota": int(OWN_CPU * PERIOD_US)})
        domain.setMemoryFlags(OWN_MEMORY_KIB, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        product = stack.enter_context(installed(Path("/run"), f"hvg-{secrets.token_hex(3)}"))
        path = tmp_path_factory.mktemp("policy") / "policy.toml"
        path.write_text(policy(a, b), encoding="utf-8")
        done = product.call("up", "--detach", "--policy", str(path))
        assert done.returncode == 0, done.stderr
        yield Stage(a, b, product)


@pytest.fixture
def agent(stage: Stage) -> Iterator[Stage]:
    """The agent runs in ``a``, which has nothing to do, and only what is its own."""
    if stage.agent()["hearing"] != "heard":
        install(stage)
    stage.until("nothing is granted any more", lambda: not any(map(stage.grants, KINDS)), within_s=BACK_S)
    yield stage
    stage.a.run("pkill -9 stress-ng; pkill -9 hping3; pkill -9 -f '[w]ork.py'; true")


def install(stage: Stage) -> str:
    """What a distribution's guest has at its start, and then the operator's one command."""
    ready = stage.a.run(
        f"mkdir -p {' '.join(f'/run/openrc/{name}' for name in OPENRC)} && touch /run/openrc/softlevel && "
        f"port=$(basename $(dirname $(grep -lx {QEMU_AGENT} /sys/class/virtio-ports/*/name))) && "
        "{ pgrep -x qemu-ga >/dev/null || qemu-ga -d -m virtio-serial -p /dev/$port; }"
    )
    assert ready.exit == 0, ready.output
    done = stage.product.call("agent", "install", stage.a.domain, timeout_s=120)
    assert done.returncode == 0, done.stderr
    wait_for("the agent is heard", lambda: stage.agent()["hearing"] == "heard", within_s=60)
    return done.stdout


def test_a_running_guest_is_given_a_port_and_the_agent(stage: Stage) -> None:
    """Without QEMU's guest agent: one sentence with the mend. With it: port, file, service, and it is heard."""
    refused = stage.product.call("agent", "install", stage.a.domain, timeout_s=120)
    assert refused.returncode != 0
    assert re.search(r"no QEMU guest agent answers .*install and start qemu-guest-agent in it", refused.stderr)
    assert "Traceback" not in refused.stderr
    said = install(stage)
    assert "started by OpenRC" in said
    assert stage.a.run("rc-service hypervigil-agent status").exit == 0
    stage.a.run("kill -9 $(pgrep -f 'sbin/hypervigil-agen[t]' | tail -1)")
    wait_for("its supervisor has started it again", lambda: stage.agent()["hearing"] == "heard", within_s=30)
    assert "has a port" in install(stage), "doing it again is no error"


def test_honest_load_gets_cpu_and_gives_it_back(agent: Stage) -> None:
    assert agent.quota() == pytest.approx(OWN_CPU), "installing took some, which is its own again"
    job = agent.a.spawn("stress-ng --cpu 1 --timeout 300")
    agent.until("its quota is raised", lambda: agent.quota() > 1.2 * OWN_CPU, within_s=ASKED_S)
    grant = agent.grants("cpu")[0]
    assert grant["raised_from"] == pytest.approx(OWN_CPU)
    assert OWN_CPU < grant["value"] <= MOST * OWN_CPU + 1e-3
    assert "asks for more and uses" in grant["reason"]
    agent.a.stop(job)
    agent.until("its quota is its own again", lambda: agent.quota() == pytest.approx(OWN_CPU), within_s=BACK_S)


def test_honest_load_gets_memory_up_to_its_cap(agent: Stage) -> None:
    assert agent.balloon_kib() == pytest.approx(OWN_MEMORY_KIB, rel=0.1)
    job = agent.a.spawn("hv-hold --seconds 300")
    agent.until("its balloon is larger", lambda: agent.balloon_kib() > 1.15 * OWN_MEMORY_KIB, within_s=ASKED_S)
    assert agent.grants("memory")[0]["value"] <= MOST * OWN_MEMORY_KIB
    agent.a.stop(job)
    agent.until("its balloon is its own again", lambda: agent.balloon_kib() <= 1.1 * OWN_MEMORY_KIB, within_s=BACK_S)


def test_honest_load_gets_packets_and_an_attacker_loses_all(agent: Stage) -> None:
    """By what its NIC attempts, without a word of the agent; then it floods, while it asks for CPU as well."""
    job = agent.a.spawn(f"hv-load --rate 60 --seconds 300 http://{agent.b.address}/")
    agent.until("its budget is raised", lambda: agent.grants("packets"), within_s=ASKED_S)
    agent.a.spawn("stress-ng --cpu 1 --timeout 300")
    agent.until("its quota is raised", lambda: agent.quota() > 1.2 * OWN_CPU, within_s=2 * ASKED_S)
    flood = agent.a.spawn(f"timeout 60 hping3 -q --flood -S -p 81 {agent.b.address}")
    agent.until(
        "it is an attacker",
        lambda: any(case["role"] == "attacker" for case in agent.product.cases_of(agent.a.domain)),
        within_s=30,
    )
    agent.until("all grants are gone", lambda: not agent.grants("packets") + agent.grants("cpu"), within_s=5)
    assert agent.quota() <= OWN_CPU + 1e-3
    agent.a.stop(flood)
    agent.a.stop(job)
