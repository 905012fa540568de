"""Scans that take hours: one try at a time, each in vain. And what looks like one and is none."""

import sys

import pytest

from hypervigil.host.hsem.scans import SLOW_HOSTS, SLOW_PORTS
from hypervigil.host.hsem.slow import MAX_HOSTS, REMEMBERED_S, RIPE_S, Sent, Slow
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.report import HostReport, PairRate
from hypervigil.model.status import AttackClass, Role
from hypervigil.model.traffic import Direction, TrafficClass
from tests.unit.host.hsem.behaviour import browses, for_
from tests.unit.host.hsem.scene import Behaviour, Scene

ARP, SYN, SYNACK, RST, TCP, UDP = (
    TrafficClass.ARP,
    TrafficClass.SYN,
    TrafficClass.SYNACK,
    TrafficClass.RST,
    TrafficClass.TCP,
    TrafficClass.UDP,
)
PAUSE_S = 600.0


def host(number: int) -> str:
    return f"192.0.2.{number}"


def pause(scene: Scene, seconds: float = PAUSE_S) -> None:
    """Nothing happens for so long."""
    scene.run(4)
    scene.now = Instant(scene.now + seconds)
    scene.run(0.4)


def tries(
    scene: Scene, target: str, *, service: int = 1, refused: bool = False, late: bool = False, well: bool = False
):
    """One connection that bob tries."""
    scene.send("bob", target, SYN, 1, octets=74, service=service)
    if late:
        scene.run(0.2)
    if refused:
        scene.send(target, "bob", RST, 1, octets=54, service=40)
    if well:
        scene.send(target, "bob", SYNACK, 1, octets=74, service=40)
        scene.send("bob", target, TCP, 2, octets=66, service=service)


@pytest.mark.parametrize("how", [{}, {"refused": True}, {"refused": True, "late": True}])
def test_one_host_each_ten_minutes(scene: Scene, how: dict[str, bool]) -> None:
    for number in range(SLOW_HOSTS):
        assert scene.suspected() == set()
        tries(scene, host(number), **how)
        pause(scene)
    verdict = scene.verdict("bob")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.SCAN, None)
    assert f"{SLOW_HOSTS} addresses that it never talked to" in verdict.cause
    assert "minutes" in verdict.cause
    assert LimitKind.NEW_DESTINATIONS in {limit.kind for limit in scene.ordered("bob")}
    assert scene.blamed() == {"bob"}


@pytest.mark.parametrize("pause_s", [0.2, 0.6, 1.0, 2.0, 20.0])
def test_too_slow_for_a_surge_and_without_a_pause(scene: Scene, pause_s: float) -> None:
    """There is never a moment in which nobody may still answer."""
    for number in range(100):
        if scene.verdicts("bob"):
            break
        tries(scene, host(number))
        if pause_s < 1:
            tries(scene, host(number + 100))
        scene.run(pause_s)
    first = scene.verdicts("bob")[0]
    assert (first.role, first.attack) == (Role.ATTACKER, AttackClass.SCAN)
    assert first.at - scene.begun_at <= SLOW_HOSTS * pause_s + 2 * RIPE_S


@pytest.mark.parametrize("hosts", [13, 16])
def test_all_at_once_while_something_else_waits_for_its_answer_too(scene: Scene, hosts: int) -> None:
    """``nmap --scan-delay`` waits at each host: it tries them all at once, and once only."""
    scene.begin(browses("bob", "web", 4)).run(10)
    for number in range(hosts):
        tries(scene, host(number))
    scene.send("bob", "alice", TrafficClass.ICMP, 1, octets=98, asks=True)
    scene.send("bob", "web", UDP, 1, octets=100, asks=True)
    scene.run(12)
    assert (scene.verdict("bob").role, scene.verdict("bob").attack) == (Role.ATTACKER, AttackClass.SCAN)
    assert scene.blamed() == {"bob"}


def test_a_burst_is_told_when_its_first_tries_are_old_though_each_is_repeated(scene: Scene) -> None:
    began = scene.now
    for _ in range(2):
        for number in range(SLOW_HOSTS + 4):
            tries(scene, host(number))
            scene.run(0.2)
    scene.run(3)
    verdict = scene.verdict("bob")
    assert (verdict.role, verdict.attack) == (Role.ATTACKER, AttackClass.SCAN)
    assert verdict.at - began <= 0.2 * SLOW_HOSTS + RIPE_S + 0.6


