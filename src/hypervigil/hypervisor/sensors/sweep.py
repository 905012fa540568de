"""Two snapshots of the data plane's counters to what each NIC did in between. Pure; arrays, not packets.

Counters only grow, so a smaller value means that they began anew. A slot of a port that was not there before counts
from the slot's last value: nothing of a VM's first frames is lost, and nothing of a former owner is blamed on it.
"""

from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import islice

import numpy as np
import numpy.typing as npt

from hypervigil.hypervisor.adapters.ebpf.reader import GREETERS
from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.observation import ClassCounts, GreeterCount, PeerCount, PortSample
from hypervigil.model.traffic import DenialKind, Direction, ForgedKind, TrafficClass

TOP_PEERS = 16
"""The busiest peers told per port and direction."""
MAX_GREETERS = 16
"""Services that speak first told per port."""
MAX_PEERS = 32
"""Peers told per port in all: the busiest, then those that are new."""

_DIRECTIONS, _CLASSES, _KINDS, _DENIALS = len(Direction), len(TrafficClass), len(ForgedKind), len(DenialKind)
_BY_CLASS = _DIRECTIONS * _CLASSES * 3
_ALL_DENIALS = _DIRECTIONS * _DENIALS
_FAN_NS = 1_000_000_000
_BEHIND_NS = 100_000_000
"""So far behind our clock the data plane's may be: it is looked at once in a tick, and ticks may be late."""
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"
_DIRECTION = tuple(Direction)
_AMOUNTS = ("packets", "octets", "openings", "resets")

Records = npt.NDArray[np.void]
Words = npt.NDArray[np.uint64]
Whole = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Snapshot:
    """Everything the data plane counted until ``at``, indexed for comparison with a later one of the same ``seed``.

    ``ports``, ``counters``, ``peers`` and ``denied`` are as ``DataPlaneReader`` gives them. ``at`` is from before they
    were read.
    ``seed`` is 64 bits that no guest knows: who could make addresses collide could mix up others' counts.
    """

    def __init__(
        self,
        at: Instant,
        ports: Records,
        counters: Records,
        peers: Records,
        seed: int,
        *,
        denied: Words | None = None,
        greeters: Records | None = None,
    ) -> None:
        self.ports = ports
        words = np.ascontiguousarray(counters).view(np.uint64).reshape(len(counters), -1)
        none = np.zeros((len(counters), _ALL_DENIALS), np.uint64)
        self.counters: Words = np.hstack([none if denied is None else denied, words])
        """By slot: what was denied, by direction and kind, then the counters."""
        self.at_ns: Words = np.full(len(counters), int(at * 1e9), np.uint64)
        """By slot."""
        self.seed = seed
        self.index(peers)
        self.greeters = np.zeros(0, GREETERS) if greeters is None else greeters
        self.greeters_by_hash = _Index(hash_keys(self.greeters["key"], seed))

    def index(self, peers: Records) -> None:
        """Take these peers."""
        self.peers = peers
        self.peer_hashes = hash_keys(peers["key"], self.seed)
        self.by_hash = _Index(self.peer_hashes)

    def advanced(self, after: "Snapshot", slots: Collection[int]) -> "Snapshot":
        """The same, but as ``after`` has it for these slots."""
        mixed = copy(self)
        chosen = np.zeros(len(self.counters), np.bool_)
        chosen[np.fromiter(slots, np.int64, len(slots))] = True
        mixed.counters = np.where(chosen[:, None], after.counters, self.counters)
        mixed.at_ns = np.where(chosen, after.at_ns, self.at_ns)
        old, new = self.peers["key"]["slot"], after.peers["key"]["slot"]
        mixed.index(np.concatenate([self.peers[~chosen[old]], after.peers[chosen[new]]]))
        old, new = self.greeters["key"]["slot"], after.greeters["key"]["slot"]
        mixed.greeters = np.concatenate([self.greeters[~chosen[old]], after.greeters[chosen[new]]])
        mixed.greeters_by_hash = _Index(hash_keys(mixed.greeters["key"], self.seed))
        return mixed


