"""How captures are scored, on captures made by hand."""

import sys
from pathlib import Path

import pytest

from bench import captures
from tests.unit.entrypoints.replay.files import pcap
from tests.unit.entrypoints.replay.test_replay import A_MAC, A, B, flood, ordinary

HEAD = "file,class,role_of_interest,attacker,victim,note,packets,duration_s\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "captures"
    (folder / "benign").mkdir(parents=True)
    (folder / "flood.pcap").write_bytes(pcap(ordinary(20) + flood(10, 1000, 3)))
    (folder / "benign" / "quiet.pcap").write_bytes(pcap(ordinary(20)))
    (folder / "labels.csv").write_text(
        HEAD
        + f"flood.pcap,ddos_in,victim,many sources,{B}:80,a flood,1,1\n"
        + f'flood.pcap,flood,attacker,MAC {A_MAC.upper()},"{B} (gw 10.0.0.254)",the same,1,1\n'
    )
    return tmp_path


def test_labels_name_roles_by_mac_or_address(data: Path) -> None:
    first, second = captures.labels(data / "captures" / "labels.csv")
    assert first.names == (("victim", B),)
    assert first.classes == {"flood", "reflection"}
    assert second.names == (("attacker", A_MAC), ("victim", B))
    assert second.classes == {"flood"}


def test_a_right_verdict_counts_and_an_unlabelled_attacker_is_a_wrong_blame(data: Path) -> None:
    result = captures.score(data / "captures", 60, "")
    by_victim, by_attacker = result["attacks"]
    assert by_attacker["role_right"]
    assert by_attacker["class_right"]
    assert by_attacker["wrong_blames"] == []
    assert by_victim["role_right"]
    assert by_victim["wrong_blames"] == [A], "the label names no host of the capture as its attacker"
    summary = result["summary"]
    assert (summary["attacks"], summary["role_and_class_right"], summary["wrong_blames"]) == (2, 2, 1)
    assert (summary["benign_level2"], summary["benign_false_verdicts"]) == (0, {})
    assert summary["benign_vm_hours"] > 0
    assert not captures.kept(summary)
    assert captures.kept({**summary, "wrong_blames": 0})


def test_an_attack_among_ordinary_captures_is_a_false_verdict(data: Path) -> None:
    folder = data / "captures"
    (folder / "benign" / "bad.pcap").write_bytes((folder / "flood.pcap").read_bytes())
    result = captures.score(folder, 60, "bad")
    assert result["attacks"] == []
    assert result["summary"]["benign_false_verdicts"] == {"attacker": 1, "victim": 1}
    assert result["summary"]["benign_captures_with_level2"] == 1
    assert not captures.kept(result["summary"])


def test_without_data_it_says_so(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["captures", "--data", str(tmp_path), "--out", str(tmp_path / "out.json")])
    captures.main()
    assert "HYPERVIGIL_DATA" in capsys.readouterr().out
    assert not (tmp_path / "out.json").exists()


def test_the_result_is_written_and_a_missed_target_is_an_exit_code(data: Path, monkeypatch) -> None:
    out = data / "out" / "captures.json"
    monkeypatch.setattr(sys, "argv", ["captures", "--data", str(data), "--out", str(out)])
    with pytest.raises(SystemExit) as end:
        captures.main()
    assert end.value.code == 1
    assert '"wrong_blames": 1' in out.read_text()
