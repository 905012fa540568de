"""One record of each VM that has shown something, and of nobody else. Pure."""

from collections.abc import Collection
from typing import Generic, TypeVar
from zlib import crc32

from hypervigil.model.ids import VmId

R = TypeVar("R")
ROUNDING = 0.01
"""Packets: rates are told in single precision, and counts are made of them."""


class Records(Generic[R]):
    """Bounded by who runs."""

    def __init__(self) -> None:
        self._of: dict[VmId, R] = {}

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        for vm in self._of.keys() - vms:
            self.forget(vm)

    def forget(self, vm: VmId) -> None:
        """Begin anew with a VM."""
        self._of.pop(vm, None)


def hashed(address: str) -> int:
    """How a host is remembered: 32 bits of its address."""
    return crc32(address.encode())
