"""What others are denied at a server: against what is usual there, and only what is seen of them."""

import numpy as np
import pytest

from hypervigil.host.hsem.serving import LEARNED_S, Serving, Taken
from hypervigil.model.ids import VmId
from hypervigil.model.metric import Metric

WEB, OTHER = VmId("web"), VmId("other")
VMS = (WEB, OTHER)


def seconds(asked: float, answered: float, octets: float, resets: float = 0.0) -> np.ndarray:
    values = np.full((len(VMS), len(Metric)), np.nan, np.float32)
    seen = [Metric.IN_SYN, Metric.OUT_SYNACK, Metric.OUT_BYTES, Metric.OUT_RST, Metric.OUT_TCP]
    values[0, seen] = asked, answered, octets, resets, asked
    return values


def known(asked: float = 20.0, answered: float = 20.0, octets: float = 20_000.0, *, of: int = LEARNED_S) -> Serving:
    serving = Serving()
    for _ in range(of):
        serving.learn(VMS, seconds(asked, answered, octets), ())
    return serving


def denied(
    serving: Serving, asked: float, answered: float, octets: float, taken: Taken | None = None, *, resets: float = 0.0
) -> float:
    """As a share, after so long that what was before does not matter."""
    for _ in range(20):
        second = seconds(asked, answered, octets, resets)
        found = serving.denied(WEB, second[0], taken or Taken())
        serving.learn(VMS, second, {WEB})
    return found.share if found.cost >= 1.0 else 0.0


def test_who_is_served_as_ever_is_denied_nothing() -> None:
    assert denied(known(), 20, 20, 20_000) == 0.0
    assert denied(known(), 200, 200, 200_000) == 0.0


def test_tries_that_are_not_answered_are_denied() -> None:
    assert denied(known(), 20, 5, 20_000) == pytest.approx(0.75, abs=0.01)


def test_connections_that_are_accepted_by_the_kernel_alone_are_denied() -> None:
    assert denied(known(), 20, 20, 20 * 140) == pytest.approx(0.86, abs=0.01)


def test_what_is_said_to_hoarders_and_asked_by_them_is_not_others() -> None:
    hoarders = Taken(tried=200, accepted=200, octets=200 * 74)
    assert denied(known(), 220, 220, 20_000 + 200 * 74, hoarders) == 0.0
    assert denied(known(), 220, 200, 200 * 74, hoarders) == pytest.approx(1.0)
    assert denied(known(), 200, 100, 200 * 74, hoarders) == 0.0, "what they are denied themselves is no harm"


def test_what_is_usual_there_is_no_harm() -> None:
    assert denied(known(answered=10.0), 20, 10, 20_000) == 0.0
    assert denied(known(answered=18.0), 20, 13, 20_000) > 0.0


def test_who_is_refused_is_answered_and_a_reset_later_on_answers_nobody() -> None:
    assert denied(known(), 60, 20, 20_000, resets=40) == 0.0
    assert denied(known(), 20, 5, 20_000, resets=5) == pytest.approx(0.67, abs=0.01)
    assert denied(known(), 220, 200, 200 * 74, Taken(200, 200, 200 * 74, 100), resets=100) == pytest.approx(1.0)


def test_who_is_refused_teaches_nothing() -> None:
    serving = Serving()
    for _ in range(LEARNED_S):
        serving.learn(VMS, seconds(60, 20, 20_000, 40), ())
    assert denied(serving, 20, 10, 20_000) == pytest.approx(0.5)


def test_one_large_answer_is_not_what_is_usual() -> None:
    serving = known(of=200)
    serving.learn(VMS, seconds(20, 20, 1e9), ())
    assert denied(serving, 20, 20, 20_000) == 0.0


def test_what_is_usual_is_not_known_at_once_and_of_few_tries_nothing_is_concluded() -> None:
    assert denied(known(of=LEARNED_S - 1), 20, 0, 0) == 0.0
    assert denied(known(), 1, 0, 0) == 0.0


def test_what_is_unseen_teaches_nothing_and_what_is_hoarded_at_neither() -> None:
    serving = Serving()
    for _ in range(2 * LEARNED_S):
        serving.learn(VMS, np.full((len(VMS), len(Metric)), np.nan, np.float32), ())
        serving.learn(VMS, seconds(20, 20, 20_000), {WEB})
    assert denied(serving, 20, 0, 0) == 0.0


def test_it_is_mute_to_whom_it_only_acknowledges_and_a_few_real_requests_change_little() -> None:
    """It usually carries 860 octets to each: of a thousand, a SYN-ACK and an acknowledgement are taken."""
    serving = known()
    only_acknowledged = 1000.0 * (74 + 10 * 66)
    assert serving.mute_to(WEB, begun=1000, octets=only_acknowledged, packets=11_000)
    assert serving.mute_to(WEB, begun=1000, octets=only_acknowledged + 300 * 860, packets=11_000)
    assert not serving.mute_to(WEB, begun=1000, octets=only_acknowledged + 500 * 860, packets=11_000)


def test_it_is_not_known_to_be_mute_before_it_is_known_what_it_says_or_where_that_is_little() -> None:
    bare = 1000.0 * (74 + 66)
    assert not known(of=LEARNED_S - 1).mute_to(WEB, begun=1000, octets=bare, packets=2000)
    assert not known(octets=20 * (74 + 66 + 40)).mute_to(WEB, begun=1000, octets=bare, packets=2000)
    assert not known().mute_to(WEB, begun=1000, octets=0, packets=0), "nothing of it was seen"


def test_what_others_are_denied_is_known_of_enough_tries() -> None:
    serving = known()
    assert not serving.known(WEB), "nobody looked"
    denied(serving, 1, 1, 1000)
    assert not serving.known(WEB)
    denied(serving, 20, 20, 20_000)
    assert serving.known(WEB)


def test_who_is_gone_is_forgotten() -> None:
    serving = known()
    assert denied(serving, 20, 0, 0) > 0.0
    serving.keep({OTHER})
    assert denied(serving, 20, 0, 0) == 0.0


def test_enough_tries_in_one_second_tell_at_once() -> None:
    """Few tell on average of the last seconds; whether others were served lately is told so by any number."""
    for asked, at_once in ((4, False), (10, True)):
        serving = known()
        for _ in range(10):
            serving.denied(WEB, seconds(asked, asked, 1000 * asked)[0], Taken())
        found = serving.denied(WEB, seconds(asked, asked, 150 * asked)[0], Taken())
        assert (found.cost >= 1) is at_once
        assert found.lately < 1
