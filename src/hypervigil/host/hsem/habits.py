"""How far a VM is from its own habits, metric by metric, for all VMs at once. Pure.

The history's percentiles say what a VM ever does; habits say what it does about now. There are three: its level, what
it does at this hour of the day, and that with the difference that the day of the week makes. Two views are taken of a
value, from the level and from the habit that has lately been the best forecast; each looks at the value's own distance
and at that of the recent mean, which a lasting shift moves and a spike does not.

A distance says nothing by itself, so each is measured by its own tail: the distance that one value in ``1 / RARE``
exceeds, and by how much these exceed it on average. Beyond, an exponential tail is assumed (the mean excess is its
scale, as with peaks over a threshold). The surprise is the negative decimal logarithm of the tail's probability, the
sum of both distances' in the view where it is larger.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hypervigil.host.hsem.table import Matrix, Rows, Table
from hypervigil.model.ids import VmId

HOURS = 24
DAYS = 7
HOUR_S = 3600.0
DAY_S = 86400.0
LEVEL = 1 / 600
"""Per sample: how fast the level follows."""
RECENT = 1 / 16
"""And the mean of what was lately."""
HOUR_FOLLOWS = 0.15
"""Per visit: how fast an hour's value follows."""
DAY_FOLLOWS = 0.3
ERROR_FOLLOWS = 1 / 500
LEAST_VISITS = 1.9
"""An hour or a weekday says something from about its second visit on."""
LEAST_FORECASTS = 50
"""So many samples a seasonal habit is only tried."""
RARE = 0.01
TAIL_FOLLOWS = 0.01
WILDEST = 20.0
"""A distance moves its tail by at most so many times the mean excess."""
NARROWEST = 0.1
"""The mean excess is at least this share of the distance that is exceeded."""
MOST_SURPRISE = 1e5
MOST = 1e30
"""More of anything is counted as this."""

_VIEWS = 2
_DISTANCES = 2 * _VIEWS
_COMMON = -np.log10(RARE)
Flags = npt.NDArray[np.bool_]
Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Clock:
    """Per VM: which hour of the day and which day of the week it is, and which share of each a sample stands for."""

    hour: Rows
    day: Rows
    of_hour: Times
    of_day: Times


