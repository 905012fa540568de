"""The systemd units say the same as the supervisor: the same processes, users and places, and no more rights."""

import configparser
import importlib
import os
import shlex
import shutil
import subprocess
from collections import ChainMap
from pathlib import Path

import pytest

from hypervigil.entrypoints import layout as places
from hypervigil.entrypoints.supervise import SERVICES, Service
from tests.architecture.source import ROOT

UNITS = ROOT / "packaging" / "systemd"
HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LimitCORE": "0",
    "IPAddressDeny": "any",
    "Restart": "always",
    "RestartSec": "0.5",
}


def unit(name: str) -> ChainMap[str, str]:
    """All settings of one unit of ours."""
    return settings_of(UNITS / name)


def settings_of(path: Path) -> ChainMap[str, str]:
    """All settings of one unit; of a repeated one the last."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(path.read_text(encoding="utf-8"))
    return ChainMap(*(dict(parser[section]) for section in parser.sections()))


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_unit_runs_what_the_supervisor_runs(service: Service) -> None:
    settings = unit(f"hypervigil-{service.name}.service")
    assert f"-m {service.module} " in settings["ExecStart"]
    assert settings.get("User") == service.user
    assert settings["Nice"] == str(service.nice)
    assert settings["OOMScoreAdjust"] == str(service.oom_score)
    assert int(settings["CPUWeight"]) > 100, "the judge must not starve when guests fill every core"
    assert {key: settings.get(key) for key in HARDENING} == HARDENING
    for option, default in (
        ("run-dir", places.DEFAULT_RUN_DIR),
        ("state-dir", places.DEFAULT_STATE_DIR),
        ("pin-dir", places.DEFAULT_PIN_DIR),
    ):
        assert f"--{option}={default}" in settings["ExecStart"]


class OptionsReadError(Exception):
    """Raised where a process has read its options and would go on."""


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_the_process_understands_the_options_of_its_unit(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(**_bounds: int) -> None:
        raise OptionsReadError

    words = shlex.split(unit(f"hypervigil-{service.name}.service")["ExecStart"])
    process = importlib.import_module(service.module)
    monkeypatch.setattr(process, "confine", stop)
    options = words[words.index(service.module) + 1 :]
    with pytest.raises(OptionsReadError):
        process.main(options)
    with pytest.raises(SystemExit):
        process.main([*options, "--unheard-of"])


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_capabilities_are_bounded(service: Service) -> None:
    settings = unit(f"hypervigil-{service.name}.service")
    if service.user is not None:
        assert settings["CapabilityBoundingSet"] == ""
        assert settings["AmbientCapabilities"] == ""
        assert "AF_INET" not in settings["RestrictAddressFamilies"]
    else:
        granted = set(settings["CapabilityBoundingSet"].split())
        assert "CAP_NET_ADMIN" in granted
        assert not granted & {"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_BOOT", "CAP_MKNOD", "CAP_MAC_ADMIN"}


GROUPS = {
    "@system-service": {"chown", "fchown", "mlock", "prctl", "prlimit64", "sched_setaffinity", "setns", "setpriority"},
    "@privileged": {"bpf", "chown", "fchown", "setgroups"},
    "@resources": {"sched_setaffinity", "setpriority"},
    "@mount": {"mount"},
    "@debug": {"perf_event_open", "ptrace"},
}
"""What matters here of systemd's groups of system calls."""


def lets(filters: list[str], call: str) -> bool:
    """Whether the ``SystemCallFilter`` lines of a unit let a call pass; the later line counts (systemd.exec(5))."""
    if not filters:
        return True
    denies_by_default = not filters[0].startswith("~")
    listed: set[str] = set()
    for line in filters:
        for word in line.removeprefix("~").split():
            calls = GROUPS[word] if word.startswith("@") else {word}
            if line.startswith("~") == denies_by_default:
                listed -= calls
            else:
                listed |= calls
    return (call in listed) == denies_by_default


@pytest.mark.parametrize(
    ("service", "needed", "denied"),
    [
        ("enforcer", {"bpf", "chown", "mount", "setpriority"}, set()),
        ("monitor", {"prctl", "prlimit64"}, {"bpf", "chown", "mount", "ptrace", "perf_event_open"}),
        ("sensors", {"bpf", "prctl", "prlimit64"}, {"chown", "mount", "ptrace", "perf_event_open"}),
        ("gateway", {"prctl", "prlimit64"}, {"bpf", "chown", "mount", "ptrace", "perf_event_open"}),
    ],
)
def test_a_process_may_call_what_it_needs(service: str, needed: set[str], denied: set[str]) -> None:
    text = (UNITS / f"hypervigil-{service}.service").read_text(encoding="utf-8")
    filters = [line.partition("=")[2] for line in text.splitlines() if line.startswith("SystemCallFilter=")]
    assert {call for call in needed | denied if lets(filters, call)} == needed


def test_the_later_line_of_a_filter_counts() -> None:
    assert not lets(["@system-service bpf", "~@privileged"], "bpf")
    assert lets(["@system-service", "~@privileged", "bpf"], "bpf")
    assert not lets(["~@privileged"], "bpf")
    assert lets(["~@privileged", "bpf"], "bpf")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_systemd_takes_the_units_without_a_word(tmp_path: Path) -> None:
    for target in ("sysinit", "basic", "shutdown", "multi-user"):
        stand_in = "[Unit]\nDescription=stand-in\nDefaultDependencies=no\n"
        (tmp_path / f"{target}.target").write_text(stand_in, encoding="utf-8")
    for path in (*UNITS.glob("*.service"), *UNITS.glob("*.target")):
        here = path.read_text(encoding="utf-8").replace("/opt/hypervigil/bin/python", "/bin/sh")
        (tmp_path / path.name).write_text(here, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.glob("hypervigil*")))],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_target_starts_every_service() -> None:
    wanted = unit("hypervigil.target")["Wants"].split()
    assert sorted(wanted) == sorted(f"hypervigil-{service.name}.service" for service in SERVICES)


def test_tmpfiles_make_the_same_directories_as_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {places.MONITOR_USER: (4242, 4243)}
    owners = {(0, 0): ("root", "root"), ids[places.MONITOR_USER]: (places.MONITOR_USER,) * 2}
    made: dict[str, tuple[str, str]] = {}
    here = places.Layout(tmp_path / "run/hypervigil", tmp_path / "var/lib/hypervigil")
    monkeypatch.setattr(places, "user_ids", ids.__getitem__)
    monkeypatch.setattr(
        os, "chown", lambda path, uid, gid: made.update({f"/{Path(path).relative_to(tmp_path)}": owners[uid, gid]})
    )
    places.make_directories(here)
    expected = {path: (f"{(tmp_path / path[1:]).stat().st_mode & 0o7777:04o}", *owner) for path, owner in made.items()}
    lines = [
        line.split()
        for line in (UNITS / "hypervigil.tmpfiles.conf").read_text(encoding="utf-8").splitlines()
        if line.startswith("d ")
    ]
    assert {path: (mode, user, group) for _, path, mode, user, group in lines} == expected


def test_sysusers_make_every_service_user() -> None:
    made = {line.split()[1] for line in (UNITS / "hypervigil.sysusers.conf").read_text(encoding="utf-8").splitlines()}
    assert made == {service.user for service in SERVICES if service.user is not None}
