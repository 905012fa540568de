"""What a test may need of the machine. `make test` (``--complete``) demands all of it; elsewhere its absence skips."""

import os
import shutil
import time
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

GUEST_PROGRAMS = ("qemu-system-x86_64", "virsh", "mmdebstrap")
MEANWHILE_S = 600.0
"""How long what runs meanwhile may go on after us."""
_END = "exit "


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--complete", action="store_true", help="fail, and do not skip, what this machine cannot run")
    parser.addoption("--with", type=Path, metavar="LOG", help="what runs meanwhile writes this; its failure is ours")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run only when somebody asks for them by a marker expression (`make verify` does) or by name.

    Where something runs meanwhile, what minds a busy machine comes last.
    """
    if config.getoption("--with"):
        items.sort(key=_minds_load)
    if config.option.markexpr or any("::" in argument for argument in config.args):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def _lack(item: pytest.Item) -> str | None:
    """One sentence: what this machine lacks for the test, and the mend."""
    guests = item.get_closest_marker("guests") is not None
    if (guests or item.get_closest_marker("root")) and os.geteuid() != 0:
        return "needs root: run 'make test' as root"
    if guests and (missing := [name for name in GUEST_PROGRAMS if shutil.which(name) is None]):
        return f"boots real guests and lacks {', '.join(missing)}: run 'make lab' as root"
    return None


def _minds_load(item: pytest.Item) -> bool:
    """Whether it measures rates, or boots guests; the mass of frames keeps to one CPU, and takes as long as it does."""
    return item.path.name != "test_mass.py" and not {"integration", "system"}.isdisjoint(item.path.parts)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if (log := item.config.getoption("--with")) and _minds_load(item):
        _await(log)
    lack = _lack(item)
    if lack is None:
        return
    if item.config.getoption("--complete"):
        pytest.fail(f"this test {lack}", pytrace=False)
    pytest.skip(lack)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Wait for what runs meanwhile (``--with``): where it fails, so do we."""
    log: Path | None = session.config.getoption("--with")
    if log is None:
        return
    if _await(log) != 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _await(log: Path) -> int | None:
    """How it ended, once it has."""
    deadline = time.monotonic() + MEANWHILE_S
    while (ended := _meanwhile(log)[1]) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return ended


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """All that failed meanwhile, or how many passed."""
    log: Path | None = config.getoption("--with")
    if log is None:
        return
    lines, ended = _meanwhile(log)
    terminalreporter.section("meanwhile")
    terminalreporter.write_line("\n".join(lines[-1:] if ended == 0 else [*lines, f"exit status: {ended}"]))


def _meanwhile(log: Path) -> tuple[list[str], int | None]:
    """What was written, and the exit status once it has ended."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    if not lines or not lines[-1].startswith(_END):
        return lines, None
    return lines[:-1], int(lines[-1].removeprefix(_END))
