"""The agent for guests: small, of the standard library, readable by old Pythons, and packed as it is written."""

import ast
import base64
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hypervigil.guest import agent, port
from scripts import build_agent
from tests.architecture.source import PACKAGE, ROOT, files, imports, name
from tests.architecture.test_packaging import HARDENING, settings_of

GUEST = ROOT / "packaging" / "guest"
AGENT = PACKAGE / "guest" / "hypervigil-agent"
BUILT_IN = {"__future__", "_socket", "posix", "select", "struct", "sys", "time"}
"""What every Python for Linux has, and what costs little memory."""
ONLY_TO_UNPACK = {"py_compile", "zipfile", "zlib"}


@pytest.mark.parametrize("path", files("guest"), ids=name)
def test_it_needs_nothing_and_loads_little(path: Path) -> None:
    foreign = {module.split(".")[0] for module in imports(path)} - {"hypervigil"}
    allowed = BUILT_IN | (ONLY_TO_UNPACK if path.name == "start.py" else set())
    assert foreign <= allowed
    ours = {module for module in imports(path) if module.startswith("hypervigil.")}
    assert {module for module in ours if not module.startswith("hypervigil.guest")} == set()


@pytest.mark.parametrize("path", build_agent.sources(), ids=name)
def test_python_3_7_can_read_it(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 7))
    if path.parent != PACKAGE:
        assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body) or not any(
            isinstance(node, ast.FunctionDef) for node in tree.body
        )
    keywords = [keyword.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords]
    assert "strict" not in keywords, "zip() takes no 'strict' before Python 3.10"


def test_the_packed_agent_is_the_source() -> None:
    assert AGENT.read_bytes() == build_agent.packed(), "run 'make agent'"
    with zipfile.ZipFile(AGENT) as packed:
        names = packed.namelist()
    assert names == [path.relative_to(ROOT / "src").as_posix() for path in build_agent.sources()]


def test_the_packed_agent_is_small() -> None:
    assert AGENT.stat().st_size < 64 * 1024


def test_nothing_large_is_loaded() -> None:
    """What ``python3 -I -S`` has loaded when the agent is imported, besides the interpreter's own."""
    code = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1])\n"
        "from hypervigil.guest import agent\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT / "src")], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {module for module in told if not module.startswith("hypervigil")} <= BUILT_IN | {"_struct"}


def test_the_unit_runs_it_with_few_rights() -> None:
    settings = settings_of(GUEST / "hypervigil-agent.service")
    assert settings["ExecStart"] == "/usr/local/sbin/hypervigil-agent"
    assert f"/run/{settings['RuntimeDirectory']}/level" == agent.STATE
    assert settings["RuntimeDirectoryPreserve"] == "yes", "Level 2 survives a restart"
    wanted = {key: value for key, value in HARDENING.items() if key not in ("PrivateTmp", "RestartSec")}
    assert {key: settings.get(key) for key in wanted} == wanted
    granted = set(settings["CapabilityBoundingSet"].split())
    assert granted == {"CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}
    assert "AF_INET" not in settings["RestrictAddressFamilies"].split()


STARTED_BEFORE = ("sysinit", "basic", "shutdown", "multi-user")
"""Targets that units refer to by themselves."""


def verified(directory: Path, unit: str) -> tuple[int, str]:
    """What systemd says of a unit that is to start its real agent."""
    for target in STARTED_BEFORE:
        path = directory / f"{target}.target"
        path.write_text("[Unit]\nDescription=stand-in\nDefaultDependencies=no\n", encoding="utf-8")
    started = directory / "hypervigil-agent"
    started.write_bytes(AGENT.read_bytes())
    started.chmod(0o755)
    path = directory / "hypervigil-agent.service"
    path.write_text(unit.replace("/usr/local/sbin/hypervigil-agent", str(started)), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": str(directory)},
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_systemd_takes_the_unit_without_a_word(tmp_path: Path) -> None:
    unit = (GUEST / "hypervigil-agent.service").read_text(encoding="utf-8")
    assert verified(tmp_path, unit) == (0, "")
    _, said = verified(tmp_path, unit.replace("MemoryMax=", "MemoryMost="))
    assert "MemoryMost" in said, "the control: what it does not know it tells"


def test_openrc_and_cloud_init_start_the_same() -> None:
    script = GUEST / "hypervigil-agent.openrc"
    subprocess.run(["sh", "-n", str(script)], check=True)
    assert str(Path(agent.STATE).parent) in script.read_text(encoding="utf-8")
    for path in (script, GUEST / "cloud-init.yaml"):
        assert "/usr/local/sbin/hypervigil-agent" in path.read_text(encoding="utf-8")
    whole = build_agent.cloud_init(b"agent")
    assert base64.b64encode(b"agent").decode() in whole
    assert "@AGENT@" not in whole
    assert "@UNIT@" not in whole


SYSTEM_PYTHON = "/usr/bin/python3"
"""The distribution's, which has a parser of YAML where cloud-init does."""


def has_yaml() -> bool:
    """Whether there is one here."""
    found = subprocess.run([SYSTEM_PYTHON, "-c", "import yaml"], check=False, capture_output=True)
    return found.returncode == 0


@pytest.mark.skipif(not has_yaml(), reason="there is no python3-yaml on this machine")
def test_cloud_init_reads_the_agent_and_its_unit() -> None:
    code = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
    whole = build_agent.cloud_init(AGENT.read_bytes())
    assert whole.startswith("#cloud-config\n")
    told = subprocess.run([SYSTEM_PYTHON, "-c", code], input=whole, check=True, capture_output=True, text=True).stdout
    document = json.loads(told)
    assert set(document) == {"write_files", "runcmd"}
    assert all(one["owner"] == "root:root" and one["encoding"] == "b64" for one in document["write_files"])
    written = {
        one["path"]: (one["permissions"], base64.b64decode(one["content"], validate=True))
        for one in document["write_files"]
    }
    assert written == {
        "/usr/local/sbin/hypervigil-agent": ("0755", AGENT.read_bytes()),
        "/etc/systemd/system/hypervigil-agent.service": ("0644", (GUEST / "hypervigil-agent.service").read_bytes()),
    }
    assert document["runcmd"][-1] == ["systemctl", "enable", "--now", "hypervigil-agent.service"]


def test_the_readme_names_the_port() -> None:
    assert port.NAME in (GUEST / "README.md").read_text(encoding="utf-8")