class _Index:
    """Rows by hash."""

    def __init__(self, hashes: Words) -> None:
        self._order: Whole = np.argsort(hashes, kind="stable").astype(np.int64)
        self._sorted: Words = hashes[self._order]

    def find(self, wanted: Words) -> tuple[Whole, Flags]:
        if not len(self._sorted):
            return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
        at = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return self._order[at], self._sorted[at] == wanted


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Peers that were active in the interval; every array has one element per peer."""

    rows: Whole
    slot: Whole
    direction: Whole
    amounts: dict[str, Words]
    answers: Words
    resets: Words
    ports: Whole
    services: Words
    new: Flags


def port_ids(snapshot: Snapshot) -> dict[int, PortId]:
    """The port that each used slot belongs to."""
    port = snapshot.ports["port"]
    macs = np.ascontiguousarray(port["mac"])
    return {int(slot): PortId(bytes(mac).hex(":")) for slot, mac in zip(port["slot"], macs, strict=True)}


def compare(
    before: Snapshot, after: Snapshot, owners: Mapping[PortId, VmId], only: Collection[int] | None = None
) -> tuple[PortSample, ...]:
    """What every NIC with an owner (and with one of the slots ``only``) did in between; silent ones are left out."""
    slots = {slot: port for slot, port in port_ids(after).items() if port in owners and (only is None or slot in only)}
    if not slots:
        return ()
    index = np.fromiter(slots, np.int64, len(slots))
    grown = _grown(before.counters[index], after.counters[index])
    fans = _fans(after)
    traffic = _traffic(before, after)
    peers = _peers(after.peers, traffic, _choose(traffic))
    greeters = _greeters(before, after)
    samples = []
    for row in np.flatnonzero(grown.any(axis=1)).tolist():
        slot = int(index[row])
        port = slots[slot]
        denied, counts = grown[row, :_ALL_DENIALS].tolist(), grown[row, _ALL_DENIALS:].tolist()
        forged_end = _BY_CLASS + _KINDS
        samples.append(
            PortSample(
                vm=owners[port],
                port=port,
                out=_class_counts(counts, Direction.OUT),
                into=_class_counts(counts, Direction.IN),
                forged=tuple(counts[_BY_CLASS:forged_end]),
                new_destinations=counts[forged_end],
                failures=counts[forged_end + 1],
                peers=tuple(peers.get(slot, ())),
                fan_out=fans.get((slot, Direction.OUT), 0),
                fan_in=fans.get((slot, Direction.IN), 0),
                greeters=tuple(greeters.get(slot, ())),
                denied=(tuple(denied[:_DENIALS]), tuple(denied[_DENIALS:])) if any(denied) else (),
            )
        )
    return tuple(samples)


def _class_counts(counts: list[int], direction: Direction) -> ClassCounts:
    words = counts[direction * _CLASSES * 3 : (direction + 1) * _CLASSES * 3]
    return ClassCounts(tuple(words[0::3]), tuple(words[1::3]), tuple(words[2::3]))


def _grown(old: Words, new: Words) -> Words:
    return np.where(new >= old, new - old, new)


def _fans(after: Snapshot) -> dict[tuple[int, int], int]:
    """How many addresses each port exchanged frames with in the last second, by slot and direction."""
    slot = after.peers["key"]["slot"]
    key = after.peers["key"][after.peers["peer"]["last_ns"] + np.uint64(_FAN_NS) > after.at_ns[slot]]
    fans, counts = np.unique(key["slot"].astype(np.int64) * 2 + key["direction"], return_counts=True)
    return {divmod(fan, 2): count for fan, count in zip(fans.tolist(), counts.tolist(), strict=True)}


def _traffic(before: Snapshot, after: Snapshot) -> _Traffic:
    since, behind = before.at_ns[after.peers["key"]["slot"]], np.uint64(_BEHIND_NS)
    rows: Whole = np.flatnonzero(after.peers["peer"]["last_ns"] + behind > since).astype(np.int64)
    new = after.peers["peer"][rows]
    at, known = before.by_hash.find(after.peer_hashes[rows])
    old = before.peers["peer"][at] if len(before.peers) else np.zeros(len(rows), new.dtype)
    same = known & (old["first_ns"] == new["first_ns"])
    fresh = ~same & (new["first_ns"] + behind > since[rows])
    amounts = {name: np.where(same, _grown(old[name], new[name]), new[name]) for name in _AMOUNTS}
    # Of an old entry that the earlier reading missed nothing is known for this interval; the next one will tell.
    keep = (same | fresh) & (amounts["packets"] > 0)
    rows = rows[keep]
    amounts = {name: values[keep] for name, values in amounts.items()}
    key, peer = after.peers["key"][rows], after.peers["peer"][rows]
    opposite = key.copy()
    opposite["direction"] ^= 1
    at, answered = _Index(after.peer_hashes[rows]).find(hash_keys(opposite, after.seed))
    tried = np.ascontiguousarray(peer["ports_now"] | peer["ports_before"])
    return _Traffic(
        rows=rows,
        slot=key["slot"].astype(np.int64),
        direction=key["direction"].astype(np.int64),
        amounts=amounts,
        answers=np.where(answered, amounts["packets"][at], np.uint64(0)),
        resets=np.where(answered, amounts["resets"][at], np.uint64(0)),
        ports=np.unpackbits(tried.view(np.uint8)).reshape(len(rows), 64).sum(axis=1, dtype=np.int64),
        services=tried,
        new=fresh[keep],
    )


def _choose(traffic: _Traffic) -> dict[int, list[int]]:
    """Which peers to tell of, by slot: the busiest of each direction, then new ones while there is room."""
    quiet = ~traffic.amounts["packets"]
    order = np.lexsort((quiet, traffic.direction, traffic.slot))
    busiest = order[_rank(traffic.slot[order] * 2 + traffic.direction[order]) < TOP_PEERS]
    left = traffic.new.copy()
    left[busiest] = False
    others = np.flatnonzero(left)
    others = others[np.lexsort((quiet[others], traffic.slot[others]))]
    told = np.concatenate([busiest, others])
    told = told[np.argsort(traffic.slot[told], kind="stable")]
    told = told[_rank(traffic.slot[told]) < MAX_PEERS]
    chosen: dict[int, list[int]] = {}
    for slot, at in zip(traffic.slot[told].tolist(), told.tolist(), strict=True):
        chosen.setdefault(slot, []).append(at)
    return chosen


def _rank(groups: Whole) -> Whole:
    """The place of each element in its run of equal values."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    lengths = np.diff(starts, append=len(groups))
    return np.arange(len(groups), dtype=np.int64) - np.repeat(starts, lengths)


