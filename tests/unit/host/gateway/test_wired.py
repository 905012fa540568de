"""The gateway between its neighbours: channels from the enforcer's desk, words to the monitor, answers back."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hypervigil.entrypoints.layout import Layout
from hypervigil.host.gateway.process import GatewayConfig, run
from hypervigil.host.inventory import AddressBook
from hypervigil.host.journal import Kind
from hypervigil.host.monitor.conductor import Conductor
from hypervigil.host.monitor.links import InboundLink, listen
from hypervigil.hypervisor.channels import fetch
from hypervigil.hypervisor.enforcer.channels import ChannelDesk
from hypervigil.model.grants import HostSize
from hypervigil.model.guest import Hearing
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.policy import Policy
from hypervigil.model.vm import Inventory, Vm
from hypervigil.wire import guest
from hypervigil.wire.gateway import FromGateway
from tests.fuzz.words import SAMPLING, TALKERS, VALUES
from tests.unit.host.monitor.test_conductor import FakeEngines, FakeHost

VM = VmId("d305389d-a6a9-4eda-9ac7-c6789abb0b92")
PATIENCE_S = 30.0


class Host:
    """An enforcer's desk, a monitor and QEMU's end of one channel on one loop; the gateway has a thread."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(directory / "run", directory / "state", directory / "pin")
        self.layout.monitor_dir.mkdir(parents=True)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(directory / "agent.sock"))
        self.socket.listen(1)
        self.socket.setblocking(False)
        self.vm = Vm(VM, "web-1", 1, 1024, (), False, str(directory / "agent.sock"))
        self.journal = FakeHost()
        self.link: InboundLink[FromGateway] = InboundLink(
            "gateway",
            FromGateway,
            joined=self._joined,
            hear=lambda message: self.conductor.heard(message, message.at),
            gone=self._gone,
            uids=frozenset({os.getuid()}),
        )
        self.conductor = Conductor(
            policy=Policy(),
            hrem=FakeEngines(),
            hsem=FakeEngines(),
            book=AddressBook(),
            journal=self.journal,
            enforcer=self.journal,
            gateway=self.link,
            host=HostSize(4, 8e6),
            wall=float,
        )
        self.conductor.inventory(Inventory((self.vm,)), Instant(1.0))

    def _joined(self) -> None:
        self.conductor.gateway_joined()

    def _gone(self) -> None:
        self.conductor.gateway_gone()

    def channel(self, vm: VmId) -> str:
        """As libvirt tells it."""
        assert vm == VM
        return str(self.vm.channel)

    def gateway(self, stop: threading.Event) -> None:
        """As its process runs it, until it is stopped."""
        run(GatewayConfig(self.layout.gateway_socket, lambda vm, _path: fetch(self.layout.channels_socket, vm)), stop)

    async def until(self, condition: Callable[[], bool]) -> None:
        async def look() -> None:
            while not condition():  # noqa: ASYNC110 - what is awaited has no event
                await asyncio.sleep(0.01)

        await asyncio.wait_for(look(), PATIENCE_S)

    def hearing(self) -> Hearing:
        return self.conductor.agents.state(VM).hearing


def report(sequence: int) -> bytes:
    told = guest.Report1(1, 7, sequence, 1000 * sequence, 1, 0, 0, 1000, VALUES, SAMPLING, TALKERS)
    return msgspec.json.encode(told) + b"\n"


async def story(host: Host) -> None:
    loop = asyncio.get_running_loop()
    desk = ChannelDesk(host, gateway_uid=os.getuid())
    serving = asyncio.create_task(host.link.serve(listen(host.layout.gateway_socket, mode=0o600)))
    async with await asyncio.start_unix_server(desk.serve, path=host.layout.channels_socket):
        stop = threading.Event()
        gateway = asyncio.create_task(asyncio.to_thread(host.gateway, stop))
        try:
            there, _ = await asyncio.wait_for(loop.sock_accept(host.socket), PATIENCE_S)
            with there:
                await host.until(lambda: host.hearing() is Hearing.UNKNOWN)
                greeting = await asyncio.wait_for(loop.sock_recv(there, 4096), PATIENCE_S)
                assert guest.parse_to_guest(greeting.strip()) == guest.Ask(1, "hello")
                await loop.sock_sendall(there, report(1) + b"garbage\n" + report(2))
                await host.until(lambda: host.hearing() is Hearing.HEARD)
                await host.until(lambda: host.conductor.agents.state(VM).untaken == 1)
            # QEMU let go of it: the gateway comes again by itself.
            there, _ = await asyncio.wait_for(loop.sock_accept(host.socket), PATIENCE_S)
            there.close()
            stop.set()
            await host.until(lambda: not host.link.connected)
            assert host.hearing() is Hearing.CLOSED
        finally:
            stop.set()
            await gateway
    serving.cancel()
    assert [one.kind for one in host.journal.recorded(Kind.GUEST)] == ["agent-heard"]


@pytest.mark.req("A226")
def test_what_a_guest_says_comes_to_the_monitor_and_its_answer_back(tmp_path: Path) -> None:
    host = Host(tmp_path)
    asyncio.run(story(host))
    host.socket.close()
