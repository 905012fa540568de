"""Captures from file to verdict."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hypervigil.entrypoints.cli import main
from hypervigil.entrypoints.replay.drive import BEGIN_NS
from hypervigil.entrypoints.replay.run import replay
from hypervigil.host.hsem.engine import Hsem
from tests.integration.wirelab import arp, ethernet, icmp, ipv4, tcp, udp
from tests.unit.entrypoints.replay.files import Timed, pcap, write

A_MAC, B_MAC, C_MAC = "52:54:00:aa:00:01", "52:54:00:aa:00:02", "52:54:00:aa:00:03"
A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def between(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    ends = {A: A_MAC, B: B_MAC, C: C_MAC}
    return ethernet(ends[source], ends[destination], 0x0800, ipv4(source, destination, protocol, payload))


def conversation(client: str, server: str, at: float, port: int) -> Iterator[Timed]:
    """A request that is answered."""
    for step, (source, destination, flags) in enumerate(
        (
            (client, server, 0x02),
            (server, client, 0x12),
            (client, server, 0x10),
            (server, client, 0x18),
            (client, server, 0x11),
        )
    ):
        ports = (port, 80) if source == client else (80, port)
        yield at + step * 0.001, between(source, destination, 6, tcp(*ports, flags))


def ordinary(seconds: float) -> list[Timed]:
    made: list[Timed] = []
    for number in range(int(seconds * 2)):
        made += conversation(C, B, number / 2, 40_000 + number)
    return made


def flood(at: float, per_s: float, seconds: float) -> list[Timed]:
    dice = random.Random(1)
    frame = [between(A, B, 6, tcp(dice.randrange(1024, 65536), 80, 2)) for _ in range(int(per_s * seconds))]
    return [(at + number / per_s, one) for number, one in enumerate(frame)]


@pytest.fixture
def run(tmp_path: Path):
    def replayed(frames: list[Timed], *names: tuple[str, str], link: int = 1, **more: Any) -> dict[str, Any]:
        return replay(write(tmp_path / "x.pcap", pcap(frames, link=link)), names, **more)

    return replayed


def test_a_flood_is_blamed_on_the_sender_and_its_target_is_the_victim(run) -> None:
    found = run(ordinary(20) + flood(10, 1000, 3))["vms"]
    assert (found[A]["verdict"], found[A]["class"], found[A]["target"]) == ("attacker", "flood", B)
    assert (found[B]["verdict"], found[B]["class"]) == ("victim", "flood")
    assert found[C]["verdict"] is None
    assert 10 <= found[A]["level2_s"] <= found[A]["limit_s"] <= found[A]["verdict_s"] <= 11.5
    assert found[A]["evidence"]
    assert found[A]["cause"]


REQUEST = b"GET /login?user=alice HTTP/1.1\r\nHost: shop\r\n\r\n"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + b"<p>welcome</p>" * 64
TCP_PAYLOAD = 54


def pages(seconds: float) -> list[Timed]:
    """Ordinary conversations, each with a request and a page."""
    said = (b"", b"", REQUEST, PAGE, b"")
    return [(at, between_with(frame, said[number % len(said)])) for number, (at, frame) in enumerate(ordinary(seconds))]


def between_with(frame: bytes, payload: bytes) -> bytes:
    """The same TCP packet with something in it."""
    whole = (len(frame) - 14 + len(payload)).to_bytes(2)
    return frame[:16] + whole + frame[18:] + payload


def enciphered(frames: list[Timed]) -> list[Timed]:
    """The same frames, and behind the headers nothing that anybody could read."""
    dice = random.Random(2)
    return [(at, frame[:TCP_PAYLOAD] + dice.randbytes(len(frame) - TCP_PAYLOAD)) for at, frame in frames]


FLOODED = pages(20) + [(at, between_with(one, REQUEST)) for at, one in flood(10, 1000, 3)]
REFUSED = pages(20) + [
    one for at, asked in flood(10, 300, 3) for one in ((at, asked), (at + 0.001, between(B, A, 6, tcp(80, 4000, 0x14))))
]


@pytest.mark.req("T-NET-6", "A201")
@pytest.mark.parametrize("frames", [FLOODED, REFUSED], ids=["in vain", "refused"])
def test_ciphertext_is_judged_as_plaintext_is(run, frames: list[Timed]) -> None:
    secret = enciphered(frames)
    assert sum(one != other for one, other in zip(frames, secret, strict=True)) > 100
    plain = run(frames)
    assert plain["vms"][A]["verdict"] == "attacker"
    assert run(secret)["vms"] == plain["vms"]


def test_limits_are_simulated(run) -> None:
    found = run(ordinary(20) + flood(10, 1000, 3))["vms"]
    assert found[A]["frames"]["sent"] == 3000
    assert found[A]["frames"]["stopped"] > 2000
    assert found[B]["frames"]["got"] < 1000 + found[C]["frames"]["sent"]
    assert found[C]["frames"]["stopped"] == 0


def test_ordinary_work_is_nobodys_case(run) -> None:
    result = run(ordinary(60), history_s=60)
    assert all(vm["verdict"] is None and vm["level2_s"] is None for vm in result["vms"].values())
    assert result["watched_s"] == pytest.approx(65, abs=1)
    assert result["vm_hours"] == pytest.approx(2 * 65 / 3600, abs=0.001)


def test_the_first_frames_receiver_is_known_from_the_first_sweep_on(run) -> None:
    """A transfer at full speed from the first frame on: who was asked first answers it."""
    frames: list[Timed] = []
    for number in range(100):
        frames += [
            (number / 500, between(A, B, 6, tcp(40_000, 80, 0x18))),
            (number / 500 + 0.001, between(B, A, 6, tcp(80, 40_000, 0x10))),
        ]
    assert all(vm["cases"] == 0 for vm in run(frames)["vms"].values())


def test_a_burst_that_has_ended_is_judged_in_the_silence_after_it(run) -> None:
    found = run(flood(0, 10_000, 0.04))["vms"]
    assert found[A]["verdict"] == "attacker"
    assert 0.2 <= found[A]["verdict_s"] <= 5.2


def test_equal_times_are_a_burst(run) -> None:
    found = run([(1.0, frame) for _, frame in flood(0, 400, 1)])["vms"]
    assert found[A]["verdict"] == "attacker"


def test_the_hour_is_the_captures(run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(Hsem, "clock", lambda _, ahead_s: told.append(ahead_s))
    run([(at + 1_700_000_000, frame) for at, frame in ordinary(2)])
    assert told == [pytest.approx(1_700_000_000 - BEGIN_NS / 1e9)]


def test_a_long_silence_is_skipped_but_the_clock_is_right(run) -> None:
    year = 365 * 86400.0
    result = run(ordinary(10) + flood(year, 1000, 3))
    assert result["watched_s"] < 100
    assert result["seconds"] == pytest.approx(year + 3, abs=0.1)
    assert result["vms"][A]["level2_s"] == pytest.approx(year, abs=1)
    assert result["vms"][A]["verdict"] == "attacker"


def test_only_named_vms_are_judged(run) -> None:
    result = run(ordinary(20) + flood(10, 1000, 3), ("web", B))
    assert list(result["vms"]) == ["web"]
    assert result["vms"]["web"]["verdict"] == "victim"
    assert result["vms"]["web"]["target"] == "outside"


@pytest.mark.parametrize("link", [101, 113])
def test_captures_without_macs_are_judged_by_address(run, link: int) -> None:
    cooked = b"\0\0\0\1\0\6" + bytes.fromhex(A_MAC.replace(":", "")) + b"\0\0\x08\0" if link == 113 else b""
    frames = [(at, cooked + frame[14:]) for at, frame in ordinary(20) + flood(10, 1000, 3)]
    found = run(frames, link=link)["vms"]
    assert found[A]["verdict"] == "attacker"
    assert found[B]["verdict"] == "victim"
    assert sum(found[A]["frames"].values()) > 0


def test_arp_of_a_made_up_nic_is_not_forged(run) -> None:
    """The NIC's MAC is made up, so what ARP says of the sender's MAC must follow."""
    head = b"\0\1\0\1\0\6" + bytes.fromhex(A_MAC.replace(":", "")) + b"\0\0\x08\6"
    found = run([(n / 10, head + arp(1, A_MAC, A, B)) for n in range(100)], link=113)["vms"]
    assert found[A]["verdict"] is None


def test_segments_count_as_the_packets_they_become(run) -> None:
    """Ten frames of 30 kB a second are two hundred packets on the wire, of a stream that nobody takes."""
    big = between(A, B, 6, tcp(4000, 80, 0x10) + bytes(30_000))
    found = run([(n / 10, big) for n in range(20)])["vms"]
    assert found[A]["verdict"] == "attacker"
    assert found[A]["evidence"][0]["value"] > 100


def test_pings_that_are_answered_are_nobodys_case(run) -> None:
    frames: list[Timed] = []
    for number in range(60):
        frames += [(number, between(A, B, 1, icmp(8))), (number + 0.001, between(B, A, 1, icmp(0)))]
    assert {vm["verdict"] for vm in run(frames)["vms"].values()} == {None}


def test_nobody_there_is_said(run) -> None:
    result = run([(0, ethernet(A_MAC, "01:80:c2:00:00:00", 0x0026, b"\x42\x42\x03" + bytes(35)))])
    assert result["vms"] == {}
    assert any("no VM" in note for note in result["notes"])
    assert run([])["vms"] == {}


def test_frames_that_are_not_read_are_counted(run) -> None:
    result = run([(0, b"\0" * 40)], link=127)
    assert any("link layer" in note for note in result["notes"])


def test_progress_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcap", pcap(flood(0, 1000, 3)))
    told: list[int] = []

    def begin(total: int) -> Any:
        told.append(total)
        return lambda done: told.append(-done)

    replay(path, begin=begin)
    assert told[0] == 6000
    assert sum(told) == 0


def test_the_same_capture_gives_the_same_result(run) -> None:
    frames = ordinary(20) + flood(10, 1000, 3)
    assert run(frames) == run(frames)


# --- the command ----
def test_the_command_writes_json_and_a_table(tmp_path: Path) -> None:
    path, out = write(tmp_path / "x.pcap", pcap(flood(0, 1000, 2))), tmp_path / "out.json"
    result = CliRunner().invoke(
        main, ["replay", str(path), "--vm", f"bad={A}", "--vm", f"web={B_MAC}", "--json", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "attacker" in result.output
    found = json.loads(out.read_text())
    assert found["vms"]["bad"]["verdict"] == "attacker"
    assert found["vms"]["web"]["class"] == "flood"
    keys = {"verdict", "class", "level2_s", "limit_s", "verdict_s", "evidence", "cause"}
    assert keys <= found["vms"]["bad"].keys()


def test_several_vms_may_follow_one_option_and_json_may_go_to_standard_output(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcap", pcap(flood(0, 1000, 2)))
    result = CliRunner().invoke(main, ["replay", str(path), "--vm", f"a={A}", f"b={B}", "--json"])
    assert set(json.loads(result.stdout)["vms"]) == {"a", "b"}


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcap", pcap(flood(0, 1000, 2)))
    result = CliRunner().invoke(main, ["replay", str(path), "--vm", f"[red]a[/b]={A}"])
    assert result.exit_code == 0, result.output
    assert "[red]a[/b]" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.pcap"], "No such file"),
        (["CAPTURE", "--vm", "web"], "names no VM"),
        (["CAPTURE", "--vm", "web=here"], "neither a MAC nor an IP address"),
        (["CAPTURE", "--vm", f"outside={A}"], "choose another name"),
        (["CAPTURE", "--vm", f"a={A}", "--vm", f"b={A_MAC}"], "name each NIC once"),
        (["CAPTURE", "--json", "/nowhere/out.json"], "choose another place"),
    ],
)
def test_errors_are_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    path = write(tmp_path / "x.pcap", pcap(flood(0, 100, 1)))
    result = CliRunner().invoke(main, ["replay", *[str(path) if one == "CAPTURE" else one for one in arguments]])
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_udp_service_answers(run) -> None:
    frames: list[Timed] = []
    for number in range(100):
        at = number / 5
        frames += [(at, between(A, B, 17, udp(40000, 53))), (at + 0.001, between(B, A, 17, udp(53, 40000)))]
    assert {vm["verdict"] for vm in run(frames)["vms"].values()} == {None}
