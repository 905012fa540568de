"""An agent's alarm from its channel to the journal: the case that it draws is on record, and can be judged again."""

from pathlib import Path

import pytest

from hypervigil.host.hsem.judge import judge
from hypervigil.host.journal import Journal, Kind
from hypervigil.host.journal.replay import replay
from hypervigil.model.guest import GuestMetric, Suspect
from hypervigil.model.report import EnterLevel2, LeaveLevel2
from hypervigil.model.status import Level, Origin, Role
from hypervigil.wire import guest
from tests.fuzz.words import SAMPLING, TALKERS, VALUES
from tests.unit.host.hsem.test_alarms import knows
from tests.unit.host.monitor.test_asking import SPEAKER, Guests, honest

BREACH = guest.Breach(GuestMetric.FORKS, 900, 400)


class Alarmed(Guests):
    """Mallory's agent finds its VM unusual for some seconds."""

    alarmed_until = 0.0

    def alarm(self, seconds: float) -> None:
        self.alarmed_until = self.now + seconds
        self._say(guest.LevelChanged, self._next_line, 2, "breach", Suspect.UNKNOWN, (BREACH,))

    def _say(self, kind: type, *fields: object, answer: object = None) -> None:
        if kind in {guest.Report1, guest.Report2} and self.now <= self.alarmed_until:
            kind, fields = guest.Report1, (2, 1, 5, 1000, VALUES, SAMPLING, TALKERS)
        super()._say(kind, *fields, answer=answer)


@pytest.mark.req("A236")
def test_a_drawn_case_is_on_record_asks_its_agent_and_is_judged_again(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", boot_id="boot") as journal:
        host = Alarmed(journal, honest)
        knows(host, SPEAKER).run(2.0)
        host.alarm(6.0)
        host.run(6.0)
        assert host.hsem.level(SPEAKER) is Level.LEVEL2
        assert host.asked, "its agent is asked, as in any case"
        host.run(20.0)
    assert host.witness.ordered == []
    with Journal.open(tmp_path / "j", read_only=True) as reader:
        levels = list(reader.records(kinds=[Kind.LEVEL]))
        assert replay(reader, judge).ok
    entered, left = levels[0].read(EnterLevel2), levels[1].read(LeaveLevel2)
    assert len(levels) == 2
    assert [(one.kind, one.origin) for one in entered.evidence] == [("agent-alarm", Origin.GUEST_REPORTED)]
    assert "forks" in entered.evidence[0].text
    assert (left.vm, left.last_role) == (SPEAKER, Role.CLEARED)


def test_an_alarm_that_is_over_leaves_a_record_and_no_case(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", boot_id="boot") as journal:
        host = Alarmed(journal, honest)
        knows(host, SPEAKER).run(2.0)
        host.alarm(1.0)
        host.run(10.0)
        told = [record for record in journal.records(kinds=[Kind.GUEST]) if b"agent-alarm" in record.body]
        assert told
    assert host.witness.opened == []
