"""A guest's account of itself in sentences: its flows, its talkers, its load, what it asks of the hypervisor. Pure.

Whatever is said here is the guest's word about its own VM, and is told as such.
"""

from collections.abc import Sequence

from hypervigil.model.guest import Question, Zone
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.status import Evidence, Origin
from hypervigil.model.traffic import Direction
from hypervigil.wire import guest

Answer = guest.Flows | guest.Top | guest.Load
QUESTIONS: dict[type[Answer], Question] = {
    guest.Flows: Question.FLOWS,
    guest.Top: Question.TOP,
    guest.Load: Question.LOAD,
}
"""What each answers."""

ALIKE = 0.05
"""Shares of a CPU are alike up to this difference."""
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
_ZONES = {Zone.UNKNOWN: "", Zone.INSIDE: " inside", Zone.OUTSIDE: " outside"}
_NEAR = ("CPU", "memory", "disk")


def answered(vm: VmId, answer: Answer, at: Instant, cpu: float | None) -> Evidence:
    """What an answer says; ``cpu``: what the host itself counts of the VM's CPU, 0..1, where it does."""
    match answer:
        case guest.Flows(flows=flows, flows_in_all=all_):
            text = f"tells of {all_:,} flows since its case was opened{_busiest(flows)}"
            return fact(vm, "told-flows", at, text, value=all_, unit="flows")
        case guest.Top(talkers=talkers, transmitters=transmitters):
            most = max(talkers, key=lambda one: one.packets, default=None)
            text, packets = "tells of nobody to whom packets went, or from whom they came", 0
            if most is not None:
                way, packets = "to" if most.direction is Direction.OUT else "from", most.packets
                text = f"tells of most packets {way} {most.address}: {packets:,} in ten minutes"
            text = "; ".join([text, *_senders(transmitters)])
            return fact(vm, "told-top", at, text, value=packets, unit="packets")
        case guest.Load(near_times=times, near_s=seconds):
            near = [
                f"{name} {often:,} times ({long:,} s)"
                for name, often, long in zip(_NEAR, times, seconds, strict=True)
                if often
            ]
            text = (
                f"tells of {_share(answer.cpu)} of its CPU in use{_held_against(answer.cpu, cpu)} and "
                f"{_share(answer.steal)} waited for, "
                f"{_share(answer.memory)} of its memory, {_share(answer.disk)} of its disk's time; "
                f"near its capacity: {', '.join(near) or 'never'}"
            )
            return fact(vm, "told-load", at, text, value=max(0, answer.cpu) / 1000, unit="of its CPU")


def detailed(vm: VmId, told: guest.Report2, at: Instant) -> list[Evidence]:
    """What the details of a report at Level 2 say."""
    found: list[Evidence] = []
    if told.flows:
        text = f"tells of {told.flows_in_all:,} flows since its report before{_busiest(told.flows)}"
        packets = max(one.packets_out + one.packets_in for one in told.flows)
        found.append(fact(vm, "busiest-flow", at, text, value=packets, unit="packets"))
    if said := _senders(told.transmitters):
        octets = max(one.octets_out for one in told.transmitters)
        text = f"says that {'; '.join(said)}"
        found.append(fact(vm, "busiest-process", at, text, value=octets, unit="bytes"))
    most = max(told.devices, key=lambda one: one.requests, default=None)
    if most is not None and most.requests:
        text = (
            f"says that its {most.name or 'device'} asks most of the hypervisor: {most.requests:,} requests and "
            f"{most.octets:,} bytes in {told.interval_ms / 1000:,.1f} s"
        )
        found.append(fact(vm, "busiest-device", at, text, value=most.requests, unit="requests"))
    return found


def fact(vm: VmId, kind: str, at: Instant, text: str, *, value: float, unit: str) -> Evidence:
    """In a guest's word: that its agent ``text``."""
    return Evidence(vm, kind, Origin.GUEST_REPORTED, at, float(value), None, unit, f"{vm}'s agent {text}")


def _busiest(flows: Sequence[guest.Flow]) -> str:
    most = max(flows, key=lambda one: one.packets_out + one.packets_in, default=None)
    if most is None:
        return ""
    outside = sum(one.zone is Zone.OUTSIDE for one in flows)
    many = f"; of the {len(flows)} that it names {outside} lead outside" if len(flows) > 1 else ""
    return f", the busiest {_flow(most)}{many}"


def _flow(flow: guest.Flow) -> str:
    name = _PROTOCOLS.get(flow.protocol, f"protocol {flow.protocol}")
    here, there = _end(flow.here, flow.here_port), _end(flow.there, flow.there_port) + _ZONES[flow.zone]
    way = f"from {here} to {there}" if flow.began is Direction.OUT else f"from {there} to {here}"
    octets = flow.octets_out + flow.octets_in
    return f"{name} {way} with {flow.packets_out:,} packets sent, {flow.packets_in:,} got, {octets:,} bytes"


def _end(address: str, port: int) -> str:
    return f"{address} port {port}" if port else address


def _senders(transmitters: Sequence[guest.Transmitter]) -> list[str]:
    """Who in the guest sends most, and who holds sockets of which no octets are counted."""
    said: list[str] = []
    most = max(transmitters, key=lambda one: one.octets_out, default=None)
    if most is not None and most.octets_out:
        said.append(f"{_process(most)} transmits most, {most.octets_out:,} bytes by TCP in its last second")
    raw = next((one for one in transmitters if one.raw), None)
    if raw is not None:
        said.append(f"{_process(raw)} holds {raw.raw:,} raw sockets, whose bytes nobody counts there")
    return said


def _process(one: guest.Transmitter) -> str:
    return f"its process {one.pid} ({one.name or 'without a name'})"


def _held_against(permille: int, cpu: float | None) -> str:
    """A guest's count of its CPU beside the host's. No lie: a vCPU that waits in a loop is busy to the host alone."""
    if permille < 0 or cpu is None:
        return ""
    return f" ({'as' if abs(permille / 1000 - cpu) <= ALIKE else 'while'} the host counts {cpu:.1%})"


def _share(permille: int) -> str:
    return "an unknown share" if permille < 0 else f"{permille / 1000:.1%}"
