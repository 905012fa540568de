"""The monitor as the command line asks it: what it is asked is kept, and it answers at once."""

from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import pytest

from hypervigil.model.policy import Policy
from hypervigil.model.vm import Inventory
from hypervigil.wire import control

T = TypeVar("T", bound=control.Request)


class Monitor(Generic[T]):
    """It may be asked for the network besides requests of one kind, which it keeps."""

    def __init__(self, kind: type[T], monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[T] = []
        self._kind = kind
        monkeypatch.setattr("hypervigil.entrypoints.cli.common.ask", self._ask)

    def _ask(self, _path: Path, request: control.Request) -> dict:
        if isinstance(request, control.ShowNetwork):
            return {"policy": msgspec.to_builtins(Policy()), "inventory": msgspec.to_builtins(Inventory(()))}
        assert isinstance(request, self._kind)
        self.asked.append(request)
        return {"sentences": ["done"]}
