"""Who is a VM in a capture: hosts by MAC, others by address, nobody behind a router but who is named."""

from collections.abc import Iterable

import pytest

from hypervigil.entrypoints.replay.capture import Captured
from hypervigil.entrypoints.replay.census import MANY_ADDRESSES, Census
from hypervigil.entrypoints.replay.links import Seen, seen
from hypervigil.entrypoints.replay.stations import MAX_STATIONS, Station, everybody, named
from tests.integration.wirelab import arp, ethernet, ipv4, ipv6, tcp, udp

A_MAC, B_MAC, GATEWAY = "52:54:00:aa:00:01", "52:54:00:aa:00:02", "52:54:00:aa:00:fe"
A, B, G = "10.0.0.1", "10.0.0.2", "10.0.0.254"
FAR, FAR2 = "203.0.113.5", "198.51.100.7"
BROADCAST = "ff:ff:ff:ff:ff:ff"


def hops(packet: bytes, left: int) -> bytes:
    return packet[:8] + bytes([left]) + packet[9:]


def sent(mac: str, to: str, source: str, destination: str, left: int = 64) -> bytes:
    return ethernet(mac, to, 0x0800, hops(ipv4(source, destination, 6, tcp(40000, 80, 2)), left))


def one(frame: bytes, link: int = 1) -> Seen:
    found = seen(Captured(0, link, frame, len(frame)))
    assert found is not None
    return found


def census(frames: Iterable[bytes], link: int = 1) -> Census:
    made = Census()
    for frame in frames:
        made.see(one(frame, link))
    return made


def macs(stations: Iterable[Station]) -> dict[str, str | None]:
    return {station.name: None if station.made_up else station.mac.hex(":") for station in stations}


INBOUND = [sent(GATEWAY, A_MAC, f"203.0.113.{n}", A, 50) for n in range(1, 40)]


def test_hosts_are_vms_and_whoever_is_behind_the_router_is_outside() -> None:
    found = census([sent(A_MAC, GATEWAY, A, FAR), sent(GATEWAY, A_MAC, FAR, A, 51), sent(GATEWAY, A_MAC, FAR2, A, 49)])
    assert macs(everybody(found).all) == {A: A_MAC}


def test_a_router_that_has_an_address_is_judged_for_what_it_sends_itself() -> None:
    frames = [*INBOUND, ethernet(GATEWAY, A_MAC, 0x0806, arp(2, GATEWAY, G, A)), sent(A_MAC, GATEWAY, A, FAR)]
    stations = everybody(census(frames))
    assert macs(stations.all) == {A: A_MAC, G: GATEWAY}
    assert stations.sender(one(sent(GATEWAY, A_MAC, FAR, A, 50))) is None, "passed on: it comes from outside"
    own = stations.sender(one(sent(GATEWAY, A_MAC, G, A)))
    claim = stations.sender(one(ethernet(GATEWAY, A_MAC, 0x0806, arp(2, GATEWAY, B, A))))
    assert own is not None
    assert own.name == G
    assert claim is own, "what it says by ARP is its own, whatever it claims"
    assert own.may_advertise_routes


def test_who_never_sends_is_found_by_what_is_sent_to_it() -> None:
    stations = everybody(census(INBOUND))
    assert macs(stations.all) == {A: A_MAC}
    (receiver,) = stations.receivers(one(INBOUND[0]), None)
    assert receiver.name == A


def test_forged_senders_are_their_nics() -> None:
    frames = [ethernet(A_MAC, BROADCAST, 0x0806, arp(1, A_MAC, A, B))]
    frames += [sent(A_MAC, B_MAC, f"198.51.100.{n}", B) for n in range(1, 200)]
    stations = everybody(census(frames))
    assert macs(stations.all)[A] == A_MAC
    sender = stations.sender(one(frames[-1]))
    assert sender is not None
    assert sender.name == A


def test_an_address_that_somebody_takes_over_stays_the_first_ones() -> None:
    frames = [sent(A_MAC, GATEWAY, A, FAR), ethernet(B_MAC, BROADCAST, 0x0806, arp(2, B_MAC, A, G))]
    frames += [sent(B_MAC, GATEWAY, B, FAR)]
    assert macs(everybody(census(frames)).all) == {A: A_MAC, B: B_MAC}


def test_a_translator_that_sets_the_hops_anew_hides_no_vms() -> None:
    frames = [sent(GATEWAY, A_MAC, f"203.0.113.{n}", A) for n in range(1, MANY_ADDRESSES + 5)]
    frames += [sent(A_MAC, GATEWAY, A, f"203.0.113.{n}") for n in range(1, MANY_ADDRESSES + 5)]
    assert macs(everybody(census(frames)).all) == {A: A_MAC}


