"""``hypervigil up`` and ``off`` where nothing is really started: ``conftest.layout`` makes that host."""

from click.testing import CliRunner, Result

from hypervigil.entrypoints.cli.commands import main
from hypervigil.entrypoints.layout import Layout


def make_directories(layout: Layout) -> None:
    for directory in (layout.enforcer_state, layout.monitor_dir):
        directory.mkdir(parents=True, exist_ok=True)


def up(layout: Layout, *words: str) -> Result:
    return CliRunner().invoke(main, ["up", "--detach", *words], obj=layout)


def off(layout: Layout) -> Result:
    return CliRunner().invoke(main, ["off"], obj=layout)
