"""``hypervigil limit``: what is asked of the monitor, and which options cannot be meant together."""

import pytest
from click.testing import CliRunner, Result

from hypervigil.entrypoints.cli import main
from hypervigil.model.limits import LimitKind
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.wire import control
from tests.unit.entrypoints.asked import Monitor


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor[control.PutLimit]:
    return Monitor(control.PutLimit, monkeypatch)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["limit", "web-1", "--for", "10m", *words])


def test_a_limit_of_packets_is_of_classes_and_one_direction(monitor: Monitor[control.PutLimit]) -> None:
    assert run("--packets", "5").exit_code == 0
    assert run("--octets", "5", "--class", "udp", "--class", "dns", "--direction", "in").exit_code == 0
    one, other = monitor.asked
    assert (one.direction, one.classes) == (Direction.OUT, frozenset())
    assert (other.direction, other.classes) == (Direction.IN, {TrafficClass.UDP, TrafficClass.DNS})


@pytest.mark.parametrize(
    "words",
    [
        ("--isolate",),
        ("--quarantine",),
        ("--source-proof",),
        ("--pause",),
        ("--packets", "5", "--peer", "198.51.100.7"),
        ("--new-destinations", "5"),
        ("--cpu", "0.5"),
        ("--block-operations", "5"),
        ("--block-octets", "5"),
        ("--memory", "5"),
    ],
)
@pytest.mark.parametrize("more", [("--class", "udp"), ("--direction", "in"), ("--direction", "out")])
def test_classes_and_directions_go_with_nothing_that_has_none(
    monitor: Monitor[control.PutLimit], words: tuple[str, ...], more: tuple[str, ...]
) -> None:
    refused = run(*words, *more)
    assert refused.exit_code == 1
    assert "go with --packets and --octets alone" in refused.output
    assert refused.output.count("\n") == 1
    assert not monitor.asked
    assert run(*words).exit_code == 0


def test_who_begins_is_limited_inbound(monitor: Monitor[control.PutLimit]) -> None:
    run("--packets", "5", "--peer", "198.51.100.7")
    run("--source-proof")
    assert [(one.kind, one.direction) for one in monitor.asked] == [
        (LimitKind.PEER, Direction.IN),
        (LimitKind.SOURCE_PROOF, Direction.IN),
    ]


def test_no_more_than_all_of_a_core_is_a_share_of_it(monitor: Monitor[control.PutLimit]) -> None:
    assert run("--cpu", "1").exit_code == 0
    refused = run("--cpu", "50")
    assert refused.exit_code == 2
    assert "50.0 is not in the range 0<=x<=1" in refused.output
    assert len(monitor.asked) == 1
