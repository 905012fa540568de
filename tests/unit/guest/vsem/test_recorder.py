"""What the recorder makes of frames: who talked to whom, how much, and bounded whatever comes."""

import random
import struct

import pytest

from hypervigil.guest import words
from hypervigil.guest.addresses import Networks
from hypervigil.guest.vsem import frames, recorder
from tests.unit.guest.wire_frames import arp, ipv4, tcp, udp

A = "10.60.0.1"


def seen(record, data, way=words.OUT, weight=1, at_ms=0):
    record.frame(way, frames.read(way, data), weight, at_ms)


def syn(destination: str, port: int = 80, source_port: int = 40000) -> bytes:
    return ipv4(A, destination, 6, tcp(source_port, port, 2))


@pytest.mark.req("A227")
def test_twenty_destinations_are_told_apart():
    record = recorder.Recorder()
    for number in range(20):
        for _ in range(number + 1):
            seen(record, syn(f"10.60.1.{number}"))
    second = record.take_second()
    assert {address: count for _, address, count in recorder.busiest(second.peers, 32)} == {
        f"10.60.1.{number}": number + 1 for number in range(20)
    }
    assert second.classes[words.OUT][words.SYN] == 210
    assert record.take_second().peers == ({}, {})


def test_a_sampled_frame_stands_for_its_weight():
    record = recorder.Recorder()
    seen(record, syn("10.60.0.2"), weight=64)
    second = record.take_second()
    assert second.classes[words.OUT][words.SYN] == 64
    assert second.talkers() == [(words.OUT, "10.60.0.2", 64)]


def test_ports_tried_and_ports_that_are_not_usual():
    record = recorder.Recorder()
    record.usual_ports = frozenset({80})
    for port in range(80, 100):
        seen(record, syn("10.60.0.2", port))
    second = record.take_second()
    assert len(second.ports[bytes((10, 60, 0, 2))]) == 20
    assert second.odd_ports == 19


def test_without_a_told_history_its_own_memory_says_what_is_usual():
    record = recorder.Recorder()
    for _ in range(3):
        seen(record, syn("10.60.0.2", 443))
    assert record.take_second().odd_ports == 1
    seen(record, syn("10.60.0.3", 443))
    assert record.take_second().odd_ports == 0


@pytest.mark.req("A238")
def test_a_flow_has_both_directions_and_who_began_it():
    record = recorder.Recorder()
    record.networks = Networks(["10.60.0.0/24"])
    seen(record, syn("10.60.0.2"))
    seen(record, ipv4("10.60.0.2", A, 6, tcp(80, 40000, 0x12)), words.IN)
    seen(record, ipv4(A, "10.60.0.2", 6, tcp(40000, 80, 0x10)))
    flows, count = record.flows_since(0, 10)
    assert count == 1
    assert flows == [(words.OUT, 6, A, 40000, "10.60.0.2", 80, words.ZONE_INSIDE, 2, 1, 108, 54, 1)]


def test_flows_that_others_began_say_so():
    record = recorder.Recorder()
    seen(record, ipv4("10.60.0.9", A, 17, udp(50000, 53)), words.IN)
    assert record.flows_since(0, 1)[0][0][:6] == (words.IN, 17, A, 53, "10.60.0.9", 50000)


def test_fresh_flows_are_told_with_what_they_had_since():
    record = recorder.Recorder()
    seen(record, syn("10.60.0.2"), at_ms=1000)
    assert record.fresh_flows(8)[1] == 1
    assert record.fresh_flows(8) == ([], 0)
    seen(record, syn("10.60.0.2"), at_ms=3000, weight=4)
    flows, _ = record.fresh_flows(8)
    assert flows[0][7] == 4
    record.relax()
    assert record.fresh_flows(8)[0][0][7] == 5


@pytest.mark.req("A222")
def test_flows_since_a_time_are_those_and_no_others():
    record = recorder.Recorder()
    for number in range(30):
        seen(record, syn(f"10.60.0.{number + 2}"), at_ms=1000 * number)
    flows, count = record.flows_since(20_000, 64)
    assert count == 10
    assert {flow[4] for flow in flows} == {f"10.60.0.{number + 2}" for number in range(20, 30)}


def test_connections_that_no_sample_showed_are_known_once():
    record = recorder.Recorder()
    ends = (bytes((10, 60, 0, 1)), 40000, bytes((10, 60, 0, 2)), 22)
    record.connection(*ends, 500)
    record.connection(*ends, 600)
    second = record.take_second()
    assert second.peers[words.OUT] == {ends[2]: 1}
    flows, count = record.flows_since(0, 8)
    assert (count, flows[0][-1]) == (1, 1)


def test_frames_without_addresses_are_counted_by_class_only():
    record = recorder.Recorder()
    seen(record, arp(A, "10.60.0.2"))
    second = record.take_second()
    assert second.classes[words.OUT][words.ARP] == 1


def test_it_is_bounded_whatever_comes():
    record = recorder.Recorder()
    rng = random.Random(5)
    for at_ms in range(6000):
        address = ".".join(map(str, struct.pack("!I", rng.getrandbits(32))))
        seen(record, syn(address, rng.randrange(1, 65536), rng.randrange(1, 65536)), at_ms=at_ms)
        if at_ms % 50 == 0:
            record.fresh_flows(64)
    second = record.take_second()
    assert len(second.peers[words.OUT]) <= recorder.PEERS
    assert len(second.ports) <= recorder.PEERS
    assert record.flows_since(0, 1)[1] == recorder.FLOWS
    assert len(record._told) <= recorder.FLOWS
    assert len(record._usual) <= recorder.PORTS


def test_old_flows_are_forgotten():
    record = recorder.Recorder()
    seen(record, syn("10.60.0.2"), at_ms=0)
    seen(record, syn("10.60.0.3"), at_ms=5000)
    record.forget(recorder.FLOW_MS + 1000)
    assert record.flows_since(0, 8)[1] == 1
