"""Arrays that have one row per VM, grow together and close their gaps together. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hypervigil.model.ids import VmId

Matrix = npt.NDArray[np.float32]
Counts = npt.NDArray[np.uint16]
Rows = npt.NDArray[np.intp]
Copies = dict[str, npt.NDArray[Any]]
"""Arrays by name, each with a row per VM."""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """All rows of a table as values."""

    vms: tuple[VmId, ...]
    arrays: Copies
    """A row per VM in each."""

    def of(self, vms: Collection[VmId]) -> "Kept":
        """The rows of these VMs, as far as they have any."""
        rows = [row for row, vm in enumerate(self.vms) if vm in vms]
        return Kept(tuple(self.vms[row] for row in rows), {name: array[rows] for name, array in self.arrays.items()})


MOST_COUNTED = int(np.iinfo(np.uint16).max)
_LEAST_ROWS = 16
_SPARE = 8
"""Of so many rows, one more is made room for: each growth copies all, but room that nobody takes is memory too."""
_numbers: list[int] = []
"""Rows' numbers, the same objects for every table: each would take 32 bytes a VM for its own."""


def _number(row: int) -> int:
    if row == len(_numbers):
        _numbers.append(row)
    return _numbers[row]


class Table:
    """Named arrays of float32, shape ``(rows, *shape)``; a new VM's row is zeros, or what ``begin_with`` says.

    ``counts``: arrays of whole numbers up to 65,535, which take half of the room.
    """

    def __init__(self, counts: Mapping[str, tuple[int, ...]] | None = None, /, **shapes: tuple[int, ...]) -> None:
        self._arrays: dict[str, npt.NDArray[Any]] = {
            **{name: np.zeros((0, *shape), np.uint16) for name, shape in (counts or {}).items()},
            **{name: np.zeros((0, *shape), np.float32) for name, shape in shapes.items()},
        }
        self._initial: dict[str, Matrix] = {}
        self._rows: dict[VmId, int] = {}
        self._room = 0
        self._asked: tuple[tuple[VmId, ...], Rows] | None = None

    def begin_with(self, name: str, values: Matrix) -> None:
        """New VMs' rows of this array begin so, instead of with zeros."""
        self._initial[name] = values

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, vm: VmId) -> bool:
        return vm in self._rows

    def __getitem__(self, name: str) -> Matrix:
        """The array with room for growth: only rows that ``rows`` gave mean anything.

        Ask for rows first: a new one may make the array grow, which replaces it.
        """
        return self._arrays[name]

    def counts(self, name: str) -> Counts:
        """The same of an array of whole numbers."""
        return self._arrays[name]

    @property
    def vms(self) -> tuple[VmId, ...]:
        """Who has a row, in the order of rows."""
        return tuple(self._rows)

    def row(self, vm: VmId) -> int:
        """A VM's row, a new one if it has none."""
        found = self._rows.get(vm)
        if found is not None:
            return found
        row = self._rows[vm] = _number(len(self._rows))
        if row >= self._room:
            self._grow(row + max(_LEAST_ROWS, row // _SPARE))
        for name, array in self._arrays.items():
            array[row] = self._initial.get(name, 0.0)
        return row

    def rows(self, vms: Sequence[VmId]) -> Rows:
        """The rows of these VMs; not to be changed.

        Reports name the same VMs second by second, so the last answer is kept: the very same tuple has the same rows.
        """
        if self._asked is not None and self._asked[0] is vms:
            return self._asked[1]
        rows = np.fromiter((self.row(vm) for vm in vms), np.intp, len(vms))
        if isinstance(vms, tuple):
            self._asked = vms, rows
        return rows

    def _grow(self, room: int) -> None:
        for name, old in self._arrays.items():
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            self._arrays[name] = new
        self._room = room

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of a row of each array."""
        return {name: array.shape[1:] for name, array in self._arrays.items()}

    def most(self, name: str, most: float) -> float:
        """The largest value that an array can hold, of those up to ``most``."""
        return min(most, MOST_COUNTED) if self._arrays[name].dtype == np.uint16 else most

    def copies(self, vms: Sequence[VmId]) -> Copies:
        """What is known of these VMs, a row each: zeros of who has no row, and none gets one."""
        known = [(n, self._rows[vm]) for n, vm in enumerate(vms) if vm in self._rows]
        places, rows = [n for n, _ in known], [row for _, row in known]
        found: Copies = {}
        for name, array in self._arrays.items():
            found[name] = np.zeros((len(vms), *array.shape[1:]), array.dtype)
            found[name][places] = array[rows]
        return found

    def put(self, vms: Sequence[VmId], known: Copies) -> None:
        """These VMs' rows are what ``copies`` gave, of arrays with the same names."""
        rows = self.rows(vms)
        for name, array in self._arrays.items():
            array[rows] = known[name]

    def remember(self) -> Kept:
        """All rows."""
        return Kept(self.vms, self.copies(self.vms))

    def check(self, known: Kept, *, most: float) -> None:
        """``ValueError`` if this is not what ``remember`` gives, or holds a value below zero or above ``most``."""
        if {name: array.shape for name, array in known.arrays.items()} != {
            name: (len(known.vms), *shape) for name, shape in self.shapes.items()
        }:
            raise ValueError("it is of another version")
        if len(set(known.vms)) != len(known.vms):
            raise ValueError("it knows a VM twice")
        for name, array in known.arrays.items():
            if not ((array >= 0) & (array <= self.most(name, most))).all():  # nor is NaN
                raise ValueError("it has impossible values")

    def keep(self, vms: Iterable[VmId]) -> None:
        """Drop the rows of all others."""
        wanted = set(vms)
        if self._rows.keys() <= wanted:
            return
        kept = [vm for vm in self._rows if vm in wanted]
        rows = [self._rows[vm] for vm in kept]
        for array in self._arrays.values():
            array[: len(rows)] = array[rows]
        self._rows = {vm: _number(row) for row, vm in enumerate(kept)}
        self._asked = None

    def drop(self, vms: Iterable[VmId]) -> None:
        """Drop the rows of these."""
        self.keep(self._rows.keys() - set(vms))

    def clear(self) -> None:
        """Drop every row."""
        self._rows = {}
        self._asked = None
