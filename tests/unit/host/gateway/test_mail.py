"""What waits for the monitor: each VM in turn, bounded, reports the first to go."""

from hypervigil.host.gateway.mail import MOST, Mail
from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.gateway import Heard
from tests.fuzz.words import FROM_GUEST

REPORT = next(message for message in FROM_GUEST if type(message).__name__ == "Report1")
NOTICE = next(message for message in FROM_GUEST if type(message).__name__ == "LevelChanged")


def heard(vm: str, at: float, message=REPORT) -> Heard:
    return Heard(vm=VmId(vm), at=Instant(at), message=message)


def test_one_who_talks_much_does_not_delay_the_others():
    mail = Mail()
    for at in range(MOST):
        mail.put(heard("loud", at))
    for vm in ("a", "b", "c"):
        mail.put(heard(vm, 0))
    first = [mail.take().vm for _ in range(4)]
    assert first == ["loud", "a", "b", "c"]


def test_of_one_vm_all_comes_in_order():
    mail = Mail()
    for at in range(5):
        mail.put(heard("a", at))
    assert [mail.take().at for _ in range(5)] == [0, 1, 2, 3, 4]
    assert mail.take() is None
    assert not mail


def test_notices_outlast_reports():
    mail = Mail()
    assert mail.put(heard("a", 0, NOTICE))
    fitted = [mail.put(heard("a", at)) for at in range(1, 3 * MOST)]
    assert fitted.count(False) == 2 * MOST
    waiting = [mail.take() for _ in range(MOST)]
    assert waiting[0].message is NOTICE
    assert [one.at for one in waiting[1:]] == list(range(2 * MOST + 1, 3 * MOST))


def test_when_nothing_but_notices_waits_the_oldest_goes():
    mail = Mail()
    for at in range(MOST + 1):
        mail.put(heard("a", at, NOTICE))
    assert mail.take().at == 1


def test_who_is_gone_has_no_mail():
    mail = Mail()
    mail.put(heard("a", 0))
    mail.forget(VmId("a"))
    assert mail.take() is None
