"""Who attacks is found, named with class and target, and held to its own history in the one class that is abnormal."""

from itertools import pairwise

import pytest

from hypervigil.host.hsem.conduct import STREAM_PPS
from hypervigil.host.hsem.limiting import GROWING, KEPT_OF_UNCLEAR
from hypervigil.model.ids import HOST, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.metric import Metric, packet_metric
from hypervigil.model.policy import Bounds
from hypervigil.model.status import AttackClass, Role
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from tests.unit.host.hsem.behaviour import (
    ARP,
    DNS,
    ICMP,
    SYN,
    SYNACK,
    TCP,
    UDP,
    Pace,
    browses,
    casts,
    floods,
    floods_by_data,
    floods_by_ping,
    floods_by_udp_to_closed_port,
    floods_closed_port,
    floods_open_port,
    for_,
    forges,
    pings,
    requests_by_udp,
    scans_ports,
    streams,
    sweeps_hosts,
)
from tests.unit.host.hsem.conftest import RESOLVER, town
from tests.unit.host.hsem.scene import Behaviour, Scene

FLOODS = {
    "SYN to an open port": (floods_open_port, SYN),
    "SYN to a closed port": (floods_closed_port, SYN),
    "SYN that nobody answers": (floods, SYN),
    "UDP that nobody answers": (lambda a, b, n: floods(a, b, n, UDP), UDP),
    "UDP to a closed port": (floods_by_udp_to_closed_port, UDP),
    "DNS that nobody answers": (lambda a, b, n: floods(a, b, n, DNS), DNS),
    "ping that is answered": (floods_by_ping, ICMP),
    "ping that nobody answers": (lambda a, b, n: floods(a, b, n, ICMP), ICMP),
    "TCP that is reset": (lambda a, b, n: floods_by_data(a, b, 10 * n), TCP),
    "SYN-ACK that nobody asked for": (lambda a, b, n: floods(a, b, n, TrafficClass.SYNACK), TrafficClass.SYNACK),
    "fragments": (lambda a, b, n: floods(a, b, n, TrafficClass.FRAGMENT), TrafficClass.FRAGMENT),
}


def own_limit(scene: Scene, name: str, traffic: TrafficClass, bounds: Bounds) -> float:
    """L = clamp(k × own p95, floor, cap)."""
    tail = scene.hsem.tail(name, packet_metric(Direction.OUT, traffic))
    return pytest.approx(min(max(bounds.factor * tail, bounds.floor_pps), bounds.cap_pps), rel=0.05)


def flooded(*besides: Behaviour, heard: bool) -> Scene:
    """``mallory`` floods at a port to which nothing comes, or to which something did."""
    scene = Scene("mallory").learn()
    scene.begin(for_(0.4, pings("mallory", ["203.0.113.1"], 10 if heard else 0))).run(60)
    scene.begun_at = scene.now
    return scene.begin(*besides).run(6)


@pytest.mark.parametrize(("per_s", "traffic", "octets"), [(150, SYN, 60), (2000, SYN, 60), (400, TCP, 1500)])
@pytest.mark.parametrize("made_up", [0, 3])
def test_one_sided_talk_excuses_no_flood(per_s: float, traffic: TrafficClass, octets: int, made_up: int) -> None:
    """Where nothing is ever heard it is found in the same time, also with what looks like conversations besides."""
    flood = floods("mallory", "203.0.113.9", per_s, traffic, octets=octets)
    plain = flooded(flood, heard=True)
    besides = floods("mallory", "203.0.113.9", made_up * min(per_s, 450), TCP, octets=60)
    blind = flooded(flood, besides, heard=False)
    for scene in (plain, blind):
        verdict = scene.verdicts("mallory")[0]
        assert (verdict.role, verdict.attack) == (Role.ATTACKER, AttackClass.FLOOD)
    first, second = (scene.verdicts("mallory")[0].at - scene.begun_at for scene in (plain, blind))
    assert second == pytest.approx(first, abs=0.01)


