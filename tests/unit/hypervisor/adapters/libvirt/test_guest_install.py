"""Our agent put into guests by a QEMU guest agent in memory: what is done, and each thing that can be in the way."""
# ruff: noqa: N802 - libvirt's own names

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.hypervisor.adapters.libvirt import guest_agent
from hypervigil.hypervisor.adapters.libvirt.channel import CHANNEL
from hypervigil.hypervisor.adapters.libvirt.guest_agent import CHUNK, NEEDED, GuestAgent, GuestAgentError
from hypervigil.hypervisor.adapters.libvirt.guest_install import (
    NO_INIT,
    NO_PYTHON,
    PORT,
    SCRIPT,
    STAGE,
    AgentFiles,
    InstallError,
    install,
)

FILES = AgentFiles(bytes(range(256)) * 512, b"[Unit]\n", b"#!/sbin/openrc-run\n")
UUID = "d305389d-a6a9-4eda-9ac7-c6789abb0b92"


def refused(code: int, said: str = "no") -> libvirt.libvirtError:
    error = libvirt.libvirtError(said)
    error.err = (code, 0, said, 0, "", None, None, 0, 0)
    return error


class Domain:
    def __init__(self, *, port: bool = False, active: bool = True, persistent: bool = True) -> None:
        self.port, self.active, self.persistent = port, active, persistent
        self.plugged: list[tuple[str, int]] = []
        self.not_pluggable = False

    def isActive(self) -> bool:
        return self.active

    def isPersistent(self) -> bool:
        return self.persistent

    def XMLDesc(self, _flags: int) -> str:
        channel = (
            "<channel type='unix'><source mode='bind' path='/run/a.sock'/><target type='virtio' name='{}'/></channel>"
        )
        return f"<domain><devices>{channel.format(CHANNEL) if self.port else ''}</devices></domain>"

    def attachDeviceFlags(self, xml: str, flags: int) -> None:
        if self.not_pluggable:
            raise refused(libvirt.VIR_ERR_OPERATION_FAILED, "no free\nslot")
        self.plugged.append((xml, flags))


class Connection:
    def __init__(self, domain: Domain, name: str = "web-1") -> None:
        self.domains = {name: domain, UUID: domain}

    def _find(self, name: str, code: int) -> Domain:
        if name not in self.domains:
            raise refused(code)
        return self.domains[name]

    def lookupByName(self, name: str) -> Domain:
        return self._find("" if name == UUID else name, libvirt.VIR_ERR_NO_DOMAIN)

    def lookupByUUIDString(self, name: str) -> Domain:
        return self._find(name if name == UUID else "", libvirt.VIR_ERR_INVALID_ARG)


class Guest:
    """A QEMU guest agent: ``qemuAgentCommand``."""

    def __init__(self, *, warns: str = "", exits: Sequence[int] = (0, 0)) -> None:
        self.files: dict[str, bytearray] = {}
        self.open: dict[int, str] = {}
        self.ran: list[str] = []
        self.exits = list(exits)
        self.says = "systemd"
        self.warns = warns
        self.forbidden: set[str] = set()
        self.answers: dict[str, str] = {}
        self.deaf = False
        self.polls = 0

    def __call__(self, _domain: Domain, command: str, timeout: int, _flags: int) -> str:
        assert 0 < timeout <= 20
        if self.deaf:
            raise refused(
                libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "Guest agent is not responding: QEMU guest agent is not connected"
            )
        request = json.loads(command)
        what, arguments = request["execute"], request.get("arguments", {})
        return self.answers.get(what) or json.dumps({"return": self.do(what, arguments)})

    def do(self, what: str, arguments: dict) -> object:
        match what:
            case "guest-info":
                known = [
                    {"name": name, "enabled": name not in self.forbidden, "success-response": True} for name in NEEDED
                ]
                return {"version": "7.2", "supported_commands": known}
            case "guest-file-open":
                assert arguments["mode"] == "w"
                self.open[1000 + len(self.files)] = arguments["path"]
                self.files[arguments["path"]] = bytearray()
                return max(self.open)
            case "guest-file-write":
                part = base64.b64decode(arguments["buf-b64"])
                assert len(part) <= CHUNK
                self.files[self.open[arguments["handle"]]] += part
                return {"count": len(part), "eof": False}
            case "guest-file-close":
                del self.open[arguments["handle"]]
                return {}
            case "guest-exec":
                assert arguments["path"] == "/bin/sh"
                self.ran.append(arguments["arg"][1])
                return {"pid": len(self.ran)}
            case "guest-exec-status":
                self.polls += 1
                if self.polls % 2:
                    return {"exited": False}
                told = {"out-data": base64.b64encode(f"x\n{self.says}\n".encode()).decode()}
                if self.warns:
                    told["err-data"] = base64.b64encode(f"x\n{self.warns}\n".encode()).decode()
                return {"exited": True, "exitcode": self.exits[arguments["pid"] - 1], **told}
            case _:
                return {}


