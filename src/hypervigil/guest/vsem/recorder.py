"""What was seen of the guest's traffic: the second under way, and flows of the last minutes. Pure and bounded."""

from __future__ import annotations

from hypervigil.guest import addresses
from hypervigil.guest.vsem.frames import Frame
from hypervigil.guest.words import CLASSES, IN, MULTICAST, OUT

FLOWS = 512
FLOW_MS = 600_000
PEERS = 1024
PORTS = 64
"""Ports remembered per address tried, and usual ports of the guest's own."""
TALKERS = 8

# The places of a flow's record.
_BEGAN, _FIRST, _LAST, _PACKETS, _OCTETS, _OPENINGS = 0, 1, 2, 3, 5, 7


class Second:
    """Estimates of one interval, by class in both directions, and who was at the other end."""

    __slots__ = ("classes", "odd_ports", "odd_read", "one_in", "passed", "peers", "ports", "read", "read_of", "weights")

    def __init__(self) -> None:
        self.classes = ([0] * CLASSES, [0] * CLASSES)
        self.peers: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
        self.ports: dict[bytes, set[int]] = {}
        self.odd_ports = 0
        self.read = [0, 0]
        """Headers in each direction, and of these by class, and towards ports that are not usual."""
        self.read_of = ([0] * CLASSES, [0] * CLASSES)
        self.odd_read = 0
        self.weights = [1, 1]
        self.passed = [0, 0]
        """Headers that the kernel picked, read or not."""
        self.one_in = [1, 1]

    def talkers(self) -> list[tuple[int, str, int]]:
        """The busiest addresses."""
        return busiest(self.peers, TALKERS)


def busiest(peers: tuple[dict[bytes, int], dict[bytes, int]], count: int) -> list[tuple[int, str, int]]:
    """Direction, address and packets of the busiest."""
    found = [(packets, way, address) for way in (OUT, IN) for address, packets in peers[way].items()]
    found.sort(reverse=True)
    return [(way, addresses.text(address), packets) for packets, way, address in found[:count]]