def test_who_was_heard_from_once_is_not_taken_for_seen_from_one_side() -> None:
    """Nobody answers its acknowledgements, though somebody would be heard."""
    acknowledgements = floods("mallory", "203.0.113.9", 200, TCP, octets=66)
    assert flooded(acknowledgements, heard=True).blamed() == {"mallory"}
    assert flooded(acknowledgements, heard=False).blamed() == set()


@pytest.mark.parametrize("per_s", [100, 200, 2000])
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_is_held_to_its_senders_own_history(kind: str, per_s: float) -> None:
    flood, traffic = FLOODS[kind]
    scene = town()
    waits = traffic is UDP and per_s <= STREAM_PPS
    may_be_a_stream = waits and flood is not floods_by_udp_to_closed_port
    own = own_limit(scene, "mallory", traffic, Bounds())
    scene.begin(flood("mallory", "web", per_s)).run(8 if waits else 4)

    first = scene.ordered("mallory")[0]
    assert first.since - scene.begun_at <= 1.0, "one second from the first packet"
    value = pytest.approx(max(20.0, KEPT_OF_UNCLEAR * GROWING * per_s), rel=0.05) if may_be_a_stream else own
    assert (first.kind, first.direction, first.value) == (LimitKind.PACKETS, Direction.OUT, value)
    assert scene.limits("mallory")[0].value == own, "that is what it has in the end"
    assert {limit.classes for limit in scene.ordered("mallory")} == {frozenset({traffic})}, "no other class is touched"
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.FLOOD, "web")
    assert verdict.at - scene.begun_at <= (6.0 if waits else 2.0)
    victim = scene.verdict("web")
    assert (victim.role, victim.attack, victim.target) == (Role.VICTIM, AttackClass.FLOOD, "mallory")
    assert scene.suspected() <= {"mallory", "web"}, "nobody beside them is even suspected"
    assert scene.limited() == {"mallory"}, "the victim of another VM needs no limit: its attacker has one"


def test_pings_that_go_on_are_a_flood_long_before_they_fill_a_line() -> None:
    scene = town().begin(floods_by_ping("mallory", "web", 50)).run(8)
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.FLOOD, "web")
    assert verdict.at - scene.begun_at <= 5.0
    assert scene.roles("web") == [Role.VICTIM]


def test_resets_that_end_nothing_are_a_flood_though_both_talk_anyhow() -> None:
    """By the class alone they might refuse what the other end says."""
    scene = town().begin(browses("mallory", "web", 20), browses("mallory", "alice", 25)).run(60)
    assert scene.suspected() == set()
    scene.begun_at = scene.now
    scene.begin(floods("mallory", "web", 100, TrafficClass.RST, octets=54)).run(8)
    assert scene.roles("alice") == []
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.FLOOD, "web")
    assert verdict.at - scene.begun_at <= 4.0
    assert scene.roles("web") == [Role.VICTIM]


@pytest.mark.parametrize(("said", "per_s"), [(0, 860), (1, 3000)])
def test_full_datagrams_are_a_flood_without_a_word_or_at_such_a_rate(said: int, per_s: float) -> None:
    scene = town()
    scene.send("mallory", "web", UDP, 1, octets=46, asks=True)
    scene.send("web", "mallory", UDP, said, octets=46, asks=False)
    scene.begin(floods("mallory", "web", per_s, UDP, octets=1490)).run(4)
    assert (scene.roles("mallory"), scene.roles("web")) == ([Role.ATTACKER], [Role.VICTIM])


