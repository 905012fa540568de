"""Ordinary VMs, made up of real series (how busy), captures (what applications do) and a few kinds of server's work.

What is made up is how a server's packets follow from its load: requests come in bunches, and their number goes up and
down within seconds and minutes, by more than chance alone would have it. Nothing in here is fitted to the judge.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from bench._series import STEP_S, Series
from bench._tapes import STATES, Moment, Tape, rated
from hypervigil.model.ids import OUTSIDE, VmId
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.report import ForgedCount, PairRate
from hypervigil.model.traffic import Direction

Matrix = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

DAY_S = 86_400.0
BUNCH = 3.0
"""Requests come in bunches of so many, as a page's pictures do."""
SWINGS = ((5.0, 0.5), (300.0, 0.5))
"""How load goes up and down within a step of its series: time constant in seconds, spread of the logarithm."""
SIZES = 0.7
"""Spread of the logarithm of what a request moves."""
MANY_OF_ONE = 5.0
"""From so many requests of a client in about a second on it may look as if many ports were tried."""
TOLD_EVERY_S = 20.0
"""So often a VM's peers are told that does nothing of interest: to tell them always would take most of the time."""
LOUD_S = 2.0
"""Whose peers are told is followed for so long."""
FEW = 3
"""So many requests have a peer each."""
TOLD = 8
"""Peers that are told of per kind of work and direction, as sensors tell only of the busiest."""


class Work(IntEnum):
    """A kind of work; one row of ``_HEADS`` and ``_BODIES`` each."""

    SERVE = 0
    """Short connections of many clients."""
    ASK = 1
    """Short connections to a few servers."""
    SERVE_KEPT = 2
    """Requests on connections that stay, as of a database."""
    ASK_KEPT = 3
    LOOK_UP = 4
    """DNS."""
    REPORT = 5
    """Datagrams that nobody answers: logs, measurements."""
    PINGED = 6
    COPY = 7
    """A backup: so many segments to one host."""
    NEIGHBOURS = 8
    """ARP asked and answered, others' broadcasts."""
    UNANSWERED = 9
    """``ASK`` while the server is away: a try and its repetition."""
    REFUSED = 10
    """``ASK`` while the service is not there."""
    REFUSING = 11
    """``SERVE`` while the VM's own service is not there."""


def _table(rows: dict[Work, dict[str, float]]) -> Matrix:
    table = np.zeros((len(Work), Metric.CPU), np.float32)
    for work, columns in rows.items():
        for name, value in columns.items():
            table[work, Metric[name]] = value
    return table


