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
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from hypervigil.host.hsem.table import MOST_COUNTED, Copies, Matrix, Rows, Table
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
_IMPOSSIBLE = 1e3 * MOST
"""No habit comes so far, whatever is seen."""
_SIGNED = frozenset({"level", "recent", "seasons"})
"""All else that is kept is never below nothing."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Surprise:
    """What was found of some VMs' values; arrays of shape ``(VMs, metrics)``."""

    surprise: Matrix
    """0 where a value is unseen."""
    usual: Matrix
    """What the view said from which the value is the more surprising."""
    seasonal: Flags
    """Whether that is what the VM does at this hour, and not just its level."""


@dataclass(frozen=True, slots=True, eq=False)
class _Forecast:
    """What level, hour and weekday say of a sample, shape ``(VMs, 3, metrics)``, and the one that was least wrong."""

    told: Matrix
    habit: Matrix
    seasonal: Flags


class Habits:
    """The habits of all VMs: some 200 bytes for each metric of a VM."""

    def __init__(self, metrics: int) -> None:
        self._metrics = metrics
        self._table = Table(
            {"tried": (3, metrics), "visits": (HOURS + DAYS,)},
            samples=(metrics,),
            level=(metrics,),
            recent=(_VIEWS, metrics),
            seasons=(HOURS + DAYS, metrics),
            errors=(3, metrics),
            limit=(_DISTANCES, metrics),
            excess=(_DISTANCES, metrics),
        )

    @property
    def vms(self) -> tuple[VmId, ...]:
        """Who has habits."""
        return self._table.vms

    def samples(self, vms: Sequence[VmId]) -> Matrix:
        """How many samples of each metric taught, shape ``(len(vms), metrics)``."""
        rows = self._table.rows(vms)  # may make room: before the array is taken
        found: Matrix = self._table["samples"][rows]
        return found

    def keep(self, vms: Iterable[VmId]) -> None:
        """Forget all others."""
        self._table.keep(vms)

    def remember(self, vms: Sequence[VmId]) -> Copies:
        """All that is known of these VMs, by name, a row each; zeros of who has no habits."""
        return self._table.copies(vms)

    def check(self, vms: int, known: Copies) -> None:
        """``ValueError`` if this is not what ``remember`` gives of so many VMs."""
        shapes = {name: array.shape for name, array in known.items()}
        if shapes != {name: (vms, *shape) for name, shape in self._table.shapes.items()}:
            raise ValueError("its habits are of another version")
        for name, array in known.items():
            values = array.astype(np.float64)
            least, most = -_IMPOSSIBLE if name in _SIGNED else 0.0, self._table.most(name, _IMPOSSIBLE)
            if not ((values >= least) & (values <= most)).all():  # nor is NaN
                raise ValueError("its habits have impossible values")

    def forget(self, vms: Iterable[VmId]) -> None:
        """Forget these."""
        self._table.drop(vms)

    def recall(self, vms: Sequence[VmId], known: Copies) -> None:
        """Take over what ``remember`` gave of these VMs; ``ValueError`` otherwise, and nothing is changed."""
        self.check(len(vms), known)
        self._table.put(vms, known)

    def see(self, vms: Sequence[VmId], values: Matrix, at: Times, step_s: Times, learn: Flags | None = None) -> Matrix:
        """Take in one sample of each VM; how surprising each value is, 0 where it is unseen (NaN).

        ``values`` and the answer: shape ``(len(vms), metrics)``. Per VM: ``at`` is its time in seconds since a
        midnight, ``step_s`` how many of them a sample stands for, and ``learn`` whether its habits may change. They
        never do of a VM under suspicion; what was lately is taken in even then.
        """
        return self.take_in(vms, values, at, step_s, learn).surprise

    def take_in(
        self, vms: Sequence[VmId], values: Matrix, at: Times, step_s: Times, learn: Flags | None = None
    ) -> Surprise:
        """As ``see``; tells also what is usual."""
        rows, x, seen, clock = self._about(vms, values, at, step_s)
        learns = seen if learn is None else seen & learn[:, None]
        samples = self._table["samples"][rows]
        first = learns & (samples == 0)
        level = np.where(first, x, self._table["level"][rows])
        forecast = self._forecast(rows, level, clock)
        self._try(rows, forecast, x, learns)
        strays, recent = self._strays(rows, x, seen, level, forecast.habit)
        self._table["recent"][rows] = recent
        distances = np.abs(strays)
        tails = self._tails(rows, distances, samples)
        self._widen(rows, distances, samples, learns)
        follows = np.maximum(LEVEL, 1.0 / (samples + 1.0))
        self._table["level"][rows] = np.where(learns, level + follows * (x - level), level)
        self._table["samples"][rows] = samples + learns
        self._follow(rows, x, clock, learns)
        return _surprise(tails, seen, level, forecast)

    def above(self, vms: Sequence[VmId], values: Matrix, at: Times, step_s: Times) -> Surprise:
        """How surprising it is that values are so large, as ``take_in``, and nothing whatever is changed by it."""
        rows, x, seen, clock = self._about(vms, values, at, step_s)
        level = self._table["level"][rows]
        forecast = self._forecast(rows, level, clock)
        strays, _ = self._strays(rows, x, seen, level, forecast.habit)
        tails = self._tails(rows, np.maximum(strays, 0.0), self._table["samples"][rows])
        return _surprise(tails, seen, level, forecast)

    def _about(
        self, vms: Sequence[VmId], values: Matrix, at: Times, step_s: Times
    ) -> tuple[Rows, Matrix, Flags, _Clock]:
        """Rows, values where they are seen, where that is, and the time."""
        seen = np.isfinite(values)
        x = np.where(seen, np.clip(values, -MOST, MOST), 0.0).astype(np.float32)
        hour, day = ((at // HOUR_S) % HOURS).astype(np.intp), ((at // DAY_S) % DAYS).astype(np.intp)
        return self._table.rows(vms), x, seen, _Clock(hour, HOURS + day, step_s / HOUR_S, step_s / DAY_S)

    def _strays(self, rows: Rows, x: Matrix, seen: Flags, level: Matrix, habit: Matrix) -> tuple[Matrix, Matrix]:
        """How far values, and then the recent means, are above each view; and what the recent means now are."""
        off = np.stack((x - level, x - habit), axis=1)
        recent = self._table["recent"][rows]
        news = np.stack((x, x - habit), axis=1)
        started = np.where((self._table["samples"][rows] == 0)[:, None, :], news, recent)
        recent = np.where(seen[:, None, :], started + np.float32(RECENT) * (news - started), recent)
        lasting = np.stack((recent[:, 0] - level, recent[:, 1]), axis=1)
        return np.concatenate((off, lasting), axis=1), recent

    def _forecast(self, rows: Rows, level: Matrix, clock: _Clock) -> _Forecast:
        """What is expected, by the habit that was lately least wrong."""
        visits = self._table.counts("visits")[rows].astype(np.float32)
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
        usable = np.isfinite(told) & (self._table.counts("tried")[rows] > LEAST_FORECASTS)
        usable[:, 0] = True
        best = np.where(usable, self._table["errors"][rows], np.inf).argmin(axis=1)
        return _Forecast(told, np.take_along_axis(told, best[:, None, :], axis=1)[:, 0], best > 0)

    def _try(self, rows: Rows, forecast: _Forecast, x: Matrix, learns: Flags) -> None:
        """Note how wrong each habit is."""
        errors, tried = self._table["errors"][rows], self._table.counts("tried")[rows]
        counts = np.isfinite(forecast.told) & learns[:, None, :]
        rate = np.maximum(ERROR_FOLLOWS, 1.0 / (tried.astype(np.float32) + 1.0))
        wrong = np.where(counts, np.abs(x[:, None, :] - forecast.told), errors)
        self._table["errors"][rows] = errors + rate * (wrong - errors)
        self._table.counts("tried")[rows] = tried + (counts & (tried < MOST_COUNTED))

    def _follow(self, rows: Rows, x: Matrix, clock: _Clock, learns: Flags) -> None:
        """Let the hour's value, and the weekday's difference from it, follow; the first visit counts in full."""
        visits, seasons = self._table.counts("visits"), self._table["seasons"]
        wanted, seen = x, learns.any(axis=1)
        parts = ((clock.hour, HOUR_FOLLOWS * clock.of_hour), (clock.day, DAY_FOLLOWS * clock.of_day))
        for place, share in parts:
            visits[rows, place] += seen & (visits[rows, place] < MOST_COUNTED)
            times = np.maximum(visits[rows, place].astype(np.float32), 1.0)
            rate = np.minimum(np.maximum(1.0 / times, share), 1.0)[:, None]
            known = seasons[rows, place]
            seasons[rows, place] = np.where(learns, known + rate * (wanted - known), known)
            wanted = wanted - known

    def _tails(self, rows: Rows, distances: Matrix, samples: Matrix) -> Matrix:
        """The surprise of each distance."""
        limit = self._table["limit"][rows]
        over, scale = distances - limit, np.maximum(self._table["excess"][rows], NARROWEST * limit)
        beyond = _COMMON + np.minimum(over, MOST_SURPRISE * scale) / np.where(scale > 0, scale, 1.0) / np.log(10.0)
        within = _COMMON * np.minimum(distances, limit) / np.where(limit > 0, limit, 1.0)
        surprise = np.where(over > 0, beyond, within)
        # Of what never strayed at all, one stray is as rare as it has samples.
        found: Matrix = np.where(limit > 0, surprise, np.where(distances > 0, np.log10(1.0 + samples)[:, None, :], 0.0))
        return found

    def _widen(self, rows: Rows, distances: Matrix, samples: Matrix, learns: Flags) -> None:
        """Let the tails follow."""
        limit, excess = self._table["limit"][rows], self._table["excess"][rows]
        many = samples[:, None, :]
        over, scale = distances - limit, np.maximum(excess, NARROWEST * limit)
        learning = learns[:, None, :] & (limit > 0)
        gain = 3.0 * np.maximum(TAIL_FOLLOWS, np.maximum(many, 1.0) ** -0.6)
        moved = np.where(learning, limit * np.exp(gain * ((over > 0) - RARE)), limit)
        share = np.maximum(TAIL_FOLLOWS, 1.0 / (RARE * many + 1.0))
        widened = np.where(learning & (over > 0), excess + share * (np.minimum(over, WILDEST * scale) - excess), excess)
        begins = learns[:, None, :] & (limit == 0) & (distances > 0)
        self._table["limit"][rows] = np.where(begins, distances, moved)
        self._table["excess"][rows] = np.where(begins, distances, widened)


def _surprise(tails: Matrix, seen: Flags, level: Matrix, forecast: _Forecast) -> Surprise:
    """Of both views, what the more surprising one says."""
    by_level, by_habit = tails[:, 0] + tails[:, 2], tails[:, 1] + tails[:, 3]
    habit = by_habit >= by_level
    found: Matrix = np.where(seen, np.maximum(by_level, by_habit), 0.0).astype(np.float32)
    return Surprise(found, np.where(habit, forecast.habit, level), habit & forecast.seasonal)


class Onsets:
    """Of a stretch of surprising samples, the first: what follows counts only if it is more surprising still.

    After ``calm`` samples that were not, a VM is armed again. ``table``: one that has room for it (``ROOM``), where
    there is one for these VMs anyhow.
    """

    ROOM: ClassVar[dict[str, tuple[int, ...]]] = {"peak": (1,), "since": (1,)}

    def __init__(self, calm: int = 100, table: Table | None = None) -> None:
        self._calm = calm
        self._table = Table(**self.ROOM) if table is None else table

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