class Habits:
    """The habits of all VMs: some 200 bytes for each metric of a VM."""

    def __init__(self, metrics: int) -> None:
        self._metrics = metrics
        self._table = Table(
            samples=(metrics,),
            level=(metrics,),
            recent=(_VIEWS, metrics),
            seasons=(HOURS + DAYS, metrics),
            errors=(3, metrics),
            tried=(3, metrics),
            limit=(_DISTANCES, metrics),
            excess=(_DISTANCES, metrics),
            visits=(HOURS + DAYS,),
        )

    @property
    def vms(self) -> tuple[VmId, ...]:
        """Who has habits."""
        return self._table.vms

    def keep(self, vms: Iterable[VmId]) -> None:
        """Forget all others."""
        self._table.keep(vms)

    def see(self, vms: Sequence[VmId], values: Matrix, at: Times, step_s: Times, learn: Flags | None = None) -> Matrix:
        """Take in one sample of each VM; how surprising each value is, 0 where it is unseen (NaN).

        ``values`` and the answer: shape ``(len(vms), metrics)``. Per VM: ``at`` is its time in seconds since a
        midnight, ``step_s`` how many of them a sample stands for, and ``learn`` whether its habits may change. They
        never do of a VM under suspicion; what was lately is taken in even then.
        """
        if not vms:
            return np.zeros((0, self._metrics), np.float32)
        rows = self._table.rows(vms)
        seen = np.isfinite(values)
        learns = seen if learn is None else seen & learn[:, None]
        x = np.where(seen, np.clip(values, -MOST, MOST), 0.0).astype(np.float32)
        samples = self._table["samples"][rows]
        first = learns & (samples == 0)
        level = np.where(first, x, self._table["level"][rows])
        hour, day = ((at // HOUR_S) % HOURS).astype(np.intp), ((at // DAY_S) % DAYS).astype(np.intp)
        clock = _Clock(hour, HOURS + day, step_s / HOUR_S, step_s / DAY_S)
        habit = self._forecast(rows, level, x, clock, learns)
        off = np.stack((x - level, x - habit), axis=1)
        recent = self._table["recent"][rows]
        news = np.stack((x, x - habit), axis=1)
        started = np.where((samples == 0)[:, None, :], news, recent)
        recent = np.where(seen[:, None, :], started + np.float32(RECENT) * (news - started), recent)
        self._table["recent"][rows] = recent
        lasting = np.stack((recent[:, 0] - level, recent[:, 1]), axis=1)
        distances = np.abs(np.concatenate((off, lasting), axis=1))
        tails = self._tails(rows, distances, samples, learns)
        surprise: Matrix = np.where(seen, np.maximum(tails[:, 0] + tails[:, 2], tails[:, 1] + tails[:, 3]), 0.0)
        follows = np.maximum(LEVEL, 1.0 / (samples + 1.0))
        self._table["level"][rows] = np.where(learns, level + follows * (x - level), level)
        self._table["samples"][rows] = samples + learns
        self._follow(rows, x, clock, learns)
        return surprise.astype(np.float32)

    def _forecast(self, rows: Rows, level: Matrix, x: Matrix, clock: _Clock, learns: Flags) -> Matrix:
        """What the habit that was lately least wrong says of this sample; notes how wrong each is."""
        visits = self._table["visits"][rows]
        each = np.arange(len(rows))
        hour_known = visits[each, clock.hour] * clock.of_hour >= LEAST_VISITS
        day_known = visits[each, clock.day] * clock.of_day >= LEAST_VISITS
        by_hour = self._table["seasons"][rows, clock.hour]
        by_day = by_hour + self._table["seasons"][rows, clock.day]
        told = np.stack(
            (
                level,
                np.where(hour_known[:, None], by_hour, np.nan),
                np.where((hour_known & day_known)[:, None], by_day, np.nan),
            ),
            axis=1,
        )
        errors, tried = self._table["errors"][rows], self._table["tried"][rows]
        tells = np.isfinite(told)
        usable = tells & (tried > LEAST_FORECASTS)
        usable[:, 0] = True
        best = np.where(usable, errors, np.inf).argmin(axis=1)
        habit = np.take_along_axis(told, best[:, None, :], axis=1)[:, 0]
        counts = tells & learns[:, None, :]
        rate = np.maximum(ERROR_FOLLOWS, 1.0 / (tried + 1.0))
        wrong = np.where(counts, np.abs(x[:, None, :] - told), errors)
        self._table["errors"][rows] = errors + rate * (wrong - errors)
        self._table["tried"][rows] = tried + counts
        return habit

    def _follow(self, rows: Rows, x: Matrix, clock: _Clock, learns: Flags) -> None:
        """Let the hour's value, and the weekday's difference from it, follow; the first visit counts in full."""
        visits, seasons = self._table["visits"], self._table["seasons"]
        wanted = x
        parts = ((clock.hour, HOUR_FOLLOWS * clock.of_hour), (clock.day, DAY_FOLLOWS * clock.of_day))
        for place, share in parts:
            visits[rows, place] += learns.any(axis=1)
            rate = np.minimum(np.maximum(1.0 / np.maximum(visits[rows, place], 1.0), share), 1.0)[:, None]
            known = seasons[rows, place]
            seasons[rows, place] = np.where(learns, known + rate * (wanted - known), known)
            wanted = wanted - known

    def _tails(self, rows: Rows, distances: Matrix, samples: Matrix, learns: Flags) -> Matrix:
        """The surprise of each distance; the tails then follow."""
        limit, excess = self._table["limit"][rows], self._table["excess"][rows]
        many = samples[:, None, :]
        fresh = (limit == 0) & (distances > 0)
        over = distances - limit
        scale = np.maximum(excess, NARROWEST * limit)
        beyond = _COMMON + np.minimum(over, MOST_SURPRISE * scale) / np.where(scale > 0, scale, 1.0) / np.log(10.0)
        within = _COMMON * np.minimum(distances, limit) / np.where(limit > 0, limit, 1.0)
        surprise = np.where(over > 0, beyond, within)
        # Of what never strayed at all, one stray is as rare as it has samples.
        surprise = np.where(limit > 0, surprise, np.where(fresh, np.log10(1.0 + many), 0.0))
        learning = learns[:, None, :] & (limit > 0)
        exceeds = learning & (over > 0)
        gain = 3.0 * np.maximum(TAIL_FOLLOWS, np.maximum(many, 1.0) ** -0.6)
        moved = np.where(learning, limit * np.exp(gain * ((over > 0) - RARE)), limit)
        share = np.maximum(TAIL_FOLLOWS, 1.0 / (RARE * many + 1.0))
        widened = np.where(exceeds, excess + share * (np.minimum(over, WILDEST * scale) - excess), excess)
        begins = fresh & learns[:, None, :]
        self._table["limit"][rows] = np.where(begins, distances, moved)
        self._table["excess"][rows] = np.where(begins, distances, widened)
        found: Matrix = surprise
        return found


class Onsets:
    """Of a stretch of surprising samples, the first: what follows counts only if it is more surprising still.

    After ``calm`` samples that were not, a VM is armed again.
    """

    def __init__(self, calm: int = 100) -> None:
        self._calm = calm
        self._table = Table(peak=(1,), since=(1,))

    def see(self, vms: Sequence[VmId], surprise: Matrix) -> Matrix:
        """Each VM's surprise, shape ``(len(vms),)``, or 0 where it is only more of the same."""
        rows = self._table.rows(vms)
        peak, since = self._table["peak"][rows, 0], self._table["since"][rows, 0]
        peak = np.where(since <= self._calm, peak, 0.0)
        fires = surprise > peak
        self._table["peak"][rows, 0] = np.where(fires, surprise, peak)
        self._table["since"][rows, 0] = np.where(fires, 0.0, since + 1.0)
        found: Matrix = np.where(fires, surprise, 0.0).astype(np.float32)
        return found
