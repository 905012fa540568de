"""Which policy a monitor starts with, restarted or not, whatever the files are like."""

import logging
from pathlib import Path
from typing import Any

import pytest

from hypervigil.entrypoints import monitor
from hypervigil.entrypoints.layout import Layout
from hypervigil.entrypoints.starting import starting_policy
from hypervigil.host import policyfile
from hypervigil.host.policyfile import PolicyStore, parse
from hypervigil.model.policy import Mode, Policy

FILE = 'mode = "monitor"\nladder = ["limit"]\n'
EDITED = 'mode = "monitor"\nladder = ["limit", "isolate"]\n'
APPLIED = 'mode = "enforce"\n'


class Host:
    """The places of one monitor, which can be started again and again."""

    def __init__(self, tmp_path: Path) -> None:
        self.layout = Layout(tmp_path / "run", tmp_path / "state", tmp_path / "pins")
        for directory in (self.layout.monitor_dir, self.layout.monitor_state):
            directory.mkdir(parents=True)
        self.file = tmp_path / "policy.toml"

    @property
    def store(self) -> PolicyStore:
        return PolicyStore(self.layout.monitor_state, file=self.file, handed=self.layout.handed_policy)

    def start(self) -> Policy:
        return starting_policy(self.store)

    def bare(self) -> Policy:
        """A start without a file of a unit's."""
        return starting_policy(PolicyStore(self.layout.monitor_state, handed=self.layout.handed_policy))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_file_of_a_unit_is_the_policy_of_the_first_start(host: Host) -> None:
    host.file.write_text(FILE, encoding="utf-8")
    assert host.start() == parse(FILE)
    assert host.store.text() == FILE


def test_what_was_applied_since_goes_on_across_restarts_until_the_file_changes(host: Host) -> None:
    host.file.write_text(FILE, encoding="utf-8")
    host.start()
    host.store.apply(APPLIED)
    assert host.start() == parse(APPLIED)
    host.file.write_text(EDITED, encoding="utf-8")
    assert host.start() == parse(EDITED)
    assert host.start() == parse(EDITED)


def test_what_was_applied_last_goes_on_though_the_file_was_changed_before_and_applied_itself(host: Host) -> None:
    host.file.write_text(FILE, encoding="utf-8")
    host.start()
    host.file.write_text(EDITED, encoding="utf-8")
    host.store.apply(EDITED)
    host.store.apply(APPLIED)
    assert host.start() == parse(APPLIED)


def test_what_was_handed_over_and_could_not_be_kept_is_older_than_what_is_applied(host: Host) -> None:
    host.layout.handed_policy.write_text(FILE, encoding="utf-8")
    host.store.apply(APPLIED)
    assert host.start() == parse(APPLIED)


