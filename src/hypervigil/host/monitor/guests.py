"""What the gateway brings, put into the host's own words, and what is answered. Pure.

Every message is schema-checked when it comes here, and bounded; whose it is, the channel says.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypervigil.host.hrem.agents import Agents
from hypervigil.host.monitor.inquiries import Inquiries
from hypervigil.host.monitor.surveys import Visits, visits
from hypervigil.model.guest import ALARM, SPECIAL_REQUEST, GuestReport, Need, Sampled
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.status import Evidence, Origin
from hypervigil.model.traffic import Direction
from hypervigil.model.vm import Vm
from hypervigil.wire import gateway as wire
from hypervigil.wire import guest

_HELLO = guest.Ask(1, "hello")


@dataclass(slots=True)
class Response:
    """What follows from one message."""

    evidence: list[Evidence] = field(default_factory=list)
    report: GuestReport | None = None
    """What an agent tells of now."""
    visits: Visits | None = None
    """Where it says that its VM began something."""
    say: list[wire.Tell] = field(default_factory=list)


def channels(vms: Iterable[Vm]) -> wire.WatchChannels:
    """The channels that the gateway is to read."""
    return wire.WatchChannels(channels=tuple(wire.Channel(vm.vm, vm.channel) for vm in vms if vm.channel is not None))


def respond(agents: Agents, inquiries: Inquiries, message: wire.FromGateway, now: Instant) -> Response:
    """Take in one message; it is from the past, whatever it says."""
    at = min(message.at, now)
    match message:
        case wire.ChannelOpen(vm=vm):
            agents.opened(vm, at)
            return Response(say=[wire.Tell(vm=vm, message=_HELLO)])
        case wire.ChannelLost(vm=vm):
            agents.closed(vm)
            inquiries.lost(vm)
            return Response()
        case wire.Unheard(vm=vm):
            lines = message.garbage + message.too_long + message.replayed + message.over_rate + message.crowded_out
            agents.untaken(vm, lines)
            if message.crowded_out:
                inquiries.lost(vm)
            return Response()
        case wire.Heard(vm=vm, message=told, octets=octets):
            agents.read(vm, octets, at)
            return _heard(agents, inquiries, vm, told, at)


def _heard(agents: Agents, inquiries: Inquiries, vm: VmId, told: guest.FromGuest, at: Instant) -> Response:
    match told:
        case guest.Report1() | guest.Report2():
            times = told.at_ms / 1000, told.interval_ms / 1000
            sent = _sampled(told.sampling[Direction.OUT])
            report = GuestReport(vm, at, told.agent, told.level, *times, told.values, sent, told.breaches)
            evidence = agents.reported(report)
            if agents.newest(vm) is not report:
                return Response(evidence)
            evidence += inquiries.reported(report)
            if isinstance(told, guest.Report2):
                evidence += inquiries.detailed(vm, told, at)
            return Response(evidence, report)
        case guest.Hello(release=release, blind=blind):
            agents.greeted(vm, release, blind)
            return Response()
        case guest.LevelChanged() | guest.Special() | guest.Lost() | guest.Wanted():
            heard_it = wire.Tell(vm=vm, message=guest.Acknowledge(told.number))
            return Response(_noticed(agents, vm, told, at), say=[heard_it])
        case guest.Flows() | guest.Top() | guest.Load() | guest.Declined():
            if inquiries.surveys.take(vm, told.agent, told.number):
                return Response(visits=visits(vm, told) if isinstance(told, guest.Flows) else None)
            answer = inquiries.answered(vm, told, at, cpu=agents.cpu(vm))
            if answer is None:
                agents.unasked(vm)
            return Response(answer or [])


def _sampled(sampling: guest.Sampling) -> Sampled | None:
    if not sampling.one_in:
        return None
    return Sampled(sampling.weight, sampling.read, sampling.passed, sampling.one_in)


_Notice = guest.LevelChanged | guest.Special | guest.Lost | guest.Wanted


def _noticed(agents: Agents, vm: VmId, notice: _Notice, at: Instant) -> list[Evidence]:
    match notice:
        case guest.LevelChanged(cause="breach", level=2):
            breaches = ", ".join(one.metric.name.lower().replace("_", " ") for one in notice.breaches)
            kind, value, unit = ALARM, len(notice.breaches), "metrics"
            text = f"finds it unusual ({breaches or 'nothing named'}) and takes it for: {notice.suspect}"
        case guest.Special(kind=request, what=what, amount=amount):
            kind, value, unit = SPECIAL_REQUEST, amount, ""
            text = f"tells of a special request: {request} {what}".rstrip()
        case guest.Wanted(need=need, amount=amount, near_s=near_s) if amount:
            kind, value, unit = "wanted", amount, "KiB" if need is Need.MEMORY else "permille"
            text = f"asks for more {need}, near whose capacity it has been for {near_s:,} s"
        case guest.Lost(lines=lines):
            kind, value, unit = "agent-lost", lines, "lines"
            text = f"lost {lines:,} lines that it could not send"
        case _:
            return []
    return agents.noted(
        Evidence(
            vm=vm,
            kind=kind,
            origin=Origin.GUEST_REPORTED,
            at=at,
            value=float(value),
            baseline=None,
            unit=unit,
            text=f"{vm}'s agent {text}",
        )
    )