def test_a_running_vm_gets_a_port_the_agent_and_what_starts_it() -> None:
    domain, guest = Domain(), Guest()
    done = install(Connection(domain), "web-1", FILES, guest)
    assert domain.plugged == [(PORT, libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG)]
    assert {path: bytes(content) for path, content in guest.files.items()} == {
        f"{STAGE}/agent": FILES.agent,
        f"{STAGE}/unit": FILES.unit,
        f"{STAGE}/openrc": FILES.openrc,
    }
    assert guest.open == {}, "every file is closed"
    assert guest.ran[-1] == SCRIPT
    assert done == ["web-1 was given a port for the agent", "the agent (131,072 bytes) is in web-1, started by systemd"]


def test_a_warning_beside_a_success_is_not_the_answer_and_beside_a_failure_it_is() -> None:
    """An init may warn of what is none of our business."""
    assert "started by systemd" in install(Connection(Domain()), "web-1", FILES, Guest(warns="* WARNING: x"))[1]
    with pytest.raises(InstallError, match=r"ended with 7 .* WARNING: x"):
        install(Connection(Domain()), "web-1", FILES, Guest(warns="* WARNING: x", exits=(0, 7)))


def test_a_port_that_is_there_stays_and_a_vm_without_definition_gets_one_for_this_run() -> None:
    there = Domain(port=True)
    assert install(Connection(there), UUID, FILES, Guest())[0] == f"{UUID} has a port for the agent"
    assert there.plugged == []
    passing = Domain(persistent=False)
    install(Connection(passing), "web-1", FILES, Guest())
    assert passing.plugged == [(PORT, libvirt.VIR_DOMAIN_AFFECT_LIVE)]


def broken(**changes: object) -> tuple[Connection, Guest]:
    domain, guest = Domain(), Guest()
    for name, value in changes.items():
        setattr(domain if hasattr(domain, name) else guest, name, value)
    return Connection(domain), guest


@pytest.mark.parametrize(
    ("name", "changes", "says", "mend"),
    [
        ("web-2", {}, "there is no VM 'web-2'", "virsh list --all"),
        ("host", {}, "'host' is no VM: this host itself needs no agent", "name a VM"),
        ("web-1", {"active": False}, "web-1 is off", "virsh start web-1"),
        (
            "web-1",
            {"not_pluggable": True},
            "no port for the agent can be plugged in while it runs (no free slot)",
            "virsh edit",
        ),
        ("web-1", {"deaf": True}, "no QEMU guest agent answers", "install and start qemu-guest-agent"),
        ("web-1", {"forbidden": {"guest-exec"}}, "may not do guest-exec", "qemu-ga.conf"),
        ("web-1", {"exits": [0, NO_PYTHON]}, "no Python 3.7", "install python3"),
        ("web-1", {"exits": [0, NO_INIT]}, "neither systemd nor OpenRC", "have its init start"),
        ("web-1", {"exits": [0, 5], "says": "Read-only"}, "ended with 5 (Read-only)", "mend that"),
        ("web-1", {"exits": [1, 0]}, "cannot make /run/hypervigil-agent.install", "full or read-only"),
        ("web-1", {"answers": {"guest-exec": '{"return": {}}'}}, "answers guest-exec with something else", "by hand"),
        ("web-1", {"answers": {"guest-file-write": '{"return": {"count": 3}}'}}, "only in part", "is its disk full"),
        ("web-1", {"answers": {"guest-info": "x" * (2 << 20)}}, "more than 1048576 characters", "by hand"),
    ],
)
def test_what_is_in_the_way_is_one_sentence_with_the_mend(name: str, changes: dict, says: str, mend: str) -> None:
    connection, guest = broken(**changes)
    with pytest.raises(InstallError) as error:
        install(connection, name, FILES, guest)
    assert says in str(error.value)
    assert mend in str(error.value)
    assert "\n" not in str(error.value)
    assert SCRIPT not in guest.ran or "exits" in changes, "what is not whole is not started"


