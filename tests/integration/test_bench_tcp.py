"""The benchmark's TCP stream tells what gets through: a device that lets 100 Mbit/s through shows as that."""

import pytest

from bench._segment import veths
from tests.integration.wirelab import namespace, run

pytestmark = pytest.mark.root
LIMIT_BPS = 100e6
_HEADERS = 1448 / 1514


@pytest.mark.parametrize("measure", ["tcp_bps", "tcp_one_cpu_bps"])
def test_a_stream_is_as_fast_as_its_device(measure: str) -> None:
    with namespace(), veths() as segment:
        sender, _ = segment.guests
        segment.traffic.begin(measure)
        free = segment.traffic.bits_per_s(0.02)
        run("ip", "netns", "exec", sender.namespace, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf",
            "rate", "100mbit", "burst", "64k", "latency", "500ms")  # fmt: skip
        held = segment.traffic.bits_per_s(0.3)
        run("ip", "netns", "exec", sender.namespace, "tc", "qdisc", "del", "dev", "eth0", "root")
        again = segment.traffic.bits_per_s(0.02)
    assert held == pytest.approx(LIMIT_BPS * _HEADERS, rel=0.05)
    assert min(free, again) > 5 * LIMIT_BPS
