"""Histories as bytes: what the monitor keeps on disk and what ``hypervigil history export`` gives."""

import io
import zipfile

import numpy as np

from hypervigil.host.hsem.history import Remembered
from hypervigil.model.ids import VmId

COMPRESSION = 3
"""A third of NumPy's own choice in time, for a tenth more bytes: it is written every few seconds."""
HABITS = "habits."
"""The names of what is known of habits begin so; a history of an earlier version has none."""


def encode(known: Remembered) -> bytes:
    """NumPy's npz."""
    arrays = {
        "vms": np.array(known.vms, dtype="U64"),
        "histogram": known.histogram,
        "samples": known.samples,
        **{HABITS + name: array for name, array in (known.habits or {}).items()},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


def decode(untrusted_bytes: bytes) -> Remembered:
    """What ``encode`` gave; ``ValueError`` otherwise."""
    try:
        with np.load(io.BytesIO(untrusted_bytes), allow_pickle=False) as stored:
            vms = tuple(VmId(str(vm)) for vm in stored["vms"])
            habits = {
                name.removeprefix(HABITS): stored[name].astype(np.float32)
                for name in stored.files
                if name.startswith(HABITS)
            }
            history = stored["histogram"].astype(np.float32), stored["samples"].astype(np.float32)
            return Remembered(vms, *history, habits or None)
    except (
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        zipfile.BadZipFile,
        MemoryError,
    ) as error:
        raise ValueError(f"it is no history ({type(error).__name__})") from error