def _peers(peers: Records, traffic: _Traffic, chosen: Mapping[int, list[int]]) -> dict[int, list[PeerCount]]:
    """What is told of the chosen peers. Whole columns at once: there are thousands, several times a second."""
    at = np.fromiter((index for those in chosen.values() for index in those), np.int64)
    rows = traffic.rows[at]
    counts = [traffic.amounts[name] for name in _AMOUNTS[:3]] + [traffic.answers, traffic.resets]
    columns = zip(
        traffic.direction[at].tolist(),
        np.ascontiguousarray(peers["key"]["address"][rows]).view("S16").ravel().tolist(),
        _macs(np.ascontiguousarray(peers["peer"]["mac"][rows])),
        np.stack([column[at] for column in counts], axis=1).tolist(),
        traffic.ports[at].tolist(),
        traffic.services[at].tolist(),
        traffic.new[at].tolist(),
        strict=True,
    )
    told = (
        PeerCount(
            _DIRECTION[way],
            _address(address.ljust(16, b"\0")),
            mac,
            packets,
            octets,
            opens,
            answers,
            resets,
            ports,
            new,
            services,
        )
        for way, address, mac, (packets, octets, opens, answers, resets), ports, services, new in columns
    )
    return {slot: list(islice(told, len(those))) for slot, those in chosen.items()}


