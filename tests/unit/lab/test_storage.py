"""The storage that guests share, without guests: its parts and its queue."""

import json
from pathlib import Path

import pytest

from lab import storage
from lab.errors import LabError
from lab.image import SCRATCH_MIB


def test_all_parts_lie_behind_one_queue_and_none_on_another() -> None:
    argv = storage.command(600, ["a", "b", "c"])
    said = list(zip(argv[1::2], [json.loads(word) for word in argv[2::2]], strict=True))
    parts = [value for option, value in said if option == "--blockdev" and value["driver"] == "raw"]
    size = SCRATCH_MIB << 20
    assert [(part["offset"], part["size"]) for part in parts] == [(number * size, size) for number in range(3)]
    assert {part["file"] for part in parts} == {"queue"}
    exports = {value["name"]: value["node-name"] for option, value in said if option == "--export"}
    assert exports == {"a": "part-a", "b": "part-b", "c": "part-c"}
    assert said[0][1]["limits"] == {"iops-total": 600, "iops-size": 16384}


def test_a_daemon_that_was_left_is_known_by_its_file() -> None:
    argv = [word.encode() for word in storage.command(600, ["a"])]
    assert storage.left_over(argv)
    assert not storage.left_over([*argv[:1], b"--blockdev", b"of somebody else"])
    assert not storage.left_over([b"cat", *argv[1:]])
    assert not storage.left_over([])


def test_a_socket_that_a_run_left_is_not_taken_for_the_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "storage.sock").touch()
    monkeypatch.setattr(storage, "RUN", tmp_path)
    monkeypatch.setattr(storage, "SOCKET", tmp_path / "storage.sock")
    monkeypatch.setattr(storage, "_FILE", tmp_path / "storage.img")
    monkeypatch.setattr(storage, "command", lambda *_: ["false"])
    monkeypatch.setattr(storage.Storage, "_fill", lambda _: None)
    with pytest.raises(LabError, match="ended at once"), storage.Storage(600, ["a"]):
        pass
