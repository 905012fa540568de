"""What a test may need of the machine. `make test` (``--complete``) demands all of it; elsewhere its absence skips."""

import os
import shutil

import pytest

GUEST_PROGRAMS = ("qemu-system-x86_64", "virsh", "mmdebstrap")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--complete", action="store_true", help="fail, and do not skip, what this machine cannot run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run only when somebody asks for them by a marker expression (`make verify` does) or by name."""
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


def pytest_runtest_setup(item: pytest.Item) -> None:
    lack = _lack(item)
    if lack is None:
        return
    if item.config.getoption("--complete"):
        pytest.fail(f"this test {lack}", pytrace=False)
    pytest.skip(lack)
