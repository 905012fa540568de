"""``python -m lab``: what can be done with real guests that work and attack. Each command has its module."""

import argparse
import signal
import sys
from types import FrameType
from typing import NoReturn, Protocol

from lab import clean, demo, pulses, run, scoreboard, trials
from lab.errors import LabError

_WRONG = 2
_STOPPED = 130


class Command(Protocol):
    """A module that is a command."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what it takes."""
        ...

    def main(self, options: argparse.Namespace) -> int:
        """Do it; the exit status."""
        ...


_COMMANDS: dict[str, tuple[Command, str]] = {
    "demo": (demo, "show live how an attack is found and contained, and write a page about it"),
    "run": (run, "run a scenario and say whether all was judged rightly"),
    "pulses": (pulses, "measure how soon floods at one rate are limited, many on one boot"),
    "trials": (trials, "make many mixed attacks and honest tasks on one boot and say who was blamed"),
    "scoreboard": (scoreboard, "try every kind of attack and of honest work at each of its rates, again and again"),
    "clean": (clean, "remove what crashed runs left on this host"),
}


def main() -> int:
    """Do one command; errors are one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m lab", description="Real guests that work, attack and are judged.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (command, words) in _COMMANDS.items():
        command.arguments(commands.add_parser(name, help=words, description=f"{words.capitalize()}."))
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        return _COMMANDS[options.command][0].main(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return _WRONG
    except KeyboardInterrupt:
        print("lab: stopped before its end; everything is undone", file=sys.stderr)
        return _STOPPED


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """Stop once; whatever is being undone then is not to be disturbed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