def test_what_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(guest_agent.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(guest_agent.time, "sleep", lambda _s: None)
    connection, guest = broken(answers={"guest-exec-status": '{"return": {"exited": false}}'})
    with pytest.raises(InstallError, match="did not end within 60 s"):
        install(connection, "web-1", FILES, guest)


def test_a_guests_words_are_shown_without_its_tricks() -> None:
    connection, guest = broken(exits=[0, 7], says="\x1b[2J" + "z" * 5000)
    with pytest.raises(InstallError) as error:
        install(connection, "web-1", FILES, guest)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400
    connection, guest = broken(says="pwned; reboot the host")
    assert install(connection, "web-1", FILES, guest)[-1].endswith("started by its init")


@given(
    st.text()
    | st.sampled_from(['{"return": 3}', '{"return": null}', '{"error": {}}', "[]", '{"return": {"pid": 1e99}}'])
)
def test_whatever_a_guest_answers_is_an_answer_or_one_error(untrusted: str) -> None:
    guest = GuestAgent(Domain(), lambda *_: untrusted)
    for ask in (guest.ping, guest.lacks, lambda: guest.write("/x", b"x")):
        with contextlib.suppress(GuestAgentError):
            ask()


@pytest.mark.parametrize(
    ("init", "started"), [("systemd", "systemctl restart"), ("OpenRC", "rc-service"), (None, None)]
)
def test_the_script_installs_for_the_init_that_runs(init: str | None, started: str | None, tmp_path: Path) -> None:
    """By a real shell, in a directory instead of a guest's root."""
    for name in ("usr/local", "etc", "bin", "run"):
        (tmp_path / name).mkdir(parents=True)
    stage = tmp_path / "run" / Path(STAGE).name
    stage.mkdir()
    for name, content in (("agent", FILES.agent), ("unit", FILES.unit), ("openrc", FILES.openrc)):
        (stage / name).write_bytes(content)
    tools = {"systemd": ["systemctl"], "OpenRC": ["rc-update", "rc-service"], None: []}[init]
    if init == "systemd":
        (tmp_path / "run/systemd/system").mkdir(parents=True)
    for tool in (*tools, "chown"):
        path = tmp_path / "bin" / tool
        path.write_text(f'#!/bin/sh\necho {tool} "$@" >>{tmp_path}/log\n')
        path.chmod(0o755)
    script = SCRIPT
    for place in ("/run/", "/usr/local/", "/etc/"):
        script = script.replace(f" {place}", f" {tmp_path}{place}").replace(f'"{place}', f'"{tmp_path}{place}')
    environment = {"PATH": f"{tmp_path}/bin:{os.defpath}"}
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert not stage.exists(), "nothing is left behind"
    agent = tmp_path / "usr/local/sbin/hypervigil-agent"
    if init is None:
        assert done.returncode == NO_INIT
        assert not agent.exists()
        return
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, init), done.stderr
    assert agent.read_bytes() == FILES.agent
    assert agent.stat().st_mode & 0o777 == 0o755
    assert started in (tmp_path / "log").read_text()
