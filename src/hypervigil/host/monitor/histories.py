"""Histories as bytes: what the monitor keeps on disk and what ``hypervigil history export`` gives."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hypervigil.host.hsem.history import Remembered
from hypervigil.host.hsem.table import Copies, Kept
from hypervigil.model.ids import VmId

COMPRESSION = 3
"""A third of NumPy's own choice in time, for a tenth more bytes: it is written every few seconds."""
VMS = "vms"
LONGEST = 64
"""Characters of a VM's id; a UUID has 36."""
HABITS = "habits."
"""The names of what is known of habits begin so; a history of an earlier version has none."""


def encode(known: Remembered) -> bytes:
    """NumPy's npz."""
    arrays = {
        VMS: _written(known.vms),
        "histogram": known.histogram,
        "samples": known.samples,
        **{HABITS + name: array for name, array in (known.habits or {}).items()},
        **_named("told", known.told),
        **_named("ports", known.ports),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


def _named(part: str, known: Kept | None) -> Copies:
    if known is None:
        return {}
    arrays = {f"{part}.{name}": array for name, array in known.arrays.items()}
    return {f"{part}.{VMS}": _written(known.vms), **arrays}


def _part(part: str, stored: Mapping[str, npt.NDArray[Any]]) -> Kept | None:
    """What ``_named`` gave, if it is there."""
    names = [name for name in stored if name.startswith(f"{part}.") and name != f"{part}.{VMS}"]
    if not names:
        return None
    arrays = {name.removeprefix(f"{part}."): stored[name].astype(np.float32) for name in names}
    return Kept(_vms(stored[f"{part}.{VMS}"]), arrays)


def _written(vms: tuple[VmId, ...]) -> npt.NDArray[np.str_]:
    return np.array(vms, dtype=f"U{LONGEST}")


def _vms(untrusted_names: npt.NDArray[Any]) -> tuple[VmId, ...]:
    """``ValueError`` where one is longer than is written, so that none becomes another's."""
    names = tuple(VmId(str(name)) for name in untrusted_names)
    if any(len(name) > LONGEST for name in names):
        raise ValueError("a VM's name is too long")
    return names


def decode(untrusted_bytes: bytes) -> Remembered:
    """What ``encode`` gave; ``ValueError`` otherwise."""
    try:
        with np.load(io.BytesIO(untrusted_bytes), allow_pickle=False) as stored:
            vms = _vms(stored[VMS])
            habits = {
                name.removeprefix(HABITS): stored[name].astype(np.float32)
                for name in stored.files
                if name.startswith(HABITS)
            }
            history = stored["histogram"].astype(np.float32), stored["samples"].astype(np.float32)
            return Remembered(vms, *history, habits or None, _part("told", stored), _part("ports", stored))
    except (
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,  # encrypted, or packed by a method that is not there
        zipfile.BadZipFile,
        zlib.error,
        MemoryError,
    ) as error:
        raise ValueError(f"it is no history ({type(error).__name__})") from error
