"""Who says by ARP to have what is another's: found by contradictions, and by nothing that honest hosts do."""

from itertools import count

import pytest

from hypervigil.entrypoints.replay.census import Census
from hypervigil.entrypoints.replay.disputes import INSISTS
from hypervigil.entrypoints.replay.stations import everybody, named
from tests.integration.wirelab import arp, ethernet
from tests.unit.entrypoints.replay.files import Timed
from tests.unit.entrypoints.replay.test_replay import C_MAC, C, ordinary, run
from tests.unit.entrypoints.replay.test_stations import (
    A_MAC,
    B_MAC,
    BROADCAST,
    FAR,
    GATEWAY,
    A,
    B,
    G,
    one,
    sent,
)

__all__ = ["run"]


def says(mac: str, address: str, to: str = A, to_mac: str = A_MAC) -> bytes:
    return ethernet(mac, to_mac, 0x0806, arp(2, mac, address, to))


def asks(mac: str, address: str, where: str) -> bytes:
    return ethernet(mac, BROADCAST, 0x0806, arp(1, mac, address, where))


def disproved(frames: list[Timed]) -> dict[str, list[str]]:
    census = Census()
    for at, frame in frames:
        census.see(one(frame), round(at * 1e9))
    found = census.disputes.disproved.items()
    return {mac.hex(":"): sorted(".".join(map(str, address[12:])) for address in those) for mac, those in found}


def each_second(*frames: bytes) -> list[Timed]:
    return list(zip(count(), frames, strict=False))


def test_who_says_to_have_an_address_and_then_asks_where_it_is_has_it_not() -> None:
    assert disproved(each_second(says(B_MAC, G), asks(B_MAC, B, G))) == {B_MAC: [G]}


@pytest.mark.parametrize(
    "frames",
    [
        each_second(asks(B_MAC, B, G), says(B_MAC, G)),
        each_second(says(B_MAC, G), says(GATEWAY, G), asks(B_MAC, B, G)),
        [(0, says(B_MAC, G)), (90, asks(B_MAC, B, G))],
        each_second(says(B_MAC, B), asks(B_MAC, B, B), asks(B_MAC, B, G)),
        each_second(says(B_MAC, B), asks(B_MAC, "0.0.0.0", B)),
    ],
    ids=["a stand-by takes over", "and gives back", "it moved", "it announces itself", "it looks whether it is free"],
)
def test_what_honest_hosts_ask_and_say(frames: list[Timed]) -> None:
    assert disproved(frames) == {}


def insists(times: int, *, asked: bool = False, used: bool = True) -> list[Timed]:
    frames = [sent(A_MAC, GATEWAY, A, FAR)]
    for _ in range(times):
        frames += [asks(GATEWAY, G, A)] if asked else []
        frames += [says(B_MAC, A, G)]
        frames += [sent(A_MAC, GATEWAY, A, FAR)] if used else []
    return each_second(*frames)


def test_who_insists_on_an_address_that_another_goes_on_using_has_it_not() -> None:
    assert disproved(insists(INSISTS)) == {B_MAC: [A]}
    assert disproved(insists(INSISTS - 1)) == {}
    assert disproved(insists(20, asked=True)) == {}, "a second NIC of the same host answers for both"
    assert disproved(insists(20, used=False)) == {}, "a stand-by has taken over"


def test_such_a_nic_may_send_with_its_own_addresses_only() -> None:
    census = Census()
    forwarded = [sent(B_MAC, A_MAC, FAR, A, 50)]
    for at, frame in each_second(asks(B_MAC, B, A), says(B_MAC, G), *forwarded, asks(B_MAC, B, G)):
        census.see(one(frame), at * 10**9)
    for stations in (everybody(census), named(census, [("b", B_MAC)])):
        found = stations.sender(one(forwarded[0]))
        assert found is not None, "what it forwards for others is its own doing"
        assert found.addresses == (B,)
        assert set(found.bound) == {B, "fe80::5054:ff:feaa:2"}
        assert not found.may_advertise_routes


def test_it_is_an_attacker_and_whoever_it_stands_between_is_not(run) -> None:
    """It tells the client to be the gateway, the gateway stays silent, and all goes through it."""
    frames = ordinary(10)
    frames += [(5 + n, says(A_MAC, G, C, C_MAC)) for n in range(4)]
    frames += [(5.5 + n / 20, sent(A_MAC, C_MAC, FAR, C, 50)) for n in range(80)]
    frames += [(9.8, asks(A_MAC, A, G))]
    found = run(sorted(frames, key=lambda timed: timed[0]))["vms"]
    assert (found[A]["verdict"], found[A]["class"]) == ("attacker", "spoof")
    assert {name for name, vm in found.items() if vm["verdict"]} == {A}
    assert 0 <= found[A]["frames"]["passed_after_limit"] <= found[A]["frames"]["after_limit"]