def repeats_soon(hosts: int = 32) -> Behaviour:
    """Five tries an interval at hosts that are not there, each once more half a second later."""
    turn = [0]

    def behave(scene: Scene, _: float) -> None:
        first, turn[0] = turn[0], turn[0] + 5
        for number in (*range(first, first + 5), *range(first - 15, first - 10)):
            if 0 <= number < hosts:
                tries(scene, host(number))

    return behave


def test_tries_whose_repetitions_open_a_case_by_their_number_are_told_in_it(scene: Scene) -> None:
    scene.begin(repeats_soon()).run(1.6)
    assert scene.suspected() == {"bob"}
    scene.run(4)
    assert (scene.verdict("bob").role, scene.verdict("bob").attack) == (Role.ATTACKER, AttackClass.SCAN)


def test_who_is_suspected_is_heard_when_its_tries_are_answered_late(scene: Scene) -> None:
    scene.begin(repeats_soon()).run(1.6)
    assert scene.suspected() == {"bob"}

    def answer(scene: Scene, _: float) -> None:
        for number in range(32):
            scene.send(host(number), "bob", SYNACK, 1, octets=74, service=40)
            scene.send("bob", host(number), TCP, 2, octets=66)

    scene.begin(for_(0.2, answer)).run(30)
    assert scene.roles("bob") == [Role.CLEARED]


def test_datagrams_to_strangers_beside_tries_of_a_friend_are_no_scan(scene: Scene) -> None:
    """As many datagrams as SYNs, all unanswered: what was tried in vain is the friend alone."""
    for number in range(40):
        tries(scene, "web")
        scene.send("bob", host(number), UDP, 1, octets=120, asks=True)
        scene.run(1.0)
    assert scene.suspected() == set()


@pytest.mark.parametrize("pause_s", [0.2, 2.0, PAUSE_S])
def test_of_who_is_not_there_only_questions_for_a_mac_are_seen(scene: Scene, pause_s: float) -> None:
    for number in range(60):
        if scene.verdicts("bob"):
            break
        scene.send("bob", f"10.60.0.{100 + number}", ARP, 1, octets=42, arrives=False)
        if pause_s < PAUSE_S:
            scene.run(pause_s)
        else:
            pause(scene)
    verdict = scene.verdict("bob")
    assert (verdict.role, verdict.attack) == (Role.ATTACKER, AttackClass.SCAN)
    assert verdict.at - scene.begun_at <= SLOW_HOSTS * (pause_s + 2) + 2 * RIPE_S
    assert scene.blamed() == {"bob"}


def test_a_sweep_of_its_own_segment_by_a_server_that_is_busy(scene: Scene) -> None:
    scene.begin(browses("alice", "bob", 30)).run(20)
    assert scene.suspected() == set()
    for number in range(100):
        if scene.verdicts("bob"):
            break
        for _ in range(2):
            scene.send("bob", f"10.60.0.{100 + number}", ARP, 1, octets=42, arrives=False)
        scene.run(0.2)
    assert (scene.verdict("bob").role, scene.verdict("bob").attack) == (Role.ATTACKER, AttackClass.SCAN)
    assert scene.blamed() == {"bob"}


def test_hosts_without_a_router_that_answer_are_no_scan(scene: Scene) -> None:
    for number in range(60):
        scene.send("bob", f"10.60.0.{100 + number}", ARP, 1, octets=42)
        if number % 10 == 0:
            scene.run(0.2)  # the answer comes in the next interval
        scene.send(f"10.60.0.{100 + number}", "bob", ARP, 1, octets=42)
        scene.run(2)
    assert scene.suspected() == set()


def test_a_router_asks_for_those_that_others_try(scene: Scene) -> None:
    """What somebody outside tries behind it, and nobody is there."""
    for number in range(60):
        scene.send("198.51.100.9", "bob", SYN, 1)
        scene.send("bob", f"10.60.0.{100 + number}", ARP, 1, octets=42, arrives=False)
        scene.run(2)
    assert scene.suspected() == set()