@pytest.mark.parametrize("lost", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("per_s", [2000, 18_000])
def test_a_flood_that_its_senders_own_stack_resets_holds_no_connection(per_s: float, lost: float) -> None:
    """On a real guest an open port's server took enough of them to look hoarded."""
    scene = town().takes("web")
    scene.begin(floods_open_port("mallory", "web", per_s, lost=lost)).run(12)
    assert {verdict.attack for verdict in scene.verdicts("mallory")} == {AttackClass.FLOOD}
    assert {verdict.attack for verdict in scene.verdicts("web")} == {AttackClass.FLOOD}
    assert scene.hsem._grabs.held(VmId("mallory")) == 0.0


def test_whom_a_flood_of_data_leaves_alone_is_no_victim_of_it() -> None:
    """On a real guest a fifth of what went to the victim was honest work with another."""
    scene = Scene("mallory", "web", "alice").begin(browses("alice", "mallory", 12), browses("web", "mallory", 2))
    scene.learn().begin(floods_by_data("mallory", "web", 150)).run(6)
    assert (scene.roles("mallory"), scene.roles("web")) == ([Role.ATTACKER], [Role.VICTIM])
    assert scene.roles("alice") == []


@pytest.mark.parametrize("per_s", [200, 400])
def test_acknowledgements_of_nothing_to_one_that_asks_the_flooder_too(per_s: float) -> None:
    """On real guests: seven connections a second of the victim's own were held to explain its resets, 24 each."""
    honest = browses("web", "mallory", 7), browses("mallory", "web", 4)
    scene = Scene("mallory", "web").begin(*honest).learn().begin(floods_by_data("mallory", "web", per_s)).run(8)
    assert scene.roles("mallory")[-1] is Role.ATTACKER
    assert scene.roles("web")[-1] is Role.VICTIM


def test_a_client_that_breaks_off_one_download_after_the_other_makes_no_attacker_of_its_server() -> None:
    """Its kernel resets a window's worth of full frames each time."""
    scene = Scene("alice", "web").begin(browses("alice", "web", 7)).learn()
    pace = Pace(10)

    def breaks_off(of: Scene, s: float) -> None:
        for _ in range(pace(s)):
            of.send("alice", "web", SYN, 1, octets=74)
            of.send("web", "alice", SYNACK, 1, octets=74)
            of.send("alice", "web", TCP, 2, octets=100)
            of.send("web", "alice", TCP, 20, octets=1500)
            of.send("alice", "web", TrafficClass.RST, 18, octets=54)

    scene.begin(breaks_off).run(20)
    assert "web" not in scene.blamed()


@pytest.mark.parametrize("per_s", [1000, 2000])
def test_a_closed_port_tells_a_flood_from_the_talk_beside_it(per_s: float) -> None:
    """The kernel refuses the first six, before so many have come that anybody asks, and then one a second."""
    ordinary = requests_by_udp("mallory", "web", 200), pings("mallory", ["bob"], 20)
    scene = Scene("mallory", "web", "bob").begin(*ordinary).learn()
    scene.send("mallory", "web", UDP, 6, asks=True)
    scene.send("web", "mallory", ICMP, 6, asks=False, unreachable=True)
    scene.run(0.8).begin(floods_by_udp_to_closed_port("mallory", "web", per_s, at_once=1)).run(6)
    assert scene.ordered("mallory")[0].since - scene.begun_at <= 1.6
    assert (scene.roles("mallory"), scene.roles("web")) == ([Role.ATTACKER], [Role.VICTIM])


@pytest.mark.parametrize("kind", FLOODS)
def test_what_is_delivered_after_the_limit_is_at_most_the_limit(kind: str) -> None:
    flood, traffic = FLOODS[kind]
    scene = town().begin(flood("mallory", "web", 1000)).run(1.2)
    before = scene.delivered["mallory", "web", traffic]
    scene.run(10)
    (limit,) = scene.limits("mallory")
    assert limit.value is not None
    assert scene.delivered["mallory", "web", traffic] - before <= 1.2 * limit.value * 10


def test_a_storm_to_everybody_is_an_attack(scene: Scene) -> None:
    scene.begin(casts("mallory", ["web", "alice", "bob"], 5000)).run(4)
    assert scene.ordered("mallory")[0].since - scene.begun_at <= 1.0
    assert scene.verdict("mallory").attack is AttackClass.FLOOD
    assert scene.blamed() == {"mallory"}


def test_many_services_of_many_hosts_are_a_scan_if_none_accepts(scene: Scene) -> None:
    tried = [0]

    def behave(of: Scene, _: float) -> None:
        for _ in range(20):
            tried[0] += 1
            of.send("mallory", f"10.70.{tried[0] // 250}.{tried[0] % 250}", SYN, 1, octets=60, service=tried[0])

    scene.begin(behave).run(5)
    assert scene.verdict("mallory").attack is AttackClass.SCAN


def test_a_trickle_to_many_is_still_a_sweep(scene: Scene) -> None:
    """Slow datagrams are harmless only as long as they are for one address."""
    scene.begin(sweeps_hosts("mallory", 50, traffic=UDP)).run(5)
    assert scene.verdict("mallory").attack is AttackClass.SCAN


def test_honest_work_beside_an_attack_does_not_excuse_it() -> None:
    """The attacker talks honestly with its target in every way, and is answered."""
    for flood in (floods, floods_closed_port, floods_open_port, floods_by_data):
        scene = Scene("mallory", "web", "bob")
        scene.begin(browses("mallory", "web", 30), requests_by_udp("mallory", "bob", 30)).learn()
        scene.begin(flood("mallory", "web", 1000)).run(4)
        assert scene.verdict("mallory").role is Role.ATTACKER, flood
        assert scene.roles("bob") == []
    for target, traffic in (("web", UDP), ("bob", TCP)):
        scene = Scene("mallory", "web", "bob")
        scene.begin(browses("mallory", "web", 30), requests_by_udp("mallory", "bob", 30)).learn()
        scene.begin(floods("mallory", target, 5000, traffic)).run(4)
        assert scene.verdict("mallory").target == target


def test_the_floor_protects_the_small_and_the_cap_bounds_the_large() -> None:
    bounds = Bounds(factor=2, floor_pps=40, cap_pps=150)
    scene = town(bounds=bounds).begin(floods("bob", "web", 900, UDP)).run(2)
    assert scene.ordered("bob")[0].value == 40
    busy = Scene("mallory", "web", bounds=bounds).begin(browses("mallory", "web", 200)).learn()
    busy.begin(floods_open_port("mallory", "web", 3000)).run(2)
    assert busy.ordered("mallory")[0].value == 150


def test_a_vm_without_history_is_judged_by_the_prior() -> None:
    scene = Scene("mallory", "web", "alice").begin(browses("alice", "web", 10)).learn()
    scene.running("mallory", "web", "alice", "newborn")
    assert scene.hsem.samples("newborn") == 0
    scene.begin(floods_open_port("newborn", "web", 200)).run(3)
    assert scene.verdict("newborn").role is Role.ATTACKER
    assert scene.ordered("newborn")[0].value == 20.0, "the floor"
    assert "presumed" in scene.verdict("newborn").evidence[0].text


@pytest.mark.parametrize("per_s", [20, 200, 2000])
@pytest.mark.parametrize("open_ports", [0, 5])
def test_a_port_scan(scene: Scene, per_s: float, open_ports: int) -> None:
    scene.begin(scans_ports("mallory", "web", per_s, open_ports=open_ports)).run(5)
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.SCAN, "web")
    assert (scene.verdict("web").role, scene.verdict("web").target) == (Role.VICTIM, "mallory")
    kinds = {(limit.kind, *limit.classes) for limit in scene.limits("mallory")}
    assert kinds == {(LimitKind.NEW_DESTINATIONS,), (LimitKind.PACKETS, SYN)}


