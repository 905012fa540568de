"""What agents are told of their own accord: which level, what is usual, what counts as inside. Pure.

An agent goes up by itself and down by the host's word alone. So whoever stays at Level 2 while the judge sees no case
must be told, or it would record in detail for ever; what is said may be lost, so it is said again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from hypervigil.host.hsem.told import MOST_USUAL
from hypervigil.model.guest import GuestMetric, GuestReport
from hypervigil.model.ids import NEVER, Instant, VmId
from hypervigil.wire.guest import WORD, BriefHistory, ProviderNetworks, SetLevel, ToGuest, Usual

CALM_S = 30.0
"""An agent at Level 2 of its own finding is lowered after so long without a case."""
AGAIN_S = 3.0
TEACH_S = 60.0
MOST = 1e7 - 1
MOST_BYTES = 1e11 - 1
"""More is told as this, a second: so every history fits its line, with ``ports.TOLD`` ports."""
NETWORKS = 48
_AT_LEVEL2 = 2

Lesson = Callable[[], list[ToGuest]]


@dataclass(slots=True)
class _Pupil:
    agent: int
    taught_at: Instant
    alone_since: Instant | None = None
    """Since then it is at Level 2, and there is no case."""
    said_at: Instant = NEVER


class Guidance:
    """Of one host; what is said follows from reports, so that nobody is told who does not listen."""

    def __init__(self) -> None:
        self._pupils: dict[VmId, _Pupil] = {}

    def keep(self, vms: Iterable[VmId]) -> None:
        """Forget all others."""
        running = set(vms)
        self._pupils = {vm: pupil for vm, pupil in self._pupils.items() if vm in running}

    def after(self, report: GuestReport, *, case: bool, lesson: Lesson) -> list[ToGuest]:
        """What an agent is told after a report; ``case``: the judge watches its VM closely."""
        pupil = self._pupils.get(report.vm)
        said: list[ToGuest] = []
        if pupil is None or pupil.agent != report.agent or report.at - pupil.taught_at >= TEACH_S:
            pupil = self._pupils[report.vm] = _Pupil(
                report.agent, report.at, pupil.alone_since if pupil is not None else None
            )
            said += lesson()
        level = _wanted(pupil, report, case=case)
        if level is not None and report.at - pupil.said_at >= AGAIN_S:
            pupil.said_at = report.at
            said.append(SetLevel(level))
        return said


def _wanted(pupil: _Pupil, report: GuestReport, *, case: bool) -> int | None:
    """The level that an agent is to go to, if it is not there."""
    detailed = report.level == _AT_LEVEL2
    if case or not detailed:
        pupil.alone_since = None
        return None if detailed or not case else _AT_LEVEL2
    if pupil.alone_since is None:
        pupil.alone_since = report.at
    return 1 if report.at - pupil.alone_since >= CALM_S else None


def brief_history(
    number: int, usual: Iterable[tuple[GuestMetric, float, float]], ports: Sequence[int] = ()
) -> BriefHistory:
    """Of each metric its middle and its 95th percentile, which is one spread above it: an agent's line is three.

    ``ports``: where its VM usually begins something; none where it is to go by what it has seen itself.
    """
    told = [
        Usual(metric, _tenths(metric, middle), _tenths(metric, max(tail - middle, 0.0)))
        for metric, middle, tail in usual
        if isfinite(middle) and isfinite(tail)
    ]
    return BriefHistory(max(1, number), tuple(told), tuple(ports))


def _tenths(metric: GuestMetric, value: float) -> int:
    most = MOST_BYTES if metric is GuestMetric.BLOCK_BYTES else MOST_USUAL.get(metric, MOST)
    return round(10 * min(value, most))


def provider_networks(cidrs: Iterable[str]) -> ProviderNetworks:
    """What counts as inside; of too many the first, and none that is written at more length than an agent takes."""
    return ProviderNetworks(tuple(cidr for cidr in dict.fromkeys(cidrs) if len(cidr) <= WORD)[:NETWORKS])