_HEADS = _table(
    {
        Work.SERVE: {"IN_SYN": 1, "OUT_SYNACK": 1, "IN_TCP": 3, "OUT_TCP": 2},
        Work.ASK: {"OUT_SYN": 1, "IN_SYNACK": 1, "OUT_TCP": 3, "IN_TCP": 2},
        Work.LOOK_UP: {"OUT_DNS": 1, "IN_DNS": 1},
        Work.REPORT: {"OUT_UDP": 1},
        Work.PINGED: {"IN_ICMP": 1, "OUT_ICMP": 1},
        Work.NEIGHBOURS: {"IN_ARP": 1, "OUT_ARP": 1, "IN_MULTICAST": 4},
        Work.UNANSWERED: {"OUT_SYN": 2},
        Work.REFUSED: {"OUT_SYN": 1, "IN_RST": 1, "FAILURES": 1},
        Work.REFUSING: {"IN_SYN": 1, "OUT_RST": 1},
    }
)
"""Packets per request that are always there."""
_BODIES = _table(
    {
        Work.SERVE: {"IN_TCP": 3, "OUT_TCP": 6},
        Work.ASK: {"OUT_TCP": 3, "IN_TCP": 6},
        Work.SERVE_KEPT: {"IN_TCP": 2, "OUT_TCP": 3},
        Work.ASK_KEPT: {"OUT_TCP": 2, "IN_TCP": 3},
        Work.COPY: {"OUT_TCP": 1, "IN_TCP": 0.3},
    }
)
"""Packets per request of usual size."""
_OUT = list(PACKET_METRICS[: len(PACKET_METRICS) // 2])
_IN = list(PACKET_METRICS[len(PACKET_METRICS) // 2 :])
_OPENS = {Work.SERVE, Work.ASK, Work.LOOK_UP, Work.REPORT, Work.PINGED, Work.UNANSWERED, Work.REFUSED, Work.REFUSING}
_BEGUN_HERE = {Work.ASK, Work.ASK_KEPT, Work.LOOK_UP, Work.REPORT, Work.COPY, Work.UNANSWERED, Work.REFUSED}
_SUMS = [
    tuple((float(_HEADS[work, columns].sum()), float(_BODIES[work, columns].sum())) for columns in (_OUT, _IN))
    for work in Work
]
"""Packets per request, out and in: those that are always there, and those of usual size."""
_OCTETS, _COPIED = 300.0, (1514.0, 66.0)
"""Of a packet, on average; of a copy's segment and of what acknowledges it."""
_SUMS_COPIED = np.array([body for _, body in _SUMS[Work.COPY]])
_OPENINGS = [max(1.0, float(_HEADS[work, Metric.OUT_SYN])) if work in _OPENS else 0.0 for work in Work]
_NEW_PORTS = {Work.SERVE, Work.ASK, Work.REFUSED, Work.REFUSING}
_RESET = {(Work.REFUSED, Direction.OUT), (Work.REFUSING, Direction.IN)}
"""What is answered by a reset, and which way it went."""
_INSTEAD = {Work.UNANSWERED: Work.ASK, Work.REFUSED: Work.ASK, Work.REFUSING: Work.SERVE}
"""Whose peers these are."""
_NEW = np.zeros(len(Work))
_NEW[[Work.SERVE, Work.ASK]] = 0.02, 0.005
"""Of requests, the share with somebody who was not there before."""

_OFF_S, _BOOT_S = 40.0, 10.0
_BOOT_REQUESTS = 3.0
"""A second: names, time, updates, monitoring."""
_COPY_PPS = 1500.0


@dataclass(frozen=True, slots=True)
class Role:
    """What a VM is for: requests a second when it is as busy as it is built for."""

    name: str
    rates: dict[Work, tuple[float, float]]
    """Least and most; drawn evenly in the logarithm."""
    clients: tuple[int, int]
    """Peers that ask it."""


ROLES = (
    Role("web", {Work.SERVE: (0.1, 100), Work.ASK_KEPT: (0.2, 200), Work.LOOK_UP: (0.01, 1)}, (40, 2000)),
    Role("behind a balancer", {Work.SERVE: (0.1, 30), Work.ASK_KEPT: (0.2, 60)}, (1, 3)),
    Role("client", {Work.ASK: (0.05, 30), Work.LOOK_UP: (0.05, 10)}, (1, 1)),
    Role("database", {Work.SERVE_KEPT: (1, 500), Work.LOOK_UP: (0.01, 0.1)}, (2, 20)),
    Role("desktop", {Work.ASK: (0.02, 2), Work.LOOK_UP: (0.02, 2)}, (1, 1)),
)
SHARES = (0.33, 0.05, 0.22, 0.15, 0.25)
"""Of the VMs, by role."""
_ALWAYS = {Work.REPORT: (0.05, 2.0), Work.PINGED: (0.02, 1.0), Work.NEIGHBOURS: (0.01, 0.2)}
_SERVERS = (1, 12)
_APPLICATIONS = (1, 3)
_COPIES = 0.4
"""Of the VMs, those that are backed up once a day."""


@dataclass(frozen=True, slots=True)
class Chances:
    """How often what is out of the ordinary, and nobody's attack, happens to a VM, per day."""

    away: float = 1 / 3
    """A server that it asks does not answer, for up to two minutes."""
    gone: float = 1 / 3
    """The service that it asks is not there, for up to two minutes."""
    restart: float = 1 / 2
    """Its own service is not there for some seconds."""
    reboot: float = 1 / 5
    sessions: tuple[float, float] = (4.0, 40.0)
    """Of its applications when it is as busy as it is built for: least and most."""


@dataclass(slots=True)
class _Session:
    tape: Tape
    began: int


@dataclass(frozen=True, slots=True)
class _Peer:
    address: str
    requests: float
    new: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What is seen of all VMs in one interval."""

    values: Matrix
    """Shape ``(VMs, len(Metric))``: rates."""
    pairs: tuple[PairRate, ...]
    forged: tuple[ForgedCount, ...]


class Vms:
    """So many ordinary VMs, from their first second on."""

    def __init__(
        self,
        names: Sequence[VmId],
        series: Sequence[Series],
        tapes: Sequence[Tape],
        *,
        seconds: float,
        beat_s: float,
        rng: np.random.Generator,
        chances: Chances = Chances(),
    ) -> None:
        self.names = tuple(names)
        self.beat_s = beat_s
        self.chances = chances
        self._rng = rng
        n, steps = len(self.names), int(seconds // STEP_S) + 2
        chosen = [series[i] for i in rng.integers(len(series), size=n)]
        first = [int(rng.integers(len(one.levels))) for one in chosen]
        self._levels = np.stack(
            [one.levels[(at + np.arange(steps)) % len(one.levels)] for one, at in zip(chosen, first, strict=True)]
        )
        own = np.array([one.cpu for one in chosen])
        self._cpu = np.where(own[:, None], self._levels, 0.05 + 0.5 * self._levels).clip(0.0, 1.0)
        self.sources = [one.name for one in chosen]
        self.roles = [ROLES[i] for i in rng.choice(len(ROLES), size=n, p=SHARES)]
        self._rates = np.zeros((n, len(Work)))
        for row, role in enumerate(self.roles):
            for work, (least, most) in (_ALWAYS | role.rates).items():
                self._rates[row, work] = np.exp(rng.uniform(np.log(least), np.log(most)))
        self._clients = np.array([rng.integers(role.clients[0], role.clients[1] + 1) for role in self.roles])
        self._servers = rng.integers(_SERVERS[0], _SERVERS[1] + 1, size=n)
        numbers = rng.integers(_APPLICATIONS[0], _APPLICATIONS[1] + 1, size=n).tolist()
        self.applications = [[tapes[i] for i in rng.integers(len(tapes), size=k)] for k in numbers]
        low, high = np.log(chances.sessions)
        self._sessions = np.exp(rng.uniform(low, high, size=n)) / DAY_S
        self._swings = np.stack([rng.normal(0.0, spread, size=n) for _, spread in SWINGS])
        self._until = {what: np.full(n, -1.0) for what in ("away", "gone", "restart", "off", "boot")}
        self._copies = rng.random(n) < _COPIES
        self._copies_at = rng.uniform(0, DAY_S, size=n)
        self._copies_s = rng.uniform(60.0, 1200.0, size=n)
        self.allowed = np.zeros((n, len(PACKET_METRICS)), np.float32)
        """Packets a second, by class, above which a VM's peers are to be told."""
        self.watched = np.zeros(n, bool)
        """Whose peers are to be told whatever they do."""
        self._loud_until = np.full(n, -np.inf)
        self._active: dict[int, _Session] = {}
        self._requests: Numbers = np.zeros((n, len(Work)))
        self._lately: Numbers = np.zeros((n, len(Work)))
        """Requests of about the last second: so long a data plane remembers which ports were tried."""
        self._number = 0
        self._turns = round(TOLD_EVERY_S / beat_s)
        self._turn = np.arange(n) * self._turns // n
        """When each has its peers told, though nothing is the matter with it: sensors tell them always."""
        self._strangers = 0

    @property
    def now_s(self) -> float:
        """Seconds since their first one."""
        return self._number * self.beat_s

    def step(self) -> Step:
        """The next interval."""
        at = self.now_s
        level = self._levels[:, int(at // STEP_S)]
        self._happens(at)
        requests, sizes = self._requests_now(level, at)
        self._lately = self._lately * np.exp(-self.beat_s) + requests
        counts = np.zeros((len(self.names), len(Metric)), np.float32)
        told = counts[:, : Metric.CPU]
        told += requests.astype(np.float32) @ _HEADS
        told += np.rint((requests * sizes).astype(np.float32) @ _BODIES)
        fresh = self._rng.poisson(requests @ _NEW)
        told[:, Metric.NEW_DESTINATIONS] += fresh
        self._fans(told, requests, fresh)
        copied = (requests * sizes)[:, Work.COPY, None] * _SUMS_COPIED
        told[:, Metric.OUT_BYTES] = _OCTETS * told[:, _OUT].sum(axis=1) + (_COPIED[0] - _OCTETS) * copied[:, 0]
        told[:, Metric.IN_BYTES] = _OCTETS * told[:, _IN].sum(axis=1) + (_COPIED[1] - _OCTETS) * copied[:, 1]
        begins = (requests[:, Work.COPY] > 0) & (self._requests[:, Work.COPY] == 0)
        told[np.ix_(begins, [Metric.OUT_SYN, Metric.IN_SYNACK])] += 1.0
        pairs: list[PairRate] = []
        forged: list[ForgedCount] = []
        self._begin_sessions(level)
        for row, moment in self._moments():
            states = told[row, list(STATES)]
            told[row] += moment.counts
            told[row, list(STATES)] = np.maximum(states, moment.counts[list(STATES)])
            pairs += [rated(pair, self.names[row]) for pair in moment.pairs]
            forged += [ForgedCount(self.names[row], one.kind, one.frames) for one in moment.forged]
        told /= _divisors(self.beat_s)
        self._mark(told, requests, fresh, at)
        for row in np.flatnonzero((self._loud_until >= at) | (self._turn == self._number % self._turns)).tolist():
            pairs += self._pairs(row, requests[row], sizes[row], int(fresh[row]))
        counts[:, Metric.CPU :] = self._resources(level, at)
        self._number += 1
        self._requests = requests
        return Step(counts, tuple(pairs), tuple(forged))

    def requests(self, row: int) -> Numbers:
        """How many requests of each kind of work a VM had in the last interval."""
        found: Numbers = self._requests[row]
        return found

    def doing(self, row: int) -> str:
        """What a VM is about just now, for whoever wonders why it was noticed."""
        at = self.now_s - self.beat_s
        found = [what for what, until in self._until.items() if at < until[row]]
        if self._requests[row, Work.COPY]:
            found.append("copy")
        if row in self._active:
            found.append(self._active[row].tape.name)
        return f"{self.roles[row].name}: {', '.join(found) or 'its usual work'}"

    # --- what happens to them ----
    def _happens(self, at: float) -> None:
        n = len(self.names)
        for what, seconds in (("away", 120.0), ("gone", 120.0), ("restart", 10.0)):
            struck = self._rng.random(n) < getattr(self.chances, what) * self.beat_s / DAY_S
            if struck.any():
                self._until[what][struck] = at + self._rng.uniform(2.0, seconds, size=int(struck.sum()))
        struck = self._rng.random(n) < self.chances.reboot * self.beat_s / DAY_S
        if struck.any():
            self._until["off"][struck] = at + _OFF_S
            self._until["boot"][struck] = at + _OFF_S + _BOOT_S
            for row in np.flatnonzero(struck).tolist():
                self._active.pop(row, None)

    def _requests_now(self, level: Matrix, at: float) -> tuple[Numbers, Numbers]:
        """How many of each kind, and how large."""
        n, rng = len(self.names), self._rng
        for which, (constant, spread) in enumerate(SWINGS):
            kept = np.exp(-self.beat_s / constant)
            self._swings[which] = kept * self._swings[which] + rng.normal(0.0, spread * np.sqrt(1 - kept**2), size=n)
        mean = self._rates * self.beat_s
        busy = level * np.exp(self._swings.sum(axis=0) - sum(spread * spread for _, spread in SWINGS) / 2)
        mean[:, : Work.REPORT] *= busy[:, None]
        copying = self._copies & ((at - self._copies_at) % DAY_S < self._copies_s)
        booting = (at < self._until["boot"]) & (at >= self._until["off"])
        mean[booting, Work.ASK] += _BOOT_REQUESTS * self.beat_s
        mean[booting, Work.LOOK_UP] += _BOOT_REQUESTS * self.beat_s
        mean[:, : Work.SERVE_KEPT] /= BUNCH
        requests = np.zeros((n, len(Work)))
        drawn = slice(0, Work.COPY)
        requests[:, drawn] = rng.poisson(mean[:, drawn])
        requests[:, Work.NEIGHBOURS] = rng.poisson(mean[:, Work.NEIGHBOURS])
        bunches = requests[:, : Work.SERVE_KEPT]
        some = bunches > 0
        if some.any():
            bunches[some] += rng.negative_binomial(bunches[some], 1 / BUNCH)
        requests[copying, Work.COPY] = np.rint(_COPY_PPS * self.beat_s)
        for what, usual, instead in (
            ("away", Work.ASK, Work.UNANSWERED),
            ("gone", Work.ASK, Work.REFUSED),
            ("restart", Work.SERVE, Work.REFUSING),
        ):
            hit = at < self._until[what]
            if hit.any():
                requests[hit, instead] += requests[hit, usual]
                requests[hit, usual] = 0.0
        requests[at < self._until["off"]] = 0.0
        sizes = np.broadcast_to(np.exp(rng.normal(0.0, SIZES, size=(n, 1))), requests.shape)
        return requests, sizes

    def _begin_sessions(self, level: Matrix) -> None:
        chance = self._sessions * np.minimum(level, 1.0) * self.beat_s
        for row in np.flatnonzero(self._rng.random(len(self.names)) < chance).tolist():
            if row not in self._active:
                own = self.applications[row]
                self._active[row] = _Session(own[int(self._rng.integers(len(own)))], self._number)

    def _moments(self) -> Iterator[tuple[int, Moment]]:
        over = []
        for row, session in self._active.items():
            number = self._number - session.began
            if number >= session.tape.length:
                over.append(row)
                continue
            moment = session.tape.moments.get(number)
            if moment is not None:
                yield row, moment
        for row in over:
            del self._active[row]

    def _resources(self, level: Matrix, at: float) -> Matrix:
        n = len(self.names)
        values = np.full((n, len(Metric) - Metric.CPU), np.nan, np.float32)
        base = Metric.CPU
        noise = self._rng.normal(0.0, 0.02, size=n)
        values[:, Metric.CPU - base] = (self._cpu[:, int(at // STEP_S)] + noise).clip(0.0, 1.0)
        values[:, Metric.CPU_WAIT - base] = 0.01
        values[:, Metric.MEMORY - base] = (0.3 + 0.4 * level).clip(0.0, 0.85)
        values[:, Metric.BLOCK_WRITES - base] = 20.0 * level
        return values

    # --- whom they talk with ----
    def _fans(self, told: Matrix, requests: Numbers, fresh: Whole) -> None:
        """Of few requests each has a peer of its own, nearly."""
        clients, servers = self._clients, self._servers
        served = requests[:, [Work.SERVE, Work.SERVE_KEPT, Work.PINGED, Work.REFUSING]].sum(axis=1)
        asked = requests[:, [Work.ASK, Work.ASK_KEPT, Work.UNANSWERED, Work.REFUSED]].sum(axis=1)
        others = np.minimum(served, clients) + np.minimum(asked, servers) + (requests[:, Work.LOOK_UP] > 0) + fresh
        told[:, Metric.FAN_IN] = others
        told[:, Metric.FAN_OUT] = others + (requests[:, Work.REPORT] > 0)
        told[:, Metric.PORTS_TRIED] = np.minimum(np.ceil(served / clients) + (asked > 0), 64.0)

    def _mark(self, told: Matrix, requests: Numbers, fresh: Whole, at: float) -> None:
        """Whose peers are told from now on for some seconds: all whom the judge could want to look at, and more."""
        loud = (told[:, PACKET_METRICS] > self.allowed).any(axis=1) | self.watched
        loud |= requests[:, [Work.UNANSWERED, Work.REFUSED]].any(axis=1)
        loud |= self._lately[:, Work.SERVE] >= MANY_OF_ONE * self._clients
        self._loud_until[loud] = at + LOUD_S
        meeting = (fresh > 0) & (self._loud_until < at)
        self._loud_until[meeting] = at

    def _pairs(self, row: int, requests: Numbers, sizes: Numbers, fresh: int) -> list[PairRate]:
        found: list[PairRate] = []
        lately = self._lately[row].tolist()
        size = float(sizes[0])
        for work, many in zip(Work, requests.tolist(), strict=True):
            if many and work is not Work.NEIGHBOURS:
                for peer in self._peers(row, work, int(many), fresh):
                    self._pair(found, row, work, peer, (size, lately[work] / many))
        return found

    def _peers(self, row: int, work: Work, requests: int, fresh: int) -> list[_Peer]:
        """Who is asked or asks, how often, and whether for the first time."""
        kind = _INSTEAD.get(work, work)
        size = 1
        if kind in {Work.SERVE, Work.SERVE_KEPT}:
            size = int(self._clients[row])
        elif kind in {Work.ASK, Work.ASK_KEPT}:
            size = int(self._servers[row]) if kind is Work.ASK else max(1, int(self._servers[row]) // 3)
        new = min(fresh, requests, TOLD) if _NEW[work] else 0
        found = []
        for _ in range(new):
            self._strangers += 1
            found.append(_Peer(f"198.18.{self._strangers >> 8 & 255}.{self._strangers & 255}", 1.0, True))
        left = requests - new
        if left <= 0:
            return found
        if size == 1:
            return [*found, _Peer(f"10.{kind.value}.{row >> 8 & 255}.{row & 255}", float(left), False)]
        if left <= FEW:
            drawn = [int(self._rng.random() * size) for _ in range(left)]
            return [*found, *(_Peer(_address(kind, row, peer), 1.0, False) for peer in drawn)]
        drawn = self._rng.integers(size, size=min(left, 1000)).tolist()
        each = left / len(drawn)
        busiest = Counter(drawn).most_common(TOLD)
        return [*found, *(_Peer(_address(kind, row, peer), count * each, False) for peer, count in busiest)]

    def _pair(self, found: list[PairRate], row: int, work: Work, peer: _Peer, how: tuple[float, float]) -> None:
        """Both directions of what goes on with one peer; ``how``: a request's size, and ports per request."""
        size, ports = how
        many, vm, rate = peer.requests, self.names[row], 1.0 / self.beat_s
        (out_head, out_body), (in_head, in_body) = _SUMS[work]
        out, into = many * (out_head + size * out_body), many * (in_head + size * in_body)
        begins = work is Work.COPY and not self._requests[row, Work.COPY]
        opened = 1.0 if begins else many * _OPENINGS[work]
        ours = work in _BEGUN_HERE
        service = 1 << (7 * _INSTEAD.get(work, work) % 64)
        # Whoever answers does so to a port of the asker's choice: of each connection another.
        chosen = min(64, max(1, round(many * ports))) if work in _NEW_PORTS else 1
        for direction, sent, back in ((Direction.OUT, out, into), (Direction.IN, into, out)):
            asks = ours is (direction is Direction.OUT)
            if sent > 0:
                pair = PairRate(
                    vm,
                    direction,
                    OUTSIDE,
                    peer.address,
                    sent * rate,
                    (_COPIED[direction] if work is Work.COPY else _OCTETS) * sent * rate,
                    opened * rate if asks else 0.0,
                    back * rate,
                    many * rate if (work, direction) in _RESET else 0.0,
                    1 if asks else chosen,
                    new=peer.new,
                    services=service if asks else (1 << chosen) - 1,
                )
                found.append(pair)


def _address(kind: Work, row: int, peer: int) -> str:
    return f"100.{64 + kind.value}.{row & 255}.{peer & 255}"


def _divisors(beat_s: float) -> Matrix:
    divisors = np.full(Metric.CPU, beat_s, np.float32)
    divisors[list(STATES)] = 1.0
    return divisors
