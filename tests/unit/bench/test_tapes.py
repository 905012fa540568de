"""Tapes: what the sensors would have seen of a capture's hosts."""

import struct

import numpy as np
import pytest

from bench._tapes import BEAT_S, Moment, Tape, rated, record, seen_from_one_side, slower
from hypervigil.model.ids import OUTSIDE, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.report import PairRate
from hypervigil.model.traffic import Direction


def _pair(address="192.0.2.1", packets=10.0, *, new=False, ports=1, services=1):
    return PairRate(
        VmId("x"), Direction.OUT, VmId("y"), address, packets, 100.0, 5.0, 4.0, 1.0, ports, new=new, services=services
    )


def _moment(columns, *pairs):
    counts = np.zeros(Metric.CPU, np.float32)
    for metric, value in columns.items():
        counts[metric] = value
    return Moment(counts, pairs)


def test_a_slower_look_sees_every_packet_and_the_widest_fan():
    moments = {
        0: _moment({Metric.OUT_SYN: 3, Metric.FAN_OUT: 2}, _pair(packets=10, services=1)),
        4: _moment({Metric.OUT_SYN: 4, Metric.FAN_OUT: 7}, _pair(packets=30, new=True, ports=3, services=2)),
        5: _moment({Metric.OUT_SYN: 1}),
    }
    slow = slower(Tape("a", 0.2, moments, 6), 5)
    assert slow.beat_s == 1.0
    assert slow.length == 2
    assert slow.moments[0].counts[Metric.OUT_SYN] == 7
    assert slow.moments[0].counts[Metric.FAN_OUT] == 7
    assert slow.moments[1].counts[Metric.OUT_SYN] == 1
    (pair,) = slow.moments[0].pairs
    assert pair.packets == pytest.approx(8)  # 2 packets and 6 packets in one second
    assert (pair.new, pair.ports, pair.services) == (True, 3, 3)


@pytest.mark.parametrize(
    ("columns", "one_side"),
    [
        ({Metric.OUT_TCP: 900, Metric.OUT_SYN: 4, Metric.IN_UDP: 5}, True),
        ({Metric.IN_TCP: 24}, True),
        ({Metric.OUT_TCP: 900, Metric.IN_RST: 1}, False),
        ({Metric.OUT_SYN: 9}, False),
        ({Metric.OUT_UDP: 100}, False),
    ],
)
def test_who_is_seen_from_one_side_is_told_by_tcp_beyond_the_handshake(columns, one_side):
    """A handshake that nobody answers, and datagrams, may go one way."""
    assert seen_from_one_side(Tape("a", 0.2, {3: _moment(columns), 5: _moment({Metric.OUT_ARP: 1})}, 6)) is one_side


def test_at_the_same_beat_nothing_changes():
    tape = Tape("a", 0.2, {0: _moment({Metric.OUT_SYN: 3})}, 1)
    assert slower(tape, 1) is tape


def test_a_pair_becomes_a_vm_s_own_and_its_other_end_is_outside():
    pair = rated(_pair(), VmId("v"), 0.5)
    assert (pair.vm, pair.other, pair.packets, pair.openings) == (VmId("v"), OUTSIDE, 5.0, 2.5)


def _frame(source, destination, flags):
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, bytes([10, 0, 0, source]), bytes([10, 0, 0, destination])
    )
    tcp = struct.pack(">HHIIBBHHH", 40000 + source, 80 if source == 1 else 40001, 1, 1, 0x50, flags, 1000, 0, 0)
    return bytes([2, 0, 0, 0, 0, destination, 2, 0, 0, 0, 0, source]) + b"\x08\x00" + ip + tcp


def test_a_capture_becomes_a_tape_of_each_host(tmp_path):
    path = tmp_path / "one.pcap"
    frames = [(0.0, _frame(1, 2, 0x02)), (0.001, _frame(2, 1, 0x12)), (1.0, _frame(1, 2, 0x10))]
    body = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for at, frame in frames:
        body += struct.pack("<IIII", 100 + int(at), int(at % 1 * 1e6), len(frame), len(frame)) + frame
    path.write_bytes(body)
    tapes = record(path)
    assert len(tapes) == 2
    asking = next(tape for tape in tapes if sum(m.counts[Metric.OUT_SYN] for m in tape.moments.values()))
    assert sum(m.counts[Metric.OUT_SYN] for m in asking.moments.values()) == 1
    assert sum(m.counts[Metric.IN_SYNACK] for m in asking.moments.values()) == 1
    assert sum(m.counts[Metric.OUT_TCP] for m in asking.moments.values()) == 1
    assert asking.length <= round(2 / BEAT_S)
    assert any(pair.openings for m in asking.moments.values() for pair in m.pairs)
