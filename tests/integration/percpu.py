"""What the kernel keeps for each CPU: its values one by one, and their sum."""

import ctypes
from typing import TypeVar

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.reader import _possible_cpus

CPUS = _possible_cpus()
"""All that there can be, not only those that are there: so many values the kernel writes."""

T = TypeVar("T", bound=ctypes.Structure)


def of_each_cpu(map_fd: int, slot: int, kind: type[T]) -> list[T]:
    """A slot's values in an array of such a kind for each CPU."""
    values = (kind * CPUS)()
    assert kernel.lookup(map_fd, layout.Number(slot), values)  # type: ignore[arg-type]
    return list(values)


def summed(map_fd: int, slot: int, kind: type[T]) -> T:
    """Their sum, word by word: right for what is a count of 64 bits, and nonsense for the rest."""
    words = ctypes.c_uint64 * (ctypes.sizeof(kind) // 8)
    each = [words.from_buffer_copy(one) for one in of_each_cpu(map_fd, slot, kind)]
    return kind.from_buffer_copy(words(*(sum(column) & 0xFFFF_FFFF_FFFF_FFFF for column in zip(*each, strict=True))))