@pytest.mark.parametrize("per_s", [40, 400])
def test_a_sweep_over_many_hosts(scene: Scene, per_s: float) -> None:
    scene.begin(sweeps_hosts("mallory", per_s)).run(5)
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack) == (Role.ATTACKER, AttackClass.SCAN)
    assert LimitKind.NEW_DESTINATIONS in {limit.kind for limit in scene.limits("mallory")}
    assert scene.suspected() == {"mallory"}


@pytest.mark.parametrize(
    ("behaviour", "name"),
    [
        (forges("mallory", ForgedKind.ARP, 2), "ARP sender"),
        (forges("mallory", ForgedKind.DHCP_SERVER, 2, UDP), "DHCP server"),
        (forges("mallory", ForgedKind.ROUTER_ADVERTISEMENT, 2, ARP), "router advertisement"),
        (forges("mallory", ForgedKind.IPV4, 100, SYN), "IPv4 sender"),
        (forges("mallory", ForgedKind.MAC, 100, UDP), "MAC"),
    ],
)
def test_forged_frames_are_nobody_elses(scene: Scene, behaviour: Behaviour, name: str) -> None:
    scene.begin(behaviour).run(4)
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack) == (Role.ATTACKER, AttackClass.SPOOF)
    assert name in verdict.cause
    assert verdict.evidence[0].kind == "forged"
    assert scene.suspected() == {"mallory"}