def test_where_only_routers_are_seen_addresses_count() -> None:
    frames = [sent(GATEWAY, B_MAC, FAR, f"10.1.{n}.1", 117) for n in range(MANY_ADDRESSES + 2)]
    found = macs(everybody(census(frames)).all)
    assert found[FAR] is None
    assert found["10.1.3.1"] is None
    assert len(found) == MANY_ADDRESSES + 3


def test_without_macs_private_addresses_are_vms_and_else_who_sends_first_hand() -> None:
    assert macs(everybody(census([ipv4(A, FAR, 17, udp(1, 2))], link=101)).all) == {A: None}
    frames = [ipv4(FAR, FAR2, 17, udp(1, 2)), hops(ipv4(FAR2, FAR, 17, udp(2, 1)), 50)]
    assert macs(everybody(census(frames, link=101)).all) == {FAR: None}


def test_there_are_never_more_than_can_be_judged() -> None:
    frames = [ipv4(f"10.0.{n // 200}.{n % 200 + 1}", A, 17, udp(1, 2)) for n in range(MAX_STATIONS + 10)]
    stations = everybody(census(frames, link=101))
    assert len(stations.all) == MAX_STATIONS
    assert stations.left_out > 0


def test_groups_reach_everybody_else_on_the_network() -> None:
    frames = [sent(A_MAC, B_MAC, A, B), sent(B_MAC, A_MAC, B, A), sent(GATEWAY, A_MAC, G, A)]
    stations = everybody(census(frames))
    query = one(ethernet(A_MAC, BROADCAST, 0x0806, arp(1, A_MAC, A, B)))
    assert {s.name for s in stations.receivers(query, stations.sender(query))} == {B, G}


def test_who_serves_first_is_taken_for_the_networks_server() -> None:
    offer = ethernet(GATEWAY, A_MAC, 0x0800, ipv4(G, A, 17, udp(67, 68)))
    other = ethernet(B_MAC, A_MAC, 0x0800, ipv4(B, A, 17, udp(67, 68)))
    advertised = ethernet(GATEWAY, "33:33:00:00:00:01", 0x86DD, ipv6("fe80::1", "ff02::1", 58, b"\x86" + bytes(15)))
    stations = {s.mac.hex(":"): s for s in everybody(census([offer, other, advertised])).all}
    assert stations[GATEWAY].may_serve_dhcp
    assert stations[GATEWAY].may_advertise_routes
    assert not stations[B_MAC].may_serve_dhcp


def test_vms_are_named_by_mac_or_address() -> None:
    found = census([*INBOUND, sent(A_MAC, GATEWAY, A, FAR), sent(B_MAC, GATEWAY, B, FAR)])
    stations = named(
        found, [("web", A), ("db", B_MAC.upper().replace(":", "-")), ("far", "203.0.113.9"), ("gone", "10.9.9.9")]
    )
    assert macs(stations.all) == {"web": A_MAC, "db": B_MAC, "far": None, "gone": None}
    sender = stations.sender(one(sent(GATEWAY, A_MAC, "203.0.113.9", A, 50)))
    assert sender is not None
    assert sender.name == "far"
    assert stations.sender(one(INBOUND[0])) is None


def test_a_router_named_by_mac_answers_for_all_it_sends() -> None:
    stations = named(census(INBOUND), [("gw", GATEWAY)])
    sender = stations.sender(one(INBOUND[0]))
    assert sender is not None
    assert sender.name == "gw"


def test_one_vm_may_have_two_nics_and_no_nic_two_vms() -> None:
    found = census([sent(A_MAC, GATEWAY, A, FAR), sent(B_MAC, GATEWAY, B, FAR)])
    assert [s.name for s in named(found, [("web", A), ("web", B)]).all] == ["web", "web"]
    with pytest.raises(ValueError, match="already"):
        named(found, [("web", A), ("db", A_MAC)])
    with pytest.raises(ValueError, match="neither a MAC nor an IP address"):
        named(found, [("web", "somewhere")])


def test_named_ones_and_all_others() -> None:
    found = census([*INBOUND, sent(A_MAC, GATEWAY, A, FAR), sent(B_MAC, GATEWAY, B, FAR)])
    stations = named(found, [("web", A), ("far", FAR)], others=True)
    assert macs(stations.all) == {"web": A_MAC, "far": None, B: B_MAC}
    assert len({station.ifindex for station in stations.all}) == len({station.mac for station in stations.all}) == 3
