"""What the agent says of traffic against what was really sent, on a tap in a network namespace, by hand-made frames."""

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from hypervigil.model.guest import GuestMetric, Zone
from hypervigil.wire import guest
from hypervigil.wire.guest import Ask, LevelChanged, Report1, Report2, SetLevel
from tests.integration.test_agent import AGENT, Channel
from tests.integration.wirelab import Tap, namespace, run
from tests.unit.guest.wire_frames import arp, icmp, ipv4, tcp, udp

pytestmark = [pytest.mark.root, pytest.mark.long]
A = "10.60.0.1"
OF_THE_MACHINE = {
    *(GuestMetric.INTERRUPTS, GuestMetric.BLOCK_READS, GuestMetric.BLOCK_WRITES, GuestMetric.BLOCK_BYTES),
    *(GuestMetric.FORKS, GuestMetric.BALLOON),
}
"""Metrics that no namespace keeps apart."""


class Guest:
    """A namespace with one NIC, and an agent in it."""

    def __init__(self, tap: Tap, channel: Channel) -> None:
        self.tap = tap
        self.channel = channel
        self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._raw.bind((tap.name, 0))

    def send(self, frame: bytes) -> None:
        """A frame leaves the guest."""
        self._raw.send(frame)

    def summed(self, seconds: int) -> dict[GuestMetric, int]:
        """Counts of so many reports from now on, added up."""
        total = dict.fromkeys(GuestMetric, 0)
        for _ in range(seconds):
            report = self.channel.until((Report1, Report2))
            for metric in GuestMetric:
                total[metric] += max(0, report.values[metric])
        return total

    def close(self) -> None:
        self._raw.close()


@pytest.fixture
def inside(tmp_path) -> Iterator[Guest]:
    channel = Channel(tmp_path)
    with namespace():
        tap = Tap("hv-agent0", "52:54:00:00:00:01")
        run("ip", "addr", "add", f"{A}/24", "dev", tap.name)
        run("ip", "link", "set", "lo", "up")
        own_sys = ["unshare", "--mount", "sh", "-c", 'mount -t sysfs none /sys && exec "$@"', "sh"]
        agent = [str(AGENT), str(channel.path), str(tmp_path / "state" / "level")]
        process = subprocess.Popen([*own_sys, *agent])
        channel.accept()
        found = Guest(tap, channel)
        try:
            channel.settle(*(metric for metric in GuestMetric if metric not in OF_THE_MACHINE))
            yield found
        finally:
            process.kill()
            process.wait()
            found.close()
            tap.close()
            channel.close()


@pytest.mark.req("A227")
def test_each_class_is_counted_in_its_direction(inside):
    out = {
        GuestMetric.OUT_SYN: (3, ipv4(A, "10.60.0.2", 6, tcp(40000, 80, 2))),
        GuestMetric.OUT_RST: (4, ipv4(A, "10.60.0.2", 6, tcp(40000, 80, 4))),
        GuestMetric.OUT_DNS: (5, ipv4(A, "10.60.0.2", 17, udp(5000, 53))),
        GuestMetric.OUT_UDP: (6, ipv4(A, "10.60.0.2", 17, udp(5000, 9))),
        GuestMetric.OUT_ICMP: (7, ipv4(A, "10.60.0.2", 1, icmp(8))),
        GuestMetric.OUT_ARP: (8, arp(A, "10.60.0.2")),
    }
    into = {
        GuestMetric.IN_SYNACK: (9, ipv4("10.60.0.2", A, 6, tcp(80, 40000, 0x12))),
        GuestMetric.IN_UDP: (10, ipv4("10.60.0.2", A, 17, udp(9, 5000))),
    }
    mac = bytes.fromhex(run("ip", "-br", "link", "show", inside.tap.name).split()[2].replace(":", ""))
    for count, frame in out.values():
        for _ in range(count):
            inside.send(frame)
    for count, frame in into.values():
        for _ in range(count):
            inside.tap.send(mac + frame[6:])
    found = inside.summed(3)
    for metric, (count, _) in {**out, **into}.items():
        slack = 3 if metric in (GuestMetric.OUT_RST, GuestMetric.OUT_ARP, GuestMetric.OUT_ICMP) else 0
        answered = 9 + 10 if slack else 0  # the guest's own kernel answers what nobody asked for
        assert count <= found[metric] <= count + slack + answered, metric.name