@pytest.mark.parametrize("kind", [ForgedKind.ARP, ForgedKind.DHCP_SERVER, ForgedKind.ROUTER_ADVERTISEMENT])
def test_who_plays_anothers_part_every_other_second_is_held_at_once_and_found(scene: Scene, kind: ForgedKind) -> None:
    """Nothing of it arrives anyhow."""
    scene.begin(forges("mallory", kind, 0.5)).run(2.4)  # one frame
    assert ARP in {c for limit in scene.limits("mallory") for c in limit.classes}
    assert not scene.verdicts("mallory")
    scene.run(4)
    assert scene.roles("mallory") == [Role.ATTACKER]
    assert scene.suspected() == {"mallory"}


@pytest.mark.parametrize(("serves", "asks"), [(0, 0), (10, 0), (0, 20), (10, 40), (20, 10)])
def test_a_port_scan_as_fast_as_honest_talk_with_the_same_host(scene: Scene, serves: float, asks: float) -> None:
    """``serves``: what mallory itself is asked by it, ``asks``: what it honestly asks of it."""
    scene.begin(browses("web", "mallory", serves), browses("mallory", "web", asks)).run(60)
    assert scene.suspected() == set()
    scene.begin(scans_ports("mallory", "web", 20)).run(8)
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.SCAN, "web")
    assert scene.blamed() == {"mallory"}


def test_a_slip_is_looked_at_once_an_hour(scene: Scene) -> None:
    scene.begin(forges("mallory", ForgedKind.ARP, 1 / 40)).run(600)
    assert scene.roles("mallory") == [Role.CLEARED]
    assert not scene.limits("mallory")


def test_a_forged_frame_now_and_then_is_a_misconfiguration(scene: Scene) -> None:
    scene.begin(forges("mallory", ForgedKind.IPV4, 0.5, SYN)).run(40)
    assert scene.suspected() == set()


def test_two_attackers_of_one_victim_are_both_named(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 500), floods("bob", "web", 900, UDP)).run(4)
    assert scene.blamed() == {"mallory", "bob"}
    assert {scene.verdict(name).target for name in ("mallory", "bob")} == {"web"}
    assert scene.verdict("web").role is Role.VICTIM
    accusers = {e.text.split()[0] for e in scene.hsem._vms["web"].dossier and _accusations(scene, "web")}
    assert accusers == {"mallory", "bob"}


def _accusations(scene: Scene, name: str):
    from hypervigil.host.hsem import explain

    dossier = scene.hsem._vms[name].dossier
    return [e for e in explain.accused(dossier.facts(scene.now, 0)) if e.kind == "attacked-by"]