def test_what_was_judged_is_not_judged_again(scene: Scene) -> None:
    for number in range(SLOW_HOSTS + 3):
        tries(scene, host(number))
        pause(scene)
    assert scene.roles("bob").count(Role.ATTACKER) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_few_that_answer_speak_for_it(scene: Scene, *, late: bool) -> None:
    for number in range(SLOW_HOSTS + 3):
        tries(scene, host(number), well=number % 4 == 0, late=late)
        pause(scene)
    assert scene.suspected() == set()


def test_a_network_that_is_down_is_no_scan(scene: Scene) -> None:
    """Whom it knew does not answer either."""
    for number in range(4):
        tries(scene, host(100 + number), well=True)
    pause(scene, REMEMBERED_S * 10)
    for number in range(SLOW_HOSTS + 3):
        tries(scene, host(100 + number % 4))
        tries(scene, host(number))
        pause(scene)
    assert scene.suspected() == set()


def test_peers_of_whom_others_told_are_no_scan(scene: Scene) -> None:
    """Each at a port of its own: nobody looks for one service there."""
    for number in range(MAX_HOSTS):
        tries(scene, host(number), service=number)
        pause(scene)
    assert scene.suspected() == set()


def test_one_host_that_is_gone_is_tried_for_hours(scene: Scene) -> None:
    for _ in range(4 * SLOW_HOSTS):
        tries(scene, host(1))
        pause(scene)
    assert scene.suspected() == set()


def test_what_was_long_ago_is_forgotten(scene: Scene) -> None:
    for number in range(3 * SLOW_HOSTS):
        tries(scene, host(number))
        pause(scene, REMEMBERED_S / (SLOW_HOSTS - 1))
    assert scene.suspected() == set()


def test_datagrams_are_not_meant(scene: Scene) -> None:
    for number in range(2 * SLOW_HOSTS):
        scene.send("bob", host(number), UDP, 1, asks=True)
        pause(scene)
    assert scene.suspected() == set()


def test_one_port_each_ten_minutes(scene: Scene) -> None:
    for port in range(SLOW_PORTS):
        assert scene.suspected() == set()
        tries(scene, "alice", service=port, refused=True)
        pause(scene)
    verdict = scene.verdict("bob")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.SCAN, "alice")
    assert scene.verdict("alice").role is Role.VICTIM
    assert scene.verdict("alice").target == "bob"


@pytest.mark.parametrize("late", [False, True])
def test_ports_that_accept_are_no_scan(scene: Scene, *, late: bool) -> None:
    for port in range(2 * SLOW_PORTS):
        tries(scene, "alice", service=port, well=True, late=late)
        pause(scene)
    assert scene.suspected() == set()


def _sees(slow: Slow, vm: VmId, address: str, at: float) -> None:
    pair = PairRate(vm, Direction.OUT, OUTSIDE, address, 1, 60, 1, 0, 0, 1, new=True, services=1)
    slow.see(HostReport(Instant(at), 1.0, (vm,), memoryview(b""), (pair,)), {vm: Sent(syns=1.0)}, (), Instant(at))


def test_it_is_bounded_and_forgets_who_is_gone() -> None:
    slow, vm = Slow(), VmId("bob")
    for number in range(1000):
        _sees(slow, vm, host(number), 1000.0 + number)
    assert slow.of(vm, Instant(2010.0)).hosts == MAX_HOSTS
    assert _octets(slow._of[vm]) <= 1400
    slow.keep([])
    assert slow.of(vm, Instant(2010.0)).hosts == 0


def test_a_try_is_looked_at_when_it_could_have_been_answered() -> None:
    slow, vm = Slow(), VmId("bob")
    _sees(slow, vm, host(1), 1000.0)
    _sees(slow, vm, host(2), 1002.0)
    due = [at for at in range(1001, 1020) if slow.ripe(Instant(float(at)), 10)]
    assert due == [1003, 1004, 1005]  # each half second until the newest is ripe too
    assert [slow.of(vm, Instant(float(at))).hosts for at in due] == [1, 1, 2]


def _octets(tried: object) -> int:
    parts = [getattr(tried, name) for name in type(tried).__slots__]
    return sys.getsizeof(tried) + sum(map(sys.getsizeof, parts))
