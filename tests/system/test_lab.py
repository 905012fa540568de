"""The lab itself: guests boot, come back from saved RAM, talk, work, attack during boot, and leave nothing."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from lab import libvirtd
from lab.definition import GuestSpec
from lab.errors import LabError
from lab.ext import Ext
from lab.guests import Guest, destroy_all, start_all
from lab.network import Networks, NetworkSpec
from lab.paths import SAVED
from lab.residue import look, residue

pytestmark = [pytest.mark.guests, pytest.mark.root]


@dataclass(frozen=True)
class Lab:
    networks: Networks
    ext: Ext
    a: Guest
    b: Guest


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    before = look()
    with libvirtd.running(), Networks([NetworkSpec("test", "10.61.0.0/24", "fd61::/64")]) as networks:
        specs = [GuestSpec("test-a", "red", "test", 0), GuestSpec("test-b", "blue", "test", 1)]
        guests = [Guest(spec, networks["test"]) for spec in specs]
        ext = Ext()
        try:
            start_all(guests)
            yield Lab(networks, ext, *guests)
        finally:
            destroy_all(guests)
            ext.close()
    assert residue(before) == []


def received(interface: str) -> int:
    """Packets that a guest sent, by its tap."""
    return int(Path(f"/sys/class/net/{interface}/statistics/rx_packets").read_text())


def awaited(what: Callable[[], bool], within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.1)


def test_guests_reach_each_other_and_the_outside(lab: Lab) -> None:
    for target in (lab.b.address, lab.ext.address, lab.a.network.gateway, "fd61::3"):
        result = lab.a.run(f"ping -c 1 -W 5 {target}")
        assert result.exit == 0, result.output
    assert lab.ext.run(f"ping -c 1 -W 5 {lab.a.address}").exit == 0
    assert lab.a.run("cat /sys/class/net/eth0/address").output.strip() == lab.a.mac
    assert abs(float(lab.a.run("date +%s.%N").output) - time.time()) < 2


def test_the_attack_tools_are_there(lab: Lab) -> None:
    result = lab.a.run("which hping3 nmap arpspoof iperf3 stress-ng curl hv-load arping python3")
    assert result.exit == 0, result.output


def test_commands_end_by_themselves_by_time_and_by_order(lab: Lab) -> None:
    for place in (lab.a, lab.ext):
        assert place.run("echo out; echo err >&2; exit 3").output == "out\nerr\n"
        assert place.run("exit 3").exit == 3
        assert place.run("sleep 60 & sleep 60", timeout_s=0.5).exit == 124
        job = place.spawn("echo begun; sleep 4321")
        awaited(lambda place=place: place.run("pgrep -f 'sleep 432[1]'").exit == 0)
        stopped = place.stop(job)
        assert stopped is not None
        assert stopped.output == "begun\n"
        assert place.run("pgrep -f 'sleep 432[1]'").exit == 1
        assert place.stop(job) is None or place.stop(job) == stopped


def test_output_without_end_neither_hangs_nor_grows(lab: Lab) -> None:
    job = lab.a.spawn("yes")
    result = lab.a.run("yes | head -c 3000000; echo; echo end")
    assert result.output.endswith("end\n")
    assert len(result.output) <= 16384
    lab.a.stop(job)
    assert int(lab.a.run("awk '/VmRSS/{print $2}' /proc/1/status").output) < 40_000


def test_work_flows_and_its_samples_lie_on_the_hosts_clock(lab: Lab) -> None:
    lab.b.work_start("web-server")
    lab.a.work_start(f"web-client:{lab.b.address} --rate 10 --seed 3")
    lab.ext.work_start(f"web-client:{lab.b.address} --rate 5")
    for place in (lab.a, lab.b, lab.ext):
        place.work_read()
    began = time.monotonic()
    samples = {place.name: [] for place in (lab.a, lab.b, lab.ext)}

    def enough() -> bool:
        for place in (lab.a, lab.b, lab.ext):
            samples[place.name] += place.work_read()
        return min(len(found) for found in samples.values()) >= 5

    awaited(enough)
    for place, rate in ((lab.a, 10), (lab.ext, 5), (lab.b, 15)):
        got = samples[place.name][1:5]
        assert sum(sample.failed for sample in got) == 0
        assert 0.6 * rate < sum(sample.ok for sample in got) / 4 < 1.4 * rate
        assert all(0 < latency < 1 for sample in got for latency in sample.latencies_s)
        assert all(began < sample.at_s < time.monotonic() for sample in got)
        assert all(abs(sample.wall_s - time.time()) < 30 for sample in got)
        spacing = [later.at_s - earlier.at_s for earlier, later in pairwise(got)]
        assert all(0.8 < gap < 1.2 for gap in spacing), spacing
    lab.b.work_stop()
    awaited(lambda: any(sample.failed for sample in lab.a.work_read()))
    load = lab.ext.run(f"hv-load --rate 10 --seconds 1 http://{lab.b.address}/")
    assert load.exit == 1, load
    for place in (lab.a, lab.ext):
        place.work_stop()


def test_a_guest_floods_and_its_runner_still_answers(lab: Lab) -> None:
    before = received(lab.a.interface)
    job = lab.a.spawn(f"hping3 -q --flood -S -p 80 {lab.b.address}")
    awaited(lambda: received(lab.a.interface) - before > 5000)
    assert lab.a.run("echo here").output == "here\n"
    lab.a.stop(job)


def test_saved_ram_is_faster_than_booting_and_gives_a_fresh_guest(lab: Lab) -> None:
    lab.a.run("echo dirty >/scratch/dirt; echo dirty >/root/dirt; sync")
    guest = lab.a
    guest.start(cold=True)
    assert not guest.restored
    booting_s, restoring_s = guest.start_s, []
    for _ in range(4):  # what else the machine's disk does only makes it slower
        guest.start()
        assert guest.restored
        restoring_s.append(guest.start_s)
        if min(restoring_s) < booting_s / 2:
            break
    assert min(restoring_s) < booting_s, "half of it and less where the file is in memory"
    assert guest.run("ls /scratch/dirt /root/dirt").exit != 0
    assert guest.run(f"ping -c 1 -W 5 {lab.b.address}").exit == 0


def test_spoiled_saved_ram_is_forgotten_and_the_guest_boots(lab: Lab) -> None:
    lab.a.start()
    newest = max(SAVED.glob("*.ram"), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    lab.a.start()
    assert not lab.a.restored
    assert not newest.exists()
    assert lab.a.run("true").exit == 0


def test_a_guest_acts_during_boot_before_anybody_talks_to_it(lab: Lab) -> None:
    seen: list[str] = []
    command = f"ping -i 0.2 -c 5 {lab.b.address}; echo done"
    lab.a.start(cold=True, on_boot=command, on_created=lambda guest: seen.append(guest.interface))
    assert seen == [lab.a.interface]
    job = lab.a.boot_job
    assert job is not None
    awaited(lambda: lab.a.run("pgrep ping").exit == 1)
    result = lab.a.stop(job)
    assert result is not None
    assert "5 packets transmitted, 5 received" in result.output
    with pytest.raises(LabError, match="cold"):
        lab.a.start(on_boot=command)


def test_only_one_lab_at_a_time_per_machine(lab: Lab) -> None:
    with pytest.raises(LabError, match="another lab"), Networks([NetworkSpec("other", "10.62.0.0/24")]):
        pass
    assert lab.ext.run(f"ping -c 1 -W 5 {lab.b.address}").exit == 0
