"""The benchmark's TCP stream tells what gets through: a device that lets 100 Mbit/s through shows as that."""

import statistics
import subprocess

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


@pytest.mark.parametrize("measure", ["tcp_bps", "tcp_one_cpu_bps"])
def test_a_short_burst_tells_what_a_long_one_does_where_packets_cost_much(measure: str) -> None:
    """What is sent before the receiver has the CPU for the first time is work too."""
    rules = "\n".join(f"ip saddr 10.9.{n // 250}.{n % 250} drop" for n in range(5000))
    with namespace(), veths() as segment:
        slow = f"table bridge slow {{\nchain forward {{\ntype filter hook forward priority 0\n{rules}\n}}\n}}\n"
        subprocess.run(["nft", "-f", "-"], input=slow, text=True, check=True)
        segment.traffic.begin(measure)
        short = statistics.median(segment.traffic.bits_per_s(0.015) for _ in range(20))
        assert short == pytest.approx(statistics.median(segment.traffic.bits_per_s(0.3) for _ in range(3)), rel=0.3)