@pytest.mark.req("A227", "A241")
def test_twenty_destinations_with_their_packets_and_zones(inside):
    inside.channel.say(guest.ProviderNetworks(("10.60.0.0/16",)))
    inside.channel.say(SetLevel(2))
    inside.channel.until(Report2)
    sent = {f"{'10.60.7' if number % 2 else '198.51.100'}.{number + 1}": number % 4 + 1 for number in range(20)}
    for address, count in sent.items():
        for _ in range(count):
            inside.send(ipv4(A, address, 17, udp(5000, 9)))
        if sum(sent.values()) > 40:
            time.sleep(0.1)
    inside.channel.until(Report2)
    inside.channel.until(Report2)
    inside.channel.say(Ask(1, "flows", 0))
    told = {
        flow.there: flow for flow in inside.channel.until(guest.Flows).flows if flow.here == A and flow.there_port == 9
    }
    assert {address: flow.packets_out for address, flow in told.items()} == sent
    for address, flow in told.items():
        assert flow.zone is (Zone.INSIDE if address.startswith("10.60.") else Zone.OUTSIDE)
    inside.channel.say(Ask(2, "top"))
    talkers = {one.address: one.packets for one in inside.channel.until(guest.Top).talkers if one.direction == 0}
    assert {address: talkers[address] for address in sent} == sent


@pytest.mark.req("A228")
def test_fifty_tries_that_succeed_and_fifty_that_fail(inside):
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        inside.channel.until(Report1)
        with contextlib.ExitStack() as open_ones:
            for _ in range(50):
                for address in (server.getsockname(), closed.getsockname()):
                    one = open_ones.enter_context(socket.socket())
                    one.connect_ex(address)
            found = inside.summed(3)
    assert 99 <= found[GuestMetric.OPENED] <= 101
    assert 49 <= found[GuestMetric.ANSWERED] <= 51
    assert 49 <= found[GuestMetric.FAILED] <= 51


@pytest.mark.req("A236", "T-CORE-10")
def test_a_flood_is_found_in_the_first_second_and_its_report_stays_small(inside):
    frame = ipv4(A, "10.60.0.2", 6, tcp(40000, 80, 2))
    over = threading.Event()

    def flood() -> None:
        began, sent = time.monotonic(), 0
        while not over.is_set():
            while sent < 5000 * (time.monotonic() - began):
                inside.send(frame)
                sent += 1
            inside.tap.received()
            time.sleep(0.002)

    thread = threading.Thread(target=flood)
    began = time.monotonic()
    thread.start()
    try:
        change = inside.channel.until(LevelChanged)
        took = time.monotonic() - began
        inside.channel.until(Report2)
        octets, since = inside.channel.octets, time.monotonic()
        reports = [inside.channel.until(Report2) for _ in range(4)]
        rate = (inside.channel.octets - octets) / (time.monotonic() - since)
    finally:
        over.set()
        thread.join()
    assert took < 2.5
    assert change.suspect == "attacker"
    assert GuestMetric.OUT_SYN in {breach.metric for breach in change.breaches}
    assert rate < 20_000
    for report in reports:
        packets = report.values[GuestMetric.OUT_PACKETS]
        assert packets > 1000
        assert report.values[GuestMetric.OUT_SYN] == pytest.approx(packets, rel=0.1)
        assert report.sampling[0].read <= 50
        assert report.sampling[0].read <= report.sampling[0].passed
    stood_for = sum(report.sampling[0].passed * report.sampling[0].one_in for report in reports)
    assert stood_for == pytest.approx(sum(report.values[GuestMetric.OUT_PACKETS] for report in reports), rel=0.6)


@pytest.mark.req("A239")
def test_special_requests_are_told_once(inside):
    inside.channel.say(SetLevel(2))
    inside.channel.until(Report2)
    inside.channel.until(Report2)
    run("ip", "link", "set", inside.tap.name, "promisc", "on")
    run("ip", "link", "add", "hv-plug0", "type", "veth", "peer", "name", "hv-plug1")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        for _ in range(3):
            inside.channel.until(Report2)
    told = {}
    for message in inside.channel.heard:
        if isinstance(message, guest.Special):
            told.setdefault(message.number, (message.kind.value, message.what))
    kinds = sorted(told.values())
    assert ("promiscuous", inside.tap.name) in kinds
    assert ("nic", "hv-plug0") in kinds
    assert ("raw-socket", "") in kinds
    assert len(kinds) == len(set(kinds))


def test_loopback_is_not_traffic(inside):
    inside.channel.until(Report1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _ in range(200):
            one.sendto(b"x", ("127.0.0.1", 9))
    found = inside.summed(2)
    assert found[GuestMetric.OUT_UDP] == 0
    assert found[GuestMetric.OUT_PACKETS] < 50