def test_one_attacker_of_two_victims(scene: Scene) -> None:
    scene.begin(floods("mallory", "web", 300, UDP), floods("mallory", "bob", 250, UDP)).run(4)
    assert scene.blamed() == {"mallory"}
    assert scene.roles("web") == scene.roles("bob") == [Role.VICTIM]
    assert scene.roles("alice") == []


def test_a_victim_that_attacks_is_an_attacker_too(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 500), floods("web", "bob", 900, UDP)).run(4)
    assert scene.blamed() == {"mallory", "web"}
    assert scene.roles("web") == [Role.VICTIM, Role.ATTACKER]
    assert scene.verdict("bob").target == "web"
    assert scene.roles("alice") == []


def test_two_that_attack_each_other(scene: Scene) -> None:
    scene.begin(floods("mallory", "bob", 900, UDP), floods("bob", "mallory", 300, SYN)).run(4)
    assert scene.blamed() == {"mallory", "bob"}


def test_a_vm_with_all_the_cores_busy_is_as_guilty(scene: Scene) -> None:
    scene.cpu["mallory"] = 1.0
    scene.begin(floods_open_port("mallory", "web", 500)).run(20)
    assert scene.roles("mallory")[0] is Role.ATTACKER


@pytest.mark.parametrize(("host", "mallory", "slowed"), [(1.0, 0.9, True), (0.5, 0.9, False), (1.0, 0.3, False)])
def test_an_attacker_takes_no_cpu_from_others(host: float, mallory: float, slowed: bool, scene: Scene) -> None:
    scene.cpu |= {HOST: host, "mallory": mallory, "web": 0.9}
    scene.begin(floods_open_port("mallory", "web", 500)).run(4)
    held = [limit for limit in scene.limits("mallory") if limit.kind is LimitKind.CPU]
    assert [limit.value for limit in held] == [pytest.approx(0.4, abs=0.05)] * slowed, "twice its own usual"
    assert not [limit for limit in scene.ordered("web") if limit.kind is LimitKind.CPU], "a victim may be busy"
    assert {limit.kind for limit in scene.limits("mallory")} >= {LimitKind.PACKETS}
    if held:
        assert held[0].since - scene.begun_at <= 1.0
        assert held[0].until == pytest.approx(max(limit.until for limit in scene.limits("mallory")), abs=0.1)


def test_a_tripwires_look_finds_it_sooner(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 2000))
    scene.step(0.05, look_at=("mallory", "web"))
    scene.step(0.05, look_at=("mallory", "web"))
    assert scene.ordered("mallory")[0].since - scene.begun_at <= 0.11
    scene.run(3)
    assert scene.blamed() == {"mallory"}
    assert scene.limited() == {"mallory"}


