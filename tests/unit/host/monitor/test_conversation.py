"""A whole conversation through conductor, HREM, HSEM and a journal on disk: what is recorded is what was decided."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from hypervigil.host.hsem.engine import Hsem
from hypervigil.host.hsem.facts import Facts
from hypervigil.host.hsem.judge import judge
from hypervigil.host.journal import Journal, Kind
from hypervigil.host.journal.records import encode_body
from hypervigil.host.journal.replay import replay
from hypervigil.host.journal.verify import verify
from hypervigil.host.monitor.conductor import Conductor
from hypervigil.host.monitor.ledger import FOLDED, Ledger
from hypervigil.model.grants import HostSize
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.observation import Sweep
from hypervigil.model.policy import Bounds, Mode, Policy
from hypervigil.model.report import HostReport
from hypervigil.model.status import Role
from hypervigil.model.traffic import ForgedKind
from hypervigil.wire import messages as wire
from tests.unit.host.hsem.behaviour import (
    UDP,
    browses,
    floods,
    floods_open_port,
    for_,
    forges,
    reflects,
    resolves,
    scans_ports,
    streams,
)
from tests.unit.host.hsem.scene import Scene

BOUNDS = Bounds(hold_s=10)


class Overheard:
    """HSEM, and a witness who hears what it says."""

    def __init__(self, hsem: Hsem, scene: Scene) -> None:
        self._hsem, self._scene = hsem, scene
        self.level, self.facts, self.set_policy, self.told = hsem.level, hsem.facts, hsem.set_policy, hsem.told
        self.questions, self.heard = hsem.questions, hsem.heard
        self.brief, self.visited = hsem.brief, hsem.visited
        self.role, self.given, self.bounded, self.clock = hsem.role, hsem.given, hsem.bounded, hsem.clock

    def hear(self, report: HostReport, now: Instant):
        return self._told(self._hsem.hear(report, now), now)

    def tick(self, now: Instant):
        return self._told(self._hsem.tick(now), now)

    def inventory(self, vms, now: Instant):
        return self._told(self._hsem.inventory(vms, now), now)

    def release(self, vm: VmId, now: Instant):
        return self._told(self._hsem.release(vm, now), now)

    def _told(self, decisions, now: Instant):
        self._scene.witness.hear(decisions, now)
        return decisions


class Enforcer:
    """Does nothing and is always there."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.connected = True
        self._requests = count(1)

    def next_request(self) -> int:
        return next(self._requests)

    def send(self, message: wire.ToEnforcer) -> bool:
        self.sent.append(message)
        return True


class Host(Scene):
    """A scene in which the conductor stands between the engines, with a journal."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.enforcer = Enforcer()
        self.conductor: Conductor | None = None
        super().__init__("mallory", "web", "alice", "bob", bounds=BOUNDS)
        self._cases = iter(journal.next_case, None)
        self._limits = iter(journal.next_limit, None)
        self.begin(browses("alice", "web", 10), browses("mallory", "web", 10), resolves("bob", "198.51.100.53", 2))
        self.learn()
        self.conductor = Conductor(
            policy=Policy(mode=Mode.ENFORCE, bounds=BOUNDS),
            hrem=self.hrem,
            hsem=Overheard(self.hsem, self),
            book=self._book,
            journal=journal,
            enforcer=self.enforcer,
            gateway=self.enforcer,
            host=HostSize(4, 8e6),
            wall=lambda at: at + 1_700_000_000.0,
        )
        self.conductor.inventory(self._inventory(self.names), self.now)

    def swept(self, sweep: Sweep) -> None:
        if self.conductor is None:
            super().swept(sweep)
            return
        self.conductor.swept(sweep, self.now)
        self.conductor.tick(self.now)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Path]]:
    """A minute and a half in which everything happens."""
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    with Journal.open(path, boot_id="boot") as journal:
        host = Host(journal)
        host.begin(browses("alice", "web", 100), for_(8, floods_open_port("mallory", "web", 500))).run(20)
        host.begin(for_(3, floods("web", "bob", 300, UDP)), for_(6, floods("203.0.113.9", "web", 900, UDP))).run(12)
        host.begin(for_(3, scans_ports("bob", "alice", 100)), for_(3, forges("alice", ForgedKind.ARP, 5))).run(10)
        host.begin(for_(4, reflects("bob", "203.0.113.7", 200, times_larger=20))).run(5)
        host.begin(streams("alice", "bob", 300, reports_per_s=0))
        host.cpu["mallory"] = 1.0
        host.run(50)
        yield host, path


def test_everything_was_decided_in_it(told: tuple[Host, Path]) -> None:
    host, _ = told
    assert {verdict.role for verdict in host.witness.verdicts} == set(Role)
    assert len({(verdict.role, verdict.attack) for verdict in host.witness.verdicts}) >= 7


def test_replay_reaches_the_same_verdicts(told: tuple[Host, Path]) -> None:
    host, path = told
    with Journal.open(path, read_only=True) as reader:
        found = replay(reader, judge)
    assert found.mismatches == ()
    assert found.verdicts == len(host.witness.verdicts) > 10


def test_replay_would_tell_of_another_judge(told: tuple[Host, Path]) -> None:
    _, path = told
    with Journal.open(path, read_only=True) as reader:
        found = replay(reader, lambda facts: judge(facts) if facts.vm != "mallory" else None, Facts)
    assert {mismatch.recorded.vm for mismatch in found.mismatches} == {"mallory"}


def test_facts_are_kept_to_the_bit(told: tuple[Host, Path]) -> None:
    _, path = told
    with Journal.open(path, read_only=True) as reader:
        facts = [record for record in reader.records(kinds=[Kind.FACT]) if record.body_type == "Facts"]
        assert len(facts) > 15
        assert all(encode_body(record.read(Facts)) == record.body for record in facts)


def test_the_journal_tells_what_was_decided_in_its_order(told: tuple[Host, Path]) -> None:
    host, path = told
    with Journal.open(path, read_only=True) as reader:
        order = [(r.kind, r.case, r.limit) for r in reader.records(kinds=FOLDED)]
        folded = Ledger()
        folded.replay(reader.records(kinds=FOLDED), boot_id="boot")
    assert [case for kind, case, _ in order if kind is Kind.DECISION] == [v.case for v in host.witness.verdicts]
    assert [limit for kind, _, limit in order if kind is Kind.ORDERED] == [one.id for one in host.witness.ordered]
    assert {entry.case for entry in folded.open_cases()} == set(host.witness.cases.values())
    assert {entry.limit.id for entry in folded.standing()} == set(host.witness.standing)
    assert verify(path).ok


def test_the_enforcer_was_told_the_same(told: tuple[Host, Path]) -> None:
    host, _ = told
    put = [limit for message in host.enforcer.sent if isinstance(message, wire.PutLimits) for limit in message.limits]
    lifted = [one for message in host.enforcer.sent if isinstance(message, wire.LiftLimits) for one in message.limits]
    assert put == host.witness.ordered
    assert lifted == [one.limit for one in host.witness.lifted]
