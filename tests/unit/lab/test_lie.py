"""What a guest's root can say by its agent's port: what is told of less, said again or forged, as the host takes it."""

import argparse
import json
import random
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypervigil.model.guest import GuestMetric
from hypervigil.wire.frames import ProtocolError
from hypervigil.wire.guest import LINE_FROM_GUEST, Report1, parse_from_guest
from tests.fuzz.words import SAMPLING, TALKERS, VALUES

FILE = Path(__file__).parents[3] / "lab" / "guest" / "lie.py"
LIE: dict[str, Any] = runpy.run_path(str(FILE), run_name="lie")
VICTIM = "cccb9e32-b7f3-5bb0-a854-fd03d829bd54"


def line(sequence: int, octets: int) -> bytes:
    values = list(VALUES)
    values[GuestMetric.OUT_PACKETS], values[GuestMetric.OUT_BYTES] = octets // 100, octets
    told = Report1(1, 7, sequence, 5_000 + sequence, 1, 0, 0, 1000, tuple(values), SAMPLING, TALKERS)
    return msgspec.json.encode(told) + b"\n"


@pytest.mark.parametrize(("share", "octets"), [(1.0, 8000), (0.5, 4000), (0.0, 0)])
def test_a_report_tells_of_a_share_and_is_still_a_report(share: float, octets: int) -> None:
    told = parse_from_guest(LIE["edited"](line(3, 8000), share)[:-1])
    assert isinstance(told, Report1)
    assert told.values[GuestMetric.OUT_BYTES] == octets
    assert told.sequence == 3


@pytest.mark.parametrize("other", [b"garbage\n", b'["hello",1]\n', b"{}\n", b"7\n"])
def test_what_is_no_report_is_passed_on_as_it_is(other: bytes) -> None:
    assert LIE["edited"](other, 0.0) == other


def test_recorded_reports_are_summed_up(tmp_path: Path) -> None:
    recorded = tmp_path / "recorded"
    recorded.write_bytes(b"noise\n" + line(1, 1000) + line(2, 2000) + line(3, 4000) + b'["r1",half')
    argv = [sys.executable, str(FILE), "told", str(recorded), "--last", "2"]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {"reports": 2, "out_bytes": 6000, "packets_per_s": [20.0, 40.0]}


def test_nothing_that_is_forged_or_garbage_is_a_message() -> None:
    dice, options = random.Random(1), argparse.Namespace(name=VICTIM)
    lines = [one for _ in range(20) for kind in ("forged", "garbage") for one in LIE[kind](dice, options).split(b"\n")]
    assert len(lines) > 1000
    for one in filter(None, lines):
        with pytest.raises(ProtocolError):
            parse_from_guest(one[:LINE_FROM_GUEST])
