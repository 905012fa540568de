"""A server as a kernel has it: descriptors, a backlog before them, SYNs dropped when that is full; and its clients."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from hypervigil.model.traffic import TrafficClass
from tests.unit.host.hsem.behaviour import Pace
from tests.unit.host.hsem.scene import Scene

SYN, SYNACK, TCP = TrafficClass.SYN, TrafficClass.SYNACK, TrafficClass.TCP
REPEATED_S = (1.0, 3.0, 7.0, 15.0, 31.0)
"""A SYN that is not answered is sent again so long after the first."""


@dataclass(eq=False)
class Connection:
    """One try; a ``request`` of no octets waits for what the server says, and of ``None`` nothing is ever asked."""

    client: str
    begun: float
    request: int | None
    patience_s: float
    drips_s: float = 0.0
    """Of a request that is begun and never ended: seconds from line to line."""
    repeated: int = 0
    gone: bool = False


class Server:
    """One process that answers each request at once, if it has a descriptor for it and is not stalled."""

    def __init__(
        self, name: str, *, descriptors: int = 1024, backlog: int = 512, hang_up_s: float = 10.0, per_s: float = 1e9
    ) -> None:
        self.name, self.descriptors, self.backlog, self.hang_up_s = name, descriptors, backlog, hang_up_s
        self.stalled: Callable[[float], bool] = lambda _: False
        self.served: dict[str, int] = {}
        self.tried: dict[str, int] = {}
        self._capacity, self._clients = Pace(per_s), list[Callable[[float, float], list[Connection]]]()
        self._again: list[tuple[float, Connection]] = []
        self._queue: deque[Connection] = deque()
        self._held: deque[tuple[float, Connection]] = deque()
        self._dripping: deque[tuple[float, Connection]] = deque()
        self._at, self._left = 0.0, 0
        self._said: Counter[tuple[str, str, TrafficClass, int]] = Counter()

    def client(
        self, name: str, per_s: float, *, request: int | None = 60, patience_s: float = 3.0, wobble: float = 0.3,
        since: float = 0.0, until: float = 1e9, drips_s: float = 0.0,
    ) -> "Server":  # fmt: skip
        """It begins so many connections a second, whatever becomes of them; times in seconds of the server's."""
        pace = Pace(per_s, wobble)

        def begin(at: float, s: float) -> list[Connection]:
            fresh = pace(s) if since <= at < until else 0
            return [Connection(name, at, request, patience_s, drips_s) for _ in range(fresh)]

        self._clients.append(begin)
        return self

    def hoarder(self, name: str, per_s: float, *, since: float = 0.0, until: float = 1e9) -> "Server":
        """It says nothing and never gives up."""
        return self.client(name, per_s, request=None, patience_s=1e9, wobble=0.0, since=since, until=until)

    def slow(
        self, name: str, per_s: float, *, every_s: float = 1.0, since: float = 0.0, until: float = 1e9
    ) -> "Server":
        """It begins a request on each, adds a line now and then, and never ends it."""
        return self.client(
            name, per_s, request=None, patience_s=1e9, wobble=0.0, since=since, until=until, drips_s=every_s
        )

    def __call__(self, scene: Scene, s: float) -> None:
        """One interval."""
        at = self._at
        due = [one for when, one in self._again if when <= at]
        self._again = [(when, one) for when, one in self._again if when > at]
        fresh = [one for begin in self._clients for one in begin(at, s)]
        for one in fresh:
            self.tried[one.client] = self.tried.get(one.client, 0) + 1
        tries = [one for one in due if at - one.begun < one.patience_s] + fresh
        tries.sort(key=lambda one: hash((one.begun, one.repeated)) % 97)
        arrived = Counter(one.client for one in tries)
        for client, number in arrived.items():
            arrived[client] = scene.send(client, self.name, SYN, number, octets=74)
        # Between frames the server takes what it can: not all of an interval's come at once.
        for number, one in enumerate(tries):
            arrived[one.client] -= 1
            self._try(one, at, arrived=arrived[one.client] >= 0)
            if number % 8 == 7:
                self._accept(at)
        self._left = self._capacity(s)
        self._accept(at)
        self._end(at)
        self._drip(at)
        for (source, target, traffic, octets), packets in self._said.items():
            scene.send(source, target, traffic, packets, octets=octets)
        self._said.clear()
        self._at = round(at + s, 6)

    def _say(self, one: Connection, packets: int, octets: int, *, back: bool, traffic: TrafficClass = TCP) -> None:
        ends = (self.name, one.client) if back else (one.client, self.name)
        self._said[*ends, traffic, octets] += packets

    def _try(self, one: Connection, at: float, *, arrived: bool) -> None:
        if not arrived or len(self._queue) >= self.backlog:
            if one.repeated < len(REPEATED_S):
                self._again.append((one.begun + REPEATED_S[one.repeated], one))
                one.repeated += 1
            return
        self._say(one, 1, 74, back=True, traffic=SYNACK)
        self._say(one, 1, 66, back=False)
        if one.request:
            self._say(one, 1, 66 + one.request, back=False)
            self._say(one, 1, 66, back=True)
        if one.drips_s:
            self._say(one, 1, 66 + 27, back=False)
            self._say(one, 1, 66, back=True)
            self._dripping.append((at + one.drips_s, one))
        self._queue.append(one)

    def _drip(self, at: float) -> None:
        while self._dripping and self._dripping[0][0] <= at:
            _, one = self._dripping.popleft()
            if not one.gone:
                self._say(one, 1, 66 + 8, back=False)
                self._say(one, 1, 66, back=True)
                self._dripping.append((at + one.drips_s, one))

    def _accept(self, at: float) -> None:
        while self._queue and len(self._held) < self.descriptors and self._left > 0 and not self.stalled(at):
            one = self._queue.popleft()
            self._left -= 1
            if one.gone:
                continue
            if one.request is None:
                self._held.append((at, one))
                continue
            self._say(one, 2, 600, back=True)
            self._say(one, 2, 66, back=False)
            self._say(one, 1, 66, back=True)
            self.served[one.client] = self.served.get(one.client, 0) + 1

    def _end(self, at: float) -> None:
        while self._held and at - self._held[0][0] >= self.hang_up_s and not self.stalled(at):
            _, one = self._held.popleft()
            one.gone = True
            self._say(one, 2, 66, back=True)
            self._say(one, 2, 66, back=False)
        for one in self._queue:
            if not one.gone and one.request is not None and at - one.begun >= one.patience_s:
                one.gone = True
                self._say(one, 1, 66, back=False)
                self._say(one, 1, 66, back=True)
