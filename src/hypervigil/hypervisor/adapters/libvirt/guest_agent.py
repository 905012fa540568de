"""Files and commands in a guest by the QEMU guest agent that runs there, through libvirt.

Its answers are a guest's word: bounded, schema-checked, and never acted on but to go on or to stop.
"""

import base64
import time
from collections.abc import Callable
from typing import Any

import libvirt
import libvirt_qemu
import msgspec

from hypervigil.hypervisor.adapters.libvirt.connection import told

PING_S = 5
ANSWER_S = 20
CHUNK = 48 * 1024
"""Octets of a file per message: well below what libvirt and the agent take."""
MAX_ANSWER = 1 << 20
MAX_SAID = 200
"""Characters of a guest's words that are shown."""
NEEDED = ("guest-file-open", "guest-file-write", "guest-file-close", "guest-exec", "guest-exec-status")

Domain = Any
"""A ``libvirt.virDomain``."""
Command = Callable[[Domain, str, int, int], str]


class GuestAgentError(Exception):
    """What the QEMU guest agent did not do: the beginning of a sentence."""


class _Supported(msgspec.Struct):
    name: str
    enabled: bool


class _Info(msgspec.Struct):
    supported_commands: list[_Supported]


class _Written(msgspec.Struct):
    count: int


class _Started(msgspec.Struct):
    pid: int


class _Status(msgspec.Struct):
    exited: bool
    exitcode: int | None = None
    signal: int | None = None
    out_data: str = msgspec.field(default="", name="out-data")
    err_data: str = msgspec.field(default="", name="err-data")


class _Answer(msgspec.Struct):
    returned: msgspec.Raw = msgspec.field(name="return")


class GuestAgent:
    """One domain's. Every method raises ``GuestAgentError``."""

    def __init__(self, domain: Domain, command: Command | None = None) -> None:
        self._domain = domain
        self._command: Command = command or libvirt_qemu.qemuAgentCommand

    def _ask(self, what: str, kind: Any, arguments: dict[str, object] | None = None, within_s: int = ANSWER_S) -> Any:
        request: dict[str, object] = {"execute": what} | ({} if arguments is None else {"arguments": arguments})
        try:
            untrusted = self._command(self._domain, msgspec.json.encode(request).decode(), within_s, 0)
        except libvirt.libvirtError as error:
            raise GuestAgentError(f"its guest agent did not do {what} ({shown(told(error))})") from error
        try:
            if len(untrusted) > MAX_ANSWER:
                raise GuestAgentError(f"its guest agent answers {what} with more than {MAX_ANSWER} characters")
            answer = msgspec.json.decode(untrusted.encode(errors="replace"), type=_Answer)
            return msgspec.json.decode(answer.returned, type=kind)
        except msgspec.DecodeError:
            raise GuestAgentError(f"its guest agent answers {what} with something else than it should") from None

    def ping(self) -> None:
        """Whether one answers at all."""
        self._ask("guest-ping", dict, within_s=PING_S)

    def lacks(self) -> list[str]:
        """Which of the needed commands it does not know or may not do."""
        info = self._ask("guest-info", _Info)
        able = {one.name for one in info.supported_commands if one.enabled}
        return [name for name in NEEDED if name not in able]

    def write(self, path: str, content: bytes) -> None:
        """Replace a file's content."""
        handle = self._ask("guest-file-open", int, {"path": path, "mode": "w"})
        try:
            for start in range(0, len(content), CHUNK):
                part = content[start : start + CHUNK]
                encoded = base64.b64encode(part).decode()
                written = self._ask("guest-file-write", _Written, {"handle": handle, "buf-b64": encoded})
                if written.count != len(part):
                    raise GuestAgentError(f"its guest agent wrote {path} only in part: is its disk full?")
        finally:
            self._ask("guest-file-close", dict, {"handle": handle})

    def run(self, script: str, within_s: float) -> tuple[int, str]:
        """Run a shell script to its end: its exit status, and the last line that it said, or complained with."""
        what = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
        begun = self._ask("guest-exec", _Started, what)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            status = self._ask("guest-exec-status", _Status, {"pid": begun.pid})
            if status.exited:
                code = status.exitcode if status.exitcode is not None else 128 + (status.signal or 0)
                said = (status.err_data, status.out_data) if code else (status.out_data, status.err_data)
                return code, _last_line(said[0]) or _last_line(said[1])
            time.sleep(0.2)
        raise GuestAgentError(f"what was started in it did not end within {within_s:g} s")


def shown(untrusted: str) -> str:
    """A guest's words as they may be printed: one line, no control characters, not long."""
    return "".join(c if c.isprintable() else " " for c in untrusted[:MAX_SAID]).strip()


def _last_line(untrusted: str) -> str:
    try:
        text = base64.b64decode(untrusted[:MAX_ANSWER]).decode(errors="replace")
    except ValueError:
        return ""
    lines = [line for line in text.splitlines() if line.strip()]
    return shown(lines[-1]) if lines else ""