@pytest.mark.parametrize("seconds", [0.2, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("kind", ["SYN to an open port", "SYN that nobody answers", "UDP that nobody answers"])
def test_a_burst_that_is_over_is_still_an_attack(kind: str, seconds: float) -> None:
    flood, _ = FLOODS[kind]
    scene = town().begin(for_(seconds, flood("mallory", "web", 2000))).run(3)
    assert scene.verdict("mallory").role is Role.ATTACKER
    assert scene.verdict("web").role is Role.VICTIM, "known although its attacker was cut at once"
    assert scene.verdict("web").target == "mallory"


@pytest.mark.parametrize(
    ("flood", "per_s"),
    [
        (floods_by_udp_to_closed_port, 600),
        (floods_by_udp_to_closed_port, 5000),
        (lambda a, b, n: floods(a, b, n, UDP), 5000),
    ],
    ids=["closed port, 600/s", "closed port, 5000/s", "nobody listens, 5000/s"],
)
def test_ordinary_traffic_with_the_same_host_excuses_no_flood(flood, per_s: float, scene: Scene) -> None:
    """It hears from that host all day, and asks others by ping."""
    scene.begin(streams("web", "mallory", 30, reports_per_s=20), pings("mallory", ["alice"], 10)).learn()
    scene.begin(flood("mallory", "web", per_s)).run(3)
    assert scene.blamed() == {"mallory"}
    assert scene.verdict("web").target == "mallory"
    last = scene.ordered("mallory")[-1]
    assert last.value == own_limit(scene, "mallory", UDP, Bounds()), "and no share of what it sends"


def test_its_verdict_can_be_acted_on(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 500)).run(4)
    verdict = scene.verdict("mallory")
    assert "mallory sends" in verdict.cause
    assert "web" in verdict.cause
    assert verdict.counterfactual.startswith("would be CLEARED if")
    kinds = [e.kind for e in verdict.evidence]
    assert kinds == ["outbound-surge", "pair", "unanswered"]
    surge = verdict.evidence[0]
    assert surge.value == pytest.approx(500, rel=0.1)
    assert surge.baseline == pytest.approx(scene.hsem.tail("mallory", Metric.OUT_SYN), rel=0.01)


def test_an_attack_on_the_outside_accuses_nobody_here(scene: Scene) -> None:
    scene.begin(floods("mallory", RESOLVER, 900, UDP)).run(4)
    assert scene.verdict("mallory").target == "outside"
    assert scene.suspected() == {"mallory"}


@pytest.mark.parametrize("refused", [False, True])
def test_a_handful_of_ports_at_once_in_vain(scene: Scene, *, refused: bool) -> None:
    """Too few packets for any surge, but nobody else knocks at ten doors at once."""
    knocked = scene.send("bob", "alice", SYN, 10, octets=60, ports=10)
    scene.send("alice", "bob", TrafficClass.RST, knocked if refused else 0)
    scene.run(3)
    verdict = scene.verdict("bob")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.SCAN, "alice")
    assert scene.blamed() == {"bob"}


def test_ports_that_accept_are_no_scan_though_one_that_is_closed_is_tried_as_often(scene: Scene) -> None:
    """A service that answers at ports of its own, another that restarts: each opens 20 a second, and so for seconds."""
    for number in range(30):
        asked = scene.send("bob", "alice", SYN, 4, octets=60, ports=4 * number + 4)
        scene.send("bob", "alice", TCP, 3 * scene.send("alice", "bob", SYNACK, asked), octets=150)
        scene.send("alice", "bob", TCP, 3 * asked, octets=700)
        scene.send("alice", "bob", TrafficClass.RST, scene.send("bob", "alice", SYN, 3, octets=60, ports=1))
        scene.run(0.2)
    assert scene.blamed() == set()


def test_a_handful_of_ports_of_which_one_accepts_is_no_scan(scene: Scene) -> None:
    scene.send("alice", "bob", SYNACK, scene.send("bob", "alice", SYN, 10, octets=60, ports=10) // 10)
    scene.run(3)
    assert scene.suspected() == set()


def test_who_is_asked_much_may_not_answer_where_nobody_asked(scene: Scene) -> None:
    """A busy server's usual requests were taken up: they are no reason to send SYN-ACKs to somebody else."""
    begun_at = scene.run(60).now
    scene.begin(floods("web", "bob", 500, SYNACK)).run(4)
    verdict = scene.verdict("web")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.FLOOD, "bob")
    assert verdict.at - begun_at <= 2.0
    assert scene.blamed() == {"web"}


def test_a_chain_of_attackers_is_judged_however_long_it_is() -> None:
    """Each floods the next; where sweeps come late one verdict leads to the next in the same moment, hundreds deep."""
    names = [f"vm{n}" for n in range(400)]
    scene = Scene(*names).begin(*(floods(one, other, 500) for one, other in pairwise(names)))
    for _ in range(8):
        scene.step(1.0)
    assert scene.blamed() == set(names[:-1])
    assert scene.roles(names[-1]) == [Role.VICTIM]