def _greeters(before: Snapshot, after: Snapshot) -> dict[int, list[GreeterCount]]:
    """Dialogues that ended, by slot; of the services of one port those at which most ended."""
    found: dict[int, list[GreeterCount]] = {}
    since = before.at_ns[after.greeters["key"]["slot"]]
    rows = np.flatnonzero(after.greeters["greeter"]["last_ns"] + np.uint64(_BEHIND_NS) > since)
    new = after.greeters[rows]
    at, known = before.greeters_by_hash.find(hash_keys(new["key"], after.seed))
    old = before.greeters["greeter"][at] if len(before.greeters) else np.zeros(len(rows), new["greeter"].dtype)
    grown = {
        name: np.where(known, _grown(old[name], new["greeter"][name]), new["greeter"][name])
        for name in ("ended", "curt", "alike", "varied", "lasted_ns")
    }
    slots = new["key"]["slot"].astype(np.int64)
    order = np.lexsort((~grown["ended"], slots))
    order = order[grown["ended"][order] > 0]
    order = order[_rank(slots[order]) < MAX_GREETERS]
    key = new["key"][order]
    columns = zip(
        key["slot"].tolist(),
        key["direction"].tolist(),
        np.ascontiguousarray(key["address"]).view("S16").ravel().tolist(),
        _macs_of(after, key),
        key["port"].tolist(),
        np.stack([column[order] for column in grown.values()], axis=1).tolist(),
        strict=True,
    )
    for slot, way, address, mac, port, (ended, curt, alike, varied, lasted) in columns:
        told = GreeterCount(
            _DIRECTION[way],
            _address(address.ljust(16, b"\0")),
            mac,
            port,
            ended,
            curt,
            alike,
            varied,
            lasted / 1e9,
        )
        found.setdefault(slot, []).append(told)
    return found


def _macs_of(snapshot: Snapshot, keys: Records) -> list[str]:
    """The MAC behind each greeter's address, or none."""
    wanted = np.zeros(len(keys), snapshot.peers["key"].dtype)
    for name in ("slot", "direction", "address"):
        wanted[name] = keys[name]
    at, known = snapshot.by_hash.find(hash_keys(wanted, snapshot.seed))
    if not len(snapshot.peers):
        return [""] * len(keys)
    macs = _macs(np.ascontiguousarray(snapshot.peers["peer"]["mac"][at]))
    return [mac if one else "" for mac, one in zip(macs, known.tolist(), strict=True)]


def _macs(packed: npt.NDArray[np.uint8]) -> list[str]:
    text = packed.tobytes().hex(":")
    return [text[start : start + 17] for start in range(0, len(text), 18)]


def _address(packed: bytes) -> str:
    """The data plane's 16 bytes as text: IPv4 (mapped), a MAC (10 zeros before it) or IPv6."""
    if packed.startswith(_V4_MAPPED):
        return ".".join(map(str, packed[12:]))
    if not any(packed[:10]) and any(packed[10:]):
        return packed[10:].hex(":")
    return str(IPv6Address(packed))


_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)


def hash_keys(keys: Records, seed: int) -> Words:
    """64 bits of each key of a peer (slot, direction, address) or of a greeter (and its port)."""
    words = np.ascontiguousarray(keys).view(np.uint64).reshape(len(keys), keys.dtype.itemsize // 8)
    factors = [np.uint64((odd * (seed | 1) + (odd & seed) * 2) & 0xFFFFFFFFFFFFFFFF) for odd in _ODD]
    mixed: Words = words[:, 0] * factors[0]
    for column in range(1, words.shape[1]):
        mixed ^= mixed >> np.uint64(29)
        mixed = (mixed + words[:, column]) * factors[column]
    return mixed ^ (mixed >> np.uint64(32))
