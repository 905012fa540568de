"""The systemd units say the same as the supervisor: the same processes, users and places, and no more rights."""

import configparser
import importlib
import os
import shlex
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
