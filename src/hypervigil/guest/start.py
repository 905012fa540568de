"""The agent's first steps: unpack and compile, at the guest's first start only, then begin anew from what was compiled.

Compiling leaves a megabyte behind that the agent would hold for ever. Where nothing can be unpacked it runs as it is.
"""

from __future__ import annotations

import posix
import sys

_PLACE = "/run/hypervigil-agent"
_BEGIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from hypervigil.guest import agent; agent.main(sys.argv[1:])"
_WHOLE = "/whole"
"""Made when all of it is compiled."""
_OPTIONS = ["-I", "-S", "-OO"]
_WRITABLE_BY_OTHERS = 0o022


def main(arguments: list[str]) -> None:
    """``arguments``: the archive, and what the agent itself takes (see ``agent.main``)."""
    archive, *rest = arguments
    code = None
    try:
        code = _unpacked(archive, rest[1].rpartition("/")[0] if len(rest) > 1 else _PLACE)
    except OSError:
        code = None  # no room, or no place that only we can write to
    if code is not None:
        posix.execv(sys.executable, [sys.executable, *_OPTIONS, "-c", _BEGIN, code, *rest])
    from hypervigil.guest import agent  # noqa: PLC0415 - only when it did not begin anew

    agent.main(rest)


def _unpacked(archive: str, place: str) -> str | None:
    """The directory with the compiled code; ``None`` where others could change it."""
    from zlib import crc32  # noqa: PLC0415 - gone with the new beginning

    try:
        posix.mkdir(place, 0o700)
    except FileExistsError:
        pass
    found = posix.stat(place)
    if found.st_uid != posix.geteuid() or found.st_mode & _WRITABLE_BY_OTHERS:
        return None
    with open(archive, "rb") as file:  # noqa: PTH123 - pathlib is large
        code = f"{place}/code-{crc32(file.read()):08x}"
    try:
        posix.stat(code + _WHOLE)
    except FileNotFoundError:
        _compile(archive, code)
    return code


def _compile(archive: str, code: str) -> None:
    from py_compile import compile as compiled  # noqa: PLC0415 - large, and gone with the new beginning
    from zipfile import ZipFile  # noqa: PLC0415

    with ZipFile(archive) as packed:
        packed.extractall(code)
        for name in packed.namelist():
            compiled(code + "/" + name, doraise=True)
    posix.close(posix.open(code + _WHOLE, posix.O_CREAT | posix.O_WRONLY | posix.O_CLOEXEC, 0o600))