def test_a_policy_that_watches_is_told_to_whoever_asked_to_enforce(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for text, told in (("", logging.INFO), ('mode = "monitor"\n', logging.WARNING)):
        host.store.apply(text)
        caplog.clear()
        starting_policy(PolicyStore(host.layout.monitor_state, Mode.ENFORCE))
        assert [r.levelno for r in caplog.records if r.message.startswith("policy.mode")] == [told]


def test_a_policy_that_the_file_replaces_is_kept_and_told(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    host.store.apply(APPLIED)
    host.file.write_text(FILE, encoding="utf-8")
    host.start()
    assert host.store.before.read_text(encoding="utf-8") == APPLIED
    assert "what it replaces is kept in" in caplog.text


@pytest.mark.parametrize("bad", [b"mode = ", b"\xff\xfe", b'mode = "enforced"\n', None])
def test_a_file_that_is_no_policy_is_a_line_in_the_log_and_the_last_good_one_stays(
    host: Host, bad: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    host.store.apply(APPLIED)
    if bad is not None:
        host.file.write_bytes(bad)
    assert host.start() == parse(APPLIED)
    [record] = caplog.records
    assert str(host.file) in record.getMessage()
    assert "\n" not in record.getMessage()
    host.file.write_text(FILE, encoding="utf-8")
    assert host.start() == parse(FILE), "once it is mended it counts"


def test_with_no_good_policy_at_all_nothing_is_dropped(host: Host) -> None:
    host.file.write_text("mode = ", encoding="utf-8")
    assert host.start() == Policy()


def test_what_up_hands_over_goes_before_the_file(host: Host) -> None:
    host.file.write_text(FILE, encoding="utf-8")
    host.layout.handed_policy.write_text(APPLIED, encoding="utf-8")
    assert host.start() == parse(APPLIED)
    assert not host.layout.handed_policy.exists()
    assert host.start() == parse(APPLIED), "the file has not changed since"


def test_a_full_disk_keeps_no_file_from_counting(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.store.apply(APPLIED)
    host.file.write_text(FILE, encoding="utf-8")

    def no_space(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(policyfile, "replace_file", no_space)
        assert host.start() == parse(FILE)
    assert host.store.text() == APPLIED
    assert host.start() == parse(FILE)


@pytest.mark.parametrize("bad", [b"mode = ", b"\xff\xfe", b"#" * (policyfile.MAX_BYTES + 1)])
def test_what_is_handed_over_and_no_policy_is_a_line_in_the_log_once(
    host: Host, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    host.file.write_text(FILE, encoding="utf-8")
    host.start()
    host.store.apply(APPLIED)
    host.layout.handed_policy.write_bytes(bad)
    assert host.start() == parse(APPLIED)
    assert host.start() == parse(APPLIED)
    [record] = caplog.records
    assert "the last good policy stays in force" in record.getMessage()


def test_what_is_handed_over_and_cannot_be_read_is_a_line_in_the_log(
    host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.store.apply(APPLIED)
    host.layout.handed_policy.write_text(FILE, encoding="utf-8")
    opened = Path.open

    def denied(self: Path, *args: Any, **options: Any) -> Any:
        if self == host.layout.handed_policy:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", denied)
    assert host.bare() == parse(APPLIED)
    [record] = caplog.records
    assert "you may not read" in record.getMessage()


def test_a_folder_in_the_place_of_what_is_handed_over_keeps_nobody_from_starting(host: Host) -> None:
    host.layout.handed_policy.mkdir()
    assert host.bare() == Policy()


def test_what_is_handed_over_counts_on_a_full_disk_too(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.layout.handed_policy.write_text(APPLIED, encoding="utf-8")

    def no_space(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(policyfile, "replace_file", no_space)
        assert host.bare() == parse(APPLIED)
    assert host.bare() == parse(APPLIED)
    assert host.store.text() == APPLIED


@pytest.mark.parametrize("asked", list(Mode))
@pytest.mark.parametrize("said", ["", *(f'mode = "{mode}"\n' for mode in Mode)])
def test_the_mode_is_the_same_at_the_start_when_it_is_applied_and_after_a_restart(
    host: Host, asked: Mode, said: str
) -> None:
    """What the policy says goes first, what the monitor was started with is for one that says nothing."""
    expected = parse(said).mode if said else asked

    def store(file: Path | None = None) -> PolicyStore:
        return PolicyStore(host.layout.monitor_state, asked, file=file, handed=host.layout.handed_policy)

    assert starting_policy(store()).mode is asked, "there is no policy yet"
    host.file.write_text(said, encoding="utf-8")
    assert starting_policy(store(host.file)).mode is expected
    host.layout.handed_policy.write_text(said, encoding="utf-8")
    assert starting_policy(store()).mode is expected
    store().apply('mode = "monitor"\n')
    assert store().apply(said).mode is expected
    assert starting_policy(store()).mode is expected


def test_a_monitor_told_to_enforce_starts_in_the_mode_of_its_policy(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StartedError(Exception):
        """Raised where the monitor would be made."""

    def made(_layout: Layout, policy: Policy, store: PolicyStore) -> None:
        raise StartedError(policy.mode, store.unsaid)

    monkeypatch.setattr(monitor, "confine", lambda: None)
    monkeypatch.setattr(monitor, "user_ids", lambda _: (0, 0))
    monkeypatch.setattr(monitor, "Monitor", made)
    for text, mode in (("", Mode.ENFORCE), ('mode = "monitor"\n', Mode.MONITOR)):
        host.store.apply(text)
        with pytest.raises(StartedError) as started:
            monitor.main([*host.layout.arguments(), "--enforce"])
        assert started.value.args == (mode, Mode.ENFORCE)