class Recorder:
    """Takes frames and connections, gives seconds and flows."""

    __slots__ = ("_flows", "_told", "_usual", "networks", "second", "usual_ports")

    def __init__(self) -> None:
        self.second = Second()
        self.networks = addresses.Networks([])
        self.usual_ports: frozenset[int] = frozenset()
        """As the host said; empty: the guest's own memory."""
        self._usual: dict[int, int] = {}
        self._flows: dict[tuple[int, bytes, int, bytes, int], list[int]] = {}
        self._told: dict[tuple[int, bytes, int, bytes, int], tuple[int, ...]] = {}

    def frame(self, way: int, frame: Frame, weight: int, at_ms: int) -> None:
        """One sampled frame stands for ``weight`` of its kind."""
        second = self.second
        packets = frame.packets * weight
        second.classes[way][frame.traffic] += packets
        second.read_of[way][frame.traffic] += 1
        if not frame.here or frame.traffic == MULTICAST:
            return
        peers = second.peers[way]
        peer = frame.there
        if peer in peers:
            peers[peer] += packets
        elif len(peers) < PEERS:
            peers[peer] = packets
        if way == OUT and frame.opens:
            self._tried(peer, frame.there_port, weight, at_ms)
        began = way if frame.opens or frame.there_port < frame.here_port else 1 - way
        self._flow(frame, way, began, weight, at_ms)

    def connection(self, here: bytes, here_port: int, there: bytes, there_port: int, at_ms: int) -> None:
        """A TCP connection that was not there before; its frames may not have been among those sampled."""
        way = OUT if there_port < here_port else IN
        peers = self.second.peers[way]
        if there not in peers and len(peers) < PEERS:
            peers[there] = 1
        key = (6, here, here_port, there, there_port)
        if key not in self._flows:
            self._make_room()
            self._flows[key] = [way, at_ms, at_ms, 0, 0, 0, 0, 1]
            if way == OUT:
                self._tried(there, there_port, 1, at_ms)

    def _tried(self, peer: bytes, port: int, weight: int, at_ms: int) -> None:
        if not port:
            return
        ports = self.second.ports
        seen = ports.get(peer)
        if seen is None:
            if len(ports) >= PEERS:
                return
            seen = ports[peer] = set()
        if len(seen) < PORTS:
            seen.add(port)
        if self.usual_ports:
            odd = port not in self.usual_ports
        else:
            odd = port not in self._usual
            if odd and len(self._usual) >= PORTS:
                del self._usual[min(self._usual, key=self._usual.__getitem__)]
            self._usual[port] = at_ms
        if odd:
            self.second.odd_ports += weight
            self.second.odd_read += 1

    def _flow(self, frame: Frame, way: int, began: int, weight: int, at_ms: int) -> None:
        key = (frame.protocol, frame.here, frame.here_port, frame.there, frame.there_port)
        record = self._flows.pop(key, None)
        if record is None:
            self._make_room()
            record = [began, at_ms, at_ms, 0, 0, 0, 0, 0]
        record[_LAST] = at_ms
        record[_PACKETS + way] += frame.packets * weight
        record[_OCTETS + way] += frame.octets * weight
        record[_OPENINGS] += weight if frame.opens else 0
        self._flows[key] = record  # the last used is the last to go

    def _make_room(self) -> None:
        if len(self._flows) >= FLOWS:
            oldest = next(iter(self._flows))
            del self._flows[oldest]
            self._told.pop(oldest, None)

    def take_second(self) -> Second:
        """The second that is over; another begins."""
        over, self.second = self.second, Second()
        return over

    def fresh_flows(self, count: int) -> tuple[list[tuple[object, ...]], int]:
        """The busiest flows since the last call with what each had since then, and how many there were."""
        changed = []
        for key, record in self._flows.items():
            told = self._told.get(key)
            if told is None or record[_LAST] != told[_LAST]:
                before = told[_PACKETS:] if told is not None else (0, 0, 0, 0, 0)
                since = [now - then for now, then in zip(record[_PACKETS:], before)]
                changed.append((since[0] + since[1], key, record[_BEGAN], since))
        self._told = {key: tuple(record) for key, record in self._flows.items()}
        changed.sort(key=lambda entry: -entry[0])
        return [self._flow_told(key, began, since) for _, key, began, since in changed[:count]], len(changed)

    def flows_since(self, since_ms: int, count: int) -> tuple[list[tuple[object, ...]], int]:
        """The busiest flows that were seen since then, each from its beginning, and how many there were."""
        found = [(record, key) for key, record in self._flows.items() if record[_LAST] >= since_ms]
        found.sort(key=lambda entry: -entry[0][_PACKETS] - entry[0][_PACKETS + 1])
        return [self._flow_told(key, record[_BEGAN], record[_PACKETS:]) for record, key in found[:count]], len(found)

    def _flow_told(self, key: tuple[int, bytes, int, bytes, int], began: int, amounts: list[int]) -> tuple[object, ...]:
        protocol, here, here_port, there, there_port = key
        head = (began, protocol, addresses.text(here), here_port, addresses.text(there), there_port)
        return (*head, self.networks.zone(there), *amounts)

    def talkers(self, count: int) -> list[tuple[int, str, int]]:
        """The busiest addresses of the flows that are remembered."""
        peers: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
        for key, record in self._flows.items():
            for way in (OUT, IN):
                if record[_PACKETS + way]:
                    peers[way][key[3]] = peers[way].get(key[3], 0) + record[_PACKETS + way]
        return busiest(peers, count)

    def relax(self) -> None:
        """Nobody wants fresh flows for now; the next time they are told from their beginning."""
        self._told = {}

    def forget(self, now_ms: int) -> None:
        """Flows that were not seen for ``FLOW_MS`` go."""
        for key in list(self._flows):
            if now_ms - self._flows[key][_LAST] < FLOW_MS:
                break
            del self._flows[key]
            self._told.pop(key, None)
